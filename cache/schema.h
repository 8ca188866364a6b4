/* Private to cache/: the SQL that makes the tables, as NULL-terminated lists of statements. */
#ifndef CACHE_SCHEMA_H
#define CACHE_SCHEMA_H

#include "cache/db.h"

#define SCHEMA_VERSION 8

/* inode, dentry, xattr, journal, meta */
extern const char *const schema_tree[];
/* region, entry, outbox, upload, cursor, segment_seen, conflict, held */
extern const char *const schema_replication[];

/* Brings the database to SCHEMA_VERSION (user_version), one transaction a step. -EPROTONOSUPPORT
 * with a text for a newer one, -EINVAL for a database of another program (application_id). */
int schema_migrate(sqlite3 *db, struct err *err) MUST_CHECK;

#endif
