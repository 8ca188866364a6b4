/*
 * A segment's name that may or may not have been used.
 *
 * The name under which segment sent_seq + 1 goes out is committed as pending_name before its PUT. While
 * it is set nobody knows whether the segment is there: the next step asks the store, and either takes
 * the segment that it finds as sent (its records say which rows are done) or sends again under the same
 * name, conditionally. One that is there and cannot be read uses its number up: the rows go out again
 * under the next one, and whoever could read the first merges the same records twice. Only when the
 * store says "absent" ten seconds after the name was chosen a new name for the same number is chosen, so
 * that the time in the name stays near to the upload.
 */
#include "replicator/announce_internal.h"

#include <errno.h>

#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum { RENAME_AFTER_MS = 10000 };

struct resolve {
	struct announcer *a;
	struct conn *conn;
	struct outbox_row *row;
	bool continues;
};

static int resolve_record(void *ctx, const struct record *record, const struct err *err)
{
	struct resolve *r = ctx;

	(void)err;
	if (!record)
		return 0;
	/* A row that is gone was taken by a remote version: nothing of it is to come. One that was
	 * overtaken has a later last, which keeps the group open for longer than needed. */
	if (r->continues) {
		int code = outbox_get(r->conn, r->a->o.region->id, key_slice(&record->key), r->row);
		if (code == 0)
			code = outbox_group_add(r->conn, r->a->o.region->id, r->row);
		if (code < 0 && code != -ENOENT)
			return code;
	}
	return announce_move_on(r->a, r->conn, key_slice(&record->key), entry_stamp(&record->entry),
		false); /* if its object is there, one look tells */
}

static int take_as_sent(struct announcer *a, struct region_progress *p, const struct segment *s)
{
	AUTO_FREE struct outbox_row *row = malloc(sizeof(*row));
	struct resolve ctx = {.a = a, .row = row, .continues = s->continues};

	if (!row)
		return -ENOMEM;
	p->sent_seq++;
	memcpy(p->sent_name, p->pending_name, sizeof(p->sent_name));
	p->pending_name[0] = '\0';
	int r = cache_begin_lazy(a->o.cache, &ctx.conn);
	if (r < 0)
		return r;
	r = segment_each(s, resolve_record, &ctx);
	if (r == 0)
		r = region_progress_set(ctx.conn, a->o.region->id, p);
	if (r == 0 && !s->continues)
		r = outbox_group_close(ctx.conn, a->o.region->id);
	if (r < 0) {
		cache_rollback(ctx.conn);
		return r;
	}
	metric_add(METRIC_SEGMENTS_SENT, 1);
	r = cache_commit(ctx.conn);
	if (r == 0)
		a->group_open = s->continues;
	return r;
}

/* The segment is there, and damaged. */
static int pass_over(struct announcer *a, struct region_progress *p, const char *why)
{
	metric_add(METRIC_SEGMENTS_CORRUPT, 1);
	log_error("own segment cannot be read, its changes are sent again region=%s segment=%s"
		  " reason=\"%s\"",
		a->o.region->name, p->pending_name, why);
	p->sent_seq++;
	memcpy(p->sent_name, p->pending_name, sizeof(p->sent_name));
	p->pending_name[0] = '\0';
	return announce_set_progress(a, p);
}

/* Whether an object that cannot be had is there at all: an answer that makes no sense may be that of
 * something in between. */
static enum store_result look(struct announcer *a, const char *key)
{
	struct store_call call = region_call_urgent(a->o.region, 0);
	struct store_object object = {0};
	struct store_error error = {0};

	enum store_result result =
		store_head(a->o.region->store, key, &object, NULL, &call, &error);
	region_end(a->o.region, REGION_READ, result, &error, "look at own segment");
	return result;
}

int announce_resolve_pending(struct announcer *a, struct region_progress *p, bool *go, bool *did)
{
	char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE];
	struct store_call call = region_call_urgent(a->o.region, SEGMENT_BYTES_TARGET);
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(segment_done) struct segment s = {0};
	struct store_error error = {0};
	struct segment_id id;
	struct err err = {0};

	announce_segment_key(key, p->pending_name);
	enum store_result result = store_get_buf(
		a->o.region->store, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, &call, &error);
	region_end(a->o.region, REGION_READ, result, &error, "get own segment");
	if (result == STORE_OK) {
		int r = segment_parse(p->pending_name, b.data, b.len, &s, &err);
		if (r == -ENOMEM)
			return r;
		*did = *go = true;
		return r == 0 ? take_as_sent(a, p, &s) : pass_over(a, p, err.text);
	}
	if (result == STORE_TOO_LARGE || result == STORE_CORRUPT) {
		const char *why = store_result_name(result);

		result = look(a, key);
		if (result == STORE_OK) {
			*did = *go = true;
			return pass_over(a, p, why);
		}
	}
	*go = result == STORE_ABSENT;
	if (!*go)
		return 0;
	bool parsed = segment_name_parse(p->pending_name, &id);
	bool guarded = (a->o.region->store->capabilities & STORE_CAP_PUT_IF_ABSENT) != 0;
	/* Without the condition a late copy of the first attempt could replace a second one's
	 * records. */
	if (!parsed || !guarded ||
		(int64_t)id.ms + RENAME_AFTER_MS <
			clock_realtime_ms() + store_clock_skew_ms(a->o.region->store))
		p->pending_name[0] = '\0';
	return p->pending_name[0] ? 0 : announce_set_progress(a, p);
}
