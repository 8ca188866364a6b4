/* Files that give way to a directory come back when nothing is below them any more, as what they are. */
#include "tests/unit/project_fixture.h"

#include "cache/conflict.h"

static void a_hidden_file_comes_back(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "p/f", 1), hidden = 0, n = 9;
	struct conn *conn = fixture_begin(f);
	uint8_t hash[SHA256_SIZE];

	memset(hash, 2, sizeof(hash));
	assert_int_equal(show(conn, "p/f/x/y", KIND_FILE, 2), 0);
	assert_int_equal(kind_at(conn, "p/f"), KIND_DIR);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(project_hidden_ino(conn, slice_of("p/f"), hash, &hidden), 0);
	assert_int_equal(hidden, ino);
	fixture_commit(conn);
	conn = fixture_begin(f);
	show(conn, "p/f/x/y", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "p/f"), ino);
	assert_int_equal(project_hidden_ino(conn, slice_of("p/f"), hash, &hidden), -ENOENT);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM conflict"), 0);
	/* Hidden again, and overwritten meanwhile: now it is a replaced version. */
	show(conn, "p/f/x", KIND_SYMLINK, 0);
	assert_int_equal(show(conn, "p/f", KIND_FILE, 3), ino);
	assert_int_equal(kind_at(conn, "p/f"), KIND_DIR);
	show(conn, "p/f/x", KIND_ABSENT, 0);
	assert_int_equal(kind_at(conn, "p/f"), KIND_FILE);
	assert_int_not_equal(ino_at(conn, "p/f"), ino);
	fixture_commit(conn);
}

static void a_hidden_file_that_was_written_does_not_come_back_as_the_old_one(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 1), n = 0;
	struct file *file;
	struct inode_row row;
	struct conn *conn;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_FILE, 1);
	fixture_commit(conn);
	assert_int_equal(file_write(file, "later", 5, 0, false), 5);
	file_release(file);
	conn = fixture_begin(f);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 1);
	show(conn, "f/x", KIND_ABSENT, 0);
	assert_int_equal(kind_at(conn, "f"), KIND_FILE);
	assert_int_not_equal(ino_at(conn, "f"), ino);
	/* Its next version does not take the conflict's content along. */
	assert_int_equal(show(conn, "f", KIND_FILE, 2), ino);
	assert_int_equal(inode_get(conn, ino, &row), 0);
	fixture_commit(conn);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_hidden_file_comes_back),
		TEST(a_hidden_file_that_was_written_does_not_come_back_as_the_old_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
