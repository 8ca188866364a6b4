/*
 * Finding an object of a directory store: at its place, else in the overflow area; and its
 * identity. Opens each file without following links or blocking, and looks at what it is before it
 * counts as an object. No lock: see dir.c for why readers need none.
 */
#include "replicator/store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void dir_found_done(struct dir_found *f)
{
	if (f->fd >= 0)
		close(f->fd);
	if (f->parent >= 0)
		close(f->parent);
	dir_record_done(&f->record);
	*f = (struct dir_found){.fd = -1, .parent = -1};
}

/* One place: -ENOENT unless an object is there. */
static int find_at(struct dir *d, const char *key, bool want_dir, struct dir_found *f)
{
	f->fd = openat(
		f->parent, f->leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (f->fd < 0)
		return errno == ENXIO || dir_is_obstacle(-errno) ? -ENOENT : -errno;
	if (fstat(f->fd, &f->st) < 0)
		return -errno;
	if (want_dir ? !S_ISDIR(f->st.st_mode) : !S_ISREG(f->st.st_mode))
		return -ENOENT;
	int r = dir_record_read(d, key, f->leaf, f->fd, &f->st, &f->record);
	f->has_record = r == 0;
	/* Directories and overflow files are objects by their record only. */
	if (r == -ENOENT && !want_dir && !f->overflow)
		r = 0;
	return r;
}

static int find_once(struct dir *d, const char *key, struct dir_found *f)
{
	size_t n = strlen(key);

	*f = (struct dir_found){.fd = -1, .parent = -1};
	int r = dir_open_parent(d, key, false, &f->parent, f->leaf);
	if (r == 0)
		r = find_at(d, key, key[n - 1] == '/', f);
	if (r == 0 || (r != -ENOENT && !dir_is_obstacle(r)))
		return r;
	dir_found_done(f);
	f->overflow = true;
	r = dir_open_private(d, DIR_OVERFLOW, key, false, &f->parent, f->leaf);
	if (r == 0)
		r = find_at(d, key, false, f);
	return dir_is_obstacle(r) ? -ENOENT : r;
}

int dir_find(struct dir *d, const char *key, struct dir_found *f)
{
	for (int i = 0;; i++) {
		struct stat now;
		int r = find_once(d, key, f);
		/* Sidecars: a put between opening the file and reading its sidecar makes a pair
		 * that does not match; seen from the name, which then leads to another file. */
		bool raced = r == 0 && !d->xattr && !f->has_record && i < 10 &&
			     (fstatat(f->parent, f->leaf, &now, AT_SYMLINK_NOFOLLOW) < 0 ||
				     now.st_ino != f->st.st_ino);
		if (!raced) {
			if (r < 0)
				dir_found_done(f);
			return r;
		}
		dir_found_done(f);
	}
}

void dir_object_of(const struct stat *st, const struct dir_record *record, struct store_object *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (S_ISDIR(st->st_mode)) {
		ret->mtime_ms = record->time_ms;
	} else {
		ret->size = (uint64_t)st->st_size;
		ret->mtime_ms = (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
	}
	if (record)
		snprintf(ret->etag, sizeof(ret->etag), "d%016" PRIx64, record->id);
	else
		snprintf(ret->etag, sizeof(ret->etag), "f%llx-%llx-%llx.%lx-%llx.%lx",
			(unsigned long long)st->st_ino, (unsigned long long)st->st_size,
			(unsigned long long)st->st_mtim.tv_sec, (unsigned long)st->st_mtim.tv_nsec,
			(unsigned long long)st->st_ctim.tv_sec, (unsigned long)st->st_ctim.tv_nsec);
}
