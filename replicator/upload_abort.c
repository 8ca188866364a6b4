/*
 * Uploads that nobody goes on with: aborted in the store, and then their record goes.
 *
 * Ours are those that are recorded. One without an id may be in the bucket under an id that we never
 * learned: all uploads of that key are aborted for it, which costs a server that is sending the same key
 * just then no more than another beginning. What no record knows (a lost state directory; a beginning
 * that was repeated because its answer was lost) goes after a week.
 */
#include "replicator/upload_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicator/object_key.h"
#include "replicator/store/layers.h"
#include "src/base/clock.h"
#include "src/base/log.h"

enum { FOUND_MAX = 64 };

#define ABANDONED_MS (INT64_C(7) * 24 * 3600 * 1000)

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
	int r = upload_find_record(u, key_slice(&key), &record);
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

enum store_result upload_abort(struct uploader *u, const char *object,
	const struct upload_record *record, const struct store_call *call,
	struct store_error *error)
{
	struct found f = {.u = u, .object = object};
	enum store_result r =
		record->id[0] ? store_upload_abort(u->store, object, record->id, call, error)
			      : abort_found(&f, call, error);

	if (r != STORE_OK)
		return r;
	int code = upload_remove_record(u, record);
	return code < 0 ? store_error_local(error, code, "record of an upload") : STORE_OK;
}

void upload_settled(struct uploader *u, struct slice key, const struct store_call *call)
{
	char object[STORE_KEY_MAX + 1];
	struct store_error error = {0};
	struct upload_record record;

	if (atomic_load(&u->records) == 0 || upload_find_record(u, key, &record) < 0 ||
		object_key_from_path(key, false, object) < 0)
		return;
	enum store_result r = upload_abort(u, object, &record, call, &error);
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
		result = upload_abort(u, object, &record, call, error);
	}
	return result;
}

enum store_result upload_sweep(
	struct uploader *u, bool listing, const struct store_call *call, struct store_error *error)
{
	struct found f = {.u = u};

	if (!uploader_can(u, STORE_CAP_UPLOAD))
		return STORE_OK;
	enum store_result r = sweep_orphans(u, call, error);
	if (r != STORE_OK || !listing)
		return r;
	f.before_ms = clock_realtime_ms() + store_clock_skew_ms(u->store) - ABANDONED_MS;
	return abort_found(&f, call, error);
}
