/* The gateway: names, metadata rules, argument checks, which kinds of store there are. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/store/layers.h"
#include "src/base/clock.h"
#include "src/base/buf.h"
/* The one user in this folder links no library for it. */
#include "tests/sim/store_mem.c"

static void result_names(void **state)
{
	for (int i = 0; i < STORE_RESULT_COUNT; i++) {
		assert_non_null(store_result_name((enum store_result)i));
		for (int j = 0; j < i; j++)
			assert_string_not_equal(store_result_name((enum store_result)i),
				store_result_name((enum store_result)j));
	}
	assert_string_equal(store_result_name(STORE_RESULT_COUNT), "invalid");
	assert_true(store_result_passing(STORE_TRANSIENT));
	assert_true(store_result_passing(STORE_THROTTLED));
	assert_true(store_result_passing(STORE_TIMEOUT));
	assert_true(store_result_passing(STORE_UNKNOWN));
	assert_false(store_result_passing(STORE_DENIED));
	assert_false(store_result_passing(STORE_ABSENT));
	assert_false(store_result_passing(STORE_LOCAL));
	assert_false(store_result_passing(STORE_OK));
}

static void metadata_rules(void **state)
{
	CLEANUP(store_meta_done) struct store_meta m = {0}, n = {0};

	assert_int_equal(store_meta_set(&m, "mode", "1"), 0);
	assert_int_equal(store_meta_set(&m, "mode", "22"), 0);
	assert_int_equal(m.count, 1);
	assert_string_equal(store_meta_get(&m, "mode"), "22");
	assert_null(store_meta_get(&m, "mod"));
	assert_int_equal(store_meta_set(&m, "", "x"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "Mode", "x"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a b", "x"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a:", "x"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a", "new\nline"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a", "\x7f"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a", "\xc3\xa9"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a", " x"), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a", "x "), -EINVAL);
	assert_int_equal(store_meta_set(&m, "a", "x y"), 0);
	assert_int_equal(m.count, 2);
	assert_int_equal(store_meta_copy(&n, &m), 0);
	assert_int_equal(n.count, 2);
	assert_string_equal(store_meta_get(&n, "a"), "x y");
	assert_ptr_not_equal(store_meta_get(&n, "a"), store_meta_get(&m, "a"));
	assert_int_equal(store_meta_copy(&n, NULL), 0);
	assert_int_equal(n.count, 0);
}

static void argument_checks(void **state)
{
	struct store *s = store_mem_new(STORE_MEM_ALL);
	const struct store_condition both = {.if_absent = true, .if_match = "x"};
	char key[STORE_KEY_MAX + 2];
	struct store_error e = {0};

	memset(key, 'k', sizeof(key));
	key[STORE_KEY_MAX + 1] = '\0';
	assert_int_equal(
		store_put_buf(s, key, "x", 1, NULL, NULL, NULL, NULL, &e), STORE_UNSUPPORTED);
	assert_non_null(strstr(e.text, "1024"));
	assert_int_equal(store_head(s, "", NULL, NULL, NULL, NULL), STORE_UNSUPPORTED);
	assert_int_equal(
		store_put_buf(s, "k", "x", 1, NULL, &both, NULL, NULL, NULL), STORE_UNSUPPORTED);
	assert_int_equal(store_copy(s, "k", "", NULL, NULL, NULL, NULL, NULL), STORE_UNSUPPORTED);
	assert_int_equal(store_mem_count(s), 0);
	key[STORE_KEY_MAX] = '\0';
	assert_int_equal(store_put_buf(s, key, "x", 1, NULL, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(store_mem_count(s), 1);
	store_close(s);
	store_close(NULL);
}

/* Outputs of a failed call are empty, and reused metadata does not leak. */
static void outputs_of_failures(void **state)
{
	struct store *s = store_mem_new(STORE_MEM_ALL);
	struct store_object o = {.size = 9, .etag = "x"};
	CLEANUP(store_meta_done) struct store_meta m = {0};
	CLEANUP(buf_done) struct buf b = {0};

	assert_int_equal(store_meta_set(&m, "left", "over"), 0);
	assert_int_equal(store_get_buf(s, "none", 10, &b, &o, &m, NULL, NULL), STORE_ABSENT);
	assert_int_equal(m.count, 0);
	assert_string_equal(o.etag, "");
	assert_int_equal(
		store_put_buf(s, "ten", "0123456789", 10, NULL, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(store_get_buf(s, "ten", 9, &b, &o, &m, NULL, NULL), STORE_TOO_LARGE);
	assert_int_equal(store_get_buf(s, "ten", 10, &b, &o, &m, NULL, NULL), STORE_OK);
	assert_int_equal(b.len, 10);
	store_close(s);
}

static void kinds_of_store(void **state)
{
	static const struct {
		const char *url;
		int code;
		const char *says;
	} t[] = {
		{"gs://bucket/x", -EPROTONOSUPPORT, "not supported yet by this version"},
		{"azure://container", -EPROTONOSUPPORT, "not supported yet by this version"},
		{"ftp://host", -EINVAL, "ftp://host"},
		{"", -EINVAL, "empty"},
		{NULL, -EINVAL, "empty"},
		{"file://relative", -EINVAL, "absolute"},
		{"file:///nonexistent-parent/child", -ENOENT, "/nonexistent-parent/child"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct store_config c = {.name = "here", .url = t[i].url};
		struct store *s = NULL;
		struct err err = {0};
		assert_int_equal(store_open(&c, &s, &err), t[i].code);
		assert_null(s);
		assert_non_null(strstr(err.text, t[i].says));
	}
}

static void counts(void **state)
{
	struct store *s = store_retry_new(store_stats_new(store_mem_new(STORE_MEM_ALL)), 1, 1000);
	struct store_counts c;
	CLEANUP(buf_done) struct buf b = {0};

	assert_int_equal(store_put_buf(s, "k", "12345", 5, NULL, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(store_get_buf(s, "k", 10, &b, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(store_head(s, "none", NULL, NULL, NULL, NULL), STORE_ABSENT);
	store_stats_read(s, &c);
	assert_int_equal(c.results[STORE_OK], 2);
	assert_int_equal(c.results[STORE_ABSENT], 1);
	assert_int_equal(c.bytes_sent, 5);
	assert_int_equal(c.bytes_received, 5);
	store_close(s);
}

static int64_t wall_ms = 1000000, monotonic_ms = 500;

static int64_t wall_ns(void *ctx)
{
	return wall_ms * 1000000;
}

static int64_t monotonic(void *ctx)
{
	return monotonic_ms;
}

static int64_t suspended_ms;

static int64_t boottime(void *ctx)
{
	return monotonic_ms + suspended_ms;
}

static void clock_of_the_store_goes_on_while_the_machine_is_suspended(void **state)
{
	const struct clock_source source = {
		.realtime_ns = wall_ns, .monotonic_ms = monotonic, .boottime_ms = boottime};
	struct store *s = store_retry_new(store_stats_new(store_mem_new(STORE_MEM_ALL)), 1, 1000);
	int64_t told = wall_ms + 100;

	clock_set_source(&source);
	suspended_ms = 7000;
	store_clock_note(s, told);
	suspended_ms += 7200000;
	wall_ms += 7200000;
	assert_int_equal(store_clock_ms(s), told + 7200000);
	assert_int_equal(store_clock_skew_ms(s), 100);
	clock_set_source(NULL);
	store_close(s);
}

static void clock_of_the_store(void **state)
{
	const struct clock_source source = {.realtime_ns = wall_ns, .monotonic_ms = monotonic};
	struct store *s = store_retry_new(store_stats_new(store_mem_new(STORE_MEM_ALL)), 1, 1000);

	clock_set_source(&source);
	assert_int_equal(store_clock_ms(s), 0);
	assert_int_equal(store_clock_skew_ms(s), 0);
	store_clock_note(s, 1001234);
	assert_int_equal(store_clock_skew_ms(s), 1234);
	/* Set by an hour: the store's clock goes on as it did. */
	monotonic_ms += 1000;
	wall_ms += 1000 + 3600000;
	assert_int_equal(store_clock_ms(s), 1002234);
	assert_int_equal(store_clock_skew_ms(s), 1234 - 3600000);
	store_clock_note(s, -1);
	store_clock_note(s, INT64_MAX);
	assert_int_equal(store_clock_ms(s), 1002234);
	clock_set_source(NULL);
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(result_names),
		cmocka_unit_test(metadata_rules),
		cmocka_unit_test(argument_checks),
		cmocka_unit_test(outputs_of_failures),
		cmocka_unit_test(kinds_of_store),
		cmocka_unit_test(counts),
		cmocka_unit_test(clock_of_the_store),
		cmocka_unit_test(clock_of_the_store_goes_on_while_the_machine_is_suspended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
