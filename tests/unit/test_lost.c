/* Files renamed before their content was here, and what becomes of those whose content is nowhere.
 */
#include "tests/unit/cluster.h"

#include "cache/entry.h"
#include "cache/outbox.h"

enum { BIG = 200000 };

static void write_big(struct cluster *c, unsigned n, const char *path, char fill)
{
	char *p = malloc(BIG);

	assert_non_null(p);
	memset(p, fill, BIG);
	cluster_write(c, n, path, p, BIG);
	free(p);
}

static void expect_big(struct cluster *c, unsigned n, const char *path, char fill)
{
	struct inode inode = cluster_resolve(c, n, path);
	size_t len = 0;

	assert_int_equal(replicator_step_fetch(c->node[n].replicator, inode.ino), 0);
	char *p = cluster_read(c, n, path, &len);
	assert_int_equal(len, BIG);
	assert_int_equal(p[0], fill);
	assert_int_equal(p[BIG - 1], fill);
	free(p);
}

/* Longer than a file is looked for. */
static void settle_long(struct cluster *c)
{
	for (int i = 0; i < 80; i++) {
		for (unsigned n = 0; n < c->nodes; n++) {
			cluster_push(c, n);
			cluster_pull(c, n);
		}
		clock_sleep_ms(30000);
	}
	cluster_settle(c);
	assert_int_equal(cluster_backlog(c, 0), 0);
	assert_int_equal(cluster_backlog(c, 1), 0);
}

static void test_content_of_the_former_name(void **state)
{
	struct cluster *c = *state;

	write_big(c, 0, "old", '1');
	cluster_settle(c);
	cluster_rename(c, 1, "old", "new");
	cluster_settle(c);
	expect_big(c, 0, "new", '1');
	expect_big(c, 1, "new", '1');
	cluster_expect_absent(c, 0, "old");
}

/* The other server removes it first: its content is in the trash then, under its hash. */
static void test_content_in_the_trash(void **state)
{
	struct cluster *c = *state;

	write_big(c, 0, "old", '1');
	cluster_settle(c);
	cluster_unlink(c, 0, "old");
	cluster_push(c, 0);
	cluster_rename(c, 1, "old", "new");
	settle_long(c);
	expect_big(c, 0, "new", '1');
	expect_big(c, 1, "new", '1');
}

/* The version that was renamed exists nowhere any more: the edit follows the move. */
static void test_overwritten_before_the_rename(void **state)
{
	struct cluster *c = *state;

	write_big(c, 0, "old", '1');
	cluster_settle(c);
	write_big(c, 0, "old", '2');
	cluster_push(c, 0);
	clock_sleep_ms(5);
	cluster_rename(c, 1, "old", "new");
	settle_long(c);
	cluster_expect_absent(c, 0, "old");
	cluster_expect_absent(c, 1, "old");
	expect_big(c, 0, "new", '2');
	expect_big(c, 1, "new", '2');
}

static void test_overwritten_after_the_rename(void **state)
{
	struct cluster *c = *state;

	write_big(c, 0, "old", '1');
	cluster_settle(c);
	cluster_rename(c, 1, "old", "new");
	clock_sleep_ms(5);
	write_big(c, 0, "old", '2');
	cluster_push(c, 0);
	settle_long(c);
	expect_big(c, 0, "old", '2');
	expect_big(c, 1, "old", '2');
	expect_big(c, 0, "new", '2');
	expect_big(c, 1, "new", '2');
}

static void link_name(struct cluster *c, unsigned n, const char *from, const char *to)
{
	struct inode inode = cluster_resolve(c, n, from);

	assert_int_equal(tree_link(c->node[n].cache, inode.ino, cluster_parent(c, n, to),
				 key_name(slice_of(to)), &inode),
		0);
}

static void empty_trash(struct cluster *c)
{
	char path[160];

	for (unsigned r = 0; r < CLUSTER_REGIONS; r++) {
		snprintf(path, sizeof(path), "%s/.meridian/trash", c->url[r] + strlen("file://"));
		assert_int_equal(nftw(path, cluster_remove, 16, FTW_DEPTH | FTW_PHYS), 0);
	}
}

static void expect_removed(struct cluster *c, unsigned n, const char *path)
{
	CLEANUP(entry_done) struct entry e = {0};
	struct conn *conn;

	cluster_expect_absent(c, n, path);
	assert_int_equal(cache_read_begin(c->node[n].cache, &conn), 0);
	int r = entry_get(conn, slice_of(path), &e);
	cache_read_end(conn);
	assert_int_equal(r, 0);
	assert_int_equal(e.kind, KIND_ABSENT);
	assert_int_equal(e.link.origin, 0);
}

/* Nothing of it is left: both names go, on every server. */
static void test_linked_and_nowhere(void **state)
{
	struct cluster *c = *state;

	write_big(c, 0, "one", '1');
	cluster_settle(c);
	cluster_unlink(c, 0, "one");
	cluster_push(c, 0);
	empty_trash(c);
	clock_sleep_ms(5);
	link_name(c, 1, "one", "two");
	settle_long(c);
	for (unsigned n = 0; n < 2; n++) {
		expect_removed(c, n, "one");
		expect_removed(c, n, "two");
	}
}

/* The second name won against an edit, with content that is nowhere: the edit takes both names. */
static void test_overwritten_before_the_link(void **state)
{
	struct cluster *c = *state;

	write_big(c, 0, "one", '1');
	cluster_settle(c);
	write_big(c, 0, "one", '2');
	cluster_push(c, 0);
	clock_sleep_ms(5);
	link_name(c, 1, "one", "two");
	settle_long(c);
	for (unsigned n = 0; n < 2; n++) {
		expect_big(c, n, "one", '2');
		expect_big(c, n, "two", '2');
		assert_int_equal(
			cluster_resolve(c, n, "one").ino, cluster_resolve(c, n, "two").ino);
	}
}

/* Neither is there any more: what takes the place of the other is not replaced by that in turn. */
static void test_edit_and_link_are_nowhere(void **state)
{
	struct cluster *c = *state;
	char path[160];

	write_big(c, 0, "one", '1');
	cluster_settle(c);
	write_big(c, 0, "one", '2');
	cluster_push(c, 0);
	clock_sleep_ms(5);
	link_name(c, 1, "one", "two");
	cluster_pull(c, 1);
	for (unsigned r = 0; r < CLUSTER_REGIONS; r++) {
		snprintf(path, sizeof(path), "%s/one", c->url[r] + strlen("file://"));
		assert_int_equal(unlink(path), 0);
	}
	/* The one that still has it is away. */
	cluster_push(c, 1);
	for (unsigned i = 0; i < 150 && cluster_backlog(c, 1); i++) {
		clock_sleep_ms(60000);
		cluster_push(c, 1);
	}
	assert_int_equal(cluster_backlog(c, 1), 0);
	settle_long(c);
	for (unsigned n = 0; n < 2; n++) {
		expect_removed(c, n, "one");
		expect_removed(c, n, "two");
	}
}

/* ---- content that was here, and was written over while a directory hid it ---- */

/* The file of name, sealed and open for writing; name becomes a directory by an older file of another
 * server in it, taken is replaced by that server as well (NULL: it is not). */
static struct file *open_and_hide(struct cluster *c, const char *name, const char *taken)
{
	struct file *f;
	struct inode inode;
	bool did;

	cluster_mkdir(c, 1, name);
	cluster_puts(c, 1, "dir/x", "of the other server");
	clock_sleep_ms(5);
	write_big(c, 0, name, '1');
	if (taken)
		link_name(c, 0, name, taken);
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	inode = cluster_resolve(c, 0, name);
	assert_int_equal(file_open(c->node[0].cache, inode.ino, true, false, &f), 0);
	clock_sleep_ms(5);
	if (taken)
		cluster_puts(c, 1, taken, "of the other server");
	cluster_push(c, 1);
	cluster_pull(c, 0);
	assert_true(S_ISDIR(cluster_resolve(c, 0, name).mode));
	return f;
}

static void expect_given_way(struct cluster *c)
{
	struct replicator_status *s;

	settle_long(c);
	for (unsigned n = 0; n < 2; n++)
		cluster_expect(c, n, "dir/x", "of the other server");
	s = cluster_status(c, 0);
	assert_true(s->conflicts >= 1);
	free(s);
}

static void test_written_over_while_hidden(void **state)
{
	struct cluster *c = *state;
	struct file *f = open_and_hide(c, "dir", NULL);

	assert_int_equal(file_write(f, "more", 4, 0, false), 4);
	file_release(f);
	expect_given_way(c);
}

static void test_written_over_under_another_name(void **state)
{
	struct cluster *c = *state;
	struct file *f = open_and_hide(c, "dir", "taken");

	assert_int_equal(file_write(f, "more", 4, 0, false), 4);
	file_release(f);
	expect_given_way(c);
	cluster_expect(c, 0, "taken", "of the other server");
	cluster_expect(c, 1, "taken", "of the other server");
}

/* It was small, and announced with its content before that. */
static void test_written_over_after_it_was_announced(void **state)
{
	struct cluster *c = *state;
	struct inode inode;
	struct file *f;
	bool did;

	cluster_mkdir(c, 1, "dir");
	cluster_puts(c, 1, "dir/x", "of the other server");
	clock_sleep_ms(5);
	cluster_puts(c, 0, "dir", "small");
	assert_int_equal(replicator_step_seal(c->node[0].replicator, &did), 0);
	inode = cluster_resolve(c, 0, "dir");
	assert_int_equal(file_open(c->node[0].cache, inode.ino, true, false, &f), 0);
	cluster_push(c, 1);
	cluster_pull(c, 0);
	assert_true(S_ISDIR(cluster_resolve(c, 0, "dir").mode));
	for (unsigned r = 0; r < 2; r++)
		assert_int_equal(
			replicator_step_announce(c->node[0].replicator, r, &did), 0);
	assert_int_equal(file_write(f, "more than it was", 16, 0, false), 16);
	file_release(f);
	cluster_stop_node(c, 0, true); /* it is not in memory either */
	cluster_start_node(c, 0);
	settle_long(c);
	cluster_unlink(c, 1, "dir/x");
	settle_long(c);
	inode = cluster_resolve(c, 0, "dir");
	assert_int_equal(replicator_step_fetch(c->node[0].replicator, inode.ino), 0);
	for (unsigned n = 0; n < 2; n++)
		cluster_expect(c, n, "dir", "small");
}

/* Two servers that owe each other's former versions, which their authors wrote over, would wait for each
 * other: another server's version whose content is nowhere does not hold its directory back. */
static void test_of_another_and_nowhere(void **state)
{
	struct cluster *c = *state;
	CLEANUP(entry_done) struct entry e = {0};
	struct conn *conn;
	char path[160];

	cluster_mkdir(c, 1, "d");
	write_big(c, 1, "d/old", '1');
	cluster_settle(c);
	for (unsigned r = 0; r < CLUSTER_REGIONS; r++) {
		snprintf(path, sizeof(path), "%s/d/old", c->url[r] + strlen("file://"));
		assert_int_equal(unlink(path), 0);
	}
	assert_int_equal(cache_begin(c->node[0].cache, &conn), 0);
	assert_int_equal(entry_get(conn, slice_of("d/old"), &e), 0);
	struct outbox_change owed = {.key = slice_of("d/old"),
		.stamp = entry_stamp(&e),
		.size = e.size,
		.upload = true,
		.remote = true};
	assert_int_equal(outbox_enqueue(conn, &owed), 0);
	assert_int_equal(cache_commit(conn), 0);
	cluster_puts(c, 0, "d/new", "after it");
	cluster_push(c, 0);
	cluster_pull(c, 1);
	cluster_expect_absent(c, 1, "d/new"); /* it may still come */
	for (unsigned i = 0; i < 40; i++) {
		clock_sleep_ms(60000);
		cluster_push(c, 0);
	}
	cluster_pull(c, 1);
	cluster_expect(c, 1, "d/new", "after it");
	assert_int_equal(cluster_backlog(c, 0), 2); /* still looked for, in each region */
}

/* The disk lost it: it stays, and says so. */
static void test_lost_while_hidden(void **state)
{
	struct cluster *c = *state;
	char command[160];

	file_release(open_and_hide(c, "dir", NULL));
	snprintf(command, sizeof(command), "find '%s/content' -type f -size +100k -exec rm {} +",
		c->node[0].state);
	assert_int_equal(system(command), 0);
	for (unsigned i = 0; i < 40; i++) {
		cluster_push(c, 0);
		cluster_pull(c, 1);
		clock_sleep_ms(60000);
	}
	assert_true(cluster_backlog(c, 0) >= 2); /* and what waits behind it in its directory */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_content_of_the_former_name, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_content_in_the_trash, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_overwritten_before_the_rename, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_overwritten_after_the_rename, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_linked_and_nowhere, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_overwritten_before_the_link, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_edit_and_link_are_nowhere, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_written_over_while_hidden, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_written_over_under_another_name, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_written_over_after_it_was_announced,
			cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_of_another_and_nowhere, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(
			test_lost_while_hidden, cluster_setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
