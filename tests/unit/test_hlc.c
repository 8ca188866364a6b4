/* The hybrid logical clock under a simulated wall clock, stamps, and version vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/hlc.h"
#include "src/base/random.h"
#include "src/base/thread.h"

static int64_t wall_ms;
static int64_t monotonic;

static int64_t wall_ns(void *ctx)
{
	return wall_ms * 1000000;
}

static void clock_follows_and_never_returns(void **state)
{
	const struct clock_source source = {.realtime_ns = wall_ns};
	struct hlc h;

	clock_set_source(&source);
	hlc_init(&h, 0);
	wall_ms = 1000;
	assert_true(hlc_now(&h) == UINT64_C(1000) << 16);
	assert_true(hlc_now(&h) == (UINT64_C(1000) << 16) + 1);
	wall_ms = 900; /* set back */
	assert_true(hlc_now(&h) == (UINT64_C(1000) << 16) + 2);
	hlc_observe(&h, UINT64_C(2000) << 16);
	hlc_observe(&h, 5); /* older: no effect */
	assert_true(hlc_now(&h) == (UINT64_C(2000) << 16) + 1);
	wall_ms = 3000;
	assert_true(hlc_ms(hlc_now(&h)) == 3000);
	hlc_init(&h, UINT64_C(5000) << 16);
	assert_true(hlc_now(&h) == (UINT64_C(5000) << 16) + 1);
	wall_ms = -7;
	hlc_init(&h, 0);
	assert_true(hlc_now(&h) == 1); /* 0 means never */
	clock_set_source(NULL);
}

static int64_t monotonic_ms(void *ctx)
{
	return monotonic;
}

static void a_wrong_wall_clock_is_not_followed(void **state)
{
	const struct clock_source source = {.realtime_ns = wall_ns, .monotonic_ms = monotonic_ms};
	struct hlc h;

	clock_set_source(&source);
	hlc_init(&h, 0);
	wall_ms = 10000;
	monotonic = 70;
	hlc_refer(&h, 10400, 500);
	assert_int_equal(hlc_wall_ms(&h), 10000); /* near enough */
	monotonic += 100;
	wall_ms += 100 + 3600000;
	assert_int_equal(hlc_wall_ms(&h), 10500);
	assert_int_equal(hlc_ms(hlc_now(&h)), 10500);
	monotonic += 100;
	wall_ms += 100 - 7200000;
	assert_int_equal(hlc_ms(hlc_now(&h)), 10600);
	monotonic += 100;
	wall_ms = 10750;
	assert_int_equal(hlc_ms(hlc_now(&h)), 10750);
	clock_set_source(NULL);
}

static int64_t suspended;

static int64_t boottime_ms(void *ctx)
{
	return monotonic + suspended;
}

/* A machine that slept is not told that its wall clock is wrong, nor stamps with a time of before. */
static void what_is_referred_to_goes_on_in_suspension(void **state)
{
	const struct clock_source source = {
		.realtime_ns = wall_ns, .monotonic_ms = monotonic_ms, .boottime_ms = boottime_ms};
	struct hlc h;

	clock_set_source(&source);
	hlc_init(&h, 0);
	wall_ms = 10000;
	hlc_refer(&h, 10400, 500);
	suspended = 7200000;
	wall_ms += 7200000;
	assert_int_equal(hlc_wall_ms(&h), 7210000);
	wall_ms = 10000; /* not set after it */
	assert_int_equal(hlc_wall_ms(&h), 7210400);
	clock_set_source(NULL);
}

#define PER_THREAD 20000

struct taker {
	struct hlc *clock;
	uint64_t taken[PER_THREAD];
};

static void *take(void *arg)
{
	struct taker *t = arg;

	for (int i = 0; i < PER_THREAD; i++)
		t->taken[i] = hlc_now(t->clock);
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void values_are_unique_across_threads(void **state)
{
	uint64_t *all = malloc(3 * sizeof(((struct taker *)0)->taken));
	struct taker *takers = calloc(3, sizeof(*takers));
	pthread_t threads[3];
	struct hlc h;

	hlc_init(&h, 0);
	assert_non_null(all);
	assert_non_null(takers);
	for (int i = 0; i < 3; i++) {
		takers[i].clock = &h;
		assert_int_equal(thread_start(&threads[i], "taker", take, &takers[i]), 0);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		for (int k = 1; k < PER_THREAD; k++)
			assert_true(takers[i].taken[k - 1] < takers[i].taken[k]);
		memcpy(all + (ptrdiff_t)i * PER_THREAD, takers[i].taken, sizeof(takers[i].taken));
	}
	qsort(all, 3 * PER_THREAD, sizeof(*all), compare);
	for (int i = 1; i < 3 * PER_THREAD; i++)
		assert_true(all[i - 1] < all[i]);
	free(takers);
	free(all);
}

static void stamps(void **state)
{
	static const char *const bad[] = {"", "-", "0123456789abcdef", "0123456789abcdef-",
		"0123456789abcdef-0123456789abcde", "0123456789abcdef-0123456789abcdef0",
		"0123456789abcdef_0123456789abcdef", "0123456789abcdeg-0123456789abcdef",
		"0123456789ABCDEF-0123456789abcdef", " 123456789abcdef-0123456789abcdef",
		"0123456789abcdef-0x23456789abcdef"};
	struct stamp s = {.time = 0x1f, .node = UINT64_MAX}, t = {0};
	char text[STAMP_TEXT_SIZE];

	stamp_format(s, text);
	assert_string_equal(text, "000000000000001f-ffffffffffffffff");
	assert_true(stamp_parse(text, &t));
	assert_int_equal(stamp_cmp(s, t), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(stamp_parse(bad[i], &t));
	assert_int_equal(stamp_cmp(s, t), 0);
	assert_true(stamp_cmp((struct stamp){1, 9}, (struct stamp){2, 1}) < 0);
	assert_true(stamp_cmp((struct stamp){2, 2}, (struct stamp){2, 1}) > 0);
	assert_true(stamp_cmp((struct stamp){UINT64_MAX, 0}, (struct stamp){1, 0}) > 0);
}

static void vector_basics(void **state)
{
	struct vector v = {0};

	vector_raise(&v, (struct stamp){.time = 5, .node = 30});
	vector_raise(&v, (struct stamp){.time = 6, .node = 10});
	vector_raise(&v, (struct stamp){.time = 7, .node = 20});
	vector_raise(&v, (struct stamp){.time = 4, .node = 30}); /* lower: no effect */
	vector_raise(&v, (struct stamp){.time = 9, .node = 10});
	vector_raise(&v, (struct stamp){.time = 0, .node = 99}); /* never */
	assert_int_equal(v.count, 3);
	assert_true(v.item[0].node == 10 && v.item[1].node == 20 && v.item[2].node == 30);
	assert_int_equal(vector_get(&v, 10), 9);
	assert_int_equal(vector_get(&v, 30), 5);
	assert_int_equal(vector_get(&v, 99), 0);
}

static void full_vector_drops_the_oldest(void **state)
{
	struct vector v = {0};

	for (uint64_t i = 0; i < VECTOR_MAX; i++)
		vector_raise(&v, (struct stamp){.time = 100 + i, .node = 1000 - i});
	vector_raise(
		&v, (struct stamp){.time = 99, .node = 1}); /* older than all: dropped itself */
	assert_int_equal(vector_get(&v, 1), 0);
	assert_int_equal(vector_get(&v, 1000), 100);
	vector_raise(&v, (struct stamp){.time = 500, .node = 2});
	assert_int_equal(v.count, VECTOR_MAX);
	assert_int_equal(vector_get(&v, 1000), 0); /* held 100, the oldest */
	assert_int_equal(vector_get(&v, 2), 500);
	for (uint32_t i = 1; i < v.count; i++)
		assert_true(v.item[i - 1].node < v.item[i].node);
}

/* Merging many overflowing vectors gives the same result in any order and grouping. */
static void merge_is_order_independent(void **state)
{
	random_seed_deterministic(7);
	for (int round = 0; round < 200; round++) {
		struct vector part[4] = {0}, forward = {0}, backward = {0};

		for (int i = 0; i < 40; i++) {
			vector_raise(&part[i % 4], (struct stamp){.time = 1 + random_below(30),
							   .node = random_below(25)});
		}
		for (int i = 0; i < 4; i++) {
			vector_merge(&forward, &part[i]);
			vector_merge(&backward, &part[3 - i]);
		}
		vector_merge(&forward, &forward);
		vector_merge(&forward, &part[0]);
		assert_int_equal(forward.count, backward.count);
		for (uint32_t i = 0; i < forward.count; i++)
			assert_int_equal(stamp_cmp(forward.item[i], backward.item[i]), 0);
	}
	random_use_system();
}

static void vector_wire(void **state)
{
	struct buf b CLEANUP(buf_done) = {0};
	struct vector v = {0}, w = {.count = 3};
	struct reader r;

	for (uint64_t i = 1; i <= VECTOR_MAX; i++)
		vector_raise(&v, (struct stamp){.time = i << 40, .node = UINT64_MAX - i});
	vector_encode(&v, &b);
	r = reader_of(b.data, b.len);
	vector_decode(&r, &w);
	assert_false(r.failed);
	assert_int_equal(reader_left(&r), 0);
	assert_int_equal(w.count, VECTOR_MAX);
	assert_memory_equal(w.item, v.item, sizeof(v.item));
	for (size_t n = 0; n < b.len; n++) {
		r = reader_of(b.data, n);
		vector_decode(&r, &w);
		assert_true(r.failed);
		assert_int_equal(w.count, 0);
	}
}

static void refuse(const struct stamp *items, uint32_t n, uint64_t count)
{
	struct buf b CLEANUP(buf_done) = {0};
	struct vector v;
	struct reader r;

	buf_put_varint(&b, count);
	for (uint32_t i = 0; i < n; i++) {
		buf_put_be64(&b, items[i].node);
		buf_put_be64(&b, items[i].time);
	}
	r = reader_of(b.data, b.len);
	vector_decode(&r, &v);
	assert_true(r.failed);
	assert_int_equal(v.count, 0);
}

static void vector_refuses(void **state)
{
	struct stamp many[VECTOR_MAX + 1];

	for (uint32_t i = 0; i <= VECTOR_MAX; i++)
		many[i] = (struct stamp){.time = 1, .node = i};
	refuse(many, VECTOR_MAX + 1, VECTOR_MAX + 1);
	refuse(many, 2, UINT64_MAX);
	refuse((struct stamp[]){{1, 5}, {1, 5}}, 2, 2);
	refuse((struct stamp[]){{1, 5}, {1, 4}}, 2, 2);
	refuse((struct stamp[]){{0, 5}}, 1, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clock_follows_and_never_returns),
		cmocka_unit_test(a_wrong_wall_clock_is_not_followed),
		cmocka_unit_test(what_is_referred_to_goes_on_in_suspension),
		cmocka_unit_test(values_are_unique_across_threads),
		cmocka_unit_test(stamps),
		cmocka_unit_test(vector_basics),
		cmocka_unit_test(full_vector_drops_the_oldest),
		cmocka_unit_test(merge_is_order_independent),
		cmocka_unit_test(vector_wire),
		cmocka_unit_test(vector_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
