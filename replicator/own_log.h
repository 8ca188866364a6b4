/* Whether a region has segments of this server that its database does not know. */
#ifndef REPLICATOR_OWN_LOG_H
#define REPLICATOR_OWN_LOG_H

#include "cache/progress.h"
#include "replicator/region.h"

struct cache;

/* Lists the log behind p->sent_name. Segments of this server with greater numbers mean that the state is
 * older than what was sent from it: a disk that lost what it had flushed, a snapshot of the machine that
 * was restored. Then p goes on after the greatest of them, and the watermark of this server's own node in
 * that region is set to where it was, from which the puller (pull.h) takes what is missing here, as if it
 * were another server's. *known: the region answered and p is good. p is committed when it changed.
 * Network; the thread that announces to the region. */
int own_log_check(
	struct cache *c, struct region *region, struct region_progress *p, bool *known) MUST_CHECK;

#endif
