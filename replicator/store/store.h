/*
 * Object stores: the interface, its result codes, and the assembly of its layers.
 *
 * A store is one bucket and prefix. Every call blocks, is safe from any number of threads at once,
 * and either succeeds or returns one code of a closed set. Backends classify failures and never
 * sleep or repeat; exactly one layer (retry.c) does. The layers are, from the outside in:
 *
 *     retry( pace( limit( stats( backend ) ) ) )      backend: dir | s3; pace only where there are
 *                                             limits; fault.c may stand before the backend in tests
 *
 * Keys are UTF-8 byte strings of 1 to 1,024 bytes, relative to the prefix, already escaped
 * (replicator/object_key.h). Listings are in byte order of the keys. ETags are opaque.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "src/base/attribute.h"
#include "src/base/err.h"
#include "src/base/schedule.h"

#define STORE_KEY_MAX 1024
#define STORE_ETAG_SIZE 136   /* with NUL; a longer ETag is STORE_CORRUPT */
#define STORE_META_MAX 32     /* pairs */
#define STORE_META_BYTES 2048 /* names and values together: Amazon S3's limit */

enum store_result {
	STORE_OK = 0,
	STORE_ABSENT,	    /* the store answered, authenticated: no such object */
	STORE_EXISTS,	    /* put if_absent: something is there */
	STORE_PRECONDITION, /* if_match: it is another version, or gone */
	STORE_TRANSIENT,    /* 5xx, connection refused or reset before the request was sent whole */
	STORE_THROTTLED,    /* 503 SlowDown, 429; error->retry_after_ms may be set */
	STORE_DENIED,	    /* 401, 403, bad credentials, clock too far off, no such bucket */
	STORE_TIMEOUT,	    /* nothing was changed, or the call only reads */
	STORE_CORRUPT,	    /* an answer that cannot be: bad XML, short body, checksum mismatch */
	STORE_TOO_LARGE,    /* body or metadata over the store's limit */
	STORE_UNSUPPORTED,  /* this store does not have the operation or condition */
	STORE_UNKNOWN,	    /* a change was sent and its answer was lost: it may have happened */
	STORE_LOCAL,	    /* source or sink failed, or cancel was set; error->local_errno says */
	STORE_RESULT_COUNT
};

const char *store_result_name(enum store_result r);
/* True for codes that time may heal without anybody's help: transient, throttled, timeout, unknown. */
bool store_result_passing(enum store_result r);

/* Details of a failure, for logs and operators; never secrets. Zero-initialise. */
struct store_error {
	int http_status; /* 0: none */
	char code[64];	 /* the provider's code, e.g. "NoSuchKey" */
	char request_id[64];
	int64_t retry_after_ms;
	int local_errno; /* positive; with STORE_LOCAL */
	char text[256];
};

/* User metadata: lower-case ASCII names, printable ASCII values without leading or trailing
 * spaces; both heap strings owned by the struct. {0} is empty. */
struct store_meta {
	uint32_t count;
	struct {
		char *name;
		char *value;
	} item[STORE_META_MAX];
};

/* Copies name and value; replaces an earlier value. -E2BIG over STORE_META_MAX or
 * STORE_META_BYTES, -EINVAL for bytes that a header cannot carry. */
int store_meta_set(struct store_meta *m, const char *name, const char *value) MUST_CHECK;
const char *store_meta_get(const struct store_meta *m, const char *name); /* NULL when absent */
/* Replaces to by a copy of from (NULL: by nothing). */
int store_meta_copy(struct store_meta *to, const struct store_meta *from) MUST_CHECK;
void store_meta_done(struct store_meta *m); /* also the CLEANUP function */

/* A body that can be read again from any offset, so that a request can be repeated. read returns
 * the bytes read (0 < n <= len; offset < size always) or -errno, e.g. -ESTALE when the content
 * is no longer what was promised: the request is then abandoned before the store can accept it. */
struct store_source {
	uint64_t size;
	ssize_t (*read)(void *ctx, uint64_t offset, void *p, size_t len);
	void *ctx;
};
/* A source over memory; memory and its bytes are borrowed. */
struct store_memory {
	const void *p;
	size_t len;
};
struct store_source store_source_memory(struct store_memory *memory);

/* Receives a body in order, from offset 0 of what was asked. reset is called before a repeated
 * attempt starts over (may be NULL only where the store has no retry layer). Non-zero: -errno,
 * abandons. */
struct store_sink {
	int (*write)(void *ctx, const void *p, size_t len);
	int (*reset)(void *ctx);
	void *ctx;
};

/* Who goes first where calls wait for a connection or for their share of the bandwidth. */
enum store_priority {
	STORE_NORMAL,
	STORE_URGENT, /* segments and listings: what others wait for. Never held up by a limit of
			 bandwidth or requests, only counted */
	STORE_BULK,   /* large bodies: never on all connections */
};

/* How fast bodies may go; a layer sets it, backends call it. */
struct store_pace {
	/* Before n body bytes are sent: waits until they may be. */
	void (*sending)(void *ctx, size_t n);
	void *ctx;
};
#define STORE_PACE_CHUNK 16384 /* no more than this at once while there is a pace */

/* Common to all calls; {0} is valid. */
struct store_call {
	/* clock_monotonic_ms() at which to give up, repeats included; 0: the store's default */
	int64_t deadline_ms;
	/* when it becomes true the call ends soon with STORE_LOCAL, ECANCELED */
	const atomic_bool *cancel;
	/* NULL or set to true when a change got no answer: it may reach the store later, even if
	 * a repeat was answered */
	bool *uncertain;
	enum store_priority priority;
	const struct store_pace *pace; /* NULL: as fast as it goes */
	/* Of copies and copied parts: the source is in another store (store_origin); NULL: in this one.
	 * Conditions on it hold there. */
	const char *origin;
};

struct store_object {
	uint64_t size;
	int64_t mtime_ms; /* the store's Last-Modified */
	char etag[STORE_ETAG_SIZE];
};

struct store_condition {
	bool if_absent;
	const char *if_match; /* an ETag, or NULL; not together with if_absent */
};

/* Capabilities, found out by behaviour (store_probe). */
enum {
	STORE_CAP_PUT_IF_ABSENT = 1 << 0,
	STORE_CAP_PUT_IF_MATCH = 1 << 1,
	STORE_CAP_DELETE_IF_MATCH = 1 << 2,
	STORE_CAP_COPY = 1 << 3,
	STORE_CAP_COPY_IF_MATCH = 1 << 4, /* condition on the source */
	STORE_CAP_UPLOAD = 1 << 5,	  /* uploads in parts */
	STORE_CAP_UPLOAD_COPY = 1 << 6,	  /* parts copied from a range of another object */
	STORE_CAP_UPLOAD_IF = 1 << 7,	  /* conditions when an upload ends */
};

/* What one store takes. Fixed when it is opened. */
struct store_limits {
	uint64_t put_max;    /* bytes of one put */
	uint64_t object_max; /* bytes of an object made of parts */
	uint64_t part_min;   /* bytes of every part but the last */
	uint64_t part_max;
	uint32_t parts_max;
};

#define STORE_UPLOAD_ID_SIZE 512 /* with NUL; a longer one is STORE_CORRUPT */

/* One part that was sent: what ending the upload needs. Numbers start at 1. */
struct store_part {
	uint32_t number;
	uint64_t size;
	char etag[STORE_ETAG_SIZE];
};

/* One step of an upload in parts, as a request: so that a layer has one function for all. */
struct store_upload {
	enum store_upload_step {
		STORE_UPLOAD_BEGIN,
		STORE_UPLOAD_PART,
		STORE_UPLOAD_COPY,
		STORE_UPLOAD_END,
		STORE_UPLOAD_ABORT,
	} step;
	const char *key;
	const char *id;			   /* all but BEGIN */
	const struct store_meta *meta;	   /* BEGIN */
	char *ret_id;			   /* BEGIN: STORE_UPLOAD_ID_SIZE bytes */
	uint32_t number;		   /* PART, COPY */
	const struct store_source *source; /* PART */
	const char *from;		   /* COPY: another object of this store … */
	uint64_t offset, length;	   /* … and the bytes of it, length > 0 */
	const char *if_match;		   /* COPY: condition on it, or NULL */
	const struct store_part *part;	   /* END: in order of number */
	size_t part_count;
	const struct store_condition *condition; /* END */
	char *etag;				 /* PART, COPY, END */
};

/* An upload that was begun and neither ended nor aborted. Non-zero ends the listing. */
typedef int (*store_uploads_fn)(void *ctx, const char *key, const char *id, int64_t begun_ms);

struct store;

/* Called for each listed key in byte order; key is borrowed. Non-zero ends the listing with
 * STORE_OK. */
typedef int (*store_list_fn)(void *ctx, const char *key, const struct store_object *object);

/* What a backend or layer implements. The comment on each member is its specification. */
struct store_ops {
	const char *name; /* "dir", "s3", "retry" … */

	/* Streams bytes [offset, offset + length) to sink (length 0: to the end) and fills
	 * object and meta (either may be NULL). STORE_ABSENT when there is none. if_match (may
	 * be NULL): STORE_PRECONDITION when the object is another version. A body shorter than
	 * announced is STORE_TRANSIENT. */
	enum store_result (*get)(struct store *s, const char *key, uint64_t offset, uint64_t length,
		const char *if_match, const struct store_sink *sink, struct store_object *object,
		struct store_meta *meta, const struct store_call *call, struct store_error *error);

	/* Writes the whole object with its metadata atomically: readers see the old one or the
	 * new one. On STORE_OK the new version's ETag is in etag (may be NULL; empty string when
	 * the store does not say). A condition that the store cannot check is STORE_UNSUPPORTED,
	 * nothing written. */
	enum store_result (*put)(struct store *s, const char *key,
		const struct store_source *source, const struct store_meta *meta,
		const struct store_condition *condition, char *etag, const struct store_call *call,
		struct store_error *error);

	enum store_result (*head)(struct store *s, const char *key, struct store_object *object,
		struct store_meta *meta, const struct store_call *call, struct store_error *error);

	/* Keys that start with prefix and are greater than start_after (NULL: from the first),
	 * at most limit (0: all). Pages internally, holds one page at a time. */
	enum store_result (*list)(struct store *s, const char *prefix, const char *start_after,
		uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
		struct store_error *error);

	/* Removes; removing what is not there is STORE_OK (STORE_PRECONDITION or STORE_OK with
	 * if_match). */
	enum store_result (*remove)(struct store *s, const char *key, const char *if_match,
		const struct store_call *call, struct store_error *error);

	/* Optional (STORE_CAP_COPY). Server-side copy with new metadata; from and to may be equal.
	 * STORE_ABSENT when the source is not there. */
	enum store_result (*copy)(struct store *s, const char *from, const char *to,
		const struct store_meta *meta, const char *if_match, char *etag,
		const struct store_call *call, struct store_error *error);

	/* Optional (STORE_CAP_UPLOAD). The object appears, whole, with END. A part sent again
	 * replaces the one before. STORE_ABSENT: there is no such upload (COPY: or no such source).
	 * PART and COPY change nothing that others see: an answer that was lost is
	 * STORE_TRANSIENT. */
	enum store_result (*upload)(struct store *s, const struct store_upload *u,
		const struct store_call *call, struct store_error *error);

	/* Optional (STORE_CAP_UPLOAD). Uploads under way for keys that start with prefix, in no
	 * particular order; a listing that is repeated may show one twice. */
	enum store_result (*uploads)(struct store *s, const char *prefix, store_uploads_fn fn,
		void *ctx, const struct store_call *call, struct store_error *error);

	/* Releases everything, inner layers too. No call may be under way. */
	void (*close)(struct store *s);
};

/* Embedded first in every backend and layer. */
struct store {
	const struct store_ops *ops;
	struct store *inner; /* layers: the next one in; backends: NULL */
	/* Of the outermost store after store_probe; the default is "everything the ops have". */
	_Atomic unsigned capabilities;
	/* The store's clock, from the last answer's Date, less clock_boottime_ms(): neither who sets
	 * this machine's clock nor a time of suspension changes it. 0 until known. Layers keep it in
	 * the innermost store: see store_clock_note. */
	_Atomic int64_t clock_offset_ms;
	struct store_limits limits; /* of the innermost store: read them with store_limits */
	const char *origin;	    /* likewise: store_origin */
};

/* The one gateway: these check arguments (key length, condition) and call the ops. */
enum store_result store_get(struct store *s, const char *key, uint64_t offset, uint64_t length,
	const char *if_match, const struct store_sink *sink, struct store_object *object,
	struct store_meta *meta, const struct store_call *call,
	struct store_error *error) MUST_CHECK;
enum store_result store_put(struct store *s, const char *key, const struct store_source *source,
	const struct store_meta *meta, const struct store_condition *condition, char *etag,
	const struct store_call *call, struct store_error *error) MUST_CHECK;
enum store_result store_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call,
	struct store_error *error) MUST_CHECK;
enum store_result store_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error) MUST_CHECK;
enum store_result store_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error) MUST_CHECK;
enum store_result store_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error) MUST_CHECK;

/* Uploads in parts (store_upload.c). The caller keeps the id and the parts, so that it can go on
 * after a restart; parts may be sent from several threads at once and in any order. */
enum store_result store_upload_begin(struct store *s, const char *key,
	const struct store_meta *meta, char id[STORE_UPLOAD_ID_SIZE], const struct store_call *call,
	struct store_error *error) MUST_CHECK;
/* On success part->etag and part->size are set; part->number is the caller's. */
enum store_result store_upload_part(struct store *s, const char *key, const char *id,
	const struct store_source *source, struct store_part *part, const struct store_call *call,
	struct store_error *error) MUST_CHECK;
/* The part is bytes [offset, offset + length) of another object, copied inside the store. */
enum store_result store_upload_copy(struct store *s, const char *key, const char *id,
	const char *from, uint64_t offset, uint64_t length, const char *if_match,
	struct store_part *part, const struct store_call *call,
	struct store_error *error) MUST_CHECK;
/* Makes the object of the parts, which are in order of number. With STORE_OK, EXISTS and PRECONDITION
 * the meaning is that of a put; the upload is there until it is aborted unless it ended with
 * STORE_OK. STORE_ABSENT: no such upload, begin again. */
enum store_result store_upload_end(struct store *s, const char *key, const char *id,
	const struct store_part *part, size_t count, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error) MUST_CHECK;
/* Drops the parts. STORE_OK also when there is no such upload. */
enum store_result store_upload_abort(struct store *s, const char *key, const char *id,
	const struct store_call *call, struct store_error *error) MUST_CHECK;
enum store_result store_uploads(struct store *s, const char *prefix, store_uploads_fn fn, void *ctx,
	const struct store_call *call, struct store_error *error) MUST_CHECK;
const struct store_limits *store_limits(struct store *s);

/* What names this store to another one of the same provider as the source of a copy; borrowed, NULL:
 * nothing can be copied from it. */
const char *store_origin(const struct store *s);

void store_close(struct store *s); /* NULL is fine */
/* What a store's clock says now, in milliseconds since 1970. Times that no clock shows are ignored. */
void store_clock_note(struct store *s, int64_t now_ms);
/* 0 until it is known. */
int64_t store_clock_ms(struct store *s);
/* Store's clock less this machine's; 0 until known. */
int64_t store_clock_skew_ms(struct store *s);

/* Whole object into memory; STORE_TOO_LARGE over max bytes. b is cleared first. */
struct buf;
enum store_result store_get_buf(struct store *s, const char *key, uint64_t max, struct buf *b,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error) MUST_CHECK;
/* Whole object from memory. */
enum store_result store_put_buf(struct store *s, const char *key, const void *p, size_t len,
	const struct store_meta *meta, const struct store_condition *condition, char *etag,
	const struct store_call *call, struct store_error *error) MUST_CHECK;

/* Finds the capabilities out by behaviour with a few objects below .meridian/probe/ (removed
 * again, with what a probe left that was killed over an hour ago) and sets s->capabilities. Costs
 * some twenty requests. */
enum store_result store_probe(
	struct store *s, const struct store_call *call, struct store_error *error) MUST_CHECK;

/* Everything that a region's section of the configuration may say about its store. Strings are
 * borrowed during store_open; NULL: default. */
struct store_config {
	const char *name;     /* the region's name; also the default signing region */
	const char *url;      /* file:///dir | s3://bucket[/prefix] */
	const char *endpoint; /* http(s)://host[:port] */
	const char *signing_region;
	const char *profile; /* section of the credentials file */
	/* default: $AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials */
	const char *credentials_file;
	const char *ca_bundle; /* PEM file; default: $AWS_CA_BUNDLE, else the system's */
	bool path_style;       /* bucket in the path, not in the host name */
	unsigned connections;  /* requests under way at once; default 64 */
	struct schedule rate_limit;    /* bytes of bodies a second, each way */
	struct schedule request_limit; /* requests a second */
	int64_t timeout_ms;    /* default deadline of a call, repeats included; default 60,000 */
	/* a connection on which nothing moves for so long is given up; default 20,000. Three times that
	 * for large bodies, 15 times for what a store does by itself (copies, the end of an upload) */
	int64_t stall_timeout_ms;
	unsigned attempts;     /* of the retry layer; default 4 */
	/* It was there before: a directory is then not made, and opens also while it is missing; its
	 * calls fail until it is back. */
	bool used;
};

/* Whether what the url names is there, as far as that can be told without a request: 1; 0: a directory that
 * is made, or made ready, where it is used first; -errno: that would fail. Changes nothing. */
int store_exists(const struct store_config *config, struct err *err) MUST_CHECK;
/* Assembles retry(pace(limit(stats(backend)))) without any network traffic. */
int store_open(const struct store_config *config, struct store **ret, struct err *err) MUST_CHECK;

#endif
