/* Marks of keys whose objects are to be looked at again. */
#include "tests/unit/replica_fixture.h"

#include "cache/outbox.h"

static unsigned regions[1];

static int setup(void **state)
{
	return fixture_setup_regions(state, regions, 1);
}

static bool take(struct conn *conn, const char *key)
{
	bool ret = false;

	assert_int_equal(touched_take(conn, slice_of(key), &ret), 0);
	return ret;
}

static int64_t next(struct conn *conn)
{
	int64_t due_ms = -1;

	assert_int_equal(touched_next(conn, &due_ms), 0);
	return due_ms;
}

static void a_mark_is_taken_once(void **state)
{
	struct conn *conn = fixture_begin(*state);

	assert_false(take(conn, "a"));
	assert_int_equal(touched_mark(conn, slice_of("a"), 0), 0);
	assert_int_equal(touched_mark(conn, slice_of("a"), 0), 0);
	assert_int_equal(next(conn), INT64_MAX);
	assert_true(take(conn, "a"));
	assert_false(take(conn, "a"));
	cache_rollback(conn);
}

/* While a write may still arrive, the mark outlives being taken; the later time counts. */
static void a_due_mark_stays(void **state)
{
	struct conn *conn = fixture_begin(*state);
	unsigned count = 9;

	assert_int_equal(touched_mark(conn, slice_of("a"), 500), 0);
	assert_int_equal(touched_mark(conn, slice_of("a"), 300), 0);
	assert_int_equal(touched_mark(conn, slice_of("a"), 0), 0);
	assert_int_equal(next(conn), 500);
	assert_true(take(conn, "a"));
	assert_int_equal(touched_enqueue(conn, 499, 10, &count), 0);
	assert_int_equal(count, 0);
	assert_int_equal(touched_enqueue(conn, 500, 10, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(next(conn), INT64_MAX);
	assert_true(take(conn, "a"));
	assert_false(take(conn, "a"));
	cache_rollback(conn);
}

static void due_keys_are_enqueued_for_their_objects(void **state)
{
	struct conn *conn = fixture_begin(*state);
	struct entry e = {.kind = KIND_DIR,
		.content_stamp = {5 << 16, 1},
		.attr_stamp = {5 << 16, 1},
		.mode = 0755};
	struct outbox_row rows[4];
	unsigned count = 0, n = 0;

	assert_int_equal(entry_put(conn, slice_of("a"), &e), 0);
	assert_int_equal(entry_put(conn, slice_of("b"), &e), 0);
	assert_int_equal(touched_mark(conn, slice_of("b"), 200), 0);
	assert_int_equal(touched_mark(conn, slice_of("a"), 100), 0);
	assert_int_equal(touched_mark(conn, slice_of("unknown"), 150), 0);
	assert_int_equal(touched_enqueue(conn, 1000, 1, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(next(conn), 150);
	assert_int_equal(touched_enqueue(conn, 1000, 10, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(outbox_due(conn, regions[0], OUTBOX_OBJECT, INT64_MAX, 0, 4, rows, &n), 0);
	assert_int_equal(n, 2);
	assert_string_equal(rows[0].key.p, "a");
	assert_string_equal(rows[1].key.p, "b");
	cache_rollback(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_mark_is_taken_once, setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(a_due_mark_stays, setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			due_keys_are_enqueued_for_their_objects, setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
