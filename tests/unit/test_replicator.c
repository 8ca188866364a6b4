/* Two servers over two file:// regions, step by step under a clock of the test's own; and the
 * threads. */
#include "tests/unit/cluster.h"

#include "src/base/buf.h"

#include <dirent.h>
#include <fcntl.h>

static void expect_object(struct cluster *c, unsigned region, const char *key, const char *text)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	struct buf b = {0};
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	enum store_result r = store_get_buf(s, key, 1 << 26, &b, NULL, NULL, NULL, &error);
	if (!text) {
		assert_int_equal(r, STORE_ABSENT);
	} else {
		if (r != STORE_OK)
			fail_msg("%s in region %u: %s", key, region, store_result_name(r));
		assert_string_equal(buf_str(&b), text);
	}
	buf_done(&b);
	store_close(s);
}

static void test_files_arrive(void **state)
{
	struct cluster *c = *state;
	struct inode inode;
	char *target;

	cluster_mkdir(c, 0, "d");
	cluster_puts(c, 0, "d/a", "hello");
	cluster_puts(c, 0, "empty", "");
	assert_int_equal(tree_create(c->node[0].cache, ROOT_INO, slice_of("link"), S_IFLNK | 0777,
				 5, 6, "d/a", &inode),
		0);
	cluster_settle(c);
	cluster_expect(c, 1, "d/a", "hello");
	cluster_expect(c, 1, "empty", "");
	inode = cluster_resolve(c, 1, "link");
	assert_int_equal(tree_readlink(c->node[1].cache, inode.ino, &target), 0);
	assert_string_equal(target, "d/a");
	free(target);
	inode = cluster_resolve(c, 1, "d/a");
	assert_int_equal(inode.mode, S_IFREG | 0644);
	assert_int_equal(inode.uid, 1000);
	assert_true(inode.mtime_ns == cluster_resolve(c, 0, "d/a").mtime_ns);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		expect_object(c, i, "d/a", "hello");
		expect_object(c, i, "d/", "");
		expect_object(c, i, "link", "d/a");
	}
	assert_int_equal(cluster_backlog(c, 0), 0);
	assert_int_equal(cluster_backlog(c, 1), 0);
}

static void test_changes_and_deletes(void **state)
{
	struct cluster *c = *state;
	struct inode v = {.mode = 0600}, now;

	cluster_mkdir(c, 0, "d");
	cluster_puts(c, 0, "d/a", "one");
	cluster_puts(c, 0, "d/b", "two");
	cluster_settle(c);
	cluster_puts(c, 1, "d/a", "one, changed");
	cluster_unlink(c, 1, "d/b");
	cluster_settle(c);
	cluster_expect(c, 0, "d/a", "one, changed");
	cluster_expect_absent(c, 0, "d/b");
	expect_object(c, 0, "d/a", "one, changed");
	expect_object(c, 1, "d/b", NULL);
	assert_int_equal(tree_setattr(c->node[0].cache, cluster_resolve(c, 0, "d/a").ino, SET_MODE,
				 &v, &now),
		0);
	assert_int_equal(cluster_resolve(c, 0, "d/a").mode, S_IFREG | 0600);
	cluster_settle(c);
	assert_int_equal(cluster_resolve(c, 1, "d/a").mode, S_IFREG | 0600);
	cluster_expect(c, 1, "d/a", "one, changed");
}

static void test_rename(void **state)
{
	struct cluster *c = *state;
	char path[64];

	cluster_mkdir(c, 0, "d");
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "d/f%d", i);
		cluster_puts(c, 0, path, path);
	}
	cluster_settle(c);
	cluster_rename(c, 0, "d", "e");
	cluster_rename(c, 0, "e/f0", "top");
	cluster_settle(c);
	cluster_expect_absent(c, 1, "d");
	cluster_expect(c, 1, "top", "d/f0");
	cluster_expect(c, 1, "e/f7", "d/f7");
	expect_object(c, 0, "d/f7", NULL);
	expect_object(c, 0, "d/", NULL);
	expect_object(c, 0, "e/f7", "d/f7");
	assert_int_equal(cluster_backlog(c, 0), 0);
}

static void test_kind_change(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "x", "a file");
	cluster_settle(c);
	expect_object(c, 1, "x", "a file");
	cluster_unlink(c, 1, "x");
	cluster_mkdir(c, 1, "x");
	cluster_puts(c, 1, "x/y", "below");
	cluster_settle(c);
	cluster_expect(c, 0, "x/y", "below");
	expect_object(c, 0, "x/y", "below");
	expect_object(c, 0, "x/", "");
}

static void test_conflict(void **state)
{
	struct cluster *c = *state;
	struct replicator_status *s;

	cluster_puts(c, 0, "f", "base");
	cluster_settle(c);
	c->down[0] = c->down[1] = true;
	cluster_puts(c, 0, "f", "from zero");
	cluster_now_ms += 50;
	cluster_puts(c, 1, "f", "from one, later");
	cluster_settle(c);
	cluster_expect(c, 0, "f", "from zero");
	c->down[0] = c->down[1] = false;
	cluster_settle(c);
	cluster_expect(c, 0, "f", "from one, later");
	cluster_expect(c, 1, "f", "from one, later");
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		expect_object(c, i, "f", "from one, later");
	s = cluster_status(c, 0);
	assert_int_equal(s->conflicts, 1);
	free(s);
}

static void test_large(void **state)
{
	struct cluster *c = *state;
	size_t len = 3 << 20, got_len;
	char *big = malloc(len);

	assert_non_null(big);
	for (size_t i = 0; i < len; i++)
		big[i] = (char)(i * 2654435761u >> 13);
	cluster_mkdir(c, 0, "d");
	cluster_write(c, 0, "d/big", big, len);
	cluster_puts(c, 0, "d/marker", "done");
	cluster_settle(c);
	cluster_expect(c, 1, "d/marker", "done");
	char *got = cluster_read(c, 1, "d/big", &got_len);
	assert_int_equal(got_len, len);
	assert_memory_equal(got, big, len);
	free(got);
	free(big);
	assert_int_equal(cluster_backlog(c, 0), 0);
}

/* A directory is renamed where its large file is known by name only. */
static void test_rename_of_remote_content(void **state)
{
	struct cluster *c = *state;
	size_t len = 200000, got_len;
	char *big = malloc(len);

	assert_non_null(big);
	memset(big, 'r', len);
	cluster_mkdir(c, 0, "d");
	cluster_write(c, 0, "d/big", big, len);
	cluster_settle(c);
	cluster_rename(c, 1, "d", "e");
	cluster_settle(c);
	assert_int_equal(cluster_backlog(c, 1), 0);
	for (unsigned n = 0; n < c->nodes; n++) {
		char *got = cluster_read(c, n, "e/big", &got_len);
		assert_int_equal(got_len, len);
		assert_memory_equal(got, big, len);
		free(got);
	}
	free(big);
}

/* One region is away: the other carries everything, and the first gets it when it is back. */
static void test_region_away(void **state)
{
	struct cluster *c = *state;
	struct replicator_status *s;

	cluster_settle(c);
	c->down[0] = true;
	cluster_puts(c, 0, "f", "meanwhile");
	cluster_settle(c);
	cluster_expect(c, 1, "f", "meanwhile");
	cluster_puts(c, 1, "g", "back"); /* home of node 0 is the region that is away */
	cluster_settle(c);
	cluster_expect(c, 0, "g", "back");
	s = cluster_status(c, 0);
	assert_false(s->region[0].up);
	assert_true(s->region[0].error[0] != '\0');
	assert_true(s->region[0].outbox.rows > 0);
	assert_int_equal(s->region[1].outbox.rows, 0);
	assert_string_equal(s->pull_region, "west");
	free(s);
	c->down[0] = false;
	cluster_now_ms += 60000;
	cluster_settle(c);
	expect_object(c, 0, "f", "meanwhile");
	expect_object(c, 0, "g", "back");
	s = cluster_status(c, 0);
	assert_true(s->region[0].up);
	assert_int_equal(s->region[0].outbox.rows, 0);
	assert_string_equal(s->pull_region, "east");
	free(s);
}

static void test_crash(void **state)
{
	struct cluster *c = *state;
	char path[64];

	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof(path), "f%d", i);
		cluster_puts(c, 0, path, path);
		if (i % 3 == 0)
			cluster_push(c, 0);
		if (i % 7 == 0) {
			cluster_stop_node(c, 0, false);
			cluster_start_node(c, 0);
		}
	}
	cluster_settle(c);
	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof(path), "f%d", i);
		cluster_expect(c, 1, path, path);
	}
}

/* A directory's time is in memory for a while. Once others were told of it a crash does not take it back. */
static void test_crash_keeps_told_times(void **state)
{
	struct cluster *c = *state;
	struct replicator *r = c->node[0].replicator;
	bool did = true;

	cluster_mkdir(c, 0, "d");
	cluster_settle(c);
	cluster_now_ms += 700;
	cluster_puts(c, 0, "d/f", "f");
	cluster_rename(c, 0, "d", "e");
	while (did)
		assert_int_equal(replicator_step_seal(r, &did), 0);
	cluster_stop_node(c, 0, false);
	cluster_start_node(c, 0);
	cluster_settle(c);
	assert_true(cluster_resolve(c, 0, "e").mtime_ns == cluster_resolve(c, 1, "e").mtime_ns);
}

static void test_request_budget(void **state)
{
	struct cluster *c = *state;
	uint64_t requests[CLUSTER_REGIONS], puts[CLUSTER_REGIONS];
	char path[64];

	cluster_stop_node(c, 1, true);
	cluster_mkdir(c, 0, "d");
	cluster_settle(c);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		requests[i] = c->requests[i];
		puts[i] = c->object_puts[i];
	}
	for (int i = 0; i < 1000; i++) {
		snprintf(path, sizeof(path), "d/f%d", i);
		cluster_puts(c, 0, path, path);
	}
	while (cluster_push(c, 0))
		;
	assert_int_equal(cluster_backlog(c, 0), 0);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		uint64_t object_puts = c->object_puts[i] - puts[i];
		uint64_t others = c->requests[i] - requests[i] - object_puts;

		assert_in_range(object_puts, 1000, 1001); /* and the directory's times */
		assert_in_range(others, 1, 10);
	}
}

static void test_other_volume_refused(void **state)
{
	struct cluster *c = *state;
	struct store_config config = {.name = "x", .url = c->url[1]};
	static const char other[] =
		"{\"format\":1,\"volume_id\":\"00112233445566778899aabbccddeeff\",\"name\":\"x\","
		"\"created\":1}";
	struct store_error error = {0};
	struct err err = {0};
	struct store *s;

	cluster_settle(c);
	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_put_buf(s, ".meridian/volume.json", other, strlen(other), NULL, NULL,
				 NULL, NULL, &error),
		STORE_OK);
	store_close(s);
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	clock_set_source(NULL);
	assert_int_equal(replicator_preflight(c->node[0].replicator, 5000, &err), -EMEDIUMTYPE);
	assert_non_null(strstr(err.text, "west"));
	assert_non_null(strstr(err.text, "another volume"));
}

static void move(struct cluster *c, const char *from, const char *to)
{
	char a[128], b[128];

	snprintf(a, sizeof(a), "%s/%s", c->dir, from);
	snprintf(b, sizeof(b), "%s/%s", c->dir, to);
	assert_int_equal(rename(a, b), 0);
}

/* Its disk is not mounted, say: what is at its place gets nothing, also over a restart. */
static void test_emptied_bucket_is_held(void **state)
{
	struct cluster *c = *state;
	struct replicator_status *s;

	cluster_puts(c, 0, "before", "before");
	cluster_settle(c);
	cluster_stop_node(c, 0, true);
	move(c, "west", "kept");
	cluster_start_node(c, 0); /* the fixture makes an empty store there */
	clock_set_source(NULL);
	assert_int_equal(replicator_preflight(c->node[0].replicator, 5000, NULL), 0);
	cluster_puts(c, 0, "meanwhile", "meanwhile");
	for (int i = 0; i < 3; i++)
		cluster_push(c, 0);
	s = cluster_status(c, 0);
	assert_true(s->region[0].up);
	assert_false(s->region[1].up);
	assert_non_null(strstr(s->region[1].error, ".meridian/volume.json is gone from file:///"));
	assert_int_equal(s->region[0].outbox.rows, 0);
	assert_int_equal(s->region[1].outbox.rows, 1);
	free(s);
	expect_object(c, 0, "meanwhile", "meanwhile");
	expect_object(c, 1, "meanwhile", NULL);
	expect_object(c, 1, ".meridian/volume.json", NULL);
	/* Nor does a scan take what is not there for removed. */
	struct reconcile_request q = {.path = {"", 0}, .deletes = DELETES_ACCEPT};
	struct err err = {0};
	assert_true(replicator_reconcile(c->node[0].replicator, "west", &q, NULL, &err) < 0);
	cluster_expect(c, 0, "before", "before");
	cluster_stop_node(c, 0, false);
	move(c, "west", "wrong");
	move(c, "kept", "west");
	cluster_start_node(c, 0);
	cluster_settle(c);
	expect_object(c, 1, "meanwhile", "meanwhile");
	expect_object(c, 1, "before", "before");
}

/* Emptied while it is in use: a scan removes nothing, whatever it may; filled again when that is asked for. */
static void test_emptied_bucket_is_filled(void **state)
{
	struct cluster *c = *state;
	struct reconcile_request q = {.path = {"", 0}, .deletes = DELETES_ACCEPT, .alone = true};
	struct err err = {0};
	struct store *s;
	struct store_config config = {.name = "x", .url = c->url[1]};

	cluster_puts(c, 0, "file", "content");
	cluster_settle(c);
	cluster_now_ms += 3600000;
	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_remove(s, ".meridian/volume.json", NULL, NULL, NULL), STORE_OK);
	assert_int_equal(store_remove(s, "file", NULL, NULL, NULL), STORE_OK);
	store_close(s);
	assert_int_equal(replicator_reconcile(c->node[0].replicator, "west", &q, NULL, &err), -ENODEV);
	assert_non_null(strstr(err.text, "--restore --region west"));
	cluster_expect(c, 0, "file", "content");
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	cluster_push(c, 0);
	q.deletes = DELETES_RESTORE;
	if (replicator_reconcile(c->node[0].replicator, "west", &q, NULL, &err) < 0)
		fail_msg("%s", err.text);
	for (int i = 0; i < 3; i++)
		cluster_push(c, 0);
	expect_object(c, 1, "file", "content");
	expect_object(c, 0, "file", "content");
}

static int remove_found(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	assert_int_equal(store_remove(ctx, key, NULL, NULL, NULL), STORE_OK);
	return 0;
}

/* Who reads an emptied bucket and was away meanwhile hears of everything all the same. */
static void test_emptied_log_is_told_again(void **state)
{
	struct cluster *c = *state;
	struct reconcile_request q = {.path = {"", 0}, .deletes = DELETES_RESTORE, .alone = true};
	struct store_config config = {.name = "x", .url = c->url[1]};
	struct store_error error = {0};
	struct err err = {0};
	struct store *s;
	bool more = true;

	cluster_puts(c, 0, "removed", "x");
	cluster_puts(c, 0, "changed", "x");
	cluster_settle(c);
	cluster_expect(c, 1, "removed", "x");
	cluster_stop_node(c, 1, true);
	cluster_unlink(c, 0, "removed");
	cluster_puts(c, 0, "changed", "anew");
	cluster_settle(c);
	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_list(s, "", NULL, 0, remove_found, s, NULL, &error), STORE_OK);
	store_close(s);
	if (replicator_reconcile(c->node[0].replicator, "west", &q, NULL, &err) < 0)
		fail_msg("%s", err.text);
	while (more)
		assert_int_equal(replicator_step_upkeep(c->node[0].replicator, &more), 0);
	cluster_settle(c);
	cluster_start_node(c, 1);
	cluster_settle(c);
	cluster_expect(c, 1, "changed", "anew");
	cluster_expect_absent(c, 1, "removed");
	expect_object(c, 1, "changed", "anew");
	assert_int_equal(cluster_backlog(c, 0), 0);
}

/* A certificate that expired, say: what a first mount is refused for a later one goes on without. */
static void test_denied(void **state)
{
	struct cluster *c = *state;
	struct replicator_status *s;
	struct err err = {0};

	clock_set_source(NULL);
	c->denied[1] = true;
	assert_int_equal(replicator_preflight(c->node[0].replicator, 5000, &err), -EACCES);
	assert_non_null(strstr(err.text, "west"));
	c->denied[1] = false;
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	assert_int_equal(replicator_preflight(c->node[0].replicator, 5000, &err), 0);
	c->denied[1] = true;
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	assert_int_equal(replicator_preflight(c->node[0].replicator, 5000, &err), 0);
	s = cluster_status(c, 0);
	assert_true(s->region[0].up);
	assert_false(s->region[1].up);
	assert_non_null(strstr(s->region[1].error, "access denied"));
	free(s);
}

static void test_newer_format_refused(void **state)
{
	struct cluster *c = *state;
	struct store_config config = {.name = "x", .url = c->url[0]};
	static const char newer[] =
		"{\"format\":2,\"volume_id\":\"00112233445566778899aabbccddeeff\"}";
	struct store_error error = {0};
	struct err err = {0};
	struct store *s;

	clock_set_source(NULL); /* threads wait in it */
	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_put_buf(s, ".meridian/volume.json", newer, strlen(newer), NULL, NULL,
				 NULL, NULL, &error),
		STORE_OK);
	store_close(s);
	assert_int_equal(replicator_preflight(c->node[0].replicator, 5000, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "upgrade"));
}

/* Both start at once over empty buckets: one id. */
static void test_one_volume_id(void **state)
{
	struct cluster *c = *state;
	struct replicator_status *a, *b;

	clock_set_source(NULL); /* threads wait in it */
	assert_int_equal(replicator_preflight(c->node[0].replicator, 5000, NULL), 0);
	assert_int_equal(replicator_preflight(c->node[1].replicator, 5000, NULL), 0);
	a = cluster_status(c, 0);
	b = cluster_status(c, 1);
	assert_int_equal(strlen(a->volume_id), 32);
	assert_string_equal(a->volume_id, b->volume_id);
	free(a);
	free(b);
}

struct fetched {
	atomic_int result; /* 1: not yet */
};

static void fetch_done(void *arg, int result)
{
	struct fetched *f = arg;

	atomic_store(&f->result, result);
}

/* Who flushes a path is told of what cannot be sealed at or below it, not of what is elsewhere. */
static void test_flush_of_what_cannot_be_sealed(void **state)
{
	struct cluster *c = *state;
	struct cache *cache = c->node[0].cache;
	struct replicator *r = c->node[0].replicator;
	struct inode i;
	struct err err = {0};

	clock_set_source(NULL);
	cluster_mkdir(c, 0, "d");
	cluster_mkdir(c, 0, "e");
	cluster_puts(c, 0, "d/large", "");
	cluster_puts(c, 0, "e/f", "f");
	assert_int_equal(tree_resolve(cache, slice_of("d/large"), &i), 0);
	i.size = (uint64_t)1 << 40;
	assert_int_equal(tree_setattr(cache, i.ino, SET_SIZE, &i, &i), 0);
	content_stop_hashing(cache, 0);
	if (replicator_flush(r, slice_of("e"), false, 0, NULL, NULL, &err) < 0)
		fail_msg("flush: %s", err.text);
	assert_int_equal(replicator_flush(r, slice_of("d"), false, 0, NULL, NULL, &err), -EBUSY);
}

/* The threads, with the real clock. */
static void test_threads(void **state)
{
	struct cluster *c = *state;
	size_t len = 300000;
	char path[64], *big = malloc(len);
	struct err err = {0};

	assert_non_null(big);
	memset(big, 'x', len);
	clock_set_source(NULL);
	for (unsigned n = 0; n < c->nodes; n++) {
		assert_int_equal(replicator_preflight(c->node[n].replicator, 5000, &err), 0);
		assert_int_equal(replicator_start(c->node[n].replicator, &err), 0);
	}
	cluster_mkdir(c, 0, "d");
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof(path), "d/f%d", i);
		cluster_puts(c, 0, path, path);
	}
	cluster_write(c, 0, "d/big", big, len);
	if (replicator_flush(c->node[0].replicator, slice_of(""), true, 60000, NULL, NULL, &err) <
		0)
		fail_msg("flush: %s", err.text);
	struct inode inode;
	for (int i = 0; tree_resolve(c->node[1].cache, slice_of("d/big"), &inode) < 0; i++) {
		assert_true(i < 600);
		clock_sleep_ms(50);
	}
	struct fetched f = {1};
	cache_fetch(c->node[1].cache, inode.ino, fetch_done, &f);
	for (int i = 0; atomic_load(&f.result) == 1; i++) {
		assert_true(i < 600);
		clock_sleep_ms(50);
	}
	assert_int_equal(atomic_load(&f.result), 0);
	char *got = cluster_read(c, 1, "d/big", NULL);
	assert_memory_equal(got, big, len);
	free(got);
	free(big);
	cluster_expect(c, 1, "d/f299", "d/f299");
	for (unsigned n = 0; n < c->nodes; n++)
		replicator_stop(c->node[n].replicator);
}

/* West is not configured for a while. */
static void without_west(struct replicator_options *o)
{
	store_close(o->region[1].opened);
	o->regions = 1;
	o->home = 0;
	o->force_regions = true;
}

static void restart(struct cluster *c, unsigned n, void (*tune)(struct replicator_options *o))
{
	bool more = true;

	cluster_stop_node(c, n, true);
	cluster_tune = tune;
	cluster_start_node(c, n);
	cluster_tune = NULL;
	if (tune)
		return;
	cluster_push(c, n); /* it is known to answer */
	while (more)
		assert_int_equal(replicator_step_upkeep(c->node[n].replicator, &more), 0);
}

/* What was removed while a region was out of the configuration is removed there, too, and on who reads it. */
static void test_region_named_again(void **state)
{
	struct cluster *c = *state;

	cluster_mkdir(c, 0, "d");
	cluster_puts(c, 0, "d/removed", "x");
	cluster_puts(c, 0, "d/kept", "x");
	cluster_settle(c);
	cluster_expect(c, 1, "d/removed", "x");
	restart(c, 0, without_west);
	cluster_unlink(c, 0, "d/removed");
	cluster_puts(c, 0, "d/kept", "changed");
	for (unsigned i = 0; i < 3; i++) {
		bool did;

		assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
		assert_int_equal(replicator_step_announce(c->node[0].replicator, 0, &did), 0);
		assert_int_equal(replicator_step_objects(c->node[0].replicator, 0, 64, &did), 0);
	}
	expect_object(c, 0, "d/removed", NULL);
	expect_object(c, 1, "d/removed", "x");
	restart(c, 0, NULL);
	cluster_settle(c);
	expect_object(c, 1, "d/removed", NULL);
	expect_object(c, 1, "d/kept", "changed");
	cluster_expect(c, 1, "d/kept", "changed");
	cluster_expect_absent(c, 1, "d/removed");
	assert_int_equal(cluster_backlog(c, 0), 0);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_files_arrive),
		CLUSTER_TEST(test_changes_and_deletes),
		CLUSTER_TEST(test_rename),
		CLUSTER_TEST(test_kind_change),
		CLUSTER_TEST(test_conflict),
		CLUSTER_TEST(test_large),
		CLUSTER_TEST(test_rename_of_remote_content),
		CLUSTER_TEST(test_region_away),
		CLUSTER_TEST(test_crash),
		CLUSTER_TEST(test_crash_keeps_told_times),
		CLUSTER_TEST(test_request_budget),
		CLUSTER_TEST(test_other_volume_refused),
		CLUSTER_TEST(test_emptied_bucket_is_held),
		CLUSTER_TEST(test_emptied_bucket_is_filled),
		CLUSTER_TEST(test_emptied_log_is_told_again),
		CLUSTER_TEST(test_region_named_again),
		CLUSTER_TEST(test_denied),
		CLUSTER_TEST(test_newer_format_refused),
		CLUSTER_TEST(test_one_volume_id),
		CLUSTER_TEST(test_flush_of_what_cannot_be_sealed),
		CLUSTER_TEST(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
