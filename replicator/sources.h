/*
 * Before a row is delivered: where its content lies in the store already, and whose row it has to
 * wait for.
 *
 *   a renamed file        may be copied from its former name
 *   a former name         is told of, and removed, after the new one is there: so no server ever sees
 *                         the file gone, and its content needs no copy in the trash
 *   another region's copy (push = copy) waits until the home region has it
 */
#ifndef REPLICATOR_SOURCES_H
#define REPLICATOR_SOURCES_H

#include "cache/outbox.h"
#include "replicator/object.h"
#include "replicator/region.h"

struct sources {
	char key[2][STORE_KEY_MAX + 1];
	struct object_source source[2]; /* as of struct object_request; they borrow key */
	bool settled;	  /* the row is a former name's in UPLOAD, whose new name is there */
	const char *wait; /* NULL, or what the row waits for */
	int64_t wait_ms;  /* how long at first */
};

/* e: the row's entry. -errno for local failures. */
int sources_find(struct cache *c, struct region *region, const struct outbox_row *row,
	const struct entry *e, struct sources *ret) MUST_CHECK;
/* The region's store would not copy from the home region's: remembered with the reason, until the next start. */
void sources_refused(struct region *region, const struct store_error *error);

#endif
