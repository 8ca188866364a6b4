/* Where ranges of one version of a file's content can be read, and reading them. */
#ifndef REPLICATOR_RANGE_SOURCE_H
#define REPLICATOR_RANGE_SOURCE_H

#include "cache/partial.h"
#include "replicator/region.h"

/* One object whose metadata say that it is the version. Its ETag goes with each request, so that all
 * ranges are of one object, whatever is written to the key meanwhile. */
struct range_source {
	struct region *region;
	char key[STORE_KEY_MAX + 1];
	char etag[STORE_ETAG_SIZE];
};

/* What is looked for. */
struct range_version {
	struct slice key; /* the path; len 0: it has none any more */
	const uint8_t *hash;
	uint64_t size;
	uint64_t avoid; /* regions, by index, that are asked last */
};

/* Asks the regions, home first, for the object's metadata: at the key, at the name that the file had
 * before a rename that they have not heard of, and in the trash. -EAGAIN: none has it now; -EIO: none
 * answers. *foreign: some region has an object of that size at the key that does not say what it is. */
int range_source_find(struct regions *all, const struct range_version *v, struct range_source *ret,
	bool *foreign) MUST_CHECK;

/* Told after each block; true ends the reading with -ECANCELED. */
typedef bool (*range_block_fn)(void *ctx, uint64_t block);
/* Reads blocks [first, end) into p and marks each. -EAGAIN: the object is another one now; -EHOSTDOWN:
 * the region failed; -ECANCELED; else a local failure. */
int range_read(struct partial *p, const struct range_source *from, uint64_t first, uint64_t end,
	range_block_fn block, void *ctx) MUST_CHECK;

/* One attempt to bring the whole content of ino here, on the calling thread, by ranges of what is missing.
 * Errors as of fetch_once; *foreign as above. */
int range_fetch_once(struct regions *all, uint64_t ino, bool *foreign) MUST_CHECK;

#endif
