/* S3's XML answers: what servers send, and what a hostile one may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/store/s3_xml.h"

#define LIST_HEAD                                                                                  \
	"<?xml version=\"1.0\"?>\n<ListBucketResult "                                              \
	"xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"
#define ITEM(key)                                                                                  \
	"<Contents><Key>" key "</Key><LastModified>2009-10-12T17:50:30.250Z</LastModified>"        \
	"<ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag><Size>434234</Size>"             \
	"<Owner><ID>x</ID></Owner></Contents>"

static int list(const char *text, struct s3_list_page *page)
{
	return s3_xml_list(text, strlen(text), page);
}

static void refuse(const char *text)
{
	struct s3_list_page page;
	struct s3_answer answer;
	assert_int_equal(list(text, &page), -EBADMSG);
	assert_null(page.item);
	assert_null(page.keys.data);
	assert_int_equal(s3_xml_answer(text, strlen(text), &answer), -EBADMSG);
}

static void test_page(void **state)
{
	struct s3_list_page page CLEANUP(s3_list_page_done) = {0};
	assert_int_equal(
		list(LIST_HEAD ITEM("a%20b+c%2Bd%C3%BC") ITEM("x%00y") ITEM(
			     "z") "<IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>"
				  "<NextContinuationToken>1ue&amp;=</NextContinuationToken></"
				  "ListBucketResult>",
			&page),
		0);
	assert_int_equal(page.count, 2);
	assert_int_equal(page.skipped, 1);
	assert_string_equal(s3_list_key(&page, 0), "a b c+d\xc3\xbc");
	assert_string_equal(s3_list_key(&page, 1), "z");
	assert_int_equal(page.item[0].object.size, 434234);
	assert_int_equal(page.item[0].object.mtime_ms, 1255369830250);
	assert_string_equal(page.item[0].object.etag, "fba9dede5f27731c9771645a39863328");
	assert_true(page.truncated);
	assert_string_equal(page.token, "1ue&=");
}

static void test_unencoded(void **state)
{
	struct s3_list_page page CLEANUP(s3_list_page_done) = {0};
	assert_int_equal(list(LIST_HEAD ITEM("a%20+&amp;") "</ListBucketResult>", &page), 0);
	assert_string_equal(s3_list_key(&page, 0), "a%20+&");
	assert_false(page.truncated);
	assert_null(page.token);
}

static void test_empty(void **state)
{
	struct s3_list_page page CLEANUP(s3_list_page_done) = {0};
	assert_int_equal(
		list(LIST_HEAD "<IsTruncated>false</IsTruncated></ListBucketResult>", &page), 0);
	assert_int_equal(page.count, 0);
}

static void test_refused(void **state)
{
	refuse("");
	refuse("not XML");
	refuse("<html><body>Welcome to the hotel</body></html>");
	refuse(LIST_HEAD ITEM("a"));
	refuse(LIST_HEAD "<Contents><Key></Key></Contents></ListBucketResult>");
	refuse(LIST_HEAD "<Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>");
	refuse(LIST_HEAD "<Contents><Key>a</Key><Size>99999999999999999999</Size></Contents></"
			 "ListBucketResult>");
	refuse(LIST_HEAD "<Contents><Key>a</Key><ETag>a b</ETag></Contents></ListBucketResult>");
	refuse(LIST_HEAD "<Contents><Key>a</Key><LastModified>yesterday</LastModified></Contents></"
			 "ListBucketResult>");
	refuse(LIST_HEAD ITEM("%zz") "<EncodingType>url</EncodingType></ListBucketResult>");
	refuse(LIST_HEAD ITEM("a%2") "<EncodingType>url</EncodingType></ListBucketResult>");
}

static void test_entities_refused(void **state)
{
	refuse("<!DOCTYPE ListBucketResult [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]>"
	       "<ListBucketResult><Contents><Key>&b;</Key></Contents></ListBucketResult>");
	refuse("<!DOCTYPE ListBucketResult SYSTEM "
	       "\"file:///etc/passwd\"><ListBucketResult></ListBucketResult>");
	refuse("<!DOCTYPE Error><Error><Code>NoSuchKey</Code></Error>");
}

static void test_bounds(void **state)
{
	struct buf b CLEANUP(buf_done) = {0};
	buf_put_str(&b, LIST_HEAD);
	for (int i = 0; i < 20; i++)
		buf_put_str(&b, "<a>");
	for (int i = 0; i < 20; i++)
		buf_put_str(&b, "</a>");
	buf_put_str(&b, "</ListBucketResult>");
	refuse(buf_str(&b));

	buf_clear(&b);
	buf_put_str(&b, LIST_HEAD "<Contents><ETag>e</ETag><Key>");
	for (int i = 0; i < 9000; i++)
		buf_put_u8(&b, 'k');
	buf_put_str(&b, "</Key></Contents></ListBucketResult>");
	refuse(buf_str(&b));

	buf_clear(&b);
	buf_put_str(&b, LIST_HEAD);
	for (int i = 0; i < S3_LIST_PAGE + 1; i++)
		buf_put_str(&b, ITEM("k"));
	buf_put_str(&b, "</ListBucketResult>");
	refuse(buf_str(&b));

	buf_clear(&b);
	buf_printf(&b, "<ListBucketResult><n%0600d/></ListBucketResult>", 0);
	refuse(buf_str(&b));
}

static void test_answer(void **state)
{
	struct s3_answer a;
	const char *error =
		"<Error><Code>NoSuchKey</Code><Message>gone\n</Message><Resource>/b/k</Resource>"
		"<RequestId>4442587FB7D0A2F9</RequestId></Error>";
	assert_int_equal(s3_xml_answer(error, strlen(error), &a), 0);
	assert_true(a.is_error);
	assert_string_equal(a.code, "NoSuchKey");
	assert_string_equal(a.message, "gone?");
	assert_string_equal(a.request_id, "4442587FB7D0A2F9");
	const char *copied = "\n<CopyObjectResult><ETag>\"9b2cf535f27731c974343645a3985328\"</"
			     "ETag></CopyObjectResult>";
	assert_int_equal(s3_xml_answer(copied + 1, strlen(copied + 1), &a), 0);
	assert_false(a.is_error);
	assert_string_equal(a.etag, "9b2cf535f27731c974343645a3985328");
	const char *nameless = "<Error><Message>x</Message></Error>";
	assert_int_equal(s3_xml_answer(nameless, strlen(nameless), &a), -EBADMSG);
}

#define UPLOAD(key, id)                                                                            \
	"<Upload><Key>" key "</Key><UploadId>" id                                                  \
	"</UploadId><Initiated>2009-10-12T17:50:30.000Z</Initiated></Upload>"

static int uploads(const char *text, struct s3_uploads_page *page)
{
	return s3_xml_uploads(text, strlen(text), page);
}

static void test_uploads(void **state)
{
	struct s3_uploads_page page CLEANUP(s3_uploads_page_done) = {0};
	assert_int_equal(
		uploads("<ListMultipartUploadsResult><EncodingType>url</EncodingType>" UPLOAD(
				"a%20b+c", "i-1")
				UPLOAD("z", "i-2") "<IsTruncated>true</IsTruncated>"
						   "<NextKeyMarker>z%2B</NextKeyMarker><"
						   "NextUploadIdMarker>i-2</"
						   "NextUploadIdMarker>"
						   "</ListMultipartUploadsResult>",
			&page),
		0);
	assert_int_equal(page.count, 2);
	assert_string_equal(page.item[0].key, "a b c");
	assert_string_equal(page.item[0].id, "i-1");
	assert_int_equal(page.item[0].begun_ms, 1255369830000);
	assert_true(page.truncated);
	assert_string_equal(page.next_key, "z+");
	assert_string_equal(page.next_id, "i-2");
}

static void test_uploads_refused(void **state)
{
	static const char *const bad[] = {
		"<ListBucketResult></ListBucketResult>",
		"<ListMultipartUploadsResult>" UPLOAD("", "i") "</ListMultipartUploadsResult>",
		"<ListMultipartUploadsResult>" UPLOAD("k", "") "</ListMultipartUploadsResult>",
		"<ListMultipartUploadsResult>" UPLOAD("k", "a b") "</ListMultipartUploadsResult>",
		"<ListMultipartUploadsResult>" UPLOAD("a%00b", "i") "</ListMultipartUploadsResult>",
		"<ListMultipartUploadsResult><Upload></Upload></ListMultipartUploadsResult>",
	};
	struct s3_uploads_page page;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(uploads(bad[i], &page), -EBADMSG);
		assert_null(page.item);
	}
	const char *begun = "<InitiateMultipartUploadResult><UploadId>2~x</UploadId>"
			    "</InitiateMultipartUploadResult>";
	struct s3_answer a;
	assert_int_equal(s3_xml_answer(begun, strlen(begun), &a), 0);
	assert_string_equal(a.upload_id, "2~x");
}

static void test_etag(void **state)
{
	char etag[STORE_ETAG_SIZE] = "kept";
	char longer[STORE_ETAG_SIZE + 1];
	memset(longer, 'e', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_false(s3_etag_set(etag, longer));
	assert_false(s3_etag_set(etag, ""));
	assert_false(s3_etag_set(etag, "\"\""));
	assert_false(s3_etag_set(etag, "a\r\nb"));
	assert_string_equal(etag, "kept");
	assert_true(s3_etag_set(etag, "\"abc-2\""));
	assert_string_equal(etag, "abc-2");
	assert_true(s3_etag_set(etag, "W/\"abc\""));
	assert_string_equal(etag, "W/\"abc\"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_page),
		cmocka_unit_test(test_unencoded),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_entities_refused),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_answer),
		cmocka_unit_test(test_uploads),
		cmocka_unit_test(test_uploads_refused),
		cmocka_unit_test(test_etag),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
