/*
 * The cache: everything of one volume that is kept on local disk. Opening, closing, transactions,
 * and the two callbacks by which the mount and the replicator meet here.
 *
 *   cache.h    open/close, connections and transactions, clock, callbacks
 *   tree.h     inodes, names, attributes, extended attributes; each change with its journal row
 *   file.h     open files and their content; versions of content for the replicator
 *   journal.h  intake of the replicator: what changed here and is not sealed yet
 *   entry.h    the replicated map: per path the last-writer-wins registers
 *   outbox.h   what each region still lacks
 *   progress.h regions, cursors, watermarks, conflicts, small settings
 *   project.h  entries made visible in the tree
 *   evict.h    content that goes because it can be fetched again
 *   durability.h  fsync that waits for regions
 *   pressure.h    writers that are slowed and refused
 *
 * Keys are paths relative to the mount's root, components joined by '/', no leading or trailing
 * one; the root is the empty key. They are bytes, not text; struct slice carries them.
 *
 * Errors: -errno everywhere. -ENOSPC when the disk is full (nothing was changed), -EIO when SQLite
 * reports damage. Every call is thread-safe unless its comment says otherwise.
 */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "src/base/attribute.h"
#include "src/base/err.h"
#include "src/base/fnv.h"
#include "src/base/hlc.h"

#define KEY_MAX 1024	   /* bytes of a path */
#define NAME_MAX_BYTES 255 /* bytes of a component */
#define ROOT_INO 1

/* Borrowed bytes. */
struct slice {
	const char *p;
	size_t len;
};

static inline struct slice slice_of(const char *s)
{
	return (struct slice){s, strlen(s)};
}

static inline bool slice_equal(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

/* FNV-1a (src/base/fnv.h). */
static inline uint64_t slice_hash(struct slice s)
{
	return fnv1a(FNV1A_BASIS, s.p, s.len);
}

/* A key by value. */
struct key {
	size_t len;
	char p[KEY_MAX + 1]; /* NUL-terminated for messages; len counts */
};

static inline struct slice key_slice(const struct key *k)
{
	return (struct slice){k->p, k->len};
}

/* False (ret untouched) when s is over KEY_MAX bytes. */
bool key_set(struct key *ret, struct slice s) MUST_CHECK;
/* True for the root and for paths that can exist: no empty, ".", ".." or over-long component, no
 * NUL, not ".meridian" or below it, at most KEY_MAX bytes. */
bool key_valid(struct slice s);
/* The parent's part of s ("" for a name in the root) and the last component. s is not empty. */
struct slice key_parent(struct slice s);
/* Whether key is dir ("": the root) or lies below it. */
bool key_at_or_below(struct slice key, struct slice dir);
struct slice key_name(struct slice s);
/* How many bytes at p, of which there are n > 0, go into an object's key as they are; 0: the first is
 * written in three, as docs/bucket-format.md says. */
size_t key_plain_len(const unsigned char *p, size_t n);
/* The length of s as an object's key, without the slash that ends a directory's. It is the sum of its
 * components' and of the slashes. */
size_t key_escaped_len(struct slice s);

enum kind {
	KIND_ABSENT = 0, /* as the content of an entry: a tombstone */
	KIND_FILE = 1,
	KIND_DIR = 2,
	KIND_SYMLINK = 3,
};

struct cache;

struct cache_options {
	const char *state_dir; /* made with mode 0700 when its parent exists */
	/* content writes and creations get ENOSPC when less is free, so that sealing, deletion and
	 * the journal still can go on; 0: the smaller of 16 MiB and 5 % of the file system */
	uint64_t reserve_bytes;
	/* Content that can be fetched again goes, least recently used first, when there is more of
	 * it than cache_size bytes, or less free than min_free bytes or min_free_percent of the
	 * file system. 0: no limit. */
	uint64_t cache_size;
	uint64_t min_free;
	unsigned min_free_percent;
	uint64_t partial_block; /* bytes of a block of partial content; 0: 1 MiB. Tests have less */
	uint64_t map_min; /* tests: CONTENT_MAP_MIN of content_map.h is another; 0: it is not */
	uint64_t parts_min; /* likewise CONTENT_PARTS_MIN of content_parts.h */
	/* What may wait for regions before writers are slowed and refused (pressure.h): bytes of content,
	 * rows of the journal and the outbox. 0: no limit. */
	uint64_t max_dirty;
	uint64_t max_backlog;
	bool sync_off; /* tests and the simulation: never flush to disk */
	bool no_lock;  /* tests: do not flock */
	/* Tests: another boot of the machine, another machine. NULL: this one's. */
	const char *boot_id;
	const char *host;
};

/* Opens or makes the state: takes the lock file (-EBUSY with the holder's pid in err when
 * another daemon has it), checks the database (application_id, user_version), migrates it, and
 * recovers: orphaned inodes are removed, dirty inodes get a journal row. What takes time in
 * proportion to the volume is left to cache_sweep. A database that cannot be read or is from a
 * newer version is refused with a clear text. A state that is a copy gets a new node id. */
int cache_open(const struct cache_options *options, struct cache **ret, struct err *err) MUST_CHECK;

/* Marks the stop as clean and releases everything. All files must be released, all conns ended. */
void cache_close(struct cache *c);

/* As a killed process would leave it: closes descriptors, marks nothing. For crash tests. */
void cache_abandon(struct cache *c);

/* This server's identity, random, made with the state and kept for its life. */
uint64_t cache_node(const struct cache *c);
/* The volume's clock; starts above every stamp in the database. */
struct hlc *cache_clock(struct cache *c);
/* A new stamp of this node. */
struct stamp cache_stamp(struct cache *c);

/* Makes everything that committed before this call survive power loss, but for lazy transactions
 * after the last one that was not. Concurrent calls share one flush; none is made when nothing
 * needs it. Returns after fdatasync of the write-ahead log. */
int cache_sync(struct cache *c) MUST_CHECK;

/* On: content of removed files waits for a thread that calls cache_remove_content. Off, as at the
 * start: it goes at once; what waits has gone on return, and that thread gets false. */
void cache_defer_removals(struct cache *c, bool on);
/* Waits for such content and removes it. False: it is off. */
bool cache_remove_content(struct cache *c);

/* Allocates what was given up of the reserve, if there is room again; for the same thread as the next. */
void cache_refill_reserve(struct cache *c);
/* Moves the write-ahead log into the database if it is over bytes, or the disk was found full: the log is then
 * begun anew, in the room that it has. For the housekeeper's thread. */
int cache_checkpoint(struct cache *c, uint64_t bytes) MUST_CHECK;

/* What cache_open left to do: after an unclean stop, content files that no row owns are removed and
 * the totals of cache_usage counted. One short step, some milliseconds; *more: there is another.
 * For the housekeeper; what is left at the end is done after the next open. */
int cache_sweep(struct cache *c, bool *more) MUST_CHECK;

/* Whether a directory (its parent, when it is not there) is on a file system that lives in memory:
 * what was not pushed dies with the machine. */
bool cache_dir_volatile(const char *path);

/* Reads every page of a state's database and puts right what the last stop left, while nobody has
 * it open. 0, or -EIO with the first faults in report; -EBUSY and the others as cache_open. */
struct buf;
int cache_check(const char *state_dir, struct buf *report, struct err *err) MUST_CHECK;

/* The state was not closed properly, and the machine has been started since: what was not flushed may be
 * gone. Stays so until the next open. */
bool cache_power_lost(const struct cache *c);

struct cache_usage {
	uint64_t content_bytes; /* of content files, apparent size */
	uint64_t content_files;
	uint64_t inodes;
	bool counting;	    /* those three are still being counted, after an unclean stop */
	bool state_volatile; /* the state directory dies with the machine */
	uint64_t cut_short; /* files that lost bytes to a power loss, found at this open */
	uint64_t database_bytes;
	uint64_t free_bytes; /* of the file system */
	uint64_t total_bytes;
};
int cache_usage(struct cache *c, struct cache_usage *ret) MUST_CHECK;

/* Connections. A conn is one SQLite connection with its prepared statements, used by one thread
 * at a time. Functions that take a conn may be called with either sort, unless they change
 * something. */
struct conn;

/* A read connection of the pool, inside a read transaction (one consistent view until it ends). */
int cache_read_begin(struct cache *c, struct conn **ret) MUST_CHECK;
void cache_read_end(struct conn *conn);

/* The writer connection inside BEGIN IMMEDIATE, its mutex held until the end. Exactly one of
 * commit and rollback ends it. After commit returned 0 the change survives kill -9. A failed
 * commit has rolled back. The thread may hold no cache file lock and do no network I/O inside. */
int cache_begin(struct cache *c, struct conn **ret) MUST_CHECK;
/* The same for what no fsync has to wait for: it is done again when a power cut takes it (sealing,
 * pushing, pulling, and the journal rows of dirty files). */
int cache_begin_lazy(struct cache *c, struct conn **ret) MUST_CHECK;
/* An operation of an application: its change survives kill -9 when the commit returned, like any
 * other, but SQLite commits it later, with others. Only what is bound through db.h's functions and run
 * by conn_run or conn_row is made, and nothing may depend on time or chance. */
int cache_begin_op(struct cache *c, struct conn **ret) MUST_CHECK;
int cache_commit(struct conn *conn) MUST_CHECK;
void cache_rollback(struct conn *conn);
struct cache *conn_cache(struct conn *conn);

/* Told after commit (and after the writer's mutex is released) what the kernel may still have
 * cached. Called on the committing thread; must not block nor call the kernel. */
struct invalidation {
	uint64_t parent;  /* directory whose name changed, 0: none */
	const char *name; /* borrowed, NUL-terminated; NULL: none */
	uint64_t ino;	  /* inode whose attributes or content changed, 0: none */
	bool content;	  /* its pages too */
};
typedef void (*cache_invalidate_fn)(void *ctx, const struct invalidation *i);
void cache_set_invalidator(struct cache *c, cache_invalidate_fn fn, void *ctx); /* NULL: none */
/* Queues one on a write transaction; delivered by its commit, dropped by its rollback. */
void conn_invalidate(struct conn *conn, const struct invalidation *i);

/* Fetching of content that is not here. fetch is the replicator's: it must return at once and
 * later call done exactly once from a thread of its own, with 0 when the content is installed,
 * or -errno. Without a fetcher cache_fetch answers done(-EIO). */
typedef void (*cache_fetch_done)(void *arg, int result);
typedef void (*cache_fetch_fn)(void *ctx, uint64_t ino, cache_fetch_done done, void *arg);
void cache_set_fetcher(struct cache *c, cache_fetch_fn fn, void *ctx);
void cache_fetch(struct cache *c, uint64_t ino, cache_fetch_done done, void *arg);

/* Reading content that is not here by ranges (partial.h). range is the replicator's: it must return at
 * once and later call done exactly once from a thread of its own, with 0 when bytes [offset, offset + n)
 * of p are here or p is of no use any more, or -errno. done NULL: they are here and were read, for
 * whoever reads ahead. It may keep p with a reference of its own. From then on regular files of at
 * least min bytes can be opened for reading before their content is here; fn NULL: none. */
struct partial;
typedef void (*cache_range_fn)(void *ctx, struct partial *p, uint64_t offset, uint64_t n,
	cache_fetch_done done, void *arg);
void cache_set_ranger(struct cache *c, cache_range_fn fn, void *ctx, uint64_t min);
void cache_range(struct cache *c, struct partial *p, uint64_t offset, uint64_t n,
	cache_fetch_done done, void *arg);
/* The limit that is set; UINT64_MAX: none. */
uint64_t cache_range_min(struct cache *c);

/* Holding writers off. hold is the mount's: it calls run(arg) once, on the calling thread, while no
 * write(2), truncation or fallocate of the inode, whose key that is, can begin or be under way, and
 * returns what run did. -EOPNOTSUPP: it cannot do that; -EAGAIN: not now, or it did not last until
 * run ended. run must not call into the mount. */
typedef int (*cache_hold_run)(void *arg);
typedef int (*cache_hold_fn)(
	void *ctx, uint64_t ino, struct slice key, cache_hold_run run, void *arg);
void cache_set_holder(struct cache *c, cache_hold_fn fn, void *ctx); /* NULL: none */
int cache_hold(struct cache *c, uint64_t ino, struct slice key, cache_hold_run run,
	void *arg) MUST_CHECK;

/* Files that somebody should know about. */
enum cache_trouble {
	TROUBLE_BUSY = 0, /* written without pause: no version of it could be taken yet */
	TROUBLE_LOST = 1, /* its content file is missing or damaged: EIO, or fetched again */
	TROUBLE_FAILED = 2, /* no snapshot of it could be taken in the background; tried again */
	TROUBLE_KINDS = 3,
};
struct cache_trouble_file {
	enum cache_trouble kind;
	int error; /* -errno; 0: the kind says it all */
	int64_t since_ms; /* real time */
	struct key key;
};
/* Up to max of them; returns how many, and in count all of each kind. */
int cache_troubles(struct cache *c, struct cache_trouble_file *ret, unsigned max,
	uint64_t count[TROUBLE_KINDS]);

#endif
