/* Settings by name. */
#include "tests/unit/replica_fixture.h"

#include "cache/meta.h"

static void settings_are_kept(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	char text[8];

	assert_int_equal(meta_get_text(conn, "volume_test", text, sizeof(text)), -ENOENT);
	assert_int_equal(meta_set_text(conn, "volume_test", "abc"), 0);
	assert_int_equal(meta_set_text(conn, "volume_test", "1234567"), 0);
	assert_int_equal(meta_get_text(conn, "volume_test", text, sizeof(text)), 0);
	assert_string_equal(text, "1234567");
	assert_int_equal(meta_get_text(conn, "volume_test", text, 7), -ERANGE);
	cache_rollback(conn);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(settings_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
