/*
 * The layer that bounds how many calls a store sees at once. Waiters stand in a queue in order of
 * arrival; whoever finishes hands its place to the first of them, so that a newcomer never
 * overtakes. A waiter leaves at its deadline or when its call is cancelled (looked at every
 * CANCEL_POLL_MS), having changed nothing.
 *
 * lock (LOCK_RANK_STORE) guards free, first, last and every waiter in the queue; it is never held
 * during a call. Invariant: free > 0 implies an empty queue.
 */
#include "replicator/store/layers.h"

#include "src/base/clock.h"
#include "src/base/thread.h"

enum { CANCEL_POLL_MS = 50 };

struct waiter {
	struct waiter *next;
	struct waiter *prev;
	struct cond wake;
	bool granted;
};

struct limit {
	struct store s;
	struct mutex lock;
	unsigned free;
	struct waiter *first;
	struct waiter *last;
};

static void queue_append(struct limit *l, struct waiter *w)
{
	w->prev = l->last;
	w->next = NULL;
	if (l->last)
		l->last->next = w;
	else
		l->first = w;
	l->last = w;
}

static void queue_unlink(struct limit *l, struct waiter *w)
{
	if (w->prev)
		w->prev->next = w->next;
	else
		l->first = w->next;
	if (w->next)
		w->next->prev = w->prev;
	else
		l->last = w->prev;
}

/* One wait of w, to the deadline or the next look at cancel. */
static void wait_once(struct limit *l, struct waiter *w, const struct store_call *call)
{
	int64_t ms = call->cancel ? CANCEL_POLL_MS : INT64_MAX;

	if (call->deadline_ms) {
		int64_t left = call->deadline_ms - clock_monotonic_ms();
		ms = left < ms ? left : ms;
	}
	if (ms == INT64_MAX)
		cond_wait(&w->wake, &l->lock);
	else if (ms > 0)
		(void)cond_wait_ms(&w->wake, &l->lock, ms);
}

static enum store_result enter(
	struct store *s, const struct store_call *call, struct store_error *error)
{
	struct limit *l = (struct limit *)s;
	struct waiter w = {0};
	enum store_result r = STORE_OK;

	mutex_lock(&l->lock);
	if (l->free > 0) {
		l->free--;
		mutex_unlock(&l->lock);
		return STORE_OK;
	}
	cond_init(&w.wake);
	queue_append(l, &w);
	while (!w.granted && (r = store_call_check(call, error)) == STORE_OK)
		wait_once(l, &w, call);
	if (w.granted)
		r = STORE_OK;
	else
		queue_unlink(l, &w);
	mutex_unlock(&l->lock);
	cond_done(&w.wake);
	return r;
}

static enum store_result leave(struct store *s, enum store_result r)
{
	struct limit *l = (struct limit *)s;

	mutex_lock(&l->lock);
	if (l->first) {
		struct waiter *w = l->first;
		queue_unlink(l, w);
		w->granted = true;
		/* Under the lock: the waiter's cond lives on its stack. */
		cond_signal(&w->wake);
	} else {
		l->free++;
	}
	mutex_unlock(&l->lock);
	return r;
}

static enum store_result limit_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_get(s->inner, key, offset, length, if_match, sink, object, meta, call,
				error));
}

static enum store_result limit_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_put(s->inner, key, source, meta, condition, etag, call, error));
}

static enum store_result limit_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_head(s->inner, key, object, meta, call, error));
}

/* A callback of a listing may call the store again: with one connection that would wait for itself,
 * so callers collect first. The interface does not forbid it, and the deadline ends such a wait. */
static enum store_result limit_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_list(s->inner, prefix, start_after, limit, fn, ctx, call, error));
}

static enum store_result limit_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_remove(s->inner, key, if_match, call, error));
}

static enum store_result limit_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_copy(s->inner, from, to, meta, if_match, etag, call, error));
}

static enum store_result limit_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_inner_upload(s, u, call, error));
}

static enum store_result limit_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, store_inner_uploads(s, prefix, fn, ctx, call, error));
}

static void limit_close(struct store *s)
{
	struct limit *l = (struct limit *)s;

	CHECK(!l->first);
	store_close(s->inner);
	mutex_done(&l->lock);
	free(l);
}

static const struct store_ops limit_ops = {
	.name = "limit",
	.get = limit_get,
	.put = limit_put,
	.head = limit_head,
	.list = limit_list,
	.remove = limit_remove,
	.copy = limit_copy,
	.upload = limit_upload,
	.uploads = limit_uploads,
	.close = limit_close,
};

struct store *store_limit_new(struct store *inner, unsigned connections)
{
	struct limit *l = calloc(1, sizeof(*l));

	CHECK(l && connections > 0);
	l->s.ops = &limit_ops;
	l->s.inner = inner;
	l->free = connections;
	mutex_init(&l->lock, LOCK_RANK_STORE);
	atomic_store(&l->s.capabilities, atomic_load(&inner->capabilities));
	return &l->s;
}
