/* Snapshots in the background: that a version is of one instant and knows which, that a file rests after one, and
 * that nothing is left of what is not wanted. What the sealer does with them: test_seal_offer.c. */
#include "tests/unit/cache_fixture.h"

#include <dirent.h>
#include <stdatomic.h>

#include "cache/internal.h"
#include "src/base/clock.h"

#define ENDLESS (INT64_C(8) << 40) /* hours of hashing */
#define SIZE 5000u
#define HOUR_MS 3600000

static _Atomic int64_t skipped_ms;

static int64_t real_ns(clockid_t id)
{
	struct timespec t;

	assert_int_equal(clock_gettime(id, &t), 0);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t realtime_ns(void *ctx UNUSED)
{
	return real_ns(CLOCK_REALTIME);
}

static int64_t monotonic_ms(void *ctx UNUSED)
{
	return real_ns(CLOCK_MONOTONIC) / 1000000 + atomic_load(&skipped_ms);
}

static void sleep_ms(void *ctx UNUSED, int64_t ms)
{
	usleep((useconds_t)ms * 1000);
}

static void write_text(struct file *file, char c)
{
	char text[SIZE];

	memset(text, c, SIZE);
	assert_int_equal(file_write(file, text, SIZE, 0, false), SIZE);
}

static struct file *start(struct fixture *f, const char *name, char c)
{
	struct file *file = make_open(f, ROOT_INO, name);

	f->cache->hash_slice_ms = 0;
	write_text(file, c);
	return file;
}

static int ask(struct fixture *f, struct file *file)
{
	struct buf bytes CLEANUP(buf_done) = {0};
	struct content_version v;

	return content_seal(f->cache, file_ino(file), 100, &bytes, &v);
}

static struct content_snapshot wait_for_one(struct fixture *f)
{
	struct content_snapshot found[CONTENT_SNAPSHOTS_MAX];

	for (unsigned n = 0; content_snapshots(f->cache, found) != 1; n++) {
		assert_true(n < 5000);
		content_wait_snapshot(f->cache, 10);
	}
	return found[0];
}

static bool has_file(struct fixture *f, uint64_t ino, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/snapshot/%016llx%s%s", f->dir, (unsigned long long)ino,
		*name ? "/" : "", name);
	return access(path, F_OK) == 0;
}

static void wait_until_file(struct fixture *f, uint64_t ino, const char *name, bool there)
{
	for (unsigned n = 0; has_file(f, ino, name) != there; n++) {
		assert_true(n < 10000);
		usleep(1000);
	}
}

static void a_version_and_its_time(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a');
	uint64_t before = cache_stamp(f->cache).time;
	struct content_version v = {0};
	struct content_snapshot s;
	uint8_t hash[SHA256_SIZE];
	char text[SIZE];

	assert_int_equal(ask(f, file), -EAGAIN);
	s = wait_for_one(f);
	assert_true(s.ino == file_ino(file) && s.refused == 0);
	assert_true(before < s.as_of && s.as_of < cache_stamp(f->cache).time);
	write_text(file, 'b');
	assert_int_equal(ask(f, file), -EAGAIN); /* as long as it is there */
	assert_int_equal(content_take_snapshot(f->cache, &s, &v), 0);
	memset(text, 'a', SIZE);
	sha256(text, SIZE, hash);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);
	assert_int_equal(v.size, SIZE);
	/* Again, as long as it is not sealed. */
	assert_int_equal(content_take_snapshot(f->cache, &s, &v), 0);
	/* Nor if the transaction does not come about. */
	struct conn *conn = fixture_begin(f);
	assert_int_equal(content_sealed(conn, &v), 0);
	cache_rollback(conn);
	assert_int_equal(content_take_snapshot(f->cache, &s, &v), 0);
	conn = fixture_begin(f);
	assert_int_equal(content_sealed(conn, &v), 0);
	assert_int_equal(cache_commit(conn), 0);
	assert_int_equal(content_take_snapshot(f->cache, &s, &v), -EAGAIN);
	struct content_reader *reader = NULL;
	assert_int_equal(content_open(f->cache, v.ino, v.hash, &reader), 0);
	assert_int_equal(content_read(reader, text, 1, 0), 1);
	assert_int_equal(text[0], 'a');
	content_close(reader);
	file_release(file);
}

static void a_file_rests_after_it(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a');
	uint64_t ino = file_ino(file), slices;
	struct content_snapshot s;
	unsigned asked = 0;

	assert_int_equal(file_truncate(file, 256 << 20), 0);
	assert_int_equal(ask(f, file), -EAGAIN);
	wait_until_file(f, ino, "next", true);
	atomic_fetch_add(&skipped_ms, HOUR_MS); /* that long it takes */
	s = wait_for_one(f);
	content_refuse_snapshot(f->cache, &s);
	wait_until_file(f, ino, "", false);
	slices = content_slices(f->cache);
	/* It need not be asked again for a while, */
	while (ask(f, file) == -EAGAIN && content_slices(f->cache) != slices) {
		slices = content_slices(f->cache); /* (but until it is tidied up) */
		assert_true(++asked < 1000);
		usleep(1000);
	}
	assert_false(has_file(f, ino, ""));
	/* as others need. */
	struct file *other = start(f, "other", 'o');
	assert_int_equal(ask(f, other), -EAGAIN);
	assert_int_not_equal(content_slices(f->cache), slices);
	s = wait_for_one(f);
	assert_int_equal(s.ino, file_ino(other));
	content_refuse_snapshot(f->cache, &s);
	/* Unless somebody waits. */
	content_hurry(f->cache, 1);
	assert_int_equal(ask(f, file), -EAGAIN);
	s = wait_for_one(f);
	assert_true(s.ino == ino && s.refused == 1);
	content_hurry(f->cache, -1);
	file_release(file);
	file_release(other);
}

/* It goes after a while. */
static void nobody_takes_it(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a'), *other = start(f, "other", 'o');

	assert_int_equal(ask(f, file), -EAGAIN);
	(void)wait_for_one(f);
	assert_true(has_file(f, file_ino(file), "next"));
	atomic_fetch_add(&skipped_ms, HOUR_MS);
	assert_int_equal(ask(f, file), -EAGAIN);  /* it wants another one */
	assert_int_equal(ask(f, other), -EAGAIN); /* wakes the thread */
	wait_until_file(f, file_ino(file), "", false);
	file_release(file);
	file_release(other);
}

/* A file where its directory is to be. */
static void set_in_its_way(struct fixture *f, bool on)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/snapshot", f->dir);
	if (on) {
		fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		assert_true(fd >= 0);
		close(fd);
	} else {
		assert_int_equal(unlink(path), 0);
	}
}

/* Whether one begins now that it is asked for. */
static bool begins(struct fixture *f, struct file *file)
{
	uint64_t slices = content_slices(f->cache);

	assert_int_equal(ask(f, file), -EAGAIN);
	return content_slices(f->cache) != slices;
}

static void wait_until_failed(struct fixture *f)
{
	for (unsigned n = 0; content_failed_snapshot(f->cache) == 0; n++) {
		assert_true(n < 10000);
		usleep(1000);
	}
	assert_int_equal(content_failed_snapshot(f->cache), -ENOTDIR);
}

/* As the sealer does: it asks all the time. */
static bool begins_within(struct fixture *f, struct file *file, unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++) {
		atomic_fetch_add(&skipped_ms, 1000);
		if (begins(f, file))
			return true;
	}
	return false;
}

static void expect_named(struct fixture *f, int count)
{
	uint64_t counts[TROUBLE_KINDS];
	struct cache_trouble_file named[2];

	assert_int_equal(cache_troubles(f->cache, named, 2, counts), count);
	assert_int_equal(counts[TROUBLE_FAILED], count);
	if (!count)
		return;
	assert_int_equal(named[0].kind, TROUBLE_FAILED);
	assert_int_equal(named[0].error, -ENOTDIR);
	assert_string_equal(named[0].key.p, "f");
}

static void it_cannot_be_taken(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a');
	struct content_version v;
	struct content_snapshot s;

	set_in_its_way(f, true);
	assert_int_equal(content_failed_snapshot(f->cache), 0);
	assert_true(begins(f, file));
	wait_until_failed(f);
	(void)begins(f, file);
	expect_named(f, 1);
	set_in_its_way(f, false);
	assert_true(begins_within(f, file, 2));
	s = wait_for_one(f);
	assert_int_equal(content_failed_snapshot(f->cache), 0);
	assert_int_equal(content_take_snapshot(f->cache, &s, &v), 0);
	expect_named(f, 0);
	file_release(file);
}

/* What nobody writes to any more needs no copy: where there is no space for one that goes at once. */
static void it_is_not_needed_any_more(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a');
	uint64_t ino = file_ino(file);
	struct buf bytes CLEANUP(buf_done) = {0};
	struct content_version v;
	struct conn *conn;

	set_in_its_way(f, true);
	assert_true(begins(f, file));
	wait_until_failed(f);
	(void)begins(f, file);
	wait_until_failed(f);
	expect_named(f, 1);
	file_release(file);
	assert_int_equal(content_seal(f->cache, ino, 100, &bytes, &v), 0);
	conn = fixture_begin(f);
	assert_int_equal(content_sealed(conn, &v), 0);
	fixture_commit(conn);
	expect_named(f, 0);
	assert_int_equal(content_failed_snapshot(f->cache), 0);
}

/* Each copy may be of a terabyte. */
static void it_is_tried_again_with_growing_pauses(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a'), *other;

	set_in_its_way(f, true);
	assert_true(begins(f, file));
	wait_until_failed(f);
	for (unsigned pause = 1; pause <= 512; pause *= 2) {
		/* By the machine's clock, too, time passes. */
		if (pause >= 16)
			assert_false(begins_within(f, file, pause < 300 ? pause / 2 : 150));
		assert_true(begins_within(f, file, (pause < 300 ? pause : 300) + 1));
		wait_until_failed(f);
		expect_named(f, 1);
	}
	/* Less for who waits, */
	content_hurry(f->cache, 1);
	assert_false(begins_within(f, file, 5));
	assert_true(begins_within(f, file, 6));
	wait_until_failed(f);
	content_hurry(f->cache, -1);
	/* and another file does not wait for it. */
	set_in_its_way(f, false);
	other = start(f, "other", 'o');
	assert_true(begins(f, other));
	assert_int_equal(wait_for_one(f).ino, file_ino(other));
	assert_false(begins_within(f, file, 100));
	/* It goes with its file. */
	assert_int_equal(content_failed_snapshot(f->cache), -ENOTDIR);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("f")), 0);
	file_release(file);
	assert_int_equal(content_failed_snapshot(f->cache), 0);
	expect_named(f, 0);
	file_release(other);
}

/* Theirs are the places that are left to others: those would be taken on the spot else, and hold up all sealing. */
static void more_fail_than_there_are_places(void **state)
{
	struct fixture *f = *state;
	struct file *files[CONTENT_SNAPSHOTS_MAX + 1];
	char name[16];

	set_in_its_way(f, true);
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(name, sizeof(name), "f%u", i);
		files[i] = start(f, name, 'a');
		assert_true(begins(f, files[i]));
		wait_until_failed(f);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
		file_release(files[i]);
}

/* Who cannot come again gets one of its own meanwhile. */
static void another_one_on_the_spot(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a');
	struct content_snapshot found[CONTENT_SNAPSHOTS_MAX];
	struct content_version v;

	assert_int_equal(file_truncate(file, 64 << 20), 0);
	assert_int_equal(ask(f, file), -EAGAIN);
	assert_int_equal(content_seal(f->cache, file_ino(file), 0, NULL, &v), 0);
	assert_int_equal(v.size, 64 << 20);
	/* The one in the background may have given way to it. */
	for (unsigned n = 0; content_snapshots(f->cache, found) != 1; n++) {
		assert_true(n < 5000);
		assert_int_equal(ask(f, file), -EAGAIN);
		content_wait_snapshot(f->cache, 10);
	}
	file_release(file);
}

/* What is being taken ends with it, rather than hours later. */
static void the_last_close_of_a_removed_file(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a');
	uint64_t ino = file_ino(file);

	assert_int_equal(file_truncate(file, ENDLESS), 0);
	assert_int_equal(ask(f, file), -EAGAIN);
	wait_until_file(f, ino, "next", true);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("f")), 0);
	file_release(file);
	wait_until_file(f, ino, "", false);
}

static void the_end_does_not_wait(void **state)
{
	struct fixture *f = *state;
	struct file *file = start(f, "f", 'a'), *other = start(f, "other", 'o');
	uint64_t ino = file_ino(file);

	assert_int_equal(file_truncate(file, ENDLESS), 0);
	assert_int_equal(ask(f, other), -EAGAIN);
	(void)wait_for_one(f);
	assert_int_equal(ask(f, file), -EAGAIN);
	wait_until_file(f, ino, "next", true);
	content_stop_hashing(f->cache, 0);
	content_end_snapshots(f->cache);
	assert_int_equal(ask(f, file), -EAGAIN);
	wait_until_file(f, ino, "", false);
	wait_until_file(f, file_ino(other), "", false);
	/* And it goes on. */
	content_stop_hashing(f->cache, INT64_MAX);
	assert_int_equal(ask(f, file), -EAGAIN);
	wait_until_file(f, ino, "next", true);
	file_release(file);
	file_release(other);
	fixture_reopen(f);
	assert_false(has_file(f, ino, ""));
}

int main(void)
{
	static const struct clock_source source = {
		.realtime_ns = realtime_ns, .monotonic_ms = monotonic_ms, .sleep_ms = sleep_ms};
	const struct CMUnitTest tests[] = {
		TEST(a_version_and_its_time),
		TEST(a_file_rests_after_it),
		TEST(nobody_takes_it),
		TEST(it_cannot_be_taken),
		TEST(it_is_not_needed_any_more),
		TEST(it_is_tried_again_with_growing_pauses),
		TEST(more_fail_than_there_are_places),
		TEST(another_one_on_the_spot),
		TEST(the_last_close_of_a_removed_file),
		TEST(the_end_does_not_wait),
	};

	clock_set_source(&source);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
