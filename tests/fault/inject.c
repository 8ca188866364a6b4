/*
 * LD_PRELOAD library: disturbs one system call of a program at a time.
 *
 * Counts the calls that change files below $FAULT_DIR and disturbs number $FAULT_AT:
 *
 *   FAULT_MODE=count     nothing; writes the number of calls to $FAULT_COUNT at exit
 *   FAULT_MODE=enospc    that call fails with ENOSPC (eio: EIO)
 *   FAULT_MODE=short     a write writes half, then the next fails with ENOSPC
 *   FAULT_MODE=kill      the process ends before that call, as by kill -9
 *   FAULT_MODE=powercut  the same, and every write since the file's last fsync is undone
 *
 * Power cuts: bytes and sizes of regular files are lost unless flushed; names (create, rename,
 * unlink) are kept in order, as a journalling file system in ordered mode does.
 */
/* The library defines both spellings itself. */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct undo {
	struct undo *next;
	dev_t dev;
	ino_t ino;
	int fd; /* our own descriptor of the file */
	off_t size;
	off_t offset;
	size_t len;
	unsigned char old[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct undo *undo_list;
static long calls, at;
static enum { OFF, COUNT, ERRNO, SHORT, KILL, POWERCUT } mode;
static int fail_errno = ENOSPC;
static bool short_next;
static char dir[512];

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_fdatasync)(int);
static int (*real_fsync)(int);
static int (*real_syncfs)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_renameat)(int, const char *, int, const char *);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_mkdirat)(int, const char *, mode_t);
static int (*real_mkdir)(const char *, mode_t);
static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);

static void write_count(void)
{
	const char *path = getenv("FAULT_COUNT");
	FILE *f = path ? fopen(path, "w") : NULL;
	if (f) {
		fprintf(f, "%ld\n", calls);
		fclose(f);
	}
}

__attribute__((constructor)) static void setup(void)
{
	const char *d = getenv("FAULT_DIR"), *m = getenv("FAULT_MODE"), *a = getenv("FAULT_AT");

	real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
	real_write = dlsym(RTLD_NEXT, "write");
	real_pwritev = dlsym(RTLD_NEXT, "pwritev64");
	real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
	real_fallocate = dlsym(RTLD_NEXT, "fallocate64");
	real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
	real_fsync = dlsym(RTLD_NEXT, "fsync");
	real_syncfs = dlsym(RTLD_NEXT, "syncfs");
	real_rename = dlsym(RTLD_NEXT, "rename");
	real_renameat = dlsym(RTLD_NEXT, "renameat");
	real_unlink = dlsym(RTLD_NEXT, "unlink");
	real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
	real_mkdirat = dlsym(RTLD_NEXT, "mkdirat");
	real_mkdir = dlsym(RTLD_NEXT, "mkdir");
	real_open = dlsym(RTLD_NEXT, "open64");
	real_openat = dlsym(RTLD_NEXT, "openat64");
	if (!d || !m || !realpath(d, dir))
		return;
	at = a ? atol(a) : 0;
	if (strcmp(m, "count") == 0) {
		mode = COUNT;
		atexit(write_count);
	} else if (strcmp(m, "enospc") == 0 || strcmp(m, "eio") == 0) {
		mode = ERRNO;
		fail_errno = strcmp(m, "eio") == 0 ? EIO : ENOSPC;
	} else if (strcmp(m, "short") == 0) {
		mode = SHORT;
	} else if (strcmp(m, "kill") == 0) {
		mode = KILL;
	} else if (strcmp(m, "powercut") == 0) {
		mode = POWERCUT;
	}
}

static bool below(const char *path)
{
	size_t n = strlen(dir);
	return n && strncmp(path, dir, n) == 0 && (path[n] == '/' || !path[n]);
}

static bool fd_watched(int fd)
{
	char link[64], path[1024];
	struct stat st;

	if (mode == OFF || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	return below(path);
}

static bool path_watched(int dirfd, const char *name)
{
	char link[64], path[2048];

	if (mode == OFF)
		return false;
	if (name[0] == '/')
		return below(name);
	if (dirfd == AT_FDCWD)
		return false;
	snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	return below(path);
}

static void cut_power(void)
{
	for (struct undo *u = undo_list; u; u = u->next) { /* newest first */
		if (u->len)
			real_pwrite(u->fd, u->old, u->len, u->offset);
		real_ftruncate(u->fd, u->size);
	}
}

/* Under the lock. True: the call fails with errno set. */
static bool disturb(void)
{
	calls++;
	if (mode == SHORT && short_next) {
		short_next = false;
		errno = ENOSPC;
		return true;
	}
	if (calls != at)
		return false;
	if (mode == POWERCUT)
		cut_power();
	if (mode == POWERCUT || mode == KILL)
		_exit(86);
	if (mode == ERRNO) {
		errno = fail_errno;
		return true;
	}
	return false;
}

static void remember(int fd, off_t offset, size_t len)
{
	struct stat st;
	char path[64];

	if (mode != POWERCUT || fstat(fd, &st) < 0)
		return;
	struct undo *u = malloc(sizeof *u + len);
	if (!u)
		abort();
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	u->fd = real_open(path, O_RDWR | O_CLOEXEC);
	u->dev = st.st_dev;
	u->ino = st.st_ino;
	u->size = st.st_size;
	u->offset = offset;
	ssize_t n = len && u->fd >= 0 ? pread(u->fd, u->old, len, offset) : 0;
	u->len = n > 0 ? (size_t)n : 0;
	u->next = undo_list;
	undo_list = u;
}

static void forget(int fd)
{
	struct stat st;

	if (mode != POWERCUT || fstat(fd, &st) < 0)
		return;
	for (struct undo **p = &undo_list; *p;) {
		struct undo *u = *p;
		if (u->dev == st.st_dev && u->ino == st.st_ino) {
			*p = u->next;
			close(u->fd);
			free(u);
		} else {
			p = &u->next;
		}
	}
}

ssize_t pwrite64(int fd, const void *p, size_t n, off_t offset)
{
	ssize_t r;

	if (!fd_watched(fd))
		return real_pwrite(fd, p, n, offset);
	pthread_mutex_lock(&lock);
	if (disturb()) {
		r = -1;
	} else {
		if (mode == SHORT && calls == at && n > 1) {
			n /= 2;
			short_next = true;
		}
		remember(fd, offset, n);
		r = real_pwrite(fd, p, n, offset);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t offset)
{
	return pwrite64(fd, p, n, offset);
}

ssize_t write(int fd, const void *p, size_t n)
{
	if (!fd_watched(fd))
		return real_write(fd, p, n);
	off_t offset =
		fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
	ssize_t r = pwrite64(fd, p, n, offset);
	if (r > 0)
		lseek(fd, offset + r, SEEK_SET);
	return r;
}

ssize_t pwritev64(int fd, const struct iovec *v, int count, off_t offset)
{
	if (!fd_watched(fd))
		return real_pwritev(fd, v, count, offset);
	ssize_t total = 0;
	for (int i = 0; i < count; i++) {
		ssize_t r = pwrite64(fd, v[i].iov_base, v[i].iov_len, offset + total);
		if (r < 0)
			return total ? total : -1;
		total += r;
		if ((size_t)r < v[i].iov_len)
			break;
	}
	return total;
}

ssize_t pwritev(int fd, const struct iovec *v, int count, off_t offset)
{
	return pwritev64(fd, v, count, offset);
}

int ftruncate64(int fd, off_t size)
{
	struct stat st;
	int r = -1;

	if (!fd_watched(fd))
		return real_ftruncate(fd, size);
	pthread_mutex_lock(&lock);
	if (!disturb()) {
		size_t lost =
			fstat(fd, &st) == 0 && st.st_size > size ? (size_t)(st.st_size - size) : 0;
		remember(fd, size, lost);
		r = real_ftruncate(fd, size);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

int ftruncate(int fd, off_t size)
{
	return ftruncate64(fd, size);
}

int fallocate64(int fd, int how, off_t offset, off_t n)
{
	int r = -1;

	if (!fd_watched(fd))
		return real_fallocate(fd, how, offset, n);
	pthread_mutex_lock(&lock);
	if (!disturb()) {
		remember(fd, offset, 0);
		r = real_fallocate(fd, how, offset, n);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

int fallocate(int fd, int how, off_t offset, off_t n)
{
	return fallocate64(fd, how, offset, n);
}

static int flush(int fd, int (*real)(int))
{
	int r = -1;

	if (!fd_watched(fd))
		return real(fd);
	pthread_mutex_lock(&lock);
	if (!disturb()) {
		r = real(fd);
		forget(fd);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

int fdatasync(int fd)
{
	return flush(fd, real_fdatasync);
}

int fsync(int fd)
{
	return flush(fd, real_fsync);
}

/* All files that are watched are on one file system. */
int syncfs(int fd)
{
	int r = -1;

	if (mode == OFF)
		return real_syncfs(fd);
	pthread_mutex_lock(&lock);
	if (!disturb()) {
		r = real_syncfs(fd);
		while (undo_list) {
			struct undo *u = undo_list;

			undo_list = u->next;
			close(u->fd);
			free(u);
		}
	}
	pthread_mutex_unlock(&lock);
	return r;
}

#define NAMED(watched, call)                                                                       \
	do {                                                                                       \
		if (!(watched))                                                                    \
			return call;                                                               \
		pthread_mutex_lock(&lock);                                                         \
		int result = disturb() ? -1 : call;                                                \
		pthread_mutex_unlock(&lock);                                                       \
		return result;                                                                     \
	} while (0)

int rename(const char *from, const char *to)
{
	NAMED(path_watched(AT_FDCWD, to), real_rename(from, to));
}

int renameat(int fd, const char *from, int to_fd, const char *to)
{
	NAMED(path_watched(to_fd, to), real_renameat(fd, from, to_fd, to));
}

int unlink(const char *path)
{
	NAMED(path_watched(AT_FDCWD, path), real_unlink(path));
}

int unlinkat(int fd, const char *path, int flags)
{
	NAMED(path_watched(fd, path), real_unlinkat(fd, path, flags));
}

int mkdir(const char *path, mode_t m)
{
	NAMED(path_watched(AT_FDCWD, path), real_mkdir(path, m));
}

int mkdirat(int fd, const char *path, mode_t m)
{
	NAMED(path_watched(fd, path), real_mkdirat(fd, path, m));
}

static mode_t mode_argument(int flags, va_list ap)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

int open64(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t m = mode_argument(flags, ap);
	va_end(ap);
	NAMED((flags & O_CREAT) && path_watched(AT_FDCWD, path), real_open(path, flags, m));
}

int openat64(int fd, const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t m = mode_argument(flags, ap);
	va_end(ap);
	NAMED((flags & O_CREAT) && path_watched(fd, path), real_openat(fd, path, flags, m));
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t m = mode_argument(flags, ap);
	va_end(ap);
	return open64(path, flags, m);
}

int openat(int fd, const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t m = mode_argument(flags, ap);
	va_end(ap);
	return openat64(fd, path, flags, m);
}
