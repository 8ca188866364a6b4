/*
 * Which files are fetched without being asked for: new versions of those that were here, or all.
 *
 * The list is in the database: a row is put by the transaction that shows the new version, and goes when its
 * content is here or nobody wants it any more. Evicted content is not put on it.
 */
#ifndef CACHE_REFRESH_H
#define CACHE_REFRESH_H

#include "cache/cache.h"

enum refresh_mode {
	REFRESH_LAZY = 0, /* none: a new version is fetched when it is opened */
	REFRESH_CACHED,	  /* new versions of files whose content was here, all of it or some */
	REFRESH_ALL,	  /* everything that other servers write */
};
void refresh_set_mode(struct cache *c, enum refresh_mode mode);

/* Inside the transaction that shows ino, whose content is elsewhere; was_here: as for REFRESH_CACHED. */
int refresh_note(struct conn *conn, uint64_t ino, bool was_here) MUST_CHECK;
/* The first on the list behind after. -ENOENT: there is none. */
int refresh_next(struct cache *c, uint64_t after, uint64_t *ino) MUST_CHECK;
int refresh_done(struct cache *c, uint64_t ino) MUST_CHECK;
/* How many are on it, counted to REFRESH_COUNT_MAX. */
#define REFRESH_COUNT_MAX 100000
int refresh_count(struct conn *conn, uint64_t *ret) MUST_CHECK;

#endif
