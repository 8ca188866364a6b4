/*
 * Hybrid logical clock and version vectors.
 *
 * Stamp: 48 bits of milliseconds since 1970, 16 bits of counter (Kulkarni et al., "Logical
 * Physical Clocks", OPODIS 2014), and the writer's 64-bit node id. Totally ordered by (time, node).
 */
#ifndef BASE_HLC_H
#define BASE_HLC_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/attribute.h"
#include "src/base/buf.h"

struct stamp {
	uint64_t time; /* HLC value; 0 means "never" and is smaller than every real stamp */
	uint64_t node;
};

int stamp_cmp(struct stamp a, struct stamp b); /* <0, 0, >0 */
static inline uint64_t hlc_ms(uint64_t time)
{
	return time >> 16;
}

#define STAMP_TEXT_SIZE 34 /* 16 hexadecimal digits of time, '-', 16 of node, NUL */
void stamp_format(struct stamp s, char out[STAMP_TEXT_SIZE]);
bool stamp_parse(const char *text, struct stamp *ret) MUST_CHECK;

/* A clock. Thread-safe, lock-free. */
struct hlc {
	_Atomic uint64_t last;
	_Atomic int64_t reference_ms; /* hlc_refer's time less clock_boottime_ms(); 0: none */
	_Atomic int64_t tolerance_ms;
};

/* Starts above floor, the greatest stamp ever issued or seen according to the database. */
void hlc_init(struct hlc *h, uint64_t floor);
/* A new value: greater than every earlier one and than every observed one, and at least
 * hlc_wall_ms(). */
uint64_t hlc_now(struct hlc *h);
/* now_ms (above 0) is what the time is elsewhere. As long as the wall clock is more than tolerance_ms
 * away from it, the time is counted from there on, as clock_boottime_ms goes on. */
void hlc_refer(struct hlc *h, int64_t now_ms, int64_t tolerance_ms);
/* The time, in milliseconds since 1970: the wall clock's, unless that is known to be wrong. */
int64_t hlc_wall_ms(const struct hlc *h);
/* Later values exceed time. The caller has checked time against max_clock_skew. */
void hlc_observe(struct hlc *h, uint64_t time);

/* Version vector: for each node the newest stamp time seen. At most VECTOR_MAX nodes; the oldest
 * time is dropped. Sorted by node, each node once. */
#define VECTOR_MAX 16
struct vector {
	uint32_t count;
	struct stamp item[VECTOR_MAX];
};

uint64_t vector_get(const struct vector *v, uint64_t node); /* 0 when absent */
void vector_raise(struct vector *v, struct stamp s);
void vector_merge(struct vector *into, const struct vector *from); /* pointwise maximum */
void vector_encode(const struct vector *v, struct buf *b);
/* Sets r->failed for more than VECTOR_MAX items or items out of order. */
void vector_decode(struct reader *r, struct vector *ret);

#endif
