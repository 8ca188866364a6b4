/* Private to partial.c, partial_end.c and partial_load.c: what they share. partial.c's head tells the
 * rules. */
#ifndef CACHE_PARTIAL_ENTRY_H
#define CACHE_PARTIAL_ENTRY_H

#include "cache/internal.h"
#include "cache/partial.h"

#define PARTIAL_BUCKETS 1024
#define PARTIAL_NAME_SIZE 24
#define PARTIAL_MAGIC "MRDNMAP\2"

struct map_head {
	char magic[8];
	uint64_t ino; /* in the byte order of the machine, as all others */
	uint64_t size;
	uint64_t block;
	uint64_t used; /* the tick of the last use */
	uint8_t hash[SHA256_SIZE];
	uint64_t parts; /* 1: their hashes follow the bits, and every bit is of a block that was compared */
};

struct partials {
	struct mutex lock;
	int dir_fd;
	uint64_t block;
	struct partial *buckets[PARTIAL_BUCKETS];
	_Atomic uint64_t files;
	_Atomic uint64_t bytes;
};

struct partial {
	struct partials *all;
	struct cache *cache;
	struct partial *next; /* guarded by the table's lock, as the next three */
	unsigned refs;
	uint64_t used;
	bool listed;
	uint64_t ino; /* constant, as the next five */
	uint64_t size;
	uint64_t block;
	uint64_t blocks;
	unsigned hash_bits; /* content_parts.block_bits; 0: such content has no hashes of parts */
	uint8_t hash[SHA256_SIZE];
	_Atomic int state;
	_Atomic bool installed; /* its file is the content, or is about to be */
	int fd, map_fd;		/* open while there are references; constant meanwhile */

	struct mutex lock;
	uint8_t *map;  /* NULL without references */
	uint64_t have; /* blocks */
	uint64_t have_bytes;
	bool parts; /* as of struct map_head */
	bool taking; /* the hashes of parts: nothing is written meanwhile */
	unsigned filling; /* threads that write a block */
	struct sha256 sha;
	bool sha_begun;
	bool hashing;	 /* somebody is at it: sha and hashed are his */
	uint64_t hashed; /* blocks that are in sha */
	bool finishing;
};

void partial_data_name(uint64_t ino, char name[PARTIAL_NAME_SIZE]);
void partial_map_name(uint64_t ino, char name[PARTIAL_NAME_SIZE]);
void partial_remove_files(struct partials *t, uint64_t ino);
struct partial *partial_entry_new(
	struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t size);
void partial_entry_free(struct partial *p);
void partial_close_files(struct partial *p);
/* Opens both files and reads the map. -EBADMSG: they are not what they should be. */
int partial_read_map(struct partial *p) MUST_CHECK;
/* Compares a block with its hash, which is known. -EBADMSG. */
int partial_compare(struct partial *p, uint64_t block, const void *bytes) MUST_CHECK;
/* Waits until the hash is the caller's, who ends that by hashing = false. */
void partial_begin_hashing(struct partial *p);
/* With the table's lock. */
void partial_list(struct partial *p);
/* With the table's lock: it is no more, and its files go but for data that became content. *fd: a
 * descriptor whose close may take long, or -1. */
void partial_unlist(struct partial *p, enum partial_state state, int *fd);
static inline uint64_t partial_block_bytes(const struct partial *p, uint64_t block)
{
	uint64_t at = block * p->block;

	return p->size - at < p->block ? p->size - at : p->block;
}
static inline size_t partial_map_bytes(const struct partial *p)
{
	return (size_t)((p->blocks + 7) / 8);
}
/* Of the block's hash in the map file. */
static inline uint64_t partial_hash_at(const struct partial *p, uint64_t block)
{
	return sizeof(struct map_head) + partial_map_bytes(p) + block * SHA256_SIZE;
}

#endif
