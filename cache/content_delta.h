/*
 * Deltas that came with records of files whose content is not here: with them, content can be made of the
 * older version that a region's object may still be.
 */
#ifndef CACHE_CONTENT_DELTA_H
#define CACHE_CONTENT_DELTA_H

#include "cache/cache.h"
#include "src/base/buf.h"
#include "src/base/hash.h"

#define CONTENT_DELTAS_MAX ((int64_t)32 << 20) /* bytes of all: then the oldest go */

/* Keeps p, n bytes that make content with that hash and size of the content base. */
int content_delta_keep(struct cache *c, const uint8_t hash[SHA256_SIZE], uint64_t size,
	const uint8_t base[SHA256_SIZE], const void *p, size_t n) MUST_CHECK;
/* Of the content with that hash: its size, the hash of what it is made of, and, appended to delta, the
 * bytes. -ENOENT. */
int content_delta_get(struct conn *conn, const uint8_t hash[SHA256_SIZE], uint64_t *size,
	uint8_t base[SHA256_SIZE], struct buf *delta) MUST_CHECK;

#endif
