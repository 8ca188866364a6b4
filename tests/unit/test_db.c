/* Opening and refusing a state, transactions, numbers and stamps that only grow, shared flushes. */
#include "tests/unit/cache_fixture.h"

#include <sys/file.h>
#include <sys/mount.h>

#include "cache/schema.h"
#include "src/base/thread.h"

static int try_open(const char *dir, struct err *err)
{
	const struct cache_options options = {.state_dir = dir, .sync_off = true};
	struct cache *c = NULL;
	int r = cache_open(&options, &c, err);

	if (!r)
		cache_close(c);
	return r;
}

static void path_in(struct fixture *f, const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", f->dir, name);
}

static void modes_do_not_follow_the_umask(void **state)
{
	struct fixture *f = *state;
	static const char *const files[] = {"meridian.db", "meridian.db-wal", "lock"};
	mode_t old = umask(0);
	char path[128];
	struct stat st;
	uint64_t ino;

	cache_close(f->cache);
	nftw(f->dir, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
	fixture_open(f);
	ino = make_file(f, ROOT_INO, "a", "x");
	umask(old);
	assert_int_equal(stat(f->dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		path_in(f, files[i], path);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
	}
	snprintf(path, sizeof(path), "%s/content/%02x", f->dir, (unsigned)(ino >> 8 & 255));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
}

static void a_second_daemon_is_refused(void **state)
{
	struct fixture *f = *state;
	char path[128], pid[32];
	struct err err = {0};
	int fd;

	path_in(f, "lock", path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(pwrite(fd, "4711\n", 5, 0), 5);
	assert_int_equal(try_open(f->dir, &err), -EBUSY);
	assert_non_null(strstr(err.text, "another meridian (pid 4711) uses"));
	assert_non_null(strstr(err.text, f->dir));
	close(fd);
	cache_close(f->cache);
	assert_int_equal(try_open(f->dir, &err), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	pid[read(fd, pid, sizeof(pid) - 1)] = '\0';
	assert_int_equal(atol(pid), getpid());
	close(fd);
	fixture_open(f);
}

static void sql(struct fixture *f, const char *text)
{
	char path[128];
	sqlite3 *db;

	path_in(f, "meridian.db", path);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void other_databases_are_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = {0};
	char ours[96];

	cache_close(f->cache);
	sql(f, "PRAGMA user_version = 99");
	assert_int_equal(try_open(f->dir, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "99"));
	snprintf(ours, sizeof(ours), "PRAGMA user_version = %d; PRAGMA application_id = 5",
		SCHEMA_VERSION);
	sql(f, ours);
	assert_int_equal(try_open(f->dir, &err), -EINVAL);
	assert_non_null(strstr(err.text, "another program"));
	sql(f, "PRAGMA application_id = 1296388681");
	fixture_open(f);
}

/* Overwrites len bytes of the database at offset, or all of it with len 0. */
static void spoil(struct fixture *f, off_t offset, size_t len)
{
	char path[128], junk[4096];
	int fd;

	memset(junk, 'j', sizeof(junk));
	path_in(f, "meridian.db", path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, junk, len, offset), (ssize_t)len);
	close(fd);
	path_in(f, "meridian.db-wal", path);
	unlink(path);
}

static void damage_is_found_and_explained(void **state)
{
	struct fixture *f = *state;
	char path[128];
	struct err err = {0};

	for (unsigned i = 0; i < 200; i++) {
		char name[32];

		snprintf(name, sizeof(name), "f%u", i);
		make_dir(f, ROOT_INO, name);
	}
	assert_int_equal(cache_checkpoint(f->cache, 0), 0);
	cache_abandon(f->cache);
	spoil(f, 8192, 4096); /* the stop was not clean, so this is looked for */
	assert_int_equal(try_open(f->dir, &err), -EIO);
	assert_non_null(strstr(err.text, "is damaged"));
	assert_non_null(strstr(err.text, "hint: move it away"));
	spoil(f, 0, 4096);
	err.text[0] = '\0';
	assert_int_equal(try_open(f->dir, &err), -EIO);
	assert_non_null(strstr(err.text, "is damaged"));
	path_in(f, "meridian.db", path);
	unlink(path);
	fixture_open(f);
}

static void a_state_that_cannot_be_made_is_named(void **state)
{
	struct err err = {0};

	assert_int_equal(try_open("/nonexistent/dir/state", &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/dir/state"));
	assert_int_equal(try_open("/dev/null", &err), -ENOTDIR);
}

static void a_rollback_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct inode_row row = {.mode = S_IFDIR | 0755};
	struct conn *conn = fixture_begin(f);

	assert_int_equal(inode_make(conn, ROOT_INO, slice_of("d"), &row, NULL), 0);
	cache_rollback(conn);
	assert_int_equal(lookup_error(f, ROOT_INO, "d"), -ENOENT);
	assert_string_equal(journal_text(f), "");
}

struct seen {
	unsigned count;
	char name[32];
	uint64_t ino;
};

static void note(void *ctx, const struct invalidation *i)
{
	struct seen *s = ctx;

	s->count++;
	s->ino = i->ino;
	snprintf(s->name, sizeof(s->name), "%s", i->name ? i->name : "");
}

static void invalidations_follow_the_commit(void **state)
{
	struct fixture *f = *state;
	struct seen seen = {0};
	char name[] = "gone";
	struct conn *conn;

	cache_set_invalidator(f->cache, note, &seen);
	conn = fixture_begin(f);
	conn_invalidate(conn, &(struct invalidation){.ino = 5});
	cache_rollback(conn);
	assert_int_equal(seen.count, 0);
	conn = fixture_begin(f);
	conn_invalidate(conn, &(struct invalidation){.ino = 5});
	conn_invalidate(conn, &(struct invalidation){.parent = 1, .name = name});
	name[0] = 'x'; /* it was copied */
	assert_int_equal(seen.count, 0);
	fixture_commit(conn);
	assert_int_equal(seen.count, 2);
	assert_string_equal(seen.name, "gone");
}

static void numbers_and_stamps_only_grow(void **state)
{
	struct fixture *f = *state;
	struct stamp last = cache_stamp(f->cache);
	uint64_t ino = make_dir(f, ROOT_INO, "d");
	uint64_t node = cache_node(f->cache);

	assert_true(node != 0);
	for (unsigned i = 0; i < 20; i++) {
		struct content_writer w;
		struct stamp s;

		if (i % 2)
			fixture_crash(f);
		else
			fixture_reopen(f);
		assert_true(cache_node(f->cache) == node);
		s = cache_stamp(f->cache);
		assert_true(stamp_cmp(s, last) > 0);
		/* A peer's clock that runs ahead is not forgotten either. */
		hlc_observe(cache_clock(f->cache), s.time + (UINT64_C(60000) << 16));
		last = cache_stamp(f->cache);
		assert_int_equal(content_begin(f->cache, &w), 0);
		assert_true(w.ino > ino);
		ino = w.ino;
		content_discard(f->cache, &w);
	}
}

static void a_transaction_may_need_many_numbers(void **state)
{
	struct fixture *f = *state;
	struct conn *conn;
	uint64_t last = 0, ino = 0;

	for (unsigned round = 0; round < 3; round++) {
		uint64_t before = last;

		conn = fixture_begin(f);
		for (unsigned i = 0; i < INO_BLOCK * 5 / 2; i++) {
			assert_int_equal(conn_new_ino(conn, &ino), 0);
			assert_true(ino > last);
			last = ino;
		}
		if (round == 1) {
			cache_rollback(conn); /* nothing used them */
			last = before;
		} else {
			fixture_commit(conn);
		}
	}
	fixture_crash(f);
	assert_int_equal(cache_new_ino(f->cache, &ino), 0);
	assert_true(ino > last);
}

static void *reader(void *arg)
{
	struct fixture *f = arg;

	for (unsigned i = 0; i < 200; i++) {
		struct inode inode;
		struct conn *conn;

		if (cache_read_begin(f->cache, &conn))
			return arg;
		cache_read_end(conn);
		if (tree_getattr(f->cache, ROOT_INO, &inode) || cache_sync(f->cache))
			return arg;
	}
	return NULL;
}

static void *writer(void *arg)
{
	struct fixture *f = arg;

	for (unsigned i = 0; i < 50; i++) {
		struct inode inode;
		char name[48];

		snprintf(name, sizeof(name), "%lx-%u", (unsigned long)pthread_self(), i);
		if (tree_create(f->cache, ROOT_INO, slice_of(name), S_IFDIR | 0755, 0, 0, NULL,
			    &inode) ||
			cache_sync(f->cache) || cache_checkpoint(f->cache, 0))
			return arg;
	}
	return NULL;
}

static void threads_share_the_database_and_its_flushes(void **state)
{
	struct fixture *f = *state;
	const struct cache_options options = {.state_dir = f->dir, .no_lock = true};
	pthread_t threads[6];
	struct cache_usage usage;
	void *failed;

	cache_close(f->cache);
	assert_int_equal(cache_open(&options, &f->cache, NULL), 0);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(thread_start(&threads[i], "test", i % 2 ? writer : reader, f), 0);
	for (unsigned i = 0; i < 6; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(cache_usage(f->cache, &usage), 0);
	assert_int_equal(usage.inodes, 151);
}

struct small {
	char mount_dir[64];
	char state_dir[80];
	struct cache *cache;
};

static void small_open(struct small *s, uint64_t reserve)
{
	const struct cache_options options = {
		.state_dir = s->state_dir, .sync_off = true, .reserve_bytes = reserve};
	struct err err = {0};

	if (cache_open(&options, &s->cache, &err))
		fail_msg("%s", err.text);
}

/* Content is refused while there is still room for its journal row and for its removal. */
static void fill_with_content(struct small *s)
{
	char block[4096];
	struct inode inode;
	struct file *file;
	uint64_t at = 0;
	ssize_t r;

	memset(block, 'b', sizeof(block));
	assert_int_equal(tree_create_open(s->cache, ROOT_INO, slice_of("big"), S_IFREG | 0644, 0, 0,
				 true, &inode, &file),
		0);
	while ((r = file_write(file, block, sizeof(block), at, false)) > 0)
		at += (uint64_t)r;
	assert_int_equal(r, -ENOSPC);
	/* Content from elsewhere may not take that room either. */
	struct content_writer w;
	assert_int_equal(content_begin(s->cache, &w), -ENOSPC);
	assert_true(at > 0);
	file_release(file);
	assert_int_equal(tree_lookup(s->cache, ROOT_INO, slice_of("big"), &inode), 0);
	assert_int_equal(inode.size, at);
	assert_int_equal(
		tree_create(s->cache, ROOT_INO, slice_of("d"), S_IFDIR | 0755, 0, 0, NULL, &inode),
		-ENOSPC);
	assert_int_equal(tree_unlink(s->cache, ROOT_INO, slice_of("big")), 0);
}

static void long_name(char name[256], unsigned i)
{
	snprintf(name, 256, "%0200u", i);
}

static unsigned fill_with_names(struct small *s)
{
	struct inode inode;
	char name[256];
	unsigned made = 0;
	int r;

	for (;; made++) {
		long_name(name, made);
		r = tree_create(
			s->cache, ROOT_INO, slice_of(name), S_IFDIR | 0755, 0, 0, NULL, &inode);
		if (r)
			break;
	}
	assert_int_equal(r, -ENOSPC);
	return made;
}

static void a_full_disk_changes_nothing(void **state)
{
	struct small s = {.mount_dir = "/tmp/meridian-small-XXXXXX"};
	struct inode inode;
	char name[256];
	unsigned made, found = 0;

	assert_non_null(mkdtemp(s.mount_dir));
	if (mount("tmpfs", s.mount_dir, "tmpfs", 0, "size=6m") != 0) {
		print_message("skipped: cannot mount a tmpfs: %s\n", strerror(errno));
		rmdir(s.mount_dir);
		skip();
	}
	snprintf(s.state_dir, sizeof(s.state_dir), "%s/state", s.mount_dir);
	small_open(&s, 512 << 10);
	fill_with_content(&s);
	cache_abandon(s.cache);
	small_open(&s, 1); /* so that it is the database that meets the end of the disk */
	made = fill_with_names(&s);
	assert_true(made > 40);
	cache_abandon(s.cache);
	/* All that was acknowledged is there, and no more. Recovery needs space itself. */
	assert_int_equal(mount("tmpfs", s.mount_dir, "tmpfs", MS_REMOUNT, "size=16m"), 0);
	small_open(&s, 1);
	for (unsigned i = 0; i <= made; i++) {
		long_name(name, i);
		found += tree_lookup(s.cache, ROOT_INO, slice_of(name), &inode) == 0;
	}
	assert_int_equal(found, made);
	cache_close(s.cache);
	assert_int_equal(umount(s.mount_dir), 0);
	rmdir(s.mount_dir);
}

static void fill_to_the_last_byte(const char *dir)
{
	static const char block[4096];
	char path[100];

	snprintf(path, sizeof(path), "%s/ballast", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	assert_true(fd >= 0);
	while (write(fd, block, sizeof(block)) > 0)
		;
	assert_int_equal(errno, ENOSPC);
	close(fd);
}

/* Somebody else took all that was free: what takes away goes on, and so does a start. */
static void the_reserve_is_given_to_the_database(void **state)
{
	struct small s = {.mount_dir = "/tmp/meridian-small-XXXXXX"};
	struct inode inode;
	struct conn *conn;
	char name[256];

	assert_non_null(mkdtemp(s.mount_dir));
	if (mount("tmpfs", s.mount_dir, "tmpfs", 0, "size=16m") != 0) {
		print_message("skipped: cannot mount a tmpfs: %s\n", strerror(errno));
		rmdir(s.mount_dir);
		skip();
	}
	snprintf(s.state_dir, sizeof(s.state_dir), "%s/state", s.mount_dir);
	small_open(&s, 6 << 20);
	cache_refill_reserve(s.cache);
	for (unsigned i = 0; i < 100; i++) {
		long_name(name, i);
		assert_int_equal(tree_create(s.cache, ROOT_INO, slice_of(name), S_IFDIR | 0755, 0,
					 0, NULL, &inode),
			0);
	}
	fill_to_the_last_byte(s.mount_dir);
	for (unsigned i = 0; i < 100; i++) {
		long_name(name, i);
		assert_int_equal(tree_rmdir(s.cache, ROOT_INO, slice_of(name)), 0);
		if (i % 20)
			continue;
		assert_int_equal(cache_read_begin(s.cache, &conn), 0);
		cache_read_end(conn);
		cache_abandon(s.cache);
		small_open(&s, 6 << 20);
	}
	assert_int_equal(
		tree_create(s.cache, ROOT_INO, slice_of("d"), S_IFDIR | 0755, 0, 0, NULL, &inode),
		-ENOSPC);
	cache_abandon(s.cache);
	assert_int_equal(umount(s.mount_dir), 0);
	rmdir(s.mount_dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(modes_do_not_follow_the_umask),
		TEST(a_second_daemon_is_refused),
		TEST(other_databases_are_refused),
		TEST(damage_is_found_and_explained),
		cmocka_unit_test(a_state_that_cannot_be_made_is_named),
		TEST(a_rollback_leaves_nothing),
		TEST(invalidations_follow_the_commit),
		TEST(numbers_and_stamps_only_grow),
		TEST(a_transaction_may_need_many_numbers),
		TEST(threads_share_the_database_and_its_flushes),
		cmocka_unit_test(a_full_disk_changes_nothing),
		cmocka_unit_test(the_reserve_is_given_to_the_database),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
