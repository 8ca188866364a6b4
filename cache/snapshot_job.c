/*
 * Snapshots in the background. Copying and hashing a large file takes minutes, and unlike hashing it in
 * place (hashing.c) it cannot be done in slices: a snapshot is of one instant, and what is journalled after
 * that instant must not go with it. So a thread of the cache's own takes it, one at a time, while the sealer goes on
 * with other directories.
 *
 * A job is in one place of a table:
 *   WAITING  asked for
 *   RUNNING  the thread takes it into snapshot/<ino>/next; dropped: nobody wants it any more
 *   DONE     it is there, for content_take_snapshot; taken: it has the name of its hash
 *   FAILED   it could not be taken, for lack of space say: the inode's next one begins at rest_ms. The pause
 *            doubles with each, since a large file may be copied nearly to its end each time; while somebody
 *            waits it is FAILED_WAITED_MS at most. Where no copy is needed any more it holds up nothing
 *   RUBBISH  next is to be removed, by the thread: that takes long
 *   REST     the inode's next one begins at rest_ms: no file is read for more than half of the time,
 *            unless somebody waits for it
 *
 * as_of is a time of the volume's clock drawn inside a write transaction before the snapshot began. Each operation
 * whose stamp is not later has ended by then, and the group that it was in is committed, so later changes are not
 * added to its row (journal_inode): a row from up to as_of speaks of changes that the snapshot has.
 *
 * What nobody asks for during STALE_MS, or when it is there takes, goes: its file was removed, or sealed in
 * another way.
 *
 * Lock: snapshot_jobs.lock, a leaf, which guards the table. The thread works without it, on a job that stays
 * RUNNING meanwhile and of which others change only dropped and used_ms.
 */
#include "cache/snapshot_job.h"

#include <errno.h>
#include <string.h>

#include "cache/snapshot.h"
#include "src/base/clock.h"
#include "src/base/log.h"

#define PLACES CONTENT_SNAPSHOTS_MAX
#define STALE_MS 60000
#define LOOK_MS 5000 /* for what is stale */
#define FAILED_FIRST_MS 1000
#define FAILED_MAX_MS 300000
#define FAILED_WAITED_MS 10000

enum job_state { FREE, WAITING, RUNNING, DONE, FAILED, RUBBISH, REST };

struct snapshot_job {
	enum job_state state;
	uint64_t ino;
	struct record *rec; /* WAITING and RUNNING: a reference */
	bool hashed;
	bool dropped;
	bool taken;
	unsigned refused; /* in a row */
	uint64_t asked;	  /* WAITING: in this order */
	uint64_t as_of;
	struct content_version version;
	int result;
	int64_t used_ms;
	int64_t rest_ms;
	int64_t pause_ms; /* after the last failure; 0: since then one was taken */
};

struct snapshot_jobs {
	struct mutex lock;
	struct cond cond; /* something changed */
	struct snapshot_job place[PLACES];
	uint64_t asked;
	pthread_t thread;
	bool started;
	bool stopping;
	unsigned hurry;
};

struct snapshot_jobs *snapshot_jobs_new(void)
{
	struct snapshot_jobs *t = calloc(1, sizeof(*t));

	if (t) {
		mutex_init(&t->lock, LOCK_RANK_LEAF);
		cond_init(&t->cond);
	}
	return t;
}

void snapshot_jobs_free(struct snapshot_jobs *t)
{
	if (!t)
		return;
	cond_done(&t->cond);
	mutex_done(&t->lock);
	free(t);
}

/* ---- with the lock ---- */

static struct snapshot_job *find(struct snapshot_jobs *t, uint64_t ino)
{
	for (unsigned i = 0; i < PLACES; i++) {
		if (t->place[i].state != FREE && t->place[i].ino == ino)
			return &t->place[i];
	}
	return NULL;
}

static bool in_state(struct snapshot_jobs *t, enum job_state state)
{
	for (unsigned i = 0; i < PLACES; i++) {
		if (t->place[i].state == state)
			return true;
	}
	return false;
}

/* Whether a leaves its place to others rather than b: both rest, or failed. */
static bool gives_way(const struct snapshot_job *a, const struct snapshot_job *b)
{
	return a->state != b->state ? a->state == REST : a->rest_ms < b->rest_ms;
}

/* A free place, or that of one that rests, or that failed: it is then tried again sooner. */
static struct snapshot_job *find_room(struct snapshot_jobs *t)
{
	struct snapshot_job *room = NULL;

	for (unsigned i = 0; i < PLACES; i++) {
		struct snapshot_job *j = &t->place[i];

		if (j->state == FREE)
			return j;
		if ((j->state == REST || j->state == FAILED) && (!room || gives_way(j, room)))
			room = j;
	}
	return room;
}

/* Whether one that failed is to be tried again. */
static bool is_due(const struct snapshot_jobs *t, const struct snapshot_job *j, int64_t now)
{
	return now >= j->rest_ms ||
	       (t->hurry && now >= j->rest_ms - j->pause_ms + FAILED_WAITED_MS);
}

static struct snapshot_job *find_next(struct snapshot_jobs *t)
{
	struct snapshot_job *next = NULL;

	for (unsigned i = 0; i < PLACES; i++) {
		struct snapshot_job *j = &t->place[i];

		if (j->state == RUBBISH)
			return j;
		if (j->state == WAITING && (!next || j->asked < next->asked))
			next = j;
	}
	return next;
}

/* One that is WAITING is left to the thread, which has to give its record back. */
static void drop(struct snapshot_jobs *t, struct snapshot_job *j)
{
	if (j->state == WAITING || j->state == RUNNING)
		j->dropped = true;
	else if (j->state == DONE)
		j->state = j->taken ? REST : RUBBISH;
	else if (j->state == FAILED)
		j->state = FREE;
	cond_broadcast(&t->cond);
}

static void drop_stale(struct snapshot_jobs *t)
{
	int64_t now = clock_monotonic_ms();

	for (unsigned i = 0; i < PLACES; i++) {
		struct snapshot_job *j = &t->place[i];

		if (j->state == REST && now >= j->rest_ms && now - j->used_ms >= STALE_MS)
			j->state = FREE;
		else if (now - j->used_ms >= STALE_MS)
			drop(t, j);
	}
}

/* ---- the thread ---- */

static bool is_over(struct cache *c)
{
	return clock_monotonic_ms() >= atomic_load(&c->hash_end_ms);
}

static int draw_time(struct cache *c, uint64_t *ret)
{
	struct conn *conn;
	int r = cache_begin_lazy(c, &conn);

	if (r)
		return r;
	*ret = hlc_now(&c->clock);
	cache_rollback(conn);
	return 0;
}

static void fail(struct snapshot_job *j, int64_t now, int64_t took_ms)
{
	j->state = FAILED;
	j->pause_ms = j->pause_ms ? 2 * j->pause_ms : FAILED_FIRST_MS;
	if (j->pause_ms > FAILED_MAX_MS)
		j->pause_ms = FAILED_MAX_MS;
	if (j->pause_ms < took_ms)
		j->pause_ms = took_ms;
	j->rest_ms = now + j->pause_ms;
}

/* Without the lock, which it has before and after. */
static void run(struct cache *c, struct snapshot_job *j)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	struct record *rec = j->rec;
	struct content_version v = j->version;
	bool hashed = j->hashed, vain = j->dropped, failed;
	int64_t start = clock_monotonic_ms(), now;
	uint64_t as_of = 0;
	int r;

	j->state = RUNNING;
	mutex_unlock(&t->lock);
	r = vain || is_over(c) ? -EAGAIN : draw_time(c, &as_of);
	if (!r)
		r = snapshot_take(c, rec, hashed, &v);
	record_put(c, rec);
	now = clock_monotonic_ms();
	log_debug("snapshot ino=%llu ms=%lld error=%d", (unsigned long long)j->ino,
		(long long)(now - start), -r);
	/* Else not now (one is being taken on the spot), or not any more: who still wants it asks again. */
	failed = r && r != -EAGAIN && r != -EBUSY && r != -ENOENT;
	mutex_lock(&t->lock);
	j->rec = NULL;
	j->version = v;
	j->as_of = as_of;
	j->result = r;
	j->used_ms = now;
	j->rest_ms = now + (now - start);
	j->state = r ? FREE : DONE;
	if (failed && !j->dropped)
		fail(j, now, now - start);
	else if (!r)
		j->pause_ms = 0;
	if (j->dropped)
		drop(t, j);
}

static void clear(struct cache *c, struct snapshot_job *j)
{
	struct snapshot_jobs *t = c->snapshot_jobs;

	mutex_unlock(&t->lock);
	snapshot_remove_next(c, j->ino);
	mutex_lock(&t->lock);
	j->state = REST;
}

static void *work(void *arg)
{
	struct cache *c = arg;
	struct snapshot_jobs *t = c->snapshot_jobs;

	thread_background();
	mutex_lock(&t->lock);
	for (;;) {
		struct snapshot_job *j = find_next(t);

		if (!j && t->stopping)
			break;
		if (j && j->state == RUBBISH) {
			clear(c, j);
		} else if (j) {
			run(c, j);
			cond_broadcast(&t->cond);
			mutex_unlock(&t->lock);
			journal_kick(c);
			mutex_lock(&t->lock);
		} else {
			cond_wait_ms(&t->cond, &t->lock, LOOK_MS);
		}
		drop_stale(t);
	}
	mutex_unlock(&t->lock);
	return NULL;
}

void snapshot_jobs_stop(struct cache *c)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	bool started;

	if (!t)
		return;
	content_stop_hashing(c, 0);
	mutex_lock(&t->lock);
	started = t->started;
	t->started = false;
	t->stopping = true;
	for (unsigned i = 0; i < PLACES; i++)
		drop(t, &t->place[i]);
	cond_broadcast(&t->cond);
	mutex_unlock(&t->lock);
	if (started)
		CHECK(pthread_join(t->thread, NULL) == 0);
}

/* ---- asking ---- */

static int start_thread(struct cache *c)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	int r = 0;

	if (!t->started && !t->stopping) {
		r = thread_start(&t->thread, "snapshot", work, c);
		t->started = r == 0;
	}
	return r;
}

/* With the lock. 1: taken over. */
static int put(struct cache *c, struct record *rec, bool hashed, const struct content_version *v)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	struct snapshot_job *j = find(t, rec->ino);
	int64_t now = clock_monotonic_ms();
	unsigned refused = j ? j->refused : 0;
	int64_t pause_ms = j ? j->pause_ms : 0;
	int r;

	if (t->stopping || (j && j->state != REST && j->state != FAILED))
		return 0;
	if (j && j->state == FAILED && !is_due(t, j, now)) {
		j->used_ms = now;
		return 0;
	}
	/* What is hashed already is as good as done. */
	if (j && j->state == REST && now < j->rest_ms && !t->hurry && !hashed)
		return 0;
	if (!j)
		j = find_room(t);
	if (!j)
		return -ENOBUFS;
	r = start_thread(c);
	if (r)
		return r;
	atomic_fetch_add(&c->hash_slices, 1);
	*j = (struct snapshot_job){.state = WAITING,
		.ino = rec->ino,
		.rec = rec,
		.hashed = hashed,
		.refused = refused,
		.asked = ++t->asked,
		.version = *v,
		.used_ms = now,
		.pause_ms = pause_ms};
	cond_broadcast(&t->cond);
	return 1;
}

static void note_failure(struct cache *c, uint64_t ino, int error)
{
	if (trouble_note(c, ino, TROUBLE_FAILED, error))
		log_error("no copy of a changed file could be taken to be sent, trying again"
			  " ino=%llu error=\"%s\"",
			(unsigned long long)ino, strerror(-error));
}

int snapshot_job_ask(
	struct cache *c, struct record *rec, bool hashed, const struct content_version *v)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	const struct snapshot_job *j;
	int r, error;

	if (is_over(c))
		return 0;
	record_ref(c, rec);
	mutex_lock(&t->lock);
	j = find(t, rec->ino);
	error = j && j->state == FAILED ? j->result : 0;
	r = put(c, rec, hashed, v);
	mutex_unlock(&t->lock);
	/* By who seals, who takes it back when the file is sealed in another way. */
	if (error)
		note_failure(c, rec->ino, error);
	if (r != 1)
		record_put(c, rec);
	return r == 1 ? 0 : r;
}

int snapshot_job_look(struct cache *c, uint64_t ino)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	int64_t now = clock_monotonic_ms();
	struct snapshot_job *j;
	bool later;

	mutex_lock(&t->lock);
	j = find(t, ino);
	later = j && j->state != REST && j->state != FAILED;
	/* One that is there is to be taken: else it is of no use to who asks. */
	if (later && j->state != DONE)
		j->used_ms = now;
	mutex_unlock(&t->lock);
	if (later && !is_over(c))
		atomic_fetch_add(&c->hash_slices, 1);
	return later ? -EAGAIN : 0;
}

void snapshot_job_wait(struct cache *c, uint64_t ino)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	struct snapshot_job *j;

	mutex_lock(&t->lock);
	while ((j = find(t, ino)) && j->state == RUNNING)
		cond_wait(&t->cond, &t->lock);
	mutex_unlock(&t->lock);
}

void snapshot_job_drop(struct cache *c, uint64_t ino)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	struct snapshot_job *j;

	mutex_lock(&t->lock);
	j = find(t, ino);
	if (j) {
		j->refused = 0;
		drop(t, j);
	}
	mutex_unlock(&t->lock);
}

/* ---- for the replicator ---- */

unsigned content_snapshots(struct cache *c, struct content_snapshot ret[CONTENT_SNAPSHOTS_MAX])
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	unsigned n = 0;

	mutex_lock(&t->lock);
	for (unsigned i = 0; i < PLACES; i++) {
		const struct snapshot_job *j = &t->place[i];

		if (j->state == DONE)
			ret[n++] = (struct content_snapshot){j->ino, j->as_of, j->refused};
	}
	mutex_unlock(&t->lock);
	return n;
}

/* With the lock. */
static struct snapshot_job *find_done(struct snapshot_jobs *t, const struct content_snapshot *s)
{
	struct snapshot_job *j = find(t, s->ino);

	return j && j->state == DONE && j->as_of == s->as_of ? j : NULL;
}

int content_take_snapshot(
	struct cache *c, const struct content_snapshot *s, struct content_version *ret)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	struct content_version v;
	struct snapshot_job *j;
	bool taken = false;
	int r;

	mutex_lock(&t->lock);
	j = find_done(t, s);
	if (j) {
		j->used_ms = clock_monotonic_ms();
		v = j->version;
		taken = j->taken;
	}
	mutex_unlock(&t->lock);
	r = !j ? -EAGAIN : taken ? 0 : snapshot_keep(c, s->ino, SNAPSHOT_NEXT, v.hash);
	if (r)
		return r;
	mutex_lock(&t->lock);
	j = find_done(t, s);
	if (j)
		j->taken = true;
	mutex_unlock(&t->lock);
	/* Its inode may just have been removed. */
	if (!j) {
		content_drop_snapshots(c, s->ino, NULL, NULL);
		return -EAGAIN;
	}
	snapshot_drop_older(c, s->ino, v.hash);
	trouble_clear(c, s->ino, TROUBLE_BUSY);
	trouble_clear(c, s->ino, TROUBLE_FAILED);
	*ret = v;
	return 0;
}

void content_refuse_snapshot(struct cache *c, const struct content_snapshot *s)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	struct snapshot_job *j;

	mutex_lock(&t->lock);
	j = find_done(t, s);
	if (j) {
		j->refused++;
		drop(t, j);
		atomic_fetch_add(&c->hash_slices, 1); /* who waits for all has to come again */
	}
	mutex_unlock(&t->lock);
}

int content_failed_snapshot(struct cache *c)
{
	struct snapshot_jobs *t = c->snapshot_jobs;
	int r = 0;

	mutex_lock(&t->lock);
	for (unsigned i = 0; !r && i < PLACES; i++) {
		if (t->place[i].state == FAILED)
			r = t->place[i].result;
	}
	mutex_unlock(&t->lock);
	return r;
}

void content_wait_snapshot(struct cache *c, int64_t timeout_ms)
{
	struct snapshot_jobs *t = c->snapshot_jobs;

	mutex_lock(&t->lock);
	if (in_state(t, WAITING) || in_state(t, RUNNING) || in_state(t, DONE))
		cond_wait_ms(&t->cond, &t->lock, timeout_ms);
	mutex_unlock(&t->lock);
}

void content_hurry(struct cache *c, int by)
{
	struct snapshot_jobs *t = c->snapshot_jobs;

	mutex_lock(&t->lock);
	t->hurry = (unsigned)((int)t->hurry + by);
	mutex_unlock(&t->lock);
}

void content_end_snapshots(struct cache *c)
{
	struct snapshot_jobs *t = c->snapshot_jobs;

	mutex_lock(&t->lock);
	for (unsigned i = 0; i < PLACES; i++)
		drop(t, &t->place[i]);
	while (in_state(t, WAITING) || in_state(t, RUNNING))
		cond_wait(&t->cond, &t->lock);
	mutex_unlock(&t->lock);
}
