/* What the projection does at one name, case by case: what is kept of an inode, what is never removed,
 * what becomes a conflict, what the kernel is told. */
#include "tests/unit/project_fixture.h"

#include <fcntl.h>

#include "cache/conflict.h"

static void attributes_keep_the_inode_content_does_not(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct entry e = {0};
	uint64_t file, dir, kept = 1;

	show(conn, "d", KIND_DIR, 0);
	dir = ino_at(conn, "d");
	show(conn, "d/f", KIND_FILE, 1);
	file = ino_at(conn, "d/f");
	assert_int_equal(entry_get(conn, slice_of("d/f"), &e), 0);
	e.mode = 0600;
	e.attr_stamp.time = ++stamps;
	assert_int_equal(project_entry(conn, slice_of("d/f"), &e, false, NULL, &kept), 0);
	assert_int_equal(kept, 0);
	assert_int_equal(ino_at(conn, "d/f"), file);
	/* The same content written again. */
	show(conn, "d/f", KIND_FILE, 1);
	assert_int_equal(ino_at(conn, "d/f"), file);
	show(conn, "d/f", KIND_FILE, 2);
	assert_int_not_equal(ino_at(conn, "d/f"), file);
	show(conn, "d", KIND_DIR, 0);
	assert_int_equal(ino_at(conn, "d"), dir);
	entry_done(&e);
	fixture_commit(conn);
}

static void an_attribute_never_replaces_what_is_being_written(void **state)
{
	struct fixture *f = *state;
	struct entry e = {.content_stamp = {1, 1}, .mode = 0604, .attr_stamp = {2, 1}};
	struct inode inode;
	struct file *file;
	struct conn *conn;

	set_content(&e, 3);
	assert_int_equal(tree_create_open(f->cache, ROOT_INO, slice_of("f"), S_IFREG | 0600, 0, 0,
				 true, &inode, &file),
		0);
	assert_int_equal(file_write(file, "x", 1, 0, false), 1);
	conn = fixture_begin(f);
	assert_int_equal(entry_put(conn, slice_of("f"), &e), 0);
	assert_int_equal(project_entry(conn, slice_of("f"), &e, false, NULL, NULL), 0);
	assert_int_equal(ino_at(conn, "f"), inode.ino);
	fixture_commit(conn);
	assert_int_equal(tree_getattr(f->cache, inode.ino, &inode), 0);
	assert_int_equal(inode.mode, S_IFREG | 0604);
	assert_int_equal(inode.size, 1);
	assert_int_not_equal(inode.mtime_ns, entry_mtime(&e));
	file_release(file);
}

static void a_replaced_local_file_is_handed_over(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 1);
	struct conn *conn = fixture_begin(f);
	struct inode_row row;
	int fd;

	assert_int_equal(show(conn, "f", KIND_FILE, 2), ino);
	assert_int_equal(inode_get(conn, ino, &row), 0);
	assert_int_equal(row.nlink, 0);
	/* What is remote has nothing to keep. */
	assert_int_equal(show(conn, "f", KIND_FILE, 3), 0);
	fixture_commit(conn);
	ino = show_local(f, "f", 1);
	conn = fixture_begin(f);
	assert_int_equal(show(conn, "f", KIND_ABSENT, 0), ino);
	assert_int_equal(ino_at(conn, "f"), 0);
	fixture_commit(conn);
	fd = content_file(f->cache, ino, O_RDONLY);
	assert_true(fd >= 0);
	close(fd);
}

static void what_is_not_sealed_is_never_removed(void **state)
{
	struct fixture *f = *state;
	struct inode dir, file;
	struct conn *conn = fixture_begin(f);
	struct entry tombstone = {.content_stamp = {1000, 1}};

	show(conn, "d", KIND_DIR, 0);
	show(conn, "d/old", KIND_FILE, 1);
	fixture_commit(conn);
	assert_int_equal(tree_resolve(f->cache, slice_of("d"), &dir), 0);
	assert_int_equal(
		tree_create(f->cache, dir.ino, slice_of("new"), S_IFREG | 0600, 0, 0, NULL, &file),
		0);
	conn = fixture_begin(f);
	show(conn, "d", KIND_ABSENT, 0);
	show(conn, "d/old", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "d"), dir.ino);
	assert_int_equal(ino_at(conn, "d/new"), file.ino);
	assert_int_equal(ino_at(conn, "d/old"), 0);
	fixture_commit(conn);
	/* Removed here, and the removal sealed. */
	assert_int_equal(tree_unlink(f->cache, dir.ino, slice_of("new")), 0);
	conn = fixture_begin(f);
	assert_int_equal(
		sqlite3_exec(conn->db, "DELETE FROM journal", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(entry_put(conn, slice_of("d/new"), &tombstone), 0);
	assert_int_equal(project_ancestors(conn, slice_of("d/new")), 0);
	assert_int_equal(ino_at(conn, "d"), 0);
	fixture_commit(conn);
	/* A directory that an application made again, before anybody sealed it. */
	assert_int_equal(
		tree_create(f->cache, ROOT_INO, slice_of("d"), S_IFDIR | 0700, 0, 0, NULL, &dir),
		0);
	conn = fixture_begin(f);
	show(conn, "d/old", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "d"), dir.ino);
	fixture_commit(conn);
}

static void an_unsealed_file_that_gives_way_is_a_conflict(void **state)
{
	struct fixture *f = *state;
	struct inode file;
	struct conn *conn;
	uint64_t n = 0;

	assert_int_equal(
		tree_create(f->cache, ROOT_INO, slice_of("f"), S_IFREG | 0600, 0, 0, NULL, &file),
		0);
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_FILE, 1);
	assert_int_equal(kind_at(conn, "f"), KIND_DIR);
	fixture_commit(conn);
	assert_int_equal(file_settle_displaced(f->cache), 0);
	conn = fixture_begin(f);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM inode WHERE nlink = 0"), 1);
	cache_rollback(conn);
}

/* A write can come between the look at what is not sealed and the change that takes the name. */
static void written_while_its_name_is_taken(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 2), n = 0;
	struct entry e = {0};
	struct file *file;
	struct conn *conn;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	file_unseen(file, O_WRONLY);
	conn = fixture_begin(f);
	assert_int_equal(pwrite(file_fd(file), "later", 5, 0), 5);
	e.content_stamp.time = ++stamps;
	set_content(&e, 3);
	assert_int_equal(entry_put(conn, slice_of("f"), &e), 0);
	assert_int_equal(project_entry(conn, slice_of("f"), &e, true, NULL, NULL), 0);
	assert_int_not_equal(ino_at(conn, "f"), ino);
	fixture_commit(conn);
	file_release(file);
	conn = fixture_begin(f);
	assert_int_equal(conflict_count(conn, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(sql_int(conn, "SELECT ino FROM conflict"), ino);
	fixture_commit(conn);
}

struct seen {
	unsigned names;
	unsigned attributes;
	char last[NAME_MAX_BYTES + 1];
};

static void note(void *ctx, const struct invalidation *i)
{
	struct seen *seen = ctx;

	if (i->name) {
		seen->names++;
		snprintf(seen->last, sizeof(seen->last), "%s", i->name);
	} else {
		seen->attributes++;
	}
}

static void the_kernel_is_told(void **state)
{
	struct fixture *f = *state;
	struct seen seen = {0};
	struct entry e = {0};
	struct conn *conn;

	cache_set_invalidator(f->cache, note, &seen);
	conn = fixture_begin(f);
	show(conn, "d/f", KIND_FILE, 1);
	assert_int_equal(seen.names, 0);
	fixture_commit(conn);
	assert_int_equal(seen.names, 2);
	assert_string_equal(seen.last, "f");
	conn = fixture_begin(f);
	assert_int_equal(entry_get(conn, slice_of("d/f"), &e), 0);
	e.uid = 77;
	assert_int_equal(project_entry(conn, slice_of("d/f"), &e, false, NULL, NULL), 0);
	fixture_commit(conn);
	assert_int_equal(seen.names, 2);
	assert_int_equal(seen.attributes, 1);
	conn = fixture_begin(f);
	assert_int_equal(project_entry(conn, slice_of("d/f"), &e, false, NULL, NULL), 0);
	fixture_commit(conn);
	assert_int_equal(seen.attributes, 1);
	conn = fixture_begin(f);
	show(conn, "d/f", KIND_ABSENT, 0);
	cache_rollback(conn);
	assert_int_equal(seen.names, 2);
	conn = fixture_begin(f);
	show(conn, "d/f", KIND_ABSENT, 0);
	fixture_commit(conn);
	assert_int_equal(seen.names, 4);
	assert_string_equal(seen.last, "d");
	cache_set_invalidator(f->cache, NULL, NULL);
	entry_done(&e);
}

static void an_open_reader_keeps_what_it_opened(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = show_local(f, "f", 2);
	struct conn *conn;
	struct file *file;
	char text[32];

	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	/* Hidden, attached again while it is open, then gone. */
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_FILE, 1);
	fixture_commit(conn);
	conn = fixture_begin(f);
	show(conn, "f/x", KIND_ABSENT, 0);
	assert_int_equal(ino_at(conn, "f"), ino);
	fixture_commit(conn);
	assert_int_equal(file_read(file, text, sizeof(text), 0), 20);
	file_release(file);
	conn = fixture_begin(f);
	assert_int_equal(ino_at(conn, "f"), ino);
	fixture_commit(conn);
	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	conn = fixture_begin(f);
	show(conn, "f", KIND_DIR, 0);
	fixture_commit(conn);
	assert_int_equal(file_read(file, text, sizeof(text), 0), 20);
	file_release(file);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(attributes_keep_the_inode_content_does_not),
		TEST(an_attribute_never_replaces_what_is_being_written),
		TEST(a_replaced_local_file_is_handed_over),
		TEST(what_is_not_sealed_is_never_removed),
		TEST(an_unsealed_file_that_gives_way_is_a_conflict),
		TEST(written_while_its_name_is_taken),
		TEST(the_kernel_is_told),
		TEST(an_open_reader_keeps_what_it_opened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
