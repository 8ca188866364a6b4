/* The journal: what is pending, waiting, the state of a key, the walk below a directory. */
#include "tests/unit/cache_fixture.h"

#include "src/base/thread.h"

static bool pending(struct fixture *f, const char *key)
{
	struct conn *conn = NULL;
	bool ret = false;

	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	assert_int_equal(journal_pending(conn, slice_of(key), &ret), 0);
	cache_read_end(conn);
	return ret;
}

static void rows_make_keys_pending(void **state)
{
	struct fixture *f = *state;
	uint64_t dir = make_dir(f, ROOT_INO, "d");
	struct file *file;

	assert_true(pending(f, "d"));
	assert_false(pending(f, "dd"));
	seal_now(f, make_file(f, dir, "f", "x"));
	journal_clear(f);
	assert_false(pending(f, "d/f"));
	assert_int_equal(file_open(f->cache, lookup(f, dir, "f"), true, false, &file), 0);
	assert_false(pending(f, "d/f"));
	assert_int_equal(file_write(file, "y", 1, 0, false), 1);
	assert_true(pending(f, "d/f"));
	file_release(file);
	journal_clear(f);
	assert_false(pending(f, "d/f"));
	assert_int_equal(tree_rename(f->cache, dir, slice_of("f"), ROOT_INO, slice_of("g"), 0), 0);
	assert_true(pending(f, "d/f"));
	assert_true(pending(f, "g"));
	journal_clear(f);
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("d"), ROOT_INO, slice_of("e"), 0), 0);
	assert_true(pending(f, "d/any/thing"));
	assert_true(pending(f, "e/f"));
	assert_true(pending(f, "e"));
	assert_false(pending(f, "ee"));
	assert_false(pending(f, "g"));
}

static void change(struct fixture *f, uint64_t ino, uint32_t mode)
{
	struct inode v = {.mode = mode}, got;

	assert_int_equal(tree_setattr(f->cache, ino, SET_MODE, &v, &got), 0);
}

/* In one group the row that stands last says it already; a commit or another key ends that. */
static void changes_of_one_key_share_a_row(void **state)
{
	struct fixture *f = *state;
	uint64_t a = make_dir(f, ROOT_INO, "a"), b = make_dir(f, ROOT_INO, "b");

	journal_clear(f);
	change(f, a, 0700);
	change(f, a, 0711);
	change(f, a, 0755);
	change(f, b, 0700);
	change(f, a, 0750);
	change(f, a, 0751);
	assert_string_equal(journal_text(f), "put a;put b;put a;"); /* and commits */
	change(f, a, 0752);
	change(f, a, 0753);
	assert_string_equal(journal_text(f), "put a;put b;put a;put a;");
	journal_clear(f);
	change(f, make_dir(f, ROOT_INO, "c"), 0700);
	assert_string_equal(journal_text(f), "put c;");
	/* A name that goes or comes is no change of attributes. */
	journal_clear(f);
	change(f, a, 0700);
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("b"), ROOT_INO, slice_of("e"), 0), 0);
	change(f, a, 0711);
	assert_string_equal(journal_text(f), "put a;rename-dir e b;put a;");
}

static void rows_are_read_counted_and_removed(void **state)
{
	struct fixture *f = *state;
	struct journal_row rows[2];
	struct journal_stats stats;
	struct conn *conn;
	unsigned count = 9;

	for (unsigned i = 0; i < 3; i++) {
		char name[2] = {(char)('a' + i), '\0'};

		make_dir(f, ROOT_INO, name);
	}
	conn = fixture_begin(f);
	assert_int_equal(journal_read(conn, 0, 2, rows, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(journal_remove(conn, rows[0].seq, rows[0].seq), 0);
	assert_int_equal(journal_stats(conn, &stats), 0);
	assert_int_equal(stats.rows, 2);
	assert_true(stats.oldest_ms == hlc_ms(rows[1].time));
	assert_int_equal(journal_read(conn, rows[1].seq, 2, rows, &count), 0);
	assert_int_equal(count, 1);
	assert_string_equal(rows[0].key.p, "c");
	fixture_commit(conn);
}

static int collect_key(void *ctx, struct slice key, bool below)
{
	char *text = ctx;

	if (slice_equal(key, slice_of("stop")))
		return -EINTR;
	snprintf(text + strlen(text), 64 - strlen(text), "%.*s%s,", (int)key.len, key.p,
		below ? "/" : "");
	return 0;
}

static void keys_that_came_later_are_told(void **state)
{
	struct fixture *f = *state;
	struct journal_row row;
	struct conn *conn;
	char text[64] = "";
	unsigned count = 0;

	make_dir(f, ROOT_INO, "a");
	make_dir(f, ROOT_INO, "b");
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("b"), ROOT_INO, slice_of("c"), 0), 0);
	conn = fixture_begin(f);
	assert_int_equal(journal_read(conn, 0, 1, &row, &count), 0);
	assert_int_equal(journal_keys_since(conn, row.seq, collect_key, text), 0);
	assert_string_equal(text, "b,c/,b/,");
	assert_int_equal(journal_append(conn, JOURNAL_PUT, slice_of("stop"), slice_of(""), 1), 0);
	assert_int_equal(journal_keys_since(conn, row.seq, collect_key, text), -EINTR);
	fixture_commit(conn);
}

static void *change_soon(void *arg)
{
	struct fixture *f = arg;
	struct inode inode;

	usleep(20000);
	return tree_create(f->cache, ROOT_INO, slice_of("d"), S_IFDIR | 0755, 0, 0, NULL, &inode)
		       ? f
		       : NULL;
}

static void waiting_ends_with_a_change(void **state)
{
	struct fixture *f = *state;
	uint64_t seen = 0, before;
	pthread_t thread;

	journal_wait(f->cache, &seen, 0);
	before = seen;
	journal_wait(f->cache, &seen, 1);
	assert_true(seen == before);
	assert_int_equal(thread_start(&thread, "change", change_soon, f), 0);
	journal_wait(f->cache, &seen, 60000);
	assert_true(seen > before);
	pthread_join(thread, NULL);
	before = seen;
	journal_kick(f->cache);
	journal_wait(f->cache, &seen, 60000);
	assert_true(seen > before);
}

static void the_state_of_a_key(void **state)
{
	struct fixture *f = *state;
	struct local_state s = {0};
	struct conn *conn = NULL;
	struct content_version v;

	make(f, ROOT_INO, "l", S_IFLNK | 0777);
	v = seal_now(f, make_file(f, make_dir(f, ROOT_INO, "d"), "f", "four"));
	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	assert_int_equal(journal_local_state(conn, slice_of("no/where"), &s), 0);
	assert_int_equal(s.kind, KIND_ABSENT);
	local_state_done(&s);
	assert_int_equal(journal_local_state(conn, slice_of("l"), &s), 0);
	assert_int_equal(s.kind, KIND_SYMLINK);
	assert_string_equal(s.target, "target");
	local_state_done(&s);
	assert_int_equal(journal_local_state(conn, slice_of("d/f"), &s), 0);
	assert_int_equal(s.kind, KIND_FILE);
	assert_int_equal(s.size, 4);
	assert_int_equal(s.mode, 0644);
	assert_false(s.dirty);
	assert_true(s.has_hash);
	assert_memory_equal(s.hash, v.hash, SHA256_SIZE);
	assert_true(s.mtime_ns == v.mtime_ns);
	local_state_done(&s);
	cache_read_end(conn);
}

struct walked {
	char text[512];
	struct key last;
	int stop;
};

static int visit(void *ctx, struct slice key)
{
	struct walked *w = ctx;

	strncat(w->text, key.p, key.len);
	strcat(w->text, " ");
	assert_true(key_set(&w->last, key));
	return w->stop;
}

static void walk(
	struct fixture *f, const char *root, const char *after, unsigned limit, struct walked *w)
{
	struct conn *conn = NULL;

	*w = (struct walked){0};
	assert_int_equal(cache_read_begin(f->cache, &conn), 0);
	assert_int_equal(journal_walk(conn, slice_of(root), slice_of(after), limit, visit, w), 0);
	cache_read_end(conn);
}

/* A number that has its place after before and before after. */
static unsigned name_between(const char *before, const char *after)
{
	for (unsigned i = 0;; i++) {
		char name[16];
		int64_t place;

		snprintf(name, sizeof(name), "%u", i);
		place = name_place(slice_of(name));
		if (place < name_place(slice_of(after)) &&
			(!*before || place > name_place(slice_of(before))))
			return i;
	}
}

static void walks_are_complete_however_they_are_cut(void **state)
{
	/* In the order of name_place. */
	static const char whole[] = "r/b r/c r/c/z r/a! r/a r/a/x r/a/x/1 r/a/y ";
	struct fixture *f = *state;
	uint64_t r = make_dir(f, ROOT_INO, "r"), a = make_dir(f, r, "a");
	struct walked w;
	char gone[32];

	make_dir(f, make_dir(f, a, "x"), "1");
	make_file(f, a, "y", "y");
	make_file(f, r, "a!", "y");
	make_file(f, r, "b", "y");
	make_dir(f, make_dir(f, r, "c"), "z");
	make_dir(f, ROOT_INO, "s");
	walk(f, "r", "", 100, &w);
	assert_string_equal(w.text, whole);
	for (unsigned limit = 1; limit < 9; limit++) {
		struct key after = {0};
		char text[512] = "";

		for (;;) {
			walk(f, "r", after.p, limit, &w);
			if (!w.text[0])
				break;
			strcat(text, w.text);
			after = w.last;
		}
		assert_string_equal(text, whole);
	}
	/* A place that is no more. */
	snprintf(gone, sizeof(gone), "r/a/x/%u/gone", name_between("", "1"));
	walk(f, "r", gone, 2, &w);
	assert_string_equal(w.text, "r/a/x/1 r/a/y ");
	snprintf(gone, sizeof(gone), "r/%u/gone", name_between("c", "a!"));
	walk(f, "r", gone, 2, &w);
	assert_string_equal(w.text, "r/a! r/a ");
	walk(f, "", "", 2, &w);
	assert_string_equal(w.text, "r r/b ");
	walk(f, "r/b", "", 9, &w);
	assert_string_equal(w.text, "");
	walk(f, "none", "", 9, &w);
	assert_string_equal(w.text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(rows_make_keys_pending),
		TEST(changes_of_one_key_share_a_row),
		TEST(rows_are_read_counted_and_removed),
		TEST(keys_that_came_later_are_told),
		TEST(waiting_ends_with_a_change),
		TEST(the_state_of_a_key),
		TEST(walks_are_complete_however_they_are_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
