/*
 * XML by expat: a parser that keeps the path of open elements as one string ("/ListBucketResult/
 * Contents/Key") and hands each element's text to a table-free handler when it closes. Namespace
 * prefixes are dropped. Expat has no network access; with document types refused there is nothing
 * to expand.
 */
#include "replicator/store/s3_xml.h"

#include <errno.h>
#include <expat.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DEPTH_MAX 16
#define PATH_BYTES 512
#define TEXT_MAX 8192 /* a key of 1,024 bytes, each of them encoded as %XX, is 3,072 */
#define TOKEN_MAX 4096

struct parse {
	XML_Parser parser;
	char path[PATH_BYTES];
	size_t path_len;
	unsigned depth;
	struct buf text; /* of the innermost element */
	bool failed;
	void (*end)(struct parse *p, const char *path, const char *text);
	void (*begin)(struct parse *p, const char *path);
	void *result;
	struct s3_list_item item; /* listings: the one that is open */
	struct buf key;
	bool key_set;
	bool encoded;
	bool root_seen;
};

static void parse_fail(struct parse *p)
{
	p->failed = true;
	XML_StopParser(p->parser, XML_FALSE);
}

static void XMLCALL on_start(void *ctx, const XML_Char *name, const XML_Char **attributes UNUSED)
{
	struct parse *p = ctx;
	const char *colon = strrchr(name, ':');
	const char *local = colon ? colon + 1 : name;
	size_t len = strlen(local);
	if (++p->depth > DEPTH_MAX || p->path_len + len + 2 > sizeof(p->path)) {
		parse_fail(p);
		return;
	}
	p->path[p->path_len++] = '/';
	memcpy(p->path + p->path_len, local, len + 1);
	p->path_len += len;
	buf_clear(&p->text);
	p->begin(p, p->path);
}

static void XMLCALL on_end(void *ctx, const XML_Char *name UNUSED)
{
	struct parse *p = ctx;
	if (p->failed)
		return;
	p->end(p, p->path, buf_str(&p->text));
	char *slash = strrchr(p->path, '/');
	CHECK(slash && p->depth > 0);
	*slash = 0;
	p->path_len = (size_t)(slash - p->path);
	p->depth--;
	buf_clear(&p->text);
}

static void XMLCALL on_text(void *ctx, const XML_Char *text, int len)
{
	struct parse *p = ctx;
	if (p->failed)
		return;
	if (p->text.len + (size_t)len > TEXT_MAX)
		parse_fail(p);
	else
		buf_put(&p->text, text, (size_t)len);
}

static void XMLCALL on_doctype(void *ctx, const XML_Char *name UNUSED, const XML_Char *sysid UNUSED,
	const XML_Char *pubid UNUSED, int has_internal UNUSED)
{
	parse_fail(ctx);
}

static void XMLCALL on_entity(void *ctx, const XML_Char *name UNUSED, int is_parameter UNUSED,
	const XML_Char *value UNUSED, int len UNUSED, const XML_Char *base UNUSED,
	const XML_Char *sysid UNUSED, const XML_Char *pubid UNUSED, const XML_Char *notation UNUSED)
{
	parse_fail(ctx);
}

static int parse_run(struct parse *p, const void *data, size_t n)
{
	if (n == 0 || n > S3_XML_MAX)
		return -EBADMSG;
	p->parser = XML_ParserCreate(NULL);
	if (!p->parser)
		return -ENOMEM;
	XML_SetUserData(p->parser, p);
	XML_SetElementHandler(p->parser, on_start, on_end);
	XML_SetCharacterDataHandler(p->parser, on_text);
	XML_SetStartDoctypeDeclHandler(p->parser, on_doctype);
	XML_SetEntityDeclHandler(p->parser, on_entity);
	enum XML_Status status = XML_Parse(p->parser, data, (int)n, XML_TRUE);
	XML_ParserFree(p->parser);
	bool ok = status == XML_STATUS_OK && !p->failed && !p->text.failed && p->root_seen;
	buf_done(&p->text);
	return ok ? 0 : -EBADMSG;
}

bool s3_etag_set(char out[STORE_ETAG_SIZE], const char *etag)
{
	size_t len = strlen(etag);
	if (len >= 2 && etag[0] == '"' && etag[len - 1] == '"') {
		etag++;
		len -= 2;
	}
	if (len == 0 || len >= STORE_ETAG_SIZE)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (etag[i] <= ' ' || etag[i] > '~')
			return false;
	}
	memcpy(out, etag, len);
	out[len] = 0;
	return true;
}

static bool parse_u64(const char *s, uint64_t *ret)
{
	uint64_t v = 0;
	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || __builtin_mul_overflow(v, 10, &v) ||
			__builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return false;
	}
	*ret = v;
	return true;
}

/* 2009-10-12T17:50:30.000Z */
static bool parse_time(const char *s, int64_t *ret_ms)
{
	struct tm tm = {0};
	const char *rest = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);
	if (!rest)
		return false;
	int64_t ms = 0;
	if (*rest == '.') {
		int scale = 100;
		for (rest++; *rest >= '0' && *rest <= '9'; rest++) {
			ms += (*rest - '0') * scale;
			scale /= 10;
		}
	}
	if (strcmp(rest, "Z") != 0)
		return false;
	*ret_ms = (int64_t)timegm(&tm) * 1000 + ms;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* encoding-type=url: Amazon writes a space as '+', and a '+' as %2B like everyone. */
static bool put_decoded(struct buf *out, const char *s)
{
	for (; *s; s++) {
		if (*s == '%') {
			int high = hex_digit(s[1]);
			int low = high < 0 ? -1 : hex_digit(s[2]);
			if (low < 0)
				return false;
			buf_put_u8(out, (uint8_t)(high << 4 | low));
			s += 2;
		} else {
			buf_put_u8(out, *s == '+' ? ' ' : (uint8_t)*s);
		}
	}
	return true;
}

static void list_begin(struct parse *p, const char *path)
{
	if (p->depth == 1) {
		p->root_seen = strcmp(path, "/ListBucketResult") == 0;
		if (!p->root_seen)
			parse_fail(p);
	} else if (strcmp(path, "/ListBucketResult/Contents") == 0) {
		memset(&p->item, 0, sizeof(p->item));
		buf_clear(&p->key);
		p->key_set = false;
	}
}

static void list_item_end(struct parse *p)
{
	struct s3_list_page *page = p->result;
	if (!p->key_set || !p->item.object.etag[0] || page->count >= S3_LIST_PAGE) {
		parse_fail(p);
		return;
	}
	if (!page->item) {
		page->item = calloc(S3_LIST_PAGE, sizeof(*page->item));
		CHECK(page->item != NULL);
	}
	p->item.key = page->keys.len;
	buf_put(&page->keys, p->key.data, p->key.len);
	buf_put_u8(&page->keys, 0);
	page->item[page->count++] = p->item;
}

static void list_end(struct parse *p, const char *path, const char *text)
{
	static const char root[] = "/ListBucketResult/";
	struct s3_list_page *page = p->result;
	if (strncmp(path, root, sizeof(root) - 1) != 0)
		return;
	const char *name = path + sizeof(root) - 1;
	bool ok = true;
	if (strcmp(name, "Contents/Key") == 0) {
		buf_put(&p->key, text, p->text.len);
		p->key_set = ok = p->text.len > 0;
	} else if (strcmp(name, "Contents/Size") == 0) {
		ok = parse_u64(text, &p->item.object.size);
	} else if (strcmp(name, "Contents/LastModified") == 0) {
		ok = parse_time(text, &p->item.object.mtime_ms);
	} else if (strcmp(name, "Contents/ETag") == 0) {
		ok = s3_etag_set(p->item.object.etag, text);
	} else if (strcmp(name, "Contents") == 0) {
		list_item_end(p);
	} else if (strcmp(name, "IsTruncated") == 0) {
		page->truncated = strcmp(text, "true") == 0;
	} else if (strcmp(name, "EncodingType") == 0) {
		p->encoded = strcmp(text, "url") == 0;
	} else if (strcmp(name, "NextContinuationToken") == 0 && *text) {
		ok = !page->token && strlen(text) <= TOKEN_MAX;
		if (ok)
			page->token = strdup(text);
	}
	if (!ok)
		parse_fail(p);
}

/* EncodingType may stand before or after the keys, so they are decoded at the end. A key with a NUL
 * cannot be a path and is left out. */
static int decode_keys(struct s3_list_page *page, bool encoded)
{
	struct buf keys = {0};
	size_t kept = 0;
	for (size_t i = 0; i < page->count; i++) {
		const char *key = s3_list_key(page, i);
		size_t at = keys.len;
		if (!encoded) {
			buf_put_str(&keys, key);
		} else if (!put_decoded(&keys, key)) {
			buf_done(&keys);
			return -EBADMSG;
		}
		if (keys.len > at && memchr(keys.data + at, 0, keys.len - at)) {
			keys.len = at;
			page->skipped++;
			continue;
		}
		buf_put_u8(&keys, 0);
		page->item[i].key = at;
		page->item[kept++] = page->item[i];
	}
	buf_done(&page->keys);
	page->keys = keys;
	page->count = kept;
	return keys.failed ? -EBADMSG : 0;
}

int s3_xml_list(const void *data, size_t n, struct s3_list_page *page)
{
	memset(page, 0, sizeof(*page));
	struct parse p = {.begin = list_begin, .end = list_end, .result = page};
	int r = parse_run(&p, data, n);
	buf_done(&p.key);
	if (r == 0)
		r = decode_keys(page, p.encoded);
	if (r < 0)
		s3_list_page_done(page);
	return r;
}

void s3_list_page_done(struct s3_list_page *page)
{
	buf_done(&page->keys);
	free(page->item);
	free(page->token);
	memset(page, 0, sizeof(*page));
}

static void answer_begin(struct parse *p, const char *path)
{
	struct s3_answer *a = p->result;
	if (p->depth != 1)
		return;
	a->is_error = strcmp(path, "/Error") == 0;
	p->root_seen = a->is_error || strcmp(path, "/CopyObjectResult") == 0 ||
		       strcmp(path, "/CopyPartResult") == 0 ||
		       strcmp(path, "/CompleteMultipartUploadResult") == 0 ||
		       strcmp(path, "/InitiateMultipartUploadResult") == 0;
	if (!p->root_seen)
		parse_fail(p);
}

static void copy_printable(char *to, size_t size, const char *from)
{
	size_t i = 0;
	for (; from[i] && i + 1 < size; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
	to[i] = 0;
}

static bool is_etag(const char *path)
{
	return strcmp(path, "/CopyObjectResult/ETag") == 0 ||
	       strcmp(path, "/CopyPartResult/ETag") == 0;
}

/* Upload ids are opaque, but go into URLs and the database. */
static bool set_id(char out[STORE_UPLOAD_ID_SIZE], const char *text)
{
	size_t len = strlen(text);
	if (len == 0 || len >= STORE_UPLOAD_ID_SIZE)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	}
	memcpy(out, text, len + 1);
	return true;
}

static void answer_end(struct parse *p, const char *path, const char *text)
{
	struct s3_answer *a = p->result;
	if (strcmp(path, "/Error/Code") == 0)
		copy_printable(a->code, sizeof(a->code), text);
	else if (strcmp(path, "/Error/Message") == 0)
		copy_printable(a->message, sizeof(a->message), text);
	else if (strcmp(path, "/Error/RequestId") == 0)
		copy_printable(a->request_id, sizeof(a->request_id), text);
	else if (strcmp(path, "/Error/Region") == 0)
		copy_printable(a->region, sizeof(a->region), text);
	else if (is_etag(path) && !s3_etag_set(a->etag, text))
		parse_fail(p);
	else if (strcmp(path, "/CompleteMultipartUploadResult/ETag") == 0 &&
		 !s3_etag_set(a->etag, text))
		a->etag[0] = '\0'; /* Ceph leaves it empty */
	else if (strcmp(path, "/InitiateMultipartUploadResult/UploadId") == 0 &&
		 !set_id(a->upload_id, text))
		parse_fail(p);
}

int s3_xml_answer(const void *data, size_t n, struct s3_answer *ret)
{
	struct s3_answer a = {0};
	struct parse p = {.begin = answer_begin, .end = answer_end, .result = &a};
	int r = parse_run(&p, data, n);
	if (r < 0)
		return r;
	if (a.is_error && !a.code[0])
		return -EBADMSG;
	*ret = a;
	return 0;
}

static void uploads_begin(struct parse *p, const char *path)
{
	struct s3_uploads_page *page = p->result;
	if (p->depth == 1) {
		p->root_seen = strcmp(path, "/ListMultipartUploadsResult") == 0;
		if (!p->root_seen)
			parse_fail(p);
	} else if (strcmp(path, "/ListMultipartUploadsResult/Upload") == 0) {
		if (page->count >= S3_LIST_PAGE) {
			parse_fail(p);
			return;
		}
		if (!page->item) {
			page->item = calloc(S3_LIST_PAGE, sizeof(*page->item));
			CHECK(page->item != NULL);
		}
		page->item[page->count++] = (struct s3_uploads_item){0};
	}
}

static bool set_key(char **ret, const char *text)
{
	if (*text && !*ret)
		*ret = strdup(text);
	return *text && *ret;
}

/* Ceph encodes and does not say so; moto does neither. What an encoder would not have left is not
 * encoded. */
static bool looks_encoded(const char *key)
{
	for (; *key; key++) {
		if (*key <= ' ' || *key > '~' || strchr("\"<>\\^`{|}", *key) ||
			(*key == '%' && (hex_digit(key[1]) < 0 || hex_digit(key[2]) < 0)))
			return false;
	}
	return true;
}

static bool decode_key(char **key, bool encoded)
{
	struct buf b CLEANUP(buf_done) = {0};
	if (!*key || (!encoded && !looks_encoded(*key)))
		return true;
	if (!put_decoded(&b, *key) || b.failed || !b.len || memchr(b.data, 0, b.len))
		return false;
	free(*key);
	*key = strndup((const char *)b.data, b.len);
	return *key != NULL;
}

static void uploads_end(struct parse *p, const char *path, const char *text)
{
	static const char root[] = "/ListMultipartUploadsResult/";
	struct s3_uploads_page *page = p->result;
	if (strncmp(path, root, sizeof(root) - 1) != 0)
		return;
	const char *name = path + sizeof(root) - 1;
	struct s3_uploads_item *item = page->count ? &page->item[page->count - 1] : NULL;
	bool ok = true;
	if (strncmp(name, "Upload", 6) == 0 && item) {
		if (strcmp(name, "Upload/Key") == 0)
			ok = set_key(&item->key, text);
		else if (strcmp(name, "Upload/UploadId") == 0)
			ok = set_id(item->id, text);
		else if (strcmp(name, "Upload/Initiated") == 0)
			ok = parse_time(text, &item->begun_ms);
		else if (strcmp(name, "Upload") == 0)
			ok = item->key && item->id[0];
	} else if (strcmp(name, "IsTruncated") == 0) {
		page->truncated = strcmp(text, "true") == 0;
	} else if (strcmp(name, "EncodingType") == 0) {
		p->encoded = strcmp(text, "url") == 0;
	} else if (strcmp(name, "NextKeyMarker") == 0 && *text) {
		ok = set_key(&page->next_key, text);
	} else if (strcmp(name, "NextUploadIdMarker") == 0 && *text) {
		ok = set_id(page->next_id, text);
	}
	if (!ok)
		parse_fail(p);
}

int s3_xml_uploads(const void *data, size_t n, struct s3_uploads_page *page)
{
	memset(page, 0, sizeof(*page));
	struct parse p = {.begin = uploads_begin, .end = uploads_end, .result = page};
	int r = parse_run(&p, data, n);
	for (size_t i = 0; r == 0 && i < page->count; i++)
		r = decode_key(&page->item[i].key, p.encoded) ? 0 : -EBADMSG;
	if (r == 0 && !decode_key(&page->next_key, p.encoded))
		r = -EBADMSG;
	if (r < 0)
		s3_uploads_page_done(page);
	return r;
}

void s3_uploads_page_done(struct s3_uploads_page *page)
{
	for (size_t i = 0; i < page->count; i++)
		free(page->item[i].key);
	free(page->item);
	free(page->next_key);
	memset(page, 0, sizeof(*page));
}
