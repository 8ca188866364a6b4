/* Regions that come, go and return; cursors, watermarks, conflicts, held records, settings. */
#include "cache/conflict.h"
#include "cache/held.h"
#include "cache/meta.h"
#include "cache/region.h"
#include "tests/unit/replica_fixture.h"

#include "cache/outbox.h"
#include "cache/progress.h"
#include "cache/replication.h"

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

static int see_conflict(void *ctx, uint64_t id, struct slice key, const struct entry *loser,
	uint64_t ino, int64_t at_ms, const char *reason)
{
	unsigned *seen = ctx;

	assert_true(slice_equal(key, slice_of("k")));
	assert_int_equal(loser->size, 10 + *seen);
	assert_int_equal(ino, 20 + *seen);
	assert_true(at_ms > 0);
	assert_string_equal(reason, "concurrent");
	(*seen)++;
	return *seen == 3 ? 99 : 0;
}

static void conflicts_are_listed(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct entry winner = {0};
	unsigned seen = 0;
	uint64_t n = 9;

	for (unsigned i = 0; i < 4; i++) {
		struct entry loser = {.kind = KIND_FILE, .size = 10 + i};

		assert_int_equal(
			conflict_add(conn, slice_of("k"), &loser, &winner, 20 + i, "concurrent"),
			0);
		assert_int_equal(
			conflict_add(conn, slice_of("k"), &loser, &winner, 30 + i, CONFLICT_HIDDEN),
			0);
	}
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 4);
	assert_int_equal(conflict_scan(conn, 0, 2, see_conflict, &seen), 0);
	assert_int_equal(seen, 2);
	seen = 2;
	assert_int_equal(conflict_scan(conn, 3, 100, see_conflict, &seen), 99);
	cache_rollback(conn);
}

static void a_loser_that_comes_again_is_one_conflict(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct entry loser = {.kind = KIND_FILE, .size = 1}, winner = {0};
	uint64_t n = 9;

	/* What the projection keeps for itself does not count as told. */
	assert_int_equal(conflict_add(conn, slice_of("k"), &loser, &winner, 5, CONFLICT_HIDDEN), 0);
	assert_int_equal(conflict_add(conn, slice_of("k"), &loser, &winner, 0, "from west"), 0);
	assert_int_equal(conflict_add(conn, slice_of("k"), &loser, &winner, 0, "from east"), 0);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 1);
	/* A row that keeps an inode is never left out. */
	assert_int_equal(conflict_add(conn, slice_of("k"), &loser, &winner, 6, "here"), 0);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 2);
	assert_no_scans(conn, "conflict");
	cache_rollback(conn);
}

static int see_held(void *ctx, uint64_t id, const void *record, size_t len)
{
	struct conn *conn = ctx;

	assert_int_equal(len, 2);
	assert_memory_equal(record, "r1", 2);
	return held_remove(conn, id);
}

static void held_records_wait_for_their_time(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	uint64_t n = 9;

	assert_int_equal(held_add(conn, slice_of("k"), 100, "r1", 2), 0);
	assert_int_equal(held_add(conn, slice_of("k"), 100, "r1", 2), 0);
	assert_int_equal(held_add(conn, slice_of("k"), 200, "r2", 2), 0);
	assert_int_equal(held_count(conn, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(held_due(conn, 99, 10, see_held, conn), 0);
	assert_int_equal(held_count(conn, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(held_due(conn, 100, 10, see_held, conn), 0);
	assert_int_equal(held_count(conn, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(held_remove(conn, 12345), 0);
	assert_int_equal(held_count(conn, &n), 0);
	assert_int_equal(n, 1);
	assert_no_scans(conn, "held");
	cache_rollback(conn);
}

static void damaged_segments_are_counted_once_and_bounded(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	uint64_t n = 0;

	for (unsigned i = 0; i < 1100; i++) {
		char name[16];

		snprintf(name, sizeof(name), "s%u", i);
		assert_int_equal(bad_segment_add(conn, 0, name, "checksum"), 0);
	}
	assert_int_equal(bad_segment_count(conn, &n), 0);
	assert_int_equal(n, 1100);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM bad_segment"), 1000);
	cache_rollback(conn);
	conn = fixture_begin(f);
	assert_int_equal(bad_segment_add(conn, 0, "s", "checksum"), 0);
	assert_int_equal(bad_segment_add(conn, 0, "s", "checksum"), 0);
	assert_int_equal(bad_segment_count(conn, &n), 0);
	assert_int_equal(n, 1);
	cache_rollback(conn);
}

static void settings_are_kept(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	char text[8];

	assert_int_equal(meta_get_text(conn, "volume_test", text, sizeof(text)), -ENOENT);
	assert_int_equal(meta_set_text(conn, "volume_test", "abc"), 0);
	assert_int_equal(meta_set_text(conn, "volume_test", "1234567"), 0);
	assert_int_equal(meta_get_text(conn, "volume_test", text, sizeof(text)), 0);
	assert_string_equal(text, "1234567");
	assert_int_equal(meta_get_text(conn, "volume_test", text, 7), -ERANGE);
	cache_rollback(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_loser_that_comes_again_is_one_conflict, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			ids_and_segment_numbers_outlive_absence, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			bad_names_are_refused, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(a_region_with_a_backlog_is_not_dropped_silently,
			fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			a_new_region_gets_what_is_there, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			conflicts_are_listed, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			held_records_wait_for_their_time, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(damaged_segments_are_counted_once_and_bounded,
			fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(settings_are_kept, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
