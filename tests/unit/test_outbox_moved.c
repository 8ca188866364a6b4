/* Former names go with the present ones, in one segment or in one group. */
#include "tests/unit/outbox_fixture.h"

static struct stamp gone(struct conn *conn, const char *key, const char *to)
{
	struct stamp stamp = {(++stamps) << 16, 7};
	const struct outbox_change change = {
		.key = slice_of(key), .stamp = stamp, .moved_to = slice_of(to)};

	assert_int_equal(outbox_enqueue(conn, &change), 0);
	return stamp;
}

/* As the announcer does: those that may go with regard to where renamed content is. */
static const char *may_go(struct conn *conn)
{
	static char text[512];
	struct outbox_holds holds = {0};
	struct outbox_row rows[16];
	bool more = true, again = true;
	unsigned n = 0;
	size_t len = 0;

	while (again) {
		assert_int_equal(
			outbox_announceable(conn, regions[0], 16, &holds, rows, &n, &more), 0);
		assert_int_equal(
			outbox_hold_moved(conn, regions[0], rows, n, &holds, &again), 0);
	}
	text[0] = '\0';
	for (unsigned i = 0; i < n; i++)
		len += (size_t)snprintf(
			text + len, sizeof(text) - len, "%s%s", i ? "," : "", rows[i].key.p);
	outbox_holds_done(&holds);
	return text;
}

static bool is_closed(struct conn *conn, const char *key)
{
	struct outbox_row row;
	bool closed = false;

	assert_int_equal(outbox_get(conn, regions[0], slice_of(key), &row), 0);
	assert_int_equal(outbox_cut_closed(conn, regions[0], &row, 1, &closed), 0);
	return closed;
}

static void a_former_name_goes_with_its_present_one(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct stamp big, small;

	/* Over three names, the last of which waits for its upload. */
	big = put(conn, "c/x", 1 << 20, true, true);
	gone(conn, "b/x", "c/x");
	gone(conn, "a/x", "b/x");
	put(conn, "a/after", 1, false, true);
	put(conn, "d/other", 1, false, true);
	assert_string_equal(may_go(conn), "d/other");
	/* Its object is there. */
	assert_int_equal(outbox_advance(conn, regions[0], slice_of("c/x"), big, OUTBOX_ANNOUNCE), 0);
	assert_string_equal(may_go(conn), "c/x,b/x,a/x,a/after,d/other");
	/* None of them alone: where they do not fit into one segment those are a group. */
	assert_true(is_closed(conn, "c/x"));
	assert_false(is_closed(conn, "b/x"));
	assert_false(is_closed(conn, "a/x"));
	fixture_commit(conn);

	/* A small one, whose new directory waits for something else. */
	conn = fixture_begin(f);
	put(conn, "e/big", 1 << 20, true, true);
	small = put(conn, "e/y", 1, false, true);
	gone(conn, "f/y", "e/y");
	assert_string_equal(may_go(conn), "c/x,b/x,a/x,a/after,d/other");
	assert_int_equal(outbox_finish(conn, regions[0], slice_of("e/y"), small), 0);
	assert_string_equal(may_go(conn), "c/x,b/x,a/x,a/after,d/other,f/y");
	assert_true(is_closed(conn, "f/y"));
	fixture_commit(conn);
}

static void a_group_goes_on_until_the_present_name_is_out(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct stamp g = put(conn, "g/x", 1, false, true);
	struct outbox_row row;
	bool closed = true;

	gone(conn, "h/x", "g/x");
	assert_int_equal(outbox_get(conn, regions[0], slice_of("h/x"), &row), 0);
	assert_int_equal(outbox_group_add(conn, regions[0], &row), 0);
	assert_int_equal(outbox_finish(conn, regions[0], slice_of("h/x"), row.stamp), 0);
	assert_int_equal(outbox_cut_closed(conn, regions[0], NULL, 0, &closed), 0);
	assert_false(closed);
	assert_int_equal(outbox_finish(conn, regions[0], slice_of("g/x"), g), 0);
	assert_int_equal(outbox_cut_closed(conn, regions[0], NULL, 0, &closed), 0);
	assert_true(closed);
	cache_rollback(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_former_name_goes_with_its_present_one),
		TEST(a_group_goes_on_until_the_present_name_is_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
