/*
 * Reading checkpoints: the newest one is found by one listing and loaded part by part.
 *
 * What loading must leave true whenever it stops: each entry is a merge of what was merged here, so
 * any prefix of the parts is a sound state; the watermarks, which say that segments need not be read,
 * move only in the transaction of the last part. A load that is taken up again begins behind the
 * parts that checkpoint_mark counts.
 *
 * Threads. Merging is one thread's, the caller's. AHEAD fetchers keep that many parts ready, each in
 * the slot of its number modulo AHEAD; a slot's state moves under the lock: empty -> (fetcher) full
 * or failed -> (caller) empty. Memory: AHEAD + 1 parts, compressed and not.
 *
 * What comes from a bucket is hostile: a part is checked against the manifest's hash and then like
 * any segment.
 */
#include <errno.h>
#include <stdio.h>

#include "cache/dump.h"
#include "replicator/checkpoint.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum {
	AHEAD = 3,
	NAMES_KEPT = 8,	      /* of the newest manifests; a listing shows the oldest first */
	FUTURE_MS = 86400000, /* one of a broken clock must not hide what comes */
};

/* ---- finding ---- */

struct found_name {
	uint64_t ms;
	uint64_t node;
};

struct listing {
	struct found_name name[NAMES_KEPT]; /* a ring */
	unsigned count;
	uint64_t before_ms;
};

static int list_manifest(void *ctx, const char *key, const struct store_object *object)
{
	struct listing *l = ctx;
	struct found_name n;

	(void)object;
	if (checkpoint_name_parse(key + strlen(CHECKPOINT_PREFIX), &n.ms, &n.node) &&
		n.ms < l->before_ms)
		l->name[l->count++ % NAMES_KEPT] = n;
	return 0;
}

static enum store_result get(struct region *r, const char *key, uint64_t max, struct buf *b)
{
	struct store_call call = region_call(r, max);
	struct store_error error = {0};
	enum store_result result = store_get_buf(r->store, key, max, b, NULL, NULL, &call, &error);

	region_end(r, REGION_READ, result, &error, "get checkpoint");
	return result;
}

/* CHECKPOINT_NONE: that one cannot be used. */
static int read_manifest(struct region *r, const struct found_name *n, struct checkpoint *ret,
	enum checkpoint_found *found)
{
	char name[CHECKPOINT_NAME_SIZE], key[CHECKPOINT_KEY_SIZE];
	CLEANUP(buf_done) struct buf b = {0};
	struct err err = {0};

	checkpoint_name(n->ms, n->node, name);
	snprintf(key, sizeof(key), CHECKPOINT_PREFIX "%s", name);
	*found = CHECKPOINT_NONE;
	enum store_result result = get(r, key, CHECKPOINT_MANIFEST_MAX, &b);
	if (result == STORE_ABSENT || result == STORE_TOO_LARGE || result == STORE_CORRUPT)
		return 0;
	if (result != STORE_OK) {
		*found = CHECKPOINT_UNKNOWN;
		return 0;
	}
	int code = checkpoint_decode(name, b.data, b.len, ret, &err);
	if (code == 0)
		*found = CHECKPOINT_FOUND;
	else if (code != -ENOMEM)
		log_warn("checkpoint passed over region=%s error=\"%s\"", r->name, err.text);
	return code == -ENOMEM ? code : 0;
}

int checkpoint_find(
	struct region *r, uint64_t before_ms, struct checkpoint *ret, enum checkpoint_found *result)
{
	struct store_call call = region_call(r, 0);
	int64_t now = clock_realtime_ms() + store_clock_skew_ms(r->store) + FUTURE_MS;
	struct listing l = {.before_ms = before_ms};
	struct store_error error = {0};

	if (now > 0 && (uint64_t)now < l.before_ms)
		l.before_ms = (uint64_t)now;
	enum store_result listed =
		store_list(r->store, CHECKPOINT_PREFIX, NULL, 0, list_manifest, &l, &call, &error);
	region_end(r, REGION_READ, listed, &error, "list checkpoints");
	*result = listed == STORE_OK ? CHECKPOINT_NONE : CHECKPOINT_UNKNOWN;
	for (unsigned i = 0; i < l.count && i < NAMES_KEPT && *result == CHECKPOINT_NONE; i++) {
		int code = read_manifest(r, &l.name[(l.count - 1 - i) % NAMES_KEPT], ret, result);
		if (code < 0)
			return code;
	}
	return 0;
}

/* ---- fetching parts ---- */

enum slot_state { SLOT_EMPTY, SLOT_FULL, SLOT_FAILED };

struct slot {
	enum slot_state state;
	struct segment part;
};

struct load {
	struct region *region;
	const struct merger_options *options;
	const struct checkpoint *checkpoint;
	struct checkpoint_mark mark;
	uint64_t at; /* part to be merged next, from 0 */

	struct mutex lock; /* guards the rest */
	struct cond cond;
	struct slot slot[AHEAD];
	uint64_t next; /* to be fetched */
	bool stop;
	pthread_t thread[AHEAD];
	unsigned threads;
};

/* False: not now, or it is damaged. */
static bool fetch_part(struct load *l, uint64_t number, struct segment *ret)
{
	const struct checkpoint_part *want = &l->checkpoint->parts[number];
	struct segment_id id = {l->checkpoint->ms, l->checkpoint->node, number + 1};
	char name[SEGMENT_NAME_SIZE], key[CHECKPOINT_KEY_SIZE];
	CLEANUP(buf_done) struct buf b = {0};
	uint8_t hash[SHA256_SIZE];
	struct err err = {0};

	segment_name(&id, name);
	snprintf(key, sizeof(key), CHECKPOINT_PREFIX "%s", name);
	enum store_result result = get(l->region, key, want->size + 1, &b);
	if (result != STORE_OK) {
		log_info("part of a checkpoint cannot be had region=%s part=%s reason=\"%s\"",
			l->region->name, name, store_result_name(result));
		return false;
	}
	sha256(b.data, b.len, hash);
	if (b.len != want->size || memcmp(hash, want->hash, sizeof(hash))) {
		log_warn("part of a checkpoint is not what its manifest says region=%s part=%s",
			l->region->name, name);
		return false;
	}
	if (segment_parse(name, b.data, b.len, ret, &err) < 0) {
		log_warn("part of a checkpoint refused region=%s error=\"%s\"", l->region->name,
			err.text);
		return false;
	}
	return true;
}

static void *fetch_parts(void *arg)
{
	struct load *l = arg;

	thread_background();
	mutex_lock(&l->lock);
	while (!l->stop && l->next < l->checkpoint->part_count) {
		struct slot *slot = &l->slot[l->next % AHEAD];
		struct segment part = {0};
		uint64_t number;

		if (slot->state != SLOT_EMPTY || l->next >= l->at + AHEAD) {
			cond_wait(&l->cond, &l->lock);
			continue;
		}
		number = l->next++;
		mutex_unlock(&l->lock);
		bool good = fetch_part(l, number, &part);
		mutex_lock(&l->lock);
		slot->part = part;
		slot->state = good ? SLOT_FULL : SLOT_FAILED;
		cond_broadcast(&l->cond);
	}
	mutex_unlock(&l->lock);
	return NULL;
}

static void begin_fetching(struct load *l, bool threaded)
{
	char name[16];

	mutex_init(&l->lock, LOCK_RANK_REPLICATOR);
	cond_init(&l->cond);
	for (unsigned i = 0; threaded && i < AHEAD; i++) {
		snprintf(name, sizeof(name), "checkpoint-%u", i % 10);
		if (thread_start(&l->thread[l->threads], name, fetch_parts, l) == 0)
			l->threads++;
	}
}

static void end_fetching(struct load *l)
{
	mutex_lock(&l->lock);
	l->stop = true;
	cond_broadcast(&l->cond);
	mutex_unlock(&l->lock);
	for (unsigned i = 0; i < l->threads; i++)
		CHECK(pthread_join(l->thread[i], NULL) == 0);
	for (unsigned i = 0; i < AHEAD; i++)
		segment_done(&l->slot[i].part);
	cond_done(&l->cond);
	mutex_done(&l->lock);
}

/* The part to be merged next; false when it is not to be had. */
static bool take_part(struct load *l, struct segment *ret)
{
	struct slot *slot = &l->slot[l->at % AHEAD];

	if (!l->threads)
		return fetch_part(l, l->at, ret);
	mutex_lock(&l->lock);
	while (slot->state == SLOT_EMPTY)
		cond_wait(&l->cond, &l->lock);
	bool good = slot->state == SLOT_FULL;
	*ret = slot->part;
	slot->part = (struct segment){0};
	mutex_unlock(&l->lock);
	return good;
}

static void part_merged(struct load *l)
{
	mutex_lock(&l->lock);
	l->slot[l->at % AHEAD].state = SLOT_EMPTY;
	l->at++;
	cond_broadcast(&l->cond);
	mutex_unlock(&l->lock);
}

/* ---- merging ---- */

/* Watermarks and cursor only ever move forward. */
static int enter_log(struct load *l, struct conn *conn)
{
	const struct checkpoint *c = l->checkpoint;
	struct segment_id at = {.ms = c->cursor_ms}, cursor;
	char name[SEGMENT_NAME_SIZE];
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < c->cover_count; i++) {
		uint64_t seq;

		r = watermark_get(conn, l->region->id, c->covers[i].node, &seq, name);
		/* Its own ones are here, unless some are known to be missing (own_log.h). */
		if (r || seq >= c->covers[i].seq ||
			(c->covers[i].node == cache_node(conn_cache(conn)) && !name[0]))
			continue;
		segment_name(&c->covers[i], name);
		r = watermark_set(conn, l->region->id, c->covers[i].node, c->covers[i].seq, name);
	}
	if (r == 0)
		r = cursor_get(conn, l->region->id, name);
	if (r || (segment_name_parse(name, &cursor) && cursor.ms >= at.ms))
		return r;
	segment_name(&at, name);
	return cursor_set(conn, l->region->id, name);
}

static int record_part(void *ctx, struct conn *conn)
{
	struct load *l = ctx;
	const struct checkpoint *c = l->checkpoint;
	struct checkpoint_mark mark;
	int r = checkpoint_mark_get(conn, l->region->id, &mark);

	if (r)
		return r;
	if (l->at + 1 < c->part_count) {
		mark.loading_ms = c->ms;
		mark.loading_node = c->node;
		mark.loaded = l->at + 1;
		return checkpoint_mark_set(conn, l->region->id, &mark);
	}
	mark = (struct checkpoint_mark){
		.ms = c->ms, .node = c->node, .segments = checkpoint_segments(c)};
	r = checkpoint_mark_set(conn, l->region->id, &mark);
	return r ? r : enter_log(l, conn);
}

static int merge_part(struct load *l, const struct segment *part)
{
	struct merge_batch *batch;
	int r = merge_batch_new(l->region->all->cache, l->options, &batch);

	if (r < 0)
		return r;
	if (part)
		r = merge_batch_add_segment(batch, part);
	if (r == 0)
		r = merge_batch_commit(batch, record_part, l);
	merge_batch_free(batch);
	return r;
}

static int read_mark(struct load *l)
{
	struct conn *conn;
	int r = cache_read_begin(l->region->all->cache, &conn);

	if (r < 0)
		return r;
	r = checkpoint_mark_get(conn, l->region->id, &l->mark);
	cache_read_end(conn);
	return r;
}

static int load_parts(struct load *l, checkpoint_progress_fn done, void *ctx)
{
	int r = 0;

	/* Without any part there is still the way into the log. */
	if (!l->checkpoint->part_count)
		return merge_part(l, NULL);
	while (r == 0 && l->at < l->checkpoint->part_count) {
		CLEANUP(segment_done) struct segment part = {0};

		if (atomic_load(&l->region->all->cancel) || !take_part(l, &part))
			return -EAGAIN;
		r = merge_part(l, &part);
		if (r == 0)
			part_merged(l);
		if (r == 0 && done && !done(ctx, l->at, l->checkpoint->part_count) &&
			l->at < l->checkpoint->part_count)
			return -EAGAIN;
	}
	return r;
}

int checkpoint_load(struct region *region, const struct merger_options *o,
	const struct checkpoint *c, bool threaded, checkpoint_progress_fn done, void *ctx,
	bool *loaded)
{
	struct load l = {.region = region, .options = o, .checkpoint = c};
	int64_t start = clock_monotonic_ms();

	*loaded = false;
	int r = read_mark(&l);
	if (r < 0)
		return r;
	if (l.mark.loading_ms == c->ms && l.mark.loading_node == c->node &&
		l.mark.loaded < c->part_count)
		l.at = l.next = l.mark.loaded;
	begin_fetching(&l, threaded);
	r = load_parts(&l, done, ctx);
	end_fetching(&l);
	*loaded = r == 0;
	if (r == 0)
		metric_add(METRIC_CHECKPOINTS_LOADED, 1);
	if (r == 0)
		log_info("checkpoint loaded region=%s records=%llu ms=%lld", region->name,
			(unsigned long long)c->records, (long long)(clock_monotonic_ms() - start));
	return r == -EAGAIN || r == -EBUSY ? 0 : r;
}
