/*
 * The write-ahead log in memory that survives the process.
 *
 * SQLite writes each frame of its log with two calls of pwrite, and reads with pread; with pages of
 * 1 KiB that was half the time of a create. Here the log is a MAP_SHARED mapping: a write is a copy
 * into the page cache, which outlives kill -9 as written bytes do, and fdatasync of any descriptor
 * of the file makes it durable as before (dirty pages of a shared mapping are the file's dirty
 * pages). A copy that is cut short leaves a frame whose checksum is wrong, as a short write does.
 *
 * A store to a page that has no block on a full disk would be SIGBUS. So the file is fallocated
 * CHUNK bytes ahead, and nothing behind `allocated` is touched: a full disk is SQLITE_FULL when the
 * log grows, and nothing was written then. Zeros behind the last frame, or frames of an earlier
 * lap, end SQLite's recovery by their salt and checksum. That promise needs a file system that
 * overwrites in place; on others (found by fstatfs), where fallocate is refused and behind
 * MAPPED_MAX the log is written and read by system calls.
 *
 * Connections of one database share a struct log; logs_lock guards the list and the counts of
 * references. Who may write, truncate or read which part is decided by SQLite's own locks;
 * grow_lock is there for the size of the file alone.
 *
 * The directory entry of a new log is flushed by cache_open, not here.
 */
#include "cache/vfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "src/base/thread.h"

#define BASE "unix-excl"
#define NAME "meridian"
#define CHUNK ((uint64_t)1 << 20)
#define MAPPED_MAX ((uint64_t)1 << 30) /* addresses only; checkpoints keep a log far below */
#define SECTOR_BYTES 4096
#define XFS_MAGIC 0x58465342 /* linux/magic.h has no XFS */

struct log {
	struct log *next; /* guarded by logs_lock, as is refs */
	unsigned refs;
	dev_t dev;
	ino_t ino;
	int fd;
	char *map;		    /* MAPPED_MAX bytes; NULL: system calls only */
	struct mutex grow_lock;	    /* a leaf but for fallocate and ftruncate */
	_Atomic uint64_t allocated; /* the file has blocks up to here; written under grow_lock */
};

struct log_file {
	sqlite3_file base; /* first: SQLite's handle */
	struct log *log;
};

static struct mutex logs_lock;
static struct log *logs;
static sqlite3_vfs vfs;
static pthread_once_t registered = PTHREAD_ONCE_INIT;
static const char *name;
static vfs_write_hook write_hook;
static bool mapping = true;

void vfs_set_write_hook(vfs_write_hook hook)
{
	write_hook = hook;
}

void vfs_set_mapping(bool allowed)
{
	mapping = allowed;
}

/* ---- the file ---- */

static int allocate(int fd, uint64_t from, uint64_t to)
{
	int r;

	do
		r = fallocate(fd, 0, (off_t)from, (off_t)(to - from)) == 0 ? 0 : -errno;
	while (r == -EINTR);
	return r;
}

/* Blocks are overwritten in place there, so a page that was allocated can always be stored. */
static bool keeps_blocks(int fd)
{
	struct statfs st;

	if (fstatfs(fd, &st) != 0)
		return false;
	return st.f_type == EXT4_SUPER_MAGIC || st.f_type == XFS_MAGIC || st.f_type == TMPFS_MAGIC;
}

static void map_log(struct log *log, uint64_t size)
{
	void *p;

	if (!mapping || size > MAPPED_MAX || !keeps_blocks(log->fd))
		return;
	/* What is there may have holes, when the state was copied from elsewhere. */
	if (size && allocate(log->fd, 0, size))
		return;
	p = mmap(NULL, MAPPED_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0);
	if (p == MAP_FAILED)
		return;
	log->map = p;
	atomic_store(&log->allocated, size);
}

static void log_free(struct log *log)
{
	if (log->map)
		munmap(log->map, MAPPED_MAX);
	close(log->fd);
	mutex_done(&log->grow_lock);
	free(log);
}

static int log_new(const char *path, int flags, struct log **ret)
{
	struct log *log = calloc(1, sizeof(*log));
	struct stat st;

	if (!log)
		return SQLITE_NOMEM;
	log->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (flags & O_CREAT), 0600);
	if (log->fd < 0 || fstat(log->fd, &st) != 0) {
		if (log->fd >= 0)
			close(log->fd);
		free(log);
		return SQLITE_CANTOPEN;
	}
	mutex_init(&log->grow_lock, LOCK_RANK_LEAF);
	log->refs = 1;
	log->dev = st.st_dev;
	log->ino = st.st_ino;
	map_log(log, (uint64_t)st.st_size);
	*ret = log;
	return SQLITE_OK;
}

/* The log that is known by this file, with a reference; else fresh joins the list. */
static struct log *log_share(struct log *fresh)
{
	struct log *log;

	mutex_lock(&logs_lock);
	for (log = logs; log; log = log->next) {
		if (log->dev == fresh->dev && log->ino == fresh->ino)
			break;
	}
	if (log) {
		log->refs++;
	} else {
		fresh->next = logs;
		logs = fresh;
	}
	mutex_unlock(&logs_lock);
	return log ? log : fresh;
}

static void log_unref(struct log *log)
{
	struct log **at;
	bool last;

	mutex_lock(&logs_lock);
	last = --log->refs == 0;
	for (at = &logs; last && *at != log; at = &(*at)->next)
		;
	if (last)
		*at = log->next;
	mutex_unlock(&logs_lock);
	if (last)
		log_free(log);
}

/* ---- SQLite's calls on it ---- */

static struct log *log_of(sqlite3_file *f)
{
	return ((struct log_file *)f)->log;
}

static int log_close(sqlite3_file *f)
{
	log_unref(log_of(f));
	return SQLITE_OK;
}

/* Bytes behind the end read as zeros, and are told. */
static int read_calls(struct log *log, char *p, size_t n, uint64_t offset)
{
	size_t done = 0;

	while (done < n) {
		ssize_t got = pread(log->fd, p + done, n - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return SQLITE_IOERR_READ;
		if (got == 0) {
			memset(p + done, 0, n - done);
			return SQLITE_IOERR_SHORT_READ;
		}
		done += (size_t)got;
	}
	return SQLITE_OK;
}

static int log_read(sqlite3_file *f, void *p, int n, sqlite3_int64 offset)
{
	struct log *log = log_of(f);

	if (!log->map || (uint64_t)offset + (uint64_t)n > atomic_load(&log->allocated))
		return read_calls(log, p, (size_t)n, (uint64_t)offset);
	memcpy(p, log->map + offset, (size_t)n);
	return SQLITE_OK;
}

static int write_failed(int e)
{
	return e == ENOSPC || e == EDQUOT || e == EFBIG ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}

static int write_calls(struct log *log, const char *p, size_t n, uint64_t offset)
{
	size_t done = 0;

	while (done < n) {
		ssize_t put = pwrite(log->fd, p + done, n - done, (off_t)(offset + done));

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return write_failed(put < 0 ? errno : EIO);
		done += (size_t)put;
	}
	return SQLITE_OK;
}

/* 0, also when the file system has no fallocate after all: then *mapped is false. */
static int grow(struct log *log, uint64_t end, bool *mapped)
{
	uint64_t have, want;
	int r = 0;

	mutex_lock(&log->grow_lock);
	have = atomic_load(&log->allocated);
	want = (end + CHUNK - 1) / CHUNK * CHUNK;
	if (have < end) {
		r = allocate(log->fd, have, want);
		if (!r)
			atomic_store(&log->allocated, want);
	}
	mutex_unlock(&log->grow_lock);
	*mapped = !r;
	return r == -EOPNOTSUPP ? 0 : r;
}

static int log_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 offset)
{
	struct log *log = log_of(f);
	uint64_t end = (uint64_t)offset + (uint64_t)n;
	bool mapped = log->map && end <= MAPPED_MAX;
	int r;

	if (write_hook) {
		r = write_hook(log->fd, p, (size_t)n, offset);
		if (r)
			return write_failed(-r);
	}
	if (mapped && end > atomic_load(&log->allocated)) {
		r = grow(log, end, &mapped);
		if (r)
			return write_failed(-r);
	}
	if (!mapped)
		return write_calls(log, p, (size_t)n, (uint64_t)offset);
	memcpy(log->map + offset, p, (size_t)n);
	return SQLITE_OK;
}

static int log_truncate(sqlite3_file *f, sqlite3_int64 size)
{
	struct log *log = log_of(f);
	struct stat st;
	int r = SQLITE_OK;

	mutex_lock(&log->grow_lock);
	if ((uint64_t)size < atomic_load(&log->allocated))
		atomic_store(&log->allocated, (uint64_t)size);
	if (fstat(log->fd, &st) != 0 || (st.st_size > size && ftruncate(log->fd, size) != 0))
		r = SQLITE_IOERR_TRUNCATE;
	mutex_unlock(&log->grow_lock);
	return r;
}

static int log_sync(sqlite3_file *f, int flags)
{
	return fdatasync(log_of(f)->fd) == 0 ? SQLITE_OK : SQLITE_IOERR_FSYNC;
}

static int log_size(sqlite3_file *f, sqlite3_int64 *ret)
{
	struct stat st;

	if (fstat(log_of(f)->fd, &st) != 0)
		return SQLITE_IOERR_FSTAT;
	*ret = st.st_size;
	return SQLITE_OK;
}

/* SQLite locks the database and the log's index, never the log. */
static int log_lock(sqlite3_file *f, int level)
{
	return SQLITE_OK;
}

static int log_check_lock(sqlite3_file *f, int *ret)
{
	*ret = 0;
	return SQLITE_OK;
}

static int log_control(sqlite3_file *f, int op, void *arg)
{
	return SQLITE_NOTFOUND;
}

static int log_sector(sqlite3_file *f)
{
	return SECTOR_BYTES;
}

static int log_characteristics(sqlite3_file *f)
{
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods log_methods = {
	.iVersion = 1,
	.xClose = log_close,
	.xRead = log_read,
	.xWrite = log_write,
	.xTruncate = log_truncate,
	.xSync = log_sync,
	.xFileSize = log_size,
	.xLock = log_lock,
	.xUnlock = log_lock,
	.xCheckReservedLock = log_check_lock,
	.xFileControl = log_control,
	.xSectorSize = log_sector,
	.xDeviceCharacteristics = log_characteristics,
};

/* ---- the VFS ---- */

static int open_log(const char *path, struct log_file *f, int flags, int *ret_flags)
{
	struct log *fresh, *log;
	int r = log_new(path, flags & SQLITE_OPEN_CREATE ? O_CREAT : 0, &fresh);

	if (r)
		return r;
	log = log_share(fresh);
	if (log != fresh)
		log_free(fresh);
	f->log = log;
	f->base.pMethods = &log_methods;
	if (ret_flags)
		*ret_flags = flags;
	return SQLITE_OK;
}

static int vfs_open(sqlite3_vfs *v, const char *path, sqlite3_file *f, int flags, int *ret_flags)
{
	sqlite3_vfs *base = v->pAppData;

	f->pMethods = NULL;
	if (!(flags & SQLITE_OPEN_WAL))
		return base->xOpen(base, path, f, flags, ret_flags);
	return open_log(path, (struct log_file *)f, flags, ret_flags);
}

static void register_once(void)
{
	sqlite3_vfs *base = sqlite3_vfs_find(BASE);

	if (!base)
		return;
	mutex_init(&logs_lock, LOCK_RANK_LEAF);
	/* The other calls do not look at the VFS that they are called with. */
	vfs = *base;
	vfs.zName = NAME;
	vfs.pNext = NULL;
	vfs.pAppData = base;
	vfs.xOpen = vfs_open;
	if ((size_t)vfs.szOsFile < sizeof(struct log_file))
		vfs.szOsFile = (int)sizeof(struct log_file);
	if (sqlite3_vfs_register(&vfs, 0) == SQLITE_OK)
		name = NAME;
}

const char *vfs_name(void)
{
	pthread_once(&registered, register_once);
	return name;
}
