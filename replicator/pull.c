/*
 * The puller. One step: list the log after the cursor, less a window; for each writer fetch what is
 * new in order; merge; move watermark and cursor on.
 *
 *   cursor     the newest name seen in a region. A listing starts 30 s before it (slow uploads,
 *              clock skew), and at the start and every 5 minutes one hour before it
 *   watermark  per region and writer: all its segments up to that number are merged. It decides
 *              what is new; the cursor only says from where to list, and never passes a segment
 *              that is listed and not merged
 *   gap        a segment whose number is not the watermark + 1: see pull_run.c
 *   group      segments that continue each other merge in one transaction. A group whose end is
 *              not there yet is left alone until it is, or for a minute, or when it gets too large
 *
 * What comes from a bucket is hostile: names that are no segment names are counted and ignored.
 *
 * Checkpoints: where the log is not enough, see pull_checkpoint.c.
 *
 * Failover: when the home region does not answer, or is left (health.h), the next healthy one is pulled; on first contact
 * from an hour before the home cursor, where writers' earlier numbers are taken as known.
 *
 * Logs that nobody pulls from (puller_read): who writes a checkpoint of such a region must have merged all
 * of its log, so it is read between the pulls. What was merged of it before, while it stood in for another
 * one, does not count, for then earlier segments were taken as known: it begins anew, once (the table
 * region_read). So it does when another region becomes the home region than was before.
 *
 * With threads a few segments are fetched ahead of their merge (pull_ahead.c).
 *
 * Memory: a page of 1,000 names, one writer's run, and what is fetched ahead.
 *
 * Lock: status_lock (a leaf) guards status; all else belongs to the one thread.
 */
#include "replicator/pull_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "cache/dump.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

int puller_new(const struct puller_options *o, struct puller **ret)
{
	struct puller *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->o = *o;
	p->cache = o->regions->cache;
	p->node = cache_node(p->cache);
	p->current = o->home;
	p->status.lag_ms = -1;
	p->page = calloc(PAGE_NAMES, sizeof(*p->page));
	if (!p->page || ahead_new(&p->ahead) < 0) {
		free(p->page);
		free(p);
		return -ENOMEM;
	}
	mutex_init(&p->status_lock, LOCK_RANK_LEAF);
	*ret = p;
	return 0;
}

void puller_free(struct puller *p)
{
	if (!p)
		return;
	ahead_free(p->ahead);
	mutex_done(&p->status_lock);
	free(p->page);
	free(p);
}

void puller_set_threaded(struct puller *p, bool threaded)
{
	atomic_store(&p->threaded, threaded);
	if (!threaded)
		ahead_stop(p->ahead);
	else if (ahead_start(p->ahead) < 0)
		log_warn("segments are fetched one by one: there are no threads for more");
}

void puller_status(struct puller *p, struct puller_status *ret)
{
	mutex_lock(&p->status_lock);
	*ret = p->status;
	mutex_unlock(&p->status_lock);
}

void puller_read(struct puller *p, unsigned index, bool on)
{
	if (on)
		atomic_fetch_or(&p->read, 1u << index);
	else
		atomic_fetch_and(&p->read, ~(1u << index));
	if (on)
		atomic_store(&p->read_ms[index], 0);
}

int64_t puller_read_ms(const struct puller *p, unsigned index)
{
	return atomic_load(&p->read_ms[index]);
}

bool pull_reads(const struct puller *p, unsigned index)
{
	return atomic_load(&p->read) >> index & 1;
}

static bool turn_is_over(const struct puller *p)
{
	return p->until_ms && clock_monotonic_ms() >= p->until_ms;
}

static int get_cursor(struct puller *p, const struct region *region, char name[SEGMENT_NAME_SIZE])
{
	struct conn *conn;
	int r = cache_read_begin(p->cache, &conn);

	if (r < 0)
		return r;
	r = cursor_get(conn, region->id, name);
	cache_read_end(conn);
	return r;
}

/* ---- groups ---- */

static struct wait *find_wait(struct puller *p, uint64_t node)
{
	for (unsigned i = 0; i < p->wait_count; i++) {
		if (p->wait[i].node == node && p->wait[i].region == p->at)
			return &p->wait[i];
	}
	return NULL;
}

static void end_wait(struct puller *p, uint64_t node)
{
	struct wait *w = find_wait(p, node);

	if (w)
		*w = p->wait[--p->wait_count];
}

/* True when the group that ends here incomplete has been waited for long enough. */
static bool waited_enough(struct puller *p, const struct run *run)
{
	struct wait *w = find_wait(p, run->node);

	if (!w) {
		if (p->wait_count == WAITS_MAX)
			return true;
		w = &p->wait[p->wait_count++];
		*w = (struct wait){.region = p->at, .node = run->node, .since_ms = clock_monotonic_ms()};
	}
	w->next = run->to_seq + 1;
	return clock_monotonic_ms() - w->since_ms >= GROUP_WAIT_MS;
}

/* ---- one writer's names of a page ---- */

static int name_cmp(const void *x, const void *y)
{
	const struct name *a = x, *b = y;

	if (a->id.node != b->id.node)
		return a->id.node < b->id.node ? -1 : 1;
	if (a->id.seq != b->id.seq)
		return a->id.seq < b->id.seq ? -1 : 1;
	return strcmp(a->text, b->text);
}

static bool is_new(const struct run *run, const struct name *n)
{
	uint64_t seq = run->to_seq > run->seq ? run->to_seq : run->seq;
	const char *name = run->to_seq ? run->to_name : run->name;

	/* One number under two names: the second one was sent when the first seemed lost. */
	return n->id.seq > seq ||
	       (n->id.seq == seq && strcmp(n->text, name) != 0 && n->id.ms >= run->newest_ms);
}

static void not_merged(struct pull *l, const struct name *names, unsigned count, uint64_t seq)
{
	for (unsigned i = 0; i < count; i++) {
		if (names[i].id.seq > seq && names[i].id.ms < l->unmerged_ms)
			l->unmerged_ms = names[i].id.ms;
	}
}

/* A segment that lies far behind the cursor: its writer's clock is, or its uploads take long. */
static void note_late(struct pull *l, const struct name *n)
{
	unsigned index = (unsigned)(l->region - l->p->o.regions->region);
	uint64_t *window = &l->p->region[index].window_ms;

	if (l->cursor_ms <= n->id.ms)
		return;
	uint64_t wanted = 2 * (l->cursor_ms - n->id.ms) + WINDOW_MS;
	if (wanted > *window)
		*window = wanted < WIDE_WINDOW_MS ? wanted : WIDE_WINDOW_MS;
}

/* names: of one writer, in order of number. */
static void pull_writer(struct pull *l, const struct name *names, unsigned count)
{
	struct run run = {.l = l, .node = names[0].id.node};
	struct puller *p = l->p;
	enum fetched f = FETCHED;
	bool stopped = false;

	l->newer = l->relist = false;
	l->local = run_begin(&run);
	if (l->local < 0) {
		not_merged(l, names, count, 0);
		return;
	}
	struct wait *w = find_wait(p, run.node);
	if (w && names[count - 1].id.seq < w->next && names[count - 1].id.seq > run.seq &&
		clock_monotonic_ms() - w->since_ms < GROUP_WAIT_MS) {
		not_merged(l, names, count, run.seq);
		return;
	}
	struct segment_id known;
	if (segment_name_parse(run.name, &known))
		run.newest_ms = known.ms;
	for (unsigned i = 0; i < count && f == FETCHED; i++) {
		if (!is_new(&run, &names[i]))
			continue;
		note_late(l, &names[i]);
		pull_fetch_ahead(l);
		f = run_take(&run, &names[i]);
	}
	stopped = f != FETCHED;
	if (run.batch && run.open && (stopped || !waited_enough(p, &run))) {
		run_drop(&run);
		stopped = true;
	}
	int r = l->local < 0 ? 0 : run_commit(&run);
	run_drop(&run);
	if (r == -EBUSY)
		stopped = true;
	else if (r < 0)
		l->local = r;
	if (!stopped)
		end_wait(p, run.node);
	/* Other writers are on the pages to come. */
	if ((f == FETCH_STOP && !l->newer && !l->relist) || r < 0)
		l->failed = true;
	if (stopped || l->local < 0)
		not_merged(l, names, count, run.seq);
}

/* ---- one page ---- */

static int list_name(void *ctx, const char *key, const struct store_object *object)
{
	struct pull *l = ctx;
	struct name *n = &l->p->page[l->count];
	const char *name = key + strlen(SEGMENT_PREFIX);

	l->listed++;
	if (strlen(key) < sizeof(l->last))
		snprintf(l->last, sizeof(l->last), "%s", key);
	if (strlen(name) >= sizeof(n->text) || !segment_name_parse(name, &n->id) || !n->id.seq) {
		metric_add(METRIC_SEGMENTS_CORRUPT, 1);
		if (l->p->junk_logged++ < 10)
			log_warn("not a segment's name, ignored region=%s length=%zu",
				l->region->name, strlen(key));
		return 0;
	}
	if (n->id.node == l->p->node && n->id.ms > l->own_ms)
		l->own_ms = n->id.ms;
	if (n->id.node == l->p->node && !l->own)
		return 0;
	if (n->id.node != l->p->node && n->id.ms > l->newest_ms)
		l->newest_ms = n->id.ms;
	snprintf(n->text, sizeof(n->text), "%s", name);
	n->size = object ? object->size : 0;
	n->fresh = false;
	l->count++;
	return 0;
}

static bool list_page(struct pull *l)
{
	struct store_call call = region_call_urgent(l->region, 0);
	int64_t start = clock_monotonic_ms();
	struct store_error error = {0};
	char after[SEGMENT_KEY_SIZE];

	/* Others may have what this one does not say. */
	if (l->p->o.regions->count > 1)
		call.deadline_ms = start + LIST_TIMEOUT_MS;
	memcpy(after, l->last, sizeof(after));
	l->count = 0;
	l->listed = 0;
	enum store_result result = store_list(l->region->store, SEGMENT_PREFIX,
		after[0] ? after : NULL, PAGE_NAMES, list_name, l, &call, &error);
	region_end(l->region, REGION_READ, result, &error, "list log");
	if (result == STORE_OK)
		region_listed(l->region, clock_monotonic_ms() - start);
	return result == STORE_OK;
}

/* One writer's names that are above its watermark. One that waits for the end of a group is left
 * alone. */
static int mark_fresh(struct pull *l, struct name *names, unsigned count)
{
	struct run run = {.l = l, .node = names[0].id.node};

	if (find_wait(l->p, run.node))
		return 0;
	int r = run_begin(&run);
	for (unsigned i = 0; r == 0 && i < count; i++)
		names[i].fresh = names[i].id.seq > run.seq;
	return r;
}

void pull_fetch_ahead(struct pull *l)
{
	const struct name *names = l->p->page;
	char key[SEGMENT_KEY_SIZE];

	for (; l->ahead < l->count; l->ahead++) {
		if (!names[l->ahead].fresh)
			continue;
		segment_key(key, names[l->ahead].text);
		if (!ahead_add(l->p->ahead, l->region, key, names[l->ahead].size, l->ahead))
			return;
	}
}

static void pull_page(struct pull *l)
{
	struct name *names = l->p->page;

	qsort(names, l->count, sizeof(*names), name_cmp);
	l->ahead = 0;
	for (unsigned i = 0, end; i < l->count && atomic_load(&l->p->threaded); i = end) {
		for (end = i + 1; end < l->count && names[end].id.node == names[i].id.node; end++)
			;
		/* What cannot be known now is fetched when it is wanted. */
		if (mark_fresh(l, names + i, end - i) < 0)
			break;
	}
	for (unsigned i = 0, end; i < l->count; i = end) {
		for (end = i + 1; end < l->count && names[end].id.node == names[i].id.node; end++)
			;
		bool over = atomic_load(&l->p->o.regions->cancel) || pull_first_over(l->p) ||
			    turn_is_over(l->p);

		l->failed = l->failed || over;
		if (over || l->local)
			not_merged(l, names + i, end - i, 0);
		else
			pull_writer(l, names + i, end - i);
		ahead_forget(l->p->ahead, end); /* it may have stopped early */
		l->ahead = l->ahead > end ? l->ahead : end;
	}
	ahead_forget(l->p->ahead, UINT_MAX);
}

/* ---- cursor ---- */

static uint64_t cursor_ms(const char *name)
{
	struct segment_id id;

	return segment_name_parse(name, &id) && id.ms != CURSOR_BEGUN ? id.ms : 0;
}

/* How far behind the cursor this listing starts. The others go on while this machine is suspended: what came late
 * meanwhile is behind the cursor of before, so the first listing after it, which moves the cursor, is a wide one. */
static uint64_t window(struct puller *p, unsigned index)
{
	int64_t now = clock_boottime_ms();
	uint64_t skew = (uint64_t)p->o.merger.max_clock_skew_ms + WINDOW_MS;
	uint64_t ms = p->region[index].window_ms;

	if (!p->region[index].started || now - p->region[index].wide_ms >= WIDE_EVERY_MS) {
		p->region[index].started = true;
		p->region[index].wide_ms = p->region[index].skew_ms = now;
		p->region[index].window_ms = ms / 2 > WINDOW_MS ? ms / 2 : WINDOW_MS;
		return WIDE_WINDOW_MS;
	}
	if (now - p->region[index].skew_ms < SKEW_EVERY_MS)
		return ms;
	p->region[index].skew_ms = now;
	return skew > ms ? skew : ms;
}

/* Whether the region has segments of this server that are not here (own_log.h). */
static int own_missing(struct pull *l)
{
	char name[SEGMENT_NAME_SIZE];
	struct region_progress sent = {0};
	struct conn *conn;
	uint64_t seq;

	int r = cache_read_begin(l->p->cache, &conn);
	if (r < 0)
		return r;
	r = watermark_get(conn, l->region->id, l->p->node, &seq, name);
	if (r == 0)
		r = region_progress_get(conn, l->region->id, &sent);
	cache_read_end(conn);
	l->own = r == 0 && name[0] && seq < sent.sent_seq;
	return r;
}

/* Where to list from, into l->last; "" for the beginning. */
static int start_key(struct pull *l, char cursor[SEGMENT_NAME_SIZE])
{
	struct puller *p = l->p;
	unsigned index = (unsigned)(l->region - p->o.regions->region);

	int r = get_cursor(p, l->region, cursor);
	if (r < 0)
		return r;
	uint64_t behind = window(p, index), ms = cursor_ms(cursor);
	l->cursor_ms = ms;
	r = own_missing(l);
	if (r < 0)
		return r;
	/* First contact with a region that stands in for the home region. */
	if (!ms && index != p->o.home && !pull_reads(p, index)) {
		char home[SEGMENT_NAME_SIZE];

		r = get_cursor(p, &p->o.regions->region[p->o.home], home);
		if (r < 0)
			return r;
		ms = cursor_ms(home);
		p->region[index].baseline = ms > 0;
		behind = WIDE_WINDOW_MS;
	}
	l->from_ms = ms > behind ? ms - behind : 0;
	if (p->region[index].relist && p->region[index].relist_ms < l->from_ms)
		l->from_ms = p->region[index].relist_ms;
	p->region[index].relist = false;
	if (l->from_ms)
		snprintf(l->last, sizeof(l->last), "%s%012" PRIx64, SEGMENT_PREFIX, l->from_ms);
	return 0;
}

/* Up to the newest name listed, short of what is not merged, and not into the future: one name of a
 * broken clock must not hide what comes. This server's own names count where the region tells what time
 * it is, else our clock may be the one that is wrong: without them a server whose peers are silent would
 * list all that it wrote, each time. */
static int move_cursor(struct pull *l, const char *cursor, bool complete)
{
	int64_t now = clock_realtime_ms() + store_clock_skew_ms(l->region->store);
	bool own = l->own_ms > l->newest_ms && store_clock_ms(l->region->store) != 0;
	struct segment_id id = {.ms = own ? l->own_ms : l->newest_ms};
	char name[SEGMENT_NAME_SIZE];
	struct conn *conn;

	if (now > 0 && id.ms > (uint64_t)now)
		id.ms = (uint64_t)now;
	if (l->unmerged_ms != UINT64_MAX && id.ms >= l->unmerged_ms)
		id.ms = l->unmerged_ms ? l->unmerged_ms - 1 : 0;
	/* From now on it is not a new server any more. */
	if (complete && !cursor[0] && id.ms == 0)
		id.ms = CURSOR_BEGUN;
	if (id.ms <= cursor_ms(cursor))
		return 0;
	segment_name(&id, name);
	int r = cache_begin_lazy(l->p->cache, &conn);
	if (r < 0)
		return r;
	r = cursor_set(conn, l->region->id, name);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

/* ---- the step ---- */

/* The first one that may be used, in order of preference; NULL when none answers. */
static struct region *choose(struct puller *p)
{
	struct regions *all = p->o.regions;
	unsigned order[REGION_MAX];

	regions_order(all, order);
	for (unsigned i = 0; i < all->count; i++) {
		unsigned index = order[i];
		struct region *region = &all->region[index];

		/* With threads around, those of the region make its checks; this one must not wait
		 * for a dead region. */
		if (atomic_load(&p->threaded) ? !region_up(region, REGION_READ)
					      : !region_begin(region, REGION_READ))
			continue;
		if (index != p->current)
			log_info("pulling from another region region=%s", region->name);
		p->current = index;
		mutex_lock(&p->status_lock);
		snprintf(p->status.region, sizeof(p->status.region), "%s", region->name);
		mutex_unlock(&p->status_lock);
		return region;
	}
	return NULL;
}

static int pull_region(struct puller *p, struct region *region, bool *did)
{
	struct pull_region_state *st = &p->region[region - p->o.regions->region];
	struct pull l = {.p = p, .region = region, .unmerged_ms = UINT64_MAX};
	char cursor[SEGMENT_NAME_SIZE];
	int64_t start = clock_monotonic_ms(), asked_ms = clock_boottime_ms();
	bool complete = false, stop;

	p->at = (unsigned)(region - p->o.regions->region);
	int r = pull_checkpoint(p, region, did, &stop);
	if (r < 0 || stop)
		return r;
	r = start_key(&l, cursor);
	if (r < 0)
		return r;
	while (!l.failed && l.local == 0) {
		if (!list_page(&l))
			break;
		pull_page(&l);
		if (l.listed < PAGE_NAMES) {
			complete = true;
			break;
		}
	}
	*did = *did || l.did;
	/* After a failed listing the cursor may move over what was listed before: all later names
	 * are greater. */
	complete = complete && !l.failed && !st->relist && !st->reload && l.local == 0;
	r = move_cursor(&l, cursor, complete);
	if (complete) {
		st->asked_ms = asked_ms;
		st->vain = false;
		if (pull_reads(p, p->at))
			atomic_store(&p->read_ms[p->at], start);
		mutex_lock(&p->status_lock);
		if (p->at == p->current)
			p->status.last_ms = clock_realtime_ms();
		mutex_unlock(&p->status_lock);
	}
	return l.local < 0 ? l.local : r;
}

/* What was merged of a log while it stood in for another one is not all of it up to there. */
static int begin_reading(struct puller *p, struct region *region)
{
	struct pull_region_state *st = &p->region[region - p->o.regions->region];
	bool began = false;
	struct conn *conn;
	int r = cache_begin_lazy(p->cache, &conn);

	if (r < 0)
		return r;
	r = region_read_begin(conn, region->id, &began);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	r = cache_commit(conn);
	if (r == 0 && began) {
		st->started = st->asked = false;
		st->baseline = false;
	}
	return r;
}

/* A part of the logs that are read though they are not pulled from. */
static int read_others(struct puller *p, const struct region *pulled, bool *did)
{
	for (unsigned i = 0; i < p->o.regions->count; i++) {
		struct region *region = &p->o.regions->region[i];
		int64_t now = clock_monotonic_ms();
		bool one = false;

		if (!pull_reads(p, i) || region == pulled || now < p->region[i].read_next_ms ||
			!region_up(region, REGION_READ))
			continue;
		int r = begin_reading(p, region);
		p->until_ms = now + READ_MS;
		if (r == 0)
			r = pull_region(p, region, &one);
		p->until_ms = 0;
		if (r < 0)
			return r;
		*did |= one;
		/* Where there is more it goes on after the next pull. */
		p->region[i].read_next_ms = one ? 0 : now + READ_EVERY_MS;
	}
	return 0;
}

int puller_begin(struct puller *p)
{
	int r = p->begun ? 0 : begin_reading(p, &p->o.regions->region[p->o.home]);

	p->begun = r == 0;
	return r;
}

int puller_step(struct puller *p, bool *did)
{
	*did = false;
	int r = puller_begin(p);
	if (r == 0)
		r = pull_held(p->cache, &p->o.merger, did);
	if (r < 0)
		return r;
	struct region *region = choose(p);
	if (region)
		r = pull_region(p, region, did);
	regions_compare_clocks(p->o.regions);
	return r < 0 || !region ? r : read_others(p, region, did);
}
