/*
 * The outbox: for each region the keys whose newest version it still lacks. A newer version of a
 * key takes over its row, so hot files coalesce.
 *
 * States of a row, and who moves it on (replicator/deliver.c):
 *
 *   UPLOAD    content over inline_max: its object must be in the region before anybody is told
 *   ANNOUNCE  to be put into this region's next segment
 *   OBJECT    announced; its object is still to be written (or removed)
 *   PARKED    failed for good; an operator sees and replays it
 *
 *   enqueue -> UPLOAD -> ANNOUNCE -> gone                (large)
 *   enqueue -> UPLOAD -> ANNOUNCE -> OBJECT -> gone      (the former name of a large one)
 *   enqueue -> UPLOAD -> ANNOUNCE -> OBJECT -> PARKED    (large, and no store takes it)
 *   enqueue -> ANNOUNCE -> OBJECT -> gone                (inline, tombstones, directories,
 *                                                        symlinks; large, with a base: its
 *                                                        change travels as a delta)
 *   enqueue -> ANNOUNCE -> UPLOAD -> …                   (large, and no delta could be made)
 *
 * Order. Every enqueue draws the next number of one sequence. A row keeps the number of its oldest
 * change that is not announced (first) and of its newest (last). Within a directory a peer must
 * never see a later change without the earlier ones, so outbox_announceable leaves out rows of a
 * directory whose last is greater than the first of an UPLOAD or PARKED-before-announced row there.
 */
#ifndef CACHE_OUTBOX_H
#define CACHE_OUTBOX_H

#include "cache/cache.h"
#include "src/base/hash.h"

struct entry;

/* Content up to this size travels in the segment (a row starts in ANNOUNCE); larger content is
 * an object first (UPLOAD). The default of the replicator's inline_max, and the rule for rows
 * that region_register seeds. */
#define OUTBOX_INLINE_MAX 65536

enum outbox_state { OUTBOX_UPLOAD = 1, OUTBOX_ANNOUNCE = 2, OUTBOX_OBJECT = 3, OUTBOX_PARKED = 4 };

#define OUTBOX_ERROR_SIZE 200

struct outbox_row {
	struct key key;
	struct stamp stamp; /* entry_stamp of the version to deliver */
	enum outbox_state state;
	/* hint: the region is believed to have no object at this key; of a tombstone: nobody
	 * else ever wrote the path */
	bool fresh;
	bool uploaded; /* ANNOUNCE: came from UPLOAD, so the object is there in this version */
	uint64_t first;
	uint64_t last;
	uint64_t size; /* content bytes, for the backlog figure */
	uint32_t attempts;
	int64_t next_at_ms;	       /* clock_monotonic_ms(): not before */
	char error[OUTBOX_ERROR_SIZE]; /* the last failure's text, "" for none */
	/* of the change; its former name where that was never announced either */
	struct key moved_from;
	struct key moved_to; /* of a tombstone: where its content is now, a hint */
	bool unfetched;	     /* this server gave the name content that was never here */
	/* large content, announced or to be announced by what it changes of this version, which is
	 * the last one that the region was told of; its object may follow later */
	bool has_base;
	uint8_t base[SHA256_SIZE];
};

/* For every region of the region table but those that are out (resync.h). upload: state UPLOAD, else ANNOUNCE. object_only:
 * straight to OBJECT (to repair an object without telling anybody). moved_from: empty or the key
 * that this content was renamed from; a hint. */
struct outbox_change {
	struct slice key;
	struct stamp stamp;
	/* 0, or one of outbox_numbers: nobody sees this change before those of the directory that were
	 * enqueued since then, nor those before this one */
	uint64_t since;
	uint64_t size;
	bool upload;
	bool fresh;
	bool object_only;
	struct slice moved_from;
	/* Of a tombstone: empty, or the name that its content has now. Where that is still to be
	 * uploaded, with this one as moved_from, the row starts in UPLOAD, too, and becomes ANNOUNCE
	 * when the other one is not in UPLOAD any more: nobody is told that a file is gone before they
	 * are told where it is. */
	struct slice moved_to;
	bool remote;	/* the content is not here */
	bool unfetched; /* and came to this name so */
	/* another server wrote this path too: nothing is believed about the object any longer */
	bool shared;
	/* with upload: the hash of the version before, of which a delta can be made; else NULL.
	 * Where that is what the region was told last the row starts in ANNOUNCE. */
	const uint8_t *base;
};
int outbox_enqueue(struct conn *conn, const struct outbox_change *change) MUST_CHECK;
/* The first of count numbers of the sequence, for outbox_change.since: each for one change, as no two rows
 * have the same. Inside a write transaction. */
int outbox_numbers(struct conn *conn, unsigned count, uint64_t *first) MUST_CHECK;
/* Straight to OBJECT for one region, unless it has a row for that key: the object there is not what e
 * says. */
int outbox_repair(
	struct conn *conn, unsigned region, struct slice key, const struct entry *e) MUST_CHECK;
/* The same for one region. */
int outbox_enqueue_in(
	struct conn *conn, unsigned region, const struct outbox_change *change) MUST_CHECK;
/* Removes the key's rows in all regions (its version lost to a remote one). */
int outbox_drop(struct conn *conn, struct slice key) MUST_CHECK;

/* Removes up to limit rows of a region; *oldest_ms is lowered to the time of their oldest change. */
int outbox_drop_some(struct conn *conn, unsigned region, unsigned limit, unsigned *count,
	uint64_t *oldest_ms) MUST_CHECK;

/* Directories that are held back beside those with a barrier of their own: nothing of dir (a hash) from
 * the change first on may go. {0} at first; OUTBOX_HOLDS_MAX bounds it. */
struct outbox_holds {
	struct outbox_hold {
		uint64_t dir;
		uint64_t first; /* 0: free */
	} * hold;
	size_t count, size;
};
#define OUTBOX_HOLDS_MAX 16384u
void outbox_holds_done(struct outbox_holds *h);
/* Adds the directories of those rows (of outbox_announceable) that are former names, and whose content's
 * present name cannot be announced yet. *added: there were any; what outbox_announceable gives has to be
 * read again, and looked at again. With OUTBOX_HOLDS_MAX there are no more. */
int outbox_hold_moved(struct conn *conn, unsigned region, const struct outbox_row *rows, unsigned n,
	struct outbox_holds *holds, bool *added) MUST_CHECK;

/* Up to max rows of a region in ANNOUNCE that may go into the next segment, in order of first.
 * They are taken directory by directory, the one whose oldest change (by last) waits longest
 * first, and the last one, where it would be torn, another time, so that cuts are mostly closed; cost O(log n) a row, however many are held back. *more:
 * further ones may go. holds
 * may be NULL. */
int outbox_announceable(struct conn *conn, unsigned region, unsigned max,
	const struct outbox_holds *holds, struct outbox_row *rows, unsigned *count,
	bool *more) MUST_CHECK;
/* True in *ret when the first n of rows, with the group that is open, are a consistent cut: no row of the
 * region that is not among them, in a directory of one of them or of the group, has a first smaller
 * than a last among them (or the group's last there), and no former name among them has a present one that is
 * still to be announced and is not among them. */
int outbox_cut_closed(struct conn *conn, unsigned region, const struct outbox_row *rows, unsigned n,
	bool *ret) MUST_CHECK;
/* The open group of segments (outbox_group.c): a change is out in one that says "continues". */
int outbox_group_add(
	struct conn *conn, unsigned region, const struct outbox_row *row) MUST_CHECK;
int outbox_group_close(struct conn *conn, unsigned region) MUST_CHECK;
int outbox_group_open(struct conn *conn, unsigned region, bool *ret) MUST_CHECK;

/* The key's row in that region. -ENOENT: it has none. */
int outbox_get(
	struct conn *conn, unsigned region, struct slice key, struct outbox_row *ret) MUST_CHECK;

/* Up to max rows of a region in the given state with next_at_ms <= now_ms, oldest first,
 * starting after order number after_first (for callers that already work on earlier ones). */
int outbox_due(struct conn *conn, unsigned region, enum outbox_state state, int64_t now_ms,
	uint64_t after_first, unsigned max, struct outbox_row *rows, unsigned *count) MUST_CHECK;

/* The greatest first among a region's rows in a state; 0: there is none. */
int outbox_newest(
	struct conn *conn, unsigned region, enum outbox_state state, uint64_t *ret) MUST_CHECK;
/* Rows in UPLOAD of one range of sizes, the smallest first and of one size the oldest: those with
 * (size, first) after the given pair and size <= max_size; due as of outbox_due. */
struct outbox_upload_page {
	uint64_t after_size;
	uint64_t after_first;
	uint64_t max_size;
};
int outbox_due_uploads(struct conn *conn, unsigned region, int64_t now_ms,
	const struct outbox_upload_page *page, unsigned max, struct outbox_row *rows,
	unsigned *count) MUST_CHECK;

/* Moves on the row if it still has that stamp (else nothing: a newer version took it over).
 * attempts, error and next_at_ms are reset. */
int outbox_advance(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	enum outbox_state to) MUST_CHECK;
/* From UPLOAD to ANNOUNCE although its object can never be there, so that one impossible object does
 * not hold its directory for ever; after its announcement it is an OBJECT row, parked in its turn. */
int outbox_announce_unsent(
	struct conn *conn, unsigned region, struct slice key, struct stamp stamp) MUST_CHECK;
int outbox_finish(
	struct conn *conn, unsigned region, struct slice key, struct stamp stamp) MUST_CHECK;
/* Counts an attempt; to OUTBOX_PARKED when park. */
int outbox_failed(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	int64_t next_at_ms, const char *error, bool park) MUST_CHECK;
/* Not before next_at_ms; no attempt was made. */
int outbox_put_off(struct conn *conn, unsigned region, struct slice key, struct stamp stamp,
	int64_t next_at_ms) MUST_CHECK;
/* From ANNOUNCE with a base to UPLOAD without one: there will be no delta. */
int outbox_send_whole(
	struct conn *conn, unsigned region, struct slice key, struct stamp stamp) MUST_CHECK;
/* All rows of a region become due now (it came back). Parked rows too when parked. */
int outbox_retry_now(struct conn *conn, unsigned region, bool parked) MUST_CHECK;

/* Keys whose objects must be looked at again without a row saying so (touched.c). mark: not
 * before due_ms, and when the path is removed or becomes of another kind; due_ms 0: only then. */
int touched_mark(struct conn *conn, struct slice key, int64_t due_ms) MUST_CHECK;
/* Whether the key is marked; the mark goes, unless it is still to become due. */
int touched_take(struct conn *conn, struct slice key, bool *ret) MUST_CHECK;
/* True in *ret when the key's object is still to be looked at again. */
int touched_is_due(struct conn *conn, struct slice key, bool *ret) MUST_CHECK;
/* When the next one is due; INT64_MAX: none. */
int touched_next(struct conn *conn, int64_t *due_ms) MUST_CHECK;
/* Enqueues up to limit due ones for their objects only; inside a write transaction. */
int touched_enqueue(struct conn *conn, int64_t now_ms, unsigned limit, unsigned *count) MUST_CHECK;

struct outbox_stats {
	uint64_t rows;	/* all states */
	uint64_t bytes; /* content bytes of rows whose object is still missing */
	uint64_t parked;
	uint64_t unannounced; /* UPLOAD and ANNOUNCE */
	uint64_t oldest_ms;   /* hlc_ms of the oldest row's stamp; 0: empty */
};
int outbox_stats(struct conn *conn, unsigned region, struct outbox_stats *ret) MUST_CHECK;
/* A bit for each region (1 << id) where the key (len 0: any key), or anything below it, has rows. */
int outbox_waiting(struct conn *conn, struct slice key, uint64_t *regions) MUST_CHECK;

/* True in *ret when a row of the key waits that took over a row which may have left an object of another
 * kind to be removed: whenever it is not fresh. */
int outbox_replaces(struct conn *conn, struct slice key, bool *ret) MUST_CHECK;
/* regions: a bit for each that an upload of key's content is owed to or has just brought: rows in UPLOAD, and uploaded ones
 * that wait to be announced. */
int outbox_uploading(struct conn *conn, struct slice key, uint64_t *regions) MUST_CHECK;

#endif
