/*
 * From a key's state to its next entry: which registers changed, and what they become. Pure, so
 * that the rule is tested without a cache.
 *
 * - A path that was absent gets content and attributes anew, so that what an earlier life of the
 * path had (or a concurrent chmod of that life) does not show in this one.
 * - A time that the write left belongs to the content register. A time that changed alone goes to
 * the mtime register; a directory's always does, since its content never changes.
 * - The vector is what the content's writer had seen (merge.c): new content was written over the
 * old one. The new stamp of another register is noted there, too: it claims no more than what this
 * server wrote, and what it wrote and lost it knows already.
 * - The attributes and the time of an inode of several names were changed here when they are not what
 * the entries of all its names say; so what came for one name is not published again for another.
 * What this server itself published for one name is, since that name may go and the change must
 * not; and so is all that a name which took another file's place does not say of the one it has now.
 * - A tombstone touches content only: attributes stay for whoever revives the path by a concurrent
 * write.
 */
#include "replicator/seal_internal.h"

#include <errno.h>

static bool known(const struct entry *e)
{
	return e->content_stamp.time != 0;
}

/* state's content as an entry that entry_content_equal takes; borrows. */
static struct entry content_of(const struct seal_state *state)
{
	struct entry e = {.kind = state->local->kind};

	if (e.kind == KIND_FILE) {
		e.size = state->size;
		memcpy(e.hash, state->hash, SHA256_SIZE);
	}
	if (e.kind == KIND_SYMLINK)
		e.target = state->local->target;
	return e;
}

/* The name's own entry has to say what another's does, under that stamp. */
static bool to_be_said(const struct entry *old, const struct seal_state *state, struct stamp stamp)
{
	return state->shown &&
	       (stamp.node == state->node || !link_id_equal(old->link, state->local->link));
}

unsigned seal_changes(const struct entry *old, const struct seal_state *state)
{
	const struct local_state *local = state->local;
	struct entry now = content_of(state);
	struct entry attr = {
		.mode = local->mode, .uid = local->uid, .gid = local->gid, .xattrs = local->xattrs};
	const struct entry *shown = state->shown ? state->shown : old;
	bool was = known(old) && entry_live(old);
	unsigned changes = 0;

	if (local->kind == KIND_ABSENT)
		return was ? SEAL_CONTENT : 0;
	if (!was)
		return SEAL_CONTENT | SEAL_ATTR;
	if (!entry_content_equal(old, &now) || !link_id_equal(old->link, local->link))
		changes |= SEAL_CONTENT;
	if (!entry_attr_equal(shown, &attr) ||
		(!entry_attr_equal(old, &attr) && to_be_said(old, state, shown->attr_stamp)))
		changes |= SEAL_ATTR;
	if (changes & SEAL_CONTENT)
		return changes;
	if (entry_mtime(shown) != state->mtime_ns ||
		(entry_mtime(old) != state->mtime_ns && to_be_said(old, state, shown->mtime_stamp)))
		changes |= SEAL_MTIME;
	return changes;
}

uint64_t seal_floor(const struct entry *old)
{
	uint64_t floor = entry_stamp(old).time;

	for (uint32_t i = 0; i < old->vector.count; i++) {
		if (old->vector.item[i].time > floor)
			floor = old->vector.item[i].time;
	}
	return floor;
}

static int apply_content(struct entry *e, const struct seal_state *state, struct stamp stamp)
{
	struct entry now = content_of(state);

	free(e->target);
	e->target = NULL;
	if (now.target) {
		e->target = strdup(now.target);
		if (!e->target)
			return -ENOMEM;
	}
	e->kind = now.kind;
	e->size = now.size;
	memcpy(e->hash, now.hash, SHA256_SIZE);
	e->link = state->local->link;
	e->content_mtime_ns =
		now.kind == KIND_ABSENT ? (int64_t)hlc_ms(stamp.time) * 1000000 : state->mtime_ns;
	e->content_stamp = stamp;
	return 0;
}

static int apply_attr(struct entry *e, const struct local_state *local, struct stamp stamp)
{
	buf_done(&e->xattrs);
	/* No attributes have one encoding, so that equal entries have equal bytes. */
	if (local->xattrs.len > 1)
		buf_put(&e->xattrs, local->xattrs.data, local->xattrs.len);
	if (e->xattrs.failed)
		return -ENOMEM;
	e->mode = local->mode & 07777;
	e->uid = local->uid;
	e->gid = local->gid;
	e->attr_stamp = stamp;
	return 0;
}

int seal_apply(const struct entry *old, const struct seal_state *state, unsigned changes,
	struct stamp stamp, struct entry *ret)
{
	struct entry e;
	int r = entry_copy(&e, old);

	if (r)
		return r;
	if (changes & SEAL_CONTENT)
		r = apply_content(&e, state, stamp);
	if (!r && (changes & SEAL_ATTR))
		r = apply_attr(&e, state->local, stamp);
	if (r) {
		entry_done(&e);
		return r;
	}
	if (changes & SEAL_MTIME) {
		e.mtime_ns = state->mtime_ns;
		e.mtime_stamp = stamp;
	}
	vector_raise(&e.vector, old->content_stamp);
	vector_raise(&e.vector, stamp);
	*ret = e;
	return 0;
}
