/*
 * Readers, so that there are servers which hold the version that a delta is made of, and appenders, so that
 * deltas are made: most of what the others do replaces whole files.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/tree.h"
#include "src/base/random.h"

static bool find(struct sim *s, unsigned n, struct inode *ret)
{
	const char *path = sim_paths[random_below(SIM_PATHS)];

	return tree_resolve(s->node[n].cache, slice_of(path), ret) == 0 && S_ISREG(ret->mode);
}

static void read_one(struct sim *s, unsigned n, const char *path)
{
	struct inode inode;
	struct file *file;

	if (tree_resolve(s->node[n].cache, slice_of(path), &inode) < 0 || !S_ISREG(inode.mode))
		return;
	int r = file_open(s->node[n].cache, inode.ino, false, false, &file);
	if (r == 0)
		file_release(file);
	else if (r == -EREMOTE)
		(void)!sim_fetch(s, n, inode.ino); /* the regions may be away */
	else if (r != -ESTALE)
		sim_fail(s, "n%u: open to read: %d", n, r);
}

void sim_delta_read(struct sim *s, unsigned n)
{
	for (unsigned i = 0; i < SIM_PATHS; i++)
		read_one(s, n, sim_paths[i]);
	for (unsigned i = 0; i < s->nodes; i++) {
		char path[32];

		snprintf(path, sizeof path, "order/data%u", i); /* of sim_order.c */
		read_one(s, n, path);
	}
}

void sim_delta_append(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];
	struct inode inode;
	struct file *file;
	char line[32];

	if (!find(s, n, &inode) || inode.size > 2000)
		return;
	int r = file_open(node->cache, inode.ino, true, false, &file);
	if (r == -EREMOTE || r == -ESTALE)
		return;
	if (r < 0)
		sim_fail(s, "n%u: open to append: %d", n, r);
	size_t len = (size_t)snprintf(
		line, sizeof line, "%llu by n%u ", (unsigned long long)++s->writes, n);
	bool page = inode.size > 64 && random_below(3) == 0;
	uint64_t at = page ? random_below(inode.size - len) : 0;
	ssize_t w = file_write(file, line, len, at, !page);
	if (w != (ssize_t)len)
		sim_fail(s, "n%u: append: %zd", n, w);
	sim_unseen_forget(s, n, inode.ino);
	sim_trace(s, "n%u app change ino %llu \"%s\" at %lld", n, (unsigned long long)inode.ino,
		line, page ? (long long)at : -1);
	file_release(file);
}
