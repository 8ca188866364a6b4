/* One region's health: the averages and the thresholds; see health.h. Pure. */
#include "replicator/health.h"

#include <stddef.h>

enum {
	SLOW_MS = 500,	   /* faster is never too slow */
	TIMES_SLOWER = 4,  /* than another, to be left */
	TIMES_BETTER = 2,  /* than another at most, for a probe to be good */
	SAMPLES_LEAST = 3, /* of latency, before anything is concluded from it */
	GOOD_LEAST = 10,   /* probes in a row */
	AWAY_LEAST_MS = 10000,
};
#define LATENCY_WEIGHT 0.2 /* of the newest sample: half of it is gone after three */
#define FAILURE_WEIGHT 0.3 /* two failures in a row are over one half */
#define FAILING_LEAVE 0.5
#define FAILING_SUSPICIOUS 0.2

void health_note(struct health *h, bool failed)
{
	h->failing += FAILURE_WEIGHT * ((failed ? 1.0 : 0.0) - h->failing);
}

void health_latency(struct health *h, int64_t ms)
{
	if (!h->samples)
		h->latency_ms = (double)ms;
	else
		h->latency_ms += LATENCY_WEIGHT * ((double)ms - h->latency_ms);
	if (h->samples < SAMPLES_LEAST)
		h->samples++;
}

void health_probed(struct health *h, bool failed, int64_t ms, const struct health *best)
{
	bool slow = ms > SLOW_MS && best && best->samples &&
		    (double)ms > TIMES_BETTER * best->latency_ms;

	if (!failed)
		health_latency(h, ms);
	h->good = failed || slow ? 0 : h->good + 1;
}

bool health_suspicious(const struct health *h)
{
	return h->failing >= FAILING_SUSPICIOUS ||
	       (h->samples >= SAMPLES_LEAST && h->latency_ms > SLOW_MS);
}

bool health_should_leave(const struct health *h, const struct health *best)
{
	if (!best)
		return false;
	if (h->failing >= FAILING_LEAVE && best->failing < FAILING_LEAVE)
		return true;
	return h->samples >= SAMPLES_LEAST && best->samples >= SAMPLES_LEAST &&
	       h->latency_ms > SLOW_MS && h->latency_ms > TIMES_SLOWER * best->latency_ms;
}

bool health_may_return(const struct health *h, int64_t now_ms)
{
	return h->good >= GOOD_LEAST && now_ms - h->left_ms >= AWAY_LEAST_MS;
}
