/*
 * What applications do: one random operation on a node's tree at a time, on few paths, so that nodes get
 * in each other's way; and, in the end of some runs, many at the same files.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/tree.h"
#include "src/base/random.h"

const char *const sim_paths[SIM_PATHS] = {"a", "b", "d", "d/x", "d/y", "d/e", "d/e/z", "m", "m/x"};

struct target {
	const char *path;
	uint64_t parent; /* 0: the parent is not a directory here */
	struct slice name;
	bool exists;
	struct inode inode;
};

static struct target look_up(struct sim_node *node, const char *path)
{
	struct target t = {.path = path};
	struct slice key = slice_of(t.path);
	struct inode parent;

	t.name = key_name(key);
	if (tree_resolve(node->cache, key_parent(key), &parent) == 0 && S_ISDIR(parent.mode)) {
		t.parent = parent.ino;
		t.exists = tree_lookup(node->cache, t.parent, t.name, &t.inode) == 0;
	}
	return t;
}

static struct target pick(struct sim *s, struct sim_node *node)
{
	return look_up(node, sim_paths[random_below(SIM_PATHS)]);
}

static size_t new_content(struct sim *s, unsigned n, char *p, size_t size)
{
	size_t len = (size_t)snprintf(p, size, "write %" PRIu64 " by n%u ", ++s->writes, n);
	bool large = s->large ? sim_chance(60) : sim_chance(15);
	large = large && !s->mortal;
	size_t total = large ? SIM_INLINE_MAX + 1 + (size_t)random_below(200) : len;

	for (; len < total && len < size; len++)
		p[len] = (char)('a' + len % 26);
	return len;
}

static void write_file(struct sim *s, unsigned n, struct target *t)
{
	struct sim_node *node = &s->node[n];
	struct file *file = NULL;
	char content[512];
	size_t len = new_content(s, n, content, sizeof content);
	int r;

	if (t->exists && !S_ISREG(t->inode.mode))
		return;
	bool truncate = !t->exists || sim_chance(70) || s->mortal;
	if (t->exists)
		r = file_open(node->cache, t->inode.ino, true, truncate, &file);
	else
		r = tree_create_open(node->cache, t->parent, t->name, S_IFREG | 0644, 0, 0, true,
			&t->inode, &file);
	if (r == -EREMOTE && sim_fetch(s, n, t->inode.ino) == 0)
		r = file_open(node->cache, t->inode.ino, true, truncate, &file);
	if (r == -EREMOTE || r == -ESTALE)
		return;
	if (r < 0)
		sim_fail(s, "n%u: open %s: %d", n, t->path, r);
	ssize_t w = file_write(file, content, len, 0, !truncate);
	if (w != (ssize_t)len)
		sim_fail(s, "n%u: write %s: %zd", n, t->path, w);
	sim_trace(s, "n%u app write %s ino %" PRIu64 " \"%.24s\" %zu%s", n, t->path, t->inode.ino,
		content, len, truncate ? "" : " append");
	bool sync = sim_chance(30);
	if (sync && (r = file_fsync(file, true)) < 0)
		sim_fail(s, "n%u: fsync %s: %d", n, t->path, r);
	if (sync)
		sim_durability_sync(s, n, t->path, t->inode.ino);
	sim_unseen_forget(s, n, t->inode.ino);
	unsigned slot = (unsigned)random_below(SIM_OPEN_MAX);
	bool keep = sim_chance(25);
	bool unseen = !node->open[slot] && sim_unseen_open(s, file);
	if ((keep || unseen) && !node->open[slot]) {
		node->open[slot] = file;
		node->unseen[slot] = unseen;
	} else {
		file_release(file);
	}
}

static void change_attributes(struct sim *s, unsigned n, struct target *t)
{
	struct sim_node *node = &s->node[n];
	uint32_t mode = (uint32_t)random_below(01000), uid = (uint32_t)random_below(5);
	int64_t mtime_ns = (s->now_ms - (int64_t)random_below(100000)) * 1000000;
	struct inode v = {.mode = mode, .uid = uid, .mtime_ns = mtime_ns};
	unsigned mask = sim_chance(50) ? SET_MODE : sim_chance(50) ? SET_UID : SET_MTIME;
	int r;

	if (!t->exists)
		return;
	if (sim_chance(20))
		r = tree_setxattr(node->cache, t->inode.ino, "user.k", &v.mode, sizeof v.mode, 0);
	else
		r = tree_setattr(node->cache, t->inode.ino, mask, &v, &v);
	sim_trace(s, "n%u app setattr %s mask %u: %d", n, t->path, mask, r);
	if (r < 0)
		sim_fail(s, "n%u: setattr %s: %d", n, t->path, r);
}

static void rename_something(struct sim *s, unsigned n, struct target *t)
{
	struct sim_node *node = &s->node[n];
	struct target to = pick(s, node);

	if (!t->exists || !to.parent || (S_ISDIR(t->inode.mode) && !s->rename_dirs))
		return;
	int r = tree_rename(node->cache, t->parent, t->name, to.parent, to.name, 0);
	sim_trace(s, "n%u app rename %s %s: %d", n, t->path, to.path, r);
	if (r < 0 && r != -ENOTEMPTY && r != -EISDIR && r != -ENOTDIR && r != -EINVAL &&
		r != -EEXIST)
		sim_fail(s, "n%u: rename %s %s: %d", n, t->path, to.path, r);
}

static void link_something(struct sim *s, unsigned n, struct target *t)
{
	struct sim_node *node = &s->node[n];
	struct target to = pick(s, node);
	struct inode inode;

	if (!t->exists || !to.parent || to.exists || S_ISDIR(t->inode.mode))
		return;
	int r = tree_link(node->cache, t->inode.ino, to.parent, to.name, &inode);
	sim_trace(s, "n%u app link %s %s: %d", n, t->path, to.path, r);
	if (r < 0)
		sim_fail(s, "n%u: link %s %s: %d", n, t->path, to.path, r);
}

static void exchange_something(struct sim *s, unsigned n, struct target *t)
{
	struct sim_node *node = &s->node[n];
	struct target to = pick(s, node);

	if (!t->exists || !to.exists ||
		((S_ISDIR(t->inode.mode) || S_ISDIR(to.inode.mode)) && !s->rename_dirs))
		return;
	int r = tree_rename(node->cache, t->parent, t->name, to.parent, to.name, RENAME_EXCHANGE);
	sim_trace(s, "n%u app exchange %s %s: %d", n, t->path, to.path, r);
	if (r < 0 && r != -EINVAL)
		sim_fail(s, "n%u: exchange %s %s: %d", n, t->path, to.path, r);
}

static void remove_something(struct sim *s, unsigned n, struct target *t)
{
	struct sim_node *node = &s->node[n];

	if (!t->exists)
		return;
	bool dir = S_ISDIR(t->inode.mode);
	int r = dir ? tree_rmdir(node->cache, t->parent, t->name)
		    : tree_unlink(node->cache, t->parent, t->name);
	sim_trace(s, "n%u app remove %s: %d", n, t->path, r);
	if (r < 0 && !(dir && r == -ENOTEMPTY))
		sim_fail(s, "n%u: remove %s: %d", n, t->path, r);
}

/* For writing, which comes later and unseen. */
static void open_something(struct sim *s, unsigned n, const struct target *t)
{
	struct sim_node *node = &s->node[n];
	unsigned slot = (unsigned)random_below(SIM_OPEN_MAX);
	struct file *file;

	if (node->open[slot])
		file_release(node->open[slot]);
	node->open[slot] = NULL;
	if (file_open(node->cache, t->inode.ino, true, false, &file) < 0)
		return;
	sim_trace(s, "n%u app opens %s ino %" PRIu64, n, t->path, t->inode.ino);
	node->open[slot] = file;
	node->unseen[slot] = sim_unseen_open(s, file);
}

void sim_app_event(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];
	struct target t = pick(s, node);
	struct inode made;
	int r = 0;

	s->current = n;
	s->now_ms += 1 + (int64_t)random_below(20);
	if (!t.parent)
		return;
	if (t.exists && S_ISREG(t.inode.mode) && sim_unseen_takes(s)) {
		open_something(s, n, &t);
		return;
	}
	if (sim_chance(s->link_percent)) {
		link_something(s, n, &t);
		return;
	}
	switch (random_below(12)) {
	case 10:
		link_something(s, n, &t);
		break;
	case 11:
		exchange_something(s, n, &t);
		break;
	case 0:
	case 1:
	case 2:
		write_file(s, n, &t);
		break;
	case 3:
		if (!t.exists) {
			r = tree_create(
				node->cache, t.parent, t.name, S_IFDIR | 0755, 0, 0, NULL, &made);
			sim_trace(s, "n%u app mkdir %s: %d", n, t.path, r);
		}
		break;
	case 4:
		if (!t.exists) {
			char target[64];
			new_content(s, n, target, 40);
			target[39] = '\0';
			r = tree_create(
				node->cache, t.parent, t.name, S_IFLNK | 0777, 0, 0, target, &made);
			sim_trace(s, "n%u app symlink %s: %d", n, t.path, r);
		}
		break;
	case 5:
		change_attributes(s, n, &t);
		break;
	case 6:
		rename_something(s, n, &t);
		break;
	case 7:
		remove_something(s, n, &t);
		break;
	case 8: {
		struct file **slot = &node->open[random_below(SIM_OPEN_MAX)];
		if (*slot) {
			sim_trace(s, "n%u app close ino %" PRIu64, n, file_ino(*slot));
			file_release(*slot);
			*slot = NULL;
		}
		break;
	}
	default: {
		unsigned slot = (unsigned)random_below(SIM_OPEN_MAX);
		struct file *file = node->open[slot];
		char content[512];
		if (file && node->unseen[slot]) {
			sim_unseen_write(s, n, file);
		} else if (file && !s->unseen) {
			size_t len = new_content(s, n, content, sizeof content);
			sim_trace(s, "n%u app write open ino %" PRIu64 " \"%.24s\"", n,
				file_ino(file), content);
			if (file_write(file, content, len, 0, false) != (ssize_t)len)
				sim_fail(s, "n%u: write to an open file", n);
			sim_unseen_forget(s, n, file_ino(file));
		}
	}
	}
	if (r < 0)
		sim_fail(s, "n%u: %s: %d", n, t.path, r);
}

void sim_app_crowd(struct sim *s)
{
	static const char *const paths[] = {"a", "b", "d/x"};
	unsigned from = (unsigned)random_below(s->nodes), to = (from + 1) % s->nodes;

	s->crowded = true;
	for (unsigned r = 0; r < s->regions; r++) {
		s->region[r].down = false;
		s->node[from].cut[r] = s->node[to].cut[r] = false;
	}
	for (unsigned round = 0; round < 16; round++) {
		s->now_ms += 30000; /* beyond backoffs */
		sim_net_deliver_late(s, false); /* no network holds a request for longer */
		for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
			unsigned n = round % 2 ? to : from;
			struct target t = look_up(&s->node[n], paths[i]);

			s->current = n;
			sim_replaced_before(s, n);
			sim_unseen_before(s, n);
			if (round % 2 && t.exists && S_ISREG(t.inode.mode))
				open_something(s, n, &t);
			else if (round % 2 == 0 && i + 1 < ARRAY_SIZE(paths) && t.exists && sim_chance(15))
				link_something(s, n, &t);
			else if (round % 2 == 0 && t.parent)
				write_file(s, n, &t);
			sim_unseen_after(s, n);
			sim_replaced_after(s, n);
		}
		for (unsigned i = 0; round % 2 == 0 && i < 8; i++)
			sim_step(s, from, i % 3);
		sim_step(s, to, 3);
		sim_step(s, to, 3);
		sim_step(s, to, round % 2 ? 3 : 0);
	}
}
