/*
 * The order within a directory when files wander.
 *
 * Every node has three directories of its own, of which one or two are there. In them it writes data
 * and then a mark, in place or by a temporary name, appends, removes, exchanges, and renames files to
 * and fro, and the directories themselves. One file, the token, is always there under some name.
 *
 * What every other server must see, whatever regions do:
 *   1. each of the directories as it was at some moment: never a later change without the earlier ones;
 *   2. the token, once it has been seen, under some name, and never in a state before the one seen.
 *
 * The draws are its own, so that the seed's other events stay what they are.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/entry.h"
#include "cache/tree.h"

enum { DIRS = 3, NAMES = 5, TOKEN = 3 /* the first of its names */, FAR_MS = 3500000 };

static const char *const names[NAMES] = {"data", "mark", "tmp", "w", "x"};

/* Numbers of contents; 0: no such file. */
struct view {
	bool dir[DIRS];
	uint64_t file[DIRS][NAMES];
};

struct written {
	uint8_t hash[SHA256_SIZE];
	uint64_t number;
};

struct sim_marker {
	uint64_t random;
	uint64_t number;
	struct view now[SIM_NODES_MAX];
	unsigned moments[SIM_NODES_MAX];
	struct view *moment[SIM_NODES_MAX];
	unsigned writes;
	struct written *written;
	uint64_t token[SIM_NODES_MAX][SIM_NODES_MAX]; /* that [node] has seen of [writer] */
	struct view seen[SIM_NODES_MAX][SIM_NODES_MAX];
	int64_t begun_ms;
	bool strayed[SIM_NODES_MAX];
};

static uint64_t checks;

static unsigned draw(struct sim *s, unsigned below)
{
	uint64_t x = s->marker->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	s->marker->random = x;
	return (unsigned)(x >> 32) % below;
}

void sim_marker_begin(struct sim *s)
{
	s->marker = calloc(1, sizeof *s->marker);
	CHECK(s->marker);
	s->marker->random = s->seed * 0x9e3779b97f4a7c15u | 1;
	s->marker->begun_ms = s->now_ms;
}

void sim_marker_done(struct sim *s)
{
	for (unsigned n = 0; n < SIM_NODES_MAX; n++)
		free(s->marker->moment[n]);
	free(s->marker->written);
	free(s->marker);
	s->marker = NULL;
}

uint64_t sim_marker_checks(void)
{
	return checks;
}

static void dir_key(char key[32], unsigned n, unsigned dir)
{
	snprintf(key, 32, "%c%u", 'p' + (int)dir, n);
}

static void file_key(char key[32], unsigned n, unsigned dir, unsigned name)
{
	snprintf(key, 32, "%c%u/%s", 'p' + (int)dir, n, names[name]);
}

/* The writer's directories are now something new. */
static void moment(struct sim *s, unsigned n)
{
	struct sim_marker *m = s->marker;

	m->moment[n] = realloc(m->moment[n], (m->moments[n] + 1) * sizeof *m->moment[n]);
	CHECK(m->moment[n]);
	m->moment[n][m->moments[n]++] = m->now[n];
}

static uint64_t dir_ino(struct sim *s, unsigned n, unsigned dir)
{
	struct inode inode;
	char key[32];

	dir_key(key, n, dir);
	if (tree_resolve(s->node[n].cache, slice_of(key), &inode) < 0)
		sim_fail(s, "n%u: its own directory %s is not there", n, key);
	return inode.ino;
}

static void make_dir(struct sim *s, unsigned n, unsigned dir)
{
	struct inode inode;
	char key[32];

	dir_key(key, n, dir);
	int r = tree_create(
		s->node[n].cache, ROOT_INO, slice_of(key), S_IFDIR | 0755, 0, 0, NULL, &inode);
	if (r < 0)
		sim_fail(s, "n%u: mkdir %s: %d", n, key, r);
	s->marker->now[n].dir[dir] = true;
}

/* append: to what is there. */
static void put(struct sim *s, unsigned n, unsigned dir, unsigned name, bool append)
{
	struct sim_marker *m = s->marker;
	struct cache *c = s->node[n].cache;
	uint64_t *number = &m->now[n].file[dir][name];
	char content[600];
	struct inode inode;
	struct file *file;
	size_t len = (size_t)snprintf(
		content, sizeof content, "n%u %s %" PRIu64 " ", n, names[name], m->number + 1);
	bool large = draw(s, 100) < 35 && !s->mortal;
	int r;

	while (large && len < 300)
		content[len++] = '.';
	if (*number) {
		r = tree_lookup(c, dir_ino(s, n, dir), slice_of(names[name]), &inode);
		if (r == 0)
			r = file_open(c, inode.ino, true, !append, &file);
	} else {
		r = tree_create_open(c, dir_ino(s, n, dir), slice_of(names[name]), S_IFREG | 0644,
			0, 0, true, &inode, &file);
	}
	if (r < 0)
		sim_fail(s, "n%u: open %c%u/%s: %d", n, 'p' + (int)dir, n, names[name], r);
	if (append && inode.size > 200)
		append = false;
	if (file_write(file, content, len, 0, append) != (ssize_t)len || file_flush(file) < 0)
		sim_fail(s, "n%u: write %c%u/%s", n, 'p' + (int)dir, n, names[name]);
	ssize_t size = file_read(file, content, sizeof content, 0);
	CHECK(size >= (ssize_t)len);
	file_release(file);
	m->written = realloc(m->written, (m->writes + 1) * sizeof *m->written);
	CHECK(m->written);
	sha256(content, (size_t)size, m->written[m->writes].hash);
	m->written[m->writes++].number = *number = ++m->number;
	sim_trace(s, "n%u marker %s %c%u/%s %" PRIu64 " %zd", n, append ? "append" : "write",
		'p' + (int)dir, n, names[name], *number, size);
	moment(s, n);
}

static void move(struct sim *s, unsigned n, unsigned dir, unsigned name, unsigned to_dir,
	unsigned to_name, unsigned flags)
{
	struct view *v = &s->marker->now[n];
	uint64_t number = v->file[dir][name];

	if (!number || !v->dir[to_dir] || (dir == to_dir && name == to_name) ||
		(flags && !v->file[to_dir][to_name]))
		return;
	int r = tree_rename(s->node[n].cache, dir_ino(s, n, dir), slice_of(names[name]),
		dir_ino(s, n, to_dir), slice_of(names[to_name]), flags);
	sim_trace(s, "n%u marker %s %c%u/%s %c%u/%s: %d", n, flags ? "exchange" : "rename",
		'p' + (int)dir, n, names[name], 'p' + (int)to_dir, n, names[to_name], r);
	if (r < 0)
		sim_fail(s, "n%u: rename: %d", n, r);
	v->file[dir][name] = flags ? v->file[to_dir][to_name] : 0;
	v->file[to_dir][to_name] = number;
	moment(s, n);
}

/* The directory gets the name of one that is not there, or they are exchanged, where all content is here. */
static void move_dir(struct sim *s, unsigned n, unsigned dir, unsigned to)
{
	struct view *v = &s->marker->now[n], old = *v;
	char from_key[32], to_key[32];

	if (!v->dir[dir] || dir == to)
		return;
	dir_key(from_key, n, dir);
	dir_key(to_key, n, to);
	int r = tree_rename(s->node[n].cache, ROOT_INO, slice_of(from_key), ROOT_INO,
		slice_of(to_key), v->dir[to] ? RENAME_EXCHANGE : 0);
	sim_trace(s, "n%u marker directory %s %s: %d", n, from_key, to_key, r);
	if (r == -EINVAL && v->dir[to])
		return;
	if (r < 0)
		sim_fail(s, "n%u: rename %s %s: %d", n, from_key, to_key, r);
	v->dir[dir] = old.dir[to];
	v->dir[to] = true;
	memcpy(v->file[dir], old.file[to], sizeof v->file[dir]);
	memcpy(v->file[to], old.file[dir], sizeof v->file[to]);
	moment(s, n);
}

static void drop(struct sim *s, unsigned n, unsigned dir, unsigned name)
{
	struct view *v = &s->marker->now[n];

	if (!v->file[dir][name])
		return;
	int r = tree_unlink(s->node[n].cache, dir_ino(s, n, dir), slice_of(names[name]));
	sim_trace(s, "n%u marker remove %c%u/%s: %d", n, 'p' + (int)dir, n, names[name], r);
	if (r < 0)
		sim_fail(s, "n%u: remove %s: %d", n, names[name], r);
	v->file[dir][name] = 0;
	moment(s, n);
}

static void announce(struct sim *s, unsigned n, unsigned dir)
{
	unsigned from = draw(s, DIRS);

	if (!s->marker->now[n].dir[from])
		from = dir;
	switch (draw(s, 3)) {
	case 0:
		put(s, n, dir, 0, false);
		break;
	case 1:
		put(s, n, dir, 0, true);
		break;
	default:
		put(s, n, from, 2, false);
		move(s, n, from, 2, dir, 0, 0);
	}
	put(s, n, dir, 1, false);
}

/* The token gets another name. */
static void wander(struct sim *s, unsigned n, unsigned to)
{
	struct view *v = &s->marker->now[n];

	for (unsigned dir = 0; dir < DIRS; dir++)
		for (unsigned name = TOKEN; name < NAMES; name++)
			if (v->file[dir][name]) {
				if (draw(s, 3) == 0)
					put(s, n, dir, name, draw(s, 2));
				move(s, n, dir, name, to, TOKEN + draw(s, 2), 0);
				return;
			}
}

void sim_marker_event(struct sim *s, unsigned n)
{
	struct view *v = &s->marker->now[n];
	unsigned dir = draw(s, DIRS), name = draw(s, TOKEN);

	/* A scan takes the objects of a writer that is cut off from this server for those of one that
	 * is gone, and the missing ones for removed, after a time that the simulation reaches. */
	if (s->foreign)
		return;
	if (!v->dir[0] && !v->dir[1] && !v->dir[2]) {
		make_dir(s, n, 0);
		make_dir(s, n, 1);
		moment(s, n);
		put(s, n, 0, TOKEN, false);
	}
	while (!v->dir[dir])
		dir = (dir + 1) % DIRS;
	switch (draw(s, 14)) {
	case 0:
	case 1:
	case 2:
		announce(s, n, dir);
		break;
	case 3:
	case 4:
	case 5:
		wander(s, n, dir);
		break;
	case 6:
	case 7:
	case 8:
		move(s, n, dir, name, draw(s, DIRS), draw(s, TOKEN), 0);
		break;
	case 9:
		move(s, n, dir, name, draw(s, DIRS), draw(s, TOKEN), RENAME_EXCHANGE);
		break;
	case 10:
		drop(s, n, dir, name);
		break;
	case 11:
	case 12:
		move_dir(s, n, dir, draw(s, DIRS));
		break;
	default:
		put(s, n, dir, name, draw(s, 2));
	}
}

/* ---- what others see ---- */

static uint64_t seen(struct sim *s, struct conn *conn, const char *key)
{
	const struct sim_marker *m = s->marker;
	struct entry e = {0};
	uint64_t number = 0;

	if (entry_get(conn, slice_of(key), &e) < 0)
		return 0;
	for (unsigned i = 0; i < m->writes && e.kind == KIND_FILE; i++)
		if (memcmp(e.hash, m->written[i].hash, SHA256_SIZE) == 0)
			number = m->written[i].number;
	if (entry_live(&e) && number == 0)
		sim_fail(s, "%s has content that nobody wrote", key);
	entry_done(&e);
	return number;
}

/* What the directory was at that moment: but for names that came and went without being seen, of which
 * sealing leaves no trace. */
static bool is_moment(const struct sim_marker *m, unsigned writer, unsigned at, unsigned dir,
	const uint64_t file[NAMES], const uint64_t before[NAMES])
{
	const struct view *moment = m->moment[writer];

	for (unsigned name = 0; name < NAMES; name++) {
		bool passing = false;

		if (moment[at].file[dir][name] == file[name])
			continue;
		for (unsigned i = at + 1; i < m->moments[writer]; i++)
			passing |= moment[i].file[dir][name] == 0;
		if (!passing || file[name] || before[name])
			return false;
	}
	return true;
}

static void check_dir(struct sim *s, unsigned n, unsigned writer, unsigned dir,
	const uint64_t file[NAMES], const uint64_t before[NAMES])
{
	const struct sim_marker *m = s->marker;
	char text[200];
	int len = 0;

	for (unsigned i = m->moments[writer]; i-- > 0;)
		if (is_moment(m, writer, i, dir, file, before))
			return;
	for (unsigned i = 0; i < NAMES; i++)
		len += snprintf(
			text + len, sizeof text - (size_t)len, " %s %" PRIu64, names[i], file[i]);
	sim_fail(s, "n%u sees %c%u as it never was:%s", n, 'p' + (int)dir, writer, text);
}

static void check_writer(struct sim *s, struct conn *conn, unsigned n, unsigned writer)
{
	uint64_t *before = &s->marker->token[n][writer], token = 0;
	struct view *last = &s->marker->seen[n][writer];
	struct view v = {0};
	char key[32];

	for (unsigned dir = 0; dir < DIRS; dir++) {
		for (unsigned name = 0; name < NAMES; name++) {
			file_key(key, writer, dir, name);
			v.file[dir][name] = seen(s, conn, key);
			if (name >= TOKEN && v.file[dir][name] > token)
				token = v.file[dir][name];
			checks += v.file[dir][name] > 0;
		}
		if (s->marker->moments[writer])
			check_dir(s, n, writer, dir, v.file[dir], last->file[dir]);
	}
	if (token < *before)
		sim_fail(s, "n%u sees the token of n%u in state %" PRIu64 ", after %" PRIu64, n,
			writer, token, *before);
	*before = token;
	*last = v;
}

/* A server that turns to another region than its own takes what a writer put there an hour before for
 * known. The home region may lack it for longer. */
static bool has_strayed(struct sim *s, unsigned n)
{
	struct replicator_status status;
	char home[8];

	snprintf(home, sizeof home, "r%u", s->node[n].home);
	CHECK(replicator_status(s->node[n].replicator, &status) == 0);
	if (s->now_ms - s->marker->begun_ms > FAR_MS && strcmp(status.pull_region, home) != 0)
		s->marker->strayed[n] = true;
	return s->marker->strayed[n];
}

bool sim_marker_ordered(struct sim *s, unsigned n)
{
	/* As in sim_order.c; and what an optional region has got after a resync has no order. */
	return !s->foreign && !s->completed && !s->optional && !has_strayed(s, n);
}

void sim_marker_check(struct sim *s, unsigned n)
{
	struct conn *conn;

	if (!sim_marker_ordered(s, n))
		return;
	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	for (unsigned writer = 0; writer < s->nodes; writer++)
		if (writer != n)
			check_writer(s, conn, n, writer);
	cache_read_end(conn);
}
