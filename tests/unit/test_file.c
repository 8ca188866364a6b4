/* Open files: marking, releases, writers against seals, unlinked and displaced files. */
#include "tests/unit/cache_fixture.h"

#include "src/base/thread.h"

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

static void an_unlinked_open_file_lives_until_its_release(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct file *reader, *writer;
	struct inode inode;
	char got[8];

	assert_int_equal(file_open(f->cache, ino, false, false, &reader), 0);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("f")), 0);
	assert_int_equal(lookup_error(f, ROOT_INO, "f"), -ENOENT);
	assert_int_equal(file_read(reader, got, sizeof(got), 0), 4);
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_int_equal(inode.nlink, 0);
	/* Once more through /proc, say. */
	assert_int_equal(file_open(f->cache, ino, true, false, &writer), 0);
	assert_int_equal(file_write(writer, "DA", 2, 0, false), 2);
	assert_int_equal(file_read(reader, got, sizeof(got), 0), 4);
	assert_memory_equal(got, "DAta", 4);
	journal_clear(f);
	file_release(writer);
	assert_true(has_row(f, ino));
	file_release(reader);
	assert_false(has_row(f, ino));
	assert_false(has_content(f, ino));
	assert_string_equal(journal_text(f), "");
	assert_int_equal(file_open(f->cache, ino, true, false, &writer), -ESTALE);
}

static void writing_a_displaced_file_is_a_conflict(void **state)
{
	struct fixture *f = *state;
	uint64_t quiet = make_file(f, ROOT_INO, "quiet", "data");
	uint64_t loud = make_file(f, ROOT_INO, "loud", "data");
	struct file *a, *b;

	seal_now(f, quiet);
	seal_now(f, loud);
	assert_int_equal(file_open(f->cache, quiet, true, false, &a), 0);
	assert_int_equal(file_open(f->cache, loud, true, false, &b), 0);
	displace(f, "quiet", quiet);
	displace(f, "loud", loud);
	assert_int_equal(file_write(b, "DA", 2, 0, false), 2);
	file_release(a);
	assert_false(has_row(f, quiet));
	assert_int_equal(conflicts(f), 0);
	file_release(b);
	assert_int_equal(conflicts(f), 1);
	assert_true(has_row(f, loud));
	fixture_crash(f); /* it is kept for the conflict */
	assert_true(has_row(f, loud));
	assert_content(f, loud, "DAta");
}

/* As a full disk fails the transaction of the last release. */
static void refuse_conflicts(struct fixture *f)
{
	struct conn *conn = fixture_begin(f);

	assert_int_equal(sqlite3_exec(conn->db,
				 "CREATE TEMP TRIGGER refuse BEFORE INSERT ON conflict"
				 " BEGIN SELECT RAISE(ABORT, 'no space'); END",
				 NULL, NULL, NULL),
		SQLITE_OK);
	fixture_commit(conn);
}

static void a_conflict_that_could_not_be_recorded_is_at_the_next_open(void **state)
{
	struct fixture *f = *state;
	uint64_t quiet = make_file(f, ROOT_INO, "quiet", "data");
	uint64_t loud = make_file(f, ROOT_INO, "loud", "data");
	struct file *a, *b;

	seal_now(f, quiet);
	seal_now(f, loud);
	assert_int_equal(file_open(f->cache, quiet, true, false, &a), 0);
	assert_int_equal(file_open(f->cache, loud, true, false, &b), 0);
	displace(f, "quiet", quiet);
	displace(f, "loud", loud);
	assert_int_equal(file_write(b, "DA", 2, 0, false), 2);
	refuse_conflicts(f);
	file_release(a);
	file_release(b);
	assert_int_equal(conflicts(f), 0);
	fixture_reopen(f);
	assert_int_equal(conflicts(f), 1);
	assert_false(has_row(f, quiet));
	assert_content(f, loud, "DAta");
	fixture_reopen(f);
	assert_int_equal(conflicts(f), 1);
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

static void *append_lines(void *arg)
{
	struct race *race = arg;
	char line[16];

	memset(line, (int)((uintptr_t)pthread_self() >> 12 & 15) + 'A', 15);
	line[15] = '\n';
	for (unsigned i = 0; i < 200; i++) {
		struct file *file;

		if (file_open(race->f->cache, race->ino, true, false, &file))
			return race;
		if (file_write(file, line, sizeof(line), 0, true) != sizeof(line))
			return race;
		file_release(file);
	}
	return NULL;
}

static void appends_do_not_overlap(void **state)
{
	struct fixture *f = *state;
	struct race race = {.f = f, .ino = make_file(f, ROOT_INO, "f", "")};
	struct inode inode;
	pthread_t threads[3];
	void *failed;

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(thread_start(&threads[i], "append", append_lines, &race), 0);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(tree_getattr(f->cache, race.ino, &inode), 0);
	assert_int_equal(inode.size, 3 * 200 * 16);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_created_file_is_journalled_by_its_release),
		TEST(a_flush_puts_the_row_and_the_release_none),
		TEST(only_changes_make_versions),
		TEST(versions_that_were_seen_are_told_apart),
		TEST(content_of_removed_files_goes_behind),
		TEST(content_goes_when_its_removal_is_durable),
		TEST(a_flushed_truncation_is_durable),
		TEST(an_mtime_that_is_set_during_a_seal_stays),
		TEST(wrong_use_is_refused),
		TEST(allocating_and_copying_are_changes),
		TEST(fsync_and_age_put_rows_for_open_files),
		TEST(an_unlinked_open_file_lives_until_its_release),
		TEST(writing_a_displaced_file_is_a_conflict),
		TEST(a_conflict_that_could_not_be_recorded_is_at_the_next_open),
		TEST(a_rolled_back_removal_changes_nothing),
		TEST(an_mtime_that_was_set_survives_the_release),
		TEST(a_writer_that_opens_during_the_seal_s_transaction_is_marked),
		TEST(a_seal_never_takes_the_mark_from_a_writer),
		TEST(appends_do_not_overlap),
		TEST(nothing_is_left_of_removed_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
