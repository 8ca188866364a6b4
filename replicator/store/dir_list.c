/*
 * Listings of a directory store: a depth-first walk in byte order of whole keys, merged with the
 * overflow area.
 *
 * A directory's children are sorted by name, directories with their slash ("a.b" < "a/" < "a0"), so
 * that the walk meets the keys in order. Subtrees that cannot hold a matching key, or only ones up
 * to start_after, are not entered. Memory: the matching names of one directory per level of the
 * path, and a window of OVERFLOW_WINDOW overflow keys. No lock is held: an object that comes or
 * goes meanwhile may be listed or not, all others are, once.
 */
#include "replicator/store/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum {
	OVERFLOW_WINDOW = 4096,
	NAMES_MAX = 50 * 1000 * 1000, /* in one directory; a limit against running out of memory */
};

struct walk {
	struct dir *d;
	const char *prefix;
	size_t prefix_len;
	const char *after; /* "" from the first */
	uint64_t left;
	store_list_fn fn;
	void *ctx;
	const struct store_call *call;
	struct store_error *error;
	bool stop;
	char key[STORE_KEY_MAX + 2];
	/* The smallest overflow keys not yet listed, ascending; overflow_more: there are more
	 * behind them. */
	char **overflow;
	size_t overflow_count;
	size_t overflow_at;
	bool overflow_more;
	char overflow_last[STORE_KEY_MAX + 1];
};

struct names {
	char **name;
	size_t count;
	size_t cap;
};

static void names_done(struct names *n)
{
	for (size_t i = 0; i < n->count; i++)
		free(n->name[i]);
	free(n->name);
	*n = (struct names){0};
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int names_add(struct names *n, const char *name, const char *suffix)
{
	if (n->count == NAMES_MAX)
		return -E2BIG;
	if (n->count == n->cap) {
		size_t cap = n->cap ? 2 * n->cap : 64;
		char **p = realloc(n->name, cap * sizeof(char *));
		if (!p)
			return -ENOMEM;
		n->name = p;
		n->cap = cap;
	}
	size_t a = strlen(name), b = strlen(suffix);
	char *s = malloc(a + b + 1);
	if (!s)
		return -ENOMEM;
	memcpy(s, name, a);
	memcpy(s + a, suffix, b + 1);
	n->name[n->count++] = s;
	return 0;
}

/* Whether key itself is wanted, or (dir) anything that starts with it. */
static bool wanted(const struct walk *w, const char *key, bool dir)
{
	size_t n = strlen(key);

	if (strncmp(key, w->prefix, dir && n < w->prefix_len ? n : w->prefix_len))
		return false;
	return strcmp(key, w->after) > 0 || (dir && !strncmp(w->after, key, n));
}

/* Overflow. */

static void overflow_clear(struct walk *w)
{
	for (size_t i = 0; i < w->overflow_count; i++)
		free(w->overflow[i]);
	w->overflow_count = w->overflow_at = 0;
}

/* Inserts into the sorted window, which keeps the smallest. */
static int overflow_insert(struct walk *w, const char *key)
{
	size_t low = 0, high = w->overflow_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (strcmp(w->overflow[mid], key) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	if (w->overflow_count == OVERFLOW_WINDOW) {
		w->overflow_more = true;
		if (low == OVERFLOW_WINDOW)
			return 0;
		free(w->overflow[--w->overflow_count]);
	}
	char *s = strdup(key);
	if (!s)
		return -ENOMEM;
	memmove(w->overflow + low + 1, w->overflow + low,
		(w->overflow_count - low) * sizeof(char *));
	w->overflow[low] = s;
	w->overflow_count++;
	return 0;
}

static int overflow_file(struct walk *w, int at, const char *name)
{
	struct dir_record record;
	struct stat st;
	AUTO_CLOSE int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT || dir_is_obstacle(-errno) ? 0 : -errno;
	if (!S_ISREG(st.st_mode) || strlen(name) != 64)
		return 0;
	int r = dir_record_read(w->d, NULL, name, fd, &st, &record);
	/* What a record claims is checked like every key: it could lead out. */
	if (r == 0 && dir_key_check(record.key) == 0 && wanted(w, record.key, false) &&
		strcmp(record.key, w->overflow_last) > 0)
		r = overflow_insert(w, record.key);
	dir_record_done(&record);
	return r == -ENOENT ? 0 : r;
}

static int overflow_shard(struct walk *w, int top, const char *name)
{
	AUTO_CLOSE int at = -1;
	const struct dirent *e;

	int r = dir_open_sub(top, name, false, &at);
	if (r < 0)
		return 0;
	int copy = fcntl(at, F_DUPFD_CLOEXEC, 0);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir) {
		r = -errno;
		if (copy >= 0)
			close(copy);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(dir)))
		r = e->d_name[0] == '.' ? 0 : overflow_file(w, at, e->d_name);
	closedir(dir);
	return r;
}

/* Fills the window with the next keys after overflow_last. */
static int overflow_fill(struct walk *w)
{
	AUTO_CLOSE int top = -1;
	char shard[3];

	overflow_clear(w);
	w->overflow_more = false;
	int r = dir_open_sub(w->d->root, DIR_OVERFLOW, false, &top);
	if (r < 0)
		return r == -ENOENT || dir_is_obstacle(r) ? 0 : r;
	if (!w->overflow)
		w->overflow = malloc(OVERFLOW_WINDOW * sizeof(char *));
	if (!w->overflow)
		return -ENOMEM;
	for (int i = 0; i < 256 && r == 0; i++) {
		shard[0] = "0123456789abcdef"[i / 16];
		shard[1] = "0123456789abcdef"[i % 16];
		shard[2] = '\0';
		r = overflow_shard(w, top, shard);
	}
	return r;
}

static int deliver(struct walk *w, const char *key, const struct store_object *object)
{
	if (w->fn(w->ctx, key, object) != 0 || --w->left == 0)
		w->stop = true;
	return 0;
}

/* Lists the overflow keys less than before (NULL: all); drops one equal to it, whose place wins. */
static int overflow_drain(struct walk *w, const char *before)
{
	int r = 0;

	while (r == 0 && !w->stop) {
		if (w->overflow_at == w->overflow_count) {
			if (!w->overflow_more)
				return 0;
			r = overflow_fill(w);
			continue;
		}
		const char *key = w->overflow[w->overflow_at];
		int order = before ? strcmp(key, before) : -1;
		if (order > 0)
			return 0;
		memcpy(w->overflow_last, key, strlen(key) + 1);
		w->overflow_at++;
		if (order == 0)
			continue;
		CLEANUP(dir_found_done) struct dir_found f = {.fd = -1, .parent = -1};
		struct store_object object;
		r = dir_find(w->d, key, &f);
		if (r == 0) {
			dir_object_of(&f.st, f.has_record ? &f.record : NULL, &object);
			r = deliver(w, key, &object);
		}
		if (r == -ENOENT)
			r = 0;
	}
	return r;
}

/* The tree. */

/* w->key[0..len) is the directory's key with its slash, or empty. */
static int read_level(struct walk *w, int fd, size_t len, struct names *names)
{
	/* Not a dup: that would share the read position, for the root with every other listing. */
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	int r = 0;

	if (!dir) {
		r = -errno;
		if (copy >= 0)
			close(copy);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(dir))) {
		const char *name = e->d_name;
		size_t n = strlen(name);
		unsigned char type = e->d_type;
		struct stat st;
		if (!strcmp(name, ".") || !strcmp(name, "..") || len + n > STORE_KEY_MAX)
			continue;
		if (len == 0 && (!strcmp(name, DIR_TMP) || !strcmp(name, DIR_META) ||
					!strcmp(name, DIR_OVERFLOW)))
			continue;
		if (type == DT_UNKNOWN && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : DT_LNK;
		if (type != DT_DIR && type != DT_REG)
			continue;
		memcpy(w->key + len, name, n);
		memcpy(w->key + len + n, type == DT_DIR ? "/" : "", type == DT_DIR ? 2 : 1);
		if (wanted(w, w->key, type == DT_DIR))
			r = names_add(names, name, type == DT_DIR ? "/" : "");
	}
	if (r == 0 && errno)
		r = -errno;
	closedir(dir);
	if (r == 0 && names->count)
		qsort(names->name, names->count, sizeof(char *), by_bytes);
	return r;
}

/* The object at w->key, open as fd; not listed when it is a directory without a record. */
static int list_open(struct walk *w, int fd, bool dir)
{
	struct dir_record record;
	struct store_object object;
	struct stat st;

	if (strlen(w->key) > STORE_KEY_MAX || !wanted(w, w->key, false))
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (dir ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
		return 0;
	int r = dir_record_read(w->d, w->key, NULL, fd, &st, &record);
	if (r == -ENOENT && dir)
		return 0;
	if (r < 0 && r != -ENOENT)
		return r;
	dir_object_of(&st, r == 0 ? &record : NULL, &object);
	dir_record_done(&record);
	r = overflow_drain(w, w->key);
	return r < 0 || w->stop ? r : deliver(w, w->key, &object);
}

static int list_file(struct walk *w, int at, const char *name)
{
	AUTO_CLOSE int fd =
		openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd >= 0 && !w->d->xattr) {
		/* Here a put may come between a file and its sidecar; dir_find sorts that out. */
		CLEANUP(dir_found_done) struct dir_found f = {.fd = -1, .parent = -1};
		int r = dir_find(w->d, w->key, &f);
		return r < 0 ? (r == -ENOENT ? 0 : r) : f.overflow ? 0 : list_open(w, f.fd, false);
	}
	if (fd < 0)
		return errno == ENOENT || dir_is_obstacle(-errno) ? 0 : -errno;
	return list_open(w, fd, false);
}

static int walk_dir(struct walk *w, int fd, size_t len)
{
	CLEANUP(names_done) struct names names = {0};

	w->key[len] = '\0';
	int r = len ? list_open(w, fd, true) : 0;
	if (r == 0 && !w->stop)
		r = read_level(w, fd, len, &names);
	for (size_t i = 0; r == 0 && i < names.count && !w->stop; i++) {
		AUTO_CLOSE int sub = -1;
		size_t n = strlen(names.name[i]);
		if (store_call_check(w->call, w->error) != STORE_OK)
			return -ECANCELED;
		memcpy(w->key + len, names.name[i], n + 1);
		if (names.name[i][n - 1] != '/') {
			r = list_file(w, fd, names.name[i]);
			continue;
		}
		names.name[i][n - 1] = '\0';
		r = dir_open_sub(fd, names.name[i], false, &sub);
		if (r == 0)
			r = walk_dir(w, sub, len + n);
		else if (r == -ENOENT || dir_is_obstacle(r))
			r = 0; /* gone meanwhile, or replaced by something else */
	}
	return r;
}

/* Starts at the deepest directory that the prefix names. */
static int walk_from_prefix(struct walk *w)
{
	char leaf[DIR_NAME_MAX + 1];
	const char *slash = strrchr(w->prefix, '/');
	AUTO_CLOSE int parent = -1;
	AUTO_CLOSE int fd = -1;
	size_t len = slash ? (size_t)(slash - w->prefix) + 1 : 0;

	if (!len)
		return walk_dir(w, w->d->root, 0);
	memcpy(w->key, w->prefix, len);
	w->key[len] = '\0';
	/* A prefix that is no possible path has no objects either. */
	if (dir_key_check(w->key) < 0)
		return 0;
	int r = dir_open_parent(w->d, w->key, false, &parent, leaf);
	if (r == 0)
		r = dir_open_sub(parent, leaf, false, &fd);
	if (r < 0)
		return r == -ENOENT || dir_is_obstacle(r) ? 0 : r;
	return walk_dir(w, fd, len);
}

enum store_result dir_list(struct store *s, const char *prefix, const char *start_after,
	uint64_t limit, store_list_fn fn, void *ctx, const struct store_call *call,
	struct store_error *error)
{
	struct walk w = {
		.d = (struct dir *)s,
		.prefix = prefix,
		.prefix_len = strlen(prefix),
		.after = start_after ? start_after : "",
		.left = limit ? limit : UINT64_MAX,
		.fn = fn,
		.ctx = ctx,
		.call = call,
		.error = error,
	};
	enum store_result r = store_call_check(call, error);

	if (r != STORE_OK)
		return r;
	int e = dir_check(w.d);
	if (e == 0)
		e = overflow_fill(&w);
	if (e == 0)
		e = walk_from_prefix(&w);
	if (e == 0 && !w.stop)
		e = overflow_drain(&w, NULL);
	overflow_clear(&w);
	free(w.overflow);
	/* A listing that is cut short by a vanished directory must not pass for the whole. */
	if (e == 0)
		e = dir_check_marker(w.d);
	if (e == 0)
		e = dir_check(w.d);
	if (e == -ECANCELED && (r = store_call_check(call, error)) != STORE_OK)
		return r;
	return e < 0 ? dir_result(w.d, e, "listing", error) : STORE_OK;
}
