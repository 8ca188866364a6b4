/* What a killed process leaves, and what the next open makes of it. */
#include "tests/unit/cache_fixture.h"

#include "cache/replication.h"

static void an_open_writer_is_journalled_again(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "one"), time;
	struct inode inode, set = {.mtime_ns = INT64_C(4000000000000000000)}; /* in 2096 */
	struct content_version v;
	struct file *file;

	seal_now(f, ino);
	journal_clear(f);
	time = cache_stamp(f->cache).time;
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "changed", 7, 0, false), 7);
	assert_int_equal(tree_setattr(f->cache, ino, SET_MTIME, &set, &inode), 0);
	journal_clear(f);
	fixture_crash(f);
	free(file); /* cache_abandon took the rest */
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_int_equal(inode.size, 7);
	assert_int_equal(row_of(f, ino).size, 7);
	assert_true(row_of(f, ino).mtime_ns == set.mtime_ns);
	v = seal_now(f, ino);
	assert_false(v.unchanged);
	assert_int_equal(v.size, 7);
	/* Later than everything before, and not stamped in 2096 for that. */
	assert_true(cache_stamp(f->cache).time > time);
	assert_true(hlc_ms(cache_stamp(f->cache).time) < 4000000000000);
}

static void an_unchanged_writer_makes_the_same_hash(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "one");
	struct content_version before = seal_now(f, ino), after;
	struct file *file;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	fixture_crash(f);
	free(file);
	after = seal_now(f, ino);
	assert_memory_equal(before.hash, after.hash, SHA256_SIZE);
	assert_false(row_of(f, ino).dirty);
}

static void a_created_file_is_there_with_what_was_written(void **state)
{
	struct fixture *f = *state;
	struct file *file = make_open(f, ROOT_INO, "f");

	assert_int_equal(file_write(file, "text", 4, 0, false), 4);
	assert_string_equal(journal_text(f), "");
	fixture_crash(f);
	free(file);
	assert_string_equal(journal_text(f), "put f;");
	assert_content(f, lookup(f, ROOT_INO, "f"), "text");
}

/* A power cut may take a content file away. What was not sealed of it was waited for. */
static void lost_content_of_a_linked_file_is_sealed(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "a", "one");
	char path[128], name[CONTENT_NAME_SIZE];
	struct inode inode;
	struct file *file;

	assert_int_equal(tree_link(f->cache, ino, ROOT_INO, slice_of("b"), &inode), 0);
	seal_now(f, ino);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "two", 3, 0, false), 3);
	journal_clear(f);
	content_name(ino, name);
	snprintf(path, sizeof(path), "%s/content/%s", f->dir, name);
	assert_int_equal(unlink(path), 0);
	fixture_crash(f);
	free(file);
	assert_int_equal(row_of(f, ino).state, STATE_REMOTE);
	assert_string_equal(journal_text(f), "put a;put b;");
}

static void orphans_and_strays_go(void **state)
{
	struct fixture *f = *state;
	uint64_t kept = make_file(f, ROOT_INO, "kept", "k"),
		 orphan = make_file(f, ROOT_INO, "o", "x");
	char foreign[128], path[128];
	struct content_writer w;
	struct stat st;
	struct file *file;
	int fd;

	assert_int_equal(tree_setxattr(f->cache, orphan, "user.a", "x", 1, 0), 0);
	assert_int_equal(file_open(f->cache, orphan, true, false, &file), 0);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("o")), 0);
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_append(&w, "half", 4), 0);
	content_finish(&w);
	snprintf(foreign, sizeof(foreign), "%s/content/%02x/README", f->dir,
		(unsigned)(kept >> 8 & 255));
	fd = open(foreign, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_true(has_row(f, orphan));
	fixture_crash(f);
	free(file);
	assert_false(has_row(f, orphan));
	assert_false(has_content(f, orphan));
	assert_true(has_content(f, w.ino)); /* that is left to the sweep */
	sweep_all(f);
	assert_false(has_content(f, w.ino));
	assert_true(has_content(f, kept));
	assert_content(f, kept, "k");
	snprintf(path, sizeof(path), "%s/snapshot", f->dir);
	assert_int_equal(stat(path, &st), -1);
	assert_int_equal(access(foreign, F_OK), 0); /* not a name of ours */
}

static void assert_conflict_at(struct fixture *f, uint64_t ino, const char *key)
{
	struct conn *conn = fixture_begin(f);
	sqlite3_stmt *s = conn_statement(conn, "SELECT key, loser FROM conflict WHERE ino = ?1"
					       " AND reason LIKE 'written after%'");
	struct entry loser = {0};

	assert_non_null(s);
	sqlite3_bind_int64(s, 1, (int64_t)ino);
	assert_int_equal(conn_row(conn, s), 1);
	assert_true(slice_equal(column_slice(s, 0), slice_of(key)));
	assert_int_equal(entry_decode(column_slice(s, 1), &loser), 0);
	sqlite3_reset(s);
	cache_rollback(conn);
	assert_int_equal(loser.kind, KIND_FILE);
	assert_int_equal(loser.size, row_of(f, ino).size);
	assert_memory_equal(loser.hash, row_of(f, ino).hash, SHA256_SIZE);
	entry_done(&loser);
}

/* What was acknowledged after a remote change had taken the name is kept. */
static void what_was_written_to_a_displaced_file_is_a_conflict(void **state)
{
	struct fixture *f = *state;
	uint64_t quiet = make_file(f, ROOT_INO, "quiet", "data");
	uint64_t loud = make_file(f, ROOT_INO, "loud", "data");
	uint64_t unlinked = make_file(f, ROOT_INO, "unlinked", "data");
	struct file *files[4];
	uint64_t empty;

	seal_now(f, quiet);
	seal_now(f, loud);
	seal_now(f, unlinked);
	assert_int_equal(file_open(f->cache, quiet, true, false, &files[0]), 0);
	assert_int_equal(file_open(f->cache, loud, true, false, &files[1]), 0);
	assert_int_equal(file_open(f->cache, unlinked, true, false, &files[2]), 0);
	files[3] = make_open(f, ROOT_INO, "empty");
	empty = file_ino(files[3]);
	displace(f, "quiet", quiet);
	displace(f, "loud", loud);
	displace(f, "empty", empty);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("unlinked")), 0);
	assert_true(make_file(f, ROOT_INO, "loud", "winner") != loud);
	assert_int_equal(file_write(files[1], "DA", 2, 0, false), 2);
	assert_int_equal(file_write(files[2], "DA", 2, 0, false), 2);
	fixture_crash(f);
	for (unsigned i = 0; i < 4; i++)
		free(files[i]);
	assert_int_equal(conflicts(f), 1);
	assert_content(f, loud, "DAta");
	assert_false(row_of(f, loud).dirty);
	assert_conflict_at(f, loud, "loud");
	assert_content(f, lookup(f, ROOT_INO, "loud"), "winner");
	assert_false(has_row(f, quiet) || has_content(f, quiet));
	assert_false(has_row(f, unlinked) || has_content(f, unlinked));
	assert_false(has_row(f, empty) || has_content(f, empty));
	fixture_crash(f);
	assert_int_equal(conflicts(f), 1);
	assert_content(f, loud, "DAta");
}

/* Its row tells of the content that was hidden, and goes when another content replaces that. */
static void what_was_written_to_a_hidden_file_is_a_conflict(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct slice key = slice_of("f");
	struct entry hidden = {.kind = KIND_FILE};
	struct conn *conn;
	struct file *file;

	seal_now(f, ino);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	conn = fixture_begin(f);
	assert_int_equal(inode_detach(conn, ROOT_INO, key, ino, true, &key), 0);
	assert_int_equal(conflict_add(conn, key, &hidden, &hidden, ino, CONFLICT_HIDDEN), 0);
	fixture_commit(conn);
	assert_int_equal(file_write(file, "DA", 2, 0, false), 2);
	fixture_crash(f);
	free(file);
	assert_int_equal(conflicts(f), 1);
	assert_conflict_at(f, ino, "f");
	assert_content(f, ino, "DAta");
}

/* It is an ordinary file again: written to, it is sealed. */
static void a_displaced_file_that_came_back_is_no_conflict(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "data");
	struct conn *conn;
	struct file *file;

	seal_now(f, ino);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	displace(f, "f", ino);
	conn = fixture_begin(f);
	assert_int_equal(inode_attach(conn, ino, ROOT_INO, slice_of("g")), 0);
	fixture_commit(conn);
	assert_int_equal(file_write(file, "DA", 2, 0, false), 2);
	journal_clear(f);
	fixture_crash(f);
	free(file);
	assert_int_equal(conflicts(f), 0);
	assert_string_equal(journal_text(f), "put g;");
	assert_content(f, lookup(f, ROOT_INO, "g"), "DAta");
}

static void snapshots_go_and_their_version_is_sealed_again(void **state)
{
	struct fixture *f = *state;
	static char big[1 << 20];
	struct content_version v;
	struct content_reader *r;
	struct file *file = make_open(f, ROOT_INO, "f");
	uint64_t ino = file_ino(file);
	char path[160];

	assert_int_equal(file_write(file, big, sizeof(big), 0, false), sizeof(big));
	v = seal_now(f, ino);
	journal_clear(f);
	snprintf(path, sizeof(path), "%s/snapshot/%016llx", f->dir, (unsigned long long)ino);
	assert_int_equal(access(path, F_OK), 0);
	fixture_crash(f);
	free(file);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), -EAGAIN);
	assert_string_equal(journal_text(f), "put f;");
	seal_now(f, ino);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), 0);
	content_close(r);
}

static void a_clean_stop_adds_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "one");

	assert_int_equal(tree_flush_times(f->cache, true), 0);
	journal_clear(f);
	assert_true(row_of(f, ino).dirty);
	fixture_reopen(f);
	assert_string_equal(journal_text(f), "");
	assert_true(row_of(f, ino).dirty);
	fixture_crash(f);
	assert_string_equal(journal_text(f), "put f;");
}

static void every_acknowledged_change_survives(void **state)
{
	struct fixture *f = *state;

	for (unsigned round = 0; round < 15; round++) {
		char name[32], moved[32];
		uint64_t dir;

		snprintf(name, sizeof(name), "d%u", round);
		snprintf(moved, sizeof(moved), "m%u", round);
		dir = make_dir(f, ROOT_INO, name);
		make_file(f, dir, "a", name);
		make_file(f, dir, "b", name);
		assert_int_equal(
			tree_rename(f->cache, dir, slice_of("a"), dir, slice_of("b"), 0), 0);
		assert_int_equal(tree_rename(f->cache, ROOT_INO, slice_of(name), ROOT_INO,
					 slice_of(moved), 0),
			0);
		fixture_crash(f);
		for (unsigned i = 0; i <= round; i++) {
			snprintf(name, sizeof(name), "d%u", i);
			snprintf(moved, sizeof(moved), "m%u", i);
			assert_int_equal(lookup_error(f, ROOT_INO, name), -ENOENT);
			dir = lookup(f, ROOT_INO, moved);
			assert_int_equal(lookup_error(f, dir, "a"), -ENOENT);
			assert_content(f, lookup(f, dir, "b"), name);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_open_writer_is_journalled_again),
		TEST(an_unchanged_writer_makes_the_same_hash),
		TEST(a_created_file_is_there_with_what_was_written),
		TEST(lost_content_of_a_linked_file_is_sealed),
		TEST(orphans_and_strays_go),
		TEST(what_was_written_to_a_displaced_file_is_a_conflict),
		TEST(what_was_written_to_a_hidden_file_is_a_conflict),
		TEST(a_displaced_file_that_came_back_is_no_conflict),
		TEST(snapshots_go_and_their_version_is_sealed_again),
		TEST(a_clean_stop_adds_nothing),
		TEST(every_acknowledged_change_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
