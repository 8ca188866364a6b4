/*
 * One writer's run: its segments in order of number, fetched, merged in batches, the watermark
 * moved with each.
 *
 *   gap        a segment whose number is not the watermark + 1. Each names its previous one: the
 *              chain is followed back to the watermark. One that does not lead there, or is too
 *              long, has the log listed again from the watermark's time on; what is still missing
 *              then may be covered by a checkpoint (pull_checkpoint.c), else it is reported as
 *              lost, never skipped in silence
 *
 * What comes from a bucket is hostile: bodies are bounded, damaged ones are fetched once more, then
 * recorded for the operator and passed over. A segment of a newer format stops its writer (here,
 * until the upgrade) and nobody else.
 *
 * Memory: one segment, the batch under way, and at a gap CHAIN_MAX names.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "replicator/pull_internal.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

void segment_key(char key[SEGMENT_KEY_SIZE], const char *name)
{
	snprintf(key, SEGMENT_KEY_SIZE, "%s%s", SEGMENT_PREFIX, name);
}

int run_begin(struct run *run)
{
	struct conn *conn;
	int r = cache_read_begin(run->l->p->cache, &conn);

	if (r < 0)
		return r;
	r = watermark_get(conn, run->l->region->id, run->node, &run->seq, run->name);
	cache_read_end(conn);
	return r;
}

/* A segment that cannot be had; the watermark moves on with the run's next commit. */
static int add_bad(struct pull *l, const char *name, const char *reason)
{
	struct conn *conn;
	int r = cache_begin_lazy(l->p->cache, &conn);

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

void run_drop(struct run *run)
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
	p->status.lag_ms = hlc_wall_ms(cache_clock(p->cache)) - (int64_t)newest_ms;
	mutex_unlock(&p->status_lock);
}

int run_commit(struct run *run)
{
	if (!run->batch)
		return 0;
	int r = merge_batch_commit(run->batch, set_watermark, run);
	unsigned batched = run->batched;
	run_drop(run);
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
	return run_commit(run);
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

static enum fetched fetch_once(
	struct pull *l, const struct name *n, struct segment *s, struct err *err, bool *newer)
{
	struct store_call call = region_call_urgent(l->region, SEGMENT_BYTES_MAX);
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};
	char key[SEGMENT_KEY_SIZE];

	segment_key(key, n->text);
	enum store_result result;

	if (!ahead_take(l->p->ahead, key, &b, &result, &error))
		result = store_get_buf(
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
		if (f == FETCH_ABSENT && pull_wants_checkpoint(run->l))
			return FETCH_STOP;
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
	/* Ours are read again to look for more than is here, not because they are missing. */
	if (run->node == l->p->node)
		return FETCHED;
	if (pull_wants_checkpoint(l))
		return FETCH_STOP;
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

enum fetched run_take(struct run *run, const struct name *n)
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
