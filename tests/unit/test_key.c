/* Paths as keys: what can be one, and its parts. */
#include "tests/unit/cache_fixture.h"

static bool valid(const char *s)
{
	return key_valid(slice_of(s));
}

static void impossible_paths_are_refused(void **state)
{
	static const char *const bad[] = {"/", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b",
		"../x", ".meridian", ".meridian/log/x"};
	static const char *const good[] = {
		"", "a", "a/b", "...", ".meridianx", "a/.meridian", "a b/\xff\x01"};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(valid(bad[i]));
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(valid(good[i]));
	assert_false(key_valid((struct slice){"a\0b", 3}));
}

static void lengths_are_limited(void **state)
{
	char text[KEY_MAX + 2];
	struct key key = {.len = 7};

	memset(text, 'x', sizeof(text));
	assert_true(key_valid((struct slice){text, NAME_MAX_BYTES}));
	assert_false(key_valid((struct slice){text, NAME_MAX_BYTES + 1}));
	for (size_t i = 100; i < sizeof(text); i += 101)
		text[i] = '/';
	text[KEY_MAX] = 'x';
	assert_true(key_valid((struct slice){text, KEY_MAX}));
	assert_false(key_valid((struct slice){text, KEY_MAX + 1}));
	assert_false(key_set(&key, (struct slice){text, KEY_MAX + 1}));
	assert_int_equal(key.len, 7);
	assert_true(key_set(&key, (struct slice){text, KEY_MAX}));
	assert_int_equal(key.p[KEY_MAX], 0);
}

static void parts(void **state)
{
	assert_true(slice_equal(key_parent(slice_of("a/b/c")), slice_of("a/b")));
	assert_true(slice_equal(key_name(slice_of("a/b/c")), slice_of("c")));
	assert_true(slice_equal(key_parent(slice_of("a")), slice_of("")));
	assert_true(slice_equal(key_name(slice_of("a")), slice_of("a")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(impossible_paths_are_refused),
		cmocka_unit_test(lengths_are_limited),
		cmocka_unit_test(parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
