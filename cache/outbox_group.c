/*
 * The group of segments that a region's announcer has open: for each directory that the group tore the
 * greatest change of it that is out; and for each directory that has the present name of a former one that
 * is out, what must follow there. Kept, so that after a crash the segments that follow go on with the
 * group: peers must not see of a directory what is out before the older changes that are not.
 *
 * Bounded by what is open: a group takes in at most the directories of its segments.
 */
#include "cache/outbox_row.h"

static int add(struct conn *conn, unsigned region, struct slice key, uint64_t last)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO announce_group(region, dir, last) VALUES(?1, ?2, ?3)"
		" ON CONFLICT(region, dir) DO UPDATE SET last = max(last, excluded.last)");

	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)outbox_dir_hash(key));
	bind_int(s, 3, (int64_t)last);
	return conn_run(conn, s);
}

int outbox_group_add(struct conn *conn, unsigned region, const struct outbox_row *row)
{
	uint64_t last = 0;
	int r = add(conn, region, key_slice(&row->key), row->last);

	if (!r)
		r = outbox_moved_last(conn, region, row, &last);
	/* That one, too, and what is older than it in its directory. */
	return r == 1 ? add(conn, region, key_slice(&row->moved_to), last + 1) : r;
}

int outbox_group_close(struct conn *conn, unsigned region)
{
	return conn_run_int(conn, "DELETE FROM announce_group WHERE region = ?1", region);
}

int outbox_group_open(struct conn *conn, unsigned region, bool *ret)
{
	uint64_t dir, last;
	int r = outbox_group_next(conn, region, NULL, &dir, &last);

	if (r < 0)
		return r;
	*ret = r == 1;
	return 0;
}

int outbox_group_next(
	struct conn *conn, unsigned region, const uint64_t *after, uint64_t *dir, uint64_t *last)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT dir, last FROM announce_group"
					       " WHERE region = ?1 AND dir > ?2"
					       " ORDER BY dir LIMIT 1");
	sqlite3_stmt *first = conn_statement(conn, "SELECT dir, last FROM announce_group"
						   " WHERE region = ?1 ORDER BY dir LIMIT 1");

	if (!s || !first)
		return conn_error(conn);
	if (!after)
		s = first;
	bind_int(s, 1, region);
	if (after)
		bind_int(s, 2, (int64_t)*after);
	int r = conn_row(conn, s);
	if (r == 1) {
		*dir = (uint64_t)sqlite3_column_int64(s, 0);
		*last = (uint64_t)sqlite3_column_int64(s, 1);
		sqlite3_reset(s);
	}
	return r;
}
