/*
 * The session: mounting, the threads, the end.
 *
 * Our own loop instead of fuse_session_loop_mt: that one cannot be woken from a signal handler or
 * another thread before libfuse 3.17, and it makes and ends threads as load changes, where two that
 * stay are the fastest. A worker can be cancelled only while it waits for a request, so none is cut
 * off inside an operation.
 *
 * Order of the end (fs_run), each step needing the next ones still to work:
 *   0. the thread that holds files (hold.c): it waits for requests to be served
 *   1. the notifier: it may be waiting for a directory that a request in flight has locked, so
 *      workers still serve
 *   2. the workers
 *   3. flushes in progress, and answers left by interrupts
 *   4. requests that wait for content: answered with EIO
 *   5. (fs_unmount) the mount and the connection; (fs_free) files that the kernel never released
 */
#include "fs/internal.h"

#include <mntent.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/base/mountpoint.h"

#define THREADS_DEFAULT 2
#define BACKGROUND_MAX 64 /* read-ahead and releases that the kernel sends unasked */
#define SUBTYPE "meridian"
#define FSTYPE "fuse." SUBTYPE

_Thread_local bool on_worker;

/* While this thread mounts: what libfuse has to say goes into the caller's error. */
static _Thread_local struct err *mount_err;

PRINTF(2, 0) static void on_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char text[256];

	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	if (mount_err)
		err_set(mount_err, -EIO, "%s", text);
	else
		log_debug("libfuse says=\"%s\"", text);
}

static void want(struct fuse_conn_info *conn, uint64_t capability, bool on)
{
	uint32_t bit = (uint32_t)capability;

	if (on && (conn->capable & bit))
		conn->want |= bit;
	else
		conn->want &= ~bit;
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fs *fs = userdata;

	want(conn, FUSE_CAP_ASYNC_READ, true);
	want(conn, FUSE_CAP_ATOMIC_O_TRUNC, true);
	want(conn, FUSE_CAP_PARALLEL_DIROPS, true);
	want(conn, FUSE_CAP_READDIRPLUS, true);
	want(conn, FUSE_CAP_READDIRPLUS_AUTO, true);
	want(conn, FUSE_CAP_CACHE_SYMLINKS, true);
	/* Pages are dropped when we say so, not when an mtime looks different: each local write
	 * changes it. */
	want(conn, FUSE_CAP_AUTO_INVAL_DATA, false);
	want(conn, FUSE_CAP_EXPLICIT_INVAL_DATA, true);
	/* Dirty pages would be lost with this process. */
	want(conn, FUSE_CAP_WRITEBACK_CACHE, false);
	want(conn, FUSE_CAP_SPLICE_READ, false);
	want(conn, FUSE_CAP_SPLICE_WRITE, true);
	want(conn, FUSE_CAP_SPLICE_MOVE, false);
	want(conn, FUSE_CAP_FLOCK_LOCKS, false);
	want(conn, FUSE_CAP_POSIX_LOCKS, false);
	/* The kernel checks by ACLs; what the umask means is then for tree_create to say. */
	want(conn, FUSE_CAP_POSIX_ACL, !ids_hide(fs));
	fs->acl = conn->want & FUSE_CAP_POSIX_ACL;
	want(conn, FUSE_CAP_DONT_MASK, true);
	want(conn, FUSE_CAP_NO_OPENDIR_SUPPORT, true);
	fs->no_opendir = conn->want & FUSE_CAP_NO_OPENDIR_SUPPORT;
	/* Handles outlive the kernel's memory of an inode: see op_lookup. */
	want(conn, FUSE_CAP_EXPORT_SUPPORT, true);
	/* Its second version is asked for: see killpriv.c. */
	want(conn, FUSE_CAP_HANDLE_KILLPRIV, false);
	passthrough_negotiate(userdata, conn);
	conn->max_write = REQUEST_MAX;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX * 3 / 4;
	conn->time_gran = 1;
}

/* access is left out: ENOSYS leaves it to default_permissions. */
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
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.link = op_link,
	.rename = op_rename,
	.open = op_open,
	.create = op_create,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.fsyncdir = op_fsyncdir,
	.statfs = op_statfs,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.setxattr = op_setxattr,
	.removexattr = op_removexattr,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.copy_file_range = op_copy_file_range,
};

/* ---- mounting ---- */

static bool is_mounted(const char *path)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent m;
	char line[8192];
	bool found = false;

	if (!f)
		return false;
	while (!found && getmntent_r(f, &m, line, sizeof(line)))
		found = strcmp(m.mnt_type, FSTYPE) == 0 && strcmp(m.mnt_dir, path) == 0;
	endmntent(f);
	return found;
}

static bool in_path(const char *program)
{
	const char *path = getenv("PATH");

	if (!path)
		path = "/usr/local/bin:/usr/bin:/bin";
	while (*path) {
		size_t len = strcspn(path, ":");
		char file[4096];

		if (snprintf(file, sizeof(file), "%.*s/%s", (int)len, path, program) <
				(int)sizeof(file) &&
			access(file, X_OK) == 0)
			return true;
		path += len;
		path += *path == ':';
	}
	return false;
}

static int check_mountpoint(const char *path, char **ret, struct err *err)
{
	struct stat st;
	int r = mountpoint_stat(path, &st);

	/* What a killed daemon leaves behind. */
	if (r == -ENOTCONN && umount2(path, MNT_DETACH) == 0)
		r = mountpoint_stat(path, &st);
	if (r == -ENOTCONN)
		return err_set(err, r,
			"mountpoint %s: a dead mount is there\nhint: run 'fusermount3 -u -z %s' "
			"first",
			path, path);
	if (r == -ENOENT)
		return err_set(err, r,
			"mountpoint %s does not exist\nhint: run 'mkdir -p %s' first", path, path);
	if (r)
		return err_errno(err, r, "mountpoint %s", path);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "mountpoint %s is not a directory", path);
	*ret = realpath(path, NULL);
	if (!*ret)
		return err_errno(err, -errno, "mountpoint %s", path);
	return 0;
}

static int check_machine(const char *mountpoint, struct err *err)
{
	if (is_mounted(mountpoint))
		return err_set(err, -EBUSY,
			"%s is already mounted\nhint: run 'meridian umount %s' to unmount it",
			mountpoint, mountpoint);
	if (access("/dev/fuse", F_OK) < 0)
		return err_set(err, -ENODEV,
			"/dev/fuse is missing: this kernel or container has no FUSE\nhint: run "
			"'modprobe fuse', or start the container with --device /dev/fuse");
	if (geteuid() != 0 && !in_path("fusermount3"))
		return err_set(err, -ENOENT,
			"fusermount3 not found\nhint: install the package fuse3, or mount as root");
	return 0;
}

static bool add_option(char **all, const char *option)
{
	return fuse_opt_add_opt(all, option) == 0;
}

static int build_options(const struct fs_options *o, char **ret)
{
	char fsname[4200];
	bool ok;

	snprintf(fsname, sizeof(fsname), "fsname=%s", o->fsname ? o->fsname : SUBTYPE);
	ok = add_option(ret, "default_permissions") && add_option(ret, "subtype=" SUBTYPE) &&
	     fuse_opt_add_opt_escaped(ret, fsname) == 0;
	if (!o->deny_other && (o->allow_other || geteuid() == 0))
		ok = ok && add_option(ret, "allow_other");
	if (o->read_only)
		ok = ok && add_option(ret, "ro");
	if (o->extra && *o->extra)
		ok = ok && add_option(ret, o->extra);
	return ok ? 0 : -ENOMEM;
}

static int session_new(struct fs *fs, const struct fs_options *o, struct err *err)
{
	AUTO_FREE char *options = NULL;
	int r = build_options(o, &options);

	if (r)
		return err_errno(err, r, "mount options");

	char *argv[] = {(char *)"meridian", (char *)"-o", options, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);

	fs->session = fuse_session_new(&args, &operations, sizeof(operations), fs);
	fuse_opt_free_args(&args);
	if (!fs->session)
		return err_prefix(err, -EINVAL, "mount options '%s'", options);
	return 0;
}

static int cannot_mount(const struct fs *fs, int r, const struct err *said, struct err *err)
{
	return err_set(err, r, "cannot mount on %s: %s", fs->mountpoint,
		said->text[0] ? said->text : strerror(-r));
}

static struct fs *allocate(struct cache *c, const struct fs_options *o)
{
	struct fs *fs = calloc(1, sizeof(*fs));

	if (!fs)
		return NULL;
	fs->cache = c;
	fs->threads = o->threads ? o->threads : THREADS_DEFAULT;
	if (fs->threads > FS_THREADS_MAX)
		fs->threads = FS_THREADS_MAX;
	atomic_init(&fs->refs, 1);
	mutex_init(&fs->lock, LOCK_RANK_FS);
	cond_init(&fs->fetches_idle);
	fs->noatime = o->noatime || o->read_only;
	fs->nodiratime = o->nodiratime;
	fs->sync = o->sync;
	fs->dirsync = o->dirsync || o->sync;
	if (o->ids)
		fs->ids = *o->ids;
	notifier_init(&fs->notifier);
	slow_init(&fs->slow);
	pace_init(&fs->pace);
	hold_init(&fs->hold);
	gone_init(&fs->gone);
	/* The kernel has each write of a synchronous mount flushed, but not where it passes it through. */
	passthrough_init(&fs->passthrough, !o->no_passthrough && !o->sync);
	fs->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return fs;
}

int fs_open(struct cache *c, const struct fs_options *options, struct fs **ret, struct err *err)
{
	struct fs *fs = allocate(c, options);
	struct err said = {0};
	int r;

	if (!fs)
		return err_errno(err, -ENOMEM, "mount");
	fuse_set_log_func(on_log);
	r = fs->wake_fd < 0 ? err_errno(err, -EMFILE, "eventfd") : 0;
	if (r == 0)
		r = check_mountpoint(options->mountpoint, &fs->mountpoint, err);
	if (r == 0)
		r = check_machine(fs->mountpoint, err);
	if (r == 0) {
		mount_err = &said;
		r = session_new(fs, options, &said);
		mount_err = NULL;
		if (r)
			(void)cannot_mount(fs, r, &said, err);
	}
	if (r) {
		fs_free(fs);
		return r;
	}
	*ret = fs;
	return 0;
}

int fs_mount(struct fs *fs, struct err *err)
{
	struct err said = {0};
	int r = 0;

	mount_err = &said;
	errno = 0;
	if (fuse_session_mount(fs->session, fs->mountpoint) != 0)
		r = errno ? -errno : -EIO;
	mount_err = NULL;
	if (r)
		return cannot_mount(fs, r, &said, err);
	fs->mounted = true;
	r = backing_attach(fs);
	if (r)
		return err_errno(err, r, "cannot mount on %s", fs->mountpoint);
	r = guard_start(fs);
	if (r)
		return err_errno(err, r, "cannot start the mount's guard process");
	cache_set_invalidator(fs->cache, notifier_put, fs);
	return 0;
}

/* ---- serving ---- */

struct worker {
	struct fs *fs;
	pthread_t thread;
	struct fuse_buf buf;
};

static void wake(struct fs *fs)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, and then it is not zero, which is all that matters.
	 */
	if (write(fs->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static void on_worker_end(void *arg)
{
	scratch_done();
}

static void serve(struct worker *w)
{
	struct fs *fs = w->fs;

	while (!fuse_session_exited(fs->session)) {
		int r;

		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		r = fuse_session_receive_buf(fs->session, &w->buf);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r < 0)
			atomic_store(&fs->failed, -r);
		if (r <= 0)
			break;
		atomic_fetch_add_explicit(&fs->requests, 1, memory_order_relaxed);
		killpriv_note(fs, w->buf.mem, (size_t)r);
		backing_note(fs, w->buf.mem, (size_t)r);
		tmpfile_note(w->buf.mem, (size_t)r);
		fuse_session_process_buf(fs->session, &w->buf);
	}
}

static void *run_worker(void *arg)
{
	struct worker *w = arg;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	on_worker = true;
	pthread_cleanup_push(on_worker_end, NULL);
	serve(w);
	wake(w->fs);
	pthread_cleanup_pop(1);
	return NULL;
}

static void wait_for_end(struct fs *fs)
{
	struct pollfd p = {.fd = fs->wake_fd, .events = POLLIN};

	/* Woken by fs_stop or by the first worker that finds the mount gone. A signal handler of
	 * the caller may interrupt it. */
	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
}

int fs_run(struct fs *fs)
{
	struct worker workers[FS_THREADS_MAX];
	unsigned started = 0;
	int r;

	r = slow_start(fs);
	if (r == 0)
		r = pace_start(fs);
	if (r == 0)
		r = notifier_start(fs);
	if (r == 0)
		r = passthrough_start(fs);
	while (r == 0 && started < fs->threads) {
		struct worker *w = &workers[started];

		*w = (struct worker){.fs = fs};
		r = thread_start(&w->thread, "fs-worker", run_worker, w);
		if (r == 0)
			started++;
	}
	if (r == 0)
		r = hold_start(fs);
	if (r == 0)
		wait_for_end(fs);

	cache_set_invalidator(fs->cache, NULL, NULL);
	hold_stop(fs);
	notifier_stop(fs);
	fuse_session_exit(fs->session);
	for (unsigned i = 0; i < started; i++)
		pthread_cancel(workers[i].thread);
	for (unsigned i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		free(workers[i].buf.mem);
	}
	pace_stop(fs);
	slow_stop(fs);
	fetches_cancel(fs);
	passthrough_stop(fs);
	if (r == 0 && !atomic_load(&fs->stop))
		r = -atomic_load(&fs->failed);
	return r;
}

void fs_stop(struct fs *fs)
{
	int saved = errno;

	atomic_store(&fs->stop, true);
	wake(fs);
	errno = saved;
}

void fs_unmount(struct fs *fs)
{
	if (!fs->mounted)
		return;
	fs->mounted = false;
	cache_set_invalidator(fs->cache, NULL, NULL);
	fuse_session_unmount(fs->session);
	guard_stop(fs);
}

void fs_free(struct fs *fs)
{
	if (!fs)
		return;
	fs_unmount(fs);
	notifier_stop(fs);
	fetches_cancel(fs);
	handles_release(fs);
	passthrough_stop(fs);
	if (fs->session)
		fuse_session_destroy(fs->session);
	fs->session = NULL;
	notifier_done(&fs->notifier);
	slow_done(&fs->slow);
	pace_done(&fs->pace);
	hold_done(&fs->hold);
	gone_done(&fs->gone);
	passthrough_done(&fs->passthrough);
	if (fs->wake_fd >= 0)
		close(fs->wake_fd);
	fs->wake_fd = -1;
	free(fs->mountpoint);
	fs->mountpoint = NULL;
	fs_unref(fs);
}

void fs_get_stats(struct fs *fs, struct fs_stats *ret)
{
	struct fs_stats s = {
		.requests = atomic_load(&fs->requests),
		.errors = atomic_load(&fs->errors),
		.invalidations = atomic_load(&fs->notifier.sent),
	};

	passthrough_describe(fs, s.passthrough);
	mutex_lock(&fs->lock);
	s.fetches_waiting = fs->fetches_waiting;
	s.syncs_waiting = fs->syncs_waiting;
	mutex_unlock(&fs->lock);
	mutex_lock(&fs->notifier.lock);
	s.invalidations_pending = fs->notifier.pending;
	mutex_unlock(&fs->notifier.lock);
	*ret = s;
}
