/*
 * The layer that keeps to a bandwidth and to a rate of calls. It stands outside of the limit of
 * connections: who waits to begin holds none, and while a body goes slowly its connection is held.
 *
 * Sent bytes are counted by the backend, which alone knows when a body is sent and not only hashed
 * (call->pace); received ones pass through the sink. Urgent calls take their part and go at once; those
 * after them wait for it, too. So the segments keep their pace while bodies fill the rest.
 *
 * Deadlines count on 64 KiB a second for a transfer (region.c). Where the bandwidth gives 32 of them
 * less at any time of the week, they are stretched by what is missing then.
 *
 * Where a limit has rules for hours and days the buckets follow the wall clock: whoever enters or
 * waits looks at it, one at a time and not more often than each LOOK_MS. So a border is noticed within
 * that and a slice of the wait, also by those who wait already.
 *
 * No lock of its own: two that follow at once, because one of them was slow, may leave the limit of
 * the moment before, until the next look.
 */
#include "replicator/store/layers.h"
#include "replicator/store/rate.h"
#include "src/base/clock.h"
#include "src/base/schedule.h"

enum { SLICE_MS = 50, LOOK_MS = 250, SHARERS = 32 };
#define SLOWEST (UINT64_C(64) << 10) /* bytes a second */

struct pace {
	struct store s;
	struct rate up, down, calls;
	struct schedule bytes, requests; /* constant, as the next two */
	bool limits_bytes;		 /* at some time */
	int64_t stretch;
	_Atomic int64_t look_ms; /* monotonic: when the clock is looked at next */
};

/* One call: its deadline stretched, and what paces its bodies. */
struct paced {
	struct pace *p;
	struct store_call call;
	struct store_pace pace;
	const struct store_sink *sink;
	struct store_sink slow;
};

static void follow(struct pace *p)
{
	int64_t now = clock_monotonic_ms(), due = atomic_load(&p->look_ms);

	if (now < due || !atomic_compare_exchange_strong(&p->look_ms, &due, now + LOOK_MS))
		return;
	int64_t realtime = clock_realtime_ms();
	uint64_t bytes = schedule_at(&p->bytes, realtime);
	rate_set(&p->up, bytes);
	rate_set(&p->down, bytes);
	rate_set(&p->calls, schedule_at(&p->requests, realtime));
}

/* Takes n units and waits for them, unless the call is urgent. One that is cancelled ends by itself
 * soon. */
static void take(struct pace *p, struct rate *rate, uint64_t n, const struct store_call *call)
{
	int64_t wait;

	follow(p);
	uint64_t ticket = rate_take(rate, n);
	if (call->priority == STORE_URGENT)
		return;
	while ((wait = rate_wait_ms(rate, ticket)) > 0 &&
		!(call->cancel && atomic_load(call->cancel))) {
		clock_sleep_ms(wait < SLICE_MS ? wait : SLICE_MS);
		follow(p);
	}
}

static void sending(void *ctx, size_t n)
{
	struct paced *d = ctx;

	take(d->p, &d->p->up, n, &d->call);
}

static int slow_write(void *ctx, const void *p, size_t len)
{
	struct paced *d = ctx;

	take(d->p, &d->p->down, len, &d->call);
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
	int64_t left = call->deadline_ms - clock_monotonic_ms();

	*d = (struct paced){.p = p, .call = *call};
	if (p->limits_bytes) {
		d->pace = (struct store_pace){.sending = sending, .ctx = d};
		d->call.pace = &d->pace;
	}
	take(p, &p->calls, 1, call);
	if (call->deadline_ms && left > 0)
		d->call.deadline_ms = clock_monotonic_ms() + left * p->stretch;
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

struct store *store_pace_new(
	struct store *inner, const struct schedule *bytes, const struct schedule *requests)
{
	struct pace *p = calloc(1, sizeof(*p));
	uint64_t lowest = schedule_lowest(bytes);
	int64_t realtime = clock_realtime_ms();

	CHECK(p);
	p->s.ops = &pace_ops;
	p->s.inner = inner;
	p->bytes = *bytes;
	p->requests = *requests;
	p->limits_bytes = lowest > 0;
	rate_init(&p->up, schedule_at(bytes, realtime), STORE_PACE_CHUNK);
	rate_init(&p->down, schedule_at(bytes, realtime), STORE_PACE_CHUNK);
	rate_init(&p->calls, schedule_at(requests, realtime), 1);
	/* Nothing to follow. */
	if (!bytes->rules && !requests->rules)
		atomic_store(&p->look_ms, INT64_MAX);
	p->stretch = 1;
	if (lowest && lowest < SHARERS * SLOWEST)
		p->stretch = (int64_t)((SHARERS * SLOWEST + lowest - 1) / lowest);
	atomic_store(&p->s.capabilities, atomic_load(&inner->capabilities));
	return &p->s;
}

static struct store_pace_limit limit_of(const struct schedule *s, int64_t realtime_ms)
{
	return (struct store_pace_limit){
		schedule_at(s, realtime_ms), schedule_until(s, realtime_ms)};
}

void store_pace_read(
	struct store *s, struct store_pace_limit *ret_bytes, struct store_pace_limit *ret_requests)
{
	int64_t realtime = clock_realtime_ms();

	*ret_bytes = *ret_requests = (struct store_pace_limit){0};
	while (s && s->ops != &pace_ops)
		s = s->inner;
	if (!s)
		return;
	*ret_bytes = limit_of(&((struct pace *)s)->bytes, realtime);
	*ret_requests = limit_of(&((struct pace *)s)->requests, realtime);
}
