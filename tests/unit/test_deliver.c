/* The outbox's rows on their way: what is parked, what is tried again, what a crash between PUT and
 * commit costs. */
#include "tests/unit/tool_fixture.h"

#include "cache/project.h"
#include "replicator/segment.h"

static struct outbox_stats stats(struct cluster *c, unsigned n, unsigned region)
{
	struct replicator_status *s = cluster_status(c, n);
	struct outbox_stats o = s->region[region].outbox;

	free(s);
	return o;
}

/* As from a server that does not judge the length of keys when it makes a name. */
static void make_entry(struct cluster *c, const char *path)
{
	struct cache *cache = c->node[0].cache;
	struct stamp stamp = cache_stamp(cache);
	struct entry e = {
		.kind = KIND_DIR, .mode = 0755, .content_stamp = stamp, .attr_stamp = stamp};
	struct outbox_change change = {.key = slice_of(path), .stamp = stamp};
	struct conn *conn;

	vector_raise(&e.vector, stamp);
	assert_int_equal(cache_begin(cache, &conn), 0);
	assert_int_equal(entry_put(conn, slice_of(path), &e), 0);
	assert_int_equal(project_entry(conn, slice_of(path), &e, true, NULL, NULL), 0);
	assert_int_equal(outbox_enqueue(conn, &change), 0);
	assert_int_equal(cache_commit(conn), 0);
}

/* A path whose escaped key is too long is announced, and its object parked with a text. */
static void test_too_long_key_is_parked(void **state)
{
	struct cluster *c = *state;
	char path[800] = "";

	for (int i = 0; i < 3; i++) {
		if (i)
			strcat(path, "/");
		for (int k = 0; k < 120; k++)
			strcat(path, "\xff");
		if (i < 2)
			cluster_mkdir(c, 0, path);
		else
			make_entry(c, path);
	}
	cluster_settle(c);
	struct inode inode = cluster_resolve(c, 1, path);
	assert_true(S_ISDIR(inode.mode));
	assert_int_equal(stats(c, 0, 0).parked, 1);
	assert_int_equal(stats(c, 0, 0).rows, 1);
	assert_int_equal(
		tree_rmdir(c->node[0].cache, cluster_parent(c, 0, path), key_name(slice_of(path))),
		0);
	cluster_settle(c);
	assert_int_equal(stats(c, 0, 0).rows, 0);
}

/* A store's limit, until the operator raised it. */
static bool limited;

static enum store_result limit_size(void *ctx UNUSED, const char *op, const char *key, bool done)
{
	return limited && !done && strcmp(op, "put") == 0 && strcmp(key, "f") == 0 ? STORE_TOO_LARGE
										   : STORE_OK;
}

static struct store *with_limit(
	struct cluster *c UNUSED, unsigned node UNUSED, unsigned region UNUSED, struct store *inner)
{
	return store_fault_new(inner, limit_size, NULL);
}

static void test_parked_is_tried_again_after_a_restart(void **state)
{
	struct cluster *c = *state;

	cluster_stop_node(c, 0, true);
	c->wrap = with_limit;
	limited = true;
	cluster_start_node(c, 0);
	cluster_puts(c, 0, "f", "text");
	cluster_settle(c);
	assert_int_equal(stats(c, 0, 0).parked, 1);
	limited = false;
	cluster_settle(c);
	assert_int_equal(stats(c, 0, 0).parked, 1);
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	cluster_settle(c);
	assert_int_equal(stats(c, 0, 0).rows, 0);
}

/* One object that no region takes does not hold its directory for ever. */
static void test_impossible_upload_lets_its_directory_go_on(void **state)
{
	struct cluster *c = *state;
	static char large[200000];

	cluster_stop_node(c, 0, true);
	c->wrap = with_limit;
	limited = true;
	cluster_start_node(c, 0);
	cluster_write(c, 0, "f", large, sizeof(large));
	cluster_settle(c);
	cluster_puts(c, 0, "after", "text");
	cluster_settle(c);
	assert_int_equal(cluster_resolve(c, 1, "after").size, 4);
	assert_int_equal(cluster_resolve(c, 1, "f").size, sizeof(large));
	assert_int_equal(stats(c, 0, 0).parked, 1);
	limited = false;
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	cluster_settle(c);
	assert_int_equal(stats(c, 0, 0).rows, 0);
}

/* Every request of one kind is answered, and the answer is lost. */
static bool lose_answers;

static enum store_result lose(void *ctx UNUSED, const char *op, const char *key, bool did_happen)
{
	return lose_answers && did_happen && strcmp(op, "put") == 0 &&
			       strncmp(key, SEGMENT_PREFIX, strlen(SEGMENT_PREFIX)) == 0
		       ? STORE_UNKNOWN
		       : STORE_OK;
}

static struct store *lossy(
	struct cluster *c UNUSED, unsigned node UNUSED, unsigned region UNUSED, struct store *inner)
{
	return store_fault_new(inner, lose, NULL);
}

static int count_name(void *ctx, const char *key UNUSED, const struct store_object *object UNUSED)
{
	++*(unsigned *)ctx;
	return 0;
}

static unsigned segments(struct cluster *c, unsigned region)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	unsigned count = 0;
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(
		store_list(s, SEGMENT_PREFIX, NULL, 0, count_name, &count, NULL, &error), STORE_OK);
	store_close(s);
	return count;
}

/* A segment whose answer was lost is found, not sent again; also by the next process. */
static void test_lost_answer(void **state)
{
	struct cluster *c = *state;
	bool did;

	cluster_stop_node(c, 1, true);
	cluster_stop_node(c, 0, true);
	c->wrap = lossy;
	cluster_start_node(c, 0);
	lose_answers = true;
	cluster_puts(c, 0, "f", "once");
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	assert_int_equal(replicator_step_announce(c->node[0].replicator, 0, &did), 0);
	assert_false(did);
	assert_int_equal(segments(c, 0), 1);
	cluster_stop_node(c, 0, false);
	lose_answers = false;
	cluster_start_node(c, 0);
	assert_int_equal(replicator_step_announce(c->node[0].replicator, 0, &did), 0);
	assert_true(did);
	assert_int_equal(segments(c, 0), 1);
	assert_int_equal(stats(c, 0, 0).unannounced, 0);
	cluster_start_node(c, 1);
	cluster_settle(c);
	cluster_expect(c, 1, "f", "once");
}

/* Within a directory a small file written after a large one is not seen before it. */
static void test_order_within_directory(void **state)
{
	struct cluster *c = *state;
	static char big[200000];
	bool did;

	cluster_mkdir(c, 0, "d");
	cluster_mkdir(c, 0, "e");
	cluster_settle(c);
	memset(big, 'b', sizeof(big));
	cluster_write(c, 0, "d/big", big, sizeof(big));
	cluster_puts(c, 0, "d/marker", "done");
	cluster_puts(c, 0, "e/other", "free");
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++)
		assert_int_equal(replicator_step_announce(c->node[0].replicator, i, &did), 0);
	cluster_pull(c, 1);
	cluster_expect(c, 1, "e/other", "free");
	cluster_expect_absent(c, 1, "d/marker");
	cluster_settle(c);
	cluster_expect(c, 1, "d/marker", "done");
	assert_int_equal(cluster_resolve(c, 1, "d/big").size, sizeof(big));
}

/* ---- what a request says of itself ---- */

static const struct store_ops *real_ops;
static struct {
	unsigned large, small, segments; /* how many puts */
	unsigned wrong;			 /* of another priority than they should have */
} sent;

static enum store_result note_put(struct store *s, const char *key, const struct store_source *source,
	const struct store_meta *meta, const struct store_condition *condition, char *etag,
	const struct store_call *call, struct store_error *error)
{
	bool segment = strncmp(key, SEGMENT_PREFIX, strlen(SEGMENT_PREFIX)) == 0;

	if (segment)
		sent.wrong += call->priority != STORE_URGENT;
	else if (strcmp(key, "large") == 0)
		sent.wrong += call->priority != STORE_BULK;
	else if (strcmp(key, "small") == 0)
		sent.wrong += call->priority != STORE_NORMAL;
	sent.segments += segment;
	sent.large += strcmp(key, "large") == 0;
	sent.small += strcmp(key, "small") == 0;
	return real_ops->put(s, key, source, meta, condition, etag, call, error);
}

static struct store *watched(
	struct cluster *c UNUSED, unsigned node UNUSED, unsigned region UNUSED, struct store *inner)
{
	static struct store_ops ops;

	real_ops = inner->ops;
	ops = *real_ops;
	ops.put = note_put;
	inner->ops = &ops;
	return inner;
}

/* Large bodies leave connections to others, segments wait for nobody. */
static void test_priorities(void **state)
{
	static char large[3 << 20];
	struct cluster *c = *state;

	cluster_stop_node(c, 0, true);
	c->wrap = watched;
	cluster_start_node(c, 0);
	memset(&sent, 0, sizeof(sent));
	cluster_write(c, 0, "large", large, sizeof(large));
	cluster_puts(c, 0, "small", "text");
	cluster_push(c, 0);
	cluster_push(c, 0);
	assert_int_equal(cluster_backlog(c, 0), 0);
	assert_int_equal(sent.large, CLUSTER_REGIONS);
	assert_int_equal(sent.small, CLUSTER_REGIONS);
	assert_true(sent.segments >= CLUSTER_REGIONS);
	assert_int_equal(sent.wrong, 0);
	c->wrap = NULL;
}

/* ---- a store that knows no conditions ---- */

static struct cluster *between; /* NULL: it was done */

static enum store_result other_in_between(void *ctx UNUSED, const char *op, const char *key, bool did_happen)
{
	struct cluster *c = between;

	if (!c || did_happen || strcmp(op, "put") != 0 || strcmp(key, "f") != 0)
		return STORE_OK;
	between = NULL;
	cluster_push(c, 1);
	cluster_pull(c, 0);
	return STORE_OK;
}

static struct store *unconditional(
	struct cluster *c UNUSED, unsigned node, unsigned region, struct store *inner)
{
	const unsigned conditions = STORE_CAP_PUT_IF_ABSENT | STORE_CAP_PUT_IF_MATCH;
	struct store *s = node == 0 && region == 0 ? store_fault_new(inner, other_in_between, NULL) : inner;

	s->capabilities &= ~conditions;
	return s;
}

/* Between the look at the region and the write another server's newer version comes there, and is merged here: the
 * write that replaced it is mended by who made it. */
static void test_overtaken_while_it_was_written(void **state)
{
	struct cluster *c = *state;

	c->wrap = unconditional;
	for (unsigned n = 0; n < c->nodes; n++) {
		cluster_stop_node(c, n, true);
		cluster_start_node(c, n);
	}
	cluster_settle(c);
	cluster_puts(c, 0, "f", "older");
	cluster_now_ms += 10;
	cluster_puts(c, 1, "f", "newer");
	between = c;
	cluster_settle(c);
	assert_null(between);
	expect_everywhere(c, "f", "newer");
	c->wrap = NULL;
}

/* ---- a region that is seeded anew while an object is on its way ---- */

static struct cluster *seeding; /* NULL: it was done */
static enum store_result after_seeding;

static enum store_result seed_in_between(void *ctx UNUSED, const char *op, const char *key, bool did_happen)
{
	struct cluster *c = seeding;
	bool more = true;

	if (!c || !did_happen || strcmp(op, "put") != 0 || strcmp(key, "f") != 0)
		return STORE_OK;
	seeding = NULL;
	unsigned west = c->node[0].replicator->regions.region[WEST].id;
	assert_int_equal(region_seed_again(c->node[0].cache, west), 0);
	while (more)
		assert_int_equal(region_seed(c->node[0].cache, west, &more), 0);
	return after_seeding;
}

static struct store *seeded(struct cluster *c UNUSED, unsigned node, unsigned region, struct store *inner)
{
	return node == 0 && region == WEST ? store_fault_new(inner, seed_in_between, NULL) : inner;
}

/* Whatever becomes of the object, the region is told of its key once more. */
static void seeded_in_between(struct cluster *c, enum store_result result)
{
	struct replicator *r;
	struct outbox_row row;
	struct conn *conn;
	bool did;

	cluster_stop_node(c, 0, true);
	c->wrap = seeded;
	cluster_start_node(c, 0);
	cluster_settle(c);
	r = c->node[0].replicator;
	cluster_puts(c, 0, "f", "text");
	assert_int_equal(replicator_step_seal(r, &did), 0);
	assert_int_equal(replicator_step_announce(r, WEST, &did), 0);
	unsigned before = segments(c, WEST);
	seeding = c;
	after_seeding = result;
	assert_int_equal(replicator_step_objects(r, WEST, 64, &did), 0);
	assert_null(seeding);
	assert_int_equal(cache_read_begin(c->node[0].cache, &conn), 0);
	int found = outbox_get(conn, r->regions.region[WEST].id, slice_of("f"), &row);
	cache_read_end(conn);
	assert_int_equal(found, 0);
	assert_int_equal(row.state, OUTBOX_ANNOUNCE);
	assert_int_equal(row.next_at_ms, 0);
	assert_int_equal(replicator_step_announce(r, WEST, &did), 0);
	assert_int_equal(segments(c, WEST), before + 1);
	cluster_settle(c);
	assert_int_equal(cluster_backlog(c, 0), 0);
	expect_everywhere(c, "f", "text");
	c->wrap = NULL;
}

static void test_seeded_while_it_was_delivered(void **state)
{
	seeded_in_between(*state, STORE_OK);
}

static void test_seeded_while_it_was_refused(void **state)
{
	seeded_in_between(*state, STORE_TOO_LARGE);
}

static void test_seeded_while_it_failed(void **state)
{
	seeded_in_between(*state, STORE_TRANSIENT);
}

/* Many more changes than a segment carries. */
static void test_many(void **state)
{
	struct cluster *c = *state;
	char path[64];

	cluster_mkdir(c, 0, "d");
	for (int i = 0; i < 4500; i++) {
		snprintf(path, sizeof(path), "d/f%d", i);
		cluster_puts(c, 0, path, path);
	}
	cluster_settle(c);
	for (int i = 0; i < 4500; i += 499) {
		snprintf(path, sizeof(path), "d/f%d", i);
		cluster_expect(c, 1, path, path);
	}
	assert_int_equal(cluster_backlog(c, 0), 0);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_too_long_key_is_parked),
		CLUSTER_TEST(test_parked_is_tried_again_after_a_restart),
		CLUSTER_TEST(test_impossible_upload_lets_its_directory_go_on),
		CLUSTER_TEST(test_lost_answer),
		CLUSTER_TEST(test_order_within_directory),
		CLUSTER_TEST(test_priorities),
		CLUSTER_TEST(test_overtaken_while_it_was_written),
		CLUSTER_TEST(test_seeded_while_it_was_delivered),
		CLUSTER_TEST(test_seeded_while_it_was_refused),
		CLUSTER_TEST(test_seeded_while_it_failed),
		CLUSTER_TEST(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
