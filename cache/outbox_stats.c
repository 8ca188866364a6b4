/*
 * The outbox in figures: how much a region lacks and since when, and which regions wait for a key.
 *
 * The totals stand in the region's row, and what is oldest is found at the front of an index, so
 * that nothing here walks the backlog.
 */
#include "cache/outbox_row.h"

#include "cache/replication.h"
#include "cache/tally.h"

/* The first of the region's rows in a state: 1, 0 or -errno. */
static int oldest_in(
	struct conn *conn, unsigned region, int state, uint64_t *first, uint64_t *since_ms)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT first, since_ms FROM outbox INDEXED BY outbox_order"
				     " WHERE region = ?1 AND state = ?2 ORDER BY first LIMIT 1");
	int r;

	bind_int(s, 1, region);
	bind_int(s, 2, state);
	r = conn_row(conn, s);
	if (r == 1) {
		*first = (uint64_t)sqlite3_column_int64(s, 0);
		*since_ms = (uint64_t)sqlite3_column_int64(s, 1);
		sqlite3_reset(s);
	}
	return r;
}

static int read_totals(struct conn *conn, unsigned region, struct outbox_stats *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT rows, bytes, parked, unannounced FROM region"
					       " WHERE id = ?1");
	int r;

	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	ret->rows = (uint64_t)sqlite3_column_int64(s, 0);
	ret->bytes = (uint64_t)sqlite3_column_int64(s, 1);
	ret->parked = (uint64_t)sqlite3_column_int64(s, 2);
	ret->unannounced = (uint64_t)sqlite3_column_int64(s, 3);
	sqlite3_reset(s);
	return 0;
}

int outbox_stats(struct conn *conn, unsigned region, struct outbox_stats *ret)
{
	struct outbox_stats stats = {0};
	uint64_t least = UINT64_MAX;
	int r = conn_writable(conn) ? tally_flush(conn) : 0;

	if (!r)
		r = read_totals(conn, region, &stats);

	if (r)
		return r;
	for (int state = OUTBOX_UPLOAD; state <= (OUTBOX_OBJECT | PARKED); state++) {
		uint64_t first = 0, since_ms = 0;

		r = oldest_in(conn, region, state, &first, &since_ms);
		if (r < 0)
			return r;
		if (r == 1 && first < least) {
			least = first;
			stats.oldest_ms = since_ms;
		}
	}
	*ret = stats;
	return 0;
}

static int waiting_in(struct conn *conn, unsigned region, struct slice key,
	const struct key_range *range, bool *ret)
{
	sqlite3_stmt *s;
	struct stored_row row;
	int r = 0;

	if (key.len) {
		r = outbox_row_find(conn, region, key, &row);
		if (r || row.id) {
			*ret = row.id != 0;
			return r;
		}
	}
	s = conn_statement(conn, "SELECT 1 FROM outbox INDEXED BY outbox_key"
				 " WHERE region = ?1 AND key >= ?2 AND key < ?3 LIMIT 1");
	bind_int(s, 1, region);
	bind_slice(s, 2, key_range_low(range));
	bind_slice(s, 3, key_range_high(range));
	return conn_exists(conn, s, ret);
}

int outbox_waiting(struct conn *conn, struct slice key, uint64_t *regions)
{
	unsigned ids[REGION_MAX], count = 0;
	struct key_range range;
	uint64_t bits = 0;
	int r = key_range_below(key, &range);

	if (!r)
		r = outbox_region_ids(conn, ids, &count);
	for (unsigned i = 0; !r && i < count; i++) {
		bool waiting = false;

		r = waiting_in(conn, ids[i], key, &range, &waiting);
		if (waiting)
			bits |= (uint64_t)1 << ids[i];
	}
	if (!r)
		*regions = bits;
	return r;
}

int outbox_uploading(struct conn *conn, struct slice key, uint64_t *regions)
{
	unsigned ids[REGION_MAX], count = 0;
	uint64_t bits = 0;
	int r = outbox_region_ids(conn, ids, &count);

	for (unsigned i = 0; !r && i < count; i++) {
		struct stored_row row;

		r = outbox_row_find(conn, ids[i], key, &row);
		if (!r && row.id &&
			(row.state == OUTBOX_UPLOAD ||
				(row.state == OUTBOX_ANNOUNCE && row.uploaded)))
			bits |= (uint64_t)1 << ids[i];
	}
	if (!r)
		*regions = bits;
	return r;
}
