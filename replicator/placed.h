/*
 * Which contents were put under which keys lately: so that the removal of a renamed file's former name
 * need not ask the store whether the new one has its content. A table of fixed size in which later ones
 * take the place of earlier ones: it forgets, and then the store is asked. Thread-safe.
 */
#ifndef REPLICATOR_PLACED_H
#define REPLICATOR_PLACED_H

#include "cache/cache.h"
#include "src/base/hash.h"
#include "src/base/thread.h"

/* Embedded; zeroed memory and placed_init. 4 MiB from the first note on. */
struct placed {
	struct mutex lock; /* a leaf */
	struct placed_slot *slot;
};

void placed_init(struct placed *p);
void placed_done(struct placed *p);
/* The region has this content under that key. */
void placed_note(struct placed *p, struct slice key, const uint8_t hash[SHA256_SIZE]);
bool placed_has(struct placed *p, struct slice key, const uint8_t hash[SHA256_SIZE]);

#endif
