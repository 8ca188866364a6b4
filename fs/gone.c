/*
 * Directories and special files that were removed while somebody is in them or has them open: their
 * attributes can still be asked for and set, as on any file system, though the tree knows nothing of
 * them any more: the kernel opens them without asking. The last GONE_SLOTS are remembered; who asks
 * for an older one gets ESTALE.
 */
#include "fs/internal.h"

#include "src/base/clock.h"

static _Atomic bool special;

void gone_told(const struct inode *inode)
{
	if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode) && !S_ISLNK(inode->mode))
		atomic_store(&special, true);
}

bool gone_has_special(void)
{
	return atomic_load(&special);
}

void gone_init(struct gone *g)
{
	mutex_init(&g->lock, LOCK_RANK_LEAF);
}

void gone_done(struct gone *g)
{
	mutex_done(&g->lock);
}

bool gone_look(struct fs *fs, uint64_t parent, const char *name, struct inode *ret)
{
	if (tree_lookup(fs->cache, parent, slice_of(name), ret) != 0)
		return false;
	return S_ISDIR(ret->mode) ||
	       (!S_ISREG(ret->mode) && !S_ISLNK(ret->mode) && ret->nlink == 1);
}

void gone_note(struct fs *fs, const struct inode *inode)
{
	struct gone *g = &fs->gone;
	struct inode *slot;

	mutex_lock(&g->lock);
	slot = &g->slot[g->next++ % GONE_SLOTS];
	*slot = *inode;
	slot->nlink = 0;
	slot->ctime_ns = clock_realtime_ns();
	mutex_unlock(&g->lock);
}

static void set(struct inode *inode, unsigned mask, const struct inode *v)
{
	if (mask & SET_MODE)
		inode->mode = (inode->mode & S_IFMT) | (v->mode & 07777);
	if (mask & SET_UID)
		inode->uid = v->uid;
	if (mask & SET_GID)
		inode->gid = v->gid;
	if (mask & SET_ATIME)
		inode->atime_ns = v->atime_ns;
	if (mask & SET_MTIME)
		inode->mtime_ns = v->mtime_ns;
	inode->ctime_ns = clock_realtime_ns();
}

int gone_attr(struct fs *fs, uint64_t ino, unsigned mask, const struct inode *v, struct inode *ret)
{
	struct gone *g = &fs->gone;
	int r = -ENOENT;

	mutex_lock(&g->lock);
	for (unsigned i = 0; r && i < GONE_SLOTS; i++) {
		if (g->slot[i].ino != ino)
			continue;
		if (mask)
			set(&g->slot[i], mask, v);
		*ret = g->slot[i];
		r = 0;
	}
	mutex_unlock(&g->lock);
	return r;
}
