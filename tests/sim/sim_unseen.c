/*
 * Programs that write while the node seals or merges. The kernel may pass writes straight to the
 * content file of an open file (file_unseen), so they come between any two lines of a step: here
 * whenever the step reads the clock, which it does inside its transactions, too. Nothing of the
 * cache is called then, as locks may be held.
 *
 * What must hold: the last such write of an inode is acknowledged. Unless an application wrote over
 * it, or took the inode's last name, it is published in the end, or kept for a conflict.
 *
 * The draws are its own, so that the seed's other events stay what they are.
 */
#include "tests/sim/sim.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/conflict.h"
#include "cache/internal.h"
#include "cache/tree.h"

#define CONTENT_MAX 4096

struct write {
	unsigned node;
	uint64_t ino;
	uint8_t hash[SHA256_SIZE];
	bool named; /* before the operation under way */
	bool found; /* in what was published, or another node knows it */
	bool kept;  /* by a conflict */
};

struct sim_unseen {
	uint64_t random;
	unsigned rate; /* one of so many reads of the clock sees a burst of writes */
	uint64_t written;
	unsigned count;
	struct write *list;
	bool named[SIM_OPEN_MAX]; /* before the operation under way */
};

static uint64_t checks;

static unsigned draw(struct sim *s, unsigned below)
{
	uint64_t x = s->unseen->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	s->unseen->random = x;
	return (unsigned)(x >> 32) % below;
}

void sim_unseen_begin(struct sim *s)
{
	if (s->seed % 3)
		return;
	s->unseen = calloc(1, sizeof *s->unseen);
	CHECK(s->unseen);
	s->unseen->random = s->seed * 0x9e3779b97f4a7c15u | 1;
	s->unseen->rate = 2 + draw(s, 20);
}

void sim_unseen_done(struct sim *s)
{
	if (s->unseen)
		free(s->unseen->list);
	free(s->unseen);
	s->unseen = NULL;
}

uint64_t sim_unseen_checks(void)
{
	return checks;
}

static bool has_name(struct sim *s, unsigned n, uint64_t ino)
{
	struct inode inode;

	return tree_getattr(s->node[n].cache, ino, &inode) == 0 && inode.nlink > 0;
}

bool sim_unseen_open(struct sim *s, struct file *file)
{
	if (!s->unseen || draw(s, 4) == 0)
		return false;
	file_unseen(file, O_WRONLY);
	return true;
}

bool sim_unseen_takes(struct sim *s)
{
	return s->unseen && draw(s, 3) == 0;
}

static struct write *find(struct sim *s, unsigned n, uint64_t ino)
{
	for (unsigned i = 0; i < s->unseen->count; i++) {
		struct write *w = &s->unseen->list[i];

		if (w->node == n && w->ino == ino)
			return w;
	}
	return NULL;
}

void sim_unseen_forget(struct sim *s, unsigned n, uint64_t ino)
{
	struct write *w = s->unseen ? find(s, n, ino) : NULL;

	if (w)
		*w = s->unseen->list[--s->unseen->count];
}

void sim_unseen_write(struct sim *s, unsigned n, struct file *file)
{
	struct sim_unseen *u = s->unseen;
	struct write *w = find(s, n, file_ino(file));
	char text[CONTENT_MAX];
	int len = snprintf(text, sizeof text, "unseen %" PRIu64 " by n%u", ++u->written, n);
	ssize_t size;

	CHECK(pwrite(file_fd(file), text, (size_t)len, 0) == len);
	sim_trace(s, "n%u writes unseen ino %" PRIu64 " \"%s\"", n, file_ino(file), text);
	if (!w) {
		u->list = realloc(u->list, (u->count + 1) * sizeof *u->list);
		CHECK(u->list);
		w = &u->list[u->count++];
		*w = (struct write){.node = n, .ino = file_ino(file)};
	}
	size = pread(file_fd(file), text, sizeof text, 0);
	CHECK(size >= len);
	sha256(text, (size_t)size, w->hash);
	w->found = false;
}

void sim_unseen_tick(struct sim *s)
{
	struct sim_node *node = &s->node[s->current];

	if (!s->unseen || s->healed || !node->running)
		return;
	/* In a crowd within transactions only: what is written before them is sealed first. */
	if (s->crowded ? !atomic_load(&node->cache->writer_owner) || draw(s, 3)
		       : draw(s, s->unseen->rate))
		return;
	for (unsigned i = 0; i < SIM_OPEN_MAX; i++) {
		if (!node->open[i] || !node->unseen[i] || draw(s, 4) == 0)
			continue;
		sim_unseen_write(s, s->current, node->open[i]);
		/* Often its last: what the cache missed then comes to light by no later one. */
		node->unseen[i] = draw(s, 2);
	}
}

void sim_unseen_before(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];

	for (unsigned i = 0; s->unseen && i < SIM_OPEN_MAX; i++)
		s->unseen->named[i] = node->open[i] && has_name(s, n, file_ino(node->open[i]));
	for (unsigned i = 0; s->unseen && i < s->unseen->count; i++) {
		struct write *w = &s->unseen->list[i];

		w->named = w->node == n && has_name(s, n, w->ino);
	}
}

void sim_unseen_after(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];

	for (unsigned i = 0; s->unseen && i < SIM_OPEN_MAX; i++) {
		uint64_t ino = node->open[i] ? file_ino(node->open[i]) : 0;

		if (ino && s->unseen->named[i] && !has_name(s, n, ino))
			node->unseen[i] = false;
	}
	for (unsigned i = s->unseen ? s->unseen->count : 0; i-- > 0;) {
		struct write *w = &s->unseen->list[i];

		if (w->node == n && w->named && !has_name(s, n, w->ino))
			*w = s->unseen->list[--s->unseen->count];
	}
}

void sim_unseen_published(struct sim *s, const uint8_t hash[SHA256_SIZE])
{
	for (unsigned i = 0; s->unseen && i < s->unseen->count; i++) {
		struct write *w = &s->unseen->list[i];

		w->found |= memcmp(w->hash, hash, SHA256_SIZE) == 0;
	}
}

void sim_unseen_learnt(struct sim *s, unsigned n)
{
	struct conn *conn;

	if (!s->unseen || !s->unseen->count)
		return;
	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	for (unsigned p = 0; p < SIM_PATHS; p++) {
		struct entry e CLEANUP(entry_done) = {0};

		if (entry_get(conn, slice_of(sim_paths[p]), &e) < 0 || e.kind != KIND_FILE)
			continue;
		for (unsigned i = 0; i < s->unseen->count; i++) {
			struct write *w = &s->unseen->list[i];

			w->found |= w->node != n && memcmp(w->hash, e.hash, sizeof w->hash) == 0;
		}
	}
	cache_read_end(conn);
}

struct kept {
	struct sim *s;
	unsigned node;
};

static int compare_kept(void *ctx, uint64_t id, struct slice key, const struct entry *loser,
	uint64_t ino, int64_t at_ms, const char *reason)
{
	const struct kept *k = ctx;
	struct write *w = ino ? find(k->s, k->node, ino) : NULL;

	/* Listed as what it is. */
	if (w)
		w->kept |= memcmp(loser->hash, w->hash, SHA256_SIZE) == 0;
	return 0;
}

static bool holds(struct sim *s, const struct write *w)
{
	uint8_t hash[SHA256_SIZE];
	char content[CONTENT_MAX];
	struct file *file;
	ssize_t size;

	if (file_open(s->node[w->node].cache, w->ino, false, false, &file))
		return false;
	size = file_read(file, content, sizeof content, 0);
	CHECK(size >= 0);
	sha256(content, (size_t)size, hash);
	file_release(file);
	return memcmp(hash, w->hash, sizeof hash) == 0;
}

void sim_unseen_check(struct sim *s)
{
	for (unsigned n = 0; s->unseen && n < s->nodes; n++) {
		struct kept k = {s, n};
		struct conn *conn;

		s->current = n;
		CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
		CHECK(conflict_scan(conn, 0, 100000, compare_kept, &k) == 0);
		cache_read_end(conn);
	}
	for (unsigned i = 0; s->unseen && i < s->unseen->count; i++) {
		struct write *w = &s->unseen->list[i];

		s->current = w->node;
		checks++;
		if (!w->found && !(w->kept && holds(s, w)))
			sim_fail(s, "n%u: what was written unseen to ino %" PRIu64 " is lost",
				w->node, w->ino);
	}
}
