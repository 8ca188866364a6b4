/*
 * The table of records: one for each inode whose content is in use.
 *
 * Its lock is a leaf: a transaction may look a record up. A record is in the table as long as it
 * has references. record.h tells the rules of generations and of marking.
 */
#include "cache/record.h"

#include <errno.h>

#include "cache/file.h"
#include "cache/partial.h"
#include "src/base/clock.h"

#define BUCKETS 4096
#define RACY_NS INT64_C(1000000000)

struct file_table {
	struct mutex lock;
	_Atomic unsigned count; /* written under lock; 0 saves a lookup the lock */
	struct record *buckets[BUCKETS];
};

/* ---- table ---- */

struct file_table *file_table_new(void)
{
	struct file_table *t = calloc(1, sizeof(*t));

	if (t)
		mutex_init(&t->lock, LOCK_RANK_LEAF);
	return t;
}

static void record_free(struct record *rec)
{
	int fd = atomic_load(&rec->fd);

	if (fd >= 0)
		close(fd);
	partial_put(atomic_load(&rec->partial));
	partial_put(rec->left);
	mutex_done(&rec->lock);
	free(rec->copying);
	free(rec);
}

void file_table_free(struct file_table *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < BUCKETS; i++) {
		for (struct record *rec = t->buckets[i]; rec;) {
			struct record *next = rec->next;

			record_free(rec);
			rec = next;
		}
	}
	mutex_done(&t->lock);
	free(t);
}

static struct record **find(struct file_table *t, uint64_t ino)
{
	struct record **at = &t->buckets[ino % BUCKETS];

	while (*at && (*at)->ino != ino)
		at = &(*at)->next;
	return at;
}

static struct record *record_new(uint64_t ino)
{
	struct record *rec = calloc(1, sizeof(*rec));

	if (!rec)
		return NULL;
	rec->ino = ino;
	atomic_init(&rec->fd, -1);
	mutex_init(&rec->lock, LOCK_RANK_FILE);
	return rec;
}

struct record *record_get(struct cache *c, uint64_t ino, bool is_open)
{
	struct file_table *t = c->files;
	struct record *fresh = record_new(ino), *rec, **at;

	if (!fresh)
		return NULL;
	mutex_lock(&t->lock);
	at = find(t, ino);
	if (!*at) {
		*at = fresh;
		fresh = NULL;
		atomic_fetch_add(&t->count, 1);
	}
	rec = *at;
	rec->refs++;
	rec->opens += is_open;
	mutex_unlock(&t->lock);
	if (fresh)
		record_free(fresh);
	return rec;
}

/* With the table's lock; returns what is to be freed after it. */
static struct record *unref(struct file_table *t, struct record *rec)
{
	struct record **at;

	if (--rec->refs > 0)
		return NULL;
	at = find(t, rec->ino);
	CHECK(*at == rec && rec->opens == 0);
	*at = rec->next;
	atomic_fetch_sub(&t->count, 1);
	return rec;
}

void record_ref(struct cache *c, struct record *rec)
{
	mutex_lock(&c->files->lock);
	rec->refs++;
	mutex_unlock(&c->files->lock);
}

void record_put(struct cache *c, struct record *rec)
{
	struct record *gone;

	mutex_lock(&c->files->lock);
	gone = unref(c->files, rec);
	mutex_unlock(&c->files->lock);
	if (gone) {
		pressure_unsealed(c, gone, 0);
		record_free(gone);
	}
}

bool record_is_idle(struct cache *c, struct record *rec)
{
	bool idle;

	mutex_lock(&c->files->lock);
	idle = rec->refs == 1 && rec->opens == 0;
	mutex_unlock(&c->files->lock);
	return idle && atomic_load(&rec->fd) < 0;
}

/* ---- writes that nobody reported ---- */

int record_look(struct cache *c, int fd, struct stat *st, struct content_look *ret)
{
	/* A write from now on gets this time or a later one. */
	int64_t now = c->times_distinct ? 0 : clock_kernel_coarse_ns();

	if (fstat(fd, st) != 0)
		return -errno;
	*ret = (struct content_look){.size = (uint64_t)st->st_size,
		.mtime_ns = stat_mtime_ns(st),
		.ctime_ns = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec};
	/* A time from the future is no new write's, either. */
	ret->racy = !c->times_distinct && ret->ctime_ns >= now && ret->ctime_ns - now < RACY_NS;
	return 0;
}

bool record_look_same(const struct content_look *before, const struct content_look *after)
{
	return !before->racy && before->size == after->size &&
	       before->mtime_ns == after->mtime_ns && before->ctime_ns == after->ctime_ns;
}

static void note_change(struct record *rec)
{
	int64_t none = 0;

	/* In this order: see note_journalled. */
	if (!atomic_load(&rec->fresh))
		atomic_fetch_add(&rec->generation, 1);
	atomic_compare_exchange_strong(&rec->changed_ms, &none, clock_monotonic_ms() + 1);
}

void record_assume_changed(struct record *rec)
{
	note_change(rec);
}

/* With the table's lock. A record in the table keeps its descriptor, and fstat takes less than a
 * microsecond. */
static int observe(struct cache *c, struct record *rec, struct stat *st)
{
	struct content_look now;
	int fd = atomic_load(&rec->fd);
	int r = fd < 0 ? -EBADF : record_look(c, fd, st, &now);

	if (r || !record_is_unseen(rec) || record_look_same(&rec->seen, &now))
		return r;
	rec->seen = now;
	note_change(rec);
	return 0;
}

/* With the table's lock. Of a descriptor that cannot be looked at nothing is known to have changed.
 */
static void observe_locked(struct cache *c, struct record *rec)
{
	struct stat st;

	if (record_is_unseen(rec) && observe(c, rec, &st))
		(void)0;
}

void record_observe(struct cache *c, struct record *rec)
{
	if (!record_is_unseen(rec))
		return;
	mutex_lock(&c->files->lock);
	observe_locked(c, rec);
	mutex_unlock(&c->files->lock);
}

void record_unseen(struct cache *c, struct record *rec, unsigned flags)
{
	struct stat st;

	mutex_lock(&c->files->lock);
	/* The only writer has not written yet. */
	if ((!atomic_load(&rec->unseen) || atomic_load(&rec->writers) <= 1) &&
		record_look(c, atomic_load(&rec->fd), &st, &rec->seen))
		note_change(rec); /* to be on the safe side */
	atomic_fetch_or(&rec->unseen_flags, flags);
	/* In this order: who reads the count first, and then that nobody writes unseen, finds another count
	 * when somebody does. */
	atomic_store(&rec->unseen, true);
	atomic_fetch_add(&rec->unseen_count, 1);
	mutex_unlock(&c->files->lock);
}

/* ---- ends ---- */

bool record_end_open(struct cache *c, struct record *rec, bool *displaced)
{
	bool detached;

	mutex_lock(&c->files->lock);
	detached = --rec->opens == 0 && rec->detached;
	if (detached)
		atomic_store(&rec->gone, true);
	if (detached && rec->displaced)
		observe_locked(c, rec);
	*displaced = detached && rec->displaced &&
		     rec->displaced_generation != atomic_load(&rec->generation);
	/* Once: who reads it meanwhile, by its former name, has nothing to do with it. */
	if (*displaced)
		rec->detached = rec->displaced = false;
	mutex_unlock(&c->files->lock);
	return detached;
}

unsigned record_collect(struct cache *c, unsigned *at, struct record **found, unsigned max)
{
	struct file_table *t = c->files;
	unsigned n = 0;

	if (atomic_load(&t->count) == 0)
		return 0;
	mutex_lock(&t->lock);
	while (*at < BUCKETS) {
		unsigned before = n;
		struct record *rec = t->buckets[*at];

		for (; rec && n < max; rec = rec->next) {
			found[n++] = rec;
			rec->refs++;
		}
		/* A bucket that does not fit any more is left for the next call, if this one got
		 * anywhere. */
		if (rec && before > 0) {
			while (n > before)
				found[--n]->refs--;
			break;
		}
		(*at)++;
		if (n == max)
			break;
	}
	mutex_unlock(&t->lock);
	return n;
}

bool file_has_unsealed(struct cache *c, const struct inode_row *row)
{
	struct record *rec;
	bool unsealed;

	mutex_lock(&c->files->lock);
	rec = *find(c->files, row->ino);
	if (rec)
		observe_locked(c, rec);
	/* 0: nobody has read the row yet, so nobody has written either. */
	unsealed = rec && atomic_load(&rec->generation) != 0 &&
		   atomic_load(&rec->generation) != row->sealed;
	mutex_unlock(&c->files->lock);
	return unsealed;
}

bool file_is_unsealed(struct cache *c, const struct inode_row *row)
{
	return S_ISREG(row->mode) &&
	       ((row->dirty && row->generation != row->sealed) || file_has_unsealed(c, row));
}

bool file_note_detached(struct cache *c, uint64_t ino, const uint64_t *sealed)
{
	struct record *rec;
	bool open;

	if (atomic_load(&c->files->count) == 0)
		return false;
	mutex_lock(&c->files->lock);
	rec = *find(c->files, ino);
	open = rec && rec->opens > 0;
	if (rec && !open)
		atomic_store(&rec->gone, true);
	if (open) {
		rec->detached = true;
		atomic_store(&rec->fresh, false);
		observe_locked(c, rec);
		/* Not loaded: an open is under way, and finds out by itself (mark_dirty). */
		if (sealed && atomic_load(&rec->generation) != 0) {
			rec->displaced = true;
			rec->displaced_generation = *sealed;
		}
	}
	mutex_unlock(&c->files->lock);
	return open;
}

void record_note_gone(struct cache *c, struct record *rec)
{
	mutex_lock(&c->files->lock);
	if (!rec->detached)
		atomic_store(&rec->gone, true);
	mutex_unlock(&c->files->lock);
}

void file_note_unnamed(struct cache *c, uint64_t ino)
{
	struct record *rec;

	mutex_lock(&c->files->lock);
	rec = *find(c->files, ino);
	CHECK(rec);
	rec->detached = rec->unnamed = true;
	mutex_unlock(&c->files->lock);
}

bool file_is_unnamed(struct cache *c, uint64_t ino)
{
	const struct record *rec;
	bool unnamed;

	mutex_lock(&c->files->lock);
	rec = *find(c->files, ino);
	unnamed = rec && rec->unnamed;
	mutex_unlock(&c->files->lock);
	return unnamed;
}

void file_note_attached(struct cache *c, uint64_t ino)
{
	struct record *rec;

	if (atomic_load(&c->files->count) == 0)
		return;
	mutex_lock(&c->files->lock);
	rec = *find(c->files, ino);
	if (rec) {
		rec->detached = rec->unnamed = rec->displaced = false;
		atomic_store(&rec->gone, false);
	}
	mutex_unlock(&c->files->lock);
}

bool file_is_open(struct cache *c, uint64_t ino)
{
	const struct record *rec;
	bool found;

	mutex_lock(&c->files->lock);
	rec = *find(c->files, ino);
	found = rec && rec->opens > 0;
	mutex_unlock(&c->files->lock);
	return found;
}

bool file_stat_open(struct cache *c, uint64_t ino, struct stat *ret)
{
	struct record *rec;
	bool found;

	if (atomic_load(&c->files->count) == 0)
		return false;
	mutex_lock(&c->files->lock);
	rec = *find(c->files, ino);
	found = rec && rec->opens > 0 && observe(c, rec, ret) == 0;
	mutex_unlock(&c->files->lock);
	return found;
}

/* ---- generations ---- */

void record_load(struct record *rec, const struct inode_row *row)
{
	if (rec->loaded)
		return;
	rec->loaded = true;
	rec->journalled = row->generation;
	atomic_store(&rec->generation, row->generation);
}

uint64_t record_version(struct record *rec)
{
	atomic_store(&rec->fresh, false);
	return atomic_load(&rec->generation);
}

static void mark_blocks(struct record *rec, uint64_t offset, uint64_t length)
{
	uint64_t first = offset >> BLOCK_BITS, last = (offset + length - 1) >> BLOCK_BITS;

	if (last / 8 >= rec->copying_bytes) {
		size_t bytes = (size_t)(last / 8 + 1) * 2;
		uint8_t *grown = realloc(rec->copying, bytes);

		if (!grown) {
			rec->copying_failed = true;
			return;
		}
		memset(grown + rec->copying_bytes, 0, bytes - rec->copying_bytes);
		rec->copying = grown;
		rec->copying_bytes = bytes;
	}
	for (uint64_t b = first; b <= last; b++)
		rec->copying[b / 8] |= (uint8_t)(1U << (b % 8));
}

void record_changing(struct record *rec, uint64_t offset, uint64_t length)
{
	note_change(rec);
	if (rec->copying && length)
		mark_blocks(rec, offset, length);
}

bool record_try_clean(struct cache *c, uint64_t ino, uint64_t generation, bool row_matches)
{
	struct record *rec;
	bool clean = row_matches;

	mutex_lock(&c->files->lock);
	rec = *find(c->files, ino);
	if (rec)
		observe_locked(c, rec);
	if (rec && atomic_load(&rec->generation) != 0) {
		atomic_store(&rec->sealed_open, true);
		atomic_store(&rec->marked, false);
		clean = atomic_load(&rec->writers) == 0 &&
			atomic_load(&rec->generation) == generation;
		if (atomic_load(&rec->generation) == generation)
			pressure_unsealed(c, rec, 0);
		if (clean)
			atomic_store(&rec->sealed_open, false);
		else
			atomic_store(&rec->marked, true);
	}
	mutex_unlock(&c->files->lock);
	return clean;
}
