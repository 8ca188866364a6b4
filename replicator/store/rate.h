/*
 * A token bucket: so many units a second on average, and a quarter of a second's worth at once.
 *
 * Kept as the time at which the bucket would be full again if nothing else were taken (the generic
 * cell rate algorithm, ITU-T I.371): one number. Whoever takes reserves at once and is told how long
 * to wait, so that waiters are served in order of arrival, and what must not wait can be counted all
 * the same. Thread-safe.
 */
#ifndef STORE_RATE_H
#define STORE_RATE_H

#include <stdint.h>

#include "src/base/thread.h"

#define RATE_MAX (UINT64_C(8) << 30)

struct rate {
	struct mutex lock;   /* a leaf */
	uint64_t per_second; /* 0: no limit */
	int64_t burst_ns;
	int64_t full_ns; /* monotonic: when what was taken has come in */
};

/* per_second: at most RATE_MAX (more is taken for that); least: units that may always go at once,
 * however low the rate is. */
void rate_init(struct rate *r, uint64_t per_second, uint64_t least);
void rate_done(struct rate *r);
/* Takes n units: the milliseconds until they may be used, 0: now. */
int64_t rate_take(struct rate *r, uint64_t n);

#endif
