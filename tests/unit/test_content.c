/* Content: sealing at one instant, reading versions, content from elsewhere. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "tests/unit/cache_fixture.h"

#include "src/base/thread.h"

#define BIG ((size_t)3 << 20)

static uint64_t make_big(struct fixture *f, const char *name, int fill)
{
	char *block = malloc(BIG);
	struct file *file = make_open(f, ROOT_INO, name);
	uint64_t ino = file_ino(file);

	assert_non_null(block);
	memset(block, fill, BIG);
	assert_int_equal(file_write(file, block, BIG, 0, false), (ssize_t)BIG);
	file_release(file);
	free(block);
	return ino;
}

static void small_content_comes_inline(void **state)
{
	struct fixture *f = *state;
	CLEANUP(buf_done) struct buf bytes = {0};
	struct content_version v = {0};
	uint8_t hash[SHA256_SIZE];
	uint64_t ino = make_file(f, ROOT_INO, "f", "small");

	sha256("small", 5, hash);
	assert_int_equal(content_seal(f->cache, ino, 5, &bytes, &v), 0);
	assert_int_equal(bytes.len, 5);
	assert_memory_equal(bytes.data, "small", 5);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);
	assert_int_equal(content_seal(f->cache, ino, 4, &bytes, &v), 0);
	assert_int_equal(bytes.len, 0);
	assert_int_equal(v.size, 5);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);
	assert_int_equal(content_seal(f->cache, 999, 4, &bytes, &v), -ENOENT);
	assert_int_equal(content_seal(f->cache, ROOT_INO, 4, &bytes, &v), -EINVAL);
}

static void a_version_is_read_until_it_changes(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_big(f, "f", 'a');
	struct content_version v = seal_now(f, ino);
	struct content_reader *r = NULL;
	uint8_t got[SHA256_SIZE];
	struct file *file;
	char c;

	assert_int_equal(v.size, BIG);
	hash_of_version(f, ino, v.hash, got);
	assert_memory_equal(got, v.hash, SHA256_SIZE);
	got[0] ^= 1;
	assert_int_equal(content_open(f->cache, ino, got, &r), -EAGAIN);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), 0);
	assert_int_equal(content_read(r, &c, 1, 5), 1);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(content_read(r, &c, 1, 5), 1); /* an open alone changes nothing */
	assert_int_equal(file_write(file, "b", 1, BIG - 1, false), 1);
	assert_int_equal(content_read(r, &c, 1, 5), -ESTALE);
	content_close(r);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), -EAGAIN);
	file_release(file);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), -EAGAIN);
	v = seal_now(f, ino);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), 0);
	content_close(r);
}

static void a_snapshot_outlives_the_content(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_big(f, "f", 'a');
	struct content_version v;
	struct content_reader *r;
	uint8_t got[SHA256_SIZE];
	struct file *file;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "b", 1, 7, false), 1);
	v = seal_now(f, ino); /* with a writer: a snapshot */
	assert_int_equal(file_write(file, "c", 1, 7, false), 1);
	hash_of_version(f, ino, v.hash, got);
	assert_memory_equal(got, v.hash, SHA256_SIZE);
	content_drop_snapshots(f->cache, ino, v.hash, NULL);
	hash_of_version(f, ino, v.hash, got);
	content_drop_snapshots(f->cache, ino, NULL, NULL);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), -EAGAIN);
	v = seal_now(f, ino);
	file_release(file);
	assert_int_equal(tree_unlink(f->cache, ROOT_INO, slice_of("f")), 0);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), -EAGAIN);
}

static unsigned count_snapshots(struct fixture *f, uint64_t ino)
{
	char path[512];
	unsigned n = 0;

	snprintf(path, sizeof(path), "%s/snapshot/%016llx", f->dir, (unsigned long long)ino);
	DIR *dir = opendir(path);
	for (struct dirent *e; dir && (e = readdir(dir));)
		n += e->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return n;
}

/* A database that is open for days is sealed every few seconds. */
static void an_inode_keeps_two_snapshots(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_big(f, "f", 'a');
	struct content_version v, next;
	uint8_t got[SHA256_SIZE];
	struct file *file;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(file_write(file, i & 1 ? "b" : "c", 1, 7 + i, false), 1);
		v = seal_now(f, ino);
		assert_in_range(count_snapshots(f, ino), 1, 2);
		hash_of_version(f, ino, v.hash, got);
		assert_memory_equal(got, v.hash, SHA256_SIZE);
		/* What is taken and not committed, again and again, takes nothing from the upload. */
		for (unsigned k = 0; k < 3; k++) {
			assert_int_equal(file_write(file, k & 1 ? "d" : "e", 1, 20 + i, false), 1);
			assert_int_equal(content_seal(f->cache, ino, 0, NULL, &next), 0);
			assert_int_equal(count_snapshots(f, ino), 2);
		}
		hash_of_version(f, ino, v.hash, got);
		assert_memory_equal(got, v.hash, SHA256_SIZE);
	}
	file_release(file);
	v = seal_now(f, ino);
	assert_int_equal(count_snapshots(f, ino), 1);
	v = seal_now(f, ino);
	assert_int_equal(count_snapshots(f, ino), 0);
	hash_of_version(f, ino, v.hash, got);
	assert_memory_equal(got, v.hash, SHA256_SIZE);
}

/* What is sealed in a transaction that does not come about takes nothing away: neither from the version before,
 * nor from who seals that one again. */
static void what_is_older_goes_with_the_commit(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_big(f, "f", 'a');
	struct content_version v, next;
	struct content_reader *r;
	uint8_t got[SHA256_SIZE];
	struct file *file;
	struct conn *conn;

	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	assert_int_equal(file_write(file, "b", 1, 7, false), 1);
	v = seal_now(f, ino);
	assert_int_equal(file_write(file, "c", 1, 7, false), 1);
	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &next), 0);
	for (unsigned i = 0; i < 2; i++) {
		conn = fixture_begin(f);
		assert_int_equal(content_sealed(conn, &next), 0);
		assert_int_equal(count_snapshots(f, ino), 2);
		if (i == 0)
			cache_rollback(conn);
		else
			fixture_commit(conn);
		hash_of_version(f, ino, next.hash, got);
		assert_memory_equal(got, next.hash, SHA256_SIZE);
		if (i == 0) {
			hash_of_version(f, ino, v.hash, got);
			assert_memory_equal(got, v.hash, SHA256_SIZE);
		}
	}
	assert_int_equal(count_snapshots(f, ino), 1);
	assert_int_equal(content_open(f->cache, ino, v.hash, &r), -EAGAIN);
	file_release(file);
}

/* ---- one instant ---- */

struct twin {
	struct fixture *f;
	struct file *file;
	_Atomic bool stop;
};

/* Invariant: the number at the front is the one at the end, or one more. */
static void *count_twice(void *arg)
{
	struct twin *t = arg;

	for (uint64_t i = 1; !atomic_load(&t->stop); i++) {
		if (file_write(t->file, &i, sizeof(i), 0, false) != sizeof(i) ||
			file_write(t->file, &i, sizeof(i), BIG - sizeof(i), false) != sizeof(i))
			return t;
	}
	return NULL;
}

static void a_snapshot_is_of_one_instant(void **state)
{
	struct fixture *f = *state;
	struct twin t = {.f = f};
	pthread_t thread;
	void *failed;
	uint64_t last = 0, ino = make_big(f, "f", 0);

	assert_int_equal(file_open(f->cache, ino, true, false, &t.file), 0);
	assert_int_equal(thread_start(&thread, "count", count_twice, &t), 0);
	/* On a busy machine the other thread may not run for a while. */
	for (unsigned i = 0; i < 40 || (last == 0 && i < 4000); i++) {
		struct content_version v = seal_now(f, ino);
		struct content_reader *r = NULL;
		uint64_t front = 0, end = 0;
		uint8_t got[SHA256_SIZE];

		if (v.unchanged)
			continue; /* the other thread did not run; that version's snapshot is
				     dropped */
		assert_int_equal(content_open(f->cache, ino, v.hash, &r), 0);
		assert_int_equal(content_read(r, &front, sizeof(front), 0), sizeof(front));
		assert_int_equal(
			content_read(r, &end, sizeof(end), BIG - sizeof(end)), sizeof(end));
		content_close(r);
		assert_true(front == end || front == end + 1);
		assert_true(front >= last);
		last = front;
		hash_of_version(f, ino, v.hash, got);
		assert_memory_equal(got, v.hash, SHA256_SIZE);
		content_drop_snapshots(f->cache, ino, NULL, NULL);
	}
	assert_true(last > 0);
	atomic_store(&t.stop, true);
	pthread_join(thread, &failed);
	assert_null(failed);
	file_release(t.file);
}

static void *grow_and_shrink(void *arg)
{
	struct twin *t = arg;
	char block[4096];

	/* Every state is a run of full blocks of one letter that tells their number. */
	for (unsigned i = 0; !atomic_load(&t->stop); i++) {
		unsigned blocks = 64 + i * 37 % 256;

		memset(block, 'A', sizeof(block));
		if (i % 3 == 0) {
			if (file_truncate(t->file, (uint64_t)blocks * 4096))
				return t;
		} else if (file_write(t->file, block, sizeof(block), 0, true) != sizeof(block)) {
			return t;
		}
	}
	return NULL;
}

static void a_snapshot_has_the_size_of_its_instant(void **state)
{
	struct fixture *f = *state;
	struct twin t = {.f = f};
	pthread_t thread;
	void *failed;
	uint64_t ino = make_big(f, "f", 'A');

	assert_int_equal(file_open(f->cache, ino, true, false, &t.file), 0);
	assert_int_equal(thread_start(&thread, "grow", grow_and_shrink, &t), 0);
	for (unsigned i = 0; i < 40; i++) {
		struct content_version v = seal_now(f, ino);
		uint8_t got[SHA256_SIZE];

		if (v.unchanged)
			continue; /* the other thread did not run; that version's snapshot is
				     dropped */
		assert_int_equal(v.size % 4096, 0);
		hash_of_version(f, ino, v.hash, got);
		assert_memory_equal(got, v.hash, SHA256_SIZE);
		content_drop_snapshots(f->cache, ino, NULL, NULL);
	}
	atomic_store(&t.stop, true);
	pthread_join(thread, &failed);
	assert_null(failed);
	file_release(t.file);
}

/* ---- content from elsewhere ---- */

static uint64_t make_remote(struct fixture *f, const char *name, const char *text)
{
	struct inode_row row = {.mode = S_IFREG | 0600,
		.size = strlen(text),
		.mtime_ns = 1000000000,
		.state = STATE_REMOTE,
		.has_hash = true};
	struct conn *conn = fixture_begin(f);

	sha256(text, strlen(text), row.hash);
	assert_int_equal(inode_make(conn, ROOT_INO, slice_of(name), &row, NULL), 0);
	fixture_commit(conn);
	return row.ino;
}

static void remote_content_is_fetched_and_installed(void **state)
{
	struct fixture *f = *state;
	uint64_t size = 0, ino = make_remote(f, "r", "remote!");
	struct content_version v = {0};
	struct content_writer w;
	uint8_t hash[SHA256_SIZE];
	struct inode inode;
	struct file *file;
	struct key key;

	assert_int_equal(file_open(f->cache, ino, false, false, &file), -EREMOTE);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), -EREMOTE);
	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), -EREMOTE);
	assert_int_equal(content_wanted(f->cache, ino, &key, hash, &size), 0);
	assert_string_equal(key.p, "r");
	assert_int_equal(size, 7);
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_append(&w, "wrong", 5), 0);
	assert_int_equal(content_restart(&w), 0);
	assert_int_equal(content_append(&w, "remo", 4), 0);
	assert_int_equal(content_append(&w, "te!", 3), 0);
	assert_int_equal(content_install(f->cache, ino, &w), 0);
	assert_int_equal(content_wanted(f->cache, ino, &key, hash, &size), -EALREADY);
	assert_content(f, ino, "remote!");
	assert_int_equal(tree_getattr(f->cache, ino, &inode), 0);
	assert_int_equal(inode.mtime_ns, 1000000000);
	assert_string_equal(journal_text(f), "");
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_install(f->cache, ino, &w), -ESTALE);
	assert_int_equal(w.fd, -1);
	fixture_crash(f);
	assert_content(f, ino, "remote!");
	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), 0);
	assert_true(v.unchanged);
}

static void truncation_needs_no_fetch(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_remote(f, "r", "remote!");
	struct content_writer w;
	struct inode inode, set = {.size = 3};
	struct file *file;

	assert_int_equal(tree_setattr(f->cache, ino, SET_SIZE, &set, &inode), -EREMOTE);
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(file_open(f->cache, ino, true, true, &file), 0);
	assert_int_equal(content_append(&w, "remote!", 7), 0);
	assert_int_equal(content_install(f->cache, ino, &w), -ESTALE); /* too late */
	assert_int_equal(file_write(file, "own", 3, 0, false), 3);
	file_release(file);
	assert_string_equal(journal_text(f), "put r;");
	assert_content(f, ino, "own");
	assert_false(seal_now(f, ino).unchanged);
}

static void lost_content_is_fetched_again(void **state)
{
	struct fixture *f = *state;
	uint64_t gone = make_file(f, ROOT_INO, "gone", "text"),
		 cut = make_file(f, ROOT_INO, "cut", "text");
	uint64_t fresh = make_file(f, ROOT_INO, "fresh", "text");
	char name[CONTENT_NAME_SIZE], path[128];
	struct file *file;

	seal_now(f, gone);
	seal_now(f, cut);
	content_name(gone, name);
	snprintf(path, sizeof(path), "%s/content/%s", f->dir, name);
	assert_int_equal(unlink(path), 0);
	content_name(cut, name);
	snprintf(path, sizeof(path), "%s/content/%s", f->dir, name);
	assert_int_equal(truncate(path, 1), 0);
	content_name(fresh, name);
	snprintf(path, sizeof(path), "%s/content/%s", f->dir, name);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(file_open(f->cache, gone, false, false, &file), -EREMOTE);
	assert_int_equal(file_open(f->cache, cut, true, false, &file), -EREMOTE);
	assert_int_equal(file_open(f->cache, fresh, true, false, &file), -EIO);
	assert_int_equal(row_of(f, gone).state, STATE_REMOTE);
	assert_int_equal(row_of(f, cut).state, STATE_REMOTE);
}

static void clones_are_of_the_wanted_version(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_big(f, "f", 'a');
	struct content_version v = seal_now(f, ino);
	struct content_writer w;
	struct inode_row row = {.mode = S_IFREG | 0644, .state = STATE_LOCAL, .has_hash = true};
	struct conn *conn;
	uint8_t got[SHA256_SIZE];

	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_clone(f->cache, ino, v.hash, &w), 0);
	assert_int_equal(w.size, BIG);
	content_finish(&w);
	row.ino = w.ino;
	row.size = w.size;
	memcpy(row.hash, v.hash, SHA256_SIZE);
	conn = fixture_begin(f);
	assert_int_equal(inode_make(conn, ROOT_INO, slice_of("copy"), &row, NULL), 0);
	fixture_commit(conn);
	hash_of_version(f, w.ino, v.hash, got);
	assert_memory_equal(got, v.hash, SHA256_SIZE);
	got[3] ^= 1;
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_clone(f->cache, ino, got, &w), -EAGAIN);
	content_discard(f->cache, &w);
	assert_false(has_content(f, row.ino + 1));
}

static uint64_t allocated(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void holes_come_as_holes(void **state)
{
	struct fixture *f = *state;
	static char bytes[BIG];
	struct content_version v;
	struct content_writer w;
	uint64_t ino = make_big(f, "f", 0);
	uint8_t hash[SHA256_SIZE];

	/* Data, a hole, data, and a hole to the end. */
	memset(bytes, 'a', 65536);
	memset(bytes + (1 << 20), 'b', 65536);
	assert_int_equal(content_begin(f->cache, &w), 0);
	for (size_t at = 0; at < BIG; at += 65536)
		assert_int_equal(content_append(&w, bytes + at, 65536), 0);
	assert_int_equal(w.size, BIG);
	assert_in_range(allocated(w.fd), 131072, 4 * 65536);
	assert_int_equal(content_writer_hash(f->cache, &w, v.hash), 0);
	sha256(bytes, BIG, hash);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);
	/* Over data zeros are written. */
	memset(bytes + (1 << 20), 0, 65536);
	assert_int_equal(content_overwrite(&w, bytes + (1 << 20), 65536, 1 << 20), 0);
	assert_int_equal(content_writer_hash(f->cache, &w, v.hash), 0);
	sha256(bytes, BIG, hash);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);
	content_discard(f->cache, &w);

	/* So are those of a copy, and zeros that somebody wrote become one. */
	v = seal_now(f, ino);
	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_clone(f->cache, ino, v.hash, &w), 0);
	assert_int_equal(w.size, BIG);
	assert_int_equal(lseek(w.fd, 0, SEEK_END), BIG);
	assert_int_equal(content_writer_hash(f->cache, &w, hash), 0);
	assert_memory_equal(v.hash, hash, SHA256_SIZE);
	content_discard(f->cache, &w);
}

static void done(void *arg, int result)
{
	*(int *)arg = result;
}

static void without_a_fetcher_a_fetch_fails(void **state)
{
	struct fixture *f = *state;
	int result = 0;

	cache_fetch(f->cache, 5, done, &result);
	assert_int_equal(result, -EIO);
}

/* As long as it may take where the file system has no clones. */
static void a_snapshot_is_given_up_when_it_is_to(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_big(f, "big", 'a');
	int fd = content_file(f->cache, ino, O_RDONLY), to;
	struct content_version v;
	struct file *file;
	char name[100];

	snprintf(name, sizeof(name), "%s/clone", f->dir);
	to = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && to >= 0);
	bool clones = ioctl(to, FICLONE, fd) == 0;
	close(fd);
	close(to);
	assert_int_equal(file_open(f->cache, ino, true, false, &file), 0);
	content_stop_hashing(f->cache, 0);
	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), clones ? 0 : -EAGAIN);
	content_stop_hashing(f->cache, INT64_MAX);
	assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), 0);
	file_release(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_snapshot_is_given_up_when_it_is_to),
		TEST(small_content_comes_inline),
		TEST(a_version_is_read_until_it_changes),
		TEST(a_snapshot_outlives_the_content),
		TEST(an_inode_keeps_two_snapshots),
		TEST(what_is_older_goes_with_the_commit),
		TEST(a_snapshot_is_of_one_instant),
		TEST(a_snapshot_has_the_size_of_its_instant),
		TEST(remote_content_is_fetched_and_installed),
		TEST(truncation_needs_no_fetch),
		TEST(lost_content_is_fetched_again),
		TEST(clones_are_of_the_wanted_version),
		TEST(holes_come_as_holes),
		TEST(without_a_fetcher_a_fetch_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
