/*
 * A limit that depends on the local time: one for always, and rules for hours of the day and days of
 * the week that replace it. Local is what TZ says, else /etc/localtime, as localtime_r(3) has it.
 * Nothing here reads a clock: the same time gives the same answer, whatever the clock did before.
 * Thread-safe.
 */
#ifndef BASE_SCHEDULE_H
#define BASE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#define SCHEDULE_RULES_MAX 16
#define SCHEDULE_DAY_MINUTES 1440
#define SCHEDULE_ALL_DAYS 0x7fu

/* A range over midnight (from > to) belongs to the days on which it begins. */
struct schedule_rule {
	uint64_t limit;
	uint16_t from; /* minutes since midnight, 0 to 1439 */
	uint16_t to;   /* not included, 1 to 1440; never the same as from */
	uint8_t days;  /* bit n: day n, 0 is Sunday; not 0 */
};

/* All zero: never a limit. */
struct schedule {
	uint64_t usual; /* where no rule matches; 0: no limit, as in the rules */
	unsigned rules;
	struct schedule_rule
		rule[SCHEDULE_RULES_MAX]; /* of several that match the last one holds */
};

/* The limit at that time, milliseconds since 1970. */
uint64_t schedule_at(const struct schedule *s, int64_t realtime_ms);
/* When it will be another one; 0: never. Exact for zones whose clocks change at whole quarters of an
 * hour, which are all of today. */
int64_t schedule_until(const struct schedule *s, int64_t realtime_ms);
/* The lowest limit that it ever has; 0: none at any time. */
uint64_t schedule_lowest(const struct schedule *s);

#endif
