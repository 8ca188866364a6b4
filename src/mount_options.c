/* Why this file: mount(8) hands every option of an fstab line on, those for itself and systemd
 * included; a typing error must still be found. So each name is known, as the kernel's, as somebody
 * else's, or as one of [volume]. */
#include "src/mount_options.h"

#include <errno.h>
#include <string.h>

#include "src/text.h"

enum flag_kind { FLAG_IGNORED, FLAG_KERNEL, FLAG_OURS, FLAG_RO, FLAG_RW };

static const struct {
	const char *name;
	enum flag_kind kind;
} flags[] = {
	{"ro", FLAG_RO},
	{"rw", FLAG_RW},
	/* for the kernel, through libfuse */
	{"nosuid", FLAG_KERNEL},
	{"suid", FLAG_KERNEL},
	{"nodev", FLAG_KERNEL},
	{"dev", FLAG_KERNEL},
	{"noexec", FLAG_KERNEL},
	{"exec", FLAG_KERNEL},
	{"sync", FLAG_KERNEL},
	{"async", FLAG_KERNEL},
	{"dirsync", FLAG_KERNEL},
	{"noatime", FLAG_KERNEL},
	{"nodiratime", FLAG_OURS}, /* libfuse does not know it */
	/* the default anyway, or for mount(8) and systemd */
	{"defaults", FLAG_IGNORED},
	{"default_permissions", FLAG_IGNORED},
	{"relatime", FLAG_IGNORED},
	{"atime", FLAG_IGNORED},
	{"diratime", FLAG_IGNORED},
	{"auto", FLAG_IGNORED},
	{"noauto", FLAG_IGNORED},
	{"user", FLAG_IGNORED},
	{"nouser", FLAG_IGNORED},
	{"users", FLAG_IGNORED},
	{"owner", FLAG_IGNORED},
	{"group", FLAG_IGNORED},
	{"_netdev", FLAG_IGNORED},
	{"nofail", FLAG_IGNORED},
	{"silent", FLAG_IGNORED},
	{"loud", FLAG_IGNORED},
	{"_rnetdev", FLAG_IGNORED},
};

/* "x-systemd.automount", "X-mount.mkdir", "comment=…", "user=alice": not ours whatever follows. */
static bool foreign(const char *name)
{
	return strncasecmp(name, "x-", 2) == 0 || strcmp(name, "comment") == 0 ||
	       strcmp(name, "uhelper") == 0 || strcmp(name, "helper") == 0 ||
	       strcmp(name, "user") == 0;
}

static int add_override(
	struct mount_options *m, const char *name, const char *value, struct err *err)
{
	struct config_override *o = &m->override[m->overrides];

	if (m->overrides == MOUNT_OVERRIDE_MAX)
		return err_set(err, -E2BIG, "-o: more than %d options", MOUNT_OVERRIDE_MAX);
	o->name = strdup(name);
	o->value = strdup(value);
	m->overrides++;
	return o->name && o->value ? 0 : err_errno(err, -ENOMEM, "-o %s", name);
}

static int unknown(const struct mount_options *m, const char *name, struct err *err)
{
	struct text_nearest nearest = {.name = name};

	if (m->sloppy)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		text_nearest_offer(&nearest, flags[i].name);
	for (size_t i = 0; i < config_volume_option_count; i++)
		text_nearest_offer(&nearest, config_volume_options[i].name);
	return err_set(err, -EINVAL, "-o %s: unknown option\nhint: the nearest known one is %s",
		name, nearest.best);
}

/* The kernel's, but the rest of what they mean is the daemon's. */
static void note_ours(struct mount_options *m, const char *name)
{
	m->noatime |= strcmp(name, "noatime") == 0;
	m->nodiratime |= strcmp(name, "nodiratime") == 0;
	m->dirsync |= strcmp(name, "dirsync") == 0;
	if (strcmp(name, "sync") == 0 || strcmp(name, "async") == 0)
		m->sync = *name == 's';
}

static int add_flag(struct mount_options *m, size_t flag)
{
	switch (flags[flag].kind) {
	case FLAG_RO:
	case FLAG_RW:
		m->read_only = flags[flag].kind == FLAG_RO;
		break;
	case FLAG_KERNEL:
		note_ours(m, flags[flag].name);
		buf_printf(&m->extra, "%s%s", m->extra.len ? "," : "", flags[flag].name);
		break;
	case FLAG_OURS:
		note_ours(m, flags[flag].name);
		break;
	case FLAG_IGNORED:
		break;
	}
	return 0;
}

static int add_option(struct mount_options *m, char *text, struct err *err)
{
	char *value = strchr(text, '=');
	const struct option_spec *option;

	if (value)
		*value++ = '\0';
	if (foreign(text))
		return 0;
	for (size_t i = 0; !value && i < ARRAY_SIZE(flags); i++)
		if (strcmp(text, flags[i].name) == 0)
			return add_flag(m, i);
	option = option_find(config_volume_options, config_volume_option_count, text);
	if (!option)
		return unknown(m, text, err);
	if (!value && option->type != OPTION_BOOL)
		return err_set(err, -EINVAL, "-o %s: needs a value\nhint: write %s=…", text, text);
	return add_override(m, text, value ? value : "yes", err);
}

int mount_options_parse(struct mount_options *m, const char *list, struct err *err)
{
	struct buf word CLEANUP(buf_done) = {.max = 65536};

	for (const char *p = list;; p++) {
		int r = 0;

		if (*p == '\\' && (p[1] == ',' || p[1] == '\\')) {
			buf_put_u8(&word, (uint8_t) * ++p);
			continue;
		}
		if (*p != ',' && *p != '\0') {
			buf_put_u8(&word, (uint8_t)*p);
			continue;
		}
		if (word.len && *buf_str(&word))
			r = add_option(m, (char *)word.data, err);
		if (r == 0 && (word.failed || m->extra.failed))
			r = err_set(err, -E2BIG, "-o: too long");
		if (r < 0)
			return r;
		buf_clear(&word);
		if (*p == '\0')
			return 0;
	}
}

void mount_options_done(struct mount_options *m)
{
	for (size_t i = 0; i < m->overrides; i++) {
		free((char *)m->override[i].name);
		free((char *)m->override[i].value);
	}
	m->overrides = 0;
	buf_done(&m->extra);
}
