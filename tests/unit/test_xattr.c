/* Extended attributes: flags, limits, the encoding that replicates. */
#include "tests/unit/cache_fixture.h"

#include <sys/xattr.h>

static void values_come_back(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "x"), other = make_dir(f, ROOT_INO, "d");
	char got[64];

	journal_clear(f);
	assert_int_equal(tree_getxattr(f->cache, ino, "user.a", got, sizeof(got)), -ENODATA);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.b", "two", 3, 0), 0);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.a", "", 0, 0), 0);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.b", "three", 5, 0), 0);
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(tree_getxattr(f->cache, ino, "user.b", got, sizeof(got)), 5);
	assert_memory_equal(got, "three", 5);
	assert_int_equal(tree_getxattr(f->cache, ino, "user.b", NULL, 0), 5);
	assert_int_equal(tree_getxattr(f->cache, ino, "user.b", got, 4), -ERANGE);
	assert_int_equal(tree_getxattr(f->cache, ino, "user.a", got, sizeof(got)), 0);
	assert_int_equal(tree_listxattr(f->cache, ino, NULL, 0), 14);
	assert_int_equal(tree_listxattr(f->cache, ino, got, 13), -ERANGE);
	assert_int_equal(tree_listxattr(f->cache, ino, got, 14), 14);
	assert_memory_equal(got, "user.a\0user.b", 14);
	assert_int_equal(tree_listxattr(f->cache, other, got, 14), 0);
	assert_int_equal(tree_removexattr(f->cache, ino, "user.a"), 0);
	assert_int_equal(tree_removexattr(f->cache, ino, "user.a"), -ENODATA);
	assert_int_equal(tree_listxattr(f->cache, ino, got, 14), 7);
	assert_int_equal(tree_setxattr(f->cache, 999, "user.b", "x", 1, 0), -ENOENT);
	/* From memory, which knows no inodes. */
	assert_int_equal(tree_getxattr(f->cache, 999, "user.b", got, 1), -ENODATA);
	fixture_crash(f);
	assert_int_equal(tree_getxattr(f->cache, ino, "user.b", got, sizeof(got)), 5);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("f")), 0);
}

static void flags_and_limits(void **state)
{
	struct fixture *f = *state;
	static char big[(64 << 10) + 1];
	char name[300] = "user.";
	uint64_t ino = make_dir(f, ROOT_INO, "d");

	assert_int_equal(tree_setxattr(f->cache, ino, "user.a", "x", 1, XATTR_REPLACE), -ENODATA);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.a", "x", 1, XATTR_CREATE), 0);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.a", "x", 1, XATTR_CREATE), -EEXIST);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.a", "y", 1, XATTR_REPLACE), 0);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.big", big, sizeof(big), 0), -E2BIG);
	assert_int_equal(tree_setxattr(f->cache, ino, "user.big", big, sizeof(big) - 1, 0), 0);
	assert_int_equal(
		tree_setxattr(f->cache, ino, "user.more", big, sizeof(big) - 1, 0), -ENOSPC);
	assert_int_equal(tree_getxattr(f->cache, ino, "user.more", NULL, 0), -ENODATA);
	memset(name + 5, 'n', 251);
	assert_int_equal(tree_setxattr(f->cache, ino, name, "x", 1, 0), -ERANGE);
	name[255] = '\0';
	assert_int_equal(tree_setxattr(f->cache, ino, name, "x", 1, 0), 0);
}

static void the_encoding_round_trips_and_is_checked(void **state)
{
	struct fixture *f = *state;
	uint64_t from = make_dir(f, ROOT_INO, "a"), to = make_dir(f, ROOT_INO, "b");
	CLEANUP(buf_done) struct buf encoded = {0}, again = {0};
	struct conn *conn;

	assert_int_equal(tree_setxattr(f->cache, from, "user.z", "1", 1, 0), 0);
	assert_int_equal(tree_setxattr(f->cache, from, "user.a", "\0\xff", 2, 0), 0);
	assert_int_equal(tree_setxattr(f->cache, to, "user.old", "x", 1, 0), 0);
	conn = fixture_begin(f);
	assert_int_equal(inode_get_xattrs(conn, from, &encoded), 0);
	assert_memory_equal(encoded.data,
		"\x02\x06user.a\x02\0\xff\x06user.z\x01"
		"1",
		20);
	assert_int_equal(
		inode_set_xattrs(conn, to, (struct slice){(const char *)encoded.data, encoded.len}),
		0);
	assert_int_equal(inode_get_xattrs(conn, to, &again), 0);
	assert_int_equal(again.len, encoded.len);
	assert_memory_equal(again.data, encoded.data, encoded.len);
	for (size_t n = 2; n < encoded.len; n++)
		assert_int_equal(
			inode_set_xattrs(conn, to, (struct slice){(const char *)encoded.data, n}),
			-EINVAL);
	assert_int_equal(inode_set_xattrs(conn, to, slice_of("")), 0);
	buf_clear(&again);
	assert_int_equal(inode_get_xattrs(conn, to, &again), 0);
	assert_int_equal(again.len, 1);
	fixture_commit(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(values_come_back),
		TEST(flags_and_limits),
		TEST(the_encoding_round_trips_and_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
