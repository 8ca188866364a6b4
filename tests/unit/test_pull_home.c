/* A server whose home region is another one from now on. */
#define CLUSTER_NODES 3
#include "tests/unit/cluster.h"

#include <unistd.h>

#include "cache/dump.h"
#include "src/base/thread.h"

enum { EAST, WEST };
enum { WRITER, MOVING, OTHER };
#define HOURS_MS INT64_C(3600000)

/* The writer does not reach the second region while set. */
static bool is_cut;

static enum store_result cut(
	void *ctx UNUSED, const char *op UNUSED, const char *key UNUSED, bool did_happen)
{
	return is_cut && !did_happen ? STORE_TRANSIENT : STORE_OK;
}

static struct store *wrap(
	struct cluster *c UNUSED, unsigned node, unsigned region, struct store *inner)
{
	return node == WRITER && region == WEST ? store_fault_new(inner, cut, NULL) : inner;
}

static void push_and_pull(struct cluster *c, unsigned node)
{
	for (unsigned i = 0; i < 40; i++) {
		cluster_push(c, node);
		cluster_pull(c, MOVING);
		cluster_now_ms += 500;
	}
}

/*
 * While its home region did not answer another one stood in, and was read from an hour before what was known
 * on: that a writer's earlier segments are known was taken for granted then. Once that other one is the home
 * region it is not: what came there alone is to be found, and a checkpoint must not claim it.
 */
static void test_what_stood_in_becomes_home(void **state)
{
	struct cluster *c = *state;

	c->wrap = wrap;
	cluster_stop_node(c, WRITER, true);
	cluster_start_node(c, WRITER);
	cluster_settle(c);
	is_cut = true;
	cluster_puts(c, WRITER, "early", "only in the first region");
	push_and_pull(c, WRITER);
	cluster_now_ms += 3 * HOURS_MS;
	cluster_puts(c, OTHER, "other", "in both");
	push_and_pull(c, OTHER);
	cluster_expect(c, MOVING, "other", "in both");
	c->down[WEST] = true;
	cluster_puts(c, WRITER, "late", "read from what stands in");
	push_and_pull(c, WRITER);
	cluster_expect(c, MOVING, "late", "read from what stands in");
	cluster_expect_absent(c, MOVING, "early");
	cluster_stop_node(c, MOVING, true);
	c->same_home = true;
	cluster_start_node(c, MOVING);
	push_and_pull(c, WRITER);
	cluster_expect(c, MOVING, "early", "only in the first region");
	cluster_expect(c, MOVING, "late", "read from what stands in");
	is_cut = false;
}

struct starting {
	struct replicator *replicator;
	int result;
	_Atomic bool started;
};

static void *start(void *arg)
{
	struct starting *s = arg;
	struct err err = {0};

	s->result = replicator_start(s->replicator, &err);
	atomic_store(&s->started, true);
	return NULL;
}

static bool is_begun(struct cluster *c)
{
	struct conn *conn;
	bool began;

	assert_int_equal(cache_begin(c->node[MOVING].cache, &conn), 0);
	assert_int_equal(region_read_begin(conn, EAST, &began), 0);
	cache_rollback(conn);
	return !began;
}

/* None of the threads, of which one writes checkpoints, sees its log before it is begun: as long as that cannot be
 * committed none is started. */
static void test_begun_before_the_threads(void **state)
{
	struct cluster *c = *state;
	struct starting s = {0};
	struct conn *conn;
	pthread_t thread;
	bool early = false;

	cluster_settle(c);
	cluster_stop_node(c, MOVING, true);
	c->same_home = true;
	cluster_start_node(c, MOVING);
	assert_false(is_begun(c));
	clock_set_source(NULL);
	assert_int_equal(cache_begin(c->node[MOVING].cache, &conn), 0);
	s.replicator = c->node[MOVING].replicator;
	assert_int_equal(thread_start(&thread, "start", start, &s), 0);
	for (unsigned i = 0; i < 100; i++) {
		usleep(10000);
		early |= atomic_load(&s.started);
	}
	cache_rollback(conn);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(s.result, 0);
	assert_false(early);
	assert_true(is_begun(c));
	replicator_stop(s.replicator);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_what_stood_in_becomes_home, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_begun_before_the_threads, cluster_setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
