/*
 * A scan of one region: three phases, each a set of ranges, worked off by a few threads.
 *
 *   LIST     the listing, page by page, joined with what is known of the bucket
 *            (cache/object_seen.h). What differs is looked at; known objects that are not listed are
 *            kept in a table, because their number decides what becomes of them
 *   GONE     those, unless there are too many (max_delete)
 *   ENTRIES  live entries of which no object is known there
 *
 * The last two run only when the whole listing was seen: no answer means "unknown", never "gone".
 *
 * A thread takes up to SCAN_BATCH objects that wait for a look, or else a page of a range that nobody
 * has. So one range is as fast as many where the looks cost more than the listing, and many ranges
 * are listed at once where they do not.
 *
 * Memory: a page is listed when nothing waits for a look, so two pages for each thread, whatever the
 * region holds.
 *
 * Lock: scan.lock, over a few instructions only; no request, transaction or report is made under it.
 */
#include "replicator/reconcile_internal.h"

#include <errno.h>
#include <stdio.h>

#include "src/base/clock.h"
#include "src/base/log.h"

enum { THREADS_MAX = 64, PROGRESS_MS = 1000, POLL_MS = 200, VOLUME_TIMEOUT_MS = 10000 };

const char *reconcile_found_name(enum reconcile_found f)
{
	static const char *const names[FOUND_KINDS] = {
		[FOUND_PUT] = "new",
		[FOUND_OVERWRITE] = "overwritten",
		[FOUND_DELETE] = "removed",
		[FOUND_MISSED] = "missed",
		[FOUND_STALE] = "stale",
		[FOUND_MISSING] = "missing",
		[FOUND_HELD] = "held",
		[FOUND_INVALID] = "refused",
		[FOUND_FAILED] = "failed",
	};

	return names[f];
}

/* ---- what the threads share ---- */

bool scan_stopped(struct scan *s)
{
	mutex_lock(&s->lock);
	bool stop = s->stop || atomic_load(&s->region->all->cancel);
	mutex_unlock(&s->lock);
	return stop;
}

void scan_fail(struct scan *s, int error, const struct err *err)
{
	mutex_lock(&s->lock);
	if (!s->stop) {
		s->stop = true;
		s->error = error;
		if (err)
			s->err = *err;
	}
	cond_broadcast(&s->cond);
	mutex_unlock(&s->lock);
}

void scan_add(struct scan *s, uint64_t *counter, uint64_t n)
{
	mutex_lock(&s->lock);
	*counter += n;
	mutex_unlock(&s->lock);
}

/* Without helpers nobody else empties the list: it is reported at once. */
static void report_alone(struct scan *s, enum reconcile_found what, const char *key)
{
	if (s->q->found && s->q->found(s->q->ctx, what, key))
		scan_fail(s, -ECANCELED, NULL);
}

void scan_found(struct scan *s, enum reconcile_found what, const char *key)
{
	scan_add(s, &s->counts.found[what], 1);
	if (!s->q->found)
		return;
	if (s->q->alone) {
		report_alone(s, what, key);
		return;
	}
	char *copy = strdup(key);
	if (!copy)
		return;
	mutex_lock(&s->lock);
	while (s->finding_count == SCAN_FINDINGS && !s->stop)
		cond_wait(&s->cond, &s->lock);
	if (s->stop)
		free(copy);
	else
		s->findings[s->finding_count++] = (struct finding){what, copy};
	mutex_unlock(&s->lock);
}

void scan_request_failed(struct scan *s, const char *key, const char *what,
	enum store_result result, const struct store_error *error)
{
	struct err err = {0};
	char text[256];

	if (result == STORE_LOCAL && error->local_errno == ECANCELED) {
		scan_fail(s, -ECANCELED, NULL);
		return;
	}
	store_failure_text(text, sizeof(text), what, result, error);
	if (key && region_up(s->region, REGION_READ)) {
		log_warn("object not reconciled region=%s key=\"%s\" error=\"%s\"", s->region->name,
			key, text);
		scan_found(s, FOUND_FAILED, key);
		return;
	}
	scan_fail(s, err_set(&err, -EHOSTDOWN, "region \"%s\": %s", s->region->name, text), &err);
}

static void candidate_done(struct candidate *c)
{
	free(c->key);
	*c = (struct candidate){0};
}

/* Under the lock. */
static bool make_room(struct scan *s)
{
	size_t room = s->room ? 2 * s->room : 256;
	struct candidate *queue;

	if (s->count < s->room)
		return true;
	queue = calloc(room, sizeof(*queue));
	if (!queue)
		return false;
	for (size_t i = 0; i < s->count; i++)
		queue[i] = s->queue[(s->head + i) % s->room];
	free(s->queue);
	s->queue = queue;
	s->head = 0;
	s->room = room;
	return true;
}

void scan_push(struct scan *s, struct candidate *c)
{
	mutex_lock(&s->lock);
	bool ok = make_room(s);
	if (ok) {
		s->queue[(s->head + s->count++) % s->room] = *c;
		cond_signal(&s->cond);
	}
	mutex_unlock(&s->lock);
	if (!ok) {
		candidate_done(c);
		scan_fail(s, -ENOMEM, NULL);
	}
}

/* ---- work ---- */

struct task {
	struct range *range;
	struct candidate batch[SCAN_BATCH];
	unsigned count;
};

/* Under the lock. */
static bool find_task(struct scan *s, struct task *t)
{
	size_t share = s->count / s->o->threads;

	t->range = NULL;
	if (share > SCAN_BATCH)
		share = SCAN_BATCH;
	for (t->count = 0; s->count && (!t->count || t->count < share); s->count--) {
		t->batch[t->count++] = s->queue[s->head];
		s->head = (s->head + 1) % s->room;
	}
	if (t->count)
		return true;
	for (unsigned i = 0; i < s->ranges; i++) {
		/* In this order: done is of the thread that is busy with it. */
		if (s->range[i].busy || s->range[i].done)
			continue;
		t->range = &s->range[i];
		t->range->busy = true;
		return true;
	}
	return false;
}

/* False: the phase is over, or the scan. */
static bool take(struct scan *s, struct task *t)
{
	bool found = false;

	mutex_lock(&s->lock);
	while (!s->stop && !atomic_load(&s->region->all->cancel) && !(found = find_task(s, t)) &&
		s->active)
		cond_wait_ms(&s->cond, &s->lock, POLL_MS);
	s->active += found;
	mutex_unlock(&s->lock);
	return found;
}

static void put_back(struct scan *s, struct task *t)
{
	for (unsigned i = 0; i < t->count; i++)
		candidate_done(&t->batch[i]);
	mutex_lock(&s->lock);
	if (t->range)
		t->range->busy = false;
	s->active--;
	cond_broadcast(&s->cond);
	mutex_unlock(&s->lock);
}

static void work(struct scan *s)
{
	struct task *t = calloc(1, sizeof(*t));

	if (!t) {
		scan_fail(s, -ENOMEM, NULL);
		return;
	}
	while (take(s, t)) {
		if (t->count)
			scan_batch(s, t->batch, t->count);
		else
			scan_page(s, t->range);
		put_back(s, t);
	}
	free(t);
}

static void *work_thread(void *arg)
{
	struct scan *s = arg;

	thread_background();
	work(s);
	mutex_lock(&s->lock);
	s->workers--;
	cond_broadcast(&s->cond);
	mutex_unlock(&s->lock);
	return NULL;
}

/* ---- the caller's thread ---- */

static void report(struct scan *s)
{
	struct finding *f = calloc(SCAN_FINDINGS, sizeof(*f));
	unsigned count = 0;

	if (!f)
		return;
	mutex_lock(&s->lock);
	count = s->finding_count;
	memcpy(f, s->findings, count * sizeof(*f));
	s->finding_count = 0;
	cond_broadcast(&s->cond);
	mutex_unlock(&s->lock);
	for (unsigned i = 0; i < count; i++) {
		if (!scan_stopped(s) && s->q->found(s->q->ctx, f[i].what, f[i].key))
			scan_fail(s, -ECANCELED, NULL);
		free(f[i].key);
	}
	free(f);
}

static void tell(struct scan *s, int64_t *told_ms)
{
	struct reconcile_counts counts;

	if (s->q->found)
		report(s);
	if (clock_monotonic_ms() - *told_ms < PROGRESS_MS)
		return;
	*told_ms = clock_monotonic_ms();
	mutex_lock(&s->lock);
	counts = s->counts;
	mutex_unlock(&s->lock);
	mutex_lock(&s->r->lock);
	s->r->status[s->q->region].under_way = counts;
	mutex_unlock(&s->r->lock);
	if (s->q->progress && s->q->progress(s->q->ctx, &counts))
		scan_fail(s, -ECANCELED, NULL);
}

/* Waits for the workers and tells the caller what they find. */
static void attend(struct scan *s)
{
	int64_t told_ms = clock_monotonic_ms();
	bool over = false;

	while (!over) {
		mutex_lock(&s->lock);
		if (s->workers && !s->finding_count)
			cond_wait_ms(&s->cond, &s->lock, POLL_MS);
		over = s->workers == 0;
		mutex_unlock(&s->lock);
		tell(s, &told_ms);
	}
}

static void run_workers(struct scan *s)
{
	pthread_t thread[THREADS_MAX];
	unsigned started = 0;

	if (s->q->alone) {
		work(s);
		return;
	}
	for (; started < s->o->threads && started < THREADS_MAX; started++) {
		mutex_lock(&s->lock);
		s->workers++;
		mutex_unlock(&s->lock);
		int r = thread_start(&thread[started], "reconcile", work_thread, s);
		if (r == 0)
			continue;
		mutex_lock(&s->lock);
		s->workers--;
		mutex_unlock(&s->lock);
		if (!started)
			scan_fail(s, r, NULL);
		break;
	}
	attend(s);
	while (started)
		CHECK(pthread_join(thread[--started], NULL) == 0);
}

static void clear_ranges(struct scan *s)
{
	for (unsigned i = 0; i < s->ranges; i++)
		range_done(&s->range[i]);
	s->ranges = 0;
}

static void run_phase(struct scan *s, enum phase phase)
{
	int r = 0;

	clear_ranges(s);
	if (phase == PHASE_LIST) {
		r = scan_split(s);
	} else {
		s->range[0] = (struct range){.phase = phase};
		s->ranges = 1;
	}
	if (r < 0)
		scan_fail(s, r, NULL);
	else if (!scan_stopped(s))
		run_workers(s);
}

/* ---- what is gone ---- */

static int change_gone(struct scan *s)
{
	struct conn *conn;
	int r = cache_begin_lazy(s->cache, &conn);

	if (r < 0)
		return r;
	r = object_gone_clear(conn, s->region->id);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

struct held {
	struct scan *s;
	char after[STORE_KEY_MAX + 1];
	struct {
		char *key;
	} row[SCAN_PAGE];
	unsigned count;
};

static int add_held(void *ctx, const char *key, const struct object_seen *row UNUSED)
{
	struct held *h = ctx;

	h->row[h->count].key = strdup(key);
	if (!h->row[h->count].key)
		return -ENOMEM;
	h->count++;
	snprintf(h->after, sizeof(h->after), "%s", key);
	return 0;
}

/* One page of them is reported; the counts have them all. */
static int report_held(struct scan *s)
{
	AUTO_FREE struct held *h = calloc(1, sizeof(*h));
	struct conn *conn;
	int r = h ? cache_read_begin(s->cache, &conn) : -ENOMEM;

	if (r < 0)
		return r;
	h->s = s;
	r = object_gone_scan(conn, s->region->id, "", SCAN_PAGE, add_held, h);
	cache_read_end(conn);
	for (unsigned i = 0; i < h->count; i++) {
		if (r == 0 && s->q->found && s->q->found(s->q->ctx, FOUND_HELD, h->row[i].key))
			r = -ECANCELED;
		free(h->row[i].key);
	}
	return r;
}

static void set_limit(struct scan *s)
{
	uint64_t share = s->known / 100 * s->o->max_delete_percent +
			 s->known % 100 * s->o->max_delete_percent / 100;

	if (s->q->deletes != DELETES_GUARDED)
		s->removals_max = UINT64_MAX;
	else if (s->o->max_delete_percent)
		s->removals_max = share > RECONCILE_DELETES_MIN ? share : RECONCILE_DELETES_MIN;
	else
		s->removals_max = s->o->max_delete == MAX_DELETE_NONE ? 0 : s->o->max_delete;
}

/* Too many are gone for anybody to have meant it. */
static bool guard(struct scan *s)
{
	set_limit(s);
	if (s->gone <= s->removals_max)
		return false;
	s->counts.found[FOUND_HELD] = s->gone;
	log_error(
		"objects are gone, too many to be removed everywhere without an operator region=%s "
		"gone=%llu known=%llu",
		s->region->name, (unsigned long long)s->gone, (unsigned long long)s->known);
	int r = report_held(s);
	if (r < 0)
		scan_fail(s, r, NULL);
	return true;
}

static void run(struct scan *s)
{
	int r = s->q->dry_run ? 0 : change_gone(s);

	if (r < 0) {
		scan_fail(s, r, NULL);
		return;
	}
	s->removals_max = UINT64_MAX;
	run_phase(s, PHASE_LIST);
	if (scan_stopped(s))
		return;
	if (s->q->dry_run)
		set_limit(s); /* what is gone was looked at with the rest */
	else if (!guard(s))
		run_phase(s, PHASE_GONE);
	if (!scan_stopped(s))
		run_phase(s, PHASE_ENTRIES);
	if (s->q->dry_run && s->counts.found[FOUND_DELETE] > s->removals_max) {
		s->counts.found[FOUND_HELD] = s->counts.found[FOUND_DELETE];
		s->counts.found[FOUND_DELETE] = 0;
	}
	if (!s->q->dry_run && !scan_stopped(s) && (r = change_gone(s)) < 0)
		scan_fail(s, r, NULL);
}

/* ---- the call ---- */

static int check(struct scan *s, struct err *err)
{
	struct region *region = s->region;
	struct resync_status resync = {0};
	bool seeding = true;
	struct conn *conn;

	/* Some server may have dropped what it owes it: what is absent there was not removed. */
	if (region->optional)
		return err_set(err, -EAGAIN, "region \"%s\" is optional, and may lack anything",
			region->name);
	int64_t deadline = clock_monotonic_ms() + VOLUME_TIMEOUT_MS;
	int r = s->q->deletes == DELETES_RESTORE && !s->q->dry_run ? volume_put_back(region, deadline, err)
								    : 0;
	if (r < 0)
		return r;
	if (!region_begin(region, REGION_READ))
		return err_set(err, -EHOSTDOWN, "region \"%s\" does not answer", region->name);
	/* What is absent in another bucket than the region's was not removed either. */
	r = volume_check(region, deadline, err);
	if (r < 0)
		return r;
	r = cache_read_begin(s->cache, &conn);
	if (r == 0) {
		r = region_seeding(conn, region->id, &seeding);
		if (r == 0)
			r = resync_get(conn, region->id, &resync);
		cache_read_end(conn);
	}
	if (r < 0)
		return err_errno(err, r, "cannot read the state");
	seeding &= s->q->deletes != DELETES_RESTORE; /* which takes nothing for removed */
	return seeding || resync.state != RESYNC_NONE ? err_set(err, -EAGAIN, "region \"%s\" is new and still being filled",
				 region->name)
		       : 0;
}

static bool claim(struct reconciler *r, const struct scan *s)
{
	mutex_lock(&r->lock);
	bool free_now = !r->scanning && !r->stopping;
	if (free_now) {
		r->scanning = true;
		r->status[s->q->region].running = true;
	}
	mutex_unlock(&r->lock);
	return free_now;
}

static void release(struct reconciler *r, const struct scan *s, bool whole)
{
	struct reconcile_status *status = &r->status[s->q->region];

	mutex_lock(&r->lock);
	r->scanning = false;
	status->running = false;
	if (whole)
		status->counts = s->counts;
	mutex_unlock(&r->lock);
}

static void scan_free(struct scan *s)
{
	clear_ranges(s);
	for (; s->count; s->count--) {
		candidate_done(&s->queue[s->head]);
		s->head = (s->head + 1) % s->room;
	}
	for (unsigned i = 0; i < s->finding_count; i++)
		free(s->findings[i].key);
	free(s->queue);
	cond_done(&s->cond);
	mutex_done(&s->lock);
	free(s);
}

static struct scan *scan_new(struct reconciler *r, const struct reconcile_request *q)
{
	struct scan *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->r = r;
	s->o = &r->o;
	s->q = q;
	s->region = &r->o.regions->region[q->region];
	s->cache = r->o.regions->cache;
	mutex_init(&s->lock, LOCK_RANK_REPLICATOR);
	cond_init(&s->cond);
	if (!key_set(&s->path, q->path) ||
		uploader_init(&s->uploader, s->cache, s->region->store, s->region->id) < 0) {
		scan_free(s);
		return NULL;
	}
	return s;
}

int reconciler_scan(struct reconciler *r, const struct reconcile_request *q,
	struct reconcile_counts *counts, struct err *err)
{
	struct scan *s = scan_new(r, q);
	int code;

	*counts = (struct reconcile_counts){0};
	if (!s)
		return err_errno(err, -ENOMEM, "cannot scan");
	if (!claim(r, s)) {
		scan_free(s);
		return err_set(
			err, -EBUSY, "another scan is under way\nhint: `meridian status` shows it");
	}
	code = check(s, err);
	if (code == 0) {
		run(s);
		code = s->error;
		if (code == 0 && atomic_load(&s->region->all->cancel))
			code = -ECANCELED;
		if (code < 0 && s->err.text[0])
			(void)err_set(err, code, "%s", s->err.text);
		else if (code < 0)
			err_errno(err, code, "region \"%s\" was not scanned to the end",
				s->region->name);
	}
	*counts = s->counts;
	bool whole = code == 0 && !q->dry_run && !q->path.len;
	release(r, s, whole);
	scan_free(s);
	return whole ? reconciler_finished(r, q->region, counts) : code;
}
