/*
 * Deltas: what a version of large content has that the one before did not, small enough to travel in a
 * segment. docs/bucket-format.md has the bytes.
 */
#ifndef REPLICATOR_DELTA_H
#define REPLICATOR_DELTA_H

#include "cache/content_map.h"
#include "cache/file.h"
#include "replicator/store/store.h"
#include "src/base/buf.h"

#define DELTA_BYTES_MAX ((size_t)2 << 20)     /* encoded: more is not read */
#define DELTA_RANGES_MAX 65536u		      /* likewise */
#define DELTA_CONTENT_MAX (UINT64_C(4) << 30) /* of larger content none is made, and none applied */

/* Most bytes of content in a delta of a file of that size. */
uint64_t delta_limit(uint64_t inline_max, uint64_t size);

/* Whether the change from base to the version with that hash, both known by their maps, is at most
 * limit bytes. */
int delta_fits(struct conn *conn, const uint8_t base[SHA256_SIZE], const uint8_t hash[SHA256_SIZE],
	uint64_t limit, bool *ret) MUST_CHECK;

/* Appends to out the encoded delta from base to the content in source, which has that hash. -ENOENT: a
 * map is missing, or it would be over limit bytes; otherwise what source's read says. */
int delta_make(struct cache *c, const uint8_t base[SHA256_SIZE], const uint8_t hash[SHA256_SIZE],
	const struct store_source *source, uint64_t limit, struct buf *out) MUST_CHECK;

/* One that was read; borrows its bytes. */
struct delta {
	uint8_t base[SHA256_SIZE];
	uint64_t base_size;
	uint32_t count;
	const uint8_t *ranges;
	const uint8_t *bytes;
	size_t len; /* from ranges on */
};
/* size: of the content that it makes. False: malformed. */
bool delta_parse(const void *p, size_t n, uint64_t size, struct delta *ret) MUST_CHECK;
/* Makes content of size bytes of the base that w holds (open). Nothing says yet that it is the right
 * content. */
int delta_apply(const struct delta *d, uint64_t size, struct content_writer *w) MUST_CHECK;

/* Whether a delta that makes the content with that hash is kept. */
bool delta_leads_to(struct cache *c, const uint8_t hash[SHA256_SIZE]) MUST_CHECK;
/* Makes the content with that hash and size of what w holds (open; its hash is held), by deltas that are
 * kept (content_delta.h). -EAGAIN: they do not lead there; w may have changed then. */
int delta_follow(struct cache *c, const uint8_t held[SHA256_SIZE], const uint8_t hash[SHA256_SIZE],
	uint64_t size, struct content_writer *w) MUST_CHECK;

#endif
