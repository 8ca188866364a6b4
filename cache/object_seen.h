/*
 * What this server knows to have been in a region's bucket: for each object the version that it put
 * there, or that a scan found. A scan (replicator/reconcile.h) compares the listing with it, so that
 * only what differs costs a request; and an object that is gone counts as removed by somebody only
 * if it is known here. Keys are those of the bucket, so rows are in the order of listings.
 */
#ifndef CACHE_OBJECT_SEEN_H
#define CACHE_OBJECT_SEEN_H

#include "cache/cache.h"

struct object_seen {
	uint64_t tag;	    /* object_seen_tag; 0: not known */
	struct stamp stamp; /* of the content of that version */
};

/* Tells versions apart by what a listing says of them; never 0. etag "": 0, not known. */
uint64_t object_seen_tag(const char *etag, uint64_t size);

int object_seen_put(struct conn *conn, unsigned region, const char *key,
	const struct object_seen *row) MUST_CHECK;
int object_seen_drop(struct conn *conn, unsigned region, const char *key) MUST_CHECK;
/* -ENOENT. */
int object_seen_get(
	struct conn *conn, unsigned region, const char *key, struct object_seen *ret) MUST_CHECK;
/* Up to limit rows with low <= key < high (high.p NULL: no end) in order; key is valid in the call
 * only. Stops at the first result of fn but 0, and returns it. */
typedef int (*object_seen_fn)(void *ctx, const char *key, const struct object_seen *row);
int object_seen_scan(struct conn *conn, unsigned region, struct slice low, struct slice high,
	unsigned limit, object_seen_fn fn, void *ctx) MUST_CHECK;
/* Forgets a region, with what is gone there. */
int object_seen_clear(struct conn *conn, unsigned region) MUST_CHECK;

/* The known objects that the scan under way did not find: kept here until it is through, because how
 * many they are decides what becomes of them. */
int object_gone_add(struct conn *conn, unsigned region, const char *key) MUST_CHECK;
int object_gone_clear(struct conn *conn, unsigned region) MUST_CHECK;
/* As object_seen_scan, of keys greater than after. */
int object_gone_scan(struct conn *conn, unsigned region, const char *after, unsigned limit,
	object_seen_fn fn, void *ctx) MUST_CHECK;

#endif
