/*
 * What takes time in proportion to the volume, done in small steps beside everything else: content
 * files that no row owns are removed, and the totals of the inode table counted. Both are needed
 * after an unclean stop only; what a stop leaves undone the next open finds noted.
 *
 * Strays. A crash between making a content file and its row, between the end of a row and its
 * content file, or in a download, leaves a file without a row. No number is used twice and new ones
 * are drawn above ino_limit as it stood at the open: a file below it without a local row is nobody's,
 * and stays so. A local row may still come to a file that has one (content_install renames inside
 * its transaction), so a suspect is looked at again inside a transaction before it goes.
 *
 * Totals. Each transaction adds the differences that it makes when it commits. While they are being
 * counted, rows above the cursor are left out of that: the count comes to them. The cursor moves and
 * the differences are taken under the writer's lock, so the sums are exact at every commit.
 *
 * meta rows: sweep (the next content directory to look at, 256: none), total_inodes, total_files,
 * total_bytes (the sums at a clean stop; removed at the open).
 *
 * Lock: sweep.lock (rank FILE, before the writer's) keeps cache_sweep to one thread and guards what
 * the steps keep between them. The sums and the cursor are written under the writer's lock.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cache/internal.h"
#include "cache/meta.h"
#include "src/base/log.h"

#define DIRECTORIES 256
#define NAMES 2048
#define ROWS 1000

struct sweep {
	struct mutex lock;
	DIR *dir;
	_Atomic unsigned next; /* directory, DIRECTORIES: done */
	uint64_t limit;	       /* only numbers below it */
	uint64_t removed;
	bool failed;		 /* something was passed over: the next open starts again */
	_Atomic uint64_t cursor; /* rows up to it are in the sums; UINT64_MAX: all */
	_Atomic int64_t inodes, files, bytes;
};

struct sweep *sweep_new(void)
{
	struct sweep *s = calloc(1, sizeof(*s));

	if (s) {
		mutex_init(&s->lock, LOCK_RANK_FILE);
		atomic_init(&s->next, DIRECTORIES);
		atomic_init(&s->cursor, UINT64_MAX);
	}
	return s;
}

void sweep_free(struct sweep *s)
{
	if (!s)
		return;
	if (s->dir)
		closedir(s->dir);
	mutex_done(&s->lock);
	free(s);
}

/* ---- what a stop leaves for the next open ---- */

static int get_or(struct conn *conn, const char *name, int64_t otherwise, int64_t *ret)
{
	int r = meta_get_int(conn, name, ret);

	if (r == -ENOENT)
		*ret = otherwise;
	return r == -ENOENT ? 0 : r;
}

int sweep_load(struct cache *c, struct conn *conn)
{
	struct sweep *s = c->sweep;
	int64_t next, inodes, files, bytes;
	sqlite3_stmt *drop;
	int r = get_or(conn, "sweep", DIRECTORIES, &next);

	if (!r)
		r = get_or(conn, "total_inodes", -1, &inodes);
	if (!r)
		r = get_or(conn, "total_files", -1, &files);
	if (!r)
		r = get_or(conn, "total_bytes", -1, &bytes);
	if (r)
		return r;
	s->limit = c->ino_limit;
	/* The root was just made: everything that there is was counted by this transaction. */
	if (conn->account.inodes)
		return 0;
	if (!c->was_clean || next < 0 || next > DIRECTORIES)
		next = 0;
	atomic_store(&s->next, (unsigned)next);
	if (c->was_clean && inodes >= 0 && files >= 0 && bytes >= 0) {
		atomic_store(&s->inodes, inodes);
		atomic_store(&s->files, files);
		atomic_store(&s->bytes, bytes);
	} else {
		atomic_store(&s->cursor, 0);
	}
	drop = conn_statement(conn,
		"DELETE FROM meta WHERE name IN ('total_inodes', 'total_files', 'total_bytes')");
	return drop ? conn_run(conn, drop) : conn_error(conn);
}

int sweep_store(struct cache *c, struct conn *conn)
{
	struct sweep *s = c->sweep;
	int r = meta_set_int(conn, "sweep", s->failed ? 0 : atomic_load(&s->next));

	if (r || atomic_load(&s->cursor) != UINT64_MAX)
		return r;
	r = meta_set_int(conn, "total_inodes", atomic_load(&s->inodes));
	if (!r)
		r = meta_set_int(conn, "total_files", atomic_load(&s->files));
	if (!r)
		r = meta_set_int(conn, "total_bytes", atomic_load(&s->bytes));
	return r;
}

/* ---- totals ---- */

void conn_account(struct conn *conn, uint64_t ino, int inodes, int files, int64_t bytes)
{
	if (ino > atomic_load_explicit(&conn->cache->sweep->cursor, memory_order_relaxed))
		return;
	conn->account.inodes += inodes;
	conn->account.files += files;
	conn->account.bytes += bytes;
}

static void add(struct sweep *s, const struct totals *t)
{
	atomic_fetch_add_explicit(&s->inodes, t->inodes, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->files, t->files, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->bytes, t->bytes, memory_order_relaxed);
}

void sweep_publish(struct conn *conn)
{
	const struct totals *t = &conn->account;

	if (t->inodes || t->files || t->bytes)
		add(conn->cache->sweep, t);
}

static uint64_t not_negative(int64_t v)
{
	return v > 0 ? (uint64_t)v : 0;
}

void sweep_usage(struct cache *c, struct cache_usage *ret)
{
	const struct sweep *s = c->sweep;

	ret->inodes = not_negative(atomic_load(&s->inodes));
	ret->content_files = not_negative(atomic_load(&s->files));
	ret->content_bytes = not_negative(atomic_load(&s->bytes));
	ret->counting = atomic_load(&s->cursor) != UINT64_MAX;
}

/* Adds up to ROWS rows above the cursor. */
static int count_rows(struct conn *conn, uint64_t *cursor, struct totals *t)
{
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT ino, state, size FROM inode WHERE ino > ?1 ORDER BY ino LIMIT ?2");
	unsigned n = 0;
	int r;

	bind_int(s, 1, (int64_t)*cursor);
	bind_int(s, 2, ROWS);
	while ((r = conn_row(conn, s)) > 0) {
		*cursor = (uint64_t)sqlite3_column_int64(s, 0);
		t->inodes++;
		if (sqlite3_column_int(s, 1) == STATE_LOCAL) {
			t->files++;
			t->bytes += sqlite3_column_int64(s, 2);
		}
		n++;
	}
	if (!r && n < ROWS)
		*cursor = UINT64_MAX;
	return r;
}

static int count_step(struct cache *c)
{
	/* Reads by a reader, so that the writer's page cache keeps what it has. */
	struct conn *reader AUTO_GIVE = NULL;
	struct conn *writer AUTO_ROLLBACK = NULL;
	uint64_t cursor = atomic_load(&c->sweep->cursor);
	struct totals t = {0};
	int r = cache_begin(c, &writer);

	if (!r)
		r = conn_take(c, &reader);
	if (!r)
		r = count_rows(reader, &cursor, &t);
	if (r)
		return r;
	add(c->sweep, &t);
	atomic_store(&c->sweep->cursor, cursor);
	return 0;
}

/* ---- strays ---- */

int sweep_owned(struct conn *conn, uint64_t ino, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT 1 FROM inode WHERE ino = ?1 AND state = 1");

	bind_int(s, 1, (int64_t)ino);
	return conn_exists(conn, s, ret);
}

static int remove_if_stray(struct cache *c, uint64_t ino)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	bool keep = false;
	int r = cache_begin(c, &conn);

	if (!r)
		r = sweep_owned(conn, ino, &keep);
	if (!r && !keep) {
		content_remove(c, ino);
		c->sweep->removed++;
	}
	return r;
}

static int open_next(struct cache *c)
{
	struct sweep *s = c->sweep;
	char name[4];
	int fd;

	snprintf(name, sizeof(name), "%02x", atomic_load(&s->next) & 0xff);
	fd = openat(c->content_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	s->dir = fdopendir(fd);
	if (!s->dir) {
		close(fd);
		return -ENOMEM;
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The next numbers of the open directory, in order: rows that lie together are read together. */
static unsigned read_names(struct sweep *s, uint64_t *ino)
{
	const struct dirent *e;
	unsigned n = 0;

	while (n < NAMES && (e = readdir(s->dir))) {
		/* What is not ours by its name is left alone. */
		if (content_ino(e->d_name, &ino[n]) && ino[n] < s->limit)
			n++;
	}
	qsort(ino, n, sizeof(*ino), compare);
	if (n < NAMES) {
		closedir(s->dir);
		s->dir = NULL;
		atomic_fetch_add(&s->next, 1);
	}
	return n;
}

/* Moves those that no row owns to the front. */
static int find_strays(struct cache *c, uint64_t *ino, unsigned n, unsigned *strays)
{
	struct conn *conn AUTO_READ_END = NULL;
	int r = cache_read_begin(c, &conn);

	*strays = 0;
	for (unsigned i = 0; !r && i < n; i++) {
		bool keep = false;

		r = sweep_owned(conn, ino[i], &keep);
		if (!r && !keep)
			ino[(*strays)++] = ino[i];
	}
	return r;
}

static int stray_step(struct cache *c)
{
	struct sweep *s = c->sweep;
	uint64_t *ino AUTO_FREE = NULL;
	unsigned n, strays = 0;
	int r = s->dir ? 0 : open_next(c);

	if (r == -ENOENT) {
		atomic_fetch_add(&s->next, 1);
		return 0;
	}
	ino = malloc(NAMES * sizeof(*ino));
	if (r || !ino)
		return r ? r : -ENOMEM;
	n = read_names(s, ino);
	r = find_strays(c, ino, n, &strays);
	for (unsigned i = 0; !r && i < strays; i++)
		r = remove_if_stray(c, ino[i]);
	s->failed |= r != 0;
	if (atomic_load(&s->next) == DIRECTORIES && s->removed)
		log_info("removed content without a file count=%llu",
			(unsigned long long)s->removed);
	return r;
}

int cache_sweep(struct cache *c, bool *more)
{
	struct sweep *s = c->sweep;
	int r = 0;

	mutex_lock(&s->lock);
	if (atomic_load(&s->cursor) != UINT64_MAX)
		r = count_step(c);
	else if (atomic_load(&s->next) < DIRECTORIES)
		r = stray_step(c);
	*more = !r &&
		(atomic_load(&s->cursor) != UINT64_MAX || atomic_load(&s->next) < DIRECTORIES);
	mutex_unlock(&s->lock);
	return r;
}
