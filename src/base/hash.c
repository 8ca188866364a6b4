/*
 * Hashes through OpenSSL's EVP. The algorithms are fetched once: an implicit fetch on every
 * digest costs more than hashing a small block. They live as long as the process. A failing
 * digest is memory running out or a broken library; going on would publish wrong checksums, so it
 * aborts.
 */
#include "src/base/hash.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256_md;
static EVP_MD *md5_md;
static EVP_MAC *hmac_mac;

static void fetch(void)
{
	sha256_md = EVP_MD_fetch(NULL, "SHA256", NULL);
	md5_md = EVP_MD_fetch(NULL, "MD5", NULL);
	hmac_mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	/* MD5 may be forbidden by policy: then only its users fail. */
	CHECK(sha256_md && hmac_mac);
}

void sha256_init(struct sha256 *h)
{
	CHECK(pthread_once(&once, fetch) == 0);
	h->ctx = EVP_MD_CTX_new();
	CHECK(h->ctx && EVP_DigestInit_ex(h->ctx, sha256_md, NULL) == 1);
}

void sha256_update(struct sha256 *h, const void *p, size_t n)
{
	CHECK(h->ctx && (n == 0 || EVP_DigestUpdate(h->ctx, p, n) == 1));
}

void sha256_final(struct sha256 *h, uint8_t out[SHA256_SIZE])
{
	CHECK(h->ctx && EVP_DigestFinal_ex(h->ctx, out, NULL) == 1);
	sha256_done(h);
}

void sha256_done(struct sha256 *h)
{
	EVP_MD_CTX_free(h->ctx);
	h->ctx = NULL;
}

void sha256(const void *p, size_t n, uint8_t out[SHA256_SIZE])
{
	CHECK(pthread_once(&once, fetch) == 0);
	CHECK(EVP_Digest(n ? p : "", n, out, NULL, sha256_md, NULL) == 1);
}

void hmac_sha256(const void *key, size_t key_len, const void *p, size_t n, uint8_t out[SHA256_SIZE])
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};
	EVP_MAC_CTX *ctx;
	size_t len = 0;

	CHECK(pthread_once(&once, fetch) == 0);
	ctx = EVP_MAC_CTX_new(hmac_mac);
	CHECK(ctx && EVP_MAC_init(ctx, key_len ? key : (const void *)"", key_len, params) == 1);
	CHECK(n == 0 || EVP_MAC_update(ctx, p, n) == 1);
	CHECK(EVP_MAC_final(ctx, out, &len, SHA256_SIZE) == 1 && len == SHA256_SIZE);
	EVP_MAC_CTX_free(ctx);
}

void md5(const void *p, size_t n, uint8_t out[16])
{
	CHECK(pthread_once(&once, fetch) == 0);
	CHECK(md5_md && EVP_Digest(n ? p : "", n, out, NULL, md5_md, NULL) == 1);
}

void hex_encode(const void *p, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *in = p;

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[in[i] >> 4];
		out[2 * i + 1] = digits[in[i] & 15];
	}
	out[2 * n] = '\0';
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool hex_decode(const char *s, void *out, size_t n)
{
	uint8_t *bytes = out;
	size_t i = 0;

	while (hex_value(s[i]) >= 0 && i / 2 < n)
		i++;
	if (i != 2 * n || s[i] != '\0')
		return false;
	for (i = 0; i < n; i++)
		bytes[i] = (uint8_t)(hex_value(s[2 * i]) * 16 + hex_value(s[2 * i + 1]));
	return true;
}

static const char base64_digits[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(const void *p, size_t n, char *out)
{
	const uint8_t *in = p;

	for (size_t i = 0; i < n; i += 3) {
		size_t k = n - i < 3 ? n - i : 3;
		uint32_t v = (uint32_t)in[i] << 16;

		if (k > 1)
			v |= (uint32_t)in[i + 1] << 8;
		if (k > 2)
			v |= in[i + 2];
		*out++ = base64_digits[v >> 18];
		*out++ = base64_digits[v >> 12 & 63];
		*out++ = '=';
		*out++ = '=';
		if (k > 1)
			out[-2] = base64_digits[v >> 6 & 63];
		if (k > 2)
			out[-1] = base64_digits[v & 63];
	}
	*out = '\0';
}

/* Four characters to one to three bytes; -1 when malformed. Unused bits must be zero, so that
 * equal bytes have one spelling. */
static int base64_group(const char *s, bool last, uint8_t out[3])
{
	uint32_t v = 0;
	int pad = 0;

	if (last && s[3] == '=')
		pad = s[2] == '=' ? 2 : 1;
	for (int i = 0; i < 4; i++) {
		const char *at = NULL;

		if (i < 4 - pad) {
			at = strchr(base64_digits, s[i]);
			if (!at || !*at)
				return -1;
		}
		v = v << 6 | (at ? (uint32_t)(at - base64_digits) : 0);
	}
	out[0] = (uint8_t)(v >> 16);
	out[1] = (uint8_t)(v >> 8);
	out[2] = (uint8_t)v;
	if ((pad > 0 && out[2]) || (pad > 1 && out[1]))
		return -1;
	return 3 - pad;
}

long base64_decode(const char *s, void *out, size_t max)
{
	size_t n = strlen(s), done = 0;
	uint8_t *bytes = out;

	if (n % 4 || n / 4 > LONG_MAX / 3)
		return -1;
	for (size_t i = 0; i < n; i += 4) {
		uint8_t group[3];
		int k = base64_group(s + i, i + 4 == n, group);

		if (k < 0 || (size_t)k > max - done)
			return -1;
		memcpy(bytes + done, group, (size_t)k);
		done += (size_t)k;
	}
	return (long)done;
}
