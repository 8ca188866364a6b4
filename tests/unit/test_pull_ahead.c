/* Segments fetched ahead: several at once, bounded, forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/pull_ahead.h"
#include "replicator/store/layers.h"
#include "src/base/clock.h"

static struct regions all;
static struct region *region = &all.region[0];
static _Atomic int at_once, most, gets;
static char dir[] = "/tmp/meridian-ahead-XXXXXX";

/* Each takes 100 ms. */
static enum store_result slow(void *ctx UNUSED, const char *op, const char *key UNUSED, bool done)
{
	if (strcmp(op, "get") != 0)
		return STORE_OK;
	if (done) {
		at_once--;
		return STORE_OK;
	}
	gets++;
	int now = ++at_once;
	if (now > most)
		most = now;
	clock_sleep_ms(100);
	return STORE_OK;
}

static int setup(void **state)
{
	struct store_config config = {.name = "r"};
	char url[64], key[16];
	struct ahead *a;
	struct store *s;
	struct err err = {0};

	strcpy(dir, "/tmp/meridian-ahead-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(url, sizeof(url), "file://%s", dir);
	config.url = url;
	if (store_dir_open(&config, &s, &err) < 0)
		return -1;
	for (int i = 0; i < 20; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		if (store_put_buf(s, key, key, strlen(key), NULL, NULL, NULL, NULL, NULL) !=
			STORE_OK)
			return -1;
	}
	at_once = most = gets = 0;
	region->all = &all;
	region->store = store_fault_new(s, slow, NULL);
	if (ahead_new(&a) < 0 || ahead_start(a) < 0)
		return -1;
	*state = a;
	return 0;
}

static int teardown(void **state)
{
	char command[64];

	ahead_free(*state);
	store_close(region->store);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

static bool add(struct ahead *a, unsigned n, uint64_t size)
{
	char key[16];

	snprintf(key, sizeof(key), "k%u", n);
	return ahead_add(a, region, key, size, n);
}

static void several_at_once_in_any_order(void **state)
{
	struct ahead *a = *state;
	int64_t start = clock_monotonic_ms();

	for (unsigned i = 0; i < AHEAD_SLOTS; i++)
		assert_true(add(a, i, 10));
	assert_false(add(a, AHEAD_SLOTS, 10));
	for (unsigned i = 0; i < AHEAD_SLOTS; i++) {
		struct store_error error = {0};
		enum store_result result;
		struct buf b = {0};
		char key[16];

		snprintf(key, sizeof(key), "k%u", AHEAD_SLOTS - 1 - i);
		assert_true(ahead_take(a, key, &b, &result, &error));
		assert_int_equal(result, STORE_OK);
		assert_int_equal(b.len, strlen(key));
		assert_memory_equal(b.data, key, b.len);
		assert_false(ahead_take(a, key, &b, &result, &error));
		buf_done(&b);
	}
	assert_int_equal(most, AHEAD_THREADS);
	assert_true(clock_monotonic_ms() - start < 100 * AHEAD_SLOTS);
}

static void bytes_are_bounded(void **state)
{
	struct ahead *a = *state;

	assert_true(add(a, 0, AHEAD_BYTES + 1)); /* alone it may be as large as it is */
	assert_false(add(a, 1, 1));
	ahead_forget(a, 1);
	for (int i = 0; i < 100 && !add(a, 1, AHEAD_BYTES / 2); i++)
		clock_sleep_ms(20); /* a request that is under way keeps its room */
	assert_true(add(a, 2, AHEAD_BYTES / 2));
	assert_false(add(a, 3, 1));
}

static void forgotten_ones_are_not_found(void **state)
{
	struct ahead *a = *state;
	struct store_error error = {0};
	enum store_result result;
	struct buf b = {0};

	for (unsigned i = 0; i < AHEAD_SLOTS; i++)
		assert_true(add(a, i, 1));
	clock_sleep_ms(50); /* four of them are under way */
	ahead_forget(a, 7);
	assert_false(ahead_take(a, "k0", &b, &result, &error));
	assert_false(ahead_take(a, "k6", &b, &result, &error));
	assert_true(ahead_take(a, "k7", &b, &result, &error));
	assert_int_equal(result, STORE_OK);
	assert_int_equal(gets, 5);
	buf_done(&b);
	ahead_stop(a);
	assert_false(add(a, 8, 1)); /* nobody would fetch it */
}

static void failures_are_handed_on(void **state)
{
	struct ahead *a = *state;
	struct store_error error = {0};
	enum store_result result;
	struct buf b = {0};

	assert_true(ahead_add(a, region, "none", 1, 1));
	assert_true(ahead_take(a, "none", &b, &result, &error));
	assert_int_equal(result, STORE_ABSENT);
	buf_done(&b);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(several_at_once_in_any_order),
		TEST(bytes_are_bounded),
		TEST(forgotten_ones_are_not_found),
		TEST(failures_are_handed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
