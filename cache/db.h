/*
 * Private to cache/: connections, prepared statements, the schema. The only header with sqlite3.h.
 */
#ifndef CACHE_DB_H
#define CACHE_DB_H

#include <sqlite3.h>

#include "cache/cache.h"

/* Of a new database, in bytes. */
#define DATABASE_PAGE_SIZE 4096

/* The statement for sql on this connection, reset and with bindings cleared. sql must be a string
 * literal: statements are kept by its address. NULL only when SQLite fails: then nothing is bound, and
 * what steps it returns why. */
sqlite3_stmt *conn_statement(struct conn *conn, const char *sql) MUST_CHECK;

/* -errno of the connection's last failure: -ENOSPC for SQLITE_FULL and a failed write for lack of
 * space, -EIO for damage, -ENOMEM, -EEXIST for a constraint. */
int conn_error(struct conn *conn);

/* Steps a statement that returns no row; resets it. */
int conn_run(struct conn *conn, sqlite3_stmt *s) MUST_CHECK;
/* Steps for one row: 1 there is one, 0 none (reset), or -errno (reset). The caller resets after
 * reading. */
int conn_row(struct conn *conn, sqlite3_stmt *s) MUST_CHECK;
/* The same for one row of one number, in *ret; resets it. */
int conn_number(struct conn *conn, sqlite3_stmt *s, uint64_t *ret) MUST_CHECK;
/* The same, otherwise where there is no row: 0 or -errno. */
int conn_number_or(struct conn *conn, sqlite3_stmt *s, int64_t otherwise, int64_t *ret) MUST_CHECK;
/* Whether there is a row; resets it. */
int conn_exists(struct conn *conn, sqlite3_stmt *s, bool *ret) MUST_CHECK;
/* Runs a statement that has one number to bind. sql is a literal. */
int conn_run_int(struct conn *conn, const char *sql, int64_t value) MUST_CHECK;
/* Runs an UPDATE ... RETURNING that adds value (?1) to the one row of a table; *sum: the new one. sql is a
 * literal. */
int conn_add(struct conn *conn, const char *sql, int64_t value, int64_t *sum) MUST_CHECK;

/* Everything is bound through these: they note what a change of an application binds (redo.h).
 * Bytes are borrowed until the statement is reset. */
void bind_int(sqlite3_stmt *s, int index, int64_t v);
void bind_slice(sqlite3_stmt *s, int index, struct slice v); /* as BLOB */
void bind_text(sqlite3_stmt *s, int index, const char *text);
void bind_text_n(sqlite3_stmt *s, int index, const char *text, size_t len);
struct slice column_slice(sqlite3_stmt *s, int index);
/* Text with a NUL behind it. False, and to unchanged, when it does not fit. */
bool column_copy(sqlite3_stmt *s, int index, char *to, size_t size);

/* Whether the conn is the writer inside a transaction. */
bool conn_writable(struct conn *conn);

#endif
