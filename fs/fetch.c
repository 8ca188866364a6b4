/*
 * Operations on content that is not here: the request is parked, the replicator fetches, and the
 * operation is repeated and answered on the thread that reports the end. No worker waits.
 *
 * A struct fetch is, under fs->lock, in one of three states:
 *   waiting    in fs->fetches; not answered
 *   running    taken off the list by its report, counted in fetches_running; being answered
 *   abandoned  taken off the list by an interrupt or the end of the mount, which answer it; the
 *              report only frees it
 * It always ends by its report, which may come after the mount is gone: hence the reference on
 * struct fs.
 *
 * An fsync that waits until regions have a file is parked in the same way; its report is its answer.
 */
#include "fs/internal.h"

#include "cache/durability.h"
#include "cache/partial.h"

#define ATTEMPTS_MAX 3 /* content that is evicted again before it can be opened, so often: EIO */

struct fetch {
	struct fs *fs;
	fuse_req_t req;
	fuse_ino_t ino;
	bool open;
	bool sync;
	size_t written;		  /* sync: by the write that it is part of; 0: none */
	struct fuse_file_info fi; /* open */
	struct file *file;	  /* read; else NULL. The kernel keeps it open until the answer */
	size_t size;
	uint64_t offset;
	unsigned mask;		  /* setattr */
	struct inode v;
	unsigned attempts;
	bool abandoned;
	struct fetch *prev, *next;
};

void fs_unref(struct fs *fs)
{
	if (atomic_fetch_sub(&fs->refs, 1) != 1)
		return;
	mutex_done(&fs->lock);
	cond_done(&fs->fetches_idle);
	free(fs);
}

static void fetch_free(struct fetch *f)
{
	struct fs *fs = f->fs;

	free(f);
	fs_unref(fs);
}

static void unlink_locked(struct fetch *f)
{
	struct fs *fs = f->fs;

	if (f->prev)
		f->prev->next = f->next;
	else
		fs->fetches = f->next;
	if (f->next)
		f->next->prev = f->prev;
	f->prev = f->next = NULL;
	*(f->sync ? &fs->syncs_waiting : &fs->fetches_waiting) -= 1;
}

/* False when the mount is ending. */
static bool wait_begin(struct fetch *f)
{
	struct fs *fs = f->fs;
	bool ok;

	mutex_lock(&fs->lock);
	ok = !fs->closing;
	if (ok) {
		f->next = fs->fetches;
		if (f->next)
			f->next->prev = f;
		fs->fetches = f;
		*(f->sync ? &fs->syncs_waiting : &fs->fetches_waiting) += 1;
	}
	mutex_unlock(&fs->lock);
	return ok;
}

/* libfuse calls this with the request's lock held and takes it for alive until we return, so the
 * answer, which frees the request, is left to another thread. */
static void on_interrupt(fuse_req_t req, void *arg)
{
	struct fetch *f = arg;
	struct fs *fs = f->fs;
	bool mine = false;

	mutex_lock(&fs->lock);
	/* A single element has no neighbours, hence the look at the list's head. */
	if (!f->abandoned && (f->prev || fs->fetches == f)) {
		unlink_locked(f);
		f->abandoned = true;
		mine = true;
	}
	mutex_unlock(&fs->lock);
	if (mine)
		slow_reply(fs, req, -EINTR);
}

static void on_fetched(void *arg, int result);

static void start(struct fetch *f)
{
	struct fs *fs = f->fs;
	struct cache *cache = fs->cache;
	fuse_ino_t ino = f->ino;
	struct partial *partial = f->file ? file_partial(f->file) : NULL;
	uint64_t offset = f->offset;
	size_t size = f->size;

	/* Once it waits an interrupt may answer it, and the file be released. */
	if (partial)
		partial = partial_ref(partial);
	if (!wait_begin(f)) {
		partial_put(partial);
		reply(f->req, -EIO);
		fetch_free(f);
		return;
	}
	fuse_req_interrupt_func(f->req, on_interrupt, f);
	if (f->sync)
		durability_wait(cache, ino, on_fetched, f);
	else if (partial)
		cache_range(cache, partial, offset, size, on_fetched, f);
	else if (f->file)
		on_fetched(f, 0); /* all of it has come meanwhile */
	else
		cache_fetch(cache, ino, on_fetched, f);
	partial_put(partial);
}

static int answer_read(struct fetch *f)
{
	int r = splice_and_reply(f->req, f->file, f->size, f->offset);
	char *p AUTO_FREE = NULL;

	if (r != -EAGAIN)
		return r;
	p = malloc(f->size);
	if (p)
		return read_and_reply(f->req, f->file, p, f->size, f->offset);
	reply(f->req, -ENOMEM);
	return 0;
}

static bool repeat_read(struct fetch *f)
{
	int r = answer_read(f);

	/* It was fetched in one piece. */
	if (r == -EREMOTE && file_catch_up(f->file) == 0)
		r = answer_read(f);
	return r != -EREMOTE;
}

/* True when answered. */
static bool repeat(struct fetch *f)
{
	struct inode inode;
	struct stat st;
	int r;

	if (f->file)
		return repeat_read(f);
	if (f->open)
		return open_and_reply(f->req, f->ino, &f->fi) != -EREMOTE;
	r = tree_setattr(f->fs->cache, f->ino, f->mask, &f->v, &inode);
	if (r == -EREMOTE)
		return false;
	r = attr_synced(f->fs, f->ino, r);
	if (r) {
		reply_inode(f->req, r);
	} else {
		stat_fill(f->fs, &inode, &st);
		fuse_reply_attr(f->req, &st, CACHE_SECONDS);
	}
	return true;
}

static void on_fetched(void *arg, int result)
{
	struct fetch *f = arg;
	struct fs *fs = f->fs;
	bool abandoned, again = false;

	mutex_lock(&fs->lock);
	abandoned = f->abandoned;
	if (!abandoned) {
		unlink_locked(f);
		fs->fetches_running++;
	}
	mutex_unlock(&fs->lock);
	if (abandoned) {
		fetch_free(f);
		return;
	}
	/* Waits for an interrupt that is just looking at f. */
	fuse_req_interrupt_func(f->req, NULL, NULL);
	if (f->sync && !result && f->written) {
		fuse_reply_write(f->req, f->written);
	} else if (f->sync) {
		reply(f->req, result);
	} else if (result && result != -EALREADY) {
		reply_inode(f->req, result);
	} else if (!repeat(f)) {
		again = ++f->attempts < ATTEMPTS_MAX;
		if (!again)
			reply(f->req, -EIO);
	}
	if (again)
		start(f);
	else
		free(f);
	mutex_lock(&fs->lock);
	fs->fetches_running--;
	cond_broadcast(&fs->fetches_idle);
	mutex_unlock(&fs->lock);
	if (!again)
		fs_unref(fs);
}

static struct fetch *fetch_new(fuse_req_t req, fuse_ino_t ino)
{
	struct fetch *f = calloc(1, sizeof(*f));

	if (!f) {
		reply(req, -ENOMEM);
		return NULL;
	}
	f->fs = fs_of(req);
	f->req = req;
	f->ino = ino;
	atomic_fetch_add(&f->fs->refs, 1);
	return f;
}

void fetch_open(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi)
{
	struct fetch *f = fetch_new(req, ino);

	if (!f)
		return;
	f->open = true;
	f->fi = *fi;
	start(f);
}

void fetch_read(fuse_req_t req, fuse_ino_t ino, struct file *file, size_t size, uint64_t offset)
{
	struct fetch *f = fetch_new(req, ino);

	if (!f)
		return;
	f->file = file;
	f->size = size;
	f->offset = offset;
	start(f);
}

void fetch_setattr(fuse_req_t req, fuse_ino_t ino, unsigned mask, const struct inode *v)
{
	struct fetch *f = fetch_new(req, ino);

	if (!f)
		return;
	f->mask = mask;
	f->v = *v;
	start(f);
}

void wait_durable(fuse_req_t req, fuse_ino_t ino, size_t written)
{
	struct fs *fs = fs_of(req);
	struct fetch *f;

	if (!durability_matters(fs->cache)) {
		if (written)
			fuse_reply_write(req, written);
		else
			reply(req, 0);
		return;
	}
	f = fetch_new(req, ino);
	if (!f)
		return;
	f->sync = true;
	f->written = written;
	start(f);
}

void fetches_cancel(struct fs *fs)
{
	mutex_lock(&fs->lock);
	fs->closing = true;
	/* First, so that no repetition still has its hands on a parked request. */
	while (fs->fetches_running > 0)
		cond_wait(&fs->fetches_idle, &fs->lock);
	while (fs->fetches) {
		struct fetch *f = fs->fetches;
		fuse_req_t req = f->req;

		unlink_locked(f);
		f->abandoned = true;
		mutex_unlock(&fs->lock);
		reply(req, -EIO);
		mutex_lock(&fs->lock);
	}
	mutex_unlock(&fs->lock);
}
