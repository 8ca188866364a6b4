/*
 * The announcer: outbox rows of one region become a segment, one PUT for up to 2,000 changes.
 *
 * One number, one segment: the name is committed before the PUT, and while nobody knows what became of it
 * announce_pending.c asks. A crash between any two lines is therefore one of: nothing sent; sent and
 * found; sent, and sent again with the same records, which merge to nothing.
 *
 * Order. What may go: announce_gather.c. A cut by size may tear a directory: such a segment says
 * "continues", and so do the following ones until everything that belongs to the torn directories is out.
 * What the open group tore is recorded with the progress (cache/outbox_group.c), so that a crash in the
 * middle of it changes nothing.
 *
 * No lock: one thread at a time.
 */
#include "replicator/announce_internal.h"

#include <errno.h>
#include <stdio.h>

#include "replicator/own_log.h"
#include "src/base/clock.h"
#include "src/base/metrics.h"

int announcer_new(const struct delivery_options *o, struct announcer **ret)
{
	struct announcer *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->o = *o;
	*ret = a;
	return 0;
}

void announcer_free(struct announcer *a)
{
	if (!a)
		return;
	outbox_holds_done(&a->holds);
	free(a);
}

bool announcer_waiting(struct announcer *a)
{
	struct outbox_row *row = malloc(sizeof(*row));
	struct conn *conn;
	unsigned count = 0;
	bool more;

	if (row && !region_is_out(a->o.cache, a->o.region->id) &&
		cache_read_begin(a->o.cache, &conn) == 0) {
		if (outbox_announceable(conn, a->o.region->id, 1, NULL, row, &count, &more) < 0)
			count = 0;
		cache_read_end(conn);
	}
	free(row);
	return count > 0;
}

/* ---- groups ---- */

/* Whether everything that belongs to the directories of this segment, and of the group so far, is
 * out with it. */
static int is_closed(struct announcer *a, const struct announce_batch *b, bool *ret)
{
	struct conn *conn;
	int r = cache_read_begin(a->o.cache, &conn);

	if (r < 0)
		return r;
	r = outbox_cut_closed(conn, a->o.region->id, b->rows, b->in, ret);
	cache_read_end(conn);
	return r;
}

/* With the progress of the segment. */
static int group_sent(
	struct announcer *a, struct conn *conn, const struct announce_batch *b, bool continues)
{
	int r = 0;

	if (!continues)
		return a->group_open ? outbox_group_close(conn, a->o.region->id) : 0;
	for (unsigned i = 0; r == 0 && i < b->in; i++)
		r = outbox_group_add(conn, a->o.region->id, &b->rows[i]);
	return r;
}

/* ---- progress ---- */

static int get_progress(struct announcer *a, struct region_progress *p)
{
	struct conn *conn;
	int r = cache_read_begin(a->o.cache, &conn);

	if (r < 0)
		return r;
	r = region_progress_get(conn, a->o.region->id, p);
	if (r == 0)
		r = outbox_group_open(conn, a->o.region->id, &a->group_open);
	cache_read_end(conn);
	return r;
}

static int write_progress(
	struct announcer *a, struct conn *conn, const struct region_progress *p)
{
	int r = region_progress_set(conn, a->o.region->id, p);

	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

int announce_set_progress(struct announcer *a, const struct region_progress *p)
{
	struct conn *conn;
	int r = cache_begin_lazy(a->o.cache, &conn);

	return r < 0 ? r : write_progress(a, conn, p);
}

/* The next flush takes it along, and everything before it. */
static int set_pending(struct announcer *a, const struct region_progress *p)
{
	struct conn *conn;
	int r = cache_begin(a->o.cache, &conn);

	return r < 0 ? r : write_progress(a, conn, p);
}

int announce_move_on(
	struct announcer *a, struct conn *conn, struct slice key, struct stamp stamp, bool uploaded)
{
	/* The root has no object; that of a large file was there before it was announced. */
	if (!key.len || uploaded)
		return outbox_finish(conn, a->o.region->id, key, stamp);
	return outbox_advance(conn, a->o.region->id, key, stamp, OUTBOX_OBJECT);
}

/* Not of files whose content is neither in the segment nor in an object. */
static void tell(struct announcer *a, const struct announce_batch *b)
{
	for (unsigned i = 0; a->o.told && i < b->in; i++) {
		const struct announce_item *item = &b->items[i];

		if (!item->gone && (item->entry.kind != KIND_FILE || item->has_content ||
					   b->rows[i].uploaded))
			a->o.told(a->o.ctx, a->o.region->id, key_slice(&b->rows[i].key),
				b->rows[i].stamp);
	}
}

static int sent(struct announcer *a, struct region_progress *p, const struct announce_batch *b,
	bool continues)
{
	struct conn *conn;

	p->sent_seq++;
	memcpy(p->sent_name, p->pending_name, sizeof(p->sent_name));
	p->pending_name[0] = '\0';
	int r = cache_begin_lazy(a->o.cache, &conn);
	if (r < 0)
		return r;
	r = region_progress_set(conn, a->o.region->id, p);
	if (r == 0)
		r = group_sent(a, conn, b, continues);
	for (unsigned i = 0; r == 0 && i < b->in; i++)
		r = announce_move_on(
			a, conn, key_slice(&b->rows[i].key), b->rows[i].stamp, b->rows[i].uploaded);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	metric_add(METRIC_SEGMENTS_SENT, 1);
	r = cache_commit(conn);
	if (r < 0)
		return r;
	a->group_open = continues;
	tell(a, b);
	return r;
}

void announce_segment_key(char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE], const char *name)
{
	snprintf(key, sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE, "%s%s", SEGMENT_PREFIX, name);
}

/* ---- sending ---- */

static int build(struct announcer *a, struct region_progress *p, const struct announce_batch *b,
	bool continues, struct buf *out)
{
	struct segment_writer w = {0};
	struct segment_id id;
	int r = 0;

	if (!segment_name_parse(p->pending_name, &id))
		return -EIO;
	for (unsigned i = 0; i < b->in; i++) {
		const struct announce_item *item = &b->items[i];
		struct record record = {
			.key = b->rows[i].key,
			.entry = item->entry,
			.has_content = item->has_content,
			.content = item->content.data,
			.delta = item->has_delta ? item->content.data : NULL,
			.delta_len = item->content.len,
		};
		/* Whoever has it under its former name need not fetch it. */
		if (!item->has_content && item->entry.kind == KIND_FILE)
			record.moved_from = b->rows[i].moved_from;
		if (item->has_delta)
			metric_add(METRIC_DELTAS_SENT, 1);
		if (!item->gone)
			segment_add(&w, &record);
	}
	if (w.raw.failed)
		r = -ENOMEM;
	if (r == 0)
		r = segment_finish(&w, &id, p->sent_name, continues, out);
	segment_writer_done(&w);
	return r;
}

/* The time is the store's, so that the names in a region follow one clock whatever the servers'
 * say; and it never goes back within a writer. */
static void choose_name(struct announcer *a, struct region_progress *p)
{
	int64_t now = clock_realtime_ms() + store_clock_skew_ms(a->o.region->store);
	struct segment_id id = {0}, last;

	if (now > 0)
		id.ms = (uint64_t)now;
	if (segment_name_parse(p->sent_name, &last) && last.ms > id.ms)
		id.ms = last.ms;
	id.node = cache_node(a->o.cache);
	id.seq = p->sent_seq + 1;
	segment_name(&id, p->pending_name);
}

static enum store_result put_segment(struct announcer *a, const char *name, const struct buf *out)
{
	char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE];
	struct store_call call = region_call_urgent(a->o.region, out->len);
	struct store_condition condition = {
		.if_absent = (a->o.region->store->capabilities & STORE_CAP_PUT_IF_ABSENT) != 0};
	struct store_error error = {0};

	announce_segment_key(key, name);
	enum store_result result = store_put_buf(a->o.region->store, key, out->data, out->len, NULL,
		&condition, NULL, &call, &error);
	region_end(a->o.region, REGION_WRITE, result, &error, "put segment");
	return result;
}

/* Rows without an entry hold nothing that could be sent. */
static int finish_gone(struct announcer *a, const struct announce_batch *b)
{
	struct conn *conn;
	int r = cache_begin_lazy(a->o.cache, &conn);

	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < b->in; i++)
		r = outbox_finish(
			conn, a->o.region->id, key_slice(&b->rows[i].key), b->rows[i].stamp);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

static unsigned live_items(const struct announce_batch *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->in; i++)
		n += !b->items[i].gone;
	return n;
}

static int send(
	struct announcer *a, struct region_progress *p, const struct announce_batch *b, bool *did)
{
	CLEANUP(buf_done) struct buf out = {0};
	bool closed = false;

	int r = is_closed(a, b, &closed);
	if (r < 0 || (!closed && !live_items(b)))
		return r;
	if (!p->pending_name[0]) {
		choose_name(a, p);
		r = set_pending(a, p);
		if (r < 0)
			return r;
	}
	r = build(a, p, b, !closed, &out);
	if (r < 0)
		return r;
	/* What a power cut took from here after others have it, they would never send back; and the
	 * name would be given to other records, which they would pass over. */
	r = cache_sync(a->o.cache);
	if (r < 0)
		return r;
	if (put_segment(a, p->pending_name, &out) != STORE_OK)
		return 0; /* the next step finds out what became of it */
	r = sent(a, p, b, !closed);
	if (r < 0)
		return r;
	*did = true;
	if (a->o.moved)
		a->o.moved(a->o.ctx);
	return 0;
}

bool announcer_behind(const struct announcer *a)
{
	return a->behind || a->group_open;
}

int announcer_step(struct announcer *a, bool *did)
{
	CLEANUP(announce_batch_done) struct announce_batch b = {0};
	struct region_progress p;
	bool go = true;

	*did = false;
	a->behind = false;
	if (!region_begin(a->o.region, REGION_WRITE) || region_is_out(a->o.cache, a->o.region->id))
		return 0;
	int r = get_progress(a, &p);
	if (r == 0 && !a->checked) {
		r = own_log_check(a->o.cache, a->o.region, &p, &a->checked);
		go = a->checked;
	}
	if (r == 0 && go && p.pending_name[0])
		r = announce_resolve_pending(a, &p, &go, did);
	if (r < 0 || !go)
		return r;
	r = announce_gather(a, &b);
	if (r < 0 || (!b.in && !a->group_open))
		return r;
	a->behind = b.more;
	/* An open group whose last rows were taken by remote versions is closed by an empty
	 * segment. */
	if (live_items(&b) || a->group_open)
		return send(a, &p, &b, did);
	*did = true;
	return finish_gone(a, &b);
}
