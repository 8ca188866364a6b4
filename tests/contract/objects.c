/* Bodies, metadata, keys: what one object goes through. */
#include "tests/contract/contract.h"

#include <errno.h>
#include <stdlib.h>

#include "src/base/clock.h"

static void set(struct store_meta *m, const char *name, const char *value)
{
	assert_int_equal(store_meta_set(m, name, value), 0);
}

static void put_get_head_remove(void **state)
{
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(store_meta_done) struct store_meta meta = {0}, have = {0};
	struct store_object object = {0};
	char etag[STORE_ETAG_SIZE] = "";
	const char *key = key_of("basic");

	expect(STORE_ABSENT, store_head(store, key, &object, &have, NULL, E));
	expect(STORE_ABSENT, store_get_buf(store, key, 100, &b, &object, &have, NULL, E));
	set(&meta, "meridian-stamp", "0123456789abcdef-0000000000000001");
	set(&meta, "mode", "33188");
	set(&meta, "odd", "a=b; c,d \"quoted\" <&>");
	expect(STORE_OK, store_put_buf(store, key, "hello\0world", 11, &meta, NULL, etag, NULL, E));
	expect(STORE_OK, store_head(store, key, &object, &have, NULL, E));
	assert_int_equal(object.size, 11);
	assert_true(object.etag[0]);
	if (etag[0])
		assert_string_equal(etag, object.etag);
	assert_int_equal(have.count, 3);
	assert_string_equal(store_meta_get(&have, "odd"), "a=b; c,d \"quoted\" <&>");
	assert_in_range(object.mtime_ms + 3600000, clock_realtime_ms() + 3600000 - 120000,
		clock_realtime_ms() + 3600000 + 120000);

	struct store_object again = {0};
	store_meta_done(&have);
	expect(STORE_OK, store_get_buf(store, key, 100, &b, &again, &have, NULL, E));
	assert_int_equal(b.len, 11);
	assert_memory_equal(b.data, "hello\0world", 11);
	assert_string_equal(again.etag, object.etag);
	assert_string_equal(store_meta_get(&have, "mode"), "33188");

	/* A put replaces metadata as a whole. */
	expect(STORE_OK, store_put_buf(store, key, "other", 5, NULL, NULL, etag, NULL, E));
	store_meta_done(&have);
	expect(STORE_OK, store_head(store, key, &again, &have, NULL, E));
	assert_int_equal(have.count, 0);
	assert_string_not_equal(again.etag, object.etag);

	expect(STORE_OK, store_remove(store, key, NULL, NULL, E));
	expect(STORE_ABSENT, store_head(store, key, &object, NULL, NULL, E));
	expect(STORE_OK, store_remove(store, key, NULL, NULL, E));
}

static int buf_write(void *ctx, const void *p, size_t len)
{
	buf_put(ctx, p, len);
	return 0;
}

static int buf_reset(void *ctx)
{
	buf_clear(ctx);
	return 0;
}

static void ranges(void **state)
{
	static const struct {
		uint64_t offset, length;
		const char *want;
	} r[] = {{0, 0, "0123456789"}, {0, 4, "0123"}, {3, 4, "3456"}, {9, 1, "9"},
		{4, 0, "456789"}, {8, 100, "89"}, {10, 0, ""}, {20, 5, ""}};

	put_text(key_of("range"), "0123456789", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(r); i++) {
		CLEANUP(buf_done) struct buf b = {0};
		struct store_object object = {0};
		struct store_sink sink = {.write = buf_write, .reset = buf_reset, .ctx = &b};
		expect(STORE_OK, store_get(store, key_of("range"), r[i].offset, r[i].length, NULL,
					 &sink, &object, NULL, NULL, E));
		assert_int_equal(object.size, 10);
		assert_string_equal(buf_str(&b), r[i].want);
	}
}

static void empty_object(void **state)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct store_object object = {.size = 7};

	put_text(key_of("empty"), "", NULL);
	expect(STORE_OK, store_get_buf(store, key_of("empty"), 0, &b, &object, NULL, NULL, E));
	assert_int_equal(b.len, 0);
	assert_int_equal(object.size, 0);
}

/* 20 MiB whose bytes depend on their place. */
enum { LARGE = 20 * 1024 * 1024 };

static uint8_t large_byte(uint64_t at)
{
	return (uint8_t)(at ^ (at >> 8) ^ (at >> 16));
}

static ssize_t large_read(void *ctx, uint64_t offset, void *p, size_t len)
{
	size_t n = len < LARGE - offset ? len : (size_t)(LARGE - offset);

	/* Short reads are allowed. */
	n = n > 100000 ? 100000 : n;
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = large_byte(offset + i);
	return (ssize_t)n;
}

struct large_sink {
	uint64_t at;
	bool wrong;
};

static int large_write(void *ctx, const void *p, size_t len)
{
	struct large_sink *k = ctx;

	for (size_t i = 0; i < len; i++)
		k->wrong |= ((const uint8_t *)p)[i] != large_byte(k->at + i);
	k->at += len;
	return 0;
}

static int large_reset(void *ctx)
{
	*(struct large_sink *)ctx = (struct large_sink){0};
	return 0;
}

static void large_object(void **state)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct store_source source = {.size = LARGE, .read = large_read};
	struct large_sink k = {0};
	struct store_sink sink = {.write = large_write, .reset = large_reset, .ctx = &k};
	struct store_object object = {0};

	expect(STORE_OK, store_put(store, key_of("large"), &source, NULL, NULL, NULL, NULL, E));
	expect(STORE_OK,
		store_get(store, key_of("large"), 0, 0, NULL, &sink, &object, NULL, NULL, E));
	assert_int_equal(k.at, LARGE);
	assert_int_equal(object.size, LARGE);
	assert_false(k.wrong);
	expect(STORE_TOO_LARGE,
		store_get_buf(store, key_of("large"), 65536, &b, NULL, NULL, NULL, E));
	if (capabilities & STORE_CAP_COPY) {
		expect(STORE_OK, store_copy(store, key_of("large"), key_of("large-copy"), NULL,
					 NULL, NULL, NULL, E));
		large_reset(&k);
		expect(STORE_OK, store_get(store, key_of("large-copy"), 0, 0, NULL, &sink, NULL,
					 NULL, NULL, E));
		assert_int_equal(k.at, LARGE);
		assert_false(k.wrong);
	}
}

struct failing {
	uint64_t at;
	int error;
	atomic_bool *cancel;
};

static ssize_t failing_read(void *ctx, uint64_t offset, void *p, size_t len)
{
	struct failing *f = ctx;

	if (offset >= f->at) {
		if (!f->cancel)
			return f->error;
		atomic_store(f->cancel, true);
	}
	/* Never more than asked for, and so that the place of failure is met. */
	if (len > 65536)
		len = 65536;
	memset(p, 'x', len);
	return (ssize_t)len;
}

static int failing_write(void *ctx, const void *p, size_t len)
{
	struct failing *f = ctx;

	if (f->cancel)
		atomic_store(f->cancel, true);
	return f->error;
}

static int never_reset(void *ctx)
{
	return 0;
}

static void assert_local(enum store_result r, const struct store_error *e, int error)
{
	expect_at(r, STORE_LOCAL, e, __FILE__, __LINE__);
	assert_int_equal(e->local_errno, error);
}

/* A source that fails leaves what was there. */
static void source_failure(void **state)
{
	static const uint64_t at[] = {0, 65536, 3 * 1024 * 1024};

	put_text(key_of("kept"), "as it was", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		struct failing f = {.at = at[i], .error = -ESTALE};
		struct store_source source = {
			.size = 4 * 1024 * 1024, .read = failing_read, .ctx = &f};
		struct store_error e = {0};
		assert_local(store_put(store, key_of("kept"), &source, NULL, NULL, NULL, NULL, &e),
			&e, ESTALE);
		assert_text(key_of("kept"), "as it was");
		memset(&e, 0, sizeof(e));
		assert_local(store_put(store, key_of("never"), &source, NULL, NULL, NULL, NULL, &e),
			&e, ESTALE);
		expect(STORE_ABSENT, store_head(store, key_of("never"), NULL, NULL, NULL, E));
	}
}

static void sink_failure(void **state)
{
	struct failing f = {.error = -ENOSPC};
	struct store_sink sink = {.write = failing_write, .reset = never_reset, .ctx = &f};
	struct store_error e = {0};
	struct store_object object = {.size = 1};

	put_text(key_of("sink"), "some bytes", NULL);
	assert_local(store_get(store, key_of("sink"), 0, 0, NULL, &sink, &object, NULL, NULL, &e),
		&e, ENOSPC);
	/* The connection, or whatever it was, is fit for use afterwards. */
	assert_text(key_of("sink"), "some bytes");
}

static void cancel_and_deadline(void **state)
{
	atomic_bool cancel = true;
	struct store_call call = {.cancel = &cancel};
	struct store_call late = {.deadline_ms = clock_monotonic_ms() - 1};
	struct failing f = {.at = 1024 * 1024, .cancel = &cancel};
	struct store_source source = {.size = 64 * 1024 * 1024, .read = failing_read, .ctx = &f};
	struct store_error e = {0};

	assert_local(store_head(store, key_of("cancel"), NULL, NULL, &call, &e), &e, ECANCELED);
	expect(STORE_TIMEOUT, store_head(store, key_of("cancel"), NULL, NULL, &late, E));
	/* In the middle of a body. */
	atomic_store(&cancel, false);
	memset(&e, 0, sizeof(e));
	assert_local(store_put(store, key_of("cancel"), &source, NULL, NULL, NULL, &call, &e), &e,
		ECANCELED);
	expect(STORE_ABSENT, store_head(store, key_of("cancel"), NULL, NULL, NULL, E));
}

/* Thirty pairs and nearly all the bytes that are allowed. */
static void metadata_limits(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0}, have = {0};
	char name[32], value[64];

	for (int i = 0; i < STORE_META_MAX; i++) {
		snprintf(name, sizeof(name), "name-%02d", i);
		snprintf(value, sizeof(value), "%0*d", i == 0 ? 60 : 55, i);
		set(&meta, name, value);
	}
	assert_int_equal(store_meta_set(&meta, "one-more", "x"), -E2BIG);
	expect(STORE_OK, store_put_buf(store, key_of("meta"), "x", 1, &meta, NULL, NULL, NULL, E));
	expect(STORE_OK, store_head(store, key_of("meta"), NULL, &have, NULL, E));
	assert_int_equal(have.count, STORE_META_MAX);
	for (uint32_t i = 0; i < meta.count; i++)
		assert_string_equal(store_meta_get(&have, meta.item[i].name), meta.item[i].value);

	store_meta_done(&meta);
	store_meta_done(&have);
	char *big = malloc(STORE_META_BYTES);
	memset(big, 'v', STORE_META_BYTES - 1);
	big[STORE_META_BYTES - 1] = '\0';
	assert_int_equal(store_meta_set(&meta, "big", big), -E2BIG);
	big[STORE_META_BYTES - 3] = '\0';
	assert_int_equal(store_meta_set(&meta, "big", big), 0);
	expect(STORE_OK, store_put_buf(store, key_of("meta"), "x", 1, &meta, NULL, NULL, NULL, E));
	expect(STORE_OK, store_head(store, key_of("meta"), NULL, &have, NULL, E));
	assert_string_equal(store_meta_get(&have, "big"), big);
	free(big);
}

static void odd_keys(void **state)
{
	static const char *const names[] = {"space in it", " leading", "trailing ", "a+b", "100%",
		"%2F", "%2f", "a%25b", "gr\xc3\xbc\xc3\x9f.e",
		"\xe6\x97\xa5\xe6\x9c\xac/\xe8\xaa\x9e", "\xf0\x9f\x98\x80", "quo\"te",
		"apo'strophe", "amp&er", "semi;colon", "co,mma", "qu?ery=1&x", "ha#sh", "ti~lde",
		"star*", "br(ack)et[s]{}", "eq=ual", "at@sign", "do$lar", "ex!clam", "back\\slash",
		"pi|pe", "ca^ret", "gra`ve", "<angle>", "co:lon", ".hidden", "..dots", "dots..",
		"ctl%01", "-dash", "x.tar.gz", "UPPER", "upper", "deep/er/and/deep/er"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		put_text(key_of("odd/%s", names[i]), names[i], NULL);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_text(key_of("odd/%s", names[i]), names[i]);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (capabilities & STORE_CAP_COPY) {
			expect(STORE_OK, store_copy(store, key_of("odd/%s", names[i]),
						 key_of("odd copy/%s", names[i]), NULL, NULL, NULL,
						 NULL, E));
			assert_text(key_of("odd copy/%s", names[i]), names[i]);
		}
		expect(STORE_OK, store_remove(store, key_of("odd/%s", names[i]), NULL, NULL, E));
		expect(STORE_ABSENT,
			store_head(store, key_of("odd/%s", names[i]), NULL, NULL, NULL, E));
	}
}

/* "a", "a/", "a/b" and "a.b" live side by side, made and removed in any order. */
static void objects_below_objects(void **state)
{
	static const char *const names[] = {"t", "t/", "t/b", "t.b", "t/b/c", "t/b/"};
	enum { N = ARRAY_SIZE(names) };

	for (unsigned order = 0; order < 2 * N; order++) {
		for (unsigned i = 0; i < N; i++) {
			const char *name = names[order < N ? (i + order) % N : (order - i) % N];
			put_text(key_of("side/%s", name), name, NULL);
		}
		for (unsigned i = 0; i < N; i++)
			assert_text(key_of("side/%s", names[i]), names[i]);
		for (unsigned i = 0; i < N; i++) {
			unsigned gone = (i * 5 + order) % N;
			expect(STORE_OK,
				store_remove(store, key_of("side/%s", names[gone]), NULL, NULL, E));
			expect(STORE_ABSENT, store_head(store, key_of("side/%s", names[gone]), NULL,
						     NULL, NULL, E));
			for (unsigned j = i + 1; j < N; j++)
				assert_text(key_of("side/%s", names[(j * 5 + order) % N]),
					names[(j * 5 + order) % N]);
		}
	}
}

/* Directory objects: empty bodies with metadata. */
static void directory_objects(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0}, have = {0};
	struct store_object object;

	set(&meta, "mode", "16877");
	expect(STORE_ABSENT, store_head(store, key_of("dir/d/"), NULL, NULL, NULL, E));
	put_text(key_of("dir/d/file"), "f", NULL);
	expect(STORE_ABSENT, store_head(store, key_of("dir/d/"), NULL, NULL, NULL, E));
	expect(STORE_OK, store_put_buf(store, key_of("dir/d/"), "", 0, &meta, NULL, NULL, NULL, E));
	expect(STORE_OK, store_head(store, key_of("dir/d/"), &object, &have, NULL, E));
	assert_int_equal(object.size, 0);
	assert_string_equal(store_meta_get(&have, "mode"), "16877");
	expect(STORE_OK, store_remove(store, key_of("dir/d/file"), NULL, NULL, E));
	expect(STORE_OK, store_head(store, key_of("dir/d/"), NULL, NULL, NULL, E));
	expect(STORE_ABSENT, store_head(store, key_of("dir/d"), NULL, NULL, NULL, E));
	/* With a body, then empty again. */
	put_text(key_of("dir/d/"), "body", NULL);
	assert_text(key_of("dir/d/"), "body");
	put_text(key_of("dir/d/"), "", NULL);
	assert_text(key_of("dir/d/"), "");
	expect(STORE_OK, store_remove(store, key_of("dir/d/"), NULL, NULL, E));
	expect(STORE_ABSENT, store_head(store, key_of("dir/d/"), NULL, NULL, NULL, E));
}

static void long_keys(void **state)
{
	char key[STORE_KEY_MAX + 2];
	const char *limit = getenv("CONTRACT_KEY_MAX");
	size_t n, max = limit ? (size_t)atoi(limit) : STORE_KEY_MAX;

	/* One component of the greatest length, and many short ones. */
	for (int shape = 0; shape < 2; shape++) {
		snprintf(key, sizeof(key), "%s", key_of("long%d-", shape));
		n = strlen(key);
		for (size_t i = n; i < max; i++)
			key[i] = shape && i % 3 == 0 && i + 1 < max ? '/' : 'k';
		key[max] = '\0';
		put_text(key, "long", NULL);
		assert_text(key, "long");
		expect(STORE_OK, store_remove(store, key, NULL, NULL, E));
		expect(STORE_ABSENT, store_head(store, key, NULL, NULL, NULL, E));
	}
	memset(key, 'k', STORE_KEY_MAX + 1);
	key[STORE_KEY_MAX + 1] = '\0';
	expect(STORE_UNSUPPORTED, store_head(store, key, NULL, NULL, NULL, E));
	expect(STORE_UNSUPPORTED, store_put_buf(store, "", "x", 1, NULL, NULL, NULL, NULL, E));
}

static void impossible_keys(void **state)
{
	static const char *const names[] = {"..", "../x", "a/../b", "a/./b", ".", "a//b", "/a",
		"a/..", ".meridian-tmp/store", ".meridian-meta/x", ".meridian-overflow/x",
		".meridian-tmp"};

	if (!getenv("CONTRACT_DIR"))
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		expect(STORE_UNSUPPORTED, store_head(store, names[i], NULL, NULL, NULL, E));
		expect(STORE_UNSUPPORTED,
			store_put_buf(store, names[i], "x", 1, NULL, NULL, NULL, NULL, E));
		expect(STORE_UNSUPPORTED, store_remove(store, names[i], NULL, NULL, E));
	}
}

static void copy(void **state)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0}, have = {0};
	char etag[STORE_ETAG_SIZE] = "";

	need(STORE_CAP_COPY);
	expect(STORE_ABSENT, store_copy(store, key_of("copy/none"), key_of("copy/to"), NULL, NULL,
				     NULL, NULL, E));
	set(&meta, "step", "1");
	expect(STORE_OK,
		store_put_buf(store, key_of("copy/from"), "body", 4, &meta, NULL, NULL, NULL, E));
	set(&meta, "step", "2");
	expect(STORE_OK, store_copy(store, key_of("copy/from"), key_of("copy/to"), &meta, NULL,
				 etag, NULL, E));
	assert_text(key_of("copy/to"), "body");
	expect(STORE_OK, store_head(store, key_of("copy/to"), NULL, &have, NULL, E));
	assert_string_equal(store_meta_get(&have, "step"), "2");
	/* Onto itself: new metadata, which replaces the old as a whole. */
	store_meta_done(&meta);
	set(&meta, "other", "3");
	expect(STORE_OK, store_copy(store, key_of("copy/from"), key_of("copy/from"), &meta, NULL,
				 NULL, NULL, E));
	assert_text(key_of("copy/from"), "body");
	store_meta_done(&have);
	expect(STORE_OK, store_head(store, key_of("copy/from"), NULL, &have, NULL, E));
	assert_int_equal(have.count, 1);
	assert_string_equal(store_meta_get(&have, "other"), "3");
	/* An empty one too. */
	put_text(key_of("copy/empty"), "", NULL);
	expect(STORE_OK, store_copy(store, key_of("copy/empty"), key_of("copy/empty"), &meta, NULL,
				 NULL, NULL, E));
	store_meta_done(&have);
	expect(STORE_OK, store_head(store, key_of("copy/empty"), NULL, &have, NULL, E));
	assert_string_equal(store_meta_get(&have, "other"), "3");
}

static void wrong_credentials(void **state)
{
	char path[] = "/tmp/meridian-contract.XXXXXX";
	static const char text[] =
		"[default]\naws_access_key_id = TESTKEY\naws_secret_access_key = wrong\n";

	if (!getenv("CONTRACT_AUTH"))
		skip();
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	struct store *wrong = contract_open_with(path);
	assert_non_null(wrong);
	struct store_error e = {0};
	expect(STORE_DENIED, store_probe(wrong, NULL, E));
	expect(STORE_DENIED,
		store_put_buf(wrong, key_of("denied"), "x", 1, NULL, NULL, NULL, NULL, E));
	/* A HEAD has no body to say why, and must not be taken for absence. */
	expect_at(store_head(wrong, key_of("denied"), NULL, NULL, NULL, &e), STORE_DENIED, &e,
		__FILE__, __LINE__);
	assert_null(strstr(e.text, "wrong"));
	expect(STORE_DENIED, store_remove(wrong, key_of("denied"), NULL, NULL, E));
	store_close(wrong);
	unlink(path);
}

const struct CMUnitTest object_cases[] = {
	cmocka_unit_test(put_get_head_remove),
	cmocka_unit_test(ranges),
	cmocka_unit_test(empty_object),
	cmocka_unit_test(large_object),
	cmocka_unit_test(source_failure),
	cmocka_unit_test(sink_failure),
	cmocka_unit_test(cancel_and_deadline),
	cmocka_unit_test(metadata_limits),
	cmocka_unit_test(odd_keys),
	cmocka_unit_test(objects_below_objects),
	cmocka_unit_test(directory_objects),
	cmocka_unit_test(long_keys),
	cmocka_unit_test(impossible_keys),
	cmocka_unit_test(copy),
	cmocka_unit_test(wrong_credentials),
};
const size_t object_case_count = ARRAY_SIZE(object_cases);
