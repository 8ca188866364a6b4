/* Names that become names of one inode: nothing that is not sealed is lost by it. */
#include "tests/unit/project_fixture.h"

static void give_link_id(struct fixture *f, const char *key)
{
	struct entry e = {0};
	struct conn *conn = fixture_begin(f);

	assert_int_equal(entry_get(conn, slice_of(key), &e), 0);
	e.link = (struct link_id){7, 1};
	e.content_stamp.time = ++stamps;
	assert_int_equal(entry_put(conn, slice_of(key), &e), 0);
	assert_int_equal(project_entry(conn, slice_of(key), &e, false, NULL, NULL), 0);
	entry_done(&e);
	fixture_commit(conn);
}

/* Of two that become one, the one that was written since its seal stays, whoever has which open. */
static void joining_keeps_what_is_not_sealed(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 2; i++) {
		const char *const older = i ? "a" : "c", *const newer = i ? "b" : "d";
		uint64_t ino = show_local(f, older, i), written = show_local(f, newer, i);
		struct file *reader, *writer;
		struct conn *conn;
		char text[8] = {0};

		assert_int_equal(file_open(f->cache, ino, false, false, &reader), 0);
		assert_int_equal(file_open(f->cache, written, true, false, &writer), 0);
		assert_int_equal(file_write(writer, "later", 5, 0, false), 5);
		if (i)
			file_release(writer);
		give_link_id(f, older);
		give_link_id(f, newer);
		if (!i)
			file_release(writer);
		file_release(reader);
		conn = fixture_begin(f);
		assert_int_equal(ino_at(conn, older), written);
		assert_int_equal(ino_at(conn, newer), written);
		fixture_commit(conn);
		assert_int_equal(file_open(f->cache, written, false, false, &reader), 0);
		assert_int_equal(file_read(reader, text, 5, 0), 5);
		assert_string_equal(text, "later");
		file_release(reader);
	}
}

static void write_text(struct fixture *f, uint64_t ino, const char *text, struct file **ret)
{
	size_t n = strlen(text);

	assert_int_equal(file_open(f->cache, ino, true, true, ret), 0);
	assert_int_equal(file_write(*ret, text, n, 0, false), n);
}

static void assert_text(struct fixture *f, uint64_t ino, const char *text)
{
	char got[32] = {0};
	struct file *file;

	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	assert_int_equal(file_read(file, got, sizeof(got) - 1, 0), strlen(text));
	assert_string_equal(got, text);
	file_release(file);
}

/* Whether the files are open or closed: what is not sealed of either exists nowhere else. */
static void two_that_were_both_written_stay_two(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 4; i++) {
		const char a[] = {'a', (char)('0' + i), 0}, b[] = {'b', (char)('0' + i), 0};
		uint64_t first = show_local(f, a, 1), second = show_local(f, b, 1);
		struct file *one, *two;
		struct conn *conn;

		write_text(f, first, "mine", &one);
		write_text(f, second, "yours", &two);
		if (i & 1)
			file_release(one);
		if (i & 2)
			file_release(two);
		give_link_id(f, a);
		give_link_id(f, b);
		conn = fixture_begin(f);
		assert_int_equal(ino_at(conn, a), first);
		assert_int_equal(ino_at(conn, b), second);
		fixture_commit(conn);
		if (!(i & 1))
			file_release(one);
		if (!(i & 2))
			file_release(two);
		assert_text(f, first, "mine");
		assert_text(f, second, "yours");
		/* The next pair is another file. */
		assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of(a)), 0);
		assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of(b)), 0);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(joining_keeps_what_is_not_sealed),
		TEST(two_that_were_both_written_stay_two),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
