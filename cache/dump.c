/*
 * What checkpoints need of the database: scans of whole tables for who writes one, and a row a region
 * (checkpoint_mark) for what is known of the newest one and of one that is being loaded.
 *
 * A scan is one statement on a read connection, so it sees one state and holds nobody up; the log of
 * the database grows meanwhile by what is changed.
 */
#include "cache/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "cache/internal.h"
#include "cache/progress.h"
#include "cache/replication.h"

static int dump_row(sqlite3_stmt *s, dump_entry_fn fn, void *ctx)
{
	CLEANUP(entry_done) struct entry e = {0};
	int r = entry_decode(column_slice(s, 1), &e);

	return r ? r : fn(ctx, column_slice(s, 0), &e);
}

static int dump_rows(struct conn *conn, sqlite3_stmt *s, dump_entry_fn fn, void *ctx)
{
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		r = dump_row(s, fn, ctx);
		if (r) {
			sqlite3_reset(s);
			break;
		}
	}
	return r;
}

int dump_entries(struct conn *conn, dump_entry_fn fn, void *ctx)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT key, record FROM entry ORDER BY key");

	return s ? dump_rows(conn, s, fn, ctx) : conn_error(conn);
}

int dump_entries_after(struct conn *conn, struct slice after, dump_entry_fn fn, void *ctx)
{
	sqlite3_stmt *s =
		conn_statement(conn, "SELECT key, record FROM entry WHERE key > ?1 ORDER BY key");

	if (!s)
		return conn_error(conn);
	bind_slice(s, 1, after);
	return dump_rows(conn, s, fn, ctx);
}

int dump_held(struct conn *conn, dump_held_fn fn, void *ctx)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT record FROM held ORDER BY id");
	int r;

	while ((r = conn_row(conn, s)) == 1) {
		struct slice record = column_slice(s, 0);

		r = fn(ctx, record.p, record.len);
		if (r) {
			sqlite3_reset(s);
			break;
		}
	}
	return r;
}

int dump_segments(struct conn *conn, unsigned region, dump_segment_fn fn, void *ctx)
{
	uint64_t node = cache_node(conn_cache(conn)), seq = 0;
	char own_name[SEGMENT_NAME_SIZE];
	struct region_progress own;
	sqlite3_stmt *s;
	int r = region_progress_get(conn, region, &own);

	/* Of its own ones some may be missing here (replicator/own_log.h). */
	if (!r)
		r = watermark_get(conn, region, node, &seq, own_name);
	if (!r && own_name[0] && seq < own.sent_seq)
		r = seq ? fn(ctx, node, seq, own_name) : 0;
	else if (!r && own.sent_seq)
		r = fn(ctx, node, own.sent_seq, own.sent_name);
	if (r)
		return r;
	s = conn_statement(conn, "SELECT node, seq, name FROM segment_seen WHERE region = ?1"
				 " AND node <> ?2");
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)node);
	while ((r = conn_row(conn, s)) == 1) {
		const char *name = (const char *)sqlite3_column_text(s, 2);

		r = fn(ctx, (uint64_t)sqlite3_column_int64(s, 0),
			(uint64_t)sqlite3_column_int64(s, 1), name ? name : "");
		if (r) {
			sqlite3_reset(s);
			break;
		}
	}
	return r;
}

int dump_segment_count(struct conn *conn, unsigned region, uint64_t *ret)
{
	struct region_progress own;
	sqlite3_stmt *s;
	int r = region_progress_get(conn, region, &own);

	if (r)
		return r;
	s = conn_statement(conn, "SELECT coalesce(sum(seq), 0) FROM segment_seen WHERE region = ?1"
				 " AND node <> ?2");
	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)cache_node(conn_cache(conn)));
	r = conn_row(conn, s);
	if (r <= 0)
		return r ? r : -EIO;
	*ret = own.sent_seq + (uint64_t)sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

int checkpoint_mark_get(struct conn *conn, unsigned region, struct checkpoint_mark *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT ms, node, segments, loading_ms, loading_node, loaded FROM checkpoint_mark"
		" WHERE region = ?1");
	int r;

	bind_int(s, 1, region);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = (struct checkpoint_mark){0};
	if (r == 0)
		return 0;
	*ret = (struct checkpoint_mark){
		.ms = (uint64_t)sqlite3_column_int64(s, 0),
		.node = (uint64_t)sqlite3_column_int64(s, 1),
		.segments = (uint64_t)sqlite3_column_int64(s, 2),
		.loading_ms = (uint64_t)sqlite3_column_int64(s, 3),
		.loading_node = (uint64_t)sqlite3_column_int64(s, 4),
		.loaded = (uint64_t)sqlite3_column_int64(s, 5),
	};
	sqlite3_reset(s);
	return 0;
}

int checkpoint_mark_set(struct conn *conn, unsigned region, const struct checkpoint_mark *mark)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT OR REPLACE INTO checkpoint_mark(region, ms, node, segments, loading_ms,"
		" loading_node, loaded) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)");

	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)mark->ms);
	bind_int(s, 3, (int64_t)mark->node);
	bind_int(s, 4, (int64_t)mark->segments);
	bind_int(s, 5, (int64_t)mark->loading_ms);
	bind_int(s, 6, (int64_t)mark->loading_node);
	bind_int(s, 7, (int64_t)mark->loaded);
	return conn_run(conn, s);
}

static int forget_progress(struct conn *conn, unsigned region)
{
	sqlite3_stmt *s = conn_statement(
		conn, "DELETE FROM segment_seen WHERE region = ?1 AND node <> ?2");

	if (!s)
		return conn_error(conn);
	bind_int(s, 1, region);
	bind_int(s, 2, (int64_t)cache_node(conn_cache(conn)));
	int r = conn_run(conn, s);
	if (r)
		return r;
	s = conn_statement(conn, "DELETE FROM cursor WHERE region = ?1");
	bind_int(s, 1, region);
	return conn_run(conn, s);
}

int region_read_begin(struct conn *conn, unsigned region, bool *began)
{
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT OR IGNORE INTO region_read(region) VALUES(?1)");

	bind_int(s, 1, region);
	int r = conn_run(conn, s);
	if (r)
		return r;
	*began = sqlite3_changes(conn->db) == 1;
	return *began ? forget_progress(conn, region) : 0;
}

int words_mark_get(struct conn *conn, uint64_t node, struct words_mark *ret)
{
	sqlite3_stmt *s = conn_statement(conn, "SELECT seq, at_ms FROM last_words WHERE node = ?1");
	int r;

	bind_int(s, 1, (int64_t)node);
	r = conn_row(conn, s);
	if (r < 0)
		return r;
	*ret = (struct words_mark){0};
	if (r == 0)
		return 0;
	ret->seq = (uint64_t)sqlite3_column_int64(s, 0);
	ret->at_ms = sqlite3_column_int64(s, 1);
	sqlite3_reset(s);
	return 0;
}

int words_mark_set(struct conn *conn, uint64_t node, const struct words_mark *mark)
{
	sqlite3_stmt *s = conn_statement(
		conn, "INSERT OR REPLACE INTO last_words(node, seq, at_ms) VALUES(?1, ?2, ?3)");

	bind_int(s, 1, (int64_t)node);
	bind_int(s, 2, (int64_t)mark->seq);
	bind_int(s, 3, mark->at_ms);
	return conn_run(conn, s);
}

int cache_spool(struct cache *c)
{
	int fd = openat(c->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char name[64];

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd >= 0 ? fd : -errno;
	snprintf(name, sizeof(name), "spool-%ld", (long)getpid());
	fd = openat(c->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	(void)unlinkat(c->dir_fd, name, 0);
	return fd;
}
