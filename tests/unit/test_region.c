/* Regions that come, go and return: their ids and numbers stay, and a new one gets what is there. */
#include "tests/unit/replica_fixture.h"

#include "cache/outbox.h"
#include "cache/progress.h"
#include "cache/region.h"

static int reg(struct fixture *f, const char *a, const char *b, bool force, unsigned ids[2])
{
	const char *names[2] = {a, b};
	struct err err = {0};
	int r = region_register(f->cache, names, b ? 2 : 1, force, ids, &err);

	assert_true(r == 0 || err.text[0]);
	return r;
}

static void seed(struct fixture *f, unsigned region)
{
	bool more = true;

	while (more)
		assert_int_equal(region_seed(f->cache, region, &more), 0);
}

static void put_entry(struct conn *conn, const char *key, enum kind kind, uint64_t size)
{
	struct entry e = {.kind = kind, .size = size, .content_stamp = {5 << 16, 1}};

	assert_int_equal(entry_put(conn, slice_of(key), &e), 0);
}

static void ids_and_segment_numbers_outlive_absence(void **state)
{
	struct fixture *f = *state;
	struct region_progress p = {.sent_seq = 7, .sent_name = "s7", .pending_name = "s8"}, got;
	unsigned ids[2], again[2];
	char name[SEGMENT_NAME_SIZE];
	uint64_t seq = 9;
	struct conn *conn;

	assert_int_equal(reg(f, "east", "west", false, ids), 0);
	assert_int_not_equal(ids[0], ids[1]);
	assert_int_equal(reg(f, "west", "east", false, again), 0);
	assert_int_equal(again[0], ids[1]);
	assert_int_equal(again[1], ids[0]);
	conn = fixture_begin(f);
	assert_int_equal(region_progress_set(conn, ids[1], &p), 0);
	assert_int_equal(cursor_set(conn, ids[1], "c1"), 0);
	assert_int_equal(watermark_set(conn, ids[1], UINT64_MAX, 3, "s3"), 0);
	assert_int_equal(watermark_get(conn, ids[1], UINT64_MAX, &seq, name), 0);
	assert_int_equal(seq, 3);
	assert_string_equal(name, "s3");
	assert_int_equal(watermark_get(conn, ids[0], UINT64_MAX, &seq, name), 0);
	assert_int_equal(seq, 0);
	assert_string_equal(name, "");
	fixture_commit(conn);

	assert_int_equal(reg(f, "east", NULL, false, again), 0);
	assert_int_equal(reg(f, "new", "east", false, again), 0);
	assert_int_equal(again[1], ids[0]);
	assert_int_equal(reg(f, "east", NULL, false, again), 0);
	assert_int_equal(reg(f, "east", "west", false, again), 0);
	assert_int_equal(again[1], ids[1]);
	conn = fixture_begin(f);
	assert_int_equal(region_progress_get(conn, ids[1], &got), 0);
	assert_int_equal(got.sent_seq, 7);
	assert_string_equal(got.sent_name, "s7");
	assert_string_equal(got.pending_name, "s8");
	assert_int_equal(cursor_get(conn, ids[1], name), 0);
	assert_string_equal(name, "");
	assert_int_equal(watermark_get(conn, ids[1], UINT64_MAX, &seq, name), 0);
	assert_int_equal(seq, 0);
	fixture_commit(conn);
}

static void bad_names_are_refused(void **state)
{
	struct fixture *f = *state;
	char name[REGION_NAME_SIZE + 1];
	unsigned ids[2];

	memset(name, 'x', sizeof(name));
	name[REGION_NAME_SIZE] = '\0';
	assert_int_equal(reg(f, "a", "a", false, ids), -EINVAL);
	assert_int_equal(reg(f, "a", "", false, ids), -EINVAL);
	assert_int_equal(reg(f, "a", name, false, ids), -EINVAL);
	name[REGION_NAME_SIZE - 1] = '\0';
	assert_int_equal(reg(f, "a", name, false, ids), 0);
}

static void a_region_with_a_backlog_is_not_dropped_silently(void **state)
{
	struct fixture *f = *state;
	const struct outbox_change change = {
		.key = slice_of("k"), .stamp = {1 << 16, 1}, .size = 3};
	struct outbox_stats stats = {0};
	unsigned ids[2], again[2];
	struct conn *conn;

	assert_int_equal(reg(f, "east", "west", false, ids), 0);
	conn = fixture_begin(f);
	assert_int_equal(outbox_enqueue(conn, &change), 0);
	fixture_commit(conn);
	assert_int_equal(reg(f, "east", NULL, false, again), -EBUSY);
	assert_int_equal(reg(f, "east", NULL, true, again), 0);
	conn = fixture_begin(f);
	assert_int_equal(outbox_stats(conn, ids[0], &stats), 0);
	assert_int_equal(stats.rows, 1);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM outbox"), 1);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM outbox_head"), 1);
	fixture_commit(conn);
}

static void a_new_region_gets_what_is_there(void **state)
{
	struct fixture *f = *state;
	struct outbox_row rows[4];
	struct outbox_stats stats = {0};
	unsigned ids[2], n = 0;
	struct conn *conn;

	assert_int_equal(reg(f, "east", NULL, false, ids), 0);
	conn = fixture_begin(f);
	put_entry(conn, "", KIND_DIR, 0);
	for (unsigned i = 0; i < 2500; i++) {
		char key[16];

		snprintf(key, sizeof(key), "d/%u", i);
		put_entry(conn, key, i % 5 ? KIND_FILE : KIND_ABSENT, 10);
	}
	put_entry(conn, "e/edge", KIND_FILE, OUTBOX_INLINE_MAX);
	put_entry(conn, "e/large", KIND_FILE, OUTBOX_INLINE_MAX + 1);
	fixture_commit(conn);
	assert_int_equal(reg(f, "east", "west", false, ids), 0);
	conn = fixture_begin(f);
	assert_int_equal(outbox_stats(conn, ids[0], &stats), 0);
	assert_int_equal(stats.rows, 0);
	assert_int_equal(outbox_stats(conn, ids[1], &stats), 0);
	assert_int_equal(stats.rows, 0);
	fixture_commit(conn);
	seed(f, ids[1]);
	conn = fixture_begin(f);
	assert_int_equal(outbox_stats(conn, ids[1], &stats), 0);
	assert_int_equal(stats.rows, 1 + 2000 + 2);
	assert_int_equal(outbox_due(conn, ids[1], OUTBOX_UPLOAD, 0, 0, 4, rows, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(rows[0].key.p, "e/large");
	assert_false(rows[0].fresh);
	fixture_commit(conn);
	/* Once only. */
	assert_int_equal(reg(f, "east", "west", false, ids), 0);
	seed(f, ids[1]);
	conn = fixture_begin(f);
	assert_int_equal(outbox_drop(conn, slice_of("d/1")), 0);
	/* As a crash between two batches leaves it. */
	assert_int_equal(sqlite3_exec(conn->db,
				 "UPDATE region SET seed_after = x'642f31' WHERE name = 'west';"
				 "DELETE FROM outbox WHERE key = x'642f32'; UPDATE region SET"
				 " rows = rows - 1 WHERE name = 'west'",
				 NULL, NULL, NULL),
		SQLITE_OK);
	fixture_commit(conn);
	assert_int_equal(reg(f, "east", "west", false, ids), 0);
	seed(f, ids[1]);
	conn = fixture_begin(f);
	assert_int_equal(outbox_stats(conn, ids[1], &stats), 0);
	assert_int_equal(stats.rows, 1 + 2000 + 2 - 1);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM outbox"), 1 + 2000 + 2 - 1);
	fixture_commit(conn);
}

static void removals_go_where_the_bucket_was_the_volumes(void **state)
{
	struct fixture *f = *state;
	struct outbox_stats stats = {0};
	unsigned ids[2];
	struct conn *conn;

	assert_int_equal(reg(f, "east", NULL, false, ids), 0);
	conn = fixture_begin(f);
	put_entry(conn, "live", KIND_FILE, 10);
	put_entry(conn, "removed", KIND_ABSENT, 0);
	fixture_commit(conn);
	for (unsigned known = 0; known < 2; known++) {
		assert_int_equal(reg(f, "east", known ? "known" : "new", true, ids), 0);
		assert_int_equal(region_set_used(f->cache, ids[1], known), 0);
		seed(f, ids[1]);
		conn = fixture_begin(f);
		assert_int_equal(outbox_stats(conn, ids[1], &stats), 0);
		assert_int_equal(stats.rows, 1 + known);
		fixture_commit(conn);
	}
	/* Also when nothing else is left. */
	conn = fixture_begin(f);
	put_entry(conn, "live", KIND_ABSENT, 0);
	fixture_commit(conn);
	assert_int_equal(reg(f, "east", "again", true, ids), 0);
	assert_int_equal(region_set_used(f->cache, ids[1], true), 0);
	seed(f, ids[1]);
	conn = fixture_begin(f);
	assert_int_equal(outbox_stats(conn, ids[1], &stats), 0);
	assert_int_equal(stats.rows, 2);
	fixture_commit(conn);
}

/* Also one that is to get what is young only, as it was out for a while. */
static void an_emptied_region_gets_everything(void **state)
{
	struct fixture *f = *state;
	struct outbox_stats stats = {0};
	unsigned ids[2];
	struct conn *conn;

	assert_int_equal(reg(f, "east", NULL, false, ids), 0);
	conn = fixture_begin(f);
	put_entry(conn, "old", KIND_FILE, 10);
	assert_int_equal(sqlite3_exec(conn->db, "UPDATE region SET resync = 2, resync_from = 1000, seed_after = x''",
				 NULL, NULL, NULL),
		SQLITE_OK);
	fixture_commit(conn);
	seed(f, ids[0]);
	conn = fixture_begin(f);
	assert_int_equal(outbox_stats(conn, ids[0], &stats), 0);
	assert_int_equal(stats.rows, 0);
	fixture_commit(conn);
	assert_int_equal(region_seed_again(f->cache, ids[0]), 0);
	seed(f, ids[0]);
	conn = fixture_begin(f);
	assert_int_equal(outbox_stats(conn, ids[0], &stats), 0);
	assert_int_equal(stats.rows, 1);
	fixture_commit(conn);
}

static void content_that_is_elsewhere_keeps_its_region(void **state)
{
	struct fixture *f = *state;
	unsigned ids[2];
	struct conn *conn;

	assert_int_equal(reg(f, "east", NULL, false, ids), 0);
	conn = fixture_begin(f);
	put_entry(conn, "evicted", KIND_FILE, 10);
	assert_int_equal(sqlite3_exec(conn->db,
				 "INSERT INTO inode(ino, parent, name, mode, uid, gid, nlink, size, mtime_ns,"
				 " ctime_ns, atime_ns, state, dirty, xattrs, generation, sealed)"
				 " VALUES(99, 1, x'65', 33188, 0, 0, 1, 10, 0, 0, 0, 2, 0, 0, 0, 0)",
				 NULL, NULL, NULL),
		SQLITE_OK);
	fixture_commit(conn);
	/* A new one instead of it has nothing; beside it, it gets everything first. */
	assert_int_equal(reg(f, "new", NULL, false, ids), -EBUSY);
	assert_int_equal(reg(f, "east", "new", false, ids), 0);
	assert_int_equal(reg(f, "new", NULL, false, ids), -EBUSY);
	seed(f, ids[1]);
	assert_int_equal(reg(f, "new", NULL, false, ids), -EBUSY);
	conn = fixture_begin(f);
	assert_int_equal(outbox_drop(conn, slice_of("evicted")), 0);
	fixture_commit(conn);
	assert_int_equal(reg(f, "new", NULL, false, ids), 0);
	assert_int_equal(reg(f, "other", NULL, true, ids), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(ids_and_segment_numbers_outlive_absence),
		TEST(bad_names_are_refused),
		TEST(a_region_with_a_backlog_is_not_dropped_silently),
		TEST(a_new_region_gets_what_is_there),
		TEST(content_that_is_elsewhere_keeps_its_region),
		TEST(an_emptied_region_gets_everything),
		TEST(removals_go_where_the_bucket_was_the_volumes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
