/*
 * Open files. fi->fh is a struct handle, from the answer to open or create until release.
 *
 * Pages that the kernel has of an inode are right unless it was passed through (passthrough.h): every
 * other local write passed through it, and content from elsewhere comes as a new inode; so an open
 * keeps them.
 */
#include "fs/internal.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <unistd.h>

#include "cache/durability.h"
#include "src/base/log.h"

#define COPY_MAX ((size_t)16 << 20) /* of one request: a worker is away so long */

#define SPLICE_MIN ((size_t)16 << 10) /* bytes of a read; for less a pipe costs more than a copy */

#define TMPFILE_OPCODE 51 /* FUSE_TMPFILE, protocol 7.37; older headers lack it */

static struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

static void handle_link(struct fs *fs, struct handle *h)
{
	mutex_lock(&fs->lock);
	h->next = fs->handles;
	if (h->next)
		h->next->prev = h;
	fs->handles = h;
	mutex_unlock(&fs->lock);
}

static void handle_free(struct fs *fs, struct handle *h)
{
	mutex_lock(&fs->lock);
	if (h->prev)
		h->prev->next = h->next;
	else
		fs->handles = h->next;
	if (h->next)
		h->next->prev = h->prev;
	mutex_unlock(&fs->lock);
	passthrough_end(fs, &h->open);
	free(h);
}

void handles_release(struct fs *fs)
{
	while (fs->handles)
		handle_free(fs, fs->handles);
}

bool handles_write(struct fs *fs, uint64_t ino)
{
	struct handle *h;

	mutex_lock(&fs->lock);
	for (h = fs->handles; h && !(h->writes && file_ino(h->open.file) == ino); h = h->next)
		;
	mutex_unlock(&fs->lock);
	return h != NULL;
}

static bool wants_write(int flags)
{
	return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

/* Fills the answer to an open of h; returns its backing id or 0. */
static int handle_answer(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
	bool keep_cache;
	int id = passthrough_begin(fs, &h->open, fi->flags, &keep_cache);

	h->writes = wants_write(fi->flags);
	h->synced = h->writes && (fs->sync || (fi->flags & O_DSYNC));
	h->waits = id > 0 && (fi->flags & O_DSYNC) && h->writes && durability_matters(fs->cache);
	handle_link(fs, h);
	fi->fh = (uintptr_t)h;
	fi->keep_cache = keep_cache;
	/* Each of its writes waits for regions, so they have to come here; where nothing is passed through
	 * the kernel asks for the flush itself. */
	if (h->waits)
		fi->direct_io = 1;
	fi->noflush = !wants_write(fi->flags);
	return id;
}

/* Each write of an O_SYNC handle is durable when it returns. Passed through, the kernel flushes the
 * content and tells us nothing: that there is such a file, and that it is dirty, is flushed here. */
static int sync_name(struct fs *fs, int flags, int id)
{
	return id > 0 && (flags & O_DSYNC) && wants_write(flags) ? cache_sync(fs->cache) : 0;
}

/* What the kernel has left to us: see killpriv.c. That it may fail for lack of space is no reason to
 * refuse what the caller asked for. */
static void clear_setid(fuse_req_t req, fuse_ino_t ino)
{
	struct cache *cache = fs_of(req)->cache;
	const struct inode nothing = {0};
	struct inode inode;
	int r = tree_getattr(cache, ino, &inode);

	if (!r && inode.mode & (S_ISUID | S_ISGID))
		r = tree_setattr(cache, ino, setid_mask(req, &inode), &nothing, &inode);
	if (r)
		log_warn("set-id bits not cleared ino=%llu", (unsigned long long)ino);
}

int open_and_reply(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct fuse_file_info out = *fi;
	struct handle *h = calloc(1, sizeof(*h));
	int r, id;

	if (!h) {
		reply(req, -ENOMEM);
		return 0;
	}
	r = file_open(fs->cache, ino, wants_write(fi->flags), fi->flags & O_TRUNC, &h->open.file);
	if (r) {
		free(h);
		if (r == -EREMOTE)
			return r;
		reply_inode(req, r);
		return 0;
	}
	if ((fi->flags & O_TRUNC) && killpriv_asked())
		clear_setid(req, ino);
	accessed(fs, ino, fi->flags);
	id = handle_answer(fs, h, &out);
	r = sync_name(fs, fi->flags, id);
	if (fi->flags & O_TRUNC)
		r = attr_synced(fs, ino, r);
	if (r) {
		handle_free(fs, h);
		reply(req, r);
		return 0;
	}
	/* The caller was killed meanwhile: no release will come. */
	if (backing_reply_open(req, &out, id) == -ENOENT)
		handle_free(fs, h);
	return 0;
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (open_and_reply(req, ino, fi) == -EREMOTE)
		fetch_open(req, ino, fi);
}

void tmpfile_note(void *request, size_t size)
{
	struct fuse_in_header *in = request;

	if (size >= sizeof(*in) && in->opcode == TMPFILE_OPCODE)
		in->opcode = FUSE_CREATE;
}

void op_create(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct handle *h;
	uint32_t uid, gid;
	struct fuse_entry_param e;
	struct inode inode;
	int r, id;

	if (pace_call(req, PACE_CREATE, parent, name, mode, 0, NULL, fi))
		return;
	h = calloc(1, sizeof(*h));
	if (!h) {
		reply(req, -ENOMEM);
		return;
	}
	ids_creator(req, &uid, &gid);
	/* The name that only a file without one has: tmpfile_note. */
	r = tree_create_open(fs->cache, parent, slice_of(strcmp(name, "/") ? name : ""),
		S_IFREG | (mode & 07777) | CREATE_UMASK(ctx->umask), uid, gid,
		wants_write(fi->flags), &inode, &h->open.file);
	if (r) {
		free(h);
		/* The name came from elsewhere after the kernel had found it absent. ESTALE makes
		 * the kernel look again and open what is there. */
		reply(req, r == -EEXIST && !(fi->flags & O_EXCL) ? -ESTALE : r);
		return;
	}
	id = handle_answer(fs, h, fi);
	r = name_synced(fs, sync_name(fs, fi->flags, id));
	if (r) {
		handle_free(fs, h);
		reply(req, r);
		return;
	}
	entry_fill(fs, &inode, &e);
	if (backing_reply_create(req, &e, fi, id) == -ENOENT)
		handle_free(fs, h);
}

int read_and_reply(fuse_req_t req, struct file *file, char *p, size_t size, uint64_t offset)
{
	ssize_t n = file_read(file, p, size, offset);

	if (n == -EREMOTE)
		return -EREMOTE;
	if (n < 0)
		reply(req, (int)n);
	else
		fuse_reply_buf(req, p, (size_t)n);
	return 0;
}

int splice_and_reply(fuse_req_t req, struct file *file, size_t size, uint64_t offset)
{
	struct fuse_bufvec v = FUSE_BUFVEC_INIT(0);
	ssize_t n;
	int fd;

	if (size < SPLICE_MIN)
		return -EAGAIN;
	n = file_extent(file, size, offset, &fd);
	if (n == -EREMOTE)
		return -EREMOTE;
	if (n < 0) {
		reply(req, (int)n);
		return 0;
	}
	v.buf[0] = (struct fuse_buf){.size = (size_t)n,
		.flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK,
		.fd = fd,
		.pos = (off_t)offset};
	fuse_reply_data(req, &v, 0);
	return 0;
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	size_t want = size < REQUEST_MAX ? size : REQUEST_MAX;
	struct file *file = handle_of(fi)->open.file;
	int r = file_ready(file, (uint64_t)off, want) ? -EAGAIN : -EREMOTE;
	char *p;

	if (r == -EAGAIN)
		r = splice_and_reply(req, file, want, (uint64_t)off);
	if (r == -EAGAIN) {
		p = scratch(want);
		if (p)
			r = read_and_reply(req, file, p, want, (uint64_t)off);
		else
			reply(req, -ENOMEM);
	}
	if (r == -EREMOTE)
		fetch_read(req, ino, file, want, (uint64_t)off);
}

/* Nearly every file has no such bits: looked up once for each open, and again when some file got
 * them. */
static void write_clears_setid(fuse_req_t req, struct handle *h)
{
	struct fs *fs = fs_of(req);
	uint64_t generation = atomic_load(&fs->setid_generation);
	struct inode inode;

	if (atomic_load(&h->setid_seen) == generation + 1)
		return;
	if (tree_getattr(fs->cache, file_ino(h->open.file), &inode))
		return;
	if (inode.mode & (S_ISUID | S_ISGID))
		clear_setid(req, inode.ino);
	else
		atomic_store(&h->setid_seen, generation + 1);
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *p, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	/* Pages of a mapping have their place, whatever flags the handle that carries them was
	 * opened with. */
	bool append = (fi->flags & O_APPEND) && !fi->writepage;
	struct handle *h = handle_of(fi);
	ssize_t n;

	if (killpriv_asked())
		write_clears_setid(req, h);
	n = file_write(h->open.file, p, size, (uint64_t)off, append);
	if (n < 0)
		reply(req, (int)n);
	else if (h->waits && !fi->writepage)
		slow_sync(req, ino, h->open.file, (fi->flags & O_SYNC) != O_SYNC, (size_t)n);
	else
		pace_write(req, (size_t)n);
}

static bool closes_durably(struct fs *fs, const struct handle *h, uint64_t ino)
{
	struct durability_wish wish;

	return h->writes && durability_on_close(fs->cache) &&
	       durability_of(fs->cache, ino, &wish) == 0 && wish.on_close;
}

void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	/* Writes have reached the content file; what is left is the change's place in the journal,
	 * before anything that the caller does after its close. That it may fail for lack of space
	 * is nothing to the caller: the release puts the row again. */
	if (file_flush(handle_of(fi)->open.file))
		(void)0;
	if (closes_durably(fs_of(req), handle_of(fi), ino))
		slow_sync(req, ino, handle_of(fi)->open.file, false, 0);
	else
		fuse_reply_err(req, 0);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	handle_free(fs_of(req), handle_of(fi));
	reply(req, 0);
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	slow_sync(req, ino, handle_of(fi)->open.file, datasync, 0);
}

void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	slow_sync(req, ino, NULL, datasync, 0);
}

void op_fallocate(
	fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	int r = file_allocate(h->open.file, mode, (uint64_t)off, (uint64_t)len);

	/* The kernel asks for the flush of a write(2) only. */
	if (!r && h->synced)
		slow_sync(req, ino, h->open.file, false, 0);
	else
		reply(req, r);
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t ino, off_t off, struct fuse_file_info *fi,
	fuse_ino_t to_ino, off_t to_off, struct fuse_file_info *to_fi, size_t size, int flags)
{
	size_t n = size < COPY_MAX ? size : COPY_MAX;
	struct handle *to = handle_of(to_fi);
	ssize_t done = file_copy(
		handle_of(fi)->open.file, (uint64_t)off, to->open.file, (uint64_t)to_off, n);

	/* Whatever keeps the file system below from it, the kernel can still read and write. */
	if (done == -EINVAL || done == -EXDEV || done == -ENOSYS)
		done = -EOPNOTSUPP;
	if (done < 0)
		reply(req, (int)done);
	else if (done > 0 && to->synced)
		slow_sync(req, to_ino, to->open.file, false, (size_t)done);
	else
		fuse_reply_write(req, (size_t)done);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	int64_t found = file_seek(handle_of(fi)->open.file, (uint64_t)off, whence);

	if (found < 0)
		reply(req, (int)found);
	else
		fuse_reply_lseek(req, found);
}
