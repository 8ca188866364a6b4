/*
 * The list is gone through in order, pass by pass. A file that cannot be had now stays on it for the next
 * pass, which then waits; so one that no region has keeps nobody from the others. While the cache
 * is over its limits nothing is fetched: it would go again, or something that is used more.
 *
 * Lock: refresher.lock guards the place in the list.
 */
#include "replicator/refresh.h"

#include <errno.h>

#include "cache/evict.h"
#include "cache/refresh.h"
#include "replicator/fetch.h"

enum { IDLE_MS = 1000, FAILED_MS = 10000 };

struct refresher {
	struct regions *regions;
	struct mutex lock;
	uint64_t after;	  /* this one and those before it had their turn in this pass */
	unsigned working; /* threads that are at one of them */
	bool failed;	  /* something stays on the list */
};

int refresher_new(struct regions *regions, struct refresher **ret)
{
	struct refresher *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->regions = regions;
	mutex_init(&f->lock, LOCK_RANK_REPLICATOR);
	*ret = f;
	return 0;
}

void refresher_free(struct refresher *f)
{
	if (!f)
		return;
	mutex_done(&f->lock);
	free(f);
}

/* 0, -ENOENT (this pass is over, or there is nothing), or a local failure. */
static int take(struct refresher *f, uint64_t *ino, int64_t *pause_ms)
{
	int r;

	mutex_lock(&f->lock);
	r = refresh_next(f->regions->cache, f->after, ino);
	if (!r) {
		f->after = *ino;
		f->working++;
	} else if (r == -ENOENT && f->working == 0) {
		*pause_ms = f->failed ? FAILED_MS : IDLE_MS;
		f->after = 0;
		f->failed = false;
	}
	mutex_unlock(&f->lock);
	return r;
}

int refresher_step(struct refresher *f, bool *did, int64_t *pause_ms)
{
	uint64_t ino;
	int r;

	*did = false;
	*pause_ms = IDLE_MS;
	if (evict_is_over(f->regions->cache))
		return 0;
	r = take(f, &ino, pause_ms);
	if (r)
		return r == -ENOENT ? 0 : r;
	*did = true;
	*pause_ms = 0;
	r = fetch_once(f->regions, ino);
	/* -ESTALE: removed, or another version came. */
	bool stays = r != 0 && r != -ESTALE;
	bool local = stays && r != -EAGAIN && r != -EIO && r != -ECANCELED;

	r = local ? r : stays ? 0 : refresh_done(f->regions->cache, ino);
	mutex_lock(&f->lock);
	f->working--;
	f->failed |= stays;
	mutex_unlock(&f->lock);
	return r;
}
