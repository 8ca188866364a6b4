/* The clock: the system source and a simulated one in its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "src/base/clock.h"

static void system_clock(void **state)
{
	int64_t start = clock_monotonic_ms();
	int64_t wall = clock_realtime_ms();

	assert_true(
		wall / 1000 - (int64_t)time(NULL) <= 1 && (int64_t)time(NULL) - wall / 1000 <= 1);
	assert_true(clock_realtime_ns() / 1000000 >= wall - 1000);
	clock_sleep_ms(20);
	assert_true(clock_monotonic_ms() - start >= 20);
	clock_sleep_ms(0);
	clock_sleep_ms(-5);
	assert_true(clock_boottime_ms() >= start); /* it counts what the other one does, and more */
}

struct virtual_time {
	int64_t ms;
};

static int64_t virtual_realtime_ns(void *ctx)
{
	return ((struct virtual_time *)ctx)->ms * 1000000 + 999999;
}

static int64_t virtual_monotonic_ms(void *ctx)
{
	return ((struct virtual_time *)ctx)->ms - 1000;
}

static int64_t virtual_boottime_ms(void *ctx)
{
	return ((struct virtual_time *)ctx)->ms + 1;
}

static void virtual_sleep_ms(void *ctx, int64_t ms)
{
	((struct virtual_time *)ctx)->ms += ms;
}

static void simulated_clock(void **state)
{
	struct virtual_time now = {.ms = 5000};
	struct clock_source source = {.realtime_ns = virtual_realtime_ns,
		.monotonic_ms = virtual_monotonic_ms,
		.sleep_ms = virtual_sleep_ms,
		.ctx = &now};

	clock_set_source(&source);
	clock_sleep_ms(3600000);
	assert_true(clock_realtime_ns() == INT64_C(3605000999999));
	assert_true(clock_realtime_ms() == 3605000);
	assert_true(clock_monotonic_ms() == 3604000);
	assert_true(clock_boottime_ms() == 3604000);
	source.boottime_ms = virtual_boottime_ms;
	clock_set_source(&source);
	assert_true(clock_boottime_ms() == 3605001);
	assert_true(clock_monotonic_ms() == 3604000);
	clock_set_source(NULL);
	assert_true(clock_realtime_ms() / 1000 >= (int64_t)time(NULL) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(system_clock),
		cmocka_unit_test(simulated_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
