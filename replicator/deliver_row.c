/*
 * One row of the outbox is delivered to its region: what there is to send, on what conditions object.c sends
 * it, and what its answer means for the row. Nothing is written to the database here (deliver_outcome.c does).
 *
 * What is delivered is the entry as it is now. A row whose stamp is not the entry's was overtaken:
 * it is put off shortly, so that its newer version takes the usual way (announced first), and
 * delivered as it is if that persists.
 *
 * After a write the entry is read again. When a remote version was merged in between, its author
 * may have looked at the region before our write; the key is queued again with that version, for
 * the object only.
 *
 * Large files that change all the time have a pace (delta_pace.h): the object of one whose change was announced as
 * a delta follows at it, and so does that of one that has only grown since it was sent last, before it is announced.
 * A version that replaces it meanwhile does not stop either, else a file that is appended to all the time would never
 * get there. To grow is judged by the maps of both versions: with blocks of another size, once each time that a file
 * doubles, it is sent at once.
 *
 * Content of another author that is not here (its attributes changed here) mostly needs no bytes:
 * the object is there and gets new metadata. When it is not, its author is most likely sending it:
 * the first three attempts are given up for that. After them the content is fetched from another
 * region, because the author may be gone for good. What no region has any more: lost.c.
 *
 * Used by all workers at once; no lock is held.
 */
#include <errno.h>
#include <stdio.h>

#include "cache/content_map.h"
#include "replicator/body.h"
#include "replicator/deliver_internal.h"
#include "replicator/foreign.h"
#include "replicator/object.h"
#include "replicator/sources.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"
#include "src/base/random.h"

enum {
	SOON_MS = 200,
	BACKOFF_FIRST_MS = 1000,
	BACKOFF_MAX_MS = 60000,
	WAIT_FOR_AUTHOR = 3, /* attempts */
	LOST_AFTER = 12,     /* attempts */
	SEARCH_EVERY = 64,   /* attempts after that */
	PACE_LOOK_MS = 1000,
	BULK_FROM = 1 << 20,
};

static int64_t backoff_ms(uint32_t attempts)
{
	int64_t pause = (int64_t)BACKOFF_FIRST_MS << (attempts < 6 ? attempts : 6);

	if (pause > BACKOFF_MAX_MS)
		pause = BACKOFF_MAX_MS;
	return pause / 2 + (int64_t)random_below((uint64_t)pause / 2 + 1);
}

struct opener {
	struct deliverer *d;
	const struct outbox_row *row;
	const struct entry *entry;
	struct body body;
	bool ready; /* source is that of the body */
	struct store_source source;
	bool searched; /* the segments, too */
	bool nowhere;  /* every region was asked, none has the content */
};

static bool may_be_in_log(const struct opener *o)
{
	return o->row->state == OUTBOX_OBJECT && o->row->attempts >= LOST_AFTER &&
	       (o->row->attempts - LOST_AFTER) % SEARCH_EVERY == 0 &&
	       o->entry->size <= o->d->o.inline_max &&
	       o->entry->content_stamp.node == cache_node(o->d->o.cache);
}

static int open_body(void *ctx, struct store_source *ret)
{
	struct opener *o = ctx;
	struct deliverer *d = o->d;
	struct slice key = key_slice(&o->row->key);

	if (o->ready) {
		*ret = o->source;
		return 0;
	}
	int r = body_open_local(&o->body, d->o.cache, d->o.inline_cache, key, o->entry, ret);
	if (r != -EAGAIN)
		return r;
	/* Mostly a newer seal takes the row over, or the author brings it. */
	if (!o->row->moved_from.len && o->row->attempts < WAIT_FOR_AUTHOR)
		return -EAGAIN;
	r = body_fetch(
		&o->body, d->o.region->all, d->o.region, key, o->entry->hash, o->entry->size);
	if (r == -EAGAIN || r == -EIO)
		r = body_fetch_moved(
			&o->body, d->o.region->all, key_slice(&o->row->moved_from), o->entry);
	if (r == -EAGAIN && may_be_in_log(o)) {
		r = body_fetch_announced(&o->body, d->o.region->all, o->entry);
		o->searched = true;
	}
	o->nowhere = r == -EAGAIN && !o->body.unsure;
	if (r < 0)
		return r;
	*ret = body_spooled(&o->body);
	return 0;
}

/* The region was told of this version by a delta; its object follows. */
static bool follows(const struct outbox_row *row)
{
	return row->has_base && row->state == OUTBOX_OBJECT;
}

/* Whether the key's newest version only adds to the one that is being sent. */
static bool only_grew(struct conn *conn, const struct opener *o)
{
	CLEANUP(entry_done) struct entry now = {0};
	bool grew = false;

	return entry_get(conn, key_slice(&o->row->key), &now) == 0 && now.kind == KIND_FILE &&
	       content_map_grown(conn, o->entry->hash, now.hash, &grew) == 0 && grew;
}

/* False: a newer version took the row over, or it is gone. */
static bool current(void *ctx)
{
	const struct opener *o = ctx;
	struct outbox_row now;
	struct conn *conn;

	if (cache_read_begin(o->d->o.cache, &conn) < 0)
		return true;
	int r = outbox_get(conn, o->d->o.region->id, key_slice(&o->row->key), &now);
	bool same = r == 0 && stamp_cmp(now.stamp, o->row->stamp) == 0;
	/* A file that changes all the time is never up to date, and its object has to be sent for
	 * once; what came since follows it. */
	bool later = r == 0 && !same &&
		     ((follows(o->row) && now.has_base) ||
			     (o->row->state == OUTBOX_UPLOAD && only_grew(conn, o)));
	cache_read_end(conn);
	return same || later || (r < 0 && r != -ENOENT);
}

static int read_entry(struct deliverer *d, struct slice key, struct entry *ret)
{
	struct conn *conn;
	int r = cache_read_begin(d->o.cache, &conn);

	if (r < 0)
		return r;
	r = entry_get(conn, key, ret);
	cache_read_end(conn);
	return r;
}

static void fail(struct job *j, int64_t pause_ms, const char *text)
{
	j->fate = FATE_FAILED;
	j->next_at_ms = clock_monotonic_ms() + pause_ms;
	snprintf(j->error, sizeof(j->error), "%.*s", OUTBOX_ERROR_SIZE - 1, text);
}

/* What a result means for the row. */
static void judge(struct deliverer *d, struct job *j, enum store_result result,
	const struct store_error *error)
{
	char text[256];

	store_failure_text(text, sizeof(text), "object", result, error);
	switch (result) {
	case STORE_OK:
		j->fate = FATE_DONE;
		return;
	case STORE_LOCAL:
		if (error->local_errno == ECANCELED)
			return;
		if (error->local_errno == ENAMETOOLONG) {
			j->fate = FATE_PARKED;
			snprintf(j->error, sizeof(j->error),
				"the path is too long for an object key");
			return;
		}
		if (error->local_errno == EAGAIN || error->local_errno == ESTALE)
			fail(j, j->row.attempts < 10 ? SOON_MS : backoff_ms(j->row.attempts - 10),
				j->gone ? "its content is lost: not here, and in no region"
					: "its content is not here in this version");
		else
			fail(j, backoff_ms(j->row.attempts), text);
		return;
	case STORE_TOO_LARGE:
	case STORE_UNSUPPORTED:
		j->fate = FATE_PARKED;
		snprintf(j->error, sizeof(j->error), "%.*s", (int)sizeof(j->error) - 1, text);
		log_error("object cannot be written region=%s key=\"%s\" error=\"%s\"",
			d->o.region->name, j->row.key.p, text);
		return;
	default:
		fail(j, backoff_ms(j->row.attempts), text);
	}
}

static void check_overtaken(struct deliverer *d, struct job *j, const struct entry *delivered)
{
	CLEANUP(entry_done) struct entry now = {0};

	if (read_entry(d, key_slice(&j->row.key), &now) < 0)
		return;
	j->repair = stamp_cmp(entry_stamp(&now), entry_stamp(delivered)) > 0 &&
		    (now.content_stamp.node != cache_node(d->o.cache) || now.kind == KIND_ABSENT);
}

static bool was_placed(void *ctx, const uint8_t hash[SHA256_SIZE])
{
	const struct opener *o = ctx;

	return placed_has(&o->d->placed, key_slice(&o->row->moved_to), hash);
}

/* Whether e, which is to be uploaded, has only grown since its object was sent last. */
static bool has_grown(
	struct deliverer *d, const struct outbox_row *row, const struct entry *e)
{
	uint8_t last[SHA256_SIZE];
	bool grown = false;
	struct conn *conn;

	if (row->state != OUTBOX_UPLOAD || e->kind != KIND_FILE ||
		!delta_pace_last(d->o.pace, d->o.region->id, key_slice(&row->key), last) ||
		cache_read_begin(d->o.cache, &conn) < 0)
		return false;
	int r = content_map_grown(conn, last, e->hash, &grown);
	cache_read_end(conn);
	return r == 0 && grown;
}

/* Looked at again every second, for somebody may be in a hurry by then. *grown: it is sent again because the file
 * grew. */
static bool is_too_soon(struct deliverer *d, struct job *j, const struct entry *e, bool *grown)
{
	struct slice key = key_slice(&j->row.key);
	int64_t wait = 0;

	*grown = has_grown(d, &j->row, e);
	if (*grown || follows(&j->row))
		wait = delta_pace_wait_ms(d->o.pace, d->o.region->id, key, follows(&j->row));
	if (wait > 0) {
		if (*grown)
			delta_pace_hold(d->o.pace, d->o.region->id, key);
		j->fate = FATE_WAITS;
		j->next_at_ms = clock_monotonic_ms() + (wait < PACE_LOOK_MS ? wait : PACE_LOOK_MS);
	}
	return wait > 0;
}

/* False: the row is not to be delivered now, or not at all. */
static bool find_sources(struct deliverer *d, struct job *j, struct opener *o, struct sources *s)
{
	int r = sources_find(d->o.cache, d->o.region, &j->row, o->entry, s);

	if (r < 0) {
		fail(j, backoff_ms(j->row.attempts), "the outbox cannot be read");
	} else if (s->wait) {
		j->fate = FATE_WAITS;
		j->next_at_ms = clock_monotonic_ms() + s->wait_ms;
	} else if (s->settled) {
		j->fate = FATE_DONE;
		j->settled = true;
	} else if (s->source[0].key && entry_live(o->entry) && o->entry->size <= d->o.inline_max) {
		o->ready = body_open_local(&o->body, d->o.cache, d->o.inline_cache,
				   key_slice(&j->row.key), o->entry, &o->source) == 0;
	}
	s->source[0].placed = was_placed;
	s->source[0].ctx = o;
	return j->fate == FATE_NONE;
}

static void note_kept(const struct deliverer *d, const struct job *j)
{
	metric_add(METRIC_FOREIGN_KEPT, 1);
	log_warn("what another tool wrote was written over or removed, after a copy to"
		 " .meridian/conflicts/foreign/ region=%s path=\"%s\"",
		d->o.region->name, j->row.key.p);
}

/* An attempt that failed costs a row that follows as much as one that did not; others are tried again as they
 * would be without a pace. What has no map cannot be found to have grown. */
static void note_pace(struct deliverer *d, const struct job *j, const struct entry *e,
	bool arrived, int64_t start_ms)
{
	struct slice key = key_slice(&j->row.key);
	unsigned region = d->o.region->id;

	if (follows(&j->row) ||
		(arrived && j->row.state == OUTBOX_UPLOAD && e->kind == KIND_FILE &&
			e->size >= content_map_min(d->o.cache)))
		delta_pace_sent(d->o.pace, region, key, start_ms, e->hash);
	else
		delta_pace_failed(d->o.pace, region, key);
}

void deliver_row(struct deliverer *d, struct job *j)
{
	AUTO_FREE struct sources *sources = malloc(sizeof(*sources));
	CLEANUP(entry_done) struct entry entry = {0};
	struct store_call call = region_call(d->o.region, j->row.size);
	struct opener opener = {.d = d, .row = &j->row, .entry = &entry};
	struct store_error error = {0};
	struct object_outcome outcome = {0};
	int64_t start_ms = clock_monotonic_ms();
	bool grown = false;

	if (j->row.size > BULK_FROM)
		call.priority = STORE_BULK;
	int r = read_entry(d, key_slice(&j->row.key), &entry);
	if (r == -ENOENT || (r == 0 && !j->row.key.len)) {
		j->fate = FATE_DONE; /* nothing to deliver; the root has no object */
		return;
	}
	if (r < 0) {
		fail(j, backoff_ms(j->row.attempts), "the entry cannot be read");
		return;
	}
	if (stamp_cmp(entry_stamp(&entry), j->row.stamp) != 0 && j->row.attempts < 2) {
		fail(j, SOON_MS, "overtaken by a newer version");
		return;
	}
	if (is_too_soon(d, j, &entry, &grown))
		return;
	CHECK(sources);
	if (!find_sources(d, j, &opener, sources)) {
		body_done(&opener.body);
		return;
	}
	struct object_request q = {
		.store = d->o.region->store,
		.uploader = &d->uploader,
		.call = &call,
		.key = key_slice(&j->row.key),
		.entry = &entry,
		.regions = d->o.region->all,
		/* A large body is not sent in vain. */
		.fresh = j->row.fresh &&
			 (j->row.state == OUTBOX_UPLOAD || entry.size <= d->o.inline_max) &&
			 (entry_live(&entry) || j->row.attempts == 0),
		.sources = {sources->source[0], sources->source[1]},
		.send_rather = opener.ready,
		.open = open_body,
		.current = current,
		.ctx = &opener,
	};
	if (grown)
		delta_pace_begin(d->o.pace, d->o.region->id, q.key);
	enum store_result result = object_deliver(&q, &outcome, &error);
	body_done(&opener.body);
	if (result == STORE_OK)
		upload_settled(&d->uploader, q.key, &call);
	note_pace(d, j, &entry, result == STORE_OK && outcome.put, start_ms);
	j->gone = opener.nowhere && j->row.attempts >= LOST_AFTER;
	bool foreign = foreign_is_node(d->o.region->all, entry.content_stamp.node);
	j->lost = j->gone && (entry.content_stamp.node == cache_node(d->o.cache) || foreign);
	j->was_here = !j->row.unfetched && !foreign;
	j->untold = opener.searched || j->row.state == OUTBOX_UPLOAD;
	if (outcome.kept && result == STORE_OK)
		note_kept(d, j);
	if (outcome.copied)
		atomic_fetch_add(&d->o.region->bytes_copied, entry.size);
	if (outcome.refused)
		sources_refused(d->o.region, &outcome.refusal);
	region_end(d->o.region, REGION_WRITE, result, &error, "object");
	judge(d, j, result, &error);
	j->uncertain = outcome.uncertain;
	j->deputy = outcome.put && entry.content_stamp.node != cache_node(d->o.cache);
	if (j->fate == FATE_DONE) {
		j->note = object_note_of(&entry, &outcome);
		check_overtaken(d, j, &entry);
	}
	if (j->fate == FATE_DONE && j->row.moved_from.len && !outcome.superseded &&
		entry.kind == KIND_FILE)
		placed_note(&d->placed, q.key, entry.hash);
	j->mapped = j->fate == FATE_DONE && !outcome.superseded && entry.kind == KIND_FILE &&
		    entry.size >= content_map_min(d->o.cache);
	memcpy(j->hash, entry.hash, SHA256_SIZE);
}
