/* What the writer remembers of rows is what its statements would find: after changes of every sort,
 * after a rollback, and when there are more rows than places. */
#include "tests/unit/cache_fixture.h"

#include <stdio.h>

static struct row_cache *rows_of(struct fixture *f)
{
	return f->cache->writer->rows;
}

static void assert_same_row(const struct inode_row *a, const struct inode_row *b)
{
	assert_int_equal(a->ino, b->ino);
	assert_int_equal(a->parent, b->parent);
	assert_int_equal(a->mode, b->mode);
	assert_int_equal(a->uid, b->uid);
	assert_int_equal(a->gid, b->gid);
	assert_int_equal(a->nlink, b->nlink);
	assert_int_equal(a->size, b->size);
	assert_int_equal(a->atime_ns, b->atime_ns);
	assert_int_equal(a->mtime_ns, b->mtime_ns);
	assert_int_equal(a->ctime_ns, b->ctime_ns);
	assert_int_equal(a->state, b->state);
	assert_int_equal(a->dirty, b->dirty);
	assert_int_equal(a->has_hash, b->has_hash);
	assert_memory_equal(a->hash, b->hash, sizeof(a->hash));
	assert_int_equal(a->xattrs, b->xattrs);
	assert_int_equal(a->generation, b->generation);
	assert_int_equal(a->sealed, b->sealed);
}

/* With what is remembered, and again with nothing remembered. */
static void assert_true_row(struct fixture *f, uint64_t ino)
{
	struct inode_row known, found;
	struct conn *conn = fixture_begin(f);
	int r = inode_get(conn, ino, &known);

	row_cache_clear(conn->rows);
	assert_int_equal(inode_get(conn, ino, &found), r);
	if (!r)
		assert_same_row(&known, &found);
	cache_rollback(conn);
}

static int child(struct fixture *f, uint64_t parent, const char *name, uint64_t *ret)
{
	struct inode_row row = {0};
	struct conn *conn = fixture_begin(f);
	int r = inode_child(conn, parent, slice_of(name), &row);

	cache_rollback(conn);
	*ret = row.ino;
	return r;
}

static bool knows(struct fixture *f, uint64_t parent, const char *name, uint64_t *ino)
{
	struct slice s = slice_of(name);

	return row_cache_name(rows_of(f), parent, name_place(s), s, ino);
}

static void rows_are_what_the_database_has(void **state)
{
	struct fixture *f = *state;
	struct inode set = {.mode = 0600, .uid = 7, .mtime_ns = 1234567890123456789}, inode;
	uint64_t dir = make_dir(f, ROOT_INO, "d"), file, ino;
	struct inode_row row;

	file = make_file(f, dir, "f", "text");
	assert_true(row_cache_inode(rows_of(f), file, &row));
	assert_true_row(f, file);
	assert_int_equal(
		tree_setattr(f->cache, file, SET_MODE | SET_UID | SET_MTIME, &set, &inode), 0);
	assert_true(row_cache_inode(rows_of(f), file, &row));
	assert_int_equal(row.mode & 07777, 0600);
	assert_true_row(f, file);
	assert_int_equal(tree_rename(f->cache, dir, slice_of("f"), ROOT_INO, slice_of("g"), 0), 0);
	assert_true_row(f, file);
	assert_int_equal(tree_link(f->cache, file, dir, slice_of("h"), &inode), 0);
	assert_true_row(f, file);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("g")), 0);
	assert_true_row(f, file);
	assert_int_equal(tree_unlink(f->cache, dir, slice_of("h")), 0);
	assert_false(row_cache_inode(rows_of(f), file, &row));
	assert_true_row(f, file);
	assert_int_equal(child(f, dir, "h", &ino), -ENOENT);
}

static void names_follow_changes(void **state)
{
	struct fixture *f = *state;
	struct inode inode;
	uint64_t file, known = 1;

	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("a"), &inode), -ENOENT);
	assert_true(knows(f, ROOT_INO, "a", &known));
	assert_int_equal(known, 0);
	file = make_file(f, ROOT_INO, "a", "text");
	assert_true(knows(f, ROOT_INO, "a", &known));
	assert_int_equal(known, file);
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("a"), ROOT_INO, slice_of("b"), 0), 0);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("a"), &inode), -ENOENT);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("b"), &inode), 0);
	assert_int_equal(inode.ino, file);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("b")), 0);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("b"), &inode), -ENOENT);
}

static void a_rollback_forgets(void **state)
{
	struct fixture *f = *state;
	uint64_t dir = make_dir(f, ROOT_INO, "d"), ino;
	struct inode_row row = {.mode = S_IFDIR | 0700};
	struct conn *conn = fixture_begin(f);

	assert_int_equal(inode_set_attr(conn, dir, SET_MODE, 0711, 0, 0, 0), 0);
	assert_int_equal(inode_make(conn, ROOT_INO, slice_of("new"), &row, NULL), 0);
	assert_int_equal(
		inode_move(conn, dir, ROOT_INO, slice_of("d"), ROOT_INO, slice_of("e")), 0);
	assert_int_equal(inode_get(conn, dir, &row), 0);
	assert_int_equal(row.mode & 07777, 0711);
	cache_rollback(conn);
	assert_int_equal(child(f, ROOT_INO, "new", &ino), -ENOENT);
	assert_int_equal(child(f, ROOT_INO, "e", &ino), -ENOENT);
	assert_int_equal(child(f, ROOT_INO, "d", &ino), 0);
	assert_int_equal(ino, dir);
	assert_int_equal(row_of(f, dir).mode & 07777, 0755);
	assert_true_row(f, dir);
}

static void what_shares_a_place_is_told_apart(void **state)
{
	struct row_cache *r = row_cache_new();
	struct inode_row a = {.ino = 5, .mode = 1}, b = {.ino = 5 + (1 << 20), .mode = 2}, got;
	const char *longest = "123456789012345678901234567890123456789";
	uint64_t ino;

	assert_non_null(r);
	assert_false(row_cache_inode(r, 0, &got));
	row_cache_put_inode(r, &a);
	assert_false(row_cache_inode(r, b.ino, &got));
	row_cache_put_inode(r, &b);
	assert_false(row_cache_inode(r, a.ino, &got));
	row_cache_drop_inode(r, a.ino);
	assert_true(row_cache_inode(r, b.ino, &got));
	assert_int_equal(got.mode, 2);
	row_cache_put_name(r, 1, 77, slice_of("x"), 9);
	assert_false(row_cache_name(r, 1, 77, slice_of("y"), &ino));
	assert_false(row_cache_name(r, 2, 77, slice_of("x"), &ino));
	assert_true(row_cache_name(r, 1, 77, slice_of("x"), &ino));
	assert_int_equal(ino, 9);
	row_cache_put_name(r, 1, 5, slice_of(longest), 10);
	assert_true(row_cache_name(r, 1, 5, slice_of(longest), &ino));
	row_cache_put_name(r, 1, 6, slice_of("1234567890123456789012345678901234567890"), 11);
	assert_false(row_cache_name(
		r, 1, 6, slice_of("1234567890123456789012345678901234567890"), &ino));
	row_cache_clear(r);
	assert_false(row_cache_inode(r, b.ino, &got));
	assert_false(row_cache_name(r, 1, 5, slice_of(longest), &ino));
	row_cache_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(rows_are_what_the_database_has),
		TEST(names_follow_changes),
		TEST(a_rollback_forgets),
		cmocka_unit_test(what_shares_a_place_is_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
