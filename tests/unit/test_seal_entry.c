/* From a key's state to its next entry: which registers change, by the rule alone and through the
 * sealer, also where several names of a file say different things. */
#include "engine_fixture.h"

#include "replicator/seal_internal.h"

static void rule(void **state)
{
	struct local_state l = {.kind = KIND_FILE, .mode = 0644};
	struct seal_state st = {.local = &l, .size = 3, .hash = l.hash, .mtime_ns = 50};
	struct entry none = {0}, e, f;

	assert_int_equal(seal_changes(&none, &st), SEAL_CONTENT | SEAL_ATTR);
	assert_int_equal(
		seal_apply(&none, &st, SEAL_CONTENT | SEAL_ATTR, (struct stamp){9, 1}, &e), 0);
	assert_int_equal(seal_changes(&e, &st), 0);
	assert_int_equal(seal_floor(&e), 9);
	st.mtime_ns = 51;
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME);
	st.size = 4;
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT);
	l.mode = 0600;
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT | SEAL_ATTR);
	/* Of several names: what another one's entry says already is not said again. */
	f = (struct entry){.kind = KIND_FILE, .mode = 0600, .mtime_ns = 51, .mtime_stamp = {99, 1}};
	st.shown = &f;
	st.node = 7;
	st.size = 3;
	assert_int_equal(seal_changes(&e, &st), 0);
	/* Unless it is our own. */
	st.node = 1;
	f.attr_stamp = (struct stamp){99, 2};
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME);
	f.attr_stamp.node = 1;
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME | SEAL_ATTR);
	st.node = 7;
	l.link = (struct link_id){1, 2};
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT | SEAL_ATTR);
	l.mode = f.mode = 0644;
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT);
	assert_int_equal(seal_apply(&e, &st, SEAL_CONTENT, (struct stamp){12 << 16, 1}, &f), 0);
	assert_true(link_id_equal(f.link, l.link));
	entry_done(&f);
	l.link = (struct link_id){0};
	st.shown = NULL;
	st.size = 4;
	l.kind = KIND_ABSENT;
	assert_int_equal(seal_changes(&none, &st), 0);
	assert_int_equal(seal_changes(&e, &st), SEAL_CONTENT);
	assert_int_equal(seal_apply(&e, &st, SEAL_CONTENT, (struct stamp){12 << 16, 1}, &f), 0);
	assert_false(entry_live(&f));
	assert_int_equal(f.mode, 0644);
	assert_int_equal(seal_changes(&f, &st), 0);
	l.kind = KIND_FILE;
	assert_int_equal(seal_changes(&f, &st), SEAL_CONTENT | SEAL_ATTR);
	entry_done(&e);
	entry_done(&f);
	/* A directory's time is its own register. */
	l.kind = KIND_DIR;
	assert_int_equal(
		seal_apply(&none, &st, SEAL_CONTENT | SEAL_ATTR, (struct stamp){9, 1}, &e), 0);
	st.mtime_ns++;
	assert_int_equal(seal_changes(&e, &st), SEAL_MTIME);
	vector_raise(&e.vector, (struct stamp){99, 5});
	assert_int_equal(seal_floor(&e), 99);
	entry_done(&e);
}

static void registers(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry a = {0}, b = {0}, c = {0}, d = {0};

	do_write(s, "f", "hello");
	seal(s);
	get_entry(s, "f", &a);
	do_chmod(s, "f", 0600);
	seal(s);
	get_entry(s, "f", &b);
	assert_int_equal(stamp_cmp(a.content_stamp, b.content_stamp), 0);
	assert_true(stamp_cmp(b.attr_stamp, a.attr_stamp) > 0);
	assert_int_equal(b.mode, 0600);
	assert_int_equal(b.mtime_stamp.time, 0);
	do_touch(s, "f", 123456789);
	seal(s);
	get_entry(s, "f", &c);
	assert_int_equal(stamp_cmp(b.content_stamp, c.content_stamp), 0);
	assert_int_equal(stamp_cmp(b.attr_stamp, c.attr_stamp), 0);
	assert_int_equal(c.mtime_ns, 123456789);
	assert_int_equal(entry_mtime(&c), 123456789);
	do_write(s, "f", "other");
	seal(s);
	get_entry(s, "f", &d);
	assert_true(stamp_cmp(d.content_stamp, c.mtime_stamp) > 0);
	assert_int_equal(entry_mtime(&d), d.content_mtime_ns);
	assert_int_equal(stamp_cmp(d.attr_stamp, c.attr_stamp), 0);
}

static void tombstones(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry a = {0}, b = {0};
	struct stamp first;

	do_write(s, "f", "hello");
	do_symlink(s, "l", "f");
	seal(s);
	get_entry(s, "f", &a);
	first = a.attr_stamp;
	entry_done(&a);
	do_unlink(s, "f");
	do_unlink(s, "l");
	seal(s);
	get_entry(s, "f", &a);
	assert_int_equal(a.kind, KIND_ABSENT);
	assert_int_equal(stamp_cmp(a.attr_stamp, first), 0);
	/* A new life has attributes of its own. */
	do_write(s, "f", "hello");
	seal(s);
	get_entry(s, "f", &b);
	assert_int_equal(b.kind, KIND_FILE);
	assert_true(stamp_cmp(b.attr_stamp, a.content_stamp) > 0);
}

/* What was changed through one name stays when that name goes, here and elsewhere. */
static void attributes_outlive_the_name(void **state)
{
	struct server *s = *state, *other = s + 1;
	CLEANUP(entry_done) struct entry f = {0}, g = {0};

	do_symlink(s, "f", "target");
	do_link(s, "f", "g");
	seal(s);
	do_touch(s, "f", -1000000007);
	seal(s);
	do_chmod(s, "g", 0600);
	seal(s);
	get_entry(s, "f", &f);
	get_entry(s, "g", &g);
	assert_int_equal(stamp_cmp(f.attr_stamp, g.attr_stamp), 0);
	assert_int_equal(stamp_cmp(f.mtime_stamp, g.mtime_stamp), 0);
	carry_all(s, other);
	do_unlink(s, "f");
	seal(s);
	carry_all(s, other);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(inode_at(s + i, "g").mode & 07777, 0600);
		assert_int_equal(inode_at(s + i, "g").mtime_ns, -1000000007);
	}
}

struct toucher {
	struct server *server;
	int64_t mtime_ns;
	unsigned mode;
};

static bool touch_names(void *ctx, unsigned region UNUSED)
{
	struct toucher *t = ctx;

	do_touch(t->server, "f", --t->mtime_ns);
	t->mode = 0600 + (unsigned)(-t->mtime_ns % 64);
	do_chmod(t->server, "f", t->mode);
	return false;
}

/* In a backlog a version is sealed that was overtaken. A time or mode that was set since it was taken stays,
 * on a file of several names, too. */
static void what_overtakes_a_seal_stays(void **state)
{
	struct server *s = *state;
	CLEANUP(entry_done) struct entry e = {0};
	static char large[5001];
	struct toucher t = {.server = s, .mtime_ns = -1000000007};
	struct inline_cache *cache = inline_cache_new(1 << 16);
	const struct sealer_options o = {.inline_max = INLINE_MAX,
		.seal_after_ms = 5000,
		.region_up = touch_names,
		.region_ctx = &t};
	struct sealer *sealer;
	bool did;

	/* The second version of a large file makes the sealer ask about its region: the hook. */
	memset(large, 'a', 5000);
	do_write(s, "hook", large);
	do_write(s, "f", "one");
	do_link(s, "f", "g");
	seal(s);
	do_write(s, "f", "two");
	memset(large, 'b', 5000);
	do_write(s, "hook", large);
	for (unsigned i = 0; i < 1000; i++)
		do_chmod(s, "f", 0644);
	assert_int_equal(sealer_new(s->cache, &o, cache, &sealer), 0);
	assert_int_equal(sealer_step(sealer, &did), 0);
	assert_true(did);
	assert_int_equal(t.mtime_ns, -1000000008);
	get_entry(s, "f", &e);
	assert_int_equal(e.content_stamp.time, entry_stamp(&e).time);
	assert_true(entry_mtime(&e) > 0);
	assert_int_equal(inode_at(s, "g").mtime_ns, t.mtime_ns);
	assert_int_equal(inode_at(s, "g").mode & 07777, t.mode);
	sealer_free(sealer);
	inline_cache_free(cache);
	seal(s);
	entry_done(&e);
	get_entry(s, "g", &e);
	assert_int_equal(entry_mtime(&e), t.mtime_ns);
	assert_int_equal(e.mode, t.mode);
	assert_int_equal(inode_at(s, "f").mtime_ns, t.mtime_ns);
}

/* A name that another server gave the file says what its attributes were there: what was changed here and
 * is not sealed stays. */
static void a_new_name_leaves_what_waits(void **state)
{
	struct server *s = *state, *other = s + 1;

	do_write(s, "f", "one");
	do_link(s, "f", "g");
	seal(s);
	carry_all(s, other);
	do_link(other, "f", "h");
	seal(other);
	do_chmod(s, "f", 0600);
	do_touch(s, "f", -1000000007);
	carry(other, s, "h");
	assert_int_equal(inode_at(s, "h").nlink, 3);
	assert_int_equal(inode_at(s, "h").mode & 07777, 0600);
	assert_int_equal(inode_at(s, "h").mtime_ns, -1000000007);
	seal(s);
	carry_all(s, other);
	seal(other);
	carry_all(other, s);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(inode_at(s + i, "h").nlink, 3);
		assert_int_equal(inode_at(s + i, "h").mode & 07777, 0600);
		assert_int_equal(inode_at(s + i, "h").mtime_ns, -1000000007);
	}
}

/* The name of another file that one of several is moved over shows nothing of that file. */
static void a_replaced_file_leaves_no_attributes(void **state)
{
	struct server *s = *state;

	do_write(s, "f", "one");
	do_link(s, "f", "g");
	do_write(s, "x", "two");
	seal(s);
	do_chmod(s, "x", 0600);
	seal(s);
	do_chmod(s, "f", 0640);
	do_rename(s, "g", "x");
	seal(s);
	do_unlink(s, "f");
	seal(s);
	assert_int_equal(inode_at(s, "x").mode & 07777, 0640);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rule),
		TEST(registers),
		TEST(tombstones),
		TEST(attributes_outlive_the_name),
		TEST(what_overtakes_a_seal_stays),
		TEST(a_new_name_leaves_what_waits),
		TEST(a_replaced_file_leaves_no_attributes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
