/*
 * Listings. Names come in byte order from the cache and are resumed after the last one that the
 * kernel took, so what is made or removed meanwhile neither hides nor doubles another name.
 *
 * The kernel keeps whole listings (FOPEN_CACHE_DIR, and FOPEN_KEEP_CACHE so that the next opendir
 * does not drop them). It drops one by itself when a name is made or removed here; the notifier
 * drops it for changes from elsewhere, in an order that also catches listings on their way
 * (notify.c).
 */
#include "fs/internal.h"

#include <string.h>

#include "fs/dirmap.h"

#define SKIP_BATCH 1024

struct dir {
	struct mutex lock; /* guards map; rank FS, fs->lock is never held with it */
	struct dirmap map;
	struct dir *prev, *next; /* guarded by fs->lock */
};

static struct dir *dir_of(const struct fuse_file_info *fi)
{
	return (struct dir *)(uintptr_t)fi->fh;
}

static void dir_free(struct fs *fs, struct dir *d)
{
	mutex_lock(&fs->lock);
	if (d->prev)
		d->prev->next = d->next;
	else
		fs->dirs = d->next;
	if (d->next)
		d->next->prev = d->prev;
	mutex_unlock(&fs->lock);
	dirmap_done(&d->map);
	mutex_done(&d->lock);
	free(d);
}

void dirs_release(struct fs *fs)
{
	while (fs->dirs)
		dir_free(fs, fs->dirs);
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct dir *d = calloc(1, sizeof(*d));

	if (!d) {
		reply(req, -ENOMEM);
		return;
	}
	mutex_init(&d->lock, LOCK_RANK_FS);
	dirmap_init(&d->map);
	mutex_lock(&fs->lock);
	d->next = fs->dirs;
	if (d->next)
		d->next->prev = d;
	fs->dirs = d;
	mutex_unlock(&fs->lock);
	fi->fh = (uintptr_t)d;
	fi->cache_readdir = 1;
	fi->keep_cache = 1;
	if (fuse_reply_open(req, fi) == -ENOENT)
		dir_free(fs, d);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	dir_free(fs_of(req), dir_of(fi));
	reply(req, 0);
}

/* One buffer being filled. */
struct listing {
	fuse_req_t req;
	struct dirmap *map;
	bool plus;
	char *p;
	size_t used, size;
	int error;
};

/* False when it does not fit. ino 0 in e: the kernel takes no reference, as for "." and "..". */
static bool listing_put(
	struct listing *l, const char *name, const struct fuse_entry_param *e, uint64_t offset)
{
	size_t left = l->size - l->used;
	size_t n;

	if (l->plus)
		n = fuse_add_direntry_plus(l->req, l->p + l->used, left, name, e, (off_t)offset);
	else
		n = fuse_add_direntry(l->req, l->p + l->used, left, name, &e->attr, (off_t)offset);
	if (n > left)
		return false;
	l->used += n;
	return true;
}

static int put_name(void *ctx, struct slice name, const struct inode *inode)
{
	struct listing *l = ctx;
	struct fuse_entry_param e;
	char text[NAME_MAX_BYTES + 1];
	size_t before = l->used;

	if (name.len > NAME_MAX_BYTES) {
		l->error = -EIO;
		return 1;
	}
	memcpy(text, name.p, name.len);
	text[name.len] = '\0';
	entry_fill(fs_of(l->req), inode, &e);
	/* The map may only hold names that were delivered. */
	if (!listing_put(l, text, &e, dirmap_next(l->map)))
		return 1;
	l->error = dirmap_add(l->map, name);
	if (l->error) {
		l->used = before;
		return 1;
	}
	return 0;
}

struct skipping {
	char name[NAME_MAX_BYTES];
	size_t len;
	uint64_t count;
};

static int skip_name(void *ctx, struct slice name, const struct inode *inode)
{
	struct skipping *s = ctx;

	memcpy(s->name, name.p, name.len);
	s->len = name.len;
	s->count++;
	return 0;
}

/* The name after which offset resumes, copied to s. */
static int resume_point(struct cache *c, fuse_ino_t ino, const struct dirmap *map, uint64_t offset,
	struct skipping *s)
{
	uint64_t skip;
	struct slice after = dirmap_find(map, offset, &skip);

	memcpy(s->name, after.p, after.len);
	s->len = after.len;
	while (skip > 0) {
		char from[NAME_MAX_BYTES];
		size_t from_len = s->len;
		unsigned limit = skip < SKIP_BATCH ? (unsigned)skip : SKIP_BATCH;
		int r;

		memcpy(from, s->name, from_len);
		s->count = 0;
		r = tree_readdir(c, ino, (struct slice){from, from_len}, limit, skip_name, s);
		if (r < 0)
			return r;
		if (s->count == 0)
			break;
		skip -= s->count;
	}
	return 0;
}

/* "." and ".." as far as offset asks for them. False when the buffer is full. */
static bool put_dots(struct listing *l, struct cache *c, fuse_ino_t ino, uint64_t offset)
{
	struct fuse_entry_param e = {0};
	uint64_t parent;

	e.attr.st_mode = S_IFDIR;
	e.attr.st_ino = ino;
	if (offset < 1 && !listing_put(l, ".", &e, 1))
		return false;
	if (offset < DIRMAP_FIRST) {
		if (tree_parent(c, ino, &parent) == 0)
			e.attr.st_ino = parent;
		return listing_put(l, "..", &e, DIRMAP_FIRST);
	}
	return true;
}

static int list(struct listing *l, struct cache *c, fuse_ino_t ino, uint64_t offset)
{
	struct skipping from;
	/* The least that one entry takes, so that the cache reads few names in vain. */
	size_t least = l->plus ? 160 : 32;
	int r;

	if (!put_dots(l, c, ino, offset))
		return 0;
	r = resume_point(c, ino, l->map, offset, &from);
	if (r)
		return r;
	dirmap_begin(l->map, offset);
	r = tree_readdir(c, ino, (struct slice){from.name, from.len},
		(unsigned)(l->size / least + 1), put_name, l);
	return r < 0 ? r : l->error;
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi, bool plus)
{
	struct dir *d = dir_of(fi);
	struct listing l = {.req = req, .map = &d->map, .plus = plus};
	int r;

	if (off < 0) {
		reply(req, -EINVAL);
		return;
	}
	l.size = size < REQUEST_MAX ? size : REQUEST_MAX;
	l.p = scratch(l.size);
	if (!l.p) {
		reply(req, -ENOMEM);
		return;
	}
	if (off == 0)
		accessed(fs_of(req), ino, 0);
	mutex_lock(&d->lock);
	r = list(&l, fs_of(req)->cache, ino, (uint64_t)off);
	mutex_unlock(&d->lock);
	/* References that the kernel would take for entries already in the buffer need no undoing:
	 * the cache keeps no counts. */
	if (r && l.used == 0)
		reply(req, r);
	else
		fuse_reply_buf(req, l.p, l.used);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fi, false);
}

void op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fi, true);
}
