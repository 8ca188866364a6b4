/*
 * Private to the projection's files: a name of the tree, what it is to look like, and the steps at it.
 *
 * All inside the caller's write transaction. 0 or -errno; place.now is what is there after a step.
 */
#ifndef CACHE_PROJECT_PLACE_H
#define CACHE_PROJECT_PLACE_H

#include "cache/entry.h"
#include "cache/internal.h"

struct incoming;

/* A name and what is there now. */
struct place {
	struct conn *conn;
	struct slice key;
	struct inode_row parent;
	struct slice name;
	struct inode_row now; /* ino 0: nothing */
	bool was_here;	      /* the content of what is replaced was, all of it or some */
};

/* Attributes to show. */
struct look {
	uint32_t mode; /* permission bits */
	uint32_t uid;
	uint32_t gid;
	int64_t mtime_ns;
	struct slice xattrs; /* borrowed from the entry */
	bool owned;	     /* by an entry's attributes; else implied */
};

/* ---- project_look.c ---- */

/* e NULL: no entry. */
struct look look_of(const struct entry *e, enum kind shown, const struct inode_row *parent);
/* Makes the inode look so; what is implied below it follows. */
int look_apply(struct conn *conn, const struct inode_row *row, const struct look *look) MUST_CHECK;
/* Whether the inode has its parent's owner because no entry says anything else. */
int look_set_implied(struct conn *conn, uint64_t parent, uint64_t ino, bool implied) MUST_CHECK;
/* The kernel is told to forget the attributes. */
void look_invalidate(struct conn *conn, uint64_t ino);
/* The root's own entry is e. */
int project_root(struct conn *conn, const struct entry *e) MUST_CHECK;

/* ---- project_place.c ---- */

int place_find(struct conn *conn, struct slice key, const struct inode_row *parent,
	struct place *ret) MUST_CHECK;
/* Takes what is there off its name. keep: its inode is not deleted, it is for a conflict. */
int place_detach(struct place *p, bool keep) MUST_CHECK;
/* Takes off what another content replaces; its inode goes to the caller when it wants one (keep_ino is not
 * NULL, and 0). */
int place_replace(struct place *p, uint64_t *keep_ino) MUST_CHECK;
/* The name is needed for a directory. e: the entry there, NULL for none. */
int place_hide(struct place *p, const struct entry *e) MUST_CHECK;
/* On a free name. */
int place_make_dir(struct place *p, const struct entry *e) MUST_CHECK;
/* Puts the live file or symlink of e on a free name. incoming: as project_entry's, or NULL. */
int place_make_leaf(struct place *p, const struct entry *e, struct incoming *incoming) MUST_CHECK;
/* Notes whether the directory at p is shown over a live file or symlink. */
int place_note_shadowing(struct place *p, const struct entry *e) MUST_CHECK;
/* Whether row is the symlink of e. */
int place_same_target(struct conn *conn, const struct inode_row *row, const struct entry *e,
	bool *ret) MUST_CHECK;

/* ---- project_link.c ---- */

/* What p shows has e's content: sees to it that it is e's file, too, and no other inode is. *left: p has
 * another inode, or got names; what it shows is seen to. */
int place_settle_file(struct place *p, const struct entry *e, bool *left) MUST_CHECK;

#endif
