/*
 * Open files and content.
 *
 * Content of inode n is the regular file content/<xx>/<n in 16 hexadecimal digits> (xx: the two
 * digits before the last two), so the content id is the inode number: a remote change installs a
 * new inode under the name and never touches content that somebody has open. A file is marked dirty
 * in the database before its first writable open is acknowledged and stays so until a seal finds it
 * unchanged with no writer left; the content file is the truth for size and mtime of a dirty inode.
 *
 * Each inode that is open has one in-memory record: number of opens and writers, a write generation
 * that every change of content raises, and the generation last sealed.
 */
#ifndef CACHE_FILE_H
#define CACHE_FILE_H

#include <sys/types.h>

#include "cache/cache.h"
#include "src/base/buf.h"
#include "src/base/hash.h"

struct file; /* one open of one inode */

/* truncate needs writable. Content that is not here may be open for reading all the same: see
 * file_ready. -EREMOTE: the content is not here and truncate is not asked (call
 * cache_fetch, then repeat); -ESTALE: the inode is gone, or has lost
 * its name to a remote change and its content is not here: look the path up again. */
int file_open(
	struct cache *c, uint64_t ino, bool writable, bool truncate, struct file **ret) MUST_CHECK;
/* Opens for writing the next of the files that somebody else had open when the cache was opened: a
 * program, through a mount whose daemon was killed, writes where the kernel passes that through past
 * every daemon. NULL: no more. Before the mount serves requests. */
struct file *file_next_survivor(struct cache *c);

/* The last release of a writer puts the journal row of the change, stamped now. */
void file_release(struct file *f);
/* Frees an open and leaves the file in the database as it is: of a writer, as open, so that the next
 * cache_open looks for what was written, as after a crash. */
void file_forget(struct file *f);

/* Puts the journal row of what was written and has none yet, so that a change that the
 * application makes after close(2) returned is journalled after this one. Called for each close
 * of a descriptor; costs nothing when nothing was written. -ENOSPC: the row comes with the
 * release. */
int file_flush(struct file *f) MUST_CHECK;

/* From now until the inode's last release, writes of this open (of which open_flags are open(2)'s:
 * O_APPEND and the access mode matter) may reach the content file without file_write. The cache then
 * recognises changes by size, mtime and ctime of the content file. Before the open is acknowledged;
 * nothing for one that cannot write. */
void file_unseen(struct file *f, int open_flags);

uint64_t file_ino(const struct file *f);
/* Whether bytes [offset, offset + n) of an open file can be read now; if not, file_partial is what they
 * have to be brought into by cache_range. Tells whoever reads ahead. */
bool file_ready(struct file *f, uint64_t offset, uint64_t n);
/* After content was fetched whole, or was made elsewhere, while f read it by ranges: goes on with that.
 * -EREMOTE: it is not here. */
int file_catch_up(struct file *f) MUST_CHECK;
/* NULL: all of the content is here. Borrowed until release. */
struct partial *file_partial(const struct file *f);
/* -EREMOTE: it is not ready (file_ready). */
ssize_t file_read(struct file *f, void *p, size_t n, uint64_t offset) MUST_CHECK;
/* How many of those bytes the file has, to be read from *ret_fd, which is borrowed until release. -EREMOTE. */
ssize_t file_extent(struct file *f, size_t n, uint64_t offset, int *ret_fd) MUST_CHECK;
/* Whole or -errno (-ENOSPC, -EFBIG, -EBADF); has reached the content file on return. append: at
 * the end, atomically against other appenders of this mount. */
ssize_t file_write(
	struct file *f, const void *p, size_t n, uint64_t offset, bool append) MUST_CHECK;
int file_truncate(struct file *f, uint64_t size) MUST_CHECK;
/* fallocate(2) with its modes; -EOPNOTSUPP for those that the state directory's file system lacks. */
int file_allocate(struct file *f, int mode, uint64_t offset, uint64_t length) MUST_CHECK;
/* copy_file_range(2): how much was copied, by reflink where the file system has it. -EOPNOTSUPP, -EXDEV
 * and -EINVAL say that the bytes have to be read and written instead. */
ssize_t file_copy(struct file *from, uint64_t offset, struct file *to, uint64_t to_offset,
	size_t n) MUST_CHECK;
/* Content, then the write-ahead log, flushed to disk; a journal row is put so that the change is
 * sealed now. */
int file_fsync(struct file *f, bool data_only) MUST_CHECK;
/* Flushes ino's content, if it is here, its name and the write-ahead log: for a change that was made without
 * an open file. */
int file_sync_ino(struct cache *c, uint64_t ino) MUST_CHECK;
/* lseek(2) with SEEK_DATA or SEEK_HOLE. Where content is not here there are data. */
int64_t file_seek(const struct file *f, uint64_t offset, int whence) MUST_CHECK;
/* Borrowed until release; do not write through it. */
int file_fd(const struct file *f);

/* ---- for the replicator ---- */

/* Puts a journal row for each file that has been open for writing, changed and unsealed for at
 * least age_ms. */
int file_journal_due(struct cache *c, int64_t age_ms) MUST_CHECK;

/* Makes a conflict of each file that was closed and not sealed yet when a remote change took its name. Reads
 * all of their content; at no cost when there is none. What cannot be read or recorded keeps nobody else back:
 * it is tried again ten seconds later, and by the next cache_open. */
int file_settle_displaced(struct cache *c) MUST_CHECK;

/* A consistent version of a regular file's content. */
struct content_version {
	uint64_t ino;
	uint64_t generation;
	uint64_t size;
	int64_t mtime_ns;
	uint8_t hash[SHA256_SIZE];
	bool unchanged; /* nothing was written since the last seal: hash is the known one */
};

/* Takes the content as it is at one instant. Up to inline_max bytes are also put into bytes
 * (cleared first). Larger content is hashed in place under the generation guard; when writers
 * are open or the guard fails it is copied to a snapshot file first (reflink where possible,
 * else a copy whose ranges written meanwhile are copied again under the lock). -ENOENT: the
 * inode is gone; -EREMOTE: the content is not here (hash known: nothing to seal). Blocks on disk
 * only, and with bytes for about a second: -EAGAIN: come again, it goes on from there; or a snapshot is being
 * taken in the background, which content_snapshots tells of. */
int content_seal(struct cache *c, uint64_t ino, uint64_t inline_max, struct buf *bytes,
	struct content_version *ret) MUST_CHECK;

/* From that monotonic time on long hashing and copying ends early: content_seal is -EAGAIN then. INT64_MAX:
 * it does not. */
void content_stop_hashing(struct cache *c, int64_t at_ms);
/* How many times content_seal was -EAGAIN because its second was over, or a snapshot is under way: it only has
 * to be called again. */
uint64_t content_slices(struct cache *c);

/* Snapshots that were taken in the background, of files for which content_seal was -EAGAIN (with bytes, and with
 * more content than is hashed in about a second). While there is one content_seal goes on saying so. journal_kick
 * follows each. It is there until content_sealed or content_refuse_snapshot, the removal of its inode, or until
 * nobody has taken it for a minute. */
#define CONTENT_SNAPSHOTS_MAX 64u
struct content_snapshot {
	uint64_t ino;
	uint64_t as_of;	  /* it has all that journal rows with a time up to this one speak of; not
			   * necessarily what later ones do */
	unsigned refused; /* how many before it, since a version was sealed */
};
/* Those that are there; returns how many. Costs next to nothing. */
unsigned content_snapshots(struct cache *c, struct content_snapshot ret[CONTENT_SNAPSHOTS_MAX]);
/* Its version, as content_seal gives one; for one thread at a time. -EAGAIN: it is not there any more. */
int content_take_snapshot(struct cache *c, const struct content_snapshot *s,
	struct content_version *ret) MUST_CHECK;
/* It cannot be used: another one is to be taken. */
void content_refuse_snapshot(struct cache *c, const struct content_snapshot *s);
/* Why one could not be taken, of a file that waits for the next attempt (content_seal is -EAGAIN until then): -errno,
 * of one such file; 0: there is none. */
int content_failed_snapshot(struct cache *c) MUST_CHECK;
/* Where any are there or under way, waits for a change of that, or for timeout_ms. */
void content_wait_snapshot(struct cache *c, int64_t timeout_ms);
/* By 1, later by -1: somebody waits. Else a file rests after each snapshot as long as that took, and after a failed
 * one for up to five minutes. */
void content_hurry(struct cache *c, int by);
/* After content_stop_hashing: drops all of them and returns when none is under way. */
void content_end_snapshots(struct cache *c);

/* Inside the seal's transaction: records hash, size and mtime of v as the sealed ones; clears
 * dirty when nothing was written since and no writer is open. What is kept of versions before it goes with
 * the commit. -EAGAIN when the inode is gone. */
int content_sealed(struct conn *conn, const struct content_version *v) MUST_CHECK;

/* Reads a sealed version for upload: from its snapshot when there is one, else from the content
 * file as long as it is unchanged. -EAGAIN: it changed, a newer seal will come. read: bytes, or
 * -ESTALE as soon as the content is no longer that version. Several threads may read at once. */
struct content_reader;
int content_open(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE],
	struct content_reader **ret) MUST_CHECK;
uint64_t content_size(const struct content_reader *r);
ssize_t content_read(struct content_reader *r, void *p, size_t n, uint64_t offset) MUST_CHECK;
void content_close(struct content_reader *r); /* NULL is fine */

/* Removes the snapshots of ino other than of hash and of also (NULL: of none). */
void content_drop_snapshots(
	struct cache *c, uint64_t ino, const uint8_t *hash, const uint8_t *also);

/* New content from elsewhere. Begin reserves an inode number and opens its content file; append
 * writes; then either the project step adopts it in a transaction (project.h, struct incoming)
 * or discard removes it. A crash in between leaves a stray file that cache_open removes. */
struct content_writer {
	uint64_t ino;
	int fd;
	uint64_t size;
};
int content_begin(struct cache *c, struct content_writer *ret) MUST_CHECK;
int content_append(struct content_writer *w, const void *p, size_t n) MUST_CHECK;
/* Over what is there, or behind it; w->size is as before, unless it ends behind that. */
int content_overwrite(
	struct content_writer *w, const void *p, size_t n, uint64_t offset) MUST_CHECK;
/* Cuts it, or adds a hole. */
int content_resize(struct content_writer *w, uint64_t size) MUST_CHECK;
/* After content_finish: opens it again. */
int content_reopen(struct cache *c, struct content_writer *w) MUST_CHECK;
/* The hash of what an open one holds; keeps a map of it (content_map.h). Outside any transaction. */
int content_writer_hash(
	struct cache *c, const struct content_writer *w, uint8_t hash[SHA256_SIZE]) MUST_CHECK;
/* Empties it again, for a repeated download. */
int content_restart(struct content_writer *w) MUST_CHECK;
void content_finish(struct content_writer *w); /* closes the descriptor, keeps the file */
void content_discard(struct cache *c, struct content_writer *w);
/* Fills w with a copy (reflink where possible) of the sealed local content of ino if it has that
 * hash; -EAGAIN if not. */
int content_clone(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE],
	struct content_writer *w) MUST_CHECK;

/* In a write transaction: the same for content that came with a record, if ino is clean, has that hash and
 * its content is remote or was cut short. *used: w was taken, as content_install does; else it is the
 * caller's as before. */
int content_offer(struct conn *conn, uint64_t ino, const uint8_t hash[SHA256_SIZE],
	struct content_writer *w, bool *used) MUST_CHECK;
/* Gives inode ino, whose content is remote, the content in w (checked by the caller against the
 * inode's hash), taking w over: the content file gets ino's name. -ESTALE when ino no longer
 * wants it. */
int content_install(struct cache *c, uint64_t ino, struct content_writer *w) MUST_CHECK;

/* What a fetch needs to know: the key, hash and size that ino's content should have. -ESTALE: it
 * has no name any more; -EALREADY: the content is here. */
int content_wanted(struct cache *c, uint64_t ino, struct key *key, uint8_t hash[SHA256_SIZE],
	uint64_t *size) MUST_CHECK;

#endif
