/* Sealing: which changes make versions, which wait for what, and that nothing is lost or made twice. What
 * goes into an entry: test_seal_entry.c; keys that are sealed together: test_seal_set.c; directories'
 * renames: test_seal_tree.c. */
#include "engine_fixture.h"

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

/* Closed, of so many MiB and a byte, nearly all of it a hole. */
static void make_sparse(struct server *s, const char *path, uint64_t mib)
{
	struct slice key = slice_of(path);
	struct file *f;
	struct inode i;

	assert_int_equal(tree_create_open(s->cache, ino_of(s, key_parent(key)), key_name(key),
				 S_IFREG | 0600, 0, 0, true, &i, &f),
		0);
	assert_int_equal(file_write(f, "x", 1, (off_t)mib << 20, false), 1);
	file_release(f);
}

/* Their last slices are not of the same step, and they are more than are hashed at a time. */
static void large_ones_of_one_directory(void **state)
{
	struct server *s = *state;
	char path[32];
	bool did;
	unsigned n = 0;

	do_mkdir(s, "d");
	seal(s);
	s->cache->hash_slice_ms = 0; /* one of 16 MiB each */
	for (unsigned i = 0; i < 6; i++) {
		snprintf(path, sizeof(path), "d/%u", i);
		make_sparse(s, path, 20 + 18 * (5 - i));
	}
	for (; journal_rows(s); n++) {
		assert_true(n < 20);
		assert_int_equal(sealer_step(s->sealer, &did), 0);
	}
	assert_true(n > 4);
	for (unsigned i = 0; i < 6; i++) {
		CLEANUP(entry_done) struct entry e = {0};

		snprintf(path, sizeof(path), "d/%u", i);
		get_entry(s, path, &e);
		assert_int_equal(e.size, ((20 + 18 * (5 - i)) << 20) + 1);
	}
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

struct waiting {
	struct server *s;
	unsigned ticks, free_at;
};

static int tick_waiting(void *ctx)
{
	struct waiting *w = ctx;

	if (++w->ticks == w->free_at)
		content_stop_hashing(w->s->cache, INT64_MAX);
	return 0;
}

/* Who asks for all is not told that all is sealed while something cannot be. */
static void what_cannot_be_sealed_now_is_waited_for(void **state)
{
	struct server *s = *state;
	struct waiting w = {.s = s, .free_at = 5};
	struct inode i = {.size = (uint64_t)64 << 20};

	do_write(s, "large", "");
	assert_int_equal(tree_setattr(s->cache, ino_of(s, slice_of("large")), SET_SIZE, &i, &i), 0);
	content_stop_hashing(s->cache, 0);
	do_write(s, "f", "beside it");
	assert_int_equal(sealer_seal_all(s->sealer, tick_waiting, &w), 0);
	assert_int_equal(journal_rows(s), 0);
	do_write(s, "large", "");
	assert_int_equal(tree_setattr(s->cache, ino_of(s, slice_of("large")), SET_SIZE, &i, &i), 0);
	content_stop_hashing(s->cache, 0);
	assert_int_equal(sealer_seal_all(s->sealer, tick_waiting, &w), -EBUSY);
	assert_true(journal_rows(s) > 0);
	content_stop_hashing(s->cache, INT64_MAX);
	assert_int_equal(sealer_seal_all(s->sealer, tick_waiting, &w), 0);
	assert_int_equal(journal_rows(s), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_cannot_be_sealed_now_is_waited_for),
		TEST(new_file),
		TEST(unchanged_makes_no_version),
		TEST(temporary_name_leaves_no_trace),
		TEST(large_content_is_uploaded),
		TEST(below_a_key_that_waits),
		TEST(stamps_exceed_what_was_seen),
		TEST(one_key),
		TEST(all_of_it),
		TEST(all_of_what_is_large),
		TEST(large_ones_of_one_directory),
		TEST(many),
		TEST(held_back_along_a_chain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
