/* Conflicts are listed in order, and each once. */
#include "tests/unit/replica_fixture.h"

#include "cache/conflict.h"
#include "cache/replication.h"

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

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(conflicts_are_listed),
		TEST(a_loser_that_comes_again_is_one_conflict),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
