/*
 * Why this file: what the kernel reads ahead of a program comes here as requests of at most the readahead of the
 * mount, 128 KiB unless somebody says more. Each costs a turn of two processes; so where that is allowed (root)
 * it is made longer: as long as what an answer can have without a copy, since a pipe has 1 MiB at most.
 */
#include "fs/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define FUSE_MAGIC 0x65735546 /* linux/magic.h, not in all that we build with */

void readahead_widen(struct fs *fs)
{
	char path[64], text[16];
	struct stat st;
	struct statfs on;
	ssize_t done;
	bool ours;
	int fd;

	/* Waits for the mount's first answers, before which the kernel would take it back. By then another
	 * file system may be there. */
	fd = open(fs->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	ours = fstat(fd, &st) == 0 && fstatfs(fd, &on) == 0 && on.f_type == FUSE_MAGIC;
	close(fd);
	if (!ours)
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(st.st_dev),
		minor(st.st_dev));
	snprintf(text, sizeof(text), "%u", AHEAD_MAX >> 10);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	done = write(fd, text, strlen(text));
	(void)done; /* it only costs more then */
	close(fd);
}
