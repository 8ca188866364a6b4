/*
 * subject run STATE: a fixed sequence of file-system operations, sealing and delivery to a
 * directory; each operation is logged to standard output after it returned ("try" before, "ok" or
 * "failed ERRNO" after). subject list STATE: opens the state and prints every path with size and
 * SHA-256. SUBJECT_BOOT: the boot id to open with, after a power cut.
 *
 * Single-threaded, so that the number of a system call means the same in every run.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/file.h"
#include "cache/journal.h"
#include "cache/region.h"
#include "cache/tree.h"
#include "replicator/inline_cache.h"
#include "replicator/seal.h"
#include "src/base/log.h"

static struct cache *cache;

static void say(const char *fmt, ...) PRINTF(1, 2);
static void say(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	fflush(stdout);
}

static void result(int r)
{
	if (r == 0)
		say("ok\n");
	else
		say("failed %d\n", -r);
}

static int parent_of(const char *path, struct inode *parent)
{
	return tree_resolve(cache, key_parent(slice_of(path)), parent);
}

static void make_dir(const char *path)
{
	struct inode parent, made;

	say("try mkdir %s\n", path);
	int r = parent_of(path, &parent);
	result(r ? r
		 : tree_create(cache, parent.ino, key_name(slice_of(path)), S_IFDIR | 0755, 0, 0,
			   NULL, &made));
}

/* Writes size bytes of fill; sync: fsync before the close. */
static void put(const char *path, char fill, size_t size, bool sync)
{
	struct inode parent, inode;
	struct file *file = NULL;
	static char data[200000];
	int r;

	memset(data, fill, size);
	say("try put %s %c %zu %d\n", path, fill, size, sync);
	r = parent_of(path, &parent);
	if (r == 0) {
		r = tree_create_open(cache, parent.ino, key_name(slice_of(path)), S_IFREG | 0644, 0,
			0, true, &inode, &file);
		if (r == -EEXIST && (r = tree_resolve(cache, slice_of(path), &inode)) == 0)
			r = file_open(cache, inode.ino, true, true, &file);
	}
	if (r == 0) {
		ssize_t w = file_write(file, data, size, 0, false);
		r = w < 0 ? (int)w : 0;
		if (r == 0 && sync)
			r = file_fsync(file, false);
		file_release(file);
	}
	result(r);
}

static void move(const char *from, const char *to)
{
	struct inode a, b;

	say("try rename %s %s\n", from, to);
	int r = parent_of(from, &a);
	if (r == 0)
		r = parent_of(to, &b);
	result(r ? r
		 : tree_rename(cache, a.ino, key_name(slice_of(from)), b.ino,
			   key_name(slice_of(to)), 0));
}

static void drop(const char *path)
{
	struct inode parent;

	say("try unlink %s\n", path);
	int r = parent_of(path, &parent);
	result(r ? r : tree_unlink(cache, parent.ino, key_name(slice_of(path))));
}

static int run(void)
{
	static const char *const region[] = {"r"};
	struct inline_cache *inline_cache = inline_cache_new(1 << 20);
	struct sealer_options o = {.inline_max = 65536, .seal_after_ms = 5000};
	struct sealer *sealer = NULL;
	struct err err = {0};
	unsigned id;
	bool did;

	if (region_register(cache, region, 1, false, &id, &err) < 0 ||
		sealer_new(cache, &o, inline_cache, &sealer) < 0) {
		say("no region\n");
		inline_cache_free(inline_cache);
		return 3;
	}
	make_dir("d");
	put("d/one", 'a', 100, false);
	put("two", 'b', 5000, true);
	(void)!sealer_step(sealer, &did);
	put("d/one", 'c', 300, true);
	move("two", "d/two");
	put("three", 'd', 150000, false);
	move("d", "e");
	(void)!sealer_step(sealer, &did);
	put("e/four", 'e', 70000, true);
	drop("three");
	put("five", 'f', 10, false);
	move("five", "e/one");
	(void)!sealer_step(sealer, &did);
	(void)!cache_checkpoint(cache, 0);
	put("six", 'g', 4096, true);
	drop("e/two");
	put("seven", 'h', 20, false);
	/* The zero-length file after a crash: the flush is another file's. */
	put("eight", 'i', 5000, false);
	move("eight", "e/four");
	put("nine", 'j', 10, true);
	put("ten", 'k', 10, false);
	sealer_free(sealer);
	inline_cache_free(inline_cache);
	return 0;
}

static int print_path(void *ctx, struct slice key)
{
	struct key *list = ctx;
	size_t n = 0;
	while (list[n].len)
		n++;
	return n < 63 && key_set(&list[n], key) ? 0 : -E2BIG;
}

static int list(void)
{
	static struct key keys[64];
	struct conn *conn;

	if (cache_read_begin(cache, &conn) < 0)
		return 3;
	int r = journal_walk(conn, slice_of(""), slice_of(""), 1000, print_path, keys);
	cache_read_end(conn);
	for (size_t i = 0; r == 0 && keys[i].len; i++) {
		struct inode inode;
		struct file *file;
		static char data[400000];
		r = tree_resolve(cache, key_slice(&keys[i]), &inode);
		if (r < 0)
			break;
		if (S_ISDIR(inode.mode)) {
			say("dir %s\n", keys[i].p);
			continue;
		}
		r = file_open(cache, inode.ino, false, false, &file);
		if (r < 0) {
			say("unreadable %s %d\n", keys[i].p, r);
			r = 0;
			continue;
		}
		ssize_t got = file_read(file, data, sizeof data, 0);
		file_release(file);
		bool same = got > 0;
		for (ssize_t at = 1; at < got; at++)
			same = same && data[at] == data[0];
		say("file %s %zd %c\n", keys[i].p, got, got == 0 ? '-' : same ? data[0] : '?');
	}
	return r == 0 ? 0 : 3;
}

int main(int argc, char **argv)
{
	struct cache_options o = {.state_dir = argc == 3 ? argv[2] : NULL,
		.reserve_bytes = 1,
		.boot_id = getenv("SUBJECT_BOOT")};
	struct err err = {0};

	if (argc != 3)
		return 2;
	log_set_level(LOG_LEVEL_ERROR);
	if (cache_open(&o, &cache, &err) < 0) {
		say("cannot open: %s\n", err.text);
		return 4;
	}
	int r = strcmp(argv[1], "run") == 0 ? run() : list();
	cache_close(cache);
	say("done\n");
	return r;
}
