/*
 * Log: one structured line an event, "level message key=value …", to standard error (with the
 * <N> priority prefix when JOURNAL_STREAM is set) or, once in the background, to syslog.
 * Thread-safe. Values must never be secrets. Library code logs at debug only; a failure is logged
 * once, where it is handled.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "src/base/attribute.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level);
/* From now on to syslog(3) as ident (kept by pointer, must stay valid). */
void log_use_syslog(const char *ident);

void log_error(const char *fmt, ...) PRINTF(1, 2);
void log_warn(const char *fmt, ...) PRINTF(1, 2);
void log_info(const char *fmt, ...) PRINTF(1, 2);
void log_debug(const char *fmt, ...) PRINTF(1, 2);

#endif
