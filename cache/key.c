/* Paths as keys: syntax only, no state. */
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

/* FNV-1a (Fowler, Noll, Vo), then the finaliser of MurmurHash3, since the last bytes of a name move
 * few bits of the former. Part of the database's format. */
int64_t name_place(struct slice name)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < name.len; i++)
		h = (h ^ (uint8_t)name.p[i]) * UINT64_C(0x100000001b3);
	h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
	h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
	h ^= h >> 33;
	return (int64_t)(h >> 2 | UINT64_C(1) << 62);
}
