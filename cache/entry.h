/*
 * The replicated map: for each path three last-writer-wins registers that merge independently.
 *
 *   content     kind, size, hash, symlink target, link id, and the mtime that the write left; a
 *               tombstone is a content too
 *   attributes  permission bits, owner, extended attributes
 *   mtime       a modification time set on its own (utimensat; a directory's)
 *
 * The mtime that a reader sees is that of whichever of content and mtime has the greater stamp; so
 * neither a chmod nor a touch undoes a concurrent write, nor the reverse.
 */
#ifndef CACHE_ENTRY_H
#define CACHE_ENTRY_H

#include "cache/cache.h"
#include "src/base/buf.h"
#include "src/base/hash.h"

/* Which file it is, for one that has or had several names: names with one id and one content are
 * one inode. Made once, with the second name, by the server origin; no number of its is used twice.
 */
struct link_id {
	uint64_t origin; /* 0: none */
	uint64_t number;
};

static inline bool link_id_equal(struct link_id a, struct link_id b)
{
	return a.origin == b.origin && a.number == b.number;
}

struct entry {
	enum kind kind;
	uint64_t size;		   /* KIND_FILE */
	uint8_t hash[SHA256_SIZE]; /* KIND_FILE */
	char *target;		   /* KIND_SYMLINK; heap, owned */
	struct link_id link;	   /* KIND_FILE, KIND_SYMLINK */
	int64_t content_mtime_ns;
	struct stamp content_stamp;

	uint32_t mode; /* 07777 */
	uint32_t uid;
	uint32_t gid;
	/* varint count, then for each, sorted by name: bytes name, bytes value */
	struct buf xattrs;
	struct stamp attr_stamp;

	int64_t mtime_ns;
	struct stamp mtime_stamp; /* time 0: never set */

	struct vector vector;
};

#define ENTRY_XATTRS_MAX (192 * 1024) /* bytes of the encoding */

void entry_done(struct entry *e); /* also the CLEANUP function; leaves {0} */
/* to is overwritten, not freed. */
int entry_copy(struct entry *to, const struct entry *from) MUST_CHECK;
/* The mtime that the tree shows. */
int64_t entry_mtime(const struct entry *e);
/* The greatest of the three stamps. */
struct stamp entry_stamp(const struct entry *e);
bool entry_live(const struct entry *e);
/* Of kind, size, hash and target; of mode, owner and xattrs. */
bool entry_content_equal(const struct entry *a, const struct entry *b);
bool entry_attr_equal(const struct entry *a, const struct entry *b);
/* The order of two attribute registers: by stamp, then by value. < 0, 0, > 0. */
int entry_attr_cmp(const struct entry *a, const struct entry *b);

/* -ENOENT when the path was never seen. ret is overwritten on success only. */
int entry_get(struct conn *conn, struct slice key, struct entry *ret) MUST_CHECK;
int entry_put(struct conn *conn, struct slice key, const struct entry *e) MUST_CHECK;
/* The same for a caller that knows the kind of the entry there (-1: none), from this transaction. */
int entry_put_over(
	struct conn *conn, struct slice key, int before, const struct entry *e) MUST_CHECK;
/* True in *ret when a live entry lies below key. */
int entry_has_live_below(struct conn *conn, struct slice key, bool *ret) MUST_CHECK;
/* Up to limit keys greater than after, at or below prefix ("": all), in byte order. live_only
 * leaves out tombstones. */
typedef int (*entry_key_fn)(void *ctx, struct slice key);
int entry_scan(struct conn *conn, struct slice prefix, struct slice after, bool live_only,
	unsigned limit, entry_key_fn fn, void *ctx) MUST_CHECK;
/* Live ones at and below a key, counted: a million a second. */
int entry_count_below(struct conn *conn, struct slice key, uint64_t *ret) MUST_CHECK;
int entry_count(struct conn *conn, uint64_t *live, uint64_t *tombstones) MUST_CHECK;

#endif
