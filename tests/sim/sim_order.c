/*
 * The order within a directory: what announces never precedes what it announces.
 *
 * Every node has a pair of files in one directory of its own: it writes data, closes it, writes
 * mark, closes it, both with the same number, again and again. Whoever sees mark N must see data of
 * at least N. The number of a content is known by its hash, so that a file which is known by its
 * record only counts as seen, too.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/entry.h"
#include "cache/tree.h"
#include "src/base/random.h"

#define DIR_KEY "order"

static struct {
	struct order_content *list;
	uint64_t next[SIM_NODES_MAX];
	uint64_t checks;
} order;

struct order_content {
	struct order_content *next;
	uint8_t hash[SHA256_SIZE];
	uint64_t number;
};

void sim_order_done(void)
{
	while (order.list) {
		struct order_content *c = order.list;
		order.list = c->next;
		free(c);
	}
	memset(order.next, 0, sizeof order.next);
}

static void put(struct sim *s, unsigned n, const char *name, uint64_t number, bool large)
{
	struct cache *c = s->node[n].cache;
	struct inode dir, inode;
	struct file *file;
	char content[400];
	size_t len = (size_t)snprintf(
		content, sizeof content, "%s of n%u number %" PRIu64 " ", name, n, number);

	while (large && len < 300)
		content[len++] = '.';
	if (tree_resolve(c, slice_of(DIR_KEY), &dir) == -ENOENT &&
		tree_create(c, ROOT_INO, slice_of(DIR_KEY), S_IFDIR | 0755, 0, 0, NULL, &dir) < 0)
		sim_fail(s, "n%u: mkdir " DIR_KEY, n);
	int r = tree_create_open(
		c, dir.ino, slice_of(name), S_IFREG | 0644, 0, 0, true, &inode, &file);
	if (r == -EEXIST && tree_lookup(c, dir.ino, slice_of(name), &inode) == 0)
		r = file_open(c, inode.ino, true, true, &file);
	if (r < 0 || file_write(file, content, len, 0, false) != (ssize_t)len ||
		file_flush(file) < 0)
		sim_fail(s, "n%u: write " DIR_KEY "/%s: %d", n, name, r);
	file_release(file);
	struct order_content *o = calloc(1, sizeof *o);
	CHECK(o);
	sha256(content, len, o->hash);
	o->number = number;
	o->next = order.list;
	order.list = o;
}

void sim_order_write(struct sim *s, unsigned n)
{
	char name[32];
	uint64_t number = ++order.next[n];

	snprintf(name, sizeof name, "data%u", n);
	put(s, n, name, number, random_below(100) < 40 && !s->mortal);
	snprintf(name, sizeof name, "mark%u", n);
	put(s, n, name, number, random_below(100) < 10 && !s->mortal);
	sim_trace(s, "n%u app order %" PRIu64, n, number);
}

/* The number that conn's node sees under name: 0 when there is none. */
static uint64_t seen(struct sim *s, struct conn *conn, const char *name)
{
	char key[64];
	struct entry e = {0};
	uint64_t number = 0;

	snprintf(key, sizeof key, DIR_KEY "/%s", name);
	if (entry_get(conn, slice_of(key), &e) < 0)
		return 0;
	for (struct order_content *o = order.list; o && entry_live(&e); o = o->next)
		if (memcmp(o->hash, e.hash, SHA256_SIZE) == 0)
			number = o->number;
	if (entry_live(&e) && number == 0)
		sim_fail(s, "%s has content that nobody wrote", key);
	entry_done(&e);
	return number;
}

void sim_order_check(struct sim *s, unsigned n)
{
	struct conn *conn;
	char data[32], mark[32];

	/* A scan takes the objects of a writer that is cut off from this server for those of one that
	 * is gone, after a time that the simulation reaches. */
	if (s->foreign)
		return;

	/* The order is one writer's; what another one announces for it has none. */
	if (s->completed)
		return;
	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	for (unsigned writer = 0; writer < s->nodes; writer++) {
		if (writer == n)
			continue;
		snprintf(data, sizeof data, "data%u", writer);
		snprintf(mark, sizeof mark, "mark%u", writer);
		uint64_t d = seen(s, conn, data), m = seen(s, conn, mark);
		if (m > d)
			sim_fail(s, "n%u sees mark %" PRIu64 " of n%u, but data %" PRIu64, n, m,
				writer, d);
		order.checks += m > 0;
	}
	cache_read_end(conn);
}

uint64_t sim_order_checks(void)
{
	return order.checks;
}
