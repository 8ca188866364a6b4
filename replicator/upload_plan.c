/*
 * Changed blocks become parts to be sent, what lies between them parts to be copied, as few as the
 * limits allow: each one is a request. Every part but the last has at least part_min bytes: a short change
 * is widened, and two changes with less between them are one.
 */
#include "replicator/upload_plan.h"

#include <errno.h>
#include <stdlib.h>

#include "src/base/buf.h"

struct plan {
	struct upload_span *spans;
	uint32_t count, room;
};

static int add(struct plan *p, uint64_t offset, uint64_t length, bool copy)
{
	if (p->count == p->room) {
		uint32_t room = p->room ? 2 * p->room : 16;
		struct upload_span *spans = reallocarray(p->spans, room, sizeof(*spans));

		if (!spans)
			return -ENOMEM;
		p->spans = spans;
		p->room = room;
	}
	p->spans[p->count++] = (struct upload_span){offset, length, copy};
	return 0;
}

/* What is to be sent: ranges of at least min bytes, as far from each other. */
static int find_sent(
	struct plan *p, uint64_t min, const struct content_map *base, const struct content_map *map)
{
	uint64_t at = 0, offset, length, end = 0;
	int r = 0;

	while (!r && content_map_changed(base, map, &at, &offset, &length)) {
		struct upload_span *last = p->count ? &p->spans[p->count - 1] : NULL;
		uint64_t stop = offset + length;

		if (offset < end || offset - end < min)
			offset = end;
		if (last && offset == end) {
			last->length = stop > end ? stop - last->offset : last->length;
		} else {
			if (stop < offset + min)
				stop = offset + min;
			if (stop > map->size)
				stop = map->size;
			r = add(p, offset, stop - offset, false);
		}
		end = stop > end ? stop : end;
	}
	return r;
}

/* [offset, end) in even pieces. */
static int add_pieces(struct plan *p, uint64_t offset, uint64_t end, uint64_t most, bool copy)
{
	uint64_t length = end - offset, n = length / most + (length % most != 0);
	int r = 0;

	for (uint64_t i = 0; !r && i < n; i++) {
		uint64_t piece = length / n + (i < length % n);

		r = add(p, offset, piece, copy);
		offset += piece;
	}
	return r;
}

static int make(struct plan *p, const struct plan *sent, uint64_t part_size, uint64_t copy_size,
	uint64_t size, uint32_t parts_max)
{
	uint64_t at = 0;
	int r = 0;

	for (uint32_t i = 0; !r && i < sent->count && p->count <= parts_max; i++) {
		const struct upload_span *s = &sent->spans[i];

		r = add_pieces(p, at, s->offset, copy_size, true);
		at = s->offset + s->length;
		if (!r)
			r = add_pieces(p, s->offset, at, part_size, false);
	}
	return r || at >= size ? r : add_pieces(p, at, size, copy_size, true);
}

/* Half of the parts are for what is sent, and for what is copied in between and ends early. */
static uint64_t copy_part_size(const struct store_limits *l, uint64_t size)
{
	uint64_t least = l->parts_max > 1 ? size / (l->parts_max / 2) + 1 : size;
	uint64_t part = UPLOAD_COPY_PART_SIZE > least ? UPLOAD_COPY_PART_SIZE : least;

	return part < l->part_max ? part : l->part_max;
}

int upload_plan(const struct store_limits *l, uint64_t part_size, const struct content_map *base,
	const struct content_map *map, struct upload_span **ret, uint32_t *count)
{
	uint64_t copy_size = copy_part_size(l, map->size);
	struct plan sent = {0}, p = {0};
	uint64_t bytes = 0;
	int r;

	if (!content_map_comparable(base, map) || !map->size || part_size < 2 * l->part_min ||
		map->size > l->object_max)
		return -ENOENT;
	r = find_sent(&sent, l->part_min, base, map);
	for (uint32_t i = 0; i < sent.count; i++)
		bytes += sent.spans[i].length;
	if (!r && bytes > map->size / 2)
		r = -ENOENT;
	if (!r)
		r = make(&p, &sent, part_size, copy_size, map->size, l->parts_max);
	free(sent.spans);
	if (!r && p.count > l->parts_max)
		r = -ENOENT;
	if (r) {
		free(p.spans);
		return r;
	}
	*ret = p.spans;
	*count = p.count;
	return 0;
}
