/*
 * Uploads in parts that are under way (replicator/upload.c): what a restart needs to go on with one,
 * and to find those that nobody goes on with. One for each region and key.
 */
#ifndef CACHE_UPLOAD_RECORD_H
#define CACHE_UPLOAD_RECORD_H

#include "cache/cache.h"
#include "src/base/hash.h"

#define UPLOAD_ID_SIZE 512   /* with NUL */
#define UPLOAD_ETAG_SIZE 136 /* likewise */

struct upload_record {
	int64_t number;		      /* the record's own, never 0 */
	uint8_t version[SHA256_SIZE]; /* of what is sent: its content and metadata */
	uint64_t size;
	uint64_t part_size;
	char id[UPLOAD_ID_SIZE]; /* the store's; "": it is not known whether it was begun */
};

struct upload_part {
	uint32_t number; /* from 1 */
	uint64_t size;
	uint8_t hash[SHA256_SIZE];
	char etag[UPLOAD_ETAG_SIZE];
};

/* -ENOENT: none. */
int upload_record_get(
	struct conn *conn, unsigned region, struct slice key, struct upload_record *ret) MUST_CHECK;
/* Before the store is asked for an upload. Takes the place of an earlier one; sets number. */
int upload_record_add(struct conn *conn, unsigned region, struct slice key,
	struct upload_record *record) MUST_CHECK;
/* The store gave it that id. Nothing when the record is gone. */
int upload_record_begun(struct conn *conn, int64_t number, const char *id) MUST_CHECK;
/* With its parts; nothing when it is gone. */
int upload_record_remove(struct conn *conn, int64_t number) MUST_CHECK;
/* All of a region that is retired. */
int upload_record_clear(struct conn *conn, unsigned region) MUST_CHECK;

/* The store has the part. Nothing when the record is gone. */
int upload_part_add(struct conn *conn, int64_t number, const struct upload_part *part) MUST_CHECK;
/* In order of their numbers. Non-zero from fn ends it and is returned. */
typedef int (*upload_part_fn)(void *ctx, const struct upload_part *part);
int upload_part_each(struct conn *conn, int64_t number, upload_part_fn fn, void *ctx) MUST_CHECK;

/* The next record of the region after number. orphan: of those without an outbox row. -ENOENT. */
int upload_record_next(struct conn *conn, unsigned region, int64_t after, bool orphan,
	struct key *key, struct upload_record *ret) MUST_CHECK;

struct upload_stats {
	uint64_t uploads;
	uint64_t bytes;
	uint64_t sent; /* of those, in parts that the store has */
};
int upload_stats(struct conn *conn, unsigned region, struct upload_stats *ret) MUST_CHECK;

#endif
