/* The regions of this volume, as this server knows them. */
#ifndef CACHE_REGION_H
#define CACHE_REGION_H

#include "cache/cache.h"

#define REGION_MAX 8
#define REGION_NAME_SIZE 64

/* Ids of the named regions, 0 to REGION_MAX - 1, stable for the life of the state; names not
 * listed are retired with their outbox rows (err tells how many rows that drops; refused with
 * -EBUSY when there are any, unless force). A region that is new while entries exist is seeded: it
 * gets an outbox row for each live entry, and for each tombstone where its bucket was the volume's before,
 * by region_seed. */
int region_register(struct cache *c, const char *const *names, unsigned count, bool force,
	unsigned *ids, struct err *err) MUST_CHECK;

/* Whether the region's bucket was seen to be this volume's, ever, by this state: then one without a
 * volume is not the same bucket any more. A region that was retired and is named again starts over. */
int region_used(struct conn *conn, unsigned region, bool *ret) MUST_CHECK;
/* known: it was the volume's before this state used it. */
int region_set_used(struct cache *c, unsigned region, bool known) MUST_CHECK;

/* Seeds a new region, which is in use, a little further; *more: until this is false, what the region lacks is more than
 * its rows. Nothing to do for others. */
int region_seed(struct cache *c, unsigned region, bool *more) MUST_CHECK;
/* A bucket that was emptied has lost its log, too: the region is to be told of everything once more. */
int region_seed_again(struct cache *c, unsigned region) MUST_CHECK;
int region_seeding(struct conn *conn, unsigned region, bool *ret) MUST_CHECK;

#endif
