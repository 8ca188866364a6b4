/*
 * The writer connection's memory of rows: inodes by number, and which inode a name leads to, or that
 * it leads to none. It says what a statement on that connection would find, uncommitted changes
 * included. Not thread-safe: the writer's lock guards it.
 */
#ifndef CACHE_ROW_CACHE_H
#define CACHE_ROW_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/cache.h"

struct inode_row;
struct row_cache;

struct row_cache *row_cache_new(void);
void row_cache_free(struct row_cache *r); /* NULL is fine */
/* After a rollback. */
void row_cache_clear(struct row_cache *r);

bool row_cache_inode(const struct row_cache *r, uint64_t ino, struct inode_row *ret);
/* row is complete, and what the database has. */
void row_cache_put_inode(struct row_cache *r, const struct inode_row *row);
/* Whenever the row of ino is added, changed or removed. */
void row_cache_drop_inode(struct row_cache *r, uint64_t ino);

/* place: name_place(name). False: not known. *ret 0: there is no such name. */
bool row_cache_name(const struct row_cache *r, uint64_t parent, int64_t place, struct slice name,
	uint64_t *ret);
/* Whenever a name comes, leads elsewhere, or goes (ino 0). Names that are too long to be kept are
 * not. */
void row_cache_put_name(
	struct row_cache *r, uint64_t parent, int64_t place, struct slice name, uint64_t ino);

#endif
