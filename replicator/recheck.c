/* Objects looked at again; see recheck.h and touched.c. Takes no lock. */
#include "replicator/recheck.h"

#include <errno.h>
#include <stdlib.h>

#include "replicator/lanes.h"
#include "src/base/clock.h"

enum { AT_ONCE = 64 };

/* A process that was killed may have left writes under way: of the rows that come first. */
static int mark_interrupted(struct cache *c, unsigned region)
{
	AUTO_FREE struct outbox_row *rows = calloc(LANE_ROWS, sizeof(*rows));
	AUTO_FREE struct lanes *from_start = calloc(1, sizeof(*from_start));
	int64_t due_ms = clock_realtime_ms() + RECHECK_MS;
	struct conn *conn;
	int r = rows && from_start ? 0 : -ENOMEM;

	for (enum lane lane = 0; r == 0 && lane < LANES; lane++) {
		unsigned count = 0;

		r = cache_read_begin(c, &conn);
		if (r < 0)
			return r;
		r = lane_due(from_start, conn, region, lane, clock_monotonic_ms(), LANE_ROWS, rows,
			&count);
		cache_read_end(conn);
		if (r < 0 || !count)
			continue;
		r = cache_begin_lazy(c, &conn);
		if (r < 0)
			return r;
		for (unsigned i = 0; r == 0 && i < count; i++)
			r = touched_mark(conn, key_slice(&rows[i].key), due_ms);
		if (r == 0)
			r = cache_commit(conn);
		else
			cache_rollback(conn);
	}
	return r;
}

int recheck_due(struct recheck *again, struct cache *c, unsigned region)
{
	int64_t now = clock_realtime_ms(), due_ms;
	struct conn *conn;
	unsigned count = 0;

	if (!again->marked) {
		int code = mark_interrupted(c, region);
		if (code < 0)
			return code;
		again->marked = true;
	}
	if (now < again->at_ms && again->at_ms <= now + RECHECK_MS)
		return 0;
	int r = cache_read_begin(c, &conn);
	if (r < 0)
		return r;
	r = touched_next(conn, &due_ms);
	cache_read_end(conn);
	if (r < 0)
		return r;
	if (due_ms == INT64_MAX || (now < due_ms && due_ms <= now + RECHECK_MS)) {
		/* Another region's deliverer may mark something in the meantime. */
		again->at_ms = due_ms < now + RECHECK_MS ? due_ms : now + RECHECK_MS;
		return 0;
	}
	again->at_ms = 0;
	r = cache_begin_lazy(c, &conn);
	if (r < 0)
		return r;
	/* Nothing is meant to be so late: the clock was set back. */
	r = touched_enqueue(conn, due_ms > now + RECHECK_MS ? due_ms : now, AT_ONCE, &count);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}
