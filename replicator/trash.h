/*
 * What removals keep (.meridian/trash/) goes when it is old enough, in each region by one server at a
 * time. docs/bucket-format.md has the keys.
 */
#ifndef REPLICATOR_TRASH_H
#define REPLICATOR_TRASH_H

#include "replicator/region.h"

#define TRASH_PREFIX ".meridian/trash/"
#define TRASH_LEASE ".meridian/trash.json"

struct trash;

struct trash_options {
	struct regions *regions;
	int64_t keep_ms;
	int64_t interval_ms; /* between two times that a region's trash is listed, by whichever server */
	int64_t look_ms; /* how often to find out whether it is time */
};

struct trash_status {
	int64_t finished_ms; /* the store's time when the trash was last gone through, by whoever; 0: not known */
	uint64_t removed; /* since the start, by this server */
	uint64_t needed;  /* old, and kept because a file may have its content nowhere else; of this
			      * server's last time */
};

int trash_new(const struct trash_options *o, struct trash **ret) MUST_CHECK;
void trash_free(struct trash *t);
/* A part of the clean-up of one region where it is time. *did: something was removed. A region that fails
 * is no error. One thread at a time. */
int trash_step(struct trash *t, bool *did) MUST_CHECK;
/* Of the region with that index. Thread-safe. */
void trash_status(struct trash *t, unsigned index, struct trash_status *ret);

#endif
