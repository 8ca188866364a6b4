/* Sealed content of small files, by hash, so that delivery does not depend on a file that goes
 * on changing. A bounded least-recently-used cache; thread-safe. */
#ifndef REPLICATOR_INLINE_CACHE_H
#define REPLICATOR_INLINE_CACHE_H

#include "src/base/buf.h"
#include "src/base/hash.h"

struct inline_cache;

struct inline_cache *inline_cache_new(size_t max_bytes);
void inline_cache_free(struct inline_cache *c);
void inline_cache_put(
	struct inline_cache *c, const uint8_t hash[SHA256_SIZE], const void *p, size_t n);
/* True and a copy in b (cleared first) when it is there. */
bool inline_cache_get(struct inline_cache *c, const uint8_t hash[SHA256_SIZE], struct buf *b);

#endif
