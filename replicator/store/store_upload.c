/*
 * Uploads in parts: the gateway. Checks arguments and capabilities, and builds the request that goes
 * through the layers. No state, no lock.
 */
#include <string.h>

#include "replicator/store/layers.h"

static const struct store_call no_call;
static const struct store_condition no_condition;
static const struct store_meta no_meta;

static enum store_result need(
	struct store *s, unsigned want, const char *what, bool has_op, struct store_error *error)
{
	if (has_op && (atomic_load_explicit(&s->capabilities, memory_order_relaxed) & want) == want)
		return STORE_OK;
	return store_error_set(error, STORE_UNSUPPORTED, "this store has no %s", what);
}

static enum store_result run(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	size_t n = u->key ? strnlen(u->key, STORE_KEY_MAX + 1) : 0;
	struct store_error unused = {0};

	error = error ? error : &unused;
	if (n < 1 || n > STORE_KEY_MAX)
		return store_error_set(
			error, STORE_UNSUPPORTED, "a key has 1 to %d bytes", STORE_KEY_MAX);
	enum store_result r = need(s, STORE_CAP_UPLOAD, "uploads in parts", s->ops->upload, error);
	if (r == STORE_OK && u->step == STORE_UPLOAD_COPY)
		r = need(s, STORE_CAP_UPLOAD_COPY, "copies into an upload", true, error);
	if (r == STORE_OK && u->condition && (u->condition->if_absent || u->condition->if_match))
		r = need(s, STORE_CAP_UPLOAD_IF, "conditional end of an upload", true, error);
	return r == STORE_OK ? s->ops->upload(s, u, call ? call : &no_call, error) : r;
}

enum store_result store_upload_begin(struct store *s, const char *key,
	const struct store_meta *meta, char id[STORE_UPLOAD_ID_SIZE], const struct store_call *call,
	struct store_error *error)
{
	const struct store_upload u = {.step = STORE_UPLOAD_BEGIN,
		.key = key,
		.meta = meta ? meta : &no_meta,
		.ret_id = id};

	return run(s, &u, call, error);
}

static enum store_result check_part(
	struct store *s, const struct store_part *part, uint64_t size, struct store_error *error)
{
	const struct store_limits *l = store_limits(s);

	if (part->number < 1 || part->number > l->parts_max || size > l->part_max)
		return store_error_set(error, STORE_TOO_LARGE,
			"part %u of %llu bytes: the store takes %u parts of %llu bytes",
			part->number, (unsigned long long)size, l->parts_max,
			(unsigned long long)l->part_max);
	return STORE_OK;
}

enum store_result store_upload_part(struct store *s, const char *key, const char *id,
	const struct store_source *source, struct store_part *part, const struct store_call *call,
	struct store_error *error)
{
	struct store_error unused = {0};
	char etag[STORE_ETAG_SIZE] = "";
	const struct store_upload u = {.step = STORE_UPLOAD_PART,
		.key = key,
		.id = id,
		.number = part->number,
		.source = source,
		.etag = etag};

	error = error ? error : &unused;
	enum store_result r = check_part(s, part, source->size, error);
	if (r == STORE_OK)
		r = run(s, &u, call, error);
	if (r != STORE_OK)
		return r;
	part->size = source->size;
	memcpy(part->etag, etag, sizeof(etag));
	return STORE_OK;
}

enum store_result store_upload_copy(struct store *s, const char *key, const char *id,
	const char *from, uint64_t offset, uint64_t length, const char *if_match,
	struct store_part *part, const struct store_call *call, struct store_error *error)
{
	struct store_error unused = {0};
	char etag[STORE_ETAG_SIZE] = "";
	const struct store_upload u = {.step = STORE_UPLOAD_COPY,
		.key = key,
		.id = id,
		.number = part->number,
		.from = from,
		.offset = offset,
		.length = length,
		.if_match = if_match,
		.etag = etag};

	error = error ? error : &unused;
	enum store_result r = check_part(s, part, length, error);
	if (r == STORE_OK && !length)
		r = store_error_set(error, STORE_UNSUPPORTED, "a copied part has a length");
	if (r == STORE_OK)
		r = run(s, &u, call, error);
	if (r != STORE_OK)
		return r;
	part->size = length;
	memcpy(part->etag, etag, sizeof(etag));
	return STORE_OK;
}

enum store_result store_upload_end(struct store *s, const char *key, const char *id,
	const struct store_part *part, size_t count, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	struct store_error unused = {0};
	char unused_etag[STORE_ETAG_SIZE] = "";
	const struct store_upload u = {.step = STORE_UPLOAD_END,
		.key = key,
		.id = id,
		.meta = meta ? meta : &no_meta,
		.part = part,
		.part_count = count,
		.condition = condition ? condition : &no_condition,
		.etag = etag ? etag : unused_etag};

	error = error ? error : &unused;
	if (!count || count > store_limits(s)->parts_max)
		return store_error_set(error, STORE_UNSUPPORTED, "an upload has 1 to %u parts",
			store_limits(s)->parts_max);
	for (size_t i = 1; i < count; i++)
		CHECK(part[i].number > part[i - 1].number);
	return run(s, &u, call, error);
}

enum store_result store_upload_abort(struct store *s, const char *key, const char *id,
	const struct store_call *call, struct store_error *error)
{
	const struct store_upload u = {.step = STORE_UPLOAD_ABORT, .key = key, .id = id};
	enum store_result r = run(s, &u, call, error);

	return r == STORE_ABSENT ? STORE_OK : r;
}

enum store_result store_uploads(struct store *s, const char *prefix, store_uploads_fn fn, void *ctx,
	const struct store_call *call, struct store_error *error)
{
	struct store_error unused = {0};

	error = error ? error : &unused;
	enum store_result r = need(s, STORE_CAP_UPLOAD, "uploads in parts", s->ops->uploads, error);
	return r == STORE_OK ? s->ops->uploads(s, prefix ? prefix : "", fn, ctx,
				       call ? call : &no_call, error)
			     : r;
}

enum store_result store_inner_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	if (!s->inner->ops->upload)
		return store_error_set(error, STORE_UNSUPPORTED, "no uploads in parts");
	return s->inner->ops->upload(s->inner, u, call, error);
}

enum store_result store_inner_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	if (!s->inner->ops->uploads)
		return store_error_set(error, STORE_UNSUPPORTED, "no uploads in parts");
	return s->inner->ops->uploads(s->inner, prefix, fn, ctx, call, error);
}

const struct store_limits *store_limits(struct store *s)
{
	while (s->inner)
		s = s->inner;
	return &s->limits;
}
