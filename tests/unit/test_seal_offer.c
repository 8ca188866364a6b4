/* Large files that are written to while they are sealed: their snapshots are taken in the background, others go
 * on, and what came after a snapshot neither goes with it nor is overtaken by what came later still. */
#include "engine_fixture.h"

#include <dirent.h>
#include <fcntl.h>

#include "cache/durability.h"
#include "cache/internal.h"
#include "replicator/seal_internal.h"

#define SIZE 5000u
#define ENDLESS (INT64_C(8) << 40) /* hours of hashing */

static int setup(void **state)
{
	int r = servers_setup(state);
	struct server *s = *state;

	if (r)
		return r;
	s->cache->hash_slice_ms = 0; /* all that is not inline is large */
	content_hurry(s->cache, 1);
	do_mkdir(s, "d");
	do_mkdir(s, "e");
	seal(s);
	return 0;
}

static void put(struct file *f, char c)
{
	char text[SIZE];

	memset(text, c, SIZE);
	assert_int_equal(file_write(f, text, SIZE, 0, false), SIZE);
	assert_int_equal(file_fsync(f, false), 0);
}

/* Open, with a journal row. */
static struct file *make_open(struct server *s, const char *path, char c)
{
	struct slice key = slice_of(path);
	struct file *f;
	struct inode i;

	assert_int_equal(tree_create_open(s->cache, ino_of(s, key_parent(key)), key_name(key),
				 S_IFREG | 0600, 0, 0, true, &i, &f),
		0);
	put(f, c);
	return f;
}

/* What the entry's content was written with; ' ': there is none; '?': something else. */
static char sealed(struct server *s, const char *path)
{
	CLEANUP(entry_done) struct entry e = {0};
	uint8_t hash[SHA256_SIZE];
	char text[SIZE];

	get_entry(s, path, &e);
	if (e.kind != KIND_FILE)
		return ' ';
	for (char c = 'a'; c <= 'z'; c++) {
		memset(text, c, SIZE);
		sha256(text, e.size < SIZE ? (size_t)e.size : SIZE, hash);
		if (memcmp(hash, e.hash, SHA256_SIZE) == 0)
			return c;
	}
	return '?';
}

static bool step(struct server *s)
{
	bool did;

	assert_int_equal(sealer_step(s->sealer, &did), 0);
	return did;
}

static void wait_for(struct server *s, unsigned count)
{
	struct content_snapshot found[CONTENT_SNAPSHOTS_MAX];

	for (unsigned n = 0; content_snapshots(s->cache, found) != count; n++) {
		assert_true(n < 600);
		content_wait_snapshot(s->cache, 100);
		if (n)
			usleep(1000);
	}
}

/* Until all is sealed. */
static void settle(struct server *s)
{
	for (unsigned n = 0; journal_rows(s); n++) {
		assert_true(n < 1000);
		if (!step(s))
			content_wait_snapshot(s->cache, 100);
	}
}

static unsigned snapshot_files(struct server *s, uint64_t ino)
{
	char path[128];
	struct dirent *e;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/snapshot/%016llx", s->dir, (unsigned long long)ino);
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		n += e->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return n;
}

static void assert_gone(struct server *s, uint64_t ino)
{
	for (unsigned n = 0; snapshot_files(s, ino); n++) {
		assert_true(n < 5000);
		usleep(1000);
	}
}

static void others_are_sealed_meanwhile(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	assert_int_equal(file_truncate(f, ENDLESS), 0);
	do_write(s, "d/beside", "x");
	do_write(s, "e/small", "x");
	assert_true(step(s));
	assert_int_equal(sealed(s, "e/small"), 'x');
	assert_int_equal(sealed(s, "d/beside"), ' ');
	do_write(s, "e/small", "yy");
	assert_true(step(s));
	assert_int_equal(sealed(s, "e/small"), 'y');
	/* It is to end now. */
	content_stop_hashing(s->cache, 0);
	content_end_snapshots(s->cache);
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	assert_int_equal(sealed(s, "d/big"), ' ');
	content_stop_hashing(s->cache, INT64_MAX);
	assert_int_equal(file_truncate(f, SIZE), 0);
	settle(s);
	assert_int_equal(sealed(s, "d/big"), 'a');
	assert_int_equal(sealed(s, "d/beside"), 'x');
	file_release(f);
}

/* What was written after the snapshot, and announced by a marker. */
static void a_marker_waits_for_what_it_announces(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	do_write(s, "d/before", "x");
	(void)step(s);
	wait_for(s, 1);
	put(f, 'b');
	do_write(s, "d/marker", "m");
	do_write(s, "e/small", "x");
	assert_true(step(s));
	assert_int_equal(sealed(s, "d/big"), 'a');
	assert_int_equal(sealed(s, "d/before"), 'x');
	assert_int_equal(sealed(s, "d/marker"), ' ');
	for (unsigned n = 0; sealed(s, "d/big") == 'a'; n++) {
		assert_true(n < 1000);
		assert_int_equal(sealed(s, "d/marker"), ' ');
		if (!step(s))
			content_wait_snapshot(s->cache, 100);
	}
	settle(s);
	assert_int_equal(sealed(s, "d/big"), 'b');
	assert_int_equal(sealed(s, "d/marker"), 'm');
	assert_int_equal(sealed(s, "e/small"), 'x');
	file_release(f);
}

/* One that was there before, and waits with it. */
static void a_marker_that_is_written_again_waits(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	do_write(s, "d/marker", "m");
	(void)step(s);
	wait_for(s, 1);
	put(f, 'b');
	do_write(s, "d/marker", "n");
	for (unsigned n = 0; sealed(s, "d/marker") != 'n'; n++) {
		assert_true(n < 1000);
		assert_true(sealed(s, "d/marker") == ' ');
		if (!step(s))
			content_wait_snapshot(s->cache, 100);
	}
	assert_int_equal(sealed(s, "d/big"), 'b');
	settle(s);
	file_release(f);
}

/* Both, after each snapshot: it does not wait for ever. */
static void a_file_that_is_never_at_rest_is_sealed(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');
	unsigned snapshots = 0;
	char c = 'a';

	do_write(s, "d/marker", "m");
	(void)step(s);
	while (sealed(s, "d/big") == ' ') {
		assert_true(++snapshots < 6);
		wait_for(s, 1); /* the last step has asked for it */
		put(f, ++c);
		do_write(s, "d/marker", "n");
		(void)step(s);
	}
	assert_int_equal(sealed(s, "d/big"), c - 1);
	assert_int_equal(snapshots, 3);
	settle(s);
	file_release(f);
	settle(s);
	assert_int_equal(sealed(s, "d/big"), c);
}

static void each_snapshot_is_a_version(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	for (char c = 'b'; c < 'f'; c++) {
		(void)step(s); /* the one before has ended with the version */
		wait_for(s, 1);
		put(f, c);
		assert_true(step(s));
		assert_int_equal(sealed(s, "d/big"), c - 1);
	}
	file_release(f);
	settle(s);
	assert_int_equal(sealed(s, "d/big"), 'e');
	assert_int_equal(snapshot_files(s, ino_of(s, slice_of("d/big"))), 1); /* for its upload */
}

/* More of them in a directory than wait in the background: those that do would wait for the others for ever. */
static void more_than_there_is_room_for(void **state)
{
	enum { MANY = CONTENT_SNAPSHOTS_MAX + 3 };
	struct server *s = *state;
	struct file *f[MANY];
	char path[32];

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(path, sizeof(path), "d/file%u", i);
		f[i] = make_open(s, path, 'a' + (char)(i % 26));
	}
	settle(s);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(path, sizeof(path), "d/file%u", i);
		assert_int_equal(sealed(s, path), 'a' + i % 26);
		file_release(f[i]);
	}
}

static void renamed_meanwhile(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	(void)step(s);
	wait_for(s, 1);
	do_rename(s, "d/big", "e/moved");
	do_write(s, "e/after", "x");
	settle(s);
	assert_int_equal(sealed(s, "d/big"), ' ');
	assert_int_equal(sealed(s, "e/moved"), 'a');
	assert_int_equal(sealed(s, "e/after"), 'x');
	file_release(f);
}

static void removed_meanwhile(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');
	uint64_t ino = ino_of(s, slice_of("d/big"));

	(void)step(s);
	wait_for(s, 1);
	do_unlink(s, "d/big");
	file_release(f);
	settle(s);
	assert_int_equal(sealed(s, "d/big"), ' ');
	assert_gone(s, ino);
	/* And while it is being taken. */
	f = make_open(s, "d/big", 'a');
	ino = ino_of(s, slice_of("d/big"));
	assert_int_equal(file_truncate(f, ENDLESS), 0);
	(void)step(s);
	do_unlink(s, "d/big");
	do_write(s, "d/big", "x");
	file_release(f);
	settle(s);
	assert_int_equal(sealed(s, "d/big"), 'x');
	assert_gone(s, ino);
}

/* The last writer is gone, and what it wrote last is sealed in place; cut to nothing, it is sealed inline. */
static void closed_or_cut_meanwhile(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a'), *g;

	(void)step(s);
	wait_for(s, 1);
	put(f, 'b');
	file_release(f);
	settle(s);
	assert_int_equal(sealed(s, "d/big"), 'b');
	g = make_open(s, "d/cut", 'c');
	(void)step(s);
	wait_for(s, 1);
	assert_int_equal(file_truncate(g, 3), 0);
	assert_int_equal(file_fsync(g, false), 0);
	settle(s);
	assert_int_equal(inode_at(s, "d/cut").size, 3);
	assert_int_equal(sealed(s, "d/cut"), 'c');
	file_release(g);
}

static void all_names_of_a_file(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	do_link(s, "d/big", "other");
	(void)step(s);
	wait_for(s, 1);
	put(f, 'b');
	assert_true(step(s));
	assert_int_equal(sealed(s, "d/big"), 'a');
	assert_int_equal(sealed(s, "other"), 'a');
	settle(s);
	assert_int_equal(sealed(s, "d/big"), 'b');
	assert_int_equal(sealed(s, "other"), 'b');
	file_release(f);
}

/* A directory's rename does not wait; its row is done, and the file has one of its own. */
static void below_a_directory_that_is_renamed(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	(void)step(s);
	wait_for(s, 1);
	do_rename(s, "d", "dir");
	put(f, 'b');
	settle(s);
	assert_int_equal(sealed(s, "dir/big"), 'b');
	assert_int_equal(sealed(s, "d/big"), ' ');
	file_release(f);
}

static void one_key_does_not_wait(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');

	assert_int_equal(file_truncate(f, ENDLESS), 0);
	assert_int_equal(sealer_seal_key(s->sealer, slice_of("d/big")), -EAGAIN);
	content_stop_hashing(s->cache, 0);
	content_end_snapshots(s->cache);
	content_stop_hashing(s->cache, INT64_MAX);
	assert_int_equal(file_truncate(f, SIZE), 0);
	(void)step(s);
	wait_for(s, 1);
	assert_int_equal(file_fsync(f, false), 0);
	for (int r = -EAGAIN; r; r = sealer_seal_key(s->sealer, slice_of("d/big"))) {
		assert_int_equal(r, -EAGAIN);
		content_wait_snapshot(s->cache, 100);
	}
	assert_int_equal(sealed(s, "d/big"), 'a');
	file_release(f);
}

struct writing {
	struct server *s;
	struct file *f;
	unsigned ticks;
};

static int write_on(void *ctx)
{
	struct writing *w = ctx;

	put(w->f, (char)('b' + w->ticks++ % 20));
	assert_true(w->ticks < 10000);
	return 0;
}

static int stop_third(void *ctx)
{
	struct writing *w = ctx;

	return ++w->ticks == 3 ? -ECANCELED : 0;
}

static void a_flush_waits_for_snapshots(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a'), *g = make_open(s, "e/big", 'b');
	struct writing w = {s, f, 0};

	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	assert_int_equal(journal_rows(s), 0);
	assert_int_equal(sealed(s, "d/big"), 'a');
	assert_int_equal(sealed(s, "e/big"), 'b');
	/* Not for what is written after it began. */
	put(f, 'z');
	assert_int_equal(sealer_seal_all(s->sealer, write_on, &w), 0);
	assert_true(w.ticks > 0);
	assert_int_not_equal(sealed(s, "d/big"), 'a');
	/* And it can be stopped. */
	assert_int_equal(file_truncate(g, ENDLESS), 0);
	assert_int_equal(file_fsync(g, false), 0);
	w.ticks = 0;
	assert_int_equal(sealer_seal_all(s->sealer, stop_third, &w), -ECANCELED);
	do_write(s, "small", "x");
	step(s);
	assert_int_equal(sealed(s, "small"), 'x');
	file_release(f);
	file_release(g);
}

/* It is no failure of all sealing; who waits for all is told. */
static void one_cannot_be_taken(void **state)
{
	struct server *s = *state;
	struct file *f = make_open(s, "d/big", 'a');
	char path[128];
	int fd;

	/* A file where the snapshots' directory is to be. */
	snprintf(path, sizeof(path), "%s/snapshot", s->dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	do_write(s, "e/small", "x");
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), -ENOTDIR);
	assert_int_equal(sealed(s, "e/small"), 'x');
	for (unsigned i = 0; i < 5; i++)
		assert_false(step(s));
	assert_int_equal(content_failed_snapshot(s->cache), -ENOTDIR);
	do_write(s, "e/small", "yy");
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), -ENOTDIR);
	assert_int_equal(sealed(s, "e/small"), 'y');
	assert_int_equal(sealed(s, "d/big"), ' ');
	assert_int_equal(unlink(path), 0);
	for (unsigned i = 0; journal_rows(s); i++) {
		assert_true(i < 60);
		usleep(100000);
		step(s);
	}
	assert_int_equal(sealed(s, "d/big"), 'a');
	assert_int_equal(sealer_seal_all(s->sealer, NULL, NULL), 0);
	file_release(f);
}

#define OFFER_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, servers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OFFER_TEST(others_are_sealed_meanwhile),
		OFFER_TEST(a_marker_waits_for_what_it_announces),
		OFFER_TEST(a_marker_that_is_written_again_waits),
		OFFER_TEST(a_file_that_is_never_at_rest_is_sealed),
		OFFER_TEST(each_snapshot_is_a_version),
		OFFER_TEST(more_than_there_is_room_for),
		OFFER_TEST(renamed_meanwhile),
		OFFER_TEST(removed_meanwhile),
		OFFER_TEST(closed_or_cut_meanwhile),
		OFFER_TEST(all_names_of_a_file),
		OFFER_TEST(below_a_directory_that_is_renamed),
		OFFER_TEST(one_key_does_not_wait),
		OFFER_TEST(a_flush_waits_for_snapshots),
		OFFER_TEST(one_cannot_be_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
