/* Counters: names fit for export, and no addition lost between threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "src/base/metrics.h"
#include "src/base/thread.h"

static void names(void **state)
{
	for (int i = 0; i < METRIC_COUNT; i++) {
		const char *name = metric_name((enum metric)i);

		assert_true(strlen(name) > 6);
		assert_string_equal(name + strlen(name) - 6, "_total");
		assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz_"), strlen(name));
		assert_true(strlen(metric_help((enum metric)i)) > 0);
		for (int k = 0; k < i; k++)
			assert_string_not_equal(name, metric_name((enum metric)k));
	}
	assert_string_equal(metric_name(METRIC_BYTES_SENT), "bytes_sent_total");
}

static void *adder(void *arg)
{
	for (int i = 0; i < 10000; i++)
		metric_add(METRIC_CONFLICTS, 3);
	return NULL;
}

static void additions(void **state)
{
	pthread_t threads[3];

	assert_int_equal(metric_get(METRIC_CONFLICTS), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(thread_start(&threads[i], "adder", adder, NULL), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(metric_get(METRIC_CONFLICTS), 90000);
	assert_int_equal(metric_get(METRIC_STORE_RETRIES), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(additions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
