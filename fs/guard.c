/*
 * A small process that ends the connection when the daemon is killed.
 *
 * A kill -9 normally does: its descriptors close, the kernel aborts the connection, every caller
 * gets ENOTCONN. Not so while the notifier waits for a directory's lock in the kernel (notify.c):
 * it cannot be killed there and holds a clone of the device, while the caller that has the lock
 * waits for an answer that nobody will give. Both would wait for ever. Aborting the connection from
 * outside frees them.
 *
 * The guard holds nothing but the reading end of a pipe. A byte means that the unmount was in
 * order; the end of the file, that the daemon is gone. It then aborts through fusectl (opened
 * beforehand: the file is dead once that connection is) or, where that is not mounted, by the first
 * half of a forced unmount, if the mount there still is ours. After fork it only makes system calls,
 * since the daemon has threads.
 */
#include "fs/internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Newer than the headers that we build with; older kernels give an id that they use again. */
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif

/* A mount. The next one in its place most likely gets the same device number. */
struct mount_id {
	unsigned device;
	uint64_t id;
};

/* Of what path is on, or fd when path is "". Asks the kernel only, not the daemon. */
static bool mount_id(int fd, const char *path, struct mount_id *ret)
{
	struct statx st;

	if (statx(fd, path, AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
		    STATX_INO | STATX_MNT_ID | STATX_MNT_ID_UNIQUE, &st) < 0)
		return false;
	*ret = (struct mount_id){st.stx_dev_minor, st.stx_mnt_id};
	return st.stx_dev_major == 0;
}

/* The first half of a forced unmount of what is mounted at path, if that is ours. The descriptor keeps it
 * busy: the forced unmount ends the connection and then fails. Programs shall get ENOTCONN, not write
 * into the directory below. And it is what is unmounted, whatever may be mounted there by now. */
static void abort_mount(const char *path, const struct mount_id *ours)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	struct mount_id now;
	char link[32];

	if (fd < 0 || !mount_id(fd, "", &now) || now.device != ours->device || now.id != ours->id)
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (umount2(link, MNT_FORCE) < 0 && errno == ENOENT)
		umount2(path, MNT_FORCE); /* no /proc */
}

static void keep_only(int a, int b)
{
	int low = a < b ? a : b;
	int high = a < b ? b : a;

	if (low > 0)
		close_range(0, (unsigned)low - 1, 0);
	if (high > low + 1)
		close_range((unsigned)low + 1, (unsigned)high - 1, 0);
	close_range((unsigned)high + 1, ~0U, 0);
}

_Noreturn static void watch(
	const char *mountpoint, const struct mount_id *ours, int pipe_fd, int abort_fd)
{
	char byte;
	ssize_t n;

	prctl(PR_SET_NAME, "meridian-guard");
	keep_only(pipe_fd, abort_fd >= 0 ? abort_fd : pipe_fd);
	do
		n = read(pipe_fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n == 0) {
		bool aborted = abort_fd >= 0 && write(abort_fd, "1", 1) == 1;

		if (!aborted)
			abort_mount(mountpoint, ours);
	}
	_exit(0);
}

int guard_start(struct fs *fs)
{
	sigset_t all, old;
	char path[64];
	struct mount_id ours;
	int ends[2], abort_fd;
	pid_t pid;

	if (!mount_id(AT_FDCWD, fs->mountpoint, &ours))
		return -errno;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u/abort", ours.device);
	abort_fd = open(path, O_WRONLY | O_CLOEXEC);
	/* What is sent to the daemon's process group, an interrupt from the keyboard for instance,
	 * is not for the guard. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0)
		watch(fs->mountpoint, &ours, ends[0], abort_fd);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(ends[0]);
	if (abort_fd >= 0)
		close(abort_fd);
	if (pid < 0) {
		close(ends[1]);
		return -EAGAIN;
	}
	fs->guard = pid;
	fs->guard_fd = ends[1];
	return 0;
}

void guard_stop(struct fs *fs)
{
	if (fs->guard <= 0)
		return;
	/* A guard that is gone already (SIGKILL) must not end us too. */
	sigset_t pipe_signal, old;

	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_signal, &old);
	if (write(fs->guard_fd, "u", 1) < 0 && errno == EPIPE && !sigismember(&old, SIGPIPE))
		sigtimedwait(&pipe_signal, NULL, &(struct timespec){0});
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(fs->guard_fd);
	while (waitpid(fs->guard, NULL, 0) < 0 && errno == EINTR)
		;
	fs->guard = 0;
}
