/*
 * Large files that are written to while they are sealed: their snapshots are taken in the background
 * (content_snapshots in cache/file.h), and a version is there some time after its instant, as_of. What was journalled
 * since may not go with it: rows of the file, whose changes it does not have, and what came after them in the
 * directory, a marker that announces them above all.
 *
 * So a batch ends before the first row of the file that is younger than as_of: what is before it is sealed with that
 * version. What is behind it finds the version gone, has the next snapshot taken, and holds its directory until that
 * is there. A file that is written all the time is thus sealed at each of its snapshots.
 *
 * A batch that is cut has a whole journal behind it, in which keys of the batch may have changed again; they would be
 * sealed as they are now, ahead of the file. Those wait, and with them their directories (block_overtaken in
 * seal_set.c). Where the file is among what waits its version is refused: the next one comes after those changes. Who
 * changes a large file and its neighbours all the time gets them as they are after REFUSED_MAX of that. Two files that
 * are both sealed from snapshots are each as at one instant, not both at the same one.
 */
#include "replicator/seal_internal.h"

#include <errno.h>
#include <string.h>

#include "cache/durability.h"

#define REFUSED_MAX 2u

struct looking {
	struct sealer *s;
	struct conn *conn;
	const struct content_snapshot *snapshot;
	unsigned count;
	unsigned first; /* row of one of the names; count: there is none */
	unsigned later; /* the first such row that the snapshot does not have */
	bool before;	/* there are such rows before these, which had to stay */
};

static bool concerns(const struct journal_row *row, struct slice key)
{
	if (row->op == JOURNAL_RENAME_DIR)
		return key_at_or_below(key, key_slice(&row->key)) ||
		       key_at_or_below(key, key_slice(&row->hint));
	return slice_equal(key_slice(&row->key), key) ||
	       (row->op == JOURNAL_RENAME && slice_equal(key_slice(&row->hint), key));
}

/* One name of the file. */
static int look_for_name(void *ctx, struct slice key)
{
	struct looking *l = ctx;
	uint64_t as_of = l->snapshot->as_of;

	for (unsigned i = 0; i < l->count && i < l->later; i++) {
		const struct journal_row *row = &l->s->rows[i];

		if (!concerns(row, key))
			continue;
		if (i < l->first)
			l->first = i;
		if (row->time > as_of)
			l->later = i;
	}
	return l->before ? 0 : journal_has_row_before(l->conn, key, l->s->rows[0].seq, &l->before);
}

static int offer(struct sealer *s, struct conn *conn, const struct content_snapshot *snapshot,
	unsigned count, unsigned *end)
{
	struct looking l = {.s = s,
		.conn = conn,
		.snapshot = snapshot,
		.count = count,
		.first = count,
		.later = count};
	int r = durability_names(conn, snapshot->ino, look_for_name, &l);

	if (r || l.first == count)
		return r == -ENOENT ? 0 : r;
	if (l.first == l.later) {
		if (!l.before)
			content_refuse_snapshot(s->cache, snapshot);
		return 0;
	}
	s->offers[s->offers_count++] = *snapshot;
	if (l.later < *end) {
		*end = l.later;
		s->cut_end = snapshot->refused < REFUSED_MAX ? s->rows[l.later - 1].seq : 0;
	}
	return 0;
}

int seal_offers_begin(struct sealer *s, unsigned *count)
{
	struct content_snapshot found[CONTENT_SNAPSHOTS_MAX];
	unsigned n = content_snapshots(s->cache, found), end = *count;
	struct conn *conn;
	int r;

	s->offers_count = 0;
	s->cut_end = 0;
	s->cut_overtakes = false;
	if (!n)
		return 0;
	r = cache_read_begin(s->cache, &conn);
	if (r)
		return r;
	for (unsigned i = 0; !r && i < n; i++)
		r = offer(s, conn, &found[i], *count, &end);
	cache_read_end(conn);
	if (r)
		s->offers_count = 0;
	*count = end;
	return r;
}

const struct content_snapshot *seal_offer(const struct sealer *s, uint64_t ino)
{
	for (unsigned i = 0; i < s->offers_count; i++) {
		if (s->offers[i].ino == ino)
			return &s->offers[i];
	}
	return NULL;
}

void seal_offers_end(struct sealer *s)
{
	for (unsigned i = 0; s->cut_overtakes && i < s->set.count; i++) {
		const struct seal_target *t = &s->set.targets[i];

		/* Its name may be another inode's by now. */
		if (t->offered && t->blocked)
			content_refuse_snapshot(s->cache, seal_offer(s, t->version.ino));
	}
	s->offers_count = 0;
	s->cut_end = 0;
	s->cut_overtakes = false;
}
