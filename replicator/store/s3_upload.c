/*
 * Multipart uploads (Amazon S3 API Reference: CreateMultipartUpload, UploadPart, UploadPartCopy,
 * CompleteMultipartUpload, AbortMultipartUpload, ListMultipartUploads).
 *
 * Only the end changes what others see, so only its lost answer is STORE_UNKNOWN. Its answer may be
 * a refusal in a body that a 200 announced.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/store/layers.h"
#include "replicator/store/s3_request.h"
#include "replicator/store/s3_xml.h"

/* Reads the XML of a 200. */
static enum store_result read_answer(struct s3 *s, const struct s3_request *q,
	const struct http_response *r, struct s3_answer *answer, struct store_error *e)
{
	if (s3_xml_answer(r->body.data, r->body.len, answer) < 0) {
		s3_corrupt(q, e, "the answer is not XML");
		return q->change ? STORE_UNKNOWN : STORE_TRANSIENT;
	}
	return answer->is_error ? s3_refused(s, q, r, e) : STORE_OK;
}

static enum store_result begin(struct s3 *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *e)
{
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	struct s3_answer answer = {0};
	s3_request_init(&q, s, "POST", u->key);
	s3_request_query(&q, "uploads", "");
	s3_request_meta(&q, u->meta);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result == STORE_ABSENT)
		return s3_corrupt(&q, e, "404 to the beginning of an upload");
	if (result == STORE_OK)
		result = read_answer(s, &q, &r, &answer, e);
	if (result != STORE_OK)
		return result;
	if (!answer.upload_id[0])
		return s3_corrupt(&q, e, "an upload without an id");
	memcpy(u->ret_id, answer.upload_id, STORE_UPLOAD_ID_SIZE);
	return STORE_OK;
}

static void add_part(struct s3_request *q, const struct store_upload *u)
{
	size_t from = q->text.len;
	buf_printf(&q->text, "%u", u->number);
	s3_request_query(q, "partNumber", s3_request_text(q, from));
	s3_request_query(q, "uploadId", u->id);
}

static enum store_result send_part(struct s3 *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *e)
{
	struct s3_body body CLEANUP(s3_body_done) = {0};
	int code = s3_body_prepare(&body, s, u->source, call);
	if (code < 0)
		return s3_body_unreadable(u->key, code, e);
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	s3_request_init(&q, s, "PUT", u->key);
	add_part(&q, u);
	s3_body_attach(&q, &body);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result != STORE_OK)
		return result;
	const char *etag = http_response_header(&r, "etag");
	if (!etag || !s3_etag_set(u->etag, etag))
		return s3_corrupt(&q, e, "a part without an ETag");
	return STORE_OK;
}

static enum store_result copy_part(struct s3 *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *e)
{
	if (s3_too_long(s, u->from))
		return STORE_ABSENT;
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	struct s3_answer answer = {0};
	s3_request_init(&q, s, "PUT", u->key);
	add_part(&q, u);
	q.stall_timeout_ms = S3_COPY_STALL * s->stall_ms;
	s3_request_source(&q, s, u->from, call);
	size_t from = q.text.len;
	buf_printf(&q.text, "bytes=%llu-%llu", (unsigned long long)u->offset,
		(unsigned long long)(u->offset + u->length - 1));
	s3_request_header(&q, "x-amz-copy-source-range", s3_request_text(&q, from));
	if (u->if_match)
		s3_request_etag(&q, "x-amz-copy-source-if-match", u->if_match, false);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result == STORE_OK)
		result = read_answer(s, &q, &r, &answer, e);
	if (result != STORE_OK)
		return result;
	if (!answer.etag[0])
		return s3_corrupt(&q, e, "a copied part without an ETag");
	memcpy(u->etag, answer.etag, STORE_ETAG_SIZE);
	return STORE_OK;
}

static void write_parts(const struct store_upload *u, struct buf *xml)
{
	buf_put_str(xml, "<CompleteMultipartUpload "
			 "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
	for (size_t i = 0; i < u->part_count; i++) {
		buf_printf(xml, "<Part><PartNumber>%u</PartNumber><ETag>&quot;", u->part[i].number);
		for (const char *p = u->part[i].etag; *p; p++) {
			if (*p == '<' || *p == '>' || *p == '&')
				buf_printf(xml, "&#%d;", *p);
			else
				buf_put_u8(xml, (uint8_t)*p);
		}
		buf_put_str(xml, "&quot;</ETag></Part>");
	}
	buf_put_str(xml, "</CompleteMultipartUpload>");
}

static enum store_result end(struct s3 *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *e)
{
	struct buf xml CLEANUP(buf_done) = {0};
	write_parts(u, &xml);
	CHECK(!xml.failed);
	struct store_memory memory = {.p = xml.data, .len = xml.len};
	const struct store_source source = store_source_memory(&memory);
	struct s3_body body CLEANUP(s3_body_done) = {0};
	int code = s3_body_prepare(&body, s, &source, call);
	if (code < 0)
		return s3_body_unreadable(u->key, code, e);
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	struct s3_answer answer = {0};
	const struct store_condition *c = u->condition;
	s3_request_init(&q, s, "POST", u->key);
	s3_request_query(&q, "uploadId", u->id);
	q.change = true;
	s3_body_attach(&q, &body);
	q.stall_timeout_ms = S3_COPY_STALL * s->stall_ms;
	if (c->if_absent)
		s3_request_header(&q, "if-none-match", "*");
	if (c->if_match)
		s3_request_etag(
			&q, "if-match", c->if_match, atomic_load(&s->etag_style) == ETAG_BARE);
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result == STORE_OK)
		result = read_answer(s, &q, &r, &answer, e);
	if (result == STORE_PRECONDITION && c->if_absent)
		return STORE_EXISTS;
	if (result == STORE_OK)
		memcpy(u->etag, answer.etag, STORE_ETAG_SIZE);
	/* With a condition, 404 may also mean that the object is gone. */
	if (result == STORE_ABSENT && c->if_match && strcmp(e->code, "NoSuchKey") == 0)
		return STORE_PRECONDITION;
	return result;
}

static enum store_result drop(struct s3 *s, const struct store_upload *u,
	const struct store_call *call, struct store_error *e)
{
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	s3_request_init(&q, s, "DELETE", u->key);
	s3_request_query(&q, "uploadId", u->id);
	return s3_send(s, &q, call, &r, e);
}

enum store_result s3_upload(struct store *store, const struct store_upload *u,
	const struct store_call *call, struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	if (s3_too_long(s, u->key))
		return s3_refuse_long(s, e);
	switch (u->step) {
	case STORE_UPLOAD_BEGIN:
		return begin(s, u, call, e);
	case STORE_UPLOAD_PART:
		return send_part(s, u, call, e);
	case STORE_UPLOAD_COPY:
		return copy_part(s, u, call, e);
	case STORE_UPLOAD_END:
		return end(s, u, call, e);
	case STORE_UPLOAD_ABORT:
		return drop(s, u, call, e);
	}
	return STORE_UNSUPPORTED;
}

/* Where a listing of uploads stands. */
struct place {
	char *key;
	char id[STORE_UPLOAD_ID_SIZE];
};

static void place_done(struct place *p)
{
	free(p->key);
}

static enum store_result uploads_page(struct s3 *s, const char *prefix, const struct place *at,
	struct s3_uploads_page *page, const struct store_call *call, struct store_error *e)
{
	struct s3_request q CLEANUP(s3_request_done);
	struct http_response r CLEANUP(http_response_done);
	s3_request_init(&q, s, "GET", NULL);
	s3_request_query(&q, "uploads", "");
	s3_request_query(&q, "encoding-type", "url");
	s3_request_query(&q, "max-uploads", "1000");
	size_t from = q.text.len;
	buf_printf(&q.text, "%s%s", s->prefix, prefix);
	s3_request_query(&q, "prefix", s3_request_text(&q, from));
	if (at->key) {
		s3_request_query(&q, "key-marker", at->key);
		s3_request_query(&q, "upload-id-marker", at->id);
	}
	q.capture_max = S3_XML_MAX;
	enum store_result result = s3_send(s, &q, call, &r, e);
	if (result == STORE_ABSENT)
		return s3_corrupt(&q, e, "404 to a listing");
	if (result != STORE_OK)
		return result;
	if (s3_xml_uploads(r.body.data, r.body.len, page) < 0)
		return s3_corrupt(&q, e, "the listing of uploads is not what S3 sends");
	return STORE_OK;
}

enum store_result s3_uploads(struct store *store, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *e)
{
	struct s3 *s = (struct s3 *)store;
	size_t skip = strlen(s->prefix);
	struct place at CLEANUP(place_done) = {0};
	for (;;) {
		struct s3_uploads_page page CLEANUP(s3_uploads_page_done) = {0};
		enum store_result result = uploads_page(s, prefix, &at, &page, call, e);
		if (result != STORE_OK)
			return result;
		for (size_t i = 0; i < page.count; i++) {
			const struct s3_uploads_item *u = &page.item[i];
			size_t len = strlen(u->key);
			if (len <= skip || len - skip > STORE_KEY_MAX ||
				strncmp(u->key, s->prefix, skip) != 0)
				continue;
			if (fn(ctx, u->key + skip, u->id, u->begun_ms) != 0)
				return STORE_OK;
		}
		if (!page.truncated)
			return STORE_OK;
		if (!page.next_key || (at.key && strcmp(at.key, page.next_key) >= 0 &&
					      strcmp(at.id, page.next_id) == 0))
			return store_error_set(e, STORE_CORRUPT,
				"an endless listing of uploads in bucket '%s'", s->bucket);
		free(at.key);
		at.key = page.next_key;
		page.next_key = NULL;
		memcpy(at.id, page.next_id, sizeof(at.id));
	}
}
