/*
 * The health of all regions together: who is left for whom, and the probes.
 *
 * A region that is down (region.c's breaker) is left as well, so that it is taken back by the same
 * stretch of good probes and not with its first answer.
 *
 * Lock: each region's own, a leaf, for the copy or change of its health; none during a probe.
 */
#include <errno.h>

#include "replicator/region.h"
#include "replicator/segment.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum { PROBE_LEFT_MS = 1000, PROBE_OTHER_MS = 5000, PROBE_TIMEOUT_MS = 5000 };

struct view {
	struct health health;
	bool up;
};

static void look(struct regions *all, struct view view[REGION_MAX])
{
	for (unsigned i = 0; i < all->count; i++) {
		struct region *r = &all->region[i];

		mutex_lock(&r->lock);
		view[i].health = r->health;
		view[i].up = r->state == REGION_UP;
		mutex_unlock(&r->lock);
	}
}

void regions_order(struct regions *all, unsigned order[])
{
	bool left[REGION_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < all->count; i++) {
		mutex_lock(&all->region[i].lock);
		left[i] = all->region[i].health.left;
		mutex_unlock(&all->region[i].lock);
	}
	for (int which = 0; which < 4; which++) {
		for (unsigned i = 0; i < all->count; i++) {
			if (left[i] == (which >= 2) && all->region[i].home == (which % 2 == 0))
				order[n++] = i;
		}
	}
}

void region_listed(struct region *r, int64_t ms)
{
	mutex_lock(&r->lock);
	health_latency(&r->health, ms);
	mutex_unlock(&r->lock);
}

/* The healthiest region other than i that is up and not left itself; NULL: there is none. */
static const struct health *best_but(const struct regions *all, const struct view *view, unsigned i)
{
	const struct health *best = NULL;

	for (unsigned k = 0; k < all->count; k++) {
		const struct health *h = &view[k].health;

		if (k == i || !view[k].up || h->left)
			continue;
		if (!best || (h->samples && (!best->samples || h->latency_ms < best->latency_ms)))
			best = h;
	}
	return best;
}

static int ignore_name(void *ctx, const char *key, const struct store_object *object)
{
	(void)ctx;
	(void)key;
	(void)object;
	return 1;
}

/* The smallest of the requests that pulling makes: a listing of what is newer than anything. */
static void probe(struct region *r, const struct health *best)
{
	struct store_call call = region_call_urgent(r, 0);
	int64_t start = clock_monotonic_ms();
	struct store_error error = {0};

	call.deadline_ms = start + PROBE_TIMEOUT_MS;
	enum store_result result = store_list(
		r->store, SEGMENT_PREFIX, SEGMENT_PREFIX "g", 1, ignore_name, NULL, &call, &error);
	int64_t now = clock_monotonic_ms();
	region_end(r, REGION_READ, result, &error, "probe");
	if (result == STORE_LOCAL)
		return;
	mutex_lock(&r->lock);
	health_probed(&r->health, result != STORE_OK, now - start, best);
	r->health.probe_ms = now;
	mutex_unlock(&r->lock);
}

static void leave(struct region *r, bool up)
{
	mutex_lock(&r->lock);
	r->health.left = true;
	r->health.left_ms = clock_monotonic_ms();
	r->health.good = 0;
	struct health h = r->health;
	mutex_unlock(&r->lock);
	atomic_fetch_add(&r->all->turns, 1);
	metric_add(METRIC_REGIONS_LEFT, 1);
	log_warn("region is read last from now on region=%s cause=%s latency_ms=%.0f "
		 "failing_percent=%.0f",
		r->name,
		!up		   ? "down"
		: h.failing >= 0.5 ? "fails"
				   : "slow",
		h.latency_ms, h.failing * 100);
}

static void take_back(struct region *r)
{
	mutex_lock(&r->lock);
	r->health.left = false;
	r->health.failing = 0;
	r->health.samples = 0; /* its average remembers what made it go */
	double latency_ms = r->health.latency_ms;
	mutex_unlock(&r->lock);
	atomic_fetch_add(&r->all->turns, 1);
	log_info("region is read in its turn again region=%s latency_ms=%.0f", r->name, latency_ms);
}

void regions_watch(struct regions *all)
{
	int64_t now = clock_monotonic_ms();
	struct view view[REGION_MAX];
	bool suspicion = false;

	if (all->count < 2)
		return;
	look(all, view);
	for (unsigned i = 0; i < all->count; i++)
		suspicion |= !view[i].health.left && health_suspicious(&view[i].health);
	for (unsigned i = 0; i < all->count && !atomic_load(&all->cancel); i++) {
		const struct health *h = &view[i].health;
		int64_t pause = h->left ? PROBE_LEFT_MS : PROBE_OTHER_MS;

		if (view[i].up && (h->left || suspicion) && now - h->probe_ms >= pause)
			probe(&all->region[i], best_but(all, view, i));
	}
	look(all, view);
	for (unsigned i = 0; i < all->count; i++) {
		const struct health *h = &view[i].health, *best = best_but(all, view, i);
		struct region *r = &all->region[i];
		bool used = h->samples || h->left || r->home;

		if (!h->left && used && best && (!view[i].up || health_should_leave(h, best))) {
			leave(r, view[i].up);
			view[i].health.left = true;
		} else if (h->left && view[i].up && health_may_return(h, clock_monotonic_ms())) {
			take_back(r);
			view[i].health.left = false;
		}
	}
}
