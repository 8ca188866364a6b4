/* A row's life as deliveries move it on, and delays. */
#include "tests/unit/outbox_fixture.h"

static void an_inline_row_is_announced_then_materialised(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct stamp s = put(conn, "d/a", 100, false, true);
	struct outbox_stats stats = {0};

	assert_string_equal(announceable(conn), "d/a");
	assert_int_equal(outbox_advance(conn, regions[0], slice_of("d/a"), s, OUTBOX_OBJECT), 0);
	assert_string_equal(announceable(conn), "");
	assert_true(one(conn, OUTBOX_OBJECT).fresh);
	struct outbox_row row;
	assert_int_equal(outbox_get(conn, regions[0], slice_of("d/a"), &row), 0);
	assert_int_equal(row.state, OUTBOX_OBJECT);
	assert_int_equal(outbox_get(conn, regions[1], slice_of("d/a"), &row), 0);
	assert_int_equal(row.state, OUTBOX_ANNOUNCE);
	assert_int_equal(outbox_get(conn, regions[0], slice_of("d"), &row), -ENOENT);
	assert_int_equal(outbox_stats(conn, regions[0], &stats), 0);
	assert_int_equal(stats.bytes, 100);
	assert_int_equal(stats.unannounced, 0);
	assert_int_equal(stats.oldest_ms, hlc_ms(s.time));
	assert_int_equal(outbox_finish(conn, regions[0], slice_of("d/a"), (struct stamp){1, 1}), 0);
	assert_int_equal(outbox_stats(conn, regions[0], &stats), 0);
	assert_int_equal(stats.rows, 1);
	assert_int_equal(outbox_finish(conn, regions[0], slice_of("d/a"), s), 0);
	assert_int_equal(outbox_stats(conn, regions[0], &stats), 0);
	assert_int_equal(stats.rows, 0);
	assert_int_equal(stats.oldest_ms, 0);
	assert_int_equal(outbox_stats(conn, regions[1], &stats), 0);
	assert_int_equal(stats.rows, 1);
	fixture_commit(conn);
}

static void delays_are_kept_until_the_region_is_back(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct stamp s = put(conn, "a", 1 << 20, true, true);
	struct outbox_row row;
	unsigned n = 9;

	assert_int_equal(outbox_failed(conn, regions[0], slice_of("a"), s, 500, "slow", false), 0);
	assert_int_equal(outbox_due(conn, regions[0], OUTBOX_UPLOAD, 499, 0, 1, &row, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(outbox_due(conn, regions[0], OUTBOX_UPLOAD, 500, 0, 1, &row, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(row.attempts, 1);
	assert_int_equal(
		outbox_due(conn, regions[0], OUTBOX_UPLOAD, 500, row.first, 1, &row, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(outbox_retry_now(conn, regions[0], false), 0);
	assert_int_equal(outbox_due(conn, regions[0], OUTBOX_UPLOAD, 0, 0, 1, &row, &n), 0);
	assert_int_equal(n, 1);
	/* An attempt was made: the object may be there. */
	put(conn, "a", 1 << 20, true, true);
	assert_false(one(conn, OUTBOX_UPLOAD).fresh);
	fixture_commit(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_inline_row_is_announced_then_materialised),
		TEST(delays_are_kept_until_the_region_is_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
