/*
 * Merging: last writer wins per register, total and independent of arrival order; the version
 * vector, which goes with the content that wins and says what its writer had seen, decides only
 * whether the loss was a conflict.
 */
#ifndef REPLICATOR_MERGE_H
#define REPLICATOR_MERGE_H

#include "replicator/segment.h"

struct merge_outcome {
	bool content_changed; /* the record's content register won */
	bool attr_changed;
	bool mtime_changed;
	bool vector_changed;
	bool conflict;	/* contents were written concurrently and differ */
	bool local_won; /* with conflict: ours stays */
};

/* Pure. local may be all zero (never seen). merged is overwritten. -ENOMEM. */
int entry_merge(const struct entry *local, const struct entry *remote, struct entry *merged,
	struct merge_outcome *outcome) MUST_CHECK;

struct sealer;
struct regions;

struct merger_options {
	/* seals pending local changes before a record of their key is merged */
	struct sealer *sealer;
	int64_t max_clock_skew_ms;
	uint64_t inline_max;
	const struct regions *regions; /* NULL: nobody else writes there */
};

struct merge_batch; /* records of one or more segments that belong together */

/* Collects records (copying them; inline content goes to content files at once unless an equal
 * or newer entry is known already), so memory stays bounded by metadata. Damaged records are
 * counted and logged; those too far in the future are remembered for held_add. */
int merge_batch_new(
	struct cache *c, const struct merger_options *o, struct merge_batch **ret) MUST_CHECK;
int merge_batch_add_segment(struct merge_batch *b, const struct segment *s) MUST_CHECK;
int merge_batch_add_record(struct merge_batch *b, const struct record *r) MUST_CHECK;
/* Seals what is pending here for the batch's keys (seal_key), then merges all in one
 * transaction; extra (may be NULL) runs inside it before the commit, for watermarks. On failure
 * nothing changed and it may be called again (-EBUSY: local changes kept coming; -ENOSPC). */
int merge_batch_commit(
	struct merge_batch *b, int (*extra)(void *ctx, struct conn *conn), void *ctx) MUST_CHECK;
void merge_batch_free(struct merge_batch *b);

#endif
