/*
 * The replicator's threads. Each is a loop around a step; what it waits for is a generation that everybody
 * who made work raises, or time.
 *
 * Stop: the flag, the regions' cancel flag (requests under way end within a poll of it), a
 * broadcast, then every thread is joined. Nothing needs a thread to be told what is left: it is all
 * in the outbox.
 *
 * Lock: replicator.lock guards generation, hurry and stopping; nothing is called under it.
 */
#include "replicator/internal.h"

#include <errno.h>
#include <stdio.h>

#include "cache/evict.h"
#include "cache/file.h"
#include "cache/journal.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum {
	ANNOUNCE_IDLE_MS = 1000,
	SEED_ROWS_MAX = 20000,
	DURABLE_IDLE_MS = 1000,
	FETCH_THREADS = 8,
	SEAL_GATHER_MS = 20,
	SEAL_PAUSE_MS = 100,
	SEAL_IDLE_MS = 500,
	ENOUGH_RECORDS = 2000,
	LOCAL_FAILURE_MS = 1000,
	HOUSE_MS = 1000,
	HOUSE_LOG_BYTES = 4 << 20,
	UPKEEP_PAUSE_MS = 2,
	EVICT_MS = 1000,
	WATCH_MS = 1000,
};

bool replicator_stopping(struct replicator *r)
{
	mutex_lock(&r->lock);
	bool stop = r->stopping;
	mutex_unlock(&r->lock);
	return stop;
}

void replicator_wait_ms(struct replicator *r, int64_t ms, uint64_t *seen, bool unless_hurry)
{
	int64_t until = clock_monotonic_ms() + ms;

	mutex_lock(&r->lock);
	while (!r->stopping && !(unless_hurry && (r->hurry || r->seal_now)) &&
		!(seen && *seen != r->generation)) {
		int64_t left = until - clock_monotonic_ms();
		if (left <= 0)
			break;
		cond_wait_ms(&r->cond, &r->lock, left);
	}
	if (seen)
		*seen = r->generation;
	mutex_unlock(&r->lock);
}

static void note_stopped(struct replicator *r, const char *what, int code, const int *of)
{
	struct stopped_work *place = NULL;

	mutex_lock(&r->lock);
	for (unsigned i = 0; i < STOPPED_WORK_MAX; i++) {
		struct stopped_work *s = &r->stopped[i];

		if (s->of == of || (!s->of && !place))
			place = s;
		if (s->of == of)
			break;
	}
	if (place)
		*place = (struct stopped_work){code < 0 ? of : NULL, what, code};
	mutex_unlock(&r->lock);
}

/* A local failure (disk full) is said once, stands in the status, and is tried again at leisure. */
static void local_failure(struct replicator *r, const char *what, int code, int *last)
{
	if (code == *last)
		return;
	*last = code;
	note_stopped(r, what, code, last);
	if (code < 0)
		log_error("%s stopped, trying again error=\"%s\"", what, strerror(-code));
	else
		log_info("%s goes on", what);
}

static void *seal_loop(void *arg)
{
	struct replicator *r = arg;
	uint64_t seen = 0;
	int last = 0;

	thread_give_way();
	while (!replicator_stopping(r)) {
		bool did = false;
		int code = replicator_step_seal(r, &did);

		local_failure(r, "sealing", code, &last);
		if (code < 0)
			replicator_wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		if (!did)
			journal_wait(r->cache, &seen, SEAL_IDLE_MS);
		/* So that a burst of changes is not sealed one by one; and while changes go on, what
		 * announcing gathers anyway is sealed in few rounds, not version by version. */
		if (!did || !sealer_late(r->sealer))
			replicator_wait_ms(r, did ? SEAL_PAUSE_MS : SEAL_GATHER_MS, NULL, true);
	}
	return NULL;
}

/* Gives the changes that wait the time until then to become more. */
static void gather(struct replicator *r, unsigned region, int64_t until)
{
	uint64_t sealed = metric_get(METRIC_RECORDS_SEALED);

	for (;;) {
		int64_t left = until - clock_monotonic_ms();
		bool over;

		mutex_lock(&r->lock);
		over = r->stopping || r->hurry || (r->send_now >> region & 1) || left <= 0 ||
		       metric_get(METRIC_RECORDS_SEALED) - sealed >= ENOUGH_RECORDS;
		if (!over)
			cond_wait_ms(&r->cond, &r->lock, left);
		mutex_unlock(&r->lock);
		if (over)
			return;
	}
}

/* Sends what waits. What comes while a segment is on its way is gathered as well, its time counted
 * from that segment's start: at most one segment in segment_delay, as long as none is full. */
static int announce(struct replicator *r, unsigned region)
{
	struct announcer *a = r->announcer[region];
	int64_t until = clock_monotonic_ms() + r->o.segment_delay_ms;

	for (;;) {
		bool did = false;

		if (!announcer_behind(a)) {
			if (!announcer_waiting(a))
				return 0;
			gather(r, region, until);
		}
		until = clock_monotonic_ms() + r->o.segment_delay_ms;
		int code = replicator_step_announce(r, region, &did);
		if (code < 0 || !did || replicator_stopping(r))
			return code;
	}
}

static void *announce_loop(void *arg)
{
	struct announce_thread *t = arg;
	struct replicator *r = t->replicator;
	struct region *region = &r->regions.region[t->region];
	uint64_t seen = 0;
	int last = 0;

	thread_give_way();
	while (!replicator_stopping(r)) {
		int code = 0;

		if (region_begin(region, REGION_WRITE)) {
			code = announce(r, t->region);
			local_failure(r, "announcing", code, &last);
		}
		if (code < 0)
			replicator_wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		else
			replicator_wait_ms(r, ANNOUNCE_IDLE_MS, &seen, false);
	}
	return NULL;
}

static void *pull_loop(void *arg)
{
	struct replicator *r = arg;
	int last = 0;

	thread_background();
	while (!replicator_stopping(r)) {
		int64_t pause = r->o.poll_interval_ms, start = clock_monotonic_ms();
		bool did = false;
		int code = replicator_step_pull(r, &did);

		local_failure(r, "merging", code, &last);
		if (code < 0)
			pause = LOCAL_FAILURE_MS;
		else if (did) /* where there is news, a poll in each interval, not after each */
			pause -= clock_monotonic_ms() - start;
		replicator_wait_ms(r, pause, NULL, false);
	}
	return NULL;
}

/* What is still to be listed waits while the region has enough to do, so that its outbox stays small, and
 * until it is known whether its bucket was the volume's before (region_seed). */
static int upkeep_region(struct replicator *r, struct region *region, bool *more)
{
	struct outbox_stats stats = {0};
	struct conn *conn;
	bool seeding = false;

	int code = resync_step(
		r->cache, region->id, &region->bound, region_up(region, REGION_WRITE), more);
	if (code == 0)
		code = cache_read_begin(r->cache, &conn);
	if (code < 0)
		return code;
	code = region_seeding(conn, region->id, &seeding);
	if (code == 0 && seeding)
		code = outbox_stats(conn, region->id, &stats);
	cache_read_end(conn);
	if (code < 0 || !seeding || stats.rows >= SEED_ROWS_MAX || !region_is_used(region))
		return code;
	code = region_seed(r->cache, region->id, &seeding);
	*more |= seeding;
	replicator_wake_all(r);
	return code;
}

int replicator_step_upkeep(struct replicator *r, bool *more)
{
	int code = cache_sweep(r->cache, more);

	for (unsigned i = 0; code == 0 && i < r->regions.count; i++) {
		bool again = false;

		code = upkeep_region(r, &r->regions.region[i], &again);
		*more |= again;
	}
	return code;
}

/* What takes long goes in small steps with pauses, for as long as the house can wait. */
static void upkeep(struct replicator *r)
{
	int64_t until = clock_monotonic_ms() + HOUSE_MS;
	bool more = true;

	while (more && !replicator_stopping(r) && clock_monotonic_ms() < until) {
		int code = replicator_step_upkeep(r, &more);

		if (code < 0) {
			log_debug("upkeep of the state failed error=%d", code);
			break;
		}
		replicator_wait_ms(r, UPKEEP_PAUSE_MS, NULL, false);
	}
	replicator_wait_ms(r, until - clock_monotonic_ms(), NULL, false);
}

int replicator_step_evict(struct replicator *r, bool *more)
{
	return evict_step(r->cache, replicator_has_object, r, more);
}

int replicator_step_checkpoint(struct replicator *r, bool *did)
{
	int code = 0;

	*did = false;
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++) {
		bool one;

		code = checkpointer_step(r->checkpointer[i], &one);
		*did |= one;
	}
	return code;
}

int replicator_step_last_words(struct replicator *r, bool *did)
{
	int code = last_words_step(r->last_words, did);

	if (*did)
		replicator_wake_all(r);
	return code;
}

int replicator_step_trash(struct replicator *r, bool *did)
{
	return trash_step(r->trash, did);
}

/* Its own thread: sending one may take minutes. */
static void *checkpoint_loop(void *arg)
{
	struct replicator *r = arg;
	int last = 0;

	thread_background();
	while (!replicator_stopping(r)) {
		bool did = false;
		int code = replicator_step_checkpoint(r, &did);

		if (code == 0)
			code = replicator_step_last_words(r, &did);
		if (code == 0)
			code = replicator_step_trash(r, &did);
		local_failure(r, "writing a checkpoint", code, &last);
		replicator_wait_ms(r, HOUSE_MS, NULL, false);
	}
	return NULL;
}

/* Its own thread: it may have to ask a region about each file. */
static void *evict_loop(void *arg)
{
	struct replicator *r = arg;
	int last = 0;

	thread_background();
	while (!replicator_stopping(r)) {
		bool more = false;
		int code = replicator_step_evict(r, &more);

		local_failure(r, "eviction", code, &last);
		replicator_wait_ms(r, more ? UPKEEP_PAUSE_MS : EVICT_MS, NULL, false);
	}
	return NULL;
}

int replicator_step_durable(struct replicator *r, bool *did)
{
	struct durable_need need;
	uint64_t send = 0;
	int code = durable_step(r->durable, did, &need);
	/* Large files are durable when their objects are there. */
	bool awaited = need.waiting > 0;
	content_hurry(r->cache, awaited - atomic_exchange(&r->pace.awaited, awaited));

	for (unsigned i = 0; i < r->regions.count; i++)
		send |= (need.regions >> r->regions.region[i].id & 1) << i;
	mutex_lock(&r->lock);
	/* Those that came meanwhile have raised it for themselves, and the generation with it. */
	r->seal_now = need.seal;
	if (send & ~r->send_now)
		cond_broadcast(&r->cond);
	r->send_now = send;
	mutex_unlock(&r->lock);
	r->durable_next_ms = need.next_ms;
	return code;
}

void replicator_wait_durable(struct replicator *r, uint64_t ino, enum durability mode,
	durability_done_fn done, void *arg)
{
	durable_wait(r->durable, ino, mode, done, arg);
}

/* Answers who waits until regions have a file, whenever something moved on. */
static void *durable_loop(void *arg)
{
	struct replicator *r = arg;
	uint64_t seen = 0;
	int last = 0;

	while (!replicator_stopping(r)) {
		bool did = false;
		int code = replicator_step_durable(r, &did);
		int64_t left = r->durable_next_ms - clock_monotonic_ms();

		local_failure(r, "waiting for regions", code, &last);
		if (left > DURABLE_IDLE_MS)
			left = DURABLE_IDLE_MS;
		if (code < 0)
			replicator_wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		else
			replicator_wait_ms(r, left > 0 ? left : 1, &seen, false);
	}
	return NULL;
}

/* Its own thread: a probe may hang for seconds. */
static void *watch_loop(void *arg)
{
	struct replicator *r = arg;

	thread_background();
	while (!replicator_stopping(r)) {
		replicator_step_watch(r);
		replicator_wait_ms(r, WATCH_MS, NULL, false);
	}
	return NULL;
}

int replicator_step_refresh(struct replicator *r, bool *did)
{
	int64_t pause_ms;

	return refresher_step(r->refresher, did, &pause_ms);
}

static void *refresh_loop(void *arg)
{
	struct replicator *r = arg;
	uint64_t seen = 0;
	int last = 0;

	thread_background();
	while (!replicator_stopping(r)) {
		int64_t pause_ms = 0;
		bool did = false;
		int code = refresher_step(r->refresher, &did, &pause_ms);

		local_failure(r, "fetching ahead", code, &last);
		if (code < 0)
			replicator_wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		else if (pause_ms)
			replicator_wait_ms(r, pause_ms, &seen, false);
	}
	return NULL;
}

static void *remove_loop(void *arg)
{
	struct replicator *r = arg;

	thread_background();
	while (cache_remove_content(r->cache))
		;
	return NULL;
}

static void *house_loop(void *arg)
{
	struct replicator *r = arg;

	thread_background();
	while (!replicator_stopping(r)) {
		upkeep(r);
		cache_refill_reserve(r->cache);
		int code = cache_checkpoint(r->cache, HOUSE_LOG_BYTES);
		if (code < 0)
			log_debug("checkpoint of the database failed error=%d", code);
	}
	return NULL;
}

static int start_threads(struct replicator *r)
{
	char name[16];
	int code = ranger_start(r->ranger);

	if (code == 0)
		code = fetcher_start(r->fetcher, FETCH_THREADS);
	if (code == 0)
		code = reconciler_start(r->reconciler);

	for (unsigned i = 0; code == 0 && i < r->regions.count; i++) {
		struct announce_thread *t = &r->announce[i];

		*t = (struct announce_thread){.replicator = r, .region = i};
		snprintf(name, sizeof(name), "announce-%u", i % REGION_MAX);
		code = thread_start(&t->thread, name, announce_loop, t);
		t->started = code == 0;
		if (code == 0)
			code = deliverer_start(r->deliverer[i]);
	}
	if (code == 0) {
		code = thread_start(&r->seal_thread, "seal", seal_loop, r);
		r->seal_started = code == 0;
	}
	if (code == 0) {
		code = thread_start(&r->pull_thread, "pull", pull_loop, r);
		r->pull_started = code == 0;
	}
	if (code == 0) {
		code = thread_start(&r->house_thread, "house", house_loop, r);
		r->house_started = code == 0;
	}
	if (code == 0) {
		code = thread_start(&r->evict_thread, "evict", evict_loop, r);
		r->evict_started = code == 0;
	}
	if (code == 0 && durability_matters(r->cache)) {
		code = thread_start(&r->durable_thread, "durable", durable_loop, r);
		r->durable_started = code == 0;
	}
	if (code == 0 && r->regions.count > 1) {
		code = thread_start(&r->watch_thread, "watch", watch_loop, r);
		r->watch_started = code == 0;
	}
	for (unsigned i = 0; code == 0 && i < REFRESH_THREADS; i++) {
		code = thread_start(&r->refresh_thread[i], "refresh", refresh_loop, r);
		r->refresh_started[i] = code == 0;
	}
	if (code == 0) {
		code = thread_start(&r->checkpoint_thread, "checkpoint", checkpoint_loop, r);
		r->checkpoint_started = code == 0;
	}
	if (code == 0) {
		cache_defer_removals(r->cache, true);
		code = thread_start(&r->remove_thread, "remove", remove_loop, r);
		r->remove_started = code == 0;
	}
	return code;
}

int replicator_start(struct replicator *r, struct err *err)
{
	mutex_lock(&r->lock);
	r->stopping = false;
	mutex_unlock(&r->lock);
	atomic_store(&r->regions.cancel, false);
	puller_set_threaded(r->puller, true);
	content_stop_hashing(r->cache, INT64_MAX);
	r->running = true;
	/* Before a checkpoint can be written of what only stood in for a home region until now. */
	int code = puller_begin(r->puller);
	if (code < 0)
		log_debug("the home region's log is not begun yet error=%d", code);
	code = start_threads(r);
	if (code < 0) {
		replicator_stop(r);
		return err_errno(err, code, "cannot start the replication threads");
	}
	cache_set_fetcher(r->cache, fetcher_fetch, r->fetcher);
	durable_accept(r->durable, true);
	cache_set_durability_waiter(r->cache, durable_wait, r->durable);
	cache_set_ranger(r->cache, r->o.lazy_min ? ranger_read : NULL, r->ranger, r->o.lazy_min);
	return 0;
}

static void join(pthread_t thread, bool *started)
{
	if (*started)
		CHECK(pthread_join(thread, NULL) == 0);
	*started = false;
}

void replicator_stop(struct replicator *r)
{
	if (!r->running)
		return;
	cache_set_fetcher(r->cache, NULL, NULL);
	cache_set_durability_waiter(r->cache, NULL, NULL);
	cache_set_ranger(r->cache, NULL, NULL, 0);
	atomic_store(&r->regions.cancel, true);
	mutex_lock(&r->lock);
	r->stopping = true;
	cond_broadcast(&r->cond);
	mutex_unlock(&r->lock);
	journal_kick(r->cache);
	content_stop_hashing(r->cache, 0);
	cache_defer_removals(r->cache, false);
	ranger_stop(r->ranger); /* first: the fetcher waits for it */
	fetcher_stop(r->fetcher);
	reconciler_stop(r->reconciler);
	join(r->remove_thread, &r->remove_started);
	join(r->seal_thread, &r->seal_started);
	join(r->pull_thread, &r->pull_started);
	join(r->house_thread, &r->house_started);
	join(r->evict_thread, &r->evict_started);
	for (unsigned i = 0; i < REFRESH_THREADS; i++)
		join(r->refresh_thread[i], &r->refresh_started[i]);
	join(r->checkpoint_thread, &r->checkpoint_started);
	join(r->durable_thread, &r->durable_started);
	durable_accept(r->durable, false);
	join(r->watch_thread, &r->watch_started);
	for (unsigned i = 0; i < r->regions.count; i++) {
		join(r->announce[i].thread, &r->announce[i].started);
		deliverer_stop(r->deliverer[i]);
	}
	content_end_snapshots(r->cache);
	puller_set_threaded(r->puller, false);
	atomic_store(&r->regions.cancel, false);
	r->running = false;
}
