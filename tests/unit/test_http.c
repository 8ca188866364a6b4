/* The HTTP client against a scripted server: what is sent, what is kept, and how each failure is
 * told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "replicator/http/http.h"
#include "src/base/clock.h"
#include "tests/unit/canned_server.h"

enum { CUT_STEP = 61 }; /* bytes from one broken handshake to the next */

#define OK_EMPTY "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

struct run {
	struct canned_server server;
	struct http *http;
	char url[128];
};

static void begin(struct run *t, const struct canned_step *step, unsigned count)
{
	const struct http_config config = {.connections = 2, .stall_timeout_ms = 1000};
	struct err err = {0};
	canned_start(&t->server, step, count);
	assert_int_equal(http_new(&config, &t->http, &err), 0);
	snprintf(t->url, sizeof(t->url), "%s/a/../b%%2Fc?x=1", t->server.origin);
}

static void end(struct run *t)
{
	http_free(t->http);
	canned_stop(&t->server);
	free(t);
}

static struct run *start(const struct canned_step *step, unsigned count)
{
	struct run *t = calloc(1, sizeof(*t));
	assert_non_null(t);
	begin(t, step, count);
	return t;
}

static ssize_t read_zeros(void *ctx, uint64_t offset, void *p, size_t len)
{
	memset(p, 'z', len);
	return (ssize_t)len;
}

static ssize_t read_failing(void *ctx, uint64_t offset, void *p, size_t len)
{
	if (offset >= 100000)
		return -ESTALE;
	memset(p, 'z', len < 50000 ? len : 50000);
	return (ssize_t)(len < 50000 ? len : 50000);
}

static enum http_result get(struct run *t, struct http_response *r)
{
	const struct http_request q = {.method = "GET", .url = t->url, .repeatable = true};
	return http_perform(t->http, &q, r);
}

static enum http_result put(struct run *t, uint64_t size, struct http_response *r)
{
	const struct http_request q = {
		.method = "PUT", .url = t->url, .body_size = size, .body_read = read_zeros};
	return http_perform(t->http, &q, r);
}

static void test_request_as_given(void **state)
{
	const struct canned_step steps[] = {
		{.reply = "HTTP/1.1 200 OK\r\nDate: Fri, 24 May 2013 00:00:00 "
			  "GMT\r\nX-Amz-Meta-Mode:  420 \r\n"
			  "ETag: \"e\"\r\nContent-Length: 3\r\n\r\nabc"},
		{.reply = "HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: "
			  "0\r\n\r\n"}};
	struct run *t = start(steps, 2);
	const struct http_header headers[] = {{"x-amz-meta-empty", ""}, {"x-test", "a b"}};
	const struct http_request q = {
		.method = "GET", .url = t->url, .header = headers, .header_count = 2};
	struct http_response r CLEANUP(http_response_done);
	assert_int_equal(http_perform(t->http, &q, &r), HTTP_ANSWERED);
	assert_int_equal(r.status, 200);
	assert_int_equal(r.body.len, 3);
	assert_memory_equal(r.body.data, "abc", 3);
	assert_int_equal(r.date_ms, 1369353600000);
	assert_string_equal(http_response_header(&r, "x-amz-meta-mode"), "420");
	assert_string_equal(http_response_header(&r, "etag"), "\"e\"");
	assert_null(http_response_header(&r, "location"));
	assert_non_null(strstr(t->server.head[0], "GET /a/../b%2Fc?x=1 HTTP/1.1\r\n"));
	assert_non_null(strstr(t->server.head[0], "\r\nx-amz-meta-empty:\r\n"));
	assert_non_null(strstr(t->server.head[0], "\r\nx-test: a b\r\n"));
	struct http_response moved CLEANUP(http_response_done);
	assert_int_equal(get(t, &moved), HTTP_ANSWERED);
	assert_int_equal(moved.status, 301);
	assert_int_equal(t->server.seen, 2);
	end(t);
}

static void test_small_body_does_not_ask(void **state)
{
	const struct canned_step steps[] = {{.reply = OK_EMPTY}, {.reply = OK_EMPTY}};
	struct run *t = start(steps, 2);
	struct http_response r CLEANUP(http_response_done);
	assert_int_equal(put(t, HTTP_EXPECT_BYTES, &r), HTTP_ANSWERED);
	assert_null(strcasestr(t->server.head[0], "expect:"));
	assert_int_equal(t->server.body[0], HTTP_EXPECT_BYTES);
	struct http_response empty CLEANUP(http_response_done);
	assert_int_equal(put(t, 0, &empty), HTTP_ANSWERED);
	assert_non_null(strcasestr(t->server.head[1], "\r\ncontent-length: 0\r\n"));
	end(t);
}

static void test_large_body_asks_first(void **state)
{
	const struct canned_step steps[] = {{.reply = OK_EMPTY},
		{.reply = "HTTP/1.1 412 No\r\nContent-Length: 0\r\n\r\n", .early = true}};
	struct run *t = start(steps, 2);
	struct http_response r CLEANUP(http_response_done);
	assert_int_equal(put(t, 3 * HTTP_EXPECT_BYTES, &r), HTTP_ANSWERED);
	assert_int_equal(r.status, 200);
	assert_int_equal(t->server.body[0], 3 * HTTP_EXPECT_BYTES);
	struct http_response early CLEANUP(http_response_done);
	assert_int_equal(put(t, 3 * HTTP_EXPECT_BYTES, &early), HTTP_ANSWERED);
	assert_int_equal(early.status, 412);
	assert_int_equal(t->server.body[1], 0);
	end(t);
}

struct sink {
	size_t got;
	int fail;
	int status;
};

static int on_sink(void *ctx, const struct http_response *r, const void *p, size_t len)
{
	struct sink *s = ctx;
	s->got += len;
	s->status = r->status;
	return s->fail;
}

static void test_sink(void **state)
{
	const struct canned_step steps[] = {
		{.reply = "HTTP/1.1 206 Part\r\nContent-Length: 5\r\n\r\nabcde"},
		{.reply = "HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\nabcde"},
		{.reply = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"}};
	struct run *t = start(steps, 3);
	struct sink s = {0};
	struct http_request q = {.method = "GET",
		.url = t->url,
		.sink = on_sink,
		.sink_ctx = &s,
		.repeatable = true};
	struct http_response a CLEANUP(http_response_done), b CLEANUP(http_response_done),
		c CLEANUP(http_response_done);
	assert_int_equal(http_perform(t->http, &q, &a), HTTP_ANSWERED);
	assert_int_equal(s.got, 5);
	assert_int_equal(s.status, 206);
	assert_int_equal(a.body.len, 0);
	assert_int_equal(http_perform(t->http, &q, &b), HTTP_ANSWERED);
	assert_int_equal(s.got, 5);
	assert_int_equal(b.body.len, 5);
	s.fail = -ENOSPC;
	assert_int_equal(http_perform(t->http, &q, &c), HTTP_ABANDONED);
	assert_int_equal(c.local_errno, ENOSPC);
	end(t);
}

static void test_limits(void **state)
{
	char *many = malloc(400000), *p = many;
	p += sprintf(p, "HTTP/1.1 200 OK\r\n");
	for (int i = 0; i < HTTP_HEADERS_MAX + 1; i++)
		p += sprintf(p, "h%d: v\r\n", i);
	sprintf(p, "Content-Length: 0\r\n\r\n");
	char *wide = malloc(400000);
	sprintf(wide, "HTTP/1.1 200 OK\r\na: %040000d\r\nb: %040000d\r\nContent-Length: 0\r\n\r\n",
		0, 0);
	const struct canned_step steps[] = {{.reply = many, .hang_up = true},
		{.reply = wide, .hang_up = true},
		{.reply = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789", .hang_up = true},
		{.reply = "HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n123456789", .hang_up = true},
		{.reply = "<html>no HTTP</html>\r\n\r\n", .hang_up = true}};
	struct run *t = start(steps, ARRAY_SIZE(steps));
	struct http_request q = {.method = "GET", .url = t->url, .capture_max = 8};
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		struct http_response r CLEANUP(http_response_done);
		enum http_result result = http_perform(t->http, &q, &r);
		assert_int_equal(result, i == 3 ? HTTP_ANSWERED : HTTP_MALFORMED);
		if (i == 3) {
			assert_int_equal(r.status, 500);
			assert_int_equal(r.body.len, 8);
		} else {
			assert_true(r.text[0] != 0);
		}
	}
	end(t);
	free(many);
	free(wide);
}

static void test_lost_answers(void **state)
{
	const struct canned_step steps[] = {
		{.reply = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", .hang_up = true},
		{.hang_up = true}, {.early = true, .hang_up = true}};
	struct run *t = start(steps, 3);
	struct http_response a CLEANUP(http_response_done), b CLEANUP(http_response_done),
		c CLEANUP(http_response_done), d CLEANUP(http_response_done);
	assert_int_equal(get(t, &a), HTTP_LOST);
	assert_int_equal(put(t, 10, &b), HTTP_LOST);
	assert_true(b.maybe_sent);
	/* Closed in the middle of a body: it cannot have been accepted. */
	assert_int_equal(put(t, 500000000, &c), HTTP_LOST);
	assert_false(c.maybe_sent);
	snprintf(t->url, sizeof(t->url), "http://127.0.0.1:1/");
	assert_int_equal(put(t, 10, &d), HTTP_UNREACHABLE);
	assert_false(d.maybe_sent);
	end(t);
}

/* Nothing of a head that does not end is an answer, however much it looks like one. */
static void test_cut_heads(void **state)
{
	const struct canned_step steps[] = {{.reply = "HTTP/1.1 200 OK\r\n", .hang_up = true},
		{.reply = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", .hang_up = true},
		{.reply = "HTTP/1.1 404 Not Found\r\nContent-Le", .hang_up = true},
		{.reply = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", .hang_up = true}};
	struct run *t = start(steps, ARRAY_SIZE(steps));

	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		struct http_response r CLEANUP(http_response_done);

		assert_int_equal(put(t, 10, &r), HTTP_LOST);
		assert_true(r.maybe_sent);
		assert_true(r.text[0] != 0);
	}
	end(t);
}

/* A kept connection dies under the second request. Only what may be repeated is. */
static void test_no_silent_repeat(void **state)
{
	const struct canned_step steps[] = {{.reply = OK_EMPTY}, {.hang_up = true},
		{.reply = OK_EMPTY}, {.hang_up = true}, {.reply = OK_EMPTY}};
	struct run *t = start(steps, 5);
	struct http_response a CLEANUP(http_response_done), b CLEANUP(http_response_done),
		c CLEANUP(http_response_done), d CLEANUP(http_response_done);
	assert_int_equal(get(t, &a), HTTP_ANSWERED);
	assert_int_equal(get(t, &b), HTTP_ANSWERED); /* steps 1 and 2 */
	assert_int_equal(t->server.seen, 3);
	assert_int_equal(put(t, 10, &c), HTTP_LOST);
	assert_true(c.maybe_sent);
	assert_int_equal(t->server.seen, 4);
	const struct http_request q = {.method = "DELETE", .url = t->url};
	assert_int_equal(http_perform(t->http, &q, &d), HTTP_ANSWERED);
	end(t);
}

static void test_no_silent_repeat_without_body(void **state)
{
	const struct canned_step steps[] = {
		{.reply = OK_EMPTY}, {.hang_up = true}, {.reply = OK_EMPTY}};
	struct run *t = start(steps, 2);
	struct http_response a CLEANUP(http_response_done), b CLEANUP(http_response_done);
	assert_int_equal(get(t, &a), HTTP_ANSWERED);
	const struct http_request q = {.method = "DELETE", .url = t->url};
	assert_int_equal(http_perform(t->http, &q, &b), HTTP_LOST);
	assert_true(b.maybe_sent);
	end(t);
}

static void test_time_limits(void **state)
{
	const struct canned_step steps[] = {{.silent = true}, {.silent = true}};
	struct run *t = start(steps, 2);
	struct http_response a CLEANUP(http_response_done), b CLEANUP(http_response_done),
		c CLEANUP(http_response_done);
	struct http_request q = {
		.method = "PUT", .url = t->url, .body_size = 5, .body_read = read_zeros};
	int64_t began = clock_monotonic_ms();
	q.deadline_ms = began + 200;
	assert_int_equal(http_perform(t->http, &q, &a), HTTP_TIMED_OUT);
	assert_true(a.maybe_sent);
	assert_in_range(clock_monotonic_ms() - began, 200, 5000);
	q.deadline_ms = 0; /* the stall limit of one second remains */
	assert_int_equal(http_perform(t->http, &q, &b), HTTP_TIMED_OUT);
	q.deadline_ms = began;
	assert_int_equal(http_perform(t->http, &q, &c), HTTP_TIMED_OUT);
	assert_false(c.maybe_sent);
	assert_int_equal(t->server.seen, 2);
	end(t);
}

static void *cancel_soon(void *flag)
{
	clock_sleep_ms(100);
	atomic_store((atomic_bool *)flag, true);
	return NULL;
}

static void test_cancel(void **state)
{
	const struct canned_step steps[] = {{.silent = true}};
	struct run *t = start(steps, 1);
	struct http_response r CLEANUP(http_response_done);
	atomic_bool flag = false;
	pthread_t thread;
	struct http_request q = {
		.method = "GET", .url = t->url, .cancel = &flag, .stall_timeout_ms = 30000};
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &flag), 0);
	assert_int_equal(http_perform(t->http, &q, &r), HTTP_ABANDONED);
	assert_int_equal(r.local_errno, ECANCELED);
	pthread_join(thread, NULL);
	end(t);
}

static void test_source_fails(void **state)
{
	const struct canned_step steps[] = {{.reply = OK_EMPTY}};
	struct run *t = start(steps, 1);
	struct http_response r CLEANUP(http_response_done);
	struct http_request q = {
		.method = "PUT", .url = t->url, .body_size = 1000000, .body_read = read_failing};
	assert_int_equal(http_perform(t->http, &q, &r), HTTP_ABANDONED);
	assert_int_equal(r.local_errno, ESTALE);
	assert_false(r.maybe_sent);
	/* The server saw a body that ended early, and counted no request. */
	http_free(t->http);
	t->http = NULL;
	canned_stop(&t->server);
	assert_int_equal(t->server.seen, 0);
	free(t);
}

static void *one_get(void *arg)
{
	struct run *t = arg;
	struct http_response r CLEANUP(http_response_done);
	return get(t, &r) == HTTP_ANSWERED ? NULL : arg;
}

/* Four requests over two handles, against a server that takes one connection at a time. */
static void test_pool_is_bounded(void **state)
{
	const struct canned_step steps[] = {{.reply = OK_EMPTY, .hang_up = true},
		{.reply = OK_EMPTY, .hang_up = true}, {.reply = OK_EMPTY, .hang_up = true},
		{.reply = OK_EMPTY, .hang_up = true}};
	struct run *t = start(steps, 4);
	pthread_t thread[4];
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, one_get, t), 0);
	for (int i = 0; i < 4; i++) {
		void *failed;
		pthread_join(thread[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(t->server.seen, 4);
	end(t);
}

/* An HTTPS server with a certificate of its own for 127.0.0.1 only. */
struct tls {
	char dir[64], cert[96], key[96], address[32];
	pid_t pid;
};

static pid_t spawn(char *const argv[])
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	return pid;
}

/* False when openssl(1) is not installed. */
static bool tls_start(struct tls *t, struct canned_server *for_port)
{
	int status;
	strcpy(t->dir, "/tmp/meridian-http-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	snprintf(t->cert, sizeof(t->cert), "%s/cert.pem", t->dir);
	snprintf(t->key, sizeof(t->key), "%s/key.pem", t->dir);
	char *make[] = {"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
		"-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", t->key,
		"-out", t->cert, NULL};
	pid_t pid = spawn(make);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WEXITSTATUS(status) == 127) {
		rmdir(t->dir);
		return false;
	}
	assert_int_equal(status, 0);
	/* A port that was free a moment ago. */
	canned_start(for_port, NULL, 0);
	canned_stop(for_port);
	snprintf(t->address, sizeof(t->address), "127.0.0.1:%u", for_port->port);
	char *serve[] = {"openssl", "s_server", "-accept", t->address, "-cert", t->cert, "-key",
		t->key, "-www", "-quiet", NULL};
	t->pid = spawn(serve);
	return true;
}

static void tls_stop(struct tls *t)
{
	kill(t->pid, SIGKILL);
	waitpid(t->pid, NULL, 0);
	unlink(t->cert);
	unlink(t->key);
	rmdir(t->dir);
}

static enum http_result tls_get(const struct tls *t, const char *ca_bundle, const char *host)
{
	const struct http_config config = {.ca_bundle = ca_bundle};
	struct http_response r CLEANUP(http_response_done);
	struct http *http;
	struct err err = {0};
	char url[64];
	enum http_result result;
	assert_int_equal(http_new(&config, &http, &err), 0);
	snprintf(url, sizeof(url), "https://%s%s/", host, strchr(t->address, ':'));
	const struct http_request q = {.method = "GET", .url = url, .repeatable = true};
	for (int i = 0; i < 100; i++) {
		result = http_perform(http, &q, &r);
		if (result != HTTP_UNREACHABLE)
			break;
		http_response_done(&r);
		clock_sleep_ms(50);
	}
	http_free(http);
	return result;
}

static void test_certificates_are_verified(void **state)
{
	struct canned_server *for_port = calloc(1, sizeof(*for_port));
	struct tls t = {0};
	assert_non_null(for_port);
	bool started = tls_start(&t, for_port);
	free(for_port);
	if (!started)
		skip();
	enum http_result trusted = tls_get(&t, t.cert, "127.0.0.1");
	enum http_result unknown = tls_get(&t, NULL, "127.0.0.1");
	enum http_result other_name = tls_get(&t, t.cert, "localhost");
	tls_stop(&t);
	assert_int_equal(trusted, HTTP_ANSWERED);
	assert_int_equal(unknown, HTTP_UNTRUSTED);
	assert_int_equal(other_name, HTTP_UNTRUSTED);
}

/* Passes bytes between a client and the TLS server, and breaks the connection when so many of the
 * server's (or the client's) have passed. One connection at a time. */
struct cutter {
	int listener;
	in_port_t target; /* in network order */
	_Atomic unsigned after;
	atomic_bool of_client, reset, stop;
	_Atomic unsigned passed; /* of the last connection, in the direction that is counted */
	pthread_t thread;
	unsigned port;
};

static struct sockaddr_in local_port(in_port_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = port,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* False: the end. */
static bool pass_some(struct cutter *c, int from, int to, bool counted)
{
	unsigned passed = atomic_load(&c->passed), after = atomic_load(&c->after);
	size_t room = counted ? after - passed : SIZE_MAX;
	char b[4096];
	ssize_t n = read(from, b, room < sizeof(b) ? room : sizeof(b));

	if (n <= 0)
		return false;
	if (counted)
		atomic_store(&c->passed, passed + (unsigned)n);
	return write(to, b, (size_t)n) == n;
}

static void cut_one(struct cutter *c, int client)
{
	struct sockaddr_in to = local_port(c->target);
	const struct linger at_once = {.l_onoff = 1};
	int server = socket(AF_INET, SOCK_STREAM, 0);
	bool open = connect(server, (struct sockaddr *)&to, sizeof(to)) == 0;

	atomic_store(&c->passed, 0);
	while (open && atomic_load(&c->passed) < atomic_load(&c->after)) {
		struct pollfd p[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
		if (poll(p, 2, 5000) <= 0)
			break;
		if (p[0].revents)
			open = pass_some(c, client, server, atomic_load(&c->of_client));
		if (open && p[1].revents)
			open = pass_some(c, server, client, !atomic_load(&c->of_client));
	}
	if (atomic_load(&c->reset))
		setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(client);
	close(server);
}

static void *cutter_run(void *arg)
{
	struct cutter *c = arg;

	while (!atomic_load(&c->stop)) {
		int client = accept(c->listener, NULL, NULL);
		if (client >= 0)
			cut_one(c, client);
	}
	return NULL;
}

static void cutter_start(struct cutter *c, const struct tls *t)
{
	struct sockaddr_in any = local_port(0);
	socklen_t len = sizeof(any);

	c->target = htons((in_port_t)atoi(strchr(t->address, ':') + 1));
	c->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(c->listener, (struct sockaddr *)&any, sizeof(any)), 0);
	assert_int_equal(listen(c->listener, 8), 0);
	assert_int_equal(getsockname(c->listener, (struct sockaddr *)&any, &len), 0);
	c->port = ntohs(any.sin_port);
	assert_int_equal(pthread_create(&c->thread, NULL, cutter_run, c), 0);
}

static void cutter_stop(struct cutter *c)
{
	atomic_store(&c->stop, true);
	shutdown(c->listener, SHUT_RDWR);
	pthread_join(c->thread, NULL);
	close(c->listener);
}

static enum http_result cut_get(struct cutter *c, struct http *http, unsigned after, struct http_response *r)
{
	char url[64];

	snprintf(url, sizeof(url), "https://127.0.0.1:%u/", c->port);
	const struct http_request q = {.method = "GET", .url = url};
	atomic_store(&c->after, after);
	return http_perform(http, &q, r);
}

/* Wherever it breaks: a handshake that did not end says nothing about the certificate. resumed: it goes on with
 * the session of an earlier one. */
static void cut_everywhere(struct cutter *c, const char *ca_bundle, bool of_client, bool resumed)
{
	const struct http_config config = {.ca_bundle = ca_bundle, .connections = 1};
	enum http_result result = HTTP_UNREACHABLE;
	struct http *http;
	struct err err = {0};

	atomic_store(&c->of_client, of_client);
	for (unsigned after = 1; result != HTTP_ANSWERED; after += CUT_STEP) {
		struct http_response r CLEANUP(http_response_done), first CLEANUP(http_response_done);

		atomic_store(&c->reset, after / CUT_STEP % 2 == 0);
		assert_int_equal(http_new(&config, &http, &err), 0);
		memset(&first, 0, sizeof(first));
		if (resumed)
			assert_int_equal(cut_get(c, http, 1 << 30, &first), HTTP_ANSWERED);
		result = cut_get(c, http, after, &r);
		http_free(http);
		if (result != HTTP_UNREACHABLE && result != HTTP_LOST && result != HTTP_ANSWERED)
			fail_msg("after %u bytes of the %s, resumed %d: %d %s", after,
				of_client ? "client" : "server", resumed, result, r.text);
		assert_true(result != HTTP_ANSWERED || after > 300);
	}
}

static void test_cut_handshakes(void **state)
{
	struct canned_server *for_port = calloc(1, sizeof(*for_port));
	struct cutter c = {0};
	struct tls t = {0};

	assert_non_null(for_port);
	bool started = tls_start(&t, for_port);
	free(for_port);
	if (!started)
		skip();
	assert_int_equal(tls_get(&t, t.cert, "127.0.0.1"), HTTP_ANSWERED);
	cutter_start(&c, &t);
	for (unsigned way = 0; way < 4; way++)
		cut_everywhere(&c, t.cert, way & 1, way & 2);
	cutter_stop(&c);
	tls_stop(&t);
}

static void test_bad_ca_bundle(void **state)
{
	const struct http_config config = {.ca_bundle = "/nonexistent/ca.pem"};
	struct http *http = NULL;
	struct err err = {0};
	assert_int_equal(http_new(&config, &http, &err), -ENOENT);
	assert_null(http);
	assert_non_null(strstr(err.text, "/nonexistent/ca.pem"));
}

static void test_date(void **state)
{
	assert_int_equal(http_parse_date("Wed, 12 Oct 2009 17:50:00 GMT"), 1255369800000);
	assert_int_equal(http_parse_date("soon"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request_as_given),
		cmocka_unit_test(test_small_body_does_not_ask),
		cmocka_unit_test(test_large_body_asks_first),
		cmocka_unit_test(test_sink),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_lost_answers),
		cmocka_unit_test(test_cut_heads),
		cmocka_unit_test(test_no_silent_repeat),
		cmocka_unit_test(test_no_silent_repeat_without_body),
		cmocka_unit_test(test_time_limits),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_source_fails),
		cmocka_unit_test(test_pool_is_bounded),
		cmocka_unit_test(test_certificates_are_verified),
		cmocka_unit_test(test_cut_handshakes),
		cmocka_unit_test(test_bad_ca_bundle),
		cmocka_unit_test(test_date),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
