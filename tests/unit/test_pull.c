/* The puller against a log that somebody damaged: what is bad is recorded and passed over, the rest
 * arrives. */
#include "tests/unit/cluster.h"

#include "cache/progress.h"
#include "replicator/internal.h"
#include "replicator/pull_internal.h"
#include "replicator/segment.h"
#include "src/base/buf.h"
#include "src/base/metrics.h"

struct names {
	char key[64][128];
	unsigned count;
};

static int add_name(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	struct names *n = ctx;

	if (n->count < 64)
		snprintf(n->key[n->count++], sizeof(n->key[0]), "%s", key);
	return 0;
}

/* Both regions' logs; fn changes the bucket. */
static void each_region(struct cluster *c, void (*fn)(struct store *s, const struct names *n))
{
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		struct store_config config = {.name = "x", .url = c->url[i]};
		struct store_error error = {0};
		struct names n = {.count = 0};
		struct store *s;

		assert_int_equal(store_open(&config, &s, NULL), 0);
		assert_int_equal(store_list(s, SEGMENT_PREFIX, NULL, 0, add_name, &n, NULL, &error),
			STORE_OK);
		fn(s, &n);
		store_close(s);
	}
}

/* Three segments of node 0, which node 1 has not seen. */
static void three_segments(struct cluster *c)
{
	static const char *const names[] = {"a", "b", "c"};

	for (int i = 0; i < 3; i++) {
		cluster_puts(c, 0, names[i], names[i]);
		while (cluster_push(c, 0))
			;
		cluster_now_ms += 1000;
	}
}

static void damage_second(struct store *s, const struct names *n)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};

	assert_int_equal(n->count, 3);
	assert_int_equal(
		store_get_buf(s, n->key[1], 1 << 20, &b, NULL, NULL, NULL, &error), STORE_OK);
	b.data[b.len / 2] ^= 1;
	assert_int_equal(store_put_buf(s, n->key[1], b.data, b.len, NULL, NULL, NULL, NULL, &error),
		STORE_OK);
}

static void remove_second(struct store *s, const struct names *n)
{
	struct store_error error = {0};

	assert_int_equal(n->count, 3);
	assert_int_equal(store_remove(s, n->key[1], NULL, NULL, &error), STORE_OK);
}

static void add_junk(struct store *s, const struct names *n UNUSED)
{
	static const char *const junk[] = {"x", "0000-1-2",
		"ffffffffffff-0000000000000009-0000000000000001",
		"ffffffffffff-0000000000000009-zzzzzzzzzzzzzzzz"};
	struct store_error error = {0};
	char key[128];

	for (size_t i = 0; i < ARRAY_SIZE(junk); i++) {
		snprintf(key, sizeof(key), "%s%s", SEGMENT_PREFIX, junk[i]);
		assert_int_equal(
			store_put_buf(s, key, "junk", 4, NULL, NULL, NULL, NULL, &error), STORE_OK);
	}
}

static uint64_t bad_segments(struct cluster *c, unsigned n)
{
	struct replicator_status *s = cluster_status(c, n);
	uint64_t bad = s->bad_segments;

	free(s);
	return bad;
}

static void test_damaged_segment(void **state)
{
	struct cluster *c = *state;

	three_segments(c);
	each_region(c, damage_second);
	cluster_settle(c);
	cluster_expect(c, 1, "a", "a");
	cluster_expect_absent(c, 1, "b");
	cluster_expect(c, 1, "c", "c");
	assert_int_equal(bad_segments(c, 1), 1);
}

static void test_lost_segment(void **state)
{
	struct cluster *c = *state;
	uint64_t gaps = metric_get(METRIC_SEGMENTS_GAP);

	three_segments(c);
	each_region(c, remove_second);
	cluster_settle(c);
	cluster_expect(c, 1, "a", "a");
	cluster_expect_absent(c, 1, "b");
	cluster_expect(c, 1, "c", "c");
	assert_int_equal(bad_segments(c, 1), 1);
	assert_int_equal(metric_get(METRIC_SEGMENTS_GAP), gaps + 1);
}

/* Junk names are ignored, a well-formed one of a broken clock does not hide what comes after it. */
static void test_junk(void **state)
{
	struct cluster *c = *state;

	cluster_settle(c);
	each_region(c, add_junk);
	cluster_settle(c);
	cluster_puts(c, 0, "after", "after");
	cluster_settle(c);
	cluster_expect(c, 1, "after", "after");
}

/* Node 0's second segment has a newer format; then come more names than a page has; then a segment
 * of another writer. */
static void newer_second(struct store *s, const struct names *n)
{
	enum { AT_VERSION = 7, AT_SUM = 120 };
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(buf_done) struct buf out = {0};
	struct segment_id id = {.ms = (uint64_t)cluster_now_ms, .node = 9};
	struct store_error error = {0};
	struct segment_writer w = {0};
	char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE] = SEGMENT_PREFIX;
	struct sha256 h;

	assert_int_equal(n->count, 3);
	assert_int_equal(
		store_get_buf(s, n->key[1], 1 << 20, &b, NULL, NULL, NULL, &error), STORE_OK);
	b.data[AT_VERSION]++;
	sha256_init(&h);
	sha256_update(&h, b.data, AT_SUM);
	sha256_update(&h, b.data + AT_SUM + SHA256_SIZE, b.len - AT_SUM - SHA256_SIZE);
	sha256_final(&h, b.data + AT_SUM);
	assert_int_equal(store_put_buf(s, n->key[1], b.data, b.len, NULL, NULL, NULL, NULL, &error),
		STORE_OK);
	for (; id.node < 1009; id.node++) { /* number 0: nobody's */
		segment_name(&id, key + strlen(SEGMENT_PREFIX));
		assert_int_equal(
			store_put_buf(s, key, "", 0, NULL, NULL, NULL, NULL, &error), STORE_OK);
	}
	id.ms++;
	id.seq = 1;
	struct stamp stamp = {.time = id.ms << 16, .node = id.node};
	struct record record = {.entry = {.kind = KIND_SYMLINK,
					.target = (char *)"x",
					.mode = 0777,
					.content_stamp = stamp,
					.attr_stamp = stamp}};
	assert_true(key_set(&record.key, slice_of("other")));
	segment_add(&w, &record);
	assert_int_equal(segment_finish(&w, &id, "", false, &out), 0);
	segment_writer_done(&w);
	segment_name(&id, key + strlen(SEGMENT_PREFIX));
	assert_int_equal(
		store_put_buf(s, key, out.data, out.len, NULL, NULL, NULL, NULL, &error), STORE_OK);
}

/* It stops its writer, here and until the upgrade, and nobody else. */
static void test_newer_format(void **state)
{
	struct cluster *c = *state;
	struct inode i;

	three_segments(c);
	each_region(c, newer_second);
	for (int n = 0; n < 3; n++) {
		cluster_pull(c, 1);
		cluster_now_ms += 1000;
	}
	cluster_expect(c, 1, "a", "a");
	cluster_expect_absent(c, 1, "b");
	cluster_expect_absent(c, 1, "c");
	assert_int_equal(bad_segments(c, 1), 0);
	i = cluster_resolve(c, 1, "other");
	assert_true(S_ISLNK(i.mode));
}

static void put_one(struct store *s, const struct segment_id *id, const char *previous)
{
	CLEANUP(buf_done) struct buf out = {0};
	struct stamp stamp = {.time = id->ms << 16 | (id->seq & 0xffff), .node = id->node};
	struct record record = {.entry = {.kind = KIND_SYMLINK,
					.target = (char *)"x",
					.mode = 0777,
					.content_stamp = stamp,
					.attr_stamp = stamp}};
	char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE] = SEGMENT_PREFIX, name[16];
	struct store_error error = {0};
	struct segment_writer w = {0};

	snprintf(name, sizeof(name), "l%u", (unsigned)id->seq);
	assert_true(key_set(&record.key, slice_of(name)));
	segment_add(&w, &record);
	assert_int_equal(segment_finish(&w, id, previous, false, &out), 0);
	segment_writer_done(&w);
	segment_name(id, key + strlen(SEGMENT_PREFIX));
	assert_int_equal(
		store_put_buf(s, key, out.data, out.len, NULL, NULL, NULL, NULL, &error), STORE_OK);
}

enum { LONG_CHAIN = 1100 };

/* Writer 9's segments, all but the newest too old for any listing from the cursor. */
static void long_chain(struct store *s, const struct names *n UNUSED)
{
	char previous[SEGMENT_NAME_SIZE] = "";

	for (unsigned i = 1; i <= LONG_CHAIN; i++) {
		struct segment_id id = {.node = 9, .seq = i, .ms = (uint64_t)cluster_now_ms};

		if (i < LONG_CHAIN)
			id.ms -= 7200000;
		put_one(s, &id, previous);
		segment_name(&id, previous);
	}
}

/* More than the chain is followed for: nothing is passed over. */
static void test_long_chain(void **state)
{
	struct cluster *c = *state;
	uint64_t gaps = metric_get(METRIC_SEGMENTS_GAP);

	three_segments(c);
	cluster_settle(c);
	each_region(c, long_chain);
	cluster_settle(c);
	for (unsigned i = 1; i <= LONG_CHAIN; i++) {
		char name[16];

		snprintf(name, sizeof(name), "l%u", i);
		assert_true(S_ISLNK(cluster_resolve(c, 1, name).mode));
	}
	assert_int_equal(bad_segments(c, 1), 0);
	assert_int_equal(metric_get(METRIC_SEGMENTS_GAP), gaps);
}

/* Writer 9's third segment says that it is the first one. */
static void broken_chain(struct store *s, const struct names *n UNUSED)
{
	for (uint64_t seq = 1; seq <= 5; seq += 2)
		put_one(s,
			&(struct segment_id){.node = 9, .seq = seq, .ms = (uint64_t)cluster_now_ms},
			"");
}

/* Numbers to which no name leads are reported, each gap once, and what is there is merged. */
static void test_broken_chain(void **state)
{
	struct cluster *c = *state;
	uint64_t gaps = metric_get(METRIC_SEGMENTS_GAP);

	cluster_stop_node(c, 0, true);
	each_region(c, broken_chain);
	for (int i = 0; i < 5; i++)
		cluster_pull(c, 1);
	assert_true(S_ISLNK(cluster_resolve(c, 1, "l1").mode));
	assert_true(S_ISLNK(cluster_resolve(c, 1, "l3").mode));
	assert_true(S_ISLNK(cluster_resolve(c, 1, "l5").mode));
	assert_int_equal(bad_segments(c, 1), 2);
	assert_int_equal(metric_get(METRIC_SEGMENTS_GAP), gaps + 2);
}

/* A server that comes late gets all, in the order of each writer. */
static void test_late_server(void **state)
{
	struct cluster *c = *state;

	cluster_stop_node(c, 1, true);
	three_segments(c);
	cluster_now_ms += 86400000;
	cluster_start_node(c, 1);
	cluster_settle(c);
	cluster_expect(c, 1, "a", "a");
	cluster_expect(c, 1, "c", "c");
	struct replicator_status *s = cluster_status(c, 1);
	assert_true(s->pull_lag_ms >= 0);
	assert_true(s->pull_last_ms > 0);
	free(s);
}

/* Nothing new: one listing a step, and no more. */
static void test_idle_costs_one_request(void **state)
{
	struct cluster *c = *state;
	uint64_t before;

	three_segments(c);
	cluster_settle(c);
	before = c->requests[1];
	assert_false(cluster_pull(c, 1));
	assert_int_equal(c->requests[1], before + 1);
}

static void read_cursor(struct cluster *c, char name[SEGMENT_NAME_SIZE])
{
	struct regions *all = &c->node[0].replicator->regions;
	struct conn *conn;

	assert_int_equal(cache_read_begin(c->node[0].cache, &conn), 0);
	assert_int_equal(cursor_get(conn, all->region[0].id, name), 0);
	cache_read_end(conn);
}

/* Who wrote everything is not new at its next start, though it never merged anything: no mount of it waits. */
static void test_the_only_writer_is_not_new(void **state)
{
	struct cluster *c = *state;
	char name[SEGMENT_NAME_SIZE];
	struct err err = {0};

	cluster_puts(c, 0, "a", "a");
	cluster_settle(c);
	read_cursor(c, name);
	assert_true(name[0]);
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	uint64_t before = c->requests[0] + c->requests[1];
	assert_int_equal(replicator_first_sync(c->node[0].replicator, 10000, NULL, NULL, &err), 0);
	assert_int_equal(c->requests[0] + c->requests[1], before);
}

/* What it wrote is not listed for ever: the cursor follows, where the region says what time it is. */
static void test_own_names_move_the_cursor(void **state)
{
	struct cluster *c = *state;
	char first[SEGMENT_NAME_SIZE], second[SEGMENT_NAME_SIZE];

	cluster_puts(c, 0, "a", "a");
	cluster_settle(c);
	read_cursor(c, first);
	cluster_now_ms += 10000;
	store_clock_note(c->node[0].replicator->regions.region[0].store, clock_realtime_ms());
	cluster_puts(c, 0, "b", "b");
	cluster_settle(c);
	read_cursor(c, second);
	assert_true(strcmp(second, first) > 0);
	cluster_now_ms += 10000;
	cluster_puts(c, 1, "c", "c");
	cluster_settle(c);
	cluster_expect(c, 0, "c", "c");
}

static void silent_writer(struct store *s, const struct names *n UNUSED)
{
	put_one(s, &(struct segment_id){.node = 9, .seq = 1, .ms = (uint64_t)cluster_now_ms}, "");
}

/* A step that has to end in the middle of a page: who wrote earlier in it, and nothing since, is not passed. */
static void test_interrupted_page(void **state)
{
	struct cluster *c = *state;
	struct puller *p = c->node[1].replicator->puller;

	cluster_puts(c, 0, "a", "a");
	cluster_settle(c);
	cluster_now_ms += 5 * 3600000;
	each_region(c, silent_writer);
	cluster_now_ms += 5 * 3600000;
	cluster_puts(c, 0, "b", "b");
	while (cluster_push(c, 0))
		;
	p->first.deadline_ms = 1;
	cluster_pull(c, 1);
	cluster_expect_absent(c, 1, "b");
	p->first.deadline_ms = 0;
	cluster_settle(c);
	cluster_expect(c, 1, "b", "b");
	assert_true(S_ISLNK(cluster_resolve(c, 1, "l1").mode));
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_damaged_segment),
		CLUSTER_TEST(test_lost_segment),
		CLUSTER_TEST(test_junk),
		CLUSTER_TEST(test_newer_format),
		CLUSTER_TEST(test_long_chain),
		CLUSTER_TEST(test_broken_chain),
		CLUSTER_TEST(test_late_server),
		CLUSTER_TEST(test_idle_costs_one_request),
		CLUSTER_TEST(test_the_only_writer_is_not_new),
		CLUSTER_TEST(test_own_names_move_the_cursor),
		CLUSTER_TEST(test_interrupted_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
