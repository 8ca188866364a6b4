/* Servers of one volume in one process, for the tests of the replicator: caches in directories of
 * their own, regions that are file:// buckets or whatever a test puts before them, a clock that
 * only the test moves. */
#ifndef TESTS_CLUSTER_H
#define TESTS_CLUSTER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cache/file.h"
#include "cache/tree.h"
#include "replicator/replicator.h"
#include "replicator/store/layers.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "tests/unit/scratch.h"

#ifndef CLUSTER_NODES
#define CLUSTER_NODES 2
#endif
#define CLUSTER_REGIONS 2

struct cluster {
	char dir[64];
	struct {
		char state[96];
		struct cache *cache;
		struct replicator *replicator;
	} node[CLUSTER_NODES];
	unsigned nodes;
	/* For nodes that are started from now on. */
	struct replicator_options base;
	bool same_home; /* the first region; else each has another */
	bool flushing; /* caches flush to disk */
	const char *boot_id; /* NULL: this machine's */
	char url[CLUSTER_REGIONS][128];
	/* Region is cut off for everybody while set. */
	_Atomic bool down[CLUSTER_REGIONS];
	_Atomic bool denied[CLUSTER_REGIONS];
	/* Wraps the store of a region, or NULL. */
	struct store *(*wrap)(
		struct cluster *c, unsigned node, unsigned region, struct store *inner);
	_Atomic uint64_t requests[CLUSTER_REGIONS];
	_Atomic uint64_t object_puts[CLUSTER_REGIONS];
};

struct cluster_link {
	struct cluster *cluster;
	unsigned region;
};

static _Atomic int64_t cluster_now_ms;
static struct cluster_link cluster_links[CLUSTER_REGIONS];
static const char *const cluster_names[CLUSTER_REGIONS] = {"east", "west"};

static inline int64_t cluster_realtime(void *ctx UNUSED)
{
	return cluster_now_ms * 1000000;
}

static inline int64_t cluster_monotonic(void *ctx UNUSED)
{
	return cluster_now_ms;
}

static inline void cluster_sleep(void *ctx UNUSED, int64_t ms)
{
	cluster_now_ms += ms;
}

static inline enum store_result cluster_hook(
	void *ctx, const char *op, const char *key, bool did_happen)
{
	struct cluster_link *l = ctx;

	if (did_happen)
		return STORE_OK;
	l->cluster->requests[l->region]++;
	if (strcmp(op, "put") == 0 && strncmp(key, ".meridian/", 10) != 0)
		l->cluster->object_puts[l->region]++;
	if (l->cluster->denied[l->region])
		return STORE_DENIED;
	return l->cluster->down[l->region] ? STORE_TRANSIENT : STORE_OK;
}

/* Changes the options of every replicator that is started, or NULL. */
static void (*cluster_tune)(struct replicator_options *o);

static inline void cluster_start_node(struct cluster *c, unsigned n)
{
	struct replicator_options o = c->base;
	struct cache_options co = {
		.state_dir = c->node[n].state, .sync_off = !c->flushing, .no_lock = true, .boot_id = c->boot_id};
	struct err err = {0};

	o.volume = "test";
	o.regions = CLUSTER_REGIONS;
	o.home = c->same_home ? 0 : n % 2;
	if (cache_open(&co, &c->node[n].cache, &err) < 0)
		fail_msg("cache_open: %s", err.text);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		struct store_config config = {.name = cluster_names[i], .url = c->url[i]};
		struct store *s;

		if (store_dir_open(&config, &s, &err) < 0)
			fail_msg("store_dir_open: %s", err.text);
		cluster_links[i] = (struct cluster_link){c, i};
		if (c->wrap)
			s = c->wrap(c, n, i, s);
		o.region[i].store = config;
		o.region[i].opened = store_fault_new(s, cluster_hook, &cluster_links[i]);
	}
	if (cluster_tune)
		cluster_tune(&o);
	if (replicator_new(c->node[n].cache, &o, &c->node[n].replicator, &err) < 0)
		fail_msg("replicator_new: %s", err.text);
}

static inline void cluster_stop_node(struct cluster *c, unsigned n, bool clean)
{
	replicator_free(c->node[n].replicator);
	if (clean)
		cache_close(c->node[n].cache);
	else
		cache_abandon(c->node[n].cache);
	c->node[n].replicator = NULL;
	c->node[n].cache = NULL;
}

static inline int cluster_setup(void **state)
{
	static const struct clock_source source = {.realtime_ns = cluster_realtime,
		.monotonic_ms = cluster_monotonic,
		.sleep_ms = cluster_sleep};
	struct cluster *c = calloc(1, sizeof(*c));

	log_set_level(LOG_LEVEL_ERROR);
	if (!c)
		return -1;
	clock_set_source(NULL);
	if (!getenv("CLUSTER_REAL_CLOCK")) {
		cluster_now_ms = clock_realtime_ms();
		clock_set_source(&source);
	}
	if (scratch_make(c->dir) < 0)
		return -1;
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		char path[100];

		snprintf(path, sizeof(path), "%s/%s", c->dir, cluster_names[i]);
		if (mkdir(path, 0700) < 0)
			return -1;
		snprintf(c->url[i], sizeof(c->url[i]), "file://%s", path);
	}
	c->nodes = CLUSTER_NODES;
	for (unsigned n = 0; n < c->nodes; n++) {
		memcpy(c->node[n].state, c->dir, sizeof(c->dir));
		snprintf(c->node[n].state + strlen(c->dir), 16, "/n%u", n);
		cluster_start_node(c, n);
	}
	*state = c;
	return 0;
}

static inline int cluster_remove(
	const char *path, const struct stat *st UNUSED, int type UNUSED, struct FTW *ftw UNUSED)
{
	return remove(path);
}

static inline int cluster_teardown(void **state)
{
	struct cluster *c = *state;

	for (unsigned n = 0; n < c->nodes; n++) {
		if (c->node[n].cache)
			cluster_stop_node(c, n, true);
	}
	clock_set_source(NULL);
	nftw(c->dir, cluster_remove, 16, FTW_DEPTH | FTW_PHYS);
	free(c);
	return 0;
}

/* ---- files ---- */

static inline struct inode cluster_resolve(struct cluster *c, unsigned n, const char *path)
{
	struct inode inode;

	assert_int_equal(tree_resolve(c->node[n].cache, slice_of(path), &inode), 0);
	return inode;
}

static inline uint64_t cluster_parent(struct cluster *c, unsigned n, const char *path)
{
	struct slice parent = key_parent(slice_of(path));
	struct inode inode;

	assert_int_equal(tree_resolve(c->node[n].cache, parent, &inode), 0);
	return inode.ino;
}

static inline void cluster_write(
	struct cluster *c, unsigned n, const char *path, const void *p, size_t len)
{
	struct cache *cache = c->node[n].cache;
	struct inode inode;
	struct file *f;

	if (tree_resolve(cache, slice_of(path), &inode) == 0)
		assert_int_equal(file_open(cache, inode.ino, true, true, &f), 0);
	else
		assert_int_equal(tree_create_open(cache, cluster_parent(c, n, path),
					 key_name(slice_of(path)), S_IFREG | 0644, 1000, 1000, true,
					 &inode, &f),
			0);
	assert_int_equal(file_write(f, p, len, 0, false), len);
	file_release(f);
}

static inline void cluster_puts(struct cluster *c, unsigned n, const char *path, const char *text)
{
	cluster_write(c, n, path, text, strlen(text));
}

static inline void cluster_mkdir(struct cluster *c, unsigned n, const char *path)
{
	struct inode inode;

	assert_int_equal(
		tree_create(c->node[n].cache, cluster_parent(c, n, path), key_name(slice_of(path)),
			S_IFDIR | 0755, 1000, 1000, NULL, &inode),
		0);
}

static inline void cluster_unlink(struct cluster *c, unsigned n, const char *path)
{
	assert_int_equal(
		tree_unlink(c->node[n].cache, cluster_parent(c, n, path), key_name(slice_of(path))),
		0);
}

static inline void cluster_rename(struct cluster *c, unsigned n, const char *from, const char *to)
{
	assert_int_equal(
		tree_rename(c->node[n].cache, cluster_parent(c, n, from), key_name(slice_of(from)),
			cluster_parent(c, n, to), key_name(slice_of(to)), 0),
		0);
}

/* Content, fetched when it is not here. Heap, NUL-terminated. */
static inline char *cluster_read(struct cluster *c, unsigned n, const char *path, size_t *len)
{
	struct cache *cache = c->node[n].cache;
	struct inode inode;
	struct file *f;

	int r = tree_resolve(cache, slice_of(path), &inode);
	if (r)
		fail_msg("node %u: %s is not there: %d", n, path, r);
	r = file_open(cache, inode.ino, false, false, &f);
	if (r == -EREMOTE) {
		assert_int_equal(replicator_step_fetch(c->node[n].replicator, inode.ino), 0);
		r = file_open(cache, inode.ino, false, false, &f);
	}
	assert_int_equal(r, 0);
	char *p = malloc(inode.size + 1);
	assert_non_null(p);
	assert_int_equal(file_read(f, p, inode.size, 0), inode.size);
	file_release(f);
	p[inode.size] = '\0';
	if (len)
		*len = inode.size;
	return p;
}

static inline void cluster_expect(struct cluster *c, unsigned n, const char *path, const char *text)
{
	char *got = cluster_read(c, n, path, NULL);

	assert_string_equal(got, text);
	free(got);
}

static inline void cluster_expect_absent(struct cluster *c, unsigned n, const char *path)
{
	struct inode inode;

	assert_int_equal(tree_resolve(c->node[n].cache, slice_of(path), &inode), -ENOENT);
}

/* ---- steps ---- */

static inline bool cluster_push(struct cluster *c, unsigned n)
{
	struct replicator *r = c->node[n].replicator;
	bool any = false, did;

	assert_int_equal(replicator_step_seal(r, &did), 0);
	any |= did;
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		assert_int_equal(replicator_step_objects(r, i, 64, &did), 0);
		any |= did;
		assert_int_equal(replicator_step_announce(r, i, &did), 0);
		any |= did;
		assert_int_equal(replicator_step_objects(r, i, 64, &did), 0);
		any |= did;
	}
	return any;
}

static inline bool cluster_pull(struct cluster *c, unsigned n)
{
	bool did;

	assert_int_equal(replicator_step_pull(c->node[n].replicator, &did), 0);
	return did;
}

/* Until nothing happens for a while. */
static inline void cluster_settle(struct cluster *c)
{
	for (unsigned round = 0, quiet = 0; quiet < 15; round++) {
		bool any = false;

		assert_true(round < 1000);
		for (unsigned n = 0; n < c->nodes; n++) {
			if (!c->node[n].replicator)
				continue;
			any |= cluster_push(c, n);
			any |= cluster_pull(c, n);
		}
		quiet = any ? 0 : quiet + 1;
		cluster_now_ms += any ? 10 : 2000;
	}
}

static inline struct replicator_status *cluster_status(struct cluster *c, unsigned n)
{
	struct replicator_status *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	assert_int_equal(replicator_status(c->node[n].replicator, s), 0);
	return s;
}

static inline uint64_t cluster_backlog(struct cluster *c, unsigned n)
{
	struct replicator_status *s = cluster_status(c, n);
	uint64_t rows = 0;

	for (unsigned i = 0; i < s->regions; i++)
		rows += s->region[i].outbox.rows;
	free(s);
	return rows;
}

#endif
