/* Access times: relatime's rule, memory before the database, no journal rows. */
#include "tests/unit/cache_fixture.h"

#define HOUR_NS (INT64_C(3600) * 1000000000)

static struct inode attributes(struct fixture *f, uint64_t ino)
{
	struct inode inode = {0};

	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	return inode;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void set(struct fixture *f, uint64_t ino, int64_t atime_ns, int64_t mtime_ns)
{
	struct inode v = {.atime_ns = atime_ns, .mtime_ns = mtime_ns, .ctime_ns = mtime_ns}, ret;

	assert_int_equal(
		tree_setattr(f->cache, ino, SET_ATIME | SET_MTIME | SET_CTIME, &v, &ret), 0);
}

static void reads_follow_relatime(void **state)
{
	struct fixture *f = *state;
	int64_t now = now_ns(), hours = now - 20 * HOUR_NS, days = now - 25 * HOUR_NS;
	uint64_t ino = make_file(f, ROOT_INO, "f", "x");
	struct inode first;

	seal_now(f, ino);
	set(f, ino, hours, hours - 1);
	tree_accessed(f->cache, ino);
	assert_int_equal(attributes(f, ino).atime_ns, hours);
	set(f, ino, hours, hours);
	journal_clear(f);
	tree_accessed(f->cache, ino);
	first = attributes(f, ino);
	assert_true(first.atime_ns >= now);
	assert_int_equal(first.ctime_ns, hours);
	tree_accessed(f->cache, ino);
	assert_int_equal(attributes(f, ino).atime_ns, first.atime_ns);
	set(f, ino, days, days - 1);
	assert_int_equal(attributes(f, ino).atime_ns, days);
	tree_accessed(f->cache, ino);
	assert_true(attributes(f, ino).atime_ns >= now);
	tree_accessed(f->cache, 99999);
}

static void they_are_written_lazily_and_not_journalled(void **state)
{
	struct fixture *f = *state;
	uint64_t dir = make_dir(f, ROOT_INO, "d");
	int64_t shown;

	set(f, dir, 5, 7);
	assert_int_equal(tree_flush_times(f->cache, true), 0);
	journal_clear(f);
	tree_accessed(f->cache, dir);
	shown = attributes(f, dir).atime_ns;
	assert_int_equal(row_of(f, dir).atime_ns, 5);
	assert_int_equal(tree_flush_times(f->cache, false), 0);
	assert_int_equal(row_of(f, dir).atime_ns, 5);
	assert_int_equal(tree_flush_times(f->cache, true), 0);
	assert_int_equal(row_of(f, dir).atime_ns, shown);
	assert_int_equal(attributes(f, dir).atime_ns, shown);
	assert_int_equal(row_of(f, dir).mtime_ns, 7);
	assert_string_equal(journal_text(f), "");
	/* Half a table's worth is written without waiting. */
	for (unsigned i = 0; i < 4096; i++) {
		char name[16];
		uint64_t ino;

		snprintf(name, sizeof(name), "%u", i);
		ino = make_dir(f, dir, name);
		set(f, ino, 5, 7);
		tree_accessed(f->cache, ino);
	}
	assert_int_equal(row_of(f, lookup(f, dir, "4095")).atime_ns, 5);
	assert_int_equal(tree_flush_times(f->cache, false), 0);
	assert_int_not_equal(row_of(f, lookup(f, dir, "4095")).atime_ns, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reads_follow_relatime),
		TEST(they_are_written_lazily_and_not_journalled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
