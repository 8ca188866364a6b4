/*
 * A file of ours whose content no region has any more: what becomes of it.
 */
#ifndef REPLICATOR_LOST_H
#define REPLICATOR_LOST_H

#include "cache/outbox.h"

/* Inside a write transaction, for the row of a file that this server published without having its
 * content, when no region has it either. 1: the path has a new version, which took the row over;
 * 0: it is not so any more, the row stays. */
int lost_content(struct cache *c, struct conn *conn, const struct outbox_row *row,
	uint64_t inline_max) MUST_CHECK;

#endif
