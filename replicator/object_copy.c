/*
 * Copies inside the store of content that is there under another key: the former name of a renamed
 * file, or the home region's object for another region beside it.
 *
 * What the source holds is known by its metadata (object_has), and where the store can, the copy is
 * made under the condition that it is still that version. Else the copy's metadata say of which one it
 * is meant to be, so that whoever looks at it, also after a crash, knows when another one took the
 * source's place meanwhile: a new file under the former name, say. A copy knows no condition on its
 * destination; the end of an upload in parts does, on some stores: there one is made whose parts are
 * copied, however small the object is. On the others the destination is looked at right before.
 *
 * Keeps no state, takes no lock.
 */
#include "replicator/object_copy.h"

#include <errno.h>
#include <string.h>

#include "replicator/object.h"
#include "replicator/parts.h"
#include "replicator/store/layers.h"
#include "replicator/upload.h"
#include "src/base/metrics.h"

static bool has(const struct object_copy *c, unsigned caps)
{
	return (atomic_load(&c->store->capabilities) & caps) == caps;
}

static enum store_result has_content(struct store *s, const char *key, const struct entry *entry,
	bool *ret, struct store_object *object, struct store_meta *meta,
	const struct store_call *call, struct store_error *error)
{
	CLEANUP(object_entry_done) struct object_entry there = {0};

	*ret = false;
	enum store_result r = store_head(s, key, object, meta, call, error);
	if (r == STORE_ABSENT)
		return STORE_OK;
	if (r != STORE_OK)
		return r;
	*ret = object_meta_to_entry(meta, object->size, key[strlen(key) - 1] == '/', &there) ==
		       0 &&
	       there.entry.kind == entry->kind &&
	       (entry->kind != KIND_FILE || there.entry.size == entry->size) &&
	       memcmp(there.entry.hash, entry->hash, SHA256_SIZE) == 0 &&
	       object_meta_is_whole(meta, object->etag);
	return STORE_OK;
}

enum store_result object_has(struct store *s, const char *key, const struct entry *entry, bool *ret,
	struct store_object *object, const struct store_call *call, struct store_error *error)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};

	return has_content(s, key, entry, ret, object, &meta, call, error);
}

/* STORE_OK: what is at to is still what the caller believes. */
static enum store_result compare(const struct object_copy *c, struct store_error *error)
{
	struct store_object there = {0};
	enum store_result r = store_head(c->store, c->to, &there, NULL, c->call, error);

	if (r == STORE_ABSENT)
		return c->match ? STORE_PRECONDITION : STORE_OK;
	if (r != STORE_OK)
		return r;
	if (!c->match)
		return STORE_EXISTS;
	return strcmp(there.etag, c->match) == 0 ? STORE_OK : STORE_PRECONDITION;
}

/* The copy has the parts of its source: in one store they are there, into another they go with it. */
static enum store_result take_parts(const struct object_copy *c, const struct object_source *from,
	const struct store_meta *theirs, struct store_meta *ret, struct store_error *error)
{
	const struct parts_content content = {.cache = c->uploader ? c->uploader->cache : NULL,
		.hash = c->entry->hash,
		.size = c->entry->size};
	const char *named = store_meta_get(theirs, PARTS_META);
	const struct store_meta none = {0};
	struct store_call call = *c->call;
	char digest[SHA256_HEX_SIZE] = "", key[PARTS_KEY_SIZE];
	uint8_t raw[SHA256_SIZE];
	enum store_result r = STORE_OK;
	int code = store_meta_copy(ret, c->meta);

	if (code == 0 && named && from->origin && content.cache)
		r = parts_put(c->store, &content, digest, c->call, error);
	if (r != STORE_OK)
		return r;
	if (named && from->origin && !digest[0]) {
		parts_key(c->entry->hash, key);
		call.origin = from->origin;
		if (store_copy(c->store, key, key, &none, NULL, NULL, &call, error) != STORE_OK)
			named = NULL;
	}
	if (code == 0 && named && hex_decode(named, raw, sizeof(raw)))
		code = parts_set_meta(ret, named);
	return code < 0 ? store_error_local(error, code, "metadata") : STORE_OK;
}

static enum store_result copy_now(const struct object_copy *c, const struct object_source *from,
	const struct store_object *source, bool guarded, char *etag, struct store_error *error)
{
	const struct store_condition condition = {.if_absent = !c->match, .if_match = c->match};
	struct store_call call = *c->call;
	const char *match = has(c, STORE_CAP_COPY_IF_MATCH) ? source->etag : NULL;
	CLEANUP(store_meta_done) struct store_meta meta = {0};

	call.origin = from->origin;
	if (guarded || upload_copy_wanted(c->store, source->size))
		return upload_copy(c->uploader, from->key, source->size, source->etag, c->to,
			c->meta, guarded ? &condition : NULL, etag, &call, error);
	enum store_result r = compare(c, error);
	if (r != STORE_OK)
		return r;
	if (match)
		return store_copy(c->store, from->key, c->to, c->meta, match, etag, &call, error);
	int code = store_meta_copy(&meta, c->meta);
	if (code == 0)
		code = object_meta_set_copied(&meta, source->etag);
	if (code == -E2BIG)
		return STORE_UNSUPPORTED; /* it cannot say so */
	if (code < 0)
		return store_error_local(error, code, "metadata");
	return store_copy(c->store, from->key, c->to, &meta, NULL, etag, &call, error);
}

enum store_result object_copy(const struct object_copy *c, const struct object_source *from,
	char *etag, bool *copied, bool *guarded, bool *refused, struct store_error *error)
{
	const unsigned parts = STORE_CAP_UPLOAD | STORE_CAP_UPLOAD_COPY | STORE_CAP_UPLOAD_IF;
	CLEANUP(store_meta_done) struct store_meta theirs = {0}, meta = {0};
	struct object_copy with = *c;
	struct store_object source = {0};
	bool there = false;

	*copied = *guarded = *refused = false;
	bool safely = c->uploader && c->entry->size && has(c, parts);
	if (!from->key || (!safely && !has(c, STORE_CAP_COPY)))
		return STORE_OK;
	enum store_result r =
		has_content(from->store, from->key, c->entry, &there, &source, &theirs, c->call, error);
	if (r != STORE_OK || !there)
		/* Another store's trouble is not this one's. */
		return from->origin && r != STORE_LOCAL ? STORE_OK : r;
	r = take_parts(c, from, &theirs, &meta, error);
	if (r != STORE_OK)
		return r;
	with.meta = &meta;
	r = copy_now(&with, from, &source, safely, etag, error);
	switch (r) {
	case STORE_OK:
		*copied = true;
		*guarded = safely;
		metric_add(METRIC_BYTES_COPIED, c->entry->size);
		metric_add(METRIC_OBJECTS_COPIED, 1);
		return STORE_OK;
	case STORE_PRECONDITION:
		if (c->match)
			return r; /* one of the two is another one now: look again */
		return STORE_OK;
	case STORE_DENIED:
	case STORE_UNSUPPORTED:
	case STORE_TOO_LARGE:
		*refused = true;
		return STORE_OK;
	case STORE_ABSENT: /* it went meanwhile, or somebody aborted the upload */
		return STORE_OK;
	default:
		return r;
	}
}
