/*
 * Tables upload and upload_part. A record is made before the store is asked for an upload and gets
 * its id after that, so a crash in between leaves a record without an id: then the bucket may have
 * an upload of that key that nothing else knows. Losing the last commits to a power cut costs no more
 * than parts that are sent again.
 */
#include "cache/upload_record.h"

#include <errno.h>
#include <string.h>

#include "cache/db.h"
#include "cache/replication.h"

#define COLUMNS "u.number, u.version, u.size, u.part_size, u.id"

static bool column_string(sqlite3_stmt *s, int column, char *to, size_t size)
{
	struct slice v = column_slice(s, column);

	if (v.len >= size)
		return false;
	memcpy(to, v.p, v.len);
	to[v.len] = '\0';
	return true;
}

static bool column_hash(sqlite3_stmt *s, int column, uint8_t hash[SHA256_SIZE])
{
	struct slice v = column_slice(s, column);

	if (v.len != SHA256_SIZE)
		return false;
	memcpy(hash, v.p, SHA256_SIZE);
	return true;
}

static bool column_record(sqlite3_stmt *s, struct upload_record *ret)
{
	ret->number = sqlite3_column_int64(s, 0);
	ret->size = (uint64_t)sqlite3_column_int64(s, 2);
	ret->part_size = (uint64_t)sqlite3_column_int64(s, 3);
	return column_hash(s, 1, ret->version) && column_string(s, 4, ret->id, sizeof(ret->id));
}

int upload_record_get(
	struct conn *conn, unsigned region, struct slice key, struct upload_record *ret)
{
	sqlite3_stmt *s = conn_statement(
		conn, "SELECT " COLUMNS " FROM upload u WHERE u.region = ?1 AND u.key = ?2");
	struct upload_record record;

	bind_int(s, 1, region);
	bind_slice(s, 2, key);
	int r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	bool good = column_record(s, &record);
	sqlite3_reset(s);
	if (good)
		*ret = record;
	return good ? 0 : -EIO;
}

int upload_record_add(
	struct conn *conn, unsigned region, struct slice key, struct upload_record *record)
{
	struct upload_record old;
	int r = upload_record_get(conn, region, key, &old);

	if (r == 0)
		r = upload_record_remove(conn, old.number);
	if (r < 0 && r != -ENOENT)
		return r;
	sqlite3_stmt *s =
		conn_statement(conn, "INSERT INTO upload(region, key, version, size, part_size, id)"
				     " VALUES(?1, ?2, ?3, ?4, ?5, ?6) RETURNING number");
	bind_int(s, 1, region);
	bind_slice(s, 2, key);
	bind_slice(s, 3, (struct slice){(const char *)record->version, SHA256_SIZE});
	bind_int(s, 4, (int64_t)record->size);
	bind_int(s, 5, (int64_t)record->part_size);
	bind_slice(s, 6, slice_of(record->id));
	r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -EIO;
	record->number = sqlite3_column_int64(s, 0);
	sqlite3_reset(s);
	return 0;
}

int upload_record_begun(struct conn *conn, int64_t number, const char *id)
{
	sqlite3_stmt *s = conn_statement(conn, "UPDATE upload SET id = ?2 WHERE number = ?1");

	bind_int(s, 1, number);
	bind_slice(s, 2, slice_of(id));
	return conn_run(conn, s);
}

int upload_record_remove(struct conn *conn, int64_t number)
{
	int r = conn_run_int(conn, "DELETE FROM upload_part WHERE upload = ?1", number);

	return r < 0 ? r : conn_run_int(conn, "DELETE FROM upload WHERE number = ?1", number);
}

int upload_record_clear(struct conn *conn, unsigned region)
{
	int r = conn_run_int(conn,
		"DELETE FROM upload_part WHERE upload IN"
		" (SELECT number FROM upload WHERE region = ?1)",
		region);

	return r < 0 ? r : conn_run_int(conn, "DELETE FROM upload WHERE region = ?1", region);
}

int upload_part_add(struct conn *conn, int64_t number, const struct upload_part *part)
{
	sqlite3_stmt *s = conn_statement(conn,
		"INSERT OR REPLACE INTO upload_part(upload, number, size, hash, etag)"
		" SELECT ?1, ?2, ?3, ?4, ?5 FROM upload WHERE number = ?1");

	bind_int(s, 1, number);
	bind_int(s, 2, part->number);
	bind_int(s, 3, (int64_t)part->size);
	bind_slice(s, 4, (struct slice){(const char *)part->hash, SHA256_SIZE});
	bind_slice(s, 5, slice_of(part->etag));
	return conn_run(conn, s);
}

int upload_part_each(struct conn *conn, int64_t number, upload_part_fn fn, void *ctx)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT number, size, hash, etag FROM upload_part WHERE upload = ?1"
		" ORDER BY number");
	int r, end = 0;

	bind_int(s, 1, number);
	while (!end && (r = conn_row(conn, s)) != 0) {
		struct upload_part part;

		if (r < 0)
			return r;
		part.number = (uint32_t)sqlite3_column_int64(s, 0);
		part.size = (uint64_t)sqlite3_column_int64(s, 1);
		if (column_hash(s, 2, part.hash) &&
			column_string(s, 3, part.etag, sizeof(part.etag)))
			end = fn(ctx, &part);
		else
			end = -EIO;
	}
	if (end)
		sqlite3_reset(s);
	return end;
}

int upload_record_next(struct conn *conn, unsigned region, int64_t after, bool orphan,
	struct key *key, struct upload_record *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT " COLUMNS ", u.key FROM upload u WHERE u.region = ?1 AND u.number > ?2"
		" AND (NOT ?3 OR NOT EXISTS"
		" (SELECT 1 FROM outbox o WHERE o.region = u.region AND o.key = u.key))"
		" ORDER BY u.number LIMIT 1");
	struct upload_record record;

	bind_int(s, 1, region);
	bind_int(s, 2, after);
	bind_int(s, 3, orphan);
	int r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	bool good = column_record(s, &record) && key_set(key, column_slice(s, 5));
	sqlite3_reset(s);
	if (good)
		*ret = record;
	return good ? 0 : -EIO;
}

int upload_stats(struct conn *conn, unsigned region, struct upload_stats *ret)
{
	sqlite3_stmt *s = conn_statement(conn,
		"SELECT count(*), coalesce(sum(u.size), 0), coalesce(sum((SELECT sum(p.size)"
		" FROM upload_part p WHERE p.upload = u.number)), 0)"
		" FROM upload u WHERE u.region = ?1");

	bind_int(s, 1, region);
	int r = conn_row(conn, s);
	if (r <= 0)
		return r < 0 ? r : -EIO;
	*ret = (struct upload_stats){
		.uploads = (uint64_t)sqlite3_column_int64(s, 0),
		.bytes = (uint64_t)sqlite3_column_int64(s, 1),
		.sent = (uint64_t)sqlite3_column_int64(s, 2),
	};
	sqlite3_reset(s);
	return 0;
}
