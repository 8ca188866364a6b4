/* When an open file's row and journal follow its content: on closes, on fsync, by age, at its release. */
#include "tests/unit/cache_fixture.h"

static void a_created_file_is_journalled_by_its_release(void **state)
{
	struct fixture *f = *state;
	struct file *file = make_open(f, ROOT_INO, "f");
	uint64_t ino = file_ino(file);
	struct inode inode;

	assert_string_equal(journal_text(f), "");
	assert_true(row_of(f, ino).dirty);
	assert_int_equal(file_write(file, "hello", 5, 0, false), 5);
	assert_int_equal(file_write(file, "!", 1, 999, true), 1);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("f"), &inode), 0);
	assert_int_equal(inode.size, 6);
	file_release(file);
	assert_string_equal(journal_text(f), "put f;");
	/* The row of a dirty inode follows at the seal. */
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("f"), &inode), 0);
	assert_int_equal(inode.size, 6);
	assert_content(f, ino, "hello!");
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(seal_now(f, ino).size, 6);
	assert_int_equal(row_of(f, ino).size, 6);
	assert_int_equal(row_of(f, ino).mtime_ns, inode.mtime_ns);
	assert_false(row_of(f, ino).dirty);
}

/* What follows a close is journalled after it, though the kernel releases later. */
static void a_flush_puts_the_row_and_the_release_none(void **state)
{
	struct fixture *f = *state;
	struct file *a = make_open(f, ROOT_INO, "a"), *reader = NULL;

	assert_int_equal(file_write(a, "x", 1, 0, false), 1);
	assert_int_equal(file_flush(a), 0);
	make_dir(f, ROOT_INO, "after");
	assert_string_equal(journal_text(f), "put a;put after;");
	assert_int_equal(file_flush(a), 0);
	assert_int_equal(file_open(f->cache, file_ino(a), false, false, &reader), 0);
	assert_int_equal(file_flush(reader), 0);
	file_release(reader);
	file_release(a);
	assert_string_equal(journal_text(f), "put a;put after;");

	a = make_open(f, ROOT_INO, "empty");
	assert_int_equal(file_flush(a), 0);
	assert_string_equal(journal_text(f), "put a;put after;put empty;");
	assert_int_equal(file_write(a, "late", 4, 0, false), 4);
	file_release(a);
	assert_string_equal(journal_text(f), "put a;put after;put empty;put empty;");
}

/* Else a power cut brought back what an application had truncated and flushed: an old journal of a
 * database, say. */
static void a_flushed_truncation_is_durable(void **state)
{
	struct fixture *f = *state;
	const struct cache_options options = {.state_dir = f->dir};
	struct err err = {0};
	struct file *file;

	cache_close(f->cache);
	assert_int_equal(cache_open(&options, &f->cache, &err), 0);
	file = make_open(f, ROOT_INO, "journal");
	assert_int_equal(file_write(file, "123456", 6, 0, false), 6);
	assert_int_equal(file_fsync(file, false), 0);
	assert_int_equal(seal_now(f, file_ino(file)).size, 6);
	assert_int_equal(file_write(file, "7", 1, 6, false), 1);
	assert_int_equal(file_fsync(file, false), 0);
	assert_int_equal(row_of(f, file_ino(file)).size, 7);
	make_dir(f, ROOT_INO, "other");
	assert_int_equal(cache_sync(f->cache), 0);
	assert_int_equal(f->cache->synced, atomic_load(&f->cache->commits));
	assert_int_equal(file_truncate(file, 2), 0);
	uint64_t before = f->cache->synced;
	assert_int_equal(file_fsync(file, true), 0);
	assert_true(f->cache->synced > before);
	assert_false(atomic_load(&f->cache->grouped));
	file_release(file);
}

/* utimensat comes between the reading of a version and its recording: what it set stays. */
static void an_mtime_that_is_set_during_a_seal_stays(void **state)
{
	struct fixture *f = *state;
	struct inode set = {.mtime_ns = 1234567890123456789}, inode;
	uint64_t ino = make_file(f, ROOT_INO, "m", "x");
	struct content_version v;
	struct conn *conn;

	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), 0);
	assert_int_equal(tree_setattr(f->cache, ino, SET_MTIME, &set, &inode), 0);
	assert_int_equal(cache_begin(f->cache, &conn), 0);
	assert_int_equal(content_sealed(conn, &v), 0);
	assert_int_equal(cache_commit(conn), 0);
	assert_int_equal(row_of(f, ino).mtime_ns, set.mtime_ns);
	assert_false(row_of(f, ino).dirty);
}

static void an_mtime_that_was_set_survives_the_release(void **state)
{
	struct fixture *f = *state;
	struct file *file = make_open(f, ROOT_INO, "f");
	struct inode inode, set = {.mtime_ns = INT64_C(1234567890123456789)};
	uint64_t ino = file_ino(file);

	assert_int_equal(file_write(file, "x", 1, 0, false), 1);
	assert_int_equal(tree_setattr(f->cache, ino, SET_MTIME, &set, &inode), 0);
	file_release(file);
	seal_now(f, ino);
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_true(inode.mtime_ns == set.mtime_ns);
	fixture_crash(f);
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_true(inode.mtime_ns == set.mtime_ns);
}

static void fsync_and_age_put_rows_for_open_files(void **state)
{
	struct fixture *f = *state;
	struct file *file = make_open(f, ROOT_INO, "f");

	assert_int_equal(file_write(file, "a", 1, 0, false), 1);
	assert_int_equal(file_fsync(file, true), 0);
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(file_fsync(file, false), 0); /* nothing new */
	assert_int_equal(file_journal_due(f->cache, 0), 0);
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(file_write(file, "b", 1, 0, false), 1);
	assert_int_equal(file_journal_due(f->cache, 60000), 0);
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(file_journal_due(f->cache, 0), 0);
	assert_string_equal(journal_text(f), "put f;put f;");
	assert_int_equal(file_journal_due(f->cache, 0), 0);
	assert_string_equal(journal_text(f), "put f;put f;");
	/* Sealed as it is and closed without a further change: no third version. */
	seal_now(f, file_ino(file));
	assert_true(row_of(f, file_ino(file)).dirty); /* a writer is left */
	file_release(file);
	assert_string_equal(journal_text(f), "put f;put f;");
	assert_false(row_of(f, lookup(f, ROOT_INO, "f")).dirty);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_created_file_is_journalled_by_its_release),
		TEST(a_flush_puts_the_row_and_the_release_none),
		TEST(a_flushed_truncation_is_durable),
		TEST(an_mtime_that_is_set_during_a_seal_stays),
		TEST(an_mtime_that_was_set_survives_the_release),
		TEST(fsync_and_age_put_rows_for_open_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
