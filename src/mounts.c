/* Why this file: find out which mount a path belongs to without asking the mount, which may hang or
 * be dead. */
#include "src/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "src/base/mountpoint.h"

#define TABLE_MAX (16 * 1024 * 1024)

/* Decodes \040 and the like. False when it does not fit. */
static bool decode(const char *s, size_t n, char *out, size_t size)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		char c = s[i];

		if (c == '\\' && n - i >= 4 && s[i + 1] >= '0' && s[i + 1] <= '3' &&
			s[i + 2] >= '0' && s[i + 2] <= '7' && s[i + 3] >= '0' && s[i + 3] <= '7') {
			c = (char)((s[i + 1] - '0') * 64 + (s[i + 2] - '0') * 8 + (s[i + 3] - '0'));
			i += 3;
		}
		if (at + 1 >= size)
			return false;
		out[at++] = c;
	}
	out[at] = '\0';
	return true;
}

/* "36 35 98:0 /root /mountpoint opts … - type source super" */
static bool parse_line(const char *line, size_t n, struct mount_entry *ret)
{
	const char *end = line + n, *dash, *type_end;
	const char *field[6];
	size_t length[6];
	const char *p = line;

	for (int i = 0; i < 6; i++) {
		const char *space = memchr(p, ' ', (size_t)(end - p));

		if (!space)
			return false;
		field[i] = p;
		length[i] = (size_t)(space - p);
		p = space + 1;
	}
	dash = memmem(p - 1, (size_t)(end - p + 1), " - ", 3);
	if (!dash)
		return false;
	dash += 3;
	type_end = memchr(dash, ' ', (size_t)(end - dash));
	return type_end && decode(field[3], length[3], ret->root, sizeof(ret->root)) &&
	       decode(field[4], length[4], ret->mountpoint, sizeof(ret->mountpoint)) &&
	       decode(dash, (size_t)(type_end - dash), ret->type, sizeof(ret->type));
}

static bool covers(const char *mountpoint, const char *path)
{
	size_t n = strlen(mountpoint);

	if (n == 1)
		return true; /* "/" */
	return strncmp(path, mountpoint, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

int mounts_covering_in(const char *table, const char *path, struct mount_entry *ret)
{
	struct mount_entry *entry AUTO_FREE = malloc(sizeof(*entry));
	bool found = false;

	if (!entry)
		return -ENOMEM;
	for (const char *line = table; *line;) {
		size_t n = strcspn(line, "\n");

		/* Later lines lie on top of earlier ones. */
		if (parse_line(line, n, entry) && covers(entry->mountpoint, path) &&
			(!found || strlen(entry->mountpoint) >= strlen(ret->mountpoint))) {
			*ret = *entry;
			found = true;
		}
		line += n + (line[n] == '\n');
	}
	return found ? 0 : -ENOENT;
}

int mounts_covering(const char *path, struct mount_entry *ret)
{
	int fd AUTO_CLOSE = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	char *table AUTO_FREE = NULL;
	size_t have = 0, size = 65536;

	if (fd < 0)
		return -errno;
	for (;;) {
		char *bigger = realloc(table, size + 1);
		ssize_t n;

		if (!bigger)
			return -ENOMEM;
		table = bigger;
		n = read(fd, table + have, size - have);
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
		if (have == size) {
			if (size >= TABLE_MAX)
				return -EFBIG;
			size *= 2;
		}
	}
	table[have] = '\0';
	return mounts_covering_in(table, path, ret);
}

int mounts_canonical(const char *path, char **ret)
{
	char *copy AUTO_FREE = NULL, *parent AUTO_FREE = NULL, *slash;
	const char *name;
	size_t n = strlen(path);

	*ret = realpath(path, NULL);
	if (*ret)
		return 0;
	if (errno != ENOTCONN && errno != ENOENT && errno != EACCES && errno != EIO)
		return -errno;
	while (n > 1 && path[n - 1] == '/')
		n--;
	copy = strndup(path, n);
	if (!copy)
		return -ENOMEM;
	slash = strrchr(copy, '/');
	name = slash ? slash + 1 : copy;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -ENOTCONN;
	if (slash && slash != copy)
		*slash = '\0';
	parent = realpath(!slash ? "." : slash == copy ? "/" : copy, NULL);
	if (!parent)
		return -errno;
	if (asprintf(ret, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) < 0) {
		*ret = NULL;
		return -ENOMEM;
	}
	return 0;
}

bool mounts_dead(const char *mountpoint)
{
	struct stat st;

	return mountpoint_stat(mountpoint, &st) == -ENOTCONN;
}

extern char **environ;

/* For users who may not unmount themselves. */
static int fusermount(const char *mountpoint, bool lazy)
{
	char *argv[] = {"fusermount3", lazy ? "-uzq" : "-uq", "--", (char *)mountpoint, NULL};
	pid_t pid;
	int status, r;

	r = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (r != 0)
		return -EPERM;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

int mounts_unmount(const char *mountpoint, bool lazy, struct err *err)
{
	int r = umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) < 0 ? -errno : 0;

	if (r == -EPERM)
		r = fusermount(mountpoint, lazy);
	if (r == -EBUSY)
		return err_set(err, r,
			"%s: in use\nhint: `fuser -vm %s` shows by whom; --force unmounts all the "
			"same",
			mountpoint, mountpoint);
	return r < 0 ? err_errno(err, r, "%s: cannot unmount", mountpoint) : 0;
}
