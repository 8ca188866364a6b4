/* A lean passthrough mount, for comparison in the benchmarks only: what a low-level FUSE daemon costs that keeps nothing of its own.
 *
 *     lean [-s] SOURCE MOUNTPOINT        in the foreground, until unmounted; -s: one thread instead of two
 *
 * Every name that the kernel knows is a node; a node is reached through its directory's O_PATH descriptor and its name, so that files
 * take no descriptor unless they are open. A file that loses its name while it is open gets an O_PATH descriptor of its own first.
 * Hard links are different nodes. Timeouts are long, extended attributes and flush answer ENOSYS once and are not asked again.
 * Invariant: a node is in the table exactly while it has a name; table_lock guards the table and all nodes. */
#define FUSE_USE_VERSION 314
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define BUCKETS (1U << 20)
#define TIMEOUT 86400.0

struct node {
	struct node *next;
	struct node *parent; /* NULL: the root */
	uint64_t nlookup;    /* the kernel's references, and one for each child */
	uint32_t hash;
	unsigned opens;
	int fd; /* O_PATH; -1: reached by parent and name */
	bool named;
	char *name;
	char *old_name; /* before the last rename: another thread may still be using it */
};

struct dir {
	DIR *dp;
	struct dirent *ahead;
	off_t at;
};

static struct node root = {.nlookup = 1, .fd = -1, .named = true};
static struct node *table[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static struct node *node_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &root : (struct node *)(uintptr_t)ino;
}

static uint32_t hash_of(const struct node *parent, const char *name)
{
	uint64_t h = 1469598103934665603ULL ^ (uintptr_t)parent;
	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 1099511628211ULL;
	return (uint32_t)(h ^ h >> 32);
}

static struct node **slot_of(const struct node *parent, const char *name, uint32_t hash)
{
	struct node **at = &table[hash % BUCKETS];
	while (*at &&
		((*at)->hash != hash || (*at)->parent != parent || strcmp((*at)->name, name) != 0))
		at = &(*at)->next;
	return at;
}

static void node_unname(struct node *n)
{
	if (!n->named)
		return;
	struct node **at = &table[n->hash % BUCKETS];
	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	n->named = false;
}

static void node_put(struct node *n, uint64_t count)
{
	while (n && n != &root) {
		n->nlookup -= count;
		if (n->nlookup)
			return;
		struct node *parent = n->parent;
		node_unname(n);
		if (n->fd >= 0)
			close(n->fd);
		free(n->old_name);
		free(n->name);
		free(n);
		n = parent;
		count = 1;
	}
}

/* Finds or makes the node, with a reference for the kernel; NULL with errno set. */
static struct node *node_get(struct node *parent, const char *name, mode_t mode)
{
	uint32_t hash = hash_of(parent, name);
	pthread_mutex_lock(&table_lock);
	struct node **at = slot_of(parent, name, hash), *n = *at;
	if (n) {
		n->nlookup++;
	} else {
		n = calloc(1, sizeof(*n));
		if (!n)
			abort();
		n->fd = S_ISDIR(mode) ? openat(parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
				      : -1;
		if (S_ISDIR(mode) && n->fd < 0) {
			free(n);
			n = NULL;
		} else {
			n->name = strdup(name);
			n->parent = parent;
			n->hash = hash;
			n->nlookup = 1;
			n->named = true;
			parent->nlookup++;
			*at = n;
		}
	}
	pthread_mutex_unlock(&table_lock);
	return n;
}

/* Where system calls find the node. The name stays valid: the kernel serialises changes of a name with its use, and frees nodes last. */
static int where(const struct node *n, const char **name)
{
	if (n->fd >= 0) {
		*name = "";
		return n->fd;
	}
	*name = n->name;
	return n->parent->fd;
}

static int node_stat(const struct node *n, struct stat *st)
{
	const char *name;
	int fd = where(n, &name);
	return fstatat(fd, name, st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

static int entry_of(struct node *parent, const char *name, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){.attr_timeout = TIMEOUT, .entry_timeout = TIMEOUT};
	if (fstatat(parent->fd, name, &e->attr, AT_SYMLINK_NOFOLLOW))
		return errno;
	struct node *n = node_get(parent, name, e->attr.st_mode);
	if (!n)
		return errno;
	e->ino = (uintptr_t)n;
	return 0;
}

static void reply_entry_of(fuse_req_t req, struct node *parent, const char *name)
{
	struct fuse_entry_param e;
	int r = entry_of(parent, name, &e);
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_entry(req, &e);
}

/* New files belong to the caller, not to this process. */
static void own(fuse_req_t req, int dir, const char *name)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	if (ctx->uid != geteuid() || ctx->gid != getegid())
		(void)!fchownat(dir, name, ctx->uid, ctx->gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	conn->want |= conn->capable & (FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS);
	conn->want &= ~(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	conn->max_write = 1U << 20;
	(void)userdata;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int r = entry_of(node_of(parent), name, &e);
	if (r == ENOENT) {
		e.ino = 0;
		r = 0;
	}
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_entry(req, &e);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	pthread_mutex_lock(&table_lock);
	node_put(node_of(ino), nlookup);
	pthread_mutex_unlock(&table_lock);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	pthread_mutex_lock(&table_lock);
	for (size_t i = 0; i < count; i++)
		node_put(node_of(forgets[i].ino), forgets[i].nlookup);
	pthread_mutex_unlock(&table_lock);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	if (fi ? fstat((int)fi->fh, &st) : node_stat(node_of(ino), &st))
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &st, TIMEOUT);
}

static int set_size(const struct node *n, off_t size, const struct fuse_file_info *fi)
{
	if (fi)
		return ftruncate((int)fi->fh, size);
	char path[64];
	const char *name;
	int dir = where(n, &name), fd;
	if (*name) {
		fd = openat(dir, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	} else {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
		fd = open(path, O_WRONLY | O_CLOEXEC);
	}
	if (fd < 0)
		return -1;
	int r = ftruncate(fd, size), saved = errno;
	close(fd);
	errno = saved;
	return r;
}

static int set_mode(const struct node *n, mode_t mode)
{
	char path[64];
	const char *name;
	int dir = where(n, &name);
	if (*name)
		return fchmodat(dir, name, mode, 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
	return chmod(path, mode);
}

static int set_times(const struct node *n, const struct stat *attr, int to_set)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		times[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		times[0] = attr->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		times[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		times[1] = attr->st_mtim;
	const char *name;
	int dir = where(n, &name);
	return utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH);
}

static void op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	const char *name;
	int dir = where(n, &name);
	if (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
		gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;
		if (fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
			goto failed;
	}
	if (to_set & FUSE_SET_ATTR_MODE && set_mode(n, attr->st_mode))
		goto failed;
	if (to_set & FUSE_SET_ATTR_SIZE && set_size(n, attr->st_size, fi))
		goto failed;
	if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME) && set_times(n, attr, to_set))
		goto failed;
	op_getattr(req, ino, fi);
	return;
failed:
	fuse_reply_err(req, errno);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[4097];
	const char *name;
	int dir = where(node_of(ino), &name);
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
	if (n < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	target[n] = '\0';
	fuse_reply_readlink(req, target);
}

static void made(fuse_req_t req, int r, struct node *parent, const char *name)
{
	if (r) {
		fuse_reply_err(req, errno);
		return;
	}
	own(req, parent->fd, name);
	reply_entry_of(req, parent, name);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct node *p = node_of(parent);
	made(req, mknodat(p->fd, name, mode, rdev), p, name);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct node *p = node_of(parent);
	made(req, mkdirat(p->fd, name, mode), p, name);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct node *p = node_of(parent);
	made(req, symlinkat(target, p->fd, name), p, name);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct node *p = node_of(parent);
	const char *from;
	int dir = where(node_of(ino), &from);
	if (linkat(dir, from, p->fd, name, *from ? 0 : AT_EMPTY_PATH))
		fuse_reply_err(req, errno);
	else
		reply_entry_of(req, p, name);
}

/* Before a name goes: what is open under it stays reachable. */
static void keep_open(struct node *parent, const char *name)
{
	pthread_mutex_lock(&table_lock);
	struct node *n = *slot_of(parent, name, hash_of(parent, name));
	if (n && n->opens && n->fd < 0)
		n->fd = openat(parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	pthread_mutex_unlock(&table_lock);
}

static void drop_name(struct node *parent, const char *name)
{
	struct node *n = *slot_of(parent, name, hash_of(parent, name));
	if (n)
		node_unname(n);
}

static void unlink_any(fuse_req_t req, fuse_ino_t parent, const char *name, int flags)
{
	struct node *p = node_of(parent);
	keep_open(p, name);
	if (unlinkat(p->fd, name, flags)) {
		fuse_reply_err(req, errno);
		return;
	}
	pthread_mutex_lock(&table_lock);
	drop_name(p, name);
	pthread_mutex_unlock(&table_lock);
	fuse_reply_err(req, 0);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	unlink_any(req, parent, name, 0);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	unlink_any(req, parent, name, AT_REMOVEDIR);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags)
{
	struct node *from = node_of(parent), *to = node_of(new_parent);
	if (flags & ~(unsigned)RENAME_NOREPLACE) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	keep_open(to, new_name);
	char *copy = strdup(new_name);
	if (!copy || renameat2(from->fd, name, to->fd, new_name, flags)) {
		fuse_reply_err(req, copy ? errno : ENOMEM);
		free(copy);
		return;
	}
	struct node *old_parent = NULL;
	pthread_mutex_lock(&table_lock);
	drop_name(to, new_name);
	struct node *n = *slot_of(from, name, hash_of(from, name));
	if (n) {
		node_unname(n);
		free(n->old_name);
		n->old_name = n->name;
		n->name = copy;
		copy = NULL;
		old_parent = n->parent;
		n->parent = to;
		to->nlookup++;
		n->hash = hash_of(to, n->name);
		n->next = table[n->hash % BUCKETS];
		table[n->hash % BUCKETS] = n;
		n->named = true;
		node_put(old_parent, 1);
	}
	pthread_mutex_unlock(&table_lock);
	free(copy);
	fuse_reply_err(req, 0);
}

static void count_open(struct node *n)
{
	pthread_mutex_lock(&table_lock);
	n->opens++;
	pthread_mutex_unlock(&table_lock);
}

static int lower_flags(int flags)
{
	return (flags & ~(O_APPEND | O_DIRECT | O_NOFOLLOW)) | O_CLOEXEC;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	const char *name;
	char path[64];
	int dir = where(n, &name);
	if (!*name)
		snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
	int fd = openat(dir, *name ? name : path, lower_flags(fi->flags));
	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	count_open(n);
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

static void op_create(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct node *p = node_of(parent);
	int fd = openat(p->fd, name, lower_flags(fi->flags) | O_CREAT, mode);
	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	own(req, fd, "");
	struct fuse_entry_param e = {.attr_timeout = TIMEOUT, .entry_timeout = TIMEOUT};
	struct node *n = NULL;
	if (!fstat(fd, &e.attr))
		n = node_get(p, name, e.attr.st_mode);
	if (!n) {
		fuse_reply_err(req, errno);
		close(fd);
		return;
	}
	count_open(n);
	e.ino = (uintptr_t)n;
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	fi->noflush = 1;
	fuse_reply_create(req, &e, fi);
}

static void op_read(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	static _Thread_local char *buffer;
	if (!buffer)
		buffer = malloc(1U << 20);
	if (size > 1U << 20)
		size = 1U << 20;
	ssize_t n = buffer ? pread((int)fi->fh, buffer, size, off) : -1;
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_buf(req, buffer, (size_t)n);
	(void)ino;
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *p, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	ssize_t n = pwrite((int)fi->fh, p, size, off);
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, (size_t)n);
	(void)ino;
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, ENOSYS);
	(void)ino;
	(void)fi;
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	close((int)fi->fh);
	pthread_mutex_lock(&table_lock);
	node_of(ino)->opens--;
	pthread_mutex_unlock(&table_lock);
	fuse_reply_err(req, 0);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	fuse_reply_err(req, (datasync ? fdatasync((int)fi->fh) : fsync((int)fi->fh)) ? errno : 0);
	(void)ino;
}

static void op_fallocate(
	fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	fuse_reply_err(req, fallocate((int)fi->fh, mode, off, len) ? errno : 0);
	(void)ino;
}

static struct dir *dir_of(const struct fuse_file_info *fi)
{
	return (struct dir *)(uintptr_t)fi->fh;
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct dir *d = calloc(1, sizeof(*d));
	int fd = d ? openat(node_of(ino)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd < 0 || !(d->dp = fdopendir(fd))) {
		int saved = errno;
		if (fd >= 0)
			close(fd);
		free(d);
		fuse_reply_err(req, saved);
		return;
	}
	fi->fh = (uintptr_t)d;
	fi->keep_cache = 1;
	fi->cache_readdir = 1;
	fuse_reply_open(req, fi);
}

/* Adds one name; the size that it needs, which may be more than there is. */
static size_t add_name(
	fuse_req_t req, fuse_ino_t ino, struct dir *d, char *p, size_t left, bool plus)
{
	const char *name = d->ahead->d_name;
	struct fuse_entry_param e = {.attr_timeout = TIMEOUT, .entry_timeout = TIMEOUT};
	e.attr.st_ino = d->ahead->d_ino;
	e.attr.st_mode = (mode_t)d->ahead->d_type << 12;
	bool dots = !strcmp(name, ".") || !strcmp(name, "..");
	if (!plus)
		return fuse_add_direntry(req, p, left, name, &e.attr, d->ahead->d_off);
	size_t need = fuse_add_direntry_plus(req, NULL, 0, name, NULL, 0);
	if (need > left)
		return need;
	if (!dots && entry_of(node_of(ino), name, &e))
		return 0; /* gone meanwhile */
	return fuse_add_direntry_plus(req, p, left, name, &e, d->ahead->d_off);
}

static void read_names(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi, bool plus)
{
	struct dir *d = dir_of(fi);
	char *buffer = malloc(size);
	size_t used = 0;
	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (off != d->at) {
		seekdir(d->dp, off);
		d->ahead = NULL;
		d->at = off;
	}
	for (;;) {
		if (!d->ahead && !(d->ahead = readdir(d->dp)))
			break;
		size_t n = add_name(req, ino, d, buffer + used, size - used, plus);
		if (n > size - used)
			break;
		used += n;
		d->at = d->ahead->d_off;
		d->ahead = NULL;
	}
	fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static void op_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_names(req, ino, size, off, fi, false);
}

static void op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_names(req, ino, size, off, fi, true);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct dir *d = dir_of(fi);
	closedir(d->dp);
	free(d);
	fuse_reply_err(req, 0);
	(void)ino;
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	int fd = dirfd(dir_of(fi)->dp);
	fuse_reply_err(req, (datasync ? fdatasync(fd) : fsync(fd)) ? errno : 0);
	(void)ino;
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;
	if (fstatvfs(root.fd, &st))
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &st);
	(void)ino;
}

static const struct fuse_lowlevel_ops operations = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.symlink = op_symlink,
	.link = op_link,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.rename = op_rename,
	.open = op_open,
	.create = op_create,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.fallocate = op_fallocate,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.fsyncdir = op_fsyncdir,
	.statfs = op_statfs,
};

static int serve(struct fuse_session *session, const char *mountpoint, bool single)
{
	if (fuse_set_signal_handlers(session) || fuse_session_mount(session, mountpoint))
		return 1;
	int r;
	if (single) {
		r = fuse_session_loop(session);
	} else {
		struct fuse_loop_config *config = fuse_loop_cfg_create();
		fuse_loop_cfg_set_max_threads(config, 2);
		fuse_loop_cfg_set_idle_threads(config, 2);
		r = fuse_session_loop_mt(session, config);
		fuse_loop_cfg_destroy(config);
	}
	fuse_session_unmount(session);
	return r != 0;
}

int main(int argc, char **argv)
{
	bool single = argc > 1 && !strcmp(argv[1], "-s");
	if (argc != 3 + single) {
		fprintf(stderr, "usage: lean [-s] SOURCE MOUNTPOINT\n");
		return 2;
	}
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	umask(0);
	root.fd = open(argv[1 + single], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root.fd < 0) {
		perror(argv[1 + single]);
		return 1;
	}
	char *arguments[] = {"lean", "-o", "allow_other,default_permissions,fsname=lean", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
	struct fuse_session *session =
		fuse_session_new(&args, &operations, sizeof(operations), NULL);
	int r = session ? serve(session, argv[2 + single], single) : 1;
	if (session)
		fuse_session_destroy(session);
	fuse_opt_free_args(&args);
	return r;
}
