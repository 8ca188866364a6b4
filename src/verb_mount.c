/* Why this file: `mount` as a person types it and as mount(8) calls it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/config.h"
#include "src/daemon.h"
#include "src/mount_options.h"
#include "src/mounts.h"
#include "src/verbs.h"

struct request {
	const char *source;
	const char *mountpoint;
	bool foreground;
	bool fake; /* mount -f: all but the mount itself */
	bool drop_regions;
	struct mount_options options;
};

static int load(const struct request *q, struct config **ret, struct err *err)
{
	char *found AUTO_FREE = NULL, *path AUTO_FREE = NULL;
	int r = config_find(q->source, &found, err);

	if (r < 0)
		return r;
	/* The daemon leaves the working directory. */
	path = realpath(found, NULL);
	return config_load(
		path ? path : found, q->options.override, q->options.overrides, ret, err);
}

static int run(const struct request *q)
{
	struct config *config AUTO_CONFIG = NULL;
	char *mountpoint AUTO_FREE = NULL;
	struct err err = {0};
	struct daemon_options daemon;
	int r = load(q, &config, &err);

	if (r < 0)
		return verb_fail(r == -EINVAL ? EXIT_USAGE : verb_exit_code(r), &err);
	r = mounts_canonical(q->mountpoint, &mountpoint);
	if (r < 0) {
		(void)err_errno(&err, r, "mount point %s", q->mountpoint);
		return verb_fail(verb_exit_code(r), &err);
	}
	if (q->fake)
		return EXIT_OK;
	daemon = (struct daemon_options){.config = config,
		.source = q->source,
		.mountpoint = mountpoint,
		.mount = &q->options,
		.drop_regions = q->drop_regions};
	r = q->foreground ? daemon_run(&daemon, -1, &err) : daemon_spawn(&daemon, &err);
	return r < 0 ? verb_fail(verb_exit_code(r), &err) : EXIT_OK;
}

int verb_mount(const struct verb_arguments *a)
{
	struct request q = {.source = a->operand[0], .mountpoint = a->operand[1]};
	struct err err = {0};
	int code = EXIT_OK;

	q.foreground = verb_given(a, "f") != NULL;
	q.drop_regions = verb_given(a, "drop-regions") != NULL;
	for (unsigned i = 0; i < a->givens && code == EXIT_OK; i++)
		if (a->given[i].option->letter == 'o' &&
			mount_options_parse(&q.options, a->given[i].value, &err) < 0)
			code = verb_fail(EXIT_USAGE, &err);
	if (code == EXIT_OK)
		code = run(&q);
	mount_options_done(&q.options);
	return code;
}

int verb_mount_helper(int argc, char *const *argv)
{
	static const struct verb helper = {.name = "mount.meridian",
		.operands = "SOURCE MOUNTPOINT",
		.min = 2,
		.max = 2,
		.option = {{.letter = 'o', .argument = "LIST"}, {.letter = 't', .argument = "TYPE"},
			{.letter = 'N', .argument = "NAMESPACE"}, {.letter = 's'}, {.letter = 'f'},
			{.letter = 'n'}, {.letter = 'v'}}};
	struct request q = {0};
	struct verb_arguments a;
	struct err err = {0};
	int code = EXIT_OK;

	if (verb_parse(&helper, argc, argv, &a, &err) < 0)
		return verb_fail(EXIT_USAGE, &err);
	q.source = a.operand[0];
	q.mountpoint = a.operand[1];
	q.fake = verb_given(&a, "f") != NULL;
	q.options.sloppy = verb_given(&a, "s") != NULL;
	for (unsigned i = 0; i < a.givens && code == EXIT_OK; i++)
		if (a.given[i].option->letter == 'o' &&
			mount_options_parse(&q.options, a.given[i].value, &err) < 0)
			code = verb_fail(EXIT_USAGE, &err);
	if (code == EXIT_OK)
		code = run(&q);
	mount_options_done(&q.options);
	return code;
}
