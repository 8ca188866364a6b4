/*
 * A row of the outbox as the table has it: reading it, and the only places where one is written.
 *
 * outbox_row_change and outbox_row_add tell the tally (tally.h) what a change makes of the region's
 * totals and of the heads of its directories, which therefore are in step before the transaction
 * ends. And they let go of the former names that wait for an upload (outbox_moved.c) when it is
 * over, however it ended. What the columns mean and which indexes there are: outbox.c.
 */
#include "cache/outbox_row.h"

#include <errno.h>
#include <stdio.h>

#include "cache/internal.h"
#include "cache/tally.h"

uint64_t outbox_dir_hash(struct slice key)
{
	return slice_hash(key.len ? key_parent(key) : key);
}

/* ---- rows ---- */

static int read_row(sqlite3_stmt *s, struct stored_row *ret)
{
	const char *error = (const char *)sqlite3_column_text(s, 14);

	ret->id = sqlite3_column_int64(s, 0);
	ret->dir = (uint64_t)sqlite3_column_int64(s, 2);
	ret->state = sqlite3_column_int(s, 3);
	ret->first = (uint64_t)sqlite3_column_int64(s, 4);
	ret->last = (uint64_t)sqlite3_column_int64(s, 5);
	ret->since_ms = (uint64_t)sqlite3_column_int64(s, 6);
	ret->stamp.time = (uint64_t)sqlite3_column_int64(s, 7);
	ret->stamp.node = (uint64_t)sqlite3_column_int64(s, 8);
	ret->size = (uint64_t)sqlite3_column_int64(s, 9);
	ret->fresh = sqlite3_column_int(s, 10) != 0;
	ret->uploaded = sqlite3_column_int(s, 11) != 0;
	ret->attempts = (uint32_t)sqlite3_column_int64(s, 12);
	ret->next_at_ms = sqlite3_column_int64(s, 13);
	ret->unfetched = sqlite3_column_int(s, 18) != 0;
	snprintf(ret->error, sizeof(ret->error), "%s", error ? error : "");
	struct slice base = column_slice(s, 17);
	ret->has_base = base.len == SHA256_SIZE;
	if (ret->has_base)
		memcpy(ret->base, base.p, SHA256_SIZE);
	return key_set(&ret->moved_from, column_slice(s, 15)) &&
			       key_set(&ret->moved_to, column_slice(s, 16))
		       ? 0
		       : -EIO;
}

int outbox_row_export(sqlite3_stmt *s, struct outbox_row *ret)
{
	struct stored_row row;

	if (read_row(s, &row) || !key_set(&ret->key, column_slice(s, 1)))
		return -EIO;
	ret->stamp = row.stamp;
	ret->state = row.state & PARKED ? OUTBOX_PARKED : (enum outbox_state)row.state;
	ret->fresh = row.fresh;
	ret->uploaded = row.uploaded;
	ret->first = row.first;
	ret->last = row.last;
	ret->size = row.size;
	ret->attempts = row.attempts;
	ret->next_at_ms = row.next_at_ms;
	memcpy(ret->error, row.error, sizeof(ret->error));
	ret->moved_from = row.moved_from;
	ret->moved_to = row.moved_to;
	ret->unfetched = row.unfetched;
	ret->has_base = row.has_base;
	memcpy(ret->base, row.base, SHA256_SIZE);
	return 0;
}

int outbox_row_first(
	struct conn *conn, sqlite3_stmt *s, struct key *key, struct stored_row *ret)
{
	int r = conn_row(conn, s);

	if (r != 1)
		return r;
	*ret = (struct stored_row){0};
	r = key && !key_set(key, column_slice(s, 1)) ? -EIO : read_row(s, ret);
	sqlite3_reset(s);
	return r ? r : 1;
}

int outbox_row_find(struct conn *conn, unsigned region, struct slice key, struct stored_row *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox"
					       " WHERE region = ?1 AND key = ?2");
	int r;

	bind_int(s, 1, region);
	bind_slice(s, 2, key);
	r = outbox_row_first(conn, s, NULL, ret);
	if (r == 0)
		*ret = (struct stored_row){0};
	return r < 0 ? r : 0;
}

static void bind_row(sqlite3_stmt *s, const struct stored_row *row)
{
	bind_int(s, 1, row->id);
	bind_int(s, 2, row->state);
	bind_int(s, 3, (int64_t)row->first);
	bind_int(s, 4, (int64_t)row->last);
	bind_int(s, 5, (int64_t)row->since_ms);
	bind_int(s, 6, (int64_t)row->stamp.time);
	bind_int(s, 7, (int64_t)row->stamp.node);
	bind_int(s, 8, (int64_t)row->size);
	bind_int(s, 9, row->fresh);
	bind_int(s, 10, row->uploaded);
	bind_int(s, 11, row->attempts);
	bind_int(s, 12, row->next_at_ms);
	bind_text(s, 13, row->error);
	if (row->moved_from.len)
		bind_slice(s, 14, key_slice(&row->moved_from));
	else
		sqlite3_bind_null(s, 14);
	if (row->moved_to.len)
		bind_slice(s, 15, key_slice(&row->moved_to));
	else
		sqlite3_bind_null(s, 15);
	bind_int(s, 20, row->unfetched);
	if (row->has_base)
		bind_slice(s, 16, (struct slice){(const char *)row->base, SHA256_SIZE});
	else
		sqlite3_bind_null(s, 16);
}

static int insert_row(
	struct conn *conn, unsigned region, struct slice key, const struct stored_row *row)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO outbox(state, first, last, since_ms, time, node, size, fresh, "
		"uploaded,"
		" attempts, next_at_ms, error, moved_from, moved_to, base, region, key, dir,"
		" unfetched)"
		" VALUES(?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,"
		" ?18, ?19, ?20)"
		" ON CONFLICT(region, key) DO NOTHING");

	bind_row(s, row);
	bind_int(s, 17, region);
	bind_slice(s, 18, key);
	bind_int(s, 19, (int64_t)row->dir);
	return conn_run(conn, s);
}

static int update_row(struct conn *conn, const struct stored_row *row)
{
	sqlite3_stmt *s =
		conn_statement(conn, "UPDATE outbox SET state = ?2, first = ?3, last = "
				     "?4, since_ms = ?5, time = ?6, node = ?7,"
				     " size = ?8, fresh = ?9, uploaded = ?10, attempts = "
				     "?11, next_at_ms = ?12, error = ?13, moved_from = ?14,"
				     " moved_to = ?15, base = ?16, unfetched = ?20 WHERE id = ?1");

	bind_row(s, row);
	return conn_run(conn, s);
}

static int delete_row(struct conn *conn, int64_t id)
{
	return conn_run_int(conn, "DELETE FROM outbox WHERE id = ?1", id);
}

/* ---- totals and heads ---- */

static void count_row(struct outbox_totals *t, const struct stored_row *row, int64_t sign)
{
	if (!row)
		return;
	t->rows += sign;
	if (!row->uploaded)
		t->bytes += sign * (int64_t)row->size;
	if (row->state & PARKED)
		t->parked += sign;
	else if (!state_announced(row->state))
		t->unannounced += sign;
}

/* before NULL: a new row; after NULL: the row goes. */
static int row_changed(struct conn *conn, unsigned region, const struct stored_row *before,
	const struct stored_row *after)
{
	struct outbox_totals totals = {0};
	int r;

	count_row(&totals, before, -1);
	count_row(&totals, after, 1);
	r = tally_totals(conn, region, &totals);
	/* From OBJECT to nowhere, or a failed attempt, moves no head. */
	if (r || ((!before || state_announced(before->state)) &&
			 (!after || state_announced(after->state))))
		return r;
	if (before && after && before->state == after->state && before->first == after->first &&
		before->last == after->last)
		return 0;
	return tally_dir(conn, region, before ? before->dir : after->dir);
}

static int write_row(struct conn *conn, unsigned region, const struct stored_row *before,
	const struct stored_row *after)
{
	int r = after ? update_row(conn, after) : delete_row(conn, before->id);

	return r ? r : row_changed(conn, region, before, after);
}

bool outbox_row_uploads(const struct stored_row *row)
{
	return row && row->state == OUTBOX_UPLOAD && !row->moved_to.len;
}

/* A former name that waits for key's upload: 1, 0 when there is none, or -errno. There is one, but where
 * names were given away and taken again. */
static int next_waiting(
	struct conn *conn, unsigned region, struct slice key, struct stored_row *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_moved"
				     " WHERE region = ?1 AND state = 1 AND moved_to = ?2 LIMIT 1");

	bind_int(s, 1, region);
	bind_slice(s, 2, key);
	return outbox_row_first(conn, s, NULL, ret);
}

int outbox_row_change(struct conn *conn, unsigned region, struct slice key,
	const struct stored_row *before, const struct stored_row *after)
{
	struct stored_row old, row;
	int r = write_row(conn, region, before, after);

	while (!r && outbox_row_uploads(before) && !outbox_row_uploads(after)) {
		r = next_waiting(conn, region, key, &old);
		if (r <= 0)
			break;
		row = old;
		row.state = OUTBOX_ANNOUNCE;
		row.next_at_ms = 0;
		r = write_row(conn, region, &old, &row);
	}
	return r;
}

int outbox_row_add(struct conn *conn, unsigned region, struct slice key,
	const struct stored_row *row, bool *ret)
{
	int r = insert_row(conn, region, key, row);

	*ret = !r && sqlite3_changes(conn->db) > 0;
	return r || !*ret ? r : row_changed(conn, region, NULL, row);
}
