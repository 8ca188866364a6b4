/*
 * Private to cache/: keys of directories that were used lately, so that a change need not walk up
 * the tree for the path of its journal row. They belong to the writer connection and are valid
 * inside its transactions, by whoever holds them.
 */
#ifndef CACHE_DIR_KEY_H
#define CACHE_DIR_KEY_H

#include "cache/cache.h"

struct dir_keys;

struct dir_keys *dir_keys_new(void);
void dir_keys_free(struct dir_keys *d); /* NULL is fine */

/* False when it is not known. *ret is valid until the next call of one of the others. */
bool dir_keys_find(const struct dir_keys *d, uint64_t ino, struct slice *ret);
/* above: the directories between it and the root that were walked for it, as far as they were not
 * found here. */
void dir_keys_put(struct dir_keys *d, uint64_t ino, struct slice key, const uint64_t *above,
	unsigned count);
/* ino lost its name or gets another. */
void dir_keys_moved(struct dir_keys *d, uint64_t ino);
/* What a transaction that is rolled back has read may not be so. */
void dir_keys_clear(struct dir_keys *d);

/* The other way round: the directory of the path that was looked up last, for batches of paths,
 * which mostly share one. Each connection has one, for as long as a transaction that changes no
 * directory's name. */
struct dir_found {
	uint64_t ino; /* 0: none */
	struct key key;
};

#endif
