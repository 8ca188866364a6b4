/*
 * Keys whose objects have to be looked at again, although no outbox row says so: this server wrote
 * there on behalf of another, or sent a write whose answer never came. Such a write may reach the
 * region after everybody else has looked there for the last time, and then nobody but its sender
 * knows of it.
 *
 * A row stays until the path is removed or becomes of another kind (its object has another key
 * then, and the old one would be left over). due_ms is 0 when there is nothing to look at before
 * that. So the table holds the paths that several servers wrote, at most.
 */
#include <errno.h>

#include "cache/db.h"
#include "cache/entry.h"
#include "cache/outbox.h"

int touched_mark(struct conn *conn, struct slice key, int64_t due_ms)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO touched(key, due_ms) VALUES(?1, ?2)"
		" ON CONFLICT(key) DO UPDATE SET due_ms = max(due_ms, excluded.due_ms)"
		" WHERE excluded.due_ms > due_ms");

	bind_slice(s, 1, key);
	bind_int(s, 2, due_ms);
	return conn_run(conn, s);
}

int touched_take(struct conn *conn, struct slice key, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT due_ms FROM touched WHERE key = ?1");
	int64_t due_ms = 0;
	int r;

	bind_slice(s, 1, key);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = r == 1;
	if (r == 0)
		return 0;
	due_ms = sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	if (due_ms)
		return 0; /* a write may still be under way: it stays */
	s = conn_statement(conn, "DELETE FROM touched WHERE key = ?1");
	bind_slice(s, 1, key);
	return conn_run(conn, s);
}

int touched_is_due(struct conn *conn, struct slice key, bool *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT 1 FROM touched WHERE key = ?1 AND due_ms > 0");

	bind_slice(s, 1, key);
	return conn_exists(conn, s, ret);
}

/* The key that is due first: 1, 0 when there is none, or -errno. */
static int first_due(struct conn *conn, struct key *key, int64_t *due_ms)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT key, due_ms FROM touched INDEXED BY touched_due"
				     " WHERE due_ms > 0 ORDER BY due_ms LIMIT 1");
	int r;

	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	*due_ms = sqlite3_column_int64(s, 1);
	r = key_set(key, column_slice(s, 0)) ? 1 : -EIO;
	sqlite3_reset(s);
	return r;
}

int touched_next(struct conn *conn, int64_t *due_ms)
{
	struct key key;
	int r = first_due(conn, &key, due_ms);

	if (r == 0)
		*due_ms = INT64_MAX;
	return r < 0 ? r : 0;
}

static int settled(struct conn *conn, struct slice key)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE touched SET due_ms = 0 WHERE key = ?1");

	bind_slice(s, 1, key);
	return conn_run(conn, s);
}

static int enqueue(struct conn *conn, struct slice key)
{
	CLEANUP(entry_done) struct entry e = {0};
	int r = entry_get(conn, key, &e);

	if (r)
		return r == -ENOENT ? 0 : r;
	struct outbox_change change = {
		.key = key,
		.stamp = entry_stamp(&e),
		.size = e.kind == KIND_FILE ? e.size : 0,
		.object_only = true,
	};
	return outbox_enqueue(conn, &change);
}

int touched_enqueue(struct conn *conn, int64_t now_ms, unsigned limit, unsigned *count)
{
	struct key key;
	int64_t due_ms = 0;
	int r = 0;

	for (*count = 0; *count < limit; (*count)++) {
		r = first_due(conn, &key, &due_ms);
		if (r <= 0 || due_ms > now_ms)
			break;
		r = enqueue(conn, key_slice(&key));
		if (!r)
			r = settled(conn, key_slice(&key));
		if (r)
			break;
	}
	return r < 0 ? r : 0;
}
