/*
 * When a region is scanned: interval after the last whole scan, a tenth earlier or later by chance, so
 * that servers that were started together drift apart.
 *
 * Several servers. Whoever ends a scan leaves a mark in the bucket, RECONCILED_KEY; who finds one that
 * is younger than nine tenths of the interval counts the region as scanned. It saves requests and
 * decides nothing: two that scan at once find and do the same.
 *
 * A bucket without the mark was never scanned: it is, as soon as it answers.
 *
 * Lock: reconciler.lock, a leaf.
 */
#include "replicator/parts.h"
#include "replicator/reconcile_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cache/meta.h"
#include "replicator/internal.h"
#include "src/base/clock.h"
#include "src/base/json.h"
#include "src/base/log.h"
#include "src/base/random.h"

#define RECONCILED_KEY ".meridian/reconciled.json"

enum { RETRY_MS = 60000, IDLE_MS = 60000, UNANSWERED_MS = 1000, BUSY_MS = 250 };
enum { GRACE_MS = 300000, THREADS = 8, MAX_DELETE_PERCENT = 50 };

int reconciler_new(const struct reconciler_options *o, struct reconciler **ret)
{
	struct reconciler *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->o = *o;
	mutex_init(&r->lock, LOCK_RANK_LEAF);
	cond_init(&r->cond);
	*ret = r;
	return 0;
}

int reconciler_make(
	struct replicator *r, const struct merger_options *merger, void (*moved)(void *ctx))
{
	const struct replicator_options *o = &r->o;
	struct reconciler_options ro = {.regions = &r->regions,
		.merger = *merger,
		.interval_ms = o->reconcile_interval_ms,
		.grace_ms = o->reconcile_grace_ms ? o->reconcile_grace_ms : GRACE_MS,
		.max_delete = o->max_delete,
		.max_delete_percent = o->max_delete_percent,
		.threads = THREADS,
		.moved = moved,
		.ctx = r};

	if (!o->max_delete && !o->max_delete_percent)
		ro.max_delete_percent = MAX_DELETE_PERCENT;
	return reconciler_new(&ro, &r->reconciler);
}

void reconciler_free(struct reconciler *r)
{
	if (!r)
		return;
	cond_done(&r->cond);
	mutex_done(&r->lock);
	free(r);
}

void reconciler_status(struct reconciler *r, unsigned region, struct reconcile_status *ret)
{
	mutex_lock(&r->lock);
	*ret = r->status[region];
	mutex_unlock(&r->lock);
}

/* ---- the last scan, over restarts ---- */

static void last_name(const struct region *region, char name[REGION_NAME_SIZE + 16])
{
	snprintf(name, REGION_NAME_SIZE + 16, "reconciled_%s", region->name);
}

static int load(struct reconciler *r, unsigned index)
{
	char name[REGION_NAME_SIZE + 16], value[32] = "";
	struct conn *conn;

	if (r->loaded[index])
		return 0;
	last_name(&r->o.regions->region[index], name);
	int code = cache_read_begin(r->o.regions->cache, &conn);
	if (code < 0)
		return code;
	code = meta_get_text(conn, name, value, sizeof(value));
	cache_read_end(conn);
	if (code < 0 && code != -ENOENT)
		return code;
	r->loaded[index] = true;
	mutex_lock(&r->lock);
	r->status[index].last_ms = strtoll(value, NULL, 10);
	mutex_unlock(&r->lock);
	return 0;
}

static int save(struct reconciler *r, unsigned index, int64_t ms)
{
	char name[REGION_NAME_SIZE + 16], value[32];
	struct conn *conn;

	last_name(&r->o.regions->region[index], name);
	snprintf(value, sizeof(value), "%" PRId64, ms);
	int code = cache_begin_lazy(r->o.regions->cache, &conn);
	if (code < 0)
		return code;
	code = meta_set_text(conn, name, value);
	if (code < 0) {
		cache_rollback(conn);
		return code;
	}
	return cache_commit(conn);
}

static void set_last(struct reconciler *r, unsigned index, int64_t ms, bool elsewhere)
{
	mutex_lock(&r->lock);
	r->status[index].elsewhere = elsewhere;
	if (!elsewhere)
		r->status[index].last_ms = ms;
	mutex_unlock(&r->lock);
}

/* ---- the mark ---- */

/* Age of the mark; -1: there is none, or no answer. */
static int64_t mark_age(struct region *region)
{
	struct store_call call = region_call(region, 0);
	struct store_object object = {0};
	struct store_error error = {0};

	enum store_result result =
		store_head(region->store, RECONCILED_KEY, &object, NULL, &call, &error);
	region_end(region, REGION_READ, result, &error, "head " RECONCILED_KEY);
	if (result != STORE_OK)
		return -1;
	int64_t age = clock_realtime_ms() + store_clock_skew_ms(region->store) - object.mtime_ms;
	return age > 0 ? age : 0;
}

static void put_mark(struct reconciler *r, unsigned index, const struct reconcile_counts *counts)
{
	struct region *region = &r->o.regions->region[index];
	struct store_call call = region_call(region, 0);
	struct store_error error = {0};
	struct json *j = json_new();
	char node[17];

	snprintf(node, sizeof(node), "%016" PRIx64, cache_node(region->all->cache));
	json_put_str(j, "node", node);
	json_put_int(j, "objects", (int64_t)counts->objects);
	json_put_int(j, "finished", clock_realtime_ms());
	AUTO_FREE char *text = json_text(j);
	json_free(j);
	if (!text || !region_begin(region, REGION_WRITE))
		return;
	enum store_result result = store_put_buf(
		region->store, RECONCILED_KEY, text, strlen(text), NULL, NULL, NULL, &call, &error);
	region_end(region, REGION_WRITE, result, &error, "put " RECONCILED_KEY);
}

/* ---- the step ---- */

static void log_counts(const struct region *region, const struct reconcile_counts *c)
{
	uint64_t any = 0;

	for (unsigned f = 0; f < FOUND_KINDS; f++)
		any += c->found[f];
	if (any)
		log_info("reconciled region=%s objects=%" PRIu64 " new=%" PRIu64
			 " overwritten=%" PRIu64 " removed=%" PRIu64 " missed=%" PRIu64
			 " stale=%" PRIu64 " missing=%" PRIu64 " held=%" PRIu64 " refused=%" PRIu64
			 " failed=%" PRIu64,
			region->name, c->objects, c->found[FOUND_PUT], c->found[FOUND_OVERWRITE],
			c->found[FOUND_DELETE], c->found[FOUND_MISSED], c->found[FOUND_STALE],
			c->found[FOUND_MISSING], c->found[FOUND_HELD], c->found[FOUND_INVALID],
			c->found[FOUND_FAILED]);
}

int reconciler_finished(struct reconciler *r, unsigned index, const struct reconcile_counts *counts)
{
	int64_t now = clock_realtime_ms();

	log_counts(&r->o.regions->region[index], counts);
	put_mark(r, index, counts);
	parts_sweep(&r->o.regions->region[index]);
	set_last(r, index, now, false);
	r->loaded[index] = true;
	return save(r, index, now);
}

static int64_t with_chance(int64_t interval_ms)
{
	return interval_ms - interval_ms / 10 +
	       (int64_t)random_below((uint64_t)interval_ms / 5 + 1);
}

/* How long until the region is to be thought of again; it is scanned when that time has come. */
static int scan_if_due(struct reconciler *r, unsigned index, int64_t *wait_ms)
{
	struct region *region = &r->o.regions->region[index];
	const struct reconcile_request q = {.region = index, .path = {"", 0}};
	struct reconcile_counts counts;
	struct reconcile_status status;
	struct err err = {0};
	int code = load(r, index);

	*wait_ms = RETRY_MS;
	if (code < 0)
		return code;
	reconciler_status(r, index, &status);
	int64_t since = clock_realtime_ms() - status.last_ms;
	if (status.last_ms && since >= 0 && since < r->o.interval_ms * 9 / 10) {
		*wait_ms = with_chance(r->o.interval_ms) - since;
		return 0;
	}
	if (!region_up(region, REGION_READ)) {
		*wait_ms = UNANSWERED_MS;
		return 0;
	}
	int64_t age = mark_age(region);
	if (age >= 0 && age < r->o.interval_ms * 9 / 10) {
		set_last(r, index, 0, true);
		*wait_ms = with_chance(r->o.interval_ms) - age;
		return 0;
	}
	code = reconciler_scan(r, &q, &counts, &err);
	if (code == 0) {
		*wait_ms = with_chance(r->o.interval_ms);
		return 0;
	}
	if (code != -ECANCELED)
		log_info("region not reconciled, trying again region=%s error=\"%s\"", region->name,
			err.text);
	return code == -ENOSPC || code == -EIO || code == -ENOMEM ? code : 0;
}

int reconciler_step(struct reconciler *r, int64_t *next_ms)
{
	int64_t now = clock_monotonic_ms();
	int code = 0;

	*next_ms = now + IDLE_MS;
	for (unsigned i = 0; r->o.interval_ms && i < r->o.regions->count; i++) {
		int64_t wait_ms = RETRY_MS;

		if (now >= r->wait_until_ms[i]) {
			int one = scan_if_due(r, i, &wait_ms);
			if (one < 0)
				code = one;
			if (wait_ms < UNANSWERED_MS)
				wait_ms = UNANSWERED_MS;
			r->wait_until_ms[i] = clock_monotonic_ms() + wait_ms;
		}
		if (r->wait_until_ms[i] < *next_ms)
			*next_ms = r->wait_until_ms[i];
	}
	return code;
}

/* ---- the thread ---- */

/* True: it is over. */
static bool wait_until(struct reconciler *r, int64_t next_ms)
{
	mutex_lock(&r->lock);
	while (!r->stopping && clock_monotonic_ms() < next_ms)
		cond_wait_ms(&r->cond, &r->lock, next_ms - clock_monotonic_ms());
	bool over = r->stopping;
	mutex_unlock(&r->lock);
	return over;
}

/* Its own thread: a scan takes as long as the listing. */
static void *loop(void *arg)
{
	struct reconciler *r = arg;
	int64_t next_ms = 0;
	int last = 0;

	thread_background();
	while (!wait_until(r, next_ms)) {
		int code = reconciler_step(r, &next_ms);

		if (code < 0 && code != last)
			log_error(
				"reconciling stopped, trying again error=\"%s\"", strerror(-code));
		last = code;
	}
	return NULL;
}

int reconciler_start(struct reconciler *r)
{
	mutex_lock(&r->lock);
	r->stopping = false;
	mutex_unlock(&r->lock);
	int code = thread_start(&r->thread, "reconcile", loop, r);
	r->started = code == 0;
	return code;
}

void reconciler_stop(struct reconciler *r)
{
	mutex_lock(&r->lock);
	r->stopping = true;
	cond_broadcast(&r->cond);
	mutex_unlock(&r->lock);
	if (r->started)
		CHECK(pthread_join(r->thread, NULL) == 0);
	r->started = false;
}

/* ---- for the replicator ---- */

int replicator_step_reconcile(struct replicator *r, unsigned region, bool *did)
{
	const struct reconcile_request q = {.region = region, .path = {"", 0}, .alone = true};
	struct reconcile_counts counts;
	struct err err = {0};
	int code = reconciler_scan(r->reconciler, &q, &counts, &err);

	*did = counts.waiting > 0;
	for (unsigned f = 0; f < FOUND_KINDS; f++)
		*did |= counts.found[f] > 0;
	return code == -EHOSTDOWN || code == -EAGAIN || code == -EBUSY ? 0 : code;
}

static int scan_after_others(struct replicator *r, const struct reconcile_request *q,
	struct reconcile_counts *counts, struct err *err)
{
	for (;;) {
		int code = reconciler_scan(r->reconciler, q, counts, err);

		if (code != -EBUSY || atomic_load(&r->regions.cancel))
			return code;
		if (q->progress && q->progress(q->ctx, counts))
			return err_errno(err, -ECANCELED, "reconcile");
		clock_sleep_ms(BUSY_MS);
	}
}

int replicator_reconcile(struct replicator *r, const char *region,
	struct reconcile_request *request,
	int (*done)(void *ctx, const char *region, const struct reconcile_counts *counts),
	struct err *err)
{
	struct reconcile_counts counts;
	bool known = false;

	for (unsigned i = 0; i < r->regions.count; i++) {
		if (*region && strcmp(region, r->regions.region[i].name) != 0)
			continue;
		known = true;
		if (!*region && r->regions.region[i].optional)
			continue;
		request->region = i;
		int code = scan_after_others(r, request, &counts, err);
		if (code < 0)
			return code;
		if (done && done(request->ctx, r->regions.region[i].name, &counts))
			return err_errno(err, -ECANCELED, "reconcile");
	}
	return known ? 0 : err_set(err, -EINVAL, "\"%s\": no region of this volume", region);
}
