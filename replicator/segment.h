/*
 * Segments: the unit of replication, an immutable object .meridian/log/<time>-<node>-<seq> that
 * holds a batch of records with the content of small files. docs/bucket-format.md has the bytes.
 *
 *   header   fixed part: magic "MRDNSEG" and version, flags, node, seq, created_ms, record count,
 *            raw and compressed length, name of the previous segment of this node in this region,
 *            SHA-256 over all of it
 *            and the payload
 *   payload  zlib (level 1, or 0 where that saves nothing) of the records, each: varint length, then its fields; unknown trailing
 *            fields are skipped
 */
#ifndef REPLICATOR_SEGMENT_H
#define REPLICATOR_SEGMENT_H

#include "cache/entry.h"
#include "cache/progress.h"
#include "src/base/buf.h"

#define SEGMENT_RECORDS_TARGET 2000
#define SEGMENT_BYTES_TARGET (4u << 20) /* raw payload at which a segment is closed */
#define SEGMENT_BYTES_MAX (64u << 20)	/* compressed or raw: more is refused when reading */
#define SEGMENT_RECORDS_MAX 1000000u
#define SEGMENT_PREFIX ".meridian/log/"
#define INLINE_MAX_DEFAULT 65536u

struct record {
	struct key key;
	struct key moved_from; /* len 0: none; content may be taken from the local file there */
	struct entry entry;
	bool has_content;	/* the content of a KIND_FILE is inline */
	const uint8_t *content; /* entry.size bytes; borrowed */
	/* How the content of a KIND_FILE is made of another (delta.h); not together with has_content.
	 * NULL: no delta. Borrowed. A malformed one is left out when a record is read. */
	const uint8_t *delta;
	size_t delta_len;
};
void record_done(struct record *r);

/* One record without framing; also how held records are kept. decode validates everything
 * (key_valid, kinds, mode bits, sizes, stamps non-zero, vectors, xattr encoding, content length
 * equal to entry.size, hash of the content): -EBADMSG with a text that says which. content is
 * borrowed from p. */
void record_encode(const struct record *r, struct buf *b);
int record_decode(const void *p, size_t n, struct record *ret, struct err *err) MUST_CHECK;

/* Names: "<12 hex ms>-<16 hex node>-<16 hex seq>" without the prefix. */
struct segment_id {
	uint64_t ms;
	uint64_t node;
	uint64_t seq;
};
void segment_name(const struct segment_id *id, char name[SEGMENT_NAME_SIZE]);
bool segment_name_parse(const char *name, struct segment_id *ret) MUST_CHECK;

/* Building. */
struct segment_writer {
	struct buf raw;
	uint32_t records;
};
void segment_add(struct segment_writer *w, const struct record *r);
/* continues: must be merged in one transaction with the next one of this node. out is cleared
 * first. -ENOMEM, -E2BIG. */
int segment_finish(struct segment_writer *w, const struct segment_id *id, const char *previous,
	bool continues, struct buf *out) MUST_CHECK;
void segment_writer_done(struct segment_writer *w);

/* Reading. Checks magic, version, lengths, checksum and that the header's node and seq are those
 * of the name. -EBADMSG with a text; -EPROTONOSUPPORT for a newer version. The struct owns the
 * decompressed payload. */
struct segment {
	struct segment_id id;
	char previous[SEGMENT_NAME_SIZE];
	bool continues;
	uint32_t records;
	struct buf raw;
};
int segment_parse(
	const char *name, const void *p, size_t n, struct segment *ret, struct err *err) MUST_CHECK;
void segment_done(struct segment *s);
/* Calls fn for each record, also for damaged ones: then record is NULL and err says why (the key
 * as far as known). Non-zero from fn ends it and is returned. */
typedef int (*segment_record_fn)(void *ctx, const struct record *record, const struct err *err);
int segment_each(const struct segment *s, segment_record_fn fn, void *ctx) MUST_CHECK;

#endif
