/* Why this file: readahead as decisions on numbers, so that they can be tested without a network. */
#include "replicator/readahead.h"

static uint64_t add(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Where the kernel reads ahead, it asks for some pieces at once, in any order. */
static bool follows(const struct readahead *r, uint64_t offset)
{
	return r->used && add(offset, READAHEAD_SLACK) >= r->next &&
	       offset <= add(r->next, READAHEAD_SLACK);
}

struct readahead *readahead_note(
	struct readahead all[READAHEAD_STREAMS], uint64_t *clock, uint64_t offset, uint64_t n)
{
	struct readahead *r = &all[0];
	uint64_t end = add(offset, n);

	for (unsigned i = 0; i < READAHEAD_STREAMS; i++) {
		if (follows(&all[i], offset)) {
			r = &all[i];
			break;
		}
		if (all[i].used < r->used)
			r = &all[i];
	}
	if (!follows(r, offset)) {
		*r = (struct readahead){.next = end, .grown = offset, .used = ++*clock};
		return r;
	}
	r->used = ++*clock;
	if (end <= r->next)
		return r; /* within what it has read: no sign of a sequence */
	r->next = end;
	if (r->window == 0 && end - r->grown >= READAHEAD_START) {
		r->window = READAHEAD_FIRST;
		r->grown = end;
	} else if (r->window && end - r->grown >= r->window / 4 && r->window < READAHEAD_MAX) {
		r->window *= 2;
		r->grown = end;
	}
	return r;
}
