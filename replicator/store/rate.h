/*
 * A token bucket: so many units a second on average, and a quarter of a second's worth at once.
 *
 * Whoever takes units gets a ticket at once and asks with it how long to wait: waiters are served in
 * order of arrival, what must not wait can be counted all the same, and a rate that changes holds for
 * those who wait already. What the bucket had when its rate changed it keeps, in units, so that no
 * change lets a burst through. Thread-safe.
 */
#ifndef STORE_RATE_H
#define STORE_RATE_H

#include <stdint.h>

#include "src/base/thread.h"

#define RATE_MAX (UINT64_C(8) << 30)

struct rate {
	struct mutex lock; /* a leaf; guards everything below */
	uint64_t told;
	uint64_t per_second; /* of what was told at most RATE_MAX; 0: no limit */
	uint64_t least;
	uint64_t burst;
	uint64_t taken;	   /* units, ever: the newest ticket */
	uint64_t released; /* tickets up to this one may go */
	uint64_t rest;	   /* of a unit, in thousandths */
	int64_t at_ms;	   /* monotonic: when released was right */
};

/* per_second: at most RATE_MAX (more is taken for that), 0: no limit; least: units that may always go
 * at once, however low the rate is. The bucket is full at first. */
void rate_init(struct rate *r, uint64_t per_second, uint64_t least);
void rate_done(struct rate *r);
/* Another rate from now on. A bucket that had no limit is empty then. */
void rate_set(struct rate *r, uint64_t per_second);
/* Takes n units, at most RATE_MAX: their ticket; 0 where there is no limit. */
uint64_t rate_take(struct rate *r, uint64_t n);
/* The milliseconds until the units of the ticket may be used if the rate stays as it is; 0: now. */
int64_t rate_wait_ms(struct rate *r, uint64_t ticket);

#endif
