/*
 * Opening and closing a volume's local state, its clock, flushing, and the callbacks by which fs
 * and replicator meet.
 *
 * meta rows kept here: node (this server's identity), ino_limit (inode numbers below it may be in
 * use), hlc_ceiling (no stamp was issued at or above it), clean (1 between cache_close and the next
 * open).
 *
 * Opening takes no time in proportion to the volume. So nothing checks the database as a whole: a
 * killed process cannot tear it, and the write-ahead log's checksums see to power cuts. What a bad
 * disk does to it is found where it is read, or by cache_check.
 *
 * The clean mark is taken off, and that is flushed, before anything else changes; so whatever a
 * crash or a power cut leaves behind is found by the next open. Flushing shares work: a caller of
 * cache_sync needs a flush that covers the commits before it, and one serves all that waited for it.
 */
#include "cache/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/statvfs.h>

#include "cache/content_map.h"
#include "cache/content_parts.h"
#include "cache/hashing.h"
#include "cache/internal.h"
#include "cache/meta.h"
#include "cache/redo.h"
#include "cache/schema.h"
#include "cache/snapshot_job.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/random.h"

#define RESERVE_MAX (UINT64_C(16) << 20)

static const char hint_damaged[] =
	"hint: move it away and mount again: the buckets hold everything that was pushed";

/* ---- state directory ---- */

static int open_dir_at(int at, const char *name, int *ret)
{
	int fd;

	if (mkdirat(at, name, 0700) == 0) {
		/* The umask may have taken bits that the owner needs. */
		if (fchmodat(at, name, 0700, 0) != 0)
			return -errno;
	} else if (errno != EEXIST) {
		return -errno;
	}
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*ret = fd;
	return 0;
}

static int lock_state(struct cache *c, bool no_lock, struct err *err)
{
	char text[32] = "";
	ssize_t n;

	c->lock_fd = openat(c->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (c->lock_fd < 0 || fchmod(c->lock_fd, 0600) != 0)
		return err_errno(
			err, -errno, "cannot write to the state directory %s", c->state_dir);
	if (no_lock)
		return 0;
	if (flock(c->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno != EWOULDBLOCK)
			return err_errno(err, -errno, "cannot lock %s/lock", c->state_dir);
		n = pread(c->lock_fd, text, sizeof(text) - 1, 0);
		text[n > 0 ? n : 0] = '\0';
		text[strcspn(text, "\n")] = '\0';
		return err_set(err, -EBUSY,
			"another meridian (pid %s) uses %s; unmount it first, or set another "
			"state_dir",
			text[0] ? text : "unknown", c->state_dir);
	}
	n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (ftruncate(c->lock_fd, 0) != 0 || pwrite(c->lock_fd, text, (size_t)n, 0) != n)
		return err_errno(
			err, errno ? -errno : -EIO, "cannot write to %s/lock", c->state_dir);
	return 0;
}

/* With a database and without its content, files that only this server has would be gone. */
static int open_content(struct cache *c, struct err *err)
{
	struct stat st;
	int r;

	if (fstatat(c->dir_fd, "content", &st, 0) != 0 && errno == ENOENT &&
		fstatat(c->dir_fd, "meridian.db", &st, 0) == 0 && st.st_size > 0)
		return err_set(err, -EUCLEAN,
			"%s/content is missing, the database beside it is there\nhint: put it "
			"back; "
			"if it is lost, `mkdir %s/content`: what was pushed is fetched again",
			c->state_dir, c->state_dir);
	r = open_dir_at(c->dir_fd, "content", &c->content_fd);
	return r ? err_errno(err, r, "cannot use %s/content", c->state_dir) : 0;
}

static int open_state(struct cache *c, bool no_lock, struct err *err)
{
	int fd, r;

	r = open_dir_at(AT_FDCWD, c->state_dir, &c->dir_fd);
	if (r)
		return err_errno(err, r, "cannot use the state directory %s", c->state_dir);
	r = lock_state(c, no_lock, err);
	if (r)
		return r;
	r = open_content(c, err);
	if (r)
		return r;
	/* SQLite gives the log the mode of the database. */
	fd = openat(c->dir_fd, "meridian.db", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, -errno, "cannot open %s/meridian.db", c->state_dir);
	r = fchmod(fd, 0600) == 0 ? 0 : -errno;
	close(fd);
	return r ? err_errno(err, r, "cannot change the mode of %s/meridian.db", c->state_dir) : 0;
}

/* ---- database ---- */

static int damaged(struct cache *c, const char *what, struct err *err)
{
	return err_set(err, -EIO, "the database %s/meridian.db is damaged (%s)\n%s", c->state_dir,
		what, hint_damaged);
}

/* Its mtime is 1970 until something is made in it: every server must start from the same. */
static int put_root(struct conn *conn, const struct stat *owner)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT OR IGNORE INTO inode(ino, parent, name, mode, uid, gid, nlink, size, "
		"atime_ns,"
		" mtime_ns, ctime_ns, state, dirty, xattrs, generation, sealed)"
		" VALUES(1, 0, x'', ?1, ?2, ?3, 1, 0, ?4, 0, ?4, 0, 0, 0, 0, 0)");
	int r;

	bind_int(s, 1, S_IFDIR | 0755);
	bind_int(s, 2, owner->st_uid);
	bind_int(s, 3, owner->st_gid);
	bind_int(s, 4, clock_realtime_ns());
	r = conn_run(conn, s);
	if (!r && sqlite3_changes(conn->db) > 0)
		conn_account(conn, ROOT_INO, 1, 0, 0);
	return r;
}

static int get_or(struct conn *conn, const char *name, int64_t otherwise, int64_t *ret)
{
	int r = meta_get_int(conn, name, ret);

	if (r != -ENOENT)
		return r;
	*ret = otherwise;
	return meta_set_int(conn, name, otherwise);
}

/* The greatest time in the journal: a ceiling that a failed write left behind cannot hurt then. */
static int newest_row(struct conn *conn, int64_t *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT time FROM journal ORDER BY seq DESC LIMIT 1");

	return conn_number_or(conn, s, 0, ret);
}

static int load_meta(struct cache *c, const struct cache_options *options)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	bool power_lost = false;
	int64_t node = 0, ino = 0, ceiling = 0, newest = 0, longest = 0, clean = 0;
	struct stat st;
	int r;

	if (fstat(c->dir_fd, &st) != 0)
		return -errno;
	r = cache_begin(c, &conn);
	if (!r)
		r = put_root(conn, &st);
	if (!r)
		r = get_or(conn, "node", (int64_t)(random_u64() | 1), &node);
	if (!r)
		r = get_or(conn, "ino_limit", ROOT_INO + 1, &ino);
	if (!r)
		r = get_or(conn, "hlc_ceiling", 0, &ceiling);
	if (!r)
		r = get_or(conn, "longest_key", 0, &longest);
	if (!r)
		r = get_or(conn, "clean", 1, &clean);
	if (!r)
		r = newest_row(conn, &newest);
	if (r)
		return r;
	c->node = (uint64_t)node;
	r = host_check_identity(conn, options->host, &c->node);
	if (!r)
		r = host_power_lost(conn, options->boot_id, &power_lost);
	if (r)
		return r;
	c->ino_next = c->ino_limit = (uint64_t)ino;
	atomic_store(&c->ino_flushed, (uint64_t)ino); /* cache_open ends with a flush */
	c->was_clean = clean == 1;
	c->power_lost = !c->was_clean && power_lost;
	atomic_store(&c->longest_key, (uint64_t)longest);
	hlc_init(&c->clock, (uint64_t)(ceiling > newest ? ceiling : newest));
	atomic_store(&c->hlc_ceiling, (uint64_t)ceiling);
	r = meta_set_int(conn, "clean", 0);
	if (!r)
		r = sweep_load(c, conn);
	if (!r)
		r = evict_load(c, conn);
	if (!r)
		r = pressure_load(c, conn);
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	return r;
}

/* The number of files is not told: there may be millions. */
static int has_content(struct cache *c, bool *ret)
{
	char name[8];

	*ret = false;
	for (unsigned n = 0; n < 256 && !*ret; n++) {
		const struct dirent *e;
		DIR *dir;
		int fd;

		snprintf(name, sizeof(name), "%02x", n);
		fd = openat(c->content_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		dir = fd < 0 ? NULL : fdopendir(fd);
		if (!dir) {
			int r = -errno;

			cleanup_close(&fd);
			return r;
		}
		while (!*ret && (e = readdir(dir)))
			*ret = e->d_name[0] != '.';
		closedir(dir);
	}
	return 0;
}

/* A database that was just made knows nothing of the files that lie here, some of which may never have
 * been pushed; as strays they would go. */
static int check_new(struct cache *c, struct err *err)
{
	sqlite3_stmt *s = conn_statement(c->writer, "SELECT 1 FROM inode LIMIT 1");
	bool found;
	int r = s ? conn_row(c->writer, s) : conn_error(c->writer);

	if (r) {
		if (r > 0)
			sqlite3_reset(s);
		return r > 0 ? 0 : damaged(c, "its files cannot be read", err);
	}
	r = has_content(c, &found);
	if (r)
		return err_errno(err, r, "cannot read %s/content", c->state_dir);
	return found ? err_set(err, -EINVAL,
			       "%s/content has files, but the database beside it, which knows "
			       "their names, is"
			       " gone\nhint: restore meridian.db, or move %s away and mount again: "
			       "the"
			       " buckets hold everything that was pushed",
			       c->state_dir, c->state_dir)
		     : 0;
}

static int open_database(struct cache *c, const struct cache_options *options, struct err *err)
{
	char path[64];
	int r;

	r = conn_open(c, true, &c->writer);
	if (r == -EIO)
		return damaged(c, "it cannot be read as a database", err);
	if (r == -EBUSY)
		return err_set(err, r, "another program has %s/meridian.db open; end it first",
			c->state_dir);
	if (r)
		return err_errno(err, r, "cannot open %s/meridian.db", c->state_dir);
	r = schema_migrate(c->writer->db, err);
	if (r == -EIO)
		return damaged(c, sqlite3_errmsg(c->writer->db), err);
	if (r)
		return err_prefix(err, r, "%s/meridian.db", c->state_dir);
	r = redo_recover(c);
	if (r)
		return r == -EIO ? damaged(c, "its redo log cannot be applied", err)
				 : err_errno(err, r, "cannot write to %s", c->state_dir);
	r = check_new(c, err);
	if (r)
		return r;
	r = load_meta(c, options);
	if (r)
		return r == -EIO
			       ? damaged(c, "its settings cannot be read", err)
			       : err_errno(err, r, "cannot write to %s/meridian.db", c->state_dir);
	if (c->sync_off)
		return 0;
	snprintf(path, sizeof(path), "meridian.db-wal");
	c->wal_fd = openat(c->dir_fd, path, O_RDONLY | O_CLOEXEC);
	if (c->wal_fd < 0)
		return err_errno(err, -errno, "cannot open %s/%s", c->state_dir, path);
	r = fsync(c->dir_fd) == 0 ? cache_sync(c) : -errno;
	return r ? err_errno(err, r, "cannot flush %s", c->state_dir) : 0;
}

/* ---- open and close ---- */

static void init_locks(struct cache *c)
{
	mutex_init(&c->writer_lock, LOCK_RANK_DB_WRITER);
	mutex_init(&c->checkpoint_lock, LOCK_RANK_FILE);
	mutex_init(&c->readers_lock, LOCK_RANK_DB_READERS);
	mutex_init(&c->ino_lock, LOCK_RANK_LEAF);
	mutex_init(&c->hook_lock, LOCK_RANK_LEAF);
	mutex_init(&c->journal_lock, LOCK_RANK_LEAF);
	mutex_init(&c->sync_lock, LOCK_RANK_LEAF);
	cond_init(&c->readers_cond);
	cond_init(&c->journal_cond);
	cond_init(&c->sync_cond);
}

static void release(struct cache *c)
{
	snapshot_jobs_stop(c); /* they have records */
	file_table_free(c->files);
	partials_free(c->partials); /* after those that refer to it */
	times_free(c->times);
	sweep_free(c->sweep);
	removals_free(c->removals);
	durability_rules_free(c->durability);
	hashings_free(c->hashings);
	snapshot_jobs_free(c->snapshot_jobs);
	atimes_free(c->atimes);
	free(c->xattrs);
	troubles_free(c->troubles);
	conn_pool_close(c);
	conn_close(c->checkpointer);
	conn_close(c->writer);
	redo_close(c->redo);
	cleanup_close(&c->wal_fd);
	cleanup_close(&c->reserve_fd);
	cleanup_close(&c->content_fd);
	cleanup_close(&c->lock_fd); /* last: its lock covers all the others */
	cleanup_close(&c->dir_fd);
	mutex_done(&c->writer_lock);
	mutex_done(&c->checkpoint_lock);
	mutex_done(&c->readers_lock);
	mutex_done(&c->ino_lock);
	mutex_done(&c->hook_lock);
	mutex_done(&c->journal_lock);
	mutex_done(&c->sync_lock);
	cond_done(&c->readers_cond);
	cond_done(&c->journal_cond);
	cond_done(&c->sync_cond);
	free(c->survivors);
	free(c->state_dir);
	free(c);
}

static uint64_t default_reserve(struct cache *c)
{
	struct statvfs v;
	uint64_t share;

	if (fstatvfs(c->content_fd, &v) != 0)
		return RESERVE_MAX;
	share = (uint64_t)v.f_blocks * v.f_frsize / 20;
	return share < RESERVE_MAX ? share : RESERVE_MAX;
}

int cache_open(const struct cache_options *options, struct cache **ret, struct err *err)
{
	struct cache *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_errno(err, -ENOMEM, "cannot open the state");
	c->dir_fd = c->content_fd = c->lock_fd = c->wal_fd = c->reserve_fd = -1;
	c->sync_off = options->sync_off;
	init_locks(c);
	c->state_dir = strdup(options->state_dir);
	c->files = file_table_new();
	c->times = times_new();
	c->sweep = sweep_new();
	c->partials = partials_new(options->partial_block);
	c->removals = removals_new();
	c->hashings = hashings_new();
	c->snapshot_jobs = snapshot_jobs_new();
	c->hash_slice_ms = HASH_SLICE_MS;
	c->hashes_kept = HASHES_KEPT;
	c->map_min = options->map_min ? options->map_min : CONTENT_MAP_MIN;
	c->parts_min = options->parts_min ? options->parts_min : CONTENT_PARTS_MIN;
	atomic_init(&c->hash_end_ms, INT64_MAX);
	atomic_init(&c->hash_slices, 0);
	c->atimes = atimes_new();
	c->xattrs = xattr_filter_new();
	c->troubles = troubles_new();
	r = c->state_dir && c->files && c->times && c->sweep && c->partials && c->removals && c->hashings &&
			    c->snapshot_jobs && c->atimes && c->xattrs && c->troubles
		    ? 0
		    : err_errno(err, -ENOMEM, "cannot open the state");
	if (!r)
		r = open_state(c, options->no_lock, err);
	if (!r) {
		c->reserve_bytes =
			options->reserve_bytes ? options->reserve_bytes : default_reserve(c);
		reserve_open(c);
		r = open_database(c, options, err);
	}
	if (!r) {
		c->state_volatile = cache_dir_volatile(c->state_dir);
		c->max_dirty = options->max_dirty;
		c->max_backlog = options->max_backlog;
		c->cache_size = options->cache_size;
		c->min_free = options->min_free;
		c->min_free_percent = options->min_free_percent;
		content_probe_times(c);
		r = xattr_filter_load(c);
		r = r ? err_errno(err, r, "cannot read %s/meridian.db", c->state_dir)
		      : recover_run(c, err);
	}
	if (!r) {
		r = partials_load(c);
		if (r)
			err_errno(err, r, "cannot read %s/partial", c->state_dir);
	}
	if (r) {
		release(c);
		return r;
	}
	*ret = c;
	return 0;
}

static int mark_clean(struct cache *c)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	int r = cache_begin(c, &conn);

	if (r)
		return r;
	r = meta_set_int(conn, "clean", 1);
	if (!r)
		r = sweep_store(c, conn);
	/* Exactly: after a clean stop the next stamps need not run ahead of the time. */
	if (!r)
		r = meta_set_int(conn, "hlc_ceiling", (int64_t)hlc_now(&c->clock));
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	return r;
}

void cache_close(struct cache *c)
{
	int r;

	if (!c)
		return;
	snapshot_jobs_stop(c);
	removals_drain(c);
	r = tree_flush_times(c, true);
	/* The content must be on disk before a mark says that nothing is to be checked. */
	if (!r && !c->sync_off && syncfs(c->content_fd) != 0)
		r = -errno;
	if (!r)
		r = mark_clean(c);
	if (!r && sqlite3_wal_checkpoint_v2(
			  c->writer->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) != SQLITE_OK)
		r = conn_error(c->writer);
	/* Nothing is lost: the next open recovers as after a crash. */
	if (r)
		log_debug("state not closed cleanly error=%d", -r);
	release(c);
}

void cache_abandon(struct cache *c)
{
	if (c)
		release(c);
}

/* ---- clock and identity ---- */

uint64_t cache_node(const struct cache *c)
{
	return c->node;
}

struct hlc *cache_clock(struct cache *c)
{
	return &c->clock;
}

struct stamp cache_stamp(struct cache *c)
{
	struct stamp s = {.node = c->node};
	struct conn *conn;

	if (pthread_equal(atomic_load(&c->writer_owner), pthread_self())) {
		if (conn_stamp_time(c->writer, &s.time))
			s.time = hlc_now(&c->clock); /* the transaction is about to fail, too */
		return s;
	}
	s.time = hlc_now(&c->clock);
	if (s.time < atomic_load(&c->hlc_ceiling) || cache_begin(c, &conn))
		return s;
	if (conn_stamp_time(conn, &s.time)) {
		cache_rollback(conn);
		return s;
	}
	/* On failure (a full disk) the stamp is as good; only a crash now could let it come again.
	 */
	if (cache_commit(conn))
		log_debug("ceiling of stamps not written");
	return s;
}

/* ---- durability ---- */

int cache_sync(struct cache *c)
{
	uint64_t want = atomic_load(&c->commits);
	int settled = 0, r;

	if (c->sync_off)
		return 0;
	mutex_lock(&c->sync_lock);
	while (c->synced < want && !c->sync_error) {
		uint64_t covered;

		if (c->syncing) {
			cond_wait(&c->sync_cond, &c->sync_lock);
			continue;
		}
		c->syncing = true;
		mutex_unlock(&c->sync_lock);
		covered = atomic_load(&c->commits);
		/* A group that could not be committed is not lost: another call may succeed. */
		settled = cache_settle(c);
		r = settled || fdatasync(c->wal_fd) == 0 ? 0 : -errno;
		mutex_lock(&c->sync_lock);
		c->syncing = false;
		if (r)
			c->sync_error = r;
		else if (!settled)
			c->synced = covered;
		cond_broadcast(&c->sync_cond);
		if (settled)
			break;
	}
	r = settled ? settled : c->sync_error;
	mutex_unlock(&c->sync_lock);
	return r;
}

static int checkpoint_on(struct conn *conn)
{
	int code = sqlite3_wal_checkpoint_v2(conn->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);

	return code == SQLITE_OK || (code & 0xff) == SQLITE_BUSY ? 0 : conn_error(conn);
}

int cache_checkpoint(struct cache *c, uint64_t bytes)
{
	bool full = atomic_exchange(&c->full, false);
	int r;

	if (!full && (uint64_t)atomic_load(&c->wal_pages) * DATABASE_PAGE_SIZE <= bytes)
		return 0;
	/* What finds no room in the log does once that is begun anew: this must not wait for it. */
	r = cache_settle(c);
	if (r && r != -ENOSPC)
		return r;
	r = 0;
	mutex_lock(&c->checkpoint_lock);
	if (!c->checkpointer)
		r = conn_open(c, true, &c->checkpointer);
	if (!r)
		r = checkpoint_on(c->checkpointer);
	/* What was written meanwhile is little. With the writer kept out the log can be moved
	 * whole, so that the next commit starts it from the front. */
	if (!r) {
		mutex_lock(&c->writer_lock);
		r = checkpoint_on(c->checkpointer);
		atomic_store(&c->wal_pages, 0);
		mutex_unlock(&c->writer_lock);
	}
	mutex_unlock(&c->checkpoint_lock);
	return r;
}

bool cache_power_lost(const struct cache *c)
{
	return c->power_lost;
}

int cache_usage(struct cache *c, struct cache_usage *ret)
{
	struct cache_usage u = {0};
	struct statvfs v;
	struct stat st;

	sweep_usage(c, &u);
	u.state_volatile = c->state_volatile;
	u.cut_short = c->cut_short;
	if (fstatat(c->dir_fd, "meridian.db", &st, 0) == 0)
		u.database_bytes += (uint64_t)st.st_size;
	if (fstatat(c->dir_fd, "meridian.db-wal", &st, 0) == 0)
		u.database_bytes += (uint64_t)st.st_size;
	if (fstatvfs(c->content_fd, &v) != 0)
		return -errno;
	u.free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
	u.total_bytes = (uint64_t)v.f_blocks * v.f_frsize;
	*ret = u;
	return 0;
}

/* ---- callbacks ---- */

void cache_set_invalidator(struct cache *c, cache_invalidate_fn fn, void *ctx)
{
	mutex_lock(&c->hook_lock);
	c->invalidate = fn;
	c->invalidate_ctx = ctx;
	mutex_unlock(&c->hook_lock);
}

void cache_set_fetcher(struct cache *c, cache_fetch_fn fn, void *ctx)
{
	mutex_lock(&c->hook_lock);
	c->fetch = fn;
	c->fetch_ctx = ctx;
	mutex_unlock(&c->hook_lock);
}

void cache_set_ranger(struct cache *c, cache_range_fn fn, void *ctx, uint64_t min)
{
	mutex_lock(&c->hook_lock);
	c->range = fn;
	c->range_ctx = ctx;
	atomic_store(&c->range_min, fn ? min : 0);
	mutex_unlock(&c->hook_lock);
}

uint64_t cache_range_min(struct cache *c)
{
	uint64_t min = atomic_load(&c->range_min);

	return min ? min : UINT64_MAX;
}

void cache_range(struct cache *c, struct partial *p, uint64_t offset, uint64_t n,
	cache_fetch_done done, void *arg)
{
	cache_range_fn fn;
	void *ctx;

	mutex_lock(&c->hook_lock);
	fn = c->range;
	ctx = c->range_ctx;
	mutex_unlock(&c->hook_lock);
	if (fn)
		fn(ctx, p, offset, n, done, arg);
	else if (done)
		done(arg, -EIO);
}

void cache_set_holder(struct cache *c, cache_hold_fn fn, void *ctx)
{
	mutex_lock(&c->hook_lock);
	c->hold = fn;
	c->hold_ctx = ctx;
	mutex_unlock(&c->hook_lock);
}

int cache_hold(struct cache *c, uint64_t ino, struct slice key, cache_hold_run run, void *arg)
{
	cache_hold_fn fn;
	void *ctx;

	mutex_lock(&c->hook_lock);
	fn = c->hold;
	ctx = c->hold_ctx;
	mutex_unlock(&c->hook_lock);
	return fn ? fn(ctx, ino, key, run, arg) : -EOPNOTSUPP;
}

void cache_fetch(struct cache *c, uint64_t ino, cache_fetch_done done, void *arg)
{
	cache_fetch_fn fn;
	void *ctx;

	mutex_lock(&c->hook_lock);
	fn = c->fetch;
	ctx = c->fetch_ctx;
	mutex_unlock(&c->hook_lock);
	if (fn)
		fn(ctx, ino, done, arg);
	else
		done(arg, -EIO);
}
