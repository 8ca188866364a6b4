/* What the files of fs/ share. Not for others. */
#ifndef FS_INTERNAL_H
#define FS_INTERNAL_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/file.h"
#include "cache/tree.h"
#include "fs/fs.h"
#include "fs/passthrough.h"
#include "src/base/buf.h"
#include "src/base/thread.h"

#define CACHE_SECONDS 86400.0  /* how long the kernel may believe us: see fs.h */
#define REQUEST_MAX (1U << 20) /* bytes of one read or write */
#define AHEAD_MAX (512U << 10) /* bytes that the kernel reads ahead: with its head in a pipe of 1 MiB */
#define FS_THREADS_MAX 64
#define SLOW_THREADS 8

/* One open file. Linked so that fs_free can release what the kernel never released. */
struct handle {
	struct passthrough_open open;
	/* setid_generation + 1 when the file had no set-id bits; 0: not looked up */
	_Atomic uint64_t setid_seen;
	bool writes; /* constant once linked, as the next */
	bool waits;  /* its writes are durable when they return, and nobody but us can see to it */
	bool synced; /* opened for writing with O_DSYNC, or in a synchronous mount: so is what else changes it */
	struct handle *prev, *next;
};

/* Invalidations on their way to the kernel (notify.c). */
struct invalidation_item;
struct notifier {
	struct mutex lock; /* leaf; guards what follows */
	struct cond changed;
	struct invalidation_item *head, **tail;
	uint64_t pending;
	bool closed;
	bool started;
	pthread_t thread;
	_Atomic uint64_t sent;
};

/* Operations that may wait for a disk flush (slow.c). */
struct slow_job;
struct slow_pool {
	struct mutex lock; /* leaf; guards what follows */
	struct cond changed;
	struct slow_job *head, **tail;
	bool closed;
	unsigned started;
	pthread_t threads[SLOW_THREADS];
};

/* Holding writers off (hold.c). */
#define HOLD_VALUE 32
struct hold {
	struct mutex lock; /* leaf; guards what follows */
	struct cond changed;
	int state; /* hold.c */
	bool closed;
	uint64_t ino;
	char path[PATH_MAX];
	uint8_t value[HOLD_VALUE];
	int error; /* of the call */
	fuse_req_t req;
	bool started; /* written before and after there are other threads */
	pthread_t thread;
};

/* Calls that are slowed (pace.c). */
enum pace_call { PACE_WRITE, PACE_CREATE, PACE_MKNOD, PACE_MKDIR, PACE_SYMLINK };
struct paced;
struct pace {
	struct mutex lock; /* leaf; guards what follows */
	struct cond changed;
	struct paced *head; /* by time */
	bool closed;
	bool started; /* written before and after there are other threads */
	pthread_t thread;
};

/* Requests that wait for content from a region (fetch.c). */
struct fetch;

/* Directories and special files that were removed and may still be open (gone.c). */
#define GONE_SLOTS 256
struct gone {
	struct mutex lock; /* leaf; guards what follows */
	struct inode slot[GONE_SLOTS];
	unsigned next;
};

struct fs {
	struct cache *cache;
	struct fuse_session *session;
	char *mountpoint;
	unsigned threads;
	bool mounted;
	pid_t guard; /* 0: none */
	int guard_fd;
	int wake_fd; /* eventfd: fs_run has something to look at */
	_Atomic bool stop;
	_Atomic uint64_t refs; /* fs_free and each struct fetch */
	_Atomic uint64_t requests;
	_Atomic uint64_t errors;
	_Atomic int failed; /* errno of a device that failed */

	struct mutex lock; /* guards handles and fetches; nothing is called with it held */
	struct cond fetches_idle;
	struct handle *handles;
	struct fetch *fetches;
	uint64_t fetches_waiting;
	uint64_t syncs_waiting;
	unsigned fetches_running;
	bool closing;

	struct notifier notifier;
	struct slow_pool slow;
	struct pace pace;
	struct hold hold;
	struct gone gone;
	struct passthrough passthrough;
	_Atomic uint64_t setid_generation; /* raised when some file may have got set-id bits */

	struct fs_ids ids; /* constant */
	bool noatime;	   /* constant, as the next three */
	bool nodiratime;
	bool sync;
	bool dirsync;
	bool acl;	   /* written by init, before any other request */
	bool no_opendir;   /* likewise */
};

static inline struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* Answers with 0 or -errno. */
void reply(fuse_req_t req, int r);
/* The same for an operation on an inode rather than on a name: an inode that is gone under a name
 * that the kernel still has cached was replaced or removed elsewhere, and ESTALE makes the kernel
 * look the name up again. */
void reply_inode(fuse_req_t req, int r);
void reply_entry(fuse_req_t req, int r, const struct inode *inode);
void stat_fill(const struct fs *fs, const struct inode *inode, struct stat *st);
void entry_fill(const struct fs *fs, const struct inode *inode, struct fuse_entry_param *e);
void entry_fill_absent(struct fuse_entry_param *e);
/* A buffer of this worker with at least n bytes, n <= REQUEST_MAX, valid until the next call; NULL:
 * no memory. */
void *scratch(size_t n);
void scratch_done(void);

/* mount.c */
/* True on a thread that answers requests, which must never wait for the notifier. */
extern _Thread_local bool on_worker;

/* name.c */
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags);
void op_statfs(fuse_req_t req, fuse_ino_t ino);

/* io.c */
/* libfuse has no handler for FUSE_TMPFILE before 3.17; its request is one to create "/". */
void tmpfile_note(void *request, size_t size);
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *p, size_t size, off_t off,
	struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fallocate(
	fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void op_copy_file_range(fuse_req_t req, fuse_ino_t ino, off_t off, struct fuse_file_info *fi,
	fuse_ino_t to_ino, off_t to_off, struct fuse_file_info *to_fi, size_t size, int flags);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
/* Opens ino and answers; -EREMOTE, unanswered, when content has to be fetched first. */
int open_and_reply(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi);
/* Reads into p, of that size, and answers; -EREMOTE, unanswered, when content has to be fetched first. */
int read_and_reply(fuse_req_t req, struct file *file, char *p, size_t size, uint64_t offset);
/* The same from the content's pages themselves, without a buffer; -EAGAIN, unanswered, when that is not
 * worth while. */
int splice_and_reply(fuse_req_t req, struct file *file, size_t size, uint64_t offset);
void handles_release(struct fs *fs);

/* dir.c */
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);

/* xattr.c */
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
	int flags);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* name.c: what of SET_KILL and SET_KILL_SGID this caller's change of the content or owner of now
 * does. */
unsigned setid_mask(fuse_req_t req, const struct inode *now);
/* io.c: somebody has ino open for writing. Looks through all handles. */
bool handles_write(struct fs *fs, uint64_t ino);
/* name.c: ino is opened, listed or followed, with these flags of open(2). */
void accessed(struct fs *fs, fuse_ino_t ino, int open_flags);
/* r of a call that changed a directory; where such calls are to be durable, that of the flush if r is 0. */
int name_synced(struct fs *fs, int r);
/* r of a call that changed ino's content or attributes; in a synchronous mount, that of the flush if r is 0. */
int attr_synced(struct fs *fs, fuse_ino_t ino, int r);

/* ids.c: the volume's ids and those that this mount shows */
uint32_t ids_show(const struct fs_id_map *map, uint32_t kept);
uint32_t ids_keep(const struct fs_id_map *map, uint32_t shown);
void ids_show_stat(const struct fs *fs, struct stat *st);
/* True where owners or modes are shown other than by a map. */
bool ids_hide(const struct fs *fs);
/* Who owns what this request makes. */
void ids_creator(fuse_req_t req, uint32_t *uid, uint32_t *gid);
/* What a setattr of shown values sets. -EPERM for an owner that this mount cannot show. */
int ids_keep_attr(struct fs *fs, uint64_t ino, unsigned *mask, struct inode *v) MUST_CHECK;
/* Translates an ACL in place; a malformed one stays as it is. Returns its length. */
size_t ids_map_acl(const struct fs *fs, void *value, size_t size, bool show);
/* The caller is in the group of that kept id, or may do as if. */
bool ids_in_group(fuse_req_t req, uint32_t gid);

/* fetch.c: fetches the content of ino without holding a worker, then repeats the operation and
 * answers. */
void fetch_open(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi);
void fetch_setattr(fuse_req_t req, fuse_ino_t ino, unsigned mask, const struct inode *v);
void fetch_read(fuse_req_t req, fuse_ino_t ino, struct file *file, size_t size, uint64_t offset);
/* Answers when the regions that ino's durability wants have it. written as in slow_sync. */
void wait_durable(fuse_req_t req, fuse_ino_t ino, size_t written);
/* Answers those that wait with EIO and waits for those that are being answered. */
void fetches_cancel(struct fs *fs);
void fs_unref(struct fs *fs);

/* notify.c */
void notifier_init(struct notifier *n);
void notifier_done(struct notifier *n);
int notifier_start(struct fs *fs) MUST_CHECK;
/* Drops what is queued and waits for the thread. Workers must still serve: see notify.c. */
void notifier_stop(struct fs *fs);
void notifier_put(void *fs, const struct invalidation *i); /* cache_invalidate_fn */

/* gone.c */
void gone_init(struct gone *g);
void gone_done(struct gone *g);
/* The kernel is told of an inode. */
void gone_told(const struct inode *inode);
/* Whether it was ever told of a special file: if not, a removal need not look. */
bool gone_has_special(void);
/* Before the call that may remove it: true when name is a directory, or the only one of a special
 * file. */
bool gone_look(struct fs *fs, uint64_t parent, const char *name, struct inode *ret);
void gone_note(struct fs *fs, const struct inode *inode); /* it has been removed */
/* Attributes of a removed directory, after setting what mask names from v. -ENOENT. */
int gone_attr(struct fs *fs, uint64_t ino, unsigned mask, const struct inode *v,
	struct inode *ret) MUST_CHECK;

/* guard.c: ends the connection should this process be killed. guard_stop after the unmount. */
int guard_start(struct fs *fs) MUST_CHECK;
void guard_stop(struct fs *fs);

/* readahead.c: for a while waits until the mount answers. */
void readahead_widen(struct fs *fs);

/* hold.c */
void hold_init(struct hold *h);
void hold_done(struct hold *h);
int hold_start(struct fs *fs) MUST_CHECK;
/* Workers must still serve. */
void hold_stop(struct fs *fs);
/* True: the request was one of hold.c's own. */
bool hold_setxattr(
	fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size);
int fs_hold(void *fs, uint64_t ino, struct slice key, cache_hold_run work,
	void *arg); /* cache_hold_fn */

/* pace.c */
void pace_init(struct pace *p);
void pace_done(struct pace *p);
int pace_start(struct fs *fs) MUST_CHECK;
/* Does what waits, at once, and joins. */
void pace_stop(struct fs *fs);
/* Answers a write, later when writers are slowed. */
void pace_write(fuse_req_t req, size_t written);
/* True: the call is put off, and done later. What it does not take is 0 or NULL. */
bool pace_call(fuse_req_t req, enum pace_call call, fuse_ino_t parent, const char *name,
	mode_t mode, dev_t rdev, const char *target, const struct fuse_file_info *fi);

/* slow.c */
void slow_init(struct slow_pool *s);
void slow_done(struct slow_pool *s);
int slow_start(struct fs *fs) MUST_CHECK;
/* Finishes what is queued and joins. */
void slow_stop(struct fs *fs);
/* Flushes, waits for the regions that ino's durability wants, and answers. file NULL: everything
 * committed so far. written: the answer, of a write; else 0. */
void slow_sync(
	fuse_req_t req, uint64_t ino, struct file *file, bool data_only, size_t written);
/* Answers from another thread, once the interrupt handler that calls this has returned. */
void slow_reply(struct fs *fs, fuse_req_t req, int r);

#endif
