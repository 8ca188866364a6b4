/*
 * The pace at which the objects of large files follow their announced changes: sending them takes at most
 * one part in DELTA_PACE_SHARE of the time.
 */
#ifndef REPLICATOR_DELTA_PACE_H
#define REPLICATOR_DELTA_PACE_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "src/base/thread.h"

#define DELTA_PACE_SHARE                                                                           \
	4 /* an object that took t to be sent is sent again after (DELTA_PACE_SHARE - 1) t … */
#define DELTA_PACE_LEAST_MS 5000 /* … and not before this */
#define DELTA_PACE_ROWS 512

/* All regions'. Embedded; thread-safe. */
struct delta_pace {
	atomic_uint hurry;   /* > 0: nobody waits, */
	atomic_bool awaited; /* nor then */
	struct mutex lock; /* leaf; guards row */
	struct delta_pace_row {
		uint64_t key;	/* hash of region and key; 0: free */
		int64_t due_ms; /* monotonic */
	} row[DELTA_PACE_ROWS];
};

void delta_pace_init(struct delta_pace *p);
void delta_pace_done(struct delta_pace *p);
/* How long the object of key has to wait yet; 0: it may be sent. NULL: no pace. */
int64_t delta_pace_wait_ms(struct delta_pace *p, unsigned region, struct slice key);
/* The object was sent, or it was tried, from start_ms (monotonic) until now. */
void delta_pace_sent(struct delta_pace *p, unsigned region, struct slice key, int64_t start_ms);

#endif
