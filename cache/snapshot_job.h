/*
 * Private to cache/: snapshots of large content that somebody may write to, taken on a thread of the
 * cache's own (file.h tells how they are used: content_snapshots).
 */
#ifndef CACHE_SNAPSHOT_JOB_H
#define CACHE_SNAPSHOT_JOB_H

#include "cache/file.h"
#include "cache/record.h"

struct snapshot_jobs;

struct snapshot_jobs *snapshot_jobs_new(void);
/* Ends the thread, and hashing with it. More than once is fine. */
void snapshot_jobs_stop(struct cache *c);
void snapshot_jobs_free(struct snapshot_jobs *t); /* stopped; NULL is fine */

/* Has a snapshot taken of what rec's content will be then. hashed: v has the hash of the generation that it
 * names, and nobody writes. 0: it will be, or later; -ENOBUFS: too many others wait to be used; or -errno.
 * Outside any transaction. */
int snapshot_job_ask(struct cache *c, struct record *rec, bool hashed,
	const struct content_version *v) MUST_CHECK;
/* 0: there is none of ino, or it failed; -EAGAIN: there is. */
int snapshot_job_look(struct cache *c, uint64_t ino) MUST_CHECK;
/* Until none is being taken of ino. */
void snapshot_job_wait(struct cache *c, uint64_t ino);
/* What was or is being taken of ino is of no use any more. Takes a leaf lock only. */
void snapshot_job_drop(struct cache *c, uint64_t ino);

#endif
