/*
 * How far replication got with each region: the last segment sent, the newest one seen, what is merged
 * of each server, and the segments that were skipped because they are damaged, of which the last
 * BAD_SEGMENT_MAX are named and all are counted.
 */
#include "cache/progress.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/replication.h"
#include "src/base/clock.h"

#define BAD_SEGMENT_MAX 1000

/* ---- sending ---- */

int region_progress_get(struct conn *conn, unsigned region, struct region_progress *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT sent_seq, sent_name, pending_name FROM region"
				     " WHERE id = ?1");
	struct region_progress p = {0};
	int r;

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
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)node);
	bind_int(s, 3, (int64_t)seq);
	bind_text(s, 4, name);
	return conn_run(conn, s);
}

static int prune_bad_segments(struct conn *conn)
{
	return conn_run_int(conn,
		"DELETE FROM bad_segment WHERE (region, name) IN (SELECT region, name FROM bad_segment"
		" ORDER BY at_ms DESC, region, name LIMIT -1 OFFSET ?1)",
		BAD_SEGMENT_MAX);
}

int bad_segment_add(struct conn *conn, unsigned region, const char *name, const char *reason)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT INTO bad_segment(region, name, reason, at_ms)"
				     " VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING RETURNING 1");
	int r;

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
