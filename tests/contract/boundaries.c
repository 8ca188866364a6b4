/*
 * One fault at one byte of an exchange with a real store, for every byte in turn: the connection is
 * reset, closed or stalls when so many bytes of the request or of the answer have passed. Whatever
 * byte it is, the call must end as if nothing had happened, and the store must hold what was asked
 * for, once. tests/mount/test_netfault.py starts it, with the store and the proxies (proxy.py):
 *
 *   boundaries CONTROL_PORT MODE
 *
 * MODE is sample (every byte of the heads that matter, then strides) or all. CONTRACT_URL, CONTRACT_ENDPOINT
 * (the store itself), CONTRACT_CREDENTIALS as for the contract suite; BOUNDARIES_ONLY=NAME: one
 * exchange; BOUNDARIES_CA: the proxies lead to a server that speaks TLS, under this authority.
 *
 * A thread has a proxy and a store client with one connection of its own. Odd cases begin with a new
 * connection, even ones on the kept one. Each attempt has a deadline of its own, so that a stall
 * costs that and not stall_timeout.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replicator/store/layers.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/random.h"
#include "src/base/thread.h"

enum {
	BREAKERS = 12, /* threads that reset and close */
	STALLERS = 24, /* they mostly wait */
	ATTEMPT_MS = 10000,
	STALL_MS = 1000,
	HEAD = 200,	   /* bytes of a direction of which a sample takes each */
	LARGE_HEAD = 1300, /* all of it, with the answer that asks for the body */
	KEYS = 25,	   /* of the listing */
	FAILURES_SHOWN = 5,
};

struct exchange;

/* One thread. */
struct worker {
	struct store *store; /* through the proxy */
	int control;
	bool stalls;
	pthread_t thread;
};

struct exchange {
	const char *name;
	size_t size; /* of the body */
	bool every;  /* a sample takes every byte of its heads */
	bool (*before)(const struct exchange *x, const char *key);
	enum store_result (*run)(
		const struct exchange *x, struct store *s, const char *key, struct store_error *e);
	bool (*after)(const struct exchange *x, const char *key);
};

static struct store *direct; /* past the proxies */
static char *body;
static uint64_t run_id;
static bool all_bytes;
static atomic_uint failures, cases;

/* ---- a layer that gives each attempt its own deadline ---- */

struct brief {
	struct store s;
	int64_t ms; /* until one has timed out: a busy machine is no stall */
	bool patient;
};

static struct store_call shorten(struct store *s, const struct store_call *call)
{
	struct store_call c = *call;
	const struct brief *b = (const struct brief *)s;
	int64_t end = clock_monotonic_ms() + (b->patient ? ATTEMPT_MS : b->ms);

	if (!c.deadline_ms || c.deadline_ms > end)
		c.deadline_ms = end;
	return c;
}

static enum store_result seen(struct store *s, enum store_result r)
{
	((struct brief *)s)->patient |= r == STORE_TIMEOUT || r == STORE_UNKNOWN;
	return r;
}

static enum store_result brief_get(struct store *s, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *e)
{
	struct store_call c = shorten(s, call);
	return seen(
		s, store_get(s->inner, key, offset, length, if_match, sink, object, meta, &c, e));
}

static enum store_result brief_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *e)
{
	struct store_call c = shorten(s, call);
	return seen(s, store_put(s->inner, key, source, meta, condition, etag, &c, e));
}

static enum store_result brief_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *e)
{
	struct store_call c = shorten(s, call);
	return seen(s, store_head(s->inner, key, object, meta, &c, e));
}

static enum store_result brief_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *e)
{
	struct store_call c = shorten(s, call);
	return seen(s, store_list(s->inner, prefix, start_after, limit, fn, ctx, &c, e));
}

static enum store_result brief_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *e)
{
	struct store_call c = shorten(s, call);
	return seen(s, store_remove(s->inner, key, if_match, &c, e));
}

static enum store_result brief_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *e)
{
	struct store_call c = shorten(s, call);
	return seen(s, store_copy(s->inner, from, to, meta, if_match, etag, &c, e));
}

static enum store_result brief_upload(struct store *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *e)
{
	struct store_call c = shorten(s, call);
	return seen(s, store_inner_upload(s, u, &c, e));
}

static void brief_close(struct store *s)
{
	store_close(s->inner);
	free(s);
}

static const struct store_ops brief_ops = {
	.name = "brief",
	.get = brief_get,
	.put = brief_put,
	.head = brief_head,
	.list = brief_list,
	.remove = brief_remove,
	.copy = brief_copy,
	.upload = brief_upload,
	.close = brief_close,
};

static struct store *open_store(const char *endpoint, const char *ca, int64_t attempt_ms)
{
	const struct store_config config = {
		.name = "us-east-1",
		.url = getenv("CONTRACT_URL"),
		.endpoint = endpoint,
		.credentials_file = getenv("CONTRACT_CREDENTIALS"),
		.ca_bundle = ca,
		.path_style = true,
		.connections = 1,
	};
	struct brief *b = calloc(1, sizeof(*b));
	struct err err = {0};

	CHECK(b);
	if (store_s3_open(&config, &b->s.inner, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	b->s.ops = &brief_ops;
	b->ms = attempt_ms;
	atomic_store(&b->s.capabilities, atomic_load(&b->s.inner->capabilities));
	return store_retry_new(&b->s, 4, 60000);
}

/* ---- what is done, and how it must look afterwards ---- */

static bool wrong(const char *what, enum store_result r, const struct store_error *e)
{
	fprintf(stderr, "%s: %s: %s\n", what, store_result_name(r), e ? e->text : "");
	return false;
}

static void fill_meta(struct store_meta *m, const char *value)
{
	CHECK(store_meta_set(m, "meridian-stamp", value) == 0);
	CHECK(store_meta_set(m, "mode", "33188") == 0);
}

static bool holds(const char *key, size_t size, const char *stamp)
{
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(store_meta_done) struct store_meta have = {0};
	struct store_error e = {0};

	enum store_result r = store_get_buf(direct, key, UINT64_MAX, &b, NULL, &have, NULL, &e);
	if (r != STORE_OK)
		return wrong("the object afterwards", r, &e);
	const char *is = store_meta_get(&have, "meridian-stamp");
	if (b.len != size || memcmp(b.data, body, size) != 0)
		return wrong("its content is another", r, NULL);
	if ((stamp != NULL) != (is != NULL) || (stamp && strcmp(is, stamp) != 0))
		return wrong("its metadata are others", r, NULL);
	return true;
}

static bool nothing_before(const struct exchange *x UNUSED, const char *key UNUSED)
{
	return true;
}

static enum store_result put(struct store *s, const char *key, size_t size, const char *stamp,
	bool if_absent, struct store_error *e)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	const struct store_condition condition = {.if_absent = if_absent};
	char etag[STORE_ETAG_SIZE] = "";

	if (stamp)
		fill_meta(&meta, stamp);
	enum store_result r = store_put_buf(s, key, body, size, &meta, &condition, etag, NULL, e);
	if (r == STORE_OK && !etag[0])
		return store_error_set(e, STORE_CORRUPT, "no ETag");
	return r;
}

static enum store_result put_run(
	const struct exchange *x, struct store *s, const char *key, struct store_error *e)
{
	return put(s, key, x->size, "1-1", true, e);
}

static bool put_after(const struct exchange *x, const char *key)
{
	return holds(key, x->size, "1-1");
}

/* A segment carries no metadata. */
static enum store_result segment_run(
	const struct exchange *x, struct store *s, const char *key, struct store_error *e)
{
	return put(s, key, x->size, NULL, true, e);
}

static bool segment_after(const struct exchange *x, const char *key)
{
	return holds(key, x->size, NULL);
}

static bool there_before(const struct exchange *x, const char *key)
{
	struct store_error e = {0};

	enum store_result r = put(direct, key, x->size, "0-0", false, &e);
	return r == STORE_OK || wrong("the object before", r, &e);
}

static enum store_result get_run(
	const struct exchange *x, struct store *s, const char *key, struct store_error *e)
{
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(store_meta_done) struct store_meta have = {0};

	enum store_result r = store_get_buf(s, key, UINT64_MAX, &b, NULL, &have, NULL, e);
	if (r == STORE_OK && (b.len != x->size || memcmp(b.data, body, x->size) != 0))
		return store_error_set(e, STORE_CORRUPT, "other bytes");
	if (r == STORE_OK && !store_meta_get(&have, "meridian-stamp"))
		return store_error_set(e, STORE_CORRUPT, "no metadata");
	return r;
}

static int range_write(void *ctx, const void *p, size_t len)
{
	buf_put(ctx, p, len);
	return 0;
}

static int range_reset(void *ctx)
{
	buf_clear(ctx);
	return 0;
}

/* A block of a file that is read lazily. */
static enum store_result range_run(
	const struct exchange *x, struct store *s, const char *key, struct store_error *e)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct store_sink sink = {.write = range_write, .reset = range_reset, .ctx = &b};
	uint64_t offset = x->size / 3, length = x->size / 2;

	enum store_result r = store_get(s, key, offset, length, NULL, &sink, NULL, NULL, NULL, e);
	if (r == STORE_OK && (b.len != length || memcmp(b.data, body + offset, b.len) != 0))
		return store_error_set(e, STORE_CORRUPT, "other bytes");
	return r;
}

static bool there_after(const struct exchange *x, const char *key)
{
	return holds(key, x->size, "0-0");
}

static enum store_result copy_run(
	const struct exchange *x UNUSED, struct store *s, const char *key, struct store_error *e)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};

	fill_meta(&meta, "1-1");
	return store_copy(s, key, key, &meta, NULL, NULL, NULL, e);
}

static enum store_result remove_run(
	const struct exchange *x UNUSED, struct store *s, const char *key, struct store_error *e)
{
	return store_remove(s, key, NULL, NULL, e);
}

static bool remove_after(const struct exchange *x UNUSED, const char *key)
{
	struct store_error e = {0};

	enum store_result r = store_head(direct, key, NULL, NULL, NULL, &e);
	return r == STORE_ABSENT || wrong("the removed object", r, &e);
}

static void list_prefix(char *to, size_t size)
{
	snprintf(to, size, "boundaries-%016llx/list/", (unsigned long long)run_id);
}

struct listed {
	unsigned n;
	bool out_of_order;
};

static int list_item(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	struct listed *l = ctx;
	char want[128];

	list_prefix(want, sizeof(want));
	snprintf(want + strlen(want), sizeof(want) - strlen(want), "%03u", l->n++);
	l->out_of_order |= strcmp(key, want) != 0;
	return 0;
}

static enum store_result list_run(const struct exchange *x UNUSED, struct store *s,
	const char *key UNUSED, struct store_error *e)
{
	struct listed l = {0};
	char prefix[96];

	list_prefix(prefix, sizeof(prefix));
	enum store_result r = store_list(s, prefix, NULL, 0, list_item, &l, NULL, e);
	if (r == STORE_OK && (l.n != KEYS || l.out_of_order))
		return store_error_set(e, STORE_CORRUPT, "%u keys, or out of order", l.n);
	return r;
}

static bool list_after(const struct exchange *x UNUSED, const char *key UNUSED)
{
	return true;
}

/* In one part, which may be as short as it likes. */
static enum store_result upload_run(
	const struct exchange *x, struct store *s, const char *key, struct store_error *e)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_memory memory = {.p = body, .len = x->size};
	const struct store_source source = store_source_memory(&memory);
	struct store_part part = {.number = 1};
	char id[STORE_UPLOAD_ID_SIZE];

	fill_meta(&meta, "1-1");
	enum store_result r = store_upload_begin(s, key, &meta, id, NULL, e);
	if (r == STORE_OK)
		r = store_upload_part(s, key, id, &source, &part, NULL, e);
	if (r == STORE_OK)
		r = store_upload_end(s, key, id, &part, 1, &meta, NULL, NULL, NULL, e);
	return r;
}

struct left {
	unsigned n;
	char id[4][STORE_UPLOAD_ID_SIZE];
};

static int left_item(void *ctx, const char *key UNUSED, const char *id, int64_t begun_ms UNUSED)
{
	struct left *l = ctx;

	if (l->n < ARRAY_SIZE(l->id))
		snprintf(l->id[l->n], sizeof(l->id[0]), "%s", id);
	l->n++;
	return 0;
}

/* A beginning whose answer was lost leaves one upload without parts, which goes after a week. */
static bool upload_after(const struct exchange *x, const char *key)
{
	struct store_error e = {0};
	struct left l = {0};

	enum store_result r = store_uploads(direct, key, left_item, &l, NULL, &e);
	if (r != STORE_OK || l.n > 1)
		return wrong("uploads are left", r, &e);
	if (l.n == 1 && store_upload_abort(direct, key, l.id[0], NULL, &e) != STORE_OK)
		return wrong("aborting", STORE_OK, &e);
	return holds(key, x->size, "1-1");
}

static const struct exchange exchanges[] = {
	{"put", 100, true, nothing_before, put_run, put_after},
	{"segment", 3000, false, nothing_before, segment_run, segment_after},
	{"upload", 700, true, nothing_before, upload_run, upload_after},
	{"list", 0, true, nothing_before, list_run, list_after},
	{"get", 900, true, there_before, get_run, there_after},
	{"range", 3000, false, there_before, range_run, there_after},
	{"copy", 64, false, there_before, copy_run, put_after},
	{"remove", 10, false, there_before, remove_run, remove_after},
	/* It asks with Expect: 100-continue, and its body is not kept in memory. */
	{"large", (1 << 20) + 4096, false, nothing_before, put_run, put_after},
};
#define BODY_MAX ((size_t)(1 << 20) + 4096)

static const char *const directions[] = {"request", "response"};
static const char *const actions[] = {"reset", "close", "stall"};

/* All boundaries of one exchange, direction and action; they end where a fault does not strike. */
struct sequence {
	const struct exchange *x;
	unsigned direction, action;
	atomic_uint next;
	atomic_bool ended;
	atomic_uint struck;
};
static struct sequence sequences[ARRAY_SIZE(exchanges) * 6];

/* The byte before which the n-th fault strikes. A sample takes every byte of the heads of the four
 * kinds of exchange (for resets), and some of what follows and of the others. */
static size_t boundary(const struct sequence *q, unsigned n)
{
	bool large = q->x->size > 65536, reset = q->action == 0;
	size_t fine = reset && q->x->every ? 1 : large ? (reset ? 41 : 97) : 17;
	size_t coarse = large ? q->x->size / (reset ? 16 : 5) : reset ? 47 : 211;
	size_t in_head = (large ? LARGE_HEAD : HEAD) / fine;

	if (all_bytes)
		return large && n > LARGE_HEAD ? LARGE_HEAD + (n - LARGE_HEAD) * (size_t)997 : n;
	return n < in_head ? n * fine : in_head * fine + (n - in_head) * coarse;
}

/* ---- the proxy ---- */

static int dial(int port)
{
	const struct sockaddr_in to = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void read_line(int fd, char *line, size_t size)
{
	size_t n = 0;

	while (n + 1 < size && read(fd, line + n, 1) == 1 && line[n] != '\n')
		n++;
	CHECK(line[n] == '\n');
	line[n] = '\0';
}

static void PRINTF(3, 4) ask(int fd, char answer[32], const char *fmt, ...)
{
	char line[96];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	CHECK(write(fd, line, (size_t)n) == n);
	read_line(fd, answer, 32);
}

/* ---- running ---- */

/* One case; true when the fault struck. */
static bool run_case(struct worker *w, struct sequence *q, unsigned n)
{
	const struct exchange *x = q->x;
	size_t at = boundary(q, n);
	struct store_error e = {0};
	char key[128], answer[32];

	snprintf(key, sizeof(key), "boundaries-%016llx/%s/%s-%s-%zu.", (unsigned long long)run_id,
		x->name, directions[q->direction], actions[q->action], at);
	bool good = x->before(x, key);
	((struct brief *)w->store->inner)->patient = false;
	if (n % 2)
		ask(w->control, answer, "drop\n");
	ask(w->control, answer, "arm %s %s %zu\n", directions[q->direction], actions[q->action],
		at);
	enum store_result r = good ? x->run(x, w->store, key, &e) : STORE_OK;
	ask(w->control, answer, "disarm\n");
	if (good && r != STORE_OK)
		good = wrong("the call", r, &e);
	good = good && x->after(x, key);
	atomic_fetch_add(&cases, 1);
	if (!good && atomic_fetch_add(&failures, 1) < FAILURES_SHOWN)
		fprintf(stderr, "FAILED: %s, %s %s after %zu bytes\n", x->name,
			directions[q->direction], actions[q->action], at);
	return strcmp(answer, "hit") == 0;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (size_t i = 0; i < ARRAY_SIZE(sequences) && failures < FAILURES_SHOWN; i++) {
		struct sequence *q = &sequences[i];
		if (!q->x || (q->action == 2) != w->stalls)
			continue;
		while (!q->ended && failures < FAILURES_SHOWN) {
			if (run_case(w, q, atomic_fetch_add(&q->next, 1)))
				atomic_fetch_add(&q->struck, 1);
			else
				q->ended = true;
		}
	}
	return NULL;
}

static void start(struct worker *w, int control_port, bool stalls)
{
	char line[32], endpoint[64];
	const char *ca = getenv("BOUNDARIES_CA");

	w->stalls = stalls;
	w->control = dial(control_port);
	read_line(w->control, line, sizeof(line));
	snprintf(endpoint, sizeof(endpoint), "%s://127.0.0.1:%s", ca ? "https" : "http", line);
	w->store = open_store(endpoint, ca, stalls ? STALL_MS : ATTEMPT_MS);
	CHECK(thread_start(&w->thread, stalls ? "stall" : "break", work, w) == 0);
}

static void prepare(void)
{
	struct store_error e = {0};
	char key[128];
	const char *only = getenv("BOUNDARIES_ONLY");
	size_t n = 0;

	run_id = random_u64();
	body = malloc(BODY_MAX);
	CHECK(body);
	for (size_t i = 0; i < BODY_MAX; i++)
		body[i] = (char)(i * 2654435761u >> 24);
	for (unsigned i = 0; i < KEYS; i++) {
		list_prefix(key, sizeof(key));
		snprintf(key + strlen(key), sizeof(key) - strlen(key), "%03u", i);
		if (put(direct, key, 1, NULL, false, &e) != STORE_OK) {
			fprintf(stderr, "preparing: %s\n", e.text);
			exit(1);
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(exchanges); i++) {
		if (only && strcmp(only, exchanges[i].name) != 0)
			continue;
		for (unsigned k = 0; k < 6; k++) {
			sequences[n].x = &exchanges[i];
			sequences[n].direction = k % 2;
			sequences[n++].action = k / 2;
		}
	}
}

static void report(int64_t took_ms)
{
	for (size_t i = 0; i < ARRAY_SIZE(sequences) && sequences[i].x; i += 6) {
		printf("%-8s", sequences[i].x->name);
		for (unsigned k = 0; k < 6; k++)
			printf("  %s %s %u", directions[sequences[i + k].direction],
				actions[sequences[i + k].action],
				atomic_load(&sequences[i + k].struck));
		printf("\n");
		for (unsigned k = 0; k < 6; k++)
			if (!sequences[i + k].struck)
				atomic_fetch_add(&failures, 1);
	}
	printf("%u cases in %.1f s, %u failed\n", atomic_load(&cases), (double)took_ms / 1000,
		atomic_load(&failures));
}

int main(int argc, char **argv)
{
	static struct worker workers[BREAKERS + STALLERS];
	int64_t began = clock_monotonic_ms();

	if (argc != 3)
		return 2;
	all_bytes = strcmp(argv[2], "all") == 0;
	const struct store_config config = {.name = "us-east-1",
		.url = getenv("CONTRACT_URL"),
		.endpoint = getenv("CONTRACT_ENDPOINT"),
		.credentials_file = getenv("CONTRACT_CREDENTIALS"),
		.path_style = true,
		.connections = BREAKERS + STALLERS};
	struct err err = {0};
	if (store_open(&config, &direct, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	prepare();
	for (size_t i = 0; i < ARRAY_SIZE(workers); i++)
		start(&workers[i], atoi(argv[1]), i >= BREAKERS);
	for (size_t i = 0; i < ARRAY_SIZE(workers); i++) {
		pthread_join(workers[i].thread, NULL);
		store_close(workers[i].store);
		close(workers[i].control);
	}
	store_close(direct);
	report(clock_monotonic_ms() - began);
	free(body);
	return failures ? 1 : 0;
}
