/*
 * Errors: functions return 0 or -errno; where a user will read the cause they also fill a
 * trailing struct err with one line of text that names the thing, the cause and the next step.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "src/base/attribute.h"

#define ERR_TEXT_MAX 1024

/* Zero-initialise. text is always NUL-terminated; a longer text is cut. */
struct err {
	char text[ERR_TEXT_MAX];
};

/* Replaces the text and returns code (a negative errno), so that callers can
 * `return err_set(err, -EINVAL, "...")`. err may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) PRINTF(3, 4);

/* Puts "context: " before the text that is there; returns code. */
int err_prefix(struct err *err, int code, const char *fmt, ...) PRINTF(3, 4);

/* Like err_set with ": strerror(-code)" appended. */
int err_errno(struct err *err, int code, const char *fmt, ...) PRINTF(3, 4);

#endif
