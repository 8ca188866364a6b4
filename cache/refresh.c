/* Why this file: the table refresh. Numbers of inodes only grow, so their order is that of arrival. */
#include "cache/refresh.h"

#include <errno.h>

#include "cache/internal.h"

void refresh_set_mode(struct cache *c, enum refresh_mode mode)
{
	atomic_store(&c->refresh, mode);
}

int refresh_note(struct conn *conn, uint64_t ino, bool was_here)
{
	enum refresh_mode mode = (enum refresh_mode)atomic_load(&conn->cache->refresh);
	sqlite3_stmt *s;

	if (mode == REFRESH_LAZY || (mode == REFRESH_CACHED && !was_here))
		return 0;
	s = conn_statement(conn, "INSERT OR IGNORE INTO refresh(ino) VALUES(?1)");
	bind_int(s, 1, (int64_t)ino);
	return conn_run(conn, s);
}

int refresh_next(struct cache *c, uint64_t after, uint64_t *ino)
{
	struct conn *conn AUTO_READ_END = NULL;
	sqlite3_stmt *s;
	int r = cache_read_begin(c, &conn);

	if (r)
		return r;
	s = conn_statement(conn, "SELECT ino FROM refresh WHERE ino > ?1 ORDER BY ino LIMIT 1");
	bind_int(s, 1, (int64_t)after);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	*ino = (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

int refresh_done(struct cache *c, uint64_t ino)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	sqlite3_stmt *s;
	int r = cache_begin_lazy(c, &conn);

	if (r)
		return r;
	s = conn_statement(conn, "DELETE FROM refresh WHERE ino = ?1");
	bind_int(s, 1, (int64_t)ino);
	r = conn_run(conn, s);
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	return r;
}

int refresh_count(struct conn *conn, uint64_t *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT count(*) FROM (SELECT 1 FROM refresh LIMIT ?1)");
	int r;

	bind_int(s, 1, REFRESH_COUNT_MAX);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	*ret = (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}
