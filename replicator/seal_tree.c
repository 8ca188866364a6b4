/*
 * The expansion of a directory's rename: one journal row stands for everything below both names.
 * What the tree has at and below the new name is sealed first, then what the replicated map has at
 * and below the old one, so that a peer rather sees a file twice than not at all.
 *
 * Progress is kept in memory (sealer.going): the row goes when all is done, and after a crash it starts
 * over; a key that is sealed already makes no new version. Both walks go in a fixed order from a last key,
 * each batch is a transaction of its own. The sealer's thread does PORTION batches and then what else is
 * in the journal, so that the rename of a large directory keeps nobody waiting; names that change
 * meanwhile have rows of their own, which wait for the end.
 *
 * A file that cannot be sealed now (it changes, or cannot be read) gets a journal row of its own,
 * in the same transaction, so that it does not hold up the rest.
 */
#include "replicator/seal_internal.h"

#include <errno.h>

#include "src/base/clock.h"
#include "src/base/hlc.h"
#include "src/base/metrics.h"
#include "src/base/thread.h"

#define BATCH 500
#define PORTION 4

/* Keys of a batch: one copy of their bytes, handed out as slices when it is complete. */
struct key_list {
	struct buf bytes; /* be32 length, then the key */
	unsigned count;
	struct key last;
};

static int take_key(void *ctx, struct slice key)
{
	struct key_list *list = ctx;

	buf_put_be32(&list->bytes, (uint32_t)key.len);
	buf_put(&list->bytes, key.p, key.len);
	list->count++;
	return list->bytes.failed || !key_set(&list->last, key) ? -ENOMEM : 0;
}

static void key_list_done(struct key_list *list)
{
	buf_done(&list->bytes);
}

/* The blocked ones are left to rows of their own. */
static int defer_blocked(struct conn *conn, struct seal_set *set)
{
	for (unsigned i = 0; i < set->count; i++) {
		int r;

		if (!set->targets[i].blocked)
			continue;
		r = journal_append(conn, JOURNAL_PUT, set->targets[i].key, (struct slice){NULL, 0},
			set->targets[i].time);
		if (r)
			return r;
	}
	return 0;
}

/* ---- progress, for operators ---- */

/* Names under the new name are walked first, then those that the map still has under the old one. */
static int begin_progress(struct sealer *s, const struct journal_row *row)
{
	uint64_t old = 0, new = 0;
	struct conn *conn;
	int r = cache_read_begin(s->cache, &conn);

	if (r)
		return r;
	r = entry_count_below(conn, key_slice(&row->hint), &old);
	if (!r)
		r = entry_count_below(conn, key_slice(&row->key), &new);
	cache_read_end(conn);
	if (r)
		return r;
	mutex_lock(&s->progress_lock);
	s->renaming = true;
	s->progress.from = row->hint;
	s->progress.to = row->key;
	s->progress.done = 0;
	s->progress.total = (old > new ? old : new) + old;
	mutex_unlock(&s->progress_lock);
	return 0;
}

static void add_progress(struct sealer *s, unsigned names)
{
	mutex_lock(&s->progress_lock);
	s->progress.done += names;
	if (s->progress.total < s->progress.done)
		s->progress.total = s->progress.done;
	mutex_unlock(&s->progress_lock);
}

static void end_progress(struct sealer *s)
{
	mutex_lock(&s->progress_lock);
	s->renaming = false;
	mutex_unlock(&s->progress_lock);
}

bool sealer_progress(struct sealer *s, struct seal_progress *ret)
{
	mutex_lock(&s->progress_lock);
	bool renaming = s->renaming;
	if (renaming)
		*ret = s->progress;
	mutex_unlock(&s->progress_lock);
	return renaming;
}

static int seal_list(struct sealer *s, const struct journal_row *row, const struct key_list *list,
	bool *did, int *failure)
{
	struct reader r = reader_of(list->bytes.data, list->bytes.len);
	struct conn *conn;
	unsigned sealed = 0;
	int code;

	thread_lag(clock_realtime_ms() - (int64_t)hlc_ms(row->time));
	seal_set_clear(&s->set);
	s->set.moved_to = key_slice(&row->key);
	s->set.moved_from = key_slice(&row->hint);
	for (unsigned i = 0; i < list->count; i++) {
		size_t n = reader_be32(&r);

		seal_set_add(
			&s->set, (struct slice){(const char *)reader_raw(&r, n), n}, row->time);
	}
	code = seal_set_prepare(s, &s->set, failure);
	if (!code)
		code = cache_begin(s->cache, &conn);
	if (code)
		return code;
	code = seal_set_verify(s, conn, &s->set);
	if (!code)
		code = seal_set_apply(s, conn, &s->set, &sealed);
	if (!code)
		code = defer_blocked(conn, &s->set);
	if (code) {
		cache_rollback(conn);
		return code;
	}
	code = cache_commit(conn);
	if (!code)
		add_progress(s, list->count);
	if (!code && sealed) {
		metric_add(METRIC_RECORDS_SEALED, sealed);
		*did = true;
	}
	return code;
}

/* One batch of keys after last of the tree (walk) or of the map. */
static int read_batch(struct sealer *s, bool walk, struct slice root, struct slice last,
	struct key_list *list)
{
	const unsigned limit = s->set.max < BATCH ? s->set.max : BATCH;
	struct conn *conn;
	int r;

	buf_clear(&list->bytes);
	list->count = 0;
	r = cache_read_begin(s->cache, &conn);
	if (r)
		return r;
	if (walk)
		r = journal_walk(conn, root, last, limit, take_key, list);
	else
		r = entry_scan(conn, root, last, true, limit, take_key, list);
	cache_read_end(conn);
	return r;
}

/* The next batch of the walk or the scan that s->going is at; *end: there was none. */
static int seal_next(
	struct sealer *s, const struct journal_row *row, bool *did, bool *end, int *failure)
{
	bool walk = !s->going.walked;
	CLEANUP(key_list_done) struct key_list list = {0};
	int r = read_batch(s, walk, walk ? key_slice(&row->key) : key_slice(&row->hint),
		key_slice(&s->going.last), &list);

	if (!r && list.count)
		r = seal_list(s, row, &list, did, failure);
	seal_set_clear(&s->set); /* it borrows from the list */
	if (r)
		return r;
	s->going.last = list.last;
	*end = !list.count && !walk;
	if (!list.count && walk) {
		s->going.walked = true;
		s->going.last.len = 0;
	}
	return s->tick ? s->tick(s->tick_ctx) : 0;
}

static int seal_top(struct sealer *s, const struct journal_row *row, bool *did, int *failure)
{
	CLEANUP(key_list_done) struct key_list list = {0};
	int r = take_key(&list, key_slice(&row->key));

	if (!r)
		r = seal_list(s, row, &list, did, failure);
	seal_set_clear(&s->set);
	return r;
}

static int remove_row(struct sealer *s, uint64_t seq)
{
	struct conn *conn;
	int r = cache_begin(s->cache, &conn);

	if (r)
		return r;
	r = journal_remove(conn, seq, seq);
	if (r) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

static int begin(struct sealer *s, const struct journal_row *row, bool *did, int *failure)
{
	int r = begin_progress(s, row);

	if (!r)
		r = seal_top(s, row, did, failure);
	if (!r)
		s->going = (struct seal_renaming){.seq = row->seq};
	return r;
}

int seal_rename_dir(struct sealer *s, const struct journal_row *row, bool *did, bool *end,
	int *failure)
{
	int r = s->going.seq == row->seq ? 0 : begin(s, row, did, failure);

	*end = false;
	for (unsigned i = 0; !r && !*end && (!s->patient || i < PORTION); i++)
		r = seal_next(s, row, did, end, failure);
	if (!r && !*end)
		return 0;
	end_progress(s);
	s->going.seq = 0;
	return r ? r : remove_row(s, row->seq);
}
