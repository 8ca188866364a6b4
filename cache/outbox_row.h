/*
 * Private to the outbox's files, and to those that look at its rows (tally.c, durability.c): what a
 * row is made of, and the only functions that write one (outbox_row.c).
 */
#ifndef CACHE_OUTBOX_ROW_H
#define CACHE_OUTBOX_ROW_H

#include "cache/db.h"
#include "cache/outbox.h"
#include "cache/region.h"

/* The state column: a stage (OUTBOX_UPLOAD to OUTBOX_OBJECT), and this added when it is parked. */
enum { STAGE_MASK = 3, PARKED = 4 };

#define ROW_COLUMNS                                                                                \
	"id, key, dir, state, first, last, since_ms, time, node, size, fresh, uploaded, attempts," \
	" next_at_ms, error, moved_from, moved_to, base, unfetched"

/* A row as it stands in the table. */
struct stored_row {
	int64_t id; /* 0: not there */
	uint64_t dir;
	int state;
	uint64_t first;
	uint64_t last;
	uint64_t since_ms;
	struct stamp stamp;
	uint64_t size;
	bool fresh;
	bool uploaded;
	uint32_t attempts;
	int64_t next_at_ms;
	char error[OUTBOX_ERROR_SIZE];
	struct key moved_from;
	struct key moved_to;
	bool unfetched;
	bool has_base;
	uint8_t base[SHA256_SIZE];
};

static inline bool state_announced(int state)
{
	return (state & STAGE_MASK) == OUTBOX_OBJECT;
}

/* The first row that s finds, which selects ROW_COLUMNS: 1 with it (key may be NULL), 0 when there is none,
 * or -errno; -EIO for what cannot be ours. Resets s. */
int outbox_row_first(struct conn *conn, sqlite3_stmt *s, struct key *key,
	struct stored_row *ret) MUST_CHECK;
/* ret->id is 0 when the key has none. */
int outbox_row_find(
	struct conn *conn, unsigned region, struct slice key, struct stored_row *ret) MUST_CHECK;
/* The key's row becomes after, or goes (NULL). When its upload is over by that, the former names that
 * waited for it can be announced. */
int outbox_row_change(struct conn *conn, unsigned region, struct slice key,
	const struct stored_row *before, const struct stored_row *after) MUST_CHECK;
/* *ret: whether it was added. The key may have a row, which stays as it is then. */
int outbox_row_add(struct conn *conn, unsigned region, struct slice key,
	const struct stored_row *row, bool *ret) MUST_CHECK;
/* Its content is to be uploaded before it is announced. NULL: no. */
bool outbox_row_uploads(const struct stored_row *row);

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
