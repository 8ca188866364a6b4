/* Signature Version 4 against the vectors that AWS publishes: the four header examples of
 * "Authenticating Requests: Using the Authorization Header" (Amazon S3 API reference), and those of
 * the Signature Version 4 test suite that do not depend on path normalisation, which S3 does not
 * do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/store/s3_sign.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void check(const struct s3_sign_input *in, const char *signed_names, const char *signature)
{
	struct buf b CLEANUP(buf_done) = {0};
	char want[512];
	snprintf(want, sizeof(want),
		"AWS4-HMAC-SHA256 Credential=%s/%.8s/us-east-1/%s/aws4_request, "
		"SignedHeaders=%s, Signature=%s",
		in->access_key, in->date, in->service, signed_names, signature);
	s3_sign(in, &b);
	assert_string_equal(buf_str(&b), want);
}

static const struct s3_sign_input s3_example = {
	.access_key = "AKIAIOSFODNN7EXAMPLE",
	.secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	.region = "us-east-1",
	.service = "s3",
	.date = "20130524T000000Z",
	.method = "GET",
	.path = "/",
	.query = "",
	.payload_hash = EMPTY,
};

static const struct s3_pair plain[] = {{"x-amz-date", "20130524T000000Z"},
	{"x-amz-content-sha256", EMPTY}, {"host", "examplebucket.s3.amazonaws.com"}};

static void test_get_object(void **state)
{
	const struct s3_pair h[] = {{"host", "examplebucket.s3.amazonaws.com"},
		{"range", "bytes=0-9"}, {"x-amz-content-sha256", EMPTY},
		{"x-amz-date", "20130524T000000Z"}};
	struct s3_sign_input in = s3_example;
	in.path = "/test.txt";
	in.header = h;
	in.header_count = ARRAY_SIZE(h);
	check(&in, "host;range;x-amz-content-sha256;x-amz-date",
		"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
	struct buf b CLEANUP(buf_done) = {0};
	s3_sign_canonical(&in, &b);
	assert_string_equal(buf_str(&b),
		"GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\n"
		"x-amz-content-sha256:" EMPTY "\nx-amz-date:20130524T000000Z\n\n"
		"host;range;x-amz-content-sha256;x-amz-date\n" EMPTY);
}

static void test_put_object(void **state)
{
	const char *hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
	const struct s3_pair h[] = {{"x-amz-storage-class", "REDUCED_REDUNDANCY"},
		{"date", "Fri, 24 May 2013 00:00:00 GMT"}, {"x-amz-date", "20130524T000000Z"},
		{"x-amz-content-sha256", hash}, {"host", "examplebucket.s3.amazonaws.com"}};
	struct buf path CLEANUP(buf_done) = {0};
	s3_sign_encode(&path, "/test$file.text", true);
	struct s3_sign_input in = s3_example;
	in.method = "PUT";
	in.path = buf_str(&path);
	in.header = h;
	in.header_count = ARRAY_SIZE(h);
	in.payload_hash = hash;
	check(&in, "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
		"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static void test_get_lifecycle(void **state)
{
	const struct s3_pair q[] = {{"lifecycle", ""}};
	struct buf query CLEANUP(buf_done) = {0};
	s3_sign_query(&query, q, 1);
	struct s3_sign_input in = s3_example;
	in.query = buf_str(&query);
	in.header = plain;
	in.header_count = ARRAY_SIZE(plain);
	check(&in, "host;x-amz-content-sha256;x-amz-date",
		"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

static void test_list_objects(void **state)
{
	const struct s3_pair q[] = {{"prefix", "J"}, {"max-keys", "2"}};
	struct buf query CLEANUP(buf_done) = {0};
	s3_sign_query(&query, q, 2);
	assert_string_equal(buf_str(&query), "max-keys=2&prefix=J");
	struct s3_sign_input in = s3_example;
	in.query = buf_str(&query);
	in.header = plain;
	in.header_count = ARRAY_SIZE(plain);
	check(&in, "host;x-amz-content-sha256;x-amz-date",
		"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void test_suite(void **state)
{
	static const struct {
		const char *method;
		struct s3_pair query[2];
		size_t query_count;
		struct s3_pair header[4];
		size_t header_count;
		const char *names, *signature;
	} v[] = {
		/* get-vanilla */
		{"GET", {{0}}, 0,
			{{"host", "example.amazonaws.com"}, {"x-amz-date", "20150830T123600Z"}}, 2,
			"host;x-amz-date",
			"5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		/* post-vanilla */
		{"POST", {{0}}, 0,
			{{"host", "example.amazonaws.com"}, {"x-amz-date", "20150830T123600Z"}}, 2,
			"host;x-amz-date",
			"5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
		/* get-vanilla-query-order-key-case */
		{"GET", {{"Param2", "value2"}, {"Param1", "value1"}}, 2,
			{{"host", "example.amazonaws.com"}, {"x-amz-date", "20150830T123600Z"}}, 2,
			"host;x-amz-date",
			"b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
		/* get-vanilla-utf8-query */
		{"GET", {{"\xe1\x88\xb4", "bar"}}, 1,
			{{"host", "example.amazonaws.com"}, {"x-amz-date", "20150830T123600Z"}}, 2,
			"host;x-amz-date",
			"2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
		/* get-header-value-trim */
		{"GET", {{0}}, 0,
			{{"host", "example.amazonaws.com"}, {"my-header1", " value1"},
				{"my-header2", " \"a   b   c\""},
				{"x-amz-date", "20150830T123600Z"}},
			4, "host;my-header1;my-header2;x-amz-date",
			"acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
		/* get-header-key-duplicate */
		{"GET", {{0}}, 0,
			{{"host", "example.amazonaws.com"}, {"my-header1", "value2,value2"},
				{"my-header1", "value1"}, {"x-amz-date", "20150830T123600Z"}},
			4, "host;my-header1;x-amz-date", NULL},
	};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		struct buf query CLEANUP(buf_done) = {0};
		s3_sign_query(&query, v[i].query, v[i].query_count);
		struct s3_sign_input in = {.access_key = "AKIDEXAMPLE",
			.secret_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
			.region = "us-east-1",
			.service = "service",
			.date = "20150830T123600Z",
			.method = v[i].method,
			.path = "/",
			.query = buf_str(&query),
			.header = v[i].header,
			.header_count = v[i].header_count,
			.payload_hash = EMPTY};
		if (v[i].signature) {
			check(&in, v[i].names, v[i].signature);
			continue;
		}
		struct buf b CLEANUP(buf_done) = {0};
		s3_sign_canonical(&in, &b);
		assert_non_null(strstr(buf_str(&b), "my-header1:value1,value2,value2\nx-amz-date"));
		assert_non_null(strstr(buf_str(&b), "\nhost;my-header1;x-amz-date\n"));
	}
}

static void test_encode(void **state)
{
	struct buf b CLEANUP(buf_done) = {0};
	s3_sign_encode(&b, "a b+c%25 \xc3\xbc/~_-.\x01", true);
	assert_string_equal(buf_str(&b), "a%20b%2Bc%2525%20%C3%BC/~_-.%01");
	buf_clear(&b);
	s3_sign_encode(&b, "a/b", false);
	assert_string_equal(buf_str(&b), "a%2Fb");
}

static void test_date(void **state)
{
	char date[S3_DATE_SIZE];
	s3_sign_date(1369353600, date);
	assert_string_equal(date, "20130524T000000Z");
	s3_sign_date(0, date);
	assert_string_equal(date, "19700101T000000Z");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_get_object),
		cmocka_unit_test(test_put_object),
		cmocka_unit_test(test_get_lifecycle),
		cmocka_unit_test(test_list_objects),
		cmocka_unit_test(test_suite),
		cmocka_unit_test(test_encode),
		cmocka_unit_test(test_date),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
