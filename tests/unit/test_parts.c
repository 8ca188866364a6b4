/* Reading by ranges from stores that return wrong bytes: nobody ever gets one of them. */
#include "tests/unit/cluster.h"

#include <fcntl.h>
#include <unistd.h>

#include "cache/partial.h"
#include "replicator/internal.h"
#include "replicator/object.h"
#include "replicator/parts.h"
#include "replicator/range_source.h"

#define MIB (UINT64_C(1) << 20)
#define SIZE (9 * MIB + 77)
#define PARTS 10

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

/* Behind everybody's back: the object's metadata and ETag stay. */
static void flip(struct cluster *c, unsigned region, const char *key, uint64_t at)
{
	struct timespec times[2];
	struct stat st;
	char path[300], byte;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", c->url[region] + strlen("file://"), key);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte = (char)~byte;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	assert_int_equal(futimens(fd, times), 0);
	close(fd);
}

static void parts_path(char key[PARTS_KEY_SIZE])
{
	uint8_t hash[SHA256_SIZE];

	sha256(big, SIZE, hash);
	parts_key(hash, key);
}

static void remove_parts(struct cluster *c, unsigned region)
{
	char key[PARTS_KEY_SIZE], path[300];

	parts_path(key);
	snprintf(path, sizeof(path), "%s/%s", c->url[region] + strlen("file://"), key);
	assert_int_equal(unlink(path), 0);
}

static struct region *region(struct cluster *c, unsigned n)
{
	return &c->node[1].replicator->regions.region[n];
}

static void assert_all_here(struct cluster *c)
{
	size_t n;
	char *got = cluster_read(c, 1, "big", &n);

	assert_int_equal(n, SIZE);
	assert_memory_equal(got, big, SIZE);
	free(got);
}

/* What the object's metadata say, and what they name. */
static void assert_has_parts(struct cluster *c, unsigned n, const char *key)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(buf_done) struct buf b = {0};
	struct store_object object;
	struct store_error error = {0};
	uint8_t hash[SHA256_SIZE], digest[SHA256_SIZE];
	size_t at;

	assert_int_equal(
		store_head(region(c, n)->store, key, &object, &meta, NULL, &error), STORE_OK);
	assert_non_null(store_meta_get(&meta, PARTS_META));
	assert_true(hex_decode(store_meta_get(&meta, PARTS_META), digest, sizeof(digest)));
	sha256(big, SIZE, hash);
	assert_int_equal(parts_get(region(c, n), hash, SIZE, digest, &b, &at), 0);
	assert_int_equal(b.len - at, PARTS * SHA256_SIZE);
	/* Of other content, or another size. */
	hash[0] ^= 1;
	assert_int_equal(parts_get(region(c, n), hash, SIZE, digest, &b, &at), -ENODATA);
	hash[0] ^= 1;
	assert_int_equal(parts_get(region(c, n), hash, SIZE + MIB, digest, &b, &at), -ENODATA);
}

static void test_all_objects_have_them(void **state)
{
	struct cluster *c = *state;
	struct inode inode, set = {.mode = 0600};

	announce_big(c);
	assert_has_parts(c, 0, "big");
	assert_has_parts(c, 1, "big");
	assert_int_equal(atomic_load(&region(c, 0)->wrong_bytes), 2);
	inode = cluster_resolve(c, 0, "big");
	assert_int_equal(tree_setattr(c->node[0].cache, inode.ino, SET_MODE, &set, &inode), 0);
	cluster_settle(c);
	assert_has_parts(c, 0, "big");
	cluster_rename(c, 0, "big", "moved");
	cluster_settle(c);
	assert_has_parts(c, 1, "moved");
}

static void test_wrong_in_one_region(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);

	flip(c, 1, "big", 6 * MIB + 5);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	assert_int_equal(atomic_load(&region(c, 1)->wrong_bytes), 1);
	assert_int_equal(atomic_load(&region(c, 0)->wrong_bytes), 0);
	assert_all_here(c);
}

static void test_wrong_in_all_regions(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct partial *p;

	flip(c, 0, "big", 6 * MIB + 5);
	flip(c, 1, "big", 7 * MIB - 1);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), -EAGAIN);
	assert_int_equal(partial_get(c->node[1].cache, inode.ino, &p), 0);
	assert_int_equal(partial_missing(p, 0, 6), 6);
	assert_int_equal(partial_missing(p, 6, 7), 6);
	partial_put(p);
	assert_true(atomic_load(&region(c, 1)->wrong_bytes) > 0);
	assert_true(atomic_load(&region(c, 0)->wrong_bytes) > 0);
	/* Two halves of the truth. */
	flip(c, 0, "big", 6 * MIB + 5);
	flip(c, 0, "big", 8 * MIB);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	assert_all_here(c);
}

static void test_hashes_elsewhere(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	char key[PARTS_KEY_SIZE];

	parts_path(key);
	flip(c, 1, key, 100);
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	assert_int_equal(atomic_load(&region(c, 1)->wrong_bytes), 1);
	assert_all_here(c);
}

/* Then the whole is compared before anybody gets a byte. */
static void test_hashes_nowhere(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	uint64_t before;

	remove_parts(c, 0);
	remove_parts(c, 1);
	flip(c, 1, "big", 3 * MIB);
	before = c->requests[1];
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	/* The object's metadata, the hashes, and the content at once. */
	assert_int_equal(c->requests[1] - before, 3);
	assert_all_here(c);
}

static bool parts_are_there(struct cluster *c, unsigned region)
{
	char key[PARTS_KEY_SIZE], path[300];

	parts_path(key);
	snprintf(path, sizeof(path), "%s/%s", c->url[region] + strlen("file://"), key);
	return access(path, F_OK) == 0;
}

/* They stay as long as a path has the content, or the trash. */
static void test_sweep(void **state)
{
	struct cluster *c = *state;
	char path[300];

	announce_big(c);
	cluster_now_ms += 2 * 86400000;
	parts_sweep(region(c, 0));
	assert_true(parts_are_there(c, 0));
	cluster_unlink(c, 0, "big");
	cluster_settle(c);
	parts_sweep(region(c, 0));
	assert_true(parts_are_there(c, 0));
	/* Of region 1 the trash is emptied. */
	snprintf(path, sizeof(path), "%s/.meridian/trash", c->url[1] + strlen("file://"));
	assert_int_equal(nftw(path, cluster_remove, 16, FTW_DEPTH | FTW_PHYS), 0);
	parts_sweep(region(c, 0));
	parts_sweep(region(c, 1));
	assert_true(parts_are_there(c, 0));
	assert_false(parts_are_there(c, 1));
}

/* Objects of older programs, which name none. */
static void test_without_hashes(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);

	for (unsigned n = 0; n < CLUSTER_REGIONS; n++) {
		CLEANUP(store_meta_done) struct store_meta meta = {0}, less = {0};
		struct store_object object;
		struct store_error error = {0};

		assert_int_equal(
			store_head(region(c, n)->store, "big", &object, &meta, NULL, &error),
			STORE_OK);
		for (uint32_t i = 0; i < meta.count; i++) {
			if (strcmp(meta.item[i].name, PARTS_META) != 0)
				assert_int_equal(store_meta_set(&less, meta.item[i].name,
							 meta.item[i].value),
					0);
		}
		assert_int_equal(store_put_buf(region(c, n)->store, "big", big, SIZE, &less, NULL,
					 NULL, NULL, &error),
			STORE_OK);
	}
	assert_int_equal(replicator_step_fetch(c->node[1].replicator, inode.ino), 0);
	assert_all_here(c);
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

static int read_at(struct cluster *c, struct file *f, uint64_t offset, size_t n)
{
	char got[4096];
	struct told t = {0};

	assert_true(n <= sizeof(got));
	if (!file_ready(f, offset, n)) {
		cache_range(c->node[1].cache, file_partial(f), offset, n, told, &t);
		for (int i = 0; !atomic_load(&t.count); i++) {
			assert_true(i < 500);
			clock_sleep_ms(10);
		}
		if (atomic_load(&t.failed))
			return atomic_load(&t.failed);
	}
	assert_int_equal(file_read(f, got, n, offset), (ssize_t)n);
	assert_memory_equal(got, big + offset, n);
	return 0;
}

static struct file *open_big(struct cluster *c, uint64_t ino)
{
	struct file *f = NULL;

	assert_int_equal(file_open(c->node[1].cache, ino, false, false, &f), 0);
	assert_non_null(file_partial(f));
	clock_set_source(NULL);
	assert_int_equal(replicator_start(c->node[1].replicator, NULL), 0);
	return f;
}

static void test_readers_of_one_wrong_region(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	struct file *f;

	flip(c, 1, "big", 6 * MIB + 5);
	f = open_big(c, inode.ino);
	assert_int_equal(read_at(c, f, 0, 100), 0);
	assert_int_equal(read_at(c, f, 6 * MIB, 100), 0);
	assert_int_equal(read_at(c, f, 8 * MIB, 100), 0);
	assert_int_equal(atomic_load(&region(c, 1)->wrong_bytes), 1);
	file_release(f);
	replicator_stop(c->node[1].replicator);
}

static void test_readers_of_wrong_regions(void **state)
{
	struct cluster *c = *state;
	struct inode inode = announce_big(c);
	int64_t start;
	struct file *f;

	flip(c, 0, "big", 6 * MIB + 5);
	flip(c, 1, "big", 6 * MIB + 5);
	f = open_big(c, inode.ino);
	assert_int_equal(read_at(c, f, 0, 100), 0);
	start = clock_monotonic_ms();
	assert_int_equal(read_at(c, f, 6 * MIB + 100, 100), -EIO);
	assert_int_equal(read_at(c, f, 7 * MIB - 100, 50), -EIO);
	assert_true(clock_monotonic_ms() - start < 10000);
	assert_int_equal(read_at(c, f, 5 * MIB, 100), 0);
	assert_int_equal(read_at(c, f, 7 * MIB, 100), 0);
	/* Somebody puts it right. */
	flip(c, 0, "big", 6 * MIB + 5);
	for (int i = 0; read_at(c, f, 6 * MIB + 100, 100) != 0; i++) {
		assert_true(i < 500);
		clock_sleep_ms(20);
	}
	file_release(f);
	replicator_stop(c->node[1].replicator);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_all_objects_have_them),
		CLUSTER_TEST(test_wrong_in_one_region),
		CLUSTER_TEST(test_wrong_in_all_regions),
		CLUSTER_TEST(test_hashes_elsewhere),
		CLUSTER_TEST(test_hashes_nowhere),
		CLUSTER_TEST(test_without_hashes),
		CLUSTER_TEST(test_sweep),
		CLUSTER_TEST(test_readers_of_one_wrong_region),
		CLUSTER_TEST(test_readers_of_wrong_regions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
