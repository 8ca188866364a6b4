/*
 * The delivery of one key to one store: read what is there, decide per register, write under a
 * condition, and start over when somebody else was faster.
 *
 * Believed absent: PUT If-None-Match, one request. Somebody is there: as below.
 * Otherwise HEAD, and then
 *
 *   absent            PUT If-None-Match, after the key's other form was looked at
 *   foreign           kept below .meridian/conflicts/foreign/, then overwritten
 *   newer everywhere  done, superseded
 *   content newer there, or the same bytes: copied onto itself with the merged metadata
 *   ours newer        PUT If-Match with the merged metadata; first kept like a foreign one when it is another
 *                     tool's that a scan took over, which ours did not know of: no server has it as its own
 *
 * A tombstone removes both forms (`a` and `a/`), each only if what is there is older, after a copy
 * to the trash; of a path of one writer, only the form that is there.
 *
 * The kind of a path shows in its key: `a` and `a/` are two objects. When the form to write is not
 * there, the other form is a leftover of another kind and is removed like by a tombstone.
 *
 * A large body goes in parts (upload.c): what a put can be told about the object that is there, the
 * end of an upload must know, too, else it counts as a write without a condition.
 *
 * Stores without conditional writes: each write is followed by a HEAD, and what was lost by
 * it is found there and written again. A store that does not know If-Match on DELETE gets another
 * HEAD right before, when something took time since the first one.
 *
 * Keeps no state, takes no lock.
 */
#include "replicator/object.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "replicator/foreign.h"
#include "replicator/parts.h"
#include "replicator/store/layers.h"
#include "replicator/upload.h"
#include "src/base/metrics.h"

enum { ATTEMPTS_MAX = 8, FOREIGN_BUFFER_MAX = 64 << 20 };

/* What HEAD said about one form of the key. */
struct seen {
	bool there;
	bool foreign;
	bool torn; /* a copy of another version than its metadata say */
	struct store_object object;
	struct store_meta meta;
	struct object_entry theirs; /* unless foreign */
};

struct delivery {
	const struct object_request *q;
	struct store_error *error;
	unsigned caps;
	char key[STORE_KEY_MAX + 1];   /* the form that the entry has; of a tombstone: as a file */
	char other[STORE_KEY_MAX + 1]; /* the other form, "" when it would be too long */
	bool opened;
	struct store_source source;
	struct store_memory memory; /* of a symlink or an empty body */
	const struct seen *over; /* what a put with If-Match replaces, ours or another server's */
	bool other_clean;
	bool removed_own; /* what was removed last was of this entry's writer */
	bool superseded;
	bool send; /* no copy */
	bool unguarded; /* the content was copied, and the store knew no condition for that */
	struct store_call call;
	struct object_outcome *outcome;
};

static void seen_done(struct seen *s)
{
	store_meta_done(&s->meta);
	object_entry_done(&s->theirs);
	*s = (struct seen){0};
}

static bool has(const struct delivery *d, unsigned cap)
{
	return (d->caps & cap) != 0;
}

/* The body goes in parts. */
static bool in_parts(const struct delivery *d)
{
	const struct entry *e = d->q->entry;

	return d->q->uploader && e->kind == KIND_FILE && upload_wanted(d->q->store, e->size);
}

/* A put of the body can be made under a condition, which has this capability for whole bodies. */
static bool guarded(const struct delivery *d, unsigned cap)
{
	return has(d, in_parts(d) ? STORE_CAP_UPLOAD_IF : cap);
}

static enum store_result look(struct delivery *d, const char *key, struct seen *s)
{
	seen_done(s);
	enum store_result r =
		store_head(d->q->store, key, &s->object, &s->meta, &d->call, d->error);
	if (r == STORE_ABSENT)
		return STORE_OK;
	if (r != STORE_OK)
		return r;
	s->there = true;
	s->foreign = !object_meta_is_of(&s->meta, key) ||
		     object_meta_to_entry(
			     &s->meta, s->object.size, key[strlen(key) - 1] == '/', &s->theirs) < 0;
	s->torn = !s->foreign && !object_meta_is_whole(&s->meta, s->object.etag);
	return STORE_OK;
}

/* The entry as metadata of this delivery's object. */
static int make_meta(
	const struct delivery *d, const struct entry *e, bool omitted, struct store_meta *ret)
{
	int r = object_meta_from_entry(e, omitted, ret);

	if (r < 0)
		return r;
	r = object_meta_set_key(ret, d->key);
	if (r != -E2BIG)
		return r;
	/* It goes before extended attributes that just fit. */
	store_meta_done(ret);
	r = object_meta_from_entry(e, true, ret);
	return r < 0 ? r : object_meta_set_key(ret, d->key);
}

/* A key below prefix for a copy of key; one that gets too long is named by its hash. */
static void keep_key(
	char out[STORE_KEY_MAX + 1], const char *prefix, const char *key, const char *suffix)
{
	uint8_t hash[SHA256_SIZE];
	char hex[SHA256_HEX_SIZE];
	size_t len = strlen(key);

	while (len && key[len - 1] == '/')
		len--; /* the copy of a directory's mark is a plain object */
	if (strlen(prefix) + len + strlen(suffix) <= STORE_KEY_MAX) {
		snprintf(out, STORE_KEY_MAX + 1, "%s%.*s%s", prefix, (int)len, key, suffix);
		return;
	}
	sha256(key, len, hash);
	hex_encode(hash, sizeof(hash), hex);
	snprintf(out, STORE_KEY_MAX + 1, "%s%s%s", prefix, hex, suffix);
}

static bool copied_in_parts(const struct delivery *d, const struct seen *s)
{
	return d->q->uploader && upload_copy_wanted(d->q->store, s->object.size);
}

/* Inside the store: the version that was seen, where the store can tell. */
static enum store_result copy_seen(struct delivery *d, const char *key, const struct seen *s,
	const char *to, const struct store_meta *meta, char *etag)
{
	if (copied_in_parts(d, s))
		return upload_copy(d->q->uploader, key, s->object.size, s->object.etag, to, meta,
			NULL, etag, &d->call, d->error);
	return store_copy(d->q->store, key, to, meta,
		has(d, STORE_CAP_COPY_IF_MATCH) ? s->object.etag : NULL, etag, &d->call, d->error);
}

/* Copies what is there to a key of ours, through this machine when the store cannot. */
static enum store_result keep(
	struct delivery *d, const char *key, const struct seen *s, const char *to)
{
	if (has(d, STORE_CAP_COPY))
		return copy_seen(d, key, s, to, &s->meta, NULL);
	CLEANUP(buf_done) struct buf b = {0};
	enum store_result r = store_get_buf(
		d->q->store, key, FOREIGN_BUFFER_MAX, &b, NULL, NULL, &d->call, d->error);
	if (r != STORE_OK)
		return r;
	return store_put_buf(
		d->q->store, to, b.data, b.len, &s->meta, NULL, NULL, &d->call, d->error);
}

/* Somebody else's object is kept before it goes. A directory mark of another tool holds nothing. */
static enum store_result keep_foreign(struct delivery *d, const char *key, const struct seen *s)
{
	char to[STORE_KEY_MAX + 1], suffix[44] = ".";
	size_t n = 1;

	if (key[strlen(key) - 1] == '/' && s->object.size == 0)
		return STORE_OK;
	for (const char *p = s->object.etag; *p && n < 41; p++) {
		if (isalnum((unsigned char)*p))
			suffix[n++] = *p;
	}
	suffix[n] = '\0';
	keep_key(to, ".meridian/conflicts/foreign/", key, suffix);
	/* Another server may have kept it and written over it since the look: a copy without a condition would
	 * put what that wrote in the place of what it kept. */
	if (!has(d, STORE_CAP_COPY_IF_MATCH)) {
		enum store_result r = store_head(d->q->store, to, NULL, NULL, &d->call, d->error);

		if (r != STORE_ABSENT)
			return r;
	}
	d->outcome->kept = true;
	return keep(d, key, s, to);
}

/* The bytes there are in no server's cache, and nobody who saw them wrote over them. Torn ones are taken for what
 * two writes of this server, or of two, came to, one of them a copy of metadata that was late: both have their bytes. */
static bool is_only_here(const struct delivery *d, const struct seen *s)
{
	struct stamp theirs = s->theirs.entry.content_stamp;

	if (s->foreign)
		return true;
	return d->q->regions && s->theirs.entry.kind != KIND_DIR &&
	       foreign_is_node(d->q->regions, theirs.node) &&
	       vector_get(&d->q->entry->vector, theirs.node) < theirs.time;
}

/* Removes the version that was seen, and just_now: right before. STORE_PRECONDITION: it is another one by now. */
static enum store_result remove_seen(
	struct delivery *d, const char *key, const struct seen *s, bool just_now)
{
	enum store_result r;

	if (!has(d, STORE_CAP_DELETE_IF_MATCH) && !just_now) {
		struct store_object now = {0};

		r = store_head(d->q->store, key, &now, NULL, &d->call, d->error);
		if (r == STORE_ABSENT)
			return STORE_OK;
		if (r != STORE_OK)
			return r;
		if (strcmp(now.etag, s->object.etag) != 0)
			return STORE_PRECONDITION;
	}
	r = store_remove(d->q->store, key,
		has(d, STORE_CAP_DELETE_IF_MATCH) ? s->object.etag : NULL, &d->call, d->error);
	if (r == STORE_OK)
		metric_add(METRIC_OBJECTS_DELETED, 1);
	return r;
}

void object_trash_prefix(const uint8_t hash[SHA256_SIZE], char prefix[OBJECT_TRASH_SIZE])
{
	char hex[SHA256_HEX_SIZE];

	hex_encode(hash, SHA256_SIZE, hex);
	snprintf(prefix, OBJECT_TRASH_SIZE, ".meridian/trash/%s/", hex);
}

/* STORE_EXISTS: a renamed file's content is in the store under its new name. */
static enum store_result lives_on(struct delivery *d, const struct seen *s)
{
	const struct object_source *now = &d->q->sources[0];
	struct store_object object = {0};
	bool there = false;

	if (!now->key || s->theirs.entry.kind == KIND_DIR)
		return STORE_OK;
	if (now->placed && now->placed(now->ctx, s->theirs.entry.hash))
		return STORE_EXISTS;
	enum store_result r = object_has(
		now->store, now->key, &s->theirs.entry, &there, &object, &d->call, d->error);
	return r == STORE_OK && there ? STORE_EXISTS : r;
}

/* Removes the object at key if it is older than stamp; *newer is its stamp if it is not. */
static enum store_result remove_older(
	struct delivery *d, const char *key, struct stamp stamp, struct stamp *newer)
{
	CLEANUP(seen_done) struct seen s = {0};
	char to[STORE_KEY_MAX + 1], prefix[OBJECT_TRASH_SIZE + STAMP_TEXT_SIZE + 1];

	for (int i = 0; i < ATTEMPTS_MAX; i++) {
		enum store_result r = look(d, key, &s);
		if (r != STORE_OK || !s.there)
			return r;
		if (!s.foreign && stamp_cmp(s.theirs.entry.content_stamp, stamp) > 0) {
			d->superseded = true;
			*newer = s.theirs.entry.content_stamp;
			return STORE_OK;
		}
		bool kept = false; /* which takes time */
		if (s.foreign) {
			r = keep_foreign(d, key, &s);
			kept = true;
		} else if ((r = lives_on(d, &s)) == STORE_EXISTS) {
			r = STORE_OK;
		} else if (r == STORE_OK && has(d, STORE_CAP_COPY) &&
			   s.theirs.entry.kind != KIND_DIR) {
			object_trash_prefix(s.theirs.entry.hash, prefix);
			stamp_format(stamp, prefix + strlen(prefix));
			strcat(prefix, "/");
			keep_key(to, prefix, key, "");
			r = keep(d, key, &s, to);
			kept = true;
		}
		if (r == STORE_OK)
			r = remove_seen(d, key, &s, !kept);
		d->removed_own = r == STORE_OK && !s.foreign &&
				 s.theirs.entry.content_stamp.node == stamp.node;
		if (r != STORE_PRECONDITION && r != STORE_ABSENT)
			return r;
	}
	return store_error_set(d->error, STORE_PRECONDITION, "it keeps changing");
}

/* Where nobody but this server ever wrote the path, one of the two forms was all that there was. */
static enum store_result deliver_tombstone(struct delivery *d)
{
	struct stamp stamp = d->q->entry->content_stamp, newer;
	enum store_result r = remove_older(d, d->key, stamp, &newer);

	if (r == STORE_OK && d->other[0] && !(d->q->fresh && d->removed_own))
		r = remove_older(d, d->other, stamp, &newer);
	return r;
}

static enum store_result open_body(struct delivery *d)
{
	const struct entry *e = d->q->entry;

	if (d->opened)
		return STORE_OK;
	if (e->kind == KIND_FILE && e->size > 0) {
		int r = d->q->open(d->q->ctx, &d->source);
		if (r < 0)
			return store_error_local(d->error, r, "content");
	} else {
		d->memory.p = e->target ? e->target : "";
		d->memory.len = e->kind == KIND_SYMLINK && e->target ? strlen(e->target) : 0;
		d->source = store_source_memory(&d->memory);
	}
	d->opened = true;
	return STORE_OK;
}

static enum store_result put_parts(
	struct delivery *d, const struct store_meta *meta, const char *match, char *etag)
{
	const struct store_condition condition = {.if_absent = !match, .if_match = match};
	const struct upload_request q = {.uploader = d->q->uploader,
		.key = d->q->key,
		.object = d->key,
		.source = &d->source,
		.meta = meta,
		.condition = &condition,
		.hash = d->q->entry->hash,
		.base_hash = d->over ? d->over->theirs.entry.hash : NULL,
		.base_size = d->over ? d->over->object.size : 0,
		.current = d->q->current,
		.ctx = d->q->ctx};

	return upload_put(&q, etag, &d->call, d->error);
}

/* The content from where the store has it already, if that is so. */
static enum store_result copy_content(struct delivery *d, const struct store_meta *meta,
	const char *match, char *etag, bool *copied)
{
	const struct object_copy c = {.store = d->q->store,
		.uploader = d->q->uploader,
		.call = &d->call,
		.to = d->key,
		.entry = d->q->entry,
		.meta = meta,
		.match = match};
	enum store_result r = STORE_OK;
	bool guarded = false, refused = false;

	for (size_t i = 0; r == STORE_OK && !*copied && i < ARRAY_SIZE(d->q->sources); i++) {
		r = object_copy(
			&c, &d->q->sources[i], etag, copied, &guarded, &refused, d->error);
		if (i == 1 && refused) {
			d->outcome->refused = true;
			d->outcome->refusal = *d->error;
		}
	}
	d->unguarded = *copied && !guarded;
	d->outcome->copied = *copied;
	return r;
}

/* The hashes of its parts go before the object that names them. */
static enum store_result put_hashes(struct delivery *d, struct store_meta *meta)
{
	const struct entry *e = d->q->entry;
	char digest[SHA256_HEX_SIZE];

	if (e->kind != KIND_FILE || !d->q->uploader)
		return STORE_OK;
	const struct parts_content content = {.cache = d->q->uploader->cache,
		.hash = e->hash,
		.size = e->size,
		.source = &d->source};
	enum store_result r = parts_put(d->q->store, &content, digest, &d->call, d->error);
	if (r != STORE_OK)
		return r;
	int code = parts_set_meta(meta, digest);
	return code < 0 ? store_error_local(d->error, code, "metadata") : STORE_OK;
}

/* Bytes of ours, from where they cost least. */
static enum store_result put_bytes(
	struct delivery *d, struct store_meta *meta, const char *match, char *etag)
{
	struct store_condition condition = {0};
	enum store_result r = STORE_OK;
	bool copied = false;

	d->outcome->put = true;
	if (d->q->entry->kind == KIND_FILE && d->q->entry->size > 0 && !d->q->send_rather &&
		!d->send) {
		r = copy_content(d, meta, match, etag, &copied);
		if (r != STORE_OK || copied)
			return r;
	}
	r = open_body(d);
	if (r == STORE_OK)
		r = put_hashes(d, meta);
	if (r != STORE_OK)
		return r;
	if (!match && has(d, STORE_CAP_PUT_IF_ABSENT))
		condition.if_absent = true;
	else if (match && has(d, STORE_CAP_PUT_IF_MATCH))
		condition.if_match = match;
	if (in_parts(d))
		return put_parts(d, meta, match, etag);
	return store_put(
		d->q->store, d->key, &d->source, meta, &condition, etag, &d->call, d->error);
}

/* Our content with the metadata of m. match NULL: the key is believed absent. */
static enum store_result put_content(
	struct delivery *d, const struct entry *m, bool omitted, const char *match, char *etag)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	char unused[STORE_ETAG_SIZE];

	d->unguarded = false;
	int code = make_meta(d, m, omitted, &meta);
	if (code < 0)
		return store_error_local(d->error, code, "metadata");
	enum store_result r = put_bytes(d, &meta, match, etag ? etag : unused);
	if (r == STORE_OK)
		metric_add(METRIC_OBJECTS_PUT, 1);
	return r;
}

static bool same_bytes(const struct entry *a, const struct entry *theirs)
{
	uint8_t hash[SHA256_SIZE];

	if (a->kind != theirs->kind)
		return false;
	if (a->kind == KIND_DIR)
		return true;
	if (a->kind == KIND_FILE)
		return a->size == theirs->size && memcmp(a->hash, theirs->hash, SHA256_SIZE) == 0;
	if (!a->target)
		return memcmp(a->hash, theirs->hash, SHA256_SIZE) == 0;
	sha256(a->target, strlen(a->target), hash);
	return memcmp(hash, theirs->hash, SHA256_SIZE) == 0;
}

/* Register by register the newer of ours and theirs. */
struct merged {
	struct entry entry;
	bool omitted;
	bool content_theirs; /* or the same bytes */
	bool ours_newer;     /* anything of ours is */
};

static void merged_done(struct merged *m)
{
	entry_done(&m->entry);
}

static int merge(const struct entry *ours, const struct object_entry *theirs, struct merged *ret)
{
	const struct entry *t = &theirs->entry;
	int content = stamp_cmp(ours->content_stamp, t->content_stamp);
	int attr = stamp_cmp(ours->attr_stamp, t->attr_stamp);
	int mtime = stamp_cmp(ours->mtime_stamp, t->mtime_stamp);
	struct merged m = {.content_theirs = content <= 0 || same_bytes(ours, t),
		.ours_newer = content > 0 || attr > 0 || mtime > 0};

	/* The target is never known of theirs, but then the body is not sent either. */
	int r = entry_copy(&m.entry, content >= 0 ? ours : t);
	if (r < 0)
		return r;
	const struct entry *a = attr >= 0 ? ours : t;
	const struct entry *w = mtime >= 0 ? ours : t;
	m.entry.mode = a->mode;
	m.entry.uid = a->uid;
	m.entry.gid = a->gid;
	m.entry.attr_stamp = a->attr_stamp;
	m.omitted = a == t && theirs->xattrs_omitted;
	buf_clear(&m.entry.xattrs);
	buf_put(&m.entry.xattrs, a->xattrs.data, a->xattrs.len);
	m.entry.mtime_ns = w->mtime_ns;
	m.entry.mtime_stamp = w->mtime_stamp;
	/* The vector is the content's (merge.h); entry_copy took the winner's. */
	if (content == 0)
		vector_merge(&m.entry.vector, &t->vector);
	if (m.entry.xattrs.failed) {
		entry_done(&m.entry);
		return -ENOMEM;
	}
	*ret = m;
	return 0;
}

/* The object's bytes stay, its metadata becomes m's. */
static enum store_result put_metadata(
	struct delivery *d, const struct merged *m, const struct seen *s, char *etag)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_condition condition = {0};
	CLEANUP(buf_done) struct buf b = {0};

	const char *parts = store_meta_get(&s->meta, PARTS_META);

	int code = make_meta(d, &m->entry, m->omitted, &meta);
	if (code == 0 && parts)
		code = parts_set_meta(&meta, parts);
	if (code < 0)
		return store_error_local(d->error, code, "metadata");
	if (has(d, STORE_CAP_COPY) && !has(d, STORE_CAP_COPY_IF_MATCH) &&
		!copied_in_parts(d, s) && same_bytes(d->q->entry, &s->theirs.entry))
		code = object_meta_set_copied(&meta, s->object.etag);
	if (code < 0 && code != -E2BIG)
		return store_error_local(d->error, code, "metadata");
	if (has(d, STORE_CAP_COPY))
		return copy_seen(d, d->key, s, d->key, &meta, etag);
	if (same_bytes(d->q->entry, &s->theirs.entry))
		return put_content(d, &m->entry, m->omitted, s->object.etag, etag);
	/* Theirs, and this store cannot copy: through this machine. */
	enum store_result r = store_get_buf(
		d->q->store, d->key, FOREIGN_BUFFER_MAX, &b, NULL, NULL, &d->call, d->error);
	if (r != STORE_OK)
		return r;
	if (has(d, STORE_CAP_PUT_IF_MATCH))
		condition.if_match = s->object.etag;
	return store_put_buf(
		d->q->store, d->key, b.data, b.len, &meta, &condition, etag, &d->call, d->error);
}

/* One write after a look. STORE_OK and *wrote: the write was made; without: there was nothing to
 * do. */
static enum store_result write_over(
	struct delivery *d, const struct seen *s, bool *wrote, bool *sure)
{
	CLEANUP(merged_done) struct merged m = {0};
	char *etag = d->outcome->etag;
	enum store_result r;

	*wrote = true;
	*sure = guarded(d, STORE_CAP_PUT_IF_MATCH);
	if (s->foreign) {
		r = keep_foreign(d, d->key, s);
		if (r != STORE_OK)
			return r;
		return put_content(d, d->q->entry, false, s->object.etag, etag);
	}
	int code = merge(d->q->entry, &s->theirs, &m);
	if (code < 0)
		return store_error_local(d->error, code, "metadata");
	if (s->torn && stamp_cmp(d->q->entry->content_stamp, s->theirs.entry.content_stamp) >= 0) {
		d->send = m.ours_newer = true;
		m.content_theirs = false;
	}
	if (!m.ours_newer) {
		*wrote = false;
		return STORE_OK;
	}
	if (m.content_theirs) {
		if (has(d, STORE_CAP_COPY))
			*sure = has(d, copied_in_parts(d, s) ? STORE_CAP_UPLOAD_IF
							     : STORE_CAP_COPY_IF_MATCH);
		return put_metadata(d, &m, s, etag);
	}
	if (is_only_here(d, s)) {
		r = keep_foreign(d, d->key, s);
		if (r != STORE_OK)
			return r;
	}
	d->over = s->theirs.entry.kind == KIND_FILE && !s->torn ? s : NULL;
	r = put_content(d, &m.entry, m.omitted, s->object.etag, etag);
	d->over = NULL;
	return r;
}

/* The other form of the key holds another kind: what is older there goes. When it is newer, ours is
 * history, and goes if it is there. */
static enum store_result settle_other(struct delivery *d)
{
	struct stamp newer = {0};

	if (d->other_clean || !d->other[0])
		return STORE_OK;
	enum store_result r = remove_older(d, d->other, d->q->entry->content_stamp, &newer);
	if (r != STORE_OK)
		return r;
	d->other_clean = true;
	return newer.time ? remove_older(d, d->key, newer, &newer) : STORE_OK;
}

/* Several servers wrote this path; so one of them may have left the other form before. */
static bool several_writers(const struct delivery *d, const struct seen *s)
{
	const struct entry *e = d->q->entry;

	return s->foreign || s->theirs.entry.content_stamp.node != e->content_stamp.node ||
	       e->attr_stamp.node != e->content_stamp.node ||
	       (e->mtime_stamp.time && e->mtime_stamp.node != e->content_stamp.node);
}

/* One look (unless skipped) and one write. *again: it must be looked at (again). */
static enum store_result write_live(struct delivery *d, struct seen *s, bool skip_look, bool *again)
{
	bool wrote = true, sure = guarded(d, STORE_CAP_PUT_IF_ABSENT);
	enum store_result r = skip_look ? STORE_OK : look(d, d->key, s);

	*again = false;
	if (r != STORE_OK)
		return r;
	if (s->there) {
		r = write_over(d, s, &wrote, &sure);
	} else {
		r = skip_look ? STORE_OK : settle_other(d);
		if (r != STORE_OK || d->superseded)
			return r;
		r = put_content(d, d->q->entry, false, NULL, d->outcome->etag);
	}
	sure = sure && !d->unguarded;
	if (r == STORE_OK && !wrote) {
		/* Somebody else's work was done before ours, or this is a repair: two kinds may
		 * have met. */
		r = settle_other(d);
		d->superseded = d->superseded || stamp_cmp(s->theirs.entry.content_stamp,
							 d->q->entry->content_stamp) > 0;
	} else if (r == STORE_OK && s->there && several_writers(d, s)) {
		r = settle_other(d);
		*again = !sure;
	} else if (r == STORE_OK) {
		*again = !sure; /* nothing guarded it: what is there now? */
	} else {
		*again = r == STORE_EXISTS || r == STORE_PRECONDITION || r == STORE_ABSENT;
		d->outcome->etag[0] = '\0';
		r = *again ? STORE_OK : r;
	}
	return r;
}

static enum store_result deliver_live(struct delivery *d)
{
	CLEANUP(seen_done) struct seen s = {0};
	bool skip_look = d->q->fresh && guarded(d, STORE_CAP_PUT_IF_ABSENT), again;

	for (int i = 0; i < ATTEMPTS_MAX; i++) {
		enum store_result r = write_live(d, &s, skip_look, &again);
		if (r != STORE_OK)
			return r;
		if (!again)
			return STORE_OK;
		skip_look = false;
	}
	return store_error_set(d->error, STORE_PRECONDITION, "it keeps changing");
}

enum store_result object_deliver(
	const struct object_request *q, struct object_outcome *ret, struct store_error *error)
{
	struct delivery d = {.q = q,
		.error = error,
		.caps = q->store->capabilities,
		.call = *q->call,
		.outcome = ret};
	bool directory = q->entry->kind == KIND_DIR;

	*ret = (struct object_outcome){0};
	d.call.uncertain = &ret->uncertain;
	int code = object_key_from_path(q->key, directory, d.key);
	if (code == -ENAMETOOLONG && !entry_live(q->entry))
		return STORE_OK; /* it cannot be there */
	if (code < 0)
		return store_error_local(error, code, "key");
	if (object_key_from_path(q->key, !directory, d.other) < 0)
		d.other[0] = '\0';
	enum store_result r = entry_live(q->entry) ? deliver_live(&d) : deliver_tombstone(&d);
	if (r != STORE_OK)
		return r;
	if (d.superseded)
		metric_add(METRIC_OBJECTS_SUPERSEDED, 1);
	ret->superseded = d.superseded;
	return STORE_OK;
}

/* Through this machine, where the store does not copy. */
static enum store_result adopt_again(struct delivery *d, const struct store_object *there,
	const struct store_meta *meta, char *etag)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct store_condition condition = {0};

	if (there->size > FOREIGN_BUFFER_MAX)
		return store_error_set(d->error, STORE_UNSUPPORTED, "it is too large to be copied");
	enum store_result r = store_get_buf(
		d->q->store, d->key, FOREIGN_BUFFER_MAX, &b, NULL, NULL, &d->call, d->error);
	if (r != STORE_OK)
		return r;
	if (has(d, STORE_CAP_PUT_IF_MATCH))
		condition.if_match = there->etag;
	return store_put_buf(
		d->q->store, d->key, b.data, b.len, meta, &condition, etag, &d->call, d->error);
}

enum store_result object_adopt(const struct object_request *q, const struct store_object *there,
	char etag[STORE_ETAG_SIZE], struct store_error *error)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct delivery d = {.q = q,
		.error = error,
		.caps = q->store->capabilities,
		.call = *q->call};
	struct seen s = {.there = true, .foreign = true, .object = *there};
	struct store_object now = {0};

	etag[0] = '\0';
	int code = object_key_from_path(q->key, q->entry->kind == KIND_DIR, d.key);
	if (code == 0)
		code = make_meta(&d, q->entry, false, &meta);
	/* Another version may be there by the time of the copy; the ETag of what came in parts is not kept by it. */
	bool tells = !has(&d, STORE_CAP_COPY_IF_MATCH) && has(&d, STORE_CAP_COPY) &&
		     !strchr(there->etag, '-') && !copied_in_parts(&d, &s);
	if (code == 0 && tells && object_meta_set_copied(&meta, there->etag) == -ENOMEM)
		code = -ENOMEM;
	if (code < 0)
		return store_error_local(error, code, "metadata");
	if (!has(&d, STORE_CAP_COPY_IF_MATCH)) {
		enum store_result r =
			store_head(q->store, d.key, &now, NULL, &d.call, error);
		if (r != STORE_OK)
			return r == STORE_ABSENT ? STORE_PRECONDITION : r;
		if (strcmp(now.etag, there->etag) != 0)
			return STORE_PRECONDITION;
	}
	if (!has(&d, STORE_CAP_COPY))
		return adopt_again(&d, there, &meta, etag);
	enum store_result r = copy_seen(&d, d.key, &s, d.key, &meta, etag);
	if (r == STORE_ABSENT || (r == STORE_OK && tells && strcmp(etag, there->etag) != 0))
		r = STORE_PRECONDITION;
	return r;
}
