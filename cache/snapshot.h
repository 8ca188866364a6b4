/* Private to content.c, snapshot*.c and unseen.c: files that keep a sealed version of content. */
#ifndef CACHE_SNAPSHOT_H
#define CACHE_SNAPSHOT_H

#include "cache/cache.h"
#include "cache/record.h"
#include "src/base/hash.h"

#define SNAPSHOT_NEW "new"   /* until it has the name of its hash: one that is taken by content_seal … */
#define SNAPSHOT_NEXT "next" /* … and one that is taken in the background */

/* Takes a snapshot of rec's content as SNAPSHOT_NEXT; v is what it is of. hashed: v has the hash of the
 * generation that it names. -EAGAIN: not now; -ENOENT: the content is gone. */
int snapshot_take(struct cache *c, struct record *rec, bool hashed,
	struct content_version *v) MUST_CHECK;
/* Gives it the name of its hash, for snapshot_open. */
int snapshot_keep(struct cache *c, uint64_t ino, const char *last,
	const uint8_t hash[SHA256_SIZE]) MUST_CHECK;
void snapshot_remove_next(struct cache *c, uint64_t ino);

/* Copies [at, end) by way of buffer (256 KiB); ends early where from does. -EAGAIN when the time is over
 * (content_stop_hashing), -ENOENT when from was removed. */
int snapshot_copy_range(
	struct cache *c, int from, int to, uint64_t at, uint64_t end, uint8_t *buffer) MUST_CHECK;

/* unseen.c: fills the empty file to with the content from, as it is at one instant although there are
 * writers that the cache does not see, and v but for the hash. key: the inode's, empty when it has no
 * name. -EAGAIN: not now. May hold writers off for a moment (cache_set_holder). */
int snapshot_unseen(struct cache *c, struct record *rec, const struct key *key, int from, int to,
	struct content_version *v) MUST_CHECK;
/* It was tried just now, or holding writers off took so long that the next time has to wait. */
bool snapshot_unseen_later(struct record *rec);

/* Those of ino but for that version and the one that was sealed last, which is on its way until the next one is
 * committed. Outside any transaction. */
void snapshot_drop_older(struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE]);

/* v is recorded as sealed, and that committed: what was kept for it until then, and of versions before it, goes.
 * Outside any transaction, since a large file's extents take long to free. */
void snapshot_sealed(struct cache *c, const struct content_version *v);

/* A read descriptor and the size, or -errno (-ENOENT). */
int snapshot_open(
	struct cache *c, uint64_t ino, const uint8_t hash[SHA256_SIZE], uint64_t *size) MUST_CHECK;

#endif
