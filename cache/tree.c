/*
 * The tree, reading side: rows, paths, listings, and what a caller is shown.
 *
 * Truth of a regular file's size and mtime: the content file while it is open or dirty, else its
 * row. Truth of a directory's mtime and ctime: the table in memory (struct times) where it has the
 * directory, else its row. The table exists because a row update per created name costs a third of
 * a create; a crash loses up to five seconds of directory times and nothing else.
 *
 * The lock of struct times is a leaf.
 */
#include "cache/tree.h"

#include <errno.h>
#include <sys/statvfs.h>

#include "cache/internal.h"
#include "src/base/clock.h"

#define WALK_KEPT 32 /* deeper directories are walked to each time */
#define TIMES_MAX 4096
#define TIMES_BUCKETS 1024
#define QUIET_MS 1000
#define OLD_MS 5000

struct dir_time {
	struct dir_time *next;
	uint64_t ino;
	int64_t mtime_ns;
	int64_t first_ms; /* monotonic */
	int64_t last_ms;
	bool record;
};

struct times {
	struct mutex lock;
	_Atomic unsigned count; /* written under lock; read without it to skip an empty table */
	struct dir_time *buckets[TIMES_BUCKETS];
};

/* ---- rows ---- */

enum kind mode_kind(uint32_t mode)
{
	if (S_ISREG(mode))
		return KIND_FILE;
	if (S_ISDIR(mode))
		return KIND_DIR;
	return S_ISLNK(mode) ? KIND_SYMLINK : KIND_ABSENT;
}

void column_inode(sqlite3_stmt *s, int first, struct inode_row *ret)
{
	struct slice hash;

	*ret = (struct inode_row){
		.ino = (uint64_t)sqlite3_column_int64(s, first),
		.parent = (uint64_t)sqlite3_column_int64(s, first + 1),
		.mode = (uint32_t)sqlite3_column_int64(s, first + 2),
		.uid = (uint32_t)sqlite3_column_int64(s, first + 3),
		.gid = (uint32_t)sqlite3_column_int64(s, first + 4),
		.nlink = (uint32_t)sqlite3_column_int64(s, first + 5),
		.size = (uint64_t)sqlite3_column_int64(s, first + 6),
		.atime_ns = sqlite3_column_int64(s, first + 7),
		.mtime_ns = sqlite3_column_int64(s, first + 8),
		.ctime_ns = sqlite3_column_int64(s, first + 9),
		.state = (enum content_state)sqlite3_column_int(s, first + 10),
		.dirty = sqlite3_column_int(s, first + 11) != 0,
		.xattrs = (uint32_t)sqlite3_column_int64(s, first + 12),
		.generation = (uint64_t)sqlite3_column_int64(s, first + 13),
		.sealed = (uint64_t)sqlite3_column_int64(s, first + 14),
		.used = (uint64_t)sqlite3_column_int64(s, first + 16),
	};
	hash = column_slice(s, first + 15);
	if (hash.len == SHA256_SIZE) {
		ret->has_hash = true;
		memcpy(ret->hash, hash.p, SHA256_SIZE);
	}
}

/* The single inode that s finds. */
static int one_inode(struct conn *conn, sqlite3_stmt *s, struct inode_row *ret)
{
	int r = conn_row(conn, s);

	if (r <= 0)
		return r ? r : -ENOENT;
	column_inode(s, 0, ret);
	sqlite3_reset(s);
	return 0;
}

int inode_get(struct conn *conn, uint64_t ino, struct inode_row *ret)
{
	sqlite3_stmt *s;
	int r;

	if (conn->rows && row_cache_inode(conn->rows, ino, ret))
		return 0;
	s = conn_statement(conn, "SELECT " INODE_COLUMNS " FROM inode i WHERE i.ino = ?1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)ino);
	r = one_inode(conn, s, ret);
	if (!r && conn->rows)
		row_cache_put_inode(conn->rows, ret);
	return r;
}

int inode_child(struct conn *conn, uint64_t parent, struct slice name, struct inode_row *ret)
{
	int64_t place = name_place(name);
	sqlite3_stmt *s;
	uint64_t ino;
	int r;

	if (conn->rows && row_cache_name(conn->rows, parent, place, name, &ino))
		return ino ? inode_get(conn, ino, ret) : -ENOENT;
	s = conn_statement(conn,
		"SELECT " INODE_COLUMNS " FROM dentry d JOIN inode i ON i.ino = d.ino"
		" WHERE d.parent = ?1 AND d.place = ?3 AND d.name = ?2");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)parent);
	bind_slice(s, 2, name);
	bind_int(s, 3, place);
	r = one_inode(conn, s, ret);
	if (!conn->rows || (r && r != -ENOENT))
		return r;
	row_cache_put_name(conn->rows, parent, place, name, r ? 0 : ret->ino);
	if (!r)
		row_cache_put_inode(conn->rows, ret);
	return r;
}

static int child_ino(struct conn *conn, uint64_t parent, struct slice name, uint64_t *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT ino FROM dentry WHERE parent = ?1 AND place = ?3"
				     " AND name = ?2");
	int r;

	bind_int(s, 1, (int64_t)parent);
	bind_slice(s, 2, name);
	bind_int(s, 3, name_place(name));
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	*ret = (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

/* The directory at a path, by its names only. */
static int resolve_dir(struct conn *conn, struct slice key, uint64_t *ret)
{
	const char *p = key.p, *end = key.p + key.len;
	uint64_t dir = ROOT_INO;

	if (conn->found.ino && slice_equal(key_slice(&conn->found.key), key)) {
		*ret = conn->found.ino;
		return 0;
	}
	while (p < end) {
		const char *slash = memchr(p, '/', (size_t)(end - p));
		const char *to = slash ? slash : end;
		int r = child_ino(conn, dir, (struct slice){p, (size_t)(to - p)}, &dir);

		if (r)
			return r;
		p = slash ? slash + 1 : end;
	}
	if (conn->in_transaction && key.len && key_set(&conn->found.key, key))
		conn->found.ino = dir;
	*ret = dir;
	return 0;
}

int inode_resolve(struct conn *conn, struct slice key, struct inode_row *ret)
{
	uint64_t dir = ROOT_INO;
	int r = 0;

	if (key.len == 0)
		return inode_get(conn, ROOT_INO, ret);
	if (memchr(key.p, '/', key.len))
		r = resolve_dir(conn, key_parent(key), &dir);
	return r ? r : inode_child(conn, dir, key_name(key), ret);
}

/* The writer keeps the key of the directory that walked[1] is, or walked[0] when that is one. */
static void keep_dir_key(
	struct conn *conn, struct slice key, const uint64_t *walked, unsigned depth, bool dir)
{
	if (!conn->dir_keys || depth > WALK_KEPT)
		return;
	if (dir && depth > 0)
		dir_keys_put(conn->dir_keys, walked[0], key, walked, depth);
	else if (!dir && depth > 1)
		dir_keys_put(conn->dir_keys, walked[1], key_parent(key), walked + 1, depth - 1);
}

/* Builds from the end of the buffer towards its front. dir: ino is a directory. */
static int walk_up(struct conn *conn, uint64_t ino, bool dir, struct key *ret)
{
	char path[KEY_MAX];
	uint64_t walked[WALK_KEPT];
	size_t at = sizeof(path);
	struct slice known = {"", 0};
	unsigned depth;
	int r;

	for (depth = 0; ino != ROOT_INO; depth++) {
		sqlite3_stmt *s;
		struct slice name;

		if (conn->dir_keys && dir_keys_find(conn->dir_keys, ino, &known))
			break;
		if (depth < WALK_KEPT)
			walked[depth] = ino;
		s = conn_statement(conn, "SELECT parent, name FROM inode WHERE ino = ?1");
		bind_int(s, 1, (int64_t)ino);
		r = conn_row(conn, s);
		if (r <= 0)
			return r ? r : -ENOENT;
		ino = (uint64_t)sqlite3_column_int64(s, 0);
		name = column_slice(s, 1);
		if (ino != 0 &&
			(depth > DEPTH_MAX || name.len == 0 || name.len + (depth > 0) > at)) {
			sqlite3_reset(s);
			return -EIO;
		}
		if (ino != 0) {
			if (depth > 0)
				path[--at] = '/';
			at -= name.len;
			memcpy(path + at, name.p, name.len);
		}
		sqlite3_reset(s);
		if (ino == 0)
			return -ENOENT;
	}
	if (known.len) {
		if (known.len + (depth > 0) > at)
			return -EIO;
		if (depth > 0)
			path[--at] = '/';
		at -= known.len;
		memcpy(path + at, known.p, known.len);
	}
	if (!key_set(ret, (struct slice){path + at, sizeof(path) - at}))
		return -EIO;
	keep_dir_key(conn, key_slice(ret), walked, depth, dir);
	return 0;
}

int inode_key(struct conn *conn, uint64_t ino, struct key *ret)
{
	return walk_up(conn, ino, false, ret);
}

int inode_name(struct conn *conn, uint64_t ino, struct key *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT name FROM inode WHERE ino = ?1");
	int r;

	bind_int(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	r = key_set(ret, column_slice(s, 0)) ? 0 : -EIO;
	sqlite3_reset(s);
	return r;
}

int inode_target(struct conn *conn, uint64_t ino, char **ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT target FROM inode WHERE ino = ?1");
	const char *text;
	char *copy = NULL;
	int r;

	bind_int(s, 1, (int64_t)ino);
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -ENOENT;
	text = (const char *)sqlite3_column_text(s, 0);
	if (text)
		copy = strdup(text);
	sqlite3_reset(s);
	if (!text)
		return -EINVAL;
	if (!copy)
		return -ENOMEM;
	*ret = copy;
	return 0;
}

int inode_dir_empty(struct conn *conn, uint64_t dir, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT 1 FROM dentry WHERE parent = ?1 LIMIT 1");
	int r;

	bind_int(s, 1, (int64_t)dir);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	if (r)
		sqlite3_reset(s);
	*ret = r == 0;
	return 0;
}

/* ---- what a caller sees ---- */

void inode_present(struct cache *c, const struct inode_row *row, struct inode *ret)
{
	char name[CONTENT_NAME_SIZE];
	struct stat st;
	bool found;

	*ret = (struct inode){
		.ino = row->ino,
		.mode = row->mode,
		.uid = row->uid,
		.gid = row->gid,
		.nlink = row->nlink,
		.size = row->size,
		.atime_ns = row->atime_ns,
		.mtime_ns = row->mtime_ns,
		.ctime_ns = row->ctime_ns,
	};
	atimes_apply(c, ret);
	if (S_ISDIR(row->mode)) {
		if (row->nlink)
			ret->nlink = 2;
		times_apply(c, ret);
		return;
	}
	if (S_ISCHR(row->mode) || S_ISBLK(row->mode)) {
		ret->rdev = (uint32_t)row->size;
		ret->size = 0;
	}
	if (row->state != STATE_LOCAL)
		return;
	found = file_stat_open(c, row->ino, &st);
	if (!found && row->dirty) {
		content_name(row->ino, name);
		found = fstatat(c->content_fd, name, &st, 0) == 0;
	}
	if (!found)
		return;
	ret->size = (uint64_t)st.st_size;
	ret->mtime_ns = stat_mtime_ns(&st);
	if (ret->ctime_ns < stat_written_ns(&st) && row->dirty)
		ret->ctime_ns = stat_written_ns(&st);
}

static bool reserved(uint64_t parent, struct slice name)
{
	return parent == ROOT_INO && slice_equal(name, slice_of(".meridian"));
}

int name_check(uint64_t parent, struct slice name)
{
	if (name.len > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	if (name.len == 0 || memchr(name.p, '/', name.len) || memchr(name.p, '\0', name.len) ||
		slice_equal(name, slice_of(".")) || slice_equal(name, slice_of("..")))
		return -EINVAL;
	return reserved(parent, name) ? -EPERM : 0;
}

int name_key(struct conn *conn, uint64_t parent, struct slice name, struct key *ret,
	struct inode_row *dir)
{
	int r = inode_get(conn, parent, dir);

	if (r)
		return r;
	if (!S_ISDIR(dir->mode))
		return -ENOTDIR;
	r = walk_up(conn, parent, true, ret);
	if (r)
		return r;
	if (ret->len + (ret->len > 0) + name.len > KEY_MAX)
		return -ENAMETOOLONG;
	if (ret->len)
		ret->p[ret->len++] = '/';
	memcpy(ret->p + ret->len, name.p, name.len);
	ret->len += name.len;
	ret->p[ret->len] = '\0';
	return 0;
}

int tree_lookup(struct cache *c, uint64_t parent, struct slice name, struct inode *ret)
{
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row;
	int r;

	if (name.len > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	if (reserved(parent, name))
		return -ENOENT;
	r = conn_take_warm(c, &conn);
	if (r)
		return r;
	r = inode_child(conn, parent, name, &row);
	if (r == -ENOENT && inode_get(conn, parent, &row) == 0 && !S_ISDIR(row.mode))
		r = -ENOTDIR;
	if (!r)
		inode_present(c, &row, ret);
	return r;
}

int tree_getattr(struct cache *c, uint64_t ino, struct inode *ret)
{
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row;
	int r = conn_take_warm(c, &conn);

	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r)
		inode_present(c, &row, ret);
	return r;
}

int tree_readlink(struct cache *c, uint64_t ino, char **ret)
{
	struct conn *conn AUTO_GIVE = NULL;
	int r = conn_take_warm(c, &conn);

	return r ? r : inode_target(conn, ino, ret);
}

int tree_readdir(
	struct cache *c, uint64_t dir, int64_t after, unsigned limit, tree_dirent_fn fn, void *ctx)
{
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row;
	sqlite3_stmt *s;
	int r;

	r = conn_take_warm(c, &conn);
	if (!r)
		r = inode_get(conn, dir, &row);
	if (r)
		return r;
	if (!S_ISDIR(row.mode))
		return -ENOTDIR;
	s = conn_statement(conn,
		"SELECT d.name, " INODE_COLUMNS " FROM dentry d JOIN inode i ON i.ino = d.ino"
		" WHERE d.parent = ?1 AND d.place > ?2 ORDER BY d.place, d.name LIMIT ?3");
	bind_int(s, 1, (int64_t)dir);
	bind_int(s, 2, after);
	bind_int(s, 3, limit);
	while ((r = conn_row(conn, s)) > 0) {
		struct slice name = column_slice(s, 0);
		struct inode inode;

		column_inode(s, 1, &row);
		inode_present(c, &row, &inode);
		if (fn(ctx, name, name_place(name), &inode)) {
			sqlite3_reset(s);
			return 0;
		}
	}
	return r;
}

int tree_parent(struct cache *c, uint64_t dir, uint64_t *ret)
{
	struct conn *conn AUTO_GIVE = NULL;
	struct inode_row row;
	int r = conn_take_warm(c, &conn);

	if (!r)
		r = inode_get(conn, dir, &row);
	if (r)
		return r;
	if (dir != ROOT_INO && row.parent == 0)
		return -ENOENT;
	*ret = dir == ROOT_INO ? ROOT_INO : row.parent;
	return 0;
}

int tree_key(struct cache *c, uint64_t ino, struct key *ret)
{
	struct conn *conn AUTO_READ_END = NULL;
	int r = cache_read_begin(c, &conn);

	return r ? r : inode_key(conn, ino, ret);
}

int tree_resolve(struct cache *c, struct slice key, struct inode *ret)
{
	struct conn *conn AUTO_READ_END = NULL;
	struct inode_row row;
	int r = cache_read_begin(c, &conn);

	if (!r)
		r = inode_resolve(conn, key, &row);
	if (!r)
		inode_present(c, &row, ret);
	return r;
}

int tree_statfs(struct cache *c, struct statvfs *ret)
{
	struct statvfs v;
	uint64_t reserve;

	removals_drain(c);
	if (fstatvfs(c->content_fd, &v) != 0)
		return -errno;
	reserve = reserve_free(c) / v.f_frsize;
	v.f_bavail = v.f_bavail > reserve ? v.f_bavail - reserve : 0;
	v.f_bfree = v.f_bfree > reserve ? v.f_bfree - reserve : 0;
	v.f_namemax = NAME_MAX_BYTES;
	*ret = v;
	return 0;
}

/* ---- directory times ---- */

struct times *times_new(void)
{
	struct times *t = calloc(1, sizeof(*t));

	if (t)
		mutex_init(&t->lock, LOCK_RANK_LEAF);
	return t;
}

void times_free(struct times *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < TIMES_BUCKETS; i++) {
		for (struct dir_time *d = t->buckets[i]; d;) {
			struct dir_time *next = d->next;

			free(d);
			d = next;
		}
	}
	mutex_done(&t->lock);
	free(t);
}

static struct dir_time **find(struct times *t, uint64_t ino)
{
	struct dir_time **at = &t->buckets[ino % TIMES_BUCKETS];

	while (*at && (*at)->ino != ino)
		at = &(*at)->next;
	return at;
}

/* False when the table is full (or memory is out). */
static bool touch(struct times *t, uint64_t dir, bool record)
{
	int64_t now_ns = clock_realtime_ns(), now_ms = clock_monotonic_ms();
	struct dir_time **at, *d;
	bool fits = true;

	mutex_lock(&t->lock);
	at = find(t, dir);
	d = *at;
	if (!d) {
		d = atomic_load(&t->count) < TIMES_MAX ? calloc(1, sizeof(*d)) : NULL;
		fits = d != NULL;
		if (fits) {
			*at = d;
			d->ino = dir;
			d->first_ms = now_ms;
			atomic_fetch_add(&t->count, 1);
		}
	}
	if (fits) {
		d->mtime_ns = now_ns;
		d->last_ms = now_ms;
		d->record |= record;
	}
	mutex_unlock(&t->lock);
	return fits;
}

void times_touch(struct cache *c, uint64_t dir, bool record)
{
	if (touch(c->times, dir, record))
		return;
	/* Inside a transaction the table cannot be written out; that directory's time is then left
	 * as it is. */
	if (pthread_equal(atomic_load(&c->writer_owner), pthread_self()))
		return;
	if (tree_flush_times(c, true) == 0 && touch(c->times, dir, record))
		return;
}

void times_forget(struct cache *c, uint64_t dir)
{
	struct dir_time **at, *d;

	mutex_lock(&c->times->lock);
	at = find(c->times, dir);
	d = *at;
	if (d) {
		*at = d->next;
		atomic_fetch_sub(&c->times->count, 1);
	}
	mutex_unlock(&c->times->lock);
	free(d);
}

void times_apply(struct cache *c, struct inode *inode)
{
	struct dir_time *d;

	if (atomic_load(&c->times->count) == 0)
		return;
	mutex_lock(&c->times->lock);
	d = *find(c->times, inode->ino);
	if (d) {
		inode->mtime_ns = d->mtime_ns;
		if (inode->ctime_ns < d->mtime_ns)
			inode->ctime_ns = d->mtime_ns;
	}
	mutex_unlock(&c->times->lock);
}

/* Copies what is due; the table keeps it until the transaction is through. */
static unsigned collect(struct times *t, bool all, struct dir_time *due)
{
	int64_t now = clock_monotonic_ms();
	unsigned n = 0;

	mutex_lock(&t->lock);
	for (unsigned i = 0; i < TIMES_BUCKETS; i++) {
		for (struct dir_time *d = t->buckets[i]; d; d = d->next) {
			if (all || now - d->last_ms >= QUIET_MS || now - d->first_ms >= OLD_MS)
				due[n++] = *d;
		}
	}
	mutex_unlock(&t->lock);
	return n;
}

/* Whether the table still says what was collected: a setattr may have come in between. */
static bool is_current(struct times *t, const struct dir_time *collected)
{
	const struct dir_time *d;
	bool current;

	mutex_lock(&t->lock);
	d = *find(t, collected->ino);
	current = d && d->mtime_ns == collected->mtime_ns;
	mutex_unlock(&t->lock);
	return current;
}

static int write_time(struct conn *conn, const struct dir_time *d)
{
	sqlite3_stmt *s = conn_statement(
		conn, "UPDATE inode SET mtime_ns = ?2, ctime_ns = max(ctime_ns, ?2) WHERE ino = ?1");
	struct key key;
	uint64_t time;
	int r;

	if (!is_current(conn->cache->times, d))
		return 0;
	bind_int(s, 1, (int64_t)d->ino);
	bind_int(s, 2, d->mtime_ns);
	r = conn_run(conn, s);
	if (r || !d->record || sqlite3_changes(conn->db) == 0)
		return r;
	r = inode_key(conn, d->ino, &key);
	if (r)
		return r == -ENOENT ? 0 : r;
	r = conn_stamp_time(conn, &time);
	return r ? r : journal_append(conn, JOURNAL_PUT, key_slice(&key), slice_of(""), time);
}

int tree_keep_time(struct conn *conn, uint64_t dir, int64_t mtime_ns)
{
	sqlite3_stmt *s = conn_statement(
		conn, "UPDATE inode SET mtime_ns = ?2, ctime_ns = max(ctime_ns, ?2) WHERE ino = ?1"
		      " AND mtime_ns <> ?2");

	bind_int(s, 1, (int64_t)dir);
	bind_int(s, 2, mtime_ns);
	return conn_run(conn, s);
}

static void forget_written(struct times *t, const struct dir_time *written)
{
	struct dir_time **at, *d;

	mutex_lock(&t->lock);
	at = find(t, written->ino);
	d = *at;
	if (d && d->mtime_ns == written->mtime_ns) {
		*at = d->next;
		atomic_fetch_sub(&t->count, 1);
	} else {
		d = NULL;
	}
	mutex_unlock(&t->lock);
	free(d);
}

int tree_flush_times(struct cache *c, bool all)
{
	struct dir_time *due AUTO_FREE = NULL;
	struct conn *conn AUTO_ROLLBACK = NULL;
	unsigned n;
	int r;

	r = atimes_flush(c, all);
	if (r)
		return r;
	if (atomic_load(&c->times->count) == 0)
		return 0;
	due = calloc(TIMES_MAX, sizeof(*due));
	if (!due)
		return -ENOMEM;
	n = collect(c->times, all, due);
	if (n == 0)
		return 0;
	r = cache_begin(c, &conn);
	for (unsigned i = 0; !r && i < n; i++)
		r = write_time(conn, &due[i]);
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	for (unsigned i = 0; !r && i < n; i++)
		forget_written(c->times, &due[i]);
	return r;
}
