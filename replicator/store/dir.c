/*
 * A directory as an object store (file:///dir): each object is a plain file at its own key, so that
 * cp and cat work on it. Several processes may use one directory at once, on one machine or a
 * shared file system with working flock.
 *
 * Life of a put: body to a temporary file, record (dir_record.c) attached, fsync; then under the
 * key's lock the condition is checked and the file renamed to its place; then the directory is
 * flushed. Readers take no lock: an object's file never changes, a new version is a new file.
 * Killed or cut off anywhere, the old or the new version is whole at its place, and what is left
 * over is a temporary file (removed when the store is opened an hour later), an empty directory, or
 * a sidecar that nothing refers to.
 *
 * Places. "a/b" is the file b in the directory a. "d/" (empty body) is the directory d with a
 * record of its own; a directory without one is no object, and goes when a remove leaves it empty.
 * What cannot have such a place goes to the overflow area under a hash of its key: "a" while "a/b"
 * is there and the reverse, names that the file system refuses, "d/" with a body. Lookups try the
 * place, then the overflow; the place wins. A put at the place drops an overflow copy afterwards,
 * and a remove takes the overflow copy first, so that a crash in between never brings an older
 * version back.
 *
 * Keys with "", "." or ".." as a component, and those of the three private areas, are
 * STORE_UNSUPPORTED: they can be no path of a mount. Symlinks, devices and the like are not objects
 * and are never followed.
 *
 * ETag: "d" and a random number of the put; for files that other tools put there "f" and inode
 * number, size, mtime and ctime.
 *
 * Absence is only reported after the marker file was seen (dir_path.c): a directory that vanished,
 * an unmounted disk, is STORE_TRANSIENT, also when it is missing as a store that was used before is
 * opened. Files are made with mode 0600, directories 0700.
 *
 * Locks: flock on .meridian-tmp/lock/NN for changes; root_lock (LOCK_RANK_STORE) for reopening the
 * root.
 */
#include "replicator/store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "src/base/clock.h"
#include "src/base/random.h"

enum { CHUNK = 262144 };

static struct dir *dir_of(struct store *s)
{
	return (struct dir *)s;
}

enum store_result dir_result(struct dir *d, int error, const char *what, struct store_error *e)
{
	enum store_result r;

	switch (error) {
	case -ECANCELED:
		return store_error_local(e, error, what);
	case -ETIMEDOUT:
		r = STORE_TIMEOUT;
		break;
	case -EACCES:
	case -EPERM:
	case -EROFS:
	case -EXDEV:
		r = STORE_DENIED;
		break;
	case -EFBIG:
		r = STORE_TOO_LARGE;
		break;
	case -ENXIO:
		return store_error_set(e, STORE_TRANSIENT,
			"%.150s: the directory is gone, is its disk mounted?", d->path);
	default:
		r = STORE_TRANSIENT;
	}
	snprintf(e->code, sizeof(e->code), "%s", strerrorname_np(-error));
	return store_error_set(e, r, "%s in %.150s: %s", what, d->path, strerror(-error));
}

/* What every call starts with. */
static enum store_result begin(
	struct dir *d, const char *key, const struct store_call *call, struct store_error *error)
{
	enum store_result r = store_call_check(call, error);

	if (r == STORE_OK && dir_key_check(key) < 0)
		r = store_error_set(error, STORE_UNSUPPORTED,
			"a directory store has no place for this key (empty component, '.', '..' "
			"or reserved)");
	if (r != STORE_OK)
		return r;
	int e = dir_check(d);
	return e < 0 ? dir_result(d, e, "looking", error) : STORE_OK;
}

static enum store_result absent(struct dir *d, enum store_result r, struct store_error *error)
{
	int e = dir_check_marker(d);

	if (e == 0)
		e = dir_check(d);
	return e < 0 ? dir_result(d, e, "looking", error) : r;
}

/* Finding. */

static void object_of(const struct dir_found *f, struct store_object *ret)
{
	dir_object_of(&f->st, f->has_record ? &f->record : NULL, ret);
}

/* Finds, or says why not; f is empty then. */
static enum store_result find(
	struct dir *d, const char *key, struct dir_found *f, struct store_error *error)
{
	int r = dir_find(d, key, f);

	if (r == -ENOENT)
		return absent(d, STORE_ABSENT, error);
	return r < 0 ? dir_result(d, r, "looking for an object", error) : STORE_OK;
}

/* Hands f's identity and metadata out, moving the metadata. */
static void give(struct dir_found *f, struct store_object *object, struct store_meta *meta)
{
	if (object)
		object_of(f, object);
	if (meta) {
		store_meta_done(meta);
		*meta = f->record.meta;
		f->record.meta = (struct store_meta){0};
	}
}

static bool etag_is(const struct dir_found *f, const char *etag)
{
	struct store_object o;

	object_of(f, &o);
	return !strcmp(o.etag, etag);
}

/* Reading. */

static enum store_result stream(struct dir *d, int fd, uint64_t at, uint64_t end,
	const struct store_sink *sink, const struct store_call *call, struct store_error *error)
{
	size_t cap = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
	AUTO_FREE char *p = malloc(cap ? cap : 1);

	if (!p)
		return dir_result(d, -ENOMEM, "reading", error);
	while (at < end) {
		enum store_result r = store_call_check(call, error);
		if (r != STORE_OK)
			return r;
		ssize_t n = pread(fd, p, end - at < cap ? (size_t)(end - at) : cap, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return dir_result(d, -errno, "reading", error);
		if (n == 0)
			return store_error_set(
				error, STORE_TRANSIENT, "the file shrank while it was read");
		int e = sink->write(sink->ctx, p, (size_t)n);
		if (e)
			return store_error_local(error, e, "writing the body");
		at += (uint64_t)n;
	}
	return STORE_OK;
}

static enum store_result dir_get(struct store *s, const char *key, uint64_t offset, uint64_t length,
	const char *if_match, const struct store_sink *sink, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	CLEANUP(dir_found_done) struct dir_found f = {.fd = -1, .parent = -1};
	struct dir *d = dir_of(s);
	enum store_result r = begin(d, key, call, error);

	if (r == STORE_OK)
		r = find(d, key, &f, error);
	if (r == STORE_OK && if_match && !etag_is(&f, if_match))
		r = STORE_PRECONDITION;
	if (r != STORE_OK)
		return r;
	uint64_t end = S_ISDIR(f.st.st_mode) ? 0 : (uint64_t)f.st.st_size;
	if (offset > end)
		offset = end;
	if (length && length < end - offset)
		end = offset + length;
	r = stream(d, f.fd, offset, end, sink, call, error);
	if (r == STORE_OK)
		give(&f, object, meta);
	return r;
}

static enum store_result dir_head(struct store *s, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	CLEANUP(dir_found_done) struct dir_found f = {.fd = -1, .parent = -1};
	struct dir *d = dir_of(s);
	enum store_result r = begin(d, key, call, error);

	if (r == STORE_OK)
		r = find(d, key, &f, error);
	if (r == STORE_OK)
		give(&f, object, meta);
	return r;
}

/* Writing. */

/* A change of one object. {.tmp_fd = -1, .lock = -1, .changed = -1, .old = {.fd = -1, .parent =
 * -1}} is empty. */
struct change {
	struct dir *d;
	const char *key;
	const struct store_call *call;
	struct store_error *error;
	char tmp[32]; /* name of the temporary file; empty: none */
	int tmp_fd;
	int lock;
	int changed; /* the directory to flush at the end */
	struct dir_found old;
	struct dir_record record;
};

#define CHANGE_EMPTY(dir_, key_, call_, error_)                                                    \
	{                                                                                          \
		.d = dir_, .key = key_, .call = call_, .error = error_, .tmp_fd = -1, .lock = -1,  \
		.changed = -1, .old = {.fd = -1, .parent = -1},                                    \
	}

static void unlock(struct change *c)
{
	if (c->lock >= 0)
		close(c->lock);
	c->lock = -1;
}

static void change_done(struct change *c)
{
	if (c->tmp[0])
		(void)unlinkat(c->d->tmp, c->tmp, 0);
	if (c->tmp_fd >= 0)
		close(c->tmp_fd);
	if (c->changed >= 0)
		close(c->changed);
	unlock(c);
	dir_found_done(&c->old);
	dir_record_done(&c->record);
}

static enum store_result fill(struct change *c, const struct store_source *source)
{
	size_t cap = source->size < CHUNK ? (size_t)source->size : CHUNK;
	AUTO_FREE char *p = malloc(cap ? cap : 1);
	uint64_t at = 0;

	if (!p)
		return dir_result(c->d, -ENOMEM, "writing", c->error);
	while (at < source->size) {
		enum store_result r = store_call_check(c->call, c->error);
		if (r != STORE_OK)
			return r;
		uint64_t left = source->size - at;
		size_t want = left < cap ? (size_t)left : cap;
		if (c->call->pace) {
			want = want < STORE_PACE_CHUNK ? want : STORE_PACE_CHUNK;
			c->call->pace->sending(c->call->pace->ctx, want);
		}
		ssize_t n = source->read(source->ctx, at, p, want);
		if (n <= 0)
			return store_error_local(
				c->error, n < 0 ? (int)n : -EIO, "reading the body");
		bool hole = is_zeros(p, (size_t)n);
		for (ssize_t done = 0; !hole && done < n;) {
			ssize_t w = pwrite(c->tmp_fd, p + done, (size_t)(n - done), (off_t)at + done);
			if (w < 0 && errno != EINTR)
				return dir_result(c->d, -errno, "writing", c->error);
			done += w > 0 ? w : 0;
		}
		at += (uint64_t)n;
	}
	/* Zeros were left out: what is sparse stays sparse. */
	if (ftruncate(c->tmp_fd, (off_t)source->size) < 0)
		return dir_result(c->d, -errno, "writing", c->error);
	return STORE_OK;
}

/* The temporary file is complete: notes its state, attaches the record where that is the file's
 * own, flushes. */
static int seal(struct change *c)
{
	struct stat st;

	if (fstat(c->tmp_fd, &st) < 0)
		return -errno;
	c->record.size = (uint64_t)st.st_size;
	c->record.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	c->record.ino = c->d->xattr ? 0 : st.st_ino;
	int r = c->d->xattr ? dir_record_write(c->d, c->tmp_fd, &c->record, NULL) : 0;
	if (r == 0 && fsync(c->tmp_fd) < 0)
		r = -errno;
	return r;
}

static int begin_record(struct change *c, const struct store_meta *meta)
{
	c->record.id = random_u64();
	c->record.time_ms = clock_realtime_ms();
	memcpy(c->record.key, c->key, strlen(c->key) + 1);
	return store_meta_copy(&c->record.meta, meta);
}

static enum store_result lock_and_check(struct change *c, const struct store_condition *condition)
{
	int e = dir_lock_key(c->d, c->key, c->call, &c->lock);

	/* The root may have gone while the body was written. */
	if (e == 0)
		e = dir_check_marker(c->d);
	if (e < 0)
		return dir_result(c->d, e, "locking a key", c->error);
	/* Sidecars carry the record of the version before along. */
	if (!condition->if_absent && !condition->if_match && c->d->xattr)
		return STORE_OK;
	enum store_result r = find(c->d, c->key, &c->old, c->error);
	if (r != STORE_OK && r != STORE_ABSENT)
		return r;
	if (condition->if_absent && r == STORE_OK)
		return STORE_EXISTS;
	if (condition->if_match && (r == STORE_ABSENT || !etag_is(&c->old, condition->if_match)))
		return STORE_PRECONDITION;
	return STORE_OK;
}

static int drop_overflow(struct change *c)
{
	AUTO_CLOSE int at = -1;
	char name[DIR_NAME_MAX + 1];

	int r = dir_open_private(c->d, DIR_OVERFLOW, c->key, false, &at, name);
	if (r == 0 && unlinkat(at, name, 0) < 0)
		r = -errno;
	if (r == 0)
		r = dir_flush(at);
	return r == -ENOENT ? 0 : r;
}

/* Renames the temporary file to its place; -ENOENT when an ancestor was pruned meanwhile. */
static int publish_file(struct change *c, bool overflow)
{
	char leaf[DIR_NAME_MAX + 1];
	AUTO_CLOSE int parent = -1;

	int r = overflow ? dir_open_private(c->d, DIR_OVERFLOW, c->key, true, &parent, leaf)
			 : dir_open_parent(c->d, c->key, true, &parent, leaf);
	if (r < 0)
		return r;
	if (renameat(c->d->tmp, c->tmp, parent, leaf) < 0)
		return -errno;
	c->tmp[0] = '\0';
	c->changed = parent;
	parent = -1;
	return 0;
}

static int publish_dir(struct change *c)
{
	char leaf[DIR_NAME_MAX + 1];
	AUTO_CLOSE int parent = -1;
	AUTO_CLOSE int fd = -1;
	struct stat st;

	int r = dir_open_parent(c->d, c->key, true, &parent, leaf);
	if (r == 0)
		r = dir_open_sub(parent, leaf, true, &fd);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	c->record.ino = c->d->xattr ? 0 : st.st_ino;
	c->record.size = 0;
	r = dir_record_write(c->d, fd, &c->record, c->old.has_record ? &c->old.record : NULL);
	if (r < 0)
		return r;
	c->changed = fd;
	fd = -1;
	return 0;
}

/* Tries the place, then the overflow. With the lock held and the condition checked. */
static int publish(struct change *c)
{
	bool dir_key = c->key[strlen(c->key) - 1] == '/';
	int r = -EISDIR;

	if (c->tmp[0] && !c->d->xattr) {
		r = dir_record_write(
			c->d, c->tmp_fd, &c->record, c->old.has_record ? &c->old.record : NULL);
		if (r < 0)
			return r;
		r = -EISDIR;
	}
	for (int i = 0; !dir_key && i < 100 && (i == 0 || r == -ENOENT); i++)
		r = publish_file(c, false);
	if (r == 0)
		return drop_overflow(c);
	if (!dir_is_obstacle(r))
		return r;
	r = publish_file(c, true);
	/* A directory object that was here gives way to one with a body. */
	if (r == 0 && dir_key && !c->d->xattr)
		return dir_record_write(c->d, c->tmp_fd, &c->record, NULL);
	if (r == 0 && dir_key) {
		AUTO_CLOSE int parent = -1;
		AUTO_CLOSE int fd = -1;
		char leaf[DIR_NAME_MAX + 1];
		if (dir_open_parent(c->d, c->key, false, &parent, leaf) == 0 &&
			dir_open_sub(parent, leaf, false, &fd) == 0)
			r = dir_record_remove(c->d, c->key, fd);
	}
	return r;
}

/* The object stands at its place: flushes, and reports. A failure from here on leaves the outcome
 * open. */
static enum store_result settle(struct change *c, char *etag)
{
	unlock(c);
	int e = c->changed >= 0 ? dir_flush(c->changed) : 0;
	if (e < 0)
		return store_error_set(
			c->error, STORE_UNKNOWN, "flushing %.150s: %s", c->d->path, strerror(-e));
	if (etag)
		snprintf(etag, STORE_ETAG_SIZE, "d%016" PRIx64, c->record.id);
	return STORE_OK;
}

static enum store_result commit(
	struct change *c, const struct store_condition *condition, char *etag)
{
	int e = seal(c);

	if (e < 0)
		return dir_result(c->d, e, "writing", c->error);
	enum store_result r = lock_and_check(c, condition);
	if (r != STORE_OK)
		return r;
	e = publish(c);
	if (e < 0)
		return dir_result(c->d, e, "putting an object in place", c->error);
	return settle(c, etag);
}

/* "d/" without a body. STORE_UNSUPPORTED: the path is taken, it has to be a file in the overflow.
 */
static enum store_result put_dir(
	struct change *c, const struct store_condition *condition, char *etag)
{
	enum store_result r = lock_and_check(c, condition);

	if (r != STORE_OK)
		return r;
	/* An overflow copy, one with a body, must not outlive this one, nor be its sidecar's "old".
	 */
	int e = -ENOENT;
	for (int i = 0; i < 100 && e == -ENOENT; i++)
		e = publish_dir(c);
	if (dir_is_obstacle(e)) {
		unlock(c);
		dir_found_done(&c->old);
		return STORE_UNSUPPORTED;
	}
	if (e == 0)
		e = drop_overflow(c);
	if (e < 0)
		return dir_result(c->d, e, "making a directory", c->error);
	return settle(c, etag);
}

static enum store_result dir_put(struct store *s, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	struct dir *d = dir_of(s);
	CLEANUP(change_done) struct change c = CHANGE_EMPTY(d, key, call, error);
	enum store_result r = begin(d, key, call, error);

	if (r != STORE_OK)
		return r;
	int e = begin_record(&c, meta);
	if (e < 0)
		return dir_result(d, e, "writing", error);
	if (key[strlen(key) - 1] == '/' && source->size == 0) {
		r = put_dir(&c, condition, etag);
		if (r != STORE_UNSUPPORTED)
			return r;
	}
	e = dir_tmp_new(d, c.tmp, &c.tmp_fd);
	if (e < 0)
		return dir_result(d, e, "writing", error);
	r = fill(&c, source);
	return r == STORE_OK ? commit(&c, condition, etag) : r;
}

/* Removing. */

/* Takes away the directories above key that are now empty, up to one that is an object of its own.
 * Best effort: an empty directory left behind is no object. Each step holds the lock of the
 * directory's own key, against a put of it. */
static void prune(struct dir *d, const char *key, const struct store_call *call)
{
	char at[STORE_KEY_MAX + 1];
	size_t n = strlen(key);

	memcpy(at, key, n + 1);
	/* "a/b/c" -> "a/b/" -> "a/"; a directory object that was removed starts with itself. */
	for (;;) {
		while (n > 0 && at[n - 1] != '/')
			n--;
		if (n == 0)
			return;
		at[n] = '\0';
		CLEANUP(dir_found_done) struct dir_found f = {.fd = -1, .parent = -1};
		AUTO_CLOSE int lock = -1;
		AUTO_CLOSE int parent = -1;
		char leaf[DIR_NAME_MAX + 1];
		if (dir_open_parent(d, at, false, &parent, leaf) < 0 ||
			dir_lock_key(d, at, call, &lock) < 0)
			return;
		int r = dir_find(d, at, &f);
		if (r == 0 ? !f.overflow : r != -ENOENT)
			return;
		if (unlinkat(parent, leaf, AT_REMOVEDIR) < 0)
			return;
		n--;
	}
}

static int take_away(struct change *c)
{
	struct dir_found *f = &c->old;
	int r;

	if (!f->overflow) {
		r = drop_overflow(c);
		if (r < 0)
			return r;
	}
	if (S_ISDIR(f->st.st_mode))
		r = dir_record_remove(c->d, c->key, f->fd);
	else
		r = unlinkat(f->parent, f->leaf, 0) < 0 && errno != ENOENT ? -errno : 0;
	if (r == 0 && !c->d->xattr && !S_ISDIR(f->st.st_mode))
		r = dir_record_remove(c->d, c->key, -1);
	if (r < 0)
		return r;
	c->changed = S_ISDIR(f->st.st_mode) ? f->fd : f->parent;
	if (S_ISDIR(f->st.st_mode))
		f->fd = -1;
	else
		f->parent = -1;
	return 0;
}

static enum store_result dir_remove(struct store *s, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	struct dir *d = dir_of(s);
	CLEANUP(change_done) struct change c = CHANGE_EMPTY(d, key, call, error);
	enum store_result r = begin(d, key, call, error);

	if (r != STORE_OK)
		return r;
	int e = dir_lock_key(d, key, call, &c.lock);
	if (e < 0)
		return dir_result(d, e, "locking a key", error);
	r = find(d, key, &c.old, error);
	if (r == STORE_ABSENT)
		return STORE_OK;
	if (r == STORE_OK && if_match && !etag_is(&c.old, if_match))
		r = STORE_PRECONDITION;
	if (r != STORE_OK)
		return r;
	e = take_away(&c);
	if (e < 0)
		return dir_result(d, e, "removing", error);
	r = settle(&c, NULL);
	if (r == STORE_OK)
		prune(d, key, call);
	return r;
}

/* Copying. */

static enum store_result clone_body(struct change *c, int from, uint64_t size)
{
	AUTO_FREE char *p = NULL;
	struct stat st;

	if (size == 0 || ioctl(c->tmp_fd, FICLONE, from) == 0)
		return STORE_OK;
	for (uint64_t at = 0; at < size;) {
		enum store_result r = store_call_check(c->call, c->error);
		if (r != STORE_OK)
			return r;
		/* A copy_file_range may fill holes, and crosses those that begin within it. */
		off_t data = lseek(from, (off_t)at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		at = data < 0 ? at : (uint64_t)data;
		off_t hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
		uint64_t end = hole < 0 || (uint64_t)hole > size ? size : (uint64_t)hole;
		if (at >= end)
			break;
		size_t want = end - at < (64u << 20) ? (size_t)(end - at) : 64u << 20;
		off_t in = (off_t)at, out = (off_t)at;
		ssize_t n = p ? -1 : copy_file_range(from, &in, c->tmp_fd, &out, want, 0);
		if (n < 0 && (p || errno == EXDEV || errno == EINVAL || errno == ENOSYS ||
				     errno == EOPNOTSUPP)) {
			/* Not by this file system: by hand. */
			if (!p && !(p = malloc(CHUNK)))
				return dir_result(c->d, -ENOMEM, "copying", c->error);
			n = pread(from, p, want < CHUNK ? want : CHUNK, (off_t)at);
			if (n > 0)
				n = pwrite(c->tmp_fd, p, (size_t)n, (off_t)at);
		}
		if (n < 0 && errno != EINTR)
			return dir_result(c->d, -errno, "copying", c->error);
		if (n == 0)
			return store_error_set(
				c->error, STORE_TRANSIENT, "the file shrank while it was copied");
		at += n > 0 ? (uint64_t)n : 0;
	}
	if (fstat(from, &st) < 0 || ftruncate(c->tmp_fd, (off_t)size) < 0)
		return dir_result(c->d, -errno, "copying", c->error);
	if ((uint64_t)st.st_size < size)
		return store_error_set(
			c->error, STORE_TRANSIENT, "the file shrank while it was copied");
	return STORE_OK;
}

static enum store_result copy_found(struct change *c, const struct dir_found *f,
	const struct store_meta *meta, const struct store_condition *condition, char *etag)
{
	uint64_t size = S_ISDIR(f->st.st_mode) ? 0 : (uint64_t)f->st.st_size;

	if (size == 0) {
		struct store_memory nothing = {.p = "", .len = 0};
		struct store_source source = store_source_memory(&nothing);
		return dir_put(&c->d->s, c->key, &source, meta, condition, etag, c->call, c->error);
	}
	int e = begin_record(c, meta);
	if (e == 0)
		e = dir_tmp_new(c->d, c->tmp, &c->tmp_fd);
	if (e < 0)
		return dir_result(c->d, e, "copying", c->error);
	enum store_result r = clone_body(c, f->fd, size);
	return r == STORE_OK ? commit(c, condition, etag) : r;
}

static enum store_result dir_copy(struct store *s, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct dir *d = dir_of(s);
	CLEANUP(dir_found_done) struct dir_found f = {.fd = -1, .parent = -1};
	CLEANUP(change_done) struct change c = CHANGE_EMPTY(d, to, call, error);
	enum store_result r = begin(d, from, call, error);

	if (r == STORE_OK)
		r = begin(d, to, call, error);
	if (r == STORE_OK)
		r = find(d, from, &f, error);
	if (r == STORE_OK && if_match && !etag_is(&f, if_match))
		r = STORE_PRECONDITION;
	if (r != STORE_OK)
		return r;
	/* A copy onto itself must not undo a put that comes in between. */
	struct store_object source;
	object_of(&f, &source);
	struct store_condition condition = {.if_match = strcmp(from, to) ? NULL : source.etag};
	r = copy_found(&c, &f, meta, &condition, etag);
	if (r == STORE_PRECONDITION && !if_match)
		r = store_error_set(
			error, STORE_TRANSIENT, "the object changed while it was copied");
	return r;
}

static void dir_free(struct dir *d)
{
	for (int *fd[] = {&d->root, &d->tmp, &d->lock, NULL}, **i = fd; *i; i++) {
		if (**i >= 0)
			close(**i);
	}
	mutex_done(&d->root_lock);
	free(d->path);
	free(d);
}

static void dir_close(struct store *s)
{
	dir_free(dir_of(s));
}

static const struct store_ops dir_ops = {
	.name = "dir",
	.get = dir_get,
	.put = dir_put,
	.head = dir_head,
	.list = dir_list,
	.remove = dir_remove,
	.copy = dir_copy,
	.close = dir_close,
};

static int path_of(const struct store_config *config, const char **path, struct err *err)
{
	*path = config->url + strlen("file://");
	if ((*path)[0] == '/')
		return 0;
	return err_set(err, -EINVAL,
		"url %s: a directory store needs an absolute path\nhint: "
		"file:///var/lib/bucket",
		config->url);
}

int store_dir_exists(const struct store_config *config, struct err *err)
{
	const char *path;
	int r = path_of(config, &path, err);

	return r < 0 ? r : dir_exists(path, err);
}

int store_dir_open(const struct store_config *config, struct store **ret, struct err *err)
{
	const char *path;
	int r = path_of(config, &path, err);
	if (r < 0)
		return r;
	struct dir *d = calloc(1, sizeof(*d));
	CHECK(d);
	d->s.ops = &dir_ops;
	d->root = d->tmp = d->lock = -1;
	d->path = strdup(path);
	CHECK(d->path);
	mutex_init(&d->root_lock, LOCK_RANK_STORE);
	r = config->used ? dir_open_used(d, err) : dir_open_root(d, err);
	if (r < 0) {
		dir_free(d);
		return r;
	}
	atomic_store(&d->s.capabilities, STORE_CAP_PUT_IF_ABSENT | STORE_CAP_PUT_IF_MATCH |
						 STORE_CAP_DELETE_IF_MATCH | STORE_CAP_COPY |
						 STORE_CAP_COPY_IF_MATCH);
	d->s.limits = (struct store_limits){.put_max = INT64_MAX, .object_max = INT64_MAX};
	*ret = &d->s;
	return 0;
}
