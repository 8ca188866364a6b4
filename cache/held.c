/*
 * Held records: what came with a stamp too far ahead of this server's clock is kept encoded until its
 * time has come. At most HELD_MAX.
 */
#include <errno.h>

#include "cache/held.h"
#include "cache/internal.h"
#include "cache/replication.h"

#define HELD_MAX 1000000

/* 1 when the same record is held already (its segment was read twice). */
static int held_already(struct conn *conn, struct slice key, struct slice record)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT 1 FROM held INDEXED BY held_key"
					       " WHERE key = ?1 AND record = ?2 LIMIT 1");
	int r;

	bind_slice(s, 1, key);
	bind_slice(s, 2, record);
	r = conn_row(conn, s);
	if (r == 1)
		sqlite3_reset(s);
	return r;
}

int held_add(struct conn *conn, struct slice key, int64_t due_ms, const void *record, size_t len)
{
	struct slice bytes = {record, len};
	uint64_t count = 0;
	sqlite3_stmt *s;
	int r = held_already(conn, key, bytes);

	if (r)
		return r < 0 ? r : 0;
	r = counter_get(conn, COUNTER_HELD, &count);
	if (r)
		return r;
	if (count >= HELD_MAX)
		return -EDQUOT;
	s = conn_statement(conn, "INSERT INTO held(key, due_ms, record) VALUES(?1, ?2, ?3)");
	bind_slice(s, 1, key);
	bind_int(s, 2, due_ms);
	bind_slice(s, 3, bytes);
	r = conn_run(conn, s);
	return r ? r : counter_add(conn, COUNTER_HELD, 1, NULL);
}

/* The records are copied one at a time before fn sees them, so fn may remove them. */
int held_due(struct conn *conn, int64_t now_ms, unsigned limit, held_fn fn, void *ctx)
{
	CLEANUP(buf_done) struct buf record = {0};
	int64_t due_ms = INT64_MIN, id = -1;

	for (unsigned i = 0; i < limit; i++) {
		sqlite3_stmt *s = conn_statement(conn,
			"SELECT id, due_ms, record FROM held INDEXED BY held_due"
			" WHERE due_ms <= ?1 AND (due_ms, id) > (?2, ?3) ORDER BY due_ms, id LIMIT "
			"1");
		struct slice bytes;
		int r;

		bind_int(s, 1, now_ms);
		bind_int(s, 2, due_ms);
		bind_int(s, 3, id);
		r = conn_row(conn, s);
		if (r <= 0)
			return r;
		id = sqlite3_column_int64(s, 0);
		due_ms = sqlite3_column_int64(s, 1);
		bytes = column_slice(s, 2);
		buf_clear(&record);
		buf_put(&record, bytes.p, bytes.len);
		sqlite3_reset(s);
		if (record.failed)
			return -ENOMEM;
		r = fn(ctx, (uint64_t)id, record.data, record.len);
		if (r)
			return r;
	}
	return 0;
}

int held_remove(struct conn *conn, uint64_t id)
{
	sqlite3_stmt *s = conn_statement(conn, "DELETE FROM held WHERE id = ?1 RETURNING 1");
	int r;

	bind_int(s, 1, (int64_t)id);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	sqlite3_reset(s);
	return counter_add(conn, COUNTER_HELD, -1, NULL);
}

int held_count(struct conn *conn, uint64_t *ret)
{
	return counter_get(conn, COUNTER_HELD, ret);
}
