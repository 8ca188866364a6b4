/*
 * What operators see: the state of a running replicator, and the check of one region of a
 * configuration. Reads only; each region's lock is held for a copy.
 */
#include "replicator/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cache/conflict.h"
#include "cache/held.h"
#include "cache/journal.h"
#include "replicator/store/layers.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/json.h"

static void region_state(struct region *r, struct region_status *ret)
{
	int64_t now = clock_monotonic_ms(), retry_ms;
	struct store_pace_limit bytes, requests;
	struct store_counts counts;

	store_stats_read(r->store, &counts);
	store_pace_read(r->store, &bytes, &requests);
	ret->rate_limit = bytes.per_second;
	ret->rate_until_ms = bytes.until_ms;
	ret->request_limit = requests.per_second;
	ret->request_until_ms = requests.until_ms;
	store_limit_read(r->store, &ret->connections_allowed, &ret->connections);
	ret->throttled = counts.results[STORE_THROTTLED];
	ret->bytes_sent = counts.bytes_sent;
	ret->bytes_received = counts.bytes_received;
	ret->bytes_copied = atomic_load(&r->bytes_copied);
	ret->wrong_bytes = atomic_load(&r->wrong_bytes);
	ret->copies = r->home_origin && !atomic_load(&r->copy_refused);
	ret->copies_apart = r->apart;
	memcpy(ret->name, r->name, sizeof(ret->name));
	memcpy(ret->url, r->url, sizeof(ret->url));
	ret->home = r->home;
	ret->clock_skew_ms = store_clock_skew_ms(r->store);
	mutex_lock(&r->lock);
	bool denied = r->write_retry_ms > now;
	bool untouched = r->state == REGION_DOWN && !r->error[0] && !r->last_ok_ms;
	ret->up = (r->state == REGION_UP && !denied) || untouched;
	ret->checked = r->checked && r->state != REGION_REFUSED;
	ret->capabilities = r->probed ? atomic_load(&r->store->capabilities) : 0;
	ret->last_ok_ms = r->last_ok_ms;
	retry_ms = r->state == REGION_UP ? r->write_retry_ms : r->retry_ms;
	memcpy(ret->error, r->error, sizeof(ret->error));
	memcpy(ret->copy_error, r->copy_error, sizeof(ret->copy_error));
	ret->left = r->health.left;
	ret->latency_ms = r->health.samples ? (int64_t)r->health.latency_ms : -1;
	ret->failing_percent = (unsigned)(r->health.failing * 100);
	mutex_unlock(&r->lock);
	ret->retry_at_ms =
		ret->up ? 0 : clock_realtime_ms() + (retry_ms > now ? retry_ms - now : 0);
}

static int counts(struct replicator *r, struct conn *conn, struct replicator_status *s)
{
	struct journal_stats journal;
	int code = 0;

	for (unsigned i = 0; code == 0 && i < r->regions.count; i++)
		code = outbox_stats(conn, r->regions.region[i].id, &s->region[i].outbox);
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++)
		code = upload_stats(conn, r->regions.region[i].id, &s->region[i].upload);
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++)
		code = resync_get(conn, r->regions.region[i].id, &s->region[i].resync);
	for (unsigned i = 0; code == 0 && i < r->regions.count; i++)
		code = region_seeding(conn, r->regions.region[i].id, &s->region[i].seeding);
	if (code == 0)
		code = journal_stats(conn, &journal);
	if (code < 0)
		return code;
	s->journal_rows = journal.rows;
	s->journal_oldest_ms = journal.oldest_ms;
	if ((code = conflict_count(conn, &s->conflicts)) < 0 ||
		(code = held_count(conn, &s->held)) < 0 ||
		(code = refresh_count(conn, &s->refresh)) < 0 ||
		(code = bad_segment_count(conn, &s->bad_segments)) < 0)
		return code;
	return entry_count(conn, &s->entries, &s->tombstones);
}

static void stopped_work(struct replicator *r, char text[REPLICATOR_STOPPED_SIZE])
{
	size_t n = 0;

	mutex_lock(&r->lock);
	for (unsigned i = 0; i < STOPPED_WORK_MAX && n < REPLICATOR_STOPPED_SIZE; i++) {
		const struct stopped_work *s = &r->stopped[i];

		if (s->of)
			n += (size_t)snprintf(text + n, REPLICATOR_STOPPED_SIZE - n, "%s%s: %s",
				n ? ", " : "", s->what, strerror(-s->code));
	}
	mutex_unlock(&r->lock);
}

int replicator_status(struct replicator *r, struct replicator_status *ret)
{
	struct replicator_status *s = calloc(1, sizeof(*s));
	struct checkpointer_status checkpoint;
	struct puller_status pull;
	struct conn *conn;

	if (!s)
		return -ENOMEM;
	s->node = cache_node(r->cache);
	if (atomic_load(&r->regions.clock_wrong))
		s->clock_off_ms = clock_realtime_ms() - hlc_wall_ms(cache_clock(r->cache));
	s->regions = r->regions.count;
	mutex_lock(&r->regions.lock);
	snprintf(s->volume_id, sizeof(s->volume_id), "%s", r->regions.volume_id);
	mutex_unlock(&r->regions.lock);
	for (unsigned i = 0; i < r->regions.count; i++)
		region_state(&r->regions.region[i], &s->region[i]);
	for (unsigned i = 0; i < r->regions.count; i++)
		reconciler_status(r->reconciler, i, &s->region[i].reconcile);
	for (unsigned i = 0; i < r->regions.count; i++)
		trash_status(r->trash, i, &s->region[i].trash);
	s->renaming = sealer_progress(r->sealer, &s->rename);
	stopped_work(r, s->stopped);
	s->durable_waiting = durable_waiting(r->durable);
	puller_status(r->puller, &pull);
	memcpy(s->pull_region, pull.region, sizeof(s->pull_region));
	s->pull_last_ms = pull.last_ms;
	s->pull_lag_ms = pull.lag_ms;
	s->loading_parts = pull.parts;
	s->loading_done = pull.parts_done;
	for (unsigned i = 0; i < r->regions.count; i++) {
		checkpointer_status(r->checkpointer[i], &checkpoint);
		s->region[i].checkpoint_ms = checkpoint.newest_ms;
	}
	checkpointer_status(r->checkpointer[r->o.home], &checkpoint);
	s->checkpoint_ms = checkpoint.newest_ms;
	s->checkpoint_segments = checkpoint.segments_since;
	int code = cache_read_begin(r->cache, &conn);
	if (code == 0) {
		code = counts(r, conn, s);
		cache_read_end(conn);
	}
	if (code == 0)
		*ret = *s;
	free(s);
	return code;
}

/* ---- config check ---- */

static const struct {
	unsigned bit;
	const char *text;
} capability_text[] = {
	{STORE_CAP_PUT_IF_ABSENT, "conditional create"},
	{STORE_CAP_PUT_IF_MATCH, "conditional overwrite"},
	{STORE_CAP_DELETE_IF_MATCH, "conditional delete"},
	{STORE_CAP_COPY, "server-side copy"},
	{STORE_CAP_COPY_IF_MATCH, "conditional copy"},
	{STORE_CAP_UPLOAD, "uploads in parts"},
	{STORE_CAP_UPLOAD_IF, "conditional end of an upload"},
};

static void describe(struct store *s, struct buf *text)
{
	unsigned caps = atomic_load(&s->capabilities);
	int64_t skew = store_clock_skew_ms(s);

	for (size_t i = 0; i < ARRAY_SIZE(capability_text); i++)
		buf_printf(text, "  %s: %s\n", capability_text[i].text,
			caps & capability_text[i].bit ? "yes" : "no");
	if (skew)
		buf_printf(text, "  clock: %+" PRId64 " ms against this machine\n", skew);
}

static int describe_volume(const struct buf *file, struct buf *text)
{
	struct json_object *o = NULL;
	const char *id = NULL, *name = NULL;

	if (json_parse((const char *)file->data, file->len, &o) == 0) {
		id = json_get_str(o, "volume_id");
		name = json_get_str(o, "name");
	}
	if (id)
		buf_printf(text, "  volume: %.64s, id %.64s\n", name ? name : "without a name", id);
	else
		buf_put_str(text, "  volume: " VOLUME_KEY " is not a Meridian volume file\n");
	json_object_free(o);
	return id ? 0 : -EMEDIUMTYPE;
}

static int check_open(struct store *s, const char *name, int64_t timeout_ms, struct buf *text)
{
	struct store_call call = {.deadline_ms = clock_monotonic_ms() + timeout_ms};
	CLEANUP(buf_done) struct buf volume = {0};
	struct store_error error = {0};
	char line[256];

	enum store_result result =
		store_get_buf(s, VOLUME_KEY, 65536, &volume, NULL, NULL, &call, &error);
	if (result == STORE_OK) {
		int code = describe_volume(&volume, text);
		if (code < 0)
			return code;
	} else if (result == STORE_ABSENT) {
		buf_put_str(text, "  volume: none yet, made at the first mount\n");
	} else {
		store_failure_text(line, sizeof(line), "get " VOLUME_KEY, result, &error);
		buf_printf(text, "region \"%s\": %s\n", name, line);
		return result == STORE_DENIED ? -EACCES : -EHOSTDOWN;
	}
	result = store_probe(s, &call, &error);
	if (result != STORE_OK) {
		store_failure_text(line, sizeof(line), "probe", result, &error);
		buf_printf(text, "region \"%s\": %s\n", name, line);
		return result == STORE_DENIED ? -EACCES : -EHOSTDOWN;
	}
	describe(s, text);
	return 0;
}

int replicator_check_region(const struct store_config *config, int64_t timeout_ms, struct buf *text)
{
	struct store_config looking = *config;
	struct store *s;
	struct err err = {0};

	looking.used = true; /* makes nothing */
	int code = store_exists(config, &err);
	bool there = code > 0;
	if (there)
		code = store_open(&looking, &s, &err);
	if (code < 0) {
		buf_printf(text, "%s\n", err.text);
		return code;
	}
	buf_printf(text, "%s\n", config->url);
	if (!there) {
		buf_put_str(text, "  directory: not in use yet, made ready by the first mount\n");
		return 0;
	}
	code = check_open(s, config->name, timeout_ms, text);
	store_close(s);
	return code;
}
