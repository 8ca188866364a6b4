/*
 * The mount: serves the cache's tree through FUSE. The only folder that knows libfuse.
 *
 * Life: fs_open, fs_mount, fs_run (blocks), fs_unmount, fs_free. The cache must outlive fs_free. Stop the
 * replicator (or at least its merging) before fs_free: the cache's invalidations are delivered to
 * the mount until then.
 *
 * Every change of the tree passes through this process, so the kernel caches names (absent ones
 * too), attributes, directory listings and pages for a day; what the replicator changes is
 * invalidated by a thread of its own.
 */
#ifndef FS_FS_H
#define FS_FS_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/cache.h"
#include "src/base/attribute.h"
#include "src/base/err.h"

struct fs;

/* Ids that this mount shows for those that the volume has. Each map is a permutation: every id is
 * there as shown as often as it is there as kept, once or never. */
#define FS_ID_PAIRS_MAX 128
struct fs_id_map {
	unsigned count;
	struct {
		uint32_t shown;
		uint32_t kept;
	} pair[FS_ID_PAIRS_MAX];
};

struct fs_ids {
	struct fs_id_map uids;
	struct fs_id_map gids;
	bool force_uid; /* everything is shown as uid's, and cannot be given to others */
	bool force_gid;
	uint32_t uid;
	uint32_t gid;
	uint32_t umask; /* permission bits that are not shown */
};

struct fs_options {
	const char *mountpoint; /* an existing directory; it need not be empty */
	const char *fsname;	/* what mount(8) shows as the source; NULL: "meridian" */
	bool allow_other;	/* other users may enter; always so for root unless deny_other */
	bool deny_other;
	bool read_only;
	bool noatime;		  /* reads leave access times alone */
	bool nodiratime;	  /* listings do */
	bool sync;		  /* each write, and what dirsync says; nothing is passed through */
	bool dirsync;		  /* what changes a directory is on disk when it returns */
	const struct fs_ids *ids; /* copied; NULL: ids and modes are shown as they are */
	const char *extra;   /* more mount options, comma-separated ("noatime,nodev"); NULL: none */
	unsigned threads;    /* that read requests; 0: 2, at most 64 */
	bool no_passthrough; /* all reads and writes through this process */
};

/* Checks the mount point, the machine and the options; nothing is mounted yet, so that the caller can
 * have its other ears open before anybody sees the mount. A dead mount left there by a killed daemon is
 * removed (root only). err says what failed: -ENOENT or -ENOTDIR for the mount point, -EBUSY when
 * something of this kind is mounted there, -ENODEV without a FUSE device, -EINVAL for a mount option. */
int fs_open(struct cache *c, const struct fs_options *options, struct fs **ret,
	struct err *err) MUST_CHECK;

/* Mounts. Requests wait until fs_run. -EIO or what mount(2) said; then only fs_free is left to do. Call
 * once. */
int fs_mount(struct fs *fs, struct err *err) MUST_CHECK;

/* Serves until the file system is unmounted from outside or fs_stop. Returns 0, or -errno when
 * threads could not be started or the FUSE device failed. Call once. Signals stay with the caller's
 * thread: the threads made here block them all. */
int fs_run(struct fs *fs) MUST_CHECK;

/* Makes fs_run return soon; requests that are running are finished, later ones fail.
 * Async-signal-safe; from any thread. */
void fs_stop(struct fs *fs);

/* Unmounts (lazily when busy) and cuts the connection: what still is open then gets ENOTCONN. After
 * fs_run returned, or instead of it. Idempotent. */
void fs_unmount(struct fs *fs);

/* Unmounts if need be, releases the files that were still open, frees. NULL is fine. */
void fs_free(struct fs *fs);

#define FS_PASSTHROUGH_SIZE 136

struct fs_stats {
	uint64_t requests;
	uint64_t errors; /* requests that were answered with an error, absent names and attributes
			    aside */
	uint64_t fetches_waiting; /* opens and truncations that wait for content from a region */
	uint64_t syncs_waiting;	  /* fsync and the like that wait until regions have the file */
	uint64_t invalidations;
	uint64_t invalidations_pending;
	char passthrough[FS_PASSTHROUGH_SIZE]; /* "on", or "off (reason)" */
};
void fs_get_stats(struct fs *fs, struct fs_stats *ret);

#endif
