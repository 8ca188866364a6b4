/* Open files that lost their names: they live until their release, and what a remote change displaced is a
 * conflict. */
#include "tests/unit/cache_fixture.h"

#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "src/base/clock.h"
#include "src/base/thread.h"

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

/* Two files that are open for writing when a remote change takes their names, of which one is written
 * after that. */
struct displaced {
	uint64_t quiet, loud;
	struct file *quiet_file, *loud_file;
};

static struct displaced write_displaced(struct fixture *f)
{
	struct displaced d = {.quiet = make_file(f, ROOT_INO, "quiet", "data"),
		.loud = make_file(f, ROOT_INO, "loud", "data")};

	seal_now(f, d.quiet);
	seal_now(f, d.loud);
	assert_int_equal(file_open(f->cache, d.quiet, true, false, &d.quiet_file), 0);
	assert_int_equal(file_open(f->cache, d.loud, true, false, &d.loud_file), 0);
	displace(f, "quiet", d.quiet);
	displace(f, "loud", d.loud);
	assert_int_equal(file_write(d.loud_file, "DA", 2, 0, false), 2);
	return d;
}

static void writing_a_displaced_file_is_a_conflict(void **state)
{
	struct fixture *f = *state;
	struct displaced d = write_displaced(f);

	file_release(d.quiet_file);
	assert_false(has_row(f, d.quiet));
	assert_int_equal(conflicts(f), 0);
	file_release(d.loud_file);
	assert_int_equal(conflicts(f), 1);
	assert_true(has_row(f, d.loud));
	fixture_crash(f); /* it is kept for the conflict */
	assert_true(has_row(f, d.loud));
	assert_content(f, d.loud, "DAta");
}

/* What gives way to a remote change is kept for that one's conflict, whose version it need not be any more. */
static void displace_kept(struct fixture *f, const char *name, uint64_t ino)
{
	struct entry sealed = {.kind = KIND_FILE, .size = 4};
	struct conn *conn = fixture_begin(f);
	struct slice key = slice_of(name);

	assert_int_equal(inode_detach(conn, ROOT_INO, key, ino, true, &key), 0);
	assert_int_equal(conflict_add(conn, key, &sealed, &sealed, ino, "test"), 0);
	fixture_commit(conn);
}

static void assert_kept_by(struct fixture *f, uint64_t ino, const char *reason)
{
	struct conn *conn = fixture_begin(f);
	sqlite3_stmt *s = conn_statement(conn, "SELECT reason FROM conflict WHERE ino = ?1");

	bind_int(s, 1, (int64_t)ino);
	assert_int_equal(conn_row(conn, s), 1);
	assert_true(slice_equal(column_slice(s, 0), slice_of(reason)));
	assert_int_equal(conn_row(conn, s), 0);
	cache_rollback(conn);
}

static void what_a_kept_file_has_unsealed_is_a_conflict_of_its_own(void **state)
{
	struct fixture *f = *state;
	uint64_t sealed = make_file(f, ROOT_INO, "sealed", "data");
	uint64_t open = make_file(f, ROOT_INO, "open", "data");
	uint64_t closed = make_file(f, ROOT_INO, "closed", "data");
	struct file *files[3];

	seal_now(f, sealed);
	seal_now(f, open);
	seal_now(f, closed);
	assert_int_equal(file_open(f->cache, sealed, true, false, &files[0]), 0);
	assert_int_equal(file_open(f->cache, open, true, false, &files[1]), 0);
	assert_int_equal(file_open(f->cache, closed, true, false, &files[2]), 0);
	assert_int_equal(file_write(files[1], "DA", 2, 0, false), 2);
	assert_int_equal(file_write(files[2], "TA", 2, 0, false), 2);
	file_release(files[2]);
	displace_kept(f, "sealed", sealed);
	displace_kept(f, "open", open);
	displace_kept(f, "closed", closed);
	assert_int_equal(file_settle_displaced(f->cache), 0);
	file_release(files[0]);
	file_release(files[1]);
	assert_int_equal(conflicts(f), 5);
	assert_kept_by(f, sealed, "test");
	assert_kept_by(f, open, CONFLICT_DISPLACED);
	assert_kept_by(f, closed, CONFLICT_DISPLACED);
	assert_content(f, open, "DAta");
	assert_content(f, closed, "TAta");
	fixture_crash(f);
	assert_int_equal(conflicts(f), 5);
	assert_content(f, closed, "TAta");
}

static void a_closed_file_that_gave_way_unsealed_is_a_conflict_after_a_crash(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct slice key = slice_of("f");
	struct conn *conn = fixture_begin(f);

	assert_int_equal(inode_detach(conn, ROOT_INO, key, ino, true, &key), 0);
	fixture_commit(conn);
	fixture_crash(f);
	assert_int_equal(conflicts(f), 1);
	assert_content(f, ino, "data");
	assert_int_equal(file_settle_displaced(f->cache), 0);
	assert_int_equal(conflicts(f), 1);
}

/* By a name that the kernel has not been told of yet; the record lives on for an upload. */
static void what_is_kept_is_not_written_by_its_former_name(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct content_version v = seal_now(f, ino);
	struct content_reader *reader;
	struct file *file;

	assert_int_equal(content_open(f->cache, ino, v.hash, &reader), 0);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	file_release(file);
	displace_kept(f, "f", ino);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), -ESTALE);
	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	file_release(file);
	content_close(reader);
	assert_content(f, ino, "data");
}

/* Also when the record was made by who read it by that name. */
static void nobody_writes_to_what_a_reader_opened_late(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct file *reader, *writer;

	displace_kept(f, "f", ino);
	assert_int_equal(file_open(f->cache, ino, false, false, &reader), 0);
	assert_int_equal(file_open(f->cache, ino, true, false, &writer), -ESTALE);
	file_release(reader);
	assert_int_equal(file_settle_displaced(f->cache), 0);
	assert_kept_by(f, ino, CONFLICT_DISPLACED);
}

/* The record of an upload remembers what was rolled back; the file is opened as before. */
static void a_name_that_was_not_taken_after_all(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct content_version v = seal_now(f, ino);
	struct slice key = slice_of("f");
	struct content_reader *reader;
	struct file *open, *again;
	struct conn *conn;

	assert_int_equal(content_open(f->cache, ino, v.hash, &reader), 0);
	conn = fixture_begin(f);
	assert_int_equal(inode_detach(conn, ROOT_INO, key, ino, true, &key), 0);
	cache_rollback(conn);
	assert_int_equal(file_open(f->cache, ino, true, false, &open), 0);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, key), 0);
	assert_int_equal(file_open(f->cache, ino, true, false, &again), 0); /* through /proc */
	file_release(again);
	file_release(open);
	content_close(reader);
	assert_false(has_row(f, ino));
}

static void *settle_beside(void *arg)
{
	struct fixture *f = arg;

	CHECK(file_settle_displaced(f->cache) == 0);
	return NULL;
}

static void what_is_noted_is_found_when_it_is_committed(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct slice key = slice_of("f");
	struct conn *conn = fixture_begin(f);
	pthread_t thread;

	assert_int_equal(inode_detach(conn, ROOT_INO, key, ino, true, &key), 0);
	assert_int_equal(thread_start(&thread, "settle", settle_beside, f), 0);
	clock_sleep_ms(50); /* it has looked, or waits */
	fixture_commit(conn);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(file_settle_displaced(f->cache), 0);
	assert_int_equal(conflicts(f), 1);
}

/* As a full disk fails a transaction. */
static void refuse(struct fixture *f, const char *what)
{
	struct conn *conn = fixture_begin(f);
	char sql[200];

	snprintf(sql, sizeof(sql),
		"CREATE TEMP TRIGGER refuse BEFORE %s BEGIN SELECT RAISE(ABORT, 'no space'); END", what);
	assert_int_equal(sqlite3_exec(conn->db, sql, NULL, NULL, NULL), SQLITE_OK);
	fixture_commit(conn);
}

static void allow(struct fixture *f)
{
	struct conn *conn = fixture_begin(f);

	assert_int_equal(sqlite3_exec(conn->db, "DROP TRIGGER refuse", NULL, NULL, NULL), SQLITE_OK);
	fixture_commit(conn);
}

/* Its row says that all of it is sealed, for the last close could not be recorded. */
static void what_its_row_does_not_know_of_is_a_conflict(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct file *file;

	seal_now(f, ino);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "DA", 2, 0, false), 2);
	refuse(f, "UPDATE ON inode");
	file_release(file);
	allow(f);
	displace_kept(f, "f", ino);
	assert_int_equal(file_settle_displaced(f->cache), 0);
	assert_int_equal(conflicts(f), 2);
	assert_kept_by(f, ino, CONFLICT_DISPLACED);
	assert_content(f, ino, "DAta");
}

/* Nobody had to keep it: it is kept all the same. */
static void what_is_unsealed_is_never_deleted(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");

	displace(f, "f", ino);
	assert_true(has_content(f, ino));
	assert_int_equal(file_settle_displaced(f->cache), 0);
	assert_kept_by(f, ino, CONFLICT_DISPLACED);
	assert_content(f, ino, "data");
}

/* Once listed, and once only. */
static void what_was_written_again_is_the_version_before(void **state)
{
	struct fixture *f = *state;
	uint64_t reopened = make_file(f, ROOT_INO, "reopened", "data");
	uint64_t settled = make_file(f, ROOT_INO, "settled", "data");
	struct file *file;

	seal_now(f, reopened);
	seal_now(f, settled);
	assert_int_equal(file_open(f->cache, reopened, true, false, &file), 0);
	assert_int_equal(file_write(file, "da", 2, 0, false), 2);
	file_release(file);
	displace_kept(f, "reopened", reopened);
	fixture_reopen(f);
	assert_kept_by(f, reopened, "test");
	assert_int_equal(file_open(f->cache, settled, true, false, &file), 0);
	assert_int_equal(file_write(file, "da", 2, 0, false), 2);
	file_release(file);
	displace_kept(f, "settled", settled);
	assert_int_equal(file_settle_displaced(f->cache), 0);
	assert_int_equal(conflicts(f), 2);
	assert_kept_by(f, reopened, "test");
	assert_kept_by(f, settled, "test");
	assert_false(row_of(f, settled).dirty);
}

/* One that cannot be read keeps neither the others back nor the mount, and is not given up. */
static void what_cannot_be_read_is_tried_again(void **state)
{
	struct fixture *f = *state;
	uint64_t bad = make_file(f, ROOT_INO, "bad", "data"), good = make_file(f, ROOT_INO, "good", "data");
	char path[200], aside[200];

	displace(f, "bad", bad);
	displace(f, "good", good);
	snprintf(path, sizeof(path), "%s/content/%02x/%016llx", f->dir, (unsigned)(bad >> 8 & 255),
		(unsigned long long)bad);
	snprintf(aside, sizeof(aside), "%s/aside", f->dir);
	assert_int_equal(rename(path, aside), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(file_settle_displaced(f->cache), 0);
	assert_int_equal(conflicts(f), 1);
	assert_kept_by(f, good, CONFLICT_DISPLACED);
	fixture_reopen(f);
	assert_int_equal(conflicts(f), 1);
	fixture_crash(f);
	assert_int_equal(conflicts(f), 1);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rename(aside, path), 0);
	fixture_reopen(f);
	assert_int_equal(conflicts(f), 2);
	assert_content(f, bad, "data");
}

struct opener {
	struct fixture *f;
	uint64_t ino;
	_Atomic bool done;
	unsigned opened;
};

static void *open_and_close(void *arg)
{
	struct opener *o = arg;
	struct file *file;

	while (!atomic_load(&o->done)) {
		if (file_open(o->f->cache, o->ino, false, false, &file) == 0) {
			o->opened++;
			file_release(file);
		}
	}
	return NULL;
}

static void nobody_opens_what_is_being_listed(void **state)
{
	struct fixture *f = *state;
	struct opener o = {.f = f, .ino = make_file(f, ROOT_INO, "f", "data")};
	struct file *file;
	pthread_t thread;

	seal_now(f, o.ino);
	assert_int_equal(file_open(f->cache, o.ino, true, false, &file), 0);
	displace(f, "f", o.ino);
	assert_int_equal(file_truncate(file, (uint64_t)256 << 20), 0); /* takes its time to hash */
	assert_int_equal(thread_start(&thread, "opener", open_and_close, &o), 0);
	file_release(file);
	atomic_store(&o.done, true);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(conflicts(f), 1);
	assert_true(has_content(f, o.ino));
	assert_kept_by(f, o.ino, CONFLICT_DISPLACED);
}

static void a_conflict_that_could_not_be_recorded_is_at_the_next_open(void **state)
{
	struct fixture *f = *state;
	struct displaced d = write_displaced(f);

	refuse(f, "INSERT ON conflict");
	file_release(d.quiet_file);
	file_release(d.loud_file);
	assert_int_equal(conflicts(f), 0);
	fixture_reopen(f);
	assert_int_equal(conflicts(f), 1);
	assert_false(has_row(f, d.quiet));
	assert_content(f, d.loud, "DAta");
	fixture_reopen(f);
	assert_int_equal(conflicts(f), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_unlinked_open_file_lives_until_its_release),
		TEST(writing_a_displaced_file_is_a_conflict),
		TEST(what_a_kept_file_has_unsealed_is_a_conflict_of_its_own),
		TEST(a_closed_file_that_gave_way_unsealed_is_a_conflict_after_a_crash),
		TEST(what_is_kept_is_not_written_by_its_former_name),
		TEST(nobody_writes_to_what_a_reader_opened_late),
		TEST(a_name_that_was_not_taken_after_all),
		TEST(what_is_noted_is_found_when_it_is_committed),
		TEST(what_its_row_does_not_know_of_is_a_conflict),
		TEST(what_is_unsealed_is_never_deleted),
		TEST(what_was_written_again_is_the_version_before),
		TEST(what_cannot_be_read_is_tried_again),
		TEST(nobody_opens_what_is_being_listed),
		TEST(a_conflict_that_could_not_be_recorded_is_at_the_next_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
