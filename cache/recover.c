/*
 * What a stop leaves to be put right at the next open, before anybody else has the cache.
 *
 *   always      inodes whose name a remote change took, and that have what was not sealed: a conflict
 *               each, which keeps the content
 *               inodes without a name that no conflict keeps: deleted with their content
 *               snapshots: removed; what needed one is read in place or sealed again
 *               dirty inodes (an unclean stop leaves them; a clean one only files that a program
 *               has open through a mount that had died): row brought up to date with the content
 *               file, generation raised (a version that was being sealed is not this one), journal
 *               row put, so they are sealed again; the hash tells whether anything changed; one
 *               without a name is hashed at once; what somebody else has open is noted for the
 *               mount, which follows it
 *   power loss  a dirty file that is shorter than its row says lost what was not flushed. It is not
 *               sealed as if it had been emptied: where the name has an earlier version in the
 *               regions that is better, the name shows that one again, and what is left is a
 *               conflict. The row's size is of the last close or seal
 *
 * Nothing here looks at more than what was in use at the stop: what takes a walk through the volume
 * is sweep.c's.
 *
 * Each batch is one transaction and each step can be repeated, so a crash in here is as good as one
 * before.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>

#include "cache/entry.h"
#include "cache/file.h"
#include "cache/internal.h"
#include "cache/project.h"
#include "src/base/log.h"

#define BATCH 500
#define HASH_BUFFER 65536
#define SURVIVORS_MAX 4096 /* each costs a descriptor; what is over it is as it was written so far */

struct batch {
	uint64_t ino[BATCH];
	unsigned count;
};

static int read_batch(struct conn *conn, sqlite3_stmt *s, uint64_t after, struct batch *b)
{
	int r;

	b->count = 0;
	bind_int(s, 1, (int64_t)after);
	bind_int(s, 2, BATCH);
	while ((r = conn_row(conn, s)) > 0)
		b->ino[b->count++] = (uint64_t)sqlite3_column_int64(s, 0);
	return r;
}

/* Calls fn for each inode that sql finds (after ?1, at most ?2), a batch a transaction. */
static int each_inode(struct cache *c, const char *sql, int (*fn)(struct conn *conn, uint64_t ino))
{
	struct batch b;
	uint64_t after = 0;
	int r = 0;

	do {
		struct conn *conn AUTO_ROLLBACK = NULL;

		r = cache_begin(c, &conn);
		if (!r)
			r = read_batch(conn, conn_statement(conn, sql), after, &b);
		for (unsigned i = 0; !r && i < b.count; i++) {
			r = fn(conn, b.ino[i]);
			after = b.ino[i];
		}
		if (r)
			return r;
		r = cache_commit(conn);
		conn = NULL;
	} while (!r && b.count == BATCH);
	return r;
}

/* ---- dirty inodes ---- */

static int refresh_row(struct conn *conn, const struct inode_row *row, const struct stat *st)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE inode SET size = ?2, mtime_ns = ?3,"
					       " generation = generation + 1 WHERE ino = ?1");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	bind_int(s, 2, st->st_size);
	bind_int(s, 3, stat_mtime_ns(st));
	conn_account(conn, row->ino, 0, 0, st->st_size - (int64_t)row->size);
	return conn_run(conn, s);
}

static int make_remote(struct conn *conn, const struct inode_row *row)
{
	sqlite3_stmt *s =
		conn_statement(conn, "UPDATE inode SET state = 2, dirty = 0, generation = sealed"
				     " WHERE ino = ?1");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	conn_account(conn, row->ino, 0, -1, -(int64_t)row->size);
	return conn_run(conn, s);
}

static int hash_content(int fd, uint8_t hash[SHA256_SIZE])
{
	uint8_t *buffer AUTO_FREE = malloc(HASH_BUFFER);
	struct sha256 h;
	ssize_t n;

	if (!buffer)
		return -ENOMEM;
	sha256_init(&h);
	for (off_t at = 0; (n = pread(fd, buffer, HASH_BUFFER, at)) != 0; at += n > 0 ? n : 0) {
		if (n < 0 && errno != EINTR)
			break;
		if (n > 0)
			sha256_update(&h, buffer, (size_t)n);
	}
	sha256_final(&h, hash);
	return n < 0 ? -errno : 0;
}

static int record_hash(struct conn *conn, uint64_t ino, const uint8_t hash[SHA256_SIZE])
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE inode SET hash = ?2, sealed = generation,"
					       " dirty = 0 WHERE ino = ?1");

	bind_int(s, 1, (int64_t)ino);
	sqlite3_bind_blob(s, 2, hash, SHA256_SIZE, SQLITE_STATIC);
	return conn_run(conn, s);
}

/* Kept by a conflict, or hidden: it has no name, so no sealing will ever tell what it holds. */
static int recover_kept(struct conn *conn, uint64_t ino, int fd)
{
	uint8_t hash[SHA256_SIZE];
	int r = hash_content(fd, hash);

	return r ? r : record_hash(conn, ino, hash);
}

/* ---- after a power loss ---- */

/* Whether the version that was sealed last under the name is better than what is left. An inode
 * that was never sealed was written whole: nothing of it is trusted, as when it was renamed over
 * the name. One that was changed in place is, like on any disk, unless it lost what was sealed. */
static bool is_better(const struct entry *e, const struct inode_row *row, const struct stat *st)
{
	return e->kind == KIND_FILE && (!row->has_hash || (uint64_t)st->st_size < e->size);
}

/* The name shows its entry again; what is left of the file becomes a conflict, if it is anything. */
static int restore(struct conn *conn, const struct inode_row *row, struct slice key,
	const struct entry *e, int fd, const struct stat *st)
{
	struct content_version v = {
		.ino = row->ino, .size = (uint64_t)st->st_size, .mtime_ns = stat_mtime_ns(st)};
	bool keep = st->st_size > 0;
	uint64_t replaced = 0;
	struct key name;
	int r = inode_name(conn, row->ino, &name);

	if (!r && keep)
		r = hash_content(fd, v.hash);
	if (!r)
		r = inode_detach(conn, row->parent, key_slice(&name), row->ino, keep, NULL);
	if (!r && keep)
		r = refresh_row(conn, row, st);
	if (!r && keep)
		r = record_hash(conn, row->ino, v.hash);
	if (!r && keep)
		r = file_add_conflict(conn, row, key, &v,
			"cut short by a power loss; the name shows what was "
			"replicated before");
	return r ? r : project_entry(conn, key, e, true, NULL, &replaced);
}

/* -EALREADY: nothing better is known, it is recovered like any other. */
static int recover_cut_short(
	struct conn *conn, const struct inode_row *row, int fd, const struct stat *st)
{
	struct entry e CLEANUP(entry_done) = {0};
	struct key key;
	int r;

	conn->cache->cut_short++;
	r = inode_key(conn, row->ino, &key);
	if (r)
		return r == -ENOENT ? -EALREADY : r;
	r = entry_get(conn, key_slice(&key), &e);
	if (r && r != -ENOENT)
		return r;
	if (r || !is_better(&e, row, st)) {
		log_warn("a power loss cut a file short, nothing better is known path=\"%s\" "
			 "size=%lld was=%llu",
			key.p, (long long)st->st_size, (unsigned long long)row->size);
		return -EALREADY;
	}
	log_warn("a power loss cut a file short, it is as it was replicated before path=\"%s\" "
		 "size=%lld was=%llu",
		key.p, (long long)st->st_size, (unsigned long long)row->size);
	return restore(conn, row, key_slice(&key), &e, fd, st);
}

/* ---- programs that outlived the daemon ---- */

/* A write lease is granted to the sole open of a file only. */
static bool is_open_elsewhere(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
		return errno == EAGAIN;
	return fcntl(fd, F_SETLEASE, F_UNLCK) < 0;
}

static int note_survivor(struct cache *c, uint64_t ino)
{
	if (c->survivor_count == SURVIVORS_MAX)
		return 0;
	if (!c->survivors)
		c->survivors = calloc(SURVIVORS_MAX, sizeof(*c->survivors));
	if (!c->survivors)
		return -ENOMEM;
	c->survivors[c->survivor_count++] = ino;
	return 0;
}

struct file *file_next_survivor(struct cache *c)
{
	while (c->survivor_count > 0) {
		uint64_t ino = c->survivors[--c->survivor_count];
		struct file *f;
		int r = file_open(c, ino, true, false, &f);

		if (r == 0)
			return f;
		log_warn("not followed any more: a file that a program still has open from before "
			 "ino=%llu error=%d",
			(unsigned long long)ino, -r);
	}
	return NULL;
}

static int recover_dirty_inode(struct conn *conn, uint64_t ino)
{
	struct cache *c = conn->cache;
	struct inode_row row;
	struct stat st;
	int fd AUTO_CLOSE = -1;
	bool survives;
	int r = inode_get(conn, ino, &row);

	if (r)
		return r;
	fd = content_file(c, ino, O_RDONLY);
	survives = fd >= 0 && is_open_elsewhere(fd);
	/* Who closed it put its journal row. */
	if (c->was_clean && !survives)
		return 0;
	if (fd == -ENOENT) {
		/* Only a power cut takes a content file away. What was pushed is there; of a file
		 * that never was, the name is all that is left. */
		log_warn("content lost ino=%llu known=%d", (unsigned long long)ino, row.has_hash);
		if (row.has_hash) {
			r = make_remote(conn, &row);
			/* Another of the same content may have waited for this one's seal (link_id.c). */
			return r || !atomic_load(&c->linked) ? r : journal_inode(conn, ino);
		}
		fd = content_file(c, ino, O_RDWR | O_CREAT);
	}
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) != 0)
		return -errno;
	if (c->power_lost && (uint64_t)st.st_size < row.size) {
		r = recover_cut_short(conn, &row, fd, &st);
		if (r != -EALREADY)
			return r;
	}
	r = refresh_row(conn, &row, &st);
	if (!r && row.nlink == 0)
		return recover_kept(conn, ino, fd);
	if (!r && survives)
		r = note_survivor(c, ino);
	return r ? r : journal_inode(conn, ino);
}

static int recover_dirty(struct cache *c)
{
	struct sigaction old;

	/* Who opens the file while the lease is held has it broken by a signal that would end us. */
	if (sigaction(SIGIO, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
		signal(SIGIO, SIG_IGN);
	return each_inode(c,
		"SELECT ino FROM inode WHERE dirty = 1 AND ino > ?1 AND (nlink <> 0 OR name = x'')"
		" ORDER BY ino LIMIT ?2",
		recover_dirty_inode);
}

/* ---- displaced files ---- */

/* Its last release did not come, or could not be recorded, or it was closed and not sealed: its name is the key.
 * Unwritten since its last seal it is left to recover_detached, as an empty one that never had a seal is. */
static int recover_displaced_inode(struct conn *conn, uint64_t ino)
{
	struct content_version v = {.ino = ino};
	struct inode_row row;
	struct stat st;
	struct key key;
	int fd AUTO_CLOSE = -1;
	int r = inode_get(conn, ino, &row);

	if (!r)
		r = inode_name(conn, ino, &key);
	if (r)
		return r;
	fd = content_file(conn->cache, ino, O_RDONLY);
	if (fd == -ENOENT)
		return file_clear_displaced(conn, ino);
	r = fd < 0 ? fd : fstat(fd, &st) != 0 ? -errno : hash_content(fd, v.hash);
	if (r) {
		log_error("what was written to a file that gave way to another server's cannot be read,"
			  " trying again at the next start key=\"%s\" ino=%llu error=%d",
			key.p, (unsigned long long)ino, -r);
		return 0;
	}
	if (row.has_hash ? memcmp(row.hash, v.hash, SHA256_SIZE) == 0 : st.st_size == 0)
		return file_clear_displaced(conn, ino);
	v.size = (uint64_t)st.st_size;
	v.mtime_ns = stat_mtime_ns(&st);
	r = refresh_row(conn, &row, &st);
	if (!r)
		r = record_hash(conn, ino, v.hash);
	return r ? r : file_add_conflict(conn, &row, key_slice(&key), &v, CONFLICT_DISPLACED);
}

static int recover_displaced(struct cache *c)
{
	return each_inode(c,
		"SELECT ino FROM inode WHERE nlink = 0 AND dirty = 1"
		" AND name <> x'' AND ino > ?1"
		" ORDER BY ino LIMIT ?2",
		recover_displaced_inode);
}

/* ---- orphans ---- */

/* Local removals leave the marks of the directories that they remove. */
static int forget_shadowing(struct cache *c)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	sqlite3_stmt *s;
	int r = cache_begin(c, &conn);

	if (r)
		return r;
	s = conn_statement(conn, "DELETE FROM shadowing WHERE ino NOT IN (SELECT ino FROM inode)");
	r = s ? conn_run(conn, s) : conn_error(conn);
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	return r;
}

static int recover_detached(struct cache *c)
{
	return each_inode(c,
		"SELECT ino FROM inode WHERE nlink = 0 AND ino > ?1 AND (name = x'' OR dirty = 0)"
		" AND NOT EXISTS(SELECT 1 FROM conflict k WHERE k.ino "
		"= inode.ino AND k.ino <> 0)"
		" ORDER BY ino LIMIT ?2",
		inode_delete);
}

/* ---- snapshots ---- */

static DIR *open_dir(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir && fd >= 0)
		close(fd);
	return dir;
}

static void remove_names(int at, const char *name)
{
	DIR *dir = open_dir(at, name);
	struct dirent *e;

	if (!dir)
		return;
	while ((e = readdir(dir))) {
		if (e->d_name[0] != '.')
			unlinkat(dirfd(dir), e->d_name, 0);
	}
	closedir(dir);
}

static void recover_snapshots(struct cache *c)
{
	DIR *dir = open_dir(c->dir_fd, "snapshot");
	struct dirent *e;

	if (!dir)
		return;
	while ((e = readdir(dir))) {
		uint64_t ino;

		if (!content_ino(e->d_name, &ino))
			continue;
		remove_names(dirfd(dir), e->d_name);
		unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
	}
	closedir(dir);
}

int recover_run(struct cache *c, struct err *err)
{
	int r;

	recover_snapshots(c);
	r = link_init(c);
	if (!r)
		r = recover_displaced(c);
	if (!r)
		r = recover_detached(c);
	if (!r)
		r = forget_shadowing(c);
	if (!r)
		r = recover_dirty(c);
	return r ? err_errno(err, r, "cannot recover %s after the last stop", c->state_dir) : 0;
}
