/*
 * Why this file: `meridian evict` and `meridian warmup` in the daemon: a walk over the tree at or below
 * a path, and what is done with the content of each regular file on it.
 *
 * A warmup walks twice: to know how much there is to fetch, and to fetch it. What comes, goes or changes in
 * between makes its bar a little wrong. A walk that fetches has up to WINDOW fetches under way. Their ends are counted by the fetcher's
 * threads; when the client goes, or the daemon stops, nobody waits for them: the last one frees what
 * they share.
 */
#include "src/command_content.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/evict.h"
#include "cache/file.h"
#include "cache/partial.h"
#include "cache/tree.h"
#include "src/base/clock.h"
#include "src/base/thread.h"
#include "src/text.h"

#define PAGE 128
#define WINDOW 32
#define LINES_MAX 100 /* files of which it is said why; the others are counted */
#define PROGRESS_MS 1000
#define BAR_WIDTH 20

/* What the fetches that are under way share. */
struct fetches {
	struct cache *cache;
	struct mutex lock; /* leaf; guards what follows */
	struct cond ended;
	unsigned waiting;
	bool left; /* nobody waits: who ends last frees it */
	uint64_t files;
	uint64_t bytes;
	uint64_t failures;
	unsigned failed; /* of these the first */
	struct {
		uint64_t ino;
		int error;
	} failure[LINES_MAX];
};

struct fetch {
	struct fetches *all;
	uint64_t ino;
	uint64_t size;
};

struct walk {
	struct command_context *c;
	struct control_client *client;
	int (*file)(struct walk *w, uint64_t ino, bool named); /* > 0: enough */
	int64_t told_ms;
	struct evict_batch batch; /* evict */
	uint64_t stays;
	struct fetches *fetches; /* warmup, as those below */
	uint64_t files, bytes;	 /* that were to be fetched at the beginning */
	uint64_t partial;	 /* bytes of large files, of which some blocks were here then */
};

/* "PATH: text" for the client. False: it is gone. */
static bool say(struct walk *w, uint64_t ino, const char *text)
{
	struct key *key AUTO_FREE = malloc(sizeof(*key));
	struct buf line CLEANUP(buf_done) = {0};

	if (!key || tree_key(w->c->cache, ino, key))
		return true; /* it has no name any more */
	text_clean(key->p);
	buf_printf(&line, "%s: %s", key->p, text);
	return line.failed || control_send(w->client, buf_str(&line));
}

static bool progress(struct walk *w, const char *what, uint64_t files, uint64_t bytes)
{
	int64_t now = clock_monotonic_ms();
	char figure[TEXT_FIGURE_SIZE], line[128];

	if (now - w->told_ms < PROGRESS_MS)
		return true;
	w->told_ms = now;
	snprintf(line, sizeof(line), "%" PRIu64 " files %s (%s)", files, what,
		text_bytes(bytes, figure));
	return control_progress(w->client, line);
}

/* "[#####               ]  25 %, 3 of 40 files, 1.2 GiB of 4.8 GiB". A large file counts as its blocks come. */
static bool show_bar(struct walk *w, uint64_t files, uint64_t bytes)
{
	int64_t now = clock_monotonic_ms();
	char done[TEXT_FIGURE_SIZE], all[TEXT_FIGURE_SIZE], line[192], bar[BAR_WIDTH + 1] = "";
	struct partial_usage partial;

	if (now - w->told_ms < PROGRESS_MS)
		return true;
	w->told_ms = now;
	partial_usage(w->c->cache, &partial);
	bytes += partial.bytes > w->partial ? partial.bytes - w->partial : 0;
	if (files > w->files)
		w->files = files;
	if (bytes > w->bytes)
		bytes = w->bytes;
	double part = w->bytes ? (double)bytes / (double)w->bytes : 1;
	memset(bar, '#', (size_t)(part * 100) / (100 / BAR_WIDTH));
	snprintf(line, sizeof(line), "[%-*s] %3d %%, %" PRIu64 " of %" PRIu64 " files, %s of %s", BAR_WIDTH,
		bar, (int)(part * 100), files, w->files, text_bytes(bytes, done), text_bytes(w->bytes, all));
	return control_progress(w->client, line);
}

/* ---- the walk ---- */

struct page {
	unsigned count;
	int64_t last;
	struct {
		uint64_t ino;
		uint32_t mode;
	} child[PAGE];
};

static int add_child(void *ctx, struct slice name, int64_t place, const struct inode *inode)
{
	struct page *p = ctx;

	p->child[p->count].ino = inode->ino;
	p->child[p->count++].mode = inode->mode;
	p->last = place;
	return p->count == PAGE;
}

/* As deep as a path can be. What comes, goes or moves meanwhile is met or not. */
static int walk_dir(struct walk *w, uint64_t dir)
{
	struct page *p AUTO_FREE = malloc(sizeof(*p));
	int64_t after = 0;
	int r;

	if (!p)
		return -ENOMEM;
	do {
		p->count = 0;
		r = tree_readdir(w->c->cache, dir, after, PAGE, add_child, p);
		if (r < 0)
			return r == -ENOENT || r == -ENOTDIR ? 0 : r;
		after = p->last;
		for (unsigned i = 0; i < p->count; i++) {
			r = 0;
			if (S_ISDIR(p->child[i].mode))
				r = walk_dir(w, p->child[i].ino);
			else if (S_ISREG(p->child[i].mode))
				r = w->file(w, p->child[i].ino, false);
			if (r)
				return r;
		}
	} while (p->count == PAGE);
	return 0;
}

static int walk(struct walk *w, const char *key, struct err *err)
{
	struct slice path = slice_of(key);
	struct inode inode;
	int r;

	if (!key_valid(path))
		return err_set(err, -EINVAL, "\"%s\": not a path of the volume", key);
	w->told_ms = clock_monotonic_ms();
	r = tree_resolve(w->c->cache, path, &inode);
	if (!r)
		r = S_ISDIR(inode.mode) ? walk_dir(w, inode.ino) : w->file(w, inode.ino, true);
	if (r > 0)
		return err_errno(err, -EPIPE, "%s", key);
	return r < 0 ? err_errno(err, r, "%s", key) : 0;
}

/* ---- evict ---- */

static int evict_file(struct walk *w, uint64_t ino, bool named)
{
	enum evict_result result = EVICT_DONE;
	int r = evict_content(w->c->cache, &w->batch, ino, &result);

	if (r < 0)
		return r;
	if (result != EVICT_DONE && result != EVICT_ABSENT && (named || result != EVICT_KIND) &&
		w->stays++ < LINES_MAX && !say(w, ino, evict_text(result)))
		return 1;
	return progress(w, "evicted", w->batch.files, w->batch.bytes) ? 0 : 1;
}

int command_evict(
	struct command_context *c, struct control_client *client, const char *key, struct err *err)
{
	struct walk w = {.c = c,
		.client = client,
		.file = evict_file,
		.batch = {.proof = replicator_has_object, .ctx = c->replicator}};
	char figure[TEXT_FIGURE_SIZE], line[128];
	int r = walk(&w, key, err), e = evict_finish(c->cache, &w.batch);

	if (r == 0 && e < 0)
		r = err_errno(err, e, "%s", key);
	if (r < 0)
		return r;
	snprintf(line, sizeof(line), "%" PRIu64 " files evicted (%s)", w.batch.files,
		text_bytes(w.batch.bytes, figure));
	if (!control_send(client, line))
		return -EPIPE;
	return w.stays ? err_set(err, -EBUSY, "%" PRIu64 " files stay", w.stays) : 0;
}

/* ---- warmup ---- */

static void fetches_free(struct fetches *f)
{
	cond_done(&f->ended);
	mutex_done(&f->lock);
	free(f);
}

static struct fetches *fetches_new(struct cache *cache)
{
	struct fetches *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->cache = cache;
	mutex_init(&f->lock, LOCK_RANK_LEAF);
	cond_init(&f->ended);
	return f;
}

static void fetches_leave(struct fetches *f)
{
	bool last;

	mutex_lock(&f->lock);
	f->left = true;
	last = f->waiting == 0;
	mutex_unlock(&f->lock);
	if (last)
		fetches_free(f);
}

static void on_fetched(void *arg, int result)
{
	struct fetch *one = arg;
	struct fetches *f = one->all;
	bool last;

	mutex_lock(&f->lock);
	/* -ESTALE: removed or replaced meanwhile. */
	if (result == 0 || result == -EALREADY) {
		f->files++;
		f->bytes += one->size;
	} else if (result != -ESTALE && f->failures++ < LINES_MAX) {
		f->failure[f->failed].ino = one->ino;
		f->failure[f->failed++].error = result;
	}
	f->waiting--;
	last = f->left && f->waiting == 0;
	cond_signal(&f->ended);
	mutex_unlock(&f->lock);
	free(one);
	if (last)
		fetches_free(f);
}

/* Until fewer than max are under way. False: the client is gone. */
static bool wait_below(struct walk *w, unsigned max)
{
	struct fetches *f = w->fetches;
	uint64_t files, bytes;
	bool below = false;

	while (!below) {
		mutex_lock(&f->lock);
		if (f->waiting >= max)
			cond_wait_ms(&f->ended, &f->lock, PROGRESS_MS);
		below = f->waiting < max;
		files = f->files;
		bytes = f->bytes;
		mutex_unlock(&f->lock);
		if (!show_bar(w, files, bytes))
			return false;
	}
	return true;
}

static int count_file(struct walk *w, uint64_t ino, bool named UNUSED)
{
	struct key *key AUTO_FREE = malloc(sizeof(*key));
	uint8_t hash[SHA256_SIZE];
	uint64_t size;
	int r = key ? content_wanted(w->c->cache, ino, key, hash, &size) : -ENOMEM;

	if (r < 0)
		return r == -EALREADY || r == -ESTALE ? 0 : r;
	w->files++;
	w->bytes += size;
	return progress(w, "to fetch", w->files, w->bytes) ? 0 : 1;
}

static int fetch_file(struct walk *w, uint64_t ino, bool named UNUSED)
{
	struct key *key AUTO_FREE = malloc(sizeof(*key));
	uint8_t hash[SHA256_SIZE];
	struct fetch *one;
	uint64_t size;
	int r = key ? content_wanted(w->c->cache, ino, key, hash, &size) : -ENOMEM;

	/* Here already, no content of its own, or gone. */
	if (r == -EALREADY || r == -ESTALE)
		return wait_below(w, WINDOW + 1) ? 0 : 1;
	one = r < 0 ? NULL : malloc(sizeof(*one));
	if (!one)
		return r < 0 ? r : -ENOMEM;
	*one = (struct fetch){.all = w->fetches, .ino = ino, .size = size};
	mutex_lock(&w->fetches->lock);
	w->fetches->waiting++;
	mutex_unlock(&w->fetches->lock);
	cache_fetch(w->c->cache, ino, on_fetched, one);
	return wait_below(w, WINDOW) ? 0 : 1;
}

static int report(struct walk *w, struct err *err)
{
	struct fetches *f = w->fetches;
	char figure[TEXT_FIGURE_SIZE], line[128];

	/* All have ended: nobody else has it. */
	for (unsigned i = 0; i < f->failed; i++)
		if (!say(w, f->failure[i].ino, strerror(-f->failure[i].error)))
			return -EPIPE;
	snprintf(line, sizeof(line), "%" PRIu64 " files fetched (%s)", f->files,
		text_bytes(f->bytes, figure));
	if (!control_send(w->client, line))
		return -EPIPE;
	return f->failures ? err_set(err, -EIO,
				     "%" PRIu64 " files could not be fetched\n"
				     "hint: `meridian status` names the region and the cause",
				     f->failures)
			   : 0;
}

int command_warmup(
	struct command_context *c, struct control_client *client, const char *key, struct err *err)
{
	struct walk w = {
		.c = c, .client = client, .file = count_file, .fetches = fetches_new(c->cache)};
	struct partial_usage partial;
	int r = w.fetches ? walk(&w, key, err) : err_errno(err, -ENOMEM, "%s", key);

	partial_usage(c->cache, &partial);
	w.partial = partial.bytes;
	w.file = fetch_file;
	if (r == 0 && w.files)
		r = walk(&w, key, err);
	if (r == 0)
		r = wait_below(&w, 1) ? report(&w, err) : err_errno(err, -EPIPE, "%s", key);
	if (w.fetches)
		fetches_leave(w.fetches);
	return r;
}
