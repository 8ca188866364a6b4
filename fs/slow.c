/*
 * Operations that wait for a disk: a few threads of their own, so that flushes neither stop the two
 * workers nor each other (flushes that run at once share one in the cache). The queue is bounded by
 * the number of processes that wait in fsync(2), each for its own.
 */
#include "fs/internal.h"

#include <stdlib.h>

struct slow_job {
	struct slow_job *next;
	fuse_req_t req;
	bool answer; /* only answers, with result */
	int result;
	struct file *file; /* cannot be released before the answer: the caller holds it open */
	uint64_t ino;
	bool data_only;
	size_t written; /* what is answered, by a write that is to be durable; 0: none */
};

void slow_init(struct slow_pool *s)
{
	mutex_init(&s->lock, LOCK_RANK_LEAF);
	cond_init(&s->changed);
	s->tail = &s->head;
}

void slow_done(struct slow_pool *s)
{
	cond_done(&s->changed);
	mutex_done(&s->lock);
}

static void run_job(struct fs *fs, const struct slow_job *job)
{
	if (job->answer) {
		/* Waits for the interrupt handler that holds the request's lock. */
		fuse_req_interrupt_func(job->req, NULL, NULL);
		reply(job->req, job->result);
	} else {
		int r = job->file ? file_fsync(job->file, job->data_only) : cache_sync(fs->cache);

		if (r)
			reply(job->req, r);
		else
			wait_durable(job->req, job->ino, job->written);
	}
}

static void *run(void *arg)
{
	struct fs *fs = arg;
	struct slow_pool *s = &fs->slow;

	on_worker = true;
	mutex_lock(&s->lock);
	for (;;) {
		struct slow_job *job = s->head;

		if (!job) {
			if (s->closed)
				break;
			cond_wait(&s->changed, &s->lock);
			continue;
		}
		s->head = job->next;
		if (!s->head)
			s->tail = &s->head;
		mutex_unlock(&s->lock);
		run_job(fs, job);
		free(job);
		mutex_lock(&s->lock);
	}
	mutex_unlock(&s->lock);
	return NULL;
}

int slow_start(struct fs *fs)
{
	struct slow_pool *s = &fs->slow;

	while (s->started < SLOW_THREADS) {
		int r = thread_start(&s->threads[s->started], "fs-sync", run, fs);

		if (r)
			return r;
		s->started++;
	}
	return 0;
}

void slow_stop(struct fs *fs)
{
	struct slow_pool *s = &fs->slow;

	mutex_lock(&s->lock);
	s->closed = true;
	cond_broadcast(&s->changed);
	mutex_unlock(&s->lock);
	while (s->started > 0)
		pthread_join(s->threads[--s->started], NULL);
}

static void submit(struct fs *fs, struct slow_job job)
{
	struct slow_pool *s = &fs->slow;
	struct slow_job *p = malloc(sizeof(*p));

	CHECK(p != NULL);
	*p = job;
	p->next = NULL;
	mutex_lock(&s->lock);
	*s->tail = p;
	s->tail = &p->next;
	cond_signal(&s->changed);
	mutex_unlock(&s->lock);
}

void slow_sync(fuse_req_t req, uint64_t ino, struct file *file, bool data_only, size_t written)
{
	submit(fs_of(req), (struct slow_job){.req = req,
				   .ino = ino,
				   .file = file,
				   .data_only = data_only,
				   .written = written});
}

void slow_reply(struct fs *fs, fuse_req_t req, int r)
{
	submit(fs, (struct slow_job){.req = req, .answer = true, .result = r});
}
