/*
 * What the files of the reconcile scan share: reconcile.c (a scan's threads and phases),
 * reconcile_page.c (a page of the listing, or of what is known), reconcile_object.c (objects that
 * need a look), reconcile_judge.c (what becomes of one), reconcile_run.c (when). Not for others.
 */
#ifndef REPLICATOR_RECONCILE_INTERNAL_H
#define REPLICATOR_RECONCILE_INTERNAL_H

#include "cache/object_seen.h"
#include "cache/region.h"
#include "replicator/object.h"
#include "replicator/reconcile.h"
#include "replicator/upload.h"

enum {
	SCAN_PAGE = 1000,
	SCAN_BATCH = 16,      /* objects of one transaction */
	SCAN_RANGES = 32,     /* parts that are listed at once, at most */
	SCAN_FINDINGS = 1000, /* that wait to be reported */
};

/* ---- reconcile_judge.c ---- */

enum verdict {
	VERDICT_SAME,	/* remember it */
	VERDICT_FORGET, /* nothing is there, and nothing has to be */
	VERDICT_WAIT,	/* something is under way */
	VERDICT_VERIFY, /* the same metadata on another version: compare the bytes */
	VERDICT_PUT,	/* another tool's content: take it over */
	VERDICT_MERGE,	/* a server's, and newer than what is known here */
	VERDICT_REPAIR, /* what is known has to go there */
	VERDICT_REMOVE, /* another tool removed it */
};

struct facts {
	int64_t now_ms;	      /* this server's clock */
	int64_t store_now_ms; /* the store's */
	int64_t grace_ms;
	int64_t deputy_ms; /* after that others do what a writer left undone */
	int64_t max_skew_ms;
	uint64_t node; /* this server */
	const char *region;
	bool waiting;		   /* this server has something to deliver there */
	const struct entry *entry; /* NULL: none */
	bool seen;		   /* row is there */
	struct object_seen row;
	bool directory;			   /* the key ends in a slash */
	const struct store_object *object; /* NULL: the store says that nothing is there */
	const struct entry *theirs; /* by the object's metadata; NULL: it is another tool's */
};

struct judgement {
	enum verdict verdict;
	bool over; /* PUT: over the version that is known */
};

/* How long a writer is waited for before others do its work. */
static inline int64_t reconcile_deputy_ms(const struct reconciler_options *o)
{
	return o->grace_ms + 2 * o->interval_ms;
}

/* Pure. */
struct judgement reconcile_judge(const struct facts *f);

/* ---- a scan ---- */

enum candidate_kind { CANDIDATE_LISTED, CANDIDATE_GONE, CANDIDATE_UNSEEN };

/* An object that cannot be judged by the listing. */
struct candidate {
	enum candidate_kind kind;
	char *key; /* heap */
	uint64_t size;
	bool seen;
	struct object_seen row;
};

/* Phases, one after the other: what is listed; what is known and was not listed; what should be there
 * and is not known to be. */
enum phase { PHASE_LIST, PHASE_GONE, PHASE_ENTRIES };

/* A part of a phase, gone through in order by one thread at a time. */
struct range {
	enum phase phase;
	bool busy;	 /* under the scan's lock: some thread has it */
	bool done;	 /* of the thread that has it; under the scan's lock when none has */
	char *prefix;	 /* LIST; heap */
	char *after;	 /* start after this key (ENTRIES: path); heap, NULL: from the first */
	char *until;	 /* LIST: and not after this one; heap, NULL: to the end */
	struct buf low;	 /* LIST: of the rows that are known, from here … */
	struct buf high; /* … to before this; empty: to the end */
};

struct finding {
	enum reconcile_found what;
	char *key;
};

struct scan {
	struct reconciler *r;
	const struct reconciler_options *o;
	const struct reconcile_request *q;
	struct cache *cache;
	struct region *region;
	struct uploader uploader;
	struct key path;

	struct mutex lock; /* rank REPLICATOR; guards what follows */
	struct cond cond;
	struct range range[SCAN_RANGES + 1];
	unsigned ranges;
	struct candidate *queue; /* those that wait, in a ring */
	size_t head, count, room;
	unsigned active;  /* threads at a page or a batch */
	unsigned workers; /* threads that did not end */
	bool stop;
	int error; /* -errno why */
	struct err err;
	struct finding findings[SCAN_FINDINGS];
	unsigned finding_count;
	uint64_t known;	   /* rows met */
	uint64_t gone;	   /* of those, without an object */
	uint64_t removals; /* decided */
	uint64_t removals_max;
	struct reconcile_counts counts;
};

/* All of these take the lock. */
bool scan_stopped(struct scan *s);
/* Ends the scan; the first reason stays. The text of err may be NULL. */
void scan_fail(struct scan *s, int error, const struct err *err);
/* A failed request: ends the scan when the region does not answer, else counts the object. */
void scan_request_failed(struct scan *s, const char *key, const char *what,
	enum store_result result, const struct store_error *error);
void scan_found(struct scan *s, enum reconcile_found what, const char *key);
void scan_add(struct scan *s, uint64_t *counter, uint64_t n);
/* Takes key over. */
void scan_push(struct scan *s, struct candidate *c);

/* reconcile_page.c */
/* The next page of the range; r->done after the last. */
void scan_page(struct scan *s, struct range *r);
/* The parts of the listing. */
int scan_split(struct scan *s) MUST_CHECK;
void range_done(struct range *r);

/* reconcile_object.c */
void scan_batch(struct scan *s, struct candidate *c, unsigned count);

/* reconcile_run.c */
struct reconciler {
	struct reconciler_options o;
	struct mutex lock; /* leaf; guards what follows */
	struct cond cond;
	bool scanning;
	bool stopping;
	pthread_t thread; /* this and started: of start and stop */
	bool started;
	int64_t wait_until_ms[REGION_MAX]; /* monotonic; not before */
	struct reconcile_status status[REGION_MAX];
	bool loaded[REGION_MAX]; /* reconciler_step's, and of reconciler_finished */
};
/* A region was gone through. */
int reconciler_finished(
	struct reconciler *r, unsigned index, const struct reconcile_counts *counts) MUST_CHECK;

#endif
