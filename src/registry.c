/* Why this file: `flush PATH` and `status` know a path or a name, the socket lies in the state
 * directory. Files are named by a hash of the mount point (a path does not fit into a name) and
 * replaced by rename. */
#include "src/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/hash.h"
#include "src/base/json.h"
#include "src/control.h"

#define SYSTEM_DIRECTORY "/run/meridian"
#define SUFFIX ".mount"
#define FILE_MAX 32768

/* -ENOENT when this user has no place. */
static int own_directory(char *path, size_t size)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (geteuid() == 0)
		n = snprintf(path, size, SYSTEM_DIRECTORY);
	else if (runtime && runtime[0] == '/')
		n = snprintf(path, size, "%s/meridian", runtime);
	else
		return -ENOENT;
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static void file_name(const char *mountpoint, char name[40])
{
	uint8_t digest[SHA256_SIZE];
	char hex[17];

	sha256(mountpoint, strlen(mountpoint), digest);
	hex_encode(digest, 8, hex);
	snprintf(name, 40, "%s" SUFFIX, hex);
}

static int open_directory(bool make)
{
	char path[512];
	int r = own_directory(path, sizeof(path)), fd;

	if (r < 0)
		return r;
	if (make && mkdir(path, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int write_file(int dir, const char *name, const char *text)
{
	int fd AUTO_CLOSE = -1;
	char temporary[64];
	size_t n = strlen(text);

	snprintf(temporary, sizeof(temporary), "%s.%d", name, (int)getpid());
	fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	if (write(fd, text, n) != (ssize_t)n || renameat(dir, temporary, dir, name) < 0) {
		int r = errno ? -errno : -ENOSPC;

		(void)unlinkat(dir, temporary, 0);
		return r;
	}
	return 0;
}

int registry_add(const struct registry_entry *e)
{
	int dir AUTO_CLOSE = open_directory(true);
	struct json *j;
	char *text AUTO_FREE = NULL;
	char name[40];

	if (dir < 0)
		return dir;
	j = json_new();
	json_put_str(j, "volume", e->volume);
	json_put_str(j, "mountpoint", e->mountpoint);
	json_put_str(j, "state_dir", e->state_dir);
	json_put_str(j, "config", e->config);
	text = json_text(j);
	json_free(j);
	if (!text)
		return -ENOMEM;
	file_name(e->mountpoint, name);
	return write_file(dir, name, text);
}

static int read_entry(int dir, const char *name, registry_fn fn, void *ctx)
{
	int fd AUTO_CLOSE = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	char *text AUTO_FREE = malloc(FILE_MAX);
	struct json_object *o;
	struct registry_entry e;
	struct stat st;
	ssize_t n;
	int r = 0;

	if (fd < 0 || !text || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
		(st.st_uid != 0 && st.st_uid != geteuid()))
		return 0;
	n = read(fd, text, FILE_MAX);
	if (n <= 0 || json_parse(text, (size_t)n, &o) < 0)
		return 0;
	e = (struct registry_entry){.volume = json_get_str(o, "volume"),
		.mountpoint = json_get_str(o, "mountpoint"),
		.state_dir = json_get_str(o, "state_dir"),
		.config = json_get_str(o, "config")};
	if (e.volume && e.mountpoint && e.state_dir && e.config)
		r = fn(ctx, &e);
	json_object_free(o);
	return r;
}

/* Another daemon may be on that mount point by now: this one's mount was taken away while it drained. */
static int remove_own(void *ctx, const struct registry_entry *e)
{
	const struct registry_entry *own = ctx;
	int dir AUTO_CLOSE = -1;
	char name[40];

	if (strcmp(e->mountpoint, own->mountpoint) != 0 ||
		strcmp(e->state_dir, own->state_dir) != 0)
		return 0;
	dir = open_directory(false);
	if (dir < 0)
		return 1;
	file_name(own->mountpoint, name);
	(void)unlinkat(dir, name, 0);
	return 1;
}

void registry_remove(const char *mountpoint, const char *state_dir)
{
	struct registry_entry own = {.mountpoint = mountpoint, .state_dir = state_dir};
	int dir AUTO_CLOSE = open_directory(false);
	char name[40];

	if (dir < 0)
		return;
	file_name(mountpoint, name);
	(void)read_entry(dir, name, remove_own, &own);
}

static int scan_directory(const char *path, registry_fn fn, void *ctx)
{
	DIR *dir = opendir(path);
	struct dirent *d;
	int r = 0;

	if (!dir)
		return 0;
	while (r == 0 && (d = readdir(dir))) {
		size_t n = strlen(d->d_name);

		if (n > strlen(SUFFIX) && strcmp(d->d_name + n - strlen(SUFFIX), SUFFIX) == 0)
			r = read_entry(dirfd(dir), d->d_name, fn, ctx);
	}
	closedir(dir);
	return r;
}

int registry_scan(registry_fn fn, void *ctx)
{
	char own[512];
	int r = scan_directory(SYSTEM_DIRECTORY, fn, ctx);

	if (r == 0 && own_directory(own, sizeof(own)) == 0 && strcmp(own, SYSTEM_DIRECTORY) != 0)
		r = scan_directory(own, fn, ctx);
	return r;
}

static int prune_entry(void *ctx, const struct registry_entry *e)
{
	if (control_is_gone(e->state_dir))
		registry_remove(e->mountpoint, e->state_dir);
	return 0;
}

/* A daemon's socket exists before its entry does, so an entry without one was left by a killed
 * daemon. */
void registry_prune(void)
{
	char own[512];

	if (own_directory(own, sizeof(own)) == 0)
		(void)scan_directory(own, prune_entry, NULL);
}
