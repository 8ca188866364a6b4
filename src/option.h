/*
 * Options: what a section of the configuration may hold, each declared once in a table (config.c)
 * from which the parser, `meridian config show`, the mount's -o list and a test of the manual work.
 */
#ifndef SRC_OPTION_H
#define SRC_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/attribute.h"
#include "src/base/buf.h"
#include "src/base/err.h"
#include "src/base/schedule.h"

enum option_type {
	OPTION_STRING, /* char *: printable text */
	OPTION_NAME,   /* char *: text_is_name */
	OPTION_PATH,   /* char *: absolute path without ".." */
	OPTION_URL,    /* char *: scheme://…, no user:password in it */
	OPTION_SIZE,   /* uint64_t bytes: 4096, 64K, 20G, 1T (powers of 1,024) */
	OPTION_SHARE,  /* struct option_share: as a size, or 10% */
	OPTION_TIME,   /* int64_t ms: 250ms, 5s, 5m, 12h, 30d */
	OPTION_COUNT,  /* uint64_t */
	OPTION_SIZES,  /* struct schedule of sizes: 50M, 22:00-06:00 200M, Sat-Sun 0 */
	OPTION_COUNTS, /* struct schedule of counts */
	OPTION_BOOL,   /* bool: yes no true false on off 1 0 */
	OPTION_CHOICE, /* unsigned: index into choices */
};

#define OPTION_TEXT_MAX 4096

/* One of the two, or none. */
struct option_share {
	uint64_t bytes;
	unsigned percent;
};

struct option_spec {
	const char *name;
	enum option_type type;
	size_t offset;	    /* of the field in its struct */
	const char *preset; /* default as it would be written; NULL: none (help tells) */
	bool required;
	/* SIZE, TIME and COUNT, and each of SIZES and COUNTS; SHARE: of the percentage */
	uint64_t min, max;
	const char *const *choices; /* CHOICE: NULL-terminated */
	const char *const *later;   /* CHOICE: known words that this version refuses; may be NULL */
	const char *help;
};

const struct option_spec *option_find(const struct option_spec *table, size_t n, const char *name);
/* The table's name that is nearest to name. */
const char *option_nearest(const struct option_spec *table, size_t n, const char *name);

/* Parses value into base + offset (strings are copied, an earlier one freed). -EINVAL with a text
 * that says what is expected; never repeats value itself, which may come from the environment. */
int option_set(
	const struct option_spec *o, void *base, const char *value, struct err *err) MUST_CHECK;
/* option_set of every preset in the table. */
int option_set_presets(
	const struct option_spec *table, size_t n, void *base, struct err *err) MUST_CHECK;
/* Appends the field as it would be written; "" for a string that is not set. */
void option_print(const struct option_spec *o, const void *base, struct buf *out);
/* Frees the strings. */
void option_done(const struct option_spec *table, size_t n, void *base);

/* "20G" and the like. False for anything else or what does not fit. */
bool option_parse_size(const char *s, uint64_t *ret) MUST_CHECK;
/* "250ms", "5s", "5m", "12h", "30d" into milliseconds. */
bool option_parse_time(const char *s, int64_t *ret) MUST_CHECK;

/* For option.c; option_schedule.c. As option_set and option_print, for SIZES and COUNTS. */
int option_set_schedule(const struct option_spec *o, struct schedule *field, const char *value,
	struct err *err) MUST_CHECK;
void option_print_schedule(
	const struct option_spec *o, const struct schedule *field, struct buf *out);

#endif
