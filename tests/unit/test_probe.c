/* The probe: it finds what a store has, for every combination, and tells a failure from a lack. */
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
#include "tests/sim/store_mem.c"

static void every_combination(void **state)
{
	for (unsigned has = 0; has <= STORE_MEM_ALL; has++) {
		struct store *mem = store_mem_new(has);
		struct store *s = store_retry_new(mem, 2, 1000);
		unsigned want = has;
		struct store_error e = {0};
		/* A condition on a copy needs a copy. */
		if (!(has & STORE_CAP_COPY))
			want &= ~(unsigned)STORE_CAP_COPY_IF_MATCH;
		if (!(has & STORE_CAP_UPLOAD))
			want &= ~(unsigned)(STORE_CAP_UPLOAD_COPY | STORE_CAP_UPLOAD_IF);
		assert_int_equal(store_probe(s, NULL, &e), STORE_OK);
		assert_int_equal(atomic_load(&s->capabilities), want);
		assert_int_equal(store_mem_count(mem), 0);
		/* Again, with the first one's findings in force. */
		assert_int_equal(store_probe(s, NULL, NULL), STORE_OK);
		assert_int_equal(atomic_load(&s->capabilities), want);
		store_close(s);
	}
}

/* Fails call number at, counted over all operations. */
struct failing {
	int at;
	int calls;
	enum store_result with;
};

static enum store_result hook(void *ctx, const char *op, const char *key, bool did_happen)
{
	struct failing *f = ctx;

	/* What the listings are for is not the probe's answer. */
	if (did_happen || strcmp(op, "list") == 0 || strcmp(op, "uploads") == 0)
		return STORE_OK;
	return f->calls++ == f->at ? f->with : STORE_OK;
}

static void failures_are_returned(void **state)
{
	static const enum store_result with[] = {
		STORE_DENIED, STORE_TRANSIENT, STORE_TIMEOUT, STORE_CORRUPT, STORE_UNKNOWN};

	for (size_t w = 0; w < ARRAY_SIZE(with); w++) {
		for (int at = 0;; at++) {
			struct failing f = {.at = at, .with = with[w]};
			struct store *mem = store_mem_new(STORE_MEM_ALL);
			struct store *s = store_fault_new(mem, hook, &f);
			enum store_result r = store_probe(s, NULL, NULL);
			unsigned found = atomic_load(&s->capabilities);
			bool met = f.calls > at;
			size_t left = store_mem_count(mem);
			store_close(s);
			if (!met) {
				assert_int_equal(r, STORE_OK);
				assert_true(at >= 10);
				break;
			}
			/* Never taken for a missing capability: nothing is decided. */
			assert_int_equal(r, with[w]);
			assert_int_equal(found, STORE_MEM_ALL);
			/* Only a failure of the clean-up itself may leave something. */
			assert_true(left == 0 || at >= f.calls - 2);
		}
	}
}

static int64_t now_ms;

static int64_t realtime(void *ctx UNUSED)
{
	return now_ms * 1000000;
}

static int64_t monotonic(void *ctx UNUSED)
{
	return now_ms;
}

static enum store_result refuse_listings(void *ctx UNUSED, const char *op, const char *key UNUSED, bool did_happen)
{
	bool listing = strcmp(op, "list") == 0 || strcmp(op, "uploads") == 0;

	return listing && !did_happen ? STORE_DENIED : STORE_OK;
}

/* A probe that was killed leaves objects and an upload: a later one takes them away, but not those of a
 * probe that may still be at it, nor anybody else's, nor what a listing tells no time of. */
static void what_a_killed_probe_left(void **state)
{
	static const struct clock_source source = {.realtime_ns = realtime, .monotonic_ms = monotonic};
	struct store *mem, *s, *refusing;
	char id[STORE_UPLOAD_ID_SIZE];

	const int64_t start_ms = clock_realtime_ms();

	now_ms = start_ms;
	clock_set_source(&source);
	mem = store_mem_new(STORE_MEM_ALL);
	s = store_retry_new(mem, 1, 1000);
	now_ms = 0; /* as from a store that tells no time */
	assert_int_equal(
		store_put_buf(s, ".meridian/probe/22/a", "x", 1, NULL, NULL, NULL, NULL, NULL),
		STORE_OK);
	now_ms = start_ms;
	refusing = store_fault_new(store_mem_new(STORE_MEM_ALL), refuse_listings, NULL);
	assert_int_equal(store_put_buf(s, ".meridian/probe/00/a", "x", 1, NULL, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(store_put_buf(s, ".meridian/prob", "x", 1, NULL, NULL, NULL, NULL, NULL), STORE_OK);
	assert_int_equal(store_upload_begin(s, ".meridian/probe/00/b", NULL, id, NULL, NULL), STORE_OK);
	assert_int_equal(store_upload_begin(s, "large", NULL, id, NULL, NULL), STORE_OK);
	now_ms += 3599000;
	assert_int_equal(store_upload_begin(s, ".meridian/probe/11/b", NULL, id, NULL, NULL), STORE_OK);
	assert_int_equal(store_probe(s, NULL, NULL), STORE_OK);
	assert_int_equal(store_mem_count(mem), 3);
	assert_int_equal(store_mem_uploads(mem), 3);
	now_ms += 2000;
	assert_int_equal(store_probe(s, NULL, NULL), STORE_OK);
	assert_int_equal(store_mem_count(mem), 2);
	assert_int_equal(store_mem_uploads(mem), 2);
	/* Who may not list may still use the store. */
	assert_int_equal(store_probe(refusing, NULL, NULL), STORE_OK);
	assert_int_equal(atomic_load(&refusing->capabilities), STORE_MEM_ALL);
	store_close(refusing);
	store_close(s);
	clock_set_source(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_combination),
		cmocka_unit_test(failures_are_returned),
		cmocka_unit_test(what_a_killed_probe_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
