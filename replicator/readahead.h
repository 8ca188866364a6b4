/* Which bytes of a file a reader will want next. Pure decisions; one struct for each reader that can be
 * told from the others by where it reads. Not thread-safe. */
#ifndef REPLICATOR_READAHEAD_H
#define REPLICATOR_READAHEAD_H

#include <stdbool.h>
#include <stdint.h>

#define READAHEAD_STREAMS 4		      /* readers of one file that are followed at once */
#define READAHEAD_MAX (UINT64_C(128) << 20)   /* bytes ahead of a sequential reader */
#define READAHEAD_START (UINT64_C(512) << 10) /* bytes that make a sequence */
#define READAHEAD_FIRST (UINT64_C(2) << 20)   /* the first window */
#define READAHEAD_SLACK (UINT64_C(1) << 20)   /* reads of a sequence arrive out of order so far */

struct readahead {
	uint64_t next;	 /* where the last read ended, at most */
	uint64_t window; /* bytes wanted behind next; 0: no sequence yet */
	uint64_t grown;	 /* next when the window last grew; at first, where the sequence began */
	uint64_t used;	 /* order of last use; 0: free */
};

/* A read of [offset, offset + n): finds the reader it belongs to, or gives it the place of the one that
 * was silent for longest, and adapts its window. The window doubles each time that a quarter of it
 * was read, and a jump starts again with none. Returns the reader. clock counts the calls. */
struct readahead *readahead_note(
	struct readahead all[READAHEAD_STREAMS], uint64_t *clock, uint64_t offset, uint64_t n);

#endif
