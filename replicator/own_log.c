/*
 * A server that goes back in time, and does not notice, gives the numbers of segments that others have
 * merged to new ones, which they then pass over, and never learns of its own changes in between. So the
 * log is looked at once, before the first segment of a process goes out.
 */
#include "replicator/own_log.h"

#include <inttypes.h>
#include <stdio.h>

#include "cache/cache.h"
#include "replicator/segment.h"
#include "src/base/clock.h"
#include "src/base/log.h"

enum { PAGE_NAMES = 1000 };

#define KEY_SIZE (sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE)

struct look {
	uint64_t node;
	const char *pending; /* known, though not as sent */
	uint64_t seq;	     /* the greatest unknown one, 0: none */
	char name[SEGMENT_NAME_SIZE];
	char last[KEY_SIZE];
	unsigned listed;
};

static int look_at(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	struct look *l = ctx;
	const char *name = key + strlen(SEGMENT_PREFIX);
	struct segment_id id;

	l->listed++;
	if (strlen(key) < sizeof(l->last))
		memcpy(l->last, key, strlen(key) + 1);
	if (segment_name_parse(name, &id) && id.node == l->node && id.seq > l->seq &&
		strcmp(name, l->pending) != 0) {
		l->seq = id.seq;
		memcpy(l->name, name, SEGMENT_NAME_SIZE);
	}
	return 0;
}

static bool list(struct region *region, struct look *l)
{
	do {
		struct store_call call = region_call(region, 0);
		struct store_error error = {0};
		char after[KEY_SIZE];

		memcpy(after, l->last, sizeof(after));
		l->listed = 0;
		enum store_result result = store_list(region->store, SEGMENT_PREFIX,
			after[0] ? after : NULL, PAGE_NAMES, look_at, l, &call, &error);
		region_end(region, REGION_READ, result, &error, "list own segments");
		if (result != STORE_OK)
			return false;
	} while (l->listed >= PAGE_NAMES);
	return true;
}

static int go_on_after(struct cache *c, const struct region *region, struct region_progress *p,
	const struct look *l)
{
	struct region_progress next = {.sent_seq = l->seq};
	char name[SEGMENT_NAME_SIZE];
	struct conn *conn;
	uint64_t seq;
	int r;

	memcpy(next.sent_name, l->name, sizeof(next.sent_name));
	r = cache_begin(c, &conn);
	if (r < 0)
		return r;
	/* One that is there is of an earlier time, and further back. */
	r = watermark_get(conn, region->id, l->node, &seq, name);
	if (r == 0 && !name[0]) {
		if (p->sent_seq)
			memcpy(name, p->sent_name, sizeof(name));
		else
			segment_name(&(struct segment_id){.node = l->node}, name);
		r = watermark_set(conn, region->id, l->node, p->sent_seq, name);
	}
	if (r == 0)
		r = region_progress_set(conn, region->id, &next);
	if (r < 0) {
		cache_rollback(conn);
		return r;
	}
	r = cache_commit(conn);
	if (r == 0)
		*p = next;
	return r;
}

int own_log_check(struct cache *c, struct region *region, struct region_progress *p, bool *known)
{
	struct look l = {.node = cache_node(c), .pending = p->pending_name, .seq = p->sent_seq};
	struct segment_id sent;
	uint64_t before = p->sent_seq;
	int r;

	if (segment_name_parse(p->sent_name, &sent))
		snprintf(l.last, sizeof(l.last), "%s%012" PRIx64, SEGMENT_PREFIX, sent.ms);
	*known = list(region, &l);
	if (!*known || l.seq == p->sent_seq)
		return 0;
	r = go_on_after(c, region, p, &l);
	if (r < 0)
		return r;
	log_error("the state is older than what was sent from it: restored from a copy? What is"
		  " missing here is taken from the region region=%s known=%" PRIu64
		  " found=%" PRIu64,
		region->name, before, l.seq);
	return 0;
}
