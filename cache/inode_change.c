/*
 * What a change does to the rows of the tree: dentries, inodes, and the journal row that goes with
 * them, each inside its caller's transaction. tree_change.c and tree_rename.c make the calls of
 * tree.h out of them; project.c, link.c and recover.c change the tree by them too.
 *
 * Invariants inside the database: a dentry (parent, name, ino) exists exactly when inode ino has
 * that parent and name; nlink is 0 exactly when an inode has none and is not the root. Then parent
 * is 0, and name is the whole key where a remote change took it from a file that is open or unsealed
 * (file_detached.c, recover.c).
 * An inode with several names has the others in table link (link.c). Of a device node, size holds
 * its number.
 *
 * The writer's memory of rows (row_cache.h) follows each statement here.
 */
#include "cache/inode_change.h"

#include <errno.h>

#include "cache/meta.h"
#include "src/base/clock.h"

#define LENGTH_STEP 64 /* granularity of the persisted longest key */

int key_fits(const struct key *key, bool dir)
{
	return key_escaped_len(key_slice(key)) + dir > KEY_MAX ? -ENAMETOOLONG : 0;
}

int key_note_length(struct conn *conn, uint64_t len)
{
	uint64_t known = atomic_load(&conn->cache->longest_key), bound;
	int r;

	if (len <= known || len <= conn->longest_key)
		return 0;
	bound = (len + LENGTH_STEP - 1) / LENGTH_STEP * LENGTH_STEP;
	r = meta_set_int(conn, "longest_key", (int64_t)bound);
	if (!r)
		conn->longest_key = bound;
	return r;
}

int dentry_insert(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino)
{
	sqlite3_stmt *s = conn_statement(conn, "INSERT INTO dentry(parent, name, ino, place)"
					       " VALUES(?1, ?2, ?3, ?4)");
	int64_t place = name_place(name);
	int r;

	bind_int(s, 1, (int64_t)parent);
	bind_slice(s, 2, name);
	bind_int(s, 3, (int64_t)ino);
	bind_int(s, 4, place);
	r = conn_run(conn, s);
	if (!r)
		row_cache_put_name(conn->rows, parent, place, name, ino);
	return r;
}

int dentry_delete(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino)
{
	sqlite3_stmt *s = conn_statement(conn,
		"DELETE FROM dentry WHERE parent = ?1 AND place = ?4 AND name = ?2"
		" AND ino = ?3");
	int64_t place = name_place(name);
	int r;

	dir_keys_moved(conn->dir_keys, ino);
	conn->found.ino = 0;
	bind_int(s, 1, (int64_t)parent);
	bind_slice(s, 2, name);
	bind_int(s, 3, (int64_t)ino);
	bind_int(s, 4, place);
	r = conn_run(conn, s);
	if (!r && sqlite3_changes(conn->db) != 1)
		r = -ENOENT;
	if (!r)
		row_cache_put_name(conn->rows, parent, place, name, 0);
	return r;
}

int inode_insert(struct conn *conn, uint64_t parent, struct slice name, const struct inode_row *row,
	const char *target)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO inode(ino, parent, name, mode, uid, gid, nlink, size, atime_ns, "
		"mtime_ns,"
		" ctime_ns, state, dirty, xattrs, generation, sealed, hash, target, used)"
		" VALUES(?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, ?9, ?10, ?11, ?12, ?17, ?13, ?14, ?15, "
		"?16, ?18)");
	struct inode_row made = *row;
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	bind_int(s, 2, (int64_t)parent);
	bind_slice(s, 3, name);
	bind_int(s, 4, row->mode);
	bind_int(s, 5, row->uid);
	bind_int(s, 6, row->gid);
	bind_int(s, 7, (int64_t)row->size);
	bind_int(s, 8, row->atime_ns);
	bind_int(s, 9, row->mtime_ns);
	bind_int(s, 10, row->ctime_ns);
	bind_int(s, 11, (int)row->state);
	bind_int(s, 12, row->dirty);
	bind_int(s, 13, (int64_t)row->generation);
	bind_int(s, 14, (int64_t)row->sealed);
	if (row->has_hash)
		bind_slice(s, 15, (struct slice){(const char *)row->hash, SHA256_SIZE});
	if (target)
		bind_text(s, 16, target);
	bind_int(s, 17, row->xattrs);
	made.used = atomic_load(&conn->cache->tick);
	bind_int(s, 18, (int64_t)made.used);
	conn_account(conn, row->ino, 1, row->state == STATE_LOCAL,
		row->state == STATE_LOCAL ? (int64_t)row->size : 0);
	r = conn_run(conn, s);
	made.parent = parent;
	made.nlink = 1;
	if (!r)
		row_cache_put_inode(conn->rows, &made);
	return r;
}

int inode_insert_named(struct conn *conn, uint64_t parent, struct slice name,
	const struct inode_row *row, const char *target)
{
	int r = dentry_insert(conn, parent, name, row->ino);

	return r ? r : inode_insert(conn, parent, name, row, target);
}

int inode_make(struct conn *conn, uint64_t parent, struct slice name, struct inode_row *row,
	const char *target)
{
	struct inode_row dir;
	struct key key;
	int r;

	r = name_key(conn, parent, name, &key, &dir);
	if (!r)
		r = key_note_length(conn, key_escaped_len(key_slice(&key)) + 1);
	if (!r && row->ino == 0)
		r = conn_new_ino(conn, &row->ino);
	/* Sealed content is generation 1, and so is content that is yet to be fetched. */
	if (mode_kind(row->mode) == KIND_FILE && row->generation == 0)
		row->generation = row->sealed = 1;
	if (!r)
		r = inode_insert_named(conn, parent, name, row, target);
	if (!r && row->state == STATE_LOCAL)
		r = content_set_mtime(conn->cache, row->ino, row->mtime_ns);
	return r;
}

/* s deletes the inode and returns its xattrs and state. */
static int delete_by(struct conn *conn, sqlite3_stmt *s, uint64_t ino)
{
	bool xattrs, local;
	int r;

	bind_int(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	xattrs = sqlite3_column_int64(s, 0) > 0;
	local = sqlite3_column_int(s, 1) == STATE_LOCAL;
	conn_account(conn, ino, -1, -local, local ? -sqlite3_column_int64(s, 2) : 0);
	r = conn_run(conn, s);
	if (!r && xattrs) {
		s = conn_statement(conn, "DELETE FROM xattr WHERE ino = ?1");
		bind_int(s, 1, (int64_t)ino);
		r = conn_run(conn, s);
	}
	if (!r && atomic_load(&conn->cache->linked))
		r = link_id_set(conn, ino, (struct link_id){0});
	if (!r && (local || partial_known(conn->cache, ino)))
		conn_remove_content(conn, ino);
	return r;
}

int inode_delete(struct conn *conn, uint64_t ino)
{
	return delete_by(conn,
		conn_statement(conn, "DELETE FROM inode WHERE ino = ?1 AND nlink = 0"
				     " RETURNING xattrs, state, size"),
		ino);
}

/* Setting nlink to 0 first would cost two pages of an index. */
static int delete_named(struct conn *conn, uint64_t ino)
{
	return delete_by(conn,
		conn_statement(
			conn, "DELETE FROM inode WHERE ino = ?1 RETURNING xattrs, state, size"),
		ino);
}

int inode_detach(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino, bool keep,
	const struct slice *displaced)
{
	struct inode_row row = {0};
	sqlite3_stmt *s;
	bool open, unsealed;
	int r;

	r = dentry_delete(conn, parent, name, ino);
	if (r)
		return r;
	if (displaced || atomic_load(&conn->cache->linked)) {
		r = inode_get(conn, ino, &row);
		if (r || row.nlink > 1)
			return r ? r : link_remove(conn, ino, parent, name);
	}
	times_forget(conn->cache, ino);
	/* A program may have written since the caller saw that all is sealed: no lock stops it. */
	unsealed = displaced && file_is_unsealed(conn->cache, &row);
	open = file_note_detached(conn->cache, ino, displaced ? &row.sealed : NULL);
	if (!open && !keep && !unsealed)
		return delete_named(conn, ino);
	if (unsealed && !open)
		atomic_store(&conn->cache->displaced_due_ms, 1);
	s = conn_statement(conn, "UPDATE inode SET parent = 0, name = ?3, nlink = 0, ctime_ns = ?2"
				 " WHERE ino = ?1");
	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, clock_realtime_ns());
	bind_slice(s, 3, displaced && (open || unsealed) ? *displaced : slice_of(""));
	return conn_run(conn, s);
}

int inode_rename(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
	uint64_t new_parent, struct slice new_name)
{
	int64_t now = clock_realtime_ns();
	struct inode_row row;
	sqlite3_stmt *s;
	bool known;
	int r;

	if (atomic_load(&conn->cache->linked)) {
		r = link_move(conn, ino, parent, name, new_parent, new_name);
		if (r != -ENOENT)
			return r;
	}
	s = conn_statement(
		conn, "UPDATE inode SET parent = ?2, name = ?3, ctime_ns = ?4 WHERE ino = ?1");
	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, (int64_t)new_parent);
	bind_slice(s, 3, new_name);
	bind_int(s, 4, now);
	known = row_cache_inode(conn->rows, ino, &row);
	r = conn_run(conn, s);
	if (!r && known) {
		row.parent = new_parent;
		row.ctime_ns = now;
		row_cache_put_inode(conn->rows, &row);
	}
	return r;
}

int inode_move(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
	uint64_t new_parent, struct slice new_name)
{
	int r = dentry_delete(conn, parent, name, ino);

	if (!r)
		r = dentry_insert(conn, new_parent, new_name, ino);
	return r ? r : inode_rename(conn, ino, parent, name, new_parent, new_name);
}

int inode_attach(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name)
{
	sqlite3_stmt *s;
	int r = dentry_insert(conn, parent, name, ino);

	if (r)
		return r;
	s = conn_statement(conn, "UPDATE inode SET parent = ?2, name = ?3, nlink = 1, ctime_ns = ?4"
				 " WHERE ino = ?1 AND nlink = 0");
	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, (int64_t)parent);
	bind_slice(s, 3, name);
	bind_int(s, 4, clock_realtime_ns());
	r = conn_run(conn, s);
	if (!r && sqlite3_changes(conn->db) != 1)
		r = -ENOENT;
	if (!r)
		file_note_attached(conn->cache, ino);
	return r;
}

int inode_link(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name)
{
	struct inode_row dir;
	struct key key;
	int r = name_key(conn, parent, name, &key, &dir);

	if (!r)
		r = key_note_length(conn, key_escaped_len(key_slice(&key)) + 1);
	if (!r)
		r = dentry_insert(conn, parent, name, ino);
	return r ? r : link_add(conn, ino, parent, name);
}

int inode_write_attr(struct conn *conn, const struct inode_row *row)
{
	sqlite3_stmt *s =
		conn_statement(conn, "UPDATE inode SET mode = ?2, uid = ?3, gid = ?4,"
				     " atime_ns = ?5, mtime_ns = ?6, ctime_ns = ?7 WHERE ino = ?1");
	int r;

	bind_int(s, 1, (int64_t)row->ino);
	bind_int(s, 2, row->mode);
	bind_int(s, 3, row->uid);
	bind_int(s, 4, row->gid);
	bind_int(s, 5, row->atime_ns);
	bind_int(s, 6, row->mtime_ns);
	bind_int(s, 7, row->ctime_ns);
	r = conn_run(conn, s);
	if (!r)
		row_cache_put_inode(conn->rows, row);
	return r;
}

int inode_set_attr(struct conn *conn, uint64_t ino, unsigned mask, uint32_t mode, uint32_t uid,
	uint32_t gid, int64_t mtime_ns)
{
	struct inode_row row;
	int r = inode_get(conn, ino, &row);

	if (r)
		return r;
	if (mask & SET_MODE)
		row.mode = (row.mode & S_IFMT) | (mode & 07777);
	if (mask & SET_UID)
		row.uid = uid;
	if (mask & SET_GID)
		row.gid = gid;
	row.ctime_ns = clock_realtime_ns();
	if (mask & SET_MTIME) {
		row.mtime_ns = mtime_ns;
		times_forget(conn->cache, ino);
		/* The content file first: when it fails nothing has changed; a rollback after it
		 * leaves at worst an mtime that the row of a clean file overrules. */
		if (row.state == STATE_LOCAL)
			r = content_set_mtime(conn->cache, ino, mtime_ns);
	}
	return r ? r : inode_write_attr(conn, &row);
}

int journal_change(
	struct conn *conn, enum journal_op op, const struct key *key, const struct key *hint)
{
	uint64_t time;
	int r = conn_stamp_time(conn, &time);

	return r ? r
		 : journal_append(
			   conn, op, key_slice(key), hint ? key_slice(hint) : slice_of(""), time);
}

void journal_note_put(struct conn *conn, uint64_t ino)
{
	conn->last_put = conn->op ? ino : 0;
}

int journal_inode(struct conn *conn, uint64_t ino)
{
	uint64_t time;
	int r;

	/* Nobody reads a row before its group is committed, and then it only says: look there. */
	if (conn->op && conn->last_put == ino)
		return 0;
	r = conn_stamp_time(conn, &time);
	if (!r)
		r = link_journal(conn, ino, (struct slice){NULL, 0}, time);
	if (!r)
		journal_note_put(conn, ino);
	return r;
}
