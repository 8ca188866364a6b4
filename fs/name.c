/*
 * Names and attributes: thin handlers that do one thing on the tree and answer. They hold no state
 * and no lock.
 *
 * The cache's inodes live by number in its database, so the kernel's lookup counts need not be
 * followed: forget does nothing. Numbers are never used twice, so one generation serves for all.
 */
#include "fs/internal.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/statvfs.h>

#include "src/base/clock.h"

#define BLOCK_HINT 65536 /* st_blksize: stdio then sends few large writes */

static _Thread_local struct {
	void *p;
	size_t size;
} scratch_buffer;

void *scratch(size_t n)
{
	if (n > scratch_buffer.size) {
		free(scratch_buffer.p);
		scratch_buffer.p = malloc(n);
		scratch_buffer.size = scratch_buffer.p ? n : 0;
	}
	return scratch_buffer.p;
}

void scratch_done(void)
{
	free(scratch_buffer.p);
	scratch_buffer.p = NULL;
	scratch_buffer.size = 0;
}

void reply(fuse_req_t req, int r)
{
	if (r && r != -ENODATA)
		atomic_fetch_add_explicit(&fs_of(req)->errors, 1, memory_order_relaxed);
	fuse_reply_err(req, -r);
}

void reply_inode(fuse_req_t req, int r)
{
	reply(req, r == -ENOENT ? -ESTALE : r);
}

static struct timespec timespec_of(int64_t ns)
{
	int64_t s = ns / 1000000000;
	int64_t rest = ns % 1000000000;

	if (rest < 0) {
		rest += 1000000000;
		s--;
	}
	return (struct timespec){.tv_sec = s, .tv_nsec = rest};
}

static int64_t ns_of(struct timespec t)
{
	int64_t ns;

	if (__builtin_mul_overflow((int64_t)t.tv_sec, 1000000000, &ns) ||
		__builtin_add_overflow(ns, (int64_t)t.tv_nsec, &ns))
		return t.tv_sec < 0 ? INT64_MIN : INT64_MAX;
	return ns;
}

void stat_fill(const struct fs *fs, const struct inode *inode, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = inode->ino;
	st->st_mode = inode->mode;
	st->st_nlink = inode->nlink;
	st->st_uid = inode->uid;
	st->st_gid = inode->gid;
	st->st_rdev = inode->rdev;
	st->st_size = (off_t)inode->size;
	st->st_blocks = (blkcnt_t)(inode->size / 512 + (inode->size % 512 != 0));
	st->st_blksize = BLOCK_HINT;
	st->st_atim = timespec_of(inode->atime_ns);
	st->st_mtim = timespec_of(inode->mtime_ns);
	st->st_ctim = timespec_of(inode->ctime_ns);
	ids_show_stat(fs, st);
}

void entry_fill(const struct fs *fs, const struct inode *inode, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){.ino = inode->ino,
		.generation = 1,
		.attr_timeout = CACHE_SECONDS,
		.entry_timeout = CACHE_SECONDS};
	gone_told(inode);
	stat_fill(fs, inode, &e->attr);
}

void entry_fill_absent(struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){.entry_timeout = CACHE_SECONDS};
}

void reply_entry(fuse_req_t req, int r, const struct inode *inode)
{
	struct fuse_entry_param e;

	if (r) {
		reply(req, r);
		return;
	}
	entry_fill(fs_of(req), inode, &e);
	fuse_reply_entry(req, &e);
}

static void reply_attr(fuse_req_t req, int r, const struct inode *inode)
{
	struct stat st;

	if (r) {
		reply_inode(req, r);
		return;
	}
	stat_fill(fs_of(req), inode, &st);
	fuse_reply_attr(req, &st, CACHE_SECONDS);
}

/* "." and ".." come only for a file handle (open_by_handle_at(2), an NFS server) of an inode that the
 * kernel has forgotten. */
static int lookup(struct cache *c, fuse_ino_t parent, const char *name, struct inode *ret)
{
	uint64_t ino = parent;
	int r = 0;

	if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
		return tree_lookup(c, parent, slice_of(name), ret);
	if (name[1])
		r = tree_parent(c, parent, &ino);
	if (!r)
		r = tree_getattr(c, ino, ret);
	/* Open and unlinked: who holds it has it; a handle finds it no more. */
	return r ? r : ret->nlink ? 0 : -ENOENT;
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	struct inode inode;
	int r;

	r = lookup(fs_of(req)->cache, parent, name, &inode);
	if (r != -ENOENT) {
		reply_entry(req, r, &inode);
		return;
	}
	/* Inode 0: the kernel remembers the absence. */
	entry_fill_absent(&e);
	fuse_reply_entry(req, &e);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	fuse_reply_none(req);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct inode inode;
	int r;

	r = tree_getattr(fs_of(req)->cache, ino, &inode);
	if (r == -ENOENT)
		r = gone_attr(fs_of(req), ino, 0, NULL, &inode);
	reply_attr(req, r, &inode);
}

static unsigned set_mask(int to_set, const struct stat *attr, struct inode *v)
{
	unsigned mask = 0;

	*v = (struct inode){.mode = attr->st_mode,
		.uid = attr->st_uid,
		.gid = attr->st_gid,
		.size = (uint64_t)attr->st_size,
		.atime_ns = ns_of(attr->st_atim),
		.mtime_ns = ns_of(attr->st_mtim),
		.ctime_ns = ns_of(attr->st_ctim)};
	if (to_set & FUSE_SET_ATTR_MODE)
		mask |= SET_MODE;
	if (to_set & FUSE_SET_ATTR_UID)
		mask |= SET_UID;
	if (to_set & FUSE_SET_ATTR_GID)
		mask |= SET_GID;
	if (to_set & FUSE_SET_ATTR_SIZE)
		mask |= SET_SIZE;
	if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW))
		mask |= SET_ATIME;
	if (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW))
		mask |= SET_MTIME;
	if (to_set & FUSE_SET_ATTR_CTIME)
		mask |= SET_CTIME;
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		v->atime_ns = clock_realtime_ns();
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		v->mtime_ns = clock_realtime_ns();
	return mask;
}

unsigned setid_mask(fuse_req_t req, const struct inode *now)
{
	if (now->mode & S_ISGID && !(now->mode & S_IXGRP) && !ids_in_group(req, now->gid))
		return SET_KILL | SET_KILL_SGID;
	return SET_KILL;
}

/* Adds to *mask what falls of set-id bits. A setattr that sets nothing comes before a write that is
 * passed through, and of chown(-1, -1), which takes nothing away from other people's files: who
 * writes has the file open. */
static int check_setid(fuse_req_t req, fuse_ino_t ino, unsigned *mask)
{
	struct fs *fs = fs_of(req);
	struct inode now;
	uint32_t uid, gid;
	unsigned kill;
	int r;

	if (!killpriv_asked() && !(*mask & (SET_UID | SET_GID)))
		return 0;
	r = tree_getattr(fs->cache, ino, &now);
	if (r || !(now.mode & (S_ISUID | S_ISGID)) || S_ISDIR(now.mode))
		return r;
	ids_creator(req, &uid, &gid);
	kill = setid_mask(req, &now);
	if (kill == SET_KILL && !(now.mode & (S_ISUID | S_IXGRP)))
		return 0; /* nothing falls: who may set sgid keeps it as a mark of its own */
	if (*mask == 0 && uid != 0 && uid != now.uid && !handles_write(fs, ino))
		return -EPERM;
	*mask |= kill;
	return 0;
}

void op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct inode v, inode;
	unsigned mask = set_mask(to_set, attr, &v);
	int r;

	r = check_setid(req, ino, &mask);
	if (!r)
		r = ids_keep_attr(fs_of(req), ino, &mask, &v);
	if (!mask) {
		mask = SET_CTIME; /* chown(-1, -1) */
		v.ctime_ns = clock_realtime_ns();
	}
	if (!r)
		r = tree_setattr(fs_of(req)->cache, ino, mask, &v, &inode);
	if (r == -ENOENT)
		r = gone_attr(fs_of(req), ino, mask, &v, &inode);
	r = attr_synced(fs_of(req), ino, r);
	if (r == -EREMOTE)
		fetch_setattr(req, ino, mask, &v);
	else
		reply_attr(req, r, &inode);
}

int name_synced(struct fs *fs, int r)
{
	return r || !fs->dirsync ? r : cache_sync(fs->cache);
}

int attr_synced(struct fs *fs, fuse_ino_t ino, int r)
{
	return r || !fs->sync ? r : file_sync_ino(fs->cache, ino);
}

void accessed(struct fs *fs, fuse_ino_t ino, int open_flags)
{
	if (!fs->noatime && !(open_flags & O_NOATIME) && (open_flags & O_ACCMODE) != O_WRONLY)
		tree_accessed(fs->cache, ino);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	AUTO_FREE char *target = NULL;
	int r;

	accessed(fs_of(req), ino, 0);
	r = tree_readlink(fs_of(req)->cache, ino, &target);
	if (r)
		reply_inode(req, r);
	else
		fuse_reply_readlink(req, target);
}

static void create(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, const char *target)
{
	struct inode inode;
	uint32_t uid, gid;
	int r;

	ids_creator(req, &uid, &gid);
	mode |= CREATE_UMASK(fuse_req_ctx(req)->umask);
	r = tree_create(fs_of(req)->cache, parent, slice_of(name), mode, uid, gid, target, &inode);
	reply_entry(req, name_synced(fs_of(req), r), &inode);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct inode inode;
	uint32_t uid, gid;
	int r;

	if (pace_call(req, PACE_MKNOD, parent, name, mode, rdev, NULL, NULL))
		return;
	if (S_ISREG(mode)) {
		create(req, parent, name, mode, NULL);
		return;
	}
	ids_creator(req, &uid, &gid);
	mode |= CREATE_UMASK(fuse_req_ctx(req)->umask);
	r = tree_mknod(fs_of(req)->cache, parent, slice_of(name), mode, uid, gid, (uint32_t)rdev,
		&inode);
	reply_entry(req, name_synced(fs_of(req), r), &inode);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	if (!pace_call(req, PACE_MKDIR, parent, name, mode, 0, NULL, NULL))
		create(req, parent, name, S_IFDIR | (mode & 07777), NULL);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	if (!pace_call(req, PACE_SYMLINK, parent, name, 0, 0, target, NULL))
		create(req, parent, name, S_IFLNK | 0777, target);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	struct inode inode;
	bool found = gone_has_special() && gone_look(fs, parent, name, &inode);
	int r = tree_unlink(fs->cache, parent, slice_of(name));

	if (!r && found)
		gone_note(fs, &inode);
	reply(req, name_synced(fs, r));
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	struct inode inode;
	bool found = gone_look(fs, parent, name, &inode);
	int r = tree_rmdir(fs->cache, parent, slice_of(name));

	if (!r && found)
		gone_note(fs, &inode);
	reply(req, name_synced(fs, r));
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct inode inode;
	int r = tree_link(fs_of(req)->cache, ino, parent, slice_of(name), &inode);

	reply_entry(req, name_synced(fs_of(req), r), &inode);
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags)
{
	struct fs *fs = fs_of(req);
	struct inode replaced;
	bool found;
	int r;

	found = !(flags & RENAME_EXCHANGE) && gone_look(fs, new_parent, new_name, &replaced);
	r = tree_rename(
		fs->cache, parent, slice_of(name), new_parent, slice_of(new_name), flags);
	if (!r && found)
		gone_note(fs, &replaced);
	reply(req, name_synced(fs, r));
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st = {0};
	int r;

	r = tree_statfs(fs_of(req)->cache, &st);
	if (r)
		reply(req, r);
	else
		fuse_reply_statfs(req, &st);
}
