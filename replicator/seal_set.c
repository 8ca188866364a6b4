/*
 * A set of keys that is sealed in one transaction: prepare (outside it: hashing takes long),
 * verify, apply.
 *
 * What prepare found is not trusted inside the transaction: verify reads each state again. A clean
 * file is sealed by the hash that the tree has. A dirty one needs the version that prepare took, of
 * the same inode; when there is none (the name got another inode, or became dirty since) the key
 * waits for the next round. A version that was overtaken by later writes is still a version that
 * existed: it is sealed, content_sealed leaves the file dirty, and a later row seals the rest.
 *
 * Order. Everything in the set enters the outbox in the order of its changes. A key that changed
 * several times is enqueued where its first change stands and again where its last one stands, if
 * anything else was enqueued in between: its outbox row then spans both (first, last), and no cut
 * through the span is closed, so a peer never sees the key's present state without what was changed
 * next to it meanwhile, nor that without the key. One whose changes came to nothing has no row, and a neighbour's
 * spans them (seal_span.c). Changes that are one (SEAL_TOGETHER) span all of themselves.
 *
 * Names of one file. A set may hold thousands of them, so what concerns the inode is done once, by the
 * first of them: taking the version, recording it, and journalling the names that are not in the set.
 */
#include "replicator/seal_internal.h"

#include <errno.h>

#include "cache/outbox.h"
#include "cache/project.h"
#include "cache/region.h"
#include "cache/tree.h"
#include "replicator/delta.h"
#include "src/base/clock.h"

#define OVERTAKEN_MAX 8u

/* ---- the set ---- */

int seal_set_init(struct seal_set *set, unsigned max)
{
	*set = (struct seal_set){.max = max, .table_size = 64};
	while (set->table_size < 2 * max)
		set->table_size *= 2;
	set->targets = calloc(max, sizeof(*set->targets));
	set->order = calloc(3 * (size_t)max, sizeof(*set->order));
	set->table = calloc(set->table_size, sizeof(*set->table));
	set->inodes = calloc(set->table_size, sizeof(*set->inodes));
	set->moves = calloc(3 * (size_t)max, sizeof(*set->moves));
	set->enqueued = calloc(3 * (size_t)max, sizeof(*set->enqueued));
	if (set->targets && set->order && set->table && set->inodes && set->moves && set->enqueued)
		return 0;
	seal_set_done(set);
	return -ENOMEM;
}

static void free_room(struct seal_set *set)
{
	while (set->room) {
		struct seal_room *room = set->room;

		set->room = room->next;
		free(room);
	}
}

void seal_set_clear(struct seal_set *set)
{
	free_room(set);
	for (unsigned i = 0; i < set->count; i++) {
		if (set->targets[i].looked)
			local_state_done(&set->targets[i].local);
	}
	memset(set->moves, 0, set->move_count * sizeof(*set->moves));
	set->count = 0;
	set->order_count = 0;
	set->move_count = 0;
	set->enqueued_count = 0;
	set->moved_from = set->moved_to = (struct slice){NULL, 0};
	memset(set->table, 0, set->table_size * sizeof(*set->table));
	memset(set->inodes, 0, set->table_size * sizeof(*set->inodes));
}

void seal_set_done(struct seal_set *set)
{
	if (set->targets && set->order && set->table && set->inodes && set->moves && set->enqueued)
		seal_set_clear(set);
	free_room(set);
	free(set->targets);
	free(set->order);
	free(set->table);
	free(set->inodes);
	free(set->moves);
	free(set->enqueued);
	*set = (struct seal_set){0};
}

int seal_set_resize(struct seal_set *set, unsigned max)
{
	struct seal_set other;
	int r = seal_set_init(&other, max);

	if (r)
		return r;
	seal_set_done(set);
	*set = other;
	return 0;
}

/* The slot that holds key, or the empty one where it belongs. The table is half empty. */
static unsigned *find_slot(struct seal_set *set, struct slice key)
{
	uint64_t h = seal_hash(key);
	unsigned at = (unsigned)(h ^ h >> 32) & (set->table_size - 1);

	while (set->table[at] && !slice_equal(set->targets[set->table[at] - 1].key, key))
		at = (at + 1) & (set->table_size - 1);
	return &set->table[at];
}

unsigned seal_set_add(struct seal_set *set, struct slice key, uint64_t time)
{
	unsigned *slot = find_slot(set, key);
	struct seal_target *t;

	CHECK(set->order_count < 3 * set->max);
	if (!*slot) {
		CHECK(set->count < set->max);
		set->targets[set->count] =
			(struct seal_target){.key = key, .first = set->order_count};
		*slot = ++set->count;
	}
	t = &set->targets[*slot - 1];
	if (time > t->time)
		t->time = time;
	t->last = set->order_count;
	set->order[set->order_count++] = *slot - 1;
	return *slot - 1;
}

bool seal_set_has_room(const struct seal_set *set, unsigned changes)
{
	return set->count + changes <= set->max && set->order_count + changes <= 3 * set->max;
}

struct seal_target *seal_set_find(struct seal_set *set, struct slice key)
{
	unsigned at = *find_slot(set, key);

	return at ? &set->targets[at - 1] : NULL;
}

bool seal_set_touches(struct seal_set *set, struct slice key, bool below, bool block)
{
	struct seal_target *at = seal_set_find(set, key);
	bool any = at && !at->blocked && !at->offered; /* of that one it is known what of its changes is taken */

	if (any)
		at->blocked = block;
	for (unsigned i = 0; below && i < set->count; i++) {
		struct seal_target *t = &set->targets[i];

		if (t->blocked || t->key.len <= key.len || t->key.p[key.len] != '/' ||
			memcmp(t->key.p, key.p, key.len) != 0)
			continue;
		any = true;
		t->blocked = block;
	}
	return any;
}

char *seal_set_room(struct seal_set *set, size_t size)
{
	struct seal_room *room = malloc(sizeof(*room) + size);

	if (!room)
		return NULL;
	room->next = set->room;
	set->room = room;
	return room->bytes;
}

void seal_set_together(struct seal_set *set, unsigned begin)
{
	for (unsigned i = begin; i < set->order_count; i++)
		set->order[i] |= SEAL_TOGETHER;
	set->order[begin] |= SEAL_BEGINS;
}

/* The lead of target at, which it is itself unless another target has the same inode. */
static unsigned find_lead(struct seal_set *set, unsigned at)
{
	uint64_t ino = set->targets[at].local.ino, h = ino * 0x9e3779b97f4a7c15u;
	unsigned slot = (unsigned)(h >> 32) & (set->table_size - 1);

	if (set->targets[at].local.nlink <= 1)
		return at;
	while (set->inodes[slot] && set->targets[set->inodes[slot] - 1].local.ino != ino)
		slot = (slot + 1) & (set->table_size - 1);
	if (!set->inodes[slot])
		set->inodes[slot] = at + 1;
	return set->inodes[slot] - 1;
}

/* ---- before the transaction ---- */

static bool needs_version(const struct local_state *l)
{
	return l->kind == KIND_FILE && (l->dirty || !l->has_hash);
}

static int look(struct conn *conn, struct seal_target *t, bool glance)
{
	int r;

	if (t->looked)
		local_state_done(&t->local);
	t->looked = false;
	t->local = (struct local_state){0};
	r = glance ? journal_glance(conn, t->key, &t->local)
		   : journal_local_state(conn, t->key, &t->local);
	t->looked = r == 0;
	return r;
}

static int look_all(struct sealer *s, struct seal_set *set)
{
	struct conn *conn;
	int r = cache_read_begin(s->cache, &conn);

	if (r)
		return r;
	for (unsigned i = 0; !r && i < set->count; i++)
		r = look(conn, &set->targets[i], true);
	cache_read_end(conn);
	return r;
}

static int take_version(struct sealer *s, struct seal_target *t)
{
	const struct content_snapshot *offer = seal_offer(s, t->local.ino);
	int r = offer ? content_take_snapshot(s->cache, offer, &t->version)
		      : content_seal(s->cache, t->local.ino, s->options.inline_max, &s->bytes,
				&t->version);

	if (r)
		return r;
	t->sealed = true;
	t->offered = offer;
	if (offer)
		return 0;
	if (s->inline_cache && t->version.size <= s->options.inline_max && !s->bytes.failed &&
		s->bytes.len == t->version.size)
		inline_cache_put(s->inline_cache, t->version.hash, s->bytes.data, s->bytes.len);
	return 0;
}

/* ---- waiting for the version before ---- */

static uint64_t version_before(const struct local_state *l)
{
	struct reader r = reader_of(l->hash, sizeof(l->hash));

	return l->has_hash ? reader_be64(&r) : 0;
}

/* The wait of the key with that hash, or where there is none a free place; NULL: all are taken. What
 * nobody asks for any more was sealed on another occasion, or is gone. */
static struct seal_wait *find_wait(struct sealer *s, uint64_t key, int64_t now)
{
	struct seal_wait *place = NULL;

	for (unsigned i = 0; i < SEAL_WAITS; i++) {
		struct seal_wait *w = &s->waits[i];

		if (w->key == key)
			return w;
		if (w->key && now - w->wanted_ms > SEAL_WAIT_FORGET_MS)
			w->key = 0;
		if (!w->key)
			place = w;
	}
	return place;
}

/* By the clock from when the sealer first waited: stamps may be far ahead of it, and do not go on
 * until it has come up to them. Each file's wait ends by itself, and stays at its end for as long as
 * that version is on its way: one of them holds its directory back, so waits that followed each other
 * or began anew would do so for ever; and what is waited for may itself wait to be announced behind
 * what is held back. busy: a region is being sent it, which ends by itself, too. */
static bool has_patience(struct sealer *s, const struct seal_target *t, bool busy)
{
	int64_t now = clock_monotonic_ms();
	uint64_t version = version_before(&t->local), key = seal_hash(t->key);
	struct seal_wait *w = find_wait(s, key, now);

	if (!w)
		return false;
	if (w->key != key || w->version != version)
		*w = (struct seal_wait){
			.key = key,
			.version = version,
			.end_ms = now + SEAL_PATIENCE_MS +
				  (int64_t)(t->local.size / SEAL_PATIENCE_BYTES),
		};
	w->wanted_ms = now;
	/* What has come is still to be announced. */
	if (busy && w->end_ms < now + SEAL_PATIENCE_MS)
		w->end_ms = now + SEAL_PATIENCE_MS;
	return now <= w->end_ms;
}

static void end_wait(struct sealer *s, struct slice key)
{
	struct seal_wait *w = find_wait(s, seal_hash(key), clock_monotonic_ms());

	if (w)
		w->key = 0;
}

/* Whether the version before is still on its way to a region that takes it. */
static int is_owed(struct sealer *s, const struct seal_target *t, bool *ret)
{
	struct conn *conn;
	uint64_t regions = 0;
	bool busy = false;
	int r;

	*ret = false;
	if (!s->patient || !s->options.region_up || t->local.size <= s->options.inline_max)
		return 0;
	r = cache_read_begin(s->cache, &conn);
	if (r)
		return r;
	r = outbox_uploading(conn, t->key, &regions);
	cache_read_end(conn);
	if (r)
		return r;
	for (unsigned i = 0; i < REGION_MAX; i++) {
		if (!(regions >> i & 1) || !s->options.region_up(s->options.region_ctx, i))
			continue;
		if (s->options.region_waits &&
			s->options.region_waits(s->options.region_ctx, i, t->key))
			continue;
		*ret = true;
		busy |= s->options.region_busy &&
			s->options.region_busy(s->options.region_ctx, i, t->key);
	}
	*ret = *ret && has_patience(s, t, busy);
	if (!regions)
		end_wait(s, t->key);
	return 0;
}

static void prepare_version(struct sealer *s, struct seal_target *t, int *failure)
{
	int r = take_version(s, t);

	/* Gone, or not here: verify decides by the state that it finds. */
	if (!r || r == -ENOENT || r == -EREMOTE)
		return;
	t->lost = r == -ENODATA;
	if (t->lost)
		return;
	t->blocked = true;
	if (r != -EAGAIN && !*failure)
		*failure = r;
}

int seal_set_prepare(struct sealer *s, struct seal_set *set, int *failure)
{
	int r = look_all(s, set);

	if (r)
		return r;
	for (unsigned i = 0; i < set->count; i++) {
		struct seal_target *t = &set->targets[i], *lead;

		if (!needs_version(&t->local))
			continue;
		r = is_owed(s, t, &t->blocked);
		if (r)
			return r;
		t->lead = find_lead(set, i);
		lead = &set->targets[t->lead];
		if (lead == t && !t->blocked)
			prepare_version(s, t, failure);
		if (lead == t)
			continue;
		t->blocked |= lead->blocked;
		t->lost = lead->lost;
		t->sealed = lead->sealed;
		t->offered = lead->offered;
		t->version = lead->version;
	}
	return 0;
}

/* ---- inside ---- */

struct overtaken {
	struct seal_set *set;
	bool any;
};

static int block_key(void *ctx, struct slice key, bool below)
{
	struct overtaken *o = ctx;

	o->any |= seal_set_touches(o->set, key, below, true);
	return 0;
}

/* A key that changed again since the batch was read may be taken in that newer state, ahead of what changed beside
 * it before: it and its directory wait for the next round, whose batch has all of that. Not for ever: where the same
 * keys change all the time, after OVERTAKEN_MAX rounds they are sealed as they are; behind a cut (seal_offer.c), after
 * a few snapshots. */
static int block_overtaken(struct sealer *s, struct conn *conn, struct seal_set *set)
{
	struct overtaken o = {.set = set};
	int r;

	if (s->cut_end) {
		r = journal_keys_since(conn, s->cut_end, block_key, &o);
		s->cut_overtakes = o.any;
		return r;
	}
	if (!s->patient || !s->read_end || s->overtaken_rounds >= OVERTAKEN_MAX)
		return 0;
	r = journal_keys_since(conn, s->read_end, block_key, &o);
	s->overtaken |= o.any;
	return r;
}

int seal_set_verify(struct sealer *s, struct conn *conn, struct seal_set *set)
{
	int overtaken = block_overtaken(s, conn, set);

	if (overtaken)
		return overtaken;
	for (unsigned i = 0; i < set->count; i++) {
		struct seal_target *t = &set->targets[i];
		int r;

		if (t->blocked)
			continue;
		r = look(conn, t, false);
		if (r)
			return r;
		if (t->lost && needs_version(&t->local))
			continue;
		t->lost = false;
		if (needs_version(&t->local) && (!t->sealed || t->version.ino != t->local.ino))
			t->blocked = true;
		/* It is another one, or gone, since: what was changed beside it before comes first. */
		if (t->offered && t->version.ino != t->local.ino)
			t->blocked = true;
	}
	return 0;
}

static struct seal_state state_of(const struct seal_target *t)
{
	struct seal_state state = {.local = &t->local,
		.size = t->local.size,
		.hash = t->local.hash,
		.mtime_ns = t->local.mtime_ns};

	if (needs_version(&t->local)) {
		state.size = t->version.size;
		state.hash = t->version.hash;
		state.mtime_ns = t->version.mtime_ns;
	}
	return state;
}

/* A stamp of this node that exceeds all that the entry knows, and is not behind what the entries of
 * the inode's other names say (shown; NULL: there are none). One change has one stamp for all names
 * where that is possible. */
static struct stamp new_stamp(struct sealer *s, const struct seal_target *t,
	const struct entry *old, const struct entry *shown)
{
	struct stamp stamp = {.time = t->time, .node = cache_node(s->cache)}, least = {0};
	uint64_t floor = seal_floor(old);

	if (shown)
		least = stamp_cmp(shown->attr_stamp, shown->mtime_stamp) > 0 ? shown->attr_stamp
									     : shown->mtime_stamp;
	if (stamp.time > floor && stamp_cmp(stamp, least) >= 0)
		return stamp;
	if (least.node == stamp.node && least.time > floor)
		return least;
	hlc_observe(cache_clock(s->cache), floor > least.time ? floor : least.time);
	return cache_stamp(s->cache);
}

/* The tree shows a directory only because of what lies below it, over a file or symlink that has
 * the name: hidden, not lost (project.h). A directory that somebody made in the place of a file can
 * have live entries below it before it is sealed itself: a row is sealed by the state that its key
 * has now, and an ancestor's own row may come later. So the projection is asked which one it is. */
static int is_implied(
	struct conn *conn, const struct seal_target *t, const struct entry *old, bool *ret)
{
	int r;

	*ret = false;
	if (t->local.kind != KIND_DIR || !entry_live(old) || old->kind == KIND_DIR)
		return 0;
	r = project_shadowing(conn, t->key, t->local.ino, ret);
	return r || !*ret ? r : entry_has_live_below(conn, t->key, ret);
}

/* Nobody made that directory, so it is not sealed over the hidden file; its attributes and time are
 * the entry's. */
static unsigned implied_changes(const struct entry *old, struct seal_target *t)
{
	struct seal_state state = {.local = &t->local};
	unsigned changes;

	/* The search bits are the projection's addition. */
	if (t->local.mode == (old->mode | (old->mode & 0444) >> 2))
		t->local.mode = old->mode;
	changes = seal_changes(old, &state) & SEAL_ATTR;
	return entry_mtime(old) == t->local.mtime_ns ? changes : changes | SEAL_MTIME;
}

/* What the tree has to follow. */
static int project(
	struct conn *conn, const struct seal_target *t, const struct entry *e, bool implied)
{
	if (implied)
		return project_entry(conn, t->key, e, false, NULL, NULL);
	return entry_live(e) ? 0 : project_ancestors(conn, t->key);
}

/* Whether e's content can be told by what it changes of old's. */
static int find_base(struct sealer *s, struct conn *conn, struct seal_target *t,
	const struct entry *old, const struct entry *e)
{
	uint64_t least = content_map_min(s->cache);

	t->has_base = false;
	if (least <= s->options.inline_max)
		least = s->options.inline_max + 1;
	if (old->kind != KIND_FILE || e->kind != KIND_FILE || old->size < least ||
		e->size < least || memcmp(old->hash, e->hash, SHA256_SIZE) == 0)
		return 0;
	memcpy(t->base, old->hash, SHA256_SIZE);
	return delta_fits(conn, old->hash, e->hash, delta_limit(s->options.inline_max, e->size),
		&t->has_base);
}

/* was: the kind of old, -1 when there is none. */
static int store(struct sealer *s, struct conn *conn, struct seal_target *t,
	const struct entry *old, int was)
{
	CLEANUP(entry_done) struct entry e = {0};
	CLEANUP(entry_done) struct entry shown = {0};
	struct seal_state state = state_of(t);
	unsigned changes;
	bool implied;
	struct stamp stamp;
	int r = is_implied(conn, t, old, &implied);

	if (!r && t->local.nlink > 1 && t->local.kind != KIND_DIR) {
		r = project_shown(conn, t->local.ino, t->key, old, NULL, &shown);
		state.shown = &shown;
		state.node = cache_node(s->cache);
	}
	if (r)
		return r;
	changes = implied ? implied_changes(old, t) : seal_changes(old, &state);
	if (t->attr_only)
		changes &= SEAL_ATTR;
	if (!changes)
		return 0;
	stamp = new_stamp(s, t, old, state.shown);
	r = seal_apply(old, &state, changes, stamp, &e);
	if (!r && changes & SEAL_CONTENT)
		r = project_over_hidden(conn, t->key, old, &e);
	if (!r)
		r = entry_put_over(conn, t->key, was, &e);
	if (!r)
		project_put(conn, t->local.ino, &e);
	if (!r)
		r = project(conn, t, &e, implied);
	if (!r && t->local.kind == KIND_DIR && entry_mtime(&e) == t->local.mtime_ns)
		r = tree_keep_time(conn, t->local.ino, t->local.mtime_ns);
	if (!r && t->local.kind == KIND_DIR && changes & SEAL_ATTR)
		r = project_owned(conn, t->local.ino);
	if (!r && t->local.kind == KIND_DIR && (old->uid != e.uid || old->gid != e.gid))
		r = project_owner(conn, t->key);
	if (!r && old->link.origin && changes & SEAL_CONTENT)
		r = project_left(conn, old, t->local.ino);
	if (!r)
		r = find_base(s, conn, t, old, &e);
	if (r)
		return r;
	t->changed = true;
	t->time = stamp.time;
	t->stamp = entry_stamp(&e);
	t->size = e.kind == KIND_FILE ? e.size : 0;
	t->shared = e.vector.count > 1;
	t->fresh = entry_live(&e) ? !entry_live(old) : !t->shared;
	return 0;
}

/* What was sealed may have become the content of the file's other names: they are one inode then. And they
 * may have had the same content all along, but were both written on: where the seal found nothing new they
 * can be one only now. */
static int settle_file(struct conn *conn, const struct seal_target *t)
{
	CLEANUP(entry_done) struct entry now = {0};
	int r = entry_get(conn, t->key, &now);

	return r ? r : project_sealed(conn, t->key, &now);
}

struct members {
	struct seal_set *set;
	unsigned lead;
};

/* Whether key is a name that this set seals with its lead's version. */
static bool is_member(void *ctx, struct slice key)
{
	struct members *m = ctx;
	unsigned at = *find_slot(m->set, key);
	const struct seal_target *t = at ? &m->set->targets[at - 1] : NULL;

	return t && !t->blocked && !t->lost && t->sealed && t->lead == m->lead;
}

static int seal_content(struct sealer *s, struct conn *conn, struct seal_target *t)
{
	struct seal_target *lead = &s->set.targets[t->lead];
	struct members m = {&s->set, t->lead};
	int r = 0;

	if (!lead->recorded)
		r = content_sealed(conn, &t->version);
	lead->recorded = true;
	if (r || !t->changed || lead->told)
		return r;
	/* A file's other names show that content as well; a seal of theirs finds it clean. */
	lead->told = true;
	return journal_other_names(conn, t->local.ino, is_member, &m, t->time);
}

static int seal_target(struct sealer *s, struct conn *conn, struct seal_target *t)
{
	CLEANUP(entry_done) struct entry old = {0};
	int r = entry_get(conn, t->key, &old);

	if (!r || r == -ENOENT)
		r = store(s, conn, t, &old, r ? -1 : (int)old.kind);
	if (!r && needs_version(&t->local))
		r = seal_content(s, conn, t);
	if (!r && t->local.link.origin)
		r = settle_file(conn, t);
	return r;
}

/* key with the first of two directories above it (or that it is) replaced by the other; false: it is not
 * there. */
static bool under_other(
	struct slice key, struct slice above, struct slice other, struct key *ret)
{
	if (!above.len || key.len < above.len || memcmp(key.p, above.p, above.len) != 0 ||
		(key.len > above.len && key.p[above.len] != '/') ||
		other.len + (key.len - above.len) > KEY_MAX)
		return false;
	memcpy(ret->p, other.p, other.len);
	memcpy(ret->p + other.len, key.p + above.len, key.len - above.len);
	ret->len = other.len + (key.len - above.len);
	return true;
}

/* The name that t's content had before, or an empty one; p is room for it. */
static struct slice former_name(
	const struct seal_set *set, const struct seal_target *t, struct key *p)
{
	if (!t->from.len && under_other(t->key, set->moved_to, set->moved_from, p))
		return key_slice(p);
	return t->from;
}

/* The name that a removed file's content has now, or an empty one; p is room for it. */
static struct slice new_name(struct seal_set *set, struct seal_target *t, struct key *p)
{
	if (t->local.kind != KIND_ABSENT)
		return (struct slice){NULL, 0};
	if (!t->moves && under_other(t->key, set->moved_from, set->moved_to, p))
		return key_slice(p);
	return seal_moved_to(set, t);
}

static int enqueue(
	struct sealer *s, struct conn *conn, struct seal_target *t, uint64_t since)
{
	struct key name;
	struct outbox_change change = {
		.key = t->key,
		.stamp = t->stamp,
		.since = since,
		.size = t->size,
		.upload = t->size > s->options.inline_max,
		.fresh = t->fresh && !t->enqueues, /* the second of a set leaves the first alone */
		.shared = t->shared,
		.remote = t->local.remote,
		.base = t->has_base ? t->base : NULL,
	};

	if (t->size)
		change.moved_from = former_name(&s->set, t, &name);
	else
		change.moved_to = new_name(&s->set, t, &name);
	change.unfetched = change.remote && (change.moved_from.len || t->local.link.origin);
	return outbox_enqueue(conn, &change);
}

/* How many changes are one, from that at position begin on. */
static unsigned together_from(const struct seal_set *set, unsigned begin)
{
	unsigned end = begin + 1;

	while (end < set->order_count && (set->order[end] & SEAL_TOGETHER) &&
		!(set->order[end] & SEAL_BEGINS))
		end++;
	return end - begin;
}

int seal_set_apply(struct sealer *s, struct conn *conn, struct seal_set *set, unsigned *sealed)
{
	unsigned count = 0, begin = 0;
	uint64_t since = 0;
	int r = 0;

	set->enqueued_count = 0;
	for (unsigned i = 0; !r && i < set->order_count; i++) {
		struct seal_target *t = &set->targets[set->order[i] & SEAL_INDEX], *next;

		if (set->order[i] & SEAL_BEGINS) {
			begin = i;
			r = outbox_numbers(conn, together_from(set, i), &since);
		}
		if (r || t->blocked || t->lost)
			continue;
		if (i == t->first) {
			t->changed = false;
			r = seal_target(s, conn, t);
			count += !r && t->changed;
		}
		next = r ? NULL : seal_span_enqueued(set, t, i);
		if (!next)
			continue;
		r = enqueue(s, conn, next,
			next == t && (set->order[i] & SEAL_TOGETHER) ? since + (i - begin) : 0);
		set->enqueued[set->enqueued_count++] = (struct seal_enqueued){
			(unsigned)(next - set->targets), seal_hash(key_parent(next->key))};
		next->enqueues = set->enqueued_count;
	}
	*sealed = count;
	return r;
}

/* Out of its turn: what else waits in the directory follows. The rows stay, for the content. */
int sealer_seal_attributes(struct sealer *s, struct conn *conn, struct slice key)
{
	CLEANUP(entry_done) struct entry old = {0};
	struct seal_target t = {.key = key, .attr_only = true};
	struct outbox_change change = {.key = key};
	int r = entry_get(conn, key, &old);

	if (r || !entry_live(&old))
		return r == -ENOENT ? 0 : r;
	r = journal_time(conn, key, &t.time);
	if (!r)
		r = look(conn, &t, false);
	if (!r && t.local.kind == old.kind)
		r = store(s, conn, &t, &old, (int)old.kind);
	if (!r && t.changed) {
		change.stamp = t.stamp;
		change.size = t.size;
		change.shared = t.shared;
		change.remote = t.local.remote;
		r = outbox_enqueue(conn, &change);
	}
	if (t.looked)
		local_state_done(&t.local);
	return r;
}
