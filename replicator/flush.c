/*
 * A flush: everything is sealed, on a thread of its own because that may take long and its caller is told how
 * far it is, which must not happen under the sealer's lock; then the outbox is waited for.
 */
#include "replicator/internal.h"

#include <errno.h>

#include "src/base/clock.h"

enum { FLUSH_POLL_MS = 50, TELL_MS = 1000 };

/* Nobody waits for an optional region that does not answer or is given what it missed before. */
static bool is_waited_for(struct region *region, const struct resync_status *resync)
{
	return !region->optional ||
	       (resync->state == RESYNC_NONE && region_up(region, REGION_WRITE));
}

static int rows_waiting(struct replicator *r, struct slice key, bool *waiting, uint64_t *left)
{
	uint64_t bits = 0, waited = 0;
	struct conn *conn;

	int code = cache_read_begin(r->cache, &conn);
	if (code < 0)
		return code;
	*left = 0;
	code = outbox_waiting(conn, key, &bits);
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++) {
		struct region *region = &r->regions.region[i];
		struct resync_status resync = {0};
		struct outbox_stats stats = {0};
		bool seeding = false;

		code = resync_get(conn, region->id, &resync);
		if (code < 0 || !is_waited_for(region, &resync))
			continue;
		waited |= (uint64_t)1 << region->id;
		code = region_seeding(conn, region->id, &seeding);
		if (code == 0)
			code = outbox_stats(conn, region->id, &stats);
		if (seeding || resync.state != RESYNC_NONE)
			bits |= (uint64_t)1 << region->id;
		*left += stats.rows;
	}
	bits &= waited;
	cache_read_end(conn);
	*waiting = bits != 0;
	return code;
}

struct asked {
	struct slice key;
	bool found;
};

static int look_at(void *ctx, struct slice key, bool all_below)
{
	struct asked *a = ctx;

	a->found = key_at_or_below(key, a->key) || (all_below && key_at_or_below(a->key, key));
	return a->found;
}

/* Something at or below key is not sealed, as far as can be told. */
static bool is_pending(struct replicator *r, struct slice key)
{
	struct asked a = {.key = key};
	struct conn *conn;

	if (cache_read_begin(r->cache, &conn))
		return true;
	if (journal_keys_since(conn, 0, look_at, &a) < 0)
		a.found = true;
	cache_read_end(conn);
	return a.found;
}

struct flush {
	struct replicator *r;
	int64_t start_ms, told_ms;
	int64_t timeout_ms; /* < 0: none */
	replicator_progress_fn progress;
	void *ctx;
	atomic_bool cancel;
	bool sealed; /* guarded by r->lock, as code is */
	int code;
};

static bool flush_over(const struct flush *f)
{
	return f->timeout_ms >= 0 && clock_monotonic_ms() - f->start_ms >= f->timeout_ms;
}

static bool flush_tells(const struct flush *f)
{
	return f->progress && clock_monotonic_ms() - f->told_ms >= TELL_MS;
}

static int flush_tell(struct flush *f, uint64_t left)
{
	if (!flush_tells(f))
		return 0;
	f->told_ms = clock_monotonic_ms();
	return f->progress(f->ctx, left) ? -ECANCELED : 0;
}

/* ---- sealing ---- */

static int flush_tick(void *ctx)
{
	struct flush *f = ctx;

	return atomic_load(&f->cancel) ? -ECANCELED : 0;
}

static void *flush_seal(void *arg)
{
	struct flush *f = arg;
	int code = sealer_seal_all(f->r->sealer, flush_tick, f);

	mutex_lock(&f->r->lock);
	f->code = code;
	f->sealed = true;
	cond_broadcast(&f->r->cond);
	mutex_unlock(&f->r->lock);
	return NULL;
}

static bool flush_is_sealed(struct flush *f)
{
	int64_t until = clock_monotonic_ms() + FLUSH_POLL_MS;

	mutex_lock(&f->r->lock);
	while (!f->sealed && clock_monotonic_ms() < until)
		cond_wait_ms(&f->r->cond, &f->r->lock, FLUSH_POLL_MS);
	bool sealed = f->sealed;
	mutex_unlock(&f->r->lock);
	return sealed;
}

static int flush_watch(struct flush *f)
{
	while (!flush_is_sealed(f)) {
		uint64_t left = 0;
		bool waiting;
		int code = flush_over(f) ? -ETIMEDOUT : 0;

		if (code == 0 && !flush_tells(f))
			continue;
		if (code == 0)
			code = rows_waiting(f->r, slice_of(""), &waiting, &left);
		if (code == 0)
			code = flush_tell(f, left);
		if (code < 0)
			return code;
	}
	return 0;
}

static int flush_seal_all(struct flush *f)
{
	pthread_t thread;
	int code = thread_start(&thread, "flush", flush_seal, f);

	if (code < 0)
		return code;
	code = flush_watch(f);
	atomic_store(&f->cancel, true);
	pthread_join(thread, NULL);
	return code ? code : f->code;
}

static int flush_wait(struct flush *f, struct slice key, struct err *err)
{
	struct replicator *r = f->r;

	for (;;) {
		bool waiting;
		uint64_t left;

		int code = rows_waiting(r, key, &waiting, &left);
		if (code < 0)
			return err_errno(err, code, "cannot read what is left");
		if (!waiting)
			return 0;
		if (flush_over(f))
			return err_set(err, -ETIMEDOUT,
				"%llu changes are not in every region yet\n"
				"hint: `meridian status` names the region and the cause; they are "
				"sent "
				"when it answers",
				(unsigned long long)left);
		code = flush_tell(f, left);
		if (code < 0)
			return code;
		if (replicator_stopping(r))
			return err_set(err, -ECANCELED, "replication is being stopped");
		replicator_wait_ms(r, FLUSH_POLL_MS, NULL, false);
	}
}

int replicator_flush(struct replicator *r, struct slice key, bool wait, int64_t timeout_ms,
	replicator_progress_fn progress, void *ctx, struct err *err)
{
	struct flush f = {.r = r,
		.start_ms = clock_monotonic_ms(),
		.told_ms = clock_monotonic_ms() - TELL_MS,
		.timeout_ms = wait ? timeout_ms : -1,
		.progress = progress,
		.ctx = ctx};
	int code = flush_seal_all(&f);

	if (code == -ETIMEDOUT)
		return err_set(err, code,
			"not all changes are sealed yet\n"
			"hint: `meridian status` shows how many there are; they go "
			"on being sealed and sent");
	if (code == -ECANCELED)
		return code;
	bool busy = code == -EBUSY;
	if (code < 0 && !busy)
		return err_errno(err, code, "cannot seal the changes");
	mutex_lock(&r->lock);
	r->hurry = true;
	mutex_unlock(&r->lock);
	if (wait)
		atomic_fetch_add(&r->pace.hurry, 1);
	replicator_wake_all(r);
	code = wait ? flush_wait(&f, key, err) : 0;
	if (wait)
		atomic_fetch_sub(&r->pace.hurry, 1);
	mutex_lock(&r->lock);
	r->hurry = false;
	mutex_unlock(&r->lock);
	if (!code && busy && is_pending(r, key))
		return err_set(err, -EBUSY,
			"files are written without a pause, and no version of them could be taken yet\n"
			"hint: `meridian status` counts them; they are sent, with their directories, as soon as "
			"there is an instant at which nobody writes");
	return code;
}
