/* Which new versions are fetched without being asked for, and that the list is kept and worked off. */
#include "tests/unit/cluster.h"

#include "cache/evict.h"
#include "cache/internal.h"
#include "cache/refresh.h"

static char big[200000];

static uint64_t write_big(struct cluster *c, const char *path, char fill)
{
	memset(big, fill, sizeof(big));
	cluster_write(c, 0, path, big, sizeof(big));
	cluster_settle(c);
	return cluster_resolve(c, 1, path).ino;
}

static bool is_here(struct cluster *c, uint64_t ino)
{
	struct file *f = NULL;
	int r = file_open(c->node[1].cache, ino, false, false, &f);

	assert_true(r == 0 || r == -EREMOTE);
	if (!r)
		file_release(f);
	return r == 0;
}

static uint64_t waiting(struct cluster *c)
{
	struct replicator_status *s = cluster_status(c, 1);
	uint64_t n = s->refresh;

	free(s);
	return n;
}

/* True: there was something on the list. */
static bool work(struct cluster *c)
{
	bool did = false;

	assert_int_equal(replicator_step_refresh(c->node[1].replicator, &did), 0);
	return did;
}

static void test_cached(void **state)
{
	struct cluster *c = *state;
	uint64_t ino;

	refresh_set_mode(c->node[1].cache, REFRESH_CACHED);
	ino = write_big(c, "big", 'a');
	assert_int_equal(waiting(c), 0); /* it never was here */
	assert_false(work(c));
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, ino), 0);
	ino = write_big(c, "big", 'b');
	assert_false(is_here(c, ino));
	assert_int_equal(waiting(c), 1);
	assert_true(work(c));
	assert_true(is_here(c, ino));
	assert_int_equal(waiting(c), 0);
	assert_false(work(c));
	/* Given up, it is not fetched again. */
	struct evict_batch b = {.proof = replicator_has_object, .ctx = c->node[1].replicator};
	enum evict_result result = EVICT_ABSENT;
	assert_int_equal(evict_content(c->node[1].cache, &b, ino, &result), 0);
	assert_int_equal(result, EVICT_DONE);
	assert_int_equal(evict_finish(c->node[1].cache, &b), 0);
	ino = write_big(c, "big", 'c');
	assert_int_equal(waiting(c), 0);
	assert_false(is_here(c, ino));
}

static void test_lazy(void **state)
{
	struct cluster *c = *state;
	uint64_t ino = write_big(c, "big", 'a');

	assert_int_equal(replicator_step_fetch(c->node[1].replicator, ino), 0);
	ino = write_big(c, "big", 'b');
	assert_int_equal(waiting(c), 0);
	assert_false(work(c));
}

/* What cannot be had stays on the list, over a crash too, and keeps nobody from the others. */
static void test_all(void **state)
{
	struct cluster *c = *state;
	uint64_t ino[3];

	refresh_set_mode(c->node[1].cache, REFRESH_ALL);
	ino[0] = write_big(c, "one", '1');
	ino[1] = write_big(c, "two", '2');
	ino[2] = write_big(c, "three", '3');
	assert_int_equal(waiting(c), 3);
	for (unsigned r = 0; r < CLUSTER_REGIONS; r++) {
		char path[160];

		snprintf(path, sizeof(path), "%s/one", c->url[r] + strlen("file://"));
		assert_int_equal(remove(path), 0);
	}
	assert_true(work(c));
	assert_int_equal(waiting(c), 3);
	assert_true(work(c));
	assert_true(is_here(c, ino[1]));
	cluster_stop_node(c, 1, false);
	cluster_start_node(c, 1);
	assert_int_equal(waiting(c), 2);
	c->down[0] = c->down[1] = true;
	assert_true(work(c) && work(c));
	assert_false(work(c));
	assert_int_equal(waiting(c), 2);
	c->down[0] = c->down[1] = false;
	cluster_now_ms += 120000;
	assert_true(work(c) && work(c));
	assert_int_equal(waiting(c), 1);
	assert_true(is_here(c, ino[2]));
	assert_false(is_here(c, ino[0]));
	/* Until it is removed, or another version comes. */
	cluster_unlink(c, 0, "one");
	cluster_settle(c);
	for (unsigned i = 0; i < 3 && waiting(c); i++)
		work(c);
	assert_int_equal(waiting(c), 0);
}

static void test_full(void **state)
{
	struct cluster *c = *state;
	struct cache *reader = c->node[1].cache;
	uint64_t ino;

	refresh_set_mode(reader, REFRESH_ALL);
	ino = write_big(c, "one", 'a');
	assert_true(work(c));
	assert_true(is_here(c, ino));
	reader->cache_size = sizeof(big) / 2;
	ino = write_big(c, "two", 'b');
	assert_false(work(c));
	assert_false(is_here(c, ino));
	assert_int_equal(waiting(c), 1);
	reader->cache_size = 0;
	assert_true(work(c));
	assert_true(is_here(c, ino));
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_cached),
		CLUSTER_TEST(test_lazy),
		CLUSTER_TEST(test_all),
		CLUSTER_TEST(test_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
