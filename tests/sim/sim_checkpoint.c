/*
 * Checkpoints in the simulation: servers write them often, segments go after hours of the virtual
 * clock, and now and then a server is away for as long, or a new one joins. What must hold is what
 * sim_check.c says, over all segments that were ever published, also those that are gone; and that no
 * server ever passed over a segment.
 */
#include "tests/sim/sim.h"

#include <stdio.h>

#include "replicator/checkpoint.h"
#include "src/base/buf.h"
#include "src/base/random.h"

enum { KEEP_MS = 3 * 3600000, GONE_MS = 3600000, AWAY_EVENTS = 60, AWAY_JUMP_MS = 20 * 60000 };

void sim_checkpoint_options(struct sim *s, struct replicator_options *o)
{
	o->checkpoint_interval_ms = 20000;
	o->checkpoint_segments = 1;
	o->segment_keep_ms = KEEP_MS;
	o->gone_after_ms = GONE_MS;
}

int sim_checkpoint_step(struct sim *s, unsigned n, bool *did)
{
	bool words = false;

	*did = false;
	if (!s->checkpoints)
		return 0;
	int r = replicator_step_checkpoint(s->node[n].replicator, did);
	if (r == 0)
		r = replicator_step_last_words(s->node[n].replicator, &words);
	s->completed |= words;
	if (words)
		sim_trace(s, "n%u looks after what was said by servers that are silent", n);
	*did |= words;
	return r;
}

static void away(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];

	if (node->running)
		return;
	sim_trace(s, "n%u is away", n);
	node->running = true;
	for (unsigned i = 0; i < AWAY_EVENTS; i++) {
		unsigned other = (unsigned)random_below(s->nodes);
		bool did;

		sim_event_without(s, n);
		s->now_ms += (int64_t)random_below(AWAY_JUMP_MS);
		if (other == n || s->node[other].running || random_below(2))
			continue;
		s->node[other].running = true;
		s->current = other;
		int r = sim_checkpoint_step(s, other, &did);
		s->node[other].running = false;
		if (r < 0)
			sim_fail(s, "n%u: writing a checkpoint: %d", other, r);
		if (did)
			sim_trace(s, "n%u checkpoint", other);
	}
	node->running = false;
	sim_trace(s, "n%u is back", n);
}

static void join(struct sim *s)
{
	unsigned n = s->nodes;
	struct sim_node *node = &s->node[n];

	if (n == SIM_NODES_MAX)
		return;
	snprintf(node->dir, sizeof node->dir, "%.*s%u", (int)strlen(s->node[0].dir) - 1,
		s->node[0].dir, n);
	node->home = (unsigned)random_below(s->regions - s->optional);
	sim_trace(s, "n%u joins, home r%u", n, node->home);
	sim_node_open(s, n);
	s->nodes++;
}

/* Never steps again. Its cache stays open: what it listed as conflicts was known to somebody. */
static void die(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];

	if (node->running || s->nodes - s->deaths < 2 || s->unseen)
		return;
	sim_trace(s, "n%u dies", n);
	node->running = node->dead = true;
	s->deaths++;
}

bool sim_checkpoint_last_words(struct sim *s)
{
	if (!s->deaths || s->last_words == 3)
		return false;
	s->last_words++;
	s->now_ms += 2 * GONE_MS;
	for (unsigned n = 0; n < s->nodes; n++) {
		bool did, pulled;

		if (s->node[n].dead)
			continue;
		s->current = n;
		/* Who is up is found out by pulling. */
		if (replicator_step_pull(s->node[n].replicator, &pulled) < 0 ||
			sim_checkpoint_step(s, n, &did) < 0)
			sim_fail(s, "n%u: last words", n);
	}
	return true;
}

void sim_checkpoint_event(struct sim *s)
{
	if (s->mortal)
		die(s, (unsigned)random_below(s->nodes));
	else if (random_below(4) == 0)
		join(s);
	else
		away(s, (unsigned)random_below(s->nodes));
}

void sim_checkpoint_removing(struct sim *s, unsigned r, const char *key)
{
	CLEANUP(buf_done) struct buf b = {0};
	struct store_error error = {0};
	struct segment_id id;

	if (strncmp(key, SEGMENT_PREFIX, strlen(SEGMENT_PREFIX)) != 0)
		return;
	if (!segment_name_parse(key + strlen(SEGMENT_PREFIX), &id))
		sim_fail(s, "r%u: %s is removed", r, key);
	if ((int64_t)id.ms + KEEP_MS > s->now_ms + 300000)
		sim_fail(s, "r%u: %s is removed too early", r, key);
	if (store_get_buf(s->region[r].mem, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, NULL, &error) ==
		STORE_OK)
		CHECK(store_put_buf(s->region[r].removed, key, b.data, b.len, NULL, NULL, NULL,
			      NULL, &error) == STORE_OK);
}
