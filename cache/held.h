/* Records that wait for their time. */
#ifndef CACHE_HELD_H
#define CACHE_HELD_H

#include "cache/cache.h"

/* Records held because their stamp is too far ahead: kept encoded until due. */
int held_add(struct conn *conn, struct slice key, int64_t due_ms, const void *record,
	size_t len) MUST_CHECK;
typedef int (*held_fn)(void *ctx, uint64_t id, const void *record, size_t len);
int held_due(struct conn *conn, int64_t now_ms, unsigned limit, held_fn fn, void *ctx) MUST_CHECK;
int held_remove(struct conn *conn, uint64_t id) MUST_CHECK;
int held_count(struct conn *conn, uint64_t *ret) MUST_CHECK;

#endif
