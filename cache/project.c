/*
 * Projection: the tree as a function of the entries.
 *
 * What a path shows. With E its entry:
 *
 *   E is a live directory, or something below is live   directory
 *   E is a live file or symlink, nothing below is live  that
 *   otherwise                                           nothing
 *
 * A path shows E's attributes once they were ever set (attr_stamp), else 0755, 0644 or 0777 and its
 * parent's owner. A directory whose entry is not one gets the search bits that go with its read
 * bits; without any entry its mtime is 0. Such unowned inodes stand in the table implied, so that
 * they follow when their parent's owner changes.
 *
 * A file that must give way to a directory is hidden, not lost: hidden.h.
 *
 * The tree may be ahead of the entries by what applications did and nobody sealed yet. The merger
 * seals the record's own key first; here a directory is only ever removed when it is empty and no
 * journal row waits for it, and an unsealed file that gives way becomes a conflict.
 */
#include "cache/project.h"

#include <errno.h>

#include "cache/conflict.h"
#include "cache/hidden.h"
#include "cache/internal.h"
#include "cache/refresh.h"
#include "cache/replication.h"
#include "src/base/clock.h"
#include "src/base/log.h"

/* A name and what is there now. */
struct place {
	struct conn *conn;
	struct slice key;
	struct inode_row parent;
	struct slice name;
	struct inode_row now; /* ino 0: nothing */
	bool was_here; /* the content of what is replaced was, all of it or some */
};

/* Attributes to show. */
struct look {
	uint32_t mode; /* permission bits */
	uint32_t uid;
	uint32_t gid;
	int64_t mtime_ns;
	struct slice xattrs; /* borrowed from the entry */
	bool owned;	     /* by an entry's attributes; else implied */
};

/* ---- attributes ---- */

/* e NULL: no entry. */
static struct look look_of(const struct entry *e, enum kind shown, const struct inode_row *parent)
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

static int set_implied(struct conn *conn, uint64_t parent, uint64_t ino, bool implied)
{
	sqlite3_stmt *s;

	if (implied)
		s = conn_statement(
			conn, "INSERT OR IGNORE INTO implied(parent, ino) VALUES(?1, ?2)");
	else
		s = conn_statement(conn, "DELETE FROM implied WHERE parent = ?1 AND ino = ?2");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)parent);
	bind_int(s, 2, (int64_t)ino);
	return conn_run(conn, s);
}

int project_owned(struct conn *conn, uint64_t ino)
{
	struct inode_row row;
	int r = inode_get(conn, ino, &row);

	return r ? (r == -ENOENT ? 0 : r) : set_implied(conn, row.parent, ino, false);
}

/* Notes whether the directory at p is shown over a live file or symlink. */
static int note_shadowing(struct place *p, const struct entry *e)
{
	bool over = e && entry_live(e) && e->kind != KIND_DIR;
	sqlite3_stmt *s = conn_statement(
		p->conn, over ? "INSERT OR REPLACE INTO shadowing(ino, key) VALUES(?1, ?2)"
			      : "DELETE FROM shadowing WHERE ino = ?1");

	if (!s)
		return conn_error(p->conn);
	bind_int(s, 1, (int64_t)p->now.ino);
	if (over)
		sqlite3_bind_blob(s, 2, p->key.p, (int)p->key.len, SQLITE_STATIC);
	return conn_run(p->conn, s);
}

int project_shadowing(struct conn *conn, struct slice key, uint64_t ino, bool *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT 1 FROM shadowing WHERE ino = ?1 AND key = ?2");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)ino);
	sqlite3_bind_blob(s, 2, key.p, (int)key.len, SQLITE_STATIC);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = r == 1;
	if (r == 1)
		sqlite3_reset(s);
	return 0;
}

/* The implied inode of parent after *ino: 1, 0 or -errno. */
static int next_implied(struct conn *conn, uint64_t parent, uint64_t *ino)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT ino FROM implied WHERE parent = ?1 AND ino > ?2"
				     " ORDER BY ino LIMIT 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)parent);
	bind_int(s, 2, (int64_t)*ino);
	r = conn_row(conn, s);
	if (r == 1) {
		*ino = (uint64_t)sqlite3_column_int64(s, 0);
		sqlite3_reset(s);
	}
	return r;
}

static void invalidate_attr(struct conn *conn, uint64_t ino)
{
	conn_invalidate(conn, &(struct invalidation){.ino = ino});
}

/* What is implied below a directory follows its owner. The recursion is as deep as a path may be.
 */
static int owner_changed(struct conn *conn, uint64_t parent, uint32_t uid, uint32_t gid)
{
	uint64_t ino = 0;
	int r;

	while ((r = next_implied(conn, parent, &ino)) == 1) {
		struct inode_row row;

		r = inode_get(conn, ino, &row);
		if (r && r != -ENOENT)
			return r;
		if (r == -ENOENT || row.parent != parent) {
			/* Removed or renamed by an application since. */
			r = set_implied(conn, parent, ino, false);
			if (r)
				return r;
			continue;
		}
		if (row.uid == uid && row.gid == gid)
			continue;
		r = inode_set_attr(conn, ino, SET_UID | SET_GID, 0, uid, gid, 0);
		if (r)
			return r;
		invalidate_attr(conn, ino);
		if (S_ISDIR(row.mode)) {
			r = owner_changed(conn, ino, uid, gid);
			if (r)
				return r;
		}
	}
	return r;
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

static int apply_look(struct conn *conn, const struct inode_row *row, const struct look *look)
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
		invalidate_attr(conn, row->ino);
	if (!r && row->ino != ROOT_INO)
		r = set_implied(conn, row->parent, row->ino, !look->owned);
	if (!r && S_ISDIR(row->mode) && (mask & (SET_UID | SET_GID)))
		r = owner_changed(conn, row->ino, look->uid, look->gid);
	return r;
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
	return apply_look(conn, &row, &look);
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

/* ---- names ---- */

static void invalidate_name(struct place *p)
{
	char name[NAME_MAX_BYTES + 1];

	CHECK(p->name.len <= NAME_MAX_BYTES);
	memcpy(name, p->name.p, p->name.len);
	name[p->name.len] = '\0';
	conn_invalidate(p->conn, &(struct invalidation){.parent = p->parent.ino, .name = name});
}

static int find_place(
	struct conn *conn, struct slice key, const struct inode_row *parent, struct place *ret)
{
	int r;

	*ret = (struct place){.conn = conn, .key = key, .parent = *parent, .name = key_name(key)};
	r = inode_child(conn, parent->ino, ret->name, &ret->now);
	if (r == -ENOENT) {
		ret->now = (struct inode_row){0};
		return 0;
	}
	return r;
}

/* Takes what is there off its name. */
static int detach(struct place *p, bool keep)
{
	struct inode_row was = p->now;
	int r;

	if (mode_kind(p->now.mode) == KIND_ABSENT)
		log_info("special file gives way to a change from elsewhere key=\"%.*s\"",
			(int)p->key.len, p->key.p);
	r = inode_detach(p->conn, p->parent.ino, p->name, p->now.ino, keep, &p->key);

	if (!r)
		r = set_implied(p->conn, p->parent.ino, p->now.ino, false);
	if (r)
		return r;
	invalidate_name(p);
	p->now = (struct inode_row){0};
	invalidate_attr(p->conn, was.ino);
	return was.nlink <= 1 ? 0 : shown_left(p->conn, was.ino);
}

/* Takes off what another content replaces; its inode goes to the caller when it wants one. */
static int replace(struct place *p, uint64_t *keep_ino)
{
	bool keep = keep_ino && *keep_ino == 0 && S_ISREG(p->now.mode) &&
		    p->now.state == STATE_LOCAL && p->now.nlink == 1; /* another name keeps it */

	if (keep)
		*keep_ino = p->now.ino;
	return detach(p, keep);
}

static int same_target(
	struct conn *conn, const struct inode_row *row, const struct entry *e, bool *ret)
{
	AUTO_FREE char *target = NULL;
	int r;

	*ret = false;
	if (!S_ISLNK(row->mode) || e->kind != KIND_SYMLINK)
		return 0;
	r = inode_target(conn, row->ino, &target);
	if (!r)
		*ret = strcmp(target, e->target ? e->target : "") == 0;
	return r;
}

/* Changes that no seal has taken yet, also of a file that nobody has open any more. */
static bool is_unsealed(struct conn *conn, const struct inode_row *row)
{
	return S_ISREG(row->mode) && ((row->dirty && row->generation != row->sealed) ||
					     file_has_unsealed(conn_cache(conn), row));
}

/* The name is needed for a directory. e: the entry there, NULL for none. */
static int hide(struct place *p, const struct entry *e)
{
	struct entry loser = {0};
	bool local = S_ISREG(p->now.mode) && p->now.state == STATE_LOCAL && p->now.nlink == 1;
	bool sealed = e && shows_sealed(&p->now, e) && !is_unsealed(p->conn, &p->now);
	uint64_t ino = p->now.ino;
	int r;

	if (!local)
		return detach(p, false);
	loser.kind = KIND_FILE;
	loser.size = p->now.size;
	memcpy(loser.hash, p->now.hash, SHA256_SIZE);
	loser.mode = p->now.mode & 07777;
	loser.uid = p->now.uid;
	loser.gid = p->now.gid;
	loser.content_mtime_ns = p->now.mtime_ns;
	r = detach(p, true);
	if (r)
		return r;
	return conflict_add(p->conn, p->key, sealed ? e : &loser, e ? e : &loser, ino,
		sealed ? CONFLICT_HIDDEN : "displaced by a directory");
}

/* ---- making ---- */

static int finish_make(struct place *p, uint64_t ino, const struct look *look)
{
	int r = 0;

	if (look->xattrs.len)
		r = inode_set_xattrs(p->conn, ino, look->xattrs);
	if (!r && !look->owned)
		r = set_implied(p->conn, p->parent.ino, ino, true);
	if (!r)
		r = inode_get(p->conn, ino, &p->now);
	if (!r)
		invalidate_name(p);
	return r;
}

static struct inode_row new_inode(uint32_t type, const struct look *look)
{
	return (struct inode_row){
		.mode = type | look->mode,
		.uid = look->uid,
		.gid = look->gid,
		.atime_ns = look->mtime_ns,
		.mtime_ns = look->mtime_ns,
		.ctime_ns = clock_realtime_ns(),
	};
}

static int make_dir(struct place *p, const struct entry *e)
{
	struct look look = look_of(e, KIND_DIR, &p->parent);
	struct inode_row row = new_inode(S_IFDIR, &look);
	int r = inode_make(p->conn, p->parent.ino, p->name, &row, NULL);

	if (!r)
		r = finish_make(p, row.ino, &look);
	return r ? r : note_shadowing(p, e);
}

static int make_file(struct place *p, const struct entry *e, struct incoming *incoming)
{
	struct look look = look_of(e, KIND_FILE, &p->parent);
	struct inode_row row = new_inode(S_IFREG, &look);
	struct content_writer *w = incoming ? incoming->content : NULL;
	int r;

	row.size = e->size;
	row.state = STATE_REMOTE;
	row.has_hash = true;
	memcpy(row.hash, e->hash, SHA256_SIZE);
	if (w && w->size != e->size)
		w = NULL;
	if (w) {
		row.ino = w->ino;
		row.state = STATE_LOCAL;
	}
	r = inode_make(p->conn, p->parent.ino, p->name, &row, NULL);
	if (!r)
		r = finish_make(p, row.ino, &look);
	if (!r && w)
		incoming->used = true;
	if (!r && !w && e->size)
		r = refresh_note(p->conn, row.ino, p->was_here);
	return r;
}

static int make_symlink(struct place *p, const struct entry *e)
{
	struct look look = look_of(e, KIND_SYMLINK, &p->parent);
	struct inode_row row = new_inode(S_IFLNK, &look);
	const char *target = e->target ? e->target : "";
	int r;

	row.size = strlen(target);
	r = inode_make(p->conn, p->parent.ino, p->name, &row, target);
	return r ? r : finish_make(p, row.ino, &look);
}

/* 1 when the hidden file was put back, 0 when there is none, or -errno. */
static int unhide(struct place *p, const struct entry *e)
{
	struct look look = look_of(e, KIND_FILE, &p->parent);
	struct hidden hidden;
	int r = hidden_find(p->conn, p->key, e->hash, &hidden);

	if (r == 0)
		r = hidden_find_linked(p->conn, e, &hidden);
	if (r <= 0)
		return r;
	r = hidden_forget(p->conn, hidden.id);
	if (r)
		return r;
	r = inode_attach(p->conn, hidden.ino, p->parent.ino, p->name);
	if (!r)
		r = inode_get(p->conn, hidden.ino, &p->now);
	if (!r) {
		invalidate_name(p);
		r = apply_look(p->conn, &p->now, &look);
	}
	return r ? r : 1;
}

/* Of an inode of several names, what all their entries say. */
static int show_look(struct place *p, const struct entry *e)
{
	CLEANUP(entry_done) struct entry shown = {0};
	struct look look;
	int r = 0;

	if (p->now.nlink > 1)
		r = project_shown(p->conn, p->now.ino, p->key, e, NULL, &shown);
	if (r)
		return r;
	look = look_of(p->now.nlink > 1 ? &shown : e, e->kind, &p->parent);
	return apply_look(p->conn, &p->now, &look);
}

/* The free name, whose entry is e, becomes one more of ino, which may have changes of an application
 * that are journalled for its other names only. */
static int attach(struct place *p, uint64_t ino, const struct entry *e)
{
	int r = inode_link(p->conn, ino, p->parent.ino, p->name);

	if (!r)
		r = inode_get(p->conn, ino, &p->now);
	if (r)
		return r;
	invalidate_name(p);
	invalidate_attr(p->conn, ino);
	project_put(p->conn, ino, e);
	return shown_left(p->conn, ino);
}

/* Puts the live file or symlink of e on a free name. */
static int make_leaf(struct place *p, const struct entry *e, struct incoming *incoming)
{
	uint64_t ino;
	int r = link_id_find(p->conn, e, 0, &ino);

	if (r != -ENOENT)
		return r ? r : attach(p, ino, e);
	if (e->kind == KIND_SYMLINK) {
		r = make_symlink(p, e);
	} else {
		r = unhide(p, e);
		r = r == 0 ? make_file(p, e, incoming) : r < 0 ? r : 0;
	}
	return r ? r : link_id_set(p->conn, p->now.ino, e->link);
}

/* ---- one inode for the names of a file ---- */

/* Which of two with the same sealed content stays: the one whose content is here, then the one that was
 * changed since, then the one that is open, then the older one. */
static uint64_t better(struct conn *conn, const struct inode_row *a, const struct inode_row *b)
{
	struct cache *c = conn_cache(conn);
	struct stat st;
	bool open;

	if (S_ISREG(a->mode) && a->state != b->state)
		return a->state == STATE_LOCAL ? a->ino : b->ino;
	if (is_unsealed(conn, a) != is_unsealed(conn, b))
		return is_unsealed(conn, a) ? a->ino : b->ino;
	open = file_stat_open(c, a->ino, &st);
	if (open != file_stat_open(c, b->ino, &st))
		return open ? a->ino : b->ino;
	return a->ino < b->ino ? a->ino : b->ino;
}

/* What either shows and the other's names do not say may not be sealed yet. When both were written since
 * their seals, one would go with what was written to it: they stay two, and whichever is sealed next joins
 * the other then. */
static int join(struct place *p, uint64_t other, bool *joined)
{
	struct inode_row row;
	uint64_t stays;
	int r = inode_get(p->conn, other, &row);

	*joined = false;
	if (r || (is_unsealed(p->conn, &p->now) && is_unsealed(p->conn, &row)))
		return r;
	*joined = true;
	stays = better(p->conn, &p->now, &row);
	r = link_absorb(p->conn, stays, stays == other ? p->now.ino : other);
	if (!r)
		r = inode_get(p->conn, stays, &p->now);
	return r ? r : shown_left(p->conn, stays);
}

/* What p shows has e's content: sees to it that it is e's file, too, and no other inode is. *left: p has
 * another inode, or got names; what it shows is seen to. */
static int settle_file(struct place *p, const struct entry *e, bool *left)
{
	struct link_id now;
	uint64_t other = 0;
	int r = link_id_get(p->conn, p->now.ino, &now);

	*left = false;
	if (!r && e->link.origin)
		r = link_id_find(p->conn, e, p->now.ino, &other);
	if (r && r != -ENOENT)
		return r;
	if (!link_id_equal(now, e->link) && p->now.nlink > 1) {
		*left = true;
		r = detach(p, false);
		return r ? r : make_leaf(p, e, NULL);
	}
	r = link_id_equal(now, e->link) ? 0 : link_id_set(p->conn, p->now.ino, e->link);
	return r || !other ? r : join(p, other, left);
}

/* ---- the steps ---- */

/* False in *ret when something unsealed of an application is in the directory, or the directory
 * itself is that. */
static int removable(struct conn *conn, struct slice key, uint64_t dir, bool *ret)
{
	bool empty = false, pending = false;
	int r = inode_dir_empty(conn, dir, &empty);

	if (!r && empty)
		r = journal_pending(conn, key, &pending);
	if (!r)
		*ret = empty && !pending;
	return r;
}

static int show_dir(struct place *p, const struct entry *e, uint64_t *keep_ino)
{
	struct look look;
	bool same = false;
	int r = 0;

	if (p->now.ino && S_ISDIR(p->now.mode)) {
		look = look_of(e, KIND_DIR, &p->parent);
		r = apply_look(p->conn, &p->now, &look);
		return r ? r : note_shadowing(p, e);
	}
	if (p->now.ino) {
		r = same_target(p->conn, &p->now, e, &same);
		if (!r)
			r = same || shows_sealed(&p->now, e) ? hide(p, e) : replace(p, keep_ino);
	}
	return r ? r : make_dir(p, e);
}

static int show_leaf(struct place *p, const struct entry *e, bool content_changed,
	struct incoming *incoming, uint64_t *keep_ino)
{
	bool same = false, free_name = true, left = false;
	int r = 0;

	if (!p->now.ino)
		return make_leaf(p, e, incoming);
	if (mode_kind(p->now.mode) == e->kind) {
		r = same_target(p->conn, &p->now, e, &same);
		if (r)
			return r;
		same = same || shows_sealed(&p->now, e);
		if (same)
			r = settle_file(p, e, &left);
		if (r || left)
			return r;
		if (!content_changed || same)
			return show_look(p, e);
	}
	if (S_ISDIR(p->now.mode))
		r = removable(p->conn, p->key, p->now.ino, &free_name);
	if (r || !free_name)
		return r;
	p->was_here = S_ISREG(p->now.mode) && (p->now.state == STATE_LOCAL ||
						      partial_known(conn_cache(p->conn), p->now.ino));
	r = replace(p, keep_ino);
	return r ? r : make_leaf(p, e, incoming);
}

static int show_nothing(struct place *p, uint64_t *keep_ino)
{
	bool free_name = true;
	int r = 0;

	if (!p->now.ino || mode_kind(p->now.mode) == KIND_ABSENT)
		return 0; /* a special file is nobody else's business */
	if (S_ISDIR(p->now.mode))
		r = removable(p->conn, p->key, p->now.ino, &free_name);
	if (r || !free_name)
		return r;
	return replace(p, keep_ino);
}

/* Makes sure that an ancestor is shown as a directory; its row in *dir, which holds its parent's.
 */
static int make_ancestor(struct conn *conn, struct slice key, struct inode_row *dir)
{
	CLEANUP(entry_done) struct entry e = {0};
	const struct entry *known = &e;
	struct place p;
	int r = find_place(conn, key, dir, &p);

	if (r)
		return r;
	if (p.now.ino && S_ISDIR(p.now.mode)) {
		*dir = p.now;
		return 0;
	}
	r = entry_get(conn, key, &e);
	if (r == -ENOENT)
		known = NULL;
	else if (r)
		return r;
	r = p.now.ino ? hide(&p, known) : 0;
	if (!r)
		r = make_dir(&p, known);
	if (!r)
		*dir = p.now;
	return r;
}

static int make_ancestors(struct conn *conn, struct slice key, struct inode_row *parent)
{
	int r = inode_get(conn, ROOT_INO, parent);

	for (size_t i = 1; !r && i < key.len; i++) {
		if (key.p[i] == '/')
			r = make_ancestor(conn, (struct slice){key.p, i}, parent);
	}
	return r;
}

/* 1 when the directory at key was removed, 0 when it stays (or gave way to a file), or -errno. */
static int prune_one(struct conn *conn, struct slice key, struct inode_row *row)
{
	CLEANUP(entry_done) struct entry e = {0};
	struct inode_row parent;
	struct place p;
	bool free_name = false;
	int r = entry_get(conn, key, &e);

	if (r && r != -ENOENT)
		return r;
	if (!S_ISDIR(row->mode) || e.kind == KIND_DIR)
		return 0;
	r = removable(conn, key, row->ino, &free_name);
	if (r || !free_name)
		return r;
	r = inode_get(conn, row->parent, &parent);
	if (!r)
		r = find_place(conn, key, &parent, &p);
	if (!r)
		r = detach(&p, false);
	if (r)
		return r;
	if (e.kind == KIND_ABSENT)
		return 1;
	return make_leaf(&p, &e, NULL);
}

int project_ancestors(struct conn *conn, struct slice key)
{
	while (key.len) {
		struct inode_row row;
		bool live_below = false;
		int r;

		key = key_parent(key);
		if (key.len == 0)
			return 0;
		r = entry_has_live_below(conn, key, &live_below);
		if (r || live_below)
			return r;
		r = inode_resolve(conn, key, &row);
		if (r == -ENOENT)
			continue; /* gone already; what is above it may follow */
		if (r)
			return r;
		r = prune_one(conn, key, &row);
		if (r <= 0)
			return r;
	}
	return 0;
}

int project_sealed(struct conn *conn, struct slice key, const struct entry *e)
{
	struct inode_row parent;
	struct place p;
	bool same = false, left;
	int r = inode_resolve(conn, key_parent(key), &parent);

	if (!r)
		r = find_place(conn, key, &parent, &p);
	if (r || !p.now.ino || mode_kind(p.now.mode) != e->kind)
		return r == -ENOENT ? 0 : r;
	r = same_target(conn, &p.now, e, &same);
	if (r || !(same || shows_sealed(&p.now, e)))
		return r;
	/* The name itself shows what was sealed, or what was done since then. */
	return settle_file(&p, e, &left);
}

int project_owner(struct conn *conn, struct slice key)
{
	struct inode_row row;
	int r = inode_resolve(conn, key, &row);

	if (r || !S_ISDIR(row.mode))
		return r == -ENOENT ? 0 : r;
	return owner_changed(conn, row.ino, row.uid, row.gid);
}

static int project_root(struct conn *conn, const struct entry *e)
{
	struct inode_row root;
	struct look look;
	int r = inode_get(conn, ROOT_INO, &root);

	if (r)
		return r;
	look = look_of(e, KIND_DIR, &root);
	if (!look.owned)
		look.mode = root.mode & 07777;
	return apply_look(conn, &root, &look);
}

int project_entry(struct conn *conn, struct slice key, const struct entry *e, bool content_changed,
	struct incoming *incoming, uint64_t *keep_ino)
{
	struct inode_row parent;
	struct place p;
	bool live_below = false;
	uint64_t kept = 0, *keep = keep_ino ? &kept : NULL;
	int r;

	/* What shows it counts it in, and what does not any more is forgotten. */
	shown_sure(conn);
	if (key.len == 0) {
		if (keep_ino)
			*keep_ino = 0;
		return project_root(conn, e);
	}
	r = entry_has_live_below(conn, key, &live_below);
	if (!r && content_changed)
		r = hidden_replace(conn, key, e, keep);
	if (r)
		return r;
	if (entry_live(e) || live_below) {
		r = make_ancestors(conn, key, &parent);
	} else {
		r = inode_resolve(conn, key_parent(key), &parent);
		if (!r && !S_ISDIR(parent.mode))
			r = -ENOENT;
	}
	if (!r)
		r = find_place(conn, key, &parent, &p);
	if (r == 0) {
		if (live_below || e->kind == KIND_DIR)
			r = show_dir(&p, e, keep);
		else if (entry_live(e))
			r = show_leaf(&p, e, content_changed, incoming, keep);
		else
			r = show_nothing(&p, keep);
	} else if (r == -ENOENT && !entry_live(e) && !live_below) {
		r = 0; /* not there, nor its directory */
	}
	if (!r && !entry_live(e) && !live_below)
		r = project_ancestors(conn, key);
	if (!r && keep_ino)
		*keep_ino = kept;
	return r;
}
