/* What the daemon answers on its control socket. Requests: "status", "status json", "flush KEY",
 * "flush-wait MS KEY", "evict KEY", "warmup KEY", "reconcile MODE REGION KEY", "stop". */
#ifndef SRC_COMMAND_H
#define SRC_COMMAND_H

#include <sys/types.h>

#include "src/config.h"
#include "src/control.h"
#include "cache/cache.h"
#include "fs/fs.h"
#include "replicator/replicator.h"

struct command_context {
	const struct config *config;
	const char *mountpoint;
	bool read_only;
	int64_t started_ms;
	struct cache *cache;
	struct replicator *replicator;
	struct fs *fs;
	_Atomic bool stopping;
	void (*stop)(void *ctx); /* asks for the end without a drain */
	void *stop_ctx;
};

/* A control_handler; ctx is a struct command_context. */
int command_handle(void *ctx, struct control_client *client, unsigned words,
	const char *const *word, struct err *err);

/* Everything that the next start will still have to send, as one phrase: "12 changes (3.4 MiB) for
 * eu-west-2, …". False when nothing is left. */
bool command_left(struct replicator *r, char *text, size_t size);

#endif
