/*
 * Partial content that is complete: its hash, and how it becomes the inode's content.
 *
 * Where each block was compared with its own hash there is nothing to hash any more (partial.c). Else blocks
 * are hashed in order while others arrive, from the page cache, by a thread that gives way to those that bring
 * them; what is left at the end is hashed then. One thread at a time has the hash (hashing), and one ends it
 * (finishing).
 */
#include "cache/partial_entry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define HASH_AHEAD 4 /* blocks by one call */

/* Takes up to max blocks more into the hash; the caller has set hashing. */
static int hash_blocks(struct partial *p, uint64_t max)
{
	size_t step = p->block < 256 << 10 ? (size_t)p->block : 256 << 10;
	uint8_t *buffer AUTO_FREE = malloc(step);

	if (!buffer)
		return -ENOMEM;
	if (!p->sha_begun)
		sha256_init(&p->sha);
	p->sha_begun = true;
	for (; max > 0 && p->hashed < p->blocks; max--) {
		uint64_t at = p->hashed * p->block, end = at + partial_block_bytes(p, p->hashed);

		if (partial_missing(p, p->hashed, p->hashed + 1) == p->hashed)
			return 0;
		while (at < end) {
			size_t n = end - at < step ? (size_t)(end - at) : step;
			ssize_t got = pread(p->fd, buffer, n, (off_t)at);

			if (got < 0 && errno == EINTR)
				continue;
			if (got <= 0) {
				/* Half a block is in it. */
				sha256_done(&p->sha);
				p->sha_begun = false;
				p->hashed = 0;
				return got < 0 ? -errno : -EIO;
			}
			sha256_update(&p->sha, buffer, (size_t)got);
			at += (uint64_t)got;
		}
		p->hashed++;
	}
	return 0;
}

static bool begin_hashing(struct partial *p)
{
	bool mine;

	mutex_lock(&p->lock);
	mine = !p->hashing;
	p->hashing |= mine;
	mutex_unlock(&p->lock);
	return mine;
}

void partial_begin_hashing(struct partial *p)
{
	while (!begin_hashing(p))
		clock_sleep_ms(1); /* a block or two */
}

static void end_hashing(struct partial *p)
{
	mutex_lock(&p->lock);
	p->hashing = false;
	mutex_unlock(&p->lock);
}

bool partial_hash_ahead(struct partial *p)
{
	uint64_t before;
	bool some;

	if (partial_state(p) != PARTIAL_ACTIVE || partial_has_parts(p) || !begin_hashing(p))
		return false;
	before = p->hashed;
	/* What fails here, partial_finish does again. */
	some = hash_blocks(p, HASH_AHEAD) == 0 && p->hashed > before;
	end_hashing(p);
	return some;
}

/* Bytes that are not of the version: nothing is kept. */
static void throw_away(struct partial *p)
{
	size_t n = partial_map_bytes(p);

	mutex_lock(&p->lock);
	if (atomic_load(&p->state) == PARTIAL_ACTIVE)
		atomic_fetch_sub(&p->all->bytes, p->have_bytes);
	p->have = p->have_bytes = 0;
	memset(p->map, 0, n);
	if (pwrite(p->map_fd, p->map, n, sizeof(struct map_head)) != (ssize_t)n)
		log_debug("map not emptied ino=%llu", (unsigned long long)p->ino);
	mutex_unlock(&p->lock);
	if (ftruncate(p->fd, 0) != 0 || ftruncate(p->fd, (off_t)p->size) != 0)
		log_debug("partial content not emptied ino=%llu", (unsigned long long)p->ino);
}

static int verify(struct partial *p)
{
	uint8_t got[SHA256_SIZE];
	int r;

	if (partial_has_parts(p))
		return 0;
	partial_begin_hashing(p);
	r = hash_blocks(p, UINT64_MAX);
	if (!r && p->hashed < p->blocks)
		r = -EAGAIN;
	if (!r) {
		sha256_final(&p->sha, got);
		p->sha_begun = false;
		p->hashed = 0;
		if (memcmp(got, p->hash, SHA256_SIZE) != 0)
			r = -EBADMSG;
	}
	end_hashing(p);
	return r;
}

/* One transaction: the file gets its final name, then the row says that it is here. */
static int install(struct partial *p, bool *done)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	char from[PARTIAL_NAME_SIZE], to[CONTENT_NAME_SIZE];
	struct cache *c = p->cache;
	struct inode_row row;
	int r = cache_begin(c, &conn);

	if (!r)
		r = inode_get(conn, p->ino, &row);
	if (r == -ENOENT || (!r && (row.state != STATE_REMOTE || row.nlink == 0 || !row.has_hash ||
					   memcmp(row.hash, p->hash, SHA256_SIZE) != 0 ||
					   partial_state(p) != PARTIAL_ACTIVE)))
		return 0; /* who has it open reads what is there */
	partial_data_name(p->ino, from);
	content_name(p->ino, to);
	if (r)
		return r;
	atomic_store(&p->installed, true);
	r = content_adopt(conn, &row, p->all->dir_fd, from, p->size);
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	*done = !r;
	atomic_store(&p->installed, *done);
	if (r && renameat(c->content_fd, to, p->all->dir_fd, from) != 0 && errno != ENOENT)
		log_warn("content left without a row ino=%llu", (unsigned long long)p->ino);
	return r;
}

static int finish(struct partial *p)
{
	bool done = false;
	int fd = -1, r = verify(p);

	if (r == -EBADMSG) {
		metric_add(METRIC_OBJECTS_CORRUPT, 1);
		log_error("fetched content has another hash than its version: thrown away ino=%llu",
			(unsigned long long)p->ino);
		throw_away(p);
	}
	if (!r && !p->cache->sync_off && fdatasync(p->fd) != 0)
		r = -errno;
	if (!r)
		r = install(p, &done);
	if (!done)
		return r;
	mutex_lock(&p->all->lock);
	partial_unlist(p, PARTIAL_DONE, &fd);
	mutex_unlock(&p->all->lock);
	trouble_clear(p->cache, p->ino, TROUBLE_LOST);
	metric_add(METRIC_CONTENT_FETCHED, 1);
	return 0;
}

int partial_finish(struct partial *p)
{
	bool mine = false, all, written;
	int r;

	if (partial_state(p) != PARTIAL_ACTIVE)
		return 0;
	mutex_lock(&p->lock);
	all = p->have == p->blocks;
	written = p->filling == 0 && !p->taking;
	if (all && written && !p->finishing)
		mine = p->finishing = true;
	mutex_unlock(&p->lock);
	if (!mine)
		return all && written ? 0 : -EAGAIN;
	r = finish(p);
	mutex_lock(&p->lock);
	p->finishing = false;
	mutex_unlock(&p->lock);
	return r;
}
