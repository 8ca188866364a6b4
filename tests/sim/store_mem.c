/*
 * Objects stand in an array of pointers sorted by key. An object is immutable once it is in the
 * array and reference-counted, so that bodies are handed to sinks, and listings to callbacks,
 * without the lock: they may take locks of any rank. A listing takes one object at a time and finds
 * its place again by key, so it tolerates changes.
 *
 * lock (LOCK_RANK_STORE) guards object, count, cap, version and upload.
 */
#include "tests/sim/store_mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicator/store/layers.h"
#include "src/base/clock.h"
#include "src/base/thread.h"

struct object {
	atomic_int refs;
	char *key;
	struct body *body;
	struct store_object is;
	struct store_meta meta;
};

/* Shared by copies. */
struct body {
	atomic_int refs;
	size_t size;
	char bytes[];
};

struct mem {
	struct store s;
	unsigned has;
	struct mutex lock;
	struct object **object;
	size_t count;
	size_t cap;
	uint64_t version;
	struct upload *upload;
};

struct part {
	struct part *next; /* in order of number */
	uint32_t number;
	struct body *body;
	char etag[STORE_ETAG_SIZE];
};

struct upload {
	struct upload *next;
	char *key;
	char id[32];
	struct store_meta meta;
	int64_t begun_ms;
	struct part *part;
};

static struct mem *mem_of(struct store *s)
{
	return (struct mem *)s;
}

static int64_t mem_now_ms(struct mem *m)
{
	int64_t now = store_clock_ms(&m->s);

	return now ? now : clock_realtime_ms();
}

static void body_unref(struct body *b)
{
	if (atomic_fetch_sub(&b->refs, 1) == 1)
		free(b);
}

static void object_unref(struct object *o)
{
	if (!o || atomic_fetch_sub(&o->refs, 1) != 1)
		return;
	body_unref(o->body);
	store_meta_done(&o->meta);
	free(o->key);
	free(o);
}

/* Index of the first object whose key is not less than key. With the lock held. */
static size_t lower_bound(const struct mem *m, const char *key)
{
	size_t low = 0, high = m->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (strcmp(m->object[mid]->key, key) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct object *find_locked(const struct mem *m, const char *key)
{
	size_t at = lower_bound(m, key);

	return at < m->count && !strcmp(m->object[at]->key, key) ? m->object[at] : NULL;
}

/* A reference, or NULL. */
static struct object *find(struct mem *m, const char *key)
{
	mutex_lock(&m->lock);
	struct object *o = find_locked(m, key);
	if (o)
		atomic_fetch_add(&o->refs, 1);
	mutex_unlock(&m->lock);
	return o;
}

/* Takes the reference of o; the object that was there before is returned, for the caller to drop
 * without the lock. */
static struct object *install_locked(struct mem *m, struct object *o)
{
	size_t at = lower_bound(m, o->key);

	snprintf(o->is.etag, sizeof(o->is.etag), "m%llu", (unsigned long long)++m->version);
	if (at < m->count && !strcmp(m->object[at]->key, o->key)) {
		struct object *old = m->object[at];
		m->object[at] = o;
		return old;
	}
	if (m->count == m->cap) {
		m->cap = m->cap ? 2 * m->cap : 64;
		m->object = realloc(m->object, m->cap * sizeof(struct object *));
		CHECK(m->object);
	}
	memmove(m->object + at + 1, m->object + at, (m->count - at) * sizeof(struct object *));
	m->object[at] = o;
	m->count++;
	return NULL;
}

static struct object *object_new(
	struct mem *m, const char *key, struct body *body, const struct store_meta *meta)
{
	struct object *o = calloc(1, sizeof(*o));

	CHECK(o);
	atomic_init(&o->refs, 1);
	o->key = strdup(key);
	CHECK(o->key && store_meta_copy(&o->meta, meta) == 0);
	o->body = body;
	o->is.size = body->size;
	o->is.mtime_ms = mem_now_ms(m);
	return o;
}

static enum store_result give(const struct object *o, struct store_object *object,
	struct store_meta *meta, struct store_error *error)
{
	if (meta && store_meta_copy(meta, &o->meta) < 0)
		return store_error_local(error, -ENOMEM, "metadata");
	if (object)
		*object = o->is;
	return STORE_OK;
}

static enum store_result stream(const struct object *o, uint64_t offset, uint64_t length,
	const struct store_sink *sink, const struct store_call *call, struct store_error *error)
{
	uint64_t end = o->body->size;

	if (offset > end)
		offset = end;
	if (length && length < end - offset)
		end = offset + length;
	while (offset < end) {
		size_t n = end - offset < 65536 ? (size_t)(end - offset) : 65536;
		enum store_result r = store_call_check(call, error);
		if (r != STORE_OK)
			return r;
		int e = sink->write(sink->ctx, o->body->bytes + offset, n);
		if (e)
			return store_error_local(error, e, "writing the body");
		offset += n;
	}
	return STORE_OK;
}

static enum store_result mem_get(struct store *s, const char *key, uint64_t offset, uint64_t length,
	const char *if_match, const struct store_sink *sink, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	enum store_result r = store_call_check(call, error);

	if (r != STORE_OK)
		return r;
	struct object *o = find(mem_of(s), key);
	if (!o)
		return STORE_ABSENT;
	if (if_match && strcmp(if_match, o->is.etag))
		r = STORE_PRECONDITION;
	if (r == STORE_OK)
		r = stream(o, offset, length, sink, call, error);
	if (r == STORE_OK)
		r = give(o, object, meta, error);
	object_unref(o);
	return r;
}

static enum store_result mem_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	enum store_result r = store_call_check(call, error);

	if (r != STORE_OK)
		return r;
	struct object *o = find(mem_of(s), key);
	if (!o)
		return STORE_ABSENT;
	r = give(o, object, meta, error);
	object_unref(o);
	return r;
}

static struct body *body_new(size_t size)
{
	struct body *b = malloc(sizeof(*b) + size);

	CHECK(b);
	atomic_init(&b->refs, 1);
	b->size = size;
	return b;
}

static enum store_result read_body(const struct store_source *source, struct body **ret,
	const struct store_call *call, struct store_error *error)
{
	struct body *b = body_new(source->size);
	enum store_result r = STORE_OK;

	for (uint64_t at = 0; at < b->size && r == STORE_OK;) {
		r = store_call_check(call, error);
		ssize_t n = r == STORE_OK
				    ? source->read(source->ctx, at, b->bytes + at, b->size - at)
				    : 0;
		if (r == STORE_OK && n <= 0)
			r = store_error_local(error, n < 0 ? (int)n : -EIO, "reading the body");
		at += n > 0 ? (uint64_t)n : 0;
	}
	if (r != STORE_OK) {
		free(b);
		return r;
	}
	*ret = b;
	return STORE_OK;
}

static enum store_result mem_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	struct mem *m = mem_of(s);
	struct object *old = NULL;
	struct body *body;
	enum store_result r = store_call_check(call, error);

	if ((condition->if_absent && !(m->has & STORE_CAP_PUT_IF_ABSENT)) ||
		(condition->if_match && !(m->has & STORE_CAP_PUT_IF_MATCH)))
		return store_error_set(error, STORE_UNSUPPORTED, "no such condition");
	if (r == STORE_OK)
		r = read_body(source, &body, call, error);
	if (r != STORE_OK)
		return r;

	struct object *o = object_new(m, key, body, meta);
	mutex_lock(&m->lock);
	const struct object *there = find_locked(m, key);
	if (condition->if_absent && there)
		r = STORE_EXISTS;
	else if (condition->if_match && (!there || strcmp(there->is.etag, condition->if_match)))
		r = STORE_PRECONDITION;
	if (r == STORE_OK) {
		old = install_locked(m, o);
		memcpy(etag, o->is.etag, STORE_ETAG_SIZE);
		o = NULL;
	}
	mutex_unlock(&m->lock);
	object_unref(old);
	object_unref(o);
	return r;
}

static enum store_result mem_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	struct mem *m = mem_of(s);
	char last[STORE_KEY_MAX + 1];
	bool skip = start_after && strcmp(start_after, prefix) >= 0;
	size_t prefix_len = strlen(prefix);
	int stop = 0;

	snprintf(last, sizeof(last), "%s", skip ? start_after : prefix);
	for (uint64_t n = 0; !stop && (!limit || n < limit); n++) {
		enum store_result r = store_call_check(call, error);
		if (r != STORE_OK)
			return r;
		mutex_lock(&m->lock);
		size_t at = lower_bound(m, last);
		if (skip && at < m->count && !strcmp(m->object[at]->key, last))
			at++;
		struct object *o = at < m->count ? m->object[at] : NULL;
		if (o && strncmp(o->key, prefix, prefix_len))
			o = NULL;
		if (o)
			atomic_fetch_add(&o->refs, 1);
		mutex_unlock(&m->lock);
		if (!o)
			break;
		skip = true;
		snprintf(last, sizeof(last), "%s", o->key);
		stop = fn(ctx, o->key, &o->is);
		object_unref(o);
	}
	return STORE_OK;
}

static enum store_result mem_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	struct mem *m = mem_of(s);
	enum store_result r = store_call_check(call, error);

	if (r != STORE_OK)
		return r;
	if (!(m->has & STORE_CAP_DELETE_IF_MATCH))
		if_match = NULL;
	mutex_lock(&m->lock);
	struct object *o = find_locked(m, key);
	if (o && if_match && strcmp(if_match, o->is.etag)) {
		o = NULL;
		r = STORE_PRECONDITION;
	}
	if (o) {
		size_t at = lower_bound(m, key);
		memmove(m->object + at, m->object + at + 1,
			(m->count - at - 1) * sizeof(struct object *));
		m->count--;
		m->version++;
	}
	mutex_unlock(&m->lock);
	object_unref(o);
	return r;
}

static enum store_result mem_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct mem *m = mem_of(s);
	struct object *old = NULL, *o = NULL;
	enum store_result r = store_call_check(call, error);

	if (r != STORE_OK)
		return r;
	if (!(m->has & STORE_CAP_COPY))
		return store_error_set(error, STORE_UNSUPPORTED, "no copy");
	if (!(m->has & STORE_CAP_COPY_IF_MATCH))
		if_match = NULL;
	mutex_lock(&m->lock);
	struct object *source = find_locked(m, from);
	if (!source)
		r = STORE_ABSENT;
	else if (if_match && strcmp(if_match, source->is.etag))
		r = STORE_PRECONDITION;
	if (r == STORE_OK) {
		atomic_fetch_add(&source->body->refs, 1);
		o = object_new(m, to, source->body, meta);
		old = install_locked(m, o);
		/* As where an ETag speaks of the bytes. */
		if (!(m->has & STORE_CAP_COPY_IF_MATCH))
			memcpy(o->is.etag, source->is.etag, STORE_ETAG_SIZE);
		memcpy(etag, o->is.etag, STORE_ETAG_SIZE);
	}
	mutex_unlock(&m->lock);
	object_unref(old);
	return r;
}

/* ---- uploads in parts ---- */

static void part_free(struct part *p)
{
	body_unref(p->body);
	free(p);
}

static void upload_free(struct upload *u)
{
	while (u->part) {
		struct part *p = u->part;
		u->part = p->next;
		part_free(p);
	}
	store_meta_done(&u->meta);
	free(u->key);
	free(u);
}

/* With the lock held. */
static struct upload **find_upload(struct mem *m, const char *key, const char *id)
{
	struct upload **at = &m->upload;

	while (*at && (strcmp((*at)->key, key) || strcmp((*at)->id, id)))
		at = &(*at)->next;
	return *at ? at : NULL;
}

static enum store_result begin_upload(struct mem *m, const struct store_upload *q)
{
	struct upload *u = calloc(1, sizeof(*u));

	CHECK(u);
	u->key = strdup(q->key);
	CHECK(u->key && store_meta_copy(&u->meta, q->meta) == 0);
	u->begun_ms = mem_now_ms(m);
	mutex_lock(&m->lock);
	snprintf(u->id, sizeof(u->id), "u%llu", (unsigned long long)++m->version);
	memcpy(q->ret_id, u->id, sizeof(u->id));
	u->next = m->upload;
	m->upload = u;
	mutex_unlock(&m->lock);
	return STORE_OK;
}

/* Takes body over. */
static enum store_result add_part(struct mem *m, const struct store_upload *q, struct body *body)
{
	struct part *p = calloc(1, sizeof(*p)), *old = NULL;
	enum store_result r = STORE_ABSENT;

	CHECK(p);
	p->number = q->number;
	p->body = body;
	mutex_lock(&m->lock);
	struct upload **u = find_upload(m, q->key, q->id);
	if (u) {
		struct part **at = &(*u)->part;

		while (*at && (*at)->number < p->number)
			at = &(*at)->next;
		if (*at && (*at)->number == p->number) {
			old = *at;
			*at = old->next;
		}
		snprintf(p->etag, sizeof(p->etag), "p%llu", (unsigned long long)++m->version);
		memcpy(q->etag, p->etag, STORE_ETAG_SIZE);
		p->next = *at;
		*at = p;
		p = NULL;
		r = STORE_OK;
	}
	mutex_unlock(&m->lock);
	if (p)
		part_free(p);
	if (old)
		part_free(old);
	return r;
}

static enum store_result copy_part(
	struct mem *m, const struct store_upload *q, struct store_error *error)
{
	struct object *o = find(m, q->from);
	enum store_result r = o ? STORE_OK : STORE_ABSENT;

	if (o && q->if_match && strcmp(q->if_match, o->is.etag))
		r = STORE_PRECONDITION;
	else if (o && (q->offset > o->body->size || q->length > o->body->size - q->offset))
		r = store_error_set(error, STORE_UNSUPPORTED, "range behind the end");
	if (r == STORE_OK) {
		struct body *b = body_new(q->length);
		memcpy(b->bytes, o->body->bytes + q->offset, q->length);
		r = add_part(m, q, b);
	}
	object_unref(o);
	return r;
}

/* The parts that q names, put together; NULL when one is not there or too small. With the lock. */
static struct body *join(const struct mem *m, const struct upload *u, const struct store_upload *q)
{
	size_t size = 0, at = 0;
	struct body *b = NULL;

	for (int pass = 0; pass < 2; pass++) {
		const struct part *p = u->part;

		for (size_t i = 0; i < q->part_count; i++) {
			while (p && p->number < q->part[i].number)
				p = p->next;
			if (!p || p->number != q->part[i].number ||
				strcmp(p->etag, q->part[i].etag) ||
				(i + 1 < q->part_count && p->body->size < m->s.limits.part_min))
				return NULL;
			if (pass == 0)
				size += p->body->size;
			else
				memcpy(b->bytes + at, p->body->bytes, p->body->size);
			at += pass ? p->body->size : 0;
		}
		if (pass == 0)
			b = body_new(size);
	}
	return b;
}

static enum store_result end_upload(struct mem *m, const struct store_upload *q)
{
	enum store_result r = STORE_OK;
	struct upload *done = NULL;
	struct object *old = NULL;

	mutex_lock(&m->lock);
	struct upload **at = find_upload(m, q->key, q->id);
	const struct object *there = find_locked(m, q->key);
	static const struct store_condition none;
	const struct store_condition *c = m->has & STORE_CAP_UPLOAD_IF ? q->condition : &none;
	struct body *body = at ? join(m, *at, q) : NULL;
	if (!body)
		r = STORE_ABSENT;
	else if (c->if_absent && there)
		r = STORE_EXISTS;
	else if (c->if_match && (!there || strcmp(there->is.etag, c->if_match)))
		r = STORE_PRECONDITION;
	if (r == STORE_OK) {
		struct object *o = object_new(m, q->key, body, &(*at)->meta);
		old = install_locked(m, o);
		memcpy(q->etag, o->is.etag, STORE_ETAG_SIZE);
		body = NULL;
		done = *at;
		*at = done->next;
	}
	mutex_unlock(&m->lock);
	if (body)
		body_unref(body);
	object_unref(old);
	if (done)
		upload_free(done);
	return r;
}

static enum store_result abort_upload(struct mem *m, const struct store_upload *q)
{
	struct upload *u = NULL;

	mutex_lock(&m->lock);
	struct upload **at = find_upload(m, q->key, q->id);
	if (at) {
		u = *at;
		*at = u->next;
	}
	mutex_unlock(&m->lock);
	if (!u)
		return STORE_ABSENT;
	upload_free(u);
	return STORE_OK;
}

static enum store_result mem_upload(struct store *s, const struct store_upload *q,
	const struct store_call *call, struct store_error *error)
{
	struct mem *m = mem_of(s);
	enum store_result r = store_call_check(call, error);
	struct body *body;

	if (r == STORE_OK && !(m->has & STORE_CAP_UPLOAD))
		r = store_error_set(error, STORE_UNSUPPORTED, "no uploads");
	if (r != STORE_OK)
		return r;
	switch (q->step) {
	case STORE_UPLOAD_BEGIN:
		return begin_upload(m, q);
	case STORE_UPLOAD_PART:
		r = read_body(q->source, &body, call, error);
		return r == STORE_OK ? add_part(m, q, body) : r;
	case STORE_UPLOAD_COPY:
		if (!(m->has & STORE_CAP_UPLOAD_COPY))
			return store_error_set(error, STORE_UNSUPPORTED, "no copies of parts");
		return copy_part(m, q, error);
	case STORE_UPLOAD_END:
		return end_upload(m, q);
	case STORE_UPLOAD_ABORT:
		return abort_upload(m, q);
	}
	return STORE_UNSUPPORTED;
}

static enum store_result mem_uploads(struct store *s, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	struct mem *m = mem_of(s);
	enum store_result r = store_call_check(call, error);
	bool stop = false;

	for (size_t n = 0; r == STORE_OK && !stop; n++) {
		char key[STORE_KEY_MAX + 1], id[32];
		int64_t begun_ms = 0;
		size_t i = 0;

		mutex_lock(&m->lock);
		struct upload *u = m->upload;
		for (; u; u = u->next) {
			if (!strncmp(u->key, prefix, strlen(prefix)) && i++ == n)
				break;
		}
		if (u) {
			snprintf(key, sizeof(key), "%s", u->key);
			memcpy(id, u->id, sizeof(id));
			begun_ms = u->begun_ms;
		}
		mutex_unlock(&m->lock);
		stop = !u || fn(ctx, key, id, begun_ms) != 0;
	}
	return r;
}

static void mem_close(struct store *s)
{
	struct mem *m = mem_of(s);

	while (m->upload) {
		struct upload *u = m->upload;
		m->upload = u->next;
		upload_free(u);
	}

	for (size_t i = 0; i < m->count; i++)
		object_unref(m->object[i]);
	free(m->object);
	mutex_done(&m->lock);
	free(m);
}

static const struct store_ops mem_ops = {
	.name = "mem",
	.get = mem_get,
	.put = mem_put,
	.head = mem_head,
	.list = mem_list,
	.remove = mem_remove,
	.copy = mem_copy,
	.upload = mem_upload,
	.uploads = mem_uploads,
	.close = mem_close,
};

struct store *store_mem_new(unsigned capabilities)
{
	struct mem *m = calloc(1, sizeof(*m));

	CHECK(m);
	m->s.ops = &mem_ops;
	m->has = capabilities;
	m->s.limits = (struct store_limits){.put_max = SIZE_MAX,
		.object_max = SIZE_MAX,
		.part_min = 8,
		.part_max = SIZE_MAX,
		.parts_max = 10000};
	mutex_init(&m->lock, LOCK_RANK_STORE);
	atomic_store(&m->s.capabilities, STORE_MEM_ALL);
	return &m->s;
}

void store_mem_set_limits(struct store *s, const struct store_limits *limits)
{
	s->limits = *limits;
}

size_t store_mem_uploads(struct store *s)
{
	struct mem *m = mem_of(s);
	size_t n = 0;

	mutex_lock(&m->lock);
	for (const struct upload *u = m->upload; u; u = u->next)
		n++;
	mutex_unlock(&m->lock);
	return n;
}

size_t store_mem_count(struct store *s)
{
	struct mem *m = mem_of(s);

	mutex_lock(&m->lock);
	size_t n = m->count;
	mutex_unlock(&m->lock);
	return n;
}
