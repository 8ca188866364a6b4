/*
 * Table content_map: per version of large content the first half of each block's SHA-256. Blocks are
 * found equal by these alone and then copied rather than sent, so nobody may be able to make two that
 * collide: hence no faster hash, whose cost would not show beside that of the content's own.
 *
 * A block has a sixty-fourth of the least size that is mapped (16 KiB of 1 MiB), doubled as long as there
 * were more than CONTENT_MAP_BLOCKS_MAX of them, or, from blocks of 1 MiB on, CONTENT_MAP_BLOCKS_LARGE: a
 * map of 1 GiB has 512 KiB. Hashes of parts are made of these (content_parts.h). Versions whose blocks differ in
 * size cannot be compared; a file that grows comes by that once each time that it doubles.
 *
 * Which are kept. Each version of an inode adds one, so that a log that is sealed every few seconds would
 * drive out all others: of one inode there are the newest VERSIONS, those that are announced to regions and
 * replaced in their next segment, and those that are the object of some region (objects: a bit for each),
 * which an upload compares with much later. Beyond CONTENT_MAPS_MAX in all the oldest go.
 */
#include "cache/content_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/db.h"
#include "cache/internal.h"
#include "src/base/log.h"

#define VERSIONS 6
#define BLOCK_BITS_MIN 4
#define ZEROS ((size_t)16 << 10)

void content_map_done(struct content_map *map)
{
	free(map->blocks);
	*map = (struct content_map){0};
}

/* ---- making ---- */

static uint64_t block_count(uint64_t size, unsigned bits)
{
	return (size >> bits) + ((size & ((UINT64_C(1) << bits) - 1)) != 0);
}

unsigned content_map_bits(uint64_t size, uint64_t least)
{
	unsigned bits = BLOCK_BITS_MIN;

	while ((UINT64_C(64) << bits) < least)
		bits++;
	while (block_count(size, bits) > CONTENT_MAP_BLOCKS_MAX && bits < CONTENT_MAP_BITS_LARGE)
		bits++;
	while (block_count(size, bits) > CONTENT_MAP_BLOCKS_LARGE)
		bits++;
	return bits;
}

void content_mapper_begin(struct content_mapper *m, uint64_t size, uint64_t least)
{
	unsigned bits = content_map_bits(size, least);

	*m = (struct content_mapper){0};
	if (!size || size < least || size > INT64_MAX)
		return;
	m->map.size = size;
	m->map.bits = bits;
	m->map.blocks = malloc((size_t)block_count(size, bits) * CONTENT_MAP_HASH_SIZE);
	m->on = m->map.blocks != NULL;
	if (m->on)
		sha256_init(&m->block);
}

static void hash_zeros(struct content_mapper *m)
{
	static const uint8_t zeros[ZEROS];

	while (m->zeros) {
		size_t n = m->zeros < ZEROS ? (size_t)m->zeros : ZEROS;

		sha256_update(&m->block, zeros, n);
		m->zeros -= n;
	}
}

static void end_block(struct content_mapper *m)
{
	uint8_t *to = m->map.blocks + (size_t)m->map.count * CONTENT_MAP_HASH_SIZE;
	bool zeros = m->zeros == UINT64_C(1) << m->map.bits;
	uint8_t hash[SHA256_SIZE];

	m->map.count++;
	if (zeros && m->zero_known && m->at < m->map.size) {
		memcpy(to, m->zero_hash, CONTENT_MAP_HASH_SIZE);
		m->zeros = 0;
		return;
	}
	hash_zeros(m);
	sha256_final(&m->block, hash);
	memcpy(to, hash, CONTENT_MAP_HASH_SIZE);
	if (zeros) {
		memcpy(m->zero_hash, hash, CONTENT_MAP_HASH_SIZE);
		m->zero_known = true;
	}
	if (m->at < m->map.size)
		sha256_init(&m->block);
}

/* Of n bytes those that belong to the block at hand. */
static uint64_t block_step(const struct content_mapper *m, uint64_t n)
{
	const uint64_t block = UINT64_C(1) << m->map.bits;
	uint64_t left = block - (m->at & (block - 1));

	return n < left ? n : left;
}

static void advance(struct content_mapper *m, uint64_t n)
{
	m->at += n;
	if (!(m->at & ((UINT64_C(1) << m->map.bits) - 1)) || m->at == m->map.size)
		end_block(m);
}

void content_mapper_add(struct content_mapper *m, const void *p, size_t n)
{
	const uint8_t *from = p;

	if (m->on && n > m->map.size - m->at)
		content_mapper_end(m); /* it is no version of that size */
	while (m->on && n) {
		size_t step = (size_t)block_step(m, n);

		hash_zeros(m);
		sha256_update(&m->block, from, step);
		from += step;
		n -= step;
		advance(m, step);
	}
}

void content_mapper_add_zeros(struct content_mapper *m, uint64_t n)
{
	if (m->on && n > m->map.size - m->at)
		content_mapper_end(m);
	while (m->on && n) {
		uint64_t step = block_step(m, n);

		m->zeros += step;
		n -= step;
		advance(m, step);
	}
}

void content_mapper_end(struct content_mapper *m)
{
	if (m->on)
		sha256_done(&m->block);
	content_map_done(&m->map);
	*m = (struct content_mapper){0};
}

/* ---- keeping ---- */

uint64_t content_map_min(const struct cache *c)
{
	return c->map_min;
}

static int add_total(struct conn *conn, int64_t bytes, int64_t *total)
{
	return conn_add(conn, "UPDATE content_map_total SET bytes = bytes + ?1 RETURNING bytes",
		bytes, total);
}

/* Runs a DELETE ... RETURNING length(blocks) with one value, and counts what went. */
static int remove_maps(struct conn *conn, const char *sql, int64_t value, int64_t *total, bool *any)
{
	sqlite3_stmt *s = conn_statement(conn, sql);
	int64_t bytes = 0;
	int r;

	*any = false;
	bind_int(s, 1, value);
	while ((r = conn_row(conn, s)) == 1) {
		bytes += sqlite3_column_int64(s, 0);
		*any = true;
	}
	return r < 0 ? r : add_total(conn, -bytes, total);
}

static struct slice hash_slice(const uint8_t hash[SHA256_SIZE])
{
	return (struct slice){(const char *)hash, SHA256_SIZE};
}

static int add_map(struct conn *conn, const struct content_map *map, uint64_t ino,
	const uint8_t hash[SHA256_SIZE], int64_t *total)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT INTO content_map(hash, ino, size, bits, objects, blocks)"
		" VALUES(?1, ?2, ?3, ?4, 0, ?5)");
	size_t bytes = (size_t)map->count * CONTENT_MAP_HASH_SIZE;

	bind_slice(s, 1, hash_slice(hash));
	bind_int(s, 2, (int64_t)ino);
	bind_int(s, 3, (int64_t)map->size);
	bind_int(s, 4, map->bits);
	bind_slice(s, 5, (struct slice){(const char *)map->blocks, bytes});
	int r = conn_run(conn, s);
	return r < 0 ? r : add_total(conn, (int64_t)bytes, total);
}

static int is_known(struct conn *conn, const uint8_t hash[SHA256_SIZE], bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT 1 FROM content_map WHERE hash = ?1");

	bind_slice(s, 1, hash_slice(hash));
	int r = conn_row(conn, s);
	if (r > 0)
		sqlite3_reset(s);
	*ret = r > 0;
	return r < 0 ? r : 0;
}

static int keep(struct conn *conn, const struct content_map *map, uint64_t ino,
	const uint8_t hash[SHA256_SIZE])
{
	int64_t total = 0;
	bool any = false;
	int r = is_known(conn, hash, &any);

	if (r || any)
		return r;
	r = add_map(conn, map, ino, hash, &total);
	if (!r)
		r = remove_maps(conn,
			"DELETE FROM content_map WHERE id IN (SELECT id FROM content_map"
			" WHERE ino = ?1 AND objects = 0 ORDER BY id DESC LIMIT -1 OFFSET 6)"
			" RETURNING length(blocks)",
			(int64_t)ino, &total, &any);
	_Static_assert(VERSIONS == 6, "the statement's offset");
	for (any = true; !r && any && total > CONTENT_MAPS_MAX;)
		r = remove_maps(conn,
			"DELETE FROM content_map WHERE id IN"
			" (SELECT id FROM content_map ORDER BY id LIMIT ?1) RETURNING "
			"length(blocks)",
			16, &total, &any);
	return r;
}

void content_map_keep(
	struct cache *c, struct content_mapper *m, uint64_t ino, const uint8_t hash[SHA256_SIZE])
{
	struct conn *conn;
	int r = 0;

	if (m->on && m->at == m->map.size)
		r = cache_begin_lazy(c, &conn);
	else
		conn = NULL;
	if (!r && conn) {
		r = keep(conn, &m->map, ino, hash);
		if (r)
			cache_rollback(conn);
		else
			r = cache_commit(conn);
	}
	if (r)
		log_debug("map of content not kept ino=%llu error=%d", (unsigned long long)ino, r);
	content_mapper_end(m);
}

int content_map_get(struct conn *conn, const uint8_t hash[SHA256_SIZE], struct content_map *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT size, bits, blocks FROM content_map WHERE hash = ?1");
	struct content_map map = {0};

	bind_slice(s, 1, hash_slice(hash));
	int r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	struct slice blocks = column_slice(s, 2);
	map.size = (uint64_t)sqlite3_column_int64(s, 0);
	map.bits = (unsigned)sqlite3_column_int(s, 1);
	map.count = (uint32_t)(blocks.len / CONTENT_MAP_HASH_SIZE);
	r = map.bits < BLOCK_BITS_MIN || map.bits > 62 || blocks.len % CONTENT_MAP_HASH_SIZE != 0 ||
			    map.count != block_count(map.size, map.bits)
		    ? -EIO
		    : 0;
	if (r == 0) {
		map.blocks = malloc(blocks.len ? blocks.len : 1);
		r = map.blocks ? 0 : -ENOMEM;
	}
	if (r == 0)
		memcpy(map.blocks, blocks.p, blocks.len);
	sqlite3_reset(s);
	if (r == 0)
		*ret = map;
	return r;
}

int content_map_delivered(struct conn *conn, unsigned region, const uint8_t hash[SHA256_SIZE])
{
	const int64_t bit = INT64_C(1) << region;
	sqlite3_stmt *s = conn_statement(conn,
		"UPDATE content_map SET objects = iif(hash = ?1, objects | ?2, objects & ~?2)"
		" WHERE ino = (SELECT ino FROM content_map WHERE hash = ?1)");

	bind_slice(s, 1, hash_slice(hash));
	bind_int(s, 2, bit);
	return conn_run(conn, s);
}

/* ---- comparing ---- */

bool content_map_comparable(const struct content_map *base, const struct content_map *map)
{
	return base->bits == map->bits;
}

static bool is_same(const struct content_map *base, const struct content_map *map, uint64_t i)
{
	return i < base->count &&
	       memcmp(base->blocks + i * CONTENT_MAP_HASH_SIZE,
		       map->blocks + i * CONTENT_MAP_HASH_SIZE, CONTENT_MAP_HASH_SIZE) == 0;
}

bool content_map_changed(const struct content_map *base, const struct content_map *map,
	uint64_t *at, uint64_t *offset, uint64_t *length)
{
	uint64_t i = *at >> map->bits, first;

	while (i < map->count && is_same(base, map, i))
		i++;
	if (i >= map->count)
		return false;
	for (first = i; i < map->count && !is_same(base, map, i); i++)
		;
	*offset = first << map->bits;
	*at = i == map->count ? map->size : i << map->bits;
	*length = *at - *offset;
	/* A last, partial block ends where the content does: from there on there is nothing. */
	if (i == map->count)
		*at = (uint64_t)map->count << map->bits;
	return true;
}

int content_map_grown(struct conn *conn, const uint8_t base[SHA256_SIZE],
	const uint8_t hash[SHA256_SIZE], bool *ret)
{
	CLEANUP(content_map_done) struct content_map from = {0}, to = {0};
	uint64_t at = 0, offset, length;
	int r = content_map_get(conn, base, &from);

	if (r == 0)
		r = content_map_get(conn, hash, &to);
	*ret = r == 0 && to.size > from.size && content_map_comparable(&from, &to) &&
	       content_map_changed(&from, &to, &at, &offset, &length) &&
	       offset >= from.size >> from.bits << from.bits;
	return r == -ENOENT ? 0 : r;
}
