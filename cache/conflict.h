/* Versions that lost. */
#ifndef CACHE_CONFLICT_H
#define CACHE_CONFLICT_H

#include "cache/cache.h"
#include "cache/entry.h"

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

#endif
