/*
 * A daemon of nothing but the mount and the cache, for fs_smoke.py: fs_smoke_main STATE MOUNTPOINT.
 *
 * Commands on standard input stand in for the replicator, one a line, each answered by "ok" or
 * "error TEXT":
 * - put KEY TEXT: a file from another region, content included
 * - remote KEY TEXT: the same, but the content has to be fetched, which takes 100 ms
 * - broken KEY TEXT: the same, but fetching fails
 * - hang KEY TEXT: the same, but fetching takes 60 s
 * - ranged KEY TEXT: the same, but it is read by ranges; the first one is looked at only at "go"
 * - go: prints the first block that is missing there
 * - remove KEY: removed elsewhere
 * - many DIR COUNT: COUNT small files in DIR
 * - stats: prints the mount's counters
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/entry.h"
#include "cache/file.h"
#include "cache/partial.h"
#include "cache/project.h"
#include "fs/fs.h"
#include "src/base/clock.h"
#include "src/base/thread.h"

#define TEXT_MAX 4096
#define OTHER_NODE 42

static struct fs *mounted;
static struct cache *cache;

static struct remote {
	struct mutex lock;
	char text[TEXT_MAX];
	int delay_ms;
	bool fails;
	struct cond changed; /* of the rest */
	bool go;
	bool looked;
	uint64_t missing; /* the first block that is */
} remote;

struct fetching {
	uint64_t ino;
	cache_fetch_done done;
	void *arg;
};

static void on_signal(int number)
{
	fs_stop(mounted);
}

static int install(uint64_t ino, const char *text)
{
	struct content_writer w;
	int r = content_begin(cache, &w);

	if (r)
		return r;
	r = content_append(&w, text, strlen(text));
	if (r == 0)
		r = content_install(cache, ino, &w);
	if (r)
		content_discard(cache, &w);
	return r;
}

static void *fetch(void *arg)
{
	struct fetching *f = arg;
	char text[TEXT_MAX];
	int delay_ms;
	bool fails;

	mutex_lock(&remote.lock);
	memcpy(text, remote.text, sizeof(text));
	delay_ms = remote.delay_ms;
	fails = remote.fails;
	mutex_unlock(&remote.lock);
	clock_sleep_ms(delay_ms);
	f->done(f->arg, fails ? -EIO : install(f->ino, text));
	free(f);
	return NULL;
}

static void on_fetch(void *ctx, uint64_t ino, cache_fetch_done done, void *arg)
{
	struct fetching *f = malloc(sizeof(*f));
	pthread_t t;

	CHECK(f);
	*f = (struct fetching){ino, done, arg};
	CHECK(thread_start(&t, "fetch", fetch, f) == 0);
	pthread_detach(t);
}

static void on_range(
	void *ctx, struct partial *p, uint64_t offset, uint64_t n, cache_fetch_done done, void *arg)
{
	uint64_t missing;

	if (!done)
		return;
	mutex_lock(&remote.lock);
	while (!remote.go)
		cond_wait(&remote.changed, &remote.lock);
	mutex_unlock(&remote.lock);
	missing = partial_missing(p, 0, 1);
	mutex_lock(&remote.lock);
	remote.missing = missing;
	remote.looked = true;
	cond_broadcast(&remote.changed);
	mutex_unlock(&remote.lock);
	done(arg, -EIO);
}

static int look_at_range(void)
{
	mutex_lock(&remote.lock);
	remote.go = true;
	cond_broadcast(&remote.changed);
	while (!remote.looked)
		cond_wait(&remote.changed, &remote.lock);
	printf("missing %llu\n", (unsigned long long)remote.missing);
	mutex_unlock(&remote.lock);
	return 0;
}

/* Before the transaction: reserving an inode number may need one of its own. */
static int bring(const char *text, struct content_writer *ret)
{
	int r = content_begin(cache, ret);

	if (r)
		return r;
	r = content_append(ret, text, strlen(text));
	content_finish(ret);
	return r;
}

static int merge(struct conn *conn, const char *key, const char *text, struct content_writer *w)
{
	struct entry e CLEANUP(entry_done) = {0};
	struct stamp now = {cache_stamp(cache).time, OTHER_NODE};
	struct incoming incoming = {.content = w};
	uint64_t keep = 0;
	int r;

	r = entry_get(conn, slice_of(key), &e);
	if (r && r != -ENOENT)
		return r;
	e.kind = text ? KIND_FILE : KIND_ABSENT;
	e.size = text ? strlen(text) : 0;
	if (text)
		sha256(text, e.size, e.hash);
	e.content_mtime_ns = clock_realtime_ns();
	e.content_stamp = e.attr_stamp = now;
	e.mode = 0644;
	vector_raise(&e.vector, now);
	r = entry_put(conn, slice_of(key), &e);
	if (r == 0)
		r = project_entry(conn, slice_of(key), &e, true, &incoming, &keep);
	return r;
}

static int end(struct conn *conn, int r)
{
	if (r == 0)
		return cache_commit(conn);
	cache_rollback(conn);
	return r;
}

static int merge_one(const char *key, const char *text, bool with_content)
{
	struct content_writer w;
	struct conn *conn;
	int r = with_content ? bring(text, &w) : 0;

	if (r == 0)
		r = cache_begin(cache, &conn);
	return r ? r : end(conn, merge(conn, key, text, with_content ? &w : NULL));
}

static int merge_many(const char *dir, int count)
{
	AUTO_FREE struct content_writer *w = calloc((size_t)count, sizeof(*w));
	struct conn *conn;
	char key[512];
	int r = w ? 0 : -ENOMEM;

	for (int i = 0; r == 0 && i < count; i++)
		r = bring("x", &w[i]);
	if (r == 0)
		r = cache_begin(cache, &conn);
	if (r)
		return r;
	for (int i = 0; r == 0 && i < count; i++) {
		snprintf(key, sizeof(key), "%s/n%06d", dir, i);
		r = merge(conn, key, "x", &w[i]);
	}
	return end(conn, r);
}

static int merge_remote(const char *key, const char *text, int delay_ms, bool fails)
{
	mutex_lock(&remote.lock);
	snprintf(remote.text, sizeof(remote.text), "%s", text);
	remote.delay_ms = delay_ms;
	remote.fails = fails;
	mutex_unlock(&remote.lock);
	return merge_one(key, text, false);
}

static int print_stats(void)
{
	struct fs_stats s;

	fs_get_stats(mounted, &s);
	printf("requests %llu errors %llu waiting %llu sent %llu pending %llu\n",
		(unsigned long long)s.requests, (unsigned long long)s.errors,
		(unsigned long long)s.fetches_waiting, (unsigned long long)s.invalidations,
		(unsigned long long)s.invalidations_pending);
	return 0;
}

static int command(char *line)
{
	char *verb = strtok(line, " \n");
	char *key = strtok(NULL, " \n");
	char *text = strtok(NULL, "\n");

	if (!verb)
		return -EINVAL;
	if (strcmp(verb, "stats") == 0)
		return print_stats();
	if (strcmp(verb, "go") == 0)
		return look_at_range();
	if (key && strcmp(verb, "remove") == 0)
		return merge_one(key, NULL, false);
	if (!key || !text)
		return -EINVAL;
	if (strcmp(verb, "put") == 0)
		return merge_one(key, text, true);
	if (strcmp(verb, "remote") == 0)
		return merge_remote(key, text, 100, false);
	if (strcmp(verb, "broken") == 0)
		return merge_remote(key, text, 10, true);
	if (strcmp(verb, "hang") == 0)
		return merge_remote(key, text, 60000, false);
	if (strcmp(verb, "ranged") == 0) {
		cache_set_ranger(cache, on_range, NULL, 1);
		return merge_one(key, text, false);
	}
	if (strcmp(verb, "many") == 0)
		return merge_many(key, atoi(text));
	return -EINVAL;
}

static void *commands(void *arg)
{
	char line[TEXT_MAX];

	while (fgets(line, sizeof(line), stdin)) {
		int r = command(line);

		if (r)
			printf("error %s\n", strerror(-r));
		else
			printf("ok\n");
		fflush(stdout);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct err err = {0};
	pthread_t t;
	int r;

	if (argc != 3)
		return 2;
	mutex_init(&remote.lock, LOCK_RANK_LEAF);
	cond_init(&remote.changed);
	if (cache_open(&(struct cache_options){.state_dir = argv[1]}, &cache, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	cache_set_fetcher(cache, on_fetch, NULL);
	if (fs_open(cache, &(struct fs_options){.mountpoint = argv[2], .fsname = "smoke,test"},
		    &mounted, &err) ||
		fs_mount(mounted, &err)) {
		fprintf(stderr, "%s\n", err.text);
		fs_free(mounted);
		cache_close(cache);
		return 1;
	}
	sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
	CHECK(thread_start(&t, "commands", commands, NULL) == 0);
	printf("ready\n");
	fflush(stdout);
	r = fs_run(mounted);
	fs_unmount(mounted);
	fs_free(mounted);
	cache_close(cache);
	return r ? 1 : 0;
}
