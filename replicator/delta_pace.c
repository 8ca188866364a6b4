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
	uint64_t h = fnv1a(FNV1A_BASIS ^ region, key.p, key.len);

	return h ? h : 1;
}

/* With the lock. NULL: there is none. */
static struct delta_pace_row *find(struct delta_pace *p, uint64_t hash)
{
	for (unsigned i = 0; i < DELTA_PACE_ROWS; i++) {
		if (p->row[i].key == hash)
			return &p->row[i];
	}
	return NULL;
}

static int64_t left_ms(const struct delta_pace_row *row, int64_t least, int64_t now)
{
	int64_t pause = row->pause_ms > least ? row->pause_ms : least;
	int64_t left = row->end_ms + pause - now;

	return left > 0 ? left : 0;
}

static bool nobody_waits(const struct delta_pace *p)
{
	return atomic_load(&p->hurry) || atomic_load(&p->awaited);
}

int64_t delta_pace_wait_ms(struct delta_pace *p, unsigned region, struct slice key, bool follows)
{
	int64_t now = clock_monotonic_ms(), wait;

	if (!p || nobody_waits(p))
		return 0;
	mutex_lock(&p->lock);
	const struct delta_pace_row *row = find(p, hash_of(region, key));
	wait = row ? left_ms(row, follows ? DELTA_PACE_LEAST_MS : 0, now) : 0;
	mutex_unlock(&p->lock);
	return wait;
}

bool delta_pace_last(
	struct delta_pace *p, unsigned region, struct slice key, uint8_t hash[SHA256_SIZE])
{
	if (!p)
		return false;
	mutex_lock(&p->lock);
	const struct delta_pace_row *row = find(p, hash_of(region, key));
	if (row)
		memcpy(hash, row->hash, SHA256_SIZE);
	mutex_unlock(&p->lock);
	return row != NULL;
}

static void set_state(
	struct delta_pace *p, unsigned region, struct slice key, bool waiting, bool sending)
{
	if (!p)
		return;
	mutex_lock(&p->lock);
	struct delta_pace_row *row = find(p, hash_of(region, key));
	if (row) {
		row->waiting = waiting;
		row->sending = sending;
	}
	mutex_unlock(&p->lock);
}

void delta_pace_hold(struct delta_pace *p, unsigned region, struct slice key)
{
	set_state(p, region, key, true, false);
}

bool delta_pace_waiting(struct delta_pace *p, unsigned region, struct slice key)
{
	if (!p || nobody_waits(p))
		return false;
	mutex_lock(&p->lock);
	const struct delta_pace_row *row = find(p, hash_of(region, key));
	bool waiting = row && row->waiting && left_ms(row, 0, clock_monotonic_ms()) > 0;
	mutex_unlock(&p->lock);
	return waiting;
}

void delta_pace_begin(struct delta_pace *p, unsigned region, struct slice key)
{
	set_state(p, region, key, false, true);
}

void delta_pace_failed(struct delta_pace *p, unsigned region, struct slice key)
{
	set_state(p, region, key, false, false);
}

bool delta_pace_sending(struct delta_pace *p, unsigned region, struct slice key)
{
	if (!p || nobody_waits(p))
		return false;
	mutex_lock(&p->lock);
	const struct delta_pace_row *row = find(p, hash_of(region, key));
	bool sending = row && row->sending;
	mutex_unlock(&p->lock);
	return sending;
}

/* With the lock: one that nobody needs any more, of those the one that was sent longest ago. NULL: there is
 * none. */
static struct delta_pace_row *find_free(struct delta_pace *p, int64_t now)
{
	struct delta_pace_row *oldest = NULL;

	for (unsigned i = 0; i < DELTA_PACE_ROWS; i++) {
		struct delta_pace_row *row = &p->row[i];

		if (!row->key)
			return row;
		if (!row->sending && !left_ms(row, DELTA_PACE_LEAST_MS, now) &&
			(!oldest || row->end_ms < oldest->end_ms))
			oldest = row;
	}
	return oldest;
}

void delta_pace_sent(struct delta_pace *p, unsigned region, struct slice key, int64_t start_ms,
	const uint8_t hash[SHA256_SIZE])
{
	int64_t now = clock_monotonic_ms();
	struct delta_pace_row new = {.key = hash_of(region, key),
		.end_ms = now,
		.pause_ms = (DELTA_PACE_SHARE - 1) * (now - start_ms)};

	if (!p)
		return;
	memcpy(new.hash, hash, SHA256_SIZE);
	mutex_lock(&p->lock);
	struct delta_pace_row *row = find(p, new.key);
	if (!row)
		row = find_free(p, now);
	if (row)
		*row = new;
	mutex_unlock(&p->lock);
}
