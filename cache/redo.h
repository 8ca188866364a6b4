/*
 * Private to cache/: the redo log of the transaction that many operations share (transaction.c).
 * An operation is acknowledged when its statements stand here; SQLite commits them later, many at
 * once. What was acknowledged and not committed is run again after a crash.
 *
 * Guarded by the writer's lock, all of it.
 */
#ifndef CACHE_REDO_H
#define CACHE_REDO_H

#include "cache/cache.h"
#include "cache/db.h"

struct redo;

/* Opens or makes meridian.redo in dir_fd, of fixed size. The rows of meta that tie it to the
 * database are read, or made, on the writer, outside a transaction. -ENOSPC, -EIO. */
int redo_open(struct conn *writer, int dir_fd, struct redo **ret) MUST_CHECK;
void redo_close(struct redo *r); /* NULL is fine */

/* What a statement binds, noted between conn_statement and its run. */
void redo_statement(struct redo *r, sqlite3_stmt *s, const char *sql);
void redo_bind_int(struct redo *r, sqlite3_stmt *s, int index, int64_t v);
/* type: SQLITE_BLOB or SQLITE_TEXT. Borrowed until the statement is run. */
void redo_bind_bytes(
	struct redo *r, sqlite3_stmt *s, int index, int type, const void *p, size_t len);

/* One operation: begin, a note after each statement that changed something, and an end, after which
 * it survives kill -9, or a cancel. redo_end: -ENOSPC, -EIO; nothing was acknowledged then. */
void redo_begin(struct redo *r);
void redo_note(struct redo *r, sqlite3_stmt *s);
bool redo_noted(const struct redo *r); /* it changed something */
int redo_end(struct redo *r) MUST_CHECK;
bool redo_too_large(const struct redo *r); /* it fits no record: to be committed instead */
void redo_cancel(struct redo *r);

/* Operations that stand here and are not committed. */
bool redo_pending(const struct redo *r);
/* There is little room left: time to commit. */
bool redo_full(const struct redo *r);
/* Runs them again inside the writer's transaction. */
int redo_replay(struct redo *r, struct conn *writer) MUST_CHECK;
/* Inside the transaction that is about to commit them: says so. more: with changes that are not in the
 * log, or with nothing else; it takes a number, so that what is put in the log after it is never run
 * again without it. */
int redo_mark(struct redo *r, struct conn *writer, bool more) MUST_CHECK;
/* It is committed. */
void redo_reset(struct redo *r, bool more);

#endif
