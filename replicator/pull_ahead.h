/*
 * Segments fetched ahead of their merge: a few at once, each by a thread of a small pool, so that what
 * a puller waits for is bandwidth and not one answer after the other. The puller alone calls.
 */
#ifndef REPLICATOR_PULL_AHEAD_H
#define REPLICATOR_PULL_AHEAD_H

#include "replicator/region.h"
#include "src/base/buf.h"

enum { AHEAD_SLOTS = 8, AHEAD_THREADS = 4, AHEAD_KEY_SIZE = 128 };
#define AHEAD_BYTES (UINT64_C(16) << 20) /* together, unless one alone is larger */

struct ahead;

int ahead_new(struct ahead **ret) MUST_CHECK;
void ahead_free(struct ahead *a); /* stops if needed */
/* Without threads nothing is fetched ahead. */
int ahead_start(struct ahead *a) MUST_CHECK;
/* The regions' cancel flag must be set first. */
void ahead_stop(struct ahead *a);

/* False: no room now, or no threads. at: the caller's number for it, growing. */
bool ahead_add(struct ahead *a, struct region *region, const char *key, uint64_t size, unsigned at);
/* What was added under that key, waiting for it; false: nothing was. b is the caller's. */
bool ahead_take(struct ahead *a, const char *key, struct buf *b, enum store_result *result,
	struct store_error *error);
/* Forgets what was added with a smaller number. */
void ahead_forget(struct ahead *a, unsigned at);

#endif
