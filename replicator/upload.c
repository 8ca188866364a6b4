/*
 * Uploads in parts.
 *
 *   recorded without an id -> begun (id) -> its parts, in any order -> ended: the record goes
 *                                        -> aborted: the record goes when the store has said so
 *
 * The record (cache/upload_record.h) is what makes an upload ours. One without an id may be in the
 * bucket under an id that we never learned: before another begins, all uploads of that key are aborted,
 * which costs a server that is sending the same key just then no more than another beginning. What no
 * record knows (a lost state directory; a beginning that was repeated because its answer was lost)
 * goes after a week.
 *
 * The metadata travels with the beginning, so a version is content and metadata: a change of
 * either aborts and begins anew.
 *
 * Over an object of which the blocks are known (cache/content_map.h) only what changed is sent; the rest are
 * parts copied from that object (upload_plan.c). That they are of the version that was seen is certain only
 * when the upload ends under the condition that the object is still that version, or is compared with it at
 * the end; so without such a condition nothing is copied. Such an upload is not resumed (its record has part
 * size 0): it sends little, and parts that were copied before an interruption would be of nobody knows what. A
 * part that cannot be copied is sent.
 *
 * A copy of a large object inside the store is an upload whose parts are copied; it is not recorded.
 *
 * Threads. The caller sends parts itself, and with it up to three helpers, as many as the region's
 * allowance has at that moment; whoever is free takes the next part. The first failure stops all after
 * the part that they are at. Memory: what the store's backend holds of a body, per thread (s3: its
 * file is read as it is sent), and one struct store_part for each part.
 *
 * Lock: sending.lock, a leaf, guards next, result and error; a part's slot belongs to the thread that
 * took it until all have ended.
 */
#include "replicator/upload.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cache/upload_record.h"
#include "replicator/object_key.h"
#include "replicator/store/layers.h"
#include "replicator/upload_plan.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"
#include "src/base/thread.h"

#define MIB (UINT64_C(1) << 20)
#define PARTS_FROM (64 * MIB) /* below it a single put is as fast, and always has its condition */
#define PART_SIZE (16 * MIB)

enum {
	PARALLEL = 4, /* threads of one upload */
	PART_TIMEOUT_MS = 60000,
	SLOWEST_BYTES_PER_MS = 64, /* as region.c's */
	END_TIMEOUT_MS = 600000,   /* stores join the parts before they answer */
	FOUND_MAX = 64,
};
#define ABANDONED_MS (INT64_C(7) * 24 * 3600 * 1000)

_Static_assert(UPLOAD_ID_SIZE == STORE_UPLOAD_ID_SIZE && UPLOAD_ETAG_SIZE == STORE_ETAG_SIZE,
	"a record has room for what stores answer");

int uploader_init(struct uploader *u, struct cache *c, struct store *store, unsigned region)
{
	struct upload_stats stats;
	struct conn *conn;

	*u = (struct uploader){.cache = c, .store = store, .region = region};
	int r = cache_read_begin(c, &conn);
	if (r < 0)
		return r;
	r = upload_stats(conn, region, &stats);
	cache_read_end(conn);
	if (r == 0)
		atomic_store(&u->records, (int64_t)stats.uploads);
	return r;
}

static bool has(const struct uploader *u, unsigned cap)
{
	return (atomic_load(&u->store->capabilities) & cap) != 0;
}

bool upload_wanted(struct store *s, uint64_t size)
{
	return (atomic_load(&s->capabilities) & STORE_CAP_UPLOAD) &&
	       (size > PARTS_FROM || size > store_limits(s)->put_max);
}

uint64_t upload_part_size(const struct store_limits *l, uint64_t size)
{
	uint64_t least = size / l->parts_max + (size % l->parts_max != 0);
	uint64_t part = PART_SIZE < l->part_max ? PART_SIZE : l->part_max;

	if (part < l->part_min)
		part = l->part_min;
	if (part < least) /* in whole MiB, as far as that is allowed */
		part = (least + MIB - 1) / MIB * MIB < l->part_max ? (least + MIB - 1) / MIB * MIB
								   : least;
	return size > l->object_max || part > l->part_max ? 0 : part;
}

/* ---- records ---- */

static int find_record(struct uploader *u, struct slice key, struct upload_record *ret)
{
	struct conn *conn;
	int r = cache_read_begin(u->cache, &conn);

	if (r < 0)
		return r;
	r = upload_record_get(conn, u->region, key, ret);
	cache_read_end(conn);
	return r;
}

static int finish(struct conn *conn, int r)
{
	if (r == 0)
		return cache_commit(conn);
	cache_rollback(conn);
	return r;
}

static int add_record(struct uploader *u, struct slice key, struct upload_record *record)
{
	struct conn *conn;
	int r = cache_begin_lazy(u->cache, &conn);

	if (r == 0)
		r = finish(conn, upload_record_add(conn, u->region, key, record));
	if (r == 0)
		atomic_fetch_add(&u->records, 1);
	return r;
}

static int record_begun(struct uploader *u, const struct upload_record *record)
{
	struct conn *conn;
	int r = cache_begin_lazy(u->cache, &conn);

	return r < 0 ? r : finish(conn, upload_record_begun(conn, record->number, record->id));
}

static int remove_record(struct uploader *u, const struct upload_record *record)
{
	struct conn *conn;
	int r = cache_begin_lazy(u->cache, &conn);

	if (r == 0)
		r = finish(conn, upload_record_remove(conn, record->number));
	if (r == 0)
		atomic_fetch_sub(&u->records, 1);
	return r;
}

/* ---- aborting ---- */

/* Some uploads of a listing: they are aborted after it. */
struct found {
	struct uploader *u;
	const char *object; /* only of this key; NULL: of any … */
	int64_t before_ms;  /* … begun before, and not recorded */
	unsigned count;
	struct {
		char *key;
		char *id;
	} item[FOUND_MAX];
};

static void found_clear(struct found *f)
{
	while (f->count) {
		free(f->item[--f->count].key);
		free(f->item[f->count].id);
	}
}

/* True also when it cannot be told. */
static bool recorded(struct uploader *u, const char *object, const char *id)
{
	struct upload_record record;
	struct key key;
	bool directory;

	if (object_key_to_path(object, &key, &directory) < 0)
		return false;
	int r = find_record(u, key_slice(&key), &record);
	return r != -ENOENT && (r < 0 || !record.id[0] || strcmp(record.id, id) == 0);
}

static int add_found(void *ctx, const char *key, const char *id, int64_t begun_ms)
{
	struct found *f = ctx;

	if (f->object ? strcmp(key, f->object) != 0
		      : begun_ms >= f->before_ms || recorded(f->u, key, id))
		return 0;
	f->item[f->count].key = strdup(key);
	f->item[f->count].id = strdup(id);
	return ++f->count == FOUND_MAX;
}

/* Those that f describes. */
static enum store_result abort_found(
	struct found *f, const struct store_call *call, struct store_error *error)
{
	enum store_result r;
	bool more = true;

	do {
		r = store_uploads(
			f->u->store, f->object ? f->object : "", add_found, f, call, error);
		more = f->count == FOUND_MAX;
		for (unsigned i = 0; r == STORE_OK && i < f->count; i++) {
			if (!f->item[i].key || !f->item[i].id)
				r = store_error_local(error, -ENOMEM, "listing of uploads");
			else
				r = store_upload_abort(
					f->u->store, f->item[i].key, f->item[i].id, call, error);
			if (r == STORE_OK)
				log_info("aborted an upload that nobody goes on with key=\"%s\"",
					f->item[i].key);
		}
		found_clear(f);
	} while (r == STORE_OK && more);
	return r;
}

/* In the store, then the record. */
static enum store_result abort_upload(struct uploader *u, const char *object,
	const struct upload_record *record, const struct store_call *call,
	struct store_error *error)
{
	struct found f = {.u = u, .object = object};
	enum store_result r =
		record->id[0] ? store_upload_abort(u->store, object, record->id, call, error)
			      : abort_found(&f, call, error);

	if (r != STORE_OK)
		return r;
	int code = remove_record(u, record);
	return code < 0 ? store_error_local(error, code, "record of an upload") : STORE_OK;
}

void upload_settled(struct uploader *u, struct slice key, const struct store_call *call)
{
	char object[STORE_KEY_MAX + 1];
	struct store_error error = {0};
	struct upload_record record;

	if (atomic_load(&u->records) == 0 || find_record(u, key, &record) < 0 ||
		object_key_from_path(key, false, object) < 0)
		return;
	enum store_result r = abort_upload(u, object, &record, call, &error);
	if (r != STORE_OK)
		log_debug("upload not aborted yet key=\"%s\" result=%s", object,
			store_result_name(r));
}

static enum store_result sweep_orphans(
	struct uploader *u, const struct store_call *call, struct store_error *error)
{
	char object[STORE_KEY_MAX + 1];
	struct upload_record record = {0};
	enum store_result result = STORE_OK;
	struct conn *conn;
	struct key key;

	while (result == STORE_OK && atomic_load(&u->records) > 0) {
		int r = cache_read_begin(u->cache, &conn);
		if (r == 0) {
			r = upload_record_next(conn, u->region, record.number, true, &key, &record);
			cache_read_end(conn);
		}
		if (r == -ENOENT)
			break;
		if (r == 0)
			r = object_key_from_path(key_slice(&key), false, object);
		if (r < 0)
			return store_error_local(error, r, "records of uploads");
		result = abort_upload(u, object, &record, call, error);
	}
	return result;
}

enum store_result upload_sweep(
	struct uploader *u, bool listing, const struct store_call *call, struct store_error *error)
{
	struct found f = {.u = u};

	if (!has(u, STORE_CAP_UPLOAD))
		return STORE_OK;
	enum store_result r = sweep_orphans(u, call, error);
	if (r != STORE_OK || !listing)
		return r;
	f.before_ms = clock_realtime_ms() + store_clock_skew_ms(u->store) - ABANDONED_MS;
	return abort_found(&f, call, error);
}

/* ---- sending ---- */

struct sending {
	const struct upload_request *q;
	const struct store_call *call;
	const char *from;  /* a copy of that object; NULL: q->source is sent */
	const char *match; /* the version of it, or NULL */
	struct upload_record record;
	bool resumed;
	struct upload_span *plan; /* count parts; NULL: all are of the record's part_size */
	uint32_t count;
	struct store_part *part; /* etag "": it is still to be sent */

	struct mutex lock;
	uint32_t next;
	enum store_result result;
	struct store_error error;
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

static struct store_call call_within(const struct store_call *whole, int64_t timeout_ms)
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
	return r < 0 ? r : finish(conn, upload_part_add(conn, s->record.number, &row));
}

static uint64_t part_offset(const struct sending *s, uint32_t i)
{
	return s->plan ? s->plan[i].offset : i * s->record.part_size;
}

static uint64_t part_bytes(const struct sending *s, uint32_t i)
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
	uint64_t size = part_bytes(s, i);
	struct store_call call =
		call_within(s->call, PART_TIMEOUT_MS + (int64_t)(size / SLOWEST_BYTES_PER_MS));

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
		.from = q->source, .offset = part_offset(s, i), .size = part_bytes(s, i)};
	const struct store_source source = {.size = body.size, .read = read_part, .ctx = &body};
	struct store_part part = {.number = i + 1};
	struct store_call call =
		call_within(s->call, PART_TIMEOUT_MS + (int64_t)(body.size / SLOWEST_BYTES_PER_MS));

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
		metric_add(METRIC_BYTES_COPIED, part_bytes(s, i));
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

static enum store_result send_all(struct sending *s, struct store_error *error)
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

/* ---- one upload ---- */

/* Slots of parts that are recorded and of the size that they must have. */
static int known_part(void *ctx, const struct upload_part *part)
{
	struct sending *s = ctx;

	if (part->number < 1 || part->number > s->count ||
		part->size != part_bytes(s, part->number - 1))
		return 0;
	struct store_part *slot = &s->part[part->number - 1];
	slot->number = part->number;
	slot->size = part->size;
	memcpy(slot->etag, part->etag, sizeof(slot->etag));
	return 0;
}

static int make_slots(struct sending *s)
{
	if (!s->plan)
		s->count = (uint32_t)(s->record.size / s->record.part_size +
				      (s->record.size % s->record.part_size != 0));
	s->part = calloc(s->count, sizeof(*s->part));
	return s->part ? 0 : -ENOMEM;
}

static int load_parts(struct sending *s)
{
	struct conn *conn;

	int r = make_slots(s);
	if (r == 0)
		r = cache_read_begin(s->q->uploader->cache, &conn);
	if (r < 0)
		return r;
	r = upload_part_each(conn, s->record.number, known_part, s);
	cache_read_end(conn);
	return r;
}

static void version_of(const struct upload_request *q, uint8_t version[SHA256_SIZE])
{
	struct sha256 h;

	sha256_init(&h);
	sha256_update(&h, &q->source->size, sizeof(q->source->size));
	for (uint32_t i = 0; i < q->meta->count; i++) {
		sha256_update(&h, q->meta->item[i].name, strlen(q->meta->item[i].name) + 1);
		sha256_update(&h, q->meta->item[i].value, strlen(q->meta->item[i].value) + 1);
	}
	sha256_final(&h, version);
}

static enum store_result begin(struct sending *s, struct store_error *error)
{
	const struct upload_request *q = s->q;
	struct uploader *u = q->uploader;
	struct store_call call = call_within(s->call, PART_TIMEOUT_MS);

	s->record.size = q->source->size;
	if (!s->plan)
		s->record.part_size = upload_part_size(store_limits(u->store), q->source->size);
	if (!s->plan && !s->record.part_size)
		return store_error_set(error, STORE_TOO_LARGE, "larger than the store's objects");
	int r = add_record(u, q->key, &s->record);
	if (r < 0)
		return store_error_local(error, r, "record of an upload");
	enum store_result result =
		store_upload_begin(u->store, q->object, q->meta, s->record.id, &call, error);
	if (result != STORE_OK)
		return result;
	r = record_begun(u, &s->record);
	return r < 0 ? store_error_local(error, r, "record of an upload") : STORE_OK;
}

/* Looks whether what has not changed can be copied from the object that is there. */
static int make_plan(struct sending *s)
{
	CLEANUP(content_map_done) struct content_map base = {0}, map = {0};
	const unsigned need = STORE_CAP_UPLOAD | STORE_CAP_UPLOAD_COPY;
	const struct upload_request *q = s->q;
	struct uploader *u = q->uploader;
	const struct store_limits *l = store_limits(u->store);
	struct conn *conn;

	if (!q->hash || !q->base_hash || !q->condition->if_match ||
		(atomic_load(&u->store->capabilities) & need) != need)
		return 0;
	int r = cache_read_begin(u->cache, &conn);
	if (r < 0)
		return r;
	r = content_map_get(conn, q->base_hash, &base);
	if (r == 0)
		r = content_map_get(conn, q->hash, &map);
	cache_read_end(conn);
	if (r == 0 && map.size == q->source->size && base.size == q->base_size)
		r = upload_plan(l, upload_part_size(l, map.size), &base, &map, &s->plan, &s->count);
	if (s->plan) {
		s->from = q->object;
		s->match = has(u, STORE_CAP_COPY_IF_MATCH) ? q->condition->if_match : NULL;
	}
	return r == -ENOENT ? 0 : r;
}

/* The upload that an earlier call left, or a new one. */
static enum store_result resume_or_begin(struct sending *s, struct store_error *error)
{
	struct uploader *u = s->q->uploader;
	uint8_t version[SHA256_SIZE];

	version_of(s->q, version);
	int r = find_record(u, s->q->key, &s->record);
	if (r == 0 && (!s->record.id[0] || s->record.size != s->q->source->size ||
			      !s->record.part_size ||
			      memcmp(s->record.version, version, SHA256_SIZE) != 0)) {
		struct store_call call = call_within(s->call, PART_TIMEOUT_MS);
		enum store_result result = abort_upload(u, s->q->object, &s->record, &call, error);
		if (result != STORE_OK)
			return result;
		r = -ENOENT;
	}
	s->resumed = r == 0;
	if (r == -ENOENT) {
		s->record = (struct upload_record){0};
		memcpy(s->record.version, version, SHA256_SIZE);
		r = make_plan(s);
		if (r < 0)
			return store_error_local(error, r, "maps of content");
		enum store_result result = begin(s, error);
		if (result != STORE_OK)
			return result;
	}
	if (r == 0)
		r = load_parts(s);
	return r < 0 ? store_error_local(error, r, "record of an upload") : STORE_OK;
}

/* For stores that end an upload under no condition. */
static enum store_result compare(
	const struct upload_request *q, const struct store_call *call, struct store_error *error)
{
	const struct store_condition *c = q->condition;
	struct store_object there;

	if (!c->if_absent && !c->if_match)
		return STORE_OK;
	enum store_result r = store_head(q->uploader->store, q->object, &there, NULL, call, error);
	if (r == STORE_ABSENT)
		return c->if_absent ? STORE_OK : STORE_PRECONDITION;
	if (r != STORE_OK)
		return r;
	if (c->if_absent)
		return STORE_EXISTS;
	return strcmp(there.etag, c->if_match) == 0 ? STORE_OK : STORE_PRECONDITION;
}

static enum store_result end(struct sending *s, char *etag, struct store_error *error)
{
	static const struct store_condition none;
	const struct upload_request *q = s->q;
	struct store_call call = call_within(s->call, END_TIMEOUT_MS);
	bool guarded = has(q->uploader, STORE_CAP_UPLOAD_IF);
	enum store_result r = guarded ? STORE_OK : compare(q, &call, error);

	if (r != STORE_OK)
		return r;
	call.uncertain = s->call->uncertain;
	return store_upload_end(q->uploader->store, q->object, s->record.id, s->part, s->count,
		q->meta, guarded ? q->condition : &none, etag, &call, error);
}

/* What becomes of the upload after a result; the result itself stays. */
static void settle(struct sending *s, enum store_result r, const struct store_error *error)
{
	struct uploader *u = s->q->uploader;
	struct store_call call = call_within(s->call, PART_TIMEOUT_MS);
	bool useless = r == STORE_ABSENT || r == STORE_TOO_LARGE || r == STORE_UNSUPPORTED ||
		       (r == STORE_LOCAL && error->local_errno == ESTALE);
	struct store_error unused = {0};

	if (!s->record.number || (r != STORE_OK && !useless))
		return;
	if (r == STORE_OK ? remove_record(u, &s->record) < 0
			  : abort_upload(u, s->q->object, &s->record, &call, &unused) != STORE_OK)
		log_debug("upload stays recorded key=\"%s\"", s->q->object);
}

enum store_result upload_put(const struct upload_request *q, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct sending s = {.q = q, .call = call};

	mutex_init(&s.lock, LOCK_RANK_LEAF);
	enum store_result r = resume_or_begin(&s, error);
	if (r == STORE_OK)
		r = send_all(&s, error);
	if (r == STORE_OK)
		r = end(&s, etag, error);
	/* Not every store says clearly that it has forgotten an upload. */
	if (r == STORE_UNSUPPORTED && s.resumed)
		r = STORE_ABSENT;
	settle(&s, r, error);
	mutex_done(&s.lock);
	free(s.part);
	free(s.plan);
	return r;
}

/* ---- copies ---- */

bool upload_copy_wanted(struct store *s, uint64_t size)
{
	const unsigned need = STORE_CAP_UPLOAD | STORE_CAP_UPLOAD_COPY;

	return (atomic_load(&s->capabilities) & need) == need && size > store_limits(s)->put_max;
}

static enum store_result copy_parts(struct sending *s, char *etag, struct store_error *error)
{
	const struct upload_request *q = s->q;
	struct store *store = q->uploader->store;
	const struct store_limits *l = store_limits(store);
	struct store_call call = call_within(s->call, PART_TIMEOUT_MS);
	struct store_error unused = {0};

	s->record.part_size = upload_part_size(l, s->record.size);
	if (!s->record.part_size)
		return store_error_set(error, STORE_TOO_LARGE, "larger than the store's objects");
	/* No bytes travel, so only requests count. */
	if (s->record.part_size < UPLOAD_COPY_PART_SIZE)
		s->record.part_size = UPLOAD_COPY_PART_SIZE < l->part_max ? UPLOAD_COPY_PART_SIZE : l->part_max;
	if (make_slots(s) < 0)
		return store_error_local(error, -ENOMEM, "copy");
	enum store_result r =
		store_upload_begin(store, q->object, q->meta, s->record.id, &call, error);
	if (r != STORE_OK)
		return r;
	r = send_all(s, error);
	if (r == STORE_OK)
		r = end(s, etag, error);
	call = call_within(s->call, PART_TIMEOUT_MS);
	if (r != STORE_OK &&
		store_upload_abort(store, q->object, s->record.id, &call, &unused) != STORE_OK)
		log_debug("copy not aborted key=\"%s\"", q->object);
	return r;
}

enum store_result upload_copy(struct uploader *u, const char *from, uint64_t size,
	const char *match, const char *to, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	/* Onto itself it must not take back what somebody put there meanwhile. */
	const struct store_condition own = {
		.if_match = strcmp(from, to) == 0 && !call->origin ? match : NULL};
	const struct upload_request q = {.uploader = u,
		.object = to,
		.meta = meta,
		.condition = condition ? condition : &own};
	struct sending s = {.q = &q,
		.call = call,
		.from = from,
		.match = has(u, STORE_CAP_COPY_IF_MATCH) ? match : NULL,
		.record = {.size = size}};
	char unused[STORE_ETAG_SIZE];

	mutex_init(&s.lock, LOCK_RANK_LEAF);
	enum store_result r = copy_parts(&s, etag ? etag : unused, error);
	mutex_done(&s.lock);
	free(s.part);
	return r;
}
