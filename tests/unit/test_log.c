/* The log, seen by a child process whose standard error is a pipe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/log.h"

static char output[16384];
static size_t output_len;

/* Runs fn in a child and gathers what it wrote; returns the wait status. */
static int capture(void (*fn)(void), const char *journal_stream)
{
	int fds[2], status = 0;
	pid_t child;
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		signal(SIGABRT, SIG_DFL); /* cmocka has its own */
		unsetenv("JOURNAL_STREAM");
		if (journal_stream)
			setenv("JOURNAL_STREAM", journal_stream, 1);
		if (dup2(fds[1], STDERR_FILENO) < 0)
			_exit(99);
		close(fds[0]);
		close(fds[1]);
		fn();
		_exit(0);
	}
	close(fds[1]);
	output_len = 0;
	while ((n = read(fds[0], output + output_len, sizeof(output) - 1 - output_len)) > 0)
		output_len += (size_t)n;
	output[output_len] = '\0';
	close(fds[0]);
	assert_true(waitpid(child, &status, 0) == child);
	return status;
}

static void every_level(void)
{
	log_error("one x=%d", 1);
	log_warn("two");
	log_info("three");
	log_debug("four");
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("five");
	log_set_level(LOG_LEVEL_ERROR);
	log_warn("six");
	log_error("seven");
}

static void levels(void **state)
{
	assert_int_equal(capture(every_level, NULL), 0);
	assert_string_equal(
		output, "error one x=1\nwarn two\ninfo three\ndebug five\nerror seven\n");
}

static void journal_prefix(void **state)
{
	assert_int_equal(capture(every_level, "8:12345"), 0);
	assert_string_equal(output, "<3>error one x=1\n<4>warn two\n<6>info three\n<7>debug five\n"
				    "<3>error seven\n");
}

static void hostile_name(void)
{
	log_info("got path=%s", "a\nerror forged\r\x1b[2J\x7f\xc2\x9bz\xc3\xbc\ttab");
}

static void no_forged_lines(void **state)
{
	assert_int_equal(capture(hostile_name, NULL), 0);
	assert_string_equal(output, "info got path=a error forged  [2J   z\xc3\xbc tab\n");
}

static void long_line(void)
{
	char big[9000];

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	errno = ENOSPC;
	log_info("%s", big);
	log_info("errno=%d", errno);
}

static void long_lines_are_cut(void **state)
{
	assert_int_equal(capture(long_line, NULL), 0);
	assert_true(strchr(output, '\n') - output == 4094 || strchr(output, '\n') - output == 4095);
	assert_memory_equal(strchr(output, '\n') - 4, "a...", 4);
	assert_string_equal(strchr(output, '\n'), "\ninfo errno=28\n");
}

static void break_invariant(void)
{
	int zero = 0;

	CHECK(zero == 1);
}

static void check_names_its_place(void **state)
{
	int status = capture(break_invariant, NULL);

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(output, "error invariant broken expr=\"zero == 1\" at="));
	assert_non_null(strstr(output, "test_log.c:"));
}

static void background(void)
{
	log_use_syslog("meridian-test");
	log_set_level(LOG_LEVEL_ERROR);
	log_info("not sent");
	log_error("to syslog only");
}

static void syslog_leaves_stderr_alone(void **state)
{
	assert_int_equal(capture(background, NULL), 0);
	assert_string_equal(output, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels),
		cmocka_unit_test(journal_prefix),
		cmocka_unit_test(no_forged_lines),
		cmocka_unit_test(long_lines_are_cut),
		cmocka_unit_test(check_names_its_place),
		cmocka_unit_test(syslog_leaves_stderr_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
