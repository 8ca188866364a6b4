/*
 * The layer that bounds how many calls a store sees at once. Waiters stand in a queue for each
 * priority in order of arrival; whoever finishes hands its place to the first of them that may have
 * it, so that a newcomer never overtakes its like. Bulk calls never have all places, so that what
 * is small or urgent finds one free soon; and some places are theirs first, so that they are not shut
 * out either. Of normal calls no more are under way than the way to the store holds, or 16 (window.h). A waiter leaves at its deadline or when its call is cancelled (looked at every
 * CANCEL_POLL_MS), having changed nothing.
 *
 * How many that is follows the store: halved when it says that it is asked too much, at most once in
 * CUT_PAUSE_MS, because calls that were under way together are refused together; and one more after
 * GROW_ROUNDS times as many answers (additive increase, multiplicative decrease: Chiu and Jain 1989).
 *
 * lock (LOCK_RANK_STORE) guards the counts, the queues and every waiter in them; it is never held
 * during a call. Invariant: busy < allowed implies that no urgent call waits, and that of those that do, bulk
 * and normal ones, as many as may are under way.
 */
#include "replicator/store/layers.h"

#include "src/base/clock.h"
#include "replicator/store/window.h"
#include "src/base/thread.h"

enum {
	CANCEL_POLL_MS = 50,
	CUT_PAUSE_MS = 500,
	GROW_ROUNDS = 8,
	NORMAL_LEAST = 16,
	MEASURED_MAX = 64 << 10, /* bodies whose time is not that of their bytes */
};

struct waiter {
	struct waiter *next;
	struct waiter *prev;
	struct cond wake;
	bool granted;
};

struct queue {
	struct waiter *first;
	struct waiter *last;
};

enum { PRIORITIES = STORE_BULK + 1 };

struct limit {
	struct store s;
	struct mutex lock;
	unsigned connections;
	unsigned allowed; /* of them, 1 … connections */
	unsigned busy;
	unsigned bulk;	  /* of the busy ones */
	unsigned normal;      /* likewise */
	struct window window; /* of those */
	bool bulk_was_last;
	unsigned answers; /* since allowed changed */
	int64_t cut_ms;	  /* when it was halved, monotonic */
	struct queue queue[PRIORITIES];
};

static void queue_append(struct queue *q, struct waiter *w)
{
	w->prev = q->last;
	w->next = NULL;
	if (q->last)
		q->last->next = w;
	else
		q->first = w;
	q->last = w;
}

static void queue_unlink(struct queue *q, struct waiter *w)
{
	if (w->prev)
		w->prev->next = w->next;
	else
		q->first = w->next;
	if (w->next)
		w->next->prev = w->prev;
	else
		q->last = w->prev;
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

/* Whose turn it is; PRIORITIES: nobody's who may. */
static unsigned next_queue(const struct limit *l)
{
	unsigned most = l->allowed * 3 / 4 ? l->allowed * 3 / 4 : 1;
	unsigned least = l->allowed / 8 ? l->allowed / 8 : 1; /* of bulk, before normal ones */
	bool bulk = l->queue[STORE_BULK].first && l->bulk < most;
	/* With one place for all they take turns. */
	bool turn = l->allowed > 1 || !l->bulk_was_last;

	if (l->queue[STORE_URGENT].first)
		return STORE_URGENT;
	if (bulk && turn && l->bulk < least)
		return STORE_BULK;
	if (l->queue[STORE_NORMAL].first && l->normal < l->window.now)
		return STORE_NORMAL;
	return bulk ? STORE_BULK : PRIORITIES;
}

/* Under the lock: gives what is free to those who may have it. */
static void hand_out(struct limit *l)
{
	unsigned which;

	while (l->busy < l->allowed && (which = next_queue(l)) != PRIORITIES) {
		struct waiter *w = l->queue[which].first;

		queue_unlink(&l->queue[which], w);
		l->busy++;
		l->bulk += which == STORE_BULK;
		l->normal += which == STORE_NORMAL;
		if (which != STORE_URGENT)
			l->bulk_was_last = which == STORE_BULK;
		w->granted = true;
		/* Under the lock: the waiter's cond lives on its stack. */
		cond_signal(&w->wake);
	}
}

static enum store_result enter(
	struct store *s, const struct store_call *call, struct store_error *error)
{
	struct limit *l = (struct limit *)s;
	struct queue *q = &l->queue[call->priority];
	struct waiter w = {0};
	enum store_result r = STORE_OK;

	cond_init(&w.wake);
	mutex_lock(&l->lock);
	queue_append(q, &w);
	hand_out(l);
	while (!w.granted && (r = store_call_check(call, error)) == STORE_OK)
		wait_once(l, &w, call);
	if (w.granted)
		r = STORE_OK;
	else
		queue_unlink(q, &w);
	mutex_unlock(&l->lock);
	cond_done(&w.wake);
	return r;
}

/* Under the lock: what an answer says of how much the store takes. */
static void adapt(struct limit *l, enum store_result r)
{
	int64_t now = clock_monotonic_ms();

	if (r == STORE_THROTTLED) {
		l->answers = 0;
		if (l->cut_ms && now - l->cut_ms < CUT_PAUSE_MS)
			return;
		l->cut_ms = now;
		l->allowed = l->allowed / 2 ? l->allowed / 2 : 1;
	} else if (!store_result_passing(r) && r != STORE_LOCAL && l->allowed < l->connections &&
		   ++l->answers >= GROW_ROUNDS * l->allowed) {
		l->answers = 0;
		l->allowed++;
	}
}

static enum store_result leave(
	struct store *s, const struct store_call *call, enum store_result r)
{
	struct limit *l = (struct limit *)s;

	mutex_lock(&l->lock);
	l->busy--;
	adapt(l, r);
	l->bulk -= call->priority == STORE_BULK;
	l->normal -= call->priority == STORE_NORMAL;
	hand_out(l);
	mutex_unlock(&l->lock);
	return r;
}

/* Puts of small bodies, which take as long as the way and the store's other work do. */
static void measure(struct limit *l, int64_t start_ms)
{
	int64_t now_ms = clock_monotonic_ms();

	mutex_lock(&l->lock);
	window_answer(&l->window, now_ms - start_ms, l->queue[STORE_NORMAL].first != NULL, now_ms);
	mutex_unlock(&l->lock);
}

static enum store_result limit_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, call,
		store_get(
			s->inner, key, offset, length, if_match, sink, object, meta, call, error));
}

static enum store_result limit_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = enter(s, call, error);
	int64_t start_ms = clock_monotonic_ms();

	if (r != STORE_OK)
		return r;
	r = store_put(s->inner, key, source, meta, condition, etag, call, error);
	if (r == STORE_OK && call->priority == STORE_NORMAL && source->size <= MEASURED_MAX)
		measure((struct limit *)s, start_ms);
	return leave(s, call, r);
}

static enum store_result limit_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, call, store_head(s->inner, key, object, meta, call, error));
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
	return leave(
		s, call, store_list(s->inner, prefix, start_after, limit, fn, ctx, call, error));
}

static enum store_result limit_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, call, store_remove(s->inner, key, if_match, call, error));
}

static enum store_result limit_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, call, store_copy(s->inner, from, to, meta, if_match, etag, call, error));
}

static enum store_result limit_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, call, store_inner_upload(s, u, call, error));
}

static enum store_result limit_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	enum store_result r = enter(s, call, error);

	if (r != STORE_OK)
		return r;
	return leave(s, call, store_inner_uploads(s, prefix, fn, ctx, call, error));
}

static void limit_close(struct store *s)
{
	struct limit *l = (struct limit *)s;

	for (unsigned i = 0; i < PRIORITIES; i++)
		CHECK(!l->queue[i].first);
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
	l->connections = l->allowed = connections;
	window_init(&l->window, NORMAL_LEAST, connections);
	mutex_init(&l->lock, LOCK_RANK_STORE);
	atomic_store(&l->s.capabilities, atomic_load(&inner->capabilities));
	return &l->s;
}

void store_limit_read(struct store *s, unsigned *ret_allowed, unsigned *ret_connections)
{
	*ret_allowed = *ret_connections = 0;
	while (s && s->ops != &limit_ops)
		s = s->inner;
	if (!s)
		return;
	struct limit *l = (struct limit *)s;
	mutex_lock(&l->lock);
	*ret_allowed = l->allowed;
	*ret_connections = l->connections;
	mutex_unlock(&l->lock);
}
