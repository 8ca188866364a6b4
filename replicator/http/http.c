/*
 * HTTP client: a stack of curl easy handles, the most recently used on top, so that a quiet store
 * keeps few connections warm. Each handle owns its connection cache.
 *
 * Invariant: idle + busy <= connections. A request waits for a handle only while all are busy.
 * Lock: pool.lock guards idle, idle_count and busy; it is never held across a transfer.
 *
 * What must never happen is that libcurl sends a change twice in silence: it repeats a request by
 * itself when a reused connection dies before the first byte of the answer. on_prepare ends that
 * second attempt unless the request is repeatable or nothing of its body had been read.
 */
#include "replicator/http/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "src/base/clock.h"
#include "src/base/thread.h"

#define CAPTURE_DEFAULT 65536
#define RECEIVE_BUFFER (512L * 1024) /* libcurl asks whether there is more after each */

struct http {
	struct mutex lock;
	struct cond freed;
	CURL **idle; /* stack; guarded by lock */
	unsigned idle_count;
	unsigned busy;
	unsigned connections;
	int64_t connect_timeout_ms;
	int64_t stall_timeout_ms;
	char *ca_bundle;
};

/* One request under way; lives on the caller's stack. */
struct exchange {
	CURL *curl;
	const struct http_request *request;
	struct http_response *response;
	uint64_t body_sent; /* bytes handed to libcurl */
	unsigned prepared;  /* times that a request was about to be sent */
	bool malformed;
	bool truncated; /* an error's body was cut at the capture limit: still an answer */
	bool headers_final;
	bool head_ended; /* the empty line came */
	size_t header_bytes;
};

static pthread_once_t global_once = PTHREAD_ONCE_INIT;

static void global_init(void)
{
	struct sigaction old;
	CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
	/* OpenSSL writes with write(2): a peer's reset would kill the process. libcurl guards
	 * against that only where it may use signals, and threads forbid it to. */
	if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
}

int http_new(const struct http_config *config, struct http **ret, struct err *err)
{
	pthread_once(&global_once, global_init);
	const char *ca = config->ca_bundle ? config->ca_bundle : getenv("AWS_CA_BUNDLE");
	if (ca && *ca && access(ca, R_OK) != 0)
		return err_errno(err, -errno, "cannot read the CA bundle '%s'", ca);
	struct http *h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->connections = config->connections ? config->connections : 64;
	h->connect_timeout_ms = config->connect_timeout_ms ? config->connect_timeout_ms : 5000;
	h->stall_timeout_ms = config->stall_timeout_ms ? config->stall_timeout_ms : 20000;
	h->idle = calloc(h->connections, sizeof(*h->idle));
	h->ca_bundle = ca && *ca ? strdup(ca) : NULL;
	if (!h->idle || (ca && *ca && !h->ca_bundle)) {
		free(h->ca_bundle);
		free(h->idle);
		free(h);
		return -ENOMEM;
	}
	mutex_init(&h->lock, LOCK_RANK_STORE);
	cond_init(&h->freed);
	*ret = h;
	return 0;
}

void http_free(struct http *h)
{
	if (!h)
		return;
	CHECK(h->busy == 0);
	for (unsigned i = 0; i < h->idle_count; i++)
		curl_easy_cleanup(h->idle[i]);
	cond_done(&h->freed);
	mutex_done(&h->lock);
	free(h->ca_bundle);
	free(h->idle);
	free(h);
}

static bool cancelled(const struct http_request *q)
{
	return q->cancel && atomic_load_explicit(q->cancel, memory_order_relaxed);
}

/* Waits for a handle; in slices, because nobody signals when cancel is set. */
static enum http_result handle_take(
	struct http *h, const struct http_request *q, struct http_response *r, CURL **ret)
{
	CURL *curl = NULL;
	mutex_lock(&h->lock);
	while (h->busy >= h->connections) {
		int64_t left = q->deadline_ms ? q->deadline_ms - clock_monotonic_ms() : 1000;
		if (left <= 0) {
			mutex_unlock(&h->lock);
			snprintf(r->text, sizeof(r->text),
				"deadline passed while all connections were busy");
			return HTTP_TIMED_OUT;
		}
		if (cancelled(q)) {
			mutex_unlock(&h->lock);
			r->local_errno = ECANCELED;
			return HTTP_ABANDONED;
		}
		cond_wait_ms(&h->freed, &h->lock, left < 200 ? left : 200);
	}
	h->busy++;
	if (h->idle_count)
		curl = h->idle[--h->idle_count];
	mutex_unlock(&h->lock);
	if (!curl)
		curl = curl_easy_init();
	CHECK(curl != NULL);
	*ret = curl;
	return HTTP_ANSWERED;
}

static void handle_give(struct http *h, CURL *curl)
{
	curl_easy_reset(curl); /* keeps connections and the DNS cache, forgets every option */
	mutex_lock(&h->lock);
	h->busy--;
	h->idle[h->idle_count++] = curl;
	cond_signal(&h->freed);
	mutex_unlock(&h->lock);
}

static size_t on_body_read(char *p, size_t size, size_t count, void *ctx)
{
	struct exchange *x = ctx;
	uint64_t left = x->request->body_size - x->body_sent;
	size_t room = size * count;
	if (left == 0 || room == 0)
		return 0;
	if (room > left)
		room = (size_t)left;
	ssize_t n = x->request->body_read(x->request->body_ctx, x->body_sent, p, room);
	if (n <= 0 || (size_t)n > room) {
		x->response->local_errno = n < 0 ? (int)-n : EIO;
		return CURL_READFUNC_ABORT;
	}
	x->body_sent += (uint64_t)n;
	return (size_t)n;
}

/* libcurl rewinds before it repeats; whether it may is decided by on_prepare. */
static int on_body_seek(void *ctx, curl_off_t offset, int origin)
{
	struct exchange *x = ctx;
	if (origin != SEEK_SET || offset != 0 || (x->body_sent > 0 && !x->request->repeatable))
		return CURL_SEEKFUNC_FAIL;
	x->body_sent = 0;
	return CURL_SEEKFUNC_OK;
}

static int on_prepare(
	void *ctx, char *to UNUSED, char *from UNUSED, int to_port UNUSED, int from_port UNUSED)
{
	struct exchange *x = ctx;
	const struct http_request *q = x->request;
	bool held_back = q->body_size > 0 && x->body_sent == 0;
	if (x->prepared++ > 0 && !q->repeatable && !held_back)
		return CURL_PREREQFUNC_ABORT;
	return CURL_PREREQFUNC_OK;
}

static int on_progress(void *ctx, curl_off_t dltotal UNUSED, curl_off_t dlnow UNUSED,
	curl_off_t ultotal UNUSED, curl_off_t ulnow UNUSED)
{
	struct exchange *x = ctx;
	if (!cancelled(x->request))
		return 0;
	x->response->local_errno = ECANCELED;
	return 1;
}

static void headers_clear(struct exchange *x)
{
	x->response->header_count = 0;
	x->response->date_ms = 0;
	x->header_bytes = 0;
	x->headers_final = false;
	buf_clear(&x->response->header_text);
}

/* Stores "name\0value\0"; header[] is pointed into it once the text no longer moves. */
static bool header_add(struct exchange *x, const char *line, size_t len)
{
	struct http_response *r = x->response;
	while (len && (line[len - 1] == '\r' || line[len - 1] == '\n' || line[len - 1] == ' ' ||
			      line[len - 1] == '\t'))
		len--;
	if (len == 0)
		return true;
	const char *colon = memchr(line, ':', len);
	if (!colon || memchr(line, 0, len))
		return true; /* not a field: ignored, as every client does */
	size_t name_len = (size_t)(colon - line);
	const char *value = colon + 1;
	const char *end = line + len;
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	x->header_bytes += len;
	if (r->header_count == HTTP_HEADERS_MAX || x->header_bytes > HTTP_HEADER_BYTES)
		return false;
	for (size_t i = 0; i < name_len; i++)
		buf_put_u8(&r->header_text, (uint8_t)tolower((unsigned char)line[i]));
	buf_put_u8(&r->header_text, 0);
	buf_put(&r->header_text, value, (size_t)(end - value));
	buf_put_u8(&r->header_text, 0);
	r->header_count++;
	return !r->header_text.failed;
}

static size_t on_header(char *p, size_t size, size_t count, void *ctx)
{
	struct exchange *x = ctx;
	size_t len = size * count;
	if (len >= 5 && memcmp(p, "HTTP/", 5) == 0) {
		headers_clear(x); /* a 100 Continue came before */
		x->head_ended = false;
		return len;
	}
	if (x->headers_final)
		return len; /* trailers */
	x->head_ended = len <= 2 && (*p == '\r' || *p == '\n');
	if (!header_add(x, p, len)) {
		x->malformed = true;
		snprintf(x->response->text, sizeof(x->response->text),
			"the answer's headers are too large");
		return 0;
	}
	return len;
}

/* Fixes header[] and what is read out of it. Once, before the body or at the end. */
static void headers_finish(struct exchange *x)
{
	struct http_response *r = x->response;
	if (x->headers_final)
		return;
	x->headers_final = true;
	const char *p = (const char *)r->header_text.data;
	for (uint32_t i = 0; i < r->header_count; i++) {
		r->header[i].name = p;
		p += strlen(p) + 1;
		r->header[i].value = p;
		p += strlen(p) + 1;
	}
	long status = 0;
	curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
	r->status = (int)status;
	r->received_ms = clock_boottime_ms();
	const char *date = http_response_header(r, "date");
	r->date_ms = date ? http_parse_date(date) : 0;
}

static size_t on_body(char *p, size_t size, size_t count, void *ctx)
{
	struct exchange *x = ctx;
	struct http_response *r = x->response;
	const struct http_request *q = x->request;
	size_t len = size * count;
	headers_finish(x);
	bool success = r->status >= 200 && r->status < 300;
	if (success && q->sink) {
		int e = q->sink(q->sink_ctx, r, p, len);
		if (e == 0)
			return len;
		r->local_errno = e < 0 ? -e : EIO;
		return len ? 0 : 1;
	}
	size_t max = q->capture_max ? q->capture_max : CAPTURE_DEFAULT;
	if (len > max - r->body.len) {
		if (success) {
			x->malformed = true;
			snprintf(r->text, sizeof(r->text), "the answer is longer than %zu bytes",
				max);
		} else {
			x->truncated = true;
			buf_put(&r->body, p, max - r->body.len);
		}
		return len ? 0 : 1;
	}
	buf_put(&r->body, p, len);
	return r->body.failed ? 0 : len;
}

static struct curl_slist *header_list(const struct http_request *q)
{
	struct curl_slist *list = NULL;
	struct buf line CLEANUP(buf_done) = {0};
	for (size_t i = 0; i < q->header_count; i++) {
		buf_clear(&line);
		/* libcurl's notation for a field without a value is "name;" */
		if (*q->header[i].value)
			buf_printf(&line, "%s: %s", q->header[i].name, q->header[i].value);
		else
			buf_printf(&line, "%s;", q->header[i].name);
		struct curl_slist *longer = curl_slist_append(list, buf_str(&line));
		CHECK(longer && !line.failed);
		list = longer;
	}
	if (q->body_size <= HTTP_EXPECT_BYTES) {
		struct curl_slist *longer = curl_slist_append(list, "Expect:");
		CHECK(longer);
		list = longer;
	}
	return list;
}

static void set_method(CURL *c, struct exchange *x)
{
	const struct http_request *q = x->request;
	if (strcmp(q->method, "GET") == 0) {
		curl_easy_setopt(c, CURLOPT_HTTPGET, 1L);
	} else if (strcmp(q->method, "HEAD") == 0) {
		curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
	} else if (strcmp(q->method, "PUT") == 0 || strcmp(q->method, "POST") == 0) {
		curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method);
		curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, (curl_off_t)q->body_size);
		curl_easy_setopt(c, CURLOPT_READFUNCTION, on_body_read);
		curl_easy_setopt(c, CURLOPT_READDATA, x);
		curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_body_seek);
		curl_easy_setopt(c, CURLOPT_SEEKDATA, x);
	} else {
		curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method);
	}
}

static void set_connection(const struct http *h, CURL *c, const struct http_request *q)
{
	curl_easy_setopt(c, CURLOPT_URL, q->url);
	curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (h->ca_bundle)
		curl_easy_setopt(c, CURLOPT_CAINFO, h->ca_bundle);
	if (strncasecmp(q->url, "http://", 7) == 0)
		curl_easy_setopt(c, CURLOPT_PROXY, "");
	curl_easy_setopt(c, CURLOPT_USERAGENT, "meridian/" MERIDIAN_VERSION);
	curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(c, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)h->connect_timeout_ms);
	int64_t stall = q->stall_timeout_ms ? q->stall_timeout_ms : h->stall_timeout_ms;
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)((stall + 999) / 1000));
}

static void set_callbacks(CURL *c, struct exchange *x)
{
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(c, CURLOPT_PREREQFUNCTION, on_prepare);
	curl_easy_setopt(c, CURLOPT_PREREQDATA, x);
	curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(c, CURLOPT_XFERINFODATA, x);
	curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
}

static enum http_result result_of(const struct exchange *x, CURLcode code)
{
	/* libcurl takes a connection that is closed in the middle of the head for the head's end. */
	if (code == CURLE_OK && !x->head_ended)
		return HTTP_LOST;
	if (code == CURLE_OK || x->truncated)
		return HTTP_ANSWERED;
	if (x->malformed)
		return HTTP_MALFORMED;
	if (x->response->local_errno)
		return HTTP_ABANDONED;
	switch (code) {
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_CONNECT:
	case CURLE_SSL_CONNECT_ERROR:
		return x->prepared ? HTTP_LOST : HTTP_UNREACHABLE;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_CERTPROBLEM:
		return HTTP_UNTRUSTED;
	case CURLE_OPERATION_TIMEDOUT:
		return HTTP_TIMED_OUT;
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9 */
	case CURLE_BAD_CONTENT_ENCODING:
		return HTTP_MALFORMED;
	default:
		return x->prepared ? HTTP_LOST : HTTP_UNREACHABLE;
	}
}

/* Whether the server can have all of the request: what libcurl was given counts as sent. */
static bool sent_whole(const struct exchange *x)
{
	return x->prepared > 0 && x->body_sent == x->request->body_size;
}

enum http_result http_perform(struct http *h, const struct http_request *q, struct http_response *r)
{
	memset(r, 0, sizeof(*r));
	r->header_text.max = 2 * HTTP_HEADER_BYTES;
	int64_t left = q->deadline_ms ? q->deadline_ms - clock_monotonic_ms() : 0;
	if (q->deadline_ms && left <= 0) {
		snprintf(r->text, sizeof(r->text), "the deadline has passed");
		return HTTP_TIMED_OUT;
	}
	struct exchange x = {.request = q, .response = r};
	enum http_result result = handle_take(h, q, r, &x.curl);
	if (result != HTTP_ANSWERED)
		return result;
	char text[CURL_ERROR_SIZE] = "";
	struct curl_slist *headers = header_list(q);
	set_connection(h, x.curl, q);
	set_method(x.curl, &x);
	set_callbacks(x.curl, &x);
	curl_easy_setopt(x.curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(x.curl, CURLOPT_ERRORBUFFER, text);
	left = q->deadline_ms ? q->deadline_ms - clock_monotonic_ms() : 0;
	if (q->deadline_ms)
		curl_easy_setopt(x.curl, CURLOPT_TIMEOUT_MS, (long)(left > 0 ? left : 1));
	CURLcode code = curl_easy_perform(x.curl);
	result = result_of(&x, code);
	if (result == HTTP_ANSWERED)
		headers_finish(&x);
	else if (code == CURLE_OK)
		snprintf(r->text, sizeof(r->text), "the connection was closed within the answer's head");
	else if (!r->text[0])
		snprintf(r->text, sizeof(r->text), "%.159s", *text ? text : curl_easy_strerror(code));
	r->maybe_sent = sent_whole(&x);
	curl_slist_free_all(headers);
	handle_give(h, x.curl);
	return result;
}

void http_response_done(struct http_response *r)
{
	buf_done(&r->body);
	buf_done(&r->header_text);
	r->header_count = 0;
}

const char *http_response_header(const struct http_response *r, const char *name)
{
	for (uint32_t i = 0; i < r->header_count; i++) {
		if (strcmp(r->header[i].name, name) == 0)
			return r->header[i].value;
	}
	return NULL;
}

int64_t http_parse_date(const char *text)
{
	time_t t = curl_getdate(text, NULL);
	return t > 0 ? (int64_t)t * 1000 : 0;
}
