/*
 * Where the bytes of a file come from when they are to be sent, and the one download routine, which
 * the fetch pool uses too.
 *
 * A download is never trusted: it is cut off when it grows over the promised size, and it counts
 * only when its SHA-256 is the promised one. An object whose bytes differ is a newer or older
 * version as long as nobody knows better, so that is "not here now" and not an error of the region.
 */
#include "replicator/body.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/project.h"
#include "cache/tree.h"
#include "replicator/delta.h"
#include "replicator/object.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

static ssize_t read_local(void *ctx, uint64_t offset, void *p, size_t n)
{
	struct body *b = ctx;
	ssize_t got = content_read(b->reader, p, n, offset);

	/* A file that became shorter than it was sealed is another version. */
	return got == 0 ? -ESTALE : got;
}

static ssize_t read_spooled(void *ctx, uint64_t offset, void *p, size_t n)
{
	struct body *b = ctx;
	ssize_t got = pread(b->spool.fd, p, n, (off_t)offset);

	return got < 0 ? -errno : got == 0 ? -EIO : got;
}

/* The content of the name, or of the file that a directory of its name hides. */
static int open_content(struct body *b, struct slice key, const struct entry *entry)
{
	struct inode inode;
	struct conn *conn;
	uint64_t ino = 0;

	int r = tree_resolve(b->cache, key, &inode);
	if (r == 0 && (inode.mode & S_IFMT) == S_IFREG)
		return content_open(b->cache, inode.ino, entry->hash, &b->reader);
	r = cache_read_begin(b->cache, &conn);
	if (r < 0)
		return r;
	r = project_hidden_ino(conn, key, entry->hash, &ino);
	cache_read_end(conn);
	return r < 0 ? r : content_open(b->cache, ino, entry->hash, &b->reader);
}

int body_open_local(struct body *b, struct cache *c, struct inline_cache *inline_cache,
	struct slice key, const struct entry *entry, struct store_source *ret)
{
	b->cache = c;
	if (entry->size == 0 || (inline_cache_get(inline_cache, entry->hash, &b->bytes) &&
					b->bytes.len == entry->size)) {
		b->memory = (struct store_memory){b->bytes.data, entry->size ? b->bytes.len : 0};
		*ret = store_source_memory(&b->memory);
		return 0;
	}
	int r = open_content(b, key, entry);
	if (r < 0)
		return r == -ENOMEM || r == -EIO ? r : -EAGAIN;
	if (content_size(b->reader) != entry->size)
		return -EAGAIN;
	*ret = (struct store_source){.size = entry->size, .read = read_local, .ctx = b};
	return 0;
}

struct download {
	struct content_writer *w;
	struct sha256 hash;
	uint64_t size; /* promised */
	bool other;    /* it is larger */
};

static int download_write(void *ctx, const void *p, size_t n)
{
	struct download *d = ctx;

	if (n > d->size - d->w->size) {
		d->other = true;
		return -EFBIG;
	}
	sha256_update(&d->hash, p, n);
	return content_append(d->w, p, n);
}

static int download_reset(void *ctx)
{
	struct download *d = ctx;

	sha256_done(&d->hash);
	sha256_init(&d->hash);
	return content_restart(d->w);
}

/* The object says itself that it has the wanted content. One whose metadata are of another version, because a
 * copy of them came late, does not. */
static bool promises(const struct store_meta *meta, const char *etag, const uint8_t hash[SHA256_SIZE],
	uint64_t size)
{
	CLEANUP(object_entry_done) struct object_entry e = {0};

	return object_meta_is_whole(meta, etag) && object_meta_to_entry(meta, size, false, &e) == 0 &&
	       e.entry.kind == KIND_FILE && memcmp(e.entry.hash, hash, SHA256_SIZE) == 0;
}

static void note_wrong(struct region *from, const char *key)
{
	atomic_fetch_add(&from->wrong_bytes, 1);
	metric_add(METRIC_OBJECTS_CORRUPT, 1);
	log_error("an object has wrong bytes: thrown away region=%s key=\"%s\"", from->name, key);
}

/* 0, -EAGAIN (absent there, or other bytes), -EHOSTDOWN, or a local failure. */
static int download(struct body *b, struct region *from, const char *key,
	const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	struct download d = {.w = &b->spool, .size = size};
	struct store_sink sink = {.write = download_write, .reset = download_reset, .ctx = &d};
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_call call = region_call(from, size);
	struct store_object object = {0};
	struct store_error error = {0};
	uint8_t got[SHA256_SIZE];

	int r = content_restart(&b->spool);
	if (r < 0)
		return r;
	sha256_init(&d.hash);
	enum store_result result =
		store_get(from->store, key, 0, 0, NULL, &sink, &object, &meta, &call, &error);
	sha256_final(&d.hash, got);
	if (result == STORE_LOCAL && d.other)
		return -EAGAIN;
	region_end(from, REGION_READ, result, &error, "get object");
	if (result == STORE_ABSENT)
		return -EAGAIN;
	if (result == STORE_LOCAL)
		return error.local_errno ? -error.local_errno : -EIO;
	if (result != STORE_OK)
		return -EHOSTDOWN;
	if (d.w->size != size || memcmp(got, hash, SHA256_SIZE) != 0) {
		/* It may be an older version, and what came since be here. */
		r = delta_follow(b->cache, got, hash, size, &b->spool);
		if (r != -EAGAIN)
			return r;
		if (promises(&meta, object.etag, hash, size))
			note_wrong(from, key);
		return -EAGAIN;
	}
	return 0;
}

static int begin_spool(struct body *b, struct regions *all)
{
	b->cache = all->cache;
	if (b->spooled)
		return 0;
	int r = content_begin(all->cache, &b->spool);
	if (r == 0)
		b->spooled = true;
	return r;
}

/* In order of preference; regions that are down come in the second round, which also makes their check
 * if it is due, so that a dead region does not delay a download that another one can serve. */
int body_fetch(struct body *b, struct regions *all, const struct region *except, struct slice key,
	const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	char name[STORE_KEY_MAX + 1];
	bool asked[REGION_MAX] = {false};
	int outcome = -EIO;
	unsigned answers = except ? 1 : 0, order[REGION_MAX];

	int r = object_key_from_path(key, false, name);
	if (r == 0)
		r = begin_spool(b, all);
	if (r < 0)
		return r;
	regions_order(all, order);
	for (unsigned step = 0; step < 2 * all->count; step++) {
		struct region *from = &all->region[order[step % all->count]];
		bool later = step >= all->count;

		if (from == except || asked[step % all->count])
			continue;
		if (later ? !region_begin(from, REGION_READ) : !region_up(from, REGION_READ))
			continue;
		asked[step % all->count] = true;
		r = download(b, from, name, hash, size);
		if (r == 0)
			return 0;
		if (r == -EAGAIN)
			outcome = -EAGAIN;
		else if (r != -EHOSTDOWN)
			return r;
		answers += r == -EAGAIN;
	}
	b->unsure |= answers < all->count;
	return outcome;
}

/* ---- content that was renamed before it was ever here ---- */

/* Copies of the same content, of which one may be on its way out. */
enum { COPIES_MAX = 4 };

struct copies {
	char *key[COPIES_MAX];
	unsigned count;
};

static void copies_done(struct copies *c)
{
	for (unsigned i = 0; i < c->count; i++)
		free(c->key[i]);
}

static int add_copy(void *ctx, const char *key, const struct store_object *object)
{
	struct copies *c = ctx;

	c->key[c->count] = strdup(key);
	if (!c->key[c->count])
		return 1;
	return ++c->count == COPIES_MAX;
}

static int fetch_trash(struct body *b, struct region *from, const struct entry *entry)
{
	CLEANUP(copies_done) struct copies copies = {0};
	struct store_call call = region_call(from, 0);
	struct store_error error = {0};
	char prefix[OBJECT_TRASH_SIZE];

	object_trash_prefix(entry->hash, prefix);
	enum store_result result =
		store_list(from->store, prefix, NULL, COPIES_MAX, add_copy, &copies, &call, &error);
	region_end(from, REGION_READ, result, &error, "list trash");
	if (result != STORE_OK)
		return -EHOSTDOWN;
	for (unsigned i = 0; i < copies.count; i++) {
		int r = download(b, from, copies.key[i], entry->hash, entry->size);
		if (r != -EAGAIN)
			return r;
	}
	return -EAGAIN;
}

int body_fetch_moved(
	struct body *b, struct regions *all, struct slice from_key, const struct entry *entry)
{
	int r = begin_spool(b, all);

	if (r == 0 && from_key.len)
		r = body_fetch(b, all, NULL, from_key, entry->hash, entry->size);
	else if (r == 0)
		r = -EAGAIN;
	if (r != -EAGAIN && r != -EIO)
		return r;
	for (unsigned i = 0; i < all->count; i++) {
		if (!region_up(&all->region[i], REGION_READ)) {
			b->unsure = true;
			continue;
		}
		r = fetch_trash(b, &all->region[i], entry);
		b->unsure |= r == -EHOSTDOWN;
		if (r != -EAGAIN && r != -EHOSTDOWN)
			return r;
	}
	return -EAGAIN;
}

struct store_source body_spooled(struct body *b)
{
	return (struct store_source){.size = b->spool.size, .read = read_spooled, .ctx = b};
}

void body_done(struct body *b)
{
	content_close(b->reader);
	buf_done(&b->bytes);
	if (b->spooled)
		content_discard(b->cache, &b->spool);
	*b = (struct body){0};
}
