/*
 * Last words.
 *
 * Each server pulls from its home region only, so a change that its author brought to another region
 * and not to this one stays unknown here for as long as the author does not come back. And an author
 * may have announced a change and died before its object was written.
 *
 * Who is gone. A server whose newest segment in the home region is older than gone_ms, or that has
 * none there and whose object below .meridian/nodes/ in another region is older than that; unless
 * another region's log has something younger of it. One that only has nothing to say looks the same:
 * then all that follows finds everything in place, once for each time that it falls silent (the table
 * last_words).
 *
 * What is done for the servers that are gone, W being gone_ms before the newest segment of each:
 *
 *   1. Their segments since W in each other region's log are merged here. What they hold of them that is
 *      news here, or came after their newest segment in the home region, is owed to all other regions:
 *      it is announced there by this server, under its author's stamps.
 *      Of the home region's log their newest HOME_SEGMENTS are read as well: who started from a
 *      checkpoint does not have the small contents that they carried.
 *   2. What they wrote (by the entries here) after their newest segment in a region is owed to that
 *      region; all else since W, but large contents, which are there before they are announced, gets its
 *      object looked at in every region.
 *
 * Everything is merging and outbox rows, so it may be done twice, by several servers, and in the middle
 * of it the author may come back. Not seen: an announcement that the author brought to a region more
 * than W before its end and to another one not at all, while later ones arrived there.
 *
 * Memory: SUSPECTS_MAX servers, NAMES_MAX names, one segment, KEYS_MAX keys.
 *
 * No lock: one thread.
 */
#include "replicator/last_words.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/dump.h"
#include "cache/file.h"
#include "cache/outbox.h"
#include "cache/tree.h"
#include "replicator/checkpoint.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define NODES_PREFIX ".meridian/nodes/"

enum {
	SUSPECTS_MAX = 256,
	NAMES_MAX = 100000,
	KEYS_MAX = 2000,
	UNKNOWN_AGAIN = 7,
	SKEW_MS = 600000,
	HOME_SEGMENTS = 2000
};

struct suspect {
	uint64_t node;
	uint64_t seq;	  /* in the home region */
	uint64_t last_ms; /* of its newest segment there; 0: none */
	uint64_t from_ms; /* W */
	bool alive;
	uint64_t newest_ms[REGION_MAX]; /* by index of the region; 0: none since from_ms */
};

struct last_words {
	struct last_words_options o;
	int64_t next_look_ms; /* monotonic */
	struct suspect *suspect;
	unsigned count;
	uint64_t owed; /* rows, of the round under way */
};

int last_words_new(const struct last_words_options *o, struct last_words **ret)
{
	struct last_words *w = calloc(1, sizeof(*w));

	if (w)
		w->suspect = calloc(SUSPECTS_MAX, sizeof(*w->suspect));
	if (!w || !w->suspect) {
		free(w);
		return -ENOMEM;
	}
	w->o = *o;
	*ret = w;
	return 0;
}

void last_words_free(struct last_words *w)
{
	if (w)
		free(w->suspect);
	free(w);
}

static struct region *region_at(struct last_words *w, unsigned index)
{
	return &w->o.regions->region[index];
}

static uint64_t now_in(struct last_words *w, unsigned index)
{
	int64_t now = clock_realtime_ms() + store_clock_skew_ms(region_at(w, index)->store);

	return now > 0 ? (uint64_t)now : 0;
}

static bool is_old(struct last_words *w, unsigned index, uint64_t ms)
{
	return ms + (uint64_t)w->o.gone_ms <= now_in(w, index);
}

static uint64_t less(uint64_t ms, int64_t by)
{
	return ms > (uint64_t)by ? ms - (uint64_t)by : 0;
}

static struct suspect *suspect_of(struct last_words *w, uint64_t node)
{
	for (unsigned i = 0; i < w->count; i++) {
		if (w->suspect[i].node == node)
			return &w->suspect[i];
	}
	return NULL;
}

/* ---- who ---- */

struct looking {
	struct last_words *w;
	struct conn *conn; /* never while the network is waited for */
	unsigned index;	   /* of the region that is listed */
	int result;
};

static int add_suspect(
	struct looking *l, uint64_t node, uint64_t seq, uint64_t last_ms, uint64_t from_ms)
{
	struct last_words *w = l->w;
	struct words_mark mark;
	int r;

	if (w->count == SUSPECTS_MAX || suspect_of(w, node) || node == cache_node(w->o.cache))
		return 0; /* the others have their turn when these are done */
	r = words_mark_get(l->conn, node, &mark);
	if (r < 0)
		return r;
	if (mark.at_ms && mark.seq == seq &&
		(seq || clock_realtime_ms() - mark.at_ms < UNKNOWN_AGAIN * w->o.gone_ms))
		return 0;
	w->suspect[w->count++] =
		(struct suspect){.node = node, .seq = seq, .last_ms = last_ms, .from_ms = from_ms};
	return 0;
}

static int consider_known(void *ctx, uint64_t node, uint64_t seq, const char *name)
{
	struct looking *l = ctx;
	struct segment_id id;

	if (!segment_name_parse(name, &id) || !is_old(l->w, l->w->o.home, id.ms))
		return 0;
	return add_suspect(l, node, seq, id.ms, less(id.ms, l->w->o.gone_ms));
}

static int consider_node(void *ctx, const char *key, const struct store_object *object)
{
	struct looking *l = ctx;
	const char *name = key + strlen(NODES_PREFIX);
	char known[SEGMENT_NAME_SIZE];
	uint8_t bytes[8];
	uint64_t node = 0, seq, from;

	if (strlen(name) != 21 || strcmp(name + 16, ".json") != 0)
		return 0;
	char hex[17] = "";
	memcpy(hex, name, 16);
	if (!hex_decode(hex, bytes, sizeof(bytes)) || object->mtime_ms <= 0 ||
		!is_old(l->w, l->index, (uint64_t)object->mtime_ms))
		return 0;
	for (unsigned i = 0; i < sizeof(bytes); i++)
		node = node << 8 | bytes[i];
	from = less((uint64_t)object->mtime_ms, SKEW_MS);
	if (from < less(now_in(l->w, l->index), l->w->o.keep_ms))
		from = less(now_in(l->w, l->index), l->w->o.keep_ms);
	l->result = cache_read_begin(l->w->o.cache, &l->conn);
	if (l->result)
		return 1;
	l->result = watermark_get(l->conn, region_at(l->w, l->w->o.home)->id, node, &seq, known);
	if (l->result == 0 && !seq)
		l->result = add_suspect(l, node, 0, 0, from);
	cache_read_end(l->conn);
	return l->result != 0;
}

/* Nobody else sees to it: this server wrote the newest checkpoint, or who did is gone as well. */
static int is_elected(struct last_words *w, struct conn *conn, bool *ret)
{
	unsigned home = region_at(w, w->o.home)->id;
	char name[SEGMENT_NAME_SIZE];
	struct checkpoint_mark mark;
	struct segment_id id;
	uint64_t seq = 0;
	int r = checkpoint_mark_get(conn, home, &mark);

	*ret = r == 0 && (!mark.ms || mark.node == cache_node(w->o.cache));
	if (r || *ret)
		return r;
	r = watermark_get(conn, home, mark.node, &seq, name);
	*ret = r == 0 && (!segment_name_parse(name, &id) || is_old(w, w->o.home, id.ms)) &&
	       is_old(w, w->o.home, mark.ms);
	return r;
}

static bool list_nodes(struct looking *l)
{
	struct region *r = region_at(l->w, l->index);
	struct store_call call = region_call(r, 0);
	struct store_error error = {0};
	enum store_result result =
		store_list(r->store, NODES_PREFIX, NULL, 0, consider_node, l, &call, &error);

	region_end(r, REGION_READ, result, &error, "list nodes");
	return result == STORE_OK;
}

/* *answered: every region did. */
static int find_suspects(struct last_words *w, bool *answered)
{
	struct looking l = {.w = w};
	bool elected = false;
	int r = cache_read_begin(w->o.cache, &l.conn);

	*answered = true;
	w->count = 0;
	if (r < 0)
		return r;
	r = is_elected(w, l.conn, &elected);
	if (r == 0 && elected)
		r = dump_segments(l.conn, region_at(w, w->o.home)->id, consider_known, &l);
	cache_read_end(l.conn);
	for (l.index = 0; r == 0 && elected && l.index < w->o.regions->count; l.index++) {
		if (l.index == w->o.home)
			continue;
		if (!region_up(region_at(w, l.index), REGION_READ)) {
			*answered = false;
			continue;
		}
		*answered &= list_nodes(&l);
		r = l.result;
	}
	return r;
}

/* ---- their segments in another region ---- */

struct found {
	struct last_words *w;
	unsigned index;
	struct segment_id *ids; /* NAMES_MAX */
	unsigned count;
};

static int find_segment(void *ctx, const char *key, const struct store_object *object)
{
	struct found *f = ctx;
	struct segment_id id;
	struct suspect *s;

	(void)object;
	if (!segment_name_parse(key + strlen(SEGMENT_PREFIX), &id))
		return 0;
	s = suspect_of(f->w, id.node);
	if (!s || id.ms < s->from_ms)
		return 0;
	if (id.ms > s->newest_ms[f->index])
		s->newest_ms[f->index] = id.ms;
	s->alive |= !is_old(f->w, f->index, id.ms);
	if (f->count == NAMES_MAX)
		return 1;
	f->ids[f->count++] = id;
	return 0;
}

static bool list_segments(struct found *f)
{
	struct region *r = region_at(f->w, f->index);
	struct store_call call = region_call(r, 0);
	struct store_error error = {0};
	char after[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE];
	uint64_t from = UINT64_MAX;

	for (unsigned i = 0; i < f->w->count; i++) {
		if (f->w->suspect[i].from_ms < from)
			from = f->w->suspect[i].from_ms;
	}
	snprintf(after, sizeof(after), "%s%012" PRIx64, SEGMENT_PREFIX, from & 0xffffffffffff);
	f->count = 0;
	enum store_result result = store_list(
		r->store, SEGMENT_PREFIX, from ? after : NULL, 0, find_segment, f, &call, &error);
	region_end(r, REGION_READ, result, &error, "list log");
	return result == STORE_OK;
}

/* Whether a register of node's in e is one that other does not have, or, without other, any is. */
static bool has_word(const struct entry *e, uint64_t node, const struct entry *other)
{
	return (e->content_stamp.node == node &&
		       (!other || stamp_cmp(e->content_stamp, other->content_stamp) > 0)) ||
	       (e->attr_stamp.node == node &&
		       (!other || stamp_cmp(e->attr_stamp, other->attr_stamp) > 0)) ||
	       (e->mtime_stamp.time && e->mtime_stamp.node == node &&
		       (!other || stamp_cmp(e->mtime_stamp, other->mtime_stamp) > 0));
}

/* Keys, each as varint length and bytes. */
struct keys {
	struct last_words *w;
	struct conn *conn;
	const struct suspect *suspect;
	struct buf keys;
	bool all;	 /* of the segment, not just what is news */
	unsigned except; /* index of the region that has them */
};

static int note_word(void *ctx, const struct record *record, const struct err *err)
{
	CLEANUP(entry_done) struct entry e = {0};
	struct keys *k = ctx;
	int r;

	(void)err;
	if (!record)
		return 0;
	r = entry_get(k->conn, key_slice(&record->key), &e);
	if (r < 0 && r != -ENOENT)
		return r;
	if (has_word(&record->entry, k->suspect->node, k->all ? NULL : &e))
		buf_put_bytes(&k->keys, record->key.p, record->key.len);
	return k->keys.failed ? -ENOMEM : 0;
}

static int owe(struct last_words *w, struct conn *conn, unsigned index, struct slice key,
	const struct entry *e, bool object_only)
{
	uint64_t size = e->kind == KIND_FILE ? e->size : 0;
	struct outbox_change change = {.key = key,
		.stamp = entry_stamp(e),
		.size = size,
		.upload = !object_only && size > w->o.merger.inline_max,
		.object_only = object_only,
		.shared = true};

	w->owed++;
	metric_add(METRIC_LAST_WORDS, 1);
	return outbox_enqueue_in(conn, region_at(w, index)->id, &change);
}

/* In the transaction of the merge. */
static int owe_words(void *ctx, struct conn *conn)
{
	struct keys *k = ctx;
	struct reader reader = reader_of(k->keys.data, k->keys.len);
	int r = 0;

	while (r == 0 && reader_left(&reader)) {
		CLEANUP(entry_done) struct entry e = {0};
		struct slice key;

		key.p = (const char *)reader_bytes(&reader, KEY_MAX, &key.len);
		CHECK(!reader.failed);
		r = entry_get(conn, key, &e);
		if (r == -ENOENT) { /* held */
			r = 0;
			continue;
		}
		for (unsigned i = 0; r == 0 && i < k->w->o.regions->count; i++) {
			if (i != k->except && has_word(&e, k->suspect->node, NULL))
				r = owe(k->w, conn, i, key, &e, false);
		}
	}
	return r;
}

/* Content that this server passed over because a checkpoint told it of the file: the object may not be there. */
static int install_content(void *ctx, const struct record *record, const struct err *err)
{
	struct content_writer writer;
	struct last_words *w = ctx;
	uint8_t hash[SHA256_SIZE];
	struct inode inode;
	uint64_t size;

	(void)err;
	if (!record || !record->has_content ||
		tree_resolve(w->o.cache, key_slice(&record->key), &inode) != 0 ||
		!S_ISREG(inode.mode))
		return 0;
	AUTO_FREE struct key *key = malloc(sizeof(*key));
	if (!key)
		return -ENOMEM;
	if (content_wanted(w->o.cache, inode.ino, key, hash, &size) != 0 ||
		size != record->entry.size || memcmp(hash, record->entry.hash, sizeof(hash)) != 0)
		return 0;
	int r = content_begin(w->o.cache, &writer);
	if (r < 0)
		return r;
	r = content_append(&writer, record->content, (size_t)size);
	if (r == 0) {
		content_finish(&writer);
		r = content_install(w->o.cache, inode.ino, &writer);
	}
	if (r < 0)
		content_discard(w->o.cache, &writer);
	return r == -ESTALE ? 0 : r;
}

static int merge_words(struct keys *k, const struct segment *s)
{
	struct merge_batch *batch;
	int r = cache_read_begin(k->w->o.cache, &k->conn);

	if (r < 0)
		return r;
	r = segment_each(s, note_word, k);
	cache_read_end(k->conn);
	if (r == 0)
		r = merge_batch_new(k->w->o.cache, &k->w->o.merger, &batch);
	if (r < 0)
		return r;
	r = merge_batch_add_segment(batch, s);
	if (r == 0)
		r = merge_batch_commit(batch, owe_words, k);
	merge_batch_free(batch);
	return r ? r : segment_each(s, install_content, k->w);
}

/* 0, -EAGAIN (the region did not answer), or a local failure. */
static int take_segment(struct last_words *w, unsigned index, const struct segment_id *id)
{
	struct region *region = region_at(w, index);
	struct suspect *s = suspect_of(w, id->node);
	struct keys k = {.w = w, .suspect = s, .all = id->ms > s->last_ms, .except = index};
	char name[SEGMENT_NAME_SIZE], key[sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE];
	struct store_call call = region_call(region, SEGMENT_BYTES_MAX);
	CLEANUP(segment_done) struct segment segment = {0};
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};
	struct err err = {0};

	segment_name(id, name);
	snprintf(key, sizeof(key), "%s%s", SEGMENT_PREFIX, name);
	enum store_result result =
		store_get_buf(region->store, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, &call, &error);
	region_end(region, REGION_READ, result, &error, "get segment");
	if (result == STORE_ABSENT || result == STORE_TOO_LARGE)
		return 0;
	if (result != STORE_OK)
		return -EAGAIN;
	int r = segment_parse(name, b.data, b.len, &segment, &err);
	if (r < 0) {
		log_warn("last words refused region=%s error=\"%s\"", region->name, err.text);
		return r == -ENOMEM ? r : 0;
	}
	r = merge_words(&k, &segment);
	buf_done(&k.keys);
	return r == -EBUSY ? -EAGAIN : r;
}

static int by_number(const void *x, const void *y)
{
	const struct segment_id *a = x, *b = y;

	if (a->node != b->node)
		return a->node < b->node ? -1 : 1;
	return a->seq < b->seq ? -1 : a->seq > b->seq;
}

/* 0, -EAGAIN, or a local failure. */
static int read_region(struct last_words *w, struct found *f)
{
	int r = 0;

	if (!list_segments(f))
		return -EAGAIN;
	if (f->count)
		qsort(f->ids, f->count, sizeof(*f->ids), by_number);
	for (unsigned i = 0; r == 0 && i < f->count; i++) {
		if (atomic_load(&w->o.regions->cancel))
			return -EAGAIN;
		const struct suspect *s = suspect_of(w, f->ids[i].node);

		if (s->alive || (f->index == w->o.home && f->ids[i].seq + HOME_SEGMENTS < s->seq))
			continue;
		r = take_segment(w, f->index, &f->ids[i]);
	}
	return r;
}

static int read_regions(struct last_words *w)
{
	AUTO_FREE struct segment_id *ids = calloc(NAMES_MAX, sizeof(*ids));
	int r = ids ? 0 : -ENOMEM;

	for (unsigned i = 0; r == 0 && i < w->o.regions->count; i++) {
		struct found f = {.w = w, .index = i, .ids = ids};

		r = region_up(region_at(w, i), REGION_READ) ? read_region(w, &f) : -EAGAIN;
	}
	return r;
}

/* ---- what they wrote, by the entries here ---- */

struct scan {
	struct last_words *w;
	struct key last;
	struct buf keys;
	unsigned count;
};

/* The suspect who wrote the newest of e's registers that is since_ms or younger; NULL: none. */
static struct suspect *author(struct last_words *w, const struct entry *e, uint64_t *ms)
{
	const struct stamp stamp[] = {e->content_stamp, e->attr_stamp, e->mtime_stamp};
	struct suspect *found = NULL;

	*ms = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(stamp); i++) {
		struct suspect *s = stamp[i].time ? suspect_of(w, stamp[i].node) : NULL;

		if (s && !s->alive && hlc_ms(stamp[i].time) >= *ms) {
			found = s;
			*ms = hlc_ms(stamp[i].time);
		}
	}
	return found;
}

/* By the clocks of author and store, which are not the same. */
static bool is_unheard(const struct scan *x, const struct suspect *s, uint64_t ms, unsigned index)
{
	uint64_t newest = index == x->w->o.home ? s->last_ms : s->newest_ms[index];

	return ms + SKEW_MS > newest;
}

static int collect_words(void *ctx, struct slice key, const struct entry *e)
{
	struct scan *x = ctx;
	uint64_t ms;
	struct suspect *s = author(x->w, e, &ms);

	if (!key_set(&x->last, key))
		return -EIO;
	if (!s || key.len == 0)
		return 0;
	buf_put_bytes(&x->keys, key.p, key.len);
	return ++x->count == KEYS_MAX;
}

static int owe_entry(struct scan *x, struct conn *conn, struct slice key)
{
	CLEANUP(entry_done) struct entry e = {0};
	struct last_words *w = x->w;
	uint64_t ms;
	int r = entry_get(conn, key, &e);
	struct suspect *s = r == 0 ? author(w, &e, &ms) : NULL;
	bool small = e.kind != KIND_FILE || e.size <= w->o.merger.inline_max;

	for (unsigned i = 0; s && r == 0 && i < w->o.regions->count; i++) {
		if (i != w->o.home && is_unheard(x, s, ms, i))
			r = owe(w, conn, i, key, &e, false);
		else if (small && ms + SKEW_MS > s->from_ms)
			r = owe(w, conn, i, key, &e, true);
	}
	return r == -ENOENT ? 0 : r;
}

static int owe_collected(struct scan *x)
{
	struct reader reader = reader_of(x->keys.data, x->keys.len);
	struct conn *conn;
	int r = cache_begin_lazy(x->w->o.cache, &conn);

	if (r < 0)
		return r;
	while (r == 0 && reader_left(&reader)) {
		struct slice key;

		key.p = (const char *)reader_bytes(&reader, KEY_MAX, &key.len);
		CHECK(!reader.failed);
		r = owe_entry(x, conn, key);
	}
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

static int scan_entries(struct last_words *w)
{
	AUTO_FREE struct scan *x = calloc(1, sizeof(*x));
	int r = x ? 1 : -ENOMEM;

	if (x)
		x->w = w;
	while (r == 1) {
		struct conn *conn;

		r = cache_read_begin(w->o.cache, &conn);
		if (r < 0)
			break;
		x->count = 0;
		buf_clear(&x->keys);
		r = dump_entries_after(conn, key_slice(&x->last), collect_words, x);
		cache_read_end(conn);
		if (r >= 0 && x->keys.failed)
			r = -ENOMEM;
		int code = r >= 0 ? owe_collected(x) : 0;
		if (code < 0)
			r = code;
	}
	if (x)
		buf_done(&x->keys);
	return r;
}

static int mark_done(struct last_words *w)
{
	struct conn *conn;
	int r = cache_begin_lazy(w->o.cache, &conn);

	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < w->count; i++) {
		struct words_mark mark = {w->suspect[i].seq, clock_realtime_ms()};

		if (!w->suspect[i].alive)
			r = words_mark_set(conn, w->suspect[i].node, &mark);
	}
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	return cache_commit(conn);
}

static bool all_alive(const struct last_words *w)
{
	for (unsigned i = 0; i < w->count; i++) {
		if (!w->suspect[i].alive)
			return false;
	}
	return true;
}

int last_words_step(struct last_words *w, bool *did)
{
	int64_t now = clock_monotonic_ms();
	bool answered;

	*did = false;
	if (now < w->next_look_ms || w->o.regions->count < 1 ||
		!region_up(region_at(w, w->o.home), REGION_READ))
		return 0;
	w->next_look_ms = now + w->o.look_ms;
	int r = find_suspects(w, &answered);
	if (r < 0 || !w->count || !answered)
		return r;
	w->owed = 0;
	r = read_regions(w);
	if (r == 0 && all_alive(w))
		return 0;
	if (r == 0)
		r = scan_entries(w);
	if (r == 0)
		r = mark_done(w);
	if (r == 0)
		log_info("servers of which nothing was heard for long: what they said is being "
			 "completed servers=%u changes=%" PRIu64,
			w->count, w->owed);
	*did = r == 0 && w->owed > 0;
	return r == -EAGAIN ? 0 : r;
}
