/* Content on first use: a pool of threads that download what an inode should hold and install it.
 */
#ifndef REPLICATOR_FETCH_H
#define REPLICATOR_FETCH_H

#include "replicator/region.h"

struct fetcher;

int fetcher_new(struct regions *regions, struct fetcher **ret) MUST_CHECK;
void fetcher_free(struct fetcher *f); /* stops if needed */
int fetcher_start(struct fetcher *f, unsigned threads) MUST_CHECK;
/* Ends the threads; waiters get -EIO. The regions' cancel flag must be set first. */
void fetcher_stop(struct fetcher *f);
/* A cache_fetch_fn; ctx is the fetcher. Requests for one inode share one download. */
void fetcher_fetch(void *ctx, uint64_t ino, cache_fetch_done done, void *arg);
/* One attempt on the calling thread: 0 the content is here; -EAGAIN no region has it now; -EIO no
 * region answers; -ESTALE the inode does not want it any more. */
int fetch_once(struct regions *regions, uint64_t ino) MUST_CHECK;

#endif
