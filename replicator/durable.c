/*
 * Waits for regions (durable.h).
 *
 * A wait is sealing (SEAL) until no journal row of its names from before a mark, a time of the volume's clock,
 * is left; then its items are taken down (SEND): the versions that regions must have. When a file is
 * renamed meanwhile, it begins again with its new name. A directory's items are added as they are met among
 * what a region has not been told of; beyond ITEMS_MAX only the outbox tells.
 *
 * A version is there when a segment with it arrived (durable_told, which also sees versions that were
 * overtaken by newer ones while they were on their way: who writes and syncs without pause must not
 * wait for ever), or when the outbox says so.
 *
 * A file whose name another server's version took while it waited is not there, whatever the outbox says: its
 * rows went because it lost. Only what segments said before that counts.
 *
 * Lock: durable.lock guards the list's links, accepting, and the items' told bits; waits are looked at and freed by
 * the stepping thread only. Nothing is called with it held.
 */
#include "replicator/durable.h"

#include <errno.h>

#include "cache/journal.h"
#include "cache/outbox.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define ITEMS_MAX 512u
#define LIST_MAX 128u /* rows of a directory that are looked at at once in a region */
#define LOG_PAUSE_MS 1000

struct item {
	char *key; /* heap; NUL-terminated for the log */
	size_t len;
	uint64_t hash;
	struct stamp stamp;
	uint64_t told; /* regions by segments */
};

enum phase { PHASE_SEAL, PHASE_SEND };

struct wait {
	struct wait *next;
	uint64_t ino;
	enum durability mode;
	enum phase phase;
	bool dir;
	int64_t deadline_ms;
	uint64_t mark;	    /* journal rows up to this time */
	uint64_t names;	    /* durability_target's; 0: not known yet */
	uint64_t order;	    /* of the outbox, when sealing was over */
	uint64_t complete;  /* a directory's: regions that have all names */
	struct item *items; /* room for ITEMS_MAX */
	unsigned count;
	unsigned own;	  /* those of its own names, the first ones */
	uint64_t lacking; /* regions that were found to lack something last */
	durability_done_fn done;
	void *arg;
	int result;
	bool over;
};

struct durable {
	struct durable_options o;
	struct mutex lock; /* leaf */
	struct wait *first;
	unsigned waiting;
	bool accepting;
	_Atomic unsigned sending; /* waits with items */
	int64_t logged_ms;	  /* the stepping thread's */
	struct outbox_row *row;	  /* likewise: a buffer */
};

int durable_new(const struct durable_options *o, struct durable **ret)
{
	struct durable *d = calloc(1, sizeof(*d));

	if (d)
		d->row = malloc(sizeof(*d->row));
	if (!d || !d->row) {
		free(d);
		return -ENOMEM;
	}
	d->o = *o;
	d->accepting = true;
	mutex_init(&d->lock, LOCK_RANK_LEAF);
	*ret = d;
	return 0;
}

/* ---- items ---- */

static void drop_items(struct durable *d, struct wait *w)
{
	mutex_lock(&d->lock);
	struct item *items = w->items;
	unsigned count = w->count;
	w->items = NULL;
	w->count = 0;
	mutex_unlock(&d->lock);
	if (items)
		atomic_fetch_sub(&d->sending, 1);
	for (unsigned i = 0; i < count; i++)
		free(items[i].key);
	free(items);
}

/* With room for more. */
static int put_item(struct durable *d, struct wait *w, struct slice key, struct stamp stamp)
{
	char *copy = strndup(key.p, key.len);

	if (!copy)
		return -ENOMEM;
	mutex_lock(&d->lock);
	w->items[w->count++] =
		(struct item){.key = copy, .len = key.len, .hash = slice_hash(key), .stamp = stamp};
	mutex_unlock(&d->lock);
	return 0;
}

struct taking {
	struct durable *d;
	struct conn *conn;
	struct wait *w;
	bool vanished; /* a name that is sealed has no entry */
};

/* A name of the inode, in the version that its entry has. */
static int take_name(void *ctx, struct slice key)
{
	CLEANUP(entry_done) struct entry e = {0};
	struct taking *t = ctx;
	int r = entry_get(t->conn, key, &e);

	if (r == -ENOENT || (r == 0 && e.kind == KIND_ABSENT)) {
		t->vanished = true;
		return 0;
	}
	/* Of a file with more names than that the rest follows from the same content. */
	if (r < 0 || t->w->count == ITEMS_MAX)
		return r;
	return put_item(t->d, t->w, key, entry_stamp(&e));
}

static int take_items(struct durable *d, struct conn *conn, struct wait *w)
{
	struct taking t = {.d = d, .conn = conn, .w = w};

	w->items = calloc(ITEMS_MAX, sizeof(*w->items));
	if (!w->items)
		return -ENOMEM;
	atomic_fetch_add(&d->sending, 1);
	int r = durability_order(conn, &w->order);
	if (r == 0)
		r = durability_names(conn, w->ino, take_name, &t);
	/* It is being renamed. The root, and directories that only what lies below them implies, have no entry. */
	if (r == 0 && t.vanished && !w->dir)
		r = -EAGAIN;
	w->own = w->count;
	if (r < 0)
		drop_items(d, w);
	return r;
}

void durable_told(struct durable *d, unsigned region, struct slice key, struct stamp stamp)
{
	uint64_t hash;

	if (!d || atomic_load(&d->sending) == 0)
		return;
	hash = slice_hash(key);
	mutex_lock(&d->lock);
	for (struct wait *w = d->first; w; w = w->next) {
		for (unsigned i = 0; i < w->count; i++) {
			if (w->items[i].hash == hash && stamp_cmp(stamp, w->items[i].stamp) >= 0)
				w->items[i].told |= (uint64_t)1 << region;
		}
	}
	mutex_unlock(&d->lock);
}

/* ---- what is there ---- */

/* there, failed: bits of regions. */
static int look_at_item(struct durable *d, struct conn *conn, const struct item *item,
	uint64_t settled, uint64_t *there, uint64_t *failed)
{
	struct regions *all = d->o.regions;
	struct slice key = {item->key, item->len};

	for (unsigned i = 0; i < all->count; i++) {
		uint64_t bit = (uint64_t)1 << all->region[i].id;

		if (item->told & bit || all->region[i].optional)
			continue;
		int r = outbox_get(conn, all->region[i].id, key, d->row);
		if (r == -ENOENT) {
			if (!(settled & bit))
				*there &= ~bit;
			continue;
		}
		if (r < 0)
			return r;
		if (d->row->state == OUTBOX_OBJECT && d->row->size <= d->o.inline_max)
			continue;
		*there &= ~bit;
		if (d->row->state == OUTBOX_PARKED)
			*failed |= bit;
	}
	return 0;
}

/* What of a directory's names a region has not been told of. */
struct listing {
	struct durable *d;
	struct wait *w;
	uint64_t bit;
	bool lacks;
};

static int look_at_row(void *ctx, struct slice key, struct stamp stamp)
{
	struct listing *l = ctx;
	struct wait *w = l->w;
	uint64_t hash = slice_hash(key);

	for (unsigned i = 0; i < w->count; i++) {
		const struct item *item = &w->items[i];

		if (item->hash != hash || item->len != key.len ||
			memcmp(item->key, key.p, key.len) != 0)
			continue;
		mutex_lock(&l->d->lock);
		l->lacks |= !(item->told & l->bit);
		mutex_unlock(&l->d->lock);
		return 0;
	}
	l->lacks = true;
	return w->count < ITEMS_MAX ? put_item(l->d, w, key, stamp) : 0;
}

struct looking {
	struct durable *d;
	struct conn *conn;
	struct wait *w;
};

static int look_in_dir(void *ctx, struct slice key)
{
	struct looking *look = ctx;
	struct regions *all = look->d->o.regions;

	for (unsigned i = 0; i < all->count; i++) {
		struct listing l = {
			.d = look->d, .w = look->w, .bit = (uint64_t)1 << all->region[i].id};
		bool more = false;

		if (look->w->complete & l.bit || all->region[i].optional)
			continue;
		int r = durability_untold(look->conn, all->region[i].id, key, look->w->order,
			LIST_MAX, look_at_row, &l, &more);
		if (r < 0)
			return r;
		if (!l.lacks && !more)
			look->w->complete |= l.bit;
	}
	return 0;
}

static uint64_t told_by_all(struct durable *d, struct wait *w)
{
	uint64_t told = w->count ? UINT64_MAX : 0;

	mutex_lock(&d->lock);
	for (unsigned i = 0; i < w->count; i++)
		told &= w->items[i].told;
	mutex_unlock(&d->lock);
	return told;
}

/* Whether those of the regions that have it are enough, or (failed) can never be. */
static bool enough(
	const struct durable *d, enum durability mode, uint64_t there, uint64_t failed, bool *never)
{
	const struct regions *all = d->o.regions;
	unsigned count = 0, have = 0, bad = 0, need;

	*never = false;
	for (unsigned i = 0; i < all->count; i++) {
		const struct region *r = &all->region[i];
		uint64_t bit = (uint64_t)1 << r->id;

		if (r->optional || (mode == DURABILITY_HOME && !r->home))
			continue;
		count++;
		have += (there & bit) != 0;
		bad += (failed & bit) != 0;
	}
	need = mode == DURABILITY_QUORUM ? count / 2 + 1 : count;
	*never = count - bad < need;
	return have >= need;
}

/* Those that count. */
static uint64_t all_regions(const struct durable *d)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < d->o.regions->count; i++) {
		if (!d->o.regions->region[i].optional)
			bits |= (uint64_t)1 << d->o.regions->region[i].id;
	}
	return bits;
}

/* Regions in which no row means that nothing is missing. */
static int settled_regions(struct durable *d, struct conn *conn, uint64_t *ret)
{
	struct regions *all = d->o.regions;
	uint64_t bits = 0;

	for (unsigned i = 0; i < all->count; i++) {
		struct resync_status resync;
		bool seeding = false;
		int r = region_seeding(conn, all->region[i].id, &seeding);

		if (r == 0)
			r = resync_get(conn, all->region[i].id, &resync);
		if (r < 0)
			return r;
		if (!seeding && resync.state == RESYNC_NONE)
			bits |= (uint64_t)1 << all->region[i].id;
	}
	*ret = bits;
	return 0;
}

/* ---- one wait ---- */

static void end(struct wait *w, int result)
{
	w->over = true;
	w->result = result;
}

static int sealing_name(void *ctx, struct slice key)
{
	struct looking *look = ctx;
	bool unsealed = false;
	int r = durability_unsealed(look->conn, key, look->w->dir, look->w->mark, &unsealed);

	return r < 0 ? r : unsealed;
}

static void begin_again(struct durable *d, struct wait *w)
{
	drop_items(d, w);
	w->phase = PHASE_SEAL;
	w->names = 0;
}

/* 1: its items are to be looked at; 0: it is over, or not so far; or -errno. */
static int look_at_names(struct durable *d, struct conn *conn, struct wait *w, uint64_t mark)
{
	struct looking look = {.d = d, .conn = conn, .w = w};
	struct durability_target target;
	int r = durability_look(conn, w->ino, &target);

	if (r < 0)
		return r;
	if (target.subject != SUBJECT_NAMED) {
		end(w, target.subject == SUBJECT_DISPLACED ? -ESTALE : 0);
		return 0;
	}
	if (w->names && target.names != w->names)
		begin_again(d, w); /* its content goes by the new name */
	if (!w->names) {
		w->names = target.names;
		w->dir = target.dir;
		w->mark = mark;
		w->complete = 0;
	}
	if (w->phase == PHASE_SEND)
		return 1;
	r = durability_names(conn, w->ino, sealing_name, &look);
	if (r != 0)
		return r < 0 ? r : 0;
	r = take_items(d, conn, w);
	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	w->phase = PHASE_SEND;
	return 1;
}

static int look_at(
	struct durable *d, struct conn *conn, struct wait *w, uint64_t settled, uint64_t mark)
{
	struct looking look = {.d = d, .conn = conn, .w = w};
	uint64_t there = all_regions(d), failed = 0;
	bool never = false;

	if (!w->dir && enough(d, w->mode, told_by_all(d, w), 0, &never)) {
		end(w, 0);
		return 0;
	}
	int r = look_at_names(d, conn, w, mark);
	if (r <= 0)
		return r;
	if (w->dir) {
		/* Its own entry is its first item, if it has one; the others are found among the rows. */
		r = durability_names(conn, w->ino, look_in_dir, &look);
		there = w->complete;
	}
	for (unsigned i = 0; r >= 0 && i < (w->dir ? w->own : w->count); i++)
		r = look_at_item(d, conn, &w->items[i], settled, &there, &failed);
	if (r < 0)
		return r;
	w->lacking = all_regions(d) & ~there;
	if (enough(d, w->mode, there, failed, &never))
		end(w, 0);
	else if (never)
		end(w, -EIO);
	return 0;
}

static void log_failure(struct durable *d, const struct wait *w)
{
	int64_t now = clock_monotonic_ms();
	struct buf names CLEANUP(buf_done) = {0};

	if (d->logged_ms && now - d->logged_ms < LOG_PAUSE_MS)
		return;
	d->logged_ms = now;
	for (unsigned i = 0; i < d->o.regions->count; i++) {
		const struct region *r = &d->o.regions->region[i];

		if (w->phase == PHASE_SEAL || (w->lacking >> r->id & 1))
			buf_printf(&names, "%s%s", names.len ? " " : "", r->name);
	}
	log_warn("fsync failed, what was written stays journalled: too few regions have it "
		 "durability=%s ino=%llu missing=\"%s\" key=\"%s\"",
		durability_name(w->mode), (unsigned long long)w->ino, buf_str(&names),
		w->count ? w->items[0].key : "");
}

/* ---- all of them ---- */

void durable_wait(void *ctx, uint64_t ino, enum durability mode, durability_done_fn done, void *arg)
{
	struct durable *d = ctx;
	struct wait *w = calloc(1, sizeof(*w));
	bool accepted = false;

	if (!w) {
		done(arg, -EIO);
		return;
	}
	*w = (struct wait){.ino = ino,
		.mode = mode,
		.deadline_ms = clock_monotonic_ms() + d->o.timeout_ms,
		.done = done,
		.arg = arg};
	metric_add(METRIC_DURABLE_WAITS, 1);
	mutex_lock(&d->lock);
	accepted = d->accepting;
	if (accepted) {
		w->next = d->first;
		d->first = w;
		d->waiting++;
	}
	mutex_unlock(&d->lock);
	if (!accepted) {
		free(w);
		done(arg, -EIO);
		return;
	}
	if (d->o.woken)
		d->o.woken(d->o.ctx);
}

/* Takes off the list what is over, or all. */
static struct wait *take_over(struct durable *d, bool all)
{
	struct wait **at, *w, *over = NULL;

	mutex_lock(&d->lock);
	for (at = &d->first; (w = *at);) {
		if (!w->over && !all) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->next = over;
		over = w;
		d->waiting--;
	}
	mutex_unlock(&d->lock);
	return over;
}

static void answer(struct durable *d, struct wait *w)
{
	while (w) {
		struct wait *next = w->next;

		if (w->result == -EIO) {
			metric_add(METRIC_DURABLE_FAILURES, 1);
			log_failure(d, w);
		}
		drop_items(d, w);
		w->done(w->arg, w->result);
		free(w);
		w = next;
	}
}

static void need_of(struct wait *w, struct durable_need *need)
{
	need->waiting++;
	if (w->deadline_ms < need->next_ms)
		need->next_ms = w->deadline_ms;
	if (w->phase == PHASE_SEAL)
		need->seal = true;
	else
		need->regions |= w->lacking;
}

int durable_step(struct durable *d, bool *did, struct durable_need *need)
{
	uint64_t settled = 0, mark;
	struct wait *first;
	struct conn *conn;

	*did = false;
	*need = (struct durable_need){.next_ms = INT64_MAX};
	mutex_lock(&d->lock);
	first = d->first; /* new ones come before it */
	mutex_unlock(&d->lock);
	if (!first)
		return 0;
	int r = cache_read_begin(d->o.regions->cache, &conn);
	if (r < 0)
		return r;
	r = settled_regions(d, conn, &settled);
	/* Later than every row of what is being read. */
	mark = cache_stamp(d->o.regions->cache).time;
	for (struct wait *w = first; r == 0 && w; w = w->next)
		r = look_at(d, conn, w, settled, mark);
	cache_read_end(conn);
	for (struct wait *w = first; w; w = w->next) {
		if (!w->over && clock_monotonic_ms() >= w->deadline_ms)
			end(w, -EIO);
		if (!w->over)
			need_of(w, need);
	}
	struct wait *over = take_over(d, false);
	*did = over != NULL;
	answer(d, over);
	return r;
}

unsigned durable_waiting(struct durable *d)
{
	mutex_lock(&d->lock);
	unsigned n = d->waiting;
	mutex_unlock(&d->lock);
	return n;
}

void durable_accept(struct durable *d, bool on)
{
	struct wait *left, *w;

	mutex_lock(&d->lock);
	d->accepting = on;
	mutex_unlock(&d->lock);
	if (on)
		return;
	left = take_over(d, true);
	for (w = left; w; w = w->next)
		end(w, -EIO);
	answer(d, left);
}

void durable_free(struct durable *d)
{
	if (!d)
		return;
	durable_accept(d, false);
	mutex_done(&d->lock);
	free(d->row);
	free(d);
}
