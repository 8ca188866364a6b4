/*
 * Which keys of a set are enqueued where (seal_set.c says for what).
 *
 * A key can have changed and be again what its entry says: a file that was renamed away and back, a mode that was set
 * and set back. There is nothing to enqueue of it; but it stood otherwise while its neighbours were changed, so a peer
 * that is shown the key, as it always was, must see these changes all or none. A neighbour stands in for it: the first
 * one that was enqueued since the key's first change is enqueued again where the key's last one stands, and so spans
 * what lies between.
 *
 * Not so for names that came and went: nobody was ever shown them, and the temporary names of files that are written
 * at the same time would chain all of these together.
 */
#include "replicator/seal_internal.h"

static bool is_beside(struct slice x, struct slice y)
{
	return x.len && y.len && slice_equal(key_parent(x), key_parent(y));
}

static struct seal_target *stand_in(struct seal_set *set, const struct seal_target *t)
{
	uint64_t dir = seal_hash(key_parent(t->key));

	if (t->local.kind == KIND_ABSENT)
		return NULL;
	for (unsigned i = t->enqueues; i < set->enqueued_count; i++) {
		struct seal_target *other = &set->targets[set->enqueued[i].target];

		/* Behind the last one there is nothing to span. */
		if (set->enqueued[i].dir == dir && is_beside(other->key, t->key))
			return other->enqueues == set->enqueued_count ? NULL : other;
	}
	return NULL;
}

struct seal_target *seal_span_enqueued(struct seal_set *set, struct seal_target *t, unsigned i)
{
	bool together = set->order[i] & SEAL_TOGETHER;

	if (i == t->first) {
		if (!t->changed)
			t->enqueues = set->enqueued_count;
		return t->changed ? t : NULL;
	}
	if (i != t->last)
		return NULL;
	if (!t->changed)
		return stand_in(set, t);
	return together || t->enqueues != set->enqueued_count ? t : NULL;
}
