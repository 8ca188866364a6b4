/* Why this file: `meridian reconcile` in the daemon. */
#include "src/command_reconcile.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/text.h"

struct call {
	struct control_client *client;
	bool dry_run;
	uint64_t held;
	uint64_t failed;
};

/* "removed  some/path"; keys may have any bytes. */
static int send_finding(void *ctx, enum reconcile_found f, const char *key)
{
	struct call *c = ctx;
	struct buf line CLEANUP(buf_done) = {0};

	buf_printf(&line, "%-12s", reconcile_found_name(f));
	for (const char *p = key; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			buf_printf(&line, "%%%02X", (unsigned)(unsigned char)*p);
		else
			buf_put_u8(&line, (uint8_t)*p);
	}
	return line.failed || control_send(c->client, buf_str(&line)) ? 0 : 1;
}

static int send_progress(void *ctx, const struct reconcile_counts *counts)
{
	struct call *c = ctx;
	char line[128];

	snprintf(line, sizeof(line), "%" PRIu64 " objects listed, %" PRIu64 " looked at",
		counts->objects, counts->looked);
	return control_progress(c->client, line) ? 0 : 1;
}

static int send_sum(void *ctx, const char *region, const struct reconcile_counts *counts)
{
	struct call *c = ctx;
	struct buf line CLEANUP(buf_done) = {0};

	buf_printf(&line, "%s: %" PRIu64 " objects", region, counts->objects);
	for (unsigned f = 0; f < FOUND_KINDS; f++)
		if (counts->found[f])
			buf_printf(&line, ", %" PRIu64 " %s", counts->found[f],
				reconcile_found_name((enum reconcile_found)f));
	if (counts->waiting)
		buf_printf(&line, ", %" PRIu64 " under way", counts->waiting);
	if (c->dry_run)
		buf_put_str(&line, " (nothing was changed)");
	c->held += counts->found[FOUND_HELD];
	c->failed += counts->found[FOUND_FAILED];
	return line.failed || control_send(c->client, buf_str(&line)) ? 0 : 1;
}

static bool set_mode(const char *mode, struct reconcile_request *q)
{
	if (strcmp(mode, "dry") == 0)
		q->dry_run = true;
	else if (strcmp(mode, "accept") == 0)
		q->deletes = DELETES_ACCEPT;
	else if (strcmp(mode, "restore") == 0)
		q->deletes = DELETES_RESTORE;
	else
		return strcmp(mode, "run") == 0;
	return true;
}

int command_reconcile(struct command_context *c, struct control_client *client, const char *mode,
	const char *region, const char *key, struct err *err)
{
	struct call call = {.client = client};
	struct reconcile_request q = {.path = slice_of(key),
		.found = send_finding,
		.progress = send_progress,
		.ctx = &call};

	if (!set_mode(mode, &q))
		return err_set(err, -EINVAL, "\"%s\": no way to reconcile", mode);
	if (!key_valid(q.path))
		return err_set(err, -EINVAL, "\"%s\": not a path of the volume", key);
	call.dry_run = q.dry_run;
	int r = replicator_reconcile(c->replicator, region, &q, send_sum, err);
	if (r < 0)
		return r;
	if (call.held && !q.dry_run)
		return err_set(err, -EBUSY,
			"%" PRIu64 " objects are gone, too many to be removed everywhere unasked\n"
			"hint: meridian reconcile --accept-deletes removes them, --restore puts "
			"them back",
			call.held);
	return call.failed ? err_set(err, -EIO,
				     "%" PRIu64 " objects could not be read or written\n"
				     "hint: the log names the causes",
				     call.failed)
			   : 0;
}
