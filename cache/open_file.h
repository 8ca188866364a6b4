/* Private to the files that make file.h: one open, and the steps that they share. */
#ifndef CACHE_OPEN_FILE_H
#define CACHE_OPEN_FILE_H

#include "cache/file.h"
#include "cache/record.h"

struct file {
	struct cache *cache;
	struct record *rec;
	bool writable;
};

/* With rec->lock. -EFBIG. */
int file_truncate_locked(struct cache *c, struct record *rec, uint64_t size) MUST_CHECK;
/* Ends one open and its reference; what becomes of an inode without a name. */
void file_end_open(struct cache *c, struct record *rec);

#endif
