/* Content by ranges: one version only, from whichever region or place has it, by those who wait first. */
#include "tests/unit/cluster.h"

#include <fcntl.h>

#include "cache/partial.h"
#include "replicator/internal.h"
#include "replicator/range_internal.h"
#include "replicator/range_source.h"
#include "src/base/buf.h"

#define MIB (UINT64_C(1) << 20)
#define SIZE (9 * MIB + 77)

static char big[SIZE];

static struct inode announce_big(struct cluster *c)
{
	struct cache *cache = c->node[1].cache;

	for (size_t i = 0; i < SIZE; i++)
		big[i] = (char)(i / 1000 * 7 + i / MIB);
	cluster_write(c, 0, "big", big, SIZE);
	cluster_settle(c);
	c->node[1].replicator->o.lazy_min = 1;
	cache_set_ranger(cache, ranger_read, c->node[1].replicator->ranger, 1);
	return cluster_resolve(c, 1, "big");
}

/* As another tool writes it. */
static void overwrite(struct cluster *c, unsigned region, const void *p, size_t n)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_put_buf(s, "big", p, n, NULL, NULL, NULL, NULL, &error), STORE_OK);
	store_close(s);
}

static uint64_t here(struct cluster *c)
{
	struct partial_usage u;

	partial_usage(c->node[1].cache, &u);
	return u.bytes;
}

static void assert_all_here(struct cluster *c)
{
	size_t n;
	char *got = cluster_read(c, 1, "big", &n);

	assert_int_equal(n, SIZE);
	assert_memory_equal(got, big, SIZE);
	free(got);
	assert_int_equal(here(c), 0);
}

static void test_whole(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	uint64_t before = c->requests[1];

	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	/* One HEAD, the hashes of the parts, and ranges of 16 MiB. */
	assert_int_equal(c->requests[1] - before, 1 + 1 + 1);
	assert_all_here(c);
}

/* What does not say what it is never comes by ranges, and whole only when it is the version. */
static void test_foreign_object(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);

	overwrite(c, 0, big, SIZE);
	overwrite(c, 1, big, SIZE);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	assert_all_here(c);
}

static void test_other_bytes(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	char *other = calloc(1, SIZE);

	overwrite(c, 1, other, SIZE);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	assert_all_here(c);
	free(other);
}

static struct partial *get(struct cluster *c, uint64_t ino)
{
	struct partial *p = NULL;

	assert_int_equal(partial_get(c->node[1].cache, ino, &p), 0);
	return p;
}

static int read_blocks(
	struct partial *p, const struct range_source *from, uint64_t first, uint64_t end)
{
	CLEANUP(range_buffer_done) struct range_buffer buffer = {0};

	return range_read(p, from,
		&(struct range_run){.first = first,
			.end = end,
			.priority = STORE_NORMAL,
			.buffer = &buffer});
}

/* The object is replaced between two ranges. */
static void test_replaced_between(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct partial *p = get(c, inode.ino);
	struct range_version v = {
		.key = slice_of("big"), .hash = partial_hash(p), .size = partial_size(p)};
	struct range_source source;
	bool foreign = true;

	assert_int_equal(
		range_source_find(&c->node[1].replicator->regions, &v, &source, &foreign), 0);
	assert_false(foreign);
	assert_true(source.region->home);
	/* Nothing is read that cannot be compared. */
	assert_int_equal(read_blocks(p, &source, 8, 10), -EAGAIN);
	assert_int_equal(range_source_parts(p, &source), 0);
	assert_int_equal(read_blocks(p, &source, 8, 10), 0);
	assert_int_equal(here(c), MIB + 77);
	overwrite(c, 1, big + 1, SIZE - 1);
	assert_int_equal(read_blocks(p, &source, 0, 2), -EAGAIN);
	assert_int_equal(here(c), MIB + 77);
	assert_int_equal(
		range_source_find(&c->node[1].replicator->regions, &v, &source, &foreign), 0);
	assert_false(source.region->home);
	assert_int_equal(read_blocks(p, &source, 0, 8), 0);
	assert_int_equal(partial_finish(p), 0);
	partial_put(p);
	assert_all_here(c);
}

static void test_nobody_has_it(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);

	overwrite(c, 0, "x", 1);
	overwrite(c, 1, "x", 1);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), -EAGAIN);
	c->down[0] = c->down[1] = true;
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), -EIO);
}

/* How many work ahead of a reader at once. */
static unsigned at_work(struct ranger *r)
{
	struct run run;

	for (r->working = 0; r->working < RANGE_THREADS && range_next_run(r, &run); r->working++)
		;
	return r->working;
}

static void test_far_stores_get_more(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct target t = {.p = get(c, inode.ino)};
	struct ranger r = {.first = &t};
	struct waiter w = {.first = 0, .end = 1};

	assert_int_equal(at_work(&r), 0);
	t.ahead[0] = (struct readahead){.window = READAHEAD_MAX, .used = 1};
	assert_int_equal(at_work(&r), 4);
	r.waits_8th = 8 * 9;
	assert_int_equal(at_work(&r), 4);
	r.waits_8th = 8 * 10;
	assert_int_equal(at_work(&r), RANGE_THREADS - 2);
	/* Who waits gets the last one. */
	r.waits_8th = 0;
	t.waiters = &w;
	assert_int_equal(at_work(&r), RANGE_THREADS);
	/* And a whole file that somebody waits for comes, however many readers do. */
	struct run run;
	t.waiters = NULL;
	t.ahead[0] = (struct readahead){0};
	r.working = r.demanded = RANGE_THREADS - 1;
	assert_false(range_next_run(&r, &run));
	w.whole = true;
	t.waiters = &w;
	assert_true(range_next_run(&r, &run));
	r.demanded = 0;
	assert_false(range_next_run(&r, &run));
	partial_put(t.p);
}

/* ---- with threads ---- */

struct told {
	atomic_int count;
	atomic_int failed;
};

static void told(void *arg, int result)
{
	struct told *t = arg;

	if (result)
		atomic_store(&t->failed, result);
	atomic_fetch_add(&t->count, 1);
}

static void start(struct cluster *c)
{
	clock_set_source(NULL);
	assert_int_equal(replicator_start(c->node[1].replicator, NULL), 0);
}

static void wait_for(struct told *t, int count)
{
	for (int i = 0; atomic_load(&t->count) < count; i++) {
		assert_true(i < 1000);
		clock_sleep_ms(10);
	}
}

static void read_at(struct cluster *c, struct file *f, uint64_t offset, size_t n)
{
	char *got = malloc(n);
	struct told t = {0};

	if (!file_ready(f, offset, n)) {
		cache_range(c->node[1].cache, file_partial(f), offset, n, told, &t);
		wait_for(&t, 1);
		assert_int_equal(atomic_load(&t.failed), 0);
	}
	assert_int_equal(file_read(f, got, n, offset), (ssize_t)n);
	assert_memory_equal(got, big + offset, n);
	free(got);
}

static struct file *open_big(struct cluster *c, uint64_t ino)
{
	struct file *f = NULL;

	assert_int_equal(file_open(c->node[1].cache, ino, false, false, &f), 0);
	assert_non_null(file_partial(f));
	return f;
}

static void test_only_what_is_read(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct file *f = open_big(c, inode.ino);

	start(c);
	read_at(c, f, 0, 4096);
	read_at(c, f, SIZE - 10, 10);
	read_at(c, f, 5 * MIB - 1, 2);
	clock_sleep_ms(300);
	assert_int_equal(here(c), 3 * MIB + 77);
	/* A sequence is followed to the end, and then it is the content. */
	for (uint64_t at = 0; at + 131072 <= 2 * MIB; at += 131072)
		read_at(c, f, at, 131072);
	for (int i = 0; here(c) < 5 * MIB + 77 && file_partial(f); i++) {
		assert_true(i < 500);
		clock_sleep_ms(10);
	}
	for (uint64_t at = 2 * MIB; at + 131072 <= SIZE; at += 131072)
		read_at(c, f, at, 131072);
	for (int i = 0; file_partial(f); i++) {
		assert_true(i < 500);
		clock_sleep_ms(10);
	}
	file_release(f);
	assert_all_here(c);
	replicator_stop(c->node[1].replicator);
}

static void test_whole_with_readers(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct file *f = open_big(c, inode.ino);
	struct told all = {0};

	start(c);
	for (unsigned i = 0; i < 5; i++)
		cache_fetch(c->node[1].cache, inode.ino, told, &all);
	for (uint64_t at = 0; at < 9 * MIB; at += MIB)
		read_at(c, f, at + 100, 100);
	wait_for(&all, 5);
	assert_int_equal(atomic_load(&all.failed), 0);
	read_at(c, f, 0, SIZE);
	file_release(f);
	assert_all_here(c);
	replicator_stop(c->node[1].replicator);
}

/* Removed elsewhere while it is being read here: the trash has it. */
static void test_removed_meanwhile(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct file *f = open_big(c, inode.ino);

	cluster_unlink(c, 0, "big");
	cluster_settle(c);
	cluster_expect_absent(c, 1, "big");
	start(c);
	read_at(c, f, 3 * MIB, 1000);
	read_at(c, f, 0, SIZE);
	file_release(f);
	for (int i = 0; here(c); i++) { /* content goes behind the answer */
		assert_true(i < 500);
		clock_sleep_ms(10);
	}
	replicator_stop(c->node[1].replicator);
}

static int64_t refused_after_ms(struct cluster *c, struct file *f, uint64_t offset)
{
	int64_t start_ms = clock_monotonic_ms();
	struct told t = {0};

	cache_range(c->node[1].cache, file_partial(f), offset, 4096, told, &t);
	wait_for(&t, 1);
	assert_int_equal(atomic_load(&t.failed), -ESTALE);
	return clock_monotonic_ms() - start_ms;
}

/* A program that goes on after errors waits once, not at each of its reads. */
static void test_gone_everywhere(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct file *f = open_big(c, inode.ino);

	overwrite(c, 0, "x", 1);
	overwrite(c, 1, "x", 1);
	cluster_unlink(c, 0, "big");
	cluster_settle(c);
	cluster_expect_absent(c, 1, "big");
	start(c);
	assert_in_range(refused_after_ms(c, f, 0), 1500, 9000);
	for (uint64_t block = 1; block < 6; block++)
		assert_in_range(refused_after_ms(c, f, block * MIB), 0, 1000);
	file_release(f);
	replicator_stop(c->node[1].replicator);
}

/* A region that goes away in the middle, and one that was right but is silent. */
static void test_failover(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct file *f = open_big(c, inode.ino);
	struct told t = {0};

	start(c);
	read_at(c, f, 0, 10);
	c->down[1] = true;
	read_at(c, f, 3 * MIB, 10);
	c->down[0] = true;
	cache_range(c->node[1].cache, file_partial(f), 6 * MIB, 10, told, &t);
	clock_sleep_ms(300);
	assert_int_equal(atomic_load(&t.count), 0);
	replicator_stop(c->node[1].replicator);
	assert_int_equal(atomic_load(&t.count), 1);
	assert_int_equal(atomic_load(&t.failed), -EIO);
	file_release(f);
}

static atomic_int gets[CLUSTER_REGIONS];

static enum store_result count_gets(void *ctx, const char *op, const char *key, bool did_happen)
{
	if (did_happen && strcmp(op, "get") == 0 && strcmp(key, "big") == 0)
		atomic_fetch_add((atomic_int *)ctx, 1);
	return STORE_OK;
}

static struct store *counted(
	struct cluster *c UNUSED, unsigned node UNUSED, unsigned region, struct store *inner)
{
	return store_fault_new(inner, count_gets, &gets[region]);
}

static void turn(struct cluster *c, unsigned region, bool left)
{
	struct regions *all = &c->node[1].replicator->regions;

	mutex_lock(&all->region[region].lock);
	all->region[region].health.left = left;
	all->region[region].health.left_ms = clock_monotonic_ms();
	mutex_unlock(&all->region[region].lock);
	atomic_fetch_add(&all->turns, 1);
}

/* Who has a file open follows to the region that is read instead, and back. */
static void test_left_in_the_middle(void **state)
{
	struct cluster *c = *state;

	cluster_stop_node(c, 1, true);
	c->wrap = counted;
	cluster_start_node(c, 1);
	struct inode inode = announce_big(c);
	struct file *f = open_big(c, inode.ino);
	int home, other;

	start(c);
	read_at(c, f, 0, 10);
	home = atomic_load(&gets[1]);
	assert_int_equal(atomic_load(&gets[0]), 0);
	turn(c, 1, true);
	read_at(c, f, 3 * MIB, 10);
	assert_int_equal(atomic_load(&gets[1]), home);
	other = atomic_load(&gets[0]);
	assert_true(other > 0);
	turn(c, 1, false);
	/* Some blocks may have come with the others. */
	for (unsigned block = 4; block < 8 && atomic_load(&gets[1]) == home; block++)
		read_at(c, f, block * MIB, 10);
	assert_int_equal(atomic_load(&gets[0]), other);
	assert_true(atomic_load(&gets[1]) > home);
	file_release(f);
	replicator_stop(c->node[1].replicator);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_whole),
		CLUSTER_TEST(test_foreign_object),
		CLUSTER_TEST(test_other_bytes),
		CLUSTER_TEST(test_replaced_between),
		CLUSTER_TEST(test_nobody_has_it),
		CLUSTER_TEST(test_far_stores_get_more),
		CLUSTER_TEST(test_only_what_is_read),
		CLUSTER_TEST(test_whole_with_readers),
		CLUSTER_TEST(test_removed_meanwhile),
		CLUSTER_TEST(test_gone_everywhere),
		CLUSTER_TEST(test_failover),
		CLUSTER_TEST(test_left_in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
