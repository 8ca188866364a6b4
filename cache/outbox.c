/*
 * The outbox, for each region the keys whose newest version it lacks: millions of rows while a
 * region is cut off, so every call costs O(log n) for each row that it touches, and none walks the
 * backlog.
 *
 * State. The column holds one number: 1 UPLOAD, 2 ANNOUNCE, 3 OBJECT, and with 4 added the same
 * parked, so that a replay knows where to go on. Announced rows are 3 and 7. uploaded: the object
 * of an ANNOUNCE row is in the region already.
 *
 * Directory. dir is a 64-bit FNV-1a hash of the key's parent, which keeps paths out of the indexes.
 * Two directories that collide wait for each other's uploads, which is harmless.
 *
 * Order. The barrier of a directory is the least first of its rows that are neither announced nor
 * ready (1, 5, 6). A ready row (2) may go when its last is below the barrier, and below the first of a ready
 * one that may not go, as that one would keep the cut open until it can (outbox_dir_limit). outbox_head holds,
 * for each directory that has such a row, the least last of its ready rows: outbox_announceable
 * reads directories in that order and never meets one that has nothing to give; within a directory
 * the rows that may go are a prefix in order of last (outbox_ready), so it never meets one that is
 * held back either.
 *
 * Totals (rows, bytes, parked, unannounced) stand in the region's row.
 *
 * Files. This one has the rules, and what a change makes of the rows that it meets. outbox_row.c reads
 * and writes rows and keeps totals and heads in step, outbox_read.c answers what may go and what is
 * due, outbox_delivery.c moves rows on, outbox_moved.c has former names, outbox_group.c the open
 * group, outbox_stats.c the figures.
 *
 * Indexes. Each one costs every row, so they are partial: outbox_held has the rows that make a
 * barrier, outbox_ready those that may go, outbox_span of those the ones with first < last, which a
 * closed cut has to look for (of the others last tells all).
 *
 * A delayed row (next_at_ms in the future) stays in outbox_order, where outbox_due steps over it
 * within the index. There are as many as attempts failed: the region's breaker bounds them, and
 * outbox_retry_now clears them.
 */
#include "cache/outbox_row.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/replication.h"
#include "cache/tally.h"
#include "src/base/clock.h"

enum { HELD_MS = 600000 }; /* in case that nothing sends a former name on */

int outbox_region_ids(struct conn *conn, unsigned ids[REGION_MAX], unsigned *count)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT id FROM region WHERE resync <> 1 ORDER BY id LIMIT 8");
	unsigned n = 0;
	int r;

	_Static_assert(REGION_MAX == 8, "the statement's limit");
	while ((r = conn_row(conn, s)) == 1) {
		ids[n++] = (unsigned)sqlite3_column_int(s, 0);
		if (n == REGION_MAX) {
			sqlite3_reset(s);
			break;
		}
	}
	*count = n;
	return r < 0 ? r : 0;
}

static int new_state(const struct outbox_change *change)
{
	if (change->object_only)
		return OUTBOX_OBJECT;
	return change->upload ? OUTBOX_UPLOAD : OUTBOX_ANNOUNCE;
}

/* Large content over the version base goes as a delta first. */
static void set_base(struct stored_row *row, const uint8_t *base)
{
	row->has_base = base && row->state == OUTBOX_UPLOAD;
	if (!row->has_base)
		return;
	memcpy(row->base, base, SHA256_SIZE);
	row->state = OUTBOX_ANNOUNCE;
}

static struct stored_row new_row(const struct outbox_change *change, uint64_t number)
{
	struct stored_row row = {
		.dir = outbox_dir_hash(change->key),
		.state = new_state(change),
		.first = change->since ? change->since : number,
		.last = number,
		.since_ms = hlc_ms(change->stamp.time),
		.stamp = change->stamp,
		.size = change->size,
		.fresh = change->fresh,
		.unfetched = change->unfetched,
	};

	set_base(&row, change->base);
	return row;
}

/* The row of old, which the change takes over. */
static struct stored_row coalesce(
	const struct stored_row *old, const struct outbox_change *change, uint64_t number)
{
	struct stored_row row = new_row(change, number);
	int stage = old->state & STAGE_MASK;

	row.id = old->id;
	/* What the region was told last is still what it was. */
	if (!state_announced(old->state)) {
		row.state = new_state(change);
		set_base(&row, old->has_base ? old->base : NULL);
	}
	/* A hint, which the hash of the content guards. */
	if (!row.moved_from.len && !state_announced(old->state))
		row.moved_from = old->moved_from;
	row.unfetched |= old->unfetched && (change->remote || change->object_only);
	/* Between a removal and what came before or after it the hint says two things; nothing is
	 * believed then. */
	row.fresh = old->fresh && !change->fresh && !change->shared && !state_announced(old->state) &&
		    old->attempts == 0;
	if (!state_announced(old->state) || change->object_only) {
		row.first = old->first;
		row.since_ms = old->since_ms;
	}
	/* A repair must not swallow the announcement that waits; the object goes again, if it went
	 * before. */
	if (change->object_only && !state_announced(old->state)) {
		row.state = old->uploaded ? OUTBOX_UPLOAD : stage;
		row.moved_to = old->moved_to;
		row.has_base = old->has_base;
		memcpy(row.base, old->base, SHA256_SIZE);
	}
	return row;
}

/* What was not sent under its former name either is where it was before that. */
static int note_moved(
	struct conn *conn, unsigned region, const struct outbox_change *change, struct stored_row *row)
{
	struct stored_row from;
	int r = outbox_row_find(conn, region, change->moved_from, &from);

	if (r)
		return r;
	if (from.id && !state_announced(from.state) && from.moved_from.len)
		row->moved_from = from.moved_from;
	else if (!key_set(&row->moved_from, change->moved_from))
		return -EINVAL;
	if (slice_equal(key_slice(&row->moved_from), change->key))
		row->moved_from.len = 0;
	return 0;
}

/* Of the row's oldest change, at most HELD_MS. */
static int64_t age_ms(struct conn *conn, const struct stored_row *row)
{
	int64_t age = hlc_wall_ms(&conn->cache->clock) - (int64_t)row->since_ms;

	return age < 0 ? 0 : age > HELD_MS ? HELD_MS : age;
}

/* A removal that is not to be told of yet; see struct outbox_change. */
static int note_moved_to(
	struct conn *conn, unsigned region, const struct outbox_change *change, struct stored_row *row)
{
	struct stored_row now;
	int r = outbox_row_find(conn, region, change->moved_to, &now);

	if (r)
		return r;
	if (!key_set(&row->moved_to, change->moved_to))
		return -EINVAL;
	if (now.id && outbox_row_uploads(&now) && row->state == OUTBOX_ANNOUNCE) {
		row->state = OUTBOX_UPLOAD;
		row->next_at_ms = clock_monotonic_ms() + HELD_MS - age_ms(conn, row);
	}
	return 0;
}

static int take_over(
	struct conn *conn, unsigned region, const struct outbox_change *change, uint64_t number)
{
	struct stored_row old, row;
	bool added;
	int r = outbox_row_find(conn, region, change->key, &old);

	if (r)
		return r;
	row = old.id ? coalesce(&old, change, number) : new_row(change, number);
	if (change->moved_from.len) {
		r = note_moved(conn, region, change, &row);
		if (r)
			return r;
	}
	if (change->moved_to.len) {
		r = note_moved_to(conn, region, change, &row);
		if (r)
			return r;
	}
	return old.id ? outbox_row_change(conn, region, change->key, &old, &row)
		      : outbox_row_add(conn, region, change->key, &row, &added);
}

static int enqueue_region(
	struct conn *conn, unsigned region, const struct outbox_change *change, uint64_t number)
{
	struct stored_row row;
	bool added = false;
	int r;

	/* A path that has just come to be has no row, but for one that was there shortly before. */
	if (change->fresh && !change->moved_from.len && !change->moved_to.len) {
		row = new_row(change, number);
		r = outbox_row_add(conn, region, change->key, &row, &added);
		if (r || added)
			return r;
	}
	return take_over(conn, region, change, number);
}

int outbox_numbers(struct conn *conn, unsigned count, uint64_t *first)
{
	uint64_t last;
	int r = counter_add(conn, COUNTER_ORDER, count, &last);

	if (!r)
		*first = last - count + 1;
	return r;
}

int outbox_enqueue(struct conn *conn, const struct outbox_change *change)
{
	const unsigned *ids;
	unsigned count = 0;
	uint64_t number;
	int r;

	if (change->key.len > KEY_MAX || change->size > INT64_MAX)
		return -EINVAL;
	r = tally_regions(conn, &ids, &count);
	if (!r)
		r = counter_add(conn, COUNTER_ORDER, 1, &number);
	if (!r)
		r = resync_note(conn, hlc_ms(change->stamp.time));
	for (unsigned i = 0; !r && i < count; i++)
		r = enqueue_region(conn, ids[i], change, number);
	return r;
}

int outbox_enqueue_in(struct conn *conn, unsigned region, const struct outbox_change *change)
{
	uint64_t number;
	int r;

	if (change->key.len > KEY_MAX || change->size > INT64_MAX)
		return -EINVAL;
	r = counter_add(conn, COUNTER_ORDER, 1, &number);
	return r ? r : enqueue_region(conn, region, change, number);
}

/* Unless the region has a row for the key that does as much. */
static int add_missing(struct conn *conn, unsigned region, const struct outbox_change *change)
{
	struct stored_row old;
	uint64_t number;
	int r = outbox_row_find(conn, region, change->key, &old);

	if (r || (old.id && (change->object_only || !state_announced(old.state))))
		return r;
	r = counter_add(conn, COUNTER_ORDER, 1, &number);
	return r ? r : take_over(conn, region, change, number);
}

int outbox_seed(struct conn *conn, unsigned region, struct slice key, const struct entry *e)
{
	const struct outbox_change change = {
		.key = key,
		.stamp = entry_stamp(e),
		.size = e->kind == KIND_FILE ? e->size : 0,
		.upload = e->kind == KIND_FILE && e->size > OUTBOX_INLINE_MAX,
	};

	return change.size > INT64_MAX ? -EIO : add_missing(conn, region, &change);
}

int outbox_repair(struct conn *conn, unsigned region, struct slice key, const struct entry *e)
{
	const struct outbox_change change = {
		.key = key,
		.stamp = entry_stamp(e),
		.size = e->kind == KIND_FILE ? e->size : 0,
		.object_only = true,
	};

	return add_missing(conn, region, &change);
}

int outbox_drop(struct conn *conn, struct slice key)
{
	const unsigned *ids;
	unsigned count = 0;
	int r = tally_regions(conn, &ids, &count);

	for (unsigned i = 0; !r && i < count; i++) {
		struct stored_row old;

		r = outbox_row_find(conn, ids[i], key, &old);
		if (!r && old.id)
			r = outbox_row_change(conn, ids[i], key, &old, NULL);
	}
	return r;
}

int outbox_drop_some(
	struct conn *conn, unsigned region, unsigned limit, unsigned *count, uint64_t *oldest_ms)
{
	unsigned n = 0;

	for (; n < limit; n++) {
		sqlite3_stmt *s =
			conn_statement(conn, "SELECT " ROW_COLUMNS
					     " FROM outbox WHERE region = ?1 ORDER BY key LIMIT 1");
		struct key key;
		struct stored_row old;
		int r;

		bind_int(s, 1, region);
		r = outbox_row_first(conn, s, &key, &old);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		if (old.since_ms < *oldest_ms)
			*oldest_ms = old.since_ms;
		if (hlc_ms(old.stamp.time) < *oldest_ms)
			*oldest_ms = hlc_ms(old.stamp.time);
		r = outbox_row_change(conn, region, key_slice(&key), &old, NULL);
		if (r)
			return r;
	}
	*count = n;
	return 0;
}

int outbox_clear(struct conn *conn, unsigned region)
{
	static const char *const sql[] = {
		"DELETE FROM outbox WHERE region = ?1",
		"DELETE FROM outbox_head WHERE region = ?1",
		"DELETE FROM announce_group WHERE region = ?1",
		"UPDATE region SET rows = 0, bytes = 0, parked = 0, unannounced = 0 WHERE id = ?1",
	};

	tally_forget(conn, region);
	for (size_t i = 0; i < ARRAY_SIZE(sql); i++) {
		sqlite3_stmt *s = conn_statement(conn, sql[i]);
		int r;

		bind_int(s, 1, region);
		r = conn_run(conn, s);
		if (r)
			return r;
	}
	return 0;
}
