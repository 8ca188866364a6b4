/*
 * A table with one place for each remainder of the inode number. `walked` has a bit for each inode
 * on whose name a key here may depend; when one of them moves, all keys are forgotten. Two inodes
 * can share a bit: then they are forgotten for nothing.
 */
#include "cache/dir_key.h"

#include <stdlib.h>

#define PLACES 64
#define BITS 4096

struct dir_keys {
	bool any;
	uint64_t walked[BITS / 64];
	struct {
		uint64_t ino; /* 0: empty */
		struct key key;
	} place[PLACES];
};

struct dir_keys *dir_keys_new(void)
{
	return calloc(1, sizeof(struct dir_keys));
}

void dir_keys_free(struct dir_keys *d)
{
	free(d);
}

bool dir_keys_find(const struct dir_keys *d, uint64_t ino, struct slice *ret)
{
	if (d->place[ino % PLACES].ino != ino)
		return false;
	*ret = key_slice(&d->place[ino % PLACES].key);
	return true;
}

static void mark(struct dir_keys *d, uint64_t ino)
{
	d->walked[ino % BITS / 64] |= UINT64_C(1) << (ino % 64);
}

void dir_keys_put(
	struct dir_keys *d, uint64_t ino, struct slice key, const uint64_t *above, unsigned count)
{
	if (!key_set(&d->place[ino % PLACES].key, key))
		return;
	d->place[ino % PLACES].ino = ino;
	d->any = true;
	mark(d, ino);
	for (unsigned i = 0; i < count; i++)
		mark(d, above[i]);
}

void dir_keys_moved(struct dir_keys *d, uint64_t ino)
{
	if (d->walked[ino % BITS / 64] >> (ino % 64) & 1)
		dir_keys_clear(d);
}

void dir_keys_clear(struct dir_keys *d)
{
	if (!d->any)
		return;
	d->any = false;
	memset(d->walked, 0, sizeof(d->walked));
	for (unsigned i = 0; i < PLACES; i++)
		d->place[i].ino = 0;
}
