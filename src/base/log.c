/*
 * The log. A line is built on the stack and leaves in one write of at most PIPE_BUF bytes, so that
 * lines of several threads do not mix; there is no lock and no allocation, and check_failed may
 * log from anywhere. Control characters become spaces: names come from users and buckets and must
 * not start a new line or steer a terminal.
 */
#include "src/base/log.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#define LINE_BYTES PIPE_BUF
#define CUT_MARK "..."

static const struct {
	const char *name;
	int priority;
} levels[] = {
	[LOG_LEVEL_ERROR] = {"error", LOG_ERR},
	[LOG_LEVEL_WARN] = {"warn", LOG_WARNING},
	[LOG_LEVEL_INFO] = {"info", LOG_INFO},
	[LOG_LEVEL_DEBUG] = {"debug", LOG_DEBUG},
};

static atomic_int max_level = LOG_LEVEL_INFO;
static atomic_bool to_syslog;
static pthread_once_t journal_once = PTHREAD_ONCE_INIT;
static bool journal; /* written once, under journal_once */

static void find_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");

	journal = stream && *stream;
}

void log_set_level(enum log_level level)
{
	atomic_store(&max_level, (int)level);
}

void log_use_syslog(const char *ident)
{
	openlog(ident, LOG_PID, LOG_DAEMON);
	atomic_store(&to_syslog, true);
}

static void clean(char *s)
{
	for (uint8_t *p = (uint8_t *)s; *p; p++) {
		if (*p < 0x20 || *p == 0x7f) {
			*p = ' ';
		} else if (*p == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f) {
			/* U+0080 to U+009F steer terminals as well. */
			p[0] = ' ';
			p[1] = ' ';
		}
	}
}

static void write_line(const char *line, size_t n)
{
	while (n > 0) {
		ssize_t k = write(STDERR_FILENO, line, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return; /* nobody to tell */
		line += k;
		n -= (size_t)k;
	}
}

static PRINTF(2, 0) void emit(enum log_level level, const char *fmt, va_list args)
{
	bool background = atomic_load(&to_syslog);
	int saved = errno, n = 0, k;
	char line[LINE_BYTES];
	size_t room, len;

	CHECK(pthread_once(&journal_once, find_journal) == 0);
	if (journal && !background)
		n = snprintf(line, sizeof(line), "<%d>", levels[level].priority);
	n += snprintf(line + n, sizeof(line) - (size_t)n, "%s ", levels[level].name);
	room = sizeof(line) - (size_t)n - 1; /* one for the newline */
	errno = saved;			     /* for %m */
	k = vsnprintf(line + n, room, fmt, args);
	if (k < 0)
		snprintf(line + n, room, "unprintable message");
	else if ((size_t)k >= room)
		memcpy(line + n + room - sizeof(CUT_MARK), CUT_MARK, sizeof(CUT_MARK));
	clean(line);
	if (background) {
		syslog(levels[level].priority, "%s", line);
	} else {
		len = strlen(line);
		line[len++] = '\n';
		write_line(line, len);
	}
	errno = saved;
}

#define LOG_AT(level)                                                                              \
	do {                                                                                       \
		va_list args;                                                                      \
                                                                                                   \
		if (atomic_load_explicit(&max_level, memory_order_relaxed) < (int)(level))         \
			return;                                                                    \
		va_start(args, fmt);                                                               \
		emit(level, fmt, args);                                                            \
		va_end(args);                                                                      \
	} while (0)

void log_error(const char *fmt, ...)
{
	LOG_AT(LOG_LEVEL_ERROR);
}

void log_warn(const char *fmt, ...)
{
	LOG_AT(LOG_LEVEL_WARN);
}

void log_info(const char *fmt, ...)
{
	LOG_AT(LOG_LEVEL_INFO);
}

void log_debug(const char *fmt, ...)
{
	LOG_AT(LOG_LEVEL_DEBUG);
}
