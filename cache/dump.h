/* What a checkpoint of a region is made of, and what is remembered about checkpoints. */
#ifndef CACHE_DUMP_H
#define CACHE_DUMP_H

#include "cache/entry.h"

/* Every entry, tombstones too, in byte order of keys, from the view of conn (a read connection: one
 * consistent state, however long it takes). e is valid during the call. Stops at the first result of
 * fn but 0, and returns it. */
typedef int (*dump_entry_fn)(void *ctx, struct slice key, const struct entry *e);
int dump_entries(struct conn *conn, dump_entry_fn fn, void *ctx) MUST_CHECK;
/* The same, of keys greater than after. */
int dump_entries_after(
	struct conn *conn, struct slice after, dump_entry_fn fn, void *ctx) MUST_CHECK;
/* The records that are held, as held_add got them. */
typedef int (*dump_held_fn)(void *ctx, const void *record, size_t len);
int dump_held(struct conn *conn, dump_held_fn fn, void *ctx) MUST_CHECK;
/* How far each writer's segments in a region are part of what is here, this server's own included;
 * writers of whom nothing is are left out. */
typedef int (*dump_segment_fn)(void *ctx, uint64_t node, uint64_t seq, const char *name);
int dump_segments(struct conn *conn, unsigned region, dump_segment_fn fn, void *ctx) MUST_CHECK;
/* The sum of those numbers: it grows with each segment. */
int dump_segment_count(struct conn *conn, unsigned region, uint64_t *ret) MUST_CHECK;

/* Of a region; all 0 at first. */
struct checkpoint_mark {
	uint64_t ms; /* the newest checkpoint known: its name … */
	uint64_t node;
	uint64_t segments;   /* … and the sum of the numbers that it covers */
	uint64_t loading_ms; /* one of which the first loaded parts are merged and others are not */
	uint64_t loading_node;
	uint64_t loaded;
};
int checkpoint_mark_get(struct conn *conn, unsigned region, struct checkpoint_mark *ret) MUST_CHECK;
int checkpoint_mark_set(
	struct conn *conn, unsigned region, const struct checkpoint_mark *mark) MUST_CHECK;

/* Notes that the region's log is read from its beginning, or a checkpoint, on. *began: it was not noted yet;
 * then cursor and watermarks, but this server's own, are forgotten. */
int region_read_begin(struct conn *conn, unsigned region, bool *began) MUST_CHECK;

/* Until when what a server said that is silent was completed (replicator/last_words.c); all 0 at first. */
struct words_mark {
	uint64_t seq;  /* its newest segment in the home region then */
	int64_t at_ms; /* realtime */
};
int words_mark_get(struct conn *conn, uint64_t node, struct words_mark *ret) MUST_CHECK;
int words_mark_set(struct conn *conn, uint64_t node, const struct words_mark *mark) MUST_CHECK;

/* A nameless file in the state directory, read-write, the caller's to close; or -errno. */
int cache_spool(struct cache *c) MUST_CHECK;

#endif
