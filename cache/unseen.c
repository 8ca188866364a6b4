/*
 * A snapshot of content that somebody may write to without the cache seeing it (record.h).
 *
 * What the file system lets us know: a write(2) changes mtime and ctime before its bytes; a store
 * into a shared mapping does so only when it is the first since the page was last written back.
 * Hence two states:
 *   look     size and times now
 *   steady   a look before which the mapped pages were written back, with nothing changed
 *            meanwhile: from here on every change shows
 * Equal looks around a reading prove that it is of one instant, if the first one is steady.
 *
 * Ways, in this order:
 *   clone    FICLONE keeps write(2) and faults out; nothing to be proved
 *   append   everybody only appends: the bytes before the size of a look do not change. fcntl can
 *            take O_APPEND off unnoticed, so they are read a second time: bytes that are equal in
 *            both readings were the same between them
 *   steady   a copy between two equal looks; given up at the first change
 *   held     a copy of whatever is there; then, while the mount holds writers off, what differs is
 *            copied again. A mapped file is to be steady in there, too
 * When all fail the file stays unsealed for now (TROUBLE_BUSY). A file is held HOLD_SHARE of the
 * time at most.
 *
 * Where stores into mappings never change a time (tmpfs), a copy of a file that may be mapped is
 * read twice, and each of its looks counts as a change after a while (record.c).
 */
#include "cache/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "cache/record.h"
#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/log.h"

#define COPY_BYTES ((size_t)256 << 10)
#define LOOK_EVERY ((uint64_t)4 << 20)
#define TICK_MS 11
#define STEADY_TRIES 4
#define COPY_TRIES 3
#define HOLD_SHARE 20
#define RETRY_MS 1000

struct job {
	struct cache *cache;
	struct record *rec;
	int from, to;
	bool maps;
	bool twice; /* times do not show stores into mappings */
	uint8_t *a, *b;
	struct content_version *v;
	int64_t held_ms;
};

struct look {
	struct content_look look;
	struct stat st;
	uint64_t generation;
};

static int take_look(struct job *j, struct look *ret)
{
	/* The generation first: what is written in between is then found to be a later one. */
	record_observe(j->cache, j->rec);
	ret->generation = atomic_load(&j->rec->generation);
	return record_look(j->cache, j->from, &ret->st, &ret->look);
}

/* 1: nothing was written since. */
static int is_same(struct job *j, const struct look *before)
{
	struct content_look now;
	struct stat st;
	int r = record_look(j->cache, j->from, &st, &now);

	return r ? r : record_look_same(&before->look, &now);
}

static int write_back(struct job *j)
{
	const unsigned all =
		SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;

	return !j->maps || sync_file_range(j->from, 0, 0, all) == 0 ? 0 : -errno;
}

/* -EAGAIN: it never is. */
static int take_steady(struct job *j, struct look *ret)
{
	for (int i = 0; i < STEADY_TRIES; i++) {
		int r = take_look(j, ret);

		if (!r && ret->look.racy) {
			clock_sleep_ms(TICK_MS);
			continue;
		}
		if (!r)
			r = write_back(j);
		if (!r && j->maps)
			r = is_same(j, ret);
		else if (!r)
			r = 1;
		if (r)
			return r < 0 ? r : 0;
	}
	return -EAGAIN;
}

static void note_version(struct job *j, const struct look *l)
{
	j->v->generation = l->generation;
	j->v->size = (uint64_t)l->st.st_size;
	j->v->mtime_ns = stat_mtime_ns(&l->st);
}

/* ---- copying ---- */

/* Copies the first size bytes, holes left out. guard: -EAGAIN as soon as something was written since
 * that look. */
static int copy_once(struct job *j, uint64_t size, const struct look *guard)
{
	uint64_t at = 0, looked = 0;

	if (ftruncate(j->to, 0) != 0)
		return -errno;
	while (at < size) {
		off_t data = lseek(j->from, (off_t)at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(j->from, data, SEEK_HOLE);
		uint64_t end;

		if (data < 0 && errno == ENXIO)
			break;
		at = data < 0 ? at : (uint64_t)data;
		end = hole < 0 || (uint64_t)hole > size ? size : (uint64_t)hole;
		while (at < end) {
			uint64_t next = end - at > LOOK_EVERY ? at + LOOK_EVERY : end;
			int r = snapshot_copy_range(j->cache, j->from, j->to, at, next, j->a);

			if (r)
				return r;
			looked += next - at;
			at = next;
			if (guard && looked >= LOOK_EVERY) {
				r = is_same(j, guard);
				if (r <= 0)
					return r ? r : -EAGAIN;
				looked = 0;
			}
		}
	}
	return ftruncate(j->to, (off_t)size) == 0 ? 0 : -errno;
}

/* What is behind the end is zeros. */
static int read_full(int fd, uint8_t *p, size_t n, uint64_t at)
{
	ssize_t got = io_read_at(fd, p, n, at);

	if (got < 0)
		return (int)got;
	memset(p + got, 0, n - (size_t)got);
	return 0;
}

/* Compares the first size bytes with the copy. 1: equal; 0: not. fix: what differs is copied. */
static int compare(struct job *j, uint64_t size, bool fix)
{
	int r;

	for (uint64_t at = 0; at < size; at += COPY_BYTES) {
		size_t n = size - at < COPY_BYTES ? (size_t)(size - at) : COPY_BYTES;

		r = read_full(j->from, j->a, n, at);
		if (!r)
			r = read_full(j->to, j->b, n, at);
		if (r)
			return r;
		if (memcmp(j->a, j->b, n) == 0)
			continue;
		if (!fix)
			return 0;
		if (pwrite(j->to, j->a, n, (off_t)at) != (ssize_t)n)
			return errno ? -errno : -EIO;
	}
	return 1;
}

/* ---- ways ---- */

/* -EOPNOTSUPP: the file system cannot. */
static int try_clone(struct job *j)
{
	struct look before;
	struct stat st;
	int r = take_look(j, &before);

	if (!r)
		r = write_back(j); /* so that little is left to be done while writers wait */
	if (r)
		return r;
	if (ioctl(j->to, FICLONE, j->from) != 0)
		return -EOPNOTSUPP;
	if (fstat(j->to, &st) != 0)
		return -errno;
	note_version(j, &before);
	j->v->size = (uint64_t)st.st_size;
	return 0;
}

static int try_append(struct job *j)
{
	struct look l;
	int r = take_look(j, &l);

	if (!r)
		r = copy_once(j, (uint64_t)l.st.st_size, NULL);
	if (!r)
		r = compare(j, (uint64_t)l.st.st_size, false);
	if (r <= 0)
		return r ? r : -EAGAIN;
	note_version(j, &l);
	return 0;
}

static int try_steady(struct job *j)
{
	struct look l;
	int r = take_steady(j, &l);

	if (!r)
		r = copy_once(j, (uint64_t)l.st.st_size, &l);
	if (!r && j->twice) {
		r = compare(j, (uint64_t)l.st.st_size, false);
		r = r < 0 ? r : r ? 0 : -EAGAIN;
	}
	if (r)
		return r;
	r = is_same(j, &l);
	if (r <= 0)
		return r ? r : -EAGAIN;
	note_version(j, &l);
	return 0;
}

/* While no write(2), truncate or fallocate can begin. */
static int run_held(void *arg)
{
	struct job *j = arg;
	int64_t start = clock_monotonic_ms();
	struct look l;
	int r = j->maps ? take_steady(j, &l) : take_look(j, &l);

	if (!r) {
		r = compare(j, (uint64_t)l.st.st_size, true);
		r = r < 0 ? r : 0;
	}
	if (!r && j->twice) {
		r = compare(j, (uint64_t)l.st.st_size, false);
		r = r < 0 ? r : r ? 0 : -EAGAIN;
	}
	if (!r && ftruncate(j->to, l.st.st_size) != 0)
		r = -errno;
	if (!r) {
		/* A look that is not steady cannot prove more than that nothing big is wrong. */
		l.look.racy = false;
		r = is_same(j, &l);
		r = r < 0 ? r : r ? 0 : -EAGAIN;
	}
	if (!r)
		note_version(j, &l);
	j->held_ms = clock_monotonic_ms() - start;
	return r;
}

static int try_held(struct job *j, const struct key *key)
{
	struct look l;
	int r = take_look(j, &l);

	if (!key->len)
		return -EAGAIN;
	if (!r)
		r = copy_once(j, (uint64_t)l.st.st_size, NULL);
	if (!r)
		r = write_back(j);
	if (!r)
		r = cache_hold(j->cache, j->rec->ino, key_slice(key), run_held, j);
	if (!r)
		log_debug("file held ino=%llu ms=%lld", (unsigned long long)j->rec->ino,
			(long long)j->held_ms);
	return r == -EOPNOTSUPP ? -EAGAIN : r;
}

static int try_all(struct job *j, const struct key *key)
{
	bool appends = !(atomic_load(&j->rec->unseen_flags) & (UNSEEN_OTHER | UNSEEN_MAPS));
	struct stat st;
	int r = try_clone(j);

	if (r != -EOPNOTSUPP)
		return r;
	/* What is kept free is for the applications' changes, not for a second copy of them. */
	r = fstat(j->from, &st) == 0 ? 0 : -errno;
	if (!r)
		r = content_check_reserve(j->cache, (uint64_t)st.st_blocks * 512);
	if (r)
		return r;
	r = appends ? try_append(j) : try_steady(j);
	if (r == -EAGAIN)
		r = try_held(j, key);
	for (int i = 1; r == -EAGAIN && i < COPY_TRIES; i++) {
		clock_sleep_ms(TICK_MS);
		r = try_steady(j);
	}
	return r;
}

bool snapshot_unseen_later(struct record *rec)
{
	return clock_monotonic_ms() < atomic_load(&rec->next_try_ms);
}

int snapshot_unseen(struct cache *c, struct record *rec, const struct key *key, int from, int to,
	struct content_version *v)
{
	bool maps = atomic_load(&rec->unseen_flags) & UNSEEN_MAPS;
	struct job j = {.cache = c,
		.rec = rec,
		.from = from,
		.to = to,
		.maps = maps && c->stores_show,
		.twice = maps && !c->stores_show,
		.a = malloc(COPY_BYTES),
		.b = malloc(COPY_BYTES),
		.v = v};
	int64_t start = clock_monotonic_ms(), wait;
	int r = j.a && j.b ? try_all(&j, key) : -ENOMEM;

	free(j.a);
	free(j.b);
	wait = j.held_ms * HOLD_SHARE;
	if (r == -EAGAIN && wait < 2 * (clock_monotonic_ms() - start) + RETRY_MS)
		wait = 2 * (clock_monotonic_ms() - start) + RETRY_MS;
	atomic_store(&rec->next_try_ms, wait ? clock_monotonic_ms() + wait : 0);
	if (r == -EAGAIN)
		trouble_note(c, rec->ino, TROUBLE_BUSY, 0);
	return r;
}
