/*
 * When a checkpoint takes the place of a region's log.
 *
 *   new        nothing of this region was ever pulled here, nor of the home region
 *   begun      a load was interrupted
 *   gap        a segment that is wanted is gone, and the newest checkpoint covers what lacks
 *   away       of the home region and of one whose log is read only (puller_read): the newest checkpoint covers segments of some writer that were not merged here and
 *              are old enough to be removed (horizon_ms): there may be nothing left of them that
 *              would show as a gap
 *
 * The last is asked at the start, and whenever the region's log has not been read completely for
 * CHECK_MS, counted from when that reading began: segments that are so young are nowhere removed. It
 * costs a listing and the manifest. A checkpoint is merged on top of what is here, so what this server
 * changed and did not push stays, in its outbox, too.
 *
 * A gap that no checkpoint covers is left to pull_run.c, which reports it (vain).
 */
#include <errno.h>

#include "cache/dump.h"
#include "replicator/checkpoint.h"
#include "replicator/pull_internal.h"
#include "src/base/clock.h"
#include "src/base/log.h"

/* What is merged here of the region: for the question whether a checkpoint has more. */
struct position {
	struct puller *p;
	struct region *region;
	char cursor[SEGMENT_NAME_SIZE], home[SEGMENT_NAME_SIZE];
	struct checkpoint_mark mark;
};

static int read_position(struct position *at)
{
	struct puller *p = at->p;
	struct conn *conn;
	int r = cache_read_begin(p->cache, &conn);

	if (r < 0)
		return r;
	r = cursor_get(conn, at->region->id, at->cursor);
	if (r == 0)
		r = cursor_get(conn, p->o.regions->region[p->o.home].id, at->home);
	if (r == 0)
		r = checkpoint_mark_get(conn, at->region->id, &at->mark);
	cache_read_end(conn);
	return r;
}

/* Whether c covers a segment that is not merged here; only those older than before_ms
 * count. */
static int has_more(struct position *at, const struct checkpoint *c, uint64_t before_ms, bool *ret)
{
	char name[SEGMENT_NAME_SIZE];
	struct conn *conn;
	int r = cache_read_begin(at->p->cache, &conn);

	*ret = false;
	if (r < 0)
		return r;
	for (uint32_t i = 0; r == 0 && !*ret && i < c->cover_count; i++) {
		uint64_t seq;

		if (c->covers[i].ms >= before_ms)
			continue;
		r = watermark_get(conn, at->region->id, c->covers[i].node, &seq, name);
		*ret = r == 0 && seq < c->covers[i].seq &&
		       (c->covers[i].node != at->p->node || name[0]);
	}
	cache_read_end(conn);
	return r;
}

/* False: no further now. */
static bool tell_progress(void *ctx, uint64_t done, uint64_t parts)
{
	struct puller *p = ctx;
	int64_t now = clock_monotonic_ms();

	mutex_lock(&p->status_lock);
	p->status.parts_done = done;
	p->status.parts = done < parts ? parts : 0;
	mutex_unlock(&p->status_lock);
	if (p->first.progress && now - p->first.told_ms >= FIRST_TELL_MS) {
		p->first.told_ms = now;
		p->first.progress(p->first.ctx, done, parts);
	}
	return !pull_first_over(p);
}

static int load(struct position *at, const struct checkpoint *c, const char *why, bool *loaded)
{
	bool threaded = atomic_load(&at->p->threaded) || at->p->first.deadline_ms;

	log_info("loading a checkpoint region=%s records=%llu reason=\"%s\"", at->region->name,
		(unsigned long long)c->records, why);
	int r = checkpoint_load(
		at->region, &at->p->o.merger, c, threaded, tell_progress, at->p, loaded);
	mutex_lock(&at->p->status_lock);
	at->p->status.parts = 0;
	mutex_unlock(&at->p->status_lock);
	return r;
}

/* NULL: the log is enough. */
static int reason(struct position *at, const struct checkpoint *c, bool gap, const char **ret)
{
	bool more = false;
	int r = 0;

	*ret = NULL;
	if (!at->cursor[0] && !at->home[0])
		*ret = "this server is new";
	else if (at->mark.loading_ms)
		*ret = "a load was interrupted";
	else if (gap)
		r = has_more(at, c, UINT64_MAX, &more);
	else
		r = has_more(at, c, c->horizon_ms, &more);
	if (r == 0 && more)
		*ret = gap ? "segments that lack here are gone"
			   : "this server was away for longer than segments are kept";
	return r;
}

int pull_checkpoint(struct puller *p, struct region *region, bool *did, bool *stop)
{
	struct pull_region_state *st = &p->region[region - p->o.regions->region];
	struct position at = {.p = p, .region = region};
	CLEANUP(checkpoint_done) struct checkpoint c = {0};
	int64_t now = clock_boottime_ms(); /* segments are removed while this machine is suspended, too */
	enum checkpoint_found found;
	bool loaded = false;
	const char *why;

	*stop = false;
	if (st->asked && !st->reload && now - st->asked_ms < CHECK_MS)
		return 0;
	int r = read_position(&at);
	if (r < 0)
		return r;
	/* What stands in for the home region for a while need not be known from its beginning. */
	if (!region->home && at.home[0] && !at.mark.loading_ms && !st->reload &&
		!pull_reads(p, (unsigned)(region - p->o.regions->region)))
		return 0;
	r = checkpoint_find(region, UINT64_MAX, &c, &found);
	if (r < 0)
		return r;
	*stop = found == CHECKPOINT_UNKNOWN;
	if (*stop)
		return 0;
	why = NULL;
	if (found == CHECKPOINT_FOUND)
		r = reason(&at, &c, st->reload, &why);
	if (r == 0 && why) {
		r = load(&at, &c, why, &loaded);
		*stop = !loaded;
	}
	if (r < 0 || *stop)
		return r;
	*did |= loaded;
	st->vain = st->reload && !loaded;
	st->reload = false;
	st->asked = true;
	st->asked_ms = now;
	return 0;
}

/* ---- the first sync ---- */

bool pull_first_over(const struct puller *p)
{
	return p->first.deadline_ms && clock_monotonic_ms() >= p->first.deadline_ms;
}

static int is_new(struct puller *p, bool *ret)
{
	struct position at = {.p = p, .region = &p->o.regions->region[p->o.home]};
	int r = read_position(&at);

	*ret = !at.home[0];
	return r;
}

static bool any_up(const struct puller *p)
{
	for (unsigned i = 0; i < p->o.regions->count; i++) {
		if (region_up(&p->o.regions->region[i], REGION_READ))
			return true;
	}
	return false;
}

int puller_first(struct puller *p, int64_t deadline_ms, puller_progress_fn progress, void *ctx,
	bool *complete)
{
	struct puller_status status = {0};
	bool new, did;

	int r = is_new(p, &new);
	*complete = r == 0 && !new;
	if (r < 0 || !new)
		return r;
	p->first.deadline_ms = deadline_ms;
	p->first.progress = progress;
	p->first.ctx = ctx;
	while (r == 0 && !*complete && !pull_first_over(p) && any_up(p)) {
		r = puller_step(p, &did);
		puller_status(p, &status);
		*complete = status.last_ms != 0;
		if (r == 0 && !*complete && !did)
			clock_sleep_ms(FIRST_PAUSE_MS);
	}
	p->first.deadline_ms = 0;
	p->first.progress = NULL;
	return r;
}

bool pull_wants_checkpoint(struct pull *l)
{
	struct pull_region_state *st = &l->p->region[l->region - l->p->o.regions->region];

	if (st->vain)
		return false;
	st->reload = l->relist = l->did = true;
	return true;
}
