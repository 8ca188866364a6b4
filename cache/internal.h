/*
 * Private to cache/: what its files share. struct cache, connections, and the steps from which the
 * tree's calls and the projection are made. Nothing here writes a journal row unless it says so.
 *
 * Locks. writer_lock is the writer connection's and is held from cache_begin to commit or rollback;
 * everything marked (W) is guarded by it. The file table's lock is a leaf, so a transaction may ask
 * whether an inode is open. A file's own lock (LOCK_RANK_FILE) is never taken inside a transaction.
 *
 * Detaching and opening. An inode that loses its name is deleted in that transaction unless the
 * file table holds it. file_open enters the table before it reads the row, so either the detaching
 * transaction sees the open, or the open reads a row that is going (a reader keeps its descriptor;
 * a writer finds no row to mark dirty and gets -ENOENT).
 */
#ifndef CACHE_INTERNAL_H
#define CACHE_INTERNAL_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/db.h"
#include "cache/dir_key.h"
#include "cache/durability.h"
#include "cache/file.h"
#include "cache/journal.h"
#include "cache/row_cache.h"
#include "cache/shown.h"
#include "cache/tree.h"
#include "src/base/thread.h"

#define STATEMENT_SLOTS 512 /* power of two; the cache has some 150 literals */
#define INO_BLOCK 65536
#define HLC_AHEAD_MS 2000 /* how far the persisted ceiling of stamps runs ahead */

/* How many levels a path can have: one byte a name and one a slash. */
#define DEPTH_MAX (KEY_MAX / 2 + 1)

struct file_table; /* record.c */
struct times;	   /* tree.c: directory times kept in memory */
struct atimes;	   /* atime.c: access times kept in memory */
struct xattr_filter; /* xattr.c: which inodes have no attributes */

struct note; /* transaction.c: queued invalidations and removals */

struct sweep; /* sweep.c */

struct durability_rules; /* durability.c */
struct partial;
struct partials; /* partial.c */

/* Of the inode table. */
struct totals {
	int64_t inodes;
	int64_t files; /* with content here */
	int64_t bytes; /* of those, by their rows */
};

struct conn {
	struct cache *cache;
	sqlite3 *db;
	bool writer;
	bool in_transaction;
	bool lazy; /* it is one of cache_begin_lazy */
	bool op;   /* or of cache_begin_op */
	bool uncertain; /* its commit failed, or did not */
	struct conn *next; /* idle list, guarded by readers_lock */
	struct {
		const char *sql;
		sqlite3_stmt *statement;
	} slots[STATEMENT_SLOTS];

	/* The writer's, for the transaction that is open (W). */
	struct note *notes;
	struct note **notes_end;
	bool journalled;
	int64_t journal_added; /* rows, less those removed */
	uint64_t last_put; /* the inode that the last rows of the group's journal are of, or 0 */
	uint64_t ceiling;     /* new hlc_ceiling, 0: unchanged */
	uint64_t longest_key; /* likewise */
	uint64_t ino_next;    /* numbers of a block that this transaction reserves, 0: none */
	uint64_t ino_limit;
	struct dir_keys *dir_keys;   /* the writer's, else NULL */
	struct tally *tally;	     /* likewise */
	struct row_cache *rows;	     /* likewise */
	struct shown_memo *shown;    /* likewise */
	struct totals account; /* what it adds to the cache's */
	/* Of the transaction, either sort: the directory that inode_resolve found last. */
	struct dir_found found;
};

struct cache {
	char *state_dir;
	int dir_fd;
	int content_fd;
	int lock_fd;
	int wal_fd; /* for cache_sync; -1 with sync_off */
	bool sync_off;
	bool was_clean; /* the last stop was */
	bool power_lost; /* it was not, and the machine has been started since */
	bool state_volatile;
	uint64_t cut_short; /* files that lost bytes to that; written by recovery only */
	uint64_t *survivors; /* file_next_survivor; written before anybody else has the cache */
	unsigned survivor_count;
	uint64_t reserve_bytes;
	int reserve_fd;
	_Atomic uint64_t reserve_held; /* of it, allocated in the file */
	uint64_t node;
	struct hlc clock;
	_Atomic uint64_t hlc_ceiling; /* persisted; stamps issued stay below it */

	struct mutex writer_lock;
	struct conn *writer;		/* (W) */
	_Atomic pthread_t writer_owner; /* 0: nobody */
	_Atomic int wal_pages;		/* frames in the write-ahead log after the last commit */
	_Atomic bool full;		/* the database found no space since the last checkpoint */
	struct mutex checkpoint_lock;	/* rank FILE: taken before the writer */
	struct conn *checkpointer;	/* guarded by checkpoint_lock; NULL until needed */

	struct mutex readers_lock;
	struct cond readers_cond;
	struct conn *idle; /* guarded by readers_lock */
	unsigned readers;  /* guarded by readers_lock: open, idle ones too */

	struct mutex ino_lock; /* leaf */
	uint64_t ino_next;     /* guarded by ino_lock */
	uint64_t ino_limit;    /* guarded by ino_lock; persisted */
	_Atomic uint64_t ino_flushed; /* an ino_limit that a power cut does not take */

	struct mutex hook_lock; /* leaf; guards the four below */
	cache_invalidate_fn invalidate;
	void *invalidate_ctx;
	cache_fetch_fn fetch;
	void *fetch_ctx;
	cache_range_fn range; /* likewise, as the next */
	void *range_ctx;
	_Atomic uint64_t range_min; /* files of that size can be open without their content; 0: none */

	struct mutex journal_lock; /* leaf */
	struct cond journal_cond;
	uint64_t journal_count; /* guarded by journal_lock: transactions that appended rows, and
				   kicks */

	struct redo *redo; /* guarded by writer_lock, as the next two; NULL until it is open */
	bool redoing;
	bool group_journalled; /* an operation of the group put a journal row */
	_Atomic int64_t displaced_due_ms; /* monotonic: file_settle_displaced has to look then; 0: it has not */
	_Atomic bool grouped;  /* operations are acknowledged that only the writer sees */
	_Atomic uint64_t commits;   /* transactions that an fsync has to make durable */
	struct mutex sync_lock;	    /* leaf; guards the four below */
	struct cond sync_cond;
	uint64_t synced; /* the value of commits that the last flush covers */
	bool syncing;
	int sync_error; /* sticks: after a failed flush nothing is known about the log */

	_Atomic int64_t
		reserve_budget; /* bytes that may still be written before the next statvfs */
	_Atomic int64_t reserve_until_ms; /* and until when, monotonic */
	_Atomic uint64_t snapshots;	  /* snapshot files that exist; 0 saves looking for them */

	_Atomic uint64_t longest_key; /* no key is longer; persisted */
	_Atomic bool linked;	      /* tables link or link_id have, or had, rows */

	struct sweep *sweep;
	struct partials *partials;
	_Atomic int refresh; /* enum refresh_mode */
	struct removals *removals;
	struct hashings *hashings;
	struct snapshot_jobs *snapshot_jobs;
	_Atomic int64_t hash_end_ms;
	_Atomic uint64_t hash_slices; /* that ended before their content did */
	int64_t hash_slice_ms; /* HASH_SLICE_MS; tests have less */
	unsigned hashes_kept;  /* HASHES_KEPT; tests have less */
	uint64_t map_min;      /* content_map.h */
	uint64_t parts_min;    /* content_parts.h */

	uint64_t cache_size; /* limits for evict.c; 0: none, as the next two */
	uint64_t min_free;
	unsigned min_free_percent;
	_Atomic uint64_t tick; /* evict.h */
	struct {
		uint64_t tick; /* rows used before it are not looked at yet; 0: no pass */
		bool fruitful;
		int64_t pause_ms; /* after passes in which nothing could go */
		int64_t next_ms;  /* monotonic */
	} pass;			  /* evict_step's */

	struct troubles *troubles;
	cache_hold_fn hold; /* guarded by hook_lock, as the next */
	void *hold_ctx;
	uint64_t max_dirty;   /* limits for pressure.c; 0: none, as the next */
	uint64_t max_backlog;
	_Atomic int64_t journal_rows;
	_Atomic int64_t unsealed; /* bytes: the sum of the records' */
	_Atomic uint64_t optional; /* a bit for each such region; resync.c, as the next two */
	_Atomic uint64_t out;
	_Atomic uint64_t owed_skip; /* a bit for each region that does not count */
	struct {
		_Atomic int64_t rows;
		_Atomic int64_t bytes;
	} owed[8]; /* REGION_MAX: the outbox's totals, by region */
	struct durability_rules *durability; /* constant; NULL: all is local */
	durability_wait_fn durability_wait; /* guarded by hook_lock, as the next */
	void *durability_ctx;
	bool stores_show;    /* a store into a mapping changes the times of a content file */
	bool times_distinct; /* the content's file system gives a write after a stat another ctime */

	struct file_table *files;
	struct times *times;
	struct xattr_filter *xattrs;
	struct atimes *atimes;
};

/* ---- db.c, transaction.c ---- */

/* A statement without parameters or result. */
int conn_run_literal(struct conn *conn, const char *sql) MUST_CHECK;
/* Ends every statement that was left on a row: it would keep its snapshot. */
void conn_reset_all(struct conn *conn);
/* What this thread changes from now on goes into redo, too; NULL: no longer. */
void conn_note_into(struct redo *redo);
/* Whether this thread is inside a write transaction. */
bool cache_owns_writer(struct cache *c);
void notes_free(struct note *n);


int conn_open(struct cache *c, bool writer, struct conn **ret) MUST_CHECK;
void conn_close(struct conn *conn);
/* A read connection without a transaction, for calls that need one statement only. */
int conn_take(struct cache *c, struct conn **ret) MUST_CHECK;
/* The same for a statement or two with nothing but leaf locks in between: the writer connection
 * when it is idle, whose pages are warm, while a reader finds all of them stale after each commit.
 */
int conn_take_warm(struct cache *c, struct conn **ret) MUST_CHECK;
void conn_give(struct conn *conn);
/* Commits what operations of applications have changed. */
int cache_settle(struct cache *c) MUST_CHECK;
/* With the writer's lock: what stands in the redo log and was rolled back is run again. */
int cache_catch_up(struct cache *c) MUST_CHECK;
/* At open: opens the redo log and commits what a crash left in it. */
int redo_recover(struct cache *c) MUST_CHECK;
void conn_pool_close(struct cache *c);
/* After commit and outside the lock: removes the content file of ino, with its snapshots. */
void conn_remove_content(struct conn *conn, uint64_t ino);
/* Likewise: what is kept of ino's versions before v is of no use any more. */
void conn_sealed(struct conn *conn, const struct content_version *v);
/* What this transaction removes gave its name to ino, whose content is flushed before it goes. */
void conn_replaced_by(struct conn *conn, uint64_t ino);
/* A new inode number, never used before. Needs the writer. */
int conn_new_ino(struct conn *conn, uint64_t *ret) MUST_CHECK;
/* The same outside a transaction, and for content files: no power cut lets the number come again, so
 * what is found under it is nobody's. A flush once in INO_BLOCK. */
int cache_new_ino(struct cache *c, uint64_t *ret) MUST_CHECK;
/* Time of a new stamp; inside the writer's transaction, so journal order and stamps agree. */
int conn_stamp_time(struct conn *conn, uint64_t *ret) MUST_CHECK;

/* Ends the write transaction in scope unless it was committed (set to NULL). */
static inline void cleanup_rollback(struct conn **conn)
{
	if (*conn)
		cache_rollback(*conn);
}
static inline void cleanup_read_end(struct conn **conn)
{
	if (*conn)
		cache_read_end(*conn);
}
static inline void cleanup_give(struct conn **conn)
{
	if (*conn)
		conn_give(*conn);
}
#define AUTO_ROLLBACK CLEANUP(cleanup_rollback)
#define AUTO_READ_END CLEANUP(cleanup_read_end)
#define AUTO_GIVE CLEANUP(cleanup_give)

/* ---- tree.c, tree_change.c, xattr.c: steps inside a transaction ---- */

enum content_state { STATE_NONE = 0, STATE_LOCAL = 1, STATE_REMOTE = 2 };

/* One row of the inode table. */
struct inode_row {
	uint64_t ino;
	uint64_t parent; /* 0: it has no name (the root, too) */
	uint32_t mode;	 /* with type */
	uint32_t uid;
	uint32_t gid;
	uint32_t nlink; /* 0: detached */
	uint64_t size;
	int64_t atime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	enum content_state state;
	bool dirty;
	bool has_hash;
	uint8_t hash[SHA256_SIZE];
	uint32_t xattrs;     /* how many */
	uint64_t generation; /* of the content, as of the last release of a writer */
	uint64_t sealed;     /* the generation that hash describes; 0: none */
	uint64_t used;	     /* the tick of the content's last use; ignored when a row is made */
};

/* Columns of one inode under the alias i, and how column_inode reads them from column first on. */
#define INODE_COLUMNS                                                                              \
	"i.ino, i.parent, i.mode, i.uid, i.gid, i.nlink, i.size, i.atime_ns, i.mtime_ns, "         \
	"i.ctime_ns,"                                                                              \
	" i.state, i.dirty, i.xattrs, i.generation, i.sealed, i.hash, i.used"
void column_inode(sqlite3_stmt *s, int first, struct inode_row *ret);
/* What a caller is shown: open or dirty content and directory times in memory are applied. */
void inode_present(struct cache *c, const struct inode_row *row, struct inode *ret);
/* The place of a name in the listing of a directory: 62 bits of a hash over 2^62, so that it is a
 * position that stays good whatever other names come and go. */
int64_t name_place(struct slice name);
/* -ENAMETOOLONG, -EINVAL for "", -EPERM for the reserved name. */
int name_check(uint64_t parent, struct slice name) MUST_CHECK;
/* The key of name in parent, -ENAMETOOLONG over KEY_MAX, -ENOTDIR, -ENOENT. dir: the parent's row.
 */
int name_key(struct conn *conn, uint64_t parent, struct slice name, struct key *ret,
	struct inode_row *dir) MUST_CHECK;

enum kind mode_kind(uint32_t mode); /* KIND_ABSENT for anything that Meridian does not keep */

/* All of them: -ENOENT when there is none; on either sort of conn. */
int inode_get(struct conn *conn, uint64_t ino, struct inode_row *ret) MUST_CHECK;
int inode_child(
	struct conn *conn, uint64_t parent, struct slice name, struct inode_row *ret) MUST_CHECK;
/* The inode at a path; key "" is the root. -ENOTDIR is reported as -ENOENT. */
int inode_resolve(struct conn *conn, struct slice key, struct inode_row *ret) MUST_CHECK;
/* What the row has as its name: that in its parent, or of a detached inode the key that a remote change took
 * ("": none). -ENOENT: there is no such inode. */
int inode_name(struct conn *conn, uint64_t ino, struct key *ret) MUST_CHECK;
/* The path of an inode; -ENOENT when it or an ancestor has no name. */
int inode_key(struct conn *conn, uint64_t ino, struct key *ret) MUST_CHECK;
/* Heap; -EINVAL when it is not a symlink. */
int inode_target(struct conn *conn, uint64_t ino, char **ret) MUST_CHECK;
int inode_dir_empty(struct conn *conn, uint64_t dir, bool *ret) MUST_CHECK;

/* Makes the inode that row describes and its name. row->ino 0: a new number is drawn and put there;
 * otherwise that of a content_writer. row->parent and nlink are ignored. STATE_LOCAL: the
 * content file must lie there already (and gets row's mtime here); size and hash describe it.
 * target: symlinks only, else NULL. -EEXIST when the name is taken. */
int inode_make(struct conn *conn, uint64_t parent, struct slice name, struct inode_row *row,
	const char *target) MUST_CHECK;
/* Removes the name. The inode is deleted at commit with its content, unless it is open (then at its
 * last release) or keep (then it stays for a conflict row that refers to it). displaced: the key, when a
 * remote change takes the name: what is not as it was sealed gets a conflict row, of an open file at its last
 * release, of another one by file_settle_displaced, and after a crash at the next cache_open, and is not
 * deleted before that; NULL: a local removal. */
int inode_detach(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino, bool keep,
	const struct slice *displaced) MUST_CHECK;
/* Moves the name; the target name must be free. */
int inode_move(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
	uint64_t new_parent, struct slice new_name) MUST_CHECK;
/* link.c: the names of an inode beyond the first. The dentry is the caller's; ctime becomes now. */
int link_init(struct cache *c) MUST_CHECK;
int link_add(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name) MUST_CHECK;
/* One of several names goes. */
int link_remove(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name) MUST_CHECK;
/* -ENOENT when it is no additional name of ino. */
int link_move(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
	uint64_t new_parent, struct slice new_name) MUST_CHECK;
/* Calls fn for the key of each name, the first one first. */
typedef int (*link_name_fn)(void *ctx, struct slice key);
int link_each(struct conn *conn, uint64_t ino, link_name_fn fn, void *ctx) MUST_CHECK;
/* A JOURNAL_PUT row for each name but the key except (p NULL: none), all of one time. */
int link_journal(struct conn *conn, uint64_t ino, struct slice except, uint64_t time) MUST_CHECK;
/* One more name for an inode that has one. -EEXIST when the name is taken. */
int inode_link(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name) MUST_CHECK;

/* link_id.c: which file an inode is, origin 0: it never had a second name. */
int link_id_get(struct conn *conn, uint64_t ino, struct link_id *ret) MUST_CHECK;
int link_id_set(struct conn *conn, uint64_t ino, struct link_id id) MUST_CHECK;
/* Makes one unless ino has one. */
int link_id_make(struct conn *conn, uint64_t ino, bool *made) MUST_CHECK;
/* Whether a file's content, as last sealed, is e's. That of one that is being written may be ahead of it
 * (file_has_unsealed), as it may be ahead of its names' entries. */
bool shows_sealed(const struct inode_row *row, const struct entry *e);
/* An inode with a name, other than except, that has e's link id and content. -ENOENT. */
int link_id_find(
	struct conn *conn, const struct entry *e, uint64_t except, uint64_t *ret) MUST_CHECK;
/* Moves all names of one inode to another; what is open of from lives on without a name. */
int link_absorb(struct conn *conn, uint64_t into, uint64_t from) MUST_CHECK;

/* Gives a detached inode (nlink 0; it may be open) a name again, as inode_detach took it. For
 * project_place.c: a hidden file that comes back. -EEXIST when the name is taken. */
int inode_attach(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name) MUST_CHECK;
/* Deletes a detached inode: row, xattrs, and at commit its content. For the conflict list, too. */
int inode_delete(struct conn *conn, uint64_t ino) MUST_CHECK;

/* mask: SET_MODE (07777 of mode), SET_UID, SET_GID, SET_MTIME. For a regular file with local
 * content the content file gets the mtime, too. ctime becomes now. */
int inode_set_attr(struct conn *conn, uint64_t ino, unsigned mask, uint32_t mode, uint32_t uid,
	uint32_t gid, int64_t mtime_ns) MUST_CHECK;
/* Puts a JOURNAL_PUT row for each of the inode's keys, stamped now; nothing when it has no name. */
int journal_inode(struct conn *conn, uint64_t ino) MUST_CHECK;
/* Replaces all extended attributes by the encoding of entry.h (empty slice: none). -EINVAL when
 * malformed. */
int inode_set_xattrs(struct conn *conn, uint64_t ino, struct slice encoded) MUST_CHECK;
/* Appends the encoding of entry.h to ret. */
int inode_get_xattrs(struct conn *conn, uint64_t ino, struct buf *ret) MUST_CHECK;
/* What is made in dir takes from its default ACL, or else loses the bits of umask: changes row's
 * mode, puts the attributes of row->ino, which need not be there yet, and counts them in
 * row->xattrs. */
int inode_inherit(struct conn *conn, const struct inode_row *dir, uint32_t umask,
	struct inode_row *row) MUST_CHECK;
/* After chmod: makes the access ACL of row, if it has one, agree with row->mode. */
int inode_follow_mode(struct conn *conn, const struct inode_row *row) MUST_CHECK;
struct xattr_filter *xattr_filter_new(void); /* free(3) frees it */
int xattr_filter_load(struct cache *c) MUST_CHECK;

/* Puts the access time in memory, if there is one, into the attributes. */
void atimes_apply(struct cache *c, struct inode *inode);
void atimes_forget(struct cache *c, uint64_t ino);
/* The content of ino is being used. row_used: the tick that its row has. In memory as well. */
void content_used(struct cache *c, uint64_t ino, uint64_t row_used);
/* Writes those that wait, all or, where few or young, none; for tree_flush_times. */
int atimes_flush(struct cache *c, bool all) MUST_CHECK;
struct atimes *atimes_new(void);
void atimes_free(struct atimes *t);

/* The directory's mtime and ctime are now: in memory, written by tree_flush_times with a journal
 * row when record is true, else (a remote change made the name) kept out of the journal. */
void times_touch(struct cache *c, uint64_t dir, bool record);
/* Forgets what is in memory for dir (its mtime is being set, or it is gone). */
void times_forget(struct cache *c, uint64_t dir);
/* Puts what is in memory for a directory into its attributes. */
void times_apply(struct cache *c, struct inode *inode);
struct times *times_new(void);
void times_free(struct times *t);

/* ---- file.c, file_detached.c, record.c ---- */

struct file;
/* A new inode's only open, before its transaction commits: takes fd over; on a failed commit
 * file_forget. */
int file_adopt(struct cache *c, uint64_t ino, int fd, bool writable, struct file **ret) MUST_CHECK;

struct file_table *file_table_new(void);
void file_table_free(struct file_table *t); /* abandon: closes descriptors that are still open */
/* Content is in use here and differs from the sealed generation of row. */
bool file_has_unsealed(struct cache *c, const struct inode_row *row);
/* The same of a regular file, in use or not. */
bool file_is_unsealed(struct cache *c, const struct inode_row *row);
/* From inode_detach: remembers that the last release must look at the row. True when it is open. Its content then
 * becomes a conflict, under the key in its row, if it is of another generation than sealed, which somebody else
 * has; NULL: it does not. */
bool file_note_detached(struct cache *c, uint64_t ino, const uint64_t *sealed);
/* Records the content that v describes as one that lost key; the conflict keeps the detached
 * inode. */
#define CONFLICT_DISPLACED "written after a remote change had replaced the file"
int file_add_conflict(struct conn *conn, const struct inode_row *row, struct slice key,
	const struct content_version *v, const char *reason) MUST_CHECK;
/* Nothing of the detached inode is to be listed (any more). */
int file_clear_displaced(struct conn *conn, uint64_t ino) MUST_CHECK;
/* It was made without a name (O_TMPFILE), and is open. */
void file_note_unnamed(struct cache *c, uint64_t ino);
/* Such a file, which still has none. */
bool file_is_unnamed(struct cache *c, uint64_t ino);
/* It has a name again: what is written to it counts as any other write. */
void file_note_attached(struct cache *c, uint64_t ino);
bool file_is_open(struct cache *c, uint64_t ino);
/* The open content's stat; false when ino is not open here. */
bool file_stat_open(struct cache *c, uint64_t ino, struct stat *ret);

/* ---- content.c, snapshot.c ---- */

#define CONTENT_NAME_SIZE 24 /* "xx/0123456789abcdef" and NUL */
void content_name(uint64_t ino, char name[CONTENT_NAME_SIZE]);
/* The inode of a file's name below xx/; false: it is no such name. */
bool content_ino(const char *name, uint64_t *ret);
/* Opens content/<xx>/<ino>; O_CREAT makes the directory when needed. A descriptor or -errno. */
int content_file(struct cache *c, uint64_t ino, int flags) MUST_CHECK;
void content_remove(struct cache *c, uint64_t ino); /* and its snapshots; nothing there is fine */
/* Flushes the directory that holds ino's content file. */
int content_sync_dir(struct cache *c, uint64_t ino) MUST_CHECK;
/* Whether these n bytes are zeros for a place where the file has none but zeros, or nothing, anyway: who leaves
 * them out leaves it sparse, and sets the size. */
bool content_stays_hole(int fd, const void *p, size_t n, uint64_t offset) MUST_CHECK;
int content_set_mtime(struct cache *c, uint64_t ino, int64_t mtime_ns) MUST_CHECK;
/* Inside a transaction: the file of that name gets the name of row's content file, and the row says that
 * its content, of size bytes, is here. */
int content_adopt(struct conn *conn, const struct inode_row *row, int dir_fd, const char *name,
	uint64_t size) MUST_CHECK;
/* Finds out what the file system's times can tell: times_distinct, stores_show. */
void content_probe_times(struct cache *c);
/* -ENOSPC when less than reserve_free is free. Cheap: statvfs every 100 ms at most. */
int content_check_reserve(struct cache *c, uint64_t bytes) MUST_CHECK;

/* ---- reserve.c ---- */

/* Before the database is opened; reserve_bytes is set. */
void reserve_open(struct cache *c);
/* After a failure for lack of space; false: there is nothing to give up. Any thread. */
bool reserve_give(struct cache *c);
/* What has to be left free. */
uint64_t reserve_free(const struct cache *c);

/* ---- host.c ---- */

/* Whether the machine was started anew since the last call; remembers this boot. */
int host_power_lost(struct conn *conn, const char *boot_id, bool *ret) MUST_CHECK;
/* A new *node when the state is a copy. */
int host_check_identity(struct conn *conn, const char *host, uint64_t *node) MUST_CHECK;

/* ---- sweep.c ---- */

/* Every statement that adds, removes or changes inode rows tells the difference that it makes to
 * the totals: inodes, files with content here, bytes of those by their rows. */
void conn_account(struct conn *conn, uint64_t ino, int inodes, int files, int64_t bytes);
/* At commit, under the writer's lock. */
void sweep_publish(struct conn *conn);
/* Inside the transaction that takes the clean mark off, or puts it on. */
int sweep_load(struct cache *c, struct conn *conn) MUST_CHECK;
int sweep_store(struct cache *c, struct conn *conn) MUST_CHECK;
struct sweep *sweep_new(void);
void sweep_free(struct sweep *s);
void sweep_usage(struct cache *c, struct cache_usage *ret);
/* Whether the content file of ino is its own: the row says that it is here. */
int sweep_owned(struct conn *conn, uint64_t ino, bool *ret) MUST_CHECK;

/* ---- trouble.c ---- */

struct troubles *troubles_new(void);
void troubles_free(struct troubles *t);
/* error: -errno, or 0. True: it, or its error, is new. */
bool trouble_note(struct cache *c, uint64_t ino, enum cache_trouble kind, int error);
void trouble_clear(struct cache *c, uint64_t ino, enum cache_trouble kind);

/* ---- removal.c ---- */

struct removals *removals_new(void);
void removals_free(struct removals *q);
/* content_remove, now or soon. replaced_by: whose content must be durable before; 0: nobody's. */
void removals_add(struct cache *c, uint64_t ino, uint64_t replaced_by);
/* Removes what waits now; true: there was something. */
bool removals_drain(struct cache *c);

/* ---- pressure.c ---- */

struct record;
int pressure_load(struct cache *c, struct conn *conn) MUST_CHECK; /* at open */
int pressure_reload(struct conn *conn) MUST_CHECK; /* of regions, when one came or went */
void pressure_publish(struct conn *conn);	    /* at commit, under the writer's lock */
/* So many bytes were written to an open file since it was sealed; or were just written to it, whose
 * size that is now. */
void pressure_unsealed(struct cache *c, struct record *rec, uint64_t bytes);
void pressure_wrote(struct cache *c, struct record *rec, uint64_t bytes, uint64_t size);
/* content_check_reserve for what an application makes or writes; -ENOSPC also when too much waits for
 * regions. */
int content_check_new(struct cache *c, uint64_t bytes) MUST_CHECK;

/* ---- resync.c ---- */

/* Follows the region table: at open, and when regions came or went. */
int resync_masks(struct conn *conn) MUST_CHECK;
/* The same, after a change was committed. */
int resync_masks_load(struct cache *c) MUST_CHECK;
/* A change of that time, in ms, is not enqueued for regions that are out, or no longer. */
int resync_note(struct conn *conn, uint64_t ms) MUST_CHECK;

/* ---- durability.c ---- */

void durability_rules_free(struct durability_rules *r); /* NULL is fine */

/* ---- partial.c ---- */

/* block: bytes of a block, 0: PARTIAL_BLOCK. */
struct partials *partials_new(uint64_t block);
void partials_free(struct partials *t);
/* At open, after recovery. */
int partials_load(struct cache *c) MUST_CHECK;
/* As partial_get, for an inode whose row says so. */
int partial_open(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t size,
	struct partial **ret) MUST_CHECK;
/* Its file, read-write; borrowed. */
int partial_fd(const struct partial *p);
/* Cheap when there are none. With any lock but a leaf. */
bool partial_known(struct cache *c, uint64_t ino);
/* Drops it; unused: only when nobody refers to it. bytes (may be NULL): how many blocks had. */
bool partial_remove(struct cache *c, uint64_t ino, bool unused, uint64_t *bytes);
/* Drops the least recently used one that nobody refers to, if it was used in that tick or before. */
bool partial_evict(struct cache *c, uint64_t before, uint64_t *bytes);

/* ---- evict.c ---- */

/* At open: the tick goes on above all that the database has. */
int evict_load(struct cache *c, struct conn *conn) MUST_CHECK;

/* ---- recover.c ---- */

/* At open, before anybody else has the cache. */
int recover_run(struct cache *c, struct err *err) MUST_CHECK;

static inline int64_t stat_mtime_ns(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* When it was written, by the clock: an mtime that was set ahead of it is not. */
static inline int64_t stat_written_ns(const struct stat *st)
{
	int64_t mtime = stat_mtime_ns(st);
	int64_t ctime = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec;

	return mtime < ctime ? mtime : ctime;
}

static inline struct timespec timespec_of_ns(int64_t ns)
{
	int64_t sec = ns / 1000000000, rest = ns % 1000000000;

	if (rest < 0) {
		rest += 1000000000;
		sec--;
	}
	return (struct timespec){.tv_sec = sec, .tv_nsec = (long)rest};
}

#endif
