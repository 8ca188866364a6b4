/* How far sending to the regions and pulling from them got: segments, cursors, watermarks. */
#ifndef CACHE_PROGRESS_H
#define CACHE_PROGRESS_H

#include "cache/cache.h"

#define SEGMENT_NAME_SIZE 64

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

#endif
