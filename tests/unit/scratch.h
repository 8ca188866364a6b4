/* Where the tests that have buckets put them: those flush each object, which a disk takes its time for. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Makes a directory, in memory where that has room and extended attributes of users, which a bucket
 * wants. ret has 64 bytes. 0 or -1. */
static inline int scratch_make(char *ret)
{
	enum { SIZE = 64, ROOM = 512 << 20 };
	struct statvfs v;

	snprintf(ret, SIZE, "/dev/shm/meridian-test-XXXXXX");
	if (statvfs("/dev/shm", &v) == 0 && v.f_bavail > ROOM / v.f_frsize && mkdtemp(ret)) {
		if (setxattr(ret, "user.probe", "", 0, 0) == 0 &&
			removexattr(ret, "user.probe") == 0)
			return 0;
		rmdir(ret);
	}
	snprintf(ret, SIZE, "/tmp/meridian-test-XXXXXX");
	return mkdtemp(ret) ? 0 : -1;
}

#endif
