/*
 * Checkpoints of a region: all that its log had to say up to some segment of each writer, so that who
 * comes new, or was away for long, need not read the log, and its old segments can go.
 *
 *   .meridian/checkpoint/<ms>-<node>          the manifest, written last: it makes the checkpoint
 *   .meridian/checkpoint/<ms>-<node>-<part>   records in the form of segments, parts from 1
 *   .meridian/checkpoint/lease                which server writes the next one
 *
 * docs/bucket-format.md has the bytes.
 */
#ifndef REPLICATOR_CHECKPOINT_H
#define REPLICATOR_CHECKPOINT_H

#include "replicator/merge.h"
#include "replicator/pull.h"
#include "replicator/region.h"

#define CHECKPOINT_PREFIX ".meridian/checkpoint/"
#define CHECKPOINT_LEASE CHECKPOINT_PREFIX "lease"
#define CHECKPOINT_PART_BYTES (4u << 20) /* raw payload at which a part is closed */
#define CHECKPOINT_PARTS_MAX 1000000u
#define CHECKPOINT_COVERS_MAX 1000000u
#define CHECKPOINT_MANIFEST_MAX (64u << 20)
#define CHECKPOINT_NAME_SIZE 30 /* "<12 hex ms>-<16 hex node>" and NUL */
#define CHECKPOINT_KEY_SIZE (sizeof(CHECKPOINT_PREFIX) + SEGMENT_NAME_SIZE)

struct checkpoint_part {
	uint64_t size;
	uint8_t hash[SHA256_SIZE];
};

struct checkpoint {
	uint64_t ms;
	uint64_t node;
	uint64_t records;
	/* Segments whose name has an earlier time, and that this one and the one before it cover,
	 * may be removed. */
	uint64_t horizon_ms;
	uint64_t cursor_ms; /* a puller that has it all lists from here, less its windows */
	struct checkpoint_part *parts;
	uint32_t part_count;
	/* For each writer its newest segment of which all, and of those before it, is in the
	 * records; in ascending order of node. */
	struct segment_id *covers;
	uint32_t cover_count;
};

void checkpoint_done(struct checkpoint *c);
void checkpoint_name(uint64_t ms, uint64_t node, char name[CHECKPOINT_NAME_SIZE]);
/* Of a manifest: "<ms>-<node>". */
bool checkpoint_name_parse(const char *name, uint64_t *ms, uint64_t *node) MUST_CHECK;
/* The newest number of node's that is covered; 0: none. */
uint64_t checkpoint_covers(const struct checkpoint *c, uint64_t node);
/* The sum of all of them. */
uint64_t checkpoint_segments(const struct checkpoint *c);

void checkpoint_encode(const struct checkpoint *c, struct buf *b);
/* Checks all of it, and that it is the one of that name. -EBADMSG, -EPROTONOSUPPORT (a newer
 * format), -ENOMEM. */
int checkpoint_decode(const char *name, const void *p, size_t n, struct checkpoint *ret,
	struct err *err) MUST_CHECK;

/* ---- reading (checkpoint_read.c) ---- */

enum checkpoint_found {
	CHECKPOINT_FOUND,
	CHECKPOINT_NONE,
	CHECKPOINT_UNKNOWN, /* the region did not answer */
};
/* The newest one of a region that can be read, passing over damaged ones. before_ms: only those with
 * an earlier time (UINT64_MAX: any). In *result what was found; -errno for local failures. */
int checkpoint_find(struct region *r, uint64_t before_ms, struct checkpoint *ret,
	enum checkpoint_found *result) MUST_CHECK;

/* Merges all of it, part by part, each in one transaction, and then has this server pull on from
 * there. Parts are fetched ahead by threads of its own when threaded. A load that was interrupted goes
 * on where it was. done (may be NULL) is told of each merged part; false ends it. *loaded: all is
 * merged. Otherwise it was ended, the region failed, a part is damaged, or local changes keep coming:
 * try again. -errno for local failures. */
typedef bool (*checkpoint_progress_fn)(void *ctx, uint64_t parts_done, uint64_t parts);
int checkpoint_load(struct region *r, const struct merger_options *o, const struct checkpoint *c,
	bool threaded, checkpoint_progress_fn done, void *ctx, bool *loaded) MUST_CHECK;

/* ---- writing (checkpoint_write.c) ---- */

struct checkpointer;

struct checkpointer_options {
	struct cache *cache;
	struct region *region;
	int64_t interval_ms; /* the least time between two */
	uint64_t segments;   /* new ones that make one worth while */
	int64_t keep_ms;     /* segments that are younger stay */
	int64_t look_ms;     /* how often to find out whether one is due */
	/* Of a region that is not this server's home: the puller that can read its log, and its index
	 * there. NULL: it is the home region. */
	struct puller *puller;
	unsigned index;
};

struct checkpointer_status {
	int64_t newest_ms;	 /* the store's time of the newest one known; 0: none */
	uint64_t segments_since; /* that came after it */
};

int checkpointer_new(const struct checkpointer_options *o, struct checkpointer **ret) MUST_CHECK;
void checkpointer_free(struct checkpointer *w);
/* Writes a checkpoint when one is due and no other server is at it; then removes older ones but the
 * newest two, and segments that both cover. *did: one was written or something removed. A region
 * that fails is no error. */
int checkpointer_step(struct checkpointer *w, bool *did) MUST_CHECK;
/* Thread-safe. */
void checkpointer_status(struct checkpointer *w, struct checkpointer_status *ret);

#endif
