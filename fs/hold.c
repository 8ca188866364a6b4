/*
 * Holding writers of a file off for a moment, so that the cache can take a version of a file that is
 * written through the kernel without pause (cache_set_holder).
 *
 * The kernel holds an inode's lock while it waits for the answer to a setxattr request, and a
 * write(2) takes the same lock before it writes to a content file that is passed through
 * (in its fs/fuse/passthrough.c), as truncate and fallocate do. So a thread of our own sets an attribute of
 * a reserved name, with a random value, on the file's path in our own mount; the worker that gets
 * this request leaves it to the thread that asked for the hold, which does its work and then
 * answers, always with an error, so that no attribute, time or notification comes of it. (Not with
 * ENOSYS, after which the kernel would never send setxattr again.)
 *
 * States, under the lock:
 *   IDLE      -> ASKED     fs_hold leaves a job; the thread takes it and calls into the mount
 *   ASKED     -> HELD      a worker got the request, of the right inode and value
 *             -> ENDED     the call came back without one: the path is another file's by now, or
 *                          lies in another mount, or the mount is read-only
 *             -> LATE      the asker has waited long enough: the request will be refused
 *   HELD      -> ANSWERED  by the asker, when its work is done
 *             -> LOST      the call came back by itself, since the connection was cut: what was done
 *                          under the hold does not count
 *   ENDED, ANSWERED, LOST, LATE -> IDLE  by the last of the two
 *
 * Nothing waits for a hold that a worker has to end: fs_run stops the thread while workers still
 * serve, from then on requests are refused, and a worker never asks for one. Should the daemon be
 * killed while the thread waits in the kernel, the guard cuts the connection (guard.c).
 */
#include "fs/internal.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/random.h"

/* No other file system takes an attribute of that name, should the path lead to one. */
#define HOLD_NAME "system.meridian-hold"
#define WAIT_MS 5000

enum { IDLE, ASKED, HELD, ENDED, ANSWERED, LOST, LATE };

void hold_init(struct hold *h)
{
	mutex_init(&h->lock, LOCK_RANK_LEAF);
	cond_init(&h->changed);
}

void hold_done(struct hold *h)
{
	cond_done(&h->changed);
	mutex_done(&h->lock);
}

/* ---- the thread that calls into the mount ---- */

/* With the lock: the call came back. */
static void came_back(struct hold *h, int error)
{
	h->error = error;
	if (h->state == ASKED)
		h->state = ENDED;
	else if (h->state == HELD)
		h->state = LOST;
	else
		h->state = IDLE;
	cond_broadcast(&h->changed);
}

static void *run(void *arg)
{
	struct fs *fs = arg;
	struct hold *h = &fs->hold;

	readahead_widen(fs);
	mutex_lock(&h->lock);
	while (!h->closed) {
		char path[PATH_MAX];
		uint8_t value[HOLD_VALUE];
		int error;

		if (h->state != ASKED) {
			cond_wait(&h->changed, &h->lock);
			continue;
		}
		memcpy(path, h->path, sizeof(path));
		memcpy(value, h->value, sizeof(value));
		mutex_unlock(&h->lock);
		error = lsetxattr(path, HOLD_NAME, value, sizeof(value), 0) == 0 ? 0 : errno;
		mutex_lock(&h->lock);
		came_back(h, error);
	}
	mutex_unlock(&h->lock);
	return NULL;
}

int hold_start(struct fs *fs)
{
	struct hold *h = &fs->hold;
	int r;

	/* Files are passed through for root alone. */
	if (geteuid() != 0)
		return 0;
	r = thread_start(&h->thread, "fs-hold", run, fs);
	if (r)
		return r;
	h->started = true;
	cache_set_holder(fs->cache, fs_hold, fs);
	return 0;
}

void hold_stop(struct fs *fs)
{
	struct hold *h = &fs->hold;

	if (!h->started)
		return;
	cache_set_holder(fs->cache, NULL, NULL);
	mutex_lock(&h->lock);
	h->closed = true;
	cond_broadcast(&h->changed);
	mutex_unlock(&h->lock);
	pthread_join(h->thread, NULL);
	h->started = false;
}

/* ---- the worker that gets the request ---- */

bool hold_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size)
{
	struct hold *h = &fs_of(req)->hold;
	bool held;

	if (strcmp(name, HOLD_NAME) != 0)
		return false;
	mutex_lock(&h->lock);
	held = h->state == ASKED && !h->closed && h->ino == ino && size == HOLD_VALUE &&
	       memcmp(value, h->value, HOLD_VALUE) == 0;
	if (held) {
		h->req = req;
		h->state = HELD;
		cond_broadcast(&h->changed);
	}
	mutex_unlock(&h->lock);
	if (!held)
		fuse_reply_err(req, EOPNOTSUPP);
	return true;
}

/* ---- asking ---- */

/* With the lock. */
static int ask(struct fs *fs, uint64_t ino, struct slice key)
{
	struct hold *h = &fs->hold;
	int64_t until = clock_monotonic_ms() + WAIT_MS;
	int n;

	if (h->closed || !h->started)
		return -EOPNOTSUPP;
	if (h->state != IDLE)
		return -EAGAIN;
	n = snprintf(h->path, sizeof(h->path), "%s/%.*s", fs->mountpoint, (int)key.len, key.p);
	if (n >= (int)sizeof(h->path) || memchr(key.p, '\0', key.len))
		return -EOPNOTSUPP;
	random_bytes(h->value, sizeof(h->value));
	h->ino = ino;
	h->state = ASKED;
	cond_broadcast(&h->changed);
	while (h->state == ASKED && !h->closed && clock_monotonic_ms() < until)
		cond_wait_ms(&h->changed, &h->lock, WAIT_MS);
	return 0;
}

/* With the lock; the state is not HELD. */
static int give_up(struct hold *h)
{
	if (h->state == ASKED) {
		h->state = LATE;
		return -EAGAIN;
	}
	h->state = IDLE;
	return h->error == EROFS ? -EOPNOTSUPP : -EAGAIN;
}

int fs_hold(void *ctx, uint64_t ino, struct slice key, cache_hold_run work, void *arg)
{
	struct fs *fs = ctx;
	struct hold *h = &fs->hold;
	fuse_req_t req;
	bool lost;
	int r;

	if (on_worker)
		return -EOPNOTSUPP;
	mutex_lock(&h->lock);
	r = ask(fs, ino, key);
	if (!r && h->state != HELD)
		r = give_up(h);
	req = h->req;
	mutex_unlock(&h->lock);
	if (r)
		return r;

	r = work(arg);

	mutex_lock(&h->lock);
	lost = h->state == LOST;
	h->state = lost ? IDLE : ANSWERED;
	mutex_unlock(&h->lock);
	fuse_reply_err(req, ECANCELED);
	return lost ? -EAGAIN : r;
}
