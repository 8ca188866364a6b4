/* The announcer where a segment's fate is not known: its answer was lost, then something happened. */
#include "tests/unit/cluster.h"

#include <unistd.h>

#include "replicator/segment.h"
#include "src/base/buf.h"

/* Every PUT of a segment is done, and the answer is lost. */
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

static void restart_lossy(struct cluster *c)
{
	cluster_stop_node(c, 0, true);
	c->wrap = lossy;
	cluster_start_node(c, 0);
}

struct names {
	char text[8][SEGMENT_NAME_SIZE];
	unsigned count;
};

static int add_name(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	struct names *n = ctx;

	assert_true(n->count < ARRAY_SIZE(n->text));
	snprintf(n->text[n->count++], sizeof(n->text[0]), "%s", key + strlen(SEGMENT_PREFIX));
	return 0;
}

static struct store *open_region(struct cluster *c, unsigned region, struct names *n)
{
	struct store_config config = {.name = "x", .url = c->url[region]};
	struct store_error error = {0};
	struct store *s;

	*n = (struct names){.count = 0};
	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(
		store_list(s, SEGMENT_PREFIX, NULL, 0, add_name, n, NULL, &error), STORE_OK);
	return s;
}

static void seal(struct cluster *c)
{
	bool did = true;

	while (did)
		assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
}

static void announce(struct cluster *c, unsigned region)
{
	bool did;

	assert_int_equal(replicator_step_announce(c->node[0].replicator, region, &did), 0);
}

static void send_and_damage(struct cluster *c, void (*damage)(const char *path))
{
	restart_lossy(c);
	lose_answers = true;
	cluster_puts(c, 0, "f", "text");
	seal(c);
	for (unsigned i = 0; i < CLUSTER_REGIONS; i++) {
		struct names n;
		char path[300];

		announce(c, i);
		store_close(open_region(c, i, &n));
		assert_int_equal(n.count, 1);
		snprintf(path, sizeof(path), "%s/%s%s", c->url[i] + strlen("file://"),
			SEGMENT_PREFIX, n.text[0]);
		damage(path);
	}
	lose_answers = false;
	cluster_settle(c);
	cluster_expect(c, 1, "f", "text");
	assert_int_equal(cluster_backlog(c, 0), 0);
	struct replicator_status *s = cluster_status(c, 1);
	assert_int_equal(s->bad_segments, 1);
	free(s);
}

static void grow(const char *path)
{
	assert_int_equal(truncate(path, (off_t)SEGMENT_BYTES_MAX + 1), 0);
}

static void cut(const char *path)
{
	assert_int_equal(truncate(path, 100), 0);
}

/* There, and not to be read: the changes go out under the next number. */
static void test_too_large(void **state)
{
	send_and_damage(*state, grow);
}

static void test_damaged(void **state)
{
	send_and_damage(*state, cut);
}

static bool continues(struct store *s, const char *name)
{
	CLEANUP(segment_done) struct segment segment = {0};
	char key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE];
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};
	struct err err = {0};

	snprintf(key, sizeof(key), "%s%s", SEGMENT_PREFIX, name);
	assert_int_equal(
		store_get_buf(s, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, NULL, &error), STORE_OK);
	assert_int_equal(segment_parse(name, b.data, b.len, &segment, &err), 0);
	return segment.continues;
}

/* Three segments of one directory that the first file's later change ties together; the answer of
 * the first is lost, or not. */
static void send_group(struct cluster *c, bool lose, bool crash)
{
	enum { FILES = 180, SIZE = 60000 };
	static char text[SIZE];
	struct names n;

	restart_lossy(c);
	cluster_mkdir(c, 0, "d");
	cluster_settle(c);
	memset(text, 't', sizeof(text));
	for (unsigned i = 0; i <= FILES; i++) {
		char path[32];

		snprintf(path, sizeof(path), "d/f%u", i % FILES);
		text[0] = (char)i;
		cluster_write(c, 0, path, text, sizeof(text));
		seal(c);
	}
	store_close(open_region(c, 0, &n));
	unsigned before = n.count;
	lose_answers = lose;
	announce(c, 0);
	lose_answers = false;
	if (crash) {
		cluster_stop_node(c, 0, false);
		cluster_start_node(c, 0);
	}
	for (unsigned i = lose ? 0 : 1; i < 3; i++)
		announce(c, 0);
	struct store *s = open_region(c, 0, &n);
	assert_int_equal(n.count, before + 3);
	assert_true(continues(s, n.text[before]));
	assert_true(continues(s, n.text[before + 1]));
	assert_false(continues(s, n.text[before + 2]));
	store_close(s);
	cluster_settle(c);
	assert_int_equal(cluster_backlog(c, 0), 0);
}

/* What the lost answer's segment tore is still to be closed. */
static void test_group_stays_open(void **state)
{
	send_group(*state, true, false);
}

static void test_group_stays_open_after_crash(void **state)
{
	send_group(*state, true, true);
}

/* The same when the first segment is known to be there: the ones after it are still of its group. */
static void test_group_is_remembered(void **state)
{
	send_group(*state, false, true);
}

/* ---- what a power cut leaves ---- */

static off_t flushed; /* so much of the write-ahead log is on the disk */
static unsigned segments_put;

int fdatasync(int fd)
{
	char link[32], path[256] = "";
	struct stat st;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	assert_true(readlink(link, path, sizeof(path) - 1) > 0);
	if (strstr(path, "/meridian.db-wal")) {
		assert_int_equal(fstat(fd, &st), 0);
		flushed = st.st_size;
	}
	return fsync(fd);
}

static enum store_result look_at_log(
	void *ctx, const char *op, const char *key, bool did_happen UNUSED)
{
	struct cluster *c = ctx;
	char path[128];
	struct stat st;

	if (strcmp(op, "put") == 0 && strncmp(key, SEGMENT_PREFIX, strlen(SEGMENT_PREFIX)) == 0) {
		snprintf(path, sizeof(path), "%s/meridian.db-wal", c->node[0].state);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(flushed, st.st_size);
		segments_put++;
	}
	return STORE_OK;
}

static struct store *watched(
	struct cluster *c, unsigned node, unsigned region UNUSED, struct store *inner)
{
	return node == 0 ? store_fault_new(inner, look_at_log, c) : inner;
}

/* What others have, a power cut here must not take: its number would come again with other records. */
static void test_flushed_before_it_is_sent(void **state)
{
	struct cluster *c = *state;

	cluster_stop_node(c, 0, true);
	c->wrap = watched;
	c->flushing = true;
	cluster_start_node(c, 0);
	for (unsigned i = 0; i < 3; i++) {
		cluster_puts(c, 0, "f", i ? "more" : "text");
		seal(c);
		announce(c, 0);
		announce(c, 1);
	}
	assert_true(segments_put >= 6);
	cluster_settle(c);
	cluster_expect(c, 1, "f", "more");
}

/* ---- a state that was put back ---- */

static void copy_tree(const char *from, const char *to)
{
	char command[512];

	snprintf(command, sizeof(command), "rm -rf '%s' && cp -a '%s' '%s'", to, from, to);
	assert_int_equal(system(command), 0);
}

static void back_to_a_copy(struct cluster *c, bool sent_before)
{
	char copy[128];

	snprintf(copy, sizeof(copy), "%s/copy", c->dir);
	if (sent_before) {
		cluster_puts(c, 0, "first", "1");
		cluster_settle(c);
	}
	cluster_stop_node(c, 0, true);
	copy_tree(c->node[0].state, copy);
	cluster_start_node(c, 0);
	for (unsigned i = 0; i < 5; i++) {
		char name[8];

		snprintf(name, sizeof(name), "f%u", i);
		cluster_puts(c, 0, name, "sent");
		cluster_settle(c);
	}
	cluster_stop_node(c, 0, true);
	copy_tree(copy, c->node[0].state);
	cluster_start_node(c, 0);
	cluster_puts(c, 0, "new", "after");
	cluster_puts(c, 0, "f3", "after");
	cluster_now_ms += 2000;
	cluster_settle(c);
	for (unsigned n = 0; n < 2; n++) {
		cluster_expect(c, n, "f0", "sent");
		cluster_expect(c, n, "f3", "after");
		cluster_expect(c, n, "f4", "sent");
		cluster_expect(c, n, "new", "after");
	}
	assert_int_equal(cluster_backlog(c, 0), 0);
	/* And on. */
	cluster_puts(c, 0, "f4", "later");
	cluster_settle(c);
	cluster_expect(c, 1, "f4", "later");
	struct replicator_status *s = cluster_status(c, 1);
	assert_int_equal(s->bad_segments, 0);
	free(s);
}

static void test_back_to_a_copy(void **state)
{
	back_to_a_copy(*state, true);
}

static void test_back_to_before_anything_was_sent(void **state)
{
	back_to_a_copy(*state, false);
}

/* ---- content that a power cut took ---- */

static void cut_power(struct cluster *c)
{
	char content[160];

	cluster_stop_node(c, 0, false);
	snprintf(content, sizeof(content), "find '%s/content' -type f -exec truncate -s 0 {} +",
		c->node[0].state);
	assert_int_equal(system(content), 0);
	c->boot_id = "another";
	cluster_start_node(c, 0);
}

/* It was sent in a segment; the object was not there yet. */
static void test_content_comes_back_from_segments(void **state)
{
	struct cluster *c = *state;

	cluster_puts(c, 0, "f", "text");
	seal(c);
	announce(c, 0);
	announce(c, 1);
	cut_power(c);
	cluster_settle(c);
	cluster_expect(c, 0, "f", "text");
	cluster_expect(c, 1, "f", "text");
	assert_int_equal(cluster_backlog(c, 0), 0);
}

/* Nobody ever had it: the name stays, and what is to be sent waits where an operator sees it. */
static void test_lost_content_removes_nothing(void **state)
{
	struct cluster *c = *state;
	struct inode inode;
	struct file *f;
	char *large = calloc(1, 300000);

	assert_non_null(large);
	cluster_puts(c, 0, "other", "kept");
	cluster_settle(c);
	c->down[0] = c->down[1] = true;
	cluster_write(c, 0, "large", large, 300000);
	free(large);
	seal(c);
	cut_power(c);
	c->down[0] = c->down[1] = false;
	for (unsigned i = 0; i < 60; i++) {
		cluster_push(c, 0);
		cluster_pull(c, 1);
		cluster_now_ms += 60000;
	}
	inode = cluster_resolve(c, 0, "large");
	assert_int_equal(inode.size, 300000);
	assert_int_equal(file_open(c->node[0].cache, inode.ino, false, false, &f), -EREMOTE);
	cluster_expect_absent(c, 1, "large");
	cluster_expect(c, 1, "other", "kept");
	assert_int_equal(cluster_backlog(c, 0), 2);
	struct replicator_status *s = cluster_status(c, 0);
	assert_int_equal(s->conflicts, 0);
	free(s);
	/* What is written next is sent. */
	cluster_puts(c, 0, "large", "small now");
	cluster_settle(c);
	cluster_expect(c, 1, "large", "small now");
	assert_int_equal(cluster_backlog(c, 0), 0);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		CLUSTER_TEST(test_too_large),
		CLUSTER_TEST(test_damaged),
		CLUSTER_TEST(test_group_stays_open),
		CLUSTER_TEST(test_group_stays_open_after_crash),
		CLUSTER_TEST(test_group_is_remembered),
		CLUSTER_TEST(test_flushed_before_it_is_sent),
		CLUSTER_TEST(test_content_comes_back_from_segments),
		CLUSTER_TEST(test_lost_content_removes_nothing),
		CLUSTER_TEST(test_back_to_a_copy),
		CLUSTER_TEST(test_back_to_before_anything_was_sent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
