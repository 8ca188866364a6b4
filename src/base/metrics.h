/*
 * Counters, each declared once here: name and help text. Process-wide and atomic. `meridian
 * status --json` prints them all.
 */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include <stdint.h>

/* X(identifier, exported name, help) */
#define METRICS(X)                                                                                 \
	X(RECORDS_SEALED, "records_sealed_total", "Changes turned into replicated records")        \
	X(SETS_CUT, "sets_cut_total", "Batches sealed without all that was due, for want of room") \
	X(SETS_GROWN, "sets_grown_total", "Batches for which there was made more room")            \
	X(SEGMENTS_SENT, "segments_sent_total", "Segments accepted by a region")                   \
	X(SEGMENTS_MERGED, "segments_merged_total", "Segments of other servers merged")            \
	X(SEGMENTS_CORRUPT, "segments_corrupt_total",                                              \
		"Segments refused: truncated, altered or absurd")                                  \
	X(SEGMENTS_GAP, "segments_gap_total", "Segments that a chain names but no region has")     \
	X(SEGMENTS_REMOVED, "segments_removed_total",                                              \
		"Segments, and parts of checkpoints, removed as superfluous")                      \
	X(CHECKPOINTS_WRITTEN, "checkpoints_written_total", "Checkpoints written by this server")  \
	X(TRASH_REMOVED, "trash_removed_total",                                                    \
		"Kept copies of removed objects that were old enough to go")                       \
	X(LAST_WORDS, "last_words_total",                                                          \
		"Changes looked after in a region because their server is gone")                   \
	X(CHECKPOINTS_LOADED, "checkpoints_loaded_total",                                          \
		"Checkpoints loaded, by a new server or one that was away")                        \
	X(RECORDS_MERGED, "records_merged_total", "Records of other servers merged")               \
	X(RECORDS_HOSTILE, "records_hostile_total",                                                \
		"Records refused: not a possible path or value")                                   \
	X(RECORDS_HELD, "records_held_total", "Records held: stamped too far in the future")       \
	X(OBJECTS_PUT, "objects_put_total", "Objects written to a region")                         \
	X(OBJECTS_DELETED, "objects_deleted_total", "Objects removed from a region")               \
	X(OBJECTS_SUPERSEDED, "objects_superseded_total",                                          \
		"Writes skipped because the region has newer")                                     \
	X(FOREIGN_KEPT, "foreign_kept_total",                                                        \
		"Objects of other tools that were written over or removed, after a copy")              \
	X(OBJECTS_CORRUPT, "objects_corrupt_total", "Bodies that did not match their checksum")    \
	X(CONTENT_FETCHED, "content_fetched_total", "Files fetched from a region on first use")    \
	X(CONTENT_EVICTED, "content_evicted_total", "Files whose content was given up here")       \
	X(CONTENT_LOST, "content_lost_total",                                                      \
		"Content files that were missing or not of the recorded size")                     \
	X(REGIONS_LEFT, "regions_left_total",                                                      \
		"Times a region that was slow or failed was read last from then on")               \
	X(CONFLICTS, "conflicts_total", "Concurrent changes settled, the loser kept")              \
	X(WRITES_SLOWED, "writes_slowed_total",                                                    \
		"Writes and new names delayed because too much waits for regions")                 \
	X(WRITES_REFUSED, "writes_refused_total",                                                  \
		"Writes and new names refused (ENOSPC) for the same reason")                       \
	X(RESYNCS, "resyncs_total", "Optional regions that got what they missed")                  \
	X(DURABLE_WAITS, "durable_waits_total", "fsync and the like that waited for regions")      \
	X(DURABLE_FAILURES, "durable_failures_total",                                              \
		"Of those, failed because too few regions had the file in time")                   \
	X(STORE_REQUESTS, "store_requests_total", "Requests to object stores")                     \
	X(STORE_RETRIES, "store_retries_total", "Requests repeated after a passing failure")       \
	X(STORE_ERRORS, "store_errors_total", "Requests that failed for good")                     \
	X(BYTES_SENT, "bytes_sent_total", "Body bytes sent to object stores")                      \
	X(OBJECTS_COPIED, "objects_copied_total",                                                  \
		"Objects that stores copied from another key or bucket")                           \
	X(BYTES_RECEIVED, "bytes_received_total", "Body bytes received from object stores")        \
	X(BYTES_COPIED, "bytes_copied_total",                                                      \
		"Bytes copied inside object stores rather than sent")             \
	X(DELTAS_SENT, "deltas_sent_total", "Changes of large files sent inside segments")         \
	X(DELTAS_APPLIED, "deltas_applied_total", "Changes of large files applied to what is here") \
	X(DELTAS_USELESS, "deltas_useless_total",                                                  \
		"Changes of large files that did not give the content that was promised")

enum metric {
#define METRIC_ENUM(id, name, help) METRIC_##id,
	METRICS(METRIC_ENUM)
#undef METRIC_ENUM
		METRIC_COUNT
};

void metric_add(enum metric m, uint64_t n);
uint64_t metric_get(enum metric m);
const char *metric_name(enum metric m);
const char *metric_help(enum metric m);

#endif
