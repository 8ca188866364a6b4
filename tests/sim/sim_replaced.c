/*
 * What applications replaced or removed knowingly: a content that an operation took from its name
 * on a server that showed it there is no loss, whatever becomes of the operation. Mostly the version
 * that takes its place says so by its vector; but a removal that gives way to a later one of another
 * server before it is announced is in no segment and in no list of conflicts.
 */
#include "tests/sim/sim.h"

#include <sys/stat.h>

#include "cache/entry.h"
#include "cache/tree.h"

struct version {
	struct key key;
	bool settled;
	unsigned node; /* whose entry is to be looked up */
	struct stamp stamp;
};

struct sim_replaced {
	uint64_t shown[SIM_PATHS]; /* inodes, before the operation under way */
	unsigned count;
	struct version *list;
};

static uint64_t file_at(struct sim *s, unsigned n, unsigned path)
{
	struct inode inode;
	int r = tree_resolve(s->node[n].cache, slice_of(sim_paths[path]), &inode);

	return r == 0 && S_ISREG(inode.mode) ? inode.ino : 0;
}

void sim_replaced_before(struct sim *s, unsigned n)
{
	if (!s->replaced)
		s->replaced = calloc(1, sizeof *s->replaced);
	CHECK(s->replaced);
	for (unsigned i = 0; i < SIM_PATHS; i++)
		s->replaced->shown[i] = file_at(s, n, i);
}

void sim_replaced_after(struct sim *s, unsigned n)
{
	struct sim_replaced *r = s->replaced;

	for (unsigned i = 0; i < SIM_PATHS; i++) {
		struct version v = {.node = n};

		if (!r->shown[i] || file_at(s, n, i) == r->shown[i])
			continue;
		CHECK(key_set(&v.key, slice_of(sim_paths[i])));
		r->list = realloc(r->list, (r->count + 1) * sizeof *r->list);
		CHECK(r->list);
		r->list[r->count++] = v;
	}
}

void sim_replaced_settle(struct sim *s, unsigned n)
{
	struct sim_replaced *r = s->replaced;

	for (unsigned i = 0; r && i < r->count; i++) {
		struct version *v = &r->list[i];
		struct entry e = {0};
		struct conn *conn;

		if (v->settled || v->node != n)
			continue;
		v->settled = true;
		CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
		if (entry_get(conn, key_slice(&v->key), &e) == 0 && e.kind == KIND_FILE)
			v->stamp = e.content_stamp;
		entry_done(&e);
		cache_read_end(conn);
	}
}

bool sim_was_replaced(const struct sim *s, struct slice key, struct stamp stamp)
{
	const struct sim_replaced *r = s->replaced;

	for (unsigned i = 0; r && i < r->count; i++) {
		if (slice_equal(key_slice(&r->list[i].key), key) &&
			stamp_cmp(r->list[i].stamp, stamp) == 0)
			return true;
	}
	return false;
}

void sim_replaced_done(struct sim *s)
{
	if (s->replaced)
		free(s->replaced->list);
	free(s->replaced);
	s->replaced = NULL;
}
