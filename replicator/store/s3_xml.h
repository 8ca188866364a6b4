/*
 * S3's XML answers, which are hostile until checked: bounded in size, depth and text; document
 * types and entity declarations are refused. Pure; not thread-safe per struct.
 */
#ifndef STORE_S3_XML_H
#define STORE_S3_XML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "replicator/store/store.h"
#include "src/base/attribute.h"
#include "src/base/buf.h"

#define S3_XML_MAX (8 * 1024 * 1024) /* bytes of a document */
#define S3_LIST_PAGE 1000	     /* keys of a page */

struct s3_list_item {
	size_t key; /* offset into page->keys */
	struct store_object object;
};

/* One page of ListObjectsV2. {0} is empty. */
struct s3_list_page {
	struct buf keys; /* NUL-terminated, decoded */
	struct s3_list_item *item;
	size_t count;
	size_t skipped; /* keys that no C string can hold */
	bool truncated;
	char *token; /* NextContinuationToken; NULL: none */
};

/* -EBADMSG when it is no such answer; page is empty then. Release it with s3_list_page_done. */
int s3_xml_list(const void *p, size_t n, struct s3_list_page *page) MUST_CHECK;
void s3_list_page_done(struct s3_list_page *page); /* also the CLEANUP function */
static inline const char *s3_list_key(const struct s3_list_page *page, size_t i)
{
	return (const char *)page->keys.data + page->item[i].key;
}

/* An Error document, or the result of a copy, or of an upload's beginning or end. */
struct s3_answer {
	bool is_error;
	char code[64];
	char message[160]; /* printable ASCII */
	char request_id[64];
	char region[64];
	char etag[STORE_ETAG_SIZE];
	char upload_id[STORE_UPLOAD_ID_SIZE];
};

/* -EBADMSG when it is none of these. */
int s3_xml_answer(const void *p, size_t n, struct s3_answer *ret) MUST_CHECK;

struct s3_uploads_item {
	char *key;
	char id[STORE_UPLOAD_ID_SIZE];
	int64_t begun_ms;
};

/* One page of ListMultipartUploads, asked with encoding-type=url. {0} is empty. */
struct s3_uploads_page {
	struct s3_uploads_item *item;
	size_t count;
	bool truncated;
	char *next_key;
	char next_id[STORE_UPLOAD_ID_SIZE];
};

/* -EBADMSG when it is no such answer; page is empty then. Release with s3_uploads_page_done. */
int s3_xml_uploads(const void *p, size_t n, struct s3_uploads_page *page) MUST_CHECK;
void s3_uploads_page_done(struct s3_uploads_page *page); /* also the CLEANUP function */

/* Copies an ETag without its quotes; false when it is empty, too long or not printable. */
bool s3_etag_set(char out[STORE_ETAG_SIZE], const char *etag) MUST_CHECK;

#endif
