/*
 * Byte buffers and the wire encoding of Meridian's own formats: unsigned LEB128 varints,
 * zig-zag for signed ones, length-prefixed bytes, fixed big-endian words.
 * Not thread-safe.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/attribute.h"

/* A growable byte string. {0} is a valid empty buffer. data is not NUL-terminated except after
 * buf_str. An allocation failure or growth over max (0: 1 GiB) sets failed and drops the
 * write; callers check once at the end. */
struct buf {
	uint8_t *data;
	size_t len;
	size_t cap;
	size_t max;
	bool failed;
};

void buf_done(struct buf *b);  /* frees; b becomes {0}; also the CLEANUP function */
void buf_clear(struct buf *b); /* len = 0, failed = false, memory kept */
void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_be32(struct buf *b, uint32_t v);
void buf_put_be64(struct buf *b, uint64_t v);
void buf_put_varint(struct buf *b, uint64_t v);
void buf_put_svarint(struct buf *b, int64_t v);
/* varint length, then the bytes */
void buf_put_bytes(struct buf *b, const void *p, size_t n);
/* Room for n more bytes at data + len, or NULL (failed set). The caller adds to len. */
void *buf_reserve(struct buf *b, size_t n);
/* NUL-terminates without counting it in len; returns the string, or "" when failed. */
const char *buf_str(struct buf *b);

/* Reads what struct buf wrote. Every getter returns zero or NULL and sets failed when the input
 * is short, over-long or malformed; callers check failed once at the end. Input is borrowed. */
struct reader {
	const uint8_t *p;
	const uint8_t *end;
	bool failed;
};

struct reader reader_of(const void *p, size_t n);
size_t reader_left(const struct reader *r);
uint8_t reader_u8(struct reader *r);
uint32_t reader_be32(struct reader *r);
uint64_t reader_be64(struct reader *r);
uint64_t reader_varint(struct reader *r); /* at most 10 bytes, canonical length required */
int64_t reader_svarint(struct reader *r);
/* Borrowed pointer to n bytes, *n read from a varint; fails when *n > max. */
const uint8_t *reader_bytes(struct reader *r, size_t max, size_t *n);
const uint8_t *reader_raw(struct reader *r, size_t n);

bool is_zeros(const void *p, size_t n);

#endif
