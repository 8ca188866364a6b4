/* The token bucket and the layer that paces a store by it, under a clock that only sleeping moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "replicator/store/layers.h"
#include "replicator/store/rate.h"
#include "src/base/buf.h"
#include "src/base/clock.h"

static int64_t now_ms, shift_ms; /* the wall clock is ahead by the latter */

static int64_t fake_realtime(void *ctx UNUSED)
{
	return (now_ms + shift_ms) * 1000000;
}

static int64_t fake_monotonic(void *ctx UNUSED)
{
	return now_ms;
}

static void fake_sleep(void *ctx UNUSED, int64_t ms)
{
	now_ms += ms;
}

static const struct clock_source source = {
	.realtime_ns = fake_realtime, .monotonic_ms = fake_monotonic, .sleep_ms = fake_sleep};

static int setup(void **state)
{
	char *dir = strdup("/tmp/meridian-pace-XXXXXX");

	now_ms = 1000000; /* 00:16:40 */
	shift_ms = 0;
	setenv("TZ", "UTC", 1);
	tzset();
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

static int64_t take(struct rate *r, uint64_t n)
{
	return rate_wait_ms(r, rate_take(r, n));
}

/* Over any stretch of time no more goes than the rate and one burst. */
static void the_bucket_keeps_its_rate(void **state UNUSED)
{
	struct rate r;

	rate_init(&r, 1000, 1);
	assert_int_equal(take(&r, 250), 0); /* a quarter of a second's worth */
	assert_int_equal(take(&r, 100), 100);
	assert_int_equal(take(&r, 100), 200); /* those before it are waited for, too */
	now_ms += 450;
	assert_int_equal(take(&r, 250), 0); /* what came in, and no more than a burst */
	assert_int_equal(take(&r, 1), 1);
	now_ms += 1000000;
	assert_int_equal(take(&r, 250), 0);
	assert_int_equal(take(&r, 10), 10);
	rate_done(&r);
	rate_init(&r, 0, 1);
	assert_int_equal(take(&r, UINT64_MAX), 0);
	rate_done(&r);
	/* the greatest numbers */
	rate_init(&r, UINT64_MAX, 16384);
	assert_int_equal(take(&r, RATE_MAX), 750);
	rate_done(&r);
}

/* Neither those who wait nor those who come get anything by the change itself. */
static void another_rate_holds_at_once_and_brings_no_burst(void **state UNUSED)
{
	struct rate r;

	rate_init(&r, 1000, 1);
	assert_int_equal(take(&r, 250), 0);
	uint64_t waiting = rate_take(&r, 8000);
	assert_int_equal(rate_wait_ms(&r, waiting), 8000);
	rate_set(&r, 8000);
	assert_int_equal(rate_wait_ms(&r, waiting), 1000);
	now_ms += 500;
	rate_set(&r, 1000);
	assert_int_equal(rate_wait_ms(&r, waiting), 4000);
	now_ms += 4000;
	assert_int_equal(rate_wait_ms(&r, waiting), 0);
	/* up: what there is stays, 100 and not a quarter of a second's worth */
	now_ms += 100;
	rate_set(&r, 100000);
	assert_int_equal(take(&r, 100), 0);
	assert_int_equal(take(&r, 100), 1);
	now_ms += 1000;
	/* down: at most a burst of the new rate */
	rate_set(&r, 1000);
	assert_int_equal(take(&r, 250), 0);
	assert_int_equal(take(&r, 10), 10);
	rate_done(&r);
}

static void no_limit_for_a_while_leaves_nothing_to_spend(void **state UNUSED)
{
	struct rate r;

	rate_init(&r, 10, 1);
	assert_int_equal(take(&r, 2), 0);
	uint64_t waiting = rate_take(&r, 100);
	assert_int_equal(rate_wait_ms(&r, waiting), 10000);
	rate_set(&r, 0);
	assert_int_equal(rate_wait_ms(&r, waiting), 0);
	assert_int_equal(take(&r, UINT64_MAX), 0);
	now_ms += 3600000;
	rate_set(&r, 1000);
	assert_int_equal(rate_wait_ms(&r, waiting), 0);
	assert_int_equal(take(&r, 1), 1);
	assert_int_equal(take(&r, 999), 1000);
	rate_done(&r);
}

/* One a second, told again four times a second. */
static void the_same_rate_again_changes_nothing(void **state UNUSED)
{
	struct rate r;

	rate_init(&r, 1, 1);
	assert_int_equal(take(&r, 1), 0);
	uint64_t ticket = rate_take(&r, 1);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(rate_wait_ms(&r, ticket), 1000 - 200 * i);
		now_ms += 200;
		rate_set(&r, 1);
	}
	assert_int_equal(rate_wait_ms(&r, ticket), 0);
	rate_done(&r);
}

static struct store *paced_by(
	const char *dir, const struct schedule *bytes, const struct schedule *requests)
{
	char url[80];
	struct store_config config = {.name = "r", .url = url};
	struct store *s;
	struct err err = {0};

	snprintf(url, sizeof(url), "file://%s", dir);
	assert_int_equal(store_dir_open(&config, &s, &err), 0);
	return store_pace_new(s, bytes, requests);
}

static struct store *paced(const char *dir, uint64_t bytes, uint64_t requests)
{
	return paced_by(
		dir, &(struct schedule){.usual = bytes}, &(struct schedule){.usual = requests});
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

enum { READ_AT_ONCE = 262144 }; /* by a directory */

/* Bytes that came, by tenths of a second. */
struct flow {
	int64_t start_ms;
	uint64_t came[1000], total;
	uint64_t jump_at; /* when so many came the wall clock jumps; 0: never */
	int64_t jump_ms;
};

static int flow_write(void *ctx, const void *p UNUSED, size_t len)
{
	struct flow *f = ctx;
	int64_t tenth = (now_ms - f->start_ms) / 100;

	assert_in_range(tenth, 0, 999);
	f->came[tenth] += len;
	f->total += len;
	if (f->jump_at && f->total >= f->jump_at) {
		shift_ms += f->jump_ms;
		f->jump_at = 0;
	}
	return 0;
}

/* One transfer; returns its milliseconds. */
static int64_t transfer(const char *dir, const struct schedule *bytes, size_t len, struct flow *f)
{
	static const struct schedule none;
	struct store_sink sink = {.write = flow_write, .ctx = f};
	struct store *s = paced(dir, 0, 0);

	put(s, len, STORE_BULK);
	store_close(s);
	s = paced_by(dir, bytes, &none);
	f->start_ms = now_ms;
	assert_int_equal(store_get(s, "k", 0, len, NULL, &sink, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(f->total, len);
	store_close(s);
	return now_ms - f->start_ms;
}

static uint64_t came(const struct flow *f, int64_t from_ms, int64_t to_ms)
{
	uint64_t sum = 0;

	for (int64_t t = from_ms / 100; t < to_ms / 100; t++)
		sum += f->came[t];
	return sum;
}

/* From 00:17 on, 20 s from now, ten times as much for a minute. */
static const struct schedule minute = {
	.usual = 1000000, .rules = 1, .rule = {{10000000, 17, 18, SCHEDULE_ALL_DAYS}}};

static void a_transfer_changes_its_pace_at_the_border(void **state)
{
	struct flow f = {0};

	/* 20 MB before, and 50 MB after it */
	assert_in_range(transfer(*state, &minute, 70000000, &f), 24900, 25400);
	assert_in_range(came(&f, 10000, 20000), 9600000, 10400000);
	/* no burst where it begins, and the new pace within half a second */
	for (int64_t t = 20000; t < 21000; t += 100)
		assert_true(came(&f, t, t + 100) <= 1000000 + READ_AT_ONCE);
	assert_in_range(came(&f, 20500, 21500), 9600000, 10400000);
	/* back at the next one: two seconds' worth and a burst, and the rest slowly */
	now_ms = 1000000 + 78000; /* 00:17:58 */
	f = (struct flow){0};
	assert_in_range(transfer(*state, &minute, 30000000, &f), 6900, 9700);
	assert_in_range(came(&f, 2500, 6500), 3600000, 4400000);
}

static void what_waits_long_is_woken_by_the_border(void **state)
{
	/* at 00:17 there is no limit, and what is left comes at once */
	static const struct schedule open = {
		.usual = 64000, .rules = 1, .rule = {{0, 17, 1440, SCHEDULE_ALL_DAYS}}};
	struct flow f = {0};

	assert_in_range(transfer(*state, &open, 20000000, &f), 20000, 20500);
}

/* Nobody else comes meanwhile who would look at the clock. */
static void a_call_behind_many_is_woken_by_the_border(void **state)
{
	static const struct schedule none;
	static const struct schedule open = {
		.usual = 1, .rules = 1, .rule = {{0, 17, 1440, SCHEDULE_ALL_DAYS}}};
	struct store_call urgent = {.priority = STORE_URGENT};
	struct store *s = paced_by(*state, &none, &open);
	int64_t start = now_ms;

	for (int i = 0; i < 300; i++)
		(void)!store_head(s, "none", NULL, NULL, &urgent, NULL);
	assert_int_equal(now_ms, start);
	(void)!store_head(s, "none", NULL, NULL, NULL, NULL);
	assert_in_range(now_ms - start, 20000, 20400);
	store_close(s);
}

static void the_pace_is_what_the_clock_says(void **state)
{
	/* an hour ahead when 2 MB came, then ten times as slow */
	static const struct schedule hours = {
		.usual = 1000000, .rules = 1, .rule = {{100000, 60, 120, SCHEDULE_ALL_DAYS}}};
	struct flow f = {.jump_at = 2000000, .jump_ms = 3600000};

	/* what comes before the clock is looked at again makes three seconds */
	assert_in_range(transfer(*state, &hours, 3000000, &f), 7800, 12100);
	/* and back */
	f = (struct flow){.jump_at = 1000000, .jump_ms = -3600000};
	assert_in_range(transfer(*state, &hours, 3000000, &f), 11500, 12300);
}

static void requests_have_hours_too(void **state)
{
	static const struct schedule none;
	static const struct schedule hours = {
		.usual = 1, .rules = 1, .rule = {{100, 17, 60, SCHEDULE_ALL_DAYS}}};
	struct store *s = paced_by(*state, &none, &hours);
	int64_t start = now_ms;

	for (int i = 0; i < 121; i++)
		(void)!store_head(s, "none", NULL, NULL, NULL, NULL);
	/* 21 of them in 20 s, the others in another one */
	assert_in_range(now_ms - start, 20900, 21400);
	store_close(s);
}

static void the_limit_that_holds_is_told(void **state)
{
	static const struct schedule none;
	struct store_pace_limit bytes, requests;
	struct store *s = paced_by(*state, &minute, &none);

	store_pace_read(s, &bytes, &requests);
	assert_int_equal(bytes.per_second, 1000000);
	assert_int_equal(bytes.until_ms, 17 * 60000);
	assert_int_equal(requests.per_second, 0);
	assert_int_equal(requests.until_ms, 0);
	now_ms = 17 * 60000;
	store_pace_read(s, &bytes, &requests);
	assert_int_equal(bytes.per_second, 10000000);
	assert_int_equal(bytes.until_ms, 18 * 60000);
	store_close(s);
	store_pace_read(NULL, &bytes, &requests);
	assert_int_equal(bytes.per_second, 0);
}

/* By the lowest limit of the week: it may come while the transfer is under way. */
static void deadlines_are_stretched_for_the_lowest(void **state)
{
	static const struct schedule none;
	static const struct schedule low = {
		.usual = 4 << 20, .rules = 1, .rule = {{1 << 17, 17, 60, SCHEDULE_ALL_DAYS}}};
	struct store *s = paced_by(*state, &low, &none);

	now_ms = 17 * 60000 - 1000;
	assert_in_range(put(s, 16 << 20, STORE_BULK), 76000, 92000);
	store_close(s);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_bucket_keeps_its_rate),
		TEST(another_rate_holds_at_once_and_brings_no_burst),
		TEST(no_limit_for_a_while_leaves_nothing_to_spend),
		TEST(the_same_rate_again_changes_nothing),
		TEST(bodies_take_their_time_both_ways),
		TEST(urgent_calls_do_not_wait_and_are_waited_for),
		TEST(deadlines_are_stretched),
		TEST(calls_are_counted),
		TEST(cancel_ends_the_wait),
		TEST(a_transfer_changes_its_pace_at_the_border),
		TEST(what_waits_long_is_woken_by_the_border),
		TEST(a_call_behind_many_is_woken_by_the_border),
		TEST(the_pace_is_what_the_clock_says),
		TEST(requests_have_hours_too),
		TEST(the_limit_that_holds_is_told),
		TEST(deadlines_are_stretched_for_the_lowest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
