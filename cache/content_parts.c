/*
 * Why this file: the hash of a part is made of the hashes that a content map has anyway, so that sealing
 * large content reads and hashes it no more often than for its map. Of a map there is half a MiB for
 * 1 GiB, of the parts 32 KiB: what a reader has to have before the first byte.
 */
#include "cache/content_parts.h"

#include <string.h>

#include "cache/internal.h"
#include "cache/partial_entry.h"

#define AT_ONCE 16 /* blocks, as sha256_many likes them */

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

void content_part_hash(
	unsigned block_bits, const void *p, size_t n, uint8_t out[SHA256_SIZE])
{
	const size_t block = (size_t)1 << block_bits;
	const uint8_t *from = p;
	uint8_t hash[AT_ONCE][SHA256_SIZE];
	struct sha256 part;

	sha256_init(&part);
	while (n > 0) {
		size_t step = n < block ? n : block;
		size_t count = n / step < AT_ONCE ? n / step : AT_ONCE;

		sha256_many(from, step, count, hash);
		for (size_t i = 0; i < count; i++)
			sha256_update(&part, hash[i], CONTENT_MAP_HASH_SIZE);
		from += count * step;
		n -= count * step;
	}
	sha256_final(&part, out);
}
