/*
 * Extended attributes, and POSIX ACLs, which are attributes that go with the mode.
 *
 * Most inodes have no attributes, and programs ask for them all the time. So a filter in memory
 * says which certainly have none: one bit for each inode number modulo FILTER_BITS, set before an
 * attribute is put and never cleared while the cache is open. It has no lock: a bit that is clear
 * means that no put of that inode has begun. It is filled when the cache is opened; a volume with
 * more attributes than fit sets every bit, and the count in the inode's row answers then.
 *
 * An access list is kept only when it says more than the permission bits, and both are changed in
 * one transaction.
 */
#include <errno.h>
#include <sys/xattr.h>

#include "cache/acl.h"
#include "cache/entry.h"
#include "cache/internal.h"
#include "cache/meta.h"
#include "src/base/clock.h"

#define VALUE_MAX ((size_t)64 << 10)
#define TOTAL_MAX ((uint64_t)128 << 10) /* names and values of one inode */
#define FILTER_BITS ((uint64_t)1 << 20)
#define FILTER_LOAD_MAX 200000 /* inodes with attributes; more take too long to read at a start */
#define META_SECURITY "security_xattrs"

struct xattr_filter {
	_Atomic bool all;      /* every bit counts as set */
	_Atomic bool security; /* a security.* attribute was put at any time */
	_Atomic uint64_t bits[FILTER_BITS / 64];
};

struct xattr_filter *xattr_filter_new(void)
{
	return calloc(1, sizeof(struct xattr_filter));
}

static void filter_set(struct xattr_filter *f, uint64_t ino)
{
	uint64_t n = ino % FILTER_BITS;

	atomic_fetch_or(&f->bits[n / 64], (uint64_t)1 << n % 64);
}

int xattr_filter_load(struct cache *c)
{
	struct conn *conn AUTO_READ_END = NULL;
	int64_t security = 0;
	sqlite3_stmt *s;
	unsigned n = 0;
	int r = cache_read_begin(c, &conn);

	if (r)
		return r;
	r = meta_get_int(conn, META_SECURITY, &security);
	if (r && r != -ENOENT)
		return r;
	atomic_store(&c->xattrs->security, security != 0);
	s = conn_statement(conn, "SELECT DISTINCT ino FROM xattr LIMIT ?1");
	bind_int(s, 1, FILTER_LOAD_MAX);
	while ((r = conn_row(conn, s)) > 0) {
		filter_set(c->xattrs, (uint64_t)sqlite3_column_int64(s, 0));
		n++;
	}
	atomic_store(&c->xattrs->all, n == FILTER_LOAD_MAX);
	return r;
}

bool tree_may_have_xattrs(struct cache *c, uint64_t ino)
{
	uint64_t n = ino % FILTER_BITS;

	return atomic_load(&c->xattrs->all) ||
	       (atomic_load(&c->xattrs->bits[n / 64]) & (uint64_t)1 << n % 64);
}

bool tree_has_security_xattrs(struct cache *c)
{
	return atomic_load(&c->xattrs->security);
}

/* Before an attribute is put. What is noted in memory and then rolled back does no harm. */
static int note(struct conn *conn, uint64_t ino, const char *name, size_t name_len)
{
	struct xattr_filter *f = conn->cache->xattrs;

	filter_set(f, ino);
	if (name_len < 9 || memcmp(name, "security.", 9) != 0)
		return 0;
	atomic_store(&f->security, true);
	/* Each time: an earlier one may have been rolled back. They are rare. */
	return meta_set_int(conn, META_SECURITY, 1);
}

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
	bind_int(*s, 1, (int64_t)ino);
	bind_text(*s, 2, name);
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

	if (!tree_may_have_xattrs(c, ino))
		return -ENODATA;
	r = conn_take_warm(c, &conn);
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

	if (!tree_may_have_xattrs(c, ino))
		return 0;
	r = conn_take_warm(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r || row.xattrs == 0)
		return r;
	s = conn_statement(
		conn, "SELECT CAST(name AS BLOB) FROM xattr WHERE ino = ?1 ORDER BY name");
	bind_int(s, 1, (int64_t)ino);
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
	sqlite3_stmt *s;
	int r = note(conn, ino, name, name_len);

	if (r)
		return r;
	s = conn_statement(conn,
		"INSERT INTO xattr(ino, name, value) VALUES(?1, ?2, ?3)"
		" ON CONFLICT(ino, name) DO UPDATE SET value = excluded.value");
	bind_int(s, 1, (int64_t)ino);
	bind_text_n(s, 2, name, name_len);
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

	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, clock_realtime_ns());
	r = conn_run(conn, s);
	if (r)
		return r;
	s = conn_statement(conn,
		"SELECT coalesce(sum(length(CAST(name AS BLOB)) + length(value)), 0)"
		" FROM xattr WHERE ino = ?1");
	bind_int(s, 1, (int64_t)ino);
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
	r = cache_begin_op(c, &conn);
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
	return conn_run_int(conn, "DELETE FROM xattr WHERE ino = ?1", (int64_t)ino);
}

static int remove_one(struct conn *conn, uint64_t ino, const char *name)
{
	sqlite3_stmt *s = conn_statement(conn, "DELETE FROM xattr WHERE ino = ?1 AND name = ?2");
	int r;

	bind_int(s, 1, (int64_t)ino);
	bind_text(s, 2, name);
	r = conn_run(conn, s);
	return r ? r : sqlite3_changes(conn->db) ? 0 : -ENODATA;
}

int tree_removexattr(struct cache *c, uint64_t ino, const char *name)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row row;
	int r;

	r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r)
		r = remove_one(conn, ino, name);
	return r ? r : finish(&conn, ino);
}

/* ---- access control lists ---- */

static int put_acl(struct conn *conn, uint64_t ino, const char *name, const struct acl *acl)
{
	uint8_t value[ACL_BYTES_MAX];

	return put(conn, ino, name, strlen(name), value, acl_serialise(acl, value));
}

/* 1: *ret is it; 0: there is none. */
static int get_acl(
	struct conn *conn, const struct inode_row *row, const char *name, struct acl *ret)
{
	struct slice value;
	sqlite3_stmt *s;
	int r;

	if (row->xattrs == 0)
		return 0;
	r = find(conn, row->ino, name, &s, &value);
	if (r <= 0)
		return r;
	r = acl_parse(value, ret);
	sqlite3_reset(s);
	/* Nothing puts a malformed one, so the database is damaged. */
	return r ? -EIO : ret->count > 0;
}

int inode_inherit(
	struct conn *conn, const struct inode_row *dir, uint32_t umask, struct inode_row *row)
{
	struct acl acl;
	int r;

	if (S_ISLNK(row->mode))
		return 0;
	r = get_acl(conn, dir, ACL_DEFAULT, &acl);
	if (r < 0)
		return r;
	if (r == 0) {
		row->mode &= ~(umask & 0777);
		return 0;
	}
	r = 0;
	if (S_ISDIR(row->mode)) {
		r = put_acl(conn, row->ino, ACL_DEFAULT, &acl);
		row->xattrs++;
	}
	if (!r && acl_create_masq(&acl, &row->mode)) {
		r = put_acl(conn, row->ino, ACL_ACCESS, &acl);
		row->xattrs++;
	}
	return r;
}

int inode_follow_mode(struct conn *conn, const struct inode_row *row)
{
	struct acl acl;
	int r = get_acl(conn, row, ACL_ACCESS, &acl);

	if (r <= 0)
		return r;
	acl_chmod_masq(&acl, row->mode);
	return put_acl(conn, row->ino, ACL_ACCESS, &acl);
}

/* Puts or removes what acl (count 0: none) leaves of the list of that name. */
static int change_acl(struct conn *conn, const struct inode_row *row, const char *name,
	const struct acl *acl, bool kill_sgid)
{
	uint32_t mode = row->mode;
	bool keep = acl->count > 0;
	int r = 0;

	if (keep && strcmp(name, ACL_ACCESS) == 0) {
		keep = !acl_equiv_mode(acl, &mode);
		if (kill_sgid)
			mode &= ~(uint32_t)S_ISGID;
	}
	if (mode != row->mode)
		r = inode_set_attr(conn, row->ino, SET_MODE, mode, 0, 0, 0);
	if (r)
		return r;
	if (keep)
		return put_acl(conn, row->ino, name, acl);
	r = remove_one(conn, row->ino, name);
	return r == -ENODATA ? 0 : r;
}

int tree_set_acl(struct cache *c, uint64_t ino, const char *name, const void *value, size_t size,
	bool kill_sgid)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct acl acl = {0};
	struct inode_row row;
	int r = 0;

	if (value)
		r = acl_parse((struct slice){value, size}, &acl);
	if (!r)
		r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r)
		return r;
	if (S_ISLNK(row.mode))
		return -EOPNOTSUPP;
	/* As Linux does. */
	if (strcmp(name, ACL_DEFAULT) == 0 && !S_ISDIR(row.mode))
		return acl.count ? -EACCES : 0;
	r = change_acl(conn, &row, name, &acl, kill_sgid);
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
		bind_int(s, 1, (int64_t)ino);
		while ((r = conn_row(conn, s)) > 0) {
			struct slice name = column_slice(s, 0), value = column_slice(s, 1);

			buf_put_bytes(ret, name.p, name.len);
			buf_put_bytes(ret, value.p, value.len);
		}
	}
	return r ? r : ret->failed ? -ENOMEM : 0;
}
