/*
 * What the projection does at one name: takes off what is there, and puts there what an entry says.
 *
 * What is taken off is a detached inode: deleted at commit, or at its last release, or kept for a
 * conflict. A file whose name is needed for a directory is hidden, or a conflict when it has something
 * that is not sealed. What is put there is, in this order, one more name of an inode that is the same
 * file, a hidden file that comes back, or a new inode.
 *
 * Each step leaves in place.now what is there afterwards, and queues what the kernel has to be told.
 */
#include "cache/project_place.h"

#include <errno.h>

#include "cache/conflict.h"
#include "cache/hidden.h"
#include "cache/project.h"
#include "cache/refresh.h"
#include "cache/replication.h"
#include "src/base/clock.h"
#include "src/base/log.h"

static void invalidate_name(struct place *p)
{
	char name[NAME_MAX_BYTES + 1];

	CHECK(p->name.len <= NAME_MAX_BYTES);
	memcpy(name, p->name.p, p->name.len);
	name[p->name.len] = '\0';
	conn_invalidate(p->conn, &(struct invalidation){.parent = p->parent.ino, .name = name});
}

int place_find(
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

/* ---- taking off ---- */

int place_detach(struct place *p, bool keep)
{
	struct inode_row was = p->now;
	int r;

	if (mode_kind(p->now.mode) == KIND_ABSENT)
		log_info("special file gives way to a change from elsewhere key=\"%.*s\"",
			(int)p->key.len, p->key.p);
	r = inode_detach(p->conn, p->parent.ino, p->name, p->now.ino, keep, &p->key);

	if (!r)
		r = look_set_implied(p->conn, p->parent.ino, p->now.ino, false);
	if (r)
		return r;
	invalidate_name(p);
	p->now = (struct inode_row){0};
	look_invalidate(p->conn, was.ino);
	return was.nlink <= 1 ? 0 : shown_left(p->conn, was.ino);
}

int place_replace(struct place *p, uint64_t *keep_ino)
{
	bool keep = keep_ino && *keep_ino == 0 && S_ISREG(p->now.mode) &&
		    p->now.state == STATE_LOCAL && p->now.nlink == 1; /* another name keeps it */

	if (keep)
		*keep_ino = p->now.ino;
	return place_detach(p, keep);
}

int place_same_target(
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

int place_hide(struct place *p, const struct entry *e)
{
	struct entry loser = {0};
	bool local = S_ISREG(p->now.mode) && p->now.state == STATE_LOCAL && p->now.nlink == 1;
	bool unsealed = file_is_unsealed(conn_cache(p->conn), &p->now);
	bool sealed = e && shows_sealed(&p->now, e) && !unsealed, was_sealed = p->now.has_hash;
	uint64_t ino = p->now.ino;
	int r;

	if (!local)
		return place_detach(p, false);
	loser.kind = KIND_FILE;
	loser.size = p->now.size;
	memcpy(loser.hash, p->now.hash, SHA256_SIZE);
	loser.mode = p->now.mode & 07777;
	loser.uid = p->now.uid;
	loser.gid = p->now.gid;
	loser.content_mtime_ns = p->now.mtime_ns;
	r = place_detach(p, true);
	/* What was never sealed is listed when it has been read (file_detached.c). */
	if (r || (unsealed && !was_sealed))
		return r;
	return conflict_add(p->conn, p->key, sealed ? e : &loser, e ? e : &loser, ino,
		sealed ? CONFLICT_HIDDEN : "displaced by a directory");
}

int place_note_shadowing(struct place *p, const struct entry *e)
{
	bool over = e && entry_live(e) && e->kind != KIND_DIR;
	sqlite3_stmt *s = conn_statement(
		p->conn, over ? "INSERT OR REPLACE INTO shadowing(ino, key) VALUES(?1, ?2)"
			      : "DELETE FROM shadowing WHERE ino = ?1");

	bind_int(s, 1, (int64_t)p->now.ino);
	if (over)
		sqlite3_bind_blob(s, 2, p->key.p, (int)p->key.len, SQLITE_STATIC);
	return conn_run(p->conn, s);
}

int project_shadowing(struct conn *conn, struct slice key, uint64_t ino, bool *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT 1 FROM shadowing WHERE ino = ?1 AND key = ?2");

	bind_int(s, 1, (int64_t)ino);
	sqlite3_bind_blob(s, 2, key.p, (int)key.len, SQLITE_STATIC);
	return conn_exists(conn, s, ret);
}

/* ---- making ---- */

static int finish_make(struct place *p, uint64_t ino, const struct look *look)
{
	int r = 0;

	if (look->xattrs.len)
		r = inode_set_xattrs(p->conn, ino, look->xattrs);
	if (!r && !look->owned)
		r = look_set_implied(p->conn, p->parent.ino, ino, true);
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

int place_make_dir(struct place *p, const struct entry *e)
{
	struct look look = look_of(e, KIND_DIR, &p->parent);
	struct inode_row row = new_inode(S_IFDIR, &look);
	int r = inode_make(p->conn, p->parent.ino, p->name, &row, NULL);

	if (!r)
		r = finish_make(p, row.ino, &look);
	return r ? r : place_note_shadowing(p, e);
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
		r = look_apply(p->conn, &p->now, &look);
	}
	return r ? r : 1;
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
	look_invalidate(p->conn, ino);
	project_put(p->conn, ino, e);
	return shown_left(p->conn, ino);
}

int place_make_leaf(struct place *p, const struct entry *e, struct incoming *incoming)
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
