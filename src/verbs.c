/* Why this file: the table of verbs and the one parser that they share. */
#include "src/verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/base/buf.h"
#include "src/text.h"

#define TIMEOUT_OPTION(what)                                                                       \
	{                                                                                          \
		.name = "timeout", .argument = "TIME", .help = what                                \
	}

static int run_version(const struct verb_arguments *a);
static int run_help(const struct verb_arguments *a);

const struct verb verbs[] = {
	{.name = "mount",
		.operands = "VOLUME|CONFIG MOUNTPOINT",
		.min = 2,
		.max = 2,
		.summary = "mount a volume",
		.detail = "VOLUME stands for /etc/meridian/VOLUME.conf. Returns when the volume is "
			  "mounted and serves it in\n"
			  "the background. The options of [volume] in meridian.conf(5) may be "
			  "given with -o as well.\n",
		.option = {{.letter = 'o',
				   .name = "options",
				   .argument = "LIST",
				   .help = "mount options, comma-separated"},
			{.letter = 'f',
				.name = "foreground",
				.help = "stay in the foreground, log to standard error"},
			{.name = "drop-regions",
				.help = "forget regions that the configuration no longer names, and "
					"what they still lack"}},
		.run = verb_mount},
	{.name = "umount",
		.operands = "MOUNTPOINT|VOLUME",
		.min = 1,
		.max = 1,
		.summary = "send what is left, then unmount",
		.detail = "When something is left after the timeout it says what, leaves the "
			  "volume mounted and exits with 1.\n",
		.option = {{.name = "timeout",
				   .argument = "TIME",
				   .help = "how long to wait for the regions (60s)"},
			{.name = "force",
				.help = "unmount even when something is left or the mount is in "
					"use; what is left "
					"stays in the journal and is sent after the next mount"}},
		.run = verb_umount},
	{.name = "status",
		.operands = "[VOLUME|CONFIG|MOUNTPOINT]",
		.max = 1,
		.summary = "show regions, backlog, lag and cache of the mounted volumes",
		.detail = "",
		.option = {{.name = "json",
			.help = "as JSON: an object, or an array without an operand"}},
		.run = verb_status},
	{.name = "flush",
		.operands = "[PATH|VOLUME]",
		.max = 1,
		.summary = "replicate now what was written at or below PATH",
		.detail = "Without PATH: everything on the only mounted volume.\n",
		.option = {{.letter = 'w',
				   .name = "wait",
				   .help = "return when every region has it"},
			{.name = "timeout",
				.argument = "TIME",
				.help = "give up waiting after this, exit with 1 (30d)"}},
		.run = verb_flush},
	{.name = "evict",
		.operands = "PATH...",
		.min = 1,
		.max = VERB_OPERANDS_MAX,
		.summary = "give up content at or below PATH here; it is fetched again when it is "
			   "read",
		.detail = "What is in use, changed and not yet in every region stays; says so and "
			  "exits with 1.\n",
		.run = verb_evict},
	{.name = "warmup",
		.operands = "PATH...",
		.min = 1,
		.max = VERB_OPERANDS_MAX,
		.summary = "fetch the content at or below PATH ahead of its use",
		.detail = "",
		.run = verb_warmup},
	{.name = "reconcile",
		.operands = "[PATH|VOLUME]",
		.max = 1,
		.summary = "find what other tools did to the buckets, and replicate it",
		.detail = "Lists every region, at or below PATH, and says what it found.\n",
		.option = {{.letter = 'n', .name = "dry-run", .help = "change nothing, only say it"},
			{.name = "region", .argument = "NAME", .help = "this region only"},
			{.name = "accept-deletes",
				.help = "remove everywhere what is gone, however much it is"},
			{.name = "restore", .help = "put back what is gone"}},
		.run = verb_reconcile},
	{.name = "check",
		.operands = "VOLUME|CONFIG",
		.min = 1,
		.max = 1,
		.summary = "read the whole database of a volume that is not mounted",
		.detail = "For a disk that is not trusted any more; takes minutes with millions of "
			  "files. Mounting never needs it.\n",
		.run = verb_check},
	{.name = "config check",
		.operands = "VOLUME|CONFIG",
		.min = 1,
		.max = 1,
		.summary = "check a configuration and ask each of its regions",
		.detail = "Writes a few small objects below .meridian/probe/ and removes them "
			  "again.\n",
		.option = {{.name = "timeout",
				   .argument = "TIME",
				   .help = "for each region's answer (20s)"},
			{.name = "offline", .help = "check the file only"}},
		.run = verb_config_check},
	{.name = "config show",
		.operands = "VOLUME|CONFIG",
		.min = 1,
		.max = 1,
		.summary = "print the configuration with all defaults",
		.detail = "",
		.run = verb_config_show},
	{.name = "version",
		.operands = "",
		.summary = "print the version",
		.detail = "",
		.run = run_version},
	{.name = "help",
		.operands = "[VERB]",
		.max = 2,
		.summary = "print this, or the help of one verb",
		.detail = "",
		.run = run_help},
};
const size_t verb_count = ARRAY_SIZE(verbs);

static bool option_ends(const struct verb_option *o)
{
	return !o->letter && !o->name;
}

int verb_fail(int code, const struct err *err)
{
	char text[ERR_TEXT_MAX];

	snprintf(text, sizeof(text), "%s", err->text);
	text_clean(text);
	fprintf(stderr, "meridian: %s\n", text);
	return code;
}

int verb_exit_code(int r)
{
	switch (-r) {
	case 0:
		return EXIT_OK;
	case EINVAL:
	case EACCES:
	case EPERM:
	case EMEDIUMTYPE:
	case EPROTONOSUPPORT:
	case EUCLEAN:
	case EBADMSG:
	case ENOENT:
	case ENOTDIR:
	case EBUSY:
	case EEXIST:
	case ENODEV:
	case EFBIG:
	case EROFS:
		return EXIT_OPERATOR;
	default:
		return EXIT_RETRY;
	}
}

static int given_add(struct verb_arguments *a, const struct verb_option *option, const char *value,
	struct err *err)
{
	if (a->givens == VERB_GIVEN_MAX)
		return err_set(err, -EINVAL, "more than %d options", VERB_GIVEN_MAX);
	a->given[a->givens].option = option;
	a->given[a->givens++].value = value;
	return 0;
}

static int missing_value(const struct verb *v, const char *option, struct err *err)
{
	return err_set(err, -EINVAL, "%s %s: needs a value\nhint: meridian %s --help", v->name,
		option, v->name);
}

/* --name, --name=value or --name value; *at is moved over a value of its own. */
static int parse_long(const struct verb *v, int argc, char *const *argv, int *at,
	struct verb_arguments *a, struct err *err)
{
	const char *name = argv[*at] + 2, *equals = strchrnul(name, '=');
	struct text_nearest nearest = {0};
	char typed[64];

	snprintf(typed, sizeof(typed), "%.*s", (int)(equals - name), name);
	nearest.name = typed;
	text_nearest_offer(&nearest, "help");
	for (const struct verb_option *o = v->option; !option_ends(o); o++) {
		if (!o->name)
			continue;
		text_nearest_offer(&nearest, o->name);
		if (strcmp(o->name, typed) != 0)
			continue;
		if (!o->argument && *equals)
			return err_set(err, -EINVAL, "%s --%s: takes no value", v->name, typed);
		if (!o->argument)
			return given_add(a, o, NULL, err);
		if (*equals)
			return given_add(a, o, equals + 1, err);
		if (*at + 1 >= argc)
			return missing_value(v, argv[*at], err);
		return given_add(a, o, argv[++*at], err);
	}
	return err_set(err, -EINVAL, "%s --%s: unknown option\nhint: the nearest known one is --%s",
		v->name, typed, nearest.best);
}

/* -f, -fo value, -ovalue */
static int parse_letters(const struct verb *v, int argc, char *const *argv, int *at,
	struct verb_arguments *a, struct err *err)
{
	for (const char *p = argv[*at] + 1; *p; p++) {
		const struct verb_option *o = v->option;
		int r;

		while (!option_ends(o) && o->letter != *p)
			o++;
		if (option_ends(o))
			return err_set(err, -EINVAL,
				"%s -%c: unknown option\nhint: meridian %s --help", v->name, *p,
				v->name);
		if (!o->argument) {
			r = given_add(a, o, NULL, err);
			if (r < 0)
				return r;
			continue;
		}
		if (p[1])
			return given_add(a, o, p + 1, err);
		if (*at + 1 >= argc)
			return missing_value(v, argv[*at], err);
		return given_add(a, o, argv[++*at], err);
	}
	return 0;
}

int verb_parse(const struct verb *v, int argc, char *const *argv, struct verb_arguments *ret,
	struct err *err)
{
	struct verb_arguments a = {0};
	bool literal = false;

	for (int i = 0; i < argc; i++) {
		int r = 0;

		if (literal || argv[i][0] != '-' || argv[i][1] == '\0') {
			if (a.operands == v->max)
				return err_set(err, -EINVAL,
					"%s: \"%s\" is one operand too many\nhint: meridian %s "
					"--help",
					v->name, argv[i], v->name);
			a.operand[a.operands++] = argv[i];
		} else if (strcmp(argv[i], "--") == 0) {
			literal = true;
		} else if (argv[i][1] == '-') {
			r = parse_long(v, argc, argv, &i, &a, err);
		} else {
			r = parse_letters(v, argc, argv, &i, &a, err);
		}
		if (r < 0)
			return r;
	}
	if (a.operands < v->min)
		return err_set(err, -EINVAL, "%s: %s is missing\nhint: meridian %s %s", v->name,
			v->min == 2 && a.operands == 1 ? "MOUNTPOINT" : v->operands, v->name,
			v->operands);
	*ret = a;
	return 0;
}

const char *verb_given(const struct verb_arguments *a, const char *letter_or_name)
{
	for (unsigned i = a->givens; i-- > 0;) {
		const struct verb_option *o = a->given[i].option;

		if ((o->name && strcmp(o->name, letter_or_name) == 0) ||
			(o->letter && letter_or_name[0] == o->letter && letter_or_name[1] == '\0'))
			return a->given[i].value ? a->given[i].value : "";
	}
	return NULL;
}

void verb_help(const struct verb *v, struct buf *out)
{
	char left[64];

	buf_printf(out, "usage: meridian %s%s%s%s\n\n%s\n%s", v->name,
		option_ends(v->option) ? "" : " [OPTION…]", v->operands[0] ? " " : "", v->operands,
		v->summary, v->detail);
	if (!option_ends(v->option))
		buf_put_u8(out, '\n');
	for (const struct verb_option *o = v->option; !option_ends(o); o++) {
		char letter[8] = "";

		if (o->letter)
			snprintf(letter, sizeof(letter), "-%c%s", o->letter, o->name ? ", " : "");
		snprintf(left, sizeof(left), "%s%s%s%s%s", letter, o->name ? "--" : "",
			o->name ? o->name : "", o->argument ? " " : "",
			o->argument ? o->argument : "");
		buf_printf(out, "  %-20s  %s\n", left, o->help);
	}
}

void verbs_help(struct buf *out)
{
	buf_put_str(out, "usage: meridian VERB …\n\n");
	for (size_t i = 0; i < verb_count; i++)
		buf_printf(out, "  %-13s %-27s %s\n", verbs[i].name, verbs[i].operands,
			verbs[i].summary);
	buf_put_str(out, "\nmeridian VERB --help explains one; see also meridian(1), "
			 "meridian-mount(8) and meridian.conf(5).\n");
}

/* The verb that argv starts with; *used: how many words name it. */
static const struct verb *find_verb(int argc, char *const *argv, int *used)
{
	char two[64] = "";

	if (argc > 1)
		snprintf(two, sizeof(two), "%s %s", argv[0], argv[1]);
	for (size_t i = 0; i < verb_count; i++) {
		bool pair = strcmp(verbs[i].name, two) == 0;

		if (pair || strcmp(verbs[i].name, argv[0]) == 0) {
			*used = pair ? 2 : 1;
			return &verbs[i];
		}
	}
	return NULL;
}

static int print(const struct buf *out)
{
	if (out->failed || fwrite(out->data, 1, out->len, stdout) != out->len ||
		fflush(stdout) != 0)
		return EXIT_RETRY;
	return EXIT_OK;
}

static int run_version(const struct verb_arguments *a)
{
	return printf("meridian %s\n", MERIDIAN_VERSION) < 0 ? EXIT_RETRY : EXIT_OK;
}

static bool is_of(const struct verb *v, const char *name)
{
	size_t n = strlen(name);

	return strncmp(v->name, name, n) == 0 && v->name[n] == ' ';
}

/* The verbs whose first word is name. False: there are none. */
static bool group_help(const char *name, struct buf *out)
{
	for (size_t i = 0; i < verb_count; i++) {
		if (is_of(&verbs[i], name))
			buf_printf(out, "usage: meridian %s %s\n  %s\n", verbs[i].name,
				verbs[i].operands, verbs[i].summary);
	}
	return out->len > 0;
}

static int unknown_verb(const char *name)
{
	struct text_nearest nearest = {.name = name};
	struct err err = {0};

	for (size_t i = 0; i < verb_count; i++) {
		if (!is_of(&verbs[i], name))
			continue;
		(void)err_set(&err, -EINVAL,
			"%s: needs a second word\nhint: for example meridian %s", name,
			verbs[i].name);
		return verb_fail(EXIT_USAGE, &err);
	}
	for (size_t i = 0; i < verb_count; i++)
		text_nearest_offer(&nearest, verbs[i].name);
	(void)err_set(&err, -EINVAL, "%s: unknown verb\nhint: the nearest known one is %s", name,
		nearest.best);
	return verb_fail(EXIT_USAGE, &err);
}

static int run_help(const struct verb_arguments *a)
{
	struct buf out CLEANUP(buf_done) = {0};
	char *words[2];
	const struct verb *v;
	int used;

	for (unsigned i = 0; i < a->operands; i++)
		words[i] = (char *)a->operand[i];
	if (a->operands == 0) {
		verbs_help(&out);
		return print(&out);
	}
	if (a->operands == 1 && group_help(words[0], &out))
		return print(&out);
	v = find_verb((int)a->operands, words, &used);
	if (!v || used != (int)a->operands)
		return unknown_verb(a->operand[0]);
	verb_help(v, &out);
	return print(&out);
}

static bool wants_help(int argc, char *const *argv)
{
	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

static int run_verb(const struct verb *v, int argc, char *const *argv)
{
	struct verb_arguments a;
	struct buf out CLEANUP(buf_done) = {0};
	struct err err = {0};

	if (wants_help(argc, argv)) {
		verb_help(v, &out);
		return print(&out);
	}
	if (verb_parse(v, argc, argv, &a, &err) < 0)
		return verb_fail(EXIT_USAGE, &err);
	return v->run(&a);
}

/* `meridian SOURCE MOUNTPOINT -o …`: an operand that is no verb, followed by a path. */
static bool looks_like_mount(int argc, char *const *argv)
{
	int operands = 0;

	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "-t") == 0)
			i++;
		else if (argv[i][0] != '-' && ++operands == 2)
			return strchr(argv[i], '/') != NULL;
	}
	return false;
}

int verbs_main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0] ? argv[0] : "meridian", '/');
	const char *program = slash ? slash + 1 : argv[0] ? argv[0] : "meridian";
	struct buf out CLEANUP(buf_done) = {0};
	const struct verb *v;
	int used = 0;

	if (strncmp(program, "mount.", 6) == 0)
		return verb_mount_helper(argc - 1, argv + 1);
	if (argc < 2) {
		verbs_help(&out);
		fwrite(out.data, 1, out.len, stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
		return run_version(NULL);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		verbs_help(&out);
		return print(&out);
	}
	v = find_verb(argc - 1, argv + 1, &used);
	if (v)
		return run_verb(v, argc - 1 - used, argv + 1 + used);
	if (looks_like_mount(argc - 1, argv + 1))
		return run_verb(&verbs[0], argc - 1, argv + 1);
	if (wants_help(argc - 2, argv + 2) && group_help(argv[1], &out))
		return print(&out);
	return unknown_verb(argv[1]);
}
