/* Open files that lost their names: they live until their release, and what a remote change displaced is a
 * conflict. */
#include "tests/unit/cache_fixture.h"

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
	struct displaced d = write_displaced(f);

	refuse_conflicts(f);
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
		TEST(a_conflict_that_could_not_be_recorded_is_at_the_next_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
