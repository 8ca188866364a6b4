/*
 * A file of ours whose content no region has any more: what becomes of it.
 */
#ifndef REPLICATOR_LOST_H
#define REPLICATOR_LOST_H

#include "cache/outbox.h"

/* Inside a write transaction, for the row of a file whose content neither this server nor any region has.
 * was_here: this server had it when it published the file; then it counts only where the file was written
 * over while it was hidden, and untold: no other server can have got it. 1: the path has a new version, which took the row over; 0: that is not so, or
 * not any more, and the row stays. */
int lost_content(struct cache *c, struct conn *conn, const struct outbox_row *row, bool was_here,
	bool untold, uint64_t inline_max) MUST_CHECK;

#endif
