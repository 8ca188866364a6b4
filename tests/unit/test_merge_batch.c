/* Batches of remote records against a real cache: what is pending here comes first, a failure changes
 * nothing, and servers converge whatever the order. MERIDIAN_SEED repeats a random run; a failure prints
 * the seed. */
#include "engine_fixture.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdatomic.h>

#include "cache/conflict.h"
#include "cache/internal.h"
#include "src/base/random.h"
#include "src/base/thread.h"

static void simple_tree(void **state)
{
	struct server *s = *state;

	do_mkdir(&s[0], "d");
	do_write(&s[0], "d/f", "hello");
	do_write(&s[0], "empty", "");
	do_symlink(&s[0], "d/l", "f");
	do_chmod(&s[0], "d/f", 0751);
	assert_int_equal(sealer_seal_all(s[0].sealer, NULL, NULL), 0);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "d/f", "hello");
	assert_converged(&s[0], &s[1]);
	assert_int_equal(outbox(&s[1]).rows, 0);
	assert_int_equal(journal_rows(&s[1]), 0);
	/* Once more changes nothing. */
	carry_all(&s[0], &s[1]);
	assert_converged(&s[0], &s[1]);
	assert_int_equal(conflicts(&s[1]), 0);
	do_write(&s[0], "d/f", "longer than before");
	do_unlink(&s[0], "empty");
	do_rename(&s[0], "d/l", "l");
	assert_int_equal(sealer_seal_all(s[0].sealer, NULL, NULL), 0);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "d/f", "longer than before");
	assert_false(exists(&s[1], "empty"));
	assert_converged(&s[0], &s[1]);
	/* And back. */
	do_write(&s[1], "d/f", "from the other side");
	do_rename(&s[1], "d", "e");
	assert_int_equal(sealer_seal_all(s[1].sealer, NULL, NULL), 0);
	carry_all(&s[1], &s[0]);
	assert_content(&s[0], "e/f", "from the other side");
	assert_converged(&s[0], &s[1]);
	assert_int_equal(conflicts(&s[0]) + conflicts(&s[1]), 0);
}

static int fail_once(void *ctx, struct conn *conn)
{
	int *left = ctx;

	return (*left)-- > 0 ? -ENOSPC : 0;
}

static void failure_changes_nothing(void **state)
{
	struct server *s = *state;
	CLEANUP(buf_done) struct buf bytes = {0};
	struct merge_batch *b;
	struct record r;
	int left = 2;

	do_write(&s[0], "f", "hello");
	seal(&s[0]);
	make_record(&s[0], "f", &r, &bytes);
	assert_int_equal(merge_batch_new(s[1].cache, merger_options(&s[1]), &b), 0);
	assert_int_equal(merge_batch_add_record(b, &r), 0);
	assert_int_equal(merge_batch_commit(b, fail_once, &left), -ENOSPC);
	assert_false(exists(&s[1], "f"));
	assert_int_equal(merge_batch_commit(b, fail_once, &left), -ENOSPC);
	assert_int_equal(merge_batch_commit(b, fail_once, &left), 0);
	merge_batch_free(b);
	record_done(&r);
	assert_content(&s[1], "f", "hello");
}

/* What is pending here is sealed before a record of its key is merged. */
static void pending_is_sealed_first(void **state)
{
	struct server *s = *state;
	struct entry e;

	do_write(&s[0], "f", "from a");
	seal(&s[0]);
	usleep(2000); /* in one millisecond the greater node would be the later one */
	do_write(&s[1], "f", "from b, later");
	carry(&s[0], &s[1], "f");
	assert_content(&s[1], "f", "from b, later");
	assert_int_equal(conflicts(&s[1]), 1);
	get_entry(&s[1], "f", &e);
	assert_int_equal(e.content_stamp.node, cache_node(s[1].cache));
	entry_done(&e);
	assert_int_equal(outbox(&s[1]).unannounced, 1);
}

static void open_file_keeps_writing(void **state)
{
	struct server *s = *state;
	struct file *f;
	char p[32] = {0};

	do_write(&s[1], "f", "old");
	seal(&s[1]);
	carry(&s[1], &s[0], "f");
	assert_int_equal(file_open(s[1].cache, ino_of(&s[1], slice_of("f")), true, false, &f), 0);
	assert_int_equal(file_write(f, "mine", 4, 0, false), 4);
	do_write(&s[0], "f", "theirs");
	seal(&s[0]);
	carry(&s[0], &s[1], "f"); /* seals "mine" under a fresh stamp: it is the newer one */
	assert_content(&s[1], "f", "mine");
	do_write(&s[0], "f", "theirs again");
	seal(&s[0]);
	carry(&s[1], &s[0], "f");
	do_write(&s[0], "f", "theirs at last");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	assert_content(&s[1], "f", "theirs at last");
	assert_int_equal(file_read(f, p, sizeof(p), 0), 4);
	assert_string_equal(p, "mine");
	file_release(f);
}

/* A file whose hashing does not come to its end, and so holds back everything in its directory. */
static void begin_large(struct server *s)
{
	struct inode i = {.size = (uint64_t)512 << 20};

	do_write(s, "large", "");
	assert_int_equal(tree_setattr(s->cache, ino_of(s, slice_of("large")), SET_SIZE, &i, &i), 0);
	content_stop_hashing(s->cache, 0);
}

static void end_large(struct server *s)
{
	content_stop_hashing(s->cache, INT64_MAX);
	/* A slice of a second each. */
	for (unsigned i = 0; i < 60 && journal_rows(s); i++)
		seal(s);
	assert_int_equal(journal_rows(s), 0);
}

/* What cannot be sealed is merged as it was sealed last; a change of its attributes is not undone. */
static void attributes_of_what_cannot_be_sealed(void **state)
{
	struct server *s = *state;
	struct entry e;
	struct inode i;

	do_write(&s[0], "f", "one");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	begin_large(&s[1]);
	do_write(&s[1], "f", "mine");
	do_chmod(&s[1], "f", 0600);
	do_touch(&s[0], "f", -1000000007);
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	assert_int_equal(tree_getattr(s[1].cache, ino_of(&s[1], slice_of("f")), &i), 0);
	assert_int_equal(i.mode & 07777, 0600);
	get_entry(&s[1], "f", &e);
	assert_int_equal(e.size, 3);
	assert_int_equal(e.mode, 0600);
	assert_int_equal(e.attr_stamp.node, cache_node(s[1].cache));
	assert_true(e.mtime_ns == -1000000007);
	entry_done(&e);
	/* It is announced, and a version that takes the name has it, too. */
	carry(&s[1], &s[0], "f");
	assert_int_equal(tree_getattr(s[0].cache, ino_of(&s[0], slice_of("f")), &i), 0);
	assert_int_equal(i.mode & 07777, 0600);
	end_large(&s[1]);
	assert_content(&s[1], "f", "mine");
	carry(&s[1], &s[0], "f");
	assert_content(&s[0], "f", "mine");
	carry_all(&s[1], &s[0]);
	assert_converged(&s[0], &s[1]);
	assert_int_equal(conflicts(&s[0]) + conflicts(&s[1]), 0);
}

struct looked_for {
	struct slice key;
	uint8_t hash[SHA256_SIZE];
	bool found;
};

static int look_for(void *ctx, uint64_t id, struct slice key, const struct entry *loser, uint64_t ino,
	int64_t at_ms, const char *reason)
{
	struct looked_for *l = ctx;

	l->found |= slice_equal(key, l->key) && ino != 0 && memcmp(loser->hash, l->hash, SHA256_SIZE) == 0;
	return 0;
}

/* A conflict of path is of that content, and keeps an inode. */
static bool conflict_lists(struct server *s, const char *path, const char *content)
{
	struct looked_for l = {.key = slice_of(path)};
	struct conn *conn;

	sha256(content, strlen(content), l.hash);
	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(conflict_scan(conn, 0, 100, look_for, &l), 0);
	cache_read_end(conn);
	return l.found;
}

/* Nor is a new file lost, whose name another server took. */
static void new_file_that_cannot_be_sealed_is_kept(void **state)
{
	struct server *s = *state;
	uint64_t ino;
	struct inode i;

	begin_large(&s[1]);
	do_write(&s[1], "f", "mine");
	ino = ino_of(&s[1], slice_of("f"));
	do_write(&s[0], "f", "theirs");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	assert_content(&s[1], "f", "theirs");
	assert_int_equal(file_settle_displaced(s[1].cache), 0);
	assert_true(conflict_lists(&s[1], "f", "mine"));
	server_close(&s[1]);
	server_open(&s[1]);
	assert_int_equal(tree_getattr(s[1].cache, ino, &i), 0);
	assert_int_equal(i.size, 4);
	end_large(&s[1]);
	carry_all(&s[1], &s[0]);
	assert_converged(&s[0], &s[1]);
}

/* Whether the version that lost was sealed before or not, what is listed is what was written last. */
static void what_was_written_over_a_sealed_version_is_kept(void **state)
{
	struct server *s = *state;
	struct file *f;

	do_write(&s[0], "closed", "one");
	do_write(&s[0], "open", "one");
	assert_int_equal(sealer_seal_all(s[0].sealer, NULL, NULL), 0);
	carry_all(&s[0], &s[1]);
	begin_large(&s[1]);
	do_write(&s[1], "closed", "mine");
	assert_int_equal(file_open(s[1].cache, ino_of(&s[1], slice_of("open")), true, false, &f), 0);
	assert_int_equal(file_write(f, "mine", 4, 0, false), 4);
	do_write(&s[0], "closed", "theirs");
	do_write(&s[0], "open", "theirs");
	assert_int_equal(sealer_seal_all(s[0].sealer, NULL, NULL), 0);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "closed", "theirs");
	assert_content(&s[1], "open", "theirs");
	file_release(f); /* cannot read it now */
	content_stop_hashing(s[1].cache, INT64_MAX);
	assert_int_equal(file_settle_displaced(s[1].cache), 0);
	assert_true(conflict_lists(&s[1], "open", "mine"));
	assert_true(conflict_lists(&s[1], "closed", "mine"));
	assert_int_equal(conflicts(&s[1]), 2);
	assert_int_equal(file_settle_displaced(s[1].cache), 0);
	assert_int_equal(conflicts(&s[1]), 2);
	end_large(&s[1]);
	carry_all(&s[1], &s[0]);
	assert_converged(&s[0], &s[1]);
}

/* Both here and there the path was removed since; here it was made anew. */
static void what_a_removal_meets_unsealed_is_kept(void **state)
{
	struct server *s = *state;

	do_write(&s[0], "f", "one");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	do_unlink(&s[1], "f");
	seal(&s[1]);
	begin_large(&s[1]);
	do_write(&s[1], "f", "mine");
	hlc_observe(cache_clock(s[0].cache), cache_stamp(s[1].cache).time);
	do_unlink(&s[0], "f");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	assert_int_equal(file_settle_displaced(s[1].cache), 0);
	assert_true(exists(&s[1], "f") || conflict_lists(&s[1], "f", "mine"));
	end_large(&s[1]);
}

/* A symlink that gave way here to a file, and was touched there. */
static void what_took_the_place_of_a_symlink_is_kept(void **state)
{
	struct server *s = *state;

	do_symlink(&s[0], "f", "x");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	begin_large(&s[1]);
	do_unlink(&s[1], "f");
	do_write(&s[1], "f", "mine");
	do_touch(&s[0], "f", -1000000007);
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	assert_int_equal(file_settle_displaced(s[1].cache), 0);
	assert_true(conflict_lists(&s[1], "f", "mine"));
	end_large(&s[1]);
}

/* One conflict, of what was in the file. */
static void what_a_directory_takes_the_place_of_is_listed_once(void **state)
{
	struct server *s = *state;

	begin_large(&s[1]);
	do_write(&s[1], "d", "mine");
	do_mkdir(&s[0], "d");
	do_write(&s[0], "d/x", "theirs");
	assert_int_equal(sealer_seal_all(s[0].sealer, NULL, NULL), 0);
	carry(&s[0], &s[1], "d/x");
	assert_int_equal(file_settle_displaced(s[1].cache), 0);
	assert_true(conflict_lists(&s[1], "d", "mine"));
	assert_int_equal(conflicts(&s[1]), 1);
	end_large(&s[1]);
}

static struct file *late_file;
static const char *late_text;

static void write_late(sqlite3_context *ctx, int n, sqlite3_value **v)
{
	const char *text = late_text;
	size_t len = text ? strlen(text) : 0;

	late_text = NULL;
	if (text)
		CHECK(pwrite(file_fd(late_file), text, len, 0) == (ssize_t)len);
	sqlite3_result_int(ctx, 1);
}

/* Into the content file, as the kernel does, between the merge's look at what is not sealed and the change that takes
 * the name. */
static void write_within_merge(struct server *s, struct file *f, const char *text)
{
	struct conn *conn;

	late_file = f;
	late_text = text;
	assert_int_equal(cache_begin(s->cache, &conn), 0);
	assert_int_equal(sqlite3_create_function(conn->db, "write_late", 0, SQLITE_UTF8, NULL, write_late,
				 NULL, NULL),
		SQLITE_OK);
	assert_int_equal(sqlite3_exec(conn->db,
				 "CREATE TEMP TRIGGER late BEFORE UPDATE ON entry"
				 " BEGIN SELECT write_late(); END",
				 NULL, NULL, NULL),
		SQLITE_OK);
	assert_int_equal(cache_commit(conn), 0);
}

static void what_is_written_within_a_merge_is_listed(void **state)
{
	struct server *s = *state;
	struct file *f;

	do_write(&s[0], "f", "old");
	seal(&s[0]);
	carry(&s[0], &s[1], "f");
	do_write(&s[1], "f", "mine");
	seal(&s[1]);
	hlc_observe(cache_clock(s[0].cache), cache_stamp(s[1].cache).time); /* later, unseeing */
	do_write(&s[0], "f", "theirs");
	seal(&s[0]);
	assert_int_equal(file_open(s[1].cache, ino_of(&s[1], slice_of("f")), true, false, &f), 0);
	file_unseen(f, O_RDWR);
	write_within_merge(&s[1], f, "mine, too");
	carry(&s[0], &s[1], "f");
	assert_null(late_text);
	assert_content(&s[1], "f", "theirs");
	assert_int_equal(file_flush(f), 0);
	file_release(f);
	assert_true(conflict_lists(&s[1], "f", "mine, too"));
	assert_int_equal(conflicts(&s[1]), 2);
}

/* ---- random histories ---- */

static const char *const paths[] = {"a", "b", "d", "d/x", "d/y", "d/e", "d/e/z", "b/q"};

static enum kind kind_at(struct server *s, const char *path)
{
	struct inode i;

	if (tree_resolve(s->cache, slice_of(path), &i))
		return KIND_ABSENT;
	return S_ISDIR(i.mode) ? KIND_DIR : S_ISLNK(i.mode) ? KIND_SYMLINK : KIND_FILE;
}

static bool parent_is_dir(struct server *s, const char *path)
{
	struct slice parent = key_parent(slice_of(path));
	struct inode i;

	return !tree_resolve(s->cache, parent, &i) && S_ISDIR(i.mode);
}

static void random_operation(struct server *s)
{
	const char *path = paths[random_below(ARRAY_SIZE(paths))];
	const char *other = paths[random_below(ARRAY_SIZE(paths))];
	enum kind kind = kind_at(s, path);
	struct slice key = slice_of(path), to = slice_of(other);
	char content[40];

	if (!parent_is_dir(s, path))
		return;
	snprintf(content, sizeof(content), "%llx", (unsigned long long)random_u64());
	switch (random_below(8)) {
	case 0:
	case 1:
	case 2:
		if (kind == KIND_ABSENT || kind == KIND_FILE)
			do_write(s, path, content);
		break;
	case 3:
		if (kind == KIND_FILE || kind == KIND_SYMLINK)
			do_unlink(s, path);
		else if (kind == KIND_DIR)
			(void)!tree_rmdir(s->cache, ino_of(s, key_parent(key)), key_name(key));
		break;
	case 4:
		if (kind == KIND_ABSENT)
			do_mkdir(s, path);
		break;
	case 5:
		if (kind != KIND_ABSENT && kind != KIND_SYMLINK)
			do_chmod(s, path, 0700 | (uint32_t)random_below(0100));
		break;
	case 6:
		if (kind == KIND_ABSENT)
			do_symlink(s, path, content);
		else if (kind == KIND_FILE)
			do_touch(s, path, (int64_t)random_below(1u << 30));
		break;
	default:
		if (kind != KIND_ABSENT && parent_is_dir(s, other))
			(void)!tree_rename(s->cache, ino_of(s, key_parent(key)), key_name(key),
				ino_of(s, key_parent(to)), key_name(to), 0);
	}
}

/* A record of any age may arrive at any time: each sealed version is kept and carried in random
 * order, some twice. */
#define HISTORY 400
struct history {
	unsigned count;
	struct record records[HISTORY];
	struct buf bytes[HISTORY];
	unsigned from[HISTORY];
};

static void remember(struct history *h, struct server *s, unsigned from)
{
	struct key_list *l = all_keys(s);

	for (unsigned i = 0; i < l->count && h->count < HISTORY; i++) {
		struct entry e;

		get_entry(s, l->keys[i].p, &e);
		if (random_below(3) == 0 && entry_stamp(&e).node == cache_node(s->cache)) {
			make_record(s, l->keys[i].p, &h->records[h->count], &h->bytes[h->count]);
			h->from[h->count++] = from;
		}
		entry_done(&e);
	}
	free(l);
}

static uint64_t current_seed;

static void history(uint64_t seed)
{
	struct server s[2];
	struct history *h = calloc(1, sizeof(*h));

	random_seed_deterministic(seed);
	server_start(&s[0]);
	server_start(&s[1]);
	for (unsigned step = 0; step < 60; step++) {
		unsigned at = (unsigned)random_below(2);

		for (unsigned n = (unsigned)random_below(4); n; n--)
			random_operation(&s[at]);
		if (random_below(2)) {
			seal(&s[at]);
			remember(h, &s[at], at);
		}
		if (h->count && random_below(2)) {
			unsigned i = (unsigned)random_below(h->count);

			merge_one(&s[!h->from[i]], &h->records[i]);
		}
		if (random_below(12) == 0) {
			server_close(&s[at]);
			server_open(&s[at]);
		}
	}
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned at = 0; at < 2; at++) {
			assert_int_equal(sealer_seal_all(s[at].sealer, NULL, NULL), 0);
			assert_int_equal(journal_rows(&s[at]), 0);
			carry_all(&s[at], &s[!at]);
		}
	}
	assert_converged(&s[0], &s[1]);
	for (unsigned i = 0; i < h->count; i++) {
		record_done(&h->records[i]);
		buf_done(&h->bytes[i]);
	}
	free(h);
	server_end(&s[0]);
	server_end(&s[1]);
}

static void random_histories(void **state)
{
	const char *text = getenv("MERIDIAN_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 1;

	for (unsigned i = 0; i < (text ? 1 : 20); i++) {
		current_seed = seed + i;
		history(current_seed);
	}
}

/* ---- an application, the sealer and the merger at once ---- */

static atomic_bool stop;

/* cmocka's assertions belong to the main thread. A name may get another inode between the look and
 * the open. */
static struct file *open_again(struct server *s, const char *path, bool truncate)
{
	for (;;) {
		struct file *f;
		struct inode i;
		int r = tree_resolve(s->cache, slice_of(path), &i);

		if (r == -ENOENT)
			r = tree_create_open(s->cache, ROOT_INO, slice_of(path), S_IFREG | 0644, 0,
				0, true, &i, &f);
		else if (!r)
			r = file_open(s->cache, i.ino, true, truncate, &f);
		if (!r)
			return f;
		CHECK(r == -ENOENT || r == -EEXIST || r == -ESTALE);
	}
}

static void *write_on(void *arg)
{
	struct server *s = arg;
	struct file *f;

	for (unsigned i = 0; i < 150; i++) {
		char content[32];
		int n = snprintf(content, sizeof(content), "mine %u", i);

		f = open_again(s, i % 2 ? "shared" : "own", true);
		CHECK(file_write(f, content, (size_t)n, 0, false) == n);
		file_release(f);
	}
	/* A file that is never closed nor left alone. */
	f = open_again(s, "shared", false);
	for (unsigned i = 0; !atomic_load(&stop); i++)
		CHECK(file_write(f, &i, sizeof(i), 0, false) == sizeof(i));
	file_release(f);
	return NULL;
}

static void *seal_on(void *arg)
{
	struct server *s = arg;
	bool did;

	while (!atomic_load(&stop))
		CHECK(sealer_step(s->sealer, &did) == 0);
	return NULL;
}

static void at_once(void **state)
{
	struct server *s = *state;
	pthread_t writer, sealer;

	atomic_store(&stop, false);
	do_write(&s[0], "shared", "first");
	assert_int_equal(thread_start(&writer, "writer", write_on, &s[0]), 0);
	assert_int_equal(thread_start(&sealer, "sealer", seal_on, &s[0]), 0);
	for (unsigned i = 0; i < 100; i++) {
		char content[32];

		snprintf(content, sizeof(content), "theirs %u", i);
		do_write(&s[1], "shared", content);
		seal(&s[1]);
		carry(&s[1], &s[0], "shared");
	}
	atomic_store(&stop, true);
	pthread_join(writer, NULL);
	pthread_join(sealer, NULL);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned at = 0; at < 2; at++) {
			assert_int_equal(sealer_seal_all(s[at].sealer, NULL, NULL), 0);
			carry_all(&s[at], &s[!at]);
		}
	}
	assert_content(&s[1], "own", "mine 148");
	assert_converged(&s[0], &s[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(simple_tree),
		TEST(failure_changes_nothing),
		TEST(pending_is_sealed_first),
		TEST(open_file_keeps_writing),
		TEST(attributes_of_what_cannot_be_sealed),
		TEST(new_file_that_cannot_be_sealed_is_kept),
		TEST(what_was_written_over_a_sealed_version_is_kept),
		TEST(what_a_removal_meets_unsealed_is_kept),
		TEST(what_took_the_place_of_a_symlink_is_kept),
		TEST(what_a_directory_takes_the_place_of_is_listed_once),
		TEST(what_is_written_within_a_merge_is_listed),
		TEST(at_once),
		cmocka_unit_test(random_histories),
	};

	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	if (failed)
		fprintf(stderr, "MERIDIAN_SEED=%llu\n", (unsigned long long)current_seed);
	return failed;
}
