/*
 * The replicator's assembly and threads. Each thread is a loop around a step of another file; what
 * a thread waits for is a generation that everybody who made work raises, or time.
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
	SEAL_AFTER_MS = 5000,
	SEGMENT_DELAY_MS = 250,
	POLL_INTERVAL_MS = 1000,
	MAX_CLOCK_SKEW_MS = 300000,
	OBJECT_THREADS = 16,
	RESYNC_BACKLOG = 1000000,
	RESYNC_AGE_MS = 86400000,
	SEED_ROWS_MAX = 20000,
	DURABILITY_TIMEOUT_MS = 30000,
	DURABLE_IDLE_MS = 1000,
	FETCH_THREADS = 8,
	INLINE_CACHE_BYTES = 32 << 20,
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
	FLUSH_POLL_MS = 50,
	CHECKPOINT_INTERVAL_MS = 3600000,
	CHECKPOINT_SEGMENTS = 400, /* a new server reads that many at most, one request each */
	CHECKPOINT_LOOK_MS = 5000,
	SEGMENT_KEEP_MS = 7 * 86400000,
	GONE_AFTER_MS = 86400000,
	GONE_LOOKS = 24, /* for who is gone, within that time */
};

/* ---- assembly ---- */

static void defaults(struct replicator_options *o)
{
	if (!o->inline_max)
		o->inline_max = INLINE_MAX_DEFAULT;
	if (!o->seal_after_ms)
		o->seal_after_ms = SEAL_AFTER_MS;
	if (!o->segment_delay_ms)
		o->segment_delay_ms = SEGMENT_DELAY_MS;
	if (!o->poll_interval_ms)
		o->poll_interval_ms = POLL_INTERVAL_MS;
	if (!o->max_clock_skew_ms)
		o->max_clock_skew_ms = MAX_CLOCK_SKEW_MS;
	if (!o->object_threads)
		o->object_threads = OBJECT_THREADS;
	if (!o->checkpoint_interval_ms)
		o->checkpoint_interval_ms = CHECKPOINT_INTERVAL_MS;
	if (!o->checkpoint_segments)
		o->checkpoint_segments = CHECKPOINT_SEGMENTS;
	if (!o->segment_keep_ms)
		o->segment_keep_ms = SEGMENT_KEEP_MS;
	if (!o->gone_after_ms)
		o->gone_after_ms = GONE_AFTER_MS;
	if (!o->durability_timeout_ms)
		o->durability_timeout_ms = DURABILITY_TIMEOUT_MS;
}

static void wake(void *ctx)
{
	struct replicator *r = ctx;

	mutex_lock(&r->lock);
	r->generation++;
	cond_broadcast(&r->cond);
	mutex_unlock(&r->lock);
}

static void wake_all(void *ctx)
{
	struct replicator *r = ctx;

	wake(r);
	for (unsigned i = 0; i < r->regions.count; i++) {
		if (r->deliverer[i])
			deliverer_kick(r->deliverer[i]);
	}
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Regions of one provider and one account: a name of a bucket means the same to both. */
static bool beside(const struct replicator_region_options *a, const struct replicator_region_options *b)
{
	const struct store_config *x = &a->store, *y = &b->store;

	return same_text(x->endpoint, y->endpoint) && same_text(x->profile, y->profile) &&
	       same_text(x->credentials_file, y->credentials_file);
}

static void find_home(struct replicator *r, const struct replicator_options *o)
{
	const char *origin = store_origin(r->regions.region[o->home].store);

	for (unsigned i = 0; o->push_copy && i < o->regions; i++) {
		struct region *region = &r->regions.region[i];

		if (i != o->home && store_origin(region->store) &&
			beside(&o->region[i], &o->region[o->home]))
			region->home_origin = origin;
	}
}

static int open_regions(struct replicator *r, const struct replicator_options *o, struct err *err)
{
	const char *names[REGION_MAX];
	unsigned ids[REGION_MAX];

	for (unsigned i = 0; i < o->regions; i++)
		names[i] = o->region[i].store.name;
	int code = region_register(r->cache, names, o->regions, o->force_regions, ids, err);
	if (code < 0)
		return code;
	for (unsigned i = 0; i < o->regions; i++) {
		struct region *region = &r->regions.region[i];

		region->id = ids[i];
		region->home = i == o->home;
		region->optional = o->region[i].optional;
		region->bound = (struct resync_bound){.rows = o->region[i].resync_backlog
								      ? o->region[i].resync_backlog
								      : RESYNC_BACKLOG,
			.age_ms = o->region[i].resync_age_ms ? o->region[i].resync_age_ms
							     : RESYNC_AGE_MS};
		code = region_set_optional(r->cache, ids[i], o->region[i].optional);
		if (code < 0)
			return err_errno(err, code, "cannot register region \"%s\"", names[i]);
		snprintf(region->name, sizeof(region->name), "%s", names[i]);
		snprintf(region->url, sizeof(region->url), "%s",
			o->region[i].store.url ? o->region[i].store.url : "");
		if (!o->region[i].opened) {
			code = store_open(&o->region[i].store, &region->store, err);
			if (code < 0)
				return code;
		} else {
			region->store = o->region[i].opened;
		}
	}
	find_home(r, o);
	return 0;
}

static bool takes_uploads(void *ctx, unsigned id)
{
	struct regions *all = ctx;

	for (unsigned i = 0; i < all->count; i++) {
		if (all->region[i].id == id)
			return region_up(&all->region[i], REGION_WRITE);
	}
	return false;
}

static void told(void *ctx, unsigned region, struct slice key, struct stamp stamp)
{
	durable_told(((struct replicator *)ctx)->durable, region, key, stamp);
}

/* An fsync waits: its journal row is there. */
static void durable_woken(void *ctx)
{
	struct replicator *r = ctx;

	mutex_lock(&r->lock);
	r->seal_now = true;
	r->generation++;
	cond_broadcast(&r->cond);
	mutex_unlock(&r->lock);
	journal_kick(r->cache);
}

static int make_parts(struct replicator *r)
{
	struct durable_options durable = {.regions = &r->regions,
		.inline_max = r->o.inline_max,
		.timeout_ms = r->o.durability_timeout_ms,
		.woken = durable_woken,
		.ctx = r};
	struct sealer_options so = {.inline_max = r->o.inline_max,
		.seal_after_ms = r->o.seal_after_ms,
		.region_up = takes_uploads,
		.region_ctx = &r->regions};
	struct puller_options po = {.regions = &r->regions, .home = r->o.home};
	struct checkpointer_options co = {.cache = r->cache,
		.region = &r->regions.region[r->o.home],
		.interval_ms = r->o.checkpoint_interval_ms,
		.segments = r->o.checkpoint_segments,
		.keep_ms = r->o.segment_keep_ms,
		.look_ms = r->o.checkpoint_interval_ms < CHECKPOINT_LOOK_MS
				   ? r->o.checkpoint_interval_ms
				   : CHECKPOINT_LOOK_MS};

	int code = regions_init(&r->regions);
	r->inline_cache = inline_cache_new(INLINE_CACHE_BYTES);
	if (code == 0 && !r->inline_cache)
		code = -ENOMEM;
	if (code == 0)
		code = sealer_new(r->cache, &so, r->inline_cache, &r->sealer);
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++) {
		struct delivery_options d = {
			.cache = r->cache,
			.region = &r->regions.region[i],
			.inline_cache = r->inline_cache,
			.inline_max = r->o.inline_max,
			.threads = r->o.object_threads,
			.pace = &r->pace,
			.told = told,
			.moved = wake,
			.ctx = r,
		};
		code = announcer_new(&d, &r->announcer[i]);
		if (code == 0)
			code = deliverer_new(&d, &r->deliverer[i]);
	}
	po.merger = (struct merger_options){.sealer = r->sealer,
		.max_clock_skew_ms = r->o.max_clock_skew_ms,
		.inline_max = r->o.inline_max};
	if (code == 0)
		code = puller_new(&po, &r->puller);
	struct last_words_options wo = {.cache = r->cache,
		.regions = &r->regions,
		.home = r->o.home,
		.merger = po.merger,
		.gone_ms = r->o.gone_after_ms,
		.keep_ms = r->o.segment_keep_ms,
		.look_ms = r->o.gone_after_ms / GONE_LOOKS};
	if (code == 0)
		code = checkpointer_new(&co, &r->checkpointer);
	if (code == 0)
		code = last_words_new(&wo, &r->last_words);
	if (code == 0)
		code = reconciler_make(r, &po.merger, wake_all);
	if (code == 0)
		code = ranger_new(&r->regions, &r->ranger);
	if (code == 0)
		code = refresher_new(&r->regions, &r->refresher);
	if (code == 0)
		code = fetcher_new(&r->regions, r->ranger, &r->fetcher);
	if (code == 0)
		code = durable_new(&durable, &r->durable);
	return code;
}

static int check_options(const struct replicator_options *o, struct err *err)
{
	if (o->regions < 1 || o->regions > REGION_MAX)
		return err_set(err, -EINVAL, "a volume has 1 to %d regions, not %u", REGION_MAX,
			o->regions);
	if (o->home >= o->regions)
		return err_set(err, -EINVAL, "the home region is not among the regions");
	if (o->region[o->home].optional)
		return err_set(err, -EINVAL, "the home region cannot be optional");
	for (unsigned i = 0; i < o->regions; i++) {
		const char *name = o->region[i].store.name;
		if (!name || !*name || strlen(name) >= REGION_NAME_SIZE)
			return err_set(err, -EINVAL, "a region's name has 1 to %d bytes",
				REGION_NAME_SIZE - 1);
	}
	return 0;
}

int replicator_new(struct cache *c, const struct replicator_options *o, struct replicator **ret,
	struct err *err)
{
	int code = check_options(o, err);

	if (code < 0)
		return code;
	struct replicator *r = calloc(1, sizeof(*r));
	if (!r)
		return err_errno(err, -ENOMEM, "cannot start replication");
	r->cache = c;
	r->o = *o;
	defaults(&r->o);
	refresh_set_mode(c, o->refresh);
	r->regions.cache = c;
	r->regions.count = o->regions;
	r->regions.changed = wake_all;
	r->regions.changed_ctx = r;
	snprintf(r->regions.volume, sizeof(r->regions.volume), "%s", o->volume ? o->volume : "");
	mutex_init(&r->lock, LOCK_RANK_REPLICATOR);
	cond_init(&r->cond);
	delta_pace_init(&r->pace);
	code = open_regions(r, o, err);
	int parts =
		make_parts(r); /* also after a failure, so that free finds everything initialised */
	if (code == 0 && parts < 0)
		code = err_errno(err, parts, "cannot start replication");
	if (code < 0) {
		replicator_free(r);
		return code;
	}
	/* The strings of the caller's options are not kept. */
	memset(r->o.region, 0, sizeof(r->o.region));
	r->o.volume = NULL;
	*ret = r;
	return 0;
}

void replicator_free(struct replicator *r)
{
	if (!r)
		return;
	replicator_stop(r);
	refresher_free(r->refresher);
	reconciler_free(r->reconciler);
	durable_free(r->durable);
	ranger_free(r->ranger);
	fetcher_free(r->fetcher);
	puller_free(r->puller);
	checkpointer_free(r->checkpointer);
	last_words_free(r->last_words);
	for (unsigned i = 0; i < r->regions.count; i++) {
		deliverer_free(r->deliverer[i]);
		announcer_free(r->announcer[i]);
	}
	sealer_free(r->sealer);
	inline_cache_free(r->inline_cache);
	regions_done(&r->regions);
	delta_pace_done(&r->pace);
	cond_done(&r->cond);
	mutex_done(&r->lock);
	free(r);
}

/* ---- preflight ---- */

struct preflight {
	struct region *region;
	int64_t deadline_ms;
	pthread_t thread;
	bool started;
	int code;
	struct err err;
};

static void *preflight_region(void *arg)
{
	struct preflight *p = arg;

	for (;;) {
		if (region_up(p->region, REGION_READ)) {
			p->code = 0;
			return NULL;
		}
		p->code = region_check(p->region, p->deadline_ms, &p->err);
		if (p->code != -EAGAIN || clock_monotonic_ms() >= p->deadline_ms ||
			atomic_load(&p->region->all->cancel))
			return NULL;
		clock_sleep_ms(20); /* another region's check is finding the volume's id */
	}
}

int replicator_preflight(struct replicator *r, int64_t timeout_ms, struct err *err)
{
	struct preflight *all = calloc(r->regions.count, sizeof(*all));
	int code = 0;

	if (!all)
		return err_errno(err, -ENOMEM, "cannot contact the regions");
	for (unsigned i = 0; i < r->regions.count; i++) {
		all[i].region = &r->regions.region[i];
		all[i].deadline_ms = clock_monotonic_ms() + timeout_ms;
		all[i].started =
			thread_start(&all[i].thread, "preflight", preflight_region, &all[i]) == 0;
		if (!all[i].started)
			preflight_region(&all[i]);
	}
	for (unsigned i = 0; i < r->regions.count; i++) {
		if (all[i].started)
			CHECK(pthread_join(all[i].thread, NULL) == 0);
		bool lasting = all[i].code == -EACCES || all[i].code == -EMEDIUMTYPE ||
			       all[i].code == -EPROTONOSUPPORT;
		if (lasting && code == 0)
			code = err_set(err, all[i].code, "%s", all[i].err.text);
	}
	free(all);
	return code;
}

int replicator_first_sync(struct replicator *r, int64_t timeout_ms, replicator_sync_fn progress,
	void *ctx, struct err *err)
{
	bool complete;

	int code = timeout_ms > 0 ? puller_first(r->puller, clock_monotonic_ms() + timeout_ms,
					    progress, ctx, &complete)
				  : 0;
	if (code == 0 && timeout_ms > 0 && !complete)
		log_warn("not everything that the volume has is here yet: it appears as it arrives "
			 "volume=%s",
			r->regions.volume);
	return code < 0 ? err_errno(err, code, "cannot read what the volume has") : 0;
}

/* ---- steps ---- */

int replicator_step_seal(struct replicator *r, bool *did)
{
	int code = sealer_step(r->sealer, did);

	if (code == 0 && *did)
		wake_all(r);
	return code;
}

int replicator_step_announce(struct replicator *r, unsigned region, bool *did)
{
	int code = announcer_step(r->announcer[region], did);

	if (code == 0 && *did)
		deliverer_kick(r->deliverer[region]);
	return code;
}

int replicator_step_objects(struct replicator *r, unsigned region, unsigned max, bool *did)
{
	return deliverer_step(r->deliverer[region], max, did);
}

int replicator_step_pull(struct replicator *r, bool *did)
{
	int code = puller_step(r->puller, did);

	if (*did)
		wake_all(r);
	return code;
}

void replicator_step_watch(struct replicator *r)
{
	regions_watch(&r->regions);
}

int replicator_step_fetch(struct replicator *r, uint64_t ino)
{
	return fetch_once(&r->regions, ino);
}

/* ---- threads ---- */

static bool is_stopping(struct replicator *r)
{
	mutex_lock(&r->lock);
	bool stop = r->stopping;
	mutex_unlock(&r->lock);
	return stop;
}

/* Until the time is over, stop, or (while seen is given) the generation is another one, which seen
 * then is. */
static void wait_ms(struct replicator *r, int64_t ms, uint64_t *seen, bool unless_hurry)
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

/* A local failure (disk full) is said once, and tried again at leisure. */
static void local_failure(struct replicator *r, const char *what, int code, int *last)
{
	if (code == *last)
		return;
	*last = code;
	if (code < 0)
		log_error("%s stopped, trying again error=\"%s\"", what, strerror(-code));
	else
		log_info("%s goes on", what);
	(void)r;
}

static void *seal_loop(void *arg)
{
	struct replicator *r = arg;
	uint64_t seen = 0;
	int last = 0;

	thread_give_way();
	while (!is_stopping(r)) {
		bool did = false;
		int code = replicator_step_seal(r, &did);

		local_failure(r, "sealing", code, &last);
		if (code < 0)
			wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		if (!did)
			journal_wait(r->cache, &seen, SEAL_IDLE_MS);
		/* So that a burst of changes is not sealed one by one; and while changes go on, what
		 * announcing gathers anyway is sealed in few rounds, not version by version. */
		if (!did || !sealer_late(r->sealer))
			wait_ms(r, did ? SEAL_PAUSE_MS : SEAL_GATHER_MS, NULL, true);
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
		if (code < 0 || !did || is_stopping(r))
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
	while (!is_stopping(r)) {
		int code = 0;

		if (region_begin(region, REGION_WRITE)) {
			code = announce(r, t->region);
			local_failure(r, "announcing", code, &last);
		}
		if (code < 0)
			wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		else
			wait_ms(r, POLL_INTERVAL_MS, &seen, false);
	}
	return NULL;
}

static void *pull_loop(void *arg)
{
	struct replicator *r = arg;
	int last = 0;

	thread_background();
	while (!is_stopping(r)) {
		int64_t pause = r->o.poll_interval_ms, start = clock_monotonic_ms();
		bool did = false;
		int code = replicator_step_pull(r, &did);

		local_failure(r, "merging", code, &last);
		if (code < 0)
			pause = LOCAL_FAILURE_MS;
		else if (did) /* where there is news, a poll in each interval, not after each */
			pause -= clock_monotonic_ms() - start;
		wait_ms(r, pause, NULL, false);
	}
	return NULL;
}

/* What is still to be listed waits while the region has enough to do, so that its outbox stays small. */
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
	if (code < 0 || !seeding || stats.rows >= SEED_ROWS_MAX)
		return code;
	code = region_seed(r->cache, region->id, &seeding);
	*more |= seeding;
	wake_all(r);
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

	while (more && !is_stopping(r) && clock_monotonic_ms() < until) {
		int code = replicator_step_upkeep(r, &more);

		if (code < 0) {
			log_debug("upkeep of the state failed error=%d", code);
			break;
		}
		wait_ms(r, UPKEEP_PAUSE_MS, NULL, false);
	}
	wait_ms(r, until - clock_monotonic_ms(), NULL, false);
}

int replicator_step_evict(struct replicator *r, bool *more)
{
	return evict_step(r->cache, replicator_has_object, r, more);
}

int replicator_step_checkpoint(struct replicator *r, bool *did)
{
	return checkpointer_step(r->checkpointer, did);
}

int replicator_step_last_words(struct replicator *r, bool *did)
{
	int code = last_words_step(r->last_words, did);

	if (*did)
		wake_all(r);
	return code;
}

/* Its own thread: sending one may take minutes. */
static void *checkpoint_loop(void *arg)
{
	struct replicator *r = arg;
	int last = 0;

	thread_background();
	while (!is_stopping(r)) {
		bool did = false;
		int code = replicator_step_checkpoint(r, &did);

		if (code == 0)
			code = replicator_step_last_words(r, &did);
		local_failure(r, "writing a checkpoint", code, &last);
		wait_ms(r, HOUSE_MS, NULL, false);
	}
	return NULL;
}

/* Its own thread: it may have to ask a region about each file. */
static void *evict_loop(void *arg)
{
	struct replicator *r = arg;
	int last = 0;

	thread_background();
	while (!is_stopping(r)) {
		bool more = false;
		int code = replicator_step_evict(r, &more);

		local_failure(r, "eviction", code, &last);
		wait_ms(r, more ? UPKEEP_PAUSE_MS : EVICT_MS, NULL, false);
	}
	return NULL;
}

int replicator_step_durable(struct replicator *r, bool *did)
{
	struct durable_need need;
	uint64_t send = 0;
	int code = durable_step(r->durable, did, &need);
	/* Large files are durable when their objects are there. */
	atomic_store(&r->pace.awaited, need.waiting > 0);

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

	while (!is_stopping(r)) {
		bool did = false;
		int code = replicator_step_durable(r, &did);
		int64_t left = r->durable_next_ms - clock_monotonic_ms();

		local_failure(r, "waiting for regions", code, &last);
		if (left > DURABLE_IDLE_MS)
			left = DURABLE_IDLE_MS;
		if (code < 0)
			wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		else
			wait_ms(r, left > 0 ? left : 1, &seen, false);
	}
	return NULL;
}

/* Its own thread: a probe may hang for seconds. */
static void *watch_loop(void *arg)
{
	struct replicator *r = arg;

	thread_background();
	while (!is_stopping(r)) {
		replicator_step_watch(r);
		wait_ms(r, WATCH_MS, NULL, false);
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
	while (!is_stopping(r)) {
		int64_t pause_ms = 0;
		bool did = false;
		int code = refresher_step(r->refresher, &did, &pause_ms);

		local_failure(r, "fetching ahead", code, &last);
		if (code < 0)
			wait_ms(r, LOCAL_FAILURE_MS, NULL, false);
		else if (pause_ms)
			wait_ms(r, pause_ms, &seen, false);
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
	while (!is_stopping(r)) {
		upkeep(r);
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
	int code = start_threads(r);
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
	puller_set_threaded(r->puller, false);
	atomic_store(&r->regions.cancel, false);
	r->running = false;
}

/* ---- flush ---- */

/* Nobody waits for an optional region that does not answer or is given what it missed before. */
static bool is_waited_for(struct region *region, const struct resync_status *resync)
{
	return !region->optional ||
	       (resync->state == RESYNC_NONE && region_up(region, REGION_WRITE));
}

static int rows_waiting(struct replicator *r, struct slice key, bool *waiting, uint64_t *left)
{
	uint64_t bits = 0, waited = 0;
	struct conn *conn;

	int code = cache_read_begin(r->cache, &conn);
	if (code < 0)
		return code;
	*left = 0;
	code = outbox_waiting(conn, key, &bits);
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++) {
		struct region *region = &r->regions.region[i];
		struct resync_status resync = {0};
		struct outbox_stats stats = {0};
		bool seeding = false;

		code = resync_get(conn, region->id, &resync);
		if (code < 0 || !is_waited_for(region, &resync))
			continue;
		waited |= (uint64_t)1 << region->id;
		code = region_seeding(conn, region->id, &seeding);
		if (code == 0)
			code = outbox_stats(conn, region->id, &stats);
		if (seeding || resync.state != RESYNC_NONE)
			bits |= (uint64_t)1 << region->id;
		*left += stats.rows;
	}
	bits &= waited;
	cache_read_end(conn);
	*waiting = bits != 0;
	return code;
}

struct flush {
	struct replicator *r;
	int64_t start_ms, told_ms;
	int64_t timeout_ms; /* < 0: none */
	replicator_progress_fn progress;
	void *ctx;
	atomic_bool cancel;
	bool sealed; /* guarded by r->lock, as code is */
	int code;
};

static bool flush_over(const struct flush *f)
{
	return f->timeout_ms >= 0 && clock_monotonic_ms() - f->start_ms >= f->timeout_ms;
}

static int flush_tell(struct flush *f, uint64_t left)
{
	int64_t now = clock_monotonic_ms();

	if (!f->progress || now - f->told_ms < 1000)
		return 0;
	f->told_ms = now;
	return f->progress(f->ctx, left) ? -ECANCELED : 0;
}

/* ---- its sealing, which may take long; its caller's progress must not be called under locks ---- */

static int flush_tick(void *ctx)
{
	struct flush *f = ctx;

	return atomic_load(&f->cancel) ? -ECANCELED : 0;
}

static void *flush_seal(void *arg)
{
	struct flush *f = arg;
	int code = sealer_seal_all(f->r->sealer, flush_tick, f);

	mutex_lock(&f->r->lock);
	f->code = code;
	f->sealed = true;
	cond_broadcast(&f->r->cond);
	mutex_unlock(&f->r->lock);
	return NULL;
}

static bool flush_is_sealed(struct flush *f)
{
	int64_t until = clock_monotonic_ms() + FLUSH_POLL_MS;

	mutex_lock(&f->r->lock);
	while (!f->sealed && clock_monotonic_ms() < until)
		cond_wait_ms(&f->r->cond, &f->r->lock, FLUSH_POLL_MS);
	bool sealed = f->sealed;
	mutex_unlock(&f->r->lock);
	return sealed;
}

static int flush_watch(struct flush *f)
{
	while (!flush_is_sealed(f)) {
		uint64_t left = 0;
		bool waiting;
		int code = flush_over(f) ? -ETIMEDOUT : 0;

		if (code == 0)
			code = rows_waiting(f->r, slice_of(""), &waiting, &left);
		if (code == 0)
			code = flush_tell(f, left);
		if (code < 0)
			return code;
	}
	return 0;
}

static int flush_seal_all(struct flush *f)
{
	pthread_t thread;
	int code = thread_start(&thread, "flush", flush_seal, f);

	if (code < 0)
		return code;
	code = flush_watch(f);
	atomic_store(&f->cancel, true);
	pthread_join(thread, NULL);
	return code ? code : f->code;
}

static int flush_wait(struct flush *f, struct slice key, struct err *err)
{
	struct replicator *r = f->r;

	for (;;) {
		bool waiting;
		uint64_t left;

		int code = rows_waiting(r, key, &waiting, &left);
		if (code < 0)
			return err_errno(err, code, "cannot read what is left");
		if (!waiting)
			return 0;
		if (flush_over(f))
			return err_set(err, -ETIMEDOUT,
				"%llu changes are not in every region yet\n"
				"hint: `meridian status` names the region and the cause; they are "
				"sent "
				"when it answers",
				(unsigned long long)left);
		code = flush_tell(f, left);
		if (code < 0)
			return code;
		if (is_stopping(r))
			return err_set(err, -ECANCELED, "replication is being stopped");
		wait_ms(r, FLUSH_POLL_MS, NULL, false);
	}
}

int replicator_flush(struct replicator *r, struct slice key, bool wait, int64_t timeout_ms,
	replicator_progress_fn progress, void *ctx, struct err *err)
{
	struct flush f = {.r = r,
		.start_ms = clock_monotonic_ms(),
		.told_ms = clock_monotonic_ms() - 1000,
		.timeout_ms = wait ? timeout_ms : -1,
		.progress = progress,
		.ctx = ctx};
	int code = flush_seal_all(&f);

	if (code == -ETIMEDOUT)
		return err_set(err, code,
			"not all changes are sealed yet\n"
			"hint: `meridian status` shows how many there are; they go "
			"on being sealed and sent");
	if (code == -ECANCELED)
		return code;
	if (code < 0)
		return err_errno(err, code, "cannot seal the changes");
	mutex_lock(&r->lock);
	r->hurry = true;
	mutex_unlock(&r->lock);
	if (wait)
		atomic_fetch_add(&r->pace.hurry, 1);
	wake_all(r);
	code = wait ? flush_wait(&f, key, err) : 0;
	if (wait)
		atomic_fetch_sub(&r->pace.hurry, 1);
	mutex_lock(&r->lock);
	r->hurry = false;
	mutex_unlock(&r->lock);
	return code;
}
