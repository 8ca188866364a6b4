/*
 * Why this file: partial content whose version has hashes of its parts (content_parts.h). They lie at the
 * end of the map file, so they cost no memory and are there after a restart. The head says so after they
 * were written; a power cut drops everything (partial.c).
 *
 * Lock: partial.lock guards parts; the hashes never change once it is set.
 */
#include "cache/partial_entry.h"

#include <errno.h>

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

	if (p->parts)
		return 0;
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

int partial_set_parts(struct partial *p, const uint8_t *hashes)
{
	size_t n = (size_t)p->blocks * SHA256_SIZE;
	int r;

	if (partial_has_parts(p))
		return 0;
	r = content_check_reserve(p->cache, n);
	if (!r)
		r = io_write_at(p->map_fd, hashes, n, partial_hash_at(p, 0));
	if (r)
		return r;
	/* What was hashed ahead may come with other bytes now. */
	partial_begin_hashing(p);
	if (p->sha_begun && !partial_has_parts(p)) {
		sha256_done(&p->sha);
		p->sha_begun = false;
		p->hashed = 0;
	}
	mutex_lock(&p->lock);
	r = take(p);
	p->hashing = false;
	mutex_unlock(&p->lock);
	return r;
}

int partial_compare(struct partial *p, uint64_t block, const uint8_t hash[SHA256_SIZE])
{
	uint8_t want[SHA256_SIZE];
	ssize_t got;

	if (!partial_has_parts(p))
		return -EAGAIN;
	do
		got = pread(p->map_fd, want, sizeof(want), (off_t)partial_hash_at(p, block));
	while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(want))
		return got < 0 ? -errno : -EIO;
	return memcmp(want, hash, SHA256_SIZE) == 0 ? 0 : -EBADMSG;
}
