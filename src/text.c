/* Why this file: what the configuration, the mount options, the control protocol and the status
 * page share about text. */
#include "src/text.h"

#include <stdio.h>
#include <string.h>

#define DISTANCE_MAX 64

unsigned text_distance(const char *a, const char *b)
{
	unsigned row[DISTANCE_MAX + 1];
	size_t n = strnlen(a, DISTANCE_MAX), m = strnlen(b, DISTANCE_MAX);

	for (size_t j = 0; j <= m; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= m; j++) {
			unsigned above = row[j];
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			if (above + 1 < best)
				best = above + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
			diagonal = above;
		}
	}
	return row[m];
}

void text_nearest_offer(struct text_nearest *n, const char *known)
{
	unsigned distance = text_distance(n->name, known);

	if (!n->best || distance < n->distance) {
		n->best = known;
		n->distance = distance;
	}
}

const char *text_bytes(uint64_t bytes, char out[TEXT_FIGURE_SIZE])
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes / 1024;
	size_t unit = 0;

	if (bytes < 1024) {
		snprintf(out, TEXT_FIGURE_SIZE, "%u B", (unsigned)bytes);
		return out;
	}
	while (value >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		unit++;
	}
	snprintf(out, TEXT_FIGURE_SIZE, "%.1f %s", value, units[unit]);
	return out;
}

const char *text_age(int64_t ms, char out[TEXT_FIGURE_SIZE])
{
	if (ms < 0)
		ms = 0;
	if (ms < 10000)
		snprintf(out, TEXT_FIGURE_SIZE, "%.1f s", (double)ms / 1000);
	else if (ms < 120000)
		snprintf(out, TEXT_FIGURE_SIZE, "%lld s", (long long)(ms / 1000));
	else if (ms < 7200000)
		snprintf(out, TEXT_FIGURE_SIZE, "%lld min", (long long)(ms / 60000));
	else if (ms < 172800000)
		snprintf(out, TEXT_FIGURE_SIZE, "%.1f h", (double)ms / 3600000);
	else
		snprintf(out, TEXT_FIGURE_SIZE, "%.1f d", (double)ms / 86400000);
	return out;
}

void text_escape(struct buf *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)s[i];

		if (c <= 0x20 || c > 0x7e || c == '%')
			buf_printf(out, "%%%02X", c);
		else
			buf_put_u8(out, c);
	}
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

bool text_unescape(struct buf *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int high, low;

		if (s[i] != '%') {
			buf_put_u8(out, (uint8_t)s[i]);
			continue;
		}
		if (n - i < 3)
			return false;
		high = hex_value(s[i + 1]);
		low = hex_value(s[i + 2]);
		if (high < 0 || low < 0 || high * 16 + low == 0)
			return false;
		buf_put_u8(out, (uint8_t)(high * 16 + low));
		i += 2;
	}
	return true;
}

bool text_is_name(const char *s)
{
	size_t n = strnlen(s, 64);

	if (n == 0 || n > 63 || s[0] == '.' || s[0] == '-')
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = s[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
			c != '.' && c != '_' && c != '-')
			return false;
	}
	return true;
}

void text_clean(char *s)
{
	for (uint8_t *p = (uint8_t *)s; *p; p++) {
		if ((*p < 0x20 && *p != '\n' && *p != '\t') || *p == 0x7f) {
			*p = '?';
		} else if (*p == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f) {
			/* U+0080 to U+009F steer terminals as well. */
			p[0] = '?';
			p[1] = '?';
		}
	}
}
