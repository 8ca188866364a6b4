/*
 * Uploads in parts.
 *
 *   recorded without an id -> begun (id) -> its parts, in any order -> ended: the record goes
 *                                        -> aborted: the record goes when the store has said so
 *
 * The record (cache/upload_record.h) is what makes an upload ours; what becomes of those that nobody goes
 * on with, and of one whose id we never learned: upload_abort.c. How the parts travel: upload_send.c.
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
 * Memory: one struct store_part for each part.
 */
#include "replicator/upload_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicator/store/layers.h"
#include "src/base/log.h"

#define MIB (UINT64_C(1) << 20)
#define PARTS_FROM (64 * MIB) /* below it a single put is as fast, and always has its condition */
#define PART_SIZE (16 * MIB)

enum { END_TIMEOUT_MS = 600000 }; /* stores join the parts before they answer */

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

bool uploader_can(const struct uploader *u, unsigned cap)
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

int upload_find_record(struct uploader *u, struct slice key, struct upload_record *ret)
{
	struct conn *conn;
	int r = cache_read_begin(u->cache, &conn);

	if (r < 0)
		return r;
	r = upload_record_get(conn, u->region, key, ret);
	cache_read_end(conn);
	return r;
}

int upload_finish(struct conn *conn, int r)
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
		r = upload_finish(conn, upload_record_add(conn, u->region, key, record));
	if (r == 0)
		atomic_fetch_add(&u->records, 1);
	return r;
}

static int record_begun(struct uploader *u, const struct upload_record *record)
{
	struct conn *conn;
	int r = cache_begin_lazy(u->cache, &conn);

	return r < 0 ? r : upload_finish(conn, upload_record_begun(conn, record->number, record->id));
}

int upload_remove_record(struct uploader *u, const struct upload_record *record)
{
	struct conn *conn;
	int r = cache_begin_lazy(u->cache, &conn);

	if (r == 0)
		r = upload_finish(conn, upload_record_remove(conn, record->number));
	if (r == 0)
		atomic_fetch_sub(&u->records, 1);
	return r;
}

/* ---- one upload ---- */

/* Slots of parts that are recorded and of the size that they must have. */
static int known_part(void *ctx, const struct upload_part *part)
{
	struct sending *s = ctx;

	if (part->number < 1 || part->number > s->count ||
		part->size != upload_part_bytes(s, part->number - 1))
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
	struct store_call call = upload_call_within(s->call, PART_TIMEOUT_MS);

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
		s->match = uploader_can(u, STORE_CAP_COPY_IF_MATCH) ? q->condition->if_match : NULL;
	}
	return r == -ENOENT ? 0 : r;
}

/* The upload that an earlier call left, or a new one. */
static enum store_result resume_or_begin(struct sending *s, struct store_error *error)
{
	struct uploader *u = s->q->uploader;
	uint8_t version[SHA256_SIZE];

	version_of(s->q, version);
	int r = upload_find_record(u, s->q->key, &s->record);
	if (r == 0 && (!s->record.id[0] || s->record.size != s->q->source->size ||
			      !s->record.part_size ||
			      memcmp(s->record.version, version, SHA256_SIZE) != 0)) {
		struct store_call call = upload_call_within(s->call, PART_TIMEOUT_MS);
		enum store_result result = upload_abort(u, s->q->object, &s->record, &call, error);
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
	struct store_call call = upload_call_within(s->call, END_TIMEOUT_MS);
	bool guarded = uploader_can(q->uploader, STORE_CAP_UPLOAD_IF);
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
	struct store_call call = upload_call_within(s->call, PART_TIMEOUT_MS);
	bool useless = r == STORE_ABSENT || r == STORE_TOO_LARGE || r == STORE_UNSUPPORTED ||
		       (r == STORE_LOCAL && error->local_errno == ESTALE);
	struct store_error unused = {0};

	if (!s->record.number || (r != STORE_OK && !useless))
		return;
	if (r == STORE_OK ? upload_remove_record(u, &s->record) < 0
			  : upload_abort(u, s->q->object, &s->record, &call, &unused) != STORE_OK)
		log_debug("upload stays recorded key=\"%s\"", s->q->object);
}

enum store_result upload_put(const struct upload_request *q, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct sending s = {.q = q, .call = call};

	mutex_init(&s.lock, LOCK_RANK_LEAF);
	enum store_result r = resume_or_begin(&s, error);
	if (r == STORE_OK)
		r = upload_send_all(&s, error);
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
	struct store_call call = upload_call_within(s->call, PART_TIMEOUT_MS);
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
	r = upload_send_all(s, error);
	if (r == STORE_OK)
		r = end(s, etag, error);
	call = upload_call_within(s->call, PART_TIMEOUT_MS);
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
		.match = uploader_can(u, STORE_CAP_COPY_IF_MATCH) ? match : NULL,
		.record = {.size = size}};
	char unused[STORE_ETAG_SIZE];

	mutex_init(&s.lock, LOCK_RANK_LEAF);
	enum store_result r = copy_parts(&s, etag ? etag : unused, error);
	mutex_done(&s.lock);
	free(s.part);
	return r;
}
