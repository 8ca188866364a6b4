/*
 * Optional regions: one that does not answer and whose backlog passes a bound is given up for now ("needs resync"): it gets no rows any more
 * and holds nothing here. When it answers again, what it missed is computed from the entries.
 *
 *   NONE     as any other region
 *   OUT      nothing is enqueued for it; the rows that it had go, batch by batch
 *   RUNNING  it answers: entries, tombstones too, that changed since its oldest missing change are enqueued, in
 *            order of their keys, beside new changes; NONE again when all of them are there
 */
#ifndef CACHE_RESYNC_H
#define CACHE_RESYNC_H

#include "cache/cache.h"

enum resync_state { RESYNC_NONE = 0, RESYNC_OUT = 1, RESYNC_RUNNING = 2 };

struct resync_status {
	bool optional;
	enum resync_state state;
	uint64_t seen; /* RUNNING: entries that were looked at */
};
int resync_get(struct conn *conn, unsigned region, struct resync_status *ret) MUST_CHECK;

/* As configured; kept, because what a region missed while it was optional is still to come when it is
 * not. */
int region_set_optional(struct cache *c, unsigned region, bool optional) MUST_CHECK;
/* A bit for each optional region. Cheap, as the next. */
uint64_t regions_optional(struct cache *c);
/* It is OUT: nothing of its outbox is to be delivered. */
bool region_is_out(struct cache *c, unsigned region);

/* Of a region that does not answer; of one that is only slow a resync would send the same. */
struct resync_bound {
	uint64_t rows;	/* over so many it is given up */
	int64_t age_ms; /* likewise when a change has waited for so long */
};
/* One short step. up: it may be talked to. *more: there is something to do at once. */
int resync_step(struct cache *c, unsigned region, const struct resync_bound *bound, bool up,
	bool *more) MUST_CHECK;

#endif
