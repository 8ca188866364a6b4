/*
 * One record against the entry here, inside the batch's transaction: registers, tree, outbox, conflict.
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
 */
#include "replicator/merge_internal.h"

#include <errno.h>

#include "cache/conflict.h"
#include "cache/held.h"
#include "cache/journal.h"
#include "cache/outbox.h"
#include "cache/project.h"
#include "replicator/lost.h"

/* One record against the entry here. */
struct step {
	struct merge_batch *batch;
	struct conn *conn;
	struct merge_item *item;
	struct record record;
	struct entry local;
	struct entry merged;
	struct merge_outcome outcome;
	bool replaced; /* the tree gets other content */
	bool changed;  /* a register */
	bool stays;    /* the removal was a mistake: the file has a new version, of this server */
	uint64_t kept_ino;
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

/* What a tolerated file holds that is not sealed is listed when it has been read (file_detached.c). */
static int settle_conflict(struct step *s)
{
	const struct entry *loser = s->outcome.local_won ? &s->record.entry : &s->local;

	if (!s->outcome.conflict)
		return 0;
	s->batch->conflicts++;
	return conflict_add(s->conn, key_slice(&s->record.key), loser, &s->merged, s->kept_ino,
		conflict_reason(s, loser, &s->merged));
}

static int project(struct step *s)
{
	struct incoming incoming = {0};
	bool keep = s->outcome.conflict && !s->outcome.local_won;
	int code;

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

int merge_record(struct merge_batch *b, struct conn *conn, struct merge_item *item)
{
	CLEANUP(step_done) struct step s = {.batch = b, .conn = conn, .item = item};
	const uint8_t *p = b->records.data + item->at;
	struct err err = {0};
	int code;

	if (item->held)
		return held_add(conn, merge_item_key(b, item), item->due_ms, p, item->len);
	code = record_decode(p, item->len, &s.record, &err);
	return code ? code : merge_step(&s);
}
