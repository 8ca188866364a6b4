/*
 * Where content lies already; see sources.h. What is found is a hint: object_copy.c looks whether the
 * object has the content. Waiting can always be given up: then the content is sent, and goes into the
 * trash.
 *
 * No row waits for one that waits for it: a former name waits for a live file only, and a live file
 * only for the same key in the home region.
 *
 * Keeps no state but region.copy_refused with its reason; takes the region's lock, a leaf, for that.
 */
#include "replicator/sources.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "replicator/object_key.h"
#include "src/base/log.h"

enum {
	HOME_WAIT_MS = 500,
	NEW_NAME_WAIT_MS = 200,
	/* Its new name sends it on; this is for what nobody thought of. */
	HELD_MS = 600000,
};

static struct region *home_of(struct region *region)
{
	for (unsigned i = 0; i < region->all->count; i++) {
		if (region->all->region[i].home)
			return &region->all->region[i];
	}
	return region;
}

/* Row and liveness of another key, or of this one elsewhere. state 0: no row. */
struct other {
	enum outbox_state state;
	struct stamp stamp;
	bool live; /* it is a file or symlink */
};

static int look_at(struct cache *c, unsigned region, struct slice key, struct other *ret)
{
	AUTO_FREE struct outbox_row *row = malloc(sizeof(*row));
	CLEANUP(entry_done) struct entry e = {0};
	struct conn *conn;

	*ret = (struct other){0};
	if (!row)
		return -ENOMEM;
	int r = cache_read_begin(c, &conn);
	if (r < 0)
		return r;
	r = outbox_get(conn, region, key, row);
	if (r == 0) {
		ret->state = row->state;
		ret->stamp = row->stamp;
	}
	if (r == 0 || r == -ENOENT)
		r = entry_get(conn, key, &e);
	ret->live = r == 0 && (e.kind == KIND_FILE || e.kind == KIND_SYMLINK);
	cache_read_end(conn);
	return r == -ENOENT ? 0 : r;
}

static int of_former_name(
	struct cache *c, struct region *region, const struct outbox_row *row, struct sources *ret)
{
	bool held = row->state == OUTBOX_UPLOAD;
	struct other now;

	ret->settled = held;
	if (!row->moved_to.len)
		return 0;
	int r = look_at(c, region->id, key_slice(&row->moved_to), &now);
	if (r < 0 || !now.live)
		return r;
	if (now.state == OUTBOX_UPLOAD || (!held && now.state && now.state != OUTBOX_PARKED)) {
		ret->wait = "waits for its new name";
		ret->wait_ms = held ? HELD_MS : NEW_NAME_WAIT_MS;
		ret->settled = false;
	} else if (object_key_from_path(key_slice(&row->moved_to), false, ret->key[0]) == 0) {
		ret->source[0] = (struct object_source){.store = region->store, .key = ret->key[0]};
	}
	return 0;
}

static int of_home(
	struct cache *c, struct region *region, const struct outbox_row *row, struct sources *ret)
{
	struct region *home = home_of(region);
	struct other there;

	if (!region->home_origin || atomic_load(&region->copy_refused) ||
		row->state != OUTBOX_UPLOAD || home == region)
		return 0;
	int r = look_at(c, home->id, key_slice(&row->key), &there);
	if (r < 0 || !region_up(home, REGION_WRITE))
		return r;
	if (there.state == OUTBOX_UPLOAD && stamp_cmp(there.stamp, row->stamp) == 0 &&
		!ret->source[0].key) {
		ret->wait = "waits for the home region to have it";
		ret->wait_ms = HOME_WAIT_MS;
	} else if (there.state != OUTBOX_UPLOAD &&
		   object_key_from_path(key_slice(&row->key), false, ret->key[1]) == 0) {
		ret->source[1] = (struct object_source){
			.store = home->store, .origin = region->home_origin, .key = ret->key[1]};
	}
	return 0;
}

int sources_find(struct cache *c, struct region *region, const struct outbox_row *row,
	const struct entry *e, struct sources *ret)
{
	*ret = (struct sources){0};
	if (!entry_live(e))
		return of_former_name(c, region, row, ret);
	if (e->kind != KIND_FILE)
		return 0;
	if (row->moved_from.len &&
		object_key_from_path(key_slice(&row->moved_from), false, ret->key[0]) == 0)
		ret->source[0] = (struct object_source){.store = region->store, .key = ret->key[0]};
	return of_home(c, region, row, ret);
}

void sources_refused(struct region *region, const struct store_error *error)
{
	if (atomic_exchange(&region->copy_refused, true))
		return;
	mutex_lock(&region->lock);
	snprintf(region->copy_error, sizeof(region->copy_error), "%s", error->text);
	mutex_unlock(&region->lock);
	log_warn("contents are sent to the region, it does not copy them from the home "
		 "region's bucket region=%s error=\"%s\"",
		region->name, error->text);
}
