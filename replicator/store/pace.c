/*
 * The layer that keeps to a bandwidth and to a rate of calls. It stands outside of the limit of
 * connections: who waits to begin holds none, and while a body goes slowly its connection is held.
 *
 * Sent bytes are counted by the backend, which alone knows when a body is sent and not only hashed
 * (call->pace); received ones pass through the sink. Urgent calls take their part and go at once; those
 * after them wait for it, too. So the segments keep their pace while bodies fill the rest.
 *
 * Deadlines count on 64 KiB a second for a transfer (region.c). Where the bandwidth gives 32 of them
 * less, they are stretched by what is missing.
 *
 * No lock of its own.
 */
#include "replicator/store/layers.h"
#include "replicator/store/rate.h"
#include "src/base/clock.h"

enum { SLICE_MS = 50, SHARERS = 32 };
#define SLOWEST (UINT64_C(64) << 10) /* bytes a second */

struct pace {
	struct store s;
	struct rate up, down, calls;
	int64_t stretch;
};

/* One call: its deadline stretched, and what paces its bodies. */
struct paced {
	struct pace *p;
	struct store_call call;
	struct store_pace pace;
	const struct store_sink *sink;
	struct store_sink slow;
};

/* The call is cancelled: it ends by itself soon. */
static void hold_up(const struct store_call *call, int64_t ms)
{
	while (ms > 0 && !(call->cancel && atomic_load(call->cancel))) {
		int64_t part = ms < SLICE_MS ? ms : SLICE_MS;

		clock_sleep_ms(part);
		ms -= part;
	}
}

static void sending(void *ctx, size_t n)
{
	struct paced *d = ctx;
	int64_t wait = rate_take(&d->p->up, n);

	if (d->call.priority != STORE_URGENT)
		hold_up(&d->call, wait);
}

static int slow_write(void *ctx, const void *p, size_t len)
{
	struct paced *d = ctx;
	int64_t wait = rate_take(&d->p->down, len);

	if (d->call.priority != STORE_URGENT)
		hold_up(&d->call, wait);
	return d->sink->write(d->sink->ctx, p, len);
}

static int slow_reset(void *ctx)
{
	struct paced *d = ctx;

	return d->sink->reset(d->sink->ctx);
}

/* Waits until the call may begin. */
static enum store_result begin(
	struct paced *d, struct store *s, const struct store_call *call, struct store_error *error)
{
	struct pace *p = (struct pace *)s;
	int64_t now = clock_monotonic_ms(), wait = rate_take(&p->calls, 1);

	*d = (struct paced){.p = p, .call = *call};
	if (p->up.per_second) {
		d->pace = (struct store_pace){.sending = sending, .ctx = d};
		d->call.pace = &d->pace;
	}
	if (call->deadline_ms > now)
		d->call.deadline_ms = now + wait + (call->deadline_ms - now) * p->stretch;
	if (call->priority != STORE_URGENT)
		hold_up(call, wait);
	return store_call_check(&d->call, error);
}

static enum store_result pace_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	if (r != STORE_OK)
		return r;
	d.sink = sink;
	d.slow = (struct store_sink){
		.write = slow_write, .reset = sink->reset ? slow_reset : NULL, .ctx = &d};
	return store_get(
		s->inner, key, offset, length, if_match, &d.slow, object, meta, &d.call, error);
}

static enum store_result pace_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	if (r != STORE_OK)
		return r;
	return store_put(s->inner, key, source, meta, condition, etag, &d.call, error);
}

static enum store_result pace_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	return r != STORE_OK ? r : store_head(s->inner, key, object, meta, &d.call, error);
}

static enum store_result pace_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	if (r != STORE_OK)
		return r;
	return store_list(s->inner, prefix, start_after, limit, fn, ctx, &d.call, error);
}

static enum store_result pace_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	return r != STORE_OK ? r : store_remove(s->inner, key, if_match, &d.call, error);
}

static enum store_result pace_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	if (r != STORE_OK)
		return r;
	return store_copy(s->inner, from, to, meta, if_match, etag, &d.call, error);
}

static enum store_result pace_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	return r != STORE_OK ? r : store_inner_upload(s, u, &d.call, error);
}

static enum store_result pace_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	struct paced d;
	enum store_result r = begin(&d, s, call, error);

	return r != STORE_OK ? r : store_inner_uploads(s, prefix, fn, ctx, &d.call, error);
}

static void pace_close(struct store *s)
{
	struct pace *p = (struct pace *)s;

	store_close(s->inner);
	rate_done(&p->up);
	rate_done(&p->down);
	rate_done(&p->calls);
	free(p);
}

static const struct store_ops pace_ops = {
	.name = "pace",
	.get = pace_get,
	.put = pace_put,
	.head = pace_head,
	.list = pace_list,
	.remove = pace_remove,
	.copy = pace_copy,
	.upload = pace_upload,
	.uploads = pace_uploads,
	.close = pace_close,
};

struct store *store_pace_new(struct store *inner, uint64_t bytes, uint64_t requests)
{
	struct pace *p = calloc(1, sizeof(*p));

	CHECK(p);
	p->s.ops = &pace_ops;
	p->s.inner = inner;
	rate_init(&p->up, bytes, STORE_PACE_CHUNK);
	rate_init(&p->down, bytes, STORE_PACE_CHUNK);
	rate_init(&p->calls, requests, 1);
	p->stretch = 1;
	if (bytes && bytes < SHARERS * SLOWEST)
		p->stretch = (int64_t)((SHARERS * SLOWEST + bytes - 1) / bytes);
	atomic_store(&p->s.capabilities, atomic_load(&inner->capabilities));
	return &p->s;
}
