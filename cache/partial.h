/*
 * Content of which only some blocks are here.
 *
 * A large file whose content is elsewhere can be open for reading before it has been fetched. What was
 * fetched of it lies in partial/<ino> of the state directory, a file of full size with holes, and
 * partial/<ino>.map says which blocks are there. When all are, the file becomes the ordinary content file;
 * handles that are open go on with it. Until then the inode counts as remote.
 *
 * If the version has hashes of its parts, each block is compared with its hash before it is written, and
 * that is all that has to be compared. If it has none, the SHA-256 of all of them is compared with the
 * version's when the last one has come.
 *
 * Partial content is never the only copy of anything, so it is dropped wherever there is doubt: a map
 * that does not fit, another version under the inode, a power cut.
 *
 * Thread-safe. A partial that somebody refers to keeps its memory; whether it still is of use its state
 * says.
 */
#ifndef CACHE_PARTIAL_H
#define CACHE_PARTIAL_H

#include "cache/cache.h"
#include "src/base/hash.h"

#define PARTIAL_BLOCK (1U << 20) /* bytes; more of huge files (content_parts.h); the last may be shorter */
#define PARTIAL_MAX 16384	 /* files; beyond it the least recently used one goes */

struct partial;

enum partial_state {
	PARTIAL_ACTIVE = 0, /* some blocks are here */
	PARTIAL_DONE,	    /* it is the inode's content now */
	PARTIAL_GONE,	    /* nobody finds it any more; who refers to it may go on with it */
};

/* The partial content of an inode whose content is elsewhere, made when there is none; a reference.
 * -EALREADY: the content is here; -ESTALE: it wants none, or has no name any more; -ENOSPC. */
int partial_get(struct cache *c, uint64_t ino, struct partial **ret) MUST_CHECK;
struct partial *partial_ref(struct partial *p);
void partial_put(struct partial *p); /* NULL is fine */

uint64_t partial_ino(const struct partial *p);
uint64_t partial_size(const struct partial *p);
const uint8_t *partial_hash(const struct partial *p);
uint64_t partial_block(const struct partial *p); /* bytes of a block */
uint64_t partial_blocks(const struct partial *p);
enum partial_state partial_state(struct partial *p);

/* Whether all bytes of [offset, offset + n) that the file has are here. */
bool partial_has(struct partial *p, uint64_t offset, uint64_t n);
/* The first block of [from, to) that is not here; to: all are. */
uint64_t partial_missing(struct partial *p, uint64_t from, uint64_t to);
/* Takes all bytes of a block, which is here then; nothing if it was. Where the hashes of the parts are known
 * it is compared first, so that nothing else is ever written. -EBADMSG: it has another hash; -EAGAIN: not
 * now; -ENOSPC with regard to the reserve. Any number of threads may have the same block. */
int partial_fill(struct partial *p, uint64_t block, const void *bytes) MUST_CHECK;
/* Whether the hashes of its blocks are known. */
bool partial_has_parts(struct partial *p);
/* Takes the hashes of all blocks, SHA256_SIZE bytes each, as of content_parts.h, of a version that has
 * them; what came before was compared with nothing and is missing then. Later calls change nothing.
 * -EAGAIN: not now, because all blocks are here and just become the content. */
int partial_set_parts(struct partial *p, const uint8_t *hashes) MUST_CHECK;
/* Hashes some blocks that are here and next in order, ahead of partial_finish. False: none is, somebody
 * else is at it, or it need not be done. */
bool partial_hash_ahead(struct partial *p);
/* When all blocks are here: compares the hash of the whole unless each block was compared, flushes, and makes
 * it the inode's content. 0 also when somebody else is at it or the inode has no name any more; -EAGAIN: some
 * block is missing, or somebody has one more of them that came twice; -EBADMSG: the hash is another, and all
 * blocks were thrown away. Blocks on disk. */
int partial_finish(struct partial *p) MUST_CHECK;

/* What lies in the state directory. */
struct partial_usage {
	uint64_t files;
	uint64_t bytes; /* of the blocks that are here */
};
void partial_usage(struct cache *c, struct partial_usage *ret);

#endif
