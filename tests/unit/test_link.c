/* Hard links, special files and exchanges: the rows, the counts, the journal, over a crash. */
#include "tests/unit/cache_fixture.h"

static uint64_t link_to(struct fixture *f, uint64_t ino, uint64_t parent, const char *name)
{
	struct inode inode;

	assert_int_equal(tree_link(f->cache, ino, parent, slice_of(name), &inode), 0);
	assert_int_equal(inode.ino, ino);
	return inode.nlink;
}

static int move(struct fixture *f, const char *from, const char *to, unsigned flags)
{
	return tree_rename(f->cache, ROOT_INO, slice_of(from), ROOT_INO, slice_of(to), flags);
}

static void names_share_one_inode(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "a", "text"), dir = make_dir(f, ROOT_INO, "d");
	struct inode inode;

	journal_clear(f);
	assert_int_equal(link_to(f, ino, dir, "b"), 2);
	assert_int_equal(link_to(f, ino, ROOT_INO, "c"), 3);
	assert_string_equal(journal_text(f), "put a;rename d/b a;rename c a;");
	assert_int_equal(tree_link(f->cache, ino, dir, slice_of("b"), &inode), -EEXIST);
	assert_int_equal(tree_link(f->cache, dir, ROOT_INO, slice_of("e"), &inode), -EPERM);
	fixture_crash(f);
	journal_clear(f);
	/* The first name goes; what is left has the content, and a change is one of each name. */
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("a")), 0);
	assert_int_equal(lookup(f, dir, "b"), ino);
	assert_int_equal(row_of(f, ino).nlink, 2);
	assert_content(f, ino, "text");
	inode.mode = 0600;
	assert_int_equal(tree_setattr(f->cache, ino, SET_MODE, &inode, &inode), 0);
	assert_string_equal(journal_text(f), "remove a;put c;put d/b;");
	/* One name over another of the same inode: nothing happens. */
	assert_int_equal(tree_rename(f->cache, dir, slice_of("b"), ROOT_INO, slice_of("c"), 0), 0);
	assert_int_equal(row_of(f, ino).nlink, 2);
	assert_int_equal(tree_rename(f->cache, dir, slice_of("b"), ROOT_INO, slice_of("x"), 0), 0);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("c")), 0);
	assert_int_equal(lookup(f, ROOT_INO, "x"), ino);
	assert_int_equal(row_of(f, ino).nlink, 1);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("x")), 0);
	assert_false(has_row(f, ino));
	assert_false(has_content(f, ino));
}

static void unlinked_is_not_linked_again(void **state)
{
	struct fixture *f = *state;
	struct file *file = make_open(f, ROOT_INO, "a");
	struct inode inode;
	uint64_t ino = file_ino(file);

	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("a")), 0);
	assert_int_equal(tree_link(f->cache, ino, ROOT_INO, slice_of("b"), &inode), -ENOENT);
	file_release(file);
}

static void special_files_stay_here(void **state)
{
	struct fixture *f = *state;
	CLEANUP(local_state_done) struct local_state local = {0};
	struct inode inode;
	struct conn *conn;

	assert_int_equal(tree_mknod(f->cache, ROOT_INO, slice_of("null"), S_IFCHR | 0666, 1, 2,
				 0x103, &inode),
		0);
	assert_int_equal(
		tree_mknod(f->cache, ROOT_INO, slice_of("p"), S_IFIFO | 0600, 0, 0, 7, &inode), 0);
	assert_int_equal(inode.rdev, 0);
	assert_string_equal(journal_text(f), "");
	fixture_crash(f);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("null"), &inode), 0);
	assert_int_equal(inode.mode, S_IFCHR | 0666);
	assert_int_equal(inode.rdev, 0x103);
	assert_int_equal(inode.size, 0);
	make_file(f, ROOT_INO, "f", "text");
	assert_int_equal(move(f, "p", "f", 0), 0);
	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	assert_int_equal(journal_local_state(conn, slice_of("f"), &local), 0);
	cache_read_end(conn);
	assert_int_equal(local.kind, KIND_ABSENT);
}

static void exchanged(void **state)
{
	struct fixture *f = *state;
	uint64_t a = make_file(f, ROOT_INO, "a", "A"), b = make_file(f, ROOT_INO, "b", "B");
	uint64_t d = make_dir(f, ROOT_INO, "d"), x;

	x = make_file(f, d, "x", "X");
	journal_clear(f);
	assert_int_equal(move(f, "a", "none", RENAME_EXCHANGE), -ENOENT);
	assert_int_equal(move(f, "a", "b", RENAME_EXCHANGE | RENAME_NOREPLACE), -EINVAL);
	assert_int_equal(move(f, "a", "b", RENAME_WHITEOUT), -EINVAL);
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("d"), d, slice_of("x"), RENAME_EXCHANGE),
		-EINVAL);
	assert_int_equal(
		tree_rename(f->cache, d, slice_of("x"), ROOT_INO, slice_of("d"), RENAME_EXCHANGE),
		-EINVAL);
	assert_string_equal(journal_text(f), "");
	assert_int_equal(move(f, "a", "b", RENAME_EXCHANGE), 0);
	assert_string_equal(journal_text(f), "rename b a;rename a b;");
	fixture_crash(f);
	assert_int_equal(lookup(f, ROOT_INO, "a"), b);
	assert_int_equal(lookup(f, ROOT_INO, "b"), a);
	journal_clear(f);
	assert_int_equal(move(f, "a", "d", RENAME_EXCHANGE), 0);
	assert_string_equal(journal_text(f), "rename-dir d a;rename-dir a d;");
	assert_int_equal(lookup(f, ROOT_INO, "d"), b);
	assert_int_equal(lookup(f, d, "x"), x);
	assert_int_equal(lookup(f, ROOT_INO, "a"), d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(names_share_one_inode),
		TEST(unlinked_is_not_linked_again),
		TEST(special_files_stay_here),
		TEST(exchanged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
