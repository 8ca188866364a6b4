/* Which parts of a changed object are sent, and which are copied. */
#include "tests/unit/replica_fixture.h"

#include "replicator/upload.h"
#include "replicator/upload_plan.h"

enum { LEAST = 1024, SIZE = 4096 };

static const struct store_limits limits = {
	.put_max = 500, .object_max = 5000, .part_min = 64, .part_max = 1000, .parts_max = 20};

static int plan(const char *base, size_t base_size, const char *now, size_t size, char *ret)
{
	struct content_mapper a, b;
	struct upload_span *spans = NULL;
	uint32_t count = 0;
	uint64_t at = 0;

	content_mapper_begin(&a, base_size, LEAST);
	content_mapper_add(&a, base, base_size);
	content_mapper_begin(&b, size, LEAST);
	content_mapper_add(&b, now, size);
	int r = upload_plan(&limits, 200, &a.map, &b.map, &spans, &count);
	*ret = '\0';
	for (uint32_t i = 0; i < count; i++) {
		const struct upload_span *s = &spans[i];

		/* Without gaps, as long as they must be, and what is copied is the same there. */
		assert_int_equal(s->offset, at);
		at += s->length;
		assert_true(s->length >= limits.part_min || i + 1 == count);
		assert_true(s->length <= (s->copy ? limits.part_max : 200));
		if (s->copy) {
			assert_true(at <= base_size);
			assert_memory_equal(base + s->offset, now + s->offset, s->length);
		}
		sprintf(ret + strlen(ret), "%s%d ", s->copy ? "=" : "", (int)s->length);
	}
	assert_true(r || at == size);
	free(spans);
	content_mapper_end(&a);
	content_mapper_end(&b);
	return r;
}

static void plans(void **state UNUSED)
{
	char base[SIZE + 200], now[SIZE + 200], text[400];

	for (size_t i = 0; i < sizeof(base); i++)
		base[i] = (char)(i * 2654435761u >> 21);
	memcpy(now, base, sizeof(now));
	assert_int_equal(plan(base, SIZE, now, SIZE, text), 0);
	assert_string_equal(text, "=820 =819 =819 =819 =819 ");
	now[2000] ^= 1;
	assert_int_equal(plan(base, SIZE, now, SIZE, text), 0);
	assert_string_equal(text, "=1000 =1000 64 =678 =677 =677 ");
	now[2000] ^= 1;
	/* What is in between is too short to be a part. */
	now[10] ^= 1;
	now[100] ^= 1;
	now[150] ^= 1;
	assert_int_equal(plan(base, SIZE, now, SIZE, text), 0);
	assert_string_equal(text, "160 =984 =984 =984 =984 ");
	memcpy(now, base, sizeof(now));
	now[20] ^= 1; /* nor is what is before the first */
	assert_int_equal(plan(base, SIZE, now, SIZE, text), 0);
	assert_string_equal(text, "64 =807 =807 =806 =806 =806 ");
	memcpy(now, base, sizeof(now));
	/* Appended to, cut, changed at its end. */
	assert_int_equal(plan(base, 2005, now, 2500, text), 0);
	assert_string_equal(text, "=1000 =1000 167 167 166 ");
	assert_int_equal(plan(base, SIZE, now, 1500, text), 0);
	assert_string_equal(text, "=744 =744 12 ");
	now[SIZE - 1] ^= 1;
	assert_int_equal(plan(base, SIZE, now, SIZE, text), 0);
	assert_string_equal(text, "=816 =816 =816 =816 =816 16 ");
}

static void what_saves_little_is_not_planned(void **state UNUSED)
{
	char base[SIZE], now[SIZE], text[400];

	memset(base, 'a', sizeof(base));
	memset(now, 'a', sizeof(now));
	for (int i = 0; i < SIZE; i += 100)
		now[i] = 'b';
	assert_int_equal(plan(base, SIZE, now, SIZE, text), -ENOENT);
	memset(now, 'a', sizeof(now));
	memset(now, 'b', SIZE / 2 + 16);
	assert_int_equal(plan(base, SIZE, now, SIZE, text), -ENOENT);
	/* More parts than the store takes. */
	memset(now, 'a', sizeof(now));
	for (int i = 0; i < SIZE; i += 256)
		now[i] = 'b';
	assert_int_equal(plan(base, SIZE, now, SIZE, text), -ENOENT);
	/* Blocks of another size. */
	struct content_mapper a, b;
	struct upload_span *spans = NULL;
	uint32_t count;

	content_mapper_begin(&a, SIZE, LEAST);
	content_mapper_begin(&b, SIZE, 2 * LEAST);
	content_mapper_add(&a, base, SIZE);
	content_mapper_add(&b, base, SIZE);
	assert_int_equal(upload_plan(&limits, 200, &a.map, &b.map, &spans, &count), -ENOENT);
	content_mapper_end(&a);
	content_mapper_end(&b);
}

/* The largest file of Amazon S3, in blocks of 32 MiB: nothing but the changed ones is sent. */
static void the_largest_is_planned(void **state UNUSED)
{
	const uint64_t mib = 1 << 20, size = UINT64_C(5) << 40;
	const struct store_limits s3 = {.put_max = 5120 * mib,
		.object_max = size,
		.part_min = 5 * mib,
		.part_max = 5120 * mib,
		.parts_max = 10000};
	static const unsigned changed[] = {0, 1, 1000, 4900};

	for (size_t i = 0; i < ARRAY_SIZE(changed); i++) {
		struct content_map base = {.size = size, .bits = content_map_bits(size, CONTENT_MAP_MIN)};
		struct upload_span *spans = NULL;
		uint64_t at = 0, sent = 0;
		uint32_t count = 0;

		base.count = (uint32_t)(size >> base.bits);
		struct content_map now = base;
		base.blocks = calloc(base.count, CONTENT_MAP_HASH_SIZE);
		now.blocks = calloc(now.count, CONTENT_MAP_HASH_SIZE);
		assert_true(base.blocks && now.blocks);
		for (unsigned c = 0; c < changed[i]; c++)
			now.blocks[(c * (base.count / changed[i]) + 1) * CONTENT_MAP_HASH_SIZE] = 1;
		assert_int_equal(upload_plan(&s3, upload_part_size(&s3, size), &base, &now, &spans, &count), 0);
		assert_true(count <= s3.parts_max);
		for (uint32_t s = 0; s < count; s++) {
			assert_int_equal(spans[s].offset, at);
			at += spans[s].length;
			sent += spans[s].copy ? 0 : spans[s].length;
			assert_true(spans[s].length >= s3.part_min && spans[s].length <= s3.part_max);
		}
		assert_int_equal(at, size);
		assert_int_equal(sent, (uint64_t)changed[i] << base.bits);
		free(spans);
		free(base.blocks);
		free(now.blocks);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plans),
		cmocka_unit_test(what_saves_little_is_not_planned),
		cmocka_unit_test(the_largest_is_planned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
