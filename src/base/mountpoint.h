/* What is at a mount point. Thread-safe. */
#ifndef BASE_MOUNTPOINT_H
#define BASE_MOUNTPOINT_H

#include <sys/stat.h>

#include "src/base/attribute.h"

/* stat(2) of what is there. -ENOTCONN: a mount whose daemon has ended. Waits for a daemon that does not
 * answer. */
int mountpoint_stat(const char *path, struct stat *ret) MUST_CHECK;

#endif
