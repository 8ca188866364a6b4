/*
 * Passthrough and FUSE_HANDLE_KILLPRIV_V2 with a libfuse that has no calls for them (before 3.17): this
 * file goes when Debian 12 does. The protocol is include/uapi/linux/fuse.h of the kernel.
 *
 * INIT is where both are agreed upon. libfuse answers it in words that the kernel understands but
 * without these two, so its answer is completed on its way out: the session writes through
 * write_reply, which knows the answer by the request's id. Later answers pass through unchanged;
 * those to open and create that name a backing file are made here.
 */
#include "fs/internal.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define INIT_EXT (UINT64_C(1) << 30)
#define PASSTHROUGH (UINT64_C(1) << 37)
#define STACK_DEPTH 1 /* one file system below this one, and room for an overlay above */
#define OPEN_PASSTHROUGH (1U << 7)
#define OPEN_NOFLUSH (1U << 5)

/* As of protocol 7.40; the headers here may be older. */
struct init_out {
	uint32_t major;
	uint32_t minor;
	uint32_t max_readahead;
	uint32_t flags;
	uint16_t max_background;
	uint16_t congestion_threshold;
	uint32_t max_write;
	uint32_t time_gran;
	uint16_t max_pages;
	uint16_t map_alignment;
	uint32_t flags2;
	uint32_t max_stack_depth;
	uint32_t unused[6];
};
_Static_assert(sizeof(struct init_out) == sizeof(struct fuse_init_out), "protocol 7.23 to 7.40");

struct open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};
_Static_assert(sizeof(struct open_out) == sizeof(struct fuse_open_out), "protocol 7.40");

/* ---- INIT ---- */

void backing_note(struct fs *fs, const void *request, size_t size)
{
	const struct fuse_in_header *in = request;
	const struct fuse_init_in *init = (const void *)(in + 1);

	if (size < sizeof(*in) + sizeof(*init) || in->opcode != FUSE_INIT)
		return;
	fs->passthrough.init_unique = in->unique;
	fs->passthrough.init_offered = init->flags;
	if (init->flags & INIT_EXT)
		fs->passthrough.init_offered |= (uint64_t)init->flags2 << 32;
}

bool backing_want(struct fs *fs, struct fuse_conn_info *conn, bool passthrough)
{
	uint64_t offered = fs->passthrough.init_offered;

	atomic_store(&fs->passthrough.killpriv, (offered & FUSE_HANDLE_KILLPRIV_V2) != 0);
	return (offered & PASSTHROUGH) != 0;
}

static void complete_init(struct fs *fs, struct iovec *iov, int count)
{
	struct passthrough *p = &fs->passthrough;
	const struct fuse_out_header *out = iov[0].iov_base;
	struct init_out *init;

	if (out->error || count != 2 || iov[1].iov_len != sizeof(*init))
		return;
	init = iov[1].iov_base;
	if (atomic_load(&p->killpriv))
		init->flags |= FUSE_HANDLE_KILLPRIV_V2;
	if (!atomic_load(&p->on))
		return;
	init->flags |= INIT_EXT;
	init->flags2 |= (uint32_t)(PASSTHROUGH >> 32);
	init->max_stack_depth = STACK_DEPTH;
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fs *fs = userdata;
	const struct fuse_out_header *out = iov[0].iov_base;

	/* Only the one worker that handles INIT runs until it is answered. */
	uint64_t init = atomic_load_explicit(&fs->passthrough.init_unique, memory_order_relaxed);
	if (init && iov[0].iov_len == sizeof(*out) && out->unique == init) {
		complete_init(fs, iov, count);
		fs->passthrough.init_unique = 0;
	}
	return writev(fd, iov, count);
}

static ssize_t read_request(int fd, void *p, size_t size, void *userdata)
{
	return read(fd, p, size);
}

static ssize_t splice_request(
	int in, off_t *in_at, int out, off_t *out_at, size_t size, unsigned flags, void *userdata)
{
	return splice(in, in_at, out, out_at, size, flags);
}

int backing_attach(struct fs *fs)
{
	static const struct fuse_custom_io io = {.read = read_request,
		.writev = write_reply,
		.splice_receive = splice_request,
		.splice_send = splice_request};

	return fuse_session_custom_io(fs->session, &io, fuse_session_fd(fs->session));
}

/* ---- answers ---- */

static struct open_out open_out_of(const struct fuse_file_info *fi, int id)
{
	return (struct open_out){.fh = fi->fh,
		.open_flags = OPEN_PASSTHROUGH | (fi->noflush ? OPEN_NOFLUSH : 0) |
			      (fi->direct_io ? FOPEN_DIRECT_IO : 0),
		.backing_id = id};
}

int backing_reply_open(fuse_req_t req, struct fuse_file_info *fi, int id)
{
	struct open_out out = open_out_of(fi, id);

	return id ? fuse_reply_buf(req, (const char *)&out, sizeof(out)) : fuse_reply_open(req, fi);
}

static void timeout_split(double seconds, uint64_t *s, uint32_t *ns)
{
	*s = (uint64_t)seconds;
	*ns = (uint32_t)((seconds - (double)*s) * 1e9);
}

static void attr_of(const struct stat *st, struct fuse_attr *a)
{
	*a = (struct fuse_attr){.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.blocks = (uint64_t)st->st_blocks,
		.atime = (uint64_t)st->st_atim.tv_sec,
		.mtime = (uint64_t)st->st_mtim.tv_sec,
		.ctime = (uint64_t)st->st_ctim.tv_sec,
		.atimensec = (uint32_t)st->st_atim.tv_nsec,
		.mtimensec = (uint32_t)st->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)st->st_ctim.tv_nsec,
		.mode = st->st_mode,
		.nlink = (uint32_t)st->st_nlink,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.rdev = (uint32_t)st->st_rdev,
		.blksize = (uint32_t)st->st_blksize};
}

int backing_reply_create(
	fuse_req_t req, const struct fuse_entry_param *e, struct fuse_file_info *fi, int id)
{
	struct {
		struct fuse_entry_out entry;
		struct open_out open;
	} out = {.entry = {.nodeid = e->ino, .generation = e->generation}};

	if (!id)
		return fuse_reply_create(req, e, fi);
	timeout_split(e->entry_timeout, &out.entry.entry_valid, &out.entry.entry_valid_nsec);
	timeout_split(e->attr_timeout, &out.entry.attr_valid, &out.entry.attr_valid_nsec);
	attr_of(&e->attr, &out.entry.attr);
	out.open = open_out_of(fi, id);
	return fuse_reply_buf(req, (const char *)&out, sizeof(out));
}
