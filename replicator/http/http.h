/*
 * One HTTP/1.1 client over libcurl, for every object store and notification source. The only user
 * of curl.h.
 *
 * A client is a bounded pool of handles that keep their connections alive. http_perform blocks,
 * sends one request, and never repeats it. Certificates are always verified; redirects are not
 * followed; https goes through the proxy that https_proxy names, plain http never through one.
 * Thread-safe.
 */
#ifndef HTTP_HTTP_H
#define HTTP_HTTP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "src/base/attribute.h"
#include "src/base/buf.h"
#include "src/base/err.h"

#define HTTP_HEADERS_MAX 128		/* of an answer */
#define HTTP_HEADER_BYTES 65536		/* of an answer, all together */
#define HTTP_EXPECT_BYTES (1024 * 1024) /* larger bodies ask with Expect: 100-continue first */

struct http_config {
	const char *ca_bundle;	    /* PEM file; NULL: $AWS_CA_BUNDLE, else the system's */
	unsigned connections;	    /* requests under way at once; others wait; 0: 64 */
	int64_t connect_timeout_ms; /* 0: 5,000 */
	int64_t stall_timeout_ms;   /* no byte either way for that long; 0: 20,000; rounded up to
				       seconds */
};

enum http_result {
	HTTP_ANSWERED = 0, /* a complete answer, whatever its status */
	HTTP_UNREACHABLE,  /* no connection: nothing was sent */
	HTTP_UNTRUSTED,	   /* the certificate did not verify: nothing was sent */
	HTTP_LOST,	   /* the connection broke, or the body was shorter than announced */
	HTTP_TIMED_OUT,	   /* deadline, stall, or connect time-out */
	HTTP_MALFORMED,	   /* not HTTP, or over a limit */
	HTTP_ABANDONED,	   /* a callback failed or cancel was set: response->local_errno says */
};

struct http_header {
	const char *name; /* in answers: lower case */
	const char *value;
};

struct http_response {
	int status;
	struct http_header header[HTTP_HEADERS_MAX];
	uint32_t header_count;
	struct buf body;	/* captured; not when the request's sink got it */
	int64_t date_ms;	/* the Date header; 0: none */
	int64_t received_ms;	/* clock_boottime_ms() when the headers came */
	bool maybe_sent;	/* the request may have left this machine as a whole */
	int local_errno;	/* positive; with HTTP_ABANDONED */
	char text[160];		/* the cause, unless HTTP_ANSWERED */
	struct buf header_text; /* private: backs header[] */
};

struct http_request {
	const char *method; /* GET, HEAD, PUT, POST, DELETE */
	const char *url;    /* sent exactly as it is */
	const struct http_header *header;
	size_t header_count;
	/* Body of PUT and POST; read returns 0 < n <= len, or -errno, which abandons. May be NULL
	 * when size is 0. */
	uint64_t body_size;
	ssize_t (*body_read)(void *ctx, uint64_t offset, void *p, size_t len);
	void *body_ctx;
	/* Receives the body of a 2xx answer in order; NULL: captured like every other answer's. Is
	 * called once the headers are complete in response. Non-zero: -errno, abandons. */
	int (*sink)(void *ctx, const struct http_response *response, const void *p, size_t len);
	void *sink_ctx;
	size_t capture_max; /* 0: 64 KiB. A longer 2xx body is HTTP_MALFORMED, a longer error's is
			       cut */
	bool repeatable;    /* may be sent again when a kept connection turns out to be dead */
	int64_t stall_timeout_ms;  /* 0: the client's */
	int64_t deadline_ms;	   /* clock_monotonic_ms(); 0: none */
	const atomic_bool *cancel; /* may be NULL; looked at least once a second */
};

struct http;

/* The first call also sets SIGPIPE to be ignored, unless it has a handler. */
int http_new(const struct http_config *config, struct http **ret, struct err *err) MUST_CHECK;
void http_free(struct http *h); /* no request may be under way; NULL is fine */

/* response is overwritten, whatever it was after the last http_response_done; release it afterwards
 * in every case. */
enum http_result http_perform(struct http *h, const struct http_request *request,
	struct http_response *response) MUST_CHECK;
void http_response_done(struct http_response *r); /* also the CLEANUP function; {0} is fine */

/* Value of a header; NULL when it is not there. name in lower case. */
const char *http_response_header(const struct http_response *r, const char *name);

/* RFC 9110 date to milliseconds since 1970; 0 when it is none. */
int64_t http_parse_date(const char *text);

#endif
