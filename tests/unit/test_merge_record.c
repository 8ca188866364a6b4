/* One record against the entry here: registers, conflicts, what is held, and what the tree makes of it. */
#include "engine_fixture.h"

#include "cache/held.h"
#include "src/base/metrics.h"

static struct conflict_seen {
	unsigned count;
	uint64_t ino;
	uint64_t size;
	char key[100];
} seen;

static int see(void *ctx, uint64_t id, struct slice key, const struct entry *loser, uint64_t ino,
	int64_t at_ms, const char *reason)
{
	seen.count++;
	seen.ino = ino;
	seen.size = loser->size;
	snprintf(seen.key, sizeof(seen.key), "%.*s", (int)key.len, key.p);
	return 0;
}

static void see_conflicts(struct server *s)
{
	struct conn *conn;

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(conflict_scan(conn, 0, 100, see, NULL), 0);
	cache_read_end(conn);
}

static void concurrent_writes(void **state)
{
	struct server *s = *state;
	uint64_t before = metric_get(METRIC_CONFLICTS);
	struct file *f;
	char p[32] = {0};

	do_write(&s[0], "f", "from a");
	clock_sleep_ms(2); /* stamps of one millisecond are ordered by node */
	do_write(&s[1], "f", "from b, later");
	seal(&s[0]);
	seal(&s[1]);
	outbox_empty(&s[1]);
	carry(&s[0], &s[1], "f");
	carry(&s[1], &s[0], "f");
	assert_content(&s[0], "f", "from b, later");
	assert_converged(&s[0], &s[1]);
	assert_int_equal(conflicts(&s[0]), 1);
	assert_int_equal(conflicts(&s[1]), 1);
	assert_int_equal(metric_get(METRIC_CONFLICTS) - before, 2);
	/* The loser's writer keeps what it wrote, and has nothing more to deliver. */
	see_conflicts(&s[0]);
	assert_string_equal(seen.key, "f");
	assert_int_equal(seen.size, 6);
	assert_int_not_equal(seen.ino, 0);
	assert_int_equal(file_open(s[0].cache, seen.ino, false, false, &f), 0);
	assert_int_equal(file_read(f, p, sizeof(p), 0), 6);
	assert_string_equal(p, "from a");
	file_release(f);
	assert_int_equal(outbox(&s[0]).rows, 0);
	/* The winner repairs its object without telling again. */
	assert_int_equal(outbox(&s[1]).rows, 1);
	assert_int_equal(outbox(&s[1]).unannounced, 0);
	/* Seen again, it is known. */
	outbox_empty(&s[1]);
	carry(&s[0], &s[1], "f");
	carry(&s[1], &s[0], "f");
	assert_int_equal(conflicts(&s[0]), 1);
	assert_int_equal(conflicts(&s[1]), 1);
	assert_int_equal(outbox(&s[1]).rows, 0);
}

/* A write here and a chmod there: both survive, and both get out. */
static void registers_merge(void **state)
{
	struct server *s = *state;
	struct entry e;

	do_write(&s[0], "f", "first");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	outbox_empty(&s[0]);
	do_write(&s[0], "f", "second");
	do_chmod(&s[1], "f", 0600);
	seal(&s[0]);
	seal(&s[1]);
	assert_int_equal(outbox(&s[1]).rows, 1);
	outbox_empty(&s[0]);
	carry(&s[0], &s[1], "f");
	/* b's row waited: it carries both now. */
	assert_int_equal(outbox(&s[1]).unannounced, 1);
	get_entry(&s[1], "f", &e);
	assert_int_equal(e.mode, 0600);
	assert_int_equal(e.size, 6);
	entry_done(&e);
	assert_content(&s[1], "f", "second");
	carry(&s[1], &s[0], "f");
	assert_converged(&s[0], &s[1]);
	assert_int_equal(conflicts(&s[0]) + conflicts(&s[1]), 0);
	assert_content(&s[0], "f", "second");
}

/* What is open for writing and sealed is the file of the entry, though its row has no size yet. */
static void file_that_is_open_gets_another_name(void **state)
{
	struct server *s = *state;
	struct inode i, j;
	struct file *f;

	assert_int_equal(tree_create_open(s[1].cache, ROOT_INO, slice_of("x"), S_IFREG | 0644, 1000,
				 1000, true, &i, &f),
		0);
	assert_int_equal(file_write(f, "hello", 5, 0, false), 5);
	assert_int_equal(file_fsync(f, true), 0);
	seal(&s[1]);
	carry(&s[1], &s[0], "x");
	do_link(&s[0], "x", "y");
	seal(&s[0]);
	carry_all(&s[0], &s[1]);
	assert_int_equal(ino_of(&s[1], slice_of("x")), i.ino);
	assert_int_equal(ino_of(&s[1], slice_of("y")), i.ino);
	/* What is written goes to both. */
	assert_int_equal(file_write(f, " again", 6, 5, false), 6);
	file_release(f);
	seal(&s[1]);
	assert_int_equal(tree_getattr(s[1].cache, i.ino, &j), 0);
	assert_int_equal(j.nlink, 2);
	carry_all(&s[1], &s[0]);
	assert_content(&s[0], "y", "hello again");
	assert_int_equal(ino_of(&s[0], slice_of("x")), ino_of(&s[0], slice_of("y")));
	assert_converged(&s[0], &s[1]);
	assert_int_equal(conflicts(&s[0]) + conflicts(&s[1]), 0);
}

static void far_future_is_held(void **state)
{
	struct server *s = *state;
	CLEANUP(buf_done) struct buf bytes = {0};
	uint64_t held, clock;
	struct conn *conn;
	struct record r;

	do_write(&s[0], "f", "hello");
	seal(&s[0]);
	make_record(&s[0], "f", &r, &bytes);
	clock = hlc_now(cache_clock(s[1].cache));
	r.entry.attr_stamp.time = (uint64_t)(clock_realtime_ms() + 400000) << 16;
	merge_one(&s[1], &r);
	assert_false(exists(&s[1], "f"));
	/* A time in the vector is as good a way to push the clock. */
	r.entry.attr_stamp = r.entry.content_stamp;
	vector_raise(&r.entry.vector, (struct stamp){UINT64_MAX, 5});
	merge_one(&s[1], &r);
	assert_false(exists(&s[1], "f"));
	assert_true(hlc_ms(hlc_now(cache_clock(s[1].cache))) < hlc_ms(clock) + 200000);
	assert_int_equal(cache_read_begin(s[1].cache, &conn), 0);
	assert_int_equal(held_count(conn, &held), 0);
	cache_read_end(conn);
	assert_int_equal(held, 2);
	record_done(&r);
	/* Within the tolerance it is merged, and later writes here exceed it. */
	make_record(&s[0], "f", &r, &bytes);
	r.entry.attr_stamp.time = (uint64_t)(clock_realtime_ms() + 200000) << 16;
	merge_one(&s[1], &r);
	assert_true(exists(&s[1], "f"));
	assert_true(hlc_now(cache_clock(s[1].cache)) > r.entry.attr_stamp.time);
	record_done(&r);
}

static void removed_directory_gains_a_file(void **state)
{
	struct server *s = *state;

	do_mkdir(&s[0], "d");
	assert_int_equal(sealer_seal_all(s[0].sealer, NULL, NULL), 0);
	carry_all(&s[0], &s[1]);
	do_rmdir(&s[0], "d");
	do_write(&s[1], "d/f", "kept");
	assert_int_equal(sealer_seal_all(s[0].sealer, NULL, NULL), 0);
	seal(&s[1]);
	carry_all(&s[0], &s[1]);
	carry_all(&s[1], &s[0]);
	carry_all(&s[0], &s[1]);
	assert_content(&s[0], "d/f", "kept");
	assert_content(&s[1], "d/f", "kept");
	assert_converged(&s[0], &s[1]);
}

/* Nobody saw the file when the directory over it was renamed. */
static void a_hidden_file_does_not_go_with_the_directory(void **state)
{
	struct server *s = *state;
	struct file *f;
	char p[32] = {0};

	do_mkdir(&s[0], "d");
	do_write(&s[0], "d/x", "below");
	do_write(&s[1], "d", "kept");
	seal(&s[0]);
	seal(&s[1]);
	carry(&s[0], &s[1], "d/x");
	assert_content(&s[1], "d/x", "below");
	assert_int_equal(conflicts(&s[1]), 0);
	do_rename(&s[1], "d", "e");
	assert_int_equal(sealer_seal_all(s[1].sealer, NULL, NULL), 0);
	assert_false(exists(&s[1], "d"));
	assert_content(&s[1], "e/x", "below");
	assert_int_equal(conflicts(&s[1]), 1);
	see_conflicts(&s[1]);
	assert_int_equal(seen.count, 1);
	assert_string_equal(seen.key, "d");
	assert_int_equal(seen.size, 4);
	assert_int_not_equal(seen.ino, 0);
	assert_int_equal(file_open(s[1].cache, seen.ino, false, false, &f), 0);
	assert_int_equal(file_read(f, p, sizeof(p), 0), 4);
	assert_string_equal(p, "kept");
	file_release(f);
	/* What is written there later replaces the removal, and not what was kept. */
	do_write(&s[1], "d", "new");
	seal(&s[1]);
	do_write(&s[1], "d", "newer");
	seal(&s[1]);
	assert_int_equal(conflicts(&s[1]), 1);
	see_conflicts(&s[1]);
	assert_int_equal(seen.size, 4);
}

/* On s[0] nobody made d/e, and d gets another owner. */
static void imply_and_give(struct server *s)
{
	struct inode v = {.uid = 7, .gid = 8}, i;

	do_mkdir(&s[1], "d");
	do_mkdir(&s[1], "d/e");
	do_write(&s[1], "d/e/f", "deep");
	assert_int_equal(sealer_seal_all(s[1].sealer, NULL, NULL), 0);
	carry(&s[1], &s[0], "d");
	carry(&s[1], &s[0], "d/e/f");
	assert_int_equal(
		tree_setattr(s[0].cache, ino_of(&s[0], slice_of("d")), SET_UID | SET_GID, &v, &i),
		0);
}

/* A directory that nobody made here follows its parent's owner, also when that changes here. */
static void implied_directory_follows_owner(void **state)
{
	struct server *s = *state;
	struct inode i;

	imply_and_give(s);
	seal(&s[0]);
	assert_int_equal(tree_getattr(s[0].cache, ino_of(&s[0], slice_of("d/e")), &i), 0);
	assert_int_equal(i.uid, 7);
	assert_int_equal(i.gid, 8);
}

/* What an application says of it stays, however near the parent's change that was. */
static void implied_directory_has_an_owner_of_its_own(void **state)
{
	struct server *s = *state;
	struct inode own = {.uid = 9, .gid = 10}, i;

	imply_and_give(s);
	assert_int_equal(
		tree_setattr(s[0].cache, ino_of(&s[0], slice_of("d/e")), SET_UID | SET_GID, &own, &i),
		0);
	seal(&s[0]);
	carry(&s[0], &s[1], "d");
	carry(&s[0], &s[1], "d/e");
	for (unsigned n = 0; n < 2; n++) {
		assert_int_equal(tree_getattr(s[n].cache, ino_of(&s[n], slice_of("d/e")), &i), 0);
		assert_int_equal(i.uid, 9);
		assert_int_equal(i.gid, 10);
	}
}

static void root_attributes(void **state)
{
	struct server *s = *state;
	struct inode v = {.mode = 0711}, i;

	assert_int_equal(tree_setattr(s[0].cache, ROOT_INO, SET_MODE, &v, &i), 0);
	seal(&s[0]);
	carry(&s[0], &s[1], "");
	assert_int_equal(tree_getattr(s[1].cache, ROOT_INO, &i), 0);
	assert_int_equal(i.mode & 07777, 0711);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(concurrent_writes),
		TEST(registers_merge),
		TEST(file_that_is_open_gets_another_name),
		TEST(far_future_is_held),
		TEST(removed_directory_gains_a_file),
		TEST(a_hidden_file_does_not_go_with_the_directory),
		TEST(implied_directory_follows_owner),
		TEST(implied_directory_has_an_owner_of_its_own),
		TEST(root_attributes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
