/*
 * Which content goes, and how (evict.h).
 *
 * Against an open. The inode's record is locked over the transaction that makes the row say "not
 * here". An open takes the record, then its lock, and then reads the row: so either the eviction finds
 * the record in use and leaves the content alone, or the open finds a row whose content has to be
 * fetched.
 *
 * Against a power cut. The row first, then a flush of the log, then the file. Where it gets lost
 * in between, the row still has its content, or a file has no row that counts on it, which sweep.c removes.
 *
 * Against a fetch. Between the row and the file's end the content may have been fetched again, under
 * the same name. Content is installed inside a transaction, so files are unlinked inside one, too,
 * after a look at the row. They are held open meanwhile: the file system frees the blocks of a large
 * file at the close, when nobody waits for the writer.
 *
 * Lock: c->pass is of the one thread that calls evict_step.
 */
#include "cache/evict.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>

#include "cache/entry.h"
#include "cache/outbox.h"
#include "cache/partial.h"
#include "cache/record.h"
#include "cache/resync.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"

#define PAUSE_FIRST_MS 1000
#define PAUSE_MAX_MS 30000

/* The content that is to go. */
struct subject {
	struct conn *conn;
	struct inode_row row;
	struct key key; /* its first name */
	bool foreign;	/* another server wrote it */
	enum evict_result result;
};

const char *evict_text(enum evict_result result)
{
	static const char *const texts[] = {
		[EVICT_DONE] = "evicted",
		[EVICT_ABSENT] = "not here, or empty",
		[EVICT_KIND] = "not a regular file",
		[EVICT_OPEN] = "open, mapped or being sent",
		[EVICT_DIRTY] = "changed here and not sealed yet",
		[EVICT_UNPUSHED] = "not in every region yet",
		[EVICT_UNPROVEN] = "written by another server, and not found in a region now",
	};

	return texts[result];
}

int evict_load(struct cache *c, struct conn *conn)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT used FROM inode INDEXED BY inode_used"
					       " WHERE state = 1 ORDER BY used DESC LIMIT 1");
	int r = s ? conn_row(conn, s) : conn_error(conn);

	if (r < 0)
		return r;
	atomic_store(&c->tick, (r ? (uint64_t)sqlite3_column_int64(s, 0) : 0) + 1);
	if (r)
		sqlite3_reset(s);
	return 0;
}

/* ---- what may go ---- */

/* The map says of this name what the inode says. */
static int check_entry(struct subject *s, struct slice key)
{
	CLEANUP(entry_done) struct entry e = {0};
	int r = entry_get(s->conn, key, &e);

	if (r && r != -ENOENT)
		return r;
	if (r || e.kind != KIND_FILE || e.size != s->row.size ||
		memcmp(e.hash, s->row.hash, SHA256_SIZE) != 0)
		s->result = EVICT_DIRTY;
	s->foreign |= !r && e.content_stamp.node != s->conn->cache->node;
	return 0;
}

/* Stops at the first name for which it may not go. */
static int check_name(void *ctx, struct slice key)
{
	struct subject *s = ctx;
	uint64_t waiting = 0;
	bool pending = false, due = false;
	int r;

	if (s->key.len == 0 && !key_set(&s->key, key))
		return -ENAMETOOLONG;
	r = journal_pending(s->conn, key, &pending);
	if (!r && pending)
		s->result = EVICT_DIRTY;
	if (!r && !s->result)
		r = check_entry(s, key);
	if (!r && !s->result)
		r = outbox_waiting(s->conn, key, &waiting);
	if (!r && !s->result)
		r = touched_is_due(s->conn, key, &due);
	waiting &= ~regions_optional(s->conn->cache);
	if (!r && !s->result && (waiting || due))
		s->result = EVICT_UNPUSHED;
	return r ? r : s->result != EVICT_DONE;
}

static int is_seeding(struct conn *conn, bool *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT count(*) FROM region WHERE optional = 0"
					       " AND (seed_after IS NOT NULL OR resync <> 0)");
	int r = s ? conn_row(conn, s) : conn_error(conn);

	if (r <= 0)
		return r ? r : -EIO;
	*ret = sqlite3_column_int(s, 0) > 0;
	sqlite3_reset(s);
	return 0;
}

/* A row of the outbox may want content that it finds under another name of the file only (project_link.c), or
 * found under one that it has no more. */
static int check_links(struct subject *s)
{
	struct link_id id = {0};
	uint64_t waiting = 0;
	int r;

	if (!atomic_load(&s->conn->cache->linked))
		return 0;
	r = link_id_get(s->conn, s->row.ino, &id);
	if (!r && id.origin)
		r = outbox_waiting(s->conn, (struct slice){"", 0}, &waiting);
	if (!r && waiting & ~regions_optional(s->conn->cache))
		s->result = EVICT_UNPUSHED;
	return r;
}

static int examine(struct conn *conn, uint64_t ino, struct subject *s)
{
	bool seeding = false;
	int r;

	*s = (struct subject){.conn = conn};
	r = inode_get(conn, ino, &s->row);
	if (r && r != -ENOENT)
		return r;
	if (r || (S_ISREG(s->row.mode) && s->row.state == STATE_REMOTE))
		s->result = EVICT_ABSENT;
	else if (s->row.state != STATE_LOCAL || !s->row.nlink)
		s->result = EVICT_KIND;
	else if (s->row.dirty || !s->row.has_hash || s->row.sealed != s->row.generation)
		s->result = EVICT_DIRTY;
	else if (s->row.size == 0)
		s->result = EVICT_ABSENT; /* there is nothing to gain */
	if (s->result)
		return 0;
	r = is_seeding(conn, &seeding);
	if (!r && seeding)
		s->result = EVICT_UNPUSHED;
	if (!r && !s->result)
		r = check_links(s);
	if (!r && !s->result)
		r = link_each(conn, ino, check_name, s);
	return r < 0 ? r : 0;
}

/* ---- how it goes ---- */

/* With the record's lock. proved: the hash that a region has an object with; NULL: none. */
static int give_up(struct cache *c, uint64_t ino, const uint8_t *proved, struct subject *ret)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	sqlite3_stmt *s;
	int r = cache_begin_op(c, &conn);

	if (!r)
		r = examine(conn, ino, ret);
	if (!r && !ret->result && ret->foreign &&
		(!proved || memcmp(proved, ret->row.hash, SHA256_SIZE) != 0))
		ret->result = EVICT_UNPROVEN;
	if (r || ret->result)
		return r;
	s = conn_statement(conn, "UPDATE inode SET state = 2 WHERE ino = ?1");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, (int64_t)ino);
	conn_account(conn, ino, 0, -1, -(int64_t)ret->row.size);
	r = conn_run(conn, s);
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	return r;
}

static int try_evict(struct cache *c, uint64_t ino, const uint8_t *proved, struct subject *ret)
{
	struct record *rec = record_get(c, ino, false);
	int r = 0;

	if (!rec)
		return -ENOMEM;
	mutex_lock(&rec->lock);
	if (record_is_idle(c, rec))
		r = give_up(c, ino, proved, ret);
	else
		ret->result = EVICT_OPEN;
	mutex_unlock(&rec->lock);
	record_put(c, rec);
	return r;
}

/* Some of it is here. */
static int evict_known(
	struct cache *c, struct evict_batch *b, uint64_t ino, enum evict_result *ret)
{
	uint64_t bytes = 0;

	if (!partial_remove(c, ino, true, &bytes)) {
		*ret = partial_known(c, ino) ? EVICT_OPEN : EVICT_ABSENT;
		return 0;
	}
	metric_add(METRIC_CONTENT_EVICTED, 1);
	b->files++;
	b->bytes += bytes;
	*ret = EVICT_DONE;
	return 0;
}

int evict_content(struct cache *c, struct evict_batch *b, uint64_t ino, enum evict_result *ret)
{
	struct subject s = {0};
	uint8_t hash[SHA256_SIZE];
	int r = try_evict(c, ino, NULL, &s);

	if (!r && s.result == EVICT_UNPROVEN &&
		b->proof(b->ctx, key_slice(&s.key), s.row.hash, s.row.size)) {
		memcpy(hash, s.row.hash, sizeof(hash));
		r = try_evict(c, ino, hash, &s);
	}
	if (r)
		return r;
	*ret = s.result;
	if (s.result == EVICT_ABSENT && partial_known(c, ino))
		return evict_known(c, b, ino, ret);
	if (s.result)
		return 0;
	metric_add(METRIC_CONTENT_EVICTED, 1);
	b->files++;
	b->bytes += s.row.size;
	b->ino[b->count++] = ino;
	return b->count == EVICT_BATCH ? evict_finish(c, b) : 0;
}

static int unlink_all(struct cache *c, const struct evict_batch *b)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	int r = cache_begin(c, &conn);

	for (unsigned i = 0; !r && i < b->count; i++) {
		bool owned = false;

		r = sweep_owned(conn, b->ino[i], &owned);
		if (!r && !owned)
			content_remove(c, b->ino[i]);
	}
	return r;
}

int evict_finish(struct cache *c, struct evict_batch *b)
{
	int fd[EVICT_BATCH], r;

	if (b->count == 0)
		return 0;
	/* A full disk is to be helped all the same: content that is missed is fetched. */
	if (cache_sync(c))
		log_debug("content evicted before the log was flushed");
	for (unsigned i = 0; i < b->count; i++)
		fd[i] = content_file(c, b->ino[i], O_RDONLY);
	r = unlink_all(c, b);
	for (unsigned i = 0; i < b->count; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	b->count = 0;
	return r;
}

/* ---- when the cache is over a limit ---- */

/* How many bytes are to go. */
static uint64_t excess(struct cache *c)
{
	struct cache_usage u = {0};
	struct partial_usage p;
	uint64_t over = 0, wanted = c->min_free, available;
	struct statvfs v;

	sweep_usage(c, &u);
	partial_usage(c, &p);
	u.content_bytes += p.bytes;
	if (c->cache_size && u.content_bytes > c->cache_size)
		over = u.content_bytes - c->cache_size;
	if ((!c->min_free && !c->min_free_percent) || fstatvfs(c->content_fd, &v) != 0)
		return over;
	if (c->min_free_percent)
		wanted = (uint64_t)v.f_blocks * v.f_frsize / 100 * c->min_free_percent;
	available = (uint64_t)v.f_bavail * v.f_frsize;
	return wanted > available && wanted - available > over ? wanted - available : over;
}

bool evict_is_over(struct cache *c)
{
	return excess(c) > 0;
}

static int begin_pass(struct cache *c)
{
	c->pass.fruitful = false;
	c->pass.tick = atomic_fetch_add(&c->tick, 1) + 1;
	/* What was read until now is not the least recently used. */
	return atimes_flush(c, true);
}

/* Nothing is left to look at. */
static void end_pass(struct cache *c)
{
	int64_t pause = c->pass.pause_ms * 2;

	c->pass.tick = 0;
	if (c->pass.fruitful)
		pause = 0;
	else if (pause == 0)
		pause = PAUSE_FIRST_MS;
	c->pass.pause_ms = pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
	c->pass.next_ms = clock_monotonic_ms() + c->pass.pause_ms;
}

/* used: when the first of them was. */
static int oldest(struct cache *c, uint64_t ino[EVICT_BATCH], unsigned *count, uint64_t *used)
{
	struct conn *conn AUTO_READ_END = NULL;
	sqlite3_stmt *s;
	int r = cache_read_begin(c, &conn);

	*count = 0;
	if (r)
		return r;
	s = conn_statement(conn, "SELECT ino, used FROM inode INDEXED BY inode_used"
				 " WHERE state = 1 AND used < ?1 ORDER BY used LIMIT ?2");
	bind_int(s, 1, (int64_t)c->pass.tick);
	bind_int(s, 2, EVICT_BATCH);
	while ((r = conn_row(conn, s)) > 0) {
		if (*count == 0)
			*used = (uint64_t)sqlite3_column_int64(s, 1);
		ino[(*count)++] = (uint64_t)sqlite3_column_int64(s, 0);
	}
	return r;
}

/* These count as used now. */
static int put_back(struct cache *c, const uint64_t *ino, unsigned count)
{
	struct conn *conn AUTO_ROLLBACK = NULL;
	int r;

	if (count == 0)
		return 0;
	r = cache_begin_lazy(c, &conn);
	for (unsigned i = 0; !r && i < count; i++) {
		sqlite3_stmt *s = conn_statement(
			conn, "UPDATE inode SET used = ?2 WHERE ino = ?1 AND used < ?2");

		bind_int(s, 1, (int64_t)ino[i]);
		bind_int(s, 2, (int64_t)c->pass.tick);
		r = conn_run(conn, s);
	}
	if (!r) {
		r = cache_commit(conn);
		conn = NULL;
	}
	return r;
}

/* What is here in part only needs no proof: nobody counts on it. */
static uint64_t evict_partial(struct cache *c, uint64_t before, uint64_t over)
{
	uint64_t freed = 0, bytes;

	for (unsigned i = 0; i < EVICT_BATCH && freed < over && partial_evict(c, before, &bytes); i++) {
		freed += bytes;
		metric_add(METRIC_CONTENT_EVICTED, 1);
	}
	return freed;
}

int evict_step(struct cache *c, evict_proof_fn proof, void *ctx, bool *more)
{
	struct evict_batch b = {.proof = proof, .ctx = ctx};
	uint64_t ino[EVICT_BATCH], over = excess(c), used = UINT64_MAX, freed;
	unsigned count = 0, stays = 0;
	int r = 0, failed;

	*more = false;
	if (over == 0 || (!c->pass.tick && clock_monotonic_ms() < c->pass.next_ms)) {
		c->pass.tick = 0;
		return 0;
	}
	if (!c->pass.tick)
		r = begin_pass(c);
	if (!r)
		r = oldest(c, ino, &count, &used);
	if (r)
		return r;
	freed = evict_partial(c, used, over);
	c->pass.fruitful |= freed > 0;
	over -= freed < over ? freed : over;
	for (unsigned i = 0; !r && i < count && b.bytes < over; i++) {
		enum evict_result result = EVICT_DONE;

		r = evict_content(c, &b, ino[i], &result);
		/* What fails stands in nobody's way, either. */
		if (r || result != EVICT_DONE)
			ino[stays++] = ino[i];
	}
	c->pass.fruitful |= b.files > 0;
	failed = evict_finish(c, &b);
	r = r ? r : failed;
	failed = put_back(c, ino, stays);
	r = r ? r : failed;
	if (count < EVICT_BATCH && b.bytes < over)
		end_pass(c);
	*more = !r && c->pass.tick != 0;
	return r;
}
