/* A cache with the outboxes of two regions. */
#ifndef TESTS_OUTBOX_FIXTURE_H
#define TESTS_OUTBOX_FIXTURE_H

#include "tests/unit/replica_fixture.h"

#include "cache/outbox.h"

#define REGIONS 2
#define FOREVER INT64_MAX

static unsigned regions[REGIONS];

static inline int outbox_setup(void **state)
{
	return fixture_setup_regions(state, regions, REGIONS);
}

static uint64_t stamps;

static inline struct stamp put(struct conn *conn, const char *key, uint64_t size, bool upload, bool fresh)
{
	struct stamp stamp = {(++stamps) << 16, 7};
	const struct outbox_change change = {.key = slice_of(key),
		.stamp = stamp,
		.size = size,
		.upload = upload,
		.fresh = fresh};

	assert_int_equal(outbox_enqueue(conn, &change), 0);
	return stamp;
}

/* The announceable keys, comma separated. */
static inline const char *announceable(struct conn *conn)
{
	static char text[512];
	struct outbox_row rows[16];
	unsigned n = 0;
	bool more = true;
	size_t len = 0;

	assert_int_equal(outbox_announceable(conn, regions[0], 16, NULL, rows, &n, &more), 0);
	assert_false(more);
	text[0] = '\0';
	for (unsigned i = 0; i < n; i++)
		len += (size_t)snprintf(
			text + len, sizeof(text) - len, "%s%s", i ? "," : "", rows[i].key.p);
	return text;
}

static inline struct outbox_row one(struct conn *conn, enum outbox_state state)
{
	struct outbox_row row = {0};
	unsigned n = 0;

	assert_int_equal(outbox_due(conn, regions[0], state, FOREVER, 0, 1, &row, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(row.state, state);
	return row;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, outbox_setup, fixture_teardown)

#endif
