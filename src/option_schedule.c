/*
 * Why this file: limits that depend on the time, as text. A value is the usual limit and, after
 * commas, rules of the form
 *
 *	[DAYS] [HH:MM-HH:MM] LIMIT	DAYS: Sat or Mon-Fri
 *
 * one of the two at least. Each limit is read and printed by option.c as an option of its own.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "src/option.h"

static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
#define DAYS ARRAY_SIZE(days)
#define EXAMPLE "hint: write for example %s"

static const char *example(const struct option_spec *o)
{
	return o->type == OPTION_SIZES ? "50M, 22:00-06:00 200M, Mon-Fri 08:00-18:00 10M, Sat-Sun 0"
				       : "100, 22:00-06:00 400, Mon-Fri 08:00-18:00 50, Sat-Sun 0";
}

/* part: as the reader counts, from 1. */
static int bad_part(const struct option_spec *o, unsigned part, const char *cause, struct err *err)
{
	return err_set(err, -EINVAL, "%s: part %u: %s\n" EXAMPLE, o->name, part, cause, example(o));
}

static bool parse_day(const char *s, unsigned *ret)
{
	for (unsigned i = 0; i < DAYS; i++) {
		if (strncasecmp(s, days[i], 3) == 0) {
			*ret = i;
			return true;
		}
	}
	return false;
}

/* "Sat" or "Fri-Mon", which is four days. */
static bool parse_days(const char *s, uint8_t *ret)
{
	size_t n = strlen(s);
	unsigned first, last;
	uint8_t mask = 0;

	if ((n != 3 && n != 7) || !parse_day(s, &first))
		return false;
	last = first;
	if (n == 7 && (s[3] != '-' || !parse_day(s + 4, &last)))
		return false;
	for (unsigned day = first;; day = (day + 1) % DAYS) {
		mask = (uint8_t)(mask | 1u << day);
		if (day == last)
			break;
	}
	*ret = mask;
	return true;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* "7:30" or "07:30", up to "24:00"; *rest is what follows. */
static bool parse_clock(const char *s, uint16_t *ret, const char **rest)
{
	unsigned hour = 0, minute;
	size_t n = 0;

	for (; n < 2 && is_digit(s[n]); n++)
		hour = hour * 10 + (unsigned)(s[n] - '0');
	if (n == 0 || s[n] != ':' || !is_digit(s[n + 1]) || !is_digit(s[n + 2]))
		return false;
	minute = (unsigned)(s[n + 1] - '0') * 10 + (unsigned)(s[n + 2] - '0');
	if (minute > 59 || hour * 60 + minute > SCHEDULE_DAY_MINUTES)
		return false;
	*ret = (uint16_t)(hour * 60 + minute);
	*rest = s + n + 3;
	return true;
}

static bool parse_hours(const char *s, struct schedule_rule *r)
{
	const char *rest;

	return parse_clock(s, &r->from, &rest) && *rest == '-' &&
	       parse_clock(rest + 1, &r->to, &rest) && !*rest && r->from < SCHEDULE_DAY_MINUTES;
}

static int parse_limit(
	const struct option_spec *o, unsigned part, const char *s, uint64_t *ret, struct err *err)
{
	struct option_spec one = *o;
	struct err cause = {0};

	one.type = o->type == OPTION_SIZES ? OPTION_SIZE : OPTION_COUNT;
	one.offset = 0;
	if (option_set(&one, ret, s, &cause) == 0)
		return 0;
	if (part == 1)
		return err_set(err, -EINVAL, "%s", cause.text);
	return err_set(err, -EINVAL, "%s: part %u%s", o->name, part, cause.text + strlen(o->name));
}

/* The next word of *s, cut out in place; NULL: no more. */
static char *word(char **s)
{
	char *start = *s + strspn(*s, " \t"), *end = start + strcspn(start, " \t");

	*s = *end ? end + 1 : end;
	*end = '\0';
	return *start ? start : NULL;
}

/* The hours, where the word has the look of them. */
static int read_hours(const struct option_spec *o, unsigned part, const char *s,
	struct schedule_rule *r, struct err *err)
{
	if (!parse_hours(s, r))
		return bad_part(o, part, "not hours of the day, such as 08:00-18:30", err);
	if (r->from == r->to)
		return bad_part(
			o, part, "begins when it ends; leave the hours out for a whole day", err);
	if (r->to == 0)
		r->to = SCHEDULE_DAY_MINUTES;
	return 0;
}

static int parse_rule(const struct option_spec *o, unsigned part, char *s,
	struct schedule_rule *ret, struct err *err)
{
	struct schedule_rule r = {.days = SCHEDULE_ALL_DAYS, .to = SCHEDULE_DAY_MINUTES};
	char *next = word(&s);
	bool timed = false;

	if (!next)
		return bad_part(o, part, "is empty", err);
	if (!is_digit(*next)) {
		if (!parse_days(next, &r.days))
			return bad_part(
				o, part, "not days of the week, such as Sat or Mon-Fri", err);
		timed = true;
		next = word(&s);
	}
	if (next && strchr(next, ':')) {
		int code = read_hours(o, part, next, &r, err);
		if (code < 0)
			return code;
		timed = true;
		next = word(&s);
	}
	if (!timed)
		return bad_part(o, part, "says no time, which only the first part may", err);
	if (!next)
		return bad_part(o, part, "has no limit", err);
	if (word(&s))
		return bad_part(o, part, "has more than days, hours and a limit", err);
	int code = parse_limit(o, part, next, &r.limit, err);
	if (code == 0)
		*ret = r;
	return code;
}

/* The first part: the limit where no rule says another one. */
static int parse_usual(const struct option_spec *o, char *s, uint64_t *ret, struct err *err)
{
	size_t n;

	s += strspn(s, " \t");
	for (n = strlen(s); n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t'); n--)
		s[n - 1] = '\0';
	if (strpbrk(s, ":-") || strncasecmp(s, "none", 4) == 0)
		return bad_part(o, 1, "not the limit at all other times (0: none)", err);
	return parse_limit(o, 1, s, ret, err);
}

int option_set_schedule(
	const struct option_spec *o, struct schedule *field, const char *value, struct err *err)
{
	char *copy AUTO_FREE = strdup(value), *rest = copy, *part;
	struct schedule s = {0};

	if (!copy)
		return err_errno(err, -ENOMEM, "%s", o->name);
	part = strsep(&rest, ",");
	int code = parse_usual(o, part, &s.usual, err);
	while (code == 0 && (part = strsep(&rest, ","))) {
		if (s.rules == SCHEDULE_RULES_MAX)
			return err_set(err, -EINVAL, "%s: more than %d rules", o->name,
				SCHEDULE_RULES_MAX);
		code = parse_rule(o, s.rules + 2, part, &s.rule[s.rules], err);
		s.rules++;
	}
	if (code == 0)
		*field = s;
	return code;
}

static void print_limit(const struct option_spec *o, uint64_t limit, struct buf *out)
{
	struct option_spec one = *o;

	one.type = o->type == OPTION_SIZES ? OPTION_SIZE : OPTION_COUNT;
	one.offset = 0;
	option_print(&one, &limit, out);
}

static void print_days(uint8_t mask, struct buf *out)
{
	unsigned first = 1, last;

	/* They are in sequence: begin where the one before is not among them; Monday if all are. */
	while (mask != SCHEDULE_ALL_DAYS &&
		!(mask >> first % DAYS & 1 && !(mask >> (first + 6) % DAYS & 1)))
		first++;
	for (last = first; mask >> (last + 1) % DAYS & 1 && last + 1 < first + DAYS; last++)
		;
	buf_put_str(out, days[first % DAYS]);
	if (last != first)
		buf_printf(out, "-%s", days[last % DAYS]);
	buf_put_u8(out, ' ');
}

void option_print_schedule(
	const struct option_spec *o, const struct schedule *field, struct buf *out)
{
	print_limit(o, field->usual, out);
	for (unsigned i = 0; i < field->rules; i++) {
		const struct schedule_rule *r = &field->rule[i];
		bool all_day = r->from == 0 && r->to == SCHEDULE_DAY_MINUTES;

		buf_put_str(out, ", ");
		if (all_day || r->days != SCHEDULE_ALL_DAYS)
			print_days(r->days, out);
		if (!all_day)
			buf_printf(out, "%02d:%02d-%02d:%02d ", r->from / 60, r->from % 60,
				r->to / 60, r->to % 60);
		print_limit(o, r->limit, out);
	}
}
