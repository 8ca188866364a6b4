/* An optional region (west, region 1): it holds nothing back and nothing here, is given up when it is out for long,
 * and has everything after it came back. */
#include "tests/unit/cluster.h"

#include "cache/evict.h"
#include "cache/resync.h"
#include "src/base/buf.h"

static void tune(struct replicator_options *o)
{
	o->home = 0;
	o->region[1].optional = true;
	o->region[1].resync_backlog = 20;
	o->region[1].resync_age_ms = 3600000;
}

static int setup(void **state)
{
	cluster_tune = tune;
	return cluster_setup(state);
}

/* "" for absent. */
static char *object(struct cluster *c, unsigned region, const char *key)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	struct buf b = {0};
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	enum store_result r = store_get_buf(s, key, 1 << 26, &b, NULL, NULL, NULL, &error);
	char *text = strdup(r == STORE_OK ? buf_str(&b) : "");
	buf_done(&b);
	store_close(s);
	return text;
}

static void expect_object(struct cluster *c, unsigned region, const char *key, const char *text)
{
	char *got = object(c, region, key);

	if (strcmp(got, text) != 0)
		fail_msg("%s in region %u: \"%s\", not \"%s\"", key, region, got, text);
	free(got);
}

static enum resync_state west(struct cluster *c, unsigned n)
{
	struct replicator_status *s = cluster_status(c, n);
	enum resync_state state = s->region[1].resync.state;

	assert_true(s->region[1].resync.optional);
	assert_false(s->region[0].resync.optional);
	free(s);
	return state;
}

static uint64_t rows_of_west(struct cluster *c)
{
	struct replicator_status *s = cluster_status(c, 0);
	uint64_t rows = s->region[1].outbox.rows;

	free(s);
	return rows;
}

static void upkeep(struct cluster *c, unsigned n)
{
	bool more = true;

	for (unsigned i = 0; more; i++) {
		assert_int_equal(replicator_step_upkeep(c->node[n].replicator, &more), 0);
		assert_true(i < 1000);
	}
}

static void settle(struct cluster *c)
{
	for (unsigned i = 0; i < 6; i++) {
		upkeep(c, 0);
		upkeep(c, 1);
		cluster_settle(c);
	}
}

/* Until it is known not to answer. */
static void notice(struct cluster *c)
{
	for (unsigned i = 0; i < 20; i++) {
		cluster_push(c, 0);
		cluster_now_ms += 200;
	}
}

static void many(struct cluster *c, const char *prefix, unsigned count)
{
	char name[32];

	for (unsigned i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%s%u", prefix, i);
		cluster_puts(c, 0, name, name);
	}
}

static bool proof(void *ctx, struct slice key, const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	return false;
}

static enum evict_result evict(struct cluster *c, const char *path)
{
	struct evict_batch b = {.proof = proof};
	enum evict_result result;

	assert_int_equal(
		evict_content(c->node[0].cache, &b, cluster_resolve(c, 0, path).ino, &result), 0);
	assert_int_equal(evict_finish(c->node[0].cache, &b), 0);
	return result;
}

static void answered(void *arg, int result)
{
	*(int *)arg = result;
}

static void test_out_and_back(void **state)
{
	struct cluster *c = *state;
	char name[32];
	int result = 1;
	bool did;

	many(c, "old", 10);
	cluster_puts(c, 0, "removed", "x");
	cluster_puts(c, 0, "changed", "before");
	cluster_mkdir(c, 0, "d");
	cluster_mkdir(c, 0, "gone");
	cluster_puts(c, 0, "d/inside", "x");
	settle(c);
	expect_object(c, 1, "removed", "x");
	c->down[1] = true;
	many(c, "new", 30);
	cluster_unlink(c, 0, "removed");
	notice(c);
	assert_int_equal(west(c, 0), RESYNC_NONE);
	/* Neither fsync nor the cache waits for it. */
	replicator_wait_durable(c->node[0].replicator, cluster_resolve(c, 0, "new1").ino,
		DURABILITY_ALL, answered, &result);
	assert_int_equal(replicator_step_durable(c->node[0].replicator, &did), 0);
	assert_int_equal(result, 0);
	assert_int_equal(evict(c, "new1"), EVICT_DONE);
	upkeep(c, 0);
	assert_int_equal(west(c, 0), RESYNC_OUT);
	assert_int_equal(rows_of_west(c), 0);
	assert_int_equal(
		replicator_flush(c->node[0].replicator, slice_of(""), true, 1000, NULL, NULL, NULL),
		0);
	struct buf b = {0};
	assert_int_equal(
		durability_text(c->node[0].cache, cluster_resolve(c, 0, "new2").ino, &b), 0);
	assert_string_equal(buf_str(&b), "east: here\nwest: needs resync\n");
	buf_done(&b);
	/* Also over a restart; and what happens while it is out makes no rows. */
	cluster_stop_node(c, 0, false);
	cluster_start_node(c, 0);
	assert_int_equal(west(c, 0), RESYNC_OUT);
	cluster_puts(c, 0, "changed", "after");
	cluster_rename(c, 0, "d", "e");
	assert_int_equal(tree_rmdir(c->node[0].cache, ROOT_INO, slice_of("gone")), 0);
	cluster_push(c, 0);
	cluster_push(c, 0);
	upkeep(c, 0);
	assert_int_equal(rows_of_west(c), 0);
	expect_object(c, 1, "removed", "x");
	c->down[1] = false;
	uint64_t puts = c->object_puts[1];
	settle(c);
	assert_int_equal(west(c, 0), RESYNC_NONE);
	for (unsigned i = 0; i < 30; i++) {
		snprintf(name, sizeof(name), "new%u", i);
		expect_object(c, 1, name, name);
	}
	expect_object(c, 1, "removed", "");
	expect_object(c, 1, "changed", "after");
	expect_object(c, 1, "d/inside", "");
	expect_object(c, 1, "e/inside", "x");
	expect_object(c, 1, "gone/", "");
	/* What it had and what did not change was not sent again. */
	assert_in_range(c->object_puts[1] - puts, 32, 40);
	assert_int_equal(rows_of_west(c), 0);
	many(c, "then", 3);
	settle(c);
	expect_object(c, 1, "then2", "then2");
}

/* Out again before it had everything. */
static void test_twice(void **state)
{
	struct cluster *c = *state;
	char name[32];

	many(c, "a", 5);
	settle(c);
	c->down[1] = true;
	many(c, "b", 40);
	notice(c);
	upkeep(c, 0);
	assert_int_equal(west(c, 0), RESYNC_OUT);
	c->down[1] = false;
	cluster_now_ms += 120000;
	cluster_push(c, 0);
	assert_int_equal(west(c, 0), RESYNC_OUT);
	upkeep(c, 0);
	assert_int_equal(west(c, 0), RESYNC_RUNNING);
	assert_true(rows_of_west(c) >= 40);
	c->down[1] = true;
	many(c, "c", 5);
	notice(c);
	upkeep(c, 0);
	assert_int_equal(west(c, 0), RESYNC_OUT);
	assert_int_equal(rows_of_west(c), 0);
	c->down[1] = false;
	settle(c);
	assert_int_equal(west(c, 0), RESYNC_NONE);
	for (unsigned i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		expect_object(c, 1, name, name);
	}
	expect_object(c, 1, "c4", "c4");
}

static void test_age(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "a", "x");
	settle(c);
	c->down[1] = true;
	cluster_puts(c, 0, "b", "y");
	notice(c);
	upkeep(c, 0);
	cluster_now_ms += 3500000;
	upkeep(c, 0);
	assert_int_equal(west(c, 0), RESYNC_NONE);
	cluster_now_ms += 200000;
	upkeep(c, 0);
	assert_int_equal(west(c, 0), RESYNC_OUT);
	c->down[1] = false;
	settle(c);
	assert_int_equal(west(c, 0), RESYNC_NONE);
	expect_object(c, 1, "b", "y");
}

/* A region that is no longer optional holds content until it has what it missed. */
static void test_not_optional_any_more(void **state)
{
	struct cluster *c = *state;

	c->down[1] = true;
	many(c, "a", 40);
	notice(c);
	upkeep(c, 0);
	assert_int_equal(west(c, 0), RESYNC_OUT);
	assert_int_equal(evict(c, "a1"), EVICT_DONE);
	cluster_stop_node(c, 0, true);
	cluster_tune = NULL;
	cluster_start_node(c, 0);
	assert_int_equal(evict(c, "a2"), EVICT_UNPUSHED);
	c->down[1] = false;
	settle(c);
	assert_int_equal(evict(c, "a2"), EVICT_DONE);
	expect_object(c, 1, "a1", "a1");
	expect_object(c, 1, "a2", "a2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_out_and_back, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_twice, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_age, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_not_optional_any_more, setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
