/*
 * Why this file: the verbs take whatever names a volume. In this order: a path whose mount is
 * Meridian's (by the kernel's table, without touching the mount); a configuration file; the name of
 * a mounted volume; a name in the working directory; the name of a file in /etc/meridian.
 */
#include "src/locate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/config.h"
#include "src/mounts.h"
#include "src/registry.h"
#include "src/text.h"

void location_done(struct location *l)
{
	free(l->volume);
	free(l->state_dir);
	free(l->mountpoint);
	free(l->key);
	*l = (struct location){0};
}

struct search {
	const char *volume; /* what to look for; NULL: anything */
	const char *mountpoint;
	const char *state_dir;
	struct location found;
	unsigned count;
};

static int search_entry(void *ctx, const struct registry_entry *e)
{
	struct search *s = ctx;
	struct mount_entry *mount AUTO_FREE = malloc(sizeof(*mount));
	bool mounted;

	if ((s->volume && strcmp(s->volume, e->volume) != 0) ||
		(s->mountpoint && strcmp(s->mountpoint, e->mountpoint) != 0) ||
		(s->state_dir && strcmp(s->state_dir, e->state_dir) != 0))
		return 0;
	mounted = mount && mounts_covering(e->mountpoint, mount) == 0 &&
		  strcmp(mount->type, MOUNTS_TYPE) == 0 &&
		  strcmp(mount->mountpoint, e->mountpoint) == 0;
	if (!mounted)
		return 0; /* left by a killed daemon */
	if (s->count++ == 0) {
		s->found.volume = strdup(e->volume);
		s->found.state_dir = strdup(e->state_dir);
		s->found.mountpoint = strdup(e->mountpoint);
	}
	return 0;
}

static bool search_run(struct search *s)
{
	(void)registry_scan(search_entry, s);
	return s->count > 0;
}

/* A path on one of our mounts. 1 when it is not. */
static int locate_mount(const char *what, struct location *ret, struct err *err)
{
	struct mount_entry *mount AUTO_FREE = malloc(sizeof(*mount));
	char *path AUTO_FREE = NULL;
	struct search s = {0};
	const char *rest;

	if (!mount)
		return err_errno(err, -ENOMEM, "%s", what);
	if (mounts_canonical(what, &path) < 0 || mounts_covering(path, mount) < 0 ||
		strcmp(mount->type, MOUNTS_TYPE) != 0)
		return 1;
	s.mountpoint = mount->mountpoint;
	if (!search_run(&s))
		s.found.mountpoint = strdup(mount->mountpoint);
	*ret = s.found;
	rest = path + strlen(mount->mountpoint);
	while (*rest == '/')
		rest++;
	/* A bind mount shows a part of the tree. */
	if (asprintf(&ret->key, "%s%s%s", mount->root + 1, mount->root[1] && *rest ? "/" : "",
		    rest) < 0)
		ret->key = NULL;
	if (!ret->mountpoint || !ret->key) {
		location_done(ret);
		return err_errno(err, -ENOMEM, "%s", what);
	}
	return 0;
}

static int locate_config(const char *file, struct location *ret, struct err *err)
{
	struct config *c AUTO_CONFIG = NULL;
	int r = config_load(file, NULL, 0, &c, err);
	struct search s = {0};

	if (r < 0)
		return r;
	s.state_dir = c->state_dir;
	if (search_run(&s)) {
		*ret = s.found;
		return 0;
	}
	ret->volume = strdup(c->name);
	ret->state_dir = strdup(c->state_dir);
	if (!ret->volume || !ret->state_dir) {
		location_done(ret);
		return err_errno(err, -ENOMEM, "%s", file);
	}
	return 0;
}

static bool is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int locate_name(const char *what, struct location *ret, struct err *err)
{
	struct search s = {.volume = what};
	char *file AUTO_FREE = NULL;
	int r;

	if (what && !text_is_name(what))
		return err_set(err, -EINVAL, "\"%s\": neither a volume's name nor a path", what);
	if (search_run(&s) && s.count == 1) {
		*ret = s.found;
		return 0;
	}
	location_done(&s.found);
	if (s.count > 1)
		return err_set(err, -EINVAL,
			"%s is mounted more than once\nhint: name the mount point (`meridian "
			"status` lists them)",
			what ? what : "a volume");
	if (!what)
		return err_set(err, -ENOENT,
			"no volume is mounted\nhint: meridian mount VOLUME MOUNTPOINT");
	/* A relative path without a slash. */
	r = locate_mount(what, ret, err);
	if (r <= 0)
		return r;
	if (is_directory(what))
		return err_set(err, -ENOENT, "%s: not on a Meridian mount", what);
	r = config_find(what, &file, err);
	return r < 0 ? r : locate_config(file, ret, err);
}

int locate(const char *what, struct location *ret, struct err *err)
{
	int r;

	*ret = (struct location){0};
	if (!what)
		return locate_name(NULL, ret, err);
	if (config_is_path(what) || strcmp(what, ".") == 0 || strcmp(what, "..") == 0) {
		r = locate_mount(what, ret, err);
		if (r <= 0)
			return r;
		if (is_directory(what))
			return err_set(err, -ENOENT, "%s: not on a Meridian mount", what);
		return locate_config(what, ret, err);
	}
	return locate_name(what, ret, err);
}

int locate_path(const char *path, struct location *ret, struct err *err)
{
	*ret = (struct location){0};
	int r = locate_mount(path, ret, err);
	return r > 0 ? err_set(err, -ENOENT, "%s: not on a Meridian mount", path) : r;
}
