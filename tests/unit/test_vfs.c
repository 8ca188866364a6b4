/*
 * The mapped write-ahead log: cut short at every write, reused from the front, grown on a full
 * disk. Each cut runs in a process of its own, which ends in the middle of a copy.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/vfs.h"

#define ROWS 6
#define RUN_DONE 7
#define RUN_CUT 8
#define RUN_NO_MOUNT 9

static char dir[64];
static char path[96];

static int make_dir(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/meridian-vfs.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/t.db", dir);
	return 0;
}

static void remove_database(void)
{
	char log[128];

	unlink(path);
	snprintf(log, sizeof(log), "%s-wal", path);
	unlink(log);
}

static int remove_dir(void **state)
{
	vfs_set_write_hook(NULL);
	vfs_set_mapping(true);
	remove_database();
	return rmdir(dir);
}

static sqlite3 *open_at(const char *at)
{
	sqlite3 *db;

	if (sqlite3_open_v2(at, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs_name()) !=
		SQLITE_OK)
		return NULL;
	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	if (sqlite3_exec(db,
		    "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL;"
		    "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0",
		    NULL, NULL, NULL) != SQLITE_OK)
		return NULL;
	return db;
}

static int run(sqlite3 *db, const char *sql)
{
	return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

static int64_t number(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *s;
	int64_t v = -1;

	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
	if (sqlite3_step(s) == SQLITE_ROW)
		v = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	return v;
}

/* A row of each transaction is in both tables, so half a transaction would be seen. */
static int insert(sqlite3 *db, int n)
{
	char sql[200];

	snprintf(sql, sizeof(sql),
		"BEGIN; INSERT INTO a VALUES(%d, hex(zeroblob(300)));"
		"INSERT INTO b VALUES(%d, hex(zeroblob(300))); COMMIT",
		n, n);
	return run(db, sql);
}

static int make_tables(sqlite3 *db)
{
	return run(db, "CREATE TABLE a(n INTEGER PRIMARY KEY, v TEXT);"
		       "CREATE TABLE b(n INTEGER PRIMARY KEY, v TEXT)");
}

static void check_whole(sqlite3 *db)
{
	sqlite3_stmt *s;

	assert_int_equal(number(db, "SELECT count(*) FROM a"),
		number(db, "SELECT count(*) FROM a JOIN b USING(n)"));
	assert_int_equal(
		number(db, "SELECT count(*) FROM a"), number(db, "SELECT count(*) FROM b"));
	assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	assert_string_equal((const char *)sqlite3_column_text(s, 0), "ok");
	sqlite3_finalize(s);
}

/* ---- cuts ---- */

static volatile int *acknowledged; /* shared with the process that is cut */
static int writes_left;
static int cut_eighths; /* how much of the bytes still arrives */

static int cut(int fd, const void *p, size_t n, int64_t offset)
{
	if (writes_left-- > 0)
		return 0;
	if (pwrite(fd, p, n * (size_t)cut_eighths / 8, offset) < 0)
		_exit(1);
	_exit(RUN_CUT);
}

/* laps: the log is started from the front after each half of the rows, over frames of before. */
static int run_until_cut(int at, int eighths, int laps)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		sqlite3 *db = open_at(path);

		if (!db || make_tables(db) != SQLITE_OK)
			_exit(1);
		writes_left = at;
		cut_eighths = eighths;
		vfs_set_write_hook(cut);
		for (int lap = 0, n = 0; lap < laps; lap++) {
			for (int i = 0; i < ROWS; i++) {
				if (insert(db, ++n) != SQLITE_OK)
					_exit(1);
				*acknowledged = n;
			}
			if (lap + 1 < laps &&
				sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_RESTART, NULL,
					NULL) != SQLITE_OK)
				_exit(1);
		}
		_exit(RUN_DONE);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void cut_everywhere(int laps)
{
	int eighths[] = {0, 1, 4, 7};
	int cuts = 0, outcome = RUN_CUT;

	for (int at = 0; outcome == RUN_CUT; at++) {
		for (unsigned i = 0; i < 4; i++) {
			sqlite3 *db;
			int64_t found;

			*acknowledged = 0;
			outcome = run_until_cut(at, eighths[i], laps);
			assert_true(outcome == RUN_CUT || outcome == RUN_DONE);
			db = open_at(path);
			assert_non_null(db);
			check_whole(db);
			found = number(db, "SELECT coalesce(max(n), 0) FROM a");
			/* What was acknowledged is there, what was cut is not; but bytes of the lap
			 * before can happen to be those that did not arrive. */
			assert_in_range(found, *acknowledged, *acknowledged + (laps > 1));
			assert_int_equal(found, number(db, "SELECT count(*) FROM a"));
			/* And the log can be written on. */
			assert_int_equal(insert(db, 1000), SQLITE_OK);
			sqlite3_close(db);
			db = open_at(path);
			assert_int_equal(number(db, "SELECT max(n) FROM a"), 1000);
			check_whole(db);
			sqlite3_close(db);
			remove_database();
			cuts += outcome == RUN_CUT;
		}
	}
	assert_true(cuts > 100);
}

static void test_cut_first_lap(void **state)
{
	cut_everywhere(1);
}

static void test_cut_over_old_frames(void **state)
{
	cut_everywhere(2);
}

static void test_cut_without_mapping(void **state)
{
	vfs_set_mapping(false);
	cut_everywhere(1);
}

/* ---- many connections ---- */

static void write_and_read(bool mapped)
{
	struct stat st;
	char log[128];
	sqlite3 *writer = open_at(path), *reader = open_at(path);

	assert_non_null(writer);
	assert_non_null(reader);
	assert_int_equal(make_tables(writer), SQLITE_OK);
	snprintf(log, sizeof(log), "%s-wal", path);
	for (int n = 1; n <= 2000; n++) {
		assert_int_equal(insert(writer, n), SQLITE_OK);
		if (n % 100 == 0)
			assert_int_equal(number(reader, "SELECT max(n) FROM b"), n);
	}
	assert_int_equal(stat(log, &st), 0);
	assert_true(st.st_size > (3 << 20));
	/* Blocks are there ahead of the frames, none is missing. */
	if (mapped) {
		assert_int_equal(st.st_size % (1 << 20), 0);
		assert_true(st.st_blocks * 512 >= st.st_size);
	}
	check_whole(reader);
	assert_int_equal(
		sqlite3_wal_checkpoint_v2(writer, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL),
		SQLITE_OK);
	assert_int_equal(stat(log, &st), 0);
	assert_int_equal(st.st_size, 0);
	/* Behind a truncation the blocks are allocated again before they are touched. */
	assert_int_equal(insert(writer, 5000), SQLITE_OK);
	assert_int_equal(number(reader, "SELECT max(n) FROM b"), 5000);
	sqlite3_close(reader);
	sqlite3_close(writer);
	writer = open_at(path);
	assert_int_equal(number(writer, "SELECT count(*) FROM a"), 2001);
	check_whole(writer);
	sqlite3_close(writer);
	remove_database();
}

static void test_connections_share(void **state)
{
	write_and_read(true);
	vfs_set_mapping(false);
	write_and_read(false);
	/* A log that was written by system calls is mapped by the next process, and the reverse. */
	sqlite3 *db = open_at(path);
	assert_int_equal(make_tables(db), SQLITE_OK);
	assert_int_equal(insert(db, 1), SQLITE_OK);
	sqlite3_close(db);
	vfs_set_mapping(true);
	db = open_at(path);
	assert_int_equal(insert(db, 2), SQLITE_OK);
	sqlite3_close(db);
	vfs_set_mapping(false);
	db = open_at(path);
	assert_int_equal(number(db, "SELECT count(*) FROM a"), 2);
	sqlite3_close(db);
	vfs_set_mapping(true);
}

/* ---- failures ---- */

static int refuse_with;

static int refuse(int fd, const void *p, size_t n, int64_t offset)
{
	return refuse_with;
}

static void test_refused_write(void **state)
{
	sqlite3 *db = open_at(path);

	assert_int_equal(make_tables(db), SQLITE_OK);
	assert_int_equal(insert(db, 1), SQLITE_OK);
	vfs_set_write_hook(refuse);
	refuse_with = -ENOSPC;
	assert_int_equal(insert(db, 2), SQLITE_FULL);
	if (!sqlite3_get_autocommit(db))
		run(db, "ROLLBACK");
	refuse_with = -EIO;
	assert_int_equal(insert(db, 2), SQLITE_IOERR);
	if (!sqlite3_get_autocommit(db))
		run(db, "ROLLBACK");
	vfs_set_write_hook(NULL);
	assert_int_equal(number(db, "SELECT count(*) FROM a"), 1);
	assert_int_equal(insert(db, 2), SQLITE_OK);
	check_whole(db);
	sqlite3_close(db);
	remove_database();
}

/* In a mount namespace of its own: fills a small file system to the last block, then goes on
 * writing. A signal is a failure. */
static int fill(void)
{
	char db_path[128], filler[128], block[4096] = {1};
	int last = 0, r = SQLITE_OK;
	sqlite3 *db;
	FILE *f;

	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
		mount("tmpfs", dir, "tmpfs", 0, "size=4m") != 0)
		return RUN_NO_MOUNT;
	snprintf(db_path, sizeof(db_path), "%s/full.db", dir);
	snprintf(filler, sizeof(filler), "%s/filler", dir);
	db = open_at(db_path);
	if (!db || make_tables(db) != SQLITE_OK || insert(db, ++last) != SQLITE_OK)
		return 1;
	f = fopen(filler, "w");
	while (f && fwrite(block, sizeof(block), 1, f) == 1 && fflush(f) == 0)
		;
	if (f)
		(void)!fclose(f);
	/* The part of the log that is allocated can be used up; then it is full, not dead. */
	while (r == SQLITE_OK && last < 5000) {
		r = insert(db, last + 1);
		last += r == SQLITE_OK;
	}
	if (r != SQLITE_FULL || last < 100)
		return 2;
	if (!sqlite3_get_autocommit(db))
		run(db, "ROLLBACK");
	if (number(db, "SELECT count(*) FROM b") != last)
		return 3;
	if (truncate(filler, 0) != 0 || insert(db, last + 1) != SQLITE_OK)
		return 4;
	sqlite3_close(db);
	return RUN_DONE;
}

static void test_full_disk(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(fill());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == RUN_NO_MOUNT) {
		print_message("needs root to mount a small file system\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), RUN_DONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_cut_first_lap, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_cut_over_old_frames, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_cut_without_mapping, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_connections_share, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_refused_write, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_full_disk, make_dir, remove_dir),
	};

	acknowledged = mmap(NULL, sizeof(*acknowledged), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (acknowledged == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
