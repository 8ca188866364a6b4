/* JSON: exact text out, hostile bytes made valid, hostile documents refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/json.h"

static void writes_a_document(void **state)
{
	struct json *j = json_new();
	char *text;

	assert_non_null(j);
	json_put_str(j, "name", "a \"b\"\n");
	json_put_int(j, "min", INT64_MIN);
	json_put_real(j, "half", 0.5);
	json_put_real(j, "none", NAN);
	json_put_bool(j, "up", true);
	json_begin_array(j, "regions");
	json_begin_object(j, NULL);
	json_put_int(j, "rows", 0);
	json_end(j);
	json_put_str(j, NULL, "x");
	json_end(j);
	json_put_bool(j, "last", false);
	text = json_text(j);
	assert_string_equal(text, "{\n"
				  "  \"name\": \"a \\\"b\\\"\\n\",\n"
				  "  \"min\": -9223372036854775808,\n"
				  "  \"half\": 0.5,\n"
				  "  \"none\": null,\n"
				  "  \"up\": true,\n"
				  "  \"regions\": [\n"
				  "    {\n"
				  "      \"rows\": 0\n"
				  "    },\n"
				  "    \"x\"\n"
				  "  ],\n"
				  "  \"last\": false\n"
				  "}\n");
	free(text);
	json_free(j);
	json_free(NULL);
}

#define BAD "\xef\xbf\xbd"

static void replaces_invalid_utf8(void **state)
{
	static const char *const cases[][2] = {
		{"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
		{"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
		{"a\xff"
		 "b",
			"a" BAD "b"},
		{"\xc3", BAD},
		{"\xe2\x82", BAD BAD},
		{"\xc0\xaf", BAD BAD},		       /* over-long */
		{"\xed\xa0\x80", BAD BAD BAD},	       /* surrogate */
		{"\xf4\x90\x80\x80", BAD BAD BAD BAD}, /* over U+10FFFF */
		{"\xe2\x28\xa1", BAD "(" BAD},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct json_object *o = NULL;
		struct json *j = json_new();
		char *text;

		assert_non_null(j);
		json_put_str(j, "v", cases[i][0]);
		json_put_str(j, cases[i][0], "w");
		text = json_text(j);
		assert_non_null(text);
		assert_int_equal(json_parse(text, strlen(text), &o), 0);
		assert_string_equal(json_get_str(o, "v"), cases[i][1]);
		assert_string_equal(json_get_str(o, cases[i][1]), "w");
		json_object_free(o);
		free(text);
		json_free(j);
	}
}

static int parse(const char *text, struct json_object **ret)
{
	return json_parse(text, strlen(text), ret);
}

static void reads_an_object(void **state)
{
	struct json_object *o = NULL;
	int64_t v = 77;

	assert_int_equal(
		parse("{\"s\": \"\\u00fc\", \"i\": -5, \"r\": 1.5, \"o\": {\"i\": 1}}", &o), 0);
	assert_string_equal(json_get_str(o, "s"), "\xc3\xbc");
	assert_null(json_get_str(o, "i"));
	assert_null(json_get_str(o, "absent"));
	assert_false(json_get_int(o, "s", &v));
	assert_false(json_get_int(o, "r", &v));
	assert_false(json_get_int(o, "o", &v));
	assert_false(json_get_int(o, "absent", &v));
	assert_int_equal(v, 77);
	assert_true(json_get_int(o, "i", &v));
	assert_int_equal(v, -5);
	json_object_free(o);
	json_object_free(NULL);
}

static void refuses(void **state)
{
	static const char *const bad[] = {"", " ", "null", "3", "[]", "[{}]", "{", "{}x", "{} {}",
		"{\"a\":}", "{a:1}", "{\"a\":1,\"a\":2}", "{\"a\":\"\xff\"}", "{\"a\":\"\\u0000\"}",
		"{\"a\":99999999999999999999}", "{\"a\":1,}", "{\"a\":\"\\"};
	struct json_object *o = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(parse(bad[i], &o), -EINVAL);
		assert_null(o);
	}
	assert_int_equal(json_parse("{}\0", 3, &o), -EINVAL);
	assert_null(o);
}

static void bounds(void **state)
{
	size_t n = ((size_t)1 << 20) + 1;
	struct json_object *o = NULL;
	char *text = malloc(n + 1);

	assert_non_null(text);
	memset(text, ' ', n);
	memcpy(text, "{}", 2);
	assert_int_equal(json_parse(text, n, &o), -EINVAL);
	assert_int_equal(json_parse(text, n - 1, &o), 0);
	json_object_free(o);
	o = NULL;
	/* Depth: brackets inside strings do not count. */
	assert_int_equal(parse("{\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\":1}", &o), 0);
	json_object_free(o);
	o = NULL;
	strcpy(text, "{\"a\":");
	for (int i = 0; i < 40; i++)
		strcat(text, "[");
	for (int i = 0; i < 40; i++)
		strcat(text, "]");
	strcat(text, "}");
	assert_int_equal(parse(text, &o), -EINVAL);
	assert_null(o);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_a_document),
		cmocka_unit_test(replaces_invalid_utf8),
		cmocka_unit_test(reads_an_object),
		cmocka_unit_test(refuses),
		cmocka_unit_test(bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
