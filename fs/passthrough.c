/*
 * Which inode is in which mode, and what is kept for mappings (passthrough.h says why).
 *
 * A passthrough_inode exists while its inode has opens, or is kept. Under the lock:
 *   opens > 0, backing > 0   passthrough; the kernel has the backing id
 *   opens > 0, backing = 0   page cache: registering failed, or passthrough is off by now
 *   opens = 0, kept          closed, but somebody still has the content file open: by a mapping, or
 *                            through a mount that died
 * kept is the first released open that could have been mapped for writing. With other opens it only
 * waits for the last of them, since a lease cannot tell these from a mapping.
 *
 * The lease: a write lease is granted only to the sole open of a file. It is given back at once. If
 * the content is opened by the cache in that moment, that open waits and this process gets SIGIO,
 * which is ignored.
 *
 * The lock is held over the registration: a second open must find the first one's mode. It is not
 * held while a file is released, which may write to the database.
 */
#include "fs/internal.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cache/pressure.h"
#include "src/base/clock.h"
#include "src/base/log.h"

#define NO_PRIVILEGES "no privileges (CAP_SYS_ADMIN)"
#define SPACE_MARGIN (16U << 20)
#define SPACE_EVERY_MS 100
#define LOOK_FIRST_MS 5 /* after the last release: then the closing task has let go */
#define LOOK_MAX_MS 1000

/* Of the kernel's interface 7.40; the headers here may be older. libfuse's calls hide the errors. */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

struct passthrough_inode {
	struct passthrough_inode *next;
	uint64_t ino;
	unsigned opens;
	int backing;
	struct file *kept;
	struct timespec changed; /* the content's mtime when the kernel last could know it */
};

void passthrough_init(struct passthrough *p, bool wanted)
{
	mutex_init(&p->lock, LOCK_RANK_FS);
	cond_init(&p->changed);
	atomic_init(&p->on, false);
	p->wanted = wanted;
	snprintf(p->reason, sizeof(p->reason), "%s", wanted ? "not negotiated yet" : "as set");
}

static void remove_inode(struct passthrough_inode **at)
{
	struct passthrough_inode *gone = *at;

	*at = gone->next;
	free(gone);
}

void passthrough_done(struct passthrough *p)
{
	for (unsigned i = 0; i < PASSTHROUGH_BUCKETS; i++) {
		while (p->buckets[i]) {
			if (p->buckets[i]->kept)
				file_forget(p->buckets[i]->kept);
			remove_inode(&p->buckets[i]);
		}
	}
	cond_done(&p->changed);
	mutex_done(&p->lock);
}

static struct passthrough_inode **find(struct passthrough *p, uint64_t ino)
{
	struct passthrough_inode **at = &p->buckets[ino % PASSTHROUGH_BUCKETS];

	while (*at && (*at)->ino != ino)
		at = &(*at)->next;
	return at;
}

/* ---- the kernel ---- */

void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn)
{
	struct passthrough *p = &fs->passthrough;
	bool offered = backing_want(fs, conn, p->wanted);

	mutex_lock(&p->lock);
	if (!p->wanted)
		(void)0;
	else if (!offered)
		snprintf(p->reason, sizeof(p->reason), "the kernel has none");
	else if (geteuid() != 0)
		snprintf(p->reason, sizeof(p->reason), NO_PRIVILEGES);
	else
		atomic_store(&p->on, true);
	mutex_unlock(&p->lock);
}

/* A backing id or -errno. */
static int backing_open(struct fs *fs, int fd)
{
	struct backing_map map = {.fd = fd};
	int id = ioctl(fuse_session_fd(fs->session), BACKING_OPEN, &map);

	if (id < 0)
		return -errno;
	return id > 0 ? id : -EIO;
}

static void backing_close(struct fs *fs, int id)
{
	uint32_t number = (uint32_t)id;

	/* It fails only when the connection is gone, and the id with it. */
	if (ioctl(fuse_session_fd(fs->session), BACKING_CLOSE, &number) < 0)
		return;
}

/* ---- leases ---- */

/* 0: nobody else has the file open; -EAGAIN: somebody has; else there are no leases here. */
static int try_lease(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
		return errno == EACCES ? -EAGAIN : -errno;
	return fcntl(fd, F_SETLEASE, F_UNLCK) < 0 ? -errno : 0;
}

static bool leases_work(int fd)
{
	int r = try_lease(fd);

	return r == 0 || r == -EAGAIN;
}

/* ---- opening ---- */

static void turn_off(struct passthrough *p, const char *reason)
{
	snprintf(p->reason, sizeof(p->reason), "%s", reason);
	atomic_store(&p->on, false);
	log_info("passthrough is off reason=\"%s\"", reason);
}

/* With the lock. Writes that are passed through know no reserve (cache.h) and no limit on what waits for regions
 * (pressure.h), so near to them files are not:
 * whoever opens one then gets ENOSPC in time. Who had one open before may use the reserve up. */
static bool is_short_of_space(struct fs *fs)
{
	struct passthrough *p = &fs->passthrough;
	int64_t now = clock_monotonic_ms();
	struct statvfs st;

	if (p->space_ms && now - p->space_ms < SPACE_EVERY_MS)
		return p->short_of_space;
	p->space_ms = now;
	p->short_of_space = (tree_statfs(fs->cache, &st) == 0 &&
				    (uint64_t)st.f_bavail * st.f_frsize < SPACE_MARGIN) ||
			    pressure_delay_ms(fs->cache) > 0;
	return p->short_of_space;
}

/* With the lock. Errors that concern this file alone (descriptors or memory are short) leave the
 * others alone. */
static int register_file(struct fs *fs, int fd)
{
	struct passthrough *p = &fs->passthrough;
	int id;

	if (!atomic_load(&p->on) || is_short_of_space(fs))
		return 0;
	if (!atomic_load(&p->proven) && !leases_work(fd)) {
		turn_off(p, "the state directory's file system has no leases");
		return 0;
	}
	id = backing_open(fs, fd);
	if (id > 0) {
		atomic_store(&p->proven, true);
		return id;
	}
	if (id == -EPERM)
		turn_off(p, NO_PRIVILEGES);
	else if (id == -ELOOP)
		turn_off(p, "the state directory lies on a stacked file system");
	else if (id == -EOPNOTSUPP || id == -EINVAL || id == -ENOTTY)
		turn_off(p, "the kernel refuses the state directory's file system");
	else
		log_debug("file not passed through error=\"%s\"", strerror(-id));
	return 0;
}

static struct timespec mtime_of(struct file *f)
{
	struct stat st;

	return fstat(file_fd(f), &st) == 0 ? st.st_mtim : (struct timespec){0};
}

int passthrough_begin(struct fs *fs, struct passthrough_open *o, int flags, bool *keep_cache)
{
	struct passthrough *p = &fs->passthrough;
	struct passthrough_inode **at, *n;
	int id = 0;

	*keep_cache = true;
	o->writable = (flags & O_ACCMODE) != O_RDONLY;
	/* Once off it may still have passed through files, whose mode holds. */
	if (!atomic_load(&p->on) && !atomic_load(&p->proven))
		return 0;
	mutex_lock(&p->lock);
	at = find(p, file_ino(o->file));
	if (!*at) {
		*at = calloc(1, sizeof(**at));
		if (*at)
			(*at)->ino = file_ino(o->file);
	}
	n = *at;
	CHECK(n != NULL); /* an uncounted open would end in the wrong mode */
	/* What is not all here has to be asked for. */
	if (n->opens == 0 && !file_partial(o->file))
		n->backing = register_file(fs, file_fd(o->file));
	if (n->kept && n->opens == 0)
		p->kept--;
	n->opens++;
	o->counted = true;
	id = n->backing;
	/* Passed through, the kernel takes no such flag; else the pages may be from before it was. */
	*keep_cache = false;
	if (id > 0 && o->writable) {
		o->may_map = (flags & O_ACCMODE) == O_RDWR;
		n->changed = mtime_of(o->file);
		file_unseen(o->file, flags);
	}
	mutex_unlock(&p->lock);
	return id;
}

/* ---- releasing ---- */

/* A store into a mapping changes the mtime behind the kernel's attributes. */
static void show_change(struct fs *fs, struct passthrough_inode *n, struct file *f)
{
	struct timespec now = mtime_of(f);

	if (now.tv_sec == n->changed.tv_sec && now.tv_nsec == n->changed.tv_nsec)
		return;
	n->changed = now;
	notifier_put(fs, &(struct invalidation){.ino = n->ino});
}

/* With the lock, n having no opens. True: n is done with, and *release is to be released. */
static bool let_go(struct passthrough_inode **at, struct file **release)
{
	struct passthrough_inode *n = *at;

	if (n->kept && try_lease(file_fd(n->kept)) == -EAGAIN)
		return false;
	*release = n->kept;
	remove_inode(at);
	return true;
}

void passthrough_end(struct fs *fs, struct passthrough_open *o)
{
	struct passthrough *p = &fs->passthrough;
	struct file *release[2] = {o->file, NULL};
	struct passthrough_inode **at, *n;

	o->file = NULL;
	if (!o->counted) {
		file_release(release[0]);
		return;
	}
	mutex_lock(&p->lock);
	at = find(p, file_ino(release[0]));
	CHECK(*at != NULL && (*at)->opens > 0);
	n = *at;
	if (n->backing && o->may_map) {
		show_change(fs, n, release[0]);
		if (!n->kept) {
			n->kept = release[0];
			release[0] = NULL;
		}
	}
	if (--n->opens == 0) {
		if (n->backing)
			backing_close(fs, n->backing);
		n->backing = 0;
		if (!let_go(at, &release[1]) && p->kept++ == 0)
			cond_signal(&p->changed);
	}
	mutex_unlock(&p->lock);
	file_release(release[0]);
	file_release(release[1]);
}

/* ---- watching what is kept ---- */

static bool is_kept(const struct passthrough_inode *n)
{
	return n->kept && n->opens == 0;
}

/* Takes the lock and gives it back between buckets. */
static void look(struct fs *fs)
{
	struct passthrough *p = &fs->passthrough;

	for (unsigned i = 0; i < PASSTHROUGH_BUCKETS; i++) {
		struct passthrough_inode **at;
		struct file *release = NULL;

		mutex_lock(&p->lock);
		for (at = &p->buckets[i]; *at && !release;) {
			if (!is_kept(*at)) {
				at = &(*at)->next;
				continue;
			}
			show_change(fs, *at, (*at)->kept);
			if (let_go(at, &release))
				p->kept--;
			else
				at = &(*at)->next;
		}
		mutex_unlock(&p->lock);
		if (release) {
			file_release(release);
			i--; /* there may be more in it */
		}
	}
}

static void *run(void *arg)
{
	struct fs *fs = arg;
	struct passthrough *p = &fs->passthrough;
	int64_t pause_ms = LOOK_FIRST_MS;

	mutex_lock(&p->lock);
	while (!p->closed) {
		if (p->kept == 0) {
			cond_wait(&p->changed, &p->lock);
			pause_ms = LOOK_FIRST_MS;
			continue;
		}
		cond_wait_ms(&p->changed, &p->lock, pause_ms);
		pause_ms = pause_ms * 4 < LOOK_MAX_MS ? pause_ms * 4 : LOOK_MAX_MS;
		mutex_unlock(&p->lock);
		look(fs);
		mutex_lock(&p->lock);
	}
	mutex_unlock(&p->lock);
	return NULL;
}

/* Handles of a mount whose daemon was killed still reach the content, past that mount and this one.
 * They are followed like mappings. */
static int keep_survivors(struct fs *fs)
{
	struct passthrough *p = &fs->passthrough;
	struct passthrough_inode **at;
	struct file *f;
	int r = 0;

	mutex_lock(&p->lock);
	while (!r && (f = file_next_survivor(fs->cache))) {
		at = find(p, file_ino(f));
		CHECK(*at == NULL);
		*at = calloc(1, sizeof(**at));
		if (!*at) {
			r = -ENOMEM;
			break;
		}
		(*at)->ino = file_ino(f);
		(*at)->kept = f;
		(*at)->changed = mtime_of(f);
		file_unseen(f, O_RDWR);
		p->kept++;
		log_info("a program goes on writing through a mount that died inode=%llu",
			(unsigned long long)file_ino(f));
	}
	mutex_unlock(&p->lock);
	if (r)
		file_release(f);
	return r;
}

int passthrough_start(struct fs *fs)
{
	struct passthrough *p = &fs->passthrough;
	struct sigaction old;
	int r;

	/* Leases: see above. Its default action would end the process. */
	if (sigaction(SIGIO, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
		signal(SIGIO, SIG_IGN);
	r = keep_survivors(fs);
	if (r == 0)
		r = thread_start(&p->thread, "fs-mapped", run, fs);
	if (r == 0)
		p->started = true;
	return r;
}

void passthrough_stop(struct fs *fs)
{
	struct passthrough *p = &fs->passthrough;

	mutex_lock(&p->lock);
	p->closed = true;
	cond_broadcast(&p->changed);
	mutex_unlock(&p->lock);
	if (p->started) {
		pthread_join(p->thread, NULL);
		p->started = false;
	}
	look(fs);
}

/* ---- telling ---- */

void passthrough_describe(struct fs *fs, char text[FS_PASSTHROUGH_SIZE])
{
	struct passthrough *p = &fs->passthrough;

	mutex_lock(&p->lock);
	if (atomic_load(&p->on))
		snprintf(text, FS_PASSTHROUGH_SIZE, "on");
	else
		snprintf(text, FS_PASSTHROUGH_SIZE, "off (%s)", p->reason);
	mutex_unlock(&p->lock);
}
