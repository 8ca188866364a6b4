/*
 * The record of an object: what the file system has no place for (metadata, ETag, the exact key),
 * and the state of the file that it describes, so that a record and a file that do not belong
 * together are noticed: a body that another tool changed in place, a file that one moved here, a
 * pair torn by a crash. Such a file counts as put there by another tool.
 *
 * With user xattrs the record is the attribute user.meridian.object of the file itself, set before
 * the rename that publishes it: both appear in one step. Without, it is a sidecar, written before
 * that rename, which holds the new record and the one before: whichever file is found at the place,
 * the record that names its inode number, size and mtime is its own. (Two files that exist at once
 * differ in their inode numbers.) For directory objects ("d/") only the inode number counts.
 *
 * Format, integers as varints: "MO1", id, ino, size, mtime_ns, time_ms (the last two zig-zag), key,
 * count, then name and value of each pair; strings with their length. A sidecar is one or two of
 * these.
 */
#include "replicator/store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>

#define XATTR "user.meridian.object"

enum {
	RECORD_MAX = 4096,
	SIDECAR_MAX = 2 * RECORD_MAX,
};

void dir_record_done(struct dir_record *r)
{
	store_meta_done(&r->meta);
}

int dir_record_encode(const struct dir_record *r, struct buf *b)
{
	buf_put(b, "MO1", 3);
	buf_put_varint(b, r->id);
	buf_put_varint(b, r->ino);
	buf_put_varint(b, r->size);
	buf_put_svarint(b, r->mtime_ns);
	buf_put_svarint(b, r->time_ms);
	buf_put_bytes(b, r->key, strlen(r->key));
	buf_put_varint(b, r->meta.count);
	for (uint32_t i = 0; i < r->meta.count; i++) {
		buf_put_bytes(b, r->meta.item[i].name, strlen(r->meta.item[i].name));
		buf_put_bytes(b, r->meta.item[i].value, strlen(r->meta.item[i].value));
	}
	return b->failed ? -ENOMEM : 0;
}

static bool get_string(struct reader *in, char *s, size_t size)
{
	size_t n = 0;
	const uint8_t *p = reader_bytes(in, size - 1, &n);

	if (in->failed || memchr(p, 0, n))
		return false;
	memcpy(s, p, n);
	s[n] = '\0';
	return true;
}

bool dir_record_decode(struct reader *in, struct dir_record *r)
{
	char name[STORE_META_BYTES + 1], value[STORE_META_BYTES + 1];
	const uint8_t *magic = reader_raw(in, 3);

	memset(r, 0, sizeof(*r));
	if (in->failed || memcmp(magic, "MO1", 3))
		return false;
	r->id = reader_varint(in);
	r->ino = reader_varint(in);
	r->size = reader_varint(in);
	r->mtime_ns = reader_svarint(in);
	r->time_ms = reader_svarint(in);
	bool ok = get_string(in, r->key, sizeof(r->key));
	uint64_t count = reader_varint(in);
	ok = ok && !in->failed && count <= STORE_META_MAX;
	for (uint64_t i = 0; ok && i < count; i++)
		ok = get_string(in, name, sizeof(name)) && get_string(in, value, sizeof(value)) &&
		     store_meta_set(&r->meta, name, value) == 0;
	if (!ok)
		dir_record_done(r);
	return ok;
}

bool dir_record_matches(const struct dir_record *r, const char *key, const struct stat *st)
{
	if (key && strcmp(r->key, key))
		return false;
	if (r->ino && r->ino != st->st_ino)
		return false;
	if (S_ISDIR(st->st_mode))
		return true;
	return r->size == (uint64_t)st->st_size &&
	       r->mtime_ns == (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static int pick(
	const void *p, size_t n, const char *key, const struct stat *st, struct dir_record *ret)
{
	struct reader in = reader_of(p, n);

	while (reader_left(&in) > 0) {
		if (!dir_record_decode(&in, ret))
			break;
		if (dir_record_matches(ret, key, st))
			return 0;
		dir_record_done(ret);
	}
	memset(ret, 0, sizeof(*ret));
	return -ENOENT;
}

/* Opens the sidecar's directory: by key, or by the name that an overflow file has. */
static int open_meta(
	struct dir *d, const char *key, const char *name, int *ret_fd, char file[DIR_NAME_MAX + 1])
{
	AUTO_CLOSE int top = -1;
	char shard[3] = "";

	if (key)
		return dir_open_private(d, DIR_META, key, false, ret_fd, file);
	int r = dir_open_sub(d->root, DIR_META, false, &top);
	if (r < 0)
		return r;
	memcpy(shard, name, 2);
	memcpy(file, name, strnlen(name, DIR_NAME_MAX) + 1);
	return dir_open_sub(top, shard, false, ret_fd);
}

static int read_sidecar(struct dir *d, const char *key, const char *name, uint8_t p[SIDECAR_MAX])
{
	AUTO_CLOSE int at = -1;
	AUTO_CLOSE int fd = -1;
	char file[DIR_NAME_MAX + 1];

	int r = open_meta(d, key, name, &at, file);
	if (r < 0)
		return r;
	fd = openat(at, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, p, SIDECAR_MAX);
	return n < 0 ? -errno : (int)n;
}

int dir_record_read(struct dir *d, const char *key, const char *name, int fd, const struct stat *st,
	struct dir_record *ret)
{
	uint8_t p[SIDECAR_MAX];
	ssize_t n;

	memset(ret, 0, sizeof(*ret));
	if (d->xattr) {
		n = fgetxattr(fd, XATTR, p, RECORD_MAX);
		if (n < 0)
			return errno == ENODATA || errno == ERANGE || errno == ENOTSUP ? -ENOENT
										       : -errno;
	} else {
		n = read_sidecar(d, key, name, p);
		if (n < 0)
			return dir_is_obstacle((int)n) ? -ENOENT : (int)n;
	}
	return pick(p, (size_t)n, key, st, ret);
}

int dir_record_write(
	struct dir *d, int fd, const struct dir_record *r, const struct dir_record *old)
{
	CLEANUP(buf_done) struct buf b = {.max = SIDECAR_MAX};
	AUTO_CLOSE int at = -1;
	char name[DIR_NAME_MAX + 1];

	int e = dir_record_encode(r, &b);
	if (e < 0)
		return e;
	CHECK(b.len <= RECORD_MAX);
	if (d->xattr)
		return fsetxattr(fd, XATTR, b.data, b.len, 0) < 0 ? -errno : 0;
	if (old)
		e = dir_record_encode(old, &b);
	if (e == 0)
		e = dir_open_private(d, DIR_META, r->key, true, &at, name);
	if (e == 0)
		e = dir_write_file(d, at, name, b.data, b.len);
	return e;
}

int dir_record_remove(struct dir *d, const char *key, int fd)
{
	AUTO_CLOSE int at = -1;
	char name[DIR_NAME_MAX + 1];

	if (d->xattr) {
		/* The record of a removed file goes with it. */
		if (fd < 0 || fremovexattr(fd, XATTR) == 0 || errno == ENODATA)
			return 0;
		return -errno;
	}
	int r = dir_open_private(d, DIR_META, key, false, &at, name);
	if (r == 0 && unlinkat(at, name, 0) < 0)
		r = -errno;
	if (r == 0)
		r = dir_flush(at);
	return r == -ENOENT ? 0 : r;
}
