/* Writes that reach the content file without passing through the cache: they are noticed, and no
 * version is ever torn. */
#include "tests/unit/cache_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "src/base/clock.h"
#include "src/base/thread.h"

#define SIZE ((uint64_t)24 << 20)
#define PLACE_A 4096
#define PLACE_B (SIZE - 8192)

/* The system's clock, ahead by what was skipped: after an attempt a file is left alone for a multiple of
 * the time that it took, which on a busy machine is longer than a test can wait. */
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

static void skip_the_wait(void)
{
	atomic_fetch_add(&skipped_ms, 3600000);
}

static int open_behind(struct fixture *f, uint64_t ino, int flags)
{
	char name[CONTENT_NAME_SIZE], path[128];
	int fd;

	content_name(ino, name);
	snprintf(path, sizeof(path), "%s/content/%s", f->dir, name);
	fd = open(path, flags | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static struct file *open_unseen(struct fixture *f, uint64_t ino, int flags)
{
	struct file *file = NULL;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	file_unseen(file, flags);
	return file;
}

static void put_behind(int fd, const char *text)
{
	assert_int_equal(pwrite(fd, text, strlen(text), 0), (ssize_t)strlen(text));
}

/* ---- noticing ---- */

static void each_close_journals_what_was_written_unseen(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "before");
	struct file *file;
	uint8_t hash[SHA256_SIZE];
	int fd;

	seal_now(f, ino);
	journal_clear(f);
	file = open_unseen(f, ino, O_WRONLY);
	fd = open_behind(f, ino, O_RDWR);
	assert_int_equal(file_flush(file), 0);
	assert_string_equal(journal_text(f), "");
	put_behind(fd, "after!");
	assert_int_equal(file_flush(file), 0);
	assert_string_equal(journal_text(f), "put f;");
	assert_int_equal(file_flush(file), 0);
	assert_string_equal(journal_text(f), "put f;");
	put_behind(fd, "again!");
	assert_int_equal(file_flush(file), 0);
	assert_string_equal(journal_text(f), "put f;put f;");
	close(fd);
	file_release(file);
	/* Of one tick, on a file system whose times have ticks: then one row more is right, too. */
	if (f->cache->times_distinct)
		assert_string_equal(journal_text(f), "put f;put f;");
	sha256("again!", 6, hash);
	assert_memory_equal(seal_now(f, ino).hash, hash, SHA256_SIZE);
	assert_false(row_of(f, ino).dirty);
}

static void what_nobody_wrote_is_clean_again(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "same");
	struct file *file;

	seal_now(f, ino);
	journal_clear(f);
	clock_sleep_ms(15);
	file = open_unseen(f, ino, O_WRONLY);
	assert_true(row_of(f, ino).dirty);
	file_release(file);
	assert_string_equal(journal_text(f), "");
	assert_false(row_of(f, ino).dirty);
}

static void an_open_file_is_journalled_and_shown(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "1");
	struct file *file;
	struct inode_row row;
	struct inode inode;
	int fd;

	seal_now(f, ino);
	journal_clear(f);
	file = open_unseen(f, ino, O_WRONLY);
	fd = open_behind(f, ino, O_RDWR);
	row = row_of(f, ino);
	put_behind(fd, "12345");
	assert_true(file_has_unsealed(f->cache, &row));
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_int_equal(inode.size, 5);
	assert_int_equal(file_journal_due(f->cache, 100000), 0);
	assert_string_equal(journal_text(f), "");
	assert_int_equal(file_journal_due(f->cache, 0), 0);
	assert_string_equal(journal_text(f), "put f;");
	put_behind(fd, "54321");
	assert_int_equal(file_fsync(file, true), 0);
	assert_string_equal(journal_text(f), "put f;put f;");
	close(fd);
	file_release(file);
}

/* As if the file system's clock had ticks of its own. */
static void a_write_of_the_same_tick_is_not_missed(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "aaaa");
	struct file *file;
	uint8_t hash[SHA256_SIZE];
	struct stat st;
	int fd;

	seal_now(f, ino);
	f->cache->times_distinct = false;
	file = open_unseen(f, ino, O_WRONLY);
	fd = open_behind(f, ino, O_RDWR);
	for (int i = 0; i < 200; i++) {
		char text[5];

		snprintf(text, sizeof(text), "%04d", i);
		put_behind(fd, text);
		assert_int_equal(file_flush(file), 0);
	}
	assert_int_equal(fstat(fd, &st), 0);
	put_behind(fd, "last");
	/* No stat in between: the same time as the one before, where times have ticks. */
	close(fd);
	file_release(file);
	sha256("last", 4, hash);
	assert_memory_equal(seal_now(f, ino).hash, hash, SHA256_SIZE);
	assert_false(row_of(f, ino).dirty);
}

static void a_version_being_read_is_given_up(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "version 1");
	struct content_reader *r = NULL;
	struct content_version v;
	struct file *file;
	char text[16];
	int fd;

	v = seal_now(f, ino);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), 0);
	file = open_unseen(f, ino, O_RDWR);
	fd = open_behind(f, ino, O_RDWR);
	clock_sleep_ms(15);
	put_behind(fd, "version 2");
	assert_int_equal(content_read(r, text, sizeof(text), 0), -ESTALE);
	content_close(r);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), -EAGAIN);
	close(fd);
	file_release(file);
}

/* ---- one instant ---- */

struct writer {
	int fd;
	uint8_t *map; /* write by stores, fd otherwise */
	pthread_mutex_t inode_lock;
	_Atomic bool stop;
	_Atomic bool lock_works;
	_Atomic uint64_t turns;
	unsigned held;
	int64_t pause_us;
	pthread_t thread;
};

static void put_number(struct writer *w, uint64_t at, uint64_t n)
{
	if (w->map) {
		memcpy(w->map + at, &n, sizeof(n));
		return;
	}
	pthread_mutex_lock(&w->inode_lock);
	assert_int_equal(pwrite(w->fd, &n, sizeof(n), (off_t)at), (ssize_t)sizeof(n));
	pthread_mutex_unlock(&w->inode_lock);
}

static void *write_on(void *arg)
{
	struct writer *w = arg;

	for (uint64_t n = 1; !atomic_load(&w->stop); n++) {
		put_number(w, PLACE_A, n);
		atomic_thread_fence(memory_order_seq_cst);
		put_number(w, PLACE_B, n);
		atomic_store(&w->turns, n);
		if (w->pause_us)
			usleep((useconds_t)w->pause_us);
	}
	return NULL;
}

static int hold(void *ctx, uint64_t ino UNUSED, struct slice key, cache_hold_run run, void *arg)
{
	struct writer *w = ctx;
	int r;

	assert_true(slice_equal(key, slice_of("f")));
	w->held++;
	if (!atomic_load(&w->lock_works))
		return run(arg);
	pthread_mutex_lock(&w->inode_lock);
	r = run(arg);
	pthread_mutex_unlock(&w->inode_lock);
	return r;
}

static void writer_start(struct fixture *f, struct writer *w, struct file *file, bool map)
{
	static const char block[1 << 20];

	w->fd = open_behind(f, file_ino(file), O_RDWR);
	pthread_mutex_init(&w->inode_lock, NULL);
	atomic_store(&w->lock_works, true);
	assert_int_equal(ftruncate(w->fd, (off_t)SIZE), 0);
	for (uint64_t at = 0; at < SIZE; at += sizeof(block))
		assert_int_equal(
			pwrite(w->fd, block, sizeof(block), (off_t)at), (ssize_t)sizeof(block));
	if (map) {
		w->map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, 0);
		assert_true(w->map != MAP_FAILED);
	}
	assert_int_equal(pthread_create(&w->thread, NULL, write_on, w), 0);
	while (atomic_load(&w->turns) < 10)
		usleep(100);
}

static void writer_stop(struct writer *w)
{
	atomic_store(&w->stop, true);
	pthread_join(w->thread, NULL);
	if (w->map)
		munmap(w->map, SIZE);
	close(w->fd);
	pthread_mutex_destroy(&w->inode_lock);
}

/* Whether A and B of that version are of one instant; what is there must have the hash. */
static bool is_whole(struct fixture *f, const struct content_version *v)
{
	struct content_reader *r = NULL;
	uint8_t *all = malloc(SIZE), hash[SHA256_SIZE];
	uint64_t a, b;

	assert_non_null(all);
	assert_int_equal(v->size, SIZE);
	assert_int_equal(content_open(f->cache, v->ino, v->hash, &r), 0);
	assert_int_equal(content_read(r, all, SIZE, 0), (ssize_t)SIZE);
	content_close(r);
	sha256(all, SIZE, hash);
	assert_memory_equal(hash, v->hash, SHA256_SIZE);
	memcpy(&a, all + PLACE_A, sizeof(a));
	memcpy(&b, all + PLACE_B, sizeof(b));
	free(all);
	return a >= b && a - b <= 1;
}

static int seal_in_time(struct fixture *f, uint64_t ino, struct content_version *v)
{
	struct conn *conn;
	int r = -EAGAIN;

	for (int i = 0; r == -EAGAIN && i < 400; i++) {
		skip_the_wait();
		r = content_seal(f->cache, ino, 0, NULL, v);
		if (r == -EAGAIN)
			usleep(10000);
	}
	if (r)
		return r;
	conn = fixture_begin(f);
	assert_int_equal(content_sealed(conn, v), 0);
	fixture_commit(conn);
	return 0;
}

static void a_writer_that_never_pauses_is_held(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "");
	struct file *file = open_unseen(f, ino, O_WRONLY);
	struct content_version v = {0};
	struct writer w = {0};

	writer_start(f, &w, file, false);
	cache_set_holder(f->cache, hold, &w);
	/* A busy machine makes even this writer pause now and then. */
	for (int i = 0; i < 20 && w.held < 2; i++) {
		assert_int_equal(seal_in_time(f, ino, &v), 0);
		assert_true(is_whole(f, &v));
		assert_true(row_of(f, ino).dirty);
	}
	writer_stop(&w);
	assert_int_equal(w.held, 2);
	file_release(file);
	assert_int_equal(seal_in_time(f, ino, &v), 0);
	assert_true(is_whole(f, &v));
	assert_false(row_of(f, ino).dirty);
}

static void without_a_holder_it_waits_and_is_named(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", ""), count[TROUBLE_KINDS];
	struct file *file = open_unseen(f, ino, O_WRONLY);
	struct cache_trouble_file named[4];
	struct content_version v = {0};
	struct writer w = {0};
	int r = 0;

	writer_start(f, &w, file, false);
	for (int i = 0; r == 0 && i < 50; i++)
		r = content_seal(f->cache, ino, 0, NULL, &v);
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(cache_troubles(f->cache, named, 4, count), 1);
	assert_int_equal(count[TROUBLE_BUSY], 1);
	assert_string_equal(named[0].key.p, "f");
	writer_stop(&w);
	file_release(file);
	assert_int_equal(seal_in_time(f, ino, &v), 0);
	assert_true(is_whole(f, &v));
	assert_int_equal(cache_troubles(f->cache, named, 4, count), 0);
}

/* With pauses between the numbers, which nothing tells of but the file's times. */
static void a_writer_that_pauses_needs_no_holder(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "");
	struct file *file = open_unseen(f, ino, O_WRONLY);
	struct content_version v = {0};
	struct writer w = {.pause_us = 150000};

	writer_start(f, &w, file, false);
	assert_int_equal(seal_in_time(f, ino, &v), 0);
	assert_true(is_whole(f, &v));
	writer_stop(&w);
	file_release(file);
}

static void stores_into_a_mapping_do_not_tear(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "");
	struct file *file = open_unseen(f, ino, O_RDWR);
	struct content_version v = {0};
	struct writer w = {0};
	unsigned taken = 0;

	writer_start(f, &w, file, true);
	cache_set_holder(f->cache, hold, &w);
	for (int i = 0; i < 4; i++) {
		int r;

		skip_the_wait();
		r = content_seal(f->cache, ino, 0, NULL, &v);

		assert_true(r == 0 || r == -EAGAIN);
		if (r == 0 && ++taken)
			assert_true(is_whole(f, &v));
		usleep(20000);
	}
	writer_stop(&w);
	assert_int_equal(seal_in_time(f, ino, &v), 0);
	assert_true(is_whole(f, &v));
	cache_set_holder(f->cache, NULL, NULL);
	file_release(file);
}

static void *append_on(void *arg)
{
	struct writer *w = arg;

	for (unsigned n = 0; !atomic_load(&w->stop); n++) {
		char line[16];

		snprintf(line, sizeof(line), "%07u\n", n);
		assert_int_equal(write(w->fd, line, 8), 8);
		atomic_store(&w->turns, n);
	}
	return NULL;
}

static void a_log_is_cut_at_its_size(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", ""), last = 0;
	struct file *file = open_unseen(f, ino, O_WRONLY | O_APPEND);
	struct writer w = {.fd = open_behind(f, ino, O_WRONLY | O_APPEND)};

	assert_int_equal(pthread_create(&w.thread, NULL, append_on, &w), 0);
	while (atomic_load(&w.turns) < 1000)
		usleep(100);
	for (int i = 0; i < 5; i++) {
		struct content_version v = {0};
		struct content_reader *r = NULL;
		char *all;

		while (atomic_load(&w.turns) < last / 8)
			usleep(100);
		assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), 0);
		assert_true(v.size > last && v.size % 8 == 0);
		last = v.size;
		all = malloc(v.size + 1);
		assert_non_null(all);
		assert_int_equal(content_open(f->cache, ino, v.hash, &r), 0);
		assert_int_equal(content_read(r, all, v.size, 0), (ssize_t)v.size);
		all[v.size] = '\0';
		for (uint64_t at = 0; at < v.size; at += 8)
			assert_int_equal(strtoul(all + at, NULL, 10), at / 8);
		content_close(r);
		free(all);
		/* However busy the machine is: there is more by the next one. */
		for (uint64_t seen = atomic_load(&w.turns); atomic_load(&w.turns) < seen + 2;)
			usleep(1000);
	}
	atomic_store(&w.stop, true);
	pthread_join(w.thread, NULL);
	close(w.fd);
	file_release(file);
}

/* The rule is what keeps versions whole: with a holder that does not hold, a torn one is found out
 * and thrown away. */
static void a_hold_that_does_not_hold_is_noticed(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "");
	struct file *file = open_unseen(f, ino, O_WRONLY);
	struct writer w = {0};

	writer_start(f, &w, file, false);
	atomic_store(&w.lock_works, false);
	cache_set_holder(f->cache, hold, &w);
	for (int i = 0; i < 20 && w.held < 2; i++) {
		struct content_version v = {0};

		skip_the_wait();
		if (content_seal(f->cache, ino, 0, NULL, &v) == 0)
			assert_true(is_whole(f, &v));
	}
	writer_stop(&w);
	cache_set_holder(f->cache, NULL, NULL);
	file_release(file);
}

static void holes_stay_holes(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "");
	struct file *file = open_unseen(f, ino, O_WRONLY);
	int fd = open_behind(f, ino, O_RDWR);
	struct content_version v = {0};
	char hex[SHA256_HEX_SIZE], path[256];
	struct stat st;

	put_behind(fd, "start");
	assert_int_equal(ftruncate(fd, (off_t)64 << 20), 0);
	assert_int_equal(seal_in_time(f, ino, &v), 0);
	assert_int_equal(v.size, (uint64_t)64 << 20);
	hex_encode(v.hash, SHA256_SIZE, hex);
	snprintf(
		path, sizeof(path), "%s/snapshot/%016llx/%s", f->dir, (unsigned long long)ino, hex);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, (off_t)64 << 20);
	assert_true(st.st_blocks * 512 < 1 << 20);
	close(fd);
	file_release(file);
}

/* ---- content that is missing ---- */

static void lost_content_is_an_error_of_its_file_only(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "never sealed"), count[TROUBLE_KINDS];
	uint64_t other = make_file(f, ROOT_INO, "other", "fine");
	char name[CONTENT_NAME_SIZE], path[128];
	struct cache_trouble_file named[4];
	struct content_version v = {0};
	struct file *file = NULL;

	content_name(ino, name);
	snprintf(path, sizeof(path), "%s/content/%s", f->dir, name);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(file_open(f->cache, ino, false, false, &file), -EIO);
	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), -ENODATA);
	assert_int_equal(cache_troubles(f->cache, named, 4, count), 1);
	assert_int_equal(count[TROUBLE_LOST], 1);
	assert_string_equal(named[0].key.p, "f");
	assert_content(f, other, "fine");
	/* Written anew it is well. */
	assert_int_equal(file_open(f->cache, ino, true, true, &file), 0);
	assert_int_equal(file_write(file, "new", 3, 0, false), 3);
	file_release(file);
	assert_content(f, ino, "new");
	assert_int_equal(cache_troubles(f->cache, named, 4, count), 0);
	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	static const struct clock_source source = {
		.realtime_ns = realtime_ns, .monotonic_ms = monotonic_ms, .sleep_ms = sleep_ms};
	const struct CMUnitTest tests[] = {
		TEST(each_close_journals_what_was_written_unseen),
		TEST(what_nobody_wrote_is_clean_again),
		TEST(an_open_file_is_journalled_and_shown),
		TEST(a_write_of_the_same_tick_is_not_missed),
		TEST(a_version_being_read_is_given_up),
		TEST(a_writer_that_never_pauses_is_held),
		TEST(without_a_holder_it_waits_and_is_named),
		TEST(a_writer_that_pauses_needs_no_holder),
		TEST(stores_into_a_mapping_do_not_tear),
		TEST(a_log_is_cut_at_its_size),
		TEST(a_hold_that_does_not_hold_is_noticed),
		TEST(holes_stay_holes),
		TEST(lost_content_is_an_error_of_its_file_only),
	};

	clock_set_source(&source);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
