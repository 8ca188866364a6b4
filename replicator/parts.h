/*
 * Parts objects: .meridian/parts/<sha256> holds the hashes of the parts of that content
 * (cache/content_parts.h), and the metadata of each object that has the content names the parts object by
 * its own SHA-256. docs/bucket-format.md has the bytes.
 */
#ifndef REPLICATOR_PARTS_H
#define REPLICATOR_PARTS_H

#include "cache/content_parts.h"
#include "replicator/region.h"
#include "src/base/buf.h"

#define PARTS_PREFIX ".meridian/parts/"
#define PARTS_META "meridian-parts"
#define PARTS_KEY_SIZE (16 + SHA256_HEX_SIZE)

void parts_key(const uint8_t hash[SHA256_SIZE], char key[PARTS_KEY_SIZE]);

/* Sets PARTS_META; where it does not fit the extended attributes are left out. digest "": nothing. */
int parts_set_meta(struct store_meta *m, const char *digest) MUST_CHECK;

/* What is known of content that is to be put. */
struct parts_content {
	struct cache *cache;
	const uint8_t *hash;
	uint64_t size;
	const struct store_source
		*source; /* read when there is no map of it; NULL: not to be had */
};
/* Puts the parts object of the content into the store, from its map or by reading it. digest: its hash in
 * hexadecimal, "" where there is to be none or neither map nor source. STORE_LOCAL with ESTALE: the source
 * has other content. */
enum store_result parts_put(struct store *s, const struct parts_content *content,
	char digest[SHA256_HEX_SIZE], const struct store_call *call,
	struct store_error *error) MUST_CHECK;

/* The hashes of all parts, from the region or else from another one. 0: ret->data + *at is the first one;
 * -ENODATA: none that answers has the right ones; -EHOSTDOWN: nor did the region answer; -ENOMEM. */
int parts_get(struct region *region, const uint8_t hash[SHA256_SIZE], uint64_t size,
	const uint8_t digest[SHA256_SIZE], struct buf *ret, size_t *at) MUST_CHECK;

/* Removes from the region the parts objects of contents that nothing has any more; what fails is left
 * for the next time. Talks to the store and reads all entries: for the thread of the scans. */
void parts_sweep(struct region *region);

#endif
