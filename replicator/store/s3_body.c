/*
 * The bodies of requests: small ones are read once, hashed and sent from memory, large ones are read
 * twice, or over TLS once and unsigned.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicator/store/s3_request.h"

/* Times s3.stall_ms: some stores are silent for long when they have all of a large body. */
#define LARGE_STALL 3

void s3_body_done(struct s3_body *b)
{
	free(b->memory);
}

static ssize_t read_body(void *ctx, uint64_t offset, void *p, size_t len)
{
	struct s3_body *b = ctx;
	if (b->pace) {
		len = len < STORE_PACE_CHUNK ? len : STORE_PACE_CHUNK;
		b->pace->sending(b->pace->ctx, len);
	}
	if (!b->memory)
		return b->source->read(b->source->ctx, offset, p, len);
	memcpy(p, b->memory + offset, len);
	return (ssize_t)len;
}

/* Reads the source through; into memory when that is there. 0 or -errno. */
static int hash_body(struct s3_body *b, const struct store_call *call)
{
	uint8_t digest[SHA256_SIZE];
	char *block AUTO_FREE = b->memory ? NULL : malloc(65536);
	if (!b->memory && !block)
		return -ENOMEM;
	struct sha256 h CLEANUP(sha256_done);
	sha256_init(&h);
	for (uint64_t at = 0; at < b->size;) {
		uint64_t left = b->size - at;
		void *p = b->memory ? (void *)(b->memory + at) : (void *)block;
		if (call && call->cancel && atomic_load(call->cancel))
			return -ECANCELED;
		ssize_t n =
			b->source->read(b->source->ctx, at, p, left < 65536 ? (size_t)left : 65536);
		if (n <= 0)
			return n < 0 ? (int)n : -EIO;
		sha256_update(&h, p, (size_t)n);
		at += (uint64_t)n;
	}
	sha256_final(&h, digest);
	hex_encode(digest, sizeof(digest), b->hash);
	return 0;
}

/* Over TLS the body of a large object need not be signed: it cannot be changed on its way. */
int s3_body_prepare(struct s3_body *b, const struct s3 *s, const struct store_source *source,
	const struct store_call *call)
{
	b->source = source;
	b->stall_ms = LARGE_STALL * s->stall_ms;
	b->pace = call ? call->pace : NULL;
	b->size = source->size;
	if (b->size > S3_BODY_IN_MEMORY && s->secure) {
		strcpy(b->hash, "UNSIGNED-PAYLOAD");
		return 0;
	}
	if (b->size <= S3_BODY_IN_MEMORY) {
		b->memory = malloc(b->size ? (size_t)b->size : 1);
		if (!b->memory)
			return -ENOMEM;
	}
	return hash_body(b, call);
}

void s3_body_attach(struct s3_request *q, struct s3_body *b)
{
	q->payload_hash = b->hash;
	q->body_size = b->size;
	q->body_read = read_body;
	q->body_ctx = b;
	if (b->size > S3_BODY_IN_MEMORY)
		q->stall_timeout_ms = b->stall_ms;
}

enum store_result s3_body_unreadable(const char *key, int r, struct store_error *e)
{
	e->local_errno = -r;
	snprintf(e->text, sizeof(e->text), "cannot read what to upload as %.100s: %s", key,
		strerror(-r));
	return STORE_LOCAL;
}
