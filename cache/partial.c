/*
 * Partial content: the table of what there is, its maps, and how it becomes content (partial.h).
 *
 *   partial/<ino>      16 hexadecimal digits; has the file's size from the start, with holes
 *   partial/<ino>.map  struct map_head, then one bit for each block, the first in the lowest bit; then, once
 *                      they are known, SHA256_SIZE bytes for each block
 *
 * A map is made before its file and read by this machine only. A block's bit is set after its bytes
 * were written, and both reach the page cache in that order: a killed process loses at most the newest bits.
 * A power cut may keep a bit without its bytes, so after one everything here is dropped. For the same
 * reason the bytes are flushed before the inode's row says that its content is here: the file had
 * its full size all the while, by which recovery could not tell.
 *
 * Bytes of a block are written by whoever has all of them (filling counts those), and not while the blocks
 * become the content (finishing), to which an application may write next, or while hashes of parts come to be
 * known (taking). Once they are known only bytes that were compared are written: what two threads write of
 * one block is the same. So when all blocks are here nothing is left to compare: the hash of the whole would
 * only tell again that each is what the list of hashes says; what ties that list to the version is in
 * replicator/parts.c.
 *
 * What is read at the start is not trusted: a map that is not what this program would have written for
 * the inode's row is removed with its file.
 *
 * Entries stay in the table until they are done or gone; without references they have neither
 * descriptors nor a map in memory. Locks: partials.lock guards the table, reference counts and the files'
 * names; a partial's own lock (a leaf) its map, have and the hashing.
 */
#include "cache/partial_entry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cache/content_parts.h"
#include "src/base/io.h"

/* ---- the table ---- */

struct partials *partials_new(uint64_t block)
{
	struct partials *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	mutex_init(&t->lock, LOCK_RANK_PARTIAL);
	t->dir_fd = -1;
	t->block = block ? block : PARTIAL_BLOCK;
	return t;
}

void partial_close_files(struct partial *p)
{
	cleanup_close(&p->fd);
	cleanup_close(&p->map_fd);
	p->fd = p->map_fd = -1;
	free(p->map);
	p->map = NULL;
	if (p->sha_begun)
		sha256_done(&p->sha);
	p->sha_begun = false;
	p->hashed = 0;
}

void partial_entry_free(struct partial *p)
{
	partial_close_files(p);
	mutex_done(&p->lock);
	free(p);
}

void partials_free(struct partials *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < PARTIAL_BUCKETS; i++) {
		while (t->buckets[i]) {
			struct partial *p = t->buckets[i];

			t->buckets[i] = p->next;
			partial_entry_free(p);
		}
	}
	cleanup_close(&t->dir_fd);
	mutex_done(&t->lock);
	free(t);
}

void partial_data_name(uint64_t ino, char name[PARTIAL_NAME_SIZE])
{
	snprintf(name, PARTIAL_NAME_SIZE, "%016llx", (unsigned long long)ino);
}

void partial_map_name(uint64_t ino, char name[PARTIAL_NAME_SIZE])
{
	snprintf(name, PARTIAL_NAME_SIZE, "%016llx.map", (unsigned long long)ino);
}

static struct partial **find(struct partials *t, uint64_t ino)
{
	struct partial **at = &t->buckets[ino % PARTIAL_BUCKETS];

	while (*at && (*at)->ino != ino)
		at = &(*at)->next;
	return at;
}

static bool is_set(const struct partial *p, uint64_t block)
{
	return p->map[block / 8] >> (block % 8) & 1;
}

struct partial *partial_entry_new(
	struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	struct partial *p = calloc(1, sizeof(*p));
	struct content_parts parts;

	if (!p)
		return NULL;
	p->all = c->partials;
	p->cache = c;
	p->ino = ino;
	p->size = size;
	p->block = c->partials->block;
	if (content_parts_of(c, size, &parts)) {
		p->block = UINT64_C(1) << parts.part_bits;
		p->hash_bits = parts.block_bits;
	}
	p->blocks = size / p->block + (size % p->block != 0);
	memcpy(p->hash, hash, SHA256_SIZE);
	p->fd = p->map_fd = -1;
	mutex_init(&p->lock, LOCK_RANK_LEAF);
	return p;
}

void partial_list(struct partial *p)
{
	struct partial **at = &p->all->buckets[p->ino % PARTIAL_BUCKETS];

	p->next = *at;
	*at = p;
	p->listed = true;
	atomic_fetch_add(&p->all->files, 1);
	atomic_fetch_add(&p->all->bytes, p->have_bytes);
}

void partial_unlist(struct partial *p, enum partial_state state, int *fd)
{
	struct partials *t = p->all;
	char name[PARTIAL_NAME_SIZE];

	*fd = -1;
	if (!p->listed)
		return;
	*find(t, p->ino) = p->next;
	p->listed = false;
	partial_data_name(p->ino, name);
	if (state == PARTIAL_GONE) {
		*fd = openat(t->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		unlinkat(t->dir_fd, name, 0);
	}
	partial_map_name(p->ino, name);
	unlinkat(t->dir_fd, name, 0);
	mutex_lock(&p->lock);
	atomic_fetch_sub(&t->files, 1);
	atomic_fetch_sub(&t->bytes, p->have_bytes);
	atomic_store(&p->state, state);
	mutex_unlock(&p->lock);
}

/* ---- maps ---- */

/* Whether the head is p's; its used is taken. */
static bool head_fits(struct partial *p, const struct map_head *h)
{
	if (memcmp(h->magic, PARTIAL_MAGIC, sizeof(h->magic)) != 0 || h->ino != p->ino ||
		h->size != p->size || h->block != p->block || h->used > INT64_MAX ||
		h->parts > 1 || (h->parts == 1 && !p->hash_bits) ||
		memcmp(h->hash, p->hash, SHA256_SIZE) != 0)
		return false;
	p->used = h->used;
	p->parts = h->parts == 1;
	return true;
}

static void count_blocks(struct partial *p)
{
	p->have = p->have_bytes = 0;
	for (uint64_t b = 0; b < p->blocks; b++) {
		if (!is_set(p, b))
			continue;
		p->have++;
		p->have_bytes += partial_block_bytes(p, b);
	}
}

int partial_read_map(struct partial *p)
{
	size_t n = partial_map_bytes(p);
	char name[PARTIAL_NAME_SIZE];
	struct map_head head;
	struct stat st;

	partial_map_name(p->ino, name);
	p->map_fd = openat(p->all->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	partial_data_name(p->ino, name);
	p->fd = openat(p->all->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (p->map_fd < 0 || p->fd < 0)
		return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? -errno : -EBADMSG;
	if (fstat(p->fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != p->size)
		return -EBADMSG;
	if (fstat(p->map_fd, &st) != 0 || !S_ISREG(st.st_mode) ||
		(uint64_t)st.st_size < sizeof(head) + n)
		return -EBADMSG;
	p->map = malloc(n);
	if (!p->map)
		return -ENOMEM;
	if (pread(p->map_fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
		pread(p->map_fd, p->map, n, sizeof(head)) != (ssize_t)n || !head_fits(p, &head))
		return -EBADMSG;
	if (p->blocks % 8 && p->map[n - 1] >> (p->blocks % 8))
		return -EBADMSG; /* blocks behind the end */
	if ((uint64_t)st.st_size != partial_hash_at(p, p->parts ? p->blocks : 0))
		return -EBADMSG;
	count_blocks(p);
	return 0;
}

/* With the table's lock, for the first reference. */
static int reload(struct partial *p)
{
	uint64_t before = p->have_bytes;
	int r = partial_read_map(p);

	if (r == -EBADMSG)
		p->have_bytes = before; /* what its end takes off the sum */
	if (r) {
		partial_close_files(p);
		return r;
	}
	atomic_fetch_add(&p->all->bytes, p->have_bytes - before);
	return 0;
}

static int create(struct partial *p)
{
	struct map_head head = {.ino = p->ino, .size = p->size, .block = p->block};
	size_t n = partial_map_bytes(p);
	char name[PARTIAL_NAME_SIZE];

	memcpy(head.magic, PARTIAL_MAGIC, sizeof(head.magic));
	memcpy(head.hash, p->hash, SHA256_SIZE);
	head.used = p->used = atomic_load(&p->cache->tick);
	p->map = calloc(1, n);
	if (!p->map)
		return -ENOMEM;
	partial_map_name(p->ino, name);
	p->map_fd = openat(
		p->all->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (p->map_fd < 0)
		return -errno;
	/* Written, so that a bit never lacks space. */
	if (pwrite(p->map_fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
		pwrite(p->map_fd, p->map, n, sizeof(head)) != (ssize_t)n)
		return errno ? -errno : -EIO;
	partial_data_name(p->ino, name);
	p->fd = openat(
		p->all->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (p->fd < 0 || ftruncate(p->fd, (off_t)p->size) != 0)
		return -errno;
	return 0;
}

void partial_remove_files(struct partials *t, uint64_t ino)
{
	char name[PARTIAL_NAME_SIZE];

	partial_data_name(ino, name);
	unlinkat(t->dir_fd, name, 0);
	partial_map_name(ino, name);
	unlinkat(t->dir_fd, name, 0);
}

/* ---- references ---- */

/* With the table's lock. */
static struct partial *least_used(struct partials *t, uint64_t before)
{
	struct partial *found = NULL;

	for (unsigned i = 0; i < PARTIAL_BUCKETS; i++) {
		for (struct partial *p = t->buckets[i]; p; p = p->next) {
			if (p->refs == 0 && p->used <= before && (!found || p->used < found->used))
				found = p;
		}
	}
	return found;
}

/* With the table's lock. Drops one that nobody refers to. */
static void drop(struct partial *p, int *fd)
{
	partial_unlist(p, PARTIAL_GONE, fd);
	partial_entry_free(p);
}

/* With the table's lock. */
static int get_locked(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t size,
	struct partial **ret, int *fd)
{
	struct partials *t = c->partials;
	struct partial *p = *find(t, ino);
	int r = 0;

	if (p && atomic_load(&p->installed)) {
		/* And evicted again before its thread came to say so. */
		partial_unlist(p, PARTIAL_DONE, fd);
		p = NULL;
	}
	if (p && p->refs > 0 && p->size == size && memcmp(p->hash, hash, SHA256_SIZE) == 0) {
		p->refs++;
		*ret = p;
		return 0;
	}
	if (p && p->refs > 0)
		partial_unlist(p, PARTIAL_GONE, fd);
	else if (p && (p->size != size || memcmp(p->hash, hash, SHA256_SIZE) != 0 ||
			      (r = reload(p)) == -EBADMSG))
		drop(p, fd);
	else if (p && r)
		return r;
	else if (p)
		goto found;
	if (atomic_load(&t->files) >= PARTIAL_MAX) {
		struct partial *old = least_used(t, UINT64_MAX);
		int old_fd = -1;

		if (!old)
			return -EMFILE;
		drop(old, &old_fd);
		cleanup_close(&old_fd);
	}
	p = partial_entry_new(c, ino, hash, size);
	r = p ? create(p) : -ENOMEM;
	if (r) {
		if (p)
			partial_entry_free(p);
		partial_remove_files(t, ino);
		return r;
	}
	partial_list(p);
found:
	p->refs = 1;
	*ret = p;
	return 0;
}

int partial_open(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t size,
	struct partial **ret)
{
	int fd = -1, r;

	if (size == 0 || size > INT64_MAX)
		return -ESTALE;
	r = content_check_reserve(c, size / c->partials->block / 8 + 4096);
	if (r)
		return r;
	mutex_lock(&c->partials->lock);
	r = get_locked(c, ino, hash, size, ret, &fd);
	mutex_unlock(&c->partials->lock);
	cleanup_close(&fd);
	return r;
}

int partial_get(struct cache *c, uint64_t ino, struct partial **ret)
{
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row;
	int r = conn_take_warm(c, &conn);

	if (!r)
		r = inode_get(conn, ino, &row);
	if (r)
		return r == -ENOENT ? -ESTALE : r;
	if (row.state == STATE_LOCAL)
		return -EALREADY;
	if (row.state != STATE_REMOTE || !row.has_hash || row.nlink == 0)
		return -ESTALE;
	conn_give(conn);
	conn = NULL;
	return partial_open(c, ino, row.hash, row.size, ret);
}

struct partial *partial_ref(struct partial *p)
{
	mutex_lock(&p->all->lock);
	p->refs++;
	mutex_unlock(&p->all->lock);
	return p;
}

void partial_put(struct partial *p)
{
	struct partials *t;
	bool gone;

	if (!p)
		return;
	t = p->all;
	mutex_lock(&t->lock);
	if (p->listed && p->refs == 1) {
		p->used = atomic_load(&p->cache->tick);
		/* Lost, it counts as used earlier. */
		if (pwrite(p->map_fd, &p->used, sizeof(p->used), offsetof(struct map_head, used)) <
			0)
			(void)0;
		partial_close_files(p);
	}
	gone = --p->refs == 0 && !p->listed;
	mutex_unlock(&t->lock);
	if (gone)
		partial_entry_free(p);
}

uint64_t partial_ino(const struct partial *p)
{
	return p->ino;
}

uint64_t partial_size(const struct partial *p)
{
	return p->size;
}

const uint8_t *partial_hash(const struct partial *p)
{
	return p->hash;
}

uint64_t partial_block(const struct partial *p)
{
	return p->block;
}

uint64_t partial_blocks(const struct partial *p)
{
	return p->blocks;
}

enum partial_state partial_state(struct partial *p)
{
	return (enum partial_state)atomic_load(&p->state);
}

int partial_fd(const struct partial *p)
{
	return p->fd;
}

/* ---- blocks ---- */

uint64_t partial_missing(struct partial *p, uint64_t from, uint64_t to)
{
	if (to > p->blocks)
		to = p->blocks;
	mutex_lock(&p->lock);
	while (from < to && is_set(p, from))
		from++;
	mutex_unlock(&p->lock);
	return from < to ? from : to;
}

bool partial_has(struct partial *p, uint64_t offset, uint64_t n)
{
	uint64_t end;

	if (offset >= p->size || n == 0)
		return true;
	end = n > p->size - offset ? p->size : offset + n;
	end = (end - 1) / p->block + 1;
	return partial_missing(p, offset / p->block, end) == end;
}

static int write_block(struct partial *p, uint64_t block, const void *bytes)
{
	uint64_t offset = block * p->block, n = partial_block_bytes(p, block);
	int r;

	if (content_stays_hole(p->fd, bytes, (size_t)n, offset))
		return 0;
	/* As for all that comes from elsewhere: what is written here keeps the reserve. */
	r = content_check_reserve(p->cache, n);
	return r ? r : io_write_at(p->fd, bytes, n, offset);
}

/* With the lock. */
static void mark(struct partial *p, uint64_t block)
{
	uint64_t at = block / 8;

	p->map[at] |= (uint8_t)(1U << (block % 8));
	p->have++;
	p->have_bytes += partial_block_bytes(p, block);
	if (atomic_load(&p->state) == PARTIAL_ACTIVE)
		atomic_fetch_add(&p->all->bytes, partial_block_bytes(p, block));
	/* Lost, the block is fetched again after a restart. */
	if (pwrite(p->map_fd, &p->map[at], 1, (off_t)(sizeof(struct map_head) + at)) < 0)
		(void)0;
}

int partial_fill(struct partial *p, uint64_t block, const void *bytes)
{
	bool compares, here;
	int r;

	CHECK(block < p->blocks);
	mutex_lock(&p->lock);
	here = is_set(p, block);
	compares = p->parts;
	r = !here && (p->taking || p->finishing) ? -EAGAIN : 0;
	p->filling += !here && !r;
	mutex_unlock(&p->lock);
	if (here || r)
		return r;
	if (compares)
		r = partial_compare(p, block, bytes);
	if (!r)
		r = write_block(p, block, bytes);
	mutex_lock(&p->lock);
	p->filling--;
	if (!r && !is_set(p, block))
		mark(p, block);
	mutex_unlock(&p->lock);
	return r;
}

/* ---- what others do to it ---- */

bool partial_known(struct cache *c, uint64_t ino)
{
	bool known;

	if (atomic_load(&c->partials->files) == 0)
		return false;
	mutex_lock(&c->partials->lock);
	known = *find(c->partials, ino) != NULL;
	mutex_unlock(&c->partials->lock);
	return known;
}

bool partial_remove(struct cache *c, uint64_t ino, bool unused, uint64_t *bytes)
{
	struct partials *t = c->partials;
	struct partial *p;
	bool removed;
	int fd = -1;

	if (atomic_load(&t->files) == 0)
		return false;
	mutex_lock(&t->lock);
	p = *find(t, ino);
	removed = p && !(unused && p->refs > 0);
	if (removed && bytes)
		*bytes = p->have_bytes;
	if (removed && p->refs == 0)
		drop(p, &fd);
	else if (removed)
		partial_unlist(p, PARTIAL_GONE, &fd);
	mutex_unlock(&t->lock);
	cleanup_close(&fd);
	return removed;
}

bool partial_evict(struct cache *c, uint64_t before, uint64_t *bytes)
{
	struct partials *t = c->partials;
	struct partial *p;
	int fd = -1;

	if (atomic_load(&t->files) == 0)
		return false;
	mutex_lock(&t->lock);
	p = least_used(t, before);
	if (p) {
		*bytes = p->have_bytes;
		drop(p, &fd);
	}
	mutex_unlock(&t->lock);
	cleanup_close(&fd);
	return p != NULL;
}

void partial_usage(struct cache *c, struct partial_usage *ret)
{
	*ret = (struct partial_usage){
		.files = atomic_load(&c->partials->files),
		.bytes = atomic_load(&c->partials->bytes),
	};
}
