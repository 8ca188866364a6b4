/*
 * The outbox, reading side: what may go into the next segment, whether a cut is closed, one row,
 * what is due. The order that makes this cheap is explained, and kept, in outbox.c.
 */
#include "cache/outbox_row.h"

#include <errno.h>
#include <stdlib.h>

#include "cache/tally.h"

/* ---- what may go ---- */

/* Appends the statement's rows; resets it. */
static int take_rows(
	struct conn *conn, sqlite3_stmt *s, struct outbox_row *rows, unsigned max, unsigned *count)
{
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		int bad = *count < max ? outbox_row_export(s, &rows[*count]) : 0;

		if (bad || *count == max) {
			sqlite3_reset(s);
			return bad;
		}
		(*count)++;
	}
	return r;
}

/* The directory whose head follows *head (no two have the same): 1, 0 or -errno. */
static int next_head(struct conn *conn, unsigned region, int64_t *head, uint64_t *dir)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT head, dir FROM outbox_head INDEXED BY outbox_head_order"
		" WHERE region = ?1 AND head > ?2 ORDER BY head LIMIT 1");
	int r;

	bind_int(s, 1, region);
	bind_int(s, 2, *head);
	r = conn_row(conn, s);
	if (r == 1) {
		*head = sqlite3_column_int64(s, 0);
		*dir = (uint64_t)sqlite3_column_int64(s, 1);
		sqlite3_reset(s);
	}
	return r;
}

static int ready_of_dir(struct conn *conn, unsigned region, uint64_t dir,
	const struct outbox_holds *holds, struct outbox_row *rows, unsigned max, unsigned *count,
	bool *more)
{
	unsigned before = *count;
	sqlite3_stmt *s;
	int64_t limit;
	int r = outbox_dir_limit(conn, region, dir, holds, &limit);

	if (r)
		return r;
	s = conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_ready"
				 " WHERE region = ?1 AND dir = ?2 AND state = 2 AND last < ?3"
				 " ORDER BY last LIMIT ?4");
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)dir);
	bind_int(s, 3, limit);
	bind_int(s, 4, (int64_t)(max - before) + 1);
	while ((r = conn_row(conn, s)) == 1) {
		if (*count == max) {
			*more = true;
			if (before && (int64_t)rows[max - 1].last > sqlite3_column_int64(s, 4))
				*count = before; /* in one piece the next time */
			sqlite3_reset(s);
			return 0;
		}
		r = outbox_row_export(s, &rows[*count]);
		if (r) {
			sqlite3_reset(s);
			return r;
		}
		(*count)++;
	}
	return r;
}

static int by_first(const void *a, const void *b)
{
	const struct outbox_row *x = a, *y = b;

	return (x->first > y->first) - (x->first < y->first);
}

int outbox_announceable(struct conn *conn, unsigned region, unsigned max,
	const struct outbox_holds *holds, struct outbox_row *rows, unsigned *count, bool *more)
{
	int64_t head = -1;
	uint64_t dir = 0;
	unsigned n = 0;
	bool further = false;
	int r = conn_writable(conn) ? tally_flush(conn) : 0;

	if (r)
		return r;
	while ((r = next_head(conn, region, &head, &dir)) == 1) {
		if (n == max)
			further = true;
		else
			r = ready_of_dir(conn, region, dir, holds, rows, max, &n, &further);
		if (r < 0 || further)
			break;
	}
	if (r < 0)
		return r;
	qsort(rows, n, sizeof(*rows), by_first);
	*count = n;
	*more = further;
	return 0;
}

/* ---- closed cuts ---- */

struct member {
	uint64_t dir;
	const struct outbox_row *row;
};

static int member_cmp(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	const struct key *p = &x->row->key, *q = &y->row->key;
	int r;

	if (x->dir != y->dir)
		return x->dir < y->dir ? -1 : 1;
	r = memcmp(p->p, q->p, p->len < q->len ? p->len : q->len);
	return r ? r : (p->len > q->len) - (p->len < q->len);
}

/* Whether each row that the statement (region, directory, last) finds is a member. */
static int older_are_members(struct conn *conn, sqlite3_stmt *s, unsigned region, uint64_t dir,
	uint64_t last, const struct member *members, size_t n, bool *ret)
{
	struct outbox_row *probe;
	struct member wanted;
	int r;

	if (!s)
		return conn_error(conn);
	probe = malloc(sizeof(*probe));
	if (!probe)
		return -ENOMEM;
	wanted = (struct member){dir, probe};
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)dir);
	bind_int(s, 3, (int64_t)last);
	while ((r = conn_row(conn, s)) == 1) {
		if (!key_set(&probe->key, column_slice(s, 0)))
			r = -EIO;
		else if (!n || !bsearch(&wanted, members, n, sizeof(*members), member_cmp))
			*ret = false;
		if (r < 0 || !*ret) {
			sqlite3_reset(s);
			break;
		}
	}
	free(probe);
	return r < 0 ? r : 0;
}

/* Rows that are neither announced nor members and have a first below last: held ones, ready ones
 * that are older altogether, and ready ones that span it. */
static int dir_closed(struct conn *conn, unsigned region, uint64_t dir, uint64_t last,
	const struct member *members, size_t n, bool *ret)
{
	static const char *const sql[] = {
		"SELECT key FROM outbox INDEXED BY outbox_held"
		" WHERE region = ?1 AND dir = ?2 AND first < ?3 AND state IN (1, 5, 6)",
		"SELECT key FROM outbox INDEXED BY outbox_ready"
		" WHERE region = ?1 AND dir = ?2 AND last < ?3 AND state = 2",
		"SELECT key FROM outbox INDEXED BY outbox_span"
		" WHERE region = ?1 AND dir = ?2 AND first < ?3 AND state = 2 AND first < last",
	};
	int r = 0;

	for (size_t i = 0; !r && *ret && i < ARRAY_SIZE(sql); i++)
		r = older_are_members(conn, conn_statement(conn, sql[i]), region, dir, last,
			members, n, ret);
	return r;
}

/* The members of one directory, which are in order of directory. */
static const struct member *of_dir(
	const struct member *members, size_t count, uint64_t dir, size_t *n)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (members[middle].dir < dir)
			low = middle + 1;
		else
			high = middle;
	}
	for (high = low; high < count && members[high].dir == dir; high++)
		;
	*n = high - low;
	return members + low;
}

/* The directories of the open group. */
static int group_closed(struct conn *conn, unsigned region, const struct member *members,
	size_t count, bool *ret)
{
	uint64_t dir = 0, last = 0;
	bool first = true;
	int r;

	while (*ret && (r = outbox_group_next(conn, region, first ? NULL : &dir, &dir, &last)) != 0) {
		size_t n = 0;
		const struct member *own;

		if (r < 0)
			return r;
		first = false;
		own = of_dir(members, count, dir, &n);
		r = dir_closed(conn, region, dir, last, own, n, ret);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Whether the present names of former ones are told of by then. */
static int moved_closed(struct conn *conn, unsigned region, const struct outbox_row *rows,
	unsigned n, const struct member *members, bool *ret)
{
	AUTO_FREE struct outbox_row *probe = malloc(sizeof(*probe));
	int r = 0;

	if (!probe)
		return -ENOMEM;
	for (unsigned i = 0; r >= 0 && *ret && i < n; i++) {
		struct member wanted = {outbox_dir_hash(key_slice(&rows[i].moved_to)), probe};
		uint64_t last;

		if (!rows[i].moved_to.len)
			continue;
		probe->key = rows[i].moved_to;
		if (bsearch(&wanted, members, n, sizeof(*members), member_cmp))
			continue;
		r = outbox_moved_last(conn, region, &rows[i], &last);
		*ret = r != 1;
	}
	return r < 0 ? r : 0;
}

int outbox_cut_closed(
	struct conn *conn, unsigned region, const struct outbox_row *rows, unsigned n, bool *ret)
{
	AUTO_FREE struct member *members = calloc(n ? n : 1, sizeof(*members));
	bool closed = true;
	int r = 0;

	if (!members)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		members[i] = (struct member){outbox_dir_hash(key_slice(&rows[i].key)), &rows[i]};
	qsort(members, n, sizeof(*members), member_cmp);
	for (unsigned i = 0, end; !r && closed && i < n; i = end) {
		uint64_t last = 0;

		for (end = i; end < n && members[end].dir == members[i].dir; end++) {
			if (members[end].row->last > last)
				last = members[end].row->last;
		}
		r = dir_closed(conn, region, members[i].dir, last, members + i, end - i, &closed);
	}
	if (!r && closed)
		r = moved_closed(conn, region, rows, n, members, &closed);
	if (!r && closed)
		r = group_closed(conn, region, members, n, &closed);
	if (!r)
		*ret = closed;
	return r;
}

/* ---- one row ---- */

int outbox_get(struct conn *conn, unsigned region, struct slice key, struct outbox_row *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox"
					       " WHERE region = ?1 AND key = ?2");
	int r;

	bind_int(s, 1, region);
	bind_slice(s, 2, key);
	r = conn_row(conn, s);
	if (r != 1)
		return r < 0 ? r : -ENOENT;
	r = outbox_row_export(s, ret);
	sqlite3_reset(s);
	return r;
}

/* ---- what is due ---- */

int outbox_due(struct conn *conn, unsigned region, enum outbox_state state, int64_t now_ms,
	uint64_t after_first, unsigned max, struct outbox_row *rows, unsigned *count)
{
	unsigned n = 0;
	sqlite3_stmt *s;
	int r;

	if (state == OUTBOX_PARKED)
		s = conn_statement(conn,
			"SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_parked"
			" WHERE region = ?1 AND state > 4 AND first > ?2"
			" ORDER BY first LIMIT ?3");
	else
		s = conn_statement(conn,
			"SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_order"
			" WHERE region = ?1 AND state = ?4 AND first > ?2"
			" AND next_at_ms <= ?5 ORDER BY first LIMIT ?3");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, after_first > INT64_MAX ? INT64_MAX : (int64_t)after_first);
	bind_int(s, 3, max);
	if (state != OUTBOX_PARKED) {
		bind_int(s, 4, (int)state);
		bind_int(s, 5, now_ms);
	}
	r = take_rows(conn, s, rows, max, &n);
	if (!r)
		*count = n;
	return r;
}

static int64_t bounded(uint64_t n)
{
	return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}

int outbox_due_uploads(struct conn *conn, unsigned region, int64_t now_ms,
	const struct outbox_upload_page *page, unsigned max, struct outbox_row *rows,
	unsigned *count)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT " ROW_COLUMNS " FROM outbox INDEXED BY outbox_size"
				     " WHERE region = ?1 AND state = 1 AND (size, first) > (?2, ?3)"
				     " AND size <= ?4 AND next_at_ms <= ?5"
				     " ORDER BY size, first LIMIT ?6");
	unsigned n = 0;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, bounded(page->after_size));
	bind_int(s, 3, bounded(page->after_first));
	bind_int(s, 4, bounded(page->max_size));
	bind_int(s, 5, now_ms);
	bind_int(s, 6, max);
	int r = take_rows(conn, s, rows, max, &n);
	if (r == 0)
		*count = n;
	return r;
}

int outbox_newest(struct conn *conn, unsigned region, enum outbox_state state, uint64_t *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT first FROM outbox INDEXED BY outbox_order"
				     " WHERE region = ?1 AND state = ?2 ORDER BY first DESC LIMIT 1");

	bind_int(s, 1, region);
	bind_int(s, 2, (int)state);
	int r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = r ? (uint64_t)sqlite3_column_int64(s, 0) : 0;
	if (r)
		sqlite3_reset(s);
	return 0;
}

int outbox_replaces(struct conn *conn, struct slice key, bool *ret)
{
	unsigned ids[REGION_MAX], count = 0;
	bool replaces = false;
	int r = outbox_region_ids(conn, ids, &count);

	for (unsigned i = 0; !r && !replaces && i < count; i++) {
		sqlite3_stmt *s =
			conn_statement(conn, "SELECT fresh FROM outbox WHERE region = ?1 AND key = ?2");

		bind_int(s, 1, ids[i]);
		bind_slice(s, 2, key);
		r = conn_row(conn, s);
		if (r == 1) {
			replaces = sqlite3_column_int(s, 0) == 0;
			sqlite3_reset(s);
			r = 0;
		}
	}
	if (!r)
		*ret = replaces;
	return r;
}
