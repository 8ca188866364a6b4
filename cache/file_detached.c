/*
 * The end of an open whose inode lost its name.
 *
 * Such an inode is deleted with its last open, unless a conflict keeps it. Where a remote change took
 * the name of a file that was being written, what was written since its last seal, before or after that,
 * is a version that lost: it is sealed and becomes a conflict under the key that it had. Of a file that
 * was closed by then and not sealed yet, and after a failure, file_settle_displaced does that. The row
 * keeps that key until then (inode_detach), so that after a crash the next cache_open does the same with
 * it (recover.c).
 *
 * No lock: the one who ends the last open is alone with the inode but for file_settle_displaced, and the first
 * of the two to commit clears the key.
 */
#include "cache/open_file.h"

#include <errno.h>

#include "cache/conflict.h"
#include "cache/entry.h"
#include "src/base/clock.h"
#include "src/base/metrics.h"

#define RETRY_MS 10000

/* A detached inode is done with the key that inode_detach left in its row. */
int file_clear_displaced(struct conn *conn, uint64_t ino)
{
	return conn_run_int(conn,
		"UPDATE inode SET name = x'' WHERE ino = ?1"
		" AND nlink = 0 AND name <> x''",
		(int64_t)ino);
}

/* A conflict that has the inode keeps what was there before, and that is no more. */
static int leave_conflicts(struct conn *conn, uint64_t ino)
{
	return conn_run_int(conn,
		"UPDATE conflict SET ino = 0 WHERE ino = ?1 AND ino <> 0 AND reason <> 'hidden'",
		(int64_t)ino);
}

/* What a writer wrote and a remote change has taken the name of is a version that lost. */
int file_add_conflict(struct conn *conn, const struct inode_row *row, struct slice key,
	const struct content_version *v, const char *reason)
{
	struct entry winner CLEANUP(entry_done) = {0};
	struct entry loser CLEANUP(entry_done) = {0};
	struct stamp stamp = {.node = conn->cache->node};
	int r;

	r = entry_get(conn, key, &winner);
	if (r && r != -ENOENT)
		return r;
	r = conn_stamp_time(conn, &stamp.time);
	if (r)
		return r;
	loser.kind = KIND_FILE;
	loser.size = v->size;
	memcpy(loser.hash, v->hash, SHA256_SIZE);
	loser.content_mtime_ns = v->mtime_ns;
	loser.content_stamp = loser.attr_stamp = stamp;
	loser.mode = row->mode & 07777;
	loser.uid = row->uid;
	loser.gid = row->gid;
	r = inode_get_xattrs(conn, row->ino, &loser.xattrs);
	if (r)
		return r;
	vector_raise(&loser.vector, stamp);
	r = leave_conflicts(conn, row->ino);
	if (!r)
		r = conflict_add(conn, key, &loser, &winner, row->ino, reason);
	return r ? r : file_clear_displaced(conn, row->ino);
}

static int has_conflict(struct conn *conn, uint64_t ino, bool *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT 1 FROM conflict WHERE ino = ?1 AND ino <> 0 LIMIT 1");

	bind_int(s, 1, (int64_t)ino);
	return conn_exists(conn, s, ret);
}

/* Nobody has the detached inode open any more: it goes, unless a conflict keeps it. displaced: its content is to
 * be one. */
static int finish_detached(struct cache *c, uint64_t ino, bool displaced)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct content_version v = {0};
	struct inode_row row;
	struct key key = {0};
	bool kept = false, listed;
	int r;

	if (displaced) {
		r = content_seal(c, ino, 0, NULL, &v);
		if (r) /* what is missing cannot be listed; the next cache_open says so, too */
			return r == -ENOENT || r == -ENODATA ? 0 : r;
		content_drop_snapshots(c, ino, NULL, NULL);
	}
	r = cache_begin(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r || row.nlink)
		return r == -ENOENT ? 0 : r;
	r = has_conflict(conn, ino, &kept);
	if (!r)
		r = inode_name(conn, ino, &key);
	if (!r && key.len && !displaced && file_is_unsealed(c, &row)) {
		/* That open came to nothing, and what was there before it is not sealed. */
		atomic_store(&c->displaced_due_ms, 1);
		return 0;
	}
	listed = displaced && key.len;
	/* Written over with the same: what keeps it lists it. */
	if (!r && listed && kept && row.has_hash && memcmp(row.hash, v.hash, SHA256_SIZE) == 0) {
		listed = false;
		r = content_sealed(conn, &v);
	}
	if (!r && listed) {
		r = file_add_conflict(conn, &row, key_slice(&key), &v, CONFLICT_DISPLACED);
		if (!r)
			r = content_sealed(conn, &v);
	} else if (!r) {
		r = kept ? file_clear_displaced(conn, ino) : inode_delete(conn, ino);
	}
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	if (!r && listed)
		metric_add(METRIC_CONFLICTS, 1);
	return r;
}

static void again_later(struct cache *c)
{
	atomic_store(&c->displaced_due_ms, clock_monotonic_ms() + RETRY_MS);
}

void file_end_open(struct cache *c, struct record *rec)
{
	bool displaced;
	bool detached = record_end_open(c, rec, &displaced);

	/* On failure the row stays with nlink 0 and the displaced key; file_settle_displaced, or the next
	 * cache_open, does the same with it. */
	if (detached && finish_detached(c, rec->ino, displaced))
		again_later(c);
	record_put(c, rec);
}

/* ---- closed before the name was taken ---- */

/* The first of them after ino after; 0: there is none. */
static int next_displaced(struct cache *c, uint64_t after, uint64_t *ino)
{
	struct conn *conn;
	sqlite3_stmt *s;
	int64_t found = 0;
	/* By the writer: the transaction that has taken a name is then at its end. */
	int r = cache_begin(c, &conn);

	if (r)
		return r;
	s = conn_statement(conn, "SELECT ino FROM inode INDEXED BY inode_detached WHERE nlink = 0"
				 " AND dirty = 1 AND name <> x'' AND ino > ?1 ORDER BY ino LIMIT 1");
	bind_int(s, 1, (int64_t)after);
	r = conn_number_or(conn, s, 0, &found);
	cache_rollback(conn);
	*ino = (uint64_t)found;
	return r;
}

int file_settle_displaced(struct cache *c)
{
	int64_t due_ms = atomic_load(&c->displaced_due_ms);
	uint64_t ino = 0;
	int r;

	if (!due_ms || due_ms > clock_monotonic_ms())
		return 0;
	atomic_store(&c->displaced_due_ms, 0);
	while ((r = next_displaced(c, ino, &ino)) == 0 && ino) {
		/* Of an open one the last release does it, unless that open comes to nothing. */
		if (file_is_open(c, ino) || finish_detached(c, ino, true))
			again_later(c);
	}
	if (r)
		again_later(c);
	return r;
}
