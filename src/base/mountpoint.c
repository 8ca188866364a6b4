/* A file of its own because both the mount and the verbs have to recognise a dead mount. */
#include "src/base/mountpoint.h"

#include <errno.h>
#include <sys/statvfs.h>

int mountpoint_stat(const char *path, struct stat *ret)
{
	struct statvfs vfs;
	struct stat st;

	/* Of a dead mount the kernel may still know the root's attributes, but statfs always asks the
	 * daemon. */
	if (stat(path, &st) < 0 || statvfs(path, &vfs) < 0)
		return errno == ECONNABORTED ? -ENOTCONN : -errno;
	*ret = st;
	return 0;
}
