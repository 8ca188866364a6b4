/*
 * The entry table. A row is the key, its kind, and the rest as one encoded record (version 2):
 *
 *   u8 version, u8 kind, varint size, hash (32 bytes, files), bytes target (symlinks),
 *   u8 1 and be64 origin, be64 number of the link id, or u8 0, svarint mtime, stamp of content, varint mode, uid, gid, bytes xattrs, stamp of attributes,
 *   svarint mtime, its stamp, vector
 *
 * with a stamp as varint time and eight bytes of node. One encoding serves the conflict list as
 * well. What is read is checked like anything else: a damaged database gives -EIO, never a wild
 * read.
 *
 * Everything that looks for live entries is bound to the partial index entry_live by INDEXED BY, so
 * that the cost does not depend on how many tombstones there are, whatever the planner thinks.
 */
#include "cache/entry.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/replication.h"

#define RECORD_VERSION 2
#define TARGET_MAX 4096

void entry_done(struct entry *e)
{
	free(e->target);
	buf_done(&e->xattrs);
	*e = (struct entry){0};
}

int entry_copy(struct entry *to, const struct entry *from)
{
	struct entry e = *from;

	e.target = NULL;
	e.xattrs = (struct buf){0};
	if (from->target) {
		e.target = strdup(from->target);
		if (!e.target)
			return -ENOMEM;
	}
	if (from->xattrs.len)
		buf_put(&e.xattrs, from->xattrs.data, from->xattrs.len);
	if (e.xattrs.failed) {
		entry_done(&e);
		return -ENOMEM;
	}
	*to = e;
	return 0;
}

int64_t entry_mtime(const struct entry *e)
{
	return stamp_cmp(e->mtime_stamp, e->content_stamp) > 0 ? e->mtime_ns : e->content_mtime_ns;
}

struct stamp entry_stamp(const struct entry *e)
{
	struct stamp s = e->content_stamp;

	if (stamp_cmp(e->attr_stamp, s) > 0)
		s = e->attr_stamp;
	if (stamp_cmp(e->mtime_stamp, s) > 0)
		s = e->mtime_stamp;
	return s;
}

bool entry_live(const struct entry *e)
{
	return e->kind != KIND_ABSENT;
}

bool entry_content_equal(const struct entry *a, const struct entry *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == KIND_FILE)
		return a->size == b->size && memcmp(a->hash, b->hash, SHA256_SIZE) == 0;
	if (a->kind == KIND_SYMLINK)
		return strcmp(a->target ? a->target : "", b->target ? b->target : "") == 0;
	return true;
}

/* No buffer and the encoding of an empty list mean the same. */
static struct slice xattrs_of(const struct entry *e)
{
	if (e->xattrs.len == 1 && e->xattrs.data[0] == 0)
		return (struct slice){NULL, 0};
	return (struct slice){(const char *)e->xattrs.data, e->xattrs.len};
}

bool entry_attr_equal(const struct entry *a, const struct entry *b)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
	       slice_equal(xattrs_of(a), xattrs_of(b));
}

static int cmp_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

int entry_attr_cmp(const struct entry *a, const struct entry *b)
{
	int r = stamp_cmp(a->attr_stamp, b->attr_stamp);

	if (!r)
		r = cmp_u64(a->mode, b->mode);
	if (!r)
		r = cmp_u64(a->uid, b->uid);
	if (!r)
		r = cmp_u64(a->gid, b->gid);
	if (!r)
		r = cmp_u64(a->xattrs.len, b->xattrs.len);
	if (!r && a->xattrs.len)
		r = memcmp(a->xattrs.data, b->xattrs.data, a->xattrs.len);
	return r;
}

static void put_stamp(struct buf *b, struct stamp s)
{
	buf_put_varint(b, s.time);
	buf_put_be64(b, s.node);
}

static struct stamp get_stamp(struct reader *r)
{
	struct stamp s;

	s.time = reader_varint(r);
	s.node = reader_be64(r);
	return s;
}

void entry_encode(const struct entry *e, struct buf *b)
{
	/* Every other server would refuse it. */
	CHECK(!e->link.origin || e->kind == KIND_FILE || e->kind == KIND_SYMLINK);
	buf_put_u8(b, RECORD_VERSION);
	buf_put_u8(b, (uint8_t)e->kind);
	buf_put_varint(b, e->size);
	if (e->kind == KIND_FILE)
		buf_put(b, e->hash, SHA256_SIZE);
	if (e->kind == KIND_SYMLINK)
		buf_put_bytes(b, e->target, e->target ? strlen(e->target) : 0);
	buf_put_u8(b, e->link.origin != 0);
	if (e->link.origin) {
		buf_put_be64(b, e->link.origin);
		buf_put_be64(b, e->link.number);
	}
	buf_put_svarint(b, e->content_mtime_ns);
	put_stamp(b, e->content_stamp);
	buf_put_varint(b, e->mode);
	buf_put_varint(b, e->uid);
	buf_put_varint(b, e->gid);
	buf_put_bytes(b, e->xattrs.data, e->xattrs.len);
	put_stamp(b, e->attr_stamp);
	buf_put_svarint(b, e->mtime_ns);
	put_stamp(b, e->mtime_stamp);
	vector_encode(&e->vector, b);
}

static uint32_t get_u32(struct reader *r)
{
	uint64_t v = reader_varint(r);

	if (v > UINT32_MAX)
		r->failed = true;
	return (uint32_t)v;
}

static void get_target(struct reader *r, struct entry *e)
{
	size_t n = 0;
	const uint8_t *p = reader_bytes(r, TARGET_MAX, &n);

	if (r->failed)
		return;
	if (n && memchr(p, '\0', n)) {
		r->failed = true;
		return;
	}
	e->target = strndup(n ? (const char *)p : "", n);
}

static void get_link(struct reader *r, struct entry *e)
{
	uint8_t has = reader_u8(r);

	if (has > 1)
		r->failed = true;
	if (r->failed || !has)
		return;
	e->link.origin = reader_be64(r);
	e->link.number = reader_be64(r);
	if (!e->link.origin)
		r->failed = true;
}

static void get_content(struct reader *r, struct entry *e)
{
	uint8_t version = reader_u8(r), kind = reader_u8(r);
	const uint8_t *hash;

	if (version != RECORD_VERSION || kind > KIND_SYMLINK)
		r->failed = true;
	if (r->failed)
		return;
	e->kind = kind;
	e->size = reader_varint(r);
	if (kind == KIND_FILE) {
		hash = reader_raw(r, SHA256_SIZE);
		if (hash)
			memcpy(e->hash, hash, SHA256_SIZE);
	}
	if (kind == KIND_SYMLINK)
		get_target(r, e);
	get_link(r, e);
	e->content_mtime_ns = reader_svarint(r);
	e->content_stamp = get_stamp(r);
}

static void get_attr(struct reader *r, struct entry *e)
{
	const uint8_t *p;
	size_t n = 0;

	e->mode = get_u32(r);
	e->uid = get_u32(r);
	e->gid = get_u32(r);
	p = reader_bytes(r, ENTRY_XATTRS_MAX, &n);
	if (!r->failed && n)
		buf_put(&e->xattrs, p, n);
	e->attr_stamp = get_stamp(r);
	e->mtime_ns = reader_svarint(r);
	e->mtime_stamp = get_stamp(r);
}

int entry_decode(struct slice encoded, struct entry *ret)
{
	struct reader r = reader_of(encoded.p, encoded.len);
	struct entry e = {0};

	get_content(&r, &e);
	if (!r.failed)
		get_attr(&r, &e);
	if (!r.failed)
		vector_decode(&r, &e.vector);
	if (r.failed || reader_left(&r)) {
		entry_done(&e);
		return -EIO;
	}
	if (e.xattrs.failed || (e.kind == KIND_SYMLINK && !e.target)) {
		entry_done(&e);
		return -ENOMEM;
	}
	*ret = e;
	return 0;
}

int key_range_below(struct slice key, struct key_range *ret)
{
	if (key.len > KEY_MAX)
		return -EINVAL;
	if (key.len == 0) {
		/* Longer than any key and of the greatest byte: above all of them. */
		ret->low_len = 0;
		ret->high_len = sizeof(ret->high);
		memset(ret->high, 0xff, sizeof(ret->high));
		return 0;
	}
	memcpy(ret->low, key.p, key.len);
	memcpy(ret->high, key.p, key.len);
	ret->low[key.len] = '/';
	ret->high[key.len] = '/' + 1;
	ret->low_len = ret->high_len = key.len + 1;
	return 0;
}

int entry_get(struct conn *conn, struct slice key, struct entry *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT record FROM entry WHERE key = ?1");
	int r;

	bind_slice(s, 1, key);
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	r = entry_decode(column_slice(s, 0), ret);
	sqlite3_reset(s);
	return r;
}

/* -1 in *ret when there is no entry. */
static int stored_kind(struct conn *conn, struct slice key, int *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT kind FROM entry WHERE key = ?1");
	int64_t kind;

	bind_slice(s, 1, key);
	int r = conn_number_or(conn, s, -1, &kind);
	if (!r)
		*ret = (int)kind;
	return r;
}

static int count_change(struct conn *conn, int before, int after)
{
	bool was_live = before > KIND_ABSENT, is_live = after > KIND_ABSENT;
	int r = 0;

	if (before >= 0 && was_live == is_live)
		return 0;
	if (before >= 0)
		r = counter_add(conn, was_live ? COUNTER_LIVE : COUNTER_TOMBSTONE, -1, NULL);
	if (!r)
		r = counter_add(conn, is_live ? COUNTER_LIVE : COUNTER_TOMBSTONE, 1, NULL);
	return r;
}

static sqlite3_stmt *put_statement(struct conn *conn, int before, int kind)
{
	/* Where it stays of its kind the index of live ones is not touched. */
	if (before == kind)
		return conn_statement(conn, "UPDATE entry SET record = ?3 WHERE key = ?1");
	if (before < 0)
		return conn_statement(
			conn, "INSERT INTO entry(key, kind, record) VALUES(?1, ?2, ?3)");
	return conn_statement(conn, "UPDATE entry SET kind = ?2, record = ?3 WHERE key = ?1");
}

int entry_put_over(struct conn *conn, struct slice key, int before, const struct entry *e)
{
	CLEANUP(buf_done) struct buf record = {0};
	sqlite3_stmt *s;
	int r;

	if (key.len > KEY_MAX || e->xattrs.len > ENTRY_XATTRS_MAX)
		return -EINVAL;
	if (e->target && strlen(e->target) > TARGET_MAX)
		return -EINVAL;
	entry_encode(e, &record);
	if (record.failed)
		return -ENOMEM;
	s = put_statement(conn, before, (int)e->kind);
	bind_slice(s, 1, key);
	if (before != (int)e->kind)
		bind_int(s, 2, (int)e->kind);
	bind_slice(s, 3, (struct slice){(const char *)record.data, record.len});
	r = conn_run(conn, s);
	if (!r && before >= 0 && sqlite3_changes(conn->db) != 1)
		r = -EIO;
	if (r)
		return r;
	shown_unsure(conn);
	return count_change(conn, before, (int)e->kind);
}

int entry_put(struct conn *conn, struct slice key, const struct entry *e)
{
	int before = -1, r = stored_kind(conn, key, &before);

	return r ? r : entry_put_over(conn, key, before, e);
}

int entry_has_live_below(struct conn *conn, struct slice key, bool *ret)
{
	sqlite3_stmt *s;
	struct key_range range;
	int r = key_range_below(key, &range);

	if (r)
		return r;
	s = conn_statement(conn, "SELECT 1 FROM entry INDEXED BY entry_live"
				 " WHERE kind <> 0 AND key > ?1 AND key < ?2 LIMIT 1");
	bind_slice(s, 1, key_range_low(&range));
	bind_slice(s, 2, key_range_high(&range));
	return conn_exists(conn, s, ret);
}

static int slice_cmp(struct slice a, struct slice b)
{
	size_t n = a.len < b.len ? a.len : b.len;
	int r = n ? memcmp(a.p, b.p, n) : 0;

	return r ? r : (a.len > b.len) - (a.len < b.len);
}

/* The keys after which the scan goes on, in [after, high), into keys. */
static int collect_below(struct conn *conn, struct slice low, struct slice high, bool live_only,
	unsigned limit, struct buf *keys)
{
	sqlite3_stmt *s;
	int r;

	if (live_only)
		s = conn_statement(conn,
			"SELECT key FROM entry INDEXED BY entry_live WHERE kind <> 0"
			" AND key > ?1 AND key < ?2 ORDER BY key LIMIT ?3");
	else
		s = conn_statement(conn, "SELECT key FROM entry"
					 " WHERE key > ?1 AND key < ?2 ORDER BY key LIMIT ?3");
	bind_slice(s, 1, low);
	bind_slice(s, 2, high);
	bind_int(s, 3, limit);
	while ((r = conn_row(conn, s)) == 1) {
		struct slice key = column_slice(s, 0);

		buf_put_bytes(keys, key.p, key.len);
	}
	return r;
}

static int collect(struct conn *conn, struct slice prefix, struct slice after, bool live_only,
	unsigned limit, struct buf *keys)
{
	struct key_range range;
	struct slice low;
	int kind = -1, r = key_range_below(prefix, &range);

	if (r || limit == 0)
		return r;
	if (!after.p || slice_cmp(after, prefix) < 0) {
		r = stored_kind(conn, prefix, &kind);
		if (r)
			return r;
		if (kind > KIND_ABSENT || (kind == KIND_ABSENT && !live_only)) {
			buf_put_bytes(keys, prefix.p, prefix.len);
			limit--;
		}
	}
	low = key_range_low(&range);
	if (slice_cmp(after, low) > 0)
		low = after;
	return limit ? collect_below(conn, low, key_range_high(&range), live_only, limit, keys) : 0;
}

/* The keys are copied before fn sees them, so fn may change entries or scan in turn. */
int entry_scan(struct conn *conn, struct slice prefix, struct slice after, bool live_only,
	unsigned limit, entry_key_fn fn, void *ctx)
{
	CLEANUP(buf_done) struct buf keys = {0};
	struct reader reader;
	int r = collect(conn, prefix, after, live_only, limit, &keys);

	if (r)
		return r;
	if (keys.failed)
		return -ENOMEM;
	reader = reader_of(keys.data, keys.len);
	while (reader_left(&reader)) {
		size_t n = 0;
		const uint8_t *p = reader_bytes(&reader, KEY_MAX, &n);

		if (reader.failed)
			return -EIO;
		r = fn(ctx, (struct slice){(const char *)p, n});
		if (r)
			return r;
	}
	return 0;
}

int entry_count(struct conn *conn, uint64_t *live, uint64_t *tombstones)
{
	uint64_t alive = 0, dead = 0;
	int r = counter_get(conn, COUNTER_LIVE, &alive);

	if (!r)
		r = counter_get(conn, COUNTER_TOMBSTONE, &dead);
	if (r)
		return r;
	*live = alive;
	*tombstones = dead;
	return 0;
}

int entry_count_below(struct conn *conn, struct slice key, uint64_t *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT count(*) FROM entry INDEXED BY entry_live"
		" WHERE kind <> 0 AND (key = ?1 OR (key >= ?2 AND key < ?3))");
	struct key_range range;
	int r = key_range_below(key, &range);

	if (r)
		return r;
	bind_slice(s, 1, key);
	bind_slice(s, 2, key_range_low(&range));
	bind_slice(s, 3, key_range_high(&range));
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = r ? (uint64_t)sqlite3_column_int64(s, 0) : 0;
	if (r)
		sqlite3_reset(s);
	return 0;
}
