/* A cache in a directory of its own, for the tests of the replicated half. */
#ifndef TESTS_REPLICA_FIXTURE_H
#define TESTS_REPLICA_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/internal.h"
#include "cache/region.h"
#include "src/base/random.h"

struct fixture {
	char dir[64];
	struct cache *cache;
};

static inline void fixture_open(struct fixture *f)
{
	const struct cache_options options = {
		.state_dir = f->dir, .sync_off = true, .no_lock = true};
	struct err err = {0};
	int r = cache_open(&options, &f->cache, &err);

	if (r)
		fail_msg("cache_open: %d %s", r, err.text);
}

static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	snprintf(f->dir, sizeof(f->dir), "/tmp/meridian-test-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	fixture_open(f);
	*state = f;
	return 0;
}

/* The same with up to two regions, whose ids go to ids. */
static inline int fixture_setup_regions(void **state, unsigned *ids, unsigned count)
{
	static const char *const names[] = {"east", "west"};
	struct fixture *f;
	struct err err = {0};

	if (fixture_setup(state))
		return -1;
	f = *state;
	return region_register(f->cache, names, count, false, ids, &err);
}

static inline int fixture_remove(
	const char *path, const struct stat *st UNUSED, int type UNUSED, struct FTW *ftw UNUSED)
{
	return remove(path);
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	/* A failed assertion left in the middle of a transaction. */
	if (f->cache->writer_owner)
		cache_rollback(f->cache->writer);
	cache_close(f->cache);
	nftw(f->dir, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static inline struct conn *fixture_begin(struct fixture *f)
{
	struct conn *conn = NULL;

	assert_int_equal(cache_begin(f->cache, &conn), 0);
	return conn;
}

static inline void fixture_commit(struct conn *conn)
{
	assert_int_equal(cache_commit(conn), 0);
}

/* Every statement of the connection that has been prepared so far reaches its tables through an
 * index; tables of at most a handful of rows excepted. */
static inline void assert_no_scans(struct conn *conn, const char *table)
{
	char scan[64];
	unsigned checked = 0;

	snprintf(scan, sizeof(scan), "SCAN %s", table);
	for (size_t i = 0; i < STATEMENT_SLOTS; i++) {
		sqlite3_stmt *plan = NULL;
		char *sql;

		if (!conn->slots[i].statement || !strstr(conn->slots[i].sql, table))
			continue;
		sql = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", conn->slots[i].sql);
		assert_non_null(sql);
		assert_int_equal(sqlite3_prepare_v2(conn->db, sql, -1, &plan, NULL), SQLITE_OK);
		while (sqlite3_step(plan) == SQLITE_ROW) {
			const char *detail = (const char *)sqlite3_column_text(plan, 3);

			if (strstr(detail, scan) || strstr(detail, "TEMP B-TREE"))
				fail_msg("%s\nplan: %s", conn->slots[i].sql, detail);
		}
		sqlite3_finalize(plan);
		sqlite3_free(sql);
		checked++;
	}
	assert_true(checked > 0);
}

/* Steps of SQLite's virtual machine in all statements of the connection since the last call. */
static inline int64_t vm_steps(struct conn *conn)
{
	int64_t steps = 0;

	for (size_t i = 0; i < STATEMENT_SLOTS; i++) {
		if (conn->slots[i].statement)
			steps += sqlite3_stmt_status(
				conn->slots[i].statement, SQLITE_STMTSTATUS_VM_STEP, 1);
	}
	return steps;
}

static inline int64_t sql_int(struct conn *conn, const char *sql)
{
	sqlite3_stmt *s = NULL;
	int64_t v;

	assert_int_equal(sqlite3_prepare_v2(conn->db, sql, -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	v = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	return v;
}

/* The seed of a random test: MERIDIAN_SEED, else given. */
static inline uint64_t test_seed(uint64_t given)
{
	const char *text = getenv("MERIDIAN_SEED");

	return text ? strtoull(text, NULL, 0) : given;
}

#endif
