/*
 * Private to cache/: hashing content in slices. A large file takes minutes, a sparse one hours, while
 * all other files wait: after HASH_SLICE_MS a caller that can come again is sent away, and what was
 * hashed so far is kept for its next call; and so is the hash, until its version is sealed.
 */
#ifndef CACHE_HASHING_H
#define CACHE_HASHING_H

#include "cache/cache.h"
#include "cache/record.h"

#define HASH_SLICE_MS 1000
#define HASHES_KEPT 4096

struct hashings;

struct hashings *hashings_new(void);
void hashings_free(struct hashings *t); /* NULL is fine */

/* Whether the file that fd is open of has no name any more; -1: no. */
bool content_is_removed(int fd);

/* Hashes the first size bytes of fd, and keeps a map of them as ino's (content_map.h). Outside any
 * transaction. Ends early with *whole false when it is shorter, when guard's generation is not, or no
 * more, the given one, and when slices of another generation were begun: who began anew each time that
 * somebody writes would never end. sliced: -EAGAIN when the time is over; to be
 * called again with the same inode, generation and size. With a guard it may be known from before: then
 * nothing is read, and the map was kept when it was found. removed: a descriptor of the content;
 * -ENOENT when that file is gone; -1: it does not matter. */
int content_hash(struct cache *c, uint64_t ino, int fd, uint64_t size, struct record *guard,
	uint64_t generation, bool sliced, int removed, uint8_t hash[SHA256_SIZE],
	bool *whole) MUST_CHECK;

/* The content file of ino was removed: nothing that is known of it is asked for again. With any lock but a leaf. */
void content_forget_hashing(struct cache *c, uint64_t ino);

/* That generation of the inode's content was sealed: hashes of it and of older ones are not asked for again.
 * With any lock but a leaf. */
void content_forget_hash(struct cache *c, uint64_t ino, uint64_t generation);

#endif
