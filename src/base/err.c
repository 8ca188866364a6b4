/* Error texts. Every text is formatted beside the struct first, because callers pass parts of the
 * old text as arguments of the new one. */
#include "src/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, int code, const char *fmt, ...)
{
	char text[ERR_TEXT_MAX];
	va_list args;

	if (!err)
		return code;
	va_start(args, fmt);
	if (vsnprintf(text, sizeof(text), fmt, args) < 0)
		text[0] = '\0';
	va_end(args);
	memcpy(err->text, text, sizeof(text));
	return code;
}

/* Writes "context: tail"; tail may lie in err. */
static void join(struct err *err, const char *context, const char *tail)
{
	char text[ERR_TEXT_MAX];
	size_t n = strnlen(context, sizeof(text) - 1);

	memcpy(text, context, n);
	snprintf(text + n, sizeof(text) - n, *tail ? ": %s" : "%s", tail);
	memcpy(err->text, text, sizeof(text));
}

int err_prefix(struct err *err, int code, const char *fmt, ...)
{
	char context[ERR_TEXT_MAX];
	va_list args;

	if (!err)
		return code;
	va_start(args, fmt);
	if (vsnprintf(context, sizeof(context), fmt, args) < 0)
		context[0] = '\0';
	va_end(args);
	join(err, context, err->text);
	return code;
}

int err_errno(struct err *err, int code, const char *fmt, ...)
{
	char context[ERR_TEXT_MAX], cause[128];
	va_list args;

	if (!err)
		return code;
	va_start(args, fmt);
	if (vsnprintf(context, sizeof(context), fmt, args) < 0)
		context[0] = '\0';
	va_end(args);
	join(err, context, strerror_r(code < 0 ? -code : code, cause, sizeof(cause)));
	return code;
}
