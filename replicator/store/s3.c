/*
 * Amazon S3 and what speaks its protocol: one bucket and prefix.
 *
 * Every operation is: build a request, send it, look at the classified result (s3_request.h).
 * Nothing sleeps or repeats, with one exception that is no repetition: how the store wants ETags
 * written in If-Match is learned once (put_if_match).
 *
 * ETags are kept without their quotes. Ceph accepts If-Match on PUT only without them, the standard
 * wants them; so the first If-Match goes out quoted, and when it fails although HEAD shows that
 * very ETag, bare.
 *
 * No locks: everything is fixed at open, but for etag_style and the clock skew (atomics) and what
 * http and credentials guard themselves.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "replicator/store/layers.h"
#include "replicator/store/s3_request.h"
#include "replicator/store/s3_xml.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/log.h"

#define STALL_TIMEOUT_MS 20000

bool s3_too_long(const struct s3 *s, const char *key)
{
	return strlen(s->prefix) + strlen(key) > STORE_KEY_MAX;
}

enum store_result s3_refuse_long(const struct s3 *s, struct store_error *e)
{
	return store_error_set(e, STORE_TOO_LARGE,
		"the key and its prefix '%.80s' have more than %d bytes", s->prefix, STORE_KEY_MAX);
}

static bool parse_number(const char *s, char **end, uint64_t *ret)
{
	if (!s || *s < '0' || *s > '9')
		return false;
	errno = 0;
	*ret = strtoull(s, end, 10);
	return errno == 0;
}

/* Content-Range: bytes FIRST-LAST/TOTAL */
static bool parse_range(const struct http_response *r, uint64_t *first, uint64_t *total)
{
	const char *value = http_response_header(r, "content-range");
	uint64_t last;
	char *p;
	if (!value || strncmp(value, "bytes ", 6) != 0 || !parse_number(value + 6, &p, first) ||
		*p != '-' || !parse_number(p + 1, &p, &last) || *p != '/')
		return false;
	return parse_number(p + 1, &p, total) && !*p && *first <= last && last < *total;
}

/* Size, time and ETag from the headers; false when they cannot be. */
static bool read_object(const struct http_response *r, struct store_object *ret)
{
	struct store_object o = {0};
	const char *etag = http_response_header(r, "etag");
	const char *modified = http_response_header(r, "last-modified");
	uint64_t first;
	char *end;
	if (r->status == 206) {
		if (!parse_range(r, &first, &o.size))
			return false;
	} else if (!parse_number(http_response_header(r, "content-length"), &end, &o.size) ||
		   *end) {
		return false;
	}
	if (etag && *etag && !s3_etag_set(o.etag, etag))
		return false;
	o.mtime_ms = modified ? http_parse_date(modified) : 0;
	*ret = o;
	return true;
}

/* Replaces *ret. What other tools wrote and we cannot carry is left out. */
static void read_meta(const struct http_response *r, struct store_meta *ret)
{
	static const char prefix[] = "x-amz-meta-";
	store_meta_done(ret);
	for (uint32_t i = 0; i < r->header_count; i++) {
		if (strncmp(r->header[i].name, prefix, sizeof(prefix) - 1) != 0)
			continue;
		const char *name = r->header[i].name + sizeof(prefix) - 1;
		int e = store_meta_set(ret, name, r->header[i].value);
		if (e < 0)
			log_debug("metadata left out name=%s error=%d", name, -e);
	}
}

/* Whether a HEAD's 404, which has no body, comes from S3 itself. When nothing in its headers says
 * so, a GET settles it: that one's body names the cause. */
static enum store_result settle_absence(struct s3 *s, const char *key,
	const struct http_response *head, const struct store_call *call, struct store_error *e)
{
	for (uint32_t i = 0; i < head->header_count; i++) {
		if (strncmp(head->header[i].name, "x-amz", 5) == 0)
			return STORE_ABSENT;
	}
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	s3_request_init(&q, s, "GET", key);
	s3_request_header(&q, "range", "bytes=0-0");
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result != STORE_OK && r.status != 416)
		return result;
	s3_corrupt(&q, e, "HEAD says that it is not there, GET that it is");
	return STORE_TRANSIENT;
}

static enum store_result s3_head(struct store *store, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	if (s3_too_long(s, key))
		return STORE_ABSENT;
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	s3_request_init(&q, s, "HEAD", key);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (r.status == 404)
		return settle_absence(s, key, &r, call, e);
	if (result != STORE_OK)
		return result;
	struct store_object o;
	if (!read_object(&r, &o))
		return s3_corrupt(&q, e, "impossible size or ETag");
	if (object)
		*object = o;
	if (meta)
		read_meta(&r, meta);
	return STORE_OK;
}

/* Passes on what was asked of a body, also when the store ignored Range and sent all of it. */
struct get {
	const struct store_sink *sink;
	uint64_t offset, length; /* as asked */
	uint64_t skip;		 /* bytes still to drop */
	uint64_t got;		 /* bytes passed on */
	bool started, bad;
};

static int on_get_body(void *ctx, const struct http_response *r, const void *p, size_t len)
{
	struct get *g = ctx;
	uint64_t first, total;
	if (!g->started) {
		g->started = true;
		g->bad =
			r->status == 206 && (!parse_range(r, &first, &total) || first != g->offset);
		g->skip = r->status == 206 ? 0 : g->offset;
		if (g->bad)
			return -EBADMSG;
	}
	size_t drop = g->skip < len ? (size_t)g->skip : len;
	g->skip -= drop;
	p = (const char *)p + drop;
	len -= drop;
	if (g->length && len > g->length - g->got)
		len = (size_t)(g->length - g->got);
	g->got += len;
	return len ? g->sink->write(g->sink->ctx, p, len) : 0;
}

/* 416: the offset is at or behind the end, so there is nothing to send. */
static enum store_result get_behind_end(struct s3 *s, const char *key, uint64_t offset,
	const char *if_match, struct store_object *object, struct store_meta *meta,
	const struct store_call *call, struct store_error *e)
{
	struct store_object o = {0};
	enum store_result result = s3_head(&s->store, key, &o, meta, call, e);
	if (result != STORE_OK)
		return result;
	if (if_match && strcmp(o.etag, if_match) != 0)
		return STORE_PRECONDITION;
	if (offset < o.size)
		return STORE_TRANSIENT; /* it grew in between */
	if (object)
		*object = o;
	return STORE_OK;
}

static void add_range(struct s3_request *q, uint64_t offset, uint64_t length)
{
	size_t from = q->text.len;
	uint64_t last;
	if (offset == 0 && length == 0)
		return;
	if (length == 0 || __builtin_add_overflow(offset, length - 1, &last))
		buf_printf(&q->text, "bytes=%llu-", (unsigned long long)offset);
	else
		buf_printf(&q->text, "bytes=%llu-%llu", (unsigned long long)offset,
			(unsigned long long)last);
	s3_request_header(q, "range", s3_request_text(q, from));
}

static enum store_result s3_get(struct store *store, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	if (s3_too_long(s, key))
		return STORE_ABSENT;
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	struct get g = {.sink = sink, .offset = offset, .length = length};
	s3_request_init(&q, s, "GET", key);
	add_range(&q, offset, length);
	if (if_match)
		s3_request_etag(&q, "if-match", if_match, false);
	q.sink = on_get_body;
	q.sink_ctx = &g;
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (g.bad)
		return s3_corrupt(&q, e, "the store sent another range");
	if (r.status == 416)
		return get_behind_end(s, key, offset, if_match, object, meta, call, e);
	if (result != STORE_OK)
		return result;
	struct store_object o;
	if (!read_object(&r, &o))
		return s3_corrupt(&q, e, "impossible size, range or ETag");
	uint64_t expected = offset < o.size ? o.size - offset : 0;
	if (length && expected > length)
		expected = length;
	if (g.got != expected) {
		s3_corrupt(&q, e, "the body is shorter than announced");
		return STORE_TRANSIENT;
	}
	if (object)
		*object = o;
	if (meta)
		read_meta(&r, meta);
	return STORE_OK;
}

static enum store_result put_once(struct s3 *s, const char *key, struct s3_body *body,
	const struct store_meta *meta, const struct store_condition *condition, bool bare,
	char *etag, const struct store_call *call, struct store_error *e)
{
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	bool if_match = condition && condition->if_match;
	bool if_absent = condition && condition->if_absent;
	s3_request_init(&q, s, "PUT", key);
	q.change = true;
	s3_body_attach(&q, body);
	s3_request_meta(&q, meta);
	if (if_absent)
		s3_request_header(&q, "if-none-match", "*");
	if (if_match)
		s3_request_etag(&q, "if-match", condition->if_match, bare);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (if_absent && r.status == 412)
		return STORE_EXISTS;
	if (if_match && result == STORE_ABSENT) /* Amazon: the object is gone */
		return STORE_PRECONDITION;
	if (result == STORE_PRECONDITION && !if_match && !if_absent)
		return s3_corrupt(&q, e, "412 to a request without a condition");
	if (result == STORE_ABSENT)
		return s3_corrupt(&q, e, "404 to a PUT");
	if (result != STORE_OK)
		return result;
	const char *value = http_response_header(&r, "etag");
	if (etag && (!value || !s3_etag_set(etag, value)))
		*etag = 0;
	return STORE_OK;
}

static enum store_result put_if_match(struct s3 *s, const char *key, struct s3_body *body,
	const struct store_meta *meta, const struct store_condition *condition, char *etag,
	const struct store_call *call, struct store_error *e)
{
	int style = atomic_load(&s->etag_style);
	enum store_result result =
		put_once(s, key, body, meta, condition, style == ETAG_BARE, etag, call, e);
	if (style != ETAG_UNKNOWN)
		return result;
	if (result == STORE_OK)
		atomic_store(&s->etag_style, ETAG_QUOTED);
	if (result != STORE_PRECONDITION)
		return result;
	struct store_object now;
	struct store_error unused = {0};
	if (s3_head(&s->store, key, &now, NULL, call, &unused) != STORE_OK ||
		strcmp(now.etag, condition->if_match) != 0)
		return STORE_PRECONDITION;
	struct store_error second = {0};
	result = put_once(s, key, body, meta, condition, true, etag, call, &second);
	if (result == STORE_OK)
		atomic_store(&s->etag_style, ETAG_BARE);
	else
		*e = second;
	return result;
}

static enum store_result s3_put(struct store *store, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	if (s3_too_long(s, key))
		return s3_refuse_long(s, e);
	struct s3_body body CLEANUP(s3_body_done) = {0};
	int r = s3_body_prepare(&body, s, source, call);
	if (r < 0)
		return s3_body_unreadable(key, r, e);
	if (condition && condition->if_match)
		return put_if_match(s, key, &body, meta, condition, etag, call, e);
	return put_once(s, key, &body, meta, condition, false, etag, call, e);
}

static enum store_result s3_remove(struct store *store, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	if (s3_too_long(s, key))
		return STORE_OK;
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	s3_request_init(&q, s, "DELETE", key);
	q.change = true;
	if (if_match)
		s3_request_etag(&q, "if-match", if_match, false);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result == STORE_ABSENT)
		return if_match ? STORE_PRECONDITION : STORE_OK;
	return result;
}

static enum store_result s3_copy(struct store *store, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	if (s3_too_long(s, from))
		return STORE_ABSENT;
	if (s3_too_long(s, to))
		return s3_refuse_long(s, e);
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	struct s3_answer answer = {0};
	s3_request_init(&q, s, "PUT", to);
	q.change = true;
	q.stall_timeout_ms = S3_COPY_STALL * s->stall_ms;
	s3_request_source(&q, s, from, call);
	s3_request_header(&q, "x-amz-metadata-directive", "REPLACE");
	s3_request_meta(&q, meta);
	if (if_match)
		s3_request_etag(&q, "x-amz-copy-source-if-match", if_match, false);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result == STORE_UNSUPPORTED && strstr(e->text, "larger than"))
		return STORE_TOO_LARGE;
	if (result != STORE_OK)
		return result;
	/* The status came before the copy was made; only the body says how it ended. */
	if (s3_xml_answer(r.body.data, r.body.len, &answer) < 0) {
		s3_corrupt(&q, e, "the answer to a copy is not XML");
		return STORE_UNKNOWN;
	}
	if (answer.is_error)
		return s3_refused(s, &q, &r, e);
	if (etag)
		memcpy(etag, answer.etag, STORE_ETAG_SIZE);
	return STORE_OK;
}

/* One LIST: its parameters, and where it stands. */
struct listing {
	const char *prefix;
	char last[STORE_KEY_MAX * 2 + 2]; /* full key: the next page starts after it; "" at first */
	char *token;			  /* only when a page was empty and yet not the last */
	uint64_t left;			  /* UINT64_MAX: no limit */
};

static void listing_done(struct listing *l)
{
	free(l->token);
}

static enum store_result list_page(struct s3 *s, const struct listing *l, struct s3_list_page *page,
	const struct store_call *call, struct store_error *e)
{
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	char max_keys[24];
	s3_request_init(&q, s, "GET", NULL);
	s3_request_query(&q, "list-type", "2");
	s3_request_query(&q, "encoding-type", "url");
	snprintf(max_keys, sizeof(max_keys), "%llu",
		(unsigned long long)(l->left < S3_LIST_PAGE ? l->left : S3_LIST_PAGE));
	s3_request_query(&q, "max-keys", max_keys);
	size_t from = q.text.len;
	buf_printf(&q.text, "%s%s", s->prefix, l->prefix);
	s3_request_query(&q, "prefix", s3_request_text(&q, from));
	if (l->token)
		s3_request_query(&q, "continuation-token", l->token);
	else if (l->last[0])
		s3_request_query(&q, "start-after", l->last);
	q.capture_max = S3_XML_MAX;
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result == STORE_ABSENT)
		return s3_corrupt(&q, e, "404 to a listing");
	if (result != STORE_OK)
		return result;
	if (s3_xml_list(r.body.data, r.body.len, page) < 0)
		return s3_corrupt(&q, e, "the listing is not what S3 sends");
	return STORE_OK;
}

static bool list_wrong(
	const struct s3 *s, const char *key, enum store_result *result, struct store_error *e)
{
	snprintf(e->text, sizeof(e->text), "the listing of bucket '%s' is out of order at '%.80s'",
		s->bucket, key);
	*result = STORE_CORRUPT;
	return false;
}

/* Calls fn for each key of a page. False: fn wants no more, or *result says what is wrong. */
static bool list_deliver(struct s3 *s, struct listing *l, const struct s3_list_page *page,
	store_list_fn fn, void *ctx, enum store_result *result, struct store_error *e)
{
	size_t skip = strlen(s->prefix);
	for (size_t i = 0; i < page->count; i++) {
		const char *key = s3_list_key(page, i);
		if (strlen(key) >= sizeof(l->last))
			return list_wrong(s, key, result, e);
		bool ours = strncmp(key, s->prefix, skip) == 0 &&
			    strncmp(key + skip, l->prefix, strlen(l->prefix)) == 0;
		if (!ours || strcmp(key, l->last) <= 0)
			return list_wrong(s, key, result, e);
		snprintf(l->last, sizeof(l->last), "%s", key);
		size_t len = strlen(key + skip);
		if (len == 0 ||
			len > STORE_KEY_MAX) /* the prefix's own object, or no key of ours */
			continue;
		if (l->left != UINT64_MAX)
			l->left--;
		if (fn(ctx, key + skip, &page->item[i].object) != 0 || l->left == 0)
			return false;
	}
	return true;
}

static enum store_result s3_list(struct store *store, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	struct listing l CLEANUP(listing_done) = {
		.prefix = prefix ? prefix : "", .left = limit ? limit : UINT64_MAX};
	if (start_after && *start_after)
		snprintf(l.last, sizeof(l.last), "%s%s", s->prefix, start_after);
	for (;;) {
		struct s3_list_page page CLEANUP(s3_list_page_done) = {0};
		enum store_result result = list_page(s, &l, &page, call, e);
		if (result != STORE_OK || !list_deliver(s, &l, &page, fn, ctx, &result, e))
			return result;
		if (!page.truncated)
			return STORE_OK;
		free(l.token);
		l.token = NULL;
		if (page.count == 0) { /* only the token leads on */
			l.token = page.token;
			page.token = NULL;
			if (!l.token) {
				snprintf(e->text, sizeof(e->text),
					"an endless listing of bucket '%s'", s->bucket);
				return STORE_CORRUPT;
			}
		}
	}
}

static void s3_close(struct store *store)
{
	struct s3 *s = (struct s3 *)store;
	http_free(s->http);
	credential_source_free(s->credentials);
	free(s->origin);
	free(s->host);
	free(s->root);
	free(s->bucket);
	free(s->prefix);
	free(s->copy_origin);
	free(s->region);
	free(s);
}

/* Amazon S3's (User Guide, "Multipart upload limits"); the others have the same or more. */
static const struct store_limits s3_limits = {
	.put_max = UINT64_C(5) << 30,
	.object_max = UINT64_C(5) << 40,
	.part_min = UINT64_C(5) << 20,
	.part_max = UINT64_C(5) << 30,
	.parts_max = 10000,
};

static const struct store_ops s3_ops = {
	.name = "s3",
	.get = s3_get,
	.put = s3_put,
	.head = s3_head,
	.list = s3_list,
	.remove = s3_remove,
	.copy = s3_copy,
	.upload = s3_upload,
	.uploads = s3_uploads,
	.close = s3_close,
};

static bool all_of(const char *s, size_t len, const char *extra)
{
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)s[i]) && !strchr(extra, s[i]))
			return false;
	}
	return len > 0;
}

static int parse_url(struct s3 *s, const char *url, struct err *err)
{
	if (!url || strncmp(url, "s3://", 5) != 0)
		return err_set(err, -EINVAL, "url: expected s3://bucket or s3://bucket/prefix");
	const char *bucket = url + 5;
	size_t len = strcspn(bucket, "/");
	if (len < 3 || len > 255 || !all_of(bucket, len, ".-_"))
		return err_set(err, -EINVAL, "url: '%.*s' is not a possible bucket name", (int)len,
			bucket);
	const char *prefix = bucket + len;
	while (*prefix == '/')
		prefix++;
	size_t prefix_len = strlen(prefix);
	while (prefix_len && prefix[prefix_len - 1] == '/')
		prefix_len--;
	if (prefix_len > STORE_KEY_MAX / 2)
		return err_set(
			err, -EINVAL, "url: the prefix is longer than %d bytes", STORE_KEY_MAX / 2);
	s->bucket = strndup(bucket, len);
	if (asprintf(&s->prefix, "%.*s%s", (int)prefix_len, prefix, prefix_len ? "/" : "") < 0)
		s->prefix = NULL;
	struct buf origin CLEANUP(buf_done) = {0};
	if (s->bucket && s->prefix) {
		buf_printf(&origin, "/%s/", s->bucket);
		s3_sign_encode(&origin, s->prefix, true);
	}
	s->copy_origin = origin.failed || !origin.len ? NULL : strdup(buf_str(&origin));
	s->store.origin = s->copy_origin;
	return s->bucket && s->prefix && s->copy_origin ? 0 : -ENOMEM;
}

/* Whether the bucket may stand before the host name: a DNS label, so that the certificate matches.
 */
static bool dns_label(const char *bucket)
{
	size_t len = strlen(bucket);
	if (len > 63 || bucket[0] == '-' || bucket[len - 1] == '-')
		return false;
	for (; *bucket; bucket++) {
		if (!islower((unsigned char)*bucket) && !isdigit((unsigned char)*bucket) &&
			*bucket != '-')
			return false;
	}
	return true;
}

static bool ends_with_amazon(const char *host, size_t len)
{
	static const char *const domains[] = {".amazonaws.com", ".amazonaws.com.cn"};
	for (size_t i = 0; i < ARRAY_SIZE(domains); i++) {
		size_t n = strlen(domains[i]);
		if (len > n && memcmp(host + len - n, domains[i], n) == 0)
			return true;
	}
	return false;
}

/* Sets origin, host, root and secure. A custom endpoint whose host starts with "<bucket>." is
 * virtual-host style. */
static int parse_endpoint(struct s3 *s, const struct store_config *config, struct err *err)
{
	char own[160];
	const char *endpoint = config->endpoint;
	if (!endpoint || !*endpoint) {
		snprintf(own, sizeof(own), "https://s3.%.100s.amazonaws.com%s", s->region,
			strncmp(s->region, "cn-", 3) == 0 ? ".cn" : "");
		endpoint = own;
	}
	s->secure = strncmp(endpoint, "https://", 8) == 0;
	if (!s->secure && strncmp(endpoint, "http://", 7) != 0)
		return err_set(
			err, -EINVAL, "endpoint '%s': expected https://host[:port]", endpoint);
	const char *authority = endpoint + (s->secure ? 8 : 7);
	size_t len = strlen(authority);
	if (len && authority[len - 1] == '/')
		len--;
	if (len > 255 || !all_of(authority, len, ".-_:[]"))
		return err_set(
			err, -EINVAL, "endpoint '%s': expected a host and port only", endpoint);
	const char *port = s->secure ? ":443" : ":80";
	size_t port_len = strlen(port);
	if (len > port_len && memcmp(authority + len - port_len, port, port_len) == 0)
		len -= port_len; /* libcurl leaves it out of Host, and so must the signature */
	size_t bucket_len = strlen(s->bucket);
	bool named = len > bucket_len && strncasecmp(authority, s->bucket, bucket_len) == 0 &&
		     authority[bucket_len] == '.' && !config->path_style;
	bool in_host = !named && !config->path_style && ends_with_amazon(authority, len) &&
		       dns_label(s->bucket);
	if (asprintf(&s->host, "%s%s%.*s", in_host ? s->bucket : "", in_host ? "." : "", (int)len,
		    authority) < 0)
		s->host = NULL;
	if (!s->host || asprintf(&s->origin, "http%s://%s", s->secure ? "s" : "", s->host) < 0)
		s->origin = NULL;
	if (asprintf(&s->root, "%s%s", named || in_host ? "" : "/",
		    named || in_host ? "" : s->bucket) < 0)
		s->root = NULL;
	return s->host && s->origin && s->root ? 0 : -ENOMEM;
}

static int s3_init(struct s3 *s, const struct store_config *config, struct err *err)
{
	const char *region = config->signing_region ? config->signing_region : config->name;
	if (!region || strlen(region) > 64 || !all_of(region, strlen(region), "-_."))
		return err_set(err, -EINVAL,
			"region '%s' cannot be a signing region: set signing_region",
			region ? region : "");
	s->region = strdup(region);
	s->credentials = credential_source_new(config->profile, config->credentials_file);
	if (!s->region || !s->credentials)
		return -ENOMEM;
	int r = parse_url(s, config->url, err);
	if (r == 0)
		r = parse_endpoint(s, config, err);
	if (r < 0)
		return r;
	s->timeout_ms = config->timeout_ms ? config->timeout_ms : 60000;
	s->stall_ms = config->stall_timeout_ms ? config->stall_timeout_ms : STALL_TIMEOUT_MS;
	const struct http_config http = {.ca_bundle = config->ca_bundle,
		.connections = config->connections,
		.stall_timeout_ms = s->stall_ms};
	return http_new(&http, &s->http, err);
}

int store_s3_open(const struct store_config *config, struct store **ret, struct err *err)
{
	struct s3 *s = calloc(1, sizeof(*s));
	if (!s)
		return err_errno(err, -ENOMEM, "cannot open %s", config->url);
	s->store.ops = &s3_ops;
	atomic_init(&s->store.capabilities, STORE_CAP_PUT_IF_ABSENT | STORE_CAP_PUT_IF_MATCH |
						    STORE_CAP_DELETE_IF_MATCH | STORE_CAP_COPY |
						    STORE_CAP_COPY_IF_MATCH | STORE_CAP_UPLOAD |
						    STORE_CAP_UPLOAD_COPY | STORE_CAP_UPLOAD_IF);
	s->store.limits = s3_limits;
	int r = s3_init(s, config, err);
	if (r < 0) {
		s3_close(&s->store);
		if (err && !err->text[0])
			return err_errno(err, r, "cannot open %s", config->url);
		return r;
	}
	*ret = &s->store;
	return 0;
}
