/*
 * An optional region: the last of a cluster's. Nothing waits for it, what only it lacks may be evicted, and when it is out it
 * is given up after few changes, by each server for itself. In the end its bucket must be as every other
 * (sim_check.c).
 */
#include "tests/sim/sim.h"

#include "src/base/metrics.h"

#define BACKLOG 4
#define AGE_MS 20000

bool sim_is_optional(const struct sim *s, unsigned region)
{
	return s->optional && region == s->regions - 1;
}

void sim_optional_options(const struct sim *s, struct replicator_options *o)
{
	for (unsigned r = 0; r < s->regions; r++) {
		o->region[r].optional = sim_is_optional(s, r);
		o->region[r].resync_backlog = BACKLOG;
		o->region[r].resync_age_ms = AGE_MS;
	}
}

bool sim_optional_step(struct sim *s, unsigned n)
{
	struct replicator_status *status;
	bool more = true, running;
	int r = 0;

	if (!s->optional)
		return false;
	/* Once healed all that a start left to do, and what takes more than a step. */
	for (unsigned i = 0; r == 0 && more && i < (s->healed ? 1000 : 1); i++)
		r = replicator_step_upkeep(s->node[n].replicator, &more);
	if (r < 0)
		sim_fail(s, "n%u: step upkeep: %d", n, r);
	if (!s->healed)
		return more;
	status = calloc(1, sizeof *status);
	CHECK(status && replicator_status(s->node[n].replicator, status) == 0);
	running = status->region[s->regions - 1].resync.state != RESYNC_NONE;
	free(status);
	return running;
}

bool sim_optional_happened(void)
{
	return metric_get(METRIC_RESYNCS) > 0;
}
