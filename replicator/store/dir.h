/*
 * Inside the directory backend only: what dir.c (operations), dir_path.c (places, locks, the root),
 * dir_record.c (what is kept beside an object's bytes) and dir_list.c (listings) share. The
 * backend's page is the head of dir.c.
 *
 * Functions return 0 or -errno; dir_result turns that into a store_result.
 */
#ifndef STORE_DIR_H
#define STORE_DIR_H

#include <sys/stat.h>

#include "replicator/store/layers.h"
#include "src/base/buf.h"
#include "src/base/thread.h"

#define DIR_TMP ".meridian-tmp"
#define DIR_META ".meridian-meta"
#define DIR_OVERFLOW ".meridian-overflow"
#define DIR_NAME_MAX 255

struct dir {
	struct store s;
	char *path;
	int root; /* these three are replaced by dup2 when the root came back (dir_check) */
	int tmp;
	int lock;
	bool xattr;		/* else sidecars */
	char id[33];		/* of the marker file; "": not opened yet (dir_open_used) */
	struct mutex root_lock; /* guards root_dev and root_ino; serialises reopening */
	dev_t root_dev;
	ino_t root_ino;
};

/* dir_path.c */

/* -EINVAL for a key that is no path here. */
int dir_key_check(const char *key) MUST_CHECK;
/* 0 while the directory at the path is the one that was opened, or could be opened again; -ENXIO
 * when it is gone. */
int dir_check(struct dir *d) MUST_CHECK;
/* 0 when the marker is there, so that "no such file" means what it says; -ENXIO otherwise. */
int dir_check_marker(struct dir *d) MUST_CHECK;
int dir_open_root(struct dir *d, struct err *err) MUST_CHECK;
/* store_exists, of the directory at that path. */
int dir_exists(const char *path, struct err *err) MUST_CHECK;
/* The same for a store that was used before: makes nothing, and what is not there, or has no marker,
 * is opened by the dir_check that finds it. */
int dir_open_used(struct dir *d, struct err *err) MUST_CHECK;
/* fsync of a directory. */
int dir_flush(int fd) MUST_CHECK;
/* The directory `name` in `at`, never through a symlink; create makes it, durably. */
int dir_open_sub(int at, const char *name, bool create, int *ret_fd) MUST_CHECK;
/* The directory that holds key's last component, which goes to leaf without its slash. */
int dir_open_parent(struct dir *d, const char *key, bool create, int *ret_fd,
	char leaf[DIR_NAME_MAX + 1]) MUST_CHECK;
/* The directory below area (DIR_META, DIR_OVERFLOW) for key, and the name in it. */
int dir_open_private(struct dir *d, const char *area, const char *key, bool create, int *ret_fd,
	char name[DIR_NAME_MAX + 1]) MUST_CHECK;
/* True for errors that mean: an object cannot stand at this path, use the overflow. */
bool dir_is_obstacle(int error);
/* Excludes every other change of key, in all processes, until *ret_fd is closed. -ETIMEDOUT,
 * -ECANCELED. */
int dir_lock_key(
	struct dir *d, const char *key, const struct store_call *call, int *ret_fd) MUST_CHECK;
/* A new file in the temporary directory; name is for dir_tmp_drop and renameat from d->tmp. */
int dir_tmp_new(struct dir *d, char name[32], int *ret_fd) MUST_CHECK;
/* Writes p as file `name` of directory `at`, durably and atomically. */
int dir_write_file(struct dir *d, int at, const char *name, const void *p, size_t len) MUST_CHECK;

/* dir_record.c */

/* What belongs to an object besides its bytes, and the state of the file that it belongs to. */
struct dir_record {
	uint64_t id;  /* random, new with every put: the ETag */
	uint64_t ino; /* 0: any (kept in the file's own xattr) */
	uint64_t size;
	int64_t mtime_ns;
	int64_t time_ms; /* Last-Modified of a directory object */
	struct store_meta meta;
	char key[STORE_KEY_MAX + 1];
};

void dir_record_done(struct dir_record *r);
int dir_record_encode(const struct dir_record *r, struct buf *b) MUST_CHECK;
bool dir_record_decode(struct reader *in, struct dir_record *r) MUST_CHECK;
/* Whether r describes the file of key whose state is st. */
bool dir_record_matches(const struct dir_record *r, const char *key, const struct stat *st);
/* Reads the record of the open file (or directory). -ENOENT when it has none of its own: a file put
 * there by another tool, or changed by one. key NULL: any key (overflow; name is then the file's
 * name there). */
int dir_record_read(struct dir *d, const char *key, const char *name, int fd, const struct stat *st,
	struct dir_record *ret) MUST_CHECK;
/* Attaches the record to the file before it goes to its place. Sidecars: old (may be NULL) is kept
 * beside it, so that whichever file is at the place after a crash finds its record. */
int dir_record_write(
	struct dir *d, int fd, const struct dir_record *r, const struct dir_record *old) MUST_CHECK;
/* Takes the record of a directory object away, or the sidecar of a removed file. */
int dir_record_remove(struct dir *d, const char *key, int fd) MUST_CHECK;

/* dir_find.c */

/* An object that was found. {.fd = -1, .parent = -1} is empty. */
struct dir_found {
	int fd;
	int parent;
	char leaf[DIR_NAME_MAX + 1];
	bool overflow;
	struct stat st;
	bool has_record;
	struct dir_record record;
};

void dir_found_done(struct dir_found *f);
/* -ENOENT when there is no such object; f is empty then. */
int dir_find(struct dir *d, const char *key, struct dir_found *f) MUST_CHECK;
/* Identity of the open file as an object. */
void dir_object_of(
	const struct stat *st, const struct dir_record *record, struct store_object *ret);

/* dir.c */
enum store_result dir_result(struct dir *d, int error, const char *what, struct store_error *e);

/* dir_list.c */
enum store_result dir_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error);

#endif
