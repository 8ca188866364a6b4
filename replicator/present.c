/* Why this file: whether a region can give back content that is to be evicted here. */
#include "replicator/internal.h"

#include "replicator/object.h"

/* The metadata of one region's object say that it is this content. */
static bool region_has(
	struct region *from, const char *key, const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	CLEANUP(object_entry_done) struct object_entry e = {0};
	struct store_call call = region_call(from, 0);
	struct store_object object = {0};
	struct store_error error = {0};
	enum store_result result;

	if (!region_begin(from, REGION_READ))
		return false;
	result = store_head(from->store, key, &object, &meta, &call, &error);
	region_end(from, REGION_READ, result, &error, "head object");
	return result == STORE_OK && object.size == size &&
	       object_meta_to_entry(&meta, object.size, false, &e) == 0 &&
	       e.entry.kind == KIND_FILE && memcmp(e.entry.hash, hash, SHA256_SIZE) == 0 &&
	       object_meta_is_whole(&meta, object.etag);
}

bool replicator_has_object(
	void *ctx, struct slice key, const uint8_t hash[SHA256_SIZE], uint64_t size)
{
	struct replicator *r = ctx;
	char name[STORE_KEY_MAX + 1];
	unsigned home = r->o.home;

	if (object_key_from_path(key, false, name))
		return false;
	for (unsigned i = 0; i < r->regions.count; i++) {
		/* Home first, then the others in their order. */
		unsigned at = i == 0 ? home : i <= home ? i - 1 : i;

		if (region_has(&r->regions.region[at], name, hash, size))
			return true;
	}
	return false;
}
