/* Small text helpers of the program: nearest names, figures for people, escaping for one line.
 * Thread-safe. */
#ifndef SRC_TEXT_H
#define SRC_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/attribute.h"
#include "src/base/buf.h"

/* Levenshtein distance of the first 64 bytes of each. */
unsigned text_distance(const char *a, const char *b);

/* A search for the known name that is nearest to name: call text_nearest_offer with each. */
struct text_nearest {
	const char *name;
	const char *best; /* borrowed from the offers; NULL: none yet */
	unsigned distance;
};
void text_nearest_offer(struct text_nearest *n, const char *known);

#define TEXT_FIGURE_SIZE 32
/* "17 B", "1.5 KiB", "20.0 GiB" */
const char *text_bytes(uint64_t bytes, char out[TEXT_FIGURE_SIZE]);
/* "0.4 s", "12 s", "5 min", "3.2 h", "2.0 d"; negative counts as 0 */
const char *text_age(int64_t ms, char out[TEXT_FIGURE_SIZE]);

/* Appends s with '%', control characters, spaces and bytes over 0x7e as %XX. */
void text_escape(struct buf *out, const char *s, size_t n);
/* Appends the decoded bytes. False for a malformed escape or an escaped NUL. */
bool text_unescape(struct buf *out, const char *s, size_t n) MUST_CHECK;

/* True for 1 to 63 bytes of A-Z a-z 0-9 . _ - that do not start with '.' or '-'. */
bool text_is_name(const char *s);

/* Makes bytes that steer a terminal harmless ('?'), newline apart. In place. */
void text_clean(char *s);

#endif
