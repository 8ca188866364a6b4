/*
 * Private to cache/: hidden files. A file that must give way to a directory keeps its content: its inode
 * is detached, and a conflict row with the reason "hidden" refers to it. It is attached again when
 * the file comes back with that content (project_place.c); when the file's content changes meanwhile it
 * is a replaced one. What was remote anyway is simply made again.
 *
 * All of it inside the caller's write transaction.
 */
#ifndef CACHE_HIDDEN_H
#define CACHE_HIDDEN_H

#include "cache/cache.h"
#include "cache/entry.h"

struct hidden {
	int64_t id;   /* of the conflict row */
	uint64_t ino; /* 0: it is gone */
	bool same;    /* has the wanted content */
};

/* 1 with the hidden file of that content, 0 when there is none, or -errno. The second: under another
 * name of the file that e is. */
int hidden_find(struct conn *conn, struct slice key, const uint8_t hash[SHA256_SIZE],
	struct hidden *ret) MUST_CHECK;
int hidden_find_linked(struct conn *conn, const struct entry *e, struct hidden *ret) MUST_CHECK;
/* The conflict row goes; the inode is the caller's. */
int hidden_forget(struct conn *conn, int64_t id) MUST_CHECK;
/* The content of key changed to e's: hidden files of another content are replaced ones now. The first
 * of them goes to keep_ino, where that is not NULL and 0; others are deleted. */
int hidden_replace(
	struct conn *conn, struct slice key, const struct entry *e, uint64_t *keep_ino) MUST_CHECK;

#endif
