/*
 * Content on first use.
 *
 * A job is one inode with everybody who waits for it; it is in the list from the first request
 * until its waiters are told. Workers take jobs that nobody works on and that are due. An object may
 * not be there yet, or hold another version (its record arrives before its object, or after it), so
 * "not there" is tried again with growing pauses for 30 s; each time it is asked again what the
 * inode wants, which may have changed. A job that pauses is nobody's, so that it keeps no worker
 * from the others.
 *
 * Waiters are called without any lock.
 *
 * Lock: fetcher.lock guards the jobs and stopping.
 */
#include "replicator/fetch.h"

#include <errno.h>

#include "cache/file.h"
#include "cache/outbox.h"
#include "replicator/body.h"
#include "replicator/range.h"
#include "replicator/range_source.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum { GIVE_UP_MS = 30000, PAUSE_FIRST_MS = 50, PAUSE_MAX_MS = 2000, THREADS_MAX = 32 };

struct waiter {
	cache_fetch_done done;
	void *arg;
	struct waiter *next;
};

struct job {
	struct fetcher *fetcher;
	uint64_t ino;
	bool running;
	int64_t due_ms; /* monotonic, as all times here */
	int64_t give_up_ms;
	int64_t pause_ms;
	struct waiter *waiters;
	struct job *next;
};

struct fetcher {
	struct regions *regions;
	struct ranger *ranger;
	struct mutex lock;
	struct cond work;  /* a job was added, or stopping */
	struct job *first; /* in order of arrival */
	struct job **last;
	bool stopping;
	pthread_t threads[THREADS_MAX];
	unsigned started;
};

int fetcher_new(struct regions *regions, struct ranger *ranger, struct fetcher **ret)
{
	struct fetcher *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->regions = regions;
	f->ranger = ranger;
	f->last = &f->first;
	mutex_init(&f->lock, LOCK_RANK_REPLICATOR);
	cond_init(&f->work);
	*ret = f;
	return 0;
}

void fetcher_free(struct fetcher *f)
{
	if (!f)
		return;
	fetcher_stop(f);
	cond_done(&f->work);
	mutex_done(&f->lock);
	free(f);
}

int fetch_former_name(struct regions *regions, struct slice key, struct key *ret)
{
	AUTO_FREE struct outbox_row *row = malloc(sizeof(*row));
	struct conn *conn;

	ret->len = 0;
	if (!row)
		return -ENOMEM;
	int r = cache_read_begin(regions->cache, &conn);
	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && !ret->len && i < regions->count; i++) {
		r = outbox_get(conn, regions->region[i].id, key, row);
		if (r == 0)
			*ret = row->moved_from;
		else if (r == -ENOENT)
			r = 0;
	}
	cache_read_end(conn);
	return r;
}

/* The file was renamed here, and its object was not yet. */
static int fetch_moved(struct body *body, struct regions *regions, struct slice key,
	const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	AUTO_FREE struct key *from = malloc(sizeof(*from));
	struct entry wanted = {.kind = KIND_FILE, .size = size};

	if (!from)
		return -ENOMEM;
	int r = fetch_former_name(regions, key, from);
	if (r < 0)
		return r;
	if (!from->len)
		return -EAGAIN;
	memcpy(wanted.hash, hash, SHA256_SIZE);
	return body_fetch_moved(body, regions, key_slice(from), &wanted);
}

int fetch_whole(struct regions *regions, uint64_t ino)
{
	CLEANUP(body_done) struct body body = {0};
	uint8_t hash[SHA256_SIZE];
	struct key *key = malloc(sizeof(*key));
	uint64_t size;

	if (!key)
		return -ENOMEM;
	int r = content_wanted(regions->cache, ino, key, hash, &size);
	if (r == 0)
		r = body_fetch(&body, regions, NULL, key_slice(key), hash, size);
	if (r == -EAGAIN)
		r = fetch_moved(&body, regions, key_slice(key), hash, size);
	free(key);
	if (r == -EALREADY)
		return 0;
	if (r < 0)
		return r;
	content_finish(&body.spool);
	r = content_install(regions->cache, ino, &body.spool);
	if (r < 0)
		return r; /* body_done discards it */
	body.spooled = false;
	metric_add(METRIC_CONTENT_FETCHED, 1);
	return 0;
}

/* Whether its content is of a size that is read by ranges. */
static bool is_large(struct regions *regions, uint64_t ino)
{
	AUTO_FREE struct key *key = malloc(sizeof(*key));
	uint8_t hash[SHA256_SIZE];
	uint64_t size;

	return key && content_wanted(regions->cache, ino, key, hash, &size) == 0 &&
	       size >= cache_range_min(regions->cache);
}

int fetch_once(struct regions *regions, uint64_t ino)
{
	bool foreign = false, large = is_large(regions, ino);
	int r = large ? range_fetch_once(regions, ino, &foreign) : -EAGAIN;

	return r == -EAGAIN && (foreign || !large) ? fetch_whole(regions, ino) : r;
}

/* Under the lock. The first job that is due; else NULL, and how long until one is (INT64_MAX: there
 * is none). */
static struct job *next_job(struct fetcher *f, int64_t *wait_ms)
{
	int64_t now = clock_monotonic_ms();

	*wait_ms = INT64_MAX;
	for (struct job *j = f->first; j; j = j->next) {
		if (j->running)
			continue;
		if (j->due_ms <= now)
			return j;
		if (j->due_ms - now < *wait_ms)
			*wait_ms = j->due_ms - now;
	}
	return NULL;
}

/* Waits for a job and marks it as running; NULL when stopping. */
static struct job *take_job(struct fetcher *f)
{
	struct job *j = NULL;
	int64_t wait_ms;

	mutex_lock(&f->lock);
	while (!f->stopping && !(j = next_job(f, &wait_ms))) {
		if (wait_ms == INT64_MAX)
			cond_wait(&f->work, &f->lock);
		else
			cond_wait_ms(&f->work, &f->lock, wait_ms);
	}
	if (j)
		j->running = true;
	mutex_unlock(&f->lock);
	return j;
}

/* Under the lock. Whether the job is to be tried again after this result, and then when. */
static bool try_again(struct job *j, int result)
{
	int64_t now = clock_monotonic_ms();

	if (result != -EAGAIN && result != -EIO)
		return false;
	if (now + j->pause_ms >= j->give_up_ms)
		return false;
	j->due_ms = now + j->pause_ms;
	if (j->pause_ms < PAUSE_MAX_MS)
		j->pause_ms *= 2;
	return true;
}

/* Under the lock: takes j out of the list. */
static void unlink_job(struct fetcher *f, struct job *j)
{
	struct job **at = &f->first;

	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	if (f->last == &j->next)
		f->last = at;
}

static void tell(struct job *j, int result)
{
	struct waiter *w = j->waiters;

	while (w) {
		struct waiter *next = w->next;
		w->done(w->arg, result);
		free(w);
		w = next;
	}
	free(j);
}

/* The ranger has fetched it, or not: it waits and tries again by itself. */
static void on_ranged(void *arg, int result)
{
	struct job *j = arg;
	struct fetcher *f = j->fetcher;

	mutex_lock(&f->lock);
	unlink_job(f, j);
	mutex_unlock(&f->lock);
	tell(j, result);
}

static void *work(void *arg)
{
	struct fetcher *f = arg;
	struct job *j;

	while ((j = take_job(f)) != NULL) {
		if (is_large(f->regions, j->ino)) {
			ranger_fetch(f->ranger, j->ino, false, on_ranged, j);
			continue;
		}
		int r = fetch_whole(f->regions, j->ino);

		mutex_lock(&f->lock);
		bool again = !f->stopping && try_again(j, r);
		j->running = false;
		if (again)
			cond_broadcast(&f->work);
		else
			unlink_job(f, j);
		mutex_unlock(&f->lock);
		if (again)
			continue;
		if (r == -EAGAIN || r == -ECANCELED)
			r = -EIO;
		if (r < 0 && r != -ESTALE)
			log_warn("content cannot be fetched inode=%llu error=%d",
				(unsigned long long)j->ino, r);
		tell(j, r);
	}
	return NULL;
}

int fetcher_start(struct fetcher *f, unsigned threads)
{
	f->stopping = false;
	for (; f->started < threads && f->started < THREADS_MAX; f->started++) {
		int r = thread_start(&f->threads[f->started], "fetch", work, f);
		if (r < 0) {
			fetcher_stop(f);
			return r;
		}
	}
	return 0;
}

void fetcher_stop(struct fetcher *f)
{
	mutex_lock(&f->lock);
	f->stopping = true;
	cond_broadcast(&f->work);
	mutex_unlock(&f->lock);
	while (f->started)
		CHECK(pthread_join(f->threads[--f->started], NULL) == 0);
	for (;;) {
		mutex_lock(&f->lock);
		struct job *j = f->first;
		if (j)
			unlink_job(f, j);
		mutex_unlock(&f->lock);
		if (!j)
			return;
		tell(j, -EIO);
	}
}

void fetcher_fetch(void *ctx, uint64_t ino, cache_fetch_done done, void *arg)
{
	struct fetcher *f = ctx;
	struct waiter *w = malloc(sizeof(*w));
	struct job *j;

	CHECK(w);
	*w = (struct waiter){.done = done, .arg = arg};
	mutex_lock(&f->lock);
	if (f->stopping) {
		mutex_unlock(&f->lock);
		free(w);
		done(arg, -EIO);
		return;
	}
	for (j = f->first; j && j->ino != ino; j = j->next)
		;
	if (!j) {
		j = calloc(1, sizeof(*j));
		CHECK(j);
		j->fetcher = f;
		j->ino = ino;
		j->due_ms = clock_monotonic_ms();
		j->give_up_ms = j->due_ms + GIVE_UP_MS;
		j->pause_ms = PAUSE_FIRST_MS;
		*f->last = j;
		f->last = &j->next;
		cond_broadcast(&f->work);
	}
	w->next = j->waiters;
	j->waiters = w;
	mutex_unlock(&f->lock);
}
