/* Signature Version 4. The canonical forms must be byte for byte what the server computes from
 * the request that libcurl sends, so the caller sends exactly the path and query that are signed
 * here. */
#include "replicator/store/s3_sign.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/base/hash.h"

void s3_sign_date(int64_t seconds, char out[S3_DATE_SIZE])
{
	time_t t = (time_t)seconds;
	struct tm tm;
	CHECK(gmtime_r(&t, &tm) && tm.tm_year >= 0 && tm.tm_year < 8100);
	CHECK(strftime(out, S3_DATE_SIZE, "%Y%m%dT%H%M%SZ", &tm) == S3_DATE_SIZE - 1);
}

void s3_sign_encode(struct buf *out, const char *s, bool keep_slash)
{
	static const char digits[] = "0123456789ABCDEF";
	for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
		bool plain = (*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') ||
			     (*p >= '0' && *p <= '9') || *p == '-' || *p == '.' || *p == '_' ||
			     *p == '~' || (*p == '/' && keep_slash);
		if (plain) {
			buf_put_u8(out, *p);
		} else {
			buf_put_u8(out, '%');
			buf_put_u8(out, (uint8_t)digits[*p >> 4]);
			buf_put_u8(out, (uint8_t)digits[*p & 15]);
		}
	}
}

/* Order of indices into an array of pairs; insertion sort: there are few. The encoded forms sort
 * like the raw ones for every parameter name that S3 has. */
static void sort_pairs(const struct s3_pair *pair, size_t count, unsigned char *order)
{
	CHECK(count <= S3_SIGN_PAIRS_MAX);
	for (size_t i = 0; i < count; i++) {
		size_t j = i;
		for (; j > 0; j--) {
			const struct s3_pair *before = &pair[order[j - 1]];
			int c = strcmp(before->name, pair[i].name);
			if (c < 0 || (c == 0 && strcmp(before->value, pair[i].value) <= 0))
				break;
			order[j] = order[j - 1];
		}
		order[j] = (unsigned char)i;
	}
}

void s3_sign_query(struct buf *out, const struct s3_pair *pair, size_t count)
{
	unsigned char order[S3_SIGN_PAIRS_MAX];
	sort_pairs(pair, count, order);
	for (size_t i = 0; i < count; i++) {
		if (i)
			buf_put_u8(out, '&');
		s3_sign_encode(out, pair[order[i]].name, false);
		buf_put_u8(out, '=');
		s3_sign_encode(out, pair[order[i]].value, false);
	}
}

/* Without spaces around, inner runs of them as one. */
static void put_trimmed(struct buf *out, const char *value)
{
	bool space = false;
	while (*value == ' ' || *value == '\t')
		value++;
	for (; *value; value++) {
		if (*value == ' ' || *value == '\t') {
			space = true;
			continue;
		}
		if (space)
			buf_put_u8(out, ' ');
		space = false;
		buf_put_u8(out, (uint8_t)*value);
	}
}

static void put_signed_names(
	const struct s3_sign_input *in, const unsigned char *order, struct buf *out)
{
	for (size_t i = 0; i < in->header_count; i++) {
		const char *name = in->header[order[i]].name;
		if (i && strcmp(in->header[order[i - 1]].name, name) == 0)
			continue;
		if (i)
			buf_put_u8(out, ';');
		buf_put_str(out, name);
	}
}

static void put_canonical(
	const struct s3_sign_input *in, const unsigned char *order, struct buf *out)
{
	buf_printf(out, "%s\n%s\n%s\n", in->method, in->path, in->query);
	for (size_t i = 0; i < in->header_count; i++) {
		const struct s3_pair *h = &in->header[order[i]];
		if (i && strcmp(in->header[order[i - 1]].name, h->name) == 0) {
			out->len--; /* the newline: values of one name are joined */
			buf_put_u8(out, ',');
		} else {
			buf_printf(out, "%s:", h->name);
		}
		put_trimmed(out, h->value);
		buf_put_u8(out, '\n');
	}
	buf_put_u8(out, '\n');
	put_signed_names(in, order, out);
	buf_printf(out, "\n%s", in->payload_hash);
}

void s3_sign_canonical(const struct s3_sign_input *in, struct buf *canonical)
{
	unsigned char order[S3_SIGN_PAIRS_MAX];
	sort_pairs(in->header, in->header_count, order);
	put_canonical(in, order, canonical);
}

static void signing_key(const struct s3_sign_input *in, uint8_t key[SHA256_SIZE])
{
	struct buf secret CLEANUP(buf_done) = {0};
	buf_printf(&secret, "AWS4%s", in->secret_key);
	hmac_sha256(secret.data, secret.len, in->date, 8, key);
	hmac_sha256(key, SHA256_SIZE, in->region, strlen(in->region), key);
	hmac_sha256(key, SHA256_SIZE, in->service, strlen(in->service), key);
	hmac_sha256(key, SHA256_SIZE, "aws4_request", 12, key);
	explicit_bzero(secret.data, secret.len);
}

void s3_sign(const struct s3_sign_input *in, struct buf *authorization)
{
	unsigned char order[S3_SIGN_PAIRS_MAX];
	uint8_t digest[SHA256_SIZE], key[SHA256_SIZE];
	char hex[SHA256_HEX_SIZE];
	struct buf text CLEANUP(buf_done) = {0};
	struct buf scope CLEANUP(buf_done) = {0};

	sort_pairs(in->header, in->header_count, order);
	put_canonical(in, order, &text);
	sha256(text.data, text.len, digest);
	hex_encode(digest, sizeof(digest), hex);
	buf_printf(&scope, "%.8s/%s/%s/aws4_request", in->date, in->region, in->service);
	buf_clear(&text);
	buf_printf(&text, "AWS4-HMAC-SHA256\n%s\n%s\n%s", in->date, buf_str(&scope), hex);
	CHECK(!text.failed && !scope.failed);

	signing_key(in, key);
	hmac_sha256(key, sizeof(key), text.data, text.len, digest);
	hex_encode(digest, sizeof(digest), hex);
	explicit_bzero(key, sizeof(key));
	buf_printf(authorization,
		"AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=", in->access_key,
		buf_str(&scope));
	put_signed_names(in, order, authorization);
	buf_printf(authorization, ", Signature=%s", hex);
}
