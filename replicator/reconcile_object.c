/*
 * Objects that a scan has to look at: what is there, what is known, and what becomes of it.
 *
 * First all requests of a batch, then one transaction with everything that it changes: records are
 * merged as those of a segment are (local changes of the same paths are sealed first), and what won
 * is enqueued for every region. So what an application does meanwhile is weighed by the stamps like
 * any other change.
 *
 * Taking over. The body of another tool's object is read once, for its hash; small content stays
 * here and travels in the segment. Then the object gets its metadata, by a copy onto itself under the
 * condition that it still is that version: from then on every server sees whose it is, and of
 * several that are at it at once one writes and the others find it written. After a crash in between
 * the next scan merges it from its own metadata.
 *
 * No lock is held here but for counting.
 */
#include "replicator/reconcile_internal.h"

#include <errno.h>
#include <stdio.h>

#include "cache/journal.h"
#include "cache/outbox.h"
#include "replicator/body.h"
#include "replicator/foreign.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

enum { TARGET_MAX = 4095 };

/* One of the batch. */
struct item {
	struct candidate *c;
	struct key path;
	bool directory;
	struct entry entry; /* before */
	bool known;
	bool waiting;

	/* what the store said */
	bool asked;
	bool there;
	struct store_object object;
	struct store_meta meta;
	struct object_entry theirs;
	bool ours; /* theirs is set */
	struct buf body;
	bool has_body;
	uint8_t hash[SHA256_SIZE]; /* of the body, */
	bool hashed;

	/* what is to be done */
	struct record record;
	bool merge;
	bool forget;
	bool repair;
	bool remember;
	struct object_seen seen;
};

static void item_done(struct item *i)
{
	entry_done(&i->entry);
	store_meta_done(&i->meta);
	object_entry_done(&i->theirs);
	buf_done(&i->body);
	record_done(&i->record);
}

/* ---- what is known ---- */

static int read_known(struct scan *s, struct item *i)
{
	AUTO_FREE struct outbox_row *row = malloc(sizeof(*row));
	struct conn *conn;
	int r = row ? cache_read_begin(s->cache, &conn) : -ENOMEM;

	if (r < 0)
		return r;
	r = entry_get(conn, key_slice(&i->path), &i->entry);
	i->known = r == 0;
	if (r == 0 || r == -ENOENT)
		r = outbox_get(conn, s->region->id, key_slice(&i->path), row);
	i->waiting = r == 0;
	if (r == 0 || r == -ENOENT)
		r = 0;
	if (r == 0 && !i->waiting)
		r = journal_pending(conn, key_slice(&i->path), &i->waiting);
	cache_read_end(conn);
	return r;
}

/* The owner of the nearest directory that has one: what nobody owns belongs to it. */
static int nearest_owner(struct scan *s, struct slice path, uint32_t *uid, uint32_t *gid)
{
	struct conn *conn;
	int r = cache_read_begin(s->cache, &conn);

	*uid = *gid = 0;
	if (r < 0)
		return r;
	while (path.len) {
		CLEANUP(entry_done) struct entry e = {0};

		path = key_parent(path);
		r = entry_get(conn, path, &e);
		if (r < 0 && r != -ENOENT)
			break;
		if (r == 0 && e.attr_stamp.time) {
			*uid = e.uid;
			*gid = e.gid;
			break;
		}
	}
	cache_read_end(conn);
	return r == -ENOENT ? 0 : r;
}

/* ---- what is there ---- */

/* True: the store gave an answer. */
static bool request_head(struct scan *s, struct item *i)
{
	struct store_call call = region_call(s->region, 0);
	struct store_error error = {0};

	if (!region_begin(s->region, REGION_READ)) {
		scan_fail(s, -EHOSTDOWN, NULL);
		return false;
	}
	enum store_result r =
		store_head(s->region->store, i->c->key, &i->object, &i->meta, &call, &error);
	region_end(s->region, REGION_READ, r, &error, "head object");
	i->there = r == STORE_OK;
	if (r == STORE_OK || r == STORE_ABSENT)
		return true;
	scan_request_failed(s, i->c->key, "head object", r, &error);
	return false;
}

struct hashing {
	struct sha256 hash;
	struct buf *keep; /* the body, as far as it is small; NULL: not wanted */
	uint64_t max;
	uint64_t size;
};

static int hash_write(void *ctx, const void *p, size_t n)
{
	struct hashing *h = ctx;

	sha256_update(&h->hash, p, n);
	h->size += n;
	if (h->keep && h->size <= h->max)
		buf_put(h->keep, p, n);
	return 0;
}

static int hash_reset(void *ctx)
{
	struct hashing *h = ctx;

	sha256_done(&h->hash);
	sha256_init(&h->hash);
	h->size = 0;
	if (h->keep)
		buf_clear(h->keep);
	return 0;
}

/* The whole object with its metadata, in memory as far as it is small, else only its hash. */
static bool request_body(struct scan *s, struct item *i, const char *etag)
{
	struct store_call call = region_call(s->region, i->c->size);
	struct hashing h = {.keep = &i->body, .max = s->o->merger.inline_max};
	struct store_sink sink = {.write = hash_write, .reset = hash_reset, .ctx = &h};
	struct store_error error = {0};

	if (!region_begin(s->region, REGION_READ)) {
		scan_fail(s, -EHOSTDOWN, NULL);
		return false;
	}
	store_meta_done(&i->meta);
	buf_clear(&i->body);
	sha256_init(&h.hash);
	enum store_result r = store_get(s->region->store, i->c->key, 0, 0, etag, &sink, &i->object,
		&i->meta, &call, &error);
	sha256_final(&h.hash, i->hash);
	region_end(s->region, REGION_READ, r, &error, "get object");
	i->there = r == STORE_OK;
	i->hashed = r == STORE_OK;
	i->has_body = r == STORE_OK && h.size <= h.max && !i->body.failed;
	if (r == STORE_OK || r == STORE_ABSENT)
		return true;
	if (r == STORE_PRECONDITION)
		scan_add(s, &s->counts.waiting, 1);
	else
		scan_request_failed(s, i->c->key, "get object", r, &error);
	return false;
}

static bool ask(struct scan *s, struct item *i)
{
	bool small = i->c->kind == CANDIDATE_LISTED && i->c->size <= s->o->merger.inline_max;

	scan_add(s, &s->counts.looked, 1);
	if (!(small ? request_body(s, i, NULL) : request_head(s, i)))
		return false;
	if (i->there && !i->hashed && !object_meta_is_whole(&i->meta, i->object.etag)) {
		char etag[STORE_ETAG_SIZE];

		memcpy(etag, i->object.etag, sizeof(etag));
		if (!request_body(s, i, etag))
			return false;
	}
	i->asked = true;
	i->ours = i->there && object_meta_is_of(&i->meta, i->c->key) &&
		  object_meta_to_entry(&i->meta, i->object.size, i->directory, &i->theirs) == 0;
	/* Metadata that were taken along to another body say nothing of it. */
	if (i->ours && i->hashed && i->theirs.entry.kind != KIND_DIR &&
		memcmp(i->hash, i->theirs.entry.hash, SHA256_SIZE) != 0)
		i->ours = false;
	return true;
}

/* ---- what becomes of it ---- */

static struct judgement judge(const struct scan *s, const struct item *i)
{
	int64_t now = clock_realtime_ms();
	struct facts f = {.now_ms = now,
		.store_now_ms = now + store_clock_skew_ms(s->region->store),
		.grace_ms = s->o->grace_ms,
		.deputy_ms = reconcile_deputy_ms(s->o),
		.max_skew_ms = s->o->merger.max_clock_skew_ms,
		.node = cache_node(s->cache),
		.region = s->region->name,
		.waiting = i->waiting,
		.entry = i->known ? &i->entry : NULL,
		.seen = i->c->seen,
		.row = i->c->row,
		.directory = i->directory,
		.object = i->there ? &i->object : NULL,
		.theirs = i->ours ? &i->theirs.entry : NULL};

	return reconcile_judge(&f);
}

static void remember(struct item *i, const char *etag, struct stamp stamp)
{
	i->remember = true;
	i->seen =
		(struct object_seen){.tag = object_seen_tag(etag, i->object.size), .stamp = stamp};
}

/* The version that was read becomes one with metadata. False: not now. */
static bool stamp_object(struct scan *s, struct item *i, const struct entry *e)
{
	struct store_call call = region_call(s->region, i->object.size);
	struct object_request q = {.store = s->region->store,
		.uploader = &s->uploader,
		.call = &call,
		.key = key_slice(&i->path),
		.entry = e};
	char etag[STORE_ETAG_SIZE] = "";
	struct store_error error = {0};

	if (!region_begin(s->region, REGION_WRITE)) {
		scan_add(s, &s->counts.waiting, 1);
		return false;
	}
	enum store_result r = object_adopt(&q, &i->object, etag, &error);
	region_end(s->region, REGION_WRITE, r, &error, "take over object");
	if (r == STORE_PRECONDITION) {
		scan_add(s, &s->counts.waiting, 1);
		return false;
	}
	if (r != STORE_OK && r != STORE_UNSUPPORTED) {
		scan_request_failed(s, i->c->key, "take over object", r, &error);
		return false;
	}
	remember(i, etag, e->content_stamp);
	return true;
}

static bool set_record(struct item *i)
{
	i->record.key = i->path;
	i->record.has_content = i->has_body && i->record.entry.kind == KIND_FILE &&
				i->body.len == i->record.entry.size;
	i->record.content = i->body.data ? i->body.data : (const uint8_t *)"";
	i->merge = true;
	return true;
}

/* The body that decides what is there. False: not now. */
static bool need_hash(struct scan *s, struct item *i)
{
	if (i->hashed)
		return true;
	char etag[STORE_ETAG_SIZE];

	memcpy(etag, i->object.etag, sizeof(etag));
	if (!request_body(s, i, etag) || !i->there) {
		if (i->asked && !i->there)
			scan_add(s, &s->counts.waiting, 1);
		return false;
	}
	return true;
}

static int take_over(struct scan *s, struct item *i, bool over)
{
	struct foreign_meta meta;
	struct foreign_object o = {.region = s->region->name,
		.object = &i->object,
		.meta = &meta,
		.directory = i->directory,
		.before = i->known ? &i->entry : NULL,
		.over = over && i->known};

	foreign_meta_read(&i->meta, &meta);
	enum kind kind = foreign_kind(&o);
	if (kind == KIND_ABSENT || (kind == KIND_SYMLINK && i->object.size > TARGET_MAX)) {
		scan_found(s, FOUND_INVALID, i->c->key);
		return 0;
	}
	if (s->q->dry_run) {
		scan_found(s, i->known && entry_live(&i->entry) ? FOUND_OVERWRITE : FOUND_PUT,
			i->c->key);
		return 0;
	}
	if (kind != KIND_DIR && !need_hash(s, i))
		return 0;
	/* What its metadata are is read with the body: it may be another's by now. */
	foreign_meta_read(&i->meta, &meta);
	if (foreign_kind(&o) != kind)
		return 0;
	memcpy(o.hash, i->hash, SHA256_SIZE);
	if (kind == KIND_SYMLINK) {
		o.target = buf_str(&i->body);
		if (!i->has_body || !i->body.len || strlen(o.target) != i->body.len) {
			scan_found(s, FOUND_INVALID, i->c->key);
			return 0;
		}
	}
	int r = nearest_owner(s, key_slice(&i->path), &o.uid, &o.gid);
	if (r == 0)
		r = foreign_put(&o, &i->record.entry);
	if (r < 0 || !stamp_object(s, i, &i->record.entry))
		return r;
	scan_found(s, i->known && entry_live(&i->entry) ? FOUND_OVERWRITE : FOUND_PUT, i->c->key);
	set_record(i);
	return 0;
}

/* A server's version, by what its metadata say. */
static int merge_theirs(struct scan *s, struct item *i)
{
	struct entry *e = &i->record.entry;
	int r;

	if (i->theirs.entry.kind == KIND_SYMLINK && !need_hash(s, i))
		return 0;
	scan_found(s, FOUND_MISSED, i->c->key);
	if (s->q->dry_run)
		return 0;
	r = entry_copy(e, &i->theirs.entry);
	if (r < 0)
		return r;
	if (e->kind == KIND_SYMLINK) {
		if (!i->has_body || !i->body.len || i->body.len > TARGET_MAX ||
			memchr(i->body.data, 0, i->body.len))
			return 0;
		e->target = strdup(buf_str(&i->body));
		if (!e->target)
			return -ENOMEM;
	}
	remember(i, i->object.etag, e->content_stamp);
	set_record(i);
	return 0;
}

/* ---- what is not there ---- */

/* Some region, or this machine, has the content to put it back. *sure: nobody has, and all answered. */
static bool can_repair(struct scan *s, const struct item *i, bool *sure)
{
	CLEANUP(body_done) struct body body = {0};
	struct store_source source;
	struct regions *all = s->region->all;
	struct inline_cache *none;
	bool here;

	*sure = true;
	if (i->entry.kind != KIND_FILE)
		return true;
	none = inline_cache_new(0);
	if (!none) {
		*sure = false;
		return false;
	}
	here = body_open_local(&body, s->cache, none, key_slice(&i->path), &i->entry, &source) == 0;
	inline_cache_free(none);
	for (unsigned n = 0; !here && n < all->count; n++) {
		struct region *from = &all->region[n];
		struct store_call call = region_call(from, 0);
		CLEANUP(store_meta_done) struct store_meta meta = {0};
		CLEANUP(object_entry_done) struct object_entry theirs = {0};
		struct store_object object = {0};
		struct store_error error = {0};

		if (from == s->region)
			continue;
		if (!region_begin(from, REGION_READ)) {
			*sure = false;
			continue;
		}
		enum store_result r =
			store_head(from->store, i->c->key, &object, &meta, &call, &error);
		region_end(from, REGION_READ, r, &error, "head object");
		if (r != STORE_OK && r != STORE_ABSENT)
			*sure = false;
		here = r == STORE_OK && object.size == i->entry.size &&
		       object_meta_to_entry(&meta, object.size, false, &theirs) == 0 &&
		       memcmp(theirs.entry.hash, i->entry.hash, SHA256_SIZE) == 0 &&
		       object_meta_is_whole(&meta, object.etag);
	}
	return here;
}

/* One more removal. False: there are too many. */
static bool may_remove(struct scan *s)
{
	mutex_lock(&s->lock);
	bool may = s->removals < s->removals_max;
	s->removals += may;
	mutex_unlock(&s->lock);
	return may;
}

/* seen: the entry's version was there. */
static int remove_entry(struct scan *s, struct item *i, bool seen)
{
	if (!may_remove(s)) {
		scan_found(s, FOUND_HELD, i->c->key);
		return 0;
	}
	scan_found(s, FOUND_DELETE, i->c->key);
	if (s->q->dry_run)
		return 0;
	int r = foreign_remove(s->region->name, &i->entry, seen, &i->record.entry);
	if (r < 0)
		return r;
	i->forget = true;
	set_record(i);
	return 0;
}

/* What is known has to go there. Where that is nowhere any more, what is there is all that there is. */
static int repair(struct scan *s, struct item *i)
{
	bool sure = true;

	if (!i->ours && !can_repair(s, i, &sure)) {
		if (sure && i->there)
			return take_over(s, i, true);
		if (sure && s->q->deletes != DELETES_RESTORE)
			return remove_entry(s, i, false);
		scan_add(s, &s->counts.waiting, 1);
		return 0;
	}
	scan_found(s, i->there ? FOUND_STALE : FOUND_MISSING, i->c->key);
	i->repair = !s->q->dry_run;
	return 0;
}

/* ---- one ---- */

/* The same metadata under another version: the bytes decide. */
static int verify(struct scan *s, struct item *i)
{
	if (!need_hash(s, i))
		return 0;
	if (memcmp(i->hash, i->theirs.entry.hash, SHA256_SIZE) != 0)
		return take_over(s, i, true);
	remember(i, i->object.etag, i->theirs.entry.content_stamp);
	return 0;
}

static int act(struct scan *s, struct item *i, struct judgement j)
{
	switch (j.verdict) {
	case VERDICT_SAME:
		if (i->theirs.entry.kind == i->entry.kind)
			remember(i, i->object.etag, i->theirs.entry.content_stamp);
		return 0;
	case VERDICT_FORGET:
		i->forget = i->c->seen;
		return 0;
	case VERDICT_WAIT:
		scan_add(s, &s->counts.waiting, 1);
		return 0;
	case VERDICT_VERIFY:
		return verify(s, i);
	case VERDICT_PUT:
		return take_over(s, i, j.over);
	case VERDICT_MERGE:
		return merge_theirs(s, i);
	case VERDICT_REPAIR:
		return repair(s, i);
	case VERDICT_REMOVE:
		return s->q->deletes == DELETES_RESTORE ? repair(s, i) : remove_entry(s, i, true);
	}
	return 0;
}

static int process(struct scan *s, struct item *i)
{
	if (object_key_to_path(i->c->key, &i->path, &i->directory) < 0)
		return 0;
	int r = read_known(s, i);
	if (r < 0 || !ask(s, i))
		return r;
	return act(s, i, judge(s, i));
}

/* ---- all of a batch at once ---- */

struct change {
	struct scan *s;
	struct item *item;
	unsigned count;
	bool moved;
};

/* Some register of the record is what is known now: it has to reach every region. */
static bool won(const struct entry *now, const struct entry *record)
{
	return stamp_cmp(now->content_stamp, record->content_stamp) == 0 ||
	       stamp_cmp(now->attr_stamp, record->attr_stamp) == 0;
}

static int enqueue(struct change *c, struct conn *conn, const struct item *i)
{
	CLEANUP(entry_done) struct entry now = {0};
	int r = entry_get(conn, key_slice(&i->path), &now);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	uint64_t size = now.kind == KIND_FILE ? now.size : 0;
	struct outbox_change change = {.key = key_slice(&i->path),
		.stamp = entry_stamp(&now),
		.size = size,
		.upload = size > c->s->o->merger.inline_max,
		.shared = true};
	if (i->repair) {
		c->moved = true;
		return outbox_repair(conn, c->s->region->id, key_slice(&i->path), &now);
	}
	if (!won(&now, &i->record.entry))
		return 0;
	c->moved = true;
	return outbox_enqueue(conn, &change);
}

static int apply(void *ctx, struct conn *conn)
{
	struct change *c = ctx;
	unsigned region = c->s->region->id;
	int r = 0;

	c->moved = false;
	for (unsigned n = 0; r == 0 && n < c->count; n++) {
		const struct item *i = &c->item[n];

		if (i->merge || i->repair)
			r = enqueue(c, conn, i);
		if (r == 0 && i->remember)
			r = object_seen_put(conn, region, i->c->key, &i->seen);
		if (r == 0 && i->forget)
			r = object_seen_drop(conn, region, i->c->key);
	}
	return r;
}

static int commit(struct scan *s, struct item *item, unsigned count)
{
	struct change c = {.s = s, .item = item, .count = count};
	struct merge_batch *b;
	bool anything = false;
	int r;

	for (unsigned n = 0; n < count; n++)
		anything |= item[n].merge || item[n].repair || item[n].remember || item[n].forget;
	if (!anything)
		return 0;
	r = merge_batch_new(s->cache, &s->o->merger, &b);
	for (unsigned n = 0; r == 0 && n < count; n++) {
		if (item[n].merge)
			r = merge_batch_add_record(b, &item[n].record);
	}
	if (r == 0)
		r = merge_batch_commit(b, apply, &c);
	if (r == 0 && c.moved && s->o->moved)
		s->o->moved(s->o->ctx);
	merge_batch_free(b);
	/* Applications keep changing these paths; what was written to the bucket says the rest. */
	return r == -EBUSY ? 0 : r;
}

void scan_batch(struct scan *s, struct candidate *c, unsigned count)
{
	struct item *item = calloc(count, sizeof(*item));
	int r = item ? 0 : -ENOMEM;

	for (unsigned n = 0; r == 0 && n < count && !scan_stopped(s); n++) {
		item[n].c = &c[n];
		r = process(s, &item[n]);
	}
	if (r == 0)
		r = commit(s, item, count);
	if (r < 0)
		scan_fail(s, r, NULL);
	for (unsigned n = 0; item && n < count; n++)
		item_done(&item[n]);
	free(item);
}
