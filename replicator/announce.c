/*
 * The announcer: outbox rows of one region become a segment, one PUT for up to 2,000 changes.
 *
 * One number, one segment. The name under which segment sent_seq + 1 goes out is committed as
 * pending_name before its PUT. While pending_name is set nobody knows whether the segment is there:
 * the next step asks the store, and either takes the segment that it finds as sent (its records say
 * which rows are done) or sends again under the same name, conditionally. One that is there and
 * cannot be read uses its number up: the rows go out again under the next one, and whoever could
 * read the first merges the same records twice. Only when the store says
 * "absent" ten seconds after the name was chosen a new name for the same number is chosen, so that
 * the time in the name stays near to the upload. A crash between any two lines is therefore one of:
 * nothing sent; sent and found; sent, and sent again with the same records, which merge to nothing.
 *
 * Order. outbox_announceable gives rows whose directories allow it. A file whose bytes changed
 * since it was sealed cannot go (a newer seal is coming); then every row of its directory with a
 * change after that file's first unsent one stays too. A cut by size may tear a directory: such a
 * segment says "continues", and so do the following ones until everything that belongs to the torn
 * directories is out. What the open group tore is recorded with the progress (cache/outbox_group.c), so
 * that a crash in the middle of it changes nothing.
 *
 * The records are the entries as they are now. A row whose stamp differs from its entry's is not
 * held back for it: the entry holds the newest of every register, and moving on a row needs its
 * stamp, so a row that was overtaken stays.
 *
 * Large content whose row has a base goes as a delta (delta.h), and its object follows. A delta that cannot
 * be made after all (too much has changed by now, or its maps are gone) sends the row the other way: its
 * object first.
 *
 * Content by another writer that is not here (only its attributes changed here) goes without bytes:
 * its author sent them, or its object has them.
 *
 * No lock: one thread at a time.
 */
#include "replicator/deliver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cache/journal.h"
#include "replicator/body.h"
#include "replicator/delta.h"
#include "replicator/own_log.h"
#include "replicator/segment.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum {
	RENAME_AFTER_MS = 10000,
	HOLDS_FEW = 64,	      /* are looked for anew each time */
	HOLDS_KEPT_MS = 1000, /* others for so long */
};

struct announcer {
	struct delivery_options o;
	bool group_open; /* as recorded, since the last step */
	bool behind;
	bool checked; /* own_log_check is done */
	struct outbox_holds holds;
	int64_t held_ms; /* monotonic: since when they were gathered */
};

struct item {
	struct entry entry;
	struct buf content; /* or a delta */
	bool has_content;
	bool has_delta;
	bool gone; /* no entry: nothing to tell anybody */
	bool out;  /* stays for a later segment */
};

struct batch {
	struct outbox_row *rows;
	struct item *items;
	unsigned count;
	bool more;
	unsigned in; /* rows in the segment, after settle */
};

static void batch_done(struct batch *b)
{
	for (unsigned i = 0; i < b->count; i++) {
		entry_done(&b->items[i].entry);
		buf_done(&b->items[i].content);
	}
	free(b->rows);
	free(b->items);
	*b = (struct batch){0};
}

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

/* ---- gathering ---- */

/* Those that may go, former names with regard to the present ones, too. */
static int read_rows(struct announcer *a, struct conn *conn, struct batch *b, unsigned *count)
{
	int64_t now = clock_monotonic_ms();
	bool again = true;
	int r = 0;

	if (a->holds.count < HOLDS_FEW || now - a->held_ms >= HOLDS_KEPT_MS) {
		outbox_holds_done(&a->holds);
		a->held_ms = now;
	}
	while (r == 0 && again) {
		r = outbox_announceable(conn, a->o.region->id, SEGMENT_RECORDS_TARGET, &a->holds,
			b->rows, count, &b->more);
		if (r == 0)
			r = outbox_hold_moved(
				conn, a->o.region->id, b->rows, *count, &a->holds, &again);
	}
	return r;
}

/* Rows and their entries in one view, until they may fill a segment. */
static int gather_rows(struct announcer *a, struct conn *conn, struct batch *b)
{
	unsigned count = 0;
	size_t bytes = 0;

	int r = read_rows(a, conn, b, &count);
	if (r < 0)
		return r;
	if (count)
		thread_lag(clock_realtime_ms() - (int64_t)hlc_ms(b->rows[0].stamp.time));
	for (unsigned i = 0; i < count; i++) {
		struct item *item = &b->items[i];

		if (bytes >= SEGMENT_BYTES_TARGET) {
			b->more = true;
			break;
		}
		r = entry_get(conn, key_slice(&b->rows[i].key), &item->entry);
		if (r < 0 && r != -ENOENT)
			return r;
		item->gone = r == -ENOENT;
		b->count++;
		bytes += 200 + b->rows[i].key.len + item->entry.xattrs.len;
		if (item->entry.kind == KIND_FILE && item->entry.size <= a->o.inline_max)
			bytes += item->entry.size; /* at most, so none is read in vain */
	}
	return 0;
}

static int still_changing(struct announcer *a, struct slice key, bool *ret)
{
	struct conn *conn;
	int r = cache_read_begin(a->o.cache, &conn);

	if (r < 0)
		return r;
	r = journal_pending(conn, key, ret);
	cache_read_end(conn);
	return r;
}

static int read_content(struct announcer *a, const struct outbox_row *row, struct item *item)
{
	CLEANUP(body_done) struct body body = {0};
	struct store_source source;

	int r = body_open_local(
		&body, a->o.cache, a->o.inline_cache, key_slice(&row->key), &item->entry, &source);
	if (r < 0)
		return r;
	for (uint64_t at = 0; at < source.size;) {
		uint8_t *p = buf_reserve(&item->content, source.size - at);
		if (!p)
			return -ENOMEM;
		ssize_t n = source.read(source.ctx, at, p, source.size - at);
		if (n < 0)
			return n == -ESTALE ? -EAGAIN : (int)n;
		item->content.len += (size_t)n;
		at += (uint64_t)n;
	}
	/* A guard that the bytes are the version that the record names; a peer would refuse it
	 * otherwise. */
	uint8_t hash[SHA256_SIZE];
	sha256(item->content.data, item->content.len, hash);
	return memcmp(hash, item->entry.hash, SHA256_SIZE) == 0 ? 0 : -EAGAIN;
}

/* Its object goes first, then it comes again. */
static int send_whole(struct announcer *a, const struct outbox_row *row, struct item *item)
{
	struct conn *conn;
	int r = cache_begin_lazy(a->o.cache, &conn);

	item->out = true;
	if (r < 0)
		return r;
	r = outbox_send_whole(conn, a->o.region->id, key_slice(&row->key), row->stamp);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	r = cache_commit(conn);
	if (r == 0 && a->o.moved)
		a->o.moved(a->o.ctx);
	return r;
}

static int add_delta(struct announcer *a, const struct outbox_row *row, struct item *item)
{
	CLEANUP(body_done) struct body body = {0};
	const struct entry *e = &item->entry;
	struct store_source source;
	bool pending = false;

	if (!row->has_base || row->uploaded || memcmp(row->base, e->hash, SHA256_SIZE) == 0 ||
		e->content_stamp.node != cache_node(a->o.cache))
		return 0;
	int r = body_open_local(
		&body, a->o.cache, a->o.inline_cache, key_slice(&row->key), e, &source);
	if (r == 0)
		r = delta_make(a->o.cache, row->base, e->hash, &source,
			delta_limit(a->o.inline_max, e->size), &item->content);
	if (r == 0) {
		item->has_delta = true;
		return 0;
	}
	buf_done(&item->content);
	if (r != -EAGAIN && r != -ESTALE)
		return r == -ENOENT ? send_whole(a, row, item) : r;
	r = still_changing(a, key_slice(&row->key), &pending);
	if (r < 0)
		return r;
	item->out = true;
	return pending ? 0 : send_whole(a, row, item);
}

static int add_content(struct announcer *a, const struct outbox_row *row, struct item *item)
{
	bool pending = true;

	if (item->gone || item->entry.kind != KIND_FILE)
		return 0;
	if (item->entry.size > a->o.inline_max)
		return add_delta(a, row, item);
	int r = read_content(a, row, item);
	if (r == 0) {
		item->has_content = true;
		return 0;
	}
	buf_done(&item->content);
	if (r != -EAGAIN)
		return r;
	if (item->entry.content_stamp.node != cache_node(a->o.cache))
		return 0;
	/* Of our own, and not here: a newer version is about to be sealed, or it never will be (the
	 * file is hidden by a directory of its name), and then waiting would hold its directory
	 * back for ever. */
	r = still_changing(a, key_slice(&row->key), &pending);
	if (r == 0)
		item->out = pending;
	return r;
}

/* Stops behind the item that fills the segment. */
static int gather_content(struct announcer *a, struct batch *b)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < b->count; i++) {
		int r = add_content(a, &b->rows[i], &b->items[i]);
		if (r < 0)
			return r;
		bytes += 200 + b->rows[i].key.len + b->items[i].entry.xattrs.len +
			 b->items[i].content.len;
		if (bytes < SEGMENT_BYTES_TARGET || i + 1 == b->count)
			continue;
		for (unsigned k = i + 1; k < b->count; k++) {
			entry_done(&b->items[k].entry);
			buf_done(&b->items[k].content);
		}
		b->count = i + 1;
		b->more = true;
	}
	return 0;
}

static bool same_directory(const struct outbox_row *x, const struct outbox_row *y)
{
	if (!x->key.len || !y->key.len)
		return x->key.len == y->key.len;
	return slice_equal(key_parent(key_slice(&x->key)), key_parent(key_slice(&y->key)));
}

/* The one beside it that changed later, and the former name of its content. */
static bool holds_back(const struct batch *b, unsigned i, unsigned k)
{
	const struct outbox_row *row = &b->rows[i], *other = &b->rows[k];

	return (other->last > row->first && same_directory(row, other)) ||
	       (other->moved_to.len &&
		       slice_equal(key_slice(&other->moved_to), key_slice(&row->key)));
}

/* What a row that stays holds back stays too, and so on; then the rows that go are moved to the
 * front. */
static void settle(struct batch *b)
{
	bool again = true;

	while (again) {
		again = false;
		for (unsigned i = 0; i < b->count; i++) {
			if (!b->items[i].out)
				continue;
			for (unsigned k = 0; k < b->count; k++) {
				if (!b->items[k].out && holds_back(b, i, k)) {
					b->items[k].out = true;
					again = true;
				}
			}
		}
	}
	for (unsigned i = 0; i < b->count; i++) {
		if (b->items[i].out)
			continue;
		if (i != b->in) {
			struct outbox_row row = b->rows[b->in];
			struct item item = b->items[b->in];
			b->rows[b->in] = b->rows[i];
			b->items[b->in] = b->items[i];
			b->rows[i] = row;
			b->items[i] = item;
		}
		b->in++;
	}
}

static int gather(struct announcer *a, struct batch *b)
{
	struct conn *conn;

	b->rows = calloc(SEGMENT_RECORDS_TARGET, sizeof(*b->rows));
	b->items = calloc(SEGMENT_RECORDS_TARGET, sizeof(*b->items));
	if (!b->rows || !b->items)
		return -ENOMEM;
	int r = cache_read_begin(a->o.cache, &conn);
	if (r < 0)
		return r;
	r = gather_rows(a, conn, b);
	cache_read_end(conn);
	if (r == 0)
		r = gather_content(a, b);
	if (r == 0)
		settle(b);
	return r;
}

/* ---- groups ---- */

/* Whether everything that belongs to the directories of this segment, and of the group so far, is
 * out with it. */
static int is_closed(struct announcer *a, const struct batch *b, bool *ret)
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
	struct announcer *a, struct conn *conn, const struct batch *b, bool continues)
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

static int set_progress(struct announcer *a, const struct region_progress *p)
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

/* The record is in the region: what is left to do for its row? */
static int move_on(
	struct announcer *a, struct conn *conn, struct slice key, struct stamp stamp, bool uploaded)
{
	/* The root has no object; that of a large file was there before it was announced. */
	if (!key.len || uploaded)
		return outbox_finish(conn, a->o.region->id, key, stamp);
	return outbox_advance(conn, a->o.region->id, key, stamp, OUTBOX_OBJECT);
}

/* Not of files whose content is neither in the segment nor in an object. */
static void tell(struct announcer *a, const struct batch *b)
{
	for (unsigned i = 0; a->o.told && i < b->in; i++) {
		const struct item *item = &b->items[i];

		if (!item->gone && (item->entry.kind != KIND_FILE || item->has_content ||
					   b->rows[i].uploaded))
			a->o.told(a->o.ctx, a->o.region->id, key_slice(&b->rows[i].key),
				b->rows[i].stamp);
	}
}

static int sent(
	struct announcer *a, struct region_progress *p, const struct batch *b, bool continues)
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
		r = move_on(
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

/* ---- a name that may or may not have been used ---- */

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
	return move_on(r->a, r->conn, key_slice(&record->key), entry_stamp(&record->entry),
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

static void segment_key(char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE], const char *name)
{
	snprintf(key, sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE, "%s%s", SEGMENT_PREFIX, name);
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
	return set_progress(a, p);
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

/* *go: on with sending; pending_name is then the name to use again, or "". */
static int resolve_pending(struct announcer *a, struct region_progress *p, bool *go, bool *did)
{
	char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE];
	struct store_call call = region_call_urgent(a->o.region, SEGMENT_BYTES_TARGET);
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(segment_done) struct segment s = {0};
	struct store_error error = {0};
	struct segment_id id;
	struct err err = {0};

	segment_key(key, p->pending_name);
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
	return p->pending_name[0] ? 0 : set_progress(a, p);
}

/* ---- sending ---- */

static int build(struct announcer *a, struct region_progress *p, const struct batch *b,
	bool continues, struct buf *out)
{
	struct segment_writer w = {0};
	struct segment_id id;
	int r = 0;

	if (!segment_name_parse(p->pending_name, &id))
		return -EIO;
	for (unsigned i = 0; i < b->in; i++) {
		const struct item *item = &b->items[i];
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

	segment_key(key, name);
	enum store_result result = store_put_buf(a->o.region->store, key, out->data, out->len, NULL,
		&condition, NULL, &call, &error);
	region_end(a->o.region, REGION_WRITE, result, &error, "put segment");
	return result;
}

/* Rows without an entry hold nothing that could be sent. */
static int finish_gone(struct announcer *a, const struct batch *b)
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

static unsigned live_items(const struct batch *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->in; i++)
		n += !b->items[i].gone;
	return n;
}

static int send(struct announcer *a, struct region_progress *p, const struct batch *b, bool *did)
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
	CLEANUP(batch_done) struct batch b = {0};
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
		r = resolve_pending(a, &p, &go, did);
	if (r < 0 || !go)
		return r;
	r = gather(a, &b);
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
