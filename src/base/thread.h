/*
 * Threads and locks. Locks are error-checking and carry a rank: in builds without NDEBUG a thread
 * that takes a lock while it holds one of an equal or higher rank aborts. The ranks, low first, are
 * the lock order of docs/architecture.md.
 */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "src/base/attribute.h"

enum lock_rank {
	LOCK_RANK_FS = 20,	   /* fs: handle tables */
	LOCK_RANK_REPLICATOR = 30, /* replicator: region state, queues */
	LOCK_RANK_FILE = 40,	   /* cache: one open file's content */
	LOCK_RANK_DB_WRITER = 50,  /* cache: the writer connection */
	LOCK_RANK_DB_READERS = 55, /* cache: the pool of read connections */
	LOCK_RANK_PARTIAL = 58,	   /* cache: the table of partial content */
	LOCK_RANK_STORE = 60,	   /* stores: connection pools, in-memory stores, limits */
	LOCK_RANK_LEAF = 90,	   /* held for a few instructions, takes nothing inside */
};

struct mutex {
	pthread_mutex_t m;
	enum lock_rank rank;
};

void mutex_init(struct mutex *m, enum lock_rank rank);
void mutex_done(struct mutex *m);
void mutex_lock(struct mutex *m);
/* False when somebody has it, also the caller itself. */
bool mutex_trylock(struct mutex *m) MUST_CHECK;
void mutex_unlock(struct mutex *m);

/* Waits and signals use the monotonic clock. A wait releases and retakes m. */
struct cond {
	pthread_cond_t c;
};

void cond_init(struct cond *c);
void cond_done(struct cond *c);
void cond_wait(struct cond *c, struct mutex *m);
/* False when timeout_ms went by without a signal. */
bool cond_wait_ms(struct cond *c, struct mutex *m, int64_t timeout_ms);
void cond_signal(struct cond *c);
void cond_broadcast(struct cond *c);

/* Starts a thread with a 256 KiB stack, all signals blocked and a name of at most 15 bytes.
 * Returns 0 or -errno. Join with pthread_join. */
int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg) MUST_CHECK;

/* Priorities. What answers applications runs at the daemon's own; these threads give way to it.
 *
 * thread_background: nice BACKGROUND_NICE from now on. The thread may hold locks that applications
 * wait for, so the step is small.
 *
 * thread_give_way: for work that must not fall behind. nice GIVE_WAY_NICE, but the daemon's own while
 * the work is late or the thread holds what applications wait for (the two calls below, which do
 * nothing in other threads). Where the system does not let a thread rise again (without CAP_SYS_NICE
 * or RLIMIT_NICE) it is thread_background.
 *
 * thread_in_crowd: for a thread of many that do the same, however late: the lowest nice, at which the
 * kernel gives 68 threads as much of a busy processor as one at nice 0. It may hold no lock for long
 * that others wait for. */
#define BACKGROUND_NICE 5
#define GIVE_WAY_NICE 10
#define CROWD_NICE 19
#define GIVE_WAY_LAG_MS 2000 /* from here on it is late */
void thread_background(void);
void thread_give_way(void);
void thread_in_crowd(void);
/* How old the oldest of the work is that waits. */
void thread_lag(int64_t lag_ms);
void thread_hold(bool holding);

#endif
