/* Why this file: content that a store, or one beside it, already holds under another key need not be
 * sent to it. */
#ifndef REPLICATOR_OBJECT_COPY_H
#define REPLICATOR_OBJECT_COPY_H

#include "cache/entry.h"
#include "replicator/store/store.h"
#include "src/base/hash.h"

struct uploader;

/* Where the content may lie. */
struct object_source {
	struct store *store; /* to be asked for it; the destination's own, or … */
	const char *origin;  /* … another one's, by store_origin; NULL: its own */
	const char *key;     /* NULL: there is no such source */
	/* Of the name that a removed one has now: whether it was put there lately; NULL: not known. */
	bool (*placed)(void *ctx, const uint8_t hash[SHA256_SIZE]);
	void *ctx;
};

struct object_copy {
	struct store *store;
	struct uploader *uploader;
	const struct store_call *call;
	const char *to;
	const struct entry *entry; /* kind, size and hash say what is wanted */
	const struct store_meta *meta;
	const char *match; /* of what is at to; NULL: it is believed absent */
};

/* Whether the object at key has that content, by its metadata; *object is then filled. */
enum store_result object_has(struct store *s, const char *key, const struct entry *entry, bool *ret,
	struct store_object *object, const struct store_call *call,
	struct store_error *error) MUST_CHECK;

/* Copies inside the store, with new metadata, if the source has the content and the store can.
 * STORE_OK and *copied: done; without: the source does not have it, or the store will not: the content
 * is to be sent. *guarded: the store made sure of what was at to, as a put would have; else it was
 * looked at right before. *refused: the store would not copy from there, and will not next time.
 * STORE_EXISTS, STORE_PRECONDITION: something else is at to. */
enum store_result object_copy(const struct object_copy *c, const struct object_source *from,
	char *etag, bool *copied, bool *guarded, bool *refused,
	struct store_error *error) MUST_CHECK;

#endif
