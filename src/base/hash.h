/* SHA-256, HMAC-SHA-256, MD5 (for Content-MD5 only), hexadecimal and base64. The only user of
 * OpenSSL's headers. Thread-safe as long as each struct has one user. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/attribute.h"

#define SHA256_SIZE 32
#define SHA256_HEX_SIZE 65 /* with NUL */

struct sha256 {
	void *ctx; /* EVP_MD_CTX */
};

void sha256_init(struct sha256 *h); /* aborts when memory is out */
void sha256_update(struct sha256 *h, const void *p, size_t n);
void sha256_final(struct sha256 *h, uint8_t out[SHA256_SIZE]); /* also releases */
void sha256_done(struct sha256 *h); /* releases without a result; safe after final */

void sha256(const void *p, size_t n, uint8_t out[SHA256_SIZE]);
/* Of count stretches of n bytes each, one behind the other. Sixteen of a multiple of 64 bytes take half as long
 * as one by one where the processor has AVX-512. */
void sha256_many(const void *p, size_t n, size_t count, uint8_t (*out)[SHA256_SIZE]);
void hmac_sha256(
	const void *key, size_t key_len, const void *p, size_t n, uint8_t out[SHA256_SIZE]);
void md5(const void *p, size_t n, uint8_t out[16]);

/* out needs 2 * n + 1 bytes; lower case. */
void hex_encode(const void *p, size_t n, char *out);
/* False unless s is exactly 2 * n hexadecimal digits. out is untouched then. */
bool hex_decode(const char *s, void *out, size_t n) MUST_CHECK;

#define BASE64_SIZE(n) (((n) + 2) / 3 * 4 + 1)
/* RFC 4648 with padding; out needs BASE64_SIZE(n) bytes. */
void base64_encode(const void *p, size_t n, char *out);
/* Returns the decoded length, or -1 on malformed input or more than max bytes. */
long base64_decode(const char *s, void *out, size_t max) MUST_CHECK;

#endif
