/*
 * The one layer that repeats. Passing failures (store_result_passing) are repeated after a pause of
 * full-jitter exponential backoff (uniform in 0 … min(5 s, 100 ms * 2^n); Brooker, "Exponential
 * Backoff And Jitter", AWS Architecture Blog 2015), not shorter than what the store asked for (at
 * most 30 s), until the attempts or the deadline are used up. Every other code is an answer and
 * returned at once.
 *
 * A change whose outcome is unknown is looked at by HEAD before it is repeated:
 *   put     the object has this size and metadata: it happened. Without metadata pairs two writers'
 *           objects could look alike, so the bodies are compared instead.
 *   copy    the target has this metadata and the source's size: it happened.
 *   remove  the object is gone: it happened (or somebody else did it, which comes to the same).
 *   upload  its end, as a put; its other steps show nothing to anybody and are simply repeated (a
 *           beginning whose answer was lost leaves an upload without parts, which goes after a
 *           week)
 * Otherwise the same request with the same condition goes out again. The first request may still
 * land in between, so when the repeat meets "exists" or "precondition lost", HEAD decides again
 * whether that is our own work. A change is never reported as failed by its condition while it may
 * have happened: the answer is then STORE_UNKNOWN.
 *
 * Holds no lock; all state is on the caller's stack.
 */
#include "replicator/store/layers.h"

#include <errno.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/metrics.h"
#include "src/base/random.h"

enum {
	BACKOFF_FIRST_MS = 100,
	BACKOFF_MAX_MS = 5000,
	RETRY_AFTER_MAX_MS = 30000,
	CANCEL_POLL_MS = 50,
	THROTTLED_TIMES = 2, /* as many attempts where the store answers, and asks for patience */
};

struct retry {
	struct store s;
	unsigned attempts;
	int64_t timeout_ms;
};

/* One call of a user: its deadline made definite, and the attempts used. */
struct attempt {
	struct retry *r;
	struct store_call call;
	unsigned used;
};

static struct attempt attempt_begin(struct store *s, const struct store_call *call)
{
	struct attempt a = {.r = (struct retry *)s, .call = *call};

	if (!a.call.deadline_ms)
		a.call.deadline_ms = clock_monotonic_ms() + a.r->timeout_ms;
	return a;
}

static bool cancelled(const struct attempt *a)
{
	return a->call.cancel && atomic_load_explicit(a->call.cancel, memory_order_relaxed);
}

static void pause_ms(const struct attempt *a, int64_t ms)
{
	while (ms > 0 && !cancelled(a)) {
		int64_t step = a->call.cancel && ms > CANCEL_POLL_MS ? CANCEL_POLL_MS : ms;
		clock_sleep_ms(step);
		ms -= step;
	}
}

/* After a passing failure: waits and returns true when there is another attempt. False: the failure
 * stands, with error as it is. */
static bool attempt_again(
	struct attempt *a, enum store_result r, struct store_error *error)
{
	int64_t ceiling = a->used < 6 ? (int64_t)BACKOFF_FIRST_MS << a->used : BACKOFF_MAX_MS;
	int64_t wait;

	if (++a->used >= a->r->attempts * (r == STORE_THROTTLED ? THROTTLED_TIMES : 1) ||
		cancelled(a))
		return false;
	if (ceiling > BACKOFF_MAX_MS)
		ceiling = BACKOFF_MAX_MS;
	wait = (int64_t)random_below((uint64_t)ceiling + 1);
	if (error->retry_after_ms > 0) {
		int64_t asked = error->retry_after_ms;
		/* The jitter goes on top, or all clients would come back at one instant. */
		wait += asked < RETRY_AFTER_MAX_MS ? asked : RETRY_AFTER_MAX_MS;
	}
	if (wait >= a->call.deadline_ms - clock_monotonic_ms())
		return false;
	pause_ms(a, wait);
	if (cancelled(a))
		return false;
	memset(error, 0, sizeof(*error));
	metric_add(METRIC_STORE_RETRIES, 1);
	return true;
}

/* What the caller gets. A passing failure is now final. */
static enum store_result finish(
	const struct attempt *a, enum store_result r, struct store_error *error)
{
	if (!store_result_passing(r))
		return r;
	/* After a change of unknown outcome the caller must learn that, not that it was cancelled.
	 */
	if (cancelled(a) && r != STORE_UNKNOWN)
		return store_error_local(error, -ECANCELED, "the call was cancelled");
	metric_add(METRIC_STORE_ERRORS, 1);
	return r;
}

/* Reading calls. */

struct retry_sink {
	const struct store_sink *to;
	bool dirty;
};

static int retry_sink_write(void *ctx, const void *p, size_t len)
{
	struct retry_sink *k = ctx;

	k->dirty = true;
	return k->to->write(k->to->ctx, p, len);
}

static enum store_result retry_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);
	struct retry_sink k = {.to = sink};
	struct store_sink watched = {.write = retry_sink_write, .ctx = &k};

	for (;;) {
		enum store_result r = store_get(s->inner, key, offset, length, if_match, &watched,
			object, meta, &a.call, error);
		if (!store_result_passing(r) || (k.dirty && !sink->reset) ||
			!attempt_again(&a, r, error))
			return finish(&a, r, error);
		int e = sink->reset ? sink->reset(sink->ctx) : 0;
		if (e < 0)
			return store_error_local(error, e, "starting the body over");
		k.dirty = false;
	}
}

static enum store_result head_attempts(struct attempt *a, const char *key,
	struct store_object *object, struct store_meta *meta, struct store_error *error)
{
	for (;;) {
		enum store_result r = store_head(a->r->s.inner, key, object, meta, &a->call, error);
		if (!store_result_passing(r) || !attempt_again(a, r, error))
			return r;
	}
}

static enum store_result retry_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);

	return finish(&a, head_attempts(&a, key, object, meta, error), error);
}

/* A listing goes on after the last key that was delivered. */
struct retry_list {
	store_list_fn fn;
	void *ctx;
	uint64_t delivered;
	bool ended;
	char last[STORE_KEY_MAX + 1];
};

static int retry_list_item(void *ctx, const char *key, const struct store_object *object)
{
	struct retry_list *l = ctx;
	size_t n = strlen(key);

	CHECK(n <= STORE_KEY_MAX);
	memcpy(l->last, key, n + 1);
	l->delivered++;
	l->ended = l->fn(l->ctx, key, object) != 0;
	return l->ended;
}

static enum store_result retry_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);
	struct retry_list l = {.fn = fn, .ctx = ctx};
	uint64_t before = 0;

	for (;;) {
		enum store_result r = store_list(s->inner, prefix,
			l.delivered ? l.last : start_after, limit ? limit - l.delivered : 0,
			retry_list_item, &l, &a.call, error);
		if (!store_result_passing(r))
			return r;
		if (l.ended || (limit && l.delivered == limit))
			return STORE_OK;
		/* A listing that makes progress may be as long as it likes, unless its caller set a
		 * limit. */
		if (l.delivered > before) {
			before = l.delivered;
			a.used = 0;
			if (!call->deadline_ms)
				a.call.deadline_ms = clock_monotonic_ms() + a.r->timeout_ms;
		}
		if (!attempt_again(&a, r, error))
			return finish(&a, r, error);
	}
}

/* Verification of changes. Each verdict function returns STORE_OK and *ret_happened, or why it
 * could not tell. */

static bool meta_covers(const struct store_meta *have, const struct store_meta *want)
{
	for (uint32_t i = 0; i < want->count; i++) {
		const char *v = store_meta_get(have, want->item[i].name);
		if (!v || strcmp(v, want->item[i].value))
			return false;
	}
	return true;
}

struct compare {
	const struct store_source *source;
	uint64_t offset;
	bool differs;
	int error;
};

static int compare_write(void *ctx, const void *p, size_t len)
{
	struct compare *c = ctx;
	const char *at = p;

	while (len && !c->differs) {
		char b[16384];
		size_t want = len < sizeof(b) ? len : sizeof(b);
		if (c->offset >= c->source->size) {
			c->differs = true;
			break;
		}
		ssize_t n = c->source->read(c->source->ctx, c->offset, b, want);
		if (n <= 0) {
			c->error = n < 0 ? (int)n : -EIO;
			return c->error;
		}
		c->differs = memcmp(b, at, (size_t)n) != 0;
		c->offset += (uint64_t)n;
		at += n;
		len -= (size_t)n;
	}
	return c->differs ? -ECANCELED : 0;
}

static int compare_reset(void *ctx)
{
	struct compare *c = ctx;

	c->offset = 0;
	c->differs = false;
	return 0;
}

/* Bodies, for an object that carries no metadata of its own. */
static enum store_result same_body(struct attempt *a, const char *key,
	const struct store_source *source, const char *etag, bool *ret_same,
	struct store_error *error)
{
	struct compare c = {.source = source};
	struct store_sink sink = {.write = compare_write, .reset = compare_reset, .ctx = &c};

	enum store_result r = retry_get(
		&a->r->s, key, 0, 0, *etag ? etag : NULL, &sink, NULL, NULL, &a->call, error);
	if (r != STORE_OK && !c.differs && r != STORE_PRECONDITION && r != STORE_ABSENT)
		return r;
	*ret_same = r == STORE_OK && !c.differs && c.offset == source->size;
	return STORE_OK;
}

static enum store_result put_happened(struct attempt *a, const char *key,
	const struct store_source *source, const struct store_meta *meta, char *etag,
	bool *ret_happened, struct store_error *error)
{
	CLEANUP(store_meta_done) struct store_meta have = {0};
	struct store_object object = {0};
	bool same;

	enum store_result r = head_attempts(a, key, &object, &have, error);
	*ret_happened = false;
	if (r == STORE_ABSENT)
		return STORE_OK;
	if (r != STORE_OK)
		return r;
	same = object.size == source->size && meta_covers(&have, meta);
	if (same && meta->count == 0 && source->size > 0) {
		r = same_body(a, key, source, object.etag, &same, error);
		if (r != STORE_OK)
			return r;
	}
	if (same)
		memcpy(etag, object.etag, STORE_ETAG_SIZE);
	*ret_happened = same;
	return STORE_OK;
}

static enum store_result copy_happened(struct attempt *a, const char *from, const char *to,
	const struct store_meta *meta, char *etag, bool *ret_happened, struct store_error *error)
{
	CLEANUP(store_meta_done) struct store_meta have = {0};
	struct store_object object = {0}, source = {0};

	*ret_happened = false;
	/* Without metadata nothing tells the copy from what was there before; repeating is
	 * harmless. */
	if (meta->count == 0)
		return STORE_OK;
	enum store_result r = head_attempts(a, to, &object, &have, error);
	if (r == STORE_ABSENT)
		return STORE_OK;
	if (r != STORE_OK || !meta_covers(&have, meta))
		return r;
	if (strcmp(from, to) && !a->call.origin) {
		r = head_attempts(a, from, &source, NULL, error);
		if (r != STORE_OK && r != STORE_ABSENT)
			return r;
		if (r == STORE_OK && source.size != object.size)
			return STORE_OK;
	}
	memcpy(etag, object.etag, STORE_ETAG_SIZE);
	*ret_happened = true;
	return STORE_OK;
}

static enum store_result remove_happened(
	struct attempt *a, const char *key, bool *ret_happened, struct store_error *error)
{
	struct store_object object;

	enum store_result r = head_attempts(a, key, &object, NULL, error);
	*ret_happened = r == STORE_ABSENT;
	return r == STORE_ABSENT ? STORE_OK : r;
}

/* A HEAD that failed for good tells nothing about the change. */
static enum store_result still_unknown(
	const struct attempt *a, enum store_result head, struct store_error *error)
{
	char why[sizeof(error->text)];

	memcpy(why, error->text, sizeof(why));
	store_error_set(error, STORE_UNKNOWN,
		"outcome unknown, and HEAD could not tell (%s): %.160s", store_result_name(head),
		why);
	return finish(a, STORE_UNKNOWN, error);
}

/* Changing calls. unknown: an earlier attempt of this call may have happened. */

static bool note_unknown(const struct store_call *call, enum store_result r)
{
	if (r == STORE_UNKNOWN && call->uncertain)
		*call->uncertain = true;
	return r == STORE_UNKNOWN;
}

static enum store_result retry_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);
	bool unknown = false;

	for (;;) {
		enum store_result r =
			store_put(s->inner, key, source, meta, condition, etag, &a.call, error);
		unknown |= note_unknown(call, r);
		bool lost = r == STORE_EXISTS || r == STORE_PRECONDITION;
		if (unknown && (r == STORE_UNKNOWN || lost)) {
			bool happened;
			struct store_error head_error = {0};
			enum store_result v =
				put_happened(&a, key, source, meta, etag, &happened, &head_error);
			if (v != STORE_OK) {
				*error = head_error;
				return still_unknown(&a, v, error);
			}
			if (happened) {
				memset(error, 0, sizeof(*error));
				return STORE_OK;
			}
		}
		if (!store_result_passing(r))
			return r;
		if (!attempt_again(&a, r, error))
			return finish(&a, unknown ? STORE_UNKNOWN : r, error);
	}
}

static enum store_result retry_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);
	bool unknown = false;

	for (;;) {
		enum store_result r =
			store_copy(s->inner, from, to, meta, if_match, etag, &a.call, error);
		unknown |= note_unknown(call, r);
		if (unknown &&
			(r == STORE_UNKNOWN || r == STORE_PRECONDITION || r == STORE_ABSENT)) {
			bool happened;
			struct store_error head_error = {0};
			enum store_result v =
				copy_happened(&a, from, to, meta, etag, &happened, &head_error);
			if (v != STORE_OK) {
				*error = head_error;
				return still_unknown(&a, v, error);
			}
			if (happened) {
				memset(error, 0, sizeof(*error));
				return STORE_OK;
			}
		}
		if (!store_result_passing(r))
			return r;
		if (!attempt_again(&a, r, error))
			return finish(&a, unknown ? STORE_UNKNOWN : r, error);
	}
}

static enum store_result retry_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);
	bool unknown = false;

	for (;;) {
		enum store_result r = store_remove(s->inner, key, if_match, &a.call, error);
		unknown |= note_unknown(call, r);
		if (unknown && (r == STORE_UNKNOWN || r == STORE_PRECONDITION)) {
			bool happened;
			struct store_error head_error = {0};
			enum store_result v = remove_happened(&a, key, &happened, &head_error);
			if (v != STORE_OK) {
				*error = head_error;
				return still_unknown(&a, v, error);
			}
			if (happened) {
				memset(error, 0, sizeof(*error));
				return STORE_OK;
			}
		}
		if (!store_result_passing(r))
			return r;
		if (!attempt_again(&a, r, error))
			return finish(&a, unknown ? STORE_UNKNOWN : r, error);
	}
}

static enum store_result upload_happened(struct attempt *a, const struct store_upload *u,
	bool *ret_happened, struct store_error *error)
{
	CLEANUP(store_meta_done) struct store_meta have = {0};
	struct store_object object = {0};
	uint64_t size = 0;

	for (size_t i = 0; i < u->part_count; i++)
		size += u->part[i].size;
	enum store_result r = head_attempts(a, u->key, &object, &have, error);
	*ret_happened = false;
	if (r == STORE_ABSENT)
		return STORE_OK;
	/* Without metadata nothing tells this object from another of its size. */
	if (r != STORE_OK || !u->meta->count || object.size != size || !meta_covers(&have, u->meta))
		return r;
	memcpy(u->etag, object.etag, STORE_ETAG_SIZE);
	*ret_happened = true;
	return STORE_OK;
}

static enum store_result retry_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);
	bool unknown = false;

	for (;;) {
		enum store_result r = store_inner_upload(s, u, &a.call, error);
		if (u->step == STORE_UPLOAD_END)
			unknown |= note_unknown(call, r);
		if (unknown && (r == STORE_UNKNOWN || r == STORE_EXISTS ||
				       r == STORE_PRECONDITION || r == STORE_ABSENT)) {
			bool happened;
			struct store_error head_error = {0};
			enum store_result v = upload_happened(&a, u, &happened, &head_error);
			if (v != STORE_OK) {
				*error = head_error;
				return still_unknown(&a, v, error);
			}
			if (happened) {
				memset(error, 0, sizeof(*error));
				return STORE_OK;
			}
		}
		if (!store_result_passing(r))
			return r;
		if (!attempt_again(&a, r, error))
			return finish(&a, unknown ? STORE_UNKNOWN : r, error);
	}
}

static enum store_result retry_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	struct attempt a = attempt_begin(s, call);

	for (;;) {
		enum store_result r = store_inner_uploads(s, prefix, fn, ctx, &a.call, error);
		if (!store_result_passing(r) || !attempt_again(&a, r, error))
			return finish(&a, r, error);
	}
}

static void retry_close(struct store *s)
{
	store_close(s->inner);
	free(s);
}

static const struct store_ops retry_ops = {
	.name = "retry",
	.get = retry_get,
	.put = retry_put,
	.head = retry_head,
	.list = retry_list,
	.remove = retry_remove,
	.copy = retry_copy,
	.upload = retry_upload,
	.uploads = retry_uploads,
	.close = retry_close,
};

struct store *store_retry_new(struct store *inner, unsigned attempts, int64_t timeout_ms)
{
	struct retry *t = calloc(1, sizeof(*t));

	CHECK(t && attempts > 0 && timeout_ms > 0);
	t->s.ops = &retry_ops;
	t->s.inner = inner;
	t->attempts = attempts;
	t->timeout_ms = timeout_ms;
	atomic_store(&t->s.capabilities, atomic_load(&inner->capabilities));
	return &t->s;
}
