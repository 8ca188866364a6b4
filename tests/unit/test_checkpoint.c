/* Checkpoints: their bytes; a new server that has nothing else; segments that go, and a server that was
 * away meanwhile. */
#include "tests/unit/cluster.h"

#include "cache/dump.h"
#include "replicator/checkpoint.h"
#include "src/base/metrics.h"

#define HOUR_MS 3600000
#define DAY_MS (24 * (int64_t)HOUR_MS)

/* ---- bytes ---- */

static struct checkpoint sample(void)
{
	struct checkpoint c = {.ms = 0x18bcfe56800,
		.node = 0xfedcba9876543210,
		.records = 7,
		.horizon_ms = 5,
		.cursor_ms = 6,
		.part_count = 2,
		.cover_count = 2};

	c.parts = calloc(2, sizeof(*c.parts));
	c.covers = calloc(2, sizeof(*c.covers));
	assert_non_null(c.parts);
	assert_non_null(c.covers);
	c.parts[0] = (struct checkpoint_part){.size = 100, .hash = {1}};
	c.parts[1] = (struct checkpoint_part){.size = 200, .hash = {2}};
	c.covers[0] = (struct segment_id){.ms = 9, .node = 3, .seq = 4};
	c.covers[1] = (struct segment_id){.ms = 10, .node = 0xffffffffffffffff, .seq = 40};
	return c;
}

static void test_manifest(void **state UNUSED)
{
	CLEANUP(checkpoint_done) struct checkpoint c = sample();
	CLEANUP(checkpoint_done) struct checkpoint back = {0};
	CLEANUP(buf_done) struct buf b = {0};
	char name[CHECKPOINT_NAME_SIZE];
	struct err err = {0};

	checkpoint_name(c.ms, c.node, name);
	assert_string_equal(name, "018bcfe56800-fedcba9876543210");
	checkpoint_encode(&c, &b);
	assert_int_equal(checkpoint_decode(name, b.data, b.len, &back, &err), 0);
	assert_int_equal(back.ms, c.ms);
	assert_int_equal(back.records, 7);
	assert_int_equal(back.horizon_ms, 5);
	assert_int_equal(back.cursor_ms, 6);
	assert_int_equal(back.part_count, 2);
	assert_memory_equal(back.parts, c.parts, 2 * sizeof(*c.parts));
	assert_memory_equal(back.covers, c.covers, 2 * sizeof(*c.covers));
	assert_int_equal(checkpoint_covers(&back, 3), 4);
	assert_int_equal(checkpoint_covers(&back, 4), 0);
	assert_int_equal(checkpoint_covers(&back, 0xffffffffffffffff), 40);
	assert_int_equal(checkpoint_segments(&back), 44);
}

static void seal_sum(struct buf *b)
{
	sha256(b->data, b->len - SHA256_SIZE, b->data + b->len - SHA256_SIZE);
}

static void test_hostile_manifest(void **state UNUSED)
{
	enum { AT_VERSION = 7, AT_PARTS = 52, AT_COVERS = 56 };
	CLEANUP(checkpoint_done) struct checkpoint c = sample();
	CLEANUP(buf_done) struct buf b = {0};
	struct checkpoint back = {0};
	char name[CHECKPOINT_NAME_SIZE];
	struct err err = {0};

	checkpoint_name(c.ms, c.node, name);
	checkpoint_encode(&c, &b);
	for (size_t n = 0; n < b.len; n++) {
		assert_int_equal(checkpoint_decode(name, b.data, n, &back, &err), -EBADMSG);
		b.data[n] ^= 1;
		assert_int_equal(checkpoint_decode(name, b.data, b.len, &back, &err), -EBADMSG);
		b.data[n] ^= 1;
	}
	for (size_t at = AT_PARTS; at <= AT_COVERS; at += 4) {
		for (unsigned v = 3; v < 256; v += 126) {
			uint8_t was = b.data[at];

			b.data[at] = (uint8_t)v;
			seal_sum(&b);
			assert_int_equal(
				checkpoint_decode(name, b.data, b.len, &back, &err), -EBADMSG);
			b.data[at] = was;
		}
	}
	b.data[AT_VERSION]++;
	seal_sum(&b);
	assert_int_equal(checkpoint_decode(name, b.data, b.len, &back, &err), -EPROTONOSUPPORT);
	b.data[AT_VERSION]--;
	seal_sum(&b);
	name[0] = 'f';
	assert_int_equal(checkpoint_decode(name, b.data, b.len, &back, &err), -EBADMSG);
}

/* ---- a cluster ---- */

struct names {
	char key[256][128];
	unsigned count;
};

static int add_name(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	struct names *n = ctx;

	assert_true(n->count < 256);
	snprintf(n->key[n->count++], sizeof(n->key[0]), "%s", key);
	return 0;
}

static struct store *open_region(struct cluster *c, unsigned region)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	return s;
}

static unsigned list(struct cluster *c, unsigned region, const char *prefix, struct names *n)
{
	struct store *s = open_region(c, region);
	struct store_error error = {0};

	n->count = 0;
	assert_int_equal(store_list(s, prefix, NULL, 0, add_name, n, NULL, &error), STORE_OK);
	store_close(s);
	return n->count;
}

static unsigned count(struct cluster *c, unsigned region, const char *prefix)
{
	struct names n;

	return list(c, region, prefix, &n);
}

static unsigned manifests(struct cluster *c, unsigned region, struct names *found)
{
	struct names n;
	uint64_t ms, node;

	found->count = 0;
	list(c, region, CHECKPOINT_PREFIX, &n);
	for (unsigned i = 0; i < n.count; i++) {
		if (checkpoint_name_parse(n.key[i] + strlen(CHECKPOINT_PREFIX), &ms, &node))
			add_name(found, n.key[i], NULL);
	}
	return found->count;
}

static void remove_log(struct cluster *c)
{
	for (unsigned region = 0; region < CLUSTER_REGIONS; region++) {
		struct store_error error = {0};
		struct store *s = open_region(c, region);
		struct names n;

		list(c, region, SEGMENT_PREFIX, &n);
		for (unsigned i = 0; i < n.count; i++)
			assert_int_equal(store_remove(s, n.key[i], NULL, NULL, &error), STORE_OK);
		store_close(s);
	}
}

static void down_all(struct cluster *c, bool down)
{
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		c->down[i] = down;
}

static bool step(struct cluster *c, unsigned n)
{
	bool did;

	assert_int_equal(replicator_step_checkpoint(c->node[n].replicator, &did), 0);
	return did;
}

/* Until it is at rest. */
static unsigned steps(struct cluster *c, unsigned n)
{
	unsigned did = 0;

	for (unsigned quiet = 0; quiet < 3;) {
		bool one = step(c, n);

		did += one;
		quiet = one ? 0 : quiet + 1;
		cluster_now_ms += 5000;
	}
	return did;
}

static int setup(void **state)
{
	int r = cluster_setup(state);
	struct cluster *c = *state;

	if (r)
		return r;
	c->same_home = true;
	c->base = (struct replicator_options){.checkpoint_interval_ms = HOUR_MS,
		.checkpoint_segments = 1,
		.segment_keep_ms = 7 * DAY_MS};
	for (unsigned n = 0; n < c->nodes; n++) {
		cluster_stop_node(c, n, true);
		cluster_start_node(c, n);
	}
	return 0;
}

static void forget_node(struct cluster *c, unsigned n)
{
	cluster_stop_node(c, n, true);
	nftw(c->node[n].state, cluster_remove, 16, FTW_DEPTH | FTW_PHYS);
	cluster_start_node(c, n);
}

static void fill(struct cluster *c)
{
	struct inode i;

	cluster_mkdir(c, 0, "d");
	cluster_settle(c);
	cluster_puts(c, 0, "d/a", "one");
	cluster_puts(c, 1, "d/b", "two");
	cluster_settle(c);
	cluster_puts(c, 0, "gone", "gone");
	cluster_settle(c);
	cluster_unlink(c, 0, "gone");
	assert_int_equal(tree_create(c->node[0].cache, cluster_parent(c, 0, "d/l"), slice_of("l"),
				 S_IFLNK | 0777, 1000, 1000, "a", &i),
		0);
	cluster_settle(c);
}

static void test_new_server(void **state)
{
	struct cluster *c = *state;
	uint64_t bad;
	struct names n;

	fill(c);
	assert_true(step(c, 0));
	assert_int_equal(manifests(c, 0, &n), 1);
	/* Nothing new: no other one, by nobody. */
	cluster_now_ms += 2 * DAY_MS;
	assert_int_equal(steps(c, 0), 0);
	assert_int_equal(steps(c, 1), 0);
	assert_int_equal(manifests(c, 0, &n), 1);
	remove_log(c);
	forget_node(c, 1);
	bad = metric_get(METRIC_SEGMENTS_GAP);
	cluster_pull(c, 1);
	cluster_expect(c, 1, "d/a", "one");
	cluster_expect(c, 1, "d/b", "two");
	assert_true(S_ISLNK(cluster_resolve(c, 1, "d/l").mode));
	cluster_expect_absent(c, 1, "gone");
	assert_int_equal(cluster_resolve(c, 1, "d/a").uid, 1000);
	/* It goes on behind it. */
	cluster_puts(c, 0, "after", "after");
	cluster_puts(c, 1, "d/c", "three");
	cluster_settle(c);
	cluster_expect(c, 1, "after", "after");
	cluster_expect(c, 0, "d/c", "three");
	assert_int_equal(metric_get(METRIC_SEGMENTS_GAP), bad);
}

/* A damaged part, then a damaged manifest: the older checkpoint and the log are enough. */
static void test_damaged(void **state)
{
	struct cluster *c = *state;
	struct names n;
	struct store_error error = {0};

	fill(c);
	assert_true(step(c, 0));
	cluster_now_ms += 2 * HOUR_MS;
	cluster_puts(c, 0, "later", "later");
	cluster_settle(c);
	steps(c, 0);
	assert_int_equal(manifests(c, 0, &n), 2);
	struct store *s = open_region(c, 0);
	assert_int_equal(
		store_put_buf(s, n.key[1], "x", 1, NULL, NULL, NULL, NULL, &error), STORE_OK);
	store_close(s);
	forget_node(c, 1);
	cluster_pull(c, 1);
	cluster_expect(c, 1, "d/b", "two");
	cluster_expect(c, 1, "later", "later");
}

static void write_checkpoints(struct cluster *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char name[32];

		snprintf(name, sizeof(name), "f%u", i);
		cluster_puts(c, 0, name, name);
		while (cluster_push(c, 0))
			cluster_now_ms += 1000;
		cluster_now_ms += 2 * HOUR_MS;
		assert_true(steps(c, 0) > 0);
	}
}

static void test_retention(void **state)
{
	struct cluster *c = *state;
	struct names n;
	unsigned log, since;

	fill(c);
	assert_true(steps(c, 0) > 0);
	write_checkpoints(c, 3);
	/* The newest two stay, and no segment is old enough. */
	assert_int_equal(manifests(c, 0, &n), 2);
	log = count(c, 0, SEGMENT_PREFIX);
	assert_true(log >= 6);
	/* What only the next checkpoint covers. */
	cluster_puts(c, 0, "since", "since");
	while (cluster_push(c, 0))
		cluster_now_ms += 1000;
	since = count(c, 0, SEGMENT_PREFIX) - log;
	assert_true(since > 0);
	cluster_now_ms += 8 * DAY_MS;
	write_checkpoints(c, 1);
	/* Those that the one before covers as well. */
	assert_int_equal(manifests(c, 0, &n), 2);
	assert_int_equal(count(c, 0, SEGMENT_PREFIX), since + 1);
	assert_int_equal(count(c, 1, SEGMENT_PREFIX), log + since + 1);
	/* Nobody who is here misses any. */
	cluster_settle(c);
	cluster_expect(c, 1, "f0", "f0");
	cluster_puts(c, 1, "x", "x");
	cluster_settle(c);
	cluster_expect(c, 0, "x", "x");
	struct replicator_status *s = cluster_status(c, 1);
	assert_int_equal(s->bad_segments, 0);
	free(s);
}

static unsigned segments_of(struct cluster *c, unsigned node)
{
	struct segment_id id;
	unsigned found = 0;
	struct names n;

	list(c, 0, SEGMENT_PREFIX, &n);
	for (unsigned i = 0; i < n.count; i++)
		found += segment_name_parse(n.key[i] + strlen(SEGMENT_PREFIX), &id) &&
			 id.node == cache_node(c->node[node].cache);
	return found;
}

/* However old a segment is, it stays until both of the checkpoints that are kept say what it said. */
static void test_not_covered(void **state)
{
	struct cluster *c = *state;

	fill(c);
	assert_true(steps(c, 0) > 0);
	unsigned late = segments_of(c, 1);
	cluster_puts(c, 1, "late", "late");
	while (cluster_push(c, 1))
		cluster_now_ms += 1000;
	late = segments_of(c, 1) - late;
	assert_true(late > 0);
	cluster_now_ms += 8 * DAY_MS;
	write_checkpoints(c, 3); /* the one who writes them has not read it */
	assert_int_equal(segments_of(c, 1), late);
	while (cluster_pull(c, 0))
		;
	cluster_expect(c, 0, "late", "late");
	write_checkpoints(c, 1);
	assert_int_equal(segments_of(c, 1), late);
	write_checkpoints(c, 1);
	assert_int_equal(segments_of(c, 1), 0);
}

/* Another server's segments make the next checkpoints. */
static void others_go_on(struct cluster *c)
{
	struct cluster other = *c;

	snprintf(other.node[1].state, sizeof(other.node[1].state), "%s/other", c->dir);
	cluster_start_node(&other, 1);
	while (cluster_pull(&other, 1))
		;
	for (unsigned i = 0; i < 2; i++) {
		cluster_puts(&other, 1, i ? "o1" : "o0", "o");
		while (cluster_push(&other, 1))
			cluster_now_ms += 1000;
		cluster_now_ms += 2 * HOUR_MS;
		steps(&other, 1);
	}
	cluster_stop_node(&other, 1, true);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		cluster_links[i].cluster = c;
}

/* How long the machine was suspended. */
static int64_t suspended_ms;

static int64_t awake(void *ctx UNUSED)
{
	return cluster_now_ms - suspended_ms;
}

/* In all but the first the writer is silent afterwards, so no gap would show. */
enum absence { STOPPED, STOPPED_TAIL, SUSPENDED_TAIL };

/* One is away while segments go. */
static void away(struct cluster *c, enum absence absence)
{
	static const struct clock_source source = {.realtime_ns = cluster_realtime,
		.monotonic_ms = awake,
		.boottime_ms = cluster_monotonic,
		.sleep_ms = cluster_sleep};
	bool tail = absence != STOPPED, stopped = absence != SUSPENDED_TAIL;
	uint64_t gaps = metric_get(METRIC_SEGMENTS_GAP);
	struct replicator_status *s;

	suspended_ms = 0;
	clock_set_source(&source);
	fill(c);
	steps(c, 0);
	int64_t since = cluster_now_ms;
	if (stopped)
		cluster_stop_node(c, 1, true);
	cluster_unlink(c, 0, "d/b");
	write_checkpoints(c, 2);
	cluster_now_ms += 8 * DAY_MS;
	if (tail)
		others_go_on(c);
	else
		write_checkpoints(c, 3);
	down_all(c, true);
	if (stopped)
		cluster_start_node(c, 1);
	else
		suspended_ms = cluster_now_ms - since;
	cluster_puts(c, 1, "d/own", "unpushed");
	cluster_push(c, 1);
	down_all(c, false);
	cluster_now_ms += 600000;
	while (cluster_push(c, 1) || cluster_pull(c, 1))
		cluster_now_ms += 1000;
	cluster_expect(c, 1, "f1", "f1");
	cluster_expect_absent(c, 1, "d/b");
	cluster_expect(c, 1, "d/own", "unpushed");
	if (tail)
		cluster_expect(c, 1, "o1", "o");
	cluster_settle(c);
	cluster_expect(c, 0, "d/own", "unpushed");
	s = cluster_status(c, 1);
	assert_int_equal(s->bad_segments, 0);
	free(s);
	assert_int_equal(metric_get(METRIC_SEGMENTS_GAP), gaps);
}

static void test_away(void **state)
{
	away(*state, STOPPED);
}

static void test_away_tail(void **state)
{
	away(*state, STOPPED_TAIL);
}

/* Not stopped, but its machine slept. */
static void test_away_suspended(void **state)
{
	away(*state, SUSPENDED_TAIL);
}

static uint64_t conflicts(struct cluster *c, unsigned n)
{
	struct replicator_status *s = cluster_status(c, n);
	uint64_t found = s->conflicts;

	free(s);
	return found;
}

static const char *sought;
static bool found_content;

static int seek_content(
	const char *path, const struct stat *st, int type, struct FTW *ftw UNUSED)
{
	char text[64] = "";
	FILE *f;

	if (type != FTW_F || st->st_size >= (off_t)sizeof(text) || !(f = fopen(path, "r")))
		return 0;
	found_content |= fgets(text, sizeof(text), f) && strcmp(text, sought) == 0;
	fclose(f);
	return 0;
}

/* The server's disk has a content file with that text, whatever shows it. */
static bool has_content(struct cluster *c, unsigned n, const char *text)
{
	sought = text;
	found_content = false;
	assert_int_equal(nftw(c->node[n].state, seek_content, 16, FTW_PHYS), 0);
	return found_content;
}

/* What it had changed and not pushed before it was away meets what others did meanwhile, of which only a
 * checkpoint tells. */
static void test_away_conflict(void **state)
{
	struct cluster *c = *state;

	fill(c);
	steps(c, 0);
	down_all(c, true);
	cluster_puts(c, 1, "d/a", "earlier than theirs");
	cluster_puts(c, 1, "d/b", "earlier than the removal");
	cluster_push(c, 1);
	cluster_stop_node(c, 1, true);
	down_all(c, false);
	cluster_now_ms += HOUR_MS;
	cluster_puts(c, 0, "d/a", "theirs");
	cluster_unlink(c, 0, "d/b");
	cluster_puts(c, 0, "d/c", "earlier than ours");
	write_checkpoints(c, 2);
	cluster_now_ms += 8 * DAY_MS;
	write_checkpoints(c, 3);
	down_all(c, true);
	cluster_start_node(c, 1);
	cluster_puts(c, 1, "d/c", "ours");
	cluster_push(c, 1);
	down_all(c, false);
	cluster_now_ms += 600000;
	cluster_settle(c);
	for (unsigned n = 0; n < 2; n++) {
		cluster_expect(c, n, "d/a", "theirs");
		cluster_expect_absent(c, n, "d/b");
		cluster_expect(c, n, "d/c", "ours");
	}
	assert_true(conflicts(c, 1) >= 3);
	assert_true(has_content(c, 1, "earlier than theirs"));
	assert_true(has_content(c, 1, "earlier than the removal"));
	assert_true(has_content(c, 0, "earlier than ours"));
	assert_int_equal(cluster_backlog(c, 0) + cluster_backlog(c, 1), 0);
}

/* Days go by, in which both servers do what they do. */
static void live(struct cluster *c, unsigned days)
{
	for (unsigned hour = 0; hour < 24 * days; hour++) {
		cluster_now_ms += HOUR_MS;
		for (unsigned i = 0; i < 3; i++) {
			for (unsigned n = 0; n < c->nodes; n++) {
				cluster_push(c, n);
				step(c, n);
				cluster_pull(c, n);
			}
			cluster_now_ms += 6000;
		}
	}
}

/* The second region is nobody's home: one of the servers writes its checkpoints all the same. */
static void test_nobodys_home(void **state)
{
	struct cluster *c = *state;
	struct names n;
	unsigned log;

	fill(c);
	/* Pulled from for a while, so that the beginning of its log was never read. */
	c->down[0] = true;
	for (unsigned i = 0; i < 20; i++) {
		cluster_puts(c, i % 2, "while", i % 2 ? "down" : "up");
		cluster_push(c, i % 2);
		cluster_pull(c, 0);
		cluster_pull(c, 1);
		cluster_now_ms += 10000;
	}
	c->down[0] = false;
	cluster_settle(c);
	log = count(c, 1, SEGMENT_PREFIX);
	live(c, 1);
	assert_int_equal(manifests(c, 1, &n), 0);
	live(c, 2);
	assert_int_equal(manifests(c, 1, &n), 1);
	assert_int_equal(count(c, 1, SEGMENT_PREFIX), log);
	/* Nothing new, no other one. */
	live(c, 4);
	assert_int_equal(manifests(c, 1, &n), 1);
	cluster_puts(c, 1, "d/later", "later");
	live(c, 4);
	assert_int_equal(manifests(c, 1, &n), 2);
	assert_true(count(c, 1, SEGMENT_PREFIX) < log);
	live(c, 8);
	cluster_puts(c, 0, "d/last", "last");
	live(c, 9);
	assert_int_equal(manifests(c, 1, &n), 2);
	assert_true(count(c, 1, SEGMENT_PREFIX) <= 2);
	/* Who is at home there from now on has it all. */
	c->same_home = false;
	forget_node(c, 1);
	cluster_pull(c, 1);
	cluster_settle(c);
	cluster_expect(c, 1, "d/a", "one");
	cluster_expect(c, 1, "d/later", "later");
	cluster_expect(c, 1, "d/last", "last");
	cluster_expect(c, 1, "while", "down");
	cluster_expect_absent(c, 1, "gone");
	struct replicator_status *s = cluster_status(c, 1);
	assert_int_equal(s->bad_segments, 0);
	free(s);
}

/* Two at once: one of them writes. */
static void test_lease(void **state)
{
	struct cluster *c = *state;
	struct store_error error = {0};
	struct names n;
	char text[100];

	fill(c);
	snprintf(text, sizeof(text), "{\"node\": \"00000000000000aa\", \"until\": %" PRId64 "}",
		cluster_now_ms + 300000);
	struct store *s = open_region(c, 0);
	assert_int_equal(store_put_buf(s, CHECKPOINT_LEASE, text, strlen(text), NULL, NULL, NULL,
				 NULL, &error),
		STORE_OK);
	store_close(s);
	assert_false(step(c, 0));
	assert_int_equal(manifests(c, 0, &n), 0);
	cluster_now_ms += 100000;
	assert_false(step(c, 0));
	cluster_now_ms += 300000;
	assert_true(step(c, 0));
	assert_false(step(c, 1));
	assert_int_equal(manifests(c, 0, &n), 1);
}

/* Nothing goes out ahead of what waits to be announced. */
static void test_waits_for_unannounced(void **state)
{
	struct cluster *c = *state;
	bool did;

	fill(c);
	down_all(c, true);
	cluster_puts(c, 0, "waits", "waits");
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	assert_int_equal(replicator_step_announce(c->node[0].replicator, 0, &did), 0);
	down_all(c, false);
	assert_false(step(c, 0));
	cluster_settle(c);
	assert_true(step(c, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_manifest),
		cmocka_unit_test(test_hostile_manifest),
		cmocka_unit_test_setup_teardown(test_new_server, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_retention, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_not_covered, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_away, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_away_tail, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_away_suspended, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_away_conflict, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_nobodys_home, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_lease, setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_waits_for_unannounced, setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
