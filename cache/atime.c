/*
 * Access times by the rule of relatime(mount(8)): a read makes a difference only when the access
 * time is not later than mtime and ctime, or a day old; so most reads cost a look at the row and
 * nothing else.
 *
 * The last use of content (evict.h) is remembered the same way: in ticks, so that content which is used
 * all the time costs a write a tick.
 *
 * What changed waits in a table of at most ATIMES_MAX inodes, whose lock is a leaf, and is written
 * in one transaction a minute, or as soon as the table is half full. Access times are this server's
 * own: they make no journal row. A crash loses those in the table; of more reads at once than it
 * holds some leave no trace.
 */
#include <errno.h>

#include "cache/internal.h"
#include "src/base/clock.h"

#define ATIMES_MAX 8192
#define BUCKETS 2048
#define OLD_MS 60000
#define TICK_MS 600000
#define DAY_NS (INT64_C(86400) * 1000000000)

struct atime {
	struct atime *next;
	uint64_t ino;
	int64_t atime_ns; /* 0: unchanged */
	uint64_t used;	  /* likewise */
};

struct atimes {
	struct mutex lock;
	_Atomic unsigned count; /* written under lock; read without it to skip an empty table */
	int64_t since_ms;	/* when the oldest came */
	int64_t tick_ms; /* when the last tick that time makes began; the flushing thread's */
	struct atime *buckets[BUCKETS];
};

struct atimes *atimes_new(void)
{
	struct atimes *t = calloc(1, sizeof(*t));

	if (t)
		mutex_init(&t->lock, LOCK_RANK_LEAF);
	return t;
}

void atimes_free(struct atimes *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < BUCKETS; i++) {
		for (struct atime *a = t->buckets[i]; a;) {
			struct atime *next = a->next;

			free(a);
			a = next;
		}
	}
	mutex_done(&t->lock);
	free(t);
}

static struct atime **find(struct atimes *t, uint64_t ino)
{
	struct atime **at = &t->buckets[ino % BUCKETS];

	while (*at && (*at)->ino != ino)
		at = &(*at)->next;
	return at;
}

static void put(struct atimes *t, uint64_t ino, int64_t atime_ns, uint64_t used)
{
	struct atime **at, *a;

	mutex_lock(&t->lock);
	at = find(t, ino);
	a = *at;
	if (!a && atomic_load(&t->count) < ATIMES_MAX && (a = calloc(1, sizeof(*a)))) {
		*at = a;
		a->ino = ino;
		if (atomic_fetch_add(&t->count, 1) == 0)
			t->since_ms = clock_monotonic_ms();
	}
	if (a && atime_ns)
		a->atime_ns = atime_ns;
	if (a && used)
		a->used = used;
	mutex_unlock(&t->lock);
}

void content_used(struct cache *c, uint64_t ino, uint64_t row_used)
{
	uint64_t tick = atomic_load(&c->tick);

	if (row_used < tick)
		put(c->atimes, ino, 0, tick);
}

void atimes_apply(struct cache *c, struct inode *inode)
{
	struct atimes *t = c->atimes;
	struct atime *a;

	if (atomic_load(&t->count) == 0)
		return;
	mutex_lock(&t->lock);
	a = *find(t, inode->ino);
	if (a && a->atime_ns)
		inode->atime_ns = a->atime_ns;
	mutex_unlock(&t->lock);
}

/* What was written; what came since stays. */
static void forget(struct atimes *t, const struct atime *written)
{
	struct atime **at, *a;

	mutex_lock(&t->lock);
	at = find(t, written->ino);
	a = *at;
	if (a && a->atime_ns == written->atime_ns)
		a->atime_ns = 0;
	if (a && a->used == written->used)
		a->used = 0;
	if (a && !a->atime_ns && !a->used) {
		*at = a->next;
		atomic_fetch_sub(&t->count, 1);
	} else {
		a = NULL;
	}
	mutex_unlock(&t->lock);
	free(a);
}

void atimes_forget(struct cache *c, uint64_t ino)
{
	struct atimes *t = c->atimes;
	struct atime *a;

	if (atomic_load(&t->count) == 0)
		return;
	mutex_lock(&t->lock);
	a = *find(t, ino);
	if (a)
		a->atime_ns = 0;
	mutex_unlock(&t->lock);
}

void tree_accessed(struct cache *c, uint64_t ino)
{
	int64_t now = clock_realtime_ns();
	struct inode inode;

	if (tree_getattr(c, ino, &inode))
		return;
	if (inode.atime_ns <= inode.mtime_ns || inode.atime_ns <= inode.ctime_ns ||
		now - inode.atime_ns >= DAY_NS)
		put(c->atimes, ino, now, 0);
}

static bool is_due(struct atimes *t, bool all)
{
	bool due;

	mutex_lock(&t->lock);
	due = all || t->count >= ATIMES_MAX / 2 || clock_monotonic_ms() - t->since_ms >= OLD_MS;
	/* Those that come while these are written wait from now on. */
	if (due)
		t->since_ms = clock_monotonic_ms();
	mutex_unlock(&t->lock);
	return due;
}

static unsigned collect(struct atimes *t, struct atime *ret)
{
	unsigned n = 0;

	mutex_lock(&t->lock);
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct atime *a = t->buckets[i]; a; a = a->next)
			ret[n++] = *a;
	mutex_unlock(&t->lock);
	return n;
}

/* Whether the table still says what was collected: a utimensat may have come in between. */
static bool is_current(struct atimes *t, const struct atime *collected)
{
	const struct atime *a;
	bool current;

	mutex_lock(&t->lock);
	a = *find(t, collected->ino);
	current = a && a->atime_ns == collected->atime_ns;
	mutex_unlock(&t->lock);
	return current;
}

static int write_one(struct conn *conn, const struct atime *a)
{
	sqlite3_stmt *s;

	if (!a->atime_ns || !is_current(conn->cache->atimes, a))
		return 0;
	s = conn_statement(conn, "UPDATE inode SET atime_ns = ?2 WHERE ino = ?1");
	bind_int(s, 1, (int64_t)a->ino);
	bind_int(s, 2, a->atime_ns);
	return conn_run(conn, s);
}

static int write_used(struct conn *conn, const struct atime *a)
{
	sqlite3_stmt *s;

	if (!a->used)
		return 0;
	s = conn_statement(conn, "UPDATE inode SET used = ?2 WHERE ino = ?1 AND used < ?2");
	bind_int(s, 1, (int64_t)a->ino);
	bind_int(s, 2, (int64_t)a->used);
	return conn_run(conn, s);
}

/* So that content that is used all the time is not written down each minute. */
static void tick(struct cache *c)
{
	int64_t now = clock_monotonic_ms();

	if (now - c->atimes->tick_ms < TICK_MS)
		return;
	c->atimes->tick_ms = now;
	atomic_fetch_add(&c->tick, 1);
}

int atimes_flush(struct cache *c, bool all)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	struct atime *due AUTO_FREE = NULL;
	unsigned n;
	int r;

	if (atomic_load(&c->atimes->count) == 0 || !is_due(c->atimes, all))
		return 0;
	due = calloc(ATIMES_MAX, sizeof(*due));
	if (!due)
		return -ENOMEM;
	n = collect(c->atimes, due);
	r = cache_begin(c, &conn);
	for (unsigned i = 0; !r && i < n; i++)
		r = write_one(conn, &due[i]);
	for (unsigned i = 0; !r && i < n; i++)
		r = write_used(conn, &due[i]);
	if (r)
		return r;
	r = cache_commit(conn);
	conn = NULL;
	for (unsigned i = 0; !r && i < n; i++)
		forget(c->atimes, &due[i]);
	if (!r)
		tick(c);
	return r;
}
