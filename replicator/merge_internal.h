/* Private to merge_*.c: a batch of records, and the steps that its files share. */
#ifndef REPLICATOR_MERGE_INTERNAL_H
#define REPLICATOR_MERGE_INTERNAL_H

#include "cache/file.h"
#include "replicator/merge.h"

#define MADE_MAX 256u

struct merge_item {
	size_t at; /* in merge_batch.records */
	size_t len;
	bool held;
	int64_t due_ms;
	bool has_content;
	bool used; /* the tree took content over in the transaction under way */
	bool tolerated;
	struct content_writer content;
};

/* Content that was made by a delta, and is not checked yet. */
struct merge_made {
	size_t item;
	uint8_t hash[SHA256_SIZE]; /* what it is to be */
};

struct merge_batch {
	struct cache *cache;
	struct merger_options options;
	struct buf records; /* encoded, one after the other */
	struct merge_item *items;
	size_t count;
	size_t room;
	struct merge_made made[MADE_MAX];
	unsigned made_count;
	uint64_t damaged;   /* of the segment being added */
	uint64_t conflicts; /* of the transaction under way */
};

/* The key's own bytes, as record_encode wrote them. */
struct slice merge_item_key(const struct merge_batch *b, const struct merge_item *item);

/* ---- merge_content.c ---- */

/* The record's own content, or that of its former name, becomes the item's, where it is wanted. */
int merge_keep_content(
	struct merge_batch *b, const struct record *r, struct merge_item *item) MUST_CHECK;
/* Makes the content of the record, the batch's next one, by its delta. Whatever prevents that, the content
 * is fetched then. */
int merge_keep_delta(
	struct merge_batch *b, const struct record *r, struct merge_item *item) MUST_CHECK;
/* What was made counts when it is what was promised. Once, of the last of several changes of a file. */
int merge_check_made(struct merge_batch *b) MUST_CHECK;

/* ---- merge_record.c ---- */

/* Merges the item's record, or holds it, in the batch's transaction. */
int merge_record(struct merge_batch *b, struct conn *conn, struct merge_item *item) MUST_CHECK;

#endif
