/*
 * Hard links: the additional names of an inode.
 *
 * The inode's row holds its first name, as it does for an inode with one; table link holds the
 * others, so nlink is 1 plus its rows there and the common case costs nothing: as long as the
 * volume never had a link, c->linked spares even the look. When the first name goes, one of the
 * others takes its place. Each name is a path of its own for the replicator (an entry, a record, an
 * object): a change of the inode is journalled for each.
 */
#include <errno.h>

#include "cache/internal.h"
#include "src/base/clock.h"

int link_init(struct cache *c)
{
	struct conn *conn AUTO_READ_END = NULL;
	sqlite3_stmt *s;
	int r = cache_read_begin(c, &conn);

	if (r)
		return r;
	s = conn_statement(
		conn, "SELECT EXISTS(SELECT 1 FROM link) OR EXISTS(SELECT 1 FROM link_id)");
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	atomic_store(&c->linked, sqlite3_column_int(s, 0) != 0);
	sqlite3_reset(s);
	return 0;
}

/* Binds a name of ino as ?1 to ?3. */
static void bind_name(sqlite3_stmt *s, uint64_t ino, uint64_t parent, struct slice name)
{
	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, (int64_t)parent);
	bind_slice(s, 3, name);
}

static int change_nlink(struct conn *conn, uint64_t ino, int delta)
{
	sqlite3_stmt *s = conn_statement(
		conn, "UPDATE inode SET nlink = nlink + ?2, ctime_ns = ?3 WHERE ino = ?1");

	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, delta);
	bind_int(s, 3, clock_realtime_ns());
	return conn_run(conn, s);
}

int link_add(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT INTO link(ino, parent, name) VALUES(?1, ?2, ?3)");
	int r;

	/* Before the row can be seen; a rollback leaves it set, which costs looks only. */
	atomic_store(&conn->cache->linked, true);
	bind_name(s, ino, parent, name);
	r = conn_run(conn, s);
	return r ? r : change_nlink(conn, ino, 1);
}

/* *found: there was such a row. */
static int delete_row(
	struct conn *conn, uint64_t ino, uint64_t parent, struct slice name, bool *found)
{
	sqlite3_stmt *s = conn_statement(
		conn, "DELETE FROM link WHERE ino = ?1 AND parent = ?2 AND name = ?3");
	int r;

	bind_name(s, ino, parent, name);
	r = conn_run(conn, s);
	*found = !r && sqlite3_changes(conn->db) == 1;
	return r;
}

/* The additional name after (parent, name): 1, 0 or -errno. */
static int next_row(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
	uint64_t *ret_parent, struct key *ret_name)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT parent, name FROM link WHERE ino = ?1 AND (parent, name) > (?2, ?3)"
		" ORDER BY parent, name LIMIT 1");
	int r;

	bind_name(s, ino, parent, name);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	*ret_parent = (uint64_t)sqlite3_column_int64(s, 0);
	r = key_set(ret_name, column_slice(s, 1)) ? 1 : -EIO;
	sqlite3_reset(s);
	return r;
}

static int promote(struct conn *conn, uint64_t ino)
{
	uint64_t parent;
	struct key name;
	sqlite3_stmt *s;
	bool found;
	int r = next_row(conn, ino, 0, slice_of(""), &parent, &name);

	if (r <= 0)
		return r ? r : -EIO;
	r = delete_row(conn, ino, parent, key_slice(&name), &found);
	if (r)
		return r;
	s = conn_statement(conn, "UPDATE inode SET parent = ?2, name = ?3 WHERE ino = ?1");
	bind_name(s, ino, parent, key_slice(&name));
	return conn_run(conn, s);
}

int link_remove(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name)
{
	bool found;
	int r = delete_row(conn, ino, parent, name, &found);

	shown_drop(conn, ino);
	if (!r && !found)
		r = promote(conn, ino);
	return r ? r : change_nlink(conn, ino, -1);
}

int link_move(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
	uint64_t new_parent, struct slice new_name)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE link SET parent = ?4, name = ?5 WHERE ino = "
					       "?1 AND parent = ?2 AND name = ?3");
	int r;

	shown_drop(conn, ino);
	bind_name(s, ino, parent, name);
	bind_int(s, 4, (int64_t)new_parent);
	bind_slice(s, 5, new_name);
	r = conn_run(conn, s);
	if (!r && sqlite3_changes(conn->db) != 1)
		r = -ENOENT;
	return r ? r : change_nlink(conn, ino, 0);
}

int link_each(struct conn *conn, uint64_t ino, link_name_fn fn, void *ctx)
{
	struct inode_row dir;
	uint64_t parent = 0;
	struct key name = {0}, key;
	int r = inode_key(conn, ino, &key);

	if (!r)
		r = fn(ctx, key_slice(&key));
	if (r == -ENOENT)
		r = 0;
	if (!atomic_load(&conn->cache->linked))
		return r;
	while (!r && (r = next_row(conn, ino, parent, key_slice(&name), &parent, &name)) == 1) {
		r = name_key(conn, parent, key_slice(&name), &key, &dir);
		if (!r)
			r = fn(ctx, key_slice(&key));
		else if (r == -ENOENT)
			r = 0;
	}
	return r;
}

struct journalling {
	struct conn *conn;
	struct slice except;
	uint64_t time;
};

static int journal_name(void *ctx, struct slice key)
{
	struct journalling *j = ctx;

	if (j->except.p && slice_equal(key, j->except))
		return 0;
	return journal_append(j->conn, JOURNAL_PUT, key, slice_of(""), j->time);
}

int link_journal(struct conn *conn, uint64_t ino, struct slice except, uint64_t time)
{
	struct journalling j = {conn, except, time};

	return link_each(conn, ino, journal_name, &j);
}

struct other_names {
	struct conn *conn;
	journal_except_fn except;
	void *ctx;
	uint64_t time;
};

static int journal_other(void *ctx, struct slice key)
{
	struct other_names *o = ctx;
	bool found = false;
	int r = 0;

	if (!o->except(o->ctx, key))
		r = journal_has_row(o->conn, key, &found);
	else
		found = true;
	if (r || found)
		return r;
	return journal_append(o->conn, JOURNAL_PUT, key, slice_of(""), o->time);
}

int journal_other_names(
	struct conn *conn, uint64_t ino, journal_except_fn except, void *ctx, uint64_t time)
{
	struct other_names o = {conn, except, ctx, time};

	return atomic_load(&conn->cache->linked) ? link_each(conn, ino, journal_other, &o) : 0;
}
