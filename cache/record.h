/*
 * Private to record.c, file*.c, content.c and snapshot.c: the in-memory record of an inode whose
 * content is in use.
 *
 * Generation. Every change of content raises it, under the record's lock and before the bytes are
 * written, so a reader that finds it unraised after reading has read none of the new bytes. It
 * starts from the row's and goes back there when the last writer is released; `sealed` of the row
 * is the generation that its hash describes.
 *
 * Marking. `marked` says that the row is known to be dirty. An opening writer counts itself in
 * writers and then reads marked; content_sealed, inside the writer's transaction, clears marked and
 * then reads writers, and sets it again if there are any. Both orders are sequentially consistent,
 * so either the opener marks the row (after that transaction) or the seal leaves it marked. A row
 * that was read outside a transaction never sets marked: a seal may be about to commit it as clean.
 *
 * Unseen writes (file_unseen) raise nothing by themselves. Whoever consults the generation observes
 * first: size, mtime and ctime of the content file other than at the last look count as a change.
 * Then the generation is raised after the bytes, so who has read bytes observes again before he
 * trusts them.
 */
#ifndef CACHE_RECORD_H
#define CACHE_RECORD_H

#include "cache/internal.h"

#define BLOCK_BITS 16 /* of the map of blocks that are written while a snapshot is copied */

/* What tells one state of a content file from another, as far as the file system can tell. */
struct content_look {
	uint64_t size;
	int64_t mtime_ns;
	int64_t ctime_ns;
	bool racy; /* a write just after it may have left the same times */
};

enum {
	UNSEEN_DIRECT = 4, /* O_DIRECT: bytes may land after the times changed */
	UNSEEN_OTHER = 1,  /* not all of them only append */
	UNSEEN_MAPS = 2
}; /* a shared writable mapping may exist */

struct record {
	uint64_t ino;
	struct record *next; /* guarded by the table's lock, as are the next five */
	unsigned refs;	     /* opens, seals, readers of versions */
	unsigned opens;
	bool detached;	       /* the last release must look at the row */
	bool unnamed;	       /* made without a name, and may get one */
	_Atomic bool gone;     /* it lost its name, and is not open since: who opens it has a name that the kernel
				* was not told of yet. Written under the table's lock */
	bool displaced;	       /* a remote change took its name, */
	uint64_t displaced_generation; /* and what is not of this one is a conflict */

	_Atomic unsigned writers;
	_Atomic bool marked;
	_Atomic bool
		sealed_open; /* a seal left the inode dirty because of a writer: the last release
			      * must look again. Set before writers is read, as marked is */
	_Atomic uint64_t generation;
	_Atomic bool fresh; /* just made: nobody holds the generation for a version, so changes
			     * need not raise it, and the row is right. Ends with record_version */

	struct mutex lock; /* guards content against snapshots, and the rest */
	bool loaded;	   /* generation comes from the row */
	_Atomic int fd;	 /* read-write, shared by all opens; -1: not open. Changes under lock; stays
			    while opens > 0 */
	_Atomic(struct partial *) partial; /* the content is not all here, and fd is its file's. Set
					    * with fd, cleared under lock when fd is another file … */
	struct partial *left;		   /* … and then kept here for those that are looking at it */
	_Atomic uint64_t used; /* the tick when fd was opened */
	bool dir_synced; /* the content directory was flushed since the file was made */
	bool retry;	 /* the last release could not be written: the record lives on for it */
	bool flushed;	 /* file_flush put the row for journalled */
	uint64_t journalled; /* generation at the last journal row that was put for content */
	_Atomic int64_t
		changed_ms; /* monotonic time of the first change after that, plus 1; 0: none.
				     * Cleared under lock only */
	uint8_t *copying;   /* map of blocks to copy again, NULL: no snapshot is being made */
	size_t copying_bytes;
	bool copying_failed; /* the map could not grow */

	_Atomic uint64_t unsealed; /* bytes: pressure.c */
	_Atomic bool unseen;	       /* file_unseen was called: writers write unseen */
	_Atomic unsigned unseen_flags; /* UNSEEN_ of all that called it */
	_Atomic uint64_t unseen_count; /* of those calls */
	struct content_look seen;      /* guarded by the table's lock: the content file when it was
					* last looked at */
	_Atomic int64_t next_try_ms;   /* no snapshot of unseen writers' content before that */
};

/* A reference (made when there is none); is_open counts it as an open, too. NULL: memory is out. */
struct record *record_get(struct cache *c, uint64_t ino, bool is_open);
/* One more reference to a record that is held. */
void record_ref(struct cache *c, struct record *rec);
/* Ends one open and keeps its reference. True: it was the last one of a detached inode, whose row
 * has to be looked at; *displaced: its content has to be recorded as a conflict, which nobody else is told. */
bool record_end_open(struct cache *c, struct record *rec, bool *displaced);
/* The row had no name when this open read it. Unless it was open when it lost that, nobody may write to it. */
void record_note_gone(struct cache *c, struct record *rec);
/* References to up to max records from bucket *at on; moves *at behind them. 0: no more. */
unsigned record_collect(struct cache *c, unsigned *at, struct record **found, unsigned max);
/* Nobody but the caller, who has rec->lock, refers to it; who comes now waits for that lock before he
 * looks at the row. */
bool record_is_idle(struct cache *c, struct record *rec);
/* Drops a reference that is not an open. */
void record_put(struct cache *c, struct record *rec);
/* With rec->lock: takes the generation from row unless it is known. */
void record_load(struct record *rec, const struct inode_row *row);
/* With rec->lock, before bytes change: raises the generation, marks blocks. */
void record_changing(struct record *rec, uint64_t offset, uint64_t length);
/* With rec->lock: the generation for one who holds it for a version from now on. */
uint64_t record_version(struct record *rec);
/* The file's state now. */
int record_look(struct cache *c, int fd, struct stat *st, struct content_look *ret) MUST_CHECK;
/* For certain nothing was written between the two looks. */
bool record_look_same(const struct content_look *before, const struct content_look *after);
/* From now on writes may come unseen, until there are no writers; flags of this opener. rec->fd is open. */
void record_unseen(struct cache *c, struct record *rec, unsigned flags);
/* A change for certain, whether or not the file's times show one. */
void record_assume_changed(struct record *rec);
/* Somebody may write unseen now. */
static inline bool record_is_unseen(struct record *rec)
{
	return atomic_load(&rec->unseen) && atomic_load(&rec->writers) > 0;
}
/* When writes may come unseen: finds out whether some did, and counts them as a change of
 * everything. Before every use of generation or changed_ms. With any lock but a leaf. */
void record_observe(struct cache *c, struct record *rec);
/* Inside the seal's transaction: the record's part of content_sealed. True: may be recorded as
 * clean. */
bool record_try_clean(struct cache *c, uint64_t ino, uint64_t generation, bool row_matches);

#endif
