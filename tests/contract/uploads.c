/* Uploads in parts. */
#include "tests/contract/contract.h"

#include <errno.h>
#include <stdlib.h>

enum { SMALL = 10 };

/* A first part as small as the store takes, and a few bytes behind it. */
struct upload {
	char id[STORE_UPLOAD_ID_SIZE];
	struct store_part part[3];
	char *big;
	size_t big_len;
	struct store_meta meta;
};

static void upload_done(struct upload *u)
{
	free(u->big);
	store_meta_done(&u->meta);
}

static void begin(struct upload *u, const char *key)
{
	memset(u, 0, sizeof(*u));
	u->big_len = (size_t)store_limits(store)->part_min;
	u->big = malloc(u->big_len);
	assert_non_null(u->big);
	for (size_t i = 0; i < u->big_len; i++)
		u->big[i] = (char)(i * 2654435761u >> 24);
	for (uint32_t i = 0; i < 3; i++)
		u->part[i].number = i + 1;
	assert_int_equal(store_meta_set(&u->meta, "meridian-stamp", "1-1"), 0);
	expect(STORE_OK, store_upload_begin(store, key, &u->meta, u->id, NULL, E));
	assert_true(u->id[0]);
}

static void send(struct upload *u, const char *key, unsigned number, const char *p, size_t len)
{
	struct store_memory memory = {.p = p, .len = len};
	const struct store_source source = store_source_memory(&memory);

	expect(STORE_OK,
		store_upload_part(store, key, u->id, &source, &u->part[number - 1], NULL, E));
	assert_int_equal(u->part[number - 1].size, len);
	assert_true(u->part[number - 1].etag[0]);
}

/* There is no such upload, or no such source: some stores answer that vaguely. */
static void expect_gone(enum store_result r)
{
	if (r != STORE_ABSENT && !getenv("CONTRACT_VAGUE"))
		fail_msg("%s instead of absent", store_result_name(r));
	assert_true(r != STORE_OK && r != STORE_EXISTS && r != STORE_PRECONDITION);
}

static void parts_make_an_object(void **state)
{
	struct upload u CLEANUP(upload_done);
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(store_meta_done) struct store_meta have = {0};
	struct store_object object = {0};
	const char *key = key_of("upload/whole");

	need(STORE_CAP_UPLOAD);
	begin(&u, key);
	/* Out of order, and one of them twice. */
	send(&u, key, 2, "wrong", 5);
	send(&u, key, 2, "0123456789", SMALL);
	send(&u, key, 1, u.big, u.big_len);
	expect(STORE_ABSENT, store_head(store, key, &object, NULL, NULL, E));
	expect(STORE_OK,
		store_upload_end(store, key, u.id, u.part, 2, &u.meta, NULL, NULL, NULL, E));
	expect(STORE_OK, store_get_buf(store, key, UINT64_MAX, &b, &object, &have, NULL, E));
	assert_int_equal(b.len, u.big_len + SMALL);
	assert_memory_equal(b.data, u.big, u.big_len);
	assert_memory_equal(b.data + u.big_len, "0123456789", SMALL);
	assert_string_equal(store_meta_get(&have, "meridian-stamp"), "1-1");
	/* The id is used up. */
	struct store_part third = {.number = 3};
	struct store_memory memory = {.p = "x", .len = 1};
	const struct store_source source = store_source_memory(&memory);
	expect_gone(store_upload_part(store, key, u.id, &source, &third, NULL, NULL));
	expect(STORE_OK, store_upload_abort(store, key, u.id, NULL, E));
}

static void parts_are_copied(void **state)
{
	struct upload u CLEANUP(upload_done);
	CLEANUP(buf_done) struct buf b = {0};
	struct store_object object = {0};
	const char *key = key_of("upload/copied"), *from = key_of("upload/source");

	need(STORE_CAP_UPLOAD_COPY);
	begin(&u, key);
	expect(STORE_OK, store_put_buf(store, from, u.big, u.big_len, NULL, NULL, NULL, NULL, E));
	expect(STORE_OK, store_head(store, from, &object, NULL, NULL, E));
	expect(STORE_OK, store_upload_copy(store, key, u.id, from, 0, u.big_len, object.etag,
				 &u.part[0], NULL, E));
	send(&u, key, 2, "0123456789", SMALL);
	expect_gone(store_upload_copy(
		store, key, u.id, key_of("upload/none"), 0, 5, NULL, &u.part[2], NULL, NULL));
	expect(STORE_OK,
		store_upload_end(store, key, u.id, u.part, 2, &u.meta, NULL, NULL, NULL, E));
	expect(STORE_OK, store_get_buf(store, key, UINT64_MAX, &b, NULL, NULL, NULL, E));
	assert_int_equal(b.len, u.big_len + SMALL);
	assert_memory_equal(b.data, u.big, u.big_len);
}

static void end_under_a_condition(void **state)
{
	const struct store_condition absent = {.if_absent = true};
	struct upload u CLEANUP(upload_done);
	struct store_object object = {0};
	const char *key = key_of("upload/conditional");

	need(STORE_CAP_UPLOAD_IF);
	begin(&u, key);
	send(&u, key, 1, "new", 3);
	put_text(key, "there", NULL);
	expect(STORE_EXISTS,
		store_upload_end(store, key, u.id, u.part, 1, &u.meta, &absent, NULL, NULL, E));
	assert_text(key, "there");
	const struct store_condition stale = {.if_match = "0123456789abcdef0123456789abcdef"};
	expect(STORE_PRECONDITION,
		store_upload_end(store, key, u.id, u.part, 1, &u.meta, &stale, NULL, NULL, E));
	expect(STORE_OK, store_head(store, key, &object, NULL, NULL, E));
	const struct store_condition match = {.if_match = object.etag};
	expect(STORE_OK,
		store_upload_end(store, key, u.id, u.part, 1, &u.meta, &match, NULL, NULL, E));
	assert_text(key, "new");
}

struct found {
	const char *key;
	const char *id;
	unsigned count;
};

static int find(void *ctx, const char *key, const char *id, int64_t begun_ms)
{
	struct found *f = ctx;

	f->count += !strcmp(key, f->key) && !strcmp(id, f->id) && begun_ms > 0;
	return 0;
}

static void uploads_are_listed_and_aborted(void **state)
{
	struct upload u CLEANUP(upload_done);
	/* A key that has to be encoded on its way, both ways. */
	const char *key = key_of("upload/a b+c%%20\xc3\xa4/abandoned");
	struct found f = {.key = key};

	need(STORE_CAP_UPLOAD);
	begin(&u, key);
	f.id = u.id;
	send(&u, key, 1, "lost", 4);
	expect(STORE_OK, store_uploads(store, key_of("upload/"), find, &f, NULL, E));
	assert_int_equal(f.count, 1);
	expect(STORE_OK, store_upload_abort(store, key, u.id, NULL, E));
	f.count = 0;
	expect(STORE_OK, store_uploads(store, key_of("upload/"), find, &f, NULL, E));
	assert_int_equal(f.count, 0);
	expect_gone(store_upload_end(store, key, u.id, u.part, 1, &u.meta, NULL, NULL, NULL, NULL));
	expect(STORE_OK, store_upload_abort(store, key, u.id, NULL, E));
}

static void limits_are_kept(void **state)
{
	struct store_part part = {.number = store_limits(store)->parts_max + 1};
	struct store_memory memory = {.p = "x", .len = 1};
	const struct store_source source = store_source_memory(&memory);
	struct store_error error = {0};

	need(STORE_CAP_UPLOAD);
	assert_true(store_limits(store)->put_max > 0);
	assert_int_equal(store_upload_part(store, key_of("x"), "id", &source, &part, NULL, &error),
		STORE_TOO_LARGE);
}

const struct CMUnitTest upload_cases[] = {
	cmocka_unit_test(parts_make_an_object),
	cmocka_unit_test(parts_are_copied),
	cmocka_unit_test(end_under_a_condition),
	cmocka_unit_test(uploads_are_listed_and_aborted),
	cmocka_unit_test(limits_are_kept),
};
const size_t upload_case_count = ARRAY_SIZE(upload_cases);
