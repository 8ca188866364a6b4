/* Hashes against FIPS 180-4, RFC 4231 and RFC 1321; encodings against RFC 4648. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "src/base/fnv.h"
#include "src/base/hash.h"

static void assert_hex(const uint8_t *p, size_t n, const char *want)
{
	char text[2 * 64 + 1];

	hex_encode(p, n, text);
	assert_string_equal(text, want);
}

/* Vectors of the algorithm's authors (draft-eastlake-fnv, test vectors for 64 bits). */
static void fnv1a_vectors(void **state)
{
	assert_true(fnv1a(FNV1A_BASIS, NULL, 0) == UINT64_C(0xcbf29ce484222325));
	assert_true(fnv1a(FNV1A_BASIS, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
	assert_true(fnv1a(FNV1A_BASIS, "foobar", 6) == UINT64_C(0x85944171f73967e8));
	assert_true(fnv1a(fnv1a(FNV1A_BASIS, "foo", 3), "bar", 3) ==
		    fnv1a(FNV1A_BASIS, "foobar", 6));
}

static void sha256_vectors(void **state)
{
	const char *abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
	uint8_t out[SHA256_SIZE];
	struct sha256 h;

	sha256("abc", 3, out);
	assert_hex(out, sizeof(out), abc);
	sha256(NULL, 0, out);
	assert_hex(out, sizeof(out),
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, out);
	assert_hex(out, sizeof(out),
		"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	sha256_init(&h);
	sha256_update(&h, "a", 1);
	sha256_update(&h, NULL, 0);
	sha256_update(&h, "bc", 2);
	sha256_final(&h, out);
	assert_hex(out, sizeof(out), abc);
	sha256_done(&h);
	sha256_init(&h);
	sha256_update(&h, "a", 1);
	sha256_done(&h); /* no result; the sanitizer sees a leak */
}

static void hmac_vectors(void **state)
{
	uint8_t out[SHA256_SIZE], key[20], long_key[131];

	memset(key, 0x0b, sizeof(key));
	hmac_sha256(key, sizeof(key), "Hi There", 8, out); /* RFC 4231, 4.2 */
	assert_hex(out, sizeof(out),
		"b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
	hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, out); /* 4.3 */
	assert_hex(out, sizeof(out),
		"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	memset(long_key, 0xaa, sizeof(long_key));
	hmac_sha256(long_key, sizeof(long_key),
		"Test Using Larger Than Block-Size Key - Hash Key First", 54, out); /* 4.7 */
	assert_hex(out, sizeof(out),
		"60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
	hmac_sha256(NULL, 0, NULL, 0, out);
	assert_hex(out, sizeof(out),
		"b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void md5_vectors(void **state)
{
	uint8_t out[16];

	md5("", 0, out);
	assert_hex(out, sizeof(out), "d41d8cd98f00b204e9800998ecf8427e");
	md5("abc", 3, out);
	assert_hex(out, sizeof(out), "900150983cd24fb0d6963f7d28e17f72");
}

static void hexadecimal(void **state)
{
	uint8_t out[3] = {9, 9, 9};

	assert_true(hex_decode("00fFa1", out, 3));
	assert_memory_equal(out, "\x00\xff\xa1", 3);
	assert_true(hex_decode("", out, 0));
	assert_false(hex_decode("010203", out, 2));
	assert_false(hex_decode("0102", out, 3));
	assert_false(hex_decode("01020", out, 3));
	assert_false(hex_decode("0102030", out, 3));
	assert_false(hex_decode("01020g", out, 3));
	assert_false(hex_decode(" 10203", out, 3));
	assert_memory_equal(out, "\x00\xff\xa1", 3);
}

static void base64(void **state)
{
	static const char *const vectors[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="},
		{"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="},
		{"foobar", "Zm9vYmFy"}, {"\xfb\xff\xbf", "+/+/"}};
	static const char *const bad[] = {"Z", "Zg", "Zg=", "Zg===", "=",
		"====", "Z===", "Zh==", "Zm9=", "Zg==Zg==", "Zm9v\n", "Zm-_",
		"Zm =", "Z=g=", "Zm9vZ"};
	uint8_t out[16];
	char text[BASE64_SIZE(6)];

	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
		size_t n = strlen(vectors[i][0]);

		base64_encode(vectors[i][0], n, text);
		assert_string_equal(text, vectors[i][1]);
		assert_int_equal(base64_decode(text, out, n), n);
		assert_memory_equal(out, vectors[i][0], n);
		if (n)
			assert_int_equal(base64_decode(text, out, n - 1), -1);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(base64_decode(bad[i], out, sizeof(out)), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fnv1a_vectors),
		cmocka_unit_test(sha256_vectors),
		cmocka_unit_test(hmac_vectors),
		cmocka_unit_test(md5_vectors),
		cmocka_unit_test(hexadecimal),
		cmocka_unit_test(base64),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
