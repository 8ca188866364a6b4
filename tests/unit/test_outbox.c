/* The outbox beside a naive model: what changes make of its rows, what may go, its totals, and what it costs
 * with many rows. */
#include "tests/unit/outbox_fixture.h"

#include "cache/replication.h"

/* What would keep a cut open until an upload is there does not begin one. */
static void a_row_over_the_barrier_holds_back_what_it_spans(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);

	put(conn, "d/before", 1, false, true);
	put(conn, "d/twice", 1, false, true);
	put(conn, "d/between", 1, false, true);
	put(conn, "d/big", 1 << 20, true, true);
	assert_string_equal(announceable(conn), "d/before,d/twice,d/between");
	put(conn, "d/twice", 1, false, true);
	assert_string_equal(announceable(conn), "d/before");
	cache_rollback(conn);
}

static void an_upload_holds_back_its_directory_only(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct stamp big;

	put(conn, "d/before", 1, false, false);
	big = put(conn, "d/big", 1 << 20, true, false);
	put(conn, "d/after", 1, false, false);
	put(conn, "e/other", 1, false, false);
	put(conn, "d", 0, false, false);
	assert_string_equal(announceable(conn), "d/before,e/other,d");
	/* A newer version of the early row is a later change than the upload. */
	put(conn, "d/before", 2, false, false);
	assert_string_equal(announceable(conn), "e/other,d");
	/* Delayed uploads hold back as well, and parked ones. */
	assert_int_equal(
		outbox_failed(conn, regions[0], slice_of("d/big"), big, FOREVER, "no", false), 0);
	assert_string_equal(announceable(conn), "e/other,d");
	assert_int_equal(outbox_failed(conn, regions[0], slice_of("d/big"), big, 0, "no", true), 0);
	assert_string_equal(announceable(conn), "e/other,d");
	assert_string_equal(one(conn, OUTBOX_PARKED).error, "no");
	assert_int_equal(outbox_retry_now(conn, regions[0], true), 0);
	assert_int_equal(one(conn, OUTBOX_UPLOAD).attempts, 0);
	assert_int_equal(
		outbox_advance(conn, regions[0], slice_of("d/big"), big, OUTBOX_ANNOUNCE), 0);
	assert_string_equal(announceable(conn), "d/before,d/big,d/after,e/other,d");
	fixture_commit(conn);
}

static void a_repair_never_swallows_an_announcement(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct stamp s = put(conn, "a", 5, false, false);
	const struct outbox_change repair = {
		.key = slice_of("a"), .stamp = s, .size = 5, .object_only = true};

	assert_int_equal(outbox_enqueue(conn, &repair), 0);
	assert_string_equal(announceable(conn), "a");
	assert_int_equal(outbox_drop(conn, slice_of("a")), 0);
	assert_string_equal(announceable(conn), "");
	assert_int_equal(outbox_enqueue(conn, &repair), 0);
	assert_string_equal(announceable(conn), "");
	assert_int_equal(one(conn, OUTBOX_OBJECT).size, 5);
	fixture_commit(conn);
}

/* ---- the model ---- */

#define KEYS 24
#define MAX_ROWS KEYS

struct model_row {
	bool there;
	int stage;
	bool parked;
	bool uploaded;
	bool fresh;
	uint64_t first;
	uint64_t last;
	struct stamp stamp;
	uint64_t size;
	uint32_t attempts;
	int64_t next_at_ms;
	uint64_t since_ms;
};

struct model {
	struct model_row rows[REGIONS][KEYS];
	uint64_t number;
};

static void key_text(unsigned k, char text[16])
{
	static const char *const dirs[] = {"", "d/", "e/", "d/s/"};

	snprintf(text, 16, "%s%u", dirs[k % 4], k / 4);
}

static unsigned key_index(const struct key *key)
{
	for (unsigned k = 0; k < KEYS; k++) {
		char text[16];

		key_text(k, text);
		if (slice_equal(slice_of(text), key_slice(key)))
			return k;
	}
	fail_msg("unknown key %s", key->p);
	return 0;
}

/* c->since: one of numbers that were drawn already. */
static void model_enqueue(struct model *m, unsigned k, const struct outbox_change *c)
{
	m->number++;
	for (unsigned g = 0; g < REGIONS; g++) {
		struct model_row *row = &m->rows[g][k], old = *row;
		bool waiting = old.there && old.stage != 3;

		*row = (struct model_row){.there = true,
			.stage = c->object_only ? 3
				 : c->upload	? 1
						: 2,
			.first = c->since ? c->since : m->number,
			.last = m->number,
			.stamp = c->stamp,
			.size = c->size,
			.fresh = c->fresh,
			.since_ms = hlc_ms(c->stamp.time)};
		if (!old.there)
			continue;
		row->fresh =
			old.fresh && !c->fresh && waiting && !old.uploaded && old.attempts == 0;
		if (waiting || c->object_only) {
			row->first = old.first;
			row->since_ms = old.since_ms;
		}
		if (waiting && c->object_only)
			row->stage = old.uploaded ? 1 : old.stage;
	}
}

static void enqueue_one(struct conn *conn, struct model *m, uint64_t since)
{
	unsigned k = (unsigned)random_below(KEYS);
	char text[16];
	struct outbox_change c = {.stamp = {(++stamps) << 16, 3},
		.since = since,
		.size = random_below(1000),
		.upload = random_below(3) == 0,
		.fresh = random_below(2) != 0,
		.object_only = random_below(10) == 0};

	key_text(k, text);
	c.key = slice_of(text);
	assert_int_equal(outbox_enqueue(conn, &c), 0);
	model_enqueue(m, k, &c);
}

static void random_enqueue(struct conn *conn, struct model *m)
{
	unsigned count = random_below(4) ? 0 : 1 + (unsigned)random_below(5);
	uint64_t since = 0;

	if (!count) {
		enqueue_one(conn, m, 0);
		return;
	}
	assert_int_equal(outbox_numbers(conn, count, &since), 0);
	assert_int_equal(since, m->number + 1);
	m->number += count;
	for (unsigned i = 0; i < count; i++)
		enqueue_one(conn, m, since + i);
}

static void random_move(struct conn *conn, struct model *m)
{
	unsigned g = (unsigned)random_below(REGIONS), k = (unsigned)random_below(KEYS);
	struct model_row *row = &m->rows[g][k];
	struct stamp stamp = row->stamp;
	bool same = row->there;
	char text[16];

	key_text(k, text);
	if (random_below(8) == 0) {
		stamp.node++;
		same = false;
	}
	switch (random_below(3)) {
	case 0: {
		int to = row->stage == 1 ? 2 : 3;

		assert_int_equal(outbox_advance(conn, regions[g], slice_of(text), stamp,
					 (enum outbox_state)to),
			0);
		if (!same)
			break;
		row->uploaded = row->stage == 1;
		row->fresh = row->fresh && !row->uploaded;
		row->stage = to;
		row->parked = false;
		row->attempts = 0;
		row->next_at_ms = 0;
		break;
	}
	case 1: {
		bool park = random_below(3) == 0;
		int64_t at = (int64_t)random_below(100);

		assert_int_equal(
			outbox_failed(conn, regions[g], slice_of(text), stamp, at, "x", park), 0);
		if (!same)
			break;
		row->attempts++;
		row->parked = row->parked || park;
		row->next_at_ms = row->parked ? 0 : at;
		break;
	}
	default:
		assert_int_equal(outbox_finish(conn, regions[g], slice_of(text), stamp), 0);
		if (same)
			row->there = false;
	}
}

static void random_rest(struct conn *conn, struct model *m)
{
	unsigned g = (unsigned)random_below(REGIONS), k = (unsigned)random_below(KEYS);
	char text[16];

	if (random_below(2)) {
		key_text(k, text);
		assert_int_equal(outbox_drop(conn, slice_of(text)), 0);
		for (g = 0; g < REGIONS; g++)
			m->rows[g][k].there = false;
		return;
	}
	bool parked = random_below(2) != 0;

	assert_int_equal(outbox_retry_now(conn, regions[g], parked), 0);
	for (k = 0; k < KEYS; k++) {
		struct model_row *row = &m->rows[g][k];

		row->next_at_ms = 0;
		if (row->parked && parked) {
			row->parked = false;
			row->attempts = 0;
		}
	}
}

static bool model_blocks(const struct model_row *row)
{
	return row->there && (row->stage == 1 || (row->stage == 2 && row->parked));
}

/* From which change on a directory is held back: by a row that blocks, or one that reaches over the limit. */
static uint64_t model_limit(const struct model *m, unsigned g, unsigned dir)
{
	uint64_t limit = UINT64_MAX;
	bool again = true;

	while (again) {
		again = false;
		for (unsigned i = dir; i < KEYS; i += 4) {
			const struct model_row *row = &m->rows[g][i];

			if (row->first < limit &&
				(model_blocks(row) || (row->there && row->stage == 2 &&
							      row->last >= limit))) {
				limit = row->first;
				again = true;
			}
		}
	}
	return limit;
}

static bool model_may_go(const struct model *m, unsigned g, unsigned k)
{
	const struct model_row *row = &m->rows[g][k];

	return row->there && row->stage == 2 && !row->parked &&
	       row->last < model_limit(m, g, k % 4);
}

static bool model_closed(
	const struct model *m, unsigned g, const struct outbox_row *rows, unsigned n)
{
	bool in[KEYS] = {false};

	for (unsigned i = 0; i < n; i++)
		in[key_index(&rows[i].key)] = true;
	for (unsigned k = 0; k < KEYS; k++) {
		const struct model_row *out = &m->rows[g][k];

		if (in[k] || !out->there || out->stage == 3)
			continue;
		for (unsigned i = k % 4; i < KEYS; i += 4) {
			if (in[i] && out->first < m->rows[g][i].last)
				return false;
		}
	}
	return true;
}

static void check_announceable(struct conn *conn, const struct model *m, unsigned g)
{
	struct outbox_row rows[MAX_ROWS];
	unsigned max = 1 + (unsigned)random_below(MAX_ROWS), n = 0, want = 0;
	bool more = false, closed;

	for (unsigned k = 0; k < KEYS; k++)
		want += model_may_go(m, g, k);
	assert_int_equal(outbox_announceable(conn, regions[g], max, NULL, rows, &n, &more), 0);
	/* A directory is rather not torn. */
	assert_true(want > max ? n > 0 && n <= max : n == want);
	assert_int_equal(more, want > max);
	for (unsigned i = 0; i < n; i++) {
		unsigned k = key_index(&rows[i].key);

		assert_true(model_may_go(m, g, k));
		assert_int_equal(rows[i].first, m->rows[g][k].first);
		assert_int_equal(rows[i].last, m->rows[g][k].last);
		assert_true(i == 0 || rows[i - 1].first < rows[i].first);
	}
	n = (unsigned)random_below(n + 1);
	closed = !model_closed(m, g, rows, n);
	assert_int_equal(outbox_cut_closed(conn, regions[g], rows, n, &closed), 0);
	assert_int_equal(closed, model_closed(m, g, rows, n));
}

static void check_due(struct conn *conn, const struct model *m, unsigned g, enum outbox_state state)
{
	struct outbox_row rows[MAX_ROWS];
	int64_t now = (int64_t)random_below(120);
	uint64_t after = random_below(3) ? 0 : random_below(m->number + 1);
	unsigned n = 0, want = 0;

	assert_int_equal(outbox_due(conn, regions[g], state, now, after, MAX_ROWS, rows, &n), 0);
	for (unsigned k = 0; k < KEYS; k++) {
		const struct model_row *row = &m->rows[g][k];

		if (!row->there || row->first <= after)
			continue;
		want += state == OUTBOX_PARKED ? row->parked
					       : !row->parked && row->stage == (int)state &&
							 row->next_at_ms <= now;
	}
	assert_int_equal(n, want);
	for (unsigned i = 0; i < n; i++) {
		const struct model_row *row = &m->rows[g][key_index(&rows[i].key)];

		assert_int_equal(rows[i].first, row->first);
		assert_int_equal(stamp_cmp(rows[i].stamp, row->stamp), 0);
		assert_int_equal(rows[i].fresh, row->fresh);
		assert_int_equal(rows[i].attempts, row->attempts);
		assert_int_equal(rows[i].size, row->size);
		assert_true(i == 0 || rows[i - 1].first < rows[i].first);
	}
}

static void check_figures(struct conn *conn, const struct model *m, unsigned g)
{
	struct outbox_stats got = {0}, want = {0};
	uint64_t least = UINT64_MAX, bits = 0, below = 0;

	for (unsigned k = 0; k < KEYS; k++) {
		const struct model_row *row = &m->rows[g][k];

		if (!row->there)
			continue;
		want.rows++;
		want.bytes += row->uploaded ? 0 : row->size;
		want.parked += row->parked;
		want.unannounced += !row->parked && row->stage != 3;
		if (k % 4 == 1 || k % 4 == 3)
			below = 1;
		if (row->first < least) {
			least = row->first;
			want.oldest_ms = row->since_ms;
		}
	}
	assert_int_equal(outbox_stats(conn, regions[g], &got), 0);
	assert_int_equal(got.rows, want.rows);
	assert_int_equal(got.bytes, want.bytes);
	assert_int_equal(got.parked, want.parked);
	assert_int_equal(got.unannounced, want.unannounced);
	assert_int_equal(got.oldest_ms, want.oldest_ms);
	assert_int_equal(outbox_waiting(conn, slice_of(""), &bits), 0);
	assert_int_equal((bits >> regions[g]) & 1, want.rows > 0);
	assert_int_equal(outbox_waiting(conn, slice_of("d"), &bits), 0);
	assert_int_equal((bits >> regions[g]) & 1, below);
}

static void random_operations_agree_with_the_model(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = test_seed(201);

	print_message("seed %llu\n", (unsigned long long)seed);
	random_seed_deterministic(seed);
	for (unsigned round = 0; round < 60; round++) {
		struct conn *conn = fixture_begin(f);
		struct model *m = calloc(1, sizeof(*m));
		unsigned bias = 2 + (unsigned)random_below(6);

		assert_non_null(m);
		for (unsigned i = 0; i < 150; i++) {
			unsigned g = (unsigned)random_below(REGIONS);

			if (random_below(10) < bias)
				random_enqueue(conn, m);
			else if (random_below(12))
				random_move(conn, m);
			else
				random_rest(conn, m);
			check_announceable(conn, m, g);
			check_due(conn, m, g, (enum outbox_state)(1 + random_below(4)));
			check_figures(conn, m, g);
		}
		if (round == 59)
			assert_no_scans(conn, "outbox");
		free(m);
		cache_rollback(conn);
	}
	random_use_system();
}

static void cost_does_not_grow_with_the_backlog(void **state)
{
	struct fixture *f = *state;
	struct conn *conn = fixture_begin(f);
	struct outbox_row *rows = calloc(100, sizeof(*rows));
	struct outbox_stats stats = {0};
	unsigned n = 0;
	bool more = false, closed = false;
	uint64_t bits;

	assert_non_null(rows);
	/* All but the last 200 wait behind an upload; half of them by a second change. */
	for (unsigned i = 0; i < 50000; i++) {
		char key[32];

		snprintf(key, sizeof(key), "held/%u", i);
		if (i == 25000)
			put(conn, "held/big", 1 << 20, true, true);
		put(conn, key, 10, false, true);
	}
	for (unsigned i = 0; i < 25000; i++) {
		char key[32];

		snprintf(key, sizeof(key), "held/%u", i);
		put(conn, key, 10, false, true);
	}
	for (unsigned i = 0; i < 200; i++) {
		char key[32];

		snprintf(key, sizeof(key), "dir%u/x", i);
		put(conn, key, 10, false, true);
	}
	(void)vm_steps(conn);
	assert_int_equal(outbox_announceable(conn, regions[0], 100, NULL, rows, &n, &more), 0);
	assert_int_equal(n, 100);
	assert_true(more);
	assert_true(vm_steps(conn) < 100 * 150);
	assert_int_equal(outbox_cut_closed(conn, regions[0], rows, n, &closed), 0);
	assert_true(closed);
	assert_true(vm_steps(conn) < 100 * 100);
	assert_int_equal(outbox_stats(conn, regions[0], &stats), 0);
	assert_int_equal(stats.rows, 50201);
	assert_int_equal(outbox_waiting(conn, slice_of("held"), &bits), 0);
	assert_int_equal(outbox_due(conn, regions[0], OUTBOX_UPLOAD, 0, 0, 100, rows, &n), 0);
	assert_int_equal(n, 1);
	assert_true(vm_steps(conn) < 1000);
	assert_int_equal(outbox_advance(conn, regions[0], slice_of("held/big"), rows[0].stamp,
				 OUTBOX_ANNOUNCE),
		0);
	assert_int_equal(outbox_announceable(conn, regions[0], 100, NULL, rows, &n, &more), 0);
	assert_int_equal(n, 100);
	assert_true(vm_steps(conn) < 100 * 150);
	assert_no_scans(conn, "outbox");
	free(rows);
	cache_rollback(conn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_row_over_the_barrier_holds_back_what_it_spans),
		TEST(an_upload_holds_back_its_directory_only),
		TEST(a_repair_never_swallows_an_announcement),
		TEST(random_operations_agree_with_the_model),
		TEST(cost_does_not_grow_with_the_backlog),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
