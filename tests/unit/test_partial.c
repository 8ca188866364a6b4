/* Content of which some blocks are here: what a kill leaves, what is not believed, how it becomes content,
 * and what opens, truncations and evictions make of it. */
#include "tests/unit/cache_fixture.h"

#include <sys/statvfs.h>

#include "cache/content_parts.h"
#include "cache/evict.h"
#include "cache/partial.h"
#include "src/base/clock.h"
#include "src/base/metrics.h"
#include "src/base/random.h"
#include "src/base/thread.h"

#define BLOCK 4096
#define SIZE (10 * BLOCK + 100)
#define BLOCKS 11

static char data[SIZE];

static void open_with(struct fixture *f, uint64_t cache_size, const char *boot)
{
	const struct cache_options options = {.state_dir = f->dir,
		.sync_off = true,
		.no_lock = true,
		.partial_block = BLOCK,
		.cache_size = cache_size,
		.boot_id = boot};
	struct err err = {0};

	if (cache_open(&options, &f->cache, &err))
		fail_msg("cache_open: %s", err.text);
}

static uint64_t noted;

static void range(void *ctx UNUSED, struct partial *p UNUSED, uint64_t offset UNUSED,
	uint64_t n UNUSED, cache_fetch_done done, void *arg)
{
	noted++;
	if (done)
		done(arg, -EIO);
}

static int setup(void **state)
{
	struct fixture *f;

	if (fixture_setup(state))
		return -1;
	f = *state;
	cache_close(f->cache);
	open_with(f, 0, "a");
	cache_set_ranger(f->cache, range, NULL, 1);
	for (unsigned i = 0; i < SIZE; i++)
		data[i] = (char)(i / 7 * 31);
	return 0;
}

/* As a record from elsewhere makes it. */
static uint64_t remote_file(struct fixture *f, const char *name)
{
	struct inode_row row = {.mode = S_IFREG | 0644,
		.size = SIZE,
		.mtime_ns = 5000000000,
		.state = STATE_REMOTE,
		.has_hash = true};
	struct conn *conn = fixture_begin(f);

	sha256(data, SIZE, row.hash);
	assert_int_equal(inode_make(conn, ROOT_INO, slice_of(name), &row, NULL), 0);
	fixture_commit(conn);
	return row.ino;
}

static struct partial *get(struct fixture *f, uint64_t ino)
{
	struct partial *p = NULL;

	assert_int_equal(partial_get(f->cache, ino, &p), 0);
	return p;
}

static void put_block(struct partial *p, uint64_t block)
{
	assert_int_equal(partial_fill(p, block, data + block * BLOCK), 0);
}

static void put_wrong(struct partial *p, uint64_t block)
{
	static char wrong[BLOCK];

	memcpy(wrong, data + block * BLOCK, sizeof(wrong));
	wrong[77] ^= 1;
	assert_int_equal(partial_fill(p, block, wrong), partial_has_parts(p) ? -EBADMSG : 0);
}

static struct file *open_read(struct fixture *f, uint64_t ino)
{
	struct file *file = NULL;

	assert_int_equal(file_open(f->cache, ino, false, false, &file), 0);
	return file;
}

static void assert_reads(struct file *file, uint64_t offset, size_t n)
{
	static char got[SIZE];

	assert_true(file_ready(file, offset, n));
	assert_int_equal(file_read(file, got, n, offset), (ssize_t)n);
	assert_memory_equal(got, data + offset, n);
}

static unsigned partial_files(struct fixture *f)
{
	struct partial_usage u;

	partial_usage(f->cache, &u);
	return (unsigned)u.files;
}

static uint64_t partial_bytes(struct fixture *f)
{
	struct partial_usage u;

	partial_usage(f->cache, &u);
	return u.bytes;
}

static bool has_files(struct fixture *f, uint64_t ino)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/partial/%016llx", f->dir, (unsigned long long)ino);
	if (access(path, F_OK) == 0)
		return true;
	strcat(path, ".map");
	return access(path, F_OK) == 0;
}

/* ---- */

static void test_blocks_in_any_order(void **state)
{
	static const unsigned order[BLOCKS] = {10, 0, 3, 1, 2, 9, 4, 8, 5, 7, 6};
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a");
	struct file *file = open_read(f, ino);
	struct partial *p = get(f, ino);
	struct inode inode;
	int fd = -1;

	assert_int_equal(partial_blocks(p), BLOCKS);
	assert_false(file_ready(file, 0, 1));
	assert_int_equal(file_read(file, &(char){0}, 1, 0), -EREMOTE);
	assert_int_equal(file_extent(file, 1, 0, &(int){0}), -EREMOTE);
	for (unsigned i = 0; i < BLOCKS; i++) {
		assert_int_equal(partial_finish(p), -EAGAIN);
		put_block(p, order[i]);
		put_block(p, order[i]);
	}
	assert_int_equal(partial_bytes(f), SIZE);
	assert_reads(file, BLOCK - 10, 20);
	/* At the end and behind it as in any file. */
	assert_true(file_ready(file, SIZE, 100));
	assert_true(file_ready(file, SIZE - 1, 1000));
	assert_int_equal(file_read(file, &(char){0}, 1, SIZE), 0);
	assert_int_equal(file_extent(file, 1, SIZE, &(int){0}), 0);
	assert_int_equal(file_extent(file, 1000, SIZE - 1, &fd), 1);
	assert_int_equal(fd, file_fd(file));
	assert_int_equal(partial_finish(p), 0);
	assert_int_equal(partial_state(p), PARTIAL_DONE);
	partial_put(p);
	assert_null(file_partial(file));
	assert_reads(file, 0, SIZE);
	file_release(file);
	assert_int_equal(row_of(f, ino).state, STATE_LOCAL);
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_int_equal(inode.mtime_ns, 5000000000);
	assert_int_equal(partial_files(f), 0);
	assert_int_equal(partial_bytes(f), 0);
	assert_false(has_files(f, ino));
	assert_totals(f);
	assert_int_equal(partial_get(f->cache, ino, &p), -EALREADY);
}

static void test_kill_keeps_blocks(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a"), other = remote_file(f, "b");
	struct partial *p = get(f, ino);

	put_block(p, 2);
	put_block(p, 10);
	partial_put(get(f, other));
	cache_abandon(f->cache);
	open_with(f, 0, "a");
	assert_int_equal(partial_files(f), 2);
	assert_int_equal(partial_bytes(f), BLOCK + 100);
	p = get(f, ino);
	assert_true(partial_has(p, 2 * BLOCK, BLOCK));
	assert_true(partial_has(p, SIZE - 100, 100));
	assert_false(partial_has(p, 2 * BLOCK, BLOCK + 1));
	assert_int_equal(partial_missing(p, 2, BLOCKS), 3);
	for (unsigned i = 0; i < BLOCKS; i++)
		if (i != 2 && i != 10)
			put_block(p, i);
	assert_int_equal(partial_finish(p), 0);
	partial_put(p);
	assert_int_equal(row_of(f, ino).state, STATE_LOCAL);
	/* What a power cut leaves of the other is not known. */
	cache_abandon(f->cache);
	open_with(f, 0, "b");
	assert_int_equal(partial_files(f), 0);
	assert_false(has_files(f, other));
	assert_true(has_content(f, ino));
}

static void with_file(struct fixture *f, uint64_t ino, const char *suffix, int64_t at, char c)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/partial/%016llx%s", f->dir, (unsigned long long)ino,
		suffix);
	fd = open(path, O_WRONLY);
	assert_true(fd >= 0);
	if (at < 0)
		assert_int_equal(ftruncate(fd, -at), 0);
	else
		assert_int_equal(pwrite(fd, &c, 1, at), 1);
	close(fd);
}

/* Each of them is what this program would not have written. */
static void test_hostile_maps(void **state)
{
	static const struct {
		const char *suffix;
		int64_t at; /* negative: the new size */
		char c;
	} damage[] = {{".map", 0, 'X'}, {".map", 8, 77}, {".map", 16, 1}, {".map", 25, 1},
		{".map", 39, (char)0x80}, {".map", 40, 1}, {".map", 81, (char)0x88},
		{".map", 72, 1}, {".map", 72, 2}, {".map", -81, 0}, {".map", -83, 0}, {".map", -8, 0}, {"", -SIZE - 1, 0},
		{"", -1, 0}};
	struct fixture *f = *state;
	char path[128];

	for (unsigned i = 0; i < ARRAY_SIZE(damage); i++) {
		char name[8];
		uint64_t ino;
		struct partial *p;

		snprintf(name, sizeof(name), "%u", i);
		ino = remote_file(f, name);
		p = get(f, ino);
		put_block(p, 1);
		partial_put(p);
		cache_close(f->cache);
		if (damage[i].at == 40) /* hash: whatever it was */
			with_file(f, ino, ".map", 40, 1), with_file(f, ino, ".map", 41, 1);
		else
			with_file(f, ino, damage[i].suffix, damage[i].at, damage[i].c);
		open_with(f, 0, "a");
		if (partial_files(f))
			fail_msg("damage %u was believed", i);
		assert_false(has_files(f, ino));
		p = get(f, ino);
		assert_int_equal(partial_missing(p, 0, BLOCKS), 0);
		partial_put(p);
		assert_true(partial_remove(f->cache, ino, true, NULL));
	}
	/* Of inodes that are no more, or never were; other names are left alone. */
	snprintf(path, sizeof(path), "%s/partial/00000000000fffff", f->dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	snprintf(path, sizeof(path), "%s/partial/note", f->dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	cache_close(f->cache);
	open_with(f, 0, "a");
	assert_int_equal(access(path, F_OK), 0);
	assert_false(has_files(f, 0xfffff));
}

static void test_wrong_bytes(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a"), before = metric_get(METRIC_OBJECTS_CORRUPT);
	struct partial *p = get(f, ino);

	put_wrong(p, 1);
	for (unsigned i = 0; i < BLOCKS; i++)
		put_block(p, i); /* it is here, so it stays */
	partial_put(p); /* what was hashed already is forgotten */
	p = get(f, ino);
	assert_int_equal(partial_finish(p), -EBADMSG);
	assert_int_equal(metric_get(METRIC_OBJECTS_CORRUPT), before + 1);
	assert_int_equal(partial_missing(p, 0, BLOCKS), 0);
	assert_int_equal(partial_bytes(f), 0);
	assert_int_equal(row_of(f, ino).state, STATE_REMOTE);
	for (unsigned i = 0; i < BLOCKS; i++)
		put_block(p, i);
	assert_int_equal(partial_finish(p), 0);
	partial_put(p);
	assert_int_equal(row_of(f, ino).state, STATE_LOCAL);
}

static void test_holes(void **state)
{
	static const char zeros[BLOCK];
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a");
	struct partial *p = get(f, ino);
	char got[BLOCK];
	struct stat st;

	assert_int_equal(partial_fill(p, 0, zeros), 0);
	assert_int_equal(partial_fill(p, 1, zeros), 0);
	assert_true(partial_has(p, 0, 2 * BLOCK));
	assert_int_equal(fstat(partial_fd(p), &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_int_equal(st.st_blocks, 0);
	/* What a dead daemon wrote there and did not note does not stay. */
	assert_int_equal(pwrite(partial_fd(p), "wrong", 5, 2 * BLOCK + 1), 5);
	assert_int_equal(partial_fill(p, 2, zeros), 0);
	assert_int_equal(pread(partial_fd(p), got, BLOCK, 2 * BLOCK), BLOCK);
	assert_memory_equal(got, zeros, BLOCK);
	partial_put(p);
}

static void test_writers(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a"), gone = remote_file(f, "b");
	struct file *reader = open_read(f, ino), *writer = NULL;
	struct partial *p = get(f, ino);
	char got[16];

	assert_int_equal(file_open(f->cache, ino, true, false, &writer), -EREMOTE);
	for (unsigned i = 0; i < BLOCKS; i++)
		put_block(p, i);
	assert_int_equal(file_open(f->cache, ino, true, false, &writer), -EREMOTE);
	assert_int_equal(partial_finish(p), 0);
	partial_put(p);
	assert_int_equal(file_open(f->cache, ino, true, false, &writer), 0);
	assert_int_equal(file_write(writer, "new", 3, 0, false), 3);
	assert_int_equal(file_read(reader, got, 3, 0), 3);
	assert_memory_equal(got, "new", 3);
	assert_true(row_of(f, ino).dirty);
	file_release(writer);
	file_release(reader);

	/* Emptied, nothing has to come. */
	reader = open_read(f, gone);
	p = get(f, gone);
	put_block(p, 0);
	assert_int_equal(file_open(f->cache, gone, true, true, &writer), 0);
	assert_int_equal(partial_state(p), PARTIAL_GONE);
	assert_true(file_ready(reader, 0, 100));
	assert_int_equal(file_read(reader, got, sizeof(got), 0), 0);
	assert_int_equal(file_write(writer, "text", 4, 0, false), 4);
	assert_int_equal(file_read(reader, got, sizeof(got), 0), 4);
	/* What still arrives goes nowhere. */
	put_block(p, 1);
	assert_int_equal(partial_finish(p), 0);
	partial_put(p);
	file_release(writer);
	file_release(reader);
	assert_content(f, gone, "text");
	assert_false(has_files(f, gone));
	assert_int_equal(partial_bytes(f), 0);
	assert_totals(f);
}

/* Fetched in one piece while somebody reads it by blocks. */
static void test_whole_wins(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a");
	struct file *reader = open_read(f, ino);
	struct content_writer w;

	assert_int_equal(file_catch_up(reader), -EREMOTE);
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_append(&w, data, SIZE), 0);
	assert_int_equal(content_install(f->cache, ino, &w), 0);
	assert_false(file_ready(reader, 0, 1));
	assert_int_equal(file_catch_up(reader), 0);
	assert_reads(reader, 0, SIZE);
	assert_int_equal(file_catch_up(reader), 0);
	file_release(reader);
	assert_false(has_files(f, ino));
}

static void test_removed_while_open(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a");
	struct file *reader = open_read(f, ino);
	struct partial *p = get(f, ino);

	put_block(p, 3);
	displace(f, "a", ino);
	assert_reads(reader, 3 * BLOCK, BLOCK);
	assert_false(file_ready(reader, 0, 1));
	for (unsigned i = 0; i < BLOCKS; i++)
		put_block(p, i);
	assert_int_equal(partial_finish(p), 0); /* it is nobody's content … */
	assert_reads(reader, 0, SIZE);		/* … but the reader's */
	partial_put(p);
	file_release(reader);
	assert_false(has_row(f, ino));
	assert_false(has_files(f, ino));
	assert_int_equal(partial_files(f), 0);
	assert_totals(f);
}

static bool no_proof(
	void *ctx UNUSED, struct slice key UNUSED, const uint8_t *hash UNUSED, uint64_t size UNUSED)
{
	return false;
}

static enum evict_result evict_one(struct fixture *f, uint64_t ino)
{
	struct evict_batch b = {.proof = no_proof};
	enum evict_result result = EVICT_ABSENT;

	assert_int_equal(evict_content(f->cache, &b, ino, &result), 0);
	assert_int_equal(evict_finish(f->cache, &b), 0);
	return result;
}

static void test_eviction(void **state)
{
	struct fixture *f = *state;
	uint64_t ino[3] = {remote_file(f, "a"), remote_file(f, "b"), remote_file(f, "c")};
	struct file *reader;
	struct partial *p;
	bool more = true;

	cache_close(f->cache);
	open_with(f, 3 * BLOCK, "a");
	cache_set_ranger(f->cache, range, NULL, 1);
	for (unsigned i = 0; i < 3; i++) {
		p = get(f, ino[i]);
		put_block(p, 0);
		put_block(p, 1);
		partial_put(p);
		atomic_fetch_add(&f->cache->tick, 1);
	}
	reader = open_read(f, ino[0]);
	/* 6 blocks, 3 may stay: of those that nobody has open. */
	for (unsigned i = 0; more && i < 10; i++)
		assert_int_equal(evict_step(f->cache, no_proof, NULL, &more), 0);
	assert_true(has_files(f, ino[0]));
	assert_false(has_files(f, ino[1]));
	assert_false(has_files(f, ino[2]));
	assert_int_equal(partial_bytes(f), 2 * BLOCK);
	assert_int_equal(evict_one(f, ino[0]), EVICT_OPEN);
	assert_reads(reader, 0, BLOCK);
	file_release(reader);
	assert_int_equal(evict_one(f, ino[0]), EVICT_DONE);
	assert_int_equal(evict_one(f, ino[0]), EVICT_ABSENT);
	assert_false(has_files(f, ino[0]));
}

static void test_seek_and_notes(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = remote_file(f, "a");
	struct file *reader = open_read(f, ino);
	struct partial *p = get(f, ino);

	assert_int_equal(file_seek(reader, 5, SEEK_DATA), 5);
	assert_int_equal(file_seek(reader, 5, SEEK_HOLE), SIZE);
	assert_int_equal(file_seek(reader, SIZE, SEEK_DATA), -ENXIO);
	put_block(p, 0);
	noted = 0;
	assert_true(file_ready(reader, 0, 10));
	assert_int_equal(noted, 1);
	partial_put(p);
	file_release(reader);
	/* Without somebody who fetches ranges, and below the limit, as ever. */
	cache_set_ranger(f->cache, range, NULL, SIZE + 1);
	assert_int_equal(file_open(f->cache, ino, false, false, &reader), -EREMOTE);
	cache_set_ranger(f->cache, NULL, NULL, 0);
	assert_int_equal(file_open(f->cache, ino, false, false, &reader), -EREMOTE);
}

/* Content of that size has hashes of its parts. */
static void open_with_parts(struct fixture *f)
{
	const struct cache_options options = {.state_dir = f->dir,
		.sync_off = true,
		.no_lock = true,
		.partial_block = BLOCK,
		.map_min = 1,
		.parts_min = 1,
		.boot_id = "a"};
	struct err err = {0};

	if (cache_open(&options, &f->cache, &err))
		fail_msg("cache_open: %s", err.text);
	cache_set_ranger(f->cache, range, NULL, 1);
}

static void hash_parts(struct fixture *f, const char *bytes, uint8_t *hashes)
{
	struct content_parts parts;

	assert_true(content_parts_of(f->cache, SIZE, &parts));
	assert_int_equal(parts.count, BLOCKS);
	for (unsigned b = 0; b < BLOCKS; b++)
		content_part_hash(parts.block_bits, bytes + b * BLOCK,
			b + 1 < BLOCKS ? BLOCK : SIZE - b * BLOCK, hashes + b * SHA256_SIZE);
}

/* Blocks that were compared with nothing do not count once their hashes are known; what is known stays. */
static void test_hashes_of_parts(void **state)
{
	struct fixture *f = *state;
	uint8_t hashes[BLOCKS * SHA256_SIZE];
	uint64_t ino = remote_file(f, "a");
	struct partial *p = get(f, ino);

	assert_int_equal(partial_set_parts(p, hashes), -EINVAL); /* such content has none */
	partial_put(p);
	cache_close(f->cache);
	open_with_parts(f);
	hash_parts(f, data, hashes);
	p = get(f, ino);
	for (unsigned b = 0; b < 3; b++)
		put_block(p, b);
	put_wrong(p, 5);
	assert_true(partial_hash_ahead(p));
	assert_int_equal(partial_set_parts(p, hashes), 0);
	assert_int_equal(partial_missing(p, 0, BLOCKS), 0);
	assert_int_equal(partial_missing(p, 5, 6), 5);
	assert_int_equal(partial_bytes(f), 0);
	put_wrong(p, 7);
	assert_int_equal(partial_missing(p, 7, 8), 7);
	put_block(p, 7);
	put_block(p, BLOCKS - 1);
	assert_int_equal(partial_set_parts(p, (const uint8_t[BLOCKS * SHA256_SIZE]){0}), 0);
	partial_put(p);
	cache_abandon(f->cache);
	open_with_parts(f);
	p = get(f, ino);
	assert_true(partial_has_parts(p));
	assert_int_equal(partial_missing(p, 7, 9), 8);
	assert_int_equal(partial_bytes(f), BLOCK + 100);
	for (unsigned b = 0; b < BLOCKS; b++) {
		if (b != 7 && b != BLOCKS - 1)
			put_wrong(p, b);
		put_block(p, b);
	}
	assert_int_equal(partial_finish(p), 0);
	assert_int_equal(partial_state(p), PARTIAL_DONE);
	partial_put(p);
	struct file *reader = open_read(f, ino);
	assert_reads(reader, 0, SIZE);
	file_release(reader);
}

/* The hash of the whole is taken where some block was compared with nothing, and only there. */
static void test_hashed_once(void **state)
{
	struct fixture *f = *state;
	uint8_t hashes[BLOCKS * SHA256_SIZE];
	uint64_t ino[2] = {remote_file(f, "a"), remote_file(f, "b")};
	static char other[SIZE];
	struct partial *p;

	cache_close(f->cache);
	open_with_parts(f);
	/* Blocks that are what their hashes say, of a list that is none of this version's: nobody asks more. */
	memset(other, 'x', sizeof(other));
	hash_parts(f, other, hashes);
	p = get(f, ino[0]);
	assert_int_equal(partial_set_parts(p, hashes), 0);
	for (unsigned b = 0; b < BLOCKS; b++) {
		assert_int_equal(partial_fill(p, b, data + b * BLOCK), -EBADMSG);
		assert_int_equal(partial_fill(p, b, other + b * BLOCK), 0);
		assert_false(partial_hash_ahead(p));
	}
	assert_int_equal(partial_finish(p), 0);
	assert_int_equal(partial_state(p), PARTIAL_DONE);
	partial_put(p);
	/* Without a list the same bytes are refused. */
	p = get(f, ino[1]);
	for (unsigned b = 0; b < BLOCKS; b++)
		assert_int_equal(partial_fill(p, b, other + b * BLOCK), 0);
	assert_true(partial_hash_ahead(p));
	assert_int_equal(partial_finish(p), -EBADMSG);
	assert_int_equal(partial_missing(p, 0, BLOCKS), 0);
	partial_put(p);
	assert_int_equal(row_of(f, ino[1]).state, STATE_REMOTE);
}

struct filler {
	struct partial *p;
	const char *bytes;
	atomic_bool stop;
	pthread_t thread;
};

static void *fill_all(void *arg)
{
	struct filler *w = arg;

	while (!atomic_load(&w->stop)) {
		for (unsigned b = 0; b < BLOCKS; b++) {
			int r = partial_fill(w->p, b, w->bytes + b * BLOCK);

			CHECK(r == 0 || r == -EAGAIN || r == -EBADMSG);
		}
	}
	return NULL;
}

/* Threads that bring right bytes and wrong ones at once, while the hashes come to be known: a block that is
 * here has the right ones, and so has the content. */
static void test_fillers(void **state)
{
	struct fixture *f = *state;
	uint8_t hashes[BLOCKS * SHA256_SIZE];
	static char other[SIZE], got[SIZE];

	cache_close(f->cache);
	open_with_parts(f);
	memset(other, 'x', sizeof(other));
	hash_parts(f, data, hashes);
	for (unsigned round = 0; round < 20; round++) {
		struct filler w[4];
		uint64_t ino = remote_file(f, (char[]){(char)('a' + round), 0});
		struct partial *p = get(f, ino);
		struct file *reader = open_read(f, ino);

		for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
			w[i] = (struct filler){.p = p, .bytes = i % 2 ? other : data};
			assert_int_equal(thread_start(&w[i].thread, "fill", fill_all, &w[i]), 0);
		}
		clock_sleep_ms(random_below(2));
		for (int r = -EAGAIN; r == -EAGAIN;)
			r = partial_set_parts(p, hashes);
		while (partial_state(p) != PARTIAL_DONE) {
			int r = partial_finish(p);

			assert_true(r == 0 || r == -EAGAIN);
		}
		for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
			atomic_store(&w[i].stop, true);
			pthread_join(w[i].thread, NULL);
		}
		assert_int_equal(file_read(reader, got, SIZE, 0), SIZE);
		assert_memory_equal(got, data, SIZE);
		file_release(reader);
		partial_put(p);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_blocks_in_any_order),
		CASE(test_kill_keeps_blocks),
		CASE(test_hostile_maps),
		CASE(test_wrong_bytes),
		CASE(test_hashes_of_parts),
		CASE(test_hashed_once),
		CASE(test_fillers),
		CASE(test_holes),
		CASE(test_writers),
		CASE(test_whole_wins),
		CASE(test_removed_while_open),
		CASE(test_eviction),
		CASE(test_seek_and_notes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
