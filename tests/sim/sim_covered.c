/*
 * No object is removed that no tombstone covers. Whoever removes one in a bucket knows a newer content of its path
 * at that moment (a tombstone, one of another kind, or what came after a tombstone), not only in the end, when what
 * was removed by mistake might have been put back. He knows it from his entries, or from the bucket, where a newer object
 * stands at the key's other form ("a" for "a/").
 *
 * Asked of the version that is removed: a removal under a condition that does not hold removes nothing. Stores that
 * know no such condition are left out, as there a newer version may come in between, and is put again.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cache/entry.h"
#include "replicator/object.h"
#include "replicator/object_key.h"

static uint64_t checks;

/* The content stamp of a server's object there; time 0: there is none. */
static struct stamp stamp_there(struct store *mem, const char *key, const char *if_match)
{
	CLEANUP(object_entry_done) struct object_entry e = {0};
	CLEANUP(store_meta_done) struct store_meta meta = {0};
	struct store_error error = {0};
	struct store_object object;
	bool directory = key[strlen(key) - 1] == '/';

	if (store_head(mem, key, &object, &meta, NULL, &error) != STORE_OK ||
		(if_match && strcmp(if_match, object.etag) != 0) || !object_meta_is_of(&meta, key) ||
		object_meta_to_entry(&meta, object.size, directory, &e) < 0)
		return (struct stamp){0};
	return e.entry.content_stamp;
}

void sim_covered_removing(
	struct sim *s, unsigned n, unsigned r, const char *key, const char *if_match)
{
	CLEANUP(entry_done) struct entry known = {0};
	char other[STORE_KEY_MAX + 2];
	struct conn *conn;
	struct key path;
	bool directory;

	if (strncmp(key, ".meridian/", 10) == 0 || !(s->capabilities & STORE_CAP_DELETE_IF_MATCH) ||
		object_key_to_path(key, &path, &directory) < 0)
		return;
	struct stamp there = stamp_there(s->region[r].mem, key, if_match);
	if (!there.time)
		return;
	checks++;
	if (cache_read_begin(s->node[n].cache, &conn) < 0)
		sim_fail(s, "n%u: entries cannot be read", n);
	int code = entry_get(conn, key_slice(&path), &known);
	cache_read_end(conn);
	if (code == 0 && stamp_cmp(known.content_stamp, there) > 0)
		return;
	snprintf(other, sizeof other, "%.*s%s", (int)(strlen(key) - directory), key, directory ? "" : "/");
	if (stamp_cmp(stamp_there(s->region[r].mem, other, NULL), there) > 0)
		return;
	sim_fail(s, "n%u removes %s from r%u, and knows nothing newer: error %d", n, key, r, code);
}

uint64_t sim_covered_checks(void)
{
	return checks;
}
