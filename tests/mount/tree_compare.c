/* Comparing whole trees: names, kinds, attributes, content, extended attributes, and which names are
 * of one inode. */
#include "tests/mount/tree_model.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define INODES_MAX 65536
#define DAY 86400

bool skip_special, skip_dirtimes, skip_links;

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted names but "." and "..", each with its type in front. */
int list(int fd, char *found[ENTRIES_MAX])
{
	DIR *d = fdopendir(fd);
	int n = 0;

	if (!d) {
		close(fd);
		return -ENOTDIR;
	}
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
			if (n == ENTRIES_MAX)
				fail("more than %d names in a directory", ENTRIES_MAX);
			if (asprintf(&found[n++], "%s/%c", e->d_name, 'A' + e->d_type) < 0)
				fail("no memory");
		}
	closedir(d);
	qsort(found, (size_t)n, sizeof(found[0]), compare_names);
	return n;
}

void put_stat(struct outcome *o, const struct stat *st)
{
	bool sized = S_ISREG(st->st_mode) || S_ISLNK(st->st_mode);
	bool linked = !S_ISDIR(st->st_mode) && !skip_links;
	bool device = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
	time_t now = time(NULL);
	bool natural = st->st_mtime > now - DAY && st->st_mtime < now + DAY;

	/* What goes through a FIFO never reaches a FUSE daemon, and so does not change its times. */
	if ((S_ISDIR(st->st_mode) && skip_dirtimes) || S_ISFIFO(st->st_mode))
		natural = true;
	o->len += (size_t)snprintf((char *)o->data + o->len, 400,
		"mode %o uid %u gid %u links %u size %lld device %llx mtime %lld.%09ld",
		st->st_mode, st->st_uid, st->st_gid, linked ? (unsigned)st->st_nlink : 0,
		sized ? (long long)st->st_size : 0, device ? (long long)st->st_rdev : 0,
		natural ? 0 : (long long)st->st_mtim.tv_sec, natural ? 0 : st->st_mtim.tv_nsec);
}

static struct {
	ino_t model, mount;
} inode[INODES_MAX]; /* names of one inode there are names of one inode here */

static void check_identity(const char *path, ino_t model, ino_t mount)
{
	size_t at = model % INODES_MAX;

	if (skip_links)
		return;
	while (inode[at].model && inode[at].model != model)
		at = (at + 1) % INODES_MAX;
	if (!inode[at].model) {
		inode[at].model = model;
		inode[at].mount = mount;
	}
	if (inode[at].mount != mount)
		fail("%s: is inode %llu, another name of the same file is %llu", path,
			(unsigned long long)mount, (unsigned long long)inode[at].mount);
}

static void put_content(struct side *s, const char *path, mode_t mode, struct outcome *o)
{
	if (S_ISLNK(mode)) {
		o->r = result(readlinkat(s->root, path, (char *)o->data, 1000));
	} else if (S_ISREG(mode)) {
		int fd = openat(s->root, path, O_RDONLY | O_CLOEXEC);

		o->r = fd < 0 ? -errno : result(read(fd, o->data, DATA_MAX));
		if (fd >= 0)
			close(fd);
	}
	o->len = o->r > 0 ? (size_t)o->r : 0;
}

/* Sorted names and values. */
static void put_xattrs(struct side *s, const char *path, struct outcome *o)
{
	char full[4 * PATH_MAX], all[8192], value[256];
	char *found[ENTRIES_MAX];
	ssize_t n, len;
	size_t count = 0;

	snprintf(full, sizeof(full), "%s/%s", s->path, path);
	n = llistxattr(full, all, sizeof(all));
	o->r = result(n);
	for (char *p = all; p < all + n && count < ENTRIES_MAX; p += strlen(p) + 1)
		found[count++] = p;
	qsort(found, count, sizeof(found[0]), compare_names);
	for (size_t i = 0; i < count; i++) {
		len = lgetxattr(full, found[i], value, sizeof(value));
		o->len +=
			(size_t)snprintf((char *)o->data + o->len, 300, "%s = %zd ", found[i], len);
		for (ssize_t k = 0; k < len; k++)
			o->len += (size_t)snprintf(
				(char *)o->data + o->len, 3, "%02x", (uint8_t)value[k]);
	}
}

void compare_outcomes(const char *what, const char *path, const struct outcome *o)
{
	if (o[MODEL].r != o[MOUNT].r)
		fail("%s of %s: %ld, should be %ld (%s)", what, path, o[MOUNT].r, o[MODEL].r,
			strerror(o[MODEL].r < 0 ? (int)-o[MODEL].r : 0));
	if (o[MODEL].len != o[MOUNT].len || memcmp(o[MODEL].data, o[MOUNT].data, o[MODEL].len) != 0)
		fail("%s of %s is\n%.*s\nshould be\n%.*s", what, path, (int)o[MOUNT].len,
			o[MOUNT].data, (int)o[MODEL].len, o[MODEL].data);
}

static void compare_node(const char *path)
{
	static struct outcome o[2];
	struct stat st[2];

	for (int i = 0; i < 2; i++) {
		o[i].r = result(fstatat(side[i].root, path, &st[i], AT_SYMLINK_NOFOLLOW));
		o[i].len = 0;
		if (o[i].r == 0)
			put_stat(&o[i], &st[i]);
	}
	compare_outcomes("the state", path, o);
	check_identity(path, st[MODEL].st_ino, st[MOUNT].st_ino);
	for (int i = 0; i < 2; i++)
		put_content(&side[i], path, st[i].st_mode, &o[i]);
	compare_outcomes("the content", path, o);
	for (int i = 0; i < 2; i++) {
		o[i].len = 0;
		put_xattrs(&side[i], path, &o[i]);
		o[i].r = 0; /* the length of the list: ours need not name the same */
	}
	compare_outcomes("the attributes", path, o);
}

static int list_below(struct side *s, const char *path, char *found[ENTRIES_MAX])
{
	int n = list(openat(s->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), found), kept = 0;

	for (int i = 0; i < n; i++) {
		char type = (char)(strrchr(found[i], '/')[1] - 'A');

		if (skip_special && type != DT_REG && type != DT_DIR && type != DT_LNK)
			free(found[i]);
		else
			found[kept++] = found[i];
	}
	return kept;
}

static void compare_tree(const char *path)
{
	char *found[2][ENTRIES_MAX];
	int n[2];

	for (int i = 0; i < 2; i++)
		n[i] = list_below(&side[i], path, found[i]);
	for (int i = 0; i < n[MODEL] || i < n[MOUNT]; i++)
		if (i >= n[MODEL] || i >= n[MOUNT] || strcmp(found[MODEL][i], found[MOUNT][i]) != 0)
			fail("%s has %s, should have %s", path,
				i < n[MOUNT] ? found[MOUNT][i] : "nothing more",
				i < n[MODEL] ? found[MODEL][i] : "nothing more");
	for (int i = 0; i < n[MODEL]; i++) {
		char child[2 * PATH_MAX];
		char *type = strrchr(found[MODEL][i], '/');

		*type = '\0';
		snprintf(child, sizeof(child), "%s/%s", path, found[MODEL][i]);
		compare_node(child);
		if (type[1] == 'A' + DT_DIR)
			compare_tree(child);
		free(found[MODEL][i]);
		free(found[MOUNT][i]);
	}
}

void compare_all(void)
{
	memset(inode, 0, sizeof(inode));
	compare_tree(".");
}

void settle_times(const char *path)
{
	const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
	char *found[ENTRIES_MAX];
	int n = list(openat(side[MODEL].root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), found);

	for (int i = 0; i < n; i++) {
		char child[2 * PATH_MAX];
		char *type = strrchr(found[i], '/');

		*type = '\0';
		snprintf(child, sizeof(child), "%s/%s", path, found[i]);
		if (type[1] == 'A' + DT_DIR) {
			settle_times(child);
			for (int k = 0; k < 2; k++)
				if (utimensat(side[k].root, child, times, 0) < 0)
					fail("times of %s: %m", child);
		}
		free(found[i]);
	}
}
