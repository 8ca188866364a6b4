/* The configuration: what is accepted, and that every refusal names file, line, key and the nearest
 * known one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/config.h"

#define REGION "[region \"a\"]\nurl = file:///srv/a\n"

static int parse(const char *text, struct config **ret, struct err *err)
{
	*ret = NULL;
	memset(err, 0, sizeof(*err));
	return config_parse(text, strlen(text), "/etc/meridian/orders.conf", NULL, 0, ret, err);
}

/* text is refused and the message has every one of the words. */
static void refused(const char *text, const char *const *words)
{
	struct config *c;
	struct err err;

	if (parse(text, &c, &err) == 0)
		fail_msg("accepted: %s", text);
	assert_null(c);
	for (; *words; words++)
		if (!strstr(err.text, *words))
			fail_msg("\"%s\" lacks \"%s\" for: %s", err.text, *words, text);
}
#define REFUSED(text, ...) refused(text, (const char *const[]){__VA_ARGS__, NULL})

static void test_the_example_of_the_design(void **state)
{
	static const char text[] =
		"[volume]\n"
		"name = orders\n"
		"state_dir = /srv/state/orders     ; default\n"
		"home = eu-west-2\n"
		"cache_size = 20G\n"
		"durability = local                ; local | home | quorum | all\n"
		"poll_interval = 1s\n"
		"\n"
		"[region \"us-east-1\"]\n"
		"  url = file:///srv/bucket        ; indented lines are keys too\n"
		"\n"
		"# a comment\n"
		"[region \"eu-west-2\"]\n"
		"url = s3://orders-eu-west-2/app\n"
		"endpoint = https://s3.eu-west-2.example\n"
		"profile = orders\n"
		"timeout = 10s\r\n"
		"stall_timeout = 2s\n"
		"request_limit = 100, Mon-Fri 08:00-18:00 20 ; requests by day\n"
		"[policy \"counters/[a-z]*\"] ; brackets in a pattern\n"
		"merge = lww";
	struct config *c AUTO_CONFIG = NULL;
	struct store_config store;
	struct err err;

	if (parse(text, &c, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(c->name, "orders");
	assert_string_equal(c->state_dir, "/srv/state/orders");
	assert_int_equal(c->cache_size, 20ull << 30);
	assert_int_equal(c->min_free.bytes, 0);
	assert_int_equal(c->min_free.percent, 0);
	assert_int_equal(c->poll_interval_ms, 1000);
	assert_int_equal(c->seal_after_ms, 5000);
	assert_int_equal(c->max_clock_skew_ms, 300000);
	assert_int_equal(c->drain_timeout_ms, 25000);
	assert_int_equal(c->inline_max, 65536);
	assert_int_equal(c->regions, 2);
	assert_int_equal(c->home_index, 1);
	assert_string_equal(c->region[0].url, "file:///srv/bucket");
	assert_false(c->region[0].path_style);
	assert_true(c->region[1].path_style);
	assert_int_equal(c->region[1].timeout_ms, 10000);
	assert_int_equal(c->policies, 1);
	assert_string_equal(c->policy[0].glob, "counters/[a-z]*");
	config_store(c, 1, &store);
	assert_string_equal(store.name, "eu-west-2");
	assert_string_equal(store.profile, "orders");
	assert_int_equal(store.connections, 64);
	assert_int_equal(store.stall_timeout_ms, 2000);
	assert_int_equal(store.rate_limit.usual, 0);
	assert_int_equal(store.request_limit.usual, 100);
	assert_int_equal(store.request_limit.rules, 1);
	assert_int_equal(store.request_limit.rule[0].limit, 20);
	assert_null(store.ca_bundle);
}

static void test_defaults_from_other_things(void **state)
{
	struct config *c AUTO_CONFIG = NULL;
	struct err err;

	assert_int_equal(parse(REGION, &c, &err), 0);
	assert_string_equal(c->name, "orders");
	assert_string_equal(c->state_dir, "/var/lib/meridian/orders");
	assert_string_equal(c->home, "a");
	assert_int_equal(c->allow_other, geteuid() == 0);
}

static void test_unknown_things_name_the_nearest(void **state)
{
	REFUSED("[volume]\npol_interval = 1s\n" REGION,
		"/etc/meridian/orders.conf:2:", "[volume] pol_interval",
		"hint: the nearest known one is poll_interval");
	REFUSED("[volme]\n" REGION, "orders.conf:1:", "[volme]", "[volume]");
	REFUSED("[regions \"x\"]\n", "orders.conf:1:", "[region \"NAME\"]");
	REFUSED(REGION "ednpoint = http://x\n", "orders.conf:3:", "[region \"a\"] ednpoint",
		"endpoint");
	REFUSED("[volume]\nhome = eu-wst\n[region \"eu-west\"]\nurl = file:///x\n[region "
		"\"us\"]\nurl = file:///y\n",
		"orders.conf:2:", "home", "\"eu-wst\"", "eu-west");
	REFUSED(REGION "[policy \"x\"]\nmerg = lww\n", "orders.conf:4:", "merge");
	REFUSED("[region \"a\"]\nurl = s4://x\n", "orders.conf:2:", "url", "s3://");
}

static void test_refused_with_line_and_key(void **state)
{
	REFUSED("name = x\n" REGION, "orders.conf:1:", "name", "[volume]");
	REFUSED(REGION "garbage\n", "orders.conf:3:", "key = value");
	REFUSED("[volume\n" REGION, "orders.conf:1:", "malformed section");
	REFUSED("[volume] x\n" REGION, "orders.conf:1:", "malformed section");
	REFUSED("[region \"a]\n", "orders.conf:1:", "malformed section");
	REFUSED("[region]\nurl = file:///x\n", "orders.conf:1:", "needs a name");
	REFUSED("[volume \"x\"]\n" REGION, "orders.conf:1:", "takes no name");
	REFUSED("[region \"../x\"]\nurl = file:///x\n", "orders.conf:1:", "not a name");
	REFUSED("[volume]\n[volume]\n" REGION, "orders.conf:2:", "line 1");
	REFUSED(REGION REGION, "orders.conf:3:", "[region \"a\"]", "line 1");
	REFUSED(REGION "url = file:///y\n", "orders.conf:3:", "url: again", "line 2");
	REFUSED(REGION "[region \"b\"]\nurl = file:///srv/a\n",
		"orders.conf:4:", "the same as that of region \"a\"");
	REFUSED("[region \"a\"]\nprofile = x\n", "orders.conf:1:", "url: missing");
	REFUSED("[region \"a\"]\nurl = file://relative\n", "orders.conf:2:", "url", "file:///");
	REFUSED("[region \"a\"]\nurl = s3:///x\n", "orders.conf:2:", "names no bucket");
	REFUSED("[region \"a\"]\nurl = gs://x\n", "orders.conf:2:", "gs://",
		"does not have it yet");
	REFUSED("[region \"a\"]\nurl = s3://x\nendpoint = ftp://x\n", "orders.conf:3:", "endpoint");
	REFUSED("[volume]\ndurability = most\n" REGION, "orders.conf:2:", "durability", "quorum");
	REFUSED(REGION "[policy \"x\"]\nsync_on_close = maybe\n", "orders.conf:4:", "sync_on_close");
	REFUSED("[volume]\ncache_size = 20 G\n" REGION, "orders.conf:2:", "cache_size", "20G");
	REFUSED("[volume]\npoll_interval = 1ms\n" REGION, "orders.conf:2:", "poll_interval",
		"from 50ms to 1h");
	REFUSED(REGION "rate_limit = 50M, Sat-Sun\n", "orders.conf:3:", "[region \"a\"]: rate_limit",
		"part 2", "hint: write for example 50M, 22:00-06:00 200M");
	REFUSED(REGION "[policy \"x\"]\nmerge = counter\n", "orders.conf:4:", "counter",
		"does not have it yet", "lww");
	REFUSED(REGION "[policy \"x\"]\n", "orders.conf:3:", "says nothing");
	REFUSED("", "orders.conf: no region");
	REFUSED("[volume]\nname =\n" REGION, "orders.conf:2:", "name: empty");
}

static void test_credentials_do_not_belong_here(void **state)
{
	struct config *c;
	struct err err;

	REFUSED(REGION "secret_access_key = hunter2\n", "orders.conf:3:", "secret_access_key",
		"profile", "environment");
	REFUSED(REGION "aws_access_key_id = hunter2\n", "orders.conf:3:", "profile");
	assert_true(parse(REGION "password = hunter2\n", &c, &err) < 0);
	assert_null(strstr(err.text, "hunter2"));
}

static void test_environment(void **state)
{
	struct config *c AUTO_CONFIG = NULL;
	struct err err;

	setenv("TEST_CONFIG_BUCKET", "bucket", 1);
	setenv("TEST_CONFIG_SECRET", "s3cret value", 1);
	unsetenv("TEST_CONFIG_UNSET");
	assert_int_equal(
		parse("[region \"a\"]\nurl = s3://${TEST_CONFIG_BUCKET}/x${TEST_CONFIG_BUCKET}\n",
			&c, &err),
		0);
	assert_string_equal(c->region[0].url, "s3://bucket/xbucket");
	REFUSED("[region \"a\"]\nurl = s3://${TEST_CONFIG_UNSET}/x\n", "orders.conf:2:", "url",
		"${TEST_CONFIG_UNSET} is not set");
	REFUSED("[region \"a\"]\nurl = s3://${TEST_CONFIG\n", "orders.conf:2:", "malformed");
	REFUSED("[region \"a\"]\nurl = s3://${}x\n", "orders.conf:2:", "malformed");
	assert_true(parse("[volume]\npoll_interval = ${TEST_CONFIG_SECRET}\n" REGION,
			    &(struct config *){NULL}, &err) < 0);
	assert_null(strstr(err.text, "s3cret"));
}

static void test_limits(void **state)
{
	struct buf text CLEANUP(buf_done) = {0};
	struct config *c = NULL;
	struct err err = {0};

	for (int i = 0; i < 9; i++)
		buf_printf(&text, "[region \"r%d\"]\nurl = file:///srv/%d\n", i, i);
	REFUSED(buf_str(&text), "more than 8 regions", "orders.conf:17:");
	buf_clear(&text);
	buf_put_str(&text, REGION "profile = ");
	for (int i = 0; i < 5000; i++)
		buf_put_u8(&text, 'x');
	REFUSED(buf_str(&text), "orders.conf:3:", "line longer than");
	assert_true(config_parse("[volume]\n\0x = 1\n" REGION, 16, "f", NULL, 0, &c, &err) < 0);
	assert_non_null(strstr(err.text, "f:2:"));
	buf_clear(&text);
	while (text.len <= CONFIG_BYTES_MAX)
		buf_put_str(&text, "; comment\n");
	assert_int_equal(config_parse((char *)text.data, text.len, "f", NULL, 0, &c, &err), -27);
}

static void test_overrides(void **state)
{
	const struct config_override good[] = {{"poll_interval", "7s"}, {"home", "b"}};
	const struct config_override unknown[] = {{"pol", "7s"}}, wrong[] = {{"home", "c"}},
				     value[] = {{"seal_after", "x"}};
	static const char text[] =
		"[volume]\npoll_interval = 2s\n" REGION "[region \"b\"]\nurl = file:///srv/b\n";
	struct config *c AUTO_CONFIG = NULL, *none = NULL;
	struct err err = {0};

	assert_int_equal(config_parse(text, strlen(text), "f", good, 2, &c, &err), 0);
	assert_int_equal(c->poll_interval_ms, 7000);
	assert_int_equal(c->home_index, 1);
	assert_true(config_parse(text, strlen(text), "f", unknown, 1, &none, &err) < 0);
	assert_true(config_parse(text, strlen(text), "f", wrong, 1, &none, &err) < 0);
	assert_non_null(strstr(err.text, "-o home"));
	assert_true(config_parse(text, strlen(text), "f", value, 1, &none, &err) < 0);
	assert_non_null(strstr(err.text, "-o: seal_after"));
	assert_null(none);
}

/* What `config show` prints is a configuration that means the same. */
static void test_print_is_a_configuration(void **state)
{
	static const char text[] =
		"[volume]\nname = x\nstate_dir = /s\npoll_interval = 90s\n" REGION
		"connections = 3\nrate_limit = 50M,22:00-06:00 200M, Sat-Sun 0\n[region \"b\"]\nurl = s3://b\nprofile = p q\n[policy "
		"\"*.x\"]\nmerge = lww\n";
	struct config *first AUTO_CONFIG = NULL, *second AUTO_CONFIG = NULL;
	struct buf one CLEANUP(buf_done) = {0}, two CLEANUP(buf_done) = {0};
	struct err err;
	char *comment;

	assert_int_equal(parse(text, &first, &err), 0);
	config_print(first, &one);
	if (parse(buf_str(&one), &second, &err) < 0)
		fail_msg("%s:\n%s", err.text, buf_str(&one));
	config_print(second, &two);
	assert_non_null(strstr(buf_str(&one), "\nrate_limit = 50M, 22:00-06:00 200M, Sat-Sun 0\n"));
	assert_non_null(strstr((char *)one.data, "\nrequest_limit = 0 "));
	/* Defaults are now set in the file. */
	assert_non_null(strstr((char *)one.data, "; default"));
	assert_null(strstr(buf_str(&two), "; default"));
	while ((comment = strstr((char *)one.data, " ; default"))) {
		char *end = strchr(comment, '\n');

		while (comment[-1] == ' ')
			comment--;
		memmove(comment, end, strlen(end) + 1);
	}
	assert_string_equal((char *)one.data, (char *)two.data);
}

static void test_files(void **state)
{
	char path[] = "/tmp/meridian-config.XXXXXX";
	int fd = mkstemp(path);
	struct config *c AUTO_CONFIG = NULL;
	struct err err = {0};
	char *found AUTO_FREE = NULL;

	assert_true(fd >= 0);
	assert_int_equal(
		write(fd, "[volume]\nname = n\n" REGION, strlen("[volume]\nname = n\n" REGION)),
		strlen("[volume]\nname = n\n" REGION));
	close(fd);
	assert_int_equal(config_load(path, NULL, 0, &c, &err), 0);
	unlink(path);
	assert_string_equal(c->name, "n");
	assert_int_equal(config_load(path, NULL, 0, &c, &err), -2);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(config_load("/tmp", NULL, 0, &c, &err), -22);
	assert_int_equal(config_find("orders", &found, &err), 0);
	assert_string_equal(found, "/etc/meridian/orders.conf");
	assert_true(config_find("or ders", &(char *){NULL}, &err) < 0);
	assert_true(config_is_path("orders.conf"));
	assert_true(config_is_path("./orders"));
	assert_false(config_is_path("orders"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_example_of_the_design),
		cmocka_unit_test(test_defaults_from_other_things),
		cmocka_unit_test(test_unknown_things_name_the_nearest),
		cmocka_unit_test(test_refused_with_line_and_key),
		cmocka_unit_test(test_credentials_do_not_belong_here),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_overrides),
		cmocka_unit_test(test_print_is_a_configuration),
		cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
