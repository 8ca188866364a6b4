/* Lost answers and passing failures: retry over fault over the store under test. */
#include "tests/contract/contract.h"

/* Fails the nth call of op (from 0) and the next ones, times in all. */
struct plan {
	const char *op;
	bool after;
	enum store_result with;
	atomic_int times;
	atomic_int calls;
};

static enum store_result hook(void *ctx, const char *op, const char *key, bool did_happen)
{
	struct plan *p = ctx;

	if (strcmp(op, p->op) || did_happen != p->after)
		return STORE_OK;
	atomic_fetch_add(&p->calls, 1);
	return atomic_fetch_sub(&p->times, 1) > 0 ? p->with : STORE_OK;
}

/* A second handle on the same store, for s3 and directories; a memory store of its own otherwise.
 */
static struct store *over(struct plan *p)
{
	struct store *inner = contract_open();

	assert_non_null(inner);
	/* As the probe would set it: conditions go through the layers unhindered. */
	return store_retry_new(store_fault_new(inner, hook, p), 4, 60000);
}

static void set_mark(struct store_meta *m, const char *value)
{
	assert_int_equal(store_meta_set(m, "mark", value), 0);
}

static void passing_failures_are_repeated(void **state)
{
	struct plan p = {.op = "put", .with = STORE_TRANSIENT, .times = 2};
	struct store *s = over(&p);

	expect(STORE_OK, store_put_buf(s, key_of("repeat"), "x", 1, NULL, NULL, NULL, NULL, E));
	assert_int_equal(p.calls, 3);
	p.op = "get";
	p.times = 2;
	p.after = true;
	CLEANUP(buf_done) struct buf b = {0};
	expect(STORE_OK, store_get_buf(s, key_of("repeat"), 10, &b, NULL, NULL, NULL, E));
	/* The sink was reset before each repeat. */
	assert_int_equal(b.len, 1);
	p.op = "head";
	p.times = 4;
	expect(STORE_TRANSIENT, store_head(s, key_of("repeat"), NULL, NULL, NULL, E));
	expect(STORE_OK, store_remove(s, key_of("repeat"), NULL, NULL, E));
	store_close(s);
}

/* The answer of a put that happened is lost: one put only, and its ETag is known. */
static void lost_answer_of_put(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct plan p = {.op = "put", .after = true, .with = STORE_UNKNOWN, .times = 1};
	const struct store_condition absent = {.if_absent = true};
	struct store_object object = {0};
	char etag[STORE_ETAG_SIZE] = "";
	struct store *s = over(&p);

	set_mark(&meta, "1");
	expect(STORE_OK, store_put_buf(s, key_of("lost"), "x", 1, &meta, NULL, etag, NULL, E));
	assert_int_equal(p.calls, 1);
	expect(STORE_OK, store_head(s, key_of("lost"), &object, NULL, NULL, E));
	assert_string_equal(etag, object.etag);
	/* if_absent: ours, although something is there now. */
	p.times = 1;
	p.calls = 0;
	if (capabilities & STORE_CAP_PUT_IF_ABSENT) {
		expect(STORE_OK,
			store_put_buf(s, key_of("lost2"), "x", 1, &meta, &absent, etag, NULL, E));
		assert_int_equal(p.calls, 1);
		/* Somebody else's of the same size is not ours. */
		set_mark(&meta, "2");
		expect(STORE_EXISTS,
			store_put_buf(s, key_of("lost2"), "x", 1, &meta, &absent, etag, NULL, E));
		/* The same without metadata: the bodies tell. */
		p.times = 1;
		expect(STORE_OK,
			store_put_buf(s, key_of("lost3"), "xy", 2, NULL, &absent, etag, NULL, E));
	}
	expect(STORE_OK, store_remove(s, key_of("lost"), NULL, NULL, E));
	expect(STORE_OK, store_remove(s, key_of("lost2"), NULL, NULL, E));
	expect(STORE_OK, store_remove(s, key_of("lost3"), NULL, NULL, E));
	store_close(s);
}

/* A put that was lost on its way: HEAD shows nothing, so it is sent again. */
static void lost_put(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(buf_done) struct buf b = {0};
	struct plan p = {.op = "put", .with = STORE_UNKNOWN, .times = 1};
	const struct store_condition absent = {.if_absent = true};
	struct store *s = over(&p);

	set_mark(&meta, "1");
	expect(STORE_OK,
		store_put_buf(s, key_of("lost/put"), "x", 1, &meta,
			capabilities & STORE_CAP_PUT_IF_ABSENT ? &absent : NULL, NULL, NULL, E));
	assert_int_equal(p.calls, 2);
	expect(STORE_OK, store_get_buf(s, key_of("lost/put"), 10, &b, NULL, NULL, NULL, E));
	p.times = 10;
	set_mark(&meta, "2");
	expect(STORE_UNKNOWN,
		store_put_buf(s, key_of("lost/put"), "y", 1, &meta, NULL, NULL, NULL, E));
	p.times = 0;
	expect(STORE_OK, store_remove(s, key_of("lost/put"), NULL, NULL, E));
	store_close(s);
}

static void lost_answer_of_replacement(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct plan p = {.op = "put", .after = true, .with = STORE_UNKNOWN};
	struct store_object object = {0};
	char etag[STORE_ETAG_SIZE] = "";
	struct store *s = over(&p);

	need(STORE_CAP_PUT_IF_MATCH);
	set_mark(&meta, "1");
	expect(STORE_OK,
		store_put_buf(s, key_of("lost/match"), "1", 1, &meta, NULL, NULL, NULL, E));
	expect(STORE_OK, store_head(s, key_of("lost/match"), &object, NULL, NULL, E));
	struct store_condition match = {.if_match = object.etag};
	p.times = 1;
	p.calls = 0;
	set_mark(&meta, "2");
	expect(STORE_OK,
		store_put_buf(s, key_of("lost/match"), "2", 1, &meta, &match, etag, NULL, E));
	assert_int_equal(p.calls, 1);
	expect(STORE_OK, store_head(s, key_of("lost/match"), &object, NULL, NULL, E));
	assert_string_equal(etag, object.etag);
	expect(STORE_OK, store_remove(s, key_of("lost/match"), NULL, NULL, E));
	store_close(s);
}

static void lost_answer_of_remove_and_copy(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct plan p = {.op = "remove", .after = true, .with = STORE_UNKNOWN, .times = 1};
	struct store *s = over(&p);

	expect(STORE_OK, store_put_buf(s, key_of("lost/gone"), "x", 1, NULL, NULL, NULL, NULL, E));
	expect(STORE_OK, store_remove(s, key_of("lost/gone"), NULL, NULL, E));
	assert_int_equal(p.calls, 1);
	expect(STORE_OK, store_put_buf(s, key_of("lost/gone"), "x", 1, NULL, NULL, NULL, NULL, E));
	p.after = false;
	p.times = 1;
	p.calls = 0;
	expect(STORE_OK, store_remove(s, key_of("lost/gone"), NULL, NULL, E));
	assert_int_equal(p.calls, 2);
	expect(STORE_ABSENT, store_head(s, key_of("lost/gone"), NULL, NULL, NULL, E));
	if (capabilities & STORE_CAP_COPY) {
		p.op = "copy";
		p.after = true;
		p.times = 1;
		p.calls = 0;
		set_mark(&meta, "copied");
		expect(STORE_OK,
			store_put_buf(s, key_of("lost/from"), "x", 1, NULL, NULL, NULL, NULL, E));
		expect(STORE_OK, store_copy(s, key_of("lost/from"), key_of("lost/to"), &meta, NULL,
					 NULL, NULL, E));
		assert_int_equal(p.calls, 1);
		expect(STORE_OK, store_remove(s, key_of("lost/from"), NULL, NULL, E));
		expect(STORE_OK, store_remove(s, key_of("lost/to"), NULL, NULL, E));
	}
	store_close(s);
}

const struct CMUnitTest layer_cases[] = {
	cmocka_unit_test(passing_failures_are_repeated),
	cmocka_unit_test(lost_answer_of_put),
	cmocka_unit_test(lost_put),
	cmocka_unit_test(lost_answer_of_replacement),
	cmocka_unit_test(lost_answer_of_remove_and_copy),
};
const size_t layer_case_count = ARRAY_SIZE(layer_cases);
