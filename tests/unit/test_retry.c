/* The retry layer under a virtual clock: what is repeated, how long it waits, what it makes of
 * unknown outcomes. */
#include <errno.h>
#include <stdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/store/layers.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/random.h"
#include "tests/sim/store_mem.c"

/* A store whose answers are scripted: one letter a call. '-' lets the call through, capitals let it
 * happen and replace the answer. t transient, T throttled with retry-after, d denied, u unknown
 * (not happened), U unknown (happened), b breaks a body off after its first byte. */
struct script {
	struct store s;
	const char *ops; /* "put:uu-;head:-" */
	char log[256];
	int64_t retry_after_ms;
	unsigned delivered; /* keys that a broken listing delivers */
};

static int64_t now_ms, slept_ms, longest_ms;
static atomic_bool cancel;
static int64_t cancel_at;

static int64_t fake_realtime(void *ctx)
{
	return now_ms * 1000000;
}

static int64_t fake_monotonic(void *ctx)
{
	return now_ms;
}

static void fake_sleep(void *ctx, int64_t ms)
{
	now_ms += ms;
	slept_ms += ms;
	longest_ms = ms > longest_ms ? ms : longest_ms;
	if (cancel_at && now_ms >= cancel_at)
		atomic_store(&cancel, true);
}

static int setup(void **state)
{
	static const struct clock_source fake = {.realtime_ns = fake_realtime,
		.monotonic_ms = fake_monotonic,
		.sleep_ms = fake_sleep};

	clock_set_source(&fake);
	random_seed_deterministic(7);
	now_ms = 1000000;
	slept_ms = longest_ms = cancel_at = 0;
	atomic_store(&cancel, false);
	return 0;
}

static int teardown(void **state)
{
	clock_set_source(NULL);
	random_use_system();
	return 0;
}

/* The next letter for op, '-' when its script has ended. */
static char next(struct store *s, const char *op)
{
	struct script *p = (struct script *)s;
	const char *at = strstr(p->ops, op);
	unsigned n = 0;

	for (const char *l = p->log; (l = strstr(l, op)); l += strlen(op))
		n++;
	strncat(p->log, op, sizeof(p->log) - strlen(p->log) - 1);
	strncat(p->log, " ", sizeof(p->log) - strlen(p->log) - 1);
	if (!at)
		return '-';
	at += strlen(op) + 1;
	for (; n > 0 && *at && *at != ';'; n--)
		at++;
	return *at && *at != ';' ? *at : '-';
}

static enum store_result failure(struct store *s, char c, struct store_error *error)
{
	if (c == 'T') {
		error->retry_after_ms = ((struct script *)s)->retry_after_ms;
		return store_error_set(error, STORE_THROTTLED, "scripted");
	}
	if (c == 'd')
		return store_error_set(error, STORE_DENIED, "scripted");
	return store_error_set(error, c == 'u' ? STORE_UNKNOWN : STORE_TRANSIENT, "scripted");
}

static enum store_result script_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	char c = next(s, "get");

	if (c == 'b') {
		assert_int_equal(sink->write(sink->ctx, "?", 1), 0);
		return STORE_TRANSIENT;
	}
	return c == '-' ? store_get(s->inner, key, offset, length, if_match, sink, object, meta,
				  call, error)
			: failure(s, c, error);
}

static enum store_result script_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	char c = next(s, "put");

	if (c == '-')
		return store_put(s->inner, key, source, meta, condition, etag, call, error);
	if (c == 'U') {
		assert_int_equal(
			store_put(s->inner, key, source, meta, condition, NULL, call, error),
			STORE_OK);
		return STORE_UNKNOWN;
	}
	return failure(s, c, error);
}

static enum store_result script_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	char c = next(s, "head");

	/* 'x': another server's object lands between a lost put and the look at it. */
	if (c == 'x') {
		assert_int_equal(store_put_buf(s->inner, key, "z", 1, NULL, NULL, NULL, NULL, NULL),
			STORE_OK);
		c = '-';
	}
	return c == '-' ? store_head(s->inner, key, object, meta, call, error)
			: failure(s, c, error);
}

struct broken_list {
	store_list_fn fn;
	void *ctx;
	unsigned left;
};

static int broken_item(void *ctx, const char *key, const struct store_object *object)
{
	struct broken_list *l = ctx;

	if (l->left-- == 0)
		return 1;
	return l->fn(l->ctx, key, object);
}

static enum store_result script_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	struct script *p = (struct script *)s;
	struct broken_list l = {.fn = fn, .ctx = ctx, .left = p->delivered};

	if (next(s, "list") == '-')
		return store_list(s->inner, prefix, start_after, limit, fn, ctx, call, error);
	assert_int_equal(
		store_list(s->inner, prefix, start_after, limit, broken_item, &l, call, error),
		STORE_OK);
	return STORE_TRANSIENT;
}

static enum store_result script_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	char c = next(s, "remove");

	if (c == '-')
		return store_remove(s->inner, key, if_match, call, error);
	if (c == 'U') {
		assert_int_equal(store_remove(s->inner, key, if_match, call, error), STORE_OK);
		return STORE_UNKNOWN;
	}
	return failure(s, c, error);
}

static enum store_result script_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	char c = next(s, u->step == STORE_UPLOAD_END ? "end" : "part");

	if (c == '-')
		return s->inner->ops->upload(s->inner, u, call, error);
	if (c == 'U') {
		assert_int_equal(s->inner->ops->upload(s->inner, u, call, error), STORE_OK);
		return STORE_UNKNOWN;
	}
	return failure(s, c, error);
}

static void script_close(struct store *s)
{
	store_close(s->inner);
}

static const struct store_ops script_ops = {
	.name = "script",
	.get = script_get,
	.put = script_put,
	.head = script_head,
	.list = script_list,
	.remove = script_remove,
	.upload = script_upload,
	.close = script_close,
};

static struct store *scripted(struct script *p, const char *ops)
{
	*p = (struct script){.ops = ops};
	p->s.ops = &script_ops;
	p->s.inner = store_mem_new(STORE_MEM_ALL);
	atomic_store(&p->s.capabilities, STORE_MEM_ALL);
	return store_retry_new(&p->s, 4, 60000);
}

static void mark(struct store_meta *m, const char *value)
{
	assert_int_equal(store_meta_set(m, "mark", value), 0);
}

static enum store_result put(struct store *s, const char *body, const char *value,
	const struct store_condition *condition)
{
	CLEANUP(store_meta_done) struct store_meta m = {0};

	if (value)
		mark(&m, value);
	return store_put_buf(s, "k", body, strlen(body), &m, condition, NULL, NULL, NULL);
}

static void repeats_until_it_works(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "put:ttt");

	assert_int_equal(put(s, "x", "1", NULL), STORE_OK);
	assert_string_equal(p.log, "put put put put ");
	/* Full jitter: at most 100 + 200 + 400, and not nothing at all. */
	assert_in_range(slept_ms, 1, 700);
	store_close(s);
}

static void gives_up_after_its_attempts(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "head:tttttt");

	assert_int_equal(store_head(s, "k", NULL, NULL, NULL, NULL), STORE_TRANSIENT);
	assert_string_equal(p.log, "head head head head ");
	store_close(s);
}

static void answers_are_not_repeated(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "put:d;get:d");
	CLEANUP(buf_done) struct buf b = {0};

	assert_int_equal(put(s, "x", "1", NULL), STORE_DENIED);
	assert_int_equal(store_get_buf(s, "k", 1, &b, NULL, NULL, NULL, NULL), STORE_DENIED);
	assert_int_equal(store_get_buf(s, "k", 1, &b, NULL, NULL, NULL, NULL), STORE_ABSENT);
	assert_string_equal(p.log, "put get get ");
	assert_int_equal(slept_ms, 0);
	store_close(s);
}

static void waits_as_long_as_asked(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "head:T");

	p.retry_after_ms = 7000;
	assert_int_equal(store_head(s, "k", NULL, NULL, NULL, NULL), STORE_ABSENT);
	assert_in_range(slept_ms, 7000, 7100);
	store_close(s);
	s = scripted(&p, "head:T");
	slept_ms = 0;
	p.retry_after_ms = 3600000;
	assert_int_equal(store_head(s, "k", NULL, NULL, NULL, NULL), STORE_ABSENT);
	assert_in_range(slept_ms, 30000, 30100);
	store_close(s);
}

static void deadline_ends_it(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "head:TTT");
	struct store_call call = {.deadline_ms = now_ms + 5000};

	p.retry_after_ms = 6000;
	assert_int_equal(store_head(s, "k", NULL, NULL, &call, NULL), STORE_THROTTLED);
	assert_int_equal(slept_ms, 0);
	assert_string_equal(p.log, "head ");
	store_close(s);
}

static void cancel_ends_the_wait(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "head:TTT");
	struct store_call call = {.cancel = &cancel};
	struct store_error e = {0};

	p.retry_after_ms = 20000;
	cancel_at = now_ms + 120;
	assert_int_equal(store_head(s, "k", NULL, NULL, &call, &e), STORE_LOCAL);
	assert_int_equal(e.local_errno, ECANCELED);
	assert_in_range(slept_ms, 120, 200);
	store_close(s);
}

static void body_starts_over(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "get:bb");
	CLEANUP(buf_done) struct buf b = {0};

	assert_int_equal(put(s, "body", "1", NULL), STORE_OK);
	assert_int_equal(store_get_buf(s, "k", 10, &b, NULL, NULL, NULL, NULL), STORE_OK);
	assert_string_equal(buf_str(&b), "body");
	store_close(s);
}

static void unknown_puts(void **state)
{
	static const struct store_condition absent = {.if_absent = true};
	static const struct {
		const char *script, *log;
		const char *mark;
		const struct store_condition *condition;
		enum store_result want;
	} t[] = {
		/* It happened. */
		{"put:U", "put head ", "1", NULL, STORE_OK},
		{"put:U", "put head ", "1", &absent, STORE_OK},
		/* It did not: once more. */
		{"put:u", "put head put ", "1", &absent, STORE_OK},
		/* HEAD fails for a while first. */
		{"put:U;head:tt", "put head head head ", "1", &absent, STORE_OK},
		/* HEAD never says: unknown, not failed. */
		{"put:U;head:tttt", "put head head head head ", "1", &absent, STORE_UNKNOWN},
		{"put:U;head:d", "put head ", "1", &absent, STORE_UNKNOWN},
		/* Unknown to the end. */
		{"put:uuuu", "put head put head put head put head ", "1", &absent, STORE_UNKNOWN},
		/* A later failure of another kind does not make it known. */
		{"put:uttt", "put head put put put ", "1", &absent, STORE_UNKNOWN},
		/* Lost, then somebody else's object there: theirs, after the condition and a second
		   look. */
		{"put:u;head:x", "put head put head ", "1", &absent, STORE_EXISTS},
		/* No metadata: bodies are compared. */
		{"put:U", "put head get ", NULL, &absent, STORE_OK},
		{"put:u;head:x", "put head get put head get ", NULL, &absent, STORE_EXISTS},
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct script p;
		struct store *s = scripted(&p, t[i].script);
		enum store_result r = put(s, "y", t[i].mark, t[i].condition);
		if (r != t[i].want || strcmp(p.log, t[i].log))
			print_error("case %zu: %s: %s\n", i, store_result_name(r), p.log);
		assert_int_equal(r, t[i].want);
		assert_string_equal(p.log, t[i].log);
		store_close(s);
	}
}

static void unknown_replacement(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "put:-U-u");
	struct store_object o = {0};

	assert_int_equal(put(s, "1", "1", NULL), STORE_OK);
	assert_int_equal(store_head(s, "k", &o, NULL, NULL, NULL), STORE_OK);
	struct store_condition match = {.if_match = o.etag};
	assert_int_equal(put(s, "2", "2", &match), STORE_OK);
	/* The old ETag is gone, and not by this call: lost for good. */
	assert_int_equal(put(s, "3", "3", &match), STORE_PRECONDITION);
	assert_int_equal(put(s, "4", "4", &match), STORE_PRECONDITION);
	assert_string_equal(p.log, "put head put head put put head put head ");
	store_close(s);
}

static void unknown_removes(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "remove:Uuuuuu");

	assert_int_equal(put(s, "1", "1", NULL), STORE_OK);
	assert_int_equal(store_remove(s, "k", NULL, NULL, NULL), STORE_OK);
	assert_string_equal(p.log, "put remove head ");
	assert_int_equal(put(s, "1", "1", NULL), STORE_OK);
	assert_int_equal(store_remove(s, "k", NULL, NULL, NULL), STORE_UNKNOWN);
	assert_int_equal(store_head(s, "k", NULL, NULL, NULL, NULL), STORE_OK);
	store_close(s);
}

static int collect(void *ctx, const char *key, const struct store_object *object)
{
	buf_put_str(ctx, key);
	return 0;
}

static enum store_result upload(struct store *s, const char *body)
{
	struct store_memory memory = {.p = body, .len = strlen(body)};
	struct store_source source = store_source_memory(&memory);
	CLEANUP(store_meta_done) struct store_meta m = {0};
	struct store_part part = {.number = 1};
	char id[STORE_UPLOAD_ID_SIZE];

	mark(&m, body);
	assert_int_equal(store_upload_begin(s, "k", &m, id, NULL, NULL), STORE_OK);
	enum store_result r = store_upload_part(s, "k", id, &source, &part, NULL, NULL);
	if (r == STORE_OK)
		r = store_upload_end(s, "k", id, &part, 1, &m, NULL, NULL, NULL, NULL);
	return r;
}

/* The end happened: the repeat would find no such upload, and HEAD tells. Parts are just sent again. */
static void unknown_end_of_an_upload(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "part:-t;end:U");

	assert_int_equal(upload(s, "body"), STORE_OK);
	assert_string_equal(p.log, "part part part end head ");
	store_close(s);

	s = scripted(&p, "end:uu;head:-t");
	assert_int_equal(upload(s, "body"), STORE_OK);
	assert_string_equal(p.log, "part part end head end head head end ");
	store_close(s);
}

static void listing_goes_on(void **state)
{
	struct script p;
	struct store *s = scripted(&p, "list:tttttt");
	CLEANUP(buf_done) struct buf b = {0};

	for (char c = 'a'; c <= 'o'; c++) {
		char key[2] = {c, 0};
		assert_int_equal(
			store_put_buf(s, key, "", 0, NULL, NULL, NULL, NULL, NULL), STORE_OK);
	}
	/* Six breaks are more than its attempts, but each made progress. */
	p.delivered = 2;
	assert_int_equal(store_list(s, "", NULL, 0, collect, &b, NULL, NULL), STORE_OK);
	assert_string_equal(buf_str(&b), "abcdefghijklmno");
	p.ops = "list:-------ttttttt";
	p.log[0] = '\0';
	buf_clear(&b);
	p.ops = "list:tt";
	assert_int_equal(store_list(s, "", "b", 5, collect, &b, NULL, NULL), STORE_OK);
	assert_string_equal(buf_str(&b), "cdefg");
	/* Without progress it ends. */
	p.log[0] = '\0';
	p.ops = "list:tttttttt";
	p.delivered = 0;
	assert_int_equal(store_list(s, "", NULL, 0, collect, &b, NULL, NULL), STORE_TRANSIENT);
	assert_string_equal(p.log, "list list list list ");
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(repeats_until_it_works, setup, teardown),
		cmocka_unit_test_setup_teardown(gives_up_after_its_attempts, setup, teardown),
		cmocka_unit_test_setup_teardown(answers_are_not_repeated, setup, teardown),
		cmocka_unit_test_setup_teardown(waits_as_long_as_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(deadline_ends_it, setup, teardown),
		cmocka_unit_test_setup_teardown(cancel_ends_the_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(body_starts_over, setup, teardown),
		cmocka_unit_test_setup_teardown(unknown_puts, setup, teardown),
		cmocka_unit_test_setup_teardown(unknown_replacement, setup, teardown),
		cmocka_unit_test_setup_teardown(unknown_removes, setup, teardown),
		cmocka_unit_test_setup_teardown(unknown_end_of_an_upload, setup, teardown),
		cmocka_unit_test_setup_teardown(listing_goes_on, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
