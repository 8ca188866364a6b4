/*
 * The puller. One step: list the log after the cursor, less a window; for each writer fetch what is
 * new in order; merge; move watermark and cursor on.
 *
 *   cursor     the newest name seen in a region. A listing starts 30 s before it (slow uploads,
 *              clock skew), and at the start and every 5 minutes one hour before it
 *   watermark  per region and writer: all its segments up to that number are merged. It decides
 *              what is new; the cursor only says from where to list, and never passes a segment
 *              that is listed and not merged
 *   gap        a segment whose number is not the watermark + 1. Each names its previous one: the
 *              chain is followed back to the watermark. One that does not lead there, or is too
 *              long, has the log listed again from the watermark's time on; what is still missing
 *              then is reported as lost, never skipped in silence
 *   group      segments that continue each other merge in one transaction. A group whose end is
 *              not there yet is left alone until it is, or for a minute, or when it gets too large
 *
 * What comes from a bucket is hostile: names that are no segment names are counted and ignored,
 * bodies are bounded, damaged ones are fetched once more, then recorded for the operator and passed
 * over. A segment of a newer format stops its writer (here, until the upgrade) and nobody else.
 *
 * Failover: when the home region does not answer the next healthy one is pulled; on first contact
 * from an hour before the home cursor, where writers' earlier numbers are taken as known.
 *
 * Memory: a page of 1,000 names, one segment, and the batch under way.
 *
 * Lock: status_lock (a leaf) guards status; all else belongs to the one thread.
 */
#include "replicator/pull.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum {
	PAGE_NAMES = 1000,
	WINDOW_MS = 30000,
	WIDE_WINDOW_MS = 3600000,
	WIDE_EVERY_MS = 300000,
	SKEW_EVERY_MS = 30000,
	CHAIN_MAX = 1000, /* longer: a listing is cheaper */
	BATCH_SEGMENTS = 32,
	BATCH_BYTES = 8 << 20,
	BATCH_MS = 250, /* a slow store's segments do not wait for each other */
	GROUP_SEGMENTS_MAX = 256,
	GROUP_WAIT_MS = 60000,
	WAITS_MAX = 256,
};

#define SEGMENT_KEY_SIZE (sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE)

struct name {
	struct segment_id id;
	char text[SEGMENT_NAME_SIZE];
};

/* A writer whose group is not complete. */
struct wait {
	uint64_t node;
	uint64_t next; /* looked at again when this number is listed */
	int64_t since_ms;
};

struct puller {
	struct puller_options o;
	struct cache *cache;
	uint64_t node;
	unsigned current; /* index of the region pulled from */
	struct {
		bool started;
		bool baseline; /* begun in the middle: earlier numbers of unknown writers are taken
				  as known */
		int64_t wide_ms;    /* when the last wide listing was */
		int64_t skew_ms;    /* likewise, of one that covers the clocks' skew */
		uint64_t window_ms; /* grows with what was found late */
		bool relist;	    /* a gap: the next listing starts at relist_ms */
		uint64_t relist_ms;
	} region[REGION_MAX];
	struct name *page; /* PAGE_NAMES */
	struct wait wait[WAITS_MAX];
	unsigned wait_count;
	uint64_t junk_logged;
	atomic_bool threaded;
	struct mutex status_lock;
	struct puller_status status;
};

/* One step's work on one region. */
struct pull {
	struct puller *p;
	struct region *region;
	unsigned count;		     /* names in the page */
	char last[SEGMENT_KEY_SIZE]; /* last key listed */
	unsigned listed;
	uint64_t cursor_ms;   /* when the step began */
	uint64_t from_ms;     /* what is older was not listed */
	uint64_t newest_ms;   /* of what others wrote and was listed */
	uint64_t unmerged_ms; /* least of what was listed and not merged; UINT64_MAX: none */
	bool failed;
	bool newer;  /* the writer at hand stands at a segment of a newer format */
	bool relist; /* or at a gap, and the next step lists from further back */
	bool did;
	int local; /* -errno that ends the step */
};

/* One writer's run: the batch under way. */
struct run {
	struct pull *l;
	uint64_t node;
	uint64_t seq; /* merged */
	char name[SEGMENT_NAME_SIZE];
	struct merge_batch *batch;
	unsigned batched;
	size_t bytes;
	int64_t began_ms;
	bool open;	 /* the last one added continues */
	uint64_t to_seq; /* watermark after the batch */
	char to_name[SEGMENT_NAME_SIZE];
	uint64_t newest_ms;
};

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
	if (!p->page) {
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
	mutex_done(&p->status_lock);
	free(p->page);
	free(p);
}

void puller_set_threaded(struct puller *p, bool threaded)
{
	atomic_store(&p->threaded, threaded);
}

void puller_status(struct puller *p, struct puller_status *ret)
{
	mutex_lock(&p->status_lock);
	*ret = p->status;
	mutex_unlock(&p->status_lock);
}

static void segment_key(char key[SEGMENT_KEY_SIZE], const char *name)
{
	snprintf(key, SEGMENT_KEY_SIZE, "%s%s", SEGMENT_PREFIX, name);
}

/* ---- database ---- */

static int get_watermark(struct run *run)
{
	struct conn *conn;
	int r = cache_read_begin(run->l->p->cache, &conn);

	if (r < 0)
		return r;
	r = watermark_get(conn, run->l->region->id, run->node, &run->seq, run->name);
	cache_read_end(conn);
	return r;
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

/* A segment that cannot be had; the watermark moves on with the run's next commit. */
static int add_bad(struct pull *l, const char *name, const char *reason)
{
	struct conn *conn;
	int r = cache_begin(l->p->cache, &conn);

	if (r < 0)
		return r;
	r = bad_segment_add(conn, l->region->id, name, reason);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

static int set_watermark(void *ctx, struct conn *conn)
{
	struct run *run = ctx;

	return watermark_set(conn, run->l->region->id, run->node, run->to_seq, run->to_name);
}

/* ---- merging ---- */

static void drop_batch(struct run *run)
{
	merge_batch_free(run->batch);
	run->batch = NULL;
	run->batched = 0;
	run->bytes = 0;
	run->open = false;
}

static int ensure_batch(struct run *run)
{
	if (run->batch)
		return 0;
	run->began_ms = clock_monotonic_ms();
	return merge_batch_new(run->l->p->cache, &run->l->p->o.merger, &run->batch);
}

static void note_lag(struct puller *p, uint64_t newest_ms)
{
	mutex_lock(&p->status_lock);
	p->status.lag_ms = clock_realtime_ms() - (int64_t)newest_ms;
	mutex_unlock(&p->status_lock);
}

static int commit_batch(struct run *run)
{
	if (!run->batch)
		return 0;
	int r = merge_batch_commit(run->batch, set_watermark, run);
	unsigned batched = run->batched;
	drop_batch(run);
	if (r < 0)
		return r;
	metric_add(METRIC_SEGMENTS_MERGED, batched);
	if (batched)
		note_lag(run->l->p, run->newest_ms);
	run->seq = run->to_seq;
	memcpy(run->name, run->to_name, sizeof(run->name));
	run->l->did = true;
	return 0;
}

/* The watermark after what is in the batch, this segment included. */
static void move_to(struct run *run, const struct segment_id *id, const char *name)
{
	if (id->seq > run->to_seq || !run->to_name[0] || id->seq == run->to_seq) {
		run->to_seq = id->seq;
		snprintf(run->to_name, sizeof(run->to_name), "%s", name);
	}
}

static int add_segment(struct run *run, const struct name *n, const struct segment *s)
{
	int r = ensure_batch(run);

	if (r == 0)
		r = merge_batch_add_segment(run->batch, s);
	if (r < 0)
		return r;
	run->batched++;
	run->bytes += s->raw.len;
	run->open = s->continues;
	if (n->id.ms > run->newest_ms)
		run->newest_ms = n->id.ms;
	move_to(run, &n->id, n->text);
	if (run->open && run->batched < GROUP_SEGMENTS_MAX)
		return 0;
	if (run->batched < BATCH_SEGMENTS && run->bytes < BATCH_BYTES &&
		clock_monotonic_ms() - run->began_ms < BATCH_MS)
		return 0;
	return commit_batch(run);
}

/* Passes over a segment that cannot be had. */
static int skip_segment(struct run *run, const struct name *n, const char *reason)
{
	log_error("segment skipped region=%s segment=%s reason=\"%s\"", run->l->region->name,
		n->text, reason);
	int r = add_bad(run->l, n->text, reason);
	if (r == 0)
		r = ensure_batch(run);
	if (r < 0)
		return r;
	move_to(run, &n->id, n->text);
	return 0;
}

/* ---- fetching ---- */

enum fetched { FETCHED, FETCH_ABSENT, FETCH_BAD, FETCH_STOP, FETCH_LOCAL };

static enum fetched fetch_once(
	struct pull *l, const struct name *n, struct segment *s, struct err *err, bool *newer)
{
	struct store_call call = region_call(l->region, SEGMENT_BYTES_MAX);
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};
	char key[SEGMENT_KEY_SIZE];

	segment_key(key, n->text);
	enum store_result result = store_get_buf(
		l->region->store, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, &call, &error);
	region_end(l->region, REGION_READ, result, &error, "get segment");
	if (result == STORE_ABSENT)
		return FETCH_ABSENT;
	if (result == STORE_TOO_LARGE || result == STORE_CORRUPT) {
		err_set(err, -EBADMSG, "segment %s: %s", n->text, store_result_name(result));
		return FETCH_BAD;
	}
	if (result != STORE_OK)
		return FETCH_STOP;
	int r = segment_parse(n->text, b.data, b.len, s, err);
	if (r == -ENOMEM) {
		l->local = r;
		return FETCH_LOCAL;
	}
	*newer = r == -EPROTONOSUPPORT;
	return r == 0 ? FETCHED : *newer ? FETCH_STOP : FETCH_BAD;
}

/* A damaged one gets a second chance: the way here may have done it. */
static enum fetched fetch(struct pull *l, const struct name *n, struct segment *s, struct err *err)
{
	bool newer = false;

	enum fetched f = fetch_once(l, n, s, err, &newer);
	if (f == FETCH_BAD)
		f = fetch_once(l, n, s, err, &newer);
	l->newer |= newer;
	if (newer)
		log_error("writer stopped until this server is upgraded region=%s error=\"%s\"",
			l->region->name, err->text);
	return f;
}

/* Adds one segment or passes over it. FETCHED: go on. */
static enum fetched take(struct run *run, const struct name *n, struct segment *loaded)
{
	CLEANUP(segment_done) struct segment own = {0};
	struct segment *s = loaded;
	struct err err = {0};
	int r;

	if (!s) {
		enum fetched f = fetch(run->l, n, &own, &err);
		if (f == FETCH_STOP || f == FETCH_LOCAL)
			return f;
		if (f != FETCHED) {
			metric_add(
				f == FETCH_ABSENT ? METRIC_SEGMENTS_GAP : METRIC_SEGMENTS_CORRUPT,
				1);
			r = skip_segment(
				run, n, f == FETCH_ABSENT ? "it is not there any more" : err.text);
			run->l->local = r;
			return r < 0 ? FETCH_LOCAL : FETCHED;
		}
		s = &own;
	}
	r = add_segment(run, n, s);
	if (r == -EBUSY)
		return FETCH_STOP; /* local changes keep coming; the next step tries again */
	run->l->local = r;
	return r < 0 ? FETCH_LOCAL : FETCHED;
}

/* ---- gaps ---- */

/* The number at which this run's next segment is expected; 0: any will do. */
static uint64_t expected(const struct run *run)
{
	uint64_t seq = run->to_seq > run->seq ? run->to_seq : run->seq;
	unsigned index = (unsigned)(run->l->region - run->l->p->o.regions->region);

	if (!seq && run->l->p->region[index].baseline)
		return 0;
	return seq + 1;
}

/* Numbers from want up to the one before name's are missing. FETCHED: they are reported, and passed
 * over. */
static enum fetched lost(struct run *run, uint64_t want, const char *name, const char *reason)
{
	struct pull *l = run->l;
	unsigned index = (unsigned)(l->region - l->p->o.regions->region);
	struct segment_id merged = {0};

	/* A writer's names never go back in time, so this listing would have shown them all. */
	if (!segment_name_parse(run->to_seq ? run->to_name : run->name, &merged))
		merged.ms = 0;
	if (l->from_ms > merged.ms) {
		uint64_t *from = &l->p->region[index].relist_ms;

		if (!l->p->region[index].relist || merged.ms < *from)
			*from = merged.ms;
		l->p->region[index].relist = l->relist = l->did = true;
		return FETCH_STOP;
	}
	metric_add(METRIC_SEGMENTS_GAP, 1);
	log_error("segments are lost region=%s first=%" PRIu64 " before=%s reason=\"%s\"",
		l->region->name, want, name, reason);
	l->local = add_bad(l, name, reason);
	return l->local < 0 ? FETCH_LOCAL : FETCHED;
}

/* Where the way back from a segment ended. */
struct chain {
	struct name *names; /* newest first; CHAIN_MAX */
	unsigned count;
	uint64_t below;		     /* the oldest number that is there, as far as known */
	char end[SEGMENT_NAME_SIZE]; /* what to report if that is not the one wanted */
	const char *reason;
};

/* Follows the names from a segment that is there (its number in c->below, its name in c->end) and
 * its previous one, back to number want. FETCHED: as far as that goes. */
static enum fetched follow(struct run *run, struct chain *c, const char *first, uint64_t want)
{
	CLEANUP(segment_done) struct segment at = {0};
	char previous[SEGMENT_NAME_SIZE];

	snprintf(previous, sizeof(previous), "%s", first);
	c->reason = "the chain of segments before it is too long";
	while (c->below > want && c->count < CHAIN_MAX) {
		struct name *next = &c->names[c->count];
		struct err err = {0};

		snprintf(next->text, sizeof(next->text), "%s", previous);
		/* Names lead strictly down within one writer, so that a forged chain ends. */
		if (!segment_name_parse(previous, &next->id) || next->id.node != run->node ||
			next->id.seq >= c->below || next->id.seq < want) {
			c->reason = "it does not name the segment before it";
			return FETCHED;
		}
		segment_done(&at);
		enum fetched f = fetch(run->l, next, &at, &err);
		if (f == FETCH_STOP || f == FETCH_LOCAL)
			return f;
		memcpy(c->end, next->text, sizeof(c->end));
		if (f == FETCH_ABSENT) {
			c->reason = "named by a later segment, but not there";
			return FETCHED;
		}
		c->count++;
		c->below = next->id.seq;
		if (f == FETCH_BAD) {
			c->reason = "damaged, and so the way to those before it";
			return FETCHED;
		}
		memcpy(previous, at.previous, sizeof(previous));
	}
	return FETCHED;
}

/* From segment n backwards to the one that follows the watermark, then all of them in order. s is
 * n's. */
static enum fetched close_gap(struct run *run, const struct name *n, struct segment *s)
{
	AUTO_FREE struct name *names = calloc(CHAIN_MAX, sizeof(*names));
	struct chain c = {.names = names, .below = n->id.seq};
	uint64_t want = expected(run);

	if (!names) {
		run->l->local = -ENOMEM;
		return FETCH_LOCAL;
	}
	memcpy(c.end, n->text, sizeof(c.end));
	enum fetched f = follow(run, &c, s->previous, want);
	if (f == FETCHED && c.below > want)
		f = lost(run, want, c.end, c.reason);
	while (f == FETCHED && c.count)
		f = take(run, &c.names[--c.count], NULL);
	return f == FETCHED ? take(run, n, s) : f;
}

static enum fetched take_listed(struct run *run, const struct name *n)
{
	CLEANUP(segment_done) struct segment s = {0};
	uint64_t want = expected(run);
	struct err err = {0};

	if (!want || n->id.seq <= want)
		return take(run, n, NULL);
	enum fetched f = fetch(run->l, n, &s, &err);
	if (f == FETCHED)
		return close_gap(run, n, &s);
	if (f != FETCH_STOP && f != FETCH_LOCAL)
		f = lost(run, want, n->text, "damaged or gone, and so the way to those before it");
	return f == FETCHED ? take(run, n, NULL) : f;
}

/* ---- groups ---- */

static struct wait *find_wait(struct puller *p, uint64_t node)
{
	for (unsigned i = 0; i < p->wait_count; i++) {
		if (p->wait[i].node == node)
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
		*w = (struct wait){.node = run->node, .since_ms = clock_monotonic_ms()};
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
	l->local = get_watermark(&run);
	if (l->local < 0)
		return;
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
		f = take_listed(&run, &names[i]);
	}
	stopped = f != FETCHED;
	if (run.batch && run.open && (stopped || !waited_enough(p, &run))) {
		drop_batch(&run);
		stopped = true;
	}
	int r = l->local < 0 ? 0 : commit_batch(&run);
	drop_batch(&run);
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

	(void)object;
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
	if (n->id.node == l->p->node)
		return 0; /* and our clock may be the one that is wrong */
	if (n->id.ms > l->newest_ms)
		l->newest_ms = n->id.ms;
	snprintf(n->text, sizeof(n->text), "%s", name);
	l->count++;
	return 0;
}

static bool list_page(struct pull *l)
{
	struct store_call call = region_call(l->region, 0);
	struct store_error error = {0};
	char after[SEGMENT_KEY_SIZE];

	memcpy(after, l->last, sizeof(after));
	l->count = 0;
	l->listed = 0;
	enum store_result result = store_list(l->region->store, SEGMENT_PREFIX,
		after[0] ? after : NULL, PAGE_NAMES, list_name, l, &call, &error);
	region_end(l->region, REGION_READ, result, &error, "list log");
	return result == STORE_OK;
}

static void pull_page(struct pull *l)
{
	struct name *names = l->p->page;

	qsort(names, l->count, sizeof(*names), name_cmp);
	for (unsigned i = 0, end; i < l->count && l->local == 0; i = end) {
		for (end = i + 1; end < l->count && names[end].id.node == names[i].id.node; end++)
			;
		if (atomic_load(&l->p->o.regions->cancel))
			l->failed = true;
		else
			pull_writer(l, names + i, end - i);
	}
}

/* ---- cursor ---- */

static uint64_t cursor_ms(const char *name)
{
	struct segment_id id;

	return segment_name_parse(name, &id) ? id.ms : 0;
}

/* How far behind the cursor this listing starts. */
static uint64_t window(struct puller *p, unsigned index)
{
	int64_t now = clock_monotonic_ms();
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
	/* First contact with a region that stands in for the home region. */
	if (!ms && index != p->o.home) {
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
 * broken clock must not hide what comes. */
static int move_cursor(struct pull *l, const char *cursor)
{
	int64_t now = clock_realtime_ms() + store_clock_skew_ms(l->region->store);
	struct segment_id id = {.ms = l->newest_ms};
	char name[SEGMENT_NAME_SIZE];
	struct conn *conn;

	if (now > 0 && id.ms > (uint64_t)now)
		id.ms = (uint64_t)now;
	if (l->unmerged_ms != UINT64_MAX && id.ms >= l->unmerged_ms)
		id.ms = l->unmerged_ms ? l->unmerged_ms - 1 : 0;
	if (id.ms <= cursor_ms(cursor))
		return 0;
	segment_name(&id, name);
	int r = cache_begin(l->p->cache, &conn);
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

/* Home when it may be used, else the next one in order; NULL when none answers. */
static struct region *choose(struct puller *p)
{
	struct regions *all = p->o.regions;

	for (unsigned i = 0; i < all->count; i++) {
		unsigned index = (p->o.home + i) % all->count;
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
	struct pull l = {.p = p, .region = region, .unmerged_ms = UINT64_MAX};
	char cursor[SEGMENT_NAME_SIZE];
	bool complete = false;

	int r = start_key(&l, cursor);
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
	r = move_cursor(&l, cursor);
	bool relist = p->region[region - p->o.regions->region].relist;
	if (complete && !l.failed && !relist && l.local == 0) {
		mutex_lock(&p->status_lock);
		p->status.last_ms = clock_realtime_ms();
		mutex_unlock(&p->status_lock);
	}
	return l.local < 0 ? l.local : r;
}

int puller_step(struct puller *p, bool *did)
{
	*did = false;
	int r = pull_held(p->cache, &p->o.merger, did);
	if (r < 0)
		return r;
	struct region *region = choose(p);
	return region ? pull_region(p, region, did) : 0;
}
