/* Reading and writing open files: what is refused, what counts as a change, and appends of several. */
#include "tests/unit/cache_fixture.h"

#include "src/base/thread.h"

static void wrong_use_is_refused(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "one");
	struct file *file = NULL;

	assert_int_equal(file_open(f->cache, 999, false, false, &file), -ESTALE);
	assert_int_equal(file_open(f->cache, ROOT_INO, false, false, &file), -EISDIR);
	assert_int_equal(file_open(f->cache, ino, false, true, &file), -EINVAL);
	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	assert_int_equal(file_write(file, "x", 1, 0, false), -EBADF);
	assert_int_equal(file_truncate(file, 0), -EBADF);
	file_release(file);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "x", 1, UINT64_MAX, false), -EFBIG);
	assert_int_equal(file_truncate(file, UINT64_MAX), -EFBIG);
	file_release(file);
}

static void allocating_and_copying_are_changes(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "from", "0123456789");
	struct file *from, *to = make_open(f, ROOT_INO, "to");
	char text[32] = "";

	assert_int_equal(file_open(f->cache, ino, false, false, &from), 0);
	assert_int_equal(file_allocate(from, 0, 0, 10), -EBADF);
	assert_int_equal(file_copy(to, 0, from, 0, 10), -EBADF);
	assert_int_equal(file_allocate(to, 0, 0, 0), -EINVAL);
	assert_int_equal(file_allocate(to, 0, INT64_MAX, 2), -EFBIG);
	assert_int_equal(file_copy(from, 0, to, INT64_MAX, 2), -EFBIG);
	assert_int_equal(file_copy(from, 2, to, 3, 20), 8);
	assert_int_equal(file_read(to, text, sizeof(text), 0), 11);
	assert_memory_equal(text,
		"\0\0\0"
		"23456789",
		11);
	journal_clear(f);
	assert_int_equal(file_flush(to), 0);
	journal_clear(f);
	assert_int_equal(file_allocate(to, FALLOC_FL_KEEP_SIZE, 0, 100), 0);
	assert_int_equal(file_flush(to), 0);
	assert_string_equal(journal_text(f), "");
	assert_int_equal(file_allocate(to, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 4, 2), 0);
	assert_int_equal(file_read(to, text, sizeof(text), 0), 11);
	assert_memory_equal(text,
		"\0\0\0"
		"2\0\0"
		"56789",
		11);
	assert_int_equal(file_flush(to), 0);
	assert_string_equal(journal_text(f), "put to;");
	assert_int_equal(file_allocate(to, 0, 0, 4096), 0);
	assert_int_equal(file_read(to, text, sizeof(text), 4090), 6);
	file_release(from);
	file_release(to);
}

struct appending {
	struct fixture *f;
	uint64_t ino;
};

static void *append_lines(void *arg)
{
	struct appending *a = arg;
	char line[16];

	memset(line, (int)((uintptr_t)pthread_self() >> 12 & 15) + 'A', 15);
	line[15] = '\n';
	for (unsigned i = 0; i < 200; i++) {
		struct file *file;

		if (file_open(a->f->cache, a->ino, true, false, &file))
			return a;
		if (file_write(file, line, sizeof(line), 0, true) != sizeof(line))
			return a;
		file_release(file);
	}
	return NULL;
}

static void appends_do_not_overlap(void **state)
{
	struct fixture *f = *state;
	struct appending a = {.f = f, .ino = make_file(f, ROOT_INO, "f", "")};
	struct inode inode;
	pthread_t threads[3];
	void *failed;

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(thread_start(&threads[i], "append", append_lines, &a), 0);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(tree_getattr(f->cache, a.ino, &inode), 0);
	assert_int_equal(inode.size, 3 * 200 * 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(wrong_use_is_refused),
		TEST(allocating_and_copying_are_changes),
		TEST(appends_do_not_overlap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
