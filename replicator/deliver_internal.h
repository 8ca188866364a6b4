/* Private to deliver*.c: a region's deliverer, and a row on its way through the files. */
#ifndef REPLICATOR_DELIVER_INTERNAL_H
#define REPLICATOR_DELIVER_INTERNAL_H

#include "replicator/deliver.h"
#include "replicator/lanes.h"
#include "replicator/object.h"
#include "replicator/placed.h"
#include "replicator/recheck.h"
#include "replicator/upload.h"
#include "src/base/thread.h"

enum {
	DELIVER_THREADS_MAX = 256,
	DELIVER_BUSY_MAX = LANES * LANE_ROWS + DELIVER_THREADS_MAX + 256,
};

enum fate { FATE_NONE, FATE_DONE, FATE_WAITS, FATE_FAILED, FATE_PARKED };

/* A row and what became of it. */
struct job {
	struct outbox_row row;
	enum fate fate;
	bool repair;	/* the entry was replaced by a remote version meanwhile */
	bool uncertain; /* a write of it may still be under way */
	bool deputy;	/* content of another's was put */
	struct object_note note;
	bool gone;     /* no region has its content, nor is it here */
	bool lost;     /* and lost.h may have an answer */
	bool untold;   /* nobody was told of it: it is in no segment */
	bool was_here; /* it was here once */
	bool settled;  /* a former name, whose new one is there */
	bool mapped;   /* the object is now the version with that hash, which may have a map */
	uint8_t hash[SHA256_SIZE];
	int64_t next_at_ms;
	char error[OUTBOX_ERROR_SIZE];
};

struct deliverer {
	struct delivery_options o;
	struct mutex lock;
	struct cond work; /* workers: rows, or stopping */
	struct cond news; /* dispatcher: completions, room, kicked, stopping */
	struct lanes lanes;
	struct placed placed;
	uint64_t busy[DELIVER_BUSY_MAX]; /* hashes of keys */
	unsigned busy_count;
	struct job *done; /* completions; room for DELIVER_BUSY_MAX */
	unsigned done_count;
	bool kicked;
	bool stopping;

	struct uploader uploader;
	bool sweep;		/* guarded by lock: due */
	bool sweeping;		/* likewise: somebody is at it */
	bool listed;		/* the sweeper's: it has been through the bucket's uploads */
	int64_t sweep_at_ms;	/* monotonic; the dispatcher's, or deliverer_step's */
	int64_t rest_until_ms;	/* monotonic; the dispatcher's: what was done last could not be recorded */
	struct recheck recheck; /* the dispatcher's, or deliverer_step's */
	pthread_t dispatcher;
	bool dispatching;
	pthread_t *workers;
	unsigned started; /* the dispatcher's, while there is one */
	unsigned idle;	  /* workers that wait */
};

/* ---- deliver_row.c ---- */

/* Delivers j->row and notes in the rest of *j, which is zero before, what became of it; FATE_NONE:
 * nothing, the row stays as it is. Blocks on requests to the region. */
void deliver_row(struct deliverer *d, struct job *j);

/* ---- deliver_outcome.c ---- */

/* Writes what became of the jobs, in one transaction. */
int deliver_record(struct deliverer *d, const struct job *jobs, unsigned count) MUST_CHECK;

#endif
