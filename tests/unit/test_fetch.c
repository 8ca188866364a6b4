/* Content on first use: shared by waiters, refused when it is not what the record promised, taken
 * from any region. */
#include "tests/unit/cluster.h"

#include <fcntl.h>

#include "replicator/fetch.h"
#include "src/base/buf.h"
#include "src/base/metrics.h"

static char big[200000];

static struct inode announce_big(struct cluster *c)
{
	memset(big, 'b', sizeof(big));
	cluster_write(c, 0, "big", big, sizeof(big));
	cluster_settle(c);
	return cluster_resolve(c, 1, "big");
}

static void overwrite_bytes(struct cluster *c, unsigned region, const char *p, size_t n)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_put_buf(s, "big", p, n, NULL, NULL, NULL, NULL, &error), STORE_OK);
	store_close(s);
}

static void overwrite(struct cluster *c, unsigned region, const char *text)
{
	overwrite_bytes(c, region, text, strlen(text));
}

/* The home region holds something else; the other one has it. */
static void test_wrong_bytes_refused(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);

	overwrite(c, 1, "short");
	overwrite(c, 0, "short, too");
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), -EAGAIN);
}

/* Bytes that are not those of which the object's own metadata speak are damaged; another version's are not, even
 * under metadata that were copied onto them late. */
static void test_damage_is_counted(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	uint64_t before = metric_get(METRIC_OBJECTS_CORRUPT);

	cluster_write(c, 0, "same", big, sizeof(big));
	cluster_settle(c);
	memset(big, 'c', sizeof(big));
	for (unsigned round = 0; round < 3; round++) {
		bool damaged = round == 2, torn = round == 1;

		for (unsigned region = 0; region < 2; region++) {
			struct store_config config = {.name = "x", .url = c->url[region]};
			CLEANUP(store_meta_done) struct store_meta meta = {0};
			struct store_error error = {0};
			struct store *s;

			assert_int_equal(store_open(&config, &s, NULL), 0);
			/* The first round has taken its metadata: another file of that content has the same. */
			assert_int_equal(
				store_head(s, "same", NULL, &meta, NULL, &error), STORE_OK);
			/* A copy of metadata that came later than the bytes. */
			assert_int_equal(torn ? store_meta_set(&meta, "meridian-copied", "other") : 0, 0);
			assert_int_equal(store_put_buf(s, "big", big, sizeof(big),
						 round ? &meta : NULL, NULL, NULL, NULL, &error),
				STORE_OK);
			store_close(s);
		}
		assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), -EAGAIN);
		assert_int_equal(metric_get(METRIC_OBJECTS_CORRUPT), before + 2 * damaged);
	}
}

static void test_other_region_serves(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);

	overwrite(c, 1, "not it");
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0); /* is here */
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, 999999), -ESTALE);
}

static void test_no_region_answers(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);

	c->down[0] = c->down[1] = true;
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), -EIO);
}

static void seal(struct cluster *c, unsigned n)
{
	bool did = true;

	while (did)
		assert_int_equal(replicator_step_seal(c->node[n].replicator, &did), 0);
}

/* Renamed here, even twice, or with its directory, before it was ever read: no region has heard of
 * it, and it can be read at once. */
static void test_renamed_before_fetched(void **state)
{
	struct cluster *c = *state;
	size_t len;
	char *got;

	cluster_mkdir(c, 0, "d");
	big[0] = 'd';
	cluster_write(c, 0, "d/f", big, sizeof(big));
	announce_big(c);
	cluster_rename(c, 1, "big", "second");
	seal(c, 1);
	cluster_rename(c, 1, "second", "third");
	seal(c, 1);
	got = cluster_read(c, 1, "third", &len);
	assert_int_equal(len, sizeof(big));
	assert_memory_equal(got, big, len);
	free(got);
	cluster_rename(c, 1, "d", "e");
	seal(c, 1);
	got = cluster_read(c, 1, "e/f", &len);
	assert_int_equal(len, sizeof(big));
	free(got);
	cluster_settle(c);
	got = cluster_read(c, 0, "third", &len);
	assert_memory_equal(got, big, len);
	free(got);
}

struct waiters {
	atomic_int told, failed;
};

static void told(void *arg, int result)
{
	struct waiters *w = arg;

	if (result)
		atomic_fetch_add(&w->failed, 1);
	atomic_fetch_add(&w->told, 1);
}

/* Many waiters, each told exactly once; those that are left at the stop, too. */
static void test_waiters(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct waiters w = {0};

	clock_set_source(NULL);
	assert_int_equal(replicator_start(c->node[1].replicator, NULL), 0);
	for (int i = 0; i < 50; i++)
		cache_fetch(c->node[1].cache, inode.ino, told, &w);
	for (int i = 0; atomic_load(&w.told) < 50; i++) {
		assert_true(i < 600);
		clock_sleep_ms(20);
	}
	assert_int_equal(atomic_load(&w.failed), 0);
	c->down[0] = c->down[1] = true;
	cache_fetch(c->node[1].cache, 999999, told, &w);
	replicator_stop(c->node[1].replicator);
	assert_int_equal(atomic_load(&w.told), 51);
	assert_int_equal(atomic_load(&w.failed), 1);
}

/* More files than threads whose objects are not there do not keep others from being read. */
static void test_absent_keep_nobody(void **state)
{
	enum { ABSENT = 12 };
	struct cluster *c = *state;
	struct waiters absent = {0}, here = {0};
	uint64_t ino[ABSENT];

	for (int i = 0; i < ABSENT; i++) {
		char name[16];

		snprintf(name, sizeof(name), "gone%d", i);
		big[0] = (char)i;
		cluster_write(c, 0, name, big, sizeof(big));
	}
	struct inode inode = announce_big(c);
	for (int i = 0; i < ABSENT; i++) {
		char path[160];

		snprintf(path, sizeof(path), "gone%d", i);
		ino[i] = cluster_resolve(c, 1, path).ino;
		for (unsigned r = 0; r < CLUSTER_REGIONS; r++) {
			snprintf(path, sizeof(path), "%s/gone%d", c->url[r] + strlen("file://"), i);
			assert_int_equal(remove(path), 0);
		}
	}
	clock_set_source(NULL);
	assert_int_equal(replicator_start(c->node[1].replicator, NULL), 0);
	for (int i = 0; i < ABSENT; i++)
		cache_fetch(c->node[1].cache, ino[i], told, &absent);
	clock_sleep_ms(500);
	cache_fetch(c->node[1].cache, inode.ino, told, &here);
	for (int i = 0; !atomic_load(&here.told); i++) {
		assert_true(i < 500);
		clock_sleep_ms(20);
	}
	assert_int_equal(atomic_load(&here.failed), 0);
	assert_int_equal(atomic_load(&absent.told), 0);
	replicator_stop(c->node[1].replicator);
	assert_int_equal(atomic_load(&absent.failed), ABSENT);
}

/* An object that comes a little later ends the wait. */
static void test_object_comes_late(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct waiters w = {0};

	overwrite(c, 0, "not yet");
	overwrite(c, 1, "not yet");
	clock_set_source(NULL);
	assert_int_equal(replicator_start(c->node[1].replicator, NULL), 0);
	cache_fetch(c->node[1].cache, inode.ino, told, &w);
	clock_sleep_ms(300);
	assert_int_equal(atomic_load(&w.told), 0);
	overwrite_bytes(c, 1, big, sizeof(big));
	for (int i = 0; !atomic_load(&w.told); i++) {
		assert_true(i < 500);
		clock_sleep_ms(20);
	}
	assert_int_equal(atomic_load(&w.failed), 0);
	replicator_stop(c->node[1].replicator);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_wrong_bytes_refused),
		CLUSTER_TEST(test_damage_is_counted),
		CLUSTER_TEST(test_other_region_serves),
		CLUSTER_TEST(test_no_region_answers),
		CLUSTER_TEST(test_renamed_before_fetched),
		CLUSTER_TEST(test_waiters),
		CLUSTER_TEST(test_absent_keep_nobody),
		CLUSTER_TEST(test_object_comes_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
