/* Regions, cursors, watermarks, conflicts and small settings: the replicator's bookkeeping. */
#ifndef CACHE_PROGRESS_H
#define CACHE_PROGRESS_H

#include "cache/cache.h"
#include "cache/entry.h"

#define REGION_MAX 8
#define REGION_NAME_SIZE 64
#define SEGMENT_NAME_SIZE 64

/* Ids of the named regions, 0 to REGION_MAX - 1, stable for the life of the state; names not
 * listed are retired with their outbox rows (err tells how many rows that drops; refused with
 * -EBUSY when there are any, unless force). A region that is new while entries exist is seeded: it
 * gets an outbox row for each live entry, by region_seed. */
int region_register(struct cache *c, const char *const *names, unsigned count, bool force,
	unsigned *ids, struct err *err) MUST_CHECK;

/* Whether the region's bucket was seen to be this volume's, ever, by this state: then one without a
 * volume is not the same bucket any more. A region that was retired and is named again starts over. */
int region_used(struct conn *conn, unsigned region, bool *ret) MUST_CHECK;
int region_set_used(struct cache *c, unsigned region) MUST_CHECK;

/* Seeds a new region a little further; *more: until this is false, what the region lacks is more than
 * its rows. Nothing to do for others. */
int region_seed(struct cache *c, unsigned region, bool *more) MUST_CHECK;
int region_seeding(struct conn *conn, unsigned region, bool *ret) MUST_CHECK;

/* The last segment that this node sent to a region: 0 and "" before the first. */
struct region_progress {
	uint64_t sent_seq;
	char sent_name[SEGMENT_NAME_SIZE];
	/* The name under which segment sent_seq + 1 is being sent, kept before its PUT so that a
	 * crash in between neither sends one number twice nor skips it; "" when none is under
	 * way. */
	char pending_name[SEGMENT_NAME_SIZE];
};
int region_progress_get(struct conn *conn, unsigned region, struct region_progress *ret) MUST_CHECK;
int region_progress_set(
	struct conn *conn, unsigned region, const struct region_progress *p) MUST_CHECK;

/* Where pulling from a region stands: the name of the newest segment seen. "" at first. */
int cursor_get(struct conn *conn, unsigned region, char name[SEGMENT_NAME_SIZE]) MUST_CHECK;
int cursor_set(struct conn *conn, unsigned region, const char *name) MUST_CHECK;

/* segment_seen: all segments of node up to seq in region are merged; name is that of the last
 * one. 0 and "" when none. */
int watermark_get(struct conn *conn, unsigned region, uint64_t node, uint64_t *seq,
	char name[SEGMENT_NAME_SIZE]) MUST_CHECK;
int watermark_set(struct conn *conn, unsigned region, uint64_t node, uint64_t seq,
	const char *name) MUST_CHECK;

/* A segment that was skipped because it is damaged, for the operator. */
int bad_segment_add(
	struct conn *conn, unsigned region, const char *name, const char *reason) MUST_CHECK;
int bad_segment_count(struct conn *conn, uint64_t *ret) MUST_CHECK;

/* Conflicts: the version that lost. ino: local inode (without a name now) that holds its content
 * and is kept for it; 0: none here. */
int conflict_add(struct conn *conn, struct slice key, const struct entry *loser,
	const struct entry *winner, uint64_t ino, const char *reason) MUST_CHECK;
int conflict_count(struct conn *conn, uint64_t *ret) MUST_CHECK;
typedef int (*conflict_fn)(void *ctx, uint64_t id, struct slice key, const struct entry *loser,
	uint64_t ino, int64_t at_ms, const char *reason);
int conflict_scan(
	struct conn *conn, uint64_t after_id, unsigned limit, conflict_fn fn, void *ctx) MUST_CHECK;

/* The newest regular file that lost a conflict at key: where over is not NULL, to this version and
 * unseen by its writer. -ENOENT. */
int conflict_newest(struct conn *conn, struct slice key, const struct entry *over,
	struct entry *loser) MUST_CHECK;

/* Records held because their stamp is too far ahead: kept encoded until due. */
int held_add(struct conn *conn, struct slice key, int64_t due_ms, const void *record,
	size_t len) MUST_CHECK;
typedef int (*held_fn)(void *ctx, uint64_t id, const void *record, size_t len);
int held_due(struct conn *conn, int64_t now_ms, unsigned limit, held_fn fn, void *ctx) MUST_CHECK;
int held_remove(struct conn *conn, uint64_t id) MUST_CHECK;
int held_count(struct conn *conn, uint64_t *ret) MUST_CHECK;

/* Small settings by name: volume id and the like. -ENOENT. */
int meta_get_text(struct conn *conn, const char *name, char *value, size_t size) MUST_CHECK;
int meta_set_text(struct conn *conn, const char *name, const char *value) MUST_CHECK;

#endif
