/*
 * Private to cache/: what a write transaction adds to counters, to the regions' totals and to the
 * heads of the outbox's directories, kept in memory until it ends. A batch changes thousands of
 * rows of few directories: one statement a directory and region then, not several a row.
 *
 * It belongs to the writer connection, is empty between transactions, and is guarded as that is.
 */
#ifndef CACHE_TALLY_H
#define CACHE_TALLY_H

#include "cache/replication.h"

/* counter_add (replication.h) goes here as well. */
struct tally;

struct tally *tally_new(void);
void tally_free(struct tally *t); /* NULL is fine */
/* Writes all of it. Before a commit, and before anybody reads there what is kept here. */
int tally_flush(struct conn *conn) MUST_CHECK;
/* After a commit, and for a rollback. */
void tally_clear(struct tally *t);

/* Of the outbox's rows in one region. */
struct outbox_totals {
	int64_t rows;
	int64_t bytes;
	int64_t parked;
	int64_t unannounced;
};
/* -EINVAL for a region that cannot be. */
int tally_totals(struct conn *conn, unsigned region, const struct outbox_totals *add) MUST_CHECK;
/* Rows of that directory changed in a way that may move its head. */
int tally_dir(struct conn *conn, unsigned region, uint64_t dir) MUST_CHECK;
/* What the transaction has written of a region's rows and bytes, after it has cleared it or not; false: nothing. */
bool tally_written(
	struct conn *conn, unsigned region, struct outbox_totals *ret, bool *cleared);
/* All of a region's rows go; the caller writes it. */
void tally_forget(struct conn *conn, unsigned region);
/* The regions' ids, which do not change in a transaction that changes the outbox. */
int tally_regions(struct conn *conn, const unsigned **ids, unsigned *count) MUST_CHECK;

#endif
