/*
 * Paths as object keys. Escaping is the least that makes a key acceptable to every store, and has
 * one spelling for each path: a key that escapes differently (lower-case digits, a byte that needs
 * none) is nobody's, since otherwise two objects would claim one path. Reading therefore decodes,
 * checks the path and encodes again. What is escaped says cache/key.c, where the length of a key is judged
 * when a name is made.
 *
 * '%' is escaped only before two hexadecimal digits, as written in the path. That decides the same
 * in the key, because hexadecimal digits are never escaped and an escape starts with '%', which is
 * none.
 */
#include "replicator/object_key.h"

#include <errno.h>

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

int object_key_from_path(struct slice path, bool directory, char key[STORE_KEY_MAX + 1])
{
	static const char digits[] = "0123456789ABCDEF";
	const unsigned char *p = (const unsigned char *)path.p;
	size_t at = 0, out = 0;

	while (at < path.len) {
		size_t n = key_plain_len(p + at, path.len - at);

		if (out + (n ? n : 3) > STORE_KEY_MAX)
			return -ENAMETOOLONG;
		if (n) {
			memcpy(key + out, p + at, n);
			out += n;
			at += n;
			continue;
		}
		key[out++] = '%';
		key[out++] = digits[p[at] >> 4];
		key[out++] = digits[p[at] & 15];
		at++;
	}
	if (directory) {
		if (out + 1 > STORE_KEY_MAX)
			return -ENAMETOOLONG;
		key[out++] = '/';
	}
	key[out] = '\0';
	return 0;
}

static void unescape(const unsigned char *p, size_t n, struct key *ret)
{
	ret->len = 0;
	for (size_t i = 0; i < n; i++) {
		int high = i + 2 < n ? hex_value(p[i + 1]) : -1;
		int low = i + 2 < n ? hex_value(p[i + 2]) : -1;

		if (p[i] == '%' && high >= 0 && low >= 0) {
			ret->p[ret->len++] = (char)(high << 4 | low);
			i += 2;
		} else {
			ret->p[ret->len++] = (char)p[i];
		}
	}
	ret->p[ret->len] = '\0';
}

int object_key_to_path(const char *key, struct key *path, bool *directory)
{
	char again[STORE_KEY_MAX + 1];
	size_t n = strnlen(key, STORE_KEY_MAX + 1);
	bool is_directory;
	struct key decoded;

	_Static_assert(STORE_KEY_MAX <= KEY_MAX, "a path is no longer than its key");
	if (n == 0 || n > STORE_KEY_MAX)
		return -EBADMSG;
	is_directory = key[n - 1] == '/';
	unescape((const unsigned char *)key, is_directory ? n - 1 : n, &decoded);
	if (decoded.len == 0 || !key_valid(key_slice(&decoded)))
		return -EBADMSG;
	if (object_key_from_path(key_slice(&decoded), is_directory, again) ||
		strcmp(again, key) != 0)
		return -EBADMSG;
	*path = decoded;
	*directory = is_directory;
	return 0;
}
