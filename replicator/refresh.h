/* Fetching what is on the cache's list (cache/refresh.h), behind everything that somebody waits for. */
#ifndef REPLICATOR_REFRESH_H
#define REPLICATOR_REFRESH_H

#include "replicator/region.h"

struct refresher;

int refresher_new(struct regions *regions, struct refresher **ret) MUST_CHECK;
void refresher_free(struct refresher *f);
/* One attempt for the next file on the list. *did: there was one. *pause_ms: when nothing was, or it failed,
 * how long to wait before the next call. For any number of threads; each has another file. */
int refresher_step(struct refresher *f, bool *did, int64_t *pause_ms) MUST_CHECK;

#endif
