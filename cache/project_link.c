/*
 * One inode for the names of a file: names whose entries have the same link id and content become names
 * of one inode, and a name that its entry makes another file's leaves the inode.
 *
 * Nothing that is not sealed is lost by it: of two inodes the one that was written to since its seal
 * stays, and two that both were stay two until one of them is sealed.
 */
#include "cache/project_place.h"

#include <errno.h>

#include "cache/project.h"

/* Which of two with the same sealed content stays: the one whose content is here, then the one that was
 * changed since, then the one that is open, then the older one. */
static uint64_t better(struct conn *conn, const struct inode_row *a, const struct inode_row *b)
{
	struct cache *c = conn_cache(conn);
	struct stat st;
	bool open;

	if (S_ISREG(a->mode) && a->state != b->state)
		return a->state == STATE_LOCAL ? a->ino : b->ino;
	if (file_is_unsealed(conn_cache(conn), a) != file_is_unsealed(conn_cache(conn), b))
		return file_is_unsealed(conn_cache(conn), a) ? a->ino : b->ino;
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
	if (r || (file_is_unsealed(conn_cache(p->conn), &p->now) && file_is_unsealed(conn_cache(p->conn), &row)))
		return r;
	*joined = true;
	stays = better(p->conn, &p->now, &row);
	r = link_absorb(p->conn, stays, stays == other ? p->now.ino : other);
	if (!r)
		r = inode_get(p->conn, stays, &p->now);
	return r ? r : shown_left(p->conn, stays);
}

int place_settle_file(struct place *p, const struct entry *e, bool *left)
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
		r = place_detach(p, false);
		return r ? r : place_make_leaf(p, e, NULL);
	}
	r = link_id_equal(now, e->link) ? 0 : link_id_set(p->conn, p->now.ino, e->link);
	return r || !other ? r : join(p, other, left);
}

int project_sealed(struct conn *conn, struct slice key, const struct entry *e)
{
	struct inode_row parent;
	struct place p;
	bool same = false, left;
	int r = inode_resolve(conn, key_parent(key), &parent);

	if (!r)
		r = place_find(conn, key, &parent, &p);
	if (r || !p.now.ino || mode_kind(p.now.mode) != e->kind)
		return r == -ENOENT ? 0 : r;
	r = place_same_target(conn, &p.now, e, &same);
	if (r || !(same || shows_sealed(&p.now, e)))
		return r;
	/* The name itself shows what was sealed, or what was done since then. */
	return place_settle_file(&p, e, &left);
}
