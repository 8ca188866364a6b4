/*
 * Hashes of the parts of large content: who reads ranges of it compares each part with its hash before any
 * byte of it is used. docs/bucket-format.md has the rules; both sizes follow from the content's.
 *
 *   part   1 MiB, or a block where that is larger; as partial content counts it (partial.h)
 *   hash   SHA-256 of the hashes that the content's map has of the part's blocks (content_map.h)
 */
#ifndef CACHE_CONTENT_PARTS_H
#define CACHE_CONTENT_PARTS_H

#include "cache/content_map.h"
#include "src/base/buf.h"

/* Content from this size on has hashes of its parts in the bucket; cache_options.parts_min. */
#define CONTENT_PARTS_MIN ((uint64_t)8 << 20)

struct content_parts {
	unsigned block_bits; /* a block has 1 << block_bits bytes */
	unsigned part_bits;
	uint64_t count; /* of parts */
};
/* What content of size bytes has; false: it has none. */
bool content_parts_of(const struct cache *c, uint64_t size, struct content_parts *ret) MUST_CHECK;

/* Appends SHA256_SIZE bytes for each part of what map describes. False: the map is of other blocks. */
bool content_parts_make(const struct content_map *map, const struct content_parts *parts,
	struct buf *out) MUST_CHECK;

/* The hash of one part, of all its bytes. */
void content_part_hash(
	unsigned block_bits, const void *p, size_t n, uint8_t out[SHA256_SIZE]);

#endif
