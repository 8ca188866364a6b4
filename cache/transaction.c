/*
 * The writer's transactions.
 *
 * Operations of applications share one transaction, the group, and each is acknowledged by the redo
 * log (redo.h). Everybody else who changes something commits the group first, and so do those who
 * read on a connection of their own. A group that could not be committed, or of which an
 * operation had to be taken back, is rolled back as a whole; its acknowledged operations are then
 * run again from the log before anything else is done, and as long as that fails, nothing is.
 *
 *   grouped  the writer has a transaction open with operations in it
 *   redoing  it has none, but operations stand in the log, or may
 *
 * SQLite rolls a transaction back by itself when a statement, even one that reads, fails for lack of
 * memory or space or for an error of the disk. So whether there is one is asked of SQLite.
 *
 * Every commit has a number of its own in the database (redo.h): what stands in the log is run again
 * on the very state on which it ran first, or not at all.
 *
 * A transaction gathers what has to happen after it: content files to remove, what was kept for versions older
 * than a sealed one, invalidations, waking the journal's readers. Commit does them after writer_lock is
 * released; rollback drops them. A crash between commit and removal leaves stray content files, which cache_open removes.
 */
#include <errno.h>

#include "cache/internal.h"
#include "cache/project.h"
#include "cache/redo.h"
#include "cache/snapshot.h"
#include "cache/tally.h"

struct note {
	struct note *next;
	struct invalidation invalidation;
	char *name;
	uint64_t remove_ino;  /* 0: an invalidation, or a version was sealed */
	uint64_t replaced_by; /* 0: nothing */
	struct content_version sealed; /* ino 0: none */
};

void notes_free(struct note *n)
{
	while (n) {
		struct note *next = n->next;

		free(n->name);
		free(n);
		n = next;
	}
}

/* With the writer's lock. */
static bool must_redo(struct cache *c)
{
	return c->redoing ||
	       (c->redo && redo_pending(c->redo) && sqlite3_get_autocommit(c->writer->db));
}

static void abandon_group(struct conn *conn)
{
	struct cache *c = conn->cache;

	conn_reset_all(conn);
	/* A failure for lack of space may have rolled back already. */
	if (!sqlite3_get_autocommit(conn->db))
		sqlite3_exec(conn->db, "ROLLBACK", NULL, NULL, NULL);
	CHECK(sqlite3_get_autocommit(conn->db));
	dir_keys_clear(conn->dir_keys);
	c->redoing = c->redo && redo_pending(c->redo);
	/* Readers would miss what is in the log: they queue for the writer, and redo it. */
	atomic_store(&c->grouped, c->redoing);
}

/* With the writer's lock, outside an operation. */
static int begin_group(struct conn *conn)
{
	struct cache *c = conn->cache;
	bool redo = must_redo(c);
	int r;

	if (!sqlite3_get_autocommit(conn->db))
		return 0;
	if (redo)
		dir_keys_clear(conn->dir_keys);
	conn->last_put = 0;
	r = conn_run_literal(conn, "BEGIN IMMEDIATE");
	if (!r && redo)
		r = redo_replay(c->redo, conn);
	if (r) {
		abandon_group(conn);
		return r;
	}
	c->redoing = false;
	return 0;
}

int cache_catch_up(struct cache *c)
{
	return must_redo(c) ? begin_group(c->writer) : 0;
}

/* more: with an operation in it that is not in the log. */
static int commit_numbered(struct conn *conn, bool more)
{
	struct cache *c = conn->cache;
	int r = cache_catch_up(c);

	if (r || sqlite3_get_autocommit(conn->db))
		return r;
	if (more || redo_pending(c->redo))
		r = redo_mark(c->redo, conn, more);
	if (!r)
		r = conn_run_literal(conn, "COMMIT");
	if (r) {
		abandon_group(conn);
		return r;
	}
	redo_reset(c->redo, more);
	c->group_journalled = false;
	atomic_store(&c->grouped, false);
	return 0;
}

/* Everybody else who wants to read waits for this, so it does not fail as long as the reserve has
 * something to give. */
static int commit_group(struct conn *conn)
{
	struct cache *c = conn->cache;
	uint64_t held;
	int r;

	do {
		held = atomic_load(&c->reserve_held);
		r = commit_numbered(conn, false);
	} while (r == -ENOSPC && atomic_load(&c->reserve_held) < held);
	return r;
}

int cache_settle(struct cache *c)
{
	int r;

	/* Inside a transaction there is none, and inside an operation one reads on the writer. */
	if (!atomic_load(&c->grouped) || cache_owns_writer(c))
		return 0;
	mutex_lock(&c->writer_lock);
	r = commit_group(c->writer);
	mutex_unlock(&c->writer_lock);
	return r;
}

int redo_recover(struct cache *c)
{
	int r;

	r = redo_open(c->writer, c->dir_fd, &c->redo);
	if (r)
		return r;
	mutex_lock(&c->writer_lock);
	c->redoing = true;
	r = commit_group(c->writer);
	mutex_unlock(&c->writer_lock);
	return r;
}

static void enter(struct conn *conn)
{
	atomic_store(&conn->cache->writer_owner, pthread_self());
	conn->in_transaction = true;
	thread_hold(true);
}

int cache_begin(struct cache *c, struct conn **ret)
{
	struct conn *conn;
	int r;

	mutex_lock(&c->writer_lock);
	conn = c->writer;
	r = atomic_load(&c->grouped) ? commit_group(conn) : 0;
	if (!r)
		r = conn_run_literal(conn, "BEGIN IMMEDIATE");
	if (r) {
		mutex_unlock(&c->writer_lock);
		return r;
	}
	enter(conn);
	*ret = conn;
	return 0;
}

int cache_begin_op(struct cache *c, struct conn **ret)
{
	struct conn *conn;
	int r;

	if (!c->redo)
		return cache_begin(c, ret);
	mutex_lock(&c->writer_lock);
	conn = c->writer;
	r = redo_full(c->redo) ? commit_group(conn) : 0;
	if (!r)
		r = begin_group(conn);
	if (r) {
		mutex_unlock(&c->writer_lock);
		return r;
	}
	atomic_store(&c->grouped, true);
	enter(conn);
	conn->op = true;
	redo_begin(c->redo);
	conn_note_into(c->redo);
	*ret = conn;
	return 0;
}

int cache_begin_lazy(struct cache *c, struct conn **ret)
{
	int r = cache_begin(c, ret);

	if (!r)
		(*ret)->lazy = true;
	return r;
}

static struct note *take_notes(struct conn *conn)
{
	struct note *n = conn->notes;

	conn->notes = NULL;
	conn->notes_end = &conn->notes;
	return n;
}

/* Ends the transaction's bookkeeping and releases the lock. */
static void leave(struct conn *conn)
{
	struct cache *c = conn->cache;

	conn->journalled = conn->lazy = conn->op = conn->uncertain = false;
	conn_note_into(NULL);
	conn->account = (struct totals){0};
	conn->ceiling = conn->longest_key = 0;
	conn->ino_next = conn->ino_limit = 0;
	conn->journal_added = 0;
	conn->in_transaction = false;
	conn->found.ino = 0;
	tally_clear(conn->tally);
	shown_clear(conn->shown);
	atomic_store(&c->writer_owner, (pthread_t)0);
	mutex_unlock(&c->writer_lock);
	thread_hold(false);
}

/* A commit that failed may have happened all the same, and its number with it. */
static void suspect_log(struct cache *c)
{
	c->redoing = true;
	atomic_store(&c->grouped, true);
}

void cache_rollback(struct conn *conn)
{
	struct note *notes = take_notes(conn);

	CHECK(conn_writable(conn));
	/* An operation that changed nothing leaves the group as it is. */
	if (!conn->op || redo_noted(conn->cache->redo))
		abandon_group(conn);
	else
		conn_reset_all(conn);
	if (conn->op)
		redo_cancel(conn->cache->redo);
	else if (conn->uncertain)
		suspect_log(conn->cache);
	leave(conn);
	notes_free(notes);
}

static void publish(struct conn *conn)
{
	struct cache *c = conn->cache;

	sweep_publish(conn);
	pressure_publish(conn);
	if (conn->ceiling)
		atomic_store(&c->hlc_ceiling, conn->ceiling);
	if (conn->longest_key)
		atomic_store(&c->longest_key, conn->longest_key);
	if (conn->ino_limit) {
		mutex_lock(&c->ino_lock);
		/* The block before it is used up, or nearly: what is left of it is not worth a
		 * list. */
		c->ino_next = conn->ino_next;
		c->ino_limit = conn->ino_limit;
		mutex_unlock(&c->ino_lock);
	}
}

static void deliver(struct cache *c, struct note *n)
{
	cache_invalidate_fn fn;
	void *ctx;

	mutex_lock(&c->hook_lock);
	fn = c->invalidate;
	ctx = c->invalidate_ctx;
	mutex_unlock(&c->hook_lock);
	for (; n; n = n->next) {
		if (n->remove_ino)
			removals_add(c, n->remove_ino, n->replaced_by);
		else if (n->sealed.ino)
			snapshot_sealed(c, &n->sealed);
		else if (fn)
			fn(ctx, &n->invalidation);
	}
}

static int end_op(struct conn *conn)
{
	struct redo *redo = conn->cache->redo;

	if (!redo_noted(redo))
		return 0;
	/* A failure that ended the transaction must not have been passed over. */
	if (sqlite3_get_autocommit(conn->db))
		return -EIO;
	if (!redo_too_large(redo))
		return redo_end(redo);
	conn_note_into(NULL);
	redo_cancel(redo);
	return commit_numbered(conn, true);
}

/* Not an operation's: its number tells the log's records of later operations from those before. */
static int end_transaction(struct conn *conn)
{
	struct redo *redo = conn->cache->redo;
	int r = redo ? redo_mark(redo, conn, true) : 0;

	if (r)
		return r;
	r = conn_run_literal(conn, "COMMIT");
	if (!redo)
		return r;
	if (r)
		conn->uncertain = true;
	else
		redo_reset(redo, true);
	return r;
}

int cache_commit(struct conn *conn)
{
	struct cache *c = conn->cache;
	struct note *notes;
	bool journalled;
	int r;

	CHECK(conn_writable(conn));
	r = project_settle(conn);
	if (!r)
		r = tally_flush(conn);
	if (!r)
		r = conn->op ? end_op(conn) : end_transaction(conn);
	if (r) {
		cache_rollback(conn);
		return r;
	}
	if (!conn->lazy)
		atomic_fetch_add(&c->commits, 1);
	publish(conn);
	notes = take_notes(conn);
	/* One wakes the sealer for the whole group. */
	journalled = conn->journalled && !(conn->op && c->group_journalled);
	if (conn->op && atomic_load(&c->grouped))
		c->group_journalled |= conn->journalled;
	leave(conn);
	if (notes) {
		deliver(c, notes);
		notes_free(notes);
	}
	if (journalled)
		journal_kick(c);
	return 0;
}

static struct note *note_new(struct conn *conn)
{
	struct note *n = calloc(1, sizeof(*n));

	CHECK(conn_writable(conn));
	CHECK(n);
	*conn->notes_end = n;
	conn->notes_end = &n->next;
	return n;
}

void conn_invalidate(struct conn *conn, const struct invalidation *i)
{
	struct note *n = note_new(conn);

	n->invalidation = *i;
	if (i->name) {
		n->name = strdup(i->name);
		CHECK(n->name);
		n->invalidation.name = n->name;
	}
}

void conn_remove_content(struct conn *conn, uint64_t ino)
{
	note_new(conn)->remove_ino = ino;
}

void conn_sealed(struct conn *conn, const struct content_version *v)
{
	note_new(conn)->sealed = *v;
}

void conn_replaced_by(struct conn *conn, uint64_t ino)
{
	for (struct note *n = conn->notes; n; n = n->next) {
		if (n->remove_ino)
			n->replaced_by = ino;
	}
}
