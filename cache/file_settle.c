/*
 * Settling: the row of an inode that is written to is brought up to date with its content, with a
 * journal row when there are changes that are not sealed.
 *
 * That happens on each close, on fsync, when a file has been open and changed for a while, and on the
 * last release of a writer, which also makes the row clean when nothing is left to seal. When that
 * last one fails (a full disk), a reference is kept and file_journal_due tries again; the row is dirty
 * all the while, so a crash loses nothing either.
 *
 * The generation is read before the content is looked at: a write in between is settled by its own
 * release. Changes that nobody told of are looked for first (record_observe).
 *
 * Lock: the record's, around what says up to which generation there is a journal row; never around the
 * transaction.
 */
#include "cache/open_file.h"

#include <errno.h>
#include <fcntl.h>

#include "src/base/clock.h"

#define DUE_BATCH 256

/* Times alone do not tell whether its content is what it was at the last look. */
static bool hides_changes(struct cache *c, struct record *rec)
{
	unsigned flags = record_is_unseen(rec) ? atomic_load(&rec->unseen_flags) : 0;

	return flags & UNSEEN_DIRECT || (flags & UNSEEN_MAPS && !c->stores_show);
}

static int update_row(
	struct conn *conn, struct record *rec, const struct stat *st, uint64_t generation)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE inode SET size = ?2, mtime_ns = ?3,"
					       " ctime_ns = max(ctime_ns, ?5), generation = ?4"
					       " WHERE ino = ?1");

	bind_int(s, 1, (int64_t)rec->ino);
	bind_int(s, 2, st->st_size);
	bind_int(s, 3, stat_mtime_ns(st));
	bind_int(s, 4, (int64_t)generation);
	bind_int(s, 5, stat_written_ns(st));
	return conn_run(conn, s);
}

/* Alone, and only when it changes: to name an indexed column costs the index's pages. */
static int update_dirty(struct conn *conn, uint64_t ino, bool dirty)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE inode SET dirty = ?2 WHERE ino = ?1");

	bind_int(s, 1, (int64_t)ino);
	bind_int(s, 2, dirty);
	return conn_run(conn, s);
}

/* The row of a dirty inode need not follow its content; it must have its generation. */
static int settle_row(struct conn *conn, struct record *rec, const struct inode_row *row,
	uint64_t generation, bool clean)
{
	struct stat st;
	int r;

	if (row->dirty && !clean && row->generation == generation)
		return 0;
	if (fstat(atomic_load(&rec->fd), &st) != 0)
		return -errno;
	/* After a power cut content shorter than its row counts as cut short by it: with what was
	 * truncated and flushed the row has to be flushed, too. */
	if (st.st_size < (int64_t)row->size)
		conn->lazy = false;
	r = update_row(conn, rec, &st, generation);
	if (!r && row->dirty == clean)
		r = update_dirty(conn, rec->ino, !clean);
	if (!r && row->state == STATE_LOCAL)
		conn_account(conn, rec->ino, 0, 0, st.st_size - (int64_t)row->size);
	return r;
}

/* Brings the row up to date with the content: with a journal row when there is an unsealed change,
 * else clean if no writer is left. */
static int settle(struct cache *c, struct record *rec, uint64_t *generation)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row row;
	bool clean;
	int r;

	r = cache_begin_op(c, &conn);
	if (!r) {
		conn->lazy = true;
		r = inode_get(conn, rec->ino, &row);
	}
	if (r)
		return r == -ENOENT ? 0 : r;
	record_observe(c, rec);
	/* The generation before the stat: a write in between is settled by its own release. */
	*generation = atomic_load(&rec->generation);
	clean = row.sealed == *generation && row.has_hash &&
		record_try_clean(c, rec->ino, *generation, true);
	r = settle_row(conn, rec, &row, *generation, clean);
	if (!r && row.sealed != *generation)
		r = journal_inode(conn, rec->ino);
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	return r;
}

/* With rec->lock: a row for everything up to generation was put. */
static void note_journalled(struct record *rec, uint64_t generation)
{
	if (generation > rec->journalled)
		rec->journalled = generation;
	(void)record_version(rec); /* what comes now has no row yet */
	if (rec->journalled == atomic_load(&rec->generation)) {
		atomic_store(&rec->changed_ms, 0);
		/* An unseen change may just have been found. */
		if (rec->journalled != atomic_load(&rec->generation))
			atomic_store(&rec->changed_ms, clock_monotonic_ms() + 1);
	}
}

/* Whether the last flush put a row for all that was written and no seal has come since: then that
 * row's seal finds no writer and marks the inode clean. */
static bool is_settled(struct cache *c, struct record *rec)
{
	bool settled;

	record_observe(c, rec);
	mutex_lock(&rec->lock);
	settled = rec->flushed && rec->journalled == atomic_load(&rec->generation) &&
		  !atomic_load(&rec->sealed_open);
	mutex_unlock(&rec->lock);
	return settled;
}

static void settle_or_keep(struct cache *c, struct record *rec)
{
	uint64_t generation = 0;
	int r;

	if (is_settled(c, rec))
		return;
	r = settle(c, rec, &generation);

	mutex_lock(&rec->lock);
	if (!r) {
		note_journalled(rec, generation);
	} else if (!rec->retry) {
		rec->retry = true;
		record_ref(c, rec);
	}
	mutex_unlock(&rec->lock);
}

/* ---- the calls of an open file ---- */

int file_flush(struct file *f)
{
	struct record *rec = f->rec;
	uint64_t generation = 0;
	bool changed;
	int r;

	if (!f->writable)
		return 0;
	record_observe(f->cache, rec);
	mutex_lock(&rec->lock);
	changed = atomic_load(&rec->changed_ms) != 0;
	if (changed)
		atomic_store(&rec->sealed_open, false);
	mutex_unlock(&rec->lock);
	if (!changed)
		return 0;
	r = settle(f->cache, rec, &generation);
	if (r)
		return r;
	mutex_lock(&rec->lock);
	note_journalled(rec, generation);
	rec->flushed = true;
	mutex_unlock(&rec->lock);
	return 0;
}

void file_unseen(struct file *f, int open_flags)
{
	unsigned flags = 0;

	if (!f->writable)
		return;
	/* Once set by an opener, neither goes before the record does: fcntl may not give more. */
	if (!(open_flags & O_APPEND))
		flags |= UNSEEN_OTHER;
	if ((open_flags & O_ACCMODE) == O_RDWR)
		flags |= UNSEEN_MAPS;
	if (open_flags & O_DIRECT)
		flags |= UNSEEN_DIRECT;
	record_unseen(f->cache, f->rec, flags);
}

void file_release(struct file *f)
{
	if (!f)
		return;
	if (f->writable && record_is_unseen(f->rec)) {
		record_observe(f->cache, f->rec);
		if (hides_changes(f->cache, f->rec))
			record_assume_changed(f->rec);
	}
	if (f->writable && atomic_fetch_sub(&f->rec->writers, 1) == 1)
		settle_or_keep(f->cache, f->rec);
	content_used(f->cache, f->rec->ino, atomic_load(&f->rec->used));
	file_end_open(f->cache, f->rec);
	free(f);
}

static int flush_content(struct cache *c, struct record *rec, bool data_only)
{
	int fd = atomic_load(&rec->fd);
	bool dir;
	int r;

	if (c->sync_off)
		return 0;
	mutex_lock(&rec->lock);
	dir = !rec->dir_synced;
	mutex_unlock(&rec->lock);
	if ((data_only ? fdatasync(fd) : fsync(fd)) != 0)
		return -errno;
	if (!dir)
		return 0;
	r = content_sync_dir(c, rec->ino);
	if (r)
		return r;
	mutex_lock(&rec->lock);
	rec->dir_synced = true;
	mutex_unlock(&rec->lock);
	return 0;
}

int file_fsync(struct file *f, bool data_only)
{
	struct record *rec = f->rec;
	uint64_t generation = 0;
	bool changed;
	int r;

	r = flush_content(f->cache, rec, data_only);
	if (r)
		return r;
	record_observe(f->cache, rec);
	if (hides_changes(f->cache, rec))
		record_assume_changed(rec);
	mutex_lock(&rec->lock);
	changed = rec->journalled != atomic_load(&rec->generation);
	mutex_unlock(&rec->lock);
	if (changed) {
		r = settle(f->cache, rec, &generation);
		if (r)
			return r;
		mutex_lock(&rec->lock);
		note_journalled(rec, generation);
		mutex_unlock(&rec->lock);
	}
	return cache_sync(f->cache);
}

int file_sync_ino(struct cache *c, uint64_t ino)
{
	int fd AUTO_CLOSE = c->sync_off ? -ENOENT : content_file(c, ino, O_RDONLY);
	int r = fd == -ENOENT ? 0 : fd < 0 ? fd : fsync(fd) == 0 ? 0 : -errno;

	if (!r && fd >= 0)
		r = content_sync_dir(c, ino);
	return r ? r : cache_sync(c);
}

/* ---- journal rows for files that stay open ---- */

static int journal_if_due(struct cache *c, struct record *rec, int64_t age_ms)
{
	uint64_t generation = 0;
	int64_t changed_ms;
	bool retry, due;
	struct stat st;
	int r;

	record_observe(c, rec);
	mutex_lock(&rec->lock);
	retry = rec->retry;
	if (!c->stores_show && record_is_unseen(rec) &&
		atomic_load(&rec->unseen_flags) & UNSEEN_MAPS && !atomic_load(&rec->changed_ms))
		record_assume_changed(rec);
	changed_ms = atomic_load(&rec->changed_ms);
	if (changed_ms && record_is_unseen(rec) && fstat(atomic_load(&rec->fd), &st) == 0)
		pressure_unsealed(c, rec, (uint64_t)st.st_size);
	due = changed_ms && clock_monotonic_ms() + 1 - changed_ms >= age_ms &&
	      atomic_load(&rec->writers) > 0;
	mutex_unlock(&rec->lock);
	if (!retry && !due)
		return 0;
	r = settle(c, rec, &generation);
	if (r)
		return r;
	mutex_lock(&rec->lock);
	note_journalled(rec, generation);
	retry = rec->retry;
	rec->retry = false;
	mutex_unlock(&rec->lock);
	if (retry)
		record_put(c, rec);
	return 0;
}

int file_journal_due(struct cache *c, int64_t age_ms)
{
	struct record *found[DUE_BATCH];
	unsigned at = 0, n;
	int r = 0;

	while ((n = record_collect(c, &at, found, DUE_BATCH)) > 0) {
		for (unsigned i = 0; i < n; i++) {
			if (!r)
				r = journal_if_due(c, found[i], age_ms);
			record_put(c, found[i]);
		}
	}
	return r;
}
