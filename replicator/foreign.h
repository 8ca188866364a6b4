/*
 * Objects that other tools put into a bucket, as entries. Pure.
 *
 * Every server that looks at one version of an object makes the same registers of it, so that it
 * does not matter how many do: the stamp is made of the store's Last-Modified and of the region.
 */
#ifndef REPLICATOR_FOREIGN_H
#define REPLICATOR_FOREIGN_H

#include "cache/entry.h"
#include "replicator/store/store.h"

/* The node that stands for the other tools of a region. Never 0. */
uint64_t foreign_node(const char *region);
/* The node that stands for the removals that scans of a region find: another one, because such a removal knows
 * nothing of what the region's other tools wrote but what it replaces. */
uint64_t foreign_removal_node(const char *region);
/* Whether it is any of these regions' foreign_node. */
struct regions;
bool foreign_is_node(const struct regions *all, uint64_t node);
/* The stamp of a version by its Last-Modified: the end of that second, since stores tell no more. */
struct stamp foreign_stamp(const char *region, int64_t mtime_ms);

/* What a tool's metadata say: `mode`, `uid`, `gid`, `mtime` as s3fs writes them (decimal; seconds with
 * a fraction), or as rclone does (mode in octal, times also as RFC 3339). What is not there, or cannot
 * be, is not set. */
struct foreign_meta {
	bool has_mode, has_owner, has_mtime;
	enum kind kind; /* with has_mode: KIND_ABSENT for what is no file, directory or symlink */
	uint32_t mode;	/* 07777 */
	uint32_t uid, gid;
	int64_t mtime_ns;
};
void foreign_meta_read(const struct store_meta *m, struct foreign_meta *ret);

struct foreign_object {
	const char *region;
	const struct store_object *object;
	const struct foreign_meta *meta;
	bool directory;		    /* its key ends in a slash */
	uint8_t hash[SHA256_SIZE];  /* of a file's body */
	const char *target;	    /* of a symlink; borrowed */
	const struct entry *before; /* of the path, NULL: none */
	bool over;		    /* before's version was in the bucket before this one */
	uint32_t uid, gid;	    /* where the metadata have none: the nearest directory's */
};

/* KIND_FILE, KIND_DIR, KIND_SYMLINK; KIND_ABSENT: nothing that Meridian keeps. */
enum kind foreign_kind(const struct foreign_object *o);

/* The entry after the object was taken over. The attributes of a path that was there stay, as far as
 * the object does not tell others. -ENOMEM. */
int foreign_put(const struct foreign_object *o, struct entry *ret) MUST_CHECK;
/* The entry after somebody removed the object of before, which is live. A write that did not know of the
 * removal has a greater stamp, whenever it was. seen: that very version was in the bucket; else it was
 * found nowhere, and whoever has it did not know of the removal. -ENOMEM. */
int foreign_remove(
	const char *region, const struct entry *before, bool seen, struct entry *ret) MUST_CHECK;

#endif
