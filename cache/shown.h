/*
 * Private to cache/: what inodes of several names show, remembered for the length of a write
 * transaction, so that a batch which changes n names of one reads n entries and not n times as many
 * (shown.c). All calls are the transaction's.
 */
#ifndef CACHE_SHOWN_H
#define CACHE_SHOWN_H

#include "cache/cache.h"

struct shown_memo;

struct shown_memo *shown_new(void);
void shown_free(struct shown_memo *m); /* NULL is fine */
/* At the end of the transaction. */
void shown_clear(struct shown_memo *m);

/* An entry was put. What is remembered holds again when shown_sure follows, which says that the change
 * has been, or is being, counted or that what it was counted in was dropped. */
void shown_unsure(struct conn *conn);
void shown_sure(struct conn *conn);
/* ino lost a name, got one whose entry is not given to project_shown next, or got another link id. */
void shown_drop(struct conn *conn, uint64_t ino);

/* ino lost a name or an entry, or got one: it has to be looked at again before the commit. */
int shown_left(struct conn *conn, uint64_t ino) MUST_CHECK;
/* One of those, which is taken off the list; false: none is left. */
bool shown_next_left(struct conn *conn, uint64_t *ino);

#endif
