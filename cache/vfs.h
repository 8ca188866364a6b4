/*
 * Private to cache/: the SQLite VFS of all connections. It is unix-excl, but for the write-ahead
 * log, whose frames go by memcpy into a mapping of the file instead of two system calls each.
 */
#ifndef CACHE_VFS_H
#define CACHE_VFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/attribute.h"

/* The name for sqlite3_open_v2; the first call registers the VFS. NULL when that failed. */
const char *vfs_name(void);

/* Tests: called before each write to a log, mapped or not, with what is to be written. 0, or
 * -ENOSPC or -EIO to make it fail; it may end the process. NULL: none. Set while no database is
 * open. */
typedef int (*vfs_write_hook)(int fd, const void *p, size_t n, int64_t offset);
void vfs_set_write_hook(vfs_write_hook hook);
/* Tests: false makes logs that are opened from now on use system calls only, as on a file system
 * that does not overwrite in place. */
void vfs_set_mapping(bool allowed);

#endif
