/*
 * The tables of the local tree and the journal, and the way from an empty file to SCHEMA_VERSION.
 *
 * inode holds parent and name besides dentry, so a path is found by walking up primary keys and
 * needs no index on dentry(ino). The partial indexes are empty most of the time; they are what
 * recovery reads. journal has no AUTOINCREMENT: rows are removed from the front, and a number that
 * was used by a removed last row may come again, which nobody can tell.
 *
 * inode_used has the content that is here, least recently used first (evict.c). New files come at its
 * end, where an insertion is cheap.
 */
#include "cache/schema.h"

#include <errno.h>
#include <stdio.h>

#define APPLICATION_ID 0x4d455249 /* "MERI" */

const char *const schema_tree[] = {
	"CREATE TABLE meta("
	" name TEXT PRIMARY KEY,"
	" value ANY NOT NULL) STRICT, WITHOUT ROWID",
	"CREATE TABLE inode("
	" ino INTEGER PRIMARY KEY,"
	" parent INTEGER NOT NULL," /* 0: no name */
	" name BLOB NOT NULL,"	    /* of a detached inode: the key that a remote change took, if it
					was open; x'': none */
	" mode INTEGER NOT NULL,"
	" uid INTEGER NOT NULL,"
	" gid INTEGER NOT NULL,"
	" nlink INTEGER NOT NULL," /* 1 and the rows in link; 0: detached */
	" size INTEGER NOT NULL,"
	" atime_ns INTEGER NOT NULL,"
	" mtime_ns INTEGER NOT NULL,"
	" ctime_ns INTEGER NOT NULL,"
	" state INTEGER NOT NULL," /* enum content_state */
	" dirty INTEGER NOT NULL,"
	" xattrs INTEGER NOT NULL,"	/* rows in xattr */
	" generation INTEGER NOT NULL," /* raised by every change of content; current when not open
					 */
	" sealed INTEGER NOT NULL,"	/* the generation that hash describes; 0: none */
	" used INTEGER NOT NULL DEFAULT 0," /* when the content was last used: a tick (evict.h) */
	" hash BLOB,"
	" target TEXT) STRICT",
	"CREATE INDEX inode_used ON inode(used) WHERE state = 1",
	"CREATE INDEX inode_dirty ON inode(ino) WHERE dirty = 1",
	"CREATE INDEX inode_detached ON inode(ino) WHERE nlink = 0",
	"CREATE TABLE dentry("
	" parent INTEGER NOT NULL,"
	" place INTEGER NOT NULL," /* name_place(name): listings are in this order */
	" name BLOB NOT NULL,"
	" ino INTEGER NOT NULL,"
	" PRIMARY KEY(parent, place, name)) STRICT, WITHOUT ROWID",
	/* The names that an inode has besides its own row's. */
	"CREATE TABLE link("
	" ino INTEGER NOT NULL,"
	" parent INTEGER NOT NULL,"
	" name BLOB NOT NULL,"
	" PRIMARY KEY(ino, parent, name)) STRICT, WITHOUT ROWID",
	/* Which file it is (entry.h), of inodes that have or had several names. Several may have one
	   id, for as long as their names have different contents. */
	"CREATE TABLE link_id("
	" ino INTEGER PRIMARY KEY,"
	" origin INTEGER NOT NULL,"
	" number INTEGER NOT NULL) STRICT",
	"CREATE INDEX link_id_file ON link_id(origin, number)",
	"CREATE TABLE xattr("
	" ino INTEGER NOT NULL,"
	" name TEXT NOT NULL,"
	" value BLOB NOT NULL,"
	" PRIMARY KEY(ino, name)) STRICT, WITHOUT ROWID",
	"CREATE TABLE journal("
	" seq INTEGER PRIMARY KEY,"
	" op INTEGER NOT NULL,"
	" time INTEGER NOT NULL,"
	" key BLOB NOT NULL,"
	" hint BLOB) STRICT",
	"CREATE INDEX journal_key ON journal(key)",
	"CREATE INDEX journal_hint ON journal(hint) WHERE hint IS NOT NULL",
	"CREATE INDEX journal_tree ON journal(seq) WHERE op = 4", /* JOURNAL_RENAME_DIR */
	NULL,
};

static int failed(sqlite3 *db, struct err *err)
{
	int code = sqlite3_errcode(db);

	return err_set(err, code == SQLITE_FULL ? -ENOSPC : -EIO, "cannot prepare the database: %s",
		sqlite3_errmsg(db));
}

static int read_int(sqlite3 *db, const char *sql, int64_t *ret, struct err *err)
{
	sqlite3_stmt *s = NULL;
	int r = 0;

	if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
		r = failed(db, err);
	else
		*ret = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	return r;
}

static int run_list(sqlite3 *db, const char *const *list, struct err *err)
{
	for (; *list; list++) {
		if (sqlite3_exec(db, *list, NULL, NULL, NULL) != SQLITE_OK)
			return failed(db, err);
	}
	return 0;
}

static int create(sqlite3 *db, struct err *err)
{
	char last[96];
	const char *const first[] = {"BEGIN IMMEDIATE", NULL};
	const char *const end[] = {last, "COMMIT", NULL};
	int r;

	snprintf(last, sizeof(last), "PRAGMA application_id = %d; PRAGMA user_version = %d",
		APPLICATION_ID, SCHEMA_VERSION);
	r = run_list(db, first, err);
	if (r)
		return r;
	r = run_list(db, schema_tree, err);
	if (!r)
		r = run_list(db, schema_replication, err);
	if (!r)
		r = run_list(db, end, err);
	if (r && !sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

int schema_migrate(sqlite3 *db, struct err *err)
{
	int64_t application = 0, version = 0, objects = 0;
	int r;

	r = read_int(db, "PRAGMA application_id", &application, err);
	if (!r)
		r = read_int(db, "PRAGMA user_version", &version, err);
	if (!r)
		r = read_int(db, "SELECT count(*) FROM sqlite_schema", &objects, err);
	if (r)
		return r;
	if (application == 0 && version == 0 && objects == 0)
		return create(db, err);
	if (application != APPLICATION_ID)
		return err_set(err, -EINVAL,
			"the database belongs to another program (application_id %lld)",
			(long long)application);
	if (version > SCHEMA_VERSION)
		return err_set(err, -EPROTONOSUPPORT,
			"the database has format %lld, this program knows up to %d: use the newer "
			"meridian",
			(long long)version, SCHEMA_VERSION);
	if (version != SCHEMA_VERSION)
		return err_set(err, -EINVAL, "the database has the unknown format %lld",
			(long long)version);
	return 0;
}
