/*
 * Ranges are blocks of the maps, but for appending: where a version grew within its last block, which was
 * not full, what was there is compared by its hash, and only what came after it is in the delta.
 *
 * A delta is a saving. Whoever cannot use one, for want of the base or because it is malformed, takes the
 * content from the object; what was made of one counts only when its SHA-256 is that of the record.
 */
#include "replicator/delta.h"

#include <errno.h>
#include <unistd.h>

#include "cache/content_delta.h"
#include "src/base/metrics.h"

/* Half of what readers take, though nearly all of it would fit: what is in a segment goes before everything else,
 * does not wait for rate_limit, and costs its bytes beside the object that follows anyway. */
uint64_t delta_limit(uint64_t inline_max, uint64_t size)
{
	uint64_t limit = 16 * inline_max;

	if (limit > DELTA_BYTES_MAX / 2)
		limit = DELTA_BYTES_MAX / 2;
	return limit < size / 2 ? limit : size / 2;
}

static int get_maps(struct conn *conn, const uint8_t *base, const uint8_t *hash,
	struct content_map *from, struct content_map *to)
{
	int r = content_map_get(conn, base, from);

	if (r == 0)
		r = content_map_get(conn, hash, to);
	if (r == 0 && (!content_map_comparable(from, to) || to->size > DELTA_CONTENT_MAX))
		r = -ENOENT;
	return r;
}

/* Where the part that changed of [offset, …) begins at the latest: behind the base's end, when that
 * lies within this block. */
static uint64_t tail_of(const struct content_map *from, uint64_t offset)
{
	uint64_t block = UINT64_C(1) << from->bits;

	return from->size > offset && from->size - offset < block ? from->size : offset;
}

int delta_fits(struct conn *conn, const uint8_t base[SHA256_SIZE], const uint8_t hash[SHA256_SIZE],
	uint64_t limit, bool *ret)
{
	CLEANUP(content_map_done) struct content_map from = {0}, to = {0};
	uint64_t at = 0, offset, length, bytes = 0, ranges = 0;
	int r = get_maps(conn, base, hash, &from, &to);

	*ret = false;
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	while (bytes <= limit && content_map_changed(&from, &to, &at, &offset, &length)) {
		bytes += length - (tail_of(&from, offset) - offset);
		ranges++;
	}
	*ret = bytes <= limit && ranges <= DELTA_RANGES_MAX;
	return 0;
}

static int read_all(const struct store_source *source, uint64_t offset, uint8_t *p, size_t n)
{
	while (n) {
		ssize_t got = source->read(source->ctx, offset, p, n);

		if (got <= 0)
			return got < 0 ? (int)got : -EIO;
		p += got;
		offset += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

struct making {
	const struct content_map *from, *to;
	const struct store_source *source;
	uint64_t limit, end;
	uint32_t count;
	struct buf ranges, bytes;
};

static void making_done(struct making *m)
{
	buf_done(&m->ranges);
	buf_done(&m->bytes);
}

static int add_range(struct making *m, uint64_t offset, uint64_t length)
{
	uint64_t tail = tail_of(m->from, offset), skip = 0;

	if (length > m->limit + (tail - offset) || m->count >= DELTA_RANGES_MAX)
		return -ENOENT;
	uint8_t *p = buf_reserve(&m->bytes, (size_t)length);
	if (!p)
		return -ENOMEM;
	int r = read_all(m->source, offset, p, (size_t)length);
	if (r < 0)
		return r;
	if (tail > offset && length > tail - offset) {
		uint8_t hash[SHA256_SIZE];

		sha256(p, (size_t)(tail - offset), hash);
		if (memcmp(hash,
			    m->from->blocks + (size_t)(m->from->count - 1) * CONTENT_MAP_HASH_SIZE,
			    CONTENT_MAP_HASH_SIZE) == 0)
			skip = tail - offset;
	}
	memmove(p, p + skip, (size_t)(length - skip));
	m->bytes.len += (size_t)(length - skip);
	if (m->bytes.len > m->limit)
		return -ENOENT;
	buf_put_varint(&m->ranges, offset + skip - m->end);
	buf_put_varint(&m->ranges, length - skip);
	m->end = offset + length;
	m->count++;
	return 0;
}

int delta_make(struct cache *c, const uint8_t base[SHA256_SIZE], const uint8_t hash[SHA256_SIZE],
	const struct store_source *source, uint64_t limit, struct buf *out)
{
	CLEANUP(content_map_done) struct content_map from = {0}, to = {0};
	CLEANUP(making_done)
	struct making m = {.from = &from, .to = &to, .source = source, .limit = limit};
	uint64_t at = 0, offset, length;
	struct conn *conn;
	int r = cache_read_begin(c, &conn);

	if (r < 0)
		return r;
	r = get_maps(conn, base, hash, &from, &to);
	cache_read_end(conn);
	if (r == 0 && to.size != source->size)
		r = -ENOENT;
	while (r == 0 && content_map_changed(&from, &to, &at, &offset, &length))
		r = add_range(&m, offset, length);
	if (r < 0)
		return r;
	buf_put(out, base, SHA256_SIZE);
	buf_put_varint(out, from.size);
	buf_put_varint(out, m.count);
	buf_put(out, m.ranges.data, m.ranges.len);
	buf_put(out, m.bytes.data, m.bytes.len);
	return m.ranges.failed || out->failed ? -ENOMEM : 0;
}

/* The next range; false: it cannot be one. */
static bool next_range(struct reader *r, uint64_t size, uint64_t *end, uint64_t *length)
{
	uint64_t gap = reader_varint(r);

	*length = reader_varint(r);
	if (r->failed || gap > size - *end || *length == 0 || *length > size - *end - gap)
		return false;
	*end += gap + *length;
	return true;
}

bool delta_parse(const void *p, size_t n, uint64_t size, struct delta *ret)
{
	struct reader r = reader_of(p, n);
	const uint8_t *base = reader_raw(&r, SHA256_SIZE);
	struct delta d = {.base_size = reader_varint(&r)};
	uint64_t count = reader_varint(&r), end = 0, bytes = 0, length;

	if (r.failed || n > DELTA_BYTES_MAX || size > DELTA_CONTENT_MAX ||
		d.base_size > DELTA_CONTENT_MAX || count > DELTA_RANGES_MAX)
		return false;
	memcpy(d.base, base, SHA256_SIZE);
	d.count = (uint32_t)count;
	d.ranges = r.p;
	d.len = reader_left(&r);
	for (uint32_t i = 0; i < d.count; i++) {
		if (!next_range(&r, size, &end, &length))
			return false;
		bytes += length;
	}
	d.bytes = r.p;
	if (bytes != reader_left(&r))
		return false;
	*ret = d;
	return true;
}

int delta_apply(const struct delta *d, uint64_t size, struct content_writer *w)
{
	struct reader r = reader_of(d->ranges, d->len);
	const uint8_t *from = d->bytes;
	uint64_t end = 0, length;

	if (w->size != d->base_size)
		return -EINVAL;
	for (uint32_t i = 0; i < d->count; i++) {
		if (!next_range(&r, size, &end, &length))
			return -EINVAL;
		int code = content_overwrite(w, from, (size_t)length, end - length);
		if (code < 0)
			return code;
		from += length;
	}
	return content_resize(w, size);
}

/* ---- an older version and what came since ---- */

enum { CHAIN_MAX = 256 };

bool delta_leads_to(struct cache *c, const uint8_t hash[SHA256_SIZE])
{
	CLEANUP(buf_done) struct buf b = {0};
	uint8_t base[SHA256_SIZE];
	struct conn *conn;
	uint64_t size;

	if (cache_read_begin(c, &conn) < 0)
		return false;
	int r = content_delta_get(conn, hash, &size, base, &b);
	cache_read_end(conn);
	return r == 0;
}

/* A step back: the delta that makes hash. */
struct link {
	uint8_t hash[SHA256_SIZE];
	uint64_t size;
};

static int follow_one(struct conn *conn, const struct link *link, struct content_writer *w)
{
	CLEANUP(buf_done) struct buf b = {0};
	uint8_t base[SHA256_SIZE];
	struct delta d;
	uint64_t size;
	int r = content_delta_get(conn, link->hash, &size, base, &b);

	if (r == 0 && !delta_parse(b.data, b.len, size, &d))
		r = -EINVAL;
	return r == 0 ? delta_apply(&d, size, w) : r;
}

/* *count steps lead from hash back to held. */
static int find_chain(struct conn *conn, const uint8_t *held, const uint8_t *hash,
	struct link chain[CHAIN_MAX], unsigned *count)
{
	uint8_t at[SHA256_SIZE], base[SHA256_SIZE];
	int r = 0;

	memcpy(at, hash, SHA256_SIZE);
	for (*count = 0; r == 0 && memcmp(at, held, SHA256_SIZE) != 0; (*count)++) {
		CLEANUP(buf_done) struct buf b = {0};

		if (*count == CHAIN_MAX)
			return -ENOENT;
		r = content_delta_get(conn, at, &chain[*count].size, base, &b);
		memcpy(chain[*count].hash, at, SHA256_SIZE);
		if (r == 0)
			memcpy(at, base, SHA256_SIZE);
	}
	return r;
}

int delta_follow(struct cache *c, const uint8_t held[SHA256_SIZE], const uint8_t hash[SHA256_SIZE],
	uint64_t size, struct content_writer *w)
{
	AUTO_FREE struct link *chain = calloc(CHAIN_MAX, sizeof(*chain));
	uint8_t got[SHA256_SIZE];
	unsigned count = 0;
	struct conn *conn;

	if (!chain)
		return -ENOMEM;
	int r = cache_read_begin(c, &conn);
	if (r < 0)
		return r;
	r = find_chain(conn, held, hash, chain, &count);
	if (r == 0 && (count == 0 || chain[0].size != size))
		r = -ENOENT;
	while (r == 0 && count > 0)
		r = follow_one(conn, &chain[--count], w);
	cache_read_end(conn);
	if (r == 0)
		r = content_writer_hash(c, w, got);
	if (r == -ENOENT || r == -EINVAL)
		return -EAGAIN;
	if (r < 0)
		return r;
	bool good = memcmp(got, hash, SHA256_SIZE) == 0;
	metric_add(good ? METRIC_DELTAS_APPLIED : METRIC_DELTAS_USELESS, 1);
	return good ? 0 : -EAGAIN;
}
