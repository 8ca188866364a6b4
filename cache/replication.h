/* Private to cache/: what the files share that keep entries, the outbox, conflicts and the projection. */
#ifndef CACHE_REPLICATION_H
#define CACHE_REPLICATION_H

#include "cache/db.h"
#include "cache/entry.h"
#include "src/base/buf.h"

/* Rows of the counter table: kept in the transactions that change what they count. */
enum counter {
	COUNTER_ORDER = 1,	/* the outbox's sequence: the number last drawn */
	COUNTER_LIVE = 2,	/* entries that are live */
	COUNTER_TOMBSTONE = 3,	/* entries that are not */
	COUNTER_HELD = 4,	/* rows of held */
	COUNTER_CONFLICT = 5,	/* rows of conflict, hidden files not counted */
	COUNTER_BAD_SEGMENT = 6 /* damaged segments ever skipped */
};
int counter_get(struct conn *conn, enum counter id, uint64_t *ret) MUST_CHECK;
/* Adds delta; the new value in *ret unless NULL. In the table from the commit on (tally.h). */
int counter_add(struct conn *conn, enum counter id, int64_t delta, uint64_t *ret) MUST_CHECK;

/* The keys strictly below a key, as an interval of byte strings: low < k < high. */
struct key_range {
	size_t low_len;
	size_t high_len;
	char low[KEY_MAX + 1];
	char high[KEY_MAX + 1];
};
/* -EINVAL when key is over KEY_MAX. */
int key_range_below(struct slice key, struct key_range *ret) MUST_CHECK;
static inline struct slice key_range_low(const struct key_range *r)
{
	return (struct slice){r->low, r->low_len};
}
static inline struct slice key_range_high(const struct key_range *r)
{
	return (struct slice){r->high, r->high_len};
}

/* An entry as the database keeps it. */
void entry_encode(const struct entry *e, struct buf *b);
/* -EIO when it is malformed. ret is overwritten on success only. */
int entry_decode(struct slice encoded, struct entry *ret) MUST_CHECK;

/* An outbox row for one region, unless it has one for that key which is still to be announced: for a region that
 * is new, or came back. */
int outbox_seed(
	struct conn *conn, unsigned region, struct slice key, const struct entry *e) MUST_CHECK;
/* Removes all rows of a region. */
int outbox_clear(struct conn *conn, unsigned region) MUST_CHECK;

/* Bytes of a reason, of a conflict or a damaged segment, that are kept. */
#define REASON_MAX 200

/* Reason of the conflict row that keeps the content of a hidden file which some region still lacks.
 * Such rows are the projection's: neither counted nor scanned as conflicts, gone when the file
 * comes back. */
#define CONFLICT_HIDDEN "hidden"

#endif
