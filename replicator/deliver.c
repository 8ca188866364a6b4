/*
 * The deliverer: objects of one region, from the rows that are announced (OBJECT) and those that
 * must be there before they may be (UPLOAD). Here are its threads and queues; how one row is delivered
 * is in deliver_row.c, what is recorded of it in deliver_outcome.c.
 *
 * A dispatcher thread reads due rows into short queues, workers deliver them, and the dispatcher
 * writes what became of them to the database, up to 64 rows in a transaction or every 20 ms. A key
 * is busy from the moment its row is queued until that transaction, so no two workers touch one
 * key. lanes.c says which row is next: large files never keep small ones waiting. A crash loses at
 * most what was not written yet; those rows are delivered again, which costs one HEAD or a refused
 * PUT.
 *
 * Large objects go in parts (upload.c), with the help of more threads: a quarter of the workers' number
 * for all uploads of the region together.
 *
 * Workers are started when rows wait and none of them is idle: how many there are follows from how far away
 * the region is, up to the configured number.
 *
 * Lock: deliverer.lock guards the queues, the busy set, the completions and idle; never held across a
 * request or a commit.
 */
#include <errno.h>
#include <stdio.h>

#include "replicator/deliver_internal.h"
#include "src/base/clock.h"
#include "src/base/log.h"

enum {
	FLUSH_ROWS = 64,
	FLUSH_MS = 20,
	IDLE_MS = 1000,
	REST_MS = 1000, /* after progress could not be recorded */
	RECHECK_AGAIN_MS = 1000,
	SWEEP_MS = 600000, /* for uploads that nobody goes on with */
};

int deliverer_new(const struct delivery_options *o, struct deliverer **ret)
{
	struct deliverer *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->o = *o;
	if (d->o.threads > DELIVER_THREADS_MAX)
		d->o.threads = DELIVER_THREADS_MAX;
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
			deliver_row(d, &jobs[total++]);
		}
	}
	*did = total > 0;
	int applied = deliver_record(d, jobs, total);
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
	uint64_t hash = slice_hash(key_slice(key));

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
		uint64_t hash = slice_hash(key_slice(&rows[i].key));

		if (is_busy(d, hash) || d->busy_count == DELIVER_BUSY_MAX ||
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
	int r = deliver_record(d, jobs, count);
	if (r < 0)
		log_warn(
			"progress not recorded, objects will be looked at again region=%s error=%d",
			d->o.region->name, r);
	/* What made it fail, a full disk say, does not pass at once. */
	d->rest_until_ms = r < 0 ? clock_monotonic_ms() + REST_MS : 0;
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
			d->recheck.at_ms = clock_realtime_ms() + RECHECK_AGAIN_MS;
		if (clock_monotonic_ms() >= d->rest_until_ms &&
			region_begin(d->o.region, REGION_WRITE)) {
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
		d->done = calloc(DELIVER_BUSY_MAX, sizeof(*d->done));
		CHECK(d->done);
	}
	CHECK(d->done_count < DELIVER_BUSY_MAX);
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
			deliver_row(d, j);
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
