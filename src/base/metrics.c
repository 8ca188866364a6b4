/* The counters themselves. Relaxed: each is a number of its own and orders nothing. */
#include "src/base/metrics.h"

#include <stdatomic.h>

#include "src/base/attribute.h"

static _Atomic uint64_t counters[METRIC_COUNT];

static const struct {
	const char *name;
	const char *help;
} texts[] = {
#define METRIC_TEXT(id, name, help) {name, help},
	METRICS(METRIC_TEXT)
#undef METRIC_TEXT
};

void metric_add(enum metric m, uint64_t n)
{
	CHECK((unsigned int)m < METRIC_COUNT);
	atomic_fetch_add_explicit(&counters[m], n, memory_order_relaxed);
}

uint64_t metric_get(enum metric m)
{
	CHECK((unsigned int)m < METRIC_COUNT);
	return atomic_load_explicit(&counters[m], memory_order_relaxed);
}

const char *metric_name(enum metric m)
{
	CHECK((unsigned int)m < METRIC_COUNT);
	return texts[m].name;
}

const char *metric_help(enum metric m)
{
	CHECK((unsigned int)m < METRIC_COUNT);
	return texts[m].help;
}
