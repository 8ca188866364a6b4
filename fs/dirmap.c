/*
 * Directory offsets: see the header. Windows hold consecutive runs of names; together with the
 * marks they only speak of offsets up to the newest one given out.
 */
#include "fs/dirmap.h"

#include <errno.h>
#include <string.h>

#define STRIDE_FIRST 1024

void dirmap_init(struct dirmap *m)
{
	*m = (struct dirmap){.stride = STRIDE_FIRST};
}

void dirmap_done(struct dirmap *m)
{
	for (unsigned i = 0; i < DIRMAP_WINDOWS; i++)
		buf_done(&m->window[i].names);
	free(m->marks);
	*m = (struct dirmap){0};
}

static struct slice name_at(const struct dirmap_window *w, uint64_t index)
{
	const uint8_t *p = w->names.data;

	while (index-- > 0)
		p += 1 + *p;
	return (struct slice){(const char *)p + 1, *p};
}

/* Keeps the names of w up to offset. */
static void window_cut(struct dirmap_window *w, uint64_t offset)
{
	struct slice last;

	if (w->count == 0 || w->first + w->count - 1 <= offset)
		return;
	if (w->first > offset) {
		w->count = 0;
		buf_clear(&w->names);
		return;
	}
	w->count = offset - w->first + 1;
	last = name_at(w, w->count - 1);
	w->names.len = (size_t)(last.p + last.len - (const char *)w->names.data);
}

void dirmap_begin(struct dirmap *m, uint64_t offset)
{
	struct dirmap_window *w;

	for (unsigned i = 0; i < DIRMAP_WINDOWS; i++)
		window_cut(&m->window[i], offset);
	while (m->mark_count > 0 && m->marks[m->mark_count - 1].offset > offset)
		m->mark_count--;
	m->current = (m->current + 1) % DIRMAP_WINDOWS;
	w = &m->window[m->current];
	w->first = (offset < DIRMAP_FIRST ? DIRMAP_FIRST : offset) + 1;
	w->count = 0;
	buf_clear(&w->names);
}

static int mark_add(struct dirmap *m, uint64_t offset, struct slice name)
{
	struct dirmap_mark *mark;

	if (m->mark_count == DIRMAP_MARKS) {
		unsigned kept = 0;

		m->stride *= 2;
		for (unsigned i = 0; i < m->mark_count; i++) {
			if (m->marks[i].offset % m->stride == 0)
				m->marks[kept++] = m->marks[i];
		}
		m->mark_count = kept;
		if (offset % m->stride != 0)
			return 0;
	}
	if (m->mark_count == m->mark_cap) {
		unsigned cap = m->mark_cap ? m->mark_cap * 2 : 8;
		struct dirmap_mark *p = realloc(m->marks, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		m->marks = p;
		m->mark_cap = cap;
	}
	mark = &m->marks[m->mark_count++];
	mark->offset = offset;
	mark->len = (uint8_t)name.len;
	memcpy(mark->name, name.p, name.len);
	return 0;
}

uint64_t dirmap_next(const struct dirmap *m)
{
	return m->window[m->current].first + m->window[m->current].count;
}

int dirmap_add(struct dirmap *m, struct slice name)
{
	struct dirmap_window *w = &m->window[m->current];
	uint64_t offset = dirmap_next(m);
	size_t before = w->names.len;
	int r;

	if (name.len > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	buf_put_u8(&w->names, (uint8_t)name.len);
	buf_put(&w->names, name.p, name.len);
	if (w->names.failed) {
		w->names.failed = false;
		w->names.len = before;
		return -ENOMEM;
	}
	if (offset % m->stride == 0) {
		r = mark_add(m, offset, name);
		if (r) {
			w->names.len = before;
			return r;
		}
	}
	w->count++;
	return 0;
}

struct slice dirmap_find(const struct dirmap *m, uint64_t offset, uint64_t *skip)
{
	const struct dirmap_mark *best = NULL;

	*skip = 0;
	if (offset <= DIRMAP_FIRST)
		return (struct slice){"", 0};
	for (unsigned i = 0; i < DIRMAP_WINDOWS; i++) {
		const struct dirmap_window *w = &m->window[i];

		if (w->count > 0 && offset >= w->first && offset - w->first < w->count)
			return name_at(w, offset - w->first);
	}
	for (unsigned i = 0; i < m->mark_count && m->marks[i].offset <= offset; i++)
		best = &m->marks[i];
	*skip = offset - (best ? best->offset : DIRMAP_FIRST);
	return best ? (struct slice){best->name, best->len} : (struct slice){"", 0};
}
