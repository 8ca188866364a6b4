/*
 * Fetching ahead; see pull_ahead.h.
 *
 * A slot:  FREE -> QUEUED -> RUNNING -> DONE -> FREE. The puller takes DONE ones and frees QUEUED and
 * DONE ones; one that is RUNNING and not wanted any more is marked, and its thread frees it.
 *
 * Lock: ahead.lock guards the slots; never held during a request.
 */
#include "replicator/pull_ahead.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "replicator/segment.h"

enum state { FREE, QUEUED, RUNNING, DONE };

struct slot {
	enum state state;
	bool unwanted;
	unsigned at;
	uint64_t size;
	struct region *region;
	char key[AHEAD_KEY_SIZE];
	struct buf body;
	enum store_result result;
	struct store_error error;
};

struct ahead {
	struct mutex lock;
	struct cond work; /* a slot was queued, or stopping */
	struct cond done; /* a slot is done */
	bool stopping;
	struct slot slot[AHEAD_SLOTS];
	pthread_t thread[AHEAD_THREADS];
	unsigned started;
};

int ahead_new(struct ahead **ret)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	mutex_init(&a->lock, LOCK_RANK_REPLICATOR);
	cond_init(&a->work);
	cond_init(&a->done);
	*ret = a;
	return 0;
}

static void free_slot(struct slot *s)
{
	buf_done(&s->body);
	*s = (struct slot){0};
}

void ahead_free(struct ahead *a)
{
	if (!a)
		return;
	ahead_stop(a);
	cond_done(&a->work);
	cond_done(&a->done);
	mutex_done(&a->lock);
	free(a);
}

/* Under the lock: the oldest one that waits; NULL: none does. */
static struct slot *next_slot(struct ahead *a)
{
	struct slot *next = NULL;

	for (unsigned i = 0; i < AHEAD_SLOTS; i++) {
		struct slot *s = &a->slot[i];

		if (s->state == QUEUED && (!next || s->at < next->at))
			next = s;
	}
	return next;
}

/* The slot is RUNNING: its fields but unwanted are this thread's. */
static void fetch(struct slot *s)
{
	struct store_call call = region_call_urgent(s->region, SEGMENT_BYTES_MAX);

	s->result = store_get_buf(s->region->store, s->key, SEGMENT_BYTES_MAX, &s->body, NULL, NULL,
		&call, &s->error);
}

static void *work(void *arg)
{
	struct ahead *a = arg;

	thread_background();
	mutex_lock(&a->lock);
	while (!a->stopping) {
		struct slot *s = next_slot(a);

		if (!s) {
			cond_wait(&a->work, &a->lock);
			continue;
		}
		s->state = RUNNING;
		mutex_unlock(&a->lock);
		fetch(s);
		mutex_lock(&a->lock);
		s->state = DONE;
		if (s->unwanted)
			free_slot(s);
		cond_broadcast(&a->done);
	}
	mutex_unlock(&a->lock);
	return NULL;
}

int ahead_start(struct ahead *a)
{
	a->stopping = false;
	for (; a->started < AHEAD_THREADS; a->started++) {
		int r = thread_start(&a->thread[a->started], "pull-ahead", work, a);
		if (r < 0) {
			ahead_stop(a);
			return r;
		}
	}
	return 0;
}

void ahead_stop(struct ahead *a)
{
	mutex_lock(&a->lock);
	a->stopping = true;
	cond_broadcast(&a->work);
	mutex_unlock(&a->lock);
	while (a->started)
		CHECK(pthread_join(a->thread[--a->started], NULL) == 0);
	for (unsigned i = 0; i < AHEAD_SLOTS; i++)
		free_slot(&a->slot[i]);
}

bool ahead_add(struct ahead *a, struct region *region, const char *key, uint64_t size, unsigned at)
{
	struct slot *room = NULL;
	uint64_t bytes = 0;

	if (!a->started || strlen(key) >= AHEAD_KEY_SIZE)
		return false;
	mutex_lock(&a->lock);
	for (unsigned i = 0; i < AHEAD_SLOTS; i++) {
		if (a->slot[i].state == FREE)
			room = &a->slot[i];
		else
			bytes += a->slot[i].size;
	}
	if (room && (!bytes || bytes + size <= AHEAD_BYTES)) {
		*room = (struct slot){
			.state = QUEUED, .at = at, .size = size ? size : 1, .region = region};
		snprintf(room->key, sizeof(room->key), "%s", key);
		cond_signal(&a->work);
	} else {
		room = NULL;
	}
	mutex_unlock(&a->lock);
	return room != NULL;
}

bool ahead_take(struct ahead *a, const char *key, struct buf *b, enum store_result *result,
	struct store_error *error)
{
	struct slot *s = NULL;

	mutex_lock(&a->lock);
	for (unsigned i = 0; i < AHEAD_SLOTS && !s; i++) {
		if (a->slot[i].state != FREE && !a->slot[i].unwanted &&
			strcmp(a->slot[i].key, key) == 0)
			s = &a->slot[i];
	}
	while (s && s->state != DONE)
		cond_wait(&a->done, &a->lock);
	if (s) {
		buf_done(b);
		*b = s->body;
		s->body = (struct buf){0};
		*result = s->result;
		*error = s->error;
		free_slot(s);
	}
	mutex_unlock(&a->lock);
	return s != NULL;
}

void ahead_forget(struct ahead *a, unsigned at)
{
	mutex_lock(&a->lock);
	for (unsigned i = 0; i < AHEAD_SLOTS; i++) {
		struct slot *s = &a->slot[i];

		if (s->state == FREE || s->at >= at)
			continue;
		if (s->state == RUNNING)
			s->unwanted = true;
		else
			free_slot(s);
	}
	mutex_unlock(&a->lock);
}
