/* What takes long after an unclean stop is done in steps: strays go, totals are counted, whatever
 * happens between the steps; and a stop in the middle of it loses nothing. */
#include "tests/unit/cache_fixture.h"

#include "cache/meta.h"
#include "src/base/random.h"

static void totals_follow_every_change(void **state)
{
	struct fixture *f = *state;
	struct content_writer w;
	uint64_t a = make_file(f, ROOT_INO, "a", "12345"), b = make_file(f, ROOT_INO, "b", "x");
	struct inode inode, size = {.size = 3};
	struct conn *conn;
	struct file *file;

	make_dir(f, ROOT_INO, "d");
	make(f, ROOT_INO, "l", S_IFLNK | 0777);
	assert_totals(f);
	seal_now(f, a);
	assert_totals(f);
	assert_int_equal(file_open(f->cache, a, true, false, &file), 0);
	assert_int_equal(file_write(file, "longer than before", 18, 0, false), 18);
	file_release(file);
	assert_totals(f);
	assert_int_equal(tree_setattr(f->cache, a, SET_SIZE, &size, &inode), 0);
	seal_now(f, a);
	assert_totals(f);
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("a"), ROOT_INO, slice_of("b"), 0), 0);
	assert_totals(f);
	assert_false(has_row(f, b));
	/* Content that goes, comes back, and is emptied while it is away. */
	conn = fixture_begin(f);
	assert_int_equal(
		sqlite3_exec(conn->db, "UPDATE inode SET state = 2 WHERE mode & 61440 = 32768",
			NULL, NULL, NULL),
		SQLITE_OK);
	conn_account(conn, a, 0, -1, -3);
	fixture_commit(conn);
	assert_totals(f);
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_append(&w, "lon", 3), 0);
	assert_int_equal(content_install(f->cache, a, &w), 0);
	assert_totals(f);
	conn = fixture_begin(f);
	assert_int_equal(sqlite3_exec(conn->db, "UPDATE inode SET state = 2 WHERE state = 1", NULL,
				 NULL, NULL),
		SQLITE_OK);
	conn_account(conn, a, 0, -1, -3);
	fixture_commit(conn);
	assert_int_equal(file_open(f->cache, a, true, true, &file), 0);
	assert_int_equal(file_write(file, "12", 2, 0, false), 2);
	file_release(file);
	assert_totals(f);
	/* Unlinked while open. */
	assert_int_equal(file_open(f->cache, a, true, false, &file), 0);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("b")), 0);
	assert_totals(f);
	file_release(file);
	assert_totals(f);
	/* A transaction that fails adds nothing. */
	conn = fixture_begin(f);
	conn_account(conn, a, 5, 5, 5);
	cache_rollback(conn);
	assert_totals(f);
	fixture_reopen(f);
	assert_totals(f);
}

/* Content that went missing is counted out. */
static void totals_leave_out_lost_content(void **state)
{
	struct fixture *f = *state;
	uint64_t a = make_file(f, ROOT_INO, "a", "12345");
	char name[CONTENT_NAME_SIZE];
	struct file *file;

	seal_now(f, a);
	content_name(a, name);
	assert_int_equal(unlinkat(f->cache->content_fd, name, 0), 0);
	assert_int_equal(file_open(f->cache, a, false, false, &file), -EREMOTE);
	assert_totals(f);
}

static void change_at_random(struct fixture *f, unsigned n)
{
	char name[16], other[16];
	static const char *const texts[] = {"", "x", "some text"};

	snprintf(name, sizeof(name), "f%llu", (unsigned long long)random_below(n));
	snprintf(other, sizeof(other), "f%llu", (unsigned long long)random_below(n));
	switch (random_below(4)) {
	case 0:
		(void)!tree_unlink(f->cache, ROOT_INO, slice_of(name));
		break;
	case 1:
		(void)!tree_rename(
			f->cache, ROOT_INO, slice_of(name), ROOT_INO, slice_of(other), 0);
		break;
	default:
		if (lookup_error(f, ROOT_INO, name) == -ENOENT)
			make_file(f, ROOT_INO, name, texts[random_below(3)]);
	}
}

static void counting_goes_on_beside_changes(void **state)
{
	struct fixture *f = *state;
	struct cache_usage u = {0};
	struct conn *conn = fixture_begin(f);
	bool more = true;
	unsigned steps = 0;

	/* Names of their own, so that several steps are needed. */
	assert_int_equal(
		sqlite3_exec(conn->db,
			"WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < "
			"4000) INSERT INTO inode(ino, parent, name, mode, uid, gid, nlink, size, "
			"atime_ns, mtime_ns, ctime_ns, state, dirty, xattrs, generation, sealed)"
			" SELECT i, 1, x'61', 33188, 0, 0, 1, i, 0, 0, 0, 2, 0, 0, 1, 1 FROM n;"
			"UPDATE meta SET value = 5000 WHERE name = 'ino_limit'",
			NULL, NULL, NULL),
		SQLITE_OK);
	fixture_commit(conn);
	fixture_crash(f);
	for (; more; steps++) {
		for (unsigned i = 0; i < 20; i++)
			change_at_random(f, 30);
		assert_int_equal(cache_usage(f->cache, &u), 0);
		assert_true(u.counting || steps > 3);
		assert_int_equal(cache_sweep(f->cache, &more), 0);
	}
	assert_true(steps > 4);
	assert_totals(f);
}

static uint64_t make_stray(struct fixture *f, uint64_t ino)
{
	int fd = content_file(f->cache, ino, O_RDWR | O_CREAT);

	assert_true(fd >= 0);
	close(fd);
	return ino;
}

static void a_stop_in_between_loses_no_stray(void **state)
{
	struct fixture *f = *state;
	uint64_t kept = make_file(f, ROOT_INO, "kept", "k"), made;
	/* One in the first directory, one in the last. */
	uint64_t first = make_stray(f, UINT64_C(7) << 16), last = make_stray(f, UINT64_C(0x7ff01));
	struct conn *conn = fixture_begin(f);
	bool more = true;

	assert_int_equal(meta_set_int(conn, "ino_limit", 0x100000), 0);
	fixture_commit(conn);
	fixture_crash(f);
	while (has_content(f, first))
		assert_int_equal(cache_sweep(f->cache, &more), 0);
	assert_true(more);
	assert_true(has_content(f, last));
	fixture_reopen(f); /* a clean stop */
	made = make_file(f, ROOT_INO, "made", "m");
	/* What is being made now is no stray: its row may be about to come. */
	assert_true(made >= 0x100000);
	assert_true(make_stray(f, made + 1));
	sweep_all(f);
	assert_false(has_content(f, last));
	assert_true(has_content(f, made + 1));
	assert_content(f, kept, "k");
	assert_content(f, made, "m");
	fixture_crash(f);
	sweep_all(f);
	assert_false(has_content(f, made + 1));
	assert_totals(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(totals_follow_every_change),
		TEST(totals_leave_out_lost_content),
		TEST(counting_goes_on_beside_changes),
		TEST(a_stop_in_between_loses_no_stray),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
