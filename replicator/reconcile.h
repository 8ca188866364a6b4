/*
 * The reconcile scan: compares a region's listing with what is known of it, finds what other tools
 * put, overwrote or removed there and what servers left undone, and has it replicated like any other
 * change. Costs a listing, and requests for what differs only.
 *
 * Thread-safe. One scan runs at a time.
 */
#ifndef REPLICATOR_RECONCILE_H
#define REPLICATOR_RECONCILE_H

#include "replicator/merge.h"
#include "replicator/region.h"

struct reconciler;

struct reconciler_options {
	struct regions *regions;
	struct merger_options merger;
	int64_t interval_ms; /* between scans of a region; 0: only when somebody asks */
	int64_t grace_ms;    /* what is younger may be under way, and is left alone */
	/* More objects that are gone than this in one scan of a region are removed nowhere until an operator says
	 * so: a number, or a share of what is known there, at least RECONCILE_DELETES_MIN. */
	uint64_t max_delete;
	unsigned max_delete_percent;
	unsigned threads; /* at work for one scan */
	/* Told when the outbox got rows; may not block. */
	void (*moved)(void *ctx);
	void *ctx;
};

#define RECONCILE_DELETES_MIN 100
#define MAX_DELETE_NONE UINT64_MAX

/* What a scan finds, in the order of its report. */
enum reconcile_found {
	FOUND_PUT,	 /* another tool made it */
	FOUND_OVERWRITE, /* another tool replaced it */
	FOUND_DELETE,	 /* another tool removed it */
	FOUND_MISSED,	 /* written by a server that told nobody, or not this one */
	FOUND_STALE,	 /* the object is older than what is known of the path */
	FOUND_MISSING,	 /* the object never came here */
	FOUND_HELD,	 /* gone, and left alone: there are too many (max_delete) */
	FOUND_INVALID,	 /* its key is no path, or it is nothing that Meridian keeps */
	FOUND_FAILED,	 /* the store did not give it */
	FOUND_KINDS,
};
/* "new", "overwritten", …: as reports and JSON have it. */
const char *reconcile_found_name(enum reconcile_found f);

struct reconcile_counts {
	uint64_t objects; /* listed */
	uint64_t looked;  /* of those, how many were asked for by themselves */
	uint64_t waiting; /* left for the next scan: something is under way there */
	uint64_t found[FOUND_KINDS];
};

enum reconcile_deletes { DELETES_GUARDED, DELETES_ACCEPT, DELETES_RESTORE };

struct reconcile_request {
	unsigned region;   /* index */
	struct slice path; /* at or below it; "": everything */
	bool dry_run;	   /* nothing is changed but what is known of the bucket */
	enum reconcile_deletes deletes;
	bool alone; /* on the calling thread only */
	/* Both may be NULL; called on the calling thread. Non-zero ends the scan with -ECANCELED.
	 * progress is called about once a second. */
	int (*found)(void *ctx, enum reconcile_found f, const char *key);
	int (*progress)(void *ctx, const struct reconcile_counts *counts);
	void *ctx;
};

/* The replicator's, with its options; moved is called with it. */
struct replicator;
int reconciler_make(struct replicator *r, const struct merger_options *merger,
	void (*moved)(void *ctx)) MUST_CHECK;
int reconciler_new(const struct reconciler_options *o, struct reconciler **ret) MUST_CHECK;
void reconciler_free(struct reconciler *r);
/* 0: the region was gone through. -EBUSY: another scan is at it; -EHOSTDOWN, -EAGAIN (the region is
 * new and still being filled, or optional), -ECANCELED, or a local failure; err says which. counts is set in any
 * case. */
int reconciler_scan(struct reconciler *r, const struct reconcile_request *q,
	struct reconcile_counts *counts, struct err *err) MUST_CHECK;
/* Scans a region whose time has come, if there is one; *next_ms: when to call again (monotonic). */
int reconciler_step(struct reconciler *r, int64_t *next_ms) MUST_CHECK;
/* A thread that does so. */
int reconciler_start(struct reconciler *r) MUST_CHECK;
/* Ends it; the regions' cancel flag, which ends a scan under way, must be set first. */
void reconciler_stop(struct reconciler *r);

struct reconcile_status {
	bool running;
	int64_t last_ms; /* realtime of the last whole scan of the region, by this server; 0: never */
	bool elsewhere;			   /* another server scanned it since */
	struct reconcile_counts counts;	   /* of the last one */
	struct reconcile_counts under_way; /* while running */
};
void reconciler_status(struct reconciler *r, unsigned region, struct reconcile_status *ret);

#endif
