/*
 * Reading and writing the content of an open file.
 *
 * A change of bytes is announced to the record before it is made (record_changing), under the
 * record's lock: so who has read bytes knows by the generation whether they were whole, and a
 * snapshot that is being copied gets them again. A write is there whole when it is acknowledged, or
 * the size is as before. Reading takes no lock.
 *
 * Of content that is not all here a reader gets what is (partial.h), else -EREMOTE.
 */
#include "cache/open_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>

#include "cache/partial.h"
#include "src/base/io.h"

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

	if (partial && !partial_has(partial, offset, n))
		return -EREMOTE;
	return io_read_at(file_fd(f), p, n, offset);
}

ssize_t file_extent(struct file *f, size_t n, uint64_t offset, int *ret_fd)
{
	struct partial *partial = file_partial(f);
	struct stat st;

	if (partial && !partial_has(partial, offset, n))
		return -EREMOTE;
	*ret_fd = file_fd(f);
	if (fstat(*ret_fd, &st) != 0)
		return -errno;
	if (offset >= (uint64_t)st.st_size)
		return 0;
	return (ssize_t)((uint64_t)st.st_size - offset < n ? (uint64_t)st.st_size - offset : n);
}

/* With rec->lock. */
static int write_locked(
	struct cache *c, struct record *rec, const void *p, size_t n, uint64_t offset, bool append)
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
	r = io_write_at(fd, p, n, offset);
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

int file_truncate_locked(struct cache *c, struct record *rec, uint64_t size)
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

int file_truncate(struct file *f, uint64_t size)
{
	int r;

	if (!f->writable)
		return -EBADF;
	r = grows(f, size) ? content_check_new(f->cache, 0) : 0;
	if (r)
		return r;
	mutex_lock(&f->rec->lock);
	r = file_truncate_locked(f->cache, f->rec, size);
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
