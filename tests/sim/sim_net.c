/*
 * The network of the simulation. A link is a store of one node onto the bucket of one region. It
 * refuses while the region is down or the node cut off; loses requests and answers; lets
 * conditional puts whose answer was lost arrive late; and now and then runs a step of another node
 * in the middle of a request, so that the requests of several nodes interleave.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdio.h>

#include "replicator/store/layers.h"
#include "src/base/buf.h"
#include "src/base/random.h"

struct link {
	struct store s;
	struct sim *sim;
	unsigned node;
	unsigned region;
};

/* A put that the network still holds. */
struct late {
	struct late *next;
	unsigned region;
	int64_t due_ms;
	char *key;
	struct buf body;
	struct store_meta meta;
	bool if_absent;
	char *if_match;
};
static struct late *late_list;

static void late_free(struct late *l)
{
	free(l->key);
	free(l->if_match);
	buf_done(&l->body);
	store_meta_done(&l->meta);
	free(l);
}

void sim_net_deliver_late(struct sim *s, bool all)
{
	struct late **p = &late_list;

	while (*p) {
		struct late *l = *p;
		if (!all && l->due_ms > s->now_ms) {
			p = &l->next;
			continue;
		}
		*p = l->next;
		struct store_condition condition = {
			.if_absent = l->if_absent, .if_match = l->if_match};
		struct store_error error = {0};
		enum store_result r = store_put_buf(s->region[l->region].mem, l->key, l->body.data,
			l->body.len, &l->meta, &condition, NULL, NULL, &error);
		sim_trace(s, "late put r%u %s: %s", l->region, l->key, store_result_name(r));
		late_free(l);
		/* the list may have changed only by us, but start over to be plain */
		p = &late_list;
	}
}

void sim_net_done(struct sim *s)
{
	while (late_list) {
		struct late *l = late_list;
		late_list = l->next;
		late_free(l);
	}
}

/* Asked before each request. STORE_OK: let it through. */
static enum store_result before(
	struct link *l, const char *op, const char *key, struct store_error *error)
{
	struct sim *s = l->sim;

	s->requests++;
	s->now_ms += s->healed ? 0 : s->region[l->region].slow_ms;
	if (s->region[l->region].down || s->node[l->node].cut[l->region]) {
		snprintf(error->text, sizeof error->text, "cut off");
		return STORE_TRANSIENT;
	}
	if (!s->healed && sim_chance(s->interleave_percent)) {
		unsigned self = s->current;
		sim_random_step(s);
		s->current = self;
	}
	if (!s->healed && sim_chance(s->fault_percent)) {
		snprintf(error->text, sizeof error->text, "injected");
		sim_trace(s, "n%u r%u %s %s: lost on the way", l->node, l->region, op, key);
		return sim_chance(30) ? STORE_THROTTLED : sim_chance(50) ? STORE_TIMEOUT : STORE_TRANSIENT;
	}
	sim_clock_answer(s, &l->s);
	return STORE_OK;
}

static bool lose_answer(struct link *l, const char *op, const char *key)
{
	if (l->sim->healed || !sim_chance(l->sim->fault_percent))
		return false;
	sim_trace(l->sim, "n%u r%u %s %s: answer lost", l->node, l->region, op, key);
	return true;
}

static void outcome(struct link *l, const char *op, const char *key, enum store_result r)
{
	sim_trace(l->sim, "n%u r%u %s %s: %s", l->node, l->region, op, key, store_result_name(r));
}

static struct store *bucket(struct link *l)
{
	return l->sim->region[l->region].mem;
}

static enum store_result link_get(struct store *st, const char *key, uint64_t offset,
	uint64_t length, const char *if_match, const struct store_sink *sink,
	struct store_object *object, struct store_meta *meta, const struct store_call *call,
	struct store_error *error)
{
	struct link *l = (struct link *)st;
	struct sim_wrong_sink wrong;
	enum store_result r = before(l, "get", key, error);
	if (r == STORE_OK)
		r = store_get(bucket(l), key, offset, length, if_match,
			sim_lazy_sink(l->sim, l->node, key, length, sink, &wrong), object, meta, call,
			error);
	outcome(l, "get", key, r);
	return r;
}

/* Keeps a conditional put for later; its sender is told that the outcome is unknown. */
static enum store_result keep_late(struct link *l, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition)
{
	struct late *late = calloc(1, sizeof *late);
	CHECK(late);
	late->region = l->region;
	late->due_ms = l->sim->now_ms + (int64_t)random_below(20000);
	late->key = strdup(key);
	late->if_absent = condition->if_absent;
	late->if_match = condition->if_match ? strdup(condition->if_match) : NULL;
	uint8_t chunk[4096];
	for (uint64_t at = 0; at < source->size;) {
		ssize_t n = source->read(source->ctx, at, chunk, sizeof chunk);
		if (n <= 0) {
			late_free(late);
			return STORE_TRANSIENT;
		}
		buf_put(&late->body, chunk, (size_t)n);
		at += (uint64_t)n;
	}
	for (uint32_t i = 0; meta && i < meta->count; i++)
		CHECK(store_meta_set(&late->meta, meta->item[i].name, meta->item[i].value) == 0);
	late->next = late_list;
	late_list = late;
	return STORE_UNKNOWN;
}

static enum store_result link_put(struct store *st, const char *key,
	const struct store_source *source, const struct store_meta *meta,
	const struct store_condition *condition, char *etag, const struct store_call *call,
	struct store_error *error)
{
	struct link *l = (struct link *)st;
	enum store_result r = before(l, "put", key, error);
	if (r == STORE_OK) {
		bool conditional = condition && (condition->if_absent || condition->if_match);
		if (conditional && !l->sim->healed && sim_chance(l->sim->fault_percent / 3)) {
			r = keep_late(l, key, source, meta, condition);
		} else {
			r = store_put(bucket(l), key, source, meta, condition, etag, call, error);
			if (r == STORE_OK && lose_answer(l, "put", key))
				r = STORE_UNKNOWN;
		}
	}
	outcome(l, "put", key, r);
	return r;
}

static enum store_result link_head(struct store *st, const char *key, struct store_object *object,
	struct store_meta *meta, const struct store_call *call, struct store_error *error)
{
	struct link *l = (struct link *)st;
	enum store_result r = before(l, "head", key, error);
	if (r == STORE_OK)
		r = store_head(bucket(l), key, object, meta, call, error);
	outcome(l, "head", key, r);
	return r;
}

static enum store_result link_list(struct store *st, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	struct link *l = (struct link *)st;
	enum store_result r = before(l, "list", prefix, error);
	return r == STORE_OK
		       ? store_list(bucket(l), prefix, start_after, limit, fn, ctx, call, error)
		       : r;
}

static enum store_result link_remove(struct store *st, const char *key, const char *if_match,
	const struct store_call *call, struct store_error *error)
{
	struct link *l = (struct link *)st;
	enum store_result r = before(l, "remove", key, error);
	if (r == STORE_OK) {
		sim_checkpoint_removing(l->sim, l->region, key);
		sim_covered_removing(l->sim, l->node, l->region, key, if_match);
		r = store_remove(bucket(l), key, if_match, call, error);
		if (r == STORE_OK && lose_answer(l, "remove", key))
			r = STORE_UNKNOWN;
	}
	outcome(l, "remove", key, r);
	return r;
}

static enum store_result link_copy(struct store *st, const char *from, const char *to,
	const struct store_meta *meta, const char *if_match, char *etag,
	const struct store_call *call, struct store_error *error)
{
	struct link *l = (struct link *)st;
	enum store_result r = before(l, "copy", to, error);
	if (r == STORE_OK) {
		if (call->origin)
			r = sim_flow_copy(l->sim, l->region, from, to, meta, if_match, etag, call,
				error);
		else
			r = store_copy(bucket(l), from, to, meta, if_match, etag, call, error);
		if (r == STORE_OK && lose_answer(l, "copy", to))
			r = STORE_UNKNOWN;
	}
	outcome(l, "copy", to, r);
	return r;
}

static void link_close(struct store *st)
{
	free(st); /* the bucket outlives the node */
}

static uint64_t uploads_ended, parts_failed, ends_lost;

bool sim_net_uploads_broke(void)
{
	return uploads_ended && parts_failed && ends_lost;
}

static void count_upload_step(enum store_upload_step step, enum store_result r)
{
	uploads_ended += step == STORE_UPLOAD_END && r == STORE_OK;
	ends_lost += step == STORE_UPLOAD_END && r == STORE_UNKNOWN;
	parts_failed += (step == STORE_UPLOAD_PART || step == STORE_UPLOAD_COPY) && store_result_passing(r);
}

static enum store_result link_upload(struct store *st, const struct store_upload *u,
	const struct store_call *call, struct store_error *error)
{
	static const char *const name[] = {"begin", "part", "part copy", "end", "abort"};
	struct link *l = (struct link *)st;
	enum store_result r = before(l, name[u->step], u->key, error);
	if (r == STORE_OK) {
		if (u->step == STORE_UPLOAD_COPY && call->origin)
			r = sim_flow_copy_part(l->sim, l->region, u, call, error);
		else
			r = bucket(l)->ops->upload(bucket(l), u, call, error);
		if (r == STORE_OK && lose_answer(l, name[u->step], u->key)) {
			r = u->step == STORE_UPLOAD_END ? STORE_UNKNOWN : STORE_TRANSIENT;
			l->sim->lost_begins += u->step == STORE_UPLOAD_BEGIN;
		}
	}
	count_upload_step(u->step, r);
	/* That of a copy is in no record: what is left of it goes after a week. */
	if (u->step == STORE_UPLOAD_ABORT && r != STORE_OK)
		l->sim->lost_begins++;
	outcome(l, name[u->step], u->key, r);
	return r;
}

static enum store_result link_uploads(struct store *st, const char *prefix, store_uploads_fn fn,
	void *ctx, const struct store_call *call, struct store_error *error)
{
	struct link *l = (struct link *)st;
	enum store_result r = before(l, "uploads", prefix, error);
	return r == STORE_OK ? store_uploads(bucket(l), prefix, fn, ctx, call, error) : r;
}

static const struct store_ops link_ops = {
	.name = "link",
	.get = link_get,
	.put = link_put,
	.head = link_head,
	.list = link_list,
	.remove = link_remove,
	.copy = link_copy,
	.upload = link_upload,
	.uploads = link_uploads,
	.close = link_close,
};

struct store *sim_link_new(struct sim *s, unsigned node, unsigned region)
{
	struct link *l = calloc(1, sizeof *l);
	CHECK(l);
	l->s.ops = &link_ops;
	l->s.capabilities = atomic_load(&s->region[region].mem->capabilities);
	l->s.limits = *store_limits(s->region[region].mem);
	l->s.origin = sim_origins[region];
	l->sim = s;
	l->node = node;
	l->region = region;
	return &l->s;
}
