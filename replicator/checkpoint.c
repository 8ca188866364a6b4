/*
 * Checkpoints: names and the bytes of a manifest (docs/bucket-format.md), both ways.
 *
 * A manifest comes from whoever can write to the bucket: its checksum is checked first, then every
 * number before it is used. Nothing is allocated on the word of a length that the bytes at hand do
 * not back.
 */
#include "replicator/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define MAGIC "MRDNCKP"
#define MAGIC_SIZE 7
#define VERSION 1
#define FLAGS_MUST_KNOW 0xffffu
#define MS_MAX ((uint64_t)0xffffffffffff)

void checkpoint_done(struct checkpoint *c)
{
	free(c->parts);
	free(c->covers);
	*c = (struct checkpoint){0};
}

void checkpoint_name(uint64_t ms, uint64_t node, char name[CHECKPOINT_NAME_SIZE])
{
	snprintf(name, CHECKPOINT_NAME_SIZE, "%012" PRIx64 "-%016" PRIx64, ms & MS_MAX, node);
}

bool checkpoint_name_parse(const char *name, uint64_t *ms, uint64_t *node)
{
	char text[SEGMENT_NAME_SIZE];
	struct segment_id id;

	if (strnlen(name, CHECKPOINT_NAME_SIZE) != CHECKPOINT_NAME_SIZE - 1)
		return false;
	snprintf(text, sizeof(text), "%s-%016x", name, 0u);
	if (!segment_name_parse(text, &id))
		return false;
	*ms = id.ms;
	*node = id.node;
	return true;
}

static const struct segment_id *find_cover(const struct checkpoint *c, uint64_t node)
{
	uint32_t low = 0, high = c->cover_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (c->covers[middle].node == node)
			return &c->covers[middle];
		if (c->covers[middle].node < node)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

uint64_t checkpoint_covers(const struct checkpoint *c, uint64_t node)
{
	const struct segment_id *cover = find_cover(c, node);

	return cover ? cover->seq : 0;
}

uint64_t checkpoint_segments(const struct checkpoint *c)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < c->cover_count; i++)
		sum += c->covers[i].seq;
	return sum;
}

void checkpoint_encode(const struct checkpoint *c, struct buf *b)
{
	uint8_t sum[SHA256_SIZE];

	buf_clear(b);
	buf_put(b, MAGIC, MAGIC_SIZE);
	buf_put_u8(b, VERSION);
	buf_put_be32(b, 0);
	buf_put_be64(b, c->ms);
	buf_put_be64(b, c->node);
	buf_put_be64(b, c->records);
	buf_put_be64(b, c->horizon_ms);
	buf_put_be64(b, c->cursor_ms);
	buf_put_be32(b, c->part_count);
	buf_put_be32(b, c->cover_count);
	for (uint32_t i = 0; i < c->part_count; i++) {
		buf_put_be64(b, c->parts[i].size);
		buf_put(b, c->parts[i].hash, SHA256_SIZE);
	}
	for (uint32_t i = 0; i < c->cover_count; i++) {
		buf_put_be64(b, c->covers[i].node);
		buf_put_be64(b, c->covers[i].seq);
		buf_put_be64(b, c->covers[i].ms);
	}
	if (b->failed)
		return;
	sha256(b->data, b->len, sum);
	buf_put(b, sum, sizeof(sum));
}

static int check_frame(const char *name, const uint8_t *p, size_t n, struct err *err)
{
	uint8_t sum[SHA256_SIZE];

	if (n < MAGIC_SIZE + 5 + SHA256_SIZE || memcmp(p, MAGIC, MAGIC_SIZE))
		return err_set(err, -EBADMSG, "checkpoint %s: not a checkpoint's manifest", name);
	sha256(p, n - SHA256_SIZE, sum);
	if (memcmp(sum, p + n - SHA256_SIZE, SHA256_SIZE))
		return err_set(err, -EBADMSG,
			"checkpoint %s: damaged (its checksum does not match)", name);
	return 0;
}

/* NULL, or what is wrong. */
static const char *decode_parts(struct reader *r, struct checkpoint *c)
{
	if (c->part_count > CHECKPOINT_PARTS_MAX || c->part_count > reader_left(r) / 40)
		return "absurd number of parts";
	c->parts = calloc(c->part_count ? c->part_count : 1, sizeof(*c->parts));
	if (!c->parts)
		return "out of memory";
	for (uint32_t i = 0; i < c->part_count; i++) {
		const uint8_t *hash;

		c->parts[i].size = reader_be64(r);
		hash = reader_raw(r, SHA256_SIZE);
		if (!hash || c->parts[i].size > SEGMENT_BYTES_MAX)
			return "absurd part";
		memcpy(c->parts[i].hash, hash, SHA256_SIZE);
	}
	return NULL;
}

static const char *decode_covers(struct reader *r, struct checkpoint *c)
{
	if (c->cover_count > CHECKPOINT_COVERS_MAX || c->cover_count > reader_left(r) / 24)
		return "absurd number of writers";
	c->covers = calloc(c->cover_count ? c->cover_count : 1, sizeof(*c->covers));
	if (!c->covers)
		return "out of memory";
	for (uint32_t i = 0; i < c->cover_count; i++) {
		struct segment_id *id = &c->covers[i];

		id->node = reader_be64(r);
		id->seq = reader_be64(r);
		id->ms = reader_be64(r);
		if (!id->seq || id->ms > MS_MAX || (i && id->node <= c->covers[i - 1].node))
			return "absurd writers";
	}
	return NULL;
}

int checkpoint_decode(
	const char *name, const void *p, size_t n, struct checkpoint *ret, struct err *err)
{
	struct checkpoint c = {0};
	struct reader r;
	uint64_t ms, node;
	const char *what;
	uint8_t version;
	uint32_t flags;
	int code = check_frame(name, p, n, err);

	if (code)
		return code;
	r = reader_of(p, n - SHA256_SIZE);
	reader_raw(&r, MAGIC_SIZE);
	version = reader_u8(&r);
	flags = reader_be32(&r);
	if (version > VERSION || (flags & FLAGS_MUST_KNOW))
		return err_set(err, -EPROTONOSUPPORT,
			"checkpoint %s: format %u is newer than this program: install the newer "
			"meridian",
			name, version);
	c.ms = reader_be64(&r);
	c.node = reader_be64(&r);
	c.records = reader_be64(&r);
	c.horizon_ms = reader_be64(&r);
	c.cursor_ms = reader_be64(&r);
	c.part_count = reader_be32(&r);
	c.cover_count = reader_be32(&r);
	what = decode_parts(&r, &c);
	if (!what)
		what = decode_covers(&r, &c);
	/* What follows is a later version's. */
	if (!what && r.failed)
		what = "cut short";
	if (!what && (!checkpoint_name_parse(name, &ms, &node) || ms != c.ms || node != c.node))
		what = "was written under another name";
	if (!what) {
		*ret = c;
		return 0;
	}
	checkpoint_done(&c);
	return err_set(err, -EBADMSG, "checkpoint %s: %s", name, what);
}
