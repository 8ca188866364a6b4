/*
 * Where the content of a name went by the renames of a set, so that the former name goes when the present one is
 * there.
 *
 * A name may be left several times: a directory gets it back and is renamed again, two directories are exchanged. And
 * what renames of directories say of single names is more than what happened: of each name on either side that
 * something went from the one to the other, also if nothing was there any more. So all that was said is kept, in its
 * order, and the first way that ends at a name which is there is taken. Names in between may never have been told of
 * to anybody. A former name that waits for another file's name than it had to waits no longer than that file takes.
 */
#include "replicator/seal_internal.h"

#define NAMES_MAX 64u /* that a file went through in one batch */

void seal_moved_note(struct seal_set *set, struct slice from, struct slice to)
{
	struct seal_target *t = seal_set_find(set, from);

	CHECK(set->move_count < 3 * set->max);
	set->moves[set->move_count++].to = to;
	if (t->moves_last)
		set->moves[t->moves_last - 1].next = set->move_count;
	else
		t->moves = set->move_count;
	t->moves_last = set->move_count;
}

static bool find(struct seal_set *set, struct seal_target *t, unsigned depth, struct slice *ret)
{
	t->visit = set->visit;
	for (unsigned i = t->moves; i && depth < NAMES_MAX; i = set->moves[i - 1].next) {
		struct seal_target *to = seal_set_find(set, set->moves[i - 1].to);

		if (to->local.kind != KIND_ABSENT) {
			*ret = to->key;
			return true;
		}
		if (to->visit != set->visit && find(set, to, depth + 1, ret))
			return true;
	}
	return false;
}

struct slice seal_moved_to(struct seal_set *set, struct seal_target *t)
{
	struct slice name = {NULL, 0};

	set->visit++;
	return find(set, t, 0, &name) ? name : (struct slice){NULL, 0};
}
