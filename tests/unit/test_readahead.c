/* Which reads are a sequence, how its window grows, and that jumps cost nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "replicator/readahead.h"

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)

struct state {
	struct readahead all[READAHEAD_STREAMS];
	uint64_t clock;
};

static struct readahead *note(struct state *s, uint64_t offset, uint64_t n)
{
	return readahead_note(s->all, &s->clock, offset, n);
}

static void test_sequence_grows(void **state)
{
	struct state s = {0};
	uint64_t last = 0, at = MIB(100);

	(void)state;
	for (; at < MIB(200); at += KIB(128)) {
		struct readahead *r = note(&s, at, KIB(128));

		assert_true(r == &s.all[0]);
		assert_true(r->window == 0 || r->window >= READAHEAD_FIRST);
		assert_true(r->window == last || r->window == 2 * last ||
			    (last == 0 && r->window == READAHEAD_FIRST));
		assert_int_equal(r->next, at + KIB(128));
		last = r->window;
		if (at == MIB(100) + KIB(256))
			assert_int_equal(last, 0); /* a look at the head is no sequence */
	}
	assert_int_equal(last, READAHEAD_MAX);
}

static void test_jumps_have_none(void **state)
{
	struct state s = {0};
	uint64_t at = 7;

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		at = at * 6364136223846793005u + 1442695040888963407u;
		assert_int_equal(note(&s, (at >> 20) % MIB(1 << 18), KIB(4))->window, 0);
	}
	/* Nor does who reads one place again and again. */
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(note(&s, MIB(5), KIB(128))->window, 0);
	note(&s, UINT64_MAX - 10, KIB(4));
	note(&s, UINT64_MAX - 10, UINT64_MAX);
}

/* The kernel's readahead asks for pieces in some other order. */
static void test_out_of_order(void **state)
{
	static const unsigned order[] = {1, 0, 3, 2, 5, 7, 4, 6};
	struct state s = {0};
	struct readahead *r = NULL;

	(void)state;
	for (unsigned round = 0; round < 10; round++)
		for (unsigned i = 0; i < 8; i++)
			r = note(&s, MIB(round) + KIB(128) * order[i], KIB(128));
	assert_true(r == &s.all[0]);
	assert_true(r->window >= MIB(4));
	assert_int_equal(s.all[1].used, 0);
}

/* Some readers of one file; one more takes the place of the one that is silent. */
static void test_several_readers(void **state)
{
	struct state s = {0};

	(void)state;
	for (uint64_t at = 0; at < MIB(10); at += KIB(128))
		for (unsigned i = 0; i < READAHEAD_STREAMS; i++)
			note(&s, at + MIB(1000) * i, KIB(128));
	for (unsigned i = 0; i < READAHEAD_STREAMS; i++)
		assert_true(s.all[i].window >= MIB(4));
	for (unsigned i = 1; i < READAHEAD_STREAMS; i++)
		note(&s, MIB(10) + MIB(1000) * i, KIB(128));
	assert_true(note(&s, MIB(9000), KIB(128)) == &s.all[0]);
	assert_int_equal(s.all[0].window, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sequence_grows),
		cmocka_unit_test(test_jumps_have_none),
		cmocka_unit_test(test_out_of_order),
		cmocka_unit_test(test_several_readers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
