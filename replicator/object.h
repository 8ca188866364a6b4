/*
 * Materialised objects: an entry as object metadata and back, and the delivery of one key to one
 * store. docs/bucket-format.md has the metadata's names.
 */
#ifndef REPLICATOR_OBJECT_H
#define REPLICATOR_OBJECT_H

#include "cache/entry.h"
#include "cache/object_seen.h"
#include "replicator/object_copy.h"
#include "replicator/object_key.h"

struct regions;

/* What an object's metadata says about its path. entry.target is never set: a symlink's hash is
 * that of its target. */
struct object_entry {
	struct entry entry;
	bool xattrs_omitted; /* they did not fit; entry.xattrs is empty */
};
void object_entry_done(struct object_entry *e);

/* e is live. Extended attributes that do not fit are left out, with a mark. -ENOMEM, -E2BIG. */
int object_meta_from_entry(
	const struct entry *e, bool xattrs_omitted, struct store_meta *ret) MUST_CHECK;
/* size: of the object. directory: its key ends in '/'. -ENODATA: not Meridian's (no stamp);
 * -EBADMSG: it claims to be and is malformed. ret is set on success only. */
int object_meta_to_entry(const struct store_meta *m, uint64_t size, bool directory,
	struct object_entry *ret) MUST_CHECK;

/* Notes in metadata of object_meta_from_entry which object they are for. -ENOMEM, -E2BIG. */
int object_meta_set_key(struct store_meta *m, const char *key) MUST_CHECK;

/* What removed content is kept under: .meridian/trash/<hash>/ and then the stamp of the removal and
 * the path, so that content is found by its hash. */
#define OBJECT_TRASH_SIZE (16 + SHA256_HEX_SIZE + 1)
void object_trash_prefix(const uint8_t hash[SHA256_SIZE], char prefix[OBJECT_TRASH_SIZE]);

struct uploader;

struct object_request {
	struct store *store;
	struct uploader *uploader; /* NULL: everything goes in one piece */
	const struct store_call *call;
	struct slice key;	   /* not the root */
	const struct entry *entry; /* a tombstone removes */
	/* NULL, or those whose tools' versions (foreign.h) are kept when they lose against the entry. */
	const struct regions *regions;
	bool fresh; /* hint: nothing is there yet; of a tombstone: it has one writer */
	/* Of a live entry: where its content lies already, maybe: first under a former name, then in
	 * the bucket of another region. Of a tombstone: sources[0] is the name that the content has
	 * now, maybe: what is there needs no copy in the trash. */
	struct object_source sources[2];
	bool send_rather; /* the body is here and small: one request sends it, a copy takes several */
	/* Gives the body of a regular file; asked only when it must be sent, at most once. The
	 * source stays valid until the delivery ends; several threads may read it at once. -errno
	 * ends the delivery with STORE_LOCAL. */
	int (*open)(void *ctx, struct store_source *ret);
	/* Whether this is still the version to deliver: asked now and then, from any thread, while
	 * the body goes in parts. NULL: it is. */
	bool (*current)(void *ctx);
	void *ctx;
};

/* Valid whatever the result is. */
struct object_outcome {
	bool superseded; /* the store holds a newer version */
	bool kept;	 /* what another tool wrote was copied before */
	bool put;	 /* an object may have come into being by this */
	bool uncertain;	 /* of some write it is not known whether, and when, the store gets it */
	char etag[STORE_ETAG_SIZE]; /* of what was written last; "": not known */
	bool copied;	 /* the content came from a source */
	bool refused;	 /* the store would not copy from sources[1], for the reason in … */
	struct store_error refusal;
};

/* Makes the object say what the entry says, unless what is there is newer; registers that are newer
 * there are kept. STORE_OK: the store holds this version or a newer one. STORE_LOCAL with
 * ENAMETOOLONG when the path cannot be a key. Other codes: not done, may be repeated. */
enum store_result object_deliver(const struct object_request *q, struct object_outcome *ret,
	struct store_error *error) MUST_CHECK;

/* What a delivery leaves to be remembered of the bucket (cache/object_seen.h). */
struct object_note {
	bool known; /* false: nothing is learnt */
	bool live;
	bool directory;
	struct object_seen seen;
};
struct object_note object_note_of(const struct entry *e, const struct object_outcome *outcome);
/* fresh: of the outbox row. Inside a write transaction. */
int object_note(struct conn *conn, unsigned region, struct slice key, const struct object_note *n,
	bool fresh) MUST_CHECK;

/* The object at key, which another tool wrote and which is the version there, has the content that the
 * entry says: gives it the entry's metadata, where it lies. STORE_PRECONDITION: it is another version
 * by now. STORE_UNSUPPORTED: this store cannot, and the object is too large to go through memory. */
enum store_result object_adopt(const struct object_request *q, const struct store_object *there,
	char etag[STORE_ETAG_SIZE], struct store_error *error) MUST_CHECK;

/* Whether metadata that object_meta_to_entry takes were made for the object at key: a tool that copies
 * an object takes them along, and they are another path's then. */
bool object_meta_is_of(const struct store_meta *m, const char *key) MUST_CHECK;
/* Notes in the metadata of a copy which version it is meant to be of, where the store cannot be told to
 * copy no other. -ENOMEM, -E2BIG. */
int object_meta_set_copied(struct store_meta *m, const char *etag) MUST_CHECK;
/* False: another version was copied; what the metadata say of the bytes is not so. */
bool object_meta_is_whole(const struct store_meta *m, const char *etag) MUST_CHECK;

#endif
