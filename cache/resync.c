/*
 * The states of optional regions (resync.h), as the region table has them:
 *
 *   optional     as configured
 *   resync       enum resync_state
 *   resync_from  ms: no change that it lacks has an older stamp. Lowered by each row that is dropped, and while it
 *                is OUT by each change that is not enqueued for it
 *   resync_seen  entries that were looked at; seed_after says up to where (region.c enqueues them)
 *
 * What other calls need at every turn is kept in masks of the cache, which follow the table (resync_masks). A bit of
 * `out` is set before the commit and cleared after it: who finds it set for nothing only does too much.
 */
#include "cache/resync.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/outbox.h"
#include "cache/region.h"
#include "cache/replication.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define DROP_BATCH 200 /* some milliseconds of the writer's lock */

int resync_get(struct conn *conn, unsigned region, struct resync_status *ret)
{
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT optional, resync, resync_seen FROM region WHERE id = ?1");
	int r;

	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = (struct resync_status){0};
	if (r) {
		ret->optional = sqlite3_column_int(s, 0) != 0;
		ret->state = (enum resync_state)sqlite3_column_int(s, 1);
		ret->seen = (uint64_t)sqlite3_column_int64(s, 2);
		sqlite3_reset(s);
	}
	return 0;
}

int resync_masks(struct conn *conn)
{
	struct cache *c = conn->cache;
	uint64_t optional = 0, out = 0, skip = 0;
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT id, optional, resync, seed_after IS NOT NULL FROM region LIMIT 8");
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		uint64_t bit = (uint64_t)1 << (sqlite3_column_int(s, 0) & 63);

		if (sqlite3_column_int(s, 1))
			optional |= bit;
		if (sqlite3_column_int(s, 2) == RESYNC_OUT)
			out |= bit;
		if (sqlite3_column_int(s, 1) || sqlite3_column_int(s, 2) ||
			sqlite3_column_int(s, 3))
			skip |= bit;
	}
	if (r)
		return r;
	atomic_store(&c->optional, optional);
	atomic_store(&c->out, out);
	atomic_store(&c->owed_skip, skip);
	return 0;
}

int resync_masks_load(struct cache *c)
{
	struct conn *conn;
	int r = conn_take(c, &conn);

	if (r)
		return r;
	r = resync_masks(conn);
	conn_give(conn);
	return r;
}

uint64_t regions_optional(struct cache *c)
{
	return atomic_load(&c->optional);
}

bool region_is_out(struct cache *c, unsigned region)
{
	return atomic_load(&c->out) >> region & 1;
}

int resync_note(struct conn *conn, uint64_t ms)
{
	sqlite3_stmt *s;

	if (!atomic_load(&conn->cache->out))
		return 0;
	s = conn_statement(conn, "UPDATE region SET resync_from = ?1"
				 " WHERE resync = 1 AND resync_from > ?1");
	bind_int(s, 1, (int64_t)ms);
	return conn_run(conn, s);
}

/* Runs sql, which takes the region and a number, in a transaction of its own. */
static int change(struct cache *c, const char *sql, unsigned region, int64_t number)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	sqlite3_stmt *s;
	int r = cache_begin(c, &conn);

	if (r)
		return r;
	s = conn_statement(conn, sql);
	bind_int(s, 1, region);
	bind_int(s, 2, number);
	r = conn_run(conn, s);
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	return r;
}

/* The masks follow the table, whether or not it was changed. */
static int change_and_follow(struct cache *c, const char *sql, unsigned region, int64_t number)
{
	int r = change(c, sql, region, number), followed = resync_masks_load(c);

	return r ? r : followed;
}

int region_set_optional(struct cache *c, unsigned region, bool optional)
{
	return change_and_follow(
		c, "UPDATE region SET optional = ?2 WHERE id = ?1", region, optional);
}

/* ---- steps ---- */

static int is_over(struct conn *conn, unsigned region, const struct resync_bound *bound, bool *ret)
{
	struct outbox_stats stats;
	int r = outbox_stats(conn, region, &stats);

	*ret = !r && (stats.rows > bound->rows ||
			     (stats.oldest_ms &&
				     hlc_wall_ms(&conn->cache->clock) - (int64_t)stats.oldest_ms >
					     bound->age_ms));
	return r;
}

/* A region that is given up while a resync runs keeps what it lacked before. */
static int give_up(struct cache *c, unsigned region, enum resync_state from)
{
	atomic_fetch_or(&c->out, (uint64_t)1 << region);
	log_warn("an optional region is given up until it answers, then what it missed is computed "
		 "region_id=%u",
		region);
	return change_and_follow(c,
		from == RESYNC_NONE ? "UPDATE region SET resync = 1, seed_after = NULL,"
				      " resync_from = iif(seed_after IS NULL, ?2, 0) WHERE id = ?1"
				    : "UPDATE region SET resync = 1, seed_after = NULL,"
				      " resync_from = min(resync_from, ?2) WHERE id = ?1",
		region, INT64_MAX);
}

static int drop_rows(struct cache *c, unsigned region, unsigned *count)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	uint64_t oldest_ms = INT64_MAX;
	int r = cache_begin_lazy(c, &conn);

	if (!r)
		r = outbox_drop_some(conn, region, DROP_BATCH, count, &oldest_ms);
	if (!r && *count)
		r = resync_note(conn, oldest_ms);
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	return r;
}

static int step_out(struct cache *c, unsigned region, bool up, bool *more)
{
	unsigned count = 0;
	int r = drop_rows(c, region, &count);

	*more = !r && (count > 0 || up);
	if (r || count || !up)
		return r;
	log_info("an optional region answers again, what it missed is computed region_id=%u",
		region);
	return change_and_follow(c,
		"UPDATE region SET resync = ?2, seed_after = x'', resync_seen = 0 WHERE id = ?1",
		region, RESYNC_RUNNING);
}

static int step_running(struct cache *c, struct conn *conn, unsigned region,
	const struct resync_bound *bound, bool up, bool *is_out, bool *over)
{
	struct outbox_stats stats;
	bool seeding = false, full = false;
	int r = region_seeding(conn, region, &seeding);

	*is_out = *over = false;
	if (!r)
		r = outbox_stats(conn, region, &stats);
	if (!r && !up)
		r = is_over(conn, region, bound, &full);
	if (r)
		return r;
	*is_out = full;
	*over = !seeding && stats.rows == 0;
	return 0;
}

int resync_step(
	struct cache *c, unsigned region, const struct resync_bound *bound, bool up, bool *more)
{
	struct resync_status status = {0};
	struct conn *conn AUTO_READ_END = NULL;
	bool out = false, over = false;
	int r;

	*more = false;
	r = cache_read_begin(c, &conn);
	if (!r)
		r = resync_get(conn, region, &status);
	if (!r && status.state == RESYNC_NONE && status.optional && !up)
		r = is_over(conn, region, bound, &out);
	else if (!r && status.state == RESYNC_RUNNING)
		r = step_running(c, conn, region, bound, up || !status.optional, &out, &over);
	if (r)
		return r;
	cache_read_end(conn);
	conn = NULL;
	if (status.state == RESYNC_OUT)
		return step_out(c, region, up, more);
	if (out) {
		*more = true;
		return give_up(c, region, status.state);
	}
	if (over) {
		log_info("an optional region has what it missed region_id=%u", region);
		metric_add(METRIC_RESYNCS, 1);
		return change_and_follow(
			c, "UPDATE region SET resync = ?2 WHERE id = ?1", region, RESYNC_NONE);
	}
	return 0;
}
