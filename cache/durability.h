/*
 * Durability beyond this disk: which files' fsync (and close) waits until regions have them, the hook
 * by which the mount asks the replicator to wait, and what of the tables tells how far a file is.
 */
#ifndef CACHE_DURABILITY_H
#define CACHE_DURABILITY_H

#include "cache/cache.h"
#include "src/base/buf.h"

/* How many of the regions that are not optional must have a change. */
enum durability {
	DURABILITY_LOCAL = 0,  /* none */
	DURABILITY_HOME = 1,   /* the home region */
	DURABILITY_QUORUM = 2, /* more than half */
	DURABILITY_ALL = 3,
};
const char *durability_name(enum durability mode);

struct durability_wish {
	enum durability mode;
	bool on_close; /* close(2) of a file that was open for writing does what fsync(2) does */
};

#define DURABILITY_RULES_MAX 64
/* For paths that match. Of several rules that say something of a path, the first one counts. */
struct durability_rule {
	const char *glob; /* fnmatch(3) without flags: '*' matches a slash, too */
	bool has_mode;
	bool has_on_close;
	struct durability_wish wish;
};

/* Copies. Before the cache is used by more than one thread; without a call all is local.
 * -EINVAL for too many rules. */
int durability_set(struct cache *c, struct durability_wish volume,
	const struct durability_rule *rules, unsigned count) MUST_CHECK;
/* True when some path wants more than local; likewise on_close. Cheap. */
bool durability_matters(struct cache *c);
bool durability_on_close(struct cache *c);
/* Of the inode under its names, the strongest wish. A directory matches with a slash at its end, too.
 * Local without a name. */
int durability_of(struct cache *c, uint64_t ino, struct durability_wish *ret) MUST_CHECK;

/* Waiting. wait is the replicator's: it returns at once and later calls done exactly once, from a
 * thread of its own: 0 when as many regions as ino wants have all that was changed of it (of a
 * directory: of its names) before the call; -EIO when they do not have it in time, it stays journalled;
 * -ESTALE when another server's version has taken its place, and what was written lives on as a conflict
 * only. durability_wait may call done before it returns: with 0 where nothing is to be waited for,
 * -EIO without a replicator. */
typedef void (*durability_done_fn)(void *arg, int result);
typedef void (*durability_wait_fn)(
	void *ctx, uint64_t ino, enum durability mode, durability_done_fn done, void *arg);
void cache_set_durability_waiter(struct cache *c, durability_wait_fn fn, void *ctx);
void durability_wait(struct cache *c, uint64_t ino, durability_done_fn done, void *arg);

/* ---- for the replicator: how far an inode is ---- */

enum durability_subject {
	SUBJECT_NAMED,
	SUBJECT_GONE,	   /* nobody can find it any more */
	SUBJECT_DISPLACED, /* another server's version took its name */
};
struct durability_target {
	enum durability_subject subject;
	bool dir;
	uint64_t names; /* a hash of its names: another one when it was renamed */
};
int durability_look(struct conn *conn, uint64_t ino, struct durability_target *ret) MUST_CHECK;
/* Calls fn for each name; stops at the first result but 0, and returns it. */
typedef int (*durability_key_fn)(void *ctx, struct slice key);
int durability_names(struct conn *conn, uint64_t ino, durability_key_fn fn, void *ctx) MUST_CHECK;

/* True in *ret when the journal has a row of key from up to time (an HLC value), or one that moves a
 * directory above it. in_dir: or of a name in the directory key; of a long journal true is said without a
 * look at all of it. */
int durability_unsealed(
	struct conn *conn, struct slice key, bool in_dir, uint64_t time, bool *ret) MUST_CHECK;

/* Calls fn for rows of names in the directory key that a region has not been told of, as far as their oldest
 * untold change has an order number up to order: at most limit. *more: there are further ones. */
typedef int (*durability_row_fn)(void *ctx, struct slice key, struct stamp stamp);
int durability_untold(struct conn *conn, unsigned region, struct slice key, uint64_t order,
	unsigned limit, durability_row_fn fn, void *ctx, bool *more) MUST_CHECK;
/* The newest order number. */
int durability_order(struct conn *conn, uint64_t *ret) MUST_CHECK;

/* ---- for the mount ---- */

/* The attribute that shows which regions have a file; not listed, not stored, not to be set. */
#define DURABILITY_XATTR "user.meridian.state"
/* Appends a line for each region: "NAME: here", "NAME: 12 s behind", "NAME: pending", "NAME: failed: why",
 * …; of a directory: of all that is at or below it. At most DURABILITY_TEXT_MAX bytes. No network. */
#define DURABILITY_TEXT_MAX 4096
int durability_text(struct cache *c, uint64_t ino, struct buf *ret) MUST_CHECK;

#endif
