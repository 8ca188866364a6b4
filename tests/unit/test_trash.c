/* The clean-up of the trash: what is old goes, by one server; what is young, or needed, stays. */
#include "tests/unit/cluster.h"

#include <fcntl.h>

#include "replicator/trash.h"

#define DAY_MS (24 * (int64_t)3600000)

static int64_t real_now_ms;

static int set_old(const char *path, const struct stat *st UNUSED, int type, struct FTW *ftw UNUSED)
{
	struct timespec t[2] = {{.tv_sec = real_now_ms / 1000 - 40 * 86400}};

	t[1] = t[0];
	return type == FTW_F ? utimensat(AT_FDCWD, path, t, 0) : 0;
}

/* By their Last-Modified. */
static void make_old(struct cluster *c)
{
	char path[160];

	for (unsigned r = 0; r < CLUSTER_REGIONS; r++) {
		snprintf(path, sizeof(path), "%s/.meridian/trash", c->url[r] + strlen("file://"));
		assert_int_equal(nftw(path, set_old, 16, FTW_PHYS), 0);
	}
}

static int count_key(void *ctx, const char *key UNUSED, const struct store_object *o UNUSED)
{
	++*(unsigned *)ctx;
	return 0;
}

static unsigned trash_of(struct cluster *c, unsigned region)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	unsigned count = 0;
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(
		store_list(s, TRASH_PREFIX, NULL, 0, count_key, &count, NULL, &error), STORE_OK);
	store_close(s);
	return count;
}

/* The stores keep real time; the servers live days before it, so that what they remove is old. */
static int setup(void **state)
{
	int r = cluster_setup(state);
	struct cluster *c = *state;

	if (r)
		return r;
	real_now_ms = cluster_now_ms;
	cluster_now_ms -= 40 * DAY_MS;
	for (unsigned n = 0; n < c->nodes; n++) {
		cluster_stop_node(c, n, true);
		nftw(c->node[n].state, cluster_remove, 16, FTW_DEPTH | FTW_PHYS);
		cluster_start_node(c, n);
	}
	return 0;
}

/* Until it is at rest; what was removed. */
static uint64_t clean(struct cluster *c, unsigned n)
{
	uint64_t removed = 0;

	for (unsigned i = 0; i < 12; i++) {
		bool did;

		assert_int_equal(replicator_step_trash(c->node[n].replicator, &did), 0);
	}
	struct replicator_status *s = cluster_status(c, n);
	for (unsigned i = 0; i < s->regions; i++)
		removed += s->region[i].trash.removed;
	free(s);
	return removed;
}

static void remove_file(struct cluster *c, const char *path, const char *content)
{
	cluster_puts(c, 0, path, content);
	cluster_settle(c);
	cluster_unlink(c, 0, path);
	cluster_settle(c);
}

static void test_old_goes(void **state)
{
	struct cluster *c = *state;

	remove_file(c, "f", "some content");
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		assert_int_equal(trash_of(c, i), 1);
	cluster_now_ms = real_now_ms;
	/* The removal was long ago, but by the store's time it was not. */
	assert_int_equal(clean(c, 0), 0);
	assert_int_equal(trash_of(c, 0), 1);
	make_old(c);
	/* The day is not over. */
	assert_int_equal(clean(c, 1), 0);
	cluster_now_ms += DAY_MS + 1000;
	assert_int_equal(clean(c, 1), 2);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		assert_int_equal(trash_of(c, i), 0);
	/* The other one reads that, and does nothing. */
	uint64_t before = c->requests[0] + c->requests[1];
	cluster_now_ms += 3600000;
	assert_int_equal(clean(c, 0), 0);
	assert_int_equal(c->requests[0] + c->requests[1] - before, 2);
}

static void test_young_stays(void **state)
{
	struct cluster *c = *state;

	/* By its stamp it is. */
	cluster_now_ms = real_now_ms - 29 * DAY_MS;
	remove_file(c, "f", "some content");
	make_old(c);
	cluster_now_ms = real_now_ms;
	assert_int_equal(clean(c, 0), 0);
	assert_int_equal(trash_of(c, 0), 1);
	/* A clock of this server that runs ahead makes nothing old. */
	cluster_now_ms = real_now_ms + 100 * DAY_MS;
	assert_int_equal(clean(c, 0), 0);
	assert_int_equal(trash_of(c, 1), 1);
}

/* The same content is to be found under a name whose object is not there. */
static void test_needed_stays(void **state)
{
	struct cluster *c = *state;
	struct store_config config = {.name = "x", .url = c->url[1]};
	struct store_error error = {0};
	struct store *s;

	remove_file(c, "f", "some content");
	remove_file(c, "g", "other content");
	cluster_puts(c, 0, "h", "some content");
	cluster_settle(c);
	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_remove(s, "h", NULL, NULL, &error), STORE_OK);
	store_close(s);
	make_old(c);
	cluster_now_ms = real_now_ms;
	assert_int_equal(clean(c, 0), 3);
	assert_int_equal(trash_of(c, 0), 0);
	assert_int_equal(trash_of(c, 1), 1);
	struct replicator_status *status = cluster_status(c, 0);
	assert_int_equal(status->region[0].trash.needed, 0);
	assert_int_equal(status->region[1].trash.needed, 1);
	assert_true(status->region[1].trash.finished_ms > 0);
	free(status);
}

/* A region that fails in the middle, and what is no copy of a removed file. */
static void test_trouble(void **state)
{
	struct cluster *c = *state;
	struct store_config config = {.name = "x", .url = c->url[0]};
	struct store_error error = {0};
	struct store *s;

	remove_file(c, "f", "some content");
	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(
		store_put_buf(s, TRASH_PREFIX "mine", "x", 1, NULL, NULL, NULL, NULL, &error),
		STORE_OK);
	store_close(s);
	make_old(c);
	cluster_now_ms = real_now_ms;
	c->down[0] = true;
	assert_int_equal(clean(c, 0), 1);
	assert_int_equal(trash_of(c, 0), 2);
	c->down[0] = false;
	for (unsigned i = 0; i < 30; i++) {
		cluster_now_ms += 60000;
		cluster_pull(c, 0);
		clean(c, 0);
	}
	cluster_now_ms += 3600000;
	assert_int_equal(clean(c, 0), 2);
	assert_int_equal(trash_of(c, 0), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_old_goes, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_young_stays, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_needed_stays, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_trouble, setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
