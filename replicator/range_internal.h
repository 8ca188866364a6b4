/* Private to range.c and range_pick.c: what a ranger consists of. range.c's head tells the rules. */
#ifndef REPLICATOR_RANGE_INTERNAL_H
#define REPLICATOR_RANGE_INTERNAL_H

#include "replicator/range.h"
#include "replicator/range_source.h"
#include "replicator/readahead.h"

enum { RANGE_THREADS = 16, RANGE_WRONG_MAX = 8 };

struct waiter {
	uint64_t first, end; /* blocks */
	bool whole;
	bool background;
	int64_t since_ms;
	cache_fetch_done done;
	void *arg;
	int result;
	struct waiter *next;
};

/* A block of which some region gave wrong bytes. */
struct wrong {
	uint64_t block;
	uint64_t regions;
	int64_t rotten_until_ms;
};

struct target {
	struct partial *p;
	struct waiter *waiters;
	struct readahead ahead[READAHEAD_STREAMS];
	uint64_t clock;
	struct key key; /* the last name that it had; len 0: none is known */
	struct range_source source;
	bool has_source;
	bool nameless;
	int64_t absent_ms; /* and since then no region that answered had it, so it will not come; 0: one may */
	bool busy;   /* a worker looks for the source, or finishes it: nobody else works on it */
	unsigned workers; /* that work on it */
	unsigned bad;
	uint64_t avoid; /* regions */
	struct wrong wrong[RANGE_WRONG_MAX];
	unsigned wrong_last; /* the slot that was used last */
	uint64_t version;    /* of source: counts them */
	int64_t due_ms;	     /* not before */
	int64_t pause_ms;
	int64_t used_ms;
	int64_t came_ms; /* when a block last came */
	struct target *next;
};

/* What one worker is at. */
struct run {
	struct target *target; /* NULL: nothing */
	uint64_t first, end;
	enum store_priority priority;
};

struct worker {
	struct ranger *ranger;
	struct run run; /* guarded by the lock */
	struct range_buffer buffer; /* the thread's own */
	pthread_t thread;
};

struct ranger {
	struct regions *regions;
	struct mutex lock;
	struct cond work;
	struct target *first;
	unsigned working; /* workers that are not idle */
	unsigned demanded; /* those of them that readers wait for */
	int64_t waits_8th; /* ms until the first byte of a request: the mean of the last ones, in eighths */
	bool stopping;
	struct worker worker[RANGE_THREADS];
	unsigned started;
	pthread_t hasher;
	struct cond to_hash;
	bool hashing; /* that thread was started */
};

/* All with the lock. */

/* Whether some block of [first, end) is rotten now. */
bool range_is_rotten(const struct target *t, uint64_t first, uint64_t end);
/* What a worker that is free does next; false: nothing that it may. */
bool range_next_run(struct ranger *r, struct run *ret);

#endif
