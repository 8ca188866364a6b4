/* The limit layer: how many at once, order of arrival, deadline and cancel in the queue. It is compiled in here, so
 * that the tests can wait until a call stands in its queue. Time moves only where a test moves it. */
#include <errno.h>
#include <stdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "replicator/store/limit.c"
#include "src/base/buf.h"
#include "tests/sim/store_mem.c"

static _Atomic int64_t now_ms = 1000000;

static int64_t fake_realtime(void *ctx UNUSED)
{
	return now_ms * 1000000;
}

static int64_t fake_monotonic(void *ctx UNUSED)
{
	return now_ms;
}

static void fake_sleep(void *ctx UNUSED, int64_t ms)
{
	now_ms += ms;
}

static const struct clock_source source = {
	.realtime_ns = fake_realtime, .monotonic_ms = fake_monotonic, .sleep_ms = fake_sleep};

/* Calls stay inside until the gate opens; who entered is noted in order. */
static struct mutex lock;
static struct cond moved;
static int inside, most, entered, let_out;
static int order[64];

static enum store_result gate(void *ctx, const char *op, const char *key, bool did_happen)
{
	if (did_happen)
		return STORE_OK;
	mutex_lock(&lock);
	inside++;
	most = inside > most ? inside : most;
	order[entered++] = key[0] - 'a';
	cond_broadcast(&moved);
	while (let_out == 0)
		cond_wait(&moved, &lock);
	let_out--;
	inside--;
	cond_broadcast(&moved);
	mutex_unlock(&lock);
	return STORE_OK;
}

struct caller {
	struct store *s;
	char key[2];
	struct store_call call;
	enum store_result result;
	pthread_t thread;
};

static void *call_head(void *arg)
{
	struct caller *c = arg;

	c->result = store_head(c->s, c->key, NULL, NULL, &c->call, NULL);
	return NULL;
}

static void start(struct caller *c, struct store *s, int n)
{
	c->s = s;
	c->key[0] = (char)('a' + n);
	c->key[1] = '\0';
	assert_int_equal(thread_start(&c->thread, "caller", call_head, c), 0);
}

static void await_entered(int n)
{
	mutex_lock(&lock);
	while (entered < n)
		cond_wait(&moved, &lock);
	mutex_unlock(&lock);
}

/* Returns when n calls stand in the queues of s. */
static void await_waiting(struct store *s, unsigned n)
{
	struct limit *l = (struct limit *)s;

	for (unsigned waiting = 0; waiting != n;) {
		usleep(1000);
		waiting = 0;
		mutex_lock(&l->lock);
		for (unsigned i = 0; i < PRIORITIES; i++)
			for (struct waiter *w = l->queue[i].first; w; w = w->next)
				waiting++;
		mutex_unlock(&l->lock);
	}
}

static void release(int n)
{
	mutex_lock(&lock);
	let_out += n;
	cond_broadcast(&moved);
	mutex_unlock(&lock);
}

static enum store_result answer;

static enum store_result answer_hook(void *ctx, const char *op, const char *key, bool did_happen)
{
	return did_happen ? STORE_OK : answer;
}

static void ask(struct store *s, unsigned times, enum store_result with)
{
	answer = with;
	for (unsigned i = 0; i < times; i++)
		(void)!store_head(s, "a", NULL, NULL, NULL, NULL);
}

static void expect_allowed(struct store *s, unsigned want)
{
	unsigned allowed, connections;

	store_limit_read(s, &allowed, &connections);
	assert_int_equal(connections, 16);
	assert_int_equal(allowed, want);
}

static void throttling_halves_and_answers_raise(void **state)
{
	struct store *s = store_limit_new(
		store_fault_new(store_mem_new(STORE_MEM_ALL), answer_hook, NULL), 16);

	ask(s, 100, STORE_OK);
	expect_allowed(s, 16);
	ask(s, 5, STORE_THROTTLED); /* those of one burst count once */
	expect_allowed(s, 8);
	clock_sleep_ms(550);
	ask(s, 1, STORE_THROTTLED);
	expect_allowed(s, 4);
	ask(s, 100, STORE_TRANSIENT); /* no answer, so it says nothing */
	expect_allowed(s, 4);
	ask(s, 31, STORE_ABSENT);
	expect_allowed(s, 4);
	ask(s, 1, STORE_ABSENT);
	expect_allowed(s, 5);
	for (int i = 0; i < 4; i++) {
		clock_sleep_ms(550);
		ask(s, 1, STORE_THROTTLED);
	}
	expect_allowed(s, 1); /* never none */
	ask(s, 2000, STORE_OK);
	expect_allowed(s, 16);
	store_close(s);
}

static int setup(void **state)
{
	mutex_init(&lock, LOCK_RANK_LEAF);
	cond_init(&moved);
	inside = most = entered = let_out = 0;
	*state = store_limit_new(store_fault_new(store_mem_new(STORE_MEM_ALL), gate, NULL), 2);
	return 0;
}

static int teardown(void **state)
{
	store_close(*state);
	cond_done(&moved);
	mutex_done(&lock);
	return 0;
}

static void two_at_once_in_order(void **state)
{
	struct caller c[8];

	memset(c, 0, sizeof(c));
	for (int i = 0; i < 8; i++) {
		start(&c[i], *state, i);
		if (i < 2)
			await_entered(i + 1);
		else
			await_waiting(*state, (unsigned)i - 1); /* before the next one comes */
	}
	assert_int_equal(entered, 2);
	for (int i = 0; i < 8; i++) {
		release(1);
		await_entered(i + 3 < 8 ? i + 3 : 8);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(c[i].thread, NULL);
		assert_int_equal(c[i].result, STORE_ABSENT);
		assert_int_equal(order[i], i);
	}
	assert_int_equal(most, 2);
}

static void waiters_leave(void **state)
{
	atomic_bool cancel = false;
	struct caller c[5];

	memset(c, 0, sizeof(c));
	c[2].call.deadline_ms = clock_monotonic_ms() + 100;
	c[3].call.cancel = &cancel;
	for (int i = 0; i < 5; i++) {
		start(&c[i], *state, i);
		if (i < 2)
			await_entered(i + 1);
		else
			await_waiting(*state, (unsigned)i - 1);
	}
	now_ms += 100;
	pthread_join(c[2].thread, NULL);
	assert_int_equal(c[2].result, STORE_TIMEOUT);
	atomic_store(&cancel, true);
	pthread_join(c[3].thread, NULL);
	assert_int_equal(c[3].result, STORE_LOCAL);
	assert_int_equal(entered, 2);
	/* The one behind them is next, and no place was lost. */
	release(3);
	pthread_join(c[4].thread, NULL);
	pthread_join(c[0].thread, NULL);
	pthread_join(c[1].thread, NULL);
	assert_int_equal(entered, 3);
	assert_int_equal(order[2], 4);
	release(2);
	struct caller more[2];
	memset(more, 0, sizeof(more));
	start(&more[0], *state, 5);
	start(&more[1], *state, 6);
	pthread_join(more[0].thread, NULL);
	pthread_join(more[1].thread, NULL);
	assert_int_equal(more[1].result, STORE_ABSENT);
}

/* The gate notes the order in which waiting calls of other priorities got in. */
static void urgent_first_and_bulk_never_everywhere(void **state)
{
	static const enum store_priority priority[8] = {STORE_BULK, STORE_BULK, STORE_BULK,
		STORE_BULK, STORE_NORMAL, STORE_NORMAL, STORE_URGENT, STORE_NORMAL};
	struct store *s = store_limit_new(
		store_fault_new(store_mem_new(STORE_MEM_ALL), gate, NULL), 4);
	struct caller c[8];

	(void)state;
	memset(c, 0, sizeof(c));
	for (int i = 0; i < 8; i++) {
		c[i].call.priority = priority[i];
		start(&c[i], s, i);
		if (i < 3 || i == 4)
			await_entered(i < 3 ? i + 1 : 4);
		else
			await_waiting(s, i < 4 ? 1 : (unsigned)i - 3);
	}
	/* three bulk ones and a normal one are in; the fourth place was kept free of bulk */
	assert_int_equal(entered, 4);
	assert_int_equal(order[3], 4);
	for (int i = 0; i < 8; i++) {
		release(1);
		await_entered(i + 5 < 8 ? i + 5 : 8);
	}
	for (int i = 0; i < 8; i++)
		pthread_join(c[i].thread, NULL);
	assert_int_equal(order[4], 6);
	assert_int_equal(most, 4);
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(two_at_once_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(waiters_leave, setup, teardown),
		cmocka_unit_test(throttling_halves_and_answers_raise),
		cmocka_unit_test_setup_teardown(
			urgent_first_and_bulk_never_everywhere, setup, teardown),
	};

	clock_set_source(&source);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
