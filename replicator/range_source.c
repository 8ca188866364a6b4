/*
 * Where ranges come from.
 *
 * A range cannot be compared with the hash of the whole. What makes the blocks of a file those of one
 * version is that they are read from one object, whose metadata name the hash, under its ETag; and that each is
 * compared with the hash of its part before it is written, where the object's metadata name such (parts.h), or
 * else the hash of the whole is computed before the content counts as complete. An object that does not say what it is (another tool's) is never
 * read by ranges, nor one whose hashes of parts are not to be had.
 */
#include "replicator/range_source.h"

#include <errno.h>
#include <stdio.h>

#include "cache/file.h"
#include "replicator/delta.h"
#include "replicator/fetch.h"
#include "replicator/object.h"
#include "replicator/parts.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define RUN_BLOCKS 16
#define COPIES_MAX 4 /* of the trash, of which one may be on its way out */

/* 0, -EAGAIN (not there, or another version), -EHOSTDOWN. */
static int look(struct region *from, const char *key, const struct range_version *v,
	struct range_source *ret, bool *foreign)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(object_entry_done) struct object_entry e = {0};
	struct store_call call = region_call(from, 0);
	struct store_object object = {0};
	struct store_error error = {0};
	const char *parts;
	enum store_result result = store_head(from->store, key, &object, &meta, &call, &error);

	region_end(from, REGION_READ, result, &error, "head object");
	if (result == STORE_ABSENT)
		return -EAGAIN;
	if (result != STORE_OK)
		return -EHOSTDOWN;
	if (object.size != v->size)
		return -EAGAIN;
	if (object_meta_to_entry(&meta, object.size, false, &e) || e.entry.kind != KIND_FILE ||
		!store_meta_get(&meta, "meridian-sha256")) {
		*foreign = true;
		return -EAGAIN;
	}
	if (memcmp(e.entry.hash, v->hash, SHA256_SIZE) != 0 || !object.etag[0] ||
		!object_meta_is_whole(&meta, object.etag))
		return -EAGAIN;
	ret->region = from;
	snprintf(ret->key, sizeof(ret->key), "%s", key);
	memcpy(ret->etag, object.etag, sizeof(ret->etag));
	parts = store_meta_get(&meta, PARTS_META);
	ret->has_parts = parts != NULL;
	/* What is no hash is that of nothing. */
	if (parts && !hex_decode(parts, ret->parts, SHA256_SIZE))
		memset(ret->parts, 0, SHA256_SIZE);
	return 0;
}

struct copies {
	char *key[COPIES_MAX];
	unsigned count;
};

static void copies_done(struct copies *c)
{
	for (unsigned i = 0; i < c->count; i++)
		free(c->key[i]);
}

static int add_copy(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	struct copies *c = ctx;

	c->key[c->count] = strdup(key);
	if (!c->key[c->count])
		return 1;
	return ++c->count == COPIES_MAX;
}

static int look_in_trash(
	struct region *from, const struct range_version *v, struct range_source *ret, bool *foreign)
{
	CLEANUP(copies_done) struct copies copies = {0};
	struct store_call call = region_call(from, 0);
	struct store_error error = {0};
	char prefix[OBJECT_TRASH_SIZE];
	enum store_result result;

	object_trash_prefix(v->hash, prefix);
	result =
		store_list(from->store, prefix, NULL, COPIES_MAX, add_copy, &copies, &call, &error);
	region_end(from, REGION_READ, result, &error, "list trash");
	if (result != STORE_OK)
		return -EHOSTDOWN;
	for (unsigned i = 0; i < copies.count; i++) {
		int r = look(from, copies.key[i], v, ret, foreign);

		if (r != -EAGAIN)
			return r;
	}
	return -EAGAIN;
}

/* key NULL: the trash. */
static int ask(struct regions *all, const char *key, const struct range_version *v,
	struct range_source *ret, bool *foreign)
{
	unsigned order[REGION_MAX];
	bool asked[REGION_MAX] = {false};
	int outcome = -EIO;

	/* Those that are up and not to be avoided, then the others that are up, then those whose check
	 * is due. */
	regions_order(all, order);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < all->count; i++) {
			struct region *from = &all->region[order[i]];
			int r;

			if (asked[i] || (round == 0 && v->avoid >> order[i] & 1))
				continue;
			if (round < 2 ? !region_up(from, REGION_READ)
				      : !region_begin(from, REGION_READ))
				continue;
			asked[i] = true;
			r = key ? look(from, key, v, ret, foreign)
				: look_in_trash(from, v, ret, foreign);
			if (r == 0)
				return 0;
			if (r == -EAGAIN)
				outcome = -EAGAIN;
		}
	}
	return outcome;
}

bool range_source_is_old(const struct regions *all, const struct range_source *from)
{
	return from->turns != atomic_load(&all->turns);
}

int range_source_find(
	struct regions *all, const struct range_version *v, struct range_source *ret, bool *foreign)
{
	AUTO_FREE struct key *former = malloc(sizeof(*former));
	char name[STORE_KEY_MAX + 1];
	bool ignored = false;
	unsigned turns = atomic_load(&all->turns);
	int r = former ? -EAGAIN : -ENOMEM, named = -EAGAIN;

	*foreign = false;
	if (r == -EAGAIN && v->key.len) {
		r = object_key_from_path(v->key, false, name);
		if (!r)
			r = named = ask(all, name, v, ret, foreign);
		/* An object that lags behind is brought up to date when it is fetched in one piece. */
		if (r == -EAGAIN && delta_leads_to(all->cache, v->hash))
			*foreign = true;
	}
	if (r == -EAGAIN && v->key.len) {
		r = fetch_former_name(all, v->key, former);
		if (!r)
			r = former->len ? object_key_from_path(key_slice(former), false, name)
					: -EAGAIN;
		if (!r)
			r = ask(all, name, v, ret, &ignored);
	}
	if ((r == -EAGAIN || r == -EIO) && !*foreign)
		r = ask(all, NULL, v, ret, &ignored);
	ret->turns = turns;
	return r == -EIO ? named : r;
}

/* ---- reading ---- */

int range_source_parts(struct partial *p, const struct range_source *from)
{
	CLEANUP(buf_done) struct buf b = {0};
	size_t at;
	int r;

	if (!from->has_parts || partial_has_parts(p))
		return 0;
	r = parts_get(from->region, partial_hash(p), partial_size(p), from->parts, &b, &at);
	return r ? r : partial_set_parts(p, b.data + at);
}

struct reading {
	struct partial *p;
	const struct range_run *run;
	uint64_t start, at, end; /* bytes */
	int64_t since_ms;
};

/* All bytes of a block have come. */
static int end_block(struct reading *d, uint64_t block)
{
	int r = partial_fill(d->p, block, d->run->buffer->bytes);

	if (!r && d->run->block && d->run->block(d->run->ctx, block))
		r = -ECANCELED;
	return r;
}

static int take_bytes(void *ctx, const void *bytes, size_t n)
{
	const uint64_t size = partial_block(((struct reading *)ctx)->p);
	struct reading *d = ctx;
	const char *p = bytes;
	int r = 0;

	if (n > d->end - d->at)
		return -EFBIG;
	if (d->run->buffer->waited_ms < 0)
		d->run->buffer->waited_ms = clock_monotonic_ms() - d->since_ms;
	while (n > 0 && !r) {
		uint64_t block = d->at / size, begin = block * size;
		uint64_t end = d->end - begin < size ? d->end : begin + size;
		size_t step = n < end - d->at ? n : (size_t)(end - d->at);

		memcpy(d->run->buffer->bytes + (d->at - begin), p, step);
		d->at += step;
		if (d->at == end)
			r = end_block(d, block);
		p += step;
		n -= step;
	}
	return r;
}

static int start_over(void *ctx)
{
	struct reading *d = ctx;

	d->at = d->start;
	return 0;
}

static void note_wrong(const struct range_source *from, const struct reading *d)
{
	atomic_fetch_add(&from->region->wrong_bytes, 1);
	metric_add(METRIC_OBJECTS_CORRUPT, 1);
	log_error("an object has wrong bytes: thrown away region=%s key=\"%s\" offset=%llu",
		from->region->name, from->key,
		(unsigned long long)((d->at - 1) / partial_block(d->p) * partial_block(d->p)));
}

static int reserve(struct range_buffer *b, size_t size)
{
	if (b->size >= size)
		return 0;
	range_buffer_done(b);
	b->bytes = malloc(size);
	b->size = b->bytes ? size : 0;
	return b->bytes ? 0 : -ENOMEM;
}

void range_buffer_done(struct range_buffer *b)
{
	free(b->bytes);
	*b = (struct range_buffer){0};
}

int range_read(struct partial *p, const struct range_source *from, const struct range_run *run)
{
	struct reading d = {.p = p, .run = run, .since_ms = clock_monotonic_ms()};
	struct store_sink sink = {.write = take_bytes, .reset = start_over, .ctx = &d};
	struct store_error error = {0};
	enum store_result result;
	struct store_call call;
	int r = reserve(run->buffer, (size_t)partial_block(p));

	run->buffer->waited_ms = -1;
	if (r)
		return r;
	if (from->has_parts && !partial_has_parts(p))
		return -EAGAIN;
	d.start = d.at = run->first * partial_block(p);
	d.end = run->end < partial_blocks(p) ? run->end * partial_block(p) : partial_size(p);
	call = region_call(from->region, d.end - d.start);
	call.priority = run->priority;
	result = store_get(from->region->store, from->key, d.start, d.end - d.start, from->etag,
		&sink, NULL, NULL, &call, &error);
	if (result == STORE_LOCAL && error.local_errno == EBADMSG) {
		note_wrong(from, &d);
		return -EBADMSG;
	}
	if (result == STORE_LOCAL)
		return error.local_errno ? -error.local_errno : -EIO;
	region_end(from->region, REGION_READ, result, &error, "get range");
	if (result == STORE_ABSENT || result == STORE_PRECONDITION)
		return -EAGAIN;
	return result == STORE_OK && d.at == d.end ? 0 : -EHOSTDOWN;
}

/* ---- at once ---- */

static int find_source(struct regions *all, const struct range_version *v, struct partial *p,
	struct range_source *from, bool *foreign)
{
	int r = range_source_find(all, v, from, foreign);

	if (r == 0)
		r = range_source_parts(p, from);
	if (r == -ENODATA) {
		*foreign = true;
		r = -EAGAIN;
	}
	return r;
}

/* Each region that has wrong bytes is left for another one. */
static int find_other(struct regions *all, struct range_version *v, struct partial *p,
	struct range_source *from, bool *foreign)
{
	if (from->region)
		v->avoid |= UINT64_C(1) << (from->region - all->region);
	return find_source(all, v, p, from, foreign);
}

static int read_missing(struct regions *all, struct partial *p, struct slice key, bool *foreign)
{
	AUTO_FREE struct range_source *from = calloc(1, sizeof(*from));
	CLEANUP(range_buffer_done) struct range_buffer buffer = {0};
	struct range_version v = {.key = key, .hash = partial_hash(p), .size = partial_size(p)};
	uint64_t at = 0, blocks = partial_blocks(p);
	int r = from ? find_other(all, &v, p, from, foreign) : -ENOMEM;

	while (!r && (at = partial_missing(p, at, blocks)) < blocks) {
		uint64_t end = at + 1;

		while (end < blocks && end < at + RUN_BLOCKS &&
			partial_missing(p, end, end + 1) == end)
			end++;
		const struct range_run run = {
			.first = at, .end = end, .priority = STORE_BULK, .buffer = &buffer};
		if (range_source_is_old(all, from))
			r = find_source(all, &v, p, from, foreign);
		if (r)
			break;
		r = range_read(p, from, &run);
		if (r == -EBADMSG && !(v.avoid >> (from->region - all->region) & 1))
			r = find_other(all, &v, p, from, foreign);
	}
	if (!r)
		r = partial_finish(p);
	return r == -EHOSTDOWN ? -EIO : r == -EBADMSG ? -EAGAIN : r;
}

int range_fetch_once(struct regions *all, uint64_t ino, bool *foreign)
{
	AUTO_FREE struct key *key = malloc(sizeof(*key));
	uint8_t hash[SHA256_SIZE];
	struct partial *p;
	uint64_t size;
	int r = key ? content_wanted(all->cache, ino, key, hash, &size) : -ENOMEM;

	*foreign = false;
	if (!r)
		r = partial_get(all->cache, ino, &p);
	if (r)
		return r == -EALREADY ? 0 : r;
	r = read_missing(all, p, key_slice(key), foreign);
	partial_put(p);
	return r;
}
