/*
 * The last words of servers that are gone for good: changes that reached some regions before their
 * server died, and not the others, are brought there by one of those that are left.
 */
#ifndef REPLICATOR_LAST_WORDS_H
#define REPLICATOR_LAST_WORDS_H

#include "replicator/merge.h"
#include "replicator/region.h"

struct last_words;

struct last_words_options {
	struct cache *cache;
	struct regions *regions;
	unsigned home; /* index */
	struct merger_options merger;
	int64_t gone_ms; /* of which nothing was heard for that long is gone */
	int64_t keep_ms; /* older segments may have been removed */
	int64_t look_ms; /* how often to look whether one is */
};

int last_words_new(const struct last_words_options *o, struct last_words **ret) MUST_CHECK;
void last_words_free(struct last_words *w);
/* Looks for servers that are gone, and completes what they said. *did: there was one. Only the server
 * that wrote the home region's newest checkpoint does it. A region that fails is no error: it is tried
 * again. One thread at a time. */
int last_words_step(struct last_words *w, bool *did) MUST_CHECK;

#endif
