/*
 * The tree, changing side. Each call is one transaction: the change and its journal row, stamped
 * while the writer's lock is held, so the journal's order and its stamps agree.
 *
 * Invariants inside the database: a dentry (parent, name, ino) exists exactly when inode ino has
 * that parent and name; nlink is 0 exactly when an inode has none and is not the root. Then parent
 * is 0, and name is the whole key for recover.c where a remote change took it from an open file.
 * An inode with several names has the others in table link (link.c). Of a device node, size holds
 * its number.
 *
 * A content file is made before the transaction that names it and removed after the one that
 * deletes it, so a crash leaves at worst a stray file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cache/internal.h"
#include "src/base/clock.h"

#define TARGET_MAX 4095
#define LENGTH_STEP 64 /* granularity of the persisted longest key */

/* ---- steps ---- */

/* The object's key has room for it. */
static int check_key(const struct key *key, bool dir)
{
	return key_escaped_len(key_slice(key)) + dir > KEY_MAX ? -ENAMETOOLONG : 0;
}

/* Keeps an upper bound of the length of every key, as an object's, so that a directory's rename seldom has to look
 * at what is below. Rounded up: it is written a dozen times in the life of a volume. */
static int note_length(struct conn *conn, uint64_t len)
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

static int insert_dentry(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino)
{
	sqlite3_stmt *s = conn_statement(conn, "INSERT INTO dentry(parent, name, ino, place)"
					       " VALUES(?1, ?2, ?3, ?4)");
	int64_t place = name_place(name);
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)parent);
	bind_slice(s, 2, name);
	bind_int(s, 3, (int64_t)ino);
	bind_int(s, 4, place);
	r = conn_run(conn, s);
	if (!r)
		row_cache_put_name(conn->rows, parent, place, name, ino);
	return r;
}

static int delete_dentry(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino)
{
	sqlite3_stmt *s = conn_statement(conn,
		"DELETE FROM dentry WHERE parent = ?1 AND place = ?4 AND name = ?2"
		" AND ino = ?3");
	int64_t place = name_place(name);
	int r;

	dir_keys_moved(conn->dir_keys, ino);
	conn->found.ino = 0;
	if (!s)
		return conn_error(conn);
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

static int insert_inode(struct conn *conn, uint64_t parent, struct slice name,
	const struct inode_row *row, const char *target)
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

/* row->ino is set. */
static int make_rows(struct conn *conn, uint64_t parent, struct slice name,
	const struct inode_row *row, const char *target)
{
	int r = insert_dentry(conn, parent, name, row->ino);

	return r ? r : insert_inode(conn, parent, name, row, target);
}

int inode_make(struct conn *conn, uint64_t parent, struct slice name, struct inode_row *row,
	const char *target)
{
	struct inode_row dir;
	struct key key;
	int r;

	r = name_key(conn, parent, name, &key, &dir);
	if (!r)
		r = note_length(conn, key_escaped_len(key_slice(&key)) + 1);
	if (!r && row->ino == 0)
		r = conn_new_ino(conn, &row->ino);
	/* Sealed content is generation 1, and so is content that is yet to be fetched. */
	if (mode_kind(row->mode) == KIND_FILE && row->generation == 0)
		row->generation = row->sealed = 1;
	if (!r)
		r = make_rows(conn, parent, name, row, target);
	if (!r && row->state == STATE_LOCAL)
		r = content_set_mtime(conn->cache, row->ino, row->mtime_ns);
	return r;
}

/* s deletes the inode and returns its xattrs and state. */
static int delete_by(struct conn *conn, sqlite3_stmt *s, uint64_t ino)
{
	bool xattrs, local;
	int r;

	if (!s)
		return conn_error(conn);
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
		if (!s)
			return conn_error(conn);
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
	bool open;
	int r;

	r = delete_dentry(conn, parent, name, ino);
	if (r)
		return r;
	if (displaced || atomic_load(&conn->cache->linked)) {
		r = inode_get(conn, ino, &row);
		if (r || row.nlink > 1)
			return r ? r : link_remove(conn, ino, parent, name);
	}
	times_forget(conn->cache, ino);
	/* A program may have written since the caller saw that all is sealed: no lock stops it. */
	open = file_note_detached(conn->cache, ino, displaced, keep ? NULL : &row.sealed);
	if (!open && !keep)
		return delete_named(conn, ino);
	s = conn_statement(conn, "UPDATE inode SET parent = 0, name = ?3, nlink = 0, ctime_ns = ?2"
				 " WHERE ino = ?1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, clock_realtime_ns());
	bind_slice(s, 3, open && displaced ? *displaced : slice_of(""));
	return conn_run(conn, s);
}

/* The dentries are the caller's. */
static int rename_inode(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
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
	if (!s)
		return conn_error(conn);
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
	int r = delete_dentry(conn, parent, name, ino);

	if (!r)
		r = insert_dentry(conn, new_parent, new_name, ino);
	return r ? r : rename_inode(conn, ino, parent, name, new_parent, new_name);
}

int inode_attach(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name)
{
	sqlite3_stmt *s;
	int r = insert_dentry(conn, parent, name, ino);

	if (r)
		return r;
	s = conn_statement(conn, "UPDATE inode SET parent = ?2, name = ?3, nlink = 1, ctime_ns = ?4"
				 " WHERE ino = ?1 AND nlink = 0");
	if (!s)
		return conn_error(conn);
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
		r = note_length(conn, key_escaped_len(key_slice(&key)) + 1);
	if (!r)
		r = insert_dentry(conn, parent, name, ino);
	return r ? r : link_add(conn, ino, parent, name);
}

/* row: as inode_get gave it, but for what is to change. */
static int write_attr(struct conn *conn, const struct inode_row *row)
{
	sqlite3_stmt *s =
		conn_statement(conn, "UPDATE inode SET mode = ?2, uid = ?3, gid = ?4,"
				     " atime_ns = ?5, mtime_ns = ?6, ctime_ns = ?7 WHERE ino = ?1");
	int r;

	if (!s)
		return conn_error(conn);
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
	return r ? r : write_attr(conn, &row);
}

/* ---- journal ---- */

static int journal_key(
	struct conn *conn, enum journal_op op, const struct key *key, const struct key *hint)
{
	uint64_t time;
	int r = conn_stamp_time(conn, &time);

	return r ? r
		 : journal_append(
			   conn, op, key_slice(key), hint ? key_slice(hint) : slice_of(""), time);
}

/* The rows that stand last are those of ino, and of nothing else. */
static void note_last_put(struct conn *conn, uint64_t ino)
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
		note_last_put(conn, ino);
	return r;
}

static int commit(struct conn **conn)
{
	struct conn *ending = *conn;

	*conn = NULL;
	return cache_commit(ending);
}

/* ---- making ---- */

struct creation {
	uint64_t parent;
	struct slice name;
	struct inode_row row;
	const char *target;
	bool journal;
	uint32_t umask;
};

/* A file without a name, as unlink would leave it. */
static int insert_unnamed(struct conn *conn, const struct inode_row *row)
{
	sqlite3_stmt *s;
	int r = insert_inode(conn, 0, slice_of(""), row, NULL);

	if (r)
		return r;
	s = conn_statement(conn, "UPDATE inode SET nlink = 0 WHERE ino = ?1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	return conn_run(conn, s);
}

static int create_unnamed(struct cache *c, struct creation *n)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row dir;
	int r;

	r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, n->parent, &dir);
	if (r)
		return r;
	if (!S_ISDIR(dir.mode))
		return -ENOTDIR;
	if (dir.mode & S_ISGID)
		n->row.gid = dir.gid;
	r = inode_inherit(conn, &dir, n->umask, &n->row);
	if (!r)
		r = insert_unnamed(conn, &n->row);
	return r ? r : commit(&conn);
}

static int create_rows(struct cache *c, struct creation *n)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row dir;
	struct key key;
	int r;

	r = cache_begin_op(c, &conn);
	if (!r)
		r = name_key(conn, n->parent, n->name, &key, &dir);
	if (r)
		return r;
	if (dir.mode & S_ISGID) {
		n->row.gid = dir.gid;
		if (S_ISDIR(n->row.mode))
			n->row.mode |= S_ISGID;
	}
	r = check_key(&key, S_ISDIR(n->row.mode));
	if (!r)
		r = inode_inherit(conn, &dir, n->umask, &n->row);
	if (!r)
		r = note_length(conn, key_escaped_len(key_slice(&key)) + 1);
	if (!r)
		r = make_rows(conn, n->parent, n->name, &n->row, n->target);
	if (!r && n->journal) {
		r = journal_key(conn, JOURNAL_PUT, &key, NULL);
		note_last_put(conn, n->row.ino);
	}
	if (!r)
		r = commit(&conn);
	if (!r)
		times_touch(c, n->parent, true);
	return r;
}

static int prepare(struct cache *c, struct creation *n, uint32_t mode, uint32_t uid, uint32_t gid)
{
	int64_t now = clock_realtime_ns();
	int r = n->name.len ? name_check(n->parent, n->name) : 0;

	if (!r)
		r = content_check_new(c, 4096);
	if (!r)
		r = cache_new_ino(c, &n->row.ino);
	n->row.mode = mode & (S_IFMT | 07777);
	n->umask = mode >> 16;
	n->row.uid = uid;
	n->row.gid = gid;
	n->row.nlink = n->name.len > 0;
	n->row.atime_ns = n->row.mtime_ns = n->row.ctime_ns = now;
	n->row.state = S_ISREG(mode) ? STATE_LOCAL : STATE_NONE;
	n->row.dirty = S_ISREG(mode);
	n->row.generation = S_ISREG(mode) ? 1 : 0;
	return r;
}

static bool is_special(uint32_t mode)
{
	return S_ISFIFO(mode) || S_ISSOCK(mode) || S_ISCHR(mode) || S_ISBLK(mode);
}

static int create_node(struct cache *c, uint64_t parent, struct slice name, uint32_t mode,
	uint32_t uid, uint32_t gid, const char *target, uint32_t rdev, struct inode *ret)
{
	struct creation n = {.parent = parent, .name = name, .journal = true};
	size_t len = target ? strlen(target) : 0;
	int r;

	if (S_ISLNK(mode) != (target != NULL) ||
		(mode_kind(mode) == KIND_ABSENT && !is_special(mode)))
		return -EINVAL;
	if (S_ISREG(mode)) {
		struct file *f;

		r = tree_create_open(c, parent, name, mode, uid, gid, false, ret, &f);
		if (!r)
			file_release(f);
		return r;
	}
	if (S_ISLNK(mode) && (len == 0 || len > TARGET_MAX))
		return len ? -ENAMETOOLONG : -ENOENT;
	r = prepare(c, &n, mode, uid, gid);
	if (r)
		return r;
	n.target = target;
	n.row.size = len;
	if (is_special(mode)) {
		n.journal = false; /* it stays here */
		n.row.size = rdev;
	}
	r = create_rows(c, &n);
	if (!r)
		inode_present(c, &n.row, ret);
	return r;
}

int tree_create(struct cache *c, uint64_t parent, struct slice name, uint32_t mode, uint32_t uid,
	uint32_t gid, const char *target, struct inode *ret)
{
	if (mode_kind(mode) == KIND_ABSENT || !name.len)
		return -EINVAL;
	return create_node(c, parent, name, mode, uid, gid, target, 0, ret);
}

int tree_mknod(struct cache *c, uint64_t parent, struct slice name, uint32_t mode, uint32_t uid,
	uint32_t gid, uint32_t rdev, struct inode *ret)
{
	return create_node(c, parent, name, mode, uid, gid, NULL,
		S_ISCHR(mode) || S_ISBLK(mode) ? rdev : 0, ret);
}

int tree_create_open(struct cache *c, uint64_t parent, struct slice name, uint32_t mode,
	uint32_t uid, uint32_t gid, bool writable, struct inode *ret, struct file **ret_file)
{
	/* Without a writer nobody's release would journal it. */
	struct creation n = {.parent = parent, .name = name, .journal = !writable};
	struct file *f;
	int r, fd;

	if (!S_ISREG(mode))
		return -EINVAL;
	r = prepare(c, &n, mode, uid, gid);
	if (r)
		return r;
	fd = content_file(c, n.row.ino, O_RDWR | O_CREAT | O_EXCL);
	if (fd < 0)
		return fd;
	r = file_adopt(c, n.row.ino, fd, writable, &f);
	if (r) {
		close(fd);
		content_remove(c, n.row.ino);
		return r;
	}
	if (!name.len)
		file_note_unnamed(c, n.row.ino);
	r = name.len ? create_rows(c, &n) : create_unnamed(c, &n);
	if (r) {
		file_forget(f);
		content_remove(c, n.row.ino);
		return r;
	}
	inode_present(c, &n.row, ret);
	*ret_file = f;
	return 0;
}

/* ---- attributes ---- */

static int set_size(struct cache *c, uint64_t ino, uint64_t size)
{
	struct file *f;
	int r = file_open(c, ino, true, size == 0, &f);

	if (r)
		return r;
	r = size ? file_truncate(f, size) : 0;
	file_release(f);
	return r;
}

/* As notify_change in Linux. */
static void clear_setid(struct inode_row *row)
{
	if (S_ISDIR(row->mode))
		return;
	row->mode &= ~(uint32_t)S_ISUID;
	if (row->mode & S_IXGRP)
		row->mode &= ~(uint32_t)S_ISGID;
}

static void apply(struct inode_row *row, unsigned mask, const struct inode *v)
{
	row->ctime_ns = mask & SET_CTIME ? v->ctime_ns : clock_realtime_ns();
	if (mask & (SET_UID | SET_GID | SET_KILL))
		clear_setid(row);
	if (mask & SET_KILL_SGID && !S_ISDIR(row->mode))
		row->mode &= ~(uint32_t)S_ISGID;
	if (mask & SET_MODE)
		row->mode = (row->mode & S_IFMT) | (v->mode & 07777);
	if (mask & SET_UID)
		row->uid = v->uid;
	if (mask & SET_GID)
		row->gid = v->gid;
	if (mask & SET_ATIME)
		row->atime_ns = v->atime_ns;
	if (mask & SET_MTIME)
		row->mtime_ns = v->mtime_ns;
}

static int change_attr(
	struct cache *c, uint64_t ino, unsigned mask, const struct inode *v, struct inode_row *row)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode shown;
	int r;

	r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, ino, row);
	if (r)
		return r;
	/* The row's times may be behind (open content, a directory's in memory); do not lose the
	 * newer. */
	inode_present(c, row, &shown);
	row->mtime_ns = shown.mtime_ns;
	apply(row, mask, v);
	if (mask & SET_MTIME && row->state == STATE_LOCAL)
		r = content_set_mtime(c, ino, row->mtime_ns);
	if (!r)
		r = write_attr(conn, row);
	if (!r && mask & SET_MODE)
		r = inode_follow_mode(conn, row);
	if (!r && mask & (SET_MODE | SET_UID | SET_GID | SET_MTIME | SET_KILL | SET_KILL_SGID))
		r = journal_inode(conn, ino);
	/* Before the commit, while the writer is ours: tree_flush_times looks again inside its own
	 * transaction and so never writes an older time over this one. */
	if (!r && mask & SET_MTIME && S_ISDIR(row->mode))
		times_forget(c, ino);
	if (!r && mask & SET_ATIME)
		atimes_forget(c, ino);
	if (!r)
		r = commit(&conn);
	return r;
}

int tree_setattr(
	struct cache *c, uint64_t ino, unsigned mask, const struct inode *v, struct inode *ret)
{
	struct inode_row row;
	int r;

	if (mask & SET_SIZE) {
		r = set_size(c, ino, v->size);
		if (r)
			return r;
	}
	/* The change of size is journalled already; set-id bits are taken away only where there are
	 * any. */
	if (!(mask & ~(unsigned)(SET_SIZE | SET_KILL | SET_KILL_SGID))) {
		r = tree_getattr(c, ino, ret);
		if (r || !mask || !(ret->mode & (S_ISUID | S_ISGID)))
			return r;
	}
	mask &= ~(unsigned)SET_SIZE;
	if (!mask)
		return 0;
	r = change_attr(c, ino, mask, v, &row);
	if (!r)
		inode_present(c, &row, ret);
	return r;
}

/* ---- linking ---- */

/* Journalled like a rename whose old name stays: content that is not here yet is looked for there.
 * With the second name the first gets the link id, too. */
static int journal_link(struct conn *conn, const struct inode_row *row, const struct key *to)
{
	struct key from;
	bool made = false;
	uint64_t time;
	int r;

	if (mode_kind(row->mode) == KIND_ABSENT)
		return 0;
	r = link_id_make(conn, row->ino, &made);
	if (!r)
		r = inode_key(conn, row->ino, &from);
	if (!r)
		r = conn_stamp_time(conn, &time);
	if (!r && made)
		r = link_journal(conn, row->ino, key_slice(to), time);
	if (r)
		return r;
	return journal_append(conn, JOURNAL_RENAME, key_slice(to), key_slice(&from), time);
}

int tree_link(struct cache *c, uint64_t ino, uint64_t parent, struct slice name, struct inode *ret)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row dir, row, taken;
	struct key key;
	int r = name_check(parent, name);

	if (!r)
		r = content_check_new(c, 4096);
	if (!r)
		r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r)
		return r;
	if (S_ISDIR(row.mode))
		return -EPERM;
	if (row.nlink == 0 && !file_is_unnamed(c, ino))
		return -ENOENT;
	if (row.nlink >= LINKS_MAX)
		return -EMLINK;
	r = name_key(conn, parent, name, &key, &dir);
	if (!r)
		r = check_key(&key, false);
	if (r)
		return r;
	r = inode_child(conn, parent, name, &taken);
	if (r != -ENOENT)
		return r ? r : -EEXIST;
	if (row.nlink == 0) {
		r = inode_attach(conn, ino, parent, name);
		if (!r)
			r = journal_key(conn, JOURNAL_PUT, &key, NULL);
	} else {
		r = inode_link(conn, ino, parent, name);
		if (!r)
			r = journal_link(conn, &row, &key);
	}
	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r)
		r = commit(&conn);
	if (r)
		return r;
	times_touch(c, parent, true);
	inode_present(c, &row, ret);
	return 0;
}

/* ---- removing ---- */

static int remove_name(struct cache *c, uint64_t parent, struct slice name, bool dir)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row above, row;
	struct key key;
	bool empty = true;
	int r;

	if (name.len > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_child(conn, parent, name, &row);
	if (r)
		return r;
	if (dir != S_ISDIR(row.mode))
		return dir ? -ENOTDIR : -EISDIR;
	if (dir)
		r = inode_dir_empty(conn, row.ino, &empty);
	if (!r && !empty)
		r = -ENOTEMPTY;
	if (!r)
		r = name_key(conn, parent, name, &key, &above);
	if (!r)
		r = inode_detach(conn, parent, name, row.ino, false, NULL);
	if (!r)
		r = journal_key(conn, JOURNAL_REMOVE, &key, NULL);
	if (!r)
		r = commit(&conn);
	if (!r)
		times_touch(c, parent, true);
	return r;
}

int tree_unlink(struct cache *c, uint64_t parent, struct slice name)
{
	return remove_name(c, parent, name, false);
}

int tree_rmdir(struct cache *c, uint64_t parent, struct slice name)
{
	return remove_name(c, parent, name, true);
}

/* ---- renaming ---- */

/* -EINVAL when dir lies at or below ino. */
static int check_not_below(struct conn *conn, uint64_t ino, uint64_t dir)
{
	struct inode_row row;
	int r;

	for (unsigned depth = 0; dir != ROOT_INO && depth <= DEPTH_MAX; depth++) {
		if (dir == ino)
			return -EINVAL;
		r = inode_get(conn, dir, &row);
		if (r)
			return r;
		if (row.parent == 0)
			return -ENOENT;
		dir = row.parent;
	}
	return 0;
}

/* -ENAMETOOLONG when a path below the directory is, as an object's key, longer than room bytes (the
 * slash after the directory counted). Visits directories only; the longest name of each is found by scanning its
 * names. */
static int check_lengths_below(struct conn *conn, uint64_t dir, size_t room)
{
	sqlite3_stmt *s = conn_statement(conn,
		"WITH RECURSIVE below(ino, len) AS (SELECT ?1, 0 UNION ALL"
		" SELECT d.ino, b.len + 1 + key_len(d.name) FROM below b"
		" CROSS JOIN dentry d ON d.parent = b.ino CROSS JOIN inode i ON i.ino = d.ino"
		" WHERE i.mode & 61440 = 16384)"
		" SELECT 1 FROM below b CROSS JOIN dentry d ON d.parent = b.ino"
		" WHERE b.len + 1 + key_len(d.name) + (SELECT i.mode & 61440 = 16384 FROM inode i"
		" WHERE i.ino = d.ino) > ?2 LIMIT 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)dir);
	bind_int(s, 2, (int64_t)room);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	sqlite3_reset(s);
	return -ENAMETOOLONG;
}

struct renaming {
	uint64_t parent;
	struct slice name;
	uint64_t new_parent;
	struct slice new_name;
	struct inode_row row;
	struct inode_row replaced;
	bool replaces;
	struct key from;
	struct key to;
};

static int find_renamed(struct conn *conn, struct renaming *n)
{
	struct inode_row dir;
	int r;

	r = inode_child(conn, n->parent, n->name, &n->row);
	if (!r)
		r = name_key(conn, n->parent, n->name, &n->from, &dir);
	if (!r)
		r = name_key(conn, n->new_parent, n->new_name, &n->to, &dir);
	if (!r)
		r = check_key(&n->to, S_ISDIR(n->row.mode));
	if (r)
		return r;
	r = inode_child(conn, n->new_parent, n->new_name, &n->replaced);
	if (r && r != -ENOENT)
		return r;
	n->replaces = r == 0;
	return 0;
}

static int check_replaced(struct conn *conn, const struct renaming *n, unsigned flags)
{
	bool empty = true;
	int r = 0;

	if (!n->replaces)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (S_ISDIR(n->replaced.mode) && !S_ISDIR(n->row.mode))
		return -EISDIR;
	if (!S_ISDIR(n->replaced.mode) && S_ISDIR(n->row.mode))
		return -ENOTDIR;
	if (S_ISDIR(n->replaced.mode) && n->replaced.ino != n->row.ino)
		r = inode_dir_empty(conn, n->replaced.ino, &empty);
	return r ? r : empty ? 0 : -ENOTEMPTY;
}

static int check_moved_dir(struct conn *conn, const struct renaming *n)
{
	uint64_t longest = atomic_load(&conn->cache->longest_key);
	size_t from = key_escaped_len(key_slice(&n->from)), to = key_escaped_len(key_slice(&n->to));
	int r;

	if (!S_ISDIR(n->row.mode))
		return 0;
	r = check_not_below(conn, n->row.ino, n->new_parent);
	if (r || to <= from)
		return r;
	longest += to - from;
	if (longest > KEY_MAX) {
		r = check_lengths_below(conn, n->row.ino, KEY_MAX - to);
		longest = KEY_MAX;
	}
	return r ? r : note_length(conn, longest);
}

/* A file that takes another's name before it was sealed: recovery after a power loss must know how
 * much of it there was (recover.c). */
static int note_size(struct conn *conn, const struct inode_row *row)
{
	struct inode shown;
	sqlite3_stmt *s;

	if (!S_ISREG(row->mode) || !row->dirty)
		return 0;
	inode_present(conn->cache, row, &shown);
	if (shown.size == row->size)
		return 0;
	s = conn_statement(conn, "UPDATE inode SET size = ?2 WHERE ino = ?1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	bind_int(s, 2, (int64_t)shown.size);
	if (row->state == STATE_LOCAL)
		conn_account(conn, row->ino, 0, 0, (int64_t)shown.size - (int64_t)row->size);
	return conn_run(conn, s);
}

/* Content that is not here is in the regions under its name only, and there each side's object
 * replaces the other's: whichever goes first takes the other's content with it. */
static int check_fetched(struct conn *conn, const struct inode_row *row)
{
	sqlite3_stmt *s;
	int r;

	if (!S_ISDIR(row->mode))
		return row->state == STATE_REMOTE ? -EINVAL : 0;
	s = conn_statement(conn,
		"WITH RECURSIVE below(ino) AS (SELECT ?1 UNION ALL"
		" SELECT d.ino FROM below b CROSS JOIN dentry d ON d.parent = b.ino"
		" CROSS JOIN inode i ON i.ino = d.ino WHERE i.mode & 61440 = 16384)"
		" SELECT 1 FROM below b CROSS JOIN dentry d ON d.parent = b.ino"
		" CROSS JOIN inode i ON i.ino = d.ino WHERE i.state = 2 LIMIT 1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	sqlite3_reset(s);
	return -EINVAL;
}

static int exchange_names(struct conn *conn, const struct renaming *n)
{
	uint64_t a = n->row.ino, b = n->replaced.ino;
	int r = delete_dentry(conn, n->parent, n->name, a);

	if (!r)
		r = delete_dentry(conn, n->new_parent, n->new_name, b);
	if (!r)
		r = insert_dentry(conn, n->parent, n->name, b);
	if (!r)
		r = insert_dentry(conn, n->new_parent, n->new_name, a);
	if (!r)
		r = rename_inode(conn, a, n->parent, n->name, n->new_parent, n->new_name);
	return r ? r : rename_inode(conn, b, n->new_parent, n->new_name, n->parent, n->name);
}

/* One transaction, and a row for each direction: both keys are sealed as what they are now. */
static int exchange(struct cache *c, struct conn **conn, const struct renaming *n)
{
	struct renaming back = *n;
	enum journal_op op = S_ISDIR(n->row.mode) || S_ISDIR(n->replaced.mode) ? JOURNAL_RENAME_DIR
									       : JOURNAL_RENAME;
	int r;

	if (!n->replaces)
		return -ENOENT;
	if (n->replaced.ino == n->row.ino)
		return 0;
	back.row = n->replaced;
	back.new_parent = n->parent;
	back.from = n->to;
	back.to = n->from;
	r = check_key(&back.to, S_ISDIR(back.row.mode));
	if (!r)
		r = check_moved_dir(*conn, n);
	if (!r)
		r = check_moved_dir(*conn, &back);
	if (!r)
		r = check_fetched(*conn, &n->row);
	if (!r)
		r = check_fetched(*conn, &n->replaced);
	if (!r)
		r = exchange_names(*conn, n);
	if (!r)
		r = journal_key(*conn, op, &n->to, &n->from);
	if (!r)
		r = journal_key(*conn, op, &n->from, &n->to);
	if (!r)
		r = commit(conn);
	if (r)
		return r;
	times_touch(c, n->parent, true);
	if (n->new_parent != n->parent)
		times_touch(c, n->new_parent, true);
	return 0;
}

int tree_rename(struct cache *c, uint64_t parent, struct slice name, uint64_t new_parent,
	struct slice new_name, unsigned flags)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct renaming n = {
		.parent = parent, .name = name, .new_parent = new_parent, .new_name = new_name};
	int r;

	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE) ||
		flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	r = name_check(parent, name);
	if (!r)
		r = name_check(new_parent, new_name);
	if (!r)
		r = cache_begin_op(c, &conn);
	if (!r)
		r = find_renamed(conn, &n);
	if (!r && flags & RENAME_EXCHANGE)
		return exchange(c, &conn, &n);
	if (!r)
		r = check_replaced(conn, &n, flags);
	if (r)
		return r;
	if (n.replaces && n.replaced.ino == n.row.ino)
		return 0;
	r = check_moved_dir(conn, &n);
	if (!r)
		r = note_length(conn, key_escaped_len(key_slice(&n.to)) + 1);
	if (!r && n.replaces)
		r = note_size(conn, &n.row);
	if (!r && n.replaces)
		r = inode_detach(conn, new_parent, new_name, n.replaced.ino, false, NULL);
	if (!r && n.replaces && S_ISREG(n.row.mode))
		conn_replaced_by(conn, n.row.ino);
	if (!r)
		r = inode_move(conn, n.row.ino, parent, name, new_parent, new_name);
	if (!r)
		r = journal_key(conn, S_ISDIR(n.row.mode) ? JOURNAL_RENAME_DIR : JOURNAL_RENAME,
			&n.to, &n.from);
	if (!r)
		r = commit(&conn);
	if (r)
		return r;
	times_touch(c, parent, true);
	if (new_parent != parent)
		times_touch(c, new_parent, true);
	return 0;
}
