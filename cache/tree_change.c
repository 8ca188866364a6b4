/*
 * The tree, changing side: making, attributes, links and removing (renaming: tree_rename.c). Each
 * call is one transaction: the change and its journal row, stamped while the writer's lock is held,
 * so the journal's order and its stamps agree. What the database holds then: inode_change.c.
 *
 * A content file is made before the transaction that names it and removed after the one that
 * deletes it, so a crash leaves at worst a stray file.
 */
#include <errno.h>
#include <fcntl.h>

#include "cache/inode_change.h"
#include "src/base/clock.h"

#define TARGET_MAX 4095

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
	int r = inode_insert(conn, 0, slice_of(""), row, NULL);

	if (r)
		return r;
	s = conn_statement(conn, "UPDATE inode SET nlink = 0 WHERE ino = ?1");
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
	return r ? r : cache_commit_taken(&conn);
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
	r = key_fits(&key, S_ISDIR(n->row.mode));
	if (!r)
		r = inode_inherit(conn, &dir, n->umask, &n->row);
	if (!r)
		r = key_note_length(conn, key_escaped_len(key_slice(&key)) + 1);
	if (!r)
		r = inode_insert_named(conn, n->parent, n->name, &n->row, n->target);
	if (!r && n->journal) {
		r = journal_change(conn, JOURNAL_PUT, &key, NULL);
		journal_note_put(conn, n->row.ino);
	}
	if (!r)
		r = cache_commit_taken(&conn);
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
		r = inode_write_attr(conn, row);
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
		r = cache_commit_taken(&conn);
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
		r = key_fits(&key, false);
	if (r)
		return r;
	r = inode_child(conn, parent, name, &taken);
	if (r != -ENOENT)
		return r ? r : -EEXIST;
	if (row.nlink == 0) {
		r = inode_attach(conn, ino, parent, name);
		if (!r)
			r = journal_change(conn, JOURNAL_PUT, &key, NULL);
	} else {
		r = inode_link(conn, ino, parent, name);
		if (!r)
			r = journal_link(conn, &row, &key);
	}
	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r)
		r = cache_commit_taken(&conn);
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
		r = journal_change(conn, JOURNAL_REMOVE, &key, NULL);
	if (!r)
		r = cache_commit_taken(&conn);
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
