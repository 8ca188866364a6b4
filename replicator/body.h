/*
 * The content of a regular file's entry, to be sent: from the cache of inlined content, from the
 * local content file or its snapshot, or from another region. Not thread-safe; one delivery each.
 */
#ifndef REPLICATOR_BODY_H
#define REPLICATOR_BODY_H

#include "cache/entry.h"
#include "cache/file.h"
#include "replicator/inline_cache.h"
#include "replicator/region.h"

struct body {
	struct cache *cache;
	struct store_memory memory;
	struct buf bytes;	       /* from the inline cache */
	struct content_reader *reader; /* local */
	struct content_writer spool;   /* from another region */
	bool spooled;
	bool unsure; /* some region did not answer, so it may have it all the same */
};

/* b is zeroed. Content of key as entry has it, from this machine. -EAGAIN: it is not here in this
 * version. */
int body_open_local(struct body *b, struct cache *c, struct inline_cache *inline_cache,
	struct slice key, const struct entry *entry, struct store_source *ret) MUST_CHECK;
/* Downloads it from any region that has it but except (NULL: from any), in the order of
 * regions_order. -EAGAIN: none has
 * it now; -EIO: none answered; -ENOSPC, -ECANCELED. */
int body_fetch(struct body *b, struct regions *all, const struct region *except, struct slice key,
	const uint8_t hash[SHA256_SIZE], uint64_t size) MUST_CHECK;
/* For content that was renamed before it was ever here: asks all regions for it under its former
 * name (empty: unknown) and in the trash. Errors as of body_fetch. */
int body_fetch_moved(struct body *b, struct regions *all, struct slice from_key,
	const struct entry *entry) MUST_CHECK;
/* body_log.c: for content of this server's own that it announced inside a segment: from there. Reads up to 2,000
 * segments. Errors as of body_fetch. */
int body_fetch_announced(
	struct body *b, struct regions *all, const struct entry *entry) MUST_CHECK;
/* The source over what was brought. */
struct store_source body_spooled(struct body *b);
void body_done(
	struct body *b); /* also the CLEANUP function; discards the download unless it was taken */

#endif
