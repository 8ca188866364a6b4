/*
 * Renaming and exchanging, in one transaction with the journal's row. A directory's rename is one
 * row, however much lies below; so what could be refused below it (keys that grow too long) is
 * looked at first.
 */
#include <errno.h>
#include <stdio.h>

#include "cache/inode_change.h"

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
		r = key_fits(&n->to, S_ISDIR(n->row.mode));
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
	return r ? r : key_note_length(conn, longest);
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
	int r = dentry_delete(conn, n->parent, n->name, a);

	if (!r)
		r = dentry_delete(conn, n->new_parent, n->new_name, b);
	if (!r)
		r = dentry_insert(conn, n->parent, n->name, b);
	if (!r)
		r = dentry_insert(conn, n->new_parent, n->new_name, a);
	if (!r)
		r = inode_rename(conn, a, n->parent, n->name, n->new_parent, n->new_name);
	return r ? r : inode_rename(conn, b, n->new_parent, n->new_name, n->parent, n->name);
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
	r = key_fits(&back.to, S_ISDIR(back.row.mode));
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
		r = journal_change(*conn, op, &n->to, &n->from);
	if (!r)
		r = journal_change(*conn, op, &n->from, &n->to);
	if (!r)
		r = cache_commit_taken(conn);
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
		r = key_note_length(conn, key_escaped_len(key_slice(&n.to)) + 1);
	if (!r && n.replaces)
		r = note_size(conn, &n.row);
	if (!r && n.replaces)
		r = inode_detach(conn, new_parent, new_name, n.replaced.ino, false, NULL);
	if (!r && n.replaces && S_ISREG(n.row.mode))
		conn_replaced_by(conn, n.row.ino);
	if (!r)
		r = inode_move(conn, n.row.ino, parent, name, new_parent, new_name);
	if (!r)
		r = journal_change(conn, S_ISDIR(n.row.mode) ? JOURNAL_RENAME_DIR : JOURNAL_RENAME,
			&n.to, &n.from);
	if (!r)
		r = cache_commit_taken(&conn);
	if (r)
		return r;
	times_touch(c, parent, true);
	if (new_parent != parent)
		times_touch(c, new_parent, true);
	return 0;
}
