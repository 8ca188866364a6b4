/*
 * Durability beyond this disk: who waits until regions have a file, and when they have it.
 *
 * A wait has two parts. First all that the journal has of the file from before the wait is sealed. Then each of
 * its versions (of a directory: of each name in it that a region has not been told of) is to be in enough
 * regions: announced in a segment with its content, or, when it is large, its object there and announced.
 */
#ifndef REPLICATOR_DURABLE_H
#define REPLICATOR_DURABLE_H

#include "cache/durability.h"
#include "cache/entry.h"
#include "replicator/region.h"

struct durable;

struct durable_options {
	struct regions *regions;
	uint64_t inline_max;
	int64_t timeout_ms;
	/* Told of a new wait; may not block. */
	void (*woken)(void *ctx);
	void *ctx;
};

int durable_new(const struct durable_options *o, struct durable **ret) MUST_CHECK;
/* Those that still wait get -EIO. */
void durable_free(struct durable *d);

/* A durability_wait_fn; ctx is the struct durable. */
void durable_wait(
	void *ctx, uint64_t ino, enum durability mode, durability_done_fn done, void *arg);
/* All that wait, and all that come, get -EIO; until on is true again. */
void durable_accept(struct durable *d, bool on);

/* A segment with this version of key, and its content where it has any to bring, is in the region. Cheap when
 * nobody waits. */
void durable_told(struct durable *d, unsigned region, struct slice key, struct stamp stamp);

/* What they wait for. */
struct durable_need {
	unsigned waiting;
	bool seal;	  /* something is to be sealed */
	uint64_t regions; /* a bit for the number (id) of each region that lacks something */
	int64_t next_ms;  /* monotonic: when the first of them gives up; INT64_MAX: nobody waits */
};
/* Looks at all of them, and answers those that have waited enough. For one thread. */
int durable_step(struct durable *d, bool *did, struct durable_need *need) MUST_CHECK;
/* How many wait. */
unsigned durable_waiting(struct durable *d);

#endif
