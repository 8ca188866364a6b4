/* Private to seal*.c: the rule that makes an entry of a key's state, and sets of keys sealed in one
 * transaction. */
#ifndef REPLICATOR_SEAL_INTERNAL_H
#define REPLICATOR_SEAL_INTERNAL_H

#include <stdatomic.h>

#include "cache/file.h"
#include "cache/journal.h"
#include "replicator/seal.h"
#include "src/base/thread.h"

/* ---- seal_entry.c: pure ---- */

/* What a key is now: the tree's state, with the content that was sealed where the file was dirty.
 */
struct seal_state {
	const struct local_state *local;
	uint64_t size;	     /* KIND_FILE: of the sealed content */
	const uint8_t *hash; /* KIND_FILE */
	int64_t mtime_ns;
	const struct entry *shown; /* of several names: what their entries make of it; else NULL */
	uint64_t node;		   /* with shown: this server's */
};

/* Registers that a state changes. */
enum { SEAL_CONTENT = 1, SEAL_ATTR = 2, SEAL_MTIME = 4 };
/* old is {0} for a path never seen. */
unsigned seal_changes(const struct entry *old, const struct seal_state *state);
/* The least time that a new stamp of old must exceed. */
uint64_t seal_floor(const struct entry *old);
/* ret: old with the registers in changes taken from state under stamp. ret is overwritten; -ENOMEM.
 */
int seal_apply(const struct entry *old, const struct seal_state *state, unsigned changes,
	struct stamp stamp, struct entry *ret) MUST_CHECK;

/* ---- seal_set.c ---- */

/* Of a local path; never 0. */
static inline uint64_t seal_hash(struct slice key)
{
	uint64_t h = slice_hash(key);

	return h ? h : 1;
}

struct seal_target {
	struct slice key; /* borrowed */
	uint64_t time;	  /* of the newest row; 0: none, a fresh stamp is taken */
	unsigned first;	  /* positions in seal_set.order */
	unsigned last;
	unsigned enqueues; /* how many of the set's were done when this one was last enqueued, or else begun */
	uint64_t dir;	   /* hash of its directory's key, where one is held back */
	bool blocked;	   /* cannot be sealed now */
	bool lost;	   /* its content is gone: there is nothing to seal, ever */
	bool looked;	   /* local is valid */
	bool sealed;	   /* version is valid */
	bool changed;	   /* change is to be enqueued */
	bool attr_only;	   /* content and time stay as the entry has them */
	unsigned lead;	   /* the set's first target of the same inode; it takes the version for all */
	bool offered;	   /* its version is of a snapshot in sealer.offers */
	bool recorded;	   /* of the lead: the inode has the version */
	bool told;	   /* of the lead: the names outside the set have journal rows */
	struct local_state local;
	struct content_version version;
	struct stamp stamp;
	uint64_t size;
	bool fresh;
	bool shared;
	struct slice from; /* borrowed; the name that it had before, when it was renamed */
	unsigned moves;	   /* index + 1 in seal_set.moves of the first one of it, … */
	unsigned moves_last; /* … and of the last; 0: there is none */
	unsigned visit;	     /* seal_set.visit of the search that came here last */
	bool has_base;	   /* the change from the version base is small */
	uint8_t base[SHA256_SIZE];
};

/* Bits of an item of order. */
#define SEAL_TOGETHER 0x80000000u /* a change that is one with those beside it that have this bit … */
#define SEAL_BEGINS 0x40000000u	  /* … from one with this bit on */
#define SEAL_INDEX 0x3fffffffu

/* Content that was at a name went to another one. */
struct seal_move {
	struct slice to;
	unsigned next; /* index + 1 of the next one of the same name; 0: none */
};

struct seal_room {
	struct seal_room *next;
	char bytes[];
};

/* Keys that are sealed together. order names them by index, once for each change, oldest first. */
struct seal_enqueued {
	unsigned target;
	uint64_t dir; /* hash of its directory's key */
};

struct seal_set {
	struct seal_target *targets;
	unsigned count;
	unsigned *order;
	unsigned order_count;
	unsigned max;	 /* of targets; order has three times as many */
	unsigned *table; /* index + 1 by hash of the key; 0: empty */
	unsigned table_size;
	unsigned *inodes; /* the same by inode, of leads whose inode has several names */
	struct slice moved_from, moved_to; /* directories: what is below to was below from */
	struct seal_room *room; /* for keys that are nowhere else */
	struct seal_move *moves; /* as many as order may have */
	unsigned move_count;
	unsigned visit;
	struct seal_enqueued *enqueued; /* each time; as many as order may have */
	unsigned enqueued_count;
};

/* A version that is on its way to a region, and holds back the next one of its key. */
struct seal_wait {
	uint64_t key;	   /* its hash; 0: none */
	uint64_t version;  /* the first bytes of its hash */
	int64_t end_ms;	   /* monotonic, as the other */
	int64_t wanted_ms; /* when it was last asked for */
};

/* The rename of a small directory that could not be sealed with its batch, and since when there has been
 * one. */
struct seal_stuck {
	uint64_t seq; /* of its row; 0: none */
	int64_t since_ms; /* monotonic */
	unsigned rounds;
	bool given_up;	 /* it is done by parts, and so are those that waited behind it then: */
	uint64_t behind; /* rows from up to that time */
};

/* How far the rename of a directory has come. */
struct seal_renaming {
	uint64_t seq; /* of its row; 0: none is under way */
	bool walked;  /* all names of the tree are done, those of the map are left */
	struct key last;
};

#define SEAL_WAITS 512u
#define SEAL_WAIT_FORGET_MS 120000 /* after wanted_ms */

struct sealer {
	struct cache *cache;
	struct sealer_options options;
	struct inline_cache *inline_cache;
	_Atomic unsigned waiting; /* for sealer_seal_all's turn */
	struct mutex lock; /* rank REPLICATOR: one sealing at a time; guards all below */
	sealer_tick_fn tick; /* of the call that has the lock, or NULL */
	void *tick_ctx;
	struct journal_row *rows;
	unsigned *starts; /* where each row's part of set.order begins, and the end */
	struct seal_set set;
	struct buf bytes; /* of the file being sealed */
	bool patient;	  /* sealer_step: may leave for the next round what is better sealed then */
	uint64_t read_end; /* the journal's last row when the batch was read; 0: it goes on */
	bool overtaken; /* in this round */
	/* Of the batch (seal_offer.c): snapshots that its rows may be sealed with, … */
	struct content_snapshot offers[CONTENT_SNAPSHOTS_MAX];
	unsigned offers_count;
	uint64_t cut_end; /* … and its last row, where it was cut for one of them and what is behind must
			   * not be overtaken; else 0 */
	bool cut_overtakes; /* something would have been */
	unsigned overtaken_rounds; /* in a row */
	struct seal_wait waits[SEAL_WAITS];
	struct seal_renaming going;
	struct seal_stuck stuck;
	struct mutex progress_lock; /* a leaf; guards the two below */
	bool renaming;
	struct seal_progress progress;
	bool late; /* the last batch was a full one and its first row had waited for LATE_MS */
};

int seal_set_init(struct seal_set *set, unsigned max) MUST_CHECK;
/* Clears the set. A failure leaves its size as it was. */
int seal_set_resize(struct seal_set *set, unsigned max) MUST_CHECK;
void seal_set_done(struct seal_set *set);
void seal_set_clear(struct seal_set *set);
/* Notes one change of key; the key is borrowed until the set is cleared. Returns its index. There
 * must be room. */
unsigned seal_set_add(struct seal_set *set, struct slice key, uint64_t time);
/* For so many changes of other keys. */
bool seal_set_has_room(const struct seal_set *set, unsigned changes);
/* NULL: the set does not have it. */
struct seal_target *seal_set_find(struct seal_set *set, struct slice key);
/* Whether a change of key (and of all below it) concerns targets that are not blocked; block: they are then. */
bool seal_set_touches(struct seal_set *set, struct slice key, bool below, bool block);
/* Memory for keys, until the set is cleared; NULL: there is none. */
char *seal_set_room(struct seal_set *set, size_t size);
/* The changes from position begin of order on are one: those of a directory are seen all or none. */
void seal_set_together(struct seal_set *set, unsigned begin);

/* Outside any transaction: reads the targets' states and takes the content of dirty files. A target
 * that cannot be sealed now is blocked; the first reason that will not pass by itself is returned
 * in *failure (else untouched). */
int seal_set_prepare(struct sealer *s, struct seal_set *set, int *failure) MUST_CHECK;
/* In the write transaction: reads the states again; targets that became something else since are
 * blocked. */
int seal_set_verify(struct sealer *s, struct conn *conn, struct seal_set *set) MUST_CHECK;
/* In the same transaction: new entries and outbox rows for all targets that are not blocked.
 * *sealed counts the new versions. */
int seal_set_apply(
	struct sealer *s, struct conn *conn, struct seal_set *set, unsigned *sealed) MUST_CHECK;

/* ---- seal_moved.c ---- */

/* Content of from went to to; both are in the set. */
void seal_moved_note(struct seal_set *set, struct slice from, struct slice to);
/* The name that is there now, and has the content that left t, as far as that is known; else empty. */
struct slice seal_moved_to(struct seal_set *set, struct seal_target *t);

/* ---- seal_span.c ---- */

/* The target that is to be enqueued where change i of the set, of t, stands; NULL: none. At t's first one t->changed
 * is known. */
struct seal_target *seal_span_enqueued(struct seal_set *set, struct seal_target *t, unsigned i);

/* ---- seal_whole.c ---- */

#define WHOLE_NAMES 2000u

enum seal_fit {
	SEAL_FITS,
	SEAL_FULL,  /* too much for what is left of the set */
	SEAL_PARTS, /* it goes into no set */
};

/* Adds a RENAME_DIR row to s->set, with all below it. The set is untouched unless *ret is SEAL_FITS. */
int seal_whole_add(struct sealer *s, const struct journal_row *row, enum seal_fit *ret) MUST_CHECK;

/* ---- seal_offer.c ---- */

/* For the first count of s->rows: finds the snapshots taken in the background that these may be sealed with
 * (s->offers), and lowers *count, not to 0, to where rows begin that a snapshot does not have. */
int seal_offers_begin(struct sealer *s, unsigned *count) MUST_CHECK;
/* That of ino, or NULL. */
const struct content_snapshot *seal_offer(const struct sealer *s, uint64_t ino);
/* After the batch: there are none any more. What could not be sealed without overtaking is refused. */
void seal_offers_end(struct sealer *s);

/* ---- seal_tree.c ---- */

/* Seals everything at and below both keys of a RENAME_DIR row, in bounded transactions, then
 * removes the row. A patient sealer only so much at a time: *end says whether that was all, else the
 * next call for the row goes on. */
int seal_rename_dir(struct sealer *s, const struct journal_row *row, bool *did, bool *end,
	int *failure) MUST_CHECK;

#endif
