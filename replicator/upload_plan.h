/*
 * How a new version of a large object is put together: which bytes of it are sent, and which the store
 * copies from the version that it has.
 */
#ifndef REPLICATOR_UPLOAD_PLAN_H
#define REPLICATOR_UPLOAD_PLAN_H

#include "cache/content_map.h"
#include "replicator/store/store.h"

#define UPLOAD_COPY_PART_SIZE (UINT64_C(512) << 20) /* no bytes travel, so only requests count */

/* One part. */
struct upload_span {
	uint64_t offset;
	uint64_t length;
	bool copy; /* the version that is there has the same bytes at that place */
};

/* Parts for the content of map, in order and without gaps, over an object that holds base. part_size: the
 * most that one part sends. ret is heap, the caller's. -ENOENT: it saves less than half, or cannot be done
 * within the limits. */
int upload_plan(const struct store_limits *l, uint64_t part_size, const struct content_map *base,
	const struct content_map *map, struct upload_span **ret, uint32_t *count) MUST_CHECK;

#endif
