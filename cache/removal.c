/*
 * Content files of removed inodes are unlinked by a thread of the replicator's, behind the
 * transaction that removed the row and behind the answer to the application. Without that thread,
 * and when the queue is full, the caller does it.
 *
 * The log is flushed before a batch goes: a power cut that takes the transaction back, a rename over
 * a name above all, must find the content that the name has again, and nobody else may have it; and
 * before the log, the content that took the name. When
 * the flush fails they go all the same; a full disk is to be helped.
 *
 * What a crash leaves of the queue are files that no row owns, which sweep.c removes. Whoever asks
 * for the free space, or is short of it, has the queue worked off first.
 *
 * Lock: removals.lock, a leaf.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <stdlib.h>

#include "cache/internal.h"
#include "src/base/log.h"

#define QUEUE_MAX 4096
#define BATCH 2048
#define GATHER_MS 500 /* one flush for a burst */

struct removal {
	uint64_t ino;
	uint64_t replaced_by;
};

struct removals {
	struct mutex lock;
	struct cond cond;
	bool deferred;
	unsigned count;
	struct removal item[QUEUE_MAX];
};

struct removals *removals_new(void)
{
	struct removals *q = calloc(1, sizeof(*q));

	if (q) {
		mutex_init(&q->lock, LOCK_RANK_LEAF);
		cond_init(&q->cond);
	}
	return q;
}

void removals_free(struct removals *q)
{
	if (!q)
		return;
	cond_done(&q->cond);
	mutex_done(&q->lock);
	free(q);
}

static void remove_all(struct cache *c, uint64_t ino)
{
	content_remove(c, ino);
	partial_remove(c, ino, false, NULL);
}

void removals_add(struct cache *c, uint64_t ino, uint64_t replaced_by)
{
	struct removals *q = c->removals;
	bool queued, full;

	mutex_lock(&q->lock);
	queued = q->count < QUEUE_MAX;
	if (queued) {
		q->item[q->count++] = (struct removal){ino, replaced_by};
		if (q->count == 1 || q->count == QUEUE_MAX / 2)
			cond_signal(&q->cond);
	}
	full = !q->deferred || q->count == QUEUE_MAX;
	mutex_unlock(&q->lock);
	if (full)
		removals_drain(c);
	if (!queued)
		remove_all(c, ino);
}

/* The log must not say that a name has the new content before that is there: a file that was written,
 * closed and renamed over another one would be empty after a power cut, and the other one gone. */
static int flush(struct cache *c, const struct removal *batch, unsigned n)
{
	for (unsigned i = 0; i < n && !c->sync_off; i++) {
		int fd AUTO_CLOSE = -1;

		if (!batch[i].replaced_by)
			continue;
		fd = content_file(c, batch[i].replaced_by, O_RDONLY);
		if (fd < 0) /* removed in turn, or never here */
			continue;
		if (fsync(fd) != 0)
			return -errno;
		int r = content_sync_dir(c, batch[i].replaced_by);
		if (r)
			return r;
	}
	return cache_sync(c);
}

bool removals_drain(struct cache *c)
{
	struct removals *q = c->removals;
	struct removal batch[BATCH];
	bool any = false;
	unsigned n;

	do {
		mutex_lock(&q->lock);
		for (n = 0; n < BATCH && q->count > 0; n++)
			batch[n] = q->item[--q->count];
		mutex_unlock(&q->lock);
		/* Who has the writer cannot wait for those that flush. */
		if (n && !pthread_equal(atomic_load(&c->writer_owner), pthread_self()) &&
			flush(c, batch, n))
			log_debug("content removed before the log was flushed");
		for (unsigned i = 0; i < n; i++)
			remove_all(c, batch[i].ino);
		any = any || n > 0;
	} while (n == BATCH);
	return any;
}

void cache_defer_removals(struct cache *c, bool on)
{
	struct removals *q = c->removals;

	mutex_lock(&q->lock);
	q->deferred = on;
	cond_broadcast(&q->cond);
	mutex_unlock(&q->lock);
	if (!on)
		removals_drain(c);
}

bool cache_remove_content(struct cache *c)
{
	struct removals *q = c->removals;
	bool deferred;

	mutex_lock(&q->lock);
	while (q->deferred && q->count == 0)
		cond_wait(&q->cond, &q->lock);
	if (q->deferred && q->count < QUEUE_MAX / 2)
		cond_wait_ms(&q->cond, &q->lock, GATHER_MS);
	deferred = q->deferred;
	mutex_unlock(&q->lock);
	removals_drain(c);
	return deferred;
}
