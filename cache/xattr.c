/*
 * Extended attributes. The count in the inode's row spares files without any a second lookup, which
 * is what the kernel asks for most (security.capability).
 */
#include <errno.h>
#include <sys/xattr.h>

#include "cache/entry.h"
#include "cache/internal.h"
#include "src/base/clock.h"

#define VALUE_MAX ((size_t)64 << 10)
#define TOTAL_MAX ((uint64_t)128 << 10) /* names and values of one inode */

static int check_name(const char *name)
{
	size_t len = strlen(name);

	return len == 0 || len > NAME_MAX_BYTES ? -ERANGE : 0;
}

/* 1: value in *ret, borrowed from s until it is reset. */
static int find(
	struct conn *conn, uint64_t ino, const char *name, sqlite3_stmt **s, struct slice *ret)
{
	int r;

	*s = conn_statement(conn, "SELECT value FROM xattr WHERE ino = ?1 AND name = ?2");
	if (!*s)
		return conn_error(conn);
	sqlite3_bind_int64(*s, 1, (int64_t)ino);
	sqlite3_bind_text(*s, 2, name, -1, SQLITE_STATIC);
	r = conn_row(conn, *s);
	if (r == 1)
		*ret = column_slice(*s, 0);
	return r;
}

ssize_t tree_getxattr(struct cache *c, uint64_t ino, const char *name, void *value, size_t size)
{
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row;
	struct slice v = {0};
	sqlite3_stmt *s;
	ssize_t n;
	int r;

	r = conn_take(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r)
		return r;
	if (row.xattrs == 0)
		return -ENODATA;
	r = find(conn, ino, name, &s, &v);
	if (r <= 0)
		return r ? r : -ENODATA;
	n = (ssize_t)v.len;
	if (size && v.len > size)
		n = -ERANGE;
	else if (size)
		memcpy(value, v.p, v.len);
	sqlite3_reset(s);
	return n;
}

ssize_t tree_listxattr(struct cache *c, uint64_t ino, char *list, size_t size)
{
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row = {0};
	sqlite3_stmt *s;
	size_t n = 0;
	int r;

	r = conn_take(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r || row.xattrs == 0)
		return r;
	s = conn_statement(
		conn, "SELECT CAST(name AS BLOB) FROM xattr WHERE ino = ?1 ORDER BY name");
	if (!s)
		return conn_error(conn);
	sqlite3_bind_int64(s, 1, (int64_t)ino);
	while ((r = conn_row(conn, s)) > 0) {
		struct slice name = column_slice(s, 0);

		if (size && n + name.len + 1 > size) {
			sqlite3_reset(s);
			return -ERANGE;
		}
		if (size) {
			memcpy(list + n, name.p, name.len);
			list[n + name.len] = '\0';
		}
		n += name.len + 1;
	}
	return r ? r : (ssize_t)n;
}

static int put(struct conn *conn, uint64_t ino, const char *name, size_t name_len,
	const void *value, size_t size)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO xattr(ino, name, value) VALUES(?1, ?2, ?3)"
		" ON CONFLICT(ino, name) DO UPDATE SET value = excluded.value");

	if (!s)
		return conn_error(conn);
	sqlite3_bind_int64(s, 1, (int64_t)ino);
	sqlite3_bind_text(s, 2, name, (int)name_len, SQLITE_STATIC);
	bind_slice(s, 3, (struct slice){value, size});
	return conn_run(conn, s);
}

/* Brings the count up to date and says how much there is. */
static int recount(struct conn *conn, uint64_t ino, uint64_t *bytes)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE inode SET xattrs = (SELECT count(*) FROM "
					       "xattr WHERE ino = ?1), ctime_ns = ?2"
					       " WHERE ino = ?1");
	int r;

	if (!s)
		return conn_error(conn);
	sqlite3_bind_int64(s, 1, (int64_t)ino);
	sqlite3_bind_int64(s, 2, clock_realtime_ns());
	r = conn_run(conn, s);
	if (r)
		return r;
	s = conn_statement(conn,
		"SELECT coalesce(sum(length(CAST(name AS BLOB)) + length(value)), 0)"
		" FROM xattr WHERE ino = ?1");
	if (!s)
		return conn_error(conn);
	sqlite3_bind_int64(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	*bytes = (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

static int exists(struct conn *conn, uint64_t ino, const char *name, bool *ret)
{
	struct slice value;
	sqlite3_stmt *s;
	int r = find(conn, ino, name, &s, &value);

	if (r < 0)
		return r;
	if (r)
		sqlite3_reset(s);
	*ret = r == 1;
	return 0;
}

static int finish(struct conn **conn, uint64_t ino)
{
	struct conn *ending = *conn;
	uint64_t bytes = 0;
	int r = recount(ending, ino, &bytes);

	if (!r && bytes > TOTAL_MAX)
		r = -ENOSPC;
	if (!r)
		r = journal_inode(ending, ino);
	if (r)
		return r;
	*conn = NULL;
	return cache_commit(ending);
}

int tree_setxattr(
	struct cache *c, uint64_t ino, const char *name, const void *value, size_t size, int flags)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row row;
	bool there = false;
	int r;

	r = check_name(name);
	if (r)
		return r;
	if (size > VALUE_MAX)
		return -E2BIG;
	r = cache_begin(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r)
		r = exists(conn, ino, name, &there);
	if (r)
		return r;
	if (there && flags & XATTR_CREATE)
		return -EEXIST;
	if (!there && flags & XATTR_REPLACE)
		return -ENODATA;
	r = put(conn, ino, name, strlen(name), value, size);
	return r ? r : finish(&conn, ino);
}

static int remove_all(struct conn *conn, uint64_t ino)
{
	sqlite3_stmt *s = conn_statement(conn, "DELETE FROM xattr WHERE ino = ?1");

	if (!s)
		return conn_error(conn);
	sqlite3_bind_int64(s, 1, (int64_t)ino);
	return conn_run(conn, s);
}

int tree_removexattr(struct cache *c, uint64_t ino, const char *name)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row row;
	sqlite3_stmt *s;
	int r;

	r = cache_begin(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r)
		return r;
	s = conn_statement(conn, "DELETE FROM xattr WHERE ino = ?1 AND name = ?2");
	if (!s)
		return conn_error(conn);
	sqlite3_bind_int64(s, 1, (int64_t)ino);
	sqlite3_bind_text(s, 2, name, -1, SQLITE_STATIC);
	r = conn_run(conn, s);
	if (!r && sqlite3_changes(conn->db) == 0)
		r = -ENODATA;
	return r ? r : finish(&conn, ino);
}

/* ---- the encoding of entry.h ---- */

static int decode(struct conn *conn, uint64_t ino, struct slice encoded)
{
	struct reader r = reader_of(encoded.p, encoded.len);
	uint64_t count = reader_varint(&r);

	for (uint64_t i = 0; i < count; i++) {
		size_t name_len = 0, value_len = 0;
		const uint8_t *name = reader_bytes(&r, NAME_MAX_BYTES, &name_len);
		const uint8_t *value = reader_bytes(&r, VALUE_MAX, &value_len);
		int e;

		if (r.failed || name_len == 0 || memchr(name, '\0', name_len))
			return -EINVAL;
		e = put(conn, ino, (const char *)name, name_len, value, value_len);
		if (e)
			return e;
	}
	return r.failed || reader_left(&r) ? -EINVAL : 0;
}

int inode_set_xattrs(struct conn *conn, uint64_t ino, struct slice encoded)
{
	struct inode_row row;
	uint64_t bytes;
	int r;

	if (encoded.len > ENTRY_XATTRS_MAX)
		return -EINVAL;
	r = inode_get(conn, ino, &row);
	if (r)
		return r;
	if (row.xattrs)
		r = remove_all(conn, ino);
	else if (encoded.len <= 1)
		return 0; /* none before, none after */
	if (!r && encoded.len)
		r = decode(conn, ino, encoded);
	return r ? r : recount(conn, ino, &bytes);
}

int inode_get_xattrs(struct conn *conn, uint64_t ino, struct buf *ret)
{
	struct inode_row row;
	sqlite3_stmt *s;
	int r = inode_get(conn, ino, &row);

	if (r)
		return r;
	buf_put_varint(ret, row.xattrs);
	if (row.xattrs) {
		s = conn_statement(conn,
			"SELECT CAST(name AS BLOB), value FROM xattr WHERE ino = ?1"
			" ORDER BY name");
		if (!s)
			return conn_error(conn);
		sqlite3_bind_int64(s, 1, (int64_t)ino);
		while ((r = conn_row(conn, s)) > 0) {
			struct slice name = column_slice(s, 0), value = column_slice(s, 1);

			buf_put_bytes(ret, name.p, name.len);
			buf_put_bytes(ret, value.p, value.len);
		}
	}
	return r ? r : ret->failed ? -ENOMEM : 0;
}
