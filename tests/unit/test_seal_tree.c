/* Renames of directories: everything below gets its new name, with what goes on meanwhile. */
#include "engine_fixture.h"

#include "replicator/seal_internal.h"
#include "src/base/metrics.h"

static void make_tree(struct server *s, unsigned files)
{
	char path[64];

	do_mkdir(s, "old");
	do_mkdir(s, "old/sub");
	do_symlink(s, "old/link", "sub");
	for (unsigned i = 0; i < files; i++) {
		snprintf(path, sizeof(path), i % 2 ? "old/f%03u" : "old/sub/f%03u", i);
		do_write(s, path, path);
	}
}

static void check_tree(struct server *s, unsigned files)
{
	CLEANUP(entry_done) struct entry e = {0};
	char path[64];

	for (unsigned i = 0; i < files; i++) {
		snprintf(path, sizeof(path), i % 2 ? "old/f%03u" : "old/sub/f%03u", i);
		get_entry(s, path, &e);
		assert_int_equal(e.kind, KIND_ABSENT);
		assert_true(e.content_stamp.time != 0);
		snprintf(path, sizeof(path), i % 2 ? "new/f%03u" : "new/sub/f%03u", i);
		get_entry(s, path, &e);
		assert_int_equal(e.kind, KIND_FILE);
	}
	get_entry(s, "new/link", &e);
	assert_int_equal(e.kind, KIND_SYMLINK);
	entry_done(&e);
	get_entry(s, "old/sub", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	get_entry(s, "new/sub", &e);
	assert_int_equal(e.kind, KIND_DIR);
	get_entry(s, "old", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	assert_int_equal(journal_rows(s), 0);
}

static void directory_rename(void **state)
{
	struct server *s = *state;

	make_tree(s, 30);
	seal(s);
	do_write(s, "old/f001", "changed before");
	do_rename(s, "old", "new");
	do_write(s, "new/f003", "changed after");
	seal(s);
	check_tree(s, 30);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "new/f001", "changed before");
	assert_content(&s[1], "new/f003", "changed after");
	assert_content(&s[1], "new/f005", "old/f005");
	assert_false(exists(&s[1], "old"));
	assert_converged(&s[0], &s[1]);
}

static int end_at(void *ctx)
{
	unsigned *left = ctx;

	return --*left ? 0 : -ETIMEDOUT;
}

/* Whoever waits may have enough of it between two batches; another call does the rest. */
static void a_long_rename_is_left_and_gone_on_with(void **state)
{
	struct server *s = *state;
	unsigned left = 2;

	make_tree(s, 2500);
	seal(s);
	do_rename(s, "old", "new");
	assert_int_equal(sealer_seal_all(s->sealer, end_at, &left), -ETIMEDOUT);
	assert_int_equal(left, 0);
	assert_true(journal_rows(s) > 0);
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	check_tree(s, 2500);
}

static bool is_sealed(struct server *s, const char *key)
{
	struct entry e = {0};
	struct conn *conn;
	bool live;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	live = entry_get(conn, slice_of(key), &e) == 0 && entry_live(&e);
	cache_read_end(conn);
	entry_done(&e);
	return live;
}

/* It takes many steps, and each of them seals what waits behind it, too, but for what lies in the renamed
 * directory, and further renames. */
static void others_go_on_during_a_long_rename(void **state)
{
	struct server *s = *state;
	struct seal_progress *p = calloc(1, sizeof(*p));
	unsigned steps = 0, rounds = 0;
	char key[32];
	bool did;

	assert_non_null(p);
	make_tree(s, 5000);
	do_mkdir(s, "small");
	do_write(s, "small/file", "small");
	seal(s);
	do_rename(s, "old", "new");
	do_write(s, "new/f001", "changed after");
	do_rename(s, "small", "smaller");
	do_write(s, "other", "0");
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_true(did);
	assert_true(is_sealed(s, "other"));
	assert_true(is_sealed(s, "old/f001"));
	assert_true(is_sealed(s, "small/file"));
	/* What `meridian status` shows of it. */
	assert_true(sealer_progress(s->sealer, p));
	assert_string_equal(p->from.p, "old");
	assert_string_equal(p->to.p, "new");
	assert_in_range(p->done, 1, p->total - 1);
	assert_in_range(p->total, 10000, 10100); /* each goes and comes */
	for (did = true; did; steps++) {
		bool renaming = is_sealed(s, "old/f001");

		snprintf(key, sizeof(key), "other%u", steps);
		if (renaming)
			do_write(s, key, "more");
		assert_int_equal(sealer_step(s->sealer, &did), 0);
		rounds += renaming;
		assert_true(!renaming || is_sealed(s, key));
		assert_true(!is_sealed(s, "smaller/file") || !is_sealed(s, "old/f001"));
	}
	assert_true(rounds >= 3);
	assert_false(sealer_progress(s->sealer, p));
	free(p);
	assert_true(is_sealed(s, "smaller/file"));
	assert_false(is_sealed(s, "small/file"));
	check_tree(s, 5000);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "new/f001", "changed after");
	assert_converged(&s[0], &s[1]);
}

/* The name is in use again before anything was sealed. */
static void directory_rename_and_new_one(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};

	make_tree(s, 6);
	seal(s);
	do_rename(s, "old", "new");
	do_mkdir(s, "old");
	do_write(s, "old/f001", "another");
	do_rename(s, "new", "newer");
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	get_entry(s, "old/f001", &e);
	assert_int_equal(e.size, 7);
	get_entry(s, "old/f003", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	get_entry(s, "new/f001", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	carry_all(&s[0], &s[1]);
	assert_converged(&s[0], &s[1]);
	assert_content(&s[1], "newer/f003", "old/f003");
	assert_content(&s[1], "old/f001", "another");
}

/* What is there under the new name is sealed at once when somebody asks for one key of it. */
static void one_key_below_a_renamed_directory(void **state)
{
	struct server *s = *state;

	make_tree(s, 4);
	seal(s);
	do_rename(s, "old", "new");
	assert_int_equal(sealer_seal_key(s->sealer, slice_of("new/f001")), 0);
	check_tree(s, 4);
}

static bool is_whole(struct server *s, const struct outbox_row *rows, unsigned n)
{
	struct conn *conn;
	bool closed = false;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_cut_closed(conn, s->region, rows, n, &closed), 0);
	cache_read_end(conn);
	return closed;
}

/* Nobody sees some of the names of a directory, in whatever order they were changed. */
static void a_small_directory_is_one_cut(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	unsigned count;

	make_tree(s, 8);
	seal(s);
	outbox_empty(s);
	do_rename(s, "old", "new");
	do_write(s, "new/f001", "changed after");
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	count = outbox_rows(s, OUTBOX_ANNOUNCE, rows);
	assert_int_equal(count, 22);
	for (unsigned i = 0; i < count; i++) {
		assert_false(is_whole(s, &rows[i], 1));
		assert_true(i == 0 || rows[i].first > rows[i - 1].first);
	}
	/* All of the new name with both names in the root, then the old one, then what was below that. */
	for (unsigned i = 1; i <= count; i++)
		assert_int_equal(is_whole(s, rows, i), i == 12 || i == 18 || i == 22);
	free(rows);
}

static const char *moved_to(struct server *s, const char *key, struct outbox_row *row)
{
	struct conn *conn;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_get(conn, s->region, slice_of(key), row), 0);
	cache_read_end(conn);
	return row->moved_to.len ? row->moved_to.p : "";
}

/* What is renamed or changed right before and after its directory is renamed, is known by what it is called
 * in the end: its former names wait for that. */
static void former_names_know_the_last_one(void **state)
{
	struct server *s = *state;
	struct outbox_row *row = calloc(1, sizeof(*row));

	make_tree(s, 8);
	do_mkdir(s, "other");
	do_write(s, "other/a", "a");
	seal(s);
	outbox_empty(s);
	do_rename(s, "other/a", "old/a");
	do_rename(s, "old/f001", "old/b");
	do_rename(s, "old/f003", "other/c");
	do_write(s, "old/f005", "changed before");
	do_rename(s, "old", "new");
	do_rename(s, "new/f007", "new/d");
	do_rename(s, "new/sub/f000", "other/e");
	do_rename(s, "new", "newest");
	seal(s);
	assert_string_equal(moved_to(s, "other/a", row), "newest/a");
	assert_string_equal(moved_to(s, "old/f001", row), "newest/b");
	assert_string_equal(moved_to(s, "old/f003", row), "other/c");
	assert_string_equal(moved_to(s, "old/f005", row), "newest/f005");
	assert_string_equal(moved_to(s, "old/f007", row), "newest/d");
	assert_string_equal(moved_to(s, "old/sub/f000", row), "other/e");
	assert_string_equal(moved_to(s, "old/sub/f002", row), "newest/sub/f002");
	free(row);
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	carry_all(&s[0], &s[1]);
	assert_converged(&s[0], &s[1]);
	assert_content(&s[1], "newest/d", "old/f007");
}

static int64_t now_ms;

static int64_t realtime(void *ctx UNUSED)
{
	return (1700000000000 + now_ms) * 1000000;
}

static int64_t monotonic(void *ctx UNUSED)
{
	return now_ms;
}

static void write_huge(struct server *s, const char *path)
{
	struct inode i = {.size = (uint64_t)8 << 30};

	do_write(s, path, "");
	assert_int_equal(tree_setattr(s->cache, ino_of(s, slice_of(path)), SET_SIZE, &i, &i), 0);
}

/* One file that cannot be had holds back the directory, but not for ever. */
static void a_file_that_waits_holds_the_rename(void **state)
{
	const struct clock_source source = {.realtime_ns = realtime, .monotonic_ms = monotonic};
	struct server *s = *state;
	bool did;

	make_tree(s, 8);
	seal(s);
	write_huge(s, "old/large");
	content_stop_hashing(s->cache, 0);
	do_rename(s, "old", "new");
	do_write(s, "new/f001", "changed after");
	clock_set_source(&source);
	for (now_ms = 1000; now_ms < 60000; now_ms += 1000) {
		assert_int_equal(sealer_step(s->sealer, &did), 0);
		assert_false(is_sealed(s, "new/f001"));
		assert_true(is_sealed(s, "old/f001"));
	}
	for (; now_ms < 70000; now_ms += 1000)
		assert_int_equal(sealer_step(s->sealer, &did), 0);
	clock_set_source(NULL);
	assert_true(is_sealed(s, "new/f003"));
	assert_false(is_sealed(s, "old/f003"));
	assert_false(is_sealed(s, "new/large"));
	content_stop_hashing(s->cache, INT64_MAX);
	do_write(s, "new/large", "small");
	for (unsigned n = 0; n < 60 && journal_rows(s); n++)
		seal(s);
	assert_true(is_sealed(s, "new/large"));
	assert_true(is_sealed(s, "new/f001"));
}

/* A directory gets many names one after the other, more than a set has room for: they are one change all the same,
 * and each file's former name waits for the last one. */
static void renames_in_a_row_are_one(void **state)
{
	struct server *s = *state;
	struct outbox_row *row = calloc(1, sizeof(*row));
	uint64_t grown = metric_get(METRIC_SETS_GROWN);
	bool did;

	make_tree(s, 1400);
	seal(s);
	outbox_empty(s);
	do_rename(s, "old", "one");
	do_write(s, "one/f001", "changed meanwhile");
	do_rename(s, "one", "two");
	do_rename(s, "two", "three");
	do_rename(s, "three", "four");
	do_rename(s, "four", "new");
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_true(did);
	check_tree(s, 1400);
	assert_string_equal(moved_to(s, "old/f001", row), "new/f001");
	assert_string_equal(moved_to(s, "old/sub/f002", row), "new/sub/f002");
	assert_true(metric_get(METRIC_SETS_GROWN) > grown);
	free(row);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "new/f001", "changed meanwhile");
	assert_converged(&s[0], &s[1]);
}

/* A directory has its first name again in between, and a file that left it before goes its own way. */
static void there_and_back_and_on(void **state)
{
	struct server *s = *state;
	struct outbox_row *row = calloc(1, sizeof(*row));
	bool did;

	do_mkdir(s, "k");
	do_write(s, "k/file", "content");
	do_write(s, "k/left", "leaves");
	do_write(s, "k/removed", "goes");
	seal(s);
	outbox_empty(s);
	do_rename(s, "k/left", "elsewhere");
	do_unlink(s, "k/removed");
	do_rename(s, "k", "j");
	do_rename(s, "j", "k");
	do_rename(s, "k", "i");
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_int_equal(journal_rows(s), 0);
	assert_string_equal(moved_to(s, "k/file", row), "i/file");
	assert_string_equal(moved_to(s, "k/left", row), "elsewhere");
	assert_string_equal(moved_to(s, "k/removed", row), "");
	free(row);
}

/* More than the largest set has room for are sealed, too, after some rounds. */
static void renames_in_a_row_come_to_an_end(void **state)
{
	struct server *s = *state;
	unsigned steps = 0;
	bool did;

	server_cramp(s, 40, 60);
	make_tree(s, 24);
	seal(s);
	carry_all(&s[0], &s[1]);
	do_rename(s, "old", "one");
	do_rename(s, "one", "two");
	do_write(s, "two/f001", "changed meanwhile");
	do_rename(s, "two", "three");
	do_rename(s, "three", "four");
	do_rename(s, "four", "new");
	for (; journal_rows(s); steps++) {
		assert_in_range(steps, 0, 40);
		assert_int_equal(sealer_step(s->sealer, &did), 0);
	}
	check_tree(s, 24);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "new/f001", "changed meanwhile");
	assert_content(&s[1], "new/f003", "old/f003");
	assert_converged(&s[0], &s[1]);
}

/* Behind the rename of a large directory there may be what was changed before it, again: that is not
 * shown in its last state without what was changed in between. */
static void a_large_rename_tears_nothing(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry mark = {0};
	unsigned steps = 0;
	bool did;

	make_tree(s, 2500);
	do_mkdir(s, "others");
	seal(s);
	do_write(s, "others/mark", "1");
	do_rename(s, "old", "new");
	do_write(s, "others/data", "2");
	do_write(s, "others/mark", "22");
	for (; journal_rows(s); steps++) {
		assert_in_range(steps, 0, 20);
		assert_int_equal(sealer_step(s->sealer, &did), 0);
		get_entry(s, "others/mark", &mark);
		assert_true(mark.size < 2 || is_sealed(s, "others/data"));
		entry_done(&mark);
	}
	assert_true(is_sealed(s, "others/mark"));
	check_tree(s, 2500);
}

/* Two that wait, in different batches: each is given up in the end, the second one right behind the first. */
static void renames_that_wait_are_given_up_in_turn(void **state)
{
	const struct clock_source source = {.realtime_ns = realtime, .monotonic_ms = monotonic};
	struct server *s = *state;
	bool did;

	server_cramp(s, 10, 10);
	content_stop_hashing(s->cache, 0);
	do_mkdir(s, "a");
	do_mkdir(s, "c");
	do_write(s, "a/file", "a");
	do_write(s, "c/file", "c");
	seal(s);
	write_huge(s, "a/large");
	do_rename(s, "a", "b");
	write_huge(s, "c/large");
	do_rename(s, "c", "d");
	clock_set_source(&source);
	for (now_ms = 1000; now_ms < 60000; now_ms += 1000) {
		assert_int_equal(sealer_step(s->sealer, &did), 0);
		assert_false(is_sealed(s, "b/file"));
		assert_false(is_sealed(s, "d/file"));
	}
	for (; now_ms < 70000; now_ms += 1000)
		assert_int_equal(sealer_step(s->sealer, &did), 0);
	clock_set_source(NULL);
	assert_true(is_sealed(s, "b/file"));
	assert_true(is_sealed(s, "d/file"));
	assert_false(is_sealed(s, "d/large"));
	content_stop_hashing(s->cache, INT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(directory_rename),
		TEST(a_long_rename_is_left_and_gone_on_with),
		TEST(others_go_on_during_a_long_rename),
		TEST(directory_rename_and_new_one),
		TEST(one_key_below_a_renamed_directory),
		TEST(a_small_directory_is_one_cut),
		TEST(former_names_know_the_last_one),
		TEST(a_file_that_waits_holds_the_rename),
		TEST(renames_in_a_row_are_one),
		TEST(there_and_back_and_on),
		TEST(renames_in_a_row_come_to_an_end),
		TEST(a_large_rename_tears_nothing),
		TEST(renames_that_wait_are_given_up_in_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
