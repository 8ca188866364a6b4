/* Randomness: the published splitmix64 sequence, repeatability, and bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "src/base/random.h"

static void deterministic(void **state)
{
	/* First outputs for seed 1234567 (the reference implementation, Vigna 2015). */
	static const uint64_t want[] = {UINT64_C(6457827717110365317),
		UINT64_C(3203168211198807973), UINT64_C(9817491932198370423)};
	uint8_t a[13], b[13];

	random_seed_deterministic(1234567);
	for (size_t i = 0; i < 3; i++)
		assert_true(random_u64() == want[i]);
	random_seed_deterministic(9);
	random_bytes(a, sizeof(a));
	random_seed_deterministic(9);
	random_bytes(b, sizeof(b));
	assert_memory_equal(a, b, sizeof(a));
	random_bytes(b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
	random_use_system();
}

static void system_source(void **state)
{
	uint8_t a[1000] = {0}, zero[32] = {0};

	random_seed_deterministic(1);
	random_use_system();
	random_bytes(a, sizeof(a));
	assert_memory_not_equal(a, zero, sizeof(zero));
	assert_memory_not_equal(a + sizeof(a) - sizeof(zero), zero, sizeof(zero));
	assert_true(random_u64() != random_u64());
	random_bytes(a, 0);
}

static void bounds(void **state)
{
	uint64_t big = (UINT64_C(1) << 63) + 1;
	int seen[5] = {0};

	random_seed_deterministic(3);
	for (int i = 0; i < 5000; i++)
		seen[random_below(5)]++;
	for (int i = 0; i < 5; i++)
		assert_true(seen[i] > 850 && seen[i] < 1150);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(random_below(1), 0);
		assert_true(random_below(big) < big);
	}
	/* A plain remainder would make the lowest third as likely as the other two together. */
	seen[0] = 0;
	for (int i = 0; i < 3000; i++)
		seen[0] += random_below(UINT64_C(3) << 62) < UINT64_C(1) << 62;
	assert_true(seen[0] > 850 && seen[0] < 1150);
	random_use_system();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(deterministic),
		cmocka_unit_test(system_source),
		cmocka_unit_test(bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
