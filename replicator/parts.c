/*
 * Why this file: the hash of a whole file says nothing about a range of it. So whoever puts large content
 * into a store puts the hashes of its parts beside it, before the object that names them: where there is
 * such an object, its parts object is there.
 *
 * The bytes follow from the content alone, so it does not matter who writes them, how often, or when; the
 * object is named by the content, so one serves all paths that have it and all copies. What is read is
 * believed when its SHA-256 is the one in the metadata of the object that is to be read, which also says
 * that it is the version; a damaged one is counted, and the next region is asked.
 *
 * Nobody hashes the whole again when all its parts were right (cache/partial.c). So who writes must not name
 * hashes of other bytes than those of the content: they are made of a map, which was made in the pass that made
 * the content's hash, or of a pass here that makes both and compares the one.
 *
 * Keeps no state, takes no lock.
 */
#include "replicator/parts.h"

#include <errno.h>
#include <string.h>

#include "replicator/health.h"
#include "replicator/store/layers.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define MAGIC "MRDNPRT"
#define MAGIC_SIZE 7
#define VERSION 1
#define HEADER_SIZE (MAGIC_SIZE + 1 + 4 + 4 + 8 + 4 + 4 + SHA256_SIZE)
#define READ_SIZE ((size_t)256 << 10)

void parts_key(const uint8_t hash[SHA256_SIZE], char key[PARTS_KEY_SIZE])
{
	memcpy(key, PARTS_PREFIX, sizeof(PARTS_PREFIX));
	hex_encode(hash, SHA256_SIZE, key + sizeof(PARTS_PREFIX) - 1);
}

int parts_set_meta(struct store_meta *m, const char *digest)
{
	int r;

	if (!digest[0])
		return 0;
	r = store_meta_set(m, PARTS_META, digest);
	if (r != -E2BIG)
		return r;
	r = store_meta_set(m, "meridian-xattrs", "omitted");
	return r ? r : store_meta_set(m, PARTS_META, digest);
}

/* ---- writing ---- */

static void put_header(
	const struct content_parts *parts, const struct parts_content *content, struct buf *out)
{
	buf_put(out, MAGIC, MAGIC_SIZE);
	buf_put_u8(out, VERSION);
	buf_put_be32(out, 0);
	buf_put_be32(out, (uint32_t)parts->count);
	buf_put_be64(out, content->size);
	buf_put_be32(out, parts->block_bits);
	buf_put_be32(out, parts->part_bits);
	buf_put(out, content->hash, SHA256_SIZE);
}

/* -ENOENT: there is no map that fits. */
static int from_map(
	const struct parts_content *content, const struct content_parts *parts, struct buf *out)
{
	CLEANUP(content_map_done) struct content_map map = {0};
	struct conn *conn;
	int r = cache_read_begin(content->cache, &conn);

	if (r < 0)
		return r;
	r = content_map_get(conn, content->hash, &map);
	cache_read_end(conn);
	if (r < 0)
		return r;
	if (map.size != content->size || map.bits != parts->block_bits)
		return -ENOENT;
	return content_parts_make(&map, parts, out) ? 0 : -ENOMEM;
}

static int read_source(const struct parts_content *content, const struct store_call *call,
	struct content_mapper *m, uint8_t hash[SHA256_SIZE])
{
	const struct store_source *source = content->source;
	AUTO_FREE uint8_t *buffer = malloc(READ_SIZE);
	struct sha256 whole;
	int r = buffer ? 0 : -ENOMEM;

	sha256_init(&whole);
	for (uint64_t at = 0; !r && at < content->size;) {
		size_t n =
			content->size - at < READ_SIZE ? (size_t)(content->size - at) : READ_SIZE;
		ssize_t got = source->read(source->ctx, at, buffer, n);

		if (got <= 0) {
			r = got < 0 ? (int)got : -EIO;
		} else if (call->cancel && atomic_load(call->cancel)) {
			r = -ECANCELED;
		} else {
			sha256_update(&whole, buffer, (size_t)got);
			content_mapper_add(m, buffer, (size_t)got);
			at += (uint64_t)got;
		}
	}
	sha256_final(&whole, hash);
	return r;
}

/* By reading all of it: its map is one of those that are not kept. */
static int from_source(const struct parts_content *content, const struct content_parts *parts,
	const struct store_call *call, struct buf *out)
{
	uint8_t hash[SHA256_SIZE];
	struct content_mapper m;
	int r;

	if (content->source->size != content->size)
		return -ESTALE;
	content_mapper_begin(&m, content->size, content_map_min(content->cache));
	r = m.on ? read_source(content, call, &m, hash) : -ENOMEM;
	if (!r && memcmp(hash, content->hash, SHA256_SIZE) != 0)
		r = -ESTALE;
	if (!r && !content_parts_make(&m.map, parts, out))
		r = -ENOMEM;
	content_mapper_end(&m);
	return r;
}

enum store_result parts_put(struct store *s, const struct parts_content *content,
	char digest[SHA256_HEX_SIZE], const struct store_call *call, struct store_error *error)
{
	CLEANUP(buf_done) struct buf out = {0};
	struct content_parts parts;
	uint8_t sum[SHA256_SIZE];
	char key[PARTS_KEY_SIZE];
	int r;

	digest[0] = '\0';
	if (!content_parts_of(content->cache, content->size, &parts))
		return STORE_OK;
	put_header(&parts, content, &out);
	r = from_map(content, &parts, &out);
	if (r == -ENOENT && !content->source)
		return STORE_OK;
	if (r == -ENOENT)
		r = from_source(content, &parts, call, &out);
	if (!r && out.failed)
		r = -ENOMEM;
	if (r < 0)
		return store_error_local(error, r, "hashes of parts");
	parts_key(content->hash, key);
	enum store_result result =
		store_put_buf(s, key, out.data, out.len, NULL, NULL, NULL, call, error);
	if (result == STORE_OK) {
		sha256(out.data, out.len, sum);
		hex_encode(sum, sizeof(sum), digest);
	}
	return result;
}

/* ---- reading ---- */

/* All of it follows from size and hash but for the hashes of the parts. */
static bool is_valid(const struct content_parts *parts, const uint8_t hash[SHA256_SIZE],
	uint64_t size, const uint8_t digest[SHA256_SIZE], const struct buf *b)
{
	struct reader r = reader_of(b->data, b->len);
	uint8_t sum[SHA256_SIZE];

	if (b->len != HEADER_SIZE + parts->count * SHA256_SIZE)
		return false;
	sha256(b->data, b->len, sum);
	if (memcmp(sum, digest, SHA256_SIZE) != 0 ||
		memcmp(reader_raw(&r, MAGIC_SIZE), MAGIC, MAGIC_SIZE) != 0 ||
		reader_u8(&r) != VERSION)
		return false;
	(void)reader_be32(&r);
	return reader_be32(&r) == parts->count && reader_be64(&r) == size &&
	       reader_be32(&r) == parts->block_bits && reader_be32(&r) == parts->part_bits &&
	       memcmp(reader_raw(&r, SHA256_SIZE), hash, SHA256_SIZE) == 0;
}

struct wanted {
	struct content_parts parts;
	const uint8_t *hash;
	uint64_t size;
	const uint8_t *digest;
};

/* 0, -ENODATA, -EHOSTDOWN. */
static int get_from(struct region *from, const struct wanted *w, struct buf *b)
{
	uint64_t most = HEADER_SIZE + w->parts.count * SHA256_SIZE;
	struct store_call call = region_call(from, most);
	struct store_error error = {0};
	char key[PARTS_KEY_SIZE];
	enum store_result result;

	parts_key(w->hash, key);
	buf_clear(b);
	result = store_get_buf(from->store, key, most, b, NULL, NULL, &call, &error);
	region_end(from, REGION_READ, result, &error, "get hashes of parts");
	if (result == STORE_ABSENT)
		return -ENODATA;
	if (result == STORE_LOCAL)
		return error.local_errno ? -error.local_errno : -EIO;
	if (result != STORE_OK && result != STORE_TOO_LARGE)
		return -EHOSTDOWN;
	if (result == STORE_OK && is_valid(&w->parts, w->hash, w->size, w->digest, b))
		return 0;
	atomic_fetch_add(&from->wrong_bytes, 1);
	metric_add(METRIC_OBJECTS_CORRUPT, 1);
	log_error("hashes of parts are not those that were promised, asking another region"
		  " region=%s key=\"%s\"",
		from->name, key);
	return -ENODATA;
}

int parts_get(struct region *region, const uint8_t hash[SHA256_SIZE], uint64_t size,
	const uint8_t digest[SHA256_SIZE], struct buf *ret, size_t *at)
{
	struct wanted w = {.hash = hash, .size = size, .digest = digest};
	struct regions *all = region->all;
	unsigned order[REGION_MAX];
	int r;

	if (!content_parts_of(all->cache, size, &w.parts))
		return -ENODATA;
	r = get_from(region, &w, ret);
	regions_order(all, order);
	for (unsigned i = 0; i < all->count && (r == -ENODATA || r == -EHOSTDOWN); i++) {
		struct region *other = &all->region[order[i]];

		if (other == region || !region_up(other, REGION_READ))
			continue;
		int e = get_from(other, &w, ret);
		if (e != -ENODATA && e != -EHOSTDOWN)
			r = e;
	}
	*at = HEADER_SIZE;
	return r;
}
