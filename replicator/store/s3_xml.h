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

/* An Error document, or the ETag of a CopyObjectResult. */
struct s3_answer {
	bool is_error;
	char code[64];
	char message[160]; /* printable ASCII */
	char request_id[64];
	char region[64];
	char etag[STORE_ETAG_SIZE];
};

/* -EBADMSG when it is neither. */
int s3_xml_answer(const void *p, size_t n, struct s3_answer *ret) MUST_CHECK;

/* Copies an ETag without its quotes; false when it is empty, too long or not printable. */
bool s3_etag_set(char out[STORE_ETAG_SIZE], const char *etag) MUST_CHECK;

#endif
