/*
 * S3 credentials. Order: the named profile, when one is configured; else AWS_ACCESS_KEY_ID,
 * AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; else the section of the credentials file that
 * AWS_PROFILE names, or [default]. A configured profile is never replaced by another source.
 *
 * Nothing is read before the first request, so that a mount starts without them. Thread-safe.
 */
#ifndef STORE_CREDENTIALS_H
#define STORE_CREDENTIALS_H

#include "src/base/attribute.h"
#include "src/base/err.h"

struct credentials {
	char access_key[256];
	char secret_key[256];
	char session_token[4096]; /* empty: none */
};

void credentials_done(struct credentials *c); /* wipes; also the CLEANUP function */

struct credential_source;

/* profile and file may be NULL (file: $AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials). NULL:
 * no memory. */
struct credential_source *credential_source_new(const char *profile, const char *file);
void credential_source_free(struct credential_source *s);

/* The credentials as they are now: the file is read again when it changed. -ENOENT: none found, err
 * names every place that was looked at; -EINVAL: a place has unusable ones; or why the file cannot
 * be read. */
int credential_source_get(
	struct credential_source *s, struct credentials *ret, struct err *err) MUST_CHECK;

/* The store refused them: the next get reads the file whether it seems changed or not. */
void credential_source_invalidate(struct credential_source *s);

/* Reads one section of a credentials file. -ENOENT when the file has no such section. For
 * credential_source and tests. */
int credentials_read_file(
	const char *path, const char *profile, struct credentials *ret, struct err *err) MUST_CHECK;

#endif
