/* Records of uploads in parts. */
#include "tests/unit/replica_fixture.h"

#include "cache/outbox.h"
#include "cache/upload_record.h"

static unsigned regions[2];

static int setup(void **state)
{
	return fixture_setup_regions(state, regions, 2);
}

static int64_t add(struct conn *conn, unsigned region, const char *key, uint64_t size)
{
	struct upload_record record = {.size = size, .part_size = 10};

	memset(record.version, 7, sizeof(record.version));
	assert_int_equal(upload_record_add(conn, region, slice_of(key), &record), 0);
	assert_true(record.number > 0);
	return record.number;
}

static void add_part(struct conn *conn, int64_t upload, uint32_t number, const char *etag)
{
	struct upload_part part = {.number = number, .size = 10};

	snprintf(part.etag, sizeof(part.etag), "%s", etag);
	memset(part.hash, (int)number, sizeof(part.hash));
	assert_int_equal(upload_part_add(conn, upload, &part), 0);
}

static int write_part(void *ctx, const struct upload_part *part)
{
	char *text = ctx;

	assert_int_equal(part->hash[5], part->number);
	sprintf(text + strlen(text), "%u:%s ", part->number, part->etag);
	return 0;
}

static void expect_parts(struct conn *conn, int64_t upload, const char *want)
{
	char text[200] = "";

	assert_int_equal(upload_part_each(conn, upload, write_part, text), 0);
	assert_string_equal(text, want);
}

static void a_record_and_its_parts_survive_a_restart(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct upload_record record = {0};

	assert_int_equal(upload_record_get(conn, regions[0], slice_of("a"), &record), -ENOENT);
	int64_t number = add(conn, regions[0], "a", 25);
	add(conn, regions[1], "a", 30);
	assert_int_equal(upload_record_begun(conn, number, "id-1"), 0);
	add_part(conn, number, 3, "c");
	add_part(conn, number, 1, "a");
	add_part(conn, number, 3, "c2");
	fixture_commit(conn);
	cache_abandon(f->cache);
	fixture_open(f);
	conn = fixture_begin(f);
	assert_int_equal(upload_record_get(conn, regions[0], slice_of("a"), &record), 0);
	assert_string_equal(record.id, "id-1");
	assert_int_equal(record.size, 25);
	assert_int_equal(record.part_size, 10);
	assert_int_equal(record.version[31], 7);
	expect_parts(conn, number, "1:a 3:c2 ");
	struct upload_stats stats;
	assert_int_equal(upload_stats(conn, regions[0], &stats), 0);
	assert_int_equal(stats.uploads, 1);
	assert_int_equal(stats.bytes, 25);
	assert_int_equal(stats.sent, 20);
	assert_no_scans(conn, "upload");
	cache_rollback(conn);
}

/* A part that ends after its upload was given up does not come back. */
static void a_new_record_takes_the_place_of_the_old(void **state)
{
	struct conn *conn = fixture_begin(*state);
	struct upload_record record;

	int64_t old = add(conn, regions[0], "a", 25);
	add_part(conn, old, 1, "a");
	int64_t new = add(conn, regions[0], "a", 26);
	assert_true(new != old);
	add_part(conn, old, 2, "b");
	assert_int_equal(upload_record_begun(conn, old, "late"), 0);
	expect_parts(conn, old, "");
	expect_parts(conn, new, "");
	assert_int_equal(upload_record_get(conn, regions[0], slice_of("a"), &record), 0);
	assert_int_equal(record.number, new);
	assert_string_equal(record.id, "");
	assert_int_equal(upload_record_remove(conn, new), 0);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM upload_part"), 0);
	assert_true(add(conn, regions[0], "a", 1) > new);
	cache_rollback(conn);
}

static void orphans_have_no_outbox_row(void **state)
{
	struct conn *conn = fixture_begin(*state);
	struct outbox_change change = {
		.key = slice_of("kept"), .stamp = {5, 6}, .size = 9, .upload = true};
	struct upload_record record = {0};
	struct key key;

	assert_int_equal(outbox_enqueue(conn, &change), 0);
	int64_t kept = add(conn, regions[0], "kept", 9);
	int64_t lost = add(conn, regions[0], "lost", 9);
	assert_int_equal(upload_record_next(conn, regions[0], 0, false, &key, &record), 0);
	assert_int_equal(record.number, kept);
	assert_int_equal(upload_record_next(conn, regions[0], 0, true, &key, &record), 0);
	assert_int_equal(record.number, lost);
	assert_true(slice_equal(key_slice(&key), slice_of("lost")));
	assert_int_equal(upload_record_next(conn, regions[0], lost, true, &key, &record), -ENOENT);
	assert_int_equal(upload_record_next(conn, regions[1], 0, false, &key, &record), -ENOENT);
	cache_rollback(conn);
}

static void a_retired_region_takes_its_records_along(void **state)
{
	static const char *const names[] = {"west"};
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct err err = {0};

	add_part(conn, add(conn, regions[0], "a", 25), 1, "a");
	add_part(conn, add(conn, regions[1], "a", 25), 1, "a");
	fixture_commit(conn);
	assert_int_equal(region_register(f->cache, names, 1, false, regions, &err), 0);
	conn = fixture_begin(f);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM upload"), 1);
	assert_int_equal(sql_int(conn, "SELECT count(*) FROM upload_part"), 1);
	cache_rollback(conn);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_record_and_its_parts_survive_a_restart),
		TEST(a_new_record_takes_the_place_of_the_old),
		TEST(orphans_have_no_outbox_row),
		TEST(a_retired_region_takes_its_records_along),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
