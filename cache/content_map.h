/*
 * Maps of large content: a hash for each block of a version, kept beside the version's own, so that it
 * is known which parts of a file a change left as they were although the old bytes are gone.
 */
#ifndef CACHE_CONTENT_MAP_H
#define CACHE_CONTENT_MAP_H

#include "cache/cache.h"
#include "src/base/hash.h"

#define CONTENT_MAP_HASH_SIZE 16 /* the first bytes of a block's SHA-256 */
/* Content from this size on has a map; cache_options.map_min. */
#define CONTENT_MAP_MIN ((uint64_t)1 << 20)
#define CONTENT_MAP_BLOCKS_MAX 40000u
/* From blocks of 1 << CONTENT_MAP_BITS_LARGE bytes on there are up to this many. */
#define CONTENT_MAP_BLOCKS_LARGE 262144u
#define CONTENT_MAP_BITS_LARGE 20
/* All maps together, in bytes: then the oldest go. */
#define CONTENT_MAPS_MAX ((int64_t)64 << 20)

struct content_map {
	uint64_t size;	 /* of the content */
	unsigned bits;	 /* a block has 1 << bits bytes; the last one what is left */
	uint32_t count;	 /* of blocks */
	uint8_t *blocks; /* CONTENT_MAP_HASH_SIZE bytes each; heap, owned */
};
void content_map_done(struct content_map *map); /* also the CLEANUP function */

/* The blocks of content of size bytes, in a cache whose maps begin at least bytes. */
unsigned content_map_bits(uint64_t size, uint64_t least);

/* Makes a map of bytes that come by in order. */
struct content_mapper {
	struct content_map map;
	struct sha256 block;
	uint64_t at;
	uint64_t zeros; /* of the block at hand: those that came last, and are not in its hash yet */
	bool on;
	bool zero_known;
	uint8_t zero_hash[CONTENT_MAP_HASH_SIZE]; /* of a block of zeros */
};
/* Content of size bytes; a cache whose maps begin at least bytes. Costs nothing when there is to be no
 * map, or no memory for it. */
void content_mapper_begin(struct content_mapper *m, uint64_t size, uint64_t least);
void content_mapper_add(struct content_mapper *m, const void *p, size_t n);
/* The same for n zeros: what they cost is little where they fill blocks. */
void content_mapper_add_zeros(struct content_mapper *m, uint64_t n);
void content_mapper_end(struct content_mapper *m); /* releases everything; twice is fine */

/* cache_options.map_min of this cache. */
uint64_t content_map_min(const struct cache *c);

/* Of all that was promised: keeps the map under the content's hash, in a transaction of its own, and
 * ends m. ino: the inode whose content it is or was to become; of its versions the newest few are
 * kept, and those that some region's object has. A map is a saving only, so failures are not told. */
void content_map_keep(
	struct cache *c, struct content_mapper *m, uint64_t ino, const uint8_t hash[SHA256_SIZE]);
/* -ENOENT: not kept. */
int content_map_get(
	struct conn *conn, const uint8_t hash[SHA256_SIZE], struct content_map *ret) MUST_CHECK;
/* The region's object is that version now. Nothing when it has no map. */
int content_map_delivered(
	struct conn *conn, unsigned region, const uint8_t hash[SHA256_SIZE]) MUST_CHECK;

/* Whether two maps can be compared: files that grow get larger blocks now and then. */
bool content_map_comparable(const struct content_map *base, const struct content_map *map);
/* The next range of map's content, from *at on, that base does not have at the same place. Moves *at
 * behind it. False: there is none. The ranges consist of whole blocks but for the last one. */
bool content_map_changed(const struct content_map *base, const struct content_map *map,
	uint64_t *at, uint64_t *offset, uint64_t *length);
/* Whether the version with that hash is the one with the hash base and more behind it, as far as whole blocks
 * say: within base's last one, when it is not full, anything may have changed. False where a map is not kept or
 * the two cannot be compared. */
int content_map_grown(struct conn *conn, const uint8_t base[SHA256_SIZE],
	const uint8_t hash[SHA256_SIZE], bool *ret) MUST_CHECK;

#endif
