/*
 * Sealing content: its hash, and where somebody may write meanwhile a copy of one instant.
 *
 * Ways, by size and writers:
 *   to be inlined; or up to READ_MAX and no writer open: read whole under the record's lock
 *   larger, no writer open  hashed in place; valid when the generation is the same after it
 *   else                    a snapshot: a reflink under the lock, or a copy. Writers go on during
 *                           the copy and mark the blocks that they change; what was marked is
 *                           copied again, without the lock for a few passes while it shrinks, then
 *                           under it, where content and copy are equal
 *
 * Where writers may write unseen (record.h) none of this holds: unseen.c.
 *
 * A snapshot of what takes longer to hash than a slice is taken in the background (snapshot_job.c).
 *
 * A snapshot is written as snapshot/<ino>/new (in the background: next), hashed, and renamed to its hash. An
 * inode keeps at most two, of the version that was sealed last and of the one that is being sealed: older ones nobody
 * will ask for again (an upload under way has its file open). It keeps none when the content file itself is the version and
 * nobody may write to it. cache_open removes those that a crash left.
 */
#include "cache/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "cache/content_map.h"
#include "cache/hashing.h"
#include "cache/record.h"
#include "cache/snapshot_job.h"
#include "src/base/clock.h"
#include "src/base/log.h"

#define READ_MAX ((uint64_t)256 << 10)
#define COPY_BYTES ((size_t)256 << 10)
#define BLOCK ((uint64_t)1 << BLOCK_BITS)
#define PASSES 4
#define HASHED_PER_MS ((uint64_t)512 << 10)
#define NAME_SIZE (9 + 17 + SHA256_HEX_SIZE) /* "snapshot/" ino "/" hash */

/* ---- names ---- */

static void snapshot_name(uint64_t ino, const char *last, char name[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, "snapshot/%016llx%s%s", (unsigned long long)ino, *last ? "/" : "",
		last);
}

int snapshot_open(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t *size)
{
	char name[NAME_SIZE], hex[SHA256_HEX_SIZE];
	struct stat st;
	int fd, r;

	if (atomic_load(&c->snapshots) == 0)
		return -ENOENT;
	hex_encode(hash, SHA256_SIZE, hex);
	snapshot_name(ino, hex, name);
	fd = openat(c->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) != 0) {
		r = -errno;
		close(fd);
		return r;
	}
	*size = (uint64_t)st.st_size;
	return fd;
}

static int snapshot_create(struct cache *c, uint64_t ino, const char *last)
{
	char name[NAME_SIZE];
	int fd;

	if (mkdirat(c->dir_fd, "snapshot", 0700) != 0 && errno != EEXIST)
		return -errno;
	snapshot_name(ino, "", name);
	if (mkdirat(c->dir_fd, name, 0700) != 0 && errno != EEXIST)
		return -errno;
	/* A umask without owner bits would lock out the owner. */
	if (fchmodat(c->dir_fd, "snapshot", 0700, 0) != 0 ||
		fchmodat(c->dir_fd, name, 0700, 0) != 0)
		return -errno;
	snapshot_name(ino, last, name);
	fd = openat(c->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

int snapshot_keep(
	struct cache *c, uint64_t ino, const char *last, const uint8_t hash[SHA256_SIZE])
{
	char from[NAME_SIZE], to[NAME_SIZE], hex[SHA256_HEX_SIZE];

	hex_encode(hash, SHA256_SIZE, hex);
	snapshot_name(ino, last, from);
	snapshot_name(ino, hex, to);
	atomic_fetch_add(&c->snapshots, 1);
	/* One of the same content may be there: then the count is one too many, which costs a look
	 * only. */
	if (renameat(c->dir_fd, from, c->dir_fd, to) == 0)
		return 0;
	int r = -errno;
	atomic_fetch_sub(&c->snapshots, 1);
	return r;
}

static void snapshot_remove(struct cache *c, uint64_t ino, const char *last)
{
	char name[NAME_SIZE];

	snapshot_name(ino, last, name);
	unlinkat(c->dir_fd, name, 0);
	snapshot_name(ino, "", name);
	unlinkat(c->dir_fd, name, AT_REMOVEDIR); /* fails while something is in it */
}

void snapshot_remove_next(struct cache *c, uint64_t ino)
{
	snapshot_remove(c, ino, SNAPSHOT_NEXT);
}

void content_drop_snapshots(
	struct cache *c, uint64_t ino, const uint8_t *hash, const uint8_t *also)
{
	char name[NAME_SIZE], keep[SHA256_HEX_SIZE] = "", other[SHA256_HEX_SIZE] = "";
	struct dirent *e;
	DIR *dir;
	int fd;

	if (atomic_load(&c->snapshots) == 0)
		return;
	if (hash)
		hex_encode(hash, SHA256_SIZE, keep);
	if (also)
		hex_encode(also, SHA256_SIZE, other);
	snapshot_name(ino, "", name);
	fd = openat(c->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		cleanup_close(&fd);
		return;
	}
	while ((e = readdir(dir))) {
		/* A seal that is at work on one is not disturbed. */
		if (e->d_name[0] == '.' || strcmp(e->d_name, keep) == 0 ||
			strcmp(e->d_name, other) == 0 ||
			strcmp(e->d_name, SNAPSHOT_NEW) == 0 ||
			strcmp(e->d_name, SNAPSHOT_NEXT) == 0)
			continue;
		if (unlinkat(dirfd(dir), e->d_name, 0) == 0)
			atomic_fetch_sub(&c->snapshots, 1);
	}
	closedir(dir);
	unlinkat(c->dir_fd, name, AT_REMOVEDIR); /* fails while something is in it */
}

void snapshot_drop_older(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE])
{
	struct inode_row row;
	struct conn *conn;
	int r;

	if (atomic_load(&c->snapshots) == 0 || conn_take(c, &conn))
		return;
	r = inode_get(conn, ino, &row);
	conn_give(conn);
	content_drop_snapshots(c, ino, hash, r == 0 && row.has_hash ? row.hash : NULL);
}

/* ---- reading and hashing ---- */

static int read_whole(int fd, uint64_t size, struct buf *bytes)
{
	uint64_t at = 0;

	buf_clear(bytes);
	while (at < size) {
		size_t n = (size_t)(size - at);
		void *p = buf_reserve(bytes, n);
		ssize_t got;

		if (!p)
			return -ENOMEM;
		got = pread(fd, p, n, (off_t)at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		bytes->len += (size_t)got;
		at += (uint64_t)got;
	}
	return 0;
}

/* ---- copying ---- */

int snapshot_copy_range(
	struct cache *c, int from, int to, uint64_t at, uint64_t end, uint8_t *buffer)
{
	while (at < end) {
		size_t n = end - at < COPY_BYTES ? (size_t)(end - at) : COPY_BYTES;
		ssize_t got = pread(from, buffer, n, (off_t)at);
		ssize_t put = 0;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (clock_monotonic_ms() >= atomic_load(&c->hash_end_ms))
			return -EAGAIN;
		if (content_is_removed(from))
			return -ENOENT;
		if (got == 0)
			return 0; /* cut meanwhile: the last pass sets the size */
		while (put < got) {
			ssize_t w = pwrite(to, buffer + put, (size_t)(got - put), (off_t)at + put);

			if (w < 0 && errno == EINTR)
				continue;
			if (w <= 0)
				return w < 0 ? -errno : -EIO;
			put += w;
		}
		at += (uint64_t)got;
	}
	return 0;
}

/* Copies the blocks of map again. A block that lies in a hole or behind the end is read as it is
 * now. */
static int copy_marked(
	struct cache *c, int from, int to, const uint8_t *map, size_t map_bytes, uint8_t *buffer)
{
	int r = 0;

	for (size_t i = 0; !r && i < map_bytes; i++) {
		for (unsigned bit = 0; !r && map[i] && bit < 8; bit++) {
			uint64_t at = ((uint64_t)i * 8 + bit) * BLOCK;

			if (map[i] & (1U << bit))
				r = snapshot_copy_range(c, from, to, at, at + BLOCK, buffer);
		}
	}
	return r;
}

static uint64_t marked(const uint8_t *map, size_t bytes)
{
	uint64_t n = 0;

	for (size_t i = 0; i < bytes; i++)
		n += (unsigned)__builtin_popcount(map[i]);
	return n;
}

/* One pass without the lock over what was marked until now. *left: how much that was. */
static int copy_pass(
	struct cache *c, struct record *rec, int from, int to, uint8_t *buffer, uint64_t *left)
{
	uint8_t *map AUTO_FREE = NULL;
	uint8_t *empty = calloc(1, 64);
	size_t bytes;

	if (!empty)
		return -ENOMEM;
	mutex_lock(&rec->lock);
	map = rec->copying;
	bytes = rec->copying_bytes;
	rec->copying = empty;
	rec->copying_bytes = 64;
	mutex_unlock(&rec->lock);
	*left = marked(map, bytes);
	return copy_marked(c, from, to, map, bytes, buffer);
}

/* With rec->lock: brings the copy up to date; it is then equal to the content. */
static int copy_last(
	struct cache *c, struct record *rec, int from, int to, uint8_t *buffer, struct stat *st)
{
	int r;

	if (rec->copying_failed)
		return -ENOMEM;
	if (fstat(from, st) != 0)
		return -errno;
	r = copy_marked(c, from, to, rec->copying, rec->copying_bytes, buffer);
	if (!r && ftruncate(to, st->st_size) != 0)
		r = -errno;
	return r;
}

/* Into an empty file: holes stay holes. What becomes data meanwhile is marked. */
static int copy_data(struct cache *c, int from, int to, uint64_t size, uint8_t *buffer)
{
	uint64_t at = 0;
	int r = 0;

	while (!r && at < size) {
		off_t data = lseek(from, (off_t)at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
		uint64_t end = hole < 0 || (uint64_t)hole > size ? size : (uint64_t)hole;

		if (data < 0 && errno == ENXIO)
			break;
		r = snapshot_copy_range(c, from, to, data < 0 ? at : (uint64_t)data, end, buffer);
		at = end;
	}
	return r;
}

static int copy_passes(struct cache *c, struct record *rec, int from, int to, uint8_t *buffer)
{
	uint64_t left = UINT64_MAX, before;
	struct stat st;
	int r;

	if (fstat(from, &st) != 0)
		return -errno;
	r = copy_data(c, from, to, (uint64_t)st.st_size, buffer);
	for (int pass = 0; !r && pass < PASSES; pass++) {
		before = left;
		r = copy_pass(c, rec, from, to, buffer, &left);
		if (left * BLOCK <= COPY_BYTES || left >= before)
			break;
	}
	return r;
}

static int copy_content(struct cache *c, struct record *rec, int from, int to, struct stat *st,
	uint64_t *generation)
{
	uint8_t *buffer AUTO_FREE = malloc(COPY_BYTES);
	int r = buffer ? 0 : -ENOMEM;

	/* What is kept free is for the applications' changes, not for a second copy of them. */
	if (!r && fstat(from, st) != 0)
		r = -errno;
	if (!r)
		r = content_check_reserve(c, (uint64_t)st->st_blocks * 512);
	if (!r)
		r = copy_passes(c, rec, from, to, buffer);
	mutex_lock(&rec->lock);
	if (!r)
		r = copy_last(c, rec, from, to, buffer, st);
	*generation = atomic_load(&rec->generation);
	free(rec->copying);
	rec->copying = NULL;
	rec->copying_bytes = 0;
	mutex_unlock(&rec->lock);
	return r;
}

/* A reflink is instantaneous; else sets up the map for a copy. 1: cloned, 0: to be copied. */
static int clone_or_mark(
	struct record *rec, int from, int to, struct stat *st, uint64_t *generation)
{
	int r = 0;

	mutex_lock(&rec->lock);
	if (rec->copying) {
		r = -EBUSY; /* somebody else seals this inode just now */
	} else if (ioctl(to, FICLONE, from) == 0 && fstat(from, st) == 0) {
		*generation = atomic_load(&rec->generation);
		r = 1;
	} else {
		rec->copying = calloc(1, 64);
		rec->copying_bytes = 64;
		rec->copying_failed = false;
		if (!rec->copying)
			r = -ENOMEM;
	}
	mutex_unlock(&rec->lock);
	return r;
}

/* All writers come by the record; unseen: its unseen_count when that was so. */
static int take_seen(struct cache *c, struct record *rec, int fd, int to, uint64_t unseen,
	struct content_version *v)
{
	struct stat st;
	int r = clone_or_mark(rec, fd, to, &st, &v->generation);

	if (r == 0)
		r = copy_content(c, rec, fd, to, &st, &v->generation);
	if (r < 0)
		return r;
	v->size = (uint64_t)st.st_size;
	v->mtime_ns = stat_mtime_ns(&st);
	/* What came in the meantime may have written without marking it. */
	return atomic_load(&rec->unseen_count) == unseen ? 0 : -EAGAIN;
}

/* hashed: v has the hash of the generation that it names. */
static int make_snapshot(struct cache *c, struct record *rec, const struct key *key, int fd, int to,
	bool hashed, struct buf *bytes, struct content_version *v)
{
	const uint64_t generation = v->generation, unseen_count = atomic_load(&rec->unseen_count);
	bool unseen = record_is_unseen(rec), whole;
	int r = unseen ? snapshot_unseen(c, rec, key, fd, to, v)
		       : take_seen(c, rec, fd, to, unseen_count, v);

	if (!r && bytes)
		r = read_whole(to, v->size, bytes);
	whole = hashed && !unseen && v->generation == generation;
	if (!r && !whole)
		r = content_hash(c, rec->ino, to, v->size, NULL, 0, false, fd, v->hash, &whole);
	return r || whole ? r : -EIO;
}

static int seal_snapshot(struct cache *c, struct record *rec, const struct key *key, int fd,
	bool hashed, struct buf *bytes, struct content_version *v)
{
	int to AUTO_CLOSE = snapshot_create(c, rec->ino, SNAPSHOT_NEW);
	int r = to < 0 ? to : make_snapshot(c, rec, key, fd, to, hashed, bytes, v);

	if (!r)
		r = snapshot_keep(c, rec->ino, SNAPSHOT_NEW, v->hash);
	if (r && to >= 0 && r != -EBUSY) /* then it is somebody else's */
		snapshot_remove(c, rec->ino, SNAPSHOT_NEW);
	return r;
}

int snapshot_take(struct cache *c, struct record *rec, bool hashed, struct content_version *v)
{
	int fd AUTO_CLOSE = content_file(c, rec->ino, O_RDONLY);
	int to AUTO_CLOSE = fd < 0 ? fd : snapshot_create(c, rec->ino, SNAPSHOT_NEXT);
	struct key key = {0};
	struct conn *conn;
	int r = to < 0 ? to : conn_take(c, &conn);

	if (!r) {
		if (inode_key(conn, rec->ino, &key))
			key.len = 0;
		conn_give(conn);
		r = make_snapshot(c, rec, &key, fd, to, hashed, NULL, v);
	}
	if (r && to >= 0)
		snapshot_remove(c, rec->ino, SNAPSHOT_NEXT);
	return r == -EBUSY ? -EAGAIN : r;
}

/* ---- sealing ---- */

static void hash_read(
	struct cache *c, uint64_t ino, const struct buf *bytes, uint8_t hash[SHA256_SIZE])
{
	struct content_mapper map;

	sha256(bytes->data, bytes->len, hash);
	content_mapper_begin(&map, bytes->len, c->map_min);
	content_mapper_add(&map, bytes->data, bytes->len);
	content_map_keep(c, &map, ino, hash);
}

/* Under the lock nobody writes: small content is read here. *left: it is not, and is to be hashed.
 */
static int seal_small(struct cache *c, struct record *rec, int fd, uint64_t inline_max,
	struct buf *bytes, const struct inode_row *row, struct content_version *v, bool *left)
{
	struct buf own CLEANUP(buf_done) = {0};
	struct buf *into = bytes ? bytes : &own;
	struct stat st;
	int r = 0;

	*left = false;
	mutex_lock(&rec->lock);
	record_load(rec, row);
	record_observe(c, rec);
	v->generation = record_version(rec);
	v->unchanged = row->has_hash && row->sealed == v->generation;
	if (fstat(fd, &st) != 0) {
		r = -errno;
	} else {
		v->size = (uint64_t)st.st_size;
		v->mtime_ns = stat_mtime_ns(&st);
		if (record_is_unseen(rec))
			*left = true;
		else if ((v->size <= inline_max && bytes) ||
			 (v->size <= READ_MAX && atomic_load(&rec->writers) == 0 && !row->has_hash))
			r = read_whole(fd, v->size, into);
		else
			*left = true;
	}
	mutex_unlock(&rec->lock);
	if (v->unchanged)
		memcpy(v->hash, row->hash, SHA256_SIZE);
	else if (!r && !*left)
		hash_read(c, rec->ino, into, v->hash);
	if (v->unchanged)
		*left = false;
	if (bytes && (r || v->size > inline_max))
		buf_clear(bytes);
	return r;
}

/* A file that is sealed for the second time changes, and is likely to change while it is uploaded: only
 * a snapshot lets that upload come to its end. What is written once, like a copied tree, costs none.
 * Where hashing takes longer than a slice nothing is done here in one go: what nobody writes to is hashed first, in
 * slices, and a snapshot is taken in the background. */
static int seal_large(struct cache *c, struct record *rec, const struct key *key, int fd,
	bool rewritten, bool sliced, struct buf *bytes, struct content_version *v)
{
	bool slow = sliced && !bytes && v->size >= (uint64_t)c->hash_slice_ms * HASHED_PER_MS;
	bool whole = false;
	int r = sliced ? snapshot_job_look(c, rec->ino) : 0;

	if (r)
		return r;
	if (atomic_load(&rec->writers) == 0 && (slow || !rewritten)) {
		r = content_hash(c, rec->ino, fd, v->size, rec, v->generation, sliced, fd,
			v->hash, &whole);
		if (r)
			return r;
		/* A writer that opened meanwhile may be about to write, and the upload would start
		 * over. */
		whole = whole && atomic_load(&rec->generation) == v->generation &&
			atomic_load(&rec->writers) == 0;
		if (whole && !rewritten)
			return 0;
	}
	if (record_is_unseen(rec) && snapshot_unseen_later(rec))
		return -EAGAIN;
	if (slow) {
		r = snapshot_job_ask(c, rec, whole, v);
		/* Those that wait may all wait for this one, which is beside them: taken on the spot. */
		if (r != -ENOBUFS)
			return r ? r : -EAGAIN;
	}
	r = seal_snapshot(c, rec, key, fd, whole, bytes, v);
	if (r != -EBUSY || sliced)
		return r;
	snapshot_job_wait(c, rec->ino);
	return seal_snapshot(c, rec, key, fd, whole, bytes, v);
}

static int seal(struct cache *c, struct record *rec, uint64_t inline_max, struct buf *bytes,
	struct content_version *v)
{
	struct inode_row row;
	struct key key = {0};
	struct conn *conn;
	bool large = false, named;
	int fd AUTO_CLOSE = -1;
	int r;

	r = conn_take(c, &conn);
	if (r)
		return r;
	r = inode_get(conn, rec->ino, &row);
	if (!r && record_is_unseen(rec) && inode_key(conn, rec->ino, &key))
		key.len = 0;
	conn_give(conn);
	if (r)
		return r;
	if (row.state != STATE_LOCAL)
		return row.state == STATE_REMOTE ? -EREMOTE : -EINVAL;
	fd = content_file(c, rec->ino, O_RDONLY);
	if (fd == -ENOENT) {
		if (trouble_note(c, rec->ino, TROUBLE_LOST, 0))
			log_error("content of a changed file is missing, nothing of it can be sent"
				  " ino=%llu",
				(unsigned long long)rec->ino);
		return -ENODATA;
	}
	if (fd < 0)
		return fd;
	r = seal_small(c, rec, fd, inline_max, bytes, &row, v, &large);
	if (r || !large)
		return r;
	/* What has no name is not uploaded: it needs no snapshot, and is hashed in one go. */
	named = row.nlink > 0;
	r = seal_large(c, rec, &key, fd, row.has_hash && named, bytes && named,
		v->size <= inline_max ? bytes : NULL, v);
	if (bytes && (r || bytes->len != v->size))
		buf_clear(bytes);
	return r;
}

int content_seal(struct cache *c, uint64_t ino, uint64_t inline_max, struct buf *bytes,
	struct content_version *ret)
{
	struct content_version v = {.ino = ino};
	struct record *rec = record_get(c, ino, false);
	int r;

	if (!rec)
		return -ENOMEM;
	if (bytes)
		buf_clear(bytes);
	r = seal(c, rec, inline_max, bytes, &v);
	if (!r && v.unchanged && atomic_load(&rec->writers) == 0)
		content_drop_snapshots(c, ino, NULL, NULL);
	else if (!r)
		snapshot_drop_older(c, ino, v.hash);
	record_put(c, rec);
	if (r)
		return r;
	trouble_clear(c, ino, TROUBLE_BUSY);
	trouble_clear(c, ino, TROUBLE_FAILED);
	*ret = v;
	return 0;
}

/* The content file is the truth for a dirty inode's mtime, and its row may never have had it. */
static void find_mtime(struct cache *c, struct inode_row *row, const struct content_version *v)
{
	char name[CONTENT_NAME_SIZE];
	struct stat st;

	if (row->generation < v->generation)
		row->mtime_ns = v->mtime_ns;
	content_name(row->ino, name);
	if (row->dirty && fstatat(c->content_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		row->mtime_ns = stat_mtime_ns(&st);
}

void snapshot_sealed(struct cache *c, const struct content_version *v)
{
	content_drop_snapshots(c, v->ino, v->hash, NULL);
	snapshot_job_drop(c, v->ino); /* it is this one, or older */
	content_forget_hash(c, v->ino, v->generation);
}

int content_sealed(struct conn *conn, const struct content_version *v)
{
	struct inode_row row;
	sqlite3_stmt *s;
	bool clean;
	int r = inode_get(conn, v->ino, &row);

	if (r)
		return r == -ENOENT ? -EAGAIN : r;
	conn_sealed(conn, v);
	clean = record_try_clean(
		conn->cache, v->ino, v->generation, row.generation == v->generation);
	if (clean && row.state == STATE_LOCAL)
		conn_account(conn, v->ino, 0, 0, (int64_t)v->size - (int64_t)row.size);
	if (row.state == STATE_LOCAL)
		find_mtime(conn->cache, &row, v);
	s = conn_statement(conn, "UPDATE inode SET hash = ?2, sealed = ?3, dirty = ?4,"
				 " size = iif(?4, size, ?5),"
				 " mtime_ns = ?6, ctime_ns = max(ctime_ns, ?6),"
				 " generation = max(generation, ?3) WHERE ino = ?1");
	bind_int(s, 1, (int64_t)v->ino);
	sqlite3_bind_blob(s, 2, v->hash, SHA256_SIZE, SQLITE_STATIC);
	bind_int(s, 3, (int64_t)v->generation);
	bind_int(s, 4, !clean);
	bind_int(s, 5, (int64_t)v->size);
	bind_int(s, 6, row.mtime_ns);
	return conn_run(conn, s);
}
