/*
 * The figures of pressure.h. The journal's rows are counted by journal_append and journal_remove, the outbox's
 * totals by the tally; both become visible with the commit (pressure_publish). What is written to an open file and
 * not sealed is counted in its record, never more than the file's size: a version is a whole file.
 *
 * Not counted: a file between its last close and its seal, a fraction of a second on a machine that keeps up, and
 * what the kernel writes past the daemon between two looks at it (half a second).
 */
#include "cache/pressure.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/record.h"
#include "cache/region.h"
#include "cache/tally.h"
#include "src/base/metrics.h"

int pressure_load(struct cache *c, struct conn *conn)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT count(*) FROM journal");
	int r = s ? conn_row(conn, s) : conn_error(conn);

	if (r <= 0)
		return r ? r : -EIO;
	atomic_store(&c->journal_rows, sqlite3_column_int64(s, 0));
	sqlite3_reset(s);
	return pressure_reload(conn);
}

int pressure_reload(struct conn *conn)
{
	struct cache *c = conn->cache;
	sqlite3_stmt *s = conn_statement(conn, "SELECT id, rows, bytes FROM region LIMIT 8");
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		int64_t id = sqlite3_column_int64(s, 0);

		if (id < 0 || id >= REGION_MAX)
			continue;
		atomic_store(&c->owed[id].rows, sqlite3_column_int64(s, 1));
		atomic_store(&c->owed[id].bytes, sqlite3_column_int64(s, 2));
	}
	return r ? r : resync_masks(conn);
}

void pressure_publish(struct conn *conn)
{
	struct cache *c = conn->cache;

	if (conn->journal_added)
		atomic_fetch_add(&c->journal_rows, conn->journal_added);
	for (unsigned i = 0; i < REGION_MAX; i++) {
		struct outbox_totals totals;
		bool cleared;

		if (!tally_written(conn, i, &totals, &cleared))
			continue;
		if (cleared) {
			atomic_store(&c->owed[i].rows, 0);
			atomic_store(&c->owed[i].bytes, 0);
		}
		atomic_fetch_add(&c->owed[i].rows, totals.rows);
		atomic_fetch_add(&c->owed[i].bytes, totals.bytes);
	}
}

void pressure_unsealed(struct cache *c, struct record *rec, uint64_t bytes)
{
	uint64_t before = atomic_exchange(&rec->unsealed, bytes);

	if (before != bytes)
		atomic_fetch_add(&c->unsealed, (int64_t)(bytes - before));
}

void pressure_wrote(struct cache *c, struct record *rec, uint64_t bytes, uint64_t size)
{
	uint64_t before = atomic_load(&rec->unsealed);

	pressure_unsealed(c, rec, before + bytes < size ? before + bytes : size);
}

/* ---- reading ---- */

static uint64_t share(uint64_t amount, uint64_t limit)
{
	if (limit == 0)
		return 0;
	return amount < limit * 4 ? amount * 1000 / limit : 4000;
}

void cache_pressure(struct cache *c, struct cache_pressure *ret)
{
	struct cache_pressure p = {.max_dirty = c->max_dirty, .max_backlog = c->max_backlog};
	int64_t rows = atomic_load(&c->journal_rows), most = 0,
		unsealed = atomic_load(&c->unsealed);
	uint64_t skipped = atomic_load(&c->owed_skip), bytes, backlog;

	for (unsigned i = 0; i < REGION_MAX; i++) {
		int64_t owed = atomic_load(&c->owed[i].bytes);

		if (skipped >> i & 1)
			continue;
		rows += atomic_load(&c->owed[i].rows);
		most = owed > most ? owed : most;
	}
	/* Each is right at a commit; together they may be read in between. */
	p.backlog_rows = rows > 0 ? (uint64_t)rows : 0;
	p.dirty_bytes = (uint64_t)most + (unsealed > 0 ? (uint64_t)unsealed : 0);
	bytes = share(p.dirty_bytes, p.max_dirty);
	backlog = share(p.backlog_rows, p.max_backlog);
	p.permille = (unsigned)(bytes > backlog ? bytes : backlog);
	*ret = p;
}

int64_t pressure_delay_ms(struct cache *c)
{
	struct cache_pressure p;

	if (!c->max_dirty && !c->max_backlog)
		return 0;
	cache_pressure(c, &p);
	if (p.permille <= PRESSURE_BEGIN)
		return 0;
	if (p.permille >= 1000)
		return PRESSURE_DELAY_MS;
	return (int64_t)(p.permille - PRESSURE_BEGIN) * PRESSURE_DELAY_MS / (1000 - PRESSURE_BEGIN);
}

int content_check_new(struct cache *c, uint64_t bytes)
{
	struct cache_pressure p;

	if (c->max_dirty || c->max_backlog) {
		cache_pressure(c, &p);
		if (p.permille >= 1000) {
			metric_add(METRIC_WRITES_REFUSED, 1);
			return -ENOSPC;
		}
	}
	return content_check_reserve(c, bytes);
}
