/*
 * A file can be renamed here before its content was ever fetched, while another server writes over
 * it under its former name. The version that was renamed then exists nowhere: its object was
 * replaced, rightly, by somebody who had seen it.
 *
 * An edit that is concurrent with a move follows the move: the new name gets the newest content
 * that the former name has, or that lost against its removal (which then is in the trash, found by
 * its hash). The same goes for a file that gets a second name here: its own name got a new version
 * with that, which may have won against the edit. When there is none, the name is removed, and the
 * loss is listed as a conflict.
 *
 * Content that was here and is gone (a power cut, a damaged disk) is none of this: what its row says
 * may still be true somewhere, and nothing is taken from anybody for it. But a directory from elsewhere
 * may have hidden the file while a program had it open, here or under another name of it. What that
 * writes then is kept as a conflict, and the version before it is no more: none of the inodes that could
 * have it says that it has. No other server was told of that version as long as its content waited, so
 * it gives way like the others. So does one that was announced without it; one that was announced with it is
 * taken from the segment (body_log.c).
 *
 * The other way round, a scan of another server may have found content nowhere that is here and was never
 * brought there: that server knew the file from a checkpoint, which is written with what waits when it has
 * waited for long. Its removal comes as one that did not know of the file. Who still owes the file to
 * that region knows better, and publishes it again; whoever merely has it keeps it as a conflict.
 *
 * Keeps no state, takes no lock.
 */
#include "replicator/lost.h"

#include <errno.h>

#include "cache/conflict.h"
#include "cache/journal.h"
#include "cache/project.h"
#include "replicator/foreign.h"
#include "replicator/region.h"
#include "src/base/log.h"

/* The content that key has, or that lost last there; where it has the one that is lost itself, what
 * lost to that (but not what this server gave up for it). -ENOENT. */
static int newest_of(
	struct conn *conn, struct slice key, const struct entry *lost, struct entry *ret)
{
	CLEANUP(entry_done) struct entry e = {0};
	const struct entry *over = NULL;
	int r = entry_get(conn, key, &e);

	if (r && r != -ENOENT)
		return r;
	if (r == 0 && e.kind == KIND_FILE) {
		if (memcmp(e.hash, lost->hash, SHA256_SIZE))
			return entry_copy(ret, &e);
		over = &e;
	}
	return conflict_newest(conn, key, over, ret);
}

/* The next version of old: with the content of other, or removed when that is no file. */
static int next_version(
	struct cache *c, const struct entry *old, const struct entry *other, struct entry *ret)
{
	int r = entry_copy(ret, old);

	if (r)
		return r;
	vector_raise(&ret->vector, old->content_stamp);
	if (other->content_stamp.time)
		vector_raise(&ret->vector, other->content_stamp);
	ret->content_stamp = cache_stamp(c);
	vector_raise(&ret->vector, ret->content_stamp);
	ret->kind = other->kind;
	ret->size = other->size;
	memcpy(ret->hash, other->hash, SHA256_SIZE);
	if (ret->kind != KIND_FILE)
		ret->link = (struct link_id){0}; /* a removal is no file's */
	ret->content_mtime_ns = other->kind == KIND_FILE
					? other->content_mtime_ns
					: (int64_t)hlc_ms(ret->content_stamp.time) * 1000000;
	return 0;
}

static int publish(
	struct conn *conn, const struct outbox_row *row, const struct entry *e, uint64_t inline_max)
{
	struct slice key = key_slice(&row->key);
	struct outbox_change change = {
		.key = key,
		.stamp = entry_stamp(e),
		.size = e->kind == KIND_FILE ? e->size : 0,
		.upload = e->kind == KIND_FILE && e->size > inline_max,
		.moved_from = key_slice(&row->moved_from),
		.remote = true,
		.unfetched = e->kind == KIND_FILE,
	};
	int r = entry_put(conn, key, e);

	if (!r)
		r = project_entry(conn, key, e, true, NULL, NULL);
	return r ? r : outbox_enqueue(conn, &change);
}

/* Whether key is still what the row says, shown or hidden by a directory, with nothing of an application's on the way. */
static int still_so(struct conn *conn, const struct outbox_row *row, const struct entry *e,
	bool *hidden, bool *ret)
{
	CLEANUP(local_state_done) struct local_state local = {0};
	bool pending = false;
	int r = journal_pending(conn, key_slice(&row->key), &pending);

	if (!r)
		r = journal_local_state(conn, key_slice(&row->key), &local);
	if (!r && local.kind == KIND_DIR)
		r = project_shadowing(conn, key_slice(&row->key), local.ino, hidden);
	if (!r)
		*ret = !pending && e->kind == KIND_FILE &&
		       stamp_cmp(entry_stamp(e), row->stamp) == 0 &&
		       (*hidden || (local.kind == KIND_FILE && !local.dirty && local.has_hash &&
					  memcmp(local.hash, e->hash, SHA256_SIZE) == 0));
	return r;
}

/* Whether content that was here is gone because it was written over while it was hidden. */
static int written_over(struct conn *conn, const struct outbox_row *row, const struct entry *e,
	bool hidden, bool *ret)
{
	bool kept = true;
	int r = 0;

	if (hidden)
		r = project_hidden_kept(conn, key_slice(&row->key), e, &kept);
	*ret = !kept;
	return r;
}

int lost_content(struct cache *c, struct conn *conn, const struct outbox_row *row, bool was_here,
	bool untold, uint64_t inline_max)
{
	CLEANUP(entry_done) struct entry old = {0};
	CLEANUP(entry_done) struct entry other = {0};
	CLEANUP(entry_done) struct entry next = {0};
	bool same = false, hidden = false;
	int r = entry_get(conn, key_slice(&row->key), &old);

	if (r == 0)
		r = still_so(conn, row, &old, &hidden, &same);
	if (r == 0 && same && was_here && !untold)
		same = false;
	if (r == 0 && same && was_here)
		r = written_over(conn, row, &old, hidden, &same);
	if (r < 0 || !same)
		return r == -ENOENT ? 0 : r;
	r = -ENOENT;
	if (row->moved_from.len)
		r = newest_of(conn, key_slice(&row->moved_from), &old, &other);
	if (r == -ENOENT)
		r = newest_of(conn, key_slice(&row->key), &old, &other);
	if (r == -ENOENT)
		r = 0;
	if (!r && other.kind == KIND_FILE && memcmp(other.hash, old.hash, SHA256_SIZE) == 0)
		entry_done(&other); /* the one that is lost */
	if (!r)
		r = next_version(c, &old, &other, &next);
	if (!r)
		r = publish(conn, row, &next, inline_max);
	if (!r)
		r = conflict_add(conn, key_slice(&row->key), &old, &next, 0,
			was_here ? "written over here while a directory hid it"
				 : "written elsewhere before its content was fetched here");
	if (r)
		return r;
	log_warn("content is nowhere any more, %s key=\"%s\"",
		next.kind == KIND_FILE ? "the newest of its former name is taken" : "removed",
		row->key.p);
	return 1;
}

/* ---- content that is not lost ---- */

/* The region that gone tells of; NULL: it is no removal of old by a scan. */
static const struct region *region_of(
	const struct regions *all, const struct entry *old, const struct entry *gone)
{
	if (!all || old->kind != KIND_FILE || gone->kind != KIND_ABSENT ||
		gone->content_stamp.time != old->content_stamp.time + 1)
		return NULL;
	for (unsigned i = 0; i < all->count; i++) {
		if (foreign_removal_node(all->region[i].name) == gone->content_stamp.node)
			return &all->region[i];
	}
	return NULL;
}

bool lost_nowhere(const struct regions *all, const struct entry *old, const struct entry *gone)
{
	return region_of(all, old, gone) &&
	       vector_get(&gone->vector, old->content_stamp.node) < old->content_stamp.time;
}

static int is_here(struct conn *conn, struct slice key, const struct entry *e, bool *ret)
{
	CLEANUP(local_state_done) struct local_state now = {0};
	uint64_t ino;
	int r = journal_glance(conn, key, &now);

	if (!r && now.kind == KIND_DIR) {
		r = project_hidden_ino(conn, key, e->hash, &ino);
		*ret = r == 0;
		return r == -ENOENT ? 0 : r;
	}
	*ret = !r && now.kind == KIND_FILE && !now.remote && now.has_hash &&
	       memcmp(now.hash, e->hash, SHA256_SIZE) == 0;
	return r;
}

int lost_mistaken(const struct regions *all, struct conn *conn, struct slice key,
	const struct entry *old, const struct entry *gone, struct entry *merged, bool *ret)
{
	const struct region *region = region_of(all, old, gone);
	uint64_t owed = 0;
	int r = 0;

	*ret = false;
	if (!region || !lost_nowhere(all, old, gone))
		return 0;
	r = outbox_waiting(conn, key, &owed);
	if (r || !(owed >> region->id & 1))
		return r;
	r = is_here(conn, key, old, ret);
	if (r || !*ret)
		return r;
	/* A time that was set since stays, under the new stamp. */
	merged->content_mtime_ns = stamp_cmp(merged->mtime_stamp, old->content_stamp) > 0
					   ? merged->mtime_ns
					   : old->content_mtime_ns;
	merged->kind = KIND_FILE;
	merged->size = old->size;
	memcpy(merged->hash, old->hash, SHA256_SIZE);
	merged->link = old->link;
	merged->vector = old->vector;
	vector_raise(&merged->vector, old->content_stamp);
	vector_raise(&merged->vector, gone->content_stamp);
	merged->content_stamp = cache_stamp(all->cache);
	vector_raise(&merged->vector, merged->content_stamp);
	log_warn("a server took content for lost that is still to be sent from here, it stays "
		 "key=\"%s\" region=%s",
		key.p, region->name);
	return 0;
}
