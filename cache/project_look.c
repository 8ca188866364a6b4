/*
 * The projection's attributes: how a path looks by its entry, and by its parent where its entry says
 * nothing.
 *
 * A path shows its entry's attributes once they were ever set (attr_stamp), else 0755, 0644 or 0777 and
 * its parent's owner. A directory whose entry is not one gets the search bits that go with its read
 * bits; without any entry its mtime is 0. Such unowned inodes stand in the table implied, so that they
 * follow when their parent's owner changes.
 *
 * An inode of several names looks as all their entries say (shown.c). That one of them came or went is
 * seen to at the end of the transaction.
 */
#include "cache/project_place.h"

#include <errno.h>

#include "cache/journal.h"
#include "cache/project.h"

struct look look_of(const struct entry *e, enum kind shown, const struct inode_row *parent)
{
	static const uint32_t modes[] = {
		[KIND_ABSENT] = 0, [KIND_FILE] = 0644, [KIND_DIR] = 0755, [KIND_SYMLINK] = 0777};
	struct look look = {
		.mode = modes[shown], .uid = parent->uid, .gid = parent->gid, .xattrs = {"", 0}};

	if (e)
		look.mtime_ns = entry_mtime(e);
	if (!e || e->attr_stamp.time == 0)
		return look;
	look.owned = true;
	look.mode = e->mode & 07777;
	if (shown == KIND_DIR && e->kind != KIND_DIR)
		look.mode |= (look.mode & 0444) >> 2;
	look.uid = e->uid;
	look.gid = e->gid;
	/* One zero byte is the encoding of an empty list. */
	if (e->xattrs.len > 1)
		look.xattrs = (struct slice){(const char *)e->xattrs.data, e->xattrs.len};
	return look;
}

int look_set_implied(struct conn *conn, uint64_t parent, uint64_t ino, bool implied)
{
	sqlite3_stmt *s;

	if (implied)
		s = conn_statement(
			conn, "INSERT OR IGNORE INTO implied(parent, ino) VALUES(?1, ?2)");
	else
		s = conn_statement(conn, "DELETE FROM implied WHERE parent = ?1 AND ino = ?2");
	bind_int(s, 1, (int64_t)parent);
	bind_int(s, 2, (int64_t)ino);
	return conn_run(conn, s);
}

int project_owned(struct conn *conn, uint64_t ino)
{
	struct inode_row row;
	int r = inode_get(conn, ino, &row);

	return r ? (r == -ENOENT ? 0 : r) : look_set_implied(conn, row.parent, ino, false);
}

/* The implied inode of parent after *ino: 1, 0 or -errno. */
static int next_implied(struct conn *conn, uint64_t parent, uint64_t *ino)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT ino FROM implied WHERE parent = ?1 AND ino > ?2"
				     " ORDER BY ino LIMIT 1");

	bind_int(s, 1, (int64_t)parent);
	bind_int(s, 2, (int64_t)*ino);
	return conn_number(conn, s, ino);
}

void look_invalidate(struct conn *conn, uint64_t ino)
{
	conn_invalidate(conn, &(struct invalidation){.ino = ino});
}

/* An application's change of it waits to be sealed, and will be with the owner that it has now. */
static int is_changed_here(struct conn *conn, uint64_t ino, bool *ret)
{
	struct key key;
	int r = inode_key(conn, ino, &key);

	*ret = false;
	return r ? (r == -ENOENT ? 0 : r) : journal_has_row(conn, key_slice(&key), ret);
}

/* What is implied below a directory follows its owner. The recursion is as deep as a path may be.
 */
static int owner_changed(struct conn *conn, uint64_t parent, uint32_t uid, uint32_t gid)
{
	uint64_t ino = 0;
	int r;

	while ((r = next_implied(conn, parent, &ino)) == 1) {
		struct inode_row row;
		bool changed = false;

		r = inode_get(conn, ino, &row);
		if (r && r != -ENOENT)
			return r;
		if (r == -ENOENT || row.parent != parent) {
			/* Removed or renamed by an application since. */
			r = look_set_implied(conn, parent, ino, false);
			if (r)
				return r;
			continue;
		}
		if (row.uid == uid && row.gid == gid)
			continue;
		r = is_changed_here(conn, ino, &changed);
		if (r)
			return r;
		if (changed)
			continue;
		r = inode_set_attr(conn, ino, SET_UID | SET_GID, 0, uid, gid, 0);
		if (r)
			return r;
		look_invalidate(conn, ino);
		if (S_ISDIR(row.mode)) {
			r = owner_changed(conn, ino, uid, gid);
			if (r)
				return r;
		}
	}
	return r;
}

int project_owner(struct conn *conn, struct slice key)
{
	struct inode_row row;
	int r = inode_resolve(conn, key, &row);

	if (r || !S_ISDIR(row.mode))
		return r == -ENOENT ? 0 : r;
	return owner_changed(conn, row.ino, row.uid, row.gid);
}

static int apply_xattrs(
	struct conn *conn, const struct inode_row *row, struct slice wanted, bool *changed)
{
	CLEANUP(buf_done) struct buf now = {0};
	int r = 0;

	if (row->xattrs == 0 && wanted.len == 0)
		return 0;
	if (row->xattrs) {
		r = inode_get_xattrs(conn, row->ino, &now);
		if (r)
			return r;
		if (now.failed)
			return -ENOMEM;
		if (slice_equal(wanted, (struct slice){(const char *)now.data, now.len}))
			return 0;
	}
	*changed = true;
	return inode_set_xattrs(conn, row->ino, wanted);
}

int look_apply(struct conn *conn, const struct inode_row *row, const struct look *look)
{
	unsigned mask = 0;
	bool changed = false;
	int r;

	if ((row->mode & 07777) != look->mode)
		mask |= SET_MODE;
	if (row->uid != look->uid)
		mask |= SET_UID;
	if (row->gid != look->gid)
		mask |= SET_GID;
	/* A file that is being written has a newer mtime than any entry. A directory's may stand in
	 * memory only. */
	if ((row->mtime_ns != look->mtime_ns || S_ISDIR(row->mode)) &&
		!file_has_unsealed(conn_cache(conn), row))
		mask |= SET_MTIME;
	if (mask) {
		r = inode_set_attr(
			conn, row->ino, mask, look->mode, look->uid, look->gid, look->mtime_ns);
		if (r)
			return r;
		changed = true;
	}
	r = apply_xattrs(conn, row, look->xattrs, &changed);
	if (!r && changed)
		look_invalidate(conn, row->ino);
	if (!r && row->ino != ROOT_INO)
		r = look_set_implied(conn, row->parent, row->ino, !look->owned);
	if (!r && S_ISDIR(row->mode) && (mask & (SET_UID | SET_GID)))
		r = owner_changed(conn, row->ino, look->uid, look->gid);
	return r;
}

int project_root(struct conn *conn, const struct entry *e)
{
	struct inode_row root;
	struct look look;
	int r = inode_get(conn, ROOT_INO, &root);

	if (r)
		return r;
	look = look_of(e, KIND_DIR, &root);
	if (!look.owned)
		look.mode = root.mode & 07777;
	return look_apply(conn, &root, &look);
}

/* An inode of several names that lost or got one shows what their entries say, unless they are behind:
 * what was changed here and waits to be sealed stays. Left to the end of the transaction (shown_left),
 * as that may concern many of its names. */
static int relook(struct conn *conn, uint64_t ino)
{
	CLEANUP(entry_done) struct entry shown = {0};
	struct inode_row row, parent;
	struct look look;
	bool pending;
	int r = inode_get(conn, ino, &row);

	if (r || row.nlink == 0)
		return r == -ENOENT ? 0 : r;
	r = project_shown(conn, ino, (struct slice){NULL, 0}, NULL, &pending, &shown);
	if (r || pending || shown.mtime_stamp.time == 0)
		return r;
	r = inode_get(conn, row.parent, &parent);
	if (r)
		return r;
	look = look_of(&shown, mode_kind(row.mode), &parent);
	return look_apply(conn, &row, &look);
}

int project_left(struct conn *conn, const struct entry *old, uint64_t ino)
{
	uint64_t was;
	int r = link_id_find(conn, old, ino, &was);

	return r ? (r == -ENOENT ? 0 : r) : shown_left(conn, was);
}

int project_settle(struct conn *conn)
{
	uint64_t ino;
	int r = 0;

	while (!r && shown_next_left(conn, &ino))
		r = relook(conn, ino);
	return r;
}
