/* The steps that change the tree's rows, for the calls that are made of them (tree_change.c,
 * tree_rename.c); those that other files use too are in internal.h. All of them: inside the
 * caller's write transaction; 0 or -errno, and after an error the caller rolls back. */
#ifndef CACHE_INODE_CHANGE_H
#define CACHE_INODE_CHANGE_H

#include "cache/internal.h"

/* -ENAMETOOLONG when the object's key has no room for it; dir: and for a slash. */
int key_fits(const struct key *key, bool dir) MUST_CHECK;
/* Keeps an upper bound of the length of every key, as an object's (len bytes), so that a directory's
 * rename seldom has to look at what is below. Rounded up: it is written a dozen times in the life of
 * a volume. */
int key_note_length(struct conn *conn, uint64_t len) MUST_CHECK;

/* -EEXIST when the name is taken; -ENOENT when it is not ino's. */
int dentry_insert(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino) MUST_CHECK;
int dentry_delete(struct conn *conn, uint64_t parent, struct slice name, uint64_t ino) MUST_CHECK;

/* row->ino is set. The inode alone, with nlink 1; and with its dentry. */
int inode_insert(struct conn *conn, uint64_t parent, struct slice name, const struct inode_row *row,
	const char *target) MUST_CHECK;
int inode_insert_named(struct conn *conn, uint64_t parent, struct slice name,
	const struct inode_row *row, const char *target) MUST_CHECK;
/* The name in the inode's row, or in its link's; the dentries are the caller's. */
int inode_rename(struct conn *conn, uint64_t ino, uint64_t parent, struct slice name,
	uint64_t new_parent, struct slice new_name) MUST_CHECK;
/* row: as inode_get gave it, but for what is to change. */
int inode_write_attr(struct conn *conn, const struct inode_row *row) MUST_CHECK;

/* A journal row, stamped now. hint: the other key, or NULL. */
int journal_change(struct conn *conn, enum journal_op op, const struct key *key,
	const struct key *hint) MUST_CHECK;
/* The journal's rows that stand last are those of ino, and of nothing else. */
void journal_note_put(struct conn *conn, uint64_t ino);

/* cache_commit, after which *conn is NULL, whatever comes of it. */
static inline int cache_commit_taken(struct conn **conn)
{
	struct conn *ending = *conn;

	*conn = NULL;
	return cache_commit(ending);
}

#endif
