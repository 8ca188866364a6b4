/*
 * Whether a region may be talked to: its check, and a circuit breaker.
 *
 *   DOWN     (at first, and after 3 consecutive passing failures) nothing is sent until retry_ms;
 *            then one thread makes the check, which is the half-open probe
 *   UP       used by everybody
 *   REFUSED  the check found a bucket that must not be touched; checked again every 30 s, because
 *            an operator may have put it right
 *
 * Pauses are exponential from 1 s to 30 s with jitter over the upper half. A check that succeeds
 * does not reset the exponent, only a real request does, so that a region that answers small reads
 * and fails everything else is not hammered. Denied writes pause writes alone: a bucket that one
 * may only read is still pulled from.
 *
 * Lock: region.lock, a leaf, held for a few instructions.
 */
#include "replicator/region.h"

#include <errno.h>
#include <stdio.h>

#include "cache/meta.h"
#include "cache/outbox.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/random.h"

enum {
	FAILURES_TO_OPEN = 3,
	PAUSE_FIRST_MS = 1000,
	PAUSE_MAX_MS = 30000,
	CHECK_TIMEOUT_MS = 10000,
	SOON_MS = 100,
	CALL_TIMEOUT_MS = 60000,
	SLOWEST_BYTES_PER_MS = 64, /* a transfer slower than this is given up */
};

int regions_init(struct regions *all)
{
	struct conn *conn;

	mutex_init(&all->lock, LOCK_RANK_LEAF);
	atomic_init(&all->cancel, false);
	for (unsigned i = 0; i < all->count; i++) {
		mutex_init(&all->region[i].lock, LOCK_RANK_LEAF);
		all->region[i].all = all;
	}
	int r = cache_read_begin(all->cache, &conn);
	if (r < 0)
		return r;
	r = meta_get_text(conn, "volume_id", all->volume_id, sizeof(all->volume_id));
	cache_read_end(conn);
	return r == -ENOENT ? 0 : r;
}

void regions_done(struct regions *all)
{
	for (unsigned i = 0; i < all->count; i++) {
		store_close(all->region[i].store);
		mutex_done(&all->region[i].lock);
	}
	mutex_done(&all->lock);
}

struct store_call region_call(const struct region *r, uint64_t size)
{
	return (struct store_call){
		.deadline_ms = clock_monotonic_ms() + CALL_TIMEOUT_MS +
			       (int64_t)(size / SLOWEST_BYTES_PER_MS),
		.cancel = &r->all->cancel,
	};
}

struct store_call region_call_urgent(const struct region *r, uint64_t size)
{
	struct store_call call = region_call(r, size);

	call.priority = STORE_URGENT;
	return call;
}

void store_failure_text(char *text, size_t size, const char *what, enum store_result result,
	const struct store_error *error)
{
	const char *detail = error && error->text[0] ? error->text : "";

	snprintf(text, size, "%s: %s%s%s", what, store_result_name(result), *detail ? ": " : "",
		detail);
}

static int64_t pause_ms(unsigned opens)
{
	int64_t pause = PAUSE_FIRST_MS << (opens < 5 ? opens : 5);

	if (pause > PAUSE_MAX_MS)
		pause = PAUSE_MAX_MS;
	return pause / 2 + (int64_t)random_below((uint64_t)pause / 2 + 1);
}

static bool usable(const struct region *r, enum region_use use)
{
	return r->state == REGION_UP &&
	       (use == REGION_READ || r->write_retry_ms <= clock_monotonic_ms());
}

bool region_up(struct region *r, enum region_use use)
{
	mutex_lock(&r->lock);
	bool up = usable(r, use);
	mutex_unlock(&r->lock);
	return up;
}

bool region_is_used(struct region *r)
{
	mutex_lock(&r->lock);
	bool used = r->used;
	mutex_unlock(&r->lock);
	return used;
}

/* The backlog need not wait for its own pauses any more. After a start what was given up is tried
 * once more, too: the operator may have put right what was in its way. */
static void retry_backlog(struct region *r)
{
	struct conn *conn;

	mutex_lock(&r->lock);
	bool first = !r->checked;
	mutex_unlock(&r->lock);
	int code = cache_begin(r->all->cache, &conn);
	if (code == 0) {
		code = outbox_retry_now(conn, r->id, first);
		if (code < 0)
			cache_rollback(conn);
		else
			code = cache_commit(conn);
	}
	if (code < 0)
		log_debug("backlog keeps its pauses region=%s error=%d", r->name, code);
}

static int check_once(struct region *r, int64_t deadline_ms, struct err *err)
{
	struct store_call call = {.deadline_ms = deadline_ms,
		.cancel = &r->all->cancel,
		.priority = STORE_URGENT};
	struct store_error error = {0};

	int code = volume_check(r, deadline_ms, err);
	if (code < 0)
		return code;
	mutex_lock(&r->lock);
	bool probed = r->probed;
	mutex_unlock(&r->lock);
	regions_compare_clocks(r->all);
	if (probed)
		return 0;
	enum store_result result = store_probe(r->store, &call, &error);
	if (result == STORE_OK)
		return 0;
	char text[256];
	store_failure_text(text, sizeof(text), "probe", result, &error);
	if (result == STORE_DENIED)
		return err_set(err, -EACCES,
			"region \"%s\": the store does not allow writing below .meridian/: %s\n"
			"hint: the credentials need get, put, delete and list on this bucket",
			r->name, text);
	return err_set(err, -EHOSTDOWN, "region \"%s\": %s", r->name, text);
}

static void first_line(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%.*s", (int)strcspn(from, "\n"), from);
}

static void check_failed_with(struct region *r, int code, const struct err *err)
{
	int64_t now = clock_monotonic_ms();
	bool log = false;

	mutex_lock(&r->lock);
	r->checking = false;
	if (code == -EAGAIN) {
		r->retry_ms = now + SOON_MS;
	} else {
		bool refused = code == -EMEDIUMTYPE || code == -EPROTONOSUPPORT;

		log = !r->refusal_logged || !r->error[0];
		r->refusal_logged = true;
		r->state = refused ? REGION_REFUSED : REGION_DOWN;
		r->retry_ms = now + (refused ? PAUSE_MAX_MS : pause_ms(r->opens));
		r->opens++;
		first_line(r->error, sizeof(r->error), err->text);
	}
	mutex_unlock(&r->lock);
	if (log)
		log_warn("%s region=%s error=\"%.*s\"",
			code == -EHOSTDOWN ? "region does not answer yet" : "region is not used",
			r->name, (int)strcspn(err->text, "\n"), err->text);
}

int region_check(struct region *r, int64_t deadline_ms, struct err *err)
{
	struct err own = {0};

	mutex_lock(&r->lock);
	bool busy = r->checking;
	r->checking = true;
	mutex_unlock(&r->lock);
	if (busy)
		return err_set(err, -EAGAIN, "region \"%s\": is being checked", r->name);

	int code = check_once(r, deadline_ms, &own);
	if (code < 0) {
		check_failed_with(r, code, &own);
		return err_set(err, code, "%s", own.text);
	}
	/* Before anybody sees it up, so that no row is looked for in vain. */
	retry_backlog(r);
	mutex_lock(&r->lock);
	bool again = r->opens > 0;
	r->checking = false;
	r->checked = true;
	r->probed = true;
	r->refusal_logged = false;
	r->state = REGION_UP;
	r->failures = 0;
	r->last_ok_ms = clock_realtime_ms();
	if (r->write_retry_ms <= clock_monotonic_ms())
		r->error[0] = '\0';
	mutex_unlock(&r->lock);
	if (again)
		log_info("region answers region=%s", r->name);
	if (r->all->changed)
		r->all->changed(r->all->changed_ctx);
	return 0;
}

bool region_begin(struct region *r, enum region_use use)
{
	mutex_lock(&r->lock);
	bool due = r->state != REGION_UP && !r->checking && r->retry_ms <= clock_monotonic_ms();
	bool up = usable(r, use);
	mutex_unlock(&r->lock);
	if (!due || atomic_load(&r->all->cancel))
		return up;
	return region_check(r, clock_monotonic_ms() + CHECK_TIMEOUT_MS, NULL) == 0 &&
	       region_up(r, use);
}

/* Under the lock. True when the breaker opened just now. */
static bool count_failure(struct region *r)
{
	if (++r->failures < FAILURES_TO_OPEN || r->state != REGION_UP)
		return false;
	r->state = REGION_DOWN;
	r->retry_ms = clock_monotonic_ms() + pause_ms(r->opens++);
	r->failures = 0;
	return true;
}

void region_end(struct region *r, enum region_use use, enum store_result result,
	const struct store_error *error, const char *what)
{
	char text[256];
	bool opened = false;

	if (result == STORE_LOCAL)
		return; /* says nothing about the region */
	store_failure_text(text, sizeof(text), what, result, error);
	int64_t now = clock_monotonic_ms();
	mutex_lock(&r->lock);
	if (use == REGION_READ)
		health_note(&r->health,
			store_result_passing(result) || result == STORE_DENIED);
	if (store_result_passing(result)) {
		opened = count_failure(r);
		snprintf(r->error, sizeof(r->error), "%s", text);
	} else if (result == STORE_DENIED) {
		if (use == REGION_WRITE) {
			opened = r->write_retry_ms <= now;
			if (opened)
				r->write_retry_ms = now + 5 * pause_ms(r->write_opens++);
		} else if (r->state == REGION_UP) {
			opened = true;
			r->state = REGION_DOWN;
			r->retry_ms = now + pause_ms(r->opens++);
		}
		snprintf(r->error, sizeof(r->error), "%s", text);
	} else {
		r->failures = 0;
		r->opens = 0;
		r->last_ok_ms = clock_realtime_ms();
		if (use == REGION_WRITE)
			r->write_opens = 0;
		if (use == REGION_WRITE || r->write_retry_ms <= now)
			r->error[0] = '\0';
	}
	mutex_unlock(&r->lock);
	if (opened)
		log_warn("region fails, pausing region=%s error=\"%s\"", r->name, text);
}
