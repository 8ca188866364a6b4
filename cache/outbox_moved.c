/*
 * Former names: nobody is told that a file is gone before they are told where it is.
 *
 * A tombstone's row has the name that its content has now (moved_to). It may go only when the region
 * was told of what that name is, or is told in the same segment or group of segments; what that name is
 * may be a tombstone again, of which the same holds. So where a name cannot go yet, the former one
 * cannot, nor what changed in its directory after it.
 *
 * Rows that wait so do not wait for each other: outbox_hold_moved looks for what cannot go because an
 * upload is to come, and all others go, in one group if need be. That is found anew each time, from the rows
 * that are ready, and kept by the caller (struct outbox_holds). The tombstone of content that is itself
 * to be uploaded is held by its state meanwhile (outbox.c), so that there are few to look at here.
 */
#include <errno.h>
#include <stdlib.h>

#include "cache/outbox_row.h"

/* Where row's content is now: 1 with the state and last of that row, 0 when there is none to wait for, or
 * -errno. */
static int look(struct conn *conn, unsigned region, const struct outbox_row *row, int *state,
	uint64_t *last)
{
	sqlite3_stmt *s;
	int r;

	if (!row->moved_to.len)
		return 0;
	s = conn_statement(conn, "SELECT state, last FROM outbox WHERE region = ?1 AND key = ?2"
				 " AND state IN (1, 2)");
	bind_int(s, 1, region);
	bind_slice(s, 2, key_slice(&row->moved_to));
	r = conn_row(conn, s);
	if (r != 1)
		return r;
	*state = sqlite3_column_int(s, 0);
	*last = (uint64_t)sqlite3_column_int64(s, 1);
	sqlite3_reset(s);
	return 1;
}

/* ---- holds ---- */

void outbox_holds_done(struct outbox_holds *h)
{
	free(h->hold);
	*h = (struct outbox_holds){0};
}

/* The place of dir, or the free one where it belongs; the table is at most half full. */
static struct outbox_hold *place(const struct outbox_holds *h, uint64_t dir)
{
	size_t at = (size_t)(dir * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (h->size - 1);

	while (h->hold[at].first && h->hold[at].dir != dir)
		at = (at + 1) & (h->size - 1);
	return &h->hold[at];
}

static int grow(struct outbox_holds *h)
{
	struct outbox_holds grown = {.count = h->count, .size = h->size ? 2 * h->size : 64};

	grown.hold = calloc(grown.size, sizeof(*grown.hold));
	if (!grown.hold)
		return -ENOMEM;
	for (size_t i = 0; i < h->size; i++) {
		if (h->hold[i].first)
			*place(&grown, h->hold[i].dir) = h->hold[i];
	}
	free(h->hold);
	*h = grown;
	return 0;
}

/* The least first of the directory's ready rows that end at limit or later; limit when there is none. */
static int earlier_limit(
	struct conn *conn, unsigned region, uint64_t dir, int64_t limit, int64_t *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT first FROM outbox INDEXED BY outbox_span WHERE region = ?1 AND dir = ?2"
		" AND state = 2 AND first < last AND first < ?3 AND last >= ?3"
		" ORDER BY first LIMIT 1");

	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)dir);
	bind_int(s, 3, limit);
	return conn_number_or(conn, s, limit, ret);
}

int outbox_dir_limit(struct conn *conn, unsigned region, uint64_t dir, const struct outbox_holds *h,
	int64_t *ret)
{
	const struct outbox_hold *hold = h && h->count ? place(h, dir) : NULL;
	int64_t limit, before = 0;
	int r = outbox_dir_barrier(conn, region, dir, &limit);

	if (!r && hold && hold->first && hold->first < (uint64_t)limit)
		limit = (int64_t)hold->first;
	while (!r && limit != INT64_MAX && limit != before) {
		before = limit;
		r = earlier_limit(conn, region, dir, before, &limit);
	}
	*ret = limit;
	return r;
}

static int add_hold(struct outbox_holds *h, uint64_t dir, uint64_t first, bool *added)
{
	struct outbox_hold *hold;
	int r = 2 * (h->count + 1) > h->size ? grow(h) : 0;

	if (r)
		return r;
	hold = place(h, dir);
	if (hold->first && hold->first <= first)
		return 0;
	h->count += !hold->first;
	*hold = (struct outbox_hold){dir, first};
	*added = true;
	return 0;
}

int outbox_hold_moved(struct conn *conn, unsigned region, const struct outbox_row *rows, unsigned n,
	struct outbox_holds *holds, bool *added)
{
	int r = 0;

	*added = false;
	for (unsigned i = 0; !r && i < n && holds->count < OUTBOX_HOLDS_MAX; i++) {
		uint64_t dir = outbox_dir_hash(key_slice(&rows[i].moved_to)), last = 0;
		int64_t limit = 0;
		int state = 0;

		r = look(conn, region, &rows[i], &state, &last);
		if (r <= 0)
			continue;
		r = state == OUTBOX_ANNOUNCE ? outbox_dir_limit(conn, region, dir, holds, &limit)
					     : 0;
		if (!r && last >= (uint64_t)limit)
			r = add_hold(holds, outbox_dir_hash(key_slice(&rows[i].key)), rows[i].first,
				added);
	}
	return r < 0 ? r : 0;
}

/* ---- groups ---- */

int outbox_moved_last(
	struct conn *conn, unsigned region, const struct outbox_row *row, uint64_t *last)
{
	int state;

	return look(conn, region, row, &state, last);
}
