/* Small settings by name: volume id and the like. -ENOENT where there is none. */
#ifndef CACHE_META_H
#define CACHE_META_H

#include "cache/cache.h"

int meta_get_int(struct conn *conn, const char *name, int64_t *ret) MUST_CHECK;
int meta_set_int(struct conn *conn, const char *name, int64_t value) MUST_CHECK;
/* -ERANGE when it does not fit. */
int meta_get_text(struct conn *conn, const char *name, char *value, size_t size) MUST_CHECK;
int meta_set_text(struct conn *conn, const char *name, const char *value) MUST_CHECK;

#endif
