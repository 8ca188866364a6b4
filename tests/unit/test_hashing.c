/* Hashing in slices: what one call began the next one goes on with, and what is done is kept until it is sealed. */
#include "tests/unit/cache_fixture.h"

#include "cache/hashing.h"
#include "src/base/clock.h"

/* Of 40 MiB of zeros but for start, of five bytes, and "middle". */
static void hash_of_long(const char *start, uint8_t hash[SHA256_SIZE])
{
	uint8_t chunk[4096];
	struct sha256 whole;

	sha256_init(&whole);
	for (size_t at = 0; at < 40 << 20; at += sizeof(chunk)) {
		memset(chunk, 0, sizeof(chunk));
		if (at == 0)
			memcpy(chunk, start, 5);
		if (at == 20 << 20)
			memcpy(chunk, "middle", 6);
		sha256_update(&whole, chunk, sizeof(chunk));
	}
	sha256_final(&whole, hash);
}

/* content_seal, and the snapshot that it has taken in the background. */
static int seal_or_take(
	struct fixture *f, uint64_t ino, struct buf *bytes, struct content_version *v)
{
	struct content_snapshot found[CONTENT_SNAPSHOTS_MAX];
	int r = content_seal(f->cache, ino, 100, bytes, v);

	if (r == -EAGAIN)
		content_wait_snapshot(f->cache, 1000);
	for (unsigned i = content_snapshots(f->cache, found); r == -EAGAIN && i > 0; i--) {
		if (found[i - 1].ino != ino)
			continue;
		r = content_take_snapshot(f->cache, &found[i - 1], v);
		content_refuse_snapshot(f->cache, &found[i - 1]); /* the next one is another one */
	}
	return r;
}

/* 64 steps a call: other files are sealed in between, and one that is removed costs nothing more. */
static void a_long_hash_comes_in_slices(void **state)
{
	struct fixture *f = *state;
	struct buf bytes CLEANUP(buf_done) = {0};
	uint64_t ino = make_file(f, ROOT_INO, "long", "start"), gone;
	uint8_t hash[SHA256_SIZE];
	struct content_version v;
	struct file *file;
	unsigned calls = 1;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_truncate(file, 40 << 20), 0);
	assert_int_equal(file_write(file, "middle", 6, 20 << 20, false), 6);
	file_release(file);
	f->cache->hash_slice_ms = 0;
	while (content_seal(f->cache, ino, 100, &bytes, &v) == -EAGAIN)
		assert_true(++calls < 10);
	assert_true(calls >= 3);
	hash_of_long("start", hash);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);

	/* A change in between is not mixed in. */
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "third", 5, 0, false), 5);
	file_release(file);
	assert_int_equal(content_seal(f->cache, ino, 100, &bytes, &v), -EAGAIN);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "other", 5, 0, false), 5);
	file_release(file);
	while (seal_or_take(f, ino, &bytes, &v) == -EAGAIN)
		;
	assert_memory_not_equal(v.hash, hash, SHA256_SIZE);

	/* A snapshot of it has the same holes, and ends when it is to. */
	content_hurry(f->cache, 1);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_truncate(file, INT64_C(1) << 40), 0);
	content_stop_hashing(f->cache, 0);
	assert_int_equal(content_seal(f->cache, ino, 100, &bytes, &v), -EAGAIN);
	content_stop_hashing(f->cache, INT64_MAX);
	assert_int_equal(file_truncate(file, 40 << 20), 0);
	while (seal_or_take(f, ino, &bytes, &v) == -EAGAIN)
		;
	hash_of_long("other", hash);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);
	file_release(file);

	gone = make_file(f, ROOT_INO, "gone", "");
	assert_int_equal(file_open(f->cache, gone, true, false, &file), 0);
	assert_int_equal(file_truncate(file, INT64_C(8) << 40), 0);
	file_release(file);
	assert_int_equal(content_seal(f->cache, gone, 100, &bytes, &v), -EAGAIN);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("gone")), 0);
	assert_int_equal(content_seal(f->cache, gone, 100, &bytes, &v), -ENOENT);
}

static void change(struct fixture *f, uint64_t ino, const char *text, uint64_t offset)
{
	struct file *file;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(
		file_write(file, text, strlen(text), offset, false), (ssize_t)strlen(text));
	file_release(file);
}

/* Hashed in slices, then a snapshot; and at once, when it does not rest between them. */
static void a_long_hash_of_a_new_version_too(void **state)
{
	struct fixture *f = *state;
	struct buf bytes CLEANUP(buf_done) = {0};
	uint64_t ino = make_file(f, ROOT_INO, "long", "start");
	uint8_t got[SHA256_SIZE];
	struct content_version v;
	unsigned calls = 0;

	change(f, ino, "end", 40 << 20);
	seal_now(f, ino);
	f->cache->hash_slice_ms = 0;
	change(f, ino, "middle", 20 << 20);
	content_hurry(f->cache, 1);
	while (seal_or_take(f, ino, &bytes, &v) == -EAGAIN)
		assert_true(++calls < 10);
	assert_true(calls >= 2);
	change(f, ino, "later", 30 << 20);
	hash_of_version(f, ino, v.hash, got);
	assert_memory_equal(got, v.hash, SHA256_SIZE);
	for (calls = 0; seal_or_take(f, ino, &bytes, &v) == -EAGAIN; calls++) {
		assert_true(calls < 10);
		if (calls < 1)
			change(f, ino, "two", 0);
	}
	hash_of_version(f, ino, v.hash, got);
	assert_memory_equal(got, v.hash, SHA256_SIZE);
}

static unsigned calls_until_sealed(struct fixture *f, uint64_t ino, struct content_version *v)
{
	struct buf bytes CLEANUP(buf_done) = {0};
	unsigned calls = 1;

	while (content_seal(f->cache, ino, 100, &bytes, v) == -EAGAIN)
		assert_true(++calls < 10);
	return calls;
}

static uint64_t make_long(struct fixture *f, const char *name)
{
	uint64_t ino = make_file(f, ROOT_INO, name, "start");
	struct file *file;

	change(f, ino, "middle", 20 << 20);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_truncate(file, 40 << 20), 0);
	file_release(file);
	f->cache->hash_slice_ms = 0;
	return ino;
}

static void a_long_hash_is_kept_until_it_is_sealed(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_long(f, "long");
	struct content_version v, later;
	uint8_t hash[SHA256_SIZE];

	assert_int_equal(calls_until_sealed(f, ino, &v), 3);
	assert_int_equal(calls_until_sealed(f, ino, &v), 1);
	hash_of_long("start", hash);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);

	/* Not that of another generation, be it of the same size. */
	change(f, ino, "other", 0);
	assert_int_equal(calls_until_sealed(f, ino, &later), 3);
	hash_of_long("other", hash);
	assert_memory_equal(later.hash, hash, SHA256_SIZE);

	/* The seal of an older version leaves it. */
	content_forget_hash(f->cache, ino, v.generation);
	assert_int_equal(calls_until_sealed(f, ino, &later), 1);
	assert_memory_equal(later.hash, hash, SHA256_SIZE);
	content_forget_hash(f->cache, ino, later.generation);
	assert_int_equal(calls_until_sealed(f, ino, &later), 3);
}

#define LATER_MS 600000

static int64_t monotonic_later(void *ctx)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 + LATER_MS;
}

/* Who comes first keeps what he has, until it is sealed, or he does not ask for a long time. */
static void hashes_are_kept_while_there_is_room(void **state)
{
	struct fixture *f = *state;
	static const struct clock_source later = {.monotonic_ms = monotonic_later};
	uint64_t first = make_long(f, "first"), second = make_long(f, "second");
	uint64_t third = make_long(f, "third");
	struct content_version v;
	struct conn *conn;

	f->cache->hashes_kept = 1;
	assert_int_equal(calls_until_sealed(f, first, &v), 3);
	assert_int_equal(calls_until_sealed(f, second, &v), 3);
	assert_int_equal(calls_until_sealed(f, second, &v), 3);
	assert_int_equal(calls_until_sealed(f, first, &v), 1);
	conn = fixture_begin(f);
	assert_int_equal(content_sealed(conn, &v), 0);
	fixture_commit(conn);
	assert_int_equal(calls_until_sealed(f, second, &v), 3);
	assert_int_equal(calls_until_sealed(f, second, &v), 1);

	clock_set_source(&later);
	assert_int_equal(calls_until_sealed(f, third, &v), 3);
	assert_int_equal(calls_until_sealed(f, third, &v), 1);
	clock_set_source(NULL);
}

/* To those that are left over, rather than a minute later. */
static void a_removed_file_gives_its_place_back(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"1", "2", "3", "4", "next", "last"};
	struct buf bytes CLEANUP(buf_done) = {0};
	struct content_version v;
	uint64_t ino[6], slices;

	for (unsigned i = 0; i < 6; i++)
		ino[i] = make_long(f, names[i]);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(content_seal(f->cache, ino[i], 100, &bytes, &v), -EAGAIN);
	slices = content_slices(f->cache);
	assert_int_equal(content_seal(f->cache, ino[4], 100, &bytes, &v), -EAGAIN);
	assert_int_equal(content_slices(f->cache), slices); /* there is no place for it */
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("2")), 0);
	assert_int_equal(calls_until_sealed(f, ino[4], &v), 3);
	assert_int_equal(calls_until_sealed(f, ino[0], &v), 2);
	/* That of a hash, too. */
	f->cache->hashes_kept = 2;
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("next")), 0);
	assert_int_equal(calls_until_sealed(f, ino[5], &v), 3);
	assert_int_equal(calls_until_sealed(f, ino[5], &v), 1);
	assert_int_equal(calls_until_sealed(f, ino[0], &v), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_long_hash_of_a_new_version_too),
		TEST(a_long_hash_comes_in_slices),
		TEST(a_long_hash_is_kept_until_it_is_sealed),
		TEST(hashes_are_kept_while_there_is_room),
		TEST(a_removed_file_gives_its_place_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
