/* Operations that share a transaction: what was acknowledged is there after any crash, and nothing
 * else is. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "tests/unit/cache_fixture.h"

#include "cache/internal.h"
#include "cache/meta.h"
#include "cache/redo.h"

static int make_name(struct cache *c, const char *name)
{
	struct inode inode;

	return tree_create(c, ROOT_INO, slice_of(name), S_IFDIR | 0755, 0, 0, NULL, &inode);
}

static bool is_there(struct cache *c, const char *name)
{
	struct inode inode;

	return tree_lookup(c, ROOT_INO, slice_of(name), &inode) == 0;
}

static void reopen(struct fixture *f)
{
	const struct cache_options options = {.state_dir = f->dir, .sync_off = true};
	struct err err = {0};

	cache_abandon(f->cache);
	if (cache_open(&options, &f->cache, &err))
		fail_msg("%s", err.text);
}

static uint64_t journal_rows(struct cache *c)
{
	struct journal_stats stats;
	struct conn *conn;

	assert_int_equal(cache_read_begin(c, &conn), 0);
	assert_int_equal(journal_stats(conn, &stats), 0);
	cache_read_end(conn);
	return stats.rows;
}

/* Seen at once by this process, on the writer; by a connection of its own once it looks. */
static void operations_are_seen_before_they_are_committed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(make_name(f->cache, "a"), 0);
	assert_true(atomic_load(&f->cache->grouped));
	assert_true(is_there(f->cache, "a"));
	assert_int_equal(make_name(f->cache, "a"), -EEXIST);
	assert_true(atomic_load(&f->cache->grouped));
	assert_int_equal(journal_rows(f->cache), 1);
	assert_false(atomic_load(&f->cache->grouped));
}

static void a_kill_loses_nothing(void **state)
{
	struct fixture *f = *state;
	struct inode inode;
	char name[16], value[8];

	for (unsigned i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(make_name(f->cache, name), 0);
		if (i == 20)
			assert_int_equal(cache_settle(f->cache), 0);
	}
	assert_int_equal(tree_rmdir(f->cache, ROOT_INO, slice_of("n7")), 0);
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("n8"), ROOT_INO, slice_of("m"), 0), 0);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("m"), &inode), 0);
	assert_int_equal(tree_setxattr(f->cache, inode.ino, "user.x", "value", 5, 0), 0);
	assert_true(atomic_load(&f->cache->grouped));
	reopen(f);
	for (unsigned i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(is_there(f->cache, name), i != 7 && i != 8);
	}
	assert_int_equal(tree_getxattr(f->cache, inode.ino, "user.x", value, sizeof(value)), 5);
	assert_memory_equal(value, "value", 5);
	assert_int_equal(journal_rows(f->cache), 53);
	/* Once more: nothing is applied twice. */
	assert_int_equal(make_name(f->cache, "n7"), 0);
	reopen(f);
	reopen(f);
	assert_true(is_there(f->cache, "n7"));
	assert_int_equal(journal_rows(f->cache), 54);
}

/* More than the log holds. */
static void a_full_log_is_committed(void **state)
{
	struct fixture *f = *state;
	char name[200];

	for (unsigned i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "%0180u", i);
		assert_int_equal(make_name(f->cache, name), 0);
	}
	reopen(f);
	assert_int_equal(journal_rows(f->cache), 3000);
}

static int log_fd(struct fixture *f)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/meridian.redo", f->dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* A record that a power cut tore, and all behind it, never happened; those before it did. */
static void a_torn_record_ends_it(void **state)
{
	struct fixture *f = *state;
	char byte;
	int fd;

	assert_int_equal(make_name(f->cache, "a"), 0);
	fd = log_fd(f);
	assert_int_equal(make_name(f->cache, "b"), 0);
	assert_int_equal(make_name(f->cache, "c"), 0);
	/* "b" is the last but one. */
	uint32_t length;
	off_t at = 64, behind[64];
	unsigned count = 0;
	uint64_t number, first;
	assert_int_equal(pread(fd, &first, 8, at), 8);
	while (pread(fd, &number, 8, at) == 8 && number == first + count && count < 64) {
		assert_int_equal(pread(fd, &length, 4, at + 8), 4);
		at += 24 + (off_t)length;
		behind[count++] = at;
	}
	assert_true(count >= 3);
	at = behind[count - 2] - 30;
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
	reopen(f);
	assert_true(is_there(f->cache, "a"));
	assert_false(is_there(f->cache, "b"));
	assert_false(is_there(f->cache, "c"));
	assert_int_equal(make_name(f->cache, "b"), 0);
	reopen(f);
	assert_true(is_there(f->cache, "b"));
	assert_false(is_there(f->cache, "c"));
}

/* What an earlier round left in the log is not taken for new. */
static void old_records_are_left_alone(void **state)
{
	struct fixture *f = *state;

	for (char name[2] = "a"; name[0] <= 'e'; name[0]++)
		assert_int_equal(make_name(f->cache, name), 0);
	assert_int_equal(cache_settle(f->cache), 0);
	assert_int_equal(tree_rmdir(f->cache, ROOT_INO, slice_of("e")), 0);
	reopen(f);
	assert_false(is_there(f->cache, "e"));
	assert_true(is_there(f->cache, "d"));
	assert_int_equal(tree_rmdir(f->cache, ROOT_INO, slice_of("d")), 0);
	assert_int_equal(cache_settle(f->cache), 0);
	reopen(f);
	assert_false(is_there(f->cache, "d"));
}

/* The log of another database, or a log that is gone. */
static void a_foreign_log_is_left_alone(void **state)
{
	struct fixture *f = *state;
	char path[4096];
	uint64_t id = 42;
	int fd;

	assert_int_equal(make_name(f->cache, "a"), 0);
	assert_int_equal(cache_settle(f->cache), 0);
	assert_int_equal(make_name(f->cache, "b"), 0);
	fd = log_fd(f);
	assert_int_equal(pwrite(fd, &id, 8, 16), 8);
	close(fd);
	reopen(f);
	assert_true(is_there(f->cache, "a"));
	assert_false(is_there(f->cache, "b"));
	snprintf(path, sizeof(path), "%s/meridian.redo", f->dir);
	assert_int_equal(unlink(path), 0);
	reopen(f);
	assert_true(is_there(f->cache, "a"));
	assert_int_equal(make_name(f->cache, "b"), 0);
	reopen(f);
	assert_true(is_there(f->cache, "b"));
}

/* An operation that is taken back after it changed something takes none of its neighbours along. */
static void a_failed_operation_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct conn *conn;

	assert_int_equal(make_name(f->cache, "a"), 0);
	assert_int_equal(cache_begin_op(f->cache, &conn), 0);
	assert_int_equal(meta_set_int(conn, "half", 1), 0);
	cache_rollback(conn);
	assert_true(is_there(f->cache, "a"));
	assert_int_equal(make_name(f->cache, "b"), 0);
	assert_int_equal(journal_rows(f->cache), 2);
	int64_t v;
	assert_int_equal(cache_begin(f->cache, &conn), 0);
	assert_int_equal(meta_get_int(conn, "half", &v), -ENOENT);
	cache_rollback(conn);
	reopen(f);
	assert_true(is_there(f->cache, "a") && is_there(f->cache, "b"));
}

static sqlite3_stmt *prepare_note(struct conn *conn, const char *sql, const char *name)
{
	sqlite3_stmt *s = conn_statement(conn, sql);

	assert_non_null(s);
	bind_text(s, 1, name);
	return s;
}

/* A statement that waits for others to run is not the one that makes room for them, however long ago
 * it was prepared for the first time. */
static void a_statement_outlasts_those_prepared_after_it(void **state)
{
	static const char *const sql[] = {
		"INSERT OR REPLACE INTO meta(name, value) VALUES(?1, 0)",
		"INSERT OR REPLACE INTO meta(name, value) VALUES(?1, 1)",
		"INSERT OR REPLACE INTO meta(name, value) VALUES(?1, 2)",
		"INSERT OR REPLACE INTO meta(name, value) VALUES(?1, 3)",
	};
	static const char *const reads[] = {
		"SELECT value FROM meta WHERE name = ?1 AND 1",
		"SELECT value FROM meta WHERE name = ?1 AND 2",
		"SELECT value FROM meta WHERE name = ?1 AND 3",
		"SELECT value FROM meta WHERE name = ?1 AND 4",
		"SELECT value FROM meta WHERE name = ?1 AND 5",
	};
	struct fixture *f = *state;
	struct conn *conn;
	sqlite3_stmt *s;
	int64_t v;

	assert_int_equal(cache_begin_op(f->cache, &conn), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(conn_run(conn, prepare_note(conn, sql[i], "ran")), 0);
	s = prepare_note(conn, sql[0], "waits");
	assert_int_equal(meta_set_int(conn, "within", 5), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(conn_row(conn, prepare_note(conn, reads[i], "nothing")), 0);
	assert_int_equal(conn_run(conn, s), 0);
	assert_int_equal(cache_commit(conn), 0);
	assert_true(atomic_load(&f->cache->grouped));
	reopen(f);
	assert_int_equal(cache_begin(f->cache, &conn), 0);
	assert_int_equal(meta_get_int(conn, "ran", &v), 0);
	assert_int_equal(v, 3);
	assert_int_equal(meta_get_int(conn, "waits", &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(meta_get_int(conn, "within", &v), 0);
	assert_int_equal(v, 5);
	cache_rollback(conn);
}

/* SQLite rolls back by itself when a statement fails for lack of memory, or for an error of the disk,
 * a reader's, too. */
static void a_rollback_by_itself_loses_nothing(void **state)
{
	struct fixture *f = *state;
	struct conn *conn;

	assert_int_equal(make_name(f->cache, "a"), 0);
	assert_int_equal(sqlite3_exec(f->cache->writer->db, "ROLLBACK", NULL, NULL, NULL), 0);
	assert_true(is_there(f->cache, "a"));
	assert_int_equal(make_name(f->cache, "b"), 0);
	assert_int_equal(sqlite3_exec(f->cache->writer->db, "ROLLBACK", NULL, NULL, NULL), 0);
	assert_int_equal(make_name(f->cache, "c"), 0);
	assert_int_equal(sqlite3_exec(f->cache->writer->db, "ROLLBACK", NULL, NULL, NULL), 0);
	assert_int_equal(journal_rows(f->cache), 3);
	/* Inside an operation that passes the failure over. */
	assert_int_equal(cache_begin_op(f->cache, &conn), 0);
	assert_int_equal(meta_set_int(conn, "half", 1), 0);
	assert_int_equal(sqlite3_exec(f->cache->writer->db, "ROLLBACK", NULL, NULL, NULL), 0);
	assert_int_equal(cache_commit(conn), -EIO);
	reopen(f);
	assert_true(is_there(f->cache, "a") && is_there(f->cache, "b") && is_there(f->cache, "c"));
	assert_int_equal(journal_rows(f->cache), 3);
}

static void copy_state(struct fixture *f, bool back)
{
	char line[600];

	snprintf(line, sizeof(line),
		back ? "cp %s.old/meridian.db* %s/" : "mkdir -p %s.old; cp %s/meridian.db* %s.old/",
		f->dir, f->dir, f->dir);
	assert_int_equal(system(line), 0);
}

/* A power cut may keep the log and take the database's last transactions: what was put in the log
 * after them is nothing without them. */
static void the_log_does_not_outlive_what_it_builds_on(void **state)
{
	struct fixture *f = *state;
	struct inode inode;
	struct conn *conn;
	char line[1100];
	int64_t v;

	assert_int_equal(make_name(f->cache, "a"), 0);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("a"), &inode), 0);
	assert_int_equal(cache_settle(f->cache), 0);
	copy_state(f, false);
	conn = fixture_begin(f);
	assert_int_equal(inode_detach(conn, ROOT_INO, slice_of("a"), inode.ino, false, NULL), 0);
	fixture_commit(conn);
	assert_int_equal(make_name(f->cache, "a"), 0);
	cache_abandon(f->cache);
	copy_state(f, true);
	fixture_open(f);
	assert_true(is_there(f->cache, "a"));
	/* The same with an operation that is too large for the log. */
	assert_int_equal(cache_settle(f->cache), 0);
	copy_state(f, false);
	assert_int_equal(cache_begin_op(f->cache, &conn), 0);
	for (unsigned i = 0; i < 1500; i++) {
		char name[1001];

		snprintf(name, sizeof(name), "%01000u", i);
		assert_int_equal(meta_set_int(conn, name, 1), 0);
	}
	assert_int_equal(cache_commit(conn), 0);
	assert_false(atomic_load(&f->cache->grouped));
	assert_int_equal(make_name(f->cache, "b"), 0);
	reopen(f);
	assert_true(is_there(f->cache, "b"));
	snprintf(line, sizeof(line), "%01000u", 1499);
	cache_abandon(f->cache);
	copy_state(f, true);
	fixture_open(f);
	assert_false(is_there(f->cache, "b"));
	conn = fixture_begin(f);
	assert_int_equal(meta_get_int(conn, line, &v), -ENOENT);
	cache_rollback(conn);
	snprintf(line, sizeof(line), "rm -r %s.old", f->dir);
	assert_int_equal(system(line), 0);
}

static bool full;

static ssize_t fail_when_full(int fd, const void *p, size_t n, off_t offset)
{
	if (!full)
		return pwrite(fd, p, n, offset);
	errno = ENOSPC;
	return -1;
}

/* SQLite's files alone; the redo log is written by other calls. */
static void set_sqlite_pwrite(sqlite3_syscall_ptr call)
{
	sqlite3_vfs *vfs = sqlite3_vfs_find("unix-excl");

	assert_non_null(vfs);
	assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite", call), SQLITE_OK);
	assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite64", call), SQLITE_OK);
}

/* With the disk full, what is acknowledged stays; and no call after it is the worse for it. */
static void a_full_disk_is_no_end(void **state)
{
	struct fixture *f = *state;
	const struct cache_options options = {.state_dir = f->dir};
	struct err err = {0};
	struct conn *conn;

	cache_close(f->cache);
	set_sqlite_pwrite((sqlite3_syscall_ptr)fail_when_full);
	assert_int_equal(cache_open(&options, &f->cache, &err), 0);
	assert_int_equal(make_name(f->cache, "a"), 0);
	full = true;
	assert_int_equal(cache_sync(f->cache), -ENOSPC);
	assert_int_equal(cache_begin(f->cache, &conn), -ENOSPC);
	assert_true(is_there(f->cache, "a"));
	full = false;
	assert_int_equal(cache_sync(f->cache), 0);
	conn = fixture_begin(f);
	assert_int_equal(meta_set_int(conn, "x", 1), 0);
	full = true;
	assert_int_equal(cache_commit(conn), -ENOSPC);
	full = false;
	assert_int_equal(make_name(f->cache, "b"), 0);
	assert_int_equal(make_name(f->cache, "c"), 0);
	reopen(f);
	assert_true(is_there(f->cache, "a") && is_there(f->cache, "b") && is_there(f->cache, "c"));
	full = true;
	cache_close(f->cache); /* nothing can be put in order */
	full = false;
	fixture_open(f);
	assert_true(is_there(f->cache, "a") && is_there(f->cache, "b") && is_there(f->cache, "c"));
	assert_int_equal(journal_rows(f->cache), 3);
	set_sqlite_pwrite(NULL);
}

static off_t log_end;

/* The write-ahead log may not grow; all else has room. */
static ssize_t fail_at_log_end(int fd, const void *p, size_t n, off_t offset)
{
	char link[32], path[256] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) > 4 && strcmp(path + strlen(path) - 4, "-wal") == 0 &&
		offset + (off_t)n > log_end) {
		errno = ENOSPC;
		return -1;
	}
	return pwrite(fd, p, n, offset);
}

/* Others took the room that the log would grow into. It has room itself, once it is begun anew; operations that
 * wait for a commit must not keep it from that. */
static void a_full_log_is_begun_anew(void **state)
{
	struct fixture *f = *state;
	const struct cache_options options = {.state_dir = f->dir};
	char name[16];
	int made = 0;

	cache_close(f->cache);
	log_end = 1 << 20;
	set_sqlite_pwrite((sqlite3_syscall_ptr)fail_at_log_end);
	assert_int_equal(cache_open(&options, &f->cache, NULL), 0);
	for (int i = 0; i < 3; i++) {
		int r;

		do {
			snprintf(name, sizeof(name), "n%d", made++);
			assert_int_equal(make_name(f->cache, name), 0);
			r = cache_sync(f->cache);
		} while (r == 0 && made < 20000);
		assert_int_equal(r, -ENOSPC);
		assert_int_equal(cache_checkpoint(f->cache, 4 << 20), 0);
		assert_int_equal(cache_sync(f->cache), 0);
	}
	reopen(f);
	while (made--) {
		snprintf(name, sizeof(name), "n%d", made);
		assert_true(is_there(f->cache, name));
	}
	set_sqlite_pwrite(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(operations_are_seen_before_they_are_committed),
		TEST(a_kill_loses_nothing),
		TEST(a_full_log_is_committed),
		TEST(a_torn_record_ends_it),
		TEST(old_records_are_left_alone),
		TEST(a_foreign_log_is_left_alone),
		TEST(a_failed_operation_changes_nothing),
		TEST(a_statement_outlasts_those_prepared_after_it),
		TEST(a_rollback_by_itself_loses_nothing),
		TEST(the_log_does_not_outlive_what_it_builds_on),
		TEST(a_full_disk_is_no_end),
		TEST(a_full_log_is_begun_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
