/*
 * The tables of the replicated half.
 *
 *   entry     kind stands beside the encoded record so that entry_live can leave out tombstones:
 *             whether anything lives below a path, and a scan of what lives, never read one
 *   outbox    see outbox.c; outbox_row.c alone writes it, and tally.c outbox_head and the totals in region
 *   conflict  a row's ino refers to a detached inode; recovery keeps those (conflict_ino)
 */
#include "cache/schema.h"

const char *const schema_replication[] = {
	"CREATE TABLE counter("
	" id INTEGER PRIMARY KEY," /* enum counter */
	" value INTEGER NOT NULL) STRICT",
	"INSERT INTO counter VALUES (1,0),(2,0),(3,0),(4,0),(5,0),(6,0)",

	"CREATE TABLE region("
	" id INTEGER PRIMARY KEY,"
	" name TEXT NOT NULL UNIQUE,"
	" seed_after BLOB," /* last key that the outbox was seeded with; NULL: seeding is done */
	" sent_seq INTEGER NOT NULL DEFAULT 0,"
	" sent_name TEXT NOT NULL DEFAULT '',"
	" pending_name TEXT NOT NULL DEFAULT '',"
	" rows INTEGER NOT NULL DEFAULT 0," /* totals of the outbox */
	" bytes INTEGER NOT NULL DEFAULT 0,"
	" parked INTEGER NOT NULL DEFAULT 0,"
	" unannounced INTEGER NOT NULL DEFAULT 0,"
	" used INTEGER NOT NULL DEFAULT 0," /* its bucket was seen to be this volume's: 1; and was before: 2 */
	" optional INTEGER NOT NULL DEFAULT 0," /* see resync.c, as the next */
	" resync INTEGER NOT NULL DEFAULT 0,"
	" resync_from INTEGER NOT NULL DEFAULT 0,"
	" resync_seen INTEGER NOT NULL DEFAULT 0) STRICT",
	/* What must outlive a region's absence: segment numbers never start again. */
	"CREATE TABLE retired_region("
	" name TEXT PRIMARY KEY,"
	" id INTEGER NOT NULL,"
	" sent_seq INTEGER NOT NULL,"
	" sent_name TEXT NOT NULL,"
	" pending_name TEXT NOT NULL) STRICT, WITHOUT ROWID",
	"CREATE TABLE cursor("
	" region INTEGER PRIMARY KEY,"
	" name TEXT NOT NULL) STRICT",
	"CREATE TABLE segment_seen("
	" region INTEGER NOT NULL,"
	" node INTEGER NOT NULL,"
	" seq INTEGER NOT NULL,"
	" name TEXT NOT NULL,"
	" PRIMARY KEY(region, node)) STRICT, WITHOUT ROWID",
	/* Regions whose log is read though it is not pulled from: see replicator/pull.c. */
	"CREATE TABLE region_read(region INTEGER PRIMARY KEY) STRICT",
	"CREATE TABLE bad_segment("
	" region INTEGER NOT NULL,"
	" name TEXT NOT NULL,"
	" reason TEXT NOT NULL,"
	" at_ms INTEGER NOT NULL,"
	" PRIMARY KEY(region, name)) STRICT, WITHOUT ROWID",

	"CREATE TABLE entry("
	" key BLOB PRIMARY KEY,"
	" kind INTEGER NOT NULL,"
	" record BLOB NOT NULL) STRICT, WITHOUT ROWID",
	"CREATE INDEX entry_live ON entry(key) WHERE kind <> 0",

	"CREATE TABLE outbox("
	" id INTEGER PRIMARY KEY,"
	" region INTEGER NOT NULL,"
	" key BLOB NOT NULL,"
	" dir INTEGER NOT NULL,"
	" state INTEGER NOT NULL,"
	" first INTEGER NOT NULL,"
	" last INTEGER NOT NULL,"
	" since_ms INTEGER NOT NULL,"
	" time INTEGER NOT NULL,"
	" node INTEGER NOT NULL,"
	" size INTEGER NOT NULL,"
	" fresh INTEGER NOT NULL,"
	" uploaded INTEGER NOT NULL,"
	" attempts INTEGER NOT NULL,"
	" next_at_ms INTEGER NOT NULL,"
	" error TEXT NOT NULL,"
	" moved_from BLOB,"
	" moved_to BLOB,"
	" base BLOB,"
	" unfetched INTEGER NOT NULL DEFAULT 0) STRICT",
	"CREATE UNIQUE INDEX outbox_key ON outbox(region, key)",
	"CREATE INDEX outbox_order ON outbox(region, state, first, next_at_ms)",
	"CREATE INDEX outbox_size ON outbox(region, size, first, next_at_ms) WHERE state = 1",
	"CREATE INDEX outbox_held ON outbox(region, dir, first) WHERE state IN (1, 5, 6)",
	"CREATE INDEX outbox_ready ON outbox(region, dir, last) WHERE state = 2",
	"CREATE INDEX outbox_span ON outbox(region, dir, first, last) WHERE state = 2 AND first < last",
	"CREATE INDEX outbox_moved ON outbox(region, moved_to)"
	" WHERE state = 1 AND moved_to IS NOT NULL",
	"CREATE INDEX outbox_delayed ON outbox(region, next_at_ms) WHERE next_at_ms > 0",
	"CREATE INDEX outbox_parked ON outbox(region, first) WHERE state > 4",
	"CREATE TABLE outbox_head("
	" region INTEGER NOT NULL,"
	" dir INTEGER NOT NULL,"
	" head INTEGER NOT NULL,"
	" PRIMARY KEY(region, dir)) STRICT, WITHOUT ROWID",
	"CREATE INDEX outbox_head_order ON outbox_head(region, head)",
	/* The group of segments that is open; see outbox_group.c. */
	"CREATE TABLE announce_group("
	" region INTEGER NOT NULL,"
	" dir INTEGER NOT NULL,"
	" last INTEGER NOT NULL,"
	" PRIMARY KEY(region, dir)) STRICT, WITHOUT ROWID",

	/* Uploads in parts; see upload_record.c. */
	"CREATE TABLE upload("
	" number INTEGER PRIMARY KEY AUTOINCREMENT," /* what speaks of a removed one finds none */
	" region INTEGER NOT NULL,"
	" key BLOB NOT NULL,"
	" version BLOB NOT NULL,"
	" size INTEGER NOT NULL,"
	" part_size INTEGER NOT NULL,"
	" id BLOB NOT NULL) STRICT", /* x'': not known */
	"CREATE UNIQUE INDEX upload_key ON upload(region, key)",
	"CREATE TABLE upload_part("
	" upload INTEGER NOT NULL,"
	" number INTEGER NOT NULL,"
	" size INTEGER NOT NULL,"
	" hash BLOB NOT NULL,"
	" etag BLOB NOT NULL,"
	" PRIMARY KEY(upload, number)) STRICT, WITHOUT ROWID",

	/* What is known of the buckets; see object_seen.c. */
	"CREATE TABLE object_seen("
	" region INTEGER NOT NULL,"
	" key BLOB NOT NULL,"
	" tag INTEGER NOT NULL,"
	" time INTEGER NOT NULL,"
	" node INTEGER NOT NULL,"
	" PRIMARY KEY(region, key)) STRICT, WITHOUT ROWID",
	"CREATE TABLE object_gone("
	" region INTEGER NOT NULL,"
	" key BLOB NOT NULL,"
	" PRIMARY KEY(region, key)) STRICT, WITHOUT ROWID",
	/* Checkpoints; see dump.c. */
	"CREATE TABLE checkpoint_mark("
	" region INTEGER PRIMARY KEY,"
	" ms INTEGER NOT NULL,"
	" node INTEGER NOT NULL,"
	" segments INTEGER NOT NULL,"
	" loading_ms INTEGER NOT NULL,"
	" loading_node INTEGER NOT NULL,"
	" loaded INTEGER NOT NULL) STRICT",
	"CREATE TABLE last_words("
	" node INTEGER PRIMARY KEY,"
	" seq INTEGER NOT NULL,"
	" at_ms INTEGER NOT NULL) STRICT",

	/* Blocks of large versions; see content_map.c. */
	"CREATE TABLE content_map("
	" id INTEGER PRIMARY KEY AUTOINCREMENT," /* in order of age */
	" hash BLOB NOT NULL UNIQUE,"
	" ino INTEGER NOT NULL,"
	" size INTEGER NOT NULL,"
	" bits INTEGER NOT NULL,"
	" objects INTEGER NOT NULL," /* a bit for each region whose object it is */
	" blocks BLOB NOT NULL) STRICT",
	"CREATE INDEX content_map_ino ON content_map(ino, objects, id)",
	"CREATE TABLE content_map_total(bytes INTEGER NOT NULL) STRICT",
	"INSERT INTO content_map_total VALUES (0)",
	/* What makes content of other content; see content_delta.c. */
	"CREATE TABLE content_delta("
	" id INTEGER PRIMARY KEY," /* in order of age */
	" hash BLOB NOT NULL UNIQUE,"
	" size INTEGER NOT NULL,"
	" base BLOB NOT NULL,"
	" delta BLOB NOT NULL) STRICT",
	"CREATE TABLE content_delta_total(bytes INTEGER NOT NULL) STRICT",
	"INSERT INTO content_delta_total VALUES (0)",

	/* Files that are to be fetched without being asked for; see refresh.c. */
	"CREATE TABLE refresh(ino INTEGER PRIMARY KEY) STRICT",

	"CREATE TABLE touched("
	" key BLOB PRIMARY KEY,"
	" due_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID",
	"CREATE INDEX touched_due ON touched(due_ms) WHERE due_ms > 0",
	"CREATE TABLE conflict("
	" id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" key BLOB NOT NULL,"
	" loser BLOB NOT NULL,"
	" winner BLOB NOT NULL,"
	" ino INTEGER NOT NULL,"
	" at_ms INTEGER NOT NULL,"
	" reason TEXT NOT NULL) STRICT",
	"CREATE INDEX conflict_key ON conflict(key)",
	"CREATE INDEX conflict_ino ON conflict(ino) WHERE ino <> 0",
	"CREATE INDEX conflict_hidden ON conflict(key) WHERE reason = 'hidden'",
	"CREATE TABLE held("
	" id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" key BLOB NOT NULL,"
	" due_ms INTEGER NOT NULL,"
	" record BLOB NOT NULL) STRICT",
	"CREATE INDEX held_due ON held(due_ms)",
	"CREATE INDEX held_key ON held(key)",
	/* Directories that nothing but what lies below them implies: they follow their parent's
	   owner. */
	"CREATE TABLE implied("
	" parent INTEGER NOT NULL,"
	" ino INTEGER NOT NULL,"
	" PRIMARY KEY(parent, ino)) STRICT, WITHOUT ROWID",
	/* Directories that are shown over a live file or symlink of their name: nobody made them. The
	   key tells whether they still have that name. */
	"CREATE TABLE shadowing("
	" ino INTEGER PRIMARY KEY,"
	" key BLOB NOT NULL) STRICT",
	NULL,
};
