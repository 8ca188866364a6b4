/*
 * The merge of two entries: a join of a semilattice, so that every order, repetition and grouping
 * of the same entries gives the same result.
 *
 * Each register takes the greater of the two by (stamp, value). Values decide only between equal
 * stamps, which honest writers never give to different values; a hostile one must not make two
 * servers disagree for ever.
 *
 * The vector belongs to the content register: what the writer of that content had seen. It goes
 * with the content that wins; only where both have the same content register it becomes the
 * pointwise maximum. If it grew by what merely arrived later, a winner that merged the loser before
 * it was announced would look as if it had been written over the loser knowingly, and the loser's
 * writer would drop its content without a conflict.
 *
 * A conflict is not part of the join: it is what this server, by the vectors of both, knows to have
 * been written by people who did not know of each other. It is symmetric in the two entries, and
 * found again when the loser arrives again.
 */
#include "replicator/merge.h"

#include <errno.h>

static int cmp_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int cmp_i64(int64_t a, int64_t b)
{
	return a < b ? -1 : a > b;
}

static int content_cmp(const struct entry *a, const struct entry *b)
{
	int r = stamp_cmp(a->content_stamp, b->content_stamp);

	if (!r)
		r = cmp_u64(a->kind, b->kind);
	if (!r && a->kind == KIND_FILE)
		r = cmp_u64(a->size, b->size);
	if (!r && a->kind == KIND_FILE)
		r = memcmp(a->hash, b->hash, SHA256_SIZE);
	if (!r && a->kind == KIND_SYMLINK)
		r = strcmp(a->target ? a->target : "", b->target ? b->target : "");
	if (!r)
		r = cmp_u64(a->link.origin, b->link.origin);
	if (!r)
		r = cmp_u64(a->link.number, b->link.number);
	if (!r)
		r = cmp_i64(a->content_mtime_ns, b->content_mtime_ns);
	return r;
}

static int mtime_cmp(const struct entry *a, const struct entry *b)
{
	int r = stamp_cmp(a->mtime_stamp, b->mtime_stamp);

	return r ? r : cmp_i64(a->mtime_ns, b->mtime_ns);
}

/* Whether the writer of e's content knew the write s. */
static bool saw(const struct entry *e, struct stamp s)
{
	if (e->content_stamp.node == s.node && e->content_stamp.time >= s.time)
		return true;
	return vector_get(&e->vector, s.node) >= s.time;
}

static bool concurrent(const struct entry *a, const struct entry *b)
{
	if (a->content_stamp.time == 0 || b->content_stamp.time == 0)
		return false;
	return !entry_content_equal(a, b) && !saw(a, b->content_stamp) && !saw(b, a->content_stamp);
}

static bool vector_equal(const struct vector *a, const struct vector *b)
{
	if (a->count != b->count)
		return false;
	for (uint32_t i = 0; i < a->count; i++) {
		if (stamp_cmp(a->item[i], b->item[i]))
			return false;
	}
	return true;
}

int entry_merge(const struct entry *local, const struct entry *remote, struct entry *merged,
	struct merge_outcome *outcome)
{
	int content_order = content_cmp(remote, local);
	bool content = content_order > 0;
	bool attr = entry_attr_cmp(remote, local) > 0;
	bool mtime = mtime_cmp(remote, local) > 0;
	const struct entry *c = content ? remote : local;
	const struct entry *a = attr ? remote : local;
	const struct entry *m = mtime ? remote : local;
	struct entry e = {
		.kind = c->kind,
		.size = c->size,
		.link = c->link,
		.content_mtime_ns = c->content_mtime_ns,
		.content_stamp = c->content_stamp,
		.mode = a->mode,
		.uid = a->uid,
		.gid = a->gid,
		.attr_stamp = a->attr_stamp,
		.mtime_ns = m->mtime_ns,
		.mtime_stamp = m->mtime_stamp,
	};

	memcpy(e.hash, c->hash, SHA256_SIZE);
	if (c->target)
		e.target = strdup(c->target);
	if (a->xattrs.len)
		buf_put(&e.xattrs, a->xattrs.data, a->xattrs.len);
	if ((c->target && !e.target) || e.xattrs.failed) {
		entry_done(&e);
		*merged = e;
		return -ENOMEM;
	}
	e.vector = c->vector;
	if (content_order == 0)
		vector_merge(&e.vector, &remote->vector);
	outcome->content_changed = content;
	outcome->attr_changed = attr;
	outcome->mtime_changed = mtime;
	outcome->vector_changed = !vector_equal(&e.vector, &local->vector);
	outcome->conflict = concurrent(local, remote);
	outcome->local_won = outcome->conflict && !content;
	*merged = e;
	return 0;
}
