/* POSIX ACLs against fixed vectors, and the rules of Linux for permission bits. */
#include "tests/unit/cache_fixture.h"

#include <sys/xattr.h>

#include "cache/acl.h"

/* setfacl -m u:1000:rw,m::r on a file of mode 640, as getfattr shows it on ext4. */
static const char vector[] = "\x02\0\0\0"
			     "\x01\0\x06\0\xff\xff\xff\xff"
			     "\x02\0\x06\0\xe8\x03\0\0"
			     "\x04\0\x04\0\xff\xff\xff\xff"
			     "\x10\0\x04\0\xff\xff\xff\xff"
			     "\x20\0\0\0\xff\xff\xff\xff";
#define VECTOR_SIZE (sizeof(vector) - 1)

static struct slice vector_slice(void)
{
	return (struct slice){vector, VECTOR_SIZE};
}

static void the_kernels_format_is_read_and_written(void **state)
{
	uint8_t out[ACL_BYTES_MAX];
	struct acl acl;
	uint32_t mode = S_IFREG | 04000;

	assert_int_equal(acl_parse(vector_slice(), &acl), 0);
	assert_int_equal(acl.count, 5);
	assert_int_equal(acl.entry[1].tag, ACL_TAG_USER);
	assert_int_equal(acl.entry[1].perm, 6);
	assert_int_equal(acl.entry[1].id, 1000);
	assert_int_equal(acl_serialise(&acl, out), VECTOR_SIZE);
	assert_memory_equal(out, vector, VECTOR_SIZE);
	assert_false(acl_equiv_mode(&acl, &mode));
	assert_int_equal(mode, S_IFREG | 04640);
	assert_int_equal(acl_parse((struct slice){vector, 4}, &acl), 0);
	assert_int_equal(acl.count, 0);
}

/* Each byte of the vector that matters, changed. */
static void malformed_lists_are_refused(void **state)
{
	static const struct {
		size_t at;
		char value;
	} bad[] = {
		{0, 1}, {3, 1},	   /* version */
		{4, 2}, {4, 0},	   /* starts with a user; with nothing known */
		{6, 8}, {7, 1},	   /* permissions */
		{12, 1},	   /* two owners */
		{20, 2}, {20, 16}, /* no group */
		{28, 4}, {28, 8},  /* no mask */
		{36, 1}, {36, 64}, /* no others */
	};
	struct acl acl;
	char copy[VECTOR_SIZE];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		memcpy(copy, vector, VECTOR_SIZE);
		copy[bad[i].at] = bad[i].value;
		assert_int_equal(acl_parse((struct slice){copy, VECTOR_SIZE}, &acl), -EINVAL);
		assert_false(acl_attribute_valid(
			slice_of(ACL_ACCESS), (struct slice){copy, VECTOR_SIZE}));
		assert_true(
			acl_attribute_valid(slice_of("user.x"), (struct slice){copy, VECTOR_SIZE}));
	}
	for (size_t n = 0; n < VECTOR_SIZE; n++)
		if (n != 4)
			assert_int_equal(acl_parse((struct slice){vector, n}, &acl), -EINVAL);
	memcpy(copy, vector, VECTOR_SIZE);
	memset(copy + 16, 0xff, 4); /* a user without a number */
	assert_int_equal(acl_parse((struct slice){copy, VECTOR_SIZE}, &acl), -EINVAL);
	assert_true(acl_attribute_valid(slice_of(ACL_DEFAULT), vector_slice()));
	assert_false(acl_attribute_valid(slice_of(ACL_ACCESS), (struct slice){vector, 4}));
}

static void length_is_bounded(void **state)
{
	static char big[4 + 8 * (ACL_ENTRIES_MAX + 1)];
	struct acl acl;

	memcpy(big, vector, 12);
	for (size_t i = 1; i < ACL_ENTRIES_MAX + 1 - 3; i++)
		memcpy(big + 4 + 8 * i, vector + 12, 8);
	memcpy(big + sizeof(big) - 24, vector + 20, 24);
	assert_int_equal(acl_parse((struct slice){big, sizeof(big)}, &acl), -E2BIG);
	memmove(big + 12, big + 20, sizeof(big) - 20);
	assert_int_equal(acl_parse((struct slice){big, sizeof(big) - 8}, &acl), 0);
	assert_int_equal(acl.count, ACL_ENTRIES_MAX);
}

static void chmod_and_creation_follow_linux(void **state)
{
	struct acl acl;
	uint32_t mode;

	/* With a mask chmod's group bits are the mask, the group's own entry stays. */
	assert_int_equal(acl_parse(vector_slice(), &acl), 0);
	acl_chmod_masq(&acl, 0751);
	assert_int_equal(acl.entry[0].perm, 7);
	assert_int_equal(acl.entry[2].perm, 4);
	assert_int_equal(acl.entry[3].perm, 5);
	assert_int_equal(acl.entry[4].perm, 1);
	/* open(…, 0666) in a directory with that default ACL. */
	assert_int_equal(acl_parse(vector_slice(), &acl), 0);
	mode = S_IFREG | 0666;
	assert_true(acl_create_masq(&acl, &mode));
	assert_int_equal(mode, S_IFREG | 0640);
	assert_int_equal(acl.entry[3].perm, 4);
	/* open(…, 0600): the mask goes. */
	assert_int_equal(acl_parse(vector_slice(), &acl), 0);
	mode = S_IFREG | 0600;
	assert_true(acl_create_masq(&acl, &mode));
	assert_int_equal(mode, S_IFREG | 0600);
	assert_int_equal(acl.entry[3].perm, 0);
	assert_int_equal(acl.entry[2].perm, 4);
	/* Owner, group and others only: the mode says it all. */
	assert_int_equal(acl_parse(vector_slice(), &acl), 0);
	acl.entry[1] = acl.entry[2];
	acl.entry[2] = acl.entry[4];
	acl.count = 3;
	mode = S_IFDIR | 02777;
	assert_false(acl_create_masq(&acl, &mode));
	assert_int_equal(mode, S_IFDIR | 02640);
}

static uint32_t mode_of(struct fixture *f, uint64_t ino)
{
	return row_of(f, ino).mode & 07777;
}

static void the_tree_keeps_mode_and_list_in_step(void **state)
{
	struct fixture *f = *state;
	struct inode inode, set = {.mode = 0604};
	uint64_t ino = make_file(f, ROOT_INO, "f", "x");
	char got[ACL_BYTES_MAX];

	journal_clear(f);
	assert_false(tree_may_have_xattrs(f->cache, ino));
	assert_int_equal(tree_set_acl(f->cache, ino, ACL_ACCESS, vector, VECTOR_SIZE, false), 0);
	assert_true(tree_may_have_xattrs(f->cache, ino));
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(mode_of(f, ino), 0640);
	assert_int_equal(
		tree_getxattr(f->cache, ino, ACL_ACCESS, got, sizeof(got)), (int)VECTOR_SIZE);
	assert_memory_equal(got, vector, VECTOR_SIZE);
	assert_int_equal(tree_setattr(f->cache, ino, SET_MODE, &set, &inode), 0);
	assert_int_equal(
		tree_getxattr(f->cache, ino, ACL_ACCESS, got, sizeof(got)), (int)VECTOR_SIZE);
	assert_int_equal(got[30], 0); /* the mask */
	assert_int_equal(got[38], 4); /* others */
	assert_int_equal(
		tree_set_acl(f->cache, ino, ACL_ACCESS, vector, VECTOR_SIZE - 1, false), -EINVAL);
	assert_int_equal(
		tree_set_acl(f->cache, ino, ACL_DEFAULT, vector, VECTOR_SIZE, false), -EACCES);
	assert_int_equal(tree_set_acl(f->cache, ino, ACL_ACCESS, NULL, 0, false), 0);
	assert_int_equal(tree_getxattr(f->cache, ino, ACL_ACCESS, NULL, 0), -ENODATA);
	assert_int_equal(tree_set_acl(f->cache, ino, ACL_ACCESS, NULL, 0, false), 0);
	assert_int_equal(mode_of(f, ino), 0604);
	/* The caller is not in the group. */
	set.mode = 02775;
	assert_int_equal(tree_setattr(f->cache, ino, SET_MODE, &set, &inode), 0);
	assert_int_equal(tree_set_acl(f->cache, ino, ACL_ACCESS, vector, VECTOR_SIZE, true), 0);
	assert_int_equal(mode_of(f, ino), 0640);
	assert_int_equal(
		tree_set_acl(f->cache, 99999, ACL_ACCESS, vector, VECTOR_SIZE, true), -ENOENT);
}

static void default_lists_are_inherited(void **state)
{
	struct fixture *f = *state;
	char got[ACL_BYTES_MAX];
	uint64_t dir = make_dir(f, ROOT_INO, "d"), sub, file, plain;

	plain = make(f, dir, "plain", S_IFREG | 0666 | CREATE_UMASK(027));
	assert_int_equal(mode_of(f, plain), 0640);
	assert_int_equal(row_of(f, plain).xattrs, 0);
	assert_int_equal(tree_set_acl(f->cache, dir, ACL_DEFAULT, vector, VECTOR_SIZE, false), 0);
	assert_int_equal(mode_of(f, dir), 0755);
	sub = make(f, dir, "sub", S_IFDIR | 0777 | CREATE_UMASK(077));
	assert_int_equal(mode_of(f, sub), 0640);
	assert_int_equal(row_of(f, sub).xattrs, 2);
	assert_int_equal(
		tree_getxattr(f->cache, sub, ACL_DEFAULT, got, sizeof(got)), (int)VECTOR_SIZE);
	assert_memory_equal(got, vector, VECTOR_SIZE);
	file = make(f, sub, "file", S_IFREG | 0600 | CREATE_UMASK(077));
	assert_int_equal(row_of(f, file).xattrs, 1);
	assert_int_equal(
		tree_getxattr(f->cache, file, ACL_ACCESS, got, sizeof(got)), (int)VECTOR_SIZE);
	assert_int_equal(got[30], 0);
	make(f, sub, "link", S_IFLNK | 0777 | CREATE_UMASK(077));
	assert_int_equal(mode_of(f, lookup(f, sub, "link")), 0777);
	fixture_crash(f);
	assert_true(tree_may_have_xattrs(f->cache, file));
	assert_false(tree_may_have_xattrs(f->cache, plain));
	assert_int_equal(tree_unlink(f->cache, sub, slice_of("file")), 0);
}

static void security_attributes_are_remembered(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_dir(f, ROOT_INO, "d");

	assert_int_equal(tree_setxattr(f->cache, ino, "user.a", "x", 1, 0), 0);
	assert_false(tree_has_security_xattrs(f->cache));
	assert_int_equal(
		tree_setxattr(f->cache, ino, "security.a", "x", 1, XATTR_REPLACE), -ENODATA);
	assert_false(tree_has_security_xattrs(f->cache));
	assert_int_equal(tree_setxattr(f->cache, ino, "security.a", "x", 1, 0), 0);
	assert_true(tree_has_security_xattrs(f->cache));
	fixture_crash(f);
	assert_true(tree_has_security_xattrs(f->cache));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_kernels_format_is_read_and_written),
		cmocka_unit_test(malformed_lists_are_refused),
		cmocka_unit_test(length_is_bounded),
		cmocka_unit_test(chmod_and_creation_follow_linux),
		TEST(the_tree_keeps_mode_and_list_in_step),
		TEST(default_lists_are_inherited),
		TEST(security_attributes_are_remembered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
