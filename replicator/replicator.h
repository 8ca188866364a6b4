/*
 * The replicator: everything that leaves or enters the machine for one volume.
 *
 *   sealer thread            journal -> entries, outbox                        seal.h
 *   per region: announcer    outbox -> segments                                deliver.h
 *               object pool  outbox -> objects                                 deliver.h, object.h
 *   puller thread            segments of the home region -> merge              pull.h, merge.h
 *   fetch pool               content on first open                             fetch.h
 *   durable thread           fsync that waits for regions                      durable.h
 *   housekeeper              checkpoints of the database
 *   refresh threads          content that nobody asked for                    cache/refresh.h
 *   evictor                  content that is too much here                     cache/evict.h
 *   reconciler               what other tools did to the buckets               reconcile.h
 *
 * Each thread is a loop around a step function; the simulation calls the steps itself.
 */
#ifndef REPLICATOR_REPLICATOR_H
#define REPLICATOR_REPLICATOR_H

#include "cache/cache.h"
#include "cache/durability.h"
#include "cache/outbox.h"
#include "cache/refresh.h"
#include "cache/upload_record.h"
#include "cache/resync.h"
#include "src/base/hash.h"
#include "replicator/reconcile.h"
#include "replicator/seal.h"
#include "replicator/store/store.h"
#include "replicator/trash.h"

struct buf;

struct replicator_region_options {
	struct store_config store;
	/* the simulation's: used instead of opening store.url; owned from then on */
	struct store *opened;
	/* Nobody waits for it, and nothing is kept here for it; when so many changes wait for it, or one for so
	 * long, they are dropped, and what it missed is computed when it answers. */
	bool optional;
	uint64_t resync_backlog; /* 0: 1,000,000 */
	int64_t resync_age_ms;	 /* 0: a day */
};

struct replicator_options {
	const char *volume; /* name, for messages */
	unsigned regions;   /* 1 to REGION_MAX */
	struct replicator_region_options region[REGION_MAX];
	unsigned home;		   /* index: pulled from and read from first */
	uint64_t inline_max;	   /* 0: INLINE_MAX_DEFAULT */
	enum refresh_mode refresh;
	uint64_t lazy_min;	   /* files of at least so many bytes are read by ranges; 0: none */
	int64_t seal_after_ms;	   /* 0: 5,000 */
	unsigned seal_set_size, seal_set_max; /* as those of struct sealer_options */
	int64_t segment_delay_ms;  /* 0: 250; how long changes are gathered */
	int64_t poll_interval_ms;  /* 0: 1,000 */
	int64_t max_clock_skew_ms; /* 0: 300,000 */
	unsigned object_threads;   /* per region; 0: 64 */
	int64_t checkpoint_interval_ms; /* least time between checkpoints; 0: 1 hour */
	uint64_t checkpoint_segments;	/* that make one worth while; 0: 400 */
	int64_t segment_keep_ms;	/* 0: 7 days */
	int64_t trash_keep_ms;		/* 0: 30 days */
	int64_t gone_after_ms;		/* a server of which nothing is heard that long is gone; 0: 1 day */
	bool push_copy;		   /* regions beside the home region copy contents from it */
	int64_t durability_timeout_ms; /* 0: 30,000 */
	bool force_regions;	   /* drop the outbox of regions no longer named */
	int64_t reconcile_interval_ms; /* 0: only when asked */
	int64_t reconcile_grace_ms;    /* 0: 300,000 */
	uint64_t max_delete;	       /* MAX_DELETE_NONE: none at all; both 0: 50 % */
	unsigned max_delete_percent;   /* goes first */
};

struct replicator;

/* Opens stores and registers regions; no network. Strings are copied. */
int replicator_new(struct cache *c, const struct replicator_options *o, struct replicator **ret,
	struct err *err) MUST_CHECK;
/* Contacts every region at once for at most timeout_ms: an answer that will not heal (denied, a
 * bucket of another volume, a newer format) is an error whose text names the region, the cause
 * and the next step (-EACCES, -EMEDIUMTYPE, -EPROTONOSUPPORT); regions that do not answer, or deny
 * access and were used before by this state, are tried again later. Creates volume.json where it is missing. */
int replicator_preflight(struct replicator *r, int64_t timeout_ms, struct err *err) MUST_CHECK;
/* On a server that never pulled anything, before replicator_start: pulls, on the calling thread, until
 * everything that the region pulled from has is merged, for at most timeout_ms or until no region answers.
 * Returns at once on any other. progress (may be NULL) is told of the parts of a checkpoint, at most once
 * a second. -errno for local failures. */
typedef void (*replicator_sync_fn)(void *ctx, uint64_t done, uint64_t parts);
int replicator_first_sync(struct replicator *r, int64_t timeout_ms, replicator_sync_fn progress,
	void *ctx, struct err *err) MUST_CHECK;
/* Starts the threads and sets the cache's fetcher. */
int replicator_start(struct replicator *r, struct err *err) MUST_CHECK;
/* Ends the threads; requests under way are cancelled. What is not pushed stays in the outbox. */
void replicator_stop(struct replicator *r);
void replicator_free(struct replicator *r); /* stops if needed, closes stores; NULL is fine */

/* Steps, for the simulation and for running without threads. *did: something was done. A region
 * that fails is an outcome, not an error: they return -errno for local failures (disk full)
 * only. */
int replicator_step_seal(struct replicator *r, bool *did) MUST_CHECK;
int replicator_step_announce(struct replicator *r, unsigned region, bool *did) MUST_CHECK;
int replicator_step_objects(
	struct replicator *r, unsigned region, unsigned max, bool *did) MUST_CHECK;
int replicator_step_pull(struct replicator *r, bool *did) MUST_CHECK;
/* One attempt to bring the content of ino here, on the calling thread: 0 it is here; -EAGAIN no
 * region has it now; -EIO no region answers; -ESTALE the inode does not want it any more. */
int replicator_step_fetch(struct replicator *r, uint64_t ino) MUST_CHECK;
/* Fetches the next file that is to be fetched without being asked for. */
int replicator_step_refresh(struct replicator *r, bool *did) MUST_CHECK;
/* Looks at those who wait until regions have a file, and answers them. */
int replicator_step_durable(struct replicator *r, bool *did) MUST_CHECK;
/* A durability_wait_fn. */
void replicator_wait_durable(struct replicator *r, uint64_t ino, enum durability mode,
	durability_done_fn done, void *arg);
/* A batch of evict_step. */
int replicator_step_evict(struct replicator *r, bool *more) MUST_CHECK;
/* checkpointer_step of each region. */
int replicator_step_checkpoint(struct replicator *r, bool *did) MUST_CHECK;
int replicator_step_last_words(struct replicator *r, bool *did) MUST_CHECK;
/* A part of the clean-up of a region's trash. */
int replicator_step_trash(struct replicator *r, bool *did) MUST_CHECK;
/* An evict_proof_fn; ctx is the replicator. Asks the regions one by one, the home region first, for the
 * object's metadata. */
bool replicator_has_object(
	void *ctx, struct slice key, const uint8_t hash[SHA256_SIZE], uint64_t size);
/* A whole scan of one region, on the calling thread. *did: also when something is left for the next one. */
int replicator_step_reconcile(struct replicator *r, unsigned region, bool *did) MUST_CHECK;
/* As reconciler_scan, after one that is under way; region: by name, "": all of them, one after the other; request->region is set here. */
int replicator_reconcile(struct replicator *r, const char *region, struct reconcile_request *request,
	int (*done)(void *ctx, const char *region, const struct reconcile_counts *counts),
	struct err *err) MUST_CHECK;
/* A little of what takes long: cache_sweep, the backlog of new regions, and what optional ones missed. */
int replicator_step_upkeep(struct replicator *r, bool *more) MUST_CHECK;

/* regions_watch: leaves regions that fail or are slow for reading, and takes them back. */
void replicator_step_watch(struct replicator *r);

struct region_status {
	char name[REGION_NAME_SIZE];
	char url[256];
	bool home;
	bool up;	       /* the last contact succeeded, or none was needed yet */
	bool checked;	       /* volume.json was read and fits */
	unsigned capabilities; /* STORE_CAP_*, once checked */
	int64_t clock_skew_ms;
	bool left;		  /* read last, because it fails or is slow (health.h) */
	int64_t latency_ms;	  /* of listings, averaged; -1: none yet */
	unsigned failing_percent; /* of reads, averaged */
	struct outbox_stats outbox;
	struct upload_stats upload; /* in parts, begun and not ended */
	uint64_t bytes_sent;	    /* of bodies, since the start; likewise the two below */
	uint64_t bytes_received;
	uint64_t bytes_copied; /* contents that the store copied from elsewhere */
	uint64_t wrong_bytes;  /* times that bytes from it did not match their hash */
	bool copies;	       /* from the home region (push = copy) */
	bool copies_apart;     /* push = copy, and its store has nothing to do with the home region's */
	char copy_error[256];  /* why its store would not; "": it did not refuse */
	uint64_t rate_limit;   /* bytes a second each way, as now; 0: none */
	int64_t rate_until_ms; /* realtime: when it is another one; 0: always the same */
	uint64_t request_limit; /* requests a second; likewise */
	int64_t request_until_ms;
	uint64_t throttled;    /* requests that the store refused as too many, since the start */
	unsigned connections;  /* requests at once, at most */
	unsigned connections_allowed; /* now: fewer after it refused some */
	bool seeding;	     /* it is new, and outbox does not have everything yet */
	struct resync_status resync;
	struct reconcile_status reconcile;
	struct trash_status trash;
	int64_t checkpoint_ms; /* when its newest known one was written; 0: none */
	int64_t last_ok_ms;  /* realtime of the last success; 0: never */
	int64_t retry_at_ms; /* while down: the next attempt */
	char error[256];     /* last failure, "" when none since the last success */
};

#define REPLICATOR_STOPPED_SIZE 256

struct replicator_status {
	char volume_id[40];
	uint64_t node;
	int64_t clock_off_ms; /* this machine's less the regions' that is used instead; 0: it is not */
	unsigned regions;
	struct region_status region[REGION_MAX];
	uint64_t journal_rows;
	uint64_t journal_oldest_ms;
	bool renaming; /* a directory's rename is being turned into changes of names */
	struct seal_progress rename;
	/* What a failure on this machine, a full disk say, keeps from getting on, and why; "": nothing. */
	char stopped[REPLICATOR_STOPPED_SIZE];
	char pull_region[REGION_NAME_SIZE]; /* pulled from now */
	int64_t pull_last_ms;		    /* realtime of the last complete pull; 0: never */
	/* age of the newest merged segment when merged; -1: none yet */
	int64_t pull_lag_ms;
	uint64_t loading_parts; /* of the checkpoint that is being loaded; 0: none is */
	uint64_t loading_done;
	int64_t checkpoint_ms;	      /* when the home region's newest known one was written; 0: none */
	uint64_t checkpoint_segments; /* that came after it */
	uint64_t conflicts;
	uint64_t refresh; /* files that wait to be fetched without being asked for: refresh_count */
	uint64_t held;
	uint64_t bad_segments;
	uint64_t entries;
	uint64_t tombstones;
	uint64_t durable_waiting; /* fsync and the like that wait for regions */
};
int replicator_status(struct replicator *r, struct replicator_status *ret) MUST_CHECK;

/* Seals everything (or what lies at or below key) and, when wait, returns once every region has
 * it: 0, or -ETIMEDOUT after timeout_ms (< 0: no limit) with what is left in err. progress (may
 * be NULL) is called about once a second with the rows left; non-zero from it ends the wait with
 * -ECANCELED. */
typedef int (*replicator_progress_fn)(void *ctx, uint64_t rows_left);
int replicator_flush(struct replicator *r, struct slice key, bool wait, int64_t timeout_ms,
	replicator_progress_fn progress, void *ctx, struct err *err) MUST_CHECK;

/* For `config check`: contacts one region without changing it except for the probe's own
 * objects; text says what was found. */
int replicator_check_region(
	const struct store_config *config, int64_t timeout_ms, struct buf *text) MUST_CHECK;

#endif
