/* Servers that die after they reached some regions: the one that is left completes what they said. */
#include "tests/unit/cluster.h"

#include "replicator/segment.h"
#include "src/base/metrics.h"

#define DAY_MS (24 * (int64_t)3600000)

static int count_key(void *ctx, const char *key UNUSED, const struct store_object *object UNUSED)
{
	++*(unsigned *)ctx;
	return 0;
}

static unsigned count(struct cluster *c, unsigned region, const char *prefix)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	unsigned n = 0;
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_list(s, prefix, NULL, 0, count_key, &n, NULL, &error), STORE_OK);
	store_close(s);
	return n;
}

static bool has_object(struct cluster *c, unsigned region, const char *key)
{
	return count(c, region, key) == 1;
}

static bool step(struct cluster *c, unsigned n)
{
	bool did;

	assert_int_equal(replicator_step_last_words(c->node[n].replicator, &did), 0);
	return did;
}

static void die(struct cluster *c, unsigned n)
{
	cluster_stop_node(c, n, false);
}

/* The regions must have been seen before. */
static void begin(struct cluster *c)
{
	cluster_puts(c, 0, "known", "known");
	cluster_puts(c, 1, "other", "other");
	cluster_settle(c);
	assert_false(step(c, 1));
}

static void write_words(struct cluster *c)
{
	static char large[200000];

	cluster_puts(c, 0, "said", "said");
	cluster_puts(c, 0, "known", "known better");
	cluster_unlink(c, 0, "other");
	memset(large, 'x', sizeof(large));
	cluster_write(c, 0, "large", large, sizeof(large));
	for (unsigned i = 0; i < 8; i++) {
		cluster_push(c, 0);
		cluster_now_ms += 1000;
	}
}

static void expect_words(struct cluster *c)
{
	cluster_expect(c, 1, "said", "said");
	cluster_expect(c, 1, "known", "known better");
	cluster_expect_absent(c, 1, "other");
	assert_int_equal(cluster_resolve(c, 1, "large").size, 200000);
	for (unsigned region = 0; region < 2; region++) {
		assert_true(has_object(c, region, "said"));
		assert_true(has_object(c, region, "large"));
		assert_false(has_object(c, region, "other"));
	}
}

/* They are in its own region, which is nobody else's home. */
static void test_elsewhere(void **state)
{
	struct cluster *c = *state;

	begin(c);
	c->down[1] = true;
	write_words(c);
	die(c, 0);
	c->down[1] = false;
	cluster_now_ms += 600000;
	cluster_settle(c);
	assert_false(step(c, 1));
	cluster_expect_absent(c, 1, "said");
	cluster_now_ms += 2 * DAY_MS;
	cluster_settle(c);
	assert_true(step(c, 1));
	cluster_settle(c);
	expect_words(c);
	/* Once. */
	cluster_now_ms += 2 * DAY_MS;
	assert_false(step(c, 1));
}

/* They are in the survivor's region only. */
static void test_here_only(void **state)
{
	struct cluster *c = *state;
	unsigned log;

	begin(c);
	log = count(c, 0, SEGMENT_PREFIX);
	c->down[0] = true;
	write_words(c);
	die(c, 0);
	c->down[0] = false;
	cluster_now_ms += 600000;
	cluster_settle(c);
	cluster_expect(c, 1, "said", "said");
	assert_false(has_object(c, 0, "said"));
	cluster_now_ms += 2 * DAY_MS;
	cluster_settle(c);
	assert_true(step(c, 1));
	cluster_settle(c);
	expect_words(c);
	/* Announced there, too. */
	assert_true(count(c, 0, SEGMENT_PREFIX) > log);
}

/* Announced everywhere, and no object written. */
static void test_objects(void **state)
{
	struct cluster *c = *state;
	bool did;

	begin(c);
	cluster_puts(c, 0, "said", "said");
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	for (unsigned region = 0; region < 2; region++) {
		assert_int_equal(replicator_step_announce(c->node[0].replicator, region, &did), 0);
		assert_true(did);
	}
	die(c, 0);
	cluster_settle(c);
	cluster_expect(c, 1, "said", "said");
	cluster_now_ms += 2 * DAY_MS;
	cluster_settle(c);
	assert_false(has_object(c, 0, "said") || has_object(c, 1, "said"));
	assert_true(step(c, 1));
	cluster_settle(c);
	assert_true(has_object(c, 0, "said") && has_object(c, 1, "said"));
}

/* It never had a segment in the survivor's region. */
static void test_unknown(void **state)
{
	struct cluster *c = *state;

	cluster_settle(c);
	c->down[1] = true;
	cluster_puts(c, 0, "other", "other");
	write_words(c);
	die(c, 0);
	c->down[1] = false;
	cluster_now_ms += 2 * DAY_MS;
	cluster_settle(c);
	assert_true(step(c, 1));
	cluster_settle(c);
	expect_words(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_elsewhere, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_here_only, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_objects, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_unknown, cluster_setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
