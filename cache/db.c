/*
 * Connections, prepared statements, numbers.
 *
 * One writer behind writer_lock; read connections from a pool that is as large as the number in use
 * at once ever was (at most READERS_MAX, then callers wait). All use unix-excl: the process
 * holds the file exclusively and the WAL index lies on the heap, so a read transaction costs no
 * system call for locks and a full disk cannot fault a shared mapping. No other process can open
 * the database meanwhile.; transaction.c is what the
 * writer does.
 */
#include "cache/db.h"

#include <errno.h>
#include <stdio.h>

#include "cache/internal.h"
#include "cache/meta.h"
#include "cache/project.h"
#include "cache/redo.h"
#include "cache/tally.h"

#define READERS_MAX 48
#define BUSY_MS 10000
#define WRITER_CACHE_KIB 8192
#define READER_CACHE_KIB 1024

static pthread_once_t configured = PTHREAD_ONCE_INIT;

static void configure(void)
{
	/* Statistics take a global mutex at each allocation. Too late (misuse) is no failure. */
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

static int on_wal(void *ctx, sqlite3 *db, const char *name, int pages)
{
	struct cache *c = ctx;

	atomic_store(&c->wal_pages, pages);
	return SQLITE_OK;
}

static int pragmas(struct conn *conn)
{
	char text[256];

	snprintf(text, sizeof(text),
		"PRAGMA page_size = %d; PRAGMA journal_mode = WAL; PRAGMA synchronous = %s;"
		"PRAGMA cache_size = -%d; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;"
		"PRAGMA journal_size_limit = 67108864; PRAGMA query_only = %d",
		DATABASE_PAGE_SIZE, conn->cache->sync_off ? "OFF" : "NORMAL",
		conn->writer ? WRITER_CACHE_KIB : READER_CACHE_KIB, !conn->writer);
	return sqlite3_exec(conn->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : conn_error(conn);
}

static void on_change(
	void *ctx, int op, const char *database, const char *table, sqlite3_int64 rowid)
{
	if (strcmp(table, "inode") == 0)
		row_cache_drop_inode(ctx, (uint64_t)rowid);
}

static void on_rollback(void *ctx)
{
	row_cache_clear(ctx);
}

/* key_len(name): the bytes that it takes in an object's key. */
static void sql_key_len(sqlite3_context *context, int count, sqlite3_value **values)
{
	struct slice name = {sqlite3_value_blob(values[0]), (size_t)sqlite3_value_bytes(values[0])};

	sqlite3_result_int64(context, (int64_t)key_escaped_len(name));
}

int conn_open(struct cache *c, bool writer, struct conn **ret)
{
	struct conn *conn;
	char *path = NULL;
	int r;

	pthread_once(&configured, configure);
	conn = calloc(1, sizeof(*conn));
	if (!conn || asprintf(&path, "%s/meridian.db", c->state_dir) < 0) {
		free(conn);
		return -ENOMEM;
	}
	conn->cache = c;
	conn->writer = writer;
	conn->notes_end = &conn->notes;
	conn->dir_keys = writer ? dir_keys_new() : NULL;
	conn->tally = writer ? tally_new() : NULL;
	conn->rows = writer ? row_cache_new() : NULL;
	conn->shown = writer ? shown_new() : NULL;
	if (writer && !(conn->dir_keys && conn->tally && conn->rows && conn->shown)) {
		r = -ENOMEM;
	} else if (sqlite3_open_v2(path, &conn->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
			   "unix-excl") != SQLITE_OK) {
		r = conn->db ? conn_error(conn) : -ENOMEM;
	} else {
		sqlite3_busy_timeout(conn->db, BUSY_MS);
		sqlite3_extended_result_codes(conn->db, 1);
		sqlite3_db_config(conn->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
		r = pragmas(conn);
		if (!r && sqlite3_create_function(conn->db, "key_len", 1,
				  SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, sql_key_len, NULL,
				  NULL) != SQLITE_OK)
			r = conn_error(conn);
	}
	free(path);
	if (r) {
		conn_close(conn);
		return r;
	}
	/* Replaces the automatic checkpoint, which is a hook of the same kind. */
	if (writer) {
		sqlite3_wal_hook(conn->db, on_wal, c);
		sqlite3_update_hook(conn->db, on_change, conn->rows);
		sqlite3_rollback_hook(conn->db, on_rollback, conn->rows);
	}
	*ret = conn;
	return 0;
}

void conn_close(struct conn *conn)
{
	if (!conn)
		return;
	for (unsigned i = 0; i < STATEMENT_SLOTS; i++)
		sqlite3_finalize(conn->slots[i].statement);
	notes_free(conn->notes);
	dir_keys_free(conn->dir_keys);
	tally_free(conn->tally);
	shown_free(conn->shown);
	CHECK(sqlite3_close(conn->db) == SQLITE_OK);
	row_cache_free(conn->rows);
	free(conn);
}

/* The log of the operation that this thread is in, if it is in one. */
static _Thread_local struct redo *noting;

void conn_note_into(struct redo *redo)
{
	noting = redo;
}

/* What reads is never noted, and many may be prepared before one that writes has run. */
static void announce(sqlite3_stmt *s, const char *sql)
{
	if (noting && !sqlite3_stmt_readonly(s))
		redo_statement(noting, s, sql);
}

sqlite3_stmt *conn_statement(struct conn *conn, const char *sql)
{
	uintptr_t address = (uintptr_t)sql;
	size_t i =
		(size_t)((uint64_t)address * UINT64_C(0x9e3779b97f4a7c15) >> 40) % STATEMENT_SLOTS;
	sqlite3_stmt *s;

	for (size_t tried = 0; tried < STATEMENT_SLOTS; tried++) {
		s = conn->slots[i].statement;
		if (conn->slots[i].sql == sql) {
			sqlite3_reset(s);
			sqlite3_clear_bindings(s);
			announce(s, sql);
			return s;
		}
		if (!s) {
			if (sqlite3_prepare_v3(conn->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s,
				    NULL) != SQLITE_OK)
				return NULL;
			conn->slots[i].sql = sql;
			conn->slots[i].statement = s;
			announce(s, sql);
			return s;
		}
		i = (i + 1) % STATEMENT_SLOTS;
	}
	check_failed("more statements than slots", __FILE__, __LINE__);
}

static int error_code(struct conn *conn)
{
	int code = sqlite3_extended_errcode(conn->db);
	int e = sqlite3_system_errno(conn->db);

	switch (code & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return -EIO; /* called without a failure: a bug, but no success */
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_TOOBIG:
		return -E2BIG;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
		if (e == ENOSPC || e == EDQUOT || code == SQLITE_IOERR_SHMSIZE)
			return -ENOSPC;
		return e == EACCES || e == EPERM || e == EMFILE || e == ENFILE ? -e : -EIO;
	default:
		return -EIO;
	}
}

int conn_error(struct conn *conn)
{
	int r = error_code(conn);

	if (r == -ENOSPC && conn->cache) {
		atomic_store(&conn->cache->full, true);
		reserve_give(conn->cache);
	}
	return r;
}

int conn_run(struct conn *conn, sqlite3_stmt *s)
{
	int code, r = 0;

	if (!s)
		return conn_error(conn);
	code = sqlite3_step(s);
	if (code != SQLITE_DONE)
		r = code == SQLITE_ROW ? -EIO : conn_error(conn);
	else if (noting && !sqlite3_stmt_readonly(s))
		redo_note(noting, s);
	sqlite3_reset(s);
	return r;
}

int conn_row(struct conn *conn, sqlite3_stmt *s)
{
	int code, r;

	if (!s)
		return conn_error(conn);
	code = sqlite3_step(s);
	/* One that returns what it changed has done all of it with its first row, and is not
	 * stepped for a second. */
	if (noting && (code == SQLITE_ROW || code == SQLITE_DONE) && !sqlite3_stmt_readonly(s))
		redo_note(noting, s);
	if (code == SQLITE_ROW)
		return 1;
	r = code == SQLITE_DONE ? 0 : conn_error(conn);
	sqlite3_reset(s);
	return r;
}

int conn_run_int(struct conn *conn, const char *sql, int64_t value)
{
	sqlite3_stmt *s = conn_statement(conn, sql);

	bind_int(s, 1, value);
	return conn_run(conn, s);
}

int conn_number(struct conn *conn, sqlite3_stmt *s, uint64_t *ret)
{
	int r = conn_row(conn, s);

	if (r == 1) {
		*ret = (uint64_t)sqlite3_column_int64(s, 0);
		sqlite3_reset(s);
	}
	return r;
}

int conn_number_or(struct conn *conn, sqlite3_stmt *s, int64_t otherwise, int64_t *ret)
{
	uint64_t number = (uint64_t)otherwise;
	int r = conn_number(conn, s, &number);

	if (r < 0)
		return r;
	*ret = (int64_t)number;
	return 0;
}

int conn_exists(struct conn *conn, sqlite3_stmt *s, bool *ret)
{
	int r = conn_row(conn, s);

	if (r < 0)
		return r;
	if (r == 1)
		sqlite3_reset(s);
	*ret = r == 1;
	return 0;
}

void bind_int(sqlite3_stmt *s, int index, int64_t v)
{
	if (!s)
		return;
	if (noting)
		redo_bind_int(noting, s, index, v);
	sqlite3_bind_int64(s, index, v);
}

void bind_text_n(sqlite3_stmt *s, int index, const char *text, size_t len)
{
	if (!s)
		return;
	if (noting)
		redo_bind_bytes(noting, s, index, SQLITE_TEXT, text, len);
	sqlite3_bind_text(s, index, text, (int)len, SQLITE_STATIC);
}

void bind_text(sqlite3_stmt *s, int index, const char *text)
{
	bind_text_n(s, index, text, strlen(text));
}

void bind_slice(sqlite3_stmt *s, int index, struct slice v)
{
	if (!s)
		return;
	if (noting)
		redo_bind_bytes(noting, s, index, SQLITE_BLOB, v.p, v.len);
	/* A NULL pointer would bind NULL. Lengths are bounded far below INT_MAX by every caller. */
	sqlite3_bind_blob(s, index, v.len ? v.p : "", (int)v.len, SQLITE_STATIC);
}

struct slice column_slice(sqlite3_stmt *s, int index)
{
	const char *p = sqlite3_column_blob(s, index);

	return (struct slice){p ? p : "", (size_t)sqlite3_column_bytes(s, index)};
}

bool column_copy(sqlite3_stmt *s, int index, char *to, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(s, index);
	size_t n = (size_t)sqlite3_column_bytes(s, index);

	if (n >= size || (n && !text))
		return false;
	if (n)
		memcpy(to, text, n);
	to[n] = '\0';
	return true;
}

bool conn_writable(struct conn *conn)
{
	return conn->writer && conn->in_transaction;
}

struct cache *conn_cache(struct conn *conn)
{
	return conn->cache;
}

int conn_run_literal(struct conn *conn, const char *sql)
{
	return conn_run(conn, conn_statement(conn, sql));
}

void conn_reset_all(struct conn *conn)
{
	for (sqlite3_stmt *s = sqlite3_next_stmt(conn->db, NULL); s;
		s = sqlite3_next_stmt(conn->db, s)) {
		if (sqlite3_stmt_busy(s))
			sqlite3_reset(s);
	}
}

/* ---- readers ---- */

bool cache_owns_writer(struct cache *c)
{
	return pthread_equal(atomic_load(&c->writer_owner), pthread_self());
}

static int take_reader(struct cache *c, struct conn **ret)
{
	struct conn *conn;
	int r;

	mutex_lock(&c->readers_lock);
	while (!c->idle && c->readers >= READERS_MAX)
		cond_wait(&c->readers_cond, &c->readers_lock);
	conn = c->idle;
	if (conn)
		c->idle = conn->next;
	else
		c->readers++;
	mutex_unlock(&c->readers_lock);
	if (!conn) {
		r = conn_open(c, false, &conn);
		if (r) {
			mutex_lock(&c->readers_lock);
			c->readers--;
			cond_signal(&c->readers_cond);
			mutex_unlock(&c->readers_lock);
			return r;
		}
	}
	conn->next = NULL;
	*ret = conn;
	return 0;
}

/* With the writer's lock. */
static int lend_writer(struct cache *c, struct conn **ret)
{
	int r = cache_catch_up(c);

	if (r) {
		if (!cache_owns_writer(c))
			mutex_unlock(&c->writer_lock);
		return r;
	}
	*ret = c->writer;
	return 0;
}

int conn_take(struct cache *c, struct conn **ret)
{
	int r = cache_settle(c);

	return r ? r : take_reader(c, ret);
}

/* What is acknowledged and not committed only the writer sees. A group that begins after this look
 * has operations that came after this call. */
int conn_take_warm(struct cache *c, struct conn **ret)
{
	if (cache_owns_writer(c))
		return lend_writer(c, ret);
	if (atomic_load(&c->grouped))
		mutex_lock(&c->writer_lock);
	else if (!mutex_trylock(&c->writer_lock))
		return take_reader(c, ret);
	return lend_writer(c, ret);
}

void conn_give(struct conn *conn)
{
	struct cache *c = conn->cache;

	if (conn->writer) {
		if (!cache_owns_writer(c))
			mutex_unlock(&c->writer_lock);
		return;
	}
	mutex_lock(&c->readers_lock);
	conn->next = c->idle;
	c->idle = conn;
	if (c->readers >= READERS_MAX)
		cond_signal(&c->readers_cond);
	mutex_unlock(&c->readers_lock);
}

void conn_pool_close(struct cache *c)
{
	struct conn *conn = c->idle;
	unsigned closed = 0;

	while (conn) {
		struct conn *next = conn->next;

		conn_close(conn);
		conn = next;
		closed++;
	}
	CHECK(closed == c->readers);
	c->idle = NULL;
	c->readers = 0;
}

int cache_read_begin(struct cache *c, struct conn **ret)
{
	struct conn *conn;
	int r = cache_settle(c);

	if (!r)
		r = take_reader(c, &conn);
	if (r)
		return r;
	r = conn_run_literal(conn, "BEGIN");
	if (r) {
		conn_give(conn);
		return r;
	}
	conn->in_transaction = true;
	*ret = conn;
	return 0;
}

void cache_read_end(struct conn *conn)
{
	CHECK(!conn->writer && conn->in_transaction);
	/* A statement that was left on a row would keep the snapshot. */
	conn_reset_all(conn);
	if (conn_run_literal(conn, "COMMIT") && !sqlite3_get_autocommit(conn->db))
		CHECK(sqlite3_exec(conn->db, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK);
	conn->in_transaction = false;
	conn->found.ino = 0;
	conn_give(conn);
}

/* ---- numbers ---- */

int conn_add(struct conn *conn, const char *sql, int64_t value, int64_t *sum)
{
	sqlite3_stmt *s = conn_statement(conn, sql);
	int r;

	bind_int(s, 1, value);
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -EIO;
	*sum = sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

int conn_new_ino(struct conn *conn, uint64_t *ret)
{
	struct cache *c = conn->cache;
	uint64_t limit, ino = 0;
	int r;

	if (!conn->ino_limit) {
		mutex_lock(&c->ino_lock);
		if (c->ino_next < c->ino_limit)
			ino = c->ino_next++;
		limit = c->ino_limit;
		mutex_unlock(&c->ino_lock);
		if (ino) {
			*ret = ino;
			return 0;
		}
		conn->ino_next = limit;
	}
	if (conn->ino_next >= conn->ino_limit) {
		limit = conn->ino_next + INO_BLOCK;
		r = meta_set_int(conn, "ino_limit", (int64_t)limit);
		if (r)
			return r;
		conn->ino_limit = limit;
		conn->lazy = false;
	}
	*ret = conn->ino_next++;
	return 0;
}

int conn_stamp_time(struct conn *conn, uint64_t *ret)
{
	struct cache *c = conn->cache;
	uint64_t time = hlc_now(&c->clock);
	uint64_t ceiling = conn->ceiling ? conn->ceiling : atomic_load(&c->hlc_ceiling);
	int r;

	CHECK(conn_writable(conn));
	if (time >= ceiling) {
		ceiling = time + ((uint64_t)HLC_AHEAD_MS << 16);
		r = meta_set_int(conn, "hlc_ceiling", (int64_t)ceiling);
		if (r)
			return r;
		conn->ceiling = ceiling;
	}
	*ret = time;
	return 0;
}

static int flush_limit(struct cache *c)
{
	uint64_t limit;
	int r;

	mutex_lock(&c->ino_lock);
	limit = c->ino_limit;
	mutex_unlock(&c->ino_lock);
	r = cache_sync(c);
	if (!r)
		atomic_store(&c->ino_flushed, limit);
	return r;
}

int cache_new_ino(struct cache *c, uint64_t *ret)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	uint64_t ino = 0;
	int r = 0;

	mutex_lock(&c->ino_lock);
	if (c->ino_next < c->ino_limit)
		ino = c->ino_next++;
	mutex_unlock(&c->ino_lock);
	if (!ino) {
		r = cache_begin_op(c, &conn);
		if (!r)
			r = conn_new_ino(conn, &ino);
		if (!r) {
			r = cache_commit(conn);
			conn = NULL;
		}
	}
	if (!r && ino >= atomic_load(&c->ino_flushed))
		r = flush_limit(c);
	if (!r)
		*ret = ino;
	return r;
}
