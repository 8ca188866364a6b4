/* Another tool and servers write one path at the same time: what loses is kept somewhere, whoever comes in between. */
#include "tests/unit/tool_fixture.h"

#include "cache/entry.h"
#include "src/base/metrics.h"
#include "tests/sim/store_mem.h"

/* What is done once, in the middle of a request of the first server to the first region. */
static struct {
	struct cluster *cluster;
	const char *op, *key; /* op NULL: nothing */
	bool after;
	void (*act)(struct cluster *c);
} between;

static enum store_result interrupt(
	void *ctx UNUSED, const char *op, const char *key, bool did_happen)
{
	if (between.op && strcmp(op, between.op) == 0 && strcmp(key, between.key) == 0 &&
		did_happen == between.after) {
		between.op = NULL;
		between.act(between.cluster);
	}
	return STORE_OK;
}

static struct store *wrap(
	struct cluster *c UNUSED, unsigned node, unsigned region, struct store *inner)
{
	struct store *s =
		node == 0 && region == EAST ? store_fault_new(inner, interrupt, NULL) : inner;

	s->capabilities &= ~(unsigned)STORE_CAP_COPY_IF_MATCH;
	return s;
}

static void at(struct cluster *c, const char *op, const char *key, bool after,
	void (*act)(struct cluster *c))
{
	between.cluster = c;
	between.op = op;
	between.key = key;
	between.after = after;
	between.act = act;
}

/* Servers whose stores cannot be told which version to copy. */
static void copies_are_unconditional(struct cluster *c)
{
	c->wrap = wrap;
	for (unsigned n = 0; n < c->nodes; n++) {
		cluster_stop_node(c, n, true);
		cluster_start_node(c, n);
	}
}

struct wanted {
	struct store *store;
	const char *text;
	bool found;
};

static int compare(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};
	struct wanted *w = ctx;

	assert_int_equal(
		store_get_buf(w->store, key, 1 << 20, &b, NULL, NULL, NULL, &error), STORE_OK);
	w->found |= strcmp(buf_str(&b), w->text) == 0;
	return 0;
}

static void expect_kept(struct cluster *c, unsigned region, const char *text)
{
	struct wanted w = {bucket(c, region), text, false};
	struct store_error error = {0};

	assert_int_equal(store_list(w.store, ".meridian/conflicts/foreign/", NULL, 0, compare, &w,
				 NULL, &error),
		STORE_OK);
	store_close(w.store);
	assert_true(w.found);
}

/* A scan takes an object over, larger than what comes with a change; another server wrote the path without
 * knowing, later. */
static void test_taken_over_and_lost(void **state)
{
	struct cluster *c = *state;
	char big[100001];

	memset(big, 't', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	uint64_t kept = metric_get(METRIC_FOREIGN_KEPT);

	cluster_settle(c);
	tool_put(c, EAST, "f", big);
	cluster_now_ms += 5000;
	cluster_puts(c, 1, "f", "later");
	assert_int_equal(scan(c, 0, EAST).found[FOUND_PUT], 1);
	cluster_push(c, 0);
	cluster_settle(c);
	expect_everywhere(c, "f", "later");
	assert_true(conflicts(c) > 0);
	expect_kept(c, EAST, big);
	assert_true(metric_get(METRIC_FOREIGN_KEPT) > kept);
	expect_quiet(c);
}

/* A bucket as Ceph's: an ETag speaks of the bytes, and what is copied is what is there. */
static struct store *mem;

static struct store *wrap_mem(
	struct cluster *c UNUSED, unsigned node UNUSED, unsigned region, struct store *inner)
{
	if (region != EAST)
		return inner;
	store_close(inner);
	mem = store_mem_new(STORE_MEM_ALL & ~(unsigned)STORE_CAP_COPY_IF_MATCH);
	mem->capabilities &= ~(unsigned)STORE_CAP_COPY_IF_MATCH;
	return store_fault_new(mem, interrupt, NULL);
}

static void put_mem(const char *text)
{
	struct store_error error = {0};

	assert_int_equal(
		store_put_buf(mem, "f", text, strlen(text), NULL, NULL, NULL, NULL, &error),
		STORE_OK);
}

static const char *second;

static void tool_writes_mem(struct cluster *c UNUSED)
{
	put_mem(second);
}

/* Likewise when a scan takes an object over: the next one takes over what is there by then. */
static void take_over_in_between(struct cluster *c, const char *first, const char *then)
{
	second = then;
	c->wrap = wrap_mem;
	cluster_stop_node(c, 1, true);
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	c->nodes = 1;
	cluster_settle(c);
	put_mem(first);
	at(c, "copy", "f", false, tool_writes_mem);
	(void)scan(c, 0, EAST);
	assert_null(between.op);
	cluster_settle(c);
	cluster_now_ms += 5000;
	(void)scan(c, 0, EAST);
	cluster_settle(c);
	cluster_expect(c, 0, "f", then);
	expect_object(c, WEST, "f", then);
	assert_int_equal(findings(&(struct reconcile_counts[1]){[0] = scan(c, 0, EAST)}[0]), 0);
}

static void test_written_over_while_taken_over(void **state)
{
	take_over_in_between(*state, "first", "by hand");
}

/* Of an object of that size a scan asks for the metadata only. */
static void test_large_written_over_while_taken_over(void **state)
{
	char first[100001], then[100001];

	memset(first, '1', sizeof(first) - 1);
	memset(then, '2', sizeof(then) - 1);
	first[sizeof(first) - 1] = then[sizeof(then) - 1] = '\0';
	take_over_in_between(*state, first, then);
}

static void other_server_delivers(struct cluster *c)
{
	cluster_push(c, 1);
}

/* Two servers write over it at once: what the first one kept is not replaced by what it wrote. */
static void test_kept_by_both(void **state)
{
	struct cluster *c = *state;

	copies_are_unconditional(c);
	cluster_settle(c);
	cluster_puts(c, 0, "f", "ours");
	cluster_puts(c, 1, "f", "other's");
	tool_put(c, EAST, "f", "by hand");
	at(c, "head", "f", true, other_server_delivers);
	cluster_settle(c);
	assert_null(between.op);
	expect_kept(c, EAST, "by hand");
}

#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_taken_over_and_lost),
		CLUSTER_TEST(test_written_over_while_taken_over),
		CLUSTER_TEST(test_large_written_over_while_taken_over),
		CLUSTER_TEST(test_kept_by_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
