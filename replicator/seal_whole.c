/*
 * The rename of a directory with up to WHOLE_NAMES names below it, as a part of an ordinary batch: so many
 * renames of single names, that are sealed together or not at all. Larger ones: seal_tree.c.
 *
 * Order. What the tree has below the new name, what the map has below the old one, and what the batch changed
 * there before, is put together by names; their order says nothing about what was changed when. So all changes that this makes of
 * one directory get one span of the outbox's numbers (outbox_change.since): they are one cut, a peer sees
 * all names of the directory or none, and goes on seeing the old ones until it has the new. And what the
 * batch did to a name before or after, it is one chain of names with this (seal_set.c), so that the former
 * name of a file waits for the one that it has in the end.
 */
#include "replicator/seal_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct names {
	struct buf bytes; /* be32 length, then what the directory's key is followed by */
	unsigned count;
	size_t above; /* length of the directory's key */
};

static void names_done(struct names *n)
{
	buf_done(&n->bytes);
}

static int take_name(void *ctx, struct slice key)
{
	struct names *n = ctx;
	size_t len = key.len - n->above;

	if (!len)
		return 0;
	buf_put_be32(&n->bytes, (uint32_t)len);
	buf_put(&n->bytes, key.p + n->above, len);
	n->count++;
	return n->bytes.failed ? -ENOMEM : 0;
}

static int read_names(
	struct sealer *s, const struct journal_row *row, struct names *below, struct names *left)
{
	struct conn *conn;
	int r = cache_read_begin(s->cache, &conn);

	if (r)
		return r;
	below->above = row->key.len;
	left->above = row->hint.len;
	r = journal_walk(conn, key_slice(&row->key), (struct slice){NULL, 0}, WHOLE_NAMES + 1,
		take_name, below);
	if (!r && below->count <= WHOLE_NAMES)
		r = entry_scan(conn, key_slice(&row->hint), (struct slice){NULL, 0}, true,
			WHOLE_NAMES + 2, take_name, left);
	cache_read_end(conn);
	return r;
}

/* What the batch did below the old name before. */
static int add_changed(const struct seal_set *set, const struct key *dir, struct names *names)
{
	int r = 0;

	for (unsigned i = 0; !r && i < set->count; i++) {
		struct slice key = set->targets[i].key;

		if (key.len > dir->len && key.p[dir->len] == '/' &&
			memcmp(key.p, dir->p, dir->len) == 0)
			r = take_name(names, key);
	}
	return r;
}

static int by_name(const void *a, const void *b)
{
	const struct slice *x = a, *y = b;
	int r = memcmp(x->p, y->p, x->len < y->len ? x->len : y->len);

	return r ? r : (x->len > y->len) - (x->len < y->len);
}

static unsigned list_names(struct slice *list, unsigned at, const struct names *n)
{
	struct reader r = reader_of(n->bytes.data, n->bytes.len);

	for (unsigned i = 0; i < n->count; i++) {
		size_t len = reader_be32(&r);

		list[at++] = (struct slice){(const char *)reader_raw(&r, len), len};
	}
	return at;
}

/* Each name once, a directory before what is in it. */
static unsigned merge_names(struct slice *list, const struct names *below, const struct names *left)
{
	unsigned count = list_names(list, list_names(list, 0, below), left), kept = 0;

	qsort(list, count, sizeof(*list), by_name);
	for (unsigned i = 0; i < count; i++) {
		if (!kept || by_name(&list[kept - 1], &list[i]) != 0)
			list[kept++] = list[i];
	}
	return kept;
}

static struct slice join(char **room, const struct key *dir, struct slice name)
{
	struct slice key = {*room, dir->len + name.len};

	memcpy(*room, dir->p, dir->len);
	if (name.len)
		memcpy(*room + dir->len, name.p, name.len);
	*room += key.len;
	return key;
}

/* from and to are in the set. */
static void tie(struct seal_set *set, struct slice from, struct slice to)
{
	struct seal_target *old = seal_set_find(set, from), *new = seal_set_find(set, to);

	new->from = old->from.len && !slice_equal(old->from, new->key) ? old->from : old->key;
	seal_moved_note(set, old->key, new->key);
}

static bool fits_key(const struct key *dir, struct slice name)
{
	return dir->len + name.len <= KEY_MAX;
}

static int add_names(struct sealer *s, const struct journal_row *row, const struct slice *names,
	unsigned count, size_t bytes)
{
	struct seal_set *set = &s->set;
	unsigned begin = set->order_count, pairs = 0;
	size_t tops = (count + 1) * (row->key.len + row->hint.len);
	AUTO_FREE struct slice *from = calloc(count + 1, sizeof(*from));
	AUTO_FREE struct slice *to = calloc(count + 1, sizeof(*to));
	char *room = seal_set_room(set, 2 * bytes + tops + 1);

	if (!from || !to || !room)
		return -ENOMEM;
	for (unsigned i = 0; i <= count; i++) {
		struct slice name = i ? names[i - 1] : (struct slice){NULL, 0};

		/* Only a name of one side that the other cannot have. */
		if (!fits_key(&row->key, name) || !fits_key(&row->hint, name))
			return -ENAMETOOLONG;
		to[pairs] = join(&room, &row->key, name);
		from[pairs++] = join(&room, &row->hint, name);
	}
	for (unsigned i = 0; i < pairs; i++)
		seal_set_add(set, to[i], row->time);
	for (unsigned i = 0; i < pairs; i++) {
		seal_set_add(set, from[i], row->time);
		tie(set, from[i], to[i]);
	}
	seal_set_together(set, begin);
	return 0;
}

int seal_whole_add(struct sealer *s, const struct journal_row *row, enum seal_fit *ret)
{
	CLEANUP(names_done) struct names below = {0};
	CLEANUP(names_done) struct names left = {0};
	AUTO_FREE struct slice *names = NULL;
	unsigned count;
	int r = read_names(s, row, &below, &left);

	*ret = SEAL_PARTS;
	if (r || below.count > WHOLE_NAMES || left.count > WHOLE_NAMES)
		return r;
	r = add_changed(&s->set, &row->hint, &left);
	if (r)
		return r;
	names = calloc(below.count + left.count + 1, sizeof(*names));
	if (!names)
		return -ENOMEM;
	count = merge_names(names, &below, &left);
	if (count > WHOLE_NAMES)
		return 0;
	if (!seal_set_has_room(&s->set, 2 * (count + 1))) {
		*ret = SEAL_FULL;
		return 0;
	}
	r = add_names(s, row, names, count, below.bytes.len + left.bytes.len);
	if (!r)
		*ret = SEAL_FITS;
	return r == -ENAMETOOLONG ? 0 : r;
}
