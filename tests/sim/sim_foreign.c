/*
 * Other tools: objects that are put, overwritten, copied with their metadata and removed in a bucket
 * without any server knowing, and scans that find it (replicator/reconcile.h). What holds for
 * everything else must hold with them, too; what they publish is checked against the same oracle.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdio.h>

#include "replicator/store/store.h"
#include "src/base/random.h"

static uint64_t found;

static const char *some_key(char key[64])
{
	static const char *const own[] = {"tool", "tool/x", "d/tool"};
	uint64_t n = random_below(SIM_PATHS + 3);

	snprintf(key, 64, "%s", n < SIM_PATHS ? sim_paths[n] : own[n - SIM_PATHS]);
	return key;
}

static void put(struct sim *s, struct store *bucket)
{
	char key[64], content[300];
	struct store_error error = {0};
	size_t len = (size_t)snprintf(
		content, sizeof content, "tool writes %llu ", (unsigned long long)++s->writes);

	if (random_below(4) == 0) {
		while (len < 150)
			content[len++] = '.';
	}
	some_key(key);
	CHECK(store_put_buf(bucket, key, content, len, NULL, NULL, NULL, NULL, &error) == STORE_OK);
	sim_trace(s, "tool puts %s \"%.24s\"", key, content);
}

static void copy(struct sim *s, struct store *bucket)
{
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_error error = {0};
	char from[64], to[64];

	some_key(from);
	some_key(to);
	if (strcmp(from, to) == 0 ||
		store_head(bucket, from, NULL, &meta, NULL, &error) != STORE_OK)
		return;
	CHECK(store_copy(bucket, from, to, &meta, NULL, NULL, NULL, &error) == STORE_OK);
	sim_trace(s, "tool copies %s to %s", from, to);
}

static void take_away(struct sim *s, struct store *bucket)
{
	struct store_error error = {0};
	char key[64];

	some_key(key);
	if (random_below(4) == 0)
		strcat(key, "/");
	CHECK(store_remove(bucket, key, NULL, NULL, &error) == STORE_OK);
	sim_trace(s, "tool removes %s", key);
}

void sim_foreign_event(struct sim *s)
{
	unsigned region = (unsigned)random_below(s->regions);
	struct store *bucket = s->region[region].mem;

	sim_trace(s, "in r%u", region);
	switch (random_below(4)) {
	case 0:
		copy(s, bucket);
		break;
	case 1:
		take_away(s, bucket);
		break;
	default:
		put(s, bucket);
	}
}

bool sim_foreign_scan(struct sim *s, unsigned n, unsigned region)
{
	struct sim_node *node = &s->node[n];
	bool did = false;

	if (node->running)
		return false;
	node->running = true;
	s->current = n;
	sim_replaced_settle(s, n);
	int r = replicator_step_reconcile(node->replicator, region, &did);
	node->running = false;
	if (r < 0 && r != -ECANCELED)
		sim_fail(s, "n%u: scan of r%u: %d", n, region, r);
	if (did)
		sim_trace(s, "n%u scans r%u", n, region);
	found += did;
	return did;
}

uint64_t sim_foreign_found(void)
{
	return found;
}
