/* Large objects in parts: what goes so, what is sent again after a failure, and what is copied. */
#include "tests/unit/upload_fixture.h"

#include "cache/content_map.h"
#include "cache/upload_record.h"
#include "src/base/metrics.h"

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
	const struct store_condition condition = {.if_match = match};

	return put_over(w, "1-2", &condition, base, hash);
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
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(part_sizes_at_the_limits),
		TEST(what_goes_in_parts),
		TEST(parts_become_the_object),
		TEST(goes_on_where_it_was),
		TEST(recorded_hashes_are_of_the_parts),
		TEST(another_version_begins_anew),
		TEST(conditions_hold),
		TEST(one_that_somebody_aborted_begins_anew),
		TEST(only_what_changed_is_sent),
		TEST(what_cannot_be_copied_is_sent),
		TEST(another_object_is_not_mixed_in),
		TEST(one_that_copies_starts_over),
		TEST(no_plan_without_a_comparison),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
