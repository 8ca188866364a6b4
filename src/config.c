/*
 * Why this file: from the bytes of a configuration file to a struct config that the program may
 * trust.
 *
 * inih splits the lines, finds comments and keys. This file feeds it line by line from memory,
 * because inih's own reader splits a long line in two, cuts section names at 49 bytes and joins
 * indented lines; sections are therefore read here (read_section), the moment inih asks for their
 * line, and inih's section argument is not used. The first error ends the file.
 */
#include "src/config.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/config_ids.h"
#include "src/text.h"

enum section_kind { SECTION_NONE, SECTION_VOLUME, SECTION_REGION, SECTION_POLICY };

static const char *const section_names[] = {"volume", "region", "policy"};

struct section {
	enum section_kind kind;
	const char *name; /* in quotes; NULL for [volume] */
	void *base;
	struct config_lines *lines;
	const struct option_spec *table;
	size_t count;
};

struct parse {
	const char *p;
	const char *end;
	unsigned line;
	bool failed;
	struct err *err;
	struct config *config;
	struct section section;
};

/* Puts "file:line: " before err and stops the parse. */
static void fail(struct parse *p)
{
	p->failed = true;
	(void)err_prefix(p->err, -EINVAL, "%s:%u", p->config->path, p->line);
}

static void fail_text(struct parse *p, const char *fmt, ...) PRINTF(2, 3);
static void fail_text(struct parse *p, const char *fmt, ...)
{
	char text[ERR_TEXT_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	(void)err_set(p->err, -EINVAL, "%s", text);
	fail(p);
}

static void section_set(struct parse *p, enum section_kind kind, void *base,
	struct config_lines *lines, const char *name)
{
	p->section = (struct section){.kind = kind, .base = base, .lines = lines, .name = name};
	lines->section = p->line;
	switch (kind) {
	case SECTION_VOLUME:
		p->section.table = config_volume_options;
		p->section.count = config_volume_option_count;
		break;
	case SECTION_REGION:
		p->section.table = config_region_options;
		p->section.count = config_region_option_count;
		break;
	default:
		p->section.table = config_policy_options;
		p->section.count = config_policy_option_count;
		break;
	}
}

static void begin_volume(struct parse *p)
{
	if (p->config->lines.section)
		fail_text(p, "[volume]: again; the first is in line %u", p->config->lines.section);
	else
		section_set(p, SECTION_VOLUME, p->config, &p->config->lines, NULL);
}

static void begin_region(struct parse *p, const char *name)
{
	struct config *c = p->config;
	struct config_region *region = &c->region[c->regions];

	if (!text_is_name(name)) {
		fail_text(p,
			"[region \"%s\"]: not a name\nhint: 1 to 63 of A-Z a-z 0-9 . _ -, the "
			"first a letter, digit or _",
			name);
		return;
	}
	for (unsigned i = 0; i < c->regions; i++) {
		if (strcmp(c->region[i].name, name) == 0) {
			fail_text(p, "[region \"%s\"]: again; the first is in line %u", name,
				c->region[i].lines.section);
			return;
		}
	}
	if (c->regions == CONFIG_REGION_MAX) {
		fail_text(p, "[region \"%s\"]: more than %d regions", name, CONFIG_REGION_MAX);
		return;
	}
	region->name = strdup(name);
	if (!region->name) {
		fail_text(p, "out of memory");
		return;
	}
	c->regions++;
	section_set(p, SECTION_REGION, region, &region->lines, region->name);
	if (option_set_presets(config_region_options, config_region_option_count, region, p->err) <
		0)
		fail(p);
}

static void begin_policy(struct parse *p, const char *glob)
{
	struct config *c = p->config;
	struct config_policy *policy = &c->policy[c->policies];

	for (unsigned i = 0; i < c->policies; i++) {
		if (strcmp(c->policy[i].glob, glob) == 0) {
			fail_text(p, "[policy \"%s\"]: again; the first is in line %u", glob,
				c->policy[i].lines.section);
			return;
		}
	}
	if (!*glob || strlen(glob) > 1024 || c->policies == CONFIG_POLICY_MAX) {
		fail_text(p, "[policy]: %s",
			c->policies == CONFIG_POLICY_MAX ? "more than 64 policies"
							 : "the pattern is empty or too long");
		return;
	}
	policy->glob = strdup(glob);
	if (!policy->glob) {
		fail_text(p, "out of memory");
		return;
	}
	c->policies++;
	section_set(p, SECTION_POLICY, policy, &policy->lines, policy->glob);
	if (option_set_presets(config_policy_options, config_policy_option_count, policy, p->err) <
		0)
		fail(p);
}

static const char *skip_blanks(const char *s)
{
	return s + strspn(s, " \t\r");
}

/* Splits `[kind "name"]` in place; both parts NUL-terminated. False when malformed. */
static bool split_section(char *line, char **kind, char **name)
{
	char *p = line + 1, *end;

	*name = NULL;
	p = (char *)skip_blanks(p);
	*kind = p;
	p += strcspn(p, " \t\"]");
	end = p;
	p = (char *)skip_blanks(p);
	if (*p == '"') {
		*name = p + 1;
		p = strchr(p + 1, '"');
		if (!p)
			return false;
		*p++ = '\0';
		p = (char *)skip_blanks(p);
	}
	if (*p != ']')
		return false;
	*end = '\0';
	p = (char *)skip_blanks(p + 1);
	return *p == '\0' || *p == ';' || *p == '#';
}

static void unknown_section(struct parse *p, const char *kind)
{
	struct text_nearest nearest = {.name = kind};

	for (size_t i = 0; i < ARRAY_SIZE(section_names); i++)
		text_nearest_offer(&nearest, section_names[i]);
	fail_text(p, "[%s]: unknown section\nhint: the nearest known one is [%s%s]", kind,
		nearest.best, strcmp(nearest.best, "volume") == 0 ? "" : " \"NAME\"");
}

static void read_section(struct parse *p, const char *text)
{
	char *line AUTO_FREE = strdup(text), *kind, *name;

	if (!line) {
		fail_text(p, "out of memory");
		return;
	}
	if (!split_section(line, &kind, &name)) {
		fail_text(p, "malformed section\nhint: write [volume], [region \"NAME\"] or "
			     "[policy \"PATTERN\"]");
		return;
	}
	if (strcmp(kind, "volume") == 0) {
		if (name)
			fail_text(p, "[volume] takes no name\nhint: write name = … below it");
		else
			begin_volume(p);
	} else if (strcmp(kind, "region") == 0 && name) {
		begin_region(p, name);
	} else if (strcmp(kind, "policy") == 0 && name) {
		begin_policy(p, name);
	} else if (strcmp(kind, "region") == 0 || strcmp(kind, "policy") == 0) {
		fail_text(p, "[%s] needs a name\nhint: write [%s \"NAME\"]", kind, kind);
	} else {
		unknown_section(p, kind);
	}
}

/* inih's reader: the next line without its indentation (inih would join it to the one before). */
static char *read_line(char *line, int size, void *stream)
{
	struct parse *p = stream;
	const char *start = p->p, *end;
	size_t n;

	if (p->failed || p->p == p->end)
		return NULL;
	p->line++;
	end = memchr(start, '\n', (size_t)(p->end - start));
	p->p = end ? end + 1 : p->end;
	if (!end)
		end = p->end;
	while (start < end && (*start == ' ' || *start == '\t'))
		start++;
	while (end > start && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
		end--;
	n = (size_t)(end - start);
	if (memchr(start, '\0', n)) {
		fail_text(p, "not a text file: has a NUL byte");
		return NULL;
	}
	if (n + 2 > (size_t)size) {
		fail_text(p, "line longer than %d bytes", size - 2);
		return NULL;
	}
	memcpy(line, start, n);
	line[n] = '\0';
	if (line[0] == '[')
		read_section(p, line);
	if (p->failed)
		return NULL;
	line[n] = '\n';
	line[n + 1] = '\0';
	return line;
}

/* Appends value with each ${NAME} replaced. -EINVAL with a text. */
static int expand(const char *value, struct buf *out, struct err *err)
{
	const char *dollar, *end, *found;
	char name[256];
	size_t n;

	while ((dollar = strstr(value, "${"))) {
		buf_put(out, value, (size_t)(dollar - value));
		end = strchr(dollar, '}');
		n = end ? (size_t)(end - dollar - 2) : 0;
		if (n == 0 || n >= sizeof(name))
			return err_set(err, -EINVAL,
				"malformed ${…}\nhint: write ${NAME} with the name of an "
				"environment variable");
		memcpy(name, dollar + 2, n);
		name[n] = '\0';
		found = getenv(name);
		if (!found)
			return err_set(err, -EINVAL, "${%s} is not set in the environment", name);
		buf_put_str(out, found);
		value = end + 1;
	}
	buf_put_str(out, value);
	if (out->failed || out->len >= OPTION_TEXT_MAX)
		return err_set(err, -EINVAL, "longer than %d bytes", OPTION_TEXT_MAX - 1);
	if (memchr(out->data, '\0', out->len))
		return err_set(err, -EINVAL, "has a NUL byte");
	return 0;
}

static bool looks_secret(const char *name)
{
	static const char *const words[] = {
		"secret", "password", "passwd", "access_key", "token", "key_id", "api_key"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcasestr(name, words[i]))
			return true;
	return false;
}

static void section_title(const struct section *s, struct buf *out)
{
	if (s->kind == SECTION_VOLUME)
		buf_put_str(out, "[volume]");
	else
		buf_printf(out, "[%s \"%s\"]", s->kind == SECTION_REGION ? "region" : "policy",
			s->name);
}

/* One key = value of the section that is open. -EINVAL with a text that lacks file and line. */
static int set_key(struct parse *p, const char *name, const char *value)
{
	const struct option_spec *option = option_find(p->section.table, p->section.count, name);
	struct buf title CLEANUP(buf_done) = {0}, expanded CLEANUP(buf_done) = {.max = 65536};
	unsigned *line;
	int r;

	section_title(&p->section, &title);
	if (!option && looks_secret(name))
		return err_set(p->err, -EINVAL,
			"%s %s: credentials do not belong in this file\n"
			"hint: use profile = … (a section of ~/.aws/credentials), or "
			"AWS_ACCESS_KEY_ID and "
			"AWS_SECRET_ACCESS_KEY in the environment",
			buf_str(&title), name);
	if (!option)
		return err_set(p->err, -EINVAL,
			"%s %s: unknown key\nhint: the nearest known one is %s", buf_str(&title),
			name, option_nearest(p->section.table, p->section.count, name));
	line = &p->section.lines->of[option - p->section.table];
	if (*line)
		return err_set(p->err, -EINVAL, "%s %s: again; the first is in line %u",
			buf_str(&title), name, *line);
	r = expand(value, &expanded, p->err);
	if (r < 0)
		return err_prefix(p->err, r, "%s %s", buf_str(&title), name);
	r = option_set(option, p->section.base, buf_str(&expanded), p->err);
	if (r < 0)
		return err_prefix(p->err, r, "%s", buf_str(&title));
	*line = p->line;
	return 0;
}

static int handle_key(void *user, const char *section, const char *name, const char *value)
{
	struct parse *p = user;

	if (p->failed)
		return 0;
	if (p->section.kind == SECTION_NONE) {
		fail_text(p, "%s: before the first section\nhint: start with [volume]", name);
		return 0;
	}
	if (set_key(p, name, value) < 0)
		fail(p);
	return !p->failed;
}

static int parse_text(struct parse *p)
{
	int r = ini_parse_stream(read_line, p, handle_key, p);

	if (p->failed)
		return -EINVAL;
	if (r > 0) {
		p->line = (unsigned)r;
		fail_text(p, "neither a section, a comment nor key = value");
		return -EINVAL;
	}
	return r < 0 ? err_set(p->err, -ENOMEM, "%s: out of memory", p->config->path) : 0;
}

static int apply_overrides(
	struct config *c, const struct config_override *overrides, size_t count, struct err *err)
{
	for (size_t i = 0; i < count; i++) {
		const struct option_spec *option = option_find(
			config_volume_options, config_volume_option_count, overrides[i].name);
		int r;

		if (!option)
			return err_set(err, -EINVAL, "-o %s: unknown option", overrides[i].name);
		r = option_set(option, c, overrides[i].value, err);
		if (r < 0)
			return err_prefix(err, r, "-o");
		c->lines.of[option - config_volume_options] = CONFIG_LINE_MOUNT;
	}
	return 0;
}

static bool is_set(const struct config *c, const void *field)
{
	size_t offset = (size_t)((const char *)field - (const char *)c);

	for (size_t i = 0; i < config_volume_option_count; i++)
		if (config_volume_options[i].offset == offset)
			return c->lines.of[i] != 0;
	return false;
}

/* The defaults that follow from other things. */
static int set_derived(struct config *c, struct err *err)
{
	const char *base = strrchr(c->path, '/');
	size_t n;

	base = base ? base + 1 : c->path;
	n = strlen(base);
	if (!c->name) {
		if (n > 5 && strcmp(base + n - 5, ".conf") == 0)
			n -= 5;
		c->name = strndup(base, n);
		if (c->name && !text_is_name(c->name))
			return err_set(err, -EINVAL,
				"%s: [volume] name: missing, and the file's name is not a fit one",
				c->path);
	}
	if (c->name && !c->state_dir &&
		asprintf(&c->state_dir, CONFIG_STATE_DIRECTORY "/%s", c->name) < 0)
		c->state_dir = NULL;
	if (!c->home && c->regions)
		c->home = strdup(c->region[0].name);
	if (!is_set(c, &c->allow_other))
		c->allow_other = geteuid() == 0;
	for (unsigned i = 0; i < c->regions; i++) {
		const struct option_spec *style = option_find(
			config_region_options, config_region_option_count, "path_style");

		if (!c->region[i].lines.of[style - config_region_options])
			c->region[i].path_style = c->region[i].endpoint != NULL;
	}
	if (!c->name || !c->state_dir || (c->regions && !c->home))
		return err_set(err, -ENOMEM, "%s: out of memory", c->path);
	return 0;
}

static int check_url(const struct config *c, const struct config_region *region, struct err *err)
{
	static const char *const known[] = {"file", "s3"}, *const later[] = {"gs", "azure"};
	unsigned line = region->lines.of[0];
	struct text_nearest nearest = {0};
	char scheme[32];
	const char *rest = strstr(region->url, "://") + 3;

	snprintf(scheme, sizeof(scheme), "%.*s", (int)(rest - 3 - region->url), region->url);
	for (size_t i = 0; i < ARRAY_SIZE(later); i++)
		if (strcmp(scheme, later[i]) == 0)
			return err_set(err, -EINVAL,
				"%s:%u: [region \"%s\"] url: %s:// is planned, but this version "
				"(%s) does not have it yet\n"
				"hint: it has file:// and s3://",
				c->path, line, region->name, scheme, MERIDIAN_VERSION);
	if (strcmp(scheme, "file") == 0 && rest[0] != '/')
		return err_set(err, -EINVAL,
			"%s:%u: [region \"%s\"] url: not an absolute path\nhint: write "
			"file:///DIRECTORY",
			c->path, line, region->name);
	if (strcmp(scheme, "file") == 0 || (strcmp(scheme, "s3") == 0 && rest[0] != '/'))
		return 0;
	nearest.name = scheme;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		text_nearest_offer(&nearest, known[i]);
	return err_set(err, -EINVAL, "%s:%u: [region \"%s\"] url: %s\nhint: write %s", c->path,
		line, region->name,
		strcmp(scheme, "s3") == 0 ? "names no bucket" : "unknown scheme",
		strcmp(nearest.best, "s3") == 0 ? "s3://BUCKET/PREFIX" : "file:///DIRECTORY");
}

static int check_region(const struct config *c, const struct config_region *region, struct err *err)
{
	int r;

	for (size_t i = 0; i < config_region_option_count; i++)
		if (config_region_options[i].required && !region->lines.of[i])
			return err_set(err, -EINVAL, "%s:%u: [region \"%s\"] %s: missing\nhint: %s",
				c->path, region->lines.section, region->name,
				config_region_options[i].name, config_region_options[i].help);
	r = check_url(c, region, err);
	if (r < 0)
		return r;
	if (region->endpoint && strncmp(region->endpoint, "https://", 8) != 0 &&
		strncmp(region->endpoint, "http://", 7) != 0)
		return err_set(err, -EINVAL,
			"%s:%u: [region \"%s\"] endpoint: not http:// or https://", c->path,
			region->lines.of[1], region->name);
	for (const struct config_region *other = c->region; other < region; other++) {
		const char *mine = region->endpoint ? region->endpoint : "";
		const char *theirs = other->endpoint ? other->endpoint : "";
		const char *my_region = region->region ? region->region : "";
		const char *their_region = other->region ? other->region : "";

		if (strcmp(other->url, region->url) == 0 && strcmp(mine, theirs) == 0 &&
			strcmp(my_region, their_region) == 0)
			return err_set(err, -EINVAL,
				"%s:%u: [region \"%s\"] url: the same as that of region \"%s\"",
				c->path, region->lines.of[0], region->name, other->name);
	}
	return 0;
}

static int optional_home(
	const struct config *c, const struct config_region *region, struct err *err)
{
	const struct option_spec *o =
		option_find(config_region_options, config_region_option_count, "optional");

	return err_set(err, -EINVAL,
		"%s:%u: [region \"%s\"] optional: it is the home region\nhint: name another one "
		"with "
		"home = … in [volume]",
		c->path, region->lines.of[o - config_region_options], region->name);
}

static int check_home(struct config *c, struct err *err)
{
	struct text_nearest nearest = {.name = c->home};
	const struct option_spec *home =
		option_find(config_volume_options, config_volume_option_count, "home");
	unsigned line = c->lines.of[home - config_volume_options];

	for (unsigned i = 0; i < c->regions; i++) {
		if (strcmp(c->region[i].name, c->home) == 0) {
			c->home_index = i;
			return c->region[i].optional ? optional_home(c, &c->region[i], err) : 0;
		}
		text_nearest_offer(&nearest, c->region[i].name);
	}
	if (line == CONFIG_LINE_MOUNT)
		return err_set(err, -EINVAL,
			"-o home: there is no region \"%s\" in %s\nhint: the nearest known one is "
			"%s",
			c->home, c->path, nearest.best);
	return err_set(err, -EINVAL,
		"%s:%u: [volume] home: there is no region \"%s\"\nhint: the nearest known one is "
		"%s",
		c->path, line, c->home, nearest.best);
}

/* Puts where it was set before err. */
static int bad_option(const struct config *c, const char *name, struct err *err)
{
	const struct option_spec *o =
		option_find(config_volume_options, config_volume_option_count, name);
	unsigned line = c->lines.of[o - config_volume_options];

	if (line == CONFIG_LINE_MOUNT)
		return err_prefix(err, -EINVAL, "-o %s", name);
	return err_prefix(err, -EINVAL, "%s:%u: [volume] %s", c->path, line, name);
}

static int set_ids(struct config *c, struct err *err)
{
	struct fs_ids *ids = &c->ids;

	if (c->map_uid && config_ids_map(c->map_uid, false, &ids->uids, err) < 0)
		return bad_option(c, "map_uid", err);
	if (c->map_gid && config_ids_map(c->map_gid, true, &ids->gids, err) < 0)
		return bad_option(c, "map_gid", err);
	ids->force_uid = c->uid != NULL;
	if (c->uid && config_ids_id(c->uid, false, &ids->uid, err) < 0)
		return bad_option(c, "uid", err);
	ids->force_gid = c->gid != NULL;
	if (c->gid && config_ids_id(c->gid, true, &ids->gid, err) < 0)
		return bad_option(c, "gid", err);
	if (c->umask && config_ids_umask(c->umask, &ids->umask, err) < 0)
		return bad_option(c, "umask", err);
	return 0;
}

static int check_policy(const struct config *c, const struct config_policy *policy, struct err *err)
{
	for (size_t i = 0; i < config_policy_option_count; i++)
		if (policy->lines.of[i])
			return 0;
	return err_set(err, -EINVAL,
		"%s:%u: [policy \"%s\"]: says nothing\nhint: write durability = …, sync_on_close = "
		"… or merge = …",
		c->path, policy->lines.section, policy->glob);
}

static int finish(struct config *c, struct err *err)
{
	int r;

	if (c->regions == 0)
		return err_set(err, -EINVAL,
			"%s: no region\nhint: add [region \"NAME\"] with url = file:///DIRECTORY "
			"or s3://BUCKET/PREFIX",
			c->path);
	r = set_derived(c, err);
	for (unsigned i = 0; r == 0 && i < c->regions; i++)
		r = check_region(c, &c->region[i], err);
	for (unsigned i = 0; r == 0 && i < c->policies; i++)
		r = check_policy(c, &c->policy[i], err);
	if (r == 0)
		r = check_home(c, err);
	return r < 0 ? r : set_ids(c, err);
}

int config_parse(const char *text, size_t n, const char *path,
	const struct config_override *overrides, size_t override_count, struct config **ret,
	struct err *err)
{
	struct config *c AUTO_CONFIG = calloc(1, sizeof(*c));
	struct err scratch = {0};
	struct parse p = {.p = text, .end = text + n, .err = err ? err : &scratch, .config = c};
	int r;

	if (!c || !(c->path = strdup(path)))
		return err_errno(err, -ENOMEM, "%s", path);
	if (n > CONFIG_BYTES_MAX)
		return err_set(
			err, -EFBIG, "%s: larger than 1 MiB: not a configuration file", path);
	if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		p.p += 3;
	r = option_set_presets(config_volume_options, config_volume_option_count, c, p.err);
	if (r == 0)
		r = parse_text(&p);
	if (r == 0)
		r = apply_overrides(c, overrides, override_count, p.err);
	if (r == 0)
		r = finish(c, p.err);
	if (r < 0) {
		text_clean(p.err->text);
		return r;
	}
	*ret = c;
	c = NULL;
	return 0;
}

int config_load(const char *path, const struct config_override *overrides, size_t override_count,
	struct config **ret, struct err *err)
{
	int fd AUTO_CLOSE = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct buf text CLEANUP(buf_done) = {0};
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return err_set(err, -ENOENT,
			"%s: there is no such file\nhint: see meridian.conf(5), or name the file "
			"by its path",
			path);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: not a regular file", path);
	while (text.len <= CONFIG_BYTES_MAX) {
		void *room = buf_reserve(&text, 65536);
		ssize_t n = room ? read(fd, room, 65536) : -1;

		if (n < 0)
			return err_errno(err, room ? -errno : -ENOMEM, "%s", path);
		if (n == 0)
			break;
		text.len += (size_t)n;
	}
	return config_parse(
		(const char *)text.data, text.len, path, overrides, override_count, ret, err);
}

void config_free(struct config *c)
{
	if (!c)
		return;
	option_done(config_volume_options, config_volume_option_count, c);
	for (unsigned i = 0; i < c->regions; i++) {
		option_done(config_region_options, config_region_option_count, &c->region[i]);
		free(c->region[i].name);
	}
	for (unsigned i = 0; i < c->policies; i++)
		free(c->policy[i].glob);
	free(c->path);
	free(c);
}

bool config_is_path(const char *source)
{
	size_t n = strlen(source);

	return strchr(source, '/') || (n > 5 && strcmp(source + n - 5, ".conf") == 0);
}

int config_find(const char *source, char **ret, struct err *err)
{
	if (config_is_path(source)) {
		*ret = strdup(source);
		return *ret ? 0 : err_errno(err, -ENOMEM, "%s", source);
	}
	if (!text_is_name(source))
		return err_set(err, -EINVAL,
			"\"%s\": neither a volume's name nor the path of a configuration file",
			source);
	if (asprintf(ret, CONFIG_DIRECTORY "/%s.conf", source) < 0)
		return err_errno(err, -ENOMEM, "%s", source);
	return 0;
}

static void print_options(const struct option_spec *table, size_t n, const void *base,
	const struct config_lines *lines, struct buf *out)
{
	for (size_t i = 0; i < n; i++) {
		size_t at = out->len, width;

		buf_printf(out, "%s = ", table[i].name);
		width = out->len;
		option_print(&table[i], base, out);
		if (out->len == width) {
			out->len = at;
			continue;
		}
		if (lines->of[i] == CONFIG_LINE_MOUNT || !lines->of[i])
			buf_printf(out, "%*s ; %s",
				(int)(out->len - at < 40 ? 40 - (out->len - at) : 0), "",
				lines->of[i] ? "from -o" : "default");
		buf_put_u8(out, '\n');
	}
}

void config_print(const struct config *c, struct buf *out)
{
	buf_printf(out, "; %s\n[volume]\n", c->path);
	print_options(config_volume_options, config_volume_option_count, c, &c->lines, out);
	for (unsigned i = 0; i < c->regions; i++) {
		buf_printf(out, "\n[region \"%s\"]\n", c->region[i].name);
		print_options(config_region_options, config_region_option_count, &c->region[i],
			&c->region[i].lines, out);
	}
	for (unsigned i = 0; i < c->policies; i++) {
		buf_printf(out, "\n[policy \"%s\"]\n", c->policy[i].glob);
		print_options(config_policy_options, config_policy_option_count, &c->policy[i],
			&c->policy[i].lines, out);
	}
}

void config_durability(const struct config *c, struct durability_wish *volume,
	struct durability_rule rules[CONFIG_POLICY_MAX], unsigned *count)
{
	unsigned n = 0;

	_Static_assert(CONFIG_POLICY_MAX <= DURABILITY_RULES_MAX, "a rule for each policy");
	*volume = (struct durability_wish){
		.mode = (enum durability)c->durability, .on_close = c->sync_on_close};
	for (unsigned i = 0; i < c->policies; i++) {
		const struct config_policy *p = &c->policy[i];

		if (!p->durability && !p->sync_on_close)
			continue;
		rules[n++] = (struct durability_rule){.glob = p->glob,
			.has_mode = p->durability != 0,
			.has_on_close = p->sync_on_close != 0,
			.wish = {.mode = p->durability ? (enum durability)(p->durability - 1)
						       : DURABILITY_LOCAL,
				.on_close = p->sync_on_close == 2}};
	}
	*count = n;
}

void config_store(const struct config *c, unsigned region, struct store_config *ret)
{
	const struct config_region *r = &c->region[region];

	*ret = (struct store_config){
		.name = r->name,
		.url = r->url,
		.endpoint = r->endpoint,
		.signing_region = r->region,
		.profile = r->profile,
		.credentials_file = r->credentials_file,
		.ca_bundle = r->ca_bundle,
		.path_style = r->path_style,
		.connections = (unsigned)r->connections,
		.rate_limit = r->rate_limit,
		.request_limit = r->request_limit,
		.timeout_ms = r->timeout_ms,
		.stall_timeout_ms = r->stall_timeout_ms,
	};
}
