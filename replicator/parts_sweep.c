/*
 * Why this file: each version of large content leaves a parts object, and none but a scan sees that nothing
 * has that content any more. At the end of a scan the parts objects of the region are listed; those that
 * are old, whose content no path here has, and of which the trash keeps nothing, go.
 *
 * Which contents there are is a bitmap of their hashes: of fixed size, and where two meet in a bit, a parts
 * object that nobody needs stays. One that goes too soon (a file got that content again at that moment)
 * costs whoever reads the file by ranges fetching it whole; so nothing depends on it.
 *
 * Keeps no state, takes no lock.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cache/entry.h"
#include "replicator/object.h"
#include "replicator/parts.h"
#include "replicator/store/layers.h"
#include "src/base/clock.h"
#include "src/base/log.h"

#define BITMAP_BITS 26
#define OLD_MS INT64_C(86400000) /* by the store's clock; who puts content puts its parts again */
#define PAGE 500

struct sweep {
	struct region *region;
	uint8_t *bitmap; /* NULL: not made yet */
	int64_t before_ms;
	char last[PARTS_KEY_SIZE];
	unsigned listed, count;
	uint8_t hash[PAGE][SHA256_SIZE];
	uint64_t removed;
};

static uint32_t bit_of(const uint8_t hash[SHA256_SIZE])
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 4; i++)
		v = v << 8 | hash[i];
	return v >> (32 - BITMAP_BITS);
}

/* ---- contents that there are ---- */

struct keys {
	struct sweep *s;
	struct conn *conn;
	struct key last;
	unsigned count;
};

static int add_key(void *ctx, struct slice key)
{
	struct keys *k = ctx;
	struct content_parts parts;
	CLEANUP(entry_done) struct entry e = {0};
	int r = entry_get(k->conn, key, &e);

	k->count++;
	if (!key_set(&k->last, key))
		return -EINVAL;
	if (r == -ENOENT)
		return 0;
	if (r == 0 && e.kind == KIND_FILE &&
		content_parts_of(k->s->region->all->cache, e.size, &parts))
		k->s->bitmap[bit_of(e.hash) / 8] |= (uint8_t)(1U << (bit_of(e.hash) % 8));
	return r;
}

static int make_bitmap(struct sweep *s)
{
	AUTO_FREE struct keys *k = calloc(1, sizeof(*k));
	struct cache *cache = s->region->all->cache;
	int r = k ? 0 : -ENOMEM;

	s->bitmap = calloc(1, (size_t)1 << (BITMAP_BITS - 3));
	if (!s->bitmap)
		return -ENOMEM;
	do {
		if (!r && atomic_load(&s->region->all->cancel))
			r = -ECANCELED;
		if (!r)
			r = cache_read_begin(cache, &k->conn);
		if (r)
			return r;
		k->s = s;
		k->count = 0;
		struct key after = k->last;
		r = entry_scan(k->conn, slice_of(""), key_slice(&after), true, PAGE, add_key, k);
		cache_read_end(k->conn);
	} while (!r && k->count == PAGE);
	return r;
}

/* ---- parts objects ---- */

static int add_object(void *ctx, const char *key, const struct store_object *object)
{
	struct sweep *s = ctx;

	s->listed++;
	snprintf(s->last, sizeof(s->last), "%s", key);
	if (strlen(key) == PARTS_KEY_SIZE - 1 && object->mtime_ms < s->before_ms &&
		hex_decode(key + strlen(PARTS_PREFIX), s->hash[s->count], SHA256_SIZE))
		s->count++;
	return 0;
}

static int one(void *ctx, const char *key, const struct store_object *object)
{
	*(bool *)ctx = true;
	return 1;
}

static enum store_result sweep_one(
	struct sweep *s, const uint8_t hash[SHA256_SIZE], struct store_error *error)
{
	struct store_call call = region_call(s->region, 0);
	char prefix[OBJECT_TRASH_SIZE], key[PARTS_KEY_SIZE];
	bool kept = false;
	enum store_result r;

	if (s->bitmap[bit_of(hash) / 8] >> (bit_of(hash) % 8) & 1)
		return STORE_OK;
	object_trash_prefix(hash, prefix);
	r = store_list(s->region->store, prefix, NULL, 1, one, &kept, &call, error);
	if (r != STORE_OK || kept)
		return r;
	parts_key(hash, key);
	r = store_remove(s->region->store, key, NULL, &call, error);
	s->removed += r == STORE_OK;
	return r == STORE_ABSENT ? STORE_OK : r;
}

/* *more: the listing goes on. */
static enum store_result sweep_page(struct sweep *s, bool *more, struct store_error *error)
{
	struct store_call call = region_call(s->region, 0);
	enum store_result r;
	int code = 0;

	s->listed = s->count = 0;
	r = store_list(s->region->store, PARTS_PREFIX, s->last[0] ? s->last : NULL, PAGE,
		add_object, s, &call, error);
	*more = s->listed >= PAGE;
	if (r == STORE_OK && s->count && !s->bitmap)
		code = make_bitmap(s);
	if (code < 0)
		return store_error_local(error, code, "entries");
	for (unsigned i = 0; r == STORE_OK && i < s->count; i++)
		r = sweep_one(s, s->hash[i], error);
	return r;
}

void parts_sweep(struct region *region)
{
	AUTO_FREE struct sweep *s = calloc(1, sizeof(*s));
	struct store_error error = {0};
	enum store_result r = STORE_OK;
	bool more = true;

	if (!s || !region_begin(region, REGION_WRITE))
		return;
	s->region = region;
	s->before_ms = clock_realtime_ms() + store_clock_skew_ms(region->store) - OLD_MS;
	while (r == STORE_OK && more)
		r = sweep_page(s, &more, &error);
	region_end(region, REGION_WRITE, r, &error, "hashes of parts");
	free(s->bitmap);
	if (s->removed)
		log_info(
			"removed hashes of parts of contents that are no more region=%s count=%llu",
			region->name, (unsigned long long)s->removed);
}
