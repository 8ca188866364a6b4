/* Private to content.c and snapshot.c: files that keep a sealed version of content. */
#ifndef CACHE_SNAPSHOT_H
#define CACHE_SNAPSHOT_H

#include "cache/cache.h"
#include "src/base/hash.h"

/* A read descriptor and the size, or -errno (-ENOENT). */
int snapshot_open(
	struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t *size) MUST_CHECK;

#endif
