/*
 * What becomes of an object that a scan looked at. Pure.
 *
 * Two mistakes must not be made. A change that is under way must not be taken for another tool's:
 * so nothing is decided about a path that waits to be delivered from here, nor, where the answer
 * would be to write or to tell others, about what is younger than grace. And an object that never
 * came must not be taken for one that was removed: that needs a version that is known to have been
 * there, the very one that the entry has.
 *
 *   there, another tool's    later than the entry, or over its version,
 *                            or where a scan found it removed             taken over
 *                            else                                         repaired
 *   there, a server's        says more than the entry                     merged
 *                            says less                                    repaired
 *                            the same, and another size                   taken over
 *                            the same, and another version                compared, then one of both
 *   absent                   the entry's version was there                removed
 *                            else                                         repaired, at first by its writer
 */
#include "replicator/reconcile_internal.h"

#include "replicator/foreign.h"

/* Some register of a is newer than b's. */
static bool says_more(const struct entry *a, const struct entry *b)
{
	return stamp_cmp(a->content_stamp, b->content_stamp) > 0 ||
	       stamp_cmp(a->attr_stamp, b->attr_stamp) > 0 ||
	       stamp_cmp(a->mtime_stamp, b->mtime_stamp) > 0;
}

static int64_t entry_age(const struct facts *f)
{
	return f->now_ms - (int64_t)hlc_ms(entry_stamp(f->entry).time);
}

static bool young(const struct facts *f)
{
	return entry_age(f) < f->grace_ms;
}

static struct judgement is(enum verdict v)
{
	return (struct judgement){.verdict = v};
}

static struct judgement repair_unless_young(const struct facts *f)
{
	return is(young(f) ? VERDICT_WAIT : VERDICT_REPAIR);
}

/* The entry's own version was there before. */
static bool version_seen(const struct facts *f)
{
	return f->seen && f->entry && stamp_cmp(f->row.stamp, f->entry->content_stamp) == 0;
}

static struct judgement judge_foreign(const struct facts *f)
{
	struct stamp stamp = foreign_stamp(f->region, f->object->mtime_ms);
	const struct entry *e = f->entry;

	if ((int64_t)hlc_ms(stamp.time) > f->now_ms + f->max_skew_ms)
		return is(VERDICT_WAIT); /* it would be held */
	if (!e)
		return is(VERDICT_PUT);
	/* A directory's mark says nothing new. */
	if (f->directory && e->kind == KIND_DIR)
		return repair_unless_young(f);
	if (entry_live(e) && version_seen(f))
		return (struct judgement){.verdict = VERDICT_PUT, .over = true};
	/* A scan found nothing in this very place: what is there now came after that. */
	if (!entry_live(e) && e->content_stamp.node == foreign_removal_node(f->region))
		return (struct judgement){.verdict = VERDICT_PUT, .over = true};
	if (stamp_cmp(stamp, e->content_stamp) > 0)
		return is(VERDICT_PUT);
	return repair_unless_young(f);
}

static struct judgement judge_ours(const struct facts *f)
{
	/* Its writer is the one to tell of it, and in its order: this is for writers that are gone. */
	bool fresh = f->store_now_ms - f->object->mtime_ms < f->deputy_ms;
	uint64_t tag = object_seen_tag(f->object->etag, f->object->size);

	if (!f->entry || says_more(f->theirs, f->entry))
		return is(fresh ? VERDICT_WAIT : VERDICT_MERGE);
	if (says_more(f->entry, f->theirs))
		return repair_unless_young(f);
	if (f->theirs->kind != KIND_FILE)
		return is(VERDICT_SAME);
	if (f->object->size != f->entry->size)
		return (struct judgement){.verdict = VERDICT_PUT, .over = true};
	if (version_seen(f) && f->row.tag && f->row.tag != tag)
		return (struct judgement){.verdict = VERDICT_VERIFY, .over = true};
	return is(VERDICT_SAME);
}

static struct judgement judge_absent(const struct facts *f)
{
	const struct entry *e = f->entry;

	if (!e || !entry_live(e) || (e->kind == KIND_DIR) != f->directory)
		return is(VERDICT_FORGET);
	if (f->waiting)
		return is(VERDICT_WAIT);
	if (version_seen(f))
		return is(VERDICT_REMOVE);
	if (e->content_stamp.node != f->node && entry_age(f) < f->deputy_ms)
		return is(VERDICT_WAIT);
	return repair_unless_young(f);
}

struct judgement reconcile_judge(const struct facts *f)
{
	if (!f->object)
		return judge_absent(f);
	if (f->waiting)
		return is(VERDICT_WAIT);
	return f->theirs ? judge_ours(f) : judge_foreign(f);
}
