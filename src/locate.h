/* From what a person types (VOLUME, CONFIG, MOUNTPOINT, a PATH inside a mount, or nothing) to the
 * daemon. */
#ifndef SRC_LOCATE_H
#define SRC_LOCATE_H

#include "src/base/attribute.h"
#include "src/base/err.h"

/* Heap strings; {0} is empty. */
struct location {
	char *volume;	  /* NULL when only a dead mount point is known */
	char *state_dir;  /* the same */
	char *mountpoint; /* NULL when not known to be mounted */
	char *key;	  /* a PATH's part below the mount point, "" for the root */
};
void location_done(struct location *l); /* also the CLEANUP function */

/* What NULL: the only mounted volume. -ENOENT when there is no such thing, -EINVAL when it is
 * ambiguous. The daemon may not be running all the same. */
int locate(const char *what, struct location *ret, struct err *err) MUST_CHECK;
/* A path on a mount of a volume, and nothing else. -ENOENT when it is not on one. */
int locate_path(const char *path, struct location *ret, struct err *err) MUST_CHECK;

#endif
