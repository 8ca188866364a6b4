/* The command line, the status page, and that the manuals know every verb, option, key, field and
 * mount option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "src/base/buf.h"
#include "src/base/json.h"
#include "src/config.h"
#include "src/status.h"
#include "src/verbs.h"

static char *page(const char *name)
{
	struct buf text CLEANUP(buf_done) = {0};
	char path[512];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/docs/%s", MERIDIAN_SOURCE_ROOT, name);
	f = fopen(path, "r");
	if (!f)
		fail_msg("cannot read %s", path);
	do {
		void *room = buf_reserve(&text, 65536);

		n = fread(room, 1, 65536, f);
		text.len += n;
	} while (n > 0);
	fclose(f);
	return strdup(buf_str(&text));
}

/* word stands in text between things that cannot be part of a name. */
static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = text; (p = strstr(p, word)); p++) {
		bool before = p == text ||
			      (!isalnum((unsigned char)p[-1]) && p[-1] != '_' && p[-1] != '-');
		bool after = !isalnum((unsigned char)p[n]) && p[n] != '_' && p[n] != '-';

		if (before && after)
			return true;
	}
	return false;
}

static const struct verb *find(const char *name)
{
	for (size_t i = 0; i < verb_count; i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	fail_msg("no verb %s", name);
	return NULL;
}

/* Every verb is in the synopsis of meridian(1) and has an item with its operands there, and each of its
 * options below it, before the next verb's. */
static void test_manual_has_every_verb(void **state)
{
	char *manual AUTO_FREE = page("meridian.1");

	for (size_t i = 0; i < verb_count; i++) {
		const struct verb *v = &verbs[i];
		char item[128];
		char *from, *to, saved;

		snprintf(item, sizeof(item), "\n.Cm %s\n", v->name);
		from = strstr(manual, item);
		if (!from || from > strstr(manual, "\n.Sh DESCRIPTION"))
			fail_msg("meridian.1 has no synopsis of %s", v->name);
		snprintf(item, sizeof(item), "\n.It Cm %s", v->name);
		from = strstr(manual, item);
		if (!from)
			fail_msg("meridian.1 has no item for %s", v->name);
		to = strstr(from + 1, "\n.It Cm ");
		if (!to)
			to = strstr(from + 1, "\n.Sh");
		saved = *to;
		*to = '\0';
		for (const struct verb_option *o = v->option; o->letter || o->name; o++) {
			char name[64], letter[16];

			snprintf(name, sizeof(name), "Fl -%s", o->name);
			snprintf(letter, sizeof(letter), "Fl %c ", o->letter);
			if (o->name && !has_word(from, name))
				fail_msg("meridian.1, %s: --%s is missing", v->name, o->name);
			if (o->letter && !strstr(from, letter))
				fail_msg("meridian.1, %s: -%c is missing", v->name, o->letter);
			if (o->argument && !strstr(from, o->argument))
				fail_msg("meridian.1, %s: %s is missing", v->name, o->argument);
		}
		for (const char *p = from; (p = strstr(p, ".It Fl ")); p++) {
			char line[128];
			bool known = false;

			snprintf(line, sizeof(line), "%.*s", (int)strcspn(p, "\n"), p);
			for (const struct verb_option *o = v->option; o->letter || o->name; o++)
				known |= o->name && strstr(line, o->name);
			if (!known)
				fail_msg("meridian.1, %s: no such option: %s", v->name, line);
		}
		*to = saved;
	}
}

static void test_manual_has_every_key(void **state)
{
	static const struct {
		const struct option_spec *table;
		const size_t *count;
		const char *section;
	} tables[] = {{config_volume_options, &config_volume_option_count, ".Ss [volume]"},
		{config_region_options, &config_region_option_count, ".Ss [region"},
		{config_policy_options, &config_policy_option_count, ".Ss [policy"}};
	char *manual AUTO_FREE = page("meridian.conf.5");

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		char *from = strstr(manual, tables[t].section), *to, saved;
		size_t items = 0;

		assert_non_null(from);
		to = strstr(from + 1, "\n.S");
		saved = *to;
		*to = '\0';
		for (size_t i = 0; i < *tables[t].count; i++) {
			const struct option_spec *o = &tables[t].table[i];
			char item[64], *text;

			snprintf(item, sizeof(item), "\n.It Ic %s\n", o->name);
			text = strstr(from, item);
			if (!text)
				fail_msg("meridian.conf.5, %s: %s is missing", tables[t].section,
					o->name);
			/* The default is told within the item. */
			if (o->preset && o->type != OPTION_BOOL) {
				char *end = strstr(text + 1, "\n.It"), keep = end ? *end : 0;

				if (end)
					*end = '\0';
				if (!has_word(text, o->preset))
					fail_msg("meridian.conf.5, %s: the default %s is missing",
						o->name, o->preset);
				if (end)
					*end = keep;
			}
		}
		for (const char *p = from; (p = strstr(p, "\n.It Ic ")); p++)
			items++;
		assert_int_equal(items, *tables[t].count);
		*to = saved;
	}
}

static void test_help_has_every_option(void **state)
{
	struct buf all CLEANUP(buf_done) = {0};

	verbs_help(&all);
	for (size_t i = 0; i < verb_count; i++) {
		struct buf one CLEANUP(buf_done) = {0};

		assert_non_null(strstr(buf_str(&all), verbs[i].summary));
		verb_help(&verbs[i], &one);
		assert_non_null(strstr(buf_str(&one), verbs[i].name));
		assert_non_null(strstr(buf_str(&one), verbs[i].operands));
		for (const struct verb_option *o = verbs[i].option; o->letter || o->name; o++) {
			assert_non_null(strstr(buf_str(&one), o->name));
			assert_non_null(strstr(buf_str(&one), o->help));
		}
		assert_non_null(verbs[i].run);
	}
}

#define PARSE(verb, a, err, ...)                                                                   \
	verb_parse(find(verb), sizeof((char *[]){__VA_ARGS__}) / sizeof(char *),                   \
		(char *[]){__VA_ARGS__}, a, err)

static void test_parse(void **state)
{
	struct verb_arguments a;
	struct err err = {0};

	assert_int_equal(
		PARSE("mount", &a, &err, "-f", "orders", "-o", "ro,x-y", "/srv", "-oa=b"), 0);
	assert_string_equal(a.operand[0], "orders");
	assert_string_equal(a.operand[1], "/srv");
	assert_int_equal(a.givens, 3);
	assert_string_equal(verb_given(&a, "f"), "");
	assert_string_equal(verb_given(&a, "foreground"), "");
	assert_string_equal(a.given[1].value, "ro,x-y");
	assert_string_equal(a.given[2].value, "a=b");
	assert_int_equal(PARSE("mount", &a, &err, "-fo", "ro", "a", "b"), 0);
	assert_string_equal(verb_given(&a, "o"), "ro");
	assert_int_equal(PARSE("umount", &a, &err, "--timeout", "5s", "x", "--force"), 0);
	assert_string_equal(verb_given(&a, "timeout"), "5s");
	assert_int_equal(PARSE("umount", &a, &err, "--timeout=6s", "--", "-x"), 0);
	assert_string_equal(verb_given(&a, "timeout"), "6s");
	assert_string_equal(a.operand[0], "-x");
	assert_null(verb_given(&a, "force"));
}

static void test_parse_errors(void **state)
{
	struct verb_arguments a = {.operands = 77};
	struct err err = {0};

	assert_int_equal(PARSE("umount", &a, &err, "--timeuot", "5s", "x"), -22);
	assert_non_null(strstr(err.text, "--timeout"));
	assert_int_equal(PARSE("umount", &a, &err, "x", "--timeout"), -22);
	assert_non_null(strstr(err.text, "needs a value"));
	assert_int_equal(PARSE("umount", &a, &err, "x", "--force=1"), -22);
	assert_int_equal(PARSE("umount", &a, &err, "x", "y"), -22);
	assert_non_null(strstr(err.text, "\"y\""));
	assert_int_equal(PARSE("umount", &a, &err, "--force"), -22);
	assert_int_equal(PARSE("mount", &a, &err, "x"), -22);
	assert_non_null(strstr(err.text, "MOUNTPOINT is missing"));
	assert_int_equal(PARSE("status", &a, &err, "-z"), -22);
	assert_int_equal(a.operands, 77); /* untouched */
}

static struct config *test_config(void)
{
	static const char text[] = "[volume]\nname = orders\nhome = west\n[region \"east\"]\nurl = "
				   "s3://e\n[region \"west\"]\nurl = file:///w\n";
	struct config *c = NULL;
	struct err err = {0};

	assert_int_equal(
		config_parse(text, strlen(text), "/etc/meridian/orders.conf", NULL, 0, &c, &err),
		0);
	return c;
}

static void fill(struct status *s, const struct config *c)
{
	struct region_status *east = &s->replicator.region[0], *west = &s->replicator.region[1];

	*s = (struct status){.config = c,
		.mountpoint = "/srv/orders",
		.pid = 42,
		.node = 0xabc,
		.now_ms = 10000000,
		.started_ms = 9000000};
	s->replicator.regions = 2;
	s->replicator.journal_rows = 3;
	s->replicator.journal_oldest_ms = 9999500;
	s->replicator.pull_last_ms = 9999000;
	s->replicator.pull_lag_ms = 700;
	s->replicator.conflicts = 5;
	strcpy(s->replicator.pull_region, "west");
	strcpy(east->name, "east");
	strcpy(east->error, "connection refused");
	east->checked = true;
	east->capabilities = STORE_CAP_COPY;
	east->last_ok_ms = 9700000;
	east->retry_at_ms = 10004000;
	east->rate_limit = 50 << 20;
	east->rate_until_ms = (5 * 24 + 22) * 3600000; /* 1970-01-06, a Tuesday */
	east->request_limit = 100;
	west->rate_until_ms = east->rate_until_ms + 60000;
	east->outbox = (struct outbox_stats){
		.rows = 1234, .bytes = 3 << 20, .oldest_ms = 9700000, .parked = 2};
	strcpy(west->name, "west");
	west->home = west->up = west->checked = true;
	west->capabilities = ~0u;
	west->last_ok_ms = 9999999;
}

static void test_status_text(void **state)
{
	static const char *const words[] = {"orders on /srv/orders", "east ", "DOWN for 5 min",
		"1234 (3.0 MiB)", "connection refused", "west *", "up ",
		"no conditional overwrites: verifies by reading back", "2 changes failed for good",
		"next attempt in 4.0 s", "3 changes not sealed, the oldest 0.5 s",
		"1.0 s ago from west, newest change was 0.7 s old", "5 conflicts",
		"durability local", "  east: at most 50.0 MiB a second each way until Tue 22:00\n",
		"  east: at most 100 requests a second\n", "  west: any bandwidth until Tue 22:01\n"};
	struct config *c AUTO_CONFIG = test_config();
	struct status *s AUTO_FREE = malloc(sizeof(*s));
	struct buf out CLEANUP(buf_done) = {0};

	setenv("TZ", "UTC", 1);
	tzset();
	fill(s, c);
	status_text(s, &out);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strstr(buf_str(&out), words[i]))
			fail_msg("\"%s\" is missing:\n%s", words[i], buf_str(&out));
	assert_null(strstr(buf_str(&out), "west: no "));
	assert_null(strstr(buf_str(&out), "west: any number"));
}

/* Every field of the document is in the manual. */
static void test_status_json(void **state)
{
	char *manual AUTO_FREE = page("meridian.1"), *text AUTO_FREE = NULL, *fields, *counters;
	struct config *c AUTO_CONFIG = test_config();
	struct status *s AUTO_FREE = malloc(sizeof(*s));
	struct json_object *o;
	int64_t value = 0;
	unsigned names = 0;

	fill(s, c);
	text = status_json(s);
	assert_non_null(text);
	fields = strstr(manual, ".Sh STATUS FIELDS");
	assert_non_null(fields);
	assert_int_equal(json_parse(text, strlen(text), &o), 0);
	assert_true(json_get_int(o, "journal_rows", &value));
	assert_int_equal(value, 3);
	assert_string_equal(json_get_str(o, "node"), "0000000000000abc");
	json_object_free(o);
	assert_non_null(strstr(text, "\"backlog_rows\": 1234"));
	assert_non_null(strstr(text, "\"backlog_oldest_age_ms\": 300000"));
	counters = strstr(text, "\"counters\"");
	assert_non_null(counters);
	*strchr(counters + 10, '{') = '\0';
	for (char *p = text; (p = strchr(p, '"')); names++) {
		char *end = strchr(p + 1, '"');

		*end = '\0';
		if (end[1] == ':' && !has_word(fields, p + 1))
			fail_msg("meridian.1: the status field %s is missing", p + 1);
		p = end + 1;
	}
	assert_true(names > 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_manual_has_every_verb),
		cmocka_unit_test(test_manual_has_every_key),
		cmocka_unit_test(test_help_has_every_option),
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_parse_errors),
		cmocka_unit_test(test_status_text),
		cmocka_unit_test(test_status_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
