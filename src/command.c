/* Why this file: the requests of the control socket in terms of the daemon's parts. Each runs on
 * its client's thread. */
#include "src/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/command_content.h"
#include "src/status.h"
#include "src/text.h"

#define FLUSH_MAX_MS (30 * 86400000ll)

static int fill_status(struct command_context *c, struct status *s, struct err *err)
{
	int r;

	*s = (struct status){.config = c->config,
		.mountpoint = c->mountpoint,
		.pid = getpid(),
		.node = cache_node(c->cache),
		.now_ms = clock_realtime_ms(),
		.started_ms = c->started_ms,
		.read_only = c->read_only,
		.stopping = c->stopping};
	r = replicator_status(c->replicator, &s->replicator);
	if (r == 0)
		r = cache_usage(c->cache, &s->usage);
	partial_usage(c->cache, &s->partial);
	if (r < 0)
		return err_errno(err, r, "cannot read the state");
	s->troubles = (unsigned)cache_troubles(
		c->cache, s->trouble, STATUS_TROUBLES_MAX, s->trouble_count);
	cache_pressure(c->cache, &s->pressure);
	fs_get_stats(c->fs, &s->fs);
	return 0;
}

static int send_status(
	struct command_context *c, struct control_client *client, bool json, struct err *err)
{
	struct status *s AUTO_FREE = malloc(sizeof(*s));
	struct buf page CLEANUP(buf_done) = {0};
	char *text AUTO_FREE = NULL;
	int r = s ? fill_status(c, s, err) : err_errno(err, -ENOMEM, "status");

	if (r < 0)
		return r;
	if (json) {
		text = status_json(s);
	} else {
		status_text(s, &page);
		text = page.failed ? NULL : strdup(buf_str(&page));
	}
	if (!text)
		return err_errno(err, -ENOMEM, "status");
	return control_send(client, text) ? 0 : -EPIPE;
}

static int flush_progress(void *ctx, uint64_t rows_left)
{
	char line[64];

	snprintf(line, sizeof(line), "%" PRIu64 " changes left", rows_left);
	return control_progress(ctx, line) ? 0 : 1;
}

static int parse_ms(const char *s, int64_t *ret)
{
	char *rest;
	long long value;

	errno = 0;
	value = strtoll(s, &rest, 10);
	if (errno || rest == s || *rest || value < 0 || value > FLUSH_MAX_MS)
		return -EINVAL;
	*ret = value;
	return 0;
}

static int flush(struct command_context *c, struct control_client *client, const char *key,
	bool wait, int64_t timeout_ms, struct err *err)
{
	struct slice slice = slice_of(key);

	if (!key_valid(slice))
		return err_set(err, -EINVAL, "\"%s\": not a path of the volume", key);
	return replicator_flush(
		c->replicator, slice, wait, timeout_ms, flush_progress, client, err);
}

int command_handle(void *ctx, struct control_client *client, unsigned words,
	const char *const *word, struct err *err)
{
	struct command_context *c = ctx;
	int64_t timeout_ms;

	if (strcmp(word[0], "status") == 0 && words == 1)
		return send_status(c, client, false, err);
	if (strcmp(word[0], "status") == 0 && words == 2 && strcmp(word[1], "json") == 0)
		return send_status(c, client, true, err);
	if (strcmp(word[0], "flush") == 0 && words == 2)
		return flush(c, client, word[1], false, 0, err);
	if (strcmp(word[0], "flush-wait") == 0 && words == 3 && parse_ms(word[1], &timeout_ms) == 0)
		return flush(c, client, word[2], true, timeout_ms, err);
	if (strcmp(word[0], "evict") == 0 && words == 2)
		return command_evict(c, client, word[1], err);
	if (strcmp(word[0], "warmup") == 0 && words == 2)
		return command_warmup(c, client, word[1], err);
	if (strcmp(word[0], "stop") == 0 && words == 1) {
		c->stop(c->stop_ctx);
		return 0;
	}
	return err_set(err, -EINVAL,
		"unknown request (does the daemon run another version than this program?)");
}

bool command_left(struct replicator *r, char *text, size_t size)
{
	struct replicator_status *s AUTO_FREE = malloc(sizeof(*s));
	struct buf out CLEANUP(buf_done) = {0};
	char figure[TEXT_FIGURE_SIZE];

	if (!s || replicator_status(r, s) < 0) {
		snprintf(text, size, "an unknown number of changes");
		return true;
	}
	if (s->journal_rows)
		buf_printf(&out, "%" PRIu64 " changes not sealed", s->journal_rows);
	for (unsigned i = 0; i < s->regions; i++)
		if (s->region[i].seeding)
			buf_printf(&out, "%severything for the new region %s", out.len ? ", " : "",
				s->region[i].name);
		else if (s->region[i].outbox.rows)
			buf_printf(&out, "%s%" PRIu64 " changes (%s) for %s", out.len ? ", " : "",
				s->region[i].outbox.rows,
				text_bytes(s->region[i].outbox.bytes, figure), s->region[i].name);
	snprintf(text, size, "%s", buf_str(&out));
	return out.len > 0;
}
