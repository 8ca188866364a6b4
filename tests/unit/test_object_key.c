/* Paths as object keys: exact spellings, the way back, and what must be refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/object_key.h"
#include "src/base/random.h"

static void expect(const char *path, const char *key)
{
	char out[STORE_KEY_MAX + 1];
	struct key back;
	bool directory;

	assert_int_equal(object_key_from_path(slice_of(path), false, out), 0);
	assert_string_equal(out, key);
	assert_int_equal(object_key_to_path(out, &back, &directory), 0);
	assert_false(directory);
	assert_true(slice_equal(key_slice(&back), slice_of(path)));
}

static void refuse(const char *key)
{
	struct key path;
	bool directory;

	if (object_key_to_path(key, &path, &directory) != -EBADMSG)
		fail_msg("accepted: %s", key);
}

static void spellings(void **state)
{
	expect("a/b.txt", "a/b.txt");
	expect("caf\xc3\xa9/\xe2\x82\xac/\xf0\x9f\x98\x80",
		"caf\xc3\xa9/\xe2\x82\xac/\xf0\x9f\x98\x80");
	expect("caf\xe9", "caf%E9");
	expect("\xc3", "%C3");
	expect("\xed\xa0\x80", "%ED%A0%80");	    /* a surrogate */
	expect("\xc0\xaf", "%C0%AF");		    /* an over-long slash */
	expect("\xf4\x90\x80\x80", "%F4%90%80%80"); /* beyond Unicode */
	expect("tab\there\x7f", "tab%09here%7F");
	expect("100%", "100%");
	expect("%zz", "%zz");
	expect("%41", "%2541");
	expect("%aF", "%25aF");
	expect("%%41", "%%2541");
	expect("%\xff", "%%FF");
	expect("a b+c&d?e#f", "a b+c&d?e#f");
}

static void directories(void **state)
{
	char key[STORE_KEY_MAX + 1];
	struct key path;
	bool directory;

	assert_int_equal(object_key_from_path(slice_of("a/b"), true, key), 0);
	assert_string_equal(key, "a/b/");
	assert_int_equal(object_key_to_path("a/b/", &path, &directory), 0);
	assert_true(directory);
	assert_string_equal(path.p, "a/b");
}

static void hostile_keys(void **state)
{
	static const char *const keys[] = {"", "/", "//", "/a", "a//b", "a//", "..", "../x",
		"a/../b", ".", "a/./b", "a/..", ".meridian", ".meridian/log/x", ".meridian/", "%41",
		"%ff", "a%2Fb", "%00", "x%00y", "\xff", "a\x01", "%2E%2E/x", "%C3%A9", "\xc3%A9",
		"%2e", "..%2Fx"};
	char name[300];

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
		refuse(keys[i]);
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	refuse(name);
	name[255] = '\0';
	expect(name, name);
}

static void lengths(void **state)
{
	char path[KEY_MAX + 1], key[2 * STORE_KEY_MAX];

	for (unsigned i = 0; i < KEY_MAX; i++)
		path[i] = i % 200 == 199 ? '/' : 'p';
	path[KEY_MAX] = '\0';
	expect(path, path);
	assert_int_equal(object_key_from_path(slice_of(path), true, key), -ENAMETOOLONG);
	path[3] = '\x01';
	assert_int_equal(object_key_from_path(slice_of(path), false, key), -ENAMETOOLONG);
	memset(key, 'k', sizeof(key));
	key[2 * STORE_KEY_MAX - 1] = '\0';
	refuse(key);
}

/* Any path that the tree can hold has one key, and the key leads back. */
static void random_paths(void **state)
{
	static const char alphabet[] = "a%4F/\xc3\xa9\xff\x1f.";

	for (unsigned round = 0; round < 50000; round++) {
		char path[24], key[STORE_KEY_MAX + 1];
		struct slice s = {path, 1 + random_below(sizeof(path) - 1)};
		bool directory = random_below(2), d;
		struct key back;

		for (size_t i = 0; i < s.len; i++)
			path[i] = alphabet[random_below(sizeof(alphabet) - 1)];
		if (!key_valid(s))
			continue;
		assert_int_equal(object_key_from_path(s, directory, key), 0);
		assert_int_equal(object_key_to_path(key, &back, &d), 0);
		assert_int_equal(d, directory);
		assert_true(slice_equal(key_slice(&back), s));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spellings),
		cmocka_unit_test(directories),
		cmocka_unit_test(hostile_keys),
		cmocka_unit_test(lengths),
		cmocka_unit_test(random_paths),
	};

	random_seed_deterministic(7);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
