/*
 * Hidden files, in the table conflict: rows with the reason "hidden". The file may have been open for
 * writing when it was hidden, and sealed later, so its inode is asked what it holds, and only what
 * it holds now counts.
 */
#include "cache/hidden.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/project.h"
#include "cache/replication.h"
#include "src/base/clock.h"

/* Somebody may have had it open for writing, so its inode is asked what it holds. */
static int look_into_hidden(struct conn *conn, const uint8_t *hash, struct hidden *h)
{
	struct inode_row row;
	int r = inode_get(conn, h->ino, &row);

	if (r && r != -ENOENT)
		return r;
	if (r || row.nlink) {
		h->ino = 0;
		return 0;
	}
	h->same = hash && row.state == STATE_LOCAL && row.has_hash &&
		  memcmp(row.hash, hash, SHA256_SIZE) == 0 &&
		  !file_has_unsealed(conn_cache(conn), &row);
	return 0;
}

/* The first row of s after the conflict id after: 1, 0 or -errno. */
static int read_hidden(struct conn *conn, sqlite3_stmt *s, struct slice key, const uint8_t *hash,
	int64_t after, struct hidden *ret)
{
	int r;

	bind_slice(s, 1, key);
	bind_int(s, 2, after);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	*ret = (struct hidden){
		sqlite3_column_int64(s, 0), (uint64_t)sqlite3_column_int64(s, 1), false};
	sqlite3_reset(s);
	r = look_into_hidden(conn, hash, ret);
	return r ? r : 1;
}

/* The hidden file of key after the conflict id after: 1, 0 or -errno. */
static int next_hidden(
	struct conn *conn, struct slice key, const uint8_t *hash, int64_t after, struct hidden *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT id, ino FROM conflict INDEXED BY conflict_hidden"
		" WHERE key = ?1 AND reason = 'hidden' AND id > ?2 ORDER BY id LIMIT 1");

	return read_hidden(conn, s, key, hash, after, ret);
}

/* The same of any content that is kept for a conflict at key. */
static int next_kept(
	struct conn *conn, struct slice key, const uint8_t *hash, int64_t after, struct hidden *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT id, ino FROM conflict INDEXED BY conflict_key"
		" WHERE key = ?1 AND ino <> 0 AND id > ?2 ORDER BY id LIMIT 1");

	return read_hidden(conn, s, key, hash, after, ret);
}

int hidden_forget(struct conn *conn, int64_t id)
{
	return conn_run_int(conn, "DELETE FROM conflict WHERE id = ?1", id);
}

int hidden_find(
	struct conn *conn, struct slice key, const uint8_t hash[SHA256_SIZE], struct hidden *ret)
{
	int64_t after = 0;
	int r;

	while ((r = next_hidden(conn, key, hash, after, ret)) == 1) {
		if (ret->same)
			return 1;
		after = ret->id;
	}
	return r;
}

/* One name of several was hidden: another one has the content. A scan, of volumes with hard links only, for
 * a row of the outbox that finds its content nowhere else. */
static int find_linked(struct conn *conn, const uint8_t hash[SHA256_SIZE], uint64_t *ino)
{
	sqlite3_stmt *s;
	int r;

	if (!atomic_load(&conn_cache(conn)->linked))
		return -ENOENT;
	s = conn_statement(
		conn, "SELECT ino FROM inode NOT INDEXED WHERE state = 1 AND hash = ?1 LIMIT 1");
	sqlite3_bind_blob(s, 1, hash, SHA256_SIZE, SQLITE_STATIC);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	*ino = (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

/* What was hidden while it was being written, and sealed later, stands as a conflict. */
int project_hidden_ino(
	struct conn *conn, struct slice key, const uint8_t hash[SHA256_SIZE], uint64_t *ino)
{
	struct hidden kept = {0};
	int r;

	while ((r = next_kept(conn, key, hash, kept.id, &kept)) == 1) {
		if (kept.same) {
			*ino = kept.ino;
			return 0;
		}
	}
	return r < 0 ? r : find_linked(conn, hash, ino);
}

int project_hidden_kept(struct conn *conn, struct slice key, const struct entry *e, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT 1 FROM inode WHERE hash = ?4 AND ino IN("
		"SELECT ino FROM conflict INDEXED BY conflict_key WHERE key = ?1 AND ino <> 0"
		" UNION ALL SELECT ino FROM link_id INDEXED BY link_id_file"
		" WHERE origin = ?2 AND number = ?3 AND ?2 <> 0) LIMIT 1");
	int r;

	bind_slice(s, 1, key);
	bind_int(s, 2, (int64_t)e->link.origin);
	bind_int(s, 3, (int64_t)e->link.number);
	sqlite3_bind_blob(s, 4, e->hash, SHA256_SIZE, SQLITE_STATIC);
	r = conn_row(conn, s);
	if (r == 1)
		sqlite3_reset(s);
	*ret = r == 1;
	return r < 0 ? r : 0;
}

int hidden_find_linked(struct conn *conn, const struct entry *e, struct hidden *ret)
{
	sqlite3_stmt *s;
	int64_t after = 0;
	int r;

	if (!e->link.origin || !atomic_load(&conn_cache(conn)->linked))
		return 0;
	do {
		s = conn_statement(conn,
			"SELECT c.id, c.ino FROM link_id l CROSS JOIN conflict c INDEXED BY"
			" conflict_ino ON c.ino = l.ino AND c.ino <> 0 AND c.reason = 'hidden'"
			" WHERE l.origin = ?1 AND l.number = ?2 AND c.id > ?3"
			" ORDER BY c.id LIMIT 1");
		bind_int(s, 1, (int64_t)e->link.origin);
		bind_int(s, 2, (int64_t)e->link.number);
		bind_int(s, 3, after);
		r = conn_row(conn, s);
		if (r <= 0)
			return r;
		*ret = (struct hidden){
			sqlite3_column_int64(s, 0), (uint64_t)sqlite3_column_int64(s, 1), false};
		sqlite3_reset(s);
		after = ret->id;
		r = look_into_hidden(conn, e->hash, ret);
	} while (!r && !ret->same);
	return r ? r : 1;
}

/* Deletes the inode of a hidden file unless a conflict refers to it as well. */
static int drop_hidden(struct conn *conn, uint64_t ino)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT 1 FROM conflict INDEXED BY conflict_ino "
					       "WHERE ino = ?1 AND ino <> 0 LIMIT 1");
	int r;

	bind_int(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r == 1)
		sqlite3_reset(s);
	if (r)
		return r < 0 ? r : 0;
	if (file_note_detached(conn_cache(conn), ino, NULL))
		return 0; /* open: its last release deletes it */
	r = inode_delete(conn, ino);
	return r == -ENOENT ? 0 : r;
}

int hidden_replace(struct conn *conn, struct slice key, const struct entry *e, uint64_t *keep_ino)
{
	const uint8_t *hash = e->kind == KIND_FILE ? e->hash : NULL;
	struct hidden hidden;
	int64_t after = 0;
	int r;

	while ((r = next_hidden(conn, key, hash, after, &hidden)) == 1) {
		after = hidden.id;
		if (hidden.same)
			continue;
		r = hidden_forget(conn, hidden.id);
		if (r)
			return r;
		if (keep_ino && *keep_ino == 0)
			*keep_ino = hidden.ino;
		else if (hidden.ino)
			r = drop_hidden(conn, hidden.ino);
		if (r)
			return r;
	}
	return r;
}

/* A hidden row becomes a conflict like any other. */
static int list_hidden(struct conn *conn, int64_t id, const struct entry *by)
{
	CLEANUP(buf_done) struct buf won = {0};
	sqlite3_stmt *s;
	int r;

	entry_encode(by, &won);
	if (won.failed)
		return -ENOMEM;
	s = conn_statement(
		conn, "UPDATE conflict SET winner = ?2, at_ms = ?3, reason = ?4 WHERE id = ?1");
	bind_int(s, 1, id);
	bind_slice(s, 2, (struct slice){(const char *)won.data, won.len});
	bind_int(s, 3, clock_realtime_ms());
	bind_text(s, 4, "hidden by a directory that was then removed or replaced here");
	r = conn_run(conn, s);
	return r ? r : counter_add(conn, COUNTER_CONFLICT, 1, NULL);
}

int project_over_hidden(
	struct conn *conn, struct slice key, const struct entry *old, const struct entry *by)
{
	struct hidden hidden;
	int r;

	if (old->kind != KIND_FILE)
		return 0;
	r = hidden_find(conn, key, old->hash, &hidden);
	return r == 1 ? list_hidden(conn, hidden.id, by) : r;
}
