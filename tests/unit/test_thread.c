/* Locks, waits and threads; every misuse must abort, which a child process shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/thread.h"

#ifdef NDEBUG
#define RANKS_CHECKED false
#else
#define RANKS_CHECKED true
#endif

static int status_of(void (*fn)(void))
{
	int status = 0;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		int null = open("/dev/null", O_WRONLY);

		signal(SIGABRT, SIG_DFL); /* cmocka has its own */
		dup2(null, STDERR_FILENO);
		fn();
		_exit(0);
	}
	assert_true(waitpid(child, &status, 0) == child);
	return status;
}

static void assert_aborts(void (*fn)(void))
{
	int status = status_of(fn);

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static struct mutex low, high, leaf;
static struct cond cond;

static int set_up(void **state)
{
	mutex_init(&low, LOCK_RANK_FS);
	mutex_init(&high, LOCK_RANK_STORE);
	mutex_init(&leaf, LOCK_RANK_LEAF);
	cond_init(&cond);
	return 0;
}

static int tear_down(void **state)
{
	cond_done(&cond);
	mutex_done(&leaf);
	mutex_done(&high);
	mutex_done(&low);
	return 0;
}

static void right_order(void **state)
{
	for (int i = 0; i < 40; i++) {
		mutex_lock(&low);
		mutex_lock(&high);
		mutex_lock(&leaf);
		mutex_unlock(&low); /* any order */
		mutex_unlock(&leaf);
		mutex_lock(&leaf);
		mutex_unlock(&high);
		mutex_unlock(&leaf);
		mutex_lock(&low);
		mutex_unlock(&low);
	}
}

static void take_backwards(void)
{
	mutex_lock(&high);
	mutex_lock(&low);
}

static void take_backwards_after_release(void)
{
	mutex_lock(&low);
	mutex_lock(&high);
	mutex_unlock(&low);
	mutex_lock(&low); /* still holds high */
}

static void take_equal(void)
{
	struct mutex other;

	mutex_init(&other, LOCK_RANK_LEAF);
	mutex_lock(&leaf);
	mutex_lock(&other);
}

static void take_twice(void)
{
	mutex_lock(&low);
	mutex_lock(&low);
}

static void unlock_unheld(void)
{
	mutex_unlock(&low);
}

static void wait_unheld(void)
{
	cond_wait_ms(&cond, &low, 1);
}

static void wait_under_higher(void)
{
	mutex_lock(&low);
	mutex_lock(&high);
	cond_wait_ms(&cond, &low, 1); /* would retake low under high */
}

static void take_backwards_after_wait(void)
{
	mutex_lock(&high);
	cond_wait_ms(&cond, &high, 1);
	mutex_lock(&low);
}

static void wait_and_release(void)
{
	mutex_lock(&low);
	mutex_lock(&high);
	cond_wait_ms(&cond, &high, 1);
	mutex_unlock(&high);
	mutex_unlock(&low);
	mutex_lock(&low);
	mutex_unlock(&low);
}

static void misuse_aborts(void **state)
{
	assert_aborts(unlock_unheld);
	assert_aborts(wait_unheld);
	assert_aborts(take_twice);
	if (RANKS_CHECKED) {
		assert_aborts(take_backwards);
		assert_aborts(take_backwards_after_release);
		assert_aborts(take_equal);
		assert_aborts(wait_under_higher);
		assert_aborts(take_backwards_after_wait);
	}
	assert_int_equal(status_of(wait_and_release), 0);
}

static bool ready;
static int passed;

static void *waiter(void *arg)
{
	mutex_lock(&low);
	while (!ready) {
		if (arg)
			CHECK(cond_wait_ms(&cond, &low, INT64_MAX));
		else
			cond_wait(&cond, &low);
	}
	passed++;
	mutex_unlock(&low);
	return NULL;
}

static void signals_arrive(void **state)
{
	pthread_t threads[2];

	ready = false;
	passed = 0;
	assert_int_equal(thread_start(&threads[0], "waiter", waiter, NULL), 0);
	assert_int_equal(thread_start(&threads[1], "waiter", waiter, &ready), 0);
	clock_sleep_ms(20);
	mutex_lock(&low);
	assert_int_equal(passed, 0);
	ready = true;
	cond_broadcast(&cond);
	mutex_unlock(&low);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(passed, 2);
	cond_signal(&cond);
}

static void waits_time_out(void **state)
{
	int64_t start = clock_monotonic_ms();

	mutex_lock(&low);
	while (cond_wait_ms(&cond, &low, 30))
		; /* spurious */
	assert_true(clock_monotonic_ms() - start >= 29);
	cond_wait_ms(&cond, &low, 0);
	assert_false(cond_wait_ms(&cond, &low, -1));
	mutex_unlock(&low);
}

struct seen {
	char name[16];
	sigset_t blocked;
	size_t stack;
};

static void *look(void *arg)
{
	struct seen *seen = arg;
	pthread_attr_t attr;

	pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
	pthread_sigmask(SIG_SETMASK, NULL, &seen->blocked);
	if (pthread_getattr_np(pthread_self(), &attr) == 0) {
		pthread_attr_getstacksize(&attr, &seen->stack);
		pthread_attr_destroy(&attr);
	}
	return seen;
}

static void thread_properties(void **state)
{
	struct seen seen = {0};
	sigset_t before, after;
	void *result = NULL;
	pthread_t t;

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	assert_int_equal(thread_start(&t, "a-name-that-is-too-long", look, &seen), 0);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(pthread_join(t, &result), 0);
	assert_ptr_equal(result, &seen);
	assert_string_equal(seen.name, "a-name-that-is-");
	assert_int_equal(sigismember(&seen.blocked, SIGTERM), 1);
	assert_int_equal(sigismember(&seen.blocked, SIGHUP), 1);
	assert_int_equal(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
	assert_true(seen.stack >= (200 << 10) && seen.stack <= (2 << 20));
}

static int nice_now(void)
{
	return getpriority(PRIO_PROCESS, (id_t)gettid());
}

/* cmocka's assertions belong to the main thread. */
static void *give_way(void *arg)
{
	int *nice = arg;

	nice[0] = nice_now();
	thread_lag(10); /* nothing yet */
	nice[1] = nice_now();
	thread_give_way();
	nice[2] = nice_now();
	thread_lag(GIVE_WAY_LAG_MS);
	nice[3] = nice_now();
	thread_lag(GIVE_WAY_LAG_MS - 1);
	nice[4] = nice_now();
	thread_hold(true);
	nice[5] = nice_now();
	thread_lag(0);
	nice[6] = nice_now();
	thread_hold(false);
	nice[7] = nice_now();
	return NULL;
}

static void a_thread_gives_way_unless_late(void **state)
{
	int nice[8], lowered;
	pthread_t t;

	assert_int_equal(thread_start(&t, "gives-way", give_way, nice), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	if (nice[2] == nice[0] + BACKGROUND_NICE || nice[0] > 0) {
		print_message("no right to rise again: the step is small and stays\n");
		skip();
	}
	lowered = nice[0] + GIVE_WAY_NICE;
	assert_int_equal(nice[1], nice[0]);
	assert_int_equal(nice[2], lowered);
	assert_int_equal(nice[3], nice[0]);
	assert_int_equal(nice[4], lowered);
	assert_int_equal(nice[5], nice[0]);
	assert_int_equal(nice[6], nice[0]);
	assert_int_equal(nice[7], lowered);
}

static void *join_crowd(void *arg)
{
	int *nice = arg;

	thread_in_crowd();
	thread_lag(GIVE_WAY_LAG_MS);
	nice[0] = nice_now();
	thread_hold(true);
	nice[1] = nice_now();
	return NULL;
}

static void one_of_a_crowd_stays_low_however_late(void **state)
{
	int nice[2];
	pthread_t t;

	assert_int_equal(thread_start(&t, "crowd", join_crowd, nice), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_int_equal(nice[0], CROWD_NICE);
	assert_int_equal(nice[1], CROWD_NICE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(right_order),
		cmocka_unit_test(misuse_aborts),
		cmocka_unit_test(signals_arrive),
		cmocka_unit_test(waits_time_out),
		cmocka_unit_test(thread_properties),
		cmocka_unit_test(a_thread_gives_way_unless_late),
		cmocka_unit_test(one_of_a_crowd_stays_low_however_late),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
