/*
 * The check of a whole state while nobody has it mounted. Opening a volume never does this: it
 * reads everything, and only a disk that lies can make it find something.
 */
#include <errno.h>

#include "cache/internal.h"
#include "src/base/buf.h"

#define FAULTS 20

static int damaged(struct cache *c, struct err *err)
{
	return err_set(err, -EIO,
		"the database %s/meridian.db is damaged\nhint: move %s away and mount again: the "
		"buckets hold everything that was pushed",
		c->state_dir, c->state_dir);
}

/* The answer is one row "ok", or a row for each fault. */
static int check_pages(struct cache *c, struct buf *report, struct err *err)
{
	sqlite3_stmt *s = NULL;
	int code, r = 0;

	if (sqlite3_prepare_v2(c->writer->db, "PRAGMA integrity_check(20)", -1, &s, NULL) !=
		SQLITE_OK)
		return damaged(c, err);
	for (unsigned i = 0; (code = sqlite3_step(s)) == SQLITE_ROW && i < FAULTS; i++) {
		const char *text = (const char *)sqlite3_column_text(s, 0);

		if (text && strcmp(text, "ok") == 0)
			continue;
		buf_printf(report, "%s\n", text ? text : "no answer");
		r = -EIO;
	}
	sqlite3_finalize(s);
	return r || (code != SQLITE_DONE && code != SQLITE_ROW) ? damaged(c, err) : 0;
}

/* A name without its inode, or an inode whose name is another's. */
static int check_tree(struct cache *c, struct buf *report, struct err *err)
{
	static const char sql[] =
		"SELECT d.parent, d.ino FROM dentry d LEFT JOIN inode i ON i.ino = d.ino"
		" WHERE i.ino IS NULL OR i.nlink = 0 OR (NOT (i.parent = d.parent AND i.name = d.name)"
		" AND NOT EXISTS(SELECT 1 FROM link l WHERE l.ino = d.ino AND l.parent = d.parent"
		" AND l.name = d.name)) LIMIT 20";
	sqlite3_stmt *s = NULL;
	int r = 0;

	if (sqlite3_prepare_v2(c->writer->db, sql, -1, &s, NULL) != SQLITE_OK)
		return damaged(c, err);
	while (sqlite3_step(s) == SQLITE_ROW) {
		buf_printf(report, "a name in directory %lld has no inode %lld\n",
			(long long)sqlite3_column_int64(s, 0),
			(long long)sqlite3_column_int64(s, 1));
		r = -EIO;
	}
	sqlite3_finalize(s);
	return r ? damaged(c, err) : 0;
}

int cache_check(const char *state_dir, struct buf *report, struct err *err)
{
	const struct cache_options options = {.state_dir = state_dir};
	struct cache *c = NULL;
	bool more = true;
	int r = cache_open(&options, &c, err);

	if (r)
		return r;
	r = check_pages(c, report, err);
	if (!r)
		r = check_tree(c, report, err);
	/* What the last stop left, as after a mount. */
	for (int e = 0; !r && more; r = e)
		e = cache_sweep(c, &more);
	if (r)
		cache_abandon(c);
	else
		cache_close(c);
	return r && !err->text[0] ? err_errno(err, r, "cannot check %s", state_dir) : r;
}
