/*
 * The clean-up of the trash.
 *
 * What goes. A copy that is older than keep_ms by everything that tells its age: the store's
 * Last-Modified, and the stamp of the removal in its key. What the time is says the store alone: the
 * Last-Modified of the lease that was just put, so that no wrong clock of this server makes everything
 * old at once. A key that is not exactly of the trash's form stays.
 *
 * What stays though it is old. The trash is where content is looked for that has no object of its own:
 * that of a file which was renamed before its content ever came to the server that renamed it, on whose
 * former name somebody wrote meanwhile (body.c, lost.c). So the hashes of a batch of old copies are looked
 * up among all files that are there; those of which the region's object is not found by HEAD to hold that
 * content (of very many: not known to) keep their copy until the next time.
 *
 * Cost. A listing of the trash, not of the bucket, every interval_ms, by one server (lease.h); one pass
 * over the entries for each BATCH copies that are old; one request a removal. A step removes CHUNK at
 * most, so that what else its thread does goes on.
 *
 * Memory: BATCH keys in BYTES_MAX bytes, and ASK_MAX of files whose object is asked for.
 *
 * Lock: lock (a leaf) guards status; the rest is the one thread's.
 */
#include "replicator/trash.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cache/dump.h"
#include "cache/object_seen.h"
#include "replicator/lease.h"
#include "replicator/object_copy.h"
#include "replicator/object_key.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum {
	BATCH = 20000,
	BYTES_MAX = 8 << 20,
	CHUNK = 1000,
	ROWS = 50000, /* entries that are read in one view */
	ASK_MAX = 1000,
	BUSY_MS = 60000, /* the region failed, or another server is at it */
};

struct copy {
	uint8_t hash[SHA256_SIZE];
	uint32_t at; /* of key and ETag, each with its NUL, in text */
	bool needed;
};

struct cleaning {
	struct lease lease;
	int64_t next_look_ms; /* monotonic */
	struct trash_status status;
};

struct trash {
	struct trash_options o;
	struct cleaning region[REGION_MAX];
	struct mutex lock;

	/* The region under way; its lease is held. */
	bool busy;
	unsigned index;
	int64_t before_ms; /* copies of that time are old */
	struct copy *copy; /* BATCH; in order of hash */
	unsigned count;
	unsigned next; /* to be removed */
	struct buf text;
	char last[STORE_KEY_MAX + 1]; /* listed */
	bool listed;		      /* to the end */
	uint64_t removed, needed;
};

int trash_new(const struct trash_options *o, struct trash **ret)
{
	struct trash *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->o = *o;
	t->text.max = BYTES_MAX;
	for (unsigned i = 0; i < o->regions->count; i++)
		t->region[i].lease = (struct lease){.cache = o->regions->cache,
			.region = &o->regions->region[i],
			.key = TRASH_LEASE};
	mutex_init(&t->lock, LOCK_RANK_LEAF);
	*ret = t;
	return 0;
}

void trash_free(struct trash *t)
{
	if (!t)
		return;
	buf_done(&t->text);
	free(t->copy);
	mutex_done(&t->lock);
	free(t);
}

void trash_status(struct trash *t, unsigned index, struct trash_status *ret)
{
	mutex_lock(&t->lock);
	*ret = t->region[index].status;
	mutex_unlock(&t->lock);
}

static struct region *region_of(const struct trash *t)
{
	return &t->o.regions->region[t->index];
}

/* ---- listing ---- */

/* .meridian/trash/<64 hex>/<stamp>/<path>. */
static bool parse_key(const char *key, uint8_t hash[SHA256_SIZE], struct stamp *removed)
{
	const char *p = key + strlen(TRASH_PREFIX);
	char hex[SHA256_HEX_SIZE], stamp[STAMP_TEXT_SIZE];

	if (strlen(p) < sizeof(hex) + sizeof(stamp) || p[sizeof(hex) - 1] != '/' ||
		p[sizeof(hex) + sizeof(stamp) - 1] != '/')
		return false;
	memcpy(hex, p, sizeof(hex) - 1);
	hex[sizeof(hex) - 1] = '\0';
	memcpy(stamp, p + sizeof(hex), sizeof(stamp) - 1);
	stamp[sizeof(stamp) - 1] = '\0';
	return hex_decode(hex, hash, SHA256_SIZE) && stamp_parse(stamp, removed);
}

static int list_copy(void *ctx, const char *key, const struct store_object *object)
{
	struct trash *t = ctx;
	struct copy *c = &t->copy[t->count];
	size_t len = strlen(key), at = t->text.len;
	struct stamp removed;

	if (t->count == BATCH || t->text.len + len + STORE_ETAG_SIZE + 2 > BYTES_MAX) {
		t->listed = false;
		return 1;
	}
	if (len >= sizeof(t->last))
		return 0;
	memcpy(t->last, key, len + 1);
	if (!parse_key(key, c->hash, &removed) || object->mtime_ms <= 0 ||
		object->mtime_ms >= t->before_ms || (int64_t)hlc_ms(removed.time) >= t->before_ms)
		return 0;
	buf_put(&t->text, key, len + 1);
	buf_put(&t->text, object->etag, strlen(object->etag) + 1);
	if (t->text.failed)
		return 1;
	c->at = (uint32_t)at;
	c->needed = false;
	t->count++;
	return 0;
}

static int by_hash(const void *x, const void *y)
{
	return memcmp(((const struct copy *)x)->hash, ((const struct copy *)y)->hash, SHA256_SIZE);
}

static bool list_batch(struct trash *t)
{
	struct region *r = region_of(t);
	struct store_call call = region_call(r, 0);
	struct store_error error = {0};
	char after[STORE_KEY_MAX + 1];

	memcpy(after, t->last, sizeof(after));
	buf_clear(&t->text);
	t->count = t->next = 0;
	t->listed = true;
	enum store_result result = store_list(
		r->store, TRASH_PREFIX, after[0] ? after : NULL, 0, list_copy, t, &call, &error);
	region_end(r, REGION_READ, result, &error, "list the trash");
	if (result != STORE_OK || t->text.failed)
		return false;
	qsort(t->copy, t->count, sizeof(*t->copy), by_hash);
	return true;
}

/* ---- what is needed ---- */

struct search {
	struct trash *t;
	struct conn *conn;
	struct key last;
	unsigned rows;
	struct buf asked; /* keys, as varint length and bytes */
	unsigned count;
};

static struct copy *find(struct trash *t, const uint8_t hash[SHA256_SIZE])
{
	unsigned low = 0, high = t->count;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (memcmp(t->copy[middle].hash, hash, SHA256_SIZE) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < t->count && memcmp(t->copy[low].hash, hash, SHA256_SIZE) == 0 ? &t->copy[low]
										   : NULL;
}

static void need(struct trash *t, const uint8_t hash[SHA256_SIZE])
{
	for (struct copy *c = find(t, hash);
		c && c < t->copy + t->count && memcmp(c->hash, hash, SHA256_SIZE) == 0; c++)
		c->needed = true;
}

/* Whether this server knows the region's object at key to be that version. */
static int is_there(struct search *x, struct slice key, const struct entry *e, bool *ret)
{
	char name[STORE_KEY_MAX + 1];
	struct object_seen seen;

	*ret = false;
	if (object_key_from_path(key, false, name))
		return 0;
	int r = object_seen_get(x->conn, region_of(x->t)->id, name, &seen);
	*ret = r == 0 && seen.tag && stamp_cmp(seen.stamp, e->content_stamp) == 0;
	return r == -ENOENT ? 0 : r;
}

static int look_up(void *ctx, struct slice key, const struct entry *e)
{
	struct search *x = ctx;
	const struct copy *c;
	bool there;

	if (!key_set(&x->last, key))
		return -EIO;
	if (e->kind == KIND_FILE && e->size && (c = find(x->t, e->hash)) && !c->needed) {
		if (x->count++ < ASK_MAX) {
			buf_put_bytes(&x->asked, key.p, key.len);
		} else {
			int r = is_there(x, key, e, &there);
			if (r < 0)
				return r;
			if (!there)
				need(x->t, e->hash);
		}
	}
	return ++x->rows == ROWS;
}

/* Of a file that is still there: its copy stays unless the region has its object. False: no answer. */
static bool ask(struct search *x, struct slice key, const struct entry *e)
{
	struct region *r = region_of(x->t);
	struct store_call call = region_call(r, 0);
	struct store_error error = {0};
	struct store_object object;
	char name[STORE_KEY_MAX + 1];
	bool has = false;

	if (object_key_from_path(key, false, name)) {
		need(x->t, e->hash);
		return true;
	}
	enum store_result result = object_has(r->store, name, e, &has, &object, &call, &error);
	region_end(r, REGION_READ, result, &error, "head object");
	if (result != STORE_OK)
		return false;
	if (!has)
		need(x->t, e->hash);
	return true;
}

/* 0, -EAGAIN (the region did not answer), or a local failure. */
static int ask_all(struct search *x)
{
	struct reader reader = reader_of(x->asked.data, x->asked.len);
	int r = x->asked.failed ? -ENOMEM : 0;

	while (r == 0 && reader_left(&reader)) {
		CLEANUP(entry_done) struct entry e = {0};
		struct slice key;
		struct conn *conn;

		key.p = (const char *)reader_bytes(&reader, KEY_MAX, &key.len);
		CHECK(!reader.failed);
		r = cache_read_begin(x->t->o.regions->cache, &conn);
		if (r < 0)
			break;
		r = entry_get(conn, key, &e);
		cache_read_end(conn);
		if (r == 0 && e.kind == KIND_FILE && !ask(x, key, &e))
			r = -EAGAIN;
		else if (r == -ENOENT)
			r = 0;
	}
	return r;
}

/* Marks those of the batch that are needed. */
static int find_needed(struct trash *t)
{
	AUTO_FREE struct search *x = calloc(1, sizeof(*x));
	int r = x ? 1 : -ENOMEM;

	if (x)
		x->t = t;
	while (r == 1 && t->count && !atomic_load(&t->o.regions->cancel)) {
		r = cache_read_begin(t->o.regions->cache, &x->conn);
		if (r < 0)
			break;
		x->rows = 0;
		r = dump_entries_after(x->conn, key_slice(&x->last), look_up, x);
		cache_read_end(x->conn);
	}
	if (r == 0)
		r = ask_all(x);
	if (x)
		buf_done(&x->asked);
	return r == 1 ? (t->count ? -EAGAIN : 0) : r;
}

/* ---- removing ---- */

/* False: no further now. */
static bool remove_some(struct trash *t, bool *did)
{
	struct region *r = region_of(t);
	bool conditional = atomic_load(&r->store->capabilities) & STORE_CAP_DELETE_IF_MATCH;

	for (unsigned n = 0; t->next < t->count && n < CHUNK; n++, t->next++) {
		const struct copy *c = &t->copy[t->next];
		const char *key = (const char *)t->text.data + c->at;
		const char *etag = key + strlen(key) + 1;
		struct store_call call = region_call(r, 0);
		struct store_error error = {0};

		if (c->needed) {
			t->needed++;
			continue;
		}
		if (atomic_load(&t->o.regions->cancel) || !lease_keep(&t->region[t->index].lease))
			return false;
		enum store_result result = store_remove(
			r->store, key, conditional && etag[0] ? etag : NULL, &call, &error);
		region_end(r, REGION_WRITE, result, &error, "remove from the trash");
		/* Put there anew meanwhile: it has its time before it. */
		if (result == STORE_PRECONDITION || result == STORE_ABSENT)
			continue;
		if (result != STORE_OK)
			return false;
		t->removed++;
		metric_add(METRIC_TRASH_REMOVED, 1);
		*did = true;
	}
	return true;
}

/* ---- the step ---- */

static void end(struct trash *t, bool finished)
{
	struct cleaning *c = &t->region[t->index];
	int64_t now = clock_monotonic_ms();

	if (finished)
		c->lease.finished_ms = lease_now_ms(&c->lease);
	lease_give(&c->lease);
	c->next_look_ms = now + (finished ? t->o.look_ms : BUSY_MS);
	mutex_lock(&t->lock);
	c->status.finished_ms = c->lease.finished_ms;
	c->status.removed += t->removed;
	c->status.needed = t->needed;
	mutex_unlock(&t->lock);
	if (t->removed || t->needed)
		log_info("trash cleaned region=%s removed=%" PRIu64 " needed=%" PRIu64
			 " complete=%s",
			region_of(t)->name, t->removed, t->needed, finished ? "yes" : "no");
	free(t->copy);
	t->copy = NULL;
	buf_done(&t->text);
	t->text.max = BYTES_MAX;
	t->busy = false;
}

/* The store's time, by what it says of the lease that was put just now; 0: not known. */
static int64_t time_of_lease(struct region *r)
{
	struct store_call call = region_call(r, 0);
	struct store_object object = {0};
	struct store_error error = {0};
	enum store_result result = store_head(r->store, TRASH_LEASE, &object, NULL, &call, &error);

	region_end(r, REGION_READ, result, &error, "head a lease");
	return result == STORE_OK ? object.mtime_ms : 0;
}

static bool is_time(struct trash *t, unsigned index)
{
	struct cleaning *c = &t->region[index];
	int64_t now = clock_monotonic_ms();
	bool taken;

	if (now < c->next_look_ms || !region_up(c->lease.region, REGION_WRITE))
		return false;
	c->next_look_ms = now + t->o.look_ms;
	if (!lease_read(&c->lease, &taken))
		return false;
	mutex_lock(&t->lock);
	c->status.finished_ms = c->lease.finished_ms;
	mutex_unlock(&t->lock);
	return !taken && (c->lease.finished_ms + t->o.interval_ms <= lease_now_ms(&c->lease) ||
				 /* of a clock that was wrong */
				 c->lease.finished_ms > lease_now_ms(&c->lease) + t->o.interval_ms);
}

/* Takes on a region where it is time. */
static int begin(struct trash *t)
{
	for (unsigned i = 0; i < t->o.regions->count && !t->busy; i++) {
		struct lease *lease = &t->region[i].lease;

		if (!is_time(t, i) || !lease_take(lease))
			continue;
		t->index = i;
		t->removed = t->needed = 0;
		t->count = t->next = 0;
		t->last[0] = '\0';
		t->listed = false;
		int64_t store = time_of_lease(lease->region), now = lease_now_ms(lease);
		t->before_ms = (store < now ? store : now) - t->o.keep_ms;
		t->copy = store > 0 ? calloc(BATCH, sizeof(*t->copy)) : NULL;
		t->busy = true;
		if (!t->copy)
			end(t, false);
		if (store > 0 && !t->copy && !t->busy)
			return -ENOMEM;
	}
	return 0;
}

int trash_step(struct trash *t, bool *did)
{
	*did = false;
	int r = t->busy ? 0 : begin(t);

	if (r < 0 || !t->busy)
		return r;
	if (t->next < t->count || !t->listed) {
		bool good = t->next < t->count || list_batch(t);

		if (good && t->next == 0)
			r = find_needed(t);
		if (r == 0 && good && remove_some(t, did))
			return 0;
		end(t, false);
		return r == -EAGAIN ? 0 : r;
	}
	end(t, true);
	return 0;
}
