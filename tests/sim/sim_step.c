/*
 * The replication steps of a node, one at a time: no step is entered again while it is on the stack, as
 * the network lets other nodes take theirs in the middle of its requests. What eviction took must be
 * what it may take.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <inttypes.h>

#include "cache/entry.h"
#include "cache/evict.h"
#include "cache/outbox.h"
#include "cache/tree.h"
#include "src/base/random.h"

int sim_fetch(struct sim *s, unsigned n, uint64_t ino)
{
	struct sim_node *node = &s->node[n];
	int r;

	node->running = true;
	s->current = n;
	sim_lazy_on(s, n, sim_chance(50));
	r = replicator_step_fetch(node->replicator, ino);
	sim_lazy_on(s, n, false);
	node->running = false;
	s->current = n;
	sim_trace(s, "n%u fetch ino %" PRIu64 ": %d", n, ino, r);
	return r;
}

/* What went must be what the map has, and no region may be waiting for it: delivering it would find
 * it lost, which after healing looks like any other conflict. */
static void check_evicted(struct sim *s, unsigned n, const char *path, uint64_t ino)
{
	struct key *key = malloc(sizeof(*key));
	struct outbox_row *row = malloc(sizeof(*row));
	uint8_t hash[SHA256_SIZE];
	struct entry e = {0};
	struct conn *conn;
	uint64_t size;

	CHECK(key && row);
	CHECK(content_wanted(s->node[n].cache, ino, key, hash, &size) == 0);
	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	if (entry_get(conn, slice_of(path), &e) < 0 || memcmp(e.hash, hash, SHA256_SIZE) != 0)
		sim_fail(s, "n%u: evicted %s before it was sealed", n, path);
	for (unsigned r = 0; r < s->regions; r++) {
		if (!sim_is_optional(s, r) && outbox_get(conn, r, slice_of(path), row) != -ENOENT)
			sim_fail(s, "n%u: evicted %s, which r%u waits for", n, path, r);
	}
	cache_read_end(conn);
	entry_done(&e);
	free(row);
	free(key);
}

/* Its content is elsewhere: what is here of it in part, nobody counts on. */
static bool is_remote(struct sim *s, unsigned n, uint64_t ino)
{
	struct key *key = malloc(sizeof *key);
	uint8_t hash[SHA256_SIZE];
	uint64_t size;
	bool remote;

	CHECK(key);
	remote = content_wanted(s->node[n].cache, ino, key, hash, &size) == 0;
	free(key);
	return remote;
}

int sim_evict_some(struct sim *s, unsigned n, bool *did)
{
	struct sim_node *node = &s->node[n];
	struct evict_batch b = {.proof = replicator_has_object, .ctx = node->replicator};
	unsigned first = (unsigned)random_below(SIM_PATHS);
	int r = 0;

	for (unsigned i = 0; r == 0 && i < SIM_PATHS / 2 && !s->mortal; i++) {
		const char *path = sim_paths[(first + i) % SIM_PATHS];
		enum evict_result result = EVICT_ABSENT;
		struct inode inode;
		bool partial = false;

		if (tree_resolve(node->cache, slice_of(path), &inode) == 0) {
			partial = is_remote(s, n, inode.ino);
			r = evict_content(node->cache, &b, inode.ino, &result);
		}
		if (result != EVICT_DONE)
			continue;
		sim_trace(s, "n%u evicts %s ino %" PRIu64, n, path, inode.ino);
		if (!partial)
			check_evicted(s, n, path, inode.ino);
	}
	*did = b.files > 0;
	if (r == 0)
		r = evict_finish(node->cache, &b);
	return r;
}

bool sim_step(struct sim *s, unsigned n, unsigned which)
{
	struct sim_node *node = &s->node[n];
	unsigned region = (unsigned)random_below(s->regions);
	bool did = false;
	int r;

	if (node->running)
		return false;
	node->running = true;
	s->current = n;
	sim_replaced_settle(s, n);
	switch (which) {
	case 0:
		r = replicator_step_seal(node->replicator, &did);
		break;
	case 1:
		r = replicator_step_announce(node->replicator, region, &did);
		break;
	case 2:
		r = replicator_step_objects(
			node->replicator, region, 1 + (unsigned)random_below(8), &did);
		break;
	case 3:
		r = replicator_step_pull(node->replicator, &did);
		break;
	case 4:
		r = sim_evict_some(s, n, &did);
		break;
	case 5:
		did = sim_durability_step(s, n);
		r = 0;
		break;
	case 6:
		did = sim_optional_step(s, n);
		r = 0;
		break;
	default:
		r = sim_checkpoint_step(s, n, &did);
	}
	if (which == 3 && r == 0) {
		sim_order_check(s, n);
		sim_marker_check(s, n);
		sim_renamed_check(s, n);
	}
	node->running = false;
	sim_unseen_learnt(s, n);
	static const char *const names[] = {"seal", "announce", "objects", "pull", "evict", "durable",
		"upkeep", "checkpoint"};
	if (did)
		sim_trace(s, "n%u %s r%u", n, names[which], region);
	if (r < 0)
		sim_fail(s, "n%u: step %s: %d", n, names[which], r);
	return did;
}

void sim_random_step(struct sim *s)
{
	/* One draw a statement: the seed means the same with every compiler. */
	unsigned which = (unsigned)random_below(s->checkpoints ? 8 : 7);
	unsigned n = (unsigned)random_below(s->nodes);

	sim_step(s, n, which);
}
