/* What metadata of other tools say, also when nobody sane wrote them; and that every server makes the same of an
 * object. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "replicator/foreign.h"

static struct foreign_meta read_meta(const char *name, const char *value)
{
	CLEANUP(store_meta_done) struct store_meta m = {0};
	struct foreign_meta ret;

	assert_int_equal(store_meta_set(&m, name, value), 0);
	foreign_meta_read(&m, &ret);
	return ret;
}

static void test_mode(void **state)
{
	static const struct {
		const char *text;
		bool has;
		enum kind kind;
		uint32_t mode;
	} cases[] = {
		{"33188", true, KIND_FILE, 0644}, /* s3fs */
		{"33261", true, KIND_FILE, 0755},
		{"16877", true, KIND_DIR, 0755},
		{"41471", true, KIND_SYMLINK, 0777},
		{"35309", true, KIND_FILE, 04755},
		{"4516", true, KIND_ABSENT, 0644}, /* a FIFO */
		{"100644", true, KIND_FILE, 0644}, /* rclone */
		{"0100600", true, KIND_FILE, 0600},
		{"40755", true, KIND_DIR, 0755},
		{"120777", true, KIND_SYMLINK, 0777},
		{"644", true, KIND_FILE, 0644},
		{"0644", true, KIND_FILE, 0644},
		{"0", true, KIND_FILE, 0},
		{"", false, 0, 0},
		{"-1", false, 0, 0},
		{"rw-r--r--", false, 0, 0},
		{"99999", false, 0, 0},
		{"99999999999999999999999", false, 0, 0},
		{"644 ", false, 0, 0},
		{"0x1ff", false, 0, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(store_meta_done) struct store_meta m = {0};
		struct foreign_meta got;

		if (store_meta_set(&m, "mode", cases[i].text) < 0)
			continue; /* no header has it */
		foreign_meta_read(&m, &got);
		if (got.has_mode != cases[i].has)
			fail_msg("mode %s", cases[i].text);
		if (got.has_mode && (got.kind != cases[i].kind || got.mode != cases[i].mode))
			fail_msg("mode %s: kind %d mode %o", cases[i].text, got.kind, got.mode);
	}
}

static void test_mtime(void **state)
{
	static const struct {
		const char *text;
		bool has;
		int64_t ns;
	} cases[] = {
		{"1600000000", true, 1600000000000000000},
		{"1600000000.25", true, 1600000000250000000},
		{"1600000000.123456789", true, 1600000000123456789},
		{"1600000000.1234567891", true, 1600000000123456789},
		{"-1.5", true, -1500000000},
		{"2020-09-13T12:26:40Z", true, 1600000000000000000},
		{"2020-09-13T14:26:40.5+02:00", true, 1600000000500000000},
		{"2020-09-13T08:56:40-03:30", true, 1600000000000000000},
		{"2020-13-13T12:26:40Z", false, 0},
		{"2020-09-13 12:26:40", false, 0},
		{"2020-09-13T12:26:40", false, 0},
		{"2020-09-13T12:26:40+2", false, 0},
		{"1600000000.", false, 0},
		{"16e8", false, 0},
		{"99999999999", false, 0},
		{"soon", false, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct foreign_meta got = read_meta("mtime", cases[i].text);

		if (got.has_mtime != cases[i].has || (got.has_mtime && got.mtime_ns != cases[i].ns))
			fail_msg("mtime %s: %lld", cases[i].text, (long long)got.mtime_ns);
	}
}

static void test_owner(void **state)
{
	CLEANUP(store_meta_done) struct store_meta m = {0};
	struct foreign_meta got;

	assert_int_equal(store_meta_set(&m, "uid", "12"), 0);
	foreign_meta_read(&m, &got);
	assert_false(got.has_owner); /* half of one */
	assert_int_equal(store_meta_set(&m, "gid", "4294967294"), 0);
	foreign_meta_read(&m, &got);
	assert_true(got.has_owner);
	assert_int_equal(got.gid, 4294967294u);
	assert_int_equal(store_meta_set(&m, "gid", "4294967295"), 0);
	foreign_meta_read(&m, &got);
	assert_false(got.has_owner);
}

static void test_stamps(void **state)
{
	struct stamp a = foreign_stamp("east", 1600000000123),
		     b = foreign_stamp("east", 1600000000000);
	struct stamp later = foreign_stamp("east", 1600000001000),
		     west = foreign_stamp("west", 1600000000123);

	/* One answer has milliseconds, another not. */
	assert_int_equal(stamp_cmp(a, b), 0);
	assert_true(stamp_cmp(later, a) > 0);
	assert_int_equal(west.time, a.time);
	assert_int_not_equal(west.node, a.node);
	assert_int_equal(hlc_ms(a.time), 1600000000999);
}

/* Two servers that know different versions of the path, or none, still make one content register of it as long as the
 * object is later than them. */
static void test_one_register(void **state)
{
	const struct store_object object = {.size = 3, .mtime_ms = 1600000000000};
	const struct foreign_meta meta = {0};
	struct entry before = {.kind = KIND_FILE,
		.size = 1,
		.mode = 0640,
		.uid = 7,
		.content_stamp = {1000, 5},
		.attr_stamp = {1000, 5}};
	struct foreign_object o = {
		.region = "east", .object = &object, .meta = &meta, .hash = {1, 2, 3}};
	struct entry new = {0}, over = {0}, gone = {0};

	vector_raise(&before.vector, before.content_stamp);
	assert_int_equal(foreign_put(&o, &new), 0);
	o.before = &before;
	o.over = true;
	assert_int_equal(foreign_put(&o, &over), 0);
	assert_int_equal(stamp_cmp(new.content_stamp, over.content_stamp), 0);
	assert_true(entry_content_equal(&new, &over));
	assert_int_equal(new.content_mtime_ns, over.content_mtime_ns);
	assert_int_equal(new.mode, 0644);
	/* What it says nothing of stays. */
	assert_int_equal(over.mode, 0640);
	assert_int_equal(stamp_cmp(over.attr_stamp, before.attr_stamp), 0);
	assert_int_equal(vector_get(&over.vector, 5), 1000);
	assert_int_equal(vector_get(&new.vector, 5), 0);

	/* Over a version with a later stamp. */
	before.content_stamp.time = UINT64_MAX / 2;
	entry_done(&over);
	assert_int_equal(foreign_put(&o, &over), 0);
	assert_int_equal(over.content_stamp.time, before.content_stamp.time + 1);

	assert_int_equal(foreign_remove("east", &before, true, &gone), 0);
	assert_int_equal(gone.kind, KIND_ABSENT);
	assert_int_equal(gone.content_stamp.time, before.content_stamp.time + 1);
	assert_int_equal(vector_get(&gone.vector, 5), before.content_stamp.time);
	/* It is not what another server made of what another tool put there meanwhile, and knows nothing of it. */
	assert_int_not_equal(stamp_cmp(gone.content_stamp, over.content_stamp), 0);
	assert_int_equal(vector_get(&gone.vector, foreign_node("east")), 0);

	/* Not that version, but what its server wrote before it, and whatever else it had seen. */
	vector_raise(&before.vector, before.content_stamp);
	vector_raise(&before.vector, (struct stamp){.time = 77, .node = 7});
	entry_done(&gone);
	assert_int_equal(foreign_remove("east", &before, false, &gone), 0);
	assert_int_equal(gone.content_stamp.time, before.content_stamp.time + 1);
	assert_int_equal(vector_get(&gone.vector, 5), before.content_stamp.time - 1);
	assert_int_equal(vector_get(&gone.vector, 7), 77);
	entry_done(&new);
	entry_done(&over);
	entry_done(&gone);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mode),
		cmocka_unit_test(test_mtime),
		cmocka_unit_test(test_owner),
		cmocka_unit_test(test_stamps),
		cmocka_unit_test(test_one_register),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
