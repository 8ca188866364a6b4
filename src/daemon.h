/* The daemon of one mount: from a configuration to a served mount, and the orderly way back. */
#ifndef SRC_DAEMON_H
#define SRC_DAEMON_H

#include <stdbool.h>

#include "src/base/attribute.h"
#include "src/base/err.h"
#include "src/config.h"
#include "src/mount_options.h"

struct daemon_options {
	const struct config *config;
	const char *source;	/* as it was typed: what mount(8) compares with fstab */
	const char *mountpoint; /* canonical */
	const struct mount_options *mount;
	bool drop_regions; /* forget those that the configuration does not name, with their backlogs */
};

/* Mounts and serves until unmounted from outside, SIGTERM, SIGINT or `meridian umount`; drains;
 * releases everything. Call in a process that has one thread. ready_fd >= 0: told once mounted, as
 * daemon_wait expects. 0, or -errno when it could not mount (err says why) or serve. */
int daemon_run(const struct daemon_options *o, int ready_fd, struct err *err) MUST_CHECK;

/* Does daemon_run in a process of its own, in the background; returns when it is mounted, or with
 * its error. */
int daemon_spawn(const struct daemon_options *o, struct err *err) MUST_CHECK;

#endif
