/* Time, real or simulated. The source is written only while the process has one thread, so it is
 * read without a lock. */
#include "src/base/clock.h"

#include <errno.h>
#include <time.h>

#include "src/base/attribute.h"

#define NS_PER_MS INT64_C(1000000)
#define MS_PER_S INT64_C(1000)
#define NS_PER_S (NS_PER_MS * MS_PER_S)
/* A hundred years, so that a deadline of "for ever" does not overflow. */
#define SLEEP_MAX_MS (INT64_C(100) * 366 * 86400 * MS_PER_S)

static int64_t system_realtime_ns(void *ctx)
{
	struct timespec t;

	CHECK(clock_gettime(CLOCK_REALTIME, &t) == 0);
	return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

static int64_t milliseconds_of(clockid_t clock)
{
	struct timespec t;

	CHECK(clock_gettime(clock, &t) == 0);
	return (int64_t)t.tv_sec * MS_PER_S + t.tv_nsec / NS_PER_MS;
}

static int64_t system_monotonic_ms(void *ctx)
{
	return milliseconds_of(CLOCK_MONOTONIC);
}

static int64_t system_boottime_ms(void *ctx)
{
	return milliseconds_of(CLOCK_BOOTTIME);
}

static void system_sleep_ms(void *ctx, int64_t ms)
{
	struct timespec t;
	int r;

	if (ms <= 0)
		return;
	if (ms > SLEEP_MAX_MS)
		ms = SLEEP_MAX_MS;
	/* An absolute deadline: signals neither shorten nor stretch the sleep. */
	CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
	t.tv_sec += ms / MS_PER_S;
	t.tv_nsec += ms % MS_PER_S * NS_PER_MS;
	if (t.tv_nsec >= NS_PER_S) {
		t.tv_nsec -= NS_PER_S;
		t.tv_sec++;
	}
	do {
		r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
	} while (r == EINTR);
	CHECK(r == 0);
}

static const struct clock_source system_source = {
	.realtime_ns = system_realtime_ns,
	.monotonic_ms = system_monotonic_ms,
	.sleep_ms = system_sleep_ms,
	.boottime_ms = system_boottime_ms,
};

static struct clock_source current = {
	.realtime_ns = system_realtime_ns,
	.monotonic_ms = system_monotonic_ms,
	.sleep_ms = system_sleep_ms,
	.boottime_ms = system_boottime_ms,
};

void clock_set_source(const struct clock_source *source)
{
	current = source ? *source : system_source;
}

int64_t clock_realtime_ns(void)
{
	return current.realtime_ns(current.ctx);
}

int64_t clock_realtime_ms(void)
{
	return clock_realtime_ns() / NS_PER_MS;
}

int64_t clock_monotonic_ms(void)
{
	return current.monotonic_ms(current.ctx);
}

int64_t clock_boottime_ms(void)
{
	return current.boottime_ms ? current.boottime_ms(current.ctx) : clock_monotonic_ms();
}

int64_t clock_kernel_coarse_ns(void)
{
	struct timespec t;

	CHECK(clock_gettime(CLOCK_REALTIME_COARSE, &t) == 0);
	return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

void clock_sleep_ms(int64_t ms)
{
	current.sleep_ms(current.ctx, ms);
}
