/*
 * What pull.c (the step, listings, cursor) and pull_run.c (one writer's segments) share. Not for
 * others. All of it belongs to the puller's one thread, except status under status_lock.
 */
#ifndef REPLICATOR_PULL_INTERNAL_H
#define REPLICATOR_PULL_INTERNAL_H

#include <stdatomic.h>

#include "replicator/pull.h"
#include "replicator/pull_ahead.h"
#include "replicator/segment.h"
#include "src/base/thread.h"

enum {
	PAGE_NAMES = 1000,
	LIST_TIMEOUT_MS = 15000,
	WINDOW_MS = 30000,
	CURSOR_BEGUN = 1, /* a cursor of that time: read to the end, nothing of others was there */
	WIDE_WINDOW_MS = 3600000,
	WIDE_EVERY_MS = 300000,
	SKEW_EVERY_MS = 30000,
	CHAIN_MAX = 1000, /* longer: a listing is cheaper */
	BATCH_SEGMENTS = 32,
	BATCH_BYTES = 8 << 20,
	BATCH_MS = 250, /* a slow store's segments do not wait for each other */
	GROUP_SEGMENTS_MAX = 256,
	GROUP_WAIT_MS = 60000,
	WAITS_MAX = 256,
	CHECK_MS = 3600000,
	READ_EVERY_MS = 5000, /* of a log that is read though it is not pulled from … */
	READ_MS = 1000,	      /* … for so long at a time */
	FIRST_TELL_MS = 1000,
	FIRST_PAUSE_MS = 100,
};

#define SEGMENT_KEY_SIZE (sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE)

struct name {
	struct segment_id id;
	char text[SEGMENT_NAME_SIZE];
	uint64_t size; /* as listed; 0: not known */
	bool fresh;    /* to be fetched, by all that was known when the page was listed */
};

/* A writer whose group is not complete. */
struct wait {
	unsigned region;
	uint64_t node;
	uint64_t next; /* looked at again when this number is listed */
	int64_t since_ms;
};

struct pull_region_state {
	bool started;
	bool baseline;	    /* begun in the middle: earlier numbers of unknown writers are taken as
			       known */
	int64_t wide_ms;    /* when the last wide listing was */
	int64_t skew_ms;    /* likewise, of one that covers the clocks' skew */
	uint64_t window_ms; /* grows with what was found late */
	bool relist;	    /* a gap: the next listing starts at relist_ms */
	uint64_t relist_ms;
	bool asked;	  /* whether a checkpoint is needed … */
	int64_t asked_ms; /* … or the beginning of the last complete reading after that; boottime */
	bool reload;	  /* a gap that a checkpoint may cover */
	bool vain;	  /* none does */
	int64_t read_next_ms; /* monotonic: when the log is read again that is not pulled from */
};

struct puller {
	struct puller_options o;
	struct cache *cache;
	uint64_t node;
	unsigned current; /* index of the region pulled from */
	struct pull_region_state region[REGION_MAX];
	bool begun; /* the home region's log counts as read from its beginning */
	struct name *page; /* PAGE_NAMES */
	struct ahead *ahead;
	struct wait wait[WAITS_MAX];
	unsigned wait_count;
	uint64_t junk_logged;
	atomic_bool threaded;
	_Atomic unsigned read; /* a bit for each region: its log is read, too */
	_Atomic int64_t read_ms[REGION_MAX];
	unsigned at;		/* index of the region at hand */
	int64_t until_ms;	/* monotonic: its turn is over then; 0: no limit */
	struct {
		int64_t deadline_ms; /* monotonic; 0: this is not the first sync */
		int64_t told_ms;
		puller_progress_fn progress;
		void *ctx;
	} first;
	struct mutex status_lock;
	struct puller_status status;
};

/* One step's work on one region. */
struct pull {
	struct puller *p;
	struct region *region;
	unsigned count;		     /* names in the page */
	char last[SEGMENT_KEY_SIZE]; /* last key listed */
	unsigned listed;
	unsigned ahead; /* names of the page before this one were fetched ahead, or need not be */
	bool own;	      /* this server's are to be merged, too */
	uint64_t cursor_ms;   /* when the step began */
	uint64_t from_ms;     /* what is older was not listed */
	uint64_t newest_ms;   /* of what others wrote and was listed */
	uint64_t own_ms;      /* likewise of what this server wrote */
	uint64_t unmerged_ms; /* least of what was listed and not merged; UINT64_MAX: none */
	bool failed;
	bool newer;  /* the writer at hand stands at a segment of a newer format */
	bool relist; /* or at a gap, and the next step lists from further back */
	bool did;
	int local; /* -errno that ends the step */
};

/* One writer's run: the batch under way. */
struct run {
	struct pull *l;
	uint64_t node;
	uint64_t seq; /* merged */
	char name[SEGMENT_NAME_SIZE];
	struct merge_batch *batch;
	unsigned batched;
	size_t bytes;
	int64_t began_ms;
	bool open;	 /* the last one added continues */
	uint64_t to_seq; /* watermark after the batch */
	char to_name[SEGMENT_NAME_SIZE];
	uint64_t newest_ms;
};

/* FETCH_STOP: this writer's turn is over; FETCH_LOCAL: so is the step, pull.local says why. */
enum fetched { FETCHED, FETCH_ABSENT, FETCH_BAD, FETCH_STOP, FETCH_LOCAL };

/* Reads the watermark of run->node. */
int run_begin(struct run *run) MUST_CHECK;
/* Has the next segments of the page fetched. */
void pull_fetch_ahead(struct pull *l);
void segment_key(char key[SEGMENT_KEY_SIZE], const char *name);
/* Adds a segment that was listed, and those before it that were not; passes over what cannot be
 * had, with a record for the operator. FETCHED: go on. */
enum fetched run_take(struct run *run, const struct name *n) MUST_CHECK;
/* Merges what was added and moves the watermark. -EBUSY: local changes keep coming. */
int run_commit(struct run *run) MUST_CHECK;
/* pull_checkpoint.c: loads a checkpoint where the region's log is not enough. *stop: that is not known, or not done yet;
 * the log must not be read before. */
int pull_checkpoint(struct puller *p, struct region *region, bool *did, bool *stop) MUST_CHECK;
/* A segment that is wanted is not there: true when the step is to end, because a checkpoint may cover
 * it. */
bool pull_wants_checkpoint(struct pull *l) MUST_CHECK;
/* The first sync has taken as long as it may. */
bool pull_first_over(const struct puller *p) MUST_CHECK;
/* The log of the region with that index is read from its beginning (puller_read). */
bool pull_reads(const struct puller *p, unsigned index) MUST_CHECK;
/* Forgets what was added. */
void run_drop(struct run *run);

#endif
