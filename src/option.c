/* Why this file: one place that turns an option's text into its value and back, with the message
 * for a wrong one. */
#include "src/option.h"

#include <errno.h>
#include <string.h>

#include "src/text.h"

static const struct {
	const char *name;
	uint64_t factor;
} sizes[] = {{"", 1}, {"K", 1ull << 10}, {"M", 1ull << 20}, {"G", 1ull << 30}, {"T", 1ull << 40}},
  times[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};

const struct option_spec *option_find(const struct option_spec *table, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(table[i].name, name) == 0)
			return &table[i];
	return NULL;
}

const char *option_nearest(const struct option_spec *table, size_t n, const char *name)
{
	struct text_nearest nearest = {.name = name};

	for (size_t i = 0; i < n; i++)
		text_nearest_offer(&nearest, table[i].name);
	return nearest.best;
}

/* Leading decimal digits; *rest is what follows. */
static bool parse_digits(const char *s, uint64_t *ret, const char **rest)
{
	uint64_t value = 0;
	const char *p = s;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
			return false;
	}
	if (p == s)
		return false;
	*ret = value;
	*rest = p;
	return true;
}

bool option_parse_size(const char *s, uint64_t *ret)
{
	const char *unit;
	uint64_t value;

	if (!parse_digits(s, &value, &unit))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		if (strcmp(unit, sizes[i].name) == 0)
			return !__builtin_mul_overflow(value, sizes[i].factor, ret);
	return false;
}

bool option_parse_time(const char *s, int64_t *ret)
{
	const char *unit;
	uint64_t value;
	int64_t ms;

	if (!parse_digits(s, &value, &unit))
		return false;
	if (!value && !*unit) { /* nothing is nothing in any unit */
		*ret = 0;
		return true;
	}
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		if (strcmp(unit, times[i].name) != 0)
			continue;
		if (__builtin_mul_overflow(value, times[i].factor, &ms))
			return false;
		*ret = ms;
		return true;
	}
	return false;
}

static void print_size(uint64_t value, struct buf *out)
{
	size_t i = ARRAY_SIZE(sizes) - 1;

	while (i > 0 && (value == 0 || value % sizes[i].factor != 0))
		i--;
	buf_printf(out, "%llu%s", (unsigned long long)(value / sizes[i].factor), sizes[i].name);
}

static void print_time(int64_t value, struct buf *out)
{
	size_t i = ARRAY_SIZE(times) - 1;

	while (i > 0 && (value == 0 || (uint64_t)value % times[i].factor != 0))
		i--;
	buf_printf(out, "%llu%s", (unsigned long long)((uint64_t)value / times[i].factor),
		times[i].name);
}

static int range_error(const struct option_spec *o, struct err *err)
{
	struct buf min CLEANUP(buf_done) = {0}, max CLEANUP(buf_done) = {0};

	if (o->type == OPTION_TIME) {
		print_time((int64_t)o->min, &min);
		print_time((int64_t)o->max, &max);
	} else if (o->type == OPTION_SIZE) {
		print_size(o->min, &min);
		print_size(o->max, &max);
	} else {
		buf_printf(&min, "%llu", (unsigned long long)o->min);
		buf_printf(&max, "%llu", (unsigned long long)o->max);
	}
	return err_set(err, -EINVAL, "%s: out of range\nhint: from %s to %s", o->name,
		buf_str(&min), buf_str(&max));
}

static int set_number(const struct option_spec *o, void *field, const char *value, struct err *err)
{
	uint64_t number = 0;
	int64_t ms = 0;
	const char *rest;

	switch (o->type) {
	case OPTION_SIZE:
		if (!option_parse_size(value, &number))
			return err_set(err, -EINVAL,
				"%s: not a size\nhint: write for example 64K, 512M or 20G",
				o->name);
		break;
	case OPTION_TIME:
		if (!option_parse_time(value, &ms))
			return err_set(err, -EINVAL,
				"%s: not a time\nhint: write for example 250ms, 5s, 5m, 12h or 30d",
				o->name);
		number = (uint64_t)ms;
		break;
	default:
		if (!parse_digits(value, &number, &rest) || *rest)
			return err_set(err, -EINVAL, "%s: not a whole number", o->name);
		break;
	}
	if (number < o->min || number > o->max)
		return range_error(o, err);
	if (o->type == OPTION_TIME)
		*(int64_t *)field = ms;
	else
		*(uint64_t *)field = number;
	return 0;
}

static int set_share(
	const struct option_spec *o, struct option_share *field, const char *value, struct err *err)
{
	struct option_share share = {0};
	uint64_t percent;
	const char *rest;

	if (option_parse_size(value, &share.bytes)) {
		*field = share;
		return 0;
	}
	if (!parse_digits(value, &percent, &rest) || strcmp(rest, "%") != 0)
		return err_set(err, -EINVAL,
			"%s: neither a size nor a percentage\nhint: write for example 10G or 10%%",
			o->name);
	if (percent < o->min || percent > o->max)
		return err_set(err, -EINVAL, "%s: out of range\nhint: from %llu%% to %llu%%",
			o->name, (unsigned long long)o->min, (unsigned long long)o->max);
	share.percent = (unsigned)percent;
	*field = share;
	return 0;
}

static int set_bool(const struct option_spec *o, bool *field, const char *value, struct err *err)
{
	static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false",
									     "off", "0"};

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (strcmp(value, yes[i]) == 0 || strcmp(value, no[i]) == 0) {
			*field = value == yes[i] || strcmp(value, yes[i]) == 0;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "%s: not yes or no", o->name);
}

static int set_choice(
	const struct option_spec *o, unsigned *field, const char *value, struct err *err)
{
	struct buf list CLEANUP(buf_done) = {0};

	for (unsigned i = 0; o->choices[i]; i++) {
		if (strcmp(value, o->choices[i]) == 0) {
			*field = i;
			return 0;
		}
		buf_printf(&list, "%s%s", i ? ", " : "", o->choices[i]);
	}
	for (unsigned i = 0; o->later && o->later[i]; i++)
		if (strcmp(value, o->later[i]) == 0)
			return err_set(err, -EINVAL,
				"%s: \"%s\" is planned, but this version (%s) does not have it "
				"yet\nhint: it has: %s",
				o->name, o->later[i], MERIDIAN_VERSION, buf_str(&list));
	return err_set(
		err, -EINVAL, "%s: unknown value\nhint: one of: %s", o->name, buf_str(&list));
}

static bool path_ok(const char *s)
{
	if (s[0] != '/')
		return false;
	for (const char *p = s; (p = strstr(p, "/..")); p += 3)
		if (p[3] == '/' || p[3] == '\0')
			return false;
	return true;
}

static int check_url(const struct option_spec *o, const char *s, struct err *err)
{
	const char *rest = strstr(s, "://"), *slash;

	if (!rest || rest == s || !rest[3])
		return err_set(err, -EINVAL, "%s: not a URL\nhint: write scheme://…", o->name);
	rest += 3;
	slash = strchrnul(rest, '/');
	if (memchr(rest, '@', (size_t)(slash - rest)))
		return err_set(err, -EINVAL,
			"%s: credentials do not belong in a URL\nhint: use profile = … or the "
			"environment",
			o->name);
	return 0;
}

static int check_string(const struct option_spec *o, const char *value, struct err *err)
{
	size_t n = strlen(value);

	if (n == 0)
		return err_set(err, -EINVAL, "%s: empty", o->name);
	if (n >= OPTION_TEXT_MAX)
		return err_set(
			err, -EINVAL, "%s: longer than %d bytes", o->name, OPTION_TEXT_MAX - 1);
	for (const uint8_t *p = (const uint8_t *)value; *p; p++)
		if (*p < 0x20 || *p == 0x7f)
			return err_set(err, -EINVAL, "%s: has a control character", o->name);
	if (o->type == OPTION_NAME && !text_is_name(value))
		return err_set(err, -EINVAL,
			"%s: not a name\nhint: 1 to 63 of A-Z a-z 0-9 . _ -, the first a letter, "
			"digit or _",
			o->name);
	if (o->type == OPTION_PATH && !path_ok(value))
		return err_set(err, -EINVAL, "%s: not an absolute path without \"..\"", o->name);
	return o->type == OPTION_URL ? check_url(o, value, err) : 0;
}

int option_set(const struct option_spec *o, void *base, const char *value, struct err *err)
{
	void *field = (char *)base + o->offset;
	char **string = field, *copy;
	int r;

	switch (o->type) {
	case OPTION_SIZE:
	case OPTION_TIME:
	case OPTION_COUNT:
		return set_number(o, field, value, err);
	case OPTION_SIZES:
	case OPTION_COUNTS:
		return option_set_schedule(o, field, value, err);
	case OPTION_SHARE:
		return set_share(o, field, value, err);
	case OPTION_BOOL:
		return set_bool(o, field, value, err);
	case OPTION_CHOICE:
		return set_choice(o, field, value, err);
	default:
		break;
	}
	r = check_string(o, value, err);
	if (r < 0)
		return r;
	copy = strdup(value);
	if (!copy)
		return err_errno(err, -ENOMEM, "%s", o->name);
	free(*string);
	*string = copy;
	return 0;
}

int option_set_presets(const struct option_spec *table, size_t n, void *base, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		int r = table[i].preset ? option_set(&table[i], base, table[i].preset, err) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

static void print_share(const struct option_share *share, struct buf *out)
{
	if (share->percent)
		buf_printf(out, "%u%%", share->percent);
	else
		print_size(share->bytes, out);
}

void option_print(const struct option_spec *o, const void *base, struct buf *out)
{
	const void *field = (const char *)base + o->offset;

	switch (o->type) {
	case OPTION_SIZE:
		print_size(*(const uint64_t *)field, out);
		break;
	case OPTION_TIME:
		print_time(*(const int64_t *)field, out);
		break;
	case OPTION_COUNT:
		buf_printf(out, "%llu", (unsigned long long)*(const uint64_t *)field);
		break;
	case OPTION_SIZES:
	case OPTION_COUNTS:
		option_print_schedule(o, field, out);
		break;
	case OPTION_SHARE:
		print_share(field, out);
		break;
	case OPTION_BOOL:
		buf_put_str(out, *(const bool *)field ? "yes" : "no");
		break;
	case OPTION_CHOICE:
		buf_put_str(out, o->choices[*(const unsigned *)field]);
		break;
	default:
		if (*(char *const *)field)
			buf_put_str(out, *(char *const *)field);
		break;
	}
}

void option_done(const struct option_spec *table, size_t n, void *base)
{
	for (size_t i = 0; i < n; i++) {
		char **string = (char **)((char *)base + table[i].offset);

		switch (table[i].type) {
		case OPTION_STRING:
		case OPTION_NAME:
		case OPTION_PATH:
		case OPTION_URL:
			free(*string);
			*string = NULL;
			break;
		default:
			break;
		}
	}
}
