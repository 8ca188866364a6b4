/* "evict KEY" and "warmup KEY" of the control socket: content at or below a path leaves, or comes. A line
 * for each file (up to a hundred) with which that did not go, and a sum. */
#ifndef SRC_COMMAND_CONTENT_H
#define SRC_COMMAND_CONTENT_H

#include "src/command.h"

/* -EBUSY: some may not go. */
int command_evict(struct command_context *c, struct control_client *client, const char *key,
	struct err *err) MUST_CHECK;
/* -EIO: some could not be fetched. */
int command_warmup(struct command_context *c, struct control_client *client, const char *key,
	struct err *err) MUST_CHECK;

#endif
