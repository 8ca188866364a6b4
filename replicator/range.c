/*
 * The pool that reads ranges.
 *
 * A target is one partial content that somebody reads, with those who wait for blocks of it and the
 * readers that are followed. It is made by the first read that finds a block missing, and goes when
 * nobody has read for IDLE_MS. A worker takes a run of blocks that are neither here nor under way:
 * first what readers wait for, then whole files that somebody waits for, then what lies ahead of
 * sequential readers, then whole files in the background. Of the last two kinds SPARE workers are kept
 * free, so that a reader who waits seldom waits for a worker. Blocks count one by one as they arrive,
 * and whoever waits for them is told.
 *
 * All ranges of a target come from its source (range_source.h), which one worker finds when there is
 * none. When a region was left or taken back (health.h) it is looked for anew, so that who reads for hours
 * does not stay with a slow one. When the object there has become another one, or its region fails, the source
 * is looked for again, with growing pauses; a waiter gives up after GIVE_UP_MS. Where no region has the version
 * but one has an object that does not say what it is, the content is fetched in one piece; so is that of
 * which the hashes of the parts, by which ranges are believed, are nowhere.
 *
 * After wrong bytes another region is asked. When one that gave wrong bytes of a block has to be asked again,
 * gives them again, and all regions are up, the block is rotten for a while: who waits for it gets -EIO.
 *
 * Waiters are called without any lock.
 *
 * Lock: ranger.lock guards the targets and what the workers are at.
 */
#include "replicator/range_internal.h"

#include <errno.h>

#include "cache/file.h"
#include "replicator/fetch.h"
#include "src/base/clock.h"
#include "src/base/log.h"

enum {
	GIVE_UP_MS = 30000,
	GIVE_UP_ABSENT_MS = 2000,
	PAUSE_FIRST_MS = 50,
	PAUSE_MAX_MS = 2000,
	IDLE_MS = 3000,
	LOOK_MS = 200,	  /* how often waiting times are looked at */
	TARGETS_LOOK = 8, /* of which none had anything to hash: then a pause */
	HASH_PAUSE_MS = 20,
	BAD_MAX = 2, /* hashes that did not match before waiters are told */
	ROTTEN_MS = 2000,
};

int ranger_new(struct regions *regions, struct ranger **ret)
{
	struct ranger *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->regions = regions;
	r->stopping = true;
	mutex_init(&r->lock, LOCK_RANK_REPLICATOR);
	cond_init(&r->work);
	cond_init(&r->to_hash);
	*ret = r;
	return 0;
}

void ranger_free(struct ranger *r)
{
	if (!r)
		return;
	ranger_stop(r);
	cond_done(&r->to_hash);
	cond_done(&r->work);
	mutex_done(&r->lock);
	free(r);
}

/* ---- waiters; all with the lock ---- */

/* Moves w, at *at, to those that are told. */
static void end_waiter(struct waiter **at, int result, struct waiter **told)
{
	struct waiter *w = *at;

	*at = w->next;
	w->result = result;
	w->next = *told;
	*told = w;
}

static void end_all(struct target *t, int result, struct waiter **told)
{
	while (t->waiters)
		end_waiter(&t->waiters, result, told);
}

/* Those that have what they wait for, or have waited for too long. */
static void settle(struct target *t, struct waiter **told)
{
	enum partial_state state = partial_state(t->p);
	int64_t now = clock_monotonic_ms();
	bool absent = t->absent_ms && now - t->absent_ms >= GIVE_UP_ABSENT_MS &&
		      now - t->came_ms >= GIVE_UP_ABSENT_MS;
	struct waiter **at = &t->waiters;

	while (*at) {
		struct waiter *w = *at;

		if (state == PARTIAL_DONE ||
			(!w->whole && partial_missing(t->p, w->first, w->end) == w->end))
			end_waiter(at, 0, told);
		else if (w->whole && state == PARTIAL_GONE)
			end_waiter(at, -ESTALE, told);
		else if (range_is_rotten(t, w->whole ? 0 : w->first, w->end))
			end_waiter(at, -EIO, told);
		else if (absent ||
			 (now - w->since_ms >= GIVE_UP_MS && now - t->came_ms >= GIVE_UP_MS))
			end_waiter(at, t->nameless ? -ESTALE : -EIO, told);
		else
			at = &w->next;
	}
}

/* Without the lock. */
static void tell(struct waiter *told)
{
	while (told) {
		struct waiter *next = told->next;

		if (told->result == -EIO)
			log_warn("content cannot be read: no region has this version now "
				 "blocks=%llu..%llu",
				(unsigned long long)told->first, (unsigned long long)told->end);
		told->done(told->arg, told->result);
		free(told);
		told = next;
	}
}

/* ---- targets; with the lock ---- */

static struct target **find(struct ranger *r, const struct partial *p)
{
	struct target **at = &r->first;

	while (*at && (*at)->p != p)
		at = &(*at)->next;
	return at;
}

/* The others of its class come first next time. */
static void put_last(struct ranger *r, struct target *t)
{
	struct target **at = find(r, t->p);

	*at = t->next;
	t->next = NULL;
	while (*at)
		at = &(*at)->next;
	*at = t;
}

static struct target *target_new(struct ranger *r, struct partial *p)
{
	struct target *t = calloc(1, sizeof(*t));
	struct target **at = &r->first;

	CHECK(t);
	t->p = partial_ref(p);
	t->pause_ms = PAUSE_FIRST_MS;
	while (*at)
		at = &(*at)->next;
	*at = t;
	cond_signal(&r->to_hash);
	return t;
}

static bool is_idle(const struct target *t, int64_t now)
{
	return !t->waiters && !t->workers && !t->busy &&
	       (now - t->used_ms >= IDLE_MS || partial_state(t->p) == PARTIAL_DONE);
}

/* Settles all waiters and takes off the list what is idle. */
static void look(struct ranger *r, struct waiter **told, struct target **idle)
{
	struct target **at = &r->first;
	int64_t now = clock_monotonic_ms();

	while (*at) {
		struct target *t = *at;

		settle(t, told);
		if (!is_idle(t, now)) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		t->next = *idle;
		*idle = t;
	}
}

static void targets_free(struct target *t)
{
	while (t) {
		struct target *next = t->next;

		partial_put(t->p);
		free(t);
		t = next;
	}
}

/* ---- working ---- */

static void back_off(struct target *t)
{
	t->due_ms = clock_monotonic_ms() + t->pause_ms;
	if (t->pause_ms < PAUSE_MAX_MS)
		t->pause_ms *= 2;
}

static unsigned index_of(const struct ranger *r, const struct region *region)
{
	return (unsigned)(region - r->regions->region);
}

/* The current name; the last one stays known when there is none any more. -EALREADY: it is here. */
static int name_target(struct ranger *r, struct target *t, struct key *key, bool *nameless)
{
	uint8_t hash[SHA256_SIZE];
	uint64_t size;
	int e = content_wanted(r->regions->cache, partial_ino(t->p), key, hash, &size);

	*nameless = e == -ESTALE;
	if (e == -ESTALE)
		*key = t->key;
	else if (!e && memcmp(hash, partial_hash(t->p), SHA256_SIZE) != 0)
		e = -EALREADY;
	return e == -ESTALE ? 0 : e;
}

/* By the worker that set busy, without the lock: nobody else changes key and source. */
static int find_source(struct ranger *r, struct target *t)
{
	AUTO_FREE struct range_source *source = malloc(sizeof(*source));
	AUTO_FREE struct key *key = malloc(sizeof(*key));
	bool foreign = false, nameless = false;
	int e = source && key ? name_target(r, t, key, &nameless) : -ENOMEM;

	if (e)
		return e;
	struct range_version v = {.key = key_slice(key),
		.hash = partial_hash(t->p),
		.size = partial_size(t->p),
		.avoid = t->avoid | t->wrong[t->wrong_last].regions};
	e = range_source_find(r->regions, &v, source, &foreign);
	if (!e)
		e = range_source_parts(t->p, source);
	if (e == -ENODATA) {
		foreign = true;
		e = -EAGAIN;
	}
	if (e == -EHOSTDOWN)
		e = -EIO;
	if (e == -EAGAIN && foreign && !nameless) {
		e = fetch_whole(r->regions, partial_ino(t->p));
		return e ? e : -EALREADY;
	}
	mutex_lock(&r->lock);
	t->key = *key;
	t->nameless = nameless;
	if (!nameless || e != -EAGAIN)
		t->absent_ms = 0;
	else if (!t->absent_ms)
		t->absent_ms = clock_monotonic_ms();
	t->avoid = 0;
	if (!e) {
		t->source = *source;
		t->has_source = true;
		t->version++;
	}
	mutex_unlock(&r->lock);
	return e;
}

/* Called for each block that arrived. */
static bool on_block(void *ctx, uint64_t block)
{
	struct worker *w = ctx;
	struct ranger *r = w->ranger;
	struct waiter *told = NULL;
	bool stop;

	mutex_lock(&r->lock);
	w->run.first = block + 1;
	w->run.target->came_ms = clock_monotonic_ms();
	if (w->run.target->waiters)
		settle(w->run.target, &told);
	stop = r->stopping;
	mutex_unlock(&r->lock);
	tell(told);
	return stop;
}

static bool all_up(const struct ranger *r)
{
	for (unsigned i = 0; i < r->regions->count; i++) {
		if (!region_up(&r->regions->region[i], REGION_READ))
			return false;
	}
	return true;
}

/* With the lock: the source gave wrong bytes for the block. */
static void note_wrong(struct ranger *r, struct target *t, uint64_t block)
{
	uint64_t bit = UINT64_C(1) << index_of(r, t->source.region);
	struct wrong *w = t->wrong;

	while (w < t->wrong + RANGE_WRONG_MAX && !(w->regions && w->block == block))
		w++;
	if (w == t->wrong + RANGE_WRONG_MAX) {
		w = &t->wrong[(t->wrong_last + 1) % RANGE_WRONG_MAX];
		*w = (struct wrong){.block = block};
	}
	t->wrong_last = (unsigned)(w - t->wrong);
	t->has_source = false;
	if (!(w->regions & bit)) {
		w->regions |= bit;
		return;
	}
	back_off(t);
	w->regions = bit; /* the others may have been put right */
	if (all_up(r))
		w->rotten_until_ms = clock_monotonic_ms() + ROTTEN_MS;
}

/* With the lock: what a read of a range came to; block: the first that did not come. */
static void note_result(struct ranger *r, struct target *t, uint64_t version, uint64_t block,
	int result, struct waiter **told)
{
	if (!result) {
		t->pause_ms = PAUSE_FIRST_MS;
	} else if (result == -EBADMSG) {
		if (t->version == version && t->has_source)
			note_wrong(r, t, block);
	} else if (result == -EAGAIN || result == -EHOSTDOWN || result == -EIO) {
		/* Others may have seen it and found another source. */
		if (t->version != version || !t->has_source)
			return;
		if (result != -EAGAIN)
			t->avoid |= UINT64_C(1) << index_of(r, t->source.region);
		t->has_source = false;
		back_off(t);
	} else if (result != -ECANCELED) {
		log_warn("content cannot be kept inode=%llu error=%d",
			(unsigned long long)partial_ino(t->p), result);
		end_all(t, result, told);
		back_off(t);
	}
}

/* With the lock. All blocks are here. */
static void finish(struct ranger *r, struct target *t, struct waiter **told)
{
	int e;

	t->busy = true;
	mutex_unlock(&r->lock);
	e = partial_finish(t->p);
	mutex_lock(&r->lock);
	t->busy = false;
	if (e == -EBADMSG) {
		if (t->has_source)
			t->avoid |= UINT64_C(1) << index_of(r, t->source.region);
		t->has_source = false;
		if (++t->bad >= BAD_MAX)
			end_all(t, -EIO, told);
		back_off(t);
	} else if (e != -EAGAIN && partial_state(t->p) != PARTIAL_DONE) {
		settle(t, told);
		/* The inode does not want it, or it cannot be installed. */
		end_all(t, e ? e : -ESTALE, told);
		t->used_ms = 0;
	}
}

/* With the lock, which is given back meanwhile. */
static void work_on(struct worker *w, struct run run)
{
	struct ranger *r = w->ranger;
	struct target *t = run.target;
	struct waiter *told = NULL;
	uint64_t version;
	int64_t waited;
	int e = 0;

	w->run = run;
	put_last(r, t);
	t->workers++;
	r->working++;
	r->demanded += run.priority == STORE_NORMAL;
	if (t->has_source && range_source_is_old(r->regions, &t->source))
		t->has_source = false;
	if (!t->has_source && run.first < run.end) {
		t->busy = true;
		mutex_unlock(&r->lock);
		e = find_source(r, t);
		mutex_lock(&r->lock);
		t->busy = false;
		cond_broadcast(&r->work);
	}
	version = t->version;
	if (!e && run.first < run.end) {
		struct range_source source = t->source;
		const struct range_run wanted = {.first = run.first,
			.end = run.end,
			.priority = run.priority,
			.buffer = &w->buffer,
			.block = on_block,
			.ctx = w};

		mutex_unlock(&r->lock);
		e = range_read(t->p, &source, &wanted);
		waited = w->buffer.waited_ms;
		if (w->buffer.size > PARTIAL_BLOCK)
			range_buffer_done(&w->buffer);
		mutex_lock(&r->lock);
		if (waited >= 0)
			r->waits_8th = r->waits_8th ? r->waits_8th + waited - r->waits_8th / 8
						    : 8 * waited;
		note_result(r, t, version, w->run.first, e, &told);
	} else if (!e) {
		(void)0;
	} else if (e == -EALREADY) {
		end_all(t, 0, &told);
		t->used_ms = 0;
	} else if (e == -EAGAIN || e == -EIO) {
		back_off(t);
	} else {
		end_all(t, e, &told);
		back_off(t);
	}
	w->run = (struct run){0};
	if (!t->busy && partial_state(t->p) != PARTIAL_DONE &&
		partial_missing(t->p, 0, UINT64_MAX) == partial_blocks(t->p) && !r->stopping)
		finish(r, t, &told);
	t->workers--;
	r->working--;
	r->demanded -= run.priority == STORE_NORMAL;
	settle(t, &told);
	mutex_unlock(&r->lock);
	tell(told);
	mutex_lock(&r->lock);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct ranger *r = w->ranger;

	mutex_lock(&r->lock);
	while (!r->stopping) {
		struct waiter *told = NULL;
		struct target *idle = NULL;
		struct run run;

		look(r, &told, &idle);
		if (told || idle) {
			mutex_unlock(&r->lock);
			tell(told);
			targets_free(idle);
			mutex_lock(&r->lock);
		} else if (range_next_run(r, &run)) {
			cond_signal(&r->work);
			work_on(w, run);
		} else if (r->first) {
			cond_wait_ms(&r->work, &r->lock, LOOK_MS);
		} else {
			range_buffer_done(&w->buffer);
			cond_wait(&r->work, &r->lock);
		}
	}
	mutex_unlock(&r->lock);
	range_buffer_done(&w->buffer);
	return NULL;
}

/* With the lock: the next partial content after the last one whose whole will be hashed, with a reference. */
static struct partial *next_to_hash(struct ranger *r, const struct partial *last)
{
	struct target *t = *find(r, last);

	for (t = t ? t->next : NULL; t && partial_has_parts(t->p); t = t->next)
		;
	for (t = t ? t : r->first; t && partial_has_parts(t->p); t = t->next)
		;
	return t ? partial_ref(t->p) : NULL;
}

/* Of content without hashes of its parts: hashing costs more than the rest of bringing a block here, and nobody
 * waits for it before the end. */
static void *hash(void *arg)
{
	struct ranger *r = arg;
	const struct partial *last = NULL;
	unsigned idle = 0;

	thread_background();
	mutex_lock(&r->lock);
	while (!r->stopping) {
		struct partial *p = next_to_hash(r, last);
		bool some;

		last = p;
		if (!p || idle >= TARGETS_LOOK) {
			idle = 0;
			if (p)
				cond_wait_ms(&r->to_hash, &r->lock, HASH_PAUSE_MS);
			else
				cond_wait(&r->to_hash, &r->lock);
		}
		if (!p)
			continue;
		mutex_unlock(&r->lock);
		some = partial_hash_ahead(p);
		partial_put(p);
		mutex_lock(&r->lock);
		idle = some ? 0 : idle + 1;
	}
	mutex_unlock(&r->lock);
	return NULL;
}

int ranger_start(struct ranger *r)
{
	int code;

	mutex_lock(&r->lock);
	r->stopping = false;
	mutex_unlock(&r->lock);
	while (r->started < RANGE_THREADS) {
		struct worker *w = &r->worker[r->started];
		int e;

		*w = (struct worker){.ranger = r};
		e = thread_start(&w->thread, "range", work, w);
		if (e < 0) {
			ranger_stop(r);
			return e;
		}
		mutex_lock(&r->lock);
		r->started++;
		mutex_unlock(&r->lock);
	}
	code = thread_start(&r->hasher, "range-hash", hash, r);
	r->hashing = code == 0;
	if (code < 0)
		ranger_stop(r);
	return code;
}

void ranger_stop(struct ranger *r)
{
	struct waiter *told = NULL;
	struct target *targets;

	mutex_lock(&r->lock);
	r->stopping = true;
	cond_broadcast(&r->work);
	cond_broadcast(&r->to_hash);
	mutex_unlock(&r->lock);
	for (unsigned i = 0; i < r->started; i++)
		CHECK(pthread_join(r->worker[i].thread, NULL) == 0);
	if (r->hashing)
		CHECK(pthread_join(r->hasher, NULL) == 0);
	r->hashing = false;
	mutex_lock(&r->lock);
	r->started = 0;
	for (struct target *t = r->first; t; t = t->next)
		end_all(t, -EIO, &told);
	targets = r->first;
	r->first = NULL;
	mutex_unlock(&r->lock);
	tell(told);
	targets_free(targets);
}

/* ---- requests ---- */

static struct waiter *waiter_new(cache_fetch_done done, void *arg)
{
	struct waiter *w = calloc(1, sizeof(*w));

	CHECK(w);
	w->done = done;
	w->arg = arg;
	w->since_ms = clock_monotonic_ms();
	return w;
}

/* With the lock; w is put behind those that wait. */
static void add_waiter(struct ranger *r, struct target *t, struct waiter *w)
{
	struct waiter **at = &t->waiters;

	while (*at)
		at = &(*at)->next;
	*at = w;
	t->used_ms = clock_monotonic_ms();
	cond_broadcast(&r->work);
}

void ranger_read(
	void *ctx, struct partial *p, uint64_t offset, uint64_t n, cache_fetch_done done, void *arg)
{
	struct ranger *r = ctx;
	uint64_t block = partial_block(p);
	struct readahead *a;
	struct target *t;

	if (offset > partial_size(p))
		offset = partial_size(p);
	if (n > partial_size(p) - offset)
		n = partial_size(p) - offset;
	mutex_lock(&r->lock);
	t = *find(r, p);
	if (r->stopping || (!t && !done)) {
		mutex_unlock(&r->lock);
		if (done)
			done(arg, -EIO);
		return;
	}
	if (!t)
		t = target_new(r, p);
	t->used_ms = clock_monotonic_ms();
	a = readahead_note(t->ahead, &t->clock, offset, n);
	if (done) {
		struct waiter *w = waiter_new(done, arg);

		w->first = offset / block;
		w->end = n ? (offset + n - 1) / block + 1 : w->first;
		add_waiter(r, t, w);
	} else if (a->window && offset / block != (offset + n) / block) {
		cond_signal(&r->work); /* it comes into another block */
	}
	mutex_unlock(&r->lock);
}

void ranger_fetch(struct ranger *r, uint64_t ino, bool background, cache_fetch_done done, void *arg)
{
	struct waiter *w;
	struct target *t;
	struct partial *p;
	int e = partial_get(r->regions->cache, ino, &p);

	if (e) {
		done(arg, e == -EALREADY ? 0 : e);
		return;
	}
	w = waiter_new(done, arg);
	w->whole = true;
	w->background = background;
	w->end = partial_blocks(p);
	mutex_lock(&r->lock);
	if (r->stopping) {
		mutex_unlock(&r->lock);
		free(w);
		partial_put(p);
		done(arg, -EIO);
		return;
	}
	t = *find(r, p);
	if (!t)
		t = target_new(r, p);
	add_waiter(r, t, w);
	mutex_unlock(&r->lock);
	partial_put(p);
}
