/* The token bucket and the layer that paces a store by it, under a clock that only sleeping moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/store/layers.h"
#include "replicator/store/rate.h"
#include "src/base/buf.h"
#include "src/base/clock.h"

static int64_t now_ms;

static int64_t fake_realtime(void *ctx UNUSED)
{
	return now_ms * 1000000;
}

static int64_t fake_monotonic(void *ctx UNUSED)
{
	return now_ms;
}

static void fake_sleep(void *ctx UNUSED, int64_t ms)
{
	now_ms += ms;
}

static const struct clock_source source = {fake_realtime, fake_monotonic, fake_sleep, NULL};

static int setup(void **state)
{
	char *dir = strdup("/tmp/meridian-pace-XXXXXX");

	now_ms = 1000000;
	clock_set_source(&source);
	*state = dir;
	return dir && mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char command[64];

	clock_set_source(NULL);
	snprintf(command, sizeof(command), "rm -r %s", (char *)*state);
	free(*state);
	return system(command);
}

/* Over any stretch of time no more goes than the rate and one burst. */
static void the_bucket_keeps_its_rate(void **state UNUSED)
{
	struct rate r;

	rate_init(&r, 1000, 1);
	assert_int_equal(rate_take(&r, 250), 0); /* a quarter of a second's worth */
	assert_int_equal(rate_take(&r, 100), 100);
	assert_int_equal(rate_take(&r, 100), 200); /* those before it are waited for, too */
	now_ms += 450;
	assert_int_equal(rate_take(&r, 250), 0); /* what came in, and no more than a burst */
	assert_int_equal(rate_take(&r, 1), 1);
	now_ms += 1000000;
	assert_int_equal(rate_take(&r, 250), 0);
	assert_int_equal(rate_take(&r, 10), 10);
	rate_done(&r);
	rate_init(&r, 0, 1);
	assert_int_equal(rate_take(&r, UINT64_MAX), 0);
	rate_done(&r);
	/* the greatest numbers */
	rate_init(&r, UINT64_MAX, 16384);
	assert_int_equal(rate_take(&r, RATE_MAX), 750);
	rate_done(&r);
}

static struct store *paced(const char *dir, uint64_t bytes, uint64_t requests)
{
	char url[80];
	struct store_config config = {.name = "r", .url = url};
	struct store *s;
	struct err err = {0};

	snprintf(url, sizeof(url), "file://%s", dir);
	assert_int_equal(store_dir_open(&config, &s, &err), 0);
	return store_pace_new(s, bytes, requests);
}

static int64_t put(struct store *s, size_t len, enum store_priority priority)
{
	struct store_call call = {.priority = priority, .deadline_ms = now_ms + 60000};
	char *p = calloc(1, len);
	int64_t start = now_ms;

	assert_non_null(p);
	assert_int_equal(store_put_buf(s, "k", p, len, NULL, NULL, NULL, &call, NULL), STORE_OK);
	free(p);
	return now_ms - start;
}

static void bodies_take_their_time_both_ways(void **state)
{
	struct store *s = paced(*state, 100000, 0);
	struct buf b = {0};

	int64_t took = put(s, 1000000, STORE_BULK);
	assert_in_range(took, 9700, 10100);
	int64_t start = now_ms;
	assert_int_equal(store_get_buf(s, "k", 2000000, &b, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(b.len, 1000000);
	/* one bucket each way: nothing of the sent bytes is left in the way of the received */
	assert_in_range(now_ms - start, 9700, 10100);
	buf_done(&b);
	store_close(s);
}

static void urgent_calls_do_not_wait_and_are_waited_for(void **state)
{
	struct store *s = paced(*state, 100000, 0);

	assert_int_equal(put(s, 200000, STORE_URGENT), 0);
	assert_in_range(put(s, 100000, STORE_NORMAL), 2700, 3000);
	store_close(s);
}

/* A deadline that was made for 64 KiB a second holds when there is less. */
static void deadlines_are_stretched(void **state)
{
	struct store *s = paced(*state, 1 << 17, 0);

	assert_in_range(put(s, 16 << 20, STORE_BULK), 120000, 130000);
	store_close(s);
}

static void calls_are_counted(void **state)
{
	struct store *s = paced(*state, 0, 10);
	int64_t start = now_ms;

	for (int i = 0; i < 40; i++)
		(void)!store_head(s, "none", NULL, NULL, NULL, NULL);
	assert_in_range(now_ms - start, 3600, 4000);
	store_close(s);
}

static void cancel_ends_the_wait(void **state)
{
	atomic_bool cancel = true;
	struct store_call call = {.cancel = &cancel};
	struct store *s = paced(*state, 0, 1);
	int64_t start = now_ms;

	for (int i = 0; i < 5; i++)
		assert_int_equal(store_head(s, "none", NULL, NULL, &call, NULL), STORE_LOCAL);
	assert_int_equal(now_ms, start);
	store_close(s);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_bucket_keeps_its_rate),
		TEST(bodies_take_their_time_both_ways),
		TEST(urgent_calls_do_not_wait_and_are_waited_for),
		TEST(deadlines_are_stretched),
		TEST(calls_are_counted),
		TEST(cancel_ends_the_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
