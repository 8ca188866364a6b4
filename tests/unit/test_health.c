/* When a region is left for another one, and when it is taken back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/cluster.h"

#include "replicator/health.h"
#include "src/base/metrics.h"

static struct health listed(int64_t ms)
{
	struct health h = {0};

	for (int i = 0; i < 3; i++)
		health_latency(&h, ms);
	return h;
}

static void failures_make_it_leave(void **state UNUSED)
{
	struct health h = {0}, other = {0};

	health_note(&h, true);
	assert_false(health_should_leave(&h, &other)); /* one may be chance */
	assert_true(health_suspicious(&h));
	health_note(&h, true);
	assert_true(health_should_leave(&h, &other));
	assert_false(health_should_leave(&h, NULL)); /* nobody to go to */
	other = h;
	assert_false(health_should_leave(&h, &other));
	for (int i = 0; i < 5; i++)
		health_note(&h, false);
	assert_false(health_suspicious(&h));
}

static void slowness_is_judged_by_others(void **state UNUSED)
{
	struct health slow = listed(900), fast = listed(20), far = listed(300), unknown = {0};

	assert_true(health_should_leave(&slow, &fast));
	assert_false(health_should_leave(&slow, &far)); /* three times: not clearly better */
	assert_false(health_should_leave(&slow, &unknown));
	slow = listed(400);
	assert_false(health_should_leave(&slow, &fast)); /* good enough */
	slow = (struct health){0};
	health_latency(&slow, 60000);
	assert_false(health_should_leave(&slow, &fast)); /* a single one */
}

static void a_stretch_of_good_probes_brings_it_back(void **state UNUSED)
{
	struct health h = {.left = true, .left_ms = 1000}, best = listed(20);

	for (int i = 0; i < 9; i++)
		health_probed(&h, false, 30, &best);
	assert_false(health_may_return(&h, 100000));
	health_probed(&h, true, 5000, &best);
	for (int i = 0; i < 9; i++)
		health_probed(&h, false, 30, &best);
	health_probed(&h, false, 2000, &best); /* an answer, and a slow one */
	for (int i = 0; i < 9; i++)
		health_probed(&h, false, 30, &best);
	assert_false(health_may_return(&h, 100000));
	health_probed(&h, false, 30, &best);
	assert_false(health_may_return(&h, 10999)); /* not so soon */
	assert_true(health_may_return(&h, 11000));
}

/* ---- with servers ---- */

static int64_t slow_ms;

static enum store_result slow_down(
	void *ctx UNUSED, const char *op, const char *key UNUSED, bool did_happen)
{
	if (!did_happen && strcmp(op, "list") == 0)
		clock_sleep_ms(slow_ms);
	return STORE_OK;
}

static struct store *slow_east(
	struct cluster *c UNUSED, unsigned node UNUSED, unsigned region, struct store *inner)
{
	return region == 0 ? store_fault_new(inner, slow_down, NULL) : inner;
}

static void watch(struct cluster *c, unsigned n, unsigned seconds)
{
	while (seconds--) {
		replicator_step_watch(c->node[n].replicator);
		cluster_pull(c, n);
		cluster_now_ms += 1000;
	}
}

static bool left(struct cluster *c, unsigned n)
{
	struct replicator_status *s = cluster_status(c, n);
	bool ret = s->region[0].left;

	assert_false(s->region[1].left);
	assert_string_equal(s->pull_region, ret ? "west" : "east");
	free(s);
	return ret;
}

static void slow_home_is_left_and_taken_back(void **state)
{
	struct cluster *c = *state;

	cluster_stop_node(c, 0, true);
	c->wrap = slow_east;
	slow_ms = 0;
	cluster_start_node(c, 0);
	cluster_puts(c, 1, "a", "one");
	cluster_settle(c);
	watch(c, 0, 10);
	assert_false(left(c, 0));
	uint64_t before = c->requests[1];
	watch(c, 0, 10);
	assert_int_equal(c->requests[1], before); /* a healthy home costs the others nothing */
	slow_ms = 3000;
	watch(c, 0, 40);
	assert_true(left(c, 0));
	cluster_puts(c, 1, "a", "two");
	cluster_settle(c);
	cluster_expect(c, 0, "a", "two");
	slow_ms = 0;
	watch(c, 0, 5);
	assert_true(left(c, 0));
	watch(c, 0, 15);
	assert_false(left(c, 0));
}

static void dead_home_is_left_and_taken_back(void **state)
{
	struct cluster *c = *state;
	uint64_t times = metric_get(METRIC_REGIONS_LEFT);

	cluster_puts(c, 1, "a", "one");
	cluster_settle(c);
	watch(c, 0, 3);
	c->down[0] = true;
	watch(c, 0, 10);
	assert_true(left(c, 0));
	assert_int_equal(metric_get(METRIC_REGIONS_LEFT), times + 1);
	cluster_puts(c, 1, "a", "two");
	cluster_settle(c);
	cluster_expect(c, 0, "a", "two");
	/* One that comes and goes is not followed each time. */
	for (int i = 0; i < 5; i++) {
		c->down[0] = i % 2;
		watch(c, 0, 6);
		assert_true(left(c, 0));
	}
	c->down[0] = false;
	for (int i = 0; i < 120 && left(c, 0); i++) {
		(void)cluster_push(c, 0); /* its threads would check it */
		watch(c, 0, 1);
	}
	assert_false(left(c, 0));
	assert_int_equal(metric_get(METRIC_REGIONS_LEFT), times + 1);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failures_make_it_leave),
		cmocka_unit_test(slowness_is_judged_by_others),
		cmocka_unit_test(a_stretch_of_good_probes_brings_it_back),
		CLUSTER_TEST(slow_home_is_left_and_taken_back),
		CLUSTER_TEST(dead_home_is_left_and_taken_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
