/*
 * What an inode of several names shows of attributes and time: decided over the entries of all of its
 * names, each register by the greatest stamp. No entry is changed for that: servers that answered each
 * other so would not come to an end.
 *
 * Batches change thousands of names of one file, and each of them asks. So the writer remembers, for as
 * long as its transaction lasts, what it found for an inode. A register of an entry only ever grows:
 * the greatest of all stays right when the new value of a name that has changed is counted in, too.
 * What takes an entry out of the sum (a name goes, another link id) drops what is remembered. Nothing
 * sees the tree before the commit, so inodes that lost or got a name are looked at again once, then.
 */
#include "cache/shown.h"

#include <errno.h>

#include "cache/internal.h"
#include "cache/project.h"

#define SLOTS 64 /* inodes; what comes later takes the place of the oldest */

struct slot {
	uint64_t ino; /* 0: free */
	struct link_id id;
	struct entry sum; /* of the entries of all names, as project_shown gives it */
};

struct shown_memo {
	struct slot slots[SLOTS];
	unsigned next;
	bool unsure;	 /* an entry was put that is not counted */
	struct buf left; /* uint64_t each: inodes */
	bool sorted;	 /* left is */
};

struct shown_memo *shown_new(void)
{
	return calloc(1, sizeof(struct shown_memo));
}

static void drop_slot(struct slot *slot)
{
	entry_done(&slot->sum);
	*slot = (struct slot){0};
}

static void drop_all(struct shown_memo *m)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		if (m->slots[i].ino)
			drop_slot(&m->slots[i]);
	}
	m->unsure = false;
}

void shown_clear(struct shown_memo *m)
{
	if (!m)
		return;
	drop_all(m);
	buf_clear(&m->left);
}

void shown_free(struct shown_memo *m)
{
	if (!m)
		return;
	drop_all(m);
	buf_done(&m->left);
	free(m);
}

void shown_unsure(struct conn *conn)
{
	if (conn->shown)
		conn->shown->unsure = true;
}

void shown_sure(struct conn *conn)
{
	if (conn->shown)
		conn->shown->unsure = false;
}

static struct slot *find_slot(struct shown_memo *m, uint64_t ino)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		if (m->slots[i].ino == ino)
			return &m->slots[i];
	}
	return NULL;
}

void shown_drop(struct conn *conn, uint64_t ino)
{
	struct slot *slot = conn->shown && ino ? find_slot(conn->shown, ino) : NULL;

	if (slot)
		drop_slot(slot);
}

int shown_left(struct conn *conn, uint64_t ino)
{
	struct shown_memo *m = conn->shown;

	buf_put(&m->left, &ino, sizeof(ino));
	m->sorted = false;
	return m->left.failed ? -ENOMEM : 0;
}

static int cmp_ino(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

/* Names of several files may have gone by turns: each is looked at once. */
bool shown_next_left(struct conn *conn, uint64_t *ino)
{
	struct shown_memo *m = conn->shown;
	const size_t size = sizeof(*ino);
	uint8_t *end;

	if (m->left.len == 0)
		return false;
	if (!m->sorted)
		qsort(m->left.data, m->left.len / size, size, cmp_ino);
	m->sorted = true;
	end = m->left.data + m->left.len;
	memcpy(ino, end - size, size);
	while (m->left.len && memcmp(end - size, ino, size) == 0) {
		end -= size;
		m->left.len -= size;
	}
	return true;
}

/* ---- the sum ---- */

/* The stamp of the time that e shows. */
static struct stamp time_stamp(const struct entry *e)
{
	return stamp_cmp(e->mtime_stamp, e->content_stamp) > 0 ? e->mtime_stamp : e->content_stamp;
}

static int take_registers(struct entry *ret, const struct entry *e)
{
	struct stamp stamp = time_stamp(e);
	int time = stamp_cmp(stamp, ret->mtime_stamp);

	if (time > 0 || (time == 0 && entry_mtime(e) > ret->mtime_ns)) {
		ret->mtime_stamp = stamp;
		ret->mtime_ns = entry_mtime(e);
	}
	if (entry_attr_cmp(e, ret) <= 0)
		return 0;
	ret->mode = e->mode;
	ret->uid = e->uid;
	ret->gid = e->gid;
	ret->attr_stamp = e->attr_stamp;
	buf_clear(&ret->xattrs);
	if (e->xattrs.len)
		buf_put(&ret->xattrs, e->xattrs.data, e->xattrs.len);
	return ret->xattrs.failed ? -ENOMEM : 0;
}

struct summing {
	struct conn *conn;
	struct link_id id;
	struct slice key; /* whose entry is e, as it will be; e NULL: none */
	const struct entry *e;
	bool *pending;
	struct entry *ret;
};

/* 1 ends it: something is pending. */
static int take_name(void *ctx, struct slice key)
{
	CLEANUP(entry_done) struct entry e = {0};
	struct summing *sum = ctx;
	bool own = sum->e && slice_equal(key, sum->key);
	int r = 0;

	if (sum->pending)
		r = journal_pending(sum->conn, key, sum->pending);
	if (r || (sum->pending && *sum->pending))
		return r ? r : 1;
	if (!own)
		r = entry_get(sum->conn, key, &e);
	if (r)
		return r == -ENOENT ? 0 : r;
	/* What stands there may be a file that had the name before. */
	if (!own && (!entry_live(&e) || !link_id_equal(e.link, sum->id)))
		return 0;
	return take_registers(sum->ret, own ? sum->e : &e);
}

static int sum_names(struct conn *conn, uint64_t ino, struct summing *sum)
{
	int r = link_id_get(conn, ino, &sum->id);

	if (!r)
		r = link_each(conn, ino, take_name, sum);
	return r == 1 ? 0 : r;
}

/* Counts e, the entry of one of its names, in; what cannot be counted is not remembered. */
static void count_in(struct slot *slot, const struct entry *e)
{
	if (!entry_live(e) || !link_id_equal(e->link, slot->id))
		return;
	if (take_registers(&slot->sum, e))
		drop_slot(slot);
}

static int remember(struct conn *conn, uint64_t ino, struct slot **ret)
{
	struct shown_memo *m = conn->shown;
	struct slot *slot = &m->slots[m->next];
	struct summing sum = {.conn = conn, .ret = &slot->sum};
	int r;

	m->next = (m->next + 1) % SLOTS;
	if (slot->ino)
		drop_slot(slot);
	r = sum_names(conn, ino, &sum);
	if (r) {
		drop_slot(slot);
		return r;
	}
	slot->ino = ino;
	slot->id = sum.id;
	*ret = slot;
	return 0;
}

int project_shown(struct conn *conn, uint64_t ino, struct slice key, const struct entry *e,
	bool *pending, struct entry *ret)
{
	struct summing sum = {.conn = conn, .key = key, .e = e, .pending = pending, .ret = ret};
	struct slot *slot;
	int r = 0;

	if (pending)
		*pending = false;
	if (pending || !conn->shown)
		return sum_names(conn, ino, &sum);
	if (conn->shown->unsure)
		drop_all(conn->shown);
	slot = find_slot(conn->shown, ino);
	if (!slot)
		r = remember(conn, ino, &slot);
	if (!r)
		r = take_registers(ret, &slot->sum);
	if (!r && e)
		r = take_registers(ret, e);
	if (!r && e)
		count_in(slot, e);
	return r;
}

void project_put(struct conn *conn, uint64_t ino, const struct entry *e)
{
	struct shown_memo *m = conn->shown;

	shown_sure(conn);
	for (unsigned i = 0; ino && i < SLOTS; i++) {
		struct slot *slot = &m->slots[i];

		if (slot->ino && slot->ino == ino && link_id_equal(e->link, slot->id))
			count_in(slot, e);
		else if (slot->ino && (slot->ino == ino || link_id_equal(e->link, slot->id)))
			drop_slot(slot);
	}
}
