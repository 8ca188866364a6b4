/*
 * Backpressure: how much of what was changed here no region has yet, against the limits of cache_options. From
 * PRESSURE_BEGIN on, calls that bring new data are to be slowed, in proportion; at the limit they are refused
 * with -ENOSPC by the cache itself: content that is written, grows or is copied, and new names. Everything that
 * takes away, renames or changes attributes stays possible, and so does all that the replicator does.
 *
 * Reading it costs a few loads: the figures are kept by the transactions that change them.
 */
#ifndef CACHE_PRESSURE_H
#define CACHE_PRESSURE_H

#include "cache/cache.h"

#define PRESSURE_BEGIN 800    /* of 1,000 */
#define PRESSURE_DELAY_MS 200 /* of a call at the limit */

struct cache_pressure {
	/* Content that the region that lacks most of it lacks, and what was written to open files since they were
	 * sealed. */
	uint64_t dirty_bytes;
	uint64_t max_dirty; /* 0: no limit */
	/* Rows of the journal, and of the outbox for all regions that count. */
	uint64_t backlog_rows;
	uint64_t max_backlog; /* 0: no limit */
	unsigned permille;    /* of the limit that is nearer; may be over 1,000 */
};
void cache_pressure(struct cache *c, struct cache_pressure *ret);
/* For how long a call that brings new data is to be delayed now, at most PRESSURE_DELAY_MS. */
int64_t pressure_delay_ms(struct cache *c);

#endif
