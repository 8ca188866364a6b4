/*
 * The journal: one row per change that an application made here, in order, until it is sealed. Rows
 * say which key changed and when; what it changed to is read from the tree when it is sealed.
 */
#ifndef CACHE_JOURNAL_H
#define CACHE_JOURNAL_H

#include "cache/cache.h"
#include "cache/entry.h"

enum journal_op {
	JOURNAL_PUT = 1,    /* made, written, or attributes changed: seal the key's state */
	JOURNAL_REMOVE = 2, /* name removed */
	JOURNAL_RENAME = 3, /* hint: the old key; not a directory */
	/* hint: the old key; expanded by the sealer over everything below */
	JOURNAL_RENAME_DIR = 4,
};

struct journal_row {
	uint64_t seq;
	enum journal_op op;
	uint64_t time; /* HLC value of the call; the node is this one. Of several changes of one
			* key in a row, between two commits, that of the first. */
	struct key key;
	struct key hint;
};

/* Appends inside a write transaction (the tree's own functions do). */
int journal_append(struct conn *conn, enum journal_op op, struct slice key, struct slice hint,
	uint64_t time) MUST_CHECK;

/* Up to max rows with seq > after, oldest first, into the caller's array; *count tells how many. */
int journal_read(struct conn *conn, uint64_t after, unsigned max, struct journal_row *rows,
	unsigned *count) MUST_CHECK;
/* Removes the rows first to last after they are sealed, in the seal's transaction. */
int journal_remove(struct conn *conn, uint64_t first, uint64_t last) MUST_CHECK;
/* True in *ret when a row with that key or hint waits. */
int journal_has_row(struct conn *conn, struct slice key, bool *ret) MUST_CHECK;
/* The same of rows with a lower seq. */
int journal_has_row_before(
	struct conn *conn, struct slice key, uint64_t seq, bool *ret) MUST_CHECK;
/* The time of the newest row for key, 0 when there is none. */
int journal_time(struct conn *conn, struct slice key, uint64_t *ret) MUST_CHECK;
/* True in *ret when such a row for key waits, or a RENAME_DIR row above key (as key or hint), or when
 * the file at key is open and holds unsealed writes. */
int journal_pending(struct conn *conn, struct slice key, bool *ret) MUST_CHECK;

/* The keys, and the hints, of the rows that have come after row seq, and whether all below them changed, too; the
 * key is valid in the call only. Stops at the first result of fn but 0, and returns it. */
typedef int (*journal_key_fn)(void *ctx, struct slice key, bool below);
int journal_keys_since(struct conn *conn, uint64_t seq, journal_key_fn fn, void *ctx) MUST_CHECK;

/* Puts a JOURNAL_PUT row for each name of ino that has none and for which except is false: they show
 * the content that was sealed under time. */
typedef bool (*journal_except_fn)(void *ctx, struct slice key);
int journal_other_names(struct conn *conn, uint64_t ino, journal_except_fn except, void *ctx,
	uint64_t time) MUST_CHECK;

struct journal_stats {
	uint64_t rows;
	uint64_t oldest_ms; /* hlc_ms of the oldest row, 0 when empty */
};
/* Cheap, however many rows there are. */
int journal_stats(struct conn *conn, struct journal_stats *ret) MUST_CHECK;

/* Waits until a row was appended since *seen (a counter that it then updates) or timeout_ms passed. */
void journal_wait(struct cache *c, uint64_t *seen, int64_t timeout_ms);
/* Wakes the waiters. */
void journal_kick(struct cache *c);

/* The state of a key in the tree now, for sealing. */
struct local_state {
	enum kind kind; /* KIND_ABSENT: no such path */
	uint64_t ino;
	uint32_t nlink;
	struct link_id link;
	uint64_t size; /* of a clean file; a dirty one's comes from content_seal */
	bool dirty;    /* content may differ from hash: content_seal tells */
	bool has_hash;
	bool remote; /* the content is not here */
	uint8_t hash[SHA256_SIZE];
	char *target;  /* symlink; heap */
	uint32_t mode; /* permission bits only, 07777 */
	uint32_t uid;
	uint32_t gid;
	int64_t mtime_ns;
	struct buf xattrs; /* encoded as entry.h says */
};
int journal_local_state(struct conn *conn, struct slice key, struct local_state *ret) MUST_CHECK;
/* The same without target and xattrs, to see what there is to do. */
int journal_glance(struct conn *conn, struct slice key, struct local_state *ret) MUST_CHECK;
void local_state_done(struct local_state *s);

/* Names below the directory at key, depth first, in batches: calls fn for up to limit paths
 * greater than after in the order of the walk (a directory before its content, names by
 * place). Used to expand RENAME_DIR. */
typedef int (*journal_walk_fn)(void *ctx, struct slice key);
int journal_walk(struct conn *conn, struct slice root, struct slice after, unsigned limit,
	journal_walk_fn fn, void *ctx) MUST_CHECK;

#endif
