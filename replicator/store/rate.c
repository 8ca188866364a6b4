/* The token bucket; see rate.h. Lock: rate.lock, held for a few instructions. Invariant under it:
 * released <= taken + burst. */
#include "replicator/store/rate.h"

#include "src/base/clock.h"

/* Longer pauses fill every bucket, and what comes in by them fits into 64 bits. */
#define PAUSE_MAX_MS (INT64_C(24) * 3600 * 1000)
/* Who lacks more asks again. */
#define MISSING_MAX (UINT64_C(1) << 50)

static void bound(struct rate *r)
{
	if (r->released <= r->taken + r->burst)
		return;
	r->released = r->taken + r->burst;
	r->rest = 0;
}

/* Lets come in what came since the last time. */
static void advance(struct rate *r)
{
	int64_t now = clock_monotonic_ms(), passed = now - r->at_ms;

	r->at_ms = now;
	if (passed <= 0 || !r->per_second)
		return;
	if (passed > PAUSE_MAX_MS)
		passed = PAUSE_MAX_MS;
	r->rest += r->per_second * (uint64_t)passed;
	r->released += r->rest / 1000;
	r->rest %= 1000;
	bound(r);
}

static void set(struct rate *r, uint64_t per_second)
{
	r->told = per_second;
	r->per_second = per_second < RATE_MAX ? per_second : RATE_MAX;
	r->burst = r->per_second / 4 > r->least ? r->per_second / 4 : r->least;
	r->rest = 0;
}

void rate_init(struct rate *r, uint64_t per_second, uint64_t least)
{
	*r = (struct rate){.least = least, .at_ms = clock_monotonic_ms()};
	mutex_init(&r->lock, LOCK_RANK_LEAF);
	set(r, per_second);
	r->released = r->burst;
}

void rate_done(struct rate *r)
{
	mutex_done(&r->lock);
}

void rate_set(struct rate *r, uint64_t per_second)
{
	mutex_lock(&r->lock);
	advance(r);
	/* One that is told the same again and again loses no part of a unit by it. */
	if (per_second != r->told) {
		if (!r->per_second)
			r->released = r->taken;
		set(r, per_second);
		bound(r);
	}
	mutex_unlock(&r->lock);
}

uint64_t rate_take(struct rate *r, uint64_t n)
{
	uint64_t ticket = 0;

	mutex_lock(&r->lock);
	if (r->per_second && n) {
		/* Before, or the units of a bucket that was full for long would count twice. */
		advance(r);
		ticket = r->taken += n;
	}
	mutex_unlock(&r->lock);
	return ticket;
}

int64_t rate_wait_ms(struct rate *r, uint64_t ticket)
{
	int64_t wait = 0;

	mutex_lock(&r->lock);
	if (r->per_second && ticket) {
		advance(r);
		uint64_t missing = ticket > r->released ? ticket - r->released : 0;

		if (missing > MISSING_MAX)
			missing = MISSING_MAX;
		if (missing)
			wait = (int64_t)((missing * 1000 - r->rest + r->per_second - 1) /
					 r->per_second);
	}
	mutex_unlock(&r->lock);
	return wait;
}
