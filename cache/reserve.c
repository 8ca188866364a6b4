/*
 * The reserve of the disk: what is kept for the database, so that what was acknowledged can still be
 * sealed, sent and struck off when applications, or others, have filled the disk.
 *
 * Half of it is merely left free by writes that ask (content_check_reserve). Nobody else asks, so the
 * other half is allocated, in the file "reserve" of the state directory. Each failure of the database
 * for lack of space gives an eighth of that up; whoever failed tries again sooner or later. Writes
 * that ask leave free what was given up, too. It is allocated again when there is room.
 *
 * A start on a full disk gives all of it up first: recovery is one transaction.
 *
 * No lock: whoever comes at the same time gives up the same eighth, or one more.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cache/internal.h"

enum { STEPS = 8 };

static uint64_t wanted(const struct cache *c)
{
	return c->reserve_bytes / 2;
}

static uint64_t available(struct cache *c)
{
	struct statvfs v;

	return fstatvfs(c->content_fd, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : 0;
}

static uint64_t allocated(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void shrink(struct cache *c, uint64_t to)
{
	if (ftruncate(c->reserve_fd, (off_t)to) == 0)
		atomic_store(&c->reserve_held, to ? allocated(c->reserve_fd) : 0);
}

void reserve_open(struct cache *c)
{
	c->reserve_fd = openat(c->dir_fd, "reserve", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (c->reserve_fd < 0)
		return;
	atomic_store(&c->reserve_held, allocated(c->reserve_fd));
	if (available(c) < wanted(c))
		shrink(c, 0);
}

bool reserve_give(struct cache *c)
{
	uint64_t held = atomic_load(&c->reserve_held), step = wanted(c) / STEPS;

	if (!held)
		return false;
	shrink(c, held > step ? held - step : 0);
	return atomic_load(&c->reserve_held) < held;
}

void cache_refill_reserve(struct cache *c)
{
	uint64_t held = atomic_load(&c->reserve_held);

	if (c->reserve_fd < 0 || held >= wanted(c) || available(c) < 2 * wanted(c) - held)
		return;
	if (fallocate(c->reserve_fd, 0, 0, (off_t)wanted(c)) == 0)
		atomic_store(&c->reserve_held, allocated(c->reserve_fd));
	else
		shrink(c, held); /* it may have got some of it */
}

uint64_t reserve_free(const struct cache *c)
{
	uint64_t held = atomic_load(&c->reserve_held);

	return c->reserve_bytes > held ? c->reserve_bytes - held : 0;
}
