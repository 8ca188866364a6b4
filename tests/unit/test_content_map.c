/* Maps of large content: what changed is found, whatever the sizes; which maps are kept. */
#include "tests/unit/cache_fixture.h"

#include "cache/content_map.h"

enum { LEAST = 1024, BLOCK = 16 };

static void map_of(const void *p, size_t n, size_t step, struct content_mapper *m)
{
	content_mapper_begin(m, n, LEAST);
	for (size_t at = 0; at < n; at += step)
		content_mapper_add(m, (const char *)p + at, n - at < step ? n - at : step);
}

static void changes(const char *base, size_t base_size, const char *now, size_t size, char *ret)
{
	struct content_mapper a, b;
	uint64_t at = 0, offset, length;

	map_of(base, base_size, 7, &a);
	map_of(now, size, 1000, &b);
	assert_true(content_map_comparable(&a.map, &b.map));
	*ret = '\0';
	while (content_map_changed(&a.map, &b.map, &at, &offset, &length))
		sprintf(ret + strlen(ret), "%d+%d ", (int)offset, (int)length);
	content_mapper_end(&a);
	content_mapper_end(&b);
}

static void changes_are_found(void **state UNUSED)
{
	char base[4096], now[4096], text[200];

	for (size_t i = 0; i < sizeof(base); i++)
		base[i] = (char)(i * 2654435761u >> 21);
	memcpy(now, base, sizeof(now));
	changes(base, 4096, now, 4096, text);
	assert_string_equal(text, "");
	now[0] ^= 1;
	now[100] ^= 1;
	now[4095] ^= 1;
	changes(base, 4096, now, 4096, text);
	assert_string_equal(text, "0+16 96+16 4080+16 ");
	memcpy(now, base, sizeof(now));
	/* Grown within the last block, beyond it, and from its end on. */
	changes(base, 2005, now, 2007, text);
	assert_string_equal(text, "2000+7 ");
	changes(base, 2005, now, 2100, text);
	assert_string_equal(text, "2000+100 ");
	changes(base, 2000, now, 2100, text);
	assert_string_equal(text, "2000+100 ");
	/* Shrunk, at a border and within a block. */
	changes(base, 4096, now, 2000, text);
	assert_string_equal(text, "");
	changes(base, 4096, now, 2001, text);
	assert_string_equal(text, "2000+1 ");
}

static void keep(struct cache *c, const char *p, size_t n, uint8_t hash[SHA256_SIZE])
{
	static uint64_t ino; /* of one only the newest are kept */
	struct content_mapper m;

	map_of(p, n, n, &m);
	sha256(p, n, hash);
	content_map_keep(c, &m, ++ino, hash);
}

static bool has_grown(struct cache *c, const uint8_t *base, const uint8_t *now)
{
	struct conn *conn;
	bool grown;

	assert_int_equal(cache_read_begin(c, &conn), 0);
	assert_int_equal(content_map_grown(conn, base, now, &grown), 0);
	cache_read_end(conn);
	return grown;
}

static void growth_is_told_from_change(void **state)
{
	struct cache *c = ((struct fixture *)*state)->cache;
	static char text[4096];
	uint8_t short_one[SHA256_SIZE], full[SHA256_SIZE], more[SHA256_SIZE], other[SHA256_SIZE],
		unknown[SHA256_SIZE] = {1};

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 2654435761u >> 21);
	keep(c, text, 2005, short_one);
	keep(c, text, 2000, full);
	keep(c, text, 4000, more);
	assert_true(has_grown(c, short_one, more));
	assert_true(has_grown(c, full, more));
	assert_true(has_grown(c, full, short_one));
	assert_false(has_grown(c, more, full));
	assert_false(has_grown(c, more, more));
	assert_false(has_grown(c, unknown, more));
	assert_false(has_grown(c, more, unknown));
	/* In the last block, which was not full, and in one that was. */
	text[2003] ^= 1;
	keep(c, text, 4000, other);
	assert_true(has_grown(c, short_one, other));
	text[1999] ^= 1;
	keep(c, text, 4001, other);
	assert_false(has_grown(c, full, other));
	assert_false(has_grown(c, short_one, other));
}

/* As bytes and as a number, in pieces of any length, alone and beside others. */
static void zeros_are_zeros(void **state UNUSED)
{
	static char bytes[64 * BLOCK + 7];
	unsigned random = 1;

	for (int round = 0; round < 200; round++) {
		size_t size = sizeof(bytes) - (size_t)(round % 9), at = 0;
		struct content_mapper whole, pieces;

		memset(bytes, 0, sizeof(bytes));
		content_mapper_begin(&pieces, size, LEAST);
		while (at < size) {
			random = random * 1103515245 + 12345;
			size_t n = (random >> 16) % (round % 2 ? 5 * BLOCK : BLOCK) + 1;

			n = n < size - at ? n : size - at;
			if (random >> 30) {
				content_mapper_add_zeros(&pieces, n);
			} else {
				memset(bytes + at, (int)(random >> 20), n);
				content_mapper_add(&pieces, bytes + at, n);
			}
			at += n;
		}
		map_of(bytes, size, size, &whole);
		assert_int_equal(pieces.map.count, whole.map.count);
		assert_memory_equal(pieces.map.blocks, whole.map.blocks,
			whole.map.count * CONTENT_MAP_HASH_SIZE);
		content_mapper_end(&whole);
		content_mapper_end(&pieces);
	}
}

static void small_content_has_none(void **state UNUSED)
{
	struct content_mapper m;
	char bytes[LEAST] = {0};

	map_of(bytes, LEAST - 1, 100, &m);
	assert_false(m.on);
	map_of(bytes, LEAST, 100, &m);
	assert_true(m.on);
	content_mapper_add(&m, bytes, 1); /* more than was promised */
	assert_false(m.on);
	map_of(bytes, LEAST, 100, &m);
	content_mapper_add_zeros(&m, 1);
	assert_false(m.on);
}

static void large_content_has_large_blocks(void **state UNUSED)
{
	static const struct {
		uint64_t size;
		unsigned bits;
	} want[] = {{CONTENT_MAP_MIN, 14}, {UINT64_C(512) << 20, 14}, {UINT64_C(1) << 30, 15},
		{UINT64_C(256) << 30, 20}, {UINT64_C(1) << 40, 22}, {UINT64_C(5) << 40, 25}};

	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		struct content_mapper m;

		content_mapper_begin(&m, want[i].size, CONTENT_MAP_MIN);
		assert_true(m.on);
		assert_int_equal(m.map.bits, want[i].bits);
		content_mapper_end(&m);
	}
}

static int64_t count(struct fixture *f)
{
	struct conn *conn = fixture_begin(f);
	int64_t n = sql_int(conn, "SELECT count(*) FROM content_map");

	assert_int_equal(sql_int(conn, "SELECT bytes FROM content_map_total"),
		sql_int(conn, "SELECT coalesce(sum(length(blocks)), 0) FROM content_map"));
	cache_rollback(conn);
	return n;
}

static void version(struct fixture *f, uint64_t ino, int number, uint8_t hash[SHA256_SIZE])
{
	struct content_mapper m;
	char bytes[LEAST] = {0};

	snprintf(bytes, sizeof(bytes), "%d %d", (int)ino, number);
	sha256(bytes, sizeof(bytes), hash);
	map_of(bytes, sizeof(bytes), 512, &m);
	content_map_keep(f->cache, &m, ino, hash);
	assert_false(m.on);
}

static bool kept(struct fixture *f, const uint8_t hash[SHA256_SIZE])
{
	CLEANUP(content_map_done) struct content_map map = {0};
	struct conn *conn = fixture_begin(f);
	int r = content_map_get(conn, hash, &map);

	cache_rollback(conn);
	assert_true(r == 0 || r == -ENOENT);
	assert_true(r || (map.size == LEAST && map.count == LEAST / BLOCK));
	return r == 0;
}

static void delivered(struct fixture *f, unsigned region, const uint8_t hash[SHA256_SIZE])
{
	struct conn *conn = fixture_begin(f);

	assert_int_equal(content_map_delivered(conn, region, hash), 0);
	assert_int_equal(cache_commit(conn), 0);
}

static void the_newest_and_the_objects_are_kept(void **state)
{
	uint8_t first[SHA256_SIZE], second[SHA256_SIZE], other[SHA256_SIZE], last[SHA256_SIZE];
	struct fixture *f = *state;

	version(f, 9, 0, other);
	version(f, 5, 0, first);
	delivered(f, 0, first);
	delivered(f, 1, first);
	version(f, 5, 1, second);
	for (int i = 2; i < 30; i++)
		version(f, 5, i, last);
	assert_true(kept(f, first) && kept(f, last) && kept(f, other));
	assert_false(kept(f, second));
	assert_int_equal(count(f), 8);
	version(f, 5, 29, last); /* again: nothing new */
	assert_int_equal(count(f), 8);
	/* One region's object is newer now, then both are. */
	delivered(f, 0, last);
	version(f, 5, 30, second);
	assert_true(kept(f, first));
	delivered(f, 1, last);
	version(f, 5, 31, second);
	assert_false(kept(f, first));
	assert_true(kept(f, last));
}

/* Every version that is hashed gets one, however it is sealed. */
static void sealed_content_has_one(void **state)
{
	struct fixture *f = *state;
	struct file *file;
	struct content_version v;
	char *bytes = calloc(1, CONTENT_MAP_MIN + 1);
	CLEANUP(content_map_done) struct content_map map = {0};
	struct conn *conn;

	assert_non_null(bytes);
	for (int open = 0; open < 2; open++) {
		bytes[0] = (char)open;
		file = open ? make_open(f, ROOT_INO, "a") : make_open(f, ROOT_INO, "b");
		assert_int_equal(file_write(file, bytes, CONTENT_MAP_MIN + 1, 0, false),
			CONTENT_MAP_MIN + 1);
		uint64_t ino = file_ino(file);
		if (!open)
			file_release(file);
		assert_int_equal(content_seal(f->cache, ino, 0, NULL, &v), 0);
		conn = fixture_begin(f);
		assert_int_equal(content_map_get(conn, v.hash, &map), 0);
		assert_int_equal(map.size, CONTENT_MAP_MIN + 1);
		assert_int_equal(map.count, 65);
		content_map_done(&map);
		cache_rollback(conn);
		if (open)
			file_release(file);
	}
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changes_are_found),
		TEST(growth_is_told_from_change),
		cmocka_unit_test(zeros_are_zeros),
		cmocka_unit_test(small_content_has_none),
		cmocka_unit_test(large_content_has_large_blocks),
		TEST(the_newest_and_the_objects_are_kept),
		TEST(sealed_content_has_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
