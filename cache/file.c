/*
 * Open files: opening, and what an open is of.
 *
 * A record's own lock is taken before a transaction, never inside one. record.h tells the rules of
 * generations and of marking; record.c has the table of records.
 *
 * Life of a record: made by the first reference, freed by the last. An open makes the content's
 * descriptor, of the partial content for a reader where the rest is elsewhere; the first writer's
 * says in the row that the inode is dirty before it is acknowledged.
 *
 * Reading and writing: file_io.c. What a release, a close or fsync puts into the row and the journal:
 * file_settle.c. The end of the last open of an inode without a name: file_detached.c.
 */
#include "cache/open_file.h"

#include <errno.h>
#include <fcntl.h>

#include "cache/partial.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

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
	trouble_note(c, row->ino, TROUBLE_LOST, 0);
	/* Nobody has what was written to it here. */
	if (row->dirty || !row->has_hash)
		return -EIO;
	r = cache_begin(c, &conn);
	if (r)
		return r;
	s = conn_statement(
		conn, "UPDATE inode SET state = 2 WHERE ino = ?1 AND dirty = 0 AND state = 1");
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
	if (!row.nlink)
		record_note_gone(c, rec);
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

	if (atomic_load(&rec->marked) && !atomic_load(&rec->gone))
		return 0;
	r = cache_begin_op(c, &conn);
	if (!r)
		r = inode_get(conn, rec->ino, &row);
	if (!r && (row.state != STATE_LOCAL || (row.nlink == 0 && !was_open)))
		r = -ESTALE;
	if (r)
		return r;
	if (row.nlink)
		atomic_store(&rec->gone, false); /* what took the name was rolled back */
	if (!row.dirty) {
		s = conn_statement(conn, "UPDATE inode SET dirty = 1 WHERE ino = ?1");
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

static int open_record(struct cache *c, struct file *f, bool truncate)
{
	struct record *rec = f->rec;
	bool was_open;
	int r;

	mutex_lock(&rec->lock);
	was_open = atomic_load(&rec->fd) >= 0 && !atomic_load(&rec->gone);
	r = ensure_fd(c, rec, f->writable, truncate);
	if (!r && f->writable) {
		atomic_fetch_add(&rec->writers, 1);
		r = mark_dirty(c, rec, was_open);
		if (!r && truncate)
			r = file_truncate_locked(c, rec, 0);
		if (r)
			atomic_fetch_sub(&rec->writers, 1);
	}
	mutex_unlock(&rec->lock);
	return r;
}

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
		file_end_open(c, f->rec);
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
	bool displaced;

	(void)record_end_open(f->cache, f->rec, &displaced);
	record_put(f->cache, f->rec);
	free(f);
}

/* ---- what is open ---- */

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
