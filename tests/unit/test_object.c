/* Entries as object metadata, and the delivery of one key against what others left there. */
#include "tests/unit/cluster.h"

#include "replicator/object.h"
#include "src/base/buf.h"

static struct store *open_store(struct cluster *c)
{
	struct store_config config = {.name = "x", .url = c->url[0]};
	struct store_error error = {0};
	struct store *s;

	assert_int_equal(store_open(&config, &s, NULL), 0);
	assert_int_equal(store_probe(s, NULL, &error), STORE_OK);
	return s;
}

static struct entry file_entry(const char *text, uint64_t time, uint64_t node)
{
	struct entry e = {
		.kind = KIND_FILE,
		.size = strlen(text),
		.content_mtime_ns = -1500000000,
		.content_stamp = {time, node},
		.mode = 0640,
		.uid = 7,
		.gid = 8,
		.attr_stamp = {time, node},
	};

	sha256(text, strlen(text), e.hash);
	vector_raise(&e.vector, e.content_stamp);
	return e;
}

static int open_text(void *ctx, struct store_source *ret)
{
	*ret = store_source_memory(ctx);
	return 0;
}

static enum store_result deliver(struct store *s, const char *key, const struct entry *e,
	const char *text, bool fresh, bool *superseded)
{
	struct store_memory memory = {text, text ? strlen(text) : 0};
	struct store_call call = {0};
	struct store_error error = {0};
	struct object_request q = {.store = s,
		.call = &call,
		.key = slice_of(key),
		.entry = e,
		.fresh = fresh,
		.open = open_text,
		.ctx = &memory};
	struct object_outcome outcome;

	enum store_result r = object_deliver(&q, &outcome, &error);
	if (superseded)
		*superseded = outcome.superseded;
	return r;
}

static void expect(
	struct store *s, const char *key, const char *text, struct stamp content, struct stamp attr)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(object_entry_done) struct object_entry e = {0};
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};

	enum store_result r = store_get_buf(s, key, 1 << 20, &b, NULL, &meta, NULL, &error);
	if (!text) {
		assert_int_equal(r, STORE_ABSENT);
		return;
	}
	assert_int_equal(r, STORE_OK);
	assert_string_equal(buf_str(&b), text);
	assert_int_equal(object_meta_to_entry(&meta, b.len, key[strlen(key) - 1] == '/', &e), 0);
	assert_int_equal(stamp_cmp(e.entry.content_stamp, content), 0);
	assert_int_equal(stamp_cmp(e.entry.attr_stamp, attr), 0);
}

static void test_meta_round_trip(void **state UNUSED)
{
	struct entry e = file_entry("hello", 99 << 16, 5);
	CLEANUP(store_meta_done) struct store_meta m = {0};
	CLEANUP(object_entry_done) struct object_entry back = {0};

	e.mtime_ns = 1234567890123456789;
	e.mtime_stamp = (struct stamp){100 << 16, 6};
	e.link = (struct link_id){0xabc, 0x12};
	buf_put_varint(&e.xattrs, 1);
	buf_put_bytes(&e.xattrs, "user.a", 6);
	buf_put_bytes(&e.xattrs, "\0\1", 2);
	assert_int_equal(object_meta_from_entry(&e, false, &m), 0);
	assert_string_equal(store_meta_get(&m, "mode"), "33184");
	assert_string_equal(store_meta_get(&m, "mtime"), "1234567890.123456789");
	assert_string_equal(
		store_meta_get(&m, "meridian-link"), "0000000000000abc-0000000000000012");
	assert_int_equal(object_meta_to_entry(&m, 5, false, &back), 0);
	assert_true(entry_content_equal(&e, &back.entry));
	assert_true(entry_attr_equal(&e, &back.entry));
	assert_true(link_id_equal(e.link, back.entry.link));
	assert_true(back.entry.content_mtime_ns == e.content_mtime_ns);
	assert_true(back.entry.mtime_ns == e.mtime_ns);
	assert_int_equal(vector_get(&back.entry.vector, 5), 99 << 16);
	assert_false(back.xattrs_omitted);
	entry_done(&e);
}

static void test_xattrs_too_large(void **state UNUSED)
{
	static const char big[3000];
	struct entry e = file_entry("hello", 99 << 16, 5);
	CLEANUP(store_meta_done) struct store_meta m = {0};
	CLEANUP(object_entry_done) struct object_entry back = {0};

	buf_put_varint(&e.xattrs, 1);
	buf_put_bytes(&e.xattrs, "user.a", 6);
	buf_put_bytes(&e.xattrs, big, sizeof(big));
	assert_int_equal(object_meta_from_entry(&e, false, &m), 0);
	assert_int_equal(object_meta_to_entry(&m, 5, false, &back), 0);
	assert_true(back.xattrs_omitted);
	entry_done(&e);
}

static void test_hostile_meta(void **state UNUSED)
{
	static const struct {
		const char *name, *value;
	} bad[] = {{"mode", "33184x"}, {"mode", "99999999"}, {"mode", "-1"}, {"mode", "16877"},
		{"uid", "4294967296"}, {"gid", "01"}, {"meridian-stamp", "0"},
		{"meridian-attr-stamp", "zz"}, {"meridian-sha256", "12"},
		{"meridian-vector", "!!!!"}, {"meridian-vector", "/w=="},
		{"meridian-link", "abc-12"}, {"meridian-link", ""},
		{"meridian-link", "0000000000000000-0000000000000012"},
		{"meridian-xattrs", "AgFh"}, {"meridian-content-mtime", "99999999999999999999"}};
	struct entry e = file_entry("hello", 99 << 16, 5);
	struct object_entry back;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CLEANUP(store_meta_done) struct store_meta m = {0};

		assert_int_equal(object_meta_from_entry(&e, false, &m), 0);
		assert_int_equal(store_meta_set(&m, bad[i].name, bad[i].value), 0);
		if (object_meta_to_entry(&m, 5, false, &back) != -EBADMSG)
			fail_msg("accepted: %s=%s", bad[i].name, bad[i].value);
	}
	struct store_meta none = {0};
	assert_int_equal(object_meta_to_entry(&none, 5, false, &back), -ENODATA);
}

static void test_newer_wins(void **state)
{
	struct store *s = open_store(*state);
	struct entry old = file_entry("old", 10 << 16, 1), new = file_entry("newer", 20 << 16, 2);
	bool superseded;

	assert_int_equal(deliver(s, "f", &old, "old", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "f", &new, "newer", true, NULL), STORE_OK);
	expect(s, "f", "newer", new.content_stamp, new.attr_stamp);
	assert_int_equal(deliver(s, "f", &old, "old", false, &superseded), STORE_OK);
	assert_true(superseded);
	expect(s, "f", "newer", new.content_stamp, new.attr_stamp);
	store_close(s);
}

/* Content of one, attributes of the other: both registers survive, whoever comes last. */
static void test_registers_merge(void **state)
{
	struct store *s = open_store(*state);
	struct entry a = file_entry("content", 20 << 16, 1), b = file_entry("older", 10 << 16, 2);

	b.attr_stamp.time = 30 << 16;
	b.mode = 0600;
	assert_int_equal(deliver(s, "f", &a, "content", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "f", &b, "older", false, NULL), STORE_OK);
	expect(s, "f", "content", a.content_stamp, b.attr_stamp);
	assert_int_equal(deliver(s, "g", &b, "older", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "g", &a, "content", false, NULL), STORE_OK);
	expect(s, "g", "content", a.content_stamp, b.attr_stamp);
	store_close(s);
}

static void test_tombstone(void **state)
{
	struct store *s = open_store(*state);
	struct entry old = file_entry("old", 10 << 16, 1), new = file_entry("new", 30 << 16, 1);
	struct entry gone = {.kind = KIND_ABSENT, .content_stamp = {20 << 16, 2}};
	char trash[OBJECT_TRASH_SIZE + STAMP_TEXT_SIZE + 3];
	bool superseded;

	assert_int_equal(deliver(s, "f", &old, "old", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "f", &gone, NULL, false, NULL), STORE_OK);
	expect(s, "f", NULL, gone.content_stamp, gone.attr_stamp);
	object_trash_prefix(old.hash, trash);
	stamp_format(gone.content_stamp, trash + strlen(trash));
	strcat(trash, "/f");
	expect(s, trash, "old", old.content_stamp, old.attr_stamp);
	assert_int_equal(deliver(s, "f", &new, "new", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "f", &gone, NULL, false, &superseded), STORE_OK);
	assert_true(superseded);
	expect(s, "f", "new", new.content_stamp, new.attr_stamp);
	store_close(s);
}

/* Nobody else wrote the path, so the form that is there is all; without that hint both go. */
static void test_tombstone_of_one_writer(void **state)
{
	struct store *s = open_store(*state);
	struct entry dir = {
		.kind = KIND_DIR, .content_stamp = {5 << 16, 1}, .attr_stamp = {5 << 16, 1}};
	struct entry file = file_entry("file", 10 << 16, 1);
	struct entry gone = {.kind = KIND_ABSENT, .content_stamp = {20 << 16, 1}};
	struct stamp never = {0};

	assert_int_equal(deliver(s, "x", &dir, NULL, true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "x", &file, "file", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "x", &gone, NULL, true, NULL), STORE_OK);
	expect(s, "x", NULL, never, never);
	expect(s, "x/", "", dir.content_stamp, dir.attr_stamp);
	assert_int_equal(deliver(s, "x", &file, "file", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "x", &gone, NULL, false, NULL), STORE_OK);
	expect(s, "x", NULL, never, never);
	expect(s, "x/", NULL, never, never);
	store_close(s);
}

static int find_foreign(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	snprintf(ctx, STORE_KEY_MAX + 1, "%s", key);
	return 0;
}

/* What another tool wrote is kept before it is overwritten. */
static void test_foreign_kept(void **state)
{
	struct store *s = open_store(*state);
	struct entry e = file_entry("ours", 10 << 16, 1);
	struct store_error error = {0};
	CLEANUP(buf_done) struct buf b = {0};
	char kept[STORE_KEY_MAX + 1] = "";

	assert_int_equal(
		store_put_buf(s, "f", "theirs", 6, NULL, NULL, NULL, NULL, &error), STORE_OK);
	assert_int_equal(deliver(s, "f", &e, "ours", true, NULL), STORE_OK);
	expect(s, "f", "ours", e.content_stamp, e.attr_stamp);
	assert_int_equal(store_list(s, ".meridian/conflicts/foreign/", NULL, 0, find_foreign, kept,
				 NULL, &error),
		STORE_OK);
	assert_int_equal(store_get_buf(s, kept, 100, &b, NULL, NULL, NULL, &error), STORE_OK);
	assert_string_equal(buf_str(&b), "theirs");
	store_close(s);
}

static void test_kind_change(void **state)
{
	struct store *s = open_store(*state);
	struct entry file = file_entry("file", 10 << 16, 1), late = file_entry("late", 15 << 16, 3);
	struct entry dir = {
		.kind = KIND_DIR, .content_stamp = {20 << 16, 2}, .attr_stamp = {20 << 16, 2}};
	bool superseded;

	assert_int_equal(deliver(s, "x", &file, "file", true, NULL), STORE_OK);
	assert_int_equal(deliver(s, "x", &dir, NULL, false, NULL), STORE_OK);
	expect(s, "x/", "", dir.content_stamp, dir.attr_stamp);
	expect(s, "x", NULL, dir.content_stamp, dir.attr_stamp);
	assert_int_equal(deliver(s, "x", &late, "late", false, &superseded), STORE_OK);
	assert_true(superseded);
	expect(s, "x", NULL, dir.content_stamp, dir.attr_stamp);
	store_close(s);
}

int main(void)
{
#define CLUSTER_TEST(fn) cmocka_unit_test_setup_teardown(fn, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_meta_round_trip),
		cmocka_unit_test(test_xattrs_too_large),
		cmocka_unit_test(test_hostile_meta),
		CLUSTER_TEST(test_newer_wins),
		CLUSTER_TEST(test_registers_merge),
		CLUSTER_TEST(test_tombstone),
		CLUSTER_TEST(test_tombstone_of_one_writer),
		CLUSTER_TEST(test_foreign_kept),
		CLUSTER_TEST(test_kind_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
