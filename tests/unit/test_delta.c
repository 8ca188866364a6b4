/* Changes of large files inside segments: made, read, applied, and what is done where they cannot be. */
#include "tests/unit/cluster.h"

#include <fcntl.h>

#include "cache/outbox.h"
#include "replicator/delta.h"
#include "replicator/delta_pace.h"
#include "replicator/internal.h"
#include "replicator/segment.h"
#include "src/base/metrics.h"
#include "src/base/random.h"
#include "tests/sim/store_mem.h"

enum { SIZE = 3 << 20, BLOCK = 16 << 10 };

static char *body;

static int setup(void **state)
{
	body = malloc(2 * SIZE);
	if (!body)
		return -1;
	for (size_t i = 0; i < 2 * SIZE; i++)
		body[i] = (char)(i * 2654435761u >> 21);
	return cluster_setup(state);
}

static int teardown(void **state)
{
	free(body);
	return cluster_teardown(state);
}

/* ---- bytes ---- */

static void keep_map(struct cache *c, const char *p, size_t n, uint8_t hash[SHA256_SIZE])
{
	static uint64_t ino; /* of one only the newest are kept */
	struct content_mapper m;

	sha256(p, n, hash);
	content_mapper_begin(&m, n, CONTENT_MAP_MIN);
	content_mapper_add(&m, p, n);
	content_map_keep(c, &m, ++ino, hash);
}

/* From n bytes of base to size bytes of body: the length of the delta, or an error. */
static int change(struct cluster *c, const char *base, size_t n, size_t size, uint64_t limit)
{
	struct cache *cache = c->node[0].cache;
	struct store_memory memory = {body, size};
	struct store_source source = store_source_memory(&memory);
	CLEANUP(buf_done) struct buf b = {0};
	struct content_writer w;
	uint8_t from[SHA256_SIZE], to[SHA256_SIZE], got[SHA256_SIZE];
	struct delta d;

	keep_map(cache, base, n, from);
	keep_map(cache, body, size, to);
	int r = delta_make(cache, from, to, &source, limit, &b);
	if (r < 0)
		return r;
	assert_true(delta_parse(b.data, b.len, size, &d));
	assert_memory_equal(d.base, from, SHA256_SIZE);
	assert_int_equal(content_begin(cache, &w), 0);
	assert_int_equal(content_append(&w, base, n), 0);
	assert_int_equal(delta_apply(&d, size, &w), 0);
	assert_int_equal(content_writer_hash(cache, &w, got), 0);
	assert_memory_equal(got, to, SHA256_SIZE);
	assert_int_equal(w.size, size);
	content_discard(cache, &w);
	return (int)b.len;
}

static void deltas_cost_what_changed(void **state)
{
	struct cluster *c = *state;
	char *base = malloc(2 * SIZE);
	const uint64_t limit = 1 << 20;

	assert_non_null(base);
	memcpy(base, body, 2 * SIZE);
	/* Appended to, from the middle of a block and from its end. */
	assert_in_range(change(c, base, SIZE + 77, SIZE + 77 + 4096, limit), 4096, 4096 + 60);
	assert_in_range(change(c, base, SIZE, SIZE + 4096, limit), 4096, 4096 + 60);
	assert_in_range(change(c, base, SIZE + 77, SIZE + 77 + 5 * BLOCK, limit), 5 * BLOCK,
		5 * BLOCK + 60);
	/* Appended to, and changed in its last block: no more than that block. */
	base[SIZE + 5] ^= 1;
	assert_in_range(change(c, base, SIZE + 77, SIZE + 177, limit), 177, 177 + 60);
	/* A page, and both. */
	base[100000] ^= 1;
	assert_in_range(
		change(c, base, SIZE + 77, SIZE + 177, limit), BLOCK + 177, BLOCK + 177 + 60);
	/* Cut. */
	memcpy(base, body, 2 * SIZE);
	assert_in_range(change(c, base, SIZE, SIZE - 100, limit), 0, BLOCK + 60);
	assert_in_range(change(c, base, 2 * SIZE, SIZE, limit), 0, 60);
	/* Too much. */
	assert_int_equal(change(c, base, SIZE, SIZE + 4096, 4095), -ENOENT);
	memset(base, 'x', SIZE);
	assert_int_equal(change(c, base, SIZE, SIZE, limit), -ENOENT);
	free(base);
}

static void malformed_ones_are_left_out(void **state UNUSED)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct delta d;
	static const uint8_t base[SHA256_SIZE] = {1};

	buf_put(&b, base, sizeof(base));
	buf_put_varint(&b, 100); /* base size */
	buf_put_varint(&b, 2);
	buf_put_varint(&b, 10); /* 10 to 14 */
	buf_put_varint(&b, 4);
	buf_put_varint(&b, 86); /* 100 to 103 */
	buf_put_varint(&b, 3);
	buf_put(&b, "abcdefg", 7);
	assert_true(delta_parse(b.data, b.len, 103, &d));
	assert_false(delta_parse(b.data, b.len, 102, &d));
	for (size_t n = 0; n < b.len; n++)
		assert_false(delta_parse(b.data, n, 103, &d));
	buf_put_u8(&b, 'h');
	assert_false(delta_parse(b.data, b.len, 103, &d));
	b.len--;
	for (unsigned i = 0; i < 20000; i++) {
		uint8_t copy[64];
		size_t n = b.len;

		memcpy(copy, b.data, n);
		for (unsigned k = 0; k <= random_below(3); k++)
			copy[SHA256_SIZE + random_below(n - SHA256_SIZE)] = (uint8_t)random_u64();
		if (delta_parse(copy, n, 103, &d))
			assert_true(d.bytes <= copy + n && d.ranges + d.len == copy + n);
	}
}

static void records_carry_them(void **state UNUSED)
{
	CLEANUP(buf_done) struct buf delta = {0}, b = {0}, cut = {0};
	struct record r = {.entry = {.kind = KIND_FILE,
				   .size = 50,
				   .content_stamp = {1, 2},
				   .attr_stamp = {1, 2}}},
		      got;
	static const uint8_t base[SHA256_SIZE] = {1};
	struct err err = {0};

	assert_true(key_set(&r.key, slice_of("d/log")));
	buf_put(&delta, base, sizeof(base));
	buf_put_varint(&delta, 40);
	buf_put_varint(&delta, 1);
	buf_put_varint(&delta, 40);
	buf_put_varint(&delta, 10);
	buf_put(&delta, "0123456789", 10);
	r.delta = delta.data;
	r.delta_len = delta.len;
	record_encode(&r, &b);
	assert_int_equal(record_decode(b.data, b.len, &got, &err), 0);
	assert_int_equal(got.delta_len, delta.len);
	assert_memory_equal(got.delta, delta.data, delta.len);
	record_done(&got);
	/* One that is cut short takes nothing from the record. */
	buf_put(&cut, b.data, b.len - 1);
	assert_int_equal(record_decode(cut.data, cut.len, &got, &err), 0);
	assert_null(got.delta);
	assert_int_equal(got.entry.size, 50);
	record_done(&got);
}

/* ---- servers ---- */

static void append(struct cluster *c, unsigned n, const char *path, const void *p, size_t len)
{
	struct inode inode = cluster_resolve(c, n, path);
	struct file *f;

	assert_int_equal(file_open(c->node[n].cache, inode.ino, true, false, &f), 0);
	assert_int_equal(file_write(f, p, len, 0, true), len);
	file_release(f);
}

static bool is_here(struct cluster *c, unsigned n, const char *path)
{
	struct inode inode = cluster_resolve(c, n, path);
	struct file *f;
	int r = file_open(c->node[n].cache, inode.ino, false, false, &f);

	assert_true(r == 0 || r == -EREMOTE);
	if (r == 0)
		file_release(f);
	return r == 0;
}

static void expect(struct cluster *c, unsigned n, const char *path, size_t size)
{
	size_t len;
	char *got = cluster_read(c, n, path, &len);

	assert_int_equal(len, size);
	assert_memory_equal(got, body, size);
	free(got);
}

/* Both servers have the file of SIZE bytes, and so have the regions. */
static void share(struct cluster *c, const char *path)
{
	cluster_write(c, 0, path, body, SIZE);
	cluster_settle(c);
	expect(c, 1, path, SIZE);
	assert_true(is_here(c, 1, path));
	assert_int_equal(cluster_backlog(c, 0), 0);
}

static void object_size(struct cluster *c, unsigned region, const char *key, uint64_t size)
{
	char path[200];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", c->url[region] + strlen("file://"), key);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, size);
}

static void an_append_travels_by_itself(void **state)
{
	struct cluster *c = *state;
	uint64_t applied = metric_get(METRIC_DELTAS_APPLIED);

	share(c, "log");
	append(c, 0, "log", body + SIZE, 1000);
	cluster_push(c, 0);
	cluster_pull(c, 1);
	assert_true(is_here(c, 1, "log"));
	assert_int_equal(metric_get(METRIC_DELTAS_APPLIED), applied + 1);
	expect(c, 1, "log", SIZE + 1000);
	object_size(
		c, 0, "log", SIZE + 1000); /* nothing was sent for a while, so it follows at once */
	/* The next one's object has to wait. */
	append(c, 0, "log", body + SIZE + 1000, 1000);
	cluster_push(c, 0);
	cluster_pull(c, 1);
	expect(c, 1, "log", SIZE + 2000);
	object_size(c, 0, "log", SIZE + 1000);
	assert_int_equal(cluster_backlog(c, 0), CLUSTER_REGIONS);
	cluster_now_ms += DELTA_PACE_LEAST_MS + 1;
	cluster_push(c, 0);
	object_size(c, 0, "log", SIZE + 2000);
	object_size(c, 1, "log", SIZE + 2000);
	assert_int_equal(cluster_backlog(c, 0), 0);
}

/* Several changes that come at once are applied to one copy; one that a region missed goes with the next. */
static void changes_follow_each_other(void **state)
{
	uint64_t applied = metric_get(METRIC_DELTAS_APPLIED);
	struct cluster *c = *state;
	bool did;

	share(c, "log");
	for (int i = 0; i < 5; i++) {
		append(c, 0, "log", body + SIZE + i * 100, 100);
		assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
		/* East is told of each, west of every other one. */
		assert_int_equal(replicator_step_announce(c->node[0].replicator, 0, &did), 0);
		if (i % 2)
			assert_int_equal(
				replicator_step_announce(c->node[0].replicator, 1, &did), 0);
	}
	assert_int_equal(replicator_step_announce(c->node[0].replicator, 1, &did), 0);
	cluster_pull(c, 1);
	assert_true(is_here(c, 1, "log"));
	assert_int_equal(metric_get(METRIC_DELTAS_APPLIED), applied + 1);
	expect(c, 1, "log", SIZE + 500);
	cluster_settle(c);
	object_size(c, 0, "log", SIZE + 500);
	object_size(c, 1, "log", SIZE + 500);
}

/* Who has not got the base, or another file in its place, takes the object. */
static void without_the_base_it_is_fetched(void **state)
{
	struct cluster *c = *state;
	uint64_t useless = metric_get(METRIC_DELTAS_USELESS);

	cluster_write(c, 0, "log", body, SIZE);
	cluster_settle(c);
	append(c, 0, "log", body + SIZE, 1000);
	cluster_settle(c);
	assert_false(is_here(c, 1, "log"));
	expect(c, 1, "log", SIZE + 1000);
	assert_int_equal(metric_get(METRIC_DELTAS_USELESS), useless);
}

/* The object is some versions behind: what came since was in the segments. */
static void an_object_that_lags_is_followed(void **state)
{
	struct cluster *c = *state;
	uint64_t applied = metric_get(METRIC_DELTAS_APPLIED);

	cluster_write(c, 0, "log", body, SIZE);
	cluster_settle(c);
	for (int i = 0; i < 4; i++) {
		append(c, 0, "log", body + SIZE + i * 100, 100);
		cluster_push(c, 0);
		cluster_pull(c, 1);
	}
	object_size(c, 0, "log", SIZE + 100);
	object_size(c, 1, "log", SIZE + 100);
	assert_false(is_here(c, 1, "log"));
	expect(c, 1, "log", SIZE + 400);
	assert_int_equal(metric_get(METRIC_DELTAS_APPLIED), applied + 1);
	/* From now on it has the base. */
	append(c, 0, "log", body + SIZE + 400, 100);
	cluster_push(c, 0);
	cluster_pull(c, 1);
	assert_true(is_here(c, 1, "log"));
	expect(c, 1, "log", SIZE + 500);
}

/* The base's file was damaged behind the cache's back: what is made of it is not taken. */
static void a_wrong_result_is_not_taken(void **state)
{
	struct cluster *c = *state;
	uint64_t useless = metric_get(METRIC_DELTAS_USELESS);
	char path[200];

	share(c, "log");
	struct inode inode = cluster_resolve(c, 1, "log");
	snprintf(path, sizeof(path), "%s/content/%02x/%016llx", c->node[1].state,
		(unsigned)(inode.ino >> 8 & 0xff), (unsigned long long)inode.ino);
	int fd = open(path, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "damage", 6, 100), 6);
	close(fd);
	append(c, 0, "log", body + SIZE, 1000);
	cluster_push(c, 0);
	cluster_pull(c, 1);
	assert_int_equal(metric_get(METRIC_DELTAS_USELESS), useless + 1);
	assert_false(is_here(c, 1, "log"));
	expect(c, 1, "log", SIZE + 1000);
}

/* What has changed too much since the region was told last goes as an object first. */
static void too_much_in_the_end_is_sent_whole(void **state)
{
	struct cluster *c = *state;
	bool did;

	share(c, "log");
	for (int i = 0; i < 3; i++) {
		append(c, 0, "log", body + SIZE + i * 500000, 500000);
		assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	}
	assert_int_equal(replicator_step_announce(c->node[0].replicator, 0, &did), 0);
	cluster_settle(c);
	object_size(c, 0, "log", SIZE + 1500000);
	expect(c, 1, "log", SIZE + 1500000);
	assert_int_equal(cluster_backlog(c, 0), 0);
}

/* ---- logs that grow by more than a delta has ---- */

enum { TOOK_MS = 1000, GROWTH = 3 << 19, PAUSE_MS = (DELTA_PACE_SHARE - 1) * TOOK_MS };

static bool pass_time; /* while an object of the log is sent */
static void (*meanwhile)(struct cluster *c);

static enum store_result slow_put(void *ctx, const char *op, const char *key, bool did_happen)
{
	if (pass_time && !did_happen && strcmp(op, "put") == 0 && strcmp(key, "d/log") == 0) {
		cluster_now_ms += TOOK_MS;
		if (meanwhile)
			meanwhile(ctx);
	}
	return STORE_OK;
}

static struct store *with_slow_puts(
	struct cluster *c, unsigned node, unsigned region UNUSED, struct store *inner)
{
	return node == 0 ? store_fault_new(inner, slow_put, c) : inner;
}

/* The log was sent once, and nobody waits for it any more. */
static void begin_log(struct cluster *c)
{
	cluster_stop_node(c, 0, true);
	c->wrap = with_slow_puts;
	cluster_start_node(c, 0);
	cluster_mkdir(c, 0, "d");
	cluster_mkdir(c, 0, "e");
	cluster_settle(c);
	cluster_write(c, 0, "d/log", body, SIZE);
	pass_time = true;
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE); /* the first one is not delayed */
	object_size(c, 1, "d/log", SIZE);
	cluster_pull(c, 1);
	assert_int_equal(cluster_resolve(c, 1, "d/log").size, SIZE);
	assert_int_equal(cluster_backlog(c, 0), 0);
}

static void end_log(struct cluster *c)
{
	meanwhile = NULL;
	pass_time = false;
	cluster_now_ms += 3600000;
	cluster_settle(c);
	assert_int_equal(cluster_backlog(c, 0), 0);
}

static void a_log_that_grows_fast_is_paced(void **state)
{
	struct cluster *c = *state;

	begin_log(c);
	append(c, 0, "d/log", body + SIZE, GROWTH);
	cluster_puts(c, 0, "d/after", "beside it");
	cluster_puts(c, 0, "e/other", "elsewhere");
	cluster_push(c, 0);
	cluster_pull(c, 1);
	object_size(c, 0, "d/log", SIZE);
	assert_int_equal(cluster_resolve(c, 1, "d/log").size, SIZE);
	cluster_expect_absent(c, 1, "d/after");
	cluster_expect(c, 1, "e/other", "elsewhere");
	/* The second region's time began after the first one's. */
	cluster_now_ms += PAUSE_MS - TOOK_MS - 1;
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE);
	cluster_now_ms += TOOK_MS + 1;
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE + GROWTH);
	object_size(c, 1, "d/log", SIZE + GROWTH);
	cluster_push(c, 0);
	cluster_pull(c, 1);
	assert_int_equal(cluster_resolve(c, 1, "d/log").size, SIZE + GROWTH);
	cluster_expect(c, 1, "d/after", "beside it");
	end_log(c);
	expect(c, 1, "d/log", SIZE + GROWTH);
}

static void a_file_that_is_rewritten_is_not(void **state)
{
	struct cluster *c = *state;

	begin_log(c);
	for (size_t i = 0; i < SIZE; i += BLOCK)
		body[i] ^= 1;
	cluster_write(c, 0, "d/log", body, SIZE + GROWTH);
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE + GROWTH);
	object_size(c, 1, "d/log", SIZE + GROWTH);
	/* Nor is one that got shorter. */
	for (size_t i = 0; i < SIZE; i += BLOCK)
		body[i] ^= 1;
	cluster_write(c, 0, "d/log", body, SIZE);
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE);
	end_log(c);
	expect(c, 1, "d/log", SIZE);
}

static void nor_is_one_that_somebody_waits_for(void **state)
{
	struct cluster *c = *state;

	begin_log(c);
	struct delta_pace *pace = &c->node[0].replicator->pace;
	append(c, 0, "d/log", body + SIZE, GROWTH);
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE);
	cluster_now_ms += PAUSE_MS / 3; /* it is not looked at all the time */
	atomic_fetch_add(&pace->hurry, 1);
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE + GROWTH);
	atomic_fetch_sub(&pace->hurry, 1);
	append(c, 0, "d/log", body + SIZE + GROWTH, GROWTH);
	cluster_push(c, 0);
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE + GROWTH);
	cluster_now_ms += PAUSE_MS / 3;
	atomic_store(&pace->awaited, true);
	cluster_push(c, 0);
	object_size(c, 0, "d/log", SIZE + 2 * GROWTH);
	atomic_store(&pace->awaited, false);
	end_log(c);
	expect(c, 1, "d/log", SIZE + 2 * GROWTH);
}

/* A program that never stops, and a sealer whose patience is over in the middle of it. */
static unsigned written;

static void write_on(struct cluster *c)
{
	bool did;

	append(c, 0, "d/log", body + SIZE + GROWTH + written, 1000);
	written += 1000;
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	cluster_now_ms += 2 * SEAL_PATIENCE_MS;
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
}

static void each_version_that_is_sent_is_announced(void **state)
{
	struct cluster *c = *state;
	bool did;

	begin_log(c);
	append(c, 0, "d/log", body + SIZE, GROWTH);
	cluster_push(c, 0);
	cluster_now_ms += PAUSE_MS;
	meanwhile = write_on;
	written = 0;
	assert_int_equal(replicator_step_objects(c->node[0].replicator, 1, 64, &did), 0);
	meanwhile = NULL;
	object_size(c, 1, "d/log", SIZE + GROWTH);
	/* It came, and is still to be announced. */
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	assert_int_equal(replicator_step_announce(c->node[0].replicator, 1, &did), 0);
	assert_true(did);
	cluster_pull(c, 1);
	struct inode inode = cluster_resolve(c, 1, "d/log");
	assert_int_equal(inode.size, SIZE + GROWTH);
	end_log(c);
	expect(c, 1, "d/log", SIZE + GROWTH + written);
}

/* In parts, to a bucket in memory, while the file goes on. */
static struct store *bucket[CLUSTER_REGIONS];

static enum store_result first_part(void *ctx, const char *op, const char *key, bool did_happen)
{
	if (strcmp(op, "part") == 0 && !did_happen && meanwhile) {
		void (*once)(struct cluster *c) = meanwhile;

		meanwhile = NULL;
		once(ctx);
	}
	return STORE_OK;
}

static struct store *with_parts(
	struct cluster *c, unsigned node, unsigned region, struct store *inner)
{
	static const struct store_limits limits = {.put_max = BLOCK,
		.object_max = 4 * SIZE,
		.part_min = BLOCK,
		.part_max = SIZE / 3,
		.parts_max = 100};

	if (node != 0)
		return inner;
	store_close(inner);
	bucket[region] = store_mem_new(STORE_MEM_ALL);
	store_mem_set_limits(bucket[region], &limits);
	return store_fault_new(bucket[region], first_part, c);
}

/* As a flush does: without patience. */
static void seal_at_once(struct cluster *c)
{
	assert_int_equal(sealer_seal_all(c->node[0].replicator->sealer, NULL, NULL), 0);
}

static void grow(struct cluster *c)
{
	append(c, 0, "d/log", body + SIZE + GROWTH, GROWTH);
	seal_at_once(c);
}

static void rewrite(struct cluster *c)
{
	cluster_write(c, 0, "d/log", body + BLOCK, SIZE);
	seal_at_once(c);
}

/* 0: there is none. */
static uint64_t size_in_bucket(unsigned region)
{
	struct store_object object = {0};
	struct store_error error = {0};
	enum store_result r = store_head(bucket[region], "d/log", &object, NULL, NULL, &error);

	assert_true(r == STORE_OK || r == STORE_ABSENT);
	return r == STORE_OK ? object.size : 0;
}

static void an_upload_goes_on_when_its_file_grows(void **state)
{
	struct cluster *c = *state;
	bool did;

	cluster_stop_node(c, 0, true);
	c->wrap = with_parts;
	cluster_start_node(c, 0);
	cluster_mkdir(c, 0, "d");
	cluster_write(c, 0, "d/log", body, SIZE);
	cluster_settle(c);
	append(c, 0, "d/log", body + SIZE, GROWTH);
	seal_at_once(c);
	meanwhile = grow;
	assert_int_equal(replicator_step_objects(c->node[0].replicator, 0, 64, &did), 0);
	assert_null(meanwhile);
	assert_int_equal(size_in_bucket(0), SIZE + GROWTH);
	/* One that takes its place is not sent on. */
	cluster_settle(c);
	assert_int_equal(size_in_bucket(0), SIZE + 2 * GROWTH);
	cluster_write(c, 0, "d/log", body + 2 * BLOCK, SIZE);
	seal_at_once(c);
	meanwhile = rewrite;
	assert_int_equal(replicator_step_objects(c->node[0].replicator, 0, 64, &did), 0);
	assert_null(meanwhile);
	assert_int_equal(size_in_bucket(0), SIZE + 2 * GROWTH);
	end_log(c);
	assert_int_equal(size_in_bucket(0), SIZE);
}

static void a_kill_takes_nothing(void **state)
{
	struct cluster *c = *state;
	bool did;

	share(c, "log");
	append(c, 0, "log", body + SIZE, 1000);
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	cluster_stop_node(c, 0, false);
	cluster_start_node(c, 0);
	append(c, 0, "log", body + SIZE + 1000, 1000);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		assert_int_equal(replicator_step_announce(c->node[0].replicator, i, &did), 0);
	cluster_stop_node(c, 0, false);
	cluster_start_node(c, 0);
	cluster_settle(c);
	expect(c, 1, "log", SIZE + 2000);
	object_size(c, 0, "log", SIZE + 2000);
	object_size(c, 1, "log", SIZE + 2000);
	assert_int_equal(cluster_backlog(c, 0), 0);
}

/* The object of a growing log takes at most a quarter of the time, and none while somebody waits for nothing but it. */
static void the_object_keeps_to_its_share(void **state UNUSED)
{
	static struct delta_pace p;
	const uint8_t hash[SHA256_SIZE] = {1};
	struct slice log = slice_of("log");
	int64_t start;

	delta_pace_init(&p);
	assert_int_equal(delta_pace_wait_ms(&p, 0, log, true), 0);
	start = clock_monotonic_ms() - 60000;
	delta_pace_sent(&p, 0, log, start, hash);
	assert_in_range(delta_pace_wait_ms(&p, 0, log, true), 179000, 180000);
	assert_int_equal(delta_pace_wait_ms(&p, 1, log, true), 0);
	assert_int_equal(delta_pace_wait_ms(&p, 0, slice_of("other"), true), 0);
	atomic_fetch_add(&p.hurry, 1);
	assert_int_equal(delta_pace_wait_ms(&p, 0, log, true), 0);
	atomic_fetch_sub(&p.hurry, 1);
	atomic_store(&p.awaited, true);
	assert_int_equal(delta_pace_wait_ms(&p, 0, log, true), 0);
	atomic_store(&p.awaited, false);
	/* A quick one, too, has a pause behind it. */
	delta_pace_sent(&p, 0, log, clock_monotonic_ms(), hash);
	assert_in_range(delta_pace_wait_ms(&p, 0, log, true), 4000, 5000);
	assert_in_range(delta_pace_wait_ms(&p, 0, log, false), 0, 100);
	/* What waits is as good as what comes after it, until it is being sent. */
	assert_false(delta_pace_waiting(&p, 0, log));
	delta_pace_sent(&p, 0, log, start, hash);
	delta_pace_hold(&p, 0, log);
	assert_true(delta_pace_waiting(&p, 0, log));
	assert_false(delta_pace_waiting(&p, 1, log));
	atomic_store(&p.awaited, true);
	assert_false(delta_pace_waiting(&p, 0, log));
	atomic_store(&p.awaited, false);
	delta_pace_begin(&p, 0, log);
	assert_false(delta_pace_waiting(&p, 0, log));
	assert_true(delta_pace_sending(&p, 0, log));
	delta_pace_sent(&p, 0, log, start, hash);
	assert_false(delta_pace_waiting(&p, 0, log));
	delta_pace_done(&p);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(deltas_cost_what_changed),
		cmocka_unit_test(malformed_ones_are_left_out),
		cmocka_unit_test(records_carry_them),
		TEST(an_append_travels_by_itself),
		TEST(changes_follow_each_other),
		TEST(without_the_base_it_is_fetched),
		TEST(an_object_that_lags_is_followed),
		TEST(a_wrong_result_is_not_taken),
		TEST(too_much_in_the_end_is_sent_whole),
		TEST(a_log_that_grows_fast_is_paced),
		TEST(a_file_that_is_rewritten_is_not),
		TEST(nor_is_one_that_somebody_waits_for),
		TEST(each_version_that_is_sent_is_announced),
		TEST(an_upload_goes_on_when_its_file_grows),
		TEST(a_kill_takes_nothing),
		cmocka_unit_test(the_object_keeps_to_its_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
