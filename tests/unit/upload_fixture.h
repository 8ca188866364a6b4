/* One server's uploads to a bucket in memory, whose store fails where it is told to. */
#ifndef TESTS_UPLOAD_FIXTURE_H
#define TESTS_UPLOAD_FIXTURE_H

#include "tests/unit/replica_fixture.h"

#include "replicator/store/layers.h"
#include "replicator/upload.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "tests/sim/store_mem.h"

enum { PART = 100, SIZE = 1050, PARTS = 11 };

static const struct store_limits small_limits = {
	.put_max = 500, .object_max = 5000, .part_min = 10, .part_max = PART, .parts_max = 50};

/* One server's view of one bucket. */
struct world {
	struct fixture *f;
	unsigned region;
	struct store *mem;
	struct store *store; /* with faults */
	struct uploader uploader;
	char body[SIZE];
	/* faults */
	_Atomic int parts_sent, part_now, part_most;
	int fail_part_after; /* parts that go through; -1: all */
	const char *fail_op; /* every one of these, */
	bool fail_late;	     /* after it was done */
	enum store_result fail_with;
	bool slow;
	bool stop; /* the source's version is not current any more */
};

static inline enum store_result hook(void *ctx, const char *op, const char *key UNUSED, bool done)
{
	struct world *w = ctx;

	if (strcmp(op, "part") == 0 && !done) {
		int now = atomic_fetch_add(&w->part_now, 1) + 1, most = w->part_most;

		while (now > most && !atomic_compare_exchange_weak(&w->part_most, &most, now))
			;
		if (w->slow)
			clock_sleep_ms(20);
		int sent = atomic_fetch_add(&w->parts_sent, 1);
		if (w->fail_part_after >= 0 && sent >= w->fail_part_after) {
			atomic_fetch_sub(&w->part_now, 1);
			return STORE_TRANSIENT;
		}
	} else if (strcmp(op, "part") == 0) {
		atomic_fetch_sub(&w->part_now, 1);
	}
	return w->fail_op && strcmp(op, w->fail_op) == 0 && done == w->fail_late ? w->fail_with
										 : STORE_OK;
}

static inline void start(struct world *w)
{
	assert_int_equal(uploader_init(&w->uploader, w->f->cache, w->store, w->region), 0);
	w->uploader.helpers_max = 3;
	w->parts_sent = w->part_most = 0;
}

static inline void open_bucket(struct world *w, unsigned capabilities)
{
	store_close(w->store);
	w->mem = store_mem_new(capabilities);
	store_mem_set_limits(w->mem, &small_limits);
	atomic_store(&w->mem->capabilities, capabilities);
	w->store = store_fault_new(w->mem, hook, w);
	start(w);
}

static inline int world_setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	void *fixture;

	log_set_level(LOG_LEVEL_ERROR);
	if (!w || fixture_setup_regions(&fixture, &w->region, 1))
		return -1;
	w->f = fixture;
	w->fail_part_after = -1;
	for (size_t i = 0; i < SIZE; i++)
		w->body[i] = (char)(i * 2654435761u >> 24);
	open_bucket(w, STORE_MEM_ALL);
	*state = w;
	return 0;
}

static inline int world_teardown(void **state)
{
	struct world *w = *state;
	void *fixture = w->f;

	store_close(w->store);
	free(w);
	return fixture_teardown(&fixture);
}

/* As after kill -9. */
static inline void restart(struct world *w)
{
	cache_abandon(w->f->cache);
	fixture_open(w->f);
	start(w);
}

static inline bool current(void *ctx)
{
	struct world *w = ctx;

	return !w->stop;
}

/* Puts the body as that version of "big"; hash is its own, base that of the object that is there, both
 * NULL where only what changed cannot be sent. */
static inline enum store_result put_over(struct world *w, const char *version,
	const struct store_condition *condition, const uint8_t *base, const uint8_t *hash)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_memory memory = {w->body, SIZE};
	struct store_source source = store_source_memory(&memory);
	struct store_error error = {0};
	struct store_call call = {0};
	char etag[STORE_ETAG_SIZE] = "";
	const struct upload_request q = {.uploader = &w->uploader,
		.key = slice_of("big"),
		.object = "big",
		.source = &source,
		.meta = &meta,
		.condition = condition,
		.hash = hash,
		.base_hash = base,
		.base_size = base ? SIZE : 0,
		.current = current,
		.ctx = w};

	assert_int_equal(store_meta_set(&meta, "meridian-stamp", version), 0);
	return upload_put(&q, etag, &call, &error);
}

static inline enum store_result put_if(
	struct world *w, const char *version, const struct store_condition *condition)
{
	return put_over(w, version, condition, NULL, NULL);
}

static inline enum store_result put(struct world *w, const char *version)
{
	const struct store_condition none = {0};

	return put_if(w, version, &none);
}

static inline int64_t records(struct world *w)
{
	struct conn *conn = fixture_begin(w->f);
	int64_t n = sql_int(conn, "SELECT count(*) FROM upload");

	assert_int_equal(n, w->uploader.records);
	if (!n)
		assert_int_equal(sql_int(conn, "SELECT count(*) FROM upload_part"), 0);
	cache_rollback(conn);
	return n;
}

static inline void expect_there(struct world *w, const char *version)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};

	assert_int_equal(
		store_get_buf(w->mem, "big", 1 << 20, &b, NULL, &meta, NULL, &error), STORE_OK);
	assert_int_equal(b.len, SIZE);
	assert_memory_equal(b.data, w->body, SIZE);
	assert_string_equal(store_meta_get(&meta, "meridian-stamp"), version);
	assert_int_equal(store_mem_uploads(w->mem), 0);
	assert_int_equal(records(w), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, world_setup, world_teardown)

#endif
