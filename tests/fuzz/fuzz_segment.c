/*
 * Segments and records as a bucket may send them. The first byte chooses: a whole segment as it is;
 * one whose checksum is put right first (the fuzzer cannot find a SHA-256); or one record. What
 * decodes must encode to something that decodes to the same bytes.
 */
#include <stdio.h>
#include <string.h>

#include "replicator/segment.h"

#define AT_NODE 16
#define AT_SUM 120
#define HEADER_SIZE 152

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static int check_record(void *ctx, const struct record *r, const struct err *err)
{
	CLEANUP(buf_done) struct buf one = {0}, two = {0};
	struct record again;
	struct err e = {0};

	if (!r) {
		CHECK(err && err->text[0]);
		return 0;
	}
	CHECK(key_valid(key_slice(&r->key)));
	record_encode(r, &one);
	CHECK(record_decode(one.data, one.len, &again, &e) == 0);
	record_encode(&again, &two);
	CHECK(one.len == two.len && memcmp(one.data, two.data, one.len) == 0);
	record_done(&again);
	return 0;
}

static void fuzz_record(const uint8_t *p, size_t n)
{
	struct record r;
	struct err err = {0};

	if (record_decode(p, n, &r, &err) == 0) {
		CHECK(check_record(NULL, &r, NULL) == 0);
		record_done(&r);
	}
}

static uint64_t be64(const uint8_t *p)
{
	struct reader r = reader_of(p, 8);

	return reader_be64(&r);
}

static void fuzz_segment(uint8_t *p, size_t n, bool mend)
{
	char name[SEGMENT_NAME_SIZE] = "000000000001-0000000000000002-0000000000000003";
	struct segment s;
	struct err err = {0};

	if (mend && n >= HEADER_SIZE) {
		struct segment_id id = {.ms = be64(p + AT_NODE + 16),
			.node = be64(p + AT_NODE),
			.seq = be64(p + AT_NODE + 8)};
		struct sha256 h;

		memcpy(p, "MRDNSEG", 7);
		sha256_init(&h);
		sha256_update(&h, p, AT_SUM);
		sha256_update(&h, p + HEADER_SIZE, n - HEADER_SIZE);
		sha256_final(&h, p + AT_SUM);
		segment_name(&id, name);
	}
	if (segment_parse(name, p, n, &s, &err) == 0) {
		CHECK(segment_each(&s, check_record, NULL) == 0);
		segment_done(&s);
	}
}

/* The input as the raw payload of a sound segment: reaches the records behind the compression. */
static void fuzz_payload(const uint8_t *p, size_t n)
{
	CLEANUP(buf_done) struct buf out = {0};
	struct segment_id id = {1, 2, 3};
	struct segment_writer w = {0};
	char name[SEGMENT_NAME_SIZE];
	struct segment s;
	struct err err = {0};

	if (n < 1)
		return;
	w.records = p[0];
	buf_put(&w.raw, p + 1, n - 1);
	CHECK(segment_finish(&w, &id, "", false, &out) == 0);
	segment_writer_done(&w);
	segment_name(&id, name);
	if (segment_parse(name, out.data, out.len, &s, &err) == 0) {
		CHECK(segment_each(&s, check_record, NULL) == 0);
		segment_done(&s);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	uint8_t *copy;

	if (n == 0)
		return 0;
	copy = malloc(n);
	CHECK(copy);
	memcpy(copy, p, n);
	switch (copy[0] & 3) {
	case 0:
		fuzz_segment(copy + 1, n - 1, false);
		break;
	case 1:
		fuzz_segment(copy + 1, n - 1, true);
		break;
	case 2:
		fuzz_payload(copy + 1, n - 1);
		break;
	default:
		fuzz_record(copy + 1, n - 1);
	}
	free(copy);
	return 0;
}
