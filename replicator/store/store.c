/*
 * The gateway to object stores: every call of the program enters here. It checks arguments that no
 * implementation should have to check, fills in what callers may leave out, and refuses conditions
 * that the probe found missing. Also the helpers that backends and layers share, and the one place
 * where the layers are put together (store_open). Holds no state and no lock.
 */
#include "replicator/store/store.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "replicator/store/layers.h"
#include "src/base/buf.h"
#include "src/base/clock.h"

#define CLOCK_MAX_MS (INT64_C(1) << 47) /* some 4,000 years: fit to be added to, and to be signed */

enum {
	DEFAULT_CONNECTIONS = 64,
	DEFAULT_TIMEOUT_MS = 60000,
	DEFAULT_ATTEMPTS = 4,
};

const char *store_result_name(enum store_result r)
{
	static const char *const names[STORE_RESULT_COUNT] = {
		[STORE_OK] = "ok",
		[STORE_ABSENT] = "absent",
		[STORE_EXISTS] = "exists",
		[STORE_PRECONDITION] = "precondition lost",
		[STORE_TRANSIENT] = "transient failure",
		[STORE_THROTTLED] = "throttled",
		[STORE_DENIED] = "denied",
		[STORE_TIMEOUT] = "timeout",
		[STORE_CORRUPT] = "corrupt answer",
		[STORE_TOO_LARGE] = "too large",
		[STORE_UNSUPPORTED] = "unsupported",
		[STORE_UNKNOWN] = "outcome unknown",
		[STORE_LOCAL] = "local failure",
	};
	return (unsigned)r < STORE_RESULT_COUNT ? names[r] : "invalid";
}

bool store_result_passing(enum store_result r)
{
	return r == STORE_TRANSIENT || r == STORE_THROTTLED || r == STORE_TIMEOUT ||
	       r == STORE_UNKNOWN;
}

enum store_result store_error_set(
	struct store_error *error, enum store_result r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error->text, sizeof(error->text), fmt, ap);
	va_end(ap);
	return r;
}

enum store_result store_error_local(struct store_error *error, int code, const char *what)
{
	error->local_errno = -code;
	return store_error_set(error, STORE_LOCAL, "%s: %s", what, strerror(-code));
}

enum store_result store_call_check(const struct store_call *call, struct store_error *error)
{
	if (call->cancel && atomic_load_explicit(call->cancel, memory_order_relaxed))
		return store_error_local(error, -ECANCELED, "the call was cancelled");
	if (call->deadline_ms && clock_monotonic_ms() >= call->deadline_ms)
		return store_error_set(error, STORE_TIMEOUT, "the deadline has passed");
	return STORE_OK;
}

/* Metadata. */

static bool meta_name_valid(const char *s)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789!#$&'*+-.^_`|~";

	return *s && s[strspn(s, allowed)] == '\0';
}

static bool meta_value_valid(const char *s)
{
	size_t n = strlen(s);

	if (n && (s[0] == ' ' || s[n - 1] == ' '))
		return false;
	for (size_t i = 0; i < n; i++)
		if (s[i] < 0x20 || s[i] > 0x7e)
			return false;
	return true;
}

int store_meta_set(struct store_meta *m, const char *name, const char *value)
{
	size_t bytes = strlen(name) + strlen(value);
	uint32_t at = m->count;

	if (!meta_name_valid(name) || !meta_value_valid(value))
		return -EINVAL;
	for (uint32_t i = 0; i < m->count; i++) {
		if (!strcmp(m->item[i].name, name))
			at = i;
		else
			bytes += strlen(m->item[i].name) + strlen(m->item[i].value);
	}
	if (at == STORE_META_MAX || bytes > STORE_META_BYTES)
		return -E2BIG;

	AUTO_FREE char *v = strdup(value);
	AUTO_FREE char *n = at == m->count ? strdup(name) : NULL;
	if (!v || (at == m->count && !n))
		return -ENOMEM;
	if (at == m->count) {
		m->item[at].name = n;
		m->count++;
		n = NULL;
	} else {
		free(m->item[at].value);
	}
	m->item[at].value = v;
	v = NULL;
	return 0;
}

const char *store_meta_get(const struct store_meta *m, const char *name)
{
	for (uint32_t i = 0; i < m->count; i++)
		if (!strcmp(m->item[i].name, name))
			return m->item[i].value;
	return NULL;
}

void store_meta_done(struct store_meta *m)
{
	for (uint32_t i = 0; i < m->count; i++) {
		free(m->item[i].name);
		free(m->item[i].value);
	}
	memset(m, 0, sizeof(*m));
}

int store_meta_copy(struct store_meta *to, const struct store_meta *from)
{
	CLEANUP(store_meta_done) struct store_meta m = {0};

	for (uint32_t i = 0; from && i < from->count; i++) {
		int r = store_meta_set(&m, from->item[i].name, from->item[i].value);
		if (r < 0)
			return r;
	}
	store_meta_done(to);
	*to = m;
	m = (struct store_meta){0};
	return 0;
}

/* Sources and sinks over memory. */

static ssize_t memory_read(void *ctx, uint64_t offset, void *p, size_t len)
{
	const struct store_memory *memory = ctx;

	if (offset >= memory->len)
		return -EINVAL;
	if (len > memory->len - offset)
		len = memory->len - (size_t)offset;
	memcpy(p, (const char *)memory->p + offset, len);
	return (ssize_t)len;
}

struct store_source store_source_memory(struct store_memory *memory)
{
	return (struct store_source){.size = memory->len, .read = memory_read, .ctx = memory};
}

struct buf_sink {
	struct buf *b;
	uint64_t max;
	bool over;
};

static int buf_sink_write(void *ctx, const void *p, size_t len)
{
	struct buf_sink *k = ctx;

	if (len > k->max || k->b->len > k->max - len) {
		k->over = true;
		return -EFBIG;
	}
	buf_put(k->b, p, len);
	return k->b->failed ? -ENOMEM : 0;
}

static int buf_sink_reset(void *ctx)
{
	struct buf_sink *k = ctx;

	buf_clear(k->b);
	k->over = false;
	return 0;
}

/* The gateway. */

static const struct store_call no_call;
static const struct store_condition no_condition;
static const struct store_meta no_meta;

static enum store_result check_key(const char *key, struct store_error *error)
{
	size_t n = key ? strnlen(key, STORE_KEY_MAX + 1) : 0;

	if (n < 1 || n > STORE_KEY_MAX)
		return store_error_set(error, STORE_UNSUPPORTED,
			"a key has 1 to %d bytes, this one has %zu%s", STORE_KEY_MAX, n,
			n > STORE_KEY_MAX ? " or more" : "");
	return STORE_OK;
}

static enum store_result check_capability(
	struct store *s, unsigned want, const char *what, struct store_error *error)
{
	if ((atomic_load_explicit(&s->capabilities, memory_order_relaxed) & want) == want)
		return STORE_OK;
	return store_error_set(error, STORE_UNSUPPORTED, "this store has no %s", what);
}

enum store_result store_get(struct store *s, const char *key, uint64_t offset, uint64_t length,
	const char *if_match, const struct store_sink *sink, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	struct store_error unused = {0};
	enum store_result r;

	error = error ? error : &unused;
	r = check_key(key, error);
	if (r == STORE_OK)
		r = s->ops->get(s, key, offset, length, if_match, sink, object, meta,
			call ? call : &no_call, error);
	if (r != STORE_OK && object)
		memset(object, 0, sizeof(*object));
	if (r != STORE_OK && meta)
		store_meta_done(meta);
	return r;
}

enum store_result store_put(struct store *s, const char *key, const struct store_source *source,
	const struct store_meta *meta, const struct store_condition *condition, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct store_error unused = {0};
	char unused_etag[STORE_ETAG_SIZE] = "";
	enum store_result r;

	error = error ? error : &unused;
	condition = condition ? condition : &no_condition;
	r = check_key(key, error);
	if (r == STORE_OK && condition->if_absent && condition->if_match)
		r = store_error_set(
			error, STORE_UNSUPPORTED, "if_absent and if_match exclude each other");
	if (r == STORE_OK && condition->if_absent)
		r = check_capability(
			s, STORE_CAP_PUT_IF_ABSENT, "conditional put (if absent)", error);
	if (r == STORE_OK && condition->if_match)
		r = check_capability(
			s, STORE_CAP_PUT_IF_MATCH, "conditional put (if match)", error);
	if (r != STORE_OK)
		return r;
	return s->ops->put(s, key, source, meta ? meta : &no_meta, condition,
		etag ? etag : unused_etag, call ? call : &no_call, error);
}

enum store_result store_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	struct store_error unused = {0};
	enum store_result r;

	error = error ? error : &unused;
	r = check_key(key, error);
	if (r == STORE_OK)
		r = s->ops->head(s, key, object, meta, call ? call : &no_call, error);
	if (r != STORE_OK && object)
		memset(object, 0, sizeof(*object));
	if (r != STORE_OK && meta)
		store_meta_done(meta);
	return r;
}

enum store_result store_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	struct store_error unused = {0};
	enum store_result r = STORE_OK;

	error = error ? error : &unused;
	if (start_after && !*start_after)
		start_after = NULL;
	if (prefix && *prefix)
		r = check_key(prefix, error);
	if (r == STORE_OK && start_after)
		r = check_key(start_after, error);
	if (r != STORE_OK)
		return r;
	return s->ops->list(s, prefix ? prefix : "", start_after, limit, fn, ctx,
		call ? call : &no_call, error);
}

enum store_result store_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	struct store_error unused = {0};
	enum store_result r;

	error = error ? error : &unused;
	r = check_key(key, error);
	if (r == STORE_OK && if_match)
		r = check_capability(s, STORE_CAP_DELETE_IF_MATCH, "conditional delete", error);
	if (r != STORE_OK)
		return r;
	return s->ops->remove(s, key, if_match, call ? call : &no_call, error);
}

enum store_result store_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct store_error unused = {0};
	char unused_etag[STORE_ETAG_SIZE] = "";
	enum store_result r;

	error = error ? error : &unused;
	r = check_key(from, error);
	if (r == STORE_OK)
		r = check_key(to, error);
	if (r == STORE_OK)
		r = check_capability(s, STORE_CAP_COPY, "server-side copy", error);
	if (r == STORE_OK && if_match)
		r = check_capability(s, STORE_CAP_COPY_IF_MATCH, "conditional copy", error);
	if (r != STORE_OK)
		return r;
	if (!s->ops->copy)
		return store_error_set(
			error, STORE_UNSUPPORTED, "this store has no server-side copy");
	return s->ops->copy(s, from, to, meta ? meta : &no_meta, if_match,
		etag ? etag : unused_etag, call ? call : &no_call, error);
}

void store_close(struct store *s)
{
	if (s)
		s->ops->close(s);
}

const char *store_origin(const struct store *s)
{
	while (s->inner)
		s = s->inner;
	return s->origin;
}

static _Atomic int64_t *clock_offset(struct store *s)
{
	while (s->inner)
		s = s->inner;
	return &s->clock_offset_ms;
}

void store_clock_note(struct store *s, int64_t now_ms)
{
	int64_t offset = now_ms - clock_boottime_ms();

	if (now_ms > 0 && now_ms < CLOCK_MAX_MS)
		atomic_store_explicit(clock_offset(s), offset ? offset : 1, memory_order_relaxed);
}

int64_t store_clock_ms(struct store *s)
{
	int64_t offset = atomic_load_explicit(clock_offset(s), memory_order_relaxed);

	return offset ? clock_boottime_ms() + offset : 0;
}

int64_t store_clock_skew_ms(struct store *s)
{
	int64_t now = store_clock_ms(s);

	return now ? now - clock_realtime_ms() : 0;
}

enum store_result store_get_buf(struct store *s, const char *key, uint64_t max, struct buf *b,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	struct store_error unused = {0};
	struct buf_sink k = {.b = b, .max = max};
	struct store_sink sink = {.write = buf_sink_write, .reset = buf_sink_reset, .ctx = &k};

	error = error ? error : &unused;
	buf_clear(b);
	enum store_result r = store_get(s, key, 0, 0, NULL, &sink, object, meta, call, error);
	if (r == STORE_LOCAL && k.over) {
		error->local_errno = 0;
		return store_error_set(error, STORE_TOO_LARGE,
			"the object has more than %llu bytes", (unsigned long long)max);
	}
	return r;
}

enum store_result store_put_buf(struct store *s, const char *key, const void *p, size_t len,
	const struct store_meta *meta, const struct store_condition *condition, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct store_memory memory = {.p = p, .len = len};
	struct store_source source = store_source_memory(&memory);

	return store_put(s, key, &source, meta, condition, etag, call, error);
}

/* Assembly. */

static int open_backend(const struct store_config *config, struct store **ret, struct err *err)
{
	const char *url = config->url ? config->url : "";

	if (!strncmp(url, "file://", 7))
		return store_dir_open(config, ret, err);
	if (!strncmp(url, "s3://", 5))
		return store_s3_open(config, ret, err);
	if (!strncmp(url, "gs://", 5) || !strncmp(url, "azure://", 8))
		return err_set(err, -EPROTONOSUPPORT,
			"url %s: not supported yet by this version\nhint: use s3://bucket/prefix "
			"or file:///dir",
			url);
	return err_set(err, -EINVAL,
		"url %s: unknown kind of store\nhint: use s3://bucket/prefix or file:///dir",
		*url ? url : "(empty)");
}

int store_exists(const struct store_config *config, struct err *err)
{
	return config->url && !strncmp(config->url, "file://", 7) ? store_dir_exists(config, err)
								  : 1;
}

int store_open(const struct store_config *config, struct store **ret, struct err *err)
{
	struct store *s;

	int r = open_backend(config, &s, err);
	if (r < 0)
		return r;
	s = store_stats_new(s);
	s = store_limit_new(s, config->connections ? config->connections : DEFAULT_CONNECTIONS);
	if (schedule_lowest(&config->rate_limit) || schedule_lowest(&config->request_limit))
		s = store_pace_new(s, &config->rate_limit, &config->request_limit);
	s = store_retry_new(s, config->attempts ? config->attempts : DEFAULT_ATTEMPTS,
		config->timeout_ms > 0 ? config->timeout_ms : DEFAULT_TIMEOUT_MS);
	*ret = s;
	return 0;
}
