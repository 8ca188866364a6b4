/*
 * What mount(8), an fstab line or a person say about one mount: "-o a,b=c" lists. The volume's own
 * options (meridian.conf(5), [volume]) map one to one to -o key=value.
 */
#ifndef SRC_MOUNT_OPTIONS_H
#define SRC_MOUNT_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/attribute.h"
#include "src/base/buf.h"
#include "src/base/err.h"
#include "src/config.h"

#define MOUNT_OVERRIDE_MAX 64

/* {0} is empty. */
struct mount_options {
	bool sloppy; /* ignore what is unknown; set before mount_options_parse */
	bool read_only;
	bool noatime;
	bool nodiratime;
	bool sync;
	bool dirsync;
	struct buf extra; /* options for the kernel, comma-separated: "nodev,noatime" */
	struct config_override override[MOUNT_OVERRIDE_MAX]; /* strings owned */
	size_t overrides;
};

/* Adds one list. A comma or backslash that belongs to a value is written after a backslash. -EINVAL
 * with the nearest known name for what is unknown. */
int mount_options_parse(struct mount_options *m, const char *list, struct err *err) MUST_CHECK;
void mount_options_done(struct mount_options *m); /* also the CLEANUP function */

#endif
