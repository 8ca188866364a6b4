/*
 * Why this file: the hash of a part is made of the hashes that a content map has anyway, so that sealing
 * large content reads and hashes it no more often than for its map. Of a map there is half a MiB for
 * 1 GiB, of the parts 32 KiB: what a reader has to have before the first byte.
 */
#include "cache/content_parts.h"

#include <string.h>

#include "cache/internal.h"
#include "cache/partial_entry.h"

bool content_parts_of(const struct cache *c, uint64_t size, struct content_parts *ret)
{
	struct content_parts p = {0};

	if (size < c->parts_min || size < c->map_min || size > INT64_MAX)
		return false;
	p.block_bits = p.part_bits = content_map_bits(size, c->map_min);
	while ((UINT64_C(1) << p.part_bits) < c->partials->block)
		p.part_bits++;
	p.count = ((size - 1) >> p.part_bits) + 1;
	*ret = p;
	return true;
}

bool content_parts_make(
	const struct content_map *map, const struct content_parts *parts, struct buf *out)
{
	const uint64_t blocks = UINT64_C(1) << (parts->part_bits - parts->block_bits);

	if (map->bits != parts->block_bits || map->size == 0 ||
		((map->size - 1) >> parts->part_bits) + 1 != parts->count)
		return false;
	for (uint64_t at = 0; at < map->count; at += blocks) {
		uint64_t n = map->count - at < blocks ? map->count - at : blocks;
		uint8_t hash[SHA256_SIZE];

		sha256(map->blocks + at * CONTENT_MAP_HASH_SIZE, n * CONTENT_MAP_HASH_SIZE, hash);
		buf_put(out, hash, sizeof(hash));
	}
	return !out->failed;
}

void part_hasher_begin(struct part_hasher *h, unsigned block_bits)
{
	*h = (struct part_hasher){.block_bits = block_bits};
	sha256_init(&h->part);
}

static void end_block(struct part_hasher *h)
{
	uint8_t hash[SHA256_SIZE];

	sha256_final(&h->block, hash);
	sha256_update(&h->part, hash, CONTENT_MAP_HASH_SIZE);
}

void part_hasher_add(struct part_hasher *h, const void *p, size_t n)
{
	const uint64_t block = UINT64_C(1) << h->block_bits;
	const uint8_t *from = p;

	while (n > 0) {
		uint64_t done = h->at & (block - 1);
		size_t step = n < block - done ? n : (size_t)(block - done);

		if (done == 0)
			sha256_init(&h->block);
		sha256_update(&h->block, from, step);
		from += step;
		n -= step;
		h->at += step;
		if (done + step == block)
			end_block(h);
	}
}

void part_hasher_end(struct part_hasher *h, uint8_t out[SHA256_SIZE])
{
	if (h->at & ((UINT64_C(1) << h->block_bits) - 1))
		end_block(h);
	sha256_final(&h->part, out);
}

void part_hasher_done(struct part_hasher *h)
{
	sha256_done(&h->block);
	sha256_done(&h->part);
}
