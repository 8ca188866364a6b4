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
#include "replicator/object_key.h"
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

/* 0, -EAGAIN (absent there, or other bytes), -EHOSTDOWN, or a local failure. */
static int download(struct body *b, struct region *from, const char *key,
	const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	struct download d = {.w = &b->spool, .size = size};
	struct store_sink sink = {.write = download_write, .reset = download_reset, .ctx = &d};
	struct store_call call = region_call(from, size);
	struct store_error error = {0};
	uint8_t got[SHA256_SIZE];

	int r = content_restart(&b->spool);
	if (r < 0)
		return r;
	sha256_init(&d.hash);
	enum store_result result =
		store_get(from->store, key, 0, 0, NULL, &sink, NULL, NULL, &call, &error);
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
		metric_add(METRIC_OBJECTS_CORRUPT, 1);
		return -EAGAIN;
	}
	return 0;
}

/* Home first; regions that are down come in the second round, which also makes their check if it is
 * due, so that a dead region does not delay a download that another one can serve. */
int body_fetch(struct body *b, struct regions *all, const struct region * not, struct slice key,
	const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	char name[STORE_KEY_MAX + 1];
	bool asked[REGION_MAX] = {false};
	int outcome = -EIO;

	int r = object_key_from_path(key, false, name);
	if (r < 0)
		return r;
	b->cache = all->cache;
	if (!b->spooled) {
		r = content_begin(all->cache, &b->spool);
		if (r < 0)
			return r;
		b->spooled = true;
	}
	for (unsigned step = 0; step < 4 * all->count; step++) {
		struct region *from = &all->region[step % all->count];
		bool home = (step / all->count) % 2 == 0, later = step >= 2 * all->count;

		if (from == not || asked[step % all->count] || from->home != home)
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
	}
	return outcome;
}

/* ---- content that was renamed before it was ever here ---- */

enum { CANDIDATES_MAX = 32, OTHER_NAMES_MAX = 8, LISTED_MAX = 20000, BEFORE_MS = 3600000 };

#define TRASH_PREFIX ".meridian/trash/"

struct search {
	struct slice name; /* last component of the key */
	uint64_t size;
	char until[64]; /* trash of later removals cannot be of this rename */
	char *found[CANDIDATES_MAX];
	unsigned count;
	unsigned others;
	unsigned listed;
};

static void search_done(struct search *s)
{
	for (unsigned i = 0; i < s->count; i++)
		free(s->found[i]);
}

static int add_candidate(void *ctx, const char *key, const struct store_object *object)
{
	struct search *s = ctx;
	const char *slash = strrchr(key, '/');

	if (++s->listed > LISTED_MAX || s->count == CANDIDATES_MAX ||
		strncmp(key, s->until, strlen(s->until)) > 0)
		return 1;
	if (object->size != s->size || !slash)
		return 0;
	if (!slice_equal(slice_of(slash + 1), s->name) && s->others++ >= OTHER_NAMES_MAX)
		return 0;
	s->found[s->count] = strdup(key);
	if (!s->found[s->count])
		return 1;
	s->count++;
	return 0;
}

static bool has_hash(struct region *from, const char *key, const uint8_t hash[SHA256_SIZE])
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_call call = region_call(from, 0);
	struct store_error error = {0};
	char hex[SHA256_HEX_SIZE];

	if (store_head(from->store, key, NULL, &meta, &call, &error) != STORE_OK)
		return false;
	const char *theirs = store_meta_get(&meta, "meridian-sha256");
	hex_encode(hash, SHA256_SIZE, hex);
	return theirs && strcmp(theirs, hex) == 0;
}

static int fetch_trash(
	struct body *b, struct region *from, const struct entry *entry, struct slice key)
{
	CLEANUP(search_done) struct search s = {.name = key_name(key), .size = entry->size};
	struct stamp stamp = {.time = entry->content_stamp.time};
	struct store_call call = region_call(from, 0);
	struct store_error error = {0};
	char text[STAMP_TEXT_SIZE], after[64];

	stamp_format(stamp, text);
	snprintf(s.until, sizeof(s.until), TRASH_PREFIX "%.16s", text);
	stamp.time -= hlc_ms(stamp.time) > BEFORE_MS ? (uint64_t)BEFORE_MS << 16 : 0;
	stamp_format(stamp, text);
	snprintf(after, sizeof(after), TRASH_PREFIX "%.16s", text);
	enum store_result result =
		store_list(from->store, TRASH_PREFIX, after, 0, add_candidate, &s, &call, &error);
	region_end(from, REGION_READ, result, &error, "list trash");
	for (unsigned i = 0; result == STORE_OK && i < s.count; i++) {
		if (!has_hash(from, s.found[i], entry->hash))
			continue;
		int r = download(b, from, s.found[i], entry->hash, entry->size);
		if (r != -EAGAIN && r != -EHOSTDOWN)
			return r;
	}
	return -EAGAIN;
}

int body_fetch_moved(
	struct body *b, struct regions *all, struct slice key, const struct entry *entry)
{
	for (unsigned i = 0; i < all->count; i++) {
		if (!region_up(&all->region[i], REGION_READ))
			continue;
		int r = b->spooled ? fetch_trash(b, &all->region[i], entry, key) : -EAGAIN;
		if (r != -EAGAIN)
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
