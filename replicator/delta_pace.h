/*
 * The pace at which the objects of large files are sent again while the files change: those that follow announced
 * changes, and those of files that only grow, by more than is announced alone. Sending them takes at most one part
 * in DELTA_PACE_SHARE of the time.
 */
#ifndef REPLICATOR_DELTA_PACE_H
#define REPLICATOR_DELTA_PACE_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "src/base/hash.h"
#include "src/base/thread.h"

#define DELTA_PACE_SHARE                                                                           \
	4 /* an object that took t to be sent is sent again after (DELTA_PACE_SHARE - 1) t */
#define DELTA_PACE_LEAST_MS 5000 /* one that follows not before this either */
#define DELTA_PACE_ROWS 512

/* All regions'. Embedded; thread-safe. */
struct delta_pace {
	atomic_uint hurry;   /* > 0: nobody waits, */
	atomic_bool awaited; /* nor then */
	struct mutex lock; /* leaf; guards row */
	struct delta_pace_row {
		uint64_t key;	  /* hash of region and key; 0: free */
		int64_t end_ms;	  /* monotonic: it was sent until then, */
		int64_t pause_ms; /* and is not to be sent again for so long */
		bool waiting;	  /* a version that grew from it is to be sent after the pause */
		bool sending;	  /* it is being sent */
		uint8_t hash[SHA256_SIZE]; /* of the content that was sent */
	} row[DELTA_PACE_ROWS];
};

void delta_pace_init(struct delta_pace *p);
void delta_pace_done(struct delta_pace *p);
/* In all below p may be NULL: no pace. */

/* How long the object of key has to wait yet, which follows, or grew from what was sent last; 0: it may be
 * sent. */
int64_t delta_pace_wait_ms(
	struct delta_pace *p, unsigned region, struct slice key, bool follows);
/* Which content of key was sent last. False: that is not known; nothing is set. */
bool delta_pace_last(struct delta_pace *p, unsigned region, struct slice key,
	uint8_t hash[SHA256_SIZE]) MUST_CHECK;
/* A version that grew from the last one has to wait. */
void delta_pace_hold(struct delta_pace *p, unsigned region, struct slice key);
/* Between delta_pace_hold and the end of the pause: a newer version may as well take its place. */
bool delta_pace_waiting(struct delta_pace *p, unsigned region, struct slice key) MUST_CHECK;
/* A version that grew from the last one is being sent, until delta_pace_sent or delta_pace_failed. */
void delta_pace_begin(struct delta_pace *p, unsigned region, struct slice key);
/* The object with content of that hash was sent, or it was tried, from start_ms (monotonic) until now. */
void delta_pace_sent(struct delta_pace *p, unsigned region, struct slice key, int64_t start_ms,
	const uint8_t hash[SHA256_SIZE]);
/* What delta_pace_begin told of has ended, and changes nothing. Harmless without it. */
void delta_pace_failed(struct delta_pace *p, unsigned region, struct slice key);
/* Between delta_pace_begin and its end, as long as others wait at all. */
bool delta_pace_sending(struct delta_pace *p, unsigned region, struct slice key) MUST_CHECK;

#endif
