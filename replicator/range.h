/* Reading remote content by ranges: a pool of threads that brings blocks of partial content here, those
 * that somebody waits for first, then those that a sequential reader will want next. */
#ifndef REPLICATOR_RANGE_H
#define REPLICATOR_RANGE_H

#include "cache/partial.h"
#include "replicator/region.h"

struct ranger;

int ranger_new(struct regions *regions, struct ranger **ret) MUST_CHECK;
void ranger_free(struct ranger *r); /* stops if needed */
int ranger_start(struct ranger *r) MUST_CHECK;
/* Ends the threads; waiters get -EIO. The regions' cancel flag must be set first. */
void ranger_stop(struct ranger *r);
/* A cache_range_fn; ctx is the ranger. -EIO after 30 s in which no region had the version; -ESTALE when
 * the file has been removed or replaced, after 2 s where regions answer and none has it. */
void ranger_read(void *ctx, struct partial *p, uint64_t offset, uint64_t n, cache_fetch_done done,
	void *arg);
/* Brings the whole content of ino here: done gets 0, -ESTALE when the inode does not want it any more, or
 * an error. background: after all that somebody waits for. May call done at once. */
void ranger_fetch(
	struct ranger *r, uint64_t ino, bool background, cache_fetch_done done, void *arg);

#endif
