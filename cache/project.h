/*
 * Projection: makes the tree show what the entries say, for a record that was merged.
 *
 * The tree is a function of the entries: a path is there exactly when its entry is live or it has a
 * live entry below it (then it is a directory, whatever its own entry says: a file of that name is
 * hidden, not lost, and comes back when nothing is below it any more). It holds whatever order the
 * records came in.
 */
#ifndef CACHE_PROJECT_H
#define CACHE_PROJECT_H

#include "cache/cache.h"
#include "cache/entry.h"
#include "cache/file.h"

/* Content that came with the record: a writer that is finished (its ino becomes the file's), or
 * NULL: the content stays remote until it is fetched. */
struct incoming {
	struct content_writer *content; /* used is set when the tree took it over */
	bool used;
};

/* Inside a write transaction, after entry_put: e is the merged entry at key; content_changed
 * when its content register changed by this merge, else only attributes or mtime did. Makes
 * missing ancestors, replaces, removes, hides or restores, prunes ancestors that nothing implies
 * any more, and queues the kernel invalidations. keep_ino: the replaced inode is kept for a
 * conflict and returned there (0: there was none). A replaced inode that is open lives on
 * without a name until its last release; if it is written after that, its last release adds a
 * conflict. */
int project_entry(struct conn *conn, struct slice key, const struct entry *e, bool content_changed,
	struct incoming *incoming, uint64_t *keep_ino) MUST_CHECK;

/* After a local tombstone was sealed: removes directories above key that nothing implies any
 * more, and restores a hidden file. */
int project_ancestors(struct conn *conn, struct slice key) MUST_CHECK;

/* After a local change of a directory's owner was sealed: what is below it only because
 * something further below implies it follows, as it does on the other servers. */
int project_owner(struct conn *conn, struct slice key) MUST_CHECK;

/* After attributes of the directory ino were sealed: it does not follow its parent any more. It may
 * have been implied under another name, or before an application changed it. */
int project_owned(struct conn *conn, uint64_t ino) MUST_CHECK;

/* What an inode of several names shows: ret, which is {0}, gets the attributes and the time of those of
 * its names' entries that carry its link id, each by the greatest stamp; entry_mtime(ret) is the
 * time. e (may be NULL) counts as the entry at key, which is a name of ino, and is what is stored there,
 * or will be before anything else asks. pending (may be NULL): something of one of its names waits to be
 * sealed; then ret is not complete. */
int project_shown(struct conn *conn, uint64_t ino, struct slice key, const struct entry *e,
	bool *pending, struct entry *ret) MUST_CHECK;

/* After e was sealed at key, of which ino is the inode (0: none is): what project_shown remembers for the
 * length of the transaction stays true. Without it, or project_entry, it begins anew. */
void project_put(struct conn *conn, uint64_t ino, const struct entry *e);

/* cache_commit's: what inodes show that lost or got a name in this transaction. */
int project_settle(struct conn *conn) MUST_CHECK;

/* After key was sealed from what the tree has there, e being its entry, with a link id: the other names
 * with that id and content become the same inode. Also when the seal found nothing new: two that both had
 * something unsealed were left as they are until one of them has not. Nothing is hidden or replaced. */
int project_sealed(struct conn *conn, struct slice key, const struct entry *e) MUST_CHECK;

/* After the entry at key, which was old, was sealed as another file: ino is not old's inode any
 * more, and what that shows is decided without this name. */
int project_left(struct conn *conn, const struct entry *old, uint64_t ino) MUST_CHECK;

/* Before old, the entry at key, is sealed as by, of other content: an application removed, renamed or
 * replaced what was shown there. When that was a directory over the file that old is, nobody saw the
 * file go: what is kept here of it becomes a conflict. */
int project_over_hidden(struct conn *conn, struct slice key, const struct entry *old,
	const struct entry *by) MUST_CHECK;

/* Whether the directory ino, of that key, is there only because of what lies below it, over a live
 * file or symlink: nobody made it. */
int project_shadowing(struct conn *conn, struct slice key, uint64_t ino, bool *ret) MUST_CHECK;

/* The inode (without a name now) that holds the content of a hidden or displaced file, for its
 * delivery. -ENOENT: not kept here, or with another content. */
int project_hidden_ino(struct conn *conn, struct slice key, const uint8_t hash[SHA256_SIZE],
	uint64_t *ino) MUST_CHECK;

/* Whether an inode that is kept for a conflict at key, or is the file of e, says that e's content is what
 * was sealed of it last, wherever that is now. */
int project_hidden_kept(
	struct conn *conn, struct slice key, const struct entry *e, bool *ret) MUST_CHECK;

#endif
