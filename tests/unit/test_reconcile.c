/* What other tools do to a bucket, found by a scan: two servers, two regions, and a hand that puts,
 * overwrites and removes objects behind their backs. */
#include "tests/unit/tool_fixture.h"

#include <unistd.h>

#include "cache/entry.h"
#include "replicator/object_key.h"

/* ---- tests ---- */

static void test_put(void **state)
{
	struct cluster *c = *state;

	cluster_settle(c);
	tool_put(c, EAST, "dir/new", "by hand");
	struct reconcile_counts counts = scan(c, 0, EAST);
	assert_int_equal(counts.found[FOUND_PUT], 1);
	assert_int_equal(findings(&counts), 1);
	cluster_settle(c);
	expect_everywhere(c, "dir/new", "by hand");
	struct inode inode = cluster_resolve(c, 1, "dir/new");
	assert_int_equal(inode.mode & 07777, 0644);
	expect_quiet(c);
}

/* Both see it before either has told the other. */
static void test_put_seen_by_both(void **state)
{
	struct cluster *c = *state;
	char big[100001];

	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	cluster_settle(c);
	tool_put(c, WEST, "one", "once");
	tool_put(c, WEST, "big", big);
	assert_int_equal(scan(c, 0, WEST).found[FOUND_PUT], 2);
	cluster_now_ms += 3600000;
	assert_int_equal(scan(c, 1, WEST).found[FOUND_MISSED], 2);
	cluster_settle(c);
	expect_everywhere(c, "one", "once");
	expect_everywhere(c, "big", big);
	assert_int_equal(conflicts(c), 0);
	expect_quiet(c);
}

static void test_overwrite(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "a", "first");
	cluster_puts(c, 0, "b", "first");
	cluster_settle(c);
	assert_int_equal(findings(&(struct reconcile_counts[1]){[0] = scan(c, 0, EAST)}[0]), 0);
	cluster_now_ms += 5000;
	tool_put(c, EAST, "a", "second");
	tool_put(c, EAST, "b", "other"); /* of the same size */
	assert_int_equal(scan(c, 0, EAST).found[FOUND_OVERWRITE], 2);
	cluster_settle(c);
	expect_everywhere(c, "a", "second");
	expect_everywhere(c, "b", "other");
	/* What it was is what it stays. */
	struct inode inode = cluster_resolve(c, 1, "a");
	assert_int_equal(inode.uid, 1000);
	assert_int_equal(conflicts(c), 0);
	expect_quiet(c);
}

/* A clock that is ahead does not hide it: this version was there before. */
static void test_overwrite_of_a_later_stamp(void **state)
{
	struct cluster *c = *state;

	cluster_now_ms += 3600000; /* the tool's object has the file system's time */
	cluster_puts(c, 0, "a", "first");
	cluster_settle(c);
	tool_put(c, EAST, "a", "second");
	assert_int_equal(scan(c, 0, EAST).found[FOUND_OVERWRITE], 1);
	cluster_settle(c);
	expect_everywhere(c, "a", "second");
	expect_quiet(c);
}

static void test_remove(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "gone", "content");
	cluster_puts(c, 0, "stays", "content");
	cluster_settle(c);
	tool_remove(c, WEST, "gone");
	struct reconcile_counts counts = scan(c, 0, WEST);
	assert_int_equal(counts.found[FOUND_DELETE], 1);
	assert_int_equal(findings(&counts), 1);
	cluster_settle(c);
	expect_everywhere(c, "gone", NULL);
	expect_everywhere(c, "stays", "content");
	expect_quiet(c);
}

/* A clock that is ahead does not hide what another tool puts where a scan found the object gone. */
static void test_put_after_a_removal_of_a_later_stamp(void **state)
{
	struct cluster *c = *state;

	cluster_now_ms += 3600000; /* the tool's object has the file system's time */
	cluster_puts(c, 0, "a", "first");
	cluster_settle(c);
	tool_remove(c, EAST, "a");
	assert_int_equal(scan(c, 0, EAST).found[FOUND_DELETE], 1);
	cluster_settle(c);
	tool_put(c, EAST, "a", "second");
	assert_int_equal(scan(c, 1, EAST).found[FOUND_PUT], 1);
	cluster_settle(c);
	expect_everywhere(c, "a", "second");
	assert_int_equal(conflicts(c), 0);
	expect_quiet(c);
}

/* The other server never saw the object there: it may be on its way for all that it knows. */
static void test_missing_is_not_removed(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "file", "content");
	cluster_settle(c);
	tool_remove(c, WEST, "file");
	struct reconcile_counts counts = scan(c, 1, WEST);
	assert_int_equal(findings(&counts), 0);
	assert_int_equal(counts.waiting, 1);
	cluster_now_ms += 3600000;
	assert_int_equal(scan(c, 1, WEST).found[FOUND_MISSING], 1);
	cluster_settle(c);
	expect_everywhere(c, "file", "content");
	expect_quiet(c);
}

static void test_nothing_young_is_touched(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "file", "content");
	bool did;
	struct replicator *r = c->node[0].replicator;
	assert_int_equal(replicator_step_seal(r, &did), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(replicator_step_announce(r, i, &did), 0);
		cluster_pull(c, 1);
		struct reconcile_counts counts = scan(c, 1, i), own = scan(c, 0, i);
		assert_int_equal(findings(&counts), 0);
		assert_int_equal(findings(&own), 0);
	}
	cluster_settle(c);
	expect_everywhere(c, "file", "content");
	expect_quiet(c);
}

static void test_metadata_taken_along(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "from", "content");
	cluster_puts(c, 0, "over", "something else");
	cluster_settle(c);
	cluster_now_ms += 5000;
	tool_copy(c, EAST, "from", "to");
	tool_copy(c, EAST, "from", "over");
	struct reconcile_counts counts = scan(c, 0, EAST);
	assert_int_equal(counts.found[FOUND_PUT], 1);
	assert_int_equal(counts.found[FOUND_OVERWRITE], 1);
	cluster_settle(c);
	expect_everywhere(c, "to", "content");
	expect_everywhere(c, "over", "content");
	expect_quiet(c);
}

static void test_modes_of_other_tools(void **state)
{
	struct cluster *c = *state;
	CLEANUP(store_meta_done) struct store_meta s3fs = {0}, link = {0}, rclone = {0}, fifo = {0};

	assert_int_equal(store_meta_set(&s3fs, "mode", "33216"), 0); /* 0100700 */
	assert_int_equal(store_meta_set(&s3fs, "uid", "12"), 0);
	assert_int_equal(store_meta_set(&s3fs, "gid", "34"), 0);
	assert_int_equal(store_meta_set(&s3fs, "mtime", "1600000000.25"), 0);
	assert_int_equal(store_meta_set(&link, "mode", "41471"), 0); /* 0120777 */
	assert_int_equal(store_meta_set(&rclone, "mode", "100640"), 0);
	assert_int_equal(store_meta_set(&rclone, "mtime", "2020-09-13T14:26:40.5+02:00"), 0);
	assert_int_equal(store_meta_set(&fifo, "mode", "4516"), 0); /* 010644 */
	cluster_settle(c);
	tool_put_meta(c, EAST, "s3fs", "x", 1, &s3fs);
	tool_put_meta(c, EAST, "link", "s3fs", 4, &link);
	tool_put_meta(c, EAST, "rclone", "y", 1, &rclone);
	tool_put_meta(c, EAST, "fifo", "", 0, &fifo);
	tool_put_meta(c, EAST, "empty/", "", 0, NULL);
	struct reconcile_counts counts = scan(c, 0, EAST);
	assert_int_equal(counts.found[FOUND_PUT], 4);
	assert_int_equal(counts.found[FOUND_INVALID], 1);
	cluster_settle(c);
	struct inode i = cluster_resolve(c, 1, "s3fs");
	assert_int_equal(i.mode, S_IFREG | 0700);
	assert_int_equal(i.uid, 12);
	assert_int_equal(i.gid, 34);
	assert_int_equal(i.mtime_ns, 1600000000250000000);
	i = cluster_resolve(c, 1, "rclone");
	assert_int_equal(i.mode, S_IFREG | 0640);
	assert_int_equal(i.mtime_ns, 1600000000500000000);
	i = cluster_resolve(c, 1, "empty");
	assert_int_equal(i.mode, S_IFDIR | 0755);
	char *target;
	i = cluster_resolve(c, 1, "link");
	assert_int_equal(tree_readlink(c->node[1].cache, i.ino, &target), 0);
	assert_string_equal(target, "s3fs");
	free(target);
}

static void write_many(struct cluster *c, unsigned count)
{
	char path[32];

	cluster_mkdir(c, 0, "many");
	for (unsigned i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "many/%u", i);
		cluster_puts(c, 0, path, "content");
	}
	cluster_settle(c);
}

static void remove_many(struct cluster *c, unsigned count)
{
	char path[32];

	for (unsigned i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "many/%u", i);
		tool_remove(c, EAST, path);
	}
}

static void test_guard(void **state)
{
	struct cluster *c = *state;
	struct reconcile_request q = {.path = {"", 0}};

	write_many(c, 150);
	remove_many(c, 120);
	q.dry_run = true;
	assert_int_equal(scan_as(c, 0, EAST, q).found[FOUND_HELD], 120);
	q.dry_run = false;
	for (unsigned i = 0; i < 2; i++) { /* it stays so */
		struct reconcile_counts counts = scan(c, 0, EAST);
		assert_int_equal(counts.found[FOUND_HELD], 120);
		assert_int_equal(findings(&counts), 120);
		cluster_settle(c);
		cluster_expect(c, 1, "many/7", "content");
	}
	q.deletes = DELETES_ACCEPT;
	assert_int_equal(scan_as(c, 0, EAST, q).found[FOUND_DELETE], 120);
	cluster_settle(c);
	expect_everywhere(c, "many/7", NULL);
	expect_everywhere(c, "many/149", "content");
	expect_quiet(c);
}

static void test_restore(void **state)
{
	struct cluster *c = *state;
	struct reconcile_request q = {.path = {"", 0}, .deletes = DELETES_RESTORE};

	write_many(c, 150);
	cluster_now_ms += 3600000;
	remove_many(c, 120);
	assert_int_equal(scan(c, 0, EAST).found[FOUND_HELD], 120);
	assert_int_equal(scan_as(c, 0, EAST, q).found[FOUND_MISSING], 120);
	cluster_settle(c);
	expect_everywhere(c, "many/7", "content");
	expect_quiet(c);
}

static void test_dry_run_changes_nothing(void **state)
{
	struct cluster *c = *state;
	struct reconcile_request q = {.path = {"", 0}, .dry_run = true};

	cluster_puts(c, 0, "a", "first");
	cluster_puts(c, 0, "b", "first");
	cluster_settle(c);
	cluster_now_ms += 5000;
	tool_put(c, EAST, "a", "second");
	tool_put(c, EAST, "c", "new");
	tool_remove(c, EAST, "b");
	for (unsigned i = 0; i < 2; i++) {
		struct reconcile_counts counts = scan_as(c, 0, EAST, q);
		assert_int_equal(counts.found[FOUND_PUT], 1);
		assert_int_equal(counts.found[FOUND_OVERWRITE], 1);
		assert_int_equal(counts.found[FOUND_DELETE], 1);
		assert_int_equal(findings(&counts), 3);
	}
	cluster_settle(c);
	cluster_expect(c, 0, "a", "first");
	cluster_expect(c, 1, "b", "first");
	cluster_expect_absent(c, 0, "c");
}

static void test_part_of_the_tree(void **state)
{
	struct cluster *c = *state;
	struct reconcile_request q = {.path = slice_of("d")};

	cluster_mkdir(c, 0, "d");
	cluster_puts(c, 0, "d/removed", "x");
	cluster_puts(c, 0, "other", "x");
	cluster_settle(c);
	tool_put(c, EAST, "d/in", "in");
	tool_put(c, EAST, "d-side", "out");
	tool_put(c, EAST, "e", "out");
	tool_remove(c, EAST, "d/removed");
	tool_remove(c, EAST, "other");
	struct reconcile_counts counts = scan_as(c, 0, EAST, q);
	assert_int_equal(counts.found[FOUND_PUT], 1);
	assert_int_equal(counts.found[FOUND_DELETE], 1);
	assert_int_equal(findings(&counts), 2);
	cluster_settle(c);
	expect_everywhere(c, "d/in", "in");
	expect_everywhere(c, "d/removed", NULL);
	cluster_expect(c, 1, "other", "x");
	cluster_expect_absent(c, 1, "e");
}

/* The server that wrote an object ended before it told anybody. */
static void test_merged_from_the_object(void **state)
{
	struct cluster *c = *state;
	bool did;
	char big[100001];

	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	cluster_settle(c);
	cluster_puts(c, 0, "large", big);
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	assert_int_equal(replicator_step_objects(c->node[0].replicator, EAST, 64, &did), 0);
	cluster_stop_node(c, 0, false);
	assert_int_equal(findings(&(struct reconcile_counts[1]){[0] = scan(c, 1, EAST)}[0]), 0);
	cluster_now_ms += 3600000;
	assert_int_equal(scan(c, 1, EAST).found[FOUND_MISSED], 1);
	cluster_settle(c);
	cluster_expect(c, 1, "large", big);
	expect_object(c, WEST, "large", big);
	cluster_start_node(c, 0);
	cluster_settle(c);
	expect_everywhere(c, "large", big);
	assert_int_equal(conflicts(c), 0);
	expect_quiet(c);
}

/* Every region loses "large", and a scan notices; it is listed on the server that looked, and on the one that still
 * had it. */
static void expect_lost(struct cluster *c)
{
	cluster_settle(c);
	tool_remove(c, EAST, "large");
	tool_remove(c, WEST, "large");
	cluster_now_ms += 3600000;
	assert_int_equal(scan(c, 1, EAST).found[FOUND_DELETE], 1);
	cluster_settle(c);
	expect_everywhere(c, "large", NULL);
	assert_int_equal(conflicts(c), 2);
	expect_quiet(c);
}

/* What every region lost is lost. */
static void test_nowhere(void **state)
{
	struct cluster *c = *state;
	char big[100001];

	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	cluster_puts(c, 0, "large", big);
	expect_lost(c);
}

/* So is another tool's, and it is listed as lost: that its region knows no more of it is no removal. */
static void test_foreign_and_nowhere(void **state)
{
	struct cluster *c = *state;
	char big[100001];

	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	tool_put(c, EAST, "large", big);
	assert_int_equal(scan(c, 0, EAST).found[FOUND_PUT], 1);
	expect_lost(c);
}

/* The other server starts from a checkpoint that was written while the content waited. */
static void start_from_checkpoint(struct cluster *c)
{
	struct replicator *r;
	bool did;

	cluster_puts(c, 0, "small", "small");
	while (cluster_push(c, 0))
		cluster_now_ms += 10;
	cluster_puts(c, 0, "late", "first");
	cluster_puts(c, 0, "other", "other");
	r = c->node[0].replicator;
	assert_int_equal(replicator_step_seal(r, &did), 0);
	assert_int_equal(replicator_step_checkpoint(r, &did), 0);
	assert_false(did);
	cluster_now_ms += 2 * 3600000;
	assert_int_equal(replicator_step_checkpoint(r, &did), 0);
	assert_true(did);
	cluster_start_node(c, 1);
	cluster_pull(c, 1);
	assert_int_equal(cluster_resolve(c, 1, "late").size, 5);
}

/* Content that was never brought to any region is not lost as long as its server has it. */
static void test_nowhere_yet(void **state)
{
	struct cluster *c = *state;
	struct inode inode = {.mtime_ns = 1000000007000000009};

	cluster_stop_node(c, 1, true);
	cluster_stop_node(c, 0, true);
	c->same_home = true;
	c->base = (struct replicator_options){
		.checkpoint_interval_ms = 3600000, .checkpoint_segments = 1};
	cluster_start_node(c, 0);
	start_from_checkpoint(c);
	cluster_now_ms += 3600000;
	assert_int_equal(scan(c, 1, EAST).found[FOUND_DELETE], 2);
	while (cluster_push(c, 1))
		cluster_now_ms += 10;
	/* A time that was set meanwhile stays, too. */
	uint64_t ino = cluster_resolve(c, 0, "late").ino;
	assert_int_equal(tree_setattr(c->node[0].cache, ino, SET_MTIME, &inode, &inode), 0);
	cluster_pull(c, 0);
	cluster_expect(c, 0, "late", "first");
	cluster_settle(c);
	expect_everywhere(c, "late", "first");
	expect_everywhere(c, "other", "other");
	expect_everywhere(c, "small", "small");
	assert_int_equal(cluster_resolve(c, 0, "late").mtime_ns, 1000000007000000009);
	assert_int_equal(cluster_resolve(c, 1, "late").mtime_ns, 1000000007000000009);
	/* On the server that looked. */
	assert_int_equal(conflicts(c), 2);
	expect_quiet(c);
}

/* Listings of the first region that are under way, and whether there ever were two. */
static _Atomic unsigned listing;
static _Atomic bool overlapped;

static enum store_result meet(void *ctx UNUSED, const char *op, const char *key UNUSED, bool did_happen)
{
	if (strcmp(op, "list") != 0)
		return STORE_OK;
	if (did_happen) {
		listing--;
		return STORE_OK;
	}
	listing++;
	for (int i = 0; i < 20 && !overlapped; i++) {
		if (listing > 1)
			overlapped = true;
		usleep(10000);
	}
	return STORE_OK;
}

static struct store *wrap_meet(struct cluster *c UNUSED, unsigned node, unsigned region, struct store *inner)
{
	return node == 0 && region == EAST ? store_fault_new(inner, meet, NULL) : inner;
}

/* The names below the root are listed at once, by threads, and each object is met once. */
static void test_listed_in_parallel(void **state)
{
	struct reconcile_request q = {.region = EAST, .found = no_finding, .path = {"", 0}};
	struct cluster *c = *state;
	struct reconcile_counts counts;
	struct err err = {0};
	char key[32];

	c->wrap = wrap_meet;
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	cluster_settle(c);
	for (unsigned i = 0; i < 40; i++) {
		snprintf(key, sizeof(key), "d%u/f%u", i % 4, i);
		tool_put(c, EAST, key, key);
	}
	tool_put(c, EAST, "file", "file");
	overlapped = false;
	if (reconciler_scan(c->node[0].replicator->reconciler, &q, &counts, &err) < 0)
		fail_msg("scan: %s", err.text);
	assert_true(overlapped);
	assert_int_equal(counts.objects, 41);
	assert_int_equal(counts.found[FOUND_PUT], 41);
	cluster_settle(c);
	expect_everywhere(c, "d3/f39", "d3/f39");
	expect_quiet(c);
}

static void test_bad_keys(void **state)
{
	struct cluster *c = *state;

	cluster_settle(c);
	tool_put(c, EAST, "%41", "x");
	tool_put(c, EAST, "fine", "x");
	struct reconcile_counts counts = scan(c, 0, EAST);
	assert_int_equal(counts.found[FOUND_INVALID], 1);
	assert_int_equal(counts.found[FOUND_PUT], 1);
}

/* What is known costs no request of its own. */
static void test_known_costs_nothing(void **state)
{
	struct cluster *c = *state;

	write_many(c, 50);
	assert_int_equal(scan(c, 0, EAST).looked, 0);
	assert_int_equal(scan(c, 1, EAST).looked, 51);
	uint64_t before = c->requests[EAST];
	assert_int_equal(scan(c, 1, EAST).looked, 0);
	/* The listing, which jumps over what is Meridian's own once, the volume, the mark, and the list of
	 * hashes of parts. */
	assert_int_equal(c->requests[EAST], before + 5);
}

static void test_region_down(void **state)
{
	struct cluster *c = *state;
	struct reconcile_request q = {.path = {"", 0}, .alone = true};
	struct reconcile_counts counts;
	struct err err = {0};

	cluster_puts(c, 0, "file", "content");
	cluster_settle(c);
	c->down[EAST] = true;
	assert_true(reconciler_scan(c->node[0].replicator->reconciler, &q, &counts, &err) < 0);
	assert_non_null(strstr(err.text, "east"));
	c->down[EAST] = false;
	cluster_settle(c);
	expect_everywhere(c, "file", "content");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		T(test_put),
		T(test_put_seen_by_both),
		T(test_overwrite),
		T(test_overwrite_of_a_later_stamp),
		T(test_remove),
		T(test_put_after_a_removal_of_a_later_stamp),
		T(test_missing_is_not_removed),
		T(test_nothing_young_is_touched),
		T(test_metadata_taken_along),
		T(test_modes_of_other_tools),
		T(test_guard),
		T(test_restore),
		T(test_dry_run_changes_nothing),
		T(test_part_of_the_tree),
		T(test_merged_from_the_object),
		T(test_nowhere),
		T(test_foreign_and_nowhere),
		T(test_nowhere_yet),
		T(test_listed_in_parallel),
		T(test_bad_keys),
		T(test_known_costs_nothing),
		T(test_region_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
