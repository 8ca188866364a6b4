/*
 * What a write transaction adds up (tally.h).
 *
 * Directories whose head may have moved stand in a small table; when it is nearly full they are
 * written early, so a transaction may touch any number of them. A head is not carried along but
 * found again from the rows, which is right whatever happened to them: see outbox.c for what it is.
 */
#include "cache/tally.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/outbox_row.h"

#define DIRS 512 /* power of two */
#define DIRS_MAX (DIRS / 4 * 3)
#define COUNTERS (COUNTER_BAD_SEGMENT + 1)

struct tally {
	bool any;
	bool regions_known;
	unsigned regions;
	unsigned region[REGION_MAX];
	struct outbox_totals totals[REGION_MAX];
	struct outbox_totals written[REGION_MAX]; /* in this transaction */
	bool cleared[REGION_MAX];
	struct {
		bool known;
		bool changed;
		uint64_t value;
	} counter[COUNTERS];
	unsigned dirs;
	struct {
		bool used;
		unsigned region;
		uint64_t dir;
	} dir[DIRS];
};

struct tally *tally_new(void)
{
	return calloc(1, sizeof(struct tally));
}

void tally_free(struct tally *t)
{
	free(t);
}

static void clear_dirs(struct tally *t)
{
	if (t->dirs)
		memset(t->dir, 0, sizeof(t->dir));
	t->dirs = 0;
}

void tally_clear(struct tally *t)
{
	if (!t->any)
		return;
	clear_dirs(t);
	memset(t->totals, 0, sizeof(t->totals));
	memset(t->written, 0, sizeof(t->written));
	memset(t->cleared, 0, sizeof(t->cleared));
	memset(t->counter, 0, sizeof(t->counter));
	t->regions_known = false;
	t->any = false;
}

/* ---- counters ---- */

static int read_counter(struct conn *conn, enum counter id, uint64_t *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT value FROM counter WHERE id = ?1");
	int r;

	bind_int(s, 1, id);
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -EIO;
	*ret = (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

int counter_add(struct conn *conn, enum counter id, int64_t delta, uint64_t *ret)
{
	struct tally *t = conn->tally;

	CHECK(conn_writable(conn));
	if (!t->counter[id].known) {
		int r = read_counter(conn, id, &t->counter[id].value);

		if (r)
			return r;
		t->counter[id].known = t->any = true;
	}
	t->counter[id].value += (uint64_t)delta;
	t->counter[id].changed |= delta != 0;
	if (ret)
		*ret = t->counter[id].value;
	return 0;
}

int counter_get(struct conn *conn, enum counter id, uint64_t *ret)
{
	return conn_writable(conn) ? counter_add(conn, id, 0, ret) : read_counter(conn, id, ret);
}

static int write_counters(struct conn *conn)
{
	struct tally *t = conn->tally;
	int r = 0;

	for (int i = 0; !r && i < COUNTERS; i++) {
		sqlite3_stmt *s;

		if (!t->counter[i].changed)
			continue;
		s = conn_statement(conn, "UPDATE counter SET value = ?2 WHERE id = ?1");
		bind_int(s, 1, i);
		bind_int(s, 2, (int64_t)t->counter[i].value);
		r = conn_run(conn, s);
		t->counter[i].changed = r != 0;
	}
	return r;
}

/* ---- regions ---- */

int tally_regions(struct conn *conn, const unsigned **ids, unsigned *count)
{
	struct tally *t = conn->tally;

	CHECK(conn_writable(conn));
	if (!t->regions_known) {
		int r = outbox_region_ids(conn, t->region, &t->regions);

		if (r)
			return r;
		t->regions_known = t->any = true;
	}
	*ids = t->region;
	*count = t->regions;
	return 0;
}

int tally_totals(struct conn *conn, unsigned region, const struct outbox_totals *add)
{
	struct outbox_totals *totals;

	CHECK(conn_writable(conn));
	if (region >= REGION_MAX)
		return -EINVAL;
	totals = &conn->tally->totals[region];
	totals->rows += add->rows;
	totals->bytes += add->bytes;
	totals->parked += add->parked;
	totals->unannounced += add->unannounced;
	conn->tally->any = true;
	return 0;
}

static int write_totals(struct conn *conn, unsigned region)
{
	struct outbox_totals *t = &conn->tally->totals[region];
	sqlite3_stmt *s;
	int r;

	if (!t->rows && !t->bytes && !t->parked && !t->unannounced)
		return 0;
	s = conn_statement(conn,
		"UPDATE region SET rows = rows + ?2, bytes = bytes + ?3,"
		" parked = parked + ?4, unannounced = unannounced + ?5 WHERE id = ?1");
	bind_int(s, 1, region);
	bind_int(s, 2, t->rows);
	bind_int(s, 3, t->bytes);
	bind_int(s, 4, t->parked);
	bind_int(s, 5, t->unannounced);
	r = conn_run(conn, s);
	if (!r) {
		struct outbox_totals *w = &conn->tally->written[region];

		w->rows += t->rows;
		w->bytes += t->bytes;
		*t = (struct outbox_totals){0};
	}
	return r;
}

bool tally_written(struct conn *conn, unsigned region, struct outbox_totals *ret, bool *cleared)
{
	const struct tally *t = conn->tally;

	*ret = t->written[region];
	*cleared = t->cleared[region];
	return t->any && (*cleared || ret->rows || ret->bytes);
}

/* ---- heads ---- */

/* One number of a statement with (region, dir); INT64_MAX for NULL or no row. */
static int dir_number(
	struct conn *conn, sqlite3_stmt *s, unsigned region, uint64_t dir, int64_t *ret)
{
	int r;

	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)dir);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = INT64_MAX;
	if (r) {
		if (sqlite3_column_type(s, 0) == SQLITE_INTEGER)
			*ret = sqlite3_column_int64(s, 0);
		sqlite3_reset(s);
	}
	return 0;
}

int outbox_dir_barrier(struct conn *conn, unsigned region, uint64_t dir, int64_t *ret)
{
	return dir_number(conn,
		conn_statement(conn, "SELECT min(first) FROM outbox INDEXED BY outbox_held"
				     " WHERE region = ?1 AND dir = ?2 AND state IN (1, 5, 6)"),
		region, dir, ret);
}

static int set_head(struct conn *conn, unsigned region, uint64_t dir, int64_t head)
{
	sqlite3_stmt *s;

	if (head == INT64_MAX)
		s = conn_statement(conn, "DELETE FROM outbox_head WHERE region = ?1 AND dir = ?2");
	else
		s = conn_statement(conn,
			"INSERT INTO outbox_head(region, dir, head) VALUES(?1, ?2, ?3)"
			" ON CONFLICT(region, dir) DO UPDATE SET head = ?3");
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)dir);
	if (head != INT64_MAX)
		bind_int(s, 3, head);
	return conn_run(conn, s);
}

static int refresh_head(struct conn *conn, unsigned region, uint64_t dir)
{
	int64_t old = INT64_MAX, head = INT64_MAX, limit = 0;
	int r = dir_number(conn,
		conn_statement(conn, "SELECT head FROM outbox_head WHERE region = ?1 AND dir = ?2"),
		region, dir, &old);

	if (!r)
		r = dir_number(conn,
			conn_statement(conn, "SELECT min(last) FROM outbox INDEXED BY outbox_ready"
					     " WHERE region = ?1 AND dir = ?2 AND state = 2"),
			region, dir, &head);
	if (!r && head != INT64_MAX)
		r = outbox_dir_limit(conn, region, dir, NULL, &limit);
	if (r)
		return r;
	if (head >= limit)
		head = INT64_MAX;
	return head == old ? 0 : set_head(conn, region, dir, head);
}

static int write_heads(struct conn *conn)
{
	struct tally *t = conn->tally;
	int r = 0;

	for (unsigned i = 0; !r && t->dirs && i < DIRS; i++) {
		if (t->dir[i].used)
			r = refresh_head(conn, t->dir[i].region, t->dir[i].dir);
	}
	if (!r)
		clear_dirs(t);
	return r;
}

int tally_dir(struct conn *conn, unsigned region, uint64_t dir)
{
	struct tally *t = conn->tally;
	size_t at = (size_t)((dir + region) * UINT64_C(0x9e3779b97f4a7c15) >> 32) % DIRS;

	CHECK(conn_writable(conn));
	for (; t->dir[at].used; at = (at + 1) % DIRS) {
		if (t->dir[at].region == region && t->dir[at].dir == dir)
			return 0;
	}
	t->dir[at].used = t->any = true;
	t->dir[at].region = region;
	t->dir[at].dir = dir;
	return ++t->dirs < DIRS_MAX ? 0 : write_heads(conn);
}

void tally_forget(struct conn *conn, unsigned region)
{
	if (region < REGION_MAX) {
		conn->tally->totals[region] = (struct outbox_totals){0};
		conn->tally->written[region] = (struct outbox_totals){0};
		conn->tally->cleared[region] = conn->tally->any = true;
	}
	/* Of its directories there are no rows: their heads go when they are written. */
	conn->tally->regions_known = false;
}

int tally_flush(struct conn *conn)
{
	struct tally *t = conn->tally;
	int r;

	if (!t || !t->any)
		return 0;
	r = write_heads(conn);
	for (unsigned i = 0; !r && i < REGION_MAX; i++)
		r = write_totals(conn, i);
	return r ? r : write_counters(conn);
}
