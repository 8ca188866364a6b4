/*
 * Extended attributes: user.*, security.* and trusted.* are stored (the kernel has checked who may
 * set them); POSIX ACLs are not supported, and saying so keeps chmod honest: where they are, cp and
 * sed set modes through them.
 *
 * Before every write(2) the kernel asks for security.capability. Inodes that have none are
 * remembered in a small table, so that the answer costs no database work. An answer that was read
 * before a change must not enter the table after it: hence the generation, which every change
 * raises.
 */
#include "fs/internal.h"

#include <string.h>
#include <sys/types.h>

#define CAPABILITY "security.capability"
#define VALUE_MAX (64 * 1024)
#define LIST_MAX (128 * 1024)

static bool supported(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strncmp(name, "security.", 9) == 0 ||
	       strncmp(name, "trusted.", 8) == 0;
}

static bool hint_known_absent(struct fs *fs, uint64_t ino, uint64_t *generation)
{
	bool known;

	mutex_lock(&fs->hint_lock);
	known = fs->no_capability[ino % NO_CAPABILITY_SLOTS] == ino;
	*generation = fs->hint_generation;
	mutex_unlock(&fs->hint_lock);
	return known;
}

uint64_t hint_begin(struct fs *fs)
{
	uint64_t generation;

	mutex_lock(&fs->hint_lock);
	generation = fs->hint_generation;
	mutex_unlock(&fs->hint_lock);
	return generation;
}

void hint_remember(struct fs *fs, uint64_t ino, uint64_t generation)
{
	mutex_lock(&fs->hint_lock);
	if (fs->hint_generation == generation)
		fs->no_capability[ino % NO_CAPABILITY_SLOTS] = ino;
	mutex_unlock(&fs->hint_lock);
}

void hint_forget(struct fs *fs, uint64_t ino)
{
	uint64_t *slot = &fs->no_capability[ino % NO_CAPABILITY_SLOTS];

	mutex_lock(&fs->hint_lock);
	fs->hint_generation++;
	if (*slot == ino)
		*slot = 0;
	mutex_unlock(&fs->hint_lock);
}

static void get_value(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	size_t room = size < VALUE_MAX ? size : VALUE_MAX;
	void *p = room ? scratch(room) : NULL;
	ssize_t n;

	if (room && !p) {
		reply(req, -ENOMEM);
		return;
	}
	n = tree_getxattr(fs_of(req)->cache, ino, name, p, room);
	if (n < 0)
		reply_inode(req, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, p, (size_t)n);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct fs *fs = fs_of(req);
	uint64_t generation;
	ssize_t n;

	if (!supported(name)) {
		reply(req, -EOPNOTSUPP);
		return;
	}
	if (strcmp(name, CAPABILITY) != 0) {
		get_value(req, ino, name, size);
		return;
	}
	if (hint_known_absent(fs, ino, &generation)) {
		reply(req, -ENODATA);
		return;
	}
	n = tree_getxattr(fs->cache, ino, name, NULL, 0);
	if (n == -ENODATA) {
		hint_remember(fs, ino, generation);
		reply(req, -ENODATA);
		return;
	}
	get_value(req, ino, name, size);
}

/* trusted.* is for administrators only, its names too. Returns the new length. */
static size_t drop_trusted(char *list, size_t n)
{
	size_t out = 0;

	for (size_t at = 0; at < n;) {
		size_t len = strnlen(list + at, n - at) + 1;

		if (len > n - at)
			break;
		if (strncmp(list + at, "trusted.", 8) != 0) {
			memmove(list + out, list + at, len);
			out += len;
		}
		at += len;
	}
	return out;
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct cache *c = fs_of(req)->cache;
	ssize_t n = tree_listxattr(c, ino, NULL, 0);
	char *p;

	if (n > LIST_MAX)
		n = -E2BIG;
	if (n <= 0) {
		if (n < 0)
			reply_inode(req, (int)n);
		else if (size == 0)
			fuse_reply_xattr(req, 0);
		else
			fuse_reply_buf(req, NULL, 0);
		return;
	}
	p = scratch(LIST_MAX);
	n = p ? tree_listxattr(c, ino, p, LIST_MAX) : -ENOMEM;
	if (n > 0 && fuse_req_ctx(req)->uid != 0)
		n = (ssize_t)drop_trusted(p, (size_t)n);
	if (n < 0)
		reply_inode(req, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else if ((size_t)n > size)
		reply(req, -ERANGE);
	else
		fuse_reply_buf(req, p, (size_t)n);
}

void op_setxattr(
	fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct fs *fs = fs_of(req);
	int r = -EOPNOTSUPP;

	if (supported(name)) {
		r = tree_setxattr(fs->cache, ino, name, value, size, flags);
		hint_forget(fs, ino);
	}
	reply_inode(req, r);
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct fs *fs = fs_of(req);
	int r = -EOPNOTSUPP;

	if (supported(name)) {
		r = tree_removexattr(fs->cache, ino, name);
		hint_forget(fs, ino);
	}
	reply_inode(req, r);
}
