/*
 * Slow regions, and servers that watch how their regions answer: they leave one for another and come
 * back while everything else goes on.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>

#include "src/base/metrics.h"
#include "src/base/random.h"

void sim_flow_event(struct sim *s, unsigned n, unsigned r)
{
	if (random_below(3) == 0) {
		s->region[r].slow_ms = s->region[r].slow_ms ? 0 : (int64_t)random_below(4000);
		sim_trace(s, "r%u takes %" PRId64 " ms", r, s->region[r].slow_ms);
		return;
	}
	/* Its own step, as of a thread; not while another one of the node is on the stack. */
	if (s->node[n].running)
		return;
	s->node[n].running = true;
	s->current = n;
	replicator_step_watch(s->node[n].replicator);
	s->node[n].running = false;
}

void sim_flow_heal(struct sim *s)
{
	for (unsigned r = 0; r < s->regions; r++)
		s->region[r].slow_ms = 0;
}

bool sim_flow_happened(void)
{
	return metric_get(METRIC_REGIONS_LEFT) > 0 && metric_get(METRIC_OBJECTS_COPIED) > 0;
}
