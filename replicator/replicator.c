/*
 * The replicator's assembly, and the steps that are no file's own. Its threads are in threads.c, a flush in
 * flush.c.
 */
#include "replicator/internal.h"

#include <errno.h>
#include <stdio.h>

#include "cache/journal.h"
#include "src/base/clock.h"
#include "src/base/log.h"

#define TRASH_KEEP_MS (30 * INT64_C(86400000))

enum {
	SEAL_AFTER_MS = 5000,
	SEGMENT_DELAY_MS = 250,
	POLL_INTERVAL_MS = 1000,
	MAX_CLOCK_SKEW_MS = 300000,
	OBJECT_THREADS = 64,
	RESYNC_BACKLOG = 1000000,
	RESYNC_AGE_MS = 86400000,
	DURABILITY_TIMEOUT_MS = 30000,
	INLINE_CACHE_BYTES = 32 << 20,
	CHECKPOINT_INTERVAL_MS = 3600000,
	CHECKPOINT_SEGMENTS = 400, /* a new server reads that many at most, one request each */
	CHECKPOINT_LOOK_MS = 5000,
	SEGMENT_KEEP_MS = 7 * 86400000,
	GONE_AFTER_MS = 86400000,
	TRASH_INTERVAL_MS = 86400000,
	TRASH_LOOKS = 24, /* for whether it is time, within the interval */
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
	if (!o->trash_keep_ms)
		o->trash_keep_ms = TRASH_KEEP_MS;
	if (!o->gone_after_ms)
		o->gone_after_ms = GONE_AFTER_MS;
	if (!o->durability_timeout_ms)
		o->durability_timeout_ms = DURABILITY_TIMEOUT_MS;
}

void replicator_wake(void *ctx)
{
	struct replicator *r = ctx;

	mutex_lock(&r->lock);
	r->generation++;
	cond_broadcast(&r->cond);
	mutex_unlock(&r->lock);
}

void replicator_wake_all(void *ctx)
{
	struct replicator *r = ctx;

	replicator_wake(r);
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
static bool beside(
	const struct replicator_region_options *a, const struct replicator_region_options *b)
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

		if (i == o->home)
			continue;
		if (origin && store_origin(region->store) &&
			beside(&o->region[i], &o->region[o->home]))
			region->home_origin = origin;
		region->apart = !region->home_origin;
	}
}

static int open_store(struct replicator *r, const struct replicator_region_options *o,
	struct region *region, struct err *err)
{
	struct store_config config = o->store;
	struct conn *conn;
	int code = cache_read_begin(r->cache, &conn);

	if (code == 0) {
		code = region_used(conn, region->id, &region->used);
		cache_read_end(conn);
	}
	if (code < 0)
		return err_errno(err, code, "cannot read region \"%s\"", config.name);
	config.used = region->used;
	region->store = o->opened;
	return region->store ? 0 : store_open(&config, &region->store, err);
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
		code = open_store(r, &o->region[i], region, err);
		if (code < 0)
			return code;
	}
	find_home(r, o);
	return 0;
}

static bool takes_uploads(void *ctx, unsigned id)
{
	struct regions *all = &((struct replicator *)ctx)->regions;

	for (unsigned i = 0; i < all->count; i++) {
		if (all->region[i].id == id)
			return region_up(&all->region[i], REGION_WRITE);
	}
	return false;
}

static bool is_waiting(void *ctx, unsigned region, struct slice key)
{
	return delta_pace_waiting(&((struct replicator *)ctx)->pace, region, key);
}

static bool is_sending(void *ctx, unsigned region, struct slice key)
{
	return delta_pace_sending(&((struct replicator *)ctx)->pace, region, key);
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
		.region_waits = is_waiting,
		.region_busy = is_sending,
		.region_ctx = r,
		.set_size = r->o.seal_set_size,
		.set_max = r->o.seal_set_max};
	struct puller_options po = {.regions = &r->regions, .home = r->o.home};
	struct checkpointer_options co = {.cache = r->cache,
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
			.moved = replicator_wake,
			.ctx = r,
		};
		code = announcer_new(&d, &r->announcer[i]);
		if (code == 0)
			code = deliverer_new(&d, &r->deliverer[i]);
	}
	po.merger = (struct merger_options){.sealer = r->sealer,
		.max_clock_skew_ms = r->o.max_clock_skew_ms,
		.inline_max = r->o.inline_max,
		.regions = &r->regions};
	if (code == 0)
		code = puller_new(&po, &r->puller);
	struct last_words_options wo = {.cache = r->cache,
		.regions = &r->regions,
		.home = r->o.home,
		.merger = po.merger,
		.gone_ms = r->o.gone_after_ms,
		.keep_ms = r->o.segment_keep_ms,
		.look_ms = r->o.gone_after_ms / GONE_LOOKS};
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++) {
		co.region = &r->regions.region[i];
		co.index = i;
		co.puller = i == r->o.home ? NULL : r->puller;
		code = checkpointer_new(&co, &r->checkpointer[i]);
	}
	if (code == 0)
		code = last_words_new(&wo, &r->last_words);
	struct trash_options to = {.regions = &r->regions,
		.keep_ms = r->o.trash_keep_ms,
		.interval_ms = TRASH_INTERVAL_MS < r->o.trash_keep_ms ? TRASH_INTERVAL_MS
								      : r->o.trash_keep_ms};
	to.look_ms = to.interval_ms / TRASH_LOOKS;
	if (code == 0)
		code = trash_new(&to, &r->trash);
	if (code == 0)
		code = reconciler_make(r, &po.merger, replicator_wake_all);
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
	r->regions.max_clock_skew_ms = r->o.max_clock_skew_ms;
	r->regions.changed = replicator_wake_all;
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
	for (unsigned i = 0; i < r->regions.count; i++)
		checkpointer_free(r->checkpointer[i]);
	last_words_free(r->last_words);
	trash_free(r->trash);
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
		bool lasting = all[i].code == -EMEDIUMTYPE || all[i].code == -EPROTONOSUPPORT ||
			       (all[i].code == -EACCES && !region_is_used(all[i].region));
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
		replicator_wake_all(r);
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
		replicator_wake_all(r);
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
