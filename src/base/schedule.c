/*
 * Limits by the time of day. What matters is the time that the clock on the wall shows: where an hour
 * is left out in spring, what would begin in it begins after it, and the hour that comes twice in
 * autumn is the same twice. So every question goes through localtime_r, and none through mktime,
 * which has to guess.
 */
#include "src/base/schedule.h"

#include <time.h>

enum { DAY_MINUTES = SCHEDULE_DAY_MINUTES, QUARTER_S = 900, HORIZON_S = 8 * 86400 };

static bool local_time(int64_t seconds, struct tm *ret)
{
	time_t t = (time_t)seconds;

	return localtime_r(&t, ret) != NULL;
}

static int64_t floor_seconds(int64_t ms)
{
	return ms / 1000 - (ms % 1000 < 0);
}

static bool matches(const struct schedule_rule *r, unsigned day, unsigned minute)
{
	bool today = r->days >> day & 1, yesterday = r->days >> (day + 6) % 7 & 1;

	if (r->from < r->to)
		return today && minute >= r->from && minute < r->to;
	return (today && minute >= r->from) || (yesterday && minute < r->to);
}

static uint64_t limit_at(const struct schedule *s, const struct tm *t)
{
	for (unsigned i = s->rules; i > 0; i--)
		if (matches(&s->rule[i - 1], (unsigned)t->tm_wday,
			    (unsigned)(t->tm_hour * 60 + t->tm_min)))
			return s->rule[i - 1].limit;
	return s->usual;
}

uint64_t schedule_at(const struct schedule *s, int64_t realtime_ms)
{
	struct tm t;

	if (!s->rules || !local_time(floor_seconds(realtime_ms), &t))
		return s->usual;
	return limit_at(s, &t);
}

/* Seconds from t until the clock shows that minute of the day, 1 at least. */
static int seconds_to(const struct tm *t, unsigned minute)
{
	int left = ((int)minute - t->tm_hour * 60 - t->tm_min + DAY_MINUTES) % DAY_MINUTES;

	/* A leap second is shown as 60. */
	left = (left ? left : DAY_MINUTES) * 60 - t->tm_sec;
	return left > 1 ? left : 1;
}

int64_t schedule_until(const struct schedule *s, int64_t realtime_ms)
{
	int64_t now = floor_seconds(realtime_ms);
	struct tm t;

	if (!s->rules || !local_time(now, &t))
		return 0;
	uint64_t limit = limit_at(s, &t);
	for (int64_t at = now; at < now + HORIZON_S;) {
		/* Nothing changes between a border of a rule, midnight, or a change of the clocks. */
		int step = QUARTER_S - (int)(at % QUARTER_S), border = seconds_to(&t, 0);

		for (unsigned i = 0; i < s->rules; i++) {
			int from = seconds_to(&t, s->rule[i].from);
			int to = seconds_to(&t, s->rule[i].to % DAY_MINUTES);

			border = from < border ? from : border;
			border = to < border ? to : border;
		}
		at += border < step ? border : step;
		if (!local_time(at, &t))
			return 0;
		if (limit_at(s, &t) != limit)
			return at * 1000;
	}
	return 0;
}

uint64_t schedule_lowest(const struct schedule *s)
{
	uint64_t lowest = s->usual;

	for (unsigned i = 0; i < s->rules; i++)
		if (s->rule[i].limit && (!lowest || s->rule[i].limit < lowest))
			lowest = s->rule[i].limit;
	return lowest;
}
