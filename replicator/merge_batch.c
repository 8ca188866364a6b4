/*
 * Batches of remote records: collected without any lock, then merged in one transaction.
 *
 * Memory. A record is kept encoded and without its content, which goes to a content file when it is
 * added (unless the entry here is as new already); so a batch costs about what its segments weigh
 * without content, at most BYTES_MAX.
 *
 * Deltas. The content of a large file is made of a copy of its base as records are added, and one more change of
 * the same file is applied to the same copy; before the commit each is checked once. Whoever has not got the base,
 * or no room for the copy, keeps the delta and fetches the content from the object.
 *
 * Local changes first. The transaction may see no unsealed change of a key that it merges: the
 * remote record would be merged with an older state, and the tree overwritten. So commit seals what
 * is pending, begins, looks again, and starts over if something came in between. A file that is
 * written without a pause, or that waits behind a large one of its directory, would not let the batch
 * through for long; from the attempt TOLERANT on it is merged as last sealed, but for its attributes, and
 * when it loses, its inode is kept for a conflict, with whatever was written to it.
 *
 * The outbox after a merge. What must hold: for each register whose winning value was written here,
 * the record that carries it reaches every region, and the object there ends up with it.
 *
 * - The merge changed the entry, rows wait here, and some winning register is ours: enqueued again
 *   under the merged entry's stamp; the record carries all of it.
 * - The same, and none was ours before (a seeded region): enqueued again.
 * - The same, and ours all lost: the rows go, the winners' writers deliver them.
 * - A register of ours won over a record that did not know it: the object is repaired, for that
 *   record's writer may have written it over ours.
 * - The path was removed, or became of another kind, and this server wrote there (its own, or on
 *   behalf of another: touched.c): the object is looked at again, for ours may have come after the
 *   winner's writer had looked.
 * - A scan elsewhere removed the path because it found nowhere what still waits here: it is enqueued as a
 *   new version (lost.h).
 *
 * Everybody follows the same rule, and a re-announced record is the join of what was announced
 * before, so this ends.
 *
 * Not thread-safe; one batch is one thread's. It takes the sealer's lock and the writer, one after
 * the other.
 */
#include "replicator/merge.h"

#include <errno.h>

#include "cache/content_delta.h"
#include "cache/file.h"
#include "cache/journal.h"
#include "cache/outbox.h"
#include "cache/project.h"
#include "replicator/delta.h"
#include "replicator/lost.h"
#include "replicator/seal.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define BYTES_MAX ((size_t)256 << 20)
#define ATTEMPTS 20u
#define TOLERANT 3u
#define DAMAGED_LOGGED 5u /* a segment: the rest is only counted */
#define MADE_MAX 256u

struct item {
	size_t at; /* in merge_batch.records */
	size_t len;
	bool held;
	int64_t due_ms;
	bool has_content;
	bool used; /* the tree took content over in the transaction under way */
	bool tolerated;
	struct content_writer content;
};

/* Content that was made by a delta, and is not checked yet. */
struct made {
	size_t item;
	uint8_t hash[SHA256_SIZE]; /* what it is to be */
};

struct merge_batch {
	struct cache *cache;
	struct merger_options options;
	struct buf records; /* encoded, one after the other */
	struct item *items;
	size_t count;
	size_t room;
	struct made made[MADE_MAX];
	unsigned made_count;
	uint64_t damaged;   /* of the segment being added */
	uint64_t conflicts; /* of the transaction under way */
};

int merge_batch_new(struct cache *c, const struct merger_options *o, struct merge_batch **ret)
{
	struct merge_batch *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->cache = c;
	b->options = *o;
	b->records.max = BYTES_MAX;
	*ret = b;
	return 0;
}

void merge_batch_free(struct merge_batch *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->count; i++) {
		if (b->items[i].has_content)
			content_discard(b->cache, &b->items[i].content);
	}
	free(b->items);
	buf_done(&b->records);
	free(b);
}

/* ---- adding ---- */

/* The greatest time that the record would make the clock observe. */
static uint64_t greatest_time(const struct entry *e)
{
	uint64_t time = entry_stamp(e).time;

	for (uint32_t i = 0; i < e->vector.count; i++) {
		if (e->vector.item[i].time > time)
			time = e->vector.item[i].time;
	}
	return time;
}

/* Whether the record brings content that is not here: *ino is then a local file that may have it
 * (0: none). */
/* A record of ours: a power cut may have taken its content (own_log.h). */
static bool comes_back(struct merge_batch *b, const struct record *r, const struct entry *local)
{
	return r->has_content && r->entry.content_stamp.node == cache_node(b->cache) &&
	       stamp_cmp(r->entry.content_stamp, local->content_stamp) == 0;
}

static int wants_content(struct merge_batch *b, const struct record *r, bool *ret, uint64_t *ino)
{
	CLEANUP(entry_done) struct entry local = {0};
	CLEANUP(local_state_done) struct local_state from = {0};
	struct conn *conn;
	int code;

	*ret = false;
	*ino = 0;
	if (r->entry.kind != KIND_FILE ||
		(!r->has_content && !r->delta && !r->moved_from.len))
		return 0;
	code = cache_read_begin(b->cache, &conn);
	if (code)
		return code;
	code = entry_get(conn, key_slice(&r->key), &local);
	if (code == -ENOENT)
		code = 0;
	*ret = comes_back(b, r, &local) ||
	       (stamp_cmp(r->entry.content_stamp, local.content_stamp) > 0 &&
		       !entry_content_equal(&local, &r->entry));
	if (!code && *ret && !r->has_content && r->moved_from.len)
		code = journal_local_state(conn, key_slice(&r->moved_from), &from);
	cache_read_end(conn);
	if (from.kind == KIND_FILE && from.has_hash && !from.dirty &&
		memcmp(from.hash, r->entry.hash, SHA256_SIZE) == 0)
		*ino = from.ino;
	return code;
}

/* Fills the writer that was begun, from the record or from the local file ino. */
static int fill(
	struct merge_batch *b, const struct record *r, uint64_t ino, struct content_writer *w)
{
	if (r->has_content)
		return content_append(w, r->content, (size_t)r->entry.size);
	return content_clone(b->cache, ino, r->entry.hash, w);
}

static int keep_content(struct merge_batch *b, const struct record *r, struct item *item)
{
	uint64_t ino;
	bool wants;
	int code = wants_content(b, r, &wants, &ino);

	if (code || !wants || (!r->has_content && !ino))
		return code;
	code = content_begin(b->cache, &item->content);
	if (code)
		return code;
	code = fill(b, r, ino, &item->content);
	if (code) {
		content_discard(b->cache, &item->content);
		/* A clone is only a saving: without it the content is fetched. */
		return r->has_content || code == -ENOSPC ? code : 0;
	}
	content_finish(&item->content);
	item->has_content = true;
	return 0;
}

/* ---- deltas ---- */

/* The key's own bytes, as record_encode wrote them. */
static struct slice item_key(const struct merge_batch *b, const struct item *item)
{
	struct reader r = reader_of(b->records.data + item->at, item->len);
	struct slice key;

	key.p = (const char *)reader_bytes(&r, KEY_MAX, &key.len);
	CHECK(!r.failed);
	return key;
}

/* What an earlier record of the batch made of the same path, if it is the base. Nobody else needs it: that
 * record is the older one of the two. */
static bool take_made(struct merge_batch *b, const struct record *r, const struct delta *d,
	struct item *item, struct made **made)
{
	for (unsigned i = b->made_count; i-- > 0;) {
		struct item *before = &b->items[b->made[i].item];

		if (memcmp(b->made[i].hash, d->base, SHA256_SIZE) != 0 ||
			!slice_equal(item_key(b, before), key_slice(&r->key)))
			continue;
		item->content = before->content;
		before->has_content = false;
		*made = &b->made[i];
		return true;
	}
	return false;
}

/* A copy of the file that the path shows, if it is the base. -EAGAIN: it is not here. */
static int clone_base(
	struct merge_batch *b, const struct record *r, const struct delta *d, struct item *item)
{
	CLEANUP(local_state_done) struct local_state state = {0};
	struct conn *conn;
	int code = cache_read_begin(b->cache, &conn);

	if (code)
		return code;
	code = journal_local_state(conn, key_slice(&r->key), &state);
	cache_read_end(conn);
	if (code)
		return code;
	if (state.kind != KIND_FILE || !state.has_hash || state.dirty ||
		memcmp(state.hash, d->base, SHA256_SIZE) != 0)
		return -EAGAIN;
	code = content_begin(b->cache, &item->content);
	if (code)
		return code;
	code = content_clone(b->cache, state.ino, d->base, &item->content);
	if (code)
		content_discard(b->cache, &item->content);
	return code;
}

/* The object may still be the base, or something that the base is made of, when the content is fetched. */
static int keep_for_fetch(struct merge_batch *b, const struct record *r, const struct delta *d)
{
	int code = content_delta_keep(
		b->cache, r->entry.hash, r->entry.size, d->base, r->delta, r->delta_len);

	return code == -ENOSPC ? 0 : code;
}

/* Makes the content of the record by its delta. Whatever prevents that, the content is fetched then. */
static int keep_delta(struct merge_batch *b, const struct record *r, struct item *item)
{
	struct made *made = NULL;
	struct delta d;
	uint64_t ino;
	bool wants;

	if (!r->delta || !delta_parse(r->delta, r->delta_len, r->entry.size, &d))
		return 0;
	int code = wants_content(b, r, &wants, &ino);
	if (code || !wants)
		return code;
	if (!take_made(b, r, &d, item, &made)) {
		code = b->made_count < MADE_MAX ? clone_base(b, r, &d, item) : -EAGAIN;
		if (code)
			return keep_for_fetch(b, r, &d);
		made = &b->made[b->made_count++];
	}
	code = content_reopen(b->cache, &item->content);
	if (!code)
		code = delta_apply(&d, r->entry.size, &item->content);
	content_finish(&item->content);
	if (code) {
		*made = b->made[--b->made_count];
		content_discard(b->cache, &item->content);
		metric_add(METRIC_DELTAS_USELESS, 1);
		return code == -ENOMEM ? code : 0;
	}
	*made = (struct made){.item = b->count};
	memcpy(made->hash, r->entry.hash, SHA256_SIZE);
	item->has_content = true;
	return 0;
}

/* What was made counts when it is what was promised. Once, of the last of several changes of a file. */
static int check_made(struct merge_batch *b)
{
	while (b->made_count) {
		const struct made *made = &b->made[b->made_count - 1];
		struct item *item = &b->items[made->item];
		uint8_t hash[SHA256_SIZE];
		int code = content_reopen(b->cache, &item->content);

		if (!code)
			code = content_writer_hash(b->cache, &item->content, hash);
		content_finish(&item->content);
		if (code == -ENOMEM)
			return code;
		bool good = !code && memcmp(hash, made->hash, SHA256_SIZE) == 0;
		metric_add(good ? METRIC_DELTAS_APPLIED : METRIC_DELTAS_USELESS, 1);
		if (!good) {
			content_discard(b->cache, &item->content);
			item->has_content = false;
		}
		b->made_count--;
	}
	return 0;
}

static int room_for_one(struct merge_batch *b)
{
	size_t room = b->room ? 2 * b->room : 64;
	struct item *items;

	if (b->count < b->room)
		return 0;
	items = reallocarray(b->items, room, sizeof(*items));
	if (!items)
		return -ENOMEM;
	b->items = items;
	b->room = room;
	return 0;
}

int merge_batch_add_record(struct merge_batch *b, const struct record *r)
{
	struct item item = {.at = b->records.len};
	struct record bare = *r; /* borrows; never freed */
	uint64_t time = greatest_time(&r->entry);
	int64_t ahead = (int64_t)hlc_ms(time) - b->options.max_clock_skew_ms;
	int code = room_for_one(b);

	if (code)
		return code;
	if (ahead > hlc_wall_ms(cache_clock(b->cache))) {
		item.held = true;
		item.due_ms = ahead;
		bare.has_content = r->has_content && r->entry.size <= b->options.inline_max;
	} else {
		hlc_observe(cache_clock(b->cache), time);
		bare.has_content = false;
	}
	bare.delta = NULL;
	record_encode(&bare, &b->records);
	if (b->records.failed) {
		b->records.len = item.at;
		b->records.failed = false;
		return b->records.len > BYTES_MAX / 2 ? -E2BIG : -ENOMEM;
	}
	item.len = b->records.len - item.at;
	if (!item.held) {
		code = keep_content(b, r, &item);
		if (!code && !item.has_content)
			code = keep_delta(b, r, &item);
		if (code) {
			b->records.len = item.at;
			return code;
		}
	}
	b->items[b->count++] = item;
	return 0;
}

static int add_or_count(void *ctx, const struct record *record, const struct err *err)
{
	struct merge_batch *b = ctx;

	if (record)
		return merge_batch_add_record(b, record);
	metric_add(METRIC_RECORDS_HOSTILE, 1);
	if (b->damaged++ < DAMAGED_LOGGED)
		log_warn("record refused reason=\"%s\"", err->text);
	return 0;
}

int merge_batch_add_segment(struct merge_batch *b, const struct segment *s)
{
	char name[SEGMENT_NAME_SIZE];
	int code;

	b->damaged = 0;
	code = segment_each(s, add_or_count, b);
	if (b->damaged) {
		segment_name(&s->id, name);
		log_warn("records refused segment=%s count=%llu", name,
			(unsigned long long)b->damaged);
	}
	return code;
}

/* ---- local changes first ---- */

static int seal_if_pending(struct merge_batch *b, struct slice key)
{
	struct conn *conn;
	bool pending = false;
	int code = cache_read_begin(b->cache, &conn);

	if (code)
		return code;
	code = journal_pending(conn, key, &pending);
	cache_read_end(conn);
	if (!code && pending)
		code = sealer_seal_key(b->options.sealer, key);
	return code == -EAGAIN ? 0 : code;
}

/* The batch's keys, and what is above them: a file just made here where the record needs a
 * directory must have become an entry before it is hidden. */
static int seal_pending(struct merge_batch *b)
{
	struct slice last_parent = {NULL, 0};
	int code = 0;

	for (size_t i = 0; !code && i < b->count; i++) {
		struct slice key = item_key(b, &b->items[i]), parent = key_parent(key);

		if (b->items[i].held)
			continue;
		code = seal_if_pending(b, key);
		if (last_parent.p && slice_equal(parent, last_parent))
			continue;
		last_parent = parent;
		for (; !code && parent.len; parent = key_parent(parent))
			code = seal_if_pending(b, parent);
	}
	return code;
}

/* *pending: something came in since seal_pending that must be sealed before. */
static int check_pending(struct merge_batch *b, struct conn *conn, unsigned attempt, bool *pending)
{
	int code = 0;

	*pending = false;
	for (size_t i = 0; !code && !*pending && i < b->count; i++) {
		CLEANUP(local_state_done) struct local_state state = {0};
		struct item *item = &b->items[i];
		struct slice key = item_key(b, item);

		item->tolerated = false;
		if (item->held)
			continue;
		code = journal_pending(conn, key, pending);
		if (code || !*pending || attempt < TOLERANT)
			continue;
		code = journal_local_state(conn, key, &state);
		if (!code && state.kind == KIND_FILE && state.dirty) {
			item->tolerated = true;
			*pending = false;
			code = sealer_seal_attributes(b->options.sealer, conn, key);
		}
	}
	return code;
}

/* ---- merging ---- */

/* One record against the entry here. */
struct step {
	struct merge_batch *batch;
	struct conn *conn;
	struct item *item;
	struct record record;
	struct entry local;
	struct entry merged;
	struct merge_outcome outcome;
	bool replaced; /* the tree gets other content */
	bool changed;  /* a register */
	bool stays;    /* the removal was a mistake: the file has a new version, of this server */
	uint64_t kept_ino;
	struct entry unsealed; /* a tolerated file that was never sealed, when it gives way */
};

static void step_done(struct step *s)
{
	record_done(&s->record);
	entry_done(&s->local);
	entry_done(&s->merged);
}

static bool any_of(const struct entry *e, uint64_t node)
{
	return e->content_stamp.node == node || e->attr_stamp.node == node ||
	       (e->mtime_stamp.time && e->mtime_stamp.node == node);
}

static bool is_known(const struct vector *seen, struct stamp local, struct stamp remote)
{
	return vector_get(seen, remote.node) >= remote.time ||
	       (local.node == remote.node && local.time >= remote.time);
}

/* The record holds a write that this entry, as far as can be told, does not know. */
static bool is_news(const struct entry *local, const struct entry *remote)
{
	return !is_known(&local->vector, local->content_stamp, remote->content_stamp) ||
	       !is_known(&local->vector, local->attr_stamp, remote->attr_stamp) ||
	       !is_known(&local->vector, local->mtime_stamp, remote->mtime_stamp);
}

static bool is_ahead(struct stamp local, struct stamp remote, uint64_t node)
{
	return local.node == node && stamp_cmp(local, remote) > 0;
}

static int enqueue(const struct step *s, bool object_only, bool upload)
{
	const struct entry *e = &s->merged;
	uint64_t size = e->kind == KIND_FILE ? e->size : 0;
	struct outbox_change change = {
		.key = key_slice(&s->record.key),
		.stamp = entry_stamp(e),
		.size = size,
		.upload = upload && size > s->batch->options.inline_max,
		.object_only = object_only,
		.shared = true,
		.remote = true, /* as far as this tells: what is said of the content stays */
	};

	return outbox_enqueue(s->conn, &change);
}

/* What we wrote lost to a removal or to another kind, whose object has another key. Ours may
 * have reached a region after the winner's writer had looked there, and then nobody else knows
 * of it. */
static bool may_leave_object(const struct step *s)
{
	return s->outcome.content_changed && entry_live(&s->local) &&
	       ((s->local.kind == KIND_DIR) != (s->merged.kind == KIND_DIR) ||
		       !entry_live(&s->merged));
}

/* Our content gave way to another of the same form. Our object may still be on its way; whoever
 * removes the path later need not meet it. */
static int note_touched(const struct step *s)
{
	if (s->local.content_stamp.node != cache_node(s->batch->cache) ||
		!s->outcome.content_changed || !entry_live(&s->local) || may_leave_object(s))
		return 0;
	return touched_mark(s->conn, key_slice(&s->record.key), 0);
}

/* Nothing of ours won. Where the content was another's already, a row may be there to repair the
 * object, and that is still to be done; so it is where the row took over a removal that waited: what it
 * would have removed may have another key than what won. */
static int drop_rows(const struct step *s)
{
	bool replaces = false;
	int code = outbox_replaces(s->conn, key_slice(&s->record.key), &replaces);

	if (!code)
		code = outbox_drop(s->conn, key_slice(&s->record.key));
	if (code || (!replaces && s->outcome.content_changed &&
			    s->local.content_stamp.node == cache_node(s->batch->cache)))
		return code;
	return enqueue(s, true, false);
}

static int settle_outbox(const struct step *s)
{
	const struct entry *local = &s->local, *remote = &s->record.entry;
	uint64_t node = cache_node(s->batch->cache), regions = 0;
	bool had_own = any_of(local, node), left = false;
	int code;

	if (local->content_stamp.time == 0)
		return 0; /* never seen, so nothing of it waits */
	if (s->stays)
		return enqueue(s, false, true);
	code = outbox_waiting(s->conn, key_slice(&s->record.key), &regions);
	if (!code)
		code = note_touched(s);
	if (!code && may_leave_object(s))
		code = touched_take(s->conn, key_slice(&s->record.key), &left);
	if (code)
		return code;
	left = may_leave_object(s) && (left || had_own);
	if (regions && s->changed) {
		/* A removal of ours that waits has not met the object yet; the winner's may have
		 * another key. */
		left |= !entry_live(local) && entry_live(&s->merged);
		if (had_own && !any_of(&s->merged, node) && left)
			return enqueue(s, true, false);
		if (had_own && !any_of(&s->merged, node))
			return drop_rows(s);
		/* Large content of others is there, or its writer brings it there. */
		return enqueue(s, false, !had_own || s->merged.content_stamp.node == node);
	}
	if (left)
		return enqueue(s, true, false);
	if (is_news(local, remote) &&
		(is_ahead(local->content_stamp, remote->content_stamp, node) ||
			is_ahead(local->attr_stamp, remote->attr_stamp, node) ||
			is_ahead(local->mtime_stamp, remote->mtime_stamp, node)))
		return enqueue(s, true, false);
	return 0;
}

static const char *conflict_reason(
	const struct step *s, const struct entry *loser, const struct entry *winner)
{
	if (lost_nowhere(s->batch->options.regions, loser, winner))
		return "a scan found its content in no region, and not on the server that looked";
	if (!entry_live(loser))
		return "removed, and written elsewhere at the same time: the file stays";
	if (!entry_live(winner))
		return "written, and removed elsewhere at the same time: the removal won";
	return "written in two places at the same time";
}

static int settle_conflict(struct step *s)
{
	bool displaced = s->replaced && s->item->tolerated && s->kept_ino;
	const struct entry *loser = s->outcome.local_won ? &s->record.entry : &s->local;

	if (!s->outcome.conflict && !displaced)
		return 0;
	if (displaced && !entry_live(&s->local))
		loser = &s->unsealed;
	s->batch->conflicts++;
	return conflict_add(s->conn, key_slice(&s->record.key), loser, &s->merged, s->kept_ino,
		conflict_reason(s, loser, &s->merged));
}

/* What is known of it: nobody has read its content yet. */
static int note_unsealed(struct step *s)
{
	CLEANUP(local_state_done) struct local_state now = {0};
	struct entry *e = &s->unsealed;
	int code = journal_local_state(s->conn, key_slice(&s->record.key), &now);

	if (code)
		return code;
	e->kind = KIND_FILE;
	e->size = now.size;
	e->content_mtime_ns = now.mtime_ns;
	e->mode = now.mode;
	e->uid = now.uid;
	e->gid = now.gid;
	return 0;
}

static int project(struct step *s)
{
	struct incoming incoming = {0};
	bool keep = (s->outcome.conflict && !s->outcome.local_won) || s->item->tolerated;
	int code = 0;

	if (s->item->tolerated && s->replaced && !entry_live(&s->local))
		code = note_unsealed(s);
	if (code)
		return code;
	if (s->item->has_content && !s->item->used && s->replaced)
		incoming.content = &s->item->content;
	code = project_entry(s->conn, key_slice(&s->record.key), &s->merged, s->replaced, &incoming,
		keep && s->replaced ? &s->kept_ino : NULL);
	if (!code && incoming.used)
		s->item->used = true;
	return code;
}

/* A record of ours that comes back, after a power cut that may have taken its content. */
static int restore_content(struct step *s)
{
	struct local_state now = {0};
	int code;

	if (!s->item->has_content || s->item->used || s->replaced ||
		s->merged.content_stamp.node != cache_node(s->batch->cache) ||
		stamp_cmp(s->merged.content_stamp, s->record.entry.content_stamp) != 0)
		return 0;
	code = journal_glance(s->conn, key_slice(&s->record.key), &now);
	if (code || now.kind != KIND_FILE)
		return code;
	return content_offer(s->conn, now.ino, s->merged.hash, &s->item->content, &s->item->used);
}

/* Before the content here gives way: it may be what a scan elsewhere took for lost. */
static int look_again(struct step *s)
{
	if (!s->outcome.conflict || s->outcome.local_won || s->item->tolerated)
		return 0;
	int code = lost_mistaken(s->batch->options.regions, s->conn, key_slice(&s->record.key),
		&s->local, &s->record.entry, &s->merged, &s->stays);
	if (s->stays)
		s->outcome.conflict = false;
	return code;
}

static int merge_step(struct step *s)
{
	struct slice key = key_slice(&s->record.key);
	int code = entry_get(s->conn, key, &s->local);

	if (code == -ENOENT)
		code = 0;
	if (!code)
		code = entry_merge(&s->local, &s->record.entry, &s->merged, &s->outcome);
	if (!code)
		code = look_again(s);
	if (code)
		return code;
	s->changed =
		s->outcome.content_changed || s->outcome.attr_changed || s->outcome.mtime_changed;
	/* The same content under a newer stamp leaves the file in place. */
	s->replaced =
		s->outcome.content_changed &&
		(s->local.content_stamp.time == 0 || !entry_content_equal(&s->local, &s->merged));
	if (s->changed || s->outcome.vector_changed)
		code = entry_put(s->conn, key, &s->merged);
	if (!code && s->changed)
		code = project(s);
	if (!code)
		code = restore_content(s);
	if (!code)
		code = settle_outbox(s);
	if (!code)
		code = settle_conflict(s);
	return code;
}

static int merge_item(struct merge_batch *b, struct conn *conn, struct item *item)
{
	CLEANUP(step_done) struct step s = {.batch = b, .conn = conn, .item = item};
	const uint8_t *p = b->records.data + item->at;
	struct err err = {0};
	int code;

	if (item->held)
		return held_add(conn, item_key(b, item), item->due_ms, p, item->len);
	code = record_decode(p, item->len, &s.record, &err);
	return code ? code : merge_step(&s);
}

static int merge_all(struct merge_batch *b, struct conn *conn)
{
	b->conflicts = 0;
	for (size_t i = 0; i < b->count; i++) {
		int code;

		b->items[i].used = false;
		code = merge_item(b, conn, &b->items[i]);
		if (code)
			return code;
	}
	return 0;
}

/* After the commit: what the tree did not take is removed, and the batch is empty. */
static void finish(struct merge_batch *b)
{
	uint64_t merged = 0, held = 0;

	for (size_t i = 0; i < b->count; i++) {
		struct item *item = &b->items[i];

		if (item->has_content && !item->used)
			content_discard(b->cache, &item->content);
		item->has_content = false;
		held += item->held;
		merged += !item->held;
	}
	b->count = 0;
	buf_clear(&b->records);
	metric_add(METRIC_RECORDS_MERGED, merged);
	metric_add(METRIC_RECORDS_HELD, held);
	metric_add(METRIC_CONFLICTS, b->conflicts);
}

/* *again: local changes came in between. */
static int attempt_commit(struct merge_batch *b, unsigned attempt,
	int (*extra)(void *ctx, struct conn *conn), void *ctx, bool *again)
{
	struct conn *conn;
	int code = seal_pending(b);

	if (!code)
		code = cache_begin_lazy(b->cache, &conn);
	if (code)
		return code;
	code = check_pending(b, conn, attempt, again);
	if (!code && !*again)
		code = merge_all(b, conn);
	if (!code && !*again && extra)
		code = extra(ctx, conn);
	if (code || *again) {
		cache_rollback(conn);
		return code;
	}
	code = cache_commit(conn);
	if (!code)
		finish(b);
	return code;
}

int merge_batch_commit(struct merge_batch *b, int (*extra)(void *ctx, struct conn *conn), void *ctx)
{
	int made = check_made(b);

	if (made)
		return made;
	for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
		bool again = false;
		int code = attempt_commit(b, attempt, extra, ctx, &again);

		if (code || !again)
			return code;
	}
	return -EBUSY;
}
