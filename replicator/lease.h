/*
 * An object of a region that says which server is at some work there, and until when: so that of many
 * that could do it one does. It is taken by a conditional put, and ends by itself when its holder does.
 *
 * It only saves work. What is done under it must be good when two do it at once: a store without
 * conditions, or a clock that is wrong, may give it to both.
 */
#ifndef REPLICATOR_LEASE_H
#define REPLICATOR_LEASE_H

#include "replicator/region.h"

#define LEASE_MS 600000

/* key and region outlive it. Not thread-safe. */
struct lease {
	struct cache *cache;
	struct region *region;
	const char *key;
	char etag[STORE_ETAG_SIZE];
	int64_t until_ms; /* the store's time; 0: not held */
	/* When the work was done last, by whoever did it (the store's time; 0: never): as read by
	 * lease_read, and as written by lease_give. */
	int64_t finished_ms;
};

/* The time by the region's store. */
int64_t lease_now_ms(const struct lease *l);
/* What the object says: finished_ms, and whether it is another server's now. False: the region did not
 * answer. */
bool lease_read(struct lease *l, bool *taken) MUST_CHECK;
/* False: another server has it, or the region did not answer. */
bool lease_take(struct lease *l) MUST_CHECK;
/* Renews it when half of its time is over. False: another server took it over. */
bool lease_keep(struct lease *l) MUST_CHECK;
/* Others need not wait for its end; where that fails they do. */
void lease_give(struct lease *l);

#endif
