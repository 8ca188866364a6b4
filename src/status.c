/* Why this file: the figures of the daemon's parts have their own structs; what an operator looks
 * at is put together in one place, first what is wrong. */
#include "src/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/base/json.h"
#include "src/base/metrics.h"
#include "src/text.h"

static const struct {
	unsigned bit;
	const char *name;
	const char *missing; /* what its absence means; NULL: costs speed only */
} capabilities[] = {
	{STORE_CAP_PUT_IF_ABSENT, "put_if_absent",
		"no conditional writes of new keys: verifies by reading back"},
	{STORE_CAP_PUT_IF_MATCH, "put_if_match",
		"no conditional overwrites: verifies by reading back"},
	{STORE_CAP_DELETE_IF_MATCH, "delete_if_match",
		"no conditional deletes: reads before it deletes"},
	{STORE_CAP_COPY, "copy", "no server-side copies: attribute changes send the content again"},
	{STORE_CAP_COPY_IF_MATCH, "copy_if_match", NULL},
	{STORE_CAP_UPLOAD, "upload", NULL},
	{STORE_CAP_UPLOAD_COPY, "upload_copy", NULL},
	{STORE_CAP_UPLOAD_IF, "upload_if", NULL},
};

static int64_t age(const struct status *s, int64_t then_ms)
{
	return then_ms > 0 && s->now_ms > then_ms ? s->now_ms - then_ms : 0;
}

static void region_state(const struct status *s, const struct region_status *r, char out[64])
{
	char figure[TEXT_FIGURE_SIZE];

	if (r->up)
		snprintf(out, 64, "%s", r->last_ok_ms || r->checked ? "up" : "not asked yet");
	else if (r->last_ok_ms)
		snprintf(out, 64, "DOWN for %s", text_age(age(s, r->last_ok_ms), figure));
	else
		snprintf(out, 64, "DOWN, never seen");
}

/* The replicator names the region before each error; here its row does. */
static const char *region_error(const struct region_status *r)
{
	char prefix[REGION_NAME_SIZE + 16];
	int n = snprintf(prefix, sizeof(prefix), "region \"%s\": ", r->name);

	if (!r->error[0])
		return "-";
	return strncmp(r->error, prefix, (size_t)n) == 0 ? r->error + n : r->error;
}

static void region_row(const struct status *s, const struct region_status *r, struct buf *out)
{
	char state[64], backlog[96], oldest[TEXT_FIGURE_SIZE] = "-", figure[TEXT_FIGURE_SIZE],
				     name[80];

	region_state(s, r, state);
	snprintf(name, sizeof(name), "%s%s", r->name, r->home ? " *" : "");
	if (r->outbox.rows)
		snprintf(backlog, sizeof(backlog), "%" PRIu64 " (%s)", r->outbox.rows,
			text_bytes(r->outbox.bytes, figure));
	else
		snprintf(backlog, sizeof(backlog), "0");
	if (r->outbox.oldest_ms)
		text_age(age(s, (int64_t)r->outbox.oldest_ms), oldest);
	buf_printf(out, "  %-18s %-18s %-18s %-8s %s\n", name, state, backlog, oldest,
		region_error(r));
}

static void resync_note(const struct status *s, const struct region_status *r, struct buf *out)
{
	const struct replicator_status *all = &s->replicator;

	if (r->resync.state == RESYNC_OUT)
		buf_printf(out,
			"  %s: NEEDS RESYNC: its backlog was dropped; what it missed is computed "
			"when it "
			"answers\n",
			r->name);
	else if (r->resync.state == RESYNC_RUNNING && r->seeding)
		buf_printf(out, "  %s: resync: %" PRIu64 " of %" PRIu64 " paths looked at\n",
			r->name, r->resync.seen, all->entries + all->tombstones);
	else if (r->resync.state == RESYNC_RUNNING)
		buf_printf(out, "  %s: resync: what it missed is being sent\n", r->name);
	else if (r->seeding)
		buf_printf(out, "  %s: is new; its backlog is still being listed\n", r->name);
	if (r->resync.optional)
		buf_printf(out, "  %s: is optional: nothing waits for it\n", r->name);
}

/* What the last scan of the region left for somebody, and the one under way. */
static void reconcile_note(const struct status *s, const struct region_status *r, struct buf *out)
{
	const struct reconcile_status *q = &r->reconcile;
	char figure[TEXT_FIGURE_SIZE];

	if (q->running)
		buf_printf(out, "  %s: is being reconciled, %" PRIu64 " objects so far\n", r->name,
			q->under_way.objects);
	if (q->counts.found[FOUND_HELD])
		buf_printf(out,
			"  %s: %" PRIu64 " objects are gone; nothing was removed elsewhere: meridian "
			"reconcile --accept-deletes removes them, --restore puts them back\n",
			r->name, q->counts.found[FOUND_HELD]);
	if (q->counts.found[FOUND_FAILED] || q->counts.found[FOUND_INVALID])
		buf_printf(out,
			"  %s: %" PRIu64 " objects of other tools could not be read, %" PRIu64
			" are no files (reconciled %s ago)\n",
			r->name, q->counts.found[FOUND_FAILED], q->counts.found[FOUND_INVALID],
			text_age(age(s, q->last_ms), figure));
}

static void reconcile_json(const struct region_status *r, struct json *j)
{
	const struct reconcile_status *q = &r->reconcile;
	const struct reconcile_counts *c = q->running ? &q->under_way : &q->counts;

	json_begin_object(j, "reconcile");
	json_put_bool(j, "running", q->running);
	json_put_bool(j, "elsewhere", q->elsewhere);
	json_put_int(j, "last_ms", q->last_ms);
	json_put_int(j, "objects", (int64_t)c->objects);
	json_put_int(j, "looked", (int64_t)c->looked);
	json_put_int(j, "waiting", (int64_t)c->waiting);
	for (unsigned f = 0; f < FOUND_KINDS; f++)
		json_put_int(j, reconcile_found_name((enum reconcile_found)f),
			(int64_t)c->found[f]);
	json_end(j);
}

/* " until Mon 22:00", in local time; nothing for what never ends. */
static void put_until(int64_t until_ms, struct buf *out)
{
	time_t seconds = (time_t)(until_ms / 1000);
	char text[32];
	struct tm t;

	if (until_ms && localtime_r(&seconds, &t) && strftime(text, sizeof(text), "%a %H:%M", &t))
		buf_printf(out, " until %s", text);
}

/* Only where the configuration has limits. */
static void limit_note(const struct region_status *r, struct buf *out)
{
	char figure[TEXT_FIGURE_SIZE];

	if (r->rate_limit || r->rate_until_ms) {
		if (r->rate_limit)
			buf_printf(out, "  %s: at most %s a second each way", r->name,
				text_bytes(r->rate_limit, figure));
		else
			buf_printf(out, "  %s: any bandwidth", r->name);
		put_until(r->rate_until_ms, out);
		buf_put_u8(out, '\n');
	}
	if (r->request_limit || r->request_until_ms) {
		if (r->request_limit)
			buf_printf(out, "  %s: at most %" PRIu64 " requests a second", r->name,
				r->request_limit);
		else
			buf_printf(out, "  %s: any number of requests", r->name);
		put_until(r->request_until_ms, out);
		buf_put_u8(out, '\n');
	}
}

/* push = copy, and contents are sent to it all the same. */
static void copies_note(const struct region_status *r, struct buf *out)
{
	if (r->copies_apart)
		buf_printf(out,
			"  %s: contents are sent to it: its store has nothing to do with the home region's "
			"(another endpoint, other credentials, or a directory)\n",
			r->name);
	else if (r->copy_error[0])
		buf_printf(out,
			"  %s: contents are sent to it until the next start: it refused to copy from the "
			"home region (%s)\n",
			r->name, r->copy_error);
}

static void region_notes(const struct status *s, const struct region_status *r, struct buf *out)
{
	char figure[TEXT_FIGURE_SIZE], all[TEXT_FIGURE_SIZE];

	if (r->upload.uploads)
		buf_printf(out, "  %s: %" PRIu64 " large files on their way, %s of %s sent\n",
			r->name, r->upload.uploads, text_bytes(r->upload.sent, figure),
			text_bytes(r->upload.bytes, all));
	if (r->left)
		buf_printf(out,
			"  %s: is read last: %u %% of reads failed, the others took %s; taken back "
			"after 10 good probes\n",
			r->name, r->failing_percent,
			r->latency_ms < 0 ? "-" : text_age(r->latency_ms, figure));
	if (r->connections_allowed < r->connections)
		buf_printf(out,
			"  %s: is throttling: %" PRIu64 " requests refused since the start, now %u of %u "
			"connections are used\n",
			r->name, r->throttled, r->connections_allowed, r->connections);
	copies_note(r, out);
	limit_note(r, out);
	resync_note(s, r, out);
	if (r->wrong_bytes)
		buf_printf(out,
			"  %s: gave wrong bytes %" PRIu64 " times since the start, which were thrown "
			"away; the log names the objects\n",
			r->name, r->wrong_bytes);
	if (r->outbox.parked)
		buf_printf(out, "  %s: %" PRIu64 " changes failed for good and wait for you\n",
			r->name, r->outbox.parked);
	for (size_t i = 0; r->checked && i < ARRAY_SIZE(capabilities); i++)
		if (!(r->capabilities & capabilities[i].bit) && capabilities[i].missing)
			buf_printf(out, "  %s: %s\n", r->name, capabilities[i].missing);
	if (r->clock_skew_ms > s->config->max_clock_skew_ms ||
		-r->clock_skew_ms > s->config->max_clock_skew_ms)
		buf_printf(out, "  %s: its clock is %s %s this machine's\n", r->name,
			text_age(r->clock_skew_ms < 0 ? -r->clock_skew_ms : r->clock_skew_ms,
				figure),
			r->clock_skew_ms < 0 ? "behind" : "ahead of");
	reconcile_note(s, r, out);
	if (r->trash.needed)
		buf_printf(out,
			"  %s: %" PRIu64 " old copies in the trash are kept: a file may have its content "
			"nowhere else\n",
			r->name, r->trash.needed);
	if (!r->up && r->retry_at_ms > s->now_ms)
		buf_printf(out, "  %s: next attempt in %s\n", r->name,
			text_age(r->retry_at_ms - s->now_ms, figure));
}

static void pull_line(const struct status *s, struct buf *out)
{
	const struct replicator_status *r = &s->replicator;
	char figure[TEXT_FIGURE_SIZE];

	if (!r->pull_last_ms)
		buf_printf(out, "  pull       nothing yet\n");
	else
		buf_printf(out, "  pull       %s ago from %s",
			text_age(age(s, r->pull_last_ms), figure),
			r->pull_region[0] ? r->pull_region : "-");
	if (r->pull_last_ms && r->pull_lag_ms >= 0)
		buf_printf(out, ", newest change was %s old", text_age(r->pull_lag_ms, figure));
	if (r->pull_last_ms)
		buf_put_u8(out, '\n');
	if (r->loading_parts)
		buf_printf(out,
			"  loading    a checkpoint of the volume: %" PRIu64 " of %" PRIu64
			" parts are here\n",
			r->loading_done, r->loading_parts);
	if (r->checkpoint_ms)
		buf_printf(out, "  checkpoint %s ago, %" PRIu64 " segments since then\n",
			text_age(age(s, r->checkpoint_ms), figure), r->checkpoint_segments);
}

static void rename_line(const struct status *s, struct buf *out)
{
	const struct replicator_status *r = &s->replicator;

	if (r->renaming)
		buf_printf(out,
			"  rename     of a directory: %" PRIu64 " of about %" PRIu64
			" names done, now called %s\n",
			r->rename.done, r->rename.total, r->rename.to.p);
}

/* What is wrong with this machine's part; nothing where nothing is. */
static void local_notes(const struct status *s, struct buf *out)
{
	uint64_t lost = metric_get(METRIC_CONTENT_LOST);
	int64_t off_ms = s->replicator.clock_off_ms;
	char figure[TEXT_FIGURE_SIZE];

	if (off_ms)
		buf_printf(out,
			"  warning    this machine's clock is %s %s the regions'; theirs is used: "
			"set it right\n",
			text_age(off_ms < 0 ? -off_ms : off_ms, figure),
			off_ms < 0 ? "behind" : "ahead of");
	if (s->replicator.stopped[0])
		buf_printf(out, "  warning    cannot go on, and tries again: %s\n", s->replicator.stopped);
	if (s->usage.state_volatile)
		buf_printf(out,
			"  warning    the state directory %s is in memory: what is not pushed dies "
			"with this machine\n",
			s->config->state_dir);
	if (s->usage.cut_short)
		buf_printf(out,
			"  warning    a power loss cut %" PRIu64 " files short; the log names "
			"them\n",
			s->usage.cut_short);
	if (lost)
		buf_printf(out,
			"  warning    the content of %" PRIu64
			" files was missing or not as recorded "
			"and is fetched again; the log names them\n",
			lost);
}

/* Only where there is a limit. */
static void pressure_line(const struct status *s, struct buf *out)
{
	const struct cache_pressure *p = &s->pressure;
	char a[TEXT_FIGURE_SIZE], b[TEXT_FIGURE_SIZE];

	if (!p->max_dirty && !p->max_backlog)
		return;
	buf_printf(out, "  unpushed   %s", text_bytes(p->dirty_bytes, a));
	if (p->max_dirty)
		buf_printf(out, " of %s", text_bytes(p->max_dirty, b));
	buf_printf(out, " and %" PRIu64, p->backlog_rows);
	if (p->max_backlog)
		buf_printf(out, " of %" PRIu64, p->max_backlog);
	buf_printf(out, " changes for regions: %u %% full%s\n", p->permille / 10,
		p->permille >= 1000	       ? ", WRITERS ARE REFUSED (ENOSPC)"
		: p->permille > PRESSURE_BEGIN ? ", writers are slowed"
					       : "");
}

/* Files that need somebody's look, the first few by name. */
static void troubles(const struct status *s, struct buf *out)
{
	static const char *const what[TROUBLE_KINDS] = {
		[TROUBLE_BUSY] = "written without pause, no version of it could be taken yet",
		[TROUBLE_LOST] = "its content is missing here: fetched when it is opened, else EIO",
		[TROUBLE_FAILED] = "no copy of it could be taken to be sent, tried again",
	};
	uint64_t left = 0;
	char figure[TEXT_FIGURE_SIZE];

	for (unsigned i = 0; i < TROUBLE_KINDS; i++)
		left += s->trouble_count[i];
	for (unsigned i = 0; i < s->troubles; i++) {
		const struct cache_trouble_file *t = &s->trouble[i];

		buf_printf(out, "  file       ");
		text_escape(out, t->key.p, t->key.len);
		buf_printf(out, ": %s (%s%ssince %s)\n", what[t->kind],
			t->error ? strerror(-t->error) : "", t->error ? ", " : "",
			text_age(age(s, t->since_ms), figure));
		left -= left > 0;
	}
	if (left)
		buf_printf(out, "  file       and %" PRIu64 " more\n", left);
}

static void figures(const struct status *s, struct buf *out)
{
	const struct replicator_status *r = &s->replicator;
	char a[TEXT_FIGURE_SIZE], b[TEXT_FIGURE_SIZE], c[TEXT_FIGURE_SIZE], d[TEXT_FIGURE_SIZE];

	buf_printf(out, "  journal    %" PRIu64 " changes not sealed", r->journal_rows);
	if (r->journal_oldest_ms)
		buf_printf(
			out, ", the oldest %s", text_age(age(s, (int64_t)r->journal_oldest_ms), a));
	buf_put_u8(out, '\n');
	pull_line(s, out);
	rename_line(s, out);
	buf_printf(out,
		"  attention  %" PRIu64 " conflicts, %" PRIu64 " held, %" PRIu64 " bad segments\n",
		r->conflicts, r->held, r->bad_segments);
	buf_printf(out, "  cache      %s%s%s in %" PRIu64 " files%s, database %s, disk %s free\n",
		text_bytes(s->usage.content_bytes, a), s->config->cache_size ? " of " : "",
		s->config->cache_size ? text_bytes(s->config->cache_size, b) : "",
		s->usage.content_files, s->usage.counting ? " (still counting)" : "",
		text_bytes(s->usage.database_bytes, c), text_bytes(s->usage.free_bytes, d));
	pressure_line(s, out);
	if (s->partial.files)
		buf_printf(out, "  partial    %s of %" PRIu64 " large files that are read by blocks\n",
			text_bytes(s->partial.bytes, a), s->partial.files);
	if (r->refresh)
		buf_printf(out, "  refresh    %" PRIu64 "%s files wait to be fetched ahead\n", r->refresh,
			r->refresh == REFRESH_COUNT_MAX ? " or more" : "");
	buf_printf(out, "  passthrough: %s\n", s->fs.passthrough);
	if (s->fs.fetches_waiting)
		buf_printf(out, "  waiting    %" PRIu64 " opens and reads wait for content from a region\n",
			s->fs.fetches_waiting);
}

static void durability_line(const struct status *s, struct buf *out)
{
	const struct config *c = s->config;
	uint64_t failed = metric_get(METRIC_DURABLE_FAILURES);
	unsigned rules = 0;

	for (unsigned i = 0; i < c->policies; i++)
		rules += c->policy[i].durability || c->policy[i].sync_on_close;
	buf_printf(out, "  durability %s%s", durability_name((enum durability)c->durability),
		c->sync_on_close ? ", also on close" : "");
	if (rules)
		buf_printf(out, ", other for %u patterns", rules);
	if (s->replicator.durable_waiting)
		buf_printf(out, "; %" PRIu64 " calls wait for regions",
			s->replicator.durable_waiting);
	if (failed)
		buf_printf(out, "; %" PRIu64 " failed since the start", failed);
	buf_put_str(out, "\n\n");
}

void status_text(const struct status *s, struct buf *out)
{
	const struct replicator_status *r = &s->replicator;
	char figure[TEXT_FIGURE_SIZE];

	buf_printf(out, "%s on %s%s%s\n", s->config->name, s->mountpoint,
		s->read_only ? ", read-only" : "", s->stopping ? ", stopping" : "");
	buf_printf(out, "  daemon     %d, up %s, version %s, node %016" PRIx64 "\n", (int)s->pid,
		text_age(s->now_ms - s->started_ms, figure), MERIDIAN_VERSION, s->node);
	durability_line(s, out);
	buf_printf(out, "  %-18s %-18s %-18s %-8s %s\n", "REGION (* home)", "STATE", "BACKLOG",
		"OLDEST", "LAST ERROR");
	for (unsigned i = 0; i < r->regions; i++)
		region_row(s, &r->region[i], out);
	buf_put_u8(out, '\n');
	for (unsigned i = 0; i < r->regions; i++)
		region_notes(s, &r->region[i], out);
	figures(s, out);
	local_notes(s, out);
	troubles(s, out);
}

static void region_json(const struct status *s, const struct region_status *r, struct json *j)
{
	json_begin_object(j, NULL);
	json_put_str(j, "name", r->name);
	json_put_str(j, "url", r->url);
	json_put_bool(j, "home", r->home);
	json_put_bool(j, "up", r->up);
	json_put_bool(j, "checked", r->checked);
	json_begin_array(j, "capabilities");
	for (size_t i = 0; r->checked && i < ARRAY_SIZE(capabilities); i++)
		if (r->capabilities & capabilities[i].bit)
			json_put_str(j, NULL, capabilities[i].name);
	json_end(j);
	json_put_int(j, "clock_skew_ms", r->clock_skew_ms);
	json_put_bool(j, "read_last", r->left);
	json_put_int(j, "latency_ms", r->latency_ms);
	json_put_int(j, "failing_percent", r->failing_percent);
	json_put_int(j, "backlog_rows", (int64_t)r->outbox.rows);
	json_put_int(j, "backlog_bytes", (int64_t)r->outbox.bytes);
	json_put_int(j, "backlog_unannounced", (int64_t)r->outbox.unannounced);
	json_put_bool(j, "seeding", r->seeding);
	json_put_bool(j, "optional", r->resync.optional);
	json_put_str(j, "resync",
		r->resync.state == RESYNC_OUT	    ? "needed"
		: r->resync.state == RESYNC_RUNNING ? "running"
						    : "none");
	json_put_int(j, "resync_seen", (int64_t)r->resync.seen);
	json_put_int(j, "backlog_parked", (int64_t)r->outbox.parked);
	json_put_int(j, "backlog_oldest_ms", (int64_t)r->outbox.oldest_ms);
	json_put_int(j, "backlog_oldest_age_ms", age(s, (int64_t)r->outbox.oldest_ms));
	json_put_int(j, "uploads", (int64_t)r->upload.uploads);
	json_put_int(j, "upload_bytes", (int64_t)r->upload.bytes);
	json_put_int(j, "upload_sent_bytes", (int64_t)r->upload.sent);
	reconcile_json(r, j);
	json_put_int(j, "checkpoint_ms", r->checkpoint_ms);
	json_begin_object(j, "trash");
	json_put_int(j, "cleaned_ms", r->trash.finished_ms);
	json_put_int(j, "removed", (int64_t)r->trash.removed);
	json_put_int(j, "needed", (int64_t)r->trash.needed);
	json_end(j);
	json_put_int(j, "bytes_sent", (int64_t)r->bytes_sent);
	json_put_int(j, "bytes_received", (int64_t)r->bytes_received);
	json_put_int(j, "bytes_copied", (int64_t)r->bytes_copied);
	json_put_int(j, "wrong_bytes", (int64_t)r->wrong_bytes);
	json_put_bool(j, "copies_from_home", r->copies);
	json_put_bool(j, "copies_apart", r->copies_apart);
	json_put_str(j, "copies_error", r->copy_error);
	json_put_int(j, "rate_limit", (int64_t)r->rate_limit);
	json_put_int(j, "rate_limit_until_ms", r->rate_until_ms);
	json_put_int(j, "request_limit", (int64_t)r->request_limit);
	json_put_int(j, "request_limit_until_ms", r->request_until_ms);
	json_put_int(j, "throttled_total", (int64_t)r->throttled);
	json_put_int(j, "connections", r->connections);
	json_put_int(j, "connections_allowed", r->connections_allowed);
	json_put_int(j, "last_ok_ms", r->last_ok_ms);
	json_put_int(j, "retry_at_ms", r->retry_at_ms);
	json_put_str(j, "error", r->error);
	json_end(j);
}

static void cache_json(const struct status *s, struct json *j)
{
	json_begin_object(j, "cache");
	json_put_int(j, "content_bytes", (int64_t)s->usage.content_bytes);
	json_put_int(j, "content_files", (int64_t)s->usage.content_files);
	json_put_int(j, "partial_bytes", (int64_t)s->partial.bytes);
	json_put_int(j, "partial_files", (int64_t)s->partial.files);
	json_put_int(j, "cache_size", (int64_t)s->config->cache_size);
	json_put_int(j, "inodes", (int64_t)s->usage.inodes);
	json_put_bool(j, "counting", s->usage.counting);
	json_put_bool(j, "state_volatile", s->usage.state_volatile);
	json_put_int(j, "cut_short", (int64_t)s->usage.cut_short);
	json_put_int(j, "files_busy", (int64_t)s->trouble_count[TROUBLE_BUSY]);
	json_put_int(j, "files_lost", (int64_t)s->trouble_count[TROUBLE_LOST]);
	json_put_int(j, "files_failed", (int64_t)s->trouble_count[TROUBLE_FAILED]);
	json_put_int(j, "database_bytes", (int64_t)s->usage.database_bytes);
	json_put_int(j, "free_bytes", (int64_t)s->usage.free_bytes);
	json_put_int(j, "total_bytes", (int64_t)s->usage.total_bytes);
	json_end(j);
	json_begin_object(j, "pressure");
	json_put_int(j, "dirty_bytes", (int64_t)s->pressure.dirty_bytes);
	json_put_int(j, "max_dirty", (int64_t)s->pressure.max_dirty);
	json_put_int(j, "backlog_rows", (int64_t)s->pressure.backlog_rows);
	json_put_int(j, "max_backlog", (int64_t)s->pressure.max_backlog);
	json_put_int(j, "permille", s->pressure.permille);
	json_put_bool(j, "slowed",
		s->pressure.permille > PRESSURE_BEGIN && s->pressure.permille < 1000);
	json_put_bool(j, "refused", s->pressure.permille >= 1000);
	json_end(j);
	json_begin_object(j, "fs");
	json_put_int(j, "requests", (int64_t)s->fs.requests);
	json_put_int(j, "errors", (int64_t)s->fs.errors);
	json_put_int(j, "fetches_waiting", (int64_t)s->fs.fetches_waiting);
	json_put_int(j, "syncs_waiting", (int64_t)s->fs.syncs_waiting);
	json_put_int(j, "invalidations", (int64_t)s->fs.invalidations);
	json_put_int(j, "invalidations_pending", (int64_t)s->fs.invalidations_pending);
	json_put_str(j, "passthrough", s->fs.passthrough);
	json_end(j);
	json_begin_object(j, "counters");
	for (unsigned i = 0; i < METRIC_COUNT; i++)
		json_put_int(j, metric_name((enum metric)i), (int64_t)metric_get((enum metric)i));
	json_end(j);
}

char *status_json(const struct status *s)
{
	const struct replicator_status *r = &s->replicator;
	struct json *j = json_new();
	char node[17], *text;

	snprintf(node, sizeof(node), "%016" PRIx64, s->node);
	json_put_str(j, "volume", s->config->name);
	json_put_str(j, "version", MERIDIAN_VERSION);
	json_put_str(j, "volume_id", r->volume_id);
	json_put_str(j, "node", node);
	json_put_str(j, "config", s->config->path);
	json_put_str(j, "mountpoint", s->mountpoint);
	json_put_str(j, "state_dir", s->config->state_dir);
	json_put_str(j, "home", s->config->home);
	json_put_str(j, "durability", durability_name((enum durability)s->config->durability));
	json_put_int(j, "durability_waiting", (int64_t)r->durable_waiting);
	json_put_int(j, "pid", s->pid);
	json_put_bool(j, "read_only", s->read_only);
	json_put_bool(j, "stopping", s->stopping);
	json_put_int(j, "now_ms", s->now_ms);
	json_put_int(j, "started_ms", s->started_ms);
	json_begin_array(j, "regions");
	for (unsigned i = 0; i < r->regions; i++)
		region_json(s, &r->region[i], j);
	json_end(j);
	if (r->renaming) {
		json_begin_object(j, "rename");
		json_put_str(j, "from", r->rename.from.p);
		json_put_str(j, "to", r->rename.to.p);
		json_put_int(j, "done", (int64_t)r->rename.done);
		json_put_int(j, "total", (int64_t)r->rename.total);
		json_end(j);
	}
	json_put_str(j, "stopped", r->stopped);
	json_put_int(j, "journal_rows", (int64_t)r->journal_rows);
	json_put_int(j, "journal_oldest_ms", (int64_t)r->journal_oldest_ms);
	json_put_int(j, "journal_oldest_age_ms", age(s, (int64_t)r->journal_oldest_ms));
	json_put_str(j, "pull_region", r->pull_region);
	json_put_int(j, "pull_last_ms", r->pull_last_ms);
	json_put_int(j, "pull_lag_ms", r->pull_lag_ms);
	json_put_int(j, "loading_parts", (int64_t)r->loading_parts);
	json_put_int(j, "loading_parts_done", (int64_t)r->loading_done);
	json_put_int(j, "checkpoint_ms", r->checkpoint_ms);
	json_put_int(j, "checkpoint_segments_since", (int64_t)r->checkpoint_segments);
	json_put_int(j, "conflicts", (int64_t)r->conflicts);
	json_put_int(j, "refresh", (int64_t)r->refresh);
	json_put_int(j, "clock_off_ms", r->clock_off_ms);
	json_put_int(j, "held", (int64_t)r->held);
	json_put_int(j, "bad_segments", (int64_t)r->bad_segments);
	json_put_int(j, "entries", (int64_t)r->entries);
	json_put_int(j, "tombstones", (int64_t)r->tombstones);
	cache_json(s, j);
	text = json_text(j);
	json_free(j);
	return text;
}
