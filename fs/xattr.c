/*
 * Extended attributes: user.*, security.* and trusted.* are stored (the kernel has checked who may
 * set them), and POSIX ACLs, by which the kernel checks access.
 *
 * Programs ask for attributes that hardly any file has: before every write(2) the kernel wants
 * security.capability, `ls -l` wants it and more of each file. The kernel remembers the absence of
 * ACLs itself. For others it asks, and the cache answers from memory for inodes that have no
 * attributes at all. Where "not supported" is true as well, it is answered instead of "not there":
 * coreutils then stop asking for the whole file system. security.selinux is not supported as long as
 * nobody stored one, security.capability not in a volume that never had an attribute of that kind.
 */
#include "fs/internal.h"

#include <string.h>
#include <sys/types.h>

#include "cache/acl.h"
#include "cache/durability.h"

#define CAPABILITY "security.capability"
#define SELINUX "security.selinux"
#define VALUE_MAX (64 * 1024)
#define LIST_MAX (128 * 1024)

static bool is_acl(const char *name)
{
	return acl_is_name(slice_of(name));
}

static bool supported(const struct fs *fs, const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strncmp(name, "security.", 9) == 0 ||
	       strncmp(name, "trusted.", 8) == 0 || (fs->acl && is_acl(name));
}

static int absent(struct fs *fs, const char *name)
{
	if (strcmp(name, SELINUX) == 0 ||
		(strcmp(name, CAPABILITY) == 0 && !tree_has_security_xattrs(fs->cache)))
		return -EOPNOTSUPP;
	return -ENODATA;
}

/* Made when it is asked for; neither listed, or programs that copy attributes would copy it, nor stored. */
static bool is_made(const char *name)
{
	return strcmp(name, DURABILITY_XATTR) == 0;
}

static void get_made(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct buf text CLEANUP(buf_done) = {.max = DURABILITY_TEXT_MAX};
	int r = durability_text(fs_of(req)->cache, ino, &text);

	if (!r && text.failed)
		r = -ENOMEM;
	if (r)
		reply_inode(req, r);
	else if (size == 0)
		fuse_reply_xattr(req, text.len);
	else if (text.len > size)
		reply(req, -ERANGE);
	else
		fuse_reply_buf(req, (const char *)text.data, text.len);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct fs *fs = fs_of(req);
	size_t room = size < VALUE_MAX ? size : VALUE_MAX;
	void *p = NULL;
	ssize_t n;

	if (is_made(name)) {
		get_made(req, ino, size);
		return;
	}
	if (!supported(fs, name)) {
		reply(req, -EOPNOTSUPP);
		return;
	}
	if (!tree_may_have_xattrs(fs->cache, ino)) {
		reply(req, absent(fs, name));
		return;
	}
	if (room && !(p = scratch(room))) {
		reply(req, -ENOMEM);
		return;
	}
	n = tree_getxattr(fs->cache, ino, name, p, room);
	if (n == -ENODATA)
		n = absent(fs, name);
	if (n < 0)
		reply_inode(req, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(
			req, p, is_acl(name) ? ids_map_acl(fs, p, (size_t)n, true) : (size_t)n);
}

/* trusted.* is for administrators only, its names too; ACLs that this mount does not offer are not
 * listed. Returns the new length. */
static size_t drop_hidden(fuse_req_t req, char *list, size_t n)
{
	bool root = fuse_req_ctx(req)->uid == 0;
	const struct fs *fs = fs_of(req);
	size_t out = 0;

	for (size_t at = 0; at < n;) {
		const char *name = list + at;
		size_t len = strnlen(name, n - at) + 1;

		if (len > n - at)
			break;
		if (supported(fs, name) && (root || strncmp(name, "trusted.", 8) != 0)) {
			memmove(list + out, name, len);
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
	if (n > 0)
		n = (ssize_t)drop_hidden(req, p, (size_t)n);
	if (n < 0)
		reply_inode(req, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else if ((size_t)n > size)
		reply(req, -ERANGE);
	else
		fuse_reply_buf(req, p, (size_t)n);
}

/* value NULL: removes it. */
static int set_acl(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size)
{
	struct fs *fs = fs_of(req);
	char mapped[ACL_BYTES_MAX];
	struct inode inode;
	bool kill_sgid;
	int r;

	if (size > sizeof(mapped))
		return -E2BIG;
	r = tree_getattr(fs->cache, ino, &inode);
	if (r)
		return r;
	/* The kernel tells only with FUSE_SETXATTR_EXT, of which libfuse hands nothing on. */
	kill_sgid = value && inode.mode & S_ISGID && !ids_in_group(req, inode.gid);
	if (value) {
		memcpy(mapped, value, size);
		size = ids_map_acl(fs, mapped, size, false);
	}
	return tree_set_acl(fs->cache, ino, name, value ? mapped : NULL, size, kill_sgid);
}

void op_setxattr(
	fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct fs *fs = fs_of(req);
	int r = -EOPNOTSUPP;

	if (hold_setxattr(req, ino, name, value, size))
		return;
	if (is_made(name))
		r = -EPERM;
	else if (supported(fs, name) && !strchr(name, '.')[1])
		r = -EINVAL;
	else if (supported(fs, name))
		r = is_acl(name) ? set_acl(req, ino, name, value, size)
				 : tree_setxattr(fs->cache, ino, name, value, size, flags);
	reply_inode(req, attr_synced(fs, ino, r));
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct fs *fs = fs_of(req);
	int r = -EOPNOTSUPP;

	if (is_made(name))
		r = -EPERM;
	else if (supported(fs, name))
		r = is_acl(name) ? set_acl(req, ino, name, NULL, 0)
				 : tree_removexattr(fs->cache, ino, name);
	reply_inode(req, attr_synced(fs, ino, r));
}
