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
 * Totals (rows, bytes, parked, unannounced) stand in the region's row. outbox_read.c answers what
 * may go and what is due. row_change and add_row are the places where a row is written; they tell
 * the tally (tally.h), which brings totals and heads in step before the transaction ends.
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
#include <stdio.h>

#include "cache/internal.h"
#include "cache/replication.h"
#include "cache/tally.h"
#include "src/base/clock.h"

enum { HELD_MS = 600000 }; /* in case that nothing sends a former name on */

struct row {
	int64_t id; /* 0: not there */
	uint64_t dir;
	int state;
	uint64_t first;
	uint64_t last;
	uint64_t since_ms;
	struct stamp stamp;
	uint64_t size;
	bool fresh;
	bool uploaded;
	uint32_t attempts;
	int64_t next_at_ms;
	char error[OUTBOX_ERROR_SIZE];
	struct key moved_from;
	struct key moved_to;
	bool unfetched;
	bool has_base;
	uint8_t base[SHA256_SIZE];
};

uint64_t outbox_dir_hash(struct slice key)
{
	struct slice dir = key.len ? key_parent(key) : key;
	uint64_t h = 14695981039346656037u;

	for (size_t i = 0; i < dir.len; i++)
		h = (h ^ (uint8_t)dir.p[i]) * 1099511628211u;
	return h;
}

static bool announced(int state)
{
	return (state & STAGE_MASK) == OUTBOX_OBJECT;
}

/* ---- rows ---- */

static int read_row(sqlite3_stmt *s, struct row *ret)
{
	const char *error = (const char *)sqlite3_column_text(s, 14);

	ret->id = sqlite3_column_int64(s, 0);
	ret->dir = (uint64_t)sqlite3_column_int64(s, 2);
	ret->state = sqlite3_column_int(s, 3);
	ret->first = (uint64_t)sqlite3_column_int64(s, 4);
	ret->last = (uint64_t)sqlite3_column_int64(s, 5);
	ret->since_ms = (uint64_t)sqlite3_column_int64(s, 6);
	ret->stamp.time = (uint64_t)sqlite3_column_int64(s, 7);
	ret->stamp.node = (uint64_t)sqlite3_column_int64(s, 8);
	ret->size = (uint64_t)sqlite3_column_int64(s, 9);
	ret->fresh = sqlite3_column_int(s, 10) != 0;
	ret->uploaded = sqlite3_column_int(s, 11) != 0;
	ret->attempts = (uint32_t)sqlite3_column_int64(s, 12);
	ret->next_at_ms = sqlite3_column_int64(s, 13);
	ret->unfetched = sqlite3_column_int(s, 18) != 0;
	snprintf(ret->error, sizeof(ret->error), "%s", error ? error : "");
	struct slice base = column_slice(s, 17);
	ret->has_base = base.len == SHA256_SIZE;
	if (ret->has_base)
		memcpy(ret->base, base.p, SHA256_SIZE);
	return key_set(&ret->moved_from, column_slice(s, 15)) &&
			       key_set(&ret->moved_to, column_slice(s, 16))
		       ? 0
		       : -EIO;
}

int outbox_row_export(sqlite3_stmt *s, struct outbox_row *ret)
{
	struct row row;

	if (read_row(s, &row) || !key_set(&ret->key, column_slice(s, 1)))
		return -EIO;
	ret->stamp = row.stamp;
	ret->state = row.state & PARKED ? OUTBOX_PARKED : (enum outbox_state)row.state;
	ret->fresh = row.fresh;
	ret->uploaded = row.uploaded;
	ret->first = row.first;
	ret->last = row.last;
	ret->size = row.size;
	ret->attempts = row.attempts;
	ret->next_at_ms = row.next_at_ms;
	memcpy(ret->error, row.error, sizeof(ret->error));
	ret->moved_from = row.moved_from;
	ret->moved_to = row.moved_to;
	ret->unfetched = row.unfetched;
	ret->has_base = row.has_base;
	memcpy(ret->base, row.base, SHA256_SIZE);
	return 0;
}

/* ret->id is 0 when there is none. */
static int find_row(struct conn *conn, unsigned region, struct slice key, struct row *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox"
					       " WHERE region = ?1 AND key = ?2");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_slice(s, 2, key);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = (struct row){0};
	if (r) {
		r = read_row(s, ret);
		sqlite3_reset(s);
	}
	return r;
}

static void bind_row(sqlite3_stmt *s, const struct row *row)
{
	bind_int(s, 1, row->id);
	bind_int(s, 2, row->state);
	bind_int(s, 3, (int64_t)row->first);
	bind_int(s, 4, (int64_t)row->last);
	bind_int(s, 5, (int64_t)row->since_ms);
	bind_int(s, 6, (int64_t)row->stamp.time);
	bind_int(s, 7, (int64_t)row->stamp.node);
	bind_int(s, 8, (int64_t)row->size);
	bind_int(s, 9, row->fresh);
	bind_int(s, 10, row->uploaded);
	bind_int(s, 11, row->attempts);
	bind_int(s, 12, row->next_at_ms);
	bind_text(s, 13, row->error);
	if (row->moved_from.len)
		bind_slice(s, 14, key_slice(&row->moved_from));
	else
		sqlite3_bind_null(s, 14);
	if (row->moved_to.len)
		bind_slice(s, 15, key_slice(&row->moved_to));
	else
		sqlite3_bind_null(s, 15);
	bind_int(s, 20, row->unfetched);
	if (row->has_base)
		bind_slice(s, 16, (struct slice){(const char *)row->base, SHA256_SIZE});
	else
		sqlite3_bind_null(s, 16);
}

static int insert_row(struct conn *conn, unsigned region, struct slice key, const struct row *row)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO outbox(state, first, last, since_ms, time, node, size, fresh, "
		"uploaded,"
		" attempts, next_at_ms, error, moved_from, moved_to, base, region, key, dir,"
		" unfetched)"
		" VALUES(?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,"
		" ?18, ?19, ?20)"
		" ON CONFLICT(region, key) DO NOTHING");

	if (!s)
		return conn_error(conn);
	bind_row(s, row);
	bind_int(s, 17, region);
	bind_slice(s, 18, key);
	bind_int(s, 19, (int64_t)row->dir);
	return conn_run(conn, s);
}

static int update_row(struct conn *conn, const struct row *row)
{
	sqlite3_stmt *s =
		conn_statement(conn, "UPDATE outbox SET state = ?2, first = ?3, last = "
				     "?4, since_ms = ?5, time = ?6, node = ?7,"
				     " size = ?8, fresh = ?9, uploaded = ?10, attempts = "
				     "?11, next_at_ms = ?12, error = ?13, moved_from = ?14,"
				     " moved_to = ?15, base = ?16, unfetched = ?20 WHERE id = ?1");

	if (!s)
		return conn_error(conn);
	bind_row(s, row);
	return conn_run(conn, s);
}

static int delete_row(struct conn *conn, int64_t id)
{
	sqlite3_stmt *s = conn_statement(conn, "DELETE FROM outbox WHERE id = ?1");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, id);
	return conn_run(conn, s);
}

/* ---- totals and heads ---- */

static void count_row(struct outbox_totals *t, const struct row *row, int64_t sign)
{
	if (!row)
		return;
	t->rows += sign;
	if (!row->uploaded)
		t->bytes += sign * (int64_t)row->size;
	if (row->state & PARKED)
		t->parked += sign;
	else if (!announced(row->state))
		t->unannounced += sign;
}

/* before NULL: a new row; after NULL: the row goes. */
static int row_changed(
	struct conn *conn, unsigned region, const struct row *before, const struct row *after)
{
	struct outbox_totals totals = {0};
	int r;

	count_row(&totals, before, -1);
	count_row(&totals, after, 1);
	r = tally_totals(conn, region, &totals);
	/* From OBJECT to nowhere, or a failed attempt, moves no head. */
	if (r || ((!before || announced(before->state)) && (!after || announced(after->state))))
		return r;
	if (before && after && before->state == after->state && before->first == after->first &&
		before->last == after->last)
		return 0;
	return tally_dir(conn, region, before ? before->dir : after->dir);
}

static int change_row(
	struct conn *conn, unsigned region, const struct row *before, const struct row *after)
{
	int r = after ? update_row(conn, after) : delete_row(conn, before->id);

	return r ? r : row_changed(conn, region, before, after);
}

static bool uploads(const struct row *row)
{
	return row && row->state == OUTBOX_UPLOAD && !row->moved_to.len;
}

/* A former name that waits for key's upload: 1, 0 when there is none, or -errno. There is one, but where
 * names were given away and taken again. */
static int next_waiting(struct conn *conn, unsigned region, struct slice key, struct row *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_moved"
				     " WHERE region = ?1 AND state = 1 AND moved_to = ?2 LIMIT 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_slice(s, 2, key);
	r = conn_row(conn, s);
	if (r != 1)
		return r;
	r = read_row(s, ret);
	sqlite3_reset(s);
	return r ? r : 1;
}

static int row_change(struct conn *conn, unsigned region, struct slice key,
	const struct row *before, const struct row *after)
{
	struct row old, row;
	int r = change_row(conn, region, before, after);

	while (!r && uploads(before) && !uploads(after)) {
		r = next_waiting(conn, region, key, &old);
		if (r <= 0)
			break;
		row = old;
		row.state = OUTBOX_ANNOUNCE;
		row.next_at_ms = 0;
		r = change_row(conn, region, &old, &row);
	}
	return r;
}

/* Whether it was added: the key may have a row, which stays as it is then. */
static int add_row(
	struct conn *conn, unsigned region, struct slice key, const struct row *row, bool *ret)
{
	int r = insert_row(conn, region, key, row);

	*ret = !r && sqlite3_changes(conn->db) > 0;
	return r || !*ret ? r : row_changed(conn, region, NULL, row);
}

/* ---- enqueue ---- */

int outbox_region_ids(struct conn *conn, unsigned ids[REGION_MAX], unsigned *count)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT id FROM region WHERE resync <> 1 ORDER BY id LIMIT 8");
	unsigned n = 0;
	int r;

	_Static_assert(REGION_MAX == 8, "the statement's limit");
	if (!s)
		return conn_error(conn);
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
static void set_base(struct row *row, const uint8_t *base)
{
	row->has_base = base && row->state == OUTBOX_UPLOAD;
	if (!row->has_base)
		return;
	memcpy(row->base, base, SHA256_SIZE);
	row->state = OUTBOX_ANNOUNCE;
}

static struct row new_row(const struct outbox_change *change, uint64_t number)
{
	struct row row = {
		.dir = outbox_dir_hash(change->key),
		.state = new_state(change),
		.first = number,
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
static struct row coalesce(
	const struct row *old, const struct outbox_change *change, uint64_t number)
{
	struct row row = new_row(change, number);
	int stage = old->state & STAGE_MASK;

	row.id = old->id;
	/* What the region was told last is still what it was. */
	if (!announced(old->state)) {
		row.state = new_state(change);
		set_base(&row, old->has_base ? old->base : NULL);
	}
	/* A hint, which the hash of the content guards. */
	if (!row.moved_from.len && !announced(old->state))
		row.moved_from = old->moved_from;
	row.unfetched |= old->unfetched && (change->remote || change->object_only);
	/* Between a removal and what came before or after it the hint says two things; nothing is
	 * believed then. */
	row.fresh = old->fresh && !change->fresh && !change->shared && !announced(old->state) &&
		    old->attempts == 0;
	if (!announced(old->state) || change->object_only) {
		row.first = old->first;
		row.since_ms = old->since_ms;
	}
	/* A repair must not swallow the announcement that waits; the object goes again, if it went
	 * before. */
	if (change->object_only && !announced(old->state)) {
		row.state = old->uploaded ? OUTBOX_UPLOAD : stage;
		row.moved_to = old->moved_to;
		row.has_base = old->has_base;
		memcpy(row.base, old->base, SHA256_SIZE);
	}
	return row;
}

/* What was not sent under its former name either is where it was before that. */
static int note_moved(
	struct conn *conn, unsigned region, const struct outbox_change *change, struct row *row)
{
	struct row from;
	int r = find_row(conn, region, change->moved_from, &from);

	if (r)
		return r;
	if (from.id && !announced(from.state) && from.moved_from.len)
		row->moved_from = from.moved_from;
	else if (!key_set(&row->moved_from, change->moved_from))
		return -EINVAL;
	if (slice_equal(key_slice(&row->moved_from), change->key))
		row->moved_from.len = 0;
	return 0;
}

/* Of the row's oldest change, at most HELD_MS. */
static int64_t age_ms(struct conn *conn, const struct row *row)
{
	int64_t age = hlc_wall_ms(&conn->cache->clock) - (int64_t)row->since_ms;

	return age < 0 ? 0 : age > HELD_MS ? HELD_MS : age;
}

/* A removal that is not to be told of yet; see struct outbox_change. */
static int note_moved_to(
	struct conn *conn, unsigned region, const struct outbox_change *change, struct row *row)
{
	struct row now;
	int r = find_row(conn, region, change->moved_to, &now);

	if (r)
		return r;
	if (!key_set(&row->moved_to, change->moved_to))
		return -EINVAL;
	if (now.id && uploads(&now) && row->state == OUTBOX_ANNOUNCE) {
		row->state = OUTBOX_UPLOAD;
		row->next_at_ms = clock_monotonic_ms() + HELD_MS - age_ms(conn, row);
	}
	return 0;
}

static int take_over(
	struct conn *conn, unsigned region, const struct outbox_change *change, uint64_t number)
{
	struct row old, row;
	bool added;
	int r = find_row(conn, region, change->key, &old);

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
	return old.id ? row_change(conn, region, change->key, &old, &row)
		      : add_row(conn, region, change->key, &row, &added);
}

static int enqueue_region(
	struct conn *conn, unsigned region, const struct outbox_change *change, uint64_t number)
{
	struct row row;
	bool added = false;
	int r;

	/* A path that has just come to be has no row, but for one that was there shortly before. */
	if (change->fresh && !change->moved_from.len && !change->moved_to.len) {
		row = new_row(change, number);
		r = add_row(conn, region, change->key, &row, &added);
		if (r || added)
			return r;
	}
	return take_over(conn, region, change, number);
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

int outbox_seed(struct conn *conn, unsigned region, struct slice key, const struct entry *e)
{
	struct outbox_change change = {
		.key = key,
		.stamp = entry_stamp(e),
		.size = e->kind == KIND_FILE ? e->size : 0,
		.upload = e->kind == KIND_FILE && e->size > OUTBOX_INLINE_MAX,
	};
	struct row old, row;
	uint64_t number;
	bool added;
	int r;

	if (change.size > INT64_MAX)
		return -EIO;
	r = find_row(conn, region, key, &old);
	if (r || old.id)
		return r;
	r = counter_add(conn, COUNTER_ORDER, 1, &number);
	if (r)
		return r;
	row = new_row(&change, number);
	return add_row(conn, region, key, &row, &added);
}

int outbox_repair(struct conn *conn, unsigned region, struct slice key, const struct entry *e)
{
	struct outbox_change change = {
		.key = key,
		.stamp = entry_stamp(e),
		.size = e->kind == KIND_FILE ? e->size : 0,
		.object_only = true,
	};
	struct row old, row;
	uint64_t number;
	bool added;
	int r = find_row(conn, region, key, &old);

	if (r || old.id)
		return r;
	r = counter_add(conn, COUNTER_ORDER, 1, &number);
	if (r)
		return r;
	row = new_row(&change, number);
	return add_row(conn, region, key, &row, &added);
}

int outbox_drop(struct conn *conn, struct slice key)
{
	const unsigned *ids;
	unsigned count = 0;
	int r = tally_regions(conn, &ids, &count);

	for (unsigned i = 0; !r && i < count; i++) {
		struct row old;

		r = find_row(conn, ids[i], key, &old);
		if (!r && old.id)
			r = row_change(conn, ids[i], key, &old, NULL);
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
		struct row old;
		int r;

		if (!s)
			return conn_error(conn);
		bind_int(s, 1, region);
		r = conn_row(conn, s);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		r = key_set(&key, column_slice(s, 1)) ? read_row(s, &old) : -EIO;
		sqlite3_reset(s);
		if (r)
			return r;
		if (old.since_ms < *oldest_ms)
			*oldest_ms = old.since_ms;
		if (hlc_ms(old.stamp.time) < *oldest_ms)
			*oldest_ms = hlc_ms(old.stamp.time);
		r = row_change(conn, region, key_slice(&key), &old, NULL);
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

		if (!s)
			return conn_error(conn);
		bind_int(s, 1, region);
		r = conn_run(conn, s);
		if (r)
			return r;
	}
	return 0;
}

/* ---- delivery ---- */

/* old->id is 0 when the row is gone or has another stamp. */
static int find_version(
	struct conn *conn, unsigned region, struct slice key, struct stamp stamp, struct row *old)
{
	int r = find_row(conn, region, key, old);

	if (!r && old->id && stamp_cmp(old->stamp, stamp) != 0)
		old->id = 0;
	return r;
}

int outbox_advance(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	enum outbox_state to)
{
	struct row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	row = old;
	row.state = to == OUTBOX_PARKED ? (old.state | PARKED) : (int)to;
	row.attempts = 0;
	row.next_at_ms = 0;
	row.error[0] = '\0';
	if (to == OUTBOX_ANNOUNCE && (old.state & STAGE_MASK) == OUTBOX_UPLOAD) {
		row.uploaded = true;
		row.fresh = false;
	} else if (to != OUTBOX_PARKED && to != OUTBOX_ANNOUNCE) {
		row.uploaded = false;
	}
	return row_change(conn, region, key, &old, &row);
}

int outbox_announce_unsent(struct conn *conn, unsigned region, struct slice key, struct stamp stamp)
{
	struct row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id || old.state != OUTBOX_UPLOAD)
		return r;
	row = old;
	row.state = OUTBOX_ANNOUNCE;
	row.attempts = 0;
	row.next_at_ms = 0;
	row.uploaded = false;
	return row_change(conn, region, key, &old, &row);
}

int outbox_finish(struct conn *conn, unsigned region, struct slice key, struct stamp stamp)
{
	struct row old;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	return row_change(conn, region, key, &old, NULL);
}

int outbox_failed(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	int64_t next_at_ms, const char *error, bool park)
{
	struct row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	row = old;
	if (row.attempts < UINT32_MAX)
		row.attempts++;
	if (park)
		row.state |= PARKED;
	row.next_at_ms = row.state & PARKED || next_at_ms < 0 ? 0 : next_at_ms;
	snprintf(row.error, sizeof(row.error), "%s", error ? error : "");
	return row_change(conn, region, key, &old, &row);
}

int outbox_put_off(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	int64_t next_at_ms)
{
	struct row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id)
		return r;
	row = old;
	row.next_at_ms = next_at_ms;
	return row_change(conn, region, key, &old, &row);
}

int outbox_send_whole(struct conn *conn, unsigned region, struct slice key, struct stamp stamp)
{
	struct row old, row;
	int r = find_version(conn, region, key, stamp, &old);

	if (r || !old.id || old.state != OUTBOX_ANNOUNCE || !old.has_base)
		return r;
	row = old;
	row.state = OUTBOX_UPLOAD;
	row.has_base = false;
	return row_change(conn, region, key, &old, &row);
}

/* One parked row of the region back to where it was parked: 1, 0 when there is none, or -errno. */
static int unpark_one(struct conn *conn, unsigned region)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_parked"
				     " WHERE region = ?1 AND state > 4 ORDER BY first LIMIT 1");
	struct row old, row;
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	r = read_row(s, &old);
	sqlite3_reset(s);
	if (r)
		return r;
	row = old;
	row.state &= STAGE_MASK;
	row.attempts = 0;
	row.next_at_ms = 0;
	row.error[0] = '\0';
	r = change_row(conn, region, &old, &row);
	return r ? r : 1;
}

int outbox_retry_now(struct conn *conn, unsigned region, bool parked)
{
	sqlite3_stmt *s =
		conn_statement(conn, "UPDATE outbox INDEXED BY outbox_delayed SET next_at_ms = 0"
				     " WHERE region = ?1 AND next_at_ms > 0");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	r = conn_run(conn, s);
	if (r || !parked)
		return r;
	while ((r = unpark_one(conn, region)) == 1)
		;
	return r;
}

/* ---- figures ---- */

/* The first of the region's rows in a state: 1, 0 or -errno. */
static int oldest_in(
	struct conn *conn, unsigned region, int state, uint64_t *first, uint64_t *since_ms)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT first, since_ms FROM outbox INDEXED BY outbox_order"
				     " WHERE region = ?1 AND state = ?2 ORDER BY first LIMIT 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, state);
	r = conn_row(conn, s);
	if (r == 1) {
		*first = (uint64_t)sqlite3_column_int64(s, 0);
		*since_ms = (uint64_t)sqlite3_column_int64(s, 1);
		sqlite3_reset(s);
	}
	return r;
}

static int read_totals(struct conn *conn, unsigned region, struct outbox_stats *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT rows, bytes, parked, unannounced FROM region"
					       " WHERE id = ?1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	ret->rows = (uint64_t)sqlite3_column_int64(s, 0);
	ret->bytes = (uint64_t)sqlite3_column_int64(s, 1);
	ret->parked = (uint64_t)sqlite3_column_int64(s, 2);
	ret->unannounced = (uint64_t)sqlite3_column_int64(s, 3);
	sqlite3_reset(s);
	return 0;
}

int outbox_stats(struct conn *conn, unsigned region, struct outbox_stats *ret)
{
	struct outbox_stats stats = {0};
	uint64_t least = UINT64_MAX;
	int r = conn_writable(conn) ? tally_flush(conn) : 0;

	if (!r)
		r = read_totals(conn, region, &stats);

	if (r)
		return r;
	for (int state = OUTBOX_UPLOAD; state <= (OUTBOX_OBJECT | PARKED); state++) {
		uint64_t first = 0, since_ms = 0;

		r = oldest_in(conn, region, state, &first, &since_ms);
		if (r < 0)
			return r;
		if (r == 1 && first < least) {
			least = first;
			stats.oldest_ms = since_ms;
		}
	}
	*ret = stats;
	return 0;
}

static int waiting_in(struct conn *conn, unsigned region, struct slice key,
	const struct key_range *range, bool *ret)
{
	sqlite3_stmt *s;
	struct row row;
	int r = 0;

	if (key.len) {
		r = find_row(conn, region, key, &row);
		if (r || row.id) {
			*ret = row.id != 0;
			return r;
		}
	}
	s = conn_statement(conn, "SELECT 1 FROM outbox INDEXED BY outbox_key"
				 " WHERE region = ?1 AND key >= ?2 AND key < ?3 LIMIT 1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_slice(s, 2, key_range_low(range));
	bind_slice(s, 3, key_range_high(range));
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = r == 1;
	if (r)
		sqlite3_reset(s);
	return 0;
}

int outbox_waiting(struct conn *conn, struct slice key, uint64_t *regions)
{
	unsigned ids[REGION_MAX], count = 0;
	struct key_range range;
	uint64_t bits = 0;
	int r = key_range_below(key, &range);

	if (!r)
		r = outbox_region_ids(conn, ids, &count);
	for (unsigned i = 0; !r && i < count; i++) {
		bool waiting = false;

		r = waiting_in(conn, ids[i], key, &range, &waiting);
		if (waiting)
			bits |= (uint64_t)1 << ids[i];
	}
	if (!r)
		*regions = bits;
	return r;
}

int outbox_uploading(struct conn *conn, struct slice key, uint64_t *regions)
{
	unsigned ids[REGION_MAX], count = 0;
	uint64_t bits = 0;
	int r = outbox_region_ids(conn, ids, &count);

	for (unsigned i = 0; !r && i < count; i++) {
		struct row row;

		r = find_row(conn, ids[i], key, &row);
		if (!r && row.id &&
			(row.state == OUTBOX_UPLOAD ||
				(row.state == OUTBOX_ANNOUNCE && row.uploaded)))
			bits |= (uint64_t)1 << ids[i];
	}
	if (!r)
		*regions = bits;
	return r;
}
