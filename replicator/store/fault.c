/*
 * The layer that fails on demand, for tests and the simulation: a hook decides before each call
 * whether it is replaced by a failure, and after each one that succeeded whether its answer is
 * lost. Holds no state of its own.
 */
#include "replicator/store/layers.h"

#include <errno.h>

struct fault {
	struct store s;
	store_fault_hook hook;
	void *ctx;
};

static enum store_result ask(struct store *s, const char *op, const char *key, bool did_happen,
	struct store_error *error)
{
	struct fault *f = (struct fault *)s;

	enum store_result r = f->hook(f->ctx, op, key, did_happen);
	if (r == STORE_OK)
		return STORE_OK;
	if (r == STORE_LOCAL)
		error->local_errno = EIO;
	return store_error_set(error, r, "injected fault: %s of %s", op, key);
}

static enum store_result fault_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = ask(s, "get", key, false, error);

	if (r == STORE_OK)
		r = store_get(
			s->inner, key, offset, length, if_match, sink, object, meta, call, error);
	return r == STORE_OK ? ask(s, "get", key, true, error) : r;
}

static enum store_result fault_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = ask(s, "put", key, false, error);

	if (r == STORE_OK)
		r = store_put(s->inner, key, source, meta, condition, etag, call, error);
	return r == STORE_OK ? ask(s, "put", key, true, error) : r;
}

static enum store_result fault_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	enum store_result r = ask(s, "head", key, false, error);

	if (r == STORE_OK)
		r = store_head(s->inner, key, object, meta, call, error);
	return r == STORE_OK ? ask(s, "head", key, true, error) : r;
}

static enum store_result fault_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	enum store_result r = ask(s, "list", prefix, false, error);

	if (r == STORE_OK)
		r = store_list(s->inner, prefix, start_after, limit, fn, ctx, call, error);
	return r == STORE_OK ? ask(s, "list", prefix, true, error) : r;
}

static enum store_result fault_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = ask(s, "remove", key, false, error);

	if (r == STORE_OK)
		r = store_remove(s->inner, key, if_match, call, error);
	return r == STORE_OK ? ask(s, "remove", key, true, error) : r;
}

static enum store_result fault_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	enum store_result r = ask(s, "copy", to, false, error);

	if (r == STORE_OK)
		r = store_copy(s->inner, from, to, meta, if_match, etag, call, error);
	return r == STORE_OK ? ask(s, "copy", to, true, error) : r;
}

static enum store_result fault_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	static const char *const name[] = {"begin", "part", "part copy", "end", "abort"};
	enum store_result r = ask(s, name[u->step], u->key, false, error);

	if (r == STORE_OK)
		r = store_inner_upload(s, u, call, error);
	return r == STORE_OK ? ask(s, name[u->step], u->key, true, error) : r;
}

static enum store_result fault_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	enum store_result r = ask(s, "uploads", prefix, false, error);

	return r == STORE_OK ? store_inner_uploads(s, prefix, fn, ctx, call, error) : r;
}

static void fault_close(struct store *s)
{
	store_close(s->inner);
	free(s);
}

static const struct store_ops fault_ops = {
	.name = "fault",
	.get = fault_get,
	.put = fault_put,
	.head = fault_head,
	.list = fault_list,
	.remove = fault_remove,
	.copy = fault_copy,
	.upload = fault_upload,
	.uploads = fault_uploads,
	.close = fault_close,
};

struct store *store_fault_new(struct store *inner, store_fault_hook hook, void *ctx)
{
	struct fault *f = calloc(1, sizeof(*f));

	CHECK(f && hook);
	f->s.ops = &fault_ops;
	f->s.inner = inner;
	f->hook = hook;
	f->ctx = ctx;
	atomic_store(&f->s.capabilities, atomic_load(&inner->capabilities));
	return &f->s;
}
