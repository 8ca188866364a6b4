/*
 * Writing checkpoints, and what they make superfluous removed.
 *
 * What makes one complete. In one view of the database: how far each writer's segments are merged
 * here (dump_segments), and every entry, plus the records that are held. Whatever a covered segment
 * said is in one of those, so merging the records and then all segments that are not covered gives
 * what merging the whole log gives. The view is also one moment of this server, on which nothing of a
 * directory is ahead of what was written before it; so it is written while nothing sealed here waits
 * to be announced in this region, nor for its object, unless that has lasted for another interval.
 *
 * The view is read into a nameless file in the state directory first: an upload may take minutes, and
 * the log of the database cannot start anew as long as a view is open. Memory: one part.
 *
 * Who writes. An object, the lease, holds a server and a time, by the store's clock, until which it is
 * at it (lease.h), and is renewed while parts are sent. It only saves work: the
 * name of a checkpoint has its writer's node, and two that are written at once are both good. So a
 * store without conditions needs nothing else.
 *
 * A region that is nobody's home. Any server takes it on that finds segments in its log which the newest
 * checkpoint does not cover and which are older than TAKEN_ON of those intervals that make one overdue
 * (1 for the server that wrote the newest one); so where a server is at home nobody does. It holds the
 * lease, has the puller read the log, and writes one when that is complete.
 *
 * What goes, after one was written:
 *   checkpoints   all but the newest two, and parts without a manifest after ABANDONED_MS
 *   segments      older than keep_ms, and covered by the newest two. The time before which that is so
 *                 stands in the manifest (horizon_ms), so that a server that was away can tell whether
 *                 anything that it lacks may be gone
 * A server that dies in the middle leaves it to the next one.
 *
 * Lock: status_lock (a leaf) guards status; the rest is the one thread's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cache/dump.h"
#include "cache/outbox.h"
#include "replicator/checkpoint.h"
#include "replicator/lease.h"
#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum {
	LEASE_BUSY_MS = 60000, /* somebody else is at it: look again then */
	ABANDONED_MS = 86400000,
	TAKEN_ON = 2,
	OVERDUE = 24, /* intervals after which even one segment makes a checkpoint worth while */
	CHECKED_MS = 3600000,
	REMOVE_MAX = 10000, /* names a step */
};

struct checkpointer {
	struct checkpointer_options o;
	int64_t next_look_ms;	  /* monotonic */
	int64_t due_since_ms;	  /* monotonic; 0: is not due */
	int64_t started_ms;	  /* realtime */
	bool looked;		  /* at the region, since the start */
	struct checkpoint newest; /* as last looked at; part_count 0 and ms 0: none */
	bool removing;		  /* segments are left to remove */
	bool reading;		  /* of a region that is nobody's home; the lease is held */
	int64_t reading_since_ms; /* monotonic */

	struct lease lease;

	struct mutex status_lock;
	struct checkpointer_status status;
};

int checkpointer_new(const struct checkpointer_options *o, struct checkpointer **ret)
{
	struct checkpointer *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->o = *o;
	w->lease = (struct lease){.cache = o->cache, .region = o->region, .key = CHECKPOINT_LEASE};
	w->started_ms = clock_realtime_ms();
	mutex_init(&w->status_lock, LOCK_RANK_LEAF);
	*ret = w;
	return 0;
}

void checkpointer_free(struct checkpointer *w)
{
	if (!w)
		return;
	checkpoint_done(&w->newest);
	mutex_done(&w->status_lock);
	free(w);
}

static int64_t store_now_ms(const struct checkpointer *w)
{
	return lease_now_ms(&w->lease);
}

/* ---- whether one is due ---- */

struct progress {
	struct checkpoint_mark mark;
	uint64_t segments;
	uint64_t rows;
};

static int read_progress(struct checkpointer *w, struct progress *ret)
{
	struct outbox_stats stats;
	struct conn *conn;
	int r = cache_read_begin(w->o.cache, &conn);

	if (r < 0)
		return r;
	r = checkpoint_mark_get(conn, w->o.region->id, &ret->mark);
	if (r == 0)
		r = dump_segment_count(conn, w->o.region->id, &ret->segments);
	if (r == 0)
		r = outbox_stats(conn, w->o.region->id, &stats);
	cache_read_end(conn);
	if (r < 0)
		return r;
	ret->rows = stats.rows;
	mutex_lock(&w->status_lock);
	w->status.newest_ms = (int64_t)ret->mark.ms;
	w->status.segments_since =
		ret->segments > ret->mark.segments ? ret->segments - ret->mark.segments : 0;
	mutex_unlock(&w->status_lock);
	return 0;
}

static bool is_due(const struct checkpointer *w, const struct progress *p)
{
	uint64_t since = p->segments > p->mark.segments ? p->segments - p->mark.segments : 0;
	int64_t age = store_now_ms(w) - (p->mark.ms ? (int64_t)p->mark.ms : w->started_ms);

	if (!p->mark.ms && since >= w->o.segments)
		return true;
	return (since >= w->o.segments && age >= w->o.interval_ms) ||
	       (since && age / OVERDUE >= w->o.interval_ms);
}

static int set_mark(struct checkpointer *w, const struct checkpoint *c)
{
	struct checkpoint_mark mark;
	struct conn *conn;
	int r = cache_begin_lazy(w->o.cache, &conn);

	if (r < 0)
		return r;
	r = checkpoint_mark_get(conn, w->o.region->id, &mark);
	if (r == 0) {
		mark.ms = c->ms;
		mark.node = c->node;
		mark.segments = checkpoint_segments(c);
		r = checkpoint_mark_set(conn, w->o.region->id, &mark);
	}
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

/* What others wrote. *answered: the region did. */
static int look(struct checkpointer *w, bool *answered)
{
	struct checkpoint c = {0};
	enum checkpoint_found found;
	int r = checkpoint_find(w->o.region, UINT64_MAX, &c, &found);

	*answered = r == 0 && found != CHECKPOINT_UNKNOWN;
	if (r < 0 || !*answered)
		return r;
	w->looked = true;
	checkpoint_done(&w->newest);
	w->newest = c;
	return set_mark(w, &w->newest);
}

/* ---- the view ---- */

struct writing {
	struct checkpointer *w;
	struct checkpoint checkpoint;
	uint32_t part_room;
	uint32_t cover_room;
	struct segment_writer part;
	struct buf out;
	int fd;
	uint64_t size; /* of the file so far */
	bool cancelled;
};

static int add_cover(void *ctx, uint64_t node, uint64_t seq, const char *name)
{
	struct writing *x = ctx;
	struct checkpoint *c = &x->checkpoint;
	struct segment_id id;

	(void)node;
	if (!segment_name_parse(name, &id) || id.node != node || id.seq != seq || !seq)
		return 0;
	if (c->cover_count == x->cover_room) {
		uint32_t room = x->cover_room ? 2 * x->cover_room : 64;
		struct segment_id *covers;

		if (room > CHECKPOINT_COVERS_MAX)
			return -E2BIG;
		covers = reallocarray(c->covers, room, sizeof(*covers));
		if (!covers)
			return -ENOMEM;
		c->covers = covers;
		x->cover_room = room;
	}
	c->covers[c->cover_count++] = id;
	return 0;
}

static int by_node(const void *x, const void *y)
{
	const struct segment_id *a = x, *b = y;

	return a->node < b->node ? -1 : a->node > b->node;
}

static int append(struct writing *x, const struct buf *b)
{
	int r = io_write_at(x->fd, b->data, b->len, x->size);

	if (!r)
		x->size += b->len;
	return r;
}

static int finish_part(struct writing *x)
{
	struct checkpoint *c = &x->checkpoint;
	struct segment_id id = {c->ms, c->node, c->part_count + 1};
	int r;

	if (!x->part.records)
		return 0;
	if (atomic_load(&x->w->o.region->all->cancel)) {
		x->cancelled = true;
		return -ECANCELED;
	}
	if (c->part_count == x->part_room) {
		uint32_t room = x->part_room ? 2 * x->part_room : 64;
		struct checkpoint_part *parts;

		if (room > CHECKPOINT_PARTS_MAX)
			return -E2BIG;
		parts = reallocarray(c->parts, room, sizeof(*parts));
		if (!parts)
			return -ENOMEM;
		c->parts = parts;
		x->part_room = room;
	}
	r = segment_finish(&x->part, &id, "", false, &x->out);
	if (r == 0)
		r = append(x, &x->out);
	if (r < 0)
		return r;
	struct checkpoint_part *part = &c->parts[c->part_count++];
	part->size = x->out.len;
	sha256(x->out.data, x->out.len, part->hash);
	c->records += x->part.records;
	buf_clear(&x->part.raw);
	x->part.records = 0;
	return 0;
}

static int add_record(struct writing *x, const struct record *record)
{
	segment_add(&x->part, record);
	if (x->part.raw.failed)
		return -ENOMEM;
	return x->part.raw.len < CHECKPOINT_PART_BYTES ? 0 : finish_part(x);
}

static int add_entry(void *ctx, struct slice key, const struct entry *e)
{
	struct record record = {.entry = *e}; /* borrowed */

	/* What was never written as a whole has no record: no writer ever announced it. */
	if (!e->content_stamp.time || !e->attr_stamp.time)
		return 0;
	if (!key_set(&record.key, key))
		return -EIO;
	return add_record(ctx, &record);
}

static int add_held(void *ctx, const void *p, size_t len)
{
	struct writing *x = ctx;
	struct record record = {0};
	int r = record_decode(p, len, &record, NULL);

	if (r < 0)
		return r == -EBADMSG ? 0 : r;
	r = add_record(x, &record);
	record_done(&record);
	return r;
}

/* Segments may be gone that the one before covers, and this server has not merged, because it knows what
 * they said from another region, or is about to load that checkpoint. */
static bool is_behind(const struct checkpoint *c, const struct checkpoint *before)
{
	for (uint32_t i = 0; i < before->cover_count; i++) {
		if (checkpoint_covers(c, before->covers[i].node) < before->covers[i].seq)
			return true;
	}
	return false;
}

static int read_view(struct writing *x)
{
	unsigned region = x->w->o.region->id;
	char cursor[SEGMENT_NAME_SIZE];
	struct segment_id id;
	struct conn *conn;
	int r = cache_read_begin(x->w->o.cache, &conn);

	if (r < 0)
		return r;
	r = dump_segments(conn, region, add_cover, x);
	if (x->checkpoint.cover_count)
		qsort(x->checkpoint.covers, x->checkpoint.cover_count,
			sizeof(*x->checkpoint.covers), by_node);
	if (r == 0 && is_behind(&x->checkpoint, &x->w->newest)) {
		x->cancelled = true;
		r = -ECANCELED;
	}
	if (r == 0)
		r = cursor_get(conn, region, cursor);
	if (r == 0)
		r = dump_held(conn, add_held, x);
	if (r == 0)
		r = dump_entries(conn, add_entry, x);
	cache_read_end(conn);
	if (r == 0)
		r = finish_part(x);
	if (r < 0)
		return r;
	if (segment_name_parse(cursor, &id))
		x->checkpoint.cursor_ms = id.ms;
	return 0;
}

/* ---- sending ---- */

struct part_source {
	int fd;
	uint64_t at;
};

static ssize_t read_part(void *ctx, uint64_t offset, void *p, size_t len)
{
	struct part_source *s = ctx;
	ssize_t n = pread(s->fd, p, len, (off_t)(s->at + offset));

	return n < 0 ? -errno : n ? n : -EIO;
}

static bool put_part(struct writing *x, uint32_t i, uint64_t at)
{
	struct checkpoint *c = &x->checkpoint;
	struct region *r = x->w->o.region;
	struct segment_id id = {c->ms, c->node, i + 1};
	struct part_source from = {x->fd, at};
	struct store_source source = {c->parts[i].size, read_part, &from};
	struct store_call call = region_call(r, source.size);
	char name[SEGMENT_NAME_SIZE], key[CHECKPOINT_KEY_SIZE];
	struct store_error error = {0};

	segment_name(&id, name);
	snprintf(key, sizeof(key), CHECKPOINT_PREFIX "%s", name);
	enum store_result result =
		store_put(r->store, key, &source, NULL, NULL, NULL, &call, &error);
	region_end(r, REGION_WRITE, result, &error, "put a checkpoint");
	return result == STORE_OK;
}

static bool put_manifest(struct writing *x)
{
	struct region *r = x->w->o.region;
	char name[CHECKPOINT_NAME_SIZE], key[CHECKPOINT_KEY_SIZE];
	struct store_error error = {0};

	checkpoint_encode(&x->checkpoint, &x->out);
	if (x->out.failed)
		return false;
	struct store_call call = region_call(r, x->out.len);
	checkpoint_name(x->checkpoint.ms, x->checkpoint.node, name);
	snprintf(key, sizeof(key), CHECKPOINT_PREFIX "%s", name);
	enum store_result result = store_put_buf(
		r->store, key, x->out.data, x->out.len, NULL, NULL, NULL, &call, &error);
	region_end(r, REGION_WRITE, result, &error, "put a checkpoint's manifest");
	return result == STORE_OK;
}

static bool send(struct writing *x)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < x->checkpoint.part_count; i++) {
		if (!lease_keep(&x->w->lease) || !put_part(x, i, at))
			return false;
		at += x->checkpoint.parts[i].size;
	}
	return lease_keep(&x->w->lease) && put_manifest(x);
}

static void writing_done(struct writing *x)
{
	checkpoint_done(&x->checkpoint);
	segment_writer_done(&x->part);
	buf_done(&x->out);
	if (x->fd >= 0)
		close(x->fd);
}

/* With the lease. *written. */
static int write_one(struct checkpointer *w, bool *written)
{
	CLEANUP(writing_done) struct writing x = {.w = w, .fd = -1};
	uint64_t now = (uint64_t)store_now_ms(w), keep = (uint64_t)w->o.keep_ms;
	int64_t start = clock_monotonic_ms();

	x.checkpoint.ms = now > w->newest.ms ? now : w->newest.ms + 1;
	x.checkpoint.node = cache_node(w->o.cache);
	x.checkpoint.horizon_ms = now > keep ? now - keep : 0;
	if (x.checkpoint.horizon_ms < w->newest.horizon_ms)
		x.checkpoint.horizon_ms = w->newest.horizon_ms;
	x.fd = cache_spool(w->o.cache);
	if (x.fd < 0)
		return x.fd;
	int r = read_view(&x);
	if (r < 0)
		return x.cancelled ? 0 : r;
	if (!send(&x))
		return 0;
	r = set_mark(w, &x.checkpoint);
	if (r < 0)
		return r;
	log_info("checkpoint written region=%s records=%" PRIu64 " parts=%u bytes=%" PRIu64
		 " ms=%" PRId64,
		w->o.region->name, x.checkpoint.records, x.checkpoint.part_count, x.size,
		clock_monotonic_ms() - start);
	metric_add(METRIC_CHECKPOINTS_WRITTEN, 1);
	*written = true;
	return 0;
}

/* ---- removing ---- */

/* Keys to remove, collected before the first goes: a listing is not asked to bear it. */
struct removal {
	struct checkpointer *w;
	const struct checkpoint *newest, *before;
	struct buf keys; /* varint length and bytes, of each */
	unsigned count;
	bool more;
};

static bool remove_key(struct checkpointer *w, const char *key)
{
	struct region *r = w->o.region;
	struct store_call call = region_call(r, 0);
	struct store_error error = {0};
	enum store_result result = store_remove(r->store, key, NULL, &call, &error);

	region_end(r, REGION_WRITE, result, &error, "remove what a checkpoint covers");
	return result == STORE_OK || result == STORE_ABSENT;
}

/* *all: everything that was collected is gone. */
static int remove_all(struct removal *x, bool *all)
{
	struct reader r = reader_of(x->keys.data, x->keys.len);
	unsigned gone = 0;

	*all = !x->more;
	if (x->keys.failed)
		return -ENOMEM;
	while (reader_left(&r)) {
		char key[CHECKPOINT_KEY_SIZE];
		size_t n = 0;
		const uint8_t *p = reader_bytes(&r, sizeof(key) - 1, &n);

		CHECK(p);
		memcpy(key, p, n);
		key[n] = '\0';
		if (atomic_load(&x->w->o.region->all->cancel) || !remove_key(x->w, key)) {
			*all = false;
			break;
		}
		gone++;
	}
	metric_add(METRIC_SEGMENTS_REMOVED, gone);
	return 0;
}

static int collect(struct removal *x, const char *key)
{
	if (x->count == REMOVE_MAX) {
		x->more = true;
		return 1;
	}
	x->count++;
	buf_put_bytes(&x->keys, key, strlen(key));
	return 0;
}

static int collect_old(void *ctx, const char *key, const struct store_object *object)
{
	struct removal *x = ctx;
	const char *name = key + strlen(CHECKPOINT_PREFIX);
	struct segment_id id = {0};
	bool part = segment_name_parse(name, &id);
	uint64_t now = (uint64_t)store_now_ms(x->w);
	bool kept;

	(void)object;
	if (!part && !checkpoint_name_parse(name, &id.ms, &id.node))
		return 0;
	kept = (id.ms == x->newest->ms && id.node == x->newest->node) ||
	       (id.ms == x->before->ms && id.node == x->before->node);
	/* A younger one may still be being written, or read. */
	if (kept || id.ms >= x->newest->ms || (id.ms > x->before->ms && id.ms + ABANDONED_MS > now))
		return 0;
	return strlen(key) < CHECKPOINT_KEY_SIZE ? collect(x, key) : 0;
}

static int collect_covered(void *ctx, const char *key, const struct store_object *object)
{
	struct removal *x = ctx;
	struct segment_id id;

	(void)object;
	if (!segment_name_parse(key + strlen(SEGMENT_PREFIX), &id))
		return 0;
	if (id.ms >= x->newest->horizon_ms)
		return 1;
	if (id.seq > checkpoint_covers(x->newest, id.node) ||
		id.seq > checkpoint_covers(x->before, id.node))
		return 0;
	return collect(x, key);
}

static int remove_listed(
	struct checkpointer *w, struct removal *x, const char *prefix, store_list_fn fn, bool *all)
{
	struct region *r = w->o.region;
	struct store_call call = region_call(r, 0);
	struct store_error error = {0};

	buf_clear(&x->keys);
	x->count = 0;
	x->more = false;
	*all = false;
	enum store_result result = store_list(r->store, prefix, NULL, 0, fn, x, &call, &error);
	region_end(r, REGION_READ, result, &error, "list what a checkpoint covers");
	return result == STORE_OK ? remove_all(x, all) : 0;
}

/* By what is in the region now, whoever wrote it. */
static int remove_superfluous(struct checkpointer *w, bool *did)
{
	CLEANUP(checkpoint_done) struct checkpoint before = {0};
	struct removal x = {.w = w, .newest = &w->newest, .before = &before};
	enum checkpoint_found found = CHECKPOINT_NONE;
	bool answered, old = false, segments = false;
	int r = look(w, &answered);

	if (r == 0 && answered && w->newest.ms)
		r = checkpoint_find(w->o.region, w->newest.ms, &before, &found);
	if (r < 0)
		return r;
	if (answered && found == CHECKPOINT_NONE) {
		w->removing = false;
		return 0;
	}
	if (!answered || found != CHECKPOINT_FOUND)
		return 0;
	r = remove_listed(w, &x, CHECKPOINT_PREFIX, collect_old, &old);
	*did |= x.count > 0;
	if (r == 0 && old) {
		r = remove_listed(w, &x, SEGMENT_PREFIX, collect_covered, &segments);
		*did |= x.count > 0;
	}
	buf_done(&x.keys);
	w->removing = !(old && segments);
	return r;
}

/* ---- the step ---- */

static int try_one(struct checkpointer *w, bool *did)
{
	struct progress p;
	bool answered, written = false;
	int r = look(w, &answered);

	if (r == 0 && answered)
		r = read_progress(w, &p);
	if (r < 0 || !answered)
		return r;
	if (!is_due(w, &p)) {
		w->due_since_ms = 0;
		return 0;
	}
	if (!lease_take(&w->lease)) {
		w->next_look_ms = clock_monotonic_ms() + LEASE_BUSY_MS;
		return 0;
	}
	r = write_one(w, &written);
	lease_give(&w->lease);
	if (r < 0 || !written)
		return r;
	w->due_since_ms = 0;
	w->removing = true;
	*did = true;
	return 0;
}

/* ---- regions that are nobody's home ---- */

struct uncovered {
	const struct checkpoint *newest;
	uint64_t before_ms;
	bool found;
};

static int find_uncovered(void *ctx, const char *key, const struct store_object *object)
{
	struct uncovered *u = ctx;
	struct segment_id id;

	(void)object;
	if (!segment_name_parse(key + strlen(SEGMENT_PREFIX), &id))
		return 0;
	if (id.ms >= u->before_ms)
		return 1;
	u->found = id.seq > checkpoint_covers(u->newest, id.node);
	return u->found;
}

/* Whether nobody has written what the log says into a checkpoint for so long that nobody will. */
static bool is_left_alone(struct checkpointer *w)
{
	struct region *r = w->o.region;
	struct store_call call = region_call(r, 0);
	struct store_error error = {0};
	bool own = w->newest.ms && w->newest.node == cache_node(w->o.cache);
	uint64_t late = (uint64_t)w->o.interval_ms * OVERDUE * (own ? 1 : TAKEN_ON);
	uint64_t now = (uint64_t)store_now_ms(w);
	struct uncovered u = {.newest = &w->newest, .before_ms = now > late ? now - late : 0};
	/* What came late has its time from before. */
	uint64_t from = w->newest.ms > CHECKED_MS ? w->newest.ms - CHECKED_MS : 0;
	char after[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE];

	if (w->newest.ms + late > now)
		return false;
	snprintf(after, sizeof(after), "%s%012" PRIx64, SEGMENT_PREFIX, from);
	enum store_result result = store_list(
		r->store, SEGMENT_PREFIX, from ? after : NULL, 0, find_uncovered, &u, &call, &error);
	region_end(r, REGION_READ, result, &error, "list log");
	return result == STORE_OK && u.found;
}

static void stop_reading(struct checkpointer *w)
{
	puller_read(w->o.puller, w->o.index, false);
	if (w->reading)
		lease_give(&w->lease);
	w->reading = false;
}

static int take_on(struct checkpointer *w)
{
	bool answered;
	int r = look(w, &answered);

	w->next_look_ms = clock_monotonic_ms() +
			  (w->o.interval_ms > w->o.look_ms ? w->o.interval_ms : w->o.look_ms);
	if (r < 0 || !answered || !is_left_alone(w) || !lease_take(&w->lease))
		return r;
	w->reading = true;
	w->reading_since_ms = clock_monotonic_ms();
	w->next_look_ms = 0;
	puller_read(w->o.puller, w->o.index, true);
	log_info("reading the log of a region that is nobody's home, for a checkpoint region=%s",
		w->o.region->name);
	return 0;
}

static int adopt(struct checkpointer *w, bool *did)
{
	bool written = false, answered;

	if (region_is_out(w->o.cache, w->o.region->id)) {
		stop_reading(w);
		return 0;
	}
	if (!w->reading)
		return take_on(w);
	if (!lease_keep(&w->lease)) {
		stop_reading(w);
		return 0;
	}
	if (puller_read_ms(w->o.puller, w->o.index) <= w->reading_since_ms)
		return 0;
	int r = look(w, &answered);
	if (r == 0 && answered)
		r = write_one(w, &written);
	stop_reading(w);
	w->removing = *did = r == 0 && written;
	return r;
}

int checkpointer_step(struct checkpointer *w, bool *did)
{
	int64_t now = clock_monotonic_ms();
	struct progress p;

	*did = false;
	if (now < w->next_look_ms || !region_up(w->o.region, REGION_WRITE))
		return 0;
	w->next_look_ms = now + w->o.look_ms;
	int r = read_progress(w, &p);
	if (r < 0)
		return r;
	if (w->o.puller && !w->removing)
		return adopt(w, did);
	if (!w->looked && !p.mark.ms && p.segments) {
		bool answered;

		r = look(w, &answered);
		if (r == 0)
			r = read_progress(w, &p);
		if (r < 0)
			return r;
	}
	if (w->removing)
		return remove_superfluous(w, did);
	if (!is_due(w, &p)) {
		w->due_since_ms = 0;
		return 0;
	}
	if (!w->due_since_ms)
		w->due_since_ms = now;
	if (p.rows && now - w->due_since_ms < w->o.interval_ms)
		return 0;
	return try_one(w, did);
}

void checkpointer_status(struct checkpointer *w, struct checkpointer_status *ret)
{
	mutex_lock(&w->status_lock);
	*ret = w->status;
	mutex_unlock(&w->status_lock);
}
