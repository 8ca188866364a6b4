/*
 * One signed request to S3 and what its answer means. Private to the S3 backend: s3_request.c
 * builds, signs, sends and classifies; s3.c composes the operations of struct store_ops from it.
 */
#ifndef STORE_S3_REQUEST_H
#define STORE_S3_REQUEST_H

#include "replicator/http/http.h"
#include "replicator/store/credentials.h"
#include "replicator/store/s3_sign.h"
#include "replicator/store/store.h"
#include "src/base/hash.h"

#define S3_REQUEST_TEXT 32768 /* strings of one request: keys and metadata, encoded */

enum etag_style { ETAG_UNKNOWN, ETAG_QUOTED, ETAG_BARE };

/* The backend. Everything is fixed at open, but for what is atomic. */
struct s3 {
	struct store store;
	struct http *http;
	struct credential_source *credentials;
	char *origin; /* "https://host[:port]" */
	char *host;   /* as in the Host header */
	char *root;   /* "/bucket", or "" when the host names it */
	char *bucket;
	char *copy_origin; /* "/bucket/prefix", encoded */
	char *prefix; /* raw; "" or ends with '/' */
	char *region;
	bool secure;
	int64_t timeout_ms;
	int64_t stall_ms;
	_Atomic int etag_style; /* enum etag_style: of If-Match on PUT */
};

struct s3_request {
	const char *method;
	const char *path; /* encoded, of this bucket */
	bool change;	  /* modifies the bucket: a lost answer leaves its outcome unknown */
	struct s3_pair query[8];
	size_t query_count;
	struct s3_pair header[S3_SIGN_PAIRS_MAX];
	size_t header_count;
	const char *payload_hash;
	int64_t signed_ms; /* the time in the signature */
	uint64_t body_size;
	ssize_t (*body_read)(void *ctx, uint64_t offset, void *p, size_t len);
	void *body_ctx;
	int (*sink)(void *ctx, const struct http_response *response, const void *p, size_t len);
	void *sink_ctx;
	size_t capture_max;
	int64_t stall_timeout_ms;
	struct buf text; /* backs the strings above; reserved once, so that they never move */
};

/* key NULL: the bucket itself. Release it with s3_request_done. */
void s3_request_init(struct s3_request *q, const struct s3 *s, const char *method, const char *key);
void s3_request_done(struct s3_request *q); /* also the CLEANUP function */

/* Strings are borrowed until the request is done. Headers that start with x-amz- are signed. */
void s3_request_header(struct s3_request *q, const char *name, const char *value);
void s3_request_query(struct s3_request *q, const char *name, const char *value);
/* An ETag condition, in quotes unless bare. */
void s3_request_etag(struct s3_request *q, const char *name, const char *etag, bool bare);
void s3_request_meta(struct s3_request *q, const struct store_meta *meta);
/* Ends the string that the caller appended to q->text from there; at most S3_REQUEST_TEXT in all.
 */
const char *s3_request_text(struct s3_request *q, size_t from);

/* x-amz-copy-source: an object of this bucket, or of the one that call->origin names. */
void s3_request_source(struct s3_request *q, const struct s3 *s, const char *from,
	const struct store_call *call);

/* s3_body.c: a body made ready, with the hash to sign. {0} is empty. */
#define S3_BODY_IN_MEMORY (1024 * 1024)
struct s3_body {
	uint8_t *memory; /* up to S3_BODY_IN_MEMORY bytes */
	uint64_t size;
	int64_t stall_ms; /* when it is large */
	const struct store_source *source; /* this and pace: borrowed */
	const struct store_pace *pace;
	char hash[SHA256_HEX_SIZE];
};

/* 0 or -errno of the source; -ECANCELED. */
int s3_body_prepare(struct s3_body *b, const struct s3 *s, const struct store_source *source,
	const struct store_call *call) MUST_CHECK;
void s3_body_done(struct s3_body *b); /* also the CLEANUP function */
/* b is borrowed until the request is done. */
void s3_body_attach(struct s3_request *q, struct s3_body *b);
/* STORE_LOCAL for a body that could not be prepared. */
enum store_result s3_body_unreadable(const char *key, int r, struct store_error *e);

/* Times s3.stall_ms: a server-side copy of gigabytes is silent for long. */
#define S3_COPY_STALL 15

/* s3.c. A store counts the prefix, too: such a key cannot be there. */
bool s3_too_long(const struct s3 *s, const char *key);
enum store_result s3_refuse_long(const struct s3 *s, struct store_error *e);

/* s3_upload.c */
enum store_result s3_upload(struct store *store, const struct store_upload *u,
	const struct store_call *call, struct store_error *e);
enum store_result s3_uploads(struct store *store, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *e);

/* One exchange. STORE_OK for a 2xx answer; r is filled whatever the result is, and is to be
 * released. */
enum store_result s3_send(struct s3 *s, struct s3_request *q, const struct store_call *call,
	struct http_response *r, struct store_error *e) MUST_CHECK;

/* Classifies an answer that is a refusal, and fills e. For a 200 with an Error in its body. */
enum store_result s3_refused(struct s3 *s, const struct s3_request *q,
	const struct http_response *r, struct store_error *e);

/* Fills e and returns STORE_CORRUPT. */
enum store_result s3_corrupt(const struct s3_request *q, struct store_error *e, const char *what);

#endif
