/*
 * Random operations on a tree, each done on two directories: one on a local file system (ext4),
 * which is the model, and one on the mount. Results, error numbers and attributes must agree after
 * each, and the whole trees every few thousand. Names are few, so that operations collide often.
 *
 *     tree_model run MODEL MOUNT SEED OPERATIONS [NEEDED…]
 *     tree_model compare MODEL MOUNT [special] [dirtimes] [links]
 *     tree_model settle MODEL MOUNT
 *
 * run goes on with what is there, so that the caller can remount, or kill the daemon, in between.
 * NEEDED names features (link exchange special tmpfile acl) that must be there; others that are
 * missing are left out. compare: special, dirtimes and links leave out what is not replicated or late.
 * settle, after a kill, which may take directories' times of the last seconds: compares but for these,
 * and sets them on both sides.
 */
#include "tests/mount/tree_model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define HISTORY 60
#define DEPTH_MAX 8

struct side side[2];

static uint64_t seed, rng_state, step;
static char history[HISTORY][1200];

enum { LINK = 1, EXCHANGE = 2, SPECIAL = 4, TMPFILE = 8, ACL = 16 };
static const struct {
	const char *name;
	unsigned bit;
} feature_names[] = {{"link", LINK}, {"exchange", EXCHANGE}, {"special", SPECIAL},
	{"tmpfile", TMPFILE}, {"acl", ACL}};
static unsigned features;

static uint64_t random_next(void)
{
	uint64_t z = rng_state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static size_t below(size_t n)
{
	return random_next() % n;
}

void fail(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	for (unsigned i = 1; i <= HISTORY; i++)
		if (history[(step + i) % HISTORY][0])
			fprintf(stderr, "%s\n", history[(step + i) % HISTORY]);
	fprintf(stderr, "FAILED: seed %llu, step %llu: ", (unsigned long long)seed,
		(unsigned long long)step);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

/* ---- what an operation is ---- */

enum kind {
	OP_CREATE,
	OP_MKDIR,
	OP_LINK,
	OP_SYMLINK,
	OP_RENAME,
	OP_UNLINK,
	OP_RMDIR,
	OP_CHMOD,
	OP_CHOWN,
	OP_UTIMENS,
	OP_SETXATTR,
	OP_REMOVEXATTR,
	OP_GETXATTR,
	OP_STAT,
	OP_READLINK,
	OP_READDIR,
	OP_TRUNCATE,
	OP_MKNOD,
	OP_ACCESS,
	OP_OPEN,
	OP_TMPFILE,
	OP_HANDLE_WRITE,
	OP_HANDLE_READ,
	OP_HANDLE_TRUNCATE,
	OP_HANDLE_CHMOD,
	OP_HANDLE_UTIMENS,
	OP_HANDLE_LINK,
	OP_HANDLE_CLOSE,
	OP_KINDS
};

static const struct {
	const char *name;
	unsigned weight;
	unsigned needs;
} kinds[OP_KINDS] = {[OP_CREATE] = {"create", 16, 0},
	[OP_MKDIR] = {"mkdir", 24, 0},
	[OP_LINK] = {"link", 8, LINK},
	[OP_SYMLINK] = {"symlink", 5, 0},
	[OP_RENAME] = {"rename", 14, 0},
	[OP_UNLINK] = {"unlink", 7, 0},
	[OP_RMDIR] = {"rmdir", 5, 0},
	[OP_CHMOD] = {"chmod", 5, 0},
	[OP_CHOWN] = {"chown", 4, 0},
	[OP_UTIMENS] = {"utimens", 4, 0},
	[OP_SETXATTR] = {"setxattr", 4, 0},
	[OP_REMOVEXATTR] = {"removexattr", 2, 0},
	[OP_GETXATTR] = {"getxattr", 3, 0},
	[OP_STAT] = {"stat", 6, 0},
	[OP_READLINK] = {"readlink", 2, 0},
	[OP_READDIR] = {"readdir", 4, 0},
	[OP_TRUNCATE] = {"truncate", 3, 0},
	[OP_MKNOD] = {"mknod", 3, SPECIAL},
	[OP_ACCESS] = {"access", 2, 0},
	[OP_OPEN] = {"open", 6, 0},
	[OP_TMPFILE] = {"tmpfile", 1, TMPFILE},
	[OP_HANDLE_WRITE] = {"handle write", 4, 0},
	[OP_HANDLE_READ] = {"handle read", 4, 0},
	[OP_HANDLE_TRUNCATE] = {"handle truncate", 2, 0},
	[OP_HANDLE_CHMOD] = {"handle chmod", 1, 0},
	[OP_HANDLE_UTIMENS] = {"handle utimens", 1, 0},
	[OP_HANDLE_LINK] = {"handle link", 1, TMPFILE},
	[OP_HANDLE_CLOSE] = {"handle close", 5, 0}};

struct op {
	enum kind kind;
	char a[512], b[512]; /* paths */
	unsigned user;	     /* 0, or another's */
	mode_t mask, mode;
	int flags;
	unsigned handle;
	uid_t uid;
	gid_t gid;
	dev_t device;
	struct timespec times[2];
	const char *name; /* of an extended attribute */
	uint8_t data[DATA_MAX];
	size_t len, offset;
};

static const char *const names[] = {"a", "b", "c", "d e", "\xff\xfe%2f", "%41",
	("a-name-of-a-hundred-bytes-0123456789-0123456789-0123456789-0123456789-0123456789-"
	 "0123456789-01234567")};
#define NAMES (sizeof(names) / sizeof(names[0]))

/* Paths of late operations that succeeded: most are there. */
#define LATE 96
static char late[LATE][400];
static unsigned late_next;

static void remember(const char *path)
{
	size_t n = strlen(path) + 1;

	if (n <= sizeof(late[0]))
		memcpy(late[late_next++ % LATE], path, n);
}

static void random_path(char *out)
{
	unsigned depth =
		below(12) ? 2 + (unsigned)below(2) : 1; /* the top stays directories, mostly */
	const char *known = late[below(LATE)];

	out[0] = '\0';
	if (*known && below(4)) {
		strcpy(out, known);
		if (below(3))
			return;
		strcat(out, "/");
		depth = 1;
	}
	for (unsigned i = 0; i < depth; i++) {
		if (i)
			strcat(out, "/");
		strcat(out, names[below(below(3) ? 4 : NAMES)]);
	}
}

/* A time that nobody gets by chance: before 1970, after 2038, or just not now. */
static struct timespec random_time(void)
{
	static const time_t seconds[] = {
		-1000000000, -1, 0, 1, 999999999, 0x7fffffff, 0x80000000, 4000000000, 5000000000};
	struct timespec t = {.tv_sec = seconds[below(9)], .tv_nsec = (long)below(1000000000)};

	switch (below(8)) {
	case 0:
		t.tv_nsec = UTIME_NOW;
		break;
	case 1:
		t.tv_nsec = UTIME_OMIT;
		break;
	}
	return t;
}

static size_t put_entry(uint8_t *p, uint16_t tag, uint16_t permissions, uint32_t id)
{
	memcpy(p, &tag, 2);
	memcpy(p + 2, &permissions, 2);
	memcpy(p + 4, &id, 4);
	return 8;
}

/* The kernel's form of an access control list, as setfacl would write it. */
static size_t random_acl(uint8_t *p)
{
	uint32_t version = 2;
	size_t n = 4;

	memcpy(p, &version, 4);
	n += put_entry(p + n, 1, (uint16_t)below(8), UINT32_MAX);
	if (below(4))
		n += put_entry(p + n, 2, (uint16_t)below(8), 1000 + (uint32_t)below(2));
	n += put_entry(p + n, 4, (uint16_t)below(8), UINT32_MAX);
	n += put_entry(
		p + n, 16, 1 | (uint16_t)below(8), UINT32_MAX); /* the mask: see random_mode */
	n += put_entry(p + n, 32, (uint16_t)below(8), UINT32_MAX);
	return n;
}

static void random_xattr(struct op *op)
{
	static const char *const attributes[] = {"user.one", "user.two", "user.\xc3\xa9",
		"trusted.three", "security.four", "system.posix_acl_access",
		"system.posix_acl_default"};
	static const int flags[] = {0, 0, XATTR_CREATE, XATTR_REPLACE};
	size_t n = below((features & ACL) ? 7 : 5);

	op->name = attributes[n];
	op->len = below(80);
	op->flags = flags[below(4)];
	for (size_t i = 0; i < op->len; i++)
		op->data[i] = (uint8_t)random_next();
	if (n >= 5)
		op->len = random_acl(op->data);
}

static void random_flags(struct op *op)
{
	static const int creating[] = {O_CREAT, O_CREAT | O_EXCL, O_CREAT | O_TRUNC, O_TRUNC, 0};
	static const int renaming[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
	static const int opening[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_CREAT,
		O_RDWR | O_APPEND, O_RDONLY | O_DIRECTORY, O_RDWR | O_NOFOLLOW};

	switch (op->kind) {
	case OP_CREATE:
		op->flags = creating[below(5)] | O_WRONLY;
		break;
	case OP_RENAME:
		op->flags = renaming[below((features & EXCHANGE) ? 5 : 4)];
		break;
	case OP_OPEN:
		op->flags = opening[below(7)];
		break;
	case OP_LINK:
		op->flags = below(3) ? 0 : AT_SYMLINK_FOLLOW;
		break;
	case OP_SETXATTR:
	case OP_GETXATTR:
	case OP_REMOVEXATTR:
		random_xattr(op);
		break;
	case OP_ACCESS:
		op->flags = (int)below(8);
		break;
	default:
		op->flags = below(3) ? AT_SYMLINK_NOFOLLOW : 0;
	}
}

/* Never setgid without execution for the group: what a write does to that bit depends on rights of the
 * caller that the FUSE protocol does not pass on. */
static mode_t random_mode(mode_t mask)
{
	mode_t mode = below(3) ? (mode_t)(0600 | below(01000)) : (mode_t)below(010000);

	if (mask & S_IXGRP)
		return mode & ~(mode_t)S_ISGID;
	return mode & S_ISGID ? mode | S_IXGRP : mode;
}

static void random_op(struct op *op)
{
	static const mode_t types[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG};
	unsigned total = 0;
	unsigned at;

	for (unsigned i = 0; i < OP_KINDS; i++)
		total += kinds[i].weight;
	at = (unsigned)below(total);
	for (op->kind = 0; at >= kinds[op->kind].weight; op->kind++)
		at -= kinds[op->kind].weight;
	random_path(op->a);
	random_path(op->b);
	op->user = below(6) ? 0 : 1000 + (unsigned)below(2);
	op->mask = (mode_t[]){0, 022, 077}[below(3)];
	op->mode = random_mode(op->mask);
	op->handle = (unsigned)below(HANDLES);
	op->uid = (uid_t[]){0, 1000, 1001, (uid_t)-1}[below(4)];
	op->gid = (gid_t[]){0, 1000, 1001, (gid_t)-1}[below(4)];
	op->times[0] = random_time();
	op->times[1] = random_time();
	op->len = below((size_t)1 << below(14));
	op->offset = below(DATA_MAX - op->len);
	for (size_t i = 0; i < op->len; i++)
		op->data[i] = (uint8_t)(random_next() >> 20);
	if (op->kind == OP_MKNOD) {
		op->mode = types[below(5)] | (op->mode & 07777);
		op->device = makedev(
			120, (unsigned)below(300)); /* for local use: there is no such device */
	}
	random_flags(op);
}

/* ---- doing it ---- */

static void do_readdir(struct side *s, const struct op *op, struct outcome *o)
{
	char *found[ENTRIES_MAX];
	int fd = openat(s->root, op->a, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int n;

	o->r = result(fd);
	if (fd < 0)
		return;
	o->r = n = list(fd, found);
	for (int i = 0; i < n; i++) {
		o->len += (size_t)snprintf(
			(char *)o->data + o->len, DATA_MAX - o->len, "%s\n", found[i]);
		free(found[i]);
	}
}

static void stat_path(struct side *s, const char *path, int flags, struct outcome *o)
{
	struct stat st;

	if (fstatat(s->root, path, &st, flags) == 0)
		put_stat(o, &st);
}

static void stat_handle(struct side *s, unsigned handle, struct outcome *o)
{
	struct stat st;

	if (s->handle[handle] >= 0 && fstat(s->handle[handle], &st) == 0)
		put_stat(o, &st);
}

static void do_create(struct side *s, const struct op *op, struct outcome *o)
{
	int fd = openat(s->root, op->a, op->flags | O_CLOEXEC | O_NONBLOCK, op->mode & 07777);

	o->r = result(fd);
	if (fd < 0)
		return;
	o->r = result(write(fd, op->data, op->len));
	if (close(fd) < 0)
		o->r = -errno;
}

static void do_xattr(struct side *s, const struct op *op, struct outcome *o)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", s->path, op->a);
	if (op->kind == OP_SETXATTR) {
		o->r = result(lsetxattr(path, op->name, op->data, op->len, op->flags));
	} else if (op->kind == OP_REMOVEXATTR) {
		o->r = result(lremovexattr(path, op->name));
	} else {
		o->r = result(lgetxattr(path, op->name, o->data, sizeof(o->data)));
		o->len = o->r > 0 ? (size_t)o->r : 0;
	}
}

static void do_handle(struct side *s, const struct op *op, struct outcome *o)
{
	int *fd = &s->handle[op->handle];
	char proc[64];

	switch (op->kind) {
	case OP_OPEN:
	case OP_TMPFILE:
		if (*fd >= 0)
			close(*fd);
		*fd = openat(s->root, op->a,
			(op->kind == OP_TMPFILE ? O_TMPFILE | O_RDWR : op->flags) | O_CLOEXEC |
				O_NONBLOCK,
			op->mode & 07777);
		o->r = *fd < 0 ? -errno : 0;
		break;
	case OP_HANDLE_WRITE:
		o->r = result(pwrite(*fd, op->data, op->len, (off_t)op->offset));
		break;
	case OP_HANDLE_READ:
		o->r = result(pread(*fd, o->data, op->len, (off_t)op->offset));
		o->len = o->r > 0 ? (size_t)o->r : 0;
		break;
	case OP_HANDLE_TRUNCATE:
		o->r = result(ftruncate(*fd, (off_t)op->offset));
		break;
	case OP_HANDLE_CHMOD:
		o->r = result(fchmod(*fd, op->mode & 07777));
		break;
	case OP_HANDLE_UTIMENS:
		o->r = result(futimens(*fd, op->times));
		break;
	case OP_HANDLE_LINK:
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", *fd);
		o->r = *fd < 0 ? 0
			       : result(linkat(AT_FDCWD, proc, s->root, op->a, AT_SYMLINK_FOLLOW));
		break;
	default:
		stat_handle(s, op->handle, o);
		if (*fd >= 0)
			o->r = result(close(*fd));
		*fd = -1;
	}
	if (o->len < DATA_MAX - 500)
		stat_handle(s, op->handle, o);
}

static void do_path(struct side *s, const struct op *op, struct outcome *o)
{
	switch (op->kind) {
	case OP_CREATE:
		do_create(s, op, o);
		break;
	case OP_MKDIR:
		o->r = result(mkdirat(s->root, op->a, op->mode & 07777));
		break;
	case OP_LINK:
		o->r = result(linkat(s->root, op->a, s->root, op->b, op->flags));
		break;
	case OP_SYMLINK:
		o->r = result(symlinkat(op->b, s->root, op->a));
		break;
	case OP_RENAME:
		o->r = result(renameat2(s->root, op->a, s->root, op->b, (unsigned)op->flags));
		break;
	case OP_UNLINK:
	case OP_RMDIR:
		o->r = result(unlinkat(s->root, op->a, op->kind == OP_RMDIR ? AT_REMOVEDIR : 0));
		break;
	case OP_CHMOD:
		o->r = result(fchmodat(s->root, op->a, op->mode & 07777, 0));
		break;
	case OP_CHOWN:
		o->r = result(fchownat(s->root, op->a, op->uid, op->gid, op->flags));
		break;
	case OP_UTIMENS:
		o->r = result(utimensat(s->root, op->a, op->times, op->flags));
		break;
	case OP_READLINK:
		o->r = result(readlinkat(s->root, op->a, (char *)o->data, 1000));
		o->len = o->r > 0 ? (size_t)o->r : 0;
		break;
	case OP_TRUNCATE: {
		char path[PATH_MAX];

		snprintf(path, sizeof(path), "%s/%s", s->path, op->a);
		o->r = result(truncate(path, (off_t)op->offset));
		break;
	}
	case OP_MKNOD:
		o->r = result(mknodat(s->root, op->a, op->mode, op->device));
		break;
	case OP_ACCESS:
		o->r = result(faccessat(s->root, op->a, op->flags, AT_EACCESS));
		break;
	case OP_STAT:
		break;
	default:
		fail("no such operation");
	}
}

static void become(unsigned user)
{
	setfsgid(user);
	setfsuid(user);
}

static void perform(struct side *s, const struct op *op, struct outcome *o)
{
	o->r = 0;
	o->len = 0;
	umask(op->mask);
	become(op->user);
	if (op->kind >= OP_OPEN)
		do_handle(s, op, o);
	else if (op->kind == OP_SETXATTR || op->kind == OP_REMOVEXATTR || op->kind == OP_GETXATTR)
		do_xattr(s, op, o);
	else if (op->kind == OP_READDIR)
		do_readdir(s, op, o);
	else
		do_path(s, op, o);
	become(0);
	umask(0);
	if (op->kind < OP_OPEN && op->kind != OP_READDIR) {
		stat_path(s, op->a, AT_SYMLINK_NOFOLLOW, o);
		stat_path(s, op->a, 0, o);
		if (op->kind == OP_LINK || op->kind == OP_RENAME)
			stat_path(s, op->b, AT_SYMLINK_NOFOLLOW, o);
	}
}

/* ---- what is left out ---- */

/* How deep the directory really is in which path's last name lies, symbolic links followed; -1 when
 * there is none. */
static int parent_depth(const char *path)
{
	char parent[512], proc[64], real[PATH_MAX];
	char *slash;
	int fd, depth = 0;
	ssize_t n;

	snprintf(parent, sizeof(parent), "%s", path);
	slash = strrchr(parent, '/');
	if (!slash)
		return 0;
	*slash = '\0';
	fd = openat(side[MODEL].root, parent, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return -1;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	n = readlink(proc, real, sizeof(real) - 1);
	close(fd);
	if (n < 0)
		return -1;
	real[n] = '\0';
	for (size_t i = strlen(side[MODEL].path); i < (size_t)n; i++)
		depth += real[i] == '/';
	return depth;
}

static int height(int at, const char *name)
{
	char *found[ENTRIES_MAX];
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int n, most = 0;

	if (fd < 0)
		return 0;
	n = list(dup(fd), found);
	for (int i = 0; i < n; i++) {
		char *type = strrchr(found[i], '/');
		int below_it;

		*type = '\0';
		below_it = type[1] == 'A' + DT_DIR ? height(fd, found[i]) : 0;
		most = below_it > most ? below_it : most;
		free(found[i]);
	}
	close(fd);
	return most + 1;
}

/* Would make paths that grow without end. */
static bool too_deep(const struct op *op)
{
	int to = parent_depth(op->kind == OP_LINK || op->kind == OP_RENAME ? op->b : op->a);

	if (op->kind != OP_RENAME)
		return to + 1 > DEPTH_MAX;
	return to + height(side[MODEL].root, op->a) + 1 > DEPTH_MAX ||
	       parent_depth(op->a) + height(side[MODEL].root, op->b) + 1 > DEPTH_MAX;
}

/* A device node must not be opened. */
static bool opens_device(const struct op *op)
{
	struct stat st;

	return fstatat(side[MODEL].root, op->a, &st, 0) == 0 &&
	       (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode));
}

static bool leave_out(const struct op *op)
{
	struct stat st;

	if ((features & kinds[op->kind].needs) != kinds[op->kind].needs)
		return true;
	switch (op->kind) {
	case OP_CREATE:
	case OP_OPEN:
		return opens_device(op) || too_deep(op);
	case OP_TRUNCATE:
		return opens_device(op);
	case OP_MKDIR:
	case OP_LINK:
	case OP_SYMLINK:
	case OP_RENAME:
	case OP_MKNOD:
	case OP_HANDLE_LINK:
		return too_deep(op);
	case OP_HANDLE_READ:
	case OP_HANDLE_WRITE:
		/* A FIFO or socket has no offset, and what it says depends on who else has it open. */
		return side[MODEL].handle[op->handle] < 0 ||
		       fstat(side[MODEL].handle[op->handle], &st) < 0 ||
		       !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
	default:
		return false;
	}
}

/* ---- the run ---- */

static unsigned find_features(const char *root)
{
	char a[PATH_MAX], b[PATH_MAX];
	uint8_t acl[64];
	unsigned found = 0;
	int fd;

	snprintf(a, sizeof(a), "%s/feature.a", root);
	snprintf(b, sizeof(b), "%s/feature.b", root);
	fd = open(a, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
	if (fd < 0)
		fail("%s: %s", a, strerror(errno));
	close(fd);
	found |= link(a, b) == 0 ? LINK : 0;
	unlink(b);
	found |= mknod(b, S_IFIFO | 0600, 0) == 0 ? SPECIAL : 0;
	unlink(b);
	close(open(b, O_CREAT | O_RDWR | O_CLOEXEC, 0644));
	found |= renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0 ? EXCHANGE : 0;
	found |= setxattr(a, "system.posix_acl_access", acl, random_acl(acl), 0) == 0 ? ACL : 0;
	unlink(a);
	unlink(b);
	fd = open(root, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	found |= fd >= 0 ? TMPFILE : 0;
	if (fd >= 0)
		close(fd);
	return found;
}

static void need_features(char *const *needed)
{
	for (unsigned i = 0; i < 5; i++) {
		if (features & feature_names[i].bit)
			continue;
		printf("not offered: %s\n", feature_names[i].name);
		for (char *const *n = needed; *n; n++)
			if (strcmp(*n, feature_names[i].name) == 0)
				fail("%s is needed and not offered", *n);
	}
}

static void describe(const struct op *op)
{
	snprintf(history[step % HISTORY], sizeof(history[0]),
		"%8llu %s '%s' '%s' as %u, flags 0x%x, mode %o, mask %o, handle %u, %zu at %zu, %s",
		(unsigned long long)step, kinds[op->kind].name, op->a, op->b, op->user,
		(unsigned)op->flags, op->mode, op->mask, op->handle, op->len, op->offset,
		op->name ? op->name : "");
}

static void describe_result(long r)
{
	char *line = history[step % HISTORY];
	size_t n = strlen(line);

	snprintf(line + n, sizeof(history[0]) - n, " = %ld", r);
}

static void run(uint64_t steps)
{
	static struct outcome o[2];
	static struct op op;
	uint64_t done[OP_KINDS] = {0};

	for (step = 1; step <= steps; step++) {
		op.name = NULL;
		do
			random_op(&op);
		while (leave_out(&op));
		describe(&op);
		perform(&side[MODEL], &op, &o[MODEL]);
		describe_result(o[MODEL].r);
		perform(&side[MOUNT], &op, &o[MOUNT]);
		compare_outcomes(kinds[op.kind].name, op.a, o);
		done[op.kind] += o[MODEL].r >= 0;
		if (o[MODEL].r >= 0 && op.kind < OP_UNLINK)
			remember(op.kind == OP_LINK || op.kind == OP_RENAME ? op.b : op.a);
		if (step % 5000 == 0)
			compare_all();
	}
	for (unsigned i = 0; i < HANDLES; i++)
		for (int k = 0; k < 2; k++)
			if (side[k].handle[i] >= 0)
				close(side[k].handle[i]);
	printf("%llu operations; succeeded:", (unsigned long long)steps);
	for (unsigned i = 0; i < OP_KINDS; i++)
		printf(" %s %llu", kinds[i].name, (unsigned long long)done[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	if (argc < 4 || (strcmp(argv[1], "run") == 0 && argc < 6)) {
		fprintf(stderr,
			"usage: tree_model run MODEL MOUNT SEED OPERATIONS [NEEDED...]\n"
			"       tree_model compare MODEL MOUNT [special] [dirtimes] [links]\n");
		return 2;
	}
	for (int i = 0; i < 2; i++) {
		side[i].path = argv[2 + i];
		side[i].root = open(argv[2 + i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (side[i].root < 0)
			fail("%s: %s", argv[2 + i], strerror(errno));
		for (unsigned k = 0; k < HANDLES; k++)
			side[i].handle[k] = -1;
	}
	if (strcmp(argv[1], "run") == 0) {
		rng_state = seed = strtoull(argv[4], NULL, 0);
		umask(0);
		features = find_features(side[MODEL].path) & find_features(side[MOUNT].path);
		need_features(argv + 6);
		compare_all();
		run(strtoull(argv[5], NULL, 0));
	} else if (strcmp(argv[1], "settle") == 0) {
		skip_dirtimes = true;
		compare_all();
		settle_times(".");
		skip_dirtimes = false;
	}
	for (int i = 4; strcmp(argv[1], "compare") == 0 && i < argc; i++) {
		skip_special |= strcmp(argv[i], "special") == 0;
		skip_dirtimes |= strcmp(argv[i], "dirtimes") == 0;
		skip_links |= strcmp(argv[i], "links") == 0;
	}
	compare_all();
	return 0;
}
