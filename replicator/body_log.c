/*
 * Content that was announced inside a segment and is here no more: a program wrote over it while a directory
 * of its name hid it, before its object was put. Other servers were told of it, so it must not give way; the
 * segments, which are kept for days, still have it.
 *
 * Rare, so nothing is remembered: this server's segments are read from the content's time on.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "replicator/body.h"
#include "replicator/segment.h"

enum { PAGE_NAMES = 1000, SEGMENTS_MAX = 2000, SKEW_MS = 600000 };

#define KEY_SIZE (sizeof(SEGMENT_PREFIX) + SEGMENT_NAME_SIZE)

struct search {
	struct body *body;
	struct region *region;
	const struct entry *entry;
	char last[KEY_SIZE]; /* of the names that were listed */
	char (*names)[SEGMENT_NAME_SIZE];
	unsigned listed, count;
	unsigned read; /* segments, in all regions */
	int found;     /* 1, 0, or -errno */
};

static int take_name(void *ctx, const char *key, const struct store_object *object UNUSED)
{
	struct search *s = ctx;
	struct segment_id id;

	s->listed++;
	if (strlen(key) < sizeof(s->last))
		memcpy(s->last, key, strlen(key) + 1);
	if (segment_name_parse(key + strlen(SEGMENT_PREFIX), &id) &&
		id.node == s->entry->content_stamp.node && s->count < PAGE_NAMES)
		segment_name(&id, s->names[s->count++]);
	return 0;
}

static bool list_page(struct search *s)
{
	struct store_call call = region_call(s->region, 0);
	struct store_error error = {0};
	char after[KEY_SIZE];

	memcpy(after, s->last, sizeof(after));
	s->listed = s->count = 0;
	enum store_result result = store_list(
		s->region->store, SEGMENT_PREFIX, after, PAGE_NAMES, take_name, s, &call, &error);
	region_end(s->region, REGION_READ, result, &error, "list own segments");
	return result == STORE_OK;
}

static int take_record(void *ctx, const struct record *r, const struct err *err UNUSED)
{
	struct search *s = ctx;

	if (s->found || !r || !r->has_content || r->entry.size != s->entry->size ||
		memcmp(r->entry.hash, s->entry->hash, SHA256_SIZE) != 0)
		return 0;
	s->found = content_restart(&s->body->spool);
	if (!s->found)
		s->found = content_append(&s->body->spool, r->content, r->entry.size);
	if (!s->found)
		s->found = 1;
	return 0;
}

/* False: no answer. */
static bool search_segment(struct search *s, const char *name)
{
	struct store_call call = region_call(s->region, SEGMENT_BYTES_MAX);
	CLEANUP(buf_done) struct buf b = {0};
	CLEANUP(segment_done) struct segment segment = {0};
	struct store_error error = {0};
	struct err err = {0};
	char key[KEY_SIZE];

	snprintf(key, sizeof(key), "%s%s", SEGMENT_PREFIX, name);
	enum store_result result = store_get_buf(
		s->region->store, key, SEGMENT_BYTES_MAX, &b, NULL, NULL, &call, &error);
	region_end(s->region, REGION_READ, result, &error, "get own segment");
	if (result == STORE_ABSENT)
		return true;
	if (result != STORE_OK)
		return false;
	if (segment_parse(name, b.data, b.len, &segment, &err) == 0) {
		int r = segment_each(&segment, take_record, s);
		if (r < 0)
			s->found = r;
	}
	return true;
}

/* False: not all of it could be looked through. */
static bool search_region(struct search *s)
{
	int64_t from_ms = (int64_t)hlc_ms(s->entry->content_stamp.time) - SKEW_MS;

	snprintf(s->last, sizeof(s->last), "%s%012" PRIx64, SEGMENT_PREFIX,
		(uint64_t)(from_ms > 0 ? from_ms : 0));
	do {
		if (!list_page(s))
			return false;
		for (unsigned i = 0; i < s->count && !s->found; i++) {
			if (s->read++ == SEGMENTS_MAX || !search_segment(s, s->names[i]))
				return false;
		}
	} while (!s->found && s->listed >= PAGE_NAMES);
	return true;
}

int body_fetch_announced(struct body *b, struct regions *all, const struct entry *entry)
{
	struct search s = {.body = b, .entry = entry};
	bool sure = true;
	int r = 0;

	b->cache = all->cache;
	if (!b->spooled) {
		r = content_begin(all->cache, &b->spool);
		b->spooled = r == 0;
	}
	s.names = calloc(PAGE_NAMES, sizeof(*s.names));
	if (!s.names)
		r = -ENOMEM;
	for (unsigned i = 0; r == 0 && !s.found && i < all->count; i++) {
		s.region = &all->region[i];
		sure &= region_up(s.region, REGION_READ) && search_region(&s);
	}
	free(s.names);
	b->unsure |= !sure;
	if (r < 0 || s.found < 0)
		return r < 0 ? r : s.found;
	return s.found ? 0 : -EAGAIN;
}
