/*
 * The deliverer: objects of one region, from the rows that are announced (OBJECT) and those that
 * must be there before they may be (UPLOAD).
 *
 * A dispatcher thread reads due rows into two short queues, workers deliver them, and the
 * dispatcher writes what became of them to the database, up to 64 rows in a transaction or every 20
 * ms. A key is busy from the moment its row is queued until that transaction, so no two workers
 * touch one key. lanes.c says which row is next: large files never keep small ones waiting. A crash loses at most what was not written yet; those rows are delivered again, which
 * costs one HEAD or a refused PUT.
 *
 * What is delivered is the entry as it is now. A row whose stamp is not the entry's was overtaken:
 * it is put off shortly, so that its newer version takes the usual way (announced first), and
 * delivered as it is if that persists.
 *
 * After a write the entry is read again. When a remote version was merged in between, its author
 * may have looked at the region before our write; the key is queued again with that version, for
 * the object only. Writes that may arrive later than anybody looks are remembered (touched_mark):
 * those whose answer was lost are looked for again after RECHECK_MS, those made on behalf of
 * another server when the path goes or changes its kind (merge_record.c).
 *
 * The object of a large file whose change was announced as a delta follows at a pace (delta_pace.h). A version that
 * replaces it meanwhile does not stop it, else that of a file that is appended to all the time would never get
 * there.
 *
 * Large objects go in parts (upload.c), with the help of more threads: a quarter of the workers' number
 * for all uploads of the region together.
 *
 * Content of another author that is not here (its attributes changed here) mostly needs no bytes:
 * the object is there and gets new metadata. When it is not, its author is most likely sending it:
 * the first three attempts are given up for that. After them the content is fetched from another
 * region, because the author may be gone for good. What no region has any more: lost.c.
 *
 * Workers are started when rows wait and none of them is idle: how many there are follows from how far away
 * the region is, up to the configured number.
 *
 * Lock: deliverer.lock guards the queues, the busy set, the completions and idle; never held across a
 * request or a commit.
 */
#include "replicator/deliver.h"

#include <errno.h>
#include <stdio.h>

#include "cache/content_map.h"
#include "replicator/body.h"
#include "replicator/lanes.h"
#include "replicator/foreign.h"
#include "replicator/lost.h"
#include "replicator/object.h"
#include "replicator/placed.h"
#include "replicator/recheck.h"
#include "replicator/sources.h"
#include "replicator/upload.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/random.h"

enum {
	THREADS_MAX = 256,
	BUSY_MAX = LANES * LANE_ROWS + THREADS_MAX + 256,
	FLUSH_ROWS = 64,
	FLUSH_MS = 20,
	IDLE_MS = 1000,
	SOON_MS = 200,
	BACKOFF_FIRST_MS = 1000,
	BACKOFF_MAX_MS = 60000,
	WAIT_FOR_AUTHOR = 3, /* attempts */
	LOST_AFTER = 12,     /* attempts */
	SEARCH_EVERY = 64,   /* attempts after that */
	SWEEP_MS = 600000,   /* for uploads that nobody goes on with */
	PACE_LOOK_MS = 1000,
	BULK_FROM = 1 << 20,
};

enum fate { FATE_NONE, FATE_DONE, FATE_WAITS, FATE_FAILED, FATE_PARKED };

/* A row and what became of it. */
struct job {
	struct outbox_row row;
	enum fate fate;
	bool repair;	/* the entry was replaced by a remote version meanwhile */
	bool uncertain; /* a write of it may still be under way */
	bool deputy;	/* content of another's was put */
	struct object_note note;
	bool gone;	/* no region has its content, nor is it here */
	bool lost;	/* and lost.h may have an answer */
	bool untold;	/* nobody was told of it: it is in no segment */
	bool was_here;	/* it was here once */
	bool settled;	/* a former name, whose new one is there */
	bool mapped;	/* the object is now the version with that hash, which may have a map */
	uint8_t hash[SHA256_SIZE];
	int64_t next_at_ms;
	char error[OUTBOX_ERROR_SIZE];
};

struct deliverer {
	struct delivery_options o;
	struct mutex lock;
	struct cond work; /* workers: rows, or stopping */
	struct cond news; /* dispatcher: completions, room, kicked, stopping */
	struct lanes lanes;
	struct placed placed;
	uint64_t busy[BUSY_MAX]; /* hashes of keys */
	unsigned busy_count;
	struct job *done; /* completions; room for BUSY_MAX */
	unsigned done_count;
	bool kicked;
	bool stopping;

	struct uploader uploader;
	bool sweep;	       /* guarded by lock: due */
	bool sweeping;	       /* likewise: somebody is at it */
	bool listed;	       /* the sweeper's: it has been through the bucket's uploads */
	int64_t sweep_at_ms;   /* monotonic; the dispatcher's, or deliverer_step's */
	struct recheck recheck; /* the dispatcher's, or deliverer_step's */
	pthread_t dispatcher;
	bool dispatching;
	pthread_t *workers;
	unsigned started; /* the dispatcher's, while there is one */
	unsigned idle;	  /* workers that wait */
};

int deliverer_new(const struct delivery_options *o, struct deliverer **ret)
{
	struct deliverer *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->o = *o;
	if (d->o.threads > THREADS_MAX)
		d->o.threads = THREADS_MAX;
	d->lanes.threads = d->o.threads ? d->o.threads : 1;
	d->workers = calloc(d->o.threads ? d->o.threads : 1, sizeof(*d->workers));
	int r = d->workers ? uploader_init(&d->uploader, o->cache, o->region->store, o->region->id)
			   : -ENOMEM;
	if (r < 0) {
		free(d->workers);
		free(d);
		return r;
	}
	mutex_init(&d->lock, LOCK_RANK_REPLICATOR);
	placed_init(&d->placed);
	cond_init(&d->work);
	cond_init(&d->news);
	*ret = d;
	return 0;
}

void deliverer_free(struct deliverer *d)
{
	if (!d)
		return;
	deliverer_stop(d);
	cond_done(&d->work);
	cond_done(&d->news);
	mutex_done(&d->lock);
	placed_done(&d->placed);
	free(d->workers);
	free(d->done);
	free(d);
}

static uint64_t key_hash(const struct key *k)
{
	uint64_t h = 14695981039346656037u;

	for (size_t i = 0; i < k->len; i++)
		h = (h ^ (uint8_t)k->p[i]) * 1099511628211u;
	return h;
}

static int64_t backoff_ms(uint32_t attempts)
{
	int64_t pause = (int64_t)BACKOFF_FIRST_MS << (attempts < 6 ? attempts : 6);

	if (pause > BACKOFF_MAX_MS)
		pause = BACKOFF_MAX_MS;
	return pause / 2 + (int64_t)random_below((uint64_t)pause / 2 + 1);
}

/* ---- one row ---- */

struct opener {
	struct deliverer *d;
	const struct outbox_row *row;
	const struct entry *entry;
	struct body body;
	bool ready; /* source is that of the body */
	struct store_source source;
	bool searched; /* the segments, too */
	bool nowhere;  /* every region was asked, none has the content */
};

static bool may_be_in_log(const struct opener *o)
{
	return o->row->state == OUTBOX_OBJECT && o->row->attempts >= LOST_AFTER &&
	       (o->row->attempts - LOST_AFTER) % SEARCH_EVERY == 0 &&
	       o->entry->size <= o->d->o.inline_max &&
	       o->entry->content_stamp.node == cache_node(o->d->o.cache);
}

static int open_body(void *ctx, struct store_source *ret)
{
	struct opener *o = ctx;
	struct deliverer *d = o->d;
	struct slice key = key_slice(&o->row->key);

	if (o->ready) {
		*ret = o->source;
		return 0;
	}
	int r = body_open_local(&o->body, d->o.cache, d->o.inline_cache, key, o->entry, ret);
	if (r != -EAGAIN)
		return r;
	/* Mostly a newer seal takes the row over, or the author brings it. */
	if (!o->row->moved_from.len && o->row->attempts < WAIT_FOR_AUTHOR)
		return -EAGAIN;
	r = body_fetch(
		&o->body, d->o.region->all, d->o.region, key, o->entry->hash, o->entry->size);
	if (r == -EAGAIN || r == -EIO)
		r = body_fetch_moved(
			&o->body, d->o.region->all, key_slice(&o->row->moved_from), o->entry);
	if (r == -EAGAIN && may_be_in_log(o)) {
		r = body_fetch_announced(&o->body, d->o.region->all, o->entry);
		o->searched = true;
	}
	o->nowhere = r == -EAGAIN && !o->body.unsure;
	if (r < 0)
		return r;
	*ret = body_spooled(&o->body);
	return 0;
}

/* The region was told of this version by a delta; its object follows. */
static bool follows(const struct outbox_row *row)
{
	return row->has_base && row->state == OUTBOX_OBJECT;
}

/* False: a newer version took the row over, or it is gone. */
static bool current(void *ctx)
{
	const struct opener *o = ctx;
	struct outbox_row now;
	struct conn *conn;

	if (cache_read_begin(o->d->o.cache, &conn) < 0)
		return true;
	int r = outbox_get(conn, o->d->o.region->id, key_slice(&o->row->key), &now);
	cache_read_end(conn);
	/* A file that changes all the time is never up to date, and its object has to be sent for
	 * once; what came since follows it. */
	if (r == 0 && follows(o->row) && now.has_base)
		return true;
	return r == 0 ? stamp_cmp(now.stamp, o->row->stamp) == 0 : r != -ENOENT;
}

static int read_entry(struct deliverer *d, struct slice key, struct entry *ret)
{
	struct conn *conn;
	int r = cache_read_begin(d->o.cache, &conn);

	if (r < 0)
		return r;
	r = entry_get(conn, key, ret);
	cache_read_end(conn);
	return r;
}

static void fail(struct job *j, int64_t pause_ms, const char *text)
{
	j->fate = FATE_FAILED;
	j->next_at_ms = clock_monotonic_ms() + pause_ms;
	snprintf(j->error, sizeof(j->error), "%.*s", OUTBOX_ERROR_SIZE - 1, text);
}

/* What a result means for the row. */
static void judge(struct deliverer *d, struct job *j, enum store_result result,
	const struct store_error *error)
{
	char text[256];

	store_failure_text(text, sizeof(text), "object", result, error);
	switch (result) {
	case STORE_OK:
		j->fate = FATE_DONE;
		return;
	case STORE_LOCAL:
		if (error->local_errno == ECANCELED)
			return;
		if (error->local_errno == ENAMETOOLONG) {
			j->fate = FATE_PARKED;
			snprintf(j->error, sizeof(j->error),
				"the path is too long for an object key");
			return;
		}
		if (error->local_errno == EAGAIN || error->local_errno == ESTALE)
			fail(j, j->row.attempts < 10 ? SOON_MS : backoff_ms(j->row.attempts - 10),
				j->gone ? "its content is lost: not here, and in no region"
					: "its content is not here in this version");
		else
			fail(j, backoff_ms(j->row.attempts), text);
		return;
	case STORE_TOO_LARGE:
	case STORE_UNSUPPORTED:
		j->fate = FATE_PARKED;
		snprintf(j->error, sizeof(j->error), "%.*s", (int)sizeof(j->error) - 1, text);
		log_error("object cannot be written region=%s key=\"%s\" error=\"%s\"",
			d->o.region->name, j->row.key.p, text);
		return;
	default:
		fail(j, backoff_ms(j->row.attempts), text);
	}
}

static void check_overtaken(struct deliverer *d, struct job *j, const struct entry *delivered)
{
	CLEANUP(entry_done) struct entry now = {0};

	if (read_entry(d, key_slice(&j->row.key), &now) < 0)
		return;
	j->repair = stamp_cmp(entry_stamp(&now), entry_stamp(delivered)) > 0 &&
		    (now.content_stamp.node != cache_node(d->o.cache) || now.kind == KIND_ABSENT);
}

static bool was_placed(void *ctx, const uint8_t hash[SHA256_SIZE])
{
	const struct opener *o = ctx;

	return placed_has(&o->d->placed, key_slice(&o->row->moved_to), hash);
}

/* Looked at again every second, for somebody may be in a hurry by then. */
static bool is_too_soon(struct deliverer *d, struct job *j)
{
	int64_t wait = 0;

	if (follows(&j->row))
		wait = delta_pace_wait_ms(d->o.pace, d->o.region->id, key_slice(&j->row.key));
	if (wait > 0) {
		j->fate = FATE_WAITS;
		j->next_at_ms = clock_monotonic_ms() + (wait < PACE_LOOK_MS ? wait : PACE_LOOK_MS);
	}
	return wait > 0;
}

/* False: the row is not to be delivered now, or not at all. */
static bool find_sources(struct deliverer *d, struct job *j, struct opener *o, struct sources *s)
{
	int r = sources_find(d->o.cache, d->o.region, &j->row, o->entry, s);

	if (r < 0) {
		fail(j, backoff_ms(j->row.attempts), "the outbox cannot be read");
	} else if (s->wait) {
		j->fate = FATE_WAITS;
		j->next_at_ms = clock_monotonic_ms() + s->wait_ms;
	} else if (s->settled) {
		j->fate = FATE_DONE;
		j->settled = true;
	} else if (s->source[0].key && entry_live(o->entry) && o->entry->size <= d->o.inline_max) {
		o->ready = body_open_local(&o->body, d->o.cache, d->o.inline_cache,
				   key_slice(&j->row.key), o->entry, &o->source) == 0;
	}
	s->source[0].placed = was_placed;
	s->source[0].ctx = o;
	return j->fate == FATE_NONE;
}

static void deliver(struct deliverer *d, struct job *j)
{
	AUTO_FREE struct sources *sources = malloc(sizeof(*sources));
	CLEANUP(entry_done) struct entry entry = {0};
	struct store_call call = region_call(d->o.region, j->row.size);
	struct opener opener = {.d = d, .row = &j->row, .entry = &entry};
	struct store_error error = {0};
	struct object_outcome outcome = {0};
	int64_t start_ms = clock_monotonic_ms();

	if (is_too_soon(d, j))
		return;
	if (j->row.size > BULK_FROM)
		call.priority = STORE_BULK;
	int r = read_entry(d, key_slice(&j->row.key), &entry);
	if (r == -ENOENT || (r == 0 && !j->row.key.len)) {
		j->fate = FATE_DONE; /* nothing to deliver; the root has no object */
		return;
	}
	if (r < 0) {
		fail(j, backoff_ms(j->row.attempts), "the entry cannot be read");
		return;
	}
	if (stamp_cmp(entry_stamp(&entry), j->row.stamp) != 0 && j->row.attempts < 2) {
		fail(j, SOON_MS, "overtaken by a newer version");
		return;
	}
	CHECK(sources);
	if (!find_sources(d, j, &opener, sources)) {
		body_done(&opener.body);
		return;
	}
	struct object_request q = {
		.store = d->o.region->store,
		.uploader = &d->uploader,
		.call = &call,
		.key = key_slice(&j->row.key),
		.entry = &entry,
		/* A large body is not sent in vain. */
		.fresh = j->row.fresh &&
			 (j->row.state == OUTBOX_UPLOAD || entry.size <= d->o.inline_max) &&
			 (entry_live(&entry) || j->row.attempts == 0),
		.sources = {sources->source[0], sources->source[1]},
		.send_rather = opener.ready,
		.open = open_body,
		.current = current,
		.ctx = &opener,
	};
	enum store_result result = object_deliver(&q, &outcome, &error);
	body_done(&opener.body);
	if (result == STORE_OK)
		upload_settled(&d->uploader, q.key, &call);
	if (follows(&j->row))
		delta_pace_sent(d->o.pace, d->o.region->id, q.key, start_ms);
	j->gone = opener.nowhere && j->row.attempts >= LOST_AFTER;
	bool foreign = foreign_is_node(d->o.region->all, entry.content_stamp.node);
	j->lost = j->gone && (entry.content_stamp.node == cache_node(d->o.cache) || foreign);
	j->was_here = !j->row.unfetched && !foreign;
	j->untold = opener.searched || j->row.state == OUTBOX_UPLOAD;
	if (outcome.copied)
		atomic_fetch_add(&d->o.region->bytes_copied, entry.size);
	if (outcome.refused)
		sources_refused(d->o.region, &outcome.refusal);
	region_end(d->o.region, REGION_WRITE, result, &error, "object");
	judge(d, j, result, &error);
	j->uncertain = outcome.uncertain;
	j->deputy = outcome.put && entry.content_stamp.node != cache_node(d->o.cache);
	if (j->fate == FATE_DONE) {
		j->note = object_note_of(&entry, &outcome);
		check_overtaken(d, j, &entry);
	}
	if (j->fate == FATE_DONE && j->row.moved_from.len && !outcome.superseded &&
		entry.kind == KIND_FILE)
		placed_note(&d->placed, q.key, entry.hash);
	j->mapped = j->fate == FATE_DONE && !outcome.superseded && entry.kind == KIND_FILE &&
		    entry.size >= content_map_min(d->o.cache);
	memcpy(j->hash, entry.hash, SHA256_SIZE);
}

/* ---- completions ---- */

static int enqueue_repair(struct conn *conn, const struct outbox_row *row)
{
	CLEANUP(entry_done) struct entry now = {0};

	int r = entry_get(conn, key_slice(&row->key), &now);
	if (r < 0)
		return r;
	struct outbox_change change = {
		.key = key_slice(&row->key),
		.stamp = entry_stamp(&now),
		.size = now.kind == KIND_FILE ? now.size : 0,
		.object_only = true,
	};
	return outbox_enqueue(conn, &change);
}

static int apply(struct deliverer *d, struct conn *conn, const struct job *j)
{
	struct slice key = key_slice(&j->row.key);
	unsigned region = d->o.region->id;
	int r = 0;

	if (j->uncertain)
		r = touched_mark(conn, key, clock_realtime_ms() + RECHECK_MS);
	else if (j->deputy)
		r = touched_mark(conn, key, 0);
	if (r < 0)
		return r;
	switch (j->fate) {
	case FATE_NONE:
		return 0;
	case FATE_WAITS:
		return outbox_put_off(conn, region, key, j->row.stamp, j->next_at_ms);
	case FATE_DONE:
		if ((r = object_note(conn, region, key, &j->note, j->row.fresh)) < 0)
			return r;
		if (j->mapped && (r = content_map_delivered(conn, region, j->hash)) < 0)
			return r;
		if (j->settled)
			r = outbox_announce_unsent(conn, region, key, j->row.stamp);
		else if (j->row.state == OUTBOX_UPLOAD)
			r = outbox_advance(conn, region, key, j->row.stamp, OUTBOX_ANNOUNCE);
		else
			r = outbox_finish(conn, region, key, j->row.stamp);
		if (r == 0 && j->repair)
			r = enqueue_repair(conn, &j->row);
		return r;
	default:
		if (j->lost && (r = lost_content(d->o.cache, conn, &j->row, j->was_here,
					j->untold, d->o.inline_max)) != 0)
			return r < 0 ? r : 0;
		/* Another server's version whose content is nowhere, too: that server may have written
		 * over it since, and wait with the newer one for something that waits behind this. */
		if ((j->fate == FATE_PARKED || (j->gone && !j->lost)) &&
			j->row.state == OUTBOX_UPLOAD)
			return outbox_announce_unsent(conn, region, key, j->row.stamp);
		return outbox_failed(conn, region, key, j->row.stamp, j->next_at_ms, j->error,
			j->fate == FATE_PARKED);
	}
}

static int apply_all(struct deliverer *d, const struct job *jobs, unsigned count)
{
	struct conn *conn;

	if (!count)
		return 0;
	int r = cache_begin_lazy(d->o.cache, &conn);
	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = apply(d, conn, &jobs[i]);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

static int due_rows(
	struct deliverer *d, enum lane lane, unsigned max, struct outbox_row *rows, unsigned *count)
{
	struct conn *conn;
	int r;

	*count = 0;
	if (region_is_out(d->o.cache, d->o.region->id))
		return 0;
	r = cache_read_begin(d->o.cache, &conn);
	if (r < 0)
		return r;
	r = lane_due(
		&d->lanes, conn, d->o.region->id, lane, clock_monotonic_ms(), max, rows, count);
	cache_read_end(conn);
	return r;
}

/* The bucket's own list of uploads is gone through once in each run. */
static void sweep(struct deliverer *d)
{
	struct store_call call = region_call(d->o.region, 0);
	struct store_error error = {0};
	char text[256];

	enum store_result r = upload_sweep(&d->uploader, !d->listed, &call, &error);
	d->listed |= r == STORE_OK;
	region_end(d->o.region, REGION_WRITE, r, &error, "uploads");
	if (r == STORE_OK)
		return;
	store_failure_text(text, sizeof(text), "uploads", r, &error);
	log_debug("uploads not swept region=%s error=\"%s\"", d->o.region->name, text);
}

/* The region may be used. */
static bool sweep_due(struct deliverer *d)
{
	if (clock_monotonic_ms() < d->sweep_at_ms)
		return false;
	d->sweep_at_ms = clock_monotonic_ms() + SWEEP_MS;
	return true;
}

/* ---- without threads ---- */

int deliverer_step(struct deliverer *d, unsigned max, bool *did)
{
	unsigned total = 0;
	int r = 0;

	*did = false;
	if (max > LANE_ROWS)
		max = LANE_ROWS;
	if (!max || !region_begin(d->o.region, REGION_WRITE))
		return 0;
	AUTO_FREE struct outbox_row *rows = calloc(max, sizeof(*rows));
	AUTO_FREE struct job *jobs = calloc(max, sizeof(*jobs));
	if (!rows || !jobs)
		return -ENOMEM;
	if (sweep_due(d))
		sweep(d);
	r = recheck_due(&d->recheck, d->o.cache, d->o.region->id);
	for (enum lane lane = 0; r == 0 && lane < LANES && total < max; lane++) {
		unsigned count = 0;

		r = due_rows(d, lane, max - total, rows, &count);
		for (unsigned i = 0; r == 0 && i < count && region_up(d->o.region, REGION_WRITE);
			i++) {
			jobs[total].row = rows[i];
			deliver(d, &jobs[total++]);
		}
	}
	*did = total > 0;
	int applied = apply_all(d, jobs, total);
	if (total && d->o.moved)
		d->o.moved(d->o.ctx);
	return r < 0 ? r : applied;
}

/* ---- with threads ---- */

static bool is_busy(const struct deliverer *d, uint64_t hash)
{
	for (unsigned i = 0; i < d->busy_count; i++) {
		if (d->busy[i] == hash)
			return true;
	}
	return false;
}

static void not_busy(struct deliverer *d, const struct key *key)
{
	uint64_t hash = key_hash(key);

	for (unsigned i = 0; i < d->busy_count; i++) {
		if (d->busy[i] == hash) {
			d->busy[i] = d->busy[--d->busy_count];
			return;
		}
	}
}

/* Takes what fits of rows into the lane. */
static unsigned queue_rows(
	struct deliverer *d, enum lane lane, const struct outbox_row *rows, unsigned count)
{
	unsigned taken = 0;

	mutex_lock(&d->lock);
	for (unsigned i = 0; i < count; i++) {
		uint64_t hash = key_hash(&rows[i].key);

		if (is_busy(d, hash) || d->busy_count == BUSY_MAX ||
			!lane_put(&d->lanes, lane, &rows[i]))
			continue;
		d->busy[d->busy_count++] = hash;
		taken++;
	}
	if (taken >= d->idle)
		cond_broadcast(&d->work);
	for (unsigned i = 0; taken < d->idle && i < taken; i++)
		cond_signal(&d->work);
	mutex_unlock(&d->lock);
	return taken;
}

static unsigned refill(struct deliverer *d, struct outbox_row *rows)
{
	unsigned taken = 0;

	for (enum lane lane = 0; lane < LANES; lane++) {
		unsigned count = 0;

		mutex_lock(&d->lock);
		unsigned room = LANE_ROWS - d->lanes.queue[lane].count;
		mutex_unlock(&d->lock);
		if (room >= LANE_ROWS / 2 && due_rows(d, lane, room, rows, &count) == 0)
			taken += queue_rows(d, lane, rows, count);
	}
	return taken;
}

static void *worker(void *arg);

static int start_worker(struct deliverer *d)
{
	char name[16];

	snprintf(name, sizeof(name), "object-%u", d->o.region->id);
	int r = thread_start(&d->workers[d->started], name, worker, d);
	if (r == 0)
		d->started++;
	return r;
}

/* For the rows that no worker is free for. One that cannot be started now is tried with the next rows. */
static void start_workers(struct deliverer *d)
{
	unsigned rows = 0;

	mutex_lock(&d->lock);
	for (enum lane lane = 0; lane < LANES; lane++)
		rows += d->lanes.queue[lane].count;
	rows -= rows < d->idle ? rows : d->idle;
	mutex_unlock(&d->lock);
	while (rows-- && d->started < d->o.threads && start_worker(d) == 0)
		;
}

/* Writes the completions to the database; then their keys are free. */
static void flush(struct deliverer *d)
{
	mutex_lock(&d->lock);
	struct job *jobs = d->done;
	unsigned count = d->done_count;
	d->done = NULL;
	d->done_count = 0;
	mutex_unlock(&d->lock);
	int r = apply_all(d, jobs, count);
	if (r < 0)
		log_warn(
			"progress not recorded, objects will be looked at again region=%s error=%d",
			d->o.region->name, r);
	mutex_lock(&d->lock);
	for (unsigned i = 0; i < count; i++)
		not_busy(d, &jobs[i].row.key);
	mutex_unlock(&d->lock);
	free(jobs);
	if (count && d->o.moved)
		d->o.moved(d->o.ctx);
}

/* Until completions are worth a transaction, there is room for rows, or somebody calls. */
static void dispatcher_wait(struct deliverer *d, bool more)
{
	mutex_lock(&d->lock);
	if (!d->stopping && !d->kicked && d->done_count < FLUSH_ROWS) {
		bool active = d->busy_count > 0 || more;
		cond_wait_ms(&d->news, &d->lock, active ? FLUSH_MS : IDLE_MS);
	}
	d->kicked = false;
	mutex_unlock(&d->lock);
}

static bool stopping(struct deliverer *d)
{
	mutex_lock(&d->lock);
	bool stop = d->stopping;
	mutex_unlock(&d->lock);
	return stop;
}

static void order_sweep(struct deliverer *d)
{
	mutex_lock(&d->lock);
	d->sweep = true;
	cond_signal(&d->work);
	mutex_unlock(&d->lock);
}

static void *dispatch(void *arg)
{
	struct deliverer *d = arg;
	struct outbox_row *rows = calloc(LANE_ROWS, sizeof(*rows));

	CHECK(rows);
	thread_give_way();
	while (!stopping(d)) {
		unsigned taken = 0;

		flush(d);
		if (recheck_due(&d->recheck, d->o.cache, d->o.region->id) < 0)
			d->recheck.at_ms = clock_realtime_ms() + BACKOFF_FIRST_MS;
		if (region_begin(d->o.region, REGION_WRITE)) {
			if (sweep_due(d))
				order_sweep(d);
			taken = refill(d, rows);
			start_workers(d);
		}
		dispatcher_wait(d, taken > 0);
	}
	flush(d);
	free(rows);
	return NULL;
}

static void complete(struct deliverer *d, const struct job *j)
{
	mutex_lock(&d->lock);
	lane_end(&d->lanes, &j->row);
	if (!d->done) {
		d->done = calloc(BUSY_MAX, sizeof(*d->done));
		CHECK(d->done);
	}
	CHECK(d->done_count < BUSY_MAX);
	d->done[d->done_count++] = *j;
	if (d->done_count >= FLUSH_ROWS || lanes_empty(&d->lanes))
		cond_signal(&d->news);
	mutex_unlock(&d->lock);
}

/* Under the lock, which it gives up meanwhile. */
static void sweep_if_ordered(struct deliverer *d)
{
	if (!d->sweep || d->sweeping)
		return;
	d->sweep = false;
	d->sweeping = true;
	cond_signal(&d->work); /* who was woken for a row takes it later than others can */
	mutex_unlock(&d->lock);
	sweep(d);
	mutex_lock(&d->lock);
	d->sweeping = false;
}

static void *worker(void *arg)
{
	struct deliverer *d = arg;
	struct job *j = calloc(1, sizeof(*j));

	CHECK(j);
	thread_in_crowd();
	for (;;) {
		memset(j, 0, sizeof(*j));
		mutex_lock(&d->lock);
		sweep_if_ordered(d);
		while (!d->stopping && !lane_take(&d->lanes, &j->row)) {
			d->idle++;
			cond_wait(&d->work, &d->lock);
			d->idle--;
			sweep_if_ordered(d);
		}
		bool stop = d->stopping;
		mutex_unlock(&d->lock);
		if (stop)
			break;
		if (region_up(d->o.region, REGION_WRITE))
			deliver(d, j);
		complete(d, j); /* a row that was not tried stays as it is */
	}
	free(j);
	return NULL;
}

int deliverer_start(struct deliverer *d)
{
	char name[16];

	d->stopping = false;
	d->uploader.helpers_max = (d->o.threads + 3) / 4;
	snprintf(name, sizeof(name), "objects-%u", d->o.region->id);
	int r = start_worker(d); /* it sweeps, too */
	if (r < 0)
		return r;
	r = thread_start(&d->dispatcher, name, dispatch, d);
	d->dispatching = r == 0;
	if (r < 0)
		deliverer_stop(d);
	return r;
}

void deliverer_stop(struct deliverer *d)
{
	mutex_lock(&d->lock);
	d->stopping = true;
	cond_broadcast(&d->work);
	cond_broadcast(&d->news);
	mutex_unlock(&d->lock);
	if (d->dispatching)
		CHECK(pthread_join(d->dispatcher, NULL) == 0);
	d->dispatching = false;
	while (d->started)
		CHECK(pthread_join(d->workers[--d->started], NULL) == 0);
	flush(d);
	lanes_clear(&d->lanes);
	d->busy_count = 0;
}

void deliverer_kick(struct deliverer *d)
{
	mutex_lock(&d->lock);
	d->kicked = true;
	cond_signal(&d->news);
	mutex_unlock(&d->lock);
}
