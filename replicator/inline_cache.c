/*
 * Sealed content of small files by hash: a hash table over a list in order of use. Losing an item
 * costs the announcer a read of the content file, so an allocation that fails is simply not kept.
 *
 * lock guards everything. Invariants: used is the sum of cost() over the items and at most max;
 * each item is in one bucket and in the list (newest first).
 */
#include "replicator/inline_cache.h"

#include <string.h>

#include "src/base/thread.h"

struct item {
	struct item *next_in_bucket;
	struct item *newer;
	struct item *older;
	uint8_t hash[SHA256_SIZE];
	size_t len;
	uint8_t data[];
};

struct inline_cache {
	struct mutex lock; /* leaf */
	size_t max;
	size_t used;
	size_t buckets; /* a power of two */
	struct item *newest;
	struct item *oldest;
	struct item **table;
};

static size_t cost(size_t len)
{
	return sizeof(struct item) + len;
}

struct inline_cache *inline_cache_new(size_t max_bytes)
{
	struct inline_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->max = max_bytes;
	c->buckets = 64;
	while (c->buckets < max_bytes / 4096 && c->buckets < 65536)
		c->buckets *= 2;
	c->table = calloc(c->buckets, sizeof(struct item *));
	if (!c->table) {
		free(c);
		return NULL;
	}
	mutex_init(&c->lock, LOCK_RANK_LEAF);
	return c;
}

void inline_cache_free(struct inline_cache *c)
{
	struct item *i, *older;

	if (!c)
		return;
	for (i = c->newest; i; i = older) {
		older = i->older;
		free(i);
	}
	mutex_done(&c->lock);
	free(c->table);
	free(c);
}

static struct item **bucket(struct inline_cache *c, const uint8_t hash[SHA256_SIZE])
{
	uint32_t n;

	memcpy(&n, hash, sizeof(n));
	return &c->table[n & (c->buckets - 1)];
}

static struct item *find(struct inline_cache *c, const uint8_t hash[SHA256_SIZE])
{
	struct item *i = *bucket(c, hash);

	while (i && memcmp(i->hash, hash, SHA256_SIZE))
		i = i->next_in_bucket;
	return i;
}

static void list_remove(struct inline_cache *c, struct item *i)
{
	*(i->newer ? &i->newer->older : &c->newest) = i->older;
	*(i->older ? &i->older->newer : &c->oldest) = i->newer;
}

static void list_push(struct inline_cache *c, struct item *i)
{
	i->newer = NULL;
	i->older = c->newest;
	*(c->newest ? &c->newest->newer : &c->oldest) = i;
	c->newest = i;
}

static void evict_oldest(struct inline_cache *c)
{
	struct item *i = c->oldest;
	struct item **at = bucket(c, i->hash);

	while (*at != i)
		at = &(*at)->next_in_bucket;
	*at = i->next_in_bucket;
	list_remove(c, i);
	c->used -= cost(i->len);
	free(i);
}

void inline_cache_put(
	struct inline_cache *c, const uint8_t hash[SHA256_SIZE], const void *p, size_t n)
{
	struct item *i, *known;

	if (n > c->max || cost(n) > c->max)
		return;
	i = malloc(cost(n));
	if (!i)
		return;
	memcpy(i->hash, hash, SHA256_SIZE);
	i->len = n;
	if (n)
		memcpy(i->data, p, n);
	mutex_lock(&c->lock);
	known = find(c, hash);
	if (known) {
		list_remove(c, known);
		list_push(c, known);
	} else {
		while (c->used + cost(n) > c->max)
			evict_oldest(c);
		i->next_in_bucket = *bucket(c, hash);
		*bucket(c, hash) = i;
		list_push(c, i);
		c->used += cost(n);
		i = NULL;
	}
	mutex_unlock(&c->lock);
	free(i);
}

bool inline_cache_get(struct inline_cache *c, const uint8_t hash[SHA256_SIZE], struct buf *b)
{
	struct item *i;
	bool found;

	buf_clear(b);
	mutex_lock(&c->lock);
	i = find(c, hash);
	found = i != NULL;
	if (i) {
		list_remove(c, i);
		list_push(c, i);
		buf_put(b, i->data, i->len);
		found = !b->failed;
	}
	mutex_unlock(&c->lock);
	return found;
}
