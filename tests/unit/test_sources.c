/* Renamed files on their way to the regions: copied there and not sent, told of before their former
 * names go, and without a copy in the trash. */
#include "tests/unit/cluster.h"

#include "src/base/metrics.h"

enum { LARGE = 200000 };
static char large[LARGE];

static int count(void *ctx, const char *key UNUSED, const struct store_object *object UNUSED)
{
	(*(int *)ctx)++;
	return 0;
}

static int listed(struct cluster *c, unsigned region, const char *prefix)
{
	struct store_config config = {.name = "check", .url = c->url[region]};
	struct store_error error = {0};
	struct store *s;
	struct err err = {0};
	int n = 0;

	assert_int_equal(store_dir_open(&config, &s, &err), 0);
	assert_int_equal(store_list(s, prefix, NULL, 0, count, &n, NULL, &error), STORE_OK);
	store_close(s);
	return n;
}

static void make(struct cluster *c)
{
	memset(large, 'l', sizeof(large));
	cluster_mkdir(c, 0, "d");
	cluster_mkdir(c, 0, "e");
	cluster_write(c, 0, "d/large", large, sizeof(large));
	cluster_puts(c, 0, "d/small", "text");
	cluster_settle(c);
}

/* Not one byte of a large file is sent; the peer keeps what it holds. */
static void a_renamed_file_is_copied(void **state)
{
	struct cluster *c = *state;

	make(c);
	free(cluster_read(c, 1, "d/large", NULL));
	uint64_t puts = c->object_puts[0], copies = metric_get(METRIC_OBJECTS_COPIED);
	cluster_rename(c, 0, "d/large", "e/moved");
	cluster_settle(c);
	assert_int_equal(c->object_puts[0], puts);
	assert_int_equal(metric_get(METRIC_OBJECTS_COPIED), copies + CLUSTER_REGIONS);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		assert_int_equal(listed(c, i, "d/large"), 0);
		assert_int_equal(listed(c, i, "e/moved"), 1);
		assert_int_equal(listed(c, i, ".meridian/trash/"), 0);
		c->down[i] = true; /* content that is here needs no region */
	}
	size_t len = 0;
	char *got = cluster_read(c, 1, "e/moved", &len);
	assert_int_equal(len, LARGE);
	assert_memory_equal(got, large, LARGE);
	free(got);
}

/* A small one is sent again, in one request; its former name costs no copy in the trash either. */
static void a_small_one_is_sent(void **state)
{
	struct cluster *c = *state;

	make(c);
	uint64_t copies = metric_get(METRIC_OBJECTS_COPIED);
	cluster_rename(c, 0, "d/small", "e/small");
	cluster_settle(c);
	assert_int_equal(metric_get(METRIC_OBJECTS_COPIED), copies);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		assert_int_equal(listed(c, i, "d/small"), 0);
		assert_int_equal(listed(c, i, "e/small"), 1);
		assert_int_equal(listed(c, i, ".meridian/trash/"), 0);
	}
	cluster_expect(c, 1, "e/small", "text");
	/* What is removed for good is kept. */
	cluster_unlink(c, 0, "e/small");
	cluster_settle(c);
	assert_int_equal(listed(c, 0, ".meridian/trash/"), 1);
}

static bool there(struct cluster *c, const char *path)
{
	struct inode inode;

	return tree_resolve(c->node[1].cache, slice_of(path), &inode) == 0;
}

/* At no moment has a peer neither of the two names, whatever is done in which order. */
static void a_peer_never_sees_it_gone(void **state)
{
	struct cluster *c = *state;
	struct replicator *r = c->node[0].replicator;
	bool did;

	make(c);
	cluster_rename(c, 0, "d", "moved");
	assert_int_equal(replicator_step_seal(r, &did), 0);
	/* what is announced before anything is uploaded must not remove it */
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		assert_int_equal(replicator_step_announce(r, i, &did), 0);
	cluster_pull(c, 1);
	assert_true(there(c, "d/large"));
	assert_false(there(c, "moved/large"));
	for (int round = 0; round < 200; round++) {
		assert_int_equal(replicator_step_objects(r, 1, 1, &did), 0);
		assert_int_equal(replicator_step_announce(r, 1, &did), 0);
		cluster_pull(c, 1);
		assert_true(there(c, "d/large") || there(c, "moved/large"));
		assert_true(there(c, "d/small") || there(c, "moved/small"));
	}
	cluster_settle(c);
	assert_true(there(c, "moved/large") && there(c, "moved/small") && !there(c, "d"));
	assert_int_equal(cluster_backlog(c, 0), 0);
	assert_int_equal(listed(c, 1, ".meridian/trash/"), 0);
}

/* The new name goes again before it was uploaded: nothing waits for it for ever. */
static void a_new_name_that_goes_lets_the_former_go(void **state)
{
	struct cluster *c = *state;
	bool did;

	make(c);
	cluster_rename(c, 0, "d/large", "e/moved");
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	cluster_unlink(c, 0, "e/moved");
	cluster_settle(c);
	assert_false(there(c, "d/large") || there(c, "e/moved"));
	assert_int_equal(cluster_backlog(c, 0), 0);
	assert_int_equal(listed(c, 0, "d/large"), 0);
	assert_int_equal(listed(c, 0, ".meridian/trash/"), 1);
}

/* Written over under its new name before that was uploaded. */
static void a_new_version_of_the_new_name(void **state)
{
	struct cluster *c = *state;
	bool did;

	make(c);
	cluster_rename(c, 0, "d/large", "e/moved");
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	cluster_puts(c, 0, "e/moved", "new");
	cluster_settle(c);
	cluster_expect(c, 1, "e/moved", "new");
	assert_false(there(c, "d/large"));
	assert_int_equal(cluster_backlog(c, 0), 0);
	assert_int_equal(listed(c, 0, "d/large"), 0);
	assert_int_equal(listed(c, 0, ".meridian/trash/"), 1); /* nobody has that content now */
}

/* The source is another version by the time of the copy: then the content is sent. */
static void another_content_under_the_former_name(void **state)
{
	struct cluster *c = *state;
	struct store_config config = {.name = "check", .url = c->url[0]};
	struct store *s;
	struct err err = {0};

	make(c);
	assert_int_equal(store_dir_open(&config, &s, &err), 0);
	assert_int_equal(
		store_put_buf(s, "d/large", "foreign", 7, NULL, NULL, NULL, NULL, NULL), STORE_OK);
	store_close(s);
	uint64_t puts = c->object_puts[0];
	cluster_rename(c, 0, "d/large", "e/moved");
	cluster_settle(c);
	assert_true(c->object_puts[0] > puts);
	char *got = cluster_read(c, 1, "e/moved", NULL);
	assert_memory_equal(got, large, LARGE);
	free(got);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(a_renamed_file_is_copied),
		CLUSTER_TEST(a_small_one_is_sent),
		CLUSTER_TEST(a_peer_never_sees_it_gone),
		CLUSTER_TEST(a_new_name_that_goes_lets_the_former_go),
		CLUSTER_TEST(a_new_version_of_the_new_name),
		CLUSTER_TEST(another_content_under_the_former_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
