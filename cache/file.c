/*
 * Open files: opening, reading and writing, and what the last release does.
 *
 * A record's own lock is taken before a transaction, never inside one. record.h tells the rules of
 * generations and of marking; record.c has the table of records.
 *
 * Life of a record: made by the first reference, freed by the last. The last release of a writer
 * settles the row: its size, mtime and generation are brought up to date, with a journal row when
 * there are unsealed changes, else it becomes clean. When that fails (a full disk), a reference is
 * kept and file_journal_due tries again; the row is dirty all the while, so a crash loses nothing
 * either.
 */
#include "cache/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "cache/entry.h"
#include "cache/partial.h"
#include "cache/progress.h"
#include "cache/record.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define DUE_BATCH 256

struct file {
	struct cache *cache;
	struct record *rec;
	bool writable;
};
/* ---- opening ---- */

/* The inode's content is wanted empty, so nothing need be fetched. With rec->lock. */
static int start_empty(struct cache *c, struct record *rec, struct inode_row *row)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	sqlite3_stmt *s;
	int r, fd;

	r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, rec->ino, row);
	if (r)
		return r;
	/* Somebody may have installed the content meanwhile: it is emptied all the same. */
	fd = content_file(c, rec->ino, O_RDWR | O_CREAT | O_TRUNC);
	if (fd < 0)
		return fd;
	close(fd);
	conn_account(conn, row->ino, 0, row->state != STATE_LOCAL,
		row->state == STATE_LOCAL ? -(int64_t)row->size : 0);
	row->generation++;
	s = conn_statement(conn, "UPDATE inode SET state = 1, dirty = 1, size = 0, generation = ?2,"
				 " used = ?3 WHERE ino = ?1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)rec->ino);
	bind_int(s, 2, (int64_t)row->generation);
	bind_int(s, 3, (int64_t)atomic_load(&c->tick));
	r = conn_run(conn, s);
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	row->state = STATE_LOCAL;
	row->dirty = true;
	if (!r)
		trouble_clear(c, rec->ino, TROUBLE_LOST);
	return r;
}

/* Clean content that is not what the row says is as good as not here. */
static int forget_content(struct cache *c, const struct inode_row *row)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	sqlite3_stmt *s;
	int r;

	metric_add(METRIC_CONTENT_LOST, 1);
	log_warn("content is missing or not of the recorded size ino=%llu size=%llu unpushed=%d",
		(unsigned long long)row->ino, (unsigned long long)row->size, row->dirty);
	trouble_note(c, row->ino, TROUBLE_LOST);
	/* Nobody has what was written to it here. */
	if (row->dirty || !row->has_hash)
		return -EIO;
	r = cache_begin(c, &conn);
	if (r)
		return r;
	s = conn_statement(
		conn, "UPDATE inode SET state = 2 WHERE ino = ?1 AND dirty = 0 AND state = 1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	r = conn_run(conn, s);
	if (!r && sqlite3_changes(conn->db) > 0)
		conn_account(conn, row->ino, 0, -1, -(int64_t)row->size);
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	return r ? r : -EREMOTE;
}

static int open_content(struct cache *c, const struct inode_row *row, int *ret)
{
	struct stat st;
	int fd = content_file(c, row->ino, O_RDWR);

	if (fd == -ENOENT)
		return forget_content(c, row);
	if (fd < 0)
		return fd;
	if (!row->dirty && (fstat(fd, &st) != 0 || (uint64_t)st.st_size != row->size)) {
		close(fd);
		return forget_content(c, row);
	}
	*ret = fd;
	return 0;
}

static bool is_partial(struct record *rec)
{
	struct partial *p = atomic_load(&rec->partial);

	return p && partial_state(p) != PARTIAL_DONE;
}

/* fd is the content: who reads through the number of the partial one's goes on with it. */
static int leave_partial(struct record *rec, int fd)
{
	struct partial *p = atomic_load(&rec->partial);
	int r = dup3(fd, atomic_load(&rec->fd), O_CLOEXEC) < 0 ? -errno : 0;

	close(fd);
	if (r)
		return r;
	atomic_store(&rec->partial, NULL);
	rec->left = p; /* once in a record's life: its content stays from now on */
	return 0;
}

/* The content of row, of which some or nothing is here, for a reader. */
static int open_partial(struct cache *c, struct record *rec, const struct inode_row *row, int *ret)
{
	struct partial *p;
	int r, fd;

	if (!row->nlink)
		return -ESTALE;
	if (!row->has_hash || row->size < cache_range_min(c))
		return -EREMOTE;
	r = partial_open(c, row->ino, row->hash, row->size, &p);
	if (r)
		return r == -ESTALE ? -EREMOTE : r;
	fd = fcntl(partial_fd(p), F_DUPFD_CLOEXEC, 0);
	if (fd < 0) {
		partial_put(p);
		return -errno;
	}
	atomic_store(&rec->partial, p);
	*ret = fd;
	return 0;
}

/* Makes rec->fd the content's descriptor: of all of it for a writer. With rec->lock. */
static int ensure_fd(struct cache *c, struct record *rec, bool writable, bool truncate)
{
	struct inode_row row;
	struct conn *conn;
	int r, fd = -1;

	if (atomic_load(&rec->fd) >= 0 && !(writable && is_partial(rec)))
		return 0;
	r = conn_take_warm(c, &conn);
	if (r)
		return r;
	r = inode_get(conn, rec->ino, &row);
	conn_give(conn);
	if (r)
		return r;
	if (!S_ISREG(row.mode))
		return S_ISDIR(row.mode) ? -EISDIR : -EINVAL;
	if (row.state == STATE_LOCAL) {
		r = open_content(c, &row, &fd);
		if (r && r != -EREMOTE && !(r == -EIO && truncate))
			return r;
	}
	if (fd < 0 && !writable) {
		r = open_partial(c, rec, &row, &fd);
		if (r)
			return r;
	}
	if (fd < 0) {
		if (!truncate)
			return row.nlink ? -EREMOTE : -ESTALE;
		r = start_empty(c, rec, &row);
		if (r)
			return r;
		rec->loaded = false;
		fd = content_file(c, rec->ino, O_RDWR);
		if (fd < 0)
			return fd;
		record_load(rec, &row);
		rec->journalled = 0; /* emptying it is a change that has no row yet */
		partial_remove(c, rec->ino, false, NULL);
	}
	record_load(rec, &row);
	if (atomic_load(&rec->fd) >= 0)
		return leave_partial(rec, fd);
	atomic_store(&rec->fd, fd);
	atomic_store(&rec->used, atomic_load(&c->tick));
	content_used(c, rec->ino, row.used);
	return 0;
}

/* The first writer since the inode was clean: its row says dirty before the open is acknowledged.
 * An inode that just lost its name is refused to the one who opens it first: the name means another
 * inode now. */
static int mark_dirty(struct cache *c, struct record *rec, bool was_open)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row row;
	sqlite3_stmt *s;
	int r;

	if (atomic_load(&rec->marked))
		return 0;
	r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, rec->ino, &row);
	if (!r && (row.state != STATE_LOCAL || (row.nlink == 0 && !was_open)))
		r = -ESTALE;
	if (r)
		return r;
	if (!row.dirty) {
		s = conn_statement(conn, "UPDATE inode SET dirty = 1 WHERE ino = ?1");
		if (!s)
			return conn_error(conn);
		bind_int(s, 1, (int64_t)rec->ino);
		r = conn_run(conn, s);
		if (r)
			return r;
		r = cache_commit(conn);
		conn = NULL;
	}
	if (!r)
		atomic_store(&rec->marked, true);
	return r;
}

static int truncate_locked(struct cache *c, struct record *rec, uint64_t size)
{
	int fd = atomic_load(&rec->fd);
	struct stat st;
	uint64_t old;

	if (size > INT64_MAX)
		return -EFBIG;
	if (fstat(fd, &st) != 0)
		return -errno;
	old = (uint64_t)st.st_size;
	if (old == size)
		record_changing(rec, 0, 0); /* its mtime changes */
	else
		record_changing(rec, size < old ? size : old, size < old ? old - size : 1);
	return ftruncate(fd, (off_t)size) == 0 ? 0 : -errno;
}

static int open_record(struct cache *c, struct file *f, bool truncate)
{
	struct record *rec = f->rec;
	bool was_open;
	int r;

	mutex_lock(&rec->lock);
	was_open = atomic_load(&rec->fd) >= 0;
	r = ensure_fd(c, rec, f->writable, truncate);
	if (!r && f->writable) {
		atomic_fetch_add(&rec->writers, 1);
		r = mark_dirty(c, rec, was_open);
		if (!r && truncate)
			r = truncate_locked(c, rec, 0);
		if (r)
			atomic_fetch_sub(&rec->writers, 1);
	}
	mutex_unlock(&rec->lock);
	return r;
}

static void close_record(struct cache *c, struct record *rec);

int file_open(struct cache *c, uint64_t ino, bool writable, bool truncate, struct file **ret)
{
	struct file *f;
	int r;

	if (truncate && !writable)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->cache = c;
	f->writable = writable;
	f->rec = record_get(c, ino, true);
	if (!f->rec) {
		free(f);
		return -ENOMEM;
	}
	r = open_record(c, f, truncate);
	if (r) {
		close_record(c, f->rec);
		free(f);
		/* The kernel looks the path up again on -ESTALE, and finds what is there now. */
		return r == -ENOENT ? -ESTALE : r;
	}
	*ret = f;
	return 0;
}

int file_adopt(struct cache *c, uint64_t ino, int fd, bool writable, struct file **ret)
{
	struct file *f = calloc(1, sizeof(*f));
	struct record *rec = f ? record_get(c, ino, true) : NULL;

	if (!rec) {
		free(f);
		return -ENOMEM;
	}
	f->cache = c;
	f->rec = rec;
	f->writable = writable;
	/* Nobody else knows the number yet, except that a stat may look it up. */
	mutex_lock(&rec->lock);
	rec->loaded = true;
	rec->journalled = writable ? 0 : 1;
	atomic_store(&rec->generation, 1);
	atomic_store(&rec->fresh, writable);
	atomic_store(&rec->marked, true);
	atomic_store(&rec->writers, writable);
	if (writable)
		atomic_store(&rec->changed_ms, clock_monotonic_ms() + 1);
	atomic_store(&rec->fd, fd);
	atomic_store(&rec->used, atomic_load(&c->tick));
	mutex_unlock(&rec->lock);
	*ret = f;
	return 0;
}

void file_forget(struct file *f)
{
	struct key *displaced = NULL;

	(void)record_end_open(f->cache, f->rec, &displaced);
	free(displaced);
	record_put(f->cache, f->rec);
	free(f);
}

/* ---- releasing ---- */

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

	if (!s)
		return conn_error(conn);
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

	if (!s)
		return conn_error(conn);
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

/* A detached inode is done with the key that inode_detach left in its row. */
static int clear_displaced(struct conn *conn, uint64_t ino)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE inode SET name = x'' WHERE ino = ?1"
					       " AND nlink = 0 AND name <> x''");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)ino);
	return conn_run(conn, s);
}

/* What a writer wrote after a remote change had taken the name is a version that lost. */
int file_add_conflict(struct conn *conn, const struct inode_row *row, struct slice key,
	const struct content_version *v, const char *reason)
{
	struct entry winner CLEANUP(entry_done) = {0};
	struct entry loser CLEANUP(entry_done) = {0};
	struct stamp stamp = {.node = conn->cache->node};
	int r;

	r = entry_get(conn, key, &winner);
	if (r && r != -ENOENT)
		return r;
	r = conn_stamp_time(conn, &stamp.time);
	if (r)
		return r;
	loser.kind = KIND_FILE;
	loser.size = v->size;
	memcpy(loser.hash, v->hash, SHA256_SIZE);
	loser.content_mtime_ns = v->mtime_ns;
	loser.content_stamp = loser.attr_stamp = stamp;
	loser.mode = row->mode & 07777;
	loser.uid = row->uid;
	loser.gid = row->gid;
	r = inode_get_xattrs(conn, row->ino, &loser.xattrs);
	if (r)
		return r;
	vector_raise(&loser.vector, stamp);
	r = conflict_add(conn, key, &loser, &winner, row->ino, reason);
	return r ? r : clear_displaced(conn, row->ino);
}

static int has_conflict(struct conn *conn, uint64_t ino, bool *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT 1 FROM conflict WHERE ino = ?1 AND ino <> 0 LIMIT 1");
	int r;

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	if (r)
		sqlite3_reset(s);
	*ret = r == 1;
	return 0;
}

/* The last open of a detached inode ended: it goes, unless a conflict keeps it. */
static int finish_detached(struct cache *c, struct record *rec, const struct key *displaced)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct content_version v = {0};
	struct inode_row row;
	bool kept = false;
	int r;

	if (displaced) {
		r = content_seal(c, rec->ino, 0, NULL, &v);
		if (r)
			return r == -ENOENT ? 0 : r;
		content_drop_snapshots(c, rec->ino, NULL);
	}
	r = cache_begin(c, &conn);
	if (!r)
		r = inode_get(conn, rec->ino, &row);
	if (r || row.nlink)
		return r == -ENOENT ? 0 : r;
	r = has_conflict(conn, rec->ino, &kept);
	if (!r && displaced) {
		r = file_add_conflict(conn, &row, key_slice(displaced), &v, CONFLICT_DISPLACED);
		if (!r)
			r = content_sealed(conn, &v);
	} else if (!r) {
		r = kept ? clear_displaced(conn, rec->ino) : inode_delete(conn, rec->ino);
	}
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	return r;
}

/* Ends one open. */
static void close_record(struct cache *c, struct record *rec)
{
	struct key *displaced = NULL;
	bool detached = record_end_open(c, rec, &displaced);

	/* On failure the row stays with nlink 0 and the displaced key; the next cache_open does the
	 * same with it. */
	if (detached && finish_detached(c, rec, displaced))
		(void)0;
	free(displaced);
	record_put(c, rec);
}

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
	close_record(f->cache, f->rec);
	free(f);
}

/* ---- content ---- */

uint64_t file_ino(const struct file *f)
{
	return f->rec->ino;
}

int file_fd(const struct file *f)
{
	return atomic_load(&f->rec->fd);
}

struct partial *file_partial(const struct file *f)
{
	return is_partial(f->rec) ? atomic_load(&f->rec->partial) : NULL;
}

bool file_ready(struct file *f, uint64_t offset, uint64_t n)
{
	struct partial *p = file_partial(f);

	if (!p)
		return true;
	if (!partial_has(p, offset, n))
		return false;
	cache_range(f->cache, p, offset, n, NULL, NULL);
	return true;
}

int file_catch_up(struct file *f)
{
	struct record *rec = f->rec;
	struct inode_row row;
	struct conn *conn;
	int r, fd = -1;

	mutex_lock(&rec->lock);
	r = is_partial(rec) ? conn_take_warm(f->cache, &conn) : 1;
	if (!r) {
		r = inode_get(conn, rec->ino, &row);
		conn_give(conn);
	}
	if (!r)
		r = row.state == STATE_LOCAL ? open_content(f->cache, &row, &fd) : -EREMOTE;
	if (!r)
		r = leave_partial(rec, fd);
	mutex_unlock(&rec->lock);
	return r > 0 ? 0 : r;
}

int64_t file_seek(const struct file *f, uint64_t offset, int whence)
{
	struct partial *p = file_partial(f);
	off_t found;

	if (p && offset >= partial_size(p))
		return -ENXIO;
	if (p)
		return whence == SEEK_HOLE ? (int64_t)partial_size(p) : (int64_t)offset;
	/* Moves the descriptor's own position, which nobody uses. */
	found = lseek(file_fd(f), (off_t)offset, whence);
	return found < 0 ? -errno : found;
}

ssize_t file_read(struct file *f, void *p, size_t n, uint64_t offset)
{
	struct partial *partial = file_partial(f);
	int fd = file_fd(f);
	size_t done = 0;

	if (partial && !partial_has(partial, offset, n))
		return -EREMOTE;
	while (done < n) {
		ssize_t got = pread(fd, (char *)p + done, n - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

static int write_all(int fd, const void *p, size_t n, uint64_t offset)
{
	size_t done = 0;

	while (done < n) {
		ssize_t put = pwrite(fd, (const char *)p + done, n - done, (off_t)(offset + done));

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? -errno : -EIO;
		done += (size_t)put;
	}
	return 0;
}

/* With rec->lock. */
static int write_locked(struct cache *c, struct record *rec, const void *p, size_t n, uint64_t offset, bool append)
{
	int r, fd = atomic_load(&rec->fd);
	struct stat st;

	if (fstat(fd, &st) != 0)
		return -errno;
	if (append)
		offset = (uint64_t)st.st_size;
	if (offset > INT64_MAX || n > INT64_MAX - offset)
		return -EFBIG;
	record_changing(rec, offset, n);
	r = write_all(fd, p, n, offset);
	if (!r)
		pressure_wrote(c, rec, n,
			offset + n > (uint64_t)st.st_size ? offset + n : (uint64_t)st.st_size);
	/* Whole or not at all, as far as the size goes: nothing was acknowledged. */
	if (r && offset + n > (uint64_t)st.st_size && ftruncate(fd, st.st_size) != 0)
		return -EIO;
	return r;
}

ssize_t file_write(struct file *f, const void *p, size_t n, uint64_t offset, bool append)
{
	int r;

	if (!f->writable)
		return -EBADF;
	if (n > SSIZE_MAX)
		return -EINVAL;
	if (n == 0)
		return 0;
	r = content_check_new(f->cache, n);
	if (r)
		return r;
	mutex_lock(&f->rec->lock);
	r = write_locked(f->cache, f->rec, p, n, offset, append);
	mutex_unlock(&f->rec->lock);
	return r ? r : (ssize_t)n;
}

static bool grows(const struct file *f, uint64_t size)
{
	struct stat st;

	return fstat(file_fd(f), &st) == 0 && size > (uint64_t)st.st_size;
}

int file_truncate(struct file *f, uint64_t size)
{
	int r;

	if (!f->writable)
		return -EBADF;
	r = grows(f, size) ? content_check_new(f->cache, 0) : 0;
	if (r)
		return r;
	mutex_lock(&f->rec->lock);
	r = truncate_locked(f->cache, f->rec, size);
	mutex_unlock(&f->rec->lock);
	return r;
}

int file_allocate(struct file *f, int mode, uint64_t offset, uint64_t length)
{
	struct record *rec = f->rec;
	int r = 0;

	if (!f->writable)
		return -EBADF;
	if (length == 0 || offset > INT64_MAX || length > INT64_MAX - offset)
		return length ? -EFBIG : -EINVAL;
	if (!(mode & FALLOC_FL_PUNCH_HOLE))
		r = content_check_new(f->cache, length);
	if (r)
		return r;
	mutex_lock(&rec->lock);
	/* Space alone is no change of content. */
	if (mode != FALLOC_FL_KEEP_SIZE)
		record_changing(rec, offset, length);
	if (fallocate(atomic_load(&rec->fd), mode, (off_t)offset, (off_t)length) != 0)
		r = -errno;
	mutex_unlock(&rec->lock);
	return r;
}

ssize_t file_copy(struct file *from, uint64_t offset, struct file *to, uint64_t to_offset, size_t n)
{
	loff_t at = (loff_t)offset, to_at = (loff_t)to_offset;
	struct record *rec = to->rec;
	ssize_t copied;
	int r;

	if (!to->writable)
		return -EBADF;
	if (offset > INT64_MAX || to_offset > INT64_MAX || n > INT64_MAX - to_offset)
		return -EFBIG;
	if (n == 0)
		return 0;
	if (file_partial(from))
		return -EOPNOTSUPP; /* the kernel reads it */
	r = content_check_new(to->cache, n);
	if (r)
		return r;
	mutex_lock(&rec->lock);
	record_changing(rec, to_offset, n);
	copied = copy_file_range(file_fd(from), &at, atomic_load(&rec->fd), &to_at, n, 0);
	if (copied < 0)
		copied = -errno;
	mutex_unlock(&rec->lock);
	return copied;
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
