/*
 * The content that comes with records, put into content files before their transaction: what the
 * segment has of it, what a former name of the file has here, and what a delta makes of its base.
 *
 * Deltas. The content of a large file is made of a copy of its base as records are added, and one more change of
 * the same file is applied to the same copy; before the commit each is checked once. Whoever has not got the base,
 * or no room for the copy, keeps the delta and fetches the content from the object.
 */
#include "replicator/merge_internal.h"

#include <errno.h>

#include "cache/content_delta.h"
#include "cache/journal.h"
#include "replicator/delta.h"
#include "src/base/metrics.h"

/* A record of ours: a power cut may have taken its content (own_log.h). */
static bool comes_back(struct merge_batch *b, const struct record *r, const struct entry *local)
{
	return r->has_content && r->entry.content_stamp.node == cache_node(b->cache) &&
	       stamp_cmp(r->entry.content_stamp, local->content_stamp) == 0;
}

/* Whether the record brings content that is not here: *ino is then a local file that may have it
 * (0: none). */
static int wants_content(struct merge_batch *b, const struct record *r, bool *ret, uint64_t *ino)
{
	CLEANUP(entry_done) struct entry local = {0};
	CLEANUP(local_state_done) struct local_state from = {0};
	struct conn *conn;
	int code;

	*ret = false;
	*ino = 0;
	if (r->entry.kind != KIND_FILE || (!r->has_content && !r->delta && !r->moved_from.len))
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

int merge_keep_content(struct merge_batch *b, const struct record *r, struct merge_item *item)
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

/* What an earlier record of the batch made of the same path, if it is the base. Nobody else needs it: that
 * record is the older one of the two. */
static bool take_made(struct merge_batch *b, const struct record *r, const struct delta *d,
	struct merge_item *item, struct merge_made **made)
{
	for (unsigned i = b->made_count; i-- > 0;) {
		struct merge_item *before = &b->items[b->made[i].item];

		if (memcmp(b->made[i].hash, d->base, SHA256_SIZE) != 0 ||
			!slice_equal(merge_item_key(b, before), key_slice(&r->key)))
			continue;
		item->content = before->content;
		before->has_content = false;
		*made = &b->made[i];
		return true;
	}
	return false;
}

/* A copy of the file that the path shows, if it is the base. -EAGAIN: it is not here. */
static int clone_base(struct merge_batch *b, const struct record *r, const struct delta *d,
	struct merge_item *item)
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

int merge_keep_delta(struct merge_batch *b, const struct record *r, struct merge_item *item)
{
	struct merge_made *made = NULL;
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
	*made = (struct merge_made){.item = b->count};
	memcpy(made->hash, r->entry.hash, SHA256_SIZE);
	item->has_content = true;
	return 0;
}

int merge_check_made(struct merge_batch *b)
{
	while (b->made_count) {
		const struct merge_made *made = &b->made[b->made_count - 1];
		struct merge_item *item = &b->items[made->item];
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
