/*
 * What became of delivered rows is written to the database: rows move on or wait, what is known of the
 * region's objects is noted, and a key whose entry was replaced meanwhile is queued again.
 *
 * Writes that may arrive later than anybody looks are remembered (touched_mark): those whose answer was lost
 * are looked for again after RECHECK_MS, those made on behalf of another server when the path goes or changes
 * its kind (merge_record.c).
 */
#include <errno.h>

#include "cache/content_map.h"
#include "replicator/deliver_internal.h"
#include "replicator/lost.h"
#include "src/base/clock.h"

static int enqueue_repair(struct conn *conn, const struct outbox_row *row)
{
	CLEANUP(entry_done) struct entry now = {0};

	int r = entry_get(conn, key_slice(&row->key), &now);
	if (r < 0)
		return r;
	struct outbox_change change = {
		.key = key_slice(&row->key),
		.stamp = entry_stamp(&now),
		.size = now.kind == KIND_FILE ? now.size : 0,
		.object_only = true,
	};
	return outbox_enqueue(conn, &change);
}

/* Whether a row that was announced when its delivery began is to be announced once more: the region was seeded anew
 * meanwhile, which leaves the stamp as it is. What became of the object decides nothing then; it is looked at
 * again after the announcement. */
static int told_again(
	struct conn *conn, unsigned region, const struct outbox_row *delivered, bool *ret)
{
	struct outbox_row now;

	*ret = false;
	if (delivered->state != OUTBOX_OBJECT)
		return 0;
	int r = outbox_get(conn, region, key_slice(&delivered->key), &now);
	if (r == 0)
		*ret = stamp_cmp(now.stamp, delivered->stamp) == 0 && now.state != OUTBOX_OBJECT;
	return r == -ENOENT ? 0 : r;
}

static int apply(struct deliverer *d, struct conn *conn, const struct job *j)
{
	struct slice key = key_slice(&j->row.key);
	unsigned region = d->o.region->id;
	bool again = false;
	int r = 0;

	if (j->uncertain)
		r = touched_mark(conn, key, clock_realtime_ms() + RECHECK_MS);
	else if (j->deputy)
		r = touched_mark(conn, key, 0);
	if (r == 0 && j->fate != FATE_NONE)
		r = told_again(conn, region, &j->row, &again);
	if (r < 0 || (again && j->fate != FATE_DONE))
		return r;
	switch (j->fate) {
	case FATE_NONE:
		return 0;
	case FATE_WAITS:
		return outbox_put_off(conn, region, key, j->row.stamp, j->next_at_ms);
	case FATE_DONE:
		if ((r = object_note(conn, region, key, &j->note, j->row.fresh)) < 0)
			return r;
		if (j->mapped && (r = content_map_delivered(conn, region, j->hash)) < 0)
			return r;
		if (j->settled && !again)
			r = outbox_announce_unsent(conn, region, key, j->row.stamp);
		else if (j->row.state == OUTBOX_UPLOAD)
			r = outbox_advance(conn, region, key, j->row.stamp, OUTBOX_ANNOUNCE);
		else if (!again)
			r = outbox_finish(conn, region, key, j->row.stamp);
		if (r == 0 && j->repair)
			r = enqueue_repair(conn, &j->row);
		return r;
	default:
		if (j->lost && (r = lost_content(d->o.cache, conn, &j->row, j->was_here, j->untold,
					d->o.inline_max)) != 0)
			return r < 0 ? r : 0;
		/* Another server's version whose content is nowhere, too: that server may have written
		 * over it since, and wait with the newer one for something that waits behind this. */
		if ((j->fate == FATE_PARKED || (j->gone && !j->lost)) &&
			j->row.state == OUTBOX_UPLOAD)
			return outbox_announce_unsent(conn, region, key, j->row.stamp);
		return outbox_failed(conn, region, key, j->row.stamp, j->next_at_ms, j->error,
			j->fate == FATE_PARKED);
	}
}

int deliver_record(struct deliverer *d, const struct job *jobs, unsigned count)
{
	struct conn *conn;

	if (!count)
		return 0;
	int r = cache_begin_lazy(d->o.cache, &conn);
	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = apply(d, conn, &jobs[i]);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}
