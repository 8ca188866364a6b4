/* Randomness: getrandom(2), or a seeded generator that a simulation sets. Thread-safe. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Every later number follows from seed (splitmix64). For tests and simulations only. */
void random_seed_deterministic(uint64_t seed);
void random_use_system(void);

void random_bytes(void *p, size_t n);
uint64_t random_u64(void);
/* Uniform in [0, bound); bound > 0. */
uint64_t random_below(uint64_t bound);

#endif
