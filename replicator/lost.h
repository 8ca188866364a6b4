/*
 * A file of ours whose content no region has any more: what becomes of it.
 */
#ifndef REPLICATOR_LOST_H
#define REPLICATOR_LOST_H

#include "cache/entry.h"
#include "cache/outbox.h"

struct regions;

/* Inside a write transaction, for the row of a file whose content neither this server nor any region has.
 * was_here: this server had it when it published the file; then it counts only where the file was written
 * over while it was hidden, and untold: no other server can have got it. 1: the path has a new version, which took the row over; 0: that is not so, or
 * not any more, and the row stays. */
int lost_content(struct cache *c, struct conn *conn, const struct outbox_row *row, bool was_here,
	bool untold, uint64_t inline_max) MUST_CHECK;

/* Inside a write transaction: the file at key, whose entry is old, is to give way to gone, a removal that
 * did not know of it (entry_merge found a conflict, and made merged). Where gone was written because a scan
 * of one of these regions found the content of old nowhere (foreign_remove), while this server has it and
 * still owes it to that region, merged becomes the file's next version, which nobody was told of yet, and *ret
 * is true. Nothing may wait to be sealed there. */
int lost_mistaken(const struct regions *all, struct conn *conn, struct slice key,
	const struct entry *old, const struct entry *gone, struct entry *merged,
	bool *ret) MUST_CHECK;
/* Whether gone is such a removal of old, whoever has that. */
bool lost_nowhere(const struct regions *all, const struct entry *old, const struct entry *gone);

#endif
