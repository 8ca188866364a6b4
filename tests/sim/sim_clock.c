/*
 * Wrong clocks: each answer of a bucket tells the time, as a Date header does, and the wall clock of a
 * node that knows it jumps by an hour, and back. The virtual clock itself is the buckets' and, its
 * differences, everybody's monotonic one. Nothing may be held back, lost or delayed for that: a record
 * that is held comes an hour too late for the simulation to come to rest with it.
 */
#include "src/base/hlc.h"
#include "tests/sim/sim.h"

#include "src/base/random.h"
#include "replicator/store/store.h"

#define JUMP_MS 3600000

void sim_clock_answer(struct sim *s, struct store *store)
{
	if (s->dated)
		store_clock_note(store, s->now_ms);
}

void sim_clock_event(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];

	if (!s->dated || random_below(100) >= 3)
		return;
	/* Who does not know better yet stamps what it does with the wrong time. */
	if (!atomic_load(&cache_clock(node->cache)->reference_ms))
		return;
	node->skew_ms = node->own_skew_ms + ((int64_t)random_below(3) - 1) * JUMP_MS;
	sim_trace(s, "n%u clock jumps to %+lld ms", n, (long long)node->skew_ms);
}
