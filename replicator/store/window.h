/*
 * How many small requests a store gets at once: as many as the way to it holds.
 *
 * A store that is far away answers as fast with 64 of them under way as with one; one that has enough to do
 * only makes them wait longer, and with them what others wait for. So the number grows while answers take
 * up to twice as long as the fastest ever did, and shrinks when they take three times as long: delay-based congestion
 * control (Brakmo and Peterson, TCP Vegas, 1995), with a least number that is always allowed. When
 * answers stay slow at the least number for half a minute, the way has become longer: the fastest of
 * that time is the new measure.
 *
 * Not thread-safe; time is the caller's.
 */
#ifndef STORE_WINDOW_H
#define STORE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

struct window {
	unsigned now; /* how many may be under way */
	unsigned least, most;
	int credit;	       /* answers that spoke for more; below 0: for fewer */
	int64_t base_ms;       /* the fastest answer; -1: none yet */
	int64_t mean_16th;     /* of the last answers, in sixteenths of a millisecond */
	int64_t slow_since_ms; /* at the least number; 0: it is not slow */
	int64_t slow_base_ms;  /* the fastest since then */
};

/* most: at least 1. least is lowered to it. */
void window_init(struct window *w, unsigned least, unsigned most);
/* One answer, which took took_ms. wanted: more would be under way if they might. True: now has grown. */
bool window_answer(struct window *w, int64_t took_ms, bool wanted, int64_t now_ms);

#endif
