/* The S3 store against a scripted server: the requests that it makes, and the classification of
 * every answer. Real servers are the contract suite's business. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "replicator/store/layers.h"
#include "replicator/store/s3_request.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "tests/unit/canned_server.h"

#define DATED(status) "HTTP/1.1 " status "\r\nDate: Fri, 24 May 2013 00:00:00 GMT\r\n"
#define EMPTY(status) DATED(status) "x-amz-request-id: RID\r\nContent-Length: 0\r\n\r\n"
#define FULL(headers) DATED("200 OK") headers "Content-Length: 0\r\n\r\n"
#define BODY(status, body) DATED(status) "Connection: close\r\n\r\n" body
#define CODE(status, code)                                                                         \
	BODY(status, "<Error><Code>" code "</Code><Message>why</Message></Error>")

struct run {
	struct canned_server server;
	struct store *s;
	struct store_error e;
};

static struct run *start_at(
	const struct canned_step *step, unsigned count, const char *url, const char *profile)
{
	struct run *t = calloc(1, sizeof(*t));
	struct err err = {0};
	assert_non_null(t);
	canned_start(&t->server, step, count);
	struct store_config config = {.name = "eu-west-2",
		.url = url,
		.endpoint = t->server.origin,
		.profile = profile,
		.credentials_file = "/nonexistent/credentials",
		.timeout_ms = 5000};
	assert_int_equal(store_s3_open(&config, &t->s, &err), 0);
	setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "very/secret", 1);
	setenv("AWS_SESSION_TOKEN", "session/token", 1);
	return t;
}

static struct run *start(const struct canned_step *step, unsigned count)
{
	return start_at(step, count, "s3://bucket/pre/", NULL);
}

static void end(struct run *t)
{
	store_close(t->s);
	canned_stop(&t->server);
	free(t);
}

static bool sent(const struct run *t, unsigned n, const char *text)
{
	return strcasestr(t->server.head[n], text) != NULL;
}

static enum store_result put(struct run *t, const struct store_condition *condition, char *etag)
{
	memset(&t->e, 0, sizeof(t->e));
	return store_put_buf(t->s, "a b", "body", 4, NULL, condition, etag, NULL, &t->e);
}

static enum store_result get(struct run *t, struct buf *b)
{
	memset(&t->e, 0, sizeof(t->e));
	return store_get_buf(t->s, "a b", 1000, b, NULL, NULL, NULL, &t->e);
}

/* The server counts the prefix; what it would answer to a HEAD does not tell why. */
static void test_key_too_long_with_prefix(void **state)
{
	char fits[1024 - 4 + 1], key[STORE_KEY_MAX + 1];
	static const struct canned_step steps[] = {{.reply = EMPTY("404 Not Found")}};
	struct run *t = start(steps, 1);
	struct store_object o;
	struct buf b = {0};

	(void)state;
	memset(key, 'k', STORE_KEY_MAX);
	key[STORE_KEY_MAX] = '\0';
	memset(fits, 'k', sizeof(fits) - 1);
	fits[sizeof(fits) - 1] = '\0';
	assert_int_equal(
		store_put_buf(t->s, key, "x", 1, NULL, NULL, NULL, NULL, &t->e), STORE_TOO_LARGE);
	assert_int_equal(store_head(t->s, key, &o, NULL, NULL, &t->e), STORE_ABSENT);
	assert_int_equal(store_get_buf(t->s, key, 10, &b, NULL, NULL, NULL, &t->e), STORE_ABSENT);
	assert_int_equal(store_remove(t->s, key, NULL, NULL, &t->e), STORE_OK);
	assert_int_equal(
		store_copy(t->s, "a", key, NULL, NULL, NULL, NULL, &t->e), STORE_TOO_LARGE);
	assert_int_equal(store_head(t->s, fits, &o, NULL, NULL, &t->e), STORE_ABSENT);
	assert_true(sent(t, 0, "HEAD /bucket/pre/kkk"));
	buf_done(&b);
	end(t);
}

static void test_put_request(void **state)
{
	const struct canned_step steps[] = {{.reply = FULL("ETag: \"e1\"\r\n")}};
	struct run *t = start(steps, 1);
	struct store_meta meta CLEANUP(store_meta_done) = {0};
	const struct store_condition absent = {.if_absent = true};
	char etag[STORE_ETAG_SIZE];
	assert_int_equal(store_meta_set(&meta, "mode", "33188"), 0);
	assert_int_equal(
		store_put_buf(t->s, "a b/%c", "body", 4, &meta, &absent, etag, NULL, &t->e),
		STORE_OK);
	assert_string_equal(etag, "e1");
	assert_true(sent(t, 0, "PUT /bucket/pre/a%20b/%25c HTTP/1.1\r\n"));
	assert_true(sent(t, 0, "\r\nx-amz-meta-mode: 33188\r\n"));
	assert_true(sent(t, 0, "\r\nif-none-match: *\r\n"));
	assert_true(sent(t, 0, "\r\nx-amz-security-token: session/token\r\n"));
	/* sha256 of "body" */
	assert_true(sent(t, 0,
		"\r\nx-amz-content-sha256: "
		"230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5\r\n"));
	assert_true(sent(t, 0,
		"/eu-west-2/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date;"
		"x-amz-meta-mode;x-amz-security-token, Signature="));
	assert_false(sent(t, 0, "very/secret"));
	assert_int_equal(t->server.body[0], 4);
	assert_true(store_clock_skew_ms(t->s) < -86400000LL * 365);
	end(t);
}

/* The system's clock, on a machine that is suspended all the time. */
static int64_t now_of(clockid_t clock)
{
	struct timespec t;

	assert_int_equal(clock_gettime(clock, &t), 0);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t real_ns(void *ctx UNUSED)
{
	return now_of(CLOCK_REALTIME);
}

static int64_t awake_ms(void *ctx UNUSED)
{
	return now_of(CLOCK_MONOTONIC) / 1000000;
}

static void sleep_on(void *ctx UNUSED, int64_t ms)
{
	usleep((useconds_t)ms * 1000);
}

static int64_t jumping_ms(void *ctx)
{
	static _Atomic int64_t suspended;

	return awake_ms(ctx) + atomic_fetch_add(&suspended, 10000) + 10000;
}

/* An answer that lay here meanwhile tells a time of the past. */
static void test_suspended(void **state)
{
	static const struct clock_source source = {.realtime_ns = real_ns,
		.monotonic_ms = awake_ms,
		.sleep_ms = sleep_on,
		.boottime_ms = jumping_ms};
	const struct canned_step steps[] = {{.reply = FULL("ETag: \"e1\"\r\n")}};

	clock_set_source(&source);
	struct run *t = start(steps, 1);
	struct buf b CLEANUP(buf_done) = {0};
	assert_int_equal(get(t, &b), STORE_OK);
	assert_int_equal(store_clock_ms(t->s), 0);
	end(t);
	clock_set_source(NULL);
}

/* An hour's wrong clock costs one request: the next ones are signed with the store's time. */
static void test_wrong_clock(void **state)
{
	static const struct {
		const char *refusal;
		bool head;
	} v[] = {{CODE("403 No", "RequestTimeTooSkewed"), false}, {EMPTY("403 No"), true}};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		const struct canned_step steps[] = {{.reply = v[i].refusal, .hang_up = true},
			{.reply = FULL("ETag: \"e1\"\r\n")},
			{.reply = v[i].refusal, .hang_up = true}};
		struct run *t = start(steps, 3);
		struct store_object o;
		struct buf b CLEANUP(buf_done) = {0};

		assert_int_equal(
			v[i].head ? store_head(t->s, "a b", &o, NULL, NULL, &t->e) : get(t, &b),
			STORE_TRANSIENT);
		assert_false(sent(t, 0, "x-amz-date: 20130524T"));
		assert_int_equal(get(t, &b), STORE_OK);
		assert_true(sent(t, 1, "x-amz-date: 20130524T0000"));
		assert_true(sent(t, 1, "AKIDEXAMPLE/20130524/eu-west-2/s3/aws4_request"));
		/* What was signed with the store's own time is refused for something else. */
		assert_int_equal(
			v[i].head ? store_head(t->s, "a b", &o, NULL, NULL, &t->e) : get(t, &b),
			STORE_DENIED);
		end(t);
	}
}

static void test_read_classification(void **state)
{
	static const struct {
		const char *reply;
		enum store_result result;
	} v[] = {
		{CODE("404 No", "NoSuchKey"), STORE_ABSENT},
		{CODE("404 No", "NoSuchBucket"), STORE_DENIED},
		{BODY("404 No", "<html>lost</html>"), STORE_CORRUPT},
		{CODE("403 No", "AccessDenied"), STORE_DENIED},
		{CODE("403 No", "SignatureDoesNotMatch"), STORE_DENIED},
		{CODE("400 No", "ExpiredToken"), STORE_DENIED}, {BODY("401 No", ""), STORE_DENIED},
		{BODY("500 No", ""), STORE_TRANSIENT}, {BODY("504 No", ""), STORE_TRANSIENT},
		{CODE("503 No", "SlowDown"), STORE_THROTTLED},
		{CODE("503 No", "ServiceUnavailable"), STORE_TRANSIENT},
		{BODY("503 No", "busy"), STORE_TRANSIENT}, {BODY("429 No", ""), STORE_THROTTLED},
		{CODE("400 No", "RequestTimeout"), STORE_TRANSIENT},
		{CODE("501 No", "NotImplemented"), STORE_UNSUPPORTED},
		{CODE("400 No", "InvalidArgument"), STORE_UNSUPPORTED},
		{CODE("403 No", "InvalidObjectState"), STORE_UNSUPPORTED},
		{CODE("301 No", "PermanentRedirect"), STORE_DENIED},
		{BODY("200 OK", "x"),
			STORE_CORRUPT}, /* no Content-Length: an answer of something else */
	};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		const struct canned_step steps[] = {{.reply = v[i].reply, .hang_up = true}};
		struct run *t = start(steps, 1);
		struct buf b CLEANUP(buf_done) = {0};
		assert_int_equal(get(t, &b), v[i].result);
		assert_true(t->e.text[0] != 0);
		end(t);
	}
}

static void test_write_classification(void **state)
{
	const struct store_condition absent = {.if_absent = true};
	static const struct {
		const char *reply;
		bool if_absent;
		enum store_result result;
	} v[] = {
		{CODE("412 No", "PreconditionFailed"), true, STORE_EXISTS},
		{CODE("409 No", "ConditionalRequestConflict"), true, STORE_TRANSIENT},
		{CODE("501 No", "NotImplemented"), true, STORE_UNSUPPORTED},
		{CODE("400 No", "EntityTooLarge"), false, STORE_TOO_LARGE},
		{CODE("400 No", "MetadataTooLarge"), false, STORE_TOO_LARGE},
		{CODE("400 No", "KeyTooLongError"), false, STORE_TOO_LARGE},
		{BODY("413 No", ""), false, STORE_TOO_LARGE},
		{CODE("400 No", "XAmzContentSHA256Mismatch"), false, STORE_CORRUPT},
		{CODE("500 No", "InternalError"), false, STORE_TRANSIENT},
		{BODY("502 No", ""), false, STORE_UNKNOWN},
		{BODY("504 No", ""), false, STORE_UNKNOWN},
		{NULL, false, STORE_UNKNOWN},
		{"garbage\r\n\r\n", false, STORE_UNKNOWN},
	};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		const struct canned_step steps[] = {{.reply = v[i].reply, .hang_up = true}};
		struct run *t = start(steps, 1);
		assert_int_equal(put(t, v[i].if_absent ? &absent : NULL, NULL), v[i].result);
		end(t);
	}
}

static void test_error_details(void **state)
{
	const struct canned_step steps[] = {
		{.reply = DATED("503 Slow Down") "Retry-After: 7\r\nx-amz-request-id: "
						 "RID\r\nConnection: close\r\n\r\n"
						 "<Error><Code>SlowDown</Code><Message>Please</"
						 "Message></Error>",
			.hang_up = true},
		{.reply = CODE("403 No", "RequestTimeTooSkewed"), .hang_up = true},
		{.reply = DATED("301 Moved") "x-amz-bucket-region: ap-south-1\r\nContent-Length: "
					     "0\r\n\r\n"}};
	struct run *t = start(steps, 3);
	struct buf b CLEANUP(buf_done) = {0};
	assert_int_equal(get(t, &b), STORE_THROTTLED);
	assert_int_equal(t->e.http_status, 503);
	assert_int_equal(t->e.retry_after_ms, 7000);
	assert_string_equal(t->e.code, "SlowDown");
	assert_string_equal(t->e.request_id, "RID");
	assert_non_null(strstr(t->e.text, "Please"));
	assert_int_equal(get(t, &b), STORE_DENIED);
	assert_non_null(strstr(t->e.text, "clock"));
	assert_int_equal(get(t, &b), STORE_DENIED);
	assert_non_null(strstr(t->e.text, "ap-south-1"));
	end(t);
}

static void test_head_absent(void **state)
{
	const struct canned_step steps[] = {{.reply = EMPTY("404 No")},
		{.reply = DATED("404 No") "Content-Length: 0\r\n\r\n"}, /* not S3's own: asked again
									   by GET */
		{.reply = CODE("404 No", "NoSuchBucket"), .hang_up = true},
		{.reply = DATED("404 No") "Content-Length: 0\r\n\r\n"},
		{.reply = BODY("404 No", "<html/>"), .hang_up = true}};
	struct run *t = start(steps, 5);
	struct store_object o = {0};
	assert_int_equal(store_head(t->s, "k", &o, NULL, NULL, &t->e), STORE_ABSENT);
	assert_int_equal(store_head(t->s, "k", &o, NULL, NULL, &t->e), STORE_DENIED);
	assert_int_equal(store_head(t->s, "k", &o, NULL, NULL, &t->e), STORE_CORRUPT);
	end(t);
}

/* An expired token must not look like a request that can never succeed. */
static void test_head_with_expired_token(void **state)
{
	const struct canned_step steps[] = {{.reply = EMPTY("400 Bad Request")}};
	struct run *t = start(steps, 1);
	struct store_object o = {0};

	assert_int_equal(store_head(t->s, "k", &o, NULL, NULL, &t->e), STORE_DENIED);
	end(t);
}

static void test_if_match_is_learned(void **state)
{
	const struct canned_step steps[] = {
		/* Quoted is refused, though HEAD shows that version: bare works, and is kept. */
		{.reply = EMPTY("412 No")}, {.reply = FULL("ETag: \"e1\"\r\n")},
		{.reply = FULL("ETag: \"e2\"\r\n")}, {.reply = FULL("ETag: \"e3\"\r\n")},
		{.reply = EMPTY("412 No")}};
	struct run *t = start(steps, 5);
	const struct store_condition first = {.if_match = "e1"}, second = {.if_match = "e2"};
	char etag[STORE_ETAG_SIZE];
	assert_int_equal(put(t, &first, etag), STORE_OK);
	assert_string_equal(etag, "e2");
	assert_true(sent(t, 0, "\r\nif-match: \"e1\"\r\n"));
	assert_true(sent(t, 1, "HEAD "));
	assert_true(sent(t, 2, "\r\nif-match: e1\r\n"));
	assert_int_equal(put(t, &second, NULL), STORE_OK);
	assert_true(sent(t, 3, "\r\nif-match: e2\r\n"));
	assert_int_equal(put(t, &second, NULL), STORE_PRECONDITION);
	assert_int_equal(t->server.seen, 5);
	end(t);
}

static void test_if_match_lost(void **state)
{
	const struct canned_step steps[] = {{.reply = EMPTY("412 No")},
		{.reply = FULL("ETag: \"other\"\r\n")},
		{.reply = CODE("404 No", "NoSuchKey"), .hang_up = true}, {.reply = EMPTY("404 No")},
		{.reply = FULL("ETag: \"e2\"\r\n")}, {.reply = EMPTY("412 No")}};
	struct run *t = start(steps, 6);
	const struct store_condition match = {.if_match = "e1"};
	assert_int_equal(put(t, &match, NULL), STORE_PRECONDITION); /* another version */
	assert_int_equal(put(t, &match, NULL), STORE_PRECONDITION); /* gone, as Amazon says it */
	assert_int_equal(put(t, &match, NULL), STORE_OK);
	assert_int_equal(put(t, &match, NULL),
		STORE_PRECONDITION); /* quoted is known to be right: no HEAD */
	assert_int_equal(t->server.seen, 6);
	end(t);
}

static int keep(void *ctx, const void *p, size_t len)
{
	buf_put(ctx, p, len);
	return 0;
}

static enum store_result get_range(struct run *t, uint64_t offset, uint64_t length, struct buf *b)
{
	struct store_sink sink = {.write = keep, .ctx = b};
	buf_clear(b);
	return store_get(t->s, "k", offset, length, NULL, &sink, NULL, NULL, NULL, &t->e);
}

static void test_ranges(void **state)
{
	const struct canned_step steps[] = {
		{.reply = DATED(
			 "206 Part") "Content-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\ncde"},
		{.reply = DATED(
			 "200 OK") "Content-Length: 10\r\n\r\nabcdefghij"}, /* ignores Range */
		{.reply = DATED(
			 "206 Part") "Content-Range: bytes 3-5/10\r\nContent-Length: 3\r\n\r\ndef"},
		{.reply = DATED(
			 "206 Part") "Content-Range: bytes 2-3/10\r\nContent-Length: 2\r\n\r\ncd"},
		{.reply = DATED(
			 "206 Part") "Content-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nc",
			.hang_up = true},
		{.reply = CODE("416 No", "InvalidRange"), .hang_up = true},
		{.reply = FULL("ETag: \"e\"\r\n")}};
	struct run *t = start(steps, ARRAY_SIZE(steps));
	struct buf b CLEANUP(buf_done) = {0};
	assert_int_equal(get_range(t, 2, 3, &b), STORE_OK);
	assert_string_equal(buf_str(&b), "cde");
	assert_true(sent(t, 0, "\r\nrange: bytes=2-4\r\n"));
	assert_int_equal(get_range(t, 2, 3, &b), STORE_OK);
	assert_string_equal(buf_str(&b), "cde");
	assert_int_equal(get_range(t, 2, 3, &b), STORE_CORRUPT);
	assert_int_equal(b.len, 0);
	assert_int_equal(get_range(t, 2, 3, &b), STORE_TRANSIENT);
	assert_int_equal(get_range(t, 2, 0, &b), STORE_TRANSIENT);
	assert_int_equal(get_range(t, 0, 3, &b), STORE_OK); /* an empty object */
	assert_int_equal(b.len, 0);
	end(t);
}

static void test_copy(void **state)
{
	const struct canned_step steps[] = {
		{.reply = BODY(
			 "200 OK", "<CopyObjectResult><ETag>\"e9\"</ETag></CopyObjectResult>"),
			.hang_up = true},
		{.reply = CODE("200 OK", "InternalError"), .hang_up = true},
		{.reply = CODE("404 No", "NoSuchKey"), .hang_up = true},
		{.reply = CODE("412 No", "PreconditionFailed"), .hang_up = true},
		{.reply = BODY("200 OK", ""), .hang_up = true}};
	struct run *t = start(steps, 5);
	struct store_meta meta CLEANUP(store_meta_done) = {0};
	char etag[STORE_ETAG_SIZE];
	assert_int_equal(store_copy(t->s, "a b", "c", &meta, "e1", etag, NULL, &t->e), STORE_OK);
	assert_string_equal(etag, "e9");
	assert_true(sent(t, 0, "PUT /bucket/pre/c HTTP/1.1\r\n"));
	assert_true(sent(t, 0, "\r\nx-amz-copy-source: /bucket/pre/a%20b\r\n"));
	assert_true(sent(t, 0, "\r\nx-amz-metadata-directive: REPLACE\r\n"));
	assert_true(sent(t, 0, "\r\nx-amz-copy-source-if-match: \"e1\"\r\n"));
	assert_int_equal(
		store_copy(t->s, "a", "c", &meta, NULL, etag, NULL, &t->e), STORE_TRANSIENT);
	assert_int_equal(store_copy(t->s, "a", "c", &meta, NULL, etag, NULL, &t->e), STORE_ABSENT);
	assert_int_equal(
		store_copy(t->s, "a", "c", &meta, "e1", etag, NULL, &t->e), STORE_PRECONDITION);
	assert_int_equal(store_copy(t->s, "a", "c", &meta, NULL, etag, NULL, &t->e), STORE_UNKNOWN);
	end(t);
}

static void test_remove(void **state)
{
	const struct canned_step steps[] = {{.reply = EMPTY("204 Gone")},
		{.reply = CODE("404 No", "NoSuchKey"), .hang_up = true},
		{.reply = CODE("404 No", "NoSuchKey"), .hang_up = true},
		{.reply = EMPTY("412 No")}};
	struct run *t = start(steps, 4);
	assert_int_equal(store_remove(t->s, "k", NULL, NULL, &t->e), STORE_OK);
	assert_int_equal(store_remove(t->s, "k", NULL, NULL, &t->e), STORE_OK);
	assert_int_equal(store_remove(t->s, "k", "e1", NULL, &t->e), STORE_PRECONDITION);
	assert_int_equal(store_remove(t->s, "k", "e1", NULL, &t->e), STORE_PRECONDITION);
	assert_true(sent(t, 3, "\r\nif-match: \"e1\"\r\n"));
	end(t);
}

#define PAGE(items, rest) BODY("200 OK", "<ListBucketResult>" items rest "</ListBucketResult>")
#define KEY(k) "<Contents><Key>" k "</Key><ETag>\"e\"</ETag><Size>1</Size></Contents>"
#define MORE "<IsTruncated>true</IsTruncated>"

static int join(void *ctx, const char *key, const struct store_object *object)
{
	buf_printf(ctx, "%s,", key);
	return 0;
}

static void test_list(void **state)
{
	const struct canned_step steps[] = {
		{.reply = PAGE(KEY("pre/") KEY("pre/a") KEY("pre/b"), MORE), .hang_up = true},
		{.reply = PAGE("", MORE "<NextContinuationToken>t/1</NextContinuationToken>"),
			.hang_up = true},
		{.reply = PAGE(KEY("pre/c"), ""), .hang_up = true}};
	struct run *t = start(steps, 3);
	struct buf b CLEANUP(buf_done) = {0};
	assert_int_equal(store_list(t->s, "", NULL, 0, join, &b, NULL, &t->e), STORE_OK);
	assert_string_equal(buf_str(&b), "a,b,c,");
	assert_true(sent(t, 0,
		"GET /bucket/?encoding-type=url&list-type=2&max-keys=1000&prefix=pre%2F HTTP"));
	assert_true(sent(t, 1, "&start-after=pre%2Fb HTTP"));
	assert_true(sent(t, 2, "?continuation-token=t%2F1&"));
	end(t);
}

static void test_list_limits(void **state)
{
	const struct canned_step steps[] = {
		{.reply = PAGE(KEY("pre/x1") KEY("pre/x2"), MORE), .hang_up = true},
		{.reply = PAGE(KEY("pre/x3"), MORE), .hang_up = true}};
	struct run *t = start(steps, 2);
	struct buf b CLEANUP(buf_done) = {0};
	assert_int_equal(store_list(t->s, "x", "x0", 3, join, &b, NULL, &t->e), STORE_OK);
	assert_string_equal(buf_str(&b), "x1,x2,x3,");
	assert_true(sent(t, 0, "&max-keys=3&prefix=pre%2Fx&start-after=pre%2Fx0 HTTP"));
	assert_true(sent(t, 1, "&max-keys=1&"));
	end(t);
}

static void test_list_refused(void **state)
{
	static const struct {
		const char *reply;
		enum store_result result;
	} v[] = {
		{PAGE(KEY("pre/b") KEY("pre/a"), ""), STORE_CORRUPT},
		{PAGE(KEY("pre/a") KEY("pre/a"), ""), STORE_CORRUPT},
		{PAGE(KEY("other/a"), ""), STORE_CORRUPT},
		{PAGE("", MORE), STORE_CORRUPT},
		{BODY("200 OK", "<html/>"), STORE_CORRUPT},
		{CODE("404 No", "NoSuchBucket"), STORE_DENIED},
		{CODE("404 No", "NoSuchKey"), STORE_CORRUPT},
	};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		const struct canned_step steps[] = {{.reply = v[i].reply, .hang_up = true}};
		struct run *t = start(steps, 1);
		struct buf b CLEANUP(buf_done) = {0};
		assert_int_equal(store_list(t->s, "", NULL, 0, join, &b, NULL, &t->e), v[i].result);
		end(t);
	}
}

static void test_no_credentials(void **state)
{
	const struct canned_step steps[] = {{.reply = EMPTY("200 OK")}};
	struct run *t = start_at(steps, 1, "s3://bucket", "orders");
	struct buf b CLEANUP(buf_done) = {0};
	assert_int_equal(get(t, &b), STORE_DENIED);
	assert_non_null(strstr(t->e.text, "profile 'orders'"));
	assert_int_equal(t->server.seen, 0);
	end(t);
}

static ssize_t read_stale(void *ctx, uint64_t offset, void *p, size_t len)
{
	return -ESTALE;
}

static void test_source_fails(void **state)
{
	const struct canned_step steps[] = {{.reply = EMPTY("200 OK")}};
	struct run *t = start(steps, 1);
	const struct store_source small = {.size = 10, .read = read_stale};
	const struct store_source large = {.size = 10000000, .read = read_stale};
	assert_int_equal(store_put(t->s, "k", &small, NULL, NULL, NULL, NULL, &t->e), STORE_LOCAL);
	assert_int_equal(t->e.local_errno, ESTALE);
	assert_int_equal(store_put(t->s, "k", &large, NULL, NULL, NULL, NULL, &t->e), STORE_LOCAL);
	assert_int_equal(t->e.local_errno, ESTALE);
	assert_int_equal(t->server.seen, 0);
	end(t);
}

static void test_configuration(void **state)
{
	static const struct {
		const char *url, *endpoint, *region, *says;
	} v[] = {
		{"s3:bucket", NULL, NULL, "s3://bucket"},
		{"s3://b", NULL, NULL, "bucket name"},
		{"s3://buck?et", NULL, NULL, "bucket name"},
		{"s3://bucket", "ftp://x", NULL, "https://host"},
		{"s3://bucket", "https://user@host", NULL, "host and port only"},
		{"s3://bucket", "https://host/path", NULL, "host and port only"},
		{"s3://bucket", "https://", NULL, "host and port only"},
		{"s3://bucket", NULL, "eu west", "signing_region"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		const struct store_config config = {.name = "eu-west-2",
			.url = v[i].url,
			.endpoint = v[i].endpoint,
			.signing_region = v[i].region};
		struct store *s = NULL;
		struct err err = {0};
		assert_int_equal(store_s3_open(&config, &s, &err), -EINVAL);
		assert_null(s);
		assert_non_null(strstr(err.text, v[i].says));
	}
}

/* The host of an endpoint that names the bucket, and a default port, are signed as libcurl sends
 * them. */
static void test_virtual_host(void **state)
{
	const struct canned_step steps[] = {{.reply = EMPTY("404 No")}};
	struct run *t = calloc(1, sizeof(*t));
	struct err err = {0};
	char endpoint[64];
	assert_non_null(t);
	canned_start(&t->server, steps, 1);
	snprintf(endpoint, sizeof(endpoint), "http://bucket.localhost:%u/", t->server.port);
	const struct store_config config = {
		.name = "r", .url = "s3://bucket/p", .endpoint = endpoint};
	assert_int_equal(store_s3_open(&config, &t->s, &err), 0);
	assert_int_equal(store_head(t->s, "k", NULL, NULL, NULL, &t->e), STORE_ABSENT);
	assert_true(sent(t, 0, "HEAD /p/k HTTP/1.1\r\n"));
	assert_true(sent(t, 0, "\r\nhost: bucket.localhost:"));
	end(t);
}

static void test_endpoints(void **state)
{
	static const struct {
		const char *url, *endpoint, *region;
		bool path_style;
		const char *origin, *root;
	} v[] = {
		{"s3://bucket", NULL, "eu-west-2", false,
			"https://bucket.s3.eu-west-2.amazonaws.com", ""},
		{"s3://bucket", NULL, "eu-west-2", true, "https://s3.eu-west-2.amazonaws.com",
			"/bucket"},
		{"s3://my.bucket", NULL, "eu-west-2", false, "https://s3.eu-west-2.amazonaws.com",
			"/my.bucket"},
		{"s3://Bucket_", NULL, "eu-west-2", false, "https://s3.eu-west-2.amazonaws.com",
			"/Bucket_"},
		{"s3://bucket", NULL, "cn-north-1", false,
			"https://bucket.s3.cn-north-1.amazonaws.com.cn", ""},
		{"s3://bucket", "https://s3.example.net/", "r", false, "https://s3.example.net",
			"/bucket"},
		{"s3://bucket", "https://s3.example.net:443", "r", false, "https://s3.example.net",
			"/bucket"},
		{"s3://bucket", "http://127.0.0.1:80", "r", false, "http://127.0.0.1", "/bucket"},
		{"s3://bucket", "http://[::1]:8080", "r", false, "http://[::1]:8080", "/bucket"},
		{"s3://bucket", "https://bucket.oss.example", "r", false,
			"https://bucket.oss.example", ""},
		{"s3://bucket", "https://bucket.oss.example", "r", true,
			"https://bucket.oss.example", "/bucket"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		const struct store_config config = {.name = v[i].region,
			.url = v[i].url,
			.endpoint = v[i].endpoint,
			.path_style = v[i].path_style};
		struct store *s = NULL;
		struct err err = {0};
		assert_int_equal(store_s3_open(&config, &s, &err), 0);
		const struct s3 *inside = (struct s3 *)s;
		assert_string_equal(inside->origin, v[i].origin);
		assert_string_equal(inside->origin + (inside->secure ? 8 : 7), inside->host);
		assert_string_equal(inside->root, v[i].root);
		store_close(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key_too_long_with_prefix),
		cmocka_unit_test(test_put_request),
		cmocka_unit_test(test_suspended),
		cmocka_unit_test(test_wrong_clock),
		cmocka_unit_test(test_read_classification),
		cmocka_unit_test(test_write_classification),
		cmocka_unit_test(test_error_details),
		cmocka_unit_test(test_head_absent),
		cmocka_unit_test(test_head_with_expired_token),
		cmocka_unit_test(test_if_match_is_learned),
		cmocka_unit_test(test_if_match_lost),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_remove),
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_list_limits),
		cmocka_unit_test(test_list_refused),
		cmocka_unit_test(test_no_credentials),
		cmocka_unit_test(test_source_fails),
		cmocka_unit_test(test_configuration),
		cmocka_unit_test(test_endpoints),
		cmocka_unit_test(test_virtual_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
