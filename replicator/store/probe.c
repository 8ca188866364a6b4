/*
 * Finds out by behaviour what a store can do, because neither its name nor its version tells:
 * stores that do not know a condition mostly ignore it in silence, and some refuse every If-Match.
 * Each capability counts only when the condition lets the right request through *and* stops the
 * wrong one.
 *
 * Works on objects below .meridian/probe/<random>/, which it removes again, also after a failure.
 * What a probe left that was killed halfway, an upload in parts too, goes with a later one. A
 * failure that is not an answer about a condition (denied, timeout …) ends the probe and is
 * returned: it is not a missing capability. No lock; the capabilities are stored at the end, in one
 * atomic write.
 */
#include "replicator/store/layers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/random.h"

#define PROBE_PREFIX ".meridian/probe/"

enum {
	OLD_MS = 3600000, /* by the store's clock; a probe takes seconds */
	OLD_MAX = 100,	  /* of a listing: the rest goes with the next probe */
};

struct probe {
	struct store *s;
	const struct store_call *call;
	struct store_error *error;
	unsigned found;
	char a[64]; /* the object that conditions are tried on */
	char b[64]; /* put if absent, then target of copies */
};

/* True for the answers that say "no" to a condition or operation; anything else is a failure of the
 * probe. */
static bool is_refusal(enum store_result r)
{
	return r == STORE_EXISTS || r == STORE_PRECONDITION || r == STORE_UNSUPPORTED;
}

/* Past the gateway, which would refuse what an earlier probe did not find. */
static enum store_result put(struct probe *p, const char *key, const char *body, const char *mark,
	const struct store_condition *condition, char *etag)
{
	struct store_memory memory = {.p = body, .len = strlen(body)};
	struct store_source source = store_source_memory(&memory);
	CLEANUP(store_meta_done) struct store_meta meta = {0};

	/* The mark tells attempts apart when the retry layer has to verify one. */
	if (store_meta_set(&meta, "meridian-probe", mark) < 0)
		return store_error_local(p->error, -ENOMEM, "probe metadata");
	memset(p->error, 0, sizeof(*p->error));
	return p->s->ops->put(p->s, key, &source, &meta, condition, etag, p->call, p->error);
}

static enum store_result etag_of(struct probe *p, const char *key, char etag[STORE_ETAG_SIZE])
{
	struct store_object object = {0};

	if (*etag)
		return STORE_OK;
	enum store_result r = store_head(p->s, key, &object, NULL, p->call, p->error);
	if (r == STORE_OK)
		memcpy(etag, object.etag, STORE_ETAG_SIZE);
	return r;
}

static enum store_result probe_if_absent(struct probe *p)
{
	const struct store_condition absent = {.if_absent = true};
	char etag[STORE_ETAG_SIZE] = "";

	enum store_result r = put(p, p->b, "1", "absent-1", &absent, etag);
	if (is_refusal(r))
		return STORE_OK;
	if (r != STORE_OK)
		return r;
	r = put(p, p->b, "22", "absent-2", &absent, etag);
	if (r == STORE_EXISTS)
		p->found |= STORE_CAP_PUT_IF_ABSENT;
	return r == STORE_OK || is_refusal(r) ? STORE_OK : r;
}

/* Leaves the object's ETag in now and one that it had before in stale. */
static enum store_result probe_if_match(
	struct probe *p, char stale[STORE_ETAG_SIZE], char now[STORE_ETAG_SIZE])
{
	const struct store_condition none = {0};
	struct store_condition match = {.if_match = stale};

	enum store_result r = put(p, p->a, "first", "match-1", &none, stale);
	if (r == STORE_OK)
		r = etag_of(p, p->a, stale);
	if (r != STORE_OK)
		return r;
	enum store_result right = put(p, p->a, "second one", "match-2", &match, now);
	r = is_refusal(right) ? put(p, p->a, "second one", "match-2", &none, now) : right;
	if (r == STORE_OK)
		r = etag_of(p, p->a, now);
	if (r != STORE_OK || right != STORE_OK)
		return r;

	char after[STORE_ETAG_SIZE] = "";
	r = put(p, p->a, "third and wrong", "match-3", &match, after);
	if (r == STORE_PRECONDITION)
		p->found |= STORE_CAP_PUT_IF_MATCH;
	if (r == STORE_OK) {
		memcpy(now, after, STORE_ETAG_SIZE);
		return etag_of(p, p->a, now);
	}
	return is_refusal(r) ? STORE_OK : r;
}

static enum store_result copy(
	struct probe *p, const char *to, const char *mark, const char *if_match)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	char etag[STORE_ETAG_SIZE] = "";

	if (store_meta_set(&meta, "meridian-probe", mark) < 0)
		return store_error_local(p->error, -ENOMEM, "probe metadata");
	memset(p->error, 0, sizeof(*p->error));
	if (!p->s->ops->copy)
		return STORE_UNSUPPORTED;
	return p->s->ops->copy(p->s, p->a, to, &meta, if_match, etag, p->call, p->error);
}

static enum store_result probe_copy(struct probe *p, const char *stale, const char *now)
{
	CLEANUP(store_meta_done) struct store_meta have = {0};
	struct store_object from = {0}, to = {0};

	enum store_result r = copy(p, p->b, "copied", NULL);
	if (is_refusal(r))
		return STORE_OK;
	if (r == STORE_OK)
		r = store_head(p->s, p->a, &from, NULL, p->call, p->error);
	if (r == STORE_OK)
		r = store_head(p->s, p->b, &to, &have, p->call, p->error);
	if (r != STORE_OK)
		return r;
	const char *mark = store_meta_get(&have, "meridian-probe");
	if (from.size != to.size || !mark || strcmp(mark, "copied"))
		return STORE_OK;
	p->found |= STORE_CAP_COPY;

	r = copy(p, p->b, "stale", stale);
	if (r == STORE_PRECONDITION) {
		r = copy(p, p->b, "right", now);
		if (r == STORE_OK)
			p->found |= STORE_CAP_COPY_IF_MATCH;
	}
	return r == STORE_OK || is_refusal(r) ? STORE_OK : r;
}

static enum store_result remove_if(struct probe *p, const char *etag)
{
	memset(p->error, 0, sizeof(*p->error));
	return p->s->ops->remove(p->s, p->a, etag, p->call, p->error);
}

static enum store_result probe_delete(struct probe *p, const char *stale, const char *now)
{
	struct store_object object;

	enum store_result r = remove_if(p, stale);
	if (r != STORE_PRECONDITION)
		return r == STORE_OK || is_refusal(r) ? STORE_OK : r;
	r = store_head(p->s, p->a, &object, NULL, p->call, p->error);
	if (r != STORE_OK)
		return r == STORE_ABSENT ? STORE_OK : r;
	r = remove_if(p, now);
	if (is_refusal(r))
		return STORE_OK;
	if (r != STORE_OK)
		return r;
	r = store_head(p->s, p->a, &object, NULL, p->call, p->error);
	if (r == STORE_ABSENT) {
		p->found |= STORE_CAP_DELETE_IF_MATCH;
		r = STORE_OK;
	}
	return r;
}

/* One upload of one part, begun. */
struct probe_upload {
	struct probe *p;
	char id[STORE_UPLOAD_ID_SIZE];
	struct store_part part;
	struct store_meta meta;
};

/* Past the gateway, like put. */
static enum store_result end_upload(struct probe_upload *u, const struct store_condition *condition)
{
	char etag[STORE_ETAG_SIZE] = "";
	const struct store_upload end = {.step = STORE_UPLOAD_END,
		.key = u->p->b,
		.id = u->id,
		.meta = &u->meta,
		.part = &u->part,
		.part_count = 1,
		.condition = condition,
		.etag = etag};

	memset(u->p->error, 0, sizeof(*u->p->error));
	return u->p->s->ops->upload(u->p->s, &end, u->p->call, u->p->error);
}

/* The object is there, so neither condition holds. An upload that ended all the same is gone. */
static enum store_result probe_end(struct probe_upload *u, const char *stale)
{
	const struct store_condition absent = {.if_absent = true}, match = {.if_match = stale};

	enum store_result r = end_upload(u, &absent);
	if (r == STORE_EXISTS) {
		r = end_upload(u, &match);
		if (r == STORE_PRECONDITION)
			u->p->found |= STORE_CAP_UPLOAD_IF;
	}
	return is_refusal(r) || r == STORE_ABSENT ? STORE_OK : r;
}

static enum store_result probe_parts(struct probe_upload *u)
{
	struct store_memory memory = {.p = "part", .len = 4};
	struct store_source source = store_source_memory(&memory);
	struct store_part copied = {.number = 2};
	struct probe *p = u->p;

	enum store_result r =
		store_upload_part(p->s, p->b, u->id, &source, &u->part, p->call, p->error);
	if (r != STORE_OK)
		return r;
	p->found |= STORE_CAP_UPLOAD;
	r = store_upload_copy(p->s, p->b, u->id, p->b, 0, 1, NULL, &copied, p->call, p->error);
	if (r == STORE_OK)
		p->found |= STORE_CAP_UPLOAD_COPY;
	return is_refusal(r) || r == STORE_ABSENT ? STORE_OK : r;
}

static enum store_result probe_upload(struct probe *p, const char *stale)
{
	const struct store_condition none = {0};
	struct probe_upload u = {.p = p, .part = {.number = 1}};
	char etag[STORE_ETAG_SIZE] = "";
	struct store_error abort_error = {0};

	if (!p->s->ops->upload)
		return STORE_OK;
	if (store_meta_set(&u.meta, "meridian-probe", "upload") < 0)
		return store_error_local(p->error, -ENOMEM, "probe metadata");
	enum store_result r = STORE_OK;
	if (!(p->found & STORE_CAP_PUT_IF_ABSENT))
		r = put(p, p->b, "1", "upload", &none, etag);
	if (r == STORE_OK)
		r = store_upload_begin(p->s, p->b, &u.meta, u.id, p->call, p->error);
	if (r == STORE_OK) {
		r = probe_parts(&u);
		if (r == STORE_OK)
			r = probe_end(&u, stale);
		enum store_result aborted =
			store_upload_abort(p->s, p->b, u.id, p->call, &abort_error);
		if (r == STORE_OK && aborted != STORE_OK) {
			*p->error = abort_error;
			r = aborted;
		}
	}
	store_meta_done(&u.meta);
	return is_refusal(r) ? STORE_OK : r;
}

static enum store_result probe_clean(struct probe *p, struct store_error *error)
{
	static const struct store_call anew;
	enum store_result ra, rb;

	/* A cancelled or late probe still cleans up, in time of its own. */
	ra = store_remove(p->s, p->a, NULL, &anew, error);
	rb = store_remove(p->s, p->b, NULL, &anew, error);
	return ra != STORE_OK ? ra : rb;
}

/* What is left of probes that were killed. */
struct old {
	int64_t before_ms;
	unsigned count;
	struct {
		char key[STORE_KEY_MAX + 1];
		char id[STORE_UPLOAD_ID_SIZE]; /* "": an object */
	} item[OLD_MAX];
};

static int add_old(void *ctx, const char *key, const char *id, int64_t made_ms)
{
	struct old *o = ctx;

	/* Nothing is concluded from a listing without times, or of more than was asked for. */
	if (made_ms <= 0 || made_ms >= o->before_ms ||
		strncmp(key, PROBE_PREFIX, strlen(PROBE_PREFIX)) != 0)
		return 0;
	snprintf(o->item[o->count].key, sizeof(o->item[0].key), "%s", key);
	snprintf(o->item[o->count].id, sizeof(o->item[0].id), "%s", id);
	return ++o->count == OLD_MAX;
}

static int add_old_object(void *ctx, const char *key, const struct store_object *object)
{
	return add_old(ctx, key, "", object->mtime_ms);
}

/* They do no harm, and a store may not let us list uploads: a failure is none of the probe's. */
static void remove_old(struct probe *p)
{
	struct store_error error = {0};
	struct old *o = calloc(1, sizeof(*o));

	if (!o)
		return;
	o->before_ms = clock_realtime_ms() + store_clock_skew_ms(p->s) - OLD_MS;
	enum store_result r = store_list(
		p->s, PROBE_PREFIX, NULL, 0, add_old_object, o, p->call, &error);
	if (p->found & STORE_CAP_UPLOAD && o->count < OLD_MAX)
		r = store_uploads(p->s, PROBE_PREFIX, add_old, o, p->call, &error);
	for (unsigned i = 0; i < o->count; i++) {
		r = *o->item[i].id ? store_upload_abort(p->s, o->item[i].key, o->item[i].id,
					     p->call, &error)
				   : store_remove(p->s, o->item[i].key, NULL, p->call, &error);
		if (r != STORE_OK)
			break;
	}
	(void)r;
	free(o);
}

enum store_result store_probe(
	struct store *s, const struct store_call *call, struct store_error *error)
{
	static const struct store_call no_call;
	struct store_error own_error = {0}, clean_error = {0};
	struct probe p = {
		.s = s, .call = call ? call : &no_call, .error = error ? error : &own_error};
	char stale[STORE_ETAG_SIZE] = "", now[STORE_ETAG_SIZE] = "";
	uint64_t id = random_u64();
	char hex[17];

	hex_encode(&id, sizeof(id), hex);
	snprintf(p.a, sizeof(p.a), PROBE_PREFIX "%s/a", hex);
	snprintf(p.b, sizeof(p.b), PROBE_PREFIX "%s/b", hex);
	enum store_result r = probe_if_match(&p, stale, now);
	/* Nothing was written then, and the store does not let us: cleaning would only fail again.
	 */
	if (r == STORE_DENIED)
		return r;
	if (r == STORE_OK)
		r = probe_if_absent(&p);
	if (r == STORE_OK)
		r = probe_copy(&p, stale, now);
	if (r == STORE_OK)
		r = probe_upload(&p, stale);
	if (r == STORE_OK)
		r = probe_delete(&p, stale, now);
	enum store_result cleaned = probe_clean(&p, &clean_error);
	if (r == STORE_OK && cleaned != STORE_OK) {
		*p.error = clean_error;
		return cleaned;
	}
	if (r != STORE_OK)
		return r;
	remove_old(&p);
	memset(p.error, 0, sizeof(*p.error));
	atomic_store_explicit(&s->capabilities, p.found, memory_order_relaxed);
	return STORE_OK;
}
