/* Entries: encoding, the table, scans that do not read tombstones. */
#include "tests/unit/replica_fixture.h"

#include "cache/entry.h"
#include "cache/replication.h"

static struct stamp random_stamp(void)
{
	return (struct stamp){random_below(4) ? random_u64() : 0, random_u64()};
}

static void random_entry(struct entry *e)
{
	*e = (struct entry){.kind = (enum kind)random_below(4)};
	e->size = e->kind == KIND_FILE ? random_u64() >> random_below(64) : 0;
	if (e->kind == KIND_FILE)
		random_bytes(e->hash, sizeof(e->hash));
	if (e->kind == KIND_SYMLINK)
		e->target = strdup(random_below(2) ? "../x" : "");
	e->content_mtime_ns = (int64_t)random_u64();
	e->content_stamp = random_stamp();
	e->mode = (uint32_t)random_below(010000);
	e->uid = (uint32_t)random_u64();
	e->gid = (uint32_t)random_u64();
	for (uint64_t n = random_below(3) ? 0 : random_below(300); n; n--)
		buf_put_u8(&e->xattrs, (uint8_t)n);
	e->attr_stamp = random_stamp();
	e->mtime_ns = (int64_t)random_u64();
	e->mtime_stamp = random_stamp();
	for (uint64_t n = random_below(VECTOR_MAX + 1); n; n--)
		vector_raise(&e->vector, (struct stamp){random_u64(), random_below(20)});
}

static void assert_same(const struct entry *a, const struct entry *b)
{
	assert_true(entry_content_equal(a, b));
	assert_true(entry_attr_equal(a, b));
	assert_int_equal(a->content_mtime_ns, b->content_mtime_ns);
	assert_int_equal(stamp_cmp(a->content_stamp, b->content_stamp), 0);
	assert_int_equal(stamp_cmp(a->attr_stamp, b->attr_stamp), 0);
	assert_int_equal(a->mtime_ns, b->mtime_ns);
	assert_int_equal(stamp_cmp(a->mtime_stamp, b->mtime_stamp), 0);
	assert_int_equal(a->xattrs.len, b->xattrs.len);
	assert_int_equal(a->vector.count, b->vector.count);
	assert_memory_equal(a->vector.item, b->vector.item, a->vector.count * sizeof(struct stamp));
}

static void entries_come_back_as_they_were_put(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = test_seed(101);

	print_message("seed %llu\n", (unsigned long long)seed);
	random_seed_deterministic(seed);
	for (unsigned i = 0; i < 500; i++) {
		CLEANUP(entry_done) struct entry e = {0}, got = {0}, copy = {0};
		struct conn *conn = fixture_begin(f);

		random_entry(&e);
		assert_int_equal(entry_put(conn, slice_of("k"), &e), 0);
		assert_int_equal(entry_get(conn, slice_of("k"), &got), 0);
		assert_same(&e, &got);
		assert_int_equal(entry_copy(&copy, &got), 0);
		assert_same(&e, &copy);
		fixture_commit(conn);
	}
	random_use_system();
}

static void damage_is_an_error(void **state UNUSED)
{
	random_seed_deterministic(test_seed(102));
	for (unsigned i = 0; i < 200; i++) {
		CLEANUP(entry_done) struct entry e = {0};
		CLEANUP(buf_done) struct buf b = {0};

		random_entry(&e);
		entry_encode(&e, &b);
		for (size_t n = 0; n < b.len; n++) {
			/* A block of its own, so that the address sanitizer sees a read beyond. */
			AUTO_FREE char *cut = malloc(n ? n : 1);
			struct entry got = {0};

			memcpy(cut, b.data, n);
			assert_int_equal(entry_decode((struct slice){cut, n}, &got), -EIO);
		}
		for (unsigned j = 0; j < 50; j++) {
			size_t at = random_below(b.len);
			uint8_t was = b.data[at];
			struct entry got = {0};

			b.data[at] = (uint8_t)random_u64();
			if (entry_decode((struct slice){(char *)b.data, b.len}, &got) == 0)
				entry_done(&got);
			b.data[at] = was;
		}
		buf_put_u8(&b, 0);
		assert_int_equal(entry_decode((struct slice){(char *)b.data, b.len}, &e), -EIO);
	}
	random_use_system();
}

static void mtime_is_of_the_newer_register(void **state UNUSED)
{
	struct entry e = {.content_mtime_ns = 1, .content_stamp = {5, 1}, .mtime_ns = 2};

	assert_int_equal(entry_mtime(&e), 1);
	e.mtime_stamp = (struct stamp){5, 2};
	assert_int_equal(entry_mtime(&e), 2);
	e.content_stamp = (struct stamp){6, 0};
	assert_int_equal(entry_mtime(&e), 1);
	e.attr_stamp = (struct stamp){9, 9};
	assert_int_equal(entry_stamp(&e).time, 9);
}

#define KEYS 60

struct listing {
	struct key keys[KEYS];
	unsigned count;
};

static int list_key(void *ctx, struct slice key)
{
	struct listing *l = ctx;

	assert_true(l->count < KEYS);
	assert_true(key_set(&l->keys[l->count++], key));
	return 0;
}

static int key_cmp(const void *a, const void *b)
{
	const struct key *x = a, *y = b;
	int r = memcmp(x->p, y->p, x->len < y->len ? x->len : y->len);

	return r ? r : (x->len > y->len) - (x->len < y->len);
}

/* Components that sort around '/'. */
static struct key random_key(void)
{
	static const char *const names[] = {"a", "a-", "a0", "a.", "b", "\xff\xff", "c"};
	struct key k = {0};

	for (uint64_t depth = random_below(4); depth; depth--) {
		const char *name = names[random_below(ARRAY_SIZE(names))];

		if (k.len)
			k.p[k.len++] = '/';
		memcpy(k.p + k.len, name, strlen(name) + 1);
		k.len += strlen(name);
	}
	return k;
}

static bool at_or_below(struct slice key, struct slice prefix)
{
	if (prefix.len == 0)
		return true;
	return key.len >= prefix.len && memcmp(key.p, prefix.p, prefix.len) == 0 &&
	       (key.len == prefix.len || key.p[prefix.len] == '/');
}

static void check_scan(struct conn *conn, const struct key *all, const bool *live, unsigned count)
{
	struct key prefix = random_key(), after = random_key();
	bool live_only = random_below(2) != 0, below = false, got_below = true;
	bool from_start = random_below(3) == 0;
	struct slice from = from_start ? (struct slice){0} : key_slice(&after);
	unsigned limit = (unsigned)random_below(8), want = 0;
	struct listing got = {.count = 0};

	assert_int_equal(
		entry_scan(conn, key_slice(&prefix), from, live_only, limit, list_key, &got), 0);
	for (unsigned i = 0; i < count; i++) {
		if (live[i] && all[i].len > prefix.len &&
			at_or_below(key_slice(&all[i]), key_slice(&prefix)))
			below = true;
		if (want == limit || !at_or_below(key_slice(&all[i]), key_slice(&prefix)))
			continue;
		if ((live_only && !live[i]) || (!from_start && key_cmp(&all[i], &after) <= 0))
			continue;
		assert_true(want < got.count);
		assert_true(slice_equal(key_slice(&got.keys[want]), key_slice(&all[i])));
		want++;
	}
	assert_int_equal(got.count, want);
	assert_int_equal(entry_has_live_below(conn, key_slice(&prefix), &got_below), 0);
	assert_int_equal(got_below, below);
}

static void scans_agree_with_a_sorted_list(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = test_seed(103);

	print_message("seed %llu\n", (unsigned long long)seed);
	random_seed_deterministic(seed);
	for (unsigned round = 0; round < 100; round++) {
		struct conn *conn = fixture_begin(f);
		struct key all[KEYS];
		bool live[KEYS];
		unsigned count = 0;
		uint64_t alive = 0, dead = 0, lives = 0;

		for (unsigned i = 0; i < 30; i++) {
			struct key k = random_key();

			if (count == 0 || !bsearch(&k, all, count, sizeof(k), key_cmp)) {
				all[count++] = k;
				qsort(all, count, sizeof(k), key_cmp);
			}
		}
		for (unsigned i = 0; i < count; i++) {
			struct entry e = {.kind = KIND_DIR};

			/* Twice, so that counts see changes in both directions. */
			for (unsigned j = 0; j < 2; j++) {
				live[i] = random_below(2) != 0;
				e.kind = live[i] ? KIND_DIR : KIND_ABSENT;
				assert_int_equal(entry_put(conn, key_slice(&all[i]), &e), 0);
			}
			lives += live[i];
		}
		assert_int_equal(entry_count(conn, &alive, &dead), 0);
		assert_int_equal(alive, lives);
		assert_int_equal(dead, count - lives);
		for (unsigned i = 0; i < 50; i++)
			check_scan(conn, all, live, count);
		if (round == 0)
			assert_no_scans(conn, "entry");
		cache_rollback(conn);
	}
	random_use_system();
}

static void tombstones_cost_nothing(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct entry dead = {.kind = KIND_ABSENT}, live = {.kind = KIND_DIR};
	struct listing got = {.count = 0};
	bool below = true;

	for (unsigned i = 0; i < 20000; i++) {
		char key[32];

		snprintf(key, sizeof(key), "d/%u", i);
		assert_int_equal(entry_put(conn, slice_of(key), &dead), 0);
	}
	assert_int_equal(entry_put(conn, slice_of("e"), &live), 0);
	(void)vm_steps(conn);
	assert_int_equal(entry_has_live_below(conn, slice_of("d"), &below), 0);
	assert_false(below);
	assert_int_equal(entry_scan(conn, slice_of(""), slice_of(""), true, 10, list_key, &got), 0);
	assert_int_equal(got.count, 1);
	assert_true(vm_steps(conn) < 200);
	fixture_commit(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			entries_come_back_as_they_were_put, fixture_setup, fixture_teardown),
		cmocka_unit_test(damage_is_an_error),
		cmocka_unit_test(mtime_is_of_the_newer_register),
		cmocka_unit_test_setup_teardown(
			scans_agree_with_a_sorted_list, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(
			tombstones_cost_nothing, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
