/* How far replication got: damaged segments. What outlives a region's absence: test_region.c. */
#include "tests/unit/replica_fixture.h"

#include "cache/progress.h"

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

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(damaged_segments_are_counted_once_and_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
