/* Which rows of the outbox come next: rounds over a backlog, and the shares of the workers. */
#include "tests/unit/replica_fixture.h"

#include "replicator/lanes.h"

#define MIB (UINT64_C(1) << 20)

static unsigned regions[1];

static int setup(void **state)
{
	return fixture_setup_regions(state, regions, 1);
}

static uint64_t stamps;

static struct stamp put(struct conn *conn, const char *key, uint64_t size, bool upload)
{
	struct stamp stamp = {(++stamps) << 16, 7};
	const struct outbox_change change = {.key = slice_of(key),
		.stamp = stamp,
		.size = size,
		.upload = upload,
		.object_only = !upload};

	assert_int_equal(outbox_enqueue(conn, &change), 0);
	return stamp;
}

/* The next max keys of a lane, comma separated. */
static const char *due(struct lanes *l, struct conn *conn, enum lane lane, unsigned max)
{
	static char text[256];
	struct outbox_row rows[8];
	unsigned n = 0;
	size_t len = 0;

	assert_int_equal(lane_due(l, conn, regions[0], lane, 1000, max, rows, &n), 0);
	text[0] = '\0';
	for (unsigned i = 0; i < n; i++)
		len += (size_t)snprintf(
			text + len, sizeof(text) - len, "%s%s", i ? "," : "", rows[i].key.p);
	return text;
}

/* A page of rows that nobody can deliver now hides none behind it, and what keeps coming none before
 * it. */
static void rounds_reach_everything(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct lanes *l = calloc(1, sizeof(*l));
	char key[16];

	assert_non_null(l);
	for (int i = 0; i < 5; i++) {
		snprintf(key, sizeof(key), "o%d", i);
		put(conn, key, 1, false);
	}
	assert_string_equal(due(l, conn, LANE_OBJECT, 2), "o0,o1");
	assert_string_equal(due(l, conn, LANE_OBJECT, 2), "o2,o3");
	put(conn, "later", 1, false);
	assert_string_equal(due(l, conn, LANE_OBJECT, 2), "o4");
	/* The round ended where the outbox did when it began. */
	assert_string_equal(due(l, conn, LANE_OBJECT, 2), "o0,o1");
	assert_string_equal(due(l, conn, LANE_OBJECT, 8), "o2,o3,o4,later");
	assert_string_equal(due(l, conn, LANE_SMALL, 8), "");
	free(l);
	fixture_commit(conn);
}

static void uploads_go_by_size(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct lanes *l = calloc(1, sizeof(*l));

	assert_non_null(l);
	put(conn, "a/tera", MIB * MIB, true);
	put(conn, "b/eight", 8 * MIB, true);
	put(conn, "c/more", 8 * MIB + 1, true);
	struct stamp s = put(conn, "d/late", 100000, true);
	put(conn, "e/small", 100000, true);
	put(conn, "f/big", 256 * MIB, true);
	put(conn, "g/huge", 256 * MIB + 1, true);
	assert_string_equal(due(l, conn, LANE_SMALL, 2), "d/late,e/small");
	assert_string_equal(due(l, conn, LANE_SMALL, 2), "b/eight");
	assert_string_equal(due(l, conn, LANE_LARGE, 8), "c/more,f/big");
	assert_string_equal(due(l, conn, LANE_HUGE, 8), "g/huge,a/tera");
	assert_int_equal(
		outbox_failed(conn, regions[0], slice_of("d/late"), s, 2000, "no", false), 0);
	assert_string_equal(due(l, conn, LANE_SMALL, 8), "e/small,b/eight");
	free(l);
	fixture_commit(conn);
}

static void fill(struct lanes *l, enum lane lane, uint64_t size)
{
	struct outbox_row *row = calloc(1, sizeof(*row));

	assert_non_null(row);
	row->state = lane == LANE_OBJECT ? OUTBOX_OBJECT : OUTBOX_UPLOAD;
	row->size = size;
	assert_int_equal(lane_of(row), lane);
	while (lane_put(l, lane, row))
		;
	free(row);
}

/* Takes n rows; counts them by lane. */
static void take(struct lanes *l, unsigned n, unsigned count[LANES])
{
	struct outbox_row *row = calloc(1, sizeof(*row));

	assert_non_null(row);
	memset(count, 0, LANES * sizeof(*count));
	for (unsigned i = 0; i < n && lane_take(l, row); i++)
		count[lane_of(row)]++;
	free(row);
}

static void every_lane_has_its_share(void **state UNUSED)
{
	struct lanes *l = calloc(1, sizeof(*l));
	unsigned count[LANES];

	assert_non_null(l);
	l->threads = 16;
	fill(l, LANE_HUGE, 300 * MIB);
	take(l, 16, count);
	assert_int_equal(count[LANE_HUGE], 2); /* however many there are */
	fill(l, LANE_LARGE, 10 * MIB);
	take(l, 16, count);
	assert_int_equal(count[LANE_LARGE], 4);
	fill(l, LANE_SMALL, 100000);
	fill(l, LANE_OBJECT, 1);
	take(l, 10, count);
	assert_int_equal(count[LANE_SMALL], 4);
	assert_int_equal(count[LANE_OBJECT], 6);
	free(l);
}

static void large_ones_do_not_become_more(void **state UNUSED)
{
	struct lanes *l = calloc(1, sizeof(*l));
	unsigned count[LANES];

	assert_non_null(l);
	l->threads = 64;
	fill(l, LANE_HUGE, 300 * MIB);
	fill(l, LANE_LARGE, 10 * MIB);
	fill(l, LANE_SMALL, 100000);
	fill(l, LANE_OBJECT, 1);
	take(l, 64, count);
	assert_int_equal(count[LANE_HUGE], 2);
	assert_int_equal(count[LANE_LARGE], 4);
	assert_int_equal(count[LANE_SMALL], 32); /* half of all */
	assert_int_equal(count[LANE_OBJECT], 26);
	free(l);
}

static void small_uploads_take_what_others_leave(void **state UNUSED)
{
	struct lanes *l = calloc(1, sizeof(*l));
	struct outbox_row huge = {.state = OUTBOX_UPLOAD, .size = 300 * MIB};
	unsigned count[LANES];

	assert_non_null(l);
	l->threads = 16;
	fill(l, LANE_SMALL, 100000);
	take(l, 16, count);
	assert_int_equal(count[LANE_SMALL], 8);
	assert_true(lane_put(l, LANE_HUGE, &huge));
	take(l, 16, count);
	assert_int_equal(count[LANE_HUGE], 1);
	lane_end(l, &huge);
	assert_int_equal(l->queue[LANE_HUGE].working, 0);
	lanes_clear(l);
	assert_true(lanes_empty(l));
	/* A single worker is not kept from the small ones by a large one before it. */
	l->threads = 1;
	fill(l, LANE_LARGE, 10 * MIB);
	fill(l, LANE_OBJECT, 1);
	take(l, 1, count);
	assert_int_equal(count[LANE_OBJECT], 1);
	free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(rounds_reach_everything, setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(uploads_go_by_size, setup, fixture_teardown),
		cmocka_unit_test(every_lane_has_its_share),
		cmocka_unit_test(large_ones_do_not_become_more),
		cmocka_unit_test(small_uploads_take_what_others_leave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
