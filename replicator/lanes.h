/*
 * Which rows of the outbox a region's workers deliver next: small before large, and nothing for
 * ever.
 *
 * Four lanes: objects that follow their announcement, and uploads of three ranges of sizes. Each
 * lane of uploads has a share of the workers that no other may take, so that the largest file waits
 * for no small one and a small one for none of them; what the larger ones leave of half of the
 * workers, small uploads may have. Each lane is read in rounds: the outbox from its beginning to the
 * end that it had then. So a row that is put off, or that somebody works on, hides none behind it, and
 * rows that keep coming hide none before them.
 *
 * Not thread-safe: the deliverer's lock guards all but lane_due, which is its dispatcher's.
 */
#ifndef REPLICATOR_LANES_H
#define REPLICATOR_LANES_H

#include "cache/outbox.h"

enum lane { LANE_OBJECT, LANE_SMALL, LANE_LARGE, LANE_HUGE, LANES };

enum { LANE_ROWS = 64 };
#define LANE_SMALL_MAX (UINT64_C(8) << 20)
#define LANE_LARGE_MAX (UINT64_C(256) << 20)

struct lane_queue {
	struct outbox_row rows[LANE_ROWS];
	unsigned head, count;
	unsigned working; /* rows taken and not ended */
	/* the dispatcher's: where the round stands, and where it ends */
	struct outbox_upload_page page;
	uint64_t end;
};

struct lanes {
	unsigned threads; /* at least 1 */
	struct lane_queue queue[LANES];
};

enum lane lane_of(const struct outbox_row *row);
/* The rows of a lane that are due and next in its round, or from the beginning when that gave none. */
int lane_due(struct lanes *l, struct conn *conn, unsigned region, enum lane lane, int64_t now_ms,
	unsigned max, struct outbox_row *rows, unsigned *count) MUST_CHECK;
/* False: the queue is full. */
bool lane_put(struct lanes *l, enum lane lane, const struct outbox_row *row);
/* The next row for a worker; false: none may be taken now. Ended by lane_end. */
bool lane_take(struct lanes *l, struct outbox_row *ret);
void lane_end(struct lanes *l, const struct outbox_row *row);
/* All queues are empty. */
bool lanes_empty(const struct lanes *l);
void lanes_clear(struct lanes *l);

#endif
