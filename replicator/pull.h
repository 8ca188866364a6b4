/* The puller: segments of other servers from the home region, or the next one that answers, into
 * the merge. */
#ifndef REPLICATOR_PULL_H
#define REPLICATOR_PULL_H

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
	int64_t lag_ms; /* age of the newest merged segment when it was merged; -1: none yet */
};

int puller_new(const struct puller_options *o, struct puller **ret) MUST_CHECK;
void puller_free(struct puller *p);
/* One listing and the merge of what is new. *did: something was merged. -errno for local failures
 * only. One thread at a time. */
int puller_step(struct puller *p, bool *did) MUST_CHECK;
/* true: others check the regions; a step uses those that are up. */
void puller_set_threaded(struct puller *p, bool threaded);
/* Thread-safe. */
void puller_status(struct puller *p, struct puller_status *ret);

/* pull_held.c: merges the records whose time has come. *did: any was. */
int pull_held(struct cache *c, const struct merger_options *o, bool *did) MUST_CHECK;

#endif
