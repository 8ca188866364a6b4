/*
 * Sealing: takes journal rows in order and makes entries and outbox rows of what their keys are
 * now.
 *
 * One batch is up to BATCH rows, one transaction: read the rows, prepare (hash what is dirty,
 * outside), then in the transaction verify, apply, remove the rows. A RENAME_DIR row is sealed with its
 * batch like so many renames of files (seal_whole.c), all of them or, when one has to wait, none: for
 * STUCK_MS at most. One with too much below it, or which has waited for so long, stands alone
 * between batches (seal_tree.c), after everything that came before it, and is done by and
 * by: what comes after it goes on meanwhile, but for keys below either of its names, and for further
 * directories' renames, which wait for it.
 *
 * A set has room for so many keys. Where it is full before the batch is at its end the rest is another
 * set's; but when that would change keys of this one again, it gets more room, up to SEAL_SET_MAX. Beyond that
 * these keys wait, as those that change meanwhile, while what else is in the set is sealed and makes room.
 *
 * Order within a directory: a peer must never see a later change of this server without its earlier
 * ones. All rows of a batch get their numbers in the outbox in one transaction (how: seal_set.c),
 * and when one key of a directory cannot be sealed now, no row of that directory is sealed in this
 * round, in this batch or a later one; likewise no rename half of which lies there, and nothing below
 * a key that waits. Rows of other directories go on. A key that changed again while the batch was prepared, and its directory, wait
 * for the next round, too (seal_set.c says for how long). For the same reason sealer_seal_key does
 * not pull one key forward: it seals the journal in order until nothing waits for that key. What is
 * not promised: a key that changes again while a backlog of more than one batch is being sealed, or
 * that changes all the time, may be shown in a state that is ahead of its neighbours' rows in the
 * batches to come.
 *
 * Content that takes long to hash is hashed by and by, or from a snapshot that is taken in the background: its rows
 * stay until that is done, as if it could not be sealed. A batch ends where rows begin that such a snapshot does not
 * have (seal_offer.c).
 *
 * Nothing is lost by failing: rows stay until the transaction that made their entries, and sealing
 * what is sealed already makes no new version.
 *
 * lock is held for a whole step, across disk work, never across the network.
 */
#include "replicator/seal.h"

#include <errno.h>
#include <stdatomic.h>

#include "cache/tree.h"
#include "replicator/seal_internal.h"
#include "src/base/clock.h"
#include "src/base/metrics.h"

#define BATCH 2000u
#define LATE_MS 1000
#define TURN_MS 20
#define BUSY_MS 10000
#define VAIN_MIN 5u /* passes: each may take long */
#define SNAPSHOT_LOOK_MS 100
#define KEY_ROUNDS 4 /* of a file that is written all the time */
#define RENAMES_MAX 16u
#define STUCK_MS 60000
#define STUCK_ROUNDS 16u
#define BEHIND_MAX 8u /* batches behind a rename that are looked through for something to seal */

int sealer_new(struct cache *c, const struct sealer_options *o, struct inline_cache *inline_cache,
	struct sealer **ret)
{
	struct sealer *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->cache = c;
	s->options = *o;
	s->inline_cache = inline_cache;
	s->rows = calloc(BATCH, sizeof(*s->rows));
	s->starts = calloc(BATCH + 1, sizeof(*s->starts));
	if (!s->options.set_size)
		s->options.set_size = SEAL_SET_SIZE;
	if (!s->options.set_max)
		s->options.set_max = SEAL_SET_MAX;
	if (!s->rows || !s->starts || seal_set_init(&s->set, s->options.set_size)) {
		free(s->rows);
		free(s->starts);
		free(s);
		return -ENOMEM;
	}
	mutex_init(&s->lock, LOCK_RANK_REPLICATOR);
	mutex_init(&s->progress_lock, LOCK_RANK_LEAF);
	*ret = s;
	return 0;
}

void sealer_free(struct sealer *s)
{
	if (!s)
		return;
	seal_set_done(&s->set);
	buf_done(&s->bytes);
	mutex_done(&s->lock);
	mutex_done(&s->progress_lock);
	free(s->rows);
	free(s->starts);
	free(s);
}

/* ---- a round: the journal once from front to back ---- */

/* Directories, by the hash of their key, in which nothing more is sealed in this round: an open table,
 * at most half full. A collision holds back one more. */
struct round {
	uint64_t *held; /* 0: free */
	size_t held_count;
	size_t held_size; /* a power of two, or 0 */
	bool held_failed; /* it could not grow */
	uint64_t after;	  /* rows up to here were seen */
	uint64_t mark;	  /* a time: ends before a batch all of whose rows are younger; 0: none */
	bool end;	  /* no row was left */
	bool did;
	bool renamed; /* a part of a directory's rename, the rest of which is to come */
	bool stuck;   /* the first directory's rename that has to wait was noted */
	struct {
		struct key from, to;
	} * renames; /* that are to come, before what is sealed now; RENAMES_MAX */
	unsigned renames_count;
	int failure; /* the first reason why a row had to stay that will not pass by itself */
};

static void round_done(struct round *round)
{
	free(round->held);
	free(round->renames);
}

static struct slice dir_of(struct slice key)
{
	return key.len ? key_parent(key) : key;
}

/* The place of hash, or the free one where it belongs. There is one. */
static uint64_t *held_place(const struct round *round, uint64_t hash)
{
	size_t at = (size_t)(hash ^ hash >> 32) & (round->held_size - 1);

	while (round->held[at] && round->held[at] != hash)
		at = (at + 1) & (round->held_size - 1);
	return &round->held[at];
}

static bool is_held_hash(const struct round *round, uint64_t dir)
{
	return round->held_count && *held_place(round, dir);
}

static bool is_held(const struct round *round, struct slice key)
{
	return round->held_count && is_held_hash(round, seal_hash(dir_of(key)));
}

static void grow_held(struct round *round)
{
	struct round grown = {.held_size = round->held_size ? 2 * round->held_size : 64};

	grown.held = calloc(grown.held_size, sizeof(*grown.held));
	if (!grown.held) {
		round->held_failed = true;
		return;
	}
	for (size_t i = 0; i < round->held_size; i++) {
		if (round->held[i])
			*held_place(&grown, round->held[i]) = round->held[i];
	}
	free(round->held);
	round->held = grown.held;
	round->held_size = grown.held_size;
}

static void hold_dir(struct round *round, struct slice dir)
{
	uint64_t hash = seal_hash(dir), *place;

	if (2 * (round->held_count + 1) > round->held_size)
		grow_held(round);
	if (round->held_failed)
		return;
	place = held_place(round, hash);
	round->held_count += !*place;
	*place = hash;
}

/* Nothing beside key, and nothing below it: it may be a directory that took the place of a file,
 * and names below a path that is a file in the entries would make it look like one that remote
 * changes put over that file (is_implied in seal_set.c). */
static void hold(struct round *round, struct slice key)
{
	hold_dir(round, dir_of(key));
	hold_dir(round, key);
}

static struct seal_target *target_of(struct sealer *s, unsigned at)
{
	return &s->set.targets[s->set.order[at] & SEAL_INDEX];
}

static bool is_below(struct slice key, const struct key *dir)
{
	return key.len > dir->len && key.p[dir->len] == '/' &&
	       memcmp(key.p, dir->p, dir->len) == 0;
}

/* Keys below a directory whose rename is to come first. The directory itself is done by its rename already,
 * and what changes of it holds nothing back. */
static void block_renamed(struct sealer *s, const struct round *round)
{
	for (unsigned i = 0; round->renames_count && i < s->set.count; i++) {
		struct seal_target *t = &s->set.targets[i];

		for (unsigned k = 0; k < round->renames_count && !t->blocked; k++)
			t->blocked = is_below(t->key, &round->renames[k].from) ||
				     is_below(t->key, &round->renames[k].to);
	}
}

/* The keys of one row are sealed together. True: further ones have to wait. */
static bool tie_row(struct sealer *s, unsigned row, struct round *round)
{
	unsigned blocked = 0, count = s->starts[row + 1] - s->starts[row];

	for (unsigned i = 0; i < count; i++)
		blocked += target_of(s, s->starts[row] + i)->blocked;
	if (!blocked || blocked == count)
		return false;
	for (unsigned i = 0; i < count; i++) {
		struct seal_target *t = target_of(s, s->starts[row] + i);

		t->blocked = true;
		hold(round, t->key);
	}
	return true;
}

/* Spreads "not now": over the directory of each blocked key, and over the keys of a rename. */
static int spread_blocked(struct sealer *s, unsigned count, struct round *round)
{
	bool again = true;

	block_renamed(s, round);
	for (unsigned i = 0; i < s->set.count; i++) {
		if (s->set.targets[i].blocked)
			hold(round, s->set.targets[i].key);
	}
	for (unsigned i = 0; round->held_count && i < s->set.count; i++)
		s->set.targets[i].dir = seal_hash(dir_of(s->set.targets[i].key));
	while (again && round->held_count && !round->held_failed) {
		again = false;
		for (unsigned i = 0; i < s->set.count; i++) {
			struct seal_target *t = &s->set.targets[i];

			if (!t->blocked && is_held_hash(round, t->dir)) {
				t->blocked = again = true;
				hold_dir(round, t->key);
			}
		}
		for (unsigned i = 0; i < count; i++)
			again |= tie_row(s, i, round);
	}
	return round->held_failed ? -ENOMEM : 0;
}

/* Rows none of whose keys is blocked are done. Between two of a batch there are no others, so they
 * go in runs. */
static int remove_rows(struct sealer *s, struct conn *conn, unsigned count)
{
	unsigned run = 0; /* how many before this one are to go */
	int r = 0;

	for (unsigned i = 0; !r && i < count; i++) {
		bool blocked = target_of(s, s->starts[i])->blocked;

		if (!blocked)
			run++;
		if (run && (blocked || i + 1 == count)) {
			unsigned end = blocked ? i : i + 1;

			r = journal_remove(conn, s->rows[end - run].seq, s->rows[end - 1].seq);
			run = 0;
		}
	}
	return r;
}

static int seal_set_commit(struct sealer *s, unsigned count, struct round *round)
{
	struct conn *conn;
	unsigned sealed = 0;
	int r = cache_begin_lazy(s->cache, &conn);

	if (r)
		return r;
	r = seal_set_verify(s, conn, &s->set);
	if (!r)
		r = spread_blocked(s, count, round);
	if (!r)
		r = seal_set_apply(s, conn, &s->set, &sealed);
	if (!r)
		r = remove_rows(s, conn, count);
	if (r) {
		cache_rollback(conn);
		return r;
	}
	r = cache_commit(conn);
	if (!r && sealed) {
		metric_add(METRIC_RECORDS_SEALED, sealed);
		round->did = true;
	}
	return r;
}

/* A rename's new name is noted on both sides of its old one: within a directory they then go
 * together. */
static void add_row(struct sealer *s, const struct journal_row *row)
{
	struct seal_target *to, *from;
	unsigned at = seal_set_add(&s->set, key_slice(&row->key), row->time);

	to = &s->set.targets[at];
	if (row->op == JOURNAL_RENAME) {
		from = &s->set.targets[seal_set_add(&s->set, key_slice(&row->hint), row->time)];
		seal_set_add(&s->set, key_slice(&row->key), row->time);
		seal_moved_note(&s->set, from->key, to->key);
		/* Not its own name: then the two were exchanged. */
		to->from = from->from.len && !slice_equal(from->from, to->key) ? from->from
									       : from->key;
	}
}

/* As many of the rows as go into one set; *fit is of the next one. */
static int add_rows(struct sealer *s, const struct round *round, unsigned count, unsigned *ret,
	enum seal_fit *fit)
{
	unsigned n = 0;
	int r = 0;

	*fit = SEAL_FITS;
	seal_set_clear(&s->set);
	for (; n < count; n++) {
		const struct journal_row *row = &s->rows[n];
		bool parts = s->going.seq == row->seq || round->renames_count ||
			     (s->stuck.given_up && s->stuck.seq == row->seq);

		s->starts[n] = s->set.order_count;
		if (row->op != JOURNAL_RENAME_DIR)
			*fit = seal_set_has_room(&s->set, 3) ? SEAL_FITS : SEAL_FULL;
		else if (parts)
			*fit = SEAL_PARTS;
		else
			r = seal_whole_add(s, row, fit);
		if (r || *fit != SEAL_FITS)
			break;
		if (row->op != JOURNAL_RENAME_DIR)
			add_row(s, row);
	}
	s->starts[n] = s->set.order_count;
	*ret = n;
	return r;
}

/* Rows behind the set change what is in it: its keys would be sealed in a state that is ahead of what was changed
 * beside them meanwhile, and the former names of what moves on could not wait for the last one. */
static bool is_torn(struct sealer *s, unsigned from, unsigned count)
{
	bool torn = false;

	for (unsigned i = from; !torn && i < count; i++) {
		const struct journal_row *row = &s->rows[i];
		bool below = row->op == JOURNAL_RENAME_DIR;

		torn = seal_set_touches(&s->set, key_slice(&row->key), below, false) ||
		       (row->hint.len &&
			       seal_set_touches(&s->set, key_slice(&row->hint), below, false));
	}
	return torn;
}

/* As add_rows; the set grows where it would be torn, or has no room for one row. */
static int fill_set(struct sealer *s, const struct round *round, unsigned count, unsigned *ret)
{
	const unsigned max = s->options.set_max;
	enum seal_fit fit;
	int r = add_rows(s, round, count, ret, &fit);

	while (!r && fit == SEAL_FULL && s->set.max < max && (!*ret || is_torn(s, *ret, count))) {
		r = seal_set_resize(&s->set, s->set.max < max / 2 ? 2 * s->set.max : max);
		if (!r)
			r = add_rows(s, round, count, ret, &fit);
		metric_add(METRIC_SETS_GROWN, 1);
	}
	metric_add(METRIC_SETS_CUT, fit == SEAL_FULL);
	return r;
}

/* A directory's rename that waits for one file, which may never be had, is done by parts in the end; what waits
 * behind it does not begin to wait then. Only the first one that waits is noted: with more of them in turns none
 * would ever have waited for long. */
static void note_stuck(struct sealer *s, unsigned count, struct round *round)
{
	struct seal_stuck *stuck = &s->stuck;
	int64_t now = clock_monotonic_ms();
	unsigned i = 0;

	for (; i < count; i++) {
		if (s->rows[i].op != JOURNAL_RENAME_DIR)
			continue;
		if (target_of(s, s->starts[i])->blocked)
			break;
		if (stuck->seq == s->rows[i].seq)
			*stuck = (struct seal_stuck){0};
	}
	if (i == count || round->stuck)
		return;
	round->stuck = true;
	if (stuck->seq != s->rows[i].seq && (!stuck->given_up || s->rows[i].time > stuck->behind))
		*stuck = (struct seal_stuck){.since_ms = now};
	stuck->seq = s->rows[i].seq;
	if (!stuck->given_up && ++stuck->rounds >= STUCK_ROUNDS && now - stuck->since_ms > STUCK_MS) {
		stuck->given_up = true;
		stuck->behind = cache_stamp(s->cache).time;
	}
}

static int seal_rows(struct sealer *s, unsigned count, struct round *round)
{
	int r = seal_set_prepare(s, &s->set, &round->failure);

	if (!r)
		r = seal_set_commit(s, count, round);
	if (!r)
		note_stuck(s, count, round);
	seal_offers_end(s);
	return r;
}

static int read_rows(struct sealer *s, uint64_t after, unsigned *count)
{
	struct conn *conn;
	int r = cache_read_begin(s->cache, &conn);

	if (r)
		return r;
	r = journal_read(conn, after, BATCH, s->rows, count);
	cache_read_end(conn);
	if (!r && *count) {
		int64_t lag_ms = clock_realtime_ms() - (int64_t)hlc_ms(s->rows[0].time);

		thread_lag(lag_ms);
		s->late = *count == BATCH && lag_ms >= LATE_MS;
	}
	return r;
}

/* Whether one of the rows that were read is from up to that time. */
static bool has_until(const struct sealer *s, unsigned count, uint64_t mark)
{
	for (unsigned i = 0; i < count; i++) {
		if (s->rows[i].time <= mark)
			return true;
	}
	return false;
}

/* What follows in the journal goes without it. *ret is false when that are too many. */
static int put_off(struct round *round, const struct journal_row *row, bool *ret)
{
	*ret = round->renames_count < RENAMES_MAX;
	if (!*ret)
		return 0;
	if (!round->renames)
		round->renames = calloc(RENAMES_MAX, sizeof(*round->renames));
	if (!round->renames)
		return -ENOMEM;
	round->renames[round->renames_count].from = row->hint;
	round->renames[round->renames_count++].to = row->key;
	return 0;
}

/* A portion of a RENAME_DIR that is done by parts; behind one that is not at its end the next ones wait. */
static int rename_step(struct sealer *s, struct round *round, const struct journal_row *row)
{
	bool did = false, end = false, more = true;
	int r = round->renames_count ? 0 : seal_rename_dir(s, row, &did, &end, &round->failure);

	if (end)
		round->did |= did;
	else
		round->renamed |= did;
	if (end && s->stuck.seq == row->seq)
		s->stuck.seq = 0;
	if (!r && !end)
		r = put_off(round, row, &more);
	round->end |= !more;
	return r;
}

/* The set, of rows that snapshots taken in the background go with; *cut: it ends where one of them does. */
static int fill_offered(
	struct sealer *s, const struct round *round, unsigned count, unsigned *ret, bool *cut)
{
	unsigned n = 0;
	int r = fill_set(s, round, count, ret);

	*cut = false;
	n = *ret;
	if (!r && n)
		r = seal_offers_begin(s, &n);
	if (r || n == *ret)
		return r;
	*cut = true;
	r = fill_set(s, round, n, ret);
	if (r || !*ret)
		seal_offers_end(s);
	return r;
}

/* One batch, or a part of one RENAME_DIR. */
static int round_step(struct sealer *s, struct round *round)
{
	unsigned count = 0, n = 0;
	bool cut = false;
	int r = read_rows(s, round->after, &count);

	if (r)
		return r;
	round->end = count == 0 || (round->mark && !has_until(s, count, round->mark));
	if (round->end)
		return 0;
	r = fill_offered(s, round, count, &n, &cut);
	if (r)
		return r;
	if (n) {
		round->after = s->rows[n - 1].seq;
		/* Behind a cut it is known what has to wait (seal_offer.c). */
		s->read_end = count < BATCH ? s->rows[(cut ? count : n) - 1].seq : 0;
		r = seal_rows(s, n, round);
		s->read_end = 0;
		if (!r && s->set.max > s->options.set_size)
			r = seal_set_resize(&s->set, s->options.set_size);
		return r;
	}
	round->after = s->rows[0].seq;
	return rename_step(s, round, &s->rows[0]);
}

int sealer_step(struct sealer *s, bool *did)
{
	CLEANUP(round_done) struct round round = {0};
	unsigned behind = 0;
	int r;

	*did = false;
	if (atomic_load(&s->waiting))
		return 0;
	/* Reads whole files, which nobody else has to wait for. */
	r = file_settle_displaced(s->cache);
	if (r)
		return r;
	mutex_lock(&s->lock);
	s->patient = true;
	r = tree_flush_times(s->cache, false);
	if (!r)
		r = file_journal_due(s->cache, s->options.seal_after_ms);
	/* On past rows that have to wait; what was sealed is handed to the announcers first. */
	while (!r && !round.end && !round.did && behind < BEHIND_MAX) {
		r = round_step(s, &round);
		behind += round.renamed;
	}
	s->patient = false;
	s->overtaken_rounds = s->overtaken ? s->overtaken_rounds + 1 : 0;
	s->overtaken = false;
	mutex_unlock(&s->lock);
	*did = round.did || round.renamed;
	return r ? r : round.failure;
}

bool sealer_late(struct sealer *s)
{
	bool late;

	mutex_lock(&s->lock);
	late = s->late || s->going.seq;
	mutex_unlock(&s->lock);
	return late;
}

static int take_turn(struct sealer *s, sealer_tick_fn tick, void *ctx)
{
	int r = 0;

	if (!tick) {
		mutex_lock(&s->lock);
		return 0;
	}
	atomic_fetch_add(&s->waiting, 1);
	while (!mutex_trylock(&s->lock)) {
		r = tick(ctx);
		if (r)
			break;
		clock_sleep_ms(TURN_MS);
	}
	atomic_fetch_sub(&s->waiting, 1);
	return r;
}

/* The journal once, as it is; *old: rows from up to mark were left. mark 0: it is now, and set. */
static int seal_pass(
	struct sealer *s, sealer_tick_fn tick, void *ctx, uint64_t *mark, bool *old, int *failure)
{
	CLEANUP(round_done) struct round round = {0};
	unsigned count = 0;
	int r = 0;

	if (!*mark) {
		r = tree_flush_times(s->cache, true);
		if (!r)
			r = file_journal_due(s->cache, 0);
		*mark = cache_stamp(s->cache).time;
	}
	round.mark = *mark;
	s->tick = tick;
	s->tick_ctx = ctx;
	while (!r && !round.end) {
		r = round_step(s, &round);
		if (!r && tick)
			r = tick(ctx);
	}
	s->tick = NULL;
	if (!r)
		r = read_rows(s, 0, &count);
	*old = !r && has_until(s, count, *mark);
	*failure = round.failure;
	return r;
}

/* Passes of who waits that found nothing to go on with. */
struct vain {
	unsigned passes;
	int64_t since; /* monotonic */
};

/* Between two passes. False: another one is not worth it. What is tried again and again, hashed in part each time, is
 * no progress, so v is never set back. */
static bool wait_for_rest(struct sealer *s, bool hashed, struct vain *v)
{
	int64_t busy_ms = s->options.busy_ms ? s->options.busy_ms : BUSY_MS;
	int64_t now = clock_monotonic_ms();

	/* Large content that is not hashed yet, or a snapshot of which is being taken, was passed over, with its
	 * directory. */
	if (hashed) {
		content_wait_snapshot(s->cache, SNAPSHOT_LOOK_MS);
		return true;
	}
	if (v->passes++ == 0)
		v->since = now;
	clock_sleep_ms(SNAPSHOT_LOOK_MS);
	return now - v->since < busy_ms || v->passes < VAIN_MIN;
}

int sealer_seal_all(struct sealer *s, sealer_tick_fn tick, void *ctx)
{
	uint64_t slices, mark = 0;
	struct vain vain = {0};
	bool again = true, old = false, hashed;
	int r = 0, failure = 0;

	content_hurry(s->cache, 1);
	while (!r && again) {
		slices = content_slices(s->cache);
		r = take_turn(s, tick, ctx);
		if (r)
			break;
		r = seal_pass(s, tick, ctx, &mark, &old, &failure);
		mutex_unlock(&s->lock);
		if (failure == -EBUSY)
			failure = 0; /* a version of it is being taken elsewhere */
		hashed = content_slices(s->cache) != slices;
		if (!r && old && !failure && !hashed)
			failure = content_failed_snapshot(s->cache);
		/* What is written meanwhile is not waited for. */
		again = !r && old && !failure && (hashed || tick) && wait_for_rest(s, hashed, &vain);
		if (!r && again && tick)
			r = tick(ctx);
	}
	if (!r && old && !failure && tick)
		failure = -EBUSY;
	content_hurry(s->cache, -1);
	return r ? r : failure;
}

/* ---- one key ---- */

static int is_pending(struct sealer *s, struct slice key, bool *ret)
{
	struct conn *conn;
	int r = cache_read_begin(s->cache, &conn);

	if (r)
		return r;
	r = journal_pending(conn, key, ret);
	cache_read_end(conn);
	return r;
}

/* A file that is open and was written, without a row: the writes so far get a fresh stamp. */
static int seal_unjournalled(struct sealer *s, struct slice key, struct round *round)
{
	int r;

	seal_set_clear(&s->set);
	seal_set_add(&s->set, key, 0);
	r = seal_set_prepare(s, &s->set, &round->failure);
	return r ? r : seal_set_commit(s, 0, round);
}

static int seal_key_round(struct sealer *s, struct slice key, bool *pending)
{
	CLEANUP(round_done) struct round round = {0};
	int r = 0;

	while (!r && *pending && !round.end) {
		r = round_step(s, &round);
		if (!r)
			r = is_pending(s, key, pending);
	}
	if (!r && *pending && !is_held(&round, key)) {
		r = seal_unjournalled(s, key, &round);
		if (!r)
			r = is_pending(s, key, pending);
	}
	seal_set_clear(&s->set); /* it borrows key */
	/* What keeps other keys from being sealed is no matter here. */
	return !r && *pending ? round.failure : r;
}

int sealer_seal_key(struct sealer *s, struct slice key)
{
	bool pending = false;
	int r;

	mutex_lock(&s->lock);
	r = is_pending(s, key, &pending);
	for (unsigned i = 0; !r && pending && i < KEY_ROUNDS; i++)
		r = seal_key_round(s, key, &pending);
	mutex_unlock(&s->lock);
	return !r && pending ? -EAGAIN : r;
}
