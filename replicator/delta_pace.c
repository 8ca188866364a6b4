/*
 * Of each object that was sent lately: when it may be sent again. The pause follows from what sending took,
 * so it adapts to the object's size, to how much of it the store could copy, and to the link. Rows whose time
 * has come are free for others; where all are taken an object is not paced. Nothing outlives the process.
 */
#include "replicator/delta_pace.h"

#include "src/base/clock.h"

void delta_pace_init(struct delta_pace *p)
{
	*p = (struct delta_pace){0};
	mutex_init(&p->lock, LOCK_RANK_LEAF);
}

void delta_pace_done(struct delta_pace *p)
{
	mutex_done(&p->lock);
}

/* Never 0. */
static uint64_t hash_of(unsigned region, struct slice key)
{
	uint64_t h = 14695981039346656037u ^ region;

	for (size_t i = 0; i < key.len; i++)
		h = (h ^ (uint8_t)key.p[i]) * 1099511628211u;
	return h ? h : 1;
}

int64_t delta_pace_wait_ms(struct delta_pace *p, unsigned region, struct slice key)
{
	uint64_t hash = hash_of(region, key);
	int64_t now = clock_monotonic_ms(), wait = 0;

	if (!p || atomic_load(&p->hurry) || atomic_load(&p->awaited))
		return 0;
	mutex_lock(&p->lock);
	for (unsigned i = 0; i < DELTA_PACE_ROWS; i++) {
		if (p->row[i].key == hash && p->row[i].due_ms > now)
			wait = p->row[i].due_ms - now;
	}
	mutex_unlock(&p->lock);
	return wait;
}

void delta_pace_sent(struct delta_pace *p, unsigned region, struct slice key, int64_t start_ms)
{
	int64_t now = clock_monotonic_ms(), pause = (DELTA_PACE_SHARE - 1) * (now - start_ms);
	uint64_t hash = hash_of(region, key);
	struct delta_pace_row *place = NULL;

	if (!p)
		return;
	if (pause < DELTA_PACE_LEAST_MS)
		pause = DELTA_PACE_LEAST_MS;
	mutex_lock(&p->lock);
	for (unsigned i = 0; i < DELTA_PACE_ROWS; i++) {
		struct delta_pace_row *row = &p->row[i];

		if (row->key == hash) {
			place = row;
			break;
		}
		if (!place && row->due_ms <= now)
			place = row;
	}
	if (place)
		*place = (struct delta_pace_row){hash, now + pause};
	mutex_unlock(&p->lock);
}
