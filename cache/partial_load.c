/* Why this file: what the start finds of partial content. Nothing in it is trusted (partial.c). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "cache/partial_entry.h"

/* "<ino>" or "<ino>.map". */
static bool parse_name(const char *name, uint64_t *ino, bool *is_map)
{
	uint8_t raw[8];
	char digits[17];
	size_t n = strlen(name);

	*is_map = n == 20 && strcmp(name + 16, ".map") == 0;
	if (n != 16 && !*is_map)
		return false;
	memcpy(digits, name, 16);
	digits[16] = '\0';
	if (!hex_decode(digits, raw, sizeof(raw)))
		return false;
	*ino = 0;
	for (unsigned i = 0; i < 8; i++)
		*ino = *ino << 8 | raw[i];
	return true;
}

/* What one map says, if the inode still wants that content. */
static int load_entry(struct cache *c, struct conn *conn, uint64_t ino)
{
	struct inode_row row;
	struct partial *p;
	int r = inode_get(conn, ino, &row);

	if (r && r != -ENOENT)
		return r;
	if (r || row.state != STATE_REMOTE || !row.has_hash || row.nlink == 0 || row.size == 0 ||
		row.size > INT64_MAX || atomic_load(&c->partials->files) >= PARTIAL_MAX) {
		partial_remove_files(c->partials, ino);
		return 0;
	}
	p = partial_entry_new(c, ino, row.hash, row.size);
	if (!p)
		return -ENOMEM;
	r = partial_read_map(p);
	partial_close_files(p);
	if (r) {
		partial_entry_free(p);
		partial_remove_files(c->partials, ino);
		return r == -EBADMSG ? 0 : r;
	}
	if (p->used >= atomic_load(&c->tick))
		atomic_store(&c->tick, p->used + 1);
	mutex_lock(&c->partials->lock);
	partial_list(p);
	mutex_unlock(&c->partials->lock);
	return 0;
}

/* Maps first, then data without a map: whatever else lies there is left alone. */
static int load_names(struct cache *c, struct conn *conn, DIR *dir, bool maps)
{
	const struct dirent *e;
	uint64_t ino;
	bool is_map;
	int r = 0;

	rewinddir(dir);
	while (!r && (e = readdir(dir))) {
		if (!parse_name(e->d_name, &ino, &is_map) || is_map != maps)
			continue;
		if (maps && !c->power_lost)
			r = load_entry(c, conn, ino);
		else if (maps || !partial_known(c, ino))
			partial_remove_files(c->partials, ino);
	}
	return r;
}

int partials_load(struct cache *c)
{
	struct conn *conn AUTO_GIVE = NULL;
	DIR *dir;
	int fd, r;

	if (mkdirat(c->dir_fd, "partial", 0700) != 0 && errno != EEXIST)
		return -errno;
	c->partials->dir_fd =
		openat(c->dir_fd, "partial", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->partials->dir_fd < 0)
		return -errno;
	fd = openat(c->partials->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		cleanup_close(&fd);
		return -errno;
	}
	r = conn_take(c, &conn);
	if (!r)
		r = load_names(c, conn, dir, true);
	if (!r)
		r = load_names(c, conn, dir, false);
	closedir(dir);
	return r;
}
