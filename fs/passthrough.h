/*
 * Kernel passthrough: reads, writes and mappings of an open regular file go straight to its content
 * file, without this process. Private to fs/.
 *
 * Modes. The kernel allows an inode one mode at a time, passthrough or through the page cache, so the
 * mode is decided at the inode's first open and kept until its last release. All opens of an inode
 * share one backing file: the cache's read-write descriptor.
 *
 * Mappings. A shared mapping of a passthrough file holds the content file, not the open file: the
 * release comes while the program may still store into it. So the last open that could have been
 * mapped for writing is kept (never longer than needed: a lease tells whether anybody else still has
 * the content open), and the cache goes on looking for changes until then.
 */
#ifndef FS_PASSTHROUGH_H
#define FS_PASSTHROUGH_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <stdatomic.h>

#include "fs/fs.h"
#include "src/base/attribute.h"
#include "src/base/thread.h"

struct file;
struct fs;
struct passthrough_inode;

#define PASSTHROUGH_BUCKETS 1024
#define PASSTHROUGH_REASON_SIZE (FS_PASSTHROUGH_SIZE - 8)

struct passthrough {
	struct mutex lock; /* guards what follows; held over the registration of a file */
	struct cond changed;
	struct passthrough_inode *buckets[PASSTHROUGH_BUCKETS];
	int64_t space_ms; /* when short_of_space was found out, monotonic; 0: never */
	bool short_of_space;
	unsigned kept; /* inodes without an open that are still mapped, perhaps */
	bool closed;
	bool started;
	pthread_t thread;
	bool wanted;			      /* constant */
	_Atomic bool proven;			      /* a file was registered */
	char reason[PASSTHROUGH_REASON_SIZE]; /* why it is off; "" while it is on */
	_Atomic bool on;
	_Atomic bool killpriv;	      /* FUSE_HANDLE_KILLPRIV_V2 is on */
	_Atomic uint64_t init_unique; /* libfuse before 3.17: the INIT request's, 0: answered */
	uint64_t init_offered;	      /* and the flags that the kernel offered in it */
};

/* One open's part in it; in struct handle. */
struct passthrough_open {
	struct file *file;
	bool writable;
	bool may_map; /* shared and for writing */
	bool counted;
};

void passthrough_init(struct passthrough *p, bool wanted);
/* Before the cache is closed. */
void passthrough_done(struct passthrough *p);
/* In op_init. */
void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn);
/* The thread that watches kept files. */
int passthrough_start(struct fs *fs) MUST_CHECK;
/* Releases what is kept and not mapped any more; the rest is left to the cache's recovery. No more
 * opens may come. */
void passthrough_stop(struct fs *fs);

/* Counts one open of the inode that o->file is of, flags being open(2)'s. Returns the backing id for
 * the answer, or 0: through this process. *keep_cache: whether the kernel's pages of the inode are
 * right. Nothing may refuse the open after that. */
int passthrough_begin(struct fs *fs, struct passthrough_open *o, int flags, bool *keep_cache);
/* The opposite; releases o->file, now or when it is no longer mapped. */
void passthrough_end(struct fs *fs, struct passthrough_open *o);

/* "on", or "off" and why. */
void passthrough_describe(struct fs *fs, char text[FS_PASSTHROUGH_SIZE]);

/* ---- killpriv.c: set-id bits, which FUSE_HANDLE_KILLPRIV_V2 leaves to this process ---- */

/* Looks at a request before libfuse does, which hides the flags. */
void killpriv_note(struct fs *fs, const void *request, size_t size);
/* Whether the request that this thread works on has to clear them. */
bool killpriv_asked(void);

/* ---- passthrough_api.c (libfuse 3.17), passthrough_compat.c (before) ---- */

/* In op_init: asks for killpriv and, if wanted, for passthrough; returns whether the kernel has the
 * latter. */
bool backing_want(struct fs *fs, struct fuse_conn_info *conn, bool passthrough);
/* After fuse_session_mount. */
int backing_attach(struct fs *fs) MUST_CHECK;
/* Looks at each request before libfuse does. */
void backing_note(struct fs *fs, const void *request, size_t size);
/* As fuse_reply_open and fuse_reply_create, with the id if it is not 0. */
int backing_reply_open(fuse_req_t req, struct fuse_file_info *fi, int id);
int backing_reply_create(
	fuse_req_t req, const struct fuse_entry_param *e, struct fuse_file_info *fi, int id);

#endif
