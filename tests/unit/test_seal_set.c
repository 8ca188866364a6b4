/* Keys that are sealed together: what is overtaken or has to wait for an upload, in which order they
 * enter the outbox, and files of which the set has several names. */
#include "engine_fixture.h"

#include <time.h>

#include "replicator/seal_internal.h"
#include "src/base/metrics.h"

/* A large file that changes faster than it uploads: each version that is sealed gets there first. */
static void hot_large_content_waits_for_its_upload(void **state)
{
	struct server *s = *state;
	static char a[5001], b[5001], c[5001];
	struct conn *conn;
	struct entry e = {0};
	bool did;

	memset(a, 'a', 5000);
	memset(b, 'b', 5000);
	memset(c, 'c', 5000);
	s->region_up = true;
	do_write(s, "db", a);
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	do_write(s, "db", b);
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_false(did);
	assert_int_equal(journal_rows(s), 1);
	/* It came: on with the next, from a snapshot that later writes do not touch. */
	assert_int_equal(cache_begin(s->cache, &conn), 0);
	assert_int_equal(entry_get(conn, slice_of("db"), &e), 0);
	assert_int_equal(outbox_finish(conn, s->region, slice_of("db"), entry_stamp(&e)), 0);
	entry_done(&e);
	assert_int_equal(cache_commit(conn), 0);
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_true(did);
	assert_int_equal(journal_rows(s), 0);
	do_write(s, "db", c);
	struct content_reader *reader = NULL;
	uint8_t hash[SHA256_SIZE];
	char first;
	sha256(b, 5000, hash);
	assert_int_equal(content_open(s->cache, ino_of(s, slice_of("db")), hash, &reader), 0);
	assert_int_equal(content_read(reader, &first, 1, 0), 1);
	assert_int_equal(first, 'b');
	content_close(reader);
	/* A region that is down is not waited for. */
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_int_equal(journal_rows(s), 1);
	s->region_up = false;
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_int_equal(journal_rows(s), 0);
}

static int64_t test_now_ms;

static int64_t test_monotonic(void *ctx)
{
	return test_now_ms;
}

static int64_t test_realtime(void *ctx)
{
	return test_now_ms * 1000000;
}

/* Nobody uploads anything here: the waits have to end, of two files of one directory, and also when
 * what was waited for first is not there any more. */
static void waits_for_uploads_end(void **state)
{
	static const struct clock_source source = {
		.realtime_ns = test_realtime, .monotonic_ms = test_monotonic};
	struct server *s = *state;
	static char large[5001];
	bool did;

	test_now_ms = clock_realtime_ms();
	clock_set_source(&source);
	s->region_up = true;
	memset(large, 'a', 5000);
	do_write(s, "one", large);
	do_write(s, "two", large);
	do_mkdir(s, "d");
	do_write(s, "d/gone", large);
	seal(s);
	memset(large, 'b', 5000);
	do_write(s, "d/gone", large);
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_false(did);
	assert_int_equal(sealer_seal_key(s->sealer, slice_of("d/gone")), 0); /* for a merge */
	assert_int_equal(journal_rows(s), 0);
	do_write(s, "one", large);
	do_write(s, "two", large);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(sealer_step(s->sealer, &did), 0);
		assert_false(did);
		test_now_ms += SEAL_PATIENCE_MS / 3;
	}
	for (unsigned i = 0; i < 3 && journal_rows(s); i++) {
		test_now_ms += 2000;
		assert_int_equal(sealer_step(s->sealer, &did), 0);
	}
	assert_int_equal(journal_rows(s), 0);
	clock_set_source(NULL);
}

/* The version is on its way for one name of a file and there for the other: still the wait ends. */
static void wait_for_one_of_two_names(void **state)
{
	static const struct clock_source source = {
		.realtime_ns = test_realtime, .monotonic_ms = test_monotonic};
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};
	static char large[5001];
	struct inode i;
	struct conn *conn;
	bool did;

	test_now_ms = clock_realtime_ms();
	clock_set_source(&source);
	s->region_up = true;
	memset(large, 'a', 5000);
	do_write(s, "one", large);
	assert_int_equal(
		tree_link(s->cache, ino_of(s, slice_of("one")), ROOT_INO, slice_of("two"), &i), 0);
	seal(s);
	get_entry(s, "two", &e);
	assert_int_equal(cache_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_finish(conn, s->region, slice_of("two"), entry_stamp(&e)), 0);
	assert_int_equal(cache_commit(conn), 0);
	memset(large, 'b', 5000);
	do_write(s, "one", large);
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_false(did);
	for (unsigned n = 0; n < 4 && journal_rows(s); n++) {
		test_now_ms += SEAL_PATIENCE_MS / 2;
		assert_int_equal(sealer_step(s->sealer, &did), 0);
	}
	assert_int_equal(journal_rows(s), 0);
	clock_set_source(NULL);
}

/* The test's other hand: between the batch's reading and its transaction. */
struct meddler {
	struct server *server;
	int times;
};

static bool meddle(void *ctx, unsigned region)
{
	struct meddler *m = ctx;

	if (m->times-- > 0) {
		do_write(m->server, "data", "2");
		do_write(m->server, "mark", "2");
	}
	return false;
}

/* A key that changes while its batch is prepared is not shown ahead of its neighbours. */
static void overtaken_keys_wait(void **state)
{
	struct server *s = *state;
	static char large[5001];
	struct meddler m = {.server = s, .times = 1};
	struct inline_cache *cache = inline_cache_new(1 << 16);
	const struct sealer_options o = {.inline_max = INLINE_MAX,
		.seal_after_ms = 5000,
		.region_up = meddle,
		.region_ctx = &m};
	struct sealer *sealer;
	bool did;

	/* The second version of a large file makes the sealer ask about its region: the hook. */
	memset(large, 'a', 5000);
	do_write(s, "hook", large);
	seal(s);
	do_write(s, "data", "1");
	memset(large, 'b', 5000);
	do_write(s, "hook", large);
	do_write(s, "mark", "1");
	assert_int_equal(sealer_new(s->cache, &o, cache, &sealer), 0);
	assert_int_equal(sealer_step(sealer, &did), 0);
	assert_int_equal(m.times, 0);
	assert_false(did);
	assert_int_equal(journal_rows(s), 5);
	assert_int_equal(sealer_step(sealer, &did), 0);
	assert_true(did);
	assert_int_equal(journal_rows(s), 0);
	sealer_free(sealer);
	inline_cache_free(cache);
}

/* Whether the first count rows may go without the next. */
static bool cut_closed(struct server *s, const struct outbox_row *rows, unsigned count)
{
	struct conn *conn;
	bool closed;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_cut_closed(conn, s->region, rows, count, &closed), 0);
	cache_read_end(conn);
	return closed;
}

/* a changes, then b, then a again: no cut may show a's last state without b, nor b without a's
 * first. */
static void interleaved_changes_span(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));

	do_write(s, "a", "1");
	do_write(s, "b", "1");
	do_write(s, "a", "2");
	do_write(s, "c", "1");
	seal(s);
	assert_int_equal(outbox_rows(s, OUTBOX_ANNOUNCE, rows), 3);
	assert_string_equal(rows[0].key.p, "a");
	assert_string_equal(rows[1].key.p, "b");
	assert_string_equal(rows[2].key.p, "c");
	assert_true(rows[0].first < rows[1].first && rows[1].last < rows[0].last);
	assert_true(rows[0].last < rows[2].first);
	assert_false(cut_closed(s, rows, 1));
	assert_true(cut_closed(s, rows, 2));
	free(rows);
}

/* The rows of b and c, which were written one after the other; they go together, or c may go later. */
static void check_pair(struct server *s, bool together)
{
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	unsigned count;

	seal(s);
	count = outbox_rows(s, OUTBOX_ANNOUNCE, rows);
	assert_in_range(count, 2, 4);
	assert_string_equal(rows[0].key.p, "b");
	assert_string_equal(rows[1].key.p, "c");
	assert_int_equal(rows[1].last < rows[0].last, together);
	assert_int_equal(cut_closed(s, rows, 1), !together);
	for (unsigned i = 2; i < count; i++)
		assert_true(rows[0].last < rows[i].first);
	outbox_empty(s);
	free(rows);
}

/* a is what it was, and stood otherwise while b and c were changed: no cut may show it with b alone. */
static void changes_to_and_fro_span(void **state)
{
	struct server *s = *state;

	do_mkdir(s, "e");
	do_write(s, "a", "1");
	do_write(s, "e/f", "1");
	seal(s);
	outbox_empty(s);
	do_rename(s, "a", "x");
	do_write(s, "b", "1");
	do_write(s, "c", "1");
	do_rename(s, "x", "a");
	do_write(s, "d", "1");
	check_pair(s, true);
	do_chmod(s, "a", 0600);
	do_write(s, "b", "2");
	do_write(s, "c", "2");
	do_chmod(s, "a", 0644);
	check_pair(s, true);
	/* A name that came and went, what lies elsewhere, and what was done before. */
	do_write(s, "x", "1");
	do_chmod(s, "e/f", 0600);
	do_write(s, "b", "3");
	do_chmod(s, "a", 0600);
	do_write(s, "c", "3");
	do_chmod(s, "e/f", 0644);
	do_chmod(s, "a", 0644);
	do_unlink(s, "x");
	check_pair(s, false);
}

/* The same where the set has room for neither: they go into one all the same. */
static void a_set_grows_where_it_would_be_torn(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	uint64_t cut = metric_get(METRIC_SETS_CUT), grown = metric_get(METRIC_SETS_GROWN);
	char path[16];

	server_cramp(s, 4, 64);
	do_write(s, "mark", "1");
	for (unsigned i = 0; i < 9; i++) {
		snprintf(path, sizeof(path), "f%u", i);
		do_write(s, path, "1");
	}
	do_write(s, "data", "2");
	do_write(s, "mark", "2");
	for (unsigned i = 0; i < 6; i++) {
		snprintf(path, sizeof(path), "g%u", i);
		do_write(s, path, "1");
	}
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	assert_int_equal(outbox_rows(s, OUTBOX_ANNOUNCE, rows), 18); /* the root's time, too */
	assert_string_equal(rows[0].key.p, "mark");
	assert_string_equal(rows[10].key.p, "data");
	for (unsigned i = 1; i < 17; i++)
		assert_int_equal(cut_closed(s, rows, i), i >= 11);
	/* What is not torn is cut, and the set is small again. */
	assert_true(metric_get(METRIC_SETS_CUT) - cut > 1);
	assert_in_range(metric_get(METRIC_SETS_GROWN) - grown, 1, 3);
	free(rows);
}

static void rename_is_one_cut(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));

	do_write(s, "old", "1");
	seal(s);
	outbox_empty(s);
	do_rename(s, "old", "new");
	seal(s);
	assert_int_equal(outbox_rows(s, OUTBOX_ANNOUNCE, rows), 2);
	assert_string_equal(rows[0].key.p, "new");
	assert_string_equal(rows[1].key.p, "old");
	assert_false(cut_closed(s, rows, 1));
	free(rows);
}

struct overwriter {
	struct file *file;
	const char *text;
};

static bool overwrite(void *ctx, unsigned region UNUSED)
{
	struct overwriter *o = ctx;
	size_t n = strlen(o->text);

	assert_int_equal(file_write(o->file, o->text, n, 0, false), n);
	return false;
}

static void seal_overwriting(struct server *s, struct file *file, const char *text)
{
	struct overwriter w = {file, text};
	struct inline_cache *cache = inline_cache_new(1 << 16);
	const struct sealer_options o = {.inline_max = INLINE_MAX,
		.seal_after_ms = 5000,
		.region_up = overwrite,
		.region_ctx = &w};
	struct sealer *sealer;
	bool did;

	assert_int_equal(sealer_new(s->cache, &o, cache, &sealer), 0);
	assert_int_equal(sealer_step(sealer, &did), 0);
	assert_true(did);
	sealer_free(sealer);
	inline_cache_free(cache);
}

static struct file *write_open(struct server *s, const char *path, const char *text)
{
	struct file *f;
	size_t n = strlen(text);

	assert_int_equal(file_open(s->cache, ino_of(s, slice_of(path)), true, true, &f), 0);
	assert_int_equal(file_write(f, text, n, 0, false), n);
	return f;
}

static void touch_as_sealed(struct server *s, const char *path)
{
	CLEANUP(entry_done) struct entry e = {0};

	get_entry(s, path, &e);
	do_touch(s, path, entry_mtime(&e));
}

/* Two names of a file got different contents and are sealed with the same one again, but both were
 * written on meanwhile: they stay two for that long. Then what is sealed without a change is one with
 * what has the same content. */
static void names_are_joined_when_one_is_sealed(void **state)
{
	struct server *s = *state, *other = s + 1;
	static char large[5001];
	struct file *f, *g;
	uint64_t ino;

	for (unsigned same = 0; same < 2; same++) {
		do_write(s, "f", "one");
		do_link(s, "f", "g");
		seal(s);
		carry_all(s, other);
		do_write(other, "f", "two");
		seal(other);
		carry(other, s, "g");
		ino = ino_of(s, slice_of("g"));
		assert_int_not_equal(ino_of(s, slice_of("f")), ino);
		/* The second version of a large file makes the sealer ask about its region: the hook. */
		memset(large, same ? 'c' : 'a', 5000);
		do_write(s, "hook", large);
		seal(s);
		memset(large, same ? 'd' : 'b', 5000);
		/* Not closed, and not due: no row of it is in the journal. */
		g = write_open(s, "g", same ? "two" : "three");
		f = write_open(s, "f", "two");
		assert_int_equal(file_flush(f), 0);
		do_write(s, "hook", large);
		seal_overwriting(s, f, same ? "two" : "four");
		assert_int_not_equal(ino_of(s, slice_of("f")), ino);
		file_release(g);
		assert_int_equal(ino_of(s, slice_of("g")), ino);
		file_release(f);
		touch_as_sealed(s, "f");
		touch_as_sealed(s, "g");
		seal(s);
		assert_int_equal(ino_of(s, slice_of("f")) == ino_of(s, slice_of("g")), same);
		assert_content(s, "f", same ? "two" : "four");
		assert_content(s, "g", same ? "two" : "three");
		assert_int_equal(inode_at(s, "f").nlink, 1 + same);
		do_unlink(s, "f");
		do_unlink(s, "g");
		seal(s);
		carry_all(s, other);
	}
}

/* Names of two files by turns, more than a set holds of each. What is written once makes at most a row
 * for each name more, and no name reads what the entries of all others say. */
static void files_of_many_names(void **state)
{
	enum { NAMES = 3000 };
	struct server *s = *state;
	CLEANUP(entry_done) struct entry first = {0};
	clock_t begin = clock();
	bool did = true;
	char path[32];

	do_write(s, "f", "hello");
	do_write(s, "g", "hello");
	for (unsigned i = 2; i < 2 * NAMES; i++) {
		snprintf(path, sizeof(path), "n%u", i);
		do_link(s, i % 2 ? "g" : "f", path);
	}
	while (did) {
		assert_int_equal(sealer_step(s->sealer, &did), 0);
		/* All of them wait anyway. */
		assert_in_range(journal_rows(s), 0, 2 * NAMES);
	}
	assert_int_equal(journal_rows(s), 0);
	do_write(s, "f", "something else");
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_in_range(journal_rows(s), 1, NAMES);
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	get_entry(s, "f", &first);
	assert_int_equal(first.size, 14);
	for (unsigned i = 2; i < 2 * NAMES; i += NAMES / 10) {
		CLEANUP(entry_done) struct entry e = {0};

		snprintf(path, sizeof(path), "n%u", i);
		get_entry(s, path, &e);
		assert_true(entry_content_equal(&first, &e));
		assert_true(link_id_equal(first.link, e.link));
		assert_int_equal(stamp_cmp(first.content_stamp, e.content_stamp), 0);
	}
	for (unsigned i = 2; i < 2 * NAMES; i++) {
		snprintf(path, sizeof(path), "n%u", i);
		if (i / 2 % 2)
			do_unlink(s, path);
	}
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	/* Of the processor's time; a second here, a hundred where each name reads all. */
	assert_true(clock() - begin < 30 * CLOCKS_PER_SEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(hot_large_content_waits_for_its_upload),
		TEST(waits_for_uploads_end),
		TEST(wait_for_one_of_two_names),
		TEST(overtaken_keys_wait),
		TEST(interleaved_changes_span),
		TEST(changes_to_and_fro_span),
		TEST(a_set_grows_where_it_would_be_torn),
		TEST(rename_is_one_cut),
		TEST(names_are_joined_when_one_is_sealed),
		TEST(files_of_many_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
