/* Uploads that nobody goes on with are aborted, those whose id was never learned too; others stay. */
#include "tests/unit/upload_fixture.h"

#include "cache/outbox.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_abort_that_fails_is_made_up_for),
		TEST(a_superseded_one_is_aborted),
		TEST(a_nameless_one_is_found),
		TEST(what_the_store_refuses_leaves_nothing),
		TEST(abandoned_ones_go),
		TEST(a_settled_key_has_no_upload),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
