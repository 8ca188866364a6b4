/*
 * Threads and locks. A failing lock operation is a bug (EDEADLK, EPERM) and aborts.
 *
 * In builds without NDEBUG every thread keeps the list of the locks that it holds. Invariant: the
 * ranks of that list differ, and a lock is only added when its rank is above all of them. Unlocking
 * may happen in any order. A condition wait drops the lock from the list and takes it back, and the
 * rank is checked before the wait, where the abort still names the culprit.
 */
#include "src/base/thread.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "src/base/log.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

#ifdef SANITIZED
#define STACK_BYTES ((size_t)1 << 20) /* instrumented frames are several times as large */
#else
#define STACK_BYTES ((size_t)256 << 10)
#endif

#define NAME_BYTES 16 /* the kernel's limit, with NUL */
#define WAIT_MAX_MS (INT64_C(366) * 86400 * 1000)

#ifndef NDEBUG
#define HELD_MAX 16

static _Thread_local struct {
	const struct mutex *m[HELD_MAX];
	int count;
} held;

static void held_check(const struct mutex *m)
{
	for (int i = 0; i < held.count; i++) {
		if (held.m[i]->rank >= m->rank) {
			log_error("lock order broken taking=%d holding=%d", (int)m->rank,
				(int)held.m[i]->rank);
			abort();
		}
	}
	CHECK(held.count < HELD_MAX);
}

static void held_add(const struct mutex *m)
{
	held.m[held.count++] = m;
}

static void held_remove(const struct mutex *m)
{
	int i = held.count - 1;

	while (i >= 0 && held.m[i] != m)
		i--;
	CHECK(i >= 0);
	held.count--;
	memmove(&held.m[i], &held.m[i + 1], (size_t)(held.count - i) * sizeof(held.m[0]));
}
#else
static void held_check(const struct mutex *m)
{
}

static void held_add(const struct mutex *m)
{
}

static void held_remove(const struct mutex *m)
{
}
#endif

void mutex_init(struct mutex *m, enum lock_rank rank)
{
	pthread_mutexattr_t attr;

	CHECK(pthread_mutexattr_init(&attr) == 0);
	CHECK(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK) == 0);
	CHECK(pthread_mutex_init(&m->m, &attr) == 0);
	CHECK(pthread_mutexattr_destroy(&attr) == 0);
	m->rank = rank;
}

void mutex_done(struct mutex *m)
{
	CHECK(pthread_mutex_destroy(&m->m) == 0);
}

void mutex_lock(struct mutex *m)
{
	held_check(m);
	CHECK(pthread_mutex_lock(&m->m) == 0);
	held_add(m);
}

bool mutex_trylock(struct mutex *m)
{
	int r = pthread_mutex_trylock(&m->m);

	CHECK(r == 0 || r == EBUSY);
	if (r)
		return false;
	held_check(m);
	held_add(m);
	return true;
}

void mutex_unlock(struct mutex *m)
{
	held_remove(m);
	CHECK(pthread_mutex_unlock(&m->m) == 0);
}

void cond_init(struct cond *c)
{
	pthread_condattr_t attr;

	CHECK(pthread_condattr_init(&attr) == 0);
	CHECK(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
	CHECK(pthread_cond_init(&c->c, &attr) == 0);
	CHECK(pthread_condattr_destroy(&attr) == 0);
}

void cond_done(struct cond *c)
{
	CHECK(pthread_cond_destroy(&c->c) == 0);
}

void cond_wait(struct cond *c, struct mutex *m)
{
	held_remove(m);
	held_check(m);
	CHECK(pthread_cond_wait(&c->c, &m->m) == 0);
	held_add(m);
}

/* The system's clock and not clock.h's: the kernel does the waiting. */
static struct timespec deadline_after(int64_t ms)
{
	struct timespec t;

	if (ms < 0)
		ms = 0;
	if (ms > WAIT_MAX_MS)
		ms = WAIT_MAX_MS;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
	t.tv_sec += ms / 1000;
	t.tv_nsec += ms % 1000 * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_nsec -= 1000000000;
		t.tv_sec++;
	}
	return t;
}

bool cond_wait_ms(struct cond *c, struct mutex *m, int64_t timeout_ms)
{
	struct timespec deadline = deadline_after(timeout_ms);
	int r;

	held_remove(m);
	held_check(m);
	r = pthread_cond_timedwait(&c->c, &m->m, &deadline);
	CHECK(r == 0 || r == ETIMEDOUT);
	held_add(m);
	return r == 0;
}

void cond_signal(struct cond *c)
{
	CHECK(pthread_cond_signal(&c->c) == 0);
}

void cond_broadcast(struct cond *c)
{
	CHECK(pthread_cond_broadcast(&c->c) == 0);
}

struct start {
	void *(*fn)(void *);
	void *arg;
	char name[NAME_BYTES];
};

static void *run(void *arg)
{
	struct start start = *(struct start *)arg;

	free(arg);
	/* Here and not in the parent: a thread that detached itself may be gone by then. */
	pthread_setname_np(pthread_self(), start.name);
	return start.fn(start.arg);
}

int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg)
{
	struct start *start = malloc(sizeof(*start));
	sigset_t all, old;
	pthread_attr_t attr;
	int r;

	if (!start)
		return -ENOMEM;
	start->fn = fn;
	start->arg = arg;
	snprintf(start->name, sizeof(start->name), "%s", name);
	CHECK(pthread_attr_init(&attr) == 0);
	CHECK(pthread_attr_setstacksize(&attr, STACK_BYTES) == 0);
	/* The new thread inherits the mask, so that no signal reaches it even at its start. */
	CHECK(sigfillset(&all) == 0);
	CHECK(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
	r = pthread_create(t, &attr, run, start);
	CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
	CHECK(pthread_attr_destroy(&attr) == 0);
	if (r)
		free(start);
	return -r;
}

/* ---- priorities ---- */

static _Thread_local struct {
	bool adapts;
	bool late;
	bool holding;
	int base; /* the daemon may have been started with another than 0 */
	int now;
} pace;

static bool find_nice(int *ret)
{
	errno = 0;
	*ret = getpriority(PRIO_PROCESS, (id_t)gettid());
	return errno == 0;
}

static bool set_nice(int nice)
{
	return setpriority(PRIO_PROCESS, (id_t)gettid(), nice) == 0;
}

static bool may_rise;

static void *try_rise(void *arg)
{
	int nice;

	may_rise = find_nice(&nice) && set_nice(nice + 1) && set_nice(nice);
	return arg;
}

/* A thread of its own tries, which can be left at a lower priority. What capabilities say is not
 * enough: in a user namespace they do not count here. */
static void find_may_rise(void)
{
	pthread_t t;

	if (thread_start(&t, "priority", try_rise, NULL) == 0)
		CHECK(pthread_join(t, NULL) == 0);
}

static void keep_pace(void)
{
	int want = pace.base + (pace.late || pace.holding ? 0 : GIVE_WAY_NICE);

	if (want == pace.now || !set_nice(want))
		return;
	pace.now = want;
}

/* Failing is no harm. */
static void lower(int by)
{
	int now;

	if (!find_nice(&now) || !set_nice(now + by))
		log_debug("thread priority not lowered error=%d", errno);
}

void thread_background(void)
{
	lower(BACKGROUND_NICE);
}

void thread_in_crowd(void)
{
	lower(CROWD_NICE); /* the kernel takes more than 19 for 19 */
}

void thread_give_way(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	CHECK(pthread_once(&once, find_may_rise) == 0);
	if (!may_rise || !find_nice(&pace.base)) {
		thread_background();
		return;
	}
	pace.adapts = true;
	pace.now = pace.base;
	keep_pace();
}

void thread_lag(int64_t lag_ms)
{
	pace.late = lag_ms >= GIVE_WAY_LAG_MS;
	if (pace.adapts)
		keep_pace();
}

void thread_hold(bool holding)
{
	pace.holding = holding;
	if (pace.adapts)
		keep_pace();
}
