/* Held records wait for their time, once each. */
#include "tests/unit/replica_fixture.h"

#include "cache/held.h"

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

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(held_records_wait_for_their_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
