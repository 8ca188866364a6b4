/*
 * The end of an open whose inode lost its name.
 *
 * Such an inode is deleted with its last open, unless a conflict keeps it. Where a remote change took
 * the name of a file that was being written, what was written after that is a version that lost: it
 * is sealed and becomes a conflict under the key that it had. The row keeps that key until then
 * (inode_detach), so that after a failure, or a crash, the next cache_open does the same with it
 * (recover.c).
 *
 * No lock: the one who ends the last open is alone with the inode.
 */
#include "cache/open_file.h"

#include <errno.h>

#include "cache/conflict.h"
#include "cache/entry.h"

/* A detached inode is done with the key that inode_detach left in its row. */
static int clear_displaced(struct conn *conn, uint64_t ino)
{
	return conn_run_int(conn,
		"UPDATE inode SET name = x'' WHERE ino = ?1"
		" AND nlink = 0 AND name <> x''",
		(int64_t)ino);
}

/* What a writer wrote after a remote change had taken the name is a version that lost. */
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
	r = conflict_add(conn, key, &loser, &winner, row->ino, reason);
	return r ? r : clear_displaced(conn, row->ino);
}

static int has_conflict(struct conn *conn, uint64_t ino, bool *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT 1 FROM conflict WHERE ino = ?1 AND ino <> 0 LIMIT 1");

	bind_int(s, 1, (int64_t)ino);
	return conn_exists(conn, s, ret);
}

/* The last open of a detached inode ended: it goes, unless a conflict keeps it. */
static int finish_detached(struct cache *c, struct record *rec, const struct key *displaced)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct content_version v = {0};
	struct inode_row row;
	bool kept = false;
	int r;

	if (displaced) {
		r = content_seal(c, rec->ino, 0, NULL, &v);
		if (r)
			return r == -ENOENT ? 0 : r;
		content_drop_snapshots(c, rec->ino, NULL, NULL);
	}
	r = cache_begin(c, &conn);
	if (!r)
		r = inode_get(conn, rec->ino, &row);
	if (r || row.nlink)
		return r == -ENOENT ? 0 : r;
	r = has_conflict(conn, rec->ino, &kept);
	if (!r && displaced) {
		r = file_add_conflict(conn, &row, key_slice(displaced), &v, CONFLICT_DISPLACED);
		if (!r)
			r = content_sealed(conn, &v);
	} else if (!r) {
		r = kept ? clear_displaced(conn, rec->ino) : inode_delete(conn, rec->ino);
	}
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	return r;
}

void file_end_open(struct cache *c, struct record *rec)
{
	struct key *displaced = NULL;
	bool detached = record_end_open(c, rec, &displaced);

	/* On failure the row stays with nlink 0 and the displaced key; the next cache_open does the
	 * same with it. */
	if (detached && finish_detached(c, rec, displaced))
		(void)0;
	free(displaced);
	record_put(c, rec);
}
