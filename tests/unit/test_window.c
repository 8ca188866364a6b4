/* How many requests a store gets at once, over a model of it: a way of some length to a queue that answers so many a second. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "replicator/store/window.h"
#include "src/base/attribute.h"

struct model {
	int64_t way_ms;
	int64_t per_second;
	int64_t now_ms;
};

/* Of now requests under way all but those on the way stand in the queue. */
static int64_t answer_ms(const struct model *m, unsigned now)
{
	int64_t queue_ms = (int64_t)now * 1000 / m->per_second;

	return queue_ms > m->way_ms ? queue_ms : m->way_ms;
}

static void run(struct window *w, struct model *m, int64_t ms)
{
	for (int64_t end = m->now_ms + ms; m->now_ms < end;) {
		int64_t took = answer_ms(m, w->now);

		for (unsigned i = 0, n = w->now; i < n; i++)
			window_answer(w, took, true, m->now_ms);
		m->now_ms += took ? took : 1;
	}
}

static void grows_with_the_distance(void **state UNUSED)
{
	struct model far = {.way_ms = 80, .per_second = 100000, .now_ms = 1};
	struct window w;

	window_init(&w, 16, 64);
	assert_int_equal(w.now, 16);
	run(&w, &far, 1000);
	assert_int_equal(w.now, 64);
	run(&w, &far, 1000);
	assert_int_equal(w.now, 64);
}

static void stays_low_where_requests_only_queue(void **state UNUSED)
{
	struct model near = {.way_ms = 1, .per_second = 300, .now_ms = 1};
	struct window w;

	window_init(&w, 16, 64);
	window_answer(&w, 3, true, 1); /* alone it was quick */
	run(&w, &near, 20000);
	assert_int_equal(w.now, 16);
	/* Far away it has what the way holds, and some more. */
	near.way_ms = 80;
	near.per_second = 200;
	window_init(&w, 16, 64);
	run(&w, &near, 60000);
	assert_in_range(w.now, 25, 40);
}

static void shrinks_when_the_store_is_busy(void **state UNUSED)
{
	struct model m = {.way_ms = 40, .per_second = 100000, .now_ms = 1};
	struct window w;

	window_init(&w, 16, 64);
	run(&w, &m, 2000);
	assert_int_equal(w.now, 64);
	m.per_second = 100;
	run(&w, &m, 30000);
	assert_int_equal(w.now, 16);
}

static void a_longer_way_is_learned(void **state UNUSED)
{
	struct model m = {.way_ms = 10, .per_second = 100000, .now_ms = 1};
	struct window w;

	window_init(&w, 16, 64);
	run(&w, &m, 1000);
	m.way_ms = 120;
	run(&w, &m, 20000);
	assert_int_equal(w.now, 16);
	run(&w, &m, 40000);
	assert_int_equal(w.now, 64);
}

static void does_not_grow_unused(void **state UNUSED)
{
	struct window w;

	window_init(&w, 16, 64);
	for (int i = 0; i < 1000; i++)
		assert_false(window_answer(&w, 80, false, i));
	assert_int_equal(w.now, 16);
	window_init(&w, 16, 3);
	assert_int_equal(w.now, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_with_the_distance),
		cmocka_unit_test(stays_low_where_requests_only_queue),
		cmocka_unit_test(shrinks_when_the_store_is_busy),
		cmocka_unit_test(a_longer_way_is_learned),
		cmocka_unit_test(does_not_grow_unused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
