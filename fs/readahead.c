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
#include <unistd.h>

void readahead_widen(struct fs *fs)
{
	char path[64], text[16];
	struct stat st;
	ssize_t done;
	int fd;

	/* Waits for the mount's first answers, before which the kernel would take it back. */
	if (stat(fs->mountpoint, &st) != 0)
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
