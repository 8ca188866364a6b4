/*
 * AWS Signature Version 4 as pure functions: no clock, no environment, no network.
 * https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
 */
#ifndef STORE_S3_SIGN_H
#define STORE_S3_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/attribute.h"
#include "src/base/buf.h"

#define S3_SIGN_PAIRS_MAX 64
#define S3_DATE_SIZE 17 /* "20130524T000000Z" and NUL */

struct s3_pair {
	const char *name;
	const char *value;
};

struct s3_sign_input {
	const char *access_key;
	const char *secret_key;
	const char *region;
	const char *service;
	const char *date; /* s3_sign_date */
	const char *method;
	const char *path;  /* encoded as it is sent, starts with '/' */
	const char *query; /* s3_sign_query's output, "" when there is none */
	/* Every header to sign, host and x-amz-* among them; lower-case names, any order. At most
	 * S3_SIGN_PAIRS_MAX. */
	const struct s3_pair *header;
	size_t header_count;
	const char *payload_hash; /* x-amz-content-sha256: 64 hexadecimal digits or
				     "UNSIGNED-PAYLOAD" */
};

/* Appends the value of the Authorization header. */
void s3_sign(const struct s3_sign_input *in, struct buf *authorization);

/* The first step alone, for tests: appends the canonical request. */
void s3_sign_canonical(const struct s3_sign_input *in, struct buf *canonical);

/* x-amz-date of a time in seconds since 1970. */
void s3_sign_date(int64_t seconds, char out[S3_DATE_SIZE]);

/* Appends s with every byte percent-encoded but A-Z a-z 0-9 - . _ ~, and '/' when keep_slash. */
void s3_sign_encode(struct buf *out, const char *s, bool keep_slash);

/* Appends "a=1&b=2": encoded and sorted as signed, fit to be sent. At most S3_SIGN_PAIRS_MAX. */
void s3_sign_query(struct buf *out, const struct s3_pair *pair, size_t count);

#endif
