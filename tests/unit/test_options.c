/* Options: their values, their messages, and the mount's -o lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "src/config.h"
#include "src/mount_options.h"
#include "src/option.h"
#include "src/text.h"

struct fields {
	char *name;
	char *path;
	char *url;
	uint64_t size;
	struct option_share share;
	int64_t time;
	uint64_t count;
	bool flag;
	unsigned choice;
	struct schedule sizes;
	struct schedule counts;
};

static const char *const colours[] = {"red", "green", NULL};
static const char *const colours_later[] = {"blue", NULL};

#define F(field) offsetof(struct fields, field)
static const struct option_spec table[] = {
	{.name = "name", .type = OPTION_NAME, .offset = F(name)},
	{.name = "path", .type = OPTION_PATH, .offset = F(path)},
	{.name = "url", .type = OPTION_URL, .offset = F(url)},
	{.name = "size", .type = OPTION_SIZE, .offset = F(size), .min = 1024, .max = 1ull << 40},
	{.name = "share", .type = OPTION_SHARE, .offset = F(share), .min = 0, .max = 90},
	{.name = "time", .type = OPTION_TIME, .offset = F(time), .min = 10, .max = 86400000},
	{.name = "count",
		.type = OPTION_COUNT,
		.offset = F(count),
		.min = 1,
		.max = 8,
		.preset = "4"},
	{.name = "flag", .type = OPTION_BOOL, .offset = F(flag)},
	{.name = "choice",
		.type = OPTION_CHOICE,
		.offset = F(choice),
		.choices = colours,
		.later = colours_later},
	{.name = "sizes", .type = OPTION_SIZES, .offset = F(sizes), .min = 0, .max = 1ull << 40},
	{.name = "counts", .type = OPTION_COUNTS, .offset = F(counts), .min = 0, .max = 1000},
};
#define COUNT ARRAY_SIZE(table)

static int set(struct fields *f, const char *name, const char *value, struct err *err)
{
	const struct option_spec *o = option_find(table, COUNT, name);

	assert_non_null(o);
	memset(err, 0, sizeof(*err));
	return option_set(o, f, value, err);
}

static void test_sizes_and_times(void **state)
{
	static const struct {
		const char *text;
		bool good;
		uint64_t value;
	} sizes[] = {{"0", true, 0}, {"4096", true, 4096}, {"64K", true, 65536},
		{"20G", true, 20ull << 30}, {"16777215T", true, 16777215ull << 40},
		{"16777216T", false, 0}, {"18446744073709551616", false, 0}, {"", false, 0},
		{"K", false, 0}, {"-1", false, 0}, {"1k", false, 0}, {"1KB", false, 0},
		{"1 K", false, 0}, {"1.5G", false, 0}},
	  times[] = {{"0", true, 0}, {"250ms", true, 250}, {"5s", true, 5000}, {"5m", true, 300000},
		  {"2h", true, 7200000}, {"30d", true, 2592000000}, {"5", false, 0}, {"", false, 0},
		  {"s", false, 0}, {"-5s", false, 0}, {"5sec", false, 0},
		  {"106751991168d", false, 0}, {"9223372036854775808ms", false, 0}};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t value = 77;

		assert_int_equal(option_parse_size(sizes[i].text, &value), sizes[i].good);
		if (sizes[i].good)
			assert_int_equal(value, sizes[i].value);
	}
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		int64_t value = 77;

		assert_int_equal(option_parse_time(times[i].text, &value), times[i].good);
		if (times[i].good)
			assert_int_equal(value, times[i].value);
	}
}

static void test_set_and_print_are_inverse(void **state)
{
	static const char *const pairs[][2] = {{"name", "orders.eu-1_x"}, {"path", "/var/lib/x"},
		{"url", "s3://b/p"}, {"size", "20G"}, {"size", "1025"}, {"time", "250ms"},
		{"time", "12h"}, {"time", "90s"}, {"count", "7"}, {"flag", "yes"}, {"flag", "no"},
		{"choice", "green"}, {"share", "10%"}, {"share", "3G"}, {"share", "0"},
		{"sizes", "50M"}, {"sizes", "0, Sat-Sun 1T"}, {"counts", "1000"},
		{"sizes", "50M, 22:00-06:00 200M, Mon-Fri 08:00-18:30 10M, Sat-Sun 0"},
		{"counts", "7, Mon-Sun 1, Sun 2, Fri-Mon 00:00-00:01 3, Thu 23:59-24:00 4"}};
	struct fields f = {0};
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct buf out CLEANUP(buf_done) = {0};

		assert_int_equal(set(&f, pairs[i][0], pairs[i][1], &err), 0);
		option_print(option_find(table, COUNT, pairs[i][0]), &f, &out);
		assert_string_equal(buf_str(&out), pairs[i][1]);
	}
	option_done(table, COUNT, &f);
	assert_null(f.name);
}

static void test_wrong_values_leave_the_field(void **state)
{
	static const char *const wrong[][3] = {/* option, value, part of the message */
		{"name", "", "empty"}, {"name", "a/b", "not a name"}, {"name", "-x", "not a name"},
		{"path", "var", "absolute"}, {"path", "/a/../b", ".."}, {"path", "/a/..", ".."},
		{"url", "bucket", "URL"}, {"url", "s3://KEY:SECRET@bucket/x", "credentials"},
		{"url", "s3://", "URL"}, {"size", "1023", "1K"}, {"size", "x", "20G"},
		{"time", "5", "250ms"}, {"time", "2d", "to 1d"}, {"count", "0", "from 1 to 8"},
		{"count", "9", "range"}, {"count", "1x", "whole number"},
		{"flag", "maybe", "yes or no"}, {"choice", "pink", "red, green"},
		{"choice", "blue", "does not have it yet"}, {"path", "/a\tb", "control"},
		{"share", "91%", "to 90%"}, {"share", "-1%", "10G or 10%"},
		{"share", "5%%", "10G or 10%"}, {"sizes", "", "not a size"},
		{"sizes", "x", "not a size"}, {"sizes", "2T", "from 0 to 1T"},
		{"sizes", "50M 20M", "not a size"},
		{"sizes", "none", "at all other times (0: none)"},
		{"sizes", "22:00-06:00 200M", "part 1: not the limit at all other times"},
		{"sizes", "Sat-Sun 0, 50M", "part 1: not the limit at all other times"},
		{"sizes", "50M,", "part 2: is empty"},
		{"sizes", "50M, , Sat 0", "part 2: is empty"},
		{"sizes", "50M, 20M", "part 2: says no time"},
		{"sizes", "50M, Sat", "part 2: has no limit"},
		{"sizes", "50M, Sat 8:00-9:00", "part 2: has no limit"},
		{"sizes", "50M, Sat 1M, Sun 2M 3M", "part 3: has more than"},
		{"sizes", "50M, Sat x", "part 2: not a size"},
		{"sizes", "50M, Sat 2T", "from 0 to 1T"},
		{"sizes", "50M, Samstag 1M", "part 2: not days of the week"},
		{"sizes", "50M, Sat-Sunday 1M", "part 2: not days of the week"},
		{"sizes", "50M, Sat_Sun 1M", "part 2: not days of the week"},
		{"sizes", "50M, 8-18 1M", "part 2: says no time"},
		{"sizes", "50M, 8:00 1M", "part 2: not hours of the day"},
		{"sizes", "50M, 8:0-9:00 1M", "part 2: not hours of the day"},
		{"sizes", "50M, 08:00-24:01 1M", "part 2: not hours of the day"},
		{"sizes", "50M, 24:00-06:00 1M", "part 2: not hours of the day"},
		{"sizes", "50M, 08:60-09:00 1M", "part 2: not hours of the day"},
		{"sizes", "50M, 008:00-09:00 1M", "part 2: not hours of the day"},
		{"sizes", "50M, 08:00-09:00h 1M", "part 2: not hours of the day"},
		{"sizes", "50M, 08:00-08:00 1M", "part 2: begins when it ends"},
		{"sizes", "50M, 22:00-06:00 -1", "part 2: not a size"},
		{"counts", "1M", "whole number"},
		{"counts", "1, Sat 2M", "part 2: not a whole number"},
		{"counts", "1, Sat 1001", "part 2: out of range"},
		{"counts", "1, 2", "22:00-06:00 400"},
		{"counts",
			"1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,Sat 1,"
			"Sat 1,Sat 1,Sat 1,Sat 1,Sat 1",
			"more than 16 rules"}};
	struct fields f = {
		.sizes = {.usual = 8}, .size = 5, .time = 6, .count = 7, .choice = 1, .flag = true};
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(set(&f, wrong[i][0], wrong[i][1], &err), -22);
		if (!strstr(err.text, wrong[i][2]))
			fail_msg("%s = %s: \"%s\" lacks \"%s\"", wrong[i][0], wrong[i][1], err.text,
				wrong[i][2]);
		assert_null(strstr(err.text, "SECRET"));
	}
	assert_null(f.name);
	assert_null(f.path);
	assert_null(f.url);
	assert_int_equal(f.size, 5);
	assert_int_equal(f.sizes.usual, 8);
	assert_int_equal(f.sizes.rules, 0);
	assert_int_equal(f.counts.rules, 0);
	assert_int_equal(f.share.percent, 0);
	assert_int_equal(f.time, 6);
	assert_int_equal(f.count, 7);
	assert_int_equal(f.choice, 1);
	assert_true(f.flag);
	assert_int_equal(option_set_presets(table, COUNT, &f, &err), 0);
	assert_int_equal(f.count, 4);
}

/* Other ways to write the same. */
static void test_schedules(void **state)
{
	static const char *const pairs[][2] = {
		{"1024K,sat-SUN 0", "1M, Sat-Sun 0"},
		{" 1M ,\t7:30-9:05\t2M ", "1M, 07:30-09:05 2M"},
		{"1M, 22:00-00:00 2M", "1M, 22:00-24:00 2M"},
		{"1M, 00:00-24:00 2M", "1M, Mon-Sun 2M"},
		{"1M, Sun-Sat 06:00-07:00 2M", "1M, 06:00-07:00 2M"},
		{"1M, Wed-Tue 2M", "1M, Mon-Sun 2M"},
		{"1M, Sat-Sat 2M", "1M, Sat 2M"},
	};
	struct fields f = {0};
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct buf out CLEANUP(buf_done) = {0};

		if (set(&f, "sizes", pairs[i][0], &err) < 0)
			fail_msg("%s: %s", pairs[i][0], err.text);
		option_print(option_find(table, COUNT, "sizes"), &f, &out);
		assert_string_equal(buf_str(&out), pairs[i][1]);
	}
	assert_int_equal(set(&f, "sizes", "5, Fri-Mon 22:00-06:30 7, Wed 0", &err), 0);
	assert_int_equal(f.sizes.usual, 5);
	assert_int_equal(f.sizes.rules, 2);
	assert_int_equal(f.sizes.rule[0].days, 0x63);
	assert_int_equal(f.sizes.rule[0].from, 22 * 60);
	assert_int_equal(f.sizes.rule[0].to, 6 * 60 + 30);
	assert_int_equal(f.sizes.rule[0].limit, 7);
	assert_int_equal(f.sizes.rule[1].days, 8);
	assert_int_equal(f.sizes.rule[1].from, 0);
	assert_int_equal(f.sizes.rule[1].to, 1440);
	assert_int_equal(f.sizes.rule[1].limit, 0);
	option_done(table, COUNT, &f);
}

static void test_long_strings(void **state)
{
	char path[OPTION_TEXT_MAX + 2];
	struct fields f = {0};
	struct err err;

	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[OPTION_TEXT_MAX] = '\0';
	assert_int_equal(set(&f, "path", path, &err), -22);
	path[OPTION_TEXT_MAX - 1] = '\0';
	assert_int_equal(set(&f, "path", path, &err), 0);
	option_done(table, COUNT, &f);
}

static void test_nearest(void **state)
{
	assert_int_equal(text_distance("kitten", "sitting"), 3);
	assert_int_equal(text_distance("", "abc"), 3);
	assert_int_equal(text_distance("same", "same"), 0);
	assert_string_equal(option_nearest(table, COUNT, "coutn"), "count");
	assert_string_equal(
		option_nearest(config_volume_options, config_volume_option_count, "pol_interval"),
		"poll_interval");
}

/* Every preset of the real tables is a fit value, every option has help, no name is there twice. */
static void test_real_tables(void **state)
{
	static const struct {
		const struct option_spec *table;
		const size_t *count;
	} tables[] = {{config_volume_options, &config_volume_option_count},
		{config_region_options, &config_region_option_count},
		{config_policy_options, &config_policy_option_count}};

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		for (size_t i = 0; i < *tables[t].count; i++) {
			const struct option_spec *o = &tables[t].table[i];

			assert_non_null(o->help);
			assert_ptr_equal(
				option_find(tables[t].table, *tables[t].count, o->name), o);
			if (o->preset) {
				/* Large enough for any of the structs. */
				void *base = calloc(1, sizeof(struct config));
				struct buf out CLEANUP(buf_done) = {0};
				struct err err = {0};

				assert_int_equal(option_set(o, base, o->preset, &err), 0);
				option_print(o, base, &out);
				assert_string_equal(buf_str(&out), o->preset);
				option_done(o, 1, base);
				free(base);
			}
		}
	}
}

static const char * override(const struct mount_options *m, const char *name)
{
	for (size_t i = 0; i < m->overrides; i++)
		if (strcmp(m->override[i].name, name) == 0)
			return m->override[i].value;
	return NULL;
}

static void test_mount_list(void **state)
{
	struct mount_options m CLEANUP(mount_options_done) = {0};
	struct err err = {0};

	assert_int_equal(mount_options_parse(&m,
				 "defaults,_netdev,nofail,x-systemd.automount,X-mount.mkdir=0755,"
				 "noauto,user,users,auto,rw,"
				 "nosuid,nodev,noexec,default_permissions,noatime,relatime,comment="
				 "a b,user=alice,,",
				 &err),
		0);
	assert_string_equal(buf_str(&m.extra), "nosuid,nodev,noexec,noatime");
	assert_true(m.noatime);
	assert_false(m.nodiratime || m.sync || m.dirsync);
	assert_false(m.read_only);
	assert_int_equal(m.overrides, 0);
	assert_int_equal(mount_options_parse(
				 &m, "ro,allow_other,poll_interval=2s,state_dir=/a\\,b\\\\c", &err),
		0);
	assert_true(m.read_only);
	assert_string_equal(override(&m, "allow_other"), "yes");
	assert_string_equal(override(&m, "poll_interval"), "2s");
	assert_string_equal(override(&m, "state_dir"), "/a,b\\c");
	assert_int_equal(mount_options_parse(&m, "rw", &err), 0);
	assert_false(m.read_only);
	assert_int_equal(mount_options_parse(&m, "sync,dirsync,nodiratime", &err), 0);
	assert_true(m.nodiratime && m.sync && m.dirsync);
	assert_string_equal(buf_str(&m.extra), "nosuid,nodev,noexec,noatime,sync,dirsync");
	assert_int_equal(mount_options_parse(&m, "async", &err), 0);
	assert_false(m.sync);
}

static void test_mount_list_errors(void **state)
{
	struct mount_options m CLEANUP(mount_options_done) = {0};
	struct buf list CLEANUP(buf_done) = {0};
	struct err err = {0};

	assert_int_equal(mount_options_parse(&m, "allow_othr", &err), -22);
	assert_non_null(strstr(err.text, "allow_othr"));
	assert_non_null(strstr(err.text, "hint: the nearest known one is allow_other"));
	assert_int_equal(mount_options_parse(&m, "nodev=1", &err), -22);
	assert_int_equal(mount_options_parse(&m, "poll_interval", &err), -22);
	assert_non_null(strstr(err.text, "needs a value"));
	m.sloppy = true;
	assert_int_equal(mount_options_parse(&m, "allow_othr,home=x", &err), 0);
	assert_string_equal(override(&m, "home"), "x");
	for (int i = 0; i < 100; i++)
		buf_put_str(&list, "home=x,");
	assert_int_equal(mount_options_parse(&m, buf_str(&list), &err), -7);
}

static void test_figures_and_escapes(void **state)
{
	struct buf out CLEANUP(buf_done) = {0}, back CLEANUP(buf_done) = {0};
	const char text[] = "a b%c\n\xff/x";
	char figure[TEXT_FIGURE_SIZE];

	assert_string_equal(text_bytes(1023, figure), "1023 B");
	assert_string_equal(text_bytes(1536, figure), "1.5 KiB");
	assert_string_equal(text_bytes(UINT64_MAX, figure), "16.0 EiB");
	assert_string_equal(text_age(-5, figure), "0.0 s");
	assert_string_equal(text_age(90000, figure), "90 s");
	assert_string_equal(text_age(86400000 * 3ll, figure), "3.0 d");
	text_escape(&out, text, sizeof(text) - 1);
	assert_string_equal(buf_str(&out), "a%20b%25c%0A%FF/x");
	assert_true(text_unescape(&back, (char *)out.data, out.len));
	assert_int_equal(back.len, sizeof(text) - 1);
	assert_memory_equal(back.data, text, back.len);
	assert_false(text_unescape(&back, "%", 1));
	assert_false(text_unescape(&back, "%4", 2));
	assert_false(text_unescape(&back, "%zz", 3));
	assert_false(text_unescape(&back, "%00", 3));
	assert_true(text_is_name("a"));
	assert_false(text_is_name(".a"));
	assert_false(
		text_is_name("0123456789012345678901234567890123456789012345678901234567890123"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes_and_times),
		cmocka_unit_test(test_set_and_print_are_inverse),
		cmocka_unit_test(test_wrong_values_leave_the_field),
		cmocka_unit_test(test_schedules),
		cmocka_unit_test(test_long_strings),
		cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_real_tables),
		cmocka_unit_test(test_mount_list),
		cmocka_unit_test(test_mount_list_errors),
		cmocka_unit_test(test_figures_and_escapes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
