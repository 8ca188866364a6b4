/*
 * Hybrid logical clock (Kulkarni et al. 2014, figure 5, with the counter in the low bits so that
 * one comparison orders both parts) and version vectors.
 *
 * Invariant of a vector: it holds the VECTOR_MAX greatest of the per-node maxima raised so far, by
 * stamp_cmp. Whatever fell out is smaller than all that is kept, so the result does not depend on
 * the order of raises and merges: replicas that saw the same stamps hold the same vector.
 *
 * Encoding of a vector: varint count, then per item node and time as big-endian 64-bit words, in
 * ascending order of node; no time is zero.
 */
#include "src/base/hlc.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "src/base/clock.h"

#define HLC_MS_MAX ((INT64_C(1) << 48) - 1)

int stamp_cmp(struct stamp a, struct stamp b)
{
	if (a.time != b.time)
		return a.time < b.time ? -1 : 1;
	if (a.node != b.node)
		return a.node < b.node ? -1 : 1;
	return 0;
}

void stamp_format(struct stamp s, char out[STAMP_TEXT_SIZE])
{
	snprintf(out, STAMP_TEXT_SIZE, "%016llx-%016llx", (unsigned long long)s.time,
		(unsigned long long)s.node);
}

/* Lower case only: a stamp has one spelling. */
static bool parse_word(const char *text, uint64_t *ret)
{
	uint64_t v = 0;

	for (int i = 0; i < 16; i++) {
		char c = text[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	*ret = v;
	return true;
}

bool stamp_parse(const char *text, struct stamp *ret)
{
	struct stamp s;

	if (strnlen(text, STAMP_TEXT_SIZE) != STAMP_TEXT_SIZE - 1 || text[16] != '-')
		return false;
	if (!parse_word(text, &s.time) || !parse_word(text + 17, &s.node))
		return false;
	*ret = s;
	return true;
}

void hlc_init(struct hlc *h, uint64_t floor)
{
	atomic_init(&h->last, floor);
	atomic_init(&h->reference_ms, 0);
	atomic_init(&h->tolerance_ms, 0);
}

void hlc_refer(struct hlc *h, int64_t now_ms, int64_t tolerance_ms)
{
	int64_t reference = now_ms - clock_boottime_ms();

	atomic_store(&h->tolerance_ms, tolerance_ms);
	atomic_store(&h->reference_ms, reference ? reference : 1);
}

int64_t hlc_wall_ms(const struct hlc *h)
{
	int64_t wall = clock_realtime_ms(), reference = atomic_load(&h->reference_ms);

	if (!reference)
		return wall;
	int64_t elsewhere = clock_boottime_ms() + reference;
	int64_t apart = wall > elsewhere ? wall - elsewhere : elsewhere - wall;
	return apart > atomic_load(&h->tolerance_ms) ? elsewhere : wall;
}

static uint64_t physical(const struct hlc *h)
{
	int64_t ms = hlc_wall_ms(h);

	if (ms < 0)
		ms = 0;
	if (ms > HLC_MS_MAX)
		ms = HLC_MS_MAX;
	return (uint64_t)ms << 16;
}

uint64_t hlc_now(struct hlc *h)
{
	uint64_t wall = physical(h);
	uint64_t last = atomic_load(&h->last), next;

	do {
		CHECK(last != UINT64_MAX);
		next = last + 1 > wall ? last + 1 : wall;
	} while (!atomic_compare_exchange_weak(&h->last, &last, next));
	return next;
}

void hlc_observe(struct hlc *h, uint64_t time)
{
	uint64_t last = atomic_load(&h->last);

	while (last < time && !atomic_compare_exchange_weak(&h->last, &last, time))
		;
}

/* Index of the first item whose node is not below node. */
static uint32_t find(const struct vector *v, uint64_t node)
{
	uint32_t i = 0;

	while (i < v->count && v->item[i].node < node)
		i++;
	return i;
}

uint64_t vector_get(const struct vector *v, uint64_t node)
{
	uint32_t i = find(v, node);

	return i < v->count && v->item[i].node == node ? v->item[i].time : 0;
}

static void drop_oldest(struct vector *v)
{
	uint32_t oldest = 0;

	for (uint32_t i = 1; i < v->count; i++) {
		if (stamp_cmp(v->item[i], v->item[oldest]) < 0)
			oldest = i;
	}
	v->count--;
	memmove(&v->item[oldest], &v->item[oldest + 1], (v->count - oldest) * sizeof(v->item[0]));
}

static bool older_than_all(const struct vector *v, struct stamp s)
{
	for (uint32_t i = 0; i < v->count; i++) {
		if (stamp_cmp(v->item[i], s) < 0)
			return false;
	}
	return true;
}

void vector_raise(struct vector *v, struct stamp s)
{
	uint32_t i = find(v, s.node);

	if (s.time == 0)
		return;
	if (i < v->count && v->item[i].node == s.node) {
		if (v->item[i].time < s.time)
			v->item[i].time = s.time;
		return;
	}
	if (v->count == VECTOR_MAX) {
		if (older_than_all(v, s))
			return;
		drop_oldest(v);
		i = find(v, s.node);
	}
	memmove(&v->item[i + 1], &v->item[i], (v->count - i) * sizeof(v->item[0]));
	v->item[i] = s;
	v->count++;
}

void vector_merge(struct vector *into, const struct vector *from)
{
	for (uint32_t i = 0; i < from->count; i++)
		vector_raise(into, from->item[i]);
}

void vector_encode(const struct vector *v, struct buf *b)
{
	buf_put_varint(b, v->count);
	for (uint32_t i = 0; i < v->count; i++) {
		buf_put_be64(b, v->item[i].node);
		buf_put_be64(b, v->item[i].time);
	}
}

void vector_decode(struct reader *r, struct vector *ret)
{
	uint64_t count = reader_varint(r);
	struct vector v = {0};

	*ret = (struct vector){0};
	if (count > VECTOR_MAX)
		r->failed = true;
	for (uint64_t i = 0; i < count && !r->failed; i++) {
		struct stamp s = {.node = reader_be64(r)};

		s.time = reader_be64(r);
		if (s.time == 0 || (i > 0 && s.node <= v.item[i - 1].node))
			r->failed = true;
		v.item[i] = s;
		v.count++;
	}
	if (!r->failed)
		*ret = v;
}
