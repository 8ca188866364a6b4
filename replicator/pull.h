/* The puller: segments of other servers from the home region, or the next one that answers, into
 * the merge. */
#ifndef REPLICATOR_PULL_H
#define REPLICATOR_PULL_H

#include "cache/region.h"
#include "replicator/merge.h"
#include "replicator/region.h"

struct puller;

struct puller_options {
	struct regions *regions;
	unsigned home; /* index */
	struct merger_options merger;
};

struct puller_status {
	char region[REGION_NAME_SIZE]; /* pulled from now */
	int64_t last_ms;	       /* realtime of the last complete pull; 0: never */
	uint64_t parts; /* of a checkpoint that is being loaded; 0: none is */
	uint64_t parts_done;
	int64_t lag_ms; /* age of the newest merged segment when it was merged; -1: none yet */
};

int puller_new(const struct puller_options *o, struct puller **ret) MUST_CHECK;
void puller_free(struct puller *p);
/* From now on the home region's log counts as read from its beginning, which another home region's before it
 * was not; until then nobody may take what is merged of it for all of it. Once; a step does it where it was not
 * done. As a step: one thread at a time, -errno for local failures. */
int puller_begin(struct puller *p) MUST_CHECK;
/* One listing and the merge of what is new. *did: something was merged. -errno for local failures
 * only. One thread at a time. */
int puller_step(struct puller *p, bool *did) MUST_CHECK;
/* On a server that never pulled: steps until a complete one, deadline_ms (monotonic), or no region
 * answers. *complete: there is no need for it, or it was. No other step may be under way. */
typedef void (*puller_progress_fn)(void *ctx, uint64_t parts_done, uint64_t parts);
int puller_first(struct puller *p, int64_t deadline_ms, puller_progress_fn progress, void *ctx,
	bool *complete) MUST_CHECK;
/* on: the log of the region with that index, which is not pulled from, is read too, from its checkpoint or
 * its beginning on, in small parts between the pulls, until it is off again. Thread-safe. */
void puller_read(struct puller *p, unsigned index, bool on);
/* When such a reading was last complete (the beginning of its last part, monotonic); 0: not yet.
 * Thread-safe. */
int64_t puller_read_ms(const struct puller *p, unsigned index);
/* true: others check the regions; a step uses those that are up. */
void puller_set_threaded(struct puller *p, bool threaded);
/* Thread-safe. */
void puller_status(struct puller *p, struct puller_status *ret);

/* pull_held.c: merges the records whose time has come. *did: any was. */
int pull_held(struct cache *c, const struct merger_options *o, bool *did) MUST_CHECK;

#endif
