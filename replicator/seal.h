/*
 * Sealing: journal rows become entries and outbox rows. State-based: what is sealed is the key's
 * state now, under the row's stamp; nothing changed since the last seal, no new version. One sealer
 * a cache; its functions are called by the sealer's thread and, for single keys, by the merger (a
 * mutex inside).
 */
#ifndef REPLICATOR_SEAL_H
#define REPLICATOR_SEAL_H

#include <stdbool.h>

#include "cache/journal.h"
#include "replicator/inline_cache.h"

struct sealer;

struct sealer_options {
	uint64_t inline_max;
	int64_t seal_after_ms;
	/* How long sealer_seal_all waits for what cannot be sealed just now, once nothing else is left; 0: ten
	 * seconds. Only tests have a reason for others. */
	int64_t busy_ms;
	/* Whether a region takes uploads now (leaf locks only); NULL: none is waited for. A large file that
	 * changes faster than it uploads is not sealed again while an up region still is owed the version before,
	 * for at most SEAL_PATIENCE_MS and the time for its size at SEAL_PATIENCE_BYTES a millisecond: each version
	 * that is sealed then gets there, and the file's directory with it. */
	bool (*region_up)(void *ctx, unsigned region);
	/* Whether that region is to be sent a version of key after a pause that has not ended (leaf locks only); NULL:
	 * never. Then it is not waited for: the newer the version is that is sent in the end, the smaller is the change
	 * that comes after it, and may travel with its announcement again. */
	bool (*region_waits)(void *ctx, unsigned region, struct slice key);
	/* Whether that region is being sent a version of key, after a pause that was long enough for the next one to
	 * be due (leaf locks only); NULL: never. Then it is waited for until that ends, and for SEAL_PATIENCE_MS more
	 * to be announced: a version that is sealed meanwhile takes over what is to be announced, and the next one,
	 * after its pause, might fare the same. */
	bool (*region_busy)(void *ctx, unsigned region, struct slice key);
	void *region_ctx;
	/* Keys that are sealed in one transaction, at least 3; and as many as these at most where what belongs together
	 * would be torn. 0: the two below. Only tests have a reason for others. */
	unsigned set_size;
	unsigned set_max;
};

#define SEAL_SET_SIZE 8002u /* a full batch of renames, and with it the largest directory that is sealed whole */
#define SEAL_SET_MAX 32008u /* the tree's writers wait for so many for about a second */
#define SEAL_PATIENCE_MS 30000u
#define SEAL_PATIENCE_BYTES 4000u

int sealer_new(struct cache *c, const struct sealer_options *o, struct inline_cache *inline_cache,
	struct sealer **ret) MUST_CHECK;
void sealer_free(struct sealer *s);
/* Seals up to about 2,000 waiting rows in order, in one or a few transactions, RENAME_DIR rows of up to 2,000
 * names with them; of larger ones up to 2,000 names in one call beside other rows, in batches that start over
 * after a crash. *did: anything was sealed. Also journals files open for longer than seal_after_ms and quiet
 * directory times. */
int sealer_step(struct sealer *s, bool *did) MUST_CHECK;
/* Seals everything that the journal holds for key (and for a RENAME_DIR above it) now. -EAGAIN: content is not
 * hashed yet, or changes all the time. */
int sealer_seal_key(struct sealer *s, struct slice key) MUST_CHECK;
/* In a write transaction, for a file whose content cannot be sealed now: its attributes alone, over the
 * version that was sealed last; nothing where there is none. Takes no lock. */
int sealer_seal_attributes(struct sealer *s, struct conn *conn, struct slice key) MUST_CHECK;
/* There is more than a batch to seal, and it has waited for a second, or a directory's rename is under way:
 * no time for pauses. */
bool sealer_late(struct sealer *s);
/* The rename of a directory that is being turned into changes of names. total is an estimate. */
struct seal_progress {
	struct key from, to;
	uint64_t done, total; /* names */
};
/* False: there is none. Never waits for a sealing. */
bool sealer_progress(struct sealer *s, struct seal_progress *ret);
/* Directory times and files still open too: before a stop or for flush. What was journalled before it began, with
 * the snapshots of large files that this takes; not what comes meanwhile. tick (may be NULL) is called
 * between its steps, also while another thread's sealing or a snapshot is waited for; non-zero from it ends the call
 * and is returned, with what is sealed by then sealed. -EBUSY, with a tick: something could not be sealed for
 * busy_ms, for it is written without a pause. */
typedef int (*sealer_tick_fn)(void *ctx);
int sealer_seal_all(struct sealer *s, sealer_tick_fn tick, void *ctx) MUST_CHECK;

#endif
