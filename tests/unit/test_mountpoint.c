/* What is at a path that is no mount; dead mounts are left to the tests that mount. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "src/base/mountpoint.h"

static void what_is_there(void **state UNUSED)
{
	struct stat st = {.st_size = 7};

	assert_int_equal(mountpoint_stat("/nowhere/at/all", &st), -ENOENT);
	assert_int_equal(mountpoint_stat("/dev/null/below", &st), -ENOTDIR);
	assert_int_equal(st.st_size, 7);
	assert_int_equal(mountpoint_stat("/dev/null", &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(mountpoint_stat("/", &st), 0);
	assert_true(S_ISDIR(st.st_mode));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_there)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
