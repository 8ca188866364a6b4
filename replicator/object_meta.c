/*
 * An entry as object metadata and back.
 *
 *   mode uid gid mtime       as s3fs writes them: decimal, mode with type bits, mtime in seconds
 *                            with an optional fraction of nine digits; for other tools, of which
 *                            only mode, uid and gid are read
 *   meridian-stamp           content stamp; its presence makes the object Meridian's
 *   meridian-attr-stamp      meridian-mtime-stamp (only when that register was ever set)
 *   meridian-content-mtime   nanoseconds, decimal; meridian-mtime likewise for the mtime register
 *   meridian-sha256          of the body (files and symlinks)
 *   meridian-parts           of the hashes of the body's parts: not from the entry, see parts.h
 *   meridian-link            link id, as a stamp is written; only where there is one
 *   meridian-vector          base64 of the encoding of base/hlc.h
 *   meridian-key             the first 16 hexadecimal digits of the SHA-256 of the object's key: other
 *                            tools take metadata along when they copy or rename
 *   meridian-copied          of a copy that the store could not be told to make of one version only:
 *                            that version's ETag, which the store keeps. With another one the bytes
 *                            are another version's
 *   meridian-xattrs          base64 of the encoding of cache/entry.h, or "omitted" when it did not
 *                            fit
 *
 * Everything read back was written by who knows whom: each value is checked for its whole form, and
 * one that is wrong makes the object foreign, which costs a copy before it is overwritten and
 * nothing else.
 */
#include "replicator/object.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/acl.h"

enum { NUMBER_SIZE = 32 };

void object_entry_done(struct object_entry *e)
{
	entry_done(&e->entry);
	*e = (struct object_entry){0};
}

static uint32_t type_bits(enum kind kind)
{
	return kind == KIND_DIR ? S_IFDIR : kind == KIND_SYMLINK ? S_IFLNK : S_IFREG;
}

static int set_number(struct store_meta *m, const char *name, int64_t v)
{
	char text[NUMBER_SIZE];

	snprintf(text, sizeof(text), "%" PRId64, v);
	return store_meta_set(m, name, text);
}

static int set_stamp(struct store_meta *m, const char *name, struct stamp s)
{
	char text[STAMP_TEXT_SIZE];

	stamp_format(s, text);
	return store_meta_set(m, name, text);
}

static int set_base64(struct store_meta *m, const char *name, const struct buf *b)
{
	if (b->failed)
		return -ENOMEM;
	AUTO_FREE char *text = malloc(BASE64_SIZE(b->len));
	if (!text)
		return -ENOMEM;
	base64_encode(b->data, b->len, text);
	return store_meta_set(m, name, text);
}

static int set_s3fs_mtime(struct store_meta *m, int64_t ns)
{
	int64_t sec = ns / 1000000000, rest = ns % 1000000000;
	char text[NUMBER_SIZE * 2];

	if (rest < 0) {
		rest += 1000000000;
		sec--;
	}
	if (rest)
		snprintf(text, sizeof(text), "%" PRId64 ".%09" PRId64, sec, rest);
	else
		snprintf(text, sizeof(text), "%" PRId64, sec);
	return store_meta_set(m, "mtime", text);
}

static int set_hash(struct store_meta *m, const struct entry *e)
{
	uint8_t hash[SHA256_SIZE];
	char text[SHA256_HEX_SIZE];

	if (e->kind == KIND_DIR)
		return 0;
	if (e->kind == KIND_SYMLINK && e->target)
		sha256(e->target, strlen(e->target), hash);
	else
		memcpy(hash, e->hash, sizeof(hash));
	hex_encode(hash, sizeof(hash), text);
	return store_meta_set(m, "meridian-sha256", text);
}

static int set_xattrs(struct store_meta *m, const struct entry *e, bool omitted)
{
	if (!omitted && !e->xattrs.len)
		return 0;
	if (!omitted && e->xattrs.len < STORE_META_BYTES) {
		int r = set_base64(m, "meridian-xattrs", &e->xattrs);
		if (r != -E2BIG)
			return r;
	}
	return store_meta_set(m, "meridian-xattrs", "omitted");
}

static int from_entry(const struct entry *e, bool xattrs_omitted, struct store_meta *m)
{
	CLEANUP(buf_done) struct buf vector = {0};
	int r;

	if ((r = set_number(m, "mode", (int64_t)(type_bits(e->kind) | (e->mode & 07777)))) < 0 ||
		(r = set_number(m, "uid", e->uid)) < 0 || (r = set_number(m, "gid", e->gid)) < 0 ||
		(r = set_s3fs_mtime(m, entry_mtime(e))) < 0 ||
		(r = set_stamp(m, "meridian-stamp", e->content_stamp)) < 0 ||
		(r = set_stamp(m, "meridian-attr-stamp", e->attr_stamp)) < 0 ||
		(r = set_number(m, "meridian-content-mtime", e->content_mtime_ns)) < 0 ||
		(r = set_hash(m, e)) < 0)
		return r;
	if (e->mtime_stamp.time &&
		((r = set_stamp(m, "meridian-mtime-stamp", e->mtime_stamp)) < 0 ||
			(r = set_number(m, "meridian-mtime", e->mtime_ns)) < 0))
		return r;
	if (e->link.origin &&
		(r = set_stamp(m, "meridian-link",
			 (struct stamp){.time = e->link.origin, .node = e->link.number})) < 0)
		return r;
	vector_encode(&e->vector, &vector);
	if ((r = set_base64(m, "meridian-vector", &vector)) < 0)
		return r;
	return set_xattrs(m, e, xattrs_omitted);
}

static void key_text(const char *key, char out[SHA256_HEX_SIZE])
{
	uint8_t hash[SHA256_SIZE];

	sha256(key, strlen(key), hash);
	hex_encode(hash, 8, out);
}

int object_meta_set_key(struct store_meta *m, const char *key)
{
	char text[SHA256_HEX_SIZE];

	key_text(key, text);
	return store_meta_set(m, "meridian-key", text);
}

bool object_meta_is_of(const struct store_meta *m, const char *key)
{
	const char *s = store_meta_get(m, "meridian-key");
	char text[SHA256_HEX_SIZE];

	if (!s)
		return true; /* of a version that did not write it */
	key_text(key, text);
	return strcmp(s, text) == 0;
}

int object_meta_set_copied(struct store_meta *m, const char *etag)
{
	return store_meta_set(m, "meridian-copied", etag);
}

bool object_meta_is_whole(const struct store_meta *m, const char *etag)
{
	const char *s = store_meta_get(m, "meridian-copied");

	return !s || strcmp(s, etag) == 0;
}

int object_meta_from_entry(const struct entry *e, bool xattrs_omitted, struct store_meta *ret)
{
	struct store_meta m = {0};

	int r = from_entry(e, xattrs_omitted, &m);
	if (r < 0)
		store_meta_done(&m);
	else
		*ret = m;
	return r;
}

/* Decimal, canonical, within [min, max]. */
static bool get_number(
	const struct store_meta *m, const char *name, int64_t min, int64_t max, int64_t *ret)
{
	const char *s = store_meta_get(m, name);
	char again[NUMBER_SIZE], *end;

	if (!s || !*s || strlen(s) >= sizeof(again))
		return false;
	errno = 0;
	int64_t v = strtoll(s, &end, 10);
	snprintf(again, sizeof(again), "%" PRId64, v);
	if (errno || *end || strcmp(again, s) != 0 || v < min || v > max)
		return false;
	*ret = v;
	return true;
}

static bool get_stamp(const struct store_meta *m, const char *name, struct stamp *ret)
{
	const char *s = store_meta_get(m, name);

	return s && stamp_parse(s, ret) && ret->time;
}

static bool get_vector(const struct store_meta *m, struct vector *ret)
{
	uint8_t raw[VECTOR_MAX * 20 + 8];
	const char *s = store_meta_get(m, "meridian-vector");

	if (!s)
		return true; /* an empty one: everything counts as concurrent */
	long n = base64_decode(s, raw, sizeof(raw));
	if (n < 0)
		return false;
	struct reader r = reader_of(raw, (size_t)n);
	vector_decode(&r, ret);
	return !r.failed && reader_left(&r) == 0;
}

/* The encoding of entry.h: sorted, without repetition, nothing behind it. */
static bool xattrs_valid(const uint8_t *p, size_t n)
{
	struct reader r = reader_of(p, n);
	uint64_t count = reader_varint(&r);
	const uint8_t *last = NULL;
	size_t last_len = 0;

	for (uint64_t i = 0; i < count && !r.failed; i++) {
		size_t len, value_len;
		const uint8_t *name = reader_bytes(&r, 255, &len);
		const uint8_t *value = reader_bytes(&r, 65536, &value_len);
		if (!name || !len || memchr(name, 0, len) || !value ||
			!acl_attribute_valid((struct slice){(const char *)name, len},
				(struct slice){(const char *)value, value_len}))
			return false;
		if (last) {
			int c = memcmp(last, name, last_len < len ? last_len : len);
			if (c > 0 || (c == 0 && last_len >= len))
				return false;
		}
		last = name;
		last_len = len;
	}
	return !r.failed && reader_left(&r) == 0;
}

static bool get_xattrs(const struct store_meta *m, struct object_entry *ret)
{
	uint8_t raw[STORE_META_BYTES];
	const char *s = store_meta_get(m, "meridian-xattrs");

	if (!s)
		return true;
	if (strcmp(s, "omitted") == 0) {
		ret->xattrs_omitted = true;
		return true;
	}
	long n = base64_decode(s, raw, sizeof(raw));
	if (n <= 0 || !xattrs_valid(raw, (size_t)n))
		return false;
	buf_put(&ret->entry.xattrs, raw, (size_t)n);
	return !ret->entry.xattrs.failed;
}

static bool get_kind(uint32_t mode, bool directory, enum kind *ret)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		*ret = KIND_FILE;
		return !directory;
	case S_IFLNK:
		*ret = KIND_SYMLINK;
		return !directory;
	case S_IFDIR:
		*ret = KIND_DIR;
		return directory;
	default:
		return false;
	}
}

static bool to_entry(const struct store_meta *m, bool directory, struct object_entry *ret)
{
	struct entry *e = &ret->entry;
	int64_t mode, uid, gid;

	if (!get_stamp(m, "meridian-stamp", &e->content_stamp) ||
		!get_stamp(m, "meridian-attr-stamp", &e->attr_stamp) ||
		!get_number(m, "mode", 0, 0177777, &mode) ||
		!get_number(m, "uid", 0, UINT32_MAX, &uid) ||
		!get_number(m, "gid", 0, UINT32_MAX, &gid) ||
		!get_number(
			m, "meridian-content-mtime", INT64_MIN, INT64_MAX, &e->content_mtime_ns) ||
		!get_kind((uint32_t)mode, directory, &e->kind) || !get_vector(m, &e->vector))
		return false;
	e->mode = (uint32_t)mode & 07777;
	e->uid = (uint32_t)uid;
	e->gid = (uint32_t)gid;
	if (store_meta_get(m, "meridian-mtime-stamp") &&
		(!get_stamp(m, "meridian-mtime-stamp", &e->mtime_stamp) ||
			!get_number(m, "meridian-mtime", INT64_MIN, INT64_MAX, &e->mtime_ns)))
		return false;
	if (store_meta_get(m, "meridian-link")) {
		struct stamp link;

		if (e->kind == KIND_DIR || !get_stamp(m, "meridian-link", &link))
			return false;
		e->link = (struct link_id){.origin = link.time, .number = link.node};
	}
	if (e->kind != KIND_DIR) {
		const char *hash = store_meta_get(m, "meridian-sha256");
		if (!hash || !hex_decode(hash, e->hash, SHA256_SIZE))
			return false;
	}
	return get_xattrs(m, ret);
}

int object_meta_to_entry(
	const struct store_meta *m, uint64_t size, bool directory, struct object_entry *ret)
{
	struct object_entry e = {0};

	if (!store_meta_get(m, "meridian-stamp"))
		return -ENODATA;
	if (!to_entry(m, directory, &e) || (directory && size > 0)) {
		object_entry_done(&e);
		return -EBADMSG;
	}
	if (e.entry.kind == KIND_FILE)
		e.entry.size = size;
	*ret = e;
	return 0;
}
