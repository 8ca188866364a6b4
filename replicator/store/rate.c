/* The token bucket; see rate.h. Lock: rate.lock guards full_ns, held for a few instructions. */
#include "replicator/store/rate.h"

#include "src/base/clock.h"

#define SECOND_NS INT64_C(1000000000)

static int64_t duration_ns(const struct rate *r, uint64_t n)
{
	return (int64_t)(n / r->per_second) * SECOND_NS +
	       (int64_t)(n % r->per_second * (uint64_t)SECOND_NS / r->per_second);
}

void rate_init(struct rate *r, uint64_t per_second, uint64_t least)
{
	*r = (struct rate){.per_second = per_second < RATE_MAX ? per_second : RATE_MAX};
	mutex_init(&r->lock, LOCK_RANK_LEAF);
	if (!per_second)
		return;
	r->burst_ns = duration_ns(r, least);
	if (r->burst_ns < SECOND_NS / 4)
		r->burst_ns = SECOND_NS / 4;
}

void rate_done(struct rate *r)
{
	mutex_done(&r->lock);
}

int64_t rate_take(struct rate *r, uint64_t n)
{
	int64_t now = clock_monotonic_ms() * 1000000;

	if (!r->per_second || !n)
		return 0;
	mutex_lock(&r->lock);
	if (r->full_ns < now)
		r->full_ns = now;
	r->full_ns += duration_ns(r, n);
	int64_t wait = r->full_ns - now - r->burst_ns;
	mutex_unlock(&r->lock);
	return wait > 0 ? (wait + 999999) / 1000000 : 0;
}
