/*
 * Leases; see lease.h. The object is JSON: `node` (16 hexadecimal digits), `until` and `finished`
 * (milliseconds by the store's clock). Whoever cannot read it takes it for nobody's.
 */
#include "replicator/lease.h"

#include <inttypes.h>
#include <stdio.h>

#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/json.h"

enum { BYTES_MAX = 4096 };

int64_t lease_now_ms(const struct lease *l)
{
	int64_t now = clock_realtime_ms() + store_clock_skew_ms(l->region->store);

	return now > 0 ? now : 0;
}

static enum store_result put(struct lease *l, int64_t until_ms, bool absent)
{
	struct region *r = l->region;
	unsigned caps = atomic_load(&r->store->capabilities);
	struct store_call call = region_call(r, 0);
	struct store_condition condition = {0};
	struct store_error error = {0};
	struct json *j = json_new();
	char node[24], etag[STORE_ETAG_SIZE] = "";

	snprintf(node, sizeof(node), "%016" PRIx64, cache_node(l->cache));
	json_put_str(j, "node", node);
	json_put_int(j, "until", until_ms);
	if (l->finished_ms)
		json_put_int(j, "finished", l->finished_ms);
	AUTO_FREE char *text = json_text(j);
	json_free(j);
	if (!text)
		return STORE_LOCAL;
	condition.if_absent = absent && (caps & STORE_CAP_PUT_IF_ABSENT);
	if (!absent && l->etag[0] && (caps & STORE_CAP_PUT_IF_MATCH))
		condition.if_match = l->etag;
	enum store_result result = store_put_buf(
		r->store, l->key, text, strlen(text), NULL, &condition, etag, &call, &error);
	region_end(r, REGION_WRITE, result, &error, "put a lease");
	if (result == STORE_OK) {
		memcpy(l->etag, etag, sizeof(etag));
		l->until_ms = until_ms;
	}
	return result;
}

/* Whether it is another server's, and has not run out yet. Nobody believes one that is longer than any. */
static bool parse(struct lease *l, const struct buf *b)
{
	struct json_object *o = NULL;
	int64_t until = 0, now = lease_now_ms(l);
	char node[24];
	bool own;

	l->finished_ms = 0;
	if (json_parse((const char *)b->data, b->len, &o) < 0)
		return false;
	snprintf(node, sizeof(node), "%016" PRIx64, cache_node(l->cache));
	const char *holder = json_get_str(o, "node");
	own = holder && strcmp(holder, node) == 0;
	if (!json_get_int(o, "until", &until))
		until = 0;
	if (!json_get_int(o, "finished", &l->finished_ms) || l->finished_ms < 0)
		l->finished_ms = 0;
	json_object_free(o);
	return !own && until > now && until <= now + 2 * LEASE_MS;
}

static enum store_result get(struct lease *l, bool *taken)
{
	struct region *r = l->region;
	struct store_call call = region_call(r, 0);
	CLEANUP(buf_done) struct buf b = {0};
	struct store_object object = {0};
	struct store_error error = {0};

	enum store_result result =
		store_get_buf(r->store, l->key, BYTES_MAX, &b, &object, NULL, &call, &error);
	region_end(r, REGION_READ, result, &error, "get a lease");
	*taken = result == STORE_OK && parse(l, &b);
	memcpy(l->etag, object.etag, sizeof(l->etag));
	return result;
}

bool lease_read(struct lease *l, bool *taken)
{
	enum store_result r = get(l, taken);

	return r == STORE_OK || r == STORE_ABSENT || r == STORE_TOO_LARGE;
}

bool lease_take(struct lease *l)
{
	bool taken;
	enum store_result r = get(l, &taken);

	if (taken || (r != STORE_OK && r != STORE_ABSENT && r != STORE_TOO_LARGE))
		return false;
	return put(l, lease_now_ms(l) + LEASE_MS, r == STORE_ABSENT) == STORE_OK;
}

bool lease_keep(struct lease *l)
{
	if (l->until_ms - lease_now_ms(l) > LEASE_MS / 2)
		return true;
	return put(l, lease_now_ms(l) + LEASE_MS, false) == STORE_OK;
}

void lease_give(struct lease *l)
{
	(void)put(l, 0, false);
	l->until_ms = 0;
}
