/*
 * Delivery from the outbox to one region: the announcer makes segments, the deliverer objects.
 *
 * Both have a step that works without threads and never waits for time, and may be used by one
 * thread at a time only; deliverer_start runs the same work on a pool.
 */
#ifndef REPLICATOR_DELIVER_H
#define REPLICATOR_DELIVER_H

#include "cache/outbox.h"
#include "replicator/inline_cache.h"
#include "replicator/delta_pace.h"
#include "replicator/region.h"

struct delivery_options {
	struct cache *cache;
	struct region *region;
	struct inline_cache *inline_cache;
	uint64_t inline_max;
	unsigned threads;
	struct delta_pace *pace; /* NULL: objects are sent at once */
	/* Told that a segment with this version of key is in the region; may not block. NULL: nobody. */
	void (*told)(void *ctx, unsigned region, struct slice key, struct stamp stamp);
	/* Told when rows moved on; may not block. */
	void (*moved)(void *ctx);
	void *ctx;
};

struct announcer;

int announcer_new(const struct delivery_options *o, struct announcer **ret) MUST_CHECK;
void announcer_free(struct announcer *a);
/* One segment, if there is anything to announce and the region may be used. */
int announcer_step(struct announcer *a, bool *did) MUST_CHECK;
/* True when the last step left something to be sent at once: its segment was full, or leaves a
 * group open. */
bool announcer_behind(const struct announcer *a) MUST_CHECK;
/* True when rows wait that could go now. Cheap. */
bool announcer_waiting(struct announcer *a) MUST_CHECK;

struct deliverer;

int deliverer_new(const struct delivery_options *o, struct deliverer **ret) MUST_CHECK;
void deliverer_free(struct deliverer *d); /* stops if needed */
/* Delivers up to max due rows, one after another. */
int deliverer_step(struct deliverer *d, unsigned max, bool *did) MUST_CHECK;
int deliverer_start(struct deliverer *d) MUST_CHECK;
/* The region's cancel flag must be set first, so that requests under way end. */
void deliverer_stop(struct deliverer *d);
/* There may be new rows. */
void deliverer_kick(struct deliverer *d);

#endif
