/* Content that comes with records, or that a former name has here: taken over once, or removed. */
#include "engine_fixture.h"

static uint64_t content_files(struct server *s)
{
	struct cache_usage u;

	assert_int_equal(cache_usage(s->cache, &u), 0);
	return u.content_files;
}

static void stray_content_is_removed(void **state)
{
	struct server *s = *state;
	CLEANUP(buf_done) struct buf bytes = {0};
	struct merge_batch *b;
	struct record r;

	do_write(&s[0], "f", "hello");
	seal(&s[0]);
	make_record(&s[0], "f", &r, &bytes);
	assert_int_equal(merge_batch_new(s[1].cache, merger_options(&s[1]), &b), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(merge_batch_add_record(b, &r), 0);
	assert_int_equal(merge_batch_commit(b, NULL, NULL), 0);
	merge_batch_free(b);
	assert_content(&s[1], "f", "hello");
	/* A batch that is given up. */
	do_write(&s[0], "f", "again");
	seal(&s[0]);
	record_done(&r);
	make_record(&s[0], "f", &r, &bytes);
	assert_int_equal(merge_batch_new(s[1].cache, merger_options(&s[1]), &b), 0);
	assert_int_equal(merge_batch_add_record(b, &r), 0);
	merge_batch_free(b);
	record_done(&r);
	assert_content(&s[1], "f", "hello");
	assert_int_equal(content_files(&s[1]), 1);
}

static void moved_content_is_cloned(void **state)
{
	struct server *s = *state;
	struct local_state l;
	struct conn *conn;
	struct record r;

	do_write(&s[0], "old", "hello");
	seal(&s[0]);
	carry(&s[0], &s[1], "old");
	do_rename(&s[0], "old", "new");
	seal(&s[0]);
	r = (struct record){0};
	get_entry(&s[0], "new", &r.entry);
	assert_true(key_set(&r.key, slice_of("new")));
	assert_true(key_set(&r.moved_from, slice_of("old")));
	merge_one(&s[1], &r);
	record_done(&r);
	assert_content(&s[1], "new", "hello");
	/* Without it the content is remote. */
	do_write(&s[0], "f", "far away");
	seal(&s[0]);
	get_entry(&s[0], "f", &r.entry);
	assert_true(key_set(&r.key, slice_of("f")));
	merge_one(&s[1], &r);
	record_done(&r);
	assert_int_equal(cache_read_begin(s[1].cache, &conn), 0);
	assert_int_equal(journal_local_state(conn, slice_of("f"), &l), 0);
	cache_read_end(conn);
	assert_int_equal(l.kind, KIND_FILE);
	assert_int_equal(l.size, 8);
	local_state_done(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(stray_content_is_removed),
		TEST(moved_content_is_cloned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
