/*
 * Why this file: what a worker of the pool does next, as a decision on what is known under the ranger's
 * lock (range.c): no request, no file but the map of what is here.
 */
#include "replicator/range_internal.h"

#include "src/base/clock.h"

enum {
	SPARE = 2,
	NEAR_THREADS = 6, /* at work at most where the store answers soon */
	NEAR_WINDOW = 64 << 20, /* and bytes ahead of a reader */
	FAR_MS = 10, /* until the first byte of an answer: that is not soon */
	RUN_BLOCKS = 4, /* of one request for somebody who waits */
	AHEAD_BLOCKS = 16,  /* likewise of one ahead of a reader */
	NEAR_SHARE = 4, /* and of his window no more than one of so many: few that are long cost the least */
	FAR_SHARE = 16,
	WHOLE_BLOCKS = 16, /* and of a whole file */
	WHOLE_SHARE = 16,
	GATHERED_MAX = 32 << 20, /* bytes of one target's blocks that come at once; one in any case */
};

bool range_is_rotten(const struct target *t, uint64_t first, uint64_t end)
{
	for (unsigned i = 0; i < RANGE_WRONG_MAX; i++) {
		const struct wrong *w = &t->wrong[i];

		if (w->rotten_until_ms && w->block >= first && w->block < end &&
			clock_monotonic_ms() < w->rotten_until_ms)
			return true;
	}
	return false;
}

/* The first block of [from, to) that is neither here nor under way; to: none. */
static uint64_t next_free(struct ranger *r, struct target *t, uint64_t from, uint64_t to)
{
	for (bool again = true; again;) {
		from = partial_missing(t->p, from, to);
		again = from < to && range_is_rotten(t, from, from + 1);
		from += again;
		for (unsigned i = 0; i < r->started && from < to; i++) {
			const struct run *run = &r->worker[i].run;

			if (run->target == t && from >= run->first && from < run->end) {
				from = run->end < to ? run->end : to;
				again = true;
			}
		}
	}
	return from;
}

/* A run that starts within [from, to) and has up to most blocks up to limit. */
static bool take(struct ranger *r, struct target *t, uint64_t from, uint64_t to, uint64_t limit,
	uint64_t most, struct run *ret)
{
	uint64_t first, end;

	if (limit > partial_blocks(t->p))
		limit = partial_blocks(t->p);
	if (to > limit)
		to = limit;
	first = from < to ? next_free(r, t, from, to) : to;
	if (first >= to)
		return false;
	for (end = first + 1; end < limit && end < first + most; end++) {
		if (next_free(r, t, end, end + 1) != end)
			break;
	}
	*ret = (struct run){.target = t, .first = first, .end = end};
	return true;
}

/* A line to a store that is far away has to be filled by many requests, for which there has to be room ahead of
 * the reader; where the store is near, more of them only cost it, and us, more. */
static bool is_far(const struct ranger *r)
{
	return r->waits_8th / 8 >= FAR_MS;
}

static uint64_t window_of(const struct ranger *r, const struct readahead *a)
{
	return a->window > NEAR_WINDOW && !is_far(r) ? NEAR_WINDOW : a->window;
}

static uint64_t ahead_end(const struct ranger *r, const struct target *t, const struct readahead *a)
{
	uint64_t block = partial_block(t->p), window = window_of(r, a);

	return window > UINT64_MAX - a->next - block ? UINT64_MAX / block
						     : (a->next + window + block - 1) / block;
}

/* How far the reader that wants this block is followed. */
static uint64_t limit_of(const struct ranger *r, const struct target *t, const struct waiter *w)
{
	uint64_t limit = w->end, block = partial_block(t->p);

	for (unsigned i = 0; i < READAHEAD_STREAMS; i++) {
		const struct readahead *a = &t->ahead[i];

		if (a->window && a->next / block >= w->first && a->next / block <= w->end &&
			ahead_end(r, t, a) > limit)
			limit = ahead_end(r, t, a);
	}
	return limit;
}

static bool take_demand(struct ranger *r, struct target *t, struct run *ret)
{
	for (const struct waiter *w = t->waiters; w; w = w->next) {
		if (!w->whole && take(r, t, w->first, w->end, limit_of(r, t, w), RUN_BLOCKS, ret))
			return true;
	}
	return false;
}

/* All blocks have been here for longer, and nobody has made them the content. */
static bool take_end(struct target *t, struct run *ret)
{
	uint64_t blocks = partial_blocks(t->p);

	if (t->workers || partial_missing(t->p, 0, blocks) < blocks)
		return false;
	*ret = (struct run){.target = t, .first = blocks, .end = blocks};
	return true;
}

/* A part of total blocks, for one request. */
static uint64_t share(uint64_t total, uint64_t of, uint64_t least, uint64_t most)
{
	uint64_t n = total / of;

	return n < least ? least : n > most ? most : n;
}

static bool take_whole(struct ranger *r, struct target *t, bool background, struct run *ret)
{
	uint64_t most = share(partial_blocks(t->p), WHOLE_SHARE, RUN_BLOCKS, WHOLE_BLOCKS);

	for (const struct waiter *w = t->waiters; w; w = w->next) {
		if (w->whole && w->background == background &&
			(take(r, t, 0, UINT64_MAX, UINT64_MAX, most, ret) || take_end(t, ret)))
			return true;
	}
	return false;
}

/* Each request costs the store something besides its bytes, so who has all that lies ahead but the last little
 * does not ask for that little, block by block as he reads. */
static bool take_ahead(struct ranger *r, struct target *t, struct run *ret)
{
	uint64_t block = partial_block(t->p);

	if (partial_state(t->p) == PARTIAL_GONE)
		return false;
	for (unsigned i = 0; i < READAHEAD_STREAMS; i++) {
		const struct readahead *a = &t->ahead[i];

		uint64_t end = ahead_end(r, t, a);
		unsigned part = is_far(r) ? FAR_SHARE : NEAR_SHARE;
		uint64_t most = share(window_of(r, a) / block, part, 1, AHEAD_BLOCKS);

		if (a->window && take(r, t, a->next / block, end, end, most, ret) &&
			(ret->end < end || ret->end - ret->first == most || end >= partial_blocks(t->p)))
			return true;
	}
	return false;
}

enum class { DEMAND, WHOLE, AHEAD, BACKGROUND, CLASSES };

static bool take_class(struct ranger *r, struct target *t, enum class class, struct run *ret)
{
	switch (class) {
	case DEMAND:
		return take_demand(r, t, ret);
	case WHOLE:
		return take_whole(r, t, false, ret);
	case AHEAD:
		return take_ahead(r, t, ret);
	default:
		return take_whole(r, t, true, ret);
	}
}

/* Each worker gathers a block before it is written, of huge files one of up to 32 MiB. */
static bool has_room(const struct target *t)
{
	return !t->workers || (t->workers + 1) * partial_block(t->p) <= GATHERED_MAX;
}

/* Whether one worker more may begin something that is not for a reader who waits. */
static bool may_begin(const struct ranger *r, unsigned class)
{
	unsigned most = is_far(r) ? RANGE_THREADS : NEAR_THREADS;

	unsigned others = r->working - r->demanded, spare = class >= AHEAD ? SPARE : 0;

	/* However many readers wait, whoever waits for a whole file gets on. */
	return class == DEMAND || (others + spare < most && r->working + spare < RANGE_THREADS);
}

bool range_next_run(struct ranger *r, struct run *ret)
{
	int64_t now = clock_monotonic_ms();

	for (unsigned class = 0; class < CLASSES; class ++) {
		if (!may_begin(r, class))
			continue;
		for (struct target *t = r->first; t; t = t->next) {
			if (!t->busy && t->due_ms <= now && has_room(t) &&
				partial_state(t->p) != PARTIAL_DONE &&
				take_class(r, t, (enum class) class, ret)) {
				ret->priority = class == DEMAND ? STORE_NORMAL : STORE_BULK;
				return true;
			}
		}
	}
	return false;
}
