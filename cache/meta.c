/* Small settings of the database by name, numbers and texts. */
#include <errno.h>

#include "cache/internal.h"
#include "cache/meta.h"

int meta_get_int(struct conn *conn, const char *name, int64_t *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT value FROM meta WHERE name = ?1");
	int r;

	bind_text(s, 1, name);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	*ret = sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

int meta_set_int(struct conn *conn, const char *name, int64_t value)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT INTO meta(name, value) VALUES(?1, ?2)"
				     " ON CONFLICT(name) DO UPDATE SET value = excluded.value");

	bind_text(s, 1, name);
	bind_int(s, 2, value);
	return conn_run(conn, s);
}

int meta_get_text(struct conn *conn, const char *name, char *value, size_t size)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT value FROM meta WHERE name = ?1");
	int r;

	bind_text(s, 1, name);
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	r = column_copy(s, 0, value, size) ? 0 : -ERANGE;
	sqlite3_reset(s);
	return r;
}

int meta_set_text(struct conn *conn, const char *name, const char *value)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT OR REPLACE INTO meta(name, value) VALUES(?1, ?2)");

	bind_text(s, 1, name);
	bind_text(s, 2, value);
	return conn_run(conn, s);
}
