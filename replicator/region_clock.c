/*
 * Whether this machine's clock can be believed.
 *
 * Stamps are made with the wall clock, and a record that is stamped further ahead than
 * max_clock_skew is held by the others. So a server whose clock is an hour wrong, or is set by an
 * hour while it runs, would be heard an hour late, or hear the others so. But each answer of a store
 * tells the time. The median of what the regions say is taken for right when the wall clock is more
 * than half of max_clock_skew away from it: then no two servers that both know a store's time are
 * further apart than max_clock_skew.
 *
 * Stores' clocks are kept against a clock that nobody sets and that goes on while the machine is
 * suspended, so a jump of the wall clock is noticed with the next stamp and not with the next answer. Takes no lock.
 */
#include <inttypes.h>

#include "cache/cache.h"
#include "replicator/region.h"
#include "src/base/clock.h"
#include "src/base/hlc.h"
#include "src/base/log.h"

static void insert(int64_t *sorted, unsigned count, int64_t value)
{
	unsigned i = count;

	for (; i > 0 && sorted[i - 1] > value; i--)
		sorted[i] = sorted[i - 1];
	sorted[i] = value;
}

/* Of two in the middle the one that is nearer to the wall clock: it takes a majority to say that it
 * is wrong. */
static int64_t median(const int64_t *sorted, unsigned count, int64_t wall)
{
	int64_t low = sorted[(count - 1) / 2], high = sorted[count / 2];

	if (low <= wall && wall <= high)
		return wall;
	return wall < low ? low : high;
}

static void tell(struct regions *all, int64_t off_ms)
{
	bool wrong = off_ms > all->max_clock_skew_ms / 2 || -off_ms > all->max_clock_skew_ms / 2;

	if (wrong == atomic_exchange(&all->clock_wrong, wrong))
		return;
	if (wrong)
		log_warn("this machine's clock is wrong, the regions' is used instead "
			 "off_ms=%" PRId64,
			off_ms);
	else
		log_info("this machine's clock is right again");
}

void regions_compare_clocks(struct regions *all)
{
	int64_t sorted[REGION_MAX], wall = clock_realtime_ms();
	unsigned count = 0;

	for (unsigned i = 0; i < all->count; i++) {
		int64_t now = store_clock_ms(all->region[i].store);

		if (now)
			insert(sorted, count++, now);
	}
	if (!count)
		return;
	int64_t now = median(sorted, count, wall);
	hlc_refer(cache_clock(all->cache), now, all->max_clock_skew_ms / 2);
	tell(all, wall - now);
}
