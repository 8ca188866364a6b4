/* Why this file: what a delivery leaves to be remembered of a bucket, for the scan that compares the
 * bucket with it. */
#include "replicator/object.h"

struct object_note object_note_of(const struct entry *e, const struct object_outcome *outcome)
{
	uint64_t size = e->kind == KIND_FILE ? e->size : 0;

	if (e->kind == KIND_SYMLINK && e->target)
		size = strlen(e->target);
	return (struct object_note){.known = !outcome->superseded,
		.live = entry_live(e),
		.directory = e->kind == KIND_DIR,
		.seen = {.tag = object_seen_tag(outcome->etag, size), .stamp = e->content_stamp}};
}

int object_note(struct conn *conn, unsigned region, struct slice key, const struct object_note *n,
	bool fresh)
{
	char name[STORE_KEY_MAX + 1];
	int r = 0;

	for (unsigned directory = 0; n->known && r == 0 && directory < 2; directory++) {
		if (object_key_from_path(key, directory, name) < 0)
			continue;
		if (n->live && n->directory == (directory == 1))
			r = object_seen_put(conn, region, name, &n->seen);
		else if (!n->live || !fresh) /* what is new had no other form before */
			r = object_seen_drop(conn, region, name);
	}
	return r;
}
