/* Directory offsets: exact for the last buffers whatever changes, bounded for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "fs/dirmap.h"

static struct slice name_of(uint64_t i, char buffer[32])
{
	return (struct slice){
		buffer, (size_t)snprintf(buffer, 32, "name%08llu", (unsigned long long)i)};
}

static void fill(struct dirmap *m, uint64_t after, uint64_t count)
{
	char b[32];

	dirmap_begin(m, after);
	for (uint64_t i = 1; i <= count; i++) {
		uint64_t offset = (after < DIRMAP_FIRST ? DIRMAP_FIRST : after) + i;

		assert_int_equal(dirmap_next(m), offset);
		assert_int_equal(dirmap_add(m, name_of(offset, b)), 0);
	}
}

static void expect(struct dirmap *m, uint64_t offset, uint64_t name, uint64_t skip)
{
	char b[32];
	uint64_t s;
	struct slice found = dirmap_find(m, offset, &s);

	assert_int_equal(s, skip);
	assert_true(slice_equal(found, name ? name_of(name, b) : (struct slice){"", 0}));
}

static void test_start(void **state)
{
	struct dirmap m;

	dirmap_init(&m);
	for (uint64_t offset = 0; offset <= DIRMAP_FIRST; offset++)
		expect(&m, offset, 0, 0);
	fill(&m, 0, 3);
	expect(&m, 2, 0, 0);
	expect(&m, 3, 3, 0);
	expect(&m, 5, 5, 0);
	expect(&m, 6, 0, 4); /* never given out: counted from the start */
	dirmap_done(&m);
}

static void test_resume_inside_a_buffer(void **state)
{
	struct dirmap m;
	char b[32];

	dirmap_init(&m);
	fill(&m, 0, 100);
	/* The kernel took 40 of them; what follows may have other names now. */
	dirmap_begin(&m, 42);
	assert_int_equal(dirmap_next(&m), 43);
	assert_int_equal(dirmap_add(&m, slice_of("other")), 0);
	expect(&m, 42, 42, 0);
	uint64_t skip;
	assert_true(slice_equal(dirmap_find(&m, 43, &skip), slice_of("other")));
	assert_int_equal(skip, 0);
	/* Offset 44 is forgotten; its old name must not come back. */
	assert_false(slice_equal(dirmap_find(&m, 44, &skip), name_of(44, b)));
	assert_int_not_equal(skip, 0);
	dirmap_done(&m);
}

static void test_old_offsets(void **state)
{
	struct dirmap m;
	uint64_t at = DIRMAP_FIRST;

	dirmap_init(&m);
	for (int i = 0; i < 100; i++) {
		fill(&m, at, 100);
		at += 100;
	}
	expect(&m, at, at, 0);
	expect(&m, at - 399, at - 399, 0);	     /* the first of four buffers */
	expect(&m, at - 400, 9216, at - 400 - 9216); /* older: counted from a mark */
	expect(&m, 1030, 1024, 6);
	expect(&m, 1000, 0, 998);
	dirmap_done(&m);
}

static void test_bounded(void **state)
{
	struct dirmap m;
	uint64_t at = DIRMAP_FIRST;

	dirmap_init(&m);
	for (int i = 0; i < 10000; i++) {
		fill(&m, at, 100);
		at += 100;
	}
	assert_true(m.mark_count <= DIRMAP_MARKS);
	assert_true(m.mark_count >= DIRMAP_MARKS / 4);
	expect(&m, m.stride + 3, m.stride, 3);
	/* Rewinding forgets all. */
	fill(&m, 0, 1);
	assert_int_equal(m.mark_count, 0);
	expect(&m, 3, 3, 0);
	dirmap_done(&m);
}

static void test_longest_name(void **state)
{
	struct dirmap m;
	char name[NAME_MAX_BYTES + 1];
	uint64_t skip;

	for (size_t i = 0; i < sizeof(name); i++)
		name[i] = 'x';
	dirmap_init(&m);
	dirmap_begin(&m, 0);
	assert_int_equal(
		dirmap_add(&m, (struct slice){name, sizeof(name)}), -36 /* ENAMETOOLONG */);
	assert_int_equal(dirmap_add(&m, (struct slice){name, NAME_MAX_BYTES}), 0);
	assert_int_equal(dirmap_find(&m, 3, &skip).len, NAME_MAX_BYTES);
	dirmap_done(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start),
		cmocka_unit_test(test_resume_inside_a_buffer),
		cmocka_unit_test(test_old_offsets),
		cmocka_unit_test(test_bounded),
		cmocka_unit_test(test_longest_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
