/*
 * The outbox, as deliveries move its rows on: announced, uploaded, failed, put off, parked, done.
 *
 * Each call names the version that the caller worked on by its stamp. A row that has another one was
 * taken over by a newer change meanwhile: it stays as it is, and nobody is told, because that change
 * is delivered in its turn. Seeding (outbox_seed) is no change and leaves the stamp: who delivers an announced row
 * looks whether it still is one. The states are outbox.c's.
 */
#include "cache/outbox_row.h"

#include <stdio.h>

/* old->id is 0 when the row is gone or has another stamp. */
static int find_version(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	struct stored_row *old)
{
	int r = outbox_row_find(conn, region, key, old);

	if (!r && old->id && stamp_cmp(old->stamp, stamp) != 0)
		old->id = 0;
	return r;
}

int outbox_advance(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	enum outbox_state to)
{
	struct stored_row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	row = old;
	row.state = to == OUTBOX_PARKED ? (old.state | PARKED) : (int)to;
	row.attempts = 0;
	row.next_at_ms = 0;
	row.error[0] = '\0';
	if (to == OUTBOX_ANNOUNCE && (old.state & STAGE_MASK) == OUTBOX_UPLOAD) {
		row.uploaded = true;
		row.fresh = false;
	} else if (to != OUTBOX_PARKED && to != OUTBOX_ANNOUNCE) {
		row.uploaded = false;
	}
	return outbox_row_change(conn, region, key, &old, &row);
}

int outbox_announce_unsent(struct conn *conn, unsigned region, struct slice key, struct stamp stamp)
{
	struct stored_row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id || old.state != OUTBOX_UPLOAD)
		return r;
	row = old;
	row.state = OUTBOX_ANNOUNCE;
	row.attempts = 0;
	row.next_at_ms = 0;
	row.uploaded = false;
	return outbox_row_change(conn, region, key, &old, &row);
}

int outbox_finish(struct conn *conn, unsigned region, struct slice key, struct stamp stamp)
{
	struct stored_row old;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	return outbox_row_change(conn, region, key, &old, NULL);
}

int outbox_failed(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	int64_t next_at_ms, const char *error, bool park)
{
	struct stored_row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	row = old;
	if (row.attempts < UINT32_MAX)
		row.attempts++;
	if (park)
		row.state |= PARKED;
	row.next_at_ms = row.state & PARKED || next_at_ms < 0 ? 0 : next_at_ms;
	snprintf(row.error, sizeof(row.error), "%s", error ? error : "");
	return outbox_row_change(conn, region, key, &old, &row);
}

int outbox_put_off(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	int64_t next_at_ms)
{
	struct stored_row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	row = old;
	row.next_at_ms = next_at_ms;
	return outbox_row_change(conn, region, key, &old, &row);
}

int outbox_send_whole(struct conn *conn, unsigned region, struct slice key, struct stamp stamp)
{
	struct stored_row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id || old.state != OUTBOX_ANNOUNCE || !old.has_base)
		return r;
	row = old;
	row.state = OUTBOX_UPLOAD;
	row.has_base = false;
	return outbox_row_change(conn, region, key, &old, &row);
}

/* One parked row of the region back to where it was parked: 1, 0 when there is none, or -errno. */
static int unpark_one(struct conn *conn, unsigned region)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_parked"
				     " WHERE region = ?1 AND state > 4 ORDER BY first LIMIT 1");
	struct stored_row old, row;
	struct key key;
	int r;

	bind_int(s, 1, region);
	r = outbox_row_first(conn, s, &key, &old);
	if (r <= 0)
		return r;
	row = old;
	row.state &= STAGE_MASK;
	row.attempts = 0;
	row.next_at_ms = 0;
	row.error[0] = '\0';
	r = outbox_row_change(conn, region, key_slice(&key), &old, &row);
	return r ? r : 1;
}

int outbox_retry_now(struct conn *conn, unsigned region, bool parked)
{
	sqlite3_stmt *s =
		conn_statement(conn, "UPDATE outbox INDEXED BY outbox_delayed SET next_at_ms = 0"
				     " WHERE region = ?1 AND next_at_ms > 0");
	int r;

	bind_int(s, 1, region);
	r = conn_run(conn, s);
	if (r || !parked)
		return r;
	while ((r = unpark_one(conn, region)) == 1)
		;
	return r;
}
