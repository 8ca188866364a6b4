/*
 * Randomness. The deterministic generator is splitmix64 (Steele, Lea and Flood 2014), whose state
 * advances by a constant: one atomic addition makes it thread-safe without a lock.
 */
#include "src/base/random.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <sys/types.h>

#include "src/base/attribute.h"

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

static atomic_bool deterministic;
static _Atomic uint64_t state;

void random_seed_deterministic(uint64_t seed)
{
	atomic_store(&state, seed);
	atomic_store(&deterministic, true);
}

void random_use_system(void)
{
	atomic_store(&deterministic, false);
}

static uint64_t splitmix64(void)
{
	uint64_t z = atomic_fetch_add(&state, GOLDEN) + GOLDEN;

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static void system_bytes(uint8_t *out, size_t n)
{
	while (n > 0) {
		ssize_t k = getrandom(out, n, 0);

		if (k < 0 && errno == EINTR)
			continue;
		CHECK(k > 0);
		out += k;
		n -= (size_t)k;
	}
}

void random_bytes(void *p, size_t n)
{
	uint8_t *out = p;

	if (!atomic_load(&deterministic)) {
		system_bytes(out, n);
		return;
	}
	while (n > 0) {
		uint64_t v = splitmix64();
		size_t k = n < sizeof(v) ? n : sizeof(v);

		/* Byte by byte, so that a seed means the same on every machine. */
		for (size_t i = 0; i < k; i++)
			*out++ = (uint8_t)(v >> (8 * i));
		n -= k;
	}
}

uint64_t random_u64(void)
{
	uint64_t v;

	if (atomic_load(&deterministic))
		return splitmix64();
	system_bytes((uint8_t *)&v, sizeof(v));
	return v;
}

uint64_t random_below(uint64_t bound)
{
	uint64_t low, v;

	CHECK(bound > 0);
	/* 2^64 mod bound values too many: refuse the lowest ones, else small results are likelier.
	 */
	low = -bound % bound;
	do {
		v = random_u64();
	} while (v < low);
	return v % bound;
}
