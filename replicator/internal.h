/* Private to replicator.c and status.c: what a replicator consists of. */
#ifndef REPLICATOR_INTERNAL_H
#define REPLICATOR_INTERNAL_H

#include "cache/region.h"
#include "replicator/checkpoint.h"
#include "replicator/deliver.h"
#include "replicator/durable.h"
#include "replicator/fetch.h"
#include "replicator/inline_cache.h"
#include "replicator/last_words.h"
#include "replicator/pull.h"
#include "replicator/reconcile.h"
#include "replicator/range.h"
#include "replicator/refresh.h"
#include "replicator/region.h"
#include "replicator/replicator.h"
#include "replicator/seal.h"
#include "replicator/trash.h"

struct replicator;

/* An announcer's thread needs to know whose it is. */
struct announce_thread {
	struct replicator *replicator;
	unsigned region;
	pthread_t thread;
	bool started;
};

#define REFRESH_THREADS 4

/* Work that a local failure, a full disk say, keeps from getting on. */
struct stopped_work {
	const int *of; /* who does it: its last code; NULL: none */
	const char *what;
	int code;
};

/* A thread that does such work: as many as there may be. */
#define STOPPED_WORK_MAX (REGION_MAX + REFRESH_THREADS + 8)

struct replicator {
	struct cache *cache;
	struct replicator_options o; /* numbers only; its strings are not kept */
	struct regions regions;
	struct sealer *sealer;
	struct inline_cache *inline_cache;
	struct delta_pace pace; /* of the objects of large files that change */
	struct announcer *announcer[REGION_MAX];
	struct deliverer *deliverer[REGION_MAX];
	struct puller *puller;
	struct ranger *ranger;
	struct refresher *refresher;
	struct checkpointer *checkpointer[REGION_MAX];
	struct last_words *last_words;
	struct trash *trash;
	struct fetcher *fetcher;
	struct reconciler *reconciler;
	struct durable *durable;

	struct mutex lock; /* rank REPLICATOR; guards the seven below */
	struct cond cond;
	uint64_t generation; /* raised when there may be something to do */
	bool hurry;	     /* somebody flushes: nothing is gathered any longer */
	bool seal_now;	     /* somebody's fsync waits for the sealer */
	uint64_t send_now;   /* a bit for each region (by index) that an fsync waits for */
	bool stopping;
	struct stopped_work stopped[STOPPED_WORK_MAX];

	int64_t durable_next_ms; /* the durable thread's */

	struct announce_thread announce[REGION_MAX];
	pthread_t seal_thread, pull_thread, house_thread, remove_thread, evict_thread;
	pthread_t watch_thread, durable_thread;
	bool watch_started, durable_started;
	bool seal_started, pull_started, house_started, remove_started, evict_started;
	pthread_t refresh_thread[REFRESH_THREADS];
	bool refresh_started[REFRESH_THREADS];
	pthread_t checkpoint_thread;
	bool checkpoint_started;
	bool running;
};

/* There may be something to do; wake_all: for the deliverers, too. ctx is the replicator. */
void replicator_wake(void *ctx);
void replicator_wake_all(void *ctx);
bool replicator_stopping(struct replicator *r);
/* Until the time is over, stop, or (while seen is given) the generation is another one, which seen
 * then is; unless_hurry: or somebody flushes. */
void replicator_wait_ms(struct replicator *r, int64_t ms, uint64_t *seen, bool unless_hurry);

#endif
