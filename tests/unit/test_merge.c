/* The merge is a join: commutative, associative, idempotent, independent of order; conflicts are
 * what the vectors say. MERIDIAN_SEED in the environment repeats a run; a failure prints it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "replicator/merge.h"
#include "src/base/random.h"

#define NODES 20 /* more than a vector holds */

static struct stamp random_stamp(void)
{
	return (struct stamp){1 + random_below(12), 1 + random_below(random_below(4) ? 4 : NODES)};
}

/* Values are functions of stamps as with honest writers, or not, as with hostile ones. */
static void random_entry(struct entry *e, bool honest)
{
	static const char *const targets[] = {"a", "b", "c"};
	uint64_t v;

	*e = (struct entry){.content_stamp = random_stamp(), .attr_stamp = random_stamp()};
	v = honest ? e->content_stamp.time * 31 + e->content_stamp.node : random_below(6);
	e->kind = (enum kind)(v % 4);
	if (e->kind == KIND_FILE) {
		e->size = v % 3;
		memset(e->hash, (int)(v % 5), SHA256_SIZE);
	}
	if (e->kind == KIND_SYMLINK)
		e->target = strdup(targets[v / 4 % 3]);
	if (e->kind == KIND_FILE || e->kind == KIND_SYMLINK)
		e->link = (struct link_id){v % 2, v % 2 ? v % 3 : 0};
	e->content_mtime_ns = (int64_t)(v % 7);
	v = honest ? e->attr_stamp.time * 31 + e->attr_stamp.node : random_below(6);
	e->mode = (uint32_t)(v % 3);
	e->uid = (uint32_t)(v % 2);
	if (v % 5 == 0)
		buf_put(&e->xattrs, "\1\1a\1b", 5);
	if (random_below(2)) {
		e->mtime_stamp = random_stamp();
		v = honest ? e->mtime_stamp.time * 31 + e->mtime_stamp.node : random_below(6);
		e->mtime_ns = (int64_t)v;
	}
	for (unsigned i = (unsigned)random_below(20); i; i--)
		vector_raise(&e->vector, random_stamp());
}

static bool equal(const struct entry *a, const struct entry *b)
{
	return entry_content_equal(a, b) && link_id_equal(a->link, b->link) && entry_attr_equal(a, b) &&
	       a->content_mtime_ns == b->content_mtime_ns && a->mtime_ns == b->mtime_ns &&
	       stamp_cmp(a->content_stamp, b->content_stamp) == 0 &&
	       stamp_cmp(a->attr_stamp, b->attr_stamp) == 0 &&
	       stamp_cmp(a->mtime_stamp, b->mtime_stamp) == 0 &&
	       a->vector.count == b->vector.count &&
	       memcmp(a->vector.item, b->vector.item,
		       a->vector.count * sizeof(a->vector.item[0])) == 0;
}

static struct merge_outcome merge(const struct entry *a, const struct entry *b, struct entry *ret)
{
	struct merge_outcome o;

	assert_int_equal(entry_merge(a, b, ret, &o), 0);
	return o;
}

static void check_pair(const struct entry *a, const struct entry *b)
{
	CLEANUP(entry_done) struct entry ab = {0}, ba = {0}, again = {0}, self = {0};
	struct merge_outcome x = merge(a, b, &ab), y = merge(b, a, &ba), z;

	assert_true(equal(&ab, &ba));
	assert_int_equal(x.conflict, y.conflict);
	if (x.conflict)
		assert_int_not_equal(x.local_won, y.local_won);
	assert_false(x.content_changed && y.content_changed);
	z = merge(&ab, b, &again);
	assert_true(equal(&ab, &again));
	assert_false(z.content_changed || z.attr_changed || z.mtime_changed || z.vector_changed);
	assert_false(z.conflict && !(x.conflict && x.local_won));
	merge(a, a, &self);
	assert_true(equal(&self, a));
}

static void check_triple(const struct entry *e)
{
	CLEANUP(entry_done) struct entry ab = {0}, ab_c = {0}, bc = {0}, a_bc = {0};

	merge(&e[0], &e[1], &ab);
	merge(&ab, &e[2], &ab_c);
	merge(&e[1], &e[2], &bc);
	merge(&e[0], &bc, &a_bc);
	assert_true(equal(&ab_c, &a_bc));
}

static void join(void **state)
{
	for (unsigned i = 0; i < 30000; i++) {
		struct entry e[3];

		for (unsigned k = 0; k < 3; k++)
			random_entry(&e[k], i & 1);
		check_pair(&e[0], &e[1]);
		check_triple(e);
		for (unsigned k = 0; k < 3; k++)
			entry_done(&e[k]);
	}
}

#define MANY 8

/* Folds all entries, in a random order with repetitions, into one that starts empty. */
static void fold(const struct entry *e, struct entry *ret)
{
	unsigned order[2 * MANY];

	for (unsigned i = 0; i < 2 * MANY; i++)
		order[i] = i % MANY;
	for (unsigned i = 2 * MANY - 1; i; i--) {
		unsigned k = (unsigned)random_below(i + 1), swap = order[i];

		order[i] = order[k];
		order[k] = swap;
	}
	*ret = (struct entry){0};
	for (unsigned i = 0; i < 2 * MANY; i++) {
		struct entry next;

		merge(ret, &e[order[i]], &next);
		entry_done(ret);
		*ret = next;
	}
}

static void order_independent(void **state)
{
	for (unsigned i = 0; i < 5000; i++) {
		CLEANUP(entry_done) struct entry x = {0}, y = {0};
		struct entry e[MANY];

		for (unsigned k = 0; k < MANY; k++)
			random_entry(&e[k], i & 1);
		fold(e, &x);
		fold(e, &y);
		assert_true(equal(&x, &y));
		for (unsigned k = 0; k < MANY; k++)
			entry_done(&e[k]);
	}
}

static struct entry file(uint64_t time, uint64_t node, int content)
{
	struct entry e = {.kind = KIND_FILE,
		.size = 1,
		.content_stamp = {time, node},
		.attr_stamp = {time, node}};

	memset(e.hash, content, sizeof(e.hash));
	vector_raise(&e.vector, e.content_stamp);
	return e;
}

static struct merge_outcome outcome_of(const struct entry *a, const struct entry *b)
{
	CLEANUP(entry_done) struct entry e = {0};

	return merge(a, b, &e);
}

static void conflicts(void **state)
{
	struct entry a = file(10, 1, 'a'), b = file(20, 2, 'b'), none = {0}, t = file(30, 3, 0);
	struct merge_outcome o = outcome_of(&a, &b);

	assert_true(o.conflict && o.content_changed && !o.local_won);
	o = outcome_of(&b, &a);
	assert_true(o.conflict && !o.content_changed && o.local_won);
	assert_false(outcome_of(&none, &a).conflict);
	assert_true(outcome_of(&none, &a).content_changed);
	/* Written by somebody who had seen a. */
	vector_raise(&b.vector, a.content_stamp);
	assert_false(outcome_of(&a, &b).conflict);
	assert_false(outcome_of(&b, &a).conflict);
	/* Equal contents are no conflict, tombstones neither. */
	b = file(20, 2, 'a');
	assert_false(outcome_of(&a, &b).conflict);
	t.kind = KIND_ABSENT;
	b = t;
	b.content_stamp.node = 7;
	assert_false(outcome_of(&t, &b).conflict);
	/* A removal that did not know of a write is. */
	assert_true(outcome_of(&a, &t).conflict);
}

/* The winner merged the loser, then is announced: the loser's writer must still see a conflict. */
static void conflict_survives_the_winners_merge(void **state)
{
	CLEANUP(entry_done) struct entry m = {0}, next = {0};
	struct entry a = file(10, 1, 'a'), b = file(20, 2, 'b'), later;

	merge(&b, &a, &m);
	m.mode = 0600; /* and a chmod by its writer */
	m.attr_stamp = (struct stamp){25, 2};
	vector_raise(&m.vector, m.attr_stamp);
	assert_true(outcome_of(&a, &m).conflict);
	/* A later write over the winner knows it, and not the loser. */
	later = file(30, 3, 'c');
	vector_merge(&later.vector, &m.vector);
	assert_false(outcome_of(&m, &later).conflict);
	assert_true(outcome_of(&a, &later).conflict);
	/* By way of equal content registers the vectors grow together. */
	later = b;
	vector_raise(&later.vector, a.content_stamp);
	merge(&b, &later, &next);
	assert_false(outcome_of(&a, &next).conflict);
}

static void registers_are_independent(void **state)
{
	CLEANUP(entry_done) struct entry m = {0};
	struct entry a = file(10, 1, 'a'), b = file(10, 1, 'a');
	struct merge_outcome o;

	/* a: a write; b: a chmod and a touch elsewhere. */
	memset(a.hash, 'A', sizeof(a.hash));
	a.content_stamp.time = 20;
	b.mode = 0600;
	b.attr_stamp = (struct stamp){15, 2};
	b.mtime_ns = 77;
	b.mtime_stamp = (struct stamp){16, 2};
	o = merge(&a, &b, &m);
	assert_true(o.attr_changed && o.mtime_changed && !o.content_changed && !o.conflict);
	assert_int_equal(m.hash[0], 'A');
	assert_int_equal(m.mode, 0600);
	assert_int_equal(m.mtime_ns, 77);
	/* What b had seen is not what a's content was written with. */
	assert_int_equal(m.vector.count, 1);
	assert_int_equal(vector_get(&m.vector, 1), 10);
}

/* A chmod elsewhere, later than a removal, does not bring the path back. */
static void no_resurrection(void **state)
{
	CLEANUP(entry_done) struct entry m = {0};
	struct entry gone = file(20, 1, 0), b = file(10, 1, 'a');

	gone.kind = KIND_ABSENT;
	b.attr_stamp = (struct stamp){30, 2};
	merge(&gone, &b, &m);
	assert_false(entry_live(&m));
	assert_int_equal(m.attr_stamp.time, 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(join),
		cmocka_unit_test(order_independent),
		cmocka_unit_test(conflicts),
		cmocka_unit_test(conflict_survives_the_winners_merge),
		cmocka_unit_test(registers_are_independent),
		cmocka_unit_test(no_resurrection),
	};
	const char *text = getenv("MERIDIAN_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : random_u64();
	int failed;

	random_seed_deterministic(seed);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	if (failed)
		fprintf(stderr, "MERIDIAN_SEED=%llu\n", (unsigned long long)seed);
	return failed;
}
