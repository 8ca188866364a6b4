/*
 * The layer that counts: requests by result and body bytes, into itself (store_stats_read) and into
 * the process-wide metrics. It sits below retry, so that every attempt counts, and above the
 * backend. An answer such as "absent" or "precondition lost" is no error; a passing failure becomes
 * one only when the retry layer gives up, which counts it there. No lock: all counters are atomic.
 */
#include "replicator/store/layers.h"

#include <string.h>

#include "src/base/metrics.h"

struct stats {
	struct store s;
	_Atomic uint64_t results[STORE_RESULT_COUNT];
	_Atomic uint64_t bytes_sent;
	_Atomic uint64_t bytes_received;
};

static struct stats *stats_of(struct store *s)
{
	return (struct stats *)s;
}

static enum store_result count(struct store *s, enum store_result r)
{
	atomic_fetch_add_explicit(&stats_of(s)->results[r], 1, memory_order_relaxed);
	metric_add(METRIC_STORE_REQUESTS, 1);
	if (r != STORE_OK && r != STORE_ABSENT && r != STORE_EXISTS && r != STORE_PRECONDITION &&
		!store_result_passing(r))
		metric_add(METRIC_STORE_ERRORS, 1);
	return r;
}

struct counting_sink {
	const struct store_sink *to;
	uint64_t bytes;
};

static int counting_write(void *ctx, const void *p, size_t len)
{
	struct counting_sink *k = ctx;

	k->bytes += len;
	return k->to->write(k->to->ctx, p, len);
}

static enum store_result stats_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	struct counting_sink k = {.to = sink};
	struct store_sink counting = {.write = counting_write, .ctx = &k};

	enum store_result r = store_get(
		s->inner, key, offset, length, if_match, &counting, object, meta, call, error);
	atomic_fetch_add_explicit(&stats_of(s)->bytes_received, k.bytes, memory_order_relaxed);
	metric_add(METRIC_BYTES_RECEIVED, k.bytes);
	return count(s, r);
}

struct counting_source {
	const struct store_source *from;
	uint64_t bytes;
};

static ssize_t counting_read(void *ctx, uint64_t offset, void *p, size_t len)
{
	struct counting_source *k = ctx;

	if (offset == 0)
		k->bytes = 0; /* what was read before was for its hash */
	ssize_t n = k->from->read(k->from->ctx, offset, p, len);
	if (n > 0)
		k->bytes += (uint64_t)n;
	return n;
}

static enum store_result stats_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	struct counting_source k = {.from = source};
	struct store_source counting = {.size = source->size, .read = counting_read, .ctx = &k};

	enum store_result r =
		store_put(s->inner, key, &counting, meta, condition, etag, call, error);
	atomic_fetch_add_explicit(&stats_of(s)->bytes_sent, k.bytes, memory_order_relaxed);
	metric_add(METRIC_BYTES_SENT, k.bytes);
	return count(s, r);
}

static enum store_result stats_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	return count(s, store_head(s->inner, key, object, meta, call, error));
}

static enum store_result stats_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	return count(s, store_list(s->inner, prefix, start_after, limit, fn, ctx, call, error));
}

static enum store_result stats_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	return count(s, store_remove(s->inner, key, if_match, call, error));
}

static enum store_result stats_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	return count(s, store_copy(s->inner, from, to, meta, if_match, etag, call, error));
}

static enum store_result stats_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	struct counting_source k = {.from = u->source};
	struct store_source counting = {.read = counting_read, .ctx = &k};
	struct store_upload counted = *u;

	if (u->source) {
		counting.size = u->source->size;
		counted.source = &counting;
	}
	enum store_result r = store_inner_upload(s, &counted, call, error);
	atomic_fetch_add_explicit(&stats_of(s)->bytes_sent, k.bytes, memory_order_relaxed);
	metric_add(METRIC_BYTES_SENT, k.bytes);
	return count(s, r);
}

static enum store_result stats_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	return count(s, store_inner_uploads(s, prefix, fn, ctx, call, error));
}

static void stats_close(struct store *s)
{
	store_close(s->inner);
	free(s);
}

static const struct store_ops stats_ops = {
	.name = "stats",
	.get = stats_get,
	.put = stats_put,
	.head = stats_head,
	.list = stats_list,
	.remove = stats_remove,
	.copy = stats_copy,
	.upload = stats_upload,
	.uploads = stats_uploads,
	.close = stats_close,
};

struct store *store_stats_new(struct store *inner)
{
	struct stats *t = calloc(1, sizeof(*t));

	CHECK(t);
	t->s.ops = &stats_ops;
	t->s.inner = inner;
	atomic_store(&t->s.capabilities, atomic_load(&inner->capabilities));
	return &t->s;
}

void store_stats_read(struct store *s, struct store_counts *ret)
{
	memset(ret, 0, sizeof(*ret));
	while (s && s->ops != &stats_ops)
		s = s->inner;
	if (!s)
		return;
	for (int i = 0; i < STORE_RESULT_COUNT; i++)
		ret->results[i] = atomic_load(&stats_of(s)->results[i]);
	ret->bytes_sent = atomic_load(&stats_of(s)->bytes_sent);
	ret->bytes_received = atomic_load(&stats_of(s)->bytes_received);
}
