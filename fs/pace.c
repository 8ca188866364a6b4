/*
 * Writers that are slowed (cache/pressure.h). No worker waits: a write is done at once and its answer delayed; a call
 * that makes a name is put off and done by this file's thread when its time has come. What waits is bounded by
 * the number of processes that write, each for its own call, and none for longer than PRESSURE_DELAY_MS.
 *
 * A caller that is killed meanwhile waits for the answer like for any other.
 */
#include "fs/internal.h"

#include <stdlib.h>
#include <string.h>

#include "cache/pressure.h"
#include "src/base/clock.h"
#include "src/base/metrics.h"

struct paced {
	struct paced *next;
	int64_t due_ms;
	fuse_req_t req;
	enum pace_call call;
	size_t written;
	fuse_ino_t parent;
	mode_t mode;
	dev_t rdev;
	struct fuse_file_info fi;
	char *name;
	char *target;
};

static _Thread_local bool pacing; /* this is the thread that does what was put off */

void pace_init(struct pace *p)
{
	mutex_init(&p->lock, LOCK_RANK_LEAF);
	cond_init(&p->changed);
}

void pace_done(struct pace *p)
{
	cond_done(&p->changed);
	mutex_done(&p->lock);
}

static void paced_free(struct paced *i)
{
	free(i->name);
	free(i->target);
	free(i);
}

static void run_item(struct paced *i)
{
	switch (i->call) {
	case PACE_WRITE:
		fuse_reply_write(i->req, i->written);
		break;
	case PACE_CREATE:
		op_create(i->req, i->parent, i->name, i->mode, &i->fi);
		break;
	case PACE_MKNOD:
		op_mknod(i->req, i->parent, i->name, i->mode, i->rdev);
		break;
	case PACE_MKDIR:
		op_mkdir(i->req, i->parent, i->name, i->mode);
		break;
	case PACE_SYMLINK:
		op_symlink(i->req, i->target, i->parent, i->name);
		break;
	}
	paced_free(i);
}

static void *run(void *arg)
{
	struct fs *fs = arg;
	struct pace *p = &fs->pace;

	on_worker = pacing = true;
	mutex_lock(&p->lock);
	for (;;) {
		struct paced *i = p->head;
		int64_t left = i ? i->due_ms - clock_monotonic_ms() : 0;

		if (!i && p->closed)
			break;
		if (!i) {
			cond_wait(&p->changed, &p->lock);
			continue;
		}
		if (left > 0 && !p->closed) {
			cond_wait_ms(&p->changed, &p->lock, left);
			continue;
		}
		p->head = i->next;
		mutex_unlock(&p->lock);
		run_item(i);
		mutex_lock(&p->lock);
	}
	mutex_unlock(&p->lock);
	scratch_done();
	return NULL;
}

int pace_start(struct fs *fs)
{
	int r = thread_start(&fs->pace.thread, "fs-pace", run, fs);

	fs->pace.started = r == 0;
	return r;
}

void pace_stop(struct fs *fs)
{
	struct pace *p = &fs->pace;

	mutex_lock(&p->lock);
	p->closed = true;
	cond_broadcast(&p->changed);
	mutex_unlock(&p->lock);
	if (p->started)
		pthread_join(p->thread, NULL);
	p->started = false;
}

/* False when the mount is ending. */
static bool submit(struct fs *fs, struct paced *i, int64_t delay_ms)
{
	struct pace *p = &fs->pace;
	struct paced **at;
	bool open;

	i->due_ms = clock_monotonic_ms() + delay_ms;
	mutex_lock(&p->lock);
	open = p->started && !p->closed;
	for (at = &p->head; open && *at && (*at)->due_ms <= i->due_ms; at = &(*at)->next)
		;
	if (open) {
		i->next = *at;
		*at = i;
		cond_signal(&p->changed);
	}
	mutex_unlock(&p->lock);
	if (open)
		metric_add(METRIC_WRITES_SLOWED, 1);
	return open;
}

void pace_write(fuse_req_t req, size_t written)
{
	struct fs *fs = fs_of(req);
	int64_t delay = pressure_delay_ms(fs->cache);
	struct paced *i = delay > 0 ? calloc(1, sizeof(*i)) : NULL;

	if (i) {
		i->req = req;
		i->call = PACE_WRITE;
		i->written = written;
		if (submit(fs, i, delay))
			return;
		free(i);
	}
	fuse_reply_write(req, written);
}

bool pace_call(fuse_req_t req, enum pace_call call, fuse_ino_t parent, const char *name,
	mode_t mode, dev_t rdev, const char *target, const struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	int64_t delay = pacing ? 0 : pressure_delay_ms(fs->cache);
	struct paced *i = delay > 0 ? calloc(1, sizeof(*i)) : NULL;

	if (!i)
		return false;
	i->req = req;
	i->call = call;
	i->parent = parent;
	i->mode = mode;
	i->rdev = rdev;
	if (fi)
		i->fi = *fi;
	i->name = strdup(name);
	i->target = target ? strdup(target) : NULL;
	if (i->name && (i->target || !target) && submit(fs, i, delay))
		return true;
	paced_free(i);
	return false;
}
