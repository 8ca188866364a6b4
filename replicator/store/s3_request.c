/*
 * Builds, signs, sends and classifies one request to S3. Nothing here sleeps or repeats.
 *
 * What is signed is byte for byte what is sent: path and query are encoded once, here. All strings
 * of a request lie in one buffer that is reserved at its start, so that pointers into it stay
 * valid; its size is far above what keys of 1,024 bytes and 2 KiB of metadata can need.
 */
#include "replicator/store/s3_request.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/store/layers.h"
#include "replicator/store/s3_xml.h"
#include "src/base/clock.h"

/* Stores refuse a quarter of an hour; half a minute's wrong Date of some proxy changes nothing. */
enum { SIGN_SKEW_MS = 300000, SUSPENDED_MS = 1000 };

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

void s3_request_done(struct s3_request *q)
{
	buf_done(&q->text);
}

const char *s3_request_text(struct s3_request *q, size_t from)
{
	buf_put_u8(&q->text, 0);
	CHECK(!q->text.failed && q->text.len <= S3_REQUEST_TEXT);
	return (const char *)q->text.data + from;
}

static void put_path(const struct s3 *s, struct buf *out, const char *key)
{
	buf_put_str(out, s->root);
	buf_put_u8(out, '/');
	if (key) {
		s3_sign_encode(out, s->prefix, true);
		s3_sign_encode(out, key, true);
	}
}

void s3_request_init(struct s3_request *q, const struct s3 *s, const char *method, const char *key)
{
	memset(q, 0, sizeof(*q));
	q->method = method;
	q->payload_hash = EMPTY_SHA256;
	CHECK(buf_reserve(&q->text, S3_REQUEST_TEXT) != NULL);
	put_path(s, &q->text, key);
	q->path = s3_request_text(q, 0);
}

void s3_request_header(struct s3_request *q, const char *name, const char *value)
{
	CHECK(q->header_count < ARRAY_SIZE(q->header));
	q->header[q->header_count++] = (struct s3_pair){name, value};
}

void s3_request_query(struct s3_request *q, const char *name, const char *value)
{
	CHECK(q->query_count < ARRAY_SIZE(q->query));
	q->query[q->query_count++] = (struct s3_pair){name, value};
}

void s3_request_etag(struct s3_request *q, const char *name, const char *etag, bool bare)
{
	size_t from = q->text.len;
	bool weak = strncmp(etag, "W/", 2) == 0;
	buf_printf(&q->text, bare || weak ? "%s" : "\"%s\"", etag);
	s3_request_header(q, name, s3_request_text(q, from));
}

void s3_request_meta(struct s3_request *q, const struct store_meta *meta)
{
	for (uint32_t i = 0; meta && i < meta->count; i++) {
		size_t from = q->text.len;
		buf_printf(&q->text, "x-amz-meta-%s", meta->item[i].name);
		s3_request_header(q, s3_request_text(q, from), meta->item[i].value);
	}
}

void s3_request_source(struct s3_request *q, const struct s3 *s, const char *from,
	const struct store_call *call)
{
	size_t at = q->text.len;
	buf_put_str(&q->text, call->origin ? call->origin : s->copy_origin);
	s3_sign_encode(&q->text, from, true);
	s3_request_header(q, "x-amz-copy-source", s3_request_text(q, at));
}

/* What each of S3's codes means; the statuses below decide for those that are not listed. */
static const struct {
	const char *code;
	enum store_result result;
} code_table[] = {
	{"NoSuchKey", STORE_ABSENT},
	{"NotFound", STORE_ABSENT},
	{"NoSuchUpload", STORE_ABSENT},
	{"InvalidPart", STORE_ABSENT},
	{"NoSuchBucket", STORE_DENIED},
	{"PreconditionFailed", STORE_PRECONDITION},
	{"ConditionalRequestConflict", STORE_TRANSIENT},
	{"OperationAborted", STORE_TRANSIENT},
	{"SlowDown", STORE_THROTTLED},
	{"TooManyRequests", STORE_THROTTLED},
	{"Throttling", STORE_THROTTLED},
	{"ThrottlingException", STORE_THROTTLED},
	{"RequestLimitExceeded", STORE_THROTTLED},
	{"ServiceUnavailable", STORE_TRANSIENT},
	{"InternalError", STORE_TRANSIENT},
	{"RequestTimeout", STORE_TRANSIENT},
	{"IncompleteBody", STORE_TRANSIENT},
	{"TemporaryRedirect", STORE_TRANSIENT},
	{"BadDigest", STORE_CORRUPT},
	{"XAmzContentSHA256Mismatch", STORE_CORRUPT},
	{"EntityTooLarge", STORE_TOO_LARGE},
	{"MetadataTooLarge", STORE_TOO_LARGE},
	{"KeyTooLongError", STORE_TOO_LARGE},
	{"RequestHeaderSectionTooLarge", STORE_TOO_LARGE},
	{"NotImplemented", STORE_UNSUPPORTED},
	{"MethodNotAllowed", STORE_UNSUPPORTED},
	{"ExpiredToken", STORE_DENIED},
	{"InvalidToken", STORE_DENIED},
	{"TokenRefreshRequired", STORE_DENIED},
	{"AuthorizationHeaderMalformed", STORE_DENIED},
	{"InvalidBucketName", STORE_DENIED},
	{"InvalidObjectState", STORE_UNSUPPORTED}, /* archived: this object, not the bucket */
	{"RequestTimeTooSkewed", STORE_DENIED},
};

static enum store_result classify_status(int status, bool change)
{
	switch (status) {
	case 401:
	case 403:
	case 407:
		return STORE_DENIED;
	case 408:
	case 409:
		return STORE_TRANSIENT;
	case 412:
		return STORE_PRECONDITION;
	case 413:
		return STORE_TOO_LARGE;
	case 429:
		return STORE_THROTTLED;
	case 404: /* without S3's own word for it, somebody else may be speaking */
		return STORE_CORRUPT;
	case 400:
	case 405:
	case 411:
	case 501:
		return STORE_UNSUPPORTED;
	case 502: /* a gateway lost the answer of the server behind it */
	case 504:
		return change ? STORE_UNKNOWN : STORE_TRANSIENT;
	default:
		break;
	}
	if (status >= 300 && status < 400)
		return STORE_DENIED;
	return status >= 500 ? STORE_TRANSIENT : STORE_CORRUPT;
}

static enum store_result classify(int status, const struct s3_answer *a, bool change)
{
	for (size_t i = 0; i < ARRAY_SIZE(code_table); i++) {
		if (strcmp(a->code, code_table[i].code) == 0)
			return code_table[i].result;
	}
	if (status >= 200 && status < 300) /* an Error inside a 200: S3 gave up half-way */
		return STORE_TRANSIENT;
	return classify_status(status, change);
}

static int64_t retry_after(const struct http_response *r)
{
	const char *value = http_response_header(r, "retry-after");
	if (!value)
		return 0;
	char *end;
	errno = 0;
	long seconds = strtol(value, &end, 10);
	if (end != value && !*end && errno == 0)
		return seconds > 0 && seconds < 86400 ? seconds * 1000 : 0;
	int64_t when = http_parse_date(value);
	int64_t left = when ? when - (r->date_ms ? r->date_ms : clock_realtime_ms()) : 0;
	return left > 0 && left < 86400000 ? left : 0;
}

/* What a server sends may not reach a terminal or a log as control characters. */
static void make_printable(char *s)
{
	for (; *s; s++) {
		if (*s < ' ' || *s > '~')
			*s = '?';
	}
}

static void PRINTF(2, 3) say(struct store_error *e, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, args);
	va_end(args);
	make_printable(e->text);
}

/* For answers to HEAD, and those of something else than S3: they name no code. */
static const char *status_hint(int status)
{
	switch (status) {
	case 401:
	case 403:
		return "access denied: check the keys and their permissions";
	case 404:
		return "not found";
	case 412:
		return "precondition failed";
	default:
		return status >= 500 ? "server error" : "";
	}
}

/* The line that an operator reads. */
static void describe(struct s3 *s, const struct s3_request *q, const struct http_response *r,
	const struct s3_answer *a, struct store_error *e)
{
	const char *region = http_response_header(r, "x-amz-bucket-region");
	if (!region)
		region = a->region;
	if (strcmp(a->code, "RequestTimeTooSkewed") == 0) {
		int64_t skew = store_clock_skew_ms(&s->store) / 1000;
		say(e,
			"%s refuses requests because this machine's clock is %lld s %s the "
			"store's: set the clock",
			s->origin, (long long)(skew < 0 ? -skew : skew),
			skew < 0 ? "ahead of" : "behind");
	} else if (strcmp(a->code, "NoSuchBucket") == 0) {
		store_error_set(
			e, STORE_DENIED, "bucket '%s' does not exist at %s", s->bucket, s->origin);
	} else if (*region && strcmp(region, s->region) != 0 && r->status >= 300 &&
		   r->status <= 400) {
		say(e, "bucket '%s' is in region '%.40s', not '%s': set signing_region", s->bucket,
			region, s->region);
	} else {
		say(e, "%s %.80s at %.60s: %d %s%s%.80s", q->method, q->path, s->origin, r->status,
			a->code[0] ? a->code : status_hint(r->status), a->message[0] ? ": " : "",
			a->message);
	}
}

/* Refused for the time in its signature, which the next request takes from the answer's Date. A HEAD's
 * answer cannot say why. */
static bool refused_for_time(
	const struct s3_request *q, const struct http_response *r, const struct s3_answer *a)
{
	bool may = a->code[0] ? strcmp(a->code, "RequestTimeTooSkewed") == 0
			      : r->status == 403 && strcmp(q->method, "HEAD") == 0;

	return may && r->date_ms && llabs(r->date_ms - q->signed_ms) > SIGN_SKEW_MS;
}

enum store_result s3_refused(struct s3 *s, const struct s3_request *q,
	const struct http_response *r, struct store_error *e)
{
	struct s3_answer a = {0};
	if (r->body.len && s3_xml_answer(r->body.data, r->body.len, &a) < 0)
		a = (struct s3_answer){0};
	const char *id = http_response_header(r, "x-amz-request-id");
	e->http_status = r->status;
	memcpy(e->code, a.code, sizeof(e->code));
	snprintf(e->request_id, sizeof(e->request_id), "%.63s", id ? id : a.request_id);
	make_printable(e->request_id);
	e->retry_after_ms = retry_after(r);
	describe(s, q, r, &a, e);
	enum store_result result = classify(r->status, &a, q->change);
	/* Nothing in our HEADs can be wrong in itself, and they name no code: Amazon answers so
	 * when the session's token has expired. */
	if (r->status == 400 && !a.code[0] && strcmp(q->method, "HEAD") == 0)
		result = STORE_DENIED;
	if (refused_for_time(q, r, &a))
		return STORE_TRANSIENT;
	if (result == STORE_DENIED)
		credential_source_invalidate(s->credentials);
	return result;
}

static enum store_result failed(const struct s3 *s, const struct s3_request *q, enum http_result h,
	const struct http_response *r, struct store_error *e)
{
	bool unknown = q->change && r->maybe_sent;
	say(e, "%s %.80s at %.60s: %.90s", q->method, q->path, s->origin, r->text);
	switch (h) {
	case HTTP_UNREACHABLE:
		return STORE_TRANSIENT;
	case HTTP_UNTRUSTED:
		say(e, "%.80s is not trusted, nothing was sent: %.140s", s->origin, r->text);
		return STORE_DENIED;
	case HTTP_LOST:
		return unknown ? STORE_UNKNOWN : STORE_TRANSIENT;
	case HTTP_TIMED_OUT:
		return unknown ? STORE_UNKNOWN : STORE_TIMEOUT;
	case HTTP_ABANDONED:
		e->local_errno = r->local_errno;
		say(e, "%s %.80s abandoned: %s", q->method, q->path, strerror(r->local_errno));
		return STORE_LOCAL;
	default:
		return unknown ? STORE_UNKNOWN : STORE_CORRUPT;
	}
}

/* How long this machine has been suspended, but for a constant. */
static int64_t suspended_ms(void)
{
	return clock_boottime_ms() - clock_monotonic_ms();
}

/* The clock that may be wrong is this machine's: the store's decides what it takes. */
static int64_t time_to_sign(struct s3 *s)
{
	int64_t now = clock_realtime_ms(), theirs = store_clock_ms(&s->store);

	return theirs && llabs(theirs - now) > SIGN_SKEW_MS ? theirs : now;
}

/* Fills the URL and the headers to send, Authorization among them. */
static size_t sign(struct s3 *s, struct s3_request *q, const struct credentials *c,
	struct http_header *out, struct buf *url, struct buf *authorization)
{
	struct s3_pair headers[S3_SIGN_PAIRS_MAX];
	struct buf query CLEANUP(buf_done) = {0};
	size_t from = q->text.len, n = 0, count = 0;
	q->signed_ms = time_to_sign(s);
	s3_sign_date(q->signed_ms / 1000, buf_reserve(&q->text, S3_DATE_SIZE));
	q->text.len += S3_DATE_SIZE - 1;
	const char *date = s3_request_text(q, from);
	s3_request_header(q, "host", s->host);
	s3_request_header(q, "x-amz-date", date);
	s3_request_header(q, "x-amz-content-sha256", q->payload_hash);
	if (c->session_token[0])
		s3_request_header(q, "x-amz-security-token", c->session_token);
	for (size_t i = 0; i < q->header_count; i++) {
		out[count++] = (struct http_header){q->header[i].name, q->header[i].value};
		if (strcmp(q->header[i].name, "host") == 0 ||
			strncmp(q->header[i].name, "x-amz-", 6) == 0)
			headers[n++] = q->header[i];
	}
	s3_sign_query(&query, q->query, q->query_count);
	const struct s3_sign_input in = {
		.access_key = c->access_key,
		.secret_key = c->secret_key,
		.region = s->region,
		.service = "s3",
		.date = date,
		.method = q->method,
		.path = q->path,
		.query = buf_str(&query),
		.header = headers,
		.header_count = n,
		.payload_hash = q->payload_hash,
	};
	s3_sign(&in, authorization);
	buf_printf(url, "%s%s%s%s", s->origin, q->path, query.len ? "?" : "", buf_str(&query));
	out[count++] = (struct http_header){"authorization", buf_str(authorization)};
	return count;
}

enum store_result s3_send(struct s3 *s, struct s3_request *q, const struct store_call *call,
	struct http_response *r, struct store_error *e)
{
	struct credentials c CLEANUP(credentials_done);
	struct err err = {0};
	memset(r, 0, sizeof(*r));
	memset(e, 0, sizeof(*e));
	if (credential_source_get(s->credentials, &c, &err) < 0)
		return store_error_set(e, STORE_DENIED, "%s", err.text);
	struct http_header headers[S3_SIGN_PAIRS_MAX + 1];
	struct buf url CLEANUP(buf_done) = {0};
	struct buf authorization CLEANUP(buf_done) = {0};
	size_t count = sign(s, q, &c, headers, &url, &authorization);
	const struct http_request request = {
		.method = q->method,
		.url = buf_str(&url),
		.header = headers,
		.header_count = count,
		.body_size = q->body_size,
		.body_read = q->body_read,
		.body_ctx = q->body_ctx,
		.sink = q->sink,
		.sink_ctx = q->sink_ctx,
		.capture_max = q->capture_max,
		.repeatable = !q->change,
		.stall_timeout_ms = q->stall_timeout_ms,
		.deadline_ms = call && call->deadline_ms ? call->deadline_ms
							 : clock_monotonic_ms() + s->timeout_ms,
		.cancel = call ? call->cancel : NULL,
	};
	CHECK(!url.failed && !authorization.failed);
	int64_t suspended = suspended_ms();
	enum http_result h = http_perform(s->http, &request, r);
	if (h != HTTP_ANSWERED)
		return failed(s, q, h, r, e);
	/* Date has whole seconds: half a second is its mean error. What lay here while the machine was
	 * suspended tells the time of before. */
	if (r->date_ms && suspended_ms() - suspended < SUSPENDED_MS)
		store_clock_note(
			&s->store, r->date_ms + 500 + clock_boottime_ms() - r->received_ms);
	if (r->status >= 200 && r->status < 300)
		return STORE_OK;
	return s3_refused(s, q, r, e);
}

enum store_result s3_corrupt(const struct s3_request *q, struct store_error *e, const char *what)
{
	return store_error_set(e, STORE_CORRUPT, "%s %.120s: %s", q->method, q->path, what);
}
