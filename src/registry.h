/*
 * The registry: which volumes are mounted on this machine, and where their daemons' sockets are. A
 * small JSON file a mount in /run/meridian (for others than root: $XDG_RUNTIME_DIR/meridian). Only
 * a pointer: whoever reads it asks the socket, so an entry that a killed daemon left is harmless.
 */
#ifndef SRC_REGISTRY_H
#define SRC_REGISTRY_H

#include "src/base/attribute.h"

struct registry_entry {
	const char *volume;
	const char *mountpoint; /* canonical */
	const char *state_dir;
	const char *config;
};

/* Adds or replaces the mount point's entry. -errno when the directory cannot be had; the daemon can
 * live without. */
int registry_add(const struct registry_entry *e) MUST_CHECK;
/* The mount point's entry, if it is that of the daemon with this state. */
void registry_remove(const char *mountpoint, const char *state_dir);
/* Removes what killed daemons left. Waits for none that lives. */
void registry_prune(void);

/* Calls fn for each entry that root or this user wrote; what it gets is borrowed. Non-zero ends the
 * scan and is returned. */
typedef int (*registry_fn)(void *ctx, const struct registry_entry *e);
int registry_scan(registry_fn fn, void *ctx);

#endif
