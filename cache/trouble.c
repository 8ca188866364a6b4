/*
 * Files that somebody should know about, for `meridian status`: in memory only, since each is found
 * again after a restart. Bounded: what does not fit is counted.
 */
#include <errno.h>

#include "cache/internal.h"
#include "src/base/clock.h"

#define TROUBLES_MAX 256

struct trouble {
	uint64_t ino; /* 0: a free slot */
	enum cache_trouble kind;
	int error;
	int64_t since_ms;
};

struct troubles {
	struct mutex lock; /* leaf */
	_Atomic unsigned count;
	uint64_t left_out; /* since the table was last empty */
	struct trouble slots[TROUBLES_MAX];
};

struct troubles *troubles_new(void)
{
	struct troubles *t = calloc(1, sizeof(*t));

	if (t)
		mutex_init(&t->lock, LOCK_RANK_LEAF);
	return t;
}

void troubles_free(struct troubles *t)
{
	if (!t)
		return;
	mutex_done(&t->lock);
	free(t);
}

static struct trouble *find(struct troubles *t, uint64_t ino, enum cache_trouble kind)
{
	for (unsigned i = 0; i < TROUBLES_MAX; i++) {
		if (t->slots[i].ino == ino && (ino == 0 || t->slots[i].kind == kind))
			return &t->slots[i];
	}
	return NULL;
}

bool trouble_note(struct cache *c, uint64_t ino, enum cache_trouble kind, int error)
{
	struct troubles *t = c->troubles;
	struct trouble *slot;
	bool fresh;

	mutex_lock(&t->lock);
	slot = find(t, ino, kind);
	fresh = !slot || slot->error != error;
	if (slot) {
		slot->error = error;
	} else {
		slot = find(t, 0, kind);
		if (slot) {
			*slot = (struct trouble){ino, kind, error, clock_realtime_ms()};
			atomic_fetch_add(&t->count, 1);
		} else {
			t->left_out++;
		}
	}
	mutex_unlock(&t->lock);
	return fresh;
}

void trouble_clear(struct cache *c, uint64_t ino, enum cache_trouble kind)
{
	struct troubles *t = c->troubles;
	struct trouble *slot;

	if (atomic_load(&t->count) == 0)
		return;
	mutex_lock(&t->lock);
	slot = find(t, ino, kind);
	if (slot) {
		slot->ino = 0;
		if (atomic_fetch_sub(&t->count, 1) == 1)
			t->left_out = 0;
	}
	mutex_unlock(&t->lock);
}

/* Its name, or none: then the file is gone, and the trouble with it. */
static int name_of(struct cache *c, uint64_t ino, struct key *ret)
{
	struct conn *conn AUTO_GIVE = NULL;
	int r = conn_take(c, &conn);

	return r ? r : inode_key(conn, ino, ret);
}

int cache_troubles(struct cache *c, struct cache_trouble_file *ret, unsigned max,
	uint64_t count[TROUBLE_KINDS])
{
	struct troubles *t = c->troubles;
	unsigned n = 0;

	memset(count, 0, TROUBLE_KINDS * sizeof(*count));
	for (unsigned i = 0; i < TROUBLES_MAX; i++) {
		struct trouble one;
		struct key key;

		mutex_lock(&t->lock);
		one = t->slots[i];
		mutex_unlock(&t->lock);
		if (!one.ino)
			continue;
		if (name_of(c, one.ino, &key) == -ENOENT) {
			trouble_clear(c, one.ino, one.kind);
			continue;
		}
		count[one.kind]++;
		if (n < max) {
			ret[n].kind = one.kind;
			ret[n].error = one.error;
			ret[n].since_ms = one.since_ms;
			ret[n++].key = key;
		}
	}
	mutex_lock(&t->lock);
	count[TROUBLE_LOST] += t->left_out;
	mutex_unlock(&t->lock);
	return (int)n;
}
