/*
 * The pace at which the objects of large files follow their announced changes: sending them takes at most
 * one part in PACE_SHARE of the time.
 */
#ifndef REPLICATOR_PACE_H
#define REPLICATOR_PACE_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "src/base/thread.h"

#define PACE_SHARE 4 /* an object that took t to be sent is sent again after (PACE_SHARE - 1) t … */
#define PACE_LEAST_MS 5000 /* … and not before this */
#define PACE_ROWS 512

/* All regions'. Embedded; thread-safe. */
struct pace {
	atomic_uint hurry; /* > 0: nobody waits */
	struct mutex lock; /* leaf; guards row */
	struct pace_row {
		uint64_t key;	/* hash of region and key; 0: free */
		int64_t due_ms; /* monotonic */
	} row[PACE_ROWS];
};

void pace_init(struct pace *p);
void pace_done(struct pace *p);
/* How long the object of key has to wait yet; 0: it may be sent. NULL: no pace. */
int64_t pace_wait_ms(struct pace *p, unsigned region, struct slice key);
/* The object was sent, or it was tried, from start_ms (monotonic) until now. */
void pace_sent(struct pace *p, unsigned region, struct slice key, int64_t start_ms);

#endif
