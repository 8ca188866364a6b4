/*
 * Regions: which there are, under which ids, and seeding those that are new.
 *
 * A region that is no longer named leaves only its segment numbers behind (retired_region): peers
 * remember them, so they must go on when it returns. Its cursor and watermarks go: what it holds by
 * then is read again, which merging makes harmless.
 *
 * A new region is seeded in batches beside everything else, and one that comes back after it was out
 * (resync.c) likewise; seed_after tells how far that got. What changes meanwhile gets its rows as
 * ever. Removals are seeded, too, where the bucket was the volume's before this server used it: it may
 * have the paths, and servers that read its log may have heard of nothing else.
 */

#include <errno.h>

#include "cache/internal.h"
#include "cache/object_seen.h"
#include "cache/outbox.h"
#include "cache/region.h"
#include "cache/replication.h"
#include "cache/upload_record.h"

#define SEED_BATCH 100 /* some milliseconds of the writer's lock */

/* ---- regions ---- */

struct region {
	unsigned id;
	char name[REGION_NAME_SIZE];
	uint64_t rows;
	bool whole; /* it has everything that this server knows of */
	bool wanted;
};

static int load_regions(struct conn *conn, struct region list[REGION_MAX], unsigned *count)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT id, name, rows, rows = 0 AND seed_after IS NULL"
					       " AND resync = 0 FROM region ORDER BY id");
	unsigned n = 0;
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		int64_t id = sqlite3_column_int64(s, 0);

		if (n == REGION_MAX || id < 0 || id >= REGION_MAX ||
			!column_copy(s, 1, list[n].name, sizeof(list[n].name))) {
			sqlite3_reset(s);
			return -EIO;
		}
		list[n].id = (unsigned)id;
		list[n].rows = (uint64_t)sqlite3_column_int64(s, 2);
		list[n].whole = sqlite3_column_int(s, 3) != 0;
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
		r = conn_run_int(conn, sql[i], region->id);
	if (!r)
		r = outbox_clear(conn, region->id);
	if (!r)
		r = upload_record_clear(conn, region->id);
	if (!r)
		r = object_seen_clear(conn, region->id);
	return r ? r : conn_run_int(conn, "DELETE FROM region WHERE id = ?1", region->id);
}

/* Content that is not here has to be in a region that stays. Reads all inodes where all content is here. */
static int check_content(
	struct conn *conn, const struct region *list, unsigned count, struct err *err)
{
	const char *goes = NULL;
	bool elsewhere = false;

	for (unsigned i = 0; i < count; i++) {
		if (list[i].wanted && list[i].whole)
			return 0;
		if (!list[i].wanted)
			goes = list[i].name;
	}
	if (!goes)
		return 0;
	int r = conn_exists(conn, conn_statement(conn, "SELECT 1 FROM inode WHERE state = 2 LIMIT 1"),
		&elsewhere);
	if (r)
		return err_errno(err, r, "cannot read the inodes");
	return elsewhere ? err_set(err, -EBUSY,
				   "region \"%s\" is no longer configured, content of files that is "
				   "not in this cache may be nowhere else, and no other region has "
				   "everything\n"
				   "hint: name it again beside the new one until meridian flush --wait "
				   "is through, or give it up with meridian mount --drop-regions",
				   goes)
			 : 0;
}

static int retire_unwanted(
	struct conn *conn, const struct region *list, unsigned count, bool force, struct err *err)
{
	int checked = force ? 0 : check_content(conn, list, count, err);

	if (checked)
		return checked;
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

	bind_text(s, 1, name);
	return conn_number_or(conn, s, -1, ret);
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
		r = add_region(conn, names[i], used, live > 0 || tombstones > 0, &ids[i]);
		if (r)
			err_errno(err, r, "cannot add region \"%s\"", names[i]);
	}
	return r;
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
		r = resync_masks_load(c);
	if (r)
		return err_errno(err, r, "cannot register the regions");
	memcpy(ids, found, count * sizeof(*ids));
	return 0;
}

/* ---- seeding ---- */

struct seeding {
	struct conn *conn;
	unsigned region;
	unsigned count;
	bool resync;
	bool known; /* the bucket was the volume's before */
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

	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r == 1) {
		if (!key_set(ret, column_slice(s, 0)))
			r = -EIO;
		sqlite3_reset(s);
	}
	return r;
}

static int read_mode(struct seeding *seeding)
{
	sqlite3_stmt *s = conn_statement(seeding->conn,
		"UPDATE region SET resync_seen = resync_seen + ?2 WHERE id = ?1"
		" RETURNING resync = 2, resync_from, used = 2");
	int r;

	bind_int(s, 1, seeding->region);
	bind_int(s, 2, SEED_BATCH);
	r = conn_row(seeding->conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	seeding->resync = sqlite3_column_int(s, 0) != 0;
	seeding->from_ms = sqlite3_column_int64(s, 1);
	seeding->known = sqlite3_column_int(s, 2) != 0;
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
	r = read_mode(&seeding);
	if (!r)
		r = entry_scan(conn, slice_of(""), from, !seeding.resync && !seeding.known, SEED_BATCH,
			seed_key, &seeding);
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
	return r || *more ? r : resync_masks_load(c);
}

/* Runs sql, which takes the region, in a transaction of its own. */
static int change(struct cache *c, const char *sql, unsigned region)
{
	struct conn *conn;
	int r = cache_begin(c, &conn);

	if (r)
		return r;
	r = conn_run_int(conn, sql, region);
	if (r) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

int region_seed_again(struct cache *c, unsigned region)
{
	/* Also where a resync that is under way would take only what is younger. */
	int r = change(c,
		"UPDATE region SET seed_after = x'', used = 2, resync_from = 0 WHERE id = ?1", region);

	return r ? r : resync_masks_load(c);
}

/* ---- used ---- */

int region_used(struct conn *conn, unsigned region, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT 1 FROM region WHERE id = ?1 AND used <> 0");

	bind_int(s, 1, region);
	return conn_exists(conn, s, ret);
}

int region_set_used(struct cache *c, unsigned region, bool known)
{
	return change(c,
		known ? "UPDATE region SET used = 2 WHERE id = ?1"
		      : "UPDATE region SET used = 1 WHERE id = ?1",
		region);
}
