/* Paths as keys: syntax only, no state. Also how long a path gets as the key of an object: a name that
 * would get none is refused when it is made. */
#include "cache/internal.h"

#define RESERVED ".meridian"

bool key_set(struct key *ret, struct slice s)
{
	if (s.len > KEY_MAX)
		return false;
	if (s.len)
		memmove(ret->p, s.p, s.len);
	ret->p[s.len] = '\0';
	ret->len = s.len;
	return true;
}

static bool component_valid(struct slice s)
{
	if (s.len == 0 || s.len > NAME_MAX_BYTES || memchr(s.p, '\0', s.len))
		return false;
	return !slice_equal(s, slice_of(".")) && !slice_equal(s, slice_of(".."));
}

bool key_valid(struct slice s)
{
	const char *p = s.p, *end = s.p + s.len;

	if (s.len == 0)
		return true;
	if (s.len > KEY_MAX)
		return false;
	for (;;) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		struct slice component = {p, (size_t)((slash ? slash : end) - p)};

		if (!component_valid(component))
			return false;
		if (p == s.p && slice_equal(component, slice_of(RESERVED)))
			return false;
		if (!slash)
			return true;
		p = slash + 1;
	}
}

bool key_at_or_below(struct slice key, struct slice dir)
{
	if (dir.len == 0)
		return true;
	return key.len >= dir.len && memcmp(key.p, dir.p, dir.len) == 0 &&
	       (key.len == dir.len || key.p[dir.len] == '/');
}

struct slice key_parent(struct slice s)
{
	const char *slash = s.len ? memrchr(s.p, '/', s.len) : NULL;

	return (struct slice){s.p, slash ? (size_t)(slash - s.p) : 0};
}

struct slice key_name(struct slice s)
{
	const char *slash = s.len ? memrchr(s.p, '/', s.len) : NULL;

	if (!slash)
		return s;
	return (struct slice){slash + 1, s.len - (size_t)(slash + 1 - s.p)};
}

static int hex_value(unsigned char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static bool continuation(unsigned char c)
{
	return (c & 0xc0) == 0x80;
}

/* Length of the well-formed UTF-8 sequence at p (Unicode 15, table 3-7), 0 when there is none. */
static size_t utf8_len(const unsigned char *p, size_t n)
{
	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		return n >= 2 && continuation(p[1]) ? 2 : 0;
	if (p[0] >= 0xe0 && p[0] <= 0xef) {
		if (n < 3 || !continuation(p[1]) || !continuation(p[2]))
			return 0;
		if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f))
			return 0;
		return 3;
	}
	if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		if (n < 4 || !continuation(p[1]) || !continuation(p[2]) || !continuation(p[3]))
			return 0;
		if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
			return 0;
		return 4;
	}
	return 0;
}

size_t key_plain_len(const unsigned char *p, size_t n)
{
	if (p[0] < 0x20 || p[0] == 0x7f)
		return 0;
	if (p[0] == '%' && n >= 3 && hex_value(p[1]) >= 0 && hex_value(p[2]) >= 0)
		return 0;
	return utf8_len(p, n);
}

size_t key_escaped_len(struct slice s)
{
	const unsigned char *p = (const unsigned char *)s.p;
	size_t len = 0;

	for (size_t at = 0; at < s.len;) {
		size_t n = key_plain_len(p + at, s.len - at);

		len += n ? n : 3;
		at += n ? n : 1;
	}
	return len;
}

/* FNV-1a, then the finaliser of MurmurHash3, since the last bytes of a name move
 * few bits of the former. Part of the database's format. */
int64_t name_place(struct slice name)
{
	uint64_t h = slice_hash(name);

	h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
	h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
	h ^= h >> 33;
	return (int64_t)(h >> 2 | UINT64_C(1) << 62);
}
