/* Hashes of parts: the same from a map and from bytes that come by, of sizes that follow from the content's. */
#include "tests/unit/cache_fixture.h"

#include "cache/content_parts.h"

#define MIB (UINT64_C(1) << 20)

static void sizes_follow_from_the_content(void **state)
{
	static const struct {
		uint64_t size;
		unsigned block_bits, part_bits;
		uint64_t count;
	} want[] = {{8 * MIB, 14, 20, 8}, {9 * MIB + 1, 14, 20, 10}, {1024 * MIB, 15, 20, 1024},
		{UINT64_C(256) << 30, 20, 20, 262144}, {(UINT64_C(256) << 30) + 1, 21, 21, 131073},
		{UINT64_C(5) << 40, 25, 25, 163840}};
	struct fixture *f = *state;
	struct content_parts parts;

	assert_false(content_parts_of(f->cache, 8 * MIB - 1, &parts));
	assert_false(content_parts_of(f->cache, UINT64_MAX, &parts));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		assert_true(content_parts_of(f->cache, want[i].size, &parts));
		assert_int_equal(parts.block_bits, want[i].block_bits);
		assert_int_equal(parts.part_bits, want[i].part_bits);
		assert_int_equal(parts.count, want[i].count);
	}
}

static void map_and_bytes_agree(void **state)
{
	static char bytes[8 * 1048576 + 70001];
	CLEANUP(buf_done) struct buf hashes = {0};
	struct fixture *f = *state;
	struct content_parts parts;
	struct content_mapper m;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i / 999 * 31 + i);
	assert_true(content_parts_of(f->cache, sizeof(bytes), &parts));
	content_mapper_begin(&m, sizeof(bytes), content_map_min(f->cache));
	content_mapper_add(&m, bytes, sizeof(bytes));
	assert_true(content_parts_make(&m.map, &parts, &hashes));
	assert_int_equal(hashes.len, 9 * SHA256_SIZE);
	for (size_t part = 0; part < 9; part++) {
		size_t at = part * MIB, end = part == 8 ? sizeof(bytes) : at + MIB;
		uint8_t got[SHA256_SIZE];

		content_part_hash(parts.block_bits, bytes + at, end - at, got);
		assert_memory_equal(got, hashes.data + part * SHA256_SIZE, SHA256_SIZE);
	}
	/* A map of other blocks. */
	parts.block_bits--;
	assert_false(content_parts_make(&m.map, &parts, &hashes));
	content_mapper_end(&m);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(sizes_follow_from_the_content),
		CASE(map_and_bytes_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
