/* Private to announce*.c: the announcer of a region, and what it makes a segment of. One thread at a time. */
#ifndef REPLICATOR_ANNOUNCE_INTERNAL_H
#define REPLICATOR_ANNOUNCE_INTERNAL_H

#include "replicator/deliver.h"
#include "replicator/segment.h"

struct announcer {
	struct delivery_options o;
	bool group_open; /* as recorded, since the last step */
	bool behind;
	bool checked; /* own_log_check is done */
	struct outbox_holds holds;
	int64_t held_ms; /* monotonic: since when they were gathered */
};

struct announce_item {
	struct entry entry;
	struct buf content; /* or a delta */
	bool has_content;
	bool has_delta;
	bool gone; /* no entry: nothing to tell anybody */
	bool out;  /* stays for a later segment */
};

struct announce_batch {
	struct outbox_row *rows;
	struct announce_item *items;
	unsigned count;
	bool more;
	unsigned in; /* rows in the segment, after settle */
};

/* ---- announce_gather.c ---- */

/* Rows that may go now, with their entries and content; b is {0}. Those of the segment stand first. */
int announce_gather(struct announcer *a, struct announce_batch *b) MUST_CHECK;
void announce_batch_done(struct announce_batch *b);

/* ---- announce_pending.c ---- */

/* *go: on with sending; pending_name is then the name to use again, or "". */
int announce_resolve_pending(
	struct announcer *a, struct region_progress *p, bool *go, bool *did) MUST_CHECK;

/* ---- announce.c ---- */

int announce_set_progress(struct announcer *a, const struct region_progress *p) MUST_CHECK;
/* The record is in the region: what is left to do for its row? In the caller's transaction. */
int announce_move_on(struct announcer *a, struct conn *conn, struct slice key, struct stamp stamp,
	bool uploaded) MUST_CHECK;
void announce_segment_key(char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE], const char *name);

#endif
