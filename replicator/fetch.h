/* Content on first use: a pool of threads that download what an inode should hold and install it.
 */
#ifndef REPLICATOR_FETCH_H
#define REPLICATOR_FETCH_H

#include "replicator/region.h"

struct fetcher;
struct ranger;

/* ranger: who fetches what can be read by ranges (cache_range_min); must be stopped before this. */
int fetcher_new(struct regions *regions, struct ranger *ranger, struct fetcher **ret) MUST_CHECK;
void fetcher_free(struct fetcher *f); /* stops if needed */
int fetcher_start(struct fetcher *f, unsigned threads) MUST_CHECK;
/* Ends the threads; waiters get -EIO. The regions' cancel flag must be set first. */
void fetcher_stop(struct fetcher *f);
/* A cache_fetch_fn; ctx is the fetcher. Requests for one inode share one download. */
void fetcher_fetch(void *ctx, uint64_t ino, cache_fetch_done done, void *arg);
/* One attempt on the calling thread: 0 the content is here; -EAGAIN no region has it now; -EIO no
 * region answers; -ESTALE the inode does not want it any more. */
int fetch_once(struct regions *regions, uint64_t ino) MUST_CHECK;
/* The same in one piece, whatever its size. */
int fetch_whole(struct regions *regions, uint64_t ino) MUST_CHECK;
/* The name that the content of key has in the regions as long as they have not heard of its rename;
 * len 0: none is known. */
int fetch_former_name(struct regions *regions, struct slice key, struct key *ret) MUST_CHECK;

#endif
