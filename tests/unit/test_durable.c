/* Waits for regions, step by step: what each mode waits for, and what ends a wait. */
#include "tests/unit/cluster.h"

#include <fcntl.h>
#include <unistd.h>

#include "cache/internal.h"

#define NOT_YET 1

struct answer {
	int result;
	unsigned count;
};

static void answered(void *arg, int result)
{
	struct answer *a = arg;

	a->result = result;
	a->count++;
}

static void begin(struct cluster *c, uint64_t ino, enum durability mode, struct answer *a)
{
	*a = (struct answer){.result = NOT_YET};
	replicator_wait_durable(c->node[0].replicator, ino, mode, answered, a);
}

static int look(struct cluster *c, const struct answer *a)
{
	bool did;

	assert_int_equal(replicator_step_durable(c->node[0].replicator, &did), 0);
	assert_true(a->count <= 1);
	return a->result;
}

static void seal(struct cluster *c)
{
	bool did;

	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
}

static void announce(struct cluster *c, unsigned region)
{
	bool did;

	assert_int_equal(replicator_step_announce(c->node[0].replicator, region, &did), 0);
}

static void objects(struct cluster *c, unsigned region)
{
	bool did;

	assert_int_equal(replicator_step_objects(c->node[0].replicator, region, 64, &did), 0);
}

static uint64_t ino_of(struct cluster *c, const char *path)
{
	return cluster_resolve(c, 0, path).ino;
}

/* The segment is enough; the object may follow. Node 0's home is region 0. */
static void test_modes(void **state)
{
	struct cluster *c = *state;
	struct answer home, quorum, all;

	cluster_puts(c, 0, "a", "hello");
	begin(c, ino_of(c, "a"), DURABILITY_HOME, &home);
	begin(c, ino_of(c, "a"), DURABILITY_QUORUM, &quorum);
	begin(c, ino_of(c, "a"), DURABILITY_ALL, &all);
	assert_int_equal(look(c, &home), NOT_YET);
	seal(c);
	assert_int_equal(look(c, &home), NOT_YET);
	announce(c, 0);
	assert_int_equal(look(c, &home), 0);
	assert_int_equal(look(c, &quorum), NOT_YET); /* of two regions both */
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 1);
	assert_int_equal(look(c, &all), 0);
	assert_int_equal(look(c, &quorum), 0);
	assert_true(cluster_backlog(c, 0) > 0); /* the objects */
	/* Nothing is left to wait for. */
	begin(c, ino_of(c, "a"), DURABILITY_ALL, &all);
	assert_int_equal(look(c, &all), 0);
}

static void test_home_is_not_just_any(void **state)
{
	struct cluster *c = *state;
	struct answer home;

	cluster_puts(c, 0, "a", "hello");
	begin(c, ino_of(c, "a"), DURABILITY_HOME, &home);
	assert_int_equal(look(c, &home), NOT_YET);
	seal(c);
	announce(c, 1);
	assert_int_equal(look(c, &home), NOT_YET);
	announce(c, 0);
	assert_int_equal(look(c, &home), 0);
}

static void test_large_file(void **state)
{
	struct cluster *c = *state;
	struct answer all;
	char *p = calloc(1, 200000);

	assert_non_null(p);
	cluster_write(c, 0, "large", p, 200000);
	begin(c, ino_of(c, "large"), DURABILITY_ALL, &all);
	seal(c);
	for (unsigned i = 0; i < 2; i++) {
		announce(c, i); /* not before its object */
		assert_int_equal(look(c, &all), NOT_YET);
	}
	objects(c, 0);
	objects(c, 1);
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 0);
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 1);
	assert_int_equal(look(c, &all), 0);
	free(p);
}

#define BESIDE ((size_t)200000)
#define ENDLESS (INT64_C(8) << 40) /* hours of copying */

/* Somebody has it open to write, and it is so large that it is sealed from a snapshot in the background. */
static struct file *open_beside(struct cluster *c, const char *name, char text)
{
	struct cache *cache = c->node[0].cache;
	char *p = malloc(BESIDE);
	struct inode inode;
	struct file *f;

	cache->hash_slice_ms = 0;
	assert_non_null(p);
	memset(p, text, BESIDE);
	assert_int_equal(tree_create_open(cache, ROOT_INO, slice_of(name), S_IFREG | 0644, 1000,
				 1000, true, &inode, &f),
		0);
	assert_int_equal(file_write(f, p, BESIDE, 0, false), BESIDE);
	assert_int_equal(file_fsync(f, false), 0);
	free(p);
	return f;
}

static void wait_for_snapshot(struct cluster *c)
{
	struct content_snapshot found[CONTENT_SNAPSHOTS_MAX];

	for (unsigned n = 0; content_snapshots(c->node[0].cache, found) != 1; n++) {
		assert_true(n < 10000);
		usleep(1000);
	}
}

/* The last byte of the object, ' ': there is none. */
static char object_of(struct cluster *c, unsigned region, const char *name)
{
	char path[256], text = ' ';
	int fd;

	snprintf(path, sizeof(path), "%s/%s/%s", c->dir, cluster_names[region], name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ' ';
	assert_int_equal(pread(fd, &text, 1, BESIDE - 1), 1);
	close(fd);
	return text;
}

/* That version is awaited which was there when the wait began, or a later one. */
static void test_snapshot_in_the_background(void **state)
{
	struct cluster *c = *state;
	struct file *f = open_beside(c, "large", 'a');
	struct answer home, all;

	begin(c, file_ino(f), DURABILITY_HOME, &home);
	begin(c, file_ino(f), DURABILITY_ALL, &all);
	assert_int_equal(look(c, &home), NOT_YET);
	seal(c);
	wait_for_snapshot(c);
	/* It is there, and neither sealed nor sent. */
	for (unsigned i = 0; i < 2; i++) {
		objects(c, i);
		announce(c, i);
	}
	assert_int_equal(look(c, &home), NOT_YET);
	assert_int_equal(object_of(c, 0, "large"), ' ');
	seal(c);
	for (unsigned i = 0; i < 2; i++) {
		announce(c, i);
		assert_int_equal(look(c, &home), i ? 0 : NOT_YET);
		objects(c, i);
		assert_int_equal(look(c, &home), i ? 0 : NOT_YET);
		assert_int_equal(look(c, &all), NOT_YET);
		announce(c, i);
		assert_int_equal(look(c, &home), 0);
		assert_int_equal(object_of(c, i, "large"), 'a');
	}
	assert_int_equal(look(c, &all), 0);
	file_release(f);
}

/* What is written after the snapshot's instant, and awaited, is not there with that snapshot. */
static void test_snapshot_of_before(void **state)
{
	struct cluster *c = *state;
	struct file *f = open_beside(c, "large", 'a');
	struct answer first, all;

	begin(c, file_ino(f), DURABILITY_ALL, &first);
	assert_int_equal(look(c, &first), NOT_YET);
	seal(c);
	wait_for_snapshot(c);
	assert_int_equal(file_write(f, "b", 1, BESIDE - 1, false), 1);
	assert_int_equal(file_fsync(f, false), 0);
	begin(c, file_ino(f), DURABILITY_ALL, &all);
	assert_int_equal(look(c, &all), NOT_YET);
	for (unsigned n = 0; look(c, &all) == NOT_YET; n++) {
		assert_true(n < 1000);
		cluster_push(c, 0);
		cluster_now_ms += 1;
		usleep(1000);
	}
	assert_int_equal(all.result, 0);
	assert_int_equal(first.result, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(object_of(c, i, "large"), 'b');
	file_release(f);
}

/* After the half minute of durability_timeout, and not before. */
static void assert_times_out(struct cluster *c, struct answer *a)
{
	cluster_push(c, 0);
	cluster_now_ms += 29000;
	cluster_push(c, 0);
	assert_int_equal(look(c, a), NOT_YET);
	cluster_now_ms += 1500;
	assert_int_equal(look(c, a), -EIO);
}

static void test_snapshot_that_takes_too_long(void **state)
{
	struct cluster *c = *state;
	struct file *f = open_beside(c, "large", 'a');
	struct answer all;

	assert_int_equal(file_truncate(f, ENDLESS), 0);
	assert_int_equal(file_fsync(f, false), 0);
	begin(c, file_ino(f), DURABILITY_ALL, &all);
	assert_times_out(c, &all);
	content_stop_hashing(c->node[0].cache, 0);
	file_release(f);
}

static void test_timeout(void **state)
{
	struct cluster *c = *state;
	struct answer all;

	c->down[1] = true;
	cluster_puts(c, 0, "a", "hello");
	begin(c, ino_of(c, "a"), DURABILITY_ALL, &all);
	assert_times_out(c, &all);
	c->down[1] = false;
	cluster_settle(c);
	cluster_expect(c, 1, "a", "hello");
	begin(c, ino_of(c, "a"), DURABILITY_ALL, &all);
	assert_int_equal(look(c, &all), 0);
}

/* Who changes a file again before a segment is there does not make others wait for ever. */
static void test_overtaken(void **state)
{
	struct cluster *c = *state;
	struct answer all;

	c->down[1] = true;
	cluster_puts(c, 0, "a", "one");
	begin(c, ino_of(c, "a"), DURABILITY_ALL, &all);
	seal(c);
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 0);
	cluster_puts(c, 0, "a", "two");
	seal(c);
	assert_int_equal(look(c, &all), NOT_YET);
	c->down[1] = false;
	cluster_now_ms += 120000 - 91000; /* beyond the breaker's pause, below the limit */
	announce(c, 1);
	announce(c, 1);
	assert_int_equal(look(c, &all), 0);
}

static void test_renamed_and_removed(void **state)
{
	struct cluster *c = *state;
	struct answer all;

	cluster_mkdir(c, 0, "d");
	cluster_settle(c);
	cluster_puts(c, 0, "a", "hello");
	begin(c, ino_of(c, "a"), DURABILITY_ALL, &all);
	assert_int_equal(look(c, &all), NOT_YET);
	cluster_rename(c, 0, "a", "d/b");
	assert_int_equal(look(c, &all), NOT_YET);
	seal(c);
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 0);
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 1);
	assert_int_equal(look(c, &all), 0);
	cluster_puts(c, 0, "gone", "x");
	begin(c, ino_of(c, "gone"), DURABILITY_ALL, &all);
	cluster_unlink(c, 0, "gone");
	assert_int_equal(look(c, &all), 0);
}

static void test_directory(void **state)
{
	struct cluster *c = *state;
	struct answer all, other;
	char name[32];

	cluster_mkdir(c, 0, "d");
	cluster_mkdir(c, 0, "e");
	cluster_settle(c);
	for (unsigned i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "d/f%u", i);
		cluster_puts(c, 0, name, "x");
	}
	begin(c, ino_of(c, "d"), DURABILITY_ALL, &all);
	begin(c, ino_of(c, "e"), DURABILITY_ALL, &other);
	assert_int_equal(look(c, &all), NOT_YET);
	assert_int_equal(other.result, 0); /* nothing happened in it */
	seal(c);
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 0);
	assert_int_equal(look(c, &all), NOT_YET);
	cluster_puts(c, 0, "d/later", "not waited for");
	seal(c);
	announce(c, 1);
	assert_int_equal(look(c, &all), 0);
	cluster_unlink(c, 0, "d/f7");
	begin(c, ino_of(c, "d"), DURABILITY_HOME, &all);
	seal(c);
	assert_int_equal(look(c, &all), NOT_YET);
	announce(c, 0);
	assert_int_equal(look(c, &all), 0);
}

/* Another server's version takes the name while a program here still has the file open. */
static void test_displaced(void **state)
{
	struct cluster *c = *state;
	struct answer all;
	struct inode inode;
	struct file *f;

	cluster_puts(c, 0, "a", "base");
	cluster_settle(c);
	inode = cluster_resolve(c, 0, "a");
	assert_int_equal(file_open(c->node[0].cache, inode.ino, true, false, &f), 0);
	cluster_now_ms += 1000;
	cluster_puts(c, 1, "a", "of the other server");
	cluster_push(c, 1);
	cluster_pull(c, 0);
	assert_int_not_equal(cluster_resolve(c, 0, "a").ino, inode.ino);
	assert_int_equal(file_write(f, "mine", 4, 0, false), 4);
	begin(c, inode.ino, DURABILITY_ALL, &all);
	assert_int_equal(look(c, &all), -ESTALE);
	file_release(f);
}

static void test_rules(void **state)
{
	struct cluster *c = *state;
	const struct durability_rule rules[] = {
		{.glob = "logs/*", .has_mode = true, .wish = {.mode = DURABILITY_LOCAL}},
		{.glob = "*.db", .has_mode = true, .wish = {.mode = DURABILITY_ALL}},
		{.glob = "*", .has_on_close = true, .wish = {.on_close = true}},
	};
	struct durability_wish wish;
	struct cache *cache = c->node[0].cache;

	assert_false(durability_matters(cache));
	assert_int_equal(durability_set(cache, (struct durability_wish){.mode = DURABILITY_QUORUM},
				 rules, 3),
		0);
	assert_true(durability_matters(cache));
	assert_true(durability_on_close(cache));
	cluster_mkdir(c, 0, "logs");
	cluster_puts(c, 0, "logs/x.db", "");
	cluster_puts(c, 0, "x.db", "");
	cluster_puts(c, 0, "y", "");
	assert_int_equal(durability_of(cache, ino_of(c, "logs/x.db"), &wish), 0);
	assert_int_equal(wish.mode, DURABILITY_LOCAL);
	assert_true(wish.on_close);
	assert_int_equal(durability_of(cache, ino_of(c, "logs"), &wish), 0);
	assert_int_equal(wish.mode, DURABILITY_LOCAL);
	assert_int_equal(durability_of(cache, ino_of(c, "x.db"), &wish), 0);
	assert_int_equal(wish.mode, DURABILITY_ALL);
	assert_int_equal(durability_of(cache, ino_of(c, "y"), &wish), 0);
	assert_int_equal(wish.mode, DURABILITY_QUORUM);
	/* The strongest of a file's names. */
	struct inode inode;
	assert_int_equal(tree_link(cache, ino_of(c, "y"), ROOT_INO, slice_of("y.db"), &inode), 0);
	assert_int_equal(durability_of(cache, ino_of(c, "y"), &wish), 0);
	assert_int_equal(wish.mode, DURABILITY_ALL);
}

static void expect_text(struct cluster *c, const char *path, const char *text)
{
	struct buf b = {0};

	assert_int_equal(durability_text(c->node[0].cache, ino_of(c, path), &b), 0);
	assert_string_equal(buf_str(&b), text);
	buf_done(&b);
}

static void test_text(void **state)
{
	struct cluster *c = *state;

	cluster_mkdir(c, 0, "d");
	cluster_settle(c);
	c->down[1] = true;
	cluster_puts(c, 0, "d/a", "hello");
	expect_text(c, "d/a", "east: pending\nwest: pending\n");
	expect_text(c, "d", "east: pending\nwest: pending\n");
	cluster_push(c, 0);
	cluster_now_ms += 12345;
	expect_text(c, "d/a", "east: here\nwest: 12 s behind\n");
	expect_text(c, "d", "east: here\nwest: pending\n");
	c->down[1] = false;
	cluster_settle(c);
	expect_text(c, "d/a", "east: here\nwest: here\n");
	expect_text(c, "d", "east: here\nwest: here\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_modes, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_home_is_not_just_any, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_large_file, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_snapshot_in_the_background, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_snapshot_of_before, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_snapshot_that_takes_too_long, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_timeout, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_overtaken, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_renamed_and_removed, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_directory, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_displaced, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_rules, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_text, cluster_setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
