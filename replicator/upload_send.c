/*
 * The parts of one upload: each is sent, or copied by the store, by whoever is free.
 *
 * Threads. The caller sends parts itself, and with it up to seven helpers, as many as the region's
 * allowance has at that moment; whoever is free takes the next part. The first failure stops all after
 * the part that they are at. Memory: what the store's backend holds of a body, per thread (s3: its
 * file is read as it is sent).
 *
 * Each part is recorded as soon as the store has it, with the hash of the bytes that were sent, but for
 * uploads that are not resumed. Before each the caller is asked whether its version still is the
 * current one.
 *
 * Lock: sending.lock, a leaf, guards next, result and error; a part's slot belongs to the thread that
 * took it until all have ended.
 */
#include "replicator/upload_internal.h"

#include <errno.h>
#include <string.h>

#include "replicator/store/layers.h"
#include "src/base/clock.h"
#include "src/base/metrics.h"

enum {
	PARALLEL = 8,		   /* threads of one upload */
	SLOWEST_BYTES_PER_MS = 64, /* as region.c's */
};

/* A part's bytes, and their hash on the way: that of the first pass from beginning to end. */
struct part_body {
	const struct store_source *from;
	uint64_t offset, size;
	struct sha256 hash;
	uint64_t hashed;
	bool known;
	uint8_t digest[SHA256_SIZE];
};

static ssize_t read_part(void *ctx, uint64_t offset, void *p, size_t len)
{
	struct part_body *b = ctx;

	if (len > b->size - offset)
		len = (size_t)(b->size - offset);
	ssize_t n = b->from->read(b->from->ctx, b->offset + offset, p, len);
	if (n <= 0 || b->known)
		return n;
	if (offset == 0) {
		sha256_done(&b->hash);
		sha256_init(&b->hash);
		b->hashed = 0;
	}
	if (offset != b->hashed)
		return n;
	sha256_update(&b->hash, p, (size_t)n);
	b->hashed += (uint64_t)n;
	if (b->hashed == b->size) {
		sha256_final(&b->hash, b->digest);
		b->known = true;
	}
	return n;
}

struct store_call upload_call_within(const struct store_call *whole, int64_t timeout_ms)
{
	int64_t end = clock_monotonic_ms() + timeout_ms;

	return (struct store_call){
		.deadline_ms =
			whole->deadline_ms && whole->deadline_ms < end ? whole->deadline_ms : end,
		.cancel = whole->cancel,
		.priority = whole->priority,
		.origin = whole->origin,
	};
}

static int record_part(
	struct sending *s, const struct store_part *part, const uint8_t hash[SHA256_SIZE])
{
	struct upload_part row = {.number = part->number, .size = part->size};
	struct conn *conn;

	memcpy(row.hash, hash, SHA256_SIZE);
	memcpy(row.etag, part->etag, sizeof(row.etag));
	int r = cache_begin_lazy(s->q->uploader->cache, &conn);
	return r < 0 ? r : upload_finish(conn, upload_part_add(conn, s->record.number, &row));
}

static uint64_t part_offset(const struct sending *s, uint32_t i)
{
	return s->plan ? s->plan[i].offset : i * s->record.part_size;
}

uint64_t upload_part_bytes(const struct sending *s, uint32_t i)
{
	uint64_t at = part_offset(s, i);

	if (s->plan)
		return s->plan[i].length;
	return s->record.size - at < s->record.part_size ? s->record.size - at
							 : s->record.part_size;
}

static enum store_result copy_part(struct sending *s, uint32_t i, struct store_error *error)
{
	struct store_part part = {.number = i + 1};
	uint64_t size = upload_part_bytes(s, i);
	struct store_call call = upload_call_within(
		s->call, PART_TIMEOUT_MS + (int64_t)(size / SLOWEST_BYTES_PER_MS));

	enum store_result r = store_upload_copy(s->q->uploader->store, s->q->object, s->record.id,
		s->from, part_offset(s, i), size, s->match, &part, &call, error);
	if (r == STORE_OK)
		s->part[i] = part;
	return r;
}

static bool is_current(const struct sending *s)
{
	return !s->q->current || s->q->current(s->q->ctx);
}

static enum store_result send_part(struct sending *s, uint32_t i, struct store_error *error)
{
	const struct upload_request *q = s->q;
	struct part_body body = {
		.from = q->source, .offset = part_offset(s, i), .size = upload_part_bytes(s, i)};
	const struct store_source source = {.size = body.size, .read = read_part, .ctx = &body};
	struct store_part part = {.number = i + 1};
	struct store_call call = upload_call_within(
		s->call, PART_TIMEOUT_MS + (int64_t)(body.size / SLOWEST_BYTES_PER_MS));

	if (!is_current(s))
		return store_error_local(error, -ESTALE, "superseded");
	sha256_init(&body.hash);
	enum store_result r = store_upload_part(
		q->uploader->store, q->object, s->record.id, &source, &part, &call, error);
	sha256_done(&body.hash);
	if (r != STORE_OK)
		return r;
	if (!part.etag[0] || !body.known)
		return store_error_set(error, STORE_CORRUPT, "part %u was not sent whole", i + 1);
	int code = s->plan ? 0 : record_part(s, &part, body.digest);
	if (code < 0)
		return store_error_local(error, code, "record of a part");
	s->part[i] = part;
	return STORE_OK;
}

static enum store_result copy_or_send(struct sending *s, uint32_t i, struct store_error *error)
{
	if (!is_current(s))
		return store_error_local(error, -ESTALE, "superseded");
	enum store_result r = copy_part(s, i, error);
	if (r == STORE_OK)
		metric_add(METRIC_BYTES_COPIED, upload_part_bytes(s, i));
	if (r == STORE_OK || r == STORE_LOCAL)
		return r;
	*error = (struct store_error){0};
	return send_part(s, i, error);
}

static enum store_result bring_part(struct sending *s, uint32_t i, struct store_error *error)
{
	if (s->plan)
		return s->plan[i].copy ? copy_or_send(s, i, error) : send_part(s, i, error);
	return s->from ? copy_part(s, i, error) : send_part(s, i, error);
}

/* The next part that the store does not have; false: there is none, or something failed. */
static bool next_part(struct sending *s, uint32_t *ret)
{
	mutex_lock(&s->lock);
	while (s->next < s->count && s->part[s->next].etag[0])
		s->next++;
	bool more = s->result == STORE_OK && s->next < s->count;
	if (more)
		*ret = s->next++;
	mutex_unlock(&s->lock);
	return more;
}

static void send_parts(struct sending *s)
{
	uint32_t i;

	while (next_part(s, &i)) {
		struct store_error error = {0};
		enum store_result r = bring_part(s, i, &error);

		if (r == STORE_OK)
			continue;
		mutex_lock(&s->lock);
		if (s->result == STORE_OK) {
			s->result = r;
			s->error = error;
		}
		mutex_unlock(&s->lock);
	}
}

static void *helper(void *arg)
{
	thread_give_way();
	send_parts(arg);
	return NULL;
}

static bool take_helper(struct uploader *u)
{
	unsigned n = atomic_load(&u->helpers);

	while (n < u->helpers_max) {
		if (atomic_compare_exchange_weak(&u->helpers, &n, n + 1))
			return true;
	}
	return false;
}

enum store_result upload_send_all(struct sending *s, struct store_error *error)
{
	struct uploader *u = s->q->uploader;
	pthread_t threads[PARALLEL - 1];
	unsigned started = 0;

	while (started < PARALLEL - 1 && started + 1 < s->count && take_helper(u)) {
		if (thread_start(&threads[started], "upload", helper, s) < 0) {
			atomic_fetch_sub(&u->helpers, 1);
			break;
		}
		started++;
	}
	send_parts(s);
	while (started) {
		CHECK(pthread_join(threads[--started], NULL) == 0);
		atomic_fetch_sub(&u->helpers, 1);
	}
	*error = s->error;
	return s->result;
}
