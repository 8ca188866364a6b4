/* The cache of sealed content: what was put comes back, the bound holds, the least recently used
 * goes first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/inline_cache.h"

static void hash_of(unsigned n, uint8_t hash[SHA256_SIZE])
{
	sha256(&n, sizeof(n), hash);
}

static void put(struct inline_cache *c, unsigned n, size_t len)
{
	uint8_t hash[SHA256_SIZE];
	char *p = malloc(len + 1);

	assert_non_null(p);
	memset(p, (int)('a' + n % 26), len);
	hash_of(n, hash);
	inline_cache_put(c, hash, p, len);
	free(p);
}

static bool has(struct inline_cache *c, unsigned n, size_t len)
{
	CLEANUP(buf_done) struct buf b = {0};
	uint8_t hash[SHA256_SIZE];

	hash_of(n, hash);
	buf_put_str(&b, "old");
	if (!inline_cache_get(c, hash, &b)) {
		assert_int_equal(b.len, 0);
		return false;
	}
	assert_int_equal(b.len, len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(b.data[i], (int)('a' + n % 26));
	return true;
}

static void put_and_get(void **state)
{
	struct inline_cache *c = inline_cache_new(1 << 20);

	assert_false(has(c, 1, 10));
	put(c, 1, 10);
	put(c, 2, 0);
	put(c, 3, 5000);
	put(c, 1, 10);
	assert_true(has(c, 1, 10));
	assert_true(has(c, 2, 0));
	assert_true(has(c, 3, 5000));
	assert_false(has(c, 4, 0));
	inline_cache_free(c);
}

static void least_recently_used_goes(void **state)
{
	struct inline_cache *c = inline_cache_new(4 * 1200);

	put(c, 1, 1000);
	put(c, 2, 1000);
	put(c, 3, 1000);
	put(c, 4, 1000);
	assert_true(has(c, 1, 1000)); /* now 2 is the oldest */
	put(c, 3, 1000);
	put(c, 5, 1000);
	assert_false(has(c, 2, 1000));
	assert_true(has(c, 1, 1000));
	assert_true(has(c, 3, 1000));
	assert_true(has(c, 4, 1000));
	assert_true(has(c, 5, 1000));
	inline_cache_free(c);
}

static void bound_holds(void **state)
{
	struct inline_cache *c = inline_cache_new(100000);
	unsigned kept = 0;

	put(c, 9999, 100001); /* would not fit even alone */
	assert_false(has(c, 9999, 100001));
	for (unsigned i = 0; i < 1000; i++)
		put(c, i, 1000);
	for (unsigned i = 0; i < 1000; i++)
		kept += has(c, i, 1000);
	assert_in_range(kept, 80, 100);
	inline_cache_free(c);
	inline_cache_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put_and_get),
		cmocka_unit_test(least_recently_used_goes),
		cmocka_unit_test(bound_holds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
