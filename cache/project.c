/*
 * Projection: the tree as a function of the entries.
 *
 * What a path shows. With E its entry:
 *
 *   E is a live directory, or something below is live   directory
 *   E is a live file or symlink, nothing below is live  that
 *   otherwise                                           nothing
 *
 * A file that must give way to a directory is hidden, not lost: hidden.h. What a path's attributes are:
 * project_look.c; what is done at its name: project_place.c; names that are one inode: project_link.c.
 *
 * The tree may be ahead of the entries by what applications did and nobody sealed yet. The merger
 * seals the record's own key first; here a directory is only ever removed when it is empty and no
 * journal row waits for it, and an unsealed file that gives way becomes a conflict.
 */
#include "cache/project.h"

#include <errno.h>

#include "cache/hidden.h"
#include "cache/project_place.h"

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
	return look_apply(p->conn, &p->now, &look);
}

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
		r = look_apply(p->conn, &p->now, &look);
		return r ? r : place_note_shadowing(p, e);
	}
	if (p->now.ino) {
		r = place_same_target(p->conn, &p->now, e, &same);
		if (!r)
			r = same || shows_sealed(&p->now, e) ? place_hide(p, e) : place_replace(p, keep_ino);
	}
	return r ? r : place_make_dir(p, e);
}

static int show_leaf(struct place *p, const struct entry *e, bool content_changed,
	struct incoming *incoming, uint64_t *keep_ino)
{
	bool same = false, free_name = true, left = false;
	int r = 0;

	if (!p->now.ino)
		return place_make_leaf(p, e, incoming);
	if (mode_kind(p->now.mode) == e->kind) {
		r = place_same_target(p->conn, &p->now, e, &same);
		if (r)
			return r;
		same = same || shows_sealed(&p->now, e);
		if (same)
			r = place_settle_file(p, e, &left);
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
	r = place_replace(p, keep_ino);
	return r ? r : place_make_leaf(p, e, incoming);
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
	return place_replace(p, keep_ino);
}

/* Makes sure that an ancestor is shown as a directory; its row in *dir, which holds its parent's.
 */
static int make_ancestor(struct conn *conn, struct slice key, struct inode_row *dir)
{
	CLEANUP(entry_done) struct entry e = {0};
	const struct entry *known = &e;
	struct place p;
	int r = place_find(conn, key, dir, &p);

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
	r = p.now.ino ? place_hide(&p, known) : 0;
	if (!r)
		r = place_make_dir(&p, known);
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
		r = place_find(conn, key, &parent, &p);
	if (!r)
		r = place_detach(&p, false);
	if (r)
		return r;
	if (e.kind == KIND_ABSENT)
		return 1;
	return place_make_leaf(&p, &e, NULL);
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
		r = place_find(conn, key, &parent, &p);
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
