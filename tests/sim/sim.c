/*
 * sim [--seeds N] [--first S] [--seed S] [--verbose]: runs seeded clusters; see sim.h.
 *
 * A failure prints its seed; `sim --seed S --verbose` repeats it with a trace.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/entry.h"
#include "cache/evict.h"
#include "cache/outbox.h"
#include "cache/tree.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/metrics.h"
#include "src/base/random.h"
#include "tests/sim/store_mem.h"
#include "replicator/store/layers.h"

#define INLINE_MAX 64

/* Most of what is not inlined goes in parts. */
static const struct store_limits small_limits = {
	.put_max = 100, .object_max = 4096, .part_min = 8, .part_max = 40, .parts_max = 100};
#define EPOCH_MS 1700000000000

static char work_dir[64];
static uint64_t pairs; /* of names that had to be one inode */

void sim_trace(struct sim *s, const char *fmt, ...)
{
	if (!s->verbose)
		return;
	va_list ap;
	va_start(ap, fmt);
	printf("%9.3f ", (double)(s->now_ms - EPOCH_MS) / 1000);
	vprintf(fmt, ap);
	putchar('\n');
	fflush(stdout);
	va_end(ap);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static void remove_work_dir(void)
{
	nftw(work_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void sim_fail(struct sim *s, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fflush(stdout);
	fprintf(stderr, "seed %" PRIu64 ": ", s->seed);
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\nrepeat with: --seed %" PRIu64 " --verbose\n", s->seed);
	va_end(ap);
	if (!getenv("SIM_KEEP"))
		remove_work_dir();
	exit(1);
}

static int64_t sim_realtime_ns(void *ctx)
{
	struct sim *s = ctx;
	sim_unseen_tick(s);
	return (s->now_ms + s->node[s->current].skew_ms) * 1000000;
}

static int64_t sim_monotonic_ms(void *ctx)
{
	struct sim *s = ctx;
	sim_unseen_tick(s);
	return s->now_ms;
}

static void sim_sleep_ms(void *ctx, int64_t ms)
{
	((struct sim *)ctx)->now_ms += ms;
}

static bool chance(unsigned percent)
{
	return random_below(100) < percent;
}

void sim_node_open(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];
	struct cache_options co = {
		.state_dir = node->dir, .sync_off = true, .no_lock = true, .map_min = INLINE_MAX,
		.partial_block = 32, .parts_min = SIM_PARTS_MIN};
	struct replicator_options ro = {.volume = "sim",
		.regions = s->regions,
		.home = node->home,
		.push_copy = s->push_copy,
		.inline_max = INLINE_MAX,
		.refresh = (enum refresh_mode)random_below(3)};
	struct err err = {0};
	static const char *const names[] = {"r0", "r1", "r2"};

	sim_checkpoint_options(s, &ro);
	s->current = n;
	node->skew_ms = node->own_skew_ms;
	if (cache_open(&co, &node->cache, &err) < 0)
		sim_fail(s, "n%u: cache_open: %s", n, err.text);
	for (unsigned r = 0; r < s->regions; r++) {
		ro.region[r].store.name = names[r];
		ro.region[r].store.url = "mem://";
		ro.region[r].opened = store_retry_new(sim_link_new(s, n, r), 3, 60000);
	}
	sim_optional_options(s, &ro);
	if (replicator_new(node->cache, &ro, &node->replicator, &err) < 0)
		sim_fail(s, "n%u: replicator_new: %s", n, err.text);
}

static void release_files(struct sim_node *node)
{
	for (unsigned i = 0; i < SIM_OPEN_MAX; i++) {
		if (node->open[i])
			file_release(node->open[i]);
		node->open[i] = NULL;
	}
}

/* kill -9 and restart. */
static void crash(struct sim *s, unsigned n)
{
	struct sim_node *node = &s->node[n];

	sim_trace(s, "n%u crashes", n);
	s->current = n;
	replicator_free(node->replicator);
	node->replicator = NULL;
	cache_abandon(node->cache);
	for (unsigned i = 0; i < SIM_OPEN_MAX; i++)
		free(node->open[i]); /* the handle alone: what it stood for went with the process */
	memset(node->open, 0, sizeof node->open);
	sim_node_open(s, n);
}

/* ---- what an application does ---- */

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
	bool large = s->large ? chance(60) : chance(15);
	large = large && !s->mortal;
	size_t total = large ? INLINE_MAX + 1 + (size_t)random_below(200) : len;

	for (; len < total && len < size; len++)
		p[len] = (char)('a' + len % 26);
	return len;
}

int sim_fetch(struct sim *s, unsigned n, uint64_t ino)
{
	struct sim_node *node = &s->node[n];
	int r;

	node->running = true;
	s->current = n;
	sim_lazy_on(s, n, chance(50));
	r = replicator_step_fetch(node->replicator, ino);
	sim_lazy_on(s, n, false);
	node->running = false;
	s->current = n;
	sim_trace(s, "n%u fetch ino %" PRIu64 ": %d", n, ino, r);
	return r;
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
	bool truncate = !t->exists || chance(70) || s->mortal;
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
	bool sync = chance(30);
	if (sync && (r = file_fsync(file, true)) < 0)
		sim_fail(s, "n%u: fsync %s: %d", n, t->path, r);
	if (sync)
		sim_durability_sync(s, n, t->path, t->inode.ino);
	sim_unseen_forget(s, n, t->inode.ino);
	unsigned slot = (unsigned)random_below(SIM_OPEN_MAX);
	bool keep = chance(25);
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
	unsigned mask = chance(50) ? SET_MODE : chance(50) ? SET_UID : SET_MTIME;
	int r;

	if (!t->exists)
		return;
	if (chance(20))
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

static void app_op(struct sim *s, unsigned n)
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
	if (chance(s->link_percent)) {
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

/* ---- replication steps ---- */

/* What went must be what the map has, and no region may be waiting for it: delivering it would find
 * it lost, which after healing looks like any other conflict. */
static void check_evicted(struct sim *s, unsigned n, const char *path, uint64_t ino)
{
	struct key *key = malloc(sizeof(*key));
	struct outbox_row *row = malloc(sizeof(*row));
	uint8_t hash[SHA256_SIZE];
	struct entry e = {0};
	struct conn *conn;
	uint64_t size;

	CHECK(key && row);
	CHECK(content_wanted(s->node[n].cache, ino, key, hash, &size) == 0);
	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	if (entry_get(conn, slice_of(path), &e) < 0 || memcmp(e.hash, hash, SHA256_SIZE) != 0)
		sim_fail(s, "n%u: evicted %s before it was sealed", n, path);
	for (unsigned r = 0; r < s->regions; r++) {
		if (!sim_is_optional(s, r) && outbox_get(conn, r, slice_of(path), row) != -ENOENT)
			sim_fail(s, "n%u: evicted %s, which r%u waits for", n, path, r);
	}
	cache_read_end(conn);
	entry_done(&e);
	free(row);
	free(key);
}

/* Its content is elsewhere: what is here of it in part, nobody counts on. */
static bool is_remote(struct sim *s, unsigned n, uint64_t ino)
{
	struct key *key = malloc(sizeof *key);
	uint8_t hash[SHA256_SIZE];
	uint64_t size;
	bool remote;

	CHECK(key);
	remote = content_wanted(s->node[n].cache, ino, key, hash, &size) == 0;
	free(key);
	return remote;
}

/* Whatever may go of some paths' content. */
static int evict_some(struct sim *s, unsigned n, bool *did)
{
	struct sim_node *node = &s->node[n];
	struct evict_batch b = {.proof = replicator_has_object, .ctx = node->replicator};
	unsigned first = (unsigned)random_below(SIM_PATHS);
	int r = 0;

	for (unsigned i = 0; r == 0 && i < SIM_PATHS / 2 && !s->mortal; i++) {
		const char *path = sim_paths[(first + i) % SIM_PATHS];
		enum evict_result result = EVICT_ABSENT;
		struct inode inode;
		bool partial = false;

		if (tree_resolve(node->cache, slice_of(path), &inode) == 0) {
			partial = is_remote(s, n, inode.ino);
			r = evict_content(node->cache, &b, inode.ino, &result);
		}
		if (result != EVICT_DONE)
			continue;
		sim_trace(s, "n%u evicts %s ino %" PRIu64, n, path, inode.ino);
		if (!partial)
			check_evicted(s, n, path, inode.ino);
	}
	*did = b.files > 0;
	if (r == 0)
		r = evict_finish(node->cache, &b);
	return r;
}

static bool step(struct sim *s, unsigned n, unsigned which)
{
	struct sim_node *node = &s->node[n];
	unsigned region = (unsigned)random_below(s->regions);
	bool did = false;
	int r;

	if (node->running)
		return false;
	node->running = true;
	s->current = n;
	sim_replaced_settle(s, n);
	switch (which) {
	case 0:
		r = replicator_step_seal(node->replicator, &did);
		break;
	case 1:
		r = replicator_step_announce(node->replicator, region, &did);
		break;
	case 2:
		r = replicator_step_objects(
			node->replicator, region, 1 + (unsigned)random_below(8), &did);
		break;
	case 3:
		r = replicator_step_pull(node->replicator, &did);
		break;
	case 4:
		r = evict_some(s, n, &did);
		break;
	case 5:
		did = sim_durability_step(s, n);
		r = 0;
		break;
	case 6:
		did = sim_optional_step(s, n);
		r = 0;
		break;
	default:
		r = sim_checkpoint_step(s, n, &did);
	}
	if (which == 3 && r == 0) {
		sim_order_check(s, n);
		sim_marker_check(s, n);
	}
	node->running = false;
	static const char *const names[] = {"seal", "announce", "objects", "pull", "evict", "durable",
		"upkeep", "checkpoint"};
	if (did)
		sim_trace(s, "n%u %s r%u", n, names[which], region);
	if (r < 0)
		sim_fail(s, "n%u: step %s: %d", n, names[which], r);
	return did;
}

void sim_random_step(struct sim *s)
{
	/* One draw a statement: the seed means the same with every compiler. */
	unsigned which = (unsigned)random_below(s->checkpoints ? 8 : 7);
	unsigned n = (unsigned)random_below(s->nodes);

	step(s, n, which);
}

static void random_event(struct sim *s, unsigned n)
{
	unsigned r = (unsigned)random_below(s->regions);

	if (s->node[n].dead)
		return;
	sim_clock_event(s, n);
	switch (random_below(30)) {
	case 0:
		s->region[r].down = !s->region[r].down && chance(40);
		sim_trace(s, "r%u %s", r, s->region[r].down ? "down" : "up");
		break;
	case 1:
		s->node[n].cut[r] = !s->node[n].cut[r] && chance(40);
		sim_trace(s, "n%u %s r%u", n, s->node[n].cut[r] ? "cut off from" : "linked to", r);
		break;
	case 2:
		if (chance(30))
			crash(s, n);
		break;
	case 3:
	case 4:
		s->now_ms += (int64_t)random_below(chance(10) ? 60000 : 3000);
		break;
	case 5:
	case 6:
	case 7:
	case 8:
	case 9:
		s->current = n;
		sim_replaced_before(s, n);
		sim_unseen_before(s, n);
		app_op(s, n);
		sim_unseen_after(s, n);
		sim_replaced_after(s, n);
		break;
	case 10:
		s->current = n;
		s->now_ms += 1 + (int64_t)random_below(20);
		sim_order_write(s, n);
		sim_marker_event(s, n);
		sim_marker_event(s, n);
		break;
	case 11:
	case 12:
		sim_flow_event(s, n, r);
		break;
	case 13:
		s->current = n;
		sim_delta_read(s, n);
		break;
	case 14:
		s->current = n;
		s->now_ms += 1 + (int64_t)random_below(20);
		sim_replaced_before(s, n);
		if (!s->mortal)
			sim_delta_append(s, n);
		sim_replaced_after(s, n);
		break;
	case 15:
	case 16:
		sim_lazy_event(s, n);
		break;
	default:
		if (!s->foreign || !chance(25))
			sim_random_step(s);
		else if (chance(40))
			sim_foreign_event(s);
		else
			sim_foreign_scan(s, n, r);
	}
	s->now_ms += (int64_t)random_below(5);
	sim_net_deliver_late(s, false);
}

void sim_event_without(struct sim *s, unsigned n)
{
	unsigned other = (unsigned)random_below(s->nodes);

	if (other != n)
		random_event(s, other);
}

/* One node changes files again and again that another one has open and writes to unseen, while it
 * merges them. */
static void crowd(struct sim *s)
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
		for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
			unsigned n = round % 2 ? to : from;
			struct target t = look_up(&s->node[n], paths[i]);

			s->current = n;
			sim_replaced_before(s, n);
			sim_unseen_before(s, n);
			if (round % 2 && t.exists && S_ISREG(t.inode.mode))
				open_something(s, n, &t);
			else if (round % 2 == 0 && i + 1 < ARRAY_SIZE(paths) && t.exists && chance(15))
				link_something(s, n, &t);
			else if (round % 2 == 0 && t.parent)
				write_file(s, n, &t);
			sim_unseen_after(s, n);
			sim_replaced_after(s, n);
		}
		for (unsigned i = 0; round % 2 == 0 && i < 8; i++)
			step(s, from, i % 3);
		step(s, to, 3);
		step(s, to, 3);
		step(s, to, round % 2 ? 3 : 0);
	}
}

static void heal(struct sim *s)
{
	s->healed = true;
	sim_trace(s, "healed");
	for (unsigned r = 0; r < s->regions; r++)
		s->region[r].down = false;
	sim_flow_heal(s);
	for (unsigned n = 0; n < s->nodes; n++) {
		s->current = n;
		memset(s->node[n].cut, 0, sizeof s->node[n].cut);
		if (!s->node[n].dead)
			release_files(&s->node[n]);
	}
	sim_net_deliver_late(s, true);
	unsigned quiet = 0;
	for (unsigned round = 0; quiet < 16; round++) {
		bool did = false;
		if (round == 600)
			sim_fail(s, "does not come to rest");
		/* beyond every backoff and clock skew in the end */
		s->now_ms += round < 40 ? 5000 : 20000;
		for (unsigned n = 0; n < s->nodes; n++) {
			struct sim_node *node = &s->node[n];
			if (node->dead)
				continue;
			s->current = n;
			sim_replaced_settle(s, n);
			bool d = false;
			int r = replicator_step_seal(node->replicator, &d);
			did |= d;
			for (unsigned g = 0; g < s->regions && r == 0; g++) {
				r = replicator_step_announce(node->replicator, g, &d);
				did |= d;
				if (r == 0)
					r = replicator_step_objects(node->replicator, g, 100, &d);
				did |= d;
			}
			if (r == 0 && chance(20))
				r = evict_some(s, n, &d);
			replicator_step_watch(node->replicator);
			if (r == 0)
				r = replicator_step_pull(node->replicator, &d);
			if (r == 0) {
				sim_order_check(s, n);
				sim_marker_check(s, n);
			}
			did |= d;
			did |= sim_durability_step(s, n);
			did |= sim_optional_step(s, n);
			if (r == 0 && round < 60 && chance(20))
				r = sim_checkpoint_step(s, n, &d);
			if (r < 0)
				sim_fail(s, "n%u: step after healing: %d", n, r);
			for (unsigned g = 0; s->foreign && round % 8 == 7 && g < s->regions; g++)
				did |= sim_foreign_scan(s, n, g);
		}
		quiet = did ? 0 : quiet + 1;
		if (quiet == 16 && sim_checkpoint_last_words(s))
			quiet = 0;
	}
}

static int count_upload(void *ctx, const char *key, const char *id, int64_t begun_ms)
{
	*(uint64_t *)ctx +=
		strncmp(key, ".meridian/", 10) != 0; /* those of a probe that was cut off */
	return 0;
}

/* Nothing is left but uploads whose beginning was repeated because its answer was lost. */
static void check_uploads(struct sim *s)
{
	struct store_error error = {0};
	uint64_t left = 0;

	for (unsigned r = 0; r < s->regions; r++)
		if (store_mem_uploads(s->region[r].mem) &&
			store_uploads(s->region[r].mem, "", count_upload, &left, NULL, &error) !=
				STORE_OK)
			sim_fail(s, "uploads of r%u cannot be listed", r);
	if (left > s->lost_begins)
		sim_fail(s, "%" PRIu64 " uploads are left, %" PRIu64 " answers were lost", left,
			s->lost_begins);
}

static uint64_t run_seed(uint64_t seed, bool verbose)
{
	struct sim sim = {.seed = seed, .verbose = verbose, .now_ms = EPOCH_MS};
	struct sim *s = &sim;
	struct clock_source source = {sim_realtime_ns, sim_monotonic_ms, sim_sleep_ms, s};

	random_seed_deterministic(seed);
	clock_set_source(&source);
	sim_unseen_begin(s);
	sim_marker_begin(s);
	s->nodes = 2 + (unsigned)random_below(SIM_NODES_MAX - 1);
	s->regions = 1 + (unsigned)random_below(SIM_REGIONS_MAX);
	s->optional = s->regions > 1 && chance(30) && seed % 4; /* the others are scanned */
	s->capabilities =
		chance(30) ? STORE_CAP_PUT_IF_ABSENT | STORE_CAP_PUT_IF_MATCH | STORE_CAP_COPY
			   : STORE_MEM_ALL;
	s->large = chance(30);
	s->link_percent = chance(50) ? 0 : (unsigned)random_below(40);
	s->rename_dirs = chance(60);
	s->foreign = seed % 4 == 0;
	s->fault_percent = chance(30) ? 0 : (unsigned)random_below(20);
	s->interleave_percent = chance(30) ? 0 : (unsigned)random_below(40);
	s->push_copy = chance(40);
	s->dated = seed % 3 == 0 && !s->foreign; /* sim_clock.c says why */
	bool skewed = chance(50);
	for (unsigned r = 0; r < s->regions; r++) {
		s->region[r].mem = store_mem_new(s->capabilities);
		s->region[r].removed = store_mem_new(STORE_MEM_ALL);
		sim_clock_answer(s, s->region[r].mem);
	}
	s->checkpoints = chance(40);
	/* Where servers die everybody keeps what came with the segments, and all content does: nothing
	 * is completed whose bytes only the dead had, or that lay in the bucket unannounced. */
	s->mortal = s->checkpoints && chance(40);
	s->large = s->large && !s->mortal;
	for (unsigned r = 0; r < s->regions && seed % 2; r++)
		store_mem_set_limits(s->region[r].mem, &small_limits);
	for (unsigned n = 0; n < s->nodes; n++) {
		struct sim_node *node = &s->node[n];
		snprintf(node->dir, sizeof node->dir, "%s/%" PRIu64 "-n%u", work_dir, seed, n);
		node->home = (unsigned)random_below(s->regions - s->optional);
		node->skew_ms = node->own_skew_ms =
			skewed ? (int64_t)random_below(240000) - 120000 : 0;
		sim_node_open(s, n);
	}
	unsigned events = 150 + (unsigned)random_below(350);
	for (unsigned i = 0; i < events; i++)
		if (s->checkpoints && chance(2))
			sim_checkpoint_event(s);
		else
			random_event(s, (unsigned)random_below(s->nodes));
	if (s->unseen)
		crowd(s);
	heal(s);
	sim_check(s);
	if (!s->deaths)
		check_uploads(s); /* else a week must go by */
	sim_durability_done(s);
	for (unsigned n = 0; n < s->nodes; n++) {
		s->current = n;
		release_files(&s->node[n]);
		replicator_free(s->node[n].replicator);
		cache_close(s->node[n].cache);
		nftw(s->node[n].dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	}
	for (unsigned r = 0; r < s->regions; r++) {
		store_close(s->region[r].mem);
		store_close(s->region[r].removed);
	}
	sim_net_done(s);
	sim_order_done();
	sim_marker_done(s);
	sim_replaced_done(s);
	sim_unseen_done(s);
	clock_set_source(NULL);
	pairs += s->shared;
	return s->requests;
}

int main(int argc, char **argv)
{
	uint64_t first = 1, seeds = 1000, requests = 0;
	bool verbose = false;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
			seeds = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 10);
			seeds = 1;
		} else if (strcmp(argv[i], "--verbose") == 0) {
			verbose = true;
		} else {
			fprintf(stderr,
				"usage: sim [--seeds N] [--first S] [--seed S] [--verbose]\n");
			return 2;
		}
	}
	log_set_level(verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	snprintf(work_dir, sizeof work_dir, "%s/meridian-sim.XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(work_dir)) {
		perror("sim: mkdtemp");
		return 1;
	}
	for (uint64_t i = 0; i < seeds; i++)
		requests += run_seed(first + i, verbose);
	remove_work_dir();
	if (requests == 0 || (seeds >= 100 && (sim_order_checks() == 0 || sim_marker_checks() == 0 || pairs == 0 ||
						      sim_unseen_checks() == 0 || sim_covered_checks() == 0))) {
		fprintf(stderr, "sim: no request was made: nothing was simulated\n");
		return 1;
	}
	if (seeds >= 100 && sim_durability_kept() == 0) {
		fprintf(stderr, "sim: no fsync waited for regions\n");
		return 1;
	}
	if (seeds >= 100 && !sim_net_uploads_broke()) {
		fprintf(stderr, "sim: no upload in parts was broken and came to its end\n");
		return 1;
	}
	if (seeds >= 100 && !sim_flow_happened()) {
		fprintf(stderr, "sim: no region was left for another, or nothing copied in a bucket or between two\n");
		return 1;
	}
	if (seeds >= 100 && !sim_lazy_happened()) {
		fprintf(stderr, "sim: no file was read by ranges to its end\n");
		return 1;
	}
	if (seeds >= 500 && !sim_lazy_refused()) {
		fprintf(stderr, "sim: no wrong bytes came\n");
		return 1;
	}
	if (seeds >= 100 && !sim_optional_happened()) {
		fprintf(stderr, "sim: no optional region was given up and came back\n");
		return 1;
	}
	if (seeds >= 100 && sim_foreign_found() == 0) {
		fprintf(stderr, "sim: no scan found anything\n");
		return 1;
	}
	if (seeds >= 100 && metric_get(METRIC_CONTENT_EVICTED) == 0) {
		fprintf(stderr, "sim: nothing was evicted\n");
		return 1;
	}
	if (seeds >= 100 && (metric_get(METRIC_CHECKPOINTS_WRITTEN) == 0 ||
				    metric_get(METRIC_CHECKPOINTS_LOADED) == 0 ||
				    metric_get(METRIC_SEGMENTS_REMOVED) == 0)) {
		fprintf(stderr, "sim: no checkpoint was written, none loaded, or no segment removed\n");
		return 1;
	}
	if (seeds >= 100 && metric_get(METRIC_BYTES_COPIED) == 0) {
		fprintf(stderr, "sim: no part of a changed object was copied\n");
		return 1;
	}
	if (seeds >= 100 && metric_get(METRIC_DELTAS_APPLIED) == 0) {
		fprintf(stderr, "sim: no delta was applied\n");
		return 1;
	}
	printf("%" PRIu64 " seeds from %" PRIu64 ", %" PRIu64 " requests, %" PRIu64
	       " pairs of names, %" PRIu64 " evictions, %" PRIu64 " checkpoints written, %" PRIu64
	       " loaded, %" PRIu64 " segments removed, %" PRIu64 " promises: all converge\n",
		seeds, first, requests, pairs, metric_get(METRIC_CONTENT_EVICTED),
		metric_get(METRIC_CHECKPOINTS_WRITTEN), metric_get(METRIC_CHECKPOINTS_LOADED),
		metric_get(METRIC_SEGMENTS_REMOVED), sim_durability_kept());
	return 0;
}
