/*
 * Listings. The offset of an entry is the place of its name (tree.h), which depends on nothing else:
 * any handle can resume at an offset that any other was given, also from a listing that the kernel
 * kept, and what is made or removed meanwhile neither hides nor doubles another name. So an open
 * directory has no state here, and the kernel need not tell of it: it then keeps whole listings
 * (fs/fuse/dir.c, FOPEN_CACHE_DIR) as it would be asked to. It drops one by itself when a name is
 * made or removed here; the notifier drops it for changes from elsewhere, in an order that also
 * catches listings on their way (notify.c).
 *
 * Names with the same place are delivered in one buffer or in none.
 */
#include "fs/internal.h"

#include <string.h>

#define OFFSET_DOT 1
#define OFFSET_DOTS 2 /* places are greater */

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (fs_of(req)->no_opendir) {
		fuse_reply_err(req, ENOSYS); /* and the kernel asks no more */
		return;
	}
	fi->cache_readdir = 1;
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

/* One buffer being filled. */
struct listing {
	fuse_req_t req;
	bool plus;
	char *p;
	size_t used, size;
	int64_t place; /* of the last entry */
	size_t before; /* what was used when the first entry of that place came */
};

/* False when it does not fit. ino 0 in e: the kernel takes no reference, as for "." and "..". */
static bool listing_put(
	struct listing *l, const char *name, const struct fuse_entry_param *e, int64_t offset)
{
	size_t left = l->size - l->used;
	size_t n;

	if (l->plus)
		n = fuse_add_direntry_plus(l->req, l->p + l->used, left, name, e, offset);
	else
		n = fuse_add_direntry(l->req, l->p + l->used, left, name, &e->attr, offset);
	if (n > left)
		return false;
	l->used += n;
	return true;
}

static int put_name(void *ctx, struct slice name, int64_t place, const struct inode *inode)
{
	struct listing *l = ctx;
	struct fuse_entry_param e;
	char text[NAME_MAX_BYTES + 1];
	bool same = place == l->place;

	if (name.len > NAME_MAX_BYTES)
		return 1;
	memcpy(text, name.p, name.len);
	text[name.len] = '\0';
	entry_fill(fs_of(l->req), inode, &e);
	if (!same)
		l->before = l->used;
	l->place = place;
	if (listing_put(l, text, &e, place))
		return 0;
	/* References that the kernel would take for what is cut off need no undoing: the cache
	 * keeps no counts. */
	if (same)
		l->used = l->before;
	return 1;
}

/* "." and ".." as far as offset asks for them. False when the buffer is full. */
static bool put_dots(struct listing *l, struct cache *c, fuse_ino_t ino, int64_t offset)
{
	struct fuse_entry_param e = {0};
	uint64_t parent;

	e.attr.st_mode = S_IFDIR;
	e.attr.st_ino = ino;
	if (offset < OFFSET_DOT && !listing_put(l, ".", &e, OFFSET_DOT))
		return false;
	if (offset < OFFSET_DOTS) {
		if (tree_parent(c, ino, &parent) == 0)
			e.attr.st_ino = parent;
		return listing_put(l, "..", &e, OFFSET_DOTS);
	}
	return true;
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct listing l = {.req = req, .plus = plus};
	struct cache *c = fs_of(req)->cache;
	/* The least that one entry takes, so that the cache reads few names in vain. */
	size_t least = plus ? 160 : 32;
	int r = 0;

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
	if (off == 0 && !fs_of(req)->nodiratime)
		accessed(fs_of(req), ino, 0);
	if (put_dots(&l, c, ino, off))
		r = tree_readdir(c, ino, off, (unsigned)(l.size / least + 1), put_name, &l);
	if (r && l.used == 0)
		reply_inode(req, r);
	else
		fuse_reply_buf(req, l.p, l.used);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, false);
}

void op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, true);
}
