/*
 * Large objects in parts: several at once, resumed after a restart, aborted when nobody wants them
 * any more.
 */
#ifndef REPLICATOR_UPLOAD_H
#define REPLICATOR_UPLOAD_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "replicator/store/store.h"

/* What all uploads to one region share. Embedded; thread-safe. */
struct uploader {
	struct cache *cache;
	struct store *store;
	unsigned region;
	/* Threads that may send parts beside those that call upload_put. 0 (the default): none, each
	 * upload sends one part after another. */
	unsigned helpers_max;
	atomic_uint helpers;	 /* of those, at work */
	_Atomic int64_t records; /* uploads under way, those of earlier runs too */
};

int uploader_init(
	struct uploader *u, struct cache *c, struct store *store, unsigned region) MUST_CHECK;

/* Whether an object of that size goes in parts: the store has uploads, and it is over 64 MiB or over
 * what one put takes. */
bool upload_wanted(struct store *s, uint64_t size) MUST_CHECK;
/* Bytes of each part but the last: 16 MiB, or what the store's limits make of it. 0: too large. */
uint64_t upload_part_size(const struct store_limits *l, uint64_t size) MUST_CHECK;

struct upload_request {
	struct uploader *uploader;
	struct slice key;		   /* the path */
	const char *object;		   /* the store's key of it */
	const struct store_source *source; /* read from several threads at once */
	const struct store_meta *meta;	   /* tells versions apart: it has the content's hash */
	const struct store_condition *condition; /* as of store_put */
	/* NULL, or the SHA-256 of the content, and that of the version with the ETag in condition's
	 * if_match: what has not changed between them is copied inside the store where it can. */
	const uint8_t *hash;
	const uint8_t *base_hash;
	uint64_t base_size; /* of the object that is there */
	/* Asked before each part, from any thread; false: a newer version is to be sent. NULL: always
	 * true. */
	bool (*current)(void *ctx);
	void *ctx;
};

/* Like store_put, in parts. Goes on with an upload of the same version that an earlier call left, and
 * aborts one of another version. One of which parts are copied starts over instead. Where the store cannot end an upload under a condition, it is
 * compared by HEAD right before the end: then another's write of that moment may be lost. Results
 * beside those of store_put: STORE_LOCAL with ESTALE when it is not current any more or the source
 * said so; the upload is aborted. STORE_ABSENT: somebody aborted it; may be called again. After any
 * other failure the parts stay for the next call. Reads of the source hold no more than a part's 1 MiB
 * in memory for each of at most 4 threads; the list of parts takes up to 2 MB. */
enum store_result upload_put(const struct upload_request *q, char *etag,
	const struct store_call *call, struct store_error *error) MUST_CHECK;

/* A copy inside the store of an object that is over what one copy takes (put_max), with the metadata
 * meta; from and to may be equal. match: the version of from, or NULL. condition: on what is at to; NULL:
 * none (copied onto itself: that it is still match). Not recorded, so it starts over
 * after a failure. Needs STORE_CAP_UPLOAD_COPY. */
bool upload_copy_wanted(struct store *s, uint64_t size) MUST_CHECK;
enum store_result upload_copy(struct uploader *u, const char *from, uint64_t size,
	const char *match, const char *to, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error) MUST_CHECK;

/* The key's object is settled: an upload of it that is left is aborted (by the next sweep when the
 * store does not answer). Cheap when there is none. */
void upload_settled(struct uploader *u, struct slice key, const struct store_call *call);

/* Aborts what nobody will go on with: recorded uploads without an outbox row and, when listing, all
 * that are in the bucket below its prefix for more than a week and not recorded here. */
enum store_result upload_sweep(struct uploader *u, bool listing, const struct store_call *call,
	struct store_error *error) MUST_CHECK;

#endif
