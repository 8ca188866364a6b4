/* The kernel's table of mounts, and paths that may lie on a dead mount. Thread-safe. */
#ifndef SRC_MOUNTS_H
#define SRC_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/attribute.h"
#include "src/base/err.h"

#define MOUNTS_TYPE "fuse.meridian"

struct mount_entry {
	char mountpoint[4096];
	char root[4096]; /* the directory of the file system that is mounted there: "/" but for bind
			    mounts */
	char type[64];
};

/* The topmost mount at or above path, which is absolute and without "." or "..". -ENOENT, or why
 * the table cannot be read. */
int mounts_covering(const char *path, struct mount_entry *ret) MUST_CHECK;
/* The same for any text in the format of /proc/self/mountinfo. */
int mounts_covering_in(const char *table, const char *path, struct mount_entry *ret) MUST_CHECK;

/* realpath(3), but the last component may lie on a mount that is dead, or not exist. Heap. */
int mounts_canonical(const char *path, char **ret) MUST_CHECK;

/* Whether the daemon behind the mount has ended. Waits for one that does not answer. */
bool mounts_dead(const char *mountpoint);

/* Unmounts: by umount2(2), else by fusermount3. lazy: also when it is busy. -EBUSY when in use. */
int mounts_unmount(const char *mountpoint, bool lazy, struct err *err) MUST_CHECK;

#endif
