/*
 * The order within directories that are renamed.
 *
 * Every node has a directory of its own, with one below it, under one of three names. In both it writes
 * data and then a mark of the same number, in place or by a temporary name elsewhere, and renames the
 * directory, again and again.
 *
 * What every other server must see, under each of the names, whatever regions do:
 *   1. no mark whose data is not there, in its state at least;
 *   2. each of the files, once it has been seen, under some name, and never in a state before the one seen.
 *
 * The draws are its own, so that the seed's other events stay what they are.
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cache/entry.h"
#include "cache/tree.h"

enum { NAMES = 3, PLACES = 2, FILES = 2, DATA = 0, MARK = 1 };

static const char *const places[PLACES] = {"", "/sub"};
static const char *const files[FILES] = {"data", "mark"};

struct written {
	uint8_t hash[SHA256_SIZE];
	uint64_t number;
};

struct sim_renamed {
	uint64_t random;
	uint64_t number;
	bool made[SIM_NODES_MAX];
	unsigned name[SIM_NODES_MAX];
	unsigned writes;
	struct written *written;
	uint64_t seen[SIM_NODES_MAX][SIM_NODES_MAX][PLACES][FILES]; /* by [node] of [writer] */
};

static uint64_t checks, renames;

static unsigned draw(struct sim *s, unsigned below)
{
	uint64_t x = s->renamed->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	s->renamed->random = x;
	return (unsigned)(x >> 32) % below;
}

void sim_renamed_begin(struct sim *s)
{
	s->renamed = calloc(1, sizeof *s->renamed);
	CHECK(s->renamed);
	s->renamed->random = s->seed * 0xbf58476d1ce4e5b9u | 1;
}

void sim_renamed_done(struct sim *s)
{
	free(s->renamed->written);
	free(s->renamed);
	s->renamed = NULL;
}

bool sim_renamed_happened(void)
{
	return checks > 0 && renames > 0;
}

static uint64_t dir_ino(struct sim *s, unsigned n, const char *key, bool make)
{
	struct cache *c = s->node[n].cache;
	struct inode parent, inode;
	int r = tree_resolve(c, slice_of(key), &inode);

	if (r == -ENOENT && make) {
		r = tree_resolve(c, key_parent(slice_of(key)), &parent);
		if (r == 0)
			r = tree_create(c, parent.ino, key_name(slice_of(key)), S_IFDIR | 0755, 0,
				0, NULL, &inode);
	}
	if (r < 0)
		sim_fail(s, "n%u: its own directory %s: %d", n, key, r);
	return inode.ino;
}

static void place_key(char key[32], unsigned n, unsigned name, unsigned place)
{
	snprintf(key, 32, "%c%u%s", 'i' + (int)name, n, places[place]);
}

static void note(struct sim *s, const char *content, size_t len, uint64_t number)
{
	struct sim_renamed *m = s->renamed;

	m->written = realloc(m->written, (m->writes + 1) * sizeof *m->written);
	CHECK(m->written);
	sha256(content, len, m->written[m->writes].hash);
	m->written[m->writes++].number = number;
}

static void write_to(
	struct sim *s, unsigned n, uint64_t dir, const char *name, const char *content, size_t len)
{
	struct cache *c = s->node[n].cache;
	struct inode inode;
	struct file *file;
	int r = tree_create_open(c, dir, slice_of(name), S_IFREG | 0644, 0, 0, true, &inode, &file);

	if (r == -EEXIST && tree_lookup(c, dir, slice_of(name), &inode) == 0)
		r = file_open(c, inode.ino, true, true, &file);
	if (r < 0 || file_write(file, content, len, 0, false) != (ssize_t)len ||
		file_flush(file) < 0)
		sim_fail(s, "n%u: write its own %s: %d", n, name, r);
	file_release(file);
}

static void put(struct sim *s, unsigned n, unsigned place, unsigned which, uint64_t number)
{
	char content[400], key[32], spare[32];
	size_t len = (size_t)snprintf(content, sizeof content, "n%u %s %s %" PRIu64 " ", n,
		places[place], files[which], number);
	bool large = draw(s, 100) < 25 && !s->mortal, aside = draw(s, 3) == 0;
	uint64_t dir, other;

	while (large && len < 300)
		content[len++] = '.';
	note(s, content, len, number);
	place_key(key, n, s->renamed->name[n], 0);
	dir_ino(s, n, key, true);
	place_key(key, n, s->renamed->name[n], place);
	dir = dir_ino(s, n, key, true);
	sim_trace(s, "n%u renamed write %s/%s %" PRIu64 "%s%s", n, key, files[which], number,
		large ? " large" : "", aside ? " aside" : "");
	if (!aside) {
		write_to(s, n, dir, files[which], content, len);
		return;
	}
	snprintf(spare, sizeof spare, "l%u", n);
	other = dir_ino(s, n, spare, true);
	write_to(s, n, other, "tmp", content, len);
	int r = tree_rename(
		s->node[n].cache, other, slice_of("tmp"), dir, slice_of(files[which]), 0);
	if (r < 0)
		sim_fail(s, "n%u: rename to %s/%s: %d", n, key, files[which], r);
}

static void rename_dir(struct sim *s, unsigned n)
{
	unsigned to = (s->renamed->name[n] + 1 + draw(s, NAMES - 1)) % NAMES;
	char from_key[32], to_key[32];

	place_key(from_key, n, s->renamed->name[n], 0);
	place_key(to_key, n, to, 0);
	int r = tree_rename(
		s->node[n].cache, ROOT_INO, slice_of(from_key), ROOT_INO, slice_of(to_key), 0);
	sim_trace(s, "n%u renamed %s to %s: %d", n, from_key, to_key, r);
	if (r < 0)
		sim_fail(s, "n%u: rename %s to %s: %d", n, from_key, to_key, r);
	s->renamed->name[n] = to;
	renames++;
}

static void write_pair(struct sim *s, unsigned n)
{
	unsigned place = draw(s, PLACES);
	uint64_t number = ++s->renamed->number;

	put(s, n, place, DATA, number);
	if (draw(s, 4) == 0)
		rename_dir(s, n);
	put(s, n, place, MARK, number);
}

void sim_renamed_event(struct sim *s, unsigned n)
{
	/* As in sim_marker.c. */
	if (s->foreign)
		return;
	if (!s->renamed->made[n] || draw(s, 2) == 0)
		write_pair(s, n);
	else
		rename_dir(s, n);
	s->renamed->made[n] = true;
}

/* ---- what others see ---- */

static uint64_t seen(struct sim *s, struct conn *conn, const char *key)
{
	const struct sim_renamed *m = s->renamed;
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

static void check_place(
	struct sim *s, struct conn *conn, unsigned n, unsigned writer, unsigned place)
{
	uint64_t *before = s->renamed->seen[n][writer][place], now[FILES] = {0};
	char dir[32], key[48];

	for (unsigned name = 0; name < NAMES; name++) {
		uint64_t number[FILES];

		place_key(dir, writer, name, place);
		for (unsigned i = 0; i < FILES; i++) {
			snprintf(key, sizeof key, "%s/%s", dir, files[i]);
			number[i] = seen(s, conn, key);
			if (number[i] > now[i])
				now[i] = number[i];
			checks += number[i] > 0;
		}
		if (number[MARK] > number[DATA])
			sim_fail(s, "n%u sees mark %" PRIu64 " in %s, but data %" PRIu64, n,
				number[MARK], dir, number[DATA]);
	}
	for (unsigned i = 0; i < FILES; i++) {
		if (now[i] < before[i])
			sim_fail(s, "n%u sees %s of n%u%s in state %" PRIu64 ", after %" PRIu64, n,
				files[i], writer, places[place], now[i], before[i]);
		before[i] = now[i];
	}
}

void sim_renamed_check(struct sim *s, unsigned n)
{
	struct conn *conn;

	if (!sim_marker_ordered(s, n))
		return;
	CHECK(cache_read_begin(s->node[n].cache, &conn) == 0);
	for (unsigned writer = 0; writer < s->nodes; writer++)
		for (unsigned place = 0; writer != n && place < PLACES; place++)
			check_place(s, conn, n, writer, place);
	cache_read_end(conn);
}
