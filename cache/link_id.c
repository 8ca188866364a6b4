/*
 * Which file an inode is: what makes several names one inode on every server.
 *
 * Two names share an inode exactly when their entries carry the same link id, kind and content
 * (project_link.c sees to it). So the id is made with the second name, stands in the entry of every
 * name, and an inode keeps it for as long as it lives. While the names of one file have different
 * contents, because some of their records have not come yet or lost, there is an inode for each
 * content, all with that id: the table is looked up by id and content. Two of the same sealed content
 * that both were written since stay two until one of them is sealed again; so of all with one id and
 * content at most one has nothing unsealed, and that one only when there is no other.
 */
#include <errno.h>

#include "cache/internal.h"
#include "cache/project.h"

static bool linked(struct conn *conn)
{
	return atomic_load(&conn->cache->linked);
}

int link_id_get(struct conn *conn, uint64_t ino, struct link_id *ret)
{
	sqlite3_stmt *s;
	int r;

	*ret = (struct link_id){0};
	if (!linked(conn))
		return 0;
	s = conn_statement(conn, "SELECT origin, number FROM link_id WHERE ino = ?1");
	bind_int(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	ret->origin = (uint64_t)sqlite3_column_int64(s, 0);
	ret->number = (uint64_t)sqlite3_column_int64(s, 1);
	sqlite3_reset(s);
	return 0;
}

int link_id_set(struct conn *conn, uint64_t ino, struct link_id id)
{
	sqlite3_stmt *s;

	shown_drop(conn, ino);
	if (!id.origin) {
		if (!linked(conn))
			return 0;
		s = conn_statement(conn, "DELETE FROM link_id WHERE ino = ?1");
	} else {
		s = conn_statement(conn,
			"INSERT OR REPLACE INTO link_id(ino, origin, number) VALUES(?1, ?2, ?3)");
	}
	/* Before the row can be seen; a rollback leaves it set, which costs looks only. */
	if (id.origin)
		atomic_store(&conn->cache->linked, true);
	bind_int(s, 1, (int64_t)ino);
	if (id.origin) {
		bind_int(s, 2, (int64_t)id.origin);
		bind_int(s, 3, (int64_t)id.number);
	}
	return conn_run(conn, s);
}

int link_id_make(struct conn *conn, uint64_t ino, bool *made)
{
	struct link_id id;
	int r = link_id_get(conn, ino, &id);

	*made = false;
	if (r || id.origin)
		return r;
	/* Not the inode's own number: it may have had an id before, and lost it. */
	r = conn_new_ino(conn, &id.number);
	if (r)
		return r;
	id.origin = cache_node(conn->cache);
	*made = true;
	return link_id_set(conn, ino, id);
}

bool shows_sealed(const struct inode_row *row, const struct entry *e)
{
	/* The row of a dirty inode has the last seal's hash; its size does not follow. */
	return S_ISREG(row->mode) && e->kind == KIND_FILE && row->has_hash &&
	       memcmp(row->hash, e->hash, SHA256_SIZE) == 0 && (row->dirty || row->size == e->size);
}

static int shows(struct conn *conn, const struct inode_row *row, const struct entry *e, bool *ret)
{
	AUTO_FREE char *target = NULL;
	int r;

	*ret = false;
	if (row->nlink == 0 || mode_kind(row->mode) != e->kind)
		return 0;
	if (e->kind == KIND_FILE) {
		*ret = shows_sealed(row, e);
		return 0;
	}
	r = inode_target(conn, row->ino, &target);
	if (!r)
		*ret = strcmp(target, e->target ? e->target : "") == 0;
	return r;
}

/* The inode after *ino with that id: 1, 0 or -errno. */
static int next_inode(struct conn *conn, struct link_id id, uint64_t *ino)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT ino FROM link_id INDEXED BY link_id_file"
		" WHERE origin = ?1 AND number = ?2 AND ino > ?3 ORDER BY ino LIMIT 1");

	bind_int(s, 1, (int64_t)id.origin);
	bind_int(s, 2, (int64_t)id.number);
	bind_int(s, 3, (int64_t)*ino);
	return conn_number(conn, s, ino);
}

int link_id_find(struct conn *conn, const struct entry *e, uint64_t except, uint64_t *ret)
{
	uint64_t ino = 0;
	int r;

	if (!linked(conn) || !e->link.origin)
		return -ENOENT;
	while ((r = next_inode(conn, e->link, &ino)) == 1) {
		struct inode_row row;
		bool found = false;

		if (ino == except)
			continue;
		r = inode_get(conn, ino, &row);
		if (!r)
			r = shows(conn, &row, e, &found);
		if (r && r != -ENOENT)
			return r;
		if (found) {
			*ret = ino;
			return 0;
		}
	}
	return r ? r : -ENOENT;
}

/* ---- one inode of two ---- */

static int first_name(struct conn *conn, uint64_t ino, uint64_t *parent, struct key *name)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT parent, name FROM inode WHERE ino = ?1 AND nlink > 0");
	int r;

	bind_int(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	*parent = (uint64_t)sqlite3_column_int64(s, 0);
	r = key_set(name, column_slice(s, 1)) ? 0 : -EIO;
	sqlite3_reset(s);
	return r;
}

int link_absorb(struct conn *conn, uint64_t into, uint64_t from)
{
	struct key name, key;
	struct inode_row dir;
	uint64_t parent = 0;
	int r;

	shown_drop(conn, into);
	shown_drop(conn, from);
	while ((r = first_name(conn, from, &parent, &name)) == 0) {
		struct slice whole;

		r = name_key(conn, parent, key_slice(&name), &key, &dir);
		whole = key_slice(&key);
		if (!r)
			r = inode_detach(conn, parent, key_slice(&name), from, false, &whole);
		if (!r)
			r = inode_link(conn, into, parent, key_slice(&name));
		if (r)
			return r;
		conn_invalidate(conn, &(struct invalidation){.parent = parent, .name = name.p});
	}
	if (r != -ENOENT)
		return r;
	conn_invalidate(conn, &(struct invalidation){.ino = into});
	return 0;
}
