/*
 * The replicator's bookkeeping, one small table each. Cheap counts stand in the counter table.
 *
 * Regions. A region that is no longer named leaves only its segment numbers behind
 * (retired_region): peers remember them, so they must go on when it returns. Its cursor and
 * watermarks go: what it holds by then is read again, which merging makes harmless. A new region is
 * seeded in batches beside everything else; seed_after tells how far it got. What changes meanwhile
 * gets its rows as ever.
 *
 * Bounds: held records HELD_MAX, damaged segments named BAD_SEGMENT_MAX (all are counted).
 */
#include "cache/progress.h"

#include <errno.h>
#include <stdio.h>

#include "cache/internal.h"
#include "cache/object_seen.h"
#include "cache/outbox.h"
#include "cache/replication.h"
#include "cache/upload_record.h"
#include "src/base/clock.h"

#define HELD_MAX 1000000
#define BAD_SEGMENT_MAX 1000
#define REASON_MAX 200
#define SEED_BATCH 100 /* some milliseconds of the writer's lock */

static int run_region(struct conn *conn, const char *sql, unsigned region)
{
	sqlite3_stmt *s = conn_statement(conn, sql);

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	return conn_run(conn, s);
}

/* False when text does not fit. */
static bool column_copy(sqlite3_stmt *s, int index, char *to, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(s, index);
	size_t n = (size_t)sqlite3_column_bytes(s, index);

	if (n >= size || (n && !text))
		return false;
	if (n)
		memcpy(to, text, n);
	to[n] = '\0';
	return true;
}

/* ---- regions ---- */

struct region {
	unsigned id;
	char name[REGION_NAME_SIZE];
	uint64_t rows;
	bool wanted;
};

static int load_regions(struct conn *conn, struct region list[REGION_MAX], unsigned *count)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT id, name, rows FROM region ORDER BY id");
	unsigned n = 0;
	int r;

	if (!s)
		return conn_error(conn);
	while ((r = conn_row(conn, s)) == 1) {
		int64_t id = sqlite3_column_int64(s, 0);

		if (n == REGION_MAX || id < 0 || id >= REGION_MAX ||
			!column_copy(s, 1, list[n].name, sizeof(list[n].name))) {
			sqlite3_reset(s);
			return -EIO;
		}
		list[n].id = (unsigned)id;
		list[n].rows = (uint64_t)sqlite3_column_int64(s, 2);
		list[n++].wanted = false;
	}
	*count = n;
	return r;
}

static int check_names(const char *const *names, unsigned count, struct err *err)
{
	if (count > REGION_MAX)
		return err_set(err, -EINVAL, "%u regions are configured, at most %d are possible",
			count, REGION_MAX);
	for (unsigned i = 0; i < count; i++) {
		size_t n = strlen(names[i]);

		if (n == 0 || n >= REGION_NAME_SIZE)
			return err_set(err, -EINVAL,
				"region name \"%.80s\" must have 1 to %d bytes", names[i],
				REGION_NAME_SIZE - 1);
		for (unsigned j = 0; j < i; j++) {
			if (strcmp(names[i], names[j]) == 0)
				return err_set(
					err, -EINVAL, "region \"%s\" is named twice", names[i]);
		}
	}
	return 0;
}

static int retire(struct conn *conn, const struct region *region)
{
	static const char *const sql[] = {
		("INSERT OR REPLACE INTO retired_region(name, id, sent_seq, sent_name, "
		 "pending_name)"
		 " SELECT name, id, sent_seq, sent_name, pending_name FROM region WHERE id = ?1"),
		"DELETE FROM cursor WHERE region = ?1",
		"DELETE FROM segment_seen WHERE region = ?1",
		"DELETE FROM region_read WHERE region = ?1",
		"DELETE FROM bad_segment WHERE region = ?1",
		"DELETE FROM checkpoint_mark WHERE region = ?1",
	};
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(sql); i++)
		r = run_region(conn, sql[i], region->id);
	if (!r)
		r = outbox_clear(conn, region->id);
	if (!r)
		r = upload_record_clear(conn, region->id);
	if (!r)
		r = object_seen_clear(conn, region->id);
	return r ? r : run_region(conn, "DELETE FROM region WHERE id = ?1", region->id);
}

static int retire_unwanted(
	struct conn *conn, const struct region *list, unsigned count, bool force, struct err *err)
{
	for (unsigned i = 0; i < count; i++) {
		int r;

		if (list[i].wanted)
			continue;
		if (list[i].rows && !force)
			return err_set(err, -EBUSY,
				"region \"%s\" is no longer configured but still lacks %llu "
				"changes of this server\n"
				"hint: name it again, or give it up with meridian mount --drop-regions",
				list[i].name, (unsigned long long)list[i].rows);
		r = retire(conn, &list[i]);
		if (r)
			return err_errno(err, r, "cannot retire region \"%s\"", list[i].name);
	}
	return 0;
}

/* The id that a retired region had, -1 if there was none. */
static int retired_id(struct conn *conn, const char *name, int64_t *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT id FROM retired_region WHERE name = ?1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_text(s, 1, name);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = r ? sqlite3_column_int64(s, 0) : -1;
	if (r)
		sqlite3_reset(s);
	return 0;
}

static int insert_region(struct conn *conn, unsigned id, const char *name, bool seed)
{
	static const char *const sql[] = {
		"INSERT INTO region(id, name, seed_after) VALUES(?1, ?2, iif(?3, x'', NULL))",
		"UPDATE region SET (sent_seq, sent_name, pending_name) ="
		" (SELECT sent_seq, sent_name, pending_name FROM retired_region WHERE name = ?2)"
		" WHERE id = ?1 AND EXISTS (SELECT 1 FROM retired_region WHERE name = ?2)",
		"DELETE FROM retired_region WHERE name = ?2",
	};

	for (size_t i = 0; i < ARRAY_SIZE(sql); i++) {
		sqlite3_stmt *s = conn_statement(conn, sql[i]);
		int r;

		if (!s)
			return conn_error(conn);
		bind_int(s, 1, id);
		bind_text(s, 2, name);
		if (i == 0)
			bind_int(s, 3, seed);
		r = conn_run(conn, s);
		if (r)
			return r;
	}
	return 0;
}

/* Picks a free id for a new region: the one it had, else the least. */
static int add_region(
	struct conn *conn, const char *name, bool used[REGION_MAX], bool seed, unsigned *ret)
{
	int64_t id = -1;
	int r = retired_id(conn, name, &id);

	if (r)
		return r;
	if (id < 0 || id >= REGION_MAX || used[id]) {
		for (id = 0; id < REGION_MAX && used[id]; id++)
			;
	}
	if (id == REGION_MAX)
		return -EIO;
	used[id] = true;
	*ret = (unsigned)id;
	return insert_region(conn, *ret, name, seed);
}

static int register_names(struct conn *conn, const char *const *names, unsigned count, bool force,
	unsigned *ids, struct err *err)
{
	struct region list[REGION_MAX];
	bool used[REGION_MAX] = {false};
	bool known[REGION_MAX] = {false};
	uint64_t live = 0, tombstones = 0;
	unsigned n = 0;
	int r = load_regions(conn, list, &n);

	if (!r)
		r = entry_count(conn, &live, &tombstones);
	if (r)
		return err_errno(err, r, "cannot read the regions");
	for (unsigned i = 0; i < count; i++) {
		for (unsigned j = 0; j < n; j++) {
			if (strcmp(names[i], list[j].name) != 0)
				continue;
			list[j].wanted = used[list[j].id] = known[i] = true;
			ids[i] = list[j].id;
		}
	}
	r = retire_unwanted(conn, list, n, force, err);
	for (unsigned i = 0; !r && i < count; i++) {
		if (known[i])
			continue;
		r = add_region(conn, names[i], used, live > 0, &ids[i]);
		if (r)
			err_errno(err, r, "cannot add region \"%s\"", names[i]);
	}
	return r;
}

struct seeding {
	struct conn *conn;
	unsigned region;
	unsigned count;
	bool resync;
	int64_t from_ms; /* of a resync */
	struct key last;
};

static int seed_key(void *ctx, struct slice key)
{
	struct seeding *s = ctx;
	struct entry e = {0};
	int r = entry_get(s->conn, key, &e);

	if (r)
		return r;
	if (!s->resync || (int64_t)hlc_ms(entry_stamp(&e).time) >= s->from_ms)
		r = outbox_seed(s->conn, s->region, key, &e);
	entry_done(&e);
	if (r)
		return r;
	if (!key_set(&s->last, key))
		return -EIO;
	s->count++;
	return 0;
}

static int set_seed_after(struct conn *conn, unsigned region, const struct slice *after)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE region SET seed_after = ?2 WHERE id = ?1");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	if (after)
		bind_slice(s, 2, *after);
	return conn_run(conn, s);
}

/* Where seeding stands: 1 with the key, 0 when it is done, or -errno. */
static int seed_after(struct conn *conn, unsigned region, struct key *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT seed_after FROM region WHERE id = ?1"
					       " AND seed_after IS NOT NULL");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r == 1) {
		if (!key_set(ret, column_slice(s, 0)))
			r = -EIO;
		sqlite3_reset(s);
	}
	return r;
}

static int read_resync(struct seeding *seeding)
{
	sqlite3_stmt *s = conn_statement(seeding->conn,
		"UPDATE region SET resync_seen = resync_seen + ?2 WHERE id = ?1"
		" RETURNING resync = 2, resync_from");
	int r;

	if (!s)
		return conn_error(seeding->conn);
	bind_int(s, 1, seeding->region);
	bind_int(s, 2, SEED_BATCH);
	r = conn_row(seeding->conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	seeding->resync = sqlite3_column_int(s, 0) != 0;
	seeding->from_ms = sqlite3_column_int64(s, 1);
	sqlite3_reset(s);
	return 0;
}

static int seed_batch(struct conn *conn, unsigned region, bool *more)
{
	struct seeding seeding = {.conn = conn, .region = region};
	struct key after;
	struct slice from, last;
	int r = seed_after(conn, region, &after);

	*more = false;
	if (r <= 0)
		return r;
	from = key_slice(&after);
	/* The empty key stands for the beginning, where the root's own entry is. */
	if (from.len == 0)
		from.p = NULL;
	r = read_resync(&seeding);
	if (!r)
		r = entry_scan(
			conn, slice_of(""), from, !seeding.resync, SEED_BATCH, seed_key, &seeding);
	if (r)
		return r;
	/* Fewer than asked for: the end. So a batch that ends at the root's own entry cannot begin
	 * again. */
	*more = seeding.count == SEED_BATCH;
	last = key_slice(&seeding.last);
	return set_seed_after(conn, region, *more ? &last : NULL);
}

int region_seeding(struct conn *conn, unsigned region, bool *ret)
{
	struct key after;
	int r = seed_after(conn, region, &after);

	*ret = r > 0;
	return r < 0 ? r : 0;
}

static int masks_follow(struct cache *c)
{
	struct conn *conn;
	int r = conn_take(c, &conn);

	if (r)
		return r;
	r = resync_masks(conn);
	conn_give(conn);
	return r;
}

int region_seed(struct cache *c, unsigned region, bool *more)
{
	struct conn *conn;
	int r = conn_take(c, &conn);

	if (r)
		return r;
	r = region_seeding(conn, region, more);
	conn_give(conn);
	if (r || !*more)
		return r;
	r = cache_begin(c, &conn);
	if (r)
		return r;
	r = seed_batch(conn, region, more);
	if (r) {
		cache_rollback(conn);
		return r;
	}
	r = cache_commit(conn);
	return r || *more ? r : masks_follow(c);
}

int region_register(struct cache *c, const char *const *names, unsigned count, bool force,
	unsigned *ids, struct err *err)
{
	unsigned found[REGION_MAX] = {0};
	struct conn *conn;
	int r = check_names(names, count, err);

	if (r)
		return r;
	r = cache_begin(c, &conn);
	if (r)
		return err_errno(err, r, "cannot begin to register the regions");
	r = register_names(conn, names, count, force, found, err);
	if (r) {
		cache_rollback(conn);
		return r;
	}
	r = cache_commit(conn);
	if (!r)
		r = masks_follow(c);
	if (r)
		return err_errno(err, r, "cannot register the regions");
	memcpy(ids, found, count * sizeof(*ids));
	return 0;
}

int region_used(struct conn *conn, unsigned region, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT used FROM region WHERE id = ?1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	*ret = sqlite3_column_int(s, 0) != 0;
	sqlite3_reset(s);
	return 0;
}

int region_set_used(struct cache *c, unsigned region)
{
	struct conn *conn;
	int r = cache_begin(c, &conn);

	if (r)
		return r;
	r = run_region(conn, "UPDATE region SET used = 1 WHERE id = ?1", region);
	if (r) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

int region_progress_get(struct conn *conn, unsigned region, struct region_progress *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT sent_seq, sent_name, pending_name FROM region"
				     " WHERE id = ?1");
	struct region_progress p = {0};
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	p.sent_seq = (uint64_t)sqlite3_column_int64(s, 0);
	if (!column_copy(s, 1, p.sent_name, sizeof(p.sent_name)) ||
		!column_copy(s, 2, p.pending_name, sizeof(p.pending_name)))
		r = -EIO;
	sqlite3_reset(s);
	if (r < 0)
		return r;
	*ret = p;
	return 0;
}

int region_progress_set(struct conn *conn, unsigned region, const struct region_progress *p)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE region SET sent_seq = ?2, sent_name = ?3,"
					       " pending_name = ?4 WHERE id = ?1");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)p->sent_seq);
	bind_text(s, 3, p->sent_name);
	bind_text(s, 4, p->pending_name);
	return conn_run(conn, s);
}

/* ---- pulling ---- */

int cursor_get(struct conn *conn, unsigned region, char name[SEGMENT_NAME_SIZE])
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT name FROM cursor WHERE region = ?1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	if (r == 0) {
		name[0] = '\0';
		return 0;
	}
	r = column_copy(s, 0, name, SEGMENT_NAME_SIZE) ? 0 : -EIO;
	sqlite3_reset(s);
	return r;
}

int cursor_set(struct conn *conn, unsigned region, const char *name)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT OR REPLACE INTO cursor(region, name) VALUES(?1, ?2)");

	if (strlen(name) >= SEGMENT_NAME_SIZE)
		return -EINVAL;
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_text(s, 2, name);
	return conn_run(conn, s);
}

int watermark_get(struct conn *conn, unsigned region, uint64_t node, uint64_t *seq,
	char name[SEGMENT_NAME_SIZE])
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT seq, name FROM segment_seen"
					       " WHERE region = ?1 AND node = ?2");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)node);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	if (r == 0) {
		*seq = 0;
		name[0] = '\0';
		return 0;
	}
	r = column_copy(s, 1, name, SEGMENT_NAME_SIZE) ? 0 : -EIO;
	if (!r)
		*seq = (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return r;
}

int watermark_set(struct conn *conn, unsigned region, uint64_t node, uint64_t seq, const char *name)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT OR REPLACE INTO segment_seen(region, node, seq, name)"
				     " VALUES(?1, ?2, ?3, ?4)");

	if (strlen(name) >= SEGMENT_NAME_SIZE)
		return -EINVAL;
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)node);
	bind_int(s, 3, (int64_t)seq);
	bind_text(s, 4, name);
	return conn_run(conn, s);
}

static int prune_bad_segments(struct conn *conn)
{
	sqlite3_stmt *s =
		conn_statement(conn, "DELETE FROM bad_segment WHERE (region, name) IN (SELECT "
				     "region, name FROM bad_segment"
				     " ORDER BY at_ms DESC, region, name LIMIT -1 OFFSET ?1)");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, BAD_SEGMENT_MAX);
	return conn_run(conn, s);
}

int bad_segment_add(struct conn *conn, unsigned region, const char *name, const char *reason)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT INTO bad_segment(region, name, reason, at_ms)"
				     " VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING RETURNING 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	sqlite3_bind_text(s, 2, name, (int)strnlen(name, KEY_MAX), SQLITE_STATIC);
	sqlite3_bind_text(s, 3, reason, (int)strnlen(reason, REASON_MAX), SQLITE_STATIC);
	bind_int(s, 4, clock_realtime_ms());
	r = conn_row(conn, s);
	if (r <= 0)
		return r; /* known already */
	sqlite3_reset(s);
	r = counter_add(conn, COUNTER_BAD_SEGMENT, 1, NULL);
	return r ? r : prune_bad_segments(conn);
}

int bad_segment_count(struct conn *conn, uint64_t *ret)
{
	return counter_get(conn, COUNTER_BAD_SEGMENT, ret);
}

/* ---- conflicts ---- */

int conflict_add(struct conn *conn, struct slice key, const struct entry *loser,
	const struct entry *winner, uint64_t ino, const char *reason)
{
	CLEANUP(buf_done) struct buf lost = {0};
	CLEANUP(buf_done) struct buf won = {0};
	sqlite3_stmt *s;
	int r;

	entry_encode(loser, &lost);
	entry_encode(winner, &won);
	if (lost.failed || won.failed)
		return -ENOMEM;
	/* A loser that arrives again, from another region, is the same conflict. */
	s = conn_statement(conn, "INSERT INTO conflict(key, loser, winner, ino, at_ms, reason)"
				 " SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?4 <> 0 OR NOT EXISTS("
				 "SELECT 1 FROM conflict INDEXED BY conflict_key WHERE key = ?1"
				 " AND loser = ?2 AND reason <> 'hidden')");
	if (!s)
		return conn_error(conn);
	bind_slice(s, 1, key);
	bind_slice(s, 2, (struct slice){(const char *)lost.data, lost.len});
	bind_slice(s, 3, (struct slice){(const char *)won.data, won.len});
	bind_int(s, 4, (int64_t)ino);
	bind_int(s, 5, clock_realtime_ms());
	sqlite3_bind_text(s, 6, reason, (int)strnlen(reason, REASON_MAX), SQLITE_STATIC);
	r = conn_run(conn, s);
	if (r || strcmp(reason, CONFLICT_HIDDEN) == 0 || sqlite3_changes(sqlite3_db_handle(s)) == 0)
		return r;
	return counter_add(conn, COUNTER_CONFLICT, 1, NULL);
}

int conflict_count(struct conn *conn, uint64_t *ret)
{
	return counter_get(conn, COUNTER_CONFLICT, ret);
}

struct conflict {
	uint64_t id;
	uint64_t ino;
	int64_t at_ms;
	struct key key;
	struct entry loser;
	char reason[REASON_MAX + 1];
};

static void conflict_done(struct conflict *c)
{
	entry_done(&c->loser);
}

/* The first conflict after id: 1, 0 or -errno. */
static int next_conflict(struct conn *conn, uint64_t after_id, struct conflict *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT id, key, loser, ino, at_ms, reason FROM conflict"
				     " WHERE id > ?1 AND reason <> 'hidden' ORDER BY id LIMIT 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, after_id > INT64_MAX ? INT64_MAX : (int64_t)after_id);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	ret->id = (uint64_t)sqlite3_column_int64(s, 0);
	ret->ino = (uint64_t)sqlite3_column_int64(s, 3);
	ret->at_ms = sqlite3_column_int64(s, 4);
	if (!key_set(&ret->key, column_slice(s, 1)) ||
		!column_copy(s, 5, ret->reason, sizeof(ret->reason)))
		r = -EIO;
	else
		r = entry_decode(column_slice(s, 2), &ret->loser);
	sqlite3_reset(s);
	return r ? r : 1;
}

int conflict_scan(struct conn *conn, uint64_t after_id, unsigned limit, conflict_fn fn, void *ctx)
{
	for (unsigned i = 0; i < limit; i++) {
		CLEANUP(conflict_done) struct conflict c = {0};
		int r = next_conflict(conn, after_id, &c);

		if (r <= 0)
			return r;
		after_id = c.id;
		r = fn(ctx, c.id, key_slice(&c.key), &c.loser, c.ino, c.at_ms, c.reason);
		if (r)
			return r;
	}
	return 0;
}

/* Takes the loser at hand if it is a file and newer than ret. */
static int take_newer(sqlite3_stmt *s, const struct entry *over, struct entry *ret)
{
	CLEANUP(entry_done) struct entry by = {0};
	struct entry e;
	int r = entry_decode(column_slice(s, 1), &by);

	if (r || (over && stamp_cmp(by.content_stamp, over->content_stamp)))
		return r;
	r = entry_decode(column_slice(s, 0), &e);
	if (r)
		return r;
	if (e.kind != KIND_FILE || stamp_cmp(e.content_stamp, ret->content_stamp) <= 0 ||
		(over && vector_get(&over->vector, e.content_stamp.node) >= e.content_stamp.time)) {
		entry_done(&e);
		return 0;
	}
	entry_done(ret);
	*ret = e;
	return 0;
}

int conflict_newest(
	struct conn *conn, struct slice key, const struct entry *over, struct entry *loser)
{
	struct entry newest = {0};
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT loser, winner FROM conflict INDEXED BY conflict_key WHERE key = ?1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_slice(s, 1, key);
	while ((r = conn_row(conn, s)) == 1) {
		r = take_newer(s, over, &newest);
		if (r) {
			sqlite3_reset(s);
			break;
		}
	}
	if (!r && newest.kind != KIND_FILE)
		r = -ENOENT;
	if (r) {
		entry_done(&newest);
		return r;
	}
	*loser = newest;
	return 0;
}

/* ---- held records ---- */

/* 1 when the same record is held already (its segment was read twice). */
static int held_already(struct conn *conn, struct slice key, struct slice record)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT 1 FROM held INDEXED BY held_key"
					       " WHERE key = ?1 AND record = ?2 LIMIT 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_slice(s, 1, key);
	bind_slice(s, 2, record);
	r = conn_row(conn, s);
	if (r == 1)
		sqlite3_reset(s);
	return r;
}

int held_add(struct conn *conn, struct slice key, int64_t due_ms, const void *record, size_t len)
{
	struct slice bytes = {record, len};
	uint64_t count = 0;
	sqlite3_stmt *s;
	int r = held_already(conn, key, bytes);

	if (r)
		return r < 0 ? r : 0;
	r = counter_get(conn, COUNTER_HELD, &count);
	if (r)
		return r;
	if (count >= HELD_MAX)
		return -EDQUOT;
	s = conn_statement(conn, "INSERT INTO held(key, due_ms, record) VALUES(?1, ?2, ?3)");
	if (!s)
		return conn_error(conn);
	bind_slice(s, 1, key);
	bind_int(s, 2, due_ms);
	bind_slice(s, 3, bytes);
	r = conn_run(conn, s);
	return r ? r : counter_add(conn, COUNTER_HELD, 1, NULL);
}

/* The records are copied one at a time before fn sees them, so fn may remove them. */
int held_due(struct conn *conn, int64_t now_ms, unsigned limit, held_fn fn, void *ctx)
{
	CLEANUP(buf_done) struct buf record = {0};
	int64_t due_ms = INT64_MIN, id = -1;

	for (unsigned i = 0; i < limit; i++) {
		sqlite3_stmt *s = conn_statement(conn,
			"SELECT id, due_ms, record FROM held INDEXED BY held_due"
			" WHERE due_ms <= ?1 AND (due_ms, id) > (?2, ?3) ORDER BY due_ms, id LIMIT "
			"1");
		struct slice bytes;
		int r;

		if (!s)
			return conn_error(conn);
		bind_int(s, 1, now_ms);
		bind_int(s, 2, due_ms);
		bind_int(s, 3, id);
		r = conn_row(conn, s);
		if (r <= 0)
			return r;
		id = sqlite3_column_int64(s, 0);
		due_ms = sqlite3_column_int64(s, 1);
		bytes = column_slice(s, 2);
		buf_clear(&record);
		buf_put(&record, bytes.p, bytes.len);
		sqlite3_reset(s);
		if (record.failed)
			return -ENOMEM;
		r = fn(ctx, (uint64_t)id, record.data, record.len);
		if (r)
			return r;
	}
	return 0;
}

int held_remove(struct conn *conn, uint64_t id)
{
	sqlite3_stmt *s = conn_statement(conn, "DELETE FROM held WHERE id = ?1 RETURNING 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)id);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	sqlite3_reset(s);
	return counter_add(conn, COUNTER_HELD, -1, NULL);
}

int held_count(struct conn *conn, uint64_t *ret)
{
	return counter_get(conn, COUNTER_HELD, ret);
}

/* ---- settings ---- */

int meta_get_text(struct conn *conn, const char *name, char *value, size_t size)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT value FROM meta WHERE name = ?1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_text(s, 1, name);
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	r = column_copy(s, 0, value, size) ? 0 : -ERANGE;
	sqlite3_reset(s);
	return r;
}

int meta_set_text(struct conn *conn, const char *name, const char *value)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT OR REPLACE INTO meta(name, value) VALUES(?1, ?2)");

	if (!s)
		return conn_error(conn);
	bind_text(s, 1, name);
	bind_text(s, 2, value);
	return conn_run(conn, s);
}
