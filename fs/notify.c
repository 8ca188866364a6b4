/*
 * Invalidations on their way to the kernel, sent in order by one thread that holds no lock.
 *
 * Why a thread: invalidating a name waits in the kernel for the directory's lock, which is held
 * while a request about that directory is with us. So no thread that answers requests may ever wait
 * for this one, and the workers serve until it has ended (see fs_run).
 *
 * Why this order: of a directory first the names, then the listing and the attributes. A listing
 * that was read before the change may still be on its way; it is read under the directory's lock,
 * so when the name's invalidation returns it has arrived, and the second step drops it. A later one
 * was read after the commit. Attributes need no such care: the kernel ignores those that are older
 * than their invalidation.
 *
 * Bound: at QUEUE_MAX the committing thread waits for room. It is one of the replicator's, whose
 * progress no request in a directory depends on, so this only slows merging down (the kernel takes
 * some 200,000 a second). Dropping instead would leave stale names for a day, and the kernel has no
 * "forget everything". A worker, which must not wait, puts its few beyond the bound.
 *
 * Why its own descriptor table: while it waits for a directory's lock it cannot be killed, and a
 * kill -9 closes no descriptor that it shares: the state's lock file would stay taken, and the
 * guard (guard.c), which then ends the connection, would not notice. So it has a table with only a
 * clone of the FUSE device.
 */
#include "fs/internal.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define QUEUE_MAX 100000

struct invalidation_item {
	struct invalidation_item *next;
	uint64_t parent; /* 0: no name */
	uint64_t ino;	 /* 0: none */
	bool content;
	uint8_t len;
	char name[];
};

void notifier_init(struct notifier *n)
{
	mutex_init(&n->lock, LOCK_RANK_LEAF);
	cond_init(&n->changed);
	n->tail = &n->head;
}

static void items_free(struct invalidation_item *item)
{
	while (item) {
		struct invalidation_item *next = item->next;

		free(item);
		item = next;
	}
}

void notifier_done(struct notifier *n)
{
	items_free(n->head);
	cond_done(&n->changed);
	mutex_done(&n->lock);
}

static struct invalidation_item *item_new(const struct invalidation *i)
{
	size_t len = i->parent && i->name ? strlen(i->name) : 0;
	struct invalidation_item *item;

	CHECK(len <= NAME_MAX_BYTES);
	item = malloc(sizeof(*item) + len + 1);
	/* Without it the kernel would show a stale tree for a day. */
	CHECK(item != NULL);
	*item = (struct invalidation_item){
		.parent = i->parent, .ino = i->ino, .content = i->content, .len = (uint8_t)len};
	if (len)
		memcpy(item->name, i->name, len);
	item->name[len] = '\0';
	return item;
}

void notifier_put(void *ctx, const struct invalidation *i)
{
	struct fs *fs = ctx;
	struct notifier *n = &fs->notifier;
	struct invalidation_item *item;

	if (i->ino) {
		atomic_fetch_add(&fs->setid_generation, 1);
	}
	item = item_new(i);
	mutex_lock(&n->lock);
	/* Before the thread runs the kernel has asked nothing yet, so there is nothing to wait for
	 * or to send. */
	while (n->pending >= QUEUE_MAX && n->started && !n->closed && !on_worker)
		cond_wait(&n->changed, &n->lock);
	if (n->closed || !n->started) {
		free(item);
	} else {
		*n->tail = item;
		n->tail = &item->next;
		if (n->pending++ == 0)
			cond_broadcast(&n->changed);
	}
	mutex_unlock(&n->lock);
}

static void send_directory(struct fs *fs, uint64_t dir)
{
	if (dir)
		fuse_lowlevel_notify_inval_inode(fs->session, dir, 0, 0);
}

/* Results are ignored: ENOENT means that the kernel did not have it, anything else that the
 * connection is gone. */
static void send_all(struct fs *fs, const struct invalidation_item *item)
{
	uint64_t dir = 0; /* whose names went out, but not yet its listing */

	for (; item; item = item->next) {
		if (item->parent) {
			if (item->parent != dir)
				send_directory(fs, dir);
			dir = item->parent;
			if (item->len)
				fuse_lowlevel_notify_inval_entry(
					fs->session, item->parent, item->name, item->len);
		}
		if (item->ino)
			fuse_lowlevel_notify_inval_inode(
				fs->session, item->ino, item->content ? 0 : -1, 0);
		atomic_fetch_add_explicit(&fs->notifier.sent, 1, memory_order_relaxed);
	}
	send_directory(fs, dir);
}

/* libfuse notifies through the session's descriptor number, so the clone takes that number here.
 * Where there is no clone the session's own descriptor stays, which only costs the above. */
static void own_descriptors(struct fs *fs)
{
	unsigned number = (unsigned)fuse_session_fd(fs->session);
	uint32_t session = number;
	long clone;

	if (unshare(CLONE_FILES) < 0)
		return;
	/* System calls, because a thread sanitizer believes that all threads share one table. */
	clone = syscall(SYS_openat, AT_FDCWD, "/dev/fuse", O_RDWR | O_CLOEXEC);
	if (clone >= 0 && ioctl((int)clone, FUSE_DEV_IOC_CLONE, &session) == 0)
		syscall(SYS_dup3, clone, number, O_CLOEXEC);
	if (number > 0)
		close_range(0, number - 1, 0);
	close_range(number + 1, ~0U, 0);
}

static void *run(void *arg)
{
	struct fs *fs = arg;
	struct notifier *n = &fs->notifier;

	own_descriptors(fs);
	mutex_lock(&n->lock);
	for (;;) {
		struct invalidation_item *batch;

		while (!n->head && !n->closed)
			cond_wait(&n->changed, &n->lock);
		if (n->closed)
			break;
		batch = n->head;
		n->head = NULL;
		n->tail = &n->head;
		n->pending = 0;
		cond_broadcast(&n->changed);
		mutex_unlock(&n->lock);
		send_all(fs, batch);
		items_free(batch);
		mutex_lock(&n->lock);
	}
	mutex_unlock(&n->lock);
	return NULL;
}

int notifier_start(struct fs *fs)
{
	struct notifier *n = &fs->notifier;
	int r;

	mutex_lock(&n->lock);
	n->started = true;
	mutex_unlock(&n->lock);
	r = thread_start(&n->thread, "fs-notify", run, fs);
	if (r) {
		mutex_lock(&n->lock);
		n->started = false;
		mutex_unlock(&n->lock);
	}
	return r;
}

void notifier_stop(struct fs *fs)
{
	struct notifier *n = &fs->notifier;
	bool started;

	mutex_lock(&n->lock);
	n->closed = true;
	started = n->started;
	n->started = false;
	cond_broadcast(&n->changed);
	mutex_unlock(&n->lock);
	if (started)
		pthread_join(n->thread, NULL);
}
