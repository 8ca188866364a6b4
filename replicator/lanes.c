/*
 * The lanes of a region's deliverer; see lanes.h.
 *
 * Shares of n workers: a quarter each for small and large uploads, an eighth for huge ones, at least
 * one; of n over 16 large and huge ones have what they have of 16. For small ones it is the way to the region
 * that more workers bridge; large ones share its bandwidth, and more of them at once all end later.
 * Small uploads are soon over, so they alone take more than their share. A single worker takes
 * objects first, then the smallest uploads.
 */
#include "replicator/lanes.h"

#include <string.h>

enum { BULK_THREADS = 16 };

static const uint64_t lane_over[LANES] = {
	[LANE_LARGE] = LANE_SMALL_MAX,
	[LANE_HUGE] = LANE_LARGE_MAX,
};
static const uint64_t lane_max[LANES] = {
	[LANE_SMALL] = LANE_SMALL_MAX,
	[LANE_LARGE] = LANE_LARGE_MAX,
	[LANE_HUGE] = INT64_MAX,
};

enum lane lane_of(const struct outbox_row *row)
{
	if (row->state != OUTBOX_UPLOAD)
		return LANE_OBJECT;
	return row->size <= LANE_SMALL_MAX   ? LANE_SMALL
	       : row->size <= LANE_LARGE_MAX ? LANE_LARGE
					     : LANE_HUGE;
}

/* ---- reading ---- */

static void start_round(struct lane_queue *q, enum lane lane)
{
	q->page = (struct outbox_upload_page){.after_size = lane_over[lane],
		.after_first = lane_over[lane] ? INT64_MAX : 0,
		.max_size = lane_max[lane]};
	q->end = 0;
}

static int read_objects(struct lane_queue *q, struct conn *conn, unsigned region, int64_t now_ms,
	unsigned max, struct outbox_row *rows, unsigned *count)
{
	unsigned n = 0;
	int r = 0;

	if (!q->page.after_first)
		r = outbox_newest(conn, region, OUTBOX_OBJECT, &q->end);
	if (r == 0)
		r = outbox_due(
			conn, region, OUTBOX_OBJECT, now_ms, q->page.after_first, max, rows, &n);
	if (r < 0)
		return r;
	while (n && rows[n - 1].first > q->end)
		n--; /* the next round's */
	if (n)
		q->page.after_first = rows[n - 1].first;
	*count = n;
	return 0;
}

static int read_uploads(struct lane_queue *q, struct conn *conn, unsigned region, int64_t now_ms,
	unsigned max, struct outbox_row *rows, unsigned *count)
{
	int r = outbox_due_uploads(conn, region, now_ms, &q->page, max, rows, count);

	if (r == 0 && *count) {
		q->page.after_size = rows[*count - 1].size;
		q->page.after_first = rows[*count - 1].first;
	}
	return r;
}

int lane_due(struct lanes *l, struct conn *conn, unsigned region, enum lane lane, int64_t now_ms,
	unsigned max, struct outbox_row *rows, unsigned *count)
{
	struct lane_queue *q = &l->queue[lane];
	int r = 0;

	*count = 0;
	if (!q->page.max_size && lane != LANE_OBJECT)
		start_round(q, lane);
	for (int round = 0; r == 0 && !*count && round < 2; round++) {
		if (lane == LANE_OBJECT)
			r = read_objects(q, conn, region, now_ms, max, rows, count);
		else
			r = read_uploads(q, conn, region, now_ms, max, rows, count);
		if (r == 0 && !*count)
			start_round(q, lane);
	}
	return r;
}

/* ---- queues ---- */

bool lane_put(struct lanes *l, enum lane lane, const struct outbox_row *row)
{
	struct lane_queue *q = &l->queue[lane];

	if (q->count == LANE_ROWS)
		return false;
	q->rows[(q->head + q->count++) % LANE_ROWS] = *row;
	return true;
}

static unsigned share(const struct lanes *l, enum lane lane)
{
	unsigned few = l->threads < BULK_THREADS ? l->threads : BULK_THREADS;
	unsigned part = lane == LANE_SMALL ? l->threads / 4
			: lane == LANE_LARGE ? few / 4
					     : few / 8;

	return part ? part : 1;
}

static bool may_take(const struct lanes *l, enum lane lane)
{
	const struct lane_queue *q = &l->queue[lane];
	unsigned uploads = 0;

	if (!q->count)
		return false;
	if (lane == LANE_OBJECT || q->working < share(l, lane))
		return true;
	for (int i = LANE_SMALL; i < LANES; i++)
		uploads += l->queue[i].working;
	return lane == LANE_SMALL && uploads < l->threads / 2;
}

bool lane_take(struct lanes *l, struct outbox_row *ret)
{
	/* Uploads first, as they have shares and objects have none: what is over is theirs. */
	static const enum lane order[LANES] = {LANE_SMALL, LANE_LARGE, LANE_HUGE, LANE_OBJECT};

	for (int i = 0; i < LANES; i++) {
		enum lane lane = l->threads > 1 ? order[i] : (enum lane)i;
		struct lane_queue *q = &l->queue[lane];

		if (!may_take(l, lane))
			continue;
		*ret = q->rows[q->head];
		q->head = (q->head + 1) % LANE_ROWS;
		q->count--;
		q->working++;
		return true;
	}
	return false;
}

void lane_end(struct lanes *l, const struct outbox_row *row)
{
	l->queue[lane_of(row)].working--;
}

bool lanes_empty(const struct lanes *l)
{
	for (int i = 0; i < LANES; i++) {
		if (l->queue[i].count)
			return false;
	}
	return true;
}

void lanes_clear(struct lanes *l)
{
	for (int i = 0; i < LANES; i++)
		l->queue[i].count = l->queue[i].working = 0;
}
