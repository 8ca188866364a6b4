/*
 * Conflicts: versions that lost, for the operator and for whoever wants one back.
 *
 * A loser that arrives again, from another region, is the same conflict, unless an inode here holds its
 * content. Rows with the reason CONFLICT_HIDDEN are the projection's (hidden.h): neither counted nor
 * shown here.
 */
#include <errno.h>

#include "cache/conflict.h"
#include "cache/internal.h"
#include "cache/replication.h"
#include "src/base/clock.h"

int conflict_add(struct conn *conn, struct slice key, const struct entry *loser,
	const struct entry *winner, uint64_t ino, const char *reason)
{
	CLEANUP(buf_done) struct buf lost = {0};
	CLEANUP(buf_done) struct buf won = {0};
	sqlite3_stmt *s;
	int r;

	entry_encode(loser, &lost);
	entry_encode(winner, &won);
	if (lost.failed || won.failed)
		return -ENOMEM;
	/* A loser that arrives again, from another region, is the same conflict. */
	s = conn_statement(conn, "INSERT INTO conflict(key, loser, winner, ino, at_ms, reason)"
				 " SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?4 <> 0 OR NOT EXISTS("
				 "SELECT 1 FROM conflict INDEXED BY conflict_key WHERE key = ?1"
				 " AND loser = ?2 AND reason <> 'hidden')");
	bind_slice(s, 1, key);
	bind_slice(s, 2, (struct slice){(const char *)lost.data, lost.len});
	bind_slice(s, 3, (struct slice){(const char *)won.data, won.len});
	bind_int(s, 4, (int64_t)ino);
	bind_int(s, 5, clock_realtime_ms());
	sqlite3_bind_text(s, 6, reason, (int)strnlen(reason, REASON_MAX), SQLITE_STATIC);
	r = conn_run(conn, s);
	if (r || strcmp(reason, CONFLICT_HIDDEN) == 0 || sqlite3_changes(sqlite3_db_handle(s)) == 0)
		return r;
	return counter_add(conn, COUNTER_CONFLICT, 1, NULL);
}

int conflict_count(struct conn *conn, uint64_t *ret)
{
	return counter_get(conn, COUNTER_CONFLICT, ret);
}

struct conflict {
	uint64_t id;
	uint64_t ino;
	int64_t at_ms;
	struct key key;
	struct entry loser;
	char reason[REASON_MAX + 1];
};

static void conflict_done(struct conflict *c)
{
	entry_done(&c->loser);
}

/* The first conflict after id: 1, 0 or -errno. */
static int next_conflict(struct conn *conn, uint64_t after_id, struct conflict *ret)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT id, key, loser, ino, at_ms, reason FROM conflict"
				     " WHERE id > ?1 AND reason <> 'hidden' ORDER BY id LIMIT 1");
	int r;

	bind_int(s, 1, after_id > INT64_MAX ? INT64_MAX : (int64_t)after_id);
	r = conn_row(conn, s);
	if (r <= 0)
		return r;
	ret->id = (uint64_t)sqlite3_column_int64(s, 0);
	ret->ino = (uint64_t)sqlite3_column_int64(s, 3);
	ret->at_ms = sqlite3_column_int64(s, 4);
	if (!key_set(&ret->key, column_slice(s, 1)) ||
		!column_copy(s, 5, ret->reason, sizeof(ret->reason)))
		r = -EIO;
	else
		r = entry_decode(column_slice(s, 2), &ret->loser);
	sqlite3_reset(s);
	return r ? r : 1;
}

int conflict_scan(struct conn *conn, uint64_t after_id, unsigned limit, conflict_fn fn, void *ctx)
{
	for (unsigned i = 0; i < limit; i++) {
		CLEANUP(conflict_done) struct conflict c = {0};
		int r = next_conflict(conn, after_id, &c);

		if (r <= 0)
			return r;
		after_id = c.id;
		r = fn(ctx, c.id, key_slice(&c.key), &c.loser, c.ino, c.at_ms, c.reason);
		if (r)
			return r;
	}
	return 0;
}

/* Takes the loser at hand if it is a file and newer than ret. */
static int take_newer(sqlite3_stmt *s, const struct entry *over, struct entry *ret)
{
	CLEANUP(entry_done) struct entry by = {0};
	struct entry e;
	int r = entry_decode(column_slice(s, 1), &by);

	if (r || (over && stamp_cmp(by.content_stamp, over->content_stamp)))
		return r;
	r = entry_decode(column_slice(s, 0), &e);
	if (r)
		return r;
	if (e.kind != KIND_FILE || stamp_cmp(e.content_stamp, ret->content_stamp) <= 0 ||
		(over && vector_get(&over->vector, e.content_stamp.node) >= e.content_stamp.time)) {
		entry_done(&e);
		return 0;
	}
	entry_done(ret);
	*ret = e;
	return 0;
}

int conflict_newest(
	struct conn *conn, struct slice key, const struct entry *over, struct entry *loser)
{
	struct entry newest = {0};
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT loser, winner FROM conflict INDEXED BY conflict_key WHERE key = ?1");
	int r;

	bind_slice(s, 1, key);
	while ((r = conn_row(conn, s)) == 1) {
		r = take_newer(s, over, &newest);
		if (r) {
			sqlite3_reset(s);
			break;
		}
	}
	if (!r && newest.kind != KIND_FILE)
		r = -ENOENT;
	if (r) {
		entry_done(&newest);
		return r;
	}
	*loser = newest;
	return 0;
}
