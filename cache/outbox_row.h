/* Private to outbox.c and outbox_read.c: what a row is made of. */
#ifndef CACHE_OUTBOX_ROW_H
#define CACHE_OUTBOX_ROW_H

#include "cache/db.h"
#include "cache/outbox.h"
#include "cache/progress.h"

/* The state column: a stage (OUTBOX_UPLOAD to OUTBOX_OBJECT), and this added when it is parked. */
enum { STAGE_MASK = 3, PARKED = 4 };

#define ROW_COLUMNS                                                                                \
	"id, key, dir, state, first, last, since_ms, time, node, size, fresh, uploaded, attempts," \
	" next_at_ms, error, moved_from, moved_to, base, unfetched"

/* A row of ROW_COLUMNS as callers see it. -EIO for what cannot be ours. */
int outbox_row_export(sqlite3_stmt *s, struct outbox_row *ret) MUST_CHECK;
/* The dir column of a key. */
uint64_t outbox_dir_hash(struct slice key);
/* The least first of a directory's rows that are neither announced nor ready; INT64_MAX: none. */
int outbox_dir_barrier(struct conn *conn, unsigned region, uint64_t dir, int64_t *ret) MUST_CHECK;

/* Ready rows of dir whose last is below it may go, and are a closed cut: it is that of the barrier and of holds
 * (may be NULL), or the first of a row that spans it, and so on. INT64_MAX: all of them. */
int outbox_dir_limit(struct conn *conn, unsigned region, uint64_t dir,
	const struct outbox_holds *holds, int64_t *ret) MUST_CHECK;
/* The last of the row that a former name's content has now: 1, 0 when none is still to be announced, or
 * -errno. */
int outbox_moved_last(struct conn *conn, unsigned region, const struct outbox_row *row,
	uint64_t *last) MUST_CHECK;

/* The ids of the region table, in order, but of regions that are out (resync.h). */
int outbox_region_ids(struct conn *conn, unsigned ids[REGION_MAX], unsigned *count) MUST_CHECK;

/* The directory of the region's open group that follows *after (NULL: the first), by dir as a signed
 * number: 1, 0 or -errno. */
int outbox_group_next(struct conn *conn, unsigned region, const uint64_t *after, uint64_t *dir,
	uint64_t *last) MUST_CHECK;

#endif
