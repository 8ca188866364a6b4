/* Open files: marking, versions, writers against seals, and the content of removed ones. */
#include "tests/unit/cache_fixture.h"

#include "src/base/thread.h"

/* Its first version needs no new generation; each that somebody has seen does. */
static void versions_that_were_seen_are_told_apart(void **state)
{
	struct fixture *f = *state;
	struct content_version first, second;
	struct inode inode;
	struct file *file;

	assert_int_equal(tree_create_open(f->cache, ROOT_INO, slice_of("v"), S_IFREG | 0644, 0, 0,
				 true, &inode, &file),
		0);
	assert_int_equal(file_write(file, "1", 1, 0, false), 1);
	assert_int_equal(file_flush(file), 0);
	assert_string_equal(journal_text(f), "put v;");
	/* Written after a flush: that is another row. */
	assert_int_equal(file_write(file, "2", 1, 1, false), 1);
	assert_int_equal(file_flush(file), 0);
	assert_string_equal(journal_text(f), "put v;put v;");
	assert_int_equal(content_seal(f->cache, inode.ino, 0, NULL, &first), 0);
	assert_int_equal(file_write(file, "3", 1, 1, false), 1);
	assert_int_equal(content_seal(f->cache, inode.ino, 0, NULL, &second), 0);
	assert_true(first.generation < second.generation);
	assert_memory_not_equal(first.hash, second.hash, SHA256_SIZE);
	file_release(file);
	assert_string_equal(journal_text(f), "put v;put v;put v;");

	/* Sealed while open and never flushed. */
	assert_int_equal(tree_create_open(f->cache, ROOT_INO, slice_of("w"), S_IFREG | 0644, 0, 0,
				 true, &inode, &file),
		0);
	assert_int_equal(file_write(file, "1", 1, 0, false), 1);
	first = seal_now(f, inode.ino);
	assert_true(row_of(f, inode.ino).dirty);
	journal_clear(f);
	assert_int_equal(file_write(file, "2", 1, 0, false), 1);
	file_release(file);
	assert_string_equal(journal_text(f), "put w;");
	second = seal_now(f, inode.ino);
	assert_false(second.unchanged);
	assert_memory_not_equal(first.hash, second.hash, SHA256_SIZE);
	assert_false(row_of(f, inode.ino).dirty);
}

static void *remove_content(void *arg)
{
	while (cache_remove_content(arg))
		;
	return NULL;
}

/* With a thread for it the content of a removed file may outlive the removal, but not the end of
 * that thread. */
static void content_of_removed_files_goes_behind(void **state)
{
	struct fixture *f = *state;
	uint64_t first = make_file(f, ROOT_INO, "r1", "x"),
		 second = make_file(f, ROOT_INO, "r2", "x");
	pthread_t thread;

	cache_defer_removals(f->cache, true);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("r1")), 0);
	assert_true(has_content(f, first));
	cache_defer_removals(f->cache, false);
	assert_false(has_content(f, first));

	cache_defer_removals(f->cache, true);
	assert_int_equal(thread_start(&thread, "remove", remove_content, f->cache), 0);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("r2")), 0);
	for (int i = 0; i < 500 && has_content(f, second); i++)
		usleep(10000);
	assert_false(has_content(f, second));
	cache_defer_removals(f->cache, false);
	pthread_join(thread, NULL);
}

/* A power cut may take a rename back that was not flushed: the content under the name is there until it
 * was. */
static void content_goes_when_its_removal_is_durable(void **state)
{
	struct fixture *f = *state;
	const struct cache_options options = {.state_dir = f->dir};
	struct err err = {0};
	uint64_t old;

	cache_close(f->cache);
	assert_int_equal(cache_open(&options, &f->cache, &err), 0);
	old = make_file(f, ROOT_INO, "old", "x");
	make_file(f, ROOT_INO, "new", "y");
	assert_int_equal(cache_sync(f->cache), 0);
	cache_defer_removals(f->cache, true);
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("new"), ROOT_INO, slice_of("old"), 0), 0);
	assert_true(has_content(f, old));
	assert_true(f->cache->synced < atomic_load(&f->cache->commits));
	cache_defer_removals(f->cache, false);
	assert_false(has_content(f, old));
	assert_int_equal(f->cache->synced, atomic_load(&f->cache->commits));
	assert_false(atomic_load(&f->cache->grouped));
}

static void only_changes_make_versions(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "one");
	struct content_version v = seal_now(f, ino);
	struct file *file;

	assert_false(v.unchanged);
	assert_int_equal(v.size, 3);
	assert_false(row_of(f, ino).dirty);
	journal_clear(f);
	/* Opened for writing and not written: dirty meanwhile, clean after, no row. */
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_true(row_of(f, ino).dirty);
	file_release(file);
	assert_false(row_of(f, ino).dirty);
	assert_string_equal(journal_text(f), "");
	assert_int_equal(file_open(f->cache, ino, true, true, &file), 0);
	assert_int_equal(file_write(file, "2", 1, 0, false), 1);
	file_release(file);
	assert_string_equal(journal_text(f), "put f;");
	v = seal_now(f, ino);
	assert_false(v.unchanged);
	assert_int_equal(v.size, 1);
	v = seal_now(f, ino);
	assert_true(v.unchanged);
	assert_true(row_of(f, ino).has_hash);
	assert_memory_equal(v.hash, row_of(f, ino).hash, SHA256_SIZE);
}

static void a_rolled_back_removal_changes_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct conn *conn;
	struct file *file;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	conn = fixture_begin(f);
	assert_int_equal(inode_detach(conn, ROOT_INO, slice_of("f"), ino, false, NULL), 0);
	cache_rollback(conn);
	assert_int_equal(file_write(file, "D", 1, 0, false), 1);
	file_release(file);
	assert_int_equal(lookup(f, ROOT_INO, "f"), ino);
	assert_content(f, ino, "Data");
	conn = fixture_begin(f);
	assert_int_equal(inode_detach(conn, ROOT_INO, slice_of("f"), ino, false, NULL), 0);
	cache_rollback(conn);
	assert_content(f, ino, "Data");
}

/* ---- threads ---- */

struct race {
	struct fixture *f;
	uint64_t ino;
	_Atomic bool stop;
};

static void *open_and_write(void *arg)
{
	struct race *race = arg;

	for (unsigned i = 0; i < 300; i++) {
		struct file *file;
		char c = (char)('a' + i % 26);

		if (file_open(race->f->cache, race->ino, true, false, &file))
			return race;
		/* From here on a crash must find it dirty. */
		if (!row_of(race->f, race->ino).dirty)
			return race;
		if (i % 3 && file_write(file, &c, 1, i % 7, false) != 1)
			return race;
		file_release(file);
	}
	return NULL;
}

static void *seal_all_the_time(void *arg)
{
	struct race *race = arg;

	while (!atomic_load(&race->stop)) {
		struct content_version v = {0};
		struct conn *conn;

		if (content_seal(race->f->cache, race->ino, 0, NULL, &v) ||
			cache_begin(race->f->cache, &conn))
			return race;
		if (content_sealed(conn, &v)) {
			cache_rollback(conn);
			return race;
		}
		if (cache_commit(conn))
			return race;
	}
	return NULL;
}

struct opening {
	struct fixture *f;
	uint64_t ino;
	struct file *file;
};

static void *open_once(void *arg)
{
	struct opening *o = arg;

	return file_open(o->f->cache, o->ino, true, false, &o->file) ? o : NULL;
}

/* Until the commit it reads a dirty row. */
static void a_writer_that_opens_during_the_seal_s_transaction_is_marked(void **state)
{
	struct fixture *f = *state;
	struct opening o = {.f = f, .ino = make_file(f, ROOT_INO, "f", "data")};
	struct content_version v = {0};
	struct conn *conn;
	pthread_t opener;
	void *failed;

	assert_int_equal(content_seal(f->cache, o.ino, 0, NULL, &v), 0);
	conn = fixture_begin(f);
	assert_int_equal(content_sealed(conn, &v), 0);
	assert_int_equal(thread_start(&opener, "open", open_once, &o), 0);
	nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	fixture_commit(conn);
	pthread_join(opener, &failed);
	assert_null(failed);
	assert_true(row_of(f, o.ino).dirty);
	file_release(o.file);
	assert_false(row_of(f, o.ino).dirty);
}

static void a_seal_never_takes_the_mark_from_a_writer(void **state)
{
	struct fixture *f = *state;
	struct race race = {.f = f, .ino = make_file(f, ROOT_INO, "f", "01234567")};
	pthread_t writers[2], sealer;
	void *failed;

	assert_int_equal(thread_start(&sealer, "seal", seal_all_the_time, &race), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(thread_start(&writers[i], "write", open_and_write, &race), 0);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(writers[i], &failed);
		assert_null(failed);
	}
	atomic_store(&race.stop, true);
	pthread_join(sealer, &failed);
	assert_null(failed);
	seal_now(f, race.ino);
	assert_false(row_of(f, race.ino).dirty);
}

static void *unlink_while_open(void *arg)
{
	struct race *race = arg;

	for (unsigned i = 0; i < 100; i++) {
		struct inode inode;
		struct file *file;
		int r;

		r = tree_create(race->f->cache, ROOT_INO, slice_of("t"), S_IFREG | 0600, 0, 0, NULL,
			&inode);
		if (r && r != -EEXIST)
			return race;
		if (tree_lookup(race->f->cache, ROOT_INO, slice_of("t"), &inode))
			continue;
		r = file_open(race->f->cache, inode.ino, i % 2, false, &file);
		if (r && r != -ESTALE)
			return race;
		if (tree_unlink(race->f->cache, ROOT_INO, slice_of("t")) == 1)
			return race;
		if (!r)
			file_release(file);
	}
	return NULL;
}

static void nothing_is_left_of_removed_files(void **state)
{
	struct fixture *f = *state;
	struct race race = {.f = f};
	struct cache_usage usage;
	pthread_t threads[3];
	void *failed;

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(thread_start(&threads[i], "unlink", unlink_while_open, &race), 0);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	if (tree_unlink(f->cache, ROOT_INO, slice_of("t")) == 1)
		fail();
	assert_int_equal(cache_usage(f->cache, &usage), 0);
	assert_int_equal(usage.inodes, 1);
	assert_int_equal(usage.content_files, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(only_changes_make_versions),
		TEST(versions_that_were_seen_are_told_apart),
		TEST(content_of_removed_files_goes_behind),
		TEST(content_goes_when_its_removal_is_durable),
		TEST(a_rolled_back_removal_changes_nothing),
		TEST(a_writer_that_opens_during_the_seal_s_transaction_is_marked),
		TEST(a_seal_never_takes_the_mark_from_a_writer),
		TEST(nothing_is_left_of_removed_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
