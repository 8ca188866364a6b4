/* Objects that are looked at again because a write may reach a region late: one whose answer was lost,
 * and those under way when the process was killed. One region's; one thread. */
#ifndef REPLICATOR_RECHECK_H
#define REPLICATOR_RECHECK_H

#include "cache/outbox.h"

enum { RECHECK_MS = 60000 }; /* longer than a network holds a request */

struct recheck {
	int64_t at_ms; /* realtime: not before */
	bool marked;   /* what an earlier process may have left is noted */
};

/* Enqueues what has become due. */
int recheck_due(struct recheck *r, struct cache *c, unsigned region) MUST_CHECK;

#endif
