/*
 * The local tree: inodes, names, attributes. Each change commits on its own, together with its
 * journal row, before it returns; it then survives kill -9 of the daemon.
 *
 * Permissions are the kernel's business (default_permissions); these functions check existence and
 * kinds only. `.meridian` in the root is reserved: -EPERM for making it, -ENOENT for looking it up.
 */
#ifndef CACHE_TREE_H
#define CACHE_TREE_H

#include "cache/cache.h"

struct inode {
	uint64_t ino;
	uint32_t mode; /* type and permission bits, as in st_mode */
	uint32_t uid;
	uint32_t gid;
	uint32_t nlink; /* directories: 2 */
	uint32_t rdev;	/* device nodes: as the kernel encodes it */
	uint64_t size;
	int64_t atime_ns; /* since 1970, may be negative */
	int64_t mtime_ns;
	int64_t ctime_ns;
};

/* -ENOENT, -ENOTDIR, -ENAMETOOLONG. For a regular file that is open here, size and mtime are the
 * content file's. parent may be any inode number the kernel sends; an unknown one is -ENOENT. */
int tree_lookup(struct cache *c, uint64_t parent, struct slice name, struct inode *ret) MUST_CHECK;
int tree_getattr(struct cache *c, uint64_t ino, struct inode *ret) MUST_CHECK;

/* In the mode of something new: the caller's umask. It applies unless the parent has a default ACL,
 * which is inherited as on Linux. */
#define CREATE_UMASK(umask) (((uint32_t)(umask) & 0777) << 16)

/* Makes a regular file, directory or symlink (type from mode; target for symlinks only, 1 to
 * 4,095 bytes). setgid of the parent is inherited as on Linux. -EEXIST, -ENAMETOOLONG (also when
 * the path would exceed KEY_MAX), -ENOSPC. */
int tree_create(struct cache *c, uint64_t parent, struct slice name, uint32_t mode, uint32_t uid,
	uint32_t gid, const char *target, struct inode *ret) MUST_CHECK;
/* A FIFO, socket or device node, too: they stay on this server. */
int tree_mknod(struct cache *c, uint64_t parent, struct slice name, uint32_t mode, uint32_t uid,
	uint32_t gid, uint32_t rdev, struct inode *ret) MUST_CHECK;
/* The same for a regular file (an empty name: one without a name, O_TMPFILE, which lives while it is
 * open or until tree_link), which is opened for writing or reading as file_open would, in one
 * transaction: dirty from the start when writable. */
struct file;
int tree_create_open(struct cache *c, uint64_t parent, struct slice name, uint32_t mode,
	uint32_t uid, uint32_t gid, bool writable, struct inode *ret,
	struct file **ret_file) MUST_CHECK;

enum {
	SET_MODE = 1,
	SET_UID = 2,
	SET_GID = 4,
	SET_SIZE = 8,
	SET_ATIME = 16,
	SET_MTIME = 32,
	SET_CTIME = 64,
	SET_KILL = 128,	    /* clear suid, and sgid of what the group may execute */
	SET_KILL_SGID = 256 /* clear sgid */
};
/* Sets what mask names from v, then returns all. SET_SIZE on a regular file marks it dirty (content
 * that is not here: -EREMOTE unless the new size is 0; call cache_fetch and repeat). chown clears
 * suid and sgid as Linux does. atime alone makes no journal row and may be lost. */
int tree_setattr(struct cache *c, uint64_t ino, unsigned mask, const struct inode *v,
	struct inode *ret) MUST_CHECK;

/* Heap string in *ret. -EINVAL when it is not a symlink. */
int tree_readlink(struct cache *c, uint64_t ino, char **ret) MUST_CHECK;

/* An inode that is open stays until its last release. -EISDIR / -ENOTDIR / -ENOTEMPTY. */
int tree_unlink(struct cache *c, uint64_t parent, struct slice name) MUST_CHECK;
int tree_rmdir(struct cache *c, uint64_t parent, struct slice name) MUST_CHECK;

/* Gives ino another name. -EPERM for a directory, -ENOENT when it has none, -EMLINK over
 * LINKS_MAX. */
#define LINKS_MAX 65000
int tree_link(struct cache *c, uint64_t ino, uint64_t parent, struct slice name,
	struct inode *ret) MUST_CHECK;

/* rename(2). flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE; others -EINVAL. An exchange is -EINVAL
 * also where content of either side was never fetched: its objects would replace each other. A directory's rename is one row whatever
 * is below it, but -ENAMETOOLONG when a path below would exceed KEY_MAX (kept as the tree's
 * greatest depth per directory only as far as cheap: checked against existing descendants when
 * the new path is longer than the old one). -EINVAL into itself. */
int tree_rename(struct cache *c, uint64_t parent, struct slice name, uint64_t new_parent,
	struct slice new_name, unsigned flags) MUST_CHECK;

/* Calls fn for up to limit names whose place is greater than after (0: all), in the order of their
 * places, each with its attributes. A place depends on the name alone and is at least 2^62; names
 * with the same one, which is rare, have to be taken together. Non-zero from fn ends it. fn runs
 * inside a read transaction and must not call the cache. */
typedef int (*tree_dirent_fn)(
	void *ctx, struct slice name, int64_t place, const struct inode *inode);
int tree_readdir(struct cache *c, uint64_t dir, int64_t after, unsigned limit,
	tree_dirent_fn fn, void *ctx) MUST_CHECK;
/* The parent of a directory (ROOT_INO for the root itself). */
int tree_parent(struct cache *c, uint64_t dir, uint64_t *ret) MUST_CHECK;

/* Extended attributes, replicated. Names up to 255 bytes, values up to 64 KiB, together at most
 * 128 KiB an inode (-ENOSPC). size 0 asks for the length; -ERANGE when it does not fit; -ENODATA.
 * flags as in setxattr(2). */
ssize_t tree_getxattr(
	struct cache *c, uint64_t ino, const char *name, void *value, size_t size) MUST_CHECK;
ssize_t tree_listxattr(struct cache *c, uint64_t ino, char *list, size_t size) MUST_CHECK;
int tree_setxattr(struct cache *c, uint64_t ino, const char *name, const void *value, size_t size,
	int flags) MUST_CHECK;
int tree_removexattr(struct cache *c, uint64_t ino, const char *name) MUST_CHECK;
/* Sets (value NULL: removes) a POSIX ACL, name one of cache/acl.h, and with it the permission bits
 * as a local file system does. kill_sgid: the caller may not keep setgid. -EINVAL for a malformed
 * one, -E2BIG, -EACCES for a default ACL of what is no directory. */
int tree_set_acl(struct cache *c, uint64_t ino, const char *name, const void *value, size_t size,
	bool kill_sgid) MUST_CHECK;
/* False: ino certainly has no attributes (or does not exist). From memory, never blocks. */
bool tree_may_have_xattrs(struct cache *c, uint64_t ino);
/* False: no inode ever had an attribute whose name begins with "security.". The same. */
bool tree_has_security_xattrs(struct cache *c);

/* Somebody reads ino. Its access time becomes now by the rule of relatime: when it is not later
 * than its mtime and ctime, or a day old. It is kept in memory and written now and then by
 * tree_flush_times, without a journal row; a crash may lose it. */
void tree_accessed(struct cache *c, uint64_t ino);

/* Path of an inode. -ENOENT when it has no name any more. */
int tree_key(struct cache *c, uint64_t ino, struct key *ret) MUST_CHECK;
/* Inode at a path; -ENOENT. */
int tree_resolve(struct cache *c, struct slice key, struct inode *ret) MUST_CHECK;

/* Directory times change in memory with every name made or removed; this writes those that are
 * quiet for a second or older than five to the database, each with a journal row. all: every one
 * (before a stop). For the replicator's housekeeping. */
int tree_flush_times(struct cache *c, bool all) MUST_CHECK;
/* Writes the time that an entry now says the directory has, so that a crash does not take back what
 * other servers are told. Inside a write transaction. */
int tree_keep_time(struct conn *conn, uint64_t dir, int64_t mtime_ns) MUST_CHECK;

struct statvfs;
int tree_statfs(struct cache *c, struct statvfs *ret) MUST_CHECK;

#endif
