/* Sealing: which changes make which versions, in which order they enter the outbox, and that
 * nothing is lost or made twice. */
#include "engine_fixture.h"

#include <time.h>

#include "cache/internal.h"
#include "replicator/seal_internal.h"
#include "src/base/metrics.h"

static void new_file(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	CLEANUP(entry_done) struct entry e = {0};
	CLEANUP(buf_done) struct buf b = {0};

	do_mkdir(s, "d");
	do_write(s, "d/f", "hello");
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	get_entry(s, "d/f", &e);
	assert_int_equal(e.kind, KIND_FILE);
	assert_int_equal(e.size, 5);
	assert_int_equal(e.mode, 0644);
	assert_int_equal(e.uid, 1000);
	assert_int_equal(e.content_stamp.node, cache_node(s->cache));
	assert_int_equal(stamp_cmp(e.content_stamp, e.attr_stamp), 0);
	assert_int_equal(vector_get(&e.vector, cache_node(s->cache)), entry_stamp(&e).time);
	assert_true(inline_cache_get(s->inline_cache, e.hash, &b));
	assert_int_equal(b.len, 5);
	assert_int_equal(outbox_rows(s, OUTBOX_ANNOUNCE, rows), 2);
	assert_string_equal(rows[0].key.p, "d");
	assert_string_equal(rows[1].key.p, "d/f");
	assert_true(rows[1].fresh);
	assert_int_equal(stamp_cmp(rows[1].stamp, entry_stamp(&e)), 0);
	free(rows);
}

static struct stamp stamp_at(struct server *s, const char *path)
{
	CLEANUP(entry_done) struct entry e = {0};

	get_entry(s, path, &e);
	return entry_stamp(&e);
}

static void unchanged_makes_no_version(void **state)
{
	struct server *s = *state;
	struct stamp before;
	struct file *f;

	do_write(s, "f", "hello");
	seal(s);
	before = stamp_at(s, "f");
	assert_int_equal(file_open(s->cache, ino_of(s, slice_of("f")), true, false, &f), 0);
	file_release(f);
	do_chmod(s, "f", 0644);
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	assert_int_equal(stamp_cmp(before, stamp_at(s, "f")), 0);
}

static void temporary_name_leaves_no_trace(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	CLEANUP(entry_done) struct entry e = {0};

	do_write(s, "target", "old");
	seal(s);
	do_write(s, "target.tmp", "new");
	do_rename(s, "target.tmp", "target");
	do_write(s, "gone", "x");
	do_unlink(s, "gone");
	seal(s);
	get_entry(s, "target.tmp", &e);
	assert_int_equal(e.content_stamp.time, 0);
	get_entry(s, "gone", &e);
	assert_int_equal(e.content_stamp.time, 0);
	get_entry(s, "target", &e);
	assert_int_equal(e.size, 3);
	assert_int_equal(journal_rows(s), 0);
	assert_int_equal(outbox_rows(s, OUTBOX_ANNOUNCE, rows), 1);
	assert_string_equal(rows[0].key.p, "target");
	free(rows);
}

static void registers(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry a = {0}, b = {0}, c = {0}, d = {0};

	do_write(s, "f", "hello");
	seal(s);
	get_entry(s, "f", &a);
	do_chmod(s, "f", 0600);
	seal(s);
	get_entry(s, "f", &b);
	assert_int_equal(stamp_cmp(a.content_stamp, b.content_stamp), 0);
	assert_true(stamp_cmp(b.attr_stamp, a.attr_stamp) > 0);
	assert_int_equal(b.mode, 0600);
	assert_int_equal(b.mtime_stamp.time, 0);
	do_touch(s, "f", 123456789);
	seal(s);
	get_entry(s, "f", &c);
	assert_int_equal(stamp_cmp(b.content_stamp, c.content_stamp), 0);
	assert_int_equal(stamp_cmp(b.attr_stamp, c.attr_stamp), 0);
	assert_int_equal(c.mtime_ns, 123456789);
	assert_int_equal(entry_mtime(&c), 123456789);
	do_write(s, "f", "other");
	seal(s);
	get_entry(s, "f", &d);
	assert_true(stamp_cmp(d.content_stamp, c.mtime_stamp) > 0);
	assert_int_equal(entry_mtime(&d), d.content_mtime_ns);
	assert_int_equal(stamp_cmp(d.attr_stamp, c.attr_stamp), 0);
}

static void tombstones(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry a = {0}, b = {0};
	struct stamp first;

	do_write(s, "f", "hello");
	do_symlink(s, "l", "f");
	seal(s);
	get_entry(s, "f", &a);
	first = a.attr_stamp;
	entry_done(&a);
	do_unlink(s, "f");
	do_unlink(s, "l");
	seal(s);
	get_entry(s, "f", &a);
	assert_int_equal(a.kind, KIND_ABSENT);
	assert_int_equal(stamp_cmp(a.attr_stamp, first), 0);
	/* A new life has attributes of its own. */
	do_write(s, "f", "hello");
	seal(s);
	get_entry(s, "f", &b);
	assert_int_equal(b.kind, KIND_FILE);
	assert_true(stamp_cmp(b.attr_stamp, a.content_stamp) > 0);
}

static void large_content_is_uploaded(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	char big[INLINE_MAX + 2];

	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	do_write(s, "big", big);
	big[INLINE_MAX] = '\0';
	do_write(s, "small", big);
	seal(s);
	assert_int_equal(outbox_rows(s, OUTBOX_UPLOAD, rows), 1);
	assert_string_equal(rows[0].key.p, "big");
	assert_int_equal(rows[0].size, INLINE_MAX + 1);
	assert_int_equal(outbox_rows(s, OUTBOX_ANNOUNCE, rows), 1);
	assert_string_equal(rows[0].key.p, "small");
	free(rows);
}

/* a changes, then b, then a again: no cut may show a's last state without b, nor b without a's
 * first. */
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

/* A directory that took the place of a file waits for its turn: so does what is in it, else it would
 * look like a directory that was made elsewhere over a file, and the file would come back. */
static void below_a_key_that_waits(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};
	static char large[5001];
	bool did;

	s->region_up = true;
	memset(large, 'a', 5000);
	do_write(s, "db", large);
	do_write(s, "place", "a file");
	seal(s);
	do_unlink(s, "place");
	do_mkdir(s, "place");
	do_write(s, "place/x", "x");
	memset(large, 'b', 5000);
	do_write(s, "db", large); /* waits for its upload, and with it what is beside it */
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_false(did);
	s->region_up = false;
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_int_equal(journal_rows(s), 0);
	get_entry(s, "place", &e);
	assert_int_equal(e.kind, KIND_DIR);
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

static void interleaved_changes_span(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	struct conn *conn;
	bool closed = true;

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
	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_cut_closed(conn, s->region, rows, 1, &closed), 0);
	assert_false(closed);
	assert_int_equal(outbox_cut_closed(conn, s->region, rows, 2, &closed), 0);
	assert_true(closed);
	cache_read_end(conn);
	free(rows);
}

static void rename_is_one_cut(void **state)
{
	struct server *s = *state;
	struct outbox_row *rows = calloc(64, sizeof(*rows));
	struct conn *conn;
	bool closed = true;

	do_write(s, "old", "1");
	seal(s);
	outbox_empty(s);
	do_rename(s, "old", "new");
	seal(s);
	assert_int_equal(outbox_rows(s, OUTBOX_ANNOUNCE, rows), 2);
	assert_string_equal(rows[0].key.p, "new");
	assert_string_equal(rows[1].key.p, "old");
	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(outbox_cut_closed(conn, s->region, rows, 1, &closed), 0);
	assert_false(closed);
	cache_read_end(conn);
	free(rows);
}

static void stamps_exceed_what_was_seen(void **state)
{
	struct server *s = *state;
	struct entry e;
	struct stamp remote;
	struct conn *conn;

	do_write(s, "f", "1");
	seal(s);
	do_write(s, "f", "2"); /* its row has this time */
	get_entry(s, "f", &e);
	remote = (struct stamp){hlc_now(cache_clock(s->cache)) + 1000, 77};
	hlc_observe(cache_clock(s->cache), remote.time);
	vector_raise(&e.vector, remote);
	assert_int_equal(cache_begin(s->cache, &conn), 0);
	assert_int_equal(entry_put(conn, slice_of("f"), &e), 0);
	assert_int_equal(cache_commit(conn), 0);
	entry_done(&e);
	seal(s);
	get_entry(s, "f", &e);
	assert_true(e.content_stamp.time > remote.time);
	assert_int_equal(e.content_stamp.node, cache_node(s->cache));
	assert_int_equal(vector_get(&e.vector, 77), remote.time);
	entry_done(&e);
}

static void make_tree(struct server *s, unsigned files)
{
	char path[64];

	do_mkdir(s, "old");
	do_mkdir(s, "old/sub");
	do_symlink(s, "old/link", "sub");
	for (unsigned i = 0; i < files; i++) {
		snprintf(path, sizeof(path), i % 2 ? "old/f%03u" : "old/sub/f%03u", i);
		do_write(s, path, path);
	}
}

static void check_tree(struct server *s, unsigned files)
{
	CLEANUP(entry_done) struct entry e = {0};
	char path[64];

	for (unsigned i = 0; i < files; i++) {
		snprintf(path, sizeof(path), i % 2 ? "old/f%03u" : "old/sub/f%03u", i);
		get_entry(s, path, &e);
		assert_int_equal(e.kind, KIND_ABSENT);
		assert_true(e.content_stamp.time != 0);
		snprintf(path, sizeof(path), i % 2 ? "new/f%03u" : "new/sub/f%03u", i);
		get_entry(s, path, &e);
		assert_int_equal(e.kind, KIND_FILE);
	}
	get_entry(s, "new/link", &e);
	assert_int_equal(e.kind, KIND_SYMLINK);
	entry_done(&e);
	get_entry(s, "old/sub", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	get_entry(s, "new/sub", &e);
	assert_int_equal(e.kind, KIND_DIR);
	get_entry(s, "old", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	assert_int_equal(journal_rows(s), 0);
}

static void directory_rename(void **state)
{
	struct server *s = *state;

	make_tree(s, 30);
	seal(s);
	do_write(s, "old/f001", "changed before");
	do_rename(s, "old", "new");
	do_write(s, "new/f003", "changed after");
	seal(s);
	check_tree(s, 30);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "new/f001", "changed before");
	assert_content(&s[1], "new/f003", "changed after");
	assert_content(&s[1], "new/f005", "old/f005");
	assert_false(exists(&s[1], "old"));
	assert_converged(&s[0], &s[1]);
}

static int end_at(void *ctx)
{
	unsigned *left = ctx;

	return --*left ? 0 : -ETIMEDOUT;
}

/* Whoever waits may have enough of it between two batches; another call does the rest. */
static void a_long_rename_is_left_and_gone_on_with(void **state)
{
	struct server *s = *state;
	unsigned left = 2;

	make_tree(s, 1200);
	seal(s);
	do_rename(s, "old", "new");
	assert_int_equal(sealer_seal_all(s->sealer, end_at, &left), -ETIMEDOUT);
	assert_int_equal(left, 0);
	assert_true(journal_rows(s) > 0);
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	check_tree(s, 1200);
}

static bool is_sealed(struct server *s, const char *key)
{
	struct entry e = {0};
	struct conn *conn;
	bool live;

	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	live = entry_get(conn, slice_of(key), &e) == 0 && entry_live(&e);
	cache_read_end(conn);
	entry_done(&e);
	return live;
}

/* It takes many steps, and each of them seals what waits behind it, too, but for what lies in the renamed
 * directory, and further renames. */
static void others_go_on_during_a_long_rename(void **state)
{
	struct server *s = *state;
	struct seal_progress *p = calloc(1, sizeof(*p));
	unsigned steps = 0, rounds = 0;
	char key[32];
	bool did;

	assert_non_null(p);
	make_tree(s, 5000);
	do_mkdir(s, "small");
	do_write(s, "small/file", "small");
	seal(s);
	do_rename(s, "old", "new");
	do_write(s, "new/f001", "changed after");
	do_rename(s, "small", "smaller");
	do_write(s, "other", "0");
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_true(did);
	assert_true(is_sealed(s, "other"));
	assert_true(is_sealed(s, "old/f001"));
	assert_true(is_sealed(s, "small/file"));
	/* What `meridian status` shows of it. */
	assert_true(sealer_progress(s->sealer, p));
	assert_string_equal(p->from.p, "old");
	assert_string_equal(p->to.p, "new");
	assert_in_range(p->done, 1, p->total - 1);
	assert_in_range(p->total, 10000, 10100); /* each goes and comes */
	for (did = true; did; steps++) {
		bool renaming = is_sealed(s, "old/f001");

		snprintf(key, sizeof(key), "other%u", steps);
		if (renaming)
			do_write(s, key, "more");
		assert_int_equal(sealer_step(s->sealer, &did), 0);
		rounds += renaming;
		assert_true(!renaming || is_sealed(s, key));
		assert_true(!is_sealed(s, "smaller/file") || !is_sealed(s, "old/f001"));
	}
	assert_true(rounds >= 3);
	assert_false(sealer_progress(s->sealer, p));
	free(p);
	assert_true(is_sealed(s, "smaller/file"));
	assert_false(is_sealed(s, "small/file"));
	check_tree(s, 5000);
	carry_all(&s[0], &s[1]);
	assert_content(&s[1], "new/f001", "changed after");
	assert_converged(&s[0], &s[1]);
}

/* The name is in use again before anything was sealed. */
static void directory_rename_and_new_one(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};

	make_tree(s, 6);
	seal(s);
	do_rename(s, "old", "new");
	do_mkdir(s, "old");
	do_write(s, "old/f001", "another");
	do_rename(s, "new", "newer");
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	get_entry(s, "old/f001", &e);
	assert_int_equal(e.size, 7);
	get_entry(s, "old/f003", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	get_entry(s, "new/f001", &e);
	assert_int_equal(e.kind, KIND_ABSENT);
	carry_all(&s[0], &s[1]);
	assert_converged(&s[0], &s[1]);
	assert_content(&s[1], "newer/f003", "old/f003");
	assert_content(&s[1], "old/f001", "another");
}

static void one_key(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};
	struct file *f;
	uint64_t made;

	do_write(s, "a", "1");
	do_write(s, "b", "1");
	assert_int_equal(sealer_seal_key(s->sealer, slice_of("b")), 0);
	get_entry(s, "b", &e);
	assert_int_equal(e.kind, KIND_FILE);
	/* An open file without a row. */
	assert_int_equal(file_open(s->cache, ino_of(s, slice_of("a")), true, false, &f), 0);
	assert_int_equal(file_write(f, "22", 2, 0, false), 2);
	assert_int_equal(sealer_seal_key(s->sealer, slice_of("a")), 0);
	get_entry(s, "a", &e);
	assert_int_equal(e.size, 2);
	made = e.content_stamp.time;
	assert_int_equal(file_write(f, "333", 3, 0, false), 3);
	file_release(f);
	seal(s);
	get_entry(s, "a", &e);
	assert_int_equal(e.size, 3);
	assert_true(e.content_stamp.time > made);
	/* Below a renamed directory. */
	make_tree(s, 4);
	seal(s);
	do_rename(s, "old", "new");
	assert_int_equal(sealer_seal_key(s->sealer, slice_of("new/f001")), 0);
	check_tree(s, 4);
	assert_int_equal(sealer_seal_key(s->sealer, slice_of("never/was")), 0);
}

static void all_of_it(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0}, d = {0};
	struct file *f;
	struct inode i;
	bool did;

	do_mkdir(s, "d");
	seal(s);
	assert_int_equal(tree_create_open(s->cache, ino_of(s, slice_of("d")), slice_of("open"),
				 S_IFREG | 0600, 0, 0, true, &i, &f),
		0);
	assert_int_equal(file_write(f, "x", 1, 0, false), 1);
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	assert_int_equal(journal_rows(s), 0);
	get_entry(s, "d/open", &e);
	assert_int_equal(e.size, 1);
	get_entry(s, "d", &d);
	assert_int_equal(tree_getattr(s->cache, ino_of(s, slice_of("d")), &i), 0);
	assert_int_equal(entry_mtime(&d), i.mtime_ns);
	file_release(f);
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_false(did);
}

/* Whose hashing takes many slices, too. */
static void all_of_what_is_large(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};
	struct file *f;
	struct inode i;

	do_mkdir(s, "d");
	seal(s);
	assert_int_equal(tree_create_open(s->cache, ino_of(s, slice_of("d")), slice_of("large"),
				 S_IFREG | 0600, 0, 0, true, &i, &f),
		0);
	assert_int_equal(file_write(f, "x", 1, 100 << 20, false), 1);
	file_release(f);
	do_write(s, "d/small", "small");
	s->cache->hash_slice_ms = 0;
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	assert_int_equal(journal_rows(s), 0);
	get_entry(s, "d/large", &e);
	assert_int_equal(e.size, (100 << 20) + 1);
}

/* More rows than one batch, in many directories. */
static void many(void **state)
{
	struct server *s = *state;
	uint64_t before = metric_get(METRIC_RECORDS_SEALED), live, tombstones_left;
	struct conn *conn;
	char path[64];

	for (unsigned i = 0; i < 30; i++) {
		snprintf(path, sizeof(path), "d%u", i);
		do_mkdir(s, path);
		for (unsigned k = 0; k < 100; k++) {
			snprintf(path, sizeof(path), "d%u/f%u", i, k);
			do_write(s, path, "");
		}
	}
	seal(s);
	assert_int_equal(journal_rows(s), 0);
	assert_int_equal(cache_read_begin(s->cache, &conn), 0);
	assert_int_equal(entry_count(conn, &live, &tombstones_left), 0);
	cache_read_end(conn);
	/* On a slow machine the directories' times are due before the end, the root's too. */
	assert_in_range(live, 3030, 3031);
	assert_true(metric_get(METRIC_RECORDS_SEALED) - before >= 3030);
}

static void link_names(struct server *s, const char *from, const char *to)
{
	struct inode i;

	assert_int_equal(
		tree_link(s->cache, ino_of(s, slice_of(from)), ROOT_INO, slice_of(to), &i), 0);
}

static struct inode attributes(struct server *s, const char *path)
{
	struct inode i = {0};

	assert_int_equal(tree_getattr(s->cache, ino_of(s, slice_of(path)), &i), 0);
	return i;
}

/* What was changed through one name stays when that name goes, here and elsewhere. */
static void attributes_outlive_the_name(void **state)
{
	struct server *s = *state, *other = s + 1;
	CLEANUP(entry_done) struct entry f = {0}, g = {0};

	do_symlink(s, "f", "target");
	link_names(s, "f", "g");
	seal(s);
	do_touch(s, "f", -1000000007);
	seal(s);
	do_chmod(s, "g", 0600);
	seal(s);
	get_entry(s, "f", &f);
	get_entry(s, "g", &g);
	assert_int_equal(stamp_cmp(f.attr_stamp, g.attr_stamp), 0);
	assert_int_equal(stamp_cmp(f.mtime_stamp, g.mtime_stamp), 0);
	carry_all(s, other);
	do_unlink(s, "f");
	seal(s);
	carry_all(s, other);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(attributes(s + i, "g").mode & 07777, 0600);
		assert_int_equal(attributes(s + i, "g").mtime_ns, -1000000007);
	}
}

struct toucher {
	struct server *server;
	int64_t mtime_ns;
	unsigned mode;
};

static bool touch_names(void *ctx, unsigned region UNUSED)
{
	struct toucher *t = ctx;

	do_touch(t->server, "f", --t->mtime_ns);
	t->mode = 0600 + (unsigned)(-t->mtime_ns % 64);
	do_chmod(t->server, "f", t->mode);
	return false;
}

/* In a backlog a version is sealed that was overtaken. A time or mode that was set since it was taken stays,
 * on a file of several names, too. */
static void what_overtakes_a_seal_stays(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};
	static char large[5001];
	struct toucher t = {.server = s, .mtime_ns = -1000000007};
	struct inline_cache *cache = inline_cache_new(1 << 16);
	const struct sealer_options o = {.inline_max = INLINE_MAX,
		.seal_after_ms = 5000,
		.region_up = touch_names,
		.region_ctx = &t};
	struct sealer *sealer;
	bool did;

	/* The second version of a large file makes the sealer ask about its region: the hook. */
	memset(large, 'a', 5000);
	do_write(s, "hook", large);
	do_write(s, "f", "one");
	link_names(s, "f", "g");
	seal(s);
	do_write(s, "f", "two");
	memset(large, 'b', 5000);
	do_write(s, "hook", large);
	for (unsigned i = 0; i < 1000; i++)
		do_chmod(s, "f", 0644);
	assert_int_equal(sealer_new(s->cache, &o, cache, &sealer), 0);
	assert_int_equal(sealer_step(sealer, &did), 0);
	assert_true(did);
	assert_int_equal(t.mtime_ns, -1000000008);
	get_entry(s, "f", &e);
	assert_int_equal(e.content_stamp.time, entry_stamp(&e).time);
	assert_true(entry_mtime(&e) > 0);
	assert_int_equal(attributes(s, "g").mtime_ns, t.mtime_ns);
	assert_int_equal(attributes(s, "g").mode & 07777, t.mode);
	sealer_free(sealer);
	inline_cache_free(cache);
	seal(s);
	entry_done(&e);
	get_entry(s, "g", &e);
	assert_int_equal(entry_mtime(&e), t.mtime_ns);
	assert_int_equal(e.mode, t.mode);
	assert_int_equal(attributes(s, "f").mtime_ns, t.mtime_ns);
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
		link_names(s, "f", "g");
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
		assert_int_equal(attributes(s, "f").nlink, 1 + same);
		do_unlink(s, "f");
		do_unlink(s, "g");
		seal(s);
		carry_all(s, other);
	}
}

/* A name that another server gave the file says what its attributes were there: what was changed here and
 * is not sealed stays. */
static void a_new_name_leaves_what_waits(void **state)
{
	struct server *s = *state, *other = s + 1;

	do_write(s, "f", "one");
	link_names(s, "f", "g");
	seal(s);
	carry_all(s, other);
	link_names(other, "f", "h");
	seal(other);
	do_chmod(s, "f", 0600);
	do_touch(s, "f", -1000000007);
	carry(other, s, "h");
	assert_int_equal(attributes(s, "h").nlink, 3);
	assert_int_equal(attributes(s, "h").mode & 07777, 0600);
	assert_int_equal(attributes(s, "h").mtime_ns, -1000000007);
	seal(s);
	carry_all(s, other);
	seal(other);
	carry_all(other, s);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(attributes(s + i, "h").nlink, 3);
		assert_int_equal(attributes(s + i, "h").mode & 07777, 0600);
		assert_int_equal(attributes(s + i, "h").mtime_ns, -1000000007);
	}
}

/* The name of another file that one of several is moved over shows nothing of that file. */
static void a_replaced_file_leaves_no_attributes(void **state)
{
	struct server *s = *state;

	do_write(s, "f", "one");
	link_names(s, "f", "g");
	do_write(s, "x", "two");
	seal(s);
	do_chmod(s, "x", 0600);
	seal(s);
	do_chmod(s, "f", 0640);
	do_rename(s, "g", "x");
	seal(s);
	do_unlink(s, "f");
	seal(s);
	assert_int_equal(attributes(s, "x").mode & 07777, 0640);
}

/* ---- the rule alone ---- */

static void rule(void **state)
{
	struct local_state l = {.kind = KIND_FILE, .mode = 0644};
	struct seal_state st = {.local = &l, .size = 3, .hash = l.hash, .mtime_ns = 50};
	struct entry none = {0}, e, f;

	assert_int_equal(seal_changes(&none, &st), SEAL_CONTENT | SEAL_ATTR);
	assert_int_equal(
		seal_apply(&none, &st, SEAL_CONTENT | SEAL_ATTR, (struct stamp){9, 1}, &e), 0);
	assert_int_equal(seal_changes(&e, &st), 0);
	assert_int_equal(seal_floor(&e), 9);
	st.mtime_ns = 51;
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME);
	st.size = 4;
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT);
	l.mode = 0600;
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT | SEAL_ATTR);
	/* Of several names: what another one's entry says already is not said again. */
	f = (struct entry){.kind = KIND_FILE, .mode = 0600, .mtime_ns = 51, .mtime_stamp = {99, 1}};
	st.shown = &f;
	st.node = 7;
	st.size = 3;
	assert_int_equal(seal_changes(&e, &st), 0);
	/* Unless it is our own. */
	st.node = 1;
	f.attr_stamp = (struct stamp){99, 2};
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME);
	f.attr_stamp.node = 1;
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME | SEAL_ATTR);
	st.node = 7;
	l.link = (struct link_id){1, 2};
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT | SEAL_ATTR);
	l.mode = f.mode = 0644;
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT);
	assert_int_equal(seal_apply(&e, &st, SEAL_CONTENT, (struct stamp){12 << 16, 1}, &f), 0);
	assert_true(link_id_equal(f.link, l.link));
	entry_done(&f);
	l.link = (struct link_id){0};
	st.shown = NULL;
	st.size = 4;
	l.kind = KIND_ABSENT;
	assert_int_equal(seal_changes(&none, &st), 0);
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT);
	assert_int_equal(seal_apply(&e, &st, SEAL_CONTENT, (struct stamp){12 << 16, 1}, &f), 0);
	assert_false(entry_live(&f));
	assert_int_equal(f.mode, 0644);
	assert_int_equal(seal_changes(&f, &st), 0);
	l.kind = KIND_FILE;
	assert_int_equal(seal_changes(&f, &st), SEAL_CONTENT | SEAL_ATTR);
	entry_done(&e);
	entry_done(&f);
	/* A directory's time is its own register. */
	l.kind = KIND_DIR;
	assert_int_equal(
		seal_apply(&none, &st, SEAL_CONTENT | SEAL_ATTR, (struct stamp){9, 1}, &e), 0);
	st.mtime_ns++;
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME);
	vector_raise(&e.vector, (struct stamp){99, 5});
	assert_int_equal(seal_floor(&e), 99);
	entry_done(&e);
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
		link_names(s, i % 2 ? "g" : "f", path);
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

#define CHAIN 600u

/* One file that cannot be sealed holds back its directory, a rename out of there the next one, and so on,
 * against the order of the journal. */
static void held_back_along_a_chain(void **state)
{
	struct server *s = *state;
	char from[32], to[32];
	struct inode i = {.size = (uint64_t)64 << 20};
	clock_t begin;
	bool did;

	for (unsigned d = 0; d <= CHAIN; d++) {
		snprintf(to, sizeof(to), "d%u", d);
		do_mkdir(s, to);
		snprintf(to, sizeof(to), "d%u/f", d);
		do_write(s, to, "");
	}
	seal(s);
	do_write(s, "d0/large", "");
	assert_int_equal(
		tree_setattr(s->cache, ino_of(s, slice_of("d0/large")), SET_SIZE, &i, &i), 0);
	content_stop_hashing(s->cache, 0);
	for (unsigned d = CHAIN; d > 0; d--) {
		snprintf(from, sizeof(from), "d%u/f", d - 1);
		snprintf(to, sizeof(to), "d%u/g", d);
		do_rename(s, from, to);
	}
	begin = clock();
	assert_int_equal(sealer_step(s->sealer, &did), 0);
	assert_true(journal_rows(s) > CHAIN);
	/* A tenth of a second here; several where each look goes through all that is held. */
	assert_true(clock() - begin < CLOCKS_PER_SEC);
	content_stop_hashing(s->cache, INT64_MAX);
	for (unsigned n = 0; n < 60 && journal_rows(s); n++)
		seal(s);
	assert_int_equal(journal_rows(s), 0);
	assert_int_equal(ino_of(s, slice_of("d0/f")), 0);
	assert_true(ino_of(s, slice_of("d600/g")) != 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, servers_setup, servers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rule),
		TEST(new_file),
		TEST(unchanged_makes_no_version),
		TEST(temporary_name_leaves_no_trace),
		TEST(registers),
		TEST(tombstones),
		TEST(large_content_is_uploaded),
		TEST(hot_large_content_waits_for_its_upload),
		TEST(waits_for_uploads_end),
		TEST(wait_for_one_of_two_names),
		TEST(below_a_key_that_waits),
		TEST(overtaken_keys_wait),
		TEST(interleaved_changes_span),
		TEST(rename_is_one_cut),
		TEST(stamps_exceed_what_was_seen),
		TEST(directory_rename),
		TEST(a_long_rename_is_left_and_gone_on_with),
		TEST(others_go_on_during_a_long_rename),
		TEST(directory_rename_and_new_one),
		TEST(attributes_outlive_the_name),
		TEST(what_overtakes_a_seal_stays),
		TEST(names_are_joined_when_one_is_sealed),
		TEST(a_new_name_leaves_what_waits),
		TEST(a_replaced_file_leaves_no_attributes),
		TEST(one_key),
		TEST(all_of_it),
		TEST(all_of_what_is_large),
		TEST(many),
		TEST(files_of_many_names),
		TEST(held_back_along_a_chain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
