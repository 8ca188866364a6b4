/* Large objects in parts, against a store in memory that fails where it is told to. */
#include "cache/region.h"
#include "tests/unit/replica_fixture.h"

#include "cache/content_map.h"
#include "cache/outbox.h"
#include "cache/upload_record.h"
#include "replicator/object.h"
#include "replicator/store/layers.h"
#include "replicator/upload.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"
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

static enum store_result hook(void *ctx, const char *op, const char *key UNUSED, bool done)
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

static void start(struct world *w)
{
	assert_int_equal(uploader_init(&w->uploader, w->f->cache, w->store, w->region), 0);
	w->uploader.helpers_max = 3;
	w->parts_sent = w->part_most = 0;
}

static void open_bucket(struct world *w, unsigned capabilities)
{
	store_close(w->store);
	w->mem = store_mem_new(capabilities);
	store_mem_set_limits(w->mem, &small_limits);
	atomic_store(&w->mem->capabilities, capabilities);
	w->store = store_fault_new(w->mem, hook, w);
	start(w);
}

static int setup(void **state)
{
	static const char *const names[] = {"east"};
	struct world *w = calloc(1, sizeof(*w));
	struct err err = {0};
	void *fixture;

	log_set_level(LOG_LEVEL_ERROR);
	if (!w || fixture_setup(&fixture))
		return -1;
	w->f = fixture;
	if (region_register(w->f->cache, names, 1, false, &w->region, &err))
		return -1;
	w->fail_part_after = -1;
	for (size_t i = 0; i < SIZE; i++)
		w->body[i] = (char)(i * 2654435761u >> 24);
	open_bucket(w, STORE_MEM_ALL);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	void *fixture = w->f;

	store_close(w->store);
	free(w);
	return fixture_teardown(&fixture);
}

/* As after kill -9. */
static void restart(struct world *w)
{
	cache_abandon(w->f->cache);
	fixture_open(w->f);
	start(w);
}

static bool current(void *ctx)
{
	struct world *w = ctx;

	return !w->stop;
}

static enum store_result put_if(
	struct world *w, const char *version, const struct store_condition *condition)
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
		.current = current,
		.ctx = w};

	assert_int_equal(store_meta_set(&meta, "meridian-stamp", version), 0);
	return upload_put(&q, etag, &call, &error);
}

static enum store_result put(struct world *w, const char *version)
{
	const struct store_condition none = {0};

	return put_if(w, version, &none);
}

static int64_t records(struct world *w)
{
	struct conn *conn = fixture_begin(w->f);
	int64_t n = sql_int(conn, "SELECT count(*) FROM upload");

	assert_int_equal(n, w->uploader.records);
	if (!n)
		assert_int_equal(sql_int(conn, "SELECT count(*) FROM upload_part"), 0);
	cache_rollback(conn);
	return n;
}

static void expect_there(struct world *w, const char *version)
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

static void part_sizes_at_the_limits(void **state UNUSED)
{
	const uint64_t mib = 1 << 20, gib = 1 << 30, tib = UINT64_C(1) << 40;
	const struct store_limits s3 = {.put_max = 5 * gib,
		.object_max = 5 * tib,
		.part_min = 5 * mib,
		.part_max = 5 * gib,
		.parts_max = 10000};
	static const uint64_t size[] = {1, 65 << 20, UINT64_C(160000) << 20,
		(UINT64_C(160000) << 20) + 1, UINT64_C(5) << 40};

	for (size_t i = 0; i < ARRAY_SIZE(size); i++) {
		uint64_t part = upload_part_size(&s3, size[i]);

		assert_true(part >= 16 * mib && part % mib == 0 && part <= s3.part_max);
		assert_true((size[i] + part - 1) / part <= s3.parts_max);
	}
	assert_int_equal(upload_part_size(&s3, size[2]), 16 * mib);
	assert_int_equal(upload_part_size(&s3, size[3]), 17 * mib);
	assert_int_equal(upload_part_size(&s3, 5 * tib), 525 * mib);
	assert_int_equal(upload_part_size(&s3, 5 * tib + 1), 0);
	/* Parts that are no whole MiB, because the store takes no more. */
	struct store_limits tight = {.object_max = 1000, .part_max = 100, .parts_max = 10};
	assert_int_equal(upload_part_size(&tight, 1000), 100);
	tight.object_max = 2000;
	assert_int_equal(upload_part_size(&tight, 1001), 0);
	tight = (struct store_limits){
		.object_max = tib, .part_min = 20 * mib, .part_max = gib, .parts_max = 10};
	assert_int_equal(upload_part_size(&tight, 65 * mib), 20 * mib);
	assert_int_equal(upload_part_size(&tight, 10 * gib), gib);
	assert_int_equal(upload_part_size(&tight, 10 * gib + 1), 0);
}

static void what_goes_in_parts(void **state)
{
	struct world *w = *state;

	assert_false(upload_wanted(w->store, 500));
	assert_true(upload_wanted(w->store, 501));
	atomic_fetch_and(&w->store->capabilities, ~(unsigned)STORE_CAP_UPLOAD);
	assert_false(upload_wanted(w->store, 501));
	open_bucket(w, STORE_MEM_ALL);
	struct store_limits l = small_limits;
	l.put_max = UINT64_C(5) << 30;
	store_mem_set_limits(w->mem, &l);
	assert_false(upload_wanted(w->store, 64 << 20));
	assert_true(upload_wanted(w->store, (64 << 20) + 1));
}

static void parts_become_the_object(void **state)
{
	struct world *w = *state;

	w->slow = true;
	assert_int_equal(put(w, "1-1"), STORE_OK);
	expect_there(w, "1-1");
	assert_int_equal(w->parts_sent, PARTS);
	assert_int_equal(w->part_most, 4);
	assert_int_equal(w->uploader.helpers, 0);
	w->uploader.helpers_max = 1;
	w->part_most = 0;
	assert_int_equal(put(w, "1-2"), STORE_OK);
	assert_int_equal(w->part_most, 2);
	expect_there(w, "1-2");
}

/* After a failure, and after a restart, only what is missing is sent. */
static void goes_on_where_it_was(void **state)
{
	struct world *w = *state;

	w->uploader.helpers_max = 0;
	w->fail_part_after = 4;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	assert_int_equal(store_mem_uploads(w->mem), 1);
	assert_int_equal(records(w), 1);
	w->fail_part_after = 3 + 5; /* one failed above */
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	w->fail_part_after = -1;
	restart(w);
	assert_int_equal(put(w, "1-1"), STORE_OK);
	assert_int_equal(w->parts_sent, PARTS - 4 - 3);
	expect_there(w, "1-1");
}

static void recorded_hashes_are_of_the_parts(void **state)
{
	struct world *w = *state;
	uint8_t want[SHA256_SIZE];
	char hex[SHA256_HEX_SIZE], sql[200];

	w->fail_op = "end";
	w->fail_with = STORE_TRANSIENT;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	struct conn *conn = fixture_begin(w->f);
	for (int i = 0; i < PARTS; i++) {
		size_t len = i + 1 < PARTS ? PART : SIZE - PART * (PARTS - 1);

		sha256(w->body + i * PART, len, want);
		hex_encode(want, sizeof(want), hex);
		snprintf(sql, sizeof(sql),
			"SELECT count(*) FROM upload_part WHERE number = %d AND size = %zu AND"
			" hash = x'%s'",
			i + 1, len, hex);
		assert_int_equal(sql_int(conn, sql), 1);
	}
	cache_rollback(conn);
	w->fail_op = NULL;
	restart(w);
	assert_int_equal(put(w, "1-1"), STORE_OK);
	assert_int_equal(w->parts_sent, 0);
	expect_there(w, "1-1");
}

static void another_version_begins_anew(void **state)
{
	struct world *w = *state;

	w->fail_part_after = 4;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	w->fail_part_after = -1;
	w->parts_sent = 0;
	assert_int_equal(put(w, "2-1"), STORE_OK);
	assert_int_equal(w->parts_sent, PARTS);
	expect_there(w, "2-1");
}

/* The old one could not be aborted: it is not forgotten. */
static void an_abort_that_fails_is_made_up_for(void **state)
{
	struct world *w = *state;

	w->fail_part_after = 4;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	w->fail_part_after = -1;
	w->fail_op = "abort";
	w->fail_with = STORE_TIMEOUT;
	assert_int_equal(put(w, "2-1"), STORE_TIMEOUT);
	assert_int_equal(records(w), 1);
	assert_int_equal(store_mem_uploads(w->mem), 1);
	w->fail_op = NULL;
	assert_int_equal(put(w, "2-1"), STORE_OK);
	expect_there(w, "2-1");
}

static void a_superseded_one_is_aborted(void **state)
{
	struct world *w = *state;

	w->fail_part_after = 4;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	w->fail_part_after = -1;
	w->stop = true;
	assert_int_equal(put(w, "1-1"), STORE_LOCAL);
	assert_int_equal(store_mem_uploads(w->mem), 0);
	assert_int_equal(store_mem_count(w->mem), 0);
	assert_int_equal(records(w), 0);
}

/* Begun, but the answer never came: not known by its id. */
static void a_nameless_one_is_found(void **state)
{
	struct world *w = *state;

	w->fail_op = "begin";
	w->fail_late = true;
	w->fail_with = STORE_TRANSIENT;
	for (int i = 0; i < 3; i++)
		assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	assert_int_equal(store_mem_uploads(w->mem), 1);
	assert_int_equal(records(w), 1);
	w->fail_op = NULL;
	restart(w);
	assert_int_equal(put(w, "1-1"), STORE_OK);
	expect_there(w, "1-1");
}

static void conditions_hold(void **state)
{
	static const unsigned caps[] = {
		STORE_MEM_ALL, STORE_MEM_ALL & ~(unsigned)STORE_CAP_UPLOAD_IF};
	const struct store_condition absent = {.if_absent = true};
	const struct store_condition other = {.if_match = "other"};
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		struct store_error error = {0};
		struct store_object there;

		open_bucket(w, caps[i]);
		assert_int_equal(put_if(w, "1-1", &other), STORE_PRECONDITION);
		assert_int_equal(put_if(w, "1-1", &absent), STORE_OK);
		assert_int_equal(w->parts_sent, PARTS);
		assert_int_equal(put_if(w, "1-1", &absent), STORE_EXISTS);
		assert_int_equal(put_if(w, "1-1", &other), STORE_PRECONDITION);
		/* Another condition is no other version. */
		assert_int_equal(store_head(w->mem, "big", &there, NULL, NULL, &error), STORE_OK);
		const struct store_condition match = {.if_match = there.etag};
		assert_int_equal(put_if(w, "1-1", &match), STORE_OK);
		assert_int_equal(w->parts_sent, 2 * PARTS);
		expect_there(w, "1-1");
	}
}

static void one_that_somebody_aborted_begins_anew(void **state)
{
	struct world *w = *state;
	struct upload_record record;
	struct store_error error = {0};

	w->fail_part_after = 4;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	w->fail_part_after = -1;
	struct conn *conn = fixture_begin(w->f);
	assert_int_equal(upload_record_get(conn, w->region, slice_of("big"), &record), 0);
	cache_rollback(conn);
	assert_int_equal(store_upload_abort(w->mem, "big", record.id, NULL, &error), STORE_OK);
	assert_int_equal(put(w, "1-1"), STORE_ABSENT);
	assert_int_equal(records(w), 0);
	assert_int_equal(put(w, "1-1"), STORE_OK);
	expect_there(w, "1-1");
}

static void what_the_store_refuses_leaves_nothing(void **state)
{
	struct world *w = *state;

	w->fail_op = "end";
	w->fail_with = STORE_TOO_LARGE;
	assert_int_equal(put(w, "1-1"), STORE_TOO_LARGE);
	assert_int_equal(store_mem_uploads(w->mem), 0);
	assert_int_equal(records(w), 0);
}

static void enqueue(struct world *w, const char *key)
{
	struct conn *conn = fixture_begin(w->f);
	struct outbox_change change = {
		.key = slice_of(key), .stamp = {5, 6}, .size = SIZE, .upload = true};

	assert_int_equal(outbox_enqueue(conn, &change), 0);
	fixture_commit(conn);
}

static _Atomic int64_t shift_ms;

static int64_t shifted(void *ctx UNUSED)
{
	return (int64_t)1700000000 * 1000000000 + shift_ms * 1000000;
}

static int64_t still(void *ctx UNUSED)
{
	return 1000;
}

static void sweep(struct world *w)
{
	struct store_error error = {0};
	struct store_call call = {0};

	assert_int_equal(upload_sweep(&w->uploader, true, &call, &error), STORE_OK);
}

/* What has an outbox row is gone on with; what nobody knows goes when it is old. */
static void abandoned_ones_go(void **state)
{
	static const struct clock_source source = {.realtime_ns = shifted, .monotonic_ms = still};
	struct world *w = *state;
	struct store_error error = {0};
	char id[STORE_UPLOAD_ID_SIZE], key[16];

	clock_set_source(&source);
	w->fail_part_after = 4;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	enqueue(w, "big");
	for (int i = 0; i < 100; i++) { /* more than are taken at once */
		snprintf(key, sizeof(key), "old%d", i);
		assert_int_equal(store_upload_begin(w->mem, key, NULL, id, NULL, &error), STORE_OK);
	}
	assert_int_equal(store_upload_begin(w->mem, "big", NULL, id, NULL, &error), STORE_OK);
	sweep(w);
	assert_int_equal(store_mem_uploads(w->mem), 102);
	shift_ms = INT64_C(6) * 24 * 3600 * 1000;
	assert_int_equal(store_upload_begin(w->mem, "new", NULL, id, NULL, &error), STORE_OK);
	shift_ms += INT64_C(25) * 3600 * 1000;
	sweep(w);
	assert_int_equal(store_mem_uploads(w->mem), 2); /* ours and the new one */
	assert_int_equal(records(w), 1);
	struct conn *conn = fixture_begin(w->f);
	assert_int_equal(outbox_drop(conn, slice_of("big")), 0);
	fixture_commit(conn);
	sweep(w);
	assert_int_equal(store_mem_uploads(w->mem), 1);
	assert_int_equal(records(w), 0);
	clock_set_source(NULL);
}

static void a_settled_key_has_no_upload(void **state)
{
	struct world *w = *state;
	struct store_call call = {0};

	w->fail_part_after = 4;
	assert_int_equal(put(w, "1-1"), STORE_TRANSIENT);
	upload_settled(&w->uploader, slice_of("other"), &call);
	assert_int_equal(records(w), 1);
	upload_settled(&w->uploader, slice_of("big"), &call);
	assert_int_equal(records(w), 0);
	assert_int_equal(store_mem_uploads(w->mem), 0);
}

/* ---- through object.c ---- */

static int open_body(void *ctx, struct store_source *ret)
{
	static struct store_memory memory;
	struct world *w = ctx;

	memory = (struct store_memory){w->body, SIZE};
	*ret = store_source_memory(&memory);
	return 0;
}

static int open_text(void *ctx, struct store_source *ret)
{
	*ret = *(struct store_source *)ctx;
	return 0;
}

static enum store_result deliver(
	struct world *w, uint64_t time, uint64_t node, bool fresh, bool *superseded)
{
	CLEANUP(entry_done)
	struct entry e = {.kind = KIND_FILE,
		.size = SIZE,
		.content_stamp = {time, node},
		.mode = 0640,
		.attr_stamp = {time, node}};
	struct store_call call = {0};
	struct store_error error = {0};
	struct object_outcome outcome;
	struct object_request q = {.store = w->store,
		.uploader = &w->uploader,
		.call = &call,
		.key = slice_of("big"),
		.entry = &e,
		.fresh = fresh,
		.open = open_body,
		.ctx = w};

	sha256(w->body, SIZE, e.hash);
	vector_raise(&e.vector, e.content_stamp);
	enum store_result r = object_deliver(&q, &outcome, &error);
	if (superseded)
		*superseded = outcome.superseded;
	return r;
}

static void expect_entry(struct world *w, uint64_t time)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(object_entry_done) struct object_entry e = {0};
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};

	assert_int_equal(
		store_get_buf(w->mem, "big", 1 << 20, &b, NULL, &meta, NULL, &error), STORE_OK);
	assert_int_equal(object_meta_to_entry(&meta, b.len, false, &e), 0);
	assert_int_equal(e.entry.content_stamp.time, time);
	assert_memory_equal(b.data, w->body, SIZE);
}

/* The object is what one put would have made, with conditions and without. */
static void delivered_as_any_object(void **state)
{
	static const unsigned caps[] = {
		STORE_MEM_ALL, STORE_MEM_ALL & ~(unsigned)STORE_CAP_UPLOAD_IF};
	struct world *w = *state;
	bool superseded;

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		open_bucket(w, caps[i]);
		assert_int_equal(deliver(w, 50 << 16, 1, true, &superseded), STORE_OK);
		assert_false(superseded);
		expect_entry(w, 50 << 16);
		w->body[7]++;
		assert_int_equal(deliver(w, 60 << 16, 1, true, &superseded), STORE_OK);
		expect_entry(w, 60 << 16);
		assert_int_equal(w->parts_sent, 2 * PARTS);
		w->body[7]++;
		assert_int_equal(deliver(w, 55 << 16, 2, true, &superseded), STORE_OK);
		assert_true(superseded);
		w->body[7]--;
		expect_entry(w, 60 << 16);
	}
}

static void a_lost_end_is_looked_for(void **state)
{
	struct world *w = *state;
	struct store_call call = {0};

	w->fail_op = "end";
	w->fail_late = true;
	w->fail_with = STORE_UNKNOWN;
	assert_int_equal(deliver(w, 50 << 16, 1, true, NULL), STORE_UNKNOWN);
	w->fail_op = NULL;
	restart(w);
	assert_int_equal(deliver(w, 50 << 16, 1, true, NULL), STORE_OK);
	upload_settled(&w->uploader, slice_of("big"), &call);
	assert_int_equal(records(w), 0);
	assert_int_equal(w->parts_sent, 0);
	expect_entry(w, 50 << 16);
}

/* A store whose one copy takes no more than one put. */
static enum store_result refuse_copies(
	void *ctx, const char *op, const char *key UNUSED, bool done UNUSED)
{
	struct world *w = ctx;

	return w->mem && strcmp(op, "copy") == 0 ? STORE_UNSUPPORTED : STORE_OK;
}

static int count_key(void *ctx, const char *key UNUSED, const struct store_object *object)
{
	assert_int_equal(object->size, SIZE);
	++*(int *)ctx;
	return 0;
}

/* New attributes, and the copy to the trash, of what is too large for one copy. */
static void copied_in_parts(void **state)
{
	static const unsigned caps[] = {
		STORE_MEM_ALL, STORE_MEM_ALL & ~(unsigned)STORE_CAP_UPLOAD_IF};
	struct world *w = *state;
	struct store_error error = {0};

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		CLEANUP(entry_done) struct entry gone = {.content_stamp = {70 << 16, 1}};
		struct store_call call = {0};
		struct object_outcome outcome;
		int kept = 0;

		open_bucket(w, caps[i]);
		w->store = store_fault_new(w->store, refuse_copies, w);
		start(w);
		assert_int_equal(deliver(w, 50 << 16, 1, false, NULL), STORE_OK);
		assert_int_equal(deliver(w, 60 << 16, 1, false, NULL), STORE_OK);
		assert_int_equal(w->parts_sent, PARTS);
		expect_entry(w, 60 << 16);
		struct object_request q = {.store = w->store,
			.uploader = &w->uploader,
			.call = &call,
			.key = slice_of("big"),
			.entry = &gone};
		assert_int_equal(object_deliver(&q, &outcome, &error), STORE_OK);
		assert_int_equal(store_list(w->mem, ".meridian/trash/", NULL, 0, count_key, &kept,
					 NULL, &error),
			STORE_OK);
		assert_int_equal(kept, 1);
		assert_int_equal(store_mem_count(w->mem), 1);
		assert_int_equal(store_mem_uploads(w->mem), 0);
	}
}

static void a_copy_of_another_version_is_not_made(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct world *w = *state;
	struct store_call call = {0};
	struct store_error error = {0};

	assert_int_equal(put(w, "1-1"), STORE_OK);
	assert_true(upload_copy_wanted(w->store, SIZE));
	assert_false(upload_copy_wanted(w->store, 500));
	assert_int_equal(
		upload_copy(&w->uploader, "big", SIZE, "other", "big", &meta, NULL, NULL, &call, &error),
		STORE_PRECONDITION);
	expect_there(w, "1-1");
	atomic_fetch_and(&w->store->capabilities,
		~(unsigned)(STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD_IF));
	assert_int_equal(
		upload_copy(&w->uploader, "big", SIZE, "other", "big", &meta, NULL, NULL, &call, &error),
		STORE_PRECONDITION);
	expect_there(w, "1-1");
}

static enum store_result replace_source(
	void *ctx, const char *op, const char *key UNUSED, bool done)
{
	struct world *w = ctx;
	struct store_error error = {0};

	if (strcmp(op, "copy") != 0)
		return STORE_OK;
	if (done)
		return w->fail_with;
	return store_put_buf(w->mem, "from", "a new file", 10, NULL, NULL, NULL, NULL, &error);
}

static enum store_result deliver_text(struct world *w, const char *key, const char *text, bool moved)
{
	CLEANUP(entry_done)
	struct entry e = {.kind = KIND_FILE,
		.size = strlen(text),
		.content_stamp = {50 << 16, 1},
		.attr_stamp = {50 << 16, 1}};
	struct store_memory memory = {text, strlen(text)};
	struct store_source source = store_source_memory(&memory);
	struct store_call call = {0};
	struct store_error error = {0};
	struct object_outcome outcome;
	struct object_request q = {.store = w->store,
		.call = &call,
		.key = slice_of(key),
		.entry = &e,
		.open = open_text,
		.ctx = &source};

	if (moved)
		q.sources[0] = (struct object_source){.store = w->store, .key = "from"};
	sha256(text, strlen(text), e.hash);
	vector_raise(&e.vector, e.content_stamp);
	return object_deliver(&q, &outcome, &error);
}

/* The former name of a file has another file by the time of the copy, and the store knows no condition.
 * Also when the daemon ends before it has looked. */
static void a_copy_of_what_came_meanwhile_is_replaced(void **state)
{
	struct world *w = *state;

	for (unsigned killed = 0; killed < 2; killed++) {
		CLEANUP(buf_done) struct buf b = {0};
		struct store_error error = {0};

		open_bucket(w, STORE_MEM_ALL &
				       ~(unsigned)(STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD_IF));
		assert_int_equal(deliver_text(w, "from", "the renamed file", false), STORE_OK);
		w->store = store_fault_new(w->store, replace_source, w);
		w->fail_with = killed ? STORE_UNKNOWN : STORE_OK;
		assert_int_equal(deliver_text(w, "to", "the renamed file", true), w->fail_with);
		w->fail_with = STORE_OK;
		assert_int_equal(deliver_text(w, "to", "the renamed file", true), STORE_OK);
		assert_int_equal(
			store_get_buf(w->mem, "to", 1 << 20, &b, NULL, NULL, NULL, &error), STORE_OK);
		assert_int_equal(b.len, 16);
		assert_memory_equal(b.data, "the renamed file", 16);
	}
}

/* ---- only what changed ---- */

static void hash_body(struct world *w, uint8_t hash[SHA256_SIZE])
{
	struct content_mapper m;

	sha256(w->body, SIZE, hash);
	content_mapper_begin(&m, SIZE, 1024); /* blocks of 16 bytes */
	content_mapper_add(&m, w->body, SIZE);
	content_map_keep(w->f->cache, &m, 7, hash);
}

/* The object that is there, of version 1-1, gets 20 other bytes from 500 on. */
static void prepare_change(struct world *w, uint8_t base[SHA256_SIZE], uint8_t hash[SHA256_SIZE],
	char etag[STORE_ETAG_SIZE])
{
	struct store_object object;
	struct store_error error = {0};

	hash_body(w, base);
	assert_int_equal(put(w, "1-1"), STORE_OK);
	assert_int_equal(store_head(w->mem, "big", &object, NULL, NULL, &error), STORE_OK);
	memcpy(etag, object.etag, STORE_ETAG_SIZE);
	memset(w->body + 500, 'x', 20);
	hash_body(w, hash);
	w->parts_sent = 0;
}

static enum store_result put_change(struct world *w, const uint8_t base[SHA256_SIZE],
	const uint8_t hash[SHA256_SIZE], const char *match)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	const struct store_condition condition = {.if_match = match};
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
		.condition = &condition,
		.hash = hash,
		.base_hash = base,
		.base_size = SIZE,
		.current = current,
		.ctx = w};

	assert_int_equal(store_meta_set(&meta, "meridian-stamp", "1-2"), 0);
	return upload_put(&q, etag, &call, &error);
}

static void only_what_changed_is_sent(void **state)
{
	static const unsigned without[] = {0, STORE_CAP_COPY_IF_MATCH, STORE_CAP_UPLOAD_IF,
		STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD_IF};

	for (size_t i = 0; i < ARRAY_SIZE(without); i++) {
		uint8_t base[SHA256_SIZE], hash[SHA256_SIZE];
		char etag[STORE_ETAG_SIZE];
		struct world *w = *state;
		uint64_t copied = metric_get(METRIC_BYTES_COPIED);

		open_bucket(w, STORE_MEM_ALL & ~without[i]);
		prepare_change(w, base, hash, etag);
		assert_int_equal(put_change(w, base, hash, etag), STORE_OK);
		assert_int_equal(w->parts_sent, 1);
		assert_int_equal(metric_get(METRIC_BYTES_COPIED) - copied, SIZE - 32);
		expect_there(w, "1-2");
		memset(w->body + 490, (int)i, 40); /* other content for the next round */
	}
}

static void what_cannot_be_copied_is_sent(void **state)
{
	uint8_t base[SHA256_SIZE], hash[SHA256_SIZE];
	char etag[STORE_ETAG_SIZE];
	struct world *w = *state;

	prepare_change(w, base, hash, etag);
	w->fail_op = "part copy";
	w->fail_with = STORE_UNSUPPORTED;
	assert_int_equal(put_change(w, base, hash, etag), STORE_OK);
	w->fail_op = NULL;
	assert_true(w->parts_sent > 10);
	expect_there(w, "1-2");
}

/* Somebody else's object took the place of the one that was compared with: nothing of it may get into
 * ours. */
static void another_object_is_not_mixed_in(void **state)
{
	static const unsigned without[] = {0, STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD_IF};

	for (size_t i = 0; i < ARRAY_SIZE(without); i++) {
		uint8_t base[SHA256_SIZE], hash[SHA256_SIZE];
		char etag[STORE_ETAG_SIZE], other[SIZE];
		struct store_error error = {0};
		struct world *w = *state;
		CLEANUP(buf_done) struct buf b = {0};

		open_bucket(w, STORE_MEM_ALL & ~without[i]);
		prepare_change(w, base, hash, etag);
		memset(other, 'o', sizeof(other));
		assert_int_equal(store_put_buf(w->mem, "big", other, 400, NULL, NULL, NULL, NULL,
					 &error),
			STORE_OK);
		assert_int_equal(put_change(w, base, hash, etag), STORE_PRECONDITION);
		assert_int_equal(
			store_get_buf(w->mem, "big", 1 << 20, &b, NULL, NULL, NULL, &error),
			STORE_OK);
		assert_int_equal(b.len, 400);
		upload_settled(&w->uploader, slice_of("big"), &(struct store_call){0});
		memset(w->body + 490, (int)i, 40);
	}
}

/* Parts that were copied are not trusted after an interruption. */
static void one_that_copies_starts_over(void **state)
{
	uint8_t base[SHA256_SIZE], hash[SHA256_SIZE];
	char etag[STORE_ETAG_SIZE];
	struct world *w = *state;

	prepare_change(w, base, hash, etag);
	w->fail_op = "end";
	w->fail_with = STORE_TRANSIENT;
	assert_int_equal(put_change(w, base, hash, etag), STORE_TRANSIENT);
	assert_int_equal(records(w), 1);
	w->fail_op = NULL;
	restart(w);
	assert_int_equal(put_change(w, base, hash, etag), STORE_OK);
	assert_int_equal(w->parts_sent, 1);
	expect_there(w, "1-2");
}

static void no_plan_without_a_comparison(void **state)
{
	uint8_t base[SHA256_SIZE], hash[SHA256_SIZE], unknown[SHA256_SIZE] = {1};
	char etag[STORE_ETAG_SIZE];
	struct world *w = *state;

	prepare_change(w, base, hash, etag);
	assert_int_equal(put_change(w, unknown, hash, etag), STORE_OK);
	assert_int_equal(w->parts_sent, PARTS);
	expect_there(w, "1-2");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(part_sizes_at_the_limits),
		TEST(what_goes_in_parts),
		TEST(parts_become_the_object),
		TEST(goes_on_where_it_was),
		TEST(recorded_hashes_are_of_the_parts),
		TEST(another_version_begins_anew),
		TEST(an_abort_that_fails_is_made_up_for),
		TEST(a_superseded_one_is_aborted),
		TEST(a_nameless_one_is_found),
		TEST(conditions_hold),
		TEST(one_that_somebody_aborted_begins_anew),
		TEST(what_the_store_refuses_leaves_nothing),
		TEST(abandoned_ones_go),
		TEST(a_settled_key_has_no_upload),
		TEST(delivered_as_any_object),
		TEST(a_lost_end_is_looked_for),
		TEST(copied_in_parts),
		TEST(a_copy_of_another_version_is_not_made),
		TEST(a_copy_of_what_came_meanwhile_is_replaced),
		TEST(only_what_changed_is_sent),
		TEST(what_cannot_be_copied_is_sent),
		TEST(another_object_is_not_mixed_in),
		TEST(one_that_copies_starts_over),
		TEST(no_plan_without_a_comparison),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
