/* Limits by the time of day: tables of times in a zone that has summer time, and the search for the
 * next change against one that tries every minute. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/base/attribute.h"
#include "src/base/random.h"
#include "src/base/schedule.h"

#define HM(hour, minute) ((hour)*60 + (minute))
enum { SUN = 1, MON = 2, TUE = 4, WED = 8, THU = 16, FRI = 32, SAT = 64, ALL = 127 };

/* Berlin's rules, by themselves and, where the machine has it, by name. */
static const char *const zones[] = {"CET-1CEST,M3.5.0,M10.5.0/3", "Europe/Berlin"};

static void set_zone(const char *zone)
{
	setenv("TZ", zone, 1);
	tzset();
}

static bool has_zone(const char *zone)
{
	char path[256];

	snprintf(path, sizeof(path), "/usr/share/zoneinfo/%s", zone);
	return strchr(zone, ',') || access(path, R_OK) == 0;
}

/* "2026-11-18 20:59:59", UTC. */
static int64_t utc_ms(const char *text)
{
	struct tm t = {0};

	assert_int_equal(sscanf(text, "%d-%d-%d %d:%d:%d", &t.tm_year, &t.tm_mon, &t.tm_mday,
				 &t.tm_hour, &t.tm_min, &t.tm_sec),
		6);
	t.tm_year -= 1900;
	t.tm_mon--;
	return (int64_t)timegm(&t) * 1000;
}

/* 50, faster by night, none at weekends */
static const struct schedule nights = {
	50, 2, {{200, HM(22, 0), HM(6, 0), ALL}, {0, 0, HM(24, 0), SAT | SUN}}};
static const struct schedule friday_night = {1, 1, {{7, HM(22, 0), HM(6, 0), FRI}}};
static const struct schedule sunday_night = {1, 1, {{7, HM(22, 0), HM(6, 0), SUN}}};
/* the later one wins, whichever is longer */
static const struct schedule over = {1, 3,
	{{2, HM(8, 0), HM(18, 0), ALL}, {3, HM(12, 0), HM(13, 0), ALL},
		{4, HM(12, 30), HM(14, 0), WED}}};
static const struct schedule late = {1, 1, {{9, HM(2, 30), HM(4, 0), ALL}}};
static const struct schedule left_out = {1, 1, {{9, HM(2, 15), HM(2, 45), ALL}}};
static const struct schedule twice = {1, 1, {{9, HM(2, 30), HM(3, 0), ALL}}};
static const struct schedule to_midnight = {1, 1, {{9, HM(22, 0), HM(24, 0), ALL}}};
static const struct schedule plain = {5, 0, {{0}}};
static const struct schedule all_the_same = {5, 1, {{5, HM(1, 0), HM(2, 0), ALL}}};
static const struct schedule always = {5, 1, {{6, 0, HM(24, 0), ALL}}};

static const struct {
	const struct schedule *s;
	const char *now;
	uint64_t limit;
	const char *until; /* NULL: never */
} table[] = {
	/* Wednesday, winter: one hour before UTC */
	{&nights, "2026-11-18 20:59:59", 50, "2026-11-18 21:00:00"},
	{&nights, "2026-11-18 21:00:00", 200, "2026-11-19 05:00:00"},
	{&nights, "2026-11-18 23:00:00", 200, "2026-11-19 05:00:00"},
	{&nights, "2026-11-19 04:59:59", 200, "2026-11-19 05:00:00"},
	{&nights, "2026-11-19 05:00:00", 50, "2026-11-19 21:00:00"},
	/* the week end begins and ends at midnight, in the middle of the night's rule */
	{&nights, "2026-11-20 22:59:59", 200, "2026-11-20 23:00:00"},
	{&nights, "2026-11-20 23:00:00", 0, "2026-11-22 23:00:00"},
	{&nights, "2026-11-21 21:30:00", 0, "2026-11-22 23:00:00"},
	{&nights, "2026-11-22 23:00:00", 200, "2026-11-23 05:00:00"},
	/* a night belongs to the day on which it begins */
	{&friday_night, "2026-11-20 04:00:00", 1, "2026-11-20 21:00:00"},
	{&friday_night, "2026-11-20 21:00:00", 7, "2026-11-21 05:00:00"},
	{&friday_night, "2026-11-21 04:59:59", 7, "2026-11-21 05:00:00"},
	{&friday_night, "2026-11-21 05:00:00", 1, "2026-11-27 21:00:00"},
	{&friday_night, "2026-11-21 21:00:00", 1, "2026-11-27 21:00:00"},
	{&sunday_night, "2026-11-22 04:00:00", 1, "2026-11-22 21:00:00"},
	{&sunday_night, "2026-11-23 04:00:00", 7, "2026-11-23 05:00:00"},
	{&over, "2026-11-18 11:00:00", 3, "2026-11-18 11:30:00"},
	{&over, "2026-11-18 11:30:00", 4, "2026-11-18 13:00:00"},
	{&over, "2026-11-18 13:00:00", 2, "2026-11-18 17:00:00"},
	{&over, "2026-11-19 11:30:00", 3, "2026-11-19 12:00:00"},
	{&to_midnight, "2026-11-18 22:59:59", 9, "2026-11-18 23:00:00"},
	{&to_midnight, "2026-11-18 23:00:00", 1, "2026-11-19 21:00:00"},
	/* 2026-03-29: 02:00 is 03:00; summer is two hours before UTC */
	{&late, "2026-03-29 00:59:59", 1, "2026-03-29 01:00:00"},
	{&late, "2026-03-29 01:00:00", 9, "2026-03-29 02:00:00"},
	{&left_out, "2026-03-28 20:00:00", 1, "2026-03-30 00:15:00"},
	{&left_out, "2026-03-29 01:15:00", 1, "2026-03-30 00:15:00"},
	{&nights, "2026-03-25 21:00:00", 200, "2026-03-26 05:00:00"},
	{&nights, "2026-03-30 20:00:00", 200, "2026-03-31 04:00:00"},
	{&sunday_night, "2026-03-29 20:00:00", 7, "2026-03-30 04:00:00"},
	/* 2026-10-25: 03:00 is 02:00 again */
	{&twice, "2026-10-25 00:29:59", 1, "2026-10-25 00:30:00"},
	{&twice, "2026-10-25 00:30:00", 9, "2026-10-25 01:00:00"},
	{&twice, "2026-10-25 01:00:00", 1, "2026-10-25 01:30:00"},
	{&twice, "2026-10-25 01:30:00", 9, "2026-10-25 02:00:00"},
	{&twice, "2026-10-25 02:00:00", 1, "2026-10-26 01:30:00"},
	/* no change is none */
	{&plain, "2026-11-18 12:00:00", 5, NULL},
	{&all_the_same, "2026-11-18 00:30:00", 5, NULL},
	{&always, "2026-11-18 12:00:00", 6, NULL},
};

static void limits_of_the_table(void **state UNUSED)
{
	for (size_t z = 0; z < ARRAY_SIZE(zones); z++) {
		if (!has_zone(zones[z]))
			continue;
		set_zone(zones[z]);
		for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
			int64_t now = utc_ms(table[i].now), got;
			int64_t until = table[i].until ? utc_ms(table[i].until) : 0;

			if (schedule_at(table[i].s, now) != table[i].limit)
				fail_msg("%s, %s: %llu", zones[z], table[i].now,
					(unsigned long long)schedule_at(table[i].s, now));
			/* the milliseconds of a second are as its beginning */
			assert_int_equal(schedule_at(table[i].s, now + 999), table[i].limit);
			got = schedule_until(table[i].s, now + 999);
			if (got != until)
				fail_msg("%s, %s: until %lld, not %lld", zones[z], table[i].now,
					(long long)got, (long long)until);
		}
	}
}

static void absurd_times_have_a_limit(void **state UNUSED)
{
	static const int64_t times[] = {INT64_MIN, -1, 0, INT64_MAX};

	set_zone(zones[0]);
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		uint64_t limit = schedule_at(&nights, times[i]);

		assert_true(limit == 50 || limit == 200 || limit == 0);
		(void)schedule_until(&nights, times[i]);
	}
	/* rounded down: a millisecond before 01:00 in Berlin */
	assert_int_equal(
		schedule_at(&(struct schedule){1, 1, {{9, HM(1, 0), HM(2, 0), ALL}}}, -1), 1);
	assert_int_equal(
		schedule_at(&(struct schedule){1, 1, {{9, HM(1, 0), HM(2, 0), ALL}}}, 0), 9);
}

static void the_lowest_is_found(void **state UNUSED)
{
	static const struct schedule none = {0}, only_at_times = {0, 1, {{30, 0, 1, ALL}}};

	assert_int_equal(schedule_lowest(&none), 0);
	assert_int_equal(schedule_lowest(&plain), 5);
	assert_int_equal(schedule_lowest(&nights), 50);
	assert_int_equal(schedule_lowest(&only_at_times), 30);
	assert_int_equal(schedule_lowest(&always), 5);
}

static struct schedule any_schedule(void)
{
	struct schedule s = {.usual = random_below(3), .rules = 1 + (unsigned)random_below(4)};

	for (unsigned i = 0; i < s.rules; i++) {
		struct schedule_rule *r = &s.rule[i];

		r->limit = random_below(3);
		r->days = (uint8_t)(1 + random_below(ALL));
		r->from = (uint16_t)random_below(1440);
		do
			r->to = (uint16_t)(1 + random_below(1440));
		while (r->to == r->from);
	}
	return s;
}

static void the_next_change_is_the_first_one(void **state UNUSED)
{
	static const char *const around[] = {
		"2026-03-26 12:00:00", "2026-10-21 12:00:00", "2026-06-28 12:00:00"};

	set_zone(zones[0]);
	for (int n = 0; n < 150; n++) {
		int64_t now = utc_ms(around[n % 3]) + (int64_t)random_below(4 * 86400) * 1000;
		struct schedule s = any_schedule();
		uint64_t limit = schedule_at(&s, now);
		int64_t until = schedule_until(&s, now), minute = now - now % 60000 + 60000, last;

		last = minute + 8 * INT64_C(86400000);
		while (minute < last && schedule_at(&s, minute) == limit)
			minute += 60000;
		if (until != (minute < last ? minute : 0))
			fail_msg("at %lld: until %lld, not %lld", (long long)now, (long long)until,
				(long long)minute);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits_of_the_table),
		cmocka_unit_test(absurd_times_have_a_limit),
		cmocka_unit_test(the_lowest_is_found),
		cmocka_unit_test(the_next_change_is_the_first_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
