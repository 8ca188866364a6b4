/* A state that was copied becomes a new server; a power loss is told from a killed process. */
#include "tests/unit/cache_fixture.h"

#include "cache/progress.h"
#include "cache/region.h"
#include "cache/replication.h"

static void open_as(struct fixture *f, const char *host, const char *boot_id)
{
	const struct cache_options options = {.state_dir = f->dir,
		.sync_off = true,
		.no_lock = true,
		.host = host,
		.boot_id = boot_id};
	struct err err = {0};

	if (cache_open(&options, &f->cache, &err))
		fail_msg("cache_open: %s", err.text);
}

static void reopen_as(struct fixture *f, const char *host, const char *boot_id)
{
	cache_close(f->cache);
	open_as(f, host, boot_id);
}

static void a_copy_is_another_server(void **state)
{
	struct fixture *f = *state;
	const char *names[] = {"east"};
	struct region_progress p = {.sent_seq = 7, .sent_name = "s7", .pending_name = "s8"};
	char name[SEGMENT_NAME_SIZE] = "";
	struct err err = {0};
	struct conn *conn;
	uint64_t node, seq = 0;
	unsigned id;

	reopen_as(f, "one", NULL);
	node = cache_node(f->cache); /* the fixture made it on this machine */
	assert_int_equal(region_register(f->cache, names, 1, false, &id, &err), 0);
	conn = fixture_begin(f);
	assert_int_equal(region_progress_set(conn, id, &p), 0);
	fixture_commit(conn);
	reopen_as(f, "one", NULL);
	assert_int_equal(cache_node(f->cache), node);
	reopen_as(f, "two", NULL);
	assert_int_not_equal(cache_node(f->cache), node);
	/* Segments of the old number are another server's now, and known as far as they went. */
	conn = fixture_begin(f);
	assert_int_equal(watermark_get(conn, id, node, &seq, name), 0);
	assert_int_equal(seq, 7);
	assert_string_equal(name, "s7");
	assert_int_equal(region_progress_get(conn, id, &p), 0);
	assert_int_equal(p.sent_seq, 0);
	assert_string_equal(p.sent_name, "");
	assert_string_equal(p.pending_name, "");
	cache_rollback(conn);
	node = cache_node(f->cache);
	reopen_as(f, "two", NULL);
	assert_int_equal(cache_node(f->cache), node);
}

/* As cp or a restored backup makes it: the same machine, another file. */
static void a_copied_file_is_another_server(void **state)
{
	struct fixture *f = *state;
	uint64_t node = cache_node(f->cache);
	char command[256];

	cache_close(f->cache);
	snprintf(command, sizeof(command), "cd %s && cp meridian.db copy && mv copy meridian.db",
		f->dir);
	assert_int_equal(system(command), 0);
	fixture_open(f);
	assert_int_not_equal(cache_node(f->cache), node);
}

static uint64_t sealed_in_entry(struct fixture *f, const char *name, const char *text)
{
	uint64_t ino = make_file(f, ROOT_INO, name, text);
	struct content_version v = seal_now(f, ino);
	struct entry e = {.kind = KIND_FILE,
		.size = v.size,
		.mode = 0644,
		.content_stamp = cache_stamp(f->cache)};
	struct conn *conn = fixture_begin(f);

	e.attr_stamp = e.content_stamp;
	memcpy(e.hash, v.hash, SHA256_SIZE);
	assert_int_equal(entry_put(conn, slice_of(name), &e), 0);
	fixture_commit(conn);
	return ino;
}

static void cut(struct fixture *f, uint64_t ino, off_t size)
{
	int fd = content_file(f->cache, ino, O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

/* The zero-length file after a crash: written beside, renamed over, not flushed. */
static void a_replaced_file_that_was_not_flushed_comes_back(void **state)
{
	struct fixture *f = *state;
	uint64_t fresh, empty, ino;
	struct cache_usage u = {0};
	struct inode inode;

	reopen_as(f, NULL, "boot 1");
	sealed_in_entry(f, "f", "the old version");
	sealed_in_entry(f, "g", "the old version");
	fresh = make_file(f, ROOT_INO, "t", "the new version");
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("t"), ROOT_INO, slice_of("f"), 0), 0);
	empty = make_file(f, ROOT_INO, "t", "the new version");
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("t"), ROOT_INO, slice_of("g"), 0), 0);
	cut(f, fresh, 4);
	cut(f, empty, 0);
	/* A killed daemon does not do that: the file is as somebody left it. */
	cache_abandon(f->cache);
	open_as(f, NULL, "boot 1");
	assert_int_equal(lookup(f, ROOT_INO, "f"), fresh);
	assert_content(f, fresh, "the ");
	{
		struct conn *conn = fixture_begin(f);

		assert_int_equal(sqlite3_exec(conn->db, "UPDATE inode SET size = 15 WHERE dirty",
					 NULL, NULL, NULL),
			SQLITE_OK);
		fixture_commit(conn);
	}
	cache_abandon(f->cache);
	open_as(f, NULL, "boot 2");
	ino = lookup(f, ROOT_INO, "f");
	assert_int_not_equal(ino, fresh);
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_int_equal(inode.size, strlen("the old version"));
	assert_true(row_of(f, ino).state == STATE_REMOTE);
	assert_false(row_of(f, ino).dirty);
	/* What is left is kept, when it is anything. */
	assert_content(f, fresh, "the ");
	assert_int_equal(row_of(f, fresh).nlink, 0);
	assert_int_equal(conflicts(f), 1);
	assert_int_not_equal(lookup(f, ROOT_INO, "g"), empty);
	assert_false(has_row(f, empty) || has_content(f, empty));
	assert_int_equal(cache_usage(f->cache, &u), 0);
	assert_int_equal(u.cut_short, 2);
	sweep_all(f);
	assert_totals(f);
	/* Told of once. */
	cache_abandon(f->cache);
	open_as(f, NULL, "boot 3");
	assert_int_equal(conflicts(f), 1);
	assert_int_equal(cache_usage(f->cache, &u), 0);
	assert_int_equal(u.cut_short, 0);
}

/* Changed in place it is what a local disk would show, while that is more than was replicated. */
static void an_appended_file_keeps_what_is_there(void **state)
{
	struct fixture *f = *state;
	uint64_t more, less, only;
	struct file *file;

	reopen_as(f, NULL, "boot 1");
	more = sealed_in_entry(f, "more", "12345");
	less = sealed_in_entry(f, "less", "12345");
	only = make_file(f, ROOT_INO, "only", "never replicated");
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(file_open(f->cache, i ? more : less, true, false, &file), 0);
		assert_int_equal(file_write(file, "67890", 5, 5, false), 5);
		file_release(file);
	}
	cut(f, more, 8);
	cut(f, less, 3);
	cut(f, only, 5);
	cache_abandon(f->cache);
	open_as(f, NULL, "boot 2");
	assert_int_equal(lookup(f, ROOT_INO, "more"), more);
	assert_content(f, more, "12345678");
	assert_int_not_equal(lookup(f, ROOT_INO, "less"), less);
	assert_content(f, less, "123");
	assert_content(f, lookup(f, ROOT_INO, "only"), "never");
	assert_int_equal(conflicts(f), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_copy_is_another_server),
		TEST(a_copied_file_is_another_server),
		TEST(a_replaced_file_that_was_not_flushed_comes_back),
		TEST(an_appended_file_keeps_what_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
