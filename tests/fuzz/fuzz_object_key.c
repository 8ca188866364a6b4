/* Keys of a listing, and names of files: what maps one way must map back to the same bytes, and
 * nothing that is not a possible path may come out. */
#include <string.h>

#include "replicator/object_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void from_key(const uint8_t *p, size_t n)
{
	char *key = strndup((const char *)p, n);
	char again[STORE_KEY_MAX + 1];
	struct key path;
	bool directory;

	CHECK(key);
	if (object_key_to_path(key, &path, &directory) == 0) {
		CHECK(path.len > 0 && key_valid(key_slice(&path)));
		CHECK(object_key_from_path(key_slice(&path), directory, again) == 0);
		CHECK(strcmp(key, again) == 0);
	}
	free(key);
}

static void from_path(const uint8_t *p, size_t n, bool directory)
{
	struct slice s = {(const char *)p, n};
	char key[STORE_KEY_MAX + 1];
	struct key path;
	bool d;

	if (n == 0 || !key_valid(s) || object_key_from_path(s, directory, key))
		return;
	CHECK(object_key_to_path(key, &path, &d) == 0);
	CHECK(d == directory && slice_equal(key_slice(&path), s));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	from_key(p, n);
	from_path(p, n, false);
	from_path(p, n, true);
	return 0;
}
