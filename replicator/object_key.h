/*
 * Paths as object keys and back. A key is the path; bytes that are not valid UTF-8, control bytes,
 * and '%' before two hexadecimal digits are written %XX (upper case), and only they. Directories
 * end in '/'.
 */
#ifndef REPLICATOR_OBJECT_KEY_H
#define REPLICATOR_OBJECT_KEY_H

#include "cache/cache.h"
#include "replicator/store/store.h"

/* -ENAMETOOLONG over STORE_KEY_MAX bytes. path is valid and not the root. */
int object_key_from_path(struct slice path, bool directory, char key[STORE_KEY_MAX + 1]) MUST_CHECK;
/* -EBADMSG for a key that cannot be a path. *directory: it ended in '/'. */
int object_key_to_path(const char *key, struct key *path, bool *directory) MUST_CHECK;

#endif
