/*
 * Tables object_seen and object_gone. A row is a hint with one exception: that there is one says
 * that the object was there. It is put in the transaction in which the delivery is recorded, so it
 * is never ahead of the bucket; a row that a power cut takes with it costs a request at the next
 * scan.
 */
#include "cache/object_seen.h"

#include <errno.h>
#include <endian.h>
#include <string.h>

#include "cache/db.h"

#define OBJECT_KEY_MAX 1024

uint64_t object_seen_tag(const char *etag, uint64_t size)
{
	const uint64_t size_le = htole64(size);
	uint64_t h;

	if (!etag[0])
		return 0;
	h = slice_hash(slice_of(etag));
	h = fnv1a(h, &size_le, sizeof(size_le));
	return h ? h : 1;
}

int object_seen_put(
	struct conn *conn, unsigned region, const char *key, const struct object_seen *row)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO object_seen(region, key, tag, time, node) VALUES(?1, ?2, ?3, ?4, ?5)"
		" ON CONFLICT(region, key) DO UPDATE SET tag = excluded.tag, time = excluded.time,"
		" node = excluded.node");

	bind_int(s, 1, region);
	bind_slice(s, 2, slice_of(key));
	bind_int(s, 3, (int64_t)row->tag);
	bind_int(s, 4, (int64_t)row->stamp.time);
	bind_int(s, 5, (int64_t)row->stamp.node);
	return conn_run(conn, s);
}

int object_seen_drop(struct conn *conn, unsigned region, const char *key)
{
	sqlite3_stmt *s =
		conn_statement(conn, "DELETE FROM object_seen WHERE region = ?1 AND key = ?2");

	bind_int(s, 1, region);
	bind_slice(s, 2, slice_of(key));
	return conn_run(conn, s);
}

static struct object_seen column_seen(sqlite3_stmt *s, int first)
{
	return (struct object_seen){.tag = (uint64_t)sqlite3_column_int64(s, first),
		.stamp = {.time = (uint64_t)sqlite3_column_int64(s, first + 1),
			.node = (uint64_t)sqlite3_column_int64(s, first + 2)}};
}

int object_seen_get(struct conn *conn, unsigned region, const char *key, struct object_seen *ret)
{
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT tag, time, node FROM object_seen WHERE region = ?1 AND key = ?2");
	int r;

	bind_int(s, 1, region);
	bind_slice(s, 2, slice_of(key));
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	*ret = column_seen(s, 0);
	sqlite3_reset(s);
	return 0;
}

/* Steps through rows whose columns are the key and, with_row, those of struct object_seen. */
static int each(struct conn *conn, sqlite3_stmt *s, bool with_row, object_seen_fn fn, void *ctx)
{
	char key[OBJECT_KEY_MAX + 1];
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		struct slice k = column_slice(s, 0);
		struct object_seen row = {0};
		int code;

		if (k.len > OBJECT_KEY_MAX)
			continue;
		memcpy(key, k.p, k.len);
		key[k.len] = '\0';
		if (with_row)
			row = column_seen(s, 1);
		code = fn(ctx, key, &row);
		if (code) {
			sqlite3_reset(s);
			return code;
		}
	}
	return r;
}

int object_seen_scan(struct conn *conn, unsigned region, struct slice low, struct slice high,
	unsigned limit, object_seen_fn fn, void *ctx)
{
	sqlite3_stmt *s;

	if (high.p)
		s = conn_statement(conn, "SELECT key, tag, time, node FROM object_seen"
					 " WHERE region = ?1 AND key >= ?2 AND key < ?4"
					 " ORDER BY key LIMIT ?3");
	else
		s = conn_statement(conn, "SELECT key, tag, time, node FROM object_seen"
					 " WHERE region = ?1 AND key >= ?2 ORDER BY key LIMIT ?3");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_slice(s, 2, low.p ? low : (struct slice){"", 0});
	bind_int(s, 3, limit);
	if (high.p)
		bind_slice(s, 4, high);
	return each(conn, s, true, fn, ctx);
}

int object_gone_clear(struct conn *conn, unsigned region)
{
	return conn_run_int(conn, "DELETE FROM object_gone WHERE region = ?1", region);
}

int object_seen_clear(struct conn *conn, unsigned region)
{
	int r = conn_run_int(conn, "DELETE FROM object_seen WHERE region = ?1", region);

	return r ? r : object_gone_clear(conn, region);
}

int object_gone_add(struct conn *conn, unsigned region, const char *key)
{
	sqlite3_stmt *s = conn_statement(
		conn, "INSERT OR IGNORE INTO object_gone(region, key) VALUES(?1, ?2)");

	bind_int(s, 1, region);
	bind_slice(s, 2, slice_of(key));
	return conn_run(conn, s);
}

int object_gone_scan(struct conn *conn, unsigned region, const char *after, unsigned limit,
	object_seen_fn fn, void *ctx)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT key FROM object_gone"
					       " WHERE region = ?1 AND key > ?2"
					       " ORDER BY key LIMIT ?3");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_slice(s, 2, slice_of(after));
	bind_int(s, 3, limit);
	return each(conn, s, false, fn, ctx);
}
