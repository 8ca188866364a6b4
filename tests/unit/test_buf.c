/* Buffers and readers: round trips, ceilings, and refusal of every malformed input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "src/base/buf.h"

static const uint64_t numbers[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, INT64_MAX,
	(uint64_t)1 << 63, UINT64_MAX - 1, UINT64_MAX};

static void round_trip(void **state)
{
	struct buf b CLEANUP(buf_done) = {0};
	struct reader r;
	const uint8_t *p;
	size_t n;

	buf_put_u8(&b, 0xfe);
	buf_put_be32(&b, 0x01020304);
	buf_put_be64(&b, UINT64_C(0x0102030405060708));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		buf_put_varint(&b, numbers[i]);
		buf_put_svarint(&b, (int64_t)numbers[i]);
	}
	buf_put_bytes(&b, "a\0b", 3);
	buf_put_bytes(&b, NULL, 0);
	buf_put(&b, "raw", 3);
	assert_false(b.failed);
	assert_memory_equal(b.data, "\xfe\x01\x02\x03\x04\x01\x02\x03\x04\x05\x06\x07\x08", 13);

	r = reader_of(b.data, b.len);
	assert_int_equal(reader_u8(&r), 0xfe);
	assert_int_equal(reader_be32(&r), 0x01020304);
	assert_true(reader_be64(&r) == UINT64_C(0x0102030405060708));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		assert_true(reader_varint(&r) == numbers[i]);
		assert_true(reader_svarint(&r) == (int64_t)numbers[i]);
	}
	p = reader_bytes(&r, 3, &n);
	assert_int_equal(n, 3);
	assert_memory_equal(p, "a\0b", 3);
	assert_non_null(reader_bytes(&r, 0, &n));
	assert_int_equal(n, 0);
	assert_memory_equal(reader_raw(&r, 3), "raw", 3);
	assert_int_equal(reader_left(&r), 0);
	assert_false(r.failed);
}

static void varint_bytes(void **state)
{
	struct buf b CLEANUP(buf_done) = {0};

	buf_put_varint(&b, 300);
	buf_put_svarint(&b, -1);
	buf_put_svarint(&b, 1);
	buf_put_varint(&b, UINT64_MAX);
	assert_int_equal(b.len, 14);
	assert_memory_equal(b.data, "\xac\x02\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 14);
}

static void malformed_varints(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
	} bad[] = {
		{"", 0},
		{"\x80", 1},					      /* short */
		{"\x80\x00", 2},				      /* zero in two bytes */
		{"\xff\x80\x00", 3},				      /* trailing zero group */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10},     /* bit 64 */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x00", 11}, /* eleven bytes */
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x80\x01", 11},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct reader r = reader_of(bad[i].bytes, bad[i].n);

		assert_true(reader_varint(&r) == 0);
		assert_true(r.failed);
		assert_int_equal(reader_left(&r), 0);
		r = reader_of(bad[i].bytes, bad[i].n);
		assert_true(reader_svarint(&r) == 0);
		assert_true(r.failed);
	}
}

static void short_and_oversized(void **state)
{
	struct reader r = reader_of("\x03"
				    "ab",
		3);
	size_t n = 99;

	assert_null(reader_bytes(&r, 10, &n));
	assert_int_equal(n, 0);
	assert_true(r.failed);
	/* Nothing more after a failure, even what would be there. */
	assert_int_equal(reader_u8(&r), 0);
	assert_null(reader_raw(&r, 0));

	r = reader_of("\x03"
		      "abc",
		4);
	assert_null(reader_bytes(&r, 2, &n));
	assert_true(r.failed);
	r = reader_of("abc", 3);
	assert_int_equal(reader_be32(&r), 0);
	assert_true(r.failed);
	r = reader_of(NULL, 0);
	assert_non_null(reader_raw(&r, 0));
	assert_false(r.failed);
	assert_null(reader_raw(&r, SIZE_MAX));
	assert_true(r.failed);
}

static void ceiling(void **state)
{
	struct buf b CLEANUP(buf_done) = {.max = 100};

	for (int i = 0; i < 10; i++)
		buf_put(&b, "0123456789", 10);
	assert_false(b.failed);
	assert_int_equal(b.len, 100);
	assert_int_equal(strlen(buf_str(&b)), 100);
	assert_true(b.cap <= 101);
	buf_put_u8(&b, 'x');
	assert_true(b.failed);
	assert_int_equal(b.len, 100);
	assert_string_equal(buf_str(&b), "");
	buf_clear(&b);
	assert_null(buf_reserve(&b, 101));
	buf_put(&b, "x", 1); /* a buffer with a gap must stay failed */
	assert_int_equal(b.len, 0);
	buf_clear(&b);
	buf_put(&b, "01234567890123456789", 20);
	buf_put_bytes(&b, b.data, 80);
	assert_true(b.failed);
	assert_int_equal(b.len, 20);
	buf_clear(&b);
	assert_null(buf_reserve(&b, SIZE_MAX));
}

static void text(void **state)
{
	struct buf b CLEANUP(buf_done) = {0};
	char *room;

	assert_string_equal(buf_str(&b), "");
	buf_put_str(&b, "one ");
	buf_printf(&b, "%d %s", 2, "three");
	assert_string_equal(buf_str(&b), "one 2 three");
	assert_int_equal(b.len, 11);
	room = buf_reserve(&b, 1000);
	memset(room, 'y', 1000);
	b.len += 1000;
	buf_printf(&b, "%0500d", 7);
	assert_int_equal(strlen(buf_str(&b)), 1511);
	assert_int_equal(b.data[1510], '7');
	buf_done(&b);
	assert_null(b.data);
	assert_int_equal(b.cap, 0);
}

static void zeros(void **state)
{
	uint8_t b[100] = {0};

	assert_true(is_zeros(b, 0));
	assert_true(is_zeros(b, 1));
	assert_true(is_zeros(b, sizeof(b)));
	for (size_t i = 0; i < sizeof(b); i++) {
		b[i] = 0x80;
		assert_false(is_zeros(b, sizeof(b)));
		assert_true(is_zeros(b, i));
		b[i] = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(varint_bytes),
		cmocka_unit_test(malformed_varints),
		cmocka_unit_test(short_and_oversized),
		cmocka_unit_test(ceiling),
		cmocka_unit_test(text),
		cmocka_unit_test(zeros),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
