/* Private to upload*.c: one upload under way, its record, and the steps that the files share. */
#ifndef REPLICATOR_UPLOAD_INTERNAL_H
#define REPLICATOR_UPLOAD_INTERNAL_H

#include "cache/upload_record.h"
#include "replicator/upload.h"
#include "replicator/upload_plan.h"
#include "src/base/thread.h"

enum { PART_TIMEOUT_MS = 60000 };

struct sending {
	const struct upload_request *q;
	const struct store_call *call;
	const char *from;  /* a copy of that object; NULL: q->source is sent */
	const char *match; /* the version of it, or NULL */
	struct upload_record record;
	bool resumed;
	struct upload_span *plan; /* count parts; NULL: all are of the record's part_size */
	uint32_t count;
	struct store_part *part; /* etag "": it is still to be sent */

	struct mutex lock;
	uint32_t next;
	enum store_result result;
	struct store_error error;
};

/* ---- upload.c ---- */

/* The store has that capability. */
bool uploader_can(const struct uploader *u, unsigned cap);
/* -ENOENT. */
int upload_find_record(struct uploader *u, struct slice key, struct upload_record *ret) MUST_CHECK;
int upload_remove_record(struct uploader *u, const struct upload_record *record) MUST_CHECK;
/* Commits when r is 0, else rolls back and returns it. */
int upload_finish(struct conn *conn, int r) MUST_CHECK;

/* ---- upload_abort.c ---- */

/* In the store, then the record. */
enum store_result upload_abort(struct uploader *u, const char *object,
	const struct upload_record *record, const struct store_call *call,
	struct store_error *error) MUST_CHECK;

/* ---- upload_send.c ---- */

/* Brings all parts that the store has not; returns when every thread that sent some has ended. */
enum store_result upload_send_all(struct sending *s, struct store_error *error) MUST_CHECK;
/* Of part i. */
uint64_t upload_part_bytes(const struct sending *s, uint32_t i);
/* A call with at most that time, within the whole one. */
struct store_call upload_call_within(const struct store_call *whole, int64_t timeout_ms);

#endif
