/* Reading and writing at an offset: up to the end, holes, and failures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "src/base/io.h"

static void what_was_written_is_read(void **state UNUSED)
{
	FILE *file = tmpfile();
	char text[16] = "";
	int fd;

	assert_non_null(file);
	fd = fileno(file);
	assert_int_equal(io_write_at(fd, "hello", 5, 3), 0);
	assert_int_equal(io_read_at(fd, text, 5, 3), 5);
	assert_memory_equal(text, "hello", 5);
	assert_int_equal(io_read_at(fd, text, sizeof(text), 0), 8);
	assert_memory_equal(text, "\0\0\0hello", 8);
	assert_int_equal(io_read_at(fd, text, 1, 8), 0);
	assert_int_equal(io_write_at(fd, "", 0, 100), 0);
	assert_int_equal(io_read_at(fd, text, sizeof(text), 0), 8);
	fclose(file);
}

static void failures_are_told(void **state UNUSED)
{
	int full = open("/dev/full", O_RDWR | O_CLOEXEC),
	    null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	char c;

	assert_true(full >= 0 && null >= 0);
	assert_int_equal(io_write_at(full, "x", 1, 0), -ENOSPC);
	assert_int_equal(io_write_at(null, "x", 1, 0), -EBADF);
	assert_int_equal(io_read_at(-1, &c, 1, 0), -EBADF);
	close(full);
	close(null);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_is_read),
		cmocka_unit_test(failures_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
