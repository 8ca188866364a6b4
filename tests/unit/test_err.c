/* Error texts: codes pass through, old texts may be arguments, long ones are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "src/base/err.h"

static void sets_and_prefixes(void **state)
{
	struct err e = {0};

	assert_int_equal(err_set(&e, -EINVAL, "line %d", 3), -EINVAL);
	assert_string_equal(e.text, "line 3");
	assert_int_equal(err_prefix(&e, -EIO, "file %s", "a.conf"), -EIO);
	assert_string_equal(e.text, "file a.conf: line 3");
	assert_int_equal(err_errno(&e, -ENOENT, "open %s", "x"), -ENOENT);
	assert_string_equal(e.text, "open x: No such file or directory");
	err_set(&e, -EIO, "again (%s)", e.text);
	assert_string_equal(e.text, "again (open x: No such file or directory)");
	e.text[0] = '\0';
	err_prefix(&e, -EIO, "alone");
	assert_string_equal(e.text, "alone");
}

static void no_err(void **state)
{
	assert_int_equal(err_set(NULL, -EINVAL, "x"), -EINVAL);
	assert_int_equal(err_prefix(NULL, -EIO, "x"), -EIO);
	assert_int_equal(err_errno(NULL, -ENOENT, "x"), -ENOENT);
}

static void long_texts_are_cut(void **state)
{
	char big[2 * ERR_TEXT_MAX];
	struct err e = {0};

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&e, -EIO, "%s", big);
	assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
	err_prefix(&e, -EIO, "context");
	assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
	assert_memory_equal(e.text, "context: aaa", 12);
	err_prefix(&e, -EIO, "%s", big);
	assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
	err_errno(&e, -ENOENT, "%s", big);
	assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_and_prefixes),
		cmocka_unit_test(no_err),
		cmocka_unit_test(long_texts_are_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
