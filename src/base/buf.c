/*
 * Byte buffers and readers. Kept apart from the formats that use them so that every bound on
 * hostile input is checked in one place.
 *
 * Invariants: len <= max; whenever data is not NULL, cap > len, so that there is always room for
 * the NUL of buf_str and vsnprintf. Once failed, a buffer takes nothing more (a gap would turn
 * into a well-formed lie) and a reader yields nothing more. No lock: one user at a time.
 */
#include "src/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BUF_MAX_DEFAULT ((size_t)1 << 30)
#define BUF_CAP_MIN ((size_t)64)
#define VARINT_MAX_BYTES 10

/* Room for n more bytes and a NUL. */
static bool grow(struct buf *b, size_t n)
{
	size_t max = b->max ? b->max : BUF_MAX_DEFAULT;
	size_t need, cap;
	uint8_t *data;

	if (b->failed)
		return false;
	if (__builtin_add_overflow(b->len, n, &need) || need > max || need == SIZE_MAX) {
		b->failed = true;
		return false;
	}
	if (b->data && need < b->cap)
		return true;
	cap = b->cap < BUF_CAP_MIN ? BUF_CAP_MIN : b->cap;
	while (cap <= need) {
		if (__builtin_mul_overflow(cap, (size_t)2, &cap))
			cap = need + 1;
	}
	/* Doubling must not take more than the ceiling promises. */
	if (cap - 1 > max)
		cap = max + 1;
	data = realloc(b->data, cap);
	if (!data) {
		b->failed = true;
		return false;
	}
	b->data = data;
	b->cap = cap;
	return true;
}

void buf_done(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

void buf_clear(struct buf *b)
{
	b->len = 0;
	b->failed = false;
}

void *buf_reserve(struct buf *b, size_t n)
{
	return grow(b, n) ? b->data + b->len : NULL;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
	if (!grow(b, n) || !n)
		return;
	memcpy(b->data + b->len, p, n);
	b->len += n;
}

void buf_put_str(struct buf *b, const char *s)
{
	buf_put(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0) {
		b->failed = true;
		return;
	}
	if (!grow(b, (size_t)n))
		return;
	va_start(args, fmt);
	vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, args);
	va_end(args);
	b->len += (size_t)n;
}

void buf_put_u8(struct buf *b, uint8_t v)
{
	buf_put(b, &v, 1);
}

static void store_be(uint8_t *out, uint64_t v, size_t n)
{
	while (n--) {
		out[n] = (uint8_t)v;
		v >>= 8;
	}
}

void buf_put_be32(struct buf *b, uint32_t v)
{
	uint8_t out[4];

	store_be(out, v, sizeof(out));
	buf_put(b, out, sizeof(out));
}

void buf_put_be64(struct buf *b, uint64_t v)
{
	uint8_t out[8];

	store_be(out, v, sizeof(out));
	buf_put(b, out, sizeof(out));
}

void buf_put_varint(struct buf *b, uint64_t v)
{
	uint8_t out[VARINT_MAX_BYTES];
	size_t n = 0;

	while (v >= 0x80) {
		out[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	out[n++] = (uint8_t)v;
	buf_put(b, out, n);
}

void buf_put_svarint(struct buf *b, int64_t v)
{
	buf_put_varint(b, ((uint64_t)v << 1) ^ (v < 0 ? UINT64_MAX : 0));
}

void buf_put_bytes(struct buf *b, const void *p, size_t n)
{
	size_t start = b->len;

	buf_put_varint(b, n);
	buf_put(b, p, n);
	if (b->failed)
		b->len = start;
}

const char *buf_str(struct buf *b)
{
	if (!grow(b, 0))
		return "";
	b->data[b->len] = '\0';
	return (const char *)b->data;
}

struct reader reader_of(const void *p, size_t n)
{
	/* A zero-length result must differ from a failure's NULL even for an empty input. */
	static const uint8_t empty[1];
	const uint8_t *start = p ? p : empty;

	return (struct reader){.p = start, .end = start + (p ? n : 0)};
}

size_t reader_left(const struct reader *r)
{
	/* Nothing after a failure, so that a loop over the rest ends. */
	return r->failed ? 0 : (size_t)(r->end - r->p);
}

const uint8_t *reader_raw(struct reader *r, size_t n)
{
	const uint8_t *p = r->p;

	if (r->failed || n > (size_t)(r->end - r->p)) {
		r->failed = true;
		return NULL;
	}
	r->p += n;
	return p;
}

static uint64_t load_be(struct reader *r, size_t n)
{
	const uint8_t *p = reader_raw(r, n);
	uint64_t v = 0;

	for (size_t i = 0; p && i < n; i++)
		v = v << 8 | p[i];
	return v;
}

uint8_t reader_u8(struct reader *r)
{
	return (uint8_t)load_be(r, 1);
}

uint32_t reader_be32(struct reader *r)
{
	return (uint32_t)load_be(r, 4);
}

uint64_t reader_be64(struct reader *r)
{
	return load_be(r, 8);
}

uint64_t reader_varint(struct reader *r)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < VARINT_MAX_BYTES; i++) {
		const uint8_t *p = reader_raw(r, 1);

		if (!p)
			return 0;
		/* The tenth byte carries bit 63 only; a final zero byte is a longer spelling of
		 * a number that has a shorter one, and equal values must have equal bytes. */
		if ((i == VARINT_MAX_BYTES - 1 && *p > 1) || (i > 0 && *p == 0))
			break;
		v |= (uint64_t)(*p & 0x7f) << (7 * i);
		if (*p < 0x80)
			return v;
	}
	r->failed = true;
	return 0;
}

int64_t reader_svarint(struct reader *r)
{
	uint64_t v = reader_varint(r);

	return (int64_t)((v >> 1) ^ (v & 1 ? UINT64_MAX : 0));
}

const uint8_t *reader_bytes(struct reader *r, size_t max, size_t *n)
{
	uint64_t len = reader_varint(r);
	const uint8_t *p = NULL;

	*n = 0;
	if (r->failed || len > max)
		r->failed = true;
	else
		p = reader_raw(r, (size_t)len);
	if (p)
		*n = (size_t)len;
	return p;
}

bool is_zeros(const void *p, size_t n)
{
	const uint8_t *bytes = p;

	return n == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0);
}
