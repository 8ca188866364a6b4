/*
 * Content files: where they lie, how new ones arrive, and reading sealed versions.
 *
 *   content/<xx>/<ino>       the content of inode ino, 16 hexadecimal digits; xx: the two before
 *                            the last two
 *   snapshot/<ino>/<sha256>  a sealed version that the content file may have left behind
 *
 * So 256 files made in a row share a directory: with a directory each, ext4 spreads them over as
 * many block groups, and a create took 320 instead of 45 us.
 *
 * xx is made when it is first needed. Files have mode 0600, directories 0700, whatever the umask.
 *
 * A reader of a sealed version holds the inode's record, so that every writer raises the generation
 * that the reader compares after each read; a version in a snapshot needs no comparison.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>

#include "cache/hashing.h"
#include "cache/record.h"
#include "cache/snapshot.h"
#include "cache/snapshot_job.h"
#include "src/base/clock.h"
#include "src/base/io.h"

#define PROBES 8
#define RESERVE_STEP (INT64_C(8) << 20)
#define RESERVE_MS 100
#define COPY_BYTES ((size_t)256 << 10)
#define HOLE_BYTES ((size_t)4 << 10)	 /* shorter zeros are written */
#define BEGIN_BYTES ((uint64_t)64 << 10) /* most content that comes from elsewhere is inlined */

/* ---- files ---- */

void content_name(uint64_t ino, char name[CONTENT_NAME_SIZE])
{
	snprintf(name, CONTENT_NAME_SIZE, "%02x/%016llx", (unsigned)(ino >> 8 & 0xff),
		(unsigned long long)ino);
}

bool content_ino(const char *name, uint64_t *ret)
{
	uint64_t v = 0;

	if (strlen(name) != 16)
		return false;
	for (; *name; name++) {
		if (*name >= '0' && *name <= '9')
			v = v << 4 | (uint64_t)(*name - '0');
		else if (*name >= 'a' && *name <= 'f')
			v = v << 4 | (uint64_t)(*name - 'a' + 10);
		else
			return false;
	}
	*ret = v;
	return true;
}

static int make_dir(struct cache *c, const char *name)
{
	char dir[3] = {name[0], name[1], '\0'};

	if (mkdirat(c->content_fd, dir, 0700) != 0)
		return errno == EEXIST ? 0 : -errno;
	return fchmodat(c->content_fd, dir, 0700, 0) == 0 ? 0 : -errno;
}

int content_file(struct cache *c, uint64_t ino, int flags)
{
	char name[CONTENT_NAME_SIZE];
	int fd, r;

	content_name(ino, name);
	fd = openat(c->content_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && errno == ENOENT && flags & O_CREAT) {
		r = make_dir(c, name);
		if (r)
			return r;
		fd = openat(c->content_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	}
	return fd < 0 ? -errno : fd;
}

int content_sync_dir(struct cache *c, uint64_t ino)
{
	char name[CONTENT_NAME_SIZE];
	int fd, r;

	content_name(ino, name);
	name[2] = '\0';
	fd = openat(c->content_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = fsync(fd) == 0 ? 0 : -errno;
	close(fd);
	/* The directory itself may be as new. */
	if (!r && fsync(c->content_fd) != 0)
		r = -errno;
	return r;
}

void content_remove(struct cache *c, uint64_t ino)
{
	char name[CONTENT_NAME_SIZE];

	content_name(ino, name);
	unlinkat(c->content_fd, name, 0);
	snapshot_job_drop(c, ino);
	content_forget_hashing(c, ino);
	content_drop_snapshots(c, ino, NULL, NULL);
}

int content_set_mtime(struct cache *c, uint64_t ino, int64_t mtime_ns)
{
	char name[CONTENT_NAME_SIZE];
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, timespec_of_ns(mtime_ns)};

	content_name(ino, name);
	/* A file that vanished is found, and fetched again, by the next open. */
	if (utimensat(c->content_fd, name, times, AT_SYMLINK_NOFOLLOW) != 0 && errno != ENOENT)
		return -errno;
	return 0;
}

/* On tmpfs a mapped page is writable for good, and no store ever changes a time. */
static bool probe_stores(int fd)
{
	const unsigned all =
		SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
	struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
	volatile char *p = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bool show = false;
	struct stat st;

	if (p == MAP_FAILED)
		return false;
	p[0] = 1;
	if (sync_file_range(fd, 0, 0, all) == 0 && futimens(fd, old) == 0) {
		p[0] = 2;
		show = fstat(fd, &st) == 0 && st.st_mtim.tv_sec != 1;
	}
	munmap((void *)p, 1);
	return show;
}

/* Kernels from 6.13 on give a write that follows a stat a time of its own on ext4, xfs, btrfs and
 * tmpfs; elsewhere writes of one tick of the clock look alike. */
void content_probe_times(struct cache *c)
{
	int fd AUTO_CLOSE = openat(c->content_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	struct stat before, after;

	c->times_distinct = c->stores_show = false;
	if (fd >= 0 && pwrite(fd, "x", 1, 0) == 1)
		c->stores_show = probe_stores(fd);
	if (fd < 0 || pwrite(fd, "x", 1, 0) != 1 || fstat(fd, &before) != 0)
		return;
	for (int i = 0; i < PROBES; i++) {
		if (pwrite(fd, "x", 1, 0) != 1 || fstat(fd, &after) != 0)
			return;
		if (before.st_ctim.tv_sec == after.st_ctim.tv_sec &&
			before.st_ctim.tv_nsec == after.st_ctim.tv_nsec)
			return;
		before = after;
	}
	c->times_distinct = true;
}

int content_check_reserve(struct cache *c, uint64_t bytes)
{
	int64_t now = clock_monotonic_ms(),
		want = bytes > INT64_MAX / 2 ? INT64_MAX / 2 : (int64_t)bytes;
	uint64_t available, reserve;
	struct statvfs v;

	if (now < atomic_load(&c->reserve_until_ms) &&
		atomic_fetch_sub(&c->reserve_budget, want) >= want)
		return 0;
	if (fstatvfs(c->content_fd, &v) != 0)
		return -errno;
	available = (uint64_t)v.f_bavail * v.f_frsize;
	reserve = reserve_free(c);
	if (available < reserve || available - reserve < (uint64_t)want)
		return removals_drain(c) ? content_check_reserve(c, bytes) : -ENOSPC;
	available -= reserve + (uint64_t)want;
	atomic_store(&c->reserve_budget,
		available < (uint64_t)RESERVE_STEP ? (int64_t)available : RESERVE_STEP);
	atomic_store(&c->reserve_until_ms, now + RESERVE_MS);
	return 0;
}

/* ---- sealed versions ---- */

struct content_reader {
	struct cache *cache;
	struct record *rec; /* NULL: a snapshot, which never changes */
	uint64_t generation;
	uint64_t size;
	int fd;
};

/* What was read until now is of the version. */
static bool still_version(struct content_reader *r)
{
	if (!r->rec)
		return true;
	record_observe(r->cache, r->rec);
	return atomic_load(&r->rec->generation) == r->generation;
}

/* The content file, as long as it is the version with that hash. */
static int open_in_place(struct content_reader *r, uint64_t ino, const uint8_t *hash)
{
	struct inode_row row;
	struct conn *conn;
	struct stat st;
	int e;

	r->rec = record_get(r->cache, ino, false);
	if (!r->rec)
		return -ENOMEM;
	e = conn_take(r->cache, &conn);
	if (e)
		return e;
	mutex_lock(&r->rec->lock);
	e = inode_get(conn, ino, &row);
	if (!e)
		record_load(r->rec, &row);
	record_observe(r->cache, r->rec);
	r->generation = atomic_load(&r->rec->generation);
	mutex_unlock(&r->rec->lock);
	conn_give(conn);
	if (e)
		return e == -ENOENT ? -EAGAIN : e;
	if (row.state != STATE_LOCAL || !row.has_hash || row.sealed != r->generation ||
		memcmp(row.hash, hash, SHA256_SIZE) != 0)
		return -EAGAIN;
	r->fd = content_file(r->cache, ino, O_RDONLY);
	if (r->fd < 0)
		return r->fd == -ENOENT ? -EAGAIN : r->fd;
	if (fstat(r->fd, &st) != 0)
		return -errno;
	r->size = (uint64_t)st.st_size;
	return still_version(r) ? 0 : -EAGAIN;
}

int content_open(
	struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], struct content_reader **ret)
{
	struct content_reader *r = calloc(1, sizeof(*r));
	int e = 0;

	if (!r)
		return -ENOMEM;
	r->cache = c;
	r->fd = snapshot_open(c, ino, hash, &r->size);
	if (r->fd < 0)
		e = open_in_place(r, ino, hash);
	if (e) {
		content_close(r);
		return e;
	}
	*ret = r;
	return 0;
}

uint64_t content_size(const struct content_reader *r)
{
	return r->size;
}

ssize_t content_read(struct content_reader *r, void *p, size_t n, uint64_t offset)
{
	ssize_t got = io_read_at(r->fd, p, n, offset);

	return got >= 0 && !still_version(r) ? -ESTALE : got;
}

void content_close(struct content_reader *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		close(r->fd);
	if (r->rec)
		record_put(r->cache, r->rec);
	free(r);
}

/* ---- content from elsewhere ---- */

int content_begin(struct cache *c, struct content_writer *ret)
{
	struct content_writer w = {.fd = -1};
	/* What comes from elsewhere leaves room to remove files here, and to seal. */
	int r = content_check_reserve(c, BEGIN_BYTES);

	if (!r)
		r = cache_new_ino(c, &w.ino);
	if (r)
		return r;
	w.fd = content_file(c, w.ino, O_RDWR | O_CREAT | O_EXCL);
	if (w.fd < 0)
		return w.fd;
	*ret = w;
	return 0;
}

bool content_stays_hole(int fd, const void *p, size_t n, uint64_t offset)
{
	off_t data;

	if (n < HOLE_BYTES || !is_zeros(p, n))
		return false;
	data = lseek(fd, (off_t)offset, SEEK_DATA);
	return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + n;
}

int content_overwrite(struct content_writer *w, const void *p, size_t n, uint64_t offset)
{
	int r;

	if (content_stays_hole(w->fd, p, n, offset))
		return offset + n > w->size ? content_resize(w, offset + n) : 0;
	r = io_write_at(w->fd, p, n, offset);
	if (!r && offset + n > w->size)
		w->size = offset + n;
	return r;
}

int content_append(struct content_writer *w, const void *p, size_t n)
{
	return content_overwrite(w, p, n, w->size);
}

int content_resize(struct content_writer *w, uint64_t size)
{
	if (ftruncate(w->fd, (off_t)size) != 0)
		return -errno;
	w->size = size;
	return 0;
}

int content_reopen(struct cache *c, struct content_writer *w)
{
	if (w->fd < 0)
		w->fd = content_file(c, w->ino, O_RDWR);
	return w->fd < 0 ? w->fd : 0;
}

int content_writer_hash(
	struct cache *c, const struct content_writer *w, uint8_t hash[SHA256_SIZE])
{
	bool whole;
	int r = content_hash(c, w->ino, w->fd, w->size, NULL, 0, false, -1, hash, &whole);

	return r || whole ? r : -EIO;
}

int content_restart(struct content_writer *w)
{
	w->size = 0;
	return ftruncate(w->fd, 0) == 0 ? 0 : -errno;
}

void content_finish(struct content_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

void content_discard(struct cache *c, struct content_writer *w)
{
	content_finish(w);
	if (w->ino)
		content_remove(c, w->ino);
	*w = (struct content_writer){.fd = -1};
}

static int copy_all(struct content_reader *from, struct content_writer *w)
{
	uint8_t *buffer AUTO_FREE = malloc(COPY_BYTES);

	if (!buffer)
		return -ENOMEM;
	for (uint64_t at = 0; at < from->size;) {
		off_t data = lseek(from->fd, (off_t)at, SEEK_DATA);
		ssize_t n;
		int r;

		if (data < 0 && errno == ENXIO)
			break;
		at = data < 0 ? at : (uint64_t)data;
		n = content_read(from, buffer, COPY_BYTES, at);
		if (n <= 0)
			return n < 0 ? (int)n : -ESTALE;
		r = content_overwrite(w, buffer, (size_t)n, at);
		if (r)
			return r;
		at += (uint64_t)n;
	}
	return content_resize(w, from->size);
}

int content_clone(
	struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], struct content_writer *w)
{
	struct content_reader *from;
	struct stat st;
	int r = content_open(c, ino, hash, &from);

	if (r)
		return r;
	r = fstat(from->fd, &st) == 0 ? content_restart(w) : -errno;
	if (!r && ioctl(w->fd, FICLONE, from->fd) == 0)
		w->size = from->size;
	else if (!r && !(r = content_check_reserve(c, (uint64_t)st.st_blocks * 512)))
		r = copy_all(from, w);
	/* A clone is of one instant; it is the wanted one if nothing had been written until after
	 * it. */
	if (!r && !still_version(from))
		r = -ESTALE;
	content_close(from);
	if (r && content_restart(w))
		return -EIO;
	return r == -ESTALE ? -EAGAIN : r;
}

/* Inside the transaction, so that nobody opens the inode for truncation meanwhile. */
int content_adopt(
	struct conn *conn, const struct inode_row *row, int dir_fd, const char *name, uint64_t size)
{
	struct cache *c = conn->cache;
	char to[CONTENT_NAME_SIZE];
	sqlite3_stmt *s;
	int r;

	content_name(row->ino, to);
	r = make_dir(c, to);
	if (r)
		return r;
	if (renameat(dir_fd, name, c->content_fd, to) != 0)
		return -errno;
	r = content_set_mtime(c, row->ino, row->mtime_ns);
	if (r)
		return r;
	s = conn_statement(conn,
		"UPDATE inode SET state = 1, dirty = 0, size = ?2, sealed = generation, used = ?3"
		" WHERE ino = ?1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)row->ino);
	bind_int(s, 2, (int64_t)size);
	bind_int(s, 3, (int64_t)atomic_load(&c->tick));
	conn_account(conn, row->ino, 0, 1, (int64_t)size);
	return conn_run(conn, s);
}

static int take_over(struct conn *conn, const struct inode_row *row, const struct content_writer *w)
{
	char from[CONTENT_NAME_SIZE];

	content_name(w->ino, from);
	return content_adopt(conn, row, conn->cache->content_fd, from, w->size);
}

/* Whether clean content that should be here is not, or was cut short. */
static bool is_cut(const struct cache *c, const struct inode_row *row)
{
	char name[CONTENT_NAME_SIZE];
	struct stat st;

	content_name(row->ino, name);
	return fstatat(c->content_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
	       (uint64_t)st.st_size != row->size;
}

int content_offer(struct conn *conn, uint64_t ino, const uint8_t hash[SHA256_SIZE],
	struct content_writer *w, bool *used)
{
	struct inode_row row;
	int r = inode_get(conn, ino, &row);

	*used = false;
	if (r || row.dirty || !row.has_hash || memcmp(row.hash, hash, SHA256_SIZE) != 0)
		return r == -ENOENT ? 0 : r;
	if (row.state == STATE_LOCAL && is_cut(conn->cache, &row))
		conn_account(conn, ino, 0, -1, -(int64_t)row.size);
	else if (row.state != STATE_REMOTE)
		return 0;
	content_finish(w);
	r = take_over(conn, &row, w);
	if (!r) {
		trouble_clear(conn->cache, ino, TROUBLE_LOST);
		*used = true;
	}
	return r;
}

int content_install(struct cache *c, uint64_t ino, struct content_writer *w)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct inode_row row;
	int r;

	content_finish(w);
	r = cache_begin(c, &conn);
	if (!r)
		r = inode_get(conn, ino, &row);
	if (r == -ENOENT || (!r && (row.state != STATE_REMOTE || row.nlink == 0)))
		r = -ESTALE;
	if (!r)
		r = take_over(conn, &row, w);
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	if (conn) {
		cache_rollback(conn);
		conn = NULL;
	}
	if (!r) {
		trouble_clear(c, ino, TROUBLE_LOST);
		partial_remove(c, ino, false, NULL);
	}
	/* After a failure past the rename a stray file lies at ino's place; the next install
	 * replaces it. */
	if (r)
		content_discard(c, w);
	else
		*w = (struct content_writer){.fd = -1};
	return r;
}

int content_wanted(
	struct cache *c, uint64_t ino, struct key *key, uint8_t hash[SHA256_SIZE], uint64_t *size)
{
	struct conn *conn AUTO_READ_END = NULL;
	struct inode_row row;
	int r = cache_read_begin(c, &conn);

	if (!r)
		r = inode_get(conn, ino, &row);
	if (!r && row.state == STATE_LOCAL)
		return -EALREADY;
	if (!r && (row.state != STATE_REMOTE || !row.has_hash))
		r = -ESTALE;
	if (!r)
		r = inode_key(conn, ino, key);
	if (r)
		return r == -ENOENT ? -ESTALE : r;
	memcpy(hash, row.hash, SHA256_SIZE);
	*size = row.size;
	return 0;
}
