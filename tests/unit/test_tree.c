/* Names, attributes, listings, renames: the result in the tree and the row in the journal. */
#include "tests/unit/cache_fixture.h"

#include <sys/statvfs.h>

static void creations_are_found_and_journalled(void **state)
{
	struct fixture *f = *state;
	struct inode inode;
	uint64_t dir = make_dir(f, ROOT_INO, "d");
	uint64_t file = make(f, dir, "f", S_IFREG | 0640);
	char *target = NULL;

	make(f, dir, "l", S_IFLNK | 0777);
	assert_string_equal(journal_text(f), "put d;put d/f;put d/l;");
	assert_int_equal(tree_lookup(f->cache, dir, slice_of("f"), &inode), 0);
	assert_int_equal(inode.ino, file);
	assert_int_equal(inode.mode, S_IFREG | 0640);
	assert_int_equal(inode.uid, 1000);
	assert_int_equal(inode.gid, 1001);
	assert_int_equal(inode.nlink, 1);
	assert_int_equal(inode.size, 0);
	assert_int_equal(tree_lookup(f->cache, dir, slice_of("l"), &inode), 0);
	assert_int_equal(inode.size, 6);
	assert_int_equal(tree_readlink(f->cache, inode.ino, &target), 0);
	assert_string_equal(target, "target");
	free(target);
	assert_int_equal(tree_readlink(f->cache, file, &target), -EINVAL);
	assert_int_equal(tree_getattr(f->cache, ROOT_INO, &inode), 0);
	assert_int_equal(inode.mode, S_IFDIR | 0755);
	assert_int_equal(inode.uid, getuid());
	fixture_crash(f);
	assert_int_equal(lookup(f, lookup(f, ROOT_INO, "d"), "f"), file);
}

static void wrong_names_are_refused(void **state)
{
	struct fixture *f = *state;
	struct inode inode;
	char longname[NAME_MAX_BYTES + 2];
	uint64_t file = make(f, ROOT_INO, "f", S_IFREG | 0644);

	memset(longname, 'n', sizeof(longname) - 1);
	longname[sizeof(longname) - 1] = '\0';
#define CREATE(parent, name, mode)                                                                 \
	tree_create(f->cache, parent, slice_of(name), mode, 0, 0, NULL, &inode)
	assert_int_equal(CREATE(ROOT_INO, "f", S_IFDIR | 0755), -EEXIST);
	assert_int_equal(CREATE(ROOT_INO, "f", S_IFREG | 0755), -EEXIST);
	assert_int_equal(CREATE(ROOT_INO, longname, S_IFDIR | 0755), -ENAMETOOLONG);
	assert_int_equal(CREATE(ROOT_INO, "..", S_IFDIR | 0755), -EINVAL);
	assert_int_equal(CREATE(ROOT_INO, ".meridian", S_IFDIR | 0755), -EPERM);
	assert_int_equal(CREATE(file, "x", S_IFDIR | 0755), -ENOTDIR);
	assert_int_equal(CREATE(99999, "x", S_IFDIR | 0755), -ENOENT);
	assert_int_equal(CREATE(ROOT_INO, "p", S_IFIFO | 0644), -EINVAL);
	assert_int_equal(lookup_error(f, ROOT_INO, ".meridian"), -ENOENT);
	assert_int_equal(lookup_error(f, ROOT_INO, longname), -ENAMETOOLONG);
	assert_int_equal(lookup_error(f, file, "x"), -ENOTDIR);
	assert_int_equal(lookup_error(f, ROOT_INO, "nope"), -ENOENT);
	assert_string_equal(journal_text(f), "put f;");
	/* The content file of the refused creation is gone again. */
	assert_true(has_content(f, file));
	assert_false(has_content(f, file + 2));
}

static void paths_end_at_key_max(void **state)
{
	struct fixture *f = *state;
	struct inode inode;
	char name[201];
	uint64_t dir = ROOT_INO, first = 0;
	struct key key;

	memset(name, 'a', 200);
	name[200] = '\0';
	for (unsigned i = 0; i < 5; i++) {
		dir = make_dir(f, dir, name); /* 5 * 201 - 1 = 1004 */
		first = first ? first : dir;
	}
	/* The key of a directory's object ends in a slash. */
	assert_int_equal(tree_create(f->cache, dir, slice_of("bbbbbbbbbbbbbbbbbbb"),
				 S_IFDIR | 0755, 0, 0, NULL, &inode),
		-ENAMETOOLONG);
	assert_int_equal(tree_create(f->cache, dir, slice_of("bbbbbbbbbbbbbbbbbbbb"),
				 S_IFREG | 0644, 0, 0, NULL, &inode),
		-ENAMETOOLONG);
	make_dir(f, dir, "bbbbbbbbbbbbbbbbbb");
	make(f, dir, "bbbbbbbbbbbbbbbbbbb", S_IFREG | 0644);
	/* What is escaped there counts three. */
	assert_int_equal(tree_create(f->cache, dir, slice_of("\xff\xff\xff\xff\xff\xff\xff"),
				 S_IFREG | 0644, 0, 0, NULL, &inode),
		-ENAMETOOLONG);
	make(f, dir, "\xff\xff\xff\xff\xff\xff", S_IFREG | 0644);
	assert_int_equal(tree_rename(f->cache, dir, slice_of("\xff\xff\xff\xff\xff\xff"), dir,
				 slice_of("\xff\xff\xff\xff\xff\xff\xff"), 0),
		-ENAMETOOLONG);
	assert_int_equal(tree_link(f->cache, lookup(f, dir, "bbbbbbbbbbbbbbbbbbb"), dir,
				 slice_of("\xff\xff\xff\xff\xff\xff\xff"), &inode),
		-ENAMETOOLONG);
	assert_int_equal(tree_resolve(f->cache, slice_of(name), &inode), 0);
	assert_int_equal(tree_key(f->cache, lookup(f, dir, "bbbbbbbbbbbbbbbbbbb"), &key), 0);
	assert_int_equal(key.len, KEY_MAX);
	/* One byte more at the top would not fit at the bottom. */
	name[200] = 'a';
	assert_int_equal(tree_rename(f->cache, ROOT_INO, (struct slice){name, 200}, ROOT_INO,
				 (struct slice){name, 201}, 0),
		-ENAMETOOLONG);
	assert_int_equal(tree_rename(f->cache, ROOT_INO, (struct slice){name, 200}, ROOT_INO,
				 slice_of("short"), 0),
		0);
	assert_int_equal(lookup(f, ROOT_INO, "short"), first);
	/* Shorter than it was, but not as keys go. */
	assert_int_equal(tree_rename(f->cache, ROOT_INO, slice_of("short"), ROOT_INO,
				 slice_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
					  "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
					  "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
					  "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
				 0),
		-ENAMETOOLONG);
	/* The bound that is known now is too high, so what lies below is looked at. */
	assert_int_equal(tree_rename(f->cache, ROOT_INO, slice_of("short"), ROOT_INO,
				 slice_of("longer-again"), 0),
		0);
	assert_int_equal(tree_key(f->cache, lookup(f, dir, "bbbbbbbbbbbbbbbbbbb"), &key), 0);
	assert_int_equal(key.len, KEY_MAX - 200 + 12);
}

static void setgid_is_inherited(void **state)
{
	struct fixture *f = *state;
	struct inode inode, set = {.gid = 77, .mode = 02775};
	uint64_t dir = make_dir(f, ROOT_INO, "d");

	assert_int_equal(tree_setattr(f->cache, dir, SET_GID | SET_MODE, &set, &inode), 0);
	make_dir(f, dir, "sub");
	make(f, dir, "f", S_IFREG | 0644);
	assert_int_equal(tree_lookup(f->cache, dir, slice_of("sub"), &inode), 0);
	assert_int_equal(inode.gid, 77);
	assert_int_equal(inode.mode, S_IFDIR | 02755);
	assert_int_equal(tree_lookup(f->cache, dir, slice_of("f"), &inode), 0);
	assert_int_equal(inode.gid, 77);
	assert_int_equal(inode.mode, S_IFREG | 0644);
}

static void attributes_are_set_and_journalled(void **state)
{
	struct fixture *f = *state;
	struct inode inode,
		set = {.mode = 06755, .uid = 5, .gid = 6, .mtime_ns = -1500000000, .atime_ns = 9};
	uint64_t ino = make_file(f, ROOT_INO, "f", "text");

	journal_clear(f);
	assert_int_equal(tree_setattr(f->cache, ino, SET_ATIME, &set, &inode), 0);
	assert_string_equal(journal_text(f), "");
	assert_int_equal(tree_setattr(f->cache, ino, SET_MODE, &set, &inode), 0);
	assert_int_equal(inode.mode, S_IFREG | 06755);
	assert_int_equal(tree_setattr(f->cache, ino, SET_UID | SET_GID, &set, &inode), 0);
	assert_int_equal(inode.mode, S_IFREG | 0755);
	assert_int_equal(tree_setattr(f->cache, ino, SET_MODE, &set, &inode), 0);
	set.size = 2;
	assert_int_equal(tree_setattr(f->cache, ino, SET_SIZE, &set, &inode), 0);
	assert_int_equal(inode.mode, S_IFREG | 06755);
	assert_int_equal(tree_setattr(f->cache, ino, SET_SIZE | SET_KILL, &set, &inode), 0);
	assert_int_equal(inode.mode, S_IFREG | 0755);
	assert_int_equal(inode.size, 2);
	assert_content(f, ino, "te");
	journal_clear(f);
	assert_int_equal(tree_setattr(f->cache, ino, SET_MTIME, &set, &inode), 0);
	assert_int_equal(inode.mtime_ns, -1500000000);
	assert_int_equal(inode.atime_ns, 9);
	assert_int_equal(inode.uid, 5);
	assert_int_equal(inode.gid, 6);
	assert_string_equal(journal_text(f), "put f;");
	fixture_crash(f);
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_int_equal(inode.mtime_ns, -1500000000);
	assert_int_equal(tree_setattr(f->cache, 4711, SET_MODE, &set, &inode), -ENOENT);
}

static void removal(void **state)
{
	struct fixture *f = *state;
	uint64_t dir = make_dir(f, ROOT_INO, "d");
	uint64_t file = make_file(f, dir, "f", "x");

	journal_clear(f);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("d")), -EISDIR);
	assert_int_equal(tree_rmdir(f->cache, dir, slice_of("f")), -ENOTDIR);
	assert_int_equal(tree_rmdir(f->cache, ROOT_INO, slice_of("d")), -ENOTEMPTY);
	assert_int_equal(tree_unlink(f->cache, dir, slice_of("g")), -ENOENT);
	assert_int_equal(tree_unlink(f->cache, dir, slice_of("f")), 0);
	assert_false(has_row(f, file));
	assert_false(has_content(f, file));
	assert_int_equal(tree_rmdir(f->cache, ROOT_INO, slice_of("d")), 0);
	assert_string_equal(journal_text(f), "remove d/f;remove d;");
	assert_int_equal(lookup_error(f, ROOT_INO, "d"), -ENOENT);
}

static int move(struct fixture *f, uint64_t from, const char *name, uint64_t to,
	const char *new_name, unsigned flags)
{
	return tree_rename(f->cache, from, slice_of(name), to, slice_of(new_name), flags);
}

static void renames(void **state)
{
	struct fixture *f = *state;
	uint64_t a = make_dir(f, ROOT_INO, "a"), b = make_dir(f, a, "b");
	uint64_t x = make_file(f, a, "x", "x"), y = make_file(f, b, "y", "y");
	struct key key;

	journal_clear(f);
	assert_int_equal(move(f, a, "x", b, "y", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(move(f, a, "x", b, "y", 4), -EINVAL);
	assert_int_equal(move(f, a, "x", a, "b", 0), -EISDIR);
	assert_int_equal(move(f, a, "b", a, "x", 0), -ENOTDIR);
	assert_int_equal(move(f, ROOT_INO, "a", b, "c", 0), -EINVAL);
	assert_int_equal(move(f, ROOT_INO, "a", a, "c", 0), -EINVAL);
	assert_int_equal(move(f, ROOT_INO, "nope", a, "c", 0), -ENOENT);
	assert_int_equal(move(f, a, "x", 999, "c", 0), -ENOENT);
	assert_int_equal(move(f, a, "x", ROOT_INO, ".meridian", 0), -EPERM);
	assert_int_equal(move(f, a, "x", a, "x", 0), 0);
	assert_string_equal(journal_text(f), "");
	assert_int_equal(move(f, a, "x", b, "y", 0), 0);
	assert_int_equal(lookup(f, b, "y"), x);
	assert_int_equal(lookup_error(f, a, "x"), -ENOENT);
	assert_false(has_row(f, y));
	assert_false(has_content(f, y));
	assert_int_equal(move(f, a, "b", ROOT_INO, "top", 0), 0);
	assert_int_equal(tree_key(f->cache, x, &key), 0);
	assert_string_equal(key.p, "top/y");
	make_dir(f, ROOT_INO, "empty");
	assert_int_equal(move(f, ROOT_INO, "empty", ROOT_INO, "top", 0), -ENOTEMPTY);
	assert_int_equal(move(f, ROOT_INO, "top", ROOT_INO, "empty", 0), 0);
	assert_string_equal(journal_text(f),
		"rename a/b/y a/x;rename-dir top a/b;put empty;rename-dir empty top;");
	fixture_crash(f);
	assert_int_equal(lookup(f, lookup(f, ROOT_INO, "empty"), "y"), x);
}

struct names {
	int64_t last;
	char text[512];
	unsigned stop_after;
};

static int collect(void *ctx, struct slice name, int64_t place, const struct inode *inode)
{
	struct names *n = ctx;

	assert_int_equal(place, name_place(name));
	assert_true(place > n->last);
	n->last = place;

	assert_true(inode->ino > ROOT_INO);
	strncat(n->text, name.p, name.len);
	strcat(n->text, " ");
	return n->stop_after && --n->stop_after == 0;
}

static void listings_resume_after_a_place(void **state)
{
	struct fixture *f = *state;
	uint64_t dir = make_dir(f, ROOT_INO, "d"), parent = 0;
	struct names n = {0}, all;
	char first[2] = "";

	make_dir(f, dir, "b");
	make_dir(f, dir, "a");
	make_dir(f, dir, "\xff");
	make_dir(f, dir, "c");
	make_dir(f, ROOT_INO, "other");
	assert_int_equal(tree_readdir(f->cache, dir, 0, 100, collect, &n), 0);
	assert_int_equal(strlen(n.text), 8);
	all = n;
	n = (struct names){0};
	/* After the first, and after it when it is gone. */
	first[0] = all.text[0];
	for (int i = 0; i < 2; i++) {
		n = (struct names){0};
		assert_int_equal(
			tree_readdir(f->cache, dir, name_place(slice_of(first)), 2, collect, &n),
			0);
		assert_int_equal(strlen(n.text), 4);
		assert_memory_equal(n.text, all.text + 2, 4);
		if (i == 0)
			assert_int_equal(tree_rmdir(f->cache, dir, slice_of(first)), 0);
	}
	n = (struct names){.stop_after = 1};
	assert_int_equal(tree_readdir(f->cache, dir, n.last, 100, collect, &n), 0);
	assert_int_equal(strlen(n.text), 2);
	assert_int_equal(tree_readdir(f->cache, dir, all.last, 100, collect, &n), 0);
	assert_int_equal(strlen(n.text), 2);
	assert_int_equal(tree_readdir(f->cache, 999, 0, 1, collect, &n), -ENOENT);
	/* Part of the database's format. */
	assert_int_equal(name_place(slice_of("")), INT64_C(0x7bf407d82ea64a49));
	assert_int_equal(name_place(slice_of("a")), INT64_C(0x60a8aa562a6fb396));
	assert_int_equal(tree_parent(f->cache, dir, &parent), 0);
	assert_int_equal(parent, ROOT_INO);
	assert_int_equal(tree_parent(f->cache, ROOT_INO, &parent), 0);
	assert_int_equal(parent, ROOT_INO);
}

static void directory_times_are_current_and_written_later(void **state)
{
	struct fixture *f = *state;
	struct inode before, after, set = {.mtime_ns = 1000};
	uint64_t dir = make_dir(f, ROOT_INO, "d");

	assert_int_equal(tree_setattr(f->cache, dir, SET_MTIME, &set, &before), 0);
	assert_int_equal(before.mtime_ns, 1000);
	make_dir(f, dir, "x");
	assert_int_equal(tree_getattr(f->cache, dir, &after), 0);
	assert_true(after.mtime_ns > 1000);
	assert_int_equal(tree_lookup(f->cache, ROOT_INO, slice_of("d"), &before), 0);
	assert_int_equal(before.mtime_ns, after.mtime_ns);
	assert_int_equal(row_of(f, dir).mtime_ns, 1000);
	journal_clear(f);
	assert_int_equal(tree_flush_times(f->cache, false), 0); /* not quiet yet */
	assert_string_equal(journal_text(f), "");
	assert_int_equal(tree_flush_times(f->cache, true), 0);
	assert_true(row_of(f, dir).mtime_ns == after.mtime_ns);
	assert_non_null(strstr(journal_text(f), "put d;"));
	journal_clear(f);
	assert_int_equal(tree_flush_times(f->cache, true), 0);
	assert_string_equal(journal_text(f), "");
	/* What an application sets stays. */
	make_dir(f, dir, "y");
	assert_int_equal(tree_setattr(f->cache, dir, SET_MTIME, &set, &before), 0);
	fixture_reopen(f);
	assert_int_equal(tree_getattr(f->cache, dir, &after), 0);
	assert_int_equal(after.mtime_ns, 1000);
}

static void more_directories_change_than_are_remembered(void **state)
{
	struct fixture *f = *state;
	struct inode before, after;
	char name[32];
	uint64_t first = 0;

	for (unsigned i = 0; i < 4200; i++) {
		uint64_t dir;

		snprintf(name, sizeof(name), "d%u", i);
		dir = make_dir(f, ROOT_INO, name);
		first = first ? first : dir;
		make_dir(f, dir, "x");
		if (i == 0)
			assert_int_equal(tree_getattr(f->cache, first, &before), 0);
	}
	assert_int_equal(tree_getattr(f->cache, first, &after), 0);
	assert_true(before.mtime_ns == after.mtime_ns);
	assert_true(row_of(f, first).mtime_ns == after.mtime_ns);
}

static void free_space_leaves_out_the_reserve(void **state)
{
	struct fixture *f = *state;
	struct statvfs v, whole;

	assert_int_equal(statvfs(f->dir, &whole), 0);
	assert_int_equal(tree_statfs(f->cache, &v), 0);
	assert_true(v.f_bavail < whole.f_bavail || whole.f_bavail == 0);
	assert_int_equal(v.f_namemax, 255);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(creations_are_found_and_journalled),
		TEST(wrong_names_are_refused),
		TEST(paths_end_at_key_max),
		TEST(setgid_is_inherited),
		TEST(attributes_are_set_and_journalled),
		TEST(removal),
		TEST(renames),
		TEST(listings_resume_after_a_place),
		TEST(directory_times_are_current_and_written_later),
		TEST(more_directories_change_than_are_remembered),
		TEST(free_space_leaves_out_the_reserve),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
