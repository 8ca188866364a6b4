/* Backpressure: the figures are those of the tables, writers are slowed and refused, and nothing is lost. */
#include "tests/unit/cluster.h"

#include "cache/internal.h"
#include "cache/pressure.h"

static int64_t sql_number(struct cache *c, const char *sql)
{
	struct conn *conn;
	sqlite3_stmt *s;
	int64_t n;

	assert_int_equal(cache_read_begin(c, &conn), 0);
	assert_int_equal(sqlite3_prepare_v2(conn->db, sql, -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	n = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	cache_read_end(conn);
	return n;
}

static void expect_figures(struct cluster *c, unsigned n)
{
	struct cache *cache = c->node[n].cache;
	struct cache_pressure p;

	assert_int_equal(cache->journal_rows, sql_number(cache, "SELECT count(*) FROM journal"));
	cache_pressure(cache, &p);
	assert_int_equal(p.backlog_rows,
		sql_number(cache, "SELECT (SELECT count(*) FROM journal) + count(*) FROM outbox"));
	assert_int_equal(p.dirty_bytes,
		sql_number(cache, "SELECT max(b) FROM (SELECT coalesce(sum(size), 0) AS b FROM"
				  " (SELECT 0 AS region UNION SELECT 1) r LEFT JOIN outbox o"
				  " ON o.region = r.region AND NOT uploaded GROUP BY r.region)"));
}

static void test_figures(void **state)
{
	struct cluster *c = *state;
	char name[32];

	expect_figures(c, 0);
	cluster_mkdir(c, 0, "d");
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "d/f%u", i);
		cluster_write(c, 0, name, "0123456789", i % 10);
	}
	expect_figures(c, 0);
	c->down[1] = true;
	cluster_push(c, 0);
	expect_figures(c, 0);
	cluster_rename(c, 0, "d", "e");
	cluster_unlink(c, 0, "e/f3");
	expect_figures(c, 0);
	cluster_push(c, 0);
	expect_figures(c, 0);
	cluster_puts(c, 0, "x", "not sealed");
	cluster_stop_node(c, 0, false);
	cluster_start_node(c, 0);
	expect_figures(c, 0);
	cluster_stop_node(c, 0, true);
	cluster_start_node(c, 0);
	expect_figures(c, 0);
	c->down[1] = false;
	cluster_settle(c);
	expect_figures(c, 0);
	expect_figures(c, 1);
	struct cache_pressure p;
	cache_pressure(c->node[0].cache, &p);
	assert_int_equal(p.backlog_rows, 0);
	assert_int_equal(p.dirty_bytes, 0);
	assert_int_equal(p.permille, 0);
}

static int try_create(struct cluster *c, const char *name)
{
	struct inode inode;
	struct file *f;
	int r = tree_create_open(
		c->node[0].cache, ROOT_INO, slice_of(name), S_IFREG | 0644, 0, 0, true, &inode, &f);

	if (r)
		return r;
	if (file_write(f, name, strlen(name), 0, false) < 0)
		r = -ENOSPC;
	file_release(f);
	return r;
}

static void test_backlog(void **state)
{
	struct cluster *c = *state;
	struct cache *cache = c->node[0].cache;
	struct inode v = {.mode = 0600}, inode;
	unsigned made = 0, between = 0;
	char name[32];

	cluster_puts(c, 0, "old", "0123456789");
	cluster_settle(c);
	cache->max_backlog = 100;
	c->down[1] = true;
	for (int64_t delay = 0; made < 200; made++) {
		int64_t now = pressure_delay_ms(cache);

		assert_true(now >= delay && now <= PRESSURE_DELAY_MS);
		delay = now;
		between += now > 0 && now < PRESSURE_DELAY_MS;
		snprintf(name, sizeof(name), "f%u", made);
		if (try_create(c, name))
			break;
	}
	/* One region has them soon, the other lacks them all: so many are 100 rows. */
	assert_in_range(made, 90, 100);
	assert_true(between > 10); /* in proportion */
	assert_true(pressure_delay_ms(cache) == PRESSURE_DELAY_MS);
	cluster_push(c, 0);
	cluster_push(c, 0);
	assert_int_equal(try_create(c, "no"), -ENOSPC);
	assert_int_equal(tree_link(cache, cluster_resolve(c, 0, "old").ino, ROOT_INO,
				 slice_of("link"), &inode),
		-ENOSPC);
	assert_int_equal(
		tree_create(cache, ROOT_INO, slice_of("dir"), S_IFDIR | 0755, 0, 0, NULL, &inode),
		-ENOSPC);
	/* What takes away, renames or changes attributes. */
	cluster_unlink(c, 0, "f0");
	cluster_rename(c, 0, "f1", "g1");
	inode = cluster_resolve(c, 0, "old");
	assert_int_equal(tree_setattr(cache, inode.ino, SET_MODE, &v, &inode), 0);
	struct file *f;
	assert_int_equal(file_open(cache, inode.ino, true, false, &f), 0);
	assert_int_equal(file_write(f, "x", 1, 20, false), -ENOSPC);
	assert_int_equal(file_truncate(f, 100), -ENOSPC);
	assert_int_equal(file_truncate(f, 5), 0);
	file_release(f);
	c->down[1] = false;
	cluster_settle(c);
	assert_int_equal(pressure_delay_ms(cache), 0);
	assert_int_equal(try_create(c, "yes"), 0);
	cluster_settle(c);
	for (unsigned i = 2; i < made; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		cluster_expect(c, 1, name, name);
	}
	cluster_expect_absent(c, 1, "f0");
	cluster_expect(c, 1, "g1", "f1");
	cluster_expect(c, 1, "old", "01234");
	expect_figures(c, 0);
}

static void test_dirty(void **state)
{
	struct cluster *c = *state;
	struct cache *cache = c->node[0].cache;
	struct cache_pressure p;
	struct inode inode;
	struct file *f;
	char block[1000] = {0};
	unsigned written = 0;

	cache->max_dirty = 100000;
	assert_int_equal(tree_create_open(cache, ROOT_INO, slice_of("big"), S_IFREG | 0644, 0, 0,
				 true, &inode, &f),
		0);
	/* Over and over the same block: a file never counts for more than it has. */
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(file_write(f, block, sizeof(block), 0, false), sizeof(block));
	cache_pressure(cache, &p);
	assert_int_equal(p.dirty_bytes, sizeof(block));
	while (file_write(f, block, sizeof(block), written * sizeof(block), false) > 0)
		assert_true(++written < 1000);
	assert_int_equal(written, 100);
	file_release(f);
	c->down[0] = c->down[1] = true;
	cluster_push(c, 0);
	cache_pressure(cache, &p);
	assert_int_equal(p.dirty_bytes, 100000); /* of the one, not of both regions */
	assert_int_equal(try_create(c, "no"), -ENOSPC);
	c->down[0] = c->down[1] = false;
	cluster_settle(c);
	cache_pressure(cache, &p);
	assert_int_equal(p.dirty_bytes, 0);
	assert_int_equal(try_create(c, "yes"), 0);
	size_t len;
	free(cluster_read(c, 1, "big", &len));
	assert_int_equal(len, 100000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_figures, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_backlog, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(test_dirty, cluster_setup, cluster_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
