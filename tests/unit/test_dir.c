/* What only a directory store has: plain files, other tools' files, planted links, obstacles,
 * vanished disks, several processes, crashes. Everything runs with records in xattrs and in
 * sidecars. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "replicator/store/dir.h"
#include "src/base/clock.h"
#include "src/base/random.h"

enum { SKIP = 77 };

static bool sidecar;
static char top[64]; /* holds the bucket and what lies beside it */
static struct store *s;

static const char *path_of(const char *fmt, ...) PRINTF(1, 2);
static const char *path_of(const char *fmt, ...)
{
	static char ring[8][2048];
	static unsigned at;
	char *p = ring[at++ % 8];
	va_list ap;

	int n = snprintf(p, sizeof(ring[0]), "%s/", top);
	va_start(ap, fmt);
	vsnprintf(p + n, sizeof(ring[0]) - (size_t)n, fmt, ap);
	va_end(ap);
	return p;
}

static struct store *open_as(bool used)
{
	char url[128];
	struct store_config c = {.name = "here", .url = url, .used = used};
	struct store *ret = NULL;
	struct err err = {0};

	snprintf(url, sizeof(url), "file://%s/bucket", top);
	if (store_dir_open(&c, &ret, &err) < 0)
		print_error("%s\n", err.text);
	return ret;
}

static struct store *open_store(void)
{
	return open_as(false);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void assert_file(const char *path, const char *text)
{
	char b[256] = "";
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, b, sizeof(b) - 1) >= 0);
	close(fd);
	assert_string_equal(b, text);
}

static void force_sidecar(void)
{
	assert_int_equal(mkdir(path_of("bucket/.meridian-tmp"), 0700), 0);
	write_file(path_of("bucket/.meridian-tmp/store"),
		"meridian-dir 1 sidecar 0123456789abcdef0123456789abcdef\n");
}

static int setup(void **state)
{
	snprintf(top, sizeof(top), "/tmp/meridian-dir.XXXXXX");
	assert_non_null(mkdtemp(top));
	assert_int_equal(mkdir(path_of("bucket"), 0700), 0);
	if (sidecar)
		force_sidecar();
	s = open_store();
	assert_non_null(s);
	return 0;
}

static void remove_tree(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
			unlinkat(dirfd(d), e->d_name, 0) < 0)
			remove_tree(dirfd(d), e->d_name);
	if (d)
		closedir(d);
	(void)unlinkat(at, name, AT_REMOVEDIR);
}

static int teardown(void **state)
{
	store_close(s);
	s = NULL;
	remove_tree(AT_FDCWD, top);
	return access(top, F_OK) == 0 ? -1 : 0;
}

static enum store_result put(const char *key, const char *body, const char *mark)
{
	CLEANUP(store_meta_done) struct store_meta m = {0};

	if (mark)
		assert_int_equal(store_meta_set(&m, "mark", mark), 0);
	return store_put_buf(s, key, body, strlen(body), &m, NULL, NULL, NULL, NULL);
}

static enum store_result head(const char *key, struct store_object *o, char mark[32])
{
	CLEANUP(store_meta_done) struct store_meta m = {0};

	enum store_result r = store_head(s, key, o, &m, NULL, NULL);
	const char *v = store_meta_get(&m, "mark");
	if (mark)
		snprintf(mark, 32, "%s", v ? v : "");
	return r;
}

static void assert_body(const char *key, const char *body)
{
	CLEANUP(buf_done) struct buf b = {0};

	assert_int_equal(store_get_buf(s, key, 1000, &b, NULL, NULL, NULL, NULL), STORE_OK);
	assert_string_equal(buf_str(&b), body);
}

static int collect(void *ctx, const char *key, const struct store_object *object)
{
	buf_put_str(ctx, key);
	buf_put_str(ctx, " ");
	return 0;
}

static void assert_listing(const char *want)
{
	CLEANUP(buf_done) struct buf b = {0};

	assert_int_equal(store_list(s, "", NULL, 0, collect, &b, NULL, NULL), STORE_OK);
	assert_string_equal(buf_str(&b), want);
}

static int entries(const char *path)
{
	DIR *d = opendir(path);
	const struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d))) {
		char sub[512];
		if (e->d_name[0] == '.')
			continue;
		snprintf(sub, sizeof(sub), "%s/%.200s", path, e->d_name);
		n += e->d_type == DT_DIR ? entries(sub) : 1;
	}
	if (d)
		closedir(d);
	return n;
}

static void plain_files(void **state)
{
	struct stat st;
	char mark[32];

	assert_int_equal(put("a/b/c.txt", "hello", "1"), STORE_OK);
	assert_file(path_of("bucket/a/b/c.txt"), "hello");
	assert_int_equal(stat(path_of("bucket/a/b/c.txt"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(head("a/b/c.txt", NULL, mark), STORE_OK);
	assert_string_equal(mark, "1");
	assert_int_equal(entries(path_of("bucket/.meridian-meta")), sidecar ? 1 : 0);
	assert_int_equal(entries(path_of("bucket/.meridian-overflow")), 0);
	assert_listing("a/b/c.txt ");
	/* Parents that a remove leaves empty go, with the sidecar. */
	assert_int_equal(store_remove(s, "a/b/c.txt", NULL, NULL, NULL), STORE_OK);
	assert_int_equal(access(path_of("bucket/a"), F_OK), -1);
	assert_int_equal(entries(path_of("bucket/.meridian-meta")), 0);
	assert_int_equal(entries(path_of("bucket/.meridian-tmp")),
		1 + entries(path_of("bucket/.meridian-tmp/lock")));
}

static void directory_objects_stay(void **state)
{
	assert_int_equal(put("d/", "", "dir"), STORE_OK);
	assert_int_equal(put("d/e/f", "x", NULL), STORE_OK);
	assert_int_equal(store_remove(s, "d/e/f", NULL, NULL, NULL), STORE_OK);
	assert_int_equal(access(path_of("bucket/d/e"), F_OK), -1);
	assert_int_equal(access(path_of("bucket/d"), F_OK), 0);
	assert_listing("d/ ");
	assert_int_equal(store_remove(s, "d/", NULL, NULL, NULL), STORE_OK);
	assert_int_equal(access(path_of("bucket/d"), F_OK), -1);
	/* Removing the object does not take the files below. */
	assert_int_equal(put("d/", "", NULL), STORE_OK);
	assert_int_equal(put("d/f", "x", NULL), STORE_OK);
	assert_int_equal(store_remove(s, "d/", NULL, NULL, NULL), STORE_OK);
	assert_listing("d/f ");
}

static void files_of_other_tools(void **state)
{
	struct store_object o = {0}, p = {0};
	char mark[32];

	write_file(path_of("bucket/foreign"), "theirs");
	assert_int_equal(head("foreign", &o, mark), STORE_OK);
	assert_int_equal(o.size, 6);
	assert_string_equal(mark, "");
	assert_int_equal(head("foreign", &p, mark), STORE_OK);
	assert_string_equal(o.etag, p.etag);
	/* It can be replaced under its ETag. */
	struct store_condition match = {.if_match = o.etag};
	assert_int_equal(
		store_put_buf(s, "foreign", "ours", 4, NULL, &match, NULL, NULL, NULL), STORE_OK);
	assert_file(path_of("bucket/foreign"), "ours");

	/* Changed in place: another version, without our metadata. */
	assert_int_equal(put("mine", "12345", "1"), STORE_OK);
	assert_int_equal(head("mine", &o, mark), STORE_OK);
	assert_string_equal(mark, "1");
	write_file(path_of("bucket/mine"), "123456");
	assert_int_equal(head("mine", &p, mark), STORE_OK);
	assert_string_equal(mark, "");
	assert_string_not_equal(o.etag, p.etag);
	/* Moved by another tool: a foreign file at its new key. */
	assert_int_equal(put("moved", "m", "1"), STORE_OK);
	assert_int_equal(rename(path_of("bucket/moved"), path_of("bucket/there")), 0);
	assert_int_equal(head("there", &o, mark), STORE_OK);
	assert_string_equal(mark, "");
	assert_int_equal(head("moved", &o, NULL), STORE_ABSENT);
	assert_listing("foreign mine there ");
}

static void planted_links_are_not_followed(void **state)
{
	assert_int_equal(mkdir(path_of("outside"), 0700), 0);
	write_file(path_of("outside/secret"), "secret");
	assert_int_equal(symlink("../outside", path_of("bucket/dir")), 0);
	assert_int_equal(symlink("../outside/secret", path_of("bucket/file")), 0);
	assert_int_equal(mkfifo(path_of("bucket/fifo"), 0600), 0);
	assert_int_equal(head("file", NULL, NULL), STORE_ABSENT);
	assert_int_equal(head("dir/secret", NULL, NULL), STORE_ABSENT);
	assert_int_equal(head("fifo", NULL, NULL), STORE_ABSENT);
	assert_listing("");
	assert_int_equal(put("file", "mine", NULL), STORE_OK);
	assert_int_equal(put("dir/secret", "mine", NULL), STORE_OK);
	assert_int_equal(put("dir/new", "mine", NULL), STORE_OK);
	assert_int_equal(put("fifo", "mine", NULL), STORE_OK);
	assert_body("dir/secret", "mine");
	assert_file(path_of("outside/secret"), "secret");
	assert_int_equal(access(path_of("outside/new"), F_OK), -1);
	assert_listing("dir/new dir/secret fifo file ");
	assert_int_equal(store_remove(s, "dir/secret", NULL, NULL, NULL), STORE_OK);
	assert_file(path_of("outside/secret"), "secret");
}

static void obstacles_come_and_go(void **state)
{
	char mark[32], name[300];

	assert_int_equal(put("a/b", "below", "1"), STORE_OK);
	assert_int_equal(put("a", "above", "2"), STORE_OK);
	assert_int_equal(entries(path_of("bucket/.meridian-overflow")), 1);
	assert_int_equal(head("a", NULL, mark), STORE_OK);
	assert_string_equal(mark, "2");
	assert_listing("a a/b ");
	assert_int_equal(store_remove(s, "a/b", NULL, NULL, NULL), STORE_OK);
	assert_body("a", "above");
	/* The next version stands at its own path again, alone. */
	assert_int_equal(put("a", "new", "3"), STORE_OK);
	assert_file(path_of("bucket/a"), "new");
	assert_int_equal(entries(path_of("bucket/.meridian-overflow")), 0);
	/* The other way round. */
	assert_int_equal(put("a/b", "overflow", "4"), STORE_OK);
	assert_int_equal(entries(path_of("bucket/.meridian-overflow")), 1);
	assert_int_equal(store_remove(s, "a", NULL, NULL, NULL), STORE_OK);
	assert_body("a/b", "overflow");
	assert_listing("a/b ");
	assert_int_equal(store_remove(s, "a/b", NULL, NULL, NULL), STORE_OK);
	assert_int_equal(head("a/b", NULL, NULL), STORE_ABSENT);
	assert_int_equal(entries(path_of("bucket/.meridian-overflow")), 0);
	assert_int_equal(entries(path_of("bucket/.meridian-meta")), 0);
	/* A name that no file system takes. */
	memset(name, 'n', 299);
	name[299] = '\0';
	assert_int_equal(put(name, "long", "5"), STORE_OK);
	assert_body(name, "long");
}

/* A record in the overflow that claims a key outside is nothing. */
static void hostile_records(void **state)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct dir_record r = {.id = 1, .key = "../outside"};
	struct stat st;

	assert_int_equal(put("a/b", "below", NULL), STORE_OK);
	assert_int_equal(put("a", "above", NULL), STORE_OK);
	write_file(path_of("outside"), "secret");
	assert_int_equal(
		mkdir(path_of("bucket/.meridian-overflow/00"), 0700) == 0 || errno == EEXIST, 1);
	char name[65];
	memset(name, '0', 64);
	name[64] = '\0';
	write_file(path_of("bucket/.meridian-overflow/00/%s", name), "x");
	assert_int_equal(stat(path_of("bucket/.meridian-overflow/00/%s", name), &st), 0);
	r.size = 1;
	r.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	assert_int_equal(dir_record_encode(&r, &b), 0);
	if (sidecar) {
		mkdir(path_of("bucket/.meridian-meta/00"), 0700);
		int fd = open(
			path_of("bucket/.meridian-meta/00/%s", name), O_WRONLY | O_CREAT, 0600);
		assert_int_equal(write(fd, b.data, b.len), b.len);
		close(fd);
	} else {
		assert_int_equal(setxattr(path_of("bucket/.meridian-overflow/00/%s", name),
					 "user.meridian.object", b.data, b.len, 0),
			0);
	}
	assert_listing("a a/b ");
	/* Truncated and altered records are no records. */
	for (size_t n = 0; n < b.len; n++) {
		struct reader in = reader_of(b.data, n);
		struct dir_record got;
		assert_false(dir_record_decode(&in, &got));
	}
}

/* Nothing may read as absent once the directory is not the one that was opened. */
static void assert_all_transient(void)
{
	CLEANUP(buf_done) struct buf b = {0};

	assert_int_equal(head("there", NULL, NULL), STORE_TRANSIENT);
	assert_int_equal(head("never", NULL, NULL), STORE_TRANSIENT);
	assert_int_equal(
		store_get_buf(s, "there", 10, &b, NULL, NULL, NULL, NULL), STORE_TRANSIENT);
	assert_int_equal(put("there", "y", NULL), STORE_TRANSIENT);
	assert_int_equal(store_list(s, "", NULL, 0, collect, &b, NULL, NULL), STORE_TRANSIENT);
	assert_int_equal(store_remove(s, "there", NULL, NULL, NULL), STORE_TRANSIENT);
	assert_int_equal(
		store_copy(s, "there", "x", NULL, NULL, NULL, NULL, NULL), STORE_TRANSIENT);
}

static void vanished_root(void **state)
{
	assert_int_equal(put("there", "x", "1"), STORE_OK);
	assert_int_equal(rename(path_of("bucket"), path_of("away")), 0);
	assert_all_transient();
	/* An empty directory at the path is no better. */
	assert_int_equal(mkdir(path_of("bucket"), 0700), 0);
	assert_all_transient();
	assert_int_equal(rmdir(path_of("bucket")), 0);
	assert_int_equal(rename(path_of("away"), path_of("bucket")), 0);
	assert_body("there", "x");
	assert_int_equal(head("never", NULL, NULL), STORE_ABSENT);
	/* Without the marker nothing is absent either. */
	assert_int_equal(unlink(path_of("bucket/.meridian-tmp/store")), 0);
	assert_int_equal(head("never", NULL, NULL), STORE_TRANSIENT);
	assert_int_equal(store_remove(s, "never", NULL, NULL, NULL), STORE_TRANSIENT);
}

/* A store that was used before and is opened while its disk is not mounted: nothing is made, neither
 * where no directory is nor in the one below the mount point. */
static void opened_while_missing(void **state)
{
	assert_int_equal(put("there", "x", "1"), STORE_OK);
	store_close(s);
	assert_int_equal(rename(path_of("bucket"), path_of("away")), 0);
	s = open_as(true);
	assert_non_null(s);
	assert_all_transient();
	assert_int_equal(access(path_of("bucket"), F_OK), -1);
	assert_int_equal(mkdir(path_of("bucket"), 0700), 0);
	assert_all_transient();
	/* Empty still. */
	assert_int_equal(rmdir(path_of("bucket")), 0);
	assert_int_equal(rename(path_of("away"), path_of("bucket")), 0);
	assert_body("there", "x");
	assert_int_equal(put("new", "y", NULL), STORE_OK);
	assert_int_equal(((struct dir *)s)->xattr, !sidecar);
	assert_file(path_of("bucket/new"), "y");
	/* And it is this one from now on. */
	assert_int_equal(rename(path_of("bucket"), path_of("away")), 0);
	assert_int_equal(mkdir(path_of("bucket"), 0700), 0);
	assert_int_equal(mkdir(path_of("bucket/.meridian-tmp"), 0700), 0);
	write_file(path_of("bucket/.meridian-tmp/store"),
		"meridian-dir 1 sidecar ffffffffffffffffffffffffffffffff\n");
	assert_all_transient();
	/* There from the beginning: as ever. */
	store_close(s);
	s = open_as(true);
	assert_non_null(s);
	assert_int_equal(head("there", NULL, NULL), STORE_ABSENT);
}

/* What is there is told without making anything. */
static void looked_at(void **state)
{
	struct stat st;

	assert_int_equal(dir_exists(path_of("bucket"), NULL), 1);
	assert_int_equal(dir_exists(path_of("none"), NULL), 0);
	assert_int_equal(dir_exists(path_of("none//"), NULL), 0);
	assert_int_equal(dir_exists(path_of("none/below"), NULL), -ENOENT);
	assert_int_equal(stat(path_of("none"), &st), -1);
	assert_int_equal(mkdir(path_of("empty"), 0700), 0);
	assert_int_equal(dir_exists(path_of("empty"), NULL), 0);
	assert_int_equal(rmdir(path_of("empty")), 0); /* still */
	write_file(path_of("file"), "x");
	assert_int_equal(dir_exists(path_of("file"), NULL), -ENOTDIR);
	write_file(path_of("bucket/.meridian-tmp/store"), "something else");
	assert_int_equal(dir_exists(path_of("bucket"), NULL), -EBADMSG);
}

static void stale_temporaries(void **state)
{
	const struct timespec old[2] = {
		{.tv_sec = time(NULL) - 7200}, {.tv_sec = time(NULL) - 7200}};

	write_file(path_of("bucket/.meridian-tmp/t-old"), "x");
	write_file(path_of("bucket/.meridian-tmp/t-new"), "x");
	assert_int_equal(utimensat(AT_FDCWD, path_of("bucket/.meridian-tmp/t-old"), old, 0), 0);
	struct store *again = open_store();
	assert_non_null(again);
	store_close(again);
	assert_int_equal(access(path_of("bucket/.meridian-tmp/t-old"), F_OK), -1);
	assert_int_equal(access(path_of("bucket/.meridian-tmp/t-new"), F_OK), 0);
}

/* Power cut between the two steps of a put: whichever file is there, its own record is found. */
static void torn_pair(void **state)
{
	char mark[32];

	assert_int_equal(put("k", "one", "1"), STORE_OK);
	assert_int_equal(link(path_of("bucket/k"), path_of("bucket/saved")), 0);
	assert_int_equal(put("k", "two", "2"), STORE_OK);
	assert_int_equal(head("k", NULL, mark), STORE_OK);
	assert_string_equal(mark, "2");
	assert_int_equal(rename(path_of("bucket/saved"), path_of("bucket/k")), 0);
	assert_int_equal(head("k", NULL, mark), STORE_OK);
	assert_string_equal(mark, "1");
	assert_body("k", "one");
}

static int in_child(int (*fn)(void))
{
	fflush(NULL);
	pid_t pid = fork();
	int status = -1;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(fn());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int increment_child(void)
{
	struct store *own = open_store();

	for (int done = 0; own && done < 25;) {
		CLEANUP(buf_done) struct buf b = {0};
		struct store_object o;
		char body[16];
		if (store_get_buf(own, "counter", 100, &b, &o, NULL, NULL, NULL) != STORE_OK)
			return 1;
		int n = snprintf(body, sizeof(body), "%d", atoi(buf_str(&b)) + 1);
		struct store_condition match = {.if_match = o.etag};
		enum store_result r = store_put_buf(
			own, "counter", body, (size_t)n, NULL, &match, NULL, NULL, NULL);
		if (r == STORE_OK)
			done++;
		else if (r != STORE_PRECONDITION)
			return 2;
	}
	store_close(own);
	return own ? 0 : 3;
}

static void several_processes(void **state)
{
	pid_t pid[4];

	assert_int_equal(put("counter", "0", NULL), STORE_OK);
	fflush(NULL);
	for (int i = 0; i < 4; i++) {
		pid[i] = fork();
		assert_true(pid[i] >= 0);
		if (pid[i] == 0)
			_exit(increment_child());
	}
	for (int i = 0; i < 4; i++) {
		int status;
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	assert_body("counter", "100");
}

static void killed_writers(void **state)
{
	assert_int_equal(put("k/v", "00", "0"), STORE_OK);
	for (int round = 0; round < 12; round++) {
		fflush(NULL);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			for (int i = 0;; i++) {
				char body[8], mark[8];
				snprintf(mark, sizeof(mark), "%d", i % 10);
				snprintf(body, sizeof(body), "%d%d", i % 10, i % 10);
				if (put("k/v", body, mark) != STORE_OK)
					_exit(1);
			}
		}
		clock_sleep_ms(2 + (int64_t)random_below(25));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		CLEANUP(buf_done) struct buf b = {0};
		CLEANUP(store_meta_done) struct store_meta m = {0};
		assert_int_equal(store_get_buf(s, "k/v", 10, &b, NULL, &m, NULL, NULL), STORE_OK);
		assert_int_equal(b.len, 2);
		assert_non_null(store_meta_get(&m, "mark"));
		assert_int_equal(b.data[0], store_meta_get(&m, "mark")[0]);
		/* No lock outlives its holder. */
		assert_int_equal(put("k/v", "11", "1"), STORE_OK);
	}
}

static bool private_tmpfs(const char *size)
{
	/* Its own mount table: nothing is left behind, and nobody else sees it. */
	return unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("none", path_of("bucket"), "tmpfs", 0, size) == 0;
}

/* Numbers tell the parent which step failed. */
static int full_child(void)
{
	static char big[300000];
	struct store_error e = {0};

	memset(big, 'b', sizeof(big)); /* zeros take no space */
	if (!private_tmpfs("size=256k"))
		return SKIP;
	if (sidecar)
		force_sidecar();
	s = open_store();
	if (!s)
		return 1;
	if (put("there", "x", "1") != STORE_OK)
		return 2;
	if (store_put_buf(s, "big", big, sizeof(big), NULL, NULL, NULL, NULL, &e) !=
		STORE_TRANSIENT)
		return 3;
	if (!strstr(e.text, "No space"))
		return 4;
	if (head("big", NULL, NULL) != STORE_ABSENT || put("small", "y", "1") != STORE_OK)
		return 5;
	/* Read-only: reads work, changes are denied. */
	if (mount("none", path_of("bucket"), NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		return 6;
	if (put("there", "y", NULL) != STORE_DENIED || head("there", NULL, NULL) != STORE_OK)
		return 7;
	if (store_remove(s, "there", NULL, NULL, NULL) != STORE_DENIED)
		return 8;
	return 0;
}

static void full_and_read_only(void **state)
{
	int r = in_child(full_child);

	if (r == SKIP)
		skip();
	assert_int_equal(r, 0);
}

static int unmounted_child(void)
{
	CLEANUP(buf_done) struct buf b = {0};

	if (!private_tmpfs("size=1m"))
		return SKIP;
	if (sidecar)
		force_sidecar();
	s = open_store();
	if (!s || put("there", "x", "1") != STORE_OK || head("never", NULL, NULL) != STORE_ABSENT)
		return 1;
	if (umount2(path_of("bucket"), MNT_DETACH) < 0)
		return 2;
	/* What is at the path now is another directory store, even. */
	if (access(path_of("bucket/.meridian-tmp/store"), F_OK) < 0)
		return 3;
	if (head("there", NULL, NULL) != STORE_TRANSIENT ||
		head("never", NULL, NULL) != STORE_TRANSIENT)
		return 4;
	if (store_list(s, "", NULL, 0, collect, &b, NULL, NULL) != STORE_TRANSIENT)
		return 5;
	return put("there", "y", NULL) == STORE_TRANSIENT ? 0 : 6;
}

static void unmounted(void **state)
{
	/* The marker of the directory below the mount point must have another id. */
	if (sidecar)
		write_file(path_of("bucket/.meridian-tmp/store"),
			"meridian-dir 1 sidecar ffffffffffffffffffffffffffffffff\n");
	int r = in_child(unmounted_child);

	if (r == SKIP)
		skip();
	assert_int_equal(r, 0);
}

static void markers(void **state)
{
	struct store *again;

	write_file(path_of("bucket/.meridian-tmp/store"), "meridian-dir 9 xattr 00\n");
	again = open_store();
	assert_null(again);
	/* Where user xattrs work, a new store uses them. */
	struct dir *d = (struct dir *)s;
	int fd = open(path_of("x"), O_RDWR | O_CREAT, 0600);
	bool works = fsetxattr(fd, "user.t", "v", 1, 0) == 0;
	close(fd);
	if (!sidecar)
		assert_int_equal(d->xattr, works);
	else
		assert_false(d->xattr);
}

static void holes(void **state)
{
	static char body[1 << 20];
	struct store_memory memory = {.p = body, .len = sizeof(body)};
	const struct store_source source = store_source_memory(&memory);
	static const char *const keys[] = {"a", "b"};
	struct store_error e = {0};
	struct stat st;

	memset(body, 'a', 4096);
	memset(body + (512 << 10), 'b', 4096);
	assert_int_equal(store_put(s, "a", &source, NULL, NULL, NULL, NULL, &e), STORE_OK);
	assert_int_equal(store_copy(s, "a", "b", NULL, NULL, NULL, NULL, &e), STORE_OK);
	for (int i = 0; i < 2; i++) {
		CLEANUP(buf_done) struct buf b = {0};

		assert_int_equal(stat(path_of("bucket/%s", keys[i]), &st), 0);
		assert_int_equal(st.st_size, sizeof(body));
		assert_in_range(st.st_blocks * 512, 8192, sizeof(body) / 4 * 3);
		assert_int_equal(store_get_buf(s, keys[i], sizeof(body), &b, NULL, NULL, NULL, &e), STORE_OK);
		assert_int_equal(b.len, sizeof(body));
		assert_memory_equal(b.data, body, sizeof(body));
	}
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(plain_files),
		CASE(holes),
		CASE(directory_objects_stay),
		CASE(files_of_other_tools),
		CASE(planted_links_are_not_followed),
		CASE(obstacles_come_and_go),
		CASE(hostile_records),
		CASE(vanished_root),
		CASE(opened_while_missing),
		CASE(looked_at),
		CASE(stale_temporaries),
		CASE(torn_pair),
		CASE(several_processes),
		CASE(killed_writers),
		CASE(full_and_read_only),
		CASE(unmounted),
		CASE(markers),
	};

	int failed = cmocka_run_group_tests_name("dir with xattrs", tests, NULL, NULL);
	sidecar = true;
	return failed + cmocka_run_group_tests_name("dir with sidecars", tests, NULL, NULL);
}
