/*
 * Segments and records: the bytes of docs/bucket-format.md, both ways.
 *
 * Everything that is read here was written by whoever can write to a bucket, so each length is
 * checked against what is left before it is used, the payload is never inflated beyond the length
 * that the header names (at most SEGMENT_BYTES_MAX, and no more than deflate can make of the bytes
 * that are there), and one pass over the payload is all that reading costs. A segment whose frame
 * is sound yields its good records even when some are damaged: those can only be a faulty writer's,
 * since the checksum covers them.
 *
 * The checksum comes before the version so that a flipped bit is never taken for a newer format.
 */
#include "replicator/segment.h"

#include <errno.h>
#include <stdio.h>
#include <zlib.h>

#include "cache/acl.h"
#include "replicator/delta.h"

#define MAGIC "MRDNSEG"
#define MAGIC_SIZE 7
#define VERSION 1

/* Offsets in the header. */
#define AT_SUM (MAGIC_SIZE + 1 + 4 + 4 + 5 * 8 + SEGMENT_NAME_SIZE)
#define HEADER_SIZE (AT_SUM + SHA256_SIZE)

#define FLAG_CONTINUES 1u
#define FLAGS_MUST_KNOW 0xffffu /* the others may be ignored by who does not know them */

#define RECORD_HAS_CONTENT 1u
#define RECORD_HAS_LINK 2u
#define RECORD_HAS_DELTA 0x10u
#define RECORD_MUST_KNOW 0x0fu

#define DEFLATE_RATIO_MAX 1040u /* deflate's own limit is 1,032 to 1 */
#define NAME_LEN 46
#define TARGET_MAX 4095
#define SAMPLES 32u
#define SAMPLE_SIZE 1024u
#define XATTR_NAME_MAX 255
#define XATTR_VALUE_MAX 65536

/* ---- records ---- */

void record_done(struct record *r)
{
	entry_done(&r->entry);
	*r = (struct record){0};
}

static void put_stamp(struct buf *b, struct stamp s)
{
	buf_put_be64(b, s.time);
	buf_put_be64(b, s.time ? s.node : 0);
}

static struct stamp get_stamp(struct reader *r)
{
	struct stamp s = {.time = reader_be64(r)};

	s.node = reader_be64(r);
	return s;
}

/* An encoding of no attributes has one spelling: nothing. */
static size_t xattrs_len(const struct buf *x)
{
	return x->len == 1 && x->data[0] == 0 ? 0 : x->len;
}

void record_encode(const struct record *r, struct buf *b)
{
	const struct entry *e = &r->entry;
	bool content = r->has_content && e->kind == KIND_FILE;
	bool delta = r->delta && !content && e->kind == KIND_FILE;

	buf_put_bytes(b, r->key.p, r->key.len);
	buf_put_bytes(b, r->moved_from.p, r->moved_from.len);
	buf_put_u8(b, (uint8_t)e->kind);
	buf_put_u8(b, (uint8_t)((content ? RECORD_HAS_CONTENT : 0) |
				 (e->link.origin ? RECORD_HAS_LINK : 0) |
				 (delta ? RECORD_HAS_DELTA : 0)));
	if (e->kind == KIND_FILE) {
		buf_put_varint(b, e->size);
		buf_put(b, e->hash, SHA256_SIZE);
	}
	if (e->kind == KIND_SYMLINK)
		buf_put_bytes(b, e->target, strlen(e->target));
	if (e->link.origin) {
		buf_put_be64(b, e->link.origin);
		buf_put_be64(b, e->link.number);
	}
	buf_put_svarint(b, e->content_mtime_ns);
	put_stamp(b, e->content_stamp);
	buf_put_varint(b, e->mode);
	buf_put_varint(b, e->uid);
	buf_put_varint(b, e->gid);
	buf_put_bytes(b, e->xattrs.data, xattrs_len(&e->xattrs));
	put_stamp(b, e->attr_stamp);
	buf_put_svarint(b, e->mtime_stamp.time ? e->mtime_ns : 0);
	put_stamp(b, e->mtime_stamp);
	vector_encode(&e->vector, b);
	if (content)
		buf_put_bytes(b, r->content, e->size);
	if (delta)
		buf_put_bytes(b, r->delta, r->delta_len);
}

static int bad(struct err *err, const struct record *r, const char *what)
{
	/* Keys are bytes of anybody's choosing; what a log line shows of one is printable. */
	char text[81];
	size_t n = r->key.len < sizeof(text) - 1 ? r->key.len : sizeof(text) - 1;

	for (size_t i = 0; i < n; i++)
		text[i] = r->key.p[i] >= 0x20 && r->key.p[i] < 0x7f ? r->key.p[i] : '?';
	text[n] = '\0';
	return err_set(err, -EBADMSG, "record of \"%s\": %s", text, what);
}

static bool decode_key(struct reader *r, struct key *ret)
{
	size_t n;
	const uint8_t *p = reader_bytes(r, KEY_MAX, &n);

	return p && key_set(ret, (struct slice){(const char *)p, n});
}

static bool xattrs_valid(const uint8_t *p, size_t n)
{
	struct reader r = reader_of(p, n);
	uint64_t count = reader_varint(&r);
	struct slice last = {0};

	for (uint64_t i = 0; i < count && !r.failed; i++) {
		struct slice name, value;
		int order;

		name.p = (const char *)reader_bytes(&r, XATTR_NAME_MAX, &name.len);
		if (!name.p || name.len == 0 || memchr(name.p, '\0', name.len))
			return false;
		order = last.p ? memcmp(last.p, name.p, last.len < name.len ? last.len : name.len)
			       : -1;
		if (order > 0 || (order == 0 && last.len >= name.len))
			return false;
		last = name;
		value.p = (const char *)reader_bytes(&r, XATTR_VALUE_MAX, &value.len);
		if (!value.p || !acl_attribute_valid(name, value))
			return false;
	}
	return !r.failed && reader_left(&r) == 0 && count > 0;
}

/* NULL, or what is wrong. */
static const char *decode_content_register(struct reader *r, struct entry *e, bool link)
{
	const uint8_t *p;
	size_t n;

	if (e->kind == KIND_FILE) {
		e->size = reader_varint(r);
		p = reader_raw(r, SHA256_SIZE);
		if (!p)
			return "cut short in its content";
		memcpy(e->hash, p, SHA256_SIZE);
		if (e->size > INT64_MAX)
			return "impossible size";
	}
	if (e->kind == KIND_SYMLINK) {
		p = reader_bytes(r, TARGET_MAX, &n);
		if (!p || n == 0 || memchr(p, '\0', n))
			return "impossible symlink target";
		e->target = strndup((const char *)p, n);
		if (!e->target)
			return "out of memory";
	}
	if (link) {
		e->link.origin = reader_be64(r);
		e->link.number = reader_be64(r);
		if (!e->link.origin || (e->kind != KIND_FILE && e->kind != KIND_SYMLINK))
			return "impossible link id";
	}
	e->content_mtime_ns = reader_svarint(r);
	e->content_stamp = get_stamp(r);
	if (r->failed)
		return "cut short in its content";
	return e->content_stamp.time ? NULL : "no content stamp";
}

static const char *decode_attr_register(struct reader *r, struct entry *e)
{
	uint64_t mode = reader_varint(r), uid = reader_varint(r), gid = reader_varint(r);
	const uint8_t *p;
	size_t n;

	p = reader_bytes(r, ENTRY_XATTRS_MAX, &n);
	if (!p)
		return "cut short in its attributes";
	/* All bits set means "unchanged" to chown. */
	if (mode > 07777 || uid >= UINT32_MAX || gid >= UINT32_MAX)
		return "impossible mode or owner";
	if (n && !xattrs_valid(p, n))
		return "malformed extended attributes";
	e->mode = (uint32_t)mode;
	e->uid = (uint32_t)uid;
	e->gid = (uint32_t)gid;
	if (n)
		buf_put(&e->xattrs, p, n);
	if (e->xattrs.failed)
		return "out of memory";
	e->attr_stamp = get_stamp(r);
	if (r->failed)
		return "cut short in its attributes";
	return e->attr_stamp.time ? NULL : "no attribute stamp";
}

static const char *decode_rest(struct reader *r, struct entry *e)
{
	e->mtime_ns = reader_svarint(r);
	e->mtime_stamp = get_stamp(r);
	vector_decode(r, &e->vector);
	if (r->failed)
		return "cut short, or a malformed version vector";
	if (e->mtime_stamp.time == 0 && (e->mtime_ns || e->mtime_stamp.node))
		return "an mtime without a stamp";
	return NULL;
}

static const char *decode_inline(struct reader *r, struct record *rec)
{
	uint8_t hash[SHA256_SIZE];
	size_t n;

	if (rec->entry.kind != KIND_FILE)
		return "content of something that is not a file";
	rec->content = reader_bytes(r, SEGMENT_BYTES_MAX, &n);
	if (!rec->content || n != rec->entry.size)
		return "content of another length than its size";
	sha256(rec->content, n, hash);
	if (memcmp(hash, rec->entry.hash, SHA256_SIZE))
		return "content that does not match its hash";
	rec->has_content = true;
	return NULL;
}

/* Only a saving, so one that is of no use is not there. */
static void decode_delta(struct reader *r, struct record *rec)
{
	struct delta delta;
	size_t n;
	const uint8_t *p = reader_bytes(r, DELTA_BYTES_MAX, &n);

	if (!p || rec->has_content || rec->entry.kind != KIND_FILE ||
		!delta_parse(p, n, rec->entry.size, &delta))
		return;
	rec->delta = p;
	rec->delta_len = n;
}

static const char *decode_fields(struct reader *r, struct record *rec)
{
	const char *what;
	uint8_t kind, flags;

	if (!decode_key(r, &rec->key) || !decode_key(r, &rec->moved_from))
		return "cut short or over-long key";
	kind = reader_u8(r);
	flags = reader_u8(r);
	if (r->failed)
		return "cut short";
	if (!key_valid(key_slice(&rec->key)) || !key_valid(key_slice(&rec->moved_from)))
		return "a key that cannot be a path";
	if (kind > KIND_SYMLINK)
		return "unknown kind";
	if (flags & RECORD_MUST_KNOW & ~(RECORD_HAS_CONTENT | RECORD_HAS_LINK))
		return "needs a newer meridian";
	rec->entry.kind = (enum kind)kind;
	if (rec->key.len == 0 && rec->entry.kind != KIND_DIR)
		return "the root is a directory";
	what = decode_content_register(r, &rec->entry, flags & RECORD_HAS_LINK);
	if (!what)
		what = decode_attr_register(r, &rec->entry);
	if (!what)
		what = decode_rest(r, &rec->entry);
	if (!what && (flags & RECORD_HAS_CONTENT))
		what = decode_inline(r, rec);
	if (!what && (flags & RECORD_HAS_DELTA))
		decode_delta(r, rec);
	return what;
}

int record_decode(const void *p, size_t n, struct record *ret, struct err *err)
{
	struct reader r = reader_of(p, n);
	struct record rec = {0};
	const char *what = decode_fields(&r, &rec);

	if (what) {
		int code = bad(err, &rec, what);

		record_done(&rec);
		return code;
	}
	*ret = rec;
	return 0;
}

/* ---- names ---- */

void segment_name(const struct segment_id *id, char name[SEGMENT_NAME_SIZE])
{
	snprintf(name, SEGMENT_NAME_SIZE, "%012llx-%016llx-%016llx",
		(unsigned long long)(id->ms & 0xffffffffffff), (unsigned long long)id->node,
		(unsigned long long)id->seq);
}

/* n lower-case digits; a name has one spelling. */
static bool parse_hex(const char *p, unsigned n, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n; i++) {
		if (p[i] >= '0' && p[i] <= '9')
			v = v << 4 | (uint64_t)(p[i] - '0');
		else if (p[i] >= 'a' && p[i] <= 'f')
			v = v << 4 | (uint64_t)(p[i] - 'a' + 10);
		else
			return false;
	}
	*ret = v;
	return true;
}

bool segment_name_parse(const char *name, struct segment_id *ret)
{
	struct segment_id id;

	if (strnlen(name, NAME_LEN + 1) != NAME_LEN || name[12] != '-' || name[29] != '-')
		return false;
	if (!parse_hex(name, 12, &id.ms) || !parse_hex(name + 13, 16, &id.node) ||
		!parse_hex(name + 30, 16, &id.seq))
		return false;
	*ret = id;
	return true;
}

/* ---- writing ---- */

void segment_add(struct segment_writer *w, const struct record *r)
{
	CLEANUP(buf_done) struct buf one = {.max = SEGMENT_BYTES_MAX};

	record_encode(r, &one);
	w->raw.max = SEGMENT_BYTES_MAX;
	if (w->records >= SEGMENT_RECORDS_MAX || w->raw.len + one.len + 10 > SEGMENT_BYTES_MAX) {
		w->records = UINT32_MAX; /* segment_finish says -E2BIG */
		return;
	}
	if (one.failed)
		w->raw.failed = true;
	buf_put_bytes(&w->raw, one.data, one.len);
	w->records++;
}

static void put_sum(struct buf *out)
{
	uint8_t sum[SHA256_SIZE];
	struct sha256 h;

	sha256_init(&h);
	sha256_update(&h, out->data, AT_SUM);
	sha256_update(&h, out->data + HEADER_SIZE, out->len - HEADER_SIZE);
	sha256_final(&h, sum);
	memcpy(out->data + AT_SUM, sum, SHA256_SIZE);
}

/* 1, or 0 where samples of the payload hardly shrink: photographs, archives and the like, which would
 * cost ten times the processor time of all else that is done for them. */
static int level_for(const struct buf *raw)
{
	uint8_t sample[SAMPLES * SAMPLE_SIZE], packed[sizeof(sample) + sizeof(sample) / 8];
	uLongf n = sizeof(packed);

	if (raw->len < 4 * sizeof(sample))
		return 1;
	for (size_t i = 0; i < SAMPLES; i++)
		memcpy(sample + i * SAMPLE_SIZE,
			raw->data + (raw->len - SAMPLE_SIZE) / (SAMPLES - 1) * i, SAMPLE_SIZE);
	if (compress2(packed, &n, sample, sizeof(sample), 1) != Z_OK)
		return 1;
	return n < sizeof(sample) - sizeof(sample) / 16;
}

int segment_finish(struct segment_writer *w, const struct segment_id *id, const char *previous,
	bool continues, struct buf *out)
{
	char name[SEGMENT_NAME_SIZE] = {0};
	static const uint8_t zero[SHA256_SIZE];
	uLongf packed = compressBound(w->raw.len);
	size_t header_at;
	uint8_t *p;

	buf_clear(out);
	if (w->records > SEGMENT_RECORDS_MAX)
		return -E2BIG;
	if (w->raw.failed)
		return -ENOMEM;
	if (strlen(previous) >= sizeof(name))
		return -EINVAL;
	memcpy(name, previous, strlen(previous));
	buf_put(out, MAGIC, MAGIC_SIZE);
	buf_put_u8(out, VERSION);
	buf_put_be32(out, continues ? FLAG_CONTINUES : 0);
	buf_put_be32(out, w->records);
	buf_put_be64(out, id->node);
	buf_put_be64(out, id->seq);
	buf_put_be64(out, id->ms);
	buf_put_be64(out, w->raw.len);
	header_at = out->len;
	buf_put_be64(out, 0);
	buf_put(out, name, sizeof(name));
	buf_put(out, zero, SHA256_SIZE);
	p = buf_reserve(out, packed);
	if (!p)
		return -ENOMEM;
	if (compress2(p, &packed, w->raw.data ? w->raw.data : zero, w->raw.len,
		    level_for(&w->raw)) != Z_OK)
		return -ENOMEM;
	for (unsigned i = 0; i < 8; i++)
		out->data[header_at + i] = (uint8_t)((uint64_t)packed >> (56 - 8 * i));
	out->len += packed;
	put_sum(out);
	return 0;
}

void segment_writer_done(struct segment_writer *w)
{
	buf_done(&w->raw);
	w->records = 0;
}

/* ---- reading ---- */

struct header {
	uint8_t version;
	uint32_t flags;
	uint32_t records;
	struct segment_id id;
	uint64_t raw_len;
	uint64_t packed_len;
};

static int check_sum(const uint8_t *p, size_t n, const char *name, struct err *err)
{
	uint8_t sum[SHA256_SIZE];
	struct sha256 h;

	if (n < HEADER_SIZE)
		return err_set(err, -EBADMSG, "segment %s: cut short (%zu bytes)", name, n);
	if (n > HEADER_SIZE + (size_t)SEGMENT_BYTES_MAX)
		return err_set(err, -EBADMSG, "segment %s: too large (%zu bytes)", name, n);
	if (memcmp(p, MAGIC, MAGIC_SIZE))
		return err_set(err, -EBADMSG, "segment %s: not a segment", name);
	sha256_init(&h);
	sha256_update(&h, p, AT_SUM);
	sha256_update(&h, p + HEADER_SIZE, n - HEADER_SIZE);
	sha256_final(&h, sum);
	if (memcmp(sum, p + AT_SUM, SHA256_SIZE))
		return err_set(
			err, -EBADMSG, "segment %s: damaged (its checksum does not match)", name);
	return 0;
}

static int check_header(const struct header *h, size_t n, const char *name, struct err *err)
{
	struct segment_id id;

	if (h->version > VERSION || (h->flags & FLAGS_MUST_KNOW & ~FLAG_CONTINUES))
		return err_set(err, -EPROTONOSUPPORT,
			"segment %s: format %u is newer than this program: install the newer "
			"meridian",
			name, h->version);
	if (h->version != VERSION)
		return err_set(err, -EBADMSG, "segment %s: unknown format %u", name, h->version);
	if (!segment_name_parse(name, &id))
		return err_set(err, -EBADMSG, "segment %.60s: not a segment's name", name);
	if (id.node != h->id.node || id.seq != h->id.seq || id.ms != h->id.ms)
		return err_set(err, -EBADMSG, "segment %s: was written under another name", name);
	if (h->packed_len != n - HEADER_SIZE)
		return err_set(err, -EBADMSG, "segment %s: length %zu, its header says %llu", name,
			n - HEADER_SIZE, (unsigned long long)h->packed_len);
	if (h->raw_len > SEGMENT_BYTES_MAX || h->raw_len > h->packed_len * DEFLATE_RATIO_MAX)
		return err_set(err, -EBADMSG, "segment %s: absurd uncompressed length %llu", name,
			(unsigned long long)h->raw_len);
	if (h->records > SEGMENT_RECORDS_MAX || h->records > h->raw_len)
		return err_set(
			err, -EBADMSG, "segment %s: absurd number of records %u", name, h->records);
	return 0;
}

static int unpack(const struct header *h, const uint8_t *p, struct buf *raw)
{
	uLongf raw_len = (uLongf)h->raw_len;
	uLong used = (uLong)h->packed_len;
	/* uncompress2 wants room even for nothing. */
	uint8_t *to = buf_reserve(raw, (size_t)h->raw_len + 1);

	if (!to)
		return -ENOMEM;
	switch (uncompress2(to, &raw_len, p, &used)) {
	case Z_OK:
		break;
	case Z_MEM_ERROR:
		return -ENOMEM;
	default:
		return -EBADMSG;
	}
	if (raw_len != h->raw_len || used != h->packed_len)
		return -EBADMSG;
	raw->len = (size_t)h->raw_len;
	return 0;
}

/* Exactly the promised number of records, and nothing after them. */
static bool frame_valid(const struct buf *raw, uint32_t records)
{
	struct reader r = reader_of(raw->data, raw->len);

	for (uint32_t i = 0; i < records && !r.failed; i++) {
		size_t n;

		if (!reader_bytes(&r, SEGMENT_BYTES_MAX, &n))
			return false;
	}
	return !r.failed && reader_left(&r) == 0;
}

static bool previous_valid(const uint8_t *p, char name[SEGMENT_NAME_SIZE])
{
	struct segment_id id;

	if (!memchr(p, '\0', SEGMENT_NAME_SIZE))
		return false;
	memcpy(name, p, SEGMENT_NAME_SIZE);
	return !name[0] || segment_name_parse(name, &id);
}

int segment_parse(const char *name, const void *p, size_t n, struct segment *ret, struct err *err)
{
	struct reader r = reader_of(p, n);
	struct segment s = {0};
	struct header h;
	int code = check_sum(p, n, name, err);

	if (code)
		return code;
	reader_raw(&r, MAGIC_SIZE);
	h.version = reader_u8(&r);
	h.flags = reader_be32(&r);
	h.records = reader_be32(&r);
	h.id.node = reader_be64(&r);
	h.id.seq = reader_be64(&r);
	h.id.ms = reader_be64(&r);
	h.raw_len = reader_be64(&r);
	h.packed_len = reader_be64(&r);
	code = check_header(&h, n, name, err);
	if (code)
		return code;
	if (!previous_valid(reader_raw(&r, SEGMENT_NAME_SIZE), s.previous))
		return err_set(
			err, -EBADMSG, "segment %s: impossible name of the previous one", name);
	s.id = h.id;
	s.continues = h.flags & FLAG_CONTINUES;
	s.records = h.records;
	code = unpack(&h, (const uint8_t *)p + HEADER_SIZE, &s.raw);
	if (!code && !frame_valid(&s.raw, s.records))
		code = -EBADMSG;
	if (code) {
		segment_done(&s);
		if (code == -ENOMEM)
			return err_set(err, code, "segment %s: out of memory", name);
		return err_set(err, code, "segment %s: malformed payload", name);
	}
	*ret = s;
	return 0;
}

void segment_done(struct segment *s)
{
	buf_done(&s->raw);
	*s = (struct segment){0};
}

int segment_each(const struct segment *s, segment_record_fn fn, void *ctx)
{
	struct reader r = reader_of(s->raw.data, s->raw.len);

	for (uint32_t i = 0; i < s->records; i++) {
		struct err err = {0};
		struct record record = {0};
		const uint8_t *p;
		size_t n;
		int code;

		p = reader_bytes(&r, SEGMENT_BYTES_MAX, &n);
		if (!p)
			return -EBADMSG; /* segment_parse saw to it that this cannot be */
		code = record_decode(p, n, &record, &err);
		code = fn(ctx, code ? NULL : &record, code ? &err : NULL);
		record_done(&record);
		if (code)
			return code;
	}
	return 0;
}
