/*
 * Credential sources. The file's reader is strict: a line is blank, a comment, a [section] or name
 * = value; anything else is an error with its line number, because a half-understood credentials
 * file signs with the wrong key.
 *
 * Lock: source.lock guards what is cached from the file. Values are copied out; secrets are wiped
 * when they are replaced or released and never appear in a message.
 */
#include "replicator/store/credentials.h"

#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/buf.h"
#include "src/base/thread.h"

#define LINE_MAX_BYTES 8192
#define FILE_MAX_BYTES (1024 * 1024)

struct credential_source {
	char *profile;
	char *file;
	struct mutex lock;
	bool loaded; /* cached is what the file said when it was as in mark; guarded by lock */
	struct stat mark;
	struct credentials cached;
};

void credentials_done(struct credentials *c)
{
	explicit_bzero(c, sizeof(*c));
}

/* Copies a value that will stand in a header. False when it is too long or has bytes that cannot.
 */
static bool value_set(char *to, size_t size, const char *value)
{
	size_t len = strlen(value);
	if (len == 0 || len >= size)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (value[i] <= ' ' || value[i] > '~')
			return false;
	}
	memcpy(to, value, len + 1);
	return true;
}

static char *trim(char *s)
{
	while (*s == ' ' || *s == '\t')
		s++;
	size_t len = strlen(s);
	while (len && strchr(" \t\r\n", s[len - 1]))
		s[--len] = 0;
	return s;
}

/* One name = value of the wanted section. Names that are not ours (region, role_arn …) are left
 * alone. */
static bool take_pair(struct credentials *c, const char *name, const char *value)
{
	if (strcmp(name, "aws_access_key_id") == 0)
		return value_set(c->access_key, sizeof(c->access_key), value) &&
		       !strpbrk(c->access_key, "/,");
	if (strcmp(name, "aws_secret_access_key") == 0)
		return value_set(c->secret_key, sizeof(c->secret_key), value);
	if (strcmp(name, "aws_session_token") == 0)
		return !*value || value_set(c->session_token, sizeof(c->session_token), value);
	return true;
}

/* Reads the lines. 0 and *found tell whether the section was there. */
static int read_lines(FILE *f, const char *path, const char *profile, struct credentials *c,
	bool *found, struct err *err)
{
	char line[LINE_MAX_BYTES];
	bool inside = false;
	long total = 0;
	for (unsigned number = 1; fgets(line, sizeof(line), f); number++) {
		size_t len = strlen(line);
		total += (long)len;
		if ((len == sizeof(line) - 1 && line[len - 1] != '\n') || total > FILE_MAX_BYTES)
			return err_set(err, -EINVAL, "%s:%u: line or file too long", path, number);
		bool continued = line[0] == ' ' || line[0] == '\t';
		char *s = trim(line);
		if (!*s || *s == '#' || *s == ';')
			continue;
		char *end = s + strlen(s) - 1;
		if (*s == '[') {
			if (*end != ']')
				return err_set(
					err, -EINVAL, "%s:%u: expected [section]", path, number);
			*end = 0;
			inside = strcmp(trim(s + 1), profile) == 0;
			*found |= inside;
			continue;
		}
		char *equals = strchr(s, '=');
		if (!equals)
			return err_set(err, -EINVAL, "%s:%u: expected name = value", path, number);
		if (!inside || continued) /* indented: a nested setting of AWS's own tools */
			continue;
		*equals = 0;
		if (!take_pair(c, trim(s), trim(equals + 1)))
			return err_set(err, -EINVAL, "%s:%u: not a possible value of %s", path,
				number, trim(s));
	}
	explicit_bzero(line, sizeof(line));
	return ferror(f) ? err_errno(err, -EIO, "cannot read %s", path) : 0;
}

int credentials_read_file(
	const char *path, const char *profile, struct credentials *ret, struct err *err)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return err_errno(err, -errno, "cannot read %s", path);
	struct credentials c CLEANUP(credentials_done) = {0};
	char buffer[4096];
	setvbuf(f, buffer, _IOFBF, sizeof(buffer));
	bool found = false;
	int r = read_lines(f, path, profile, &c, &found, err);
	fclose(f);
	explicit_bzero(buffer, sizeof(buffer));
	if (r < 0)
		return r;
	if (!found)
		return err_set(err, -ENOENT, "%s has no section [%s]", path, profile);
	if (!c.access_key[0] || !c.secret_key[0])
		return err_set(err, -EINVAL, "%s: section [%s] lacks %s", path, profile,
			c.access_key[0] ? "aws_secret_access_key" : "aws_access_key_id");
	*ret = c;
	return 0;
}

struct credential_source *credential_source_new(const char *profile, const char *file)
{
	struct credential_source *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->profile = profile ? strdup(profile) : NULL;
	s->file = file ? strdup(file) : NULL;
	mutex_init(&s->lock, LOCK_RANK_STORE);
	if ((profile && !s->profile) || (file && !s->file)) {
		credential_source_free(s);
		return NULL;
	}
	return s;
}

void credential_source_free(struct credential_source *s)
{
	if (!s)
		return;
	mutex_done(&s->lock);
	credentials_done(&s->cached);
	free(s->profile);
	free(s->file);
	free(s);
}

/* Appends the path of the credentials file. */
static void put_file_path(const struct credential_source *s, struct buf *path)
{
	const char *shared = getenv("AWS_SHARED_CREDENTIALS_FILE");
	if (s->file || (shared && *shared)) {
		buf_put_str(path, s->file ? s->file : shared);
		return;
	}
	const char *home = getenv("HOME");
	char text[1024];
	struct passwd pw, *found = NULL;
	if (!home || !*home) /* as under systemd */
		home = getpwuid_r(geteuid(), &pw, text, sizeof(text), &found) == 0 && found
			       ? found->pw_dir
			       : "/root";
	buf_printf(path, "%s/.aws/credentials", home);
}

/* 1: the environment has them; 0: it has none; -EINVAL. */
static int from_environment(struct credentials *ret, struct err *err)
{
	const char *access = getenv("AWS_ACCESS_KEY_ID");
	const char *secret = getenv("AWS_SECRET_ACCESS_KEY");
	const char *token = getenv("AWS_SESSION_TOKEN");
	if (!access || !*access)
		return 0;
	if (!secret || !*secret)
		return err_set(
			err, -EINVAL, "AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not");
	struct credentials c CLEANUP(credentials_done) = {0};
	if (!take_pair(&c, "aws_access_key_id", access) ||
		!take_pair(&c, "aws_secret_access_key", secret) ||
		!take_pair(&c, "aws_session_token", token ? token : ""))
		return err_set(err, -EINVAL,
			"the credentials in AWS_ACCESS_KEY_ID and its companions are "
			"not possible values");
	*ret = c;
	return 1;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static int from_file(struct credential_source *s, const char *path, const char *profile,
	struct credentials *ret, struct err *err)
{
	struct stat st;
	if (stat(path, &st) != 0)
		return err_errno(err, -errno, "cannot read %s", path);
	mutex_lock(&s->lock);
	int r = 0;
	if (!s->loaded || !same_file(&st, &s->mark)) {
		s->loaded = false;
		r = credentials_read_file(path, profile, &s->cached, err);
		s->loaded = r == 0;
		s->mark = st;
	}
	if (r == 0)
		*ret = s->cached;
	mutex_unlock(&s->lock);
	return r;
}

int credential_source_get(struct credential_source *s, struct credentials *ret, struct err *err)
{
	struct buf path CLEANUP(buf_done) = {0};
	struct err cause = {0};
	put_file_path(s, &path);
	if (s->profile) {
		int r = from_file(s, buf_str(&path), s->profile, ret, &cause);
		return r < 0 ? err_set(err, r, "no credentials: profile '%s': %s", s->profile,
				       cause.text)
			     : 0;
	}
	int r = from_environment(ret, err);
	if (r != 0)
		return r < 0 ? r : 0;
	const char *profile = getenv("AWS_PROFILE");
	if (!profile || !*profile)
		profile = "default";
	r = from_file(s, buf_str(&path), profile, ret, &cause);
	if (r == -ENOENT)
		return err_set(err, r,
			"no credentials: no profile is configured, AWS_ACCESS_KEY_ID is not set, "
			"and %s",
			cause.text);
	return r < 0 ? err_set(err, r, "no credentials: %s", cause.text) : 0;
}

void credential_source_invalidate(struct credential_source *s)
{
	mutex_lock(&s->lock);
	s->loaded = false;
	mutex_unlock(&s->lock);
}
