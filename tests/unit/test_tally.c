/* What a transaction adds up: totals, heads and counters are right when it ends, however many
 * directories it touched, and nothing of it outlives a rollback. */
#include "tests/unit/replica_fixture.h"

#include "cache/outbox.h"
#include "cache/replication.h"

#define DIRS 1500 /* several times what the tally holds */

static unsigned regions[2];

static int setup(void **state)
{
	return fixture_setup_regions(state, regions, 2);
}

static void put(struct conn *conn, unsigned dir, const char *name, bool upload)
{
	static uint64_t stamps;
	char key[64];

	snprintf(key, sizeof(key), "dir%u/%s", dir, name);
	assert_int_equal(outbox_enqueue(conn, &(struct outbox_change){.key = slice_of(key),
						      .stamp = {++stamps << 16, 7},
						      .size = 10,
						      .upload = upload,
						      .fresh = true}),
		0);
}

static int64_t wrong_heads(struct conn *conn)
{
	static const char sql[] =
		"WITH head(region, dir, last) AS (SELECT region, dir, min(last) FROM outbox o"
		"  WHERE state = 2 GROUP BY region, dir HAVING min(last) <"
		"  ifnull((SELECT min(first) FROM outbox b WHERE b.region = o.region AND"
		"   b.dir = o.dir AND b.state IN (1, 5, 6)), 9223372036854775807))"
		" SELECT (SELECT count(*) FROM (SELECT * FROM head EXCEPT"
		"   SELECT region, dir, head FROM outbox_head)) +"
		"  (SELECT count(*) FROM (SELECT region, dir, head FROM outbox_head EXCEPT"
		"   SELECT * FROM head))";

	return sql_int(conn, sql);
}

static int64_t wrong_totals(struct conn *conn)
{
	return sql_int(conn, "SELECT count(*) FROM region r WHERE rows <>"
			     " (SELECT count(*) FROM outbox WHERE region = r.id) OR bytes <>"
			     " (SELECT ifnull(sum(size), 0) FROM outbox WHERE region = r.id AND"
			     "  NOT uploaded) OR unannounced <> (SELECT count(*) FROM outbox"
			     "  WHERE region = r.id AND state IN (1, 2))");
}

static void everything_is_right_at_the_end(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	uint64_t number = 0;

	for (unsigned i = 0; i < DIRS; i++) {
		put(conn, i, "a", i % 3 == 0);
		put(conn, i, "b", false);
		if (i % 2)
			put(conn, i, "a", false); /* spans b */
	}
	for (unsigned i = 0; i < DIRS; i += 5) {
		char key[64];

		snprintf(key, sizeof(key), "dir%u/b", i);
		assert_int_equal(outbox_drop(conn, slice_of(key)), 0);
	}
	assert_int_equal(counter_get(conn, COUNTER_ORDER, &number), 0);
	assert_int_equal(number, 2 * DIRS + DIRS / 2);
	fixture_commit(conn);
	conn = fixture_begin(f);
	assert_int_equal(sql_int(conn, "SELECT value FROM counter WHERE id = 1"), number);
	assert_int_equal(sql_int(conn, "SELECT sum(rows) FROM region"), 2 * (2 * DIRS - DIRS / 5));
	assert_true(sql_int(conn, "SELECT count(*) FROM outbox_head") > DIRS);
	assert_int_equal(wrong_heads(conn), 0);
	assert_int_equal(wrong_totals(conn), 0);
	fixture_commit(conn);
}

static void a_rollback_forgets(void **state)
{
	struct fixture *f = *state;
	struct outbox_stats stats = {0};
	uint64_t before = 0, after = 0;
	struct conn *conn = fixture_begin(f);

	put(conn, 1, "a", false);
	assert_int_equal(counter_get(conn, COUNTER_ORDER, &before), 0);
	fixture_commit(conn);
	conn = fixture_begin(f);
	put(conn, 1, "b", false);
	put(conn, 2, "a", false);
	cache_rollback(conn);
	conn = fixture_begin(f);
	assert_int_equal(counter_get(conn, COUNTER_ORDER, &after), 0);
	assert_int_equal(after, before);
	assert_int_equal(outbox_stats(conn, regions[0], &stats), 0);
	assert_int_equal(stats.rows, 1);
	assert_int_equal(counter_add(conn, COUNTER_HELD, 0, NULL), 0);
	fixture_commit(conn);
	conn = fixture_begin(f);
	assert_int_equal(wrong_heads(conn), 0);
	assert_int_equal(wrong_totals(conn), 0);
	fixture_commit(conn);
}

/* A region that goes takes what was added up for it along. */
static void a_region_is_cleared(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);

	put(conn, 1, "a", false);
	assert_int_equal(outbox_clear(conn, regions[0]), 0);
	fixture_commit(conn);
	conn = fixture_begin(f);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM outbox_head"), 1);
	assert_int_equal(wrong_heads(conn), 0);
	assert_int_equal(wrong_totals(conn), 0);
	fixture_commit(conn);
}

static void a_row_costs_little(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	char name[16];

	put(conn, 1, "first", false);
	(void)vm_steps(conn);
	for (unsigned i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		put(conn, 1, name, false);
	}
	/* Of two regions: one statement each. With totals and head it were over 400. */
	assert_true(vm_steps(conn) < 500 * 230);
	fixture_commit(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			everything_is_right_at_the_end, setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(a_rollback_forgets, setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(a_region_is_cleared, setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(a_row_costs_little, setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
