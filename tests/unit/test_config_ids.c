/* Maps of ids: whatever pairs are given, nobody is shown as somebody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/config_ids.h"

static uint32_t kept(const struct fs_id_map *m, uint32_t shown)
{
	for (unsigned i = 0; i < m->count; i++)
		if (m->pair[i].shown == shown)
			return m->pair[i].kept;
	return shown;
}

static void assert_permutation(const struct fs_id_map *m)
{
	for (unsigned i = 0; i < m->count; i++) {
		unsigned as_kept = 0, as_shown = 0;

		for (unsigned j = 0; j < m->count; j++) {
			as_kept += m->pair[j].kept == m->pair[i].shown;
			as_shown += m->pair[j].shown == m->pair[i].shown;
		}
		assert_int_equal(as_kept, 1);
		assert_int_equal(as_shown, 1);
	}
}

static void test_maps_are_completed(void **state)
{
	struct fs_id_map m = {0};
	struct err err = {0};

	assert_int_equal(config_ids_map("", false, &m, &err), 0);
	assert_int_equal(m.count, 0);
	assert_int_equal(config_ids_map("root:0", false, &m, &err), 0);
	assert_int_equal(m.count, 1);
	assert_int_equal(config_ids_map("1000:2000", false, &m, &err), 0);
	assert_int_equal(kept(&m, 1000), 2000);
	assert_int_equal(kept(&m, 2000), 1000);
	assert_permutation(&m);
	assert_int_equal(config_ids_map("1:2 3:1,2:5, 7:8", false, &m, &err), 0);
	assert_int_equal(kept(&m, 3), 1);
	assert_int_equal(kept(&m, 1), 2);
	assert_int_equal(kept(&m, 2), 5);
	assert_int_equal(kept(&m, 5), 3);
	assert_int_equal(kept(&m, 8), 7);
	assert_permutation(&m);
	assert_int_equal(config_ids_map("1:2,2:1", true, &m, &err), 0);
	assert_int_equal(m.count, 2);
	assert_permutation(&m);
}

static void test_errors_name_the_word(void **state)
{
	static const struct {
		const char *text;
		const char *says;
	} bad[] = {
		{"1000", "is not a pair"},
		{"no-such-user-here:5", "there is no user \"no-such-user-here\""},
		{"1000:alice", "\"alice\" is not a number"},
		{"1000:", "is not a number"},
		{":5", "is not a user's number"},
		{"4294967295:5", "is not a user's number"},
		{"5:4294967295", "is not a number"},
		{"1:2,1:3", "1 is there twice before"},
		{"1:3,2:3", "3 is there twice after"},
	};
	struct fs_id_map m = {.count = 77};
	char many[2000] = "";

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err err = {0};

		assert_int_equal(config_ids_map(bad[i].text, false, &m, &err), -EINVAL);
		assert_non_null(strstr(err.text, bad[i].says));
	}
	for (unsigned i = 0; i < 65; i++)
		snprintf(many + strlen(many), 32, "%u:%u,", i, 1000 + i);
	assert_int_equal(config_ids_map(many, false, &m, NULL), -EINVAL);
	assert_int_equal(m.count, 77);
}

static void test_single_values(void **state)
{
	struct err err = {0};
	uint32_t v = 9;

	assert_int_equal(config_ids_id("root", false, &v, &err), 0);
	assert_int_equal(v, 0);
	assert_int_equal(config_ids_id("1234", true, &v, &err), 0);
	assert_int_equal(v, 1234);
	assert_int_equal(config_ids_id("no-such-group", true, &v, &err), -EINVAL);
	assert_non_null(strstr(err.text, "there is no group"));
	assert_int_equal(config_ids_umask("027", &v, &err), 0);
	assert_int_equal(v, 027);
	assert_int_equal(config_ids_umask("0777", &v, &err), 0);
	assert_int_equal(config_ids_umask("", &v, &err), -EINVAL);
	assert_int_equal(config_ids_umask("1000", &v, &err), -EINVAL);
	assert_int_equal(config_ids_umask("8", &v, &err), -EINVAL);
	assert_int_equal(config_ids_umask("99999999999999999999", &v, &err), -EINVAL);
	assert_int_equal(v, 0777);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_maps_are_completed),
		cmocka_unit_test(test_errors_name_the_word),
		cmocka_unit_test(test_single_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
