/*
 * Batches of remote records: collected without any lock, then merged in one transaction.
 *
 * Memory. A record is kept encoded and without its content, which goes to a content file when it is
 * added (unless the entry here is as new already); so a batch costs about what its segments weigh
 * without content, at most BYTES_MAX.
 *
 * Content: merge_content.c. What a record changes in the transaction: merge_record.c.
 *
 * Local changes first. The transaction may see no unsealed change of a key that it merges: the
 * remote record would be merged with an older state, and the tree overwritten. So commit seals what
 * is pending, begins, looks again, and starts over if something came in between. A file that is
 * written without a pause, or that waits behind a large one of its directory, would not let the batch
 * through for long; from the attempt TOLERANT on it is merged as last sealed, but for its attributes, and
 * when it loses, its inode is kept for a conflict, with whatever was written to it.
 *
 * Not thread-safe; one batch is one thread's. It takes the sealer's lock and the writer, one after
 * the other.
 */
#include "replicator/merge_internal.h"

#include <errno.h>

#include "cache/file.h"
#include "cache/journal.h"
#include "replicator/seal.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define BYTES_MAX ((size_t)256 << 20)
#define ATTEMPTS 20u
#define TOLERANT 3u
#define DAMAGED_LOGGED 5u /* a segment: the rest is only counted */

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

struct slice merge_item_key(const struct merge_batch *b, const struct merge_item *item)
{
	struct reader r = reader_of(b->records.data + item->at, item->len);
	struct slice key;

	key.p = (const char *)reader_bytes(&r, KEY_MAX, &key.len);
	CHECK(!r.failed);
	return key;
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

static int room_for_one(struct merge_batch *b)
{
	size_t room = b->room ? 2 * b->room : 64;
	struct merge_item *items;

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
	struct merge_item item = {.at = b->records.len};
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
		code = merge_keep_content(b, r, &item);
		if (!code && !item.has_content)
			code = merge_keep_delta(b, r, &item);
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
		struct slice key = merge_item_key(b, &b->items[i]), parent = key_parent(key);

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
		struct merge_item *item = &b->items[i];
		struct slice key = merge_item_key(b, item);

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

static int merge_all(struct merge_batch *b, struct conn *conn)
{
	b->conflicts = 0;
	for (size_t i = 0; i < b->count; i++) {
		int code;

		b->items[i].used = false;
		code = merge_record(b, conn, &b->items[i]);
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
		struct merge_item *item = &b->items[i];

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
	int made = merge_check_made(b);

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
