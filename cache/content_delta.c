/*
 * Table content_delta, one row for each content that a delta makes. Rows go by age alone: an object is some
 * announced changes behind its file at most, so old ones are of no use.
 */
#include "cache/content_delta.h"

#include <errno.h>
#include <string.h>

#include "cache/db.h"

#define REMOVED_AT_ONCE 16

static struct slice hash_slice(const uint8_t hash[SHA256_SIZE])
{
	return (struct slice){(const char *)hash, SHA256_SIZE};
}

static int add_total(struct conn *conn, int64_t bytes, int64_t *total)
{
	return conn_add(conn, "UPDATE content_delta_total SET bytes = bytes + ?1 RETURNING bytes",
		bytes, total);
}

/* The oldest few. *bytes: what they had. */
static int remove_oldest(struct conn *conn, int64_t *bytes)
{
	sqlite3_stmt *s = conn_statement(conn,
		"DELETE FROM content_delta WHERE id IN"
		" (SELECT id FROM content_delta ORDER BY id LIMIT ?1) RETURNING length(delta)");
	int r;

	*bytes = 0;
	bind_int(s, 1, REMOVED_AT_ONCE);
	while ((r = conn_row(conn, s)) == 1)
		*bytes += sqlite3_column_int64(s, 0);
	return r;
}

static int add(struct conn *conn, const uint8_t *hash, uint64_t size, const uint8_t *base,
	struct slice delta, bool *added)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO content_delta(hash, size, base, delta) VALUES(?1, ?2, ?3, ?4)"
		" ON CONFLICT(hash) DO NOTHING RETURNING 1");

	*added = false;
	bind_slice(s, 1, hash_slice(hash));
	bind_int(s, 2, (int64_t)size);
	bind_slice(s, 3, hash_slice(base));
	bind_slice(s, 4, delta);
	int r = conn_row(conn, s);
	if (r == 1) {
		sqlite3_reset(s);
		*added = true;
	}
	return r < 0 ? r : 0;
}

static int keep(struct conn *conn, const uint8_t *hash, uint64_t size, const uint8_t *base,
	struct slice delta)
{
	int64_t total = 0, bytes = 1;
	bool added;
	int r = add(conn, hash, size, base, delta, &added);

	if (!r && added)
		r = add_total(conn, (int64_t)delta.len, &total);
	while (!r && total > CONTENT_DELTAS_MAX && bytes > 0) {
		r = remove_oldest(conn, &bytes);
		if (!r)
			r = add_total(conn, -bytes, &total);
	}
	return r;
}

int content_delta_keep(struct cache *c, const uint8_t hash[SHA256_SIZE], uint64_t size,
	const uint8_t base[SHA256_SIZE], const void *p, size_t n)
{
	struct conn *conn;
	int r = cache_begin_lazy(c, &conn);

	if (r < 0)
		return r;
	r = keep(conn, hash, size, base, (struct slice){p, n});
	if (r == 0)
		return cache_commit(conn);
	cache_rollback(conn);
	return r;
}

int content_delta_get(struct conn *conn, const uint8_t hash[SHA256_SIZE], uint64_t *size,
	uint8_t base[SHA256_SIZE], struct buf *delta)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT size, base, delta FROM content_delta WHERE hash = ?1");

	bind_slice(s, 1, hash_slice(hash));
	int r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	struct slice from = column_slice(s, 1), bytes = column_slice(s, 2);
	r = from.len == SHA256_SIZE ? 0 : -EIO;
	if (r == 0) {
		*size = (uint64_t)sqlite3_column_int64(s, 0);
		memcpy(base, from.p, SHA256_SIZE);
		buf_put(delta, bytes.p, bytes.len);
		r = delta->failed ? -ENOMEM : 0;
	}
	sqlite3_reset(s);
	return r;
}
