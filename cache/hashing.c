/*
 * Holes are hashed without being read, and for the map not at all: its blocks in them are equal. A slice
 * leaves what it came to in one of a few places, found again by inode, generation and size: the content was not written to in between when these are the
 * same. A place whose caller does not come again (the file was written to, say) is free after
 * STALE_MS, and at once when the file was removed; who finds none has to wait, rather than to begin from the front each time.
 *
 * What was hashed to the end is asked for again where it could not be sealed yet: the keys of a directory are
 * sealed together, and those whose content is large would hardly ever be ready at the same instant. So the
 * hashes of more than KEPT_OVER bytes are kept, found as the places are, until that version is sealed or another
 * generation or size of the inode is asked for. There are up to HASHES_KEPT (hashing.h), twice a batch of rows,
 * in 256 KiB. When there is no room the one that was not asked for the longest goes, if that is KEPT_MS ago, and
 * else the new one: rows that are asked for in turns and do not fit would drive each other out, and none were ever
 * sealed. Places are therefore held by those only that have work left, and who was asked for first has his until
 * he is done: all get their turn.
 *
 * Lock: hashings.lock, a leaf. A place that is worked on is not in the table.
 */
#include "cache/hashing.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/content_map.h"
#include "cache/internal.h"
#include "src/base/clock.h"

#define PLACES 4
#define STALE_MS 60000
#define STEP_BYTES ((size_t)256 << 10)
#define LOOK_STEPS 64			    /* between two looks at the clock and at the name */
#define KEPT_OVER (LOOK_STEPS * STEP_BYTES) /* less is hashed in one slice, and soon again */
#define KEPT_MS 600000

struct hashing {
	uint64_t ino; /* 0: free */
	uint64_t generation;
	uint64_t size;
	uint64_t at;
	struct sha256 sha;
	struct content_mapper map;
	int64_t used_ms;
};

struct hashed {
	uint64_t ino;
	uint64_t generation;
	uint64_t size;
	int64_t used_ms;
	uint8_t hash[SHA256_SIZE];
};

struct hashings {
	struct mutex lock;
	struct hashing place[PLACES];
	unsigned kept_count;
	struct hashed kept[HASHES_KEPT]; /* in no order */
};

static const uint8_t zeros[STEP_BYTES];

struct hashings *hashings_new(void)
{
	struct hashings *t = calloc(1, sizeof(*t));

	if (t)
		mutex_init(&t->lock, LOCK_RANK_LEAF);
	return t;
}

static void forget(struct hashing *h)
{
	if (h->ino) {
		sha256_done(&h->sha);
		content_mapper_end(&h->map);
	}
	*h = (struct hashing){0};
}

void hashings_free(struct hashings *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < PLACES; i++)
		forget(&t->place[i]);
	mutex_done(&t->lock);
	free(t);
}

static bool is_same(const struct hashing *a, const struct hashing *b)
{
	return a->ino == b->ino && a->generation == b->generation && a->size == b->size;
}

static void start(struct cache *c, struct hashing *h)
{
	sha256_init(&h->sha);
	content_mapper_begin(&h->map, h->size, c->map_min);
}

static void update(struct hashing *h, const void *p, size_t n)
{
	sha256_update(&h->sha, p, n);
	content_mapper_add(&h->map, p, n);
	h->at += n;
}

static void update_zeros(struct hashing *h, size_t n)
{
	sha256_update(&h->sha, zeros, n);
	content_mapper_add_zeros(&h->map, n);
	h->at += n;
}

/* ---- hashes that are kept; with the lock ---- */

static struct hashed *find_kept(struct hashings *t, uint64_t ino)
{
	for (unsigned i = 0; i < t->kept_count; i++) {
		if (t->kept[i].ino == ino)
			return &t->kept[i];
	}
	return NULL;
}

static void drop_kept(struct hashings *t, struct hashed *k)
{
	*k = t->kept[--t->kept_count];
}

/* Whether that content's hash is known. One of another state of the inode goes. */
static bool recall(struct hashings *t, const struct hashing *h, uint8_t hash[SHA256_SIZE])
{
	struct hashed *k = find_kept(t, h->ino);

	if (!k)
		return false;
	if (k->generation != h->generation || k->size != h->size) {
		drop_kept(t, k);
		return false;
	}
	k->used_ms = clock_monotonic_ms();
	memcpy(hash, k->hash, SHA256_SIZE);
	return true;
}

/* Where one more is kept; NULL: there is no room. */
static struct hashed *room_for_one(struct cache *c, struct hashings *t, int64_t now)
{
	struct hashed *oldest = t->kept;

	if (t->kept_count < c->hashes_kept)
		return &t->kept[t->kept_count++];
	for (unsigned i = 1; i < t->kept_count; i++) {
		if (t->kept[i].used_ms < oldest->used_ms)
			oldest = &t->kept[i];
	}
	return now - oldest->used_ms >= KEPT_MS ? oldest : NULL;
}

static void remember(struct cache *c, const struct hashing *h, const uint8_t hash[SHA256_SIZE])
{
	struct hashings *t = c->hashings;
	int64_t now = clock_monotonic_ms();
	struct hashed *k;

	mutex_lock(&t->lock);
	k = find_kept(t, h->ino);
	if (!k)
		k = room_for_one(c, t, now);
	if (k) {
		*k = (struct hashed){h->ino, h->generation, h->size, now, {0}};
		memcpy(k->hash, hash, SHA256_SIZE);
	}
	mutex_unlock(&t->lock);
}

void content_forget_hashing(struct cache *c, uint64_t ino)
{
	struct hashings *t = c->hashings;
	struct hashed *k;

	mutex_lock(&t->lock);
	for (unsigned i = 0; i < PLACES; i++) {
		if (t->place[i].ino == ino)
			forget(&t->place[i]);
	}
	k = find_kept(t, ino);
	if (k)
		drop_kept(t, k);
	mutex_unlock(&t->lock);
}

void content_forget_hash(struct cache *c, uint64_t ino, uint64_t generation)
{
	struct hashings *t = c->hashings;
	struct hashed *k;

	mutex_lock(&t->lock);
	k = find_kept(t, ino);
	if (k && k->generation <= generation)
		drop_kept(t, k);
	mutex_unlock(&t->lock);
}

/* ---- slices ---- */

/* Goes on with what was begun, or begins. 1: it was done already, hash is it. -EAGAIN: there is no room for one
 * more; -ESTALE: what was begun is of no use any more. */
static int begin(struct cache *c, struct hashing *h, bool sliced, uint8_t hash[SHA256_SIZE])
{
	struct hashings *t = c->hashings;
	int64_t now = clock_monotonic_ms();
	bool room = !sliced, lost = false;

	mutex_lock(&t->lock);
	if (recall(t, h, hash)) {
		mutex_unlock(&t->lock);
		return 1;
	}
	for (unsigned i = 0; i < PLACES; i++) {
		struct hashing *p = &t->place[i];

		if (p->ino && is_same(p, h)) {
			*h = *p;
			*p = (struct hashing){0};
			mutex_unlock(&t->lock);
			return 0;
		}
		lost |= sliced && p->ino == h->ino;
		if (p->ino == h->ino || now - p->used_ms >= STALE_MS)
			forget(p);
		room |= !p->ino;
	}
	mutex_unlock(&t->lock);
	if (lost || !room)
		return lost ? -ESTALE : -EAGAIN;
	start(c, h);
	return 0;
}

static void keep(struct hashings *t, struct hashing *h)
{
	h->used_ms = clock_monotonic_ms();
	mutex_lock(&t->lock);
	for (unsigned i = 0; i < PLACES; i++) {
		if (t->place[i].ino)
			continue;
		t->place[i] = *h;
		*h = (struct hashing){0};
		break;
	}
	mutex_unlock(&t->lock);
	forget(h);
}

/* Where the hole that at lies in ends; at itself when there is data, or nobody knows. */
static uint64_t hole_end(int fd, uint64_t at, uint64_t size)
{
	off_t data = lseek(fd, (off_t)at, SEEK_DATA);
	struct stat st;

	if (data < 0 && errno == ENXIO && fstat(fd, &st) == 0)
		return (uint64_t)st.st_size < size ? (uint64_t)st.st_size : size;
	return data < 0 ? at : (uint64_t)data < size ? (uint64_t)data : size;
}

/* One step. 1, 0 at the end of the file, or -errno. */
static int step(int fd, struct hashing *h, uint64_t *hole, uint8_t *buffer)
{
	uint64_t left = h->size - h->at;
	size_t n = left < STEP_BYTES ? (size_t)left : STEP_BYTES;
	ssize_t got;

	if (h->at < *hole) {
		got = (ssize_t)(*hole - h->at < n ? *hole - h->at : n);
		update_zeros(h, (size_t)got);
		return 1;
	}
	do
		got = pread(fd, buffer, n, (off_t)h->at);
	while (got < 0 && errno == EINTR);
	if (got <= 0)
		return got < 0 ? -errno : 0;
	update(h, buffer, (size_t)got);
	return 1;
}

void content_stop_hashing(struct cache *c, int64_t at_ms)
{
	atomic_store(&c->hash_end_ms, at_ms);
}

uint64_t content_slices(struct cache *c)
{
	return atomic_load(&c->hash_slices);
}

bool content_is_removed(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 0;
}

/* 1: done; 0: not the whole; -EAGAIN: the time is over. */
static int run(
	struct cache *c, int fd, struct hashing *h, struct record *guard, bool sliced, int removed)
{
	uint8_t *buffer AUTO_FREE = malloc(STEP_BYTES);
	int64_t now = clock_monotonic_ms(), end = now + c->hash_slice_ms;
	uint64_t hole = 0;
	int r = buffer ? 1 : -ENOMEM;

	for (unsigned n = 1; r == 1 && h->at < h->size; n++) {
		if (n % LOOK_STEPS == 0) {
			if (content_is_removed(removed))
				return -ENOENT;
			now = clock_monotonic_ms();
			if (now >= atomic_load(&c->hash_end_ms))
				return -EAGAIN;
			if (sliced && now >= end) {
				atomic_fetch_add(&c->hash_slices, 1);
				return -EAGAIN;
			}
		}
		if (h->at >= hole && n % 16 == 1)
			hole = hole_end(fd, h->at, h->size);
		r = step(fd, h, &hole, buffer);
		if (r == 1 && guard && atomic_load(&guard->generation) != h->generation)
			r = 0;
	}
	return r;
}

int content_hash(struct cache *c, uint64_t ino, int fd, uint64_t size, struct record *guard,
	uint64_t generation, bool sliced, int removed, uint8_t hash[SHA256_SIZE], bool *whole)
{
	struct hashing h = {.ino = guard ? guard->ino : 0, .generation = generation, .size = size};
	int r;

	*whole = false;
	sliced = sliced && guard;
	r = guard ? begin(c, &h, sliced, hash) : 0;
	if (r == 1)
		*whole = atomic_load(&guard->generation) == generation;
	if (r)
		return r == 1 || r == -ESTALE ? 0 : r;
	if (!guard)
		start(c, &h);
	r = run(c, fd, &h, guard, sliced, removed);
	if (r == 1) {
		sha256_final(&h.sha, hash);
		content_map_keep(c, &h.map, ino, hash);
		if (guard && size > KEPT_OVER)
			remember(c, &h, hash);
		*whole = true;
		return 0;
	}
	if (r == -EAGAIN && guard)
		keep(c->hashings, &h);
	else {
		sha256_done(&h.sha);
		content_mapper_end(&h.map);
	}
	return r;
}
