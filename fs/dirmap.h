/*
 * Directory offsets. The kernel resumes a listing by a number, the cache by a name; a struct dirmap
 * is what one open directory remembers of the numbers that it gave out.
 *
 * The n-th name of a listing has offset n + 2 (1 and 2 are "." and ".."): "resume after it". The
 * names of the last few buffers are kept exactly; of older ones every n-th, n doubling as the
 * directory turns out to be large, so that a handle has a ceiling of about 200 KiB. Not
 * thread-safe.
 */
#ifndef FS_DIRMAP_H
#define FS_DIRMAP_H

#include "cache/cache.h"
#include "src/base/buf.h"

#define DIRMAP_FIRST 2 /* offset after "." and "..", before the first name */
#define DIRMAP_WINDOWS 4
#define DIRMAP_MARKS 256

struct dirmap {
	struct dirmap_window {
		uint64_t first; /* offset of its first name */
		uint64_t count;
		struct buf names; /* each a length byte and that many bytes */
	} window[DIRMAP_WINDOWS];
	unsigned current;
	struct dirmap_mark {
		uint64_t offset;
		uint8_t len;
		char name[NAME_MAX_BYTES];
	} * marks; /* by offset */
	unsigned mark_count;
	unsigned mark_cap;
	uint64_t stride;
};

void dirmap_init(struct dirmap *m);
void dirmap_done(struct dirmap *m);

/* Starts a buffer that continues after offset; what was known of later offsets is forgotten. */
void dirmap_begin(struct dirmap *m, uint64_t offset);
/* The offset that the next name of that buffer gets. */
uint64_t dirmap_next(const struct dirmap *m);
/* The next name of that buffer. -ENOMEM, -ENAMETOOLONG. */
int dirmap_add(struct dirmap *m, struct slice name) MUST_CHECK;

/* Where to resume for offset: after the returned name (empty: from the first), skipping *skip
 * names. skip is 0 for offsets of the last buffers, and the result then exact whatever was made or
 * removed meanwhile. The name is borrowed until the next call. */
struct slice dirmap_find(const struct dirmap *m, uint64_t offset, uint64_t *skip);

#endif
