/*
 * Slow regions, and servers that watch how their regions answer: they leave one for another and come
 * back while everything else goes on.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <string.h>

#include "replicator/store/layers.h"
#include "src/base/buf.h"
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

/* ---- copies between buckets ---- */

const char *const sim_origins[SIM_REGIONS_MAX] = {"/r0/", "/r1/", "/r2/"};
static uint64_t crossed;

static struct store *source_of(struct sim *s, const struct store_call *call)
{
	for (unsigned r = 0; r < s->regions; r++)
		if (strcmp(call->origin, sim_origins[r]) == 0)
			return s->region[r].mem;
	sim_fail(s, "a copy from %s", call->origin);
}

/* Reads the source whole: a refusal now and then, as of credentials that may not read it. */
static enum store_result read_source(struct sim *s, const char *from, const char *if_match,
	struct buf *b, const struct store_call *call, struct store_error *error)
{
	struct store *source = source_of(s, call);
	struct store_object object = {0};
	enum store_result r = store_get_buf(source, from, 1 << 20, b, &object, NULL, NULL, error);

	if (!s->healed && random_below(20) == 0)
		return STORE_DENIED;
	if (r == STORE_OK && if_match && strcmp(if_match, object.etag) != 0)
		return STORE_PRECONDITION;
	crossed += r == STORE_OK;
	return r;
}

enum store_result sim_flow_copy(struct sim *s, unsigned region, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	CLEANUP(buf_done) struct buf b = {0};
	enum store_result r = read_source(s, from, if_match, &b, call, error);

	if (r != STORE_OK)
		return r;
	return store_put_buf(
		s->region[region].mem, to, b.data, b.len, meta, NULL, etag, NULL, error);
}

enum store_result sim_flow_copy_part(struct sim *s, unsigned region, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	CLEANUP(buf_done) struct buf b = {0};
	enum store_result r = read_source(s, u->from, u->if_match, &b, call, error);
	struct store_part part = {.number = u->number};

	if (r != STORE_OK)
		return r;
	if (u->offset + u->length > b.len)
		return store_error_set(error, STORE_UNSUPPORTED, "the source is shorter");
	struct store_memory memory = {b.data + u->offset, u->length};
	struct store_source source = store_source_memory(&memory);
	r = store_upload_part(s->region[region].mem, u->key, u->id, &source, &part, NULL, error);
	if (r == STORE_OK)
		memcpy(u->etag, part.etag, sizeof part.etag);
	return r;
}

void sim_flow_heal(struct sim *s)
{
	for (unsigned r = 0; r < s->regions; r++)
		s->region[r].slow_ms = 0;
}

bool sim_flow_happened(void)
{
	return crossed > 0 && metric_get(METRIC_REGIONS_LEFT) > 0 && metric_get(METRIC_OBJECTS_COPIED) > 0;
}
