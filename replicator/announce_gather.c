/*
 * What goes into the next segment: rows, their entries, and the content of small files.
 *
 * outbox_announceable gives rows whose directories allow it. A file whose bytes changed since it was
 * sealed cannot go (a newer seal is coming); then every row of its directory with a change after that
 * file's first unsent one stays too.
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
 */
#include "replicator/announce_internal.h"

#include <errno.h>

#include "cache/journal.h"
#include "replicator/body.h"
#include "replicator/delta.h"
#include "src/base/clock.h"

enum {
	HOLDS_FEW = 64,	      /* are looked for anew each time */
	HOLDS_KEPT_MS = 1000, /* others for so long */
};

void announce_batch_done(struct announce_batch *b)
{
	for (unsigned i = 0; i < b->count; i++) {
		entry_done(&b->items[i].entry);
		buf_done(&b->items[i].content);
	}
	free(b->rows);
	free(b->items);
	*b = (struct announce_batch){0};
}

/* Those that may go, former names with regard to the present ones, too. */
static int read_rows(
	struct announcer *a, struct conn *conn, struct announce_batch *b, unsigned *count)
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

static void drop_from(struct announce_batch *b, unsigned at)
{
	for (unsigned i = at; i < b->count; i++) {
		entry_done(&b->items[i].entry);
		buf_done(&b->items[i].content);
	}
	b->count = at;
	b->more = true;
}

/* The segment is full before row n. Changes that go together, of which that is not the first, begin the next
 * one where they can. */
static unsigned before_whole(const struct announce_batch *b, unsigned n)
{
	unsigned at = n;

	while (at && b->rows[at - 1].last > b->rows[n].first)
		at--;
	return at ? at : n;
}

/* Rows and their entries in one view, until they may fill a segment. */
static int gather_rows(struct announcer *a, struct conn *conn, struct announce_batch *b)
{
	unsigned count = 0;
	size_t bytes = 0;

	int r = read_rows(a, conn, b, &count);
	if (r < 0)
		return r;
	if (count)
		thread_lag(clock_realtime_ms() - (int64_t)hlc_ms(b->rows[0].stamp.time));
	for (unsigned i = 0; i < count; i++) {
		struct announce_item *item = &b->items[i];

		if (bytes >= SEGMENT_BYTES_TARGET) {
			drop_from(b, before_whole(b, i));
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

static int read_content(
	struct announcer *a, const struct outbox_row *row, struct announce_item *item)
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
static int send_whole(struct announcer *a, const struct outbox_row *row, struct announce_item *item)
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

static int add_delta(struct announcer *a, const struct outbox_row *row, struct announce_item *item)
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

static int add_content(
	struct announcer *a, const struct outbox_row *row, struct announce_item *item)
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
static int gather_content(struct announcer *a, struct announce_batch *b)
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
		drop_from(b, before_whole(b, i + 1));
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
static bool holds_back(const struct announce_batch *b, unsigned i, unsigned k)
{
	const struct outbox_row *row = &b->rows[i], *other = &b->rows[k];

	return (other->last > row->first && same_directory(row, other)) ||
	       (other->moved_to.len &&
		       slice_equal(key_slice(&other->moved_to), key_slice(&row->key)));
}

/* What a row that stays holds back stays too, and so on; then the rows that go are moved to the
 * front. */
static void settle(struct announce_batch *b)
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
			struct announce_item item = b->items[b->in];
			b->rows[b->in] = b->rows[i];
			b->items[b->in] = b->items[i];
			b->rows[i] = row;
			b->items[i] = item;
		}
		b->in++;
	}
}

int announce_gather(struct announcer *a, struct announce_batch *b)
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
