/*
 * Why this file: partial content whose version has hashes of its parts (content_parts.h). They lie at the
 * end of the map file, so they cost no memory and are there after a restart. The head says so after they
 * were written; a power cut drops everything (partial.c).
 *
 * Lock: partial.lock guards parts and taking; the hashes never change once parts is set, which it stays.
 */
#include "cache/partial_entry.h"

#include <errno.h>

#include "cache/content_parts.h"
#include "src/base/clock.h"
#include "src/base/io.h"

bool partial_has_parts(struct partial *p)
{
	bool has;

	mutex_lock(&p->lock);
	has = p->parts;
	mutex_unlock(&p->lock);
	return has;
}

/* With the lock. What was here was compared with nothing. */
static int take(struct partial *p)
{
	const uint64_t yes = 1;
	int r;

	if (p->have > 0) {
		memset(p->map, 0, partial_map_bytes(p));
		if (atomic_load(&p->state) == PARTIAL_ACTIVE)
			atomic_fetch_sub(&p->all->bytes, p->have_bytes);
		p->have = p->have_bytes = 0;
		r = io_write_at(p->map_fd, p->map, partial_map_bytes(p), sizeof(struct map_head));
		if (r)
			return r;
	}
	r = io_write_at(p->map_fd, &yes, sizeof(yes), offsetof(struct map_head, parts));
	p->parts = !r;
	return r;
}

/* With the lock, which is given back meanwhile. */
static void wait_a_little(struct partial *p)
{
	mutex_unlock(&p->lock);
	clock_sleep_ms(1); /* a block is written */
	mutex_lock(&p->lock);
}

/* Also waits for those who write what was compared with nothing. -EALREADY: the hashes are known. */
static int begin_taking(struct partial *p)
{
	int r;

	mutex_lock(&p->lock);
	while (p->taking)
		wait_a_little(p);
	r = p->parts ? -EALREADY : p->finishing ? -EAGAIN : 0;
	p->taking = r == 0;
	while (r == 0 && p->filling > 0)
		wait_a_little(p);
	mutex_unlock(&p->lock);
	return r;
}

int partial_set_parts(struct partial *p, const uint8_t *hashes)
{
	size_t n = (size_t)p->blocks * SHA256_SIZE;
	int r;

	if (!p->hash_bits)
		return -EINVAL;
	r = begin_taking(p);
	if (r)
		return r == -EALREADY ? 0 : r;
	r = content_check_reserve(p->cache, n);
	if (!r)
		r = io_write_at(p->map_fd, hashes, n, partial_hash_at(p, 0));
	/* What was hashed ahead may come with other bytes now. */
	partial_begin_hashing(p);
	if (p->sha_begun) {
		sha256_done(&p->sha);
		p->sha_begun = false;
		p->hashed = 0;
	}
	mutex_lock(&p->lock);
	if (!r)
		r = take(p);
	p->hashing = p->taking = false;
	mutex_unlock(&p->lock);
	return r;
}

int partial_compare(struct partial *p, uint64_t block, const void *bytes)
{
	uint8_t want[SHA256_SIZE], have[SHA256_SIZE];
	ssize_t got;

	content_part_hash(p->hash_bits, bytes, (size_t)partial_block_bytes(p, block), have);
	do
		got = pread(p->map_fd, want, sizeof(want), (off_t)partial_hash_at(p, block));
	while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(want))
		return got < 0 ? -errno : -EIO;
	return memcmp(want, have, SHA256_SIZE) == 0 ? 0 : -EBADMSG;
}
