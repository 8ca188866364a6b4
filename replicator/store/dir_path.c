/*
 * Places in a directory store: the root and whether it is still the same, the way to a key's
 * directory, the private areas, the locks between processes, temporary files.
 *
 * No path is ever handed to the kernel whole: each component is opened by itself with O_NOFOLLOW,
 * relative to the descriptor of the one before, so that neither ".." nor a planted symlink leads
 * out of the directory.
 *
 *   .meridian-tmp/store      the marker: "meridian-dir 1 <xattr|sidecar> <32 hexadecimal digits>";
 *                            an unmounted disk lacks it. Made with the first use of the directory only
 *   .meridian-tmp/lock/NN    256 files; flock on one excludes changes of the keys that hash to it
 *   .meridian-tmp/t-*        bodies on their way; those older than an hour are removed when the
 *                            store is opened
 *   .meridian-meta/xx/H      sidecars
 *   .meridian-overflow/xx/H  objects without a place; H = SHA-256 of the key, xx its start
 */
#include "replicator/store/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/xattr.h>

#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/random.h"

#define MARKER "store"
#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

enum {
	LOCK_FILES = 256,
	LOCK_WAIT_MAX_MS = 30000, /* for calls without a deadline */
	STALE_S = 3600,
	XATTR_PROBE_BYTES = 3600, /* the largest record: 2,048 of metadata, 1,024 of key, framing */
};

int dir_key_check(const char *key)
{
	const char *at = key;

	for (;;) {
		size_t n = strcspn(at, "/");
		if (n == 0 || (n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
			return -EINVAL;
		if (at == key &&
			((n == strlen(DIR_TMP) && !strncmp(at, DIR_TMP, n)) ||
				(n == strlen(DIR_META) && !strncmp(at, DIR_META, n)) ||
				(n == strlen(DIR_OVERFLOW) && !strncmp(at, DIR_OVERFLOW, n))))
			return -EINVAL;
		at += n;
		if (!at[0] || !at[1])
			return 0;
		at++;
	}
}

bool dir_is_obstacle(int error)
{
	return error == -ENOTDIR || error == -ELOOP || error == -EISDIR || error == -ENOTEMPTY ||
	       error == -EEXIST || error == -ENAMETOOLONG || error == -EILSEQ || error == -EINVAL;
}

int dir_flush(int fd)
{
	/* Some file systems have no flush for directories: their metadata is as safe as it gets. */
	return fsync(fd) < 0 && errno != EINVAL && errno != ENOSYS ? -errno : 0;
}

int dir_open_sub(int at, const char *name, bool create, int *ret_fd)
{
	int fd = openat(at, name, DIR_FLAGS);

	for (int i = 0; fd < 0 && errno == ENOENT && create && i < 100; i++) {
		if (mkdirat(at, name, 0700) < 0) {
			if (errno != EEXIST)
				return -errno;
		} else {
			int r = dir_flush(at);
			if (r < 0)
				return r;
		}
		/* A remove may prune it at once: once more. */
		fd = openat(at, name, DIR_FLAGS);
	}
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int walk(
	struct dir *d, const char *key, bool create, int *ret_fd, char leaf[DIR_NAME_MAX + 1])
{
	AUTO_CLOSE int fd = fcntl(d->root, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	for (;;) {
		char name[DIR_NAME_MAX + 1];
		size_t n = strcspn(key, "/");
		if (n > DIR_NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, key, n);
		name[n] = '\0';
		if (!key[n] || !key[n + 1]) {
			memcpy(leaf, name, n + 1);
			*ret_fd = fd;
			fd = -1;
			return 0;
		}
		int next;
		int r = dir_open_sub(fd, name, create, &next);
		if (r < 0)
			return r;
		close(fd);
		fd = next;
		key += n + 1;
	}
}

int dir_open_parent(
	struct dir *d, const char *key, bool create, int *ret_fd, char leaf[DIR_NAME_MAX + 1])
{
	int r = -ENOENT;

	/* When creating, an ancestor that was just made may be pruned by a remove before we are in
	 * it. */
	for (int i = 0; i < (create ? 100 : 1) && r == -ENOENT; i++)
		r = walk(d, key, create, ret_fd, leaf);
	return r;
}

int dir_open_private(struct dir *d, const char *area, const char *key, bool create, int *ret_fd,
	char name[DIR_NAME_MAX + 1])
{
	uint8_t hash[SHA256_SIZE];
	char shard[3];
	AUTO_CLOSE int top = -1;

	int r = dir_open_sub(d->root, area, create, &top);
	if (r < 0)
		return r;
	sha256(key, strlen(key), hash);
	hex_encode(hash, sizeof(hash), name);
	memcpy(shard, name, 2);
	shard[2] = '\0';
	return dir_open_sub(top, shard, create, ret_fd);
}

int dir_lock_key(struct dir *d, const char *key, const struct store_call *call, int *ret_fd)
{
	int64_t deadline =
		call->deadline_ms ? call->deadline_ms : clock_monotonic_ms() + LOCK_WAIT_MAX_MS;
	uint32_t hash = 2166136261u; /* FNV-1a */
	char name[8];

	for (const char *c = key; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 16777619u;
	snprintf(name, sizeof(name), "%02x", hash % LOCK_FILES);
	int fd = openat(d->lock, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno == ENOENT ? -ENXIO : -errno;
	for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; tries++) {
		int e = errno;
		if (e == EINTR)
			continue;
		if (e == EWOULDBLOCK && call->cancel && atomic_load(call->cancel))
			e = ECANCELED;
		else if (e == EWOULDBLOCK && clock_monotonic_ms() >= deadline)
			e = ETIMEDOUT;
		if (e != EWOULDBLOCK) {
			close(fd);
			return -e;
		}
		/* A holder needs a few system calls only; a stopped one must not hold us past our
		 * deadline. */
		clock_sleep_ms(tries < 20 ? 1 : 10);
	}
	*ret_fd = fd;
	return 0;
}

int dir_tmp_new(struct dir *d, char name[32], int *ret_fd)
{
	snprintf(name, 32, "t-%016llx", (unsigned long long)random_u64());
	int fd = openat(d->tmp, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		name[0] = '\0';
		return errno == ENOENT ? -ENXIO : -errno;
	}
	*ret_fd = fd;
	return 0;
}

int dir_write_file(struct dir *d, int at, const char *name, const void *p, size_t len)
{
	char tmp[32];
	AUTO_CLOSE int fd = -1;
	const char *from = p;

	int r = dir_tmp_new(d, tmp, &fd);
	if (r < 0)
		return r;
	while (len && r == 0) {
		ssize_t n = write(fd, from, len);
		if (n < 0 && errno != EINTR)
			r = -errno;
		if (n > 0) {
			from += n;
			len -= (size_t)n;
		}
	}
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(d->tmp, tmp, at, name) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(d->tmp, tmp, 0);
		return r;
	}
	return dir_flush(at);
}

/* The root. */

/* Opens the root at the path and reads its marker. -ENOENT when there is no marker (the descriptors
 * are valid then). */
static int open_fds(const char *path, int fds[2], bool *ret_xattr, char id[33])
{
	char text[80] = "", mode[16];

	fds[0] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fds[0] < 0)
		return -errno;
	int r = dir_open_sub(fds[0], DIR_TMP, false, &fds[1]);
	if (r < 0)
		return r;
	AUTO_CLOSE int fd = openat(fds[1], MARKER, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text) - 1) < 0)
		return -errno;
	if (sscanf(text, "meridian-dir 1 %15s %32[0-9a-f]", mode, id) != 2 || strlen(id) != 32)
		return -EBADMSG;
	if (strcmp(mode, "xattr") && strcmp(mode, "sidecar"))
		return -EBADMSG;
	*ret_xattr = mode[0] == 'x';
	return 0;
}

static bool has_xattrs(int fd)
{
	char value[XATTR_PROBE_BYTES];

	memset(value, 'x', sizeof(value));
	if (fsetxattr(fd, "user.meridian.probe", value, sizeof(value), 0) < 0)
		return false;
	return fremovexattr(fd, "user.meridian.probe") == 0;
}

/* First use of this directory. Of several processes at once, one marker wins (link fails for the
 * others). */
static int make_marker(int root)
{
	AUTO_CLOSE int tmp = -1;
	AUTO_CLOSE int fd = -1;
	uint8_t id[16];
	char hex[33], text[80], name[32];

	int r = dir_open_sub(root, DIR_TMP, true, &tmp);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "t-%016llx", (unsigned long long)random_u64());
	fd = openat(tmp, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	random_bytes(id, sizeof(id));
	hex_encode(id, sizeof(id), hex);
	int n = snprintf(text, sizeof(text), "meridian-dir 1 %s %s\n",
		has_xattrs(fd) ? "xattr" : "sidecar", hex);
	if (write(fd, text, (size_t)n) != n || fsync(fd) < 0)
		r = errno ? -errno : -EIO;
	if (r == 0 && linkat(tmp, name, tmp, MARKER, 0) < 0 && errno != EEXIST)
		r = -errno;
	(void)unlinkat(tmp, name, 0);
	if (r == 0)
		r = dir_flush(tmp);
	return r;
}

static void remove_stale(int tmp)
{
	AUTO_CLOSE int fd = openat(tmp, ".", DIR_FLAGS);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int64_t now_s = clock_realtime_ms() / 1000;
	const struct dirent *e;
	struct stat st;

	if (!dir)
		return;
	fd = -1;
	while ((e = readdir(dir)))
		if (!strncmp(e->d_name, "t-", 2) &&
			fstatat(tmp, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			S_ISREG(st.st_mode) && st.st_mtime < now_s - STALE_S)
			(void)unlinkat(tmp, e->d_name, 0);
	closedir(dir);
}

static int refused(const char *path, int r, struct err *err)
{
	if (r == -EBADMSG)
		return err_set(err, r,
			"%s/" DIR_TMP "/" MARKER ": not written by this version of meridian", path);
	return err_errno(err, r, "cannot use the directory %s as a store", path);
}

int dir_exists(const char *path, struct err *err)
{
	AUTO_CLOSE int root = -1;
	AUTO_CLOSE int tmp = -1;
	int fds[2] = {-1, -1};
	bool xattr;
	char id[33];

	int r = open_fds(path, fds, &xattr, id);
	root = fds[0];
	tmp = fds[1];
	if (r != -ENOENT)
		return r < 0 ? refused(path, r, err) : 1;
	if (root >= 0) /* it is to get its marker */
		return access(path, R_OK | W_OK | X_OK) < 0 ? refused(path, -errno, err) : 0;
	AUTO_FREE char *parent = strdup(path);
	CHECK(parent);
	for (size_t n = strlen(parent); n > 1 && parent[n - 1] == '/'; n--)
		parent[n - 1] = '\0';
	*(strrchr(parent, '/') + 1) = '\0';
	if (access(parent, W_OK | X_OK) < 0)
		return err_errno(err, -errno, "cannot create the directory %s", path);
	return 0;
}

int dir_open_root(struct dir *d, struct err *err)
{
	AUTO_CLOSE int root = -1;
	AUTO_CLOSE int tmp = -1;
	int fds[2] = {-1, -1};
	struct stat st;

	if (mkdir(d->path, 0700) < 0 && errno != EEXIST)
		return err_errno(err, -errno, "cannot create the directory %s", d->path);
	int r = open_fds(d->path, fds, &d->xattr, d->id);
	if (r == -ENOENT && fds[0] >= 0) {
		r = make_marker(fds[0]);
		if (fds[1] >= 0)
			close(fds[1]);
		close(fds[0]);
		fds[0] = fds[1] = -1;
		if (r == 0)
			r = open_fds(d->path, fds, &d->xattr, d->id);
	}
	root = fds[0];
	tmp = fds[1];
	if (r < 0)
		return refused(d->path, r, err);
	if (fstatat(tmp, "STORE", &st, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(err, -EINVAL,
			"%s: the file system does not tell upper from lower case", d->path);
	if (fstat(root, &st) < 0)
		return err_errno(err, -errno, "cannot use the directory %s as a store", d->path);
	r = dir_open_sub(tmp, "lock", true, &d->lock);
	if (r < 0)
		return err_errno(err, r, "cannot use the directory %s as a store", d->path);
	remove_stale(tmp);
	d->root_dev = st.st_dev;
	d->root_ino = st.st_ino;
	d->root = root;
	d->tmp = tmp;
	root = tmp = -1;
	return 0;
}

int dir_open_used(struct dir *d, struct err *err)
{
	int *const fds[] = {&d->root, &d->tmp, &d->lock};

	/* What there is for dup3 to replace. No call gets at them: dir_check comes first. */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		*fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (*fds[i] < 0)
			return err_errno(err, -errno, "cannot open /dev/null");
	}
	int missing = dir_check(d);
	(void)missing; /* each call asks again */
	return 0;
}

/* The path leads elsewhere now. When the same store (by its marker) is there, a disk mounted again,
 * go on with it; with any store, when none was opened yet. dup2 swaps under the feet of other threads,
 * which is safe: both old and new descriptors are of the same store. */
static int reopen(struct dir *d)
{
	AUTO_CLOSE int root = -1;
	AUTO_CLOSE int tmp = -1;
	AUTO_CLOSE int lock = -1;
	int fds[2] = {-1, -1};
	struct stat st;
	bool xattr = false;
	char id[33] = "";

	int r = open_fds(d->path, fds, &xattr, id);
	root = fds[0];
	tmp = fds[1];
	if (r == -EACCES)
		return r;
	bool first = !d->id[0], same = r == 0 && !strcmp(id, d->id) && xattr == d->xattr;
	if (r < 0 || !(first || same) || fstat(root, &st) < 0 ||
		dir_open_sub(tmp, "lock", true, &lock) < 0)
		return -ENXIO;
	if (dup3(root, d->root, O_CLOEXEC) < 0 || dup3(tmp, d->tmp, O_CLOEXEC) < 0 ||
		dup3(lock, d->lock, O_CLOEXEC) < 0)
		return -errno;
	if (first) {
		d->xattr = xattr;
		memcpy(d->id, id, sizeof(d->id));
		remove_stale(tmp);
	}
	d->root_dev = st.st_dev;
	d->root_ino = st.st_ino;
	return 0;
}

int dir_check(struct dir *d)
{
	struct stat st;
	int r = 0;

	if (stat(d->path, &st) < 0)
		return errno == EACCES ? -EACCES : -ENXIO;
	mutex_lock(&d->root_lock);
	if (st.st_dev != d->root_dev || st.st_ino != d->root_ino)
		r = reopen(d);
	mutex_unlock(&d->root_lock);
	return r;
}

int dir_check_marker(struct dir *d)
{
	struct stat st;

	return fstatat(d->tmp, MARKER, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -ENXIO : 0;
}
