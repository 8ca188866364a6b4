/* "reconcile MODE REGION KEY" of the control socket: a scan (replicator/reconcile.h) of one region, or of all
 * where REGION is empty, at or below a path. MODE: run, dry, accept, restore. A line for each finding, then
 * one for each region. */
#ifndef SRC_COMMAND_RECONCILE_H
#define SRC_COMMAND_RECONCILE_H

#include "src/command.h"

/* -EBUSY: objects are gone, and too many of them. */
int command_reconcile(struct command_context *c, struct control_client *client, const char *mode,
	const char *region, const char *key, struct err *err) MUST_CHECK;

#endif
