/*
 * Eviction: content that every region has, optional ones aside, goes from here, and is fetched again when it is used.
 *
 * May go: the content of a regular file that is not open (a mapping counts as an open: fs/passthrough.h),
 * is as it was sealed, and is, under each of its names, what the replicated map says, with nothing left
 * to do for any region: no journal row, no outbox row, no object to be looked at again, no region
 * that is being seeded. What another server wrote may still be missing in the regions although
 * nothing is left to do here, so of that a proof is asked.
 *
 * Use is counted in ticks, numbers that only grow: one begins every ten minutes and with each pass over
 * the candidates. A row has the tick in which its content was last used, so the time of day matters to
 * nothing, and content that is used all the time costs a write a tick.
 */
#ifndef CACHE_EVICT_H
#define CACHE_EVICT_H

#include "cache/cache.h"
#include "src/base/hash.h"

enum evict_result {
	EVICT_DONE = 0,
	EVICT_ABSENT,	/* it is not here, or empty */
	EVICT_KIND,	/* no regular file, or it has no name */
	EVICT_OPEN,	/* open, mapped or being read for a region */
	EVICT_DIRTY,	/* written or renamed here and not sealed */
	EVICT_UNPUSHED, /* some region lacks it */
	EVICT_UNPROVEN, /* it came from elsewhere, and no region shows its object now */
};
/* Why it stays, as the end of a sentence. */
const char *evict_text(enum evict_result result);

/* Whether some region has an object at key with that content. May block on the network. */
typedef bool (*evict_proof_fn)(
	void *ctx, struct slice key, const uint8_t hash[SHA256_SIZE], uint64_t size);

/* Content that rows no longer count on, and whose files are still there. */
#define EVICT_BATCH 128
struct evict_batch {
	evict_proof_fn proof;
	void *ctx;
	uint64_t files; /* evicted with it so far */
	uint64_t bytes;
	unsigned count;
	uint64_t ino[EVICT_BATCH];
};

/* Evicts the content of ino if it may go; the batch is finished when it is full. A crash leaves either
 * a row that says "here" and its content, or files that the next start removes. */
int evict_content(
	struct cache *c, struct evict_batch *b, uint64_t ino, enum evict_result *ret) MUST_CHECK;
/* Removes the files, after a flush of the log; what was fetched again meanwhile stays. */
int evict_finish(struct cache *c, struct evict_batch *b) MUST_CHECK;

/* Whether the cache is over a limit now. */
bool evict_is_over(struct cache *c);

/* When the cache is over a limit (cache_options): looks at the next, least recently used content, at
 * most EVICT_BATCH files, and evicts what may go and is too much. What may not go counts as used now, so
 * that no file is looked at twice in a pass. *more: there is more to do at once. After passes in
 * which nothing could go the next one waits. For one thread. */
int evict_step(struct cache *c, evict_proof_fn proof, void *ctx, bool *more) MUST_CHECK;

#endif
