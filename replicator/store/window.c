/* The number of requests under way; see window.h. */
#include "replicator/store/window.h"

enum {
	STEP = 4,     /* answers for one request more or fewer: a quarter more in a round trip */
	SLACK_MS = 5, /* what a busy machine takes anyway */
	REBASE_MS = 30000,
};

void window_init(struct window *w, unsigned least, unsigned most)
{
	if (least > most)
		least = most;
	*w = (struct window){.now = least, .least = least, .most = most, .base_ms = -1};
}

/* At the least number answers are slow: perhaps for good. */
static void doubt_base(struct window *w, int64_t took_ms, int64_t now_ms)
{
	if (!w->slow_since_ms) {
		w->slow_since_ms = now_ms;
		w->slow_base_ms = took_ms;
	} else if (took_ms < w->slow_base_ms) {
		w->slow_base_ms = took_ms;
	}
	if (now_ms - w->slow_since_ms < REBASE_MS)
		return;
	w->base_ms = w->slow_base_ms;
	w->slow_since_ms = 0;
}

bool window_answer(struct window *w, int64_t took_ms, bool wanted, int64_t now_ms)
{
	if (took_ms < 0)
		took_ms = 0;
	w->mean_16th = w->base_ms < 0 ? took_ms * 16 : w->mean_16th + took_ms - w->mean_16th / 16;
	if (w->base_ms < 0 || took_ms < w->base_ms)
		w->base_ms = took_ms;
	int64_t mean_ms = w->mean_16th / 16;
	bool slow = mean_ms > 3 * (w->base_ms + SLACK_MS);
	bool quick = mean_ms < 2 * w->base_ms + SLACK_MS;

	if (slow && w->now == w->least)
		doubt_base(w, took_ms, now_ms);
	else
		w->slow_since_ms = 0;
	w->credit += slow ? -1 : quick && wanted ? 1 : 0;
	if (w->credit <= -STEP || w->credit >= STEP) {
		bool more = w->credit > 0 && w->now < w->most;

		if (more)
			w->now++;
		else if (w->credit < 0 && w->now > w->least)
			w->now--;
		w->credit = 0;
		return more;
	}
	return false;
}
