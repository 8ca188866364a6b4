/* Where ranges of one version of a file's content can be read, and reading them. */
#ifndef REPLICATOR_RANGE_SOURCE_H
#define REPLICATOR_RANGE_SOURCE_H

#include "cache/partial.h"
#include "replicator/region.h"

/* One object whose metadata say that it is the version. Its ETag goes with each request, so that all
 * ranges are of one object, whatever is written to the key meanwhile. */
struct range_source {
	struct region *region; /* NULL: not found yet */
	char key[STORE_KEY_MAX + 1];
	char etag[STORE_ETAG_SIZE];
	unsigned turns; /* regions.turns when it was looked for */
	bool has_parts; /* the version has hashes of its parts: parts.h */
	uint8_t parts[SHA256_SIZE];
};

/* What is looked for. */
struct range_version {
	struct slice key; /* the path; len 0: it has none any more */
	const uint8_t *hash;
	uint64_t size;
	uint64_t avoid; /* regions, by index, that are asked last */
};

/* Whether another region may be the better one to read from by now: one was left, or taken back. */
bool range_source_is_old(const struct regions *all, const struct range_source *from) MUST_CHECK;

/* Asks the regions, home first, for the object's metadata: at the key, at the name that the file had
 * before a rename that they have not heard of, and in the trash. -EAGAIN: none has it now; -EIO: none
 * answers. *foreign: some region has an object of that size at the key that does not say what it is. */
int range_source_find(struct regions *all, const struct range_version *v, struct range_source *ret,
	bool *foreign) MUST_CHECK;

/* Sees to it that p has the hashes of its parts, where the version has such; from the source's region or
 * another. To be called before range_read. -ENODATA: they are not to be had, so ranges cannot be
 * believed; -EHOSTDOWN: no region answered; or a local failure. */
int range_source_parts(struct partial *p, const struct range_source *from) MUST_CHECK;

/* Told after each block; true ends the reading with -ECANCELED. */
typedef bool (*range_block_fn)(void *ctx, uint64_t block);
/* Where a block is gathered, of one thread at a time; {0} to begin with, as large as the largest block that
 * came by. */
struct range_buffer {
	uint8_t *bytes;
	size_t size;
	int64_t waited_ms; /* of the last request, from its start to its first byte; -1: none came */
};
void range_buffer_done(struct range_buffer *b); /* also the CLEANUP function; it can be used again */

/* What one request is to bring. */
struct range_run {
	uint64_t first, end; /* blocks */
	enum store_priority priority;
	struct range_buffer *buffer;
	range_block_fn block; /* may be NULL */
	void *ctx;
};
/* Reads blocks into p, by partial_fill; those that are here already are left as they are. -EAGAIN: the object
 * is another one now, or has hashes that p has not; -EHOSTDOWN: the region failed; -EBADMSG: the first block
 * that block was not told of has wrong bytes there, which is counted and logged; -ECANCELED; else a local
 * failure. */
int range_read(struct partial *p, const struct range_source *from,
	const struct range_run *run) MUST_CHECK;

/* One attempt to bring the whole content of ino here, on the calling thread, by ranges of what is missing.
 * Errors as of fetch_once; *foreign as above. */
int range_fetch_once(struct regions *all, uint64_t ino, bool *foreign) MUST_CHECK;

#endif
