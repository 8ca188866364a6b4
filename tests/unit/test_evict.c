/* Eviction: what may go and what stays, in which order, at what cost, against opens and crashes. */
#include "tests/unit/cache_fixture.h"

#include <pthread.h>
#include <unistd.h>

#include "cache/evict.h"
#include "cache/outbox.h"
#include "cache/region.h"
#include "cache/snapshot.h"

static bool no_proof(void *ctx, struct slice key UNUSED, const uint8_t hash[SHA256_SIZE] UNUSED,
	uint64_t size UNUSED)
{
	unsigned *asked = ctx;

	if (asked)
		(*asked)++;
	return false;
}

static bool proof(void *ctx, struct slice key UNUSED, const uint8_t hash[SHA256_SIZE] UNUSED,
	uint64_t size UNUSED)
{
	unsigned *asked = ctx;

	(*asked)++;
	return true;
}

static void put_entry(struct fixture *f, uint64_t ino, const char *key, uint64_t node)
{
	struct content_version v = seal_now(f, ino);
	struct entry e = {.kind = KIND_FILE, .size = v.size, .mode = 0644};
	struct conn *conn = fixture_begin(f);

	memcpy(e.hash, v.hash, SHA256_SIZE);
	e.content_stamp = e.attr_stamp = cache_stamp(f->cache);
	e.content_stamp.node = node;
	assert_int_equal(entry_put(conn, slice_of(key), &e), 0);
	fixture_commit(conn);
	journal_clear(f);
}

/* Written here, sealed, and in every region. */
static uint64_t make_pushed(struct fixture *f, const char *name, const char *text)
{
	uint64_t ino = make_file(f, ROOT_INO, name, text);

	put_entry(f, ino, name, cache_node(f->cache));
	return ino;
}

static enum evict_result evict(struct fixture *f, uint64_t ino)
{
	struct evict_batch b = {.proof = no_proof};
	enum evict_result result = EVICT_DONE;

	assert_int_equal(evict_content(f->cache, &b, ino, &result), 0);
	assert_int_equal(evict_finish(f->cache, &b), 0);
	assert_int_equal(b.files, result == EVICT_DONE);
	return result;
}

static void install(struct fixture *f, uint64_t ino, const char *text)
{
	struct content_writer w;

	assert_int_equal(content_begin(f->cache, &w), 0);
	assert_int_equal(content_append(&w, text, strlen(text)), 0);
	assert_int_equal(content_install(f->cache, ino, &w), 0);
}

static void assert_gone(struct fixture *f, uint64_t ino)
{
	assert_int_equal(row_of(f, ino).state, STATE_REMOTE);
	assert_false(has_content(f, ino));
}

/* Field by field: the padding has no value of its own. */
static void assert_same_inode(const struct inode *a, const struct inode *b)
{
	assert_int_equal(a->ino, b->ino);
	assert_int_equal(a->mode, b->mode);
	assert_int_equal(a->uid, b->uid);
	assert_int_equal(a->gid, b->gid);
	assert_int_equal(a->nlink, b->nlink);
	assert_int_equal(a->rdev, b->rdev);
	assert_int_equal(a->size, b->size);
	assert_int_equal(a->atime_ns, b->atime_ns);
	assert_int_equal(a->mtime_ns, b->mtime_ns);
	assert_int_equal(a->ctime_ns, b->ctime_ns);
}

static void evicted_content_is_fetched_again(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_pushed(f, "f", "text"), troubles[TROUBLE_KINDS] = {0};
	struct inode before, after;
	struct file *file;

	assert_int_equal(tree_getattr(f->cache, ino, &before), 0);
	assert_int_equal(evict(f, ino), EVICT_DONE);
	assert_gone(f, ino);
	assert_totals(f);
	assert_int_equal(tree_getattr(f->cache, ino, &after), 0);
	assert_same_inode(&before, &after);
	assert_int_equal(evict(f, ino), EVICT_ABSENT);
	assert_int_equal(file_open(f->cache, ino, false, false, &file), -EREMOTE);
	install(f, ino, "text");
	assert_content(f, ino, "text");
	assert_totals(f);
	assert_int_equal(cache_troubles(f->cache, NULL, 0, troubles), 0);
	assert_int_equal(troubles[TROUBLE_LOST], 0);
	/* And emptied without a fetch. */
	assert_int_equal(evict(f, ino), EVICT_DONE);
	assert_int_equal(file_open(f->cache, ino, true, true, &file), 0);
	file_release(file);
	assert_content(f, ino, "");
}

static void what_is_in_use_or_changed_stays(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_pushed(f, "f", "text"), dir = make_dir(f, ROOT_INO, "d"), fifo;
	struct file *reader, *writer;

	assert_int_equal(evict(f, dir), EVICT_KIND);
	assert_int_equal(evict(f, make(f, ROOT_INO, "s", S_IFLNK | 0777)), EVICT_KIND);
	{
		struct inode inode;

		assert_int_equal(tree_mknod(f->cache, ROOT_INO, slice_of("p"), S_IFIFO | 0644, 0, 0,
					 0, &inode),
			0);
		fifo = inode.ino;
	}
	assert_int_equal(evict(f, fifo), EVICT_KIND);
	assert_int_equal(evict(f, 99999), EVICT_ABSENT);
	assert_int_equal(file_open(f->cache, ino, false, false, &reader), 0);
	assert_int_equal(evict(f, ino), EVICT_OPEN);
	file_release(reader);
	assert_int_equal(file_open(f->cache, ino, true, false, &writer), 0);
	assert_int_equal(evict(f, ino), EVICT_OPEN);
	assert_int_equal(file_write(writer, "T", 1, 0, false), 1);
	file_release(writer);
	assert_int_equal(evict(f, ino), EVICT_DIRTY);
	assert_content(f, ino, "Text");
	/* Sealed, but the map does not have it. */
	seal_now(f, ino);
	journal_clear(f);
	assert_int_equal(evict(f, ino), EVICT_DIRTY);
	put_entry(f, ino, "f", cache_node(f->cache));
	/* A rename, and one of a directory above, that is not sealed. */
	assert_int_equal(tree_rename(f->cache, ROOT_INO, slice_of("f"), dir, slice_of("g"), 0), 0);
	assert_int_equal(evict(f, ino), EVICT_DIRTY);
	journal_clear(f);
	put_entry(f, ino, "d/g", cache_node(f->cache));
	assert_int_equal(
		tree_rename(f->cache, ROOT_INO, slice_of("d"), ROOT_INO, slice_of("e"), 0), 0);
	assert_int_equal(evict(f, ino), EVICT_DIRTY);
	journal_clear(f);
	put_entry(f, ino, "e/g", cache_node(f->cache));
	assert_int_equal(evict(f, ino), EVICT_DONE);
}

static void add_regions(struct fixture *f, unsigned ids[2])
{
	const char *const names[] = {"one", "two"};
	struct err err = {0};

	assert_int_equal(region_register(f->cache, names, 2, false, ids, &err), 0);
}

static void what_a_region_lacks_stays(void **state)
{
	struct fixture *f = *state;
	unsigned ids[2];
	struct outbox_change change = {.key = slice_of("f"), .size = 4};
	uint64_t ino;
	struct conn *conn;
	bool more = true;

	add_regions(f, ids);
	ino = make_pushed(f, "f", "text");
	change.stamp = cache_stamp(f->cache);
	conn = fixture_begin(f);
	assert_int_equal(outbox_enqueue(conn, &change), 0);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_UNPUSHED);
	/* One region has it. */
	conn = fixture_begin(f);
	assert_int_equal(outbox_finish(conn, ids[0], change.key, change.stamp), 0);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_UNPUSHED);
	/* The other failed for good. */
	conn = fixture_begin(f);
	assert_int_equal(
		outbox_failed(conn, ids[1], change.key, change.stamp, 0, "denied", true), 0);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_UNPUSHED);
	conn = fixture_begin(f);
	assert_int_equal(outbox_finish(conn, ids[1], change.key, change.stamp), 0);
	/* A write may still reach a region late. */
	assert_int_equal(touched_mark(conn, change.key, 1000), 0);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_UNPUSHED);
	conn = fixture_begin(f);
	assert_int_equal(sqlite3_exec(conn->db,
				 "UPDATE touched SET due_ms = 0;"
				 "UPDATE region SET seed_after = x'' WHERE name = 'two'",
				 NULL, NULL, NULL),
		SQLITE_OK);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_UNPUSHED);
	while (more)
		assert_int_equal(region_seed(f->cache, ids[1], &more), 0);
	conn = fixture_begin(f);
	assert_int_equal(outbox_drop(conn, change.key), 0);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_DONE);
}

static void each_name_counts(void **state)
{
	struct fixture *f = *state;
	struct outbox_change change = {.key = slice_of("elsewhere"), .size = 4};
	struct inode inode;
	struct conn *conn;
	unsigned ids[2];
	uint64_t ino;

	add_regions(f, ids);
	ino = make_pushed(f, "f", "text");
	assert_int_equal(tree_link(f->cache, ino, ROOT_INO, slice_of("g"), &inode), 0);
	journal_clear(f);
	assert_int_equal(evict(f, ino), EVICT_DIRTY);
	put_entry(f, ino, "g", cache_node(f->cache));
	/* Also one that the file has no more, which may be any that a region waits for. */
	change.stamp = cache_stamp(f->cache);
	conn = fixture_begin(f);
	assert_int_equal(outbox_enqueue(conn, &change), 0);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_UNPUSHED);
	conn = fixture_begin(f);
	assert_int_equal(outbox_drop(conn, change.key), 0);
	fixture_commit(conn);
	assert_int_equal(evict(f, ino), EVICT_DONE);
}

static void content_of_others_needs_a_proof(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_file(f, ROOT_INO, "f", "text");
	unsigned asked = 0;
	struct evict_batch b = {.proof = no_proof, .ctx = &asked};
	enum evict_result result;

	put_entry(f, ino, "f", cache_node(f->cache) + 1);
	assert_int_equal(evict_content(f->cache, &b, ino, &result), 0);
	assert_int_equal(result, EVICT_UNPROVEN);
	assert_int_equal(asked, 1);
	b.proof = proof;
	assert_int_equal(evict_content(f->cache, &b, ino, &result), 0);
	assert_int_equal(result, EVICT_DONE);
	assert_int_equal(asked, 2);
	assert_int_equal(evict_finish(f->cache, &b), 0);
	assert_gone(f, ino);
}

static void a_crash_leaves_what_can_be_cleared_up(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_pushed(f, "f", "text");
	struct evict_batch b = {.proof = no_proof};
	enum evict_result result;

	assert_int_equal(evict_content(f->cache, &b, ino, &result), 0);
	assert_int_equal(result, EVICT_DONE);
	fixture_crash(f);
	assert_int_equal(row_of(f, ino).state, STATE_REMOTE);
	assert_true(has_content(f, ino));
	sweep_all(f);
	assert_gone(f, ino);
	assert_totals(f);
}

static void what_was_fetched_meanwhile_stays(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_pushed(f, "f", "text");
	struct evict_batch b = {.proof = no_proof};
	enum evict_result result;

	assert_int_equal(evict_content(f->cache, &b, ino, &result), 0);
	install(f, ino, "text");
	assert_int_equal(evict_finish(f->cache, &b), 0);
	assert_content(f, ino, "text");
}

/* ---- limits ---- */

static void evict_all(struct fixture *f)
{
	bool more = true;

	f->cache->pass.next_ms = 0;
	while (more)
		assert_int_equal(evict_step(f->cache, no_proof, NULL, &more), 0);
}

static bool is_here(struct fixture *f, uint64_t ino)
{
	return row_of(f, ino).state == STATE_LOCAL;
}

static void next_tick(struct fixture *f)
{
	assert_int_equal(tree_flush_times(f->cache, true), 0);
	atomic_fetch_add(&f->cache->tick, 1);
}

static void the_least_recently_used_goes_first(void **state)
{
	struct fixture *f = *state;
	uint64_t ino[6];

	for (unsigned i = 0; i < 6; i++) {
		char name[8];

		snprintf(name, sizeof(name), "%u", i);
		ino[i] = make_pushed(f, name, "0123456789");
		next_tick(f);
	}
	/* Reading is a use; a restart forgets none that was written down. */
	assert_content(f, ino[0], "0123456789");
	next_tick(f);
	fixture_reopen(f);
	f->cache->cache_size = 30;
	evict_all(f);
	assert_true(is_here(f, ino[0]) && is_here(f, ino[4]) && is_here(f, ino[5]));
	assert_gone(f, ino[1]);
	assert_gone(f, ino[2]);
	assert_gone(f, ino[3]);
	/* A read that is in memory only counts as well; so does a fetch. */
	assert_content(f, ino[4], "0123456789");
	install(f, ino[1], "0123456789");
	f->cache->cache_size = 20;
	evict_all(f);
	assert_true(is_here(f, ino[4]) && is_here(f, ino[1]));
	assert_false(is_here(f, ino[5]) || is_here(f, ino[0]));
	/* At the limit nothing goes. */
	evict_all(f);
	assert_true(is_here(f, ino[4]) && is_here(f, ino[1]));
}

static void what_stays_counts_as_used(void **state)
{
	struct fixture *f = *state;
	uint64_t dirty = make_file(f, ROOT_INO, "dirty", "0123456789"), old, young;
	struct file *reader;

	next_tick(f);
	old = make_pushed(f, "old", "0123456789");
	next_tick(f);
	young = make_pushed(f, "young", "0123456789");
	/* What is written and not sealed is not counted yet. */
	f->cache->cache_size = 10;
	evict_all(f);
	assert_true(is_here(f, dirty) && is_here(f, young));
	assert_gone(f, old);
	assert_true(row_of(f, dirty).used > row_of(f, young).used);
	/* Nothing can go: the next pass waits. */
	f->cache->cache_size = 1;
	assert_int_equal(file_open(f->cache, young, false, false, &reader), 0);
	evict_all(f);
	assert_true(is_here(f, dirty) && is_here(f, young));
	assert_true(f->cache->pass.pause_ms > 0);
	assert_int_equal(f->cache->pass.tick, 0);
	file_release(reader);
}

static void min_free_is_kept(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_pushed(f, "f", "text");

	f->cache->min_free = 1;
	evict_all(f);
	assert_true(is_here(f, ino));
	f->cache->min_free = UINT64_MAX / 2;
	evict_all(f);
	assert_gone(f, ino);
	install(f, ino, "text");
	f->cache->min_free = 0;
	f->cache->min_free_percent = 100;
	evict_all(f);
	assert_gone(f, ino);
}

/* Rows without content files: what is to be seen is how many are looked at. */
static void fill(struct fixture *f, unsigned count)
{
	struct conn *conn = fixture_begin(f);
	char sql[512];

	snprintf(sql, sizeof(sql),
		"WITH RECURSIVE n(i) AS (SELECT 100000 UNION ALL SELECT i + 1 FROM n WHERE i < "
		"99999 + %u) INSERT INTO inode(ino, parent, name, mode, uid, gid, nlink, size,"
		" atime_ns, mtime_ns, ctime_ns, state, dirty, xattrs, generation, sealed, hash,"
		" used) SELECT i, 1, CAST('n' || i AS BLOB), 33188, 0, 0, 1, 10, 0, 0, 0, 1, 0, 0, "
		"1, 1,"
		" zeroblob(32), i FROM n",
		count);
	assert_int_equal(sqlite3_exec(conn->db, sql, NULL, NULL, NULL), SQLITE_OK);
	for (unsigned i = 0; i < count; i++) {
		struct entry e = {.kind = KIND_FILE, .size = 10, .mode = 0644};
		char key[16];

		snprintf(key, sizeof(key), "n%u", 100000 + i);
		e.content_stamp = e.attr_stamp = (struct stamp){1, cache_node(f->cache)};
		assert_int_equal(entry_put(conn, slice_of(key), &e), 0);
	}
	conn_account(conn, 100000, (int)count, (int)count, 10 * (int64_t)count);
	fixture_commit(conn);
	atomic_store(&f->cache->tick, 100000 + count);
}

/* The writer's and the only reader's. */
static int64_t all_steps(struct fixture *f)
{
	assert_non_null(f->cache->idle);
	assert_null(f->cache->idle->next);
	return vm_steps(f->cache->writer) + vm_steps(f->cache->idle);
}

static void the_cost_follows_what_goes(void **state)
{
	struct fixture *f = *state;
	struct conn *conn;
	int64_t small, large;

	fill(f, 100000);
	f->cache->cache_size = 10 * 99900;
	evict_all(f); /* prepares the statements */
	(void)all_steps(f);
	f->cache->cache_size -= 1000;
	evict_all(f);
	small = all_steps(f);
	f->cache->cache_size -= 10000;
	evict_all(f);
	large = all_steps(f);
	assert_true(large > 5 * small && large < 15 * small);
	/* Each costs some hundred steps, not a look at the table. */
	assert_true(small < 100 * 2000);
	assert_totals(f);
	conn = fixture_begin(f);
	assert_int_equal(
		sql_int(conn, "SELECT min(ino) FROM inode WHERE state = 1"), 100000 + 1200);
	cache_rollback(conn);
}

static void times_of_use_cost_no_write_each(void **state)
{
	struct fixture *f = *state;
	uint64_t ino = make_pushed(f, "f", "text"), used = row_of(f, ino).used;
	int changes;

	next_tick(f);
	changes = sqlite3_total_changes(f->cache->writer->db);
	for (unsigned i = 0; i < 100; i++)
		assert_content(f, ino, "text");
	assert_int_equal(tree_flush_times(f->cache, false), 0);
	assert_int_equal(sqlite3_total_changes(f->cache->writer->db), changes);
	assert_int_equal(tree_flush_times(f->cache, true), 0);
	assert_true(row_of(f, ino).used > used);
}

/* ---- against opens ---- */

struct race {
	struct fixture *f;
	uint64_t ino;
	_Atomic bool stop;
	unsigned evicted;
};

static void *evict_on(void *arg)
{
	struct race *race = arg;
	struct evict_batch b = {.proof = no_proof};

	while (!atomic_load(&race->stop)) {
		enum evict_result result = EVICT_DONE;

		CHECK(evict_content(race->f->cache, &b, race->ino, &result) == 0);
		CHECK(evict_finish(race->f->cache, &b) == 0);
		race->evicted += result == EVICT_DONE;
	}
	return NULL;
}

/* Opens, fetching when it must; writes the number, and sees it at the next turn. */
static void a_race_with_writers_loses_nothing(void **state)
{
	struct fixture *f = *state;
	struct race race = {.f = f, .ino = make_pushed(f, "f", "0000")};
	uint64_t troubles[TROUBLE_KINDS] = {0};
	char last[8] = "0000";
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, evict_on, &race), 0);
	for (unsigned i = 1; i <= 300; i++) {
		char got[8] = "", text[8];
		struct file *file;
		int r;

		usleep(200);
		while ((r = file_open(f->cache, race.ino, i % 3 == 0, false, &file)) == -EREMOTE)
			install(f, race.ino, last);
		assert_int_equal(r, 0);
		assert_int_equal(file_read(file, got, 7, 0), 4);
		assert_string_equal(got, last);
		if (i % 3 == 0) {
			snprintf(text, sizeof(text), "%04u", i);
			assert_int_equal(file_write(file, text, 4, 0, false), 4);
			strcpy(last, text);
		}
		file_release(file);
		if (i % 3 == 0)
			put_entry(f, race.ino, "f", cache_node(f->cache));
	}
	atomic_store(&race.stop, true);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(race.evicted > 10);
	cache_troubles(f->cache, NULL, 0, troubles);
	assert_int_equal(troubles[TROUBLE_LOST], 0);
	assert_totals(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(evicted_content_is_fetched_again),
		TEST(what_is_in_use_or_changed_stays),
		TEST(what_a_region_lacks_stays),
		TEST(each_name_counts),
		TEST(content_of_others_needs_a_proof),
		TEST(a_crash_leaves_what_can_be_cleared_up),
		TEST(what_was_fetched_meanwhile_stays),
		TEST(the_least_recently_used_goes_first),
		TEST(what_stays_counts_as_used),
		TEST(min_free_is_kept),
		TEST(the_cost_follows_what_goes),
		TEST(times_of_use_cost_no_write_each),
		TEST(a_race_with_writers_loses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
