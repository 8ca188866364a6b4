/*
 * Time. Everything that needs the time or wants to wait asks here, so that a simulation can
 * replace the source. Thread-safe; clock_set_source only before threads exist.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

struct clock_source {
	int64_t (*realtime_ns)(void *ctx);  /* since 1970-01-01 UTC */
	int64_t (*monotonic_ms)(void *ctx); /* since any fixed point */
	void (*sleep_ms)(void *ctx, int64_t ms);
	void *ctx;
	/* As monotonic_ms, and goes on while the machine is suspended. NULL: it never is. */
	int64_t (*boottime_ms)(void *ctx);
};

/* NULL restores the system's clock. */
void clock_set_source(const struct clock_source *source);

int64_t clock_realtime_ns(void);
int64_t clock_realtime_ms(void);
int64_t clock_monotonic_ms(void);
/* For what goes on elsewhere while this machine is suspended: the time that others' clocks show. Deadlines and
 * pauses are of clock_monotonic_ms. */
int64_t clock_boottime_ms(void);
/* What the kernel's file systems stamp files with at least, now: never simulated, advances in ticks. */
int64_t clock_kernel_coarse_ns(void);
void clock_sleep_ms(int64_t ms);

#endif
