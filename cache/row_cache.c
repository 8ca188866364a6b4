/*
 * The kernel asks for a directory's attributes after each change of its names, and a change looks at
 * the same few rows several times: as statements they cost as much as the change.
 *
 * Two tables with one place for each remainder of the key; what comes later takes the place. A slot is
 * valid when it has the table's epoch, so that to clear is to begin another one. SQLite's hooks keep
 * inodes true, whoever changes them (db.c); names change in inode_change.c only.
 */
#include "cache/row_cache.h"

#include "cache/internal.h"

#define INODES 8192
#define NAMES 8192
#define NAME_KEPT 39

struct inode_slot {
	uint64_t epoch; /* 0: never used */
	struct inode_row row;
};

struct name_slot {
	uint64_t epoch;
	uint64_t parent;
	uint64_t ino;
	uint8_t len;
	char name[NAME_KEPT];
};

struct row_cache {
	uint64_t epoch;
	struct inode_slot inode[INODES];
	struct name_slot name[NAMES];
};

struct row_cache *row_cache_new(void)
{
	struct row_cache *r = calloc(1, sizeof(*r));

	if (r)
		r->epoch = 1;
	return r;
}

void row_cache_free(struct row_cache *r)
{
	free(r);
}

void row_cache_clear(struct row_cache *r)
{
	r->epoch++;
}

bool row_cache_inode(const struct row_cache *r, uint64_t ino, struct inode_row *ret)
{
	const struct inode_slot *slot = &r->inode[ino % INODES];

	if (slot->epoch != r->epoch || slot->row.ino != ino)
		return false;
	*ret = slot->row;
	return true;
}

void row_cache_put_inode(struct row_cache *r, const struct inode_row *row)
{
	struct inode_slot *slot = &r->inode[row->ino % INODES];

	slot->row = *row;
	slot->epoch = r->epoch;
}

void row_cache_drop_inode(struct row_cache *r, uint64_t ino)
{
	struct inode_slot *slot = &r->inode[ino % INODES];

	if (slot->row.ino == ino)
		slot->epoch = 0;
}

static size_t name_index(uint64_t parent, int64_t place)
{
	return (size_t)(((uint64_t)place ^ parent * UINT64_C(0x9e3779b97f4a7c15)) >> 40) % NAMES;
}

bool row_cache_name(
	const struct row_cache *r, uint64_t parent, int64_t place, struct slice name, uint64_t *ret)
{
	const struct name_slot *slot = &r->name[name_index(parent, place)];

	if (slot->epoch != r->epoch || slot->parent != parent ||
		!slice_equal((struct slice){slot->name, slot->len}, name))
		return false;
	*ret = slot->ino;
	return true;
}

void row_cache_put_name(
	struct row_cache *r, uint64_t parent, int64_t place, struct slice name, uint64_t ino)
{
	struct name_slot *slot = &r->name[name_index(parent, place)];

	if (name.len > NAME_KEPT)
		return;
	slot->epoch = r->epoch;
	slot->parent = parent;
	slot->ino = ino;
	slot->len = (uint8_t)name.len;
	memcpy(slot->name, name.p, name.len);
}
