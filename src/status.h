/* What `meridian status` shows: a page for people and a JSON document for programs, rendered by the
 * daemon from one consistent set of figures. Pure but for reading it. */
#ifndef SRC_STATUS_H
#define SRC_STATUS_H

#include <stdint.h>
#include <sys/types.h>

#include "cache/cache.h"
#include "cache/pressure.h"
#include "cache/partial.h"
#include "fs/fs.h"
#include "replicator/replicator.h"
#include "src/base/buf.h"
#include "src/config.h"

#define STATUS_TROUBLES_MAX 8

struct status {
	const struct config *config;
	const char *mountpoint;
	pid_t pid;
	uint64_t node;
	int64_t now_ms;
	int64_t started_ms;
	bool read_only;
	bool stopping;
	struct replicator_status replicator;
	struct cache_usage usage;
	struct cache_pressure pressure;
	struct partial_usage partial;
	struct fs_stats fs;
	struct cache_trouble_file trouble[STATUS_TROUBLES_MAX]; /* the first of them */
	unsigned troubles;
	uint64_t trouble_count[TROUBLE_KINDS];
};

/* Appends the page. */
void status_text(const struct status *s, struct buf *out);
/* The document: heap, NULL without memory. Field names are stable; meridian(1) lists them. */
char *status_json(const struct status *s);

#endif
